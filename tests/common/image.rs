//! Images around layer tars: [`Layout`] collects blobs and an index, and is written as an OCI directory, as an OCI
//! archive, or as a docker-archive.
//!
//! Blobs and index are plain maps and JSON values that a test may damage before it writes them.

use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::path::Path;

use serde_json::{Value, json};

use super::tar::{Tar, tar};
use super::{model, sha256, tree::Tree};

/// What an image is made of.
#[derive(Clone, Debug)]
pub struct ImageSpec {
    /// The whole config; `rootfs` is filled in when the image is added to a layout.
    pub config: Value,
    /// Layers, lowest first.
    pub layers: Vec<LayerSpec>,
    /// Full names with tag, such as `docker.io/library/debian:12`.
    pub names: Vec<String>,
}

/// One layer of an image.
#[derive(Clone, Debug)]
pub struct LayerSpec {
    pub tar: Vec<u8>,
    pub compression: Compression,
}

/// How a layer blob is stored.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Compression {
    None,
    Gzip,
    /// Several gzip members, one after another.
    GzipMembers,
    Zstd,
    /// A skippable frame, then several frames.
    ZstdFrames,
}

/// An image for this machine without layers or names.
pub fn image() -> ImageSpec {
    let architecture = match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    };
    let config = json!({
        "architecture": architecture,
        "os": "linux",
        "created": "2024-01-01T00:00:00Z",
        "config": {"Env": ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"], "Cmd": ["/bin/sh"]},
    });
    ImageSpec { config, layers: Vec::new(), names: Vec::new() }
}

impl ImageSpec {
    /// Puts one more layer on top, uncompressed.
    #[must_use]
    pub fn layer(self, tar: impl Into<Vec<u8>>) -> Self {
        self.compressed(tar, Compression::None)
    }

    /// Puts one more layer on top.
    #[must_use]
    pub fn compressed(mut self, tar: impl Into<Vec<u8>>, compression: Compression) -> Self {
        self.layers.push(LayerSpec { tar: tar.into(), compression });
        self
    }

    /// Gives the image a name with tag.
    #[must_use]
    pub fn name(mut self, name: &str) -> Self {
        self.names.push(name.to_owned());
        self
    }

    /// Sets a member of the config's `config` object.
    #[must_use]
    pub fn set(mut self, key: &str, value: Value) -> Self {
        self.config["config"][key] = value;
        self
    }
}

/// What an image is called once it is in a layout. Digests are written `sha256:…`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Added {
    pub manifest: String,
    pub config: String,
    pub layers: Vec<String>,
    pub diff_ids: Vec<String>,
    pub chain_ids: Vec<String>,
    pub names: Vec<String>,
}

/// An OCI image layout in memory.
#[derive(Clone, Debug)]
pub struct Layout {
    /// Content by digest, `sha256:…`.
    pub blobs: BTreeMap<String, Vec<u8>>,
    pub index: Value,
    pub images: Vec<Added>,
}

impl Default for Layout {
    fn default() -> Self {
        let index = json!({
            "schemaVersion": 2,
            "mediaType": "application/vnd.oci.image.index.v1+json",
            "manifests": [],
        });
        Self { blobs: BTreeMap::new(), index, images: Vec::new() }
    }
}

impl Layout {
    /// A layout with one image.
    pub fn of(image: &ImageSpec) -> Self {
        let mut layout = Self::default();
        layout.add(image);
        layout
    }

    /// Stores a blob and gives its digest.
    pub fn blob(&mut self, bytes: impl Into<Vec<u8>>) -> String {
        let bytes = bytes.into();
        let digest = format!("sha256:{}", sha256(&bytes));
        self.blobs.insert(digest.clone(), bytes);
        digest
    }

    /// Stores a JSON document and gives its descriptor.
    pub fn document(&mut self, media_type: &str, document: &Value) -> Value {
        let bytes = serde_json::to_vec(document).unwrap();
        let size = bytes.len();
        let digest = self.blob(bytes);
        json!({"mediaType": media_type, "digest": digest, "size": size})
    }

    /// Adds an image: its blobs, and an entry in the index for each name (one without a name if it has none).
    pub fn add(&mut self, image: &ImageSpec) -> Added {
        let mut layers = Vec::new();
        let mut diff_ids: Vec<String> = Vec::new();
        let mut chain_ids: Vec<String> = Vec::new();
        for layer in &image.layers {
            let (bytes, suffix) = compress(&layer.tar, layer.compression);
            let size = bytes.len();
            let digest = self.blob(bytes);
            let media_type = format!("application/vnd.oci.image.layer.v1.tar{suffix}");
            layers.push(json!({"mediaType": media_type, "digest": digest, "size": size}));
            let diff_id = format!("sha256:{}", sha256(&layer.tar));
            chain_ids.push(match chain_ids.last() {
                None => diff_id.clone(),
                Some(below) => format!("sha256:{}", sha256(format!("{below} {diff_id}").as_bytes())),
            });
            diff_ids.push(diff_id);
        }
        let mut config = image.config.clone();
        config["rootfs"] = json!({"type": "layers", "diff_ids": diff_ids});
        let config = self.document("application/vnd.oci.image.config.v1+json", &config);
        let media_type = "application/vnd.oci.image.manifest.v1+json";
        let manifest = json!({
            "schemaVersion": 2, "mediaType": media_type, "config": config, "layers": layers,
        });
        let descriptor = self.document(media_type, &manifest);
        let entries = self.index["manifests"].as_array_mut().unwrap();
        if image.names.is_empty() {
            entries.push(descriptor.clone());
        }
        for name in &image.names {
            let mut named = descriptor.clone();
            let tag = name.rsplit_once(':').map_or("latest", |(_, tag)| tag);
            named["annotations"] =
                json!({"org.opencontainers.image.ref.name": tag, "io.containerd.image.name": name});
            entries.push(named);
        }
        let digest = |descriptor: &Value| descriptor["digest"].as_str().unwrap().to_owned();
        let added = Added {
            manifest: digest(&descriptor),
            config: digest(&config),
            layers: layers.iter().map(digest).collect(),
            diff_ids,
            chain_ids,
            names: image.names.clone(),
        };
        self.images.push(added.clone());
        added
    }

