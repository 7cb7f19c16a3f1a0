//! Collection, beside a model that reads the documents on disk and knows nothing else.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use plywood::digest::Digest;
use plywood::driver::DriverKind;
use plywood::image::Reference;
use plywood::store::{
    CommitOptions, CreateOptions, GcOptions, Image, LoadOptions, RemoveContainer, RemoveImage, Store, Unpack,
};
use serde_json::{Value, json};

use crate::common::image::{Compression, ImageSpec, Layout, image};
use crate::common::privilege::{self, ALL, Privilege};
use crate::common::sha256;
use crate::common::tar::tar;
use crate::world::*;

/// Names of blobs and layers that something leads to.
#[derive(Default)]
struct Reachable {
    blobs: BTreeSet<String>,
    layers: BTreeSet<String>,
}

impl Reachable {
    fn of(store: &Path) -> Self {
        let mut reachable = Self::default();
        let index = read(&store.join("oci/index.json"));
        for entry in index["manifests"].as_array().unwrap() {
            reachable.visit(store, entry["digest"].as_str().unwrap());
        }
        for dir in ["containers", "views"] {
            for id in names_in(&store.join(dir)) {
                let record = read(&store.join(dir).join(id).join("container.json"));
                reachable.visit(store, record["image"]["target"]["digest"].as_str().unwrap());
                let stack = record["stack"].as_array().unwrap();
                reachable.layers.extend(stack.iter().map(|key| key.as_str().unwrap().to_owned()));
            }
        }
        reachable
    }

    fn visit(&mut self, store: &Path, digest: &str) {
        let hex = digest.strip_prefix("sha256:").unwrap();
        let path = store.join("oci/blobs/sha256").join(hex);
        if !path.exists() || !self.blobs.insert(hex.to_owned()) {
            return;
        }
        let Ok(document) = serde_json::from_slice::<Value>(&fs::read(&path).unwrap()) else { return };
        let of = |key: &str| document[key].as_array().cloned().unwrap_or_default();
        for descriptor in of("manifests").iter().chain(&of("layers")).chain([&document["config"]]) {
            if let Some(digest) = descriptor["digest"].as_str() {
                self.visit(store, digest);
            }
        }
        let mut chain = String::new();
        for diff_id in document["rootfs"]["diff_ids"].as_array().into_iter().flatten() {
            let diff_id = diff_id.as_str().unwrap();
            let next = format!("{chain} {diff_id}");
            chain = if chain.is_empty() {
                diff_id.to_owned()
            } else {
                format!("sha256:{}", sha256(next.as_bytes()))
            };
            self.layers.insert(diff_id.replace(':', "-"));
            self.layers.insert(format!("chain-{}", chain.replace(':', "-")));
        }
    }
}

fn read(path: &Path) -> Value {
    serde_json::from_slice(&fs::read(path).unwrap()).unwrap()
}

/// Collects, and compares what is left and what is reported with the model.
#[track_caller]
fn collect(world: &World) {
    let reachable = Reachable::of(&world.path());
    let (blobs, layers) = (world.path().join("oci/blobs/sha256"), world.path().join("layers"));
    let expected = |dir: &Path, keep: &BTreeSet<String>| -> (BTreeSet<String>, BTreeSet<String>) {
        names_in(dir).into_iter().partition(|name| keep.contains(name))
    };
    let (blobs_kept, blobs_gone) = expected(&blobs, &reachable.blobs);
    let (layers_kept, layers_gone) = expected(&layers, &reachable.layers);
    let size = |hex: &String| fs::metadata(blobs.join(hex)).unwrap().len();
    let bytes: u64 = blobs_gone.iter().map(size).sum();

    let before = world.state();
    let would = world.store.gc(&GcOptions::dry_run()).unwrap_or_else(|error| panic!("{}", chain(&error)));
    world.state().assert_same(&before, "a dry run");
    let report = world.store.gc(&GcOptions::default()).unwrap_or_else(|error| panic!("{}", chain(&error)));
    assert_eq!(report, would);
    assert_eq!(names_in(&blobs), blobs_kept);
    assert_eq!(names_in(&layers), layers_kept);
    assert_eq!(report.blobs.iter().map(|digest| digest.hex()).collect::<BTreeSet<_>>(), blobs_gone);
    assert_eq!(report.layers.iter().cloned().collect::<BTreeSet<_>>(), layers_gone);
    assert!(report.bytes >= bytes && (report.bytes > bytes || layers_gone.is_empty()), "{report:?}");
    assert_eq!(names_in(&world.path().join("staging")), BTreeSet::new());

    let after = world.state();
    let nothing = world.store.gc(&GcOptions::default()).unwrap();
    assert_eq!(nothing, Default::default());
    world.state().assert_same(&after, "collected twice");
}

