//! [`convert`]: images with their layers compressed otherwise, or their documents in other words.
//!
//! New blobs lie in a workspace, but for plain layers of known length, which are decompressed when they are read
//! ([`Decoded`]). [`Converted::blobs`] reads both as if they were with the rest. Configs stay byte for
//! byte, and with them image ids and diff ids. Each layer is made once however many images have it; the tar that passes
//! is compared with its diff id. Manifests get the new descriptors, indexes the new manifests, and what does not change
//! keeps its digest. Equal images give equal bytes, for any number of threads.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read, Write};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::content::{Found, blob_path, find_in};
use super::decoded::Decoded;
use super::error::Cancelled;
use super::load::{Loaded, LoadedManifest};
use super::recode::recode;
use super::save::{SaveImage, SaveOptions, gather, only_platform};
use super::walk::is_passed_over;
use super::words::Recast;
use super::{LoadError, SaveError, Warning};
use crate::blob::{BlobError, BlobSource, BlobWriter, ParkedBlob};
use crate::codec::{Compression, Encoding};
use crate::digest::{DiffId, Digest};
use crate::fs::{Context, Workspace};
use crate::image::{Descriptor, Index, MediaKind, MediaType};

/// Images that were converted, and where their blobs are.
pub(crate) struct Converted<'a> {
    pub(crate) images: Vec<SaveImage>,
    pub(crate) blobs: Made<'a>,
    /// What is odd about the images as they were.
    pub(crate) warnings: Vec<Warning>,
}

/// What was made, and behind it what there was.
#[derive(Debug)]
pub(crate) struct Made<'a> {
    pub(crate) made: BTreeMap<Digest, ParkedBlob<'a>>,
    decoded: BTreeMap<Digest, Decoded>,
    behind: &'a dyn BlobSource,
}

impl Made<'_> {
    /// Returns the layer `digest` if it exists only while it is read.
    pub(super) fn decoded(&self, digest: &Digest) -> Option<&Decoded> {
        self.decoded.get(digest)
    }

    /// Returns the size and the compression of a blob.
    ///
    /// # Errors
    ///
    /// [`LoadError`] if the blob cannot be read.
    pub(super) fn find(&self, digest: &Digest) -> Result<Option<Found>, LoadError> {
        match self.decoded(digest) {
            Some(decoded) => Ok(Some(Found { size: decoded.size, compression: Some(Compression::None) })),
            None => find_in(self, digest),
        }
    }
}

impl BlobSource for Made<'_> {
    fn open_blob(&self, digest: &Digest) -> Result<File, BlobError> {
        match self.made.get(digest) {
            Some(blob) => blob.open(),
            None => self.behind.open_blob(digest),
        }
    }

    fn path(&self, digest: &Digest) -> PathBuf {
        match self.made.get(digest) {
            Some(blob) => blob.path(),
            None => self.behind.path(digest),
        }
    }
}

