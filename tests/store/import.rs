//! A root file system becomes an image, and comes out as it went in; a layer comes out as it is.

use std::fs;
use std::process::Command;
use std::sync::atomic::AtomicBool;

use plywood::codec::Encoding;
use plywood::driver::DriverKind;
use plywood::image::Reference;
use plywood::store::{Container, CreateOptions, ExportOptions, Image, ImportOptions, StoreError};
use serde_json::{Value, json};

use crate::common::image::{Compression, Layout, image};
use crate::common::peers::{Docker, Storage};
use crate::common::privilege::{self, ALL};
use crate::common::tar::tar;
use crate::common::{have, sha256};
use crate::world::*;

fn create(world: &World, image: &Image) -> Container {
    world.store.create_container(image, &CreateOptions::default()).unwrap()
}

fn export_with_config(container: &Container) -> Vec<u8> {
    let mut options = ExportOptions::default();
    options.config = true;
    let mut tar = Vec::new();
    container.export(&mut tar, &options).unwrap();
    tar
}

fn config(world: &World, image: &Image) -> Value {
    serde_json::from_slice(&world.store.config_bytes(image).unwrap()).unwrap()
}

/// A config with everything in it that an import must not lose.
fn base() -> crate::common::image::ImageSpec {
    let mut spec = image()
        .layer(tar().dir("etc").file("etc/base", "base").finish())
        .set("Cmd", json!(["/bin/run"]))
        .set("Labels", json!({"a": "b"}))
        .set("Unknown", json!({"kept": 1}))
        .name("docker.io/library/base:1");
    spec.config["history"] = json!([{"created_by": "ADD rootfs", "theirs": [1]}]);
    spec.config["author"] = json!("somebody");
    spec.config["extension"] = json!("kept");
    spec
}

#[test]
fn an_export_that_is_imported_has_lost_nothing() {
    privilege::under(ALL, |privilege| {
        for &driver in drivers(privilege) {
            let world = World::driver(driver);
            let container = create(&world, &world.load_image(&sample()));
            let mounted = container.mount().unwrap();
            edit(mounted.path());
            drop(mounted);
            let plain = export(&container);
            let imported = world.store.import(&export_with_config(&container)[..], &ImportOptions::default());
            let imported = imported.unwrap_or_else(|error| panic!("{}", chain(&error)));
            let again = create(&world, &imported);
            assert!(export(&again) == plain, "{privilege:?}, {driver}: another root");
            assert_eq!(export_with_config(&again).len() % 512, 0);
        }
    });
}

#[test]
fn the_config_of_an_export_comes_back_with_its_history_and_changes_are_applied_to_it() {
    let world = World::driver(DriverKind::Copy);
    let first = world.load_image(&base());
    let tar = export_with_config(&create(&world, &first));
    let mut options = ImportOptions::default();
    options.image.name = Some(Reference::parse_familiar("flat:1").unwrap());
    options.image.changes = vec!["ENV A=b".parse().unwrap(), "USER nobody".parse().unwrap()];
    options.image.message = Some("flattened".to_owned());
    options.platform = Some("linux/arm64".parse().unwrap());
    let image = world.store.import(&tar[..], &options).unwrap();
    assert_eq!(image.names(), [options.image.name.clone().unwrap()]);
    let mut expected = config(&world, &first);
    let found = config(&world, &image);
    expected["architecture"] = json!("arm64");
    expected["config"]["Env"].as_array_mut().unwrap().push(json!("A=b"));
    expected["config"]["User"] = json!("nobody");
    expected["rootfs"] = json!({"type": "layers", "diff_ids": [image.diff_ids()[0].to_string()]});
    expected["history"][0]["empty_layer"] = json!(true);
    let steps = expected["history"].as_array_mut().unwrap();
    steps.push(json!({"created_by": "plywood import", "comment": "flattened"}));
    assert_eq!(found, expected);
}

