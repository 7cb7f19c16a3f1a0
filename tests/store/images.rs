//! Images: loaded from whatever they come in, named, shared, removed.

use std::collections::BTreeSet;
use std::fs;
use std::io::Read;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use plywood::driver::DriverKind;
use plywood::image::Reference;
use plywood::store::{CreateOptions, Image, LoadOptions, RemoveImage, Store, Unpack};
use serde_json::{Value, json};

use crate::common::image::{Compression, ImageSpec, Layout, blob_path, gzip, image, zstd};
use crate::common::tar::tar;
use crate::world::*;

fn reference(name: &str) -> Reference {
    Reference::parse_familiar(name).unwrap()
}

fn names(image: &Image) -> Vec<String> {
    image.names().iter().map(Reference::familiar).collect()
}

/// A small image of this content.
fn small(content: &str) -> ImageSpec {
    image().layer(tar().dir("etc").file("etc/content", content).finish())
}

/// Reads as a pipe does: a little at a time, and never twice.
struct Pipe<R>(R);

impl<R: Read> Read for Pipe<R> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let length = buffer.len().min(777);
        self.0.read(&mut buffer[..length])
    }
}

#[test]
fn an_image_is_the_same_whatever_it_comes_in() {
    let layout = Layout::of(&sample());
    let added = &layout.images[0];
    let mut exports = Vec::new();
    let dir = World::driver(DriverKind::Copy);
    layout.write(&dir.beside("layout"));
    let loaded = dir.store.load_directory(dir.beside("layout"), &LoadOptions::default()).unwrap();
    let worlds = [
        layout.oci_archive(),
        gzip(&layout.oci_archive()),
        zstd(&layout.docker_archive()),
        layout.docker_archive(),
    ]
    .map(|archive| {
        let world = World::driver(DriverKind::Copy);
        let file = world.beside("archive");
        fs::write(&file, &archive).unwrap();
        let image = world
            .store
            .load(fs::File::open(&file).unwrap(), &LoadOptions::default())
            .unwrap()
            .remove(0)
            .image;
        let piped = World::driver(DriverKind::Copy);
        let from_pipe =
            piped.store.load(Pipe(&archive[..]), &LoadOptions::default()).unwrap().remove(0).image;
        assert_eq!((from_pipe.id(), from_pipe.digest()), (image.id(), image.digest()));
        let state = |world: &World| world.state().without_mtimes(|_, _| true);
        state(&piped).assert_same(&state(&world), "from a pipe and from a file");
        (world, image)
    });
    let docker = &worlds[3].1;
    let oci =
        [(&dir, &loaded[0].image)].into_iter().chain(worlds.iter().map(|(world, image)| (world, image)));
    for (world, image) in oci {
        assert_eq!(image.id().to_string(), added.config);
        assert_eq!(names(image), ["sample:1"]);
        assert_eq!(image.diff_ids().iter().map(ToString::to_string).collect::<Vec<_>>(), added.diff_ids);
        let expected = if image.manifest().layers[0].digest.to_string() == added.layers[0] {
            added.manifest.clone()
        } else {
            // A docker-archive has no manifest; one is made, always the same.
            docker.digest().to_string()
        };
        assert_eq!(image.digest().to_string(), expected);
        assert_eq!(world.store.config_bytes(image).unwrap(), layout.blobs[&added.config]);
        let container = world.store.create_container(image, &CreateOptions::default()).unwrap();
        exports.push(export(&container));
    }
    assert_eq!(exports.len(), 5);
    assert!(exports.windows(2).all(|pair| pair[0] == pair[1]));
}

#[test]
fn loading_again_changes_nothing() {
    let mut layout = Layout::of(&sample());
    layout.add(&small("other").name("docker.io/library/small:1").name("quay.io/me/small:2"));
    layout.add(&small("nameless"));
    for archive in [layout.oci_archive(), layout.docker_archive()] {
        let world = World::driver(DriverKind::Copy);
        let first = world.store.load(&archive[..], &LoadOptions::default()).unwrap();
        let before = world.state();
        let inodes = inodes(&world);
        for store in [&world.store, &world.again()] {
            let second = store.load(&archive[..], &LoadOptions::default()).unwrap();
            for (one, other) in first.iter().zip(&second) {
                assert_eq!((one.image.digest(), &one.names), (other.image.digest(), &other.names));
                assert!(other.moved.is_empty(), "{:?}", other.moved);
            }
        }
        world.state().assert_same(&before, "loaded again");
        assert_eq!(self::inodes(&world), inodes, "something was written again");
    }
}

