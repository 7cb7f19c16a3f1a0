//! Containers by name, and mounts that outlive whoever made them.

use std::collections::BTreeSet;
use std::fs;
use std::process::Command;

use plywood::driver::DriverKind;
use plywood::store::{Container, ContainerState, CreateOptions, RemoveContainer, Store};

use crate::common::privilege::{self, MOUNTING, Privilege};
use crate::common::run_command;
use crate::world::*;

fn names(store: &Store) -> Vec<String> {
    store.containers().unwrap().iter().map(|container| container.name().to_owned()).collect()
}

#[test]
fn a_container_is_found_by_name_by_id_and_by_the_beginning_of_its_id() {
    let world = World::driver(DriverKind::Copy);
    let image = world.load_image(&sample());
    let options = CreateOptions::named("web")
        .label("role", "front")
        .created(plywood::fs::Timestamp { seconds: 60, nanos: 0 });
    let web = world.store.create_container(&image, &options).unwrap();
    let other = world.store.create_container(&image, &CreateOptions::default()).unwrap();
    assert_eq!(web.id().len(), 64);
    assert_eq!(other.name(), &other.id()[..12]);
    for name in ["web", web.id(), &web.id()[..20]] {
        let found = world.again().container(name).unwrap();
        assert_eq!((found.id(), found.name()), (web.id(), "web"));
        assert_eq!(found.labels()["role"], "front");
        assert_eq!(found.created(), Some("1970-01-01T00:01:00Z"));
        assert_eq!((found.image_id(), found.image_name()), (image.id(), Some("sample:1")));
        assert_eq!((found.driver(), found.state().unwrap()), (DriverKind::Copy, ContainerState::Created));
    }
    let listed: BTreeSet<_> = names(&world.store).into_iter().collect();
    assert_eq!(listed, BTreeSet::from(["web".to_owned(), other.name().to_owned()]));
    for nothing in ["we", "webx", "", "..", "a/b", &"0".repeat(64), "WEB"] {
        let error = world.refuse(|store| store.container(nothing));
        assert_eq!(error.kind(), "not-found", "{nothing:?}: {}", chain(&error));
    }
    // Two ids that begin alike cannot be had to order: the records of one are enough.
    let twin = format!("{}{}", &web.id()[..40], "0".repeat(24));
    fs::create_dir(world.path().join("containers").join(&twin)).unwrap();
    let error = world.store.container(&web.id()[..40]).unwrap_err();
    assert_eq!(error.kind(), "ambiguous");
    assert!(chain(&error).contains(&twin) && chain(&error).contains(web.id()), "{}", chain(&error));
}

#[test]
fn a_name_belongs_to_one_container_at_a_time() {
    let world = World::driver(DriverKind::Copy);
    let image = world.load_image(&sample());
    let mut one = world.store.create_container(&image, &CreateOptions::named("one")).unwrap();
    let error = world.refuse(|store| store.create_container(&image, &CreateOptions::named("one")));
    assert_eq!(error.kind(), "name-in-use");
    assert!(chain(&error).contains("\"one\"") && chain(&error).contains(one.id()), "{}", chain(&error));

    one.rename("two").unwrap();
    assert_eq!((one.name(), names(&world.again())), ("two", vec!["two".to_owned()]));
    assert_eq!(world.refuse(|store| store.container("one")).kind(), "not-found");
    let mut other = world.store.create_container(&image, &CreateOptions::named("one")).unwrap();
    let error = world.refuse(|_| other.rename("two"));
    assert_eq!(error.kind(), "name-in-use");
    assert_eq!(other.name(), "one");
    other.rename("one").unwrap();

    // A handle from before finds its container by whatever it is called now, and knows when it is gone.
    let stale = one.clone();
    one.rename("three").unwrap();
    assert_eq!(changes(&stale), Vec::<String>::new());
    one.remove(RemoveContainer::Refuse).unwrap();
    assert_eq!(world.refuse(|_| stale.changes()).kind(), "not-found");
    assert_eq!(world.refuse(|_| stale.mount()).kind(), "not-found");
    assert_eq!(world.refuse(|_| stale.clone().remove(RemoveContainer::Force)).kind(), "not-found");
    assert_eq!(names(&world.store), ["one"]);
    assert_eq!(names_in(&world.path().join("names")), BTreeSet::from(["one".to_owned()]));
}