fn one(name: &str) -> ImageSpec {
    image()
        .layer(tar().file("base", "base").finish())
        .layer(tar().file(name, name).finish())
        .name(&format!("docker.io/library/{name}:1"))
}

#[test]
fn what_nothing_leads_to_goes_and_nothing_else() {
    let world = World::driver(DriverKind::Copy);
    let store = &world.store;
    // Named; without a name; removed; removed and used; used, and the user removed.
    let named = world.load_image(&one("named"));
    let unnamed = world.load_image(&one("unnamed"));
    store.untag(&Reference::parse_familiar("unnamed:1").unwrap()).unwrap();
    world.load_image(&one("removed"));
    store.remove_image("removed:1", RemoveImage::Refuse).unwrap();
    let used = world.load_image(&one("used"));
    let user = store.create_container(&used, &CreateOptions::named("user")).unwrap();
    store.remove_image("used:1", RemoveImage::Force).unwrap();
    let freed = world.load_image(&one("freed"));
    let gone = store.create_container(&freed, &CreateOptions::default()).unwrap();
    fs::write(gone.mount().unwrap().path().join("change"), "committed").unwrap();
    let committed = gone.commit(&Default::default()).unwrap();
    gone.remove(RemoveContainer::Refuse).unwrap();
    store.remove_image("freed:1", RemoveImage::Refuse).unwrap();
    // A layer that is bound to its base, and the same on another base.
    let bound = tar().link("linked", "base").file("deep/down", "").finish();
    world.load_image(&one("bound").layer(bound.clone()));
    world.load_image(&one("other").layer(bound));
    store.remove_image("other:1", RemoveImage::Refuse).unwrap();
    // Left by a crash: a blob, a layer, a name.
    let stray = "stray".repeat(100);
    fs::write(world.path().join("oci/blobs/sha256").join(sha256(stray.as_bytes())), &stray).unwrap();
    collect(&world);

    let images: BTreeSet<_> = store.images().unwrap().iter().map(|image| image.digest()).collect();
    let expected = [&named, &unnamed, &committed].map(|image| image.digest());
    assert!(images.is_superset(&expected.into()) && images.len() == 4);
    assert_eq!(exported(&user).names(), ["base", "used"]);
    let again = store.create_container(&committed, &CreateOptions::default()).unwrap();
    assert_eq!(exported(&again).names(), ["base", "change", "freed"]);

    for container in store.containers().unwrap() {
        container.remove(RemoveContainer::Refuse).unwrap();
    }
    collect(&world);
    for image in store.images().unwrap() {
        store.remove_image(&image.digest().to_string(), RemoveImage::Force).unwrap();
    }
    collect(&world);
    assert!(names_in(&world.path().join("oci/blobs/sha256")).is_empty());
    assert!(names_in(&world.path().join("layers")).is_empty());
}

