//! [`Error`]: every area's error under one roof, for callers who only want `?`.
//!
//! Each part of this crate has an error of its own, with one variant for each thing that a caller would do differently.
//! This one holds any of them, says what it says and adds nothing.

use std::io;

use crate::archive::{LoadError, SaveError};
use crate::blob::BlobError;
use crate::changeset::ChangesetError;
use crate::codec::CodecError;
use crate::container::{ContainerError, CopyError};
use crate::digest::DigestError;
use crate::driver::DriverError;
use crate::image::time::TimeError;
use crate::image::{ChangeError, ImageError, PlatformError, ReferenceError};
use crate::layer::{DiffError, LayerError, LayerKeyError, PackError, UnpackError};
use crate::open_files::{self, OpenFiles};
use crate::path::PathError;
use crate::store::{StoreError, UnmountError};

/// Anything that can go wrong in this crate.
///
/// ```
/// fn find(store: &plywood::Store, name: &str) -> Result<plywood::Image, plywood::Error> {
///     let name: plywood::Reference = name.parse()?; // a ReferenceError
///     Ok(store.image(&name.canonical())?) // a StoreError
/// }
/// # let dir = tempfile::tempdir().unwrap();
/// # let store = plywood::Store::create(dir.path()).unwrap();
/// let error = find(&store, "debian:12").unwrap_err();
/// assert_eq!(error.kind(), "not-found");
/// assert_eq!(error.to_string(), r#"there is no image "docker.io/library/debian:12""#);
/// assert_eq!(find(&store, "Debian:12").unwrap_err().kind(), "invalid-name");
/// ```
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A store, or one of the parts that it is made of, could not do what it was asked to.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A root could not be unmounted. It is in here, still mounted; dropping the error tries once more.
    #[error(transparent)]
    Unmount(#[from] UnmountError),
    /// A layer could not be unpacked.
    #[error(transparent)]
    Unpack(#[from] UnpackError),
    /// A compressed stream is damaged.
    #[error(transparent)]
    Codec(#[from] CodecError),
    /// A document of an image was refused.
    #[error(transparent)]
    Image(#[from] ImageError),
    /// A text is no name of an image.
    #[error(transparent)]
    Reference(#[from] ReferenceError),
    /// A text is no digest.
    #[error(transparent)]
    Digest(#[from] DigestError),
    /// A text is no platform.
    #[error(transparent)]
    Platform(#[from] PlatformError),
    /// A text is no time, or a time has no text.
    #[error(transparent)]
    Time(#[from] TimeError),
    /// A text is no key of a layer.
    #[error(transparent)]
    LayerKey(#[from] LayerKeyError),
    /// Some bytes are no name inside a layer.
    #[error(transparent)]
    Path(#[from] PathError),
    /// The caller's own reader, writer or file failed.
    #[error(transparent)]
    Io(#[from] io::Error),
}

impl Error {
    /// A short stable word for what went wrong, for programs: `not-found`, `name-in-use`, `digest-mismatch`, `no-space`
    /// and so on; [`StoreError::kind`] has most of them.
    pub fn kind(&self) -> &'static str {
        match self {
            error if OpenFiles::of(error).is_some() => open_files::KIND,
            Self::Store(error) => error.kind(),
            Self::Unmount(error) => error.source.kind(),
            Self::Unpack(UnpackError::DiffIdMismatch { .. }) => "diff-id-mismatch",
            Self::Unpack(UnpackError::Cancelled) => "cancelled",
            Self::Unpack(UnpackError::Tar(ChangesetError::Limit { .. })) => "limit",
            Self::Unpack(UnpackError::Blob(error)) => CodecError::of(error).map_or("io", codec),
            Self::Unpack(UnpackError::Io(_)) | Self::Io(_) => "io",
            Self::Unpack(_) => "invalid-layer",
            Self::Codec(error) => codec(error),
            Self::Image(_) => "invalid-image",
            Self::Reference(_) => "invalid-name",
            Self::Digest(_) => "invalid-digest",
            Self::Platform(_) => "invalid-platform",
            Self::Time(_) => "invalid-time",
            Self::LayerKey(_) => "invalid-key",
            Self::Path(_) => "invalid-path",
        }
    }
}

fn codec(error: &CodecError) -> &'static str {
    match error {
        CodecError::Truncated { .. } => "truncated",
        CodecError::Expansion { .. }
        | CodecError::Zeros { .. }
        | CodecError::EmptyParts { .. }
        | CodecError::Idle { .. } => "limit",
        _ => "corrupt",
    }
}

#[cfg(feature = "registry")]
impl From<crate::registry::RegistryError> for Error {
    fn from(error: crate::registry::RegistryError) -> Self {
        StoreError::from(error).into()
    }
}

/// What a store's error holds already is not held twice.
macro_rules! by_way_of {
    ($($error:ty => $outer:ty;)*) => {$(
        impl From<$error> for Error {
            fn from(error: $error) -> Self {
                <$outer>::from(error).into()
            }
        }
    )*};
}

by_way_of! {
    LoadError => StoreError;
    SaveError => StoreError;
    BlobError => StoreError;
    LayerError => StoreError;
    DriverError => StoreError;
    ContainerError => StoreError;
    CopyError => StoreError;
    ChangeError => StoreError;
    crate::fs::Error => StoreError;
    DiffError => ContainerError;
    PackError => ContainerError;
    ChangesetError => PackError;
}
