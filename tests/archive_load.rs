//! Loading archives, through the public door: what is accepted, what it is called, and what is refused without a trace.

#![allow(clippy::unwrap_used)]

mod common;

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::os::unix::fs::MetadataExt;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;

use common::image::{Compression, ImageSpec, Layout, blob_path, gzip, image, pack, zstd};
use common::tar::{Dialect, SparseDialect, tar};
use plywood::archive::{Destination, LoadError, LoadOptions, Loaded, Warning, load, load_layout};
use plywood::blob::Blobs;
use plywood::digest::Digest;
use plywood::fs::{Dir, Durability, Staging, Workspace};
use plywood::image::{ImageError, MediaType, Reference};
use proptest::prelude::*;
use serde_json::{Value, json};

/// A layout to load into.
struct Shop {
    temp: tempfile::TempDir,
    blobs: Blobs,
    staging: Staging,
    pinned: RefCell<BTreeSet<Digest>>,
}

impl Shop {
    fn new() -> Self {
        let temp = common::scratch();
        let dir = Dir::open_ambient(temp.path()).unwrap();
        let staging = Staging::new(dir.ensure_dir("staging", 0o700).unwrap());
        let layout = dir.ensure_dir("oci", 0o755).unwrap();
        let blobs = Blobs::create(layout, &staging.workspace().unwrap(), Durability::Relaxed).unwrap();
        Self { temp, blobs, staging, pinned: RefCell::default() }
    }