#[test]
fn an_index_keeps_what_it_lists_of_every_platform() {
    let world = World::driver(DriverKind::Copy);
    let mut layout = Layout::default();
    let host = layout.add(&one("host"));
    let mut foreign = one("foreign");
    foreign.config["architecture"] = json!("s390x");
    let foreign = layout.add(&foreign);
    let media_type = "application/vnd.oci.image.manifest.v1+json";
    let entry = |digest: &str, size: usize, architecture: &str| json!({"mediaType": media_type, "digest": digest, "size": size, "platform": {"os": "linux", "architecture": architecture}});
    let architecture = image().config["architecture"].as_str().unwrap().to_owned();
    let absent = format!("sha256:{}", sha256(b"absent"));
    let index = json!({"schemaVersion": 2, "mediaType": "application/vnd.oci.image.index.v1+json", "manifests": [
        entry(&foreign.manifest, layout.blobs[&foreign.manifest].len(), "s390x"),
        entry(&absent, 700, "riscv64"),
        entry(&host.manifest, layout.blobs[&host.manifest].len(), &architecture),
    ]});
    let mut index = layout.document("application/vnd.oci.image.index.v1+json", &index);
    index["annotations"] = json!({"io.containerd.image.name": "docker.io/library/multi:1"});
    layout.index["manifests"] = json!([index]);
    let loaded = world.load(layout.oci_archive());
    assert_eq!(loaded.digest().to_string(), index["digest"]);
    assert_eq!(loaded.manifest_digest().to_string(), host.manifest);
    collect(&world);
    assert_eq!(names_in(&world.path().join("oci/blobs/sha256")).len(), layout.blobs.len());

    // A container keeps its platform alone, whatever becomes of the index.
    let container = world.store.create_container(&loaded, &CreateOptions::default()).unwrap();
    world.store.remove_image("multi:1", RemoveImage::Force).unwrap();
    collect(&world);
    assert_eq!(exported(&container).names(), ["base", "host"]);
    let left = names_in(&world.path().join("oci/blobs/sha256"));
    assert!(!left.contains(&foreign.manifest["sha256:".len()..]) && left.len() == 4);
}

#[test]
fn what_another_tool_put_into_the_layout_is_kept() {
    let world = World::driver(DriverKind::Copy);
    world.load_image(&one("ours"));
    // As umoci and skopeo do it: blobs, then an entry in the index whose name is a tag.
    let layout = Layout::of(&one("theirs"));
    for (digest, blob) in &layout.blobs {
        fs::write(world.path().join("oci/blobs").join(digest.replace(':', "/")), blob).unwrap();
    }
    let path = world.path().join("oci/index.json");
    let mut index = read(&path);
    let mut entry = layout.index["manifests"][0].clone();
    entry["annotations"] = json!({"org.opencontainers.image.ref.name": "theirs", "their.own": "annotation"});
    index["manifests"].as_array_mut().unwrap().push(entry);
    fs::write(&path, serde_json::to_vec(&index).unwrap()).unwrap();
    collect(&world);
    let theirs = world.store.image(&layout.images[0].config).unwrap();
    let container = world.store.create_container(&theirs, &CreateOptions::default()).unwrap();
    assert_eq!(exported(&container).names(), ["base", "theirs"]);
    collect(&world);
}

/// Has the store collected every so many bytes.
struct Collecting<'a> {
    archive: &'a [u8],
    store: Store,
}

impl Read for Collecting<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        self.store.gc(&GcOptions::default()).unwrap();
        let length = buffer.len().min(3000);
        self.archive.read(&mut buffer[..length])
    }
}

