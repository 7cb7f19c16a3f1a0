//! [`LayerStore::ensure`]: the layers of an image, each unpacked once.
//!
//! First every layer that is missing is unpacked by itself, all at the same time, largest first. Then, from the bottom up
//! and one by one, layers that lean on their base get what they need from it (`base.rs`). Most layers lean on nothing and
//! are published by the first step.
//!
//! Two processes that need the same layer share the work: the lock on a layer is held while it is made. Nobody waits for
//! one lock while holding another that someone may be waiting for, so they cannot wait for each other: in the first step
//! a lock that is taken is left for later, and before the second step waits it gives up those that it holds.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, Read};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

use super::abilities::Abilities;
use super::base::Base;
use super::crew::Crew;
use super::early::{Early, EarlyLayer};
use super::key::LayerKey;
use super::record::{Assumed, Record};
use super::store::{Layer, LayerError, LayerLock, LayerStore, State};
use super::unpack::{self, Below, Losses, UnpackError, UnpackOptions, Unpacked, unpack_blob, unpack_layer};
use super::xattrs::XattrPolicy;
use crate::digest::{ChainId, DiffId, Digest};
use crate::fs::{Dir, StagedDir, Workspace};
use crate::limits::Limits;
use crate::open_files::LAYERS_AT_A_TIME;
use crate::parallelism::Parallelism;

/// Threads that unpack at most. File systems create files hardly faster for ten than for four, and two threads at a layer
/// keep up to 150 files open, of which a process may often have no more than 1024.
pub(super) const THREADS: usize = LAYERS_AT_A_TIME;

/// Opens a layer's blob from its beginning, as often as it is asked to.
pub type OpenBlob<'a> = Box<dyn Fn() -> io::Result<Box<dyn Read + Send>> + Send + Sync + 'a>;

/// One layer of an image, and where its blob is.
#[non_exhaustive]
pub struct LayerSource<'a> {
    /// Digest of the tar, from the image config.
    pub diff_id: DiffId,
    /// The blob that holds it.
    pub blob: Digest,
    /// Size of the blob in bytes: the largest are begun first.
    pub size: u64,
    /// Opens the blob.
    pub open: OpenBlob<'a>,
}

impl<'a> LayerSource<'a> {
    /// The layer `diff_id` inside `blob`, which has `size` bytes.
    pub fn new(diff_id: DiffId, blob: Digest, size: u64, open: OpenBlob<'a>) -> Self {
        Self { diff_id, blob, size, open }
    }
}

impl std::fmt::Debug for LayerSource<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { diff_id, blob, size, .. } = self;
        f.debug_struct("LayerSource")
            .field("diff_id", diff_id)
            .field("blob", blob)
            .field("size", size)
            .finish_non_exhaustive()
    }
}

/// What happens while layers are made.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum Progress {
    /// A layer is begun. It may be begun twice, if it turns out to lean on its base.
    Started {
        /// The layer.
        diff_id: DiffId,
        /// Size of its blob in bytes.
        size: u64,
    },
    /// More of a blob was read.
    Read {
        /// The layer.
        diff_id: DiffId,
        /// Bytes of the blob that were read until now.
        bytes: u64,
    },
    /// A layer is unpacked.
    Finished {
        /// The layer.
        diff_id: DiffId,
    },
    /// A layer cannot be made. The others are given up; who keeps them waiting for their blobs should not.
    Failed {
        /// The layer.
        diff_id: DiffId,
    },
}

