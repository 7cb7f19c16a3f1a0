//! A repair makes whole what can be made whole, names the rest, and never makes anything worse.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use plywood::driver::DriverKind;
use plywood::store::{
    CheckOptions, CommitOptions, Container, CreateOptions, GcOptions, LoadOptions, Outcome, RemoveImage,
    RepairOptions, RepairReport, Store,
};

use crate::common::image::{Compression, ImageSpec, Layout, image};
use crate::common::privilege::{self, ALL, MOUNTING, Privilege};
use crate::common::tar::tar;
use crate::common::tree::{Kind, Tree, snapshot};
use crate::world::*;

/// Two images with a common base; the second has a hard link to it, so it is bound to its base.
fn pair() -> [ImageSpec; 2] {
    let base = tar()
        .dir("etc")
        .file("etc/passwd", "root")
        .mode(0o640)
        .symlink("link", "etc")
        .file("twice", "linked")
        .link("again", "twice")
        .finish();
    let leaning = tar().link("etc/passwd-too", "etc/passwd").whiteout("link").file("own", vec![7; 10_000]);
    [
        image().compressed(base.clone(), Compression::Gzip).name("docker.io/library/one:1"),
        image()
            .compressed(base, Compression::Gzip)
            .compressed(leaning.finish(), Compression::Zstd)
            .name("docker.io/library/two:1"),
    ]
}

fn archives() -> [Vec<u8>; 2] {
    pair().map(|image| Layout::of(&image).oci_archive())
}

fn repair(store: &Store, options: &RepairOptions<'_>) -> RepairReport {
    store.repair(options).unwrap_or_else(|error| panic!("{}", chain(&error)))
}

fn lines(report: &RepairReport) -> Vec<String> {
    report.repaired.iter().map(ToString::to_string).collect()
}

fn deep(store: &Store) -> Vec<plywood::Damage> {
    let mut options = CheckOptions::default();
    options.deep = true;
    store.check(&options).unwrap_or_else(|error| panic!("{}", chain(&error))).damages
}

/// Every regular file below `dir`.
fn files(dir: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        let kind = fs::symlink_metadata(&path).unwrap().file_type();
        if kind.is_dir() {
            found.extend(files(&path));
        } else if kind.is_file() {
            found.push(path);
        }
    }
    found.sort();
    found
}

fn exported(container: &Container) -> Vec<u8> {
    export(container).unwrap_or_else(|error| panic!("{error}"))
}

const NAMES: [&str; 2] = ["still", "busy"];

/// A store with two images, and a container of each that has written something.
struct Scene {
    world: World,
    archives: [Vec<u8>; 2],
    /// What the roots of the containers hold.
    roots: [Vec<u8>; 2],
}

impl Scene {
    fn new(kind: DriverKind) -> Self {
        let world = World::driver(kind);
        let archives = archives();
        let images = archives.each_ref().map(|archive| world.load(archive));
        for (image, name) in images.iter().zip(NAMES) {
            let options = CreateOptions::named(name).label("role", "test");
            let container = world.store.create_container(image, &options).unwrap();
            let mounted = container.mount().unwrap();
            fs::write(mounted.path().join("written"), name).unwrap();
            mounted.unmount().unwrap();
        }
        let roots = NAMES.map(|name| exported(&world.store.container(name).unwrap()));
        Self { world, archives, roots }
    }

    /// Every file that the store is made of, but for what containers wrote, which is theirs, and what can be tried again.
    fn files(&self) -> Vec<PathBuf> {
        let root = self.world.path();
        let names = files(&root).into_iter().map(|path| path.strip_prefix(&root).unwrap().to_owned());
        let is_ours = |path: &PathBuf| {
            let others = ["staging", "reserve", "locks", "cache"].iter().any(|dir| path.starts_with(dir));
            !others
                && !path.components().any(|part| ["root", "upper"].iter().any(|own| part.as_os_str() == *own))
        };
        names.filter(is_ours).collect()
    }

