//! What can be said to the commands that prune, and what filters mean.

use std::time::{Duration, SystemTime};

use clap::Args;
use plywood::image::time;
use plywood::{LabelFilter, Timestamp};

use crate::human;

/// Examples, and what a filter may be.
macro_rules! help {
    ($examples:literal $(, $more:literal)?) => {
        concat!(
            $examples,
            "\
A FILTER is one of:
  until=TIME          made before TIME: a duration back from now (30m, 1h30m, 10d), a day or a
                      time (2006-01-02, 2006-01-02T15:04:05Z), or seconds since 1970
  label=KEY[=VALUE]   has this label; of several, all
  label!=KEY[=VALUE]  does not have it; of several, none",
            $($more)?
        )
    };
}

/// Remove images that have no name and that no container uses
///
/// With them goes what nothing else needs, as with `plywood gc`.
#[derive(Args, Debug)]
#[command(after_help = help!("Examples:
  plywood image prune
  plywood image prune -a --filter until=240h --filter 'label!=keep'
\n", "
  dangling=BOOL       false is the same as -a"))]
pub(crate) struct ImagePruneArgs {
    /// Also those that have names
    #[arg(short, long)]
    pub(crate) all: bool,
    #[command(flatten)]
    pub(crate) common: PruneArgs,
}

/// Remove containers that are not in use
///
/// A container is in use while it is mounted, while a process holds it, or, of the copy driver, while a process has its
/// root or working directory in it.
#[derive(Args, Debug)]
#[command(after_help = help!("Example:
  plywood container prune --filter until=24h --filter label=job
\n"))]
pub(crate) struct ContainerPruneArgs {
    #[command(flatten)]
    pub(crate) common: PruneArgs,
}

/// List the steps of builds that the store remembers
///
/// Builders keep here what came of a step, so that they need not do it again. Those that were used last come first.
#[derive(Args, Debug)]
pub(crate) struct StepsArgs {}

/// Forget steps of builds
///
/// With them goes what nothing else needs, as with `plywood gc`. A step counts as made when it was last used, and has no labels.
#[derive(Args, Debug)]
#[command(after_help = help!("Example:
  plywood builder prune --filter until=168h
\n"))]
pub(crate) struct BuilderPruneArgs {
    #[command(flatten)]
    pub(crate) common: PruneArgs,
}

/// Remove containers that are not in use, what is remembered of builds, and then images that have no name and that no
/// container uses
#[derive(Args, Debug)]
#[command(after_help = help!("Example:
  plywood system prune -a -n
\n"))]
pub(crate) struct SystemPruneArgs {
    /// Also images that have names
    #[arg(short, long)]
    pub(crate) all: bool,
    #[command(flatten)]
    pub(crate) common: PruneArgs,
}

/// What all of them take.
#[derive(Args, Debug)]
pub(crate) struct PruneArgs {
    /// Only what this filter lets through; may be given more than once, see below
    #[arg(long = "filter", value_name = "FILTER", value_parser = filter)]
    pub(crate) filters: Vec<Filter>,
    /// Only tell what would be removed
    #[arg(short = 'n', long)]
    pub(crate) dry_run: bool,
    /// Accepted for docker's sake: nothing is asked
    #[arg(short, long, hide = true)]
    pub(crate) force: bool,
}

/// One filter.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Filter {
    Until(Timestamp),
    Label(LabelFilter),
    WithoutLabel(LabelFilter),
    Dangling(bool),
}

fn filter(text: &str) -> Result<Filter, String> {
    let unknown = || format!("{text:?} is no filter, only until=, label=, label!= and dangling= are");
    let (key, value) = text.split_once('=').ok_or_else(unknown)?;
    match key {
        "until" => until(value, time::from_system(SystemTime::now())).map(Filter::Until),
        "label" => label(value).map(Filter::Label),
        "label!" => label(value).map(Filter::WithoutLabel),
        "dangling" => truth(value).map(Filter::Dangling),
        _ => Err(unknown()),
    }
}

