//! One layer of an image as the tar that it is, for tools that want a diff.

use std::io::Write;
use std::sync::atomic::AtomicBool;

use super::error::StoreError;
use super::image::Image;
use super::{Store, cancel};
use crate::archive::LayerTar;
use crate::blob::BlobSource;
use crate::digest::DiffId;
use crate::fs::Context;

impl Store {
    /// The first image that has this layer, and the layer's place in it, counted from 0 at the bottom. Reads all images.
    ///
    /// # Errors
    ///
    /// As [`Store::images`].
    pub fn image_with_layer(&self, diff_id: &DiffId) -> Result<Option<(Image, usize)>, StoreError> {
        let place = |image: &Image| image.diff_ids().iter().position(|found| found == diff_id);
        Ok(self.images()?.into_iter().find_map(|image| place(&image).map(|at| (image, at))))
    }

    /// Writes a layer of `image`, counted from 0 at the bottom, as the plain tar that its diff id is the digest of. Returns the
    /// length of the tar in bytes.
    ///
    /// # Errors
    ///
    /// [`StoreError::NotFound`] if the image has no such layer, [`StoreError::Blob`] and [`StoreError::Load`] if it is
    /// missing or damaged, [`StoreError::Io`] if `out` fails, [`StoreError::Cancelled`]. What was written by then is no tar.
    pub fn write_layer(
        &self,
        image: &Image,
        layer: usize,
        mut out: impl Write,
        stop: Option<&AtomicBool>,
    ) -> Result<u64, StoreError> {
        let (Some(blob), Some(&expected)) = (image.manifest().layers.get(layer), image.diff_ids().get(layer))
        else {
            let count = image.diff_ids().len();
            let name = format!("{} of {count} of {}", layer + 1, image.label());
            return Err(StoreError::NotFound { what: "layer", name });
        };
        let operation = self.pin_for_reading(std::slice::from_ref(image))?;
        let file = self.inner.content().open_blob(&blob.digest)?;
        let tar = LayerTar::new(file, blob.digest, expected, &self.inner.options.limits)?;
        let bytes = tar.pour(|bytes| {
            cancel::refuse(stop)?;
            Ok::<_, StoreError>(out.write_all(bytes).at("write", "the layer")?)
        })?;
        out.flush().at("write", "the layer")?;
        if let Some(operation) = operation {
            operation.end()?;
        }
        Ok(bytes)
    }
}
