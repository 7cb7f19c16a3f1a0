//! Collection: whatever no name, container or operation in progress leads to goes, and nothing else.
//!
//! Marking and moving away happen under the lock that also orders pinning (see `operation`), so whoever pins first is
//! seen and whoever pins later finds the content gone and makes it again. What is collected is renamed into a workspace
//! under the lock and unlinked after it: the lock is held for as long as it takes to read the names and the documents
//! behind them, not for as long as it takes to remove a tree.

use std::collections::HashSet;
use std::path::PathBuf;
use std::sync::atomic::AtomicBool;

use super::build_cache::{Step, StepKey};
use super::error::StoreError;
use super::names::Named;
use super::operation::{GC_LOCK, Operation, Pinned};
use super::records::check_name;
use super::strangers::is_lock_of_one;
use super::survey::{IMAGES, STACKS};
use super::{Inner, Store, cancel};
use crate::container::ContainerRecord;
use crate::digest::Digest;
use crate::driver::{self, RootState};
use crate::fs::{Durability, Kind, Lock, LockMode, Optional, Workspace};
use crate::image::Descriptor;
use crate::layer::{MOST_STACKED, Stacking};

/// How to collect.
#[derive(Clone, Copy, Debug, Default)]
#[non_exhaustive]
pub struct GcOptions<'a> {
    /// Only tell what would be collected.
    pub dry_run: bool,
    /// Set by another thread to give up. What was collected until then is gone.
    pub cancel: Option<&'a AtomicBool>,
}

impl GcOptions<'_> {
    /// Only tells what would be collected.
    pub fn dry_run() -> Self {
        Self { dry_run: true, ..Self::default() }
    }
}

/// What was collected, or would be.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
#[non_exhaustive]
pub struct GcReport {
    /// Digests of blobs that nothing led to.
    pub blobs: Vec<Digest>,
    /// Keys of layers that nothing led to.
    pub layers: Vec<String>,
    /// Work that dead processes left behind, names of containers that are gone, layers that were replaced, steps of
    /// builds whose images are damaged, and blobs that did not come whole.
    pub leftovers: u64,
    /// Bytes of these blobs, of those that did not come whole and, as recorded, of these layers.
    pub bytes: u64,
    /// What lies in the store and is none of its own. It stays, whatever it is.
    pub strangers: Vec<PathBuf>,
}

/// What a collection takes for gone: a dry run cannot remove it first.
#[derive(Debug, Default)]
pub(super) struct Without {
    /// What names of images point at.
    pub(super) images: HashSet<Digest>,
    /// Ids of containers.
    pub(super) containers: HashSet<String>,
    /// Steps of builds.
    pub(super) steps: HashSet<StepKey>,
}

impl Store {
    /// Removes everything that no name, container or operation in progress needs. Works on a disk that is full to the last
    /// block or inode.
    ///
    /// # Errors
    ///
    /// [`StoreError`] if something that is needed cannot be read: then nothing is known to be unneeded and nothing is
    /// removed, but what dead processes left in `staging/`. If something cannot be moved away, what was moved before it is
    /// gone, and was not needed. If something cannot be unlinked at the end, it is no longer visible and the next collection
    /// tries again. [`StoreError::Cancelled`]: part of what nothing needs is gone, and the rest is as it was.
    pub fn gc(&self, options: &GcOptions<'_>) -> Result<GcReport, StoreError> {
        self.collect(options, &Without::default())
    }

    /// Collects as if what is in `without` were gone.
    pub(super) fn collect(&self, options: &GcOptions<'_>, without: &Without) -> Result<GcReport, StoreError> {
        let &GcOptions { dry_run, cancel } = options;
        let operation = self.inner.begin()?;
        let collected = self.collect_in(&operation, options, without);
        let ended = operation.end();
        let report = collected?;
        ended?;
        if !dry_run {
            self.inner.tidy_locks()?;
            cancel::refuse(cancel)?;
            self.tidy()?;
        }
        Ok(report)
    }

