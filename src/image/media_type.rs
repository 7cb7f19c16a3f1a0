//! [`MediaType`]: the name of a document's or a layer's format, and what it tells.
//!
//! Two families of names mean the same things, OCI's and docker's (schema 2). A document keeps the one it
//! came with; [`MediaType::to_oci`] and [`MediaType::to_docker`] convert on request. A name that nobody here
//! knows is carried along as it is.

use std::borrow::Cow;
use std::fmt;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::ImageError;
use super::json::{FromJson, Place};
use crate::codec::Encoding;

/// A media type, kept letter by letter.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct MediaType(Cow<'static, str>);

/// What something of a media type is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum MediaKind {
    /// An image manifest.
    Manifest,
    /// An image index, called manifest list by docker.
    Index,
    /// An image config.
    Config,
    /// A layer.
    Layer {
        /// The compression that the name claims. Contents decide: archives label layers loosely.
        compression: CompressionHint,
        /// Whether it may be passed on; docker says "foreign" where it may not.
        distributable: bool,
    },
    /// The two bytes `{}` that stand where an artifact has nothing.
    Empty,
    /// Anything else.
    Other,
}

/// The compression that a layer's media type claims.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum CompressionHint {
    /// A plain tar.
    None,
    /// gzip.
    Gzip,
    /// Zstandard.
    Zstd,
    /// Something else: a compression that is not known here, or an encryption around it.
    Unknown,
}

impl MediaType {
    /// OCI image index.
    pub const OCI_INDEX: Self = Self::fixed("application/vnd.oci.image.index.v1+json");
    /// OCI image manifest.
    pub const OCI_MANIFEST: Self = Self::fixed("application/vnd.oci.image.manifest.v1+json");
    /// OCI image config.
    pub const OCI_CONFIG: Self = Self::fixed("application/vnd.oci.image.config.v1+json");
    /// OCI layer, plain tar.
    pub const OCI_LAYER: Self = Self::fixed("application/vnd.oci.image.layer.v1.tar");
    /// OCI layer, gzip.
    pub const OCI_LAYER_GZIP: Self = Self::fixed("application/vnd.oci.image.layer.v1.tar+gzip");
    /// OCI layer, Zstandard.
    pub const OCI_LAYER_ZSTD: Self = Self::fixed("application/vnd.oci.image.layer.v1.tar+zstd");
    /// OCI's empty descriptor.
    pub const OCI_EMPTY: Self = Self::fixed("application/vnd.oci.empty.v1+json");
    /// Docker manifest list.
    pub const DOCKER_INDEX: Self = Self::fixed("application/vnd.docker.distribution.manifest.list.v2+json");
    /// Docker manifest, schema 2.
    pub const DOCKER_MANIFEST: Self = Self::fixed("application/vnd.docker.distribution.manifest.v2+json");
    /// Docker image config.
    pub const DOCKER_CONFIG: Self = Self::fixed("application/vnd.docker.container.image.v1+json");
    /// Docker layer, plain tar.
    pub const DOCKER_LAYER: Self = Self::fixed("application/vnd.docker.image.rootfs.diff.tar");
    /// Docker layer, gzip.
    pub const DOCKER_LAYER_GZIP: Self = Self::fixed("application/vnd.docker.image.rootfs.diff.tar.gzip");
    /// Docker layer, Zstandard.
    pub const DOCKER_LAYER_ZSTD: Self = Self::fixed("application/vnd.docker.image.rootfs.diff.tar.zstd");

    const fn fixed(name: &'static str) -> Self {
        Self(Cow::Borrowed(name))
    }

    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// What it is, whichever family it belongs to.
    pub fn kind(&self) -> MediaKind {
        if let Some((.., kind)) = self.pair() {
            return *kind;
        }
        let name = self.as_str();
        if *self == Self::OCI_EMPTY {
            MediaKind::Empty
        } else if name.starts_with("application/vnd.oci.image.layer.")
            || name.starts_with("application/vnd.docker.image.rootfs.")
        {
            let distributable = !name.contains(".nondistributable.") && !name.contains(".foreign.");
            MediaKind::Layer { compression: CompressionHint::Unknown, distributable }
        } else {
            MediaKind::Other
        }
    }

    /// Whether it is a layer, of whatever compression.
    pub fn is_layer(&self) -> bool {
        matches!(self.kind(), MediaKind::Layer { .. })
    }

    /// Whether it is a manifest or an index.
    pub fn is_document(&self) -> bool {
        matches!(self.kind(), MediaKind::Manifest | MediaKind::Index)
    }

    /// Whether it is a layer whose compression is known, and not one that is encrypted, say.
    pub fn is_open_layer(&self) -> bool {
        match self.kind() {
            MediaKind::Layer { compression, .. } => compression != CompressionHint::Unknown,
            _ => false,
        }
    }