    /// The same store once more, in `path`.
    fn copy(&self, path: &Path) {
        let copied = std::process::Command::new("cp").arg("-a").args([&self.world.path(), path]).status();
        assert!(copied.unwrap().success());
    }
}

/// What is in a store, but for what may come and go.
fn state_of(path: &Path) -> Tree {
    let state =
        ["staging", "reserve", "locks", "cache"].iter().fold(snapshot(path), |state, dir| state.without(dir));
    state.without_mtimes(|path, node| {
        let in_layer = path.components().any(|part| part.as_os_str() == "tree");
        // Nobody sets or sees the time of a deletion.
        !in_layer && matches!(node.kind, Kind::Directory) || matches!(node.kind, Kind::Char { .. })
    })
}

/// Repairs after a dry run that said the same and changed nothing.
#[track_caller]
fn mend(path: &Path) -> RepairReport {
    let before = state_of(path);
    let run = |how: &RepairOptions<'_>| {
        options().repair(path, how).unwrap_or_else(|error| panic!("{}", chain(&error)))
    };
    let told = run(&RepairOptions::dry_run());
    state_of(path).assert_same(&before, "after a dry run");
    let done = run(&RepairOptions::default());
    assert_eq!(lines(&told), lines(&done), "a dry run says what would be done");
    done
}

/// Damages one file of a copy of the store, repairs that, and holds the repair to its promises.
fn damage(scene: &Scene, name: &Path, how: &str) {
    let root = scene.world.beside("copy");
    scene.copy(&root);
    let before = state_of(&root);
    let what = format!("{}, {how}", name.display());
    let file = root.join(name);
    let in_layer = name.components().any(|part| part.as_os_str() == "tree");
    let content = fs::read(&file).unwrap();
    match how {
        "flipped" => {
            let mut flipped = content;
            *flipped.last_mut().unwrap() ^= 1;
            overwrite(&file, &flipped);
        }
        "cut" => overwrite(&file, &content[..content.len() / 2]),
        "gone" => fs::remove_file(&file).unwrap(),
        "chmod" => fs::set_permissions(&file, fs::Permissions::from_mode(0o777)).unwrap(),
        "extra" => fs::write(file.with_file_name("extra"), "").unwrap(),
        _ => unreachable!(),
    }
    let report = mend(&root);
    assert!(!report.repaired.is_empty(), "{what}");
    let store = options().open(&root).unwrap();

    // What is wrong still was said to be lost.
    let left: BTreeSet<String> = report
        .repaired
        .iter()
        .filter(|one| one.outcome != Outcome::Mended)
        .map(|one| one.subject.clone())
        .collect();
    let wrong = |store: &Store| deep(store).iter().map(plywood::Damage::subject).collect::<BTreeSet<_>>();
    assert!(wrong(&store).is_subset(&left), "{what}: {:?}, {:?}", deep(&store), lines(&report));
    let again = repair(&store, &RepairOptions::default());
    let again = again.repaired.iter().find(|one| one.outcome == Outcome::Mended).map(ToString::to_string);
    assert_eq!(again, None, "{what}: nothing is left to mend");

    // What was not damaged is as it was.
    let object: PathBuf = name.components().take(2).collect();
    let is_lost =
        |path: &Path| left.iter().any(|one| path.to_string_lossy().contains(one.rsplit(':').next().unwrap()));
    let renames = report.repaired.iter().any(|one| ["image", "index"].contains(&one.kind));
    let others = |state: Tree| {
        let names: Vec<PathBuf> = state.names().into_iter().map(PathBuf::from).collect();
        names.into_iter().fold(state, |state, path| {
            let is_meant =
                if object.starts_with("oci/blobs") { path == name } else { path.starts_with(&object) };
            let is_kept = path.to_string_lossy().ends_with(".damaged");
            // A layer that is made again is what it was; whether it is known to be on disk may differ.
            let is_whole_layer = in_layer && path.file_name().is_some_and(|name| name != "layer.json");
            let is_index = renames && path.ends_with("index.json");
            match (is_meant && !is_whole_layer) || is_kept || is_lost(&path) || is_index {
                true => state.without(path),
                false => state,
            }
        })
    };
    others(state_of(&root)).assert_same(&others(before.clone()), &format!("after a repair of {what}"));

    // Where hardly anything of it was lost, the whole of it is as it was.
    if how == "flipped" && report.is_whole() {
        let all = |state: Tree| {
            let names: Vec<PathBuf> = state.names().into_iter().map(PathBuf::from).collect();
            let comes_and_goes =
                |path: &PathBuf| path.to_string_lossy().ends_with(".damaged") || path.ends_with("layer.json");
            let state =
                names.into_iter().filter(comes_and_goes).fold(state, |state, path| state.without(path));
            state.without_mtimes(|path, _| !path.components().any(|part| part.as_os_str() == "tree"))
        };
        all(state_of(&root))
            .assert_same(&all(before), &format!("after a repair of {what} that lost nothing"));
    }

    // What a container holds is as it was, unless its image or its record is lost.
    for (name, expected) in NAMES.iter().zip(&scene.roots) {
        match store.container(name) {
            Ok(container) => match export(&container) {
                Ok(root) => assert!(&root == expected, "{what}: {name} holds something else"),
                Err(error) => assert!(!report.is_whole(), "{what}: {name}: {error}"),
            },
            Err(error) => assert!(!report.is_whole(), "{what}: {}", chain(&error)),
        }
    }

    // Loading again makes all whole but a container that nobody can read.
    for archive in &scene.archives {
        store.load(&archive[..], &LoadOptions::default()).unwrap();
    }
    let kept = |subject: &String| subject.len() == 64;
    assert!(wrong(&store).iter().all(kept), "{what}, loaded again: {:?}", deep(&store));
    for (image, name) in ["one:1", "two:1"].iter().zip(NAMES) {
        let image = store.image(image).unwrap_or_else(|error| panic!("{what}: {}", chain(&error)));
        store.create_container(&image, &CreateOptions::default()).unwrap();
        if let Ok(container) = store.container(name) {
            export(&container).unwrap_or_else(|error| panic!("{what}: {error}"));
        }
    }
    fs::remove_dir_all(&root).unwrap();
}

