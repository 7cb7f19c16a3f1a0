//! The bytes of blobs: each is hashed, several at a time.

use std::collections::BTreeMap;
use std::io::Read;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

use super::{Check, CheckStage};
use crate::blob::{BlobError, Blobs};
use crate::digest::{Digest, Hasher};
use crate::fs::Context;
use crate::store::damage::Damage;
use crate::store::error::StoreError;

impl Check<'_> {
    /// Hashes every blob, several at a time.
    pub(super) fn bytes(&mut self) -> Result<(), StoreError> {
        let blobs = &self.store.inner.layout.blobs;
        let list = blobs.list()?;
        let all: u64 = list.iter().map(|(_, size)| size).sum();
        let (next, done) = (AtomicUsize::new(0), AtomicU64::new(0));
        let wrong = Mutex::new(BTreeMap::new());
        let work = || {
            while let Some((digest, _)) = list.get(next.fetch_add(1, Ordering::Relaxed)) {
                let told = |count: u64| {
                    let done = done.fetch_add(count, Ordering::Relaxed) + count;
                    self.tell(CheckStage::Blobs, done.min(all), all);
                    self.refuse_cancelled().is_ok()
                };
                match hash(blobs, digest, told) {
                    Ok(found) if found.is_none_or(|found| found == *digest) => {}
                    // It was collected just now, or is told as missing.
                    Err(BlobError::Missing { .. }) => {}
                    found => {
                        wrong.lock().unwrap_or_else(PoisonError::into_inner).insert(*digest, found);
                    }
                }
            }
        };
        std::thread::scope(|scope| {
            for _ in 1..self.store.inner.options.parallelism.threads().min(list.len().max(1)) {
                scope.spawn(work);
            }
            work();
        });
        self.refuse_cancelled()?;
        for (digest, found) in wrong.into_inner().unwrap_or_else(PoisonError::into_inner) {
            let needed_by = self.needed_by(&digest);
            let damage = match found {
                Ok(None) => continue,
                Ok(Some(found)) => Damage::BlobContent { digest, found, needed_by },
                Err(error) => {
                    let error = Box::new(StoreError::from(error));
                    // What this process cannot get at is not damaged for that.
                    if !error.says_damage() {
                        return Err(*error);
                    }
                    Damage::BlobUnreadable { digest, error, needed_by }
                }
            };
            // A size that is wrong, or a document that cannot be read, was told already.
            if !self.report.damages.iter().any(|known| known.subject() == damage.subject()) {
                self.report.damages.push(damage);
            }
        }
        Ok(())
    }
}

/// What the bytes of a blob hash to. `told` hears how many more were read, and says whether to go on; if not there is no
/// outcome.
fn hash(blobs: &Blobs, digest: &Digest, told: impl Fn(u64) -> bool) -> Result<Option<Digest>, BlobError> {
    let mut file = blobs.open_blob(digest)?;
    let mut hasher = Hasher::new(digest.algorithm());
    let mut buffer = vec![0; 256 << 10];
    loop {
        match file.read(&mut buffer) {
            Ok(0) => return Ok(Some(hasher.finish())),
            Ok(count) => {
                hasher.update(&buffer[..count]);
                if !told(count as u64) {
                    return Ok(None);
                }
            }
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error).at_path("read", || blobs.path(digest)).map_err(BlobError::from),
        }
    }
}
