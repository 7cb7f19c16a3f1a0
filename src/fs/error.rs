//! One failed step on the file system: what was tried, on which path, and what the kernel said.

use std::io;
use std::path::{Path, PathBuf};

use rustix::io::Errno;

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

impl Error {
    /// A failed `step` on `path`.
    pub fn new(step: &'static str, path: impl AsRef<Path>, source: impl Into<io::Error>) -> Self {
        Self { step, path: path.as_ref().to_owned(), source: source.into() }
    }

    /// The kernel's error number, where it was the kernel that refused.
    pub fn errno(&self) -> Option<Errno> {
        match self.source.get_ref().is_some_and(|inner| inner.is::<NoInodes>()) {
            true => Some(Errno::NOSPC),
            false => Errno::from_io_error(&self.source),
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
