//! [`LoadError`] and [`SaveError`]: why an archive was refused, and why one could not be written.

use std::io;
use std::path::PathBuf;

use crate::blob::BlobError;
use crate::changeset::ChangesetError;
use crate::codec::CodecError;
use crate::digest::{DiffId, Digest};
use crate::fs;
use crate::image::{ImageError, MediaType, Platform, ReferenceError};

/// Why an archive or a layout was not loaded. Nothing of it is visible then.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LoadError {
    /// It is something else than an image archive.
    #[error("not an image archive, but {found}")]
    NotAnArchive {
        /// What it seems to be.
        found: String,
    },
    /// A root file system was expected, and it is something else.
    #[error("not a tar of a root file system, but {found}")]
    NotATar {
        /// What it seems to be.
        found: String,
    },
    /// The tar of an image was given where that of a root file system belongs.
    #[error("this is an image archive, as {member:?} in it says, and no root file system")]
    ImageArchive {
        /// The member.
        member: &'static str,
    },
    /// It is compressed in a way that is not understood.
    #[error("the archive is compressed with {format}, which is not supported: decompress it first")]
    Unsupported {
        /// The compression.
        format: &'static str,
    },
    /// It ends inside a member.
    #[error("the archive is cut short: it ends inside {}, {missing} bytes early", shown(member))]
    Truncated {
        /// The member.
        member: String,
        /// How much of it is missing, at least.
        missing: u64,
    },
    /// It is compressed, and the compressed stream is damaged.
    #[error("cannot decompress the archive")]
    Codec(#[source] CodecError),
    /// It is not a sequence of members.
    #[error("the archive is damaged")]
    Tar(#[source] ChangesetError),
    /// It could not be read.
    #[error("cannot read the archive")]
    Read(#[source] io::Error),
    /// What was read could not be stored.
    #[error("cannot store the layer")]
    Write(#[source] io::Error),
    /// It refers to a member that it does not have.
    #[error("{} is missing, {wanted_by:?} refers to it", shown(member))]
    MissingMember {
        /// The member.
        member: String,
        /// The document that names it.
        wanted_by: String,
    },
    /// Layers are neither in the archive nor where it is loaded to. It may have been saved for somebody who has them.
    #[error("{}", lacking(layers))]
    MissingLayers {
        /// All that are missing, of all images.
        layers: Vec<MissingLayer>,
    },
    /// A document that there can be only one of is there twice.
    #[error("{} is in the archive twice", shown(member))]
    DuplicateManifest {
        /// The document.
        member: String,
    },
    /// A link does not lead to a member of the same archive.
    #[error("{} is a link to {target:?}, {reason}", shown(member))]
    Link {
        /// The link.
        member: String,
        /// What it refers to.
        target: String,
        /// What is wrong with that.
        reason: &'static str,
    },
    /// A member is not the content that is expected under its name.
    #[error("{} is {actual}, expected {expected}", shown(member))]
    DigestMismatch {
        /// The member.
        member: String,
        /// What it should be.
        expected: Digest,
        /// What it is.
        actual: Digest,
    },
    /// A member has another length than its descriptor says.
    #[error("{} has {actual} bytes, expected {expected}", shown(member))]
    SizeMismatch {
        /// The member.
        member: String,
        /// Bytes that the descriptor promises.
        expected: u64,
        /// Bytes that there are.
        actual: u64,
    },
    /// A layer is not the one that the config lists.
    #[error("layer {} is {actual}, the config lists {expected} in its place", shown(member))]
    DiffIdMismatch {
        /// The member.
        member: String,
        /// The layer that the config lists.
        expected: DiffId,
        /// The layer that is there.
        actual: DiffId,
    },
    /// `manifest.json` gives an image a name that is none.
    #[error("{} names an image {tag:?}", shown(member))]
    InvalidTag {
        /// The document.
        member: String,
        /// The name.
        tag: String,
        /// What is wrong with it.
        source: ReferenceError,
    },
    /// A document is not what it should be.
    #[error("{} is refused", shown(member))]
    Image {
        /// The document.
        member: String,
        /// What is wrong with it.
        source: ImageError,
    },
    /// There are images for other platforms only.
    #[error("{} has no image for {wanted}, only for {}", shown(member), list(found))]
    NoPlatform {
        /// The index.
        member: String,
        /// The platform that was asked for.
        wanted: Box<Platform>,
        /// Those that there are images for.
        found: Vec<Platform>,
    },
    /// It could not be brought from where it is.
    #[error("cannot fetch {digest}")]
    Fetch {
        /// The content.
        digest: Digest,
        /// What went wrong there.
        source: io::Error,
    },
    /// `oci-layout` is of a version that is not known.
    #[error("\"oci-layout\" is not of version 1: {reason}")]
    Layout {
        /// What is wrong with it.
        reason: String,
    },
    /// Everything is in order, but there is no image.
    #[error("{} lists no image", shown(member))]
    NoImage {
        /// The document.
        member: String,
    },
    /// It asks for more than [`Limits`](crate::limits::Limits) allows.
    #[error("{} exceeds the limit {limit} of {maximum}", shown(member))]
    Limit {
        /// The member or document.
        member: String,
        /// Name of the field in `Limits`.
        limit: &'static str,
        /// Its value.
        maximum: u64,
    },
    /// The caller asked to stop.
    #[error("loading was cancelled")]
    Cancelled,
    /// A blob could not be stored or read.
    #[error(transparent)]
    Blob(#[from] BlobError),
    /// The file system refused one step.
    #[error(transparent)]
    Io(#[from] fs::Error),
}

/// A layer that is needed and nowhere.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct MissingLayer {
    /// The member that it would be.
    pub member: String,
    /// Its diff id.
    pub diff_id: DiffId,
    /// The document that names it.
    pub wanted_by: String,
}

fn lacking(layers: &[MissingLayer]) -> String {
    let each = |MissingLayer { member, diff_id, wanted_by }: &MissingLayer| {
        match member.is_empty() {
            // Buildpacks leave layers out that the receiver has, and say nothing of where they would be.
            true => format!("layer {diff_id} is missing, {wanted_by:?} has no file name for it"),
            false => format!("{member:?} (layer {diff_id}) is missing, {wanted_by:?} refers to it"),
        }
    };
    layers.iter().map(each).collect::<Vec<_>>().join("; ")
}

/// Returns the name of a member for a message: in quotation marks, if there is one.
fn shown(member: &str) -> String {
    match member {
        "" => "a member without a name".to_owned(),
        _ => format!("{member:?}"),
    }
}

/// Carried by the [`io::Error`] of a reader that was told to stop.
#[derive(Debug, thiserror::Error)]
#[error("cancelled")]
pub(super) struct Cancelled;

impl LoadError {
    pub(super) fn image(member: impl Into<String>, source: ImageError) -> Self {
        Self::Image { member: member.into(), source }
    }

    /// What failed when the stream was read, without the layers of readers in between.
    pub(crate) fn of_stream(error: io::Error) -> Self {
        if error.get_ref().is_some_and(|inner| inner.is::<Cancelled>()) {
            return Self::Cancelled;
        }
        match CodecError::of(&error) {
            Some(error) => Self::Codec(error.clone()),
            None => Self::Read(error),
        }
    }

    /// What failed when the tar was read.
    pub(super) fn of_tar(error: ChangesetError) -> Self {
        match error {
            ChangesetError::Truncated { name, missing, .. } => Self::Truncated { member: name, missing },
            ChangesetError::Limit { name, limit: "entries", maximum, .. } => {
                Self::Limit { member: name, limit: "archive_members", maximum }
            }
            ChangesetError::Limit { name, limit, maximum, .. } => {
                Self::Limit { member: name, limit, maximum }
            }
            ChangesetError::Read { source, .. } => Self::of_stream(source),
            other => Self::Tar(other),
        }
    }
}

/// Why an archive or a layout could not be written. What was written of an archive until then is worth nothing; a
/// layout still lists what it listed before.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SaveError {
    /// No image was asked for.
    #[error("there is no image to save")]
    NoImage,
    /// An image is not whole, or its documents are refused.
    #[error("cannot save the image {image}")]
    Image {
        /// What was asked for.
        image: Digest,
        /// What is wrong with it.
        source: LoadError,
    },
    /// There is no image for the platform that was asked for.
    #[error("the image {image} is not for {wanted}, but for {}", list(found))]
    NoPlatform {
        /// What was asked for.
        image: Digest,
        /// The platform that was asked for.
        wanted: Platform,
        /// The platforms that there are.
        found: Vec<Platform>,
    },
    /// Something is no image, and the form of the archive has room for images only.
    #[error("{target} is no image, which a classic docker-archive cannot hold")]
    NotForDocker {
        /// What was asked for.
        target: Digest,
    },
    /// Docker's documents have no place for something that an image has.
    #[error("docker's media types have no place for {what}, as {document} has")]
    NotInDocker {
        /// The manifest or index.
        document: Digest,
        /// What has no place.
        what: String,
    },
    /// A layer is needed as a plain tar, and nobody knows what it is: it may be encrypted.
    #[error("layer {layer} of type {media_type} cannot be decompressed")]
    ClosedLayer {
        /// The layer.
        layer: Digest,
        /// What it is said to be.
        media_type: MediaType,
    },
    /// A layer could not be decompressed.
    #[error("cannot read layer {layer}")]
    Layer {
        /// The layer.
        layer: Digest,
        /// What is wrong with it.
        source: LoadError,
    },
    /// Layers are to be compressed anew, and there is no place for them: a read-only store has none.
    #[error("there is no place to write layers to that are compressed anew")]
    NoWorkspace,
    /// A blob could not be read, or is not what its name says.
    #[error(transparent)]
    Blob(#[from] BlobError),
    /// The archive could not be written. A [`ChangesetError::Write`] has the reason.
    #[error("cannot write the archive")]
    Write(#[source] ChangesetError),
    /// The directory has other things in it and is no layout.
    #[error("{path:?} is not empty and no OCI layout")]
    NotALayout {
        /// The directory.
        path: PathBuf,
    },
    /// The layout was opened with blobs from another directory, where nothing is written.
    #[cfg(feature = "ocidir")]
    #[error("the layout in {path:?} has its blobs elsewhere, in {blobs:?}")]
    ExternalBlobs {
        /// The directory of the layout.
        path: PathBuf,
        /// Where it has them.
        blobs: PathBuf,
    },
    /// The layout that is there lists its images in a way that is refused.
    #[error("cannot add to {path:?}")]
    Index {
        /// The `index.json` of the layout.
        path: PathBuf,
        /// What is wrong with it.
        source: ImageError,
    },
    /// The list of the images and names would be longer than readers accept.
    #[error("{document} would go beyond the limit `{limit}`: save fewer images or names at a time")]
    TooManyNames {
        /// The document: `index.json`, `manifest.json` or `repositories`.
        document: &'static str,
        /// The field of [`Limits`](crate::limits::Limits): `images`, `list_bytes` or `documents_memory`.
        limit: &'static str,
        /// What a reader would say.
        source: ImageError,
    },
    /// Platforms that the image lists are neither here nor where it was to be delivered to.
    #[error("the image {image} is not here for {}", absent.join(", "))]
    AbsentPlatforms {
        /// What was asked for.
        image: Digest,
        /// The platforms; the digest where one has none.
        absent: Vec<String>,
    },
    /// The receiver does not take something. The source says who that is.
    #[error("cannot deliver {digest}")]
    Deliver {
        /// What it does not take.
        digest: Digest,
        /// Why.
        source: std::io::Error,
    },
    /// The caller asked to stop.
    #[error("saving was cancelled")]
    Cancelled,
    /// The file system refused one step.
    #[error(transparent)]
    Io(#[from] fs::Error),
}

fn list(platforms: &[Platform]) -> String {
    platforms.iter().map(Platform::to_string).collect::<Vec<_>>().join(", ")
}
