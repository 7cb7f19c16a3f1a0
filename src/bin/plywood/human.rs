//! Numbers, times and bytes as a person reads them, in the words docker uses.
//!
//! Only for tables and messages: what programs read (`--json`) gets whole numbers and full times.

use std::fmt::Write as _;

use plywood::fs::Timestamp;

/// Bytes with three digits and a decimal unit: `117MB`, `1.95kB`.
pub(crate) fn size(bytes: u64) -> String {
    const UNITS: [&str; 7] = ["B", "kB", "MB", "GB", "TB", "PB", "EB"];
    if bytes < 1000 {
        return format!("{bytes}B");
    }
    let mut value = bytes as f64;
    let mut unit = 0;
    // What would be rounded to 1000 belongs to the next unit.
    while value >= 999.5 && unit + 1 < UNITS.len() {
        value /= 1000.0;
        unit += 1;
    }
    let decimals = if value < 9.995 { 2 } else { usize::from(value < 99.95) };
    let number = format!("{value:.decimals$}");
    let number = match number.contains('.') {
        true => number.trim_end_matches('0').trim_end_matches('.'),
        false => &number,
    };
    format!("{number}{}", UNITS[unit])
}

/// What stands in a table for a time that is not known, as with docker.
pub(crate) const NO_TIME: &str = "N/A";

/// Returns how long `then` was before `now`: `3 hours ago`. A time before 1970 is a way to write that there is none: Go's
/// zero time, which many tools put into images, is in the year 1.
pub(crate) fn age(then: Timestamp, now: Timestamp) -> String {
    if then.seconds < 0 {
        return NO_TIME.to_owned();
    }
    let seconds = now.seconds.saturating_sub(then.seconds);
    if seconds < 0 {
        return "in the future".to_owned();
    }
    let (minutes, hours) = (seconds / 60, seconds / 3600);
    let days = hours / 24;
    match () {
        () if seconds < 1 => "just now".to_owned(),
        () if seconds == 1 => "1 second ago".to_owned(),
        () if seconds < 60 => format!("{seconds} seconds ago"),
        () if minutes == 1 => "about a minute ago".to_owned(),
        () if minutes < 60 => format!("{minutes} minutes ago"),
        () if hours == 1 => "about an hour ago".to_owned(),
        () if hours < 48 => format!("{hours} hours ago"),
        () if days < 14 => format!("{days} days ago"),
        () if days < 60 => format!("{} weeks ago", days / 7),
        () if days < 730 => format!("{} months ago", days / 30),
        () => format!("{} years ago", days / 365),
    }
}

/// A time that someone typed: RFC 3339, or seconds since 1970 with or without `@`.
pub(crate) fn parse_time(text: &str) -> Result<Timestamp, String> {
    if let Ok(seconds) = text.strip_prefix('@').unwrap_or(text).parse() {
        return Ok(Timestamp::from_seconds(seconds));
    }
    plywood::image::time::parse(text).map_err(|error| error.to_string())
}

/// The twelve digits of an id by which people know it.
pub(crate) fn short(id: &str) -> &str {
    let hex = id.split_once(':').map_or(id, |(_, hex)| hex);
    hex.get(..12).unwrap_or(hex)
}

/// `text` on one line of a terminal: whatever would move the cursor or change colours is written as an escape.
pub(crate) fn printable(text: &str) -> String {
    let mut line = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '\n' => line.push_str("\\n"),
            '\t' => line.push_str("\\t"),
            '\r' => line.push_str("\\r"),
            // Marks that change the direction of writing can show one name as another.
            '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' => {
                line.extend(c.escape_unicode());
            }
            c if c.is_control() => line.extend(c.escape_default()),
            c => line.push(c),
        }
    }
    line
}

/// Bytes of a path on one line of a terminal; those that are no UTF-8 as `\xff`.
pub(crate) fn printable_bytes(bytes: &[u8]) -> String {
    let mut line = String::with_capacity(bytes.len());
    for chunk in bytes.utf8_chunks() {
        line.push_str(&printable(chunk.valid()));
        for byte in chunk.invalid() {
            // Writing to a String cannot fail.
            write!(line, "\\x{byte:02x}").unwrap_or_default();
        }
    }
    line
}

/// `text`, or its beginning with an ellipsis if it is longer than `width` characters.
pub(crate) fn abridged(text: &str, width: usize) -> String {
    match text.char_indices().nth(width) {
        None => text.to_owned(),
        Some(_) => text.chars().take(width.saturating_sub(1)).chain(['…']).collect(),
    }
}

/// `1 layer`, `2 layers`.
pub(crate) fn count(number: u64, thing: &str) -> String {
    format!("{number} {thing}{}", if number == 1 { "" } else { "s" })
}

/// Of `known`, the one that `typed` was probably meant to be.
pub(crate) fn similar<'k>(typed: &str, known: impl IntoIterator<Item = &'k str>) -> Option<&'k str> {
    let allowed = match typed.chars().count() {
        0..=2 => 0,
        3..=5 => 1,
        6..=9 => 2,
        _ => 3,
    };
    let scored = known.into_iter().map(|name| (distance(typed, name), name));
    scored
        .filter(|&(distance, _)| distance <= allowed)
        .min_by_key(|&(distance, _)| distance)
        .map(|(_, name)| name)
}

