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
use crate::fs::{Context, Dir, FileType, Kind, Metadata, Optional, Result, Stat, copy_content};
use crate::path::LayerPath;
use crate::stack::{Found, Stack, object, owner};

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
    for (path, holds_only_deletions) in implied {
        let found = below.lookup(path)?;
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

/// Makes in `into`, a fresh directory, the layer `from` with other assumptions. `assumed` and `absent` together name the
/// same directories as those that `from` was made with.
pub(super) fn variant(
    from: &Dir,
    into: &Dir,
    here: &Assumptions,
    abilities: Abilities,
    losses: &mut Losses,
) -> Result<()> {
    let assumed = &here.directories;
    let mut directories = vec![LayerPath::ROOT];
    let mut next = 0;
    // Paths instead of handles: a layer decides how deep it is.
    while let Some(path) = directories.get(next).cloned() {
        next += 1;
        let (source, target) = (from.open_dir(path.as_path())?, into.open_dir(path.as_path())?);
        for entry in source.names()? {
            let name = Path::new(OsStr::from_bytes(&entry.name));
            let stat = source.stat(name)?;
            if stat.kind == Kind::Directory {
                let path = path.join(&entry.name);
                if here.absent.contains(&path) {
                    continue;
                }
                target.create_private_dir(name)?;
                directories.push(path);
            } else {
                match source.hard_link(name, &target, name) {
                    // The file system counts no further, or does not let this process link this file.
                    Err(error) if matches!(error.errno(), Some(Errno::MLINK | Errno::PERM)) => {
                        copy(&source, &target, name, &stat)?;
                    }
                    done => done?,
                }
            }
        }
    }
    // What was made in a directory has changed its time; the order above has parents first.
    let is_assumed = |path: &LayerPath| assumed.binary_search_by(|one| one.path.cmp(path)).is_ok();
    for path in directories.iter().rev() {
        let only_marks = is_assumed(path);
        copy_metadata(from, into, path.as_path(), only_marks)?;
    }
    apply(into, assumed, abilities, losses)
}

/// Copies a file with everything as it is on disk, marks and recorded owners included.
pub(super) fn copy(source: &Dir, target: &Dir, name: &Path, stat: &Stat) -> Result<()> {
    match stat.kind {
        Kind::File => {
            let to = target.create_file(name, 0o600)?;
            copy_content(&source.open_file(name)?, &to, stat.size)
                .at_path("copy to", || target.path_of(name))?;
        }
        Kind::Symlink => target.create_symlink(&source.read_link(name)?, name)?,
        kind => target.create_node(name, kind, 0o600, stat.node)?,
    }
    copy_raw(source, target, name, stat, |_| true)
}

fn copy_metadata(from: &Dir, into: &Dir, path: &Path, only_marks: bool) -> Result<()> {
    let stat = from.stat(path)?;
    let keep =
        |name: &[u8]| !only_marks || crate::whiteout::unescape(name) == crate::whiteout::Stored::Private;
    copy_raw(from, into, path, &stat, keep)
}

/// Gives `path` in `into` the owner, mode, time and those attributes of `path` in `from` that are to be kept.
pub(super) fn copy_raw(
    from: &Dir,
    into: &Dir,
    path: &Path,
    stat: &Stat,
    keep: impl Fn(&[u8]) -> bool,
) -> Result<()> {
    let found = into.stat(path)?;
    if (found.uid, found.gid) != (stat.uid, stat.gid) {
        into.set_owner(path, stat.uid, stat.gid)?;
    }
    // Attributes before the mode: without privilege they need the right to write.
    let present = into.xattrs(path)?; // labels that the machine gives every file, which not everyone may set
    for (name, value) in from.xattrs(path)?.iter().filter(|(name, _)| keep(name)) {
        if present.get(name) != Some(value) {
            into.set_xattr(path, name, value)?;
        }
    }
    if stat.kind != Kind::Symlink {
        into.set_mode(path, stat.mode)?;
    }
    into.set_mtime(path, stat.mtime)
}
