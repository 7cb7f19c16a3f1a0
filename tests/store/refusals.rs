//! What is refused, as what, and that nothing of it is left.

use std::fs;
use std::io::Read;
use std::os::unix::fs::PermissionsExt;
use std::time::Duration;

use plywood::driver::DriverKind;
use plywood::limits::Limits;
use plywood::store::{CreateOptions, DriverChoice, LoadOptions, RemoveContainer, Store, StoreError};
use serde_json::{Value, json};

use crate::common::image::{Compression, Layout, blob_path, gzip, image, pack};
use crate::common::privilege::{self, ALL, Privilege};
use crate::common::tar::tar;
use crate::common::{scratch, sha256};
use crate::world::*;

/// A layout of one image with two layers, to be damaged.
fn layout() -> Layout {
    let base = tar().dir("etc").file("etc/base", "base").finish();
    Layout::of(
        &image()
            .layer(base)
            .compressed(tar().file("top", "top").finish(), Compression::Gzip)
            .name("docker.io/library/app:1"),
    )
}

/// A store with another image, and a container of it.
fn shop() -> World {
    let world = World::driver(DriverKind::Copy);
    let image =
        world.load_image(&image().layer(tar().file("kept", "kept").finish()).name("docker.io/library/app:1"));
    world.store.create_container(&image, &CreateOptions::named("kept")).unwrap();
    world.store.settle().unwrap();
    world
}

/// Loads what must be refused as `kind`, with a message that holds `facts`.
#[track_caller]
fn refuse(world: &World, archive: impl AsRef<[u8]>, kind: &str, facts: &[&str]) {
    let error = world.refuse(|store| store.load(archive.as_ref(), &LoadOptions::default()));
    assert_eq!(error.kind(), kind, "{}", chain(&error));
    for fact in facts {
        assert!(chain(&error).contains(fact), "{fact:?} is not in: {}", chain(&error));
    }
    assert!(!chain(&error).contains('\n'), "{}", chain(&error));
}

/// Changes the manifest of the only image, its digest with it.
fn with_manifest(mut layout: Layout, change: impl FnOnce(&mut Value)) -> Layout {
    let mut manifest: Value = serde_json::from_slice(&layout.blobs[&layout.images[0].manifest]).unwrap();
    change(&mut manifest);
    let annotations = layout.index["manifests"][0]["annotations"].clone();
    let mut entry = layout.document("application/vnd.oci.image.manifest.v1+json", &manifest);
    entry["annotations"] = annotations;
    layout.index["manifests"] = json!([entry]);
    layout
}

/// Changes the config of the only image, and everything that leads to it.
fn with_config(mut layout: Layout, change: impl FnOnce(&mut Value)) -> Layout {
    let mut config: Value = serde_json::from_slice(&layout.blobs[&layout.images[0].config]).unwrap();
    change(&mut config);
    let config = layout.document("application/vnd.oci.image.config.v1+json", &config);
    with_manifest(layout, |manifest| manifest["config"] = config)
}

#[test]
fn a_blob_that_is_not_what_its_digest_says() {
    let world = shop();
    let whole = layout();
    let added = whole.images[0].clone();
    for digest in added.layers.iter().chain([&added.config, &added.manifest]) {
        let mut damaged = whole.clone();
        let blob = damaged.blobs.get_mut(digest).unwrap();
        let middle = blob.len() / 2;
        blob[middle] ^= 1;
        let actual = format!("sha256:{}", sha256(blob));
        refuse(&world, damaged.oci_archive(), "digest-mismatch", &[digest, &actual]);

        let mut longer = whole.clone();
        longer.blobs.get_mut(digest).unwrap().push(b' ');
        let error = world.refuse(|store| store.load(&longer.oci_archive()[..], &LoadOptions::default()));
        assert!(["size-mismatch", "digest-mismatch"].contains(&error.kind()), "{}", chain(&error));

        let mut missing = whole.clone();
        missing.blobs.remove(digest);
        let error = world.refuse(|store| store.load(&missing.oci_archive()[..], &LoadOptions::default()));
        assert!(
            ["missing-member", "missing-layers", "no-image"].contains(&error.kind()),
            "{}",
            chain(&error)
        );
        assert!(
            chain(&error).contains(&blob_path(digest)) || chain(&error).contains(digest),
            "{}",
            chain(&error)
        );
    }
}