/// Makes `images` what `options` and `recast` ask for; of an index, the platform that was asked for. Without anything to do, nothing is written.
///
/// # Errors
///
/// [`SaveError`] if an image is not whole, a layer is not what its config lists, the wanted words have no place for something, or
/// there is no space.
pub(crate) fn convert<'a>(
    images: &[SaveImage],
    blobs: &'a dyn BlobSource,
    options: &SaveOptions<'a>,
    recast: &Recast,
) -> Result<Converted<'a>, SaveError> {
    let images = only_platform(images, blobs, options)?;
    let gathered = gather(&images, blobs, options)?;
    let loaded = || gathered.listed.iter().map(|listed| &listed.loaded);
    let (jobs, decoded) = jobs(loaded(), blobs, options)?;
    let mut made = BTreeMap::new();
    let mut layers = BTreeMap::new();
    for layer in &decoded {
        layers.insert(layer.layer, (*layer.diff_id.as_digest(), layer.size, Encoding::None));
    }
    if !jobs.is_empty() {
        let workspace = options.workspace.ok_or(SaveError::NoWorkspace)?;
        let results = work(&jobs, blobs, workspace, options)?;
        for (job, blob) in jobs.iter().zip(results) {
            layers.insert(job.layer, (blob.digest(), blob.size(), job.encoding));
            made.insert(blob.digest(), blob);
        }
    }
    let mut documents = Documents { layers, blobs, options, recast, made, known: BTreeMap::new() };
    for loaded in loaded() {
        for image in &loaded.manifests {
            documents.manifest(image, image.descriptor.digest == loaded.target.digest)?;
        }
    }
    let convert = |image: &SaveImage| {
        Ok(SaveImage { target: documents.target(&image.target)?, names: image.names.clone() })
    };
    let images = images.iter().map(convert).collect::<Result<_, SaveError>>()?;
    let decoded = decoded.into_iter().map(|layer| (*layer.diff_id.as_digest(), layer)).collect();
    let blobs = Made { made: documents.made, decoded, behind: blobs };
    Ok(Converted { images, blobs, warnings: gathered.warnings })
}

/// A layer that is to be made.
struct Job {
    layer: Digest,
    size: u64,
    diff_id: DiffId,
    encoding: Encoding,
    /// An image that has it, for messages.
    image: Digest,
}

/// Returns every layer that has to be made, once: those that go through the workspace, and those that need not.
fn jobs<'l>(
    loaded: impl Iterator<Item = &'l Loaded>,
    blobs: &dyn BlobSource,
    options: &SaveOptions<'_>,
) -> Result<(Vec<Job>, Vec<Decoded>), SaveError> {
    let mut jobs = BTreeMap::new();
    let mut decoded = BTreeMap::new();
    for image in loaded.flat_map(|loaded| &loaded.manifests) {
        for (layer, &diff_id) in image.manifest.layers.iter().zip(&image.config.rootfs.diff_ids) {
            // A layer of no bytes stands for itself.
            let stays = layer.size == 0 || is_passed_over(layer) || options.known.has(layer, &diff_id);
            let is_listed = jobs.contains_key(&layer.digest) || decoded.contains_key(&layer.digest);
            if stays || is_listed || !layer.media_type.is_open_layer() {
                continue;
            }
            let image = image.descriptor.digest;
            let found = find_in(blobs, &layer.digest).map_err(|source| SaveError::Image { image, source })?;
            // A foreign layer that is absent stays absent.
            let Some(compression) = found.and_then(|found| found.compression) else { continue };
            if let Some(encoding) = options.compression.of(compression) {
                let (layer, size) = (layer.digest, layer.size);
                let tar_bytes = match encoding {
                    Encoding::None => options.tar_bytes.and_then(|known| known(&diff_id)),
                    _ => None,
                };
                match tar_bytes {
                    Some(size) => _ = decoded.insert(layer, Decoded { layer, diff_id, size, image }),
                    None => _ = jobs.insert(layer, Job { layer, size, diff_id, encoding, image }),
                }
            }
        }
    }
    Ok((jobs.into_values().collect(), decoded.into_values().collect()))
}

