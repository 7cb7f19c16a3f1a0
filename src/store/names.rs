//! The names of images: `oci/index.json`, one descriptor for each tag, and one for each image that is kept without.
//!
//! Invariant 2: a descriptor is added only after everything it leads to is in the store and synced. The file is replaced
//! in one step under a lock, so a reader needs none and another tool sees a true layout at any moment. Each name is
//! written twice: in full as `io.containerd.image.name`, and as people say it (`debian:12`) as
//! `org.opencontainers.image.ref.name`, which is what `skopeo inspect oci:<root>/oci:debian:12` and `umoci ls` look at.

use std::collections::BTreeMap;

use super::Inner;
use super::error::StoreError;
use crate::digest::Digest;
use crate::fs::{Dir, Lock, LockMode};
use crate::image::{CONTAINERD_IMAGE_NAME, Descriptor, Index, OCI_REF_NAME, Reference};
use crate::limits::Limits;

/// An index of nothing, for a new store.
pub(super) const EMPTY_INDEX: &[u8] =
    br#"{"schemaVersion":2,"mediaType":"application/vnd.oci.image.index.v1+json","manifests":[]}"#;

const INDEX_FILE: &str = "index.json";
const INDEX_LOCK: &str = "index";

/// One image of the store with all its names.
#[derive(Clone, Debug)]
pub(super) struct Named {
    /// What the names point at: a manifest or an index of manifests. Without the annotations that hold names.
    pub(super) target: Descriptor,
    /// The names, sorted. None for an image that is kept without.
    pub(super) names: Vec<Reference>,
}

/// A name that was taken from one image and given to another.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct Moved {
    /// The name.
    pub name: Reference,
    /// What it pointed at before.
    pub from: Digest,
}

/// All names of a store, in memory.
#[derive(Debug, Default)]
pub(super) struct Names {
    named: BTreeMap<Reference, Descriptor>,
    unnamed: BTreeMap<Digest, Descriptor>,
    rest: Index,
}

impl Names {
    fn parse(mut index: Index) -> Self {
        let manifests = std::mem::take(&mut index.manifests);
        let mut names = Self { rest: index, ..Self::default() };
        for mut target in manifests {
            // Another tool may have written into the layout; whatever it says, the target is kept.
            let name = Reference::from_annotations(&target.annotations, None);
            target.annotations.remove(OCI_REF_NAME);
            target.annotations.remove(CONTAINERD_IMAGE_NAME);
            match name {
                Some(name) => drop(names.named.insert(name, target)),
                None => drop(names.unnamed.insert(target.digest, target)),
            }
        }
        names
    }

    fn to_index(&self) -> Index {
        let mut index = self.rest.clone();
        for (name, target) in &self.named {
            let mut entry = target.clone();
            entry.annotations.insert(OCI_REF_NAME.to_owned(), name.familiar());
            entry.annotations.insert(CONTAINERD_IMAGE_NAME.to_owned(), name.canonical());
            index.manifests.push(entry);
        }
        index.manifests.extend(self.unnamed.values().cloned());
        index
    }

    /// Every image, in the order of its digest.
    pub(super) fn images(&self) -> Vec<Named> {
        let mut images: BTreeMap<Digest, Named> = BTreeMap::new();
        for (name, target) in &self.named {
            let image = images.entry(target.digest);
            image
                .or_insert_with(|| Named { target: target.clone(), names: Vec::new() })
                .names
                .push(name.clone());
        }
        for (digest, target) in &self.unnamed {
            images.entry(*digest).or_insert_with(|| Named { target: target.clone(), names: Vec::new() });
        }
        images.into_values().collect()
    }

    fn is_named(&self, digest: &Digest) -> bool {
        self.named.values().any(|target| target.digest == *digest)
    }

    /// Keeps `target`, under no name if it has none.
    pub(super) fn keep(&mut self, target: &Descriptor) {
        if !self.is_named(&target.digest) {
            self.unnamed.insert(target.digest, target.clone());
        }
    }

    /// Points `name` at `target`. An image that loses its last name by that is kept without.
    pub(super) fn set(&mut self, name: Reference, target: &Descriptor) -> Option<Moved> {
        let before = self.named.insert(name.clone(), target.clone());
        self.unnamed.remove(&target.digest);
        let before = before.filter(|before| before.digest != target.digest)?;
        self.keep(&before);
        Some(Moved { name, from: before.digest })
    }

