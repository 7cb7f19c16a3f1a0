//! Copying in and out of containers.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::Command;

use plywood::container::{CopyInOptions, CopyOutOptions};
use plywood::driver::DriverKind;
use plywood::store::{Container, ContainerState, CreateOptions, StoreError};

use crate::common::model;
use crate::common::privilege::{self, ALL, Privilege};
use crate::common::tar::{Tar, tar};
use crate::common::tree::{Kind, Node, Tree, snapshot};
use crate::world::*;

fn container(world: &World) -> Container {
    let image = world.load_image(&sample());
    world.store.create_container(&image, &CreateOptions::named("one")).unwrap()
}

/// The drivers whose roots show what is recorded of owners and devices that this process cannot make. fuse-overlayfs keeps
/// the records to itself.
fn telling(privilege: Privilege) -> impl Iterator<Item = DriverKind> {
    let tells = move |kind: &DriverKind| *kind != DriverKind::Fuse || privilege == Privilege::Root;
    drivers(privilege).iter().copied().filter(tells)
}

/// What copying `path` out tells.
#[track_caller]
fn out(container: &Container, path: &str) -> Tree {
    let mut tar = Vec::new();
    let options = CopyOutOptions::default();
    container.copy_out(path, &mut tar, &options).unwrap_or_else(|error| panic!("{}", chain(&error)));
    tree_of(&tar)
}

#[track_caller]
fn copy_in(container: &Container, path: &str, tar: impl AsRef<[u8]>, options: &CopyInOptions<'_>) {
    let copied = container.copy_in(path, tar.as_ref(), options);
    copied.unwrap_or_else(|error| panic!("{}", chain(&error)));
}

fn refused(container: &Container, path: &str, tar: impl AsRef<[u8]>) -> StoreError {
    container.copy_in(path, tar.as_ref(), &CopyInOptions::default()).expect_err(path)
}

fn means(tar: &Tar) -> Tree {
    // Holes are zeros in the tars that we write.
    model::stack([tar.entries().as_slice()]).without_holes()
}

/// An ordinary tar with one of everything.
fn everything() -> Tar {
    layers().remove(0)
}

#[test]
fn what_is_copied_out_is_what_an_export_has_there_mounted_or_not() {
    privilege::under(ALL, |privilege| {
        for &kind in drivers(privilege) {
            let world = World::driver(kind);
            let one = container(&world);
            let mounted = one.mount().unwrap();
            edit(mounted.path());
            let what = format!("{privilege:?}, {kind}");
            let mut tar = Vec::new();
            mounted.copy_out("/", &mut tar, &CopyOutOptions::default()).unwrap();
            tree_of(&tar).assert_same(&exported(&one), &format!("{what}: the whole root, mounted"));
            mounted.unmount().unwrap();
            out(&one, "/.").assert_same(&exported(&one), &format!("{what}: the whole root"));
            assert_eq!(one.state().unwrap(), ContainerState::Created, "{what}");

            // A part goes by its last name, and is there with everything below it.
            let part = out(&one, "home/user");
            assert_eq!(part.without_root().names(), ["user", "user/locked", "user/more", "user/moved"]);
            assert_eq!(out(&one, "/bin/su").without_root().names(), ["su"], "{what}");
            // On the way links are followed; at the end only where that is wanted.
            assert_eq!(out(&one, "/lib/libc.so").without_root().names(), ["libc.so"], "{what}");
            assert!(matches!(out(&one, "/lib").at("lib").kind, Kind::Symlink(_)), "{what}");
            let mut followed = Vec::new();
            one.copy_out("/lib", &mut followed, &CopyOutOptions::default().follow()).unwrap();
            assert!(tree_of(&followed).names().contains(&"lib/libc.so"), "{what}");
        }
    });
}

#[test]
fn what_is_copied_in_as_an_archive_is_what_the_tar_says() {
    privilege::under_with_fuse(ALL, |privilege| {
        for kind in telling(privilege) {
            let world = World::driver(kind);
            let one = container(&world);
            copy_in(&one, "/", tar().dir("target").mtime(7, 0).finish(), &CopyInOptions::default());
            copy_in(&one, "/target", everything().finish(), &CopyInOptions::default().archive());
            let what = format!("{privilege:?}, {kind}");
            let expected = told(means(&everything()), privilege).without_root();
            out(&one, "/target/.").without_root().assert_same(&expected, &what);
            let exported = exported(&one);
            for path in ["bin/su", "dev/null", "home/user", "home/user/locked", "run/pipe"] {
                let (told, node) = (exported.at(format!("target/{path}")), expected.at(path));
                let facts = |node: &Node| (node.kind.clone(), node.mode, node.uid, node.gid, node.mtime);
                assert_eq!(facts(told), facts(node), "{what}: {path} in an export");
            }

            // Once more changes nothing, also through the names of one file; but files have come and gone in a directory
            // of which the tar says nothing.
            copy_in(&one, "target", everything().finish(), &CopyInOptions::default().archive());
            let log = |tree: Tree| tree.without_mtimes(|path, _| path == Path::new("var/log"));
            let again = out(&one, "/target/.").without_root();
            log(again).assert_same(&log(expected), &format!("{what}, again"));
            assert!(names_in(&world.path().join("staging")).is_empty(), "{what}");
        }
    });
}

