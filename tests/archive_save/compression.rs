//! Layers that are compressed otherwise in what is saved.

use std::collections::BTreeMap;
use std::num::NonZeroUsize;
use std::sync::atomic::AtomicBool;

use crate::common::image::{Compression, Layout, blob_path, image};
use crate::shop::{FORMATS, Shop, as_loaded, layer, members, three, two_platforms};
use plywood::archive::{ArchiveFormat, Loaded, SaveError, Warning};
use plywood::digest::Digest;
use plywood::fs::Dir;
use plywood::{LayerCompression, LoadOptions, Parallelism, SaveOptions};
use serde_json::{Value, json};

const METHODS: [(&str, &[u8], &str); 5] = [
    ("none", b"", ""),
    ("gzip", b"\x1f\x8b", "+gzip"),
    ("gzip:9", b"\x1f\x8b", "+gzip"),
    ("zstd", b"\x28\xb5\x2f\xfd", "+zstd"),
    ("zstd:1", b"\x28\xb5\x2f\xfd", "+zstd"),
];

fn method(text: &str) -> impl Fn(&mut SaveOptions<'_>) {
    let method: LayerCompression = text.parse().unwrap();
    move |options| options.compression = method
}

fn save(shop: &Shop, images: &[Loaded], format: ArchiveFormat, text: &str) -> Vec<u8> {
    let (archive, mut warnings) = shop.save_with(&as_loaded(images), format, method(text)).unwrap();
    warnings.retain(|warning| !matches!(warning, Warning::NeedsDocker23 { .. }));
    assert_eq!(warnings, []);
    archive
}

/// What has to stay: names, configs and diff ids.
fn essence(images: &[Loaded]) -> Vec<(Vec<String>, Vec<String>)> {
    let of = |image: &Loaded| {
        let names = image.names.iter().map(|name| name.canonical()).collect();
        let configs = image.manifests.iter().map(|found| found.manifest.config.digest.to_string());
        (names, configs.collect())
    };
    images.iter().map(of).collect()
}

#[test]
fn layers_are_compressed_as_asked_and_the_images_keep_their_ids() {
    let shop = Shop::new();
    let loaded = shop.load(three().oci_archive());
    for (text, magic, suffix) in METHODS {
        for format in FORMATS {
            let archive = save(&shop, &loaded, format, text);
            // Loading verifies every digest, size and diff id of what is plain.
            let back = Shop::new().load(&archive);
            assert_eq!(essence(&back), essence(&loaded), "{text}");
            let (_, files) = members(&archive);
            for layer in back.iter().flat_map(|image| &image.manifests[0].manifest.layers) {
                assert!(files[&blob_path(&layer.digest.to_string())].starts_with(magic), "{text}");
                let media_type = format!("application/vnd.oci.image.layer.v1.tar{suffix}");
                assert_eq!(layer.media_type.as_str(), media_type);
            }
        }
    }
}

#[test]
fn what_is_compressed_anew_unpacks_to_the_same_layers() {
    let shop = Shop::new();
    let loaded = shop.load(three().oci_archive());
    for (text, ..) in METHODS {
        let archive = save(&shop, &loaded, ArchiveFormat::OciArchive, text);
        let temp = crate::common::scratch();
        let store = plywood::Store::create(temp.path()).unwrap();
        // Unpacking compares every diff id.
        let images = store.load(&archive[..], &LoadOptions::default()).unwrap();
        assert_eq!(images.len(), 3);
    }
}

#[test]
fn the_docker_side_of_a_hybrid_lists_the_layers_that_are_there() {
    let shop = Shop::new();
    let loaded = shop.load(three().oci_archive());
    for (text, ..) in METHODS {
        let (_, mut files) = members(&save(&shop, &loaded, ArchiveFormat::DockerArchive, text));
        files.remove("index.json").unwrap();
        let docker = Shop::new().load(crate::common::image::pack(&files));
        assert_eq!(essence(&docker), essence(&loaded), "{text}");
    }
}

