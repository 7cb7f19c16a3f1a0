//! Deletions: whiteouts and opaque markers.
//!
//! Both act on lower layers only, whatever their place in the tar, so the end of the layer settles them. A deletion is
//! not an entry: a whiteout makes no directory on its way. On disk it needs the directory that holds it all the same, so
//! [`Unpacker::mark_deleted`] makes the missing ones and lists them as [`Unpacked::deletion_parents`]. A layer below that
//! has no such directory has nothing to delete there; then the directory must not be in the layer (`bind.rs`).
//!
//! An opaque marker says of its directory that it has no content from below. So it makes that directory, as in all
//! other engines, unless a whiteout of the same layer deletes it.
//!
//! [`Unpacked::deletion_parents`]: super::Unpacked::deletion_parents

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use super::entries::{Unpacker, split};
use super::error::UnpackError;
use super::place::Of;
use super::target::Target;
use crate::fs::Optional;
use crate::path::LayerPath;

impl<D: Target> Unpacker<'_, D> {
    /// Remembers an opaque marker in the directory `of.path`.
    pub(super) fn opaque(&mut self, of: Of<'_>) -> Result<(), UnpackError> {
        let path = of.path;
        let is_settled = match self.places.below {
            Some(below) if below.first.without_directory.contains(path) => return Ok(()),
            Some(_) => true,
            // Something else than a directory is replaced by one at once, or a later entry could not be the last.
            None => self.places.is_directory(path) || self.places.is_covered(path)?,
        };
        if is_settled {
            return self.make_opaque(of);
        }
        if !self.places.opaque_markers.contains_key(path) {
            self.places.remember(path, of)?;
            self.places.opaque_markers.insert(path.clone(), of.index);
        }
        Ok(())
    }

    fn make_opaque(&mut self, of: Of<'_>) -> Result<(), UnpackError> {
        let place = self.places.directory(of.path, of)?;
        self.places.remember(&place.path, of)?;
        self.places.deletions.opaque.insert(place.path.clone());
        Ok(())
    }

    /// Makes the directories of opaque markers that no entry has made. Returns those that the layer deletes: they are
    /// not made.
    pub(super) fn make_opaque_directories(&mut self) -> Result<BTreeSet<LayerPath>, UnpackError> {
        let mut without = BTreeSet::new();
        for (path, index) in std::mem::take(&mut self.places.opaque_markers) {
            if !self.places.is_directory(&path) {
                if self.places.is_covered(&path)? {
                    continue; // a later entry came instead
                }
                let missing = |at: &LayerPath| !self.places.is_directory(at);
                let way = path.ancestors().chain([path.clone()]).filter(missing);
                if { way }.any(|at| self.places.deletions.whiteouts.contains(&at)) {
                    without.insert(path);
                    continue;
                }
            }
            self.make_opaque(Of { index, path: &path })?;
        }
        Ok(without)
    }

    /// Remembers the deletion of `of.path`.
    pub(super) fn whiteout(&mut self, of: Of<'_>) -> Result<(), UnpackError> {
        let path = of.path;
        let (parent, _) = split(path);
        let mut deleted = path.clone();
        if !self.places.is_directory(&parent) {
            // umoci deletes what was in a directory also where the layer has a file or a link instead.
            if self.places.is_covered(&parent)? {
                return Ok(());
            }
            if self.places.below.is_some() {
                // In a directory that is not there, nothing can be deleted.
                let Some(located) = self.places.locate(path, of)? else { return Ok(()) };
                deleted = located;
            }
            self.places.reserve_parents(&deleted, of)?;
        }
        self.places.remember(&deleted, of)?;
        self.places.deletions.whiteouts.insert(deleted);
        Ok(())
    }

    /// Makes the whiteouts of names that this layer does not have itself, in directories that are not opaque. Returns the
    /// directories that had to be made for them.
    pub(super) fn mark_deleted(&mut self, opaque: &[LayerPath]) -> Result<BTreeSet<LayerPath>, UnpackError> {
        let mut opaque = opaque.iter().peekable();
        let mut top: Option<&LayerPath> = None;
        let mut made = BTreeSet::new();
        let whiteouts = std::mem::take(&mut self.places.deletions.whiteouts);
        for path in &whiteouts {
            // Both run in order: the last top at or before the path is the only one that it can lie below.
            while let Some(next) = opaque.next_if(|next| *next <= path) {
                top = Some(next);
            }
            if top.is_some_and(|top| path.starts_with(top)) {
                continue;
            }
            let Some((parent, name)) = path.parent().zip(path.file_name()) else { continue };
            if !self.places.is_directory(&parent) && !self.make_deletion_parents(&parent, &mut made)? {
                continue;
            }
            if self.places.root.stat(path.as_path()).optional()?.is_some() {
                continue;
            }
            let name = Path::new(OsStr::from_bytes(name));
            self.places.root.whiteout(self.abilities.family, parent.as_path(), name)?;
            self.measure.names += 1;
        }
        self.places.deletions.whiteouts = whiteouts;
        Ok(made)
    }

    /// Makes the directory `path` and those on the way to it, and adds them to `made`. Returns `false` if a deletion in
    /// there has no effect: the layer has something else on the way, which hides all, or the layers below are known and
    /// have no such directory.
    fn make_deletion_parents(
        &mut self,
        path: &LayerPath,
        made: &mut BTreeSet<LayerPath>,
    ) -> Result<bool, UnpackError> {
        // Shorter paths come first: what is deleted on the way is a whiteout by now.
        if self.places.is_covered(path)? {
            return Ok(false);
        }
        if let Some(below) = self.places.below
            && !below.stack.lookup(path)?.is_some_and(|found| found.is_directory())
        {
            return Ok(false);
        }
        for at in path.ancestors().chain([path.clone()]) {
            if !self.places.is_directory(&at) {
                self.places.root.create_private_dir(at.as_path())?;
                self.places.known.insert(at.clone(), None);
                made.insert(at);
            }
        }
        Ok(true)
    }
}