/// Does all `jobs` and returns the blobs in their order.
fn work<'a>(
    jobs: &[Job],
    blobs: &dyn BlobSource,
    workspace: &'a Workspace,
    options: &SaveOptions<'_>,
) -> Result<Vec<ParkedBlob<'a>>, SaveError> {
    let (total, read) = (jobs.iter().map(|job| job.size).sum(), AtomicU64::new(0));
    // The largest first: the others fill the time that it takes.
    let mut order: Vec<usize> = (0..jobs.len()).collect();
    order.sort_by_key(|&at| std::cmp::Reverse(jobs[at].size));
    let (next, failed) = (AtomicUsize::new(0), AtomicBool::new(false));
    let results: Vec<Mutex<Option<Result<ParkedBlob<'a>, SaveError>>>> =
        jobs.iter().map(|_| Mutex::new(None)).collect();
    let watch = |count: u64| {
        let read = read.fetch_add(count, Ordering::Relaxed) + count;
        options.report(read, total);
    };
    let stopped = || failed.load(Ordering::Relaxed) || options.is_cancelled();
    let run = || {
        while let Some(&at) = order.get(next.fetch_add(1, Ordering::Relaxed)) {
            let done = encode(&jobs[at], blobs, workspace, options, &watch, &stopped);
            failed.fetch_or(done.is_err(), Ordering::Relaxed);
            *locked(&results[at]) = Some(done);
        }
    };
    std::thread::scope(|scope| {
        for _ in 1..options.parallelism.threads().min(jobs.len()) {
            // Where no thread can be had, there is one less.
            if std::thread::Builder::new().spawn_scoped(scope, run).is_err() {
                break;
            }
        }
        run();
    });
    let mut made = Vec::with_capacity(jobs.len());
    let mut cancelled = false;
    for result in results {
        match result.into_inner().unwrap_or_else(PoisonError::into_inner) {
            Some(Ok(blob)) => made.push(blob),
            // The others stop because of the one that failed, and that is the one to tell of.
            Some(Err(SaveError::Cancelled)) | None => cancelled = true,
            Some(Err(error)) => return Err(error),
        }
    }
    if cancelled { Err(SaveError::Cancelled) } else { Ok(made) }
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Nothing is left half-done under these locks, whatever panics.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn encode<'a>(
    job: &Job,
    blobs: &dyn BlobSource,
    workspace: &'a Workspace,
    options: &SaveOptions<'_>,
    watch: &dyn Fn(u64),
    stopped: &dyn Fn() -> bool,
) -> Result<ParkedBlob<'a>, SaveError> {
    let bytes = Watched { inner: blobs.open_blob(&job.layer)?, watch, stopped };
    let made = recode(bytes, job.layer, job.diff_id, job.encoding, workspace, &options.limits);
    made.map_err(|error| match error {
        // The layer may well be whole, and the config not its.
        SaveError::Layer { source: source @ LoadError::DiffIdMismatch { .. }, .. } => {
            SaveError::Image { image: job.image, source }
        }
        error => error,
    })
}

/// Counts what is read of a blob, and stops when nobody wants it any more.
struct Watched<'a> {
    inner: File,
    watch: &'a dyn Fn(u64),
    stopped: &'a dyn Fn() -> bool,
}

impl Read for Watched<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if (self.stopped)() {
            return Err(io::Error::other(Cancelled));
        }
        let count = self.inner.read(buffer)?;
        (self.watch)(count as u64);
        Ok(count)
    }
}

/// What notes of a layer tell of its bytes as they were, by the beginnings of their names: tables of contents of eStargz
/// and zstd:chunked.
const OF_THE_BYTES: [&str; 3] =
    ["containerd.io/snapshot/", "io.containers.estargz.", "io.github.containers.zstd-chunked."];

/// What an index says an attestation is about.
const ABOUT: &str = "vnd.docker.reference.digest";

/// The documents of the images, rewritten where something in them changed.
struct Documents<'o, 'a> {
    /// By the digest that a layer had: its digest, its size and how it is compressed.
    layers: BTreeMap<Digest, (Digest, u64, Encoding)>,
    blobs: &'a dyn BlobSource,
    options: &'o SaveOptions<'a>,
    recast: &'o Recast,
    made: BTreeMap<Digest, ParkedBlob<'a>>,
    /// By the digest that a document had: what it is now.
    known: BTreeMap<Digest, Descriptor>,
}

