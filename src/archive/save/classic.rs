//! Docker-archives as they were before version 25, and for the oldest readers as they were before 1.10.
//!
//! ```text
//! manifest.json           configs, names and layers of the images
//! repositories            names, each with the directory of the top layer
//! <image id>.json         a config, byte for byte
//! <v1 id>/                one for each layer of each image, and of all images that agree up to there
//!   VERSION
//!   json                  id, parent, the step of the history; that of the top layer has the config in it
//!   layer.tar             a link to the layer
//! <diff id>.tar           a layer, not compressed, once
//! ```
//!
//! Podman and skopeo write the same. The ids of the directories are made of what is in them, so equal images give equal
//! ones.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write;

use serde_json::{Map, Value, json};

use super::copying::Copying;
use super::{Gathered, SaveOptions, member, total, wanted};
use crate::archive::convert::Made;
use crate::archive::listing::{self, Listed, Naming, classic_config, classic_layer};
use crate::archive::load::LoadedManifest;
use crate::archive::{LoadError, SaveError, Warning, docker};
use crate::blob::BlobSource;
use crate::changeset::{EntryKind, Writer};
use crate::digest::{ChainId, Digest};
use crate::fs::Context;
use crate::image::{Config, History};

/// Writes the images, whose layers are plain by now.
pub(super) fn save(
    gathered: Gathered,
    blobs: &Made<'_>,
    out: impl Write,
    options: &SaveOptions<'_>,
) -> Result<Vec<Warning>, SaveError> {
    let Gathered { listed, needed, mut warnings } = gathered;
    let needed: BTreeMap<Digest, u64> = needed.into_iter().collect();
    let platform = wanted(options);
    let mut images = Vec::new();
    for Listed { loaded, .. } in &listed {
        let image = listing::choose(&loaded.manifests, &platform);
        images.push(image.ok_or(SaveError::NotForDocker { target: loaded.target.digest })?);
    }

    let mut directories = BTreeMap::new();
    let mut tops = BTreeMap::new();
    let mut configs = BTreeMap::new();
    // By the names of their members: the bytes of a layer, unless they are left out.
    let mut layers: BTreeMap<String, Option<(Digest, u64)>> = BTreeMap::new();
    for image in images {
        let config = blobs.read(&image.manifest.config.digest, options.limits.json_bytes)?;
        if let Some(top) = steps(image, &config, &mut directories)? {
            tops.insert(image.descriptor.digest, top);
        }
        configs.insert(classic_config(&image.manifest.config.digest), config);
        for (layer, diff_id) in image.manifest.layers.iter().zip(&image.config.rootfs.diff_ids) {
            let blob = needed.get(&layer.digest).map(|&size| (layer.digest, size));
            if blob.is_some() && !layer.media_type.is_open_layer() {
                let (layer, media_type) = (layer.digest, layer.media_type.clone());
                return Err(SaveError::ClosedLayer { layer, media_type });
            }
            layers.insert(classic_layer(diff_id), blob);
        }
    }

    let (manifest, repositories) = listing::docker(&listed, &platform, &mut warnings, Naming::Classic(&tops));
    let lists = [(docker::MANIFEST, &manifest[..]), (docker::REPOSITORIES, &repositories[..])];
    listing::check(&lists, &options.limits)?;
    let mut archive = Writer::new(out);
    let documents = [(docker::MANIFEST, manifest), (docker::REPOSITORIES, repositories)];
    let documents = documents.into_iter().map(|(name, content)| (name.to_owned(), content));
    for (name, content) in documents.chain(configs) {
        let entry = member(&name, EntryKind::File { size: content.len() as u64 });
        archive.file(&entry, &content[..]).map_err(SaveError::Write)?;
    }
    for (id, Directory { json, layer }) in directories {
        archive.entry(&member(&id, EntryKind::Directory)).map_err(SaveError::Write)?;
        for (name, content) in [("VERSION", b"1.0".to_vec()), ("json", json)] {
            let entry = member(&format!("{id}/{name}"), EntryKind::File { size: content.len() as u64 });
            archive.file(&entry, &content[..]).map_err(SaveError::Write)?;
        }
        // What is left out cannot be linked to.
        if layers.get(&layer).is_none_or(Option::is_none) {
            continue;
        }
        let target = format!("../{layer}").into_bytes();
        let link = member(&format!("{id}/layer.tar"), EntryKind::Symlink(target));
        archive.entry(&link).map_err(SaveError::Write)?;
    }
    let sizes: Vec<_> = layers.values().flatten().copied().collect();
    let mut copy = Copying::new(total(&sizes), options);
    for (name, blob) in layers {
        let Some((digest, size)) = blob else { continue };
        archive.entry(&member(&name, EntryKind::File { size })).map_err(SaveError::Write)?;
        copy.blob(blobs, &digest, size, |bytes| archive.data(bytes).map_err(SaveError::Write))?;
    }
    let mut out = archive.finish().map_err(SaveError::Write)?;
    out.flush().at("write", "the archive")?;
    Ok(warnings)
}

