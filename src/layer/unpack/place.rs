//! [`Places`]: the directories of a layer in the making, and where an entry's name leads.
//!
//! The invariant that makes everything else safe: [`Places::known`] lists exactly the directories below the layer's root,
//! each made by this unpacking, and a name is opened only through a parent from that list. A symlink on the way is
//! resolved here, component by component, against the list and never by the kernel; so nothing leads out of the root,
//! whatever the archive says and in whichever order.

use std::cell::Cell;
use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;
use std::fs::File;
use std::os::unix::ffi::OsStrExt;
use std::rc::Rc;

use super::error::UnpackError;
use super::target::Target;
use super::{Below, Deletions};
use crate::changeset::ChangesetError;
use crate::fs::{FileType, Kind, Metadata, Optional, Stat};
use crate::limits::Limits;
use crate::path::{LONGEST_PATH, LayerPath, is_file_name};

/// Symbolic links followed for one name at most, as in the kernel.
const LINKS: usize = 40;

/// Open directories kept. Tars hold a directory's entries together, so that few are in use at a time.
const OPEN: usize = 16;

/// What an item takes beside its path, in maps that are about half full.
const ITEM: usize = 300;

/// A directory of the layer, opened.
#[derive(Debug)]
pub(super) struct Place<D> {
    /// Where it is, symlinks resolved.
    pub(super) path: LayerPath,
    /// Its handle.
    pub(super) dir: D,
    /// What becomes of new files in it.
    pub(super) custom: Cell<Custom>,
}

/// What the kernel makes of the mode and the owner of new files in a directory, as far as that was seen. It is asked, not
/// foreseen: it depends on the umask, on the mount and on the directory.
#[derive(Clone, Copy, Default, Debug)]
pub(super) struct Custom {
    /// Whose they are.
    owner: Option<(u32, u32)>,
    /// Bits of the mode that were asked for, and which of them were given.
    asked: u32,
    given: u32,
}

/// Owner and mode of a file that has just been created.
#[derive(Clone, Copy, Debug)]
pub(super) struct AsMade {
    pub(super) owner: (u32, u32),
    pub(super) mode: u32,
}

impl<D> Place<D> {
    pub(super) fn new(path: LayerPath, dir: D) -> Self {
        Self { path, dir, custom: Cell::default() }
    }

    /// What `file` is like, which was created in here with the permissions `asked`.
    pub(super) fn as_made(&self, file: &File, asked: u32) -> rustix::io::Result<AsMade> {
        let custom = self.custom.get();
        if let Some(owner) = custom.owner.filter(|_| asked & !custom.asked == 0) {
            return Ok(AsMade { owner, mode: asked & custom.given });
        }
        let Stat { uid, gid, mode, .. } = Stat::of(file)?;
        let owner = (uid, gid);
        if mode & !asked == 0 {
            let given = custom.given & !asked | mode;
            self.custom.set(Custom { owner: Some(owner), asked: custom.asked | asked, given });
        }
        Ok(AsMade { owner, mode })
    }
}

/// The directories of a layer in the making.
#[derive(Debug)]
pub(super) struct Places<'a, D> {
    /// The layer's root.
    pub(super) root: &'a D,
    /// What is below the layer, if that is known.
    pub(super) below: Option<&'a Below<'a>>,
    /// Every directory but the root, with what the layer says of it; `None` while it has said nothing.
    pub(super) known: BTreeMap<LayerPath, Option<Metadata>>,
    /// What the layer deletes.
    pub(super) deletions: Deletions,
    /// Directories that hold deletions and were no directories of this layer when those came. Only memory is reserved for
    /// them: the end of the layer decides whether they are made (`deletions.rs`).
    pub(super) deletion_parents: BTreeSet<LayerPath>,
    /// Opaque markers in directories that were no directories of this layer when they came, with their entries.
    pub(super) opaque_markers: BTreeMap<LayerPath, u64>,
    /// Hard links that wait for their target: name, and what is known of them.
    pub(super) waiting: BTreeMap<LayerPath, Waiting>,
    /// Whether something was taken away again, so that counting what was made does not tell what is there.
    pub(super) recount: bool,
    /// Bytes of memory that may still be used for all of these.
    memory: u64,
    limit: u64,
    /// The directories opened last, by the name that led to them; the last one used stands first.
    open: Vec<(LayerPath, Rc<Place<D>>)>,
}