fn export(container: &Container) -> Result<Vec<u8>, String> {
    let mut tar = Vec::new();
    container.export(&mut tar, &Default::default()).map_err(|error| chain(&error))?;
    Ok(tar)
}

/// Writes in place, as a disk does that goes bad: the times stay.
fn overwrite(file: &Path, content: &[u8]) {
    let time = fs::metadata(file).unwrap().modified().unwrap();
    fs::write(file, content).unwrap();
    fs::File::options().write(true).open(file).unwrap().set_modified(time).unwrap();
}

#[test]
fn damage_to_any_file_is_mended_or_said_and_never_made_worse() {
    privilege::under(&[Privilege::Root], |_| {
        in_memory();
        let scene = Scene::new(DriverKind::Overlay);
        let files = scene.files();
        assert!(files.len() > 20, "{files:?}");
        for file in files {
            let in_layer = file.components().any(|part| part.as_os_str() == "tree");
            let is_empty = fs::metadata(scene.world.path().join(&file)).unwrap().len() == 0;
            let how: &[&str] = match (in_layer, is_empty) {
                // What differs is found in the same way whatever it is; another test goes through the ways to differ.
                (true, true) => &["gone", "extra"],
                (true, false) => &["flipped", "chmod"],
                (false, _) => &["flipped", "cut", "gone"],
            };
            how.iter().for_each(|how| damage(&scene, &file, how));
        }
    });
}

/// The layer that both images share, and the file in it that a container can read.
fn base_of(world: &World) -> (String, PathBuf) {
    let layers = world.path().join("layers");
    let has =
        |name: &String| name.starts_with("sha256") && layers.join(name).join("tree/etc/passwd").exists();
    let base = names_in(&layers).into_iter().find(has).unwrap();
    let file = layers.join(&base).join("tree/etc/passwd");
    (base, file)
}

fn replaced(world: &World) -> usize {
    names_in(&world.path().join("layers")).iter().filter(|name| name.starts_with("replaced-")).count()
}

