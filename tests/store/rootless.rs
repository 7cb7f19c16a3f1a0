//! What a store means does not depend on who keeps it.

use std::fs;
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::Path;
use std::process::Command;

use plywood::driver::{Driver, DriverKind, IdMap, OverlayDriver, RootOptions, RootSpec};
use plywood::fs::Dir;
use plywood::layer::{LayerKey, LayerStore};
use plywood::stack::Stack;
use plywood::store::{CommitOptions, CreateOptions, DriverChoice, Image, Store};
use plywood::whiteout::Namespace;

use crate::common::image::image;
use crate::common::privilege::{self, ALL, Privilege};
use crate::common::tar::tar;
use crate::common::{have, run_command, scratch};
use crate::world::*;

/// Makes a container, edits it and commits.
fn edited(world: &World, options: CreateOptions<'_>) -> Image {
    let image = world.store.image("sample:1").unwrap_or_else(|_| world.load_image(&sample()));
    let container = world.store.create_container(&image, &options).unwrap();
    let mounted = container.mount().unwrap_or_else(|error| panic!("{}", chain(&error)));
    edit(mounted.path());
    mounted.unmount().unwrap();
    container.commit(&CommitOptions::default()).unwrap_or_else(|error| panic!("{}", chain(&error)))
}

fn top(image: &Image) -> String {
    image.manifest().layers.last().unwrap().digest.to_string()
}

/// The layer of [`edit`] as root writes it on overlayfs. It changes when layers are written in another way.
const EDITED: &str = "sha256:617eb0388eaa5539dd237b706980bc2121010ca233077d75dff626e7d9ef0781";

#[test]
fn whoever_loads_edits_and_commits_writes_the_layer_that_root_would_write() {
    privilege::under(ALL, |privilege| {
        for &kind in drivers(privilege) {
            let world = World::driver(kind);
            assert_eq!(top(&edited(&world, CreateOptions::default())), EDITED, "{privilege:?}, {kind}");
        }
    });
}

#[test]
fn owners_are_translated_back_when_a_root_with_other_ids_is_committed() {
    privilege::under(&[Privilege::Root], |_| {
        let world = World::driver(DriverKind::Overlay);
        let mut root = RootOptions::default();
        root.ids = Some(IdMap::range(300_000, 65_536).unwrap());
        let commit = |first: u32, root: RootOptions| {
            let image = world.store.image("sample:1").unwrap_or_else(|_| world.load_image(&sample()));
            let container =
                world.store.create_container(&image, &CreateOptions::default().root(root)).unwrap();
            let mounted = container.mount().unwrap_or_else(|error| panic!("{}", chain(&error)));
            edit(mounted.path());
            // Owners as the host sees them.
            for (name, id) in [("etc/hostname", 5), ("home/user/moved", 1000), ("data/symlink", 7)] {
                std::os::unix::fs::lchown(mounted.path().join(name), Some(first + id), Some(first + id + 1))
                    .unwrap();
            }
            mounted.unmount().unwrap();
            let listed = changes(&container);
            let image = container.commit(&CommitOptions::default()).unwrap();
            (listed, export(&container), top(&image))
        };
        assert_eq!(commit(300_000, root), commit(0, RootOptions::default()));
    });
}

#[test]
fn a_map_of_ids_that_leaves_owners_out_is_refused_by_name() {
    privilege::under(&[Privilege::Root], |_| {
        let world = World::driver(DriverKind::Overlay);
        let image = world.load_image(&sample());
        let create = |store: &Store, count: u32| {
            let mut root = RootOptions::default();
            root.ids = Some(IdMap::range(300_000, count).unwrap());
            store.create_container(&image, &CreateOptions::default().root(root))
        };
        let error = chain(&world.refuse(|store| create(store, 1000)));
        assert!(error.contains("user 1000") && error.contains("map more ids"), "{error}");
        create(&world.store, 1001).unwrap();
    });
}

/// Tells a copy of this binary which store to read.
const SHARED: &str = "PLYWOOD_TEST_SHARED_STORE";

