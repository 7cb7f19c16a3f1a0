//! A store whose list of names is at its limit, or beyond it.

use std::fs;

use plywood::archive::SaveOptions;
use plywood::driver::DriverKind;
use plywood::image::Reference;
use plywood::limits::Limits;
use plywood::store::{LoadOptions, StoreError};
use serde_json::json;

use crate::common::image::{Layout, image};
use crate::common::tar::tar;
use crate::world::*;

fn name(number: usize) -> Reference {
    Reference::parse_familiar(&format!("quay.io/some-team/builds:{number:06}")).unwrap()
}

/// A layout of one image with this many names.
fn named(count: usize) -> Layout {
    let mut layout = Layout::of(&image().layer(tar().file("etc", "content").finish()));
    let mut entry = layout.index["manifests"][0].clone();
    let entries = (0..count).map(|number| {
        entry["annotations"] = json!({"io.containerd.image.name": name(number).canonical()});
        entry.clone()
    });
    layout.index["manifests"] = entries.collect();
    layout
}

#[test]
fn a_store_at_the_limit_of_names_refuses_the_next_and_can_be_read_by_every_reader() {
    let limit = Limits::default().images;
    let world = World::driver(DriverKind::Copy);
    let image = world.load(named(limit).oci_archive());
    assert_eq!(image.names().len(), limit);
    let index = world.path().join("oci/index.json");
    let before = fs::read(&index).unwrap();

    let error = world.store.tag(&image, &name(limit)).unwrap_err();
    assert!(
        matches!(&error, StoreError::TooManyNames { limit: "images", found, maximum, .. }
            if (*found, *maximum) == (limit as u64 + 1, limit as u64)),
        "{error:?}"
    );
    assert_eq!(error.kind(), "limit");
    assert!(error.to_string().contains(index.to_str().unwrap()), "{error}");
    let other = Layout::of(&crate::common::image::image().layer(tar().file("other", "").finish()));
    let error = world.store.load(&other.oci_archive()[..], &LoadOptions::default()).unwrap_err();
    assert!(matches!(error, StoreError::TooManyNames { .. }), "{error:?}");
    assert_eq!(fs::read(&index).unwrap(), before);

    // Its own layout, and a copy of all that it has, are read as any other.
    let copy = World::driver(DriverKind::Copy);
    let loaded = copy.store.load_directory(world.path().join("oci"), &LoadOptions::default()).unwrap();
    assert_eq!(loaded[0].names.len(), limit);
    let saved = copy.beside("saved");
    copy.store
        .save_directory(&[copy.store.image(&name(0).canonical()).unwrap()], &saved, &SaveOptions::default())
        .unwrap();
    let loaded = copy.store.load_directory(&saved, &LoadOptions::default()).unwrap();
    assert_eq!(loaded[0].names.len(), limit);

    world.store.untag(&name(7)).unwrap();
    world.store.tag(&image, &name(limit)).unwrap();
    assert!(world.store.tag(&image, &name(7)).is_err());
}

#[test]
fn a_longer_list_of_an_older_version_is_read_and_can_become_shorter() {
    let limit = Limits::default().images;
    let world = World::driver(DriverKind::Copy);
    let image = world.load(named(1).oci_archive());
    let index = world.path().join("oci/index.json");
    let text = fs::read_to_string(&index).unwrap();
    let line = text.lines().nth(1).unwrap();
    let lines: Vec<_> =
        (0..limit + 3).map(|number| line.replace("builds:000000", &format!("builds:{number:06}"))).collect();
    fs::write(&index, text.replace(line, &lines.join(",\n"))).unwrap();

    assert_eq!(world.store.image(&name(0).canonical()).unwrap().names().len(), limit + 3);
    let is_refused =
        || matches!(world.store.tag(&image, &name(999_999)), Err(StoreError::TooManyNames { .. }));
    for number in 0..3 {
        assert!(is_refused());
        // A name that is there is no more than there was.
        assert_eq!(world.store.tag(&image, &name(limit)).unwrap(), None);
        world.store.untag(&name(number)).unwrap();
    }
    assert!(is_refused());
    world.store.untag(&name(3)).unwrap();
    assert!(!is_refused());
}

#[test]
fn low_limits_for_archives_are_none_for_the_names_of_the_store() {
    let mut limits = Limits::default();
    (limits.images, limits.list_bytes) = (2, 2000);
    let world = World::with(&options().limits(limits));
    let image = world.load(named(2).oci_archive());
    for number in 2..20 {
        world.store.tag(&image, &name(number)).unwrap();
    }
    assert_eq!(world.store.image(&name(0).canonical()).unwrap().names().len(), 20);
    let error = world.store.load(&named(3).oci_archive()[..], &LoadOptions::default()).unwrap_err();
    assert!(matches!(error, StoreError::Load(_)), "{error:?}");
}
