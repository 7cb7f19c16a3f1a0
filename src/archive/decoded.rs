//! [`Decoded`]: a plain layer that is decompressed while it is written, without a copy on disk.
//!
//! Its digest is the layer's diff ID, and its length is known from the record of the unpacked layer. So the documents and
//! the header that name it can be written before its first byte. The tar is compared with both while it passes.

use std::fs::File;
use std::sync::mpsc::{Receiver, SyncSender, channel, sync_channel};
use std::thread;

use super::recode::LayerTar;
use super::{LoadError, SaveError};
use crate::blob::{BlobError, BlobSource};
use crate::digest::{DiffId, Digest};
use crate::limits::Limits;

/// Blocks between the thread that decompresses and the one that writes. A block has the size of one read, 128 KiB.
const DEPTH: usize = 16;

/// A layer that is decompressed while it is written.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Decoded {
    /// The blob that holds it.
    pub(super) layer: Digest,
    /// The digest of the tar.
    pub(super) diff_id: DiffId,
    /// The length of the tar in bytes.
    pub(super) size: u64,
    /// An image that lists it, for messages.
    pub(super) image: Digest,
}

impl Decoded {
    /// Passes the tar to `put`, in blocks. A second thread decompresses and hashes, where one can be had.
    ///
    /// # Errors
    ///
    /// Those of `put`; [`SaveError::Layer`] if the blob cannot be decompressed; [`SaveError::Image`] if it holds another
    /// layer; [`BlobError::SizeMismatch`] if the tar has another length.
    pub(super) fn pour(
        &self,
        blobs: &dyn BlobSource,
        limits: &Limits,
        mut put: impl FnMut(&[u8]) -> Result<(), SaveError>,
    ) -> Result<(), SaveError> {
        let mut actual = 0;
        let mut put = |block: &[u8]| {
            actual += block.len() as u64;
            if actual > self.size { Err(self.wrong_size(actual)) } else { put(block) }
        };
        thread::scope(|scope| {
            let (blocks, received) = sync_channel(DEPTH);
            let (returned, spare) = channel();
            let blob = blobs.open_blob(&self.layer)?;
            let decode = move || self.decode(blob, limits, |block| send(block, &blocks, &spare));
            let Ok(decoder) = thread::Builder::new().spawn_scoped(scope, decode) else {
                return self.decode(blobs.open_blob(&self.layer)?, limits, put);
            };
            let written = received.iter().try_for_each(|block: Vec<u8>| {
                put(&block)?;
                // A decoder that has ended takes no blocks back.
                returned.send(block).unwrap_or_default();
                Ok(())
            });
            // Without a receiver the decoder ends.
            drop(received);
            let decoded = decoder.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
            written.and(decoded)
        })?;
        if actual == self.size { Ok(()) } else { Err(self.wrong_size(actual)) }
    }

    fn decode(
        &self,
        blob: File,
        limits: &Limits,
        put: impl FnMut(&[u8]) -> Result<(), SaveError>,
    ) -> Result<(), SaveError> {
        let tar =
            LayerTar::new(blob, self.layer, self.diff_id, limits).map_err(|error| self.refused(error))?;
        let mut put = put;
        tar.pour(|block| put(block).map_err(Stopped::Put)).map(drop).map_err(|stopped| match stopped {
            Stopped::Layer(error) => self.refused(error),
            Stopped::Put(error) => error,
        })
    }

    fn refused(&self, source: LoadError) -> SaveError {
        match source {
            LoadError::Cancelled => SaveError::Cancelled,
            // The layer may be intact, and the config list another one.
            LoadError::DiffIdMismatch { .. } => SaveError::Image { image: self.image, source },
            source => SaveError::Layer { layer: self.layer, source },
        }
    }

    fn wrong_size(&self, actual: u64) -> SaveError {
        BlobError::SizeMismatch { digest: *self.diff_id.as_digest(), expected: self.size, actual }.into()
    }
}

/// Sends a copy of `block`, in a vector that came back if there is one.
fn send(block: &[u8], blocks: &SyncSender<Vec<u8>>, spare: &Receiver<Vec<u8>>) -> Result<(), SaveError> {
    let mut copy = spare.try_recv().unwrap_or_default();
    copy.clear();
    copy.extend_from_slice(block);
    // The receiver ended with an error of its own, which is the one that is reported.
    blocks.send(copy).map_err(|_| SaveError::Cancelled)
}

/// Why a layer was not decompressed to its end.
enum Stopped {
    Layer(LoadError),
    Put(SaveError),
}

impl From<LoadError> for Stopped {
    fn from(error: LoadError) -> Self {
        Self::Layer(error)
    }
}