/// What tunes the making of layers.
#[derive(Clone, Default)]
#[non_exhaustive]
pub struct EnsureOptions<'a> {
    /// How many threads may work at a time.
    pub parallelism: Parallelism,
    /// What each layer may ask for.
    pub limits: Limits,
    /// Which attributes enter layers.
    pub xattrs: XattrPolicy,
    /// Whether layers are on disk before they are published. Needed only where the blobs are not kept: a layer that is
    /// lost in a power cut is otherwise made again. Default no.
    pub synced: bool,
    /// Told what happens, from any thread, so often that a screen need not be drawn each time.
    pub progress: Option<&'a (dyn Fn(Progress) + Sync)>,
    /// Other work of the caller's: called once by each thread, by all but the first before it looks for a layer. A
    /// single thread does it after the layers. Not called if there is no layer to make.
    pub meanwhile: Option<&'a (dyn Fn() + Sync)>,
    /// Layers that are unpacked already, in the same workspace.
    pub early: Option<&'a Early>,
    /// Asked often; once it says true, [`LayerStore::ensure`] ends with [`LayerError::Cancelled`].
    pub cancelled: Option<&'a (dyn Fn() -> bool + Sync)>,
}

impl std::fmt::Debug for EnsureOptions<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("EnsureOptions")
            .field("parallelism", &self.parallelism)
            .field("limits", &self.limits)
            .field("xattrs", &self.xattrs)
            .field("synced", &self.synced)
            .finish_non_exhaustive()
    }
}

impl EnsureOptions<'_> {
    /// How one layer is unpacked.
    pub(super) fn for_unpacking<'c>(&self, cancelled: &'c (dyn Fn() -> bool + Sync)) -> UnpackOptions<'c> {
        UnpackOptions {
            limits: self.limits.clone(),
            xattrs: self.xattrs.clone(),
            parallelism: self.parallelism,
            cancelled: Some(cancelled),
            ..UnpackOptions::default()
        }
    }
}

/// The layers of an image, ready to be stacked.
#[derive(Debug)]
#[non_exhaustive]
pub struct Ensured {
    /// One key for each layer asked for, in the same order, bottom first. A key may stand there twice.
    pub keys: Vec<LayerKey>,
    /// The layers themselves, in the same order.
    pub layers: Vec<Layer>,
    /// Those layers that had to be made.
    pub made: Vec<Made>,
}

/// A layer that was made.
#[derive(Debug)]
#[non_exhaustive]
pub struct Made {
    /// What it is called.
    pub key: LayerKey,
    /// Its tar.
    pub diff_id: DiffId,
    /// What this file system or this process could not hold of it.
    pub losses: Losses,
}

/// A layer of the image that is not there yet.
pub(super) struct Job<'s, 'w> {
    pub(super) source: &'s LayerSource<'s>,
    pub(super) slot: Slot<'w>,
}

/// How far a layer has come.
pub(super) enum Slot<'w> {
    /// Not begun, or left to someone else who has its lock.
    Open,
    /// Unpacked by itself, and published if it leans on nothing.
    Published(Option<Losses>),
    /// Unpacked by itself; it leans on its base.
    Staged(Box<Staged<'w>>),
}

/// A layer that was unpacked by itself and leans on its base.
pub(super) struct Staged<'w> {
    pub(super) dir: StagedDir<'w>,
    pub(super) tree: Dir,
    pub(super) unpacked: Unpacked,
    pub(super) lock: Option<LayerLock<'w>>,
}

