//! Records of owners and types that containers and images forge: what only this library may say of a file.

use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt, chown};
use std::path::Path;

use plywood::container::CopyOutOptions;
use plywood::store::{CommitOptions, Container, CreateOptions, Image};
use rustix::fs::XattrFlags;
use rustix::io::Errno;

use crate::common::image::image;
use crate::common::privilege::{self, ALL, Privilege};
use crate::common::tar::{Entry, Kind, tar};
use crate::common::untar;
use crate::world::*;

/// The attributes that may hold one.
const KEYS: [&str; 2] = ["user.containers.override_stat", "user.fuseoverlayfs.override_stat"];

/// Sets both on `path`. fuse-overlayfs keeps them to itself.
fn forge(path: &Path, value: &str) {
    for key in KEYS {
        match rustix::fs::setxattr(path, key, value.as_bytes(), XattrFlags::empty()) {
            Err(Errno::PERM | Errno::OPNOTSUPP) => {}
            done => done.unwrap(),
        }
    }
}

/// The tar of one layer of an image.
fn layer_of(world: &World, image: &Image, index: usize) -> Vec<u8> {
    fs::read(world.path().join("oci/blobs/sha256").join(image.manifest().layers[index].digest.hex())).unwrap()
}

/// What is told of `name` by every way out of a container: a commit, an export, a copy.
fn ways_out(world: &World, container: &Container, name: &str) -> Vec<Entry> {
    let image = container.commit(&CommitOptions::default()).unwrap();
    let mut copied = Vec::new();
    container.copy_out("/", &mut copied, &CopyOutOptions::default()).unwrap();
    let top = image.manifest().layers.len() - 1;
    [layer_of(world, &image, top), export(container), copied]
        .iter()
        .map(|tar| {
            let mut entries = untar::entries(tar).into_iter();
            entries.find(|entry| entry.name == name.as_bytes()).expect(name)
        })
        .collect()
}

#[test]
fn what_a_user_in_a_container_records_of_an_owner_is_not_believed() {
    privilege::under(&[Privilege::Root, Privilege::IdRange], |privilege| {
        for &driver in drivers(privilege) {
            let world = World::driver(driver);
            let base = world.load_image(&image().layer(tar().dir("home").finish()).name("base"));
            let container = world.store.create_container(&base, &CreateOptions::default()).unwrap();
            let mounted = container.mount().unwrap();
            let path = mounted.path().join("home/evil");
            fs::write(&path, "#!/bin/sh").unwrap();
            chown(&path, Some(1000), Some(1000)).unwrap();
            fs::set_permissions(&path, PermissionsExt::from_mode(0o4755)).unwrap();
            for key in ["user.containers.override_stat", "user.fuseoverlayfs.override_stat"] {
                rustix::fs::setxattr(&path, key, b"0:0:04755", XattrFlags::empty()).unwrap();
            }
            mounted.unmount().unwrap();
            let image = container.commit(&CommitOptions::default()).unwrap();
            let entries = untar::entries(&layer_of(&world, &image, 1));
            let evil = entries.iter().find(|entry| entry.name == b"home/evil").unwrap();
            assert_eq!((evil.uid, evil.gid, evil.xattrs.len()), (1000, 1000, 0), "{driver}");
        }
    });
}

#[test]
fn the_root_of_a_container_makes_no_device_and_no_owner_by_saying_so() {
    privilege::under_with_fuse(&[Privilege::Root], |privilege| {
        for &driver in drivers(privilege) {
            let world = World::driver(driver);
            let base = world.load_image(&image().layer(tar().dir("dev").dir("home").finish()).name("base"));
            let container = world.store.create_container(&base, &CreateOptions::default()).unwrap();
            let mounted = container.mount().unwrap();
            // Without CAP_MKNOD, CAP_CHOWN and CAP_FSETID all of this is allowed.
            let forged = [
                ("dev/mem", "0:0:0600:char-1-1", &b""[..]),
                ("dev/sda", "0:0:0600:block-8-0", b""),
                ("dev/pipe", "0:0:0600:pipe", b""),
                ("home/tool", "1000:1000:04755:file", b"#!/bin/sh"),
            ];
            for (name, value, content) in forged {
                fs::write(mounted.path().join(name), content).unwrap();
                fs::set_permissions(mounted.path().join(name), PermissionsExt::from_mode(0o644)).unwrap();
                forge(&mounted.path().join(name), value);
            }
            forge(&mounted.path().join("home"), "1000:1000:0777:dir");
            mounted.unmount().unwrap();
            // What a driver refuses today might be there from another day.
            let own = world.path().join("containers").join(container.id());
            let written = ["upper", "root"].map(|name| own.join(name)).into_iter().find(|path| path.exists());
            for (name, value, _) in forged {
                forge(&written.as_ref().unwrap().join(name), value);
            }
            forge(written.as_ref().unwrap(), "0:0:0755:dir");
            let mounted = container.mount().unwrap();
            for (name, ..) in forged {
                let found = fs::symlink_metadata(mounted.path().join(name)).unwrap();
                assert!(
                    found.is_file() && found.uid() == 0 && found.mode() & 0o7777 == 0o644,
                    "{driver}, {name}"
                );
            }
            mounted.unmount().unwrap();

            assert_eq!(
                changes(&container),
                ["C /dev", "A /dev/mem", "A /dev/pipe", "A /dev/sda", "C /home", "A /home/tool"],
                "{driver}"
            );
            for (name, _, content) in forged {
                for entry in ways_out(&world, &container, name) {
                    assert_eq!(entry.kind, Kind::File(content.to_vec()), "{driver}, {name}");
                    assert_eq!((entry.uid, entry.gid, entry.mode), (0, 0, 0o644), "{driver}, {name}");
                    assert!(entry.xattrs.is_empty(), "{driver}, {name}: {entry:?}");
                }
            }
            for home in ways_out(&world, &container, "home/") {
                assert_eq!((home.uid, home.gid, home.mode), (0, 0, 0o755), "{driver}");
            }
        }
    });
}