    fn with<T>(&self, what: impl FnOnce(&Destination<'_>) -> T) -> T {
        let workspace: Workspace = self.staging.workspace().unwrap();
        let pin = |digests: &[Digest]| {
            self.pinned.borrow_mut().extend(digests);
            Ok(())
        };
        let done = what(&Destination { blobs: &self.blobs, workspace: &workspace, pin: &pin });
        workspace.close().unwrap();
        assert!(std::fs::read_dir(self.temp.path().join("staging")).unwrap().next().is_none());
        done
    }

    fn try_load(&self, archive: impl AsRef<[u8]>) -> Result<Vec<Loaded>, LoadError> {
        let mut options = LoadOptions::default();
        options.durability = Durability::Relaxed;
        let loaded = self.with(|into| load(archive.as_ref(), into, &options));
        if let Ok(images) = &loaded {
            self.check(images);
        }
        loaded
    }

    #[track_caller]
    fn load(&self, archive: impl AsRef<[u8]>) -> Vec<Loaded> {
        self.try_load(archive).unwrap_or_else(|error| panic!("{}", chain(&error)))
    }

    /// Every image that was promised is there, whole, right and pinned; nothing else is.
    fn check(&self, images: &[Loaded]) {
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
    fn all(&self) -> BTreeSet<String> {
        self.blobs.list().unwrap().iter().map(|(digest, _)| digest.to_string()).collect()
    }

    /// Loads what must be refused, and makes sure that nothing is left of it.
    #[track_caller]
    fn refuse(&self, archive: impl AsRef<[u8]>) -> LoadError {
        let before = self.all();
        let error = match self.try_load(archive) {
            Ok(loaded) => panic!("loaded {loaded:?}"),
            Err(error) => error,
        };
        assert_eq!(self.all(), before, "after {}", chain(&error));
        error
    }
}

fn refuse(archive: impl AsRef<[u8]>) -> LoadError {
    Shop::new().refuse(archive)
}

fn chain(error: &dyn std::error::Error) -> String {
    let source = error.source().map(|source| format!(": {}", chain(source)));
    format!("{error}{}", source.unwrap_or_default())
}

fn names(image: &Loaded) -> Vec<String> {
    image.names.iter().map(Reference::familiar).collect()
}

fn layer(content: &str) -> Vec<u8> {
    tar().file("content", content).finish()
}

fn web() -> ImageSpec {
    image().layer(layer("base")).layer(layer("web")).name("docker.io/library/web:1")
}

fn db() -> ImageSpec {
    image()
        .layer(layer("base"))
        .compressed(layer("db"), Compression::Gzip)
        .name("quay.io/me/db:2")
        .name("docker.io/library/db:latest")
}

/// All of a docker-archive with an OCI layout inside, as docker has written it since version 25.
fn hybrid(layout: &Layout) -> BTreeMap<String, Vec<u8>> {
    let mut files = layout.files();
    let item = |added: &common::image::Added| {
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

fn edit(files: &mut BTreeMap<String, Vec<u8>>, name: &str, change: impl FnOnce(&mut Value)) {
    let mut document = serde_json::from_slice(&files[name]).unwrap();
    change(&mut document);
    files.insert(name.to_owned(), serde_json::to_vec(&document).unwrap());
}

#[test]
fn an_image_is_the_same_whatever_it_comes_in() {
    let mut layout = Layout::of(&web());
    let added = layout.add(&db());
    let packed = [
        layout.oci_archive(),
        pack(&hybrid(&layout)),
        gzip(&layout.oci_archive()),
        zstd(&layout.oci_archive()),
        [gzip(&layout.oci_archive()[..1000]), gzip(&layout.oci_archive()[1000..])].concat(),
    ];
    for archive in packed {
        let shop = Shop::new();
        let loaded = shop.load(archive);
        assert_eq!(loaded.len(), 2);
        assert_eq!(loaded[1].target.digest.to_string(), added.manifest);
        assert_eq!(names(&loaded[0]), ["web:1"]);
        assert_eq!(names(&loaded[1]), ["quay.io/me/db:2", "db:latest"]);
        assert!(loaded[1].target.annotations.is_empty() && loaded[1].warnings.is_empty());
        assert_eq!(shop.all(), layout.blobs.keys().cloned().collect());
    }
}

#[test]
fn a_layout_on_disk_is_loaded_like_its_archive() {
    let mut layout = Layout::of(&web());
    layout.add(&db());
    let dir = common::scratch();
    layout.write(dir.path());
    let (shop, other) = (Shop::new(), Shop::new());
    let read = AtomicU64::new(0);
    let progress = |bytes| read.store(bytes, Relaxed);
    let mut options = LoadOptions::default();
    options.progress = Some(&progress);
    let open = Dir::open_ambient(dir.path()).unwrap();
    let loaded = shop.with(|into| load_layout(&open, into, &options)).unwrap();
    assert_eq!(loaded, other.load(layout.oci_archive()));
    assert_eq!(shop.all(), other.all());
    assert_eq!(read.load(Relaxed), layout.blobs.values().map(|blob| blob.len() as u64).sum::<u64>());
}

#[test]
fn a_docker_archive_gets_the_same_manifests_each_time() {
    let mut layout = Layout::of(&web());
    layout.add(&db());
    let loaded = Shop::new().load(layout.docker_archive());
    assert_eq!(loaded, Shop::new().load(zstd(&layout.docker_archive())));
    for (image, added) in loaded.iter().zip(&layout.images) {
        let [only] = &image.manifests[..] else { panic!("{image:?}") };
        assert_eq!(image.target, only.descriptor);
        assert_eq!(image.target.media_type, MediaType::OCI_MANIFEST);
        assert_eq!(only.manifest.config.digest.to_string(), added.config);
        assert_eq!(only.manifest.config.media_type, MediaType::OCI_CONFIG);
        let layers: Vec<_> = only.manifest.layers.iter().map(|layer| layer.digest.to_string()).collect();
        assert_eq!(layers, added.diff_ids, "uncompressed layers are their own diff ids");
        assert!(only.manifest.layers.iter().all(|layer| layer.media_type == MediaType::OCI_LAYER));
    }
    assert_eq!(names(&loaded[0]), ["web:1"]);
    assert_eq!(names(&loaded[1]), ["quay.io/me/db:2", "db:latest"]);
}

#[test]
fn layers_of_a_docker_archive_are_called_what_they_are() {
    let layout = Layout::of(&web());
    let mut files = layout.docker_files();
    let tars: Vec<_> = files.keys().filter(|name| name.ends_with("layer.tar")).cloned().collect();
    for (name, compress) in tars.iter().zip([gzip, zstd]) {
        files.insert(name.clone(), compress(&files[name]));
    }
    let loaded = Shop::new().load(pack(&files));
    let kinds: BTreeSet<_> =
        loaded[0].manifests[0].manifest.layers.iter().map(|layer| layer.media_type.clone()).collect();
    assert_eq!(kinds, BTreeSet::from([MediaType::OCI_LAYER_GZIP, MediaType::OCI_LAYER_ZSTD]));
}

#[test]
fn every_dialect_of_tar_holds_an_archive() {
    let layout = Layout::of(&web());
    let added = &layout.images[0];
    for dialect in [Dialect::Ustar, Dialect::Gnu, Dialect::Pax] {
        let mut archive = tar().dialect(dialect).global(&[("comment", "an archive")]);
        archive = archive.dir("./").dir("./blobs/").dir("./blobs/sha256");
        for (path, bytes) in layout.files() {
            archive = archive.file(format!("./{path}"), bytes);
        }
        let loaded = Shop::new().load(archive.finish());
        assert_eq!(loaded[0].target.digest.to_string(), added.manifest, "{dialect:?}");
    }
    // Names too long for the header, and a layer as GNU tar packs it with --sparse.
    let mut files = layout.docker_files();
    let long = format!("{}/layer.tar", "long".repeat(60));
    let names: Vec<_> = files.keys().filter(|name| name.ends_with("layer.tar")).cloned().collect();
    edit(&mut files, "manifest.json", |items| {
        let text = items.to_string().replace(&names[0], &long);
        *items = serde_json::from_str(&text).unwrap();
    });
    let moved = files.remove(&names[0]).unwrap();
    for dialect in [Dialect::Gnu, Dialect::Pax] {
        for sparse in [SparseDialect::Gnu, SparseDialect::Pax00, SparseDialect::Pax01, SparseDialect::Pax10] {
            let data = [(0, &moved[..1024])]; // all behind it is zeros
            let mut archive = tar().dialect(dialect).file(&long, &moved);
            for (path, bytes) in &files {
                archive = match *path == names[1] {
                    true => archive.sparse(path, bytes.len() as u64, &[(0, &bytes[..1024])], sparse),
                    false => archive.file(path, bytes),
                };
            }
            let loaded = Shop::new().load(archive.finish());
            let layers = &loaded[0].manifests[0].manifest.layers;
            assert_eq!(
                layers.iter().map(|layer| layer.digest.to_string()).collect::<Vec<_>>(),
                added.diff_ids
            );
            assert!(data[0].1.len() < moved.len());
        }
    }
}

#[test]
fn the_order_of_members_does_not_matter() {
    let layout = Layout::of(&db());
    for files in [layout.files(), layout.docker_files()] {
        let forward = files.iter().fold(tar(), |tar, (path, bytes)| tar.file(path, bytes)).finish();
        let backward = files.iter().rev().fold(tar(), |tar, (path, bytes)| tar.file(path, bytes)).finish();
        assert_eq!(Shop::new().load(forward), Shop::new().load(backward));
    }
}

#[test]
fn loading_again_changes_nothing() {
    let big = tar().file("big", vec![7; 300_000]).finish();
    let layout =
        Layout::of(&image().layer(&*big).compressed(big, Compression::Zstd).name("docker.io/library/big:1"));
    let inodes = |shop: &Shop| -> BTreeMap<String, (u64, i64)> {
        let path = |digest: &String| shop.temp.path().join("oci").join(blob_path(digest));
        let stat = |digest: &String| std::fs::metadata(path(digest)).unwrap();
        shop.all()
            .iter()
            .map(|digest| (digest.clone(), (stat(digest).ino(), stat(digest).ctime_nsec())))
            .collect()
    };
    for archive in [layout.oci_archive(), layout.docker_archive(), pack(&hybrid(&layout))] {
        let shop = Shop::new();
        let first = shop.load(&archive);
        let before = inodes(&shop);
        assert_eq!(shop.load(&archive), first);
        assert_eq!(inodes(&shop), before);
    }
}

#[test]
fn what_the_store_has_may_be_left_out_of_the_archive() {
    let layout = Layout::of(&db());
    let without = |mut files: BTreeMap<String, Vec<u8>>, left: &str| {
        files.remove(left).unwrap();
        pack(&files)
    };
    let added = &layout.images[0];
    let shop = Shop::new();
    let full = shop.load(layout.oci_archive());
    assert_eq!(shop.load(without(layout.files(), &blob_path(&added.layers[0]))), full);
    assert_eq!(shop.load(without(layout.files(), &blob_path(&added.manifest))), full);
    let path = format!("{}/layer.tar", &added.diff_ids[0][7..]);
    let docker = without(layout.docker_files(), &path);
    assert_eq!(names(&shop.load(&docker)[0]), names(&full[0]));
    let error = refuse(docker);
    assert_eq!(error.to_string(), format!("{path:?} is missing, \"manifest.json\" refers to it"));
}

#[test]
fn a_missing_blob_is_named_and_so_is_who_wants_it() {
    let layout = Layout::of(&db());
    let added = &layout.images[0];
    for (left_out, wanted_by) in [
        (&added.layers[1], blob_path(&added.manifest)),
        (&added.config, blob_path(&added.manifest)),
        (&added.manifest, "index.json".to_owned()),
    ] {
        let mut files = layout.files();
        files.remove(&blob_path(left_out));
        let error = refuse(pack(&files));
        assert!(matches!(error, LoadError::MissingMember { .. }));
        let expected = format!("{:?} is missing, {wanted_by:?} refers to it", blob_path(left_out));
        assert_eq!(error.to_string(), expected);
    }
    let mut files = layout.docker_files();
    let config = format!("{}.json", &added.config[7..]);
    files.remove(&config);
    assert_eq!(
        refuse(pack(&files)).to_string(),
        format!("{config:?} is missing, \"manifest.json\" refers to it")
    );
    for (left_out, other) in [("oci-layout", "index.json"), ("index.json", "oci-layout")] {
        let mut files = layout.files();
        files.remove(left_out);
        let expected = format!("{left_out:?} is missing, {other:?} refers to it");
        assert_eq!(refuse(pack(&files)).to_string(), expected);
    }
}

#[test]
fn bytes_that_are_not_what_their_name_says_are_refused() {
    let layout = Layout::of(&db());
    for digest in layout.blobs.keys() {
        let mut files = layout.files();
        let bytes = files.get_mut(&blob_path(digest)).unwrap();
        let last = bytes.len() - 1;
        bytes[last] ^= 1;
        let error = refuse(pack(&files));
        assert!(
            matches!(&error, LoadError::DigestMismatch { member, expected, .. }
                if *member == blob_path(digest) && expected.to_string() == *digest),
            "{error}"
        );
        // Also where the store has the right ones.
        let shop = Shop::new();
        shop.load(layout.oci_archive());
        assert!(matches!(shop.refuse(pack(&files)), LoadError::DigestMismatch { .. }));
        let dir = common::scratch();
        for (path, bytes) in &files {
            let path = dir.path().join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, bytes).unwrap();
        }
        let (shop, dir) = (Shop::new(), Dir::open_ambient(dir.path()).unwrap());
        shop.with(|into| load_layout(&dir, into, &LoadOptions::default())).unwrap_err();
        assert!(shop.all().is_empty());
    }
}

#[test]
fn sizes_that_a_descriptor_gets_wrong_are_refused() {
    let layout = Layout::of(&db());
    let added = &layout.images[0];
    let mut wrong = layout.clone();
    let mut manifest: Value = serde_json::from_slice(&layout.blobs[&added.manifest]).unwrap();
    manifest["layers"][1]["size"] = json!(1);
    let descriptor = wrong.document("application/vnd.oci.image.manifest.v1+json", &manifest);
    wrong.index["manifests"] = json!([descriptor]);
    let error = refuse(wrong.oci_archive());
    let size = layout.blobs[&added.layers[1]].len() as u64;
    assert!(
        matches!(&error, LoadError::SizeMismatch { member, expected: 1, actual }
            if *member == blob_path(&added.layers[1]) && *actual == size),
        "{error}"
    );
    let mut wrong = layout.clone();
    wrong.index["manifests"][0]["size"] = json!(1);
    let error = refuse(wrong.oci_archive());
    assert!(
        matches!(error, LoadError::Image { source: ImageError::SizeMismatch { expected: 1, .. }, .. }),
        "{error}"
    );
}

#[test]
fn a_layer_in_the_wrong_place_is_refused() {
    let layout = Layout::of(&web());
    let mut files = layout.docker_files();
    edit(&mut files, "manifest.json", |items| items[0]["Layers"].as_array_mut().unwrap().reverse());
    let error = refuse(pack(&files));
    let [first, second] = &layout.images[0].diff_ids[..] else { panic!() };
    assert!(
        matches!(&error, LoadError::DiffIdMismatch { expected, actual, .. }
            if expected.to_string() == *first && actual.to_string() == *second),
        "{error}"
    );
    let mut files = layout.docker_files();
    edit(&mut files, "manifest.json", |items| drop(items[0]["Layers"].as_array_mut().unwrap().pop()));
    let error = chain(&refuse(pack(&files)));
    assert_eq!(error, "\"manifest.json\" is refused: the manifest lists 1 layers and the config 2 diff ids");
}

#[test]
fn a_config_that_is_not_the_id_it_is_called_by_is_refused() {
    let layout = Layout::of(&web());
    let mut files = layout.docker_files();
    let config = format!("{}.json", &layout.images[0].config[7..]);
    edit(&mut files, &config, |config| config["author"] = json!("somebody else"));
    let error = refuse(pack(&files));
    assert!(matches!(&error, LoadError::DigestMismatch { member, .. } if *member == config), "{error}");
}

#[test]
fn links_in_a_docker_archive_lead_to_members_and_nowhere_else() {
    let layout = Layout::of(&web());
    let added = &layout.images[0];
    let files = layout.docker_files();
    let (link, other) = (format!("{}/layer.tar", &added.diff_ids[0][7..]), "all.tar");
    let with = |build: &dyn Fn(common::tar::Tar) -> common::tar::Tar| {
        let rest = files.iter().filter(|(path, _)| **path != link);
        build(rest.fold(tar(), |tar, (path, bytes)| tar.file(path, bytes)))
            .file(other, &files[&link])
            .finish()
    };
    let absolute = format!("/x/../{other}");
    for good in [
        with(&|tar| tar.symlink(&link, "../all.tar")),
        with(&|tar| tar.symlink(&link, ".././/all.tar")),
        with(&|tar| tar.symlink(&link, &absolute)),
        with(&|tar| tar.link(&link, other)),
        with(&|tar| tar.link(&link, "./all.tar")),
        with(&|tar| {
            tar.symlink(&link, "../other")
                .link("other", "third")
                .symlink("third", "dir/all.tar")
                .symlink("dir", ".")
        }),
    ] {
        let loaded = Shop::new().load(good);
        assert_eq!(loaded[0].manifests[0].manifest.layers[0].digest.to_string(), added.diff_ids[0]);
    }
    for (bad, reason) in [
        (with(&|tar| tar.symlink(&link, "../../etc/passwd")), "which leaves the archive"),
        (with(&|tar| tar.link(&link, "../etc/passwd")), "which leaves the archive"),
        (with(&|tar| tar.symlink(&link, "/etc/passwd")), "which is not in the archive"),
        (with(&|tar| tar.symlink(&link, "layer.tar")), "which leads in a circle"),
        (with(&|tar| tar.symlink(&link, "../all.tar/layer.tar")), "which is below a file"),
    ] {
        let error = refuse(bad);
        assert!(matches!(error, LoadError::Link { .. }) && error.to_string().ends_with(reason), "{error}");
    }
}

#[test]
fn blobs_of_an_oci_archive_may_be_hard_links_to_each_other() {
    let layout = Layout::of(&web());
    let mut archive = tar();
    for (index, (path, bytes)) in layout.files().into_iter().enumerate() {
        let first = format!("{index}");
        archive = match path.starts_with("blobs/") {
            true => archive.file(&first, bytes).link(path, first),
            false => archive.file(path, bytes),
        };
    }
    let loaded = Shop::new().load(archive.finish());
    assert_eq!(loaded[0].target.digest.to_string(), layout.images[0].manifest);
}

#[test]
fn names_come_from_the_annotations_else_from_the_docker_side() {
    let mut layout = Layout::of(&web());
    layout.add(&db());
    layout.add(&image().layer(layer("third")));
    // The second lost its annotations, the third never had a name.
    for entry in layout.index["manifests"].as_array_mut().unwrap().iter_mut().skip(1) {
        entry.as_object_mut().unwrap().remove("annotations");
    }
    let mut files = hybrid(&layout);
    edit(&mut files, "manifest.json", |items| {
        items[0]["RepoTags"] = json!(["other:9"]);
        items[2]["RepoTags"] = Value::Null;
    });
    let loaded = Shop::new().load(pack(&files));
    assert_eq!(
        loaded.iter().map(names).collect::<Vec<_>>(),
        [vec!["web:1".to_owned()], vec!["quay.io/me/db:2".to_owned(), "db:latest".to_owned()], vec![]]
    );
}

#[test]
fn an_image_that_only_the_docker_side_lists_is_loaded_too() {
    let mut layout = Layout::of(&web());
    layout.add(&image().layer(layer("untagged")));
    let mut files = hybrid(&layout);
    edit(&mut files, "index.json", |index| drop(index["manifests"].as_array_mut().unwrap().pop()));
    let loaded = Shop::new().load(pack(&files));
    let configs: Vec<_> =
        loaded.iter().map(|image| image.manifests[0].manifest.config.digest.to_string()).collect();
    assert_eq!(configs, [layout.images[0].config.clone(), layout.images[1].config.clone()]);
}

#[test]
fn a_bare_tag_is_a_name_only_with_a_repository() {
    let mut layout = Layout::of(&web());
    layout.index["manifests"][0]["annotations"] =
        json!({"org.opencontainers.image.ref.name": "latest", "other": "x"});
    let loaded = Shop::new().load(layout.oci_archive());
    assert!(loaded[0].names.is_empty());
    assert_eq!(loaded[0].warnings, [Warning::OnlyTag { tag: "latest".to_owned() }]);
    assert_eq!(loaded[0].target.annotations.len(), 1);
    let mut options = LoadOptions::default();
    options.repository = Some(Reference::parse_familiar("quay.io/me/web:ignored").unwrap());
    let loaded = Shop::new().with(|into| load(&layout.oci_archive()[..], into, &options)).unwrap();
    assert_eq!(names(&loaded[0]), ["quay.io/me/web:latest"]);
    assert!(loaded[0].warnings.is_empty());
    // The docker side knows more.
    let loaded = Shop::new().load(pack(&hybrid(&layout)));
    assert_eq!((names(&loaded[0]), loaded[0].warnings.len()), (vec!["web:1".to_owned()], 0));
    layout.index["manifests"][0]["annotations"] = json!({"org.opencontainers.image.ref.name": "Not A Name"});
    let loaded = Shop::new().load(layout.oci_archive());
    assert_eq!(loaded[0].warnings, [Warning::NotAName { text: "Not A Name".to_owned() }]);
}

#[test]
fn a_name_that_two_images_have_goes_to_the_last_and_the_result_says_so() {
    let mut layout = Layout::of(&web());
    layout
        .add(&image().layer(layer("newer")).name("docker.io/library/web:1").name("docker.io/library/web:2"));
    for archive in [layout.oci_archive(), layout.docker_archive()] {
        let loaded = Shop::new().load(archive);
        assert_eq!(
            (names(&loaded[0]), names(&loaded[1])),
            (vec![], vec!["web:1".to_owned(), "web:2".to_owned()])
        );
        let name = Reference::parse_familiar("web:1").unwrap();
        assert_eq!(loaded[0].warnings, [Warning::NameTaken { name, winner: loaded[1].target.digest }]);
        assert!(loaded[1].warnings.is_empty());
    }
}

#[test]
fn a_tag_that_is_none_refuses_the_archive() {
    let layout = Layout::of(&web());
    for tag in ["Web:1", "web", "web:", "<none>:<none>", "web@sha256:00", ""] {
        let mut files = layout.docker_files();
        edit(&mut files, "manifest.json", |items| items[0]["RepoTags"] = json!(["fine:1", tag]));
        let error = refuse(pack(&files));
        assert!(matches!(&error, LoadError::InvalidTag { tag: found, .. } if found == tag), "{error}");
    }
}

#[test]
fn one_document_twice_refuses_the_archive() {
    let layout = Layout::of(&web());
    let files = hybrid(&layout);
    for document in ["manifest.json", "index.json", "oci-layout"] {
        let twice = files.iter().fold(tar(), |tar, (path, bytes)| tar.file(path, bytes));
        let error = refuse(twice.file(format!("./{document}"), &files[document]).finish());
        assert_eq!(error.to_string(), format!("{document:?} is in the archive twice"));
    }
}

#[test]
fn documents_that_other_readers_would_understand_otherwise_are_refused() {
    let layout = Layout::of(&web());
    let files = layout.docker_files();
    let manifest = String::from_utf8(files["manifest.json"].clone()).unwrap();
    for (wrong, message) in [
        (
            manifest.replace("\"Layers\"", "\"Config\":\"x\",\"Layers\""),
            "\"manifest.json\" is refused: manifest.json[0].Config is there twice",
        ),
        (
            manifest.replace("\"RepoTags\"", "\"repotags\":[],\"RepoTags\""),
            "\"manifest.json\" is refused: manifest.json[0].repotags would be read as \"RepoTags\" by some and ignored by others",
        ),
        (
            manifest[..manifest.len() - 1].to_owned(),
            "\"manifest.json\" is refused: manifest.json is not JSON",
        ),
        ("{}".to_owned(), "\"manifest.json\" is refused: manifest.json should be an array, found an object"),
        ("[{}]".to_owned(), "\"manifest.json\" is refused: manifest.json[0].Config is missing"),
        ("[]".to_owned(), "\"manifest.json\" lists no image"),
    ] {
        let mut files = files.clone();
        files.insert("manifest.json".to_owned(), wrong.into_bytes());
        let error = chain(&refuse(pack(&files)));
        assert!(error.starts_with(message), "{error}");
    }
    let mut files = layout.files();
    edit(&mut files, "index.json", |index| index["manifests"] = json!([]));
    assert_eq!(refuse(pack(&files)).to_string(), "\"index.json\" lists no image");
    for (content, message) in [
        ("{\"imageLayoutVersion\":\"2.0.0\"}", "\"oci-layout\" is not of version 1: it says \"2.0.0\""),
        ("{}", "\"oci-layout\" is not of version 1: it says nothing of a version"),
        ("[]", "\"oci-layout\" is refused: oci-layout should be an object, found an array"),
    ] {
        let mut files = layout.files();
        files.insert("oci-layout".to_owned(), content.into());
        assert_eq!(chain(&refuse(pack(&files))), message);
    }
}

/// An index for `platforms` of which only the first is there, and an attestation for it.
fn multi_platform(layout: &mut Layout) -> (Value, String) {
    let added = layout.images[0].clone();
    let in_toto = layout.document("application/vnd.in-toto+json", &json!({"predicate": 1}));
    let config = layout.document(
        "application/vnd.oci.image.config.v1+json",
        &json!({"architecture": "unknown", "os": "unknown", "rootfs": {"type": "layers", "diff_ids": [in_toto["digest"]]}}),
    );
    let manifest_type = "application/vnd.oci.image.manifest.v1+json";
    let mut attestation = layout.document(
        manifest_type,
        &json!({"schemaVersion": 2, "mediaType": manifest_type, "config": config, "layers": [in_toto]}),
    );
    attestation["platform"] = json!({"architecture": "unknown", "os": "unknown"});
    attestation["annotations"] = json!({"vnd.docker.reference.type": "attestation-manifest"});
    let mut present = json!({"mediaType": manifest_type, "digest": added.manifest, "size": layout.blobs[&added.manifest].len()});
    present["platform"] = serde_json::from_slice(&layout.blobs[&added.config])
        .map(|config: Value| json!({"architecture": config["architecture"], "os": "linux"}))
        .unwrap();
    let absent = json!({
        "mediaType": manifest_type,
        "digest": format!("sha256:{}", "0".repeat(64)),
        "size": 400,
        "platform": {"architecture": "s390x", "os": "linux"},
    });
    let index_type = "application/vnd.oci.image.index.v1+json";
    let manifests = json!([absent, present, attestation]);
    let index = layout
        .document(index_type, &json!({"schemaVersion": 2, "mediaType": index_type, "manifests": manifests}));
    (index, attestation["digest"].as_str().unwrap().to_owned())
}

#[test]
fn an_index_keeps_what_is_there_and_remembers_the_rest() {
    let mut layout = Layout::of(&web());
    let (mut index, attestation) = multi_platform(&mut layout);
    index["annotations"] = json!({"io.containerd.image.name": "docker.io/library/multi:1"});
    layout.index["manifests"] = json!([index]);
    let shop = Shop::new();
    let loaded = shop.load(layout.oci_archive());
    let [image] = &loaded[..] else { panic!("{loaded:?}") };
    assert_eq!(image.target.digest.to_string(), index["digest"].as_str().unwrap());
    assert_eq!(names(image), ["multi:1"]);
    assert_eq!(image.manifests.len(), 1);
    assert_eq!(image.manifests[0].descriptor.digest.to_string(), layout.images[0].manifest);
    assert_eq!(image.artifacts.iter().map(|kept| kept.digest.to_string()).collect::<Vec<_>>(), [attestation]);
    assert_eq!(image.absent.len(), 1);
    assert_eq!(image.absent[0].platform.as_ref().unwrap().to_string(), "linux/s390x");
    let [warning] = &image.warnings[..] else { panic!("{:?}", image.warnings) };
    let zeros = format!("sha256:{}", "0".repeat(64));
    assert_eq!(warning.to_string(), format!("the manifest {zeros} for linux/s390x is absent"));
    assert_eq!(shop.all(), layout.blobs.keys().cloned().collect(), "the index is kept whole");
}

#[test]
fn an_index_of_which_nothing_is_there_is_refused() {
    let mut layout = Layout::of(&web());
    let (index, _) = multi_platform(&mut layout);
    layout.index["manifests"] = json!([index]);
    let mut files = layout.files();
    files.remove(&blob_path(&layout.images[0].layers[0]));
    files.remove(&blob_path(&layout.images[0].layers[1]));
    let error = refuse(pack(&files));
    assert!(matches!(error, LoadError::MissingMember { .. }), "{error}");
}

#[test]
fn an_index_inside_itself_ends() {
    // By hash it cannot be; nested deeply it can.
    let mut layout = Layout::of(&web());
    let mut index = layout.index["manifests"][0].clone();
    for _ in 0..9 {
        let index_type = "application/vnd.oci.image.index.v1+json";
        index = layout.document(
            index_type,
            &json!({"schemaVersion": 2, "mediaType": index_type, "manifests": [index]}),
        );
    }
    layout.index["manifests"] = json!([index]);
    let error = refuse(layout.oci_archive());
    assert!(matches!(error, LoadError::Limit { limit: "index_depth", maximum: 8, .. }), "{error}");
}

#[test]
fn an_artifact_is_kept_with_all_it_has() {
    let mut layout = Layout::of(&web());
    let chart = layout.document("application/vnd.cncf.helm.chart.content.v1.tar+gzip", &json!("chart"));
    let config = layout.document("application/vnd.oci.empty.v1+json", &json!({}));
    let manifest_type = "application/vnd.oci.image.manifest.v1+json";
    let artifact = layout.document(
        manifest_type,
        &json!({"schemaVersion": 2, "mediaType": manifest_type, "artifactType": "a/b", "config": config, "layers": [chart]}),
    );
    let unknown = layout.document("application/x-unknown", &json!(1));
    layout.index["manifests"].as_array_mut().unwrap().extend([artifact.clone(), unknown]);
    let shop = Shop::new();
    let loaded = shop.load(layout.oci_archive());
    assert_eq!(loaded.len(), 3);
    assert!(loaded[1].manifests.is_empty() && loaded[2].manifests.is_empty());
    assert_eq!(loaded[1].artifacts, [loaded[1].target.clone()]);
    assert!(matches!(loaded[2].warnings[..], [Warning::UnknownType { .. }]));
    assert_eq!(shop.all(), layout.blobs.keys().cloned().collect());
}

#[test]
fn layers_that_must_not_be_passed_on_may_be_absent() {
    let mut layout = Layout::of(&web());
    let added = layout.images[0].clone();
    let mut manifest: Value = serde_json::from_slice(&layout.blobs[&added.manifest]).unwrap();
    manifest["layers"][0]["mediaType"] = json!("application/vnd.docker.image.rootfs.foreign.diff.tar.gzip");
    manifest["layers"][0]["urls"] = json!(["https://example.com/layer"]);
    let descriptor = layout.document("application/vnd.oci.image.manifest.v1+json", &manifest);
    layout.index["manifests"] = json!([descriptor]);
    layout.blobs.remove(&added.layers[0]);
    let loaded = Shop::new().load(layout.oci_archive());
    let layer = added.layers[0].parse().unwrap();
    assert_eq!(loaded[0].warnings, [Warning::ForeignLayer { layer }]);

    let mut files = Layout::of(&web()).docker_files();
    files.remove(&format!("{}/layer.tar", &added.diff_ids[0][7..]));
    edit(&mut files, "manifest.json", |items| {
        items[0]["LayerSources"] = json!({&added.diff_ids[0]: manifest["layers"][0]});
    });
    let loaded = Shop::new().load(pack(&files));
    assert_eq!(loaded[0].warnings, [Warning::ForeignLayer { layer }]);
    assert_eq!(loaded[0].manifests[0].manifest.layers[0].urls, ["https://example.com/layer"]);
}

#[test]
fn an_image_for_another_machine_loads_and_says_so() {
    let mut foreign = web();
    foreign.config["architecture"] = json!("s390x");
    let loaded = Shop::new().load(Layout::of(&foreign).docker_archive());
    let [warning @ Warning::ForeignPlatform { .. }] = &loaded[0].warnings[..] else { panic!("{loaded:?}") };
    assert!(warning.to_string().starts_with("the image is for linux/s390x, this machine is linux/"));
}

#[test]
fn blobs_named_by_sha512_are_loaded_under_that_name() {
    let mut layout = Layout::of(&web());
    let added = layout.images[0].clone();
    let mut manifest: Value = serde_json::from_slice(&layout.blobs[&added.manifest]).unwrap();
    let layer = layout.blobs.remove(&added.layers[0]).unwrap();
    let digest = Digest::of_with(plywood::digest::Algorithm::Sha512, &layer).to_string();
    layout.blobs.insert(digest.clone(), layer);
    manifest["layers"][0]["digest"] = json!(digest);
    let manifest = serde_json::to_vec(&manifest).unwrap();
    let named = Digest::of_with(plywood::digest::Algorithm::Sha512, &manifest).to_string();
    layout.index["manifests"][0]["digest"] = json!(named);
    layout.index["manifests"][0]["size"] = json!(manifest.len());
    layout.blobs.insert(named.clone(), manifest);
    layout.blobs.remove(&added.manifest);
    let shop = Shop::new();
    let loaded = shop.load(layout.oci_archive());
    assert_eq!(loaded[0].target.digest.to_string(), named);
    assert_eq!(shop.all(), layout.blobs.keys().cloned().collect());
}

#[test]
fn images_without_layers_and_layers_without_bytes_are_images() {
    for spec in [image(), image().layer([]), image().layer([0; 1024])] {
        let layout = Layout::of(&spec);
        for archive in [layout.oci_archive(), layout.docker_archive()] {
            assert_eq!(Shop::new().load(archive)[0].manifests[0].manifest.layers.len(), spec.layers.len());
        }
    }
}

#[test]
fn an_archive_cut_anywhere_leaves_nothing() {
    let layout = Layout::of(&db());
    for archive in [layout.oci_archive(), layout.docker_archive()] {
        let shop = Shop::new();
        let whole = archive.len() - 1024; // without its end mark it is as good
        // Behind the last byte of the last member there is nothing to miss.
        for end in (0..=whole - 512).step_by(256) {
            let error = shop.refuse(&archive[..end]);
            assert!(
                matches!(
                    error,
                    LoadError::Truncated { .. }
                        | LoadError::MissingMember { .. }
                        | LoadError::NotAnArchive { .. }
                ),
                "{end}: {error:?}"
            );
        }
        shop.load(&archive[..whole]);
    }
    let archive = gzip(&layout.oci_archive());
    let shop = Shop::new();
    for end in (0..archive.len()).step_by(97) {
        shop.refuse(&archive[..end]);
    }
    let error = shop.refuse(&archive[..archive.len() - 1]);
    assert!(
        chain(&error).starts_with("cannot decompress the archive: the gzip stream is cut short"),
        "{error}"
    );
}

#[test]
fn what_is_no_image_archive_is_told_what_it_is() {
    let rootfs = tar().dir("etc").file("etc/passwd", "root").symlink("bin", "usr/bin").finish();
    for (bytes, message) in [
        (&b"hello"[..], "not an image archive, but a text"),
        (b"", "not an image archive, but nothing: it is empty"),
        (
            &rootfs,
            "not an image archive, but a tar with neither index.json nor manifest.json (2 members, such as bin); \
             a root file system can be imported",
        ),
        (b"\xfd7zXZ\0\0\0", "the archive is compressed with xz, which is not supported: decompress it first"),
    ] {
        assert_eq!(refuse(bytes).to_string(), message);
    }
    let shop = Shop::new();
    let dir = common::scratch();
    let open = Dir::open_ambient(dir.path()).unwrap();
    let error = shop.with(|into| load_layout(&open, into, &LoadOptions::default())).unwrap_err();
    assert_eq!(error.to_string(), "not an image archive, but a directory without oci-layout");
}

/// A docker-archive as docker 1.9 wrote it.
fn archive_of_2015(
    layers: &[(&str, Option<&str>, Vec<u8>)],
    repositories: &Value,
) -> BTreeMap<String, Vec<u8>> {
    let mut files = BTreeMap::new();
    for (id, parent, tar) in layers {
        let mut json = json!({
            "id": id, "created": "2015-01-01T00:00:00Z", "os": "linux", "architecture": "amd64", "Size": 1,
            "container_config": {"Cmd": ["/bin/sh", "-c", format!("make {id}")]},
            "config": {"Cmd": ["/srv/web"]}, "comment": "",
        });
        if let Some(parent) = parent {
            json["parent"] = json!(parent);
        }
        files.insert(format!("{id}/json"), serde_json::to_vec(&json).unwrap());
        files.insert(format!("{id}/VERSION"), b"1.0".to_vec());
        files.insert(format!("{id}/layer.tar"), tar.clone());
    }
    files.insert("repositories".to_owned(), serde_json::to_vec(repositories).unwrap());
    files
}

#[test]
fn an_archive_from_before_there_was_a_manifest_is_loaded() {
    let repositories = json!({"web": {"1": "top", "old": "base"}, "quay.io/me/web": {"latest": "top"}});
    let layers = [
        ("top", Some("middle"), layer("top")),
        ("middle", Some("base"), gzip(&layer("middle"))),
        ("base", None, layer("base")),
    ];
    let files = archive_of_2015(&layers, &repositories);
    let loaded = Shop::new().load(pack(&files));
    assert_eq!(loaded, Shop::new().load(pack(&files)));
    assert_eq!(
        loaded.iter().map(names).collect::<Vec<_>>(),
        [vec!["web:old".to_owned()], vec!["quay.io/me/web:latest".to_owned(), "web:1".to_owned()],]
    );
    let top = &loaded[1].manifests[0];
    let diff_ids: Vec<_> = ["base", "middle", "top"].map(|name| Digest::of(layer(name)).to_string()).into();
    assert_eq!(top.config.rootfs.diff_ids.iter().map(ToString::to_string).collect::<Vec<_>>(), diff_ids);
    assert_eq!(top.config.config.cmd, ["/srv/web"]);
    let steps: Vec<_> = top.config.history.iter().map(|step| step.created_by.clone().unwrap()).collect();
    assert_eq!(steps, ["/bin/sh -c make base", "/bin/sh -c make middle", "/bin/sh -c make top"]);
    assert!(top.config.extra.keys().all(|key| !["id", "parent", "Size"].contains(&key.as_str())));
    assert_eq!(top.manifest.layers[1].media_type, MediaType::OCI_LAYER_GZIP);

    for (left_out, by) in
        [("middle/json", "top/json"), ("top/json", "repositories"), ("middle/layer.tar", "top/json")]
    {
        let mut files = files.clone();
        files.remove(left_out);
        let error = refuse(pack(&files));
        assert_eq!(error.to_string(), format!("{left_out:?} is missing, {by:?} refers to it"));
    }
    let circle = archive_of_2015(
        &[("a", Some("b"), layer("a")), ("b", Some("a"), layer("b"))],
        &json!({"web": {"1": "a"}}),
    );
    assert!(matches!(refuse(pack(&circle)), LoadError::Limit { limit: "layers", .. }));
    let wrong = archive_of_2015(&layers, &json!({"Web": {"1": "top"}}));
    assert!(matches!(refuse(pack(&wrong)), LoadError::InvalidTag { .. }));
}

#[test]
fn names_that_leave_the_archive_are_refused() {
    let archive = Layout::of(&web()).files().iter().fold(tar(), |tar, (path, bytes)| tar.file(path, bytes));
    let error = refuse(archive.file("../../outside", "x").finish());
    assert_eq!(
        chain(&error),
        "the archive is damaged: tar entry 6 cannot be named \"../../outside\": the name has a \"..\" component"
    );
}

#[test]
fn nothing_grows_beyond_its_limit() {
    let layout = Layout::of(&web());
    let try_with = |change: &dyn Fn(&mut LoadOptions<'_>), archive: Vec<u8>| {
        let mut options = LoadOptions::default();
        change(&mut options);
        let shop = Shop::new();
        let error = shop.with(|into| load(&archive[..], into, &options)).unwrap_err();
        assert!(shop.all().is_empty());
        error
    };
    let error = try_with(&|options| options.limits.archive_members = 3, layout.oci_archive());
    assert!(matches!(error, LoadError::Limit { limit: "archive_members", maximum: 3, .. }), "{error}");
    let error = try_with(&|options| options.limits.json_bytes = 20, layout.oci_archive());
    assert!(
        matches!(error, LoadError::Image { source: ImageError::TooLarge { limit: 20, .. }, .. }),
        "{error}"
    );
    let error = try_with(&|options| options.limits.images = 0, layout.docker_archive());
    assert!(matches!(error, LoadError::Image { source: ImageError::TooMany { .. }, .. }), "{error}");
    let error = try_with(&|options| options.limits.layers = 1, layout.docker_archive());
    assert!(matches!(error, LoadError::Image { source: ImageError::TooMany { .. }, .. }), "{error}");
    // Each document is within its limit.
    let mut many = Layout::default();
    let mut large = web();
    large.config["author"] = json!("a".repeat(30_000));
    for number in 0..20 {
        many.add(&large.clone().layer(layer(&number.to_string())));
    }
    for archive in [many.oci_archive(), many.docker_archive()] {
        let error = try_with(&|options| options.limits.documents_memory = 300_000, archive);
        assert!(matches!(error, LoadError::Limit { limit: "documents_memory", .. }), "{error}");
    }
    let hole = tar().sparse("hole", 1 << 40, &[(0, b"x")], SparseDialect::Pax10).finish();
    let error = try_with(&|_| (), hole);
    assert!(matches!(error, LoadError::Limit { limit: "expansion", .. }), "{error}");
}

#[test]
fn the_caller_hears_how_far_it_is_and_can_stop_it() {
    let archive = gzip(&Layout::of(&db()).oci_archive());
    let heard = AtomicU64::new(0);
    let progress = |bytes| heard.store(bytes, Relaxed);
    let mut options = LoadOptions::default();
    options.progress = Some(&progress);
    Shop::new().with(|into| load(&archive[..], into, &options)).unwrap();
    assert_eq!(heard.load(Relaxed), archive.len() as u64);
    let stop = || true;
    options.cancelled = Some(&stop);
    let shop = Shop::new();
    let error = shop.with(|into| load(&archive[..], into, &options)).unwrap_err();
    assert!(matches!(error, LoadError::Cancelled), "{error:?}");
    assert!(shop.all().is_empty());
    for at in 1..20 {
        let asked = AtomicU64::new(0);
        let stop = || asked.fetch_add(1, Relaxed) == at;
        let mut options = LoadOptions::default();
        options.cancelled = Some(&stop);
        match shop.with(|into| load(&archive[..], into, &options)) {
            Err(error) => assert!(matches!(error, LoadError::Cancelled), "{error:?}"),
            Ok(_) => return,
        }
        assert!(shop.all().is_empty());
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(150))]

    #[test]
    fn a_damaged_archive_is_refused_or_whole(
        docker: bool,
        damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
        cut in prop::option::of(any::<prop::sample::Index>()),
    ) {
        let layout = Layout::of(&db());
        let mut archive = if docker { layout.docker_archive() } else { layout.oci_archive() };
        for (at, byte) in damage {
            let at = at.index(archive.len());
            archive[at] = byte;
        }
        if let Some(cut) = cut {
            archive.truncate(cut.index(archive.len()));
        }
        let shop = Shop::new();
        // Looks at every blob of what was loaded.
        if shop.try_load(&archive).is_err() {
            prop_assert!(shop.all().is_empty());
        }
    }
}

#[test]
fn a_pin_that_fails_stops_it() {
    let shop = Shop::new();
    let archive = Layout::of(&db()).oci_archive();
    let workspace = shop.staging.workspace().unwrap();
    let pin = |_: &[Digest]| Err(plywood::fs::Error::new("pin", "x", std::io::Error::from_raw_os_error(28)));
    let into = Destination { blobs: &shop.blobs, workspace: &workspace, pin: &pin };
    let error = load(&archive[..], &into, &LoadOptions::default()).unwrap_err();
    assert!(matches!(error, LoadError::Io(_)), "{error:?}");
    assert!(shop.all().is_empty());
}