/// Every blob and layer with its inode number.
fn inodes(world: &World) -> Vec<(String, u64)> {
    use std::os::unix::fs::MetadataExt;
    let mut inodes = Vec::new();
    for dir in ["oci", "oci/blobs/sha256", "layers"] {
        for entry in fs::read_dir(world.path().join(dir)).unwrap() {
            let entry = entry.unwrap();
            inodes.push((entry.file_name().into_string().unwrap(), entry.metadata().unwrap().ino()));
        }
    }
    inodes.sort();
    inodes
}

#[test]
fn a_name_moves_to_the_image_that_was_loaded_last() {
    let world = World::driver(DriverKind::Copy);
    let name = "docker.io/library/app:latest";
    let old = world.load_image(&small("old").name(name));
    let kept = world.load_image(&small("kept").name("quay.io/me/kept:1"));
    let mut loaded = world
        .store
        .load(&Layout::of(&small("new").name(name)).oci_archive()[..], &LoadOptions::default())
        .unwrap();
    let new = loaded.remove(0);
    assert_eq!(new.moved.len(), 1);
    assert_eq!((new.moved[0].name.canonical().as_str(), new.moved[0].from), (name, old.digest()));
    assert_eq!(world.store.image("app").unwrap().id(), new.image.id());
    // The old one is not lost, only nameless: that is how it is found.
    let found = world.store.image(&old.id().to_string()).unwrap();
    assert_eq!((found.digest(), found.names().len()), (old.digest(), 0));
    let listed: Vec<_> = world.store.images().unwrap().iter().map(Image::digest).collect();
    assert_eq!(listed, [new.image.digest(), kept.digest(), old.digest()]);
}

#[test]
fn an_image_is_found_by_everything_that_docker_takes() {
    let world = World::driver(DriverKind::Copy);
    let image =
        world.load_image(&small("x").name("docker.io/library/app:latest").name("localhost:5000/team/app:2"));
    let other = world.load_image(&small("y"));
    let (id, digest) = (image.id().to_string(), image.digest().to_string());
    let with_digest = format!("localhost:5000/team/app@{digest}");
    let with_both = format!("localhost:5000/team/app:2@{digest}");
    for name in [
        "app",
        "app:latest",
        "docker.io/app",
        "docker.io/library/app:latest",
        "index.docker.io/library/app",
        "localhost:5000/team/app:2",
        &with_digest,
        &with_both,
        &id,
        &id["sha256:".len()..],
        &id["sha256:".len()..][..12],
        &id[.."sha256:".len() + 12],
        &digest,
    ] {
        let found = world.store.image(name).unwrap_or_else(|error| panic!("{name}: {}", chain(&error)));
        assert_eq!(found.digest(), image.digest(), "{name}");
        assert_eq!(names(&found), ["app:latest", "localhost:5000/team/app:2"]);
    }
    let elsewhere = format!("quay.io/app@{digest}");
    for name in ["app:1", "team/app:2", "localhost:5000/team/app", "", "App", "a b", "sha256:", &elsewhere] {
        let error = world.refuse(|store| store.image(name));
        assert_eq!(error.kind(), "not-found", "{name:?}: {}", chain(&error));
        assert!(chain(&error).contains(&format!("{name:?}")));
    }
    assert_eq!(world.store.image(&other.id().to_string()).unwrap().names(), []);
}

