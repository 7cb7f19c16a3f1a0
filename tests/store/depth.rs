//! Trees deeper than any path can name.

use std::fs::File;

use plywood::driver::DriverKind;
use plywood::fs::Dir;
use plywood::store::{CheckOptions, Container, CreateOptions, RemoveContainer};

use crate::common::image::image;
use crate::common::privilege::{self, Privilege};
use crate::common::tar::tar;
use crate::world::*;

/// What limits handles to far fewer than a tree has levels.
fn with_few_handles(body: impl Fn()) {
    let limits = rustix::process::getrlimit(rustix::process::Resource::Nofile);
    let few = rustix::process::Rlimit { current: Some(256), maximum: limits.maximum };
    rustix::process::setrlimit(rustix::process::Resource::Nofile, few).unwrap();
    body();
    rustix::process::setrlimit(rustix::process::Resource::Nofile, limits).unwrap();
}

/// The directory at the end of `levels` directories `name` in `root`, which are made where they are missing.
fn descend(root: &Dir, name: &str, levels: usize) -> Dir {
    (0..levels).fold(root.try_clone().unwrap(), |at, _| at.ensure_dir(name, 0o755).unwrap())
}

fn container(world: &World, levels: usize) -> Container {
    let deep = vec!["d"; levels].join("/");
    let image = world.load_image(&image().layer(tar().dir("d").mode(0o750).finish()).layer(
        // Neither layer has entries for the directories.
        tar().file(format!("{deep}/f"), "deep").finish(),
    ));
    world
        .store
        .create_container(&image, &CreateOptions::default())
        .unwrap_or_else(|error| panic!("{}", chain(&error)))
}

#[test]
fn a_tree_deeper_than_any_path_is_cloned_measured_and_removed_and_refused_by_name() {
    privilege::under(&[Privilege::Root, Privilege::Plain], |privilege| {
        for &kind in drivers(privilege).iter().filter(|kind| **kind != DriverKind::Fuse) {
            with_few_handles(|| {
                let what = format!("{privilege:?}, {kind}");
                let world = World::driver(kind);
                let container = container(&world, 3);
                let levels = 20_000;
                let mounted = container.mount().unwrap();
                let root = Dir::open_ambient(mounted.path()).unwrap();
                let end = descend(&root, "a", levels);
                end.create_file("one", 0o644).unwrap();
                end.hard_link("one", &end, "two").unwrap();
                drop((end, root));
                mounted.unmount().unwrap();
                let usage = container.usage().unwrap();
                let clone = container
                    .clone_as(&CreateOptions::default())
                    .unwrap_or_else(|error| panic!("{what}: {}", chain(&error)));
                assert_eq!(clone.usage().unwrap().inodes, usage.inodes, "{what}");
                let mounted = clone.mount().unwrap();
                let end = descend(&Dir::open_ambient(mounted.path()).unwrap(), "a", levels);
                let stat = end.stat("two").unwrap();
                assert_eq!((stat.links, stat.inode), (2, end.stat("one").unwrap().inode), "{what}");
                drop(end);
                mounted.unmount().unwrap();
                for error in [
                    clone.commit(&Default::default()).unwrap_err(),
                    clone.changes().unwrap_err(),
                    clone
                        .export(File::create(world.beside("tar")).unwrap(), &Default::default())
                        .unwrap_err(),
                ] {
                    let text = chain(&error);
                    assert!(
                        text.contains("/a/a/a/") && text.contains("4095") && text.len() < 500,
                        "{what}: {text}"
                    );
                }
                assert!(world.store.check(&CheckOptions::default()).unwrap().damages.is_empty(), "{what}");
                clone.remove(RemoveContainer::Refuse).unwrap();
                container.remove(RemoveContainer::Refuse).unwrap();
                world.store.gc(&Default::default()).unwrap();
                assert!(names_in(&world.path().join("containers")).is_empty(), "{what}");
            });
        }
    });
}