#[test]
fn a_descriptor_of_another_size() {
    let world = shop();
    for size in [1_u64, 1 << 40] {
        let wrong = with_manifest(layout(), |manifest| manifest["layers"][0]["size"] = json!(size));
        refuse(
            &world,
            wrong.oci_archive(),
            "size-mismatch",
            &[&size.to_string(), &layout().images[0].layers[0]["sha256:".len()..]],
        );
    }
    let wrong = with_manifest(layout(), |manifest| manifest["layers"][0]["size"] = json!(-1));
    refuse(&world, wrong.oci_archive(), "invalid-image", &[]);
}

#[test]
fn a_layer_that_is_not_the_one_of_the_config() {
    let world = shop();
    let other = format!("sha256:{}", sha256(b"another layer"));
    for index in 0..2 {
        let wrong = with_config(layout(), |config| config["rootfs"]["diff_ids"][index] = json!(other));
        refuse(
            &world,
            wrong.oci_archive(),
            "diff-id-mismatch",
            &[&other, &layout().images[0].diff_ids[index]],
        );
    }
    let swapped = with_manifest(layout(), |manifest| manifest["layers"].as_array_mut().unwrap().swap(0, 1));
    refuse(
        &world,
        swapped.oci_archive(),
        "diff-id-mismatch",
        &layout().images[0].diff_ids.iter().map(String::as_str).collect::<Vec<_>>(),
    );
    let short =
        with_config(layout(), |config| drop(config["rootfs"]["diff_ids"].as_array_mut().unwrap().pop()));
    refuse(&world, short.oci_archive(), "invalid-image", &["2", "1"]);
    // Of a docker-archive too.
    let mut files = layout().docker_files();
    let path = format!("{}/layer.tar", &layout().images[0].diff_ids[0]["sha256:".len()..]);
    files.insert(path, tar().file("other", "").finish());
    refuse(&world, pack(&files), "diff-id-mismatch", &[&layout().images[0].diff_ids[0]]);
}

#[test]
fn an_archive_that_is_cut_anywhere() {
    let world = shop();
    for whole in [layout().oci_archive(), layout().docker_archive()] {
        // Nothing is missed of the last member's padding, nor of the zeros behind it.
        let end = whole.len() - 1024 - 512;
        for at in (1..end).step_by(end / 23) {
            let error = world.refuse(|store| store.load(&whole[..at], &LoadOptions::default()));
            // At the edge of a member it is an archive that lacks something.
            let kinds = ["truncated", "missing-member", "not-an-archive", "missing-blob"];
            assert!(kinds.contains(&error.kind()), "{at}: {}: {}", error.kind(), chain(&error));
        }
        let packed = gzip(&whole);
        for at in (20..packed.len() - 1).step_by(packed.len() / 7) {
            refuse(&world, &packed[..at], "truncated", &[]);
        }
    }
}

#[test]
fn what_is_no_archive() {
    let world = shop();
    let tarball = tar().dir("etc").file("etc/passwd", "root").finish();
    for (bytes, fact) in [
        (Vec::new(), "empty"),
        (b"#!/bin/sh\necho hello\n".to_vec(), ""),
        (vec![0; 10_240], ""),
        (b"\x7fELF".iter().chain(&[1; 2000]).copied().collect(), ""),
        (tarball, "etc"),
        (gzip(b"hello"), ""),
    ] {
        refuse(&world, bytes, "not-an-archive", &[fact]);
    }
    let dir = world.beside("dir");
    fs::create_dir(&dir).unwrap();
    let error = world.refuse(|store| store.load_directory(&dir, &LoadOptions::default()));
    assert_eq!(error.kind(), "not-an-archive", "{}", chain(&error));
    let error = world.refuse(|store| store.load_directory(world.beside("nowhere"), &LoadOptions::default()));
    assert_eq!(error.kind(), "not-found");
    assert!(chain(&error).contains("nowhere"), "{}", chain(&error));
}

