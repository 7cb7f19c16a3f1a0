//! [`Reserve`]: what is kept for a disk that is full, so that there is a way out of it.
//!
//! ```text
//! <root>/reserve/         a workspace of nobody's: on a full disk it is renamed into staging/, and back at the end
//!     lock
//!     space               bytes that nobody needs: on a full disk what makes room is written over them
//! ```
//!
//! To remove takes a directory to move things into, and a file for the names that are left. A file system without a free
//! block or inode gives neither; but it renames, and overwrites. Nothing depends on the reserve: without it, operations
//! on a full disk fail as others do, and whoever finds that it is missing makes it.

use std::io::Write;

use super::{LOCK, Workspace};
use crate::fs::dir::Dir;
use crate::fs::error::{Context, Optional, Result};
use crate::fs::stat::Kind;

/// The file in a workspace whose blocks are kept.
pub(super) const SPACE: &str = "space";
const NAME: &str = "reserve";
/// Kept in any case: the names of a few dozen images.
const LEAST: u64 = 64 << 10;

/// The directory that holds the reserve.
#[derive(Debug)]
pub(super) struct Reserve {
    root: Dir,
}

impl Reserve {
    pub(super) fn new(root: Dir) -> Self {
        Self { root }
    }

    pub(super) fn try_clone(&self) -> Result<Self> {
        self.root.try_clone().map(Self::new)
    }

    fn find(&self) -> Result<Option<Dir>> {
        Ok(self.root.find_dir(NAME).fitting()?.flatten())
    }

    /// Makes it the workspace `name` in `staging`, as a dead process would have left it. `false` if it is not there.
    pub(super) fn take(&self, staging: &Dir, name: &str) -> Result<bool> {
        // What is no directory is none of ours, and would go with the workspace.
        match self.find()? {
            Some(_) => Ok(self.root.rename_new(NAME, staging, name).optional()?.is_some()),
            None => Ok(false),
        }
    }

    /// Takes the file alone. `false` if it is not there.
    pub(super) fn take_space(&self, into: &Dir) -> Result<bool> {
        let Some(reserve) = self.find()? else { return Ok(false) };
        Ok(reserve.rename_new(SPACE, into, SPACE).optional()?.is_some())
    }

    /// Takes the file alone back; what it is needed for is done.
    pub(super) fn give_back_space(&self, from: &Dir) -> Result<()> {
        match self.find()? {
            Some(reserve) => from.rename(SPACE, &reserve, SPACE),
            None => Ok(()),
        }
    }

    /// Takes the workspace `name` back, which holds nothing but its lock, and at best the space. `false` if there is
    /// another by now.
    pub(super) fn give_back(&self, staging: &Dir, name: &str) -> Result<bool> {
        match staging.rename_new(name, &self.root, NAME) {
            Err(error) if error.is_exists() => Ok(false),
            done => done.map(|()| true),
        }
    }

    /// Makes what is missing, so that a file of `size` bytes can be replaced.
    pub(super) fn keep(&self, work: &Workspace, size: u64) -> Result<()> {
        let size = size.saturating_mul(2).max(LEAST).next_multiple_of(LEAST);
        self.root.put_aside(NAME, Kind::Directory)?;
        let reserve = match self.find()? {
            Some(reserve) => {
                reserve.ensure_file(LOCK, 0o600)?;
                reserve
            }
            None => {
                let staged = work.directory_with(0o700)?;
                staged.dir().make_file(LOCK, 0o600)?;
                match staged.publish(&self.root, NAME) {
                    Err(error) if error.is_exists() => return Ok(()),
                    made => made?,
                }
            }
        };
        // Holes would keep nothing.
        if reserve.find(SPACE)?.is_some_and(|space| space.size >= size && space.allocated >= size) {
            return Ok(());
        }
        let mut space = work.file()?;
        let zeros = [0; 16 << 10];
        for _ in 0..size / zeros.len() as u64 {
            space.file().write_all(&zeros).at_path("write", || space.path())?;
        }
        work.dir().rename(&space.name, &reserve, SPACE)
    }
}
