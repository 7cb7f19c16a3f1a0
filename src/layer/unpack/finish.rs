//! The end of unpacking: opaque directories, and the metadata of directories, deepest first. `deletions.rs` has the
//! whiteouts.

use std::path::Path;

use super::content::BLOCK;
use super::entries::Unpacker;
use super::error::UnpackError;
use super::target::Target;
use super::{First, Unpacked};
use crate::fs::{FileType, Metadata};
use crate::layer::Measure;
use crate::path::LayerPath;

impl<D: Target> Unpacker<'_, D> {
    /// Ends the layer after its last entry.
    pub(super) fn finish(mut self) -> Result<Unpacked, UnpackError> {
        let below_links = self.make_waiting_links()?;
        self.remove_aside()?;
        let without_directory = self.make_opaque_directories()?;
        let opaque = self.mark_opaque()?;
        let deletion_parents = self.mark_deleted(&opaque.tops)?;
        self.set_directory_metadata()?;
        let root = self.root.clone().unwrap_or_else(Metadata::default_directory);
        self.set_metadata(self.places.root, Path::new("."), &FileType::Directory, &root, &LayerPath::ROOT)?;
        let mut implied = opaque.implied;
        implied.extend(deletion_parents.iter().cloned());
        implied.sort_unstable();
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
            deletion_parents,
            below_links,
            losses: self.losses,
            first: First {
                deletions: self.places.deletions,
                directories: self.places.known,
                without_directory,
            },
        })
    }

    /// Marks the directories that hide what is below them. Below one of them nothing needs a mark.
    fn mark_opaque(&mut self) -> Result<Opaque, UnpackError> {
        let deletions = &self.places.deletions;
        let family = self.abilities.family;
        let mut opaque = Opaque { tops: Vec::new(), implied: Vec::new() };
        if deletions.opaque.contains(&LayerPath::ROOT) {
            self.places.root.mark_opaque(family, Path::new("."))?;
            opaque.tops.push(LayerPath::ROOT);
        }
        // A directory stands right before what it holds.
        for (path, declared) in &self.places.known {
            let below_opaque = opaque.tops.last().is_some_and(|top| path.starts_with(top));
            // A directory that the layer deletes, or had something else for, and then makes, is a new one.
            let new = deletions.whiteouts.contains(path) || deletions.replaced.contains(path);
            if !below_opaque && (new || deletions.opaque.contains(path)) {
                self.places.root.mark_opaque(family, path.as_path())?;
                opaque.tops.push(path.clone());
            }
            if declared.is_none() && !below_opaque && !new {
                opaque.implied.push(path.clone());
            }
        }
        Ok(opaque)
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
