//! Bytes by digest, in an [OCI image layout](https://github.com/opencontainers/image-spec/blob/main/image-layout.md).
//!
//! ```text
//! oci/
//!   oci-layout            {"imageLayoutVersion":"1.0.0"}
//!   index.json            written by `store`
//!   blobs/<algorithm>/<hex>
//! ```
//!
//! Invariant 1: a blob's file name is the digest of its bytes. Bytes are written to staging, hashed on the way, and get
//! a name only when the hash is known; nothing is ever written to a named blob. Knows nothing of what the bytes mean.

mod partial;
mod source;
mod strangers;
mod writer;

use std::fs::File;

use crate::digest::{Algorithm, Digest, DigestError};
use crate::fs::{self, Context, Dir, Durability, Kind, Optional, Workspace};

pub use partial::{PartialBlob, WholeBlob};
pub use source::BlobSource;
pub use writer::{BlobWriter, ParkedBlob, StagedBlob};

/// The file that makes a directory an image layout.
const LAYOUT_FILE: &str = "oci-layout";
const LAYOUT: &[u8] = br#"{"imageLayoutVersion":"1.0.0"}"#;

/// `oci-layout`.
#[derive(serde::Deserialize)]
#[serde(rename_all = "camelCase")]
struct Marker {
    image_layout_version: String,
}

