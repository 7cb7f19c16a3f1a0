//! A blob on its way into the store: [`BlobWriter`] takes bytes, [`StagedBlob`] is whole and knows its digest.

use std::io::{self, Read, Write};

use super::BlobError;
use crate::digest::{Algorithm, Digest, Hasher};
use crate::fs::{Context, ParkedFile, StagedFile, Workspace};

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

    /// Starts a blob that no layout may ever get.
    ///
    /// # Errors
    ///
    /// [`BlobError::Io`] if the file cannot be made.
    pub fn begin(workspace: &'a Workspace, algorithm: Algorithm) -> Result<Self, BlobError> {
        Ok(Self::new(workspace.file()?, algorithm))
    }

    /// Where the bytes lie until the blob has its name, for messages.
    pub fn path(&self) -> std::path::PathBuf {
        self.staged.path()
    }

    /// The file that it is written to.
    pub(crate) fn file(&mut self) -> &std::fs::File {
        self.staged.file()
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
    /// A file whose bytes were found to be `digest`.
    pub(super) fn assume(staged: StagedFile<'a>, digest: Digest, size: u64) -> Self {
        Self { staged, digest, size }
    }

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

    /// Waits until the bytes are on disk. Publishing does it too, one blob after the other; whoever has many can sync
    /// all of them first, so that a full disk is met before anything is visible.
    ///
    /// # Errors
    ///
    /// [`BlobError::Io`] if the disk fails.
    pub fn sync(&mut self) -> Result<(), BlobError> {
        let path = self.staged.path();
        Ok(self.staged.file().sync_all().at("sync", path)?)
    }

    /// Closes the file and keeps the blob.
    pub fn park(self) -> ParkedBlob<'a> {
        ParkedBlob { parked: self.staged.park(), digest: self.digest, size: self.size }
    }

    pub(super) fn into_file(self) -> StagedFile<'a> {
        self.staged
    }
}

/// A whole blob that has no name yet and is not open at present.
#[derive(Debug)]
pub struct ParkedBlob<'a> {
    parked: ParkedFile<'a>,
    digest: Digest,
    size: u64,
}

impl<'a> ParkedBlob<'a> {
    /// The digest of its bytes.
    pub fn digest(&self) -> Digest {
        self.digest
    }

    /// Its length in bytes.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Opens it again, to publish it.
    ///
    /// # Errors
    ///
    /// [`BlobError::Io`] if it cannot be opened.
    pub fn reopen(self) -> Result<StagedBlob<'a>, BlobError> {
        Ok(StagedBlob { staged: self.parked.reopen()?, digest: self.digest, size: self.size })
    }

    /// Where the bytes lie until the blob has its name, for messages.
    pub fn path(&self) -> std::path::PathBuf {
        self.parked.path()
    }

    /// Opens it for reading from its start.
    ///
    /// # Errors
    ///
    /// [`BlobError::Io`] if it cannot be opened.
    pub fn open(&self) -> Result<std::fs::File, BlobError> {
        Ok(self.parked.open()?)
    }

    /// Reads a small blob back.
    ///
    /// # Errors
    ///
    /// [`BlobError::TooLarge`] if it has more than `limit` bytes; [`BlobError::Io`].
    pub fn read(&self, limit: u64) -> Result<Vec<u8>, BlobError> {
        if self.size > limit {
            return Err(BlobError::TooLarge { digest: self.digest, limit });
        }
        let mut bytes = Vec::new();
        self.open()?.take(limit).read_to_end(&mut bytes).at_path("read", || self.parked.path())?;
        Ok(bytes)
    }
}
