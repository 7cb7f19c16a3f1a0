//! Whatever is done to a root, every driver tells the same of it.

use std::path::{Path, PathBuf};

use plywood::driver::DriverKind;
use plywood::store::{Container, CreateOptions, Mounted};
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};

use super::storable;
use crate::common::edit::{Edit, an_edit};
use crate::common::privilege::{self, ALL, Privilege};
use crate::common::tree::snapshot;
use crate::world::*;

/// Runs with each privilege.
const CASES: u32 = 12;

/// A container of one driver, mounted.
struct Contender {
    container: Container,
    mounted: Mounted,
    world: World,
}

/// Image and edits are the same for all: a base that a process left in a directory, packed by GNU tar.
fn agree(privilege: Privilege, base: &[Edit], edits: &[Edit]) {
    let scratch = crate::common::scratch();
    let plain = scratch.path().join("plain");
    std::fs::create_dir(&plain).unwrap();
    act(&[&plain], base, 0);
    let layer = crate::common::run(
        "tar",
        ["-C", plain.to_str().unwrap(), "--xattrs", "--xattrs-include=*", "-c", "--format=pax", "."],
    );
    let archive = crate::common::image::Layout::of(&crate::common::image::image().layer(layer)).oci_archive();

    let contenders: Vec<_> = drivers(privilege).iter().map(|&kind| contender(kind, &archive)).collect();
    let roots: Vec<_> = contenders.iter().map(|contender| contender.mounted.path().to_owned()).collect();
    let roots: Vec<&Path> = roots.iter().map(PathBuf::as_path).collect();
    act(&roots, edits, 1000);

    let stories: Vec<_> = contenders
        .into_iter()
        .map(|contender| {
            let Contender { container, mounted, world } = contender;
            let listed = changes(&container);
            mounted.unmount().unwrap();
            assert_eq!(changes(&container), listed);
            // In a user namespace only a new mount shows new names of a file from below as the same file.
            let mounted = container.mount().unwrap();
            let root = seen(mounted.path());
            drop(mounted);
            let image =
                container.commit(&Default::default()).unwrap_or_else(|error| panic!("{}", chain(&error)));
            let again = world.store.create_container(&image, &CreateOptions::default()).unwrap();
            let mounted = again.mount().unwrap();
            storable(seen(mounted.path())).assert_same(&storable(root.clone()), "a container of the commit");
            (container.driver(), root, listed, image.diff_ids().to_vec())
        })
        .collect();
    let (first, others) = stories.split_first().unwrap();
    for other in others {
        let what = format!("{} beside {}, {privilege:?}", other.0, first.0);
        other.1.clone().without_holes().assert_same(&first.1.clone().without_holes(), &what);
        assert_eq!((&other.2, &other.3), (&first.2, &first.3), "{what}");
    }
}

fn contender(kind: DriverKind, archive: &[u8]) -> Contender {
    let world = World::driver(kind);
    let image = world.load(archive);
    let container = world.store.create_container(&image, &CreateOptions::default()).unwrap();
    Contender { mounted: container.mount().unwrap(), container, world }
}

/// Does to all roots what can be done to the first.
fn act(roots: &[&Path], edits: &[Edit], first: usize) {
    for (step, edit) in edits.iter().enumerate().map(|(index, edit)| (first + index, edit)) {
        let edit = edit.resolved(&snapshot(roots[0]));
        if edit.apply(roots[0], step).is_ok() {
            for root in &roots[1..] {
                edit.apply(root, step)
                    .unwrap_or_else(|error| panic!("{edit:?} in {}: {error}", root.display()));
            }
        }
    }
}

/// Layers hold no sockets, and what is done to one of two names from below is another thing in a copy.
fn below(edits: Vec<Edit>) -> Vec<Edit> {
    edits.into_iter().filter(|edit| !matches!(edit, Edit::Socket(_) | Edit::Link(..))).collect()
}

/// Without directories that their owner may not enter: then there would be nothing to compare.
fn possible(privilege: Privilege, mut edits: Vec<Edit>) -> Vec<Edit> {
    let locks = |edit: &Edit| matches!(edit, Edit::Mode(_, mode) if mode & 0o700 != 0o700);
    edits.retain(|edit| privilege != Privilege::Plain || !locks(edit));
    edits
}

#[test]
fn every_driver_tells_the_same_of_the_same_edits() {
    let edits = |count| prop::collection::vec(an_edit(), count);
    privilege::under(ALL, |privilege| {
        let config =
            Config { cases: CASES, max_shrink_iters: 500, failure_persistence: None, ..Config::default() };
        TestRunner::new(config)
            .run(&(edits(5..40).prop_map(below), edits(0..25)), |(base, edits)| {
                agree(privilege, &possible(privilege, base), &possible(privilege, edits));
                Ok(())
            })
            .unwrap_or_else(|failure| panic!("{failure}"));
    });
}