#[test]
fn a_rootless_reader_of_roots_store_unpacks_layers_of_its_own_and_sees_what_root_sees() {
    if let Some(path) = std::env::var_os(SHARED) {
        return read_as_somebody_else(Path::new(&path));
    }
    privilege::under(&[Privilege::Root], |_| {
        if !have(&["setpriv", "unshare"]) {
            return;
        }
        let world = World::driver(DriverKind::Overlay);
        fs::set_permissions(world.beside(""), fs::Permissions::from_mode(0o755)).unwrap();
        let image = world.load_image(&sample());
        let container = world.store.create_container(&image, &CreateOptions::named("roots")).unwrap();
        // Whoever shares a store lets others in.
        for name in ["", "layers", "containers", "names", "views", "locks", "staging", "cache"] {
            fs::set_permissions(world.path().join(name), fs::Permissions::from_mode(0o755)).unwrap();
        }
        for name in names_in(&world.path().join("layers")) {
            // Also what only its owner may read in the image, to compare all of it.
            run_command(
                Command::new("chmod").arg("-R").arg("a+rX").arg(world.path().join("layers").join(name)),
            );
        }
        let own = world.path().join("containers").join(container.id());
        run_command(Command::new("chmod").arg("-R").arg("a+rX").arg(own));
        let home = scratch();
        chown(home.path(), Some(61_234), Some(61_234)).unwrap();
        let binary = home.path().join("reader");
        fs::copy(std::env::current_exe().unwrap(), &binary).unwrap();
        let test =
            "rootless::a_rootless_reader_of_roots_store_unpacks_layers_of_its_own_and_sees_what_root_sees";
        let words = ["--reuid=61234", "--regid=61234", "--clear-groups", "unshare", "--user", "--mount"];
        let done = run_command(
            Command::new("setpriv")
                .args(words)
                .arg("--map-root-user")
                .arg(&binary)
                .args(["--exact", test, "--nocapture"])
                .env(SHARED, world.path())
                .env("TMPDIR", home.path()),
        );
        assert!(String::from_utf8_lossy(&done.stdout).contains("1 passed"));
    });
}

fn read_as_somebody_else(path: &Path) {
    let store = Store::open(path).unwrap();
    let info = store.info().unwrap();
    assert!(info.read_only, "{info:?}");
    let image = store.image("sample:1").unwrap();
    let names: Vec<_> = sample_tree().0.into_keys().collect();
    let container = store.container("roots").unwrap();
    assert_eq!(image.id(), container.image_id());
    // What root's containers deleted is in attributes that only root can read: nothing is told rather than too much.
    let error = container.export(std::io::sink(), &Default::default()).unwrap_err();
    assert_eq!(error.kind(), "foreign-marks", "{}", chain(&error));

    // Nor does it see what root's layers delete: it does not stack them.
    let open = |name: &str| Dir::open_ambient(path.join(name)).unwrap();
    let layers = LayerStore::new(open("layers"), open("locks"));
    let roots = |id| {
        assert!(layers.get(LayerKey::Free(id)).unwrap().is_none());
        let layer = layers.get_any(LayerKey::Free(id)).unwrap().unwrap();
        assert!(!layer.shows_marks());
        layer
    };
    let stack: Vec<_> = image.diff_ids().iter().map(|id| roots(*id)).collect();
    let stack = Stack::new(stack.iter().rev().map(|layer| &layer.tree));
    let own = scratch();
    let dir = Dir::open_ambient(own.path()).unwrap();
    let driver = OverlayDriver::new(Namespace::User, true);
    let spec = RootSpec::new(&stack, &dir, "plywood:shared");
    let refused = driver.prepare(&spec).unwrap_err();
    assert!(refused.to_string().contains("has its marks in trusted.overlay.*"), "{refused}");

    // In a store of its own it has them from root's blobs.
    let own = options().driver(DriverChoice::Only(DriverKind::Overlay)).additional(path);
    let store = own.create(dir.path_of("own")).unwrap();
    let image = store.image("sample:1").unwrap();
    let container = store.create_container(&image, &CreateOptions::default()).unwrap();
    let mounted = container.mount().unwrap_or_else(|error| panic!("{}", chain(&error)));
    let seen = seen(mounted.path());
    assert_eq!(seen.0.keys().cloned().collect::<Vec<_>>(), names);
    for (name, node) in &seen.0 {
        assert_eq!(node.kind, held(sample_tree(), Privilege::SingleId).0[name].kind, "{name:?}");
    }
    fs::remove_file(mounted.path().join("data")).unwrap();
    fs::write(mounted.path().join("new"), "").unwrap();
    mounted.unmount().unwrap();
}

#[test]
fn ids_beyond_those_of_the_namespace_are_kept_or_it_is_said_what_to_do() {
    privilege::under(&[Privilege::IdRange, Privilege::SingleId], |privilege| {
        let layer =
            tar().file("file", "x").owner(70_000, 70_001).symlink("link", "file").owner(70_000, 70_001);
        let spec = image().layer(layer.finish()).name("docker.io/library/far:1");
        let world = World::driver(DriverKind::Overlay);
        let archive = crate::common::image::Layout::of(&spec).oci_archive();
        let loaded = world.store.load(&archive[..], &Default::default()).unwrap().remove(0);
        let [warning] = &loaded.warnings[..] else { panic!("{:?}", loaded.warnings) };
        let expected = "link: owner 70000:70001 cannot be kept: this user namespace has no such id; \
                        give it more (/etc/subuid and /etc/subgid)";
        assert!(warning.contains(expected), "{privilege:?}: {warning}");
        let container = world.store.create_container(&loaded.image, &CreateOptions::default()).unwrap();
        let told = exported(&container);
        assert_eq!((told.0[Path::new("file")].uid, told.0[Path::new("file")].gid), (70_000, 70_001));
    });
}
