//! From an archive to an image made of a container, with every privilege and every driver that it has.

use std::fs;

use plywood::driver::DriverKind;
use plywood::image::{ConfigChange, Reference};
use plywood::store::{CommitOptions, Container, ContainerState, CreateOptions, Mounted, RemoveContainer};

use crate::common::model;
use crate::common::privilege::{self, ALL, Privilege};
use crate::common::untar;
use crate::world::*;

/// Lives once for every driver that works with this privilege.
fn with_every_driver(privilege: Privilege, live: impl Fn(&World)) {
    drivers(privilege).iter().for_each(|&kind| live(&World::driver(kind)));
}

#[track_caller]
fn create(world: &World, name: &str) -> Container {
    let image = world.store.image("sample:1").unwrap_or_else(|_| world.load_image(&sample()));
    world
        .store
        .create_container(&image, &CreateOptions::named(name))
        .unwrap_or_else(|error| panic!("{}", chain(&error)))
}

#[track_caller]
fn mount(container: &Container) -> Mounted {
    container.mount().unwrap_or_else(|error| panic!("{}", chain(&error)))
}

#[test]
fn a_container_shows_and_tells_what_its_layers_say() {
    privilege::under_with_fuse(ALL, |privilege| {
        with_every_driver(privilege, |world| {
            let container = create(world, "one");
            let what = format!("{privilege:?}, {}", container.driver());
            let told = told(sample_tree().without_holes(), privilege);
            exported(&container).assert_same(&told, &format!("{what}: export at rest"));
            let mounted = mount(&container);
            let root = shown(sample_tree(), privilege, container.driver());
            seen(mounted.path()).assert_same(&root, &format!("{what}: root"));
            exported(&container).assert_same(&told, &format!("{what}: export while mounted"));
            assert_eq!(changes(&container), Vec::<String>::new());
            mounted.unmount().unwrap();
            assert_eq!(changes(&container), Vec::<String>::new());
        })
    });
}

#[test]
fn what_is_edited_is_told_and_nobody_else_sees_it() {
    privilege::under_with_fuse(ALL, |privilege| {
        with_every_driver(privilege, |world| {
            let (one, other) = (create(world, "one"), create(world, "other"));
            let what = format!("{privilege:?}, {}", one.driver());
            let mounted = mount(&one);
            let beside = mount(&other);
            edit(mounted.path());
            let untouched = shown(sample_tree(), privilege, one.driver());
            seen(beside.path()).assert_same(&untouched, &format!("{what}: the other"));
            assert_eq!(changes(&one), EDITS, "{what}, while mounted");
            assert_eq!(changes(&other), Vec::<String>::new());

            let root = seen(mounted.path());
            let tar = export(&one);
            held(tree_of(&tar), privilege)
                .assert_same(&root.clone().without_holes(), &format!("{what}: export"));
            mounted.unmount().unwrap();
            beside.unmount().unwrap();
            assert_eq!(changes(&one), EDITS, "{what}, at rest");
            assert!(export(&one) == tar, "{what}: the export at rest is another");
            let again = mount(&one);
            seen(again.path()).assert_same(&root, &format!("{what}: mounted again"));
        })
    });
}

#[test]
fn a_commit_shows_the_same_tree_and_tells_it() {
    privilege::under_with_fuse(ALL, |privilege| {
        with_every_driver(privilege, |world| {
            let (one, other) = (create(world, "one"), create(world, "other"));
            let what = format!("{privilege:?}, {}", one.driver());
            for container in [&one, &other] {
                edit(mount(container).path());
            }
            let options = CommitOptions::named(Reference::parse_familiar("edited").unwrap())
                .change("CMD [\"/bin/sh\"]".parse::<ConfigChange>().unwrap())
                .message("edited");
            let image = one.commit(&options).unwrap_or_else(|error| panic!("{}", chain(&error)));
            let mounted = mount(&other);
            let same = other.commit(&options).unwrap_or_else(|error| panic!("{}", chain(&error)));
            drop(mounted);
            // fuse-overlayfs touches the directories above what it copies up.
            if one.driver() != DriverKind::Fuse {
                assert_eq!(same.digest(), image.digest(), "{what}: equal containers, equal images");
            }

            let layer = blob(world, &image.manifest().layers[3].digest);
            let mut entries: Vec<_> = layers().iter().map(|layer| layer.entries()).collect();
            entries.push(untar::entries(&layer));
            let meant = model::stack(entries.iter().map(Vec::as_slice));
            exported(&one)
                .assert_same(&told(meant.without_holes(), privilege), &format!("{what}: the layer"));

            let third = world.store.create_container(&image, &CreateOptions::named("third")).unwrap();
            assert!(export(&third) == export(&one), "{what}: the export of the new container is another");
            let (first, third) = (mount(&one), mount(&third));
            // A layer holds zeros where a file had a hole.
            let shown = seen(first.path()).without_holes();
            seen(third.path()).without_holes().assert_same(&shown, &format!("{what}: the new container"));
        })
    });
}

#[test]
fn a_life_ends_with_an_empty_store() {
    privilege::under_with_fuse(ALL, |privilege| {
        with_every_driver(privilege, |world| {
            let container = create(world, "one");
            let mounted = mount(&container);
            edit(mounted.path());
            container.commit(&CommitOptions::default()).unwrap();
            let refused = container.clone().remove(RemoveContainer::Refuse);
            let refused = refused.unwrap_err().kind();
            if container.driver() == DriverKind::Copy {
                assert_eq!(refused, "container-in-use");
            } else {
                assert_eq!(refused, "container-mounted");
                assert!(matches!(container.state().unwrap(), ContainerState::Mounted(_)));
            }
            container.remove(RemoveContainer::Force).unwrap_or_else(|error| panic!("{}", chain(&error)));
            drop(mounted);
            for image in world.store.images().unwrap() {
                world.store.remove_image(&image.digest().to_string(), Default::default()).unwrap();
            }
            world.store.gc(&Default::default()).unwrap_or_else(|error| panic!("{}", chain(&error)));
            for dir in ["layers", "containers", "names", "staging", "oci/blobs/sha256"] {
                let left = names_in(&world.path().join(dir));
                assert!(left.is_empty(), "{privilege:?}: {dir}: {left:?}");
            }
        })
    });
}

fn blob(world: &World, digest: &plywood::digest::Digest) -> Vec<u8> {
    fs::read(world.path().join("oci/blobs/sha256").join(digest.hex())).unwrap()
}
