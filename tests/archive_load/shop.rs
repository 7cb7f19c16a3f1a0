//! A layout to load into, archives to load, and ways to change them.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};

use crate::common::image::{Compression, ImageSpec, Layout, blob_path, image};
use crate::common::tar::tar;
use plywood::archive::{Destination, LoadError, LoadOptions, Loaded, load};
use plywood::blob::Blobs;
use plywood::digest::Digest;
use plywood::fs::{Dir, Durability, Staging, Workspace};
use plywood::image::Reference;
use serde_json::{Value, json};

/// A layout to load into.
pub struct Shop {
    pub temp: tempfile::TempDir,
    pub blobs: Blobs,
    pub staging: Staging,
    pub pinned: RefCell<BTreeSet<Digest>>,
}

impl Shop {
    pub fn new() -> Self {
        let temp = crate::common::scratch();
        let dir = Dir::open_ambient(temp.path()).unwrap();
        let staging = Staging::new(dir.ensure_dir("staging", 0o700).unwrap());
        let layout = dir.ensure_dir("oci", 0o755).unwrap();
        let blobs = Blobs::create(layout, &staging.workspace().unwrap(), Durability::Relaxed).unwrap();
        Self { temp, blobs, staging, pinned: RefCell::default() }
    }

    pub fn with<T>(&self, what: impl FnOnce(&Destination<'_>) -> T) -> T {
        let workspace: Workspace = self.staging.workspace().unwrap();
        let pin = |digests: &[Digest]| {
            self.pinned.borrow_mut().extend(digests);
            Ok(())
        };
        let done = what(&Destination { blobs: &self.blobs, workspace: &workspace, lent: None, pin: &pin });
        workspace.close().unwrap();
        assert!(std::fs::read_dir(self.temp.path().join("staging")).unwrap().next().is_none());
        done
    }

    pub fn try_load(&self, archive: impl AsRef<[u8]>) -> Result<Vec<Loaded>, LoadError> {
        let mut options = LoadOptions::default();
        options.durability = Durability::Relaxed;
        let loaded = self.with(|into| load(archive.as_ref(), into, &options));
        if let Ok(images) = &loaded {
            self.check(images);
        }
        loaded
    }

    #[track_caller]
    pub fn load(&self, archive: impl AsRef<[u8]>) -> Vec<Loaded> {
        self.try_load(archive).unwrap_or_else(|error| panic!("{}", chain(&error)))
    }

    /// Every image that was promised is there, whole, right and pinned; nothing else is.
    pub fn check(&self, images: &[Loaded]) {
        let mut pinned = self.pinned.borrow().clone();
        for image in images {
            assert!(pinned.contains(&image.target.digest));
            for part in &image.manifests {
                let bytes = self.blobs.read(&part.descriptor.digest, 1 << 20).unwrap();
                assert_eq!(
                    plywood::image::Manifest::parse(&bytes, &Default::default()).unwrap(),
                    part.manifest
                );
                let layers = part.manifest.layers.iter().filter(|layer| layer.urls.is_empty());
                for blob in layers.chain([&part.manifest.config]) {
                    assert!(pinned.contains(&blob.digest));
                    assert_eq!(self.blobs.read(&blob.digest, 1 << 20).unwrap().len() as u64, blob.size);
                }
            }
        }
        pinned.retain(|digest| self.blobs.size(digest).unwrap().is_some());
        assert_eq!(self.all(), pinned.iter().map(ToString::to_string).collect());
    }

    /// Digests of all blobs.
    pub fn all(&self) -> BTreeSet<String> {
        self.blobs.list().unwrap().iter().map(|(digest, _)| digest.to_string()).collect()
    }

    /// Loads what must be refused, and makes sure that nothing is left of it.
    #[track_caller]
    pub fn refuse(&self, archive: impl AsRef<[u8]>) -> LoadError {
        let before = self.all();
        let error = match self.try_load(archive) {
            Ok(loaded) => panic!("loaded {loaded:?}"),
            Err(error) => error,
        };
        assert_eq!(self.all(), before, "after {}", chain(&error));
        error
    }
}

pub fn refuse(archive: impl AsRef<[u8]>) -> LoadError {
    Shop::new().refuse(archive)
}

pub fn chain(error: &dyn std::error::Error) -> String {
    let source = error.source().map(|source| format!(": {}", chain(source)));
    format!("{error}{}", source.unwrap_or_default())
}

pub fn names(image: &Loaded) -> Vec<String> {
    image.names.iter().map(Reference::familiar).collect()
}

pub fn layer(content: &str) -> Vec<u8> {
    tar().file("content", content).finish()
}

pub fn web() -> ImageSpec {
    image().layer(layer("base")).layer(layer("web")).name("docker.io/library/web:1")
}

pub fn db() -> ImageSpec {
    image()
        .layer(layer("base"))
        .compressed(layer("db"), Compression::Gzip)
        .name("quay.io/me/db:2")
        .name("docker.io/library/db:latest")
}

/// All of a docker-archive with an OCI layout inside, as docker has written it since version 25.
pub fn hybrid(layout: &Layout) -> BTreeMap<String, Vec<u8>> {
    let mut files = layout.files();
    let item = |added: &crate::common::image::Added| {
        json!({
            "Config": blob_path(&added.config),
            "RepoTags": added.names,
            "Layers": added.layers.iter().map(|digest| blob_path(digest)).collect::<Vec<_>>(),
        })
    };
    let items: Value = layout.images.iter().map(item).collect();
    files.insert("manifest.json".into(), serde_json::to_vec(&items).unwrap());
    files
}

pub fn edit(files: &mut BTreeMap<String, Vec<u8>>, name: &str, change: impl FnOnce(&mut Value)) {
    let mut document = serde_json::from_slice(&files[name]).unwrap();
    change(&mut document);
    files.insert(name.to_owned(), serde_json::to_vec(&document).unwrap());
}
