//! [`ManifestDocument`]: what lies behind a descriptor of which only the bytes are known.
//!
//! Also the checks that manifest and index share. What a document is follows from its own media type, or from
//! its fields where it has none; where the two, or the descriptor, disagree, it is refused.

use serde::{Serialize, Serializer};
use serde_json::Value;

use crate::limits::Limits;

use super::json::{self, Fields, FromJson, Place};
use super::{Descriptor, ImageError, Index, Manifest, MediaKind, MediaType};

/// A manifest or an index.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum ManifestDocument {
    /// An image.
    Image(Manifest),
    /// Something else that has the form of an image: an attestation, a signature, a chart. It is kept and
    /// never unpacked.
    Artifact(Manifest),
    /// A list of manifests.
    Index(Index),
}

impl ManifestDocument {
    /// Reads either.
    ///
    /// # Errors
    ///
    /// As [`Manifest::parse`] and [`Index::parse`]; [`ImageError::UnknownDocument`] if it is neither.
    pub fn parse(bytes: &[u8], limits: &Limits) -> Result<Self, ImageError> {
        match json::parse("document", bytes, limits)? {
            Kind::Index => Index::parse(bytes, limits).map(Self::Index),
            Kind::Manifest => {
                let manifest = Manifest::parse(bytes, limits)?;
                Ok(if manifest.is_image() { Self::Image(manifest) } else { Self::Artifact(manifest) })
            }
        }
    }

    /// What the document is called, whether or not it says so itself.
    pub fn media_type(&self) -> MediaType {
        match self {
            Self::Image(manifest) | Self::Artifact(manifest) => manifest.media_type(),
            Self::Index(index) => index.media_type(),
        }
    }

    /// Reads what `descriptor` names.
    ///
    /// # Errors
    ///
    /// As [`ManifestDocument::parse`]; also if `bytes` have another size, digest or media type than the
    /// descriptor says, or if they are no index and it says they are.
    pub fn parse_described(
        descriptor: &Descriptor,
        bytes: &[u8],
        limits: &Limits,
    ) -> Result<Self, ImageError> {
        descriptor.verify(bytes)?;
        let document = Self::parse(bytes, limits)?;
        let (name, media_type, kind) = match &document {
            Self::Image(manifest) | Self::Artifact(manifest) => {
                ("manifest", &manifest.media_type, MediaKind::Manifest)
            }
            Self::Index(index) => ("index", &index.media_type, MediaKind::Index),
        };
        agree(name, media_type.as_ref(), descriptor)?;
        let expected = descriptor.media_type.kind();
        if matches!(expected, MediaKind::Manifest | MediaKind::Index) && expected != kind {
            let expected = descriptor.media_type.clone();
            return Err(ImageError::MediaTypeMismatch { document: name, expected, found: canonical(kind) });
        }
        Ok(document)
    }
}

/// What a document turns out to be.
enum Kind {
    Manifest,
    Index,
}

impl FromJson for Kind {
    fn from_json(value: Value, place: &Place<'_>) -> Result<Self, ImageError> {
        let mut fields = Fields::of(value, place)?;
        let media_type: Option<MediaType> = fields.optional("mediaType")?;
        match media_type.map(|media_type| media_type.kind()) {
            Some(MediaKind::Manifest) => Ok(Self::Manifest),
            Some(MediaKind::Index) => Ok(Self::Index),
            _ if fields.has("manifests") => Ok(Self::Index),
            _ if fields.has("config") => Ok(Self::Manifest),
            _ => {
                // Docker's first schema is worth an error of its own.
                SchemaVersion::take(&mut fields, place)?;
                Err(ImageError::UnknownDocument { document: place.document() })
            }
        }
    }
}

/// The number 2, the only schema there is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct SchemaVersion;

impl SchemaVersion {
    pub(super) fn take(fields: &mut Fields<'_>, place: &Place<'_>) -> Result<Self, ImageError> {
        let found = match fields.optional::<Value>("schemaVersion")? {
            Some(Value::Number(version)) if version.as_u64() == Some(2) => return Ok(Self),
            Some(other) => other.to_string(),
            None => "none".to_owned(),
        };
        Err(ImageError::SchemaVersion { document: place.document(), found })
    }
}