#[test]
fn a_collection_takes_nothing_from_an_operation_in_progress() {
    let archive = Layout::of(&sample()).oci_archive();
    for unpack in [Unpack::Now, Unpack::OnDemand] {
        let world = World::driver(DriverKind::Copy);
        let mut options = LoadOptions::default();
        options.unpack = unpack;
        // Some of it is there already, and nothing but the load leads to it.
        world.load_image(&sample().name("docker.io/library/before:1"));
        for name in ["sample:1", "before:1"] {
            world.store.remove_image(name, RemoveImage::Refuse).unwrap();
        }
        let reader = Collecting { archive: &archive, store: world.again() };
        let image = world.store.load(reader, &options).unwrap().remove(0).image;
        collect(&world);
        let container = world.store.create_container(&image, &CreateOptions::default()).unwrap();
        exported(&container).assert_same(&sample_tree().without_holes(), "collected meanwhile");
    }
}

#[test]
fn collections_and_lives_do_not_hurt_each_other() {
    let world = World::driver(DriverKind::Copy);
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let collector = scope.spawn(|| {
            let store = world.again();
            while !done.load(Ordering::Relaxed) {
                store.gc(&GcOptions::default()).unwrap_or_else(|error| panic!("{}", chain(&error)));
            }
        });
        let lives: Vec<_> = (0..3)
            .map(|life| {
                let store = world.again();
                scope.spawn(move || {
                    for round in 0..5 {
                        live(&store, life, round);
                    }
                })
            })
            .collect();
        let outcomes: Vec<_> = lives.into_iter().map(|life| life.join()).collect();
        done.store(true, Ordering::Relaxed);
        collector.join().unwrap();
        outcomes.into_iter().for_each(|outcome| outcome.unwrap());
    });
    collect(&world);
    assert!(names_in(&world.path().join("oci/blobs/sha256")).is_empty());
    // Locks of what is gone are gone.
    let own = world.path().join("locks");
    let fixed = names_in(&own).iter().all(|name| !name.contains('-'));
    assert!(fixed, "{:?}", names_in(&own));
}

/// Load, create, change, commit, remove; base and middle layers are everybody's.
fn live(store: &Store, life: usize, round: usize) {
    let spec = image()
        .layer(tar().file("base", vec![1; 50_000]).finish())
        .compressed(tar().dir("middle").file("middle/file", "x").finish(), Compression::Zstd)
        .layer(tar().file("life", format!("{life}")).finish());
    let archive = Layout::of(&spec).oci_archive();
    let fail = |step: &str, error: &dyn std::error::Error| -> ! { panic!("{step}: {}", chain(error)) };
    let mut options = LoadOptions::default();
    options.unpack = if round.is_multiple_of(2) { Unpack::Now } else { Unpack::OnDemand };
    let image =
        store.load(&archive[..], &options).unwrap_or_else(|error| fail("load", &error)).remove(0).image;
    let container = store
        .create_container(&image, &CreateOptions::default())
        .unwrap_or_else(|error| fail("create", &error));
    fs::write(container.mount().unwrap().path().join("middle/file"), format!("{life} {round}")).unwrap();
    let committed = container.commit(&Default::default()).unwrap_or_else(|error| fail("commit", &error));
    assert_eq!(committed.diff_ids().len(), 4);
    for digest in [image.digest(), committed.digest()] {
        store
            .remove_image(&digest.to_string(), RemoveImage::Force)
            .unwrap_or_else(|error| fail("remove image", &error));
    }
    assert_eq!(changes(&container), ["C /middle", "C /middle/file"]);
    container.remove(RemoveContainer::Refuse).unwrap_or_else(|error| fail("remove", &error));
}

#[test]
fn a_collection_and_a_save_that_are_called_off_end_and_take_nothing_that_is_needed() {
    let world = World::driver(DriverKind::Copy);
    let kept = world.load_image(&one("kept"));
    world.load_image(&one("gone"));
    world.store.remove_image("gone:1", RemoveImage::Refuse).unwrap();
    let cancel = AtomicBool::new(true);
    let mut options = GcOptions::default();
    options.cancel = Some(&cancel);
    let error = world.refuse(|store| store.gc(&options));
    assert_eq!(error.kind(), "cancelled", "{}", chain(&error));
    let mut how = plywood::SaveOptions::default();
    how.cancel = Some(&cancel);
    let error = world.refuse(|store| {
        store.save(std::slice::from_ref(&kept), plywood::ArchiveFormat::OciArchive, std::io::sink(), &how)
    });
    assert!(matches!(error, plywood::StoreError::Cancelled), "{}", chain(&error));
    cancel.store(false, Ordering::Relaxed);
    assert_eq!(world.store.gc(&options).unwrap().layers.len(), 1);
    collect(&world);
}

