//! [`Store::check`]: whether everything is there and as it should be.
//!
//! Checking only looks. It never stops at the first thing that is wrong, and whatever it finds is said with the names of
//! those who need it. What can be made again, an unpacked layer that was lost with the last boot, is not wrong; what
//! nobody needs is not missed.
//!
//! - *Quick*: every document is read, every blob that is needed is there in its size, every record can be read, every layer
//!   has as many names and bytes as its record says, and nothing lies in the store that does not belong there. Costs as much
//!   as the store has images and names of files.
//! - *Deep*: also every byte. Blobs are hashed, and each layer is compared with its blob as that is read. Costs as much as
//!   the store has bytes.
//!
//! Nothing is written, not even pins: a check needs no free block or inode, and works where nothing can be written. What is
//! removed by others while it looks is no damage.
//!
//! What a check cannot look at (permissions, memory, open files) is an error of the check and no damage. A file of the store
//! that the disk cannot read is damage.

mod bytes;
mod compare;
mod documents;
mod layers;

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::sync::atomic::AtomicBool;

use super::build_cache::{Step, StepKey};
use super::containers::DamagedContainer;
use super::damage::Damage;
use super::error::StoreError;
use super::names::Named;
use super::operation::Operation;
use super::records::{check_name, is_id};
use super::view::DamagedView;
use super::{Store, cancel};
use crate::container::ContainerRecord;
use crate::digest::Digest;
use crate::fs::{Kind, Optional};
use crate::image::Reference;
use crate::layer::LayerKey;

/// Differences of one layer that are told.
const MOST_DIFFERENCES: usize = 20;

/// What a check is at.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum CheckStage {
    /// Reading documents and records; counted in images and containers.
    Documents,
    /// Hashing blobs; counted in bytes.
    Blobs,
    /// Comparing layers with their blobs; counted in bytes of these.
    Layers,
}

/// Told how far a stage is, of how much in all, by several threads.
pub(super) type Told<'a> = Option<&'a (dyn Fn(CheckStage, u64, u64) + Sync)>;

/// How to check.
#[derive(Clone, Copy, Default)]
#[non_exhaustive]
pub struct CheckOptions<'a> {
    /// Every byte, and not only whether it is there.
    pub deep: bool,
    /// Told how far a stage is, of how much in all, by several threads.
    pub progress: Option<&'a (dyn Fn(CheckStage, u64, u64) + Sync)>,
    /// Set by another thread to give up.
    pub cancel: Option<&'a AtomicBool>,
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
    /// Images, those that only containers or steps of builds use included.
    pub images: u64,
    /// Blobs.
    pub blobs: u64,
    /// Layers that were unpacked.
    pub layers: u64,
    /// Layers that were compared with what their blobs say, also those of other stores that containers stand on.
    pub compared: u64,
    /// Containers.
    pub containers: u64,
    /// What lies in the store and is nobody's any more: work that dead processes left, layers that were replaced, names of
    /// containers that are gone. That is no damage, and [`Store::gc`] takes it away.
    pub leftovers: Vec<PathBuf>,
    /// What could not be looked at, and why.
    pub skipped: Vec<String>,
}

impl Store {
    /// Looks whether everything in the store is there and as it should be, and changes nothing. Others may use the store
    /// meanwhile.
    ///
    /// # Errors
    ///
    /// [`StoreError`] only if looking itself is impossible: the names cannot be read, this process may not read something, or
    /// lacks memory or open files; and [`StoreError::Cancelled`].
    pub fn check(&self, options: &CheckOptions<'_>) -> Result<CheckReport, StoreError> {
        let how = How { deep: options.deep, progress: options.progress, cancel: options.cancel };
        Check::new(self, None, how).run()
    }
}

/// How a check goes about it.
#[derive(Clone, Copy, Default)]
pub(super) struct How<'a> {
    pub(super) deep: bool,
    pub(super) progress: Told<'a>,
    pub(super) cancel: Option<&'a AtomicBool>,
}

/// A blob that somebody needs.
#[derive(Debug, Default)]
struct Needed {
    /// The size that it should have.
    size: u64,
    by: BTreeSet<String>,
    /// Whether an image of this store needs it. What only containers need may be lent.
    by_image: bool,
}

/// Who needs something.
enum Needing<'a> {
    Image(String),
    Container(&'a str),
    Step(StepKey),
}

impl std::fmt::Display for Needing<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Image(name) => write!(f, "image {name}"),
            Self::Container(name) => write!(f, "container {name}"),
            Self::Step(key) => write!(f, "step of a build {key}"),
        }
    }
}

