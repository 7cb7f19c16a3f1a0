//! What was said on the command line.

use std::ffi::OsString;
use std::path::PathBuf;

use super::Result;

const USAGE: &str = "[--quick] [--filter TEXT] [--repetitions N] [--dir DIR] [--before COMMAND] [--save-baseline NAME] \
    [--baseline NAME] [ARCHIVE|OCI-DIRECTORY...]";

pub(crate) struct Options {
    /// Images instead of the generated ones.
    pub(crate) sources: Vec<PathBuf>,
    /// Only images with this in their names.
    filter: String,
    /// Where runs have their directories; a temporary directory if nothing is said.
    pub(crate) place: Option<PathBuf>,
    /// Run before each run, to make the file system anew.
    pub(crate) before: Option<String>,
    pub(crate) repetitions: usize,
    /// Keep the figures under this name.
    pub(crate) save_baseline: Option<String>,
    /// Compare with the figures of this name.
    pub(crate) baseline: Option<String>,
    /// Tiny images, once.
    pub(crate) quick: bool,
}

impl Options {
    pub(crate) fn parse(words: impl Iterator<Item = OsString>) -> Result<Self> {
        let words: Vec<OsString> = words.collect();
        // Cargo says --bench when benches are to be measured. If not, they are only tried, as a test.
        let quick = !words.iter().any(|word| word == "--bench") || words.iter().any(|word| word == "--quick");
        let mut options = Self {
            sources: Vec::new(),
            filter: String::new(),
            place: None,
            before: None,
            repetitions: if quick { 1 } else { 5 },
            save_baseline: None,
            baseline: None,
            quick,
        };
        let mut words = words.into_iter();
        while let Some(word) = words.next() {
            let mut value = || words.next().ok_or_else(|| format!("{word:?} needs a value"));
            match word.to_str() {
                Some("--bench" | "--quick") => {}
                Some("--filter") => options.filter = value()?.to_string_lossy().into_owned(),
                Some("--dir") => options.place = Some(value()?.into()),
                Some("--before") => options.before = Some(value()?.to_string_lossy().into_owned()),
                Some("--save-baseline") => {
                    options.save_baseline = Some(value()?.to_string_lossy().into_owned());
                }
                Some("--baseline") => options.baseline = Some(value()?.to_string_lossy().into_owned()),
                Some("--repetitions") => options.repetitions = value()?.to_string_lossy().parse()?,
                Some(option) if option.starts_with('-') => {
                    return Err(format!("unknown option {option}; usage: {USAGE}").into());
                }
                _ => options.sources.push(word.into()),
            }
        }
        match options.repetitions {
            0 => Err("no repetitions give no figures".into()),
            _ => Ok(options),
        }
    }

    pub(crate) fn selects(&self, name: &str) -> bool {
        name.contains(&self.filter)
    }
}
