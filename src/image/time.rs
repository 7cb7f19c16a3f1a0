//! Points in time as image documents write them: [RFC 3339](https://www.rfc-editor.org/rfc/rfc3339).
//!
//! Pure conversion between text and [`Timestamp`]; the library reads no clock. What is written is UTC with as
//! many digits of a second as are not zero, as Go does, so that equal times have equal texts.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::fs::Timestamp;

const SECONDS_PER_DAY: i64 = 86_400;

/// A text that is no point in time, or a point in time that has no text.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TimeError {
    /// Not RFC 3339.
    #[error("{text:?} is not a time like 2006-01-02T15:04:05Z: {reason}")]
    NotATime {
        /// What was read.
        text: String,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// The format has four digits for the year, from 0000 to 9999.
    #[error("{seconds} s from 1970 is outside the years 0000 to 9999")]
    OutOfRange {
        /// Seconds since 1970.
        seconds: i64,
    },
}

/// Writes `time` as `2006-01-02T15:04:05.999999999Z`, without trailing zeros in the fraction.
///
/// # Errors
///
/// [`TimeError::OutOfRange`] outside the years 0000 to 9999.
///
/// ```
/// use plywood::fs::Timestamp;
/// use plywood::image::time;
///
/// assert_eq!(time::format(Timestamp::from_seconds(0)).unwrap(), "1970-01-01T00:00:00Z");
/// ```
pub fn format(time: Timestamp) -> Result<String, TimeError> {
    let Timestamp { seconds, nanos } = time;
    let (year, month, day) = date_of(seconds.div_euclid(SECONDS_PER_DAY));
    if !(0..=9999).contains(&year) {
        return Err(TimeError::OutOfRange { seconds });
    }
    let of_day = seconds.rem_euclid(SECONDS_PER_DAY);
    let (hour, minute, second) = (of_day / 3600, of_day / 60 % 60, of_day % 60);
    let fraction = format!(".{nanos:09}");
    let fraction = fraction.trim_end_matches('0').trim_end_matches('.');
    Ok(format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}{fraction}Z"))
}

/// Reads a time in any zone. A leap second (`:60`) is the first of the next minute, digits below a nanosecond
/// are dropped.
///
/// # Errors
///
/// [`TimeError::NotATime`] if the text is not RFC 3339 or names a day that does not exist.
pub fn parse(text: &str) -> Result<Timestamp, TimeError> {
    let fault = |reason| TimeError::NotATime { text: text.chars().take(64).collect(), reason };
    let bytes = text.as_bytes();
    let number = |from: usize, to: usize| -> Option<i64> {
        let digits = bytes.get(from..to)?;
        digits.iter().try_fold(0, |sum, c| c.is_ascii_digit().then(|| sum * 10 + i64::from(c - b'0')))
    };
    let field = |from, to| number(from, to).ok_or_else(|| fault("a number is missing"));
    let sign = |at: usize, wanted: &[u8]| match bytes.get(at) {
        Some(c) if wanted.contains(c) => Ok(()),
        _ => Err(fault("a separator is missing")),
    };

    let (year, month, day) = (field(0, 4)?, field(5, 7)?, field(8, 10)?);
    let (hour, minute, second) = (field(11, 13)?, field(14, 16)?, field(17, 19)?);
    for (at, wanted) in [(4, "-"), (7, "-"), (10, "Tt "), (13, ":"), (16, ":")] {
        sign(at, wanted.as_bytes())?;
    }
    if !(1..=12).contains(&month) || !(1..=days_in(year, month)).contains(&day) {
        return Err(fault("there is no such day"));
    }
    if hour > 23 || minute > 59 || second > 60 {
        return Err(fault("there is no such time of day"));
    }

    let mut at = 19;
    let mut nanos = 0;
    if bytes.get(at) == Some(&b'.') {
        let digits = bytes[at + 1..].iter().take_while(|c| c.is_ascii_digit()).count();
        if digits == 0 {
            return Err(fault("a number is missing"));
        }
        for place in 0..9 {
            let digit = if place < digits { bytes[at + 1 + place] - b'0' } else { 0 };
            nanos = nanos * 10 + u32::from(digit);
        }
        at += 1 + digits;
    }
    let offset = match &bytes[at..] {
        b"Z" | b"z" => 0,
        [east @ (b'+' | b'-'), _, _, b':', _, _] => {
            let (hours, minutes) = (field(at + 1, at + 3)?, field(at + 4, at + 6)?);
            if hours > 23 || minutes > 59 {
                return Err(fault("there is no such time zone"));
            }
            (hours * 3600 + minutes * 60) * if *east == b'+' { 1 } else { -1 }
        }
        _ => return Err(fault("the time zone is missing")),
    };
    let seconds = days_before(year, month) + day - 1;
    let seconds = seconds * SECONDS_PER_DAY + hour * 3600 + minute * 60 + second - offset;
    Ok(Timestamp { seconds, nanos })
}

/// The same point in time as the system's type has it, exact to the nanosecond on Linux.
pub fn from_system(time: SystemTime) -> Timestamp {
    let split = |d: Duration| (i64::try_from(d.as_secs()).unwrap_or(i64::MAX), d.subsec_nanos());
    match time.duration_since(UNIX_EPOCH) {
        Ok(after) => {
            let (seconds, nanos) = split(after);
            Timestamp { seconds, nanos }
        }
        Err(before) => match split(before.duration()) {
            (seconds, 0) => Timestamp { seconds: -seconds, nanos: 0 },
            (seconds, nanos) => Timestamp { seconds: -seconds - 1, nanos: 1_000_000_000 - nanos },
        },
    }
}

