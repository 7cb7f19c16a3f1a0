//! Attributes of overlayfs's: a layer has marks of one family, those of an image are attributes, and a store whose layers have
//! both families is brought up to date as it is used.
//!
//! `tests/fixtures/store-1-marks.tar.zst` is a store that a version made which wrote marks of both families: an image with
//! deletions, opaque directories, a bound layer and attributes of either family; two images that share a layer on different
//! bases, so that one has a variant of it; a container that was edited; and the view of an image. See [`make_the_fixture`].

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::Command;

use plywood::container::CopyOutOptions;
use plywood::driver::DriverKind;
use plywood::store::{
    ArchiveFormat, CheckOptions, CommitOptions, Container, CreateOptions, DriverChoice, GcOptions, Image,
    RemoveContainer, RemoveImage, SaveOptions, Store,
};
use rustix::fs::XattrFlags;
use serde_json::Value;

use crate::common::image::{ImageSpec, Layout, image_of};
use crate::common::privilege::{self, ALL, MOUNTING, Privilege};
use crate::common::tar::{Tar, tar};
use crate::common::tree::{Tree, snapshot};
use crate::common::{self, run, run_command};
use crate::world::*;

/// Layers with deletions and with the attributes of storage of nested overlays in them.
fn nested(families: &[&str]) -> Vec<Tar> {
    let base = tar()
        .dir("a")
        .file("a/one", "1")
        .file("a/two", "2")
        .dir("b")
        .file("b/below", "x")
        .dir("d")
        .file("d/below", "below")
        .file("f", "f");
    let mut top = tar().whiteout("a/one").opaque("b").file("b/new", "new").dir("d").mode(0o750);
    for family in families {
        top =
            top.xattr(format!("{family}.overlay.opaque"), "y").xattr(format!("{family}.overlay.origin"), "");
    }
    top = top.file("d/deleted", "").mode(0o600);
    for family in families {
        top = top.xattr(format!("{family}.overlay.whiteout"), "");
        top = top.xattr(format!("{family}.overlay.overlay.deeper"), "1");
    }
    top = top.file("d/above", "above").xattr("user.plain", "p");
    for family in families {
        top = top.xattr(format!("{family}.overlay.x"), "image");
    }
    let bound = tar().link("linked", "f").file("undeclared/file", "x").whiteout("a/gone");
    vec![base, top, bound]
}

/// Families of attributes that somebody with this privilege can write.
fn writable(privilege: Privilege) -> &'static [&'static str] {
    match privilege {
        Privilege::Root => &["user", "trusted"],
        _ => &["user"],
    }
}

fn named(layers: &[Tar], name: &str) -> (ImageSpec, Tree) {
    let (mut spec, tree) = image_of(layers);
    spec.names = vec![format!("docker.io/library/{name}")];
    (spec, tree)
}

/// The attributes of either family, by path.
fn attributes(tree: &Tree) -> BTreeMap<PathBuf, Vec<(String, String)>> {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let mut found = BTreeMap::new();
    for (path, node) in &tree.0 {
        let ours = node.xattrs.iter().map(|(name, value)| (text(name), text(value)));
        let ours: Vec<_> = ours.filter(|(name, _)| name.contains(".overlay.")).collect();
        if !ours.is_empty() {
            found.insert(path.clone(), ours);
        }
    }
    found
}

fn set(path: &Path, name: &str, value: &str) {
    rustix::fs::lsetxattr(path, name, value.as_bytes(), XattrFlags::empty())
        .unwrap_or_else(|error| panic!("{}: {name}: {error}", path.display()));
}

#[track_caller]
fn create(store: &Store, image: &Image) -> Container {
    store
        .create_container(image, &CreateOptions::default())
        .unwrap_or_else(|error| panic!("{}", chain(&error)))
}

/// The record of every layer directory.
fn records(store: &Path) -> BTreeMap<String, Value> {
    let read = |name: String| {
        let file = store.join("layers").join(&name).join("layer.json");
        let record = serde_json::from_slice(&fs::read(file).ok()?).unwrap();
        Some((name, record))
    };
    names_in(&store.join("layers")).into_iter().filter_map(read).collect()
}

