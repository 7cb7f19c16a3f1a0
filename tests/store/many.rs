//! Lists and lookups that read no documents: they say what the documents say, whatever was kept or lost.

use std::collections::BTreeSet;
use std::fs;

use plywood::driver::DriverKind;
use plywood::image::Reference;
use plywood::store::{
    Container, CreateOptions, GcOptions, Image, ImageSummary, RemoveContainer, RemoveImage, Store, StoreError,
};
use serde_json::{Value, json};

use crate::common::image::{Layout, image};
use crate::common::tar::tar;
use crate::common::tree::snapshot;
use crate::world::*;

const KEPT: [&str; 2] = ["cache/images", "cache/stacks"];

/// Six images of shared layers, one behind an index, two names on one, one without.
fn world() -> World {
    let world = World::driver(DriverKind::Copy);
    let mut layout = Layout::default();
    for number in 0..5 {
        let layer = |number: i32| tar().file("number", number.to_string()).finish();
        let spec = image().layer(layer(number / 2)).layer(layer(9)).set("author", json!(number));
        let spec = spec.set("created", json!(format!("2024-01-0{}T00:00:00Z", number + 1)));
        layout.add(&spec.name(&format!("docker.io/library/image:{number}")));
    }
    let mut index: Value = serde_json::from_slice(&layout.files()["index.json"]).unwrap();
    let entries = index["manifests"].as_array_mut().unwrap();
    entries.iter_mut().for_each(|entry| drop(entry.as_object_mut().unwrap().remove("annotations")));
    entries.truncate(2);
    let nested = layout.document("application/vnd.oci.image.index.v1+json", &index);
    let directory = world.beside("layout");
    layout.write(&directory);
    let mut outer: Value = serde_json::from_slice(&fs::read(directory.join("index.json")).unwrap()).unwrap();
    let mut nested = nested;
    nested["annotations"] = json!({"org.opencontainers.image.ref.name": "docker.io/library/several:1"});
    outer["manifests"].as_array_mut().unwrap().push(nested);
    fs::write(directory.join("index.json"), outer.to_string()).unwrap();
    world.store.load_directory(&directory, &Default::default()).unwrap();
    let store = &world.store;
    store.tag(&store.image("image:3").unwrap(), &"other:1".parse().unwrap()).unwrap();
    store.untag(&"image:4".parse().unwrap()).unwrap();
    world
}

fn listed(store: &Store) -> Vec<ImageSummary> {
    let list = store.list_images().unwrap();
    assert!(list.damaged().is_empty(), "{list:?}");
    list.to_vec()
}

fn read(store: &Store) -> Vec<ImageSummary> {
    store.images().unwrap().iter().map(Image::summary).collect()
}

#[test]
fn a_list_says_what_the_documents_say_whatever_was_kept() {
    let world = world();
    let expected = read(&world.store);
    assert_eq!(expected.len(), 6);
    assert_eq!(listed(&world.store), expected, "nothing was kept");
    assert_eq!(listed(&world.again()), expected, "all was kept");
    for file in KEPT {
        let path = world.path().join(file);
        let whole = fs::read(&path).unwrap();
        for at in (0..whole.len()).step_by(37) {
            let mut changed = whole.clone();
            changed[at] ^= 1;
            fs::write(&path, &changed).unwrap();
            assert_eq!(listed(&world.store), expected, "{file} changed at {at}");
            fs::write(&path, &whole[..at]).unwrap();
            assert_eq!(listed(&world.store), expected, "{file} cut at {at}");
        }
        fs::write(&path, vec![0; whole.len()]).unwrap();
        assert_eq!(listed(&world.store), expected);
        // What cannot be read or written is done without.
        fs::remove_file(&path).unwrap();
        fs::create_dir(&path).unwrap();
        assert_eq!(listed(&world.store), expected);
        fs::remove_dir(&path).unwrap();
    }
}

