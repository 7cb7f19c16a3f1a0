//! [`Damage`]: one thing that is wrong in a store.

use std::fmt;
use std::path::PathBuf;

use super::error::StoreError;
use crate::digest::Digest;
use crate::layer::LayerKey;

/// Something that is not as it should be, and who needs it.
#[derive(Debug)]
#[non_exhaustive]
pub enum Damage {
    /// A manifest, an index or a config that is missing or cannot be read.
    Document {
        /// Its digest.
        digest: Digest,
        /// What is wrong with it.
        error: Box<StoreError>,
        /// The images and containers that need it.
        needed_by: Vec<String>,
    },
    /// A blob that is needed and is not there.
    BlobMissing {
        /// Its digest.
        digest: Digest,
        /// The images and containers that need it.
        needed_by: Vec<String>,
    },
    /// A blob that is longer or shorter than whoever needs it says.
    BlobSize {
        /// Its digest.
        digest: Digest,
        /// Bytes that it should have.
        expected: u64,
        /// Bytes that it has.
        found: u64,
        /// The images and containers that need it.
        needed_by: Vec<String>,
    },
    /// A blob whose bytes are not those that its name says.
    BlobContent {
        /// Its digest.
        digest: Digest,
        /// What its bytes hash to.
        found: Digest,
        /// The images and containers that need it; none, if nothing leads to it.
        needed_by: Vec<String>,
    },
    /// A blob that cannot be read.
    BlobUnreadable {
        /// Its digest.
        digest: Digest,
        /// Why.
        error: Box<StoreError>,
        /// The images and containers that need it; none, if nothing leads to it.
        needed_by: Vec<String>,
    },
    /// A layer that is not as it was unpacked.
    Layer {
        /// Its key.
        key: LayerKey,
        /// What is wrong with it, the first things.
        differences: Vec<String>,
        /// The other store that lends it, which only its owner can repair.
        lent_by: Option<PathBuf>,
        /// The images and containers that need it.
        needed_by: Vec<String>,
    },
    /// A container that cannot be used as it is.
    Container {
        /// Its id.
        id: String,
        /// Its name, if that can be read.
        name: Option<String>,
        /// What is wrong with it.
        error: Box<StoreError>,
    },
    /// A container whose name does not lead to it.
    ContainerName {
        /// Its id.
        id: String,
        /// Its name.
        name: String,
        /// The container that the name leads to, if it leads to one.
        found: Option<String>,
    },
    /// A read-only view of an image that has no record, or one that cannot be read.
    View {
        /// The name of its directory: the hexadecimal digits of the manifest's digest.
        id: String,
        /// Whether it is mounted.
        is_mounted: bool,
        /// What is wrong with it.
        error: Box<StoreError>,
    },
    /// Something in the store that is none of its own.
    Stranger {
        /// Where.
        path: PathBuf,
    },
}

impl Damage {
    /// A short stable word for what is wrong, for programs.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Document { .. } => "document",
            Self::BlobMissing { .. } => "blob-missing",
            Self::BlobSize { .. } => "blob-size",
            Self::BlobContent { .. } => "blob-content",
            Self::BlobUnreadable { .. } => "blob-unreadable",
            Self::Layer { .. } => "layer",
            Self::Container { .. } => "container",
            Self::ContainerName { .. } => "container-name",
            Self::View { .. } => "view",
            Self::Stranger { .. } => "stranger",
        }
    }

    /// What is damaged: a digest, a key, an id or a path.
    pub fn subject(&self) -> String {
        match self {
            Self::Document { digest, .. }
            | Self::BlobMissing { digest, .. }
            | Self::BlobSize { digest, .. }
            | Self::BlobContent { digest, .. }
            | Self::BlobUnreadable { digest, .. } => digest.to_string(),
            Self::Layer { key, .. } => key.to_string(),
            Self::Container { id, .. } | Self::ContainerName { id, .. } | Self::View { id, .. } => id.clone(),
            Self::Stranger { path } => path.display().to_string(),
        }
    }

    /// The images and containers that cannot do without it.
    pub fn needed_by(&self) -> &[String] {
        match self {
            Self::Document { needed_by, .. }
            | Self::BlobMissing { needed_by, .. }
            | Self::BlobSize { needed_by, .. }
            | Self::BlobContent { needed_by, .. }
            | Self::BlobUnreadable { needed_by, .. }
            | Self::Layer { needed_by, .. } => needed_by,
            Self::Container { .. }
            | Self::ContainerName { .. }
            | Self::View { .. }
            | Self::Stranger { .. } => &[],
        }
    }
}

impl fmt::Display for Damage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Document { digest, error, .. } => {
                write!(f, "document {digest} cannot be read: {}", Chain(error))
            }
            Self::BlobMissing { digest, .. } => write!(f, "blob {digest} is missing"),
            Self::BlobSize { digest, expected, found, .. } => {
                write!(f, "blob {digest} has {found} bytes, expected {expected}")
            }
            Self::BlobContent { digest, found, .. } => write!(f, "blob {digest} holds {found}"),
            Self::BlobUnreadable { digest, error, .. } => {
                write!(f, "blob {digest} cannot be read: {}", Chain(error))
            }
            Self::Layer { key, differences, lent_by: None, .. } => {
                write!(f, "layer {key} is not as it was: {}", differences.join("; "))
            }
            Self::Layer { key, differences, lent_by: Some(store), .. } => {
                write!(f, "layer {key}, which the store in {store:?} lends, is not as it was: ")?;
                f.write_str(&differences.join("; "))
            }
            Self::Container { id, name: Some(name), error } => {
                write!(f, "container {name} ({id}) cannot be used: {}", Chain(error))
            }
            Self::Container { id, name: None, error } => {
                write!(f, "container {id} cannot be used: {}", Chain(error))
            }
            Self::ContainerName { id, name, found: Some(found) } => {
                write!(f, "the name {name} of container {id} leads to {found}")
            }
            Self::ContainerName { id, name, found: None } => {
                write!(f, "the name {name} does not lead to container {id}")
            }
            Self::View { id, error, .. } => write!(f, "the view of image {id} is damaged: {}", Chain(error)),
            Self::Stranger { path } => write!(f, "{path:?} does not belong into a store"),
        }?;
        match self.needed_by() {
            [] => Ok(()),
            needed_by => write!(f, "; needed by {}", needed_by.join(", ")),
        }
    }
}

/// An error with its causes.
pub(super) struct Chain<'e>(pub(super) &'e StoreError);

impl fmt::Display for Chain<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)?;
        let mut cause = std::error::Error::source(self.0);
        while let Some(error) = cause {
            write!(f, ": {error}")?;
            cause = error.source();
        }
        Ok(())
    }
}
