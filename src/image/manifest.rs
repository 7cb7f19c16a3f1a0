//! [`Manifest`]: one image, or one artifact, as a config and a list of layers.
//!
//! OCI's manifest and docker's schema 2 are the same document under two names; each keeps the one it has. A
//! manifest that was read is no index to anybody, and has no more layers than [`Limits`] allows.

use std::collections::BTreeMap;

use serde::Serialize;
use serde_json::Value;

use crate::limits::Limits;

use super::document::{self, SchemaVersion};
use super::json::{self, Extra, Fields, FromJson, Place, deserialize_from_json};
use super::{Config, Descriptor, ImageError, MediaKind, MediaType};

/// An image manifest, as [the spec](https://github.com/opencontainers/image-spec/blob/main/manifest.md) has
/// it.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub struct Manifest {
    schema_version: SchemaVersion,
    /// What the document calls itself; OCI lets it be absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub media_type: Option<MediaType>,
    /// What kind of artifact this is, if it is one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub artifact_type: Option<String>,
    /// The image config, or an artifact's own.
    pub config: Descriptor,
    /// The layers, bottom first.
    pub layers: Vec<Descriptor>,
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

deserialize_from_json!(Manifest);

impl FromJson for Manifest {
    fn from_json(value: Value, place: &Place<'_>) -> Result<Self, ImageError> {
        let mut fields = Fields::of(value, place)?;
        let schema_version = SchemaVersion::take(&mut fields, place)?;
        if fields.has("manifests") {
            let (document, one, other) = (place.document(), "layers", "manifests");
            return Err(ImageError::ManifestAndIndex { document, one, other });
        }
        let media_type = document::media_type(&mut fields, place, MediaKind::Manifest)?;
        Ok(Self {
            schema_version,
            media_type,
            artifact_type: fields.optional("artifactType")?,
            config: fields.required("config")?,
            layers: fields.list("layers")?,
            subject: fields.optional("subject")?,
            annotations: fields.or_default("annotations")?,
            extra: fields.rest()?,
        })
    }
}

impl Manifest {
    /// An OCI manifest.
    pub fn new(config: Descriptor, layers: Vec<Descriptor>) -> Self {
        Self {
            schema_version: SchemaVersion,
            media_type: Some(MediaType::OCI_MANIFEST),
            artifact_type: None,
            config,
            layers,
            subject: None,
            annotations: BTreeMap::new(),
            extra: Extra::new(),
        }
    }

    /// Reads a manifest.
    ///
    /// # Errors
    ///
    /// [`ImageError`], with the place, for everything that is not one, is ambiguous or goes beyond `limits`.
    pub fn parse(bytes: &[u8], limits: &Limits) -> Result<Self, ImageError> {
        let manifest: Self = json::parse("manifest", bytes, limits)?;
        manifest.within(limits)
    }

    /// Reads the manifest that `descriptor` names.
    ///
    /// # Errors
    ///
    /// As [`Manifest::parse`]; also if `bytes` have another size, digest or media type than the descriptor
    /// says.
    pub fn parse_described(
        descriptor: &Descriptor,
        bytes: &[u8],
        limits: &Limits,
    ) -> Result<Self, ImageError> {
        descriptor.verify(bytes)?;
        let manifest = Self::parse(bytes, limits)?;
        document::agree("manifest", manifest.media_type.as_ref(), descriptor)?;
        Ok(manifest)
    }

    pub(super) fn within(self, limits: &Limits) -> Result<Self, ImageError> {
        document::few("manifest.layers", self.layers.len(), limits.layers)?;
        Ok(self)
    }

    /// The bytes to store: compact, in a fixed order. A manifest that was not changed should be kept as it
    /// came instead, for its digest is that of its bytes.
    pub fn to_json(&self) -> Vec<u8> {
        json::to_bytes(self)
    }

    /// What the document is called, whether or not it says so itself.
    pub fn media_type(&self) -> MediaType {
        self.media_type.clone().unwrap_or(MediaType::OCI_MANIFEST)
    }

