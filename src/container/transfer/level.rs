//! [`Level`]: a directory at the target that was there before, for as long as something is put into it.
//!
//! It is held by a handle, so that what it gets goes to the directory that was entered, whatever has its name by then. A
//! tree may be deeper than a process may have open files: the handles of those far above are given up, and these directories are
//! opened again by their path and recognized by their inode.

use std::rc::Rc;

use super::CopyError;
use super::fresh::Fresh;
use crate::fs::{Dir, Kind, Metadata, Stat};
use crate::path::LayerPath;

/// How many handles there are at most.
const HANDLES: usize = 64;

#[derive(Debug)]
pub(super) struct Level {
    pub(super) path: LayerPath,
    dir: Option<Rc<Dir>>,
    stat: Stat,
    /// What it becomes in the end; `None` if it stays as it is.
    pub(super) metadata: Option<Metadata>,
    /// The private directory in it, once something was made there.
    pub(super) fresh: Option<Fresh>,
}

impl Level {
    /// The directory that everything is put into.
    pub(super) fn top(into: &Dir) -> Result<Self, CopyError> {
        let (dir, stat) = (Some(Rc::new(into.try_clone()?)), into.stat(".")?);
        Ok(Self { path: LayerPath::ROOT, dir, stat, metadata: None, fresh: None })
    }

    /// The directory that has the last name of `path` in `parent`.
    pub(super) fn enter(
        parent: &Dir,
        path: LayerPath,
        metadata: Option<Metadata>,
    ) -> Result<Self, CopyError> {
        let name = super::put::file_name(&path);
        // It need not be readable.
        let dir = Dir::from(parent.open_path(name)?);
        let stat = dir.inode(".")?.stat()?;
        if stat.kind != Kind::Directory {
            return Err(CopyError::Disturbed { path: parent.path_of(name) });
        }
        Ok(Self { path, dir: Some(Rc::new(dir)), stat, metadata, fresh: None })
    }

    /// The directory.
    pub(super) fn open(&mut self, into: &Dir) -> Result<Rc<Dir>, CopyError> {
        if let Some(dir) = &self.dir {
            return Ok(Rc::clone(dir));
        }
        let dir = Dir::from(into.open_path(self.path.as_path())?);
        let stat = dir.inode(".")?.stat()?;
        if stat.kind != Kind::Directory || !stat.is_same_inode(&self.stat) {
            return Err(CopyError::Disturbed { path: into.path_of(self.path.as_path()) });
        }
        Ok(Rc::clone(self.dir.insert(Rc::new(dir))))
    }

    /// The private directory in it.
    pub(super) fn fresh(&mut self, into: &Dir, bare: bool) -> Result<Rc<Dir>, CopyError> {
        if let Some(fresh) = &self.fresh {
            return Ok(Rc::clone(&fresh.dir));
        }
        let fresh = Fresh::create(&*self.open(into)?, bare)?;
        Ok(Rc::clone(&self.fresh.insert(fresh).dir))
    }

    /// Gives up the handles of all but the deepest of `levels`, which lie in each other.
    pub(super) fn spare_handles(levels: &mut [Self], into: &Dir) -> Result<(), CopyError> {
        if let Some(above) = levels.len().checked_sub(HANDLES)
            && let Some(level) = levels.get_mut(above)
        {
            if let Some(fresh) = level.fresh.take() {
                fresh.remove(&*level.open(into)?)?;
            }
            level.dir = None;
        }
        Ok(())
    }
}
