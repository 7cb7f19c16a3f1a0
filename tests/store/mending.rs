//! Repairs and checks of what is not as simple as one layer that nobody looks at.

use std::fs;
use std::path::PathBuf;
use std::sync::Barrier;
use std::sync::atomic::{AtomicBool, Ordering};

use plywood::driver::DriverKind;
use plywood::store::{
    CheckOptions, CheckReport, CheckStage, Container, CreateOptions, GcOptions, Outcome, RemoveContainer,
    RepairOptions, RepairReport, Store,
};

use crate::common::image::{Compression, ImageSpec, Layout, image};
use crate::common::privilege::{self, ALL, Privilege};
use crate::common::tar::tar;
use crate::world::*;

fn spec() -> ImageSpec {
    let base = tar().dir("etc").file("etc/passwd", "root").mode(0o640).symlink("link", "etc");
    let base = (0..50).fold(base, |tar, number| tar.file(format!("etc/{number}"), vec![7; 3000]));
    image()
        .compressed(base.finish(), Compression::Gzip)
        .layer(tar().link("bound", "etc/passwd").file("own", "own").finish())
        .name("docker.io/library/one:1")
}

fn deep(store: &Store) -> CheckReport {
    let mut options = CheckOptions::default();
    options.deep = true;
    store.check(&options).unwrap_or_else(|error| panic!("{}", chain(&error)))
}

fn said(report: &CheckReport) -> Vec<String> {
    report.damages.iter().map(ToString::to_string).collect()
}

fn repaired(store: &Store) -> RepairReport {
    store.repair(&RepairOptions::default()).unwrap_or_else(|error| panic!("{}", chain(&error)))
}

/// Files of this name in the unpacked layers.
fn in_layers(world: &World, is_meant: impl Fn(&str) -> bool, file: &str) -> Vec<PathBuf> {
    let layers = world.path().join("layers");
    let meant = names_in(&layers).into_iter().filter(|name| is_meant(name));
    meant.map(|name| layers.join(name).join("tree").join(file)).filter(|file| file.is_file()).collect()
}

/// The base layer's file.
fn passwd(world: &World) -> PathBuf {
    in_layers(world, |name| name.starts_with("sha256"), "etc/passwd").remove(0)
}

#[test]
fn what_was_merged_of_many_layers_is_compared_and_mended() {
    privilege::under(&[Privilege::Root], |_| {
        in_memory();
        let world = World::driver(DriverKind::Overlay);
        let many = (0..501).fold(image(), |image, number| {
            image.layer(tar().dir("d").file(format!("d/{number}"), number.to_string()).finish())
        });
        let image = world.load_image(&many.name("docker.io/library/many:1"));
        let container = world.store.create_container(&image, &CreateOptions::named("many")).unwrap();
        let whole = deep(&world.store);
        assert_eq!((said(&whole), whole.compared), (vec![], whole.layers));
        let merged = |file: &str| in_layers(&world, |name| name.starts_with("merged"), file);
        let damaged = merged("d/0");
        assert_eq!(damaged.len(), 1);
        // A new file, as a merged one may have its inode in common with the layer that it is of.
        fs::remove_file(&damaged[0]).unwrap();
        fs::write(&damaged[0], "x").unwrap();
        let mounted = container.mount().unwrap();
        let found = said(&deep(&world.store));
        assert!(found.len() == 1 && found[0].contains("merged-") && found[0].contains("d/0"), "{found:?}");
        let report = repaired(&world.store);
        assert!(report.is_whole() && report.kept == 1 && report.repaired.len() == 1, "{report:?}");
        assert_eq!(fs::read_to_string(mounted.path().join("d/0")).unwrap(), "x");
        let container = mounted.unmount().unwrap();
        assert_eq!(fs::read_to_string(container.mount().unwrap().path().join("d/0")).unwrap(), "0");
        world.store.gc(&GcOptions::default()).unwrap();
        let whole = deep(&world.store);
        assert_eq!((said(&whole), whole.compared), (vec![], whole.layers));
    });
}

/// What a container holds in the file, as its root shows it.
fn shown(container: &Container) -> String {
    let mounted = container.mount().unwrap_or_else(|error| panic!("{}", chain(&error)));
    let content = fs::read_to_string(mounted.path().join("etc/passwd")).unwrap();
    mounted.unmount().unwrap();
    content
}

