//! Looking at what is in a directory: what names there are, what they are, and what small files say.
//!
//! An error looks its path up in `/proc`; the methods called `find` make none of what is simply not there.

use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use rustix::fs::{self as sys, Mode};
use rustix::io::Errno;

use super::{Dir, Name, OPEN_DIR};
use crate::fs::error::Result;
use crate::fs::stat::{Kind, Stat};

impl Dir {
    /// Opens a directory below this one, or `None` if there is none: for asking where the answer is often no.
    ///
    /// # Errors
    ///
    /// [`Error`](crate::fs::Error) if that cannot be told, or it cannot be opened.
    pub fn find_dir(&self, path: impl AsRef<Path>) -> Result<Option<Self>> {
        let path = path.as_ref();
        match self.open_beneath(path, OPEN_DIR, Mode::empty()) {
            Ok(dir) => Ok(Some(Self(dir))),
            Err(Errno::NOENT) => Ok(None),
            Err(error) => Err(self.fault("open", path, error)),
        }
    }

    /// What the inode at `path` says of itself; a symlink is not followed. `.` is this directory.
    ///
    /// # Errors
    ///
    /// [`Error`](crate::fs::Error) if it is missing or reached through a symlink.
    pub fn stat(&self, path: impl AsRef<Path>) -> Result<Stat> {
        self.at_leaf("stat", path.as_ref(), |dir, name| match name == "." {
            // Of itself a handle can tell without the right to search it.
            true => Stat::of(dir),
            false => Stat::at(dir, name),
        })
    }

    /// The same, or `None` if there is nothing at `path`: for asking where the answer is often no.
    ///
    /// # Errors
    ///
    /// [`Error`](crate::fs::Error) if that cannot be told.
    pub fn find(&self, path: impl AsRef<Path>) -> Result<Option<Stat>> {
        let path = path.as_ref();
        let found = self.raw_leaf(path).and_then(|(parent, name)| Stat::at(&parent, name));
        match found {
            Ok(stat) => Ok(Some(stat)),
            Err(Errno::NOENT) => Ok(None),
            Err(error) => Err(self.fault("stat", path, error)),
        }
    }

    /// The text of a symbolic link.
    ///
    /// # Errors
    ///
    /// [`Error`](crate::fs::Error) if it is missing or no symlink.
    pub fn read_link(&self, path: impl AsRef<Path>) -> Result<Vec<u8>> {
        let target =
            self.at_leaf("read link", path.as_ref(), |dir, name| sys::readlinkat(dir, name, Vec::new()));
        Ok(target?.into_bytes())
    }

    /// The names in this directory, sorted by bytes.
    ///
    /// # Errors
    ///
    /// [`Error`](crate::fs::Error) if it cannot be read.
    pub fn names(&self) -> Result<Vec<Name>> {
        let read = || {
            let mut names = Vec::new();
            for entry in sys::Dir::read_from(&self.0)? {
                let entry = entry?;
                let name = entry.file_name().to_bytes();
                if name != b"." && name != b".." {
                    names.push(Name { name: name.to_vec(), kind: Kind::from_raw(entry.file_type()) });
                }
            }
            names.sort_unstable();
            Ok::<_, Errno>(names)
        };
        read().map_err(|error| self.fault("list", "", error))
    }

    /// Whether `entry`, one of these names, is of this kind. What is gone by now counts as such: whoever looks finds nothing.
    ///
    /// # Errors
    ///
    /// [`Error`](crate::fs::Error) if the file system has to be asked and does not tell.
    pub fn is_of_kind(&self, entry: &Name, kind: Kind) -> Result<bool> {
        match entry.kind {
            Some(known) => Ok(known == kind),
            None => Ok(self.find(OsStr::from_bytes(&entry.name))?.is_none_or(|found| found.kind == kind)),
        }
    }

    /// The whole content of a small file, refused if it is longer than `limit` bytes.
    ///
    /// # Errors
    ///
    /// [`Error`](crate::fs::Error) if it is missing, too long or cannot be read.
    pub fn read(&self, path: impl AsRef<Path>, limit: u64) -> Result<Vec<u8>> {
        let path = path.as_ref();
        let (file, stat) = self.open_known(path).map_err(|error| self.fault("open", path, error))?;
        self.read_open(path, file, &stat, limit)
    }

    /// The same, or `None` if there is nothing at `path`.
    ///
    /// # Errors
    ///
    /// [`Error`](crate::fs::Error) if it is too long or cannot be read.
    pub fn find_content(&self, path: impl AsRef<Path>, limit: u64) -> Result<Option<Vec<u8>>> {
        let path = path.as_ref();
        match self.open_known(path) {
            Ok((file, stat)) => self.read_open(path, file, &stat, limit).map(Some),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(self.fault("open", path, error)),
        }
    }

    fn read_open(&self, path: &Path, file: File, stat: &Stat, limit: u64) -> Result<Vec<u8>> {
        // One more than there is, so that the end is seen without growing.
        let mut content = Vec::with_capacity(usize::try_from(stat.size.min(limit)).unwrap_or(0) + 1);
        file.take(limit + 1).read_to_end(&mut content).map_err(|error| self.fault("read", path, error))?;
        if content.len() as u64 > limit {
            let reason = format!("it is longer than {limit} bytes");
            return Err(self.fault("read", path, io::Error::new(io::ErrorKind::FileTooLarge, reason)));
        }
        Ok(content)
    }
}
