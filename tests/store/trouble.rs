//! Full disks, killed processes, lost caches, other users: what must not be lost, and what must be said.

use std::ffi::OsStr;
use std::fs;
use std::io::Write;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Stdio};

use plywood::driver::DriverKind;
use plywood::fs::Durability;
use plywood::store::{CreateOptions, DriverChoice, GcOptions, LoadOptions, Store};
use serde_json::{Value, json};

use crate::common::image::{Layout, image};
use crate::common::privilege::{self, ALL, MOUNTING, Privilege};
use crate::common::tar::tar;
use crate::common::tree::snapshot;
use crate::common::{have, run, run_command};
use crate::world::*;

/// Tells a copy of this binary what to do, and where.
const STORE: &str = "PLYWOOD_TEST_STORE";

/// This test again, in a process that finds `store` in its environment.
fn another_process(test: &str, store: &Path) -> Command {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", test, "--nocapture"]).env(STORE, store);
    command
}

#[test]
fn a_full_disk_leaves_what_was_there() {
    privilege::under(&[Privilege::Root], |_| {
        let temp = crate::common::scratch();
        let path = temp.path().to_str().unwrap();
        let size = |kilobytes: u32| format!("size={kilobytes}k");
        run("mount", ["-t", "tmpfs", "-o", &size(40_000), "tmpfs", path]);
        let store =
            options().driver(DriverChoice::Only(DriverKind::Copy)).create(temp.path().join("store")).unwrap();
        let root = temp.path().join("store");
        let state = || {
            let state = snapshot(&root).without("staging").without("locks").without("cache");
            state.without_mtimes(|path, _| {
                ["", "layers", "oci", "oci/index.json", "oci/blobs/sha256"].contains(&path.to_str().unwrap())
            })
        };
        let small = load(
            &store,
            Layout::of(&image().layer(tar().file("small", "").finish()).name("docker.io/library/small:1"))
                .oci_archive(),
        );
        let container = store.create_container(&small, &CreateOptions::named("one")).unwrap();
        fs::write(container.mount().unwrap().path().join("large"), vec![7; 200_000]).unwrap();
        store.settle().unwrap();
        let before = state();
        let large =
            tar().file("one", vec![1; 100_000]).dir("two").file("two/three", vec![2; 100_000]).finish();
        let archive = Layout::of(&image().layer(large).name("docker.io/library/large:1")).oci_archive();
        let used = || {
            let lines = String::from_utf8(run("df", ["--output=used", "-k", path])).unwrap();
            lines.lines().nth(1).unwrap().trim().parse::<u32>().unwrap()
        };
        let free = used();
        // However little is left, what fails fails without a trace.
        let mut failures = 0;
        for more in [0, 8, 60, 180, 240, 300, 390, 420] {
            run("mount", ["-o", &format!("remount,{}", size(free + more)), path]);
            match store.load(&archive[..], &LoadOptions::default()) {
                Ok(_) => {
                    store.remove_image("large:1", Default::default()).unwrap();
                    store.gc(&GcOptions::default()).unwrap();
                }
                Err(error) => {
                    failures += 1;
                    assert_eq!(error.kind(), "no-space", "{more}: {}", chain(&error));
                }
            }
            state().assert_same(&before, &format!("with {more} kB"));
            if let Err(error) = container.commit(&Default::default()) {
                assert_eq!(error.kind(), "no-space", "{more}: {}", chain(&error));
                state().assert_same(&before, &format!("after a commit with {more} kB"));
            } else {
                let committed =
                    store.images().unwrap().into_iter().find(|image| image.names().is_empty()).unwrap();
                store.remove_image(&committed.digest().to_string(), Default::default()).unwrap();
                store.gc(&GcOptions::default()).unwrap();
            }
        }
        assert!(failures >= 4, "{failures}");
        run("mount", ["-o", &format!("remount,{}", size(40_000)), path]);
        load(&store, &archive);
        assert_eq!(names_in(&root.join("staging")), Default::default());
        drop(store);
        run("umount", ["--lazy", path]);
    });
}