    /// Takes `name` away and returns what it pointed at, which is kept without a name if it was the last.
    pub(super) fn unset(&mut self, name: &Reference) -> Option<Descriptor> {
        let target = self.named.remove(name)?;
        self.keep(&target);
        Some(target)
    }

    /// Forgets the image with all its names, which are returned.
    pub(super) fn forget(&mut self, digest: &Digest) -> Vec<Reference> {
        self.unnamed.remove(digest);
        let names: Vec<_> = self
            .named
            .iter()
            .filter(|(_, target)| target.digest == *digest)
            .map(|(name, _)| name.clone())
            .collect();
        for name in &names {
            self.named.remove(name);
        }
        names
    }
}

/// Reads the names in the image layout of a store.
pub(super) fn read(layout: &Dir, limits: &Limits) -> Result<Names, StoreError> {
    // Our own file: its size is not a stranger's claim, so it is held to no limit of a document's.
    let bytes = layout.read(INDEX_FILE, 1 << 30)?;
    let limits = Limits { json_bytes: 1 << 30, json_memory: u64::MAX, images: usize::MAX, ..limits.clone() };
    let index = Index::parse(&bytes, &limits);
    Ok(Names::parse(index.map_err(|source| StoreError::Index { path: layout.path_of(INDEX_FILE), source })?))
}

impl Inner {
    /// Reads the names as they are now.
    pub(super) fn names(&self) -> Result<Names, StoreError> {
        read(self.layout.blobs.layout(), &self.options.limits)
    }

    /// Changes the names in one step that excludes every other change. If `change` fails nothing is written.
    pub(super) fn update_names<T>(
        &self,
        change: impl FnOnce(&mut Names) -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        let operation = self.begin()?;
        let _lock = Lock::acquire(&self.layout.locks, INDEX_LOCK, LockMode::Exclusive)?;
        let mut names = self.names()?;
        let before = names.to_index().to_json();
        let done = change(&mut names)?;
        let after = names.to_index().to_json();
        if after != before {
            let layout = self.layout.blobs.layout();
            operation.workspace().replace(&after, layout, INDEX_FILE, self.options.durability)?;
        }
        operation.end()?;
        Ok(done)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::image::MediaType;

    fn target(content: &[u8]) -> Descriptor {
        Descriptor::of(MediaType::OCI_MANIFEST, content)
    }

    fn name(text: &str) -> Reference {
        Reference::parse_familiar(text).unwrap()
    }

    #[test]
    fn an_image_that_loses_its_last_name_is_kept_without() {
        let (one, two) = (target(b"one"), target(b"two"));
        let mut names = Names::default();
        assert_eq!(names.set(name("a"), &one), None);
        assert_eq!(names.set(name("b"), &one), None);
        assert_eq!(names.set(name("a"), &two), Some(Moved { name: name("a"), from: one.digest }));
        assert_eq!(names.set(name("b"), &two).map(|moved| moved.from), Some(one.digest));
        let images = names.images();
        assert_eq!(images.len(), 2);
        for image in images {
            assert_eq!(image.names.is_empty(), image.target.digest == one.digest);
        }
        assert_eq!(names.set(name("c"), &one), None);
        assert_eq!(names.images().iter().filter(|image| image.names.is_empty()).count(), 0);
        assert_eq!(names.forget(&two.digest), [name("a"), name("b")]);
        assert_eq!(names.unset(&name("c")).map(|target| target.digest), Some(one.digest));
        assert_eq!(names.images().len(), 1);
    }

    #[test]
    fn names_survive_the_file_and_foreign_fields_do_too() {
        let mut names = Names::default();
        names.set(name("debian:12"), &target(b"one"));
        names.set(name("localhost:5000/x"), &target(b"one"));
        names.keep(&target(b"two"));
        let mut index = names.to_index();
        assert_eq!(index.manifests[0].annotations[OCI_REF_NAME], "debian:12");
        assert_eq!(index.manifests[0].annotations[CONTAINERD_IMAGE_NAME], "docker.io/library/debian:12");
        index.annotations.insert("kept".to_owned(), "yes".to_owned());
        let again = Names::parse(index.clone());
        assert_eq!(again.to_index(), index);
    }
}
