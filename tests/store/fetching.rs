//! Images that are brought from elsewhere: only what is needed, once, verified, and unpacked while it comes.

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Read};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use plywood::archive::{Fetch, LoadError, Transfer};
use plywood::image::{Descriptor, MediaType, Platform, Reference};
use plywood::store::{
    CheckOptions, FetchOptions, GcOptions, Image, LoadedImage, Platforms, Store, StoreError,
};
use serde_json::json;

use crate::common::image::{Compression, Layout, image};
use crate::common::tar::tar;
use crate::world::{World, chain, exported, names_in, noise, options, sample};

/// Blobs in memory, and what is done with those who ask for them.
#[derive(Default)]
pub struct Place {
    blobs: BTreeMap<String, Vec<u8>>,
    /// Blobs that break off after so many bytes.
    broken: BTreeMap<String, usize>,
    /// Blobs that go on behind so many bytes only once this says so.
    held: BTreeMap<String, (usize, Arc<AtomicBool>)>,
    /// What was asked for: digest and offset.
    asked: Mutex<Vec<(String, u64)>>,
}

impl std::fmt::Debug for Place {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("a place in memory")
    }
}

impl Place {
    pub fn of(layout: &Layout) -> Self {
        Self { blobs: layout.blobs.clone(), ..Self::default() }
    }

    /// What was asked for since this was asked.
    pub fn asked(&self) -> Vec<(String, u64)> {
        let mut asked = std::mem::take(&mut *self.asked.lock().unwrap());
        asked.sort();
        asked
    }
}

impl Fetch for Place {
    fn fetch(&self, descriptor: &Descriptor, offset: u64) -> io::Result<Option<Box<dyn Read + Send + '_>>> {
        let digest = descriptor.digest.to_string();
        self.asked.lock().unwrap().push((digest.clone(), offset));
        let Some(bytes) = self.blobs.get(&digest) else { return Ok(None) };
        let end = self.broken.get(&digest).copied();
        let bytes = &bytes[usize::try_from(offset).unwrap()..end.unwrap_or(bytes.len())];
        let held = self.held.get(&digest).cloned();
        Ok(Some(Box::new(Body { bytes, breaks: end.is_some(), held, given: 0 })))
    }
}

struct Body<'b> {
    bytes: &'b [u8],
    breaks: bool,
    held: Option<(usize, Arc<AtomicBool>)>,
    given: usize,
}

impl Read for Body<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let mut most = buffer.len();
        if let Some((after, go_on)) = &self.held {
            match after.checked_sub(self.given) {
                Some(left) if left > 0 => most = most.min(left),
                _ => wait_for(|| go_on.load(Ordering::Relaxed)),
            }
        }
        if self.bytes.is_empty() && self.breaks {
            return Err(io::ErrorKind::ConnectionReset.into());
        }
        let count = self.bytes.read(&mut buffer[..most])?;
        self.given += count;
        Ok(count)
    }
}

/// Waits for what another thread does; a test that waits for ever is no use.
#[track_caller]
fn wait_for(what: impl Fn() -> bool) {
    let begin = Instant::now();
    while !what() {
        assert!(begin.elapsed() < Duration::from_secs(60), "it did not happen");
        std::thread::sleep(Duration::from_millis(1));
    }
}

fn target(layout: &Layout, number: usize) -> Descriptor {
    let digest = &layout.images[number].manifest;
    let size = layout.blobs[digest].len() as u64;
    Descriptor::new(MediaType::OCI_MANIFEST, digest.parse().unwrap(), size)
}

fn names() -> Vec<Reference> {
    vec!["web:1".parse().unwrap()]
}

pub fn fetch(store: &Store, layout: &Layout, place: &Place) -> Result<LoadedImage, StoreError> {
    store.fetch(target(layout, 0), &names(), place, &FetchOptions::default())
}

#[track_caller]
fn assert_sound(world: &World) {
    let report = world.store.check(&CheckOptions::default()).unwrap();
    assert!(report.damages.is_empty(), "{report:?}");
}

fn downloads(world: &World) -> Vec<u64> {
    let dir = world.path().join("cache/downloads");
    let entries = fs::read_dir(dir).into_iter().flatten();
    entries.map(|entry| entry.unwrap().metadata().unwrap().len()).collect()
}

