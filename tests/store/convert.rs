//! Converting: other words and other compression, the same image.

use std::fs;

use plywood::archive::Warning;
use plywood::driver::DriverKind;
use plywood::image::Reference;
use plywood::parallelism::Parallelism;
use plywood::store::{ConvertOptions, ConvertedImage, CreateOptions, Image, LoadOptions, MediaTypes, Store};
use serde_json::{Value, json};

use crate::common::image::{Compression, Layout, image};
use crate::common::tar::tar;
use crate::world::*;

const OCI: &str = "application/vnd.oci.image.";
const DOCKER: &str = "application/vnd.docker.";

fn to(media_types: MediaTypes) -> ConvertOptions<'static> {
    let mut options = ConvertOptions::default();
    options.media_types = media_types;
    options
}

fn packed(compression: &str) -> ConvertOptions<'static> {
    let mut options = ConvertOptions::default();
    options.compression = compression.parse().unwrap();
    options
}

#[track_caller]
fn convert(store: &Store, image: &Image, options: &ConvertOptions<'_>) -> Image {
    let converted = store.convert(image, options);
    let ConvertedImage { image, warnings, .. } =
        converted.unwrap_or_else(|error| panic!("{}", chain(&error)));
    assert_eq!(warnings, []);
    image
}

/// A document as it is stored.
fn document(world: &World, digest: impl std::fmt::Display) -> Value {
    let path = world.path().join("oci/blobs").join(digest.to_string().replace(':', "/"));
    serde_json::from_slice(&fs::read(path).unwrap()).unwrap()
}

/// The media types of a manifest, its config and its layers.
fn types(world: &World, image: &Image) -> Vec<String> {
    let manifest = document(world, image.manifest_digest());
    let layers = manifest["layers"].as_array().unwrap().iter();
    let parts = [&manifest, &manifest["config"]].into_iter().chain(layers);
    parts.map(|part| part["mediaType"].as_str().unwrap().to_owned()).collect()
}

/// Two layers that docker has names for.
fn two() -> crate::common::image::ImageSpec {
    image()
        .compressed(tar().file("a", "a").finish(), Compression::Gzip)
        .layer(tar().file("b", "b").finish())
        .name("docker.io/library/two:1")
}

#[test]
fn an_image_in_dockers_words_is_the_same_image_and_comes_back() {
    let world = World::driver(DriverKind::Copy);
    let store = &world.store;
    let base = world.load_image(&two());
    let layers = names_in(&world.path().join("layers"));
    let docker = convert(store, &base, &to(MediaTypes::Docker));
    assert_eq!(
        types(&world, &docker),
        [
            "application/vnd.docker.distribution.manifest.v2+json",
            "application/vnd.docker.container.image.v1+json",
            "application/vnd.docker.image.rootfs.diff.tar.gzip",
            "application/vnd.docker.image.rootfs.diff.tar",
        ]
    );
    assert_eq!((docker.id(), docker.diff_ids()), (base.id(), base.diff_ids()));
    assert_ne!(docker.digest(), base.digest());
    assert_eq!(docker.names(), []);
    let blobs = |image: &Image| image.manifest().layers.iter().map(|layer| layer.digest).collect::<Vec<_>>();
    assert_eq!(blobs(&docker), blobs(&base), "the same bytes");

    let mut options = to(MediaTypes::Oci);
    options.name = Some(Reference::parse_familiar("back:1").unwrap());
    let back = convert(store, &docker, &options);
    assert_eq!(back.names(), [options.name.unwrap()]);
    assert_eq!(document(&world, back.digest()), document(&world, base.digest()));
    assert_eq!(convert(store, &docker, &to(MediaTypes::Docker)).digest(), docker.digest(), "nothing to do");
    assert_eq!(convert(store, &base, &to(MediaTypes::Oci)).digest(), base.digest(), "nothing to do");
    for image in [&docker, &back] {
        let container = store.create_container(image, &CreateOptions::default()).unwrap();
        assert_eq!(exported(&container).names(), ["a", "b"]);
    }
    assert_eq!(names_in(&world.path().join("layers")), layers, "no layer was unpacked again");
}

