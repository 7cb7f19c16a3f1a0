//! The documents of an archive that list its images: `index.json`, `manifest.json` and `repositories`.

use std::collections::BTreeMap;

use serde::Serialize;
use serde_json::Value;

use super::content::blob_path;
use super::load::{Loaded, LoadedManifest};
use super::{SaveError, Warning, oci};
use crate::digest::{DiffId, Digest};
use crate::image::{
    CONTAINERD_IMAGE_NAME, Descriptor, ImageError, Index, OCI_REF_NAME, Platform, Reference, json,
};
use crate::limits::Limits;

/// An image that is to be listed.
pub(super) struct Listed {
    pub(super) loaded: Loaded,
    pub(super) names: Vec<Reference>,
}

/// Returns the descriptors for an `index.json`: one for each name, and one for each image without a name. An image that was
/// written with other compression, or for one platform, has another digest: names with the old one are left out.
pub(super) fn entries(listed: &[Listed]) -> Vec<Descriptor> {
    let mut entries = Vec::new();
    for Listed { loaded, names } in listed {
        let mut plain = loaded.target.clone();
        plain.annotations.remove(OCI_REF_NAME);
        plain.annotations.remove(CONTAINERD_IMAGE_NAME);
        let is_true = |name: &&Reference| name.digest().is_none_or(|digest| *digest == plain.digest);
        for name in names.iter().filter(is_true) {
            let mut entry = plain.clone();
            entry.annotations.insert(OCI_REF_NAME.to_owned(), name.familiar());
            entry.annotations.insert(CONTAINERD_IMAGE_NAME.to_owned(), name.canonical());
            entries.push(entry);
        }
        if !names.iter().any(|name| is_true(&name)) {
            entries.push(plain);
        }
    }
    entries
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct Item<'a> {
    config: String,
    repo_tags: Option<Vec<String>>,
    layers: Vec<String>,
    /// Where layers can be had that are not there.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    layer_sources: BTreeMap<String, &'a Descriptor>,
}

/// What the members are called that docker's documents name.
#[derive(Clone, Copy)]
pub(super) enum Naming<'a> {
    /// As blobs of the layout beside.
    Blobs,
    /// As docker did before there was a layout: by image id and diff ids. The oldest form names the top layer of an image
    /// by the id that it has there, which is told here by the digest of the image's manifest.
    Classic(&'a BTreeMap<Digest, String>),
}

impl Naming<'_> {
    fn config(self, image: &LoadedManifest) -> String {
        let digest = &image.manifest.config.digest;
        match self {
            Self::Blobs => blob_path(digest),
            Self::Classic(_) => classic_config(digest),
        }
    }

    fn layer(self, layer: &Descriptor, diff_id: &DiffId) -> String {
        match self {
            Self::Blobs => blob_path(&layer.digest),
            Self::Classic(_) => classic_layer(diff_id),
        }
    }

    fn top(self, image: &LoadedManifest) -> Option<String> {
        match self {
            Self::Blobs => image.manifest.layers.last().map(|top| top.digest.hex()),
            Self::Classic(tops) => tops.get(&image.descriptor.digest).cloned(),
        }
    }
}

/// Where a classic docker-archive has a config.
pub(super) fn classic_config(digest: &Digest) -> String {
    format!("{}.json", digest.hex())
}

/// Where a classic docker-archive has a layer.
pub(super) fn classic_layer(diff_id: &DiffId) -> String {
    format!("{}.tar", diff_id.as_digest().hex())
}

/// `manifest.json` and `repositories`.
pub(super) fn docker(
    listed: &[Listed],
    platform: &Platform,
    warnings: &mut Vec<Warning>,
    naming: Naming<'_>,
) -> (Vec<u8>, Vec<u8>) {
    let mut items = Vec::new();
    let mut repositories: BTreeMap<String, BTreeMap<&str, String>> = BTreeMap::new();
    for Listed { loaded, names } in listed {
        let Some(image) = choose(&loaded.manifests, platform) else {
            warnings.push(Warning::NotForDocker { target: loaded.target.digest });
            continue;
        };
        let layers = &image.manifest.layers;
        let diff_ids = &image.config.rootfs.diff_ids;
        let absent =
            |layer: &Descriptor| loaded.warnings.contains(&Warning::ForeignLayer { layer: layer.digest });
        let sources = layers.iter().zip(diff_ids).filter(|(layer, _)| absent(layer));
        let mut tags = Vec::new();
        for name in names {
            let (Some(tag), None) = (name.tag(), name.digest()) else { continue };
            tags.push(name.canonical());
            if let Some(top) = naming.top(image) {
                repositories.entry(name.repository()).or_default().insert(tag, top);
            }
        }
        items.push(Item {
            config: naming.config(image),
            repo_tags: (!tags.is_empty()).then_some(tags),
            layers: layers
                .iter()
                .zip(diff_ids)
                .map(|(layer, diff_id)| naming.layer(layer, diff_id))
                .collect(),
            layer_sources: sources.map(|(layer, diff_id)| (diff_id.to_string(), layer)).collect(),
        });
    }
    (to_json(&items), to_json(&repositories))
}

fn to_json(document: &impl Serialize) -> Vec<u8> {
    serde_json::to_vec(document)
        .expect("maps with texts for keys can be written, and a Vec takes every write")
}

/// Makes sure that readers accept these documents, which are `index.json`, `manifest.json` and `repositories`.
///
/// # Errors
///
/// [`SaveError::TooManyNames`] if one goes beyond `limits`.
pub(super) fn check(documents: &[(&'static str, &[u8])], limits: &Limits) -> Result<(), SaveError> {
    let limits = limits.for_lists();
    for &(document, bytes) in documents {
        let read = match document {
            oci::INDEX => Index::parse(bytes, &limits).map(drop),
            _ => json::parse::<Value>(document, bytes, &limits).and_then(|listed| {
                // Each image is an element of `manifest.json`; `repositories` is an object.
                let found = listed.as_array().map_or(0, Vec::len);
                let limit = limits.images;
                match found > limit {
                    true => Err(ImageError::TooMany { place: document, found, limit }),
                    false => Ok(()),
                }
            }),
        };
        read.map_err(|source| {
            let limit = match source {
                ImageError::TooLarge { .. } => "list_bytes",
                ImageError::TooMuchMemory { .. } => "documents_memory",
                ImageError::TooDeep { .. } => "json_depth",
                _ => "images",
            };
            SaveError::TooManyNames { document, limit, source }
        })?;
    }
    Ok(())
}

/// The image for `platform`, else the first.
pub(super) fn choose<'a>(manifests: &'a [LoadedManifest], platform: &Platform) -> Option<&'a LoadedManifest> {
    let ranked = manifests.iter().filter_map(|image| Some((platform.preference(&image.platform())?, image)));
    ranked.min_by_key(|(far, _)| *far).map(|(_, image)| image).or_else(|| manifests.first())
}
