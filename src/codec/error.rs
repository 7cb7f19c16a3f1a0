//! [`CodecError`]: what can be wrong with a compressed stream, and how it travels inside an [`io::Error`].

use std::io;

use super::Compression;

/// A compressed stream that cannot be believed. Positions count compressed bytes from the start of the stream.
///
/// [`Read`](io::Read) can only return an [`io::Error`]; [`CodecError::of`] finds this error inside it.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CodecError {
    /// The stream ends inside a member or frame: it was cut.
    #[error("the {compression} stream is cut short: it ends after {position} bytes, inside {inside}")]
    Truncated {
        /// How the stream is compressed.
        compression: Compression,
        /// Length of the stream.
        position: u64,
        /// What should have gone on.
        inside: &'static str,
    },
    /// The stream breaks the rules of its format.
    #[error("the {compression} stream is damaged near byte {position}: {reason}")]
    Corrupt {
        /// How the stream is compressed.
        compression: Compression,
        /// How far it could be read, roughly.
        position: u64,
        /// What the decompressor says.
        reason: String,
    },
    /// A gzip member unpacks to other bytes than its trailer says.
    #[error(
        "the gzip member that ends at byte {position} has checksum {found:08x}, its trailer says {expected:08x}"
    )]
    Checksum {
        /// End of the member.
        position: u64,
        /// CRC-32 in the trailer.
        expected: u32,
        /// CRC-32 of what was unpacked.
        found: u32,
    },
    /// A gzip member unpacks to another length than its trailer says.
    #[error(
        "the gzip member that ends at byte {position} holds {found} bytes (modulo 4 GiB), its trailer says {expected}"
    )]
    Length {
        /// End of the member.
        position: u64,
        /// Length in the trailer.
        expected: u32,
        /// Length of what was unpacked, modulo 2^32.
        found: u32,
    },
    /// Something follows the last member, frame or stream that is neither another one nor, for gzip, zeros.
    #[error("unknown data follows the {compression} stream at byte {position}")]
    Trailing {
        /// How the stream is compressed.
        compression: Compression,
        /// Where it begins.
        position: u64,
    },
    /// The stream unpacks to more than [`Limits::expansion`](crate::limits::Limits::expansion) allows.
    #[error("{compressed} bytes of {compression} unpack to more than {limit} times as much")]
    Expansion {
        /// How the stream is compressed.
        compression: Compression,
        /// Compressed bytes read until then.
        compressed: u64,
        /// The limit.
        limit: u64,
    },
    /// The stream, with the others of its image, holds more zeros than
    /// [`Limits::expansion_zeros`](crate::limits::Limits::expansion_zeros) allows.
    #[error(
        "with {compressed} bytes of {compression}, more than {limit} bytes of zeros are unpacked for one image"
    )]
    Zeros {
        /// How the stream is compressed.
        compression: Compression,
        /// Compressed bytes read until then.
        compressed: u64,
        /// The limit.
        limit: u64,
    },
    /// The stream has more parts that hold nothing, or next to nothing, than
    /// [`Limits::empty_parts`](crate::limits::Limits::empty_parts) allows.
    #[error(
        "{compressed} bytes of {compression} have more than {limit} streams, members, frames or blocks with no content"
    )]
    EmptyParts {
        /// How the stream is compressed.
        compression: Compression,
        /// Compressed bytes read until then.
        compressed: u64,
        /// The limit.
        limit: u64,
    },
    /// The stream has more bytes that unpack to nothing than
    /// [`Limits::idle_bytes`](crate::limits::Limits::idle_bytes) allows.
    #[error("of {compressed} bytes of {compression} more than {limit} unpack to nothing")]
    Idle {
        /// How the stream is compressed.
        compression: Compression,
        /// Compressed bytes read until then.
        compressed: u64,
        /// The limit.
        limit: u64,
    },
    /// The compression has no such level.
    #[error("{compression} has no level {level}, only {lowest} to {highest}")]
    Level {
        /// The compression asked for.
        compression: Compression,
        /// The level asked for.
        level: i32,
        /// The lowest there is.
        lowest: i32,
        /// The highest there is.
        highest: i32,
    },
}

impl CodecError {
    /// Finds the error that a [`Decoder`](super::Decoder) put into an [`io::Error`], however many readers passed it on
    /// as the source of their own.
    pub fn of(error: &io::Error) -> Option<&Self> {
        let mut cause: Option<&(dyn std::error::Error + 'static)> = error.get_ref().map(|inner| inner as _);
        while let Some(error) = cause {
            if let Some(found) = error.downcast_ref::<Self>() {
                return Some(found);
            }
            cause = match error.downcast_ref::<io::Error>() {
                // An io::Error reports the source of what it wraps, not what it wraps.
                Some(io) => io.get_ref().map(|inner| inner as _),
                None => error.source(),
            };
        }
        None
    }
}

impl From<CodecError> for io::Error {
    fn from(error: CodecError) -> Self {
        let kind = match error {
            CodecError::Truncated { .. } => io::ErrorKind::UnexpectedEof,
            CodecError::Level { .. } => io::ErrorKind::InvalidInput,
            _ => io::ErrorKind::InvalidData,
        };
        Self::new(kind, error)
    }
}
