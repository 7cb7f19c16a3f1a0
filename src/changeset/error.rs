//! [`ChangesetError`]: what can be wrong with a layer tar, and why an entry cannot be written.

use std::io;

use crate::path::{LayerPath, PathError};
use crate::whiteout::InvalidWhiteout;

/// Why a layer tar could not be read or written. `index` counts the entries of the tar from 0; names that were not
/// yet verified are escaped text.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ChangesetError {
    /// The stream does not begin with a tar header.
    #[error("not a tar archive: the first header's checksum is wrong")]
    NotTar,
    /// A header further on was damaged, or what came before it had another length than it said.
    #[error("tar entry {index} has a wrong header checksum: found {found}, expected {expected}")]
    Checksum {
        /// The entry.
        index: u64,
        /// Sum of the header's bytes.
        expected: u64,
        /// What the header says.
        found: String,
    },
    /// A field of a header or a PAX record holds no value of its kind.
    #[error("tar entry {index} has an invalid {field}: {found:?}")]
    Field {
        /// The entry.
        index: u64,
        /// Name of the header field or PAX keyword.
        field: String,
        /// What stands there.
        found: String,
    },
    /// An extended header is not a sequence of PAX records.
    #[error("tar entry {index} has a malformed extended header: {reason}")]
    ExtendedHeader {
        /// The entry.
        index: u64,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// The map of a sparse file contradicts itself or the size of the file.
    #[error("tar entry {index}{} has an invalid sparse map: {reason}", known(name))]
    Sparse {
        /// The entry.
        index: u64,
        /// The name in the tar.
        name: String,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// An entry names a place outside the layer, or one that cannot exist.
    #[error("tar entry {index} cannot be named {name:?}")]
    Path {
        /// The entry.
        index: u64,
        /// The name in the tar.
        name: String,
        /// Why.
        source: PathError,
    },
    /// A hard link refers to a place outside the layer, or one that cannot exist.
    #[error("tar entry {index} ({path}) cannot be a hard link to {target:?}")]
    LinkTarget {
        /// The entry.
        index: u64,
        /// The link.
        path: LayerPath,
        /// What it refers to, as it stands in the tar.
        target: String,
        /// Why.
        source: PathError,
    },
    /// A link without a target, or with one that no link can have.
    #[error("tar entry {index} ({path}) has an invalid link target {target:?}")]
    EmptyLink {
        /// The entry.
        index: u64,
        /// The link.
        path: LayerPath,
        /// What stands there.
        target: String,
    },
    /// A whiteout deletes no possible name.
    #[error("tar entry {index} is named {name:?}")]
    Whiteout {
        /// The entry.
        index: u64,
        /// The name in the tar.
        name: String,
        /// Why.
        source: InvalidWhiteout,
    },
    /// An entry would make the root of the layer something else than a directory.
    #[error("tar entry {index} makes the root of the layer a {found}, expected a directory")]
    Root {
        /// The entry.
        index: u64,
        /// What it is.
        found: &'static str,
    },
    /// A type of entry that means nothing in a layer: unknown, or part of a multi-volume archive.
    #[error("tar entry {index}{} has the type {typeflag:?}, which no layer may hold", known(name))]
    Type {
        /// The entry.
        index: u64,
        /// The name in the tar.
        name: String,
        /// The type flag.
        typeflag: char,
    },
    /// The tar asks for more than [`Limits`](crate::limits::Limits) allows.
    #[error("tar entry {index}{} exceeds the limit {limit} of {maximum}", known(name))]
    Limit {
        /// The entry.
        index: u64,
        /// The name in the tar, as far as it is known.
        name: String,
        /// Name of the field in `Limits`.
        limit: &'static str,
        /// Its value.
        maximum: u64,
    },
    /// The tar ends inside an entry.
    #[error("the tar is cut short: it ends inside entry {index}{}, {missing} bytes early", known(name))]
    Truncated {
        /// The entry.
        index: u64,
        /// The name in the tar, as far as it is known.
        name: String,
        /// How much of the entry is missing, at least.
        missing: u64,
    },
    /// One block of zeros, which is half an end mark, is followed by something else.
    #[error("the tar has a lone block of zeros where entry {index} should begin")]
    LoneZeroBlock {
        /// The entry that should begin there.
        index: u64,
    },
    /// The stream could not be read. A [`CodecError`](crate::codec::CodecError) may be inside.
    #[error("cannot read the tar at entry {index}")]
    Read {
        /// The entry.
        index: u64,
        /// Why.
        source: io::Error,
    },
    /// Reading went on after an error.
    #[error("reading this tar failed before")]
    FailedBefore,

    /// The name begins with `.wh.`, and so would be read as a deletion.
    #[error("{path} cannot be stored in a layer: names that begin with \".wh.\" are reserved")]
    ReservedName {
        /// The entry.
        path: LayerPath,
    },
    /// The entry has no form in a tar.
    #[error("{path} cannot be written to a tar: {reason}")]
    Unrepresentable {
        /// The entry.
        path: LayerPath,
        /// Why.
        reason: &'static str,
    },
    /// A file turned out shorter or longer than its entry said.
    #[error("{path} should have {expected} bytes, found {found}")]
    Size {
        /// The file.
        path: LayerPath,
        /// Size in the entry.
        expected: u64,
        /// How much came; where it is more, how much was accepted and offered until then.
        found: u64,
    },
    /// The data of a file could not be read.
    #[error("cannot read {path}")]
    Data {
        /// The file.
        path: LayerPath,
        /// Why.
        source: io::Error,
    },
    /// The tar could not be written.
    #[error("cannot write the tar at {path}")]
    Write {
        /// The entry that was being written.
        path: LayerPath,
        /// Why.
        source: io::Error,
    },
}

impl ChangesetError {
    /// Finds this error inside an [`io::Error`] that came from [`Body`](super::Body).
    pub fn of(error: &io::Error) -> Option<&Self> {
        error.get_ref()?.downcast_ref()
    }
}

impl From<ChangesetError> for io::Error {
    fn from(error: ChangesetError) -> Self {
        let kind = match &error {
            ChangesetError::Truncated { .. } => io::ErrorKind::UnexpectedEof,
            ChangesetError::Read { source, .. } => source.kind(),
            _ => io::ErrorKind::InvalidData,
        };
        Self::new(kind, error)
    }
}

/// A name in brackets; nothing while it is not known.
fn known(name: &str) -> String {
    if name.is_empty() { String::new() } else { format!(" ({name})") }
}

/// Bytes from a tar as text for a message, cut where a stranger wrote too much.
pub(super) fn printable(bytes: &[u8]) -> String {
    const SHOWN: usize = 300;
    match bytes.get(..SHOWN) {
        None => bytes.escape_ascii().to_string(),
        Some(start) => format!("{}…", start.escape_ascii()),
    }
}

pub(super) fn invalid(index: u64, field: &str, found: &[u8]) -> ChangesetError {
    ChangesetError::Field { index, field: field.to_owned(), found: printable(found) }
}

pub(super) fn limit(index: u64, name: &str, limit: &'static str, maximum: u64) -> ChangesetError {
    ChangesetError::Limit { index, name: name.to_owned(), limit, maximum }
}

pub(super) fn truncated(index: u64, name: &str, missing: u64) -> ChangesetError {
    ChangesetError::Truncated { index, name: name.to_owned(), missing }
}