/// A hard link that waits for its target.
#[derive(Clone, Debug)]
pub(super) struct Waiting {
    /// The entry.
    pub(super) index: u64,
    /// What it links to, as the entry says.
    pub(super) target: LayerPath,
}

/// What to do about directories that are missing on the way.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Missing {
    Make,
    Leave,
    /// Names that this layer deletes are not missing.
    LeaveAndIgnoreDeletions,
}

/// An entry on its way to its place, for messages.
#[derive(Clone, Copy, Debug)]
pub(super) struct Of<'e> {
    pub(super) index: u64,
    pub(super) path: &'e LayerPath,
}

impl Of<'_> {
    fn misplaced(self, reason: &'static str) -> UnpackError {
        UnpackError::Place { index: self.index, path: self.path.clone(), reason }
    }

    fn exceeds(self, limit: &'static str, maximum: u64) -> UnpackError {
        let name = self.path.to_string();
        UnpackError::Tar(ChangesetError::Limit { index: self.index, name, limit, maximum })
    }
}

impl<'a, D: Target> Places<'a, D> {
    /// Starts with nothing but the root.
    pub(super) fn new(root: &'a D, below: Option<&'a Below<'a>>, limits: &Limits) -> Self {
        Self {
            root,
            below,
            known: BTreeMap::new(),
            deletions: Deletions::default(),
            deletion_parents: BTreeSet::new(),
            opaque_markers: BTreeMap::new(),
            waiting: BTreeMap::new(),
            recount: false,
            memory: limits.layer_memory,
            limit: limits.layer_memory,
            open: Vec::new(),
        }
    }

    /// Makes room for one more path to remember.
    pub(super) fn remember(&mut self, path: &LayerPath, of: Of<'_>) -> Result<(), UnpackError> {
        // What is implied is listed once more at the end.
        self.take(2 * path.as_bytes().len() + ITEM, of)
    }

    /// A path of a few kilobytes names a thousand directories, and an archive of a few kilobytes holds a thousand such
    /// paths: so it is not enough to count entries.
    fn take(&mut self, bytes: usize, of: Of<'_>) -> Result<(), UnpackError> {
        match self.memory.checked_sub(bytes as u64) {
            Some(left) => {
                self.memory = left;
                Ok(())
            }
            None => Err(of.exceeds("layer_memory", self.limit)),
        }
    }

    /// Makes room for the directories on the way to the deletion of `path`, in case they have to be made for it.
    pub(super) fn reserve_parents(&mut self, path: &LayerPath, of: Of<'_>) -> Result<(), UnpackError> {
        let mut next = path.parent();
        while let Some(parent) = next.filter(|parent| !self.is_directory(parent)) {
            if self.deletion_parents.contains(&parent) {
                break;
            }
            self.take(4 * parent.as_bytes().len() + 2 * ITEM, of)?;
            next = parent.parent();
            self.deletion_parents.insert(parent);
        }
        Ok(())
    }

    /// Remembers a directory, and what the layer says of it.
    pub(super) fn know(
        &mut self,
        path: LayerPath,
        declared: Option<Metadata>,
        of: Of<'_>,
    ) -> Result<(), UnpackError> {
        if !self.known.contains_key(&path) {
            self.remember(&path, of)?;
        }
        self.take(xattr_bytes(declared.as_ref()), of)?;
        let before = self.known.insert(path, declared).flatten();
        self.memory += xattr_bytes(before.as_ref()) as u64;
        Ok(())
    }

    /// Whether `path` is a directory of this layer.
    pub(super) fn is_directory(&self, path: &LayerPath) -> bool {
        path.is_root() || self.known.contains_key(path)
    }

    /// Whether the layer has something on the way to the directory `path`, or in its place, that is no directory: nothing
    /// that the layers below have there can be seen.
    pub(super) fn is_covered(&self, path: &LayerPath) -> Result<bool, UnpackError> {
        if self.is_directory(path) {
            return Ok(false);
        }
        let mut way = path.ancestors().chain([path.clone()]);
        let Some(first) = way.find(|at| !self.is_directory(at)) else { return Ok(false) };
        Ok(self.waiting.contains_key(&first) || self.root.stat(first.as_path()).optional()?.is_some())
    }

