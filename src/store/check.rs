//! [`Store::check`]: whether everything is there and as it should be.
//!
//! Checking only looks. It never stops at the first thing that is wrong, and whatever it finds is said with the names of
//! those who need it. What can be made again, an unpacked layer that was lost with the last boot, is not wrong; what
//! nobody needs is not missed.
//!
//! - *Quick*: every document is read, every blob that is needed is there in its size, every record can be read, and nothing
//!   lies in the store that does not belong there. Costs as much as the store has images.
//! - *Deep*: also every byte. Blobs are hashed, and each layer of an image is made once more beside the store and compared
//!   with the one that is there. Costs as much as the store has bytes, and for a moment the space of one image.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Read;
use std::sync::Mutex;
use std::sync::PoisonError;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use super::Store;
use super::damage::Damage;
use super::error::StoreError;
use super::image::Document;
use super::names::Named;
use super::operation::Operation;
use crate::blob::{BlobError, Blobs};
use crate::container::ContainerRecord;
use crate::digest::{Digest, Hasher};
use crate::fs::Context;
use crate::image::{Descriptor, Reference};
use crate::layer::{LayerKey, LayerStore, differences};

/// Differences of one layer that are told.
const MOST_DIFFERENCES: usize = 20;

/// How to check.
#[derive(Clone, Copy, Default)]
#[non_exhaustive]
pub struct CheckOptions<'a> {
    /// Every byte, and not only whether it is there.
    pub deep: bool,
    /// Told how many bytes were looked at, of how many in all, by several threads.
    pub progress: Option<&'a (dyn Fn(u64, u64) + Sync)>,
}

impl std::fmt::Debug for CheckOptions<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("CheckOptions").field("deep", &self.deep).finish_non_exhaustive()
    }
}

/// What a check has looked at, and what it found wrong.
#[derive(Debug, Default)]
#[non_exhaustive]
pub struct CheckReport {
    /// Everything that is wrong; nothing, if all is well.
    pub damages: Vec<Damage>,
    /// Images, those that only containers use included.
    pub images: u64,
    /// Blobs.
    pub blobs: u64,
    /// Layers that were unpacked.
    pub layers: u64,
    /// Layers that were compared with what their blobs say.
    pub compared: u64,
    /// Containers.
    pub containers: u64,
}

impl Store {
    /// Looks whether everything in the store is there and as it should be, and changes nothing. Others may use the store
    /// meanwhile.
    ///
    /// # Errors
    ///
    /// [`StoreError`] only if looking itself is impossible: the names cannot be read, or the disk fails.
    pub fn check(&self, options: &CheckOptions<'_>) -> Result<CheckReport, StoreError> {
        let operation = self.inner.begin()?;
        let report = Check::new(self, &operation, options).run();
        operation.end()?;
        report
    }
}

/// A blob that somebody needs.
#[derive(Debug, Default)]
struct Needed {
    /// The size that it should have.
    size: u64,
    by: BTreeSet<String>,
}

/// An image of which every document could be read.
struct Readable {
    named: Named,
    label: String,
}

/// One check under way.
struct Check<'a> {
    store: &'a Store,
    operation: &'a Operation,
    options: &'a CheckOptions<'a>,
    report: CheckReport,
    blobs: BTreeMap<Digest, Needed>,
    /// Documents that were found damaged, so that each is told once.
    damaged: BTreeMap<Digest, (StoreError, BTreeSet<String>)>,
    readable: Vec<Readable>,
}

impl<'a> Check<'a> {
    fn new(store: &'a Store, operation: &'a Operation, options: &'a CheckOptions<'a>) -> Self {
        let report = CheckReport::default();
        let (blobs, damaged, readable) = Default::default();
        Self { store, operation, options, report, blobs, damaged, readable }
    }

    fn run(mut self) -> Result<CheckReport, StoreError> {
        let inner = &self.store.inner;
        for named in inner.names()?.images() {
            let label = match named.names.first() {
                Some(name) => format!("image {}", Reference::familiar(name)),
                None => format!("image {}", named.target.digest),
            };
            self.image(named, label)?;
        }
        let containers = self.containers()?;
        for record in &containers {
            let named = Named { target: record.image.target.clone(), names: Vec::new() };
            self.image(named, format!("container {}", record.name))?;
        }
        let damaged = std::mem::take(&mut self.damaged);
        self.report.damages.extend(damaged.into_iter().map(|(digest, (error, by))| Damage::Document {
            digest,
            error: Box::new(error),
            needed_by: by.into_iter().collect(),
        }));
        self.sizes()?;
        self.strangers()?;
        self.report.layers = inner.layers.list()?.len() as u64;
        if self.options.deep {
            self.bytes()?;
            self.layers()?;
        }
        Ok(self.report)
    }