    /// Whether this is an image that can be unpacked, and not an artifact: its config is an image config, and
    /// every layer is called one.
    pub fn is_image(&self) -> bool {
        // Old registries labelled image configs loosely; docker accepts these, and so does everybody.
        const LOOSE: [&str; 4] = ["application/octet-stream", "application/json", "text/html", ""];
        let config = &self.config.media_type;
        let image_config = config.kind() == MediaKind::Config || LOOSE.contains(&config.as_str());
        image_config && self.layers.iter().all(|layer| layer.media_type.is_layer())
    }

    /// What kind of artifact it is, if it is none of the usual images: what it says itself, or else the type of its config.
    pub fn kind_of_artifact(&self) -> String {
        let said = self.artifact_type.as_deref().filter(|said| !said.is_empty());
        said.unwrap_or(self.config.media_type.as_str()).to_owned()
    }

    /// Says whether `config` fits: one diff id for each layer.
    ///
    /// # Errors
    ///
    /// [`ImageError::LayerCount`].
    pub fn check_config(&self, config: &Config) -> Result<(), ImageError> {
        let (layers, diff_ids) = (self.layers.len(), config.rootfs.diff_ids.len());
        if layers == diff_ids { Ok(()) } else { Err(ImageError::LayerCount { layers, diff_ids }) }
    }

    /// The same manifest in OCI's words. The layers and the config, and with it the image id, stay as they
    /// are; the manifest's own digest changes.
    #[must_use]
    pub fn to_oci(&self) -> Self {
        self.renamed(MediaType::to_oci)
    }

    /// The same manifest in docker's words.
    #[must_use]
    pub fn to_docker(&self) -> Self {
        self.renamed(MediaType::to_docker)
    }