impl LayerStore {
    /// Makes sure that every layer of an image is there: `sources` lists them bottom first, `work` is a workspace on the
    /// same file system. Layers that are there already are not read, and their blobs not opened.
    ///
    /// Between the return and the moment something refers to the layers, only the caller's pins keep them from being
    /// collected: pin [`LayerKey::candidates`] before the call.
    ///
    /// # Errors
    ///
    /// [`LayerError`]; layers that were finished before stay, none is there in part.
    pub fn ensure(
        &self,
        sources: &[LayerSource<'_>],
        work: &Workspace,
        options: &EnsureOptions<'_>,
    ) -> Result<Ensured, LayerError> {
        let failed = AtomicBool::new(false);
        let stop = || failed.load(Ordering::Relaxed) || options.cancelled.is_some_and(|ask| ask());
        let context = Context {
            store: self,
            work,
            abilities: self.abilities(work)?,
            options,
            unpack: options.for_unpacking(&stop),
            outdated: Mutex::default(),
        };
        let Found { ready, missing } = context.look_for(sources)?;
        let jobs = context.unpack_all(missing, &failed)?;
        Base::new(&context, ready, jobs).raise(sources)
    }
}

/// What is there of an image's layers.
struct Found<'s, 'w> {
    /// Layers that lean on nothing, opened.
    ready: BTreeMap<DiffId, Layer>,
    /// Those that have to be unpacked, each once.
    missing: BTreeMap<DiffId, Job<'s, 'w>>,
}

/// What every step of one call needs.
pub(super) struct Context<'c> {
    pub(super) store: &'c LayerStore,
    pub(super) work: &'c Workspace,
    pub(super) abilities: Abilities,
    pub(super) options: &'c EnsureOptions<'c>,
    pub(super) unpack: UnpackOptions<'c>,
    /// Layers that are there with the marks of both families, and serve as they are where they cannot be made again.
    outdated: Mutex<BTreeMap<DiffId, BTreeSet<LayerKey>>>,
}

impl<'c> Context<'c> {
    /// Looks which layers are there.
    fn look_for<'s>(&self, sources: &'s [LayerSource<'s>]) -> Result<Found<'s, 'c>, LayerError> {
        let mut found = Found { ready: BTreeMap::new(), missing: BTreeMap::new() };
        let mut chain: Option<ChainId> = None;
        for source in sources {
            let diff_id = source.diff_id;
            let top = chain.map_or_else(|| ChainId::base(diff_id), |below| below.with(diff_id));
            chain = Some(top);
            if found.missing.contains_key(&diff_id) || found.ready.contains_key(&diff_id) {
                continue;
            }
            let free = self.store.seek(LayerKey::Free(diff_id))?;
            self.note_outdated(diff_id, &free);
            match free {
                // What assumes nothing is the same on every base, and no other form of it was ever made.
                State::Good(layer) if layer.record.assumed.is_empty() => {
                    found.ready.insert(diff_id, *layer);
                }
                State::Good(_) => {}
                State::Absent | State::Untrusted | State::Other(_) => {
                    let bound = self.store.seek(LayerKey::Bound(top))?;
                    self.note_outdated(diff_id, &bound);
                    if !matches!(bound, State::Good(_)) {
                        found.missing.insert(diff_id, Job { source, slot: Slot::Open });
                    }
                }
            }
        }
        Ok(found)
    }

    fn note_outdated(&self, diff_id: DiffId, state: &State) {
        if let State::Other(layer) = state
            && layer.has_both_families()
        {
            let mut outdated = self.outdated.lock().unwrap_or_else(PoisonError::into_inner);
            outdated.entry(diff_id).or_default().insert(layer.key);
        }
    }

    /// Whether there are forms of a layer that serve although it cannot be made again: they are used as they are.
    fn keep_outdated(&self, diff_id: DiffId, error: &LayerError) -> bool {
        if matches!(error, LayerError::Cancelled) {
            return false;
        }
        let outdated = self.outdated.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(keys) = outdated.get(&diff_id) else { return false };
        tracing::warn!(%diff_id, %error, "a layer of an older version of the store cannot be made again, and is used as it is");
        keys.iter().for_each(|key| self.store.keep(*key));
        true
    }

