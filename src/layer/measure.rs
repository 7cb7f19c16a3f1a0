//! [`Measure`]: how large a tree is, cheap to count and to compare.
//!
//! A file system that lost its last writes often keeps names and loses content, or loses both. So each record says how many
//! names its tree has and how long the files under them are, together; a walk that reads no file finds out whether that
//! still holds.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;

use serde::{Deserialize, Serialize};

use crate::fs::{Dir, Kind, Result};
use crate::path::LayerPath;

/// The size of a tree.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Measure {
    /// Names in it, marks for deleted names included; the root has none.
    pub names: u64,
    /// Lengths of the regular files, added up. A file with two names counts twice.
    pub bytes: u64,
}

impl Measure {
    /// Counts what is in `tree`.
    ///
    /// # Errors
    ///
    /// [`Error`](crate::fs::Error) if something cannot be looked at.
    pub fn of(tree: &Dir) -> Result<Self> {
        let mut measure = Self::default();
        let mut open = vec![LayerPath::ROOT];
        while let Some(path) = open.pop() {
            let dir = tree.open_dir(path.as_path())?;
            for entry in dir.names()? {
                measure.names += 1;
                let stat = match entry.kind {
                    Some(Kind::File) | None => Some(dir.stat(OsStr::from_bytes(&entry.name))?),
                    Some(_) => None,
                };
                match stat.as_ref().map(|stat| stat.kind).or(entry.kind) {
                    Some(Kind::Directory) => open.push(path.join(&entry.name)),
                    Some(Kind::File) => {
                        measure.bytes = measure.bytes.saturating_add(stat.map_or(0, |stat| stat.size));
                    }
                    _ => {}
                }
            }
        }
        Ok(measure)
    }
}
