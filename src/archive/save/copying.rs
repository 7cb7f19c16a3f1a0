//! [`Copying`]: blobs on their way out, verified as they pass.

use std::io::{self, Read};

use super::SaveOptions;
use crate::archive::SaveError;
use crate::archive::convert::Made;
use crate::blob::{BlobError, BlobSource};
use crate::digest::{Digest, Hasher};
use crate::fs;

/// How much is read at once.
const BUFFER: usize = 256 << 10;

/// Blobs on their way out.
pub(super) struct Copying<'a> {
    options: &'a SaveOptions<'a>,
    done: u64,
    total: u64,
    buffer: Vec<u8>,
}

impl<'a> Copying<'a> {
    /// For blobs of `total` bytes altogether.
    pub(super) fn new(total: u64, options: &'a SaveOptions<'a>) -> Self {
        Self { options, done: 0, total, buffer: vec![0; BUFFER] }
    }

    /// Counts bytes that need not be copied.
    pub(super) fn skip(&mut self, size: u64) {
        self.done += size;
        self.options.report(self.done, self.total);
    }

    /// Hands out the bytes of a blob, and makes sure that they were it.
    pub(super) fn blob(
        &mut self,
        blobs: &Made<'_>,
        digest: &Digest,
        size: u64,
        mut write: impl FnMut(&[u8]) -> Result<(), SaveError>,
    ) -> Result<(), SaveError> {
        if let Some(decoded) = blobs.decoded(digest) {
            return decoded.pour(blobs, &self.options.limits, |block| {
                if self.options.is_cancelled() {
                    return Err(SaveError::Cancelled);
                }
                write(block)?;
                self.skip(block.len() as u64);
                Ok(())
            });
        }
        // One byte more than expected shows that there is more.
        let mut file = blobs.open_blob(digest)?.take(size.saturating_add(1));
        let mut hasher = Hasher::new(digest.algorithm());
        let mut actual = 0;
        loop {
            if self.options.is_cancelled() {
                return Err(SaveError::Cancelled);
            }
            let count = match file.read(&mut self.buffer) {
                Ok(0) => break,
                Ok(count) => count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(fs::Error::new("read", blobs.path(digest), error).into()),
            };
            actual += count as u64;
            if actual > size {
                break;
            }
            hasher.update(&self.buffer[..count]);
            write(&self.buffer[..count])?;
            self.skip(count as u64);
        }
        if actual != size {
            return Err(BlobError::SizeMismatch { digest: *digest, expected: size, actual }.into());
        }
        let actual = hasher.finish();
        if actual != *digest {
            return Err(BlobError::DigestMismatch { expected: *digest, actual }.into());
        }
        Ok(())
    }
}
