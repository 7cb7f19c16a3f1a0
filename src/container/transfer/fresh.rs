//! [`Fresh`]: a private directory beside the target, in which things are made before they get their names.
//!
//! The directory that is copied to may belong to another user, on the host or in a container: he can rename, link and
//! replace whatever has a name in it, also between two steps of this process. So nothing unfinished has a name there.
//! Files and whole new directories are made in a directory that only this process's user can enter, reached through a
//! handle; they get owner, mode, attributes and times there, and are renamed out of it when they are finished.

use std::rc::Rc;

use super::CopyError;
use crate::fs::{Dir, Inode, Kind, Optional, Stat, unique_name};

/// How often a directory is made before another user who always takes it away has won.
const ATTEMPTS: u32 = 16;

/// Attributes that a new file or directory inherits from the one that it is made in.
const INHERITED: [&str; 2] = ["system.posix_acl_default", "system.posix_acl_access"];

/// A private directory in another one.
#[derive(Debug)]
pub(super) struct Fresh {
    /// Itself.
    pub(super) dir: Rc<Dir>,
    name: String,
}

impl Fresh {
    /// Makes one in `parent`. What is made in it inherits the group and the default access list of `parent`, unless it is
    /// `bare`.
    pub(super) fn create(parent: &Dir, bare: bool) -> Result<Self, CopyError> {
        for _ in 0..ATTEMPTS {
            let name = format!(".{}", unique_name()?);
            parent.create_dir(&name, 0o700)?;
            // Between these two steps it may have been replaced.
            let Some(dir) = parent.open_dir(&name).fitting()? else { continue };
            if !is_private(&dir.stat(".")?) && keeps_owners(parent)? {
                continue;
            }
            // Another private directory of the same user, put there by who may rename it.
            if !dir.names()?.is_empty() {
                continue;
            }
            if bare {
                for acl in INHERITED {
                    dir.remove_xattr(".", acl)?;
                }
            }
            return Ok(Self { dir: Rc::new(dir), name });
        }
        Err(CopyError::Disturbed { path: parent.path_of("") })
    }

    /// Removes it from `parent`, with what is left in it.
    pub(super) fn remove(self, parent: &Dir) -> Result<(), CopyError> {
        for left in self.dir.names()? {
            self.dir.remove_all(&left.name)?;
        }
        // By name, and so only an empty one: it may be another by now.
        match parent.remove_dir(&self.name) {
            Err(error) if error.is_not_found() || error.is_exists() || error.is_other_kind() => Ok(()),
            done => Ok(done?),
        }
    }
}

/// Whether nobody but this process's user, and root, can change what has this `stat`.
fn is_private(stat: &Stat) -> bool {
    stat.kind == Kind::Directory && stat.mode & 0o077 == 0 && stat.uid == rustix::process::geteuid().as_raw()
}

/// Whether files in `dir` belong to who makes them. On file systems without owners (FAT, some network mounts) everything
/// belongs to one user and nothing can be given to another.
fn keeps_owners(dir: &Dir) -> Result<bool, CopyError> {
    let name = format!(".{}", unique_name()?);
    // A file that is created is opened in the same step: this handle leads to no other.
    let file = dir.create_file(&name, 0o600)?;
    let stat = Inode::of(&file).stat()?;
    dir.remove_file(&name).optional()?;
    Ok(stat.uid == rustix::process::geteuid().as_raw() && stat.mode & 0o077 == 0)
}
