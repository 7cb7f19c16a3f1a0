//! [`BlobSource`]: where blobs are read from, be it one layout or several, one after the other. It has no way to write.

use std::fs::File;
use std::io::Read;
use std::path::PathBuf;

use super::{BlobError, Blobs};
use crate::digest::Digest;
use crate::fs::{Context, Stat};

/// Where blobs are read from.
pub trait BlobSource: std::fmt::Debug + Sync {
    /// Opens the blob for reading, without a check of its bytes.
    ///
    /// # Errors
    ///
    /// [`BlobError::Missing`] if there is none.
    fn open_blob(&self, digest: &Digest) -> Result<File, BlobError>;

    /// The path of the blob, for messages and for tools that take nothing but a path.
    fn path(&self, digest: &Digest) -> PathBuf;

    /// Size in bytes of the blob, `None` if there is no such blob. Says nothing of its bytes.
    ///
    /// # Errors
    ///
    /// [`BlobError::Io`] if that cannot be told.
    fn size(&self, digest: &Digest) -> Result<Option<u64>, BlobError> {
        match self.open_blob(digest) {
            Ok(file) => Ok(Some(Stat::of(&file).at_path("stat", || self.path(digest))?.size)),
            Err(BlobError::Missing { .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Reads a whole small blob and checks it against its digest.
    ///
    /// # Errors
    ///
    /// [`BlobError`] if it is missing, larger than `limit` bytes, or not what its name says.
    fn read(&self, digest: &Digest, limit: u64) -> Result<Vec<u8>, BlobError> {
        let file = self.open_blob(digest)?;
        let size = Stat::of(&file).at_path("stat", || self.path(digest))?.size;
        // One more than there is, so that the end is seen without growing.
        let mut bytes = Vec::with_capacity(usize::try_from(size.min(limit)).unwrap_or(0) + 1);
        file.take(limit + 1).read_to_end(&mut bytes).at_path("read", || self.path(digest))?;
        if bytes.len() as u64 > limit {
            return Err(BlobError::TooLarge { digest: *digest, limit });
        }
        let actual = Digest::of_with(digest.algorithm(), &bytes);
        if actual != *digest {
            return Err(BlobError::DigestMismatch { expected: *digest, actual });
        }
        Ok(bytes)
    }
}

impl BlobSource for Blobs {
    fn open_blob(&self, digest: &Digest) -> Result<File, BlobError> {
        Self::open_blob(self, digest)
    }

    fn path(&self, digest: &Digest) -> PathBuf {
        Self::path(self, digest)
    }
}
