//! What a layer takes from the layers below it: the looks of directories that it needs and does not describe.
//!
//! A layer whose assumptions hold on another base is shared there as it is. Where they do not, [`variant`] makes it
//! again from the one that exists: the same files under second names, and directories of its own. A directory that
//! holds nothing but deletions is left out where the base has no such directory. The shared layer has all of these.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use rustix::io::Errno;

use super::abilities::Abilities;
use super::record::Assumed;
use super::unpack::Losses;
use crate::fs::{Context, Dir, FileType, Kind, Metadata, Optional, Overflow, Result, Stat, copy_content};
use crate::path::LayerPath;
use crate::stack::marks::Marks;
use crate::stack::object::{Loss, Lost};
use crate::stack::{Found, Stack, Tree, object, owner};
use crate::whiteout::{Namespace, Stored};

/// What a base says of the directories that a layer does not describe.
pub(super) struct Assumptions {
    /// Every one of them that has to be in the layer. Where the base has no such directory it is a new one.
    pub(super) directories: Vec<Assumed>,
    /// Directories that would only hold deletions, and that the base does not have. They must not be in the layer.
    pub(super) absent: BTreeSet<LayerPath>,
    /// Whether one of them is a symlink in the base: then the layer's entries belong behind it, and the layer has to be
    /// unpacked again with the base in sight.
    pub(super) crosses_link: bool,
}

impl Assumptions {
    /// Whether a layer that was made with the assumptions `assumed` is right here as it is.
    pub(super) fn agree_with(&self, assumed: &[Assumed]) -> bool {
        !self.crosses_link && self.absent.is_empty() && self.directories == assumed
    }
}

/// Asks `below` for the directories in `implied`, each given with whether it exists only to hold deletions.
pub(super) fn assume<'p>(
    below: &Stack<'_>,
    implied: impl IntoIterator<Item = (&'p LayerPath, bool)>,
) -> Result<Assumptions> {
    let mut assumptions =
        Assumptions { directories: Vec::new(), absent: BTreeSet::new(), crosses_link: false };
    let mut lookups = Lookups::new(below);
    for (path, holds_only_deletions) in implied {
        let found = lookups.find(path)?;
        if holds_only_deletions && !found.as_ref().is_some_and(Found::is_directory) {
            assumptions.crosses_link |= found.is_some_and(|found| found.stat.kind == Kind::Symlink);
            assumptions.absent.insert(path.clone());
            continue;
        }
        let metadata = match &found {
            Some(found) if found.is_directory() => below.object(path, found)?.metadata,
            _ => Metadata::default_directory(),
        };
        assumptions.crosses_link |= found.is_some_and(|found| found.stat.kind == Kind::Symlink);
        assumptions.directories.push(Assumed { path: path.clone(), metadata, holds_only_deletions });
    }
    Ok(assumptions)
}

/// Lookups in a stack, of paths in order. Each begins at the directory that it has in common with the one before: a path of
/// 2,000 components would otherwise be looked up from the root for each of its directories.
struct Lookups<'a, 's> {
    stack: &'a Stack<'s>,
    /// The directories on the way to the last path, outermost first.
    way: Vec<(LayerPath, Found)>,
}

impl<'a, 's> Lookups<'a, 's> {
    fn new(stack: &'a Stack<'s>) -> Self {
        Self { stack, way: Vec::new() }
    }

    fn find(&mut self, path: &LayerPath) -> Result<Option<Found>> {
        self.way.truncate(self.way.iter().take_while(|(above, _)| path.starts_with(above)).count());
        if self.way.is_empty() {
            let Some(root) = self.stack.root()? else { return Ok(None) };
            self.way.push((LayerPath::ROOT, root));
        }
        let depth = self.way.len() - 1;
        for component in path.components().skip(depth) {
            let Some((above, directory)) = self.way.last() else { return Ok(None) };
            if !directory.is_directory() {
                return Ok(None);
            }
            let Some(found) = self.stack.child(above, directory, component)? else { return Ok(None) };
            let at = above.join(component);
            self.way.push((at, found));
        }
        Ok(self.way.last().map(|(_, found)| found.clone()))
    }
}

/// Makes the directories of `tree` look as assumed.
pub(super) fn apply(
    tree: &Dir,
    assumed: &[Assumed],
    abilities: Abilities,
    losses: &mut Losses,
) -> Result<()> {
    let mut lose = |loss| losses.add(loss);
    // Deepest first: as a plain user a directory may get a mode that keeps this process out.
    for Assumed { path, metadata, .. } in assumed.iter().rev() {
        let (at, style) = (path.as_path(), abilities.style());
        // It says something else about an owner that could not be set.
        tree.remove_xattr(at, owner::KEY)?;
        object::set_metadata(tree, at, &FileType::Directory, metadata, style, &mut lose, path)?;
    }
    Ok(())
}

/// Removes the directories `absent` from `tree`. They hold nothing but deletions and each other.
pub(super) fn prune(tree: &Dir, absent: &BTreeSet<LayerPath>) -> Result<()> {
    for path in absent {
        let Some((parent, name)) = path.parent().zip(path.file_name()) else { continue };
        // One of them may be gone with the one that it was in.
        let Some(parent) = tree.open_dir(parent.as_path()).optional()? else { continue };
        let mtime = parent.stat(".")?.mtime;
        parent.remove_all(name)?;
        parent.set_mtime(".", mtime)?;
    }
    Ok(())
}

