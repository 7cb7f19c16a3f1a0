//! One contract for every driver: what programs do to a root has the effect that it has in an ordinary directory, is
//! there after a remount, is told by `changes` and by an export, and lives on in an image made of it.
//!
//! Every edit of [`edits`] runs under every privilege on every driver that has it, beside the same edit on a copy made
//! with cp(1). [`oracle`] tells from snapshots what must be listed.

mod edits;
mod oracle;
mod random;

use std::path::{Path, PathBuf};
use std::process::Command;

use plywood::driver::{DriverKind, RootOptions};
use plywood::store::{Container, CreateOptions, Image};

use crate::common::privilege::{self, ALL, Privilege};
use crate::common::run_command;
use crate::common::tree::{Kind, Tree, snapshot};
use crate::world::*;
use edits::{EDITS, Edit, MARKING, REFUSED_BY_FUSE, mv};

/// Any time after this one is of the test itself.
const IMAGES_ARE_OLDER: i64 = 1_760_000_000;

/// Without the times that the clock gave: two runs of one edit differ in them.
fn but_now(tree: Tree) -> Tree {
    tree.without_holes().without_mtimes(|_, node| (IMAGES_ARE_OLDER..4_000_000_000).contains(&node.mtime.0))
}

/// What fuse-overlayfs gets right of an edit: it touches the directories above what it copies up, takes their setgid bits
/// and the times of links away, and has its own mind about default access control lists.
fn content(tree: Tree) -> Tree {
    without_links(tree).without_mtimes(|_, _| true).without_xattrs(|_| true).map(|_, node| node.mode = 0)
}

fn without_links(tree: Tree) -> Tree {
    tree.map(|_, node| node.linked_as = None)
}

/// What a layer can hold of it.
fn storable(mut tree: Tree) -> Tree {
    tree.0.retain(|_, node| node.kind != Kind::Socket);
    tree.without_holes()
}

/// A store with one image, and a plain directory that holds what a container of it shows.
struct Bench {
    world: World,
    image: Image,
    plain: PathBuf,
    before: Tree,
    privilege: Privilege,
    /// Of the containers that are edited.
    root: RootOptions,
}

impl Bench {
    fn new(kind: DriverKind, privilege: Privilege) -> Self {
        let world = World::driver(kind);
        let image = world.load_image(&sample());
        let plain = world.beside("plain");
        let container = world.store.create_container(&image, &CreateOptions::default()).unwrap();
        let mounted = container.mount().unwrap();
        copy(mounted.path(), &plain);
        let before = seen(mounted.path());
        but_now(seen(&plain)).assert_same(&but_now(before.clone()), "cp -a");
        Self { world, image, plain, before, privilege, root: RootOptions::default() }
    }

    fn container(&self, image: &Image) -> Container {
        self.world
            .store
            .create_container(image, &CreateOptions::default().root(self.root.clone()))
            .unwrap_or_else(|error| panic!("{}", chain(&error)))
    }

    fn holds(&self, edit: &Edit) {
        let container = self.container(&self.image);
        let what =
            |step: &str| format!("{}, {:?}, {}: {step}", container.driver(), self.privilege, edit.name);
        let plain = self.world.beside("edited");
        copy(&self.plain, &plain);
        (edit.done)(&plain);
        let expected = seen(&plain);

        let mounted = container.mount().unwrap();
        (edit.done)(mounted.path());
        let root = seen(mounted.path());
        let comparable = |tree: Tree| match (container.driver(), self.privilege) {
            // The kernel cannot keep the inode number of what it copies up, so until the next mount a file from below
            // and its new names have different ones.
            (DriverKind::Overlay, Privilege::IdRange | Privilege::SingleId) => without_links(tree),
            (DriverKind::Fuse, _) => content(tree),
            _ => tree,
        };

        comparable(but_now(root.clone()))
            .assert_same(&comparable(but_now(expected.clone())), &what("the root"));
        // What is told has to be right for what there is.
        let expected = if container.driver() == DriverKind::Fuse { root.clone() } else { expected };
        let listed = oracle::changes(&self.before, &expected);
        assert_eq!(changes(&container), listed, "{}", what("changes while mounted"));
        mounted.unmount().unwrap_or_else(|error| panic!("{}: {}", what("unmount"), chain(&error)));
        assert_eq!(changes(&container), listed, "{}", what("changes at rest"));

        let mounted = container.mount().unwrap();
        let again = seen(mounted.path());
        comparable(again.clone()).assert_same(&comparable(root), &what("mounted again"));
        if container.driver() != DriverKind::Fuse {
            but_now(again.clone()).assert_same(&but_now(expected), &what("mounted again"));
        }
        drop(mounted);
        let root = storable(again);
        let told = held(tree_of(&export(&container)), self.privilege);
        told.without_holes().assert_same(&root, &what("export"));

        let image = container.commit(&Default::default()).unwrap_or_else(|error| panic!("{}", chain(&error)));
        let next = self.container(&image);
        let mounted = next.mount().unwrap();
        storable(seen(mounted.path())).assert_same(&root, &what("a container of the commit"));
        assert_eq!(changes(&next), Vec::<String>::new(), "{}", what("changes of the new container"));
        run_command(Command::new("rm").arg("-rf").arg(&plain));
    }
}