fn is_leap(year: i64) -> bool {
    year % 4 == 0 && (year % 100 != 0 || year % 400 == 0)
}

fn days_in(year: i64, month: i64) -> i64 {
    match month {
        2 if is_leap(year) => 29,
        2 => 28,
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    }
}

/// Days from 1970-01-01 to the first of a month, in the Gregorian calendar extended backwards.
fn days_before(year: i64, month: i64) -> i64 {
    let past = year - 1;
    let leap_days = past.div_euclid(4) - past.div_euclid(100) + past.div_euclid(400);
    let days = past * 365 + leap_days + (1..month).map(|month| days_in(year, month)).sum::<i64>();
    days - 719_162 // 0001-01-01 to 1970-01-01
}

/// Year, month and day of a number of days since 1970-01-01.
fn date_of(days: i64) -> (i64, i64, i64) {
    // The mean year has 365.2425 days; the guess is off by one at most.
    let mut year = 1970 + (i128::from(days) * 10_000).div_euclid(3_652_425) as i64;
    while days_before(year, 1) > days {
        year -= 1;
    }
    while days_before(year + 1, 1) <= days {
        year += 1;
    }
    let mut month = 1;
    while month < 12 && days_before(year, month + 1) <= days {
        month += 1;
    }
    (year, month, days - days_before(year, month) + 1)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn at(seconds: i64, nanos: u32) -> Timestamp {
        Timestamp { seconds, nanos }
    }

    #[test]
    fn known_moments_read_and_write_alike() {
        for (time, text) in [
            (at(0, 0), "1970-01-01T00:00:00Z"),
            (at(-1, 0), "1969-12-31T23:59:59Z"),
            (at(-1, 500_000_000), "1969-12-31T23:59:59.5Z"),
            (at(951_782_400, 0), "2000-02-29T00:00:00Z"),
            (at(951_868_800, 1), "2000-03-01T00:00:00.000000001Z"),
            (at(1_709_164_800, 0), "2024-02-29T00:00:00Z"),
            (at(4_107_542_400, 0), "2100-03-01T00:00:00Z"),
            (at(-2_203_891_200, 0), "1900-03-01T00:00:00Z"),
            (at(-2_203_977_600, 0), "1900-02-28T00:00:00Z"),
            (at(-62_135_596_800, 0), "0001-01-01T00:00:00Z"),
            (at(-62_167_219_200, 0), "0000-01-01T00:00:00Z"),
            (at(253_402_300_799, 999_999_999), "9999-12-31T23:59:59.999999999Z"),
            (at(1_136_239_445, 120_000_000), "2006-01-02T22:04:05.12Z"),
        ] {
            assert_eq!(format(time).as_deref(), Ok(text));
            assert_eq!(parse(text), Ok(time), "{text}");
        }
    }

    #[test]
    fn zones_leap_seconds_and_long_fractions_are_read() {
        assert_eq!(parse("2006-01-02T15:04:05-07:00"), Ok(at(1_136_239_445, 0)));
        assert_eq!(parse("2006-01-03T03:34:05+05:30"), Ok(at(1_136_239_445, 0)));
        assert_eq!(parse("2016-12-31T23:59:60Z"), parse("2017-01-01T00:00:00Z"));
        assert_eq!(parse("1970-01-01t00:00:00.1234567899z"), Ok(at(0, 123_456_789)));
    }

    #[test]
    fn what_is_no_time_is_refused() {
        for text in [
            "",
            "1970-01-01",
            "1970-01-01T00:00:00",
            "1970-01-01T00:00:00+0100",
            "1970-01-01T00:00:00+24:00",
            "1970-01-01T00:00:00.Z",
            "1970-01-01T24:00:00Z",
            "1970-13-01T00:00:00Z",
            "1970-02-29T00:00:00Z",
            "1900-02-29T00:00:00Z",
            "1970-00-01T00:00:00Z",
            "1970-01-00T00:00:00Z",
            "1970/01/01T00:00:00Z",
            "1970-01-01T00:00:00Zz",
            "197O-01-01T00:00:00Z",
            "1970-01-01T00:00:0éZ",
            "-970-01-01T00:00:00Z",
        ] {
            assert!(parse(text).is_err(), "{text:?}");
        }
    }

    #[test]
    fn years_without_a_text_are_an_error_and_no_panic() {
        for seconds in [i64::MIN, i64::MAX, 253_402_300_800, -62_167_219_201] {
            assert_eq!(format(at(seconds, 0)), Err(TimeError::OutOfRange { seconds }));
        }
    }

    #[test]
    fn the_system_time_is_taken_exactly_before_1970_too() {
        assert_eq!(from_system(UNIX_EPOCH + Duration::new(5, 7)), at(5, 7));
        assert_eq!(from_system(UNIX_EPOCH - Duration::new(5, 7)), at(-6, 999_999_993));
        assert_eq!(from_system(UNIX_EPOCH - Duration::new(5, 0)), at(-5, 0));
    }

    proptest! {
        #[test]
        fn every_moment_that_has_a_text_reads_back(
            seconds in -62_167_219_200i64..=253_402_300_799, nanos in 0u32..1_000_000_000,
        ) {
            let time = at(seconds, nanos);
            prop_assert_eq!(parse(&format(time).unwrap()), Ok(time));
        }

        #[test]
        fn no_text_makes_it_panic(text in "[0-9TZ:+. -]{0,40}") {
            parse(&text).ok();
        }
    }
}
