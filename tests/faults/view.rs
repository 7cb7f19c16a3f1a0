//! What a store holds, in a form that two stores can be compared by.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use plywood::fs::Durability;
use plywood::store::CheckOptions;
use plywood::{Parallelism, Store};

use crate::common::sha256;

/// Everything that an operation may change, content included.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct View {
    /// The digest of the image behind each name.
    names: BTreeMap<String, String>,
    /// Images without a name.
    unnamed: BTreeSet<String>,
    /// The manifest of each container and what its root holds.
    containers: BTreeMap<String, (String, String)>,
    /// What was saved outside.
    saved: Option<String>,
}

impl View {
    /// Looks at everything, and at every byte.
    pub fn of(store: &Path, saved: &Path) -> Self {
        let store = open(store);
        let mut view = Self {
            names: BTreeMap::new(),
            unnamed: BTreeSet::new(),
            containers: BTreeMap::new(),
            saved: std::fs::read(saved).ok().map(|bytes| sha256(&bytes)),
        };
        for image in &store.images().unwrap() {
            let digest = image.digest().to_string();
            view.names.extend(image.names().iter().map(|name| (name.familiar(), digest.clone())));
            if image.names().is_empty() {
                view.unnamed.insert(digest);
            }
        }
        for container in store.containers().unwrap() {
            let mut tar = Vec::new();
            container.export(&mut tar, &Default::default()).unwrap();
            let image = container.manifest_digest().to_string();
            view.containers.insert(container.name().to_owned(), (image, sha256(&tar)));
            // It is found by its name, too.
            assert_eq!(store.container(container.name()).unwrap().id(), container.id());
        }
        let mut deep = CheckOptions::default();
        deep.deep = true;
        let report = store.check(&deep).unwrap();
        assert!(report.damages.is_empty(), "{:#?}", report.damages);
        view
    }

    #[track_caller]
    pub fn assert_same(&self, expected: &Self, what: &str) {
        assert_eq!(self, expected, "{what}");
    }
}

/// The store, for looking at it.
pub fn open(path: &Path) -> Store {
    let options = Store::options().durability(Durability::Relaxed).parallelism(Parallelism::SERIAL);
    options.open(path).unwrap()
}
