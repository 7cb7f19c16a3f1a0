//! [`PartialBlob`]: a blob that comes in pieces, perhaps from several attempts, until it is whole.
//!
//! ```text
//! <dir>/<algorithm>-<hex>     the first bytes of the blob, as many as came
//! ```
//!
//! The file is its own lock while it grows: two processes that want the same blob do not bring it twice, and what a process
//! leaves that dies is found by the next. Nothing of it is believed: the digest is taken of all bytes when they are there,
//! those of an earlier attempt included, of which a power cut may have left any. A file that was whole once is never written
//! to again: it may have its place among the blobs by then, or be read. So it is used without a lock, and whoever waits for
//! a lock on a layer holds none here. Only who has the lock removes a file: its name is that of one file all the while.

use std::fs::File;
use std::io::{self, Write};
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use super::{BlobError, ParkedBlob, StagedBlob};
use crate::digest::{Digest, Hasher};
use crate::fs::{Context, Dir, Lock, LockMode, Optional, Workspace};

/// How much is read at once of what an earlier attempt left.
const BUFFER: usize = 128 << 10;

/// A blob that is not whole yet, and nobody else's.
#[derive(Debug)]
pub struct PartialBlob<'a> {
    dir: &'a Dir,
    digest: Digest,
    name: String,
    file: Arc<File>,
    hasher: Hasher,
    length: u64,
    _lock: Lock,
}

impl<'a> PartialBlob<'a> {
    /// Takes up the blob `digest` in `dir` where it was left. Waits for whoever is at it.
    ///
    /// # Errors
    ///
    /// [`BlobError::Io`] if the file cannot be made, locked or read.
    pub fn take(dir: &'a Dir, digest: Digest) -> Result<Self, BlobError> {
        let name = format!("{}-{}", digest.algorithm().name(), digest.hex());
        drop(dir.ensure_file(&name, 0o644)?); // with the mode of a blob, which that of a lock is not
        let lock = Lock::acquire(dir, &name, LockMode::Exclusive)?;
        let file = Arc::new(dir.ensure_file(&name, 0o644)?);
        let hasher = Hasher::new(digest.algorithm());
        let mut partial = Self { dir, digest, name, file, hasher, length: 0, _lock: lock };
        partial.read_again()?;
        Ok(partial)
    }

    /// Takes in what an earlier attempt left.
    fn read_again(&mut self) -> Result<(), BlobError> {
        let mut buffer = vec![0; BUFFER];
        loop {
            match self.file.read_at(&mut buffer, self.length) {
                Ok(0) => return Ok(()),
                Ok(count) => {
                    self.hasher.update(&buffer[..count]);
                    self.length += count as u64;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error).at("read", self.path()).map_err(BlobError::from),
            }
        }
    }

    /// How many bytes are there.
    pub fn length(&self) -> u64 {
        self.length
    }

    /// The file that they are in, to be read by position while more come.
    pub fn file(&self) -> Arc<File> {
        Arc::clone(&self.file)
    }

    /// Where it lies, for messages.
    pub fn path(&self) -> std::path::PathBuf {
        self.dir.path_of(&self.name)
    }

    /// Forgets all bytes, to begin anew, or with what somebody else brings first.
    ///
    /// # Errors
    ///
    /// [`BlobError::Io`] if the file cannot be removed or made again.
    pub fn restart(self) -> Result<Self, BlobError> {
        let (dir, digest) = (self.dir, self.digest);
        self.discard()?;
        Self::take(dir, digest)
    }

    /// The digest of the bytes that are there.
    pub fn actual(&self) -> Digest {
        self.hasher.clone().finish()
    }

    /// Removes it: the bytes are no use.
    ///
    /// # Errors
    ///
    /// [`BlobError::Io`] if it cannot be removed.
    pub fn discard(self) -> Result<(), BlobError> {
        Ok(self.dir.remove_file(&self.name)?)
    }

    /// Ends it. Whoever waits for it finds it whole.
    ///
    /// # Errors
    ///
    /// [`BlobError::DigestMismatch`] if it is not whole, or not what it should be: it is removed then.
    pub fn finish(self) -> Result<WholeBlob<'a>, BlobError> {
        let (expected, actual) = (self.digest, self.actual());
        if actual != expected {
            self.discard()?;
            return Err(BlobError::DigestMismatch { expected, actual });
        }
        Ok(WholeBlob { dir: self.dir, digest: self.digest, name: self.name, length: self.length })
    }

    /// Whether a file of this name is part of a blob.
    pub fn is_one(name: &str) -> bool {
        digest_of(name).is_some()
    }

    /// Removes those in `dir` that nobody is at and that are not `needed`, and returns how many they were and how many bytes
    /// they had. With `only_count`, they stay.
    ///
    /// # Errors
    ///
    /// [`BlobError::Io`] if one cannot be locked or removed.
    pub fn collect(
        dir: &Dir,
        workspace: &Workspace,
        needed: impl Fn(&Digest) -> Result<bool, BlobError>,
        only_count: bool,
    ) -> Result<(u64, u64), BlobError> {
        let (mut count, mut bytes) = (0, 0);
        for entry in dir.names()? {
            let Ok(name) = str::from_utf8(&entry.name) else { continue };
            let Some(digest) = digest_of(name) else { continue };
            if needed(&digest)? {
                continue;
            }
            if !dir.is_of_kind(&entry, crate::fs::Kind::File)? {
                continue;
            }
            let Some(_held) = Lock::try_acquire_present(dir, name)? else { continue };
            count += 1;
            bytes += dir.find(name)?.map_or(0, |stat| stat.size);
            if !only_count {
                workspace.discard(dir, name).optional()?;
            }
        }
        Ok((count, bytes))
    }
}

/// A blob that came whole and has no place among the others yet. Others may give it that as well.
#[derive(Debug)]
pub struct WholeBlob<'a> {
    dir: &'a Dir,
    digest: Digest,
    name: String,
    length: u64,
}

impl WholeBlob<'_> {
    /// Takes it into a workspace, to be published; `None` if somebody else has published it. What is here stays, for
    /// whoever comes meanwhile.
    ///
    /// # Errors
    ///
    /// [`BlobError::Io`] if the file system refuses.
    pub fn stage<'w>(&self, workspace: &'w Workspace) -> Result<Option<ParkedBlob<'w>>, BlobError> {
        let staged = workspace.link_file(self.dir, &self.name).optional()?;
        Ok(staged.map(|staged| StagedBlob::assume(staged, self.digest, self.length).park()))
    }

    /// Removes it, as it has its place. Whoever has just taken it up finds that out, and removes it then.
    ///
    /// # Errors
    ///
    /// [`BlobError::Io`] if the file system refuses.
    pub fn forget(self) -> Result<(), BlobError> {
        match Lock::try_acquire_present(self.dir, &self.name)? {
            Some(_held) => Ok(self.dir.remove_file(&self.name)?),
            None => Ok(()),
        }
    }
}

fn digest_of(name: &str) -> Option<Digest> {
    let (algorithm, hex) = name.split_once('-')?;
    Digest::from_parts(algorithm, hex).ok()
}

impl Write for PartialBlob<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.file.write_at(bytes, self.length)?;
        self.hasher.update(&bytes[..written]);
        self.length += written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(()) // every write went to the file
    }
}