    /// The directory that `path` leads to. What is missing on the way is made, and what is neither a directory nor a
    /// symlink is replaced by one.
    pub(super) fn directory(&mut self, path: &LayerPath, of: Of<'_>) -> Result<Rc<Place<D>>, UnpackError> {
        if let Some(at) = self.open.iter().position(|(name, _)| name == path) {
            self.open[..=at].rotate_right(1);
            return Ok(Rc::clone(&self.open[0].1));
        }
        let resolved = match self.is_directory(path) {
            true => path.clone(),
            false => self.resolve(path, Missing::Make, of)?.expect("what is missing was made"),
        };
        let dir = self.root.open_dir(resolved.as_path())?;
        let place = Rc::new(Place::new(resolved, dir));
        self.open.truncate(OPEN - 1);
        self.open.insert(0, (path.clone(), Rc::clone(&place)));
        Ok(place)
    }

    /// Where `path` leads as a process in the root would see it, its last component not followed; `None` if a directory
    /// on the way is missing. It may be in this layer or below, and need not exist.
    pub(super) fn locate(&mut self, path: &LayerPath, of: Of<'_>) -> Result<Option<LayerPath>, UnpackError> {
        self.locate_with(path, Missing::Leave, of)
    }

    /// Where `path` leads, as [`Places::locate`], if the deletions of this layer are left out of account.
    pub(super) fn locate_deleted(
        &mut self,
        path: &LayerPath,
        of: Of<'_>,
    ) -> Result<Option<LayerPath>, UnpackError> {
        self.locate_with(path, Missing::LeaveAndIgnoreDeletions, of)
    }

    fn locate_with(
        &mut self,
        path: &LayerPath,
        missing: Missing,
        of: Of<'_>,
    ) -> Result<Option<LayerPath>, UnpackError> {
        let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
            return Ok(Some(LayerPath::ROOT));
        };
        if self.is_directory(&parent) {
            return Ok(Some(path.clone()));
        }
        Ok(self.resolve(&parent, missing, of)?.map(|parent| parent.join(name)))
    }

    /// Makes the directory `path`, which lies in `parent`, taking away the file that the layer has had there.
    pub(super) fn make(&mut self, parent: &D, path: &LayerPath, of: Of<'_>) -> Result<(), UnpackError> {
        let name = OsStr::from_bytes(path.file_name().expect("the root is made by others"));
        match parent.create_private_dir(name) {
            Err(error) if error.is_exists() => {
                parent.remove_file(name)?;
                self.recount = true;
                self.open.clear(); // a symlink may have been on the way to one of these
                parent.create_private_dir(name)?;
                self.remember(path, of)?;
                self.deletions.replaced.insert(path.clone());
            }
            done => done?,
        }
        self.take_over(path);
        self.know(path.clone(), None, of)
    }

    /// Takes away what the layer has had at `path` until now, which lies in `parent`.
    pub(super) fn clear(&mut self, parent: &D, path: &LayerPath) -> Result<(), UnpackError> {
        let name = path.file_name().expect("the root is never taken away");
        self.open.clear();
        self.recount = true;
        if self.known.contains_key(path) {
            remove_subtree(&mut self.known, path);
            remove_subtree(&mut self.waiting, path);
            parent.remove_all(name)?;
        } else {
            self.waiting.remove(path);
            parent.remove_file(OsStr::from_bytes(name)).optional()?;
        }
        Ok(())
    }

    /// Forgets a hard link that waits to become `path`, where a directory is made now: it has come instead of the link.
    pub(super) fn take_over(&mut self, path: &LayerPath) {
        if self.waiting.remove(path).is_some() {
            self.deletions.replaced.insert(path.clone());
        }
    }

    /// Forgets a hard link that waits to become `name` in `parent`, since that exists now: the last entry wins.
    pub(super) fn supersede(&mut self, parent: &LayerPath, name: &[u8]) {
        if !self.waiting.is_empty() || !self.opaque_markers.is_empty() {
            let path = parent.join(name);
            self.waiting.remove(&path);
            self.forget_markers(&path);
        }
    }

    /// Forgets opaque markers at and below `path`, where something else than a directory is now.
    pub(super) fn forget_markers(&mut self, path: &LayerPath) {
        remove_subtree(&mut self.opaque_markers, path);
    }

    /// Follows `path` to a directory.
    fn resolve(
        &mut self,
        path: &LayerPath,
        missing: Missing,
        of: Of<'_>,
    ) -> Result<Option<LayerPath>, UnpackError> {
        let mut todo: Vec<Vec<u8>> = path.components().rev().map(<[u8]>::to_vec).collect();
        let mut at = LayerPath::ROOT;
        let mut links = 0;
        while let Some(component) = todo.pop() {
            match &component[..] {
                b"" | b"." => continue,
                b".." => {
                    at = at.parent().unwrap_or_default();
                    continue;
                }
                name if !is_file_name(name) => return Err(of.misplaced("a link on the way holds a NUL byte")),
                _ => {}
            }
            let next = at.join(&component);
            if next.as_bytes().len() > LONGEST_PATH {
                return Err(of.misplaced("links on the way lead to a path that is too long"));
            }
            if self.known.contains_key(&next) {
                at = next;
                continue;
            }
            match self.found(&at, &next, missing)? {
                Some(FileType::Symlink(target)) => {
                    links += 1;
                    if links > LINKS {
                        return Err(of.misplaced("too many symbolic links are on the way"));
                    }
                    if target.starts_with(b"/") {
                        at = LayerPath::ROOT;
                    }
                    todo.extend(target.split(|&byte| byte == b'/').rev().map(<[u8]>::to_vec));
                }
                Some(FileType::Directory) if missing != Missing::Make => at = next,
                _ if missing != Missing::Make => return Ok(None),
                _ => {
                    let parent = self.root.open_dir(at.as_path())?;
                    self.make(&parent, &next, of)?;
                    at = next;
                }
            }
        }
        Ok(Some(at))
    }

    /// What `path` in the directory `parent` is, in this layer or below; it is no directory of this layer.
    fn found(
        &self,
        parent: &LayerPath,
        path: &LayerPath,
        missing: Missing,
    ) -> Result<Option<FileType>, UnpackError> {
        let here = if self.is_directory(parent) { self.root.stat(path.as_path()).optional()? } else { None };
        if let Some(stat) = here {
            return Ok(Some(match stat.kind {
                Kind::Symlink => FileType::Symlink(self.root.read_link(path.as_path())?),
                _ => FileType::File { size: 0 }, // or something else that is not followed
            }));
        }
        let Some(below) = self.below else { return Ok(None) };
        let is_hidden = match missing {
            Missing::LeaveAndIgnoreDeletions => self.deletions.replace(path),
            Missing::Make | Missing::Leave => self.is_deleted(path),
        };
        if is_hidden {
            return Ok(None);
        }
        match below.stack.lookup(path)? {
            // A directory of this layer takes the place of anything else, wherever in the layer its entry stands.
            Some(found) if !found.is_directory() && below.first.declares(path) => Ok(None),
            Some(found) => Ok(Some(below.stack.object(path, &found)?.file_type)),
            None => Ok(None),
        }
    }

    /// Whether nothing of what the layers below have at `path` is left by now: deletions act before every entry,
    /// directories replace when they come.
    pub(super) fn is_deleted(&self, path: &LayerPath) -> bool {
        let first = self.below.map(|below| &below.first.deletions);
        self.deletions.hide(path) || first.is_some_and(|deletions| deletions.delete(path))
    }
}

