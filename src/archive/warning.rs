//! [`Warning`]: what is odd about an image that was loaded or saved nonetheless.

use crate::digest::Digest;
use crate::image::{ConfigWarning, MediaType, Platform, Reference};

/// Something that whoever loads or saves an image may want to know.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Warning {
    /// Two images of one archive have the same name; this one lost it, for the last wins.
    #[error("{} is given to {winner} too, which comes later and gets it", name.familiar())]
    NameTaken {
        /// The name.
        name: Reference,
        /// The image that has it now.
        winner: Digest,
    },
    /// The annotation that names the image holds nothing but a tag, and no repository is known that it could belong to.
    #[error("the image has no name, only the tag {tag:?}")]
    OnlyTag {
        /// The tag.
        tag: String,
    },
    /// The annotation that names the image holds no name.
    #[error("{text:?} is not an image name and is left out")]
    NotAName {
        /// What stands there.
        text: String,
    },
    /// The archive gives the image a name that reads as an image id or a digest, which would then mean this image.
    #[error("the name {text:?} reads as an image id or a digest and is left out")]
    NameReadsAsId {
        /// The name.
        text: String,
    },
    /// The archive gives the image a name with a digest that is not the image's.
    #[error("the name {} is left out, because the image has the digest {digest}", name.familiar())]
    FalseDigest {
        /// The name.
        name: Reference,
        /// The digest that the image has.
        digest: Digest,
    },
    /// The index lists a manifest that the archive does not have. The index is kept whole.
    #[error("the manifest {manifest}{} is absent", for_platform(platform))]
    AbsentManifest {
        /// The manifest.
        manifest: Digest,
        /// The platform it is for, as the index says.
        platform: Option<Platform>,
    },
    /// The archive has the manifest but not all it refers to, so it counts as absent.
    #[error("the image {manifest}{} is incomplete: {missing} is absent", for_platform(platform))]
    IncompleteManifest {
        /// The manifest.
        manifest: Digest,
        /// The platform it is for, as the index says.
        platform: Option<Platform>,
        /// What is not there.
        missing: Digest,
    },
    /// No part of the image is for this machine.
    #[error("the image is for {offered}, this machine is {host}")]
    ForeignPlatform {
        /// A platform that it is for, the first if there are several.
        offered: Platform,
        /// The platform of this machine.
        host: Platform,
    },
    /// The archive or registry does not have a layer of a type that must not be passed on. The descriptor of the layer says
    /// from where it can be downloaded.
    #[error("the layer {layer} is absent: it is of a type that must not be passed on")]
    ForeignLayer {
        /// The layer.
        layer: Digest,
    },
    /// Something is listed that is neither a manifest nor an index. It is kept.
    #[error("{digest} is of the unknown type {media_type}")]
    UnknownType {
        /// Its digest.
        digest: Digest,
        /// Its media type.
        media_type: MediaType,
    },
    /// A docker-archive got layers in Zstandard, which docker reads since version 23.
    #[error("layers of {target} are compressed with zstd, and docker before version 23 cannot load it")]
    NeedsDocker23 {
        /// What was saved.
        target: Digest,
    },
    /// What is saved is no image, so `manifest.json` cannot list it; `index.json` does.
    #[error("{target} is no image and is not listed in manifest.json")]
    NotForDocker {
        /// What was to be saved.
        target: Digest,
    },
    /// The config of an image is odd.
    #[error("{warning}")]
    Config {
        /// The config.
        config: Digest,
        /// What is odd.
        warning: ConfigWarning,
    },
}

fn for_platform(platform: &Option<Platform>) -> String {
    platform.as_ref().map(|platform| format!(" for {platform}")).unwrap_or_default()
}