#[test]
fn a_layer_is_mended_while_containers_on_it_go_on_and_the_old_one_goes_after_them() {
    privilege::under(MOUNTING, |privilege| {
        for &kind in drivers(privilege).iter().filter(|kind| **kind != DriverKind::Copy) {
            let world = World::driver(kind);
            let image = world.load(&archives()[0]);
            let create = |name| world.store.create_container(&image, &CreateOptions::named(name)).unwrap();
            let (busy, other) = (create("busy"), create("other"));
            let mounted = busy.mount().unwrap();
            let (base, passwd) = base_of(&world);
            fs::write(passwd.with_file_name("stranger"), "stranger").unwrap();
            fs::write(&passwd, "toor").unwrap();

            let report = repair(&world.store, &RepairOptions::default());
            assert!(report.is_whole() && report.kept == 1, "{kind}: {:?}", lines(&report));
            assert!(lines(&report)[0].contains(&base), "{:?}", lines(&report));
            assert_eq!(replaced(&world), 1);
            // Nothing changes under its feet, not even what it has not looked at so far.
            let look = |name: &str| fs::read_to_string(mounted.path().join(name)).unwrap();
            assert_eq!(
                (look("etc/passwd"), look("etc/stranger"), look("twice")),
                ("toor".into(), "stranger".into(), "linked".into())
            );
            fs::write(mounted.path().join("etc/passwd"), "mine").unwrap();
            // The next mount sees what was mended.
            let next = other.mount().unwrap();
            assert_eq!(fs::read_to_string(next.path().join("etc/passwd")).unwrap(), "root");
            assert!(!next.path().join("etc/stranger").exists());
            next.unmount().unwrap();

            assert_eq!(world.store.gc(&GcOptions::default()).unwrap().leftovers, 0);
            assert_eq!((replaced(&world), look("link/passwd")), (1, "mine".to_owned()));
            assert_eq!(deep(&world.store).len(), 0);
            mounted.unmount().unwrap();
            assert_eq!(world.store.gc(&GcOptions::dry_run()).unwrap().leftovers, 1);
            assert_eq!(world.store.gc(&GcOptions::default()).unwrap().leftovers, 1);
            assert_eq!(replaced(&world), 0);
            assert!(exported(&busy).windows(4).any(|bytes| bytes == b"mine"));
        }
    });
}

#[test]
fn a_layer_that_lost_its_record_is_made_again_beside_whoever_uses_it() {
    privilege::under(&[Privilege::Root], |_| {
        let world = World::driver(DriverKind::Overlay);
        let image = world.load(&archives()[0]);
        let busy = world.store.create_container(&image, &CreateOptions::named("busy")).unwrap();
        let mounted = busy.mount().unwrap();
        let (base, _) = base_of(&world);
        fs::remove_file(world.path().join("layers").join(base).join("layer.json")).unwrap();
        // Nobody repairs: whoever needs it makes it again.
        let other = world.again().create_container(&image, &CreateOptions::default()).unwrap();
        other.mount().unwrap().unmount().unwrap();
        assert_eq!(replaced(&world), 1);
        world.store.gc(&GcOptions::default()).unwrap();
        assert_eq!(fs::read_to_string(mounted.path().join("etc/passwd")).unwrap(), "root");
        drop(mounted);
        world.store.gc(&GcOptions::default()).unwrap();
        assert_eq!(replaced(&world), 0);
    });
}

