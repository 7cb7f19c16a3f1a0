//! Pruning: containers and images that nobody uses go, as far as they are meant, and with the images what only they needed.
//!
//! What goes is decided before anything does, so a dry run tells exactly what a run would remove. An image is in use if a
//! container was made from it, if it is mounted, or if an operation in progress relies on it; a container is in use if it
//! is mounted, or if a process holds it or stands in it. Names go first and content is collected after that, as ever.

use std::collections::{BTreeMap, HashSet};
use std::sync::atomic::AtomicBool;

use super::build_cache::CachedStep;
use super::container::{Container, ContainerState, RemoveContainer};
use super::error::StoreError;
use super::gc::{GcOptions, GcReport, Without};
use super::image::Image;
use super::names::{Named, Names};
use super::operation::{Operation, Pinned};
use super::{Store, cancel};
use crate::digest::Digest;
use crate::driver::{Processes, RootState};
use crate::fs::Timestamp;
use crate::image::{Reference, time};

/// Which images may be pruned.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[non_exhaustive]
pub enum PruneImages {
    /// None.
    #[default]
    None,
    /// Those without a name.
    Dangling,
    /// All.
    All,
}

/// Asks whether something has a label.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct LabelFilter {
    /// The label.
    pub key: String,
    /// What it has to say; anything, if this is left out.
    pub value: Option<String>,
}

impl LabelFilter {
    /// Asks for the label `key`, which says `value` if there is one.
    pub fn new(key: impl Into<String>, value: Option<String>) -> Self {
        Self { key: key.into(), value }
    }

    /// Whether something has the label that is asked for.
    pub fn is_met_by(&self, labels: &BTreeMap<String, String>) -> bool {
        let said = labels.get(&self.key);
        said.is_some_and(|said| self.value.as_ref().is_none_or(|value| value == said))
    }
}

/// What to prune. The default is nothing. What is in use stays in any case, and so does what other stores lend.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct PruneOptions<'a> {
    /// Only tell what would go.
    pub dry_run: bool,
    /// Whether containers go that are not in use ([`Container::is_in_use`]).
    pub containers: bool,
    /// Which images go.
    pub images: PruneImages,
    /// Whether the build cache goes. Its steps have no labels, and count as made when they were last used.
    pub build_cache: bool,
    /// Only what was made before that time. What does not say when it was made stays.
    pub until: Option<Timestamp>,
    /// Only what has all of these labels.
    pub labels: Vec<LabelFilter>,
    /// Nothing that has one of these labels.
    pub without_labels: Vec<LabelFilter>,
    /// Set by another thread to give up.
    pub cancel: Option<&'a AtomicBool>,
}

impl PruneOptions<'_> {
    /// Containers that are not in use.
    pub fn containers() -> Self {
        Self { containers: true, ..Self::default() }
    }

    /// Images that nobody uses.
    pub fn images(images: PruneImages) -> Self {
        Self { images, ..Self::default() }
    }

    /// Steps of builds.
    pub fn build_cache() -> Self {
        Self { build_cache: true, ..Self::default() }
    }

    fn means(&self, created: Option<&str>, labels: &BTreeMap<String, String>) -> bool {
        self.means_made_at(created.and_then(|created| time::parse(created).ok()), labels)
    }

    fn means_made_at(&self, made: Option<Timestamp>, labels: &BTreeMap<String, String>) -> bool {
        let is_old = |until: &Timestamp| made.is_some_and(|made| made < *until);
        self.until.as_ref().is_none_or(is_old)
            && self.labels.iter().all(|label| label.is_met_by(labels))
            && !self.without_labels.iter().any(|label| label.is_met_by(labels))
    }
}

/// A container that was pruned.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct PrunedContainer {
    /// Its id.
    pub id: String,
    /// Its name.
    pub name: String,
    /// Bytes on disk that were its own.
    pub bytes: u64,
}

/// An image that was pruned.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct PrunedImage {
    /// Its id.
    pub id: Digest,
    /// What its names pointed at.
    pub digest: Digest,
    /// Its names, sorted.
    pub names: Vec<Reference>,
}

/// What was pruned, or would be.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
#[non_exhaustive]
pub struct PruneReport {
    /// Containers, by name.
    pub containers: Vec<PrunedContainer>,
    /// Images, in the order of their digests.
    pub images: Vec<PrunedImage>,
    /// Steps of builds, those that were used last first.
    pub steps: Vec<CachedStep>,
    /// What was collected then: all that nothing leads to, also where no image was pruned. Nothing, if neither images nor
    /// steps were to be.
    pub collected: GcReport,
}

impl PruneReport {
    /// Bytes that were freed.
    pub fn bytes(&self) -> u64 {
        self.containers.iter().map(|container| container.bytes).sum::<u64>() + self.collected.bytes
    }
}

