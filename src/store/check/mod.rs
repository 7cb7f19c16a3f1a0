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

mod bytes;
mod documents;
mod layers;

use std::collections::{BTreeMap, BTreeSet};

use super::Store;
use super::containers::DamagedContainer;
use super::damage::Damage;
use super::error::StoreError;
use super::names::Named;
use super::operation::Operation;
use crate::container::ContainerRecord;
use crate::digest::Digest;
use crate::image::Reference;

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
    /// Whether an image of this store needs it. What only containers need may be lent.
    by_image: bool,
}

/// Who needs something.
enum Needing<'a> {
    Image(String),
    Container(&'a str),
}

impl std::fmt::Display for Needing<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Image(name) => write!(f, "image {name}"),
            Self::Container(name) => write!(f, "container {name}"),
        }
    }
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
            let digest = || named.target.digest.to_string();
            let name = named.names.first().map_or_else(digest, Reference::familiar);
            self.image(named, &Needing::Image(name))?;
        }
        let containers = self.containers()?;
        for record in &containers {
            let named = Named { target: record.image.target.clone(), names: Vec::new() };
            self.image(named, &Needing::Container(&record.name))?;
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
            if let Err(error) = inner.driver(record.driver)?.writable(&dir)
                && containers.find(&record.id)?.is_some()
            {
                let (id, name) = (record.id.clone(), Some(record.name.clone()));
                self.report.damages.push(Damage::Container { id, name, error: Box::new(error.into()) });
            }
        }
        self.report.containers = records.len() as u64;
        Ok(records)
    }

    /// Looks for what is none of ours.
    fn strangers(&mut self) -> Result<(), StoreError> {
        let strangers = self.store.inner.strangers()?;
        self.report.damages.extend(strangers.into_iter().map(|path| Damage::Stranger { path }));
        Ok(())
    }
}