#[test]
fn a_process_that_is_killed_in_the_middle_leaves_what_the_next_collection_takes() {
    let world = World::driver(DriverKind::Copy);
    let kept =
        world.load_image(&image().layer(tar().file("kept", "").finish()).name("docker.io/library/kept:1"));
    world.store.settle().unwrap();
    let before = world.state();
    let archive = Layout::of(&sample()).oci_archive();
    for part in [1, 3] {
        let test = "trouble::a_process_that_reads_an_archive";
        let mut child = another_process(test, &world.path())
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut pipe = child.stdin.take().unwrap();
        pipe.write_all(&archive[..archive.len() * part / 4]).unwrap();
        // It has read all that and waits for more when the next collection sees it at work.
        while names_in(&world.path().join("staging")).is_empty() {
            std::thread::yield_now();
        }
        let report = world.store.gc(&GcOptions::default()).unwrap();
        assert_eq!(report, Default::default());
        assert_eq!(names_in(&world.path().join("staging")).len(), 1);
        child.kill().unwrap();
        child.wait().unwrap();
        drop(pipe);
        assert_eq!(names_in(&world.path().join("staging")).len(), 1);
        world.state().assert_same(&before, "after a kill");
        let report = world.store.gc(&GcOptions::default()).unwrap();
        assert_eq!((report.leftovers, report.blobs.len(), report.layers.len()), (1, 0, 0));
        assert!(names_in(&world.path().join("staging")).is_empty());
        world.state().assert_same(&before, "after the collection");
    }
    assert_eq!(world.store.image("kept:1").unwrap().digest(), kept.digest());
}

/// No test by itself: what another one kills.
#[test]
fn a_process_that_reads_an_archive() {
    let Some(root) = std::env::var_os(STORE) else { return };
    let store = options().open(root).unwrap();
    store.load(std::io::stdin(), &LoadOptions::default()).unwrap();
}

#[test]
fn layers_that_a_power_cut_took_are_made_again_from_their_blobs() {
    let world = World::driver(DriverKind::Copy);
    let image = world.load_image(&sample().layer(tar().link("bound", "data").finish()));
    let container = world.store.create_container(&image, &CreateOptions::named("one")).unwrap();
    edit(container.mount().unwrap().path());
    let (export_before, changes_before) = (export(&container), changes(&container));
    let info = world.store.info().unwrap();
    assert_eq!((info.layers, info.unsettled_layers), (4, 4));
    // What the disk of another boot holds: records, and files without content.
    let damage = |key: &str| {
        let layer = world.path().join("layers").join(key);
        let record: Value = serde_json::from_slice(&fs::read(layer.join("layer.json")).unwrap()).unwrap();
        assert_eq!(record["settled"], false);
        let mut old = record.clone();
        old["boot"] = json!("00000000-0000-0000-0000-000000000000");
        fs::write(layer.join("layer.json"), serde_json::to_vec(&old).unwrap()).unwrap();
        for (path, node) in snapshot(layer.join("tree")).0 {
            if matches!(node.kind, crate::common::tree::Kind::File { .. }) {
                fs::write(layer.join("tree").join(path), "").unwrap();
            }
        }
    };
    names_in(&world.path().join("layers")).iter().for_each(|key| damage(key));
    let store = world.again();
    assert_eq!(store.info().unwrap().unsettled_layers, 4);
    let again = store.container("one").unwrap();
    assert_eq!(changes(&again), changes_before);
    assert_eq!(export(&again), export_before);
    let fresh = store.create_container(&image, &CreateOptions::default()).unwrap();
    let expected = sample_tree().without_holes();
    exported(&fresh).without("bound").without("data").assert_same(&expected.without("data"), "made again");
    // What is settled is believed in any boot.
    store.settle().unwrap();
    let info = store.info().unwrap();
    assert_eq!((info.layers, info.unsettled_layers), (4, 0));
}

/// Takes so many bytes and then fails.
struct Short(usize);

