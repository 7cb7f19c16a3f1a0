//! Copied roots on every file system that stores are kept on: those that share content, those that copy inside the kernel,
//! and overlayfs, where an engine in a container has its store.
//!
//! Each test is in a mount namespace of its own, with a file system of its own in a file.

use std::fs;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;
use std::process::Command;

use plywood::driver::DriverKind;
use plywood::store::CreateOptions;

use crate::common::privilege::{self, Privilege};
use crate::common::{have, run_command, scratch, skip};
use crate::conformance::copies_hold_in;
use crate::world::*;

/// Mounts a new file system of this kind, made by `make`, and calls `test` with it.
fn on(make: &[&str], kind: &str, test: impl Fn(&Path)) {
    let temp = scratch();
    let (image, at) = (temp.path().join("image"), temp.path().join("at"));
    fs::create_dir(&at).unwrap();
    if let Some((program, options)) = make.split_first() {
        if !have(&[program, "mount"]) {
            return;
        }
        fs::File::create(&image).unwrap().set_len(512 << 20).unwrap();
        run_command(Command::new(program).args(options).arg(&image));
    }
    let mut mount = Command::new("mount");
    match kind {
        "tmpfs" => mount.args(["-t", kind, "tmpfs"]).arg(&at),
        "overlay" => {
            for name in ["lower", "upper", "work"] {
                fs::create_dir(temp.path().join(name)).unwrap();
            }
            let path = temp.path().display();
            let options = format!("lowerdir={path}/lower,upperdir={path}/upper,workdir={path}/work");
            mount.args(["-t", kind, "overlay", "-o", &options]).arg(&at)
        }
        _ => mount.args(["-t", kind, "-o", "loop"]).arg(&image).arg(&at),
    };
    let done = mount.output().unwrap();
    if !done.status.success() {
        return skip(format!("no {kind} here: {}", String::from_utf8_lossy(&done.stderr).trim_end()));
    }
    test(&at);
    run_command(Command::new("umount").arg("--lazy").arg(&at));
}

/// What copies promise on any file system.
fn hold(at: &Path) {
    copies_hold_in(at);
    cloned(at);
}

/// A copied root with content and holes, and its clone. Returns the bytes that the clone took of the file system.
fn cloned(at: &Path) -> u64 {
    let world = World::driver(DriverKind::Copy);
    assert!(world.path().starts_with(at));
    let image = world.load_image(&sample());
    let one = world.store.create_container(&image, &CreateOptions::default()).unwrap();
    let mounted = one.mount().unwrap();
    let file = fs::File::create(mounted.path().join("holes")).unwrap();
    file.set_len(64 << 20).unwrap();
    file.write_all_at(&vec![7; 8 << 20], 32 << 20).unwrap();
    file.sync_all().unwrap();
    let root = seen(mounted.path());
    drop((file, mounted));
    let free = || {
        let done = Command::new("sync").arg("-f").arg(at).status().unwrap();
        assert!(done.success());
        let space = rustix::fs::statvfs(at).unwrap();
        space.f_bfree * space.f_frsize
    };
    let before = free();
    let two = one.clone_as(&CreateOptions::default()).unwrap_or_else(|error| panic!("{}", chain(&error)));
    let taken = before.saturating_sub(free());
    assert_eq!(changes(&two), changes(&one));
    let mounted = two.mount().unwrap();
    seen(mounted.path()).assert_same(&root, "the clone");
    let copy = fs::metadata(mounted.path().join("holes")).unwrap();
    assert_eq!(copy.size(), 64 << 20);
    assert!(copy.blocks() * 512 < 16 << 20, "holes were filled: {} blocks", copy.blocks());
    taken
}

#[test]
fn copies_hold_on_ext4() {
    privilege::under(&[Privilege::Root], |_| on(&["mkfs.ext4", "-q"], "ext4", hold));
}

#[test]
fn copies_hold_on_xfs_and_share_their_content() {
    privilege::under(&[Privilege::Root], |_| {
        on(&["mkfs.xfs", "-q", "-m", "reflink=1"], "xfs", |at| {
            copies_hold_in(at);
            let taken = cloned(at);
            assert!(taken < 6 << 20, "{taken} bytes were copied");
        });
    });
}

#[test]
fn copies_hold_on_btrfs_and_share_their_content() {
    privilege::under(&[Privilege::Root], |_| {
        on(&["mkfs.btrfs", "-q"], "btrfs", |at| {
            copies_hold_in(at);
            let taken = cloned(at);
            assert!(taken < 6 << 20, "{taken} bytes were copied");
        });
    });
}

#[test]
fn copies_hold_on_tmpfs() {
    privilege::under(&[Privilege::Root], |_| on(&[], "tmpfs", hold));
}

#[test]
fn copies_hold_on_overlayfs() {
    privilege::under(&[Privilege::Root], |_| on(&[], "overlay", hold));
}
