//! [`Diff`]: what changed between a writable directory and the layers below it, as an ordered stream of events.
//!
//! The invariant: applied to the layers below, the events give what the writable directory shows, in every name, byte,
//! attribute and hard link; and what did not change is no event, even if it was copied up or touched in between. The
//! same edits give the same events whether they were made over an overlay mount or in a copy.
//!
//! Order: a directory before what is in it; in one directory first the deleted names, then the others, each by bytes.
//! Every directory on the way to an event is itself an event, so that a layer made of them declares its directories.
//! The order is kept in `walk`; how names are found is in `listing`, when two objects are the same in `compare`, hard
//! links in `links`.

use std::cell::Cell;
use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;
use std::fmt;
use std::fs::File;
use std::ops::Range;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use rustix::io::Errno;

use crate::fs::{self, Dir, Kind, Optional, Timestamp};
use crate::path::LayerPath;
use crate::stack::object::{self, Object};
use crate::stack::{Found, Stack, Tree};

use super::pack::Source;
use super::xattrs::XattrPolicy;
use walk::Walk;

mod compare;
mod links;
mod listing;
mod walk;

/// Which part of a root is looked at. The default is all of it, but for attributes that belong to the machine.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
#[non_exhaustive]
pub struct Selection {
    /// Names that are neither looked at nor missed, with everything below them: what an engine puts into a root for
    /// its own purposes, such as mountpoints.
    pub exclude: BTreeSet<LayerPath>,
    /// Which attributes count. Others make no difference and are not written.
    pub xattrs: XattrPolicy,
}

impl Selection {
    /// Leaves out `path` and everything below it, too.
    #[must_use]
    pub fn exclude(mut self, path: LayerPath) -> Self {
        self.exclude.insert(path);
        self
    }

    /// With another policy for attributes.
    #[must_use]
    pub fn xattrs(mut self, policy: XattrPolicy) -> Self {
        self.xattrs = policy;
        self
    }

    /// Whether `path`, or a directory above it, is left out.
    pub fn excludes(&self, path: &LayerPath) -> bool {
        let set = &self.exclude;
        !set.is_empty() && (set.contains(path) || path.ancestors().any(|above| set.contains(&above)))
    }
}

/// What must be known of a directory that was made as a copy of a stack, to tell what was changed in it since.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct CopyRecord {
    /// The change times of the copy, by the clock of the file system. Whatever was changed, linked or renamed since has
    /// one outside: a later one, or an earlier one if the clock was set back.
    pub untouched: Range<Timestamp>,
    /// Every directory of the copy with its inode number. A directory of that number under another path was moved
    /// there, and what it holds was never copied to that place.
    pub directories: BTreeMap<LayerPath, u64>,
}

/// The comparison of a writable directory with what it was made on.
#[derive(Debug)]
pub struct Diff<'a> {
    /// What the root shows; only the topmost tree is walked.
    view: Stack<'a>,
    below: Stack<'a>,
    shape: Shape<'a>,
    selection: Selection,
}

/// Where something is in the walked tree.
#[derive(Clone, Copy)]
struct Place<'p> {
    dir: &'p Dir,
    /// Relative to `dir`.
    name: &'p Path,
    /// What the root has there, where it was found in more than one tree.
    found: Option<&'p Found>,
}

impl Place<'_> {
    /// The position of the tree that it is in.
    fn tree(&self) -> usize {
        self.found.map_or(0, Found::tree)
    }
}

/// How the writable directory relates to what is below.
#[derive(Clone, Copy, Debug)]
enum Shape<'a> {
    /// It holds what was changed, in overlayfs's form.
    Upper,
    /// It holds everything, changed or not.
    Copied(&'a CopyRecord),
    /// There is nothing below.
    Whole,
    /// It is this many layers, which hold what was changed.
    Layers(usize),
}

impl<'a> Diff<'a> {
    /// Compares an upper directory, the topmost tree of `stack`, with the trees below it. Only the upper directory is
    /// walked, so this takes time by what was changed.
    ///
    /// It may be mounted meanwhile; what changes while it is read may or may not be seen.
    ///
    /// # Panics
    ///
    /// If `stack` is empty.
    pub fn of_upper(stack: Stack<'a>) -> Self {
        Self { below: stack.below(), view: stack, shape: Shape::Upper, selection: Selection::default() }
    }