impl Write for Short {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        match self.0.min(bytes.len()) {
            0 => Err(std::io::Error::from_raw_os_error(28)),
            taken => {
                self.0 -= taken;
                Ok(taken)
            }
        }
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[test]
fn a_writer_that_fails_is_the_error() {
    let world = World::driver(DriverKind::Copy);
    let image = world.load_image(&sample());
    let container = world.store.create_container(&image, &CreateOptions::default()).unwrap();
    let images = std::slice::from_ref(&image);
    let mut saved = Vec::new();
    world.store.save(images, Default::default(), &mut saved, &Default::default()).unwrap();
    let length = export(&container).len();
    for part in 0..10 {
        let error = world.refuse(|_| container.export(Short(length * part / 10), &Default::default()));
        assert_eq!(error.kind(), "no-space", "{}", chain(&error));
        let error = world.refuse(|store| {
            store.save(images, Default::default(), Short(saved.len() * part / 10), &Default::default())
        });
        assert_eq!(error.kind(), "no-space", "{}", chain(&error));
    }
}

#[test]
fn a_store_can_be_loaded_into_itself() {
    let world = World::driver(DriverKind::Copy);
    let image = world.load_image(&sample().name("localhost:5000/also:this"));
    let before = world.state();
    let loaded = world.store.load_directory(world.path().join("oci"), &LoadOptions::default()).unwrap();
    assert_eq!(loaded.iter().map(|one| one.image.digest()).collect::<Vec<_>>(), [image.digest()]);
    assert_eq!(loaded[0].image.names(), image.names());
    world.state().assert_same(&before, "loaded into itself");
}

#[test]
fn one_of_many_mounts_a_container() {
    privilege::under(&[Privilege::Root, Privilege::SingleId], |_| {
        let world = World::driver(DriverKind::Overlay);
        let image = world.load_image(&sample());
        let container = world.store.create_container(&image, &CreateOptions::named("one")).unwrap();
        let outcomes: Vec<_> = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..6)
                .map(|_| {
                    let container = world.again().container(container.id()).unwrap();
                    scope.spawn(move || container.mount().map(|mounted| mounted.keep()))
                })
                .collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).collect()
        });
        let (mounted, refused): (Vec<_>, Vec<_>) = outcomes.into_iter().partition(Result::is_ok);
        assert_eq!((mounted.len(), refused.len()), (1, 5));
        assert!(
            refused.iter().all(|one| one.as_ref().is_err_and(|error| error.kind() == "container-mounted"))
        );
        container.unmount().unwrap();
    });
}

#[test]
fn a_plain_users_store_is_the_same_in_a_namespace_of_its_own() {
    if let Some(root) = std::env::var_os(STORE) {
        let store = Store::options().durability(Durability::Relaxed).open(root).unwrap();
        assert_eq!(store.info().unwrap().driver, Some(DriverKind::Overlay));
        let (plain, image) = (store.container("plain").unwrap(), store.image("sample:1").unwrap());
        assert_eq!(changes(&plain), EDITS);
        let own = store.create_container(&image, &CreateOptions::named("own")).unwrap();
        exported(&own)
            .assert_same(&told(sample_tree().without_holes(), Privilege::SingleId), "in the namespace");
        let mounted = own.mount().unwrap();
        edit(mounted.path());
        assert_eq!(changes(&own), EDITS);
        let committed = [&own, &plain].map(|container| container.commit(&Default::default()).unwrap());
        assert_eq!(committed[0].diff_ids(), committed[1].diff_ids(), "the same edits, the same layer");
        return;
    }
    privilege::under(&[Privilege::Plain], |_| {
        if !have(&["unshare"]) {
            return;
        }
        let world = World::driver(DriverKind::Copy);
        let image = world.load_image(&sample());
        let plain = world.store.create_container(&image, &CreateOptions::named("plain")).unwrap();
        edit(plain.mount().unwrap().path());
        let inside = another_process(
            "trouble::a_plain_users_store_is_the_same_in_a_namespace_of_its_own",
            &world.path(),
        );
        let mut unshare = Command::new("unshare");
        unshare
            .args(["--user", "--map-root-user", "--mount"])
            .arg(inside.get_program())
            .args(inside.get_args());
        run_command(unshare.env(STORE, world.path()));
        // And the other way: what was made there is read here.
        let own = world.store.container("own").unwrap();
        assert_eq!(changes(&own), EDITS);
        assert_eq!(export(&own), export(&plain));
    });
}