#[test]
fn what_is_copied_in_otherwise_belongs_to_root_and_brings_no_rights() {
    privilege::under_with_fuse(ALL, |privilege| {
        for kind in telling(privilege) {
            let world = World::driver(kind);
            let one = container(&world);
            copy_in(&one, "/", tar().dir("target").finish(), &CopyInOptions::default());
            copy_in(&one, "/target", everything().finish(), &CopyInOptions::default());
            let expected = means(&everything()).without_root().map(|_, node| {
                (node.uid, node.gid) = (0, 0);
                if !matches!(node.kind, Kind::Directory) {
                    node.mode &= 0o1777;
                }
            });
            out(&one, "/target/.").without_root().assert_same(&expected, &format!("{privilege:?}, {kind}"));
        }
    });
}

#[test]
fn files_are_replaced_and_directories_stay() {
    privilege::under_with_fuse(ALL, |privilege| {
        for &kind in drivers(privilege) {
            let what = format!("{privilege:?}, {kind}");
            let world = World::driver(kind);
            let one = container(&world);
            let before = out(&one, "/");
            let new = tar()
                // Says nothing of etc.
                .file("etc/hostname", "new\n")
                // A link is replaced, and what it leads to is not written to.
                .file("opt", "was a link\n")
                .dir("cache")
                .mode(0o711)
                .mtime(5, 0)
                .symlink("cache/one", "two")
                .finish();
            copy_in(&one, "/", new, &CopyInOptions::default());
            let after = out(&one, "/");
            assert_eq!((after.at("etc").mode, after.at("etc").uid), (before.at("etc").mode, 0), "{what}");
            assert_eq!((after.at("cache").mode, after.at("cache").mtime.0), (0o711, 5), "{what}");
            assert_eq!(after.at("opt").kind, Kind::file(b"was a link\n"), "{what}");
            assert_eq!(after.at("cache/one").kind, Kind::Symlink(b"two".to_vec()), "{what}");
            assert_eq!(after.at("cache/two").kind, before.at("cache/two").kind, "{what}");
            assert_eq!(after.at("").mode, before.at("").mode, "{what}: the root is not in question");
            let changed = changes(&one);
            for line in ["C /cache", "C /cache/one", "A /etc/hostname", "C /opt"] {
                assert!(changed.iter().any(|change| change == line), "{what}: {line} is not in {changed:?}");
            }
        }
    });
}

#[test]
fn a_tar_that_cannot_be_copied_in_changes_nothing() {
    privilege::under_with_fuse(ALL, |privilege| {
        for &kind in drivers(privilege) {
            let what = format!("{privilege:?}, {kind}");
            let world = World::driver(kind);
            let one = container(&world);
            let before = out(&one, "/");
            let good = tar().dir("new").file("new/file", vec![3; 3000]).file("etc/passwd", "x").finish();
            let refuse = |path: &str, tar: &[u8]| {
                let error = refused(&one, path, tar);
                out(&one, "/").assert_same(&before, &format!("{what}, after {}", chain(&error)));
                assert!(names_in(&world.path().join("staging")).is_empty(), "{what}");
                error
            };
            for cut in [100, 512 + 5, 1024 + 100, 1024 + 2048] {
                refuse("/", &good[..cut]);
            }
            assert_eq!(refuse("/", &b"This is no tar. ".repeat(100)).kind(), "invalid-archive", "{what}");
            let up = tar().file("new", "").file("../up", "").finish();
            assert_eq!(refuse("/etc", &up).kind(), "invalid-archive", "{what}");
            let link = tar().file("new", "").link("hard", "etc/passwd").finish();
            assert!(chain(&refuse("/", &link)).contains("hard link to /etc/passwd"), "{what}");
            let device = tar().file("new", "").char_device("dev/zero-zero", 0, 0).finish();
            assert!(chain(&refuse("/", &device)).contains("0:0"), "{what}");

            // A directory in place of a file, a file in place of a directory, a directory in place of a link.
            let file = refuse("/", &tar().file("a", "").dir("etc/passwd").finish());
            assert!(file.to_string().contains("cannot replace the file"), "{file}");
            assert!(file.to_string().contains("etc/passwd"), "{file}");
            let directory = refuse("/", &tar().file("a", "").file("bin", "").finish());
            assert!(directory.to_string().contains("cannot replace the directory"), "{directory}");
            let link = refuse("/", &tar().file("a", "").file("lib/new", "").finish());
            assert!(link.to_string().contains("cannot replace the symbolic link"), "{link}");
            assert_eq!(link.kind(), "other-kind");

            assert_eq!(refuse("/no/where", &good).kind(), "not-found", "{what}");
            assert_eq!(refuse("/nowhere", &good).kind(), "not-found", "{what}");
            assert_eq!(refuse("/etc/passwd", &good).kind(), "not-a-directory", "{what}");
        }
    });
}

