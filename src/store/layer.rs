//! One layer of an image as the tar that it is, for tools that want a diff.

use std::io::{Read, Write};
use std::sync::atomic::AtomicBool;

use super::error::StoreError;
use super::image::Image;
use super::{Store, cancel};
use crate::archive::LoadError;
use crate::blob::BlobSource;
use crate::codec::Decoder;
use crate::digest::{DiffId, HashingReader};
use crate::fs::Context;

/// How much is read at once.
const BUFFER: usize = 128 << 10;

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
        let damaged = |error| StoreError::Load(LoadError::of_stream(error));
        let decoder = Decoder::new(file, &self.inner.options.limits).map_err(damaged)?.with_holes();
        let mut tar = HashingReader::new(expected.as_digest().algorithm(), decoder);
        let mut buffer = vec![0; BUFFER];
        loop {
            cancel::refuse(stop)?;
            match tar.read(&mut buffer) {
                Ok(0) => break,
                Ok(count) => out.write_all(&buffer[..count]).at("write", "the layer")?,
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                Err(error) => return Err(damaged(error)),
            }
        }
        let (_, digest, bytes) = tar.finish();
        let actual = DiffId::of_tar(digest);
        // A layer of no bytes may stand for a tar without entries.
        if actual != expected && bytes > 0 {
            let member = blob.digest.to_string();
            return Err(LoadError::DiffIdMismatch { member, expected, actual }.into());
        }
        out.flush().at("write", "the layer")?;
        if let Some(operation) = operation {
            operation.end()?;
        }
        Ok(bytes)
    }
}