    /// What such a layer is called if it is compressed like this; unchanged for what is no such layer.
    #[must_use]
    pub fn with_encoding(&self, encoding: Encoding) -> Self {
        let compression = match encoding {
            Encoding::None => CompressionHint::None,
            Encoding::Gzip { .. } => CompressionHint::Gzip,
            Encoding::Zstd { .. } => CompressionHint::Zstd,
        };
        match self.kind() {
            MediaKind::Layer { distributable, .. } if self.is_open_layer() => {
                let wanted = MediaKind::Layer { compression, distributable };
                let in_docker = self.to_oci() != *self;
                let same = PAIRS.iter().find(|(.., kind)| *kind == wanted);
                let name = same.map(|(oci, docker, _)| if in_docker { docker } else { oci });
                name.unwrap_or(self).clone()
            }
            _ => self.clone(),
        }
    }

    /// The same thing in OCI's words; unchanged if OCI has no name for it.
    #[must_use]
    pub fn to_oci(&self) -> Self {
        self.pair().map_or_else(|| self.clone(), |(oci, ..)| oci.clone())
    }

    /// The same thing in docker's words; unchanged if docker has no name for it.
    #[must_use]
    pub fn to_docker(&self) -> Self {
        self.pair().map_or_else(|| self.clone(), |(_, docker, _)| docker.clone())
    }

    fn pair(&self) -> Option<&'static (Self, Self, MediaKind)> {
        PAIRS.iter().find(|(oci, docker, _)| self == oci || self == docker)
    }
}

/// OCI's name, docker's name, and what both mean.
static PAIRS: [(MediaType, MediaType, MediaKind); 9] = {
    use CompressionHint::{Gzip, None, Zstd};
    const fn layer(compression: CompressionHint, distributable: bool) -> MediaKind {
        MediaKind::Layer { compression, distributable }
    }
    [
        (MediaType::OCI_INDEX, MediaType::DOCKER_INDEX, MediaKind::Index),
        (MediaType::OCI_MANIFEST, MediaType::DOCKER_MANIFEST, MediaKind::Manifest),
        (MediaType::OCI_CONFIG, MediaType::DOCKER_CONFIG, MediaKind::Config),
        (MediaType::OCI_LAYER, MediaType::DOCKER_LAYER, layer(None, true)),
        (MediaType::OCI_LAYER_GZIP, MediaType::DOCKER_LAYER_GZIP, layer(Gzip, true)),
        (MediaType::OCI_LAYER_ZSTD, MediaType::DOCKER_LAYER_ZSTD, layer(Zstd, true)),
        (
            MediaType::fixed("application/vnd.oci.image.layer.nondistributable.v1.tar"),
            MediaType::fixed("application/vnd.docker.image.rootfs.foreign.diff.tar"),
            layer(None, false),
        ),
        (
            MediaType::fixed("application/vnd.oci.image.layer.nondistributable.v1.tar+gzip"),
            MediaType::fixed("application/vnd.docker.image.rootfs.foreign.diff.tar.gzip"),
            layer(Gzip, false),
        ),
        (
            MediaType::fixed("application/vnd.oci.image.layer.nondistributable.v1.tar+zstd"),
            MediaType::fixed("application/vnd.docker.image.rootfs.foreign.diff.tar.zstd"),
            layer(Zstd, false),
        ),
    ]
};

impl From<String> for MediaType {
    fn from(name: String) -> Self {
        Self(Cow::Owned(name))
    }
}

impl From<&'static str> for MediaType {
    fn from(name: &'static str) -> Self {
        Self(Cow::Borrowed(name))
    }
}

impl PartialEq<str> for MediaType {
    fn eq(&self, name: &str) -> bool {
        self.as_str() == name
    }
}

impl fmt::Display for MediaType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl fmt::Debug for MediaType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self.as_str(), f)
    }
}

impl FromJson for MediaType {
    fn from_json(value: Value, place: &Place<'_>) -> Result<Self, ImageError> {
        String::from_json(value, place).map(Self::from)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_families_mean_the_same_and_convert_into_each_other() {
        for (oci, docker, kind) in &PAIRS {
            assert_eq!((oci.kind(), docker.kind()), (*kind, *kind));
            assert_eq!((oci.to_docker(), docker.to_oci()), (docker.clone(), oci.clone()));
            assert_eq!((oci.to_oci(), docker.to_docker()), (oci.clone(), docker.clone()));
        }
    }

    #[test]
    fn a_layer_of_unknown_wrapping_is_still_a_layer() {
        let kind = |name: &str| MediaType::from(name.to_owned()).kind();
        let unknown =
            |distributable| MediaKind::Layer { compression: CompressionHint::Unknown, distributable };
        assert_eq!(kind("application/vnd.oci.image.layer.v1.tar+gzip+encrypted"), unknown(true));
        assert_eq!(kind("application/vnd.oci.image.layer.nondistributable.v1.tar+xz"), unknown(false));
        assert_eq!(kind("application/vnd.docker.image.rootfs.foreign.diff.tar.xz"), unknown(false));
    }

    #[test]
    fn what_has_no_counterpart_is_left_alone() {
        for name in ["application/vnd.oci.empty.v1+json", "application/vnd.in-toto+json", ""] {
            let other = MediaType::from(name);
            assert_eq!((other.to_oci(), other.to_docker()), (other.clone(), other));
        }
        assert_eq!(MediaType::OCI_EMPTY.kind(), MediaKind::Empty);
        assert_eq!(MediaType::from("application/vnd.in-toto+json").kind(), MediaKind::Other);
    }
}