#[test]
fn the_number_of_threads_leaves_no_trace() {
    let shop = Shop::new();
    let loaded = shop.load(three().oci_archive());
    let with = |threads: usize| {
        let change = |options: &mut SaveOptions<'_>| {
            options.compression = "zstd:5".parse().unwrap();
            options.parallelism = Parallelism::new(NonZeroUsize::new(threads).unwrap());
        };
        shop.save_with(&as_loaded(&loaded), ArchiveFormat::DockerArchive, change).unwrap().0
    };
    let one = with(1);
    assert!([2, 3, 16].into_iter().all(|threads| with(threads) == one));
}

#[test]
fn a_layer_that_is_as_wanted_stays_as_it_is_and_with_a_level_all_are_made_anew() {
    let shop = Shop::new();
    let layout = Layout::of(&image().compressed(layer("a"), Compression::GzipMembers));
    let loaded = shop.load(layout.oci_archive());
    let digest = |text| {
        let archive = save(&shop, &loaded, ArchiveFormat::OciArchive, text);
        Shop::new().load(archive)[0].target.digest.to_string()
    };
    assert_eq!(digest("keep"), layout.images[0].manifest);
    assert_eq!(digest("gzip"), layout.images[0].manifest);
    assert_ne!(digest("gzip:6"), layout.images[0].manifest);
    assert_ne!(digest("zstd"), layout.images[0].manifest);
}

#[test]
fn an_index_lists_the_new_manifests_and_an_attestation_is_about_the_new_one() {
    let mut layout = two_platforms();
    let index_digest = layout.index["manifests"][0]["digest"].as_str().unwrap().to_owned();
    let mut index: Value = serde_json::from_slice(&layout.blobs[&index_digest]).unwrap();
    let kind = "application/vnd.oci.image.manifest.v1+json";
    let config = layout.document(
        "application/vnd.oci.image.config.v1+json",
        &json!({"rootfs": {"type": "layers", "diff_ids": []}}),
    );
    let statement = layout.document("application/vnd.in-toto+json", &json!({"about": "it"}));
    let manifest = json!({"schemaVersion": 2, "mediaType": kind, "config": config, "layers": [statement]});
    let mut attestation = layout.document(kind, &manifest);
    attestation["platform"] = json!({"architecture": "unknown", "os": "unknown"});
    attestation["annotations"] = json!({
        "vnd.docker.reference.type": "attestation-manifest",
        "vnd.docker.reference.digest": layout.images[1].manifest,
    });
    index["manifests"].as_array_mut().unwrap().push(attestation.clone());
    let target = layout.document("application/vnd.oci.image.index.v1+json", &index);
    layout.index["manifests"] = json!([target]);

    let shop = Shop::new();
    let loaded = shop.load(layout.oci_archive());
    let archive = save(&shop, &loaded, ArchiveFormat::OciArchive, "zstd");
    let back = Shop::new().load(&archive);
    assert_eq!(essence(&back), essence(&loaded));
    let (_, files) = members(&archive);
    let index: Value =
        serde_json::from_slice(&files[&blob_path(&back[0].target.digest.to_string())]).unwrap();
    let listed = |at: usize| index["manifests"][at]["digest"].as_str().unwrap();
    for at in 0..2 {
        assert_ne!(listed(at), layout.images[at].manifest);
        assert!(index["manifests"][at]["platform"].is_object());
    }
    assert_eq!(index["manifests"][2]["digest"], attestation["digest"], "it says nothing of blobs itself");
    assert_eq!(index["manifests"][2]["annotations"]["vnd.docker.reference.digest"], json!(listed(1)));
}

