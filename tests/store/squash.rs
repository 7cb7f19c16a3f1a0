//! Squashing: the image shows what it showed, says what was done, and shares what it keeps.

use std::collections::BTreeSet;
use std::fs;

use plywood::codec::Encoding;
use plywood::driver::DriverKind;
use plywood::fs::Timestamp;
use plywood::image::Reference;
use plywood::parallelism::Parallelism;
use plywood::store::{CreateOptions, DriverChoice, Image, SquashFrom, SquashOptions};
use serde_json::{Value, json};

use crate::common::image::{Layout, image};
use crate::common::privilege::{self, ALL};
use crate::common::tar::tar;
use crate::common::tree::Tree;
use crate::common::untar;
use crate::world::*;

fn from(from: SquashFrom) -> SquashOptions<'static> {
    let mut options = SquashOptions::default();
    options.from = from;
    options
}

#[track_caller]
fn squash(world: &World, image: &Image, options: &SquashOptions<'_>) -> Image {
    world.store.squash(image, options).unwrap_or_else(|error| panic!("{}", chain(&error)))
}

fn config(world: &World, image: &Image) -> Value {
    serde_json::from_slice(&world.store.config_bytes(image).unwrap()).unwrap()
}

fn root_of(world: &World, image: &Image) -> Tree {
    exported(&world.store.create_container(image, &CreateOptions::default()).unwrap())
}

/// The names in a layer that is not compressed.
fn names(world: &World, image: &Image, layer: usize) -> BTreeSet<String> {
    let blob = world.path().join("oci/blobs/sha256").join(image.manifest().layers[layer].digest.hex());
    let entries = untar::entries(&fs::read(blob).unwrap());
    entries.into_iter().map(|entry| String::from_utf8(entry.name).unwrap()).collect()
}

#[test]
fn a_squashed_image_shows_what_it_showed_whoever_squashes_it_and_how() {
    privilege::under(ALL, |privilege| {
        let mut made = Vec::new();
        for &kind in drivers(privilege) {
            for threads in [1, 4] {
                let threads = Parallelism::new(threads.try_into().unwrap());
                let options = options().driver(DriverChoice::Only(kind)).parallelism(threads);
                let world = World::with(&options);
                let base = world.load_image(&sample());
                let all = squash(&world, &base, &SquashOptions::default());
                assert_eq!((all.manifest().layers.len(), all.diff_ids().len()), (1, 1));
                assert!(names(&world, &all, 0).iter().all(|name| !name.contains(".wh.")));
                let some = squash(&world, &base, &from(SquashFrom::Kept(1)));
                assert_eq!(some.manifest().layers[0], base.manifest().layers[0]);
                let expected = told(sample_tree(), privilege).without_holes();
                for image in [&all, &some] {
                    root_of(&world, image).assert_same(&expected, &format!("{privilege:?}, {kind}"));
                }
                made.push((all.digest(), some.digest()));
            }
        }
        made.dedup();
        assert_eq!(made.len(), 1, "{privilege:?}: equal images became several");
    });
}

#[test]
fn what_is_kept_below_is_shared_and_what_is_hidden_there_is_deleted() {
    let world = World::driver(DriverKind::Copy);
    let base = world.load_image(&sample());
    let before = names_in(&world.path().join("oci/blobs/sha256"));
    let image = squash(&world, &base, &from(SquashFrom::Kept(1)));
    let now = names_in(&world.path().join("oci/blobs/sha256"));
    assert_eq!(now.difference(&before).count(), 3, "a layer, a config and a manifest");
    let deleted: Vec<_> = names(&world, &image, 1).into_iter().filter(|name| name.contains(".wh.")).collect();
    // `opt` became a link, which hides what was in it.
    assert_eq!(deleted, ["etc/.wh.hosts", "usr/share/.wh.doc"]);
    let by_layer = squash(&world, &base, &from(SquashFrom::Layer(base.diff_ids()[1])));
    let lower = image_of_lowest(&world);
    let by_base = squash(&world, &base, &from(SquashFrom::Base(Box::new(lower))));
    assert_eq!((by_layer.digest(), by_base.digest()), (image.digest(), image.digest()));
}

/// An image of the lowest layer of `sample` alone.
fn image_of_lowest(world: &World) -> Image {
    let mut spec = sample();
    spec.layers.truncate(1);
    spec.names = vec!["docker.io/library/lowest:1".to_owned()];
    world.load_image(&spec)
}

