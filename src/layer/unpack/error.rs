//! [`UnpackError`]: why a layer could not be unpacked.

use std::io;

use crate::changeset::ChangesetError;
use crate::digest::DiffId;
use crate::path::LayerPath;

/// A layer could not be unpacked. The directory it was unpacked into then holds a part of it and is of no use.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum UnpackError {
    /// The stream is not the layer that the image config lists.
    #[error("the layer is {actual} after {bytes} bytes, expected {expected}")]
    DiffIdMismatch {
        /// What the config says.
        expected: DiffId,
        /// What the stream is.
        actual: DiffId,
        /// Length of the uncompressed stream.
        bytes: u64,
    },
    /// The blob cannot be read or decompressed. A [`CodecError`](crate::codec::CodecError) may be inside.
    #[error("cannot read the layer's blob")]
    Blob(#[source] io::Error),
    /// The stream is no tar, or holds what no layer may.
    #[error("the layer's tar is invalid")]
    Tar(#[source] ChangesetError),
    /// A hard link refers to nothing, to itself or to a directory.
    #[error("tar entry {index} ({path}) is a hard link to {target}, which {reason}")]
    Link {
        /// The entry.
        index: u64,
        /// The link.
        path: LayerPath,
        /// What it should be another name of.
        target: LayerPath,
        /// What is wrong with that.
        reason: &'static str,
    },
    /// A character device 0:0, which overlayfs would take for a deletion.
    #[error("tar entry {index} ({path}) is a character device 0:0, which no layer may hold")]
    WhiteoutDevice {
        /// The entry.
        index: u64,
        /// The device.
        path: LayerPath,
    },
    /// A device of numbers that Linux does not have.
    #[error("tar entry {index} ({path}) is a device {major}:{minor}, expected at most 4095:1048575")]
    Device {
        /// The entry.
        index: u64,
        /// The device.
        path: LayerPath,
        /// Its driver.
        major: u32,
        /// The device of that driver.
        minor: u32,
    },
    /// The directory that an entry is in cannot be found: symbolic links lead in a circle, or too far.
    #[error("tar entry {index} ({path}) cannot be placed: {reason}")]
    Place {
        /// The entry.
        index: u64,
        /// Its name.
        path: LayerPath,
        /// Why.
        reason: &'static str,
    },
    /// The file system refused one step.
    #[error(transparent)]
    Io(#[from] crate::fs::Error),
    /// The caller wished to stop.
    #[error("unpacking was cancelled")]
    Cancelled,
}

/// A tar that cannot be read because the blob cannot is a matter of the blob.
impl From<ChangesetError> for UnpackError {
    fn from(error: ChangesetError) -> Self {
        match error {
            ChangesetError::Read { source, .. } => Self::Blob(source),
            other => Self::Tar(other),
        }
    }
}