    /// Compares `copy`, made as `record` says from what `below` shows, with it. Every inode is looked at, but only
    /// those that were touched are compared.
    pub fn of_copy(copy: &'a Tree, below: Stack<'a>, record: &'a CopyRecord) -> Self {
        let shape = Shape::Copied(record);
        Self { view: Stack::new([copy]), below, shape, selection: Selection::default() }
    }

    /// Takes everything in `tree`, its root included, as added to nothing.
    pub fn of_directory(tree: &'a Tree) -> Self {
        let (view, below) = (Stack::new([tree]), Stack::default());
        Self { view, below, shape: Shape::Whole, selection: Selection::default() }
    }

    /// Compares what `stack` shows with what it shows without its topmost `count` trees, which are layers. Only directories
    /// that they have something in are walked. What they changed and changed back is no event.
    ///
    /// # Panics
    ///
    /// If the stack has fewer trees.
    pub fn of_topmost(stack: Stack<'a>, count: usize) -> Self {
        let below = Stack::new(stack.trees()[count..].iter().copied());
        Self { below, view: stack, shape: Shape::Layers(count), selection: Selection::default() }
    }

    /// The same comparison of another part.
    #[must_use]
    pub fn with(mut self, selection: Selection) -> Self {
        self.selection = selection;
        self
    }

    /// What changed, for people: sorted by path, directories of which only the time differs left out, the directories
    /// above a change listed as changed. The root is listed only if its own mode, owner or attributes changed.
    ///
    /// # Errors
    ///
    /// [`DiffError`].
    pub fn changes(&self) -> Result<Vec<Change>, DiffError> {
        let mut changes = Vec::new();
        // Directories above the present event that are not listed yet.
        let mut above: Vec<LayerPath> = Vec::new();
        self.walk::<DiffError>(&mut |event| {
            let (kind, path) = match event {
                DiffEvent::Deleted(path) => (ChangeKind::Deleted, path),
                DiffEvent::Present(DiffEntry { kind: EntryChange::Added, path, .. }) => {
                    (ChangeKind::Added, path)
                }
                DiffEvent::Present(DiffEntry { kind: EntryChange::Changed, path, .. }) => {
                    (ChangeKind::Changed, path)
                }
                DiffEvent::Present(DiffEntry { kind: EntryChange::Touched, path, .. }) => {
                    above.retain(|directory| path.starts_with(directory));
                    if !path.is_root() {
                        above.push(path.clone());
                    }
                    return Ok(());
                }
            };
            let touched = above.drain(..).filter(|directory| path.starts_with(directory));
            changes.extend(touched.map(|path| Change { kind: ChangeKind::Changed, path }));
            changes.push(Change { kind, path: path.clone() });
            Ok(())
        })?;
        changes.sort_by(|a, b| a.path.cmp(&b.path));
        Ok(changes)
    }

    /// Calls `visit` for every event, in order.
    ///
    /// # Errors
    ///
    /// What `visit` returns, or [`DiffError`].
    pub fn walk<E: From<DiffError>>(
        &self,
        visit: &mut dyn FnMut(DiffEvent<'_>) -> Result<(), E>,
    ) -> Result<(), E> {
        Walk::new(self).run(visit)
    }

    /// The tree that is walked.
    fn tree(&self) -> &'a Tree {
        self.view.tree(0)
    }

    /// Reads what the root has at `path`, which is at `place` in the walked tree; `None` if it vanished.
    fn object(&self, path: &LayerPath, place: Place<'_>) -> Result<Option<Object>, DiffError> {
        let mut object = match place.found {
            Some(found) => self.view.object(path, found).optional()?,
            None if self.follows() => {
                let Some(found) = self.view.lookup(path)? else { return Ok(None) };
                self.view.object(path, &found).optional()?
            }
            None => object::read(place.dir, place.name, self.tree().marks).optional()?,
        };
        if let Some(object) = &mut object {
            self.selection.xattrs.apply(&mut object.metadata.xattrs);
        }
        Ok(object)
    }