#[test]
fn names_that_docker_would_not_take_are_not_taken() {
    let world = World::driver(DriverKind::Copy);
    let image = world.load_image(&sample());
    let mut container = world.store.create_container(&image, &CreateOptions::named("Ok_1.2-3")).unwrap();
    let long = "x".repeat(201);
    let id = "0123456789abcdef".repeat(4);
    for name in ["", "x", "-x", ".x", "_x", "a b", "a/b", "..", "a\0b", "a\nb", "é", "naïve", &long, &id] {
        let error = world.refuse(|store| store.create_container(&image, &CreateOptions::named(name)));
        assert_eq!(error.kind(), "invalid-name", "{name:?}: {}", chain(&error));
        let error = world.refuse(|_| container.rename(name));
        assert_eq!(error.kind(), "invalid-name", "{name:?}: {}", chain(&error));
    }
    container.rename(&"x".repeat(200)).unwrap();
}

#[test]
fn a_name_that_a_crash_left_behind_is_free() {
    let world = World::driver(DriverKind::Copy);
    let image = world.load_image(&sample());
    let one = world.store.create_container(&image, &CreateOptions::named("one")).unwrap();
    // A rename reserves the new name first; this one went no further.
    fs::write(world.path().join("names/two"), one.id()).unwrap();
    assert_eq!(world.store.container("two").unwrap_err().kind(), "not-found");
    assert_eq!(names(&world.store), ["one"]);
    world.store.create_container(&image, &CreateOptions::named("two")).unwrap();
    assert_eq!(names(&world.store), ["one", "two"]);
    fs::write(world.path().join("names/three"), "0".repeat(64)).unwrap();
    let report = world.store.gc(&Default::default()).unwrap();
    assert_eq!(report.leftovers, 1);
    assert_eq!(names_in(&world.path().join("names")), ["one", "two"].map(String::from).into());
}

#[test]
fn a_mount_outlives_its_guard_and_its_process() {
    if let Some(root) = std::env::var_os(ELSEWHERE) {
        return elsewhere(options().open(root).unwrap());
    }
    privilege::under(MOUNTING, |_| {
        let world = World::driver(DriverKind::Overlay);
        let image = world.load_image(&sample());
        let container = world.store.create_container(&image, &CreateOptions::named("kept")).unwrap();
        let path = container.mount().unwrap().keep();
        assert_eq!(
            path,
            fs::canonicalize(world.path()).unwrap().join("containers").join(container.id()).join("merged")
        );
        fs::write(path.join("first"), "").unwrap();

        let again = world.again().container("kept").unwrap();
        assert_eq!(again.state().unwrap(), ContainerState::Mounted(path.clone()));
        let found = again.mounted().unwrap().unwrap();
        assert_eq!(found.path(), path);
        assert!(found.root().stat("first").is_ok());
        drop(found);
        let error = again.mount().unwrap_err();
        assert_eq!(error.kind(), "container-mounted");
        assert!(chain(&error).contains(path.to_str().unwrap()), "{}", chain(&error));

        // Another process finds it, works in it, ends it, and leaves it mounted again.
        in_another_process("containers::a_mount_outlives_its_guard_and_its_process", &world);
        assert_eq!(changes(&container), ["A /first", "A /second"]);
        assert_eq!(fs::read(path.join("second")).unwrap(), b"elsewhere");
        container.unmount().unwrap();
        assert_eq!(container.state().unwrap(), ContainerState::Created);
        assert_eq!(fs::read_dir(&path).unwrap().count(), 0);
        container.unmount().unwrap();
    });
}