/// What the oldest readers look for: the directory of one layer on those below it.
struct Directory {
    json: Vec<u8>,
    /// The member that has the tar.
    layer: String,
}

/// Adds the directories of an image's layers, and returns the id of the top one.
fn steps(
    image: &LoadedManifest,
    config: &[u8],
    directories: &mut BTreeMap<String, Directory>,
) -> Result<Option<String>, SaveError> {
    let diff_ids = &image.config.rootfs.diff_ids;
    let mut below: Option<String> = None;
    let mut chain: Option<ChainId> = None;
    let history: Vec<_> = image.config.history_with_layers().filter(|(_, layer)| layer.is_some()).collect();
    for (at, &diff_id) in diff_ids.iter().enumerate() {
        let mut layer = match at + 1 == diff_ids.len() {
            true => of_the_image(image, config)?,
            false => Map::new(),
        };
        describe(&mut layer, history.get(at).map(|(step, _)| *step), &image.config);
        if let Some(below) = &below {
            layer.insert("parent".to_owned(), below.clone().into());
        }
        let here = match chain {
            None => ChainId::base(diff_id),
            Some(chain) => chain.with(diff_id),
        };
        let text = |layer: &Map<String, Value>| {
            serde_json::to_vec(layer).expect("it is JSON already, and a Vec takes every write")
        };
        // As docker makes it: of all that is said, and of the stack.
        layer.insert("layer_id".to_owned(), here.to_string().into());
        let id = Digest::of(text(&layer)).hex();
        layer.remove("layer_id");
        layer.insert("id".to_owned(), id.clone().into());
        directories.insert(id.clone(), Directory { json: text(&layer), layer: classic_layer(&diff_id) });
        (below, chain) = (Some(id), Some(here));
    }
    Ok(below)
}

/// What the top layer says of the image: its config, but for what did not exist then.
fn of_the_image(image: &LoadedManifest, config: &[u8]) -> Result<Map<String, Value>, SaveError> {
    let fault = |error: serde_json::Error| {
        let source = LoadError::Read(error.into());
        SaveError::Image { image: image.descriptor.digest, source }
    };
    let mut layer: Map<String, Value> = serde_json::from_slice(config).map_err(fault)?;
    let unknown: BTreeSet<&str> = ["rootfs", "history", "id", "parent", "layer_id"].into();
    layer.retain(|key, _| !unknown.contains(key.as_str()));
    Ok(layer)
}

/// Says in `layer` how it came to be.
fn describe(layer: &mut Map<String, Value>, step: Option<&History>, config: &Config) {
    let nothing = History::default();
    let step = step.unwrap_or(&nothing);
    let words = [("created", &step.created), ("author", &step.author), ("comment", &step.comment)];
    for (key, word) in words {
        if let Some(word) = word {
            layer.insert(key.to_owned(), word.clone().into());
        }
    }
    // There was no layer without a time.
    layer.entry("created").or_insert_with(|| "1970-01-01T00:00:00Z".into());
    if let Some(command) = &step.created_by {
        layer.insert("container_config".to_owned(), json!({ "Cmd": [command] }));
    }
    layer.entry("os").or_insert_with(|| config.platform().os.into());
}
