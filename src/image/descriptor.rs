//! [`Descriptor`]: media type, digest and size, by which one document asks for another.
//!
//! A descriptor that was read has a usable digest, a size that a file can have, and embedded data that is
//! what the digest says. Whether bytes from elsewhere are what it names is for [`Descriptor::verify`] to say.

use std::collections::BTreeMap;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde::{Serialize, Serializer};
use serde_json::Value;

use crate::digest::Digest;

use super::json::{Extra, Fields, FromJson, Place, deserialize_from_json, wrong_type};
use super::{ImageError, MediaType, Platform};

/// A reference to content, as [the
/// spec](https://github.com/opencontainers/image-spec/blob/main/descriptor.md) has it.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub struct Descriptor {
    /// What the content is.
    pub media_type: MediaType,
    /// Digest of the content as it is stored.
    pub digest: Digest,
    /// Its length in bytes, 2^63 - 1 at most.
    pub size: u64,
    /// Where else it may be had; used for layers that must not be passed on.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub urls: Vec<String>,
    /// Notes by name.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, String>,
    /// The content itself, where it is small.
    #[serde(skip_serializing_if = "Option::is_none", serialize_with = "as_base64")]
    pub data: Option<Vec<u8>>,
    /// What machine the image is for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub platform: Option<Platform>,
    /// What kind of artifact the manifest is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub artifact_type: Option<String>,
    /// Fields without a meaning here.
    #[serde(flatten)]
    pub extra: Extra,
}

fn as_base64<S: Serializer>(data: &Option<Vec<u8>>, serializer: S) -> Result<S::Ok, S::Error> {
    data.as_deref().map(|data| BASE64.encode(data)).serialize(serializer)
}

deserialize_from_json!(Descriptor);

impl FromJson for Descriptor {
    fn from_json(value: Value, place: &Place<'_>) -> Result<Self, ImageError> {
        let mut fields = Fields::of(value, place)?;
        let Data(data) = fields.or_default("data")?;
        let Size(size) = fields.required("size")?;
        let descriptor = Self {
            media_type: fields.required("mediaType")?,
            digest: fields.required("digest")?,
            size,
            urls: fields.or_default("urls")?,
            annotations: fields.or_default("annotations")?,
            data,
            platform: fields.optional("platform")?,
            artifact_type: fields.optional("artifactType")?,
            extra: fields.rest()?,
        };
        if let Some(data) = &descriptor.data {
            descriptor.verify(data).map_err(|source| ImageError::EmbeddedData {
                place: place.key("data").to_string(),
                source: Box::new(source),
            })?;
        }
        Ok(descriptor)
    }
}

/// Bytes in base64, absent by default.
#[derive(Default)]
struct Data(Option<Vec<u8>>);

impl FromJson for Data {
    fn from_json(value: Value, place: &Place<'_>) -> Result<Self, ImageError> {
        let text = String::from_json(value, place)?;
        // Strict: one text for each sequence of bytes, so that reading and writing gives the same document.
        match BASE64.decode(&text) {
            Ok(data) => Ok(Self(Some(data))),
            Err(_) => Err(wrong_type(place, "bytes in padded base64", &Value::String(text))),
        }
    }
}

struct Size(u64);

impl FromJson for Size {
    fn from_json(value: Value, place: &Place<'_>) -> Result<Self, ImageError> {
        let size = i64::from_json(value, place)?;
        let negative = |_| ImageError::NegativeSize { place: place.to_string(), size };
        u64::try_from(size).map(Self).map_err(negative)
    }
}

impl Descriptor {
    /// Names content of which digest and size are known.
    pub fn new(media_type: MediaType, digest: Digest, size: u64) -> Self {
        Self {
            media_type,
            digest,
            size,
            urls: Vec::new(),
            annotations: BTreeMap::new(),
            data: None,
            platform: None,
            artifact_type: None,
            extra: Extra::new(),
        }
    }

    /// Names `bytes`, by SHA-256.
    pub fn of(media_type: MediaType, bytes: &[u8]) -> Self {
        Self::new(media_type, Digest::of(bytes), bytes.len() as u64)
    }

    /// Says whether `bytes` are the content that this names.
    ///
    /// # Errors
    ///
    /// [`ImageError::SizeMismatch`], before anything is hashed, or [`ImageError::DigestMismatch`].
    pub fn verify(&self, bytes: &[u8]) -> Result<(), ImageError> {
        let actual = bytes.len() as u64;
        if actual != self.size {
            return Err(ImageError::SizeMismatch { digest: self.digest, expected: self.size, actual });
        }
        let actual = Digest::of_with(self.digest.algorithm(), bytes);
        if actual != self.digest {
            return Err(ImageError::DigestMismatch { expected: self.digest, actual });
        }
        Ok(())
    }

