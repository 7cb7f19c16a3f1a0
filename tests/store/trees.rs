//! What a container shows, beside what the model says and what GNU tar and the kernel make of the same layers.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

use plywood::driver::DriverKind;
use plywood::store::{CreateOptions, RemoveContainer};
use proptest::prelude::*;

use crate::common::image::{Layout, image};
use crate::common::privilege::{self, ALL, MOUNTING, Privilege};
use crate::common::tar::Kind::Link;
use crate::common::tar::{Entry, Tar, tar, tar_of};
use crate::common::{kernel, model, random};
use crate::world::*;

/// Attributes, devices and times that only root can give a file.
fn for_root() -> Vec<Tar> {
    let capability = [1, 0, 0, 2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    let acl = {
        // user::rw-, user:1000:r--, group::r--, mask::r--, other::---
        let mut acl = 2_u32.to_le_bytes().to_vec();
        for (tag, permissions, id) in
            [(1_u16, 6_u16, u32::MAX), (2, 4, 1000), (4, 4, u32::MAX), (16, 4, u32::MAX), (32, 0, u32::MAX)]
        {
            acl.extend([tag.to_le_bytes(), permissions.to_le_bytes()].concat());
            acl.extend(id.to_le_bytes());
        }
        acl
    };
    let below = tar()
        .dir("./")
        .mode(0o711)
        .owner(3, 4)
        .xattr("user.root", "yes")
        .mtime(1_000_000_000, 999_999_999)
        .dir("bin")
        .file("bin/ping", "ping")
        .mode(0o755)
        .xattr("security.capability", capability)
        .file("bin/acl", "acl")
        .mode(0o640)
        .xattr("system.posix_acl_access", &acl)
        .file("bin/trusted", "trusted")
        .xattr("trusted.note", "for root")
        .symlink("bin/link", "ping")
        .owner(65_534, 65_533)
        .mtime(7, 70)
        .char_device("tty", 4, 64)
        .owner(0, 5)
        .fifo("pipe")
        .owner(9, 9)
        .file("future", "")
        .mtime(4_000_000_000, 1)
        .file("owner", "")
        .owner(4_000_000_000, 3_999_999_999)
        .dir("var")
        .dir("var/lib")
        .file("var/lib/one", "1")
        .link("var/lib/two", "var/lib/one")
        .symlink("var/lib/soft", "one")
        .link("var/lib/softer", "var/lib/soft");
    let above = tar()
        .file("bin/ping", "another")
        .mode(0o4711)
        .whiteout("bin/acl")
        .dir("var")
        .mode(0o700)
        .opaque("var")
        .file("var/new", "new")
        .fifo("bin/trusted")
        .dir("./")
        .mode(0o1755);
    vec![below, above]
}

#[test]
fn gnu_tar_and_the_kernel_show_the_same() {
    privilege::under(&[Privilege::Root], |_| {
        for layers in [layers(), for_root()] {
            let tars: Vec<_> = layers.iter().map(|layer| layer.clone().finish()).collect();
            let entries: Vec<_> = layers.iter().map(Tar::entries).collect();
            let reference = kernel::stack_bytes(&tars);
            let expected = seen(&reference.path());
            expected
                .assert_same(&model::stack(entries.iter().map(Vec::as_slice)), "the kernel and the model");
            for kind in [DriverKind::Overlay, DriverKind::Copy] {
                let world = World::driver(kind);
                let loaded =
                    world.load_image(&tars.iter().fold(image(), |image, tar| image.layer(tar.clone())));
                let container = world.store.create_container(&loaded, &CreateOptions::default()).unwrap();
                let mounted = container.mount().unwrap();
                seen(mounted.path()).assert_same(&expected, &format!("{kind} and the kernel"));

                // The export, unpacked by GNU tar, is the root again.
                let (file, dir) = (world.beside("export.tar"), world.beside("untarred"));
                std::fs::write(&file, export(&container)).unwrap();
                std::fs::create_dir(&dir).unwrap();
                kernel::untar(&file, &dir);
                seen(&dir).assert_same(&expected.clone().without_holes(), &format!("{kind}: the export"));
            }
        }
    });
}

#[test]
fn a_link_is_to_what_was_there_when_it_came() {
    let file = || tar().file("c/a", "below").file("a", "below").mode(0o600);
    let directory = || tar().dir("c").mode(0o700).file("a", "below");
    privilege::under(&[Privilege::Root], |privilege| {
        let world = World::driver(DriverKind::Overlay);
        for (below, above) in [
            // A later entry takes the place of the target, or of a directory above it, or of the link.
            (file(), tar().link("b", "a").file("a", "above")),
            (file(), tar().link("b", "c/a").fifo("c").file("c/a", "above")),
            (file(), tar().link("b", "c/a").link("c/a/x/y", "b").dir("c").mode(0o711)),
            (directory(), tar().file("c", "above").link("c", "a").file("c/x", "above")),
            (directory(), tar().link("c", "a").dir("c").mode(0o711)),
            // A circle, unless there is something below.
            (file(), tar().link("b", "c/a").link("c/a", "b")),
            // Nothing below: the later entry is what is meant.
            (directory(), tar().link("b", "new").file("new", "above")),
        ] {
            show(&world, &[below.entries(), above.entries()], privilege);
        }
    });
}

#[test]
fn random_layers_show_what_they_mean() {
    privilege::under(ALL, |privilege| {
        let worlds: Vec<_> = drivers(privilege).iter().map(|&kind| World::driver(kind)).collect();
        let config = config(if privilege == Privilege::Root { 40 } else { 12 });
        proptest!(config, |(layers in random::layers(4))| {
            prop_assume!(!layers.iter().any(|layer| links_in_vain(layer)));
            for world in &worlds {
                show(world, &layers, privilege);
            }
        });
    });
}

/// `PROPTEST_CASES` asks for more cases than it takes to be quick.
fn config(quick: u32) -> ProptestConfig {
    let cases = std::env::var("PROPTEST_CASES").ok().and_then(|cases| cases.parse().ok()).unwrap_or(quick);
    ProptestConfig { cases, failure_persistence: None, max_shrink_iters: 400, ..ProptestConfig::default() }
}

/// Whether a layer links a file and then takes the link away: whether the file was copied up for that is nobody's
/// business, but shows in what else it is linked to.
fn links_in_vain(layer: &[Entry]) -> bool {
    let path = |entry: &Entry| PathBuf::from(OsStr::from_bytes(&entry.name));
    let links = layer.iter().enumerate().filter(|(_, entry)| matches!(entry.kind, Link(_)));
    links.map(|(at, link)| (&layer[at + 1..], path(link))).any(|(later, link)| {
        later.iter().map(path).any(|later| link.starts_with(&later) || later.starts_with(&link))
    })
}

fn show(world: &World, layers: &[Vec<Entry>], privilege: Privilege) {
    let expected = model::stack(layers.iter().map(Vec::as_slice));
    let spec = layers.iter().fold(image(), |image, layer| image.layer(tar_of(layer)));
    let image = world.load(Layout::of(&spec).oci_archive());
    let container = world.store.create_container(&image, &CreateOptions::default()).unwrap();
    let what = format!("{privilege:?}, {}", container.driver());
    let mounted = container.mount().unwrap();
    seen(mounted.path()).assert_same(&held(expected.clone(), privilege), &what);
    exported(&container).assert_same(&told(expected, privilege), &format!("{what}, export"));
    assert_eq!(changes(&container), Vec::<String>::new());
    mounted.unmount().unwrap();
    container.remove(RemoveContainer::Refuse).unwrap();
    world.store.remove_image(&image.digest().to_string(), Default::default()).unwrap();
    world.store.gc(&Default::default()).unwrap();
}

#[test]
fn the_kernel_shows_random_layers_as_a_container_does() {
    privilege::under(&[Privilege::Root], |_| {
        let world = World::driver(DriverKind::Overlay);
        let config = config(16);
        proptest!(config, |(layers in random::layers(3))| {
            let layers: Vec<_> = layers.iter().map(|layer| tar_of(&random::for_gnu_tar(layer))).collect();
            let reference = kernel::stack_bytes(&layers);
            let spec = layers.iter().fold(image(), |image, layer| image.layer(layer.clone()));
            let image = world.load_image(&spec);
            let container = world.store.create_container(&image, &CreateOptions::default()).unwrap();
            let mounted = container.mount().unwrap();
            seen(mounted.path()).assert_same(&seen(&reference.path()), "the kernel");
        });
    });
}

#[test]
fn an_image_without_layers_is_an_empty_root() {
    privilege::under(ALL, |privilege| {
        for &kind in drivers(privilege) {
            let world = World::driver(kind);
            let image = world.load_image(&image().name("docker.io/library/nothing:latest"));
            let container = world.store.create_container(&image, &CreateOptions::default()).unwrap();
            let mounted = container.mount().unwrap();
            assert_eq!(seen(mounted.path()).names(), [""; 0], "{privilege:?}, {kind}");
            std::fs::write(mounted.path().join("file"), "first").unwrap();
            mounted.unmount().unwrap();
            let committed = container.commit(&Default::default()).unwrap();
            assert_eq!(committed.diff_ids().len(), 1);
            assert_eq!(exported(&container).names(), ["file"]);
        }
    });
}

#[test]
fn the_same_layer_twice_is_stacked_once() {
    privilege::under(ALL, |privilege| {
        for &kind in drivers(privilege) {
            let world = World::driver(kind);
            let (one, other) = (tar().file("file", "one").finish(), tar().whiteout("file").finish());
            let spec = image().layer(one.clone()).layer(other).layer(one);
            let image = world.load_image(&spec);
            let container = world.store.create_container(&image, &CreateOptions::default()).unwrap();
            let mounted = container.mount().unwrap();
            assert_eq!(std::fs::read(mounted.path().join("file")).unwrap(), b"one", "{privilege:?}, {kind}");
            assert_eq!(exported(&container).names(), ["file"]);
            std::fs::remove_file(mounted.path().join("file")).unwrap();
            assert_eq!(changes(&container), ["D /file"]);
        }
    });
}

#[test]
fn a_view_shows_an_image_and_takes_no_change() {
    privilege::under(MOUNTING, |privilege| {
        let world = World::driver(DriverKind::Overlay);
        let image = world.load_image(&sample());
        let path = world.store.mount_image(&image).unwrap_or_else(|error| panic!("{}", chain(&error)));
        seen(&path).assert_same(&held(sample_tree(), privilege), &format!("{privilege:?}"));
        let refused = std::fs::write(path.join("etc/passwd"), "").unwrap_err();
        assert_eq!(refused.kind(), std::io::ErrorKind::ReadOnlyFilesystem, "{privilege:?}");

        // Whoever comes next looks at the same view, and nobody ends it under somebody's feet.
        let open = std::fs::File::open(path.join("etc/passwd")).unwrap();
        assert_eq!(world.again().mount_image(&image).unwrap(), path);
        assert_eq!(world.store.image_mounted(&image).unwrap(), Some(path.clone()));
        assert_eq!(world.store.unmount_image(&image).unwrap_err().kind(), "busy");
        drop(open);
        assert_eq!(world.store.image_mounted(&image).unwrap(), Some(path));
        world.store.unmount_image(&image).unwrap_or_else(|error| panic!("{}", chain(&error)));
        world.store.unmount_image(&image).unwrap();
        assert_eq!(world.store.image_mounted(&image).unwrap(), None);
        assert!(names_in(&world.path().join("views")).is_empty());
    });
}

#[test]
fn a_view_that_cannot_be_mounted_leaves_nothing() {
    privilege::under(ALL, |_| {
        let world = World::driver(DriverKind::Copy);
        let image = world.load_image(&sample());
        let error = world.refuse(|store| store.mount_image(&image));
        assert_eq!(error.kind(), "driver-refused", "{}", chain(&error));
    });
}