#[test]
fn a_layer_has_the_marks_of_the_mounts_that_stack_it_and_no_others() {
    privilege::under(ALL, |privilege| {
        let world = World::driver(DriverKind::Copy);
        world.load_image(&named(&nested(&[]), "nested:1").0);
        let (family, other) = match privilege {
            Privilege::Root => ("trusted", "user"),
            _ => ("user", "trusted"),
        };
        let records = records(&world.path());
        assert_eq!(records.len(), 3);
        for (key, record) in records {
            assert_eq!(record["families"], family, "{privilege:?}");
            assert_eq!(record["version"], 2);
            let tree = snapshot(world.path().join("layers").join(key).join("tree"));
            for (path, found) in attributes(&tree) {
                assert!(
                    found.iter().all(|(name, _)| !name.starts_with(other)),
                    "{}: {found:?}",
                    path.display()
                );
            }
        }
    });
}

#[test]
fn a_mounted_root_shows_the_attributes_of_overlays_that_its_image_brought_and_no_others() {
    privilege::under(ALL, |privilege| {
        for &kind in drivers(privilege) {
            let world = World::driver(kind);
            for families in [writable(privilege), &[]] {
                let (spec, tree) = named(&nested(families), "nested:1");
                let container = create(&world.store, &world.load_image(&spec));
                let mounted = container.mount().unwrap();
                let shown = snapshot(mounted.path());
                assert_eq!(attributes(&shown), attributes(&tree), "{privilege:?}, {kind}, mounted");
                let exported = exported(&container);
                assert_eq!(exported.names(), tree.names(), "{privilege:?}, {kind}");
                assert_eq!(attributes(&exported), attributes(&tree), "{privilege:?}, {kind}, exported");
                // They do not act, and marks do.
                assert_eq!(fs::read_to_string(mounted.path().join("d/below")).unwrap(), "below");
                assert!(mounted.path().join("d/deleted").exists() && !mounted.path().join("a/one").exists());
                // Nor do they when a directory was copied up.
                fs::set_permissions(mounted.path().join("d"), fs::Permissions::from_mode(0o755)).unwrap();
                fs::set_permissions(mounted.path().join("a"), fs::Permissions::from_mode(0o700)).unwrap();
                fs::write(mounted.path().join("d/deleted"), "").unwrap();
                mounted.unmount().unwrap();
                let mounted = container.mount().unwrap();
                assert_eq!(attributes(&snapshot(mounted.path())), attributes(&tree), "{privilege:?}, {kind}");
                assert!(mounted.path().join("d/below").exists());
                assert_eq!(changes(&container), ["C /a", "C /d", "C /d/deleted"], "{privilege:?}, {kind}");
                mounted.unmount().unwrap();
                container.remove(RemoveContainer::Refuse).unwrap();
            }
        }
    });
}

#[test]
fn a_view_of_an_image_shows_no_marks() {
    privilege::under(MOUNTING, |privilege| {
        let world = World::driver(DriverKind::Overlay);
        let (spec, tree) = named(&nested(writable(privilege)), "nested:1");
        let image = world.load_image(&spec);
        let path = world.store.mount_image(&image).unwrap();
        assert_eq!(attributes(&snapshot(&path)), attributes(&tree), "{privilege:?}");
        world.store.unmount_image(&image).unwrap();
    });
}

/// Writes attributes as a process in a container may.
fn write_attributes(root: &Path, families: &[&str]) {
    fs::create_dir(root.join("storage")).unwrap();
    fs::write(root.join("storage/file"), "").unwrap();
    for family in families {
        set(&root.join("storage"), &format!("{family}.overlay.opaque"), "y");
        set(&root.join("storage/file"), &format!("{family}.overlay.whiteout"), "");
        set(&root.join("d/below"), &format!("{family}.overlay.written"), "w");
        set(&root.join("d/above"), &format!("{family}.overlay.overlay.y"), "w");
        rustix::fs::lremovexattr(root.join("d/above"), format!("{family}.overlay.x")).unwrap();
    }
    touch(&root.join("storage"), 5, 0);
    touch(&root.join("storage/file"), 5, 0);
    touch(root, 5, 0);
}