#[test]
fn a_layer_that_no_root_can_be_made_of() {
    let world = shop();
    for (layer, fact) in [
        (tar().file("../escape", "x").finish(), "escape"),
        (tar().file("base", "").link("dangling", "nothing").finish(), "nothing"),
        (tar().char_device("device", 0, 0).finish(), "device"),
        (tar().file("cut", vec![7; 5000]).finish()[..4000].to_vec(), "cut"),
        (b"no tar at all, for longer than a block of 512 bytes ".repeat(20), ""),
    ] {
        // The good layer comes first, and is not left either.
        let spec = image().layer(tar().file("good", "good").finish()).layer(layer);
        let error =
            world.refuse(|store| store.load(&Layout::of(&spec).oci_archive()[..], &LoadOptions::default()));
        assert!(
            ["invalid-layer", "truncated"].contains(&error.kind()),
            "{}: {}",
            error.kind(),
            chain(&error)
        );
        assert!(chain(&error).contains(fact), "{}", chain(&error));
    }
}

#[test]
fn one_bad_image_of_several_refuses_them_all() {
    let world = shop();
    let mut several = Layout::of(&sample());
    several.add(&image().layer(tar().file("../escape", "x").finish()).name("docker.io/library/bad:1"));
    several.add(&image().layer(tar().file("fine", "x").finish()).name("docker.io/library/app:1"));
    let error = world.refuse(|store| store.load(&several.oci_archive()[..], &LoadOptions::default()));
    assert_eq!(error.kind(), "invalid-layer", "{}", chain(&error));
}

#[test]
fn what_an_archive_may_ask_for_has_limits() {
    let world = shop();
    let mut limits = Limits::default();
    limits.entries = 2;
    let store = options().limits(limits).open(world.path()).unwrap();
    let spec = image().layer(tar().file("1", "").file("2", "").file("3", "").finish());
    let archive = Layout::of(&spec).oci_archive();
    let error = world.refuse(|_| store.load(&archive[..], &LoadOptions::default()));
    assert_eq!(error.kind(), "limit");
    assert!(chain(&error).contains("entries"), "{}", chain(&error));
}

/// Fails in the middle, as a network does.
struct Broken<'a>(&'a [u8]);

impl Read for Broken<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        match self.0.read(buffer)? {
            0 => Err(std::io::Error::other("the line is dead")),
            read => Ok(read),
        }
    }
}

#[test]
fn a_reader_that_fails() {
    let world = shop();
    let archive = layout().oci_archive();
    let error = world.refuse(|store| store.load(Broken(&archive[..3000]), &LoadOptions::default()));
    assert_eq!(error.kind(), "io");
    assert!(chain(&error).contains("the line is dead"), "{}", chain(&error));
}

#[test]
fn what_somebody_is_making_is_no_store_yet_and_what_has_lost_its_format_is_more_than_nothing() {
    let is_blank = |world: &World| match options().open(world.path()).unwrap_err() {
        StoreError::NotAStore { is_blank, .. } => is_blank,
        other => panic!("{}", chain(&other)),
    };
    let made = World::driver(DriverKind::Copy);
    fs::remove_file(made.path().join("store.json")).unwrap();
    assert!(is_blank(&made));
    fs::remove_file(made.path().join("oci/index.json")).unwrap();
    fs::remove_dir(made.path().join("views")).unwrap();
    assert!(is_blank(&made));
    for (stranger, is_file) in [("README", true), ("containers/x", false), ("layers", true)] {
        let path = made.path().join(stranger);
        match is_file {
            true => drop(fs::remove_dir(&path)),
            false => fs::create_dir(&path).unwrap(),
        }
        if is_file {
            fs::write(&path, "").unwrap();
        }
        assert!(!is_blank(&made), "{stranger}");
        if is_file { fs::remove_file(&path) } else { fs::remove_dir(&path) }.unwrap();
        assert!(is_blank(&made), "{stranger}");
    }
    let used = World::driver(DriverKind::Copy);
    used.load(Layout::of(&image().layer(tar().file("a", "a").finish())).oci_archive());
    fs::remove_file(used.path().join("store.json")).unwrap();
    assert!(!is_blank(&used));
}

#[test]
fn of_several_who_want_a_store_in_one_place_one_makes_it_and_all_have_it() {
    let temp = scratch();
    for round in 0..300 {
        let place = &temp.path().join(round.to_string());
        std::thread::scope(|scope| {
            let maker = |number: u64| {
                // They come at all moments of its making.
                std::thread::sleep(Duration::from_micros(number * round * 7 % 3000));
                options().ensure(place)
            };
            let makers: Vec<_> = (0..4).map(|number| scope.spawn(move || maker(number))).collect();
            for maker in makers {
                maker.join().unwrap().unwrap_or_else(|error| panic!("{}", chain(&error)));
            }
        });
    }
}