#[test]
fn an_image_is_found_by_every_beginning_that_it_alone_has() {
    let world = world();
    let images = world.store.images().unwrap();
    for again in 0..2 {
        for image in &images {
            for id in [image.id(), image.digest(), image.manifest_digest()] {
                let hex = id.hex();
                for length in [1, 2, 3, 6, 12, 63, 64] {
                    let begun = |other: &&Image| {
                        let ids = [other.id(), other.digest(), other.manifest_digest()];
                        ids.iter().any(|id| id.hex().starts_with(&hex[..length]))
                    };
                    let may_be: BTreeSet<_> = images.iter().filter(begun).map(Image::id).collect();
                    match world.store.image(&hex[..length]) {
                        Ok(found) => {
                            assert_eq!(BTreeSet::from([found.id()]), may_be, "{hex} {length} {again}");
                        }
                        Err(error) => {
                            assert_eq!(error.kind(), "ambiguous", "{error}");
                            assert!(may_be.len() > 1, "{hex} {length} {again}");
                        }
                    }
                }
                assert_eq!(world.store.image(&id.to_string()).unwrap().id(), image.id());
            }
        }
    }
    assert_eq!(world.store.image(&"f".repeat(64)).unwrap_err().kind(), "not-found");
}

#[test]
fn an_image_is_found_whatever_became_of_what_was_kept() {
    let world = world();
    let images = world.store.images().unwrap();
    world.store.list_images().unwrap();
    let path = world.path().join(KEPT[0]);
    let whole = fs::read(&path).unwrap();
    let lines: Vec<_> = whole.split_inclusive(|&byte| byte == b'\n').collect();
    for at in (0..whole.len()).step_by(67) {
        let mut changed = whole.clone();
        changed[at] ^= 1;
        let turned = lines.iter().rev().flat_map(|line| line.to_vec()).collect();
        for kept in [changed, whole[..at].to_vec(), turned] {
            fs::write(&path, kept).unwrap();
            for image in &images {
                for id in [image.id(), image.digest(), image.manifest_digest()] {
                    // Two forms of one image have one id.
                    assert_eq!(world.store.image(&id.hex()[..12]).unwrap().id(), image.id(), "at {at}");
                }
            }
        }
    }
}

#[test]
fn a_document_that_is_gone_or_cut_shows_in_a_list() {
    let world = world();
    let expected = listed(&world.store);
    let image = world.store.image("image:2").unwrap();
    for digest in [image.manifest_digest(), image.id()] {
        let path = world.path().join("oci/blobs/sha256").join(digest.hex());
        let whole = fs::read(&path).unwrap();
        for damaged in [Some(&whole[1..]), None] {
            match damaged {
                Some(bytes) => fs::write(&path, bytes).unwrap(),
                None => fs::remove_file(&path).unwrap(),
            }
            let list = world.store.list_images().unwrap();
            assert_eq!((list.len(), list.damaged().len()), (5, 1));
            assert_eq!(list.damaged()[0].names, image.names());
            assert!(world.store.image("image:2").is_err());
        }
        fs::write(&path, &whole).unwrap();
        assert_eq!(listed(&world.store), expected);
    }
}

#[test]
fn a_store_that_can_only_be_read_is_listed_and_left_alone() {
    let world = world();
    let expected = read(&world.store);
    let format = json!({"version": 1, "features": {"readOnlyCompatible": ["later"]}});
    fs::write(world.path().join("store.json"), format.to_string()).unwrap();
    let before = snapshot(world.path());
    let store = world.again();
    assert!(store.info().unwrap().read_only);
    assert_eq!(listed(&store), expected);
    store.image(&expected[0].id.hex()[..12]).unwrap();
    snapshot(world.path()).assert_same(&before, "a read-only store");
}

#[test]
fn what_is_kept_of_images_goes_with_the_last_of_them() {
    let world = world();
    for image in listed(&world.store) {
        assert!(KEPT.iter().all(|file| world.path().join(file).exists()));
        world.store.remove_image(&image.target.digest.to_string(), RemoveImage::Force).unwrap();
    }
    world.store.gc(&GcOptions::default()).unwrap();
    assert!(KEPT.iter().all(|file| !world.path().join(file).exists()));
}