pub(super) fn label(text: &str) -> Result<LabelFilter, String> {
    match text.split_once('=').map_or((text, None), |(key, value)| (key, Some(value))) {
        ("", _) => Err("a label needs a key".to_owned()),
        (key, value) => Ok(LabelFilter::new(key, value.map(str::to_owned))),
    }
}

pub(super) fn truth(text: &str) -> Result<bool, String> {
    match text {
        "true" | "1" => Ok(true),
        "false" | "0" => Ok(false),
        _ => Err(format!("{text:?} is neither true nor false")),
    }
}

/// A time, or a duration before `now`.
pub(super) fn until(text: &str, now: Timestamp) -> Result<Timestamp, String> {
    if let Some(back) = duration(text) {
        let then = Duration::new(u64::try_from(now.seconds).unwrap_or(0), now.nanos).checked_sub(back);
        let then = then.ok_or_else(|| format!("{text} ago was before 1970"))?;
        return Ok(Timestamp {
            nanos: then.subsec_nanos(),
            ..Timestamp::from_seconds(then.as_secs() as i64)
        });
    }
    let whole = [text.to_owned(), format!("{text}Z"), format!("{text}T00:00:00Z")];
    whole
        .iter()
        .find_map(|text| human::parse_time(text).ok())
        .ok_or_else(|| format!("{text:?} is neither a time, as 2006-01-02T15:04:05Z, nor a duration, as 24h"))
}

/// `1h30m`: numbers with units, as Go writes durations; days, which it does not know, are 24 hours.
fn duration(text: &str) -> Option<Duration> {
    let mut rest = text;
    let mut sum = Duration::ZERO;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let (number, unit) = rest.split_at(digits);
        let end = unit.find(|c: char| c.is_ascii_digit()).unwrap_or(unit.len());
        let (unit, next) = unit.split_at(end);
        let seconds = match unit {
            "ms" => 0.001,
            "s" => 1.0,
            "m" => 60.0,
            "h" => 3600.0,
            "d" => 86_400.0,
            _ => return None,
        };
        sum = sum.checked_add(Duration::try_from_secs_f64(number.parse::<f64>().ok()? * seconds).ok()?)?;
        rest = next;
    }
    (!text.is_empty()).then_some(sum)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn until_is_a_time_or_so_long_ago() {
        let now = Timestamp::from_seconds(1_000_000_000);
        let seconds = |text: &str| until(text, now).map(|time| time.seconds);
        assert_eq!(seconds("24h"), Ok(1_000_000_000 - 86_400));
        assert_eq!(seconds("1h30m"), Ok(1_000_000_000 - 5_400));
        assert_eq!(seconds("1.5h"), Ok(1_000_000_000 - 5_400));
        assert_eq!(seconds("10d"), Ok(1_000_000_000 - 864_000));
        assert_eq!(seconds("2001-09-09"), Ok(999_993_600));
        assert_eq!(seconds("2001-09-09T01:46:40"), Ok(1_000_000_000));
        assert_eq!(seconds("2001-09-09T03:46:40+02:00"), Ok(1_000_000_000));
        assert_eq!(seconds("1700000000"), Ok(1_700_000_000));
        for wrong in ["", "h", "1x", "yesterday", "1h2", "-1h", "99999999999h"] {
            assert!(seconds(wrong).is_err(), "{wrong}: {:?}", seconds(wrong));
        }
    }

    #[test]
    fn a_filter_says_what_it_asks_for() {
        let label = |key: &str, value: Option<&str>| LabelFilter::new(key, value.map(str::to_owned));
        assert_eq!(filter("label=a"), Ok(Filter::Label(label("a", None))));
        assert_eq!(filter("label=a=b=c"), Ok(Filter::Label(label("a", Some("b=c")))));
        assert_eq!(filter("label!=a"), Ok(Filter::WithoutLabel(label("a", None))));
        assert_eq!(filter("label!=a="), Ok(Filter::WithoutLabel(label("a", Some("")))));
        assert_eq!(filter("dangling=false"), Ok(Filter::Dangling(false)));
        for wrong in ["", "until", "label=", "label!==x", "dangling=maybe", "name=x"] {
            assert!(filter(wrong).is_err(), "{wrong}");
        }
    }
}
