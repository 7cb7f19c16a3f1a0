//! Docker-archives from before 2016: `repositories` names the top layer of each image, every layer has a directory with
//! `json` and `layer.tar`, and `json` names the layer below.
//!
//! There are no configs and no diff ids, so both are made here, as docker does when it loads such an archive: the
//! config is the top layer's `json` without what describes the layer, each layer is one step of the history. What comes
//! out is an [`Item`] like those of `manifest.json`.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

use super::LoadError;
use super::docker::{Item, REPOSITORIES, add_name};
use super::members::Members;
use crate::image::{ImageError, Reference, json};
use crate::limits::Limits;

/// What in a layer's `json` is about the layer and not about the image.
const OF_THE_LAYER: [&str; 6] = ["id", "parent", "parent_id", "layer_id", "Size", "throwaway"];

/// The images that `document`, the content of `repositories`, names.
///
/// # Errors
///
/// [`LoadError`] if a document is refused, a name is none or a layer is missing.
pub(super) fn items(
    document: &[u8],
    members: &mut Members<'_>,
    limits: &Limits,
) -> Result<Vec<Item>, LoadError> {
    let repositories: BTreeMap<String, BTreeMap<String, String>> =
        json::parse(REPOSITORIES, document, &limits.for_lists())
            .map_err(|source| LoadError::image(REPOSITORIES, source))?;
    let mut images: BTreeMap<&str, (Vec<Reference>, Vec<String>)> = BTreeMap::new();
    for (repository, tags) in &repositories {
        for (tag, top) in tags {
            let (names, refused) = images.entry(top).or_default();
            add_name(format!("{repository}:{tag}"), REPOSITORIES, names, refused)?;
        }
    }
    if images.len() > limits.images {
        let (place, found, limit) = (REPOSITORIES, images.len(), limits.images);
        return Err(LoadError::image(REPOSITORIES, ImageError::TooMany { place, found, limit }));
    }
    images.into_iter().map(|(top, names)| item(top, names, members, limits)).collect()
}

fn item(
    top: &str,
    (names, refused): (Vec<Reference>, Vec<String>),
    members: &mut Members<'_>,
    limits: &Limits,
) -> Result<Item, LoadError> {
    let mut below = Some(top.to_owned());
    let mut wanted_by = REPOSITORIES.to_owned();
    let mut layers = Vec::new();
    let mut diff_ids = Vec::new();
    let mut history = Vec::new();
    let mut config = None;
    while let Some(id) = below {
        if layers.len() == limits.layers {
            let (limit, maximum) = ("layers", limits.layers as u64);
            return Err(LoadError::Limit { member: wanted_by, limit, maximum });
        }
        let described_in = format!("{id}/json");
        let tar = format!("{id}/layer.tar");
        let missing = |member: &str| LoadError::MissingMember {
            member: member.to_owned(),
            wanted_by: wanted_by.clone(),
        };
        let bytes = members.read_named(&described_in, limits)?.ok_or_else(|| missing(&described_in))?;
        let layer: BTreeMap<String, Value> =
            json::parse("layer", &bytes, limits).map_err(|source| LoadError::image(&described_in, source))?;
        let diff_id = members.diff_id(&tar, limits)?.ok_or_else(|| missing(&tar))?;
        diff_ids.push(diff_id.to_string());
        layers.push(tar);
        history.push(step(&layer));
        below = layer.get("parent").and_then(Value::as_str).filter(|id| !id.is_empty()).map(str::to_owned);
        wanted_by = described_in;
        config = config.or(Some(layer));
    }
    layers.reverse();
    diff_ids.reverse();
    history.reverse();
    let mut config = config.unwrap_or_default();
    config.retain(|key, _| !OF_THE_LAYER.contains(&key.as_str()));
    config.insert("rootfs".to_owned(), json!({"type": "layers", "diff_ids": diff_ids}));
    config.insert("history".to_owned(), Value::Array(history));
    let bytes = serde_json::to_vec(&config).expect("it was JSON, and a Vec takes every write");
    let id = members.add(bytes);
    Ok(Item { config: format!("{top}/json"), id, names, refused, layers, sources: BTreeMap::new() })
}

/// What the history says of a layer.
fn step(layer: &BTreeMap<String, Value>) -> Value {
    let mut step = Map::new();
    for key in ["author", "comment", "created"] {
        if let Some(Value::String(text)) = layer.get(key).filter(|text| *text != "") {
            step.insert(key.to_owned(), text.clone().into());
        }
    }
    let command =
        layer.get("container_config").and_then(|config| config.get("Cmd")).and_then(Value::as_array);
    let words: Vec<_> = command.into_iter().flatten().filter_map(Value::as_str).collect();
    if !words.is_empty() {
        step.insert("created_by".to_owned(), words.join(" ").into());
    }
    Value::Object(step)
}
