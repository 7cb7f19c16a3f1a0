//! Containers made of containers; labels, metadata and size; and many containers at the same time.

use std::collections::BTreeSet;
use std::fs;
use std::process::Command;

use plywood::driver::DriverKind;
use plywood::store::{ContainerState, CreateOptions, RemoveContainer, Store};

use crate::common::privilege::{self, ALL};
use crate::containers::ELSEWHERE;
use crate::world::*;

#[test]
fn a_clone_is_what_its_original_was_and_goes_its_own_way() {
    privilege::under(ALL, |privilege| {
        for &kind in drivers(privilege) {
            let world = World::driver(kind);
            let image = world.load_image(&sample());
            let options = CreateOptions::named("one").label("role", "front").metadata("engine", "{\"a\":1}");
            let one = world.store.create_container(&image, &options).unwrap();
            let mounted = one.mount().unwrap();
            edit(mounted.path());
            // Names of one file, of which the clone must not make two.
            fs::write(mounted.path().join("new-file"), vec![7; 10_000]).unwrap();
            fs::hard_link(mounted.path().join("new-file"), mounted.path().join("new-name")).unwrap();
            let root = seen(mounted.path());
            mounted.unmount().unwrap();
            let (told, tar) = (changes(&one), export(&one));

            let what = format!("{privilege:?}, {kind}");
            let two = one
                .clone_as(&CreateOptions::named("two").label("role", "back"))
                .unwrap_or_else(|error| panic!("{what}: {}", chain(&error)));
            assert_eq!((two.name(), two.labels()["role"].as_str()), ("two", "back"), "{what}");
            assert_eq!((two.metadata()["engine"].as_str(), two.image_id()), ("{\"a\":1}", one.image_id()));
            assert_eq!(two.driver(), kind);
            assert_eq!(changes(&two), told, "{what}");
            assert!(export(&two) == tar, "{what}: the clone's export is another");
            assert_eq!(two.usage().unwrap().inodes, one.usage().unwrap().inodes, "{what}");

            let mounted = two.mount().unwrap();
            seen(mounted.path()).assert_same(&root, &format!("{what}: the clone's root"));
            fs::remove_file(mounted.path().join("new-name")).unwrap();
            fs::write(mounted.path().join("new-file"), "other").unwrap();
            mounted.unmount().unwrap();
            assert!(export(&one) == tar, "{what}: the original changed with its clone");
            let gone: Vec<_> = told.iter().filter(|line| !line.contains("new-name")).cloned().collect();
            assert_eq!(changes(&two), gone, "{what}");

            // And once more, of the clone; the original need not be there.
            one.remove(RemoveContainer::Refuse).unwrap();
            let three = two.clone_as(&CreateOptions::default()).unwrap();
            assert_eq!(changes(&three), gone, "{what}");
        }
    });
}

#[test]
fn a_container_in_use_is_not_cloned_and_a_name_in_use_is_not_given() {
    privilege::under(privilege::MOUNTING, |_| {
        let world = World::driver(DriverKind::Overlay);
        let image = world.load_image(&sample());
        let one = world.store.create_container(&image, &CreateOptions::named("one")).unwrap();
        let mounted = one.mount().unwrap();
        let error = one.clone_as(&CreateOptions::named("two")).unwrap_err();
        assert_eq!(error.kind(), "container-mounted", "{}", chain(&error));
        mounted.unmount().unwrap();
        let error = world.refuse(|_| one.clone_as(&CreateOptions::named("one")));
        assert_eq!(error.kind(), "name-in-use");
    });
}