#[test]
fn what_a_dead_process_left_in_staging_goes() {
    let world = World::driver(DriverKind::Copy);
    world.load_image(&one("kept"));
    let dead = world.path().join("staging/0123456789abcdef0123456789abcdef");
    fs::create_dir_all(dead.join("0/tree/etc")).unwrap();
    for file in ["lock", "pins", "1", "0/tree/etc/passwd"] {
        fs::write(dead.join(file), "blob sha256:nothing\n").unwrap();
    }
    fs::write(world.path().join("staging/stray"), "").unwrap();
    // A collection records, too, that the layers are on disk.
    world.store.settle().unwrap();
    let before = world.state();
    let report = world.store.gc(&GcOptions::dry_run()).unwrap();
    assert_eq!((report.leftovers, report.blobs.len()), (2, 0));
    assert_eq!(names_in(&world.path().join("staging")).len(), 2);
    assert_eq!(world.store.gc(&GcOptions::default()).unwrap(), report);
    assert_eq!(names_in(&world.path().join("staging")).len(), 0);
    world.state().assert_same(&before, "after a dead process");
}

#[test]
fn if_something_needed_cannot_be_read_nothing_goes() {
    let world = World::driver(DriverKind::Copy);
    let image = world.load_image(&one("damaged"));
    world.load_image(&one("removed"));
    world.store.remove_image("removed:1", RemoveImage::Refuse).unwrap();
    let manifest = world.path().join("oci/blobs/sha256").join(image.digest().hex());
    let whole = fs::read(&manifest).unwrap();
    for (damage, kind) in
        [(Some(&whole[1..]), "size-mismatch"), (Some(&[b' '; 100]), "size-mismatch"), (None, "missing-blob")]
    {
        match damage {
            Some(bytes) => fs::write(&manifest, bytes).unwrap(),
            None => fs::remove_file(&manifest).unwrap(),
        }
        let error = world.refuse(|store| store.gc(&GcOptions::default()));
        assert!([kind, "digest-mismatch"].contains(&error.kind()), "{}", chain(&error));
        assert!(chain(&error).contains(&image.digest().to_string()), "{}", chain(&error));
    }
    fs::write(&manifest, whole).unwrap();
    collect(&world);
}