impl Store {
    /// Removes containers, steps of builds and images that nobody uses, as far as `options` mean them, and collects what is
    /// then not needed.
    ///
    /// An image that a container gets while this runs may lose its names; the container keeps what it needs.
    ///
    /// # Errors
    ///
    /// [`StoreError`] if something cannot be read or removed, [`StoreError::Cancelled`]. What was pruned before that is gone; content that is not
    /// needed any more is the next collection's.
    pub fn prune(&self, options: &PruneOptions<'_>) -> Result<PruneReport, StoreError> {
        self.inner.require_writable()?;
        let mut report = PruneReport::default();
        if options.containers {
            let processes = Processes::read();
            for container in self.containers()?.iter() {
                cancel::refuse(options.cancel)?;
                report.containers.extend(prune_container(container, options, &processes)?);
            }
        }
        if options.build_cache {
            report.steps = self.prune_steps(options)?;
        }
        if options.images == PruneImages::None && !options.build_cache {
            return Ok(report);
        }
        let mut without = Without {
            containers: report.containers.iter().map(|container| container.id.clone()).collect(),
            steps: report.steps.iter().map(|step| step.key).collect(),
            ..Without::default()
        };
        report.images = match options.dry_run {
            _ if options.images == PruneImages::None => Vec::new(),
            true => {
                let operation = self.inner.begin()?;
                let pruned = self.prunable(&self.inner.names()?, options, &without, &operation)?;
                operation.end()?;
                pruned
            }
            false => self.prune_images(options, &without)?,
        };
        without.images = report.images.iter().map(|image| image.digest).collect();
        let collect = GcOptions { dry_run: options.dry_run, cancel: options.cancel };
        report.collected = self.collect(&collect, &without)?;
        Ok(report)
    }

    /// Forgets the steps of builds that are meant.
    fn prune_steps(&self, options: &PruneOptions<'_>) -> Result<Vec<CachedStep>, StoreError> {
        let cache = self.build_cache();
        let mut pruned = Vec::new();
        for step in cache.steps()? {
            cancel::refuse(options.cancel)?;
            if options.means_made_at(Some(step.last_used), &BTreeMap::new())
                && (options.dry_run || cache.remove(&step.key)?)
            {
                pruned.push(step);
            }
        }
        Ok(pruned)
    }

    fn prune_images(
        &self,
        options: &PruneOptions<'_>,
        without: &Without,
    ) -> Result<Vec<PrunedImage>, StoreError> {
        let operation = self.inner.begin()?;
        let pruned = self.inner.update_names(|names| {
            // Nobody else changes names now.
            let pruned = self.prunable(names, options, without, &operation)?;
            for image in &pruned {
                names.forget(&image.digest);
            }
            Ok(pruned)
        })?;
        operation.end()?;
        Ok(pruned)
    }

    /// The images that may go if the containers in `without` are gone.
    fn prunable(
        &self,
        names: &Names,
        options: &PruneOptions<'_>,
        without: &Without,
        operation: &Operation,
    ) -> Result<Vec<PrunedImage>, StoreError> {
        let used = self.used_manifests(without, operation)?;
        let mut prunable = Vec::new();
        let all = names.images();
        for named in all.clone() {
            cancel::refuse(options.cancel)?;
            if options.images == PruneImages::Dangling && !named.names.is_empty() {
                continue;
            }
            let Some(image) = self.if_readable(named)? else { continue };
            let none = BTreeMap::new();
            let config = image.config();
            let labels = config.map_or(&none, |config| &config.config.labels);
            if !options.means(config.and_then(|config| config.created.as_deref()), labels) {
                continue;
            }
            if self.is_used(&image, &used)? {
                continue;
            }
            let (id, digest, names) = (image.id(), image.digest(), image.names().to_vec());
            prunable.push(PrunedImage { id, digest, names });
        }
        self.inner.spare_referrers(prunable, &all)
    }

    /// What is damaged may not be what it seems, and stays.
    fn if_readable(&self, named: Named) -> Result<Option<Image>, StoreError> {
        match self.inner.image(named) {
            Ok(image) => Ok(Some(image)),
            Err(error) if error.is_damage() => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Whether the image's own manifest, or that of one of its platforms, is in `used`. A layer may be another's as well.
    fn is_used(&self, image: &Image, used: &HashSet<String>) -> Result<bool, StoreError> {
        let mut is_used = false;
        self.inner.walk(image.target(), |document, _| {
            is_used |= used.contains(&document.digest.to_string());
            Ok(())
        })?;
        Ok(is_used)
    }

    /// Digests of the manifests that containers, mounts and operations in progress stand on; with those operations,
    /// of everything else that they rely on.
    fn used_manifests(
        &self,
        without: &Without,
        operation: &Operation,
    ) -> Result<HashSet<String>, StoreError> {
        let inner = &self.inner;
        let (live, _) = inner.staging.sweep(operation.workspace(), true)?;
        let mut used = Pinned::of(&live)?.blobs;
        for record in inner.container_records()? {
            if !without.containers.contains(&record.id) {
                used.insert(record.image.target.digest.to_string());
            }
        }
        let (views, damaged) = inner.sorted_views()?;
        for view in views {
            if matches!(inner.view_state(&view.id)?, RootState::Mounted(_)) {
                used.insert(view.image.target.digest.to_string());
            }
        }
        used.extend(damaged.iter().filter(|view| view.is_mounted).map(|view| view.image.to_string()));
        Ok(used)
    }
}

/// Removes a container if it is meant and not in use.
fn prune_container(
    container: &Container,
    options: &PruneOptions<'_>,
    processes: &Processes,
) -> Result<Option<PrunedContainer>, StoreError> {
    if !options.means(container.created(), container.labels())
        || container.state()? != ContainerState::Created
        || container.is_held(processes)?
    {
        return Ok(None);
    }
    let bytes = container.size()?;
    let pruned = PrunedContainer { id: container.id().to_owned(), name: container.name().to_owned(), bytes };
    if options.dry_run {
        return Ok(Some(pruned));
    }
    match container.clone().remove(RemoveContainer::Refuse) {
        // Somebody else was faster.
        Err(StoreError::Mounted { .. } | StoreError::InUse { .. } | StoreError::NotFound { .. }) => Ok(None),
        done => done.map(|()| Some(pruned)),
    }
}