/// Who needs something, to see whether that is still there.
#[derive(Debug)]
enum Origin {
    Image(Digest),
    Container(String),
    Step(StepKey),
}

/// An image of which every document could be read.
struct Readable {
    named: Named,
    label: String,
}

/// One check under way.
pub(super) struct Check<'a> {
    store: &'a Store,
    /// Keeps what a repair looks at; a check keeps nothing.
    operation: Option<&'a Operation>,
    deep: bool,
    progress: Told<'a>,
    cancel: Option<&'a AtomicBool>,
    pub(super) report: CheckReport,
    blobs: BTreeMap<Digest, Needed>,
    /// Documents that were found damaged, so that each is told once.
    damaged: BTreeMap<Digest, (StoreError, BTreeSet<String>)>,
    readable: Vec<Readable>,
    /// Containers whose image cannot be read.
    orphaned: Vec<ContainerRecord>,
    /// Who needs something, by what that is called.
    needing: BTreeMap<String, Origin>,
    damaged_layers: BTreeMap<LayerKey, layers::Wrong>,
    /// Containers that are known though their records are not there.
    more: Vec<ContainerRecord>,
}

impl<'a> Check<'a> {
    pub(super) fn new(store: &'a Store, operation: Option<&'a Operation>, how: How<'a>) -> Self {
        let report = CheckReport::default();
        let How { deep, progress, cancel } = how;
        Self {
            store,
            operation,
            deep,
            progress,
            cancel,
            report,
            blobs: BTreeMap::new(),
            damaged: BTreeMap::new(),
            readable: Vec::new(),
            orphaned: Vec::new(),
            needing: BTreeMap::new(),
            damaged_layers: BTreeMap::new(),
            more: Vec::new(),
        }
    }

    /// Looks also at what these containers need, whose records are not there.
    pub(super) fn also(&mut self, containers: Vec<ContainerRecord>) {
        self.more = containers;
    }

    fn run(mut self) -> Result<CheckReport, StoreError> {
        let images = self.store.inner.names()?.images();
        self.everything_but_layers(images)?;
        self.layers()?;
        self.forget_what_went()?;
        Ok(self.report)
    }

    /// Leaves out what somebody removed while the check looked: a missing document or blob is damage only if something needs
    /// it still.
    fn forget_what_went(&mut self) -> Result<(), StoreError> {
        let is_about_content = |damage: &Damage| {
            matches!(
                damage,
                Damage::Document { .. }
                    | Damage::BlobMissing { .. }
                    | Damage::BlobSize { .. }
                    | Damage::BlobUnreadable { .. }
            )
        };
        if !self.report.damages.iter().any(is_about_content) {
            return Ok(());
        }
        let inner = &self.store.inner;
        let names = inner.names()?;
        let steps: BTreeSet<StepKey> = inner.steps()?.into_iter().map(|step| step.key).collect();
        let mut there = BTreeSet::new();
        for (label, needing) in &self.needing {
            let is_there = match needing {
                Origin::Image(target) => names.has(target),
                Origin::Container(id) => inner.layout.containers.find(id)?.is_some(),
                Origin::Step(key) => steps.contains(key),
            };
            if is_there {
                there.insert(label.as_str());
            }
        }
        self.report.damages.retain(|damage| {
            let needed_by = damage.needed_by();
            !is_about_content(damage)
                || needed_by.is_empty()
                || needed_by.iter().any(|label| there.contains(label.as_str()))
        });
        Ok(())
    }

