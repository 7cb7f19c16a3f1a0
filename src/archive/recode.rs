//! One layer at a time: [`LayerTar`] reads it as the tar that it is, [`recode`] compresses that otherwise.
//!
//! The tar that passes is compared with its diff id, and one that is another ends in an error instead of an end.

use std::io::{self, Read, Write};

use super::content::blob_path;
use super::{LoadError, SaveError};
use crate::blob::{BlobWriter, ParkedBlob};
use crate::codec::{Decoder, Encoder, Encoding};
use crate::digest::{DiffId, Digest, HashingReader};
use crate::fs::{Context, Workspace};
use crate::limits::Limits;

/// How much is read at once.
const BUFFER: usize = 128 << 10;

/// A layer on its way out of its blob.
pub(crate) struct LayerTar<R: Read> {
    tar: HashingReader<Decoder<R>>,
    blob: Digest,
    expected: DiffId,
}

impl<R: Read> LayerTar<R> {
    /// The layer `expected`, which the bytes of `blob` hold, compressed or not.
    ///
    /// # Errors
    ///
    /// [`LoadError`] if the beginning cannot be read.
    pub(crate) fn new(bytes: R, blob: Digest, expected: DiffId, limits: &Limits) -> Result<Self, LoadError> {
        let decoder = Decoder::new(bytes, limits).map_err(LoadError::of_stream)?.with_holes();
        Ok(Self { tar: HashingReader::new(expected.as_digest().algorithm(), decoder), blob, expected })
    }

    /// Hands the tar out, piece by piece, and returns its length in bytes.
    ///
    /// # Errors
    ///
    /// What `put` returns; [`LoadError`] if the blob cannot be read or decompressed, and
    /// [`LoadError::DiffIdMismatch`] at the end if it was another layer.
    pub(crate) fn pour<E: From<LoadError>>(
        mut self,
        mut put: impl FnMut(&[u8]) -> Result<(), E>,
    ) -> Result<u64, E> {
        let mut buffer = vec![0; BUFFER];
        loop {
            match self.tar.read(&mut buffer) {
                Ok(0) => break,
                Ok(count) => put(&buffer[..count])?,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(LoadError::of_stream(error).into()),
            }
        }
        let (_, digest, bytes) = self.tar.finish();
        let (expected, actual) = (self.expected, DiffId::of_tar(digest));
        // A layer of no bytes may stand for a tar without entries.
        if actual != expected && bytes > 0 {
            let member = blob_path(&self.blob);
            return Err(LoadError::DiffIdMismatch { member, expected, actual }.into());
        }
        Ok(bytes)
    }
}

/// Makes a blob of `encoding` of the layer `diff_id`, which the bytes of `blob` hold. Equal layers give equal blobs.
///
/// # Errors
///
/// [`SaveError::Layer`] if the layer cannot be read or is another; [`SaveError::Io`] or [`SaveError::Blob`] if there is no
/// space. Nothing is left in `workspace` then.
pub(crate) fn recode<'w>(
    bytes: impl Read,
    blob: Digest,
    diff_id: DiffId,
    encoding: Encoding,
    workspace: &'w Workspace,
    limits: &Limits,
) -> Result<ParkedBlob<'w>, SaveError> {
    let refused = |error| match error {
        LoadError::Cancelled => SaveError::Cancelled,
        source => SaveError::Layer { layer: blob, source },
    };
    // A plain layer is then its own diff id.
    let algorithm = match encoding {
        Encoding::None => diff_id.as_digest().algorithm(),
        _ => blob.algorithm(),
    };
    let tar = LayerTar::new(bytes, blob, diff_id, limits).map_err(refused)?;
    let writer = BlobWriter::begin(workspace, algorithm)?;
    let path = writer.path();
    let mut encoder = Encoder::new(writer, encoding).at("write", &path)?;
    let poured = tar.pour(|bytes| Ok::<_, Stopped>(encoder.write_all(bytes).at("write", &path)?));
    poured.map_err(|stopped| match stopped {
        Stopped::Layer(error) => refused(error),
        Stopped::Write(error) => error.into(),
    })?;
    Ok(encoder.finish().at("write", &path)?.finish()?.park())
}

/// Why a layer came to no end.
enum Stopped {
    Layer(LoadError),
    Write(crate::fs::Error),
}

impl From<LoadError> for Stopped {
    fn from(error: LoadError) -> Self {
        Self::Layer(error)
    }
}

impl From<crate::fs::Error> for Stopped {
    fn from(error: crate::fs::Error) -> Self {
        Self::Write(error)
    }
}
