//! What can be said to the commands about registries.

use std::path::PathBuf;

use clap::{Args, ValueHint};

/// Pull an image from a registry
///
/// Only what the store does not have is fetched, several blobs at a time, and layers are unpacked while they come. Every
/// digest is verified. An attempt that was interrupted is gone on with by the next. A name that is taken moves to the new image,
/// which is said.
#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  plywood pull debian:12
  plywood pull quay.io/me/web@sha256:5e8f...
  plywood pull --platform linux/arm64 --platform linux/amd64 debian:12
  docker login quay.io && plywood pull quay.io/me/private:1    # or podman login")]
pub(crate) struct PullArgs {
    /// Fetch the image for this platform (linux/arm64, for one); may be repeated [default: this machine]
    #[arg(long = "platform", value_name = "PLATFORM")]
    pub(crate) platforms: Vec<plywood::Platform>,
    /// Fetch the images for all platforms
    #[arg(long, conflicts_with = "platforms")]
    pub(crate) all_platforms: bool,
    /// Keep the layers packed until a container needs them
    #[arg(long)]
    pub(crate) on_demand: bool,
    #[command(flatten)]
    pub(crate) registry: RegistryArgs,
    /// Name of the image, with its registry unless that is Docker Hub
    #[arg(value_name = "NAME")]
    pub(crate) name: String,
}

/// Push an image to a registry
///
/// Nothing is sent that the registry has; the name comes last. An image for several platforms goes whole. Layers that are not
/// compressed here, as those of a commit, are compressed for the way: the digest is another there, the image id the same.
#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  plywood push localhost:5000/me/web:1
  plywood push web:1 quay.io/me/web:1
  plywood push --compression zstd web:1 quay.io/me/web:1
  docker login quay.io && plywood push quay.io/me/web:1        # or podman login")]
pub(crate) struct PushArgs {
    /// Push only the image for this platform of an image for several
    #[arg(long, value_name = "PLATFORM")]
    pub(crate) platform: Option<plywood::Platform>,
    /// Leave out platforms that are not here, rather than refuse to push
    #[arg(long, conflicts_with = "platform")]
    pub(crate) only_present: bool,
    /// How layers are compressed: keep, none, gzip[:0-9] or zstd[:1-22] [default: gzip for those that are not]
    #[arg(long, value_name = "METHOD")]
    pub(crate) compression: Option<plywood::LayerCompression>,
    #[command(flatten)]
    pub(crate) registry: RegistryArgs,
    /// The image
    #[arg(value_name = "IMAGE")]
    pub(crate) image: String,
    /// Where to, and what it is called there [default: the name that was said]
    #[arg(value_name = "DESTINATION")]
    pub(crate) destination: Option<String>,
}

/// How registries are spoken to.
#[derive(Args, Debug)]
#[command(next_help_heading = "Options for registries")]
pub(crate) struct RegistryArgs {
    /// Speak plain http, also where the registry is not on this machine
    #[arg(long, conflicts_with = "tls")]
    pub(crate) plain_http: bool,
    /// Speak TLS, also where the registry is on this machine
    #[arg(long)]
    pub(crate) tls: bool,
    /// Trust the certificates in this file (PEM) besides those of the system; may be repeated
    ///
    /// Each may be that of an authority or the registry's own. The name and the time in it have to be right.
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub(crate) certificate: Vec<PathBuf>,
    /// Credentials, as `docker login` and `podman login` write them
    ///
    /// Where it is not said, those are looked at that podman and docker use: $XDG_RUNTIME_DIR/containers/auth.json,
    /// ~/.config/containers/auth.json, then $DOCKER_CONFIG/config.json or ~/.docker/config.json. Programs that they name
    /// (docker-credential-NAME) are run.
    #[arg(long, value_name = "FILE", env = "REGISTRY_AUTH_FILE", value_hint = ValueHint::FilePath)]
    #[arg(hide_env_values = true)]
    pub(crate) authfile: Option<PathBuf>,
}
