//! The names of images: `oci/index.json`, one descriptor for each tag, and one for each image that is kept without.
//!
//! Invariant 2: a descriptor is added only after everything it leads to is in the store and synced. The file is replaced
//! in one step under a lock, so a reader needs none and another tool sees a true layout at any moment. Each name is
//! written twice: in full as `io.containerd.image.name`, and as people say it (`debian:12`) as
//! `org.opencontainers.image.ref.name`, which is what `skopeo inspect oci:<root>/oci:debian:12` and `umoci ls` look at.
//!
//! A name with a digest always has the digest of its descriptor. A pull by digest leaves such a name (`debian@sha256:…`),
//! which keeps the image as a tag does.

use std::collections::BTreeSet;

use super::Inner;
use super::error::StoreError;
use super::index_file::{IndexFile, Line};
use super::operation::Operation;
use crate::digest::Digest;
use crate::fs::{Context, Dir, Durability, Lock, LockMode};
use crate::image::{Descriptor, Index, Reference};
use crate::limits::{Limits, OWN_LIST_BYTES};

/// An index of nothing, for a new store.
pub(super) const EMPTY_INDEX: &[u8] =
    br#"{"schemaVersion":2,"mediaType":"application/vnd.oci.image.index.v1+json","manifests":[]}"#;

pub(super) const INDEX_FILE: &str = "index.json";
pub(super) const INDEX_LOCK: &str = "index";

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
#[derive(Debug)]
pub(super) struct Names {
    file: IndexFile,
    changed: bool,
}

impl Default for Names {
    fn default() -> Self {
        Self::new(IndexFile::of(Index::default()))
    }
}

impl Names {
    /// What `index` lists.
    pub(super) fn of(index: Index) -> Self {
        Self::new(IndexFile::of(index))
    }

    fn new(file: IndexFile) -> Self {
        Self { file, changed: false }
    }

    /// The image of a name.
    pub(super) fn find(&self, name: &Reference) -> Option<Named> {
        self.file.find(name).map(|line| self.named(line))
    }

    /// The image whose names point at this manifest or index.
    pub(super) fn with_digest(&self, digest: &Digest) -> Option<Named> {
        self.images_if(|other| other == digest).pop()
    }

    /// Whether there is an image whose names, if it has any, point at this manifest or index.
    pub(super) fn has(&self, digest: &Digest) -> bool {
        self.file.is_unnamed(digest) || self.is_named(digest)
    }

    /// Whether something has this name.
    pub(super) fn has_name(&self, name: &Reference) -> bool {
        self.file.find(name).is_some()
    }

    /// Returns the images that have a name in the repository of `name`, in the order of their names: tags before digests.
    pub(super) fn in_repository(&self, name: &Reference) -> Vec<Named> {
        let (mut seen, mut found) = (BTreeSet::new(), Vec::new());
        for sign in [':', '@'] {
            let prefix = format!("{}{sign}", name.repository());
            let lines = self.file.named_from(&prefix);
            found.extend(lines.filter(|line| seen.insert(line.digest)).map(|line| self.named(line)));
        }
        found
    }

    /// Every image, in the order of its digest.
    pub(super) fn images(&self) -> Vec<Named> {
        self.images_if(|_| true)
    }

    /// The images with these digests that there are, in the order of their digests.
    pub(super) fn with_digests(&self, digests: &BTreeSet<Digest>) -> Vec<Named> {
        self.images_if(|digest| digests.contains(digest))
    }

    fn images_if(&self, is_meant: impl Fn(&Digest) -> bool) -> Vec<Named> {
        let mut lines: Vec<&Line> = self.file.lines().filter(|line| is_meant(&line.digest)).collect();
        lines.sort_by_key(|line| line.digest);
        lines.chunk_by(|one, other| one.digest == other.digest).map(|lines| self.together(lines)).collect()
    }

    /// What the names of every image point at, in the order of its digest.
    pub(super) fn targets(&self) -> Vec<Descriptor> {
        let mut lines: Vec<&Line> = self.file.lines().collect();
        lines.sort_by_key(|line| line.digest);
        lines.dedup_by_key(|line| line.digest);
        lines.into_iter().map(|line| self.file.target(line)).collect()
    }

    /// Every name, sorted.
    pub(super) fn all(&self) -> Vec<Reference> {
        let mut names: Vec<_> = self.file.lines().filter_map(|line| self.file.name(line)).collect();
        names.sort_unstable();
        names
    }

    /// The image of a line, with all its names.
    fn named(&self, line: &Line) -> Named {
        self.with_digest(&line.digest).expect("it is the image of a line")
    }

    /// One image of all its lines.
    fn together(&self, lines: &[&Line]) -> Named {
        let mut names: Vec<_> = lines.iter().filter_map(|line| self.file.name(line)).collect();
        names.sort_unstable();
        Named { target: self.file.target(lines[0]), names }
    }

    /// Returns the number of entries and of bytes that the list has when it is written.
    fn extent(&self) -> (u64, u64) {
        (self.file.lines().count() as u64, self.file.bytes())
    }

    fn is_named(&self, digest: &Digest) -> bool {
        self.file.named_from("").any(|line| line.digest == *digest)
    }

    /// Keeps `target`, under no name if it has none.
    pub(super) fn keep(&mut self, target: &Descriptor) {
        if !self.has(&target.digest) {
            self.file.keep(target);
            self.changed = true;
        }
    }

