//! One failed step on the file system: what was tried, on which path, and what the kernel said.

use std::io;
use std::path::{Path, PathBuf};

use rustix::io::Errno;

use crate::path::{LONGEST_PATH, LayerPath};

/// The file system refused one step. The path is as complete as it was known when the step failed.
#[derive(Debug, thiserror::Error)]
#[error("cannot {step} {path:?}")]
pub struct Error {
    /// What was tried, as a verb: `open`, `rename`, `read`.
    pub step: &'static str,
    /// The object it was tried on.
    pub path: PathBuf,
    /// The reason that the kernel gave.
    pub source: io::Error,
}

/// The kernel said that there is no space, and there is; but a file needs an inode, too.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("no inode left on the file system, which has space (os error 28)")]
pub struct NoInodes;

impl From<NoInodes> for io::Error {
    fn from(error: NoInodes) -> Self {
        Self::new(io::ErrorKind::StorageFull, error)
    }
}

/// The kernel said that there is no space for an attribute, and there is. The file system has a bound on the attributes of
/// one file (one block on ext4), and this attribute goes beyond it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("the file system has space, but cannot hold so much in the attributes of one file")]
pub struct AttributeTooLarge;

impl From<AttributeTooLarge> for io::Error {
    fn from(error: AttributeTooLarge) -> Self {
        Self::new(io::ErrorKind::InvalidInput, error)
    }
}

/// A regular file was wanted, and something else is there.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("it is not a regular file")]
pub struct NotRegular;

impl From<NotRegular> for io::Error {
    fn from(error: NotRegular) -> Self {
        Self::other(error)
    }
}

/// What file system steps return.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// A path that no system call takes as a whole, and that no layer, archive or record of ours holds.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error(
    "its path has {bytes} bytes, and at most {LONGEST_PATH} can be stored; move it further up, or leave it out"
)]
pub struct PathTooLong {
    /// Length of the path in bytes.
    pub bytes: usize,
}

impl PathTooLong {
    /// Refuses `name` in the directory `path` if that makes too long a path.
    ///
    /// # Errors
    ///
    /// [`Error`] that names the two ends of the path.
    pub(crate) fn check(path: &LayerPath, name: &[u8]) -> Result<()> {
        let bytes = path.as_bytes().len() + 1 + name.len();
        if bytes <= LONGEST_PATH {
            return Ok(());
        }
        let whole = [path.as_bytes(), b"/", name].concat();
        let [begin, end] = [&whole[..SHOWN], &whole[bytes - SHOWN..]].map(String::from_utf8_lossy);
        Err(Error::new("read", format!("/{begin}…{end}"), Self { bytes }))
    }
}

/// Bytes of each end of a long path that are shown.
const SHOWN: usize = 64;

impl From<PathTooLong> for io::Error {
    fn from(error: PathTooLong) -> Self {
        Self::new(io::ErrorKind::InvalidFilename, error)
    }
}

impl Error {
    /// A failed `step` on `path`.
    pub fn new(step: &'static str, path: impl AsRef<Path>, source: impl Into<io::Error>) -> Self {
        Self { step, path: path.as_ref().to_owned(), source: source.into() }
    }

    /// The kernel's error number, where it was the kernel that refused.
    pub fn errno(&self) -> Option<Errno> {
        match self.source.get_ref() {
            Some(inner) if inner.is::<NoInodes>() => Some(Errno::NOSPC),
            Some(inner) if inner.is::<AttributeTooLarge>() => Some(Errno::TOOBIG),
            Some(inner) if inner.is::<PathTooLong>() => Some(Errno::NAMETOOLONG),
            _ => Errno::from_io_error(&self.source),
        }
    }

    /// Whether the object does not exist, or a directory on the way to it.
    pub fn is_not_found(&self) -> bool {
        self.source.kind() == io::ErrorKind::NotFound
    }

    /// Whether what is there is of another kind than was asked for: no directory, no regular file, a symlink on the way.
    pub fn is_other_kind(&self) -> bool {
        self.source.get_ref().is_some_and(|inner| inner.is::<NotRegular>())
            || matches!(self.errno(), Some(Errno::NOTDIR | Errno::ISDIR | Errno::LOOP | Errno::NXIO))
    }

    /// Whether an attribute, its name or its value, is larger than the file or the file system can hold. A full disk and a
    /// quota are other errors.
    pub fn is_attribute_too_large(&self) -> bool {
        matches!(self.errno(), Some(Errno::TOOBIG | Errno::RANGE))
    }

    /// Whether the disk could not read what it holds, or the file system found itself damaged.
    pub fn is_damage(&self) -> bool {
        self.errno().is_some_and(is_damage)
    }

    /// Whether there is no room: no block, no inode, or no more of what a quota allows.
    pub fn is_no_space(&self) -> bool {
        matches!(self.errno(), Some(Errno::NOSPC | Errno::DQUOT))
    }

    /// Whether the object exists already.
    pub fn is_exists(&self) -> bool {
        matches!(self.errno(), Some(Errno::EXIST | Errno::NOTEMPTY))
    }
}

/// Attaches step and path to an error where they are known.
pub trait Context<T> {
    /// Says that this was `step` on `path`.
    fn at(self, step: &'static str, path: impl AsRef<Path>) -> Result<T>;

    /// The same where asking for the path costs something.
    fn at_path(self, step: &'static str, path: impl FnOnce() -> PathBuf) -> Result<T>;
}

impl<T, E: Into<io::Error>> Context<T> for std::result::Result<T, E> {
    fn at(self, step: &'static str, path: impl AsRef<Path>) -> Result<T> {
        self.map_err(|source| Error::new(step, path, source))
    }

    fn at_path(self, step: &'static str, path: impl FnOnce() -> PathBuf) -> Result<T> {
        self.map_err(|source| Error::new(step, path(), source))
    }
}

/// Whether an error of the system says that a disk could not read what it holds, or that a file system is damaged.
pub fn is_damage(error: Errno) -> bool {
    matches!(error, Errno::IO | Errno::UCLEAN | Errno::BADMSG)
}

/// Turns "there is no such thing" into `None` and leaves every other error an error: "cannot tell" is never "no".
pub trait Optional<T> {
    /// `Ok(None)` if the object was not found.
    fn optional(self) -> Result<Option<T>>;

    /// `Ok(None)` also if what was found is of another kind, and so none of what was meant.
    fn fitting(self) -> Result<Option<T>>;
}

impl<T> Optional<T> for Result<T> {
    fn optional(self) -> Result<Option<T>> {
        match self {
            Ok(value) => Ok(Some(value)),
            Err(error) if error.is_not_found() => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn fitting(self) -> Result<Option<T>> {
        match self.optional() {
            Err(error) if error.is_other_kind() => Ok(None),
            done => done,
        }
    }
}
