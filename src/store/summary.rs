//! [`ImageSummary`]: what a list shows of an image.

use std::path::{Path, PathBuf};

use super::Store;
use super::error::StoreError;
use super::image::repo_digests;
use super::images::{DamagedImage, Images, Listed, by_name};
use super::lenders::damaged_elsewhere;
use super::names::Named;
use super::survey::{Facts, IMAGES, Known};
use crate::blob::BlobSource;
use crate::digest::Digest;
use crate::image::{Descriptor, Platform, Reference};

/// What a list shows of an image; [`Store::image`] gives the image itself.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct ImageSummary {
    /// The image id: the digest of its config, or of an artifact's manifest.
    pub id: Digest,
    /// What its names point at: its manifest, or the index that lists it.
    pub target: Descriptor,
    /// The digest of its manifest.
    pub manifest_digest: Digest,
    /// Its names, sorted.
    pub names: Vec<Reference>,
    /// Stored bytes of manifest, config and layers, each blob counted once.
    pub size: u64,
    /// When it was made, as its config says it.
    pub created: Option<String>,
    /// The platform that it is for, as far as it says.
    pub platform: Option<Platform>,
    /// What kind of artifact it is; `None` for an image.
    pub artifact_type: Option<String>,
    /// The store that it belongs to, if that is another one that lends it.
    pub lent_by: Option<PathBuf>,
}

impl ImageSummary {
    /// Returns its names by digest, as [`Image::repo_digests`](super::Image::repo_digests) does.
    pub fn repo_digests(&self) -> Vec<Reference> {
        repo_digests(&self.names, self.target.digest)
    }
}

impl Listed for ImageSummary {
    fn in_list(&self) -> (bool, Option<&Reference>, Digest) {
        (self.names.is_empty(), self.names.first(), self.target.digest)
    }
}

impl Store {
    /// What a list shows of all images. It costs a look at the documents of each, to see that they are there and as long
    /// as they should be; what they say is remembered from an earlier time.
    ///
    /// # Errors
    ///
    /// [`StoreError`] if the names cannot be read, or something of an image for another reason than that it is damaged.
    pub fn list_images(&self) -> Result<Images<ImageSummary>, StoreError> {
        let inner = &self.inner;
        let own = inner.names()?.images();
        let lent = inner.lent_names()?;
        let all: Vec<&Named> = own.iter().chain(lent.iter().map(|(_, named)| named)).collect();
        let targets: Vec<_> = all.iter().map(|named| named.target.clone()).collect();
        let sizes = inner.layout.blobs.sizes()?;
        let is_there = |digest: &Digest, size: u64| -> Result<bool, StoreError> {
            let found = match sizes.of(digest)? {
                None => inner.content().size(digest)?,
                found => found,
            };
            Ok(found == Some(size))
        };
        let (mut list, mut damaged) = (Vec::with_capacity(all.len()), Vec::new());
        inner.survey(IMAGES, &targets, |number, known| {
            let named = all[number];
            let summary = known.and_then(|known| match summary(named, &known) {
                Some((summary, config_size))
                    if is_there(&summary.manifest_digest, known.manifest.size)?
                        && is_there(&summary.id, config_size)? =>
                {
                    Ok(summary)
                }
                // What is wrong with it is for who reads it to say.
                _ => inner.image(named.clone()).map(|image| image.summary()),
            });
            let lender = number.checked_sub(own.len()).map(|number| lent[number].0);
            match (summary, lender) {
                (Ok(summary), lender) => {
                    list.push(ImageSummary { lent_by: lender.map(Path::to_owned), ..summary });
                }
                (Err(error), None) if error.is_damage() => damaged.push(DamagedImage::new(named, error)),
                (Err(error), Some(store)) if error.is_damage() => damaged_elsewhere(store, named, &error),
                (Err(error), _) => return Err(error),
            }
            Ok(())
        })?;
        list.sort_by(by_name);
        Images::new(inner, list, damaged)
    }

    /// The names of all images, sorted.
    ///
    /// # Errors
    ///
    /// [`StoreError`] if they cannot be read.
    pub fn image_names(&self) -> Result<Vec<Reference>, StoreError> {
        Ok(self.inner.names()?.all())
    }
}

/// The summary by what is kept, and the size of the config.
fn summary(named: &Named, known: &Known<'_>) -> Option<(ImageSummary, u64)> {
    let facts: Facts = known.read()?;
    // Of an artifact; an earlier version did not note of which kind.
    if facts.platform.is_none() && facts.artifact_type.is_none() {
        return None;
    }
    let summary = ImageSummary {
        id: known.id,
        target: named.target.clone(),
        manifest_digest: known.manifest.digest,
        names: named.names.clone(),
        size: facts.size,
        created: facts.created,
        platform: facts.platform.or_else(|| known.manifest.platform.clone()),
        artifact_type: facts.artifact_type,
        lent_by: None,
    };
    Some((summary, facts.config_size))
}
