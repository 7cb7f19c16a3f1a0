//! What can be said to the commands about images.

use std::path::PathBuf;

use clap::{Args, ValueEnum, ValueHint};

use super::image_filter;

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
    /// Of images for several platforms, load only that for this one (linux/arm64, say); may be given more than once
    #[arg(long = "platform", value_name = "PLATFORM")]
    pub(crate) platforms: Vec<plywood::Platform>,
    /// Keep the layers packed until a container needs them
    #[arg(long)]
    pub(crate) on_demand: bool,
}

/// List images
#[derive(Args, Debug)]
#[command(after_help = "\
A FILTER is one of:
  dangling=BOOL       has no name, or has one
  reference=NAME      is called so; * and ? stand for anything
  label=KEY[=VALUE]   has this label
  until=TIME          made before TIME: 24h (ago), 2006-01-02, 2006-01-02T15:04:05Z

Examples:
  plywood images
  plywood images 'localhost:5000/*'
  plywood images -q -f dangling=true
  plywood images --json | jq -r '.[] | select(.names == []) | .id'
  plywood rmi $(plywood images -q)")]
pub(crate) struct ImagesArgs {
    /// Only images that are called so, with or without a tag; * and ? stand for anything
    pub(crate) name: Option<String>,
    /// Only what this filter lets through; may be given more than once, see below
    #[arg(short, long = "filter", value_name = "FILTER", value_parser = image_filter)]
    pub(crate) filters: Vec<super::ImageFilter>,
    /// Also show digests: of a name by digest that digest, otherwise that of the manifest
    #[arg(long)]
    pub(crate) digests: bool,
    /// Do not shorten ids
    #[arg(long)]
    pub(crate) no_trunc: bool,
    /// Accepted for docker's sake: all images are always listed
    #[arg(short, long, hide = true)]
    pub(crate) all: bool,
}

/// Show everything about images, as JSON
#[derive(Args, Debug)]
pub(crate) struct ImageInspectArgs {
    /// Images
    #[arg(required = true, value_name = "IMAGE")]
    pub(crate) images: Vec<String>,
    /// Of an image for several platforms, that for this one (linux/arm64, say) [default: this machine]
    #[arg(long, value_name = "PLATFORM")]
    pub(crate) platform: Option<plywood::Platform>,
    /// Print only this of each: text with fields in it, as '{{.Id}}' or '{{json .Config}}'
    #[arg(short, long, value_name = "TEMPLATE", conflicts_with = "json")]
    pub(crate) format: Option<crate::template::Template>,
    /// Print a document of one image as it is stored, byte for byte: what its name points at, its manifest, or its config
    #[arg(long, value_name = "DOCUMENT", num_args = 0..=1, require_equals = true, default_missing_value = "target")]
    #[arg(conflicts_with_all = ["format", "json"])]
    pub(crate) raw: Option<super::Document>,
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

/// List what says something about an image: signatures, bills of materials and the like
///
/// These are manifests that name the image's manifest, or the index that lists it, as their subject. They come with archives
/// and directories that have them, mostly without a name of their own.
#[derive(Args, Debug)]
pub(crate) struct ReferrersArgs {
    /// An image, or the digest of something that need not be here
    #[arg(value_name = "IMAGE|DIGEST")]
    pub(crate) subject: String,
    /// Only artifacts of this type
    #[arg(long = "type", value_name = "TYPE")]
    pub(crate) kind: Option<String>,
}

/// Give an image one more name
///
/// A name that another image has moves to this one. A name with a digest (`name@sha256:…`) must have the digest of the image. A
/// name that reads as an image id or a digest is refused.
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
/// By one of several names, including `name@sha256:…`, only that name is removed. A complete id, as `plywood images -q` prints
/// it, removes the image with all its names; the beginning of an id is refused if there are several. `plywood gc` then removes
/// from disk what no other image and no container needs.
#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  plywood rmi debian:12 && plywood gc
  plywood rmi $(plywood images -q)")]
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

/// Make an image of a root file system
///
/// A tar, plain or compressed, becomes the one layer of the image as it is; a directory is packed. Prints the id. Of a tar from
/// `plywood export --config`, the image has the config and the history of the one that it was exported from.
#[derive(Args, Debug)]
#[command(after_help = "\
A CHANGE is a line of a Dockerfile: CMD, ENTRYPOINT, ENV, EXPOSE, HEALTHCHECK, LABEL, ONBUILD,
SHELL, STOPSIGNAL, USER, VOLUME, WORKDIR.

Examples:
  plywood import root.tar.xz me/base:1 -c 'CMD [\"/bin/sh\"]'
  debootstrap stable root && plywood import root debian:stable
  docker export web | plywood import - web:1")]
pub(crate) struct ImportArgs {
    /// Tar or directory; `-` is a tar on standard input
    #[arg(value_name = "SOURCE", value_hint = ValueHint::AnyPath)]
    pub(crate) source: PathBuf,
    /// Name of the image; it gets none if this is left out
    pub(crate) name: Option<String>,
    /// Take an image archive for a root file system with the files that are in it
    #[arg(short, long)]
    pub(crate) force: bool,
    /// What it runs on, as linux/arm64 [default: this machine]
    #[arg(long, value_name = "PLATFORM")]
    pub(crate) platform: Option<plywood::Platform>,
    #[command(flatten)]
    pub(crate) made: super::NewImageArgs,
}

/// Write one layer of an image as the tar that it is
///
/// Deletions are in it as whiteouts (names that begin with .wh.), as the image specification has them.
#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  plywood layer web:1 | tar -t           # the top layer
  plywood layer -o base.tar web:1 1      # the lowest
  plywood layer sha256:5e8f... -o it.tar # by diff id, as `plywood history` prints it with --no-trunc")]
pub(crate) struct LayerArgs {
    /// File to write; otherwise standard output
    #[arg(short, long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub(crate) output: Option<PathBuf>,
    /// An image, or the diff id of a layer
    #[arg(value_name = "IMAGE|DIFF-ID")]
    pub(crate) layer: String,
    /// Which layer of the image, 1 being the lowest [default: the top one]
    #[arg(value_name = "NUMBER")]
    pub(crate) number: Option<usize>,
}

/// Mount a read-only view of an image and print where
#[derive(Args, Debug)]
pub(crate) struct ImageMountArgs {
    /// Of an image for several platforms, that for this one (linux/arm64, say) [default: this machine]
    #[arg(long, value_name = "PLATFORM")]
    pub(crate) platform: Option<plywood::Platform>,
    /// The image
    pub(crate) image: String,
}

/// Unmount the view of an image
#[derive(Args, Debug)]
pub(crate) struct ImageUmountArgs {
    /// Of an image for several platforms, that for this one (linux/arm64, say) [default: this machine]
    #[arg(long, value_name = "PLATFORM")]
    pub(crate) platform: Option<plywood::Platform>,
    /// The image
    pub(crate) image: String,
}