#[test]
fn layers_are_packed_otherwise_and_are_still_the_layers() {
    let mut made = Vec::new();
    for threads in [1, 4] {
        let threads = Parallelism::new(threads.try_into().unwrap());
        let world = World::with(&options().parallelism(threads));
        let base = world.load_image(&sample());
        let layers = names_in(&world.path().join("layers"));
        for (method, ending) in [("none", ".tar"), ("gzip:1", "+gzip"), ("zstd", "+zstd")] {
            let image = convert(&world.store, &base, &packed(method));
            assert_eq!((image.id(), image.diff_ids()), (base.id(), base.diff_ids()));
            let layers = &image.manifest().layers;
            assert!(layers.iter().all(|layer| layer.media_type.as_str().ends_with(ending)), "{method}");
            for at in 0..layers.len() {
                // Compared with the diff id as it is read.
                world.store.write_layer(&image, at, std::io::sink(), None).unwrap();
            }
            made.push((method, image.digest()));
        }
        assert_eq!(names_in(&world.path().join("layers")), layers, "no layer was unpacked again");
        world.store.gc(&Default::default()).unwrap();
        let report = world.store.check(&Default::default()).unwrap();
        assert!(report.damages.is_empty(), "{:?}", report.damages);
    }
    let (one, four) = made.split_at(3);
    assert_eq!(one, four);
}

/// An index of two images and an attestation of the first, and one that is not there.
fn index() -> (Layout, String) {
    let mut layout = Layout::default();
    let here = layout.add(&two());
    let mut other = two();
    other.config["architecture"] = json!("s390x");
    let other = layout.add(&other);
    let manifest = "application/vnd.oci.image.manifest.v1+json";
    let of = |layout: &Layout, digest: &str, platform: Value| json!({"mediaType": manifest, "digest": digest, "size": layout.blobs[digest].len(), "platform": platform});
    let config = layout.document(
        "application/vnd.oci.image.config.v1+json",
        &json!({
            "architecture": "unknown", "os": "unknown", "rootfs": {"type": "layers", "diff_ids": []},
        }),
    );
    let attestation = layout.document(
        manifest,
        &json!({
            "schemaVersion": 2, "mediaType": manifest, "config": config, "layers": [],
        }),
    );
    let mut attestation = attestation;
    attestation["platform"] = json!({"architecture": "unknown", "os": "unknown"});
    attestation["annotations"] = json!({
        "vnd.docker.reference.type": "attestation-manifest", "vnd.docker.reference.digest": here.manifest,
    });
    let absent = format!("sha256:{}", "a".repeat(64));
    let entries = json!([
        of(&layout, &here.manifest, json!({"os": "linux", "architecture": two().config["architecture"]})),
        of(&layout, &other.manifest, json!({"os": "linux", "architecture": "s390x"})),
        {"mediaType": manifest, "digest": absent, "size": 7, "platform": {"os": "linux", "architecture": "mips"}},
        attestation,
    ]);
    let index_type = "application/vnd.oci.image.index.v1+json";
    let index = layout.document(
        index_type,
        &json!({
            "schemaVersion": 2, "mediaType": index_type, "manifests": entries, "annotations": {"kept": "yes"},
        }),
    );
    layout.index["manifests"] = json!([index]);
    (layout, absent)
}