    /// Opens the regular file that the root has at `path`, which is at `place` in the walked tree; `None` if it vanished.
    fn content(&self, path: &LayerPath, place: Place<'_>) -> Result<Option<File>, DiffError> {
        if let Some(found) = place.found {
            return Ok(self.view.open(path, found).optional()?);
        }
        if self.follows() {
            let Some(found) = self.view.lookup(path)? else { return Ok(None) };
            return Ok(self.view.open(path, &found).optional()?);
        }
        Ok(place.dir.open_file(place.name).optional()?)
    }

    /// Whether what the root has under a name may lie in another tree than the topmost, or under another name there.
    fn follows(&self) -> bool {
        match self.shape {
            Shape::Upper => self.tree().marks.follows(),
            Shape::Layers(_) => true,
            Shape::Copied(_) | Shape::Whole => false,
        }
    }

    /// What the root has at `path`, if that is a directory that has another name in the layers below.
    fn moved(&self, path: &LayerPath) -> Result<Option<Found>, DiffError> {
        if !self.follows() {
            return Ok(None);
        }
        Ok(self.view.lookup(path)?.filter(|found| found.is_directory() && found.is_moved()))
    }

    /// Reads what the layers below have at `path`.
    fn object_below(&self, path: &LayerPath, found: &Found) -> Result<Object, DiffError> {
        let mut object = self.below.object(path, found)?;
        self.selection.xattrs.apply(&mut object.metadata.xattrs);
        Ok(object)
    }

    fn place<'p>(&self, path: &'p LayerPath) -> Place<'p>
    where
        'a: 'p,
    {
        Place { dir: &self.tree().dir, name: path.as_path(), found: None }
    }

    /// The place of what the root has at `path`.
    fn place_of<'p>(&self, path: &'p LayerPath, found: &'p Found) -> Place<'p>
    where
        'a: 'p,
    {
        Place { dir: &self.view.tree(found.tree()).dir, name: path.as_path(), found: Some(found) }
    }

    fn excludes(&self, path: &LayerPath) -> bool {
        // Nobody comes to names below an excluded one.
        self.selection.exclude.contains(path)
    }

    /// Refuses what an upper directory may hold that this walk would misread.
    fn check_marks(
        &self,
        path: &LayerPath,
        place: Place<'_>,
        kind: Kind,
        links_below: u64,
    ) -> Result<(), DiffError> {
        // Nobody mounts layers to write to them.
        if let Shape::Layers(_) = self.shape {
            return Ok(());
        }
        let Some(family) = self.tree().marks.family() else { return Ok(()) };
        let keys: &[&'static str] = match kind {
            // They are understood; an index is not.
            Kind::Directory if self.follows() => &[],
            Kind::File if self.follows() && links_below > 1 => &["nlink"],
            Kind::File if self.follows() => &[],
            Kind::Directory => &["redirect"],
            // Only an inode that has several names below carries the count of an index.
            Kind::File if links_below > 1 => &["metacopy", "nlink"],
            Kind::File => &["metacopy"],
            _ => &[],
        };
        for key in keys {
            if place.dir.xattr(place.name, family.key(key)).optional()?.flatten().is_some() {
                return Err(DiffError::Mark { path: path.clone(), mark: key });
            }
        }
        Ok(())
    }
}

/// One name that differs from the layers below, or leads to one.
#[derive(Clone, Copy, Debug)]
pub enum DiffEvent<'a> {
    /// The layers below have it, with everything under it, and the root does not.
    Deleted(&'a LayerPath),
    /// The root has it.
    Present(&'a DiffEntry<'a>),
}

impl<'a> DiffEvent<'a> {
    /// What differs.
    pub fn path(self) -> &'a LayerPath {
        match self {
            Self::Deleted(path) | Self::Present(DiffEntry { path, .. }) => path,
        }
    }
}

