//! The docker side of an archive: `manifest.json`, which lists configs and layers by the names of their members.
//!
//! Such an image has no manifest, so one is made for it: in OCI's words, of the config and the layers as they are. Equal
//! archives give equal manifests.

use std::collections::BTreeMap;

use serde_json::Value;

use super::content::{Found, digest_in_name};
use super::load::LoadOptions;
use super::members::Members;
use super::{LoadError, MissingLayer};
use crate::digest::{DiffId, Digest};
use crate::image::json::{self, Fields, FromJson, Place};
use crate::image::{Config, Descriptor, ImageError, Manifest, MediaType, Reference};
use crate::limits::Limits;
use crate::text::quotation;

/// The document that lists the images.
pub(super) const MANIFEST: &str = "manifest.json";
/// The document that names them in archives from before there was `manifest.json`.
pub(super) const REPOSITORIES: &str = "repositories";

/// One image, as `manifest.json` has it.
pub(super) struct Item {
    /// Name of the config's member.
    pub(super) config: String,
    /// Its digest: the id of the image.
    pub(super) id: Digest,
    pub(super) names: Vec<Reference>,
    /// Names that are left out, because they read as image ids.
    pub(super) refused: Vec<String>,
    /// Names of the layers' members, bottom first.
    pub(super) layers: Vec<String>,
    /// Layers that may be absent, by diff id: descriptors that say where they can be had.
    pub(super) sources: BTreeMap<String, Descriptor>,
}

struct Written {
    config: String,
    repo_tags: Vec<String>,
    layers: Vec<String>,
    sources: BTreeMap<String, Descriptor>,
}

impl FromJson for Written {
    fn from_json(value: Value, place: &Place<'_>) -> Result<Self, ImageError> {
        let mut fields = Fields::of(value, place)?;
        let written = Self {
            config: fields.required("Config")?,
            repo_tags: fields.or_default("RepoTags")?,
            layers: fields.or_default("Layers")?,
            sources: fields.or_default("LayerSources")?,
        };
        fields.rest()?; // no second spelling of the above
        Ok(written)
    }
}

/// The images that `document`, a `manifest.json`, lists.
///
/// # Errors
///
/// [`LoadError`] if it is not such a document, a name is none or a config is missing.
pub(super) fn items(document: &[u8], members: &Members<'_>, limits: &Limits) -> Result<Vec<Item>, LoadError> {
    let refused = |source| LoadError::image(MANIFEST, source);
    let written: Vec<Written> = json::parse(MANIFEST, document, &limits.for_lists()).map_err(refused)?;
    if written.len() > limits.images {
        let (place, found, limit) = (MANIFEST, written.len(), limits.images);
        return Err(refused(ImageError::TooMany { place, found, limit }));
    }
    written.into_iter().map(|written| item(written, members)).collect()
}

fn item(written: Written, members: &Members<'_>) -> Result<Item, LoadError> {
    let Written { config, repo_tags, layers, sources } = written;
    let (mut names, mut refused) = (Vec::new(), Vec::new());
    for tag in repo_tags {
        add_name(tag, MANIFEST, &mut names, &mut refused)?;
    }
    let id = members.resolve(&config)?.ok_or_else(|| missing(&config))?;
    // Its name is the image's id wherever it looks like one.
    match digest_in_name(config.as_bytes()) {
        Some(expected) if expected != id => {
            Err(LoadError::DigestMismatch { member: config, expected, actual: id })
        }
        _ => Ok(Item { config, id, names, refused, layers, sources }),
    }
}

/// Reads a tag that `member` gives an image into `names`, or into `refused` if it reads as an image id.
///
/// # Errors
///
/// [`LoadError::InvalidTag`] if it is no name for another reason.
pub(super) fn add_name(
    tag: String,
    member: &str,
    names: &mut Vec<Reference>,
    refused: &mut Vec<String>,
) -> Result<(), LoadError> {
    // A name with a digest is compared with that of the image later.
    let name = match tag.contains('@') {
        true => Reference::parse_familiar(&tag),
        false => Reference::parse_repo_tag(&tag),
    };
    match name {
        Ok(name) => names.push(name),
        Err(error) if error.reads_as_id() => refused.push(quotation(&tag)),
        Err(source) => return Err(LoadError::InvalidTag { member: member.to_owned(), tag, source }),
    }
    Ok(())
}

