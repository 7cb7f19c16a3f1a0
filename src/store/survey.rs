//! What is known of every image without reading its documents: id, sizes, platform, layers.
//!
//! ```text
//! cache/images    of each manifest: the image id, and what a list shows
//! cache/stacks    of each manifest: its layers
//! ```
//!
//! A manifest is named by what it says, so what it and its config say never changes; what is not kept is read and kept.
//! Which images there are, and what they are called, is said by `index.json` alone.

use serde::{Deserialize, Serialize};

use super::Inner;
use super::error::StoreError;
use super::image::Image;
use super::names::Named;
use crate::digest::{DiffId, Digest};
use crate::image::{Descriptor, Platform};

pub(super) const IMAGES: &str = "images";
pub(super) const STACKS: &str = "stacks";

/// What a list shows of an image.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Facts {
    /// Bytes of its config; of an artifact, of its manifest.
    pub(super) config_size: u64,
    /// Stored bytes of everything that it leads to.
    pub(super) size: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) created: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) platform: Option<Platform>,
    /// Of an artifact, which has no platform of its own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) artifact_type: Option<String>,
}

/// The layers of an image.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Layers {
    /// Blobs with their sizes, bottom first.
    pub(super) blobs: Vec<(Digest, u64)>,
    /// None for an artifact.
    pub(super) diff_ids: Vec<DiffId>,
}

/// What is known of the image behind one target.
pub(super) struct Known<'k> {
    /// The manifest for this machine.
    pub(super) manifest: &'k Descriptor,
    /// The id of the image.
    pub(super) id: Digest,
    text: &'k str,
}

impl<'k> Known<'k> {
    /// What `fact` says; `None` if it is of another version.
    fn of(manifest: &'k Descriptor, fact: &'k str) -> Option<Self> {
        let (id, text) = Digest::split_from(fact)?;
        Some(Self { manifest, id, text: text.strip_prefix(' ')? })
    }

    /// What is kept, of the kind that was asked for.
    pub(super) fn read<T: for<'de> Deserialize<'de>>(&self) -> Option<T> {
        match serde_json::from_str(self.text) {
            Ok(read) => Some(read),
            Err(error) => {
                tracing::debug!(%error, manifest = %self.manifest.digest, "what is kept is of another version");
                None
            }
        }
    }
}

impl Inner {
    /// Tells `visit` of each of `targets`, by its number, what is kept in the file `kind`, or why nothing can be known of
    /// it. What was not kept until now is found out.
    pub(super) fn survey(
        &self,
        kind: &str,
        targets: &[Descriptor],
        mut visit: impl FnMut(usize, Result<Known<'_>, StoreError>) -> Result<(), StoreError>,
    ) -> Result<(), StoreError> {
        let kept = self.kept(kind);
        let mut facts = kept.facts();
        let mut new: [Vec<(Digest, String)>; 2] = Default::default();
        for (number, target) in targets.iter().enumerate() {
            let manifest = match self.choose(target) {
                Ok(manifest) => manifest,
                Err(error) => {
                    visit(number, Err(error))?;
                    continue;
                }
            };
            let fact = facts.find(&manifest.digest);
            if let Some(known) = fact.and_then(|fact| Known::of(&manifest, fact)) {
                visit(number, Ok(known))?;
                continue;
            }
            let named = Named { target: manifest.clone().into_owned(), names: Vec::new() };
            match self.image(named).and_then(|image| found(&image)) {
                Ok([image, stack]) => {
                    if let Some(known) = Known::of(&manifest, if kind == IMAGES { &image } else { &stack }) {
                        visit(number, Ok(known))?;
                    }
                    // Of one of another version a second line would not count.
                    if fact.is_none() {
                        new[0].push((manifest.digest, image));
                        new[1].push((manifest.digest, stack));
                    }
                }
                Err(error) => visit(number, Err(error))?,
            }
        }
        for (kind, new) in [IMAGES, STACKS].into_iter().zip(&new) {
            self.keep_facts(kind, new);
        }
        Ok(())
    }
}

/// What is kept of an image that was read, in each file.
fn found(image: &Image) -> Result<[String; 2], StoreError> {
    let facts = Facts {
        config_size: image.identity().size,
        size: image.size(),
        created: image.config().and_then(|config| config.created.clone()),
        platform: image.config().map(|config| config.platform()),
        artifact_type: image.artifact_type(),
    };
    let layers = Layers {
        blobs: image.manifest().layers.iter().map(|layer| (layer.digest, layer.size)).collect(),
        diff_ids: image.diff_ids().to_vec(),
    };
    let id = image.id();
    let write = |json: serde_json::Result<String>| json.map(|json| format!("{id} {json}"));
    let written = write(serde_json::to_string(&facts)).and_then(|facts| {
        let layers = write(serde_json::to_string(&layers))?;
        Ok([facts, layers])
    });
    Ok(written.expect("numbers, texts and lists are JSON"))
}