    /// Looks at `images`, at the containers, at all that these need, and at what lies beside it.
    pub(super) fn everything_but_layers(&mut self, images: Vec<Named>) -> Result<(), StoreError> {
        let mut containers = self.containers()?;
        containers.append(&mut self.more);
        let steps = self.store.inner.steps()?;
        let all = (images.len() + containers.len() + steps.len()) as u64;
        let mut done = 0;
        for named in images {
            self.tell(CheckStage::Documents, done, all);
            let digest = || named.target.digest.to_string();
            let name = named.names.first().map_or_else(digest, Reference::familiar);
            let needing = Needing::Image(name);
            self.needing.insert(needing.to_string(), Origin::Image(named.target.digest));
            self.image(named, &needing)?;
            done += 1;
        }
        for record in containers {
            self.tell(CheckStage::Documents, done, all);
            let named = Named { target: record.image.target.clone(), names: Vec::new() };
            let needing = Needing::Container(&record.name);
            self.needing.insert(needing.to_string(), Origin::Container(record.id.clone()));
            if !self.image(named, &needing)? {
                self.orphaned.push(record);
            }
            done += 1;
        }
        for Step { key, target, .. } in steps {
            self.tell(CheckStage::Documents, done, all);
            if let Some(target) = target {
                let needing = Needing::Step(key);
                self.needing.insert(needing.to_string(), Origin::Step(key));
                self.image(Named { target, names: Vec::new() }, &needing)?;
            }
            done += 1;
        }
        self.tell(CheckStage::Documents, all, all);
        let damaged = std::mem::take(&mut self.damaged);
        self.report.damages.extend(damaged.into_iter().map(|(digest, (error, by))| Damage::Document {
            digest,
            error: Box::new(error),
            needed_by: by.into_iter().collect(),
        }));
        self.sizes()?;
        let (_, views) = self.store.inner.sorted_views()?;
        self.report.damages.extend(views.into_iter().map(|DamagedView { id, is_mounted, error, .. }| {
            Damage::View { id, is_mounted, error: Box::new(error) }
        }));
        self.strangers()?;
        self.leftovers()?;
        self.report.layers = self.store.inner.layers.list()?.len() as u64;
        if self.deep {
            self.bytes()?;
        }
        Ok(())
    }

    fn tell(&self, stage: CheckStage, done: u64, all: u64) {
        if let Some(told) = self.progress {
            told(stage, done, all);
        }
    }

    fn refuse_cancelled(&self) -> Result<(), StoreError> {
        cancel::refuse(self.cancel)
    }

    fn pin<'d>(&self, digests: impl IntoIterator<Item = &'d Digest>) -> Result<(), StoreError> {
        match self.operation {
            Some(operation) => Ok(operation.pin_blobs(digests)?),
            None => Ok(()),
        }
    }

    /// Reads the records of all containers, and what their drivers know of them.
    fn containers(&mut self) -> Result<Vec<ContainerRecord>, StoreError> {
        let inner = &self.store.inner;
        let containers = &inner.layout.containers;
        let (records, damaged) = inner.sorted_containers()?;
        for DamagedContainer { id, name, error } in damaged {
            self.report.damages.push(Damage::Container { id, name, error: Box::new(error) });
        }
        for record in &records {
            let Some(dir) = containers.find_dir(&record.id)? else { continue };
            let root = inner.driver(record.driver).and_then(|driver| Ok(driver.writable(&dir).map(drop)?));
            let here = || containers.find(&record.id).map(|found| found.is_some());
            if let Err(error) = root
                && here()?
            {
                let (id, name) = (record.id.clone(), Some(record.name.clone()));
                self.report.damages.push(Damage::Container { id, name, error: Box::new(error) });
            }
            let led_to = inner.layout.names.find_content(&record.name, 4096).fitting()?.flatten();
            let found = led_to.map(|id| String::from_utf8_lossy(&id).into_owned());
            // It may have been renamed or removed just now.
            if found.as_ref() != Some(&record.id)
                && inner.container_with_id(&record.id)?.is_some_and(|now| now.name == record.name)
            {
                let (id, name) = (record.id.clone(), record.name.clone());
                self.report.damages.push(Damage::ContainerName { id, name, found });
            }
        }
        self.report.containers = records.len() as u64;
        Ok(records)
    }

    /// Looks for what is nobody's any more.
    fn leftovers(&mut self) -> Result<(), StoreError> {
        let inner = &self.store.inner;
        let layout = &inner.layout;
        let mut left = Vec::new();
        for name in inner.staging.abandoned()? {
            left.push(layout.staging.path_of(OsStr::from_bytes(&name)));
        }
        for replaced in inner.layers.replaced()? {
            left.push(layout.layers.path_of(&replaced.name));
        }
        for entry in layout.names.names()? {
            let name = String::from_utf8_lossy(&entry.name).into_owned();
            // What is no name is a stranger.
            if check_name(&name).is_err() || !layout.names.is_of_kind(&entry, Kind::File)? {
                continue;
            }
            let id = layout.names.find_content(&name, 4096).fitting()?.flatten().unwrap_or_default();
            let id = String::from_utf8_lossy(&id).into_owned();
            if !is_id(&id) || layout.containers.find(&id)?.is_none() {
                left.push(layout.names.path_of(&name));
            }
        }
        self.report.leftovers = left;
        Ok(())
    }

    /// Looks for what is none of ours.
    fn strangers(&mut self) -> Result<(), StoreError> {
        let strangers = self.store.inner.strangers()?;
        self.report.damages.extend(strangers.into_iter().map(|path| Damage::Stranger { path }));
        Ok(())
    }
}