    /// Reads every document of an image and notes what it needs.
    fn image(&mut self, named: Named, label: String) -> Result<(), StoreError> {
        let is_known =
            self.blobs.contains_key(&named.target.digest) || self.damaged.contains_key(&named.target.digest);
        self.report.images += u64::from(!is_known);
        let inner = &self.store.inner;
        let mut whole = true;
        let mut open = vec![(named.target.clone(), inner.options.limits.index_depth)];
        while let Some((descriptor, depth)) = open.pop() {
            self.operation.pin_blobs([&descriptor.digest])?;
            let document = match inner.document(&descriptor) {
                // An index keeps its entries for platforms that were never loaded.
                Err(StoreError::Blob(BlobError::Missing { .. }))
                    if descriptor.digest != named.target.digest =>
                {
                    continue;
                }
                Err(error) if error.is_damage() => {
                    self.damage(descriptor.digest, error, &label);
                    whole = false;
                    continue;
                }
                document => document?,
            };
            self.need(&descriptor, &label);
            match document {
                Document::Index(index) if depth > 0 => {
                    open.extend(index.manifests.into_iter().map(|entry| (entry, depth - 1)));
                }
                Document::Index(_) => {}
                Document::Manifest(manifest) => {
                    let parts = || manifest.layers.iter().chain([&manifest.config]);
                    self.operation.pin_blobs(parts().map(|part| &part.digest))?;
                    // What must not be passed on may be absent.
                    for part in parts().filter(|part| part.urls.is_empty()) {
                        self.need(part, &label);
                    }
                    if manifest.is_image()
                        && let Err(error) = inner.config(&manifest)
                    {
                        if !error.is_damage() {
                            return Err(error);
                        }
                        self.blobs.remove(&manifest.config.digest);
                        self.damage(manifest.config.digest, error, &label);
                        whole = false;
                    }
                }
            }
        }
        if whole {
            self.readable.push(Readable { named, label });
        }
        Ok(())
    }

    fn need(&mut self, descriptor: &Descriptor, label: &str) {
        let needed = self.blobs.entry(descriptor.digest).or_default();
        needed.size = descriptor.size;
        needed.by.insert(label.to_owned());
    }

    fn damage(&mut self, digest: Digest, error: StoreError, label: &str) {
        self.damaged.entry(digest).or_insert_with(|| (error, BTreeSet::new())).1.insert(label.to_owned());
    }

    fn needed_by(&self, digest: &Digest) -> Vec<String> {
        self.blobs.get(digest).map_or_else(Vec::new, |needed| needed.by.iter().cloned().collect())
    }

    /// Reads the records of all containers, and what their drivers know of them.
    fn containers(&mut self) -> Result<Vec<ContainerRecord>, StoreError> {
        let inner = &self.store.inner;
        let containers = &inner.layout.containers;
        let mut records = Vec::new();
        for entry in containers.names()? {
            let id = String::from_utf8_lossy(&entry.name).into_owned();
            let read = inner.container_with_id(&id).and_then(|record| match record {
                Some(record) => {
                    let dir = containers.open_dir(&id)?;
                    inner.driver(record.driver)?.writable(&dir)?;
                    Ok(Some(record))
                }
                None => Ok(None),
            });
            match read {
                Ok(Some(record)) => records.push(record),
                // It was removed just now.
                Ok(None) if containers.find_dir(&id)?.is_none() => {}
                Ok(None) => self.report.damages.push(Damage::Stranger { path: containers.path_of(&id) }),
                Err(error) => {
                    let known = inner.container_with_id(&id).ok().flatten();
                    let name = known.as_ref().map(|record| record.name.clone());
                    records.extend(known);
                    self.report.damages.push(Damage::Container { id, name, error: Box::new(error) });
                }
            }
        }
        self.report.containers = records.len() as u64;
        Ok(records)
    }

    /// Holds every blob that is needed against the size that it should have.
    fn sizes(&mut self) -> Result<(), StoreError> {
        let blobs = &self.store.inner.layout.blobs;
        for (&digest, needed) in &self.blobs {
            let needed_by = || needed.by.iter().cloned().collect();
            let expected = needed.size;
            match blobs.size(&digest)? {
                Some(found) if found == expected => {}
                Some(found) => {
                    let needed_by = needed_by();
                    self.report.damages.push(Damage::BlobSize { digest, expected, found, needed_by });
                }
                None => self.report.damages.push(Damage::BlobMissing { digest, needed_by: needed_by() }),
            }
        }
        self.report.blobs = blobs.list()?.len() as u64;
        Ok(())
    }

    /// Looks for what is none of ours.
    fn strangers(&mut self) -> Result<(), StoreError> {
        let layout = &self.store.inner.layout;
        let mut strangers = layout.strangers()?;
        for entry in layout.layers.names()? {
            let name = String::from_utf8_lossy(&entry.name);
            if name.parse::<LayerKey>().is_err() {
                strangers.push(layout.layers.path_of(&*name));
            }
        }
        self.report.damages.extend(strangers.into_iter().map(|path| Damage::Stranger { path }));
        Ok(())
    }

