//! Devices, pipes and sockets in the way of a copy, and devices in it.

use std::fs;
use std::os::unix::fs::FileTypeExt;
use std::os::unix::net::UnixListener;
use std::path::Path;

use plywood::container::CopyInOptions;
use plywood::driver::DriverKind;
use plywood::fs::Dir;
use plywood::store::CreateOptions;
use rustix::fs::{CWD, FileType, Mode, makedev, mknodat};

use crate::common::privilege::{self, ALL, Privilege};
use crate::common::tar::tar;
use crate::world::*;

/// Makes one of each that this process can make, and says what they are called.
fn special(dir: &Path, privilege: Privilege) -> Vec<&'static str> {
    mknodat(CWD, dir.join("pipe"), FileType::Fifo, Mode::from_raw_mode(0o640), 0).unwrap();
    // The address of a socket is short.
    let bound = tempfile::Builder::new().prefix("s").tempdir().unwrap();
    drop(UnixListener::bind(bound.path().join("socket")).unwrap());
    let mut names = vec!["pipe"];
    if fs::rename(bound.path().join("socket"), dir.join("socket")).is_ok() {
        names.push("socket");
    }
    if privilege == Privilege::Root {
        let device = makedev(1, 3);
        mknodat(CWD, dir.join("device"), FileType::CharacterDevice, Mode::from_raw_mode(0o600), device)
            .unwrap();
        names.push("device");
    }
    names
}

#[test]
fn a_copy_never_replaces_a_device_a_pipe_or_a_socket() {
    privilege::under_with_fuse(ALL, |privilege| {
        for &kind in drivers(privilege) {
            let what = format!("{privilege:?}, {kind}");
            let world = World::driver(kind);
            let image = world.load_image(&sample());
            let one = world.store.create_container(&image, &CreateOptions::named("one")).unwrap();
            let mounted = one.mount().unwrap();
            let host = world.beside("host");
            fs::create_dir(&host).unwrap();
            let into = Dir::open_ambient(&host).unwrap();
            for dir in [mounted.path(), &host] {
                for name in special(dir, privilege) {
                    let what = format!("{what}, {name} in {dir:?}");
                    let kind = fs::symlink_metadata(dir.join(name)).unwrap().file_type();
                    let contents = [
                        tar().file("first", "").file(name, "content"),
                        tar().file("first", "").symlink(name, "first"),
                        tar().file("first", "").dir(name),
                        tar().file("first", "").block_device(name, 7, 0),
                    ];
                    for given in contents.map(|tar| tar.finish()) {
                        let options = CopyInOptions::default().archive();
                        let done = match dir == host {
                            true => world.store.unpack_into(&into, &given[..], &options),
                            false => mounted.copy_in("/", &given[..], &options),
                        };
                        let error = done.expect_err(&what);
                        assert_eq!(error.kind(), "other-kind", "{what}");
                        assert!(chain(&error).contains(name), "{what}: {}", chain(&error));
                        assert!(!dir.join("first").exists(), "{what}");
                    }
                    let now = fs::symlink_metadata(dir.join(name)).unwrap().file_type();
                    assert_eq!(now, kind, "{what}");
                }
            }
            // One that is there already is no obstacle, and stays.
            let again = tar().file("first", "").fifo("pipe").mode(0o600).finish();
            let copied = world.store.unpack_into(&into, &again[..], &CopyInOptions::default()).unwrap();
            assert!(
                copied.warnings.iter().any(|line| line.contains("pipe")),
                "{what}: {:?}",
                copied.warnings
            );
            assert!(fs::symlink_metadata(host.join("pipe")).unwrap().file_type().is_fifo(), "{what}");
            assert!(host.join("first").exists(), "{what}");
            mounted.unmount().unwrap();
        }
    });
}

#[test]
fn devices_reach_the_host_only_where_that_is_asked_for() {
    privilege::under(ALL, |privilege| {
        let world = World::driver(DriverKind::Copy);
        let host = world.beside("host");
        let into = Dir::ensure_ambient(&host).unwrap();
        let given = tar()
            .dir("dev")
            .char_device("dev/null", 1, 3)
            .mode(0o666)
            .block_device("dev/disk", 7, 9)
            .mode(0o666)
            .file("dev/file", "kept")
            .finish();
        let copied = world.store.unpack_into(&into, &given[..], &CopyInOptions::default()).unwrap();
        let left_out: Vec<_> = copied.left_out.iter().map(ToString::to_string).collect();
        assert_eq!(copied.devices_left_out, 2, "{privilege:?}");
        assert_eq!(left_out, ["/dev/disk", "/dev/null"], "{privilege:?}");
        assert_eq!(copied.entries, 2, "{privilege:?}");
        assert_eq!(names_in(&host.join("dev")).into_iter().collect::<Vec<_>>(), ["file"], "{privilege:?}");
        for options in [CopyInOptions::default().archive(), CopyInOptions::default().devices()] {
            let copied = world.store.unpack_into(&into, &given[..], &options).unwrap();
            assert_eq!((copied.devices_left_out, copied.entries), (0, 4), "{privilege:?}");
            if privilege == Privilege::Root {
                let found = fs::metadata(host.join("dev/null")).unwrap();
                assert!(found.file_type().is_char_device());
            }
        }
    });
}
