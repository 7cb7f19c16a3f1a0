//! A blob on its way into the store: [`BlobWriter`] takes bytes, [`StagedBlob`] is whole and knows its digest.

use std::io::{self, Write};

use super::BlobError;
use crate::digest::{Algorithm, Digest, Hasher};
use crate::fs::StagedFile;

/// Takes the bytes of a blob, hashing as they pass. Dropped before it is finished, it leaves nothing in the store.
#[derive(Debug)]
pub struct BlobWriter<'a> {
    staged: StagedFile<'a>,
    hasher: Hasher,
    size: u64,
}

impl<'a> BlobWriter<'a> {
    pub(super) fn new(staged: StagedFile<'a>, algorithm: Algorithm) -> Self {
        Self { staged, hasher: Hasher::new(algorithm), size: 0 }
    }

    /// Where the bytes lie until the blob has its name, for messages.
    pub fn path(&self) -> std::path::PathBuf {
        self.staged.path()
    }

    /// Ends the blob and names it.
    ///
    /// # Errors
    ///
    /// None today; a writer that buffers may fail here.
    pub fn finish(self) -> Result<StagedBlob<'a>, BlobError> {
        Ok(StagedBlob { staged: self.staged, digest: self.hasher.finish(), size: self.size })
    }
}

impl Write for BlobWriter<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.staged.file().write(bytes)?;
        self.hasher.update(&bytes[..written]);
        self.size += written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(()) // every write went to the file
    }
}

/// A whole blob that has no name yet.
#[derive(Debug)]
pub struct StagedBlob<'a> {
    staged: StagedFile<'a>,
    digest: Digest,
    size: u64,
}

impl<'a> StagedBlob<'a> {
    /// The digest of its bytes.
    pub fn digest(&self) -> Digest {
        self.digest
    }

    /// Its length in bytes.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// The file, for reading it back before it is published. Its position is at the end.
    pub fn file(&mut self) -> &mut std::fs::File {
        self.staged.file()
    }

    /// Makes sure that it is the blob that was asked for.
    ///
    /// # Errors
    ///
    /// [`BlobError::SizeMismatch`] or [`BlobError::DigestMismatch`]; the bytes are then gone.
    pub fn expect(self, digest: &Digest, size: Option<u64>) -> Result<Self, BlobError> {
        // The size first: of bytes that were cut short it says more than a hash.
        match size {
            Some(expected) if expected != self.size => {
                Err(BlobError::SizeMismatch { digest: *digest, expected, actual: self.size })
            }
            _ if *digest != self.digest => {
                Err(BlobError::DigestMismatch { expected: *digest, actual: self.digest })
            }
            _ => Ok(self),
        }
    }

    pub(super) fn into_file(self) -> StagedFile<'a> {
        self.staged
    }
}