#[test]
fn a_damaged_image_is_in_the_way_of_no_other_and_can_be_removed_or_loaded_again() {
    let world = World::driver(DriverKind::Copy);
    let archive = Layout::of(&one("damaged")).oci_archive();
    let image = world.load(&archive);
    let whole = world.load_image(&one("whole"));
    let listed = || {
        let images = world.store.images().unwrap();
        let damaged: Vec<_> = images.damaged().iter().map(|damaged| damaged.digest).collect();
        (images.iter().map(Image::digest).collect::<Vec<_>>(), damaged)
    };
    let blob = |digest: Digest| world.path().join("oci/blobs/sha256").join(digest.hex());
    // As a disk leaves it that was cut off, one that lies, and one that forgets; of the manifest and of the config.
    for document in [image.digest(), image.id()].map(blob) {
        for damage in 0..3 {
            match damage {
                0 => fs::write(&document, "").unwrap(),
                1 => fs::write(&document, " ".repeat(fs::read(&document).unwrap().len())).unwrap(),
                _ => fs::remove_file(&document).unwrap(),
            }
            assert_eq!(listed(), (vec![whole.digest()], vec![image.digest()]), "{document:?}, {damage}");
            assert!(world.store.image("damaged:1").is_err());
            assert_eq!(world.store.image("whole:1").unwrap().digest(), whole.digest());
            // Without force it is left alone; so is everything, since nobody knows what it needs.
            world.refuse(|store| store.remove_image("damaged:1", RemoveImage::Refuse));
            world.refuse(|store| store.gc(&GcOptions::default()));
            assert_eq!(world.load(&archive).digest(), image.digest());
            assert_eq!(listed(), (vec![image.digest(), whole.digest()], vec![]), "{document:?}, {damage}");
        }
    }
    let container = world.store.create_container(&image, &CreateOptions::default()).unwrap();
    exported(&container);
    container.remove(RemoveContainer::Refuse).unwrap();

    // A container goes on without the documents, and keeps its layers and what they were made of.
    let container = world.store.create_container(&image, &CreateOptions::default()).unwrap();
    let content = exported(&container);
    fs::remove_file(blob(image.digest())).unwrap();
    let removed = world.store.remove_image("damaged:1", RemoveImage::Force).unwrap();
    assert_eq!((removed.untagged.len(), removed.deleted), (1, None));
    let report = world.store.gc(&GcOptions::default()).unwrap();
    assert_eq!((report.blobs, report.layers), (vec![image.id()], vec![]));
    exported(&container).assert_same(&content, "of a container without its image");
    container.remove(RemoveContainer::Refuse).unwrap();
    assert_eq!(world.store.gc(&GcOptions::default()).unwrap().blobs.len(), 1);
    assert_eq!(listed(), (vec![whole.digest()], vec![]));
    collect(&world);
}

#[test]
fn a_view_keeps_its_image_and_goes_with_it() {
    privilege::under(&[Privilege::Root], |_| {
        let world = World::driver(DriverKind::Overlay);
        let image = world.load_image(&one("viewed"));
        let path = world.store.mount_image(&image).unwrap();
        let error = world.refuse(|store| store.remove_image("viewed:1", RemoveImage::Refuse));
        assert_eq!(error.kind(), "image-mounted", "{}", chain(&error));
        collect(&world);
        assert_eq!(names_in(&path), ["base", "viewed"].map(String::from).into());
        // As after a reboot: the record is there, the mount is not.
        rustix::mount::unmount(&path, rustix::mount::UnmountFlags::empty()).unwrap();
        collect(&world);
        assert_eq!(world.store.mount_image(&image).unwrap(), path);
        assert_eq!(names_in(&path), ["base", "viewed"].map(String::from).into());
        rustix::mount::unmount(&path, rustix::mount::UnmountFlags::empty()).unwrap();
        world.store.remove_image("viewed:1", RemoveImage::Refuse).unwrap();
        world.store.gc(&GcOptions::default()).unwrap();
        for dir in ["views", "layers", "oci/blobs/sha256"] {
            assert!(names_in(&world.path().join(dir)).is_empty(), "{dir}");
        }
    });
}

/// Every name in a store with its size and what it takes on disk, but for what was found out about the machine.
fn listing(root: &Path) -> BTreeMap<PathBuf, (u64, u64)> {
    use std::os::unix::fs::MetadataExt;
    let mut listed = BTreeMap::new();
    let mut open = vec![root.to_owned()];
    while let Some(path) = open.pop() {
        let stat = fs::symlink_metadata(&path).unwrap();
        if stat.is_dir() {
            open.extend(fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()));
        }
        let name = path.strip_prefix(root).unwrap().to_owned();
        let size = if stat.is_dir() { 0 } else { stat.len() };
        if name != Path::new("cache/probe.json") {
            listed.insert(name, (size, stat.blocks()));
        }
    }
    listed
}