/// Makes a manifest for `item`, adds it to `members` and returns its descriptor.
///
/// # Errors
///
/// [`LoadError`] if the config is refused or layers are missing. What the layers are is verified with everything else.
pub(super) fn manifest_for(
    item: &Item,
    members: &mut Members<'_>,
    options: &LoadOptions<'_>,
) -> Result<Descriptor, LoadError> {
    let limits = &options.limits;
    let refused = |source| LoadError::image(&item.config, source);
    let bytes = members.read_digest(&item.id, limits.json_bytes)?.ok_or_else(|| missing(&item.config))?;
    let config = Config::parse(&bytes, limits).map_err(refused)?;
    let (layers, diff_ids) = (item.layers.len(), config.rootfs.diff_ids.len());
    if layers != diff_ids {
        return Err(LoadError::image(MANIFEST, ImageError::LayerCount { layers, diff_ids }));
    }
    let (mut layers, mut missing) = (Vec::new(), Vec::new());
    for (path, diff_id) in item.layers.iter().zip(&config.rootfs.diff_ids) {
        match layer(path, diff_id, item, members, options)? {
            Some(layer) => layers.push(layer),
            None => {
                let (member, wanted_by) = (path.clone(), MANIFEST.to_owned());
                missing.push(MissingLayer { member, diff_id: *diff_id, wanted_by });
            }
        }
    }
    if !missing.is_empty() {
        return Err(LoadError::MissingLayers { layers: missing });
    }
    let config = Descriptor::new(MediaType::OCI_CONFIG, item.id, bytes.len() as u64);
    let manifest = Manifest::new(config, layers).to_json();
    let descriptor = Descriptor::of(MediaType::OCI_MANIFEST, &manifest);
    members.add(manifest);
    Ok(descriptor)
}

/// What the manifest says of a layer; `None` if it is nowhere.
fn layer(
    path: &str,
    diff_id: &DiffId,
    item: &Item,
    members: &mut Members<'_>,
    options: &LoadOptions<'_>,
) -> Result<Option<Descriptor>, LoadError> {
    let member = match members.resolve(path)? {
        Some(digest) => members.find_digest(&digest)?.map(|found| (digest, found)),
        None => None,
    };
    if let Some((digest, found)) = member {
        // What no manifest has a word for is kept as the plain tar.
        return Ok(Some(match described(digest, found) {
            Some(descriptor) => descriptor,
            None => {
                let (digest, size) = members.add_decompressed(&digest, &options.limits)?;
                Descriptor::new(MediaType::OCI_LAYER, digest, size)
            }
        }));
    }
    if let Some(source) = item.sources.get(&diff_id.to_string()) {
        let media_type = source.media_type.to_oci();
        return Ok(Some(Descriptor { media_type, ..source.clone() }));
    }
    // Left out because the receiver has it?
    if let Some(found) = members.find_in_store(diff_id.as_digest())? {
        return Ok(described(*diff_id.as_digest(), found));
    }
    let packed = options.find_layer.map(|find| find(diff_id)).transpose()?.flatten();
    match packed {
        Some(digest) => Ok(members.find_in_store(&digest)?.and_then(|found| described(digest, found))),
        None => Ok(None),
    }
}

/// A blob that is a layer; `None` if it is compressed in a way that no manifest has a word for.
fn described(digest: Digest, found: Found) -> Option<Descriptor> {
    let suffix = found.compression?.media_type_suffix()?;
    let media_type = MediaType::from(format!("{}{suffix}", MediaType::OCI_LAYER));
    Some(Descriptor::new(media_type, digest, found.size))
}

fn missing(member: &str) -> LoadError {
    LoadError::MissingMember { member: member.to_owned(), wanted_by: MANIFEST.to_owned() }
}