/// What can go wrong with a blob.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BlobError {
    /// There is no blob of this digest.
    #[error("blob {digest} is missing")]
    Missing {
        /// The digest that was asked for.
        digest: Digest,
    },
    /// The bytes are not those that the digest names.
    #[error("blob is {actual}, expected {expected}")]
    DigestMismatch {
        /// What was asked for.
        expected: Digest,
        /// What the bytes hash to.
        actual: Digest,
    },
    /// There are more or fewer bytes than a descriptor says.
    #[error("blob {digest} has {actual} bytes, expected {expected}")]
    SizeMismatch {
        /// The blob.
        digest: Digest,
        /// Bytes that the descriptor promises.
        expected: u64,
        /// Bytes that there are, or that were read before giving up.
        actual: u64,
    },
    /// The blob is larger than what may be held in memory.
    #[error("blob {digest} is larger than the limit of {limit} bytes")]
    TooLarge {
        /// The blob.
        digest: Digest,
        /// The limit in bytes.
        limit: u64,
    },
    /// The directory is no image layout of a version that is known.
    #[error("{path:?} is not an OCI image layout of version 1: {reason}")]
    NotALayout {
        /// The directory.
        path: std::path::PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// The source of the bytes failed.
    #[error("cannot read the bytes of a blob")]
    Source(#[source] std::io::Error),
    /// The file system refused one step.
    #[error(transparent)]
    Io(#[from] fs::Error),
}

/// To hash this much takes less time than to write it.
const SMALL: u64 = 256 << 10;

/// The blobs of one image layout.
#[derive(Debug)]
pub struct Blobs {
    layout: Dir,
    blobs: Dir,
}

impl Blobs {
    /// Makes `layout` an image layout without blobs; what is there already stays.
    ///
    /// # Errors
    ///
    /// [`BlobError::Io`] if the file system refuses.
    pub fn create(layout: Dir, workspace: &Workspace, durability: Durability) -> Result<Self, BlobError> {
        let blobs = layout.ensure_dir("blobs", 0o755)?;
        for algorithm in Algorithm::ALL {
            blobs.ensure_dir(algorithm.name(), 0o755)?;
        }
        if durability == Durability::Full {
            blobs.sync()?;
        }
        workspace.replace(LAYOUT, &layout, LAYOUT_FILE, durability)?;
        Ok(Self { layout, blobs })
    }

    /// Opens the image layout in `layout`.
    ///
    /// # Errors
    ///
    /// [`BlobError::NotALayout`] if it is none, or of another version.
    pub fn open(layout: Dir) -> Result<Self, BlobError> {
        let fault = |reason: String| BlobError::NotALayout { path: layout.path_of(""), reason };
        let marker = layout.read(LAYOUT_FILE, 1 << 16).fitting()?;
        let marker = marker.ok_or_else(|| fault(format!("there is no {LAYOUT_FILE}")))?;
        let marker: Marker = serde_json::from_slice(&marker).map_err(|error| fault(error.to_string()))?;
        if !marker.image_layout_version.starts_with("1.") {
            return Err(fault(format!("its version is {:?}", marker.image_layout_version)));
        }
        Self::assume(layout)
    }

    /// Opens the image layout in `layout`, whether or not it says that it is one.
    ///
    /// # Errors
    ///
    /// [`BlobError::NotALayout`] if it has no blobs.
    pub fn assume(layout: Dir) -> Result<Self, BlobError> {
        match layout.open_dir("blobs").optional()? {
            Some(blobs) => Ok(Self { layout, blobs }),
            None => {
                let reason = "there is no directory blobs".to_owned();
                Err(BlobError::NotALayout { path: layout.path_of(""), reason })
            }
        }
    }

    /// Whether `layout` does not say of which version it is: the file that should is missing or damaged.
    ///
    /// # Errors
    ///
    /// [`BlobError::Io`] if that cannot be told.
    pub fn has_no_version(layout: &Dir) -> Result<bool, BlobError> {
        let marker = layout.read(LAYOUT_FILE, 1 << 16).fitting()?;
        Ok(marker.is_none_or(|marker| serde_json::from_slice::<Marker>(&marker).is_err()))
    }

    /// The directory of the layout.
    pub fn layout(&self) -> &Dir {
        &self.layout
    }

    /// Size in bytes of the blob, `None` if there is no such blob. Says nothing of its bytes.
    ///
    /// # Errors
    ///
    /// [`BlobError::Io`] if that cannot be told.
    pub fn size(&self, digest: &Digest) -> Result<Option<u64>, BlobError> {
        BlobSource::size(self, digest)
    }

    /// Opens the directories of the blobs, to ask for the sizes of many.
    ///
    /// # Errors
    ///
    /// [`BlobError::Io`] if they cannot be opened.
    pub fn sizes(&self) -> Result<Sizes<'_>, BlobError> {
        let open =
            |algorithm: Algorithm| self.blobs.find_dir(algorithm.name()).fitting().map(Option::flatten);
        Ok(Sizes { blobs: self, sha256: open(Algorithm::Sha256)?, sha512: open(Algorithm::Sha512)? })
    }

    /// Whether there is no need to store the blob: it is there with `size` bytes. Of a small one, as documents are, the
    /// bytes are checked as well, so that storing it again mends what a disk has damaged.
    ///
    /// # Errors
    ///
    /// [`BlobError::Io`] if that cannot be told.
    pub fn holds(&self, digest: &Digest, size: u64) -> Result<bool, BlobError> {
        if self.size(digest)? != Some(size) {
            return Ok(false);
        }
        match size {
            0..=SMALL => match self.read(digest, SMALL) {
                Err(BlobError::Io(error)) => Err(error.into()),
                read => Ok(read.is_ok()),
            },
            _ => Ok(true),
        }
    }

    /// Opens the blob for reading, without a check of its bytes.
    ///
    /// # Errors
    ///
    /// [`BlobError::Missing`] if there is none.
    pub fn open_blob(&self, digest: &Digest) -> Result<File, BlobError> {
        match self.blobs.open_file(name(digest)).fitting()? {
            Some(file) => Ok(file),
            None => Err(BlobError::Missing { digest: *digest }),
        }
    }

    /// The path of the blob, for messages and for tools that take nothing but a path.
    pub fn path(&self, digest: &Digest) -> std::path::PathBuf {
        self.blobs.path_of(name(digest))
    }

    /// Reads a whole small blob and checks it against its digest.
    ///
    /// # Errors
    ///
    /// [`BlobError`] if it is missing, larger than `limit` bytes, or not what its name says.
    pub fn read(&self, digest: &Digest, limit: u64) -> Result<Vec<u8>, BlobError> {
        BlobSource::read(self, digest, limit)
    }

    /// Starts a blob in `workspace`, to be named by `algorithm`.
    ///
    /// # Errors
    ///
    /// [`BlobError::Io`] if the file cannot be made.
    pub fn writer<'a>(
        &self,
        workspace: &'a Workspace,
        algorithm: Algorithm,
    ) -> Result<BlobWriter<'a>, BlobError> {
        Ok(BlobWriter::new(workspace.file()?, algorithm))
    }

    /// Stores `bytes` under their SHA-256 unless they are there.
    ///
    /// # Errors
    ///
    /// [`BlobError::Io`] if they cannot be written.
    pub fn put(
        &self,
        bytes: &[u8],
        workspace: &Workspace,
        durability: Durability,
    ) -> Result<Digest, BlobError> {
        let digest = Digest::of(bytes);
        if !self.holds(&digest, bytes.len() as u64)? {
            let mut writer = self.writer(workspace, Algorithm::Sha256)?;
            std::io::Write::write_all(&mut writer, bytes).at_path("write", || writer.path())?;
            self.publish(writer.finish()?, durability)?;
        }
        Ok(digest)
    }

    /// Gives a staged blob its name. [`Blobs::sync`] makes the names durable.
    ///
    /// # Errors
    ///
    /// [`BlobError::Io`] if the file system refuses; the blob is not visible then.
    pub fn publish(&self, staged: StagedBlob<'_>, durability: Durability) -> Result<Digest, BlobError> {
        let digest = staged.digest();
        let directory = self.blobs.ensure_dir(digest.algorithm().name(), 0o755)?;
        directory.put_aside(digest.hex(), Kind::File)?;
        staged.into_file().publish(&directory, digest.hex(), durability)?;
        Ok(digest)
    }

    /// Waits until the names of all blobs are on disk.
    ///
    /// # Errors
    ///
    /// [`BlobError::Io`] if the disk fails.
    pub fn sync(&self) -> Result<(), BlobError> {
        for algorithm in Algorithm::ALL {
            if let Some(directory) = self.blobs.open_dir(algorithm.name()).fitting()? {
                directory.sync()?;
            }
        }
        Ok(self.blobs.sync()?)
    }

    /// Takes a blob out of the layout; it is unlinked with `workspace`.
    ///
    /// # Errors
    ///
    /// [`BlobError::Io`] if it is missing or the file system refuses.
    pub fn discard(&self, digest: &Digest, workspace: &Workspace) -> Result<(), BlobError> {
        let directory = self.blobs.open_dir(digest.algorithm().name())?;
        Ok(workspace.discard(&directory, digest.hex())?)
    }

    /// All blobs with their sizes in bytes, in order. Names that are no digest are left out.
    ///
    /// # Errors
    ///
    /// [`BlobError::Io`] if the directory cannot be read.
    pub fn list(&self) -> Result<Vec<(Digest, u64)>, BlobError> {
        let mut found = Vec::new();
        for algorithm in Algorithm::ALL {
            let Some(directory) = self.blobs.open_dir(algorithm.name()).fitting()? else { continue };
            for entry in directory.names()? {
                let parsed: Result<Digest, DigestError> =
                    Digest::from_parts(algorithm.name(), &String::from_utf8_lossy(&entry.name));
                let (Ok(digest), Ok(hex)) = (parsed, std::str::from_utf8(&entry.name)) else { continue };
                // What is no file is no blob.
                if let Some(stat) = directory.find(hex)?.filter(|stat| stat.kind == Kind::File) {
                    found.push((digest, stat.size));
                }
            }
        }
        Ok(found)
    }
}