#[test]
fn labels_and_metadata_change_in_one_step_and_no_change_is_lost() {
    let world = World::driver(DriverKind::Copy);
    let image = world.load_image(&sample());
    let options = CreateOptions::named("one").label("kept", "yes").metadata("count", "0");
    let container = world.store.create_container(&image, &options).unwrap();
    std::thread::scope(|scope| {
        for _ in 0..4 {
            let mut own = container.clone();
            scope.spawn(move || {
                for _ in 0..25 {
                    let count = |text: &str| text.parse::<u32>().unwrap();
                    own.update(|notes| {
                        let next = count(&notes.metadata["count"]) + 1;
                        notes.metadata.insert("count".to_owned(), next.to_string());
                        notes.labels.remove("nothing");
                    })
                    .unwrap();
                }
            });
        }
        let mut named = container.clone();
        scope.spawn(move || {
            for number in 0..20 {
                named.rename(&format!("name{number}")).unwrap();
            }
        });
    });
    let found = world.again().container(container.id()).unwrap();
    assert_eq!((found.name(), found.metadata()["count"].as_str()), ("name19", "100"));
    assert_eq!(found.labels()["kept"], "yes");
}

#[test]
fn the_size_of_a_container_is_what_was_changed_in_it() {
    privilege::under(privilege::MOUNTING, |_| {
        let world = World::driver(DriverKind::Overlay);
        let image = world.load_image(&sample());
        let container = world.store.create_container(&image, &CreateOptions::named("one")).unwrap();
        assert_eq!(container.usage().unwrap().inodes, 0);
        let mounted = container.mount().unwrap();
        fs::create_dir(mounted.path().join("new")).unwrap();
        fs::write(mounted.path().join("new/file"), vec![1; 100_000]).unwrap();
        fs::hard_link(mounted.path().join("new/file"), mounted.path().join("new/name")).unwrap();
        let usage = container.usage().unwrap();
        assert_eq!((usage.inodes, usage.content), (2, 100_000));
        assert!(usage.allocated >= 100_000 && container.size().unwrap() == usage.allocated);
    });
}

/// The lives that one thread leads, all in one store.
fn lives(store: &Store, who: &str) {
    let image = store.image("sample:1").unwrap();
    for number in 0..5 {
        let name = format!("{who}-{number}");
        let container = store.create_container(&image, &CreateOptions::named(&name)).unwrap();
        let mounted = container.mount().unwrap_or_else(|error| panic!("{}", chain(&error)));
        fs::write(mounted.path().join("written"), &name).unwrap();
        assert_eq!(store.container(&name).unwrap().id(), container.id());
        let container = mounted.unmount().unwrap_or_else(|error| panic!("{}", chain(&error)));
        assert_eq!(changes(&container), ["C /", "A /written"].map(String::from)[1..]);
        assert_eq!(container.state().unwrap(), ContainerState::Created);
        container.remove(RemoveContainer::Refuse).unwrap();
        if number == 2 {
            store.gc(&Default::default()).unwrap();
        }
    }
}

#[test]
fn many_containers_live_at_the_same_time_in_threads_and_in_processes() {
    if let Some(root) = std::env::var_os(ELSEWHERE) {
        return lives(&options().open(root).unwrap(), &format!("process{}", std::process::id()));
    }
    privilege::under(ALL, |privilege| {
        for &kind in drivers(privilege) {
            let world = World::driver(kind);
            world.load_image(&sample());
            std::thread::scope(|scope| {
                for thread in 0..4 {
                    let store = &world.store;
                    scope.spawn(move || lives(store, &format!("thread{thread}")));
                }
                let processes: Vec<_> = (0..3).map(|_| elsewhere(&world)).collect();
                for process in processes {
                    let output = process.wait_with_output().unwrap();
                    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
                }
            });
            assert!(world.store.containers().unwrap().is_empty());
            for dir in ["containers", "names", "staging"] {
                assert_eq!(
                    names_in(&world.path().join(dir)),
                    BTreeSet::new(),
                    "{privilege:?}, {kind}: {dir}"
                );
            }
            world.store.image("sample:1").unwrap();
        }
    });
}

/// This test once more, in a process of its own that only leads lives.
fn elsewhere(world: &World) -> std::process::Child {
    Command::new(std::env::current_exe().unwrap())
        .args([
            "--exact",
            "clones::many_containers_live_at_the_same_time_in_threads_and_in_processes",
            "--nocapture",
        ])
        .env(ELSEWHERE, world.path())
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::inherit())
        .spawn()
        .unwrap()
}
