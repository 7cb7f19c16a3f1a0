//! What can be said to the commands about the store as a whole, about anything in it, and about the tool.

use std::path::PathBuf;

use clap::{Args, ValueEnum, ValueHint};

/// Show everything about images and containers, as JSON
///
/// Prints an array with one object for each NAME, with the field names that docker uses. A name that both a container
/// and an image have means the container.
#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  plywood inspect debian:12
  plywood inspect -f '{{.Id}}' debian:12
  plywood inspect --raw debian:12 | sha256sum        # the digest; --raw=config gives the id
  plywood inspect web | jq -r '.[0].State.Path'")]
pub(crate) struct InspectArgs {
    /// Images or containers
    #[arg(required = true, value_name = "NAME")]
    pub(crate) names: Vec<String>,
    /// Look only for images, or only for containers
    #[arg(long = "type", value_name = "TYPE")]
    pub(crate) kind: Option<Kind>,
    /// Of an image for several platforms, that for this one (linux/arm64, say) [default: this machine]
    #[arg(long, value_name = "PLATFORM")]
    pub(crate) platform: Option<plywood::Platform>,
    /// Print only this of each: text with fields in it, as '{{.Id}}' or '{{json .Config}}'
    #[arg(short, long, value_name = "TEMPLATE", conflicts_with = "json")]
    pub(crate) format: Option<crate::template::Template>,
    /// Print a document of one image as it is stored, byte for byte: what its name points at, its manifest, or its config
    #[arg(long, value_name = "DOCUMENT", num_args = 0..=1, require_equals = true, default_missing_value = "target")]
    #[arg(conflicts_with_all = ["format", "json"])]
    pub(crate) raw: Option<Document>,
}

#[derive(ValueEnum, Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Document {
    /// What the name points at: the manifest, or the index that lists it
    Target,
    /// The manifest for this machine
    Manifest,
    /// The config
    Config,
}

#[derive(ValueEnum, Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Kind {
    /// An image
    Image,
    /// A container
    Container,
}

/// Remove from disk what no image and no container needs
#[derive(Args, Debug)]
pub(crate) struct GcArgs {
    /// Only tell what would be removed
    #[arg(short = 'n', long)]
    pub(crate) dry_run: bool,
}

/// Tell what takes how much of the disk, and what would be free without it
///
/// Images are counted as long as their blobs are, layers as they are unpacked, containers by what they changed.
/// Reclaimable is what no container needs: `rmi` and `gc` free it, and `rm` what containers have of their own.
#[derive(Args, Debug)]
pub(crate) struct DfArgs {
    /// Also each image, layer and container
    #[arg(short, long)]
    pub(crate) verbose: bool,
}

/// Tell whether everything in the store is there and as it should be
///
/// Changes nothing and needs no room: it works on a full disk and on a read-only store. Layers that were not synced before
/// the file system was unmounted are made again when they are needed, and are not damage.
///
/// Exits with 0 if all is well, with 1 if something is damaged, and with 3 if the check could not be made or finished: for
/// want of permission, memory or open files, for example.
#[derive(Args, Debug)]
pub(crate) struct CheckArgs {
    /// Look at every byte: hash all blobs, and compare unpacked layers with what they were unpacked from
    #[arg(long)]
    pub(crate) deep: bool,
}

/// Mend what is wrong in the store, and tell what cannot be mended
///
/// Damaged layers are made again from their blobs and swapped in, while containers that stand on them go on; records are
/// completed. What cannot be saved is taken away where it would be in the way of loading it again, and is named; nothing
/// that a container wrote is ever removed. Exits with 1 if something could not be mended.
#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  plywood repair --dry-run
  plywood repair && plywood check --deep")]
pub(crate) struct RepairArgs {
    /// Only tell what would be done
    #[arg(short = 'n', long)]
    pub(crate) dry_run: bool,
    /// Look at documents and records only, and not at every byte
    #[arg(long)]
    pub(crate) quick: bool,
    /// Print whole digests and ids
    #[arg(long)]
    pub(crate) no_trunc: bool,
}

/// Tell what this store and this machine can do, and why this driver
///
/// Drivers are tried once, with a mount of their own; what came of it is kept in the store and believed as long as the
/// kernel, the user, the namespaces and the programs are the same.
#[derive(Args, Debug)]
pub(crate) struct InfoArgs {
    /// Try again, whatever was found out before
    #[arg(long)]
    pub(crate) fresh: bool,
}

/// Print completions for a shell
#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  plywood completions bash > /etc/bash_completion.d/plywood
  plywood completions zsh > \"${fpath[1]}/_plywood\"
  plywood completions fish > ~/.config/fish/completions/plywood.fish")]
pub(crate) struct CompletionsArgs {
    /// The shell
    pub(crate) shell: clap_complete::Shell,
}

/// Print the manual page, or write those of all commands
#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  plywood man | man -l -
  plywood man /usr/local/share/man/man1")]
pub(crate) struct ManArgs {
    /// Directory to write a page for each command into; it must exist
    #[arg(value_hint = ValueHint::DirPath, value_name = "DIR")]
    pub(crate) dir: Option<PathBuf>,
}

/// Print the version
#[derive(Args, Debug)]
pub(crate) struct VersionArgs {}