/// What became of a variant.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Variant {
    /// It is complete.
    Made,
    /// A file of the layer takes no more names: the file system counts no further. The variant would need a copy of the
    /// file, and other names would share it than in the layer, so the layer has to be unpacked once more instead.
    TooManyNames,
}

/// Makes in `into`, a fresh directory, the layer `from` with other assumptions. The directories of `here`, those that are
/// absent included, are those that `from` was made with.
pub(super) fn variant(
    Tree { dir: from, marks, .. }: &Tree,
    into: &Dir,
    here: &Assumptions,
    abilities: Abilities,
    losses: &mut Losses,
) -> Result<Variant> {
    let assumed = &here.directories;
    let mut directories = vec![LayerPath::ROOT];
    let mut overflow = Overflow::default();
    let mut next = 0;
    // Paths instead of handles: a layer decides how deep it is.
    while let Some(path) = directories.get(next).cloned() {
        next += 1;
        let (source, target) = (from.open_dir(path.as_path())?, into.open_dir(path.as_path())?);
        for entry in source.names()? {
            let name = Path::new(OsStr::from_bytes(&entry.name));
            let stat = source.stat(name)?;
            let path = path.join(&entry.name);
            if stat.kind == Kind::Directory {
                if !here.absent.contains(&path) {
                    target.create_private_dir(name)?;
                    directories.push(path);
                }
                continue;
            }
            match source.hard_link(name, &target, name) {
                Err(error) if error.errno() == Some(Errno::MLINK) => return Ok(Variant::TooManyNames),
                // The kernel lets this process give no second name to this file.
                Err(error) if error.errno() == Some(Errno::PERM) => {
                    let original = (stat.device, stat.inode);
                    let mut lose = |loss| losses.add(loss);
                    overflow.link(original, (into, path.as_path()), (&target, name), || {
                        copy((&source, name), (&target, name), &stat, &mut lose, &path)
                    })?;
                }
                done => done?,
            }
        }
    }
    // What was made in a directory has changed its time; the order above has parents first.
    let is_assumed = |path: &LayerPath| assumed.binary_search_by(|one| one.path.cmp(path)).is_ok();
    for path in directories.iter().rev() {
        let only_marks = is_assumed(path);
        let mut lose = |loss| losses.add(loss);
        copy_metadata(from, into, path, only_marks.then_some(*marks), &mut lose)?;
    }
    apply(into, assumed, abilities, losses)?;
    Ok(Variant::Made)
}

/// Copies a file with everything as it is on disk, marks and recorded owners included. `path` is its name in reports.
pub(super) fn copy(
    (source, from): (&Dir, &Path),
    (target, to): (&Dir, &Path),
    stat: &Stat,
    lose: &mut dyn FnMut(Loss),
    path: &LayerPath,
) -> Result<()> {
    match stat.kind {
        Kind::File => {
            let file = target.create_file(to, 0o600)?;
            copy_content(&source.open_file(from)?, &file, stat.size)
                .at_path("copy to", || target.path_of(to))?;
        }
        Kind::Symlink => target.create_symlink(&source.read_link(from)?, to)?,
        kind => target.create_node(to, kind, 0o600, stat.node)?,
    }
    copy_raw((source, from), (target, to), stat, |_| true, lose, path)
}

/// Copies owner, mode, time and attributes of a directory; of the attributes the marks alone if they are given.
fn copy_metadata(
    from: &Dir,
    into: &Dir,
    path: &LayerPath,
    only_marks: Option<Marks>,
    lose: &mut dyn FnMut(Loss),
) -> Result<()> {
    let at = path.as_path();
    let stat = from.stat(at)?;
    let keep = |name: &[u8]| only_marks.is_none_or(|marks| marks.stored(name) == Stored::Private);
    copy_raw((from, at), (into, at), &stat, keep, lose, path)
}

/// Gives `to` the owner, mode, time and those attributes of `from` that are to be kept. An attribute that the file system
/// cannot hold is a loss, unless it is a mark or a recorded owner.
pub(super) fn copy_raw(
    (source, from): (&Dir, &Path),
    (target, to): (&Dir, &Path),
    stat: &Stat,
    keep: impl Fn(&[u8]) -> bool,
    lose: &mut dyn FnMut(Loss),
    path: &LayerPath,
) -> Result<()> {
    let found = target.stat(to)?;
    if (found.uid, found.gid) != (stat.uid, stat.gid) {
        target.set_owner(to, stat.uid, stat.gid)?;
    }
    // Attributes before the mode: without privilege they need the right to write.
    let present = target.xattrs(to)?; // labels that the machine gives every file, which not everyone may set
    for (name, value) in source.xattrs(from)?.iter().filter(|(name, _)| keep(name)) {
        if present.get(name) == Some(value) {
            continue;
        }
        let is_needed = name == owner::KEY
            || name == b"security.capability"
            || Namespace::ALL.iter().any(|family| family.unescape(name) == Stored::Private);
        match target.set_xattr(to, name, value) {
            Err(source) if source.is_attribute_too_large() && !is_needed => {
                lose(Loss { path: path.clone(), what: Lost::Xattr(name.clone()), source });
            }
            done => done?,
        }
    }
    if stat.kind != Kind::Symlink {
        target.set_mode(to, stat.mode)?;
    }
    target.set_mtime(to, stat.mtime)
}