#[test]
fn what_is_not_a_store_or_a_newer_one() {
    let world = shop();
    let dir = world.beside("dir");
    let open = |path| options().open(path).unwrap_err();
    let error = open(dir.clone());
    assert_eq!(error.kind(), "not-a-store");
    assert!(chain(&error).contains("dir"), "{}", chain(&error));
    fs::create_dir(&dir).unwrap();
    assert_eq!(open(dir.clone()).kind(), "not-a-store");
    assert_eq!(names_in(&dir), Default::default());
    fs::write(dir.join("precious"), "").unwrap();
    for make in [Store::create, Store::ensure] {
        let error = make(dir.clone()).unwrap_err();
        assert_eq!(error.kind(), "occupied");
        assert!(chain(&error).contains("not empty"), "{}", chain(&error));
    }
    assert_eq!(names_in(&dir), ["precious".to_owned()].into());
    assert_eq!(Store::create(world.path()).unwrap_err().kind(), "occupied");
    Store::ensure(world.path()).unwrap();

    let format = world.path().join("store.json");
    let ours: Value = serde_json::from_slice(&fs::read(&format).unwrap()).unwrap();
    assert_eq!(ours["version"], 1);
    for (change, fact) in [
        (json!({"version": 2}), "version 2"),
        (json!({"version": 1, "features": {"incompatible": ["erofs-layers"]}}), "erofs-layers"),
        (json!({"version": 2, "layout": "of the future"}), "version 2"),
    ] {
        fs::write(&format, serde_json::to_vec(&change).unwrap()).unwrap();
        let error = open(world.path());
        assert_eq!(error.kind(), "unknown-format", "{}", chain(&error));
        assert!(chain(&error).contains(fact), "{}", chain(&error));
    }
    for damage in ["", "{", "[]", "{\"version\":\"1\"}"] {
        fs::write(&format, damage).unwrap();
        assert_eq!(open(world.path()).kind(), "not-a-store", "{damage:?}");
    }
    fs::write(
        &format,
        serde_json::to_vec(&json!({"version": 1, "features": {"compatible": ["hints"]}})).unwrap(),
    )
    .unwrap();
    load(&world.again(), layout().oci_archive());
}

/// Everything that can be asked without changing a store.
fn read_everything(store: &Store) {
    let image = store.image("app:1").unwrap();
    assert_eq!(store.images().unwrap().len(), 1);
    assert!(!store.manifest_bytes(&image).unwrap().is_empty());
    assert!(!store.config_bytes(&image).unwrap().is_empty());
    let container = store.container("kept").unwrap();
    assert_eq!(changes(&container), Vec::<String>::new());
    assert_eq!(exported(&container).names(), ["kept"]);
    container.size().unwrap();
    container.state().unwrap();
    let info = store.info().unwrap();
    assert!(info.read_only && info.containers == 1 && info.images == 1, "{info:?}");
    let mut archive = Vec::new();
    let format = plywood::archive::ArchiveFormat::OciArchive;
    store
        .save(&[image], format, &mut archive, &Default::default())
        .unwrap_or_else(|error| panic!("{}", chain(&error)));
}

/// Everything that changes one.
fn change_nothing(world: &World, store: &Store) {
    let kind = |error: plywood::store::StoreError| error.kind();
    let image = store.image("app:1").unwrap();
    let archive = layout().oci_archive();
    let reference = plywood::image::Reference::parse_familiar("app:2").unwrap();
    let mut container = store.container("kept").unwrap();
    let refused = [
        kind(world.refuse(|_| store.load(&archive[..], &LoadOptions::default()))),
        kind(world.refuse(|_| store.create_container(&image, &CreateOptions::default()))),
        kind(world.refuse(|_| store.tag(&image, &reference))),
        kind(world.refuse(|_| {
            store.remove_image("app:1", Default::default()).map_err(|error| {
                assert!(["read-only", "image-in-use"].contains(&error.kind()));
                store.tag(&image, &reference).unwrap_err()
            })
        })),
        kind(world.refuse(|_| store.gc(&Default::default()))),
        kind(world.refuse(|_| container.mount())),
        kind(world.refuse(|_| container.commit(&Default::default()))),
        kind(world.refuse(|_| container.rename("other"))),
        kind(world.refuse(|_| container.clone().remove(RemoveContainer::Refuse))),
    ];
    assert_eq!(refused, ["read-only"; 9]);
}

