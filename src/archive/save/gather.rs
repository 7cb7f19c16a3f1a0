//! [`gather`]: from the images that were asked for to the blobs that are written, each once.

use std::collections::{BTreeMap, BTreeSet};

use super::{SaveImage, SaveOptions};
use crate::archive::content::{Found, blob_path, find_in, read_in};
use crate::archive::convert::Made;
use crate::archive::listing::Listed;
use crate::archive::load::Loaded;
use crate::archive::walk::{Lookup, Walk};
use crate::archive::{LoadError, SaveError, Warning};
use crate::blob::{BlobError, BlobSource};
use crate::digest::Digest;
use crate::image::Descriptor;
use crate::limits::Limits;

/// What is to be saved.
pub(in crate::archive) struct Gathered {
    pub(in crate::archive) listed: Vec<Listed>,
    /// Blobs with their sizes, documents first, without what the receiver has.
    pub(in crate::archive) needed: Vec<(Digest, u64)>,
    pub(in crate::archive) warnings: Vec<Warning>,
}

/// Reads and verifies the documents of `images` and finds the blobs that they list.
pub(in crate::archive) fn gather(
    images: &[SaveImage],
    blobs: &dyn BlobSource,
    options: &SaveOptions<'_>,
) -> Result<Gathered, SaveError> {
    gather_from(images, Stored { blobs, made: None }, options)
}

/// Does the same for images that were converted.
pub(super) fn gather_made(
    images: &[SaveImage],
    blobs: &Made<'_>,
    options: &SaveOptions<'_>,
) -> Result<Gathered, SaveError> {
    gather_from(images, Stored { blobs, made: Some(blobs) }, options)
}

fn gather_from(
    images: &[SaveImage],
    stored: Stored<'_>,
    options: &SaveOptions<'_>,
) -> Result<Gathered, SaveError> {
    let blobs = stored.blobs;
    let cancelled = || options.is_cancelled();
    // The store was asked for as much as there is in it.
    let limits = Limits { documents_memory: u64::MAX, ..options.limits.clone() };
    let mut walk = Walk::new(stored, &limits, &cancelled).without_foreign_layers();
    let mut listed: Vec<Listed> = Vec::new();
    let (mut places, mut named) = (BTreeMap::new(), BTreeSet::new());
    let mut warnings = Vec::new();
    for SaveImage { target, names } in images {
        let at = match places.get(&target.digest) {
            Some(&at) => at,
            None => {
                if blobs.size(&target.digest)?.is_none() {
                    return Err(BlobError::Missing { digest: target.digest }.into());
                }
                let loaded = walk.image(target.clone(), "the request").map_err(|source| match source {
                    LoadError::Cancelled => SaveError::Cancelled,
                    source => SaveError::Image { image: target.digest, source },
                })?;
                let odd = loaded.warnings.iter().filter(|warning| !matches!(warning, Warning::Config { .. }));
                warnings.extend(odd.cloned());
                listed.push(Listed { loaded, names: Vec::new() });
                places.insert(target.digest, listed.len() - 1);
                listed.len() - 1
            }
        };
        for name in names {
            if named.insert((target.digest, name)) {
                listed[at].names.push(name.clone());
            }
        }
    }
    if listed.is_empty() {
        return Err(SaveError::NoImage);
    }
    let left_out = left_out(&listed, options);
    let needed = walk.needed.top_down().filter(|(digest, _)| !left_out.contains(digest)).collect();
    Ok(Gathered { listed, needed, warnings })
}

/// The layers that the receiver has.
fn left_out(listed: &[Listed], options: &SaveOptions<'_>) -> BTreeSet<Digest> {
    let images = listed.iter().flat_map(|listed| &listed.loaded.manifests);
    let layers = images.flat_map(|image| image.manifest.layers.iter().zip(&image.config.rootfs.diff_ids));
    layers
        .filter(|(layer, diff_id)| options.known.has(layer, diff_id))
        .map(|(layer, _)| layer.digest)
        .collect()
}

/// Of each image that is an index, the one for the platform that was asked for.
pub(in crate::archive) fn only_platform(
    images: &[SaveImage],
    blobs: &dyn BlobSource,
    options: &SaveOptions<'_>,
) -> Result<Vec<SaveImage>, SaveError> {
    let Some(wanted) = &options.platform else { return Ok(images.to_vec()) };
    let choose = |image: &SaveImage| {
        let Gathered { listed, .. } = gather(std::slice::from_ref(image), blobs, options)?;
        let Loaded { target, manifests, .. } = &listed[0].loaded;
        // What is no image at all is for no platform in particular.
        if manifests.is_empty() {
            return Ok(image.clone());
        }
        let ranked =
            manifests.iter().filter_map(|found| Some((wanted.preference(&found.platform())?, found)));
        match ranked.min_by_key(|(far, _)| *far) {
            Some((_, found)) => {
                Ok(SaveImage { target: found.descriptor.clone(), names: image.names.clone() })
            }
            None => Err(SaveError::NoPlatform {
                image: target.digest,
                wanted: wanted.clone(),
                found: manifests.iter().map(|found| found.platform()).collect(),
            }),
        }
    };
    images.iter().map(choose).collect()
}

/// The blobs of a store, and those that a conversion made.
struct Stored<'a> {
    blobs: &'a dyn BlobSource,
    made: Option<&'a Made<'a>>,
}

impl Lookup for Stored<'_> {
    fn pin(&mut self, _: &[Digest]) -> Result<(), LoadError> {
        Ok(()) // the caller keeps what it asks for
    }

    fn find(&mut self, at: &Descriptor) -> Result<Option<Found>, LoadError> {
        match self.made {
            Some(made) => made.find(&at.digest),
            None => find_in(self.blobs, &at.digest),
        }
    }

    fn read(&mut self, at: &Descriptor, limit: u64) -> Result<Option<Vec<u8>>, LoadError> {
        read_in(self.blobs, &at.digest, limit)
    }

    fn name_of(&self, digest: &Digest) -> String {
        blob_path(digest)
    }
}