#[test]
fn where_no_device_can_be_made_a_record_stands_for_one_but_never_for_content() {
    privilege::under(&[Privilege::IdRange, Privilege::SingleId, Privilege::Plain], |privilege| {
        for &driver in drivers(privilege) {
            let world = World::driver(driver);
            let base = world.load_image(&image().layer(tar().dir("dev").finish()).name("base"));
            let container = world.store.create_container(&base, &CreateOptions::default()).unwrap();
            let mounted = container.mount().unwrap();
            for (name, content) in [("dev/null", &b""[..]), ("dev/full", b"content")] {
                fs::write(mounted.path().join(name), content).unwrap();
                let mode = fs::metadata(mounted.path().join(name)).unwrap().mode() & 0o7777;
                forge(&mounted.path().join(name), &format!("0:0:0{mode:o}:char-1-3"));
            }
            mounted.unmount().unwrap();
            for entry in ways_out(&world, &container, "dev/null") {
                assert!(matches!(entry.kind, Kind::Char(..)), "{privilege:?}, {driver}: {entry:?}");
                assert!(entry.xattrs.is_empty());
            }
            for entry in ways_out(&world, &container, "dev/full") {
                assert_eq!(entry.kind, Kind::File(b"content".to_vec()), "{privilege:?}, {driver}");
            }
            // Here it stays what it is, however often it is committed.
            let image = container.commit(&CommitOptions::default()).unwrap();
            let again = world.store.create_container(&image, &CreateOptions::default()).unwrap();
            let mounted = again.mount().unwrap();
            let found = fs::symlink_metadata(mounted.path().join("dev/null")).unwrap();
            assert!(!found.file_type().is_char_device(), "{privilege:?}, {driver}");
            mounted.unmount().unwrap();
        }
    });
}

#[test]
fn a_record_that_came_with_an_image_is_none_anywhere() {
    let layer = tar()
        .dir("dev")
        .file("dev/mem", "")
        .mode(0o600)
        .xattr(KEYS[0], "0:0:0600:char-1-1")
        .file("su", "#!/bin/sh")
        .xattr(KEYS[1], "0:0:104755")
        .dir("home")
        .xattr(KEYS[0], "1000:1000:0777:dir");
    let expected = tar().dir("dev").file("dev/mem", "").mode(0o600).file("su", "#!/bin/sh").dir("home");
    privilege::under_with_fuse(ALL, |privilege| {
        for &driver in drivers(privilege) {
            let world = World::driver(driver);
            let base = world.load_image(&image().layer(layer.clone().finish()).name("base"));
            let container = world.store.create_container(&base, &CreateOptions::default()).unwrap();
            let expected = tree_of(&expected.clone().finish()).without_root();
            let what = format!("{privilege:?}, {driver}");
            exported(&container).without_root().assert_same(&expected, &what);
            let mounted = container.mount().unwrap();
            for name in ["dev/mem", "su", "home"] {
                fs::set_permissions(mounted.path().join(name), PermissionsExt::from_mode(0o700)).unwrap();
            }
            mounted.unmount().unwrap();
            let image = container.commit(&CommitOptions::default()).unwrap();
            for entry in untar::entries(&layer_of(&world, &image, 1)) {
                assert!(!matches!(entry.kind, Kind::Char(..)), "{what}: {entry:?}");
                assert!(
                    entry.name == b"./" || entry.name == b"dev/" || entry.mode == 0o700,
                    "{what}: {entry:?}"
                );
                assert_eq!((entry.uid, entry.xattrs.len()), (0, 0), "{what}: {entry:?}");
            }
        }
    });
}
