//! What was said on the command line.

use std::ffi::OsString;
use std::path::PathBuf;

use super::Result;

const USAGE: &str =
    "[--quick] [--filter TEXT] [--repetitions N] [--images N] [--containers N] [--dir DIR] [--relaxed]";

pub(crate) struct Options {
    /// Only operations with this in their names.
    filter: String,
    /// Where the store is made; a temporary directory if nothing is said.
    pub(crate) place: Option<PathBuf>,
    pub(crate) repetitions: usize,
    pub(crate) images: usize,
    pub(crate) containers: usize,
    /// Waits for no disk.
    pub(crate) relaxed: bool,
}

impl Options {
    pub(crate) fn parse(words: impl Iterator<Item = OsString>) -> Result<Self> {
        let words: Vec<OsString> = words.collect();
        // Cargo says --bench when benches are to be measured. If not, they are only tried, as a test.
        let quick = !words.iter().any(|word| word == "--bench") || words.iter().any(|word| word == "--quick");
        let (repetitions, count) = if quick { (1, 20) } else { (21, 10_000) };
        let filter = String::new();
        let mut options =
            Self { filter, place: None, repetitions, images: count, containers: count, relaxed: false };
        let mut words = words.into_iter();
        while let Some(word) = words.next() {
            let mut value = || words.next().ok_or_else(|| format!("{word:?} needs a value"));
            match word.to_str() {
                Some("--bench" | "--quick") => {}
                Some("--relaxed") => options.relaxed = true,
                Some("--filter") => options.filter = value()?.to_string_lossy().into_owned(),
                Some("--dir") => options.place = Some(value()?.into()),
                Some("--repetitions") => options.repetitions = value()?.to_string_lossy().parse()?,
                Some("--images") => options.images = value()?.to_string_lossy().parse()?,
                Some("--containers") => options.containers = value()?.to_string_lossy().parse()?,
                _ => return Err(format!("unknown word {word:?}; usage: {USAGE}").into()),
            }
        }
        match options.repetitions.min(options.images).min(options.containers) {
            0 => Err("nothing gives no figures".into()),
            _ => Ok(options),
        }
    }

    pub(crate) fn selects(&self, name: &str) -> bool {
        name.contains(&self.filter)
    }
}