#[test]
fn what_a_process_writes_is_kept_by_every_way_out() {
    privilege::under(ALL, |privilege| {
        let mut layers = BTreeSet::new();
        for &kind in drivers(privilege) {
            let what = format!("{privilege:?}, {kind}");
            let world = World::driver(kind);
            let families = writable(privilege);
            let image = world.load_image(&named(&nested(families), "nested:1").0);
            let container = create(&world.store, &image);
            let mounted = container.mount().unwrap();
            write_attributes(mounted.path(), families);
            let expected = attributes(&snapshot(mounted.path()));
            for family in families {
                let written = |path: &str, key: &str| {
                    let name = format!("{family}.overlay.{key}");
                    let found = expected.get(Path::new(path));
                    found.is_some_and(|all| all.iter().any(|(found, _)| *found == name))
                };
                assert!(written("storage", "opaque") && written("storage/file", "whiteout"), "{what}");
                assert!(written("d/below", "written") && written("d/above", "overlay.y"), "{what}");
                assert!(written("d", "opaque") && !written("d/above", "x"), "{what}");
            }
            let mut out = Vec::new();
            mounted.copy_out("/", &mut out, &CopyOutOptions::default()).unwrap();
            assert_eq!(attributes(&tree_of(&out)), expected, "{what}: cp out");
            mounted.unmount().unwrap();
            assert_eq!(attributes(&exported(&container)), expected, "{what}: export");
            assert_eq!(
                changes(&container),
                ["C /d", "C /d/above", "C /d/below", "A /storage", "A /storage/file"],
                "{what}"
            );

            let clone = container.clone_as(&CreateOptions::default()).unwrap();
            assert_eq!(attributes(&exported(&clone)), expected, "{what}: clone");
            let committed = container.commit(&CommitOptions::default()).unwrap();
            layers.insert(committed.diff_ids().last().unwrap().to_string());
            assert_eq!(attributes(&exported(&create(&world.store, &committed))), expected, "{what}: commit");
            let squashed = world.store.squash(&committed, &Default::default()).unwrap();
            assert_eq!(attributes(&exported(&create(&world.store, &squashed))), expected, "{what}: squash");
            let mut archive = Vec::new();
            let save = SaveOptions::default();
            world.store.save(&[committed], ArchiveFormat::OciArchive, &mut archive, &save).unwrap();
            let other = World::driver(kind);
            let loaded = load(&other.store, &archive);
            assert_eq!(
                attributes(&exported(&create(&other.store, &loaded))),
                expected,
                "{what}: save and load"
            );
            // And back in.
            let target = create(&other.store, &loaded);
            target.copy_in("/", &tar().dir("in").finish()[..], &Default::default()).unwrap();
            target.copy_in("/in", &out[..], &Default::default()).unwrap();
            let inside: BTreeMap<_, _> = attributes(&exported(&target))
                .into_iter()
                .filter_map(|(path, found)| Some((path.strip_prefix("in").ok()?.to_owned(), found)))
                .collect();
            assert_eq!(inside, expected, "{what}: cp in");
        }
        assert_eq!(layers.len(), 1, "{privilege:?}: drivers disagree");
    });
}