#[test]
fn a_tar_becomes_the_layer_byte_for_byte_however_it_is_compressed() {
    let world = World::driver(DriverKind::Copy);
    let plain = tar().global(&[("comment", "of somebody")]).dir("etc").file("etc/os-release", "x").finish();
    let options = ImportOptions::default();
    let mut ids = Vec::new();
    for bytes in [plain.clone(), crate::common::image::gzip(&plain), crate::common::image::zstd(&plain)] {
        let image = world.store.import(&bytes[..], &options).unwrap();
        assert_eq!(image.diff_ids()[0].to_string(), format!("sha256:{}", sha256(&plain)));
        ids.push(image.digest());
    }
    ids.dedup();
    assert_eq!(ids.len(), 1, "equal roots, equal images");
    let mut options = ImportOptions::default();
    options.image.compression = Encoding::Gzip { level: 1 };
    let packed = world.store.import(&plain[..], &options).unwrap();
    assert_eq!(
        packed.id().to_string(),
        world.store.image(&packed.id().to_string()).unwrap().id().to_string()
    );
    assert_eq!(
        packed.manifest().layers[0].media_type.as_str(),
        "application/vnd.oci.image.layer.v1.tar+gzip"
    );
}

#[test]
fn a_directory_is_imported_as_it_is_and_always_the_same() {
    let world = World::driver(DriverKind::Copy);
    let root = world.beside("root");
    fs::create_dir_all(root.join("bin")).unwrap();
    fs::write(root.join("bin/sh"), "#!").unwrap();
    std::os::unix::fs::symlink("bin/sh", root.join("init")).unwrap();
    for path in ["bin/sh", "bin", ""] {
        touch(&root.join(path), 1_700_000_000, 5);
    }
    let options = ImportOptions::default();
    let image = world.store.import_directory(&root, &options).unwrap();
    assert_eq!(world.store.import_directory(&root, &options).unwrap().digest(), image.digest());
    let container = create(&world, &image);
    let found = exported(&container);
    assert_eq!(found.names(), ["bin", "bin/sh", "init"]);
    let mut other = ImportOptions::default();
    other.platform = Some("linux/riscv64".parse().unwrap());
    let other = world.store.import_directory(&root, &other).unwrap();
    assert_eq!(other.platform().unwrap().to_string(), "linux/riscv64");
}

#[test]
fn what_is_no_root_is_refused_and_leaves_nothing() {
    let world = World::driver(DriverKind::Copy);
    let good = tar().dir("etc").file("etc/os-release", vec![1; 100_000]).finish();
    let options = ImportOptions::default();
    let kinds: Vec<_> = [
        &b""[..],
        b"hello\n",
        b"\x7fELF",
        &good[..70_000],
        &tar().file("etc/.wh.gone", "").finish(),
        &tar().dir(".wh.dir").file(".wh.dir/file", "").finish(),
        &tar().file("../escape", "").finish(),
        &tar().link("a", "nowhere").finish(),
    ]
    .iter()
    .map(|bytes| world.refuse(|store| store.import(*bytes, &options)).kind())
    .collect();
    assert_eq!(
        kinds[..6],
        ["not-an-archive", "not-an-archive", "not-an-archive", "truncated", "reserved-name", "reserved-name"]
    );
    let error = world.refuse(|store| store.import(&tar().file("etc/.wh.gone", "").finish()[..], &options));
    assert!(chain(&error).contains("/etc/.wh.gone"), "{}", chain(&error));

    let mut bad = ImportOptions::default();
    let cancel = AtomicBool::new(true);
    bad.cancel = Some(&cancel);
    let error = world.refuse(|store| store.import(&good[..], &bad));
    assert!(matches!(error, StoreError::Cancelled), "{error}");
    let error = world.refuse(|store| store.import_directory("/proc/self/fdinfo", &bad));
    assert!(matches!(error, StoreError::Cancelled), "{error}");
}

#[test]
fn a_layer_comes_out_as_its_diff_id_says() {
    let world = World::driver(DriverKind::Copy);
    let tars = ["a", "b", "c"].map(|name| tar().file(name, name).whiteout("old").finish());
    let spec = image()
        .layer(tars[0].clone())
        .compressed(tars[1].clone(), Compression::GzipMembers)
        .compressed(tars[2].clone(), Compression::ZstdFrames);
    let layout = Layout::of(&spec);
    let image = world.load(layout.oci_archive());
    for (at, tar) in tars.iter().enumerate() {
        let mut out = Vec::new();
        let bytes = world.store.write_layer(&image, at, &mut out, None).unwrap();
        assert!(out == *tar && bytes == tar.len() as u64);
        let found = world.store.image_with_layer(&image.diff_ids()[at]).unwrap().unwrap();
        assert_eq!((found.0.digest(), found.1), (image.digest(), at));
    }
    let error = world.store.write_layer(&image, 3, Vec::new(), None).unwrap_err();
    assert!(matches!(error, StoreError::NotFound { what: "layer", .. }), "{error}");
    let blob = world.path().join("oci").join(crate::common::image::blob_path(&layout.images[0].layers[0]));
    let mut bytes = fs::read(&blob).unwrap();
    bytes[600] ^= 1;
    fs::write(&blob, bytes).unwrap();
    assert_eq!(world.store.write_layer(&image, 0, Vec::new(), None).unwrap_err().kind(), "diff-id-mismatch");
}