#[test]
fn a_store_that_says_it_may_only_be_read() {
    let world = shop();
    let format = world.path().join("store.json");
    let flagged = json!({"version": 1, "features": {"readOnlyCompatible": ["of-the-future"]}});
    fs::write(&format, serde_json::to_vec(&flagged).unwrap()).unwrap();
    let before = world.state();
    read_everything(&world.again());
    change_nothing(&world, &world.again());
    world.state().assert_same(&before, "only read");
}

#[test]
fn a_store_on_a_file_system_that_may_only_be_read() {
    privilege::under(&[Privilege::Root], |_| {
        let world = shop();
        let path = world.path();
        crate::common::run("mount", ["--bind", path.to_str().unwrap(), path.to_str().unwrap()]);
        crate::common::run("mount", ["-o", "remount,bind,ro", path.to_str().unwrap()]);
        let store = world.again();
        read_everything(&store);
        change_nothing(&world, &store);
        drop(store);
        crate::common::run("umount", ["--lazy", path.to_str().unwrap()]);
    });
}

#[test]
fn a_directory_that_this_user_may_not_use() {
    privilege::under(&[Privilege::Plain, Privilege::SingleId], |_| {
        let temp = crate::common::scratch();
        let closed = temp.path().join("closed");
        fs::create_dir(&closed).unwrap();
        fs::set_permissions(&closed, fs::Permissions::from_mode(0o555)).unwrap();
        if fs::write(closed.join("probe"), "").is_ok() {
            return; // root of a user namespace, and the directory is its own
        }
        let error = Store::create(closed.join("store")).unwrap_err();
        assert_eq!(error.kind(), "permission", "{}", chain(&error));
        assert!(chain(&error).contains("closed/store"), "{}", chain(&error));
        for make in [Store::create, Store::ensure] {
            let error = make(closed.clone()).unwrap_err();
            assert_eq!(error.kind(), "permission", "{}", chain(&error));
        }
        fs::set_permissions(&closed, fs::Permissions::from_mode(0o000)).unwrap();
        assert_eq!(Store::open(&closed).unwrap_err().kind(), "permission");
        fs::set_permissions(&closed, fs::Permissions::from_mode(0o755)).unwrap();
    });
}

#[test]
fn a_driver_that_does_not_work_here() {
    privilege::under(ALL, |privilege| {
        let temp = crate::common::scratch();
        let mut refused = vec![DriverKind::Fuse];
        if privilege == Privilege::Plain {
            refused.push(DriverKind::Overlay);
        }
        for kind in refused {
            // Whatever is installed.
            let options = options().driver(DriverChoice::Only(kind)).fuse_overlayfs("/no/such/program");
            let world = World::with(&options);
            let image = world.load_image(&sample());
            let error = world.refuse(|store| store.create_container(&image, &CreateOptions::default()));
            assert_eq!(error.kind(), "driver-refused", "{}", chain(&error));
            assert!(chain(&error).contains(kind.as_str()), "{}", chain(&error));
        }
        drop(temp);
    });
}

#[test]
fn an_artifact_is_kept_and_not_run() {
    let world = shop();
    let mut artifact = Layout::default();
    let config = artifact.document("application/vnd.oci.empty.v1+json", &json!({}));
    let blob = artifact.blob("a chart");
    let manifest = json!({
        "schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "artifactType": "application/vnd.example.chart", "config": config,
        "layers": [{"mediaType": "application/vnd.example.chart.v1", "digest": blob, "size": 7}],
    });
    let entry = artifact.document("application/vnd.oci.image.manifest.v1+json", &manifest);
    artifact.index["manifests"] = json!([entry]);
    let loaded = world.store.load(&artifact.oci_archive()[..], &LoadOptions::default());
    let Ok(mut loaded) = loaded else { panic!("{}", chain(&loaded.unwrap_err())) };
    let image = loaded.remove(0).image;
    assert!(image.config().is_none());
    let error = world.refuse(|store| store.create_container(&image, &CreateOptions::default()));
    assert_eq!(error.kind(), "not-an-image", "{}", chain(&error));
    world.store.gc(&Default::default()).unwrap();
    assert_eq!(world.store.image(&image.digest().to_string()).unwrap().digest(), image.digest());
}
