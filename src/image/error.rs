//! [`ImageError`]: what can be wrong with an image document.
//!
//! Every message begins with the place, as a path from the document's root (`manifest.layers[3].size`), so
//! that a person can find it in the file and a program need not parse the text.

use crate::digest::{Digest, DigestError};

use super::MediaType;

/// A document that was refused, and why.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ImageError {
    /// The document is longer than [`Limits::json_bytes`](crate::limits::Limits::json_bytes), or a list of images longer than
    /// [`Limits::list_bytes`](crate::limits::Limits::list_bytes).
    #[error("{document} has {bytes} bytes, and {limit} are the limit")]
    TooLarge {
        /// What was read.
        document: &'static str,
        /// Its length.
        bytes: u64,
        /// The limit that it exceeds.
        limit: u64,
    },
    /// Arrays and objects nest deeper than [`Limits::json_depth`](crate::limits::Limits::json_depth).
    #[error("{place} nests deeper than {limit} levels")]
    TooDeep {
        /// Where the limit is passed.
        place: String,
        /// The limit that is passed.
        limit: usize,
    },
    /// What it holds would take more memory than [`Limits::json_memory`](crate::limits::Limits::json_memory) allows; of a list of
    /// images, than [`Limits::documents_memory`](crate::limits::Limits::documents_memory).
    #[error("{place} is where the document would take more than {limit} bytes of memory")]
    TooMuchMemory {
        /// Where the limit is passed.
        place: String,
        /// The limit that is passed.
        limit: u64,
    },
    /// The bytes are not one JSON value; something behind the value is refused, too.
    #[error("{document} is not JSON: {reason} at line {line}, column {column}")]
    NotJson {
        /// What was read.
        document: &'static str,
        /// What the parser met.
        reason: String,
        /// Line, counted from 1.
        line: usize,
        /// Column, counted from 1.
        column: usize,
    },
    /// An object has the same key twice. Parsers differ in which one they believe, so neither is believed
    /// here.
    #[error("{place} is there twice")]
    DuplicateKey {
        /// The key with the path to it.
        place: String,
    },
    /// A key that other parsers take for a known one: Go compares field names without regard to case.
    #[error("{place} would be read as {meant:?} by some and ignored by others")]
    AmbiguousKey {
        /// The key with the path to it.
        place: String,
        /// The field that it resembles.
        meant: &'static str,
    },
    /// A field that must be there is absent or `null`.
    #[error("{place} is missing")]
    Missing {
        /// The field with the path to it.
        place: String,
    },
    /// A value of the wrong type.
    #[error("{place} should be {expected}, found {found}")]
    WrongType {
        /// The field with the path to it.
        place: String,
        /// What belongs there.
        expected: &'static str,
        /// What is there, abridged.
        found: String,
    },
    /// A digest that is none, or of an algorithm that is not known.
    #[error("{place} is not a usable digest")]
    BadDigest {
        /// The field with the path to it.
        place: String,
        /// What is wrong with it.
        source: DigestError,
    },
    /// A size below zero.
    #[error("{place} is negative: {size}")]
    NegativeSize {
        /// The field with the path to it.
        place: String,
        /// What it says.
        size: i64,
    },
    /// The embedded `data` of a descriptor is not the content that the descriptor names.
    #[error("{place} is not the content that its descriptor names: {source}")]
    EmbeddedData {
        /// The field with the path to it.
        place: String,
        /// In which respect it differs.
        source: Box<ImageError>,
    },
    /// A manifest or index of another schema than 2.
    #[error("{document} has schemaVersion {found}, only 2 is known")]
    SchemaVersion {
        /// What was read.
        document: &'static str,
        /// What stands there, `none` if nothing does.
        found: String,
    },
    /// The document's own `mediaType` is not that of the descriptor by which it was found, or not one of its
    /// kind.
    #[error("{document} calls itself {found}, expected {expected}")]
    MediaTypeMismatch {
        /// What was read.
        document: &'static str,
        /// The descriptor's media type, or the one for this kind of document.
        expected: MediaType,
        /// What the document says.
        found: MediaType,
    },
    /// A document that is a manifest to one reader and an index to another
    /// ([CVE-2021-41190](https://github.com/opencontainers/image-spec/security/advisories/GHSA-77vh-xpmg-72qh)).
    #[error("{document} has both {one:?} and {other:?}, which belong to a manifest and to an index")]
    ManifestAndIndex {
        /// What was read.
        document: &'static str,
        /// The field that fits.
        one: &'static str,
        /// The field that does not.
        other: &'static str,
    },
    /// Neither a manifest nor an index.
    #[error("{document} is neither a manifest nor an index")]
    UnknownDocument {
        /// What was read.
        document: &'static str,
    },
    /// The bytes are not as many as the descriptor says.
    #[error("{digest} has {actual} bytes, its descriptor says {expected}")]
    SizeMismatch {
        /// The content that was asked for.
        digest: Digest,
        /// Size in the descriptor.
        expected: u64,
        /// Bytes that are there.
        actual: u64,
    },
    /// The bytes are not those that the descriptor names.
    #[error("the content is {actual}, its descriptor says {expected}")]
    DigestMismatch {
        /// Digest in the descriptor.
        expected: Digest,
        /// Digest of the bytes.
        actual: Digest,
    },
    /// `rootfs.type` of the config is not `layers`, the only type there is.
    #[error("config.rootfs.type is {found:?}, expected \"layers\"")]
    RootFsType {
        /// What stands there.
        found: String,
    },
    /// Manifest and config disagree on the number of layers.
    #[error("the manifest lists {layers} layers and the config {diff_ids} diff ids")]
    LayerCount {
        /// Layers of the manifest.
        layers: usize,
        /// Diff ids of the config.
        diff_ids: usize,
    },
    /// A list is longer than [`Limits`](crate::limits::Limits) allows.
    #[error("{place} has {found} entries, and {limit} are the limit")]
    TooMany {
        /// The list with the path to it.
        place: &'static str,
        /// Its length.
        found: usize,
        /// The limit that it exceeds.
        limit: usize,
    },
}
