//! [`Descent`]: a way down a tree of any depth, with a bounded number of handles.
//!
//! A container decides how deep its tree is: deeper than the process may have files open, and longer than `PATH_MAX`. So
//! only the last directories on the way stay open. The way back up goes through `..`, and whatever that leads to must be
//! the directory that the way down came from.

use std::path::Path;

use rustix::io::Errno;

use super::dir::Dir;
use super::error::{Error, Result};
use super::stat::Stat;

/// Directories that stay open, at most.
const HANDLES: usize = 24;

/// The directories from the top of a tree to the present one.
#[derive(Debug)]
pub(crate) struct Descent {
    /// Never empty. The last two are open.
    levels: Vec<Level>,
}

#[derive(Debug)]
struct Level {
    dir: Option<Dir>,
    /// Device and inode.
    id: (u64, u64),
}

impl Level {
    fn new(dir: Dir) -> Result<Self> {
        let Stat { device, inode, .. } = dir.stat(".")?;
        Ok(Self { dir: Some(dir), id: (device, inode) })
    }
}

impl Descent {
    /// Starts at `top`.
    ///
    /// # Errors
    ///
    /// [`Error`] if it cannot be asked what it is.
    pub(crate) fn new(top: Dir) -> Result<Self> {
        Ok(Self { levels: vec![Level::new(top)?] })
    }

    /// The present directory.
    pub(crate) fn dir(&self) -> &Dir {
        let dir = self.levels.last().and_then(|level| level.dir.as_ref());
        dir.expect("the last directory is open")
    }

    /// Goes down to the directory `name` in the present one.
    ///
    /// # Errors
    ///
    /// [`Error`] if it cannot be opened; the present directory is then the same as before.
    pub(crate) fn enter(&mut self, name: impl AsRef<Path>) -> Result<()> {
        let below = Level::new(self.dir().open_dir(name)?)?;
        self.levels.push(below);
        if let Some(last) = self.levels.len().checked_sub(HANDLES + 1) {
            self.levels[last].dir = None;
        }
        Ok(())
    }

    /// Goes back up to the directory that the present one is in, unless this is the top.
    ///
    /// # Errors
    ///
    /// [`Error`] if a directory on the way down was moved meanwhile. Then this is of no more use.
    pub(crate) fn leave(&mut self) -> Result<()> {
        if self.levels.len() > 1 {
            self.levels.pop();
        }
        // The one above is opened now: later, the present directory may have a mode that forbids to search it.
        if let [.., above, here] = &mut self.levels[..]
            && above.dir.is_none()
        {
            let dir = here.dir.as_ref().expect("the last two directories are open");
            let opened = Level::new(dir.open_parent()?)?;
            if opened.id != above.id {
                return Err(Error::new("go back from", dir.path_of(""), Errno::STALE));
            }
            above.dir = opened.dir;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_way_of_any_depth_leads_back_with_few_handles() {
        let temp = tempfile::tempdir_in(".").unwrap();
        let top = Dir::open_ambient(temp.path()).unwrap();
        let depth = 3000;
        let mut way = Descent::new(top.try_clone().unwrap()).unwrap();
        for _ in 0..depth {
            way.dir().create_dir("name", 0o700).unwrap();
            way.enter("name").unwrap();
            assert!(way.levels.iter().filter(|level| level.dir.is_some()).count() <= HANDLES);
        }
        for _ in 0..depth {
            // As a copy does it: the mode that is meant comes when everything is in its place.
            way.dir().set_mode(".", 0o000).unwrap();
            way.leave().unwrap();
            assert!(way.dir().stat("name").is_ok());
        }
        assert_eq!(way.levels.len(), 1);
        top.remove_all("name").unwrap();
    }

    #[test]
    fn a_directory_that_was_moved_away_is_noticed() {
        let temp = tempfile::tempdir_in(".").unwrap();
        let top = Dir::open_ambient(temp.path()).unwrap();
        top.create_dir("elsewhere", 0o700).unwrap();
        let mut way = Descent::new(top.try_clone().unwrap()).unwrap();
        for _ in 0..2 * HANDLES {
            way.dir().create_dir("d", 0o700).unwrap();
            way.enter("d").unwrap();
        }
        top.rename("d/d", &top, "elsewhere/d").unwrap();
        let back = (0..2 * HANDLES).try_for_each(|_| way.leave());
        assert_eq!(back.unwrap_err().errno(), Some(Errno::STALE));
    }
}