    /// Points `name`, whose digest is that of `target` if it has one, at `target`. An image that loses its last name by that is kept without.
    pub(super) fn set(&mut self, name: Reference, target: &Descriptor) -> Option<Moved> {
        let before = self.file.find(&name).map(|line| self.file.target(line));
        if before.as_ref() == Some(target) && !self.file.is_unnamed(&target.digest) {
            return None;
        }
        self.file.set(&name, target);
        self.file.drop_unnamed(&target.digest);
        self.changed = true;
        let before = before.filter(|before| before.digest != target.digest)?;
        self.keep(&before);
        Some(Moved { name, from: before.digest })
    }

    /// Takes `name` away and returns what it pointed at, which is kept without a name if it was the last.
    pub(super) fn unset(&mut self, name: &Reference) -> Option<Descriptor> {
        let target = self.file.find(name).map(|line| self.file.target(line))?;
        self.file.unset(name);
        self.changed = true;
        self.keep(&target);
        Some(target)
    }

    /// Forgets the image with all its names, which are returned.
    pub(super) fn forget(&mut self, digest: &Digest) -> Vec<Reference> {
        let Some(Named { names, .. }) = self.with_digest(digest) else { return Vec::new() };
        self.file.forget(digest);
        self.changed = true;
        names
    }
}

/// Reads the names in the image layout of a store.
pub(super) fn read(layout: &Dir, limits: &Limits) -> Result<Names, StoreError> {
    let bytes = layout.read(INDEX_FILE, OWN_LIST_BYTES)?;
    let file = IndexFile::read(bytes, &limits.for_own_list());
    file.map(Names::new).map_err(|source| StoreError::Index { path: layout.path_of(INDEX_FILE), source })
}

impl Inner {
    /// Reads the names as they are now.
    pub(super) fn names(&self) -> Result<Names, StoreError> {
        read(self.layout.blobs.layout(), &self.options.limits)
    }

    /// Changes the names in one step that excludes every other change. If `change` fails, or would make the list longer than
    /// the limits allow, nothing is written.
    pub(super) fn update_names<T>(
        &self,
        change: impl FnOnce(&mut Names) -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        let operation = self.begin()?;
        let _lock = Lock::acquire(&self.layout.locks, INDEX_LOCK, LockMode::Exclusive)?;
        let mut names = self.names()?;
        let before = names.extent();
        let done = change(&mut names)?;
        self.check_extent(before, names.extent())?;
        match (names.changed, self.options.durability) {
            (true, _) => self.write_names(&names, &operation)?,
            (false, Durability::Full) => self.sync_names()?,
            (false, Durability::Relaxed) => {}
        }
        operation.end()?;
        Ok(done)
    }

    /// Refuses a list that grows beyond a limit. One that is beyond it already may become shorter.
    fn check_extent(&self, before: (u64, u64), after: (u64, u64)) -> Result<(), StoreError> {
        let (images, list_bytes) = self.options.limits.of_own_list();
        let grown = [("images", before.0, after.0, images), ("list_bytes", before.1, after.1, list_bytes)];
        match grown.into_iter().find(|(_, before, after, maximum)| after > maximum && after > before) {
            Some((limit, _, found, maximum)) => {
                let path = self.layout.blobs.layout().path_of(INDEX_FILE);
                Err(StoreError::TooManyNames { path, found, limit, maximum })
            }
            None => Ok(()),
        }
    }

    /// Waits until the names that can be read now are on disk: whoever wrote them may have died before that, or not have
    /// meant to wait.
    pub(super) fn sync_names(&self) -> Result<(), StoreError> {
        let layout = self.layout.blobs.layout();
        layout.open_file(INDEX_FILE)?.sync_all().at_path("sync", || layout.path_of(INDEX_FILE))?;
        Ok(layout.sync()?)
    }

    /// Replaces the file. The caller holds the lock on names.
    pub(super) fn write_names(&self, names: &Names, operation: &Operation) -> Result<(), StoreError> {
        let (json, layout) = (names.file.to_json(), self.layout.blobs.layout());
        let (work, durability) = (operation.workspace(), self.options.durability);
        // To name less must be possible on a full disk, or it stays full.
        match layout.find(INDEX_FILE)?.is_some_and(|old| (json.len() as u64) < old.size) {
            true => work.replace_at_any_price(&json, layout, INDEX_FILE, durability)?,
            false => work.replace(&json, layout, INDEX_FILE, durability)?,
        }
        Ok(())
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
    fn what_changes_nothing_writes_nothing() {
        let mut names = Names::default();
        names.set(name("a"), &target(b"one"));
        names.keep(&target(b"two"));
        names.changed = false;
        assert_eq!(names.set(name("a"), &target(b"one")), None);
        names.keep(&target(b"one"));
        names.keep(&target(b"two"));
        assert_eq!(names.unset(&name("b")), None);
        assert_eq!(names.forget(&Digest::of(b"three")), []);
        assert!(!names.changed);
    }

    #[test]
    fn an_image_is_found_by_what_it_is_called_and_by_its_repository() {
        let (one, two) = (target(b"one"), target(b"two"));
        let mut names = Names::default();
        for (text, target) in [("x/a:1", &one), ("x/a:2", &two), ("x/a-b:1", &two), ("x/a", &one)] {
            names.set(name(text), target);
        }
        let found = names.find(&name("x/a:2")).unwrap();
        assert_eq!((found.target.digest, found.names), (two.digest, vec![name("x/a:2"), name("x/a-b:1")]));
        assert!(names.find(&name("x/b")).is_none());
        let digests = |text| -> Vec<_> {
            names.in_repository(&name(text)).iter().map(|named| named.target.digest).collect()
        };
        assert_eq!(digests("x/a:other"), [one.digest, two.digest]);
        assert_eq!(digests("x/a-b"), [two.digest]);
        assert!(digests("x").is_empty());
        assert_eq!((names.targets().len(), names.all().len()), (2, 4));
        assert!(names.has(&one.digest) && !names.has(&Digest::of(b"three")));
    }
}