/// An image with a layer of a megabyte and one of a few bytes; the digest of the large one, too.
fn large() -> (Layout, String) {
    let large = tar().file("first", "first\n").file("noise", noise(1 << 20)).finish();
    let small = tar().file("second", "second\n").finish();
    let layout = Layout::of(&image().compressed(large, Compression::Gzip).layer(small));
    let largest = layout.blobs.iter().max_by_key(|(_, bytes)| bytes.len()).unwrap().0.clone();
    (layout, largest)
}

#[test]
fn what_is_fetched_is_the_image_and_each_blob_is_asked_for_once() {
    let world = World::with(&options());
    let layout = Layout::of(&sample());
    let place = Place::of(&layout);
    let fetched = fetch(&world.store, &layout, &place).unwrap();
    let all: Vec<_> = layout.blobs.keys().map(|digest| (digest.clone(), 0)).collect();
    assert_eq!(place.asked(), all);
    assert_eq!(fetched.image.digest().to_string(), layout.images[0].manifest);
    assert_eq!(world.store.image("web:1").unwrap().digest(), fetched.image.digest());
    let root = |world: &World, image: &Image| {
        exported(&world.store.create_container(image, &Default::default()).unwrap())
    };
    let other = World::with(&options());
    let loaded = root(&other, &other.load(layout.oci_archive()));
    root(&world, &fetched.image).assert_same(&loaded, "what was loaded from an archive");
    assert_eq!(downloads(&world), [0u64; 0]);

    // Again: nothing is needed.
    let seen = Mutex::new(Vec::new());
    let note = |transfer| seen.lock().unwrap().push(transfer);
    let mut options = FetchOptions::default();
    options.progress = Some(&note);
    world.store.fetch(target(&layout, 0), &names(), &place, &options).unwrap();
    assert_eq!(place.asked(), []);
    let seen = seen.into_inner().unwrap();
    assert_eq!(seen.len(), layout.blobs.len());
    assert!(seen.iter().all(|transfer| matches!(transfer, Transfer::Present { .. })), "{seen:?}");
}

#[test]
fn a_layer_is_unpacked_while_it_comes() {
    let world = World::with(&options());
    let (layout, largest) = large();
    let mut place = Place::of(&layout);
    let go_on = Arc::new(AtomicBool::new(false));
    place.held.insert(largest, (1 << 19, Arc::clone(&go_on)));
    let is_unpacked = || {
        let work = fs::read_dir(world.path().join("staging")).unwrap();
        let trees = work.filter_map(|entry| fs::read_dir(entry.unwrap().path()).ok()).flatten();
        trees.filter_map(Result::ok).any(|dir| dir.path().join("tree/first").exists())
    };
    std::thread::scope(|scope| {
        scope.spawn(|| {
            wait_for(is_unpacked);
            go_on.store(true, Ordering::Relaxed);
        });
        fetch(&world.store, &layout, &place).unwrap();
    });
}

#[test]
fn what_came_before_a_failure_is_not_fetched_again() {
    let world = World::with(&options());
    let (layout, largest) = large();
    let mut place = Place::of(&layout);
    place.broken.insert(largest.clone(), 700_000);
    let error = world.refuse(|store| fetch(store, &layout, &place));
    assert!(chain(&error).starts_with(&format!("cannot fetch {largest}: ")), "{}", chain(&error));
    assert!(downloads(&world).contains(&700_000));
    assert!(world.store.usage(&Default::default()).unwrap().downloads >= 700_000);
    place.asked();

    place.broken.clear();
    fetch(&world.store, &layout, &place).unwrap();
    let asked = place.asked();
    assert_eq!(
        asked.iter().filter(|(digest, _)| *digest == largest).collect::<Vec<_>>(),
        [&(largest, 700_000)]
    );
    assert_eq!(downloads(&world), [0u64; 0]);
    assert_sound(&world);
}

#[test]
fn a_collection_forgets_what_nobody_is_fetching() {
    let world = World::with(&options());
    let (layout, largest) = large();
    let mut place = Place::of(&layout);
    place.broken.insert(largest, 700_000);
    world.refuse(|store| fetch(store, &layout, &place));
    let bytes: u64 = downloads(&world).iter().sum();
    let told = world.store.gc(&GcOptions::dry_run()).unwrap();
    assert_eq!((told.bytes, told.strangers.len()), (bytes, 0));
    assert_eq!(downloads(&world).iter().sum::<u64>(), bytes);
    assert_eq!(world.store.gc(&GcOptions::default()).unwrap().bytes, bytes);
    assert_eq!(downloads(&world), [0u64; 0]);
}

