//! Save: images of the store become an archive or a directory that other tools read.
//!
//! Blobs are passed on as they are, so manifests keep their digests and a load of what was saved gives the same images.

use std::io::Write;
use std::path::Path;

use super::Store;
use super::error::StoreError;
use super::image::Image;
use super::layout::Access;
use super::operation::Operation;
use crate::archive::{self, SaveImage, Warning};
use crate::fs::Dir;

pub use crate::archive::{ArchiveFormat, SaveOptions};

impl Store {
    /// Writes `images` with their names into one archive, blobs that they share once, and says what is odd about it.
    ///
    /// # Errors
    ///
    /// [`StoreError::Save`] if a blob is missing or damaged, or `out` fails; what was written by then is no archive.
    pub fn save(
        &self,
        images: &[Image],
        format: ArchiveFormat,
        out: impl Write,
        options: &SaveOptions<'_>,
    ) -> Result<Vec<Warning>, StoreError> {
        let operation = self.pin_for_reading(images)?;
        let warnings = archive::save(&save_images(images), &self.inner.content(), format, out, options)?;
        operation.map_or(Ok(()), Operation::end)?;
        Ok(warnings)
    }

    /// Writes `images` with their names into the OCI image layout in the directory `path`, which is made if need be and
    /// keeps what else it holds. Says what is odd about it.
    ///
    /// # Errors
    ///
    /// As [`Store::save`]; the directory then names what it named before.
    pub fn save_directory(
        &self,
        images: &[Image],
        path: impl AsRef<Path>,
        options: &SaveOptions<'_>,
    ) -> Result<Vec<Warning>, StoreError> {
        let operation = self.pin_for_reading(images)?;
        let into = Dir::ensure_ambient(path)?;
        let warnings = archive::save_layout(&save_images(images), &self.inner.content(), &into, options)?;
        operation.map_or(Ok(()), Operation::end)?;
        Ok(warnings)
    }

    /// Keeps what `images` lead to while it is read. A store that can only be read has no collection.
    fn pin_for_reading(&self, images: &[Image]) -> Result<Option<Operation>, StoreError> {
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

fn save_images(images: &[Image]) -> Vec<SaveImage> {
    images
        .iter()
        .map(|image| SaveImage { target: image.target().clone(), names: image.names().to_vec() })
        .collect()
}