    fn collect_in(
        &self,
        operation: &Operation,
        options: &GcOptions<'_>,
        without: &Without,
    ) -> Result<GcReport, StoreError> {
        let mut collection = Collection::begin(&self.inner, operation, options)?;
        let needed = collection.needed(without)?;
        if !options.dry_run && self.inner.options.durability == Durability::Full {
            // What is not needed must not be needed again after a power cut.
            self.inner.sync_names()?;
            self.inner.layout.containers.sync()?;
        }
        collection.blobs(&needed)?;
        collection.layers(&needed)?;
        collection.names()?;
        collection.downloads(&needed)?;
        collection.report.strangers = self.inner.strangers()?;
        collection.facts(&needed)?;
        collection.replaced()?;
        Ok(collection.end())
    }

    /// What a collection does once there is as much room as there will be.
    fn tidy(&self) -> Result<(), StoreError> {
        let inner = &self.inner;
        let done = self.settle_layers().and_then(|()| {
            let operation = inner.begin()?;
            let index = inner.layout.blobs.layout().stat("index.json")?.size;
            inner.staging.keep_reserve(operation.workspace(), index)?;
            Lock::keep_spares(&inner.layout.locks)?;
            Ok(operation.end()?)
        });
        match done {
            // What was collected is collected.
            Err(error) if error.is_no_space() => {
                tracing::warn!(%error, "the disk is still full after a collection");
                Ok(())
            }
            done => done,
        }
    }

    /// Ends an operation. If it failed, what it brought goes with it, unless something else leads to that by now.
    pub(super) fn conclude<T>(
        &self,
        operation: Operation,
        outcome: Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        if outcome.is_err()
            && let Err(error) = self.take_back(&operation)
        {
            tracing::warn!(%error, "what a failed operation brought is left to the next collection");
        }
        let ended = operation.end();
        let done = outcome?;
        ended?;
        Ok(done)
    }

    /// Collects what `operation` relied on and nothing else needs.
    fn take_back(&self, operation: &Operation) -> Result<(), StoreError> {
        let inner = &self.inner;
        let workspace = operation.workspace();
        let brought = operation.pinned()?;
        let mut collection = Collection::begin(inner, operation, &GcOptions::dry_run())?;
        let needed = collection.needed(&Without::default())?;
        for digest in brought.blobs.difference(&needed.blobs).filter_map(|digest| digest.parse().ok()) {
            if inner.layout.blobs.size(&digest)?.is_some() {
                inner.layout.blobs.discard(&digest, workspace)?;
            }
        }
        for key in brought.layers.difference(&needed.layers) {
            if inner.layout.layers.stat(key).optional()?.is_some()
                && let Ok(key) = key.parse()
            {
                inner.layers.remove(key, workspace)?;
            }
        }
        Ok(())
    }
}

impl Inner {
    /// Removes the files of locks that nobody holds: whoever wants one makes it again.
    fn tidy_locks(&self) -> Result<(), StoreError> {
        let locks = &self.layout.locks;
        for entry in locks.names()? {
            // Those of the whole store are few and stay.
            let name = str::from_utf8(&entry.name).ok().filter(|name| is_lock_of_one(name));
            if let Some(name) = name
                && locks.is_of_kind(&entry, Kind::File)?
            {
                Lock::tidy(locks, name)?;
            }
        }
        Ok(())
    }
}

/// One collection under way. What goes is moved into the workspace of its operation, and unlinked with that.
struct Collection<'a> {
    inner: &'a Inner,
    workspace: &'a Workspace,
    /// Only to tell what would go.
    dry_run: bool,
    cancel: Option<&'a AtomicBool>,
    report: GcReport,
    /// Targets of which everything that they lead to is known to be needed.
    known: HashSet<Digest>,
    /// Whether something that is in use needs layers, and nobody knows which.
    spares_layers: bool,
    _alone: Lock,
}

impl<'a> Collection<'a> {
    /// Keeps everybody from relying on something new until it is over.
    fn begin(
        inner: &'a Inner,
        operation: &'a Operation,
        options: &GcOptions<'a>,
    ) -> Result<Self, StoreError> {
        let alone = Lock::acquire(&inner.layout.locks, GC_LOCK, LockMode::Exclusive)?;
        let workspace = operation.workspace();
        Ok(Self {
            inner,
            workspace,
            dry_run: options.dry_run,
            cancel: options.cancel,
            report: GcReport::default(),
            known: HashSet::new(),
            spares_layers: false,
            _alone: alone,
        })
    }

    /// Lets others go on; what was collected is still to be unlinked.
    fn end(self) -> GcReport {
        self.report
    }

