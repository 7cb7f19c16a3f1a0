//! Convert: an image in other media types, or with its layers compressed otherwise, beside the one that it was.
//!
//! Configs stay byte for byte, so image ids, diff ids and unpacked layers do; manifests, indexes and blobs of layers are new.
//! What is made lies in the operation's workspace until all of it is there; then its blobs are published, and the name comes
//! last.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::atomic::AtomicBool;

use super::Store;
use super::cancel;
use super::error::StoreError;
use super::image::Image;
use super::operation::Operation;
use crate::archive::{self, Recast, SaveImage, Warning};
use crate::image::{Platform, Reference};

pub use crate::archive::MediaTypes;

use super::save::{LayerCompression, SaveOptions};

/// What becomes of an image that is converted. By default, nothing.
#[derive(Clone, Default)]
#[non_exhaustive]
pub struct ConvertOptions<'a> {
    /// What to call the new image, which may be the name of the old one. Default: nothing.
    pub name: Option<Reference>,
    /// Whose media types its documents have.
    pub media_types: MediaTypes,
    /// How its layers are compressed. In docker's media types that cannot be by Zstandard; a manifest of docker's that is to
    /// keep its media types and gets such layers becomes OCI's.
    pub compression: LayerCompression,
    /// Of an index, only the image for this platform. Default: all that are there. Those that are not stay listed as they
    /// were.
    pub platform: Option<Platform>,
    /// Notes for what the name points at, a manifest or an index, besides those that it has.
    pub annotations: BTreeMap<String, String>,
    /// Called now and then with the bytes of layers that were read, and those that have to be.
    pub progress: Option<&'a (dyn Fn(u64, u64) + Sync)>,
    /// Set by another thread to give up.
    pub cancel: Option<&'a AtomicBool>,
}

impl fmt::Debug for ConvertOptions<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ConvertOptions")
            .field("name", &self.name)
            .field("media_types", &self.media_types)
            .field("compression", &self.compression)
            .field("platform", &self.platform)
            .field("annotations", &self.annotations)
            .finish_non_exhaustive()
    }
}

/// An image that was converted.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct ConvertedImage {
    /// The image. Where there was nothing to convert it is what it was.
    pub image: Image,
    /// What is odd about it: entries of an index that are not there, for one.
    pub warnings: Vec<Warning>,
}

impl Store {
    /// Makes of `image` the one that `options` ask for: the same image id and diff ids, so its layers need not be unpacked
    /// again, under another digest. Equal images give equal ones, for any number of threads. Of an index, all images that are
    /// there are converted; attestations and other artifacts stay as they are. What says something of the old digest from
    /// outside, a signature for one, does not say it of the new one.
    ///
    /// # Errors
    ///
    /// [`StoreError::Save`] if the image is not whole, a layer is damaged, or the media types have no place for something;
    /// [`StoreError::Blob`] if there is no space; [`StoreError::Cancelled`]. No image is visible then, the name points where it
    /// did, and what was written is removed.
    pub fn convert(&self, image: &Image, options: &ConvertOptions<'_>) -> Result<ConvertedImage, StoreError> {
        let operation = self.inner.begin()?;
        let outcome = self.convert_in(image, &operation, options);
        self.conclude(operation, cancel::told(outcome))
    }

    fn convert_in(
        &self,
        image: &Image,
        operation: &Operation,
        options: &ConvertOptions<'_>,
    ) -> Result<ConvertedImage, StoreError> {
        let inner = &self.inner;
        inner.pin_image(operation, image)?;
        let content = inner.content();
        let limits = inner.options.limits.for_one_image();
        let mut how = SaveOptions { limits, ..SaveOptions::default() };
        how.parallelism = inner.options.parallelism;
        how.platform.clone_from(&options.platform);
        how.compression = options.compression;
        how.workspace = Some(operation.workspace());
        (how.progress, how.cancel) = (options.progress, options.cancel);
        let recast = Recast { media_types: options.media_types, annotations: options.annotations.clone() };
        let whole = [SaveImage { target: image.target().clone(), names: Vec::new() }];
        let archive::Converted { images, blobs, warnings } =
            archive::convert(&whole, &content, &how, &recast)?;
        let target = images.into_iter().next().expect("one image gives one").target;

        let made = blobs.made;
        operation.pin_blobs(made.keys())?;
        // In whatever order: nothing leads to any of them yet.
        for (digest, blob) in made {
            if !inner.layout.blobs.holds(&digest, blob.size())? {
                inner.layout.blobs.publish(blob.reopen()?, inner.options.durability)?;
            }
        }
        // What is not made anew may be lent. This waits for the names of all.
        inner.take_over(&target, operation)?;
        let image = self.name_image(target, options.name.as_ref())?;
        Ok(ConvertedImage { image, warnings })
    }
}