#[test]
fn after_everything_was_removed_a_store_is_as_small_as_a_new_one() {
    privilege::under_with_fuse(ALL, |privilege| {
        for &kind in drivers(privilege) {
            let world = World::driver(kind);
            let mut new = listing(&world.path());
            // Some locks are made when they are first wanted, and stay.
            let lasting = ["locks/gc", "locks/index"];
            new.extend(lasting.map(|name| (PathBuf::from(name), (0, 0))));
            let image = world.load_image(&sample());
            let container = world.store.create_container(&image, &CreateOptions::named("one")).unwrap();
            let clone = container.clone_as(&CreateOptions::named("two")).unwrap();
            let mounted = container.mount().unwrap_or_else(|error| panic!("{}", chain(&error)));
            edit(mounted.path());
            let mut container = mounted.unmount().unwrap();
            container.rename("three").unwrap();
            container.update(|notes| drop(notes.labels.insert("a".into(), "b".into()))).unwrap();
            let committed = container.commit(&CommitOptions::default()).unwrap();
            world.store.tag(&committed, &Reference::parse_familiar("mine:1").unwrap()).unwrap();
            world.store.create_container(&committed, &CreateOptions::named("four")).unwrap();
            if world.store.mount_image(&committed).is_ok() {
                world.store.unmount_image(&committed).unwrap();
            }
            world.store.list_images().unwrap();
            world.store.check(&Default::default()).unwrap();
            drop((container, clone));
            for container in world.store.containers().unwrap() {
                container.remove(RemoveContainer::Refuse).unwrap();
            }
            for image in world.store.images().unwrap() {
                world.store.remove_image(&image.id().to_string(), RemoveImage::Force).unwrap();
            }
            world.store.gc(&GcOptions::default()).unwrap();
            assert_eq!(listing(&world.path()), new, "{privilege:?}, {kind}");
        }
    });
}

#[test]
fn what_is_not_the_stores_is_told_and_stays_and_what_the_dead_left_goes() {
    let world = World::driver(DriverKind::Copy);
    let image = world.load_image(&one("image"));
    world.store.create_container(&image, &CreateOptions::named("web")).unwrap();
    let id = sha256(b"nothing");
    let key = format!("layer-sha256-{id}");
    let left = [format!("locks/{key}"), format!("locks/container-{id}"), format!("locks/view-{id}")];
    for name in &left {
        fs::write(world.path().join(name), "").unwrap();
    }
    // Without a record, as nobody publishes it.
    fs::create_dir_all(world.path().join(format!("layers/sha256-{id}/tree"))).unwrap();
    fs::create_dir_all(world.path().join("staging/anything")).unwrap();
    fs::write(world.path().join(format!("names/{id}x")), &id).unwrap();
    let strange = [
        "notes",
        "containers/nobody",
        "layers/notes",
        "layers/sha256-1",
        "names/a-directory",
        "locks/notes",
        "names/.hidden",
        "oci/blobs/md5",
        "oci/blobs/sha256/.tmp1234",
        "oci/notes.txt",
        "views/x",
    ];
    for (number, name) in strange.iter().enumerate() {
        let path = world.path().join(name);
        if number % 2 == 0 { fs::create_dir(path).unwrap() } else { fs::write(path, "mine").unwrap() }
    }

    let would = world.store.gc(&GcOptions::dry_run()).unwrap();
    let did = world.store.gc(&GcOptions::default()).unwrap();
    assert_eq!(did, would);
    assert_eq!((did.leftovers, did.layers.len(), did.blobs.len()), (2, 1, 0));
    let told: BTreeSet<_> = did.strangers.into_iter().collect();
    assert_eq!(told, strange.map(|name| world.path().join(name)).into());
    for name in strange {
        assert!(world.path().join(name).exists(), "{name}");
    }
    assert!(left.iter().all(|name| !world.path().join(name).exists()));
    assert_eq!(names_in(&world.path().join("staging")), BTreeSet::new());
    assert_eq!(exported(&world.store.container("web").unwrap()).0.len(), 3);
}