#[test]
fn whose_image_it_is_is_known_of_many_containers_whatever_was_kept() {
    let world = world();
    let images: Vec<_> =
        (0..3).map(|number| world.store.image(&format!("image:{number}")).unwrap()).collect();
    for (number, image) in images.iter().enumerate() {
        world.store.tag(image, &format!("also:{number}").parse().unwrap()).unwrap();
    }
    let create = |number: usize| {
        let options = CreateOptions::named(format!("container-{number:02}"));
        world.store.create_container(&images[number % 2], &options).unwrap()
    };
    let mut containers: Vec<_> = (0..40).map(create).collect();
    let path = world.path().join("cache/containers");
    let check = |containers: &[Container], state: &str| {
        for image in &images {
            let of = |container: &&Container| container.manifest_digest() == image.manifest_digest();
            let mut expected: Vec<_> = containers.iter().filter(of).map(Container::name).collect();
            expected.sort_unstable();
            let refused = world.store.remove_image(&image.digest().to_string(), RemoveImage::Refuse);
            match refused.unwrap_err() {
                StoreError::ImageInUse { containers, .. } => assert_eq!(containers, expected, "{state}"),
                // So that it stays for the next look.
                StoreError::SeveralNames { .. } => assert!(expected.is_empty(), "{state}"),
                other => panic!("{state}: {other}"),
            }
        }
    };
    check(&containers, "nothing was kept");
    let whole = fs::read(&path).unwrap();
    check(&containers, "all was kept");
    for at in (0..whole.len()).step_by(199) {
        let mut changed = whole.clone();
        changed[at] ^= 1;
        for kept in [changed, whole[..at].to_vec()] {
            fs::write(&path, kept).unwrap();
            check(&containers, &format!("changed or cut at {at}"));
        }
    }
    containers.extend((40..45).map(create));
    check(&containers, "some are not kept yet");
    for container in containers.drain(..2) {
        container.remove(RemoveContainer::Refuse).unwrap();
    }
    check(&containers, "some are gone");
    let damaged = containers.remove(0);
    fs::write(world.path().join("containers").join(damaged.id()).join("container.json"), "{").unwrap();
    check(&containers, "one is damaged");
    world.store.remove_damaged_container(damaged.id(), RemoveContainer::Refuse).unwrap();
    for container in containers {
        container.remove(RemoveContainer::Refuse).unwrap();
    }
    check(&[], "none is left");
    world.store.gc(&GcOptions::default()).unwrap();
    assert!(!path.exists());
}

#[test]
fn names_that_another_tool_wrote_are_read_and_changed_in_whatever_form() {
    let world = world();
    let path = world.path().join("oci/index.json");
    let ours = fs::read(&path).unwrap();
    let value: Value = serde_json::from_slice(&ours).unwrap();
    let expected = read(&world.store);
    let mut turned = value.clone();
    turned["manifests"].as_array_mut().unwrap().reverse();
    for other in [value.to_string(), serde_json::to_string_pretty(&value).unwrap(), turned.to_string()] {
        fs::write(&path, &other).unwrap();
        assert_eq!(read(&world.store), expected);
        assert_eq!(fs::read_to_string(&path).unwrap(), other, "reading changes nothing");
        let (image, name) = (world.store.image("image:1").unwrap(), "new:1".parse::<Reference>().unwrap());
        world.store.tag(&image, &name).unwrap();
        world.store.untag(&name).unwrap();
        assert_eq!(fs::read(&path).unwrap(), ours, "equal names are written as equal bytes");
    }
    let names = world.store.image_names().unwrap();
    let names: Vec<_> = names.iter().map(Reference::familiar).collect();
    assert_eq!(names, ["image:0", "image:1", "image:2", "image:3", "other:1", "several:1"]);
}
