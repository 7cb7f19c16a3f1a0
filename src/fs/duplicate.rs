//! A copy of a tree as it is: every inode with its raw owner, mode, attributes and time, whatever they mean to others.
//!
//! Marks of overlayfs, whiteouts and records of owners come over because they are not looked at. Names of one inode stay
//! names of one inode, holes stay holes, and content is shared where the file system can share it. What cannot be kept
//! is an error: a copy that lacks a mark is another tree. Memory and handles do not depend on the depth of the tree, but for
//! the names in the directories on the way.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::io::Errno;

use super::copy::copy_content;
use super::descent::Descent;
use super::dir::{Dir, Name};
use super::error::{Context, Error, Optional, Result};
use super::inode::Inode;
use super::staging::unique_name;
use super::stat::{Kind, Stat};

/// Files with several names are found again by the path of the first name, if that is no longer than this. All others get
/// a further name in a directory of their own while the copy is made: a tree may have any number of long paths.
const SHORT: usize = 512;

/// How often a file is looked at whose name leads to another each time.
const ATTEMPTS: u32 = 16;

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
    let mut way = Way::new(from, to)?;
    let mut links = Links::new(to);
    while let Some(entry) = way.next() {
        let Some(Name { name, .. }) = entry else {
            // What was put into it changed its time, and its mode may forbid that.
            let (dir, into) = (way.from.dir(), way.to.dir());
            if way.names.len() == 1 {
                links.remove()?;
            }
            let stat = dir.stat(".")?;
            metadata(&dir.inode(".")?, into, OsStr::new("."), &stat)?;
            visit(Duplicated { path: &way.path, from: &stat, to: &into.stat(".")? })?;
            way.leave()?;
            continue;
        };
        let name = OsStr::from_bytes(&name);
        // What vanished since it was listed is not there.
        let Some(mut stat) = way.from.dir().find(name)? else { continue };
        if stat.kind == Kind::Directory {
            way.to.dir().create_private_dir(name)?;
            way.enter(name)?;
            continue;
        }
        way.path.push(name);
        let (dir, into) = (way.from.dir(), way.to.dir());
        if stat.links == 1 || !links.find((stat.device, stat.inode), into, name)? {
            match one(dir, into, name)? {
                Some(copied) => stat = copied,
                None => {
                    way.path.pop();
                    continue;
                }
            }
            if stat.links > 1 {
                links.add((stat.device, stat.inode), into, name, &way.path)?;
            }
        }
        visit(Duplicated { path: &way.path, from: &stat, to: &into.stat(name)? })?;
        way.path.pop();
    }
    Ok(())
}

/// One name that is in both of two trees, as the visitor of [`twins`] is given it.
#[derive(Clone, Copy, Debug)]
pub struct Twin<'a> {
    /// What the first tree has.
    pub from: &'a Stat,
    /// What the second tree has.
    pub to: &'a Stat,
    /// The directory of the second tree that it is in; of the top, the top itself.
    pub dir: &'a Dir,
    /// Its name there; `.` for the top.
    pub name: &'a OsStr,
}

/// Visits every name that is both in the directory `from` and in its copy `to`. Directories come after what is in them.
///
/// # Errors
///
/// What `visit` returns, or [`Error`] if something cannot be read.
pub fn twins<E: From<Error>>(
    from: &Dir,
    to: &Dir,
    visit: &mut dyn FnMut(Twin<'_>) -> Result<(), E>,
) -> Result<(), E> {
    let mut way = Way::new(from, to)?;
    while let Some(entry) = way.next() {
        let Some(Name { name, .. }) = entry else {
            let (from, to) = (way.from.dir().stat(".")?, way.to.dir().stat(".")?);
            visit(Twin { from: &from, to: &to, dir: way.to.dir(), name: OsStr::new(".") })?;
            way.leave()?;
            continue;
        };
        let name = OsStr::from_bytes(&name);
        let (Some(from), Some(to)) = (way.from.dir().find(name)?, way.to.dir().find(name)?) else { continue };
        match (from.kind, to.kind) {
            (Kind::Directory, Kind::Directory) => way.enter(name)?,
            _ => visit(Twin { from: &from, to: &to, dir: way.to.dir(), name })?,
        }
    }
    Ok(())
}

/// A way through two trees at once. It holds the names of the directories on the way, and a bounded number of handles.
struct Way {
    from: Descent,
    to: Descent,
    /// The names that are left in each directory on the way.
    names: Vec<std::vec::IntoIter<Name>>,
    /// The path of the present directory.
    path: PathBuf,
}

impl Way {
    fn new(from: &Dir, to: &Dir) -> Result<Self> {
        let names = vec![from.names()?.into_iter()];
        let (from, to) = (Descent::new(from.try_clone()?)?, Descent::new(to.try_clone()?)?);
        Ok(Self { from, to, names, path: PathBuf::new() })
    }

    /// The next name in the present directory; `Some(None)` if there are no more, `None` at the very end.
    #[allow(clippy::option_option)]
    fn next(&mut self) -> Option<Option<Name>> {
        self.names.last_mut().map(Iterator::next)
    }

    fn enter(&mut self, name: &OsStr) -> Result<()> {
        self.from.enter(name)?;
        self.to.enter(name)?;
        self.names.push(self.from.dir().names()?.into_iter());
        self.path.push(name);
        Ok(())
    }

    fn leave(&mut self) -> Result<()> {
        self.names.pop();
        self.path.pop();
        if self.names.is_empty() {
            return Ok(());
        }
        self.from.leave()?;
        self.to.leave()
    }
}

/// The copies of files that have several names.
struct Links<'a> {
    top: &'a Dir,
    /// By device and inode of the original: a name of the copy.
    first: HashMap<(u64, u64), First>,
    /// The name of the directory that holds further names of copies, and the directory.
    aside: Option<(String, Dir)>,
    next: usize,
}

