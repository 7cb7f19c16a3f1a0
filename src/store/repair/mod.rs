//! [`Store::repair`]: what is wrong is made whole again as far as that can be, and what cannot is said by name.
//!
//! ```text
//! 1  look       containers, names, documents, blobs: what is wrong, and what can be done about it
//! 2  layers     each is made once more; where one differs, the two change places
//! 3  records    index.json, container.json, root.json, names/: what was damaged is kept beside it, as *.damaged; views that
//!               nobody has mounted are taken away, since they are made again when they are wanted
//! 4  images     of which a document is lost: their names are taken away
//! 5  blobs      that are not what their names say: taken away, so that the next load brings them again
//! ```
//!
//! Nothing is decided by what an earlier step has done, so a dry run says the same. Each step leaves the old or the new, is
//! done under the lock of what it changes and looks again under it. Nothing that a container wrote is ever removed. A blob
//! that an operation in progress relies on stays until the next repair.

mod containers;
mod content;
mod layout;
mod names;
mod report;
mod views;

use std::path::Path;
use std::sync::atomic::AtomicBool;

use super::check::{Check, CheckStage, How};
use super::error::StoreError;
use super::layout::Layout;
use super::operation::Operation;
use super::{Store, StoreOptions, open_root};

pub use report::{Outcome, RepairReport, Repaired};

/// How to repair.
#[derive(Clone, Copy, Default)]
#[non_exhaustive]
pub struct RepairOptions<'a> {
    /// Only tell what would be done.
    pub dry_run: bool,
    /// Documents and records only: the bytes of blobs are not read, nor are layers compared.
    pub quick: bool,
    /// Told how far a stage is, of how much in all, by several threads.
    pub progress: Option<&'a (dyn Fn(CheckStage, u64, u64) + Sync)>,
    /// Set by another thread to give up. What was mended until then stays mended.
    pub cancel: Option<&'a AtomicBool>,
}

impl RepairOptions<'_> {
    /// Only tells what would be done.
    pub fn dry_run() -> Self {
        Self { dry_run: true, ..Self::default() }
    }
}

impl std::fmt::Debug for RepairOptions<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { dry_run, quick, .. } = self;
        f.debug_struct("RepairOptions")
            .field("dry_run", dry_run)
            .field("quick", quick)
            .finish_non_exhaustive()
    }
}

impl Store {
    /// Mends what is wrong in the store, and says what was done and what could not be. Others may use the store meanwhile;
    /// what is mounted goes on as it is, and the next mount shows what was mended.
    ///
    /// Of a store that cannot be opened see [`StoreOptions::repair`].
    ///
    /// # Errors
    ///
    /// [`StoreError`] if looking itself is impossible, the disk fails or is full; and [`StoreError::Cancelled`]. What was
    /// mended until then is whole, and the rest is as it was.
    pub fn repair(&self, options: &RepairOptions<'_>) -> Result<RepairReport, StoreError> {
        let operation = self.inner.begin()?;
        let outcome =
            Repair { store: self, operation: &operation, options, report: RepairReport::default() }.run();
        let ended = operation.end();
        let report = outcome?;
        ended?;
        Ok(report)
    }
}

impl StoreOptions {
    /// As [`Store::repair`], also where the store in the directory `path` cannot be opened, because files that make it a
    /// store are missing or damaged: `store.json`, `oci/oci-layout`, directories that hold the rest.
    ///
    /// # Errors
    ///
    /// [`StoreError::NotAStore`] if too little is left to tell that it was one; [`StoreError::UnknownFormat`] if it is of a
    /// newer format. Otherwise as [`Store::repair`].
    pub fn repair(
        &self,
        path: impl AsRef<Path>,
        options: &RepairOptions<'_>,
    ) -> Result<RepairReport, StoreError> {
        let root = open_root(path)?;
        let mut done = Vec::new();
        let layout = Layout::mend(root, options.dry_run, self.durability, &mut done)?;
        let mut report = match layout {
            Some(layout) => Store::new(layout, self.clone())?.repair(options)?,
            None => RepairReport::default(),
        };
        report.repaired.splice(0..0, done);
        Ok(report)
    }
}

/// One repair under way.
struct Repair<'a> {
    store: &'a Store,
    operation: &'a Operation,
    options: &'a RepairOptions<'a>,
    report: RepairReport,
}

impl Repair<'_> {
    fn run(mut self) -> Result<RepairReport, StoreError> {
        let &RepairOptions { dry_run, quick, progress, cancel } = self.options;
        let names = self.plan_names()?;
        let containers = self.plan_containers(&names.images)?;
        let mut check = Check::new(self.store, Some(self.operation), How { deep: !quick, progress, cancel });
        check.also(containers.records());
        check.everything_but_layers(names.images.clone())?;
        let content = self.plan_content(&check.report.damages, &names.images)?;
        if !quick {
            self.layers(&mut check)?;
        }
        self.count(&check.report);
        self.mend_names(names)?;
        self.mend_containers(containers, &check.report.damages)?;
        self.mend_views(&check.report.damages)?;
        self.mend_content(content)?;
        if !dry_run {
            self.report.kept = self.store.inner.sweep_replaced(self.operation.workspace(), false)?.kept;
        }
        Ok(self.report)
    }

    /// Makes layers again, and puts them in the place of those that are not as they should be.
    fn layers(&mut self, check: &mut Check<'_>) -> Result<(), StoreError> {
        let compared = check.compare_layers(!self.options.dry_run)?;
        for (key, wrong) in compared.wrong {
            let why = match wrong.is_untrusted {
                true => "it was cut short, or lost its record".to_owned(),
                false => wrong.differences.join("; "),
            };
            let (outcome, message) = match (wrong.can_be_mended, wrong.lent_by) {
                (_, Some(store)) => {
                    let message =
                        format!("is lent by the store in {store:?}, which has to be repaired itself: {why}");
                    (Outcome::Kept, message)
                }
                (true, None) => (Outcome::Mended, format!("made again: {why}")),
                (false, None) => (Outcome::Lost, format!("cannot be made again: {why}")),
            };
            let needed_by = wrong.needed_by.into_iter().collect();
            self.say(outcome, "layer", key.to_string(), message, needed_by);
        }
        Ok(())
    }
}