#[test]
fn names_that_are_no_text_live_like_any_other() {
    privilege::under(ALL, |privilege| {
        for &kind in drivers(privilege) {
            let world = World::driver(kind);
            let odd: [&[u8]; 6] = [b"\xff\xfe", b"new\nline", b" ", b"-rf", b"\\x41", &[b'n'; 255]];
            let layer = odd.iter().fold(tar(), |tar, name| tar.file(name, name)).finish();
            let image = world.load_image(&image().layer(layer));
            let container = world.store.create_container(&image, &CreateOptions::default()).unwrap();
            let mounted = container.mount().unwrap();
            for name in odd {
                let path = mounted.path().join(OsStr::from_bytes(name));
                assert_eq!(fs::read(&path).unwrap(), name);
                fs::remove_file(&path).unwrap();
                fs::create_dir(&path).unwrap();
                fs::write(path.join(OsStr::from_bytes(name)), "inside").unwrap();
            }
            let found = changes(&container);
            assert_eq!(found.len(), 12, "{found:?}");
            let root = seen(mounted.path());
            mounted.unmount().unwrap();
            let committed = container.commit(&Default::default()).unwrap();
            let again = world.store.create_container(&committed, &CreateOptions::default()).unwrap();
            let mounted = again.mount().unwrap();
            seen(mounted.path())
                .without_root()
                .assert_same(&root.without_root(), &format!("{privilege:?}, {kind}"));
        }
    });
}

#[test]
fn the_umask_of_the_process_leaves_no_trace_in_a_root() {
    privilege::under(MOUNTING, |privilege| {
        rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o077));
        for &kind in drivers(privilege) {
            let world = World::driver(kind);
            let image = world.load_image(&sample());
            let container = world.store.create_container(&image, &CreateOptions::default()).unwrap();
            let mounted = container.mount().unwrap();
            seen(mounted.path())
                .assert_same(&held(sample_tree(), privilege), &format!("{privilege:?}, {kind}"));
        }
    });
}

#[test]
fn nobody_else_gets_at_layers_and_roots() {
    let world = World::driver(DriverKind::Copy);
    let image = world.load_image(&sample());
    world.store.create_container(&image, &CreateOptions::default()).unwrap();
    for dir in ["layers", "containers", "staging", "locks", "names"] {
        let mode = fs::metadata(world.path().join(dir)).unwrap().permissions().mode();
        assert_eq!(mode & 0o077, 0, "{dir}: {mode:o}");
    }
    let mode = |path: &str| fs::metadata(world.path().join(path)).unwrap().permissions().mode() & 0o777;
    assert_eq!((mode("oci"), mode("oci/index.json"), mode("oci/blobs")), (0o755, 0o644, 0o755));
}

#[test]
fn info_counts_what_is_there_and_says_why_this_driver() {
    privilege::under(ALL, |privilege| {
        let temp = crate::common::scratch();
        let store = options().create(temp.path().join("store")).unwrap();
        let image = load(&store, Layout::of(&sample()).oci_archive());
        store.create_container(&image, &CreateOptions::default()).unwrap();
        let info = store.info().unwrap();
        assert_eq!((info.version, info.images, info.containers, info.layers), (1, 1, 1, 3));
        assert_eq!(
            (info.read_only, info.path),
            (false, fs::canonicalize(temp.path().join("store")).unwrap())
        );
        assert_eq!(info.blob_bytes, image.size());
        let expected = if privilege == Privilege::Plain { DriverKind::Copy } else { DriverKind::Overlay };
        assert_eq!(info.driver, Some(expected), "{}", info.reasons);
        assert!(info.reasons.contains(&format!("using {expected}")), "{}", info.reasons);
        assert!(!info.reasons.contains('\n'), "{}", info.reasons);
    });
}