/// The sizes of blobs, told by their names: what [`Blobs::size`] says for less.
#[derive(Debug)]
pub struct Sizes<'b> {
    blobs: &'b Blobs,
    sha256: Option<Dir>,
    sha512: Option<Dir>,
}

impl Sizes<'_> {
    /// Size in bytes of the blob, `None` if there is no such blob.
    ///
    /// # Errors
    ///
    /// [`BlobError::Io`] if that cannot be told.
    pub fn of(&self, digest: &Digest) -> Result<Option<u64>, BlobError> {
        let directory = match digest.algorithm() {
            Algorithm::Sha256 => &self.sha256,
            Algorithm::Sha512 => &self.sha512,
        };
        let Some(directory) = directory else { return Ok(None) };
        match directory.find(digest.hex())? {
            Some(stat) if stat.kind == Kind::File => Ok(Some(stat.size)),
            Some(_) => self.blobs.size(digest),
            None => Ok(None),
        }
    }
}

fn name(digest: &Digest) -> String {
    format!("{}/{}", digest.algorithm().name(), digest.hex())
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;
    use crate::fs::Staging;

    fn blobs() -> (tempfile::TempDir, Blobs, Workspace) {
        let temp = tempfile::tempdir().unwrap();
        let dir = Dir::open_ambient(temp.path()).unwrap();
        let workspace = Staging::new(dir.ensure_dir("staging", 0o700).unwrap()).workspace().unwrap();
        let layout = dir.ensure_dir("oci", 0o755).unwrap();
        Blobs::create(layout, &workspace, Durability::Full).unwrap();
        (temp, Blobs::open(dir.open_dir("oci").unwrap()).unwrap(), workspace)
    }

    #[test]
    fn a_blob_is_named_by_its_bytes_and_read_back_only_if_it_is_them() {
        let (temp, blobs, workspace) = blobs();
        let digest = blobs.put(b"content", &workspace, Durability::Full).unwrap();
        assert_eq!(blobs.put(b"content", &workspace, Durability::Full).unwrap(), digest);
        assert_eq!(digest, Digest::of(b"content"));
        assert_eq!(blobs.read(&digest, 7).unwrap(), b"content");
        assert!(matches!(blobs.read(&digest, 6), Err(BlobError::TooLarge { .. })));
        assert_eq!(blobs.list().unwrap(), [(digest, 7)]);
        let path = temp.path().join("oci/blobs").join(name(&digest));
        std::fs::write(path, b"Content").unwrap();
        assert!(
            matches!(blobs.read(&digest, 7), Err(BlobError::DigestMismatch { expected, .. }) if expected == digest)
        );
        blobs.discard(&digest, &workspace).unwrap();
        assert!(matches!(blobs.read(&digest, 7), Err(BlobError::Missing { .. })));
    }

    #[test]
    fn nothing_is_visible_before_it_was_verified() {
        let (_temp, blobs, workspace) = blobs();
        for algorithm in Algorithm::ALL {
            let expected = Digest::of_with(algorithm, b"right");
            let mut writer = blobs.writer(&workspace, algorithm).unwrap();
            writer.write_all(b"wrong").unwrap();
            assert!(blobs.list().unwrap().is_empty());
            let refused = writer.finish().unwrap().expect(&expected, Some(5));
            assert!(matches!(refused, Err(BlobError::DigestMismatch { .. })));
            let mut writer = blobs.writer(&workspace, algorithm).unwrap();
            writer.write_all(b"right").unwrap();
            let refused = writer.finish().unwrap().expect(&expected, Some(6));
            assert!(matches!(refused, Err(BlobError::SizeMismatch { expected: 6, actual: 5, .. })));
            assert!(blobs.list().unwrap().is_empty());
        }
    }

    #[test]
    fn a_layout_of_another_version_is_refused() {
        let (temp, _blobs, _workspace) = blobs();
        let path = temp.path().join("oci");
        for content in ["{\"imageLayoutVersion\":\"2.0.0\"}", "{}", "", "[]"] {
            std::fs::write(path.join(LAYOUT_FILE), content).unwrap();
            let refused = Blobs::open(Dir::open_ambient(&path).unwrap());
            assert!(matches!(refused, Err(BlobError::NotALayout { .. })), "{content}");
        }
    }
}