    /// Whether this, in an index, describes another manifest there and is no image: a build's attestation,
    /// for one.
    pub fn is_attestation(&self) -> bool {
        self.platform.as_ref().is_some_and(Platform::is_unknown)
            || self
                .annotations
                .get("vnd.docker.reference.type")
                .is_some_and(|kind| kind == "attestation-manifest")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::image::json;
    use crate::limits::Limits;

    fn parse(text: &str) -> Result<Descriptor, ImageError> {
        json::parse("descriptor", text.as_bytes(), &Limits::default())
    }

    fn with(fields: &str) -> String {
        let digest = Digest::of(b"{}");
        format!(r#"{{"mediaType":"a/b","digest":"{digest}","size":2{fields}}}"#)
    }

    #[test]
    fn a_descriptor_keeps_every_field_and_its_order() {
        let text = with(concat!(
            r#","urls":["https://a"],"annotations":{"a":"1","b":"<&>"},"data":"e30=","#,
            r#""platform":{"architecture":"arm64","os":"linux","variant":"v8"},"artifactType":"c/d","#,
            r#""later":{"x":[1,null,-2.5]}"#
        ));
        let descriptor = parse(&text).unwrap();
        assert_eq!(descriptor.data.as_deref(), Some(&b"{}"[..]));
        assert_eq!(String::from_utf8(json::to_bytes(&descriptor)).unwrap(), text);
        assert_eq!(serde_json::from_str::<Descriptor>(&text).unwrap(), descriptor);
    }

    #[test]
    fn null_is_the_same_as_absent() {
        let nulls =
            with(r#","urls":null,"annotations":null,"data":null,"platform":null,"artifactType":null"#);
        assert_eq!(parse(&nulls), parse(&with("")));
    }

    #[test]
    fn sizes_that_no_file_has_are_refused() {
        for (size, message) in [
            ("-1", "descriptor.size is negative: -1"),
            (
                "9223372036854775808",
                "descriptor.size should be an integer of 64 bits, found 9223372036854775808",
            ),
            ("1.5", "descriptor.size should be an integer of 64 bits, found 1.5"),
            ("\"2\"", "descriptor.size should be an integer of 64 bits, found \"2\""),
            ("null", "descriptor.size is missing"),
        ] {
            let text = with("").replace("\"size\":2", &format!("\"size\":{size}"));
            assert_eq!(parse(&text).unwrap_err().to_string(), message);
        }
    }

    #[test]
    fn embedded_data_that_is_not_the_content_is_refused() {
        let other = parse(&with(r#","data":"e31=""#)).unwrap_err();
        assert!(matches!(other, ImageError::WrongType { .. }), "{other}");
        let other = parse(&with(r#","data":"W10=""#)).unwrap_err();
        assert!(
            matches!(&other, ImageError::EmbeddedData { source, .. }
            if matches!(**source, ImageError::DigestMismatch { .. })),
            "{other}"
        );
        let longer = parse(&with(r#","data":"e30g""#)).unwrap_err();
        assert!(
            matches!(&longer, ImageError::EmbeddedData { source, .. }
            if matches!(**source, ImageError::SizeMismatch { expected: 2, actual: 3, .. })),
            "{longer}"
        );
    }

    #[test]
    fn bytes_are_verified_by_size_and_by_digest() {
        let descriptor = Descriptor::of(MediaType::OCI_EMPTY, b"{}");
        assert_eq!(descriptor.verify(b"{}"), Ok(()));
        assert!(matches!(descriptor.verify(b"{} "), Err(ImageError::SizeMismatch { .. })));
        assert!(matches!(descriptor.verify(b"[]"), Err(ImageError::DigestMismatch { .. })));
    }

    #[test]
    fn attestations_are_told_by_platform_or_annotation() {
        let unknown = r#","platform":{"architecture":"unknown","os":"unknown"}"#;
        assert!(parse(&with(unknown)).unwrap().is_attestation());
        let noted = r#","annotations":{"vnd.docker.reference.type":"attestation-manifest"}"#;
        assert!(parse(&with(noted)).unwrap().is_attestation());
        assert!(!parse(&with("")).unwrap().is_attestation());
    }
}
