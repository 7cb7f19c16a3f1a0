//! The OCI side of an archive or a layout: `oci-layout` and `index.json`.

use std::collections::BTreeMap;

use serde_json::Value;

use super::load::{LoadOptions, Loaded};
use super::names::{self, Given};
use super::walk::{Lookup, Walk};
use super::{LoadError, MissingLayer, Warning};
use crate::image::{CONTAINERD_IMAGE_NAME, Descriptor, Index, OCI_REF_NAME, json};
use crate::limits::Limits;
use crate::text::quotation;

/// The document that makes a directory a layout.
pub(super) const LAYOUT: &str = "oci-layout";
/// What is in it.
pub(super) const LAYOUT_CONTENT: &[u8] = br#"{"imageLayoutVersion":"1.0.0"}"#;
/// The document that lists the images of a layout.
pub(super) const INDEX: &str = "index.json";

/// Makes sure that `document`, the content of `oci-layout`, is of the version that is known.
///
/// # Errors
///
/// [`LoadError::Layout`] and [`LoadError::Image`].
pub(super) fn check_layout(document: &[u8], limits: &Limits) -> Result<(), LoadError> {
    let layout: BTreeMap<String, Value> =
        json::parse(LAYOUT, document, limits).map_err(|source| LoadError::image(LAYOUT, source))?;
    let fault = |reason| Err(LoadError::Layout { reason });
    match layout.get("imageLayoutVersion") {
        Some(Value::String(version)) if version.starts_with("1.") => Ok(()),
        Some(other) => fault(format!("it says {other}")),
        None => fault("it says nothing of a version".to_owned()),
    }
}

/// Everything that `document`, an `index.json`, lists; what is listed under several names comes once.
///
/// # Errors
///
/// [`LoadError`].
pub(super) fn images(
    document: &[u8],
    walk: &mut Walk<'_, impl Lookup>,
    options: &LoadOptions<'_>,
) -> Result<Vec<Loaded>, LoadError> {
    let index = Index::parse(document, &options.limits.for_lists());
    let index = index.map_err(|source| LoadError::image(INDEX, source))?;
    let mut targets: Vec<(Descriptor, Vec<Given>)> = Vec::new();
    let mut places = BTreeMap::new();
    for mut entry in index.manifests {
        let given = names::of_annotations(&entry.annotations, options.repository.as_ref());
        entry.annotations.remove(OCI_REF_NAME);
        entry.annotations.remove(CONTAINERD_IMAGE_NAME);
        // Entries that differ in type or size are verified one by one.
        let key = (entry.digest, entry.size, entry.media_type.clone());
        let place = *places.entry(key).or_insert_with(|| {
            targets.push((entry, Vec::new()));
            targets.len() - 1
        });
        targets[place].1.extend(given);
    }
    let load = |(target, given): (Descriptor, Vec<Given>)| {
        let mut loaded = walk.image(target, INDEX)?;
        for given in given {
            match given {
                Given::Name(name) => names::add(&mut loaded, [name]),
                Given::Tag(tag) => loaded.warnings.push(Warning::OnlyTag { tag }),
                Given::Text(text) => loaded.warnings.push(Warning::NotAName { text }),
                Given::Id(text) => loaded.warnings.push(Warning::NameReadsAsId { text: quotation(&text) }),
            }
        }
        Ok(loaded)
    };
    let mut missing = Missing::default();
    let loaded = targets.into_iter().map(load).map(|loaded| missing.note(loaded));
    let loaded: Vec<_> = loaded.collect::<Result<_, _>>()?;
    missing.check()?;
    Ok(loaded.into_iter().flatten().collect())
}

/// What layers are missing of all images, so that one error tells of all.
#[derive(Default)]
pub(super) struct Missing(Vec<MissingLayer>);

impl Missing {
    /// `loaded`, unless it failed because of layers.
    pub(super) fn note<T>(&mut self, loaded: Result<T, LoadError>) -> Result<Option<T>, LoadError> {
        match loaded {
            Err(LoadError::MissingLayers { layers }) => {
                for layer in layers {
                    if !self.0.contains(&layer) {
                        self.0.push(layer);
                    }
                }
                Ok(None)
            }
            other => other.map(Some),
        }
    }

    /// # Errors
    ///
    /// [`LoadError::MissingLayers`] if there are any.
    pub(super) fn check(self) -> Result<(), LoadError> {
        if self.0.is_empty() { Ok(()) } else { Err(LoadError::MissingLayers { layers: self.0 }) }
    }
}
