//! Several users of one machine: who may read and write a store, and which containers are in use.

use std::fs;
use std::io::Write as _;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use plywood::driver::{DriverKind, Processes};
use plywood::store::{
    Container, ContainerState, CreateOptions, DriverChoice, PruneOptions, RemoveContainer, SaveOptions,
    Store, StoreError,
};

use crate::common::privilege::{self, ALL, Privilege};
use crate::common::{have, scratch};
use crate::world::*;

fn mode(path: impl AsRef<Path>) -> u32 {
    fs::symlink_metadata(path).unwrap().permissions().mode() & 0o7777
}

/// Everything in `dir` that the store makes by itself: trees of layers and roots have the modes of their images.
fn own(dir: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).unwrap_or_else(|error| panic!("{dir:?}: {error}")) {
        let entry = entry.unwrap();
        let path = entry.path();
        found.push(path.clone());
        let images = ["tree", "upper", "root", "merged", "top", "work"];
        if entry.file_type().unwrap().is_dir() && !images.iter().any(|name| entry.file_name() == *name) {
            found.extend(own(&path));
        }
    }
    found
}

#[test]
fn the_umask_neither_opens_nor_locks_what_the_store_makes() {
    privilege::under(ALL, |privilege| {
        for umask in [0, 0o022, 0o077, 0o777, 0o277] {
            rustix::process::umask(rustix::fs::Mode::from_raw_mode(umask));
            for &kind in drivers(privilege) {
                let temp = scratch();
                let path = temp.path().join("above/store");
                let options = options().driver(DriverChoice::Only(kind));
                let store = options.create(&path).unwrap_or_else(|error| panic!("{}", chain(&error)));
                let archive = crate::common::image::Layout::of(&sample()).oci_archive();
                let image = load(&store, archive);
                let container = store.create_container(&image, &CreateOptions::named("one")).unwrap();
                let mounted = container.mount().unwrap();
                let at = format!("{privilege:?}, {kind}, umask {umask:o}");
                seen(mounted.path()).assert_same(&held(sample_tree(), privilege), &at);
                mounted.root().make_file("new", 0o644).unwrap().write_all(b"new").unwrap();
                mounted.unmount().unwrap();
                container.commit(&Default::default()).unwrap();
                container.clone_as(&CreateOptions::named("two")).unwrap();
                store
                    .save_directory(&[image], temp.path().join("far/saved"), &SaveOptions::default())
                    .unwrap();
                // Another process finds all of it.
                let again = options.open(&path).unwrap();
                assert_eq!(again.containers().unwrap().len(), 2, "{at}");
                assert!(again.check(&Default::default()).unwrap().damages.is_empty(), "{at}");
                again.gc(&Default::default()).unwrap();

                for dir in ["above", "far", "far/saved", "far/saved/blobs"] {
                    assert_eq!(mode(temp.path().join(dir)), 0o755, "{dir}, {at}");
                }
                assert_eq!(mode(&path), 0o700, "{at}");
                for file in ["store.json", "oci/index.json", "oci/oci-layout"] {
                    assert_eq!(mode(path.join(file)), 0o644, "{file}, {at}");
                }
                for found in own(&path).into_iter().chain(own(&temp.path().join("far/saved"))) {
                    let kind = fs::symlink_metadata(&found).unwrap();
                    let (least, most) = if kind.is_dir() { (0o700, 0o755) } else { (0o600, 0o644) };
                    let mode = mode(&found);
                    assert_eq!((mode & least, mode & !most), (least, 0), "{found:?} has mode {mode:o}, {at}");
                }
                for blob in fs::read_dir(path.join("oci/blobs/sha256")).unwrap() {
                    assert_eq!(mode(blob.unwrap().path()), 0o644, "{at}");
                }
                rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o022));
                container.remove(RemoveContainer::Refuse).unwrap();
            }
        }
    });
}

#[test]
fn a_new_store_is_closed_to_others_unless_it_is_shared() {
    let temp = scratch();
    let path = |name: &str| temp.path().join(name);
    for name in ["made", "found"] {
        for shared in [false, true] {
            let path = path(&format!("{name}-{shared}"));
            if name == "found" {
                fs::create_dir(&path).unwrap();
                fs::set_permissions(&path, fs::Permissions::from_mode(0o750)).unwrap();
            }
            options().shared(shared).ensure(&path).unwrap();
            assert_eq!(mode(&path), if shared { 0o755 } else { 0o700 }, "{path:?}");
            assert_eq!(mode(path.join("layers")), 0o700);
            // A store that is there keeps the mode that its owner gave it.
            fs::set_permissions(&path, fs::Permissions::from_mode(0o711)).unwrap();
            options().shared(!shared).ensure(&path).unwrap();
            options().shared(!shared).open(&path).unwrap();
            assert_eq!(mode(&path), 0o711);
        }
    }
}

