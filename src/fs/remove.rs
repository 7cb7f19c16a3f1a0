//! Removing a whole tree, whatever its depth, its modes and its length of path.
//!
//! A tree from a container can be deeper than the process may have files open and longer than `PATH_MAX`, and as a
//! plain user its directories may forbid writing. Below a fixed depth a directory is first renamed to the top, so the
//! number of handles stays small; a directory that refuses is made writable once.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;

use rustix::io::Errno;

use super::dir::Dir;
use super::error::{Context, Error, Optional, Result};
use super::stat::Kind;

/// Handles held at most. Trees of images are rarely deeper.
const DEPTH: usize = 24;

/// How often a directory is emptied before it counts as one that cannot be.
const ATTEMPTS: u32 = 10;

impl Dir {
    /// Removes `name` and everything in it; it need not be there. Nothing is followed. Stops at the first thing that
    /// cannot be removed; what was removed before stays removed.
    ///
    /// # Errors
    ///
    /// [`Error`] naming what cannot be removed, for example a directory on which something is mounted.
    pub fn remove_all(&self, name: impl AsRef<[u8]>) -> Result<()> {
        let name = OsStr::from_bytes(name.as_ref());
        match self.find(name)? {
            None => return Ok(()),
            Some(stat) if stat.kind == Kind::Directory => {}
            Some(_) => return self.remove_file(name).optional().map(drop),
        }
        let Some(dir) = open_writable(self, name).optional()? else { return Ok(()) };
        let mut lifted = 0_u64;
        let mut attempts = 0;
        loop {
            empty(&dir, &dir, 1, &mut lifted)?;
            attempts += 1;
            match self.remove_dir(name) {
                // Somebody who had it open put something into it.
                Err(error) if error.is_exists() && attempts < ATTEMPTS => {}
                done => return done.optional().map(drop),
            }
        }
    }
}

/// Removes what is in `dir`, a directory `depth` levels below `top`. What is too deep is renamed into `top`, where the
/// listing of `top` finds it again.
fn empty(top: &Dir, dir: &Dir, depth: usize, lifted: &mut u64) -> Result<()> {
    loop {
        let before = *lifted;
        for entry in dir.names()? {
            let name = OsStr::from_bytes(&entry.name);
            if entry.kind.is_some_and(|kind| kind != Kind::Directory) {
                dir.remove_file(name).optional()?;
                continue;
            }
            match dir.remove_dir(name) {
                Ok(()) => continue,
                Err(error) if error.is_not_found() => continue,
                Err(error) if error.errno() == Some(Errno::NOTDIR) => {
                    dir.remove_file(name).optional()?;
                    continue;
                }
                Err(error) if error.is_exists() || error.errno() == Some(Errno::ACCESS) => {}
                Err(error) => return Err(error),
            }
            if depth < DEPTH {
                let Some(inner) = open_writable(dir, name).optional()? else { continue };
                empty(top, &inner, depth + 1, lifted)?;
                dir.remove_dir(name).optional()?;
            } else {
                lift(top, dir, name, lifted)?;
            }
        }
        // Only the top can have gained names meanwhile.
        if depth > 1 || *lifted == before {
            return Ok(());
        }
    }
}

/// Renames a directory that lies too deep to the top under a name that is not taken.
fn lift(top: &Dir, dir: &Dir, name: &OsStr, lifted: &mut u64) -> Result<()> {
    drop(open_writable(dir, name)?); // its ".." changes, for which it must be writable
    loop {
        *lifted += 1;
        match dir.rename_new(name, top, format!(".lifted-{lifted}")) {
            Err(error) if error.is_exists() => {}
            done => return done,
        }
    }
}

/// Opens a directory, taking the right to change it first where its mode denies that to its owner.
fn open_writable(parent: &Dir, name: &OsStr) -> Result<Dir> {
    let mode = parent.stat(name)?;
    if mode.kind != Kind::Directory {
        return Err(Error::new("open", parent.path_of(name), Errno::NOTDIR));
    }
    if mode.mode & 0o700 != 0o700 {
        // Root needs no permission, so a refusal here decides nothing; the steps after it do. The mode is that of the
        // inode that gets the new one: in a directory of another user the name may lead elsewhere by now.
        let opened = parent.inode(name)?;
        let found = opened.stat()?;
        if found.kind == Kind::Directory
            && let Err(error) = opened.set_mode(found.mode | 0o700)
        {
            tracing::debug!(%error, "cannot make a directory writable before removing it");
        }
    }
    parent.open_dir(name).or_else(|error| match error.errno() {
        Some(Errno::LOOP) => Err(Errno::NOTDIR).at_path("open", || parent.path_of(name)),
        _ => Err(error),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tree_deeper_than_any_path_is_removed_and_nothing_it_points_to() {
        let temp = tempfile::tempdir().unwrap();
        let dir = Dir::open_ambient(temp.path()).unwrap();
        dir.create_file("kept", 0o644).unwrap();
        let mut inner = dir.ensure_dir("tree", 0o755).unwrap();
        for level in 0..600 {
            inner.create_file("file", 0o644).unwrap();
            inner.create_symlink(b"../../kept", "link").unwrap();
            inner.create_dir(".lifted-1", 0o500).unwrap();
            inner = inner.ensure_dir("a-name-of-some-length", 0o700).unwrap();
            if level == 300 {
                inner.create_dir("forbidden", 0o000).unwrap();
            }
        }
        drop(inner);
        dir.remove_all("tree").unwrap();
        dir.remove_all("tree").unwrap();
        assert_eq!(dir.names().unwrap().len(), 1);
        dir.remove_all("kept").unwrap();
        assert!(dir.names().unwrap().is_empty());
    }
}
