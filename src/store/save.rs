//! Save: images of the store become an archive or a directory that other tools read.
//!
//! Unless layers are to be compressed otherwise, blobs are passed on as they are, so manifests keep their digests and a load
//! of what was saved gives the same images. Layers that are compressed again lie in staging until they are written. Plain
//! layers are decompressed while they are written, if the record of the unpacked layer has their length.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::Path;

use super::error::StoreError;
use super::image::Image;
use super::layout::Access;
use super::operation::Operation;
use super::{Inner, Store, cancel};
use crate::archive::{self, SaveImage, Warning};
use crate::codec::Encoding;
use crate::digest::DiffId;
use crate::fs::{Dir, Durability};
use crate::layer::LayerError;

pub use crate::archive::{ArchiveFormat, Known, LayerCompression, LayerCompressionError, SaveOptions};

impl Store {
    /// Writes `images` with their names into one archive, blobs that they share once, and says what is odd about it.
    ///
    /// # Errors
    ///
    /// [`StoreError::Save`] if a blob is missing or damaged, or `out` fails, [`StoreError::Cancelled`]; what was written by then is no archive. A read-only
    /// store has no room for layers that are compressed anew, as all are in a classic docker-archive: that is
    /// refused unless [`SaveOptions::workspace`] is set.
    pub fn save(
        &self,
        images: &[Image],
        format: ArchiveFormat,
        out: impl Write,
        options: &SaveOptions<'_>,
    ) -> Result<Vec<Warning>, StoreError> {
        let operation = self.pin_for_reading(images)?;
        let content = self.inner.content();
        let lengths = self.inner.tar_lengths(images, format, options)?;
        let tar_bytes = |diff_id: &DiffId| lengths.get(diff_id).copied();
        let options =
            SaveOptions { tar_bytes: Some(&tar_bytes), ..with_workspace(options, operation.as_ref()) };
        let saved = archive::save(&save_images(images), &content, format, out, &options);
        let warnings = cancel::told(saved.map_err(StoreError::from))?;
        operation.map_or(Ok(()), Operation::end)?;
        Ok(warnings)
    }

    /// Writes `images` with their names into the OCI image layout in the directory `path`, which is made if need be and
    /// keeps what else it holds. Says what is odd about it.
    ///
    /// # Errors
    ///
    /// As [`Store::save`]; the directory then names what it named before. Blobs that were written by then stay in it, and the
    /// next save uses them.
    pub fn save_directory(
        &self,
        images: &[Image],
        path: impl AsRef<Path>,
        options: &SaveOptions<'_>,
    ) -> Result<Vec<Warning>, StoreError> {
        let into = match options.durability {
            Durability::Full => Dir::ensure_ambient_synced(path, 0o755)?,
            Durability::Relaxed => Dir::ensure_ambient(path)?,
        };
        self.save_in(images, &into, options)
    }

    /// Writes `images` with their names into the layout in `into`.
    pub(super) fn save_in(
        &self,
        images: &[Image],
        into: &Dir,
        options: &SaveOptions<'_>,
    ) -> Result<Vec<Warning>, StoreError> {
        let operation = self.pin_for_reading(images)?;
        let content = self.inner.content();
        let lengths = self.inner.tar_lengths(images, ArchiveFormat::OciArchive, options)?;
        let tar_bytes = |diff_id: &DiffId| lengths.get(diff_id).copied();
        let options =
            SaveOptions { tar_bytes: Some(&tar_bytes), ..with_workspace(options, operation.as_ref()) };
        let saved = archive::save_layout(&save_images(images), &content, into, &options);
        let warnings = cancel::told(saved.map_err(StoreError::from))?;
        operation.map_or(Ok(()), Operation::end)?;
        Ok(warnings)
    }

    /// What somebody who has `image` need not get in an archive of `format`: its layers, for every platform that is here.
    ///
    /// # Errors
    ///
    /// [`StoreError::Blob`] or [`StoreError::Image`] if one of its documents is damaged.
    pub fn known(&self, image: &Image, format: ArchiveFormat) -> Result<Known, StoreError> {
        let mut known = Known::default();
        self.inner.walk(image.target(), |_, manifest| {
            let Some(manifest) = manifest.filter(|manifest| manifest.is_image()) else { return Ok(()) };
            match format {
                ArchiveFormat::ClassicDockerArchive => {
                    known.diff_ids.extend(self.inner.config(manifest)?.rootfs.diff_ids);
                }
                // Their manifests name blobs, so a layer that is packed otherwise is of no use.
                _ => known.blobs.extend(manifest.layers.iter().map(|layer| layer.digest)),
            }
            Ok(())
        })?;
        Ok(known)
    }

    /// Keeps what `images` lead to while it is read. A read-only store has no collection.
    pub(super) fn pin_for_reading(&self, images: &[Image]) -> Result<Option<Operation>, StoreError> {
        if self.inner.layout.access == Access::ReadOnly {
            return Ok(None);
        }
        let operation = self.inner.begin()?;
        for image in images {
            operation.pin_blobs(&self.inner.closure(image.target())?)?;
        }
        Ok(Some(operation))
    }
}

impl Inner {
    /// Returns the lengths of the layers of `images` as tars, as far as records of unpacked layers tell.
    fn tar_lengths(
        &self,
        images: &[Image],
        format: ArchiveFormat,
        options: &SaveOptions<'_>,
    ) -> Result<BTreeMap<DiffId, u64>, StoreError> {
        let mut lengths = BTreeMap::new();
        let is_plain = options.compression.encoding() == Some(Encoding::None);
        if !is_plain && format != ArchiveFormat::ClassicDockerArchive {
            return Ok(lengths);
        }
        for key in images.iter().flat_map(Image::layer_keys) {
            match self.layers.find(key) {
                Ok(Some(layer)) => _ = lengths.insert(layer.record.diff_id, layer.record.tar_bytes),
                // The length is then found out by decompressing.
                Ok(None) | Err(LayerError::Record { .. }) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(lengths)
    }
}

/// The same, with room for layers that are compressed anew where there is any.
fn with_workspace<'a>(options: &SaveOptions<'a>, operation: Option<&'a Operation>) -> SaveOptions<'a> {
    let workspace = operation.map(Operation::workspace).or(options.workspace);
    SaveOptions { workspace, ..options.clone() }
}

fn save_images(images: &[Image]) -> Vec<SaveImage> {
    images
        .iter()
        .map(|image| SaveImage { target: image.target().clone(), names: image.names().to_vec() })
        .collect()
}