#[test]
fn an_index_is_converted_with_all_that_is_there() {
    let world = World::driver(DriverKind::Copy);
    let (layout, absent) = index();
    let loaded = world.store.load(&layout.oci_archive()[..], &LoadOptions::default()).unwrap();
    let base = &loaded[0].image;

    let converted = world.store.convert(base, &packed("zstd:1")).unwrap();
    assert!(
        matches!(&converted.warnings[..], [Warning::AbsentManifest { manifest, .. }] if manifest.to_string() == absent)
    );
    let (old, new) = (document(&world, base.digest()), document(&world, converted.image.digest()));
    assert_eq!(new["annotations"], json!({"kept": "yes"}));
    let entries = new["manifests"].as_array().unwrap();
    for at in [0, 1] {
        assert_ne!(entries[at]["digest"], old["manifests"][at]["digest"]);
        let manifest = document(&world, entries[at]["digest"].as_str().unwrap());
        let layer = manifest["layers"][0]["mediaType"].as_str().unwrap();
        assert_eq!(layer, format!("{OCI}layer.v1.tar+zstd"));
    }
    assert_eq!(entries[2], old["manifests"][2], "what is not there is listed as it was");
    assert_eq!(entries[3]["digest"], old["manifests"][3]["digest"], "the attestation is what it was");
    assert_eq!(entries[3]["annotations"]["vnd.docker.reference.digest"], entries[0]["digest"]);

    let error = world.refuse(|store| store.convert(base, &to(MediaTypes::Docker)));
    assert_eq!(error.kind(), "not-in-docker", "{}", chain(&error));
    let lossy = world.store.convert(base, &to(MediaTypes::DockerLossy)).unwrap().image;
    let list = document(&world, lossy.digest());
    assert_eq!(list["mediaType"], format!("{DOCKER}distribution.manifest.list.v2+json"));
    assert_eq!((list.get("annotations"), list["manifests"].as_array().unwrap().len()), (None, 3));
    assert_eq!(list["manifests"][2]["digest"], absent.as_str());
    assert_eq!(lossy.id(), base.id());

    let mut only = ConvertOptions::default();
    only.platform = Some("linux/s390x".parse().unwrap());
    let converted = world.store.convert(base, &only).unwrap().image;
    assert_eq!(converted.digest().to_string(), old["manifests"][1]["digest"].as_str().unwrap());
    world.store.gc(&Default::default()).unwrap();
    assert!(world.store.check(&Default::default()).unwrap().damages.is_empty());
}

#[test]
fn what_docker_has_no_place_for_is_refused_or_left_out_and_never_just_gone() {
    let world = World::driver(DriverKind::Copy);
    let base = world.load_image(&two());
    let mut noted = ConvertOptions::default();
    noted.annotations.insert("org.example.note".to_owned(), "a note".to_owned());
    let noted = convert(&world.store, &base, &noted);
    assert_eq!(document(&world, noted.digest())["annotations"], json!({"org.example.note": "a note"}));
    assert_eq!(noted.id(), base.id());
    let refused = |image: &Image, options: &ConvertOptions<'_>| {
        let error = world.refuse(|store| store.convert(image, options));
        assert_eq!(error.kind(), "not-in-docker");
        chain(&error)
    };
    let message = refused(&noted, &to(MediaTypes::Docker));
    let expected = format!("docker's media types have no place for annotations, as {} has", noted.digest());
    assert_eq!(message, expected);
    let lossy = convert(&world.store, &noted, &to(MediaTypes::DockerLossy));
    assert_eq!(lossy.digest(), convert(&world.store, &base, &to(MediaTypes::Docker)).digest());
    let mut both = to(MediaTypes::DockerLossy);
    both.annotations.insert("a".to_owned(), "b".to_owned());
    refused(&base, &both);

    let mut zstd = to(MediaTypes::DockerLossy);
    zstd.compression = "zstd".parse().unwrap();
    assert!(refused(&base, &zstd).contains("layers compressed with zstd"));
    // Asked for nothing but the compression, what was docker's becomes OCI's.
    let docker = convert(&world.store, &base, &to(MediaTypes::Docker));
    let image = convert(&world.store, &docker, &packed("zstd"));
    assert!(types(&world, &image).iter().all(|named| named.starts_with(OCI)));
    refused(&image, &to(MediaTypes::Docker));
}

#[test]
fn a_layer_that_is_not_what_its_config_says_is_converted_into_nothing() {
    let world = World::driver(DriverKind::Copy);
    let layout = Layout::of(&two());
    let good = world.load(layout.oci_archive());
    let path = world.path().join("oci/blobs").join(layout.images[0].layers[1].replace(':', "/"));
    fs::remove_file(&path).unwrap();
    fs::write(&path, tar().file("b", "c").finish()).unwrap();
    let error = world.refuse(|store| store.convert(&good, &packed("gzip")));
    assert_eq!(error.kind(), "diff-id-mismatch", "{}", chain(&error));
}