/// Of the names of images in `known`, the one that `typed` was probably meant to be: one that looks like it, or else one
/// of the same repository, whatever the tag, the registry or who it belongs to.
pub(crate) fn similar_image<'k>(typed: &str, known: &'k [String]) -> Option<&'k str> {
    let split = |name: &'_ str| match name.rsplit_once(':') {
        Some((repository, tag)) if !tag.contains('/') => (repository.to_owned(), tag.to_owned()),
        _ => (name.to_owned(), String::new()),
    };
    let last = |repository: &str| repository.rsplit('/').next().unwrap_or_default().to_owned();
    let (repository, tag) = split(typed);
    let of = |test: &dyn Fn(&str, &str) -> bool| {
        known.iter().find(|name| {
            let (repository, tag) = split(name);
            test(&repository, &tag)
        })
    };
    let repositories = known.iter().map(|name| split(name).0).collect::<Vec<_>>();
    let typo = similar(&repository, repositories.iter().map(String::as_str));
    let found = of(&|its, tagged| its == repository && similar(&tag, [tagged]).is_some())
        .or_else(|| of(&|its, tagged| Some(its) == typo && tagged == tag))
        .or_else(|| of(&|its, tagged| last(its) == last(&repository) && tagged == tag))
        .or_else(|| of(&|its, _| its == repository))
        .or_else(|| of(&|its, _| last(its) == last(&repository)))
        .or_else(|| of(&|its, _| Some(its) == typo));
    found.map(String::as_str)
}

/// What there is of several kinds of things, without those that there are none of: `2 blobs and 1 layer`.
fn counts(kinds: &[(u64, &str)]) -> Option<String> {
    let kinds: Vec<String> =
        kinds.iter().filter(|(number, _)| *number > 0).map(|(number, kind)| count(*number, kind)).collect();
    let (last, others) = kinds.split_last()?;
    Some(if others.is_empty() { last.clone() } else { format!("{} and {last}", others.join(", ")) })
}

/// What was removed, in one line.
pub(crate) fn removed(kinds: &[(u64, &str)], bytes: u64, dry_run: bool) -> String {
    match (counts(kinds), dry_run) {
        (Some(things), false) => format!("removed {things}: {}", size(bytes)),
        (Some(things), true) => format!("would remove {things}: {}", size(bytes)),
        (None, _) => "nothing to remove".to_owned(),
    }
}

/// How many letters must be put in, taken out, replaced, or swapped with the next one.
fn distance(one: &str, other: &str) -> usize {
    let (one, other): (Vec<char>, Vec<char>) = (one.chars().collect(), other.chars().collect());
    let mut rows = vec![(0..=other.len()).collect::<Vec<usize>>()];
    for i in 1..=one.len() {
        let mut row = vec![i];
        for j in 1..=other.len() {
            let replaced = rows[i - 1][j - 1] + usize::from(one[i - 1] != other[j - 1]);
            let mut least = replaced.min(rows[i - 1][j] + 1).min(row[j - 1] + 1);
            if i > 1 && j > 1 && one[i - 1] == other[j - 2] && one[i - 2] == other[j - 1] {
                least = least.min(rows[i - 2][j - 2] + 1);
            }
            row.push(least);
        }
        rows.push(row);
    }
    rows[one.len()][other.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_seconds(seconds)
    }

    #[test]
    fn sizes_have_three_digits_and_never_a_thousand_of_a_unit() {
        for (bytes, text) in [
            (0, "0B"),
            (999, "999B"),
            (1000, "1kB"),
            (1954, "1.95kB"),
            (9_996, "10kB"),
            (117_000_000, "117MB"),
            (99_960_000, "100MB"),
            (999_500, "1MB"),
            (999_499, "999kB"),
            (1_230_000_000_000, "1.23TB"),
            (u64::MAX, "18.4EB"),
        ] {
            assert_eq!(size(bytes), text);
        }
    }

    #[test]
    fn ages_read_as_docker_says_them() {
        for (seconds, text) in [
            (-1, "in the future"),
            (0, "just now"),
            (59, "59 seconds ago"),
            (60, "about a minute ago"),
            (3599, "59 minutes ago"),
            (3600, "about an hour ago"),
            (3 * 3600, "3 hours ago"),
            (47 * 3600, "47 hours ago"),
            (48 * 3600, "2 days ago"),
            (14 * 86_400, "2 weeks ago"),
            (60 * 86_400, "2 months ago"),
            (730 * 86_400, "2 years ago"),
        ] {
            assert_eq!(age(at(0), at(seconds)), text);
        }
        for zero in ["0001-01-01T00:00:00Z", "0000-01-01T00:00:00Z", "0001-01-01T01:00:00+01:00"] {
            assert_eq!(age(parse_time(zero).unwrap(), at(1_700_000_000)), "N/A", "{zero}");
        }
    }

    #[test]
    fn times_are_typed_in_either_way() {
        assert_eq!(parse_time("1700000000"), Ok(at(1_700_000_000)));
        assert_eq!(parse_time("@-1"), Ok(at(-1)));
        assert_eq!(parse_time("1970-01-01T01:00:00+01:00"), Ok(at(0)));
        assert!(parse_time("yesterday").is_err());
    }

    #[test]
    fn nothing_printed_moves_the_cursor() {
        assert_eq!(printable("a\nb\x1b[2Jc\u{202e}d"), "a\\nb\\u{1b}[2Jc\\u{202e}d");
        assert_eq!(printable_bytes(b"/caf\xe9\xff/\xc3\xa9"), "/caf\\xe9\\xff/é");
    }

    #[test]
    fn a_slip_of_the_finger_finds_its_name() {
        let known = ["debian:12", "web:1", "localhost:5000/app:latest"];
        assert_eq!(similar("debain:12", known), Some("debian:12"));
        assert_eq!(similar("debian:13", known), Some("debian:12"));
        assert_eq!(similar("wbe:1", known), Some("web:1"));
        assert_eq!(similar("fedora:40", known), None);
        assert_eq!(similar("x", ["y"]), None);
    }
}