#[test]
fn links_lead_nowhere_outside_the_root_in_either_direction() {
    privilege::under_with_fuse(ALL, |privilege| {
        for &kind in drivers(privilege) {
            let what = format!("{privilege:?}, {kind}");
            let world = World::driver(kind);
            let one = container(&world);
            let outside = world.beside("outside");
            fs::create_dir(&outside).unwrap();
            fs::write(outside.join("secret"), "secret").unwrap();
            let mounted = one.mount().unwrap();
            let root = mounted.path();
            let up = format!("{}{}", "../".repeat(40), outside.display());
            symlink(&outside, root.join("absolute")).unwrap();
            symlink(&up, root.join("up")).unwrap();
            symlink("/nowhere", root.join("dangling")).unwrap();
            symlink("circle", root.join("circle")).unwrap();
            symlink("/proc/self/root", root.join("process")).unwrap();
            symlink("/../../etc", root.join("inside")).unwrap();
            let beside = snapshot(&outside);
            let file = tar().file("written", "by us").finish();
            let follow = CopyOutOptions::default().follow();
            for link in ["absolute", "up", "dangling", "circle", "process"] {
                for path in [format!("{link}/secret"), format!("{link}/"), link.to_owned()] {
                    let error = mounted.copy_out(&path, Vec::new(), &follow).unwrap_err();
                    assert!(
                        matches!(error.kind(), "not-found" | "too-many-links"),
                        "{what}, {path}: {error}"
                    );
                    let error = mounted.copy_in(&path, &file[..], &Default::default()).unwrap_err();
                    assert!(
                        matches!(error.kind(), "not-found" | "too-many-links"),
                        "{what}, {path}: {error}"
                    );
                }
                let mut tar = Vec::new();
                mounted.copy_out(link, &mut tar, &CopyOutOptions::default()).unwrap();
                assert!(matches!(tree_of(&tar).at(link).kind, Kind::Symlink(_)), "{what}: the link itself");
            }
            mounted.copy_in("inside", &file[..], &Default::default()).unwrap();
            assert_eq!(fs::read_to_string(root.join("etc/written")).unwrap(), "by us", "{what}");

            // Links that come with the tar lead nowhere else, and those that are there are not written through.
            let evil =
                tar().symlink("way", outside.as_os_str().as_encoded_bytes()).file("way/secret", "gone");
            mounted.copy_in("tmp", &evil.finish()[..], &Default::default()).unwrap();
            for through in ["absolute/secret", "up/secret", "inside/passwd"] {
                let tar = tar().file(through, "gone").finish();
                let error = mounted.copy_in("/", &tar[..], &Default::default()).unwrap_err();
                assert_eq!(error.kind(), "other-kind", "{what}, {through}: {}", chain(&error));
            }
            // Into an ordinary directory as well.
            let host = world.beside("host");
            fs::create_dir(&host).unwrap();
            symlink(&outside, host.join("way")).unwrap();
            let into = plywood::fs::Dir::open_ambient(&host).unwrap();
            let error = world.store.unpack_into(
                &into,
                &tar().file("way/secret", "gone").finish()[..],
                &Default::default(),
            );
            assert_eq!(error.unwrap_err().kind(), "other-kind", "{what}");

            // Links of /proc say where they lead, and are not what they lead to.
            if privilege == Privilege::Root && kind == DriverKind::Overlay {
                fs::create_dir(root.join("proc")).unwrap();
                let mount = |words: &[&str], path: &Path| {
                    assert!(Command::new(words[0]).args(&words[1..]).arg(path).status().unwrap().success());
                };
                mount(&["mount", "--bind", "/proc"], &root.join("proc"));
                let path = format!("process{}/secret", outside.display());
                let error = mounted.copy_out(&path, Vec::new(), &follow).unwrap_err();
                assert!(matches!(error.kind(), "not-found" | "too-many-links"), "{what}: {error}");
                let found = mounted.resolve("process", true).unwrap();
                assert!(
                    found.dir.find("etc/written").unwrap().is_some(),
                    "{what}: it is the container's root"
                );
                drop(found);
                mount(&["umount"], &root.join("proc"));
            }
            snapshot(&outside).assert_same(&beside, &what);
            mounted.unmount().unwrap();
        }
    });
}

#[test]
fn names_that_would_be_deletions_in_a_layer_are_names_in_a_copy() {
    privilege::under_with_fuse(ALL, |privilege| {
        for kind in drivers(privilege).iter().copied().filter(|&kind| kind != DriverKind::Fuse) {
            let world = World::driver(kind);
            let one = container(&world);
            let plain = tar().file(".wh.passwd", "kept").file(".wh..wh..opq", "too").finish();
            copy_in(&one, "/etc", plain, &CopyInOptions::default());
            assert!(out(&one, "/etc/.").get("shadow").is_some(), "nothing is hidden");
            assert_eq!(one.state().unwrap(), ContainerState::Created);
            let mounted = one.mount().unwrap();
            assert_eq!(fs::read_to_string(mounted.path().join("etc/.wh.passwd")).unwrap(), "kept");
            assert!(mounted.path().join("etc/passwd").exists());
            mounted.unmount().unwrap();
        }
    });
}
