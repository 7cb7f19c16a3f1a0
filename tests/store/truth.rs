//! What is mounted is what the kernel says: whatever happened since the last call, the next one sees it and goes on.

use std::fs;
use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};

use plywood::driver::DriverKind;
use plywood::store::{Container, ContainerState, CreateOptions, RemoveContainer};

use crate::common::privilege::{self, ALL, Privilege};
use crate::world::*;

/// Tells a copy of this binary where the store is.
const STORE: &str = "PLYWOOD_TEST_TRUTH";

fn container(world: &World, name: &str) -> Container {
    let image = world.load_image(&sample());
    world.store.create_container(&image, &CreateOptions::named(name)).unwrap()
}

/// Unmounts with other programs than this crate.
fn foreign_umount(path: &Path, privilege: Privilege) {
    match privilege {
        Privilege::Plain => drop(crate::common::run("fusermount3", ["-u".as_ref(), path.as_os_str()])),
        _ => drop(crate::common::run("umount", [path])),
    }
}

#[test]
fn a_root_that_somebody_else_unmounted_is_mounted_again() {
    privilege::under_with_fuse(ALL, |privilege| {
        for &kind in drivers(privilege).iter().filter(|kind| **kind != DriverKind::Copy) {
            let world = World::driver(kind);
            let container = container(&world, "taken");
            let mounted = container.mount().unwrap();
            fs::write(mounted.path().join("etc/written"), "before").unwrap();
            let path = mounted.keep();
            foreign_umount(&path, privilege);
            assert_eq!(container.state().unwrap(), ContainerState::Created, "{kind}");
            assert!(container.mounted().unwrap().is_none());
            container.unmount().unwrap();
            assert_eq!(changes(&container), ["C /etc", "A /etc/written"]);

            let mounted = container.mount().unwrap();
            assert_eq!(fs::read(path.join("etc/written")).unwrap(), b"before");
            let path = mounted.keep();
            foreign_umount(&path, privilege);
            container.remove(RemoveContainer::Refuse).unwrap();
            assert!(names_in(&world.path().join("containers")).is_empty());
        }
    });
}

#[test]
fn a_root_outlives_the_violent_death_of_the_process_that_mounted_it() {
    if let Some(root) = std::env::var_os(STORE) {
        let container = options().open(root).unwrap().container("orphan").unwrap();
        let mounted = container.mount().unwrap();
        fs::write(mounted.path().join("etc/written"), "before").unwrap();
        // Nothing is put away.
        rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::KILL).unwrap();
    }
    privilege::under_with_fuse(ALL, |privilege| {
        for &kind in drivers(privilege) {
            let world = World::driver(kind);
            let container = container(&world, "orphan");
            let test = "truth::a_root_outlives_the_violent_death_of_the_process_that_mounted_it";
            let mut child = Command::new(std::env::current_exe().unwrap());
            let child = child.args(["--exact", test]).env(STORE, world.path()).stdout(Stdio::null());
            assert!(child.status().unwrap().code().is_none(), "{kind}: it was killed");
            if kind != DriverKind::Copy {
                let ContainerState::Mounted(path) = container.state().unwrap() else { panic!("{kind}") };
                assert_eq!(fs::read(path.join("etc/written")).unwrap(), b"before");
                assert_eq!(container.mount().unwrap_err().kind(), "container-mounted");
            }
            assert_eq!(changes(&container), ["C /etc", "A /etc/written"]);
            container.unmount().unwrap();
            assert_eq!(container.state().unwrap(), ContainerState::Created);
            let mounted = container.mount().unwrap();
            assert_eq!(fs::read(mounted.path().join("etc/written")).unwrap(), b"before");
            drop(mounted);
            container.remove(RemoveContainer::Refuse).unwrap();
        }
    });
}

#[test]
fn a_root_in_use_names_whoever_uses_it_and_how() {
    privilege::under_with_fuse(ALL, |privilege| {
        for &kind in drivers(privilege).iter().filter(|kind| **kind != DriverKind::Copy) {
            let world = World::driver(kind);
            let container = container(&world, "busy");
            let path = container.mount().unwrap().keep();
            let busy = |expected: &str| {
                let error = container.unmount().unwrap_err();
                assert_eq!(error.kind(), "busy", "{kind}: {}", chain(&error));
                assert!(chain(&error).contains(expected), "{kind}: {} without {expected}", chain(&error));
                assert_eq!(container.state().unwrap(), ContainerState::Mounted(path.clone()));
            };
            let mut inside = Command::new("cat").current_dir(&path).stdin(Stdio::piped()).spawn().unwrap();
            busy(&format!("cat (process {}, its working directory)", inside.id()));
            drop(inside.stdin.take());
            inside.wait().unwrap();

            let file = fs::File::open(path.join("etc/passwd")).unwrap();
            busy(&format!("(process {}, an open file)", std::process::id()));
            drop(file);

            if privilege == Privilege::Root && crate::common::have(&["xfs_io"]) {
                // Closed, but mapped.
                let library = path.join("usr/lib/libc.so");
                let mut inside = Command::new("xfs_io")
                    .args(["-r".as_ref(), library.as_os_str()])
                    .stdin(Stdio::piped())
                    .stdout(Stdio::null())
                    .spawn()
                    .unwrap();
                inside.stdin.as_mut().unwrap().write_all(b"mmap -r 0 4096\nclose\n").unwrap();
                let has = |what: &str| {
                    let links = fs::read_dir(format!("/proc/{}/{what}", inside.id())).unwrap().flatten();
                    links.filter_map(|link| fs::read_link(link.path()).ok()).any(|file| file == library)
                };
                while !has("map_files") || has("fd") {
                    std::thread::sleep(std::time::Duration::from_millis(1));
                }
                busy(&format!("xfs_io (process {}, a mapped file)", inside.id()));
                drop(inside.stdin.take());
                inside.wait().unwrap();
            }
            if privilege != Privilege::Plain {
                let at = path.join("etc");
                crate::common::run("mount", ["-t", "tmpfs", "none", at.to_str().unwrap()]);
                busy(&format!("the mount at {at:?}"));
                crate::common::run("umount", [&at]);
            }
            container.unmount().unwrap();
        }
    });
}
