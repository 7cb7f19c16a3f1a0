//! Directories by paths of the caller's, resolved as any program would: where handles begin.

use std::path::{Path, PathBuf};

use rustix::fs::{self as sys, Mode, OFlags};
use rustix::io::Errno;

use super::{Dir, OPEN_DIR, proc_path};
use crate::fs::error::{Context, Result};

/// The mode of directories that are missing above the one that is asked for.
const ABOVE: u32 = 0o755;

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

    /// Opens a directory by a path of the caller's. Creates it first, and every missing directory above it, with mode
    /// 0755 whatever the umask.
    ///
    /// # Errors
    ///
    /// [`Error`](crate::fs::Error) if that cannot be done.
    pub fn ensure_ambient(path: impl AsRef<Path>) -> Result<Self> {
        Self::ensure_ambient_with(path, ABOVE)
    }

    /// Does the same as [`Dir::ensure_ambient`], but creates the directory itself with exactly this `mode`.
    ///
    /// # Errors
    ///
    /// As [`Dir::ensure_ambient`].
    pub fn ensure_ambient_with(path: impl AsRef<Path>, mode: u32) -> Result<Self> {
        let path = path.as_ref();
        match Self::open_ambient(path) {
            Err(error) if error.is_not_found() => {}
            found => return found,
        }
        // A dot at the end would ask for a directory inside.
        let path: PathBuf = path.components().collect();
        let mut missing = vec![&*path];
        for above in path.ancestors().skip(1).filter(|above| !above.as_os_str().is_empty()) {
            match sys::stat(above) {
                Err(Errno::NOENT) => missing.push(above),
                _ => break,
            }
        }
        for above in missing.drain(1..).rev() {
            make(above, ABOVE)?;
        }
        make(&path, mode)?;
        Self::open_ambient(&path)
    }

    /// Does the same as [`Dir::ensure_ambient_with`], and the names of the directories that it creates are on disk then.
    ///
    /// # Errors
    ///
    /// As [`Dir::ensure_ambient`]; [`Error`](crate::fs::Error) if the disk fails.
    pub fn ensure_ambient_synced(path: impl AsRef<Path>, mode: u32) -> Result<Self> {
        let path = path.as_ref();
        let missing: Vec<&Path> = path
            .ancestors()
            .filter(|above| !above.as_os_str().is_empty())
            .take_while(|above| std::fs::symlink_metadata(above).is_err())
            .collect();
        let dir = Self::ensure_ambient_with(path, mode)?;
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

/// Creates a directory with exactly this `mode`, unless another process has created it meanwhile.
fn make(path: &Path, mode: u32) -> Result<()> {
    match sys::mkdir(path, Mode::from_raw_mode(mode)) {
        Err(Errno::EXIST) => return Ok(()),
        made => made.at("create directory", path)?,
    }
    // Through a handle that needs no right to read the directory, which the umask may have taken away.
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let made = sys::open(path, flags, Mode::empty()).at("open", path)?;
    let found = sys::fstat(&made).at("stat", path)?.st_mode & 0o777;
    match found == mode {
        true => Ok(()),
        false => sys::chmod(proc_path(&made), Mode::from_raw_mode(mode)).at("chmod", path),
    }
}