    /// Hashes every blob, several at a time.
    fn bytes(&mut self) -> Result<(), StoreError> {
        let blobs = &self.store.inner.layout.blobs;
        let list = blobs.list()?;
        let all: u64 = list.iter().map(|(_, size)| size).sum();
        let (next, done) = (AtomicUsize::new(0), AtomicU64::new(0));
        let (wrong, failure) = (Mutex::new(Vec::new()), Mutex::new(None));
        let work = || {
            while let Some((digest, _)) = list.get(next.fetch_add(1, Ordering::Relaxed)) {
                let told = |count: u64| {
                    let done = done.fetch_add(count, Ordering::Relaxed) + count;
                    if let Some(progress) = self.options.progress {
                        progress(done.min(all), all);
                    }
                };
                match hash(blobs, digest, told) {
                    Ok(found) if found != *digest => {
                        wrong.lock().unwrap_or_else(PoisonError::into_inner).push((*digest, found));
                    }
                    Ok(_) => {}
                    // It was collected just now, or is told as missing.
                    Err(BlobError::Missing { .. }) => {}
                    Err(error) => {
                        failure.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(error);
                    }
                }
            }
        };
        std::thread::scope(|scope| {
            for _ in 1..self.store.inner.options.parallelism.threads().min(list.len().max(1)) {
                scope.spawn(work);
            }
            work();
        });
        if let Some(error) = failure.into_inner().unwrap_or_else(PoisonError::into_inner) {
            return Err(error.into());
        }
        let mut wrong = wrong.into_inner().unwrap_or_else(PoisonError::into_inner);
        wrong.sort_unstable();
        for (digest, found) in wrong {
            // A size that is wrong, or a document that cannot be read, was told already.
            if !self.report.damages.iter().any(|damage| damage.subject() == digest.to_string()) {
                let needed_by = self.needed_by(&digest);
                self.report.damages.push(Damage::BlobContent { digest, found, needed_by });
            }
        }
        Ok(())
    }

    /// Makes the layers of one image after the other once more, beside the store, and compares.
    fn layers(&mut self) -> Result<(), StoreError> {
        let mut compared = BTreeSet::new();
        let mut wrong: BTreeMap<LayerKey, (Vec<String>, BTreeSet<String>)> = BTreeMap::new();
        for Readable { named, label } in std::mem::take(&mut self.readable) {
            let image = self.store.inner.image(named)?;
            let keys = image.layer_keys();
            for key in &keys {
                if let Some((_, needed_by)) = wrong.get_mut(key) {
                    needed_by.insert(label.clone());
                }
            }
            // Of damaged blobs nothing can be made, which was told.
            let is_damaged = |blob: &Descriptor| {
                self.report.damages.iter().any(|damage| damage.subject() == blob.digest.to_string())
            };
            let here = keys.iter().any(|key| !compared.contains(key));
            if image.config().is_none() || !here || image.manifest().layers.iter().any(is_damaged) {
                continue;
            }
            self.operation.pin_layers(keys)?;
            for (key, differences) in self.compare(&image, &mut compared)? {
                wrong.entry(key).or_default().0 = differences;
                wrong.entry(key).or_default().1.insert(label.clone());
            }
        }
        self.report.compared = compared.len() as u64;
        self.report.damages.extend(wrong.into_iter().map(|(key, (differences, needed_by))| Damage::Layer {
            key,
            differences,
            needed_by: needed_by.into_iter().collect(),
        }));
        Ok(())
    }

    /// The layers of `image` that are not as they should be.
    fn compare(
        &self,
        image: &super::Image,
        compared: &mut BTreeSet<LayerKey>,
    ) -> Result<Vec<(LayerKey, Vec<String>)>, StoreError> {
        let inner = &self.store.inner;
        let beside = self.operation.workspace().directory()?;
        let again = LayerStore::new(
            beside.dir().ensure_dir("layers", 0o700)?,
            beside.dir().ensure_dir("locks", 0o700)?,
        );
        let made = self.store.make_layers(image, &again, self.operation)?;
        let mut wrong = Vec::new();
        for layer in made.layers {
            // What was not unpacked yet, or in another boot, is made anew when it is needed.
            if !compared.insert(layer.key) {
                continue;
            }
            let Some(found) = inner.layers.get(layer.key)? else {
                compared.remove(&layer.key);
                continue;
            };
            let found = differences(&layer.tree, &found.tree, MOST_DIFFERENCES)?;
            if !found.is_empty() {
                wrong.push((layer.key, found.iter().map(ToString::to_string).collect()));
            }
        }
        beside.discard()?;
        Ok(wrong)
    }
}

/// What the bytes of a blob hash to. `told` hears how many more were read.
fn hash(blobs: &Blobs, digest: &Digest, told: impl Fn(u64)) -> Result<Digest, BlobError> {
    let mut file = blobs.open_blob(digest)?;
    let mut hasher = Hasher::new(digest.algorithm());
    let mut buffer = vec![0; 256 << 10];
    loop {
        match file.read(&mut buffer) {
            Ok(0) => return Ok(hasher.finish()),
            Ok(count) => {
                hasher.update(&buffer[..count]);
                told(count as u64);
            }
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error).at_path("read", || blobs.path(digest)).map_err(BlobError::from),
        }
    }
}
