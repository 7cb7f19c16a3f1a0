//! Collection: whatever no name, container or operation in progress leads to goes, and nothing else.
//!
//! Marking and moving away happen under the lock that also orders pinning (see `operation`), so whoever pins first is
//! seen and whoever pins later finds the content gone and makes it again. What is collected is renamed into a workspace
//! under the lock and unlinked after it: the lock is held for as long as it takes to read the names and the documents
//! behind them, not for as long as it takes to remove a tree.

use super::Store;
use super::error::StoreError;
use super::operation::{GC_LOCK, Operation, Pinned};
use crate::container::{ContainerRecord, mounted_at};
use crate::fs::{Lock, LockMode, Optional};
use crate::image::Descriptor;
use crate::layer::Stacking;

/// How to collect.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[non_exhaustive]
pub struct GcOptions {
    /// Only tell what would be collected.
    pub dry_run: bool,
}

impl GcOptions {
    /// Only tells what would be collected.
    pub fn dry_run() -> Self {
        Self { dry_run: true }
    }
}

/// What was collected, or would be.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
#[non_exhaustive]
pub struct GcReport {
    /// Digests of blobs that nothing led to.
    pub blobs: Vec<crate::digest::Digest>,
    /// Keys of layers that nothing led to.
    pub layers: Vec<String>,
    /// Work that dead processes left behind, and names of containers that are gone.
    pub leftovers: u64,
    /// Bytes of these blobs and, as recorded, of these layers.
    pub bytes: u64,
}

impl Store {
    /// Removes everything that no name, container or operation in progress needs.
    ///
    /// # Errors
    ///
    /// [`StoreError`] if something that is needed cannot be read: then nothing is known to be unneeded and nothing is
    /// removed. If something cannot be unlinked at the end, it is no longer visible and the next collection tries again.
    pub fn gc(&self, options: &GcOptions) -> Result<GcReport, StoreError> {
        let inner = &self.inner;
        let operation = inner.begin()?;
        let mut report = GcReport::default();
        {
            let _alone = Lock::acquire(&inner.layout.locks, GC_LOCK, LockMode::Exclusive)?;
            let needed = self.needed(&operation, &mut report, options)?;
            self.collect_blobs(&needed, &operation, &mut report, options)?;
            self.collect_layers(&needed, &operation, &mut report, options)?;
            self.collect_names(&operation, &mut report, options)?;
        }
        operation.end()?;
        if !options.dry_run {
            self.settle()?;
        }
        Ok(report)
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
        let _alone = Lock::acquire(&inner.layout.locks, GC_LOCK, LockMode::Exclusive)?;
        let needed = self.needed(operation, &mut GcReport::default(), &GcOptions::dry_run())?;
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

    /// What is led to. Sweeps `staging/` on the way, which tells the operations in progress from the dead.
    fn needed(
        &self,
        operation: &Operation,
        report: &mut GcReport,
        options: &GcOptions,
    ) -> Result<Pinned, StoreError> {
        let inner = &self.inner;
        let (live, swept) = inner.staging.sweep(operation.workspace(), options.dry_run)?;
        report.leftovers += swept;
        let mut needed = Pinned::of(&live)?;
        for image in inner.names()?.images() {
            self.need(&image.target, &mut needed)?;
        }
        let views = self.collect_views(&needed, operation, report, options)?;
        for record in inner.container_records()?.into_iter().chain(views) {
            self.need(&record.image.target, &mut needed)?;
            let merged = Stacking::of(&record.stack);
            let keys = record.stack.iter().copied().chain(merged.merged_keys());
            needed.layers.extend(keys.map(|key| key.to_string()));
        }
        Ok(needed)
    }

    /// Adds everything that `target` leads to.
    fn need(&self, target: &Descriptor, needed: &mut Pinned) -> Result<(), StoreError> {
        needed.blobs.extend(self.inner.closure(target)?.iter().map(ToString::to_string));
        needed.layers.extend(self.inner.layer_keys(target)?.iter().map(ToString::to_string));
        Ok(())
    }

    /// Removes views that are not mounted, of images that are no more; returns the others.
    fn collect_views(
        &self,
        needed: &Pinned,
        operation: &Operation,
        report: &mut GcReport,
        options: &GcOptions,
    ) -> Result<Vec<ContainerRecord>, StoreError> {
        let mut kept = Vec::new();
        for view in self.inner.view_records()? {
            // A view by copying is never mounted; it stays while its image does.
            if needed.blobs.contains(&view.image.target.digest.to_string()) || mounted_at(&view.id)?.is_some()
            {
                kept.push(view);
                continue;
            }
            report.leftovers += 1;
            if !options.dry_run {
                operation.workspace().discard(&self.inner.layout.views, &view.id)?;
            }
        }
        Ok(kept)
    }

    fn collect_blobs(
        &self,
        needed: &Pinned,
        operation: &Operation,
        report: &mut GcReport,
        options: &GcOptions,
    ) -> Result<(), StoreError> {
        let blobs = &self.inner.layout.blobs;
        for (digest, size) in blobs.list()? {
            if needed.blobs.contains(&digest.to_string()) {
                continue;
            }
            if !options.dry_run {
                blobs.discard(&digest, operation.workspace())?;
            }
            report.blobs.push(digest);
            report.bytes += size;
        }
        Ok(())
    }

    fn collect_layers(
        &self,
        needed: &Pinned,
        operation: &Operation,
        report: &mut GcReport,
        options: &GcOptions,
    ) -> Result<(), StoreError> {
        let layers = &self.inner.layers;
        for key in layers.list()? {
            if needed.layers.contains(&key.to_string()) {
                continue;
            }
            let bytes = layers.get(key)?.map_or(0, |layer| layer.record.data_bytes);
            // One that is being made is pinned, or its maker is about to find its pins.
            if !options.dry_run && !layers.remove(key, operation.workspace())? {
                continue;
            }
            report.bytes += bytes;
            report.layers.push(key.to_string());
        }
        Ok(())
    }

    /// Removes names of containers that a dead process reserved and never used.
    fn collect_names(
        &self,
        operation: &Operation,
        report: &mut GcReport,
        options: &GcOptions,
    ) -> Result<(), StoreError> {
        let inner = &self.inner;
        let _names = inner.lock_names()?;
        for entry in inner.layout.names.names()? {
            let name = String::from_utf8_lossy(&entry.name).into_owned();
            if inner.container_named(&name)?.is_none() {
                report.leftovers += 1;
                if !options.dry_run {
                    operation.workspace().discard(&inner.layout.names, &name).optional()?;
                }
            }
        }
        Ok(())
    }
}
