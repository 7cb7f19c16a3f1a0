//! Looking at what is in a directory: what names there are, what they are, and what small files say.

use std::io::{self, Read};
use std::path::Path;

use rustix::fs as sys;
use rustix::io::Errno;

use super::{Dir, Name};
use crate::fs::error::Result;
use crate::fs::stat::{Kind, Stat};

impl Dir {
    /// What the inode at `path` says of itself; a symlink is not followed. `.` is this directory.
    ///
    /// # Errors
    ///
    /// [`Error`] if it is missing or reached through a symlink.
    pub fn stat(&self, path: impl AsRef<Path>) -> Result<Stat> {
        self.at_leaf("stat", path.as_ref(), |dir, name| Stat::at(dir, name))
    }

    /// The same, or `None` if there is nothing at `path`: for asking where the answer is often no.
    ///
    /// # Errors
    ///
    /// [`Error`] if that cannot be told.
    pub fn find(&self, path: impl AsRef<Path>) -> Result<Option<Stat>> {
        let path = path.as_ref();
        // An error would look up its path in /proc first.
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
    /// [`Error`] if it is missing or no symlink.
    pub fn read_link(&self, path: impl AsRef<Path>) -> Result<Vec<u8>> {
        let target =
            self.at_leaf("read link", path.as_ref(), |dir, name| sys::readlinkat(dir, name, Vec::new()));
        Ok(target?.into_bytes())
    }

    /// The names in this directory, sorted by bytes.
    ///
    /// # Errors
    ///
    /// [`Error`] if it cannot be read.
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

    /// The whole content of a small file, refused if it is longer than `limit` bytes.
    ///
    /// # Errors
    ///
    /// [`Error`] if it is missing, too long or cannot be read.
    pub fn read(&self, path: impl AsRef<Path>, limit: u64) -> Result<Vec<u8>> {
        let path = path.as_ref();
        let mut content = Vec::new();
        let file = self.open_file(path)?;
        file.take(limit + 1).read_to_end(&mut content).map_err(|error| self.fault("read", path, error))?;
        if content.len() as u64 > limit {
            let reason = format!("it is longer than {limit} bytes");
            return Err(self.fault("read", path, io::Error::new(io::ErrorKind::FileTooLarge, reason)));
        }
        Ok(content)
    }
}