/// What the other process does.
fn elsewhere(store: Store) {
    let container = store.container("kept").unwrap();
    let ContainerState::Mounted(path) = container.state().unwrap() else { panic!("it is not mounted here") };
    fs::write(path.join("second"), "elsewhere").unwrap();
    assert_eq!(changes(&container), ["A /first", "A /second"]);
    container.unmount().unwrap();
    container.mount().unwrap().keep();
}

/// Tells a copy of this binary where the store is.
pub const ELSEWHERE: &str = "PLYWOOD_TEST_STORE";

fn in_another_process(test: &str, world: &World) {
    let arguments = ["--exact", test, "--nocapture"];
    let binary = std::env::current_exe().unwrap();
    let done = run_command(Command::new(binary).args(arguments).env(ELSEWHERE, world.path()));
    assert!(String::from_utf8_lossy(&done.stdout).contains("1 passed"));
}

#[test]
fn a_root_in_use_stays_mounted_and_says_who_uses_it() {
    privilege::under(MOUNTING, |privilege| {
        let world = World::driver(DriverKind::Overlay);
        let image = world.load_image(&sample());
        let container = world.store.create_container(&image, &CreateOptions::named("busy")).unwrap();
        let mounted = container.mount().unwrap();
        let user = fs::File::open(mounted.path().join("etc/passwd")).unwrap();
        let refused = mounted.unmount().unwrap_err();
        assert_eq!(refused.source.kind(), "busy", "{privilege:?}: {}", chain(&refused));
        assert!(chain(&refused).contains(&std::process::id().to_string()), "{}", chain(&refused));
        let mounted = refused.mounted;
        assert!(mounted.root().stat("etc/passwd").is_ok());
        drop(user);
        mounted.unmount().unwrap();
        assert_eq!(container.state().unwrap(), ContainerState::Created);

        // Where it is mounted is the caller's choice.
        let elsewhere = world.beside("elsewhere");
        fs::create_dir(&elsewhere).unwrap();
        let mounted = container.mount_to(&elsewhere).unwrap();
        assert_eq!(mounted.path(), fs::canonicalize(&elsewhere).unwrap());
        assert!(elsewhere.join("etc/passwd").exists());
        drop(mounted);
        assert_eq!(fs::read_dir(&elsewhere).unwrap().count(), 0);

        // Removed by force it is gone, though its user still reads.
        let mounted = container.mount().unwrap();
        let user = fs::File::open(mounted.path().join("etc/passwd")).unwrap();
        drop(mounted.keep());
        let before = container.clone();
        assert_eq!(world.refuse(|_| before.remove(RemoveContainer::Refuse)).kind(), "container-mounted");
        container.remove(RemoveContainer::Force).unwrap();
        assert_eq!(std::io::read_to_string(user).unwrap(), "root:x:0:0\n");
        assert!(world.store.containers().unwrap().is_empty());
    });
}

#[test]
fn a_container_says_what_it_takes() {
    privilege::under(&[Privilege::Root], |_| {
        let sizes = [DriverKind::Overlay, DriverKind::Copy].map(|kind| {
            let world = World::driver(kind);
            let image = world.load_image(&sample());
            let container: Container =
                world.store.create_container(&image, &CreateOptions::default()).unwrap();
            let empty = container.size().unwrap();
            let mounted = container.mount().unwrap();
            fs::write(mounted.path().join("big"), vec![1; 1 << 20]).unwrap();
            let file = fs::File::open(mounted.path().join("big")).unwrap();
            file.sync_all().unwrap();
            drop(file);
            let grown = container.size().unwrap();
            assert!((1 << 20..(1 << 20) + 65536).contains(&(grown - empty)), "{kind}: {empty} then {grown}");
            empty
        });
        assert!(sizes[0] < 65536, "an empty container takes {} bytes", sizes[0]);
    });
}