impl Documents<'_, '_> {
    /// Rewrites a manifest, which may be what a name points at.
    fn manifest(&mut self, image: &LoadedManifest, is_target: bool) -> Result<(), SaveError> {
        let mut manifest = image.manifest.clone();
        let mut zstd = false;
        for layer in &mut manifest.layers {
            let Some(&(digest, size, encoding)) = self.layers.get(&layer.digest) else { continue };
            zstd |= matches!(encoding, Encoding::Zstd { .. });
            layer.media_type = layer.media_type.with_encoding(encoding);
            (layer.digest, layer.size, layer.data) = (digest, size, None);
            layer.urls.clear();
            layer.annotations.retain(|key, _| !OF_THE_BYTES.iter().any(|begin| key.starts_with(begin)));
        }
        // Docker has a name for layers in Zstandard, but nobody knows it.
        if zstd && manifest.media_type() != manifest.media_type().to_oci() {
            manifest = manifest.to_oci();
        }
        let digest = image.descriptor.digest;
        let mut manifest = self.recast.manifest(digest, manifest)?;
        if is_target {
            self.recast.annotate(digest, &mut manifest.annotations)?;
        }
        if manifest == image.manifest {
            return Ok(());
        }
        self.add(&image.descriptor, manifest.media_type(), &manifest.to_json())
    }

    /// What an image's target is now.
    fn target(&mut self, target: &Descriptor) -> Result<Descriptor, SaveError> {
        if let MediaKind::Index = target.media_type.kind() {
            self.index(target, true)?;
        }
        Ok(self.now(target))
    }

    /// Rewrites an index, which may be what a name points at, and those that it lists. How deep they nest was checked when they
    /// were read.
    fn index(&mut self, at: &Descriptor, is_target: bool) -> Result<(), SaveError> {
        let limits = &self.options.limits;
        let refused = |source| SaveError::Image { image: at.digest, source };
        // Not everything that an index lists has to be there.
        if self.known.contains_key(&at.digest) || self.blobs.size(&at.digest)?.is_none() {
            return Ok(());
        }
        let bytes = self.blobs.read(&at.digest, limits.json_bytes)?;
        let old = Index::parse_described(at, &bytes, limits);
        let old = old.map_err(|source| refused(LoadError::image(blob_path(&at.digest), source)))?;
        let mut index = old.clone();
        for child in &mut index.manifests {
            if let MediaKind::Index = child.media_type.kind() {
                self.index(child, false)?;
            }
            *child = self.now(child);
            let about = child.annotations.get_mut(ABOUT);
            let now = |about: &String| Some(self.known.get(&about.parse::<Digest>().ok()?)?.digest);
            if let Some(about) = about
                && let Some(now) = now(about)
            {
                *about = now.to_string();
            }
        }
        let is_there =
            |digest: &Digest| Ok(self.blobs.size(digest)?.is_some() || self.made.contains_key(digest));
        let mut index = self.recast.index(at.digest, index, is_there)?;
        if is_target {
            self.recast.annotate(at.digest, &mut index.annotations)?;
        }
        if index == old {
            return Ok(());
        }
        self.add(at, index.media_type(), &index.to_json())
    }

    fn now(&self, was: &Descriptor) -> Descriptor {
        let Some(now) = self.known.get(&was.digest) else { return was.clone() };
        let (media_type, digest, size) = (now.media_type.clone(), now.digest, now.size);
        Descriptor { media_type, digest, size, data: None, ..was.clone() }
    }

    fn add(&mut self, was: &Descriptor, media_type: MediaType, bytes: &[u8]) -> Result<(), SaveError> {
        let workspace = self.options.workspace.ok_or(SaveError::NoWorkspace)?;
        let mut writer = BlobWriter::begin(workspace, was.digest.algorithm())?;
        writer.write_all(bytes).at_path("write", || writer.path())?;
        let blob = writer.finish()?;
        self.known.insert(was.digest, Descriptor::new(media_type, blob.digest(), blob.size()));
        self.made.insert(blob.digest(), blob.park());
        Ok(())
    }
}
