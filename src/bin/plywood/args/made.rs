//! What can be said of an image that a command makes, and the commands that make one of another.

use clap::{ArgGroup, Args, ValueEnum};
use plywood::image::{ConfigChange, Reference};
use plywood::{LayerCompression, NewImage, Platform, Timestamp};

use crate::human;

/// What `commit`, `import` and `squash` say alike.
#[derive(Args, Debug)]
pub(crate) struct NewImageArgs {
    /// Change of the image's config, a line of a Dockerfile; may be given more than once
    #[arg(short, long = "change", value_name = "CHANGE")]
    pub(crate) changes: Vec<ConfigChange>,
    /// A note for the image's history
    #[arg(short, long, value_name = "TEXT")]
    pub(crate) message: Option<String>,
    /// Who did it
    #[arg(short, long, value_name = "NAME")]
    pub(crate) author: Option<String>,
    /// Annotation of the image's manifest; may be given more than once
    #[arg(long = "annotation", value_name = "KEY=VALUE", value_parser = annotation)]
    pub(crate) annotations: Vec<(String, String)>,
    /// How the layer is stored: none, gzip[:0-9] or zstd[:1-22]
    #[arg(long, value_name = "METHOD", default_value = "none", value_parser = stored_compression)]
    pub(crate) compression: LayerCompression,
    /// When, as 2006-01-02T15:04:05Z or in seconds since 1970 [default: now]
    #[arg(long, value_name = "TIME", value_parser = human::parse_time)]
    pub(crate) created: Option<Timestamp>,
    /// Seconds since 1970 that stand for now: no file that is packed is newer. --created goes before it
    #[arg(long, value_name = "SECONDS", env = "SOURCE_DATE_EPOCH")]
    pub(crate) source_date_epoch: Option<i64>,
}

impl NewImageArgs {
    /// What was said, of an image with this name, made now unless it was said when.
    pub(crate) fn image(&self, name: Option<Reference>, now: impl FnOnce() -> Timestamp) -> NewImage {
        let epoch = self.source_date_epoch.map(Timestamp::from_seconds);
        let mut image = NewImage::default();
        image.name = name;
        image.changes.clone_from(&self.changes);
        image.message.clone_from(&self.message);
        image.author.clone_from(&self.author);
        image.created = Some(self.created.or(epoch).unwrap_or_else(now));
        image.annotations = self.annotations.iter().cloned().collect();
        image.compression = self.compression.encoding().unwrap_or_default();
        image.pack.latest_mtime = epoch;
        image
    }
}

/// Make the layers of an image one
///
/// What the image shows and its config stay; its history says what was done. Of all layers comes one without deletions; with
/// --from, --keep or --base the layers below stay, and are shared with other images as before. Prints the id.
#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  plywood squash me/web:1 me/web:flat
  plywood squash --base debian:12 me/web:1 me/web:2     # one layer on debian:12
  plywood squash --keep 2 --compression zstd me/web:1 me/web:2")]
pub(crate) struct SquashArgs {
    /// The first layer that becomes part of the new one, by its diff id or the beginning of that (`plywood history` lists them)
    #[arg(long, value_name = "LAYER", conflicts_with_all = ["keep", "base"])]
    pub(crate) from: Option<String>,
    /// How many layers stay as they are, from the lowest on
    #[arg(long, value_name = "N", conflicts_with = "base")]
    pub(crate) keep: Option<usize>,
    /// The image that it was made on, whose layers stay as they are
    #[arg(long, value_name = "IMAGE")]
    pub(crate) base: Option<String>,
    /// The image
    pub(crate) image: String,
    /// Name of the new image; it gets none if this is left out
    pub(crate) name: Option<String>,
    #[command(flatten)]
    pub(crate) made: NewImageArgs,
}

/// Make of an image the same in other media types or with other compression
///
/// The image id stays, and the layers need not be unpacked again; the digest is new. The old image stays too, and NAME may be
/// its name. Of an image for several platforms all that are here are converted. Prints the digest.
#[derive(Args, Debug)]
#[command(group(ArgGroup::new("wish").required(true).multiple(true)))]
#[command(after_help = "\
Examples:
  plywood convert --format docker debian:12 debian:docker
  plywood convert --compression zstd:19 me/web:1 me/web:1
  plywood convert --annotation org.opencontainers.image.source=https://example.org me/web:1 me/web:1")]
pub(crate) struct ConvertArgs {
    /// Whose media types the documents have
    #[arg(long, value_name = "FORMAT", group = "wish")]
    pub(crate) format: Option<Documents>,
    /// Leave out what docker's documents have no place for: annotations, subjects, attestations
    #[arg(long)]
    pub(crate) lossy: bool,
    /// How layers are compressed: keep, none, gzip[:0-9] or zstd[:1-22]; with a level, all are compressed anew
    #[arg(long, value_name = "METHOD", group = "wish")]
    pub(crate) compression: Option<LayerCompression>,
    /// Only the image for this platform (linux/arm64, for one) of an image for several
    #[arg(long, value_name = "PLATFORM", group = "wish")]
    pub(crate) platform: Option<Platform>,
    /// Annotation of what NAME points at, a manifest or an index; may be given more than once
    #[arg(long = "annotation", value_name = "KEY=VALUE", value_parser = annotation, group = "wish")]
    pub(crate) annotations: Vec<(String, String)>,
    /// The image
    pub(crate) image: String,
    /// Name of the new image; it gets none if this is left out
    pub(crate) name: Option<String>,
}

#[derive(ValueEnum, Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Documents {
    /// OCI image manifests and indexes
    Oci,
    /// Docker's manifests of schema 2, and manifest lists
    Docker,
}

/// An annotation as `KEY=VALUE`.
pub(crate) fn annotation(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((key, value)) if !key.is_empty() => Ok((key.to_owned(), value.to_owned())),
        _ => Err("it should be KEY=VALUE".to_owned()),
    }
}

/// How a new layer is stored: there is nothing that could be kept.
fn stored_compression(text: &str) -> Result<LayerCompression, String> {
    match text.parse::<LayerCompression>() {
        Ok(LayerCompression::Keep) => Err("a new layer has no compression to keep".to_owned()),
        Ok(compression) => Ok(compression),
        Err(error) => Err(error.to_string()),
    }
}