#[test]
fn many_processes_get_a_name_each_or_none() {
    let world = World::driver(DriverKind::Copy);
    let image = world.load_image(&sample());
    let made: Vec<_> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..8)
            .map(|number| {
                let (store, image) = (world.again(), image.clone());
                let name = format!("name-{}", number % 2);
                scope.spawn(move || store.create_container(&image, &CreateOptions::named(name)))
            })
            .collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    let (made, refused): (Vec<_>, Vec<_>) = made.into_iter().partition(Result::is_ok);
    assert_eq!(made.len(), 2);
    assert!(refused.iter().all(|refused| refused.as_ref().is_err_and(|error| error.kind() == "name-in-use")));
    assert_eq!(names(&world.store), ["name-0", "name-1"]);
    assert!(names_in(&world.path().join("staging")).is_empty());
}

#[test]
fn a_container_that_nobody_can_read_is_in_the_way_of_no_other_and_goes_only_when_told_to() {
    privilege::under(&[Privilege::Root, Privilege::Plain], |privilege| {
        for &kind in drivers(privilege) {
            let world = World::driver(kind);
            let image = world.load_image(&sample());
            let create = |name| world.store.create_container(&image, &CreateOptions::named(name)).unwrap();
            let (cut, gone, whole) = (create("cut"), create("gone"), create("whole"));
            let path = |container: &Container| world.path().join("containers").join(container.id());
            fs::write(path(&cut).join("container.json"), "{\"version\":1,").unwrap();
            fs::remove_file(path(&gone).join("container.json")).unwrap();

            let found = world.store.containers().unwrap();
            assert_eq!(found.iter().map(Container::name).collect::<Vec<_>>(), ["whole"]);
            let damaged: BTreeSet<_> =
                found.damaged().iter().map(|one| (&*one.id, one.name.as_deref())).collect();
            assert_eq!(damaged, BTreeSet::from([(cut.id(), Some("cut")), (gone.id(), Some("gone"))]));
            assert!(found.damaged().iter().all(|one| one.error.kind() == "damaged"));
            assert_eq!(whole.mount().unwrap().unmount().unwrap().name(), "whole");
            for name in ["cut", cut.id(), gone.id()] {
                assert_eq!(world.store.container(name).unwrap_err().kind(), "damaged", "{name}");
            }
            // What they need cannot be known, so nothing is collected; what they wrote stays.
            assert_eq!(world.refuse(|store| store.gc(&Default::default())).kind(), "damaged");
            let refused =
                world.refuse(|store| store.remove_damaged_container("whole", RemoveContainer::Force));
            assert_eq!(refused.kind(), "not-found");
            world.store.remove_damaged_container("cut", RemoveContainer::Refuse).unwrap();
            world.store.remove_damaged_container(&gone.id()[..20], RemoveContainer::Force).unwrap();
            assert_eq!(names_in(&world.path().join("names")), BTreeSet::from(["whole".to_owned()]));
            assert_eq!(names_in(&world.path().join("containers")), BTreeSet::from([whole.id().to_owned()]));
            world.store.gc(&Default::default()).unwrap();
        }
    });
}

#[test]
fn a_damaged_container_that_is_mounted_is_unmounted_when_it_is_removed_by_force() {
    privilege::under(MOUNTING, |privilege| {
        for &kind in drivers(privilege).iter().filter(|kind| **kind != DriverKind::Copy) {
            let world = World::driver(kind);
            let image = world.load_image(&sample());
            let container = world.store.create_container(&image, &CreateOptions::named("used")).unwrap();
            let path = container.mount().unwrap().keep();
            fs::write(world.path().join("containers").join(container.id()).join("container.json"), "")
                .unwrap();
            let error = world.refuse(|store| store.remove_damaged_container("used", RemoveContainer::Refuse));
            assert_eq!(error.kind(), "container-mounted", "{}", chain(&error));
            world.store.remove_damaged_container("used", RemoveContainer::Force).unwrap();
            assert!(!path.exists());
            assert!(names_in(&world.path().join("containers")).is_empty());
        }
    });
}
