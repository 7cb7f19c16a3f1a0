//! Blobs that are not what their names say, and images that have lost a document.

use std::io::Read;

use super::{Outcome, Repair};
use crate::blob::BlobError;
use crate::digest::{Digest, Hasher};
use crate::fs::{Context, Lock, LockMode, Stat};
use crate::image::{Descriptor, Reference};
use crate::store::damage::{Chain, Damage};
use crate::store::error::StoreError;
use crate::store::image::Document;
use crate::store::names::Named;
use crate::store::operation::{GC_LOCK, Pinned};

/// What is lost.
pub(super) struct PlannedContent {
    blobs: Vec<BadBlob>,
    images: Vec<Named>,
}

/// A blob that is not there, or not what it should be.
struct BadBlob {
    digest: Digest,
    why: String,
    needed_by: Vec<String>,
    is_there: bool,
}

/// What became of a blob that was found damaged.
enum Taken {
    Away,
    /// It is what its name says after all.
    Whole,
    /// An operation in progress relies on it.
    InUse,
}

impl Repair<'_> {
    /// What cannot be saved of what a check found.
    pub(super) fn plan_content(
        &self,
        damages: &[Damage],
        images: &[Named],
    ) -> Result<PlannedContent, StoreError> {
        let mut planned = PlannedContent { blobs: Vec::new(), images: Vec::new() };
        for damage in damages {
            let (digest, why) = match damage {
                Damage::Document { digest, error, .. } => {
                    // A whole document that cannot be used as what it is asked for would come again as it is.
                    let is_bytes = matches!(&**error, StoreError::Blob(_));
                    if !is_bytes && self.is_intact(digest)? {
                        continue;
                    }
                    (digest, Chain(error).to_string())
                }
                Damage::BlobMissing { digest, .. } => (digest, "it is missing".to_owned()),
                Damage::BlobSize { digest, expected, found, .. } => {
                    (digest, format!("it has {found} bytes, expected {expected}"))
                }
                Damage::BlobContent { digest, found, .. } => (digest, format!("its bytes are {found}")),
                Damage::BlobUnreadable { digest, error, .. } => (digest, Chain(error).to_string()),
                _ => continue,
            };
            // What cannot be opened is there, too.
            let is_there = !matches!(self.store.inner.layout.blobs.size(digest), Ok(None));
            let needed_by = damage.needed_by().to_vec();
            planned.blobs.push(BadBlob { digest: *digest, why, needed_by, is_there });
        }
        for named in images {
            if !self.is_usable(&named.target)? {
                planned.images.push(named.clone());
            }
        }
        Ok(planned)
    }

    /// Whether a document's bytes are what its name says.
    fn is_intact(&self, digest: &Digest) -> Result<bool, StoreError> {
        match self.store.inner.layout.blobs.read(digest, self.store.inner.options.limits.json_bytes) {
            Ok(_) => Ok(true),
            Err(BlobError::Io(error)) => Err(error.into()),
            Err(_) => Ok(false),
        }
    }

    /// Whether there is an image behind `target`: a manifest with its config.
    pub(super) fn is_usable(&self, target: &Descriptor) -> Result<bool, StoreError> {
        let inner = &self.store.inner;
        let mut open = vec![(target.clone(), inner.options.limits.index_depth)];
        while let Some((descriptor, depth)) = open.pop() {
            let usable = match inner.document(&descriptor) {
                Ok(Document::Index(index)) => {
                    if let Some(depth) = depth.checked_sub(1) {
                        open.extend(index.manifests.into_iter().map(|entry| (entry, depth)));
                    }
                    continue;
                }
                Ok(Document::Manifest(manifest)) if !manifest.is_image() => {
                    // What comes with an image makes none; alone it is what it is.
                    if descriptor.digest == target.digest { Ok(true) } else { continue }
                }
                Ok(Document::Manifest(manifest)) => inner.config(&manifest).map(|_| true),
                Err(error) => Err(error),
            };
            match usable {
                Ok(_) => return Ok(true),
                Err(error) if error.is_damage() => {}
                Err(error) => return Err(error),
            }
        }
        Ok(false)
    }

    /// Takes away what is lost: names first, then what they led to.
    pub(super) fn mend_content(&mut self, planned: PlannedContent) -> Result<(), StoreError> {
        for named in planned.images {
            self.drop_image(&named)?;
        }
        for blob in planned.blobs {
            self.drop_blob(blob)?;
        }
        Ok(())
    }

    fn drop_image(&mut self, named: &Named) -> Result<(), StoreError> {
        let digest = named.target.digest;
        if !self.options.dry_run && !self.is_usable(&named.target)? {
            self.store.inner.update_names(|names| {
                // Somebody may have loaded it again.
                if !self.is_usable(&named.target)? {
                    names.forget(&digest);
                }
                Ok(())
            })?;
        }
        let names: Vec<String> = named.names.iter().map(Reference::familiar).collect();
        let called =
            if names.is_empty() { "without a name".to_owned() } else { format!("({})", names.join(", ")) };
        let message = format!("{called} has lost a document and is no image any more; load it again");
        self.say(Outcome::Lost, "image", digest.to_string(), message, Vec::new());
        Ok(())
    }

    fn drop_blob(&mut self, blob: BadBlob) -> Result<(), StoreError> {
        let BadBlob { digest, why, needed_by, is_there } = blob;
        let again = if needed_by.is_empty() { "" } else { "; load what needs it again" };
        if !is_there {
            self.say(Outcome::Lost, "blob", digest.to_string(), format!("is lost: {why}{again}"), needed_by);
            return Ok(());
        }
        match self.take_away(&digest)? {
            Taken::Away => {}
            Taken::Whole => {
                let message = format!("is whole: {why}, but a second look finds all its bytes");
                self.say(Outcome::Mended, "blob", digest.to_string(), message, needed_by);
                return Ok(());
            }
            Taken::InUse => {
                let message =
                    format!("is damaged ({why}) and stays, because an operation in progress relies on it");
                self.say(Outcome::Kept, "blob", digest.to_string(), message, needed_by);
                return Ok(());
            }
        }
        // What nobody needs is no loss.
        let outcome = if needed_by.is_empty() { Outcome::Mended } else { Outcome::Lost };
        let message = format!("is taken away: {why}{again}");
        self.say(outcome, "blob", digest.to_string(), message, needed_by);
        Ok(())
    }

    /// Takes a blob away whose bytes are wrong, unless somebody relies on it.
    fn take_away(&self, digest: &Digest) -> Result<Taken, StoreError> {
        let inner = &self.store.inner;
        let blobs = &inner.layout.blobs;
        // Long work, so not under the lock; what is there then has to be the same file.
        let wrong = match self.identify(digest) {
            // A disk may fail once; or it was loaded again.
            Ok((_, true)) => return Ok(Taken::Whole),
            Ok((stat, false)) => Some(stat),
            Err(BlobError::Missing { .. }) => return Ok(Taken::Away),
            Err(_) => None,
        };
        let _alone = Lock::acquire(&inner.layout.locks, GC_LOCK, LockMode::Exclusive)?;
        let (live, _) = inner.staging.sweep(self.operation.workspace(), true)?;
        if Pinned::of(&live)?.blobs.contains(&digest.to_string()) {
            return Ok(Taken::InUse);
        }
        if self.options.dry_run {
            return Ok(Taken::Away);
        }
        let now = blobs.open_blob(digest).ok().and_then(|file| Stat::of(&file).ok());
        let is_same = match (wrong, now) {
            (Some(wrong), Some(now)) => wrong.is_same_inode(&now),
            (None, None) => true,
            _ => false,
        };
        if is_same {
            blobs.discard(digest, self.operation.workspace())?;
        }
        Ok(Taken::Away)
    }

    /// Which file a blob is, and whether its bytes are right.
    fn identify(&self, digest: &Digest) -> Result<(Stat, bool), BlobError> {
        let blobs = &self.store.inner.layout.blobs;
        let mut file = blobs.open_blob(digest)?;
        let stat = Stat::of(&file).at_path("stat", || blobs.path(digest))?;
        let mut hasher = Hasher::new(digest.algorithm());
        let mut buffer = vec![0; 256 << 10];
        loop {
            match file.read(&mut buffer).at_path("read", || blobs.path(digest))? {
                0 => return Ok((stat, hasher.finish() == *digest)),
                count => hasher.update(&buffer[..count]),
            }
        }
    }
}