/// Something that the root has and the layers below do not have so.
#[derive(Debug)]
pub struct DiffEntry<'a> {
    /// How it differs.
    pub kind: EntryChange,
    /// Its name.
    pub path: LayerPath,
    /// What it is, with those attributes that belong to a layer.
    pub object: Object,
    /// An earlier event's path, if this is one more name of the same inode.
    pub link_to: Option<LayerPath>,
    diff: &'a Diff<'a>,
    /// The directory that it is in.
    parent: Option<&'a Dir>,
    /// What the root has there, where it was found in more than one tree.
    found: Option<&'a Found>,
    /// Whether further names of the inode are not to be links to this one.
    disowned: Cell<bool>,
}

impl Source for DiffEntry<'_> {
    fn read(&self) -> Result<Option<Object>, DiffError> {
        let place = match (self.found, self.parent, self.path.file_name()) {
            (Some(found), ..) => self.diff.place_of(&self.path, found),
            (None, Some(dir), Some(name)) => {
                Place { dir, name: OsStr::from_bytes(name).as_ref(), found: None }
            }
            _ => self.diff.place(&self.path),
        };
        self.diff.object(&self.path, place)
    }

    fn open(&self) -> fs::Result<(File, bool)> {
        let whole = match self.found {
            Some(found) => found.is_whole(),
            // Its content may lie in a tree below.
            None => !self.diff.follows(),
        };
        Ok((DiffEntry::open(self)?, whole))
    }
}

impl DiffEntry<'_> {
    /// Says that the event did not become what it said: the name leads to something else by now, or to nothing.
    pub(super) fn disown(&self) {
        self.disowned.set(true);
    }

    /// Opens the regular file.
    ///
    /// # Errors
    ///
    /// [`fs::Error`] if it vanished or cannot be opened.
    pub fn open(&self) -> fs::Result<File> {
        if let Some(found) = self.found {
            return self.diff.view.open(&self.path, found);
        }
        let tree = self.diff.tree();
        if self.diff.follows() {
            let view = &self.diff.view;
            return match view.lookup(&self.path)? {
                Some(found) => view.open(&self.path, &found),
                None => Err(fs::Error::new("open", tree.dir.path_of(self.path.as_path()), Errno::NOENT)),
            };
        }
        match (self.parent, self.path.file_name()) {
            (Some(parent), Some(name)) => parent.open_file(OsStr::from_bytes(name)),
            _ => tree.dir.open_file(self.path.as_path()),
        }
    }
}

/// How something that the root has differs from the layers below.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum EntryChange {
    /// The name is new.
    Added,
    /// Type, mode, owner, attributes, target, content or hard links differ; for anything but a directory, the time too.
    Changed,
    /// A directory that differs in nothing but perhaps its time, and may hold something that changed.
    Touched,
}

/// One line of a list of changes. Prints as `C /etc`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Change {
    /// What happened.
    pub kind: ChangeKind,
    /// Where.
    pub path: LayerPath,
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.kind, self.path)
    }
}

/// What happened to a name. Prints as one letter.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum ChangeKind {
    /// `A`: it is new.
    Added,
    /// `C`: it or something in it is different.
    Changed,
    /// `D`: it is gone.
    Deleted,
}

impl ChangeKind {
    /// The letter that stands for it.
    pub fn letter(self) -> char {
        match self {
            Self::Added => 'A',
            Self::Changed => 'C',
            Self::Deleted => 'D',
        }
    }
}

impl fmt::Display for ChangeKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.letter())
    }
}

/// Why two trees could not be compared.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DiffError {
    /// The upper directory was written by a mount with options under which it does not stand for itself.
    #[error("{path} carries overlay.{mark}: changes made under {} cannot be read", mount_option(mark))]
    Mark {
        /// The marked object.
        path: LayerPath,
        /// The attribute behind `overlay.`: `redirect`, `metacopy` or `nlink`.
        mark: &'static str,
    },
    /// The file system refused one step.
    #[error(transparent)]
    Io(#[from] fs::Error),
}

fn mount_option(mark: &str) -> &'static str {
    match mark {
        "redirect" => "redirect_dir=on",
        "metacopy" => "metacopy=on",
        _ => "index=on",
    }
}