    /// What is led to. Sweeps `staging/` on the way, which tells the operations in progress from the dead.
    fn needed(&mut self, without: &Without) -> Result<Pinned, StoreError> {
        let (live, swept) = self.inner.staging.sweep(self.workspace, self.dry_run)?;
        self.report.leftovers += swept;
        let mut needed = Pinned::of(&live)?;
        let images = self.inner.names()?.images().into_iter();
        for image in images.filter(|image| !without.images.contains(&image.target.digest)) {
            cancel::refuse(self.cancel)?;
            self.need(&image.target, &mut needed)?;
        }
        self.steps(without, &mut needed)?;
        let views = self.views(&mut needed)?;
        // A trial mount of a process that was killed, or the dead mount of a view.
        driver::abandon(self.workspace.dir())?;
        let containers = self.inner.container_records()?.into_iter();
        let containers = containers.filter(|record| !without.containers.contains(&record.id));
        for record in containers.chain(views) {
            cancel::refuse(self.cancel)?;
            self.need_container(&record, &mut needed)?;
        }
        Ok(needed)
    }

    /// Adds everything that came of steps of builds, and forgets those of which something is damaged.
    fn steps(&mut self, without: &Without, needed: &mut Pinned) -> Result<(), StoreError> {
        for Step { key, target, .. } in self.inner.steps()? {
            if without.steps.contains(&key) {
                continue;
            }
            let is_whole = match target.map(|target| self.need(&target, needed)) {
                None => false,
                Some(Err(error)) if error.is_damage() => false,
                Some(done) => done.map(|()| true)?,
            };
            if !is_whole {
                self.report.leftovers += 1;
                if !self.dry_run {
                    self.inner.forget_step(key, self.workspace)?;
                }
            }
        }
        Ok(())
    }

    /// Adds everything that a container stands on. It can go on without the documents of its image.
    fn need_container(&mut self, record: &ContainerRecord, needed: &mut Pinned) -> Result<(), StoreError> {
        match self.need(&record.image.target, needed) {
            Err(error) if error.is_damage() => {
                tracing::warn!(container = record.id, %error, "the image of a container is damaged; its layers stay");
                for &key in &record.stack {
                    let layer = self.inner.layers.get_any(key)?;
                    needed.blobs.extend(layer.map(|layer| layer.record.blob.to_string()));
                }
            }
            known => known?,
        }
        let merged = Stacking::of(&record.stack);
        let keys = record.stack.iter().copied().chain(merged.merged_keys());
        needed.layers.extend(keys.map(|key| key.to_string()));
        Ok(())
    }

    /// Adds everything that `target` leads to. Many containers may come from one image, which is read once.
    fn need(&mut self, target: &Descriptor, needed: &mut Pinned) -> Result<(), StoreError> {
        if self.known.contains(&target.digest) {
            return Ok(());
        }
        let (blobs, layers) = self.inner.closure_and_layers(target)?;
        needed.blobs.extend(blobs.iter().map(ToString::to_string));
        needed.layers.extend(layers.iter().map(ToString::to_string));
        self.known.insert(target.digest);
        Ok(())
    }

    /// Removes views that are not mounted, of images that are no more; returns the others.
    fn views(&mut self, needed: &mut Pinned) -> Result<Vec<ContainerRecord>, StoreError> {
        let mut kept = Vec::new();
        let (views, damaged) = self.inner.sorted_views()?;
        for view in damaged {
            let is_needed = needed.blobs.contains(&view.image.to_string()) || self.inner.is_lent(&view.image);
            match view.is_mounted || is_needed {
                true => {
                    tracing::warn!(view = view.id, error = %view.error, "a view is damaged");
                    if view.is_mounted {
                        self.need_shown(&view.image, needed)?;
                    }
                }
                false => self.drop_view(&view.id)?,
            }
        }
        for view in views {
            // A view by copying is never mounted; it stays while its image does.
            let mounted = matches!(self.inner.view_state(&view.id)?, RootState::Mounted(_));
            let target = &view.image.target.digest;
            if mounted || needed.blobs.contains(&target.to_string()) || self.inner.is_lent(target) {
                kept.push(view);
                continue;
            }
            self.drop_view(&view.id)?;
        }
        Ok(kept)
    }

