//! A layout to save from, and images to save.

use std::collections::BTreeMap;
use std::path::Path;

use crate::common::image::{Compression, ImageSpec, Layout, image};
use crate::common::tar::tar;
use plywood::archive::{
    ArchiveFormat, Destination, LoadError, LoadOptions, Loaded, SaveError, SaveImage, SaveOptions, Warning,
    load, save,
};
use plywood::blob::Blobs;
use plywood::fs::{Dir, Durability, Staging};
use serde_json::{Value, json};

pub const FORMATS: [ArchiveFormat; 2] = [ArchiveFormat::DockerArchive, ArchiveFormat::OciArchive];

/// A layout to save from.
pub struct Shop {
    pub temp: tempfile::TempDir,
    pub blobs: Blobs,
    pub staging: Staging,
}

impl Shop {
    pub fn new() -> Self {
        let temp = crate::common::scratch();
        let dir = Dir::open_ambient(temp.path()).unwrap();
        let staging = Staging::new(dir.ensure_dir("staging", 0o700).unwrap());
        let layout = dir.ensure_dir("oci", 0o755).unwrap();
        let blobs = Blobs::create(layout, &staging.workspace().unwrap(), Durability::Relaxed).unwrap();
        Self { temp, blobs, staging }
    }

    #[track_caller]
    pub fn load(&self, archive: impl AsRef<[u8]>) -> Vec<Loaded> {
        self.try_load(archive).unwrap_or_else(|error| panic!("{error:?}"))
    }

    pub fn try_load(&self, archive: impl AsRef<[u8]>) -> Result<Vec<Loaded>, LoadError> {
        let workspace = self.staging.workspace().unwrap();
        let into = Destination { blobs: &self.blobs, workspace: &workspace, lent: None, pin: &|_| Ok(()) };
        load(archive.as_ref(), &into, &LoadOptions::default())
    }

    pub fn save(&self, images: &[SaveImage], format: ArchiveFormat) -> Vec<u8> {
        let mut out = Vec::new();
        let mut warnings = save(images, &self.blobs, format, &mut out, &SaveOptions::default()).unwrap();
        if format == ArchiveFormat::DockerArchive {
            warnings.retain(|warning| !matches!(warning, Warning::NeedsDocker23 { .. }));
        }
        assert_eq!(warnings, []);
        out
    }
}

impl Shop {
    /// Saves with these options, which get a workspace.
    pub fn save_with(
        &self,
        images: &[SaveImage],
        format: ArchiveFormat,
        change: impl FnOnce(&mut SaveOptions<'_>),
    ) -> Result<(Vec<u8>, Vec<Warning>), SaveError> {
        let workspace = self.staging.workspace().unwrap();
        let mut options = SaveOptions::default();
        options.workspace = Some(&workspace);
        change(&mut options);
        let mut out = Vec::new();
        let warnings = save(images, &self.blobs, format, &mut out, &options)?;
        Ok((out, warnings))
    }
}

/// Images as they were loaded, ready to be saved.
pub fn as_loaded(images: &[Loaded]) -> Vec<SaveImage> {
    images
        .iter()
        .map(|image| SaveImage { target: image.target.clone(), names: image.names.clone() })
        .collect()
}

pub fn layer(content: &str) -> Vec<u8> {
    tar().file("content", content).finish()
}

pub fn web() -> ImageSpec {
    image().layer(layer("base")).layer(layer("web")).name("docker.io/library/web:1")
}

/// Three images that share a layer: one with a name, one with two, one with none.
pub fn three() -> Layout {
    let mut layout = Layout::of(&web());
    layout.add(
        &image()
            .layer(layer("base"))
            .compressed(layer("db"), Compression::Gzip)
            .compressed(layer("more"), Compression::Zstd)
            .name("quay.io/me/db:2")
            .name("docker.io/me/db:latest"),
    );
    layout.add(&image().layer(layer("base")).layer(layer("untagged")));
    layout
}

/// The members of a tar as GNU tar finds them: names in their order, and the content of files.
pub fn members(archive: &[u8]) -> (Vec<String>, BTreeMap<String, Vec<u8>>) {
    let dir = crate::common::scratch();
    let file = dir.path().join("archive.tar");
    std::fs::write(&file, archive).unwrap();
    let list = crate::common::run("tar", [Path::new("-tf"), &file]);
    let out = dir.path().join("out");
    std::fs::create_dir(&out).unwrap();
    crate::common::run("tar", [Path::new("-xf"), &file, Path::new("-C"), &out]);
    let names: Vec<_> = String::from_utf8(list).unwrap().lines().map(str::to_owned).collect();
    let files = names.iter().filter(|name| !name.ends_with('/'));
    let files = files.map(|name| (name.clone(), std::fs::read(out.join(name)).unwrap())).collect();
    (names, files)
}

/// An index for this machine and another one, both there.
pub fn two_platforms() -> Layout {
    let mut foreign = web();
    foreign.config["architecture"] = json!("s390x");
    let mut layout = Layout::of(&foreign);
    layout.add(&web());
    let manifests: Vec<_> = layout
        .images
        .iter()
        .map(|added| {
            let config: Value = serde_json::from_slice(&layout.blobs[&added.config]).unwrap();
            json!({
                "mediaType": "application/vnd.oci.image.manifest.v1+json",
                "digest": added.manifest,
                "size": layout.blobs[&added.manifest].len(),
                "platform": {"architecture": config["architecture"], "os": "linux"},
            })
        })
        .collect();
    let index_type = "application/vnd.oci.image.index.v1+json";
    let index = layout
        .document(index_type, &json!({"schemaVersion": 2, "mediaType": index_type, "manifests": manifests}));
    layout.index["manifests"] = json!([index]);
    layout
}
