//! Figures of an earlier run, to compare with: `target/baselines/NAME.json`.

use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::Result;

/// What was measured of one image with one number of threads.
#[derive(Clone, Copy, Serialize, Deserialize)]
pub(crate) struct Figures {
    /// Seconds.
    pub(crate) floor: f64,
    pub(crate) relaxed: f64,
    pub(crate) full: f64,
}

/// Figures by image and number of threads.
#[derive(Default, Serialize, Deserialize)]
pub(crate) struct Baseline {
    cases: BTreeMap<String, Figures>,
}

impl Baseline {
    /// Reads what was saved as `name`.
    pub(crate) fn load(name: &str) -> Result<Self> {
        let path = path(name)?;
        let text = std::fs::read(&path).map_err(|error| format!("{}: {error}", path.display()))?;
        Ok(serde_json::from_slice(&text).map_err(|error| format!("{}: {error}", path.display()))?)
    }

    /// Saves these figures as `name`. What was saved under this name of other cases stays.
    pub(crate) fn save(mut self, name: &str) -> Result<PathBuf> {
        let path = path(name)?;
        match std::fs::metadata(&path) {
            Ok(_) => {
                let mut before = Self::load(name)?;
                before.cases.append(&mut self.cases);
                self = before;
            }
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            Err(error) => return Err(error.into()),
        }
        std::fs::create_dir_all(path.parent().unwrap())?;
        std::fs::write(&path, serde_json::to_vec_pretty(&self)?)?;
        Ok(path)
    }

    pub(crate) fn add(&mut self, case: &str, threads: usize, figures: Figures) {
        self.cases.insert(key(case, threads), figures);
    }

    /// How `now` differs from what was saved of the same case. The floor tells how much of that is the machine.
    pub(crate) fn compare(&self, case: &str, threads: usize, now: Figures) -> String {
        let Some(before) = self.cases.get(&key(case, threads)) else {
            return "not in the baseline".to_owned();
        };
        let change = |before: f64, now: f64| format!("{:+.1} %", (now / before - 1.0) * 100.0);
        let ratio = |figures: &Figures| figures.relaxed / figures.floor;
        format!(
            "since the baseline: floor {}, relaxed {}, full {}; ratio {:.2}, was {:.2}",
            change(before.floor, now.floor),
            change(before.relaxed, now.relaxed),
            change(before.full, now.full),
            ratio(&now),
            ratio(before),
        )
    }
}

fn key(case: &str, threads: usize) -> String {
    format!("{case}, {threads} threads")
}

fn path(name: &str) -> Result<PathBuf> {
    if name.is_empty() || name.starts_with('.') || name.contains('/') {
        return Err(format!("{name:?} is no name for a baseline").into());
    }
    let target = Path::new(env!("CARGO_TARGET_TMPDIR")).parent().unwrap();
    Ok(target.join("baselines").join(format!("{name}.json")))
}