/// Tells a copy of this binary which stores to read.
const STORES: &str = "PLYWOOD_TEST_STORES";

#[test]
fn another_user_reads_a_shared_store_and_is_told_of_a_closed_one() {
    if let Some(path) = std::env::var_os(STORES) {
        return read_as_another_user(Path::new(&path));
    }
    privilege::under(&[Privilege::Root], |_| {
        if !have(&["setpriv"]) {
            return;
        }
        let temp = scratch();
        for shared in [false, true] {
            let store = options().shared(shared).create(temp.path().join(format!("{shared}"))).unwrap();
            load(&store, crate::common::image::Layout::of(&sample()).oci_archive());
        }
        let home = scratch();
        std::os::unix::fs::chown(home.path(), Some(61_234), Some(61_234)).unwrap();
        let binary = home.path().join("reader");
        fs::copy(std::env::current_exe().unwrap(), &binary).unwrap();
        let test = "users::another_user_reads_a_shared_store_and_is_told_of_a_closed_one";
        let done = crate::common::run_command(
            Command::new("setpriv")
                .args(["--reuid=61234", "--regid=61234", "--clear-groups"])
                .arg(&binary)
                .args(["--exact", test, "--nocapture"])
                .env(STORES, temp.path())
                .env("TMPDIR", home.path()),
        );
        assert!(String::from_utf8_lossy(&done.stdout).contains("1 passed"));
    });
}

fn read_as_another_user(stores: &Path) {
    let closed = stores.join("false");
    for error in [Store::open(&closed).unwrap_err(), Store::ensure(&closed).unwrap_err()] {
        assert!(matches!(&error, StoreError::Closed { path, .. } if *path == closed), "{error:?}");
        assert_eq!(error.kind(), "permission");
        assert!(error.to_string().contains("--shared"), "{error}");
    }
    assert!(fs::read(closed.join("oci/index.json")).is_err());
    fs::read(stores.join("true/oci/index.json")).unwrap();

    let temp = scratch();
    let borrower = options().additional(&closed).additional(stores.join("true"));
    let store = borrower.create(temp.path().join("store")).unwrap();
    let states: Vec<_> = store.lenders().iter().map(|lender| format!("{:?}", lender.state)).collect();
    assert!(states[0].contains("Unusable") && states[0].contains("--shared"), "{states:?}");
    assert!(states[1].contains("BlobsOnly"), "{states:?}");
    let image = store.image("sample:1").unwrap();
    store.create_container(&image, &CreateOptions::default()).unwrap();
}

