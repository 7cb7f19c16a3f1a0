//! What every driver promises.

use std::io::Write;
use std::path::Path;

use plywood::driver::{Driver, DriverError, DriverKind, Unmount, Writable, mounts::MountTable};
use plywood::fs::{Dir, Kind};
use plywood::path::LayerPath;
use plywood::stack::Stack;

use crate::common::privilege::{ALL, MOUNTING, Privilege, under, under_with_fuse};
use crate::fuse;
use crate::world::{World, assert_same, view, view_of};

fn keep_all(world: &World, driver: &dyn Driver) {
    a_root_shows_what_the_layers_say(world, driver);
    changes_stay_private_and_survive_unmounting(world, driver);
    an_empty_stack_is_an_empty_root(world, driver);
    what_was_prepared_is_removed_and_nothing_else(world, driver);
}

fn a_root_shows_what_the_layers_say(world: &World, driver: &dyn Driver) {
    let (layers, dir) = (world.layers(), world.root("shows"));
    let spec = world.prepared(driver, &layers, &dir, "plywood:shows");
    let root = driver.mount(&spec, None).unwrap();
    assert_same(&view_of(&root.dir), &view(&layers));
    assert_eq!(root.path, root.dir.path_of(""));
    end(driver, spec.source, root);
}

fn end(driver: &dyn Driver, source: &str, root: plywood::driver::Root) {
    drop(root.dir);
    if let Some(point) = root.point {
        driver.unmount(source, &point, Unmount::Clean).unwrap();
    }
    assert!(MountTable::read().unwrap().named(source).next().is_none());
    assert!(MountTable::read().unwrap().within(root.path).next().is_none());
}

/// Does in a root what containers do.
fn change(root: &Dir) {
    root.create_file("new", 0o644).unwrap().write_all(b"new").unwrap();
    root.remove_file("etc/deep/one").unwrap();
    root.remove_file("gone/back").unwrap();
    root.remove_dir("gone").unwrap();
    root.create_dir("gone", 0o700).unwrap();
    root.set_mode("setuid", 0o755).unwrap();
    root.create_file("gone/fresh", 0o644).unwrap();
    root.remove_file("replaced").unwrap();
}

fn changes_stay_private_and_survive_unmounting(world: &World, driver: &dyn Driver) {
    let layers = world.layers();
    let before = view(&layers);
    let (one, two) = (world.root("one"), world.root("two"));
    let (first, second) = (
        world.prepared(driver, &layers, &one, "plywood:one"),
        world.prepared(driver, &layers, &two, "plywood:two"),
    );
    let root = driver.mount(&first, None).unwrap();
    change(&root.dir);
    let changed = view_of(&root.dir);
    assert!(changed.contains_key("/new") && !changed.contains_key("/gone/back"));
    assert_same(&view(&layers), &before);

    let other = driver.mount(&second, None).unwrap();
    assert_same(&view_of(&other.dir), &before);
    end(driver, second.source, other);

    reads_back(&layers, driver, &one, &changed);
    end(driver, first.source, root);
    reads_back(&layers, driver, &one, &changed);
    let root = driver.mount(&first, None).unwrap();
    let (mut again, mut changed) = (view_of(&root.dir), changed);
    if driver.kind() == DriverKind::Fuse {
        without_parted_names(&mut again);
        without_parted_names(&mut changed);
    }
    assert_same(&again, &changed);
    end(driver, first.source, root);
}

/// Copying up one of two names makes two files of them, which overlayfs hides while mounted and fuse-overlayfs as long as
/// it remembers.
fn without_parted_names(view: &mut crate::world::View) {
    for name in ["/setuid", "/etc/setuid-too"] {
        view.remove(name);
    }
}