#[test]
fn a_manifest_of_docker_stays_one_but_for_zstd_which_has_no_name_there() {
    let mut layout = Layout::of(&image().compressed(layer("a"), Compression::Gzip).name("q.io/a:1"));
    let mut manifest: Value = serde_json::from_slice(&layout.blobs[&layout.images[0].manifest]).unwrap();
    manifest["mediaType"] = json!("application/vnd.docker.distribution.manifest.v2+json");
    manifest["config"]["mediaType"] = json!("application/vnd.docker.container.image.v1+json");
    let gzip = "application/vnd.docker.image.rootfs.diff.tar.gzip";
    manifest["layers"][0]["mediaType"] = json!(gzip);
    manifest["layers"][0]["annotations"] =
        json!({"containerd.io/snapshot/stargz/toc.digest": "sha256:0", "kept": "yes"});
    let target = layout.document("application/vnd.docker.distribution.manifest.v2+json", &manifest);
    layout.index["manifests"] = json!([target]);
    let shop = Shop::new();
    let loaded = shop.load(layout.oci_archive());
    let manifest = |text| {
        let archive = save(&shop, &loaded, ArchiveFormat::OciArchive, text);
        Shop::new().load(archive)[0].manifests[0].manifest.clone()
    };
    for (text, kind, layer) in [
        (
            "none",
            "application/vnd.docker.distribution.manifest.v2+json",
            "application/vnd.docker.image.rootfs.diff.tar",
        ),
        ("gzip:3", "application/vnd.docker.distribution.manifest.v2+json", gzip),
        ("zstd", "application/vnd.oci.image.manifest.v1+json", "application/vnd.oci.image.layer.v1.tar+zstd"),
    ] {
        let made = manifest(text);
        assert_eq!(made.media_type().as_str(), kind);
        assert_eq!(made.layers[0].media_type.as_str(), layer);
        assert_eq!(made.layers[0].annotations, BTreeMap::from([("kept".to_owned(), "yes".to_owned())]));
    }
}

#[test]
fn a_layer_that_rotted_is_found_out_and_nothing_is_written() {
    let layout = Layout::of(&image().compressed(layer("a"), Compression::Gzip).layer(layer("b")));
    let shop = Shop::new();
    let images = as_loaded(&shop.load(layout.oci_archive()));
    for digest in &layout.images[0].layers {
        let path = shop.temp.path().join("oci").join(blob_path(digest));
        let good = std::fs::read(&path).unwrap();
        for at in [600, good.len() / 2, good.len() - 3] {
            let mut bad = good.clone();
            bad[at.min(good.len() - 1)] ^= 0x55;
            std::fs::write(&path, bad).unwrap();
            for format in [ArchiveFormat::OciArchive, ArchiveFormat::DockerArchive] {
                let error = shop.save_with(&images, format, method("zstd")).unwrap_err();
                assert!(matches!(error, SaveError::Layer { .. } | SaveError::Image { .. }), "{error}");
            }
        }
        std::fs::write(&path, good).unwrap();
    }
    assert!(std::fs::read_dir(shop.temp.path().join("staging")).unwrap().next().is_none());
}

#[test]
fn a_directory_gets_the_new_layers_and_loads() {
    let shop = Shop::new();
    let loaded = shop.load(three().oci_archive());
    let into = crate::common::scratch();
    let dir = Dir::open_ambient(into.path()).unwrap();
    let workspace = shop.staging.workspace().unwrap();
    let mut options = SaveOptions::default();
    options.workspace = Some(&workspace);
    options.compression = "zstd".parse().unwrap();
    plywood::archive::save_layout(&as_loaded(&loaded), &shop.blobs, &dir, &options).unwrap();
    let read = |digest: &Digest| std::fs::read(into.path().join(blob_path(&digest.to_string()))).unwrap();
    let other = Shop::new();
    let room = other.staging.workspace().unwrap();
    let to =
        plywood::archive::Destination { blobs: &other.blobs, workspace: &room, lent: None, pin: &|_| Ok(()) };
    let back = plywood::archive::load_layout(&dir, &to, &Default::default()).unwrap();
    assert_eq!(essence(&back), essence(&loaded));
    let layers = back.iter().flat_map(|image| &image.manifests[0].manifest.layers);
    assert!(layers.map(|layer| read(&layer.digest)).all(|bytes| bytes.starts_with(b"\x28\xb5\x2f\xfd")));
}

#[test]
fn the_caller_can_stop_it_while_layers_are_compressed() {
    let shop = Shop::new();
    let images = as_loaded(&shop.load(three().oci_archive()));
    let stop = AtomicBool::new(true);
    let workspace = shop.staging.workspace().unwrap();
    let mut options = SaveOptions::default();
    options.workspace = Some(&workspace);
    options.compression = "gzip:1".parse().unwrap();
    options.cancel = Some(&stop);
    let saved = plywood::archive::save(&images, &shop.blobs, ArchiveFormat::OciArchive, Vec::new(), &options);
    assert!(matches!(saved, Err(SaveError::Cancelled)));
}
