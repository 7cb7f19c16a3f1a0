//! Directories by paths of the caller's, resolved as any program would: where handles begin.

use std::path::Path;

use rustix::fs::{self as sys, Mode};
use rustix::io::Errno;

use super::{Dir, OPEN_DIR};
use crate::fs::error::{Context, Result};

impl Dir {
    /// Opens a directory by a path of the caller's, resolved as any program would.
    ///
    /// # Errors
    ///
    /// [`Error`](crate::fs::Error) if it does not exist, is no directory or may not be read.
    pub fn open_ambient(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        sys::open(path, OPEN_DIR, Mode::empty()).map(Self).at("open", path)
    }

    /// Creates a directory by a path of the caller's with everything missing above it, or opens the one that is there.
    ///
    /// # Errors
    ///
    /// [`Error`](crate::fs::Error) if that cannot be done.
    pub fn ensure_ambient(path: impl AsRef<Path>) -> Result<Self> {
        match Self::open_ambient(&path) {
            Err(error) if error.is_not_found() => {}
            found => return found,
        }
        std::fs::create_dir_all(&path).at("create directory", &path)?;
        Self::open_ambient(path)
    }

    /// The same, and the names of the directories that it creates are on disk then.
    ///
    /// # Errors
    ///
    /// As [`Dir::ensure_ambient`]; [`Error`](crate::fs::Error) if the disk fails.
    pub fn ensure_ambient_synced(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        let missing: Vec<&Path> = path
            .ancestors()
            .filter(|above| !above.as_os_str().is_empty())
            .take_while(|above| std::fs::symlink_metadata(above).is_err())
            .collect();
        let dir = Self::ensure_ambient(path)?;
        for made in missing {
            let above = made.parent().filter(|above| !above.as_os_str().is_empty());
            match Self::open_ambient(above.unwrap_or(Path::new("."))) {
                // What may be written to and not be read cannot be synced alone.
                Err(error) if error.errno() == Some(Errno::ACCESS) => dir.sync_file_system()?,
                above => above?.sync()?,
            }
        }
        Ok(dir)
    }
}