/// The private part tells the same story as the root, and for a copy what was not touched.
fn reads_back(layers: &Stack<'_>, driver: &dyn Driver, dir: &Dir, changed: &crate::world::View) {
    match driver.writable(dir).unwrap() {
        Writable::Upper(upper) => {
            let whole = Stack::new([&upper].into_iter().chain(layers.trees().iter().copied()));
            let mut seen = view(&whole);
            let mut expected = changed.clone();
            without_parted_names(&mut seen);
            without_parted_names(&mut expected);
            assert_same(&seen, &expected);
            assert!(driver.usage(dir).unwrap().inodes < 20);
        }
        Writable::Copied(copied) => {
            let path = |name: &str| LayerPath::parse(name).unwrap();
            let stat = |name: &str| copied.root.dir.stat(name).unwrap();
            for touched in ["new", "setuid", "etc/deep", "gone", "gone/fresh", "."] {
                assert!(!copied.is_untouched(&stat(touched)), "{touched}");
            }
            for untouched in ["etc", "etc/two", "link", "sparse", "opaque/three"] {
                assert!(copied.is_untouched(&stat(untouched)), "{untouched}");
            }
            assert!(copied.is_original(&path("etc/deep"), &stat("etc/deep")));
            assert!(copied.is_original(&LayerPath::ROOT, &stat(".")));
            assert!(!copied.is_original(&path("etc/other"), &stat("etc/deep")));
            assert!(driver.usage(dir).unwrap().allocated < 4 << 20, "the hole is gone");
        }
        other => panic!("{other:?}"),
    }
}

fn an_empty_stack_is_an_empty_root(world: &World, driver: &dyn Driver) {
    let (layers, dir) = (Stack::default(), world.root("empty"));
    let spec = world.prepared(driver, &layers, &dir, "plywood:empty");
    let root = driver.mount(&spec, None).unwrap();
    assert!(root.dir.names().unwrap().is_empty());
    assert_eq!(root.dir.stat(".").unwrap().mode, 0o755);
    root.dir.create_file("file", 0o644).unwrap();
    end(driver, spec.source, root);
}

fn what_was_prepared_is_removed_and_nothing_else(world: &World, driver: &dyn Driver) {
    let (layers, dir) = (world.layers(), world.root("removed-root"));
    dir.create_file("container.json", 0o644).unwrap();
    let spec = world.prepared(driver, &layers, &dir, "plywood:removed");
    let root = driver.mount(&spec, None).unwrap();
    change(&root.dir);
    match root.dir.create_dir("etc/forbidden", 0) {
        // fuse-overlayfs cannot open it either, and gives it up.
        Err(_) if driver.kind() == DriverKind::Fuse && !world.probe.privileged => {}
        made => made.unwrap(),
    }
    if let Some(point) = root.point {
        assert!(matches!(driver.remove(&dir), Err(DriverError::Mounted { .. })));
        assert!(root.dir.stat("new").is_ok());
        drop(root.dir);
        driver.unmount(spec.source, &point, Unmount::Clean).unwrap();
    }
    driver.remove(&dir).unwrap();
    driver.remove(&dir).unwrap();
    let names: Vec<_> = dir.names().unwrap().into_iter().map(|entry| entry.name).collect();
    assert_eq!(names, [b"container.json"]);
}

#[test]
fn overlay_keeps_its_promises() {
    under(MOUNTING, |_| {
        let world = World::new();
        keep_all(&world, &*world.driver(DriverKind::Overlay));
    });
}

#[test]
fn fuse_keeps_its_promises() {
    under_with_fuse(ALL, |_| {
        for program in fuse::trusted() {
            let world = World::with_fuse(&program);
            keep_all(&world, &*world.driver(DriverKind::Fuse));
        }
    });
}

#[test]
fn copy_keeps_its_promises() {
    under(ALL, |privilege| {
        let world = World::new();
        keep_all(&world, &*world.driver(DriverKind::Copy));
        if privilege == Privilege::Root {
            owners_devices_and_holes_are_copied(&world);
        }
    });
}

fn owners_devices_and_holes_are_copied(world: &World) {
    let dir = world.dir.open_dir("shows/root").unwrap();
    assert_eq!(dir.stat("null").unwrap().kind, Kind::CharDevice);
    assert_eq!(dir.stat("setuid").unwrap().uid, 1234);
    assert_eq!(dir.xattr(Path::new("etc"), "trusted.overlay.origin").unwrap(), None);
}
