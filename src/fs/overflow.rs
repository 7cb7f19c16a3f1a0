//! [`Overflow`]: further names of a file that has as many names as the file system can count (65,000 on ext4).
//!
//! Such names share a copy of the file, and when that is full, the next copy: one file for each 65,000 names instead of one
//! for each name.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use rustix::io::Errno;

use super::dir::Dir;
use super::error::Result;

/// Copies that take the names which their originals cannot have.
#[derive(Debug, Default)]
pub(crate) struct Overflow {
    /// By device and inode of a file that takes no more names: a name of the next copy, and its inode.
    copies: HashMap<(u64, u64), (PathBuf, u64)>,
}

impl Overflow {
    /// Makes `name` in `into`, which is at `path` below `top`, a name of a copy of the file `original`. `copy` makes it a
    /// new copy; that happens only if no earlier copy takes the name. Returns whether it did.
    ///
    /// # Errors
    ///
    /// [`super::Error`] if the name or the copy cannot be made.
    pub(crate) fn link<E: From<super::Error>>(
        &mut self,
        original: (u64, u64),
        (top, path): (&Dir, &Path),
        (into, name): (&Dir, &Path),
        copy: impl FnOnce() -> Result<(), E>,
    ) -> Result<bool, E> {
        let mut full = original;
        while let Some((next, inode)) = self.copies.get(&full) {
            // The name may be another file's by now.
            if top.find(next)?.is_none_or(|found| found.inode != *inode) {
                break;
            }
            match top.hard_link(next, into, name) {
                Err(error) if error.errno() == Some(Errno::MLINK) => full = (full.0, *inode),
                done => return Ok(done.map(|()| false)?),
            }
        }
        copy()?;
        self.copies.insert(full, (path.to_owned(), into.stat(name)?.inode));
        Ok(true)
    }
}
