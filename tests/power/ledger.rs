//! What the store has promised so far, and how it is held to it.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;

use serde_json::Value;

use crate::common::sha256;
use crate::disk::Disk;

/// Names and containers as they must be.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Ledger {
    /// The image's id by its name; `None` where the operation that gives it was cut short.
    pub names: BTreeMap<String, Option<String>>,
    pub containers: BTreeSet<String>,
}

impl Ledger {
    /// What the store says.
    pub fn of(disk: &Disk) -> Self {
        let mut ledger = Self::default();
        for image in list(disk, "images") {
            let id = image["id"].as_str().unwrap();
            for name in image["names"].as_array().unwrap() {
                ledger.names.insert(name.as_str().unwrap().to_owned(), Some(id.to_owned()));
            }
        }
        for container in list(disk, "ps") {
            ledger.containers.insert(container["name"].as_str().unwrap().to_owned());
        }
        ledger
    }

    /// Whether the store may say `found`, if this is what was promised.
    pub fn allows(&self, found: &Self) -> bool {
        self.containers == found.containers
            && self.names.keys().eq(found.names.keys())
            && self.names.iter().all(|(name, id)| id.is_none() || *id == found.names[name])
    }
}

fn list(disk: &Disk, what: &str) -> Vec<Value> {
    serde_json::from_slice(&disk.must(&[what, "--json"])).unwrap()
}

/// Every image in the store, named or not.
pub fn image_ids(disk: &Disk) -> BTreeSet<String> {
    list(disk, "images").iter().map(|image| image["id"].as_str().unwrap().to_owned()).collect()
}

/// What images showed when they were first looked at, by id.
#[derive(Default)]
pub struct Contents(BTreeMap<String, String>);

impl Contents {
    /// Looks at everything: each blob is what it is called, each image makes a container that shows what it always
    /// showed, each container has a root.
    pub fn check(&mut self, disk: &Disk, ledger: &Ledger) {
        for blob in fs::read_dir(disk.store().join("oci/blobs/sha256")).unwrap() {
            let blob = blob.unwrap();
            assert_eq!(sha256(&fs::read(blob.path()).unwrap()), blob.file_name().to_str().unwrap());
        }
        let ids: BTreeSet<&String> = ledger.names.values().flatten().collect();
        for id in ids {
            disk.must(&["create", "--name", "looked-at", id]);
            let content = sha256(&disk.must(&["export", "looked-at"]));
            disk.must(&["rm", "looked-at"]);
            let before = self.0.entry(id.clone()).or_insert_with(|| content.clone());
            assert_eq!(*before, content, "{id}");
        }
        for container in &ledger.containers {
            disk.must(&["export", container]);
        }
    }
}