impl Serialize for SchemaVersion {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_u8(2)
    }
}

/// Takes the document's own media type, which must be one of its kind.
pub(super) fn media_type(
    fields: &mut Fields<'_>,
    place: &Place<'_>,
    kind: MediaKind,
) -> Result<Option<MediaType>, ImageError> {
    match fields.optional::<MediaType>("mediaType")? {
        Some(found) if found.kind() != kind && !found.as_str().is_empty() => {
            let (document, expected) = (place.document(), canonical(kind));
            Err(ImageError::MediaTypeMismatch { document, expected, found })
        }
        other => Ok(other.filter(|found| !found.as_str().is_empty())),
    }
}

fn canonical(kind: MediaKind) -> MediaType {
    if kind == MediaKind::Index { MediaType::OCI_INDEX } else { MediaType::OCI_MANIFEST }
}

/// Compares what a document calls itself with what it was asked for as.
pub(super) fn agree(
    document: &'static str,
    found: Option<&MediaType>,
    descriptor: &Descriptor,
) -> Result<(), ImageError> {
    match found {
        Some(found) if *found != descriptor.media_type => {
            let (expected, found) = (descriptor.media_type.clone(), found.clone());
            Err(ImageError::MediaTypeMismatch { document, expected, found })
        }
        _ => Ok(()),
    }
}

pub(super) fn few(place: &'static str, found: usize, limit: usize) -> Result<(), ImageError> {
    if found > limit { Err(ImageError::TooMany { place, found, limit }) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<ManifestDocument, ImageError> {
        ManifestDocument::parse(text.as_bytes(), &Limits::default())
    }

    fn image(media_type: &str) -> String {
        let config = Descriptor::of(MediaType::OCI_CONFIG, b"{}");
        let config = String::from_utf8(json::to_bytes(&config)).unwrap();
        format!(r#"{{"schemaVersion":2{media_type},"config":{config},"layers":[]}}"#)
    }

    #[test]
    fn a_document_is_told_by_its_media_type_or_by_its_fields() {
        let oci = r#","mediaType":"application/vnd.oci.image.manifest.v1+json""#;
        let docker = r#","mediaType":"application/vnd.docker.distribution.manifest.v2+json""#;
        for media_type in ["", oci, docker] {
            assert!(matches!(parse(&image(media_type)), Ok(ManifestDocument::Image(_))), "{media_type}");
        }
        let artifact = image("").replace("oci.image.config", "oci.empty");
        assert!(matches!(parse(&artifact), Ok(ManifestDocument::Artifact(_))));
        let list = r#","mediaType":"application/vnd.docker.distribution.manifest.list.v2+json""#;
        for media_type in ["", list] {
            let text = format!(r#"{{"schemaVersion":2{media_type},"manifests":[]}}"#);
            assert!(matches!(parse(&text), Ok(ManifestDocument::Index(_))));
        }
    }

    #[test]
    fn what_is_neither_says_so() {
        assert_eq!(
            parse(r#"{"schemaVersion":2}"#),
            Err(ImageError::UnknownDocument { document: "document" })
        );
        let first = parse(r#"{"schemaVersion":1,"fsLayers":[]}"#);
        assert!(matches!(first, Err(ImageError::SchemaVersion { .. })));
        assert!(matches!(
            parse(&image("").replace("\"layers\"", "\"manifests\"")),
            Err(ImageError::ManifestAndIndex { .. })
        ));
    }

    #[test]
    fn the_descriptor_decides_which_of_the_two_it_must_be() {
        let text = image("");
        let described = |media_type| {
            let descriptor = Descriptor::of(media_type, text.as_bytes());
            ManifestDocument::parse_described(&descriptor, text.as_bytes(), &Limits::default())
        };
        assert!(described(MediaType::OCI_MANIFEST).is_ok());
        assert!(described(MediaType::DOCKER_MANIFEST).is_ok());
        assert!(matches!(described(MediaType::OCI_INDEX), Err(ImageError::MediaTypeMismatch { .. })));
    }
}
