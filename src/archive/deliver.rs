//! [`deliver`]: an image for somebody who takes it piece by piece: a registry.
//!
//! What the receiver has is not moved. Blobs go first, several at a time, then documents, what is referred to in front of what
//! refers to it, and the name last: whatever can be found there is whole.

use std::collections::BTreeSet;
use std::fmt;
use std::io::{self, Read};
use std::num::NonZeroUsize;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

use super::content::blob_path;
use super::convert::{Converted, convert};
use super::save::{Gathered, SaveImage, SaveOptions, gather};
use super::walk::is_passed_over;
use super::words::Recast;
use super::{LoadError, SaveError, Transfer, Warning};
use crate::blob::BlobSource;
use crate::digest::Digest;
use crate::image::{Descriptor, Index, ManifestDocument};

/// Opens content, from its beginning.
pub type OpenContent<'o> = &'o (dyn Fn() -> io::Result<Box<dyn Read + Send>> + Sync);

/// A place that content is brought to.
///
/// Whoever implements it tries again where that helps, and sees to it that nothing wrong arrives.
pub trait Deliver: fmt::Debug + Sync {
    /// Whether the content is there already, or could be had there without moving it.
    ///
    /// # Errors
    ///
    /// Whatever keeps that from being known, with a text that names the place. The same holds for the others.
    fn has(&self, descriptor: &Descriptor) -> io::Result<bool>;

    /// Brings a blob. `open` opens it, for each attempt; `moved` is told how many bytes of it are there.
    ///
    /// # Errors
    ///
    /// Whatever keeps it from getting there.
    fn blob(
        &self,
        descriptor: &Descriptor,
        open: OpenContent<'_>,
        moved: &(dyn Fn(u64) + Sync),
    ) -> io::Result<()>;

    /// Brings a manifest or an index, whose parts are there. The one that was asked for comes last, with `named`.
    ///
    /// # Errors
    ///
    /// Whatever keeps it from getting there.
    fn document(&self, descriptor: &Descriptor, bytes: &[u8], named: bool) -> io::Result<()>;
}

/// What to do with platforms of an image that are not here.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[non_exhaustive]
pub enum AbsentPlatforms {
    /// Nothing is delivered, unless the receiver has them.
    #[default]
    Refuse,
    /// The index is written without them, and so has another digest.
    LeaveOut,
}

/// How to deliver.
#[derive(Clone, Default)]
#[non_exhaustive]
pub struct DeliverOptions<'a> {
    /// What of the image, and how: platform, compression, limits, workspace, and the flag to give up.
    pub save: SaveOptions<'a>,
    /// What to do with platforms that are not here.
    pub absent: AbsentPlatforms,
    /// How many blobs are moved at a time. Default: three.
    pub uploads: Option<NonZeroUsize>,
    /// Told what happens to each blob.
    pub progress: Option<&'a (dyn Fn(Transfer) + Sync)>,
}

impl fmt::Debug for DeliverOptions<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DeliverOptions")
            .field("save", &self.save)
            .field("absent", &self.absent)
            .field("uploads", &self.uploads)
            .finish_non_exhaustive()
    }
}

/// What was delivered.
#[derive(Clone, PartialEq, Debug)]
#[non_exhaustive]
pub struct Delivered {
    /// What the name stands for there: other bytes than here if layers were compressed or platforms left out.
    pub target: Descriptor,
    /// How many blobs were moved.
    pub moved: usize,
    /// What they have in bytes.
    pub bytes: u64,
    /// What is odd about it.
    pub warnings: Vec<Warning>,
}

const UPLOADS: NonZeroUsize = NonZeroUsize::new(3).expect("it is not zero");

/// Brings the image `target` of `blobs` to the receiver.
///
/// Layers that must not be passed on stay here.
///
/// # Errors
///
/// [`SaveError`]; [`SaveError::Deliver`] if the receiver does not take something. What it has by then are blobs and documents that
/// no name leads to, and the name stands for what it stood for.
pub fn deliver(
    target: &Descriptor,
    blobs: &dyn BlobSource,
    to: &dyn Deliver,
    options: &DeliverOptions<'_>,
) -> Result<Delivered, SaveError> {
    let save = &options.save;
    let image = SaveImage { target: target.clone(), names: Vec::new() };
    let Converted { images, blobs, .. } = convert(&[image], blobs, save, &Recast::default())?;
    let Gathered { listed, warnings, .. } = gather(&images, &blobs, save)?;
    let absent = listed.iter().flat_map(|listed| &listed.loaded.absent).map(|child| child.digest).collect();
    let mut cargo = Cargo {
        to,
        source: &blobs,
        options,
        absent,
        known: BTreeSet::new(),
        blobs: vec![],
        documents: vec![],
    };
    let target = cargo.document(&images[0].target)?;
    let (moved, bytes) = cargo.move_blobs()?;
    for (descriptor, content) in &cargo.documents {
        cargo.refuse_if_cancelled()?;
        to.document(descriptor, content, descriptor.digest == target.digest).map_err(failed(descriptor))?;
    }
    Ok(Delivered { target, moved, bytes, warnings })
}

fn failed(descriptor: &Descriptor) -> impl Fn(io::Error) -> SaveError {
    let digest = descriptor.digest;
    move |source| SaveError::Deliver { digest, source }
}

/// What is delivered.
struct Cargo<'a> {
    to: &'a dyn Deliver,
    source: &'a dyn BlobSource,
    options: &'a DeliverOptions<'a>,
    /// Manifests that are not here, or not whole.
    absent: BTreeSet<Digest>,
    /// What is on one of the lists.
    known: BTreeSet<Digest>,
    blobs: Vec<Descriptor>,
    /// Each behind what it refers to.
    documents: Vec<(Descriptor, Vec<u8>)>,
}