#[test]
fn what_an_earlier_attempt_left_is_not_believed() {
    let world = World::with(&options());
    let (layout, largest) = large();
    let mut place = Place::of(&layout);
    place.broken.insert(largest.clone(), 700_000);
    world.refuse(|store| fetch(store, &layout, &place));
    // A power cut may leave zeros, or more than there ever was.
    for left in [vec![0; 700_000], vec![1; 5 << 20]] {
        let name = largest.replace(':', "-");
        fs::write(world.path().join("cache/downloads").join(name), left).unwrap();
        place.broken.clear();
        fetch(&world.store, &layout, &place).unwrap();
        world.store.remove_image("web:1", Default::default()).unwrap();
        world.store.gc(&GcOptions::default()).unwrap();
        fs::create_dir_all(world.path().join("cache/downloads")).unwrap();
    }
}

#[test]
fn wrong_bytes_are_refused_whatever_they_unpack_to() {
    let (layout, largest) = large();
    let other =
        Layout::of(&image().compressed(tar().file("other", noise(1 << 20)).finish(), Compression::Gzip));
    let other = other.blobs.into_values().max_by_key(Vec::len).unwrap();
    let mut cut = layout.blobs[&largest].clone();
    cut.truncate(cut.len() - 1);
    let mut long = layout.blobs[&largest].clone();
    long.push(0);
    let mut damaged = layout.blobs[&largest].clone();
    let at = damaged.len() / 2;
    damaged[at] ^= 1;
    for wrong in [other, cut, long, damaged] {
        let world = World::with(&options());
        let mut place = Place::of(&layout);
        place.blobs.insert(largest.clone(), wrong);
        let error = world.refuse(|store| fetch(store, &layout, &place));
        let StoreError::Load(source) = &error else { panic!("{error:?}") };
        assert!(
            matches!(source, LoadError::DigestMismatch { .. } | LoadError::SizeMismatch { .. }),
            "{}",
            chain(&error)
        );
        assert!(chain(&error).contains(&largest), "{}", chain(&error));
        // The right bytes are taken, whatever was left of the wrong ones.
        let place = Place::of(&layout);
        fetch(&world.store, &layout, &place).unwrap();
    }
}

#[test]
fn a_document_that_is_wrong_is_refused() {
    let (layout, _) = large();
    for digest in [&layout.images[0].manifest, &layout.images[0].config] {
        let world = World::with(&options());
        let mut place = Place::of(&layout);
        place.blobs.get_mut(digest).unwrap()[3] ^= 1;
        let error = world.refuse(|store| fetch(store, &layout, &place));
        assert!(chain(&error).contains(digest.as_str()), "{}", chain(&error));
    }
}

#[test]
fn a_blob_that_is_not_there_is_named() {
    let (layout, largest) = large();
    for missing in [&largest, &layout.images[0].config] {
        let world = World::with(&options());
        let mut place = Place::of(&layout);
        place.blobs.remove(missing);
        let error = world.refuse(|store| fetch(store, &layout, &place));
        let hex = missing.strip_prefix("sha256:").unwrap();
        assert!(chain(&error).contains(hex), "{}", chain(&error));
    }
}

#[test]
fn a_layer_that_is_not_what_the_config_says_is_refused_though_its_blob_is_right() {
    let world = World::with(&options());
    let mut layout = Layout::default();
    let good = tar().file("a", noise(1 << 20)).finish();
    let added = layout.add(&image().compressed(good, Compression::Gzip));
    let mut config: serde_json::Value = serde_json::from_slice(&layout.blobs[&added.config]).unwrap();
    config["rootfs"]["diff_ids"][0] = json!(format!("sha256:{}", "0".repeat(64)));
    let config = layout.document("application/vnd.oci.image.config.v1+json", &config);
    let mut manifest: serde_json::Value = serde_json::from_slice(&layout.blobs[&added.manifest]).unwrap();
    manifest["config"] = config;
    let manifest = layout.document("application/vnd.oci.image.manifest.v1+json", &manifest);
    let target = Descriptor::new(
        MediaType::OCI_MANIFEST,
        manifest["digest"].as_str().unwrap().parse().unwrap(),
        manifest["size"].as_u64().unwrap(),
    );
    let place = Place::of(&layout);
    let error = world.refuse(|store| store.fetch(target, &names(), &place, &FetchOptions::default()));
    assert!(matches!(error, StoreError::Layer(_)), "{error:?}");
}

