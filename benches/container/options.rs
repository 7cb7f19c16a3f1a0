//! What was said on the command line.

use std::ffi::OsString;
use std::path::PathBuf;

use super::Result;

const USAGE: &str = "[--quick] [--split] [--parallel] [--filter TEXT] [--repetitions N] [--dir DIR]";

pub(crate) struct Options {
    /// Only cases with this in their names.
    filter: String,
    /// Where stores are made; a temporary directory if nothing is said.
    pub(crate) place: Option<PathBuf>,
    pub(crate) repetitions: usize,
    /// Each step by itself as well.
    pub(crate) split: bool,
    /// Only what many do at a time.
    pub(crate) parallel: bool,
    /// What one of many processes is told to do.
    pub(crate) one_of_many: Option<Vec<OsString>>,
    /// Tiny stores, once.
    pub(crate) quick: bool,
}

impl Options {
    pub(crate) fn parse(words: impl Iterator<Item = OsString>) -> Result<Self> {
        let words: Vec<OsString> = words.collect();
        // Cargo says --bench when benches are to be measured. If not, they are only tried, as a test.
        let quick = !words.iter().any(|word| word == "--bench") || words.iter().any(|word| word == "--quick");
        let repetitions = if quick { 1 } else { 101 };
        let (filter, place, split, parallel, one_of_many) = (String::new(), None, false, false, None);
        let mut options = Self { filter, place, repetitions, split, parallel, one_of_many, quick };
        if let [first, rest @ ..] = &words[..]
            && first == "--one-of-many"
        {
            options.one_of_many = Some(rest.to_vec());
            return Ok(options);
        }
        let mut words = words.into_iter();
        while let Some(word) = words.next() {
            let mut value = || words.next().ok_or_else(|| format!("{word:?} needs a value"));
            match word.to_str() {
                Some("--bench" | "--quick") => {}
                Some("--split") => options.split = true,
                Some("--parallel") => options.parallel = true,
                Some("--filter") => options.filter = value()?.to_string_lossy().into_owned(),
                Some("--dir") => options.place = Some(value()?.into()),
                Some("--repetitions") => options.repetitions = value()?.to_string_lossy().parse()?,
                _ => return Err(format!("unknown word {word:?}; usage: {USAGE}").into()),
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