#[test]
fn the_beginning_of_several_ids_names_all_that_it_may_mean() {
    let world = World::driver(DriverKind::Copy);
    let mut layout = Layout::default();
    // Of seventeen ids two begin with the same digit.
    let added: Vec<_> = (0..17).map(|number| layout.add(&small(&number.to_string()))).collect();
    let mut quiet = LoadOptions::default();
    quiet.unpack = Unpack::OnDemand;
    world.store.load(&layout.oci_archive()[..], &quiet).unwrap();
    let first = |id: &str| id["sha256:".len()..][..1].to_owned();
    let mut seen = BTreeSet::new();
    let twice =
        added.iter().map(|added| first(&added.config)).find(|digit| !seen.insert(digit.clone())).unwrap();
    let error = world.store.image(&twice).unwrap_err();
    assert_eq!(error.kind(), "ambiguous");
    for added in added.iter().filter(|added| first(&added.config) == twice) {
        assert!(chain(&error).contains(&added.config), "{}", chain(&error));
    }
}

#[test]
fn names_are_given_and_taken() {
    let world = World::driver(DriverKind::Copy);
    let image = world.load_image(&small("x").name("docker.io/library/app:1"));
    let other = world.load_image(&small("y").name("docker.io/library/other:1"));
    assert_eq!(world.store.tag(&image, &reference("app:2")).unwrap(), None);
    assert_eq!(world.store.tag(&image, &reference("app:2")).unwrap(), None);
    let moved = world.store.tag(&image, &reference("other:1")).unwrap().unwrap();
    assert_eq!((moved.name, moved.from), (reference("other:1"), other.digest()));
    assert_eq!(names(&world.store.image("app:1").unwrap()), ["app:1", "app:2", "other:1"]);
    for name in ["app:1", "app:2", "other:1"] {
        assert_eq!(world.store.untag(&reference(name)).unwrap(), image.digest());
        assert_eq!(world.refuse(|store| store.untag(&reference(name))).kind(), "not-found");
    }
    let left = world.store.images().unwrap();
    assert_eq!(
        left.iter().map(Image::digest).collect::<BTreeSet<_>>(),
        [image.digest(), other.digest()].into()
    );
    assert!(left.iter().all(|image| image.names().is_empty()));
    world.store.remove_image(&image.id().to_string(), RemoveImage::Refuse).unwrap();
    let error = world.refuse(|store| store.tag(&image, &reference("app:3")));
    assert_eq!(error.kind(), "not-found");
}