#[test]
fn fuse_overlayfs_reads_the_marks_of_the_family_and_obeys_no_attribute_of_an_image() {
    privilege::under_with_fuse(ALL, |privilege| {
        if !has_fuse() {
            return common::skip("needs fuse-overlayfs");
        }
        let world = World::driver(DriverKind::Fuse);
        let (spec, tree) = named(&nested(writable(privilege)), "nested:1");
        let container = create(&world.store, &world.load_image(&spec));
        let mounted = container.mount().unwrap();
        let shown = snapshot(mounted.path());
        assert_eq!(shown.names(), tree.names(), "{privilege:?}");
        // It shows no attributes of overlayfs's, and copies none up. What was not copied up has them.
        assert_eq!(attributes(&shown), BTreeMap::new(), "{privilege:?}");
        assert_eq!(attributes(&exported(&container)), attributes(&tree), "{privilege:?}: export");
        fs::remove_dir_all(mounted.path().join("b")).unwrap();
        fs::create_dir(mounted.path().join("b")).unwrap();
        fs::set_permissions(mounted.path().join("d"), fs::Permissions::from_mode(0o755)).unwrap();
        mounted.unmount().unwrap();
        let mounted = container.mount().unwrap();
        assert!(mounted.path().join("d/below").exists() && names_in(&mounted.path().join("b")).is_empty());
        mounted.unmount().unwrap();
        let left = exported(&container);
        assert_eq!(attributes(&left)[Path::new("d/above")], attributes(&tree)[Path::new("d/above")]);
        assert_eq!(left.names(), tree.clone().without("b/new").names(), "{privilege:?}");
        assert!(attributes(&left).keys().all(|path| attributes(&tree).contains_key(path)), "{privilege:?}");
    });
}

/// What is done to the layers of a store by making and mounting a container as another root of the same user, who may not
/// write `trusted.*` attributes; and which of these names that container shows.
fn used_in_a_namespace(tool: &Path, store: &Path, container: &str, image: &str) -> String {
    let script = "set -e; \"$0\" --root \"$1\" inspect \"$2\" >/dev/null 2>&1 || \
                  \"$0\" --root \"$1\" create --driver overlay --name \"$2\" \"$3\" >/dev/null; \
                  at=$(\"$0\" --root \"$1\" mount \"$2\"); (cd \"$at\"; find . | sort); \
                  \"$0\" --root \"$1\" umount \"$2\" >/dev/null";
    let words = ["--user", "--map-root-user", "--mount", "sh", "-c", script];
    let mut command = Command::new("unshare");
    command.args(words).arg(tool).arg(store).args([container, image]);
    String::from_utf8(run_command(&mut command).stdout).unwrap()
}

#[test]
fn root_and_a_user_namespace_share_a_store_and_neither_replaces_layers_of_the_other() {
    privilege::under(&[Privilege::Root], |_| {
        let Some(tool) = privilege::plywood() else { return common::skip("needs the tool") };
        let tool = PathBuf::from(tool.get_program());
        let world = World::driver(DriverKind::Overlay);
        let (spec, tree) = named(&nested(&["user"]), "nested:1");
        let image = world.load_image(&spec);
        let inodes = || -> BTreeMap<String, u64> {
            let layers = world.path().join("layers");
            names_in(&layers)
                .into_iter()
                .map(|name| (name.clone(), layers.join(name).metadata().unwrap().ino()))
                .collect()
        };
        let roots = inodes();
        let listed = used_in_a_namespace(&tool, &world.path(), "inner", "nested:1");
        let expected: BTreeSet<_> =
            tree.names().iter().map(|name| format!("./{name}")).chain([".".to_owned()]).collect();
        assert_eq!(listed.lines().map(str::to_owned).collect::<BTreeSet<_>>(), expected);
        let both = inodes();
        assert!(roots.iter().all(|(name, inode)| both.get(name) == Some(inode)), "{roots:?}, {both:?}");
        assert_eq!(both.len(), 2 * roots.len(), "{both:?}");
        for (name, record) in records(&world.path()) {
            let family = if name.ends_with(".user") { "user" } else { "trusted" };
            assert_eq!(record["families"], family, "{name}");
        }
        // Nobody makes one again.
        let own = create(&world.store, &image);
        own.mount().unwrap().unmount().unwrap();
        assert_eq!(used_in_a_namespace(&tool, &world.path(), "inner", "nested:1"), listed);
        own.mount().unwrap().unmount().unwrap();
        assert_eq!(inodes(), both);
        // Its deletions are in other attributes than root's mounts would obey.
        let inner = world.store.container("inner").unwrap();
        let refused = inner.mount().unwrap_err();
        assert_eq!(refused.kind(), "foreign-marks", "{}", chain(&refused));
        assert_eq!(exported(&inner).names(), tree.names());

        let report = world.store.check(&CheckOptions::default()).unwrap();
        assert!(report.damages.is_empty() && report.leftovers.is_empty(), "{report:?}");
        let kept = world.store.gc(&GcOptions::default()).unwrap();
        assert_eq!((kept.layers.len(), inodes()), (0, both), "{kept:?}");
        for container in world.store.containers().unwrap() {
            container.remove(RemoveContainer::Refuse).unwrap();
        }
        world.store.remove_image("nested:1", RemoveImage::Refuse).unwrap();
        world.store.gc(&GcOptions::default()).unwrap();
        assert!(inodes().is_empty(), "{:?}", inodes());
    });
}