    /// Every file of the layout by its path.
    pub fn files(&self) -> BTreeMap<String, Vec<u8>> {
        let blobs = self.blobs.iter().map(|(digest, bytes)| (blob_path(digest), bytes.clone()));
        blobs
            .chain([
                ("oci-layout".to_owned(), br#"{"imageLayoutVersion":"1.0.0"}"#.to_vec()),
                ("index.json".to_owned(), serde_json::to_vec(&self.index).unwrap()),
            ])
            .collect()
    }

    /// Writes an OCI directory.
    pub fn write(&self, dir: &Path) {
        for (path, bytes) in self.files() {
            let path = dir.join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, bytes).unwrap();
        }
    }

    /// An OCI archive.
    pub fn oci_archive(&self) -> Vec<u8> {
        pack(&self.files())
    }

    /// The files of a docker-archive: configs, uncompressed layer tars and `manifest.json`.
    pub fn docker_files(&self) -> BTreeMap<String, Vec<u8>> {
        let mut files = BTreeMap::new();
        let mut manifest = Vec::new();
        for image in &self.images {
            let config = format!("{}.json", image.config.trim_start_matches("sha256:"));
            files.insert(config.clone(), self.blobs[&image.config].clone());
            let layers = image.layers.iter().zip(&image.diff_ids).map(|(digest, diff_id)| {
                let path = format!("{}/layer.tar", diff_id.trim_start_matches("sha256:"));
                files.insert(path.clone(), decompress(&self.blobs[digest]));
                path
            });
            let layers: Vec<_> = layers.collect();
            let names = if image.names.is_empty() { Value::Null } else { json!(image.names) };
            manifest.push(json!({"Config": config, "RepoTags": names, "Layers": layers}));
        }
        files.insert("manifest.json".to_owned(), serde_json::to_vec(&manifest).unwrap());
        files
    }

    /// A docker-archive of all images.
    pub fn docker_archive(&self) -> Vec<u8> {
        pack(&self.docker_files())
    }
}

/// Where a blob lies in a layout.
pub fn blob_path(digest: &str) -> String {
    format!("blobs/{}", digest.replace(':', "/"))
}

/// A tar of some files, in the order of their names.
pub fn pack(files: &BTreeMap<String, Vec<u8>>) -> Vec<u8> {
    files.iter().fold(tar(), |tar, (path, bytes)| tar.file(path, bytes)).finish()
}

/// Compresses a layer; the second half is what the media type gets for it.
pub fn compress(tar: &[u8], compression: Compression) -> (Vec<u8>, &'static str) {
    let (first, second) = tar.split_at(tar.len() / 2);
    match compression {
        Compression::None => (tar.to_vec(), ""),
        Compression::Gzip => (gzip(tar), "+gzip"),
        Compression::GzipMembers => ([gzip(first), gzip(b""), gzip(second)].concat(), "+gzip"),
        Compression::Zstd => (zstd(tar), "+zstd"),
        Compression::ZstdFrames => {
            let skippable = b"\x50\x2a\x4d\x18\x04\x00\x00\x00skip".to_vec();
            ([skippable, zstd(first), zstd(second)].concat(), "+zstd")
        }
    }
}

/// One gzip member.
pub fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

/// One zstd frame.
pub fn zstd(bytes: &[u8]) -> Vec<u8> {
    zstd::bulk::compress(bytes, 1).unwrap()
}

fn decompress(bytes: &[u8]) -> Vec<u8> {
    let mut tar = Vec::new();
    match bytes {
        [0x1f, 0x8b, ..] => {
            std::io::Read::read_to_end(&mut flate2::read::MultiGzDecoder::new(bytes), &mut tar).unwrap();
        }
        [0x28, 0xb5, 0x2f, 0xfd, ..] | [0x50..=0x5f, 0x2a, 0x4d, 0x18, ..] => {
            std::io::Read::read_to_end(&mut zstd::Decoder::new(bytes).unwrap(), &mut tar).unwrap();
        }
        _ => tar = bytes.to_vec(),
    }
    tar
}

/// An image of some layers, and the root that it must show.
pub fn image_of(layers: &[Tar]) -> (ImageSpec, Tree) {
    let entries: Vec<_> = layers.iter().map(Tar::entries).collect();
    let spec = layers.iter().fold(image(), |image, layer| image.layer(layer.clone().finish()));
    (spec, model::stack(entries.iter().map(Vec::as_slice)))
}
