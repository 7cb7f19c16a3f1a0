//! The documents of an archive that list its images: `index.json`, `manifest.json` and `repositories`.

use std::collections::BTreeMap;

use serde::Serialize;

use super::Warning;
use super::content::blob_path;
use super::load::{Loaded, LoadedManifest};
use crate::image::{CONTAINERD_IMAGE_NAME, Descriptor, OCI_REF_NAME, Platform, Reference};

/// An image that is to be listed.
pub(super) struct Listed {
    pub(super) loaded: Loaded,
    pub(super) names: Vec<Reference>,
}

/// What an `index.json` says of them: an entry for each name, and one for each image without a name.
pub(super) fn entries(listed: &[Listed]) -> Vec<Descriptor> {
    let mut entries = Vec::new();
    for Listed { loaded, names } in listed {
        let mut plain = loaded.target.clone();
        plain.annotations.remove(OCI_REF_NAME);
        plain.annotations.remove(CONTAINERD_IMAGE_NAME);
        for name in names {
            let mut entry = plain.clone();
            entry.annotations.insert(OCI_REF_NAME.to_owned(), name.familiar());
            entry.annotations.insert(CONTAINERD_IMAGE_NAME.to_owned(), name.canonical());
            entries.push(entry);
        }
        if names.is_empty() {
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

/// `manifest.json` and `repositories`.
pub(super) fn docker(
    listed: &[Listed],
    platform: &Platform,
    warnings: &mut Vec<Warning>,
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
            if let Some(top) = layers.last() {
                repositories.entry(name.repository()).or_default().insert(tag, top.digest.hex());
            }
        }
        items.push(Item {
            config: blob_path(&image.manifest.config.digest),
            repo_tags: (!tags.is_empty()).then_some(tags),
            layers: layers.iter().map(|layer| blob_path(&layer.digest)).collect(),
            layer_sources: sources.map(|(layer, diff_id)| (diff_id.to_string(), layer)).collect(),
        });
    }
    (to_json(&items), to_json(&repositories))
}

fn to_json(document: &impl Serialize) -> Vec<u8> {
    serde_json::to_vec(document)
        .expect("maps with texts for keys can be written, and a Vec takes every write")
}

/// The image for `platform`, else the first.
fn choose<'a>(manifests: &'a [LoadedManifest], platform: &Platform) -> Option<&'a LoadedManifest> {
    let ranked = manifests.iter().filter_map(|image| Some((platform.preference(&image.platform())?, image)));
    ranked.min_by_key(|(far, _)| *far).map(|(_, image)| image).or_else(|| manifests.first())
}
