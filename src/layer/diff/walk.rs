//! The order of events: a directory before what is in it, deletions first, and every directory that leads to an event.
//!
//! One pass, with a stack of its own instead of recursion, because a container decides how deep its tree is; one open
//! directory at a time.

use std::cell::Cell;
use std::collections::HashMap;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::sync::Arc;

use super::compare::Verdict;
use super::links::{self, Groups, Inode};
use super::listing::{Child, Listing};
use super::{Diff, DiffEntry, DiffError, DiffEvent, EntryChange, Place};
use crate::fs::{Dir, Kind, Optional};
use crate::path::LayerPath;
use crate::stack::Found;
use crate::stack::object::Object;

/// One directory on the way.
struct Open {
    path: LayerPath,
    children: std::vec::IntoIter<Child>,
    /// It is no event unless something in it is.
    silent: bool,
}

/// A walk over the writable directory.
pub(super) struct Walk<'d, 'a> {
    diff: &'d Diff<'a>,
    groups: Groups,
    /// The first name of each inode with several that was an event.
    written: HashMap<Inode, LayerPath>,
    open: Vec<Open>,
    /// The directory of the name that was visited last; the next is mostly in it, too.
    handle: Option<(LayerPath, Arc<Dir>)>,
}

type Visit<'v, E> = &'v mut dyn FnMut(DiffEvent<'_>) -> Result<(), E>;

impl<'d, 'a> Walk<'d, 'a> {
    pub(super) fn new(diff: &'d Diff<'a>) -> Self {
        Self { diff, groups: Groups::default(), written: HashMap::new(), open: Vec::new(), handle: None }
    }

    /// Calls `visit` for every event.
    pub(super) fn run<E: From<DiffError>>(&mut self, visit: Visit<'_, E>) -> Result<(), E> {
        let diff = self.diff;
        if let Some(root) = diff.root()? {
            self.visit(root, visit)?;
        }
        while let Some(directory) = self.open.last_mut() {
            match directory.children.next() {
                Some(child) => self.visit(child, visit)?,
                None => drop(self.open.pop()),
            }
        }
        Ok(())
    }

    fn visit<E: From<DiffError>>(&mut self, mut child: Child, visit: Visit<'_, E>) -> Result<(), E> {
        let mut kind = None;
        if !child.untouched {
            let Child { path, stat, below, found, .. } = &mut child;
            let below = below.look(self.diff, path)?;
            let parent = if found.is_none() { self.parent(path)? } else { None };
            let place = match (found, &parent, path.file_name()) {
                (Some(found), ..) => self.diff.place_of(path, found),
                (None, Some(dir), Some(name)) => {
                    Place { dir, name: OsStr::from_bytes(name).as_ref(), found: None }
                }
                _ => self.diff.place(path),
            };
            let compared = self.diff.compare(path, place, stat, below, &mut self.groups)?;
            let Some((object, verdict)) = compared else {
                // It vanished, so it is not there.
                return if below.is_some() { self.delete(path, visit) } else { Ok(()) };
            };
            kind = match verdict {
                Verdict::Added => Some(EntryChange::Added),
                Verdict::Changed => Some(EntryChange::Changed),
                Verdict::Touched => Some(EntryChange::Touched),
                Verdict::Same => None,
            };
            if let Some(kind) = kind {
                self.emit(kind, path.clone(), object, (parent.as_deref(), place.found), visit)?;
            }
        }
        if child.stat.kind == Kind::Directory {
            let path = child.path.clone();
            let Listing { deleted, children } = self.diff.list(child, &mut self.groups)?;
            self.open.push(Open { path, children: children.into_iter(), silent: kind.is_none() });
            for path in deleted {
                self.delete(&path, visit)?;
            }
        }
        Ok(())
    }

    /// The directory that `path` is in; `None` for the root, or if it vanished.
    fn parent(&mut self, path: &LayerPath) -> Result<Option<Arc<Dir>>, DiffError> {
        let Some(parent) = path.parent() else { return Ok(None) };
        if self.handle.as_ref().is_none_or(|(at, _)| *at != parent) {
            let dir = self.diff.tree().dir.open_dir(parent.as_path()).optional()?;
            self.handle = dir.map(|dir| (parent, Arc::new(dir)));
        }
        Ok(self.handle.as_ref().map(|(_, dir)| Arc::clone(dir)))
    }

    fn delete<E: From<DiffError>>(&mut self, path: &LayerPath, visit: Visit<'_, E>) -> Result<(), E> {
        self.emit_silent(visit)?;
        visit(DiffEvent::Deleted(path))
    }

    fn emit<E: From<DiffError>>(
        &mut self,
        kind: EntryChange,
        path: LayerPath,
        object: Object,
        (parent, found): (Option<&Dir>, Option<&Found>),
        visit: Visit<'_, E>,
    ) -> Result<(), E> {
        self.emit_silent(visit)?;
        let inode = links::inode(found.map_or(0, Found::tree), &object.stat);
        let link_to = inode.and_then(|inode| self.written.get(&inode)).cloned();
        let (diff, disowned) = (self.diff, Cell::new(false));
        let entry = DiffEntry { kind, path, object, link_to, diff, parent, found, disowned };
        visit(DiffEvent::Present(&entry))?;
        if let Some(inode) = inode.filter(|_| entry.link_to.is_none() && !entry.disowned.get()) {
            self.written.insert(inode, entry.path);
        }
        Ok(())
    }

    /// Makes events of the directories that lead to one.
    fn emit_silent<E: From<DiffError>>(&mut self, visit: Visit<'_, E>) -> Result<(), E> {
        // Above a directory that is an event, all are.
        let first = self.open.iter().rposition(|directory| !directory.silent).map_or(0, |last| last + 1);
        for directory in &mut self.open[first..] {
            directory.silent = false;
            let path = directory.path.clone();
            // A layer that says nothing of its root leaves that to the layers below.
            if path.is_root() {
                continue;
            }
            if let Some(object) = self.diff.object(&path, self.diff.place(&path))? {
                let (kind, diff) = (EntryChange::Touched, self.diff);
                visit(DiffEvent::Present(&DiffEntry {
                    kind,
                    path,
                    object,
                    link_to: None,
                    diff,
                    parent: None,
                    found: None,
                    disowned: Cell::new(false),
                }))?;
            }
        }
        Ok(())
    }
}
