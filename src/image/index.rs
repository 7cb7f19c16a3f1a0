//! [`Index`]: a list of manifests, for the platforms of one image or for the names of a layout.
//!
//! OCI's index and docker's manifest list are the same document under two names. An index that was read is no
//! manifest to anybody.

use std::collections::BTreeMap;

use serde::Serialize;
use serde_json::Value;

use crate::limits::Limits;

use super::document::{self, SchemaVersion};
use super::json::{self, Extra, Fields, FromJson, Place, deserialize_from_json};
use super::{Descriptor, ImageError, MediaKind, MediaType, Platform};

/// An image index, as [the spec](https://github.com/opencontainers/image-spec/blob/main/image-index.md) has
/// it.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub struct Index {
    schema_version: SchemaVersion,
    /// What the document calls itself; OCI lets it be absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub media_type: Option<MediaType>,
    /// What kind of artifact this is, if it is one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub artifact_type: Option<String>,
    /// What is listed, in the order of preference.
    pub manifests: Vec<Descriptor>,
    /// Another manifest that this one says something about.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub subject: Option<Descriptor>,
    /// Notes by name.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, String>,
    /// Fields without a meaning here.
    #[serde(flatten)]
    pub extra: Extra,
}

deserialize_from_json!(Index);

impl FromJson for Index {
    fn from_json(value: Value, place: &Place<'_>) -> Result<Self, ImageError> {
        let mut fields = Fields::of(value, place)?;
        let schema_version = SchemaVersion::take(&mut fields, place)?;
        for other in ["layers", "config"] {
            if fields.has(other) {
                let (document, one) = (place.document(), "manifests");
                return Err(ImageError::ManifestAndIndex { document, one, other });
            }
        }
        let media_type = document::media_type(&mut fields, place, MediaKind::Index)?;
        Ok(Self {
            schema_version,
            media_type,
            artifact_type: fields.optional("artifactType")?,
            manifests: fields.list("manifests")?,
            subject: fields.optional("subject")?,
            annotations: fields.or_default("annotations")?,
            extra: fields.rest()?,
        })
    }
}

impl Default for Index {
    /// An OCI index that lists nothing.
    fn default() -> Self {
        Self::new(Vec::new())
    }
}

impl Index {
    /// An OCI index.
    pub fn new(manifests: Vec<Descriptor>) -> Self {
        Self {
            schema_version: SchemaVersion,
            media_type: Some(MediaType::OCI_INDEX),
            artifact_type: None,
            manifests,
            subject: None,
            annotations: BTreeMap::new(),
            extra: Extra::new(),
        }
    }

    /// Reads an index, such as the `index.json` of a layout.
    ///
    /// # Errors
    ///
    /// [`ImageError`], with the place, for everything that is not one, is ambiguous or goes beyond `limits`.
    pub fn parse(bytes: &[u8], limits: &Limits) -> Result<Self, ImageError> {
        let index: Self = json::parse("index", bytes, limits)?;
        index.within(limits)
    }

    /// Reads the index that `descriptor` names.
    ///
    /// # Errors
    ///
    /// As [`Index::parse`]; also if `bytes` have another size, digest or media type than the descriptor says.
    pub fn parse_described(
        descriptor: &Descriptor,
        bytes: &[u8],
        limits: &Limits,
    ) -> Result<Self, ImageError> {
        descriptor.verify(bytes)?;
        let index = Self::parse(bytes, limits)?;
        document::agree("index", index.media_type.as_ref(), descriptor)?;
        Ok(index)
    }

    pub(super) fn within(self, limits: &Limits) -> Result<Self, ImageError> {
        document::few("index.manifests", self.manifests.len(), limits.images)?;
        Ok(self)
    }

    /// The bytes to store: compact, in a fixed order.
    pub fn to_json(&self) -> Vec<u8> {
        json::to_bytes(self)
    }

    /// What the document is called, whether or not it says so itself.
    pub fn media_type(&self) -> MediaType {
        self.media_type.clone().unwrap_or(MediaType::OCI_INDEX)
    }

    /// The entry that `platform` is best served with, the first of equals; `None` if nothing here runs on it.
    ///
    /// An entry that names no platform is the answer only where no other runs: its config must then tell.
    /// Attestations are passed over.
    pub fn select(&self, platform: &Platform) -> Option<&Descriptor> {
        let images = || self.manifests.iter().filter(|entry| !entry.is_attestation());
        let ranked =
            images().filter_map(|entry| Some((platform.preference(entry.platform.as_ref()?)?, entry)));
        let best = ranked.min_by_key(|(far, _)| *far).map(|(_, entry)| entry);
        best.or_else(|| images().find(|entry| entry.platform.is_none()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Index, ImageError> {
        Index::parse(text.as_bytes(), &Limits::default())
    }

    fn entry(name: &[u8], platform: Option<&str>) -> Descriptor {
        let mut descriptor = Descriptor::of(MediaType::OCI_MANIFEST, name);
        descriptor.platform = platform.map(|platform| platform.parse().unwrap());
        descriptor
    }

    #[test]
    fn an_index_reads_and_writes_back() {
        let mut index = Index::new(vec![entry(b"a", Some("linux/amd64")), entry(b"b", None)]);
        index.annotations.insert("a".to_owned(), "1".to_owned());
        index.extra.insert("future".to_owned(), true.into());
        let text = String::from_utf8(index.to_json()).unwrap();
        assert!(text.starts_with(
            r#"{"schemaVersion":2,"mediaType":"application/vnd.oci.image.index.v1+json","manifests":[{"#
        ));
        assert_eq!(parse(&text), Ok(index));
        assert_eq!(
            parse(r#"{"schemaVersion":2,"manifests":null}"#).unwrap().to_json(),
            br#"{"schemaVersion":2,"manifests":[]}"#
        );
    }

    #[test]
    fn a_document_that_is_a_manifest_to_others_is_refused() {
        for other in ["layers", "config"] {
            let text = format!(r#"{{"schemaVersion":2,"manifests":[],"{other}":[]}}"#);
            assert!(matches!(parse(&text), Err(ImageError::ManifestAndIndex { .. })), "{other}");
        }
        let media_type =
            r#"{"schemaVersion":2,"mediaType":"application/vnd.oci.image.manifest.v1+json","manifests":[]}"#;
        assert!(matches!(parse(media_type), Err(ImageError::MediaTypeMismatch { .. })));
    }

    #[test]
    fn the_platform_picks_the_nearest_image_and_never_an_attestation() {
        let unknown = entry(b"attestation", Some("unknown/unknown"));
        let arm = entry(b"arm", Some("linux/arm/v6"));
        let bare = entry(b"bare", None);
        let arm64 = entry(b"arm64", Some("linux/arm64"));
        let index = Index::new(vec![unknown.clone(), arm.clone(), bare.clone(), arm64.clone()]);
        let select = |platform: &str| index.select(&platform.parse().unwrap());
        assert_eq!(select("linux/arm64"), Some(&arm64));
        assert_eq!(select("linux/arm/v7"), Some(&arm));
        assert_eq!(select("linux/s390x"), Some(&bare));
        assert_eq!(Index::new(vec![unknown]).select(&Platform::host()), None);
    }

    #[test]
    fn more_entries_than_the_limit_are_refused() {
        let limits = Limits { images: 1, ..Limits::default() };
        let index = Index::new(vec![entry(b"a", None), entry(b"b", None)]);
        assert!(matches!(Index::parse(&index.to_json(), &limits), Err(ImageError::TooMany { found: 2, .. })));
    }
}