impl Deletions {
    /// Whether what the layers below have at `path` is deleted or replaced.
    pub(super) fn hide(&self, path: &LayerPath) -> bool {
        self.delete(path) || self.replace(path)
    }

    /// Whether a directory of this layer replaced what the layers below have at `path`, or above it.
    pub(super) fn replace(&self, path: &LayerPath) -> bool {
        let replaced = |path: &LayerPath| self.replaced.contains(path);
        !self.replaced.is_empty() && (replaced(path) || path.ancestors().any(|above| replaced(&above)))
    }

    /// Whether what the layers below have at `path` is deleted.
    fn delete(&self, path: &LayerPath) -> bool {
        let gone = |above: LayerPath| self.whiteouts.contains(&above) || self.opaque.contains(&above);
        self.whiteouts.contains(path) || path.ancestors().any(gone)
    }
}

/// What attributes take that are kept until the end.
fn xattr_bytes(metadata: Option<&Metadata>) -> usize {
    let xattrs = metadata.into_iter().flat_map(|metadata| &metadata.xattrs);
    xattrs.map(|(name, value)| name.len() + value.len() + ITEM).sum()
}

/// Removes `path` and everything below it from a map.
fn remove_subtree<V>(map: &mut BTreeMap<LayerPath, V>, path: &LayerPath) {
    // A directory sorts right before what it holds.
    let doomed: Vec<_> =
        map.range(path..).map(|(name, _)| name).take_while(|name| name.starts_with(path)).cloned().collect();
    for name in doomed {
        map.remove(&name);
    }
}