#[test]
fn a_replaced_layer_stays_while_it_is_mounted_in_another_mount_namespace() {
    privilege::under(&[Privilege::Root], |_| {
        let world = World::driver(DriverKind::Overlay);
        let image = world.load(&archives()[0]);
        let container = world.store.create_container(&image, &CreateOptions::default()).unwrap();
        let path = container.mount().unwrap().keep();
        let mut elsewhere = std::process::Command::new("unshare")
            .args(["--mount", "--propagation", "private", "sh", "-c", "echo ready; read line"])
            .stdin(std::process::Stdio::piped())
            .stdout(std::process::Stdio::piped())
            .spawn()
            .unwrap();
        let mut ready = [0; 6];
        std::io::Read::read_exact(elsewhere.stdout.as_mut().unwrap(), &mut ready).unwrap();
        container.unmount().unwrap();
        let (_, passwd) = base_of(&world);
        fs::write(passwd, "toor").unwrap();
        assert_eq!(repair(&world.store, &RepairOptions::default()).kept, 1);
        let seen =
            PathBuf::from(format!("/proc/{}/root", elsewhere.id())).join(path.strip_prefix("/").unwrap());
        assert_eq!(fs::read_to_string(seen.join("twice")).unwrap(), "linked");
        drop(elsewhere.stdin.take());
        elsewhere.wait().unwrap();
        world.store.gc(&GcOptions::default()).unwrap();
        assert_eq!(replaced(&world), 0);
    });
}

#[test]
fn a_layer_that_somebody_reads_is_not_removed_under_his_hands() {
    let world = World::driver(DriverKind::Copy);
    let image = world.load(&archives()[0]);
    let container = world.store.create_container(&image, &CreateOptions::default()).unwrap();
    let (_, passwd) = base_of(&world);
    fs::write(passwd, "toor").unwrap();
    // An export is a reader with the layers open; it comes to a halt where it writes.
    struct Halting<F: FnMut()>(F);
    impl<F: FnMut()> std::io::Write for Halting<F> {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            (self.0)();
            Ok(bytes.len())
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }
    let mut kept = None;
    let mut mend = || {
        if kept.is_none() {
            kept = Some(repair(&world.store, &RepairOptions::default()).kept);
        }
    };
    container.export(Halting(&mut mend), &Default::default()).unwrap();
    assert_eq!(kept, Some(1));
    world.store.gc(&GcOptions::default()).unwrap();
    assert_eq!(replaced(&world), 0);
}

#[test]
fn names_that_are_lost_are_found_again_as_far_as_they_can_be_made_out() {
    let scene = Scene::new(DriverKind::Copy);
    let world = &scene.world;
    let index = world.path().join("oci/index.json");
    let whole = fs::read_to_string(&index).unwrap();
    let digests: BTreeSet<_> = world.store.images().unwrap().iter().map(|image| image.digest()).collect();
    // Cut within the second of two entries.
    fs::write(&index, &whole[..whole.len() - 30]).unwrap();
    let report = mend(&world.path());
    assert!(report.is_whole(), "{:?}", lines(&report));
    let images = world.again().images().unwrap();
    assert_eq!(images.iter().map(|image| image.digest()).collect::<BTreeSet<_>>(), digests);
    assert_eq!(images.iter().flat_map(|image| image.names()).count(), 1);
    assert_eq!(
        fs::read_to_string(world.path().join("index.json.damaged")).unwrap(),
        whole[..whole.len() - 30]
    );
    fs::remove_file(&index).unwrap();
    mend(&world.path());
    let images = world.again().images().unwrap();
    assert_eq!(images.iter().map(|image| image.digest()).collect::<BTreeSet<_>>(), digests);
    assert!(images.iter().all(|image| image.names().is_empty()));
    assert!(deep(&world.again()).is_empty());
}

#[test]
fn a_container_goes_on_when_its_image_is_lost() {
    privilege::under(ALL, |privilege| {
        for &kind in drivers(privilege) {
            let scene = Scene::new(kind);
            let world = &scene.world;
            let image = world.store.image("one:1").unwrap();
            let config = world.path().join("oci/blobs/sha256").join(image.id().hex());
            fs::write(config, "{}").unwrap();
            let (base, passwd) = base_of(world);
            fs::write(&passwd, "toor").unwrap();
            world.store.remove_image("two:1", RemoveImage::Force).unwrap();
            let report = mend(&world.path());
            assert!(!report.is_whole());
            let mended = report.repaired.iter().find(|one| one.subject == base).unwrap();
            assert_eq!(mended.outcome, Outcome::Mended, "{:?}", lines(&report));
            let lost = report.repaired.iter().find(|one| one.kind == "image").unwrap();
            assert!(lost.message.contains("one:1"), "{lost}");
            let store = world.again();
            for (name, root) in NAMES.iter().zip(&scene.roots) {
                assert_eq!(&exported(&store.container(name).unwrap()), root, "{name}");
            }
            store.gc(&GcOptions::default()).unwrap();
            for (name, root) in NAMES.iter().zip(&scene.roots) {
                assert_eq!(&exported(&store.container(name).unwrap()), root, "{name}");
            }
        }
    });
}