#[test]
fn the_history_says_what_was_done_and_the_config_keeps_what_it_does_not_know() {
    let world = World::driver(DriverKind::Copy);
    let mut spec = sample();
    spec.config["history"] = json!([
        {"created": "2024-01-01T00:00:00Z", "created_by": "ADD rootfs", "their.field": [1, 2.50]},
        {"created_by": "CMD [\"sh\"]", "empty_layer": true},
        {"created_by": "RUN two"},
        {"created_by": "ENV a=b", "empty_layer": true},
        {"created_by": "RUN three", "comment": "the top"},
    ]);
    spec.config["their.extension"] = json!({"kept": true, "number": 1e3});
    let base = world.load_image(&spec);
    let mut options = SquashOptions::named(Reference::parse_familiar("flat:1").unwrap());
    options.from = SquashFrom::Kept(1);
    options.image = options
        .image
        .author("somebody")
        .created(Timestamp::from_seconds(1_000_000_000))
        .change("LABEL squashed=yes".parse().unwrap())
        .annotation("org.example.note", "a note");
    options.image.compression = Encoding::Gzip { level: 6 };
    let image = squash(&world, &base, &options);
    assert_eq!(world.store.image("flat:1").unwrap().digest(), image.digest());
    assert_eq!(world.store.image("sample:1").unwrap().digest(), base.digest(), "the old one is what it was");

    let mut expected = config(&world, &base);
    expected["created"] = json!("2001-09-09T01:46:40Z");
    expected["author"] = json!("somebody");
    expected["config"]["Labels"] = json!({"squashed": "yes"});
    let steps = expected["history"].as_array_mut().unwrap();
    for made_none in [2, 4] {
        steps[made_none]["empty_layer"] = json!(true);
    }
    steps.push(json!({
        "created": "2001-09-09T01:46:40Z", "created_by": "plywood squash", "author": "somebody",
        "comment": "2 layers became one",
    }));
    expected["rootfs"]["diff_ids"] = json!(image.diff_ids());
    assert_eq!(config(&world, &image), expected);
    assert_eq!(image.diff_ids()[0], base.diff_ids()[0]);
    let layers: Vec<_> = image.history().iter().map(|step| step.layer).collect();
    let (lowest, new) = (Some(image.diff_ids()[0]), Some(image.diff_ids()[1]));
    assert_eq!(layers, [lowest, None, None, None, None, new]);
    assert!(image.manifest().layers[1].media_type.as_str().ends_with("+gzip"));
    assert_eq!(image.manifest().annotations["org.example.note"], "a note");
}

#[test]
fn layers_that_change_nothing_together_become_none() {
    let world = World::driver(DriverKind::Copy);
    let spec = image()
        .layer(tar().file("a", "a").finish())
        .layer(tar().file("b", "b").finish())
        .layer(tar().whiteout("b").finish());
    let base = world.load_image(&spec);
    let image = squash(&world, &base, &from(SquashFrom::Kept(1)));
    assert_eq!((image.diff_ids(), image.manifest().layers.len()), (&base.diff_ids()[..1], 1));
    assert!(image.history().last().unwrap().entry.empty_layer);
    let none = world.load_image(&crate::common::image::image());
    assert!(squash(&world, &none, &SquashOptions::default()).diff_ids().is_empty());
}

#[test]
fn layers_that_are_not_there_are_refused_and_nothing_is_left() {
    let world = World::driver(DriverKind::Copy);
    let base = world.load_image(&sample());
    let other = world.load(Layout::of(&image().layer(tar().file("x", "x").finish())).oci_archive());
    let refused = |options: SquashFrom| {
        let error = world.refuse(|store| store.squash(&base, &from(options)));
        (error.kind().to_owned(), error.to_string())
    };
    let (kind, message) = refused(SquashFrom::Kept(4));
    assert_eq!((&*kind, &*message), ("not-found", "there is no layer \"4 of 3 of sample:1\""));
    assert_eq!(refused(SquashFrom::Layer(other.diff_ids()[0])).0, "not-found");
    let (kind, message) = refused(SquashFrom::Base(Box::new(other)));
    assert_eq!(kind, "not-a-base");
    assert!(message.starts_with("image sample:1 is not made on sha256:"), "{message}");
    let mut options = SquashOptions::default();
    let stop = std::sync::atomic::AtomicBool::new(true);
    options.cancel = Some(&stop);
    assert_eq!(world.refuse(|store| store.squash(&base, &options)).kind(), "cancelled");
}