impl Cargo<'_> {
    /// Adds a document with all that it refers to. Gives what it is there.
    fn document(&mut self, at: &Descriptor) -> Result<Descriptor, SaveError> {
        let limits = &self.options.save.limits;
        let refused = |source| {
            let source = LoadError::Image { member: blob_path(&at.digest), source };
            SaveError::Image { image: at.digest, source }
        };
        let bytes = self.source.read(&at.digest, limits.json_bytes)?;
        match ManifestDocument::parse_described(at, &bytes, limits).map_err(refused)? {
            ManifestDocument::Index(index) => self.index(at, index, bytes),
            ManifestDocument::Image(manifest) | ManifestDocument::Artifact(manifest) => {
                for part in manifest.layers.iter().chain([&manifest.config]) {
                    if !is_passed_over(part) && self.known.insert(part.digest) {
                        self.blobs.push(part.clone());
                    }
                }
                self.add(at.clone(), bytes)
            }
        }
    }

    /// How deep they nest was checked when they were gathered.
    fn index(&mut self, at: &Descriptor, index: Index, bytes: Vec<u8>) -> Result<Descriptor, SaveError> {
        let mut there = index.clone();
        there.manifests.clear();
        let mut lacking = Vec::new();
        for child in &index.manifests {
            if self.absent.contains(&child.digest) {
                match self.to.has(child).map_err(failed(child))? {
                    true => there.manifests.push(child.clone()),
                    false => lacking.push(child.clone()),
                }
            } else if child.media_type.is_document() {
                let now = self.document(child)?;
                let (digest, size) = (now.digest, now.size);
                // What it says of its content itself is no longer true where that changed.
                let data = child.data.clone().filter(|_| digest == child.digest);
                there.manifests.push(Descriptor { digest, size, data, ..child.clone() });
            } else {
                if self.known.insert(child.digest) {
                    self.blobs.push(child.clone());
                }
                there.manifests.push(child.clone());
            }
        }
        if !lacking.is_empty() && self.options.absent == AbsentPlatforms::Refuse {
            let name = |child: &Descriptor| match &child.platform {
                Some(platform) => platform.to_string(),
                None => child.digest.to_string(),
            };
            let absent = lacking.iter().map(name).collect();
            return Err(SaveError::AbsentPlatforms { image: at.digest, absent });
        }
        if there == index {
            return self.add(at.clone(), bytes);
        }
        let bytes = there.to_json();
        let digest = Digest::of_with(at.digest.algorithm(), &bytes);
        let now = Descriptor { digest, size: bytes.len() as u64, data: None, ..at.clone() };
        self.add(now, bytes)
    }

    fn add(&mut self, descriptor: Descriptor, bytes: Vec<u8>) -> Result<Descriptor, SaveError> {
        if self.known.insert(descriptor.digest) {
            self.documents.push((descriptor.clone(), bytes));
        }
        Ok(descriptor)
    }

    /// Moves the blobs that the receiver does not have; how many those were, and of how many bytes.
    fn move_blobs(&self) -> Result<(usize, u64), SaveError> {
        let (next, stop) = (AtomicUsize::new(0), AtomicBool::new(false));
        let outcome = Mutex::new(Ok((0, 0)));
        let work = || {
            while !stop.load(Ordering::Relaxed)
                && let Some(blob) = self.blobs.get(next.fetch_add(1, Ordering::Relaxed))
            {
                let moved = self.move_blob(blob);
                let mut outcome = outcome.lock().unwrap_or_else(PoisonError::into_inner);
                match (&mut *outcome, moved) {
                    (Ok((count, bytes)), Ok(true)) => {
                        *count += 1;
                        *bytes += blob.size;
                    }
                    // The first that failed is the one to tell of: the others stop because of it.
                    (Ok(_), Err(error)) => {
                        stop.store(true, Ordering::Relaxed);
                        *outcome = Err(error);
                    }
                    _ => {}
                }
            }
        };
        std::thread::scope(|scope| {
            for _ in 1..self.options.uploads.unwrap_or(UPLOADS).get().min(self.blobs.len()) {
                // Where no thread can be had, there is one less.
                if std::thread::Builder::new().name("deliver".to_owned()).spawn_scoped(scope, work).is_err() {
                    break;
                }
            }
            work();
        });
        outcome.into_inner().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether there was a need to.
    fn move_blob(&self, blob: &Descriptor) -> Result<bool, SaveError> {
        self.refuse_if_cancelled()?;
        let tell = |transfer| self.options.progress.into_iter().for_each(|progress| progress(transfer));
        let (digest, size) = (blob.digest, blob.size);
        if self.to.has(blob).map_err(failed(blob))? {
            tell(Transfer::Present { digest, size });
            return Ok(false);
        }
        tell(Transfer::Started { digest, size });
        let open = || match self.source.open_blob(&digest) {
            Ok(file) => Ok(Box::new(file) as Box<dyn Read + Send>),
            Err(error) => Err(io::Error::other(error)),
        };
        self.to.blob(blob, &open, &|bytes| tell(Transfer::Moved { digest, bytes })).map_err(failed(blob))?;
        tell(Transfer::Finished { digest });
        Ok(true)
    }

    fn refuse_if_cancelled(&self) -> Result<(), SaveError> {
        if self.options.save.is_cancelled() { Err(SaveError::Cancelled) } else { Ok(()) }
    }
}
