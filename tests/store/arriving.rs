//! Archives whose layers are unpacked while they are read, before anybody knows what they are.

use std::fs;
use std::io::{self, Read};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use plywood::store::{LoadOptions, StoreOptions};
use plywood::{Parallelism, Platform};
use serde_json::json;

use crate::common::image::{Compression, Layout, image, pack};
use crate::common::tar::tar;
use crate::world::{World, exported, names_in, noise, options};

fn threads(count: usize) -> StoreOptions {
    options().parallelism(Parallelism::new(count.try_into().unwrap()))
}

/// Gives an archive up to `until`, and the rest once there is a tree in staging that has a file `first`.
struct Pipe<'a> {
    archive: &'a [u8],
    given: usize,
    until: usize,
    staging: PathBuf,
}

impl Read for Pipe<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let mut most = buffer.len();
        if self.given < self.until {
            most = most.min(self.until - self.given);
        } else if self.given == self.until {
            let begin = Instant::now();
            while !self.is_unpacked() {
                assert!(begin.elapsed() < Duration::from_secs(60), "nothing is unpacked");
                std::thread::sleep(Duration::from_millis(1));
            }
        }
        let count = self.archive.read(&mut buffer[..most])?;
        self.given += count;
        Ok(count)
    }
}

impl Pipe<'_> {
    fn is_unpacked(&self) -> bool {
        let work = fs::read_dir(&self.staging).unwrap();
        let trees = work.filter_map(|entry| fs::read_dir(entry.unwrap().path()).ok()).flatten();
        trees.filter_map(Result::ok).any(|dir| dir.path().join("tree/first").exists())
    }
}

fn large(compression: Compression) -> Layout {
    let large = tar().file("first", "first\n").file("noise", noise(2 << 20)).finish();
    Layout::of(&image().compressed(large, compression).name("docker.io/library/web:1"))
}

#[test]
fn a_layer_is_unpacked_while_its_archive_is_read() {
    for compression in [Compression::None, Compression::Gzip, Compression::Zstd] {
        let layout = large(compression);
        for archive in [layout.oci_archive(), layout.docker_archive()] {
            let world = World::with(&threads(2));
            // Of the only large member, more than a half is there.
            let pipe = Pipe {
                archive: &archive,
                given: 0,
                until: archive.len() - (1 << 19),
                staging: world.path().join("staging"),
            };
            world.store.load(pipe, &LoadOptions::default()).unwrap();
            let image = world.store.image("web:1").unwrap();
            let other = World::with(&threads(1));
            let expected = other.load(&archive);
            let root = |world: &World, image| {
                exported(&world.store.create_container(image, &Default::default()).unwrap())
            };
            root(&world, &image).assert_same(&root(&other, &expected), &format!("{compression:?}"));
        }
    }
}

#[test]
fn what_only_looks_like_a_layer_leaves_nothing() {
    let layout = large(Compression::Gzip);
    let mut files = layout.files();
    // A tar, a stream that cannot be decompressed, and a bomb that is refused wherever it is a layer.
    files.insert("blobs/0-a.tar".to_owned(), tar().file("a", noise(2 << 20)).finish());
    files.insert("blobs/0-b.gz".to_owned(), [&b"\x1f\x8b\x08\0\0\0\0\0\0\x03"[..], &noise(2 << 20)].concat());
    files.insert("blobs/0-c.tar".to_owned(), tar().file("../../etc/passwd", noise(2 << 20)).finish());
    let world = World::with(&threads(2));
    let loaded = world.store.load(&pack(&files)[..], &LoadOptions::default()).unwrap();
    assert_eq!(loaded.len(), 1);
    assert_eq!(names_in(&world.path().join("staging")).len(), 0);
    assert_eq!(names_in(&world.path().join("layers")).len(), 1);
    assert_eq!(names_in(&world.path().join("oci/blobs/sha256")).len(), layout.blobs.len());
}

#[test]
fn an_archive_that_ends_early_ends_what_is_unpacked() {
    let archive = large(Compression::Gzip).oci_archive();
    for length in [archive.len() / 2, archive.len() / 4 * 3] {
        let world = World::with(&threads(2));
        world.refuse(|store| store.load(&archive[..length], &LoadOptions::default()));
    }
}

#[test]
fn a_layer_that_is_damaged_is_named_as_if_it_had_not_been_unpacked_before() {
    let layout = large(Compression::Gzip);
    let mut files = layout.docker_files();
    let largest = files.values().map(Vec::len).max().unwrap();
    for bytes in files.values_mut().filter(|bytes| bytes.len() == largest) {
        bytes[largest / 2] ^= 1;
    }
    let archive = pack(&files);
    let refusal = |count| {
        let world = World::with(&threads(count));
        world.refuse(|store| store.load(&archive[..], &LoadOptions::default())).to_string()
    };
    assert_eq!(refusal(2), refusal(1));
}

#[test]
fn layers_for_other_platforms_stay_packed() {
    let mut layout = large(Compression::Gzip);
    let foreign = if Platform::host().architecture == "s390x" { "riscv64" } else { "s390x" };
    let other = tar().file("first", "other\n").file("noise", noise(3 << 20)).finish();
    let mut other = image().compressed(other, Compression::Gzip);
    other.config["architecture"] = json!(foreign);
    layout.add(&other);
    let index = layout.index["manifests"].clone();
    let mut entries = index.as_array().unwrap().clone();
    entries[0]["platform"] = json!({"architecture": Platform::host().architecture, "os": "linux"});
    entries[1]["platform"] = json!({"architecture": foreign, "os": "linux"});
    let document = json!({
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.index.v1+json",
        "manifests": entries,
    });
    layout.index["manifests"] =
        json!([layout.document("application/vnd.oci.image.index.v1+json", &document)]);
    let world = World::with(&threads(2));
    world.store.load(&layout.oci_archive()[..], &LoadOptions::default()).unwrap();
    assert_eq!(names_in(&world.path().join("layers")).len(), 1);
    assert_eq!(names_in(&world.path().join("staging")).len(), 0);

    // One that is not wanted stays away, and one that is wanted has to be there.
    let mut options = LoadOptions::default();
    options.platforms = Some(vec![format!("linux/{foreign}").parse().unwrap()]);
    let other = World::with(&threads(2));
    let loaded = other.store.load(&layout.oci_archive()[..], &options).unwrap();
    assert_eq!(loaded[0].image.platform().unwrap().architecture, foreign);
    let blobs = |world: &World| names_in(&world.path().join("oci/blobs/sha256")).len();
    assert_eq!(blobs(&other), blobs(&world) - 3);
    options.platforms = Some(vec!["linux/mips".parse().unwrap()]);
    let error = other.refuse(|store| store.load(&layout.oci_archive()[..], &options));
    assert_eq!(error.kind(), "no-platform");
}