fn copy(from: &Path, to: &Path) {
    run_command(Command::new("cp").args(["-aT", "--sparse=auto"]).arg(from).arg(to));
}

#[test]
fn an_edit_has_the_effect_that_it_has_in_an_ordinary_directory() {
    privilege::under_with_fuse(ALL, |privilege| {
        for &kind in drivers(privilege) {
            let bench = Bench::new(kind, privilege);
            let possible = |edit: &&Edit| kind != DriverKind::Fuse || !REFUSED_BY_FUSE.contains(&edit.name);
            for edit in EDITS.iter().filter(|edit| (edit.allowed)(privilege)).filter(possible) {
                bench.holds(edit);
            }
        }
    });
}

/// Runs every edit on copies in a store in a directory, and what else a copy promises there.
pub fn copies_hold_in(directory: &Path) {
    tempfile::env::override_temp_dir(directory)
        .expect("this process runs one test, which asks for one directory");
    let bench = Bench::new(DriverKind::Copy, Privilege::Root);
    EDITS.iter().filter(|edit| (edit.allowed)(Privilege::Root)).for_each(|edit| bench.holds(edit));
}

#[test]
fn an_edit_is_told_alike_where_renames_and_changes_of_metadata_leave_marks() {
    privilege::under(&[Privilege::Root], |privilege| {
        let mut bench = Bench::new(DriverKind::Overlay, privilege);
        for (redirect_dir, metacopy) in [(true, false), (false, true)] {
            (bench.root.redirect_dir, bench.root.metacopy) = (redirect_dir, metacopy);
            EDITS.iter().chain(MARKING).for_each(|edit| bench.holds(edit));
        }
    });
}

#[test]
fn a_commit_of_an_upper_directory_with_marks_is_that_of_one_without() {
    privilege::under(&[Privilege::Root], |privilege| {
        let mut bench = Bench::new(DriverKind::Overlay, privilege);
        let store = bench.world.path();
        let marks = |container: &Container| {
            let upper = store.join("containers").join(container.id()).join("upper");
            let marked =
                |name: &&[u8]| [&b"trusted.overlay.redirect"[..], b"trusted.overlay.metacopy"].contains(name);
            let nodes = snapshot(upper).0.into_values();
            nodes.flat_map(|node| node.xattrs.into_keys()).filter(|name| marked(&name.as_slice())).count()
        };
        let edited = |bench: &Bench| {
            let container = bench.container(&bench.image);
            let mounted = container.mount().unwrap();
            let at = |name: &str| mounted.path().join(name);
            mv(mounted.path(), "usr/lib", "home/lib");
            std::fs::set_permissions(at("bin/su"), std::os::unix::fs::PermissionsExt::from_mode(0o755))
                .unwrap();
            for (seconds, name) in ["home/lib", "home", "usr", "bin", ""].iter().enumerate() {
                touch(&at(name), 1_700_000_000 + seconds as i64, 0);
            }
            mounted.unmount().unwrap();
            container
        };
        let without = edited(&bench);
        assert_eq!(marks(&without), 0);
        bench.root.metacopy = true;
        let with = edited(&bench);
        assert_eq!(marks(&with), 2);
        let layers = [without, with].map(|container| {
            let image = container.commit(&Default::default()).unwrap();
            image.manifest().layers.last().unwrap().digest
        });
        assert_eq!(layers[0], layers[1]);
    });
}
