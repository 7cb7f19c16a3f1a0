//! A copy of a tree as it is: every inode with its raw owner, mode, attributes and time, whatever they mean to others.
//!
//! Marks of overlayfs, whiteouts and records of owners come over because they are not looked at. Names of one inode stay
//! names of one inode, holes stay holes, and content is shared where the file system can share it. What cannot be kept
//! is an error: a copy that lacks a mark is another tree.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use super::copy::copy_content;
use super::dir::Dir;
use super::error::{Error, Result};
use super::stat::{Kind, Stat};

/// A container decides how deep its tree is. So many levels are reached by one path; then a handle is the new
/// beginning, which keeps paths below the kernel's limit and handles few.
const LEVELS: usize = 12;

/// What was copied, as the visitor of [`duplicate`] is told. Directories come after what is in them.
#[derive(Clone, Copy, Debug)]
pub struct Duplicated<'a> {
    /// The path below both roots; empty for the root itself.
    pub path: &'a Path,
    /// What is copied.
    pub from: &'a Stat,
    /// The copy.
    pub to: &'a Stat,
}

/// Makes the empty directory `to` a copy of the directory `from`, and tells of each object that is in both.
///
/// # Errors
///
/// [`Error`] if something cannot be read, or not be held as it is; `to` then holds a part.
pub fn duplicate<E: From<Error>>(
    from: &Dir,
    to: &Dir,
    visit: &mut dyn FnMut(Duplicated<'_>) -> Result<(), E>,
) -> Result<(), E> {
    let root = Place {
        from: Rc::new(from.try_clone()?),
        to: Rc::new(to.try_clone()?),
        near: PathBuf::new(),
        path: PathBuf::new(),
    };
    let mut steps = vec![Step::Enter(root)];
    let mut linked: HashMap<(u64, u64), (Rc<Dir>, PathBuf)> = HashMap::new();
    while let Some(step) = steps.pop() {
        match step {
            Step::Enter(place) => {
                let (dir, into) = (place.open(&place.from)?, place.open(&place.to)?);
                let names = dir.names()?;
                let inside = if place.near.components().count() < LEVELS {
                    (place.from.clone(), place.to.clone(), place.near.clone())
                } else {
                    (Rc::new(dir.try_clone()?), Rc::new(into.try_clone()?), PathBuf::new())
                };
                let path = place.path.clone();
                steps.push(Step::Leave(place));
                for entry in names {
                    let name = OsStr::from_bytes(&entry.name);
                    let path = path.join(name);
                    let stat = dir.stat(name)?;
                    if stat.kind == Kind::Directory {
                        into.create_private_dir(name)?;
                        let (from, to, near) = (inside.0.clone(), inside.1.clone(), inside.2.join(name));
                        steps.push(Step::Enter(Place { from, to, near, path }));
                        continue;
                    }
                    let first = linked.get(&(stat.device, stat.inode)).filter(|_| stat.links > 1);
                    match first {
                        Some((base, first)) => base.hard_link(first, &into, name)?,
                        None => {
                            one(&dir, &into, name, &stat)?;
                            if stat.links > 1 {
                                let first = (inside.1.clone(), inside.2.join(name));
                                linked.insert((stat.device, stat.inode), first);
                            }
                        }
                    }
                    visit(Duplicated { path: &path, from: &stat, to: &into.stat(name)? })?;
                }
            }
            Step::Leave(place) => {
                // What was put into it changed its time, and its mode may forbid that.
                let (dir, into) = (place.open(&place.from)?, place.open(&place.to)?);
                let stat = dir.stat(".")?;
                metadata(&dir, &into, OsStr::new("."), &stat)?;
                visit(Duplicated { path: &place.path, from: &stat, to: &into.stat(".")? })?;
            }
        }
    }
    Ok(())
}

enum Step {
    Enter(Place),
    Leave(Place),
}

/// One directory in both trees.
struct Place {
    from: Rc<Dir>,
    to: Rc<Dir>,
    /// The path from those two.
    near: PathBuf,
    /// The path from both roots.
    path: PathBuf,
}

impl Place {
    fn open(&self, base: &Dir) -> Result<Dir> {
        if self.near.as_os_str().is_empty() { base.try_clone() } else { base.open_dir(&self.near) }
    }
}

/// Copies what is no directory.
fn one(from: &Dir, to: &Dir, name: &OsStr, stat: &Stat) -> Result<()> {
    match stat.kind {
        Kind::File => {
            let target = to.create_file(name, 0o600)?;
            let copied = copy_content(&from.open_file(name)?, &target, stat.size);
            copied.map_err(|error| Error::new("copy", from.path_of(name), error))?;
        }
        Kind::Symlink => to.create_symlink(&from.read_link(name)?, name)?,
        // Also a socket, though nobody listens at the copy: without it something below would come to light.
        kind => to.create_node(name, kind, 0o600, stat.node)?,
    }
    metadata(from, to, name, stat)
}

/// Gives the copy of `name` everything that the original has beside its content.
fn metadata(from: &Dir, to: &Dir, name: &OsStr, stat: &Stat) -> Result<()> {
    let now = to.stat(name)?;
    // The umask may have taken away the right to set attributes.
    if now.kind == Kind::File && now.mode & 0o600 != 0o600 {
        to.set_mode(name, 0o600)?;
    }
    // First, since it clears set-user-id bits and file capabilities.
    if (now.uid, now.gid) != (stat.uid, stat.gid) {
        to.set_owner(name, stat.uid, stat.gid)?;
    }
    // Before the mode, which may forbid it.
    for (key, value) in from.xattrs(name)? {
        match to.set_xattr(name, &key, &value) {
            // The system may have given it the right one already, and let nobody set it.
            Err(error) if to.xattr(name, &key)?.as_ref() != Some(&value) => return Err(error),
            _ => {}
        }
    }
    if stat.kind != Kind::Symlink {
        to.set_mode(name, stat.mode)?;
    }
    to.set_mtime(name, stat.mtime)
}
