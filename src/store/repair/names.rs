//! `index.json` where it cannot be read: what can be made out of it, and the images that are there.

use std::collections::{BTreeMap, BTreeSet};

use super::{Outcome, Repair};
use crate::blob::BlobError;
use crate::digest::Digest;
use crate::fs::{Kind, Lock, LockMode, Optional};
use crate::image::{Descriptor, Index, ManifestDocument, Reference};
use crate::limits::OWN_LIST_BYTES;
use crate::store::error::StoreError;
use crate::store::image::Document;
use crate::store::layout::DAMAGED_INDEX;
use crate::store::names::{INDEX_FILE, INDEX_LOCK, Named, Names};

/// The names as they are, or as they will be.
pub(super) struct PlannedNames {
    pub(super) images: Vec<Named>,
    /// What is to be written.
    rebuilt: Option<Names>,
    why: String,
}

impl Repair<'_> {
    pub(super) fn plan_names(&self) -> Result<PlannedNames, StoreError> {
        let why = match self.store.inner.names() {
            Ok(names) => {
                return Ok(PlannedNames { images: names.images(), rebuilt: None, why: String::new() });
            }
            Err(error) if is_damage(&error) => error.to_string(),
            Err(error) => return Err(error),
        };
        let layout = self.store.inner.layout.blobs.layout();
        let bytes = layout.find_content(INDEX_FILE, OWN_LIST_BYTES).unwrap_or_default().unwrap_or_default();
        let mut index = Index::new(self.entries(&bytes)?);
        let known: BTreeSet<Digest> = index.manifests.iter().map(|entry| entry.digest).collect();
        index.manifests.extend(self.unlisted(&known)?);
        let names = Names::of(index);
        Ok(PlannedNames { images: names.images(), rebuilt: Some(names), why })
    }

    /// The entries that can be made out in a damaged index, and lead to something.
    fn entries(&self, bytes: &[u8]) -> Result<Vec<Descriptor>, StoreError> {
        let mut found = Vec::new();
        let mut at = 0;
        while let Some(next) = bytes[at..].iter().position(|&byte| byte == b'{') {
            at += next;
            let mut reader = serde_json::Deserializer::from_slice(&bytes[at..]).into_iter::<Descriptor>();
            match reader.next() {
                Some(Ok(entry)) => {
                    at += reader.byte_offset();
                    match self.store.inner.document(&entry) {
                        Ok(_) => found.push(entry),
                        Err(error) if error.is_damage() => {}
                        Err(error) => return Err(error),
                    }
                }
                _ => at += 1,
            }
        }
        Ok(found)
    }

    /// Manifests and indexes among the blobs that are whole, and that neither those in `known` nor another index leads to.
    fn unlisted(&self, known: &BTreeSet<Digest>) -> Result<Vec<Descriptor>, StoreError> {
        let inner = &self.store.inner;
        let limits = &inner.options.limits;
        let mut found: BTreeMap<Digest, Descriptor> = BTreeMap::new();
        let mut listed = known.clone();
        for (digest, size) in inner.layout.blobs.list()? {
            if size > limits.json_bytes {
                continue;
            }
            let bytes = match inner.layout.blobs.read(&digest, limits.json_bytes) {
                Err(BlobError::Io(error)) => return Err(error.into()),
                Err(_) => continue,
                Ok(bytes) => bytes,
            };
            let Ok(document) = ManifestDocument::parse(&bytes, limits) else { continue };
            if let ManifestDocument::Index(index) = &document {
                listed.extend(index.manifests.iter().map(|entry| entry.digest));
            }
            let descriptor = Descriptor::new(document.media_type(), digest, size);
            if self.is_whole(&descriptor)? {
                found.insert(digest, descriptor);
            }
        }
        found.retain(|digest, _| !listed.contains(digest));
        Ok(found.into_values().collect())
    }

    /// Whether everything is there that an image is made of; of an index, one of its images.
    fn is_whole(&self, target: &Descriptor) -> Result<bool, StoreError> {
        let blobs = &self.store.inner.layout.blobs;
        let manifest = match self.store.inner.document(target) {
            Ok(Document::Manifest(manifest)) => manifest,
            Ok(Document::Index(_)) => return self.is_usable(target),
            Err(error) if error.is_damage() => return Ok(false),
            Err(error) => return Err(error),
        };
        for part in manifest.layers.iter().chain([&manifest.config]).filter(|part| part.urls.is_empty()) {
            if blobs.size(&part.digest)? != Some(part.size) {
                return Ok(false);
            }
        }
        self.is_usable(target)
    }

    /// Writes what was planned, and keeps what could not be read.
    pub(super) fn mend_names(&mut self, planned: PlannedNames) -> Result<(), StoreError> {
        let Some(names) = planned.rebuilt else { return Ok(()) };
        let inner = &self.store.inner;
        let layout = inner.layout.blobs.layout();
        let (named, unnamed): (Vec<_>, Vec<_>) =
            planned.images.iter().partition(|image| !image.names.is_empty());
        let named: Vec<String> =
            named.iter().flat_map(|image| &image.names).map(Reference::familiar).collect();
        if !self.options.dry_run {
            let _lock = Lock::acquire(&inner.layout.locks, INDEX_LOCK, LockMode::Exclusive)?;
            match inner.names() {
                Err(error) if is_damage(&error) => {
                    layout.put_aside(INDEX_FILE, Kind::File)?;
                    if layout.find(INDEX_FILE)?.is_some() {
                        inner.layout.root.remove_file(DAMAGED_INDEX).optional()?;
                        layout.hard_link(INDEX_FILE, &inner.layout.root, DAMAGED_INDEX)?;
                    }
                    inner.write_names(&names, self.operation)?;
                }
                // Somebody was faster.
                names => drop(names?),
            }
        }
        let message = format!(
            "was written again ({}): {} could be made out, and {} kept without a name; what it was is in {DAMAGED_INDEX}",
            planned.why,
            if named.is_empty() { "no name".to_owned() } else { named.join(", ") },
            match unnamed.len() {
                1 => "1 image is".to_owned(),
                count => format!("{count} images are"),
            },
        );
        let subject = layout.path_of(INDEX_FILE).display().to_string();
        self.say(Outcome::Mended, "index", subject, message, Vec::new());
        Ok(())
    }
}

/// Whether this says that the names cannot be made out, and not that nothing can be read at present.
fn is_damage(error: &StoreError) -> bool {
    matches!(error, StoreError::Index { .. }) || error.is_damaged_record()
}