#[test]
fn a_layer_is_mended_in_the_middle_of_which_others_load_mount_and_collect() {
    privilege::under(ALL, |privilege| {
        for &kind in drivers(privilege) {
            let world = World::driver(kind);
            let archive = Layout::of(&spec()).oci_archive();
            let image = world.load(&archive);
            let busy = world.store.create_container(&image, &CreateOptions::named("busy")).unwrap();
            let expected = exported(&busy);
            let file = passwd(&world);
            fs::write(&file, "toor").unwrap();
            let others = world.again();
            let done = AtomicBool::new(false);
            let meanwhile = |stage, _, _| {
                if stage != CheckStage::Layers || done.swap(true, Ordering::Relaxed) {
                    return;
                }
                load(&others, &archive);
                let new = others.create_container(&image, &CreateOptions::named("new")).unwrap();
                shown(&new);
                new.remove(RemoveContainer::Refuse).unwrap();
                shown(&others.container("busy").unwrap());
                others.gc(&GcOptions::default()).unwrap();
            };
            let mut how = RepairOptions::default();
            how.progress = Some(&meanwhile);
            let report = world.store.repair(&how).unwrap_or_else(|error| panic!("{}", chain(&error)));
            assert!(done.load(Ordering::Relaxed));
            assert!(report.is_whole(), "{privilege:?}, {kind}: {report:?}");
            assert_eq!(said(&deep(&world.store)), Vec::<String>::new(), "{privilege:?}, {kind}");
            exported(&world.store.container("busy").unwrap()).assert_same(&expected, "busy");
            assert_eq!(fs::read_to_string(passwd(&world)).unwrap(), "root");
        }
    });
}

#[test]
fn repairs_loads_mounts_and_collections_do_not_hurt_each_other() {
    privilege::under(&[Privilege::Root], |_| {
        let world = World::driver(DriverKind::Overlay);
        let archive = Layout::of(&spec()).oci_archive();
        let image = world.load(&archive);
        let busy = world.store.create_container(&image, &CreateOptions::named("busy")).unwrap();
        let expected = exported(&busy);
        for round in 0..4 {
            fs::write(passwd(&world), "toor").unwrap();
            let start = Barrier::new(5);
            let (world, archive, start) = (&world, &archive, &start);
            let together = |what: fn(&Store, &[u8])| {
                move || {
                    let store = world.again();
                    start.wait();
                    what(&store, archive);
                }
            };
            std::thread::scope(|scope| {
                scope.spawn(together(|store, _| drop(repaired(store))));
                scope.spawn(together(|store, _| drop(repaired(store))));
                scope.spawn(together(|store, archive| drop(load(store, archive))));
                scope.spawn(together(|store, _| {
                    let content = shown(&store.container("busy").unwrap());
                    assert!(["root", "toor"].contains(&&*content), "{content}");
                }));
                scope.spawn(together(|store, _| drop(store.gc(&GcOptions::default()).unwrap())));
            });
            assert_eq!(said(&deep(&world.store)), Vec::<String>::new(), "round {round}");
            exported(&world.store.container("busy").unwrap()).assert_same(&expected, "busy");
        }
        world.store.gc(&GcOptions::default()).unwrap();
        let left = names_in(&world.path().join("layers"));
        assert!(left.iter().all(|name| !name.starts_with("replaced-")), "{left:?}");
    });
}

#[test]
fn a_read_only_store_is_checked_with_its_layers() {
    let world = World::driver(DriverKind::Copy);
    let image = world.load_image(&spec());
    world.store.create_container(&image, &CreateOptions::named("web")).unwrap();
    fs::write(passwd(&world), "toor").unwrap();
    // Of a version that we may read and not change.
    let format = world.path().join("store.json");
    let json = fs::read_to_string(&format).unwrap();
    let json = json.replace("\"readOnlyCompatible\":[]", "\"readOnlyCompatible\":[\"later\"]");
    fs::write(&format, json).unwrap();
    let store = world.again();
    assert!(store.info().unwrap().read_only);
    let before = world.state();
    let with = deep(&store);
    // The upper layer links to a file of the damaged one, so nothing can be said of it.
    assert_eq!((with.compared, with.skipped.len()), (1, 1));
    assert!(with.skipped[0].contains("depends on layers below it"), "{:?}", with.skipped);
    let found = said(&with);
    assert!(found[0].contains("etc/passwd\" has another content"), "{found:?}");
    let error = store.repair(&RepairOptions::default()).unwrap_err();
    assert_eq!(error.kind(), "read-only", "{}", chain(&error));
    world.state().assert_same(&before, "after a check of a read-only store");
}

#[test]
fn what_a_disk_fails_to_give_once_is_not_replaced_by_less() {
    let world = World::driver(DriverKind::Copy);
    let image = world.load_image(&spec());
    let container = world.store.create_container(&image, &CreateOptions::named("web")).unwrap();
    let blob = world.path().join("oci/blobs/sha256").join(image.manifest().layers[0].digest.hex());
    let whole = fs::read(&blob).unwrap();
    let mut flipped = whole.clone();
    *flipped.last_mut().unwrap() ^= 1;
    fs::write(&blob, flipped).unwrap();
    // By the time that it is to be taken away it is whole: somebody loaded it.
    let again = |stage, _, _| {
        if stage == CheckStage::Layers {
            fs::write(&blob, &whole).unwrap();
        }
    };
    let mut how = RepairOptions::default();
    how.progress = Some(&again);
    let report = world.store.repair(&how).unwrap();
    let one = report.repaired.iter().find(|one| one.kind == "blob").unwrap();
    assert!(one.outcome == Outcome::Mended && one.message.contains("second look"), "{one}");
    assert!(blob.exists());
    exported(&container);
}
