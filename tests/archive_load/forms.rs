//! Every form of archive that there is gives the same images.

use std::collections::{BTreeMap, BTreeSet};
use std::os::unix::fs::MetadataExt;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;

use crate::common::image::{Compression, Layout, blob_path, gzip, image, pack, zstd};
use crate::common::tar::{Dialect, SparseDialect, tar};
use crate::common::{have, through};
use plywood::archive::{LoadError, LoadOptions, load_layout};
use plywood::digest::Digest;
use plywood::fs::Dir;
use plywood::image::MediaType;
use proptest::prelude::*;
use serde_json::{Value, json};

use crate::shop::*;

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
fn what_the_usual_tools_compress_is_loaded() {
    let layout = Layout::of(&web());
    let plain = Shop::new().load(layout.docker_archive());
    for tool in ["gzip", "bzip2", "xz", "zstd", "xz --block-size=1KiB", "xz --check=sha256 -9e"] {
        let mut words = tool.split(' ');
        if !have(&[words.clone().next().unwrap()]) {
            continue;
        }
        let mut command = std::process::Command::new(words.next().unwrap());
        command.args(words).arg("-c");
        assert_eq!(plain, Shop::new().load(through(&mut command, &layout.docker_archive())), "{tool}");
        // Layers too, as the oldest archives have them; where a manifest has no word for it, they are kept as tars.
        let mut files = layout.docker_files();
        for (_, bytes) in files.iter_mut().filter(|(name, _)| name.ends_with("layer.tar")) {
            *bytes = through(&mut command, bytes);
        }
        let loaded = Shop::new().load(pack(&files));
        let types = loaded[0].manifests[0].manifest.layers.iter().map(|layer| layer.media_type.to_string());
        match tool {
            "gzip" | "zstd" => assert!(types.into_iter().all(|name| name.ends_with(&format!("+{tool}")))),
            _ => assert_eq!(plain, loaded, "{tool}"),
        }
    }
}

#[test]
fn a_layout_on_disk_is_loaded_like_its_archive() {
    let mut layout = Layout::of(&web());
    layout.add(&db());
    let dir = crate::common::scratch();
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
    let layer = &added.diff_ids[0];
    assert_eq!(
        error.to_string(),
        format!("{path:?} (layer {layer}) is missing, \"manifest.json\" refers to it")
    );
}

#[test]
fn links_in_a_docker_archive_lead_to_members_and_nowhere_else() {
    let layout = Layout::of(&web());
    let added = &layout.images[0];
    let files = layout.docker_files();
    let (link, other) = (format!("{}/layer.tar", &added.diff_ids[0][7..]), "all.tar");
    let with = |build: &dyn Fn(crate::common::tar::Tar) -> crate::common::tar::Tar| {
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