enum First {
    /// A path below the top.
    At(PathBuf),
    /// A number in the directory of further names.
    Aside(usize),
}

impl<'a> Links<'a> {
    fn new(top: &'a Dir) -> Self {
        Self { top, first: HashMap::new(), aside: None, next: 0 }
    }

    /// Makes `name` in `into` a further name of the copy of `original`. Returns `false` if there is no such copy, or if the
    /// copy takes no more names: then the names that follow share the next one.
    fn find(&self, original: (u64, u64), into: &Dir, name: &OsStr) -> Result<bool> {
        let linked = match (self.first.get(&original), &self.aside) {
            (Some(First::At(path)), _) => self.top.hard_link(path, into, name),
            (Some(First::Aside(number)), Some((_, aside))) => aside.hard_link(number.to_string(), into, name),
            _ => return Ok(false),
        };
        match linked {
            Err(error) if error.errno() == Some(Errno::MLINK) => Ok(false),
            done => done.map(|()| true),
        }
    }

    /// Remembers that `name` in `into`, which is at `path` below the top, is a copy of `original`.
    fn add(&mut self, original: (u64, u64), into: &Dir, name: &OsStr, path: &Path) -> Result<()> {
        if path.as_os_str().len() <= SHORT {
            self.first.insert(original, First::At(path.to_owned()));
            return Ok(());
        }
        let (_, aside) = match &mut self.aside {
            Some(aside) => aside,
            none => {
                let name = format!(".{}", unique_name()?);
                let dir = self.top.ensure_dir(&name, 0o700)?;
                none.insert((name, dir))
            }
        };
        let number = self.next;
        self.next += 1;
        into.hard_link(name, aside, number.to_string())?;
        self.first.insert(original, First::Aside(number));
        Ok(())
    }

    /// Removes what is no part of the copy.
    fn remove(&mut self) -> Result<()> {
        match self.aside.take() {
            Some((name, _)) => self.top.remove_all(name),
            None => Ok(()),
        }
    }
}

/// Copies what is no directory, and tells what was copied: metadata and content of one inode, whatever has the name by then. A
/// process may be writing to the tree: a file has the bytes that it had when its size was asked, one that became shorter
/// is copied once more, and one that vanished is `None`.
fn one(from: &Dir, to: &Dir, name: &OsStr) -> Result<Option<Stat>> {
    let mut cut = false;
    for _ in 0..ATTEMPTS {
        let Some(inode) = from.inode(name).optional()? else { return Ok(None) };
        let mut stat = inode.stat()?;
        match stat.kind {
            Kind::File => {
                let Some(file) = from.open_file(name).optional()? else { return Ok(None) };
                let now = Stat::of(&file).at_path("stat", || from.path_of(name))?;
                if !now.is_same_inode(&stat) {
                    continue;
                }
                stat = now;
                let target = to.create_file(name, 0o600)?;
                match copy_content(&file, &target, stat.size) {
                    Err(error) if error.kind() == io::ErrorKind::UnexpectedEof && !cut => {
                        to.remove_file(name)?;
                        cut = true;
                        continue;
                    }
                    copied => copied.at_path("copy", || from.path_of(name))?,
                }
            }
            Kind::Symlink => to.create_symlink(&inode.read_link()?, name)?,
            Kind::Directory => return Err(Error::new("copy", from.path_of(name), Errno::ISDIR)),
            // Also a socket, though nobody listens at the copy: without it something below would come to light.
            kind => to.create_node(name, kind, 0o600, stat.node)?,
        }
        metadata(&inode, to, name, &stat)?;
        return Ok(Some(stat));
    }
    // Its name leads to another file each time.
    Err(Error::new("copy", from.path_of(name), Errno::BUSY))
}

/// Gives the copy of an inode, called `name`, everything that the original has beside its content.
fn metadata(from: &Inode<'_>, to: &Dir, name: &OsStr, stat: &Stat) -> Result<()> {
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
    for (key, value) in from.xattrs()? {
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