// The store of an earlier version.

fn fixture() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/store-1-marks.tar.zst")
}

fn leaning_on(mode: u32) -> Vec<Tar> {
    vec![tar().dir("dir").mode(mode), tar().file("dir/file", "leaning").whiteout("gone")]
}

/// Its images. A path of a file that an earlier version read is not among them.
fn kept_images() -> [(&'static str, Vec<Tar>); 3] {
    [
        ("nested:1", nested(&["user", "trusted"])),
        ("leaning:1", leaning_on(0o711)),
        ("leaning:2", leaning_on(0o700)),
    ]
}

/// What was done in its container.
fn edit_kept(root: &Path) {
    fs::remove_file(root.join("a/two")).unwrap();
    fs::write(root.join("b/more"), "more").unwrap();
    fs::write(root.join("d/above"), "edited").unwrap();
    fs::set_permissions(root.join("d"), fs::Permissions::from_mode(0o711)).unwrap();
    fs::remove_dir_all(root.join("undeclared")).unwrap();
    fs::create_dir(root.join("undeclared")).unwrap();
    for path in ["a", "b/more", "b", "d/above", "undeclared", ""] {
        touch(&root.join(path), 77, 0);
    }
}

/// Needs the earlier version's tool in the variable `PLYWOOD_EARLIER`.
#[test]
#[ignore = "makes the fixture anew, with an earlier version"]
fn make_the_fixture() {
    assert!(common::is_real_root(), "others would make another store");
    let earlier = std::env::var("PLYWOOD_EARLIER").unwrap();
    let temp = common::scratch();
    let root = temp.path().join("store");
    let plywood = |words: &[&OsStr]| {
        let output = run_command(Command::new(&earlier).arg("--root").arg(&root).args(words));
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    };
    let said = |words: &str| plywood(&words.split(' ').map(OsStr::new).collect::<Vec<_>>());
    for (name, layers) in kept_images() {
        let archive = temp.path().join("archive");
        fs::write(&archive, Layout::of(&named(&layers, name).0).oci_archive()).unwrap();
        plywood(&["load".as_ref(), archive.as_os_str()]);
    }
    said("create --driver overlay --name edited nested:1");
    edit_kept(Path::new(&said("mount edited")));
    said("umount edited");
    for image in ["nested:1", "leaning:2"] {
        said(&format!("image mount {image}"));
        said(&format!("image umount {image}"));
    }
    // As that version says of layers that are on disk; the tool never does.
    for key in names_in(&root.join("layers")) {
        let record = root.join("layers").join(key).join("layer.json");
        let said = fs::read_to_string(&record).unwrap();
        fs::write(&record, said.replace("\"settled\": false", "\"settled\": true")).unwrap();
    }
    let words = ["--sparse", "--xattrs", "--xattrs-include=*", "--numeric-owner", "--sort=name"];
    let file = fixture();
    let what = ["--use-compress-program=zstd -19", "-cf", file.to_str().unwrap(), "-C"];
    run("tar", words.into_iter().chain(what).chain([temp.path().to_str().unwrap(), "store"]));
}

/// The store of the earlier version, at `store` in a scratch directory.
fn earlier() -> (tempfile::TempDir, PathBuf) {
    let temp = common::scratch();
    let words = ["--xattrs", "--xattrs-include=*", "--numeric-owner", "--use-compress-program=zstd", "-xpf"];
    let file = fixture();
    let at = [file.to_str().unwrap(), "-C", temp.path().to_str().unwrap()];
    run("tar", words.into_iter().chain(at));
    let path = temp.path().join("store");
    // What it is about.
    let records = records(&path);
    assert_eq!(records.len(), 7, "{records:?}");
    assert!(records.values().all(|record| record["families"] == "both" && record["version"] == 1));
    (temp, path)
}

fn open(path: &Path) -> Store {
    options().driver(DriverChoice::Only(DriverKind::Overlay)).open(path).unwrap()
}

/// A container with the same changes in a store of this version.
fn edited_now() -> (World, Container) {
    let world = World::driver(DriverKind::Overlay);
    let (name, layers) = kept_images().into_iter().next().unwrap();
    let container = create(&world.store, &world.load_image(&named(&layers, name).0));
    let mounted = container.mount().unwrap();
    edit_kept(mounted.path());
    mounted.unmount().unwrap();
    (world, container)
}

/// Checks what the container of the earlier store is to everybody.
#[track_caller]
fn is_as_edited_now(container: &Container) {
    let (_world, now) = edited_now();
    exported(container).assert_same(&exported(&now), "exported");
    assert_eq!(changes(container), changes(&now));
    let out = |container: &Container| {
        let mut out = Vec::new();
        container.copy_out("/", &mut out, &CopyOutOptions::default()).unwrap();
        tree_of(&out)
    };
    // A mount of it shows marks that were copied up then as attributes; a copy has none of these names.
    let plain = |tree: Tree| tree.without_xattrs(|name| name.starts_with(b"user.overlay."));
    let copied = out(container);
    assert!(attributes(&copied).values().flatten().all(|(name, _)| name != "user.overlay.origin"));
    plain(copied).assert_same(&plain(out(&now)), "copied out");
    let commit =
        |container: &Container| container.commit(&CommitOptions::default()).unwrap().diff_ids().to_vec();
    assert_eq!(commit(container), commit(&now));
}

#[test]
fn layers_with_marks_of_both_families_are_made_again_as_they_are_used() {
    privilege::under(&[Privilege::Root], |_| {
        let (_temp, path) = earlier();
        let store = open(&path);
        let report = store.check(&CheckOptions::default()).unwrap();
        assert!(report.damages.is_empty() && report.leftovers.is_empty(), "{report:?}");
        // To look at the store changes nothing.
        assert!(records(&path).values().all(|record| record["version"] == 1));

        let edited = store.container("edited").unwrap();
        is_as_edited_now(&edited);
        for (name, layers) in kept_images() {
            let image = store.image(name).unwrap();
            let tree = named(&layers, name).1;
            let root = store.mount_image(&image).unwrap();
            assert_eq!(attributes(&snapshot(&root)), attributes(&tree), "{name}");
            assert_eq!(snapshot(&root).names(), tree.names(), "{name}");
            store.unmount_image(&image).unwrap();
            let container = create(&store, &image);
            let mounted = container.mount().unwrap();
            assert_eq!(attributes(&snapshot(mounted.path())), attributes(&tree), "{name}");
            mounted.unmount().unwrap();
            exported(&container).assert_same(&tree, name);
            container.remove(RemoveContainer::Refuse).unwrap();
        }
        // Of what nothing looks into nothing is left, and every layer is of this version.
        store.gc(&GcOptions::default()).unwrap();
        for (key, record) in records(&path) {
            assert_eq!((&record["version"], &record["families"]), (&2.into(), &"trusted".into()), "{key}");
        }
        let mut deep = CheckOptions::default();
        deep.deep = true;
        let report = store.check(&deep).unwrap();
        assert!(report.damages.is_empty() && report.compared >= 6, "{report:?}");
    });
}

#[test]
fn a_container_that_is_mounted_keeps_the_layers_that_it_is_mounted_on() {
    privilege::under(&[Privilege::Root], |_| {
        let (_temp, path) = earlier();
        let store = open(&path);
        let edited = store.container("edited").unwrap();
        // As the earlier version mounted it.
        let record: Value = serde_json::from_slice(
            &fs::read(path.join("containers").join(edited.id()).join("container.json")).unwrap(),
        )
        .unwrap();
        let own = path.join("containers").join(edited.id());
        let lowers: Vec<_> = record["stack"]
            .as_array()
            .unwrap()
            .iter()
            .rev()
            .map(|key| path.join("layers").join(key.as_str().unwrap()).join("tree").display().to_string())
            .collect();
        let mounted = own.join("merged");
        let options = format!(
            "lowerdir={},upperdir={},workdir={},index=off",
            lowers.join(":"),
            own.join("upper").display(),
            own.join("work").display()
        );
        let source = format!("plywood:{}", edited.id());
        run("mount", ["-t", "overlay", &source, "-o", &options, mounted.to_str().unwrap()]);
        let before = snapshot(&mounted);

        let other = create(&store, &store.image("nested:1").unwrap());
        let replaced =
            || names_in(&path.join("layers")).iter().filter(|name| name.starts_with("replaced-")).count();
        assert_eq!(replaced(), 3);
        store.gc(&GcOptions::default()).unwrap();
        assert_eq!(replaced(), 3);
        snapshot(&mounted).assert_same(&before, "mounted");
        is_as_edited_now(&edited);
        run("umount", [mounted.to_str().unwrap()]);
        store.gc(&GcOptions::default()).unwrap();
        assert_eq!(replaced(), 0);
        is_as_edited_now(&edited);
        drop(other);
    });
}

#[test]
fn a_layer_that_cannot_be_made_again_is_used_as_it_is() {
    privilege::under(&[Privilege::Root], |_| {
        // The blob is gone, or the document that says which blobs there are.
        for lost in ["layer", "manifest"] {
            let (_temp, path) = earlier();
            let store = open(&path);
            let image = store.image("nested:1").unwrap();
            let digest = match lost {
                "layer" => image.manifest().layers[1].digest,
                _ => image.manifest_digest(),
            };
            fs::remove_file(path.join("oci/blobs/sha256").join(digest.hex())).unwrap();
            let edited = open(&path).container("edited").unwrap();
            let (_world, now) = edited_now();
            exported(&edited).assert_same(&exported(&now), lost);
            let mounted = edited.mount().unwrap_or_else(|error| panic!("{lost}: {}", chain(&error)));
            assert_eq!(snapshot(mounted.path()).names(), exported(&now).names(), "{lost}");
            mounted.unmount().unwrap();
            assert_eq!(changes(&edited), changes(&now), "{lost}");
            if lost == "layer" {
                let container = create(&open(&path), &image);
                let expected = named(&kept_images()[0].1, "x:1").1;
                exported(&container).assert_same(&expected, lost);
            }
            assert!(records(&path).values().any(|record| record["version"] == 1), "{lost}");
        }
    });
}

#[test]
fn a_store_of_an_earlier_version_that_is_read_only_or_lends_is_read_as_it_is() {
    privilege::under(&[Privilege::Root], |_| {
        let (temp, path) = earlier();
        // Beside it, a store that borrows from it.
        let borrowing = options().driver(DriverChoice::Only(DriverKind::Overlay));
        let borrower = borrowing.additional(&path).create(temp.path().join("own")).unwrap();
        let (name, layers) = kept_images().into_iter().next().unwrap();
        let container = create(&borrower, &borrower.image(name).unwrap());
        let mounted = container.mount().unwrap();
        let tree = named(&layers, name).1;
        assert_eq!(attributes(&snapshot(mounted.path())), attributes(&tree));
        mounted.unmount().unwrap();
        exported(&container).assert_same(&tree, "borrowed");
        assert!(records(&temp.path().join("own")).values().all(|record| record["version"] == 2));
        assert_eq!(records(&temp.path().join("own")).len(), 3);

        let at = path.to_str().unwrap();
        run("mount", ["--bind", at, at]);
        run("mount", ["-o", "remount,bind,ro", at]);
        let store = open(&path);
        assert!(store.info().unwrap().read_only);
        let (_world, now) = edited_now();
        let edited = store.container("edited").unwrap();
        exported(&edited).assert_same(&exported(&now), "read-only");
        assert_eq!(changes(&edited), changes(&now));
        assert!(records(&path).values().all(|record| record["version"] == 1));
        run("umount", ["--lazy", at]);
    });
}