    fn drop_view(&mut self, id: &str) -> Result<(), StoreError> {
        self.report.leftovers += 1;
        if !self.dry_run {
            self.workspace.discard(&self.inner.layout.views, id)?;
        }
        Ok(())
    }

    /// Adds what a mounted view needs that shows the manifest `image`, and has no record.
    fn need_shown(&mut self, image: &Digest, needed: &mut Pinned) -> Result<(), StoreError> {
        let known = self.inner.descriptor_of(image).and_then(|target| {
            self.need(&target, needed)?;
            let shown = self.inner.image(Named { target, names: Vec::new() })?;
            // Which of them were merged into one depends on what the record said.
            self.spares_layers |= shown.diff_ids().len() > MOST_STACKED;
            Ok(())
        });
        match known {
            Err(error) if error.is_damage() => {
                tracing::warn!(%image, %error, "nobody knows what a damaged view needs; every layer stays");
                self.spares_layers = true;
                needed.blobs.insert(image.to_string());
                Ok(())
            }
            known => known,
        }
    }

    fn blobs(&mut self, needed: &Pinned) -> Result<(), StoreError> {
        let blobs = &self.inner.layout.blobs;
        for (digest, size) in blobs.list()? {
            if needed.blobs.contains(&digest.to_string()) {
                continue;
            }
            cancel::refuse(self.cancel)?;
            if !self.dry_run {
                blobs.discard(&digest, self.workspace)?;
            }
            self.report.blobs.push(digest);
            self.report.bytes += size;
        }
        Ok(())
    }

    fn layers(&mut self, needed: &Pinned) -> Result<(), StoreError> {
        let layers = &self.inner.layers;
        if self.spares_layers {
            return Ok(());
        }
        for key in layers.list()? {
            if needed.layers.contains(&key.to_string()) {
                continue;
            }
            cancel::refuse(self.cancel)?;
            let bytes = layers.get_any(key)?.map_or(0, |layer| layer.record.data_bytes);
            // One that is being made is pinned, or its maker is about to find its pins.
            if !self.dry_run && !layers.remove(key, self.workspace)? {
                continue;
            }
            self.report.bytes += bytes;
            self.report.layers.push(key.to_string());
        }
        Ok(())
    }

    /// Forgets what was found out of manifests that go and containers that are gone. It is no part of what a store holds, and not counted.
    fn facts(&self, needed: &Pinned) -> Result<(), StoreError> {
        if self.dry_run {
            return Ok(());
        }
        for file in [IMAGES, STACKS] {
            self.inner.forget_facts(file, self.workspace, |manifest: &Digest| {
                needed.blobs.contains(&manifest.to_string())
            })?;
        }
        self.inner.forget_containers(self.workspace)
    }

    /// Removes layers that were replaced and that nobody looks into any more.
    fn replaced(&mut self) -> Result<(), StoreError> {
        self.report.leftovers += self.inner.sweep_replaced(self.workspace, self.dry_run)?.removed;
        Ok(())
    }

    /// Removes what came of blobs that nobody is fetching.
    fn downloads(&mut self, needed: &Pinned) -> Result<(), StoreError> {
        let (count, bytes) = self.inner.forget_downloads(
            self.workspace,
            |digest| needed.blobs.contains(&digest.to_string()),
            self.dry_run,
        )?;
        self.report.leftovers += count;
        self.report.bytes += bytes;
        Ok(())
    }

    /// Removes names of containers that a dead process reserved and never used.
    fn names(&mut self) -> Result<(), StoreError> {
        let names = &self.inner.layout.names;
        for entry in names.names()? {
            // What is no name is none of ours.
            let name = str::from_utf8(&entry.name).ok().filter(|name| check_name(name).is_ok());
            let Some(name) = name else { continue };
            if !names.is_of_kind(&entry, Kind::File)? {
                continue;
            }
            if self.inner.container_named(name)?.is_some() {
                continue;
            }
            // Somebody may be about to use it.
            let Some(_held) = Lock::try_acquire_present(names, name)? else { continue };
            if self.inner.container_named(name)?.is_none() {
                self.report.leftovers += 1;
                if !self.dry_run {
                    self.workspace.discard(names, name).optional()?;
                }
            }
        }
        Ok(())
    }
}