#[test]
fn what_is_lost_of_a_container_record_comes_from_what_is_left() {
    privilege::under(ALL, |privilege| {
        for &kind in drivers(privilege) {
            let scene = Scene::new(kind);
            let world = &scene.world;
            let container = world.store.container("busy").unwrap();
            let dir = world.path().join("containers").join(container.id());
            let record = fs::read_to_string(dir.join("container.json")).unwrap();
            let changes = container.changes().unwrap();
            for (cut, has_labels) in [(record.len() - 1, true), (record.find("\"stack\"").unwrap(), false)] {
                fs::write(dir.join("container.json"), &record[..cut]).unwrap();
                fs::write(dir.join("root.json"), "{").unwrap();
                fs::remove_file(world.path().join("names/busy")).unwrap();
                let report = mend(&world.path());
                assert!(report.is_whole(), "{privilege:?}, {kind}: {:?}", lines(&report));
                let container = world.again().container("busy").unwrap();
                assert_eq!(container.labels().contains_key("role"), has_labels);
                assert_eq!(container.driver(), kind);
                assert_eq!(container.changes().unwrap(), changes, "{privilege:?}, {kind}");
                assert_eq!(exported(&container), scene.roots[1], "{privilege:?}, {kind}");
                assert_eq!(fs::read_to_string(dir.join("container.json.damaged")).unwrap(), record[..cut]);
                container.mount().unwrap().unmount().unwrap();
            }
            assert!(deep(&world.again()).is_empty());
        }
    });
}

#[test]
fn an_image_that_was_committed_here_is_repaired_like_one_that_came() {
    let scene = Scene::new(DriverKind::Copy);
    let world = &scene.world;
    let image = world.store.container("busy").unwrap().commit(&CommitOptions::default()).unwrap();
    let user = world.store.create_container(&image, &CreateOptions::named("user")).unwrap();
    let expected = exported(&user);
    let top = image.diff_ids().last().unwrap();
    let tree = world.path().join("layers").join(format!("sha256-{}", top.as_digest().hex())).join("tree");
    fs::remove_file(tree.join("written")).unwrap();
    assert_eq!(deep(&world.store).len(), 1);
    let report = mend(&world.path());
    assert!(report.is_whole(), "{:?}", lines(&report));
    assert_eq!(exported(&user), expected);
}

#[test]
fn a_repair_that_is_called_off_ends_and_so_does_a_check() {
    let scene = Scene::new(DriverKind::Copy);
    let cancel = std::sync::atomic::AtomicBool::new(true);
    let mut how = RepairOptions::default();
    how.cancel = Some(&cancel);
    let error = scene.world.refuse(|store| store.repair(&how));
    assert_eq!(error.kind(), "cancelled", "{}", chain(&error));
    let mut how = CheckOptions::default();
    (how.deep, how.cancel) = (true, Some(&cancel));
    let error = scene.world.refuse(|store| store.check(&how));
    assert_eq!(error.kind(), "cancelled", "{}", chain(&error));
    // Also on the way: as soon as it says how far a stage is.
    for stage in ["Documents", "Blobs", "Layers"] {
        cancel.store(false, std::sync::atomic::Ordering::Relaxed);
        let told = |at: plywood::CheckStage, done, all| {
            assert!(done <= all);
            if format!("{at:?}") == stage {
                cancel.store(true, std::sync::atomic::Ordering::Relaxed);
            }
        };
        let mut how = how;
        how.progress = Some(&told);
        let error = scene.world.refuse(|store| store.check(&how));
        assert_eq!(error.kind(), "cancelled", "{stage}: {}", chain(&error));
    }
}