#[test]
fn of_several_platforms_those_are_fetched_that_are_wanted() {
    let world = World::with(&options());
    let mut layout = Layout::default();
    let host = Platform::host();
    let foreign = if host.architecture == "s390x" { "riscv64" } else { "s390x" };
    let ours = layout.add(&image().layer(tar().file("a", "host").finish()));
    let mut theirs = image().layer(tar().file("a", "foreign").finish());
    theirs.config["architecture"] = json!(foreign);
    let theirs = layout.add(&theirs);
    let entry = |added: &crate::common::image::Added, architecture: &str| {
        json!({
            "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "digest": added.manifest,
            "size": layout.blobs[&added.manifest].len(),
            "platform": {"architecture": architecture, "os": "linux"},
        })
    };
    let index = json!({
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.index.v1+json",
        "manifests": [entry(&theirs, foreign), entry(&ours, &host.architecture)],
    });
    let index = layout.document("application/vnd.oci.image.index.v1+json", &index);
    let digest: plywood::Digest = index["digest"].as_str().unwrap().parse().unwrap();
    let target = Descriptor::new(MediaType::OCI_INDEX, digest, index["size"].as_u64().unwrap());
    let place = Place::of(&layout);
    let fetch = |platforms| {
        let mut options = FetchOptions::default();
        options.platforms = platforms;
        world.store.fetch(target.clone(), &names(), &place, &options)
    };

    let unknown: Platform = "linux/mips".parse().unwrap();
    let error = fetch(Platforms::Of(vec![unknown])).unwrap_err();
    assert!(chain(&error).contains("has no image for linux/mips, only for linux/"), "{}", chain(&error));

    place.asked();
    let fetched = fetch(Platforms::Host).unwrap();
    assert_eq!(fetched.image.target().digest, digest, "the index is kept whole");
    let asked: Vec<_> = place.asked().into_iter().map(|(digest, _)| digest).collect();
    assert!(asked.contains(&ours.manifest) && !asked.contains(&theirs.manifest), "{asked:?}");
    assert!(fetched.warnings.is_empty(), "{:?}", fetched.warnings);

    fetch(Platforms::All).unwrap();
    let asked: Vec<_> = place.asked().into_iter().map(|(digest, _)| digest).collect();
    assert!(asked.contains(&theirs.manifest) && !asked.contains(&ours.manifest), "{asked:?}");
    assert_sound(&world);
}

#[test]
fn processes_that_want_the_same_fetch_each_blob_once() {
    let world = World::with(&options());
    let (layout, largest) = large();
    let place = Place::of(&layout);
    std::thread::scope(|scope| {
        for store in [world.again(), world.again(), world.again()] {
            let (layout, place) = (&layout, &place);
            scope.spawn(move || fetch(&store, layout, place).unwrap());
        }
    });
    let asked = place.asked();
    assert_eq!(asked.iter().filter(|(digest, _)| *digest == largest).count(), 1);
    assert_sound(&world);
}

#[test]
fn who_gives_up_keeps_what_has_come() {
    let world = World::with(&options());
    let (layout, largest) = large();
    let mut place = Place::of(&layout);
    let (go_on, cancel) = (Arc::new(AtomicBool::new(false)), AtomicBool::new(false));
    place.held.insert(largest.clone(), (1 << 19, Arc::clone(&go_on)));
    let note = |transfer: Transfer| {
        if let Transfer::Moved { bytes, .. } = transfer
            && bytes == 1 << 19
        {
            cancel.store(true, Ordering::Relaxed);
            go_on.store(true, Ordering::Relaxed);
        }
    };
    let mut options = FetchOptions::default();
    options.progress = Some(&note);
    options.cancel = Some(&cancel);
    let error = world.refuse(|store| store.fetch(target(&layout, 0), &names(), &place, &options));
    assert_eq!(error.kind(), "cancelled");
    assert!(downloads(&world).iter().any(|&bytes| bytes >= 1 << 19));
    place.asked();
    fetch(&world.store, &layout, &place).unwrap();
    assert!(place.asked().iter().any(|(digest, offset)| *digest == largest && *offset >= 1 << 19));
    assert_eq!(names_in(&world.path().join("staging")).len(), 0);
}