    fn renamed(&self, rename: impl Fn(&MediaType) -> MediaType) -> Self {
        let mut manifest = self.clone();
        manifest.media_type = Some(rename(&self.media_type()));
        for descriptor in manifest.layers.iter_mut().chain([&mut manifest.config]) {
            descriptor.media_type = rename(&descriptor.media_type);
        }
        manifest
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::digest::Digest;

    const LIMITS: fn() -> Limits = Limits::default;

    fn descriptor(media_type: &str, content: &[u8]) -> String {
        format!(
            r#"{{"mediaType":"{media_type}","digest":"{}","size":{}}}"#,
            Digest::of(content),
            content.len()
        )
    }

    fn manifest(head: &str, tail: &str) -> String {
        let config = descriptor("application/vnd.oci.image.config.v1+json", b"{}");
        let layer = descriptor("application/vnd.oci.image.layer.v1.tar+gzip", b"layer");
        format!(r#"{{"schemaVersion":2{head},"config":{config},"layers":[{layer}]{tail}}}"#)
    }

    fn parse(text: &str) -> Result<Manifest, ImageError> {
        Manifest::parse(text.as_bytes(), &LIMITS())
    }

    fn message(text: &str) -> String {
        parse(text).unwrap_err().to_string()
    }

    #[test]
    fn a_manifest_reads_and_writes_back_with_fields_nobody_knows() {
        let head = r#","mediaType":"application/vnd.oci.image.manifest.v1+json","artifactType":"a/b""#;
        let tail = format!(
            r#","subject":{},"annotations":{{"a":"1","b":"2"}},"future":{{"z":1,"y":2}}}}"#,
            descriptor("x/y", b"other")
        );
        let text =
            manifest(head, tail.strip_suffix('}').unwrap()).replace(r#"{"z":1,"y":2}"#, r#"{"y":2,"z":1}"#);
        let read = parse(&text).unwrap();
        assert_eq!(String::from_utf8(read.to_json()).unwrap(), text);
        assert_eq!(read.extra["future"]["z"], 1);
    }

    #[test]
    fn a_list_of_layers_may_be_null_as_go_writes_it_but_not_absent() {
        let config = descriptor("application/vnd.oci.image.config.v1+json", b"{}");
        let null = parse(&format!(r#"{{"schemaVersion":2,"config":{config},"layers":null}}"#)).unwrap();
        assert!(null.layers.is_empty() && null.is_image());
        assert_eq!(
            message(&format!(r#"{{"schemaVersion":2,"config":{config}}}"#)),
            "manifest.layers is missing"
        );
    }

    #[test]
    fn another_schema_is_refused_by_its_number() {
        for (version, found) in [("1", "1"), ("\"2\"", "\"2\""), ("null", "none")] {
            let text =
                manifest("", "").replace("\"schemaVersion\":2", &format!("\"schemaVersion\":{version}"));
            assert_eq!(message(&text), format!("manifest has schemaVersion {found}, only 2 is known"));
        }
        let none = manifest("", "").replace("\"schemaVersion\":2,", "");
        assert_eq!(message(&none), "manifest has schemaVersion none, only 2 is known");
    }

    #[test]
    fn a_document_that_is_an_index_to_others_is_refused() {
        for value in ["[]", "{}", "\"\""] {
            let text = manifest("", &format!(",\"manifests\":{value}"));
            assert!(matches!(parse(&text), Err(ImageError::ManifestAndIndex { .. })), "{value}");
        }
        assert!(parse(&manifest("", ",\"manifests\":null")).is_ok());
        assert!(matches!(
            parse(&manifest("", ",\"Layers\":[]")),
            Err(ImageError::AmbiguousKey { meant: "layers", .. })
        ));
        assert!(matches!(parse(&manifest("", ",\"layerſ\":[]")), Err(ImageError::AmbiguousKey { .. })));
    }

    #[test]
    fn a_media_type_that_belies_the_document_or_its_descriptor_is_refused() {
        let index = manifest(r#","mediaType":"application/vnd.oci.image.index.v1+json""#, "");
        assert!(matches!(parse(&index), Err(ImageError::MediaTypeMismatch { .. })));

        let text = manifest(r#","mediaType":"application/vnd.oci.image.manifest.v1+json""#, "");
        let described = |media_type| {
            let descriptor = Descriptor::of(media_type, text.as_bytes());
            Manifest::parse_described(&descriptor, text.as_bytes(), &LIMITS())
        };
        assert!(described(MediaType::OCI_MANIFEST).is_ok());
        assert_eq!(
            described(MediaType::DOCKER_MANIFEST),
            Err(ImageError::MediaTypeMismatch {
                document: "manifest",
                expected: MediaType::DOCKER_MANIFEST,
                found: MediaType::OCI_MANIFEST
            })
        );
    }

    #[test]
    fn a_manifest_that_is_not_what_its_descriptor_names_is_refused() {
        let text = manifest("", "");
        let descriptor = Descriptor::of(MediaType::OCI_MANIFEST, text.as_bytes());
        let other = text.replace("gzip", "zstd");
        let parsed = Manifest::parse_described(&descriptor, other.as_bytes(), &LIMITS());
        assert!(matches!(parsed, Err(ImageError::DigestMismatch { .. })));
        assert!(matches!(
            Manifest::parse_described(&descriptor, b"{}", &LIMITS()),
            Err(ImageError::SizeMismatch { .. })
        ));
    }

    #[test]
    fn more_layers_than_the_limit_are_refused() {
        let mut limits = LIMITS();
        limits.layers = 0;
        let error = Manifest::parse(manifest("", "").as_bytes(), &limits).unwrap_err();
        assert_eq!(error.to_string(), "manifest.layers has 1 entries, and 0 are the limit");
    }

    #[test]
    fn an_error_names_the_place() {
        let negative = manifest("", "").replace("\"size\":5", "\"size\":-5");
        assert_eq!(message(&negative), "manifest.layers[0].size is negative: -5");
        let twice = manifest("", "").replace("\"size\":5", "\"size\":5,\"size\":6");
        assert_eq!(message(&twice), "manifest.layers[0].size is there twice");
        let inside = manifest("", r#","x":{"a.b":[{"c":1},{"d":1,"\u0064":2}]}"#);
        assert_eq!(message(&inside), "manifest.x[\"a.b\"][1].d is there twice");
        let digest = manifest("", "").replace("sha256:", "md5:");
        assert_eq!(message(&digest), "manifest.config.digest is not a usable digest");
    }

    #[test]
    fn what_is_not_one_json_value_is_refused_with_its_position() {
        let error = message("{\n  \"schemaVersion\": 2,\n}");
        assert_eq!(error, "manifest is not JSON: trailing comma at line 3, column 1");
        let error = message(&format!("{} x", manifest("", "")));
        assert!(error.starts_with("manifest is not JSON: trailing characters at line 1, column "), "{error}");
        for text in ["", "{", "\u{feff}{}", "{\"a\":\"\u{1}\"}", "{'a':1}", "{\"a\":NaN}", "{\"a\":1e999}"] {
            assert!(matches!(parse(text), Err(ImageError::NotJson { .. })), "{text:?}");
        }
        assert!(matches!(Manifest::parse(b"{\"a\":\"\xff\"}", &LIMITS()), Err(ImageError::NotJson { .. })));
        assert_eq!(message("[]"), "manifest should be an object, found an array");
    }

    #[test]
    fn size_and_depth_are_limited_before_anything_is_kept() {
        let mut limits = LIMITS();
        limits.json_depth = 3;
        let at_limit = manifest("", r#","x":{"y":[1]}"#);
        assert!(Manifest::parse(at_limit.as_bytes(), &limits).is_ok());
        let beyond = manifest("", r#","x":{"y":[[]]}"#);
        let error = Manifest::parse(beyond.as_bytes(), &limits).unwrap_err();
        assert_eq!(error.to_string(), "manifest.x.y[0] nests deeper than 3 levels");
        let bomb = "[".repeat(1 << 20);
        assert!(matches!(parse(&bomb), Err(ImageError::TooDeep { limit: 64, .. })));
        limits.json_depth = usize::MAX;
        assert!(matches!(Manifest::parse(bomb.as_bytes(), &limits), Err(ImageError::NotJson { .. })));
        limits.json_bytes = 10;
        assert!(matches!(
            Manifest::parse(at_limit.as_bytes(), &limits),
            Err(ImageError::TooLarge { limit: 10, .. })
        ));
    }

    #[test]
    fn artifacts_are_told_from_images() {
        let image = parse(&manifest("", "")).unwrap();
        assert!(image.is_image());
        let empty = manifest("", "").replace("image.config.v1", "empty.v1");
        assert!(!parse(&empty).unwrap().is_image());
        let helm = manifest("", "").replace("vnd.oci.image.config", "vnd.cncf.helm.config");
        assert!(!parse(&helm).unwrap().is_image());
        let attestation = manifest("", "").replace("vnd.oci.image.layer.v1.tar+gzip", "vnd.in-toto+json");
        assert!(!parse(&attestation).unwrap().is_image());
        let old = manifest("", "").replace("vnd.oci.image.config.v1+json", "octet-stream");
        assert!(parse(&old).unwrap().is_image());
    }

    #[test]
    fn converting_there_and_back_changes_nothing_but_words() {
        let head = r#","mediaType":"application/vnd.oci.image.manifest.v1+json""#;
        let oci = parse(&manifest(head, r#","annotations":{"a":"1"}"#)).unwrap();
        let docker = oci.to_docker();
        assert_eq!(docker.media_type, Some(MediaType::DOCKER_MANIFEST));
        assert_eq!(docker.config.media_type, MediaType::DOCKER_CONFIG);
        assert_eq!(docker.layers[0].media_type, MediaType::DOCKER_LAYER_GZIP);
        assert_eq!(docker.layers[0].digest, oci.layers[0].digest);
        assert_eq!(docker.to_oci(), oci);
    }
}