#[test]
fn other_tools_find_each_name_in_the_index() {
    let world = World::driver(DriverKind::Copy);
    let image = world.load_image(&small("x").name("docker.io/library/app:1").name("localhost:5000/x:y"));
    let index: Value =
        serde_json::from_slice(&fs::read(world.path().join("oci/index.json")).unwrap()).unwrap();
    let annotations: Vec<_> = index["manifests"]
        .as_array()
        .unwrap()
        .iter()
        .map(|entry| {
            assert_eq!(entry["digest"], image.digest().to_string());
            let annotation = |key: &str| entry["annotations"][key].as_str().unwrap().to_owned();
            (annotation("org.opencontainers.image.ref.name"), annotation("io.containerd.image.name"))
        })
        .collect();
    assert_eq!(
        annotations,
        [("app:1", "docker.io/library/app:1"), ("localhost:5000/x:y", "localhost:5000/x:y")]
            .map(|(short, full)| (short.to_owned(), full.to_owned()))
    );
    let marker = fs::read_to_string(world.path().join("oci/oci-layout")).unwrap();
    assert_eq!(marker.trim(), r#"{"imageLayoutVersion":"1.0.0"}"#);
}

#[test]
fn an_image_in_use_is_removed_only_by_force_and_its_container_keeps_working() {
    let world = World::driver(DriverKind::Copy);
    let image = world.load_image(&sample());
    let container = world.store.create_container(&image, &CreateOptions::named("user")).unwrap();
    world.store.tag(&image, &reference("again:1")).unwrap();
    // One of two names can go: the container loses nothing by it.
    let removed = world.store.remove_image("again:1", RemoveImage::Refuse).unwrap();
    assert_eq!((removed.untagged, removed.deleted), (vec![reference("again:1")], None));
    for name in ["sample:1".to_owned(), image.id().to_string()] {
        let error = world.refuse(|store| store.remove_image(&name, RemoveImage::Refuse));
        assert_eq!(error.kind(), "image-in-use");
        assert!(chain(&error).contains("user") && chain(&error).contains(&image.id().to_string()));
    }
    let before = export(&container);
    let removed = world.store.remove_image("sample:1", RemoveImage::Force).unwrap();
    assert_eq!((removed.untagged, removed.deleted), (vec![reference("sample:1")], Some(image.id())));
    assert!(world.store.images().unwrap().is_empty());
    let report = world.store.gc(&Default::default()).unwrap();
    assert!(report.blobs.is_empty() && report.layers.is_empty(), "{report:?}");

    let container = world.again().container("user").unwrap();
    assert_eq!(export(&container), before);
    edit(container.mount().unwrap().path());
    assert_eq!(changes(&container), EDITS);
    let committed = container.commit(&Default::default()).unwrap();
    assert_eq!(committed.diff_ids()[..3], *image.diff_ids());
    let again = world.store.create_container(&committed, &CreateOptions::default()).unwrap();
    assert_eq!(export(&again), export(&container));
}

#[test]
fn an_image_with_several_names_is_removed_by_id_only_by_force() {
    let world = World::driver(DriverKind::Copy);
    let image = world.load_image(&small("x").name("docker.io/library/app:1").name("docker.io/library/app:2"));
    let error = world.refuse(|store| store.remove_image(&image.id().to_string(), RemoveImage::Refuse));
    assert_eq!(error.kind(), "several-names");
    assert!(chain(&error).contains("app:1, app:2"), "{}", chain(&error));
    let removed = world.store.remove_image(&image.id().to_string(), RemoveImage::Force).unwrap();
    assert_eq!(removed.untagged, ["app:1", "app:2"].map(reference));
    assert_eq!(removed.deleted, Some(image.id()));
    assert_eq!(world.refuse(|store| store.image("app:1")).kind(), "not-found");
}

#[test]
fn images_share_the_layers_that_they_have_in_common() {
    let world = World::driver(DriverKind::Copy);
    let (base, other) = (tar().file("base", "b").finish(), tar().file("other", "o").finish());
    let one = image().layer(base.clone()).layer(tar().file("one", "1").finish());
    // The same layer on another base, compressed in another way.
    let two = image().layer(other).compressed(base, Compression::Gzip);
    world.load_image(&one);
    world.load_image(&two);
    assert_eq!(names_in(&world.path().join("layers")).len(), 3);
    assert_eq!(world.store.info().unwrap().layers, 3);
}

#[test]
fn layers_are_unpacked_when_they_are_needed_if_that_is_asked_for() {
    let world = World::driver(DriverKind::Copy);
    let archive = Layout::of(&sample()).oci_archive();
    let mut lazy = LoadOptions::default();
    lazy.unpack = Unpack::OnDemand;
    let image = world.store.load(&archive[..], &lazy).unwrap().remove(0).image;
    assert!(names_in(&world.path().join("layers")).is_empty());
    let container = world.store.create_container(&image, &CreateOptions::default()).unwrap();
    assert_eq!(names_in(&world.path().join("layers")).len(), 3);
    exported(&container).assert_same(&sample_tree().without_holes(), "unpacked for the container");
}

#[test]
fn a_tag_alone_is_a_name_in_the_repository_that_the_caller_names() {
    let mut layout = Layout::of(&small("x").name("docker.io/library/app:1.0"));
    let entry = layout.index["manifests"][0]["annotations"].as_object_mut().unwrap();
    entry.remove("io.containerd.image.name");
    let mut options = LoadOptions::default();
    options.repository = Some(reference("localhost/mine"));
    let (with, without) = (World::driver(DriverKind::Copy), World::driver(DriverKind::Copy));
    let loaded = with.store.load(&layout.oci_archive()[..], &options).unwrap();
    assert_eq!(names(&loaded[0].image), ["localhost/mine:1.0"]);
    let loaded = without.store.load(&layout.oci_archive()[..], &LoadOptions::default()).unwrap();
    assert!(loaded[0].image.names().is_empty());
    assert!(loaded[0].warnings.iter().any(|warning| warning.contains("1.0")), "{:?}", loaded[0].warnings);
}

#[test]
fn loading_tells_how_far_it_is_and_stops_when_it_is_told_to() {
    let world = World::driver(DriverKind::Copy);
    let archive = Layout::of(&sample()).oci_archive();
    let (cancel, read) = (AtomicBool::new(false), AtomicU64::new(0));
    let progress = |bytes| {
        read.fetch_max(bytes, Ordering::Relaxed);
    };
    let mut options = LoadOptions::default();
    options.cancel = Some(&cancel);
    options.progress = Some(&progress);
    cancel.store(true, Ordering::Relaxed);
    let error = world.refuse(|store| store.load(&archive[..], &options));
    assert_eq!(error.kind(), "cancelled", "{}", chain(&error));
    cancel.store(false, Ordering::Relaxed);
    world.store.load(&archive[..], &options).unwrap();
    assert_eq!(read.load(Ordering::Relaxed), archive.len() as u64);

    // Told to stop in the middle, wherever that is, it leaves nothing.
    let other = World::driver(DriverKind::Copy);
    for part in 1..8 {
        let limit = archive.len() as u64 * part / 8;
        let progress = |bytes| cancel.store(bytes > limit, Ordering::Relaxed);
        let mut options = LoadOptions::default();
        options.cancel = Some(&cancel);
        options.progress = Some(&progress);
        let error = other.refuse(|store| store.load(Pipe(&archive[..]), &options));
        assert_eq!(error.kind(), "cancelled", "{}", chain(&error));
    }
}

#[test]
fn several_loads_at_a_time_lose_no_name_and_no_layer() {
    let world = World::driver(DriverKind::Copy);
    let names: Vec<_> = (0..6).map(|number| format!("docker.io/library/app:{number}")).collect();
    std::thread::scope(|scope| {
        for (number, name) in names.iter().enumerate() {
            let store: Store = world.again();
            let spec = sample().layer(tar().file("number", (number % 3).to_string()).finish());
            let archive = Layout::of(&ImageSpec { names: vec![name.clone()], ..spec }).oci_archive();
            scope.spawn(move || load(&store, archive));
        }
    });
    let images = world.store.images().unwrap();
    assert_eq!(images.len(), 3);
    let found: BTreeSet<_> = images.iter().flat_map(Image::names).map(Reference::canonical).collect();
    assert_eq!(found, names.into_iter().collect());
    assert_eq!(names_in(&world.path().join("layers")).len(), 6);
    for image in &images {
        let container = world.store.create_container(image, &CreateOptions::default()).unwrap();
        exported(&container).without("number").assert_same(&sample_tree().without_holes(), "after six loads");
    }
    assert!(names_in(&world.path().join("staging")).is_empty());
    let manifest = world.path().join("oci").join(blob_path(&images[0].digest().to_string()));
    assert!(manifest.exists());
}

/// The same layout with every digest, diff ids included, in SHA-512.
fn with_sha512(layout: &Layout) -> Layout {
    use sha2::Digest;
    let sha512 = |bytes: &[u8]| -> String {
        let hex: String = sha2::Sha512::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect();
        format!("sha512:{hex}")
    };
    let added = &layout.images[0];
    let mut new = Layout::default();
    let mut names = std::collections::BTreeMap::new();
    let mut put = |old: &str, bytes: Vec<u8>| {
        let digest = sha512(&bytes);
        names.insert(old.to_owned(), (digest.clone(), bytes.len()));
        new.blobs.insert(digest, bytes);
        names.clone()
    };
    for digest in &added.layers {
        put(digest, layout.blobs[digest].clone());
    }
    let mut config: Value = serde_json::from_slice(&layout.blobs[&added.config]).unwrap();
    let tars = layers().into_iter().map(|layer| sha512(&layer.finish()));
    config["rootfs"]["diff_ids"] = tars.map(Value::from).collect();
    let names = put(&added.config, serde_json::to_vec(&config).unwrap());
    let mut manifest: Value = serde_json::from_slice(&layout.blobs[&added.manifest]).unwrap();
    let rename = |descriptor: &mut Value| {
        let (digest, size) = &names[descriptor["digest"].as_str().unwrap()];
        (descriptor["digest"], descriptor["size"]) = (Value::from(digest.as_str()), Value::from(*size));
    };
    manifest["layers"].as_array_mut().unwrap().iter_mut().for_each(rename);
    rename(&mut manifest["config"]);
    let names = put(&added.manifest, serde_json::to_vec(&manifest).unwrap());
    new.index = layout.index.clone();
    let entry = &mut new.index["manifests"][0];
    let (digest, size) = &names[&added.manifest];
    (entry["digest"], entry["size"]) = (Value::from(digest.as_str()), Value::from(*size));
    new
}

#[test]
fn an_image_of_sha512_digests_lives_like_any_other() {
    let world = World::driver(DriverKind::Copy);
    let layout = with_sha512(&Layout::of(&sample()));
    let image = world.load(layout.oci_archive());
    assert!(
        image.id().to_string().starts_with("sha512:") && image.digest().to_string().starts_with("sha512:")
    );
    assert_eq!(world.store.image(&image.id().to_string()).unwrap().digest(), image.digest());
    let container = world.store.create_container(&image, &CreateOptions::default()).unwrap();
    exported(&container).assert_same(&sample_tree().without_holes(), "of SHA-512");
    world.store.gc(&Default::default()).unwrap();
    assert_eq!(names_in(&world.path().join("oci/blobs/sha512")).len(), layout.blobs.len());
    edit(container.mount().unwrap().path());
    let committed = container.commit(&Default::default()).unwrap();
    let again = world.store.create_container(&committed, &CreateOptions::default()).unwrap();
    assert_eq!(export(&again), export(&container));
    let mut archive = Vec::new();
    world
        .store
        .save(std::slice::from_ref(&committed), Default::default(), &mut archive, &Default::default())
        .unwrap();
    let other = World::driver(DriverKind::Copy);
    assert_eq!(other.load(&archive).digest(), committed.digest());

    let mut damaged = layout.clone();
    let digest = image.manifest().layers[0].digest.to_string();
    *damaged.blobs.get_mut(&digest).unwrap().last_mut().unwrap() ^= 1;
    let error = other.refuse(|store| store.load(&damaged.oci_archive()[..], &LoadOptions::default()));
    assert_eq!(error.kind(), "digest-mismatch", "{}", chain(&error));
}

#[test]
fn an_image_for_several_platforms_is_had_for_each_that_is_here() {
    let world = World::driver(DriverKind::Copy);
    let mut layout = Layout::default();
    let mut entries = Vec::new();
    for architecture in ["arm64", "s390x", "riscv64"] {
        let mut spec = image().layer(tar().file(architecture, "here").finish());
        spec.config["architecture"] = json!(architecture);
        let added = layout.add(&spec);
        entries.push(json!({
            "mediaType": "application/vnd.oci.image.manifest.v1+json", "digest": added.manifest,
            "size": layout.blobs[&added.manifest].len(), "platform": {"os": "linux", "architecture": architecture},
        }));
    }
    layout.blobs.remove(&layout.images[2].manifest);
    let index = json!({"schemaVersion": 2, "manifests": entries});
    let index = layout.document("application/vnd.oci.image.index.v1+json", &index);
    layout.index["manifests"] = json!([index]);
    let loaded = world.store.load(&layout.oci_archive()[..], &LoadOptions::default()).unwrap();
    let whole = &loaded[0].image;
    for (at, architecture) in ["arm64", "s390x"].into_iter().enumerate() {
        let platform = format!("linux/{architecture}").parse().unwrap();
        let image = world.store.image_for(whole, &platform).unwrap();
        assert_eq!(image.manifest_digest().to_string(), layout.images[at].manifest);
        assert_eq!(image.digest(), whole.digest());
        let container = world.store.create_container(&image, &CreateOptions::default()).unwrap();
        assert_eq!(exported(&container).names(), [architecture]);
    }
    for architecture in ["riscv64", "mips"] {
        let wanted = format!("linux/{architecture}").parse().unwrap();
        let error = world.refuse(|store| store.image_for(whole, &wanted));
        assert_eq!(error.kind(), "no-platform");
        let message = error.to_string();
        assert!(
            message.ends_with(&format!(
                "is not here for linux/{architecture}, but for linux/arm64, linux/s390x"
            )),
            "{message}"
        );
    }
}
