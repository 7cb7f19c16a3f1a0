//! What the store says that the disk is used for, beside what `du` says.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use plywood::driver::DriverKind;
use plywood::store::{CreateOptions, GcOptions, RemoveImage, StoreUsage, UsageOptions};

use crate::common::image::{Layout, image};
use crate::common::privilege::{self, Privilege};
use crate::common::tar::{Tar, tar};
use crate::common::{have, run};
use crate::world::*;

/// What `du` says of a directory or file, in bytes.
fn du(words: &[&str], path: &Path) -> u64 {
    let said = String::from_utf8(run("du", words.iter().copied().chain([path.to_str().unwrap()]))).unwrap();
    said.split_whitespace().next().unwrap().parse().unwrap()
}

/// Files with holes, with several names, empty ones, and directories.
fn base() -> Tar {
    let holes = [vec![7; 5000], vec![0; 300_000], vec![7; 70_000]].concat();
    tar()
        .dir("usr")
        .dir("usr/bin")
        .file("usr/bin/one", vec![1; 10_000])
        .link("usr/bin/two", "usr/bin/one")
        .file("holes", holes)
        .file("nothing", "")
        .symlink("link", "usr/bin/one")
        .dir("empty")
}

/// Three images: two on one base, one alone with the layer of another.
fn world(kind: DriverKind) -> World {
    let world = World::driver(kind);
    let (one, two) = (tar().file("one", vec![1; 4097]).finish(), tar().dir("a").file("a/two", "2").finish());
    let mut layout = Layout::default();
    let base = base().finish();
    layout.add(&image().layer(base.clone()).layer(one).name("docker.io/library/one:1"));
    layout.add(&image().layer(base).layer(two.clone()).name("docker.io/library/two:1"));
    layout
        .add(&image().layer(two).layer(tar().file("three", "3").finish()).name("docker.io/library/three:1"));
    load_all(&world, &layout);
    world
}

fn load_all(world: &World, layout: &Layout) {
    world.store.load(&layout.oci_archive()[..], &Default::default()).unwrap();
}

fn usage(world: &World) -> StoreUsage {
    world.store.usage(&UsageOptions::with_containers()).unwrap()
}

#[test]
fn blobs_and_layers_take_what_du_says() {
    let world = world(DriverKind::Copy);
    if !have(&["du"]) {
        return;
    }
    let usage = usage(&world);
    assert_eq!(usage.layers.len(), 4);
    for layer in &usage.layers {
        let tree = world.path().join("layers").join(layer.key.to_string()).join("tree");
        assert_eq!(layer.bytes, du(&["-s", "-B1"], &tree), "{}", layer.key);
    }
    assert_eq!(usage.total.layers, usage.layers.iter().map(|layer| layer.bytes).sum::<u64>());
    let blobs: Vec<_> = fs::read_dir(world.path().join("oci/blobs/sha256"))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    assert_eq!(usage.blobs, blobs.len() as u64);
    assert_eq!(usage.total.blobs, blobs.iter().map(|blob| du(&["-b"], blob)).sum::<u64>());
}

#[test]
fn what_an_image_alone_needs_is_what_goes_with_it() {
    for name in ["one:1", "two:1", "three:1"] {
        let world = world(DriverKind::Copy);
        let before = usage(&world);
        let named = |usage: &StoreUsage, name: &str| {
            let mut images = usage.images.iter();
            images.find(|image| image.image.names[0].familiar() == name).unwrap().clone()
        };
        let gone = named(&before, name);
        assert_eq!(gone.unique, gone.reclaimable);
        assert_eq!((before.unused.total(), before.reclaimable), (0, before.total));
        world.store.remove_image(name, RemoveImage::Refuse).unwrap();
        let removed = usage(&world);
        assert_eq!(removed.unused, gone.reclaimable, "{name}");
        world.store.gc(&GcOptions::default()).unwrap();
        let after = usage(&world);
        assert_eq!(after.total.blobs, before.total.blobs - gone.reclaimable.blobs, "{name}");
        assert_eq!(after.total.layers, before.total.layers - gone.reclaimable.layers, "{name}");
        assert_eq!(after.unused.total(), 0);
        let size = gone.shared.blobs + gone.unique.blobs;
        assert_eq!(size, gone.image.size);
    }
}

#[test]
fn what_a_container_stands_on_is_not_reclaimable() {
    let world = world(DriverKind::Copy);
    let image = world.store.image("one:1").unwrap();
    let container = world.store.create_container(&image, &CreateOptions::named("web")).unwrap();
    let used = usage(&world);
    let by_name: BTreeMap<_, _> =
        used.images.iter().map(|one| (one.image.names[0].familiar(), one.clone())).collect();
    let one = &by_name["one:1"];
    assert_eq!((one.reclaimable.total(), one.containers), (0, 1));
    assert!(one.unique.total() > 0 && by_name["two:1"].reclaimable == by_name["two:1"].unique);
    let [web] = &used.containers[..] else { panic!("{used:?}") };
    assert_eq!((&*web.name, web.mounted), ("web", false));
    assert_eq!(web.shared, one.shared.layers + one.unique.layers);
    assert_eq!(web.own, Some(container.usage().unwrap()));
    assert_eq!((used.writable, used.writable_reclaimable), (web.own.unwrap().allocated, used.writable));
    assert_eq!(used.reclaimable.layers, used.total.layers - web.shared);
    // Without its image it still needs everything.
    world.store.remove_image("one:1", RemoveImage::Force).unwrap();
    let left = usage(&world);
    assert_eq!((left.unused.total(), left.reclaimable), (0, used.reclaimable));
    let quick = world.store.usage(&UsageOptions::default()).unwrap();
    assert_eq!((quick.writable, quick.containers[0].own), (0, None));
}

#[test]
fn a_mounted_container_is_told_from_the_others() {
    privilege::under(&[Privilege::Root, Privilege::SingleId], |_| {
        let world = world(DriverKind::Overlay);
        let image = world.store.image("one:1").unwrap();
        let make = |name: &str| world.store.create_container(&image, &CreateOptions::named(name)).unwrap();
        let [one, _two] = ["one", "two"].map(make);
        let mounted = one.mount().unwrap();
        fs::write(mounted.path().join("new"), vec![1; 10_000]).unwrap();
        let used = usage(&world);
        let states: Vec<_> = used.containers.iter().map(|one| (&*one.name, one.mounted)).collect();
        assert_eq!(states, [("one", true), ("two", false)]);
        assert!(used.writable - used.writable_reclaimable >= 10_000);
        mounted.unmount().unwrap();
    });
}

#[test]
fn a_record_of_an_earlier_version_counts_its_data() {
    let world = world(DriverKind::Copy);
    let before = usage(&world);
    for layer in &before.layers {
        let path = world.path().join("layers").join(layer.key.to_string()).join("layer.json");
        let mut record: serde_json::Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
        record.as_object_mut().unwrap().remove("allocatedBytes").unwrap();
        fs::write(&path, record.to_string()).unwrap();
    }
    let store = world.again();
    let after = store.usage(&UsageOptions::default()).unwrap();
    assert!(after.total.layers > 0 && after.total.layers < before.total.layers);
}