#[test]
fn other_tools_read_an_export_with_a_config_as_one_without_and_their_exports_are_imported() {
    let world = World::driver(DriverKind::Copy);
    let container = create(&world, &world.load_image(&base()));
    let (with, without) = (world.beside("with.tar"), world.beside("without.tar"));
    fs::write(&with, export_with_config(&container)).unwrap();
    fs::write(&without, export(&container)).unwrap();
    let list = |path| {
        let output = Command::new("tar").arg("-tvf").arg(path).output().unwrap();
        assert!(output.status.success() && output.stderr.is_empty(), "{output:?}");
        output.stdout
    };
    assert_eq!(list(&with), list(&without));
    if have(&["bsdtar"]) {
        let list = |path| crate::common::run("bsdtar", ["-tvf".as_ref(), path as &std::path::Path]);
        assert_eq!(list(&with), list(&without));
    }
    let path = with.to_str().unwrap();
    let diff_id = format!("sha256:{}", sha256(&fs::read(&without).unwrap()));
    if let Some(podman) = Storage::podman() {
        podman.run(&["import", "-q", path, "imported:1"]);
        podman.run(&["create", "--name", "one", "imported:1", "/bin/true"]);
        let theirs = world.beside("podman.tar");
        podman.run(&["export", "-o", theirs.to_str().unwrap(), "one"]);
        let image = world.store.import(fs::File::open(theirs).unwrap(), &ImportOptions::default()).unwrap();
        assert!(exported(&create(&world, &image)).get("etc/base").is_some());
    }
    if let Some(docker) = Docker::start() {
        docker.run(&["import", path, "imported:1"]);
        let id = docker.run(&["create", "imported:1", "/bin/true"]);
        let theirs = world.beside("docker.tar");
        docker.run(&["export", "-o", theirs.to_str().unwrap(), id.trim()]);
        let image = world.store.import(fs::File::open(theirs).unwrap(), &ImportOptions::default()).unwrap();
        assert!(exported(&create(&world, &image)).get("etc/base").is_some());
    }
    let image = world.store.import(fs::File::open(&with).unwrap(), &ImportOptions::default()).unwrap();
    assert_eq!(image.diff_ids()[0].to_string(), diff_id);
}

#[test]
fn an_image_archive_is_no_root_unless_somebody_insists() {
    let world = World::driver(DriverKind::Copy);
    let layout = Layout::of(&sample());
    let old =
        tar().file("repositories", "{}").dir("0".repeat(64)).file(format!("{}/json", "0".repeat(64)), "{}");
    for (archive, member) in [
        (layout.docker_archive(), "manifest.json"),
        (crate::common::image::gzip(&layout.docker_archive()), "manifest.json"),
        (layout.oci_archive(), "oci-layout"),
        (old.finish(), "repositories"),
    ] {
        let error = world.refuse(|store| store.import(&archive[..], &ImportOptions::default()));
        let expected = format!("this is an image archive, as {member:?} in it says, and no root file system");
        assert_eq!((error.kind(), error.to_string()), ("image-archive", expected));
        let mut insist = ImportOptions::default();
        insist.take_archives = true;
        world.store.import(&archive[..], &insist).unwrap_or_else(|error| panic!("{}", chain(&error)));
    }
    // A root may have such a file beside its others, and a directory of that name is none.
    for root in [tar().file("manifest.json", "[]").dir("etc"), tar().dir("manifest.json").dir("blobs")] {
        world.store.import(&root.finish()[..], &ImportOptions::default()).unwrap();
    }
}