    /// Unpacks what nobody else is unpacking, all at the same time.
    fn unpack_all<'s>(
        &self,
        jobs: BTreeMap<DiffId, Job<'s, 'c>>,
        failed: &AtomicBool,
    ) -> Result<BTreeMap<DiffId, Job<'s, 'c>>, LayerError> {
        if jobs.is_empty() {
            return Ok(jobs);
        }
        let mut queue: Vec<_> = jobs.values().map(|job| job.source).collect();
        queue.sort_by_key(|source| (std::cmp::Reverse(source.size), source.diff_id));
        let most = unpack::THREADS * queue.len() + usize::from(self.options.meanwhile.is_some());
        let threads = self.options.parallelism.threads().min(most).min(THREADS);
        let (next, done) = (AtomicUsize::new(0), AtomicUsize::new(0));
        let jobs = Mutex::new(jobs);
        let error = Mutex::new(None);
        let crew = Crew::new();
        let meanwhile = || {
            if let Some(meanwhile) = self.options.meanwhile {
                meanwhile();
            }
        };
        let work = |is_first: bool| {
            let _closing = crew.closing_by_panic();
            if !is_first {
                meanwhile();
            }
            while let Some(&source) = queue.get(next.fetch_add(1, Ordering::Relaxed)) {
                match self.try_alone(source, (threads > 1).then_some(&crew)) {
                    Ok(slot) => {
                        let mut jobs = jobs.lock().unwrap_or_else(PoisonError::into_inner);
                        jobs.entry(source.diff_id).and_modify(|job| job.slot = slot);
                    }
                    Err(fault) => {
                        // The first is the cause; the others end because of it.
                        error.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(fault);
                        failed.store(true, Ordering::Relaxed);
                        self.tell(Progress::Failed { diff_id: source.diff_id });
                    }
                }
                if done.fetch_add(1, Ordering::Relaxed) + 1 == queue.len() {
                    crew.close();
                }
            }
            if is_first {
                meanwhile();
            }
            if threads > 1 {
                crew.help();
            }
        };
        std::thread::scope(|scope| {
            for _ in 1..threads {
                scope.spawn(|| work(false));
            }
            work(true);
        });
        match error.into_inner().unwrap_or_else(PoisonError::into_inner) {
            Some(error) => Err(error),
            None => Ok(jobs.into_inner().unwrap_or_else(PoisonError::into_inner)),
        }
    }

    /// Unpacks a layer by itself unless someone else is at it.
    fn try_alone<'env>(
        &self,
        source: &LayerSource<'_>,
        crew: Option<&Crew<'env>>,
    ) -> Result<Slot<'c>, LayerError>
    where
        'c: 'env,
    {
        let Some(lock) = self.store.try_lock(LayerKey::Free(source.diff_id))? else { return Ok(Slot::Open) };
        self.alone(source, lock, crew)
    }

    /// Unpacks a layer by itself under its lock, and publishes it if it leans on nothing.
    pub(super) fn alone<'env>(
        &self,
        source: &LayerSource<'_>,
        lock: LayerLock<'c>,
        crew: Option<&Crew<'env>>,
    ) -> Result<Slot<'c>, LayerError>
    where
        'c: 'env,
    {
        let key = LayerKey::Free(source.diff_id);
        if let State::Good(_) = self.store.seek(key)? {
            return Ok(Slot::Published(None));
        }
        let early = self.options.early.and_then(|early| early.take(&source.blob, &source.diff_id));
        // Its zeros count for the image. If they are too many, it is unpacked once more, which gives the error.
        let early = early.filter(|layer| self.unpack.limits.count_zeros(layer.unpacked.zeros()));
        let (dir, tree, unpacked) = match early {
            Some(EarlyLayer { dir, unpacked, .. }) => {
                let dir = dir.reopen(self.work)?;
                let tree = LayerStore::stage_tree(&dir)?;
                (dir, tree, unpacked)
            }
            None => {
                let dir = self.work.directory()?;
                let tree = LayerStore::stage_tree(&dir)?;
                let unpacked = match self.unpack(source, &tree, None, crew) {
                    Err(error) if self.keep_outdated(source.diff_id, &error) => {
                        dir.discard()?;
                        return Ok(Slot::Published(None));
                    }
                    unpacked => unpacked?,
                };
                (dir, tree, unpacked)
            }
        };
        if unpacked.implied.is_empty() && unpacked.below_links.is_empty() {
            let record = self.record(source, &unpacked, Vec::new());
            self.publish(key, dir, record)?;
            return Ok(Slot::Published(Some(unpacked.losses)));
        }
        Ok(Slot::Staged(Box::new(Staged { dir, tree, unpacked, lock: Some(lock) })))
    }

    /// Unpacks a layer into `into`.
    pub(super) fn unpack<'env>(
        &self,
        source: &LayerSource<'_>,
        into: &Dir,
        below: Option<&Below<'_>>,
        crew: Option<&Crew<'env>>,
    ) -> Result<Unpacked, LayerError>
    where
        'c: 'env,
    {
        let &LayerSource { diff_id, blob, size, .. } = source;
        let reader = (source.open)().map_err(|source| LayerError::Open { diff_id, blob, source })?;
        self.tell(Progress::Started { diff_id, size });
        let reader = Counted::new(reader, diff_id, self.options.progress);
        let unpacked = match crew {
            Some(_) => {
                unpack_blob(Box::new(reader), diff_id, into, below, self.abilities, &self.unpack, crew)
            }
            None => unpack_layer(reader, diff_id, into, below, self.abilities, &self.unpack),
        };
        let unpacked = unpacked.map_err(|error| match error {
            UnpackError::Cancelled => LayerError::Cancelled,
            source => LayerError::Unpack { diff_id, source },
        })?;
        self.tell(Progress::Finished { diff_id });
        Ok(unpacked)
    }

    /// The record of a layer that was just unpacked.
    pub(super) fn record(
        &self,
        source: &LayerSource<'_>,
        unpacked: &Unpacked,
        assumed: Vec<Assumed>,
    ) -> Record {
        let (family, session) = (self.abilities.family, self.store.session.as_ref());
        Record::new(source.diff_id, source.blob, family, unpacked, assumed, session)
    }

    /// Gives a layer its name; the caller holds its lock.
    pub(super) fn publish(
        &self,
        key: LayerKey,
        dir: StagedDir<'_>,
        record: Record,
    ) -> Result<Layer, LayerError> {
        self.store.publish(key, dir, record, self.work, self.options.synced)
    }

    /// Waits for the lock on a layer. The caller holds none that another may be waiting for.
    pub(super) fn lock(&self, key: LayerKey) -> Result<LayerLock<'c>, LayerError> {
        if self.options.cancelled.is_none() {
            return self.store.lock(key);
        }
        loop {
            self.check_cancelled()?;
            match self.store.try_lock(key)? {
                Some(lock) => return Ok(lock),
                // The kernel's own waiting cannot be called off.
                None => std::thread::sleep(std::time::Duration::from_millis(20)),
            }
        }
    }

    /// Fails if the caller wishes to stop.
    pub(super) fn check_cancelled(&self) -> Result<(), LayerError> {
        match self.options.cancelled.is_some_and(|cancelled| cancelled()) {
            true => Err(LayerError::Cancelled),
            false => Ok(()),
        }
    }

    fn tell(&self, progress: Progress) {
        if let Some(told) = self.options.progress {
            told(progress);
        }
    }
}

/// Tells how much of a blob was read.
pub(super) struct Counted<'p, R> {
    reader: R,
    bytes: u64,
    diff_id: DiffId,
    progress: Option<&'p (dyn Fn(Progress) + Sync)>,
}

impl<'p, R> Counted<'p, R> {
    pub(super) fn new(reader: R, diff_id: DiffId, progress: Option<&'p (dyn Fn(Progress) + Sync)>) -> Self {
        Self { reader, bytes: 0, diff_id, progress }
    }
}

impl<R: Read> Read for Counted<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.reader.read(buffer)?;
        self.bytes += count as u64;
        if let Some(told) = self.progress {
            told(Progress::Read { diff_id: self.diff_id, bytes: self.bytes });
        }
        Ok(count)
    }
}
