//! What can be said to the commands about images.

use std::path::PathBuf;

use clap::{Args, ValueEnum, ValueHint};

/// Load images from an archive or a directory
///
/// Takes what docker, podman, buildah, skopeo, umoci and containerd write: docker-archives of any age, OCI archives, OCI
/// directories; plain or compressed; from a file or a pipe. Every digest is verified. Loading the same again is cheap and
/// changes nothing. A name that is taken moves to the new image, which is said.
#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  plywood load -i debian.tar
  docker save debian:12 | plywood load
  plywood load ./an-oci-directory
  id=$(plywood load -q -i debian.tar)")]
pub(crate) struct LoadArgs {
    /// Archive to read; `-` is standard input
    #[arg(short, long, value_name = "FILE", value_hint = ValueHint::FilePath, conflicts_with = "path")]
    pub(crate) input: Option<PathBuf>,
    /// Archive or OCI directory; standard input if neither is given
    #[arg(value_name = "PATH", value_hint = ValueHint::AnyPath)]
    pub(crate) path: Option<PathBuf>,
    /// Repository of images whose only name is a tag, as in most OCI directories [default: the name of PATH]
    #[arg(long, value_name = "NAME")]
    pub(crate) repository: Option<plywood::image::Reference>,
    /// Keep the layers packed until a container needs them
    #[arg(long)]
    pub(crate) on_demand: bool,
}

/// List images
#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  plywood images
  plywood images --json | jq -r '.[] | select(.names == []) | .id'
  plywood rmi $(plywood images -q)")]
pub(crate) struct ImagesArgs {
    /// Do not shorten ids
    #[arg(long)]
    pub(crate) no_trunc: bool,
}

/// Show everything about images, as JSON
#[derive(Args, Debug)]
pub(crate) struct ImageInspectArgs {
    /// Images
    #[arg(required = true, value_name = "IMAGE")]
    pub(crate) images: Vec<String>,
}

/// Show how an image was made, newest step first
#[derive(Args, Debug)]
pub(crate) struct HistoryArgs {
    /// The image
    pub(crate) image: String,
    /// Do not shorten what created a layer
    #[arg(long)]
    pub(crate) no_trunc: bool,
}

/// Give an image one more name
///
/// A name that another image has moves to this one.
#[derive(Args, Debug)]
#[command(after_help = "\
Example:
  plywood tag debian:12 localhost:5000/base:stable")]
pub(crate) struct TagArgs {
    /// The image
    #[arg(value_name = "IMAGE")]
    pub(crate) source: String,
    /// The new name; its tag is `latest` if it has none
    #[arg(value_name = "NAME")]
    pub(crate) target: String,
}

/// Take names away; the images stay
#[derive(Args, Debug)]
pub(crate) struct UntagArgs {
    /// Names of images
    #[arg(required = true, value_name = "NAME")]
    pub(crate) names: Vec<String>,
}

/// Remove images
///
/// By one of several names, only that name goes. What no other image and no container needs is removed from disk by
/// `plywood gc`.
#[derive(Args, Debug)]
#[command(after_help = "\
Example:
  plywood rmi debian:12 && plywood gc")]
pub(crate) struct RmiArgs {
    /// Remove an image with all its names, also where containers use it: they keep what they need
    #[arg(short, long)]
    pub(crate) force: bool,
    /// Images
    #[arg(required = true, value_name = "IMAGE")]
    pub(crate) images: Vec<String>,
}

/// Write images as an archive or a directory
///
/// The result appears under its name when it is whole: a failed save leaves nothing, and what was there before stays. To an
/// OCI directory that exists the images are added; a name that is taken there moves. Equal images give equal bytes.
#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  plywood save -o web.tar me/web:1
  plywood save me/web:1 debian:12 | zstd > both.tar.zst
  plywood save me/web:1 | docker load
  plywood save --format oci-dir -o web/ me/web:1
  plywood save --format oci-archive --compression zstd:19 -o web.tar me/web:1
  plywood save --base debian:12 -o update.tar me/web:2     # for who has debian:12")]
pub(crate) struct SaveArgs {
    /// File to write, or directory for oci-dir; otherwise standard output
    #[arg(short, long, value_name = "FILE", value_hint = ValueHint::AnyPath)]
    pub(crate) output: Option<PathBuf>,
    /// Form of the archive
    #[arg(long, value_name = "FORMAT", default_value = "docker-archive")]
    pub(crate) format: Format,
    /// Save only the image for this platform (linux/arm64, for one) of images for several
    #[arg(long, value_name = "PLATFORM")]
    pub(crate) platform: Option<plywood::Platform>,
    /// How layers are compressed: keep, none, gzip[:0-9] or zstd[:1-22]; with a level, all are compressed anew
    #[arg(long, value_name = "METHOD", default_value = "keep")]
    pub(crate) compression: plywood::LayerCompression,
    /// Leave out the layers of this image, which the receiver has; may be repeated
    #[arg(long, value_name = "IMAGE")]
    pub(crate) base: Vec<String>,
    /// Leave out the layers whose digests this file names, in whatever form: what the receiver's `plywood inspect` prints
    /// will do
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub(crate) exclude_known: Vec<PathBuf>,
    /// Images
    #[arg(required = true, value_name = "IMAGE")]
    pub(crate) images: Vec<String>,
}

#[derive(ValueEnum, Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Format {
    /// A docker-archive with an OCI layout in it: docker, podman, containerd and skopeo read it
    DockerArchive,
    /// A docker-archive as docker wrote it before version 25, with plain layers, for tools that know nothing else
    ClassicDockerArchive,
    /// An OCI image layout in a tar
    OciArchive,
    /// An OCI image layout in a directory
    OciDir,
}

/// Mount a read-only view of an image and print where
#[derive(Args, Debug)]
pub(crate) struct ImageMountArgs {
    /// The image
    pub(crate) image: String,
}

/// Unmount the view of an image
#[derive(Args, Debug)]
pub(crate) struct ImageUmountArgs {
    /// The image
    pub(crate) image: String,
}
