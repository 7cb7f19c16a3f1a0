//! The end of unpacking: deletions, which act on lower layers only and so are settled by what this layer holds, and the
//! metadata of directories, deepest first.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use super::content::BLOCK;
use super::entries::Unpacker;
use super::error::UnpackError;
use super::{First, Unpacked};
use crate::fs::{FileType, Metadata, Optional};
use crate::layer::Measure;
use crate::path::LayerPath;

impl Unpacker<'_> {
    /// Ends the layer after its last entry.
    pub(super) fn finish(mut self) -> Result<Unpacked, UnpackError> {
        let below_links = self.make_waiting_links()?;
        self.remove_aside()?;
        let opaque = self.mark_opaque()?;
        self.mark_deleted(&opaque.tops)?;
        self.set_directory_metadata()?;
        let root = self.root.clone().unwrap_or_else(Metadata::default_directory);
        self.set_metadata(self.places.root, Path::new("."), &FileType::Directory, &root, &LayerPath::ROOT)?;
        let implied = opaque.implied;
        let directories = 1 + self.places.known.len() as u64;
        Ok(Unpacked {
            entries: self.entries,
            tar_bytes: 0,
            data_bytes: self.written.data,
            measure: (!self.places.recount)
                .then_some(Measure { names: self.measure.names + directories - 1, ..self.measure }),
            allocated_bytes: self.written.allocated + directories * BLOCK,
            declares_root: self.root.is_some(),
            highest_ids: self.highest_ids,
            implied,
            below_links,
            losses: self.losses,
            first: First { deletions: self.places.deletions, directories: self.places.known },
        })
    }

    /// Marks the directories that hide what is below them. Below one of them nothing needs a mark.
    fn mark_opaque(&mut self) -> Result<Opaque, UnpackError> {
        let deletions = &self.places.deletions;
        let families = self.abilities.families;
        let mut opaque = Opaque { tops: Vec::new(), implied: Vec::new() };
        if deletions.opaque.contains(&LayerPath::ROOT) {
            families.mark_opaque(self.places.root, Path::new("."))?;
            opaque.tops.push(LayerPath::ROOT);
        }
        // A directory stands right before what it holds.
        for (path, declared) in &self.places.known {
            let below_opaque = opaque.tops.last().is_some_and(|top| path.starts_with(top));
            // A directory that the layer deletes, or had something else for, and then makes, is a new one.
            let new = deletions.whiteouts.contains(path) || deletions.replaced.contains(path);
            if !below_opaque && (new || deletions.opaque.contains(path)) {
                families.mark_opaque(self.places.root, path.as_path())?;
                opaque.tops.push(path.clone());
            }
            if declared.is_none() && !below_opaque && !new {
                opaque.implied.push(path.clone());
            }
        }
        Ok(opaque)
    }

    /// Makes the whiteouts of names that this layer does not have itself, in directories that are not opaque.
    fn mark_deleted(&mut self, opaque: &[LayerPath]) -> Result<(), UnpackError> {
        let mut opaque = opaque.iter().peekable();
        let mut top: Option<&LayerPath> = None;
        for path in &self.places.deletions.whiteouts {
            // Both run in order: the last top at or before the path is the only one that it can lie below.
            while let Some(next) = opaque.next_if(|next| *next <= path) {
                top = Some(next);
            }
            if top.is_some_and(|top| path.starts_with(top)) {
                continue;
            }
            let Some((parent, name)) = path.parent().zip(path.file_name()) else { continue };
            if !self.places.is_directory(&parent) {
                continue; // the layer has something else there, which hides all
            }
            if self.places.root.stat(path.as_path()).optional()?.is_some() {
                continue;
            }
            let name = Path::new(OsStr::from_bytes(name));
            self.abilities.families.whiteout(self.places.root, parent.as_path(), name)?;
            self.measure.names += 1;
        }
        Ok(())
    }

    /// Gives every directory below the root its metadata. What was made or removed in one has changed its time until
    /// now, and its mode may lock this process out: so what it holds comes first.
    fn set_directory_metadata(&mut self) -> Result<(), UnpackError> {
        let directories = std::mem::take(&mut self.places.known);
        let unknown = Metadata::default_directory();
        for (path, declared) in directories.iter().rev() {
            let metadata = declared.as_ref().unwrap_or(&unknown);
            // Opened once: by its path it would be looked up again for every step.
            let dir = self.places.root.open_dir(path.as_path())?;
            self.set_metadata(&dir, Path::new("."), &FileType::Directory, metadata, path)?;
        }
        self.places.known = directories;
        Ok(())
    }
}

/// What the layer hides, and what it leaves to its base.
struct Opaque {
    /// The topmost opaque directories, in order.
    tops: Vec<LayerPath>,
    /// Directories that take their metadata from below.
    implied: Vec<LayerPath>,
}
