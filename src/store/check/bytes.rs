//! The bytes of blobs: each is hashed, several at a time.

use std::io::Read;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

use super::Check;
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
        let (wrong, failure) = (Mutex::new(Vec::new()), Mutex::new(None));
        let work = || {
            while let Some((digest, _)) = list.get(next.fetch_add(1, Ordering::Relaxed)) {
                let told = |count: u64| {
                    let done = done.fetch_add(count, Ordering::Relaxed) + count;
                    if let Some(progress) = self.options.progress {
                        progress(done.min(all), all);
                    }
                };
                match hash(blobs, digest, told) {
                    Ok(found) if found != *digest => {
                        wrong.lock().unwrap_or_else(PoisonError::into_inner).push((*digest, found));
                    }
                    Ok(_) => {}
                    // It was collected just now, or is told as missing.
                    Err(BlobError::Missing { .. }) => {}
                    Err(error) => {
                        failure.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(error);
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
        if let Some(error) = failure.into_inner().unwrap_or_else(PoisonError::into_inner) {
            return Err(error.into());
        }
        let mut wrong = wrong.into_inner().unwrap_or_else(PoisonError::into_inner);
        wrong.sort_unstable();
        for (digest, found) in wrong {
            // A size that is wrong, or a document that cannot be read, was told already.
            if !self.report.damages.iter().any(|damage| damage.subject() == digest.to_string()) {
                let needed_by = self.needed_by(&digest);
                self.report.damages.push(Damage::BlobContent { digest, found, needed_by });
            }
        }
        Ok(())
    }
}

/// What the bytes of a blob hash to. `told` hears how many more were read.
fn hash(blobs: &Blobs, digest: &Digest, told: impl Fn(u64)) -> Result<Digest, BlobError> {
    let mut file = blobs.open_blob(digest)?;
    let mut hasher = Hasher::new(digest.algorithm());
    let mut buffer = vec![0; 256 << 10];
    loop {
        match file.read(&mut buffer) {
            Ok(0) => return Ok(hasher.finish()),
            Ok(count) => {
                hasher.update(&buffer[..count]);
                told(count as u64);
            }
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error).at_path("read", || blobs.path(digest)).map_err(BlobError::from),
        }
    }
}
