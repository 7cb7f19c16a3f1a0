//! The documents of images: each is read once, and what they need is noted with those who need it.

use std::collections::BTreeSet;

use super::{Check, Needing, Readable};
use crate::blob::{BlobError, BlobSource};
use crate::digest::Digest;
use crate::image::Descriptor;
use crate::store::damage::Damage;
use crate::store::error::StoreError;
use crate::store::image::Document;
use crate::store::names::Named;

impl Check<'_> {
    /// Reads every document of an image and notes what it needs; whether all can be read.
    pub(super) fn image(&mut self, named: Named, needing: &Needing<'_>) -> Result<bool, StoreError> {
        let is_known =
            self.blobs.contains_key(&named.target.digest) || self.damaged.contains_key(&named.target.digest);
        self.report.images += u64::from(!is_known);
        let inner = &self.store.inner;
        let label = needing.to_string();
        let lacking = |error| match needing {
            Needing::Image(_) | Needing::Step(_) => error,
            Needing::Container(name) => inner.lacking(name, error),
        };
        let mut whole = true;
        let mut open = vec![(named.target.clone(), inner.options.limits.index_depth)];
        while let Some((descriptor, depth)) = open.pop() {
            self.refuse_cancelled()?;
            self.pin([&descriptor.digest])?;
            let document = match inner.document(&descriptor) {
                // An index keeps its entries for platforms that were never loaded.
                Err(StoreError::Blob(BlobError::Missing { .. }))
                    if descriptor.digest != named.target.digest =>
                {
                    continue;
                }
                Err(error) if error.says_damage() => {
                    self.damage(descriptor.digest, lacking(error), &label);
                    whole = false;
                    continue;
                }
                document => document?,
            };
            self.need(&descriptor, needing);
            match document {
                Document::Index(index) if depth > 0 => {
                    open.extend(index.manifests.into_iter().map(|entry| (entry, depth - 1)));
                }
                Document::Index(_) => {}
                Document::Manifest(manifest) => {
                    let parts = || manifest.layers.iter().chain([&manifest.config]);
                    self.pin(parts().map(|part| &part.digest))?;
                    // What must not be passed on may be absent.
                    for part in parts().filter(|part| part.urls.is_empty()) {
                        self.need(part, needing);
                    }
                    if manifest.is_image()
                        && let Err(error) = inner.config(&manifest)
                    {
                        if !error.says_damage() {
                            return Err(error);
                        }
                        self.blobs.remove(&manifest.config.digest);
                        self.damage(manifest.config.digest, lacking(error), &label);
                        whole = false;
                    }
                }
            }
        }
        if whole {
            self.readable.push(Readable { named, label });
        }
        Ok(whole)
    }

    pub(super) fn need(&mut self, descriptor: &Descriptor, needing: &Needing<'_>) {
        let needed = self.blobs.entry(descriptor.digest).or_default();
        needed.size = descriptor.size;
        needed.by.insert(needing.to_string());
        needed.by_image |= matches!(needing, Needing::Image(_));
    }

    pub(super) fn damage(&mut self, digest: Digest, error: StoreError, label: &str) {
        self.damaged.entry(digest).or_insert_with(|| (error, BTreeSet::new())).1.insert(label.to_owned());
    }

    pub(super) fn needed_by(&self, digest: &Digest) -> Vec<String> {
        self.blobs.get(digest).map_or_else(Vec::new, |needed| needed.by.iter().cloned().collect())
    }

    /// Holds every blob that is needed against the size that it should have.
    pub(super) fn sizes(&mut self) -> Result<(), StoreError> {
        let blobs = &self.store.inner.layout.blobs;
        for (&digest, needed) in &self.blobs {
            let needed_by = || needed.by.iter().cloned().collect();
            let expected = needed.size;
            let size = match needed.by_image {
                true => blobs.size(&digest)?,
                false => self.store.inner.content().size(&digest)?,
            };
            match size {
                Some(found) if found == expected => {}
                Some(found) => {
                    let needed_by = needed_by();
                    self.report.damages.push(Damage::BlobSize { digest, expected, found, needed_by });
                }
                None => self.report.damages.push(Damage::BlobMissing { digest, needed_by: needed_by() }),
            }
        }
        self.report.blobs = blobs.list()?.len() as u64;
        Ok(())
    }
}