/// A process that waits for the end of its input.
fn waiting(command: &mut Command) -> Child {
    command.stdin(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap()
}

fn end(mut child: Child) {
    drop(child.stdin.take());
    child.wait().unwrap();
}

/// Asserts that `container` is in use, and that whatever would take it from its user refuses or leaves it.
#[track_caller]
fn is_in_use(world: &World, container: &Container) {
    assert!(container.is_in_use(&Processes::read()).unwrap());
    for error in [
        container.clone().remove(RemoveContainer::Refuse).unwrap_err(),
        container.clone_as(&CreateOptions::named("copy")).unwrap_err(),
    ] {
        let kind = error.kind();
        assert!(["container-in-use", "container-mounted"].contains(&kind), "{error:?}");
        assert!(error.to_string().contains(container.name()), "{error}");
    }
    for dry_run in [true, false] {
        let mut options = PruneOptions::containers();
        options.dry_run = dry_run;
        assert_eq!(world.store.prune(&options).unwrap().containers, []);
    }
    assert!(world.store.usage(&Default::default()).unwrap().writable_reclaimable == 0);
    // A hold is no lock on operations.
    container.changes().unwrap();
    container.commit(&Default::default()).unwrap();
    container.clone().update(|notes| drop(notes.labels.insert("seen".into(), "yes".into()))).unwrap();
}

/// Asserts that nothing uses `container`, and removes it.
#[track_caller]
fn is_free(world: &World, container: Container) {
    assert!(!container.is_in_use(&Processes::read()).unwrap());
    let pruned = world.store.prune(&PruneOptions::containers()).unwrap().containers;
    assert_eq!(pruned.len(), 1);
    assert_eq!(pruned[0].id, container.id());
}

#[test]
fn a_mount_keeps_its_container_in_use_by_every_driver() {
    privilege::under_with_fuse(ALL, |privilege| {
        for &kind in drivers(privilege) {
            let world = World::driver(kind);
            let image = world.load_image(&sample());
            let container = world.store.create_container(&image, &CreateOptions::default()).unwrap();
            let mounted = container.mount().unwrap();
            is_in_use(&world, &container);
            let found = container.mounted().unwrap();
            assert_eq!(found.is_some(), kind != DriverKind::Copy);
            drop(found);
            mounted.unmount().unwrap();
            is_free(&world, container);
        }
    });
}

#[test]
fn a_child_that_inherits_the_hold_keeps_the_container_in_use_until_it_dies() {
    privilege::under(ALL, |privilege| {
        for &kind in drivers(privilege) {
            let world = World::driver(kind);
            let image = world.load_image(&sample());
            let container = world.store.create_container(&image, &CreateOptions::default()).unwrap();
            let hold = container.hold().unwrap();
            // It has its root and its working directory elsewhere.
            let other = waiting(Command::new("cat").current_dir("/"));
            let inherited = hold.inheritable_fd().unwrap();
            let child = waiting(Command::new("cat").current_dir("/"));
            drop((inherited, hold));
            assert_eq!(container.state().unwrap(), ContainerState::Created);
            is_in_use(&world, &container);
            let error = container.clone().remove(RemoveContainer::Refuse).unwrap_err().to_string();
            assert!(error.contains(&format!("process {}", child.id())), "{error}");
            // Killed, it says nothing to anybody.
            let mut child = child;
            child.kill().unwrap();
            child.wait().unwrap();
            is_free(&world, container);
            end(other);
        }
    });
}

#[test]
fn a_process_in_a_copy_keeps_it_in_use_after_the_one_that_mounted_it() {
    privilege::under(ALL, |privilege| {
        let world = World::driver(DriverKind::Copy);
        let image = world.load_image(&sample());
        for inside in ["", "usr/lib"] {
            let container = world.store.create_container(&image, &CreateOptions::default()).unwrap();
            let path = container.mount().unwrap().keep();
            let child = waiting(Command::new("cat").current_dir(path.join(inside)));
            is_in_use(&world, &container);
            end(child);
            is_free(&world, container);
        }
        if privilege == Privilege::Plain || !have(&["python3"]) {
            return;
        }
        let container = world.store.create_container(&image, &CreateOptions::default()).unwrap();
        let path = container.mount().unwrap().keep();
        let chroot = "import os, sys; os.chroot(sys.argv[1]); os.chdir('/'); sys.stdin.read()";
        let child = waiting(Command::new("python3").args(["-c", chroot]).arg(&path).current_dir("/"));
        // The process has to get there first.
        let root = fs::metadata(&path).unwrap();
        let there = || {
            let at = fs::metadata(format!("/proc/{}/root/", child.id())).unwrap();
            (at.dev(), at.ino()) == (root.dev(), root.ino())
        };
        while !there() {
            std::thread::yield_now();
        }
        is_in_use(&world, &container);
        end(child);
        is_free(&world, container);
    });
}

#[test]
fn force_removes_a_container_that_is_held() {
    let world = World::driver(DriverKind::Copy);
    let image = world.load_image(&sample());
    let container = world.store.create_container(&image, &CreateOptions::default()).unwrap();
    let hold = container.hold().unwrap();
    assert!(matches!(
        container.clone().remove(RemoveContainer::Refuse),
        Err(StoreError::InUse { container: name, .. }) if name == container.name()
    ));
    container.clone().remove(RemoveContainer::Force).unwrap();
    assert_eq!(world.store.containers().unwrap().len(), 0);
    assert!(matches!(container.hold(), Err(StoreError::NotFound { .. })));
    drop(hold);
}

#[test]
fn those_who_ask_at_the_same_time_do_not_take_each_other_for_users() {
    let world = World::driver(DriverKind::Copy);
    let image = world.load_image(&sample());
    let container = world.store.create_container(&image, &CreateOptions::default()).unwrap();
    let processes = Processes::default();
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                for _ in 0..200 {
                    assert!(!container.is_in_use(&processes).unwrap());
                }
            });
        }
    });
    let hold = container.hold().unwrap();
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                for _ in 0..200 {
                    assert!(container.is_in_use(&processes).unwrap());
                }
            });
        }
    });
    drop(hold);
}
