//! What can be said on the command line. Every text here is read by people: it is the help.
//!
//! Nothing is decided here but what words mean; defaults that need the machine (where the store is) are in `global`.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::builder::{OsStringValueParser, TypedValueParser as _};
use clap::{Args, Parser, Subcommand, ValueEnum, ValueHint};
use plywood::driver::IdMap;

/// Container images, their layers and writable containers, kept in one directory.
///
/// Plywood loads image archives, unpacks each layer once, puts copy-on-write containers on top, turns what changed in them
/// into new images, and saves images again. It needs no daemon and no other program.
#[derive(Parser, Debug)]
#[command(name = "plywood", version, subcommand_required = true, arg_required_else_help = true)]
#[command(max_term_width = 100, after_help = TOUR)]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) global: Global,
    #[command(subcommand)]
    pub(crate) command: Command,
}

const TOUR: &str = "\
From an archive to a new one:
  plywood load -i debian.tar
  plywood create --name web debian:12
  plywood cp site/. web:/srv/
  plywood changes web
  plywood commit web me/web:1 -c 'CMD [\"/srv/run\"]'
  plywood save -o web.tar me/web:1

An IMAGE is said by name (debian, debian:12, localhost:5000/x@sha256:...), by id, or by the
beginning of its id; a CONTAINER by name, by id, or by the beginning of its id.";

/// Options that every command takes, before or after its own.
#[derive(Args, Debug, Clone)]
#[command(next_help_heading = "Options of every command")]
pub(crate) struct Global {
    /// Directory of the store [default: /var/lib/plywood for root, else ~/.local/share/plywood]
    ///
    /// The default for anyone but root is $XDG_DATA_HOME/plywood, and ~/.local/share/plywood where that is not set. Root
    /// of a user namespace is not root in this sense.
    #[arg(long, global = true, env = "PLYWOOD_ROOT", value_name = "DIR", value_hint = ValueHint::DirPath)]
    // The parser for paths refuses a variable that is set to nothing.
    #[arg(value_parser = OsStringValueParser::new().map(PathBuf::from))]
    pub(crate) root: Option<PathBuf>,

    /// How the roots of containers are made
    #[arg(long, global = true, env = "PLYWOOD_DRIVER", value_name = "DRIVER", default_value = "auto")]
    #[arg(hide_env_values = true)]
    pub(crate) driver: Driver,

    /// Program for the fuse driver [default: the fuse-overlayfs that is installed in /usr/bin or the like]
    #[arg(long, global = true, env = "PLYWOOD_FUSE_OVERLAYFS", value_name = "PROGRAM")]
    #[arg(hide_env_values = true, value_hint = ValueHint::ExecutablePath)]
    #[arg(value_parser = OsStringValueParser::new().map(PathBuf::from))]
    pub(crate) fuse_overlayfs: Option<PathBuf>,

    /// What to wait for before success is reported
    #[arg(long, global = true, value_name = "HOW", default_value = "full")]
    pub(crate) durability: Durability,

    /// Unpack layers however much larger than their blobs they are; for images that you trust
    #[arg(long, global = true)]
    pub(crate) no_expansion_limit: bool,

    /// Print one JSON value instead of text; errors are JSON objects on stderr
    #[arg(long, global = true)]
    pub(crate) json: bool,

    /// Print ids only where lists are printed; no progress bars, no warnings
    #[arg(short, long, global = true)]
    pub(crate) quiet: bool,
}

#[derive(ValueEnum, Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Driver {
    /// The first that works here; `plywood info` tells which, and why
    #[value(alias = "")]
    Auto,
    /// The kernel's overlayfs: needs the right to mount
    Overlay,
    /// A full copy, by reflink where the file system can: needs nothing
    Copy,
    /// A union in userspace by the program fuse-overlayfs: needs /dev/fuse
    Fuse,
}

#[derive(ValueEnum, Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Durability {
    /// The disk: what was reported survives a power cut
    Full,
    /// Nothing: the kernel writes when it likes, as for scratch stores and tests
    Relaxed,
}

#[derive(Subcommand, Debug)]
pub(crate) enum Command {
    Load(LoadArgs),
    Images(ImagesArgs),
    Inspect(InspectArgs),
    History(HistoryArgs),
    Tag(TagArgs),
    Untag(UntagArgs),
    Rmi(RmiArgs),
    Save(SaveArgs),
    Create(CreateArgs),
    Ps(PsArgs),
    Rename(RenameArgs),
    Rm(RmArgs),
    Mount(MountArgs),
    #[command(visible_alias = "unmount")]
    Umount(UmountArgs),
    #[command(visible_alias = "diff")]
    Changes(ChangesArgs),
    Cp(CpArgs),
    Commit(CommitArgs),
    Export(ExportArgs),
    /// Work with images: list, inspect, remove, mount a read-only view
    #[command(subcommand, arg_required_else_help = true)]
    Image(ImageCommand),
    Gc(GcArgs),
    Check(CheckArgs),
    Info(InfoArgs),
    Completions(CompletionsArgs),
    Version(VersionArgs),
}

/// `plywood image …`
#[derive(Subcommand, Debug)]
pub(crate) enum ImageCommand {
    #[command(visible_alias = "list")]
    Ls(ImagesArgs),
    Inspect(ImageInspectArgs),
    History(HistoryArgs),
    Load(LoadArgs),
    Save(SaveArgs),
    Tag(TagArgs),
    Untag(UntagArgs),
    Rm(RmiArgs),
    Mount(ImageMountArgs),
    #[command(visible_alias = "unmount")]
    Umount(ImageUmountArgs),
}

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

/// Show everything about images and containers, as JSON
///
/// Prints an array with one object for each NAME, with the field names that docker uses. A name that both a container
/// and an image have means the container.
#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  plywood inspect debian:12
  plywood inspect web | jq -r '.[0].State.Path'")]
pub(crate) struct InspectArgs {
    /// Images or containers
    #[arg(required = true, value_name = "NAME")]
    pub(crate) names: Vec<String>,
    /// Look only for images, or only for containers
    #[arg(long = "type", value_name = "TYPE")]
    pub(crate) kind: Option<Kind>,
}

#[derive(ValueEnum, Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Kind {
    /// An image
    Image,
    /// A container
    Container,
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
/// The result appears under its name when it is whole: a failed save leaves nothing. Equal images give equal bytes.
#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  plywood save -o web.tar me/web:1
  plywood save me/web:1 debian:12 | zstd > both.tar.zst
  plywood save me/web:1 | docker load
  plywood save --format oci-dir -o web/ me/web:1")]
pub(crate) struct SaveArgs {
    /// File to write, or directory for oci-dir; otherwise standard output
    #[arg(short, long, value_name = "FILE", value_hint = ValueHint::AnyPath)]
    pub(crate) output: Option<PathBuf>,
    /// Form of the archive
    #[arg(long, value_name = "FORMAT", default_value = "docker-archive")]
    pub(crate) format: Format,
    /// Images
    #[arg(required = true, value_name = "IMAGE")]
    pub(crate) images: Vec<String>,
}

#[derive(ValueEnum, Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Format {
    /// A docker-archive with an OCI layout in it: docker, podman, containerd and skopeo read it
    DockerArchive,
    /// An OCI image layout in a tar
    OciArchive,
    /// An OCI image layout in a directory
    OciDir,
}

/// Make a container from an image
///
/// Prints the container's id. The container shares the image's layers and has a writable layer of its own. With
/// --from-container that begins as the one of another container, whose image, driver and labels it gets too.
#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  plywood create --name web debian:12
  id=$(plywood create debian:12)
  plywood create --name web2 --from-container web")]
pub(crate) struct CreateArgs {
    /// Name of the container; one is made up if it is left out
    #[arg(long, value_name = "NAME")]
    pub(crate) name: Option<String>,
    /// Label for the container; may be given more than once
    #[arg(short, long = "label", value_name = "KEY[=VALUE]", value_parser = label)]
    pub(crate) labels: Vec<(String, String)>,
    /// Make it as this container is now, which must not be mounted, instead of from an image
    #[arg(long, value_name = "CONTAINER", conflicts_with_all = ["image", "RootArgs"])]
    pub(crate) from_container: Option<String>,
    #[command(flatten)]
    pub(crate) root: RootArgs,
    /// The image
    #[arg(required_unless_present = "from_container")]
    pub(crate) image: Option<String>,
}

/// What every mount of the root has in common.
#[derive(Args, Debug)]
#[command(next_help_heading = "How the root is mounted")]
pub(crate) struct RootArgs {
    /// Show users and groups 0 to COUNT-1 of the image as those from HOST on
    #[arg(long, value_name = "HOST:COUNT", value_parser = id_map)]
    pub(crate) id_map: Option<IdMap>,
    /// SELinux context of everything in it
    #[arg(long, value_name = "CONTEXT")]
    pub(crate) mount_label: Option<String>,
    /// Never wait for the disk; it can be mounted once
    #[arg(long)]
    pub(crate) volatile: bool,
    /// Leave the content of a layer's file where it is when its owner or mode changes
    #[arg(long)]
    pub(crate) metacopy: bool,
    /// Rename directories of layers without copying them
    #[arg(long)]
    pub(crate) redirect_dir: bool,
    /// Ignore setuid and setgid bits and file capabilities
    #[arg(long)]
    pub(crate) nosuid: bool,
    /// Make device nodes dead
    #[arg(long)]
    pub(crate) nodev: bool,
}

fn id_map(text: &str) -> Result<IdMap, String> {
    let number = |text: &str| text.parse().map_err(|_| format!("{text:?} is no number"));
    let (host, count) = text.split_once(':').ok_or("expected HOST:COUNT, as 100000:65536")?;
    IdMap::range(number(host)?, number(count)?).map_err(|error| error.to_string())
}

fn label(text: &str) -> Result<(String, String), String> {
    match text.split_once('=').unwrap_or((text, "")) {
        ("", _) => Err("a label needs a key".to_owned()),
        (key, value) => Ok((key.to_owned(), value.to_owned())),
    }
}

/// List containers
#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  plywood ps
  plywood ps --json | jq -r '.[] | select(.state == \"mounted\") | .path'
  plywood rm $(plywood ps -q)")]
pub(crate) struct PsArgs {
    /// Do not shorten ids
    #[arg(long)]
    pub(crate) no_trunc: bool,
    /// Also show the bytes that each container holds for itself, which have to be counted
    #[arg(short, long)]
    pub(crate) size: bool,
    /// Accepted for docker's sake: all containers are always listed
    #[arg(short, long, hide = true)]
    pub(crate) all: bool,
}

/// Give a container another name
#[derive(Args, Debug)]
pub(crate) struct RenameArgs {
    /// The container
    pub(crate) container: String,
    /// Its new name
    pub(crate) name: String,
}

/// Remove containers with everything that was changed in them
#[derive(Args, Debug)]
pub(crate) struct RmArgs {
    /// Unmount the container first if it is mounted
    #[arg(short, long)]
    pub(crate) force: bool,
    /// Containers
    #[arg(required = true, value_name = "CONTAINER")]
    pub(crate) containers: Vec<String>,
}

/// Mount a container's root and print where
///
/// It stays mounted until `plywood umount`, whichever process asks for that. Mounting what is mounted prints the same path.
#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  root=$(plywood mount web) && chroot \"$root\" /bin/sh
  unshare -Urm sh -c 'ls \"$(plywood mount web)\"'    # as a plain user: the mount lives in the namespace")]
pub(crate) struct MountArgs {
    /// The container
    pub(crate) container: String,
}

/// Unmount a container's root
#[derive(Args, Debug)]
pub(crate) struct UmountArgs {
    /// The container
    pub(crate) container: String,
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

/// List what was changed in a container: A added, C changed, D deleted
///
/// Works at rest and while mounted. In a pipe, paths are printed byte for byte; on a terminal, bytes that would disturb it are
/// printed as escapes.
#[derive(Args, Debug)]
pub(crate) struct ChangesArgs {
    /// The container
    pub(crate) container: String,
}

/// Copy files and directories in or out of a container
///
/// One end is CONTAINER:PATH, a path from the root of the container; the other is a path of this machine, or `-` for a
/// tar. A container that is not mounted is mounted meanwhile. A destination that is a directory gets SRC in it, or with
/// SRC/. what is in SRC; any other is what SRC is called there. A directory replaces no file, nor a file a directory, and a
/// copy that cannot be read to its end changes nothing. In the container, symbolic links lead to places in the container.
///
/// Modes, times and attributes are kept. Without -a what is copied in belongs to root, and what is copied out to you;
/// set-user-id and set-group-id bits and capabilities of files are then left out.
#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  plywood cp site web:/srv              # /srv/site, if /srv is there
  plywood cp site/. web:/srv            # the content of site
  plywood cp web:/etc/hosts .
  plywood cp -a web:/home ./backup
  plywood cp web:/srv - | tar -t
  tar -c site | plywood cp - web:/srv
  plywood cp ./odd:name web:/tmp        # a colon in a name of this machine")]
pub(crate) struct CpArgs {
    /// Keep owners, set-user-id bits and capabilities
    #[arg(short, long)]
    pub(crate) archive: bool,
    /// If SRC is a symbolic link, copy what it leads to
    #[arg(short = 'L', long)]
    pub(crate) follow_link: bool,
    /// What to copy; `-` is a tar on standard input, plain or compressed
    #[arg(value_name = "SRC", value_hint = ValueHint::AnyPath)]
    pub(crate) source: OsString,
    /// Where to; `-` is a tar on standard output
    #[arg(value_name = "DEST", value_hint = ValueHint::AnyPath)]
    pub(crate) dest: OsString,
}

/// Make an image from a container
///
/// What was changed becomes one layer on top of the container's image. Prints the id of the new image. Equal changes, options and
/// times give an equal image.
#[derive(Args, Debug)]
#[command(after_help = "\
A CHANGE is a line of a Dockerfile: CMD, ENTRYPOINT, ENV, EXPOSE, HEALTHCHECK, LABEL, ONBUILD,
SHELL, STOPSIGNAL, USER, VOLUME, WORKDIR.

Examples:
  plywood commit web me/web:1
  plywood commit web me/web:1 -c 'CMD [\"/srv/run\"]' -c 'ENV LANG=C.UTF-8' -m 'with the new site'
  SOURCE_DATE_EPOCH=1700000000 plywood commit web me/web:1")]
pub(crate) struct CommitArgs {
    /// The container
    pub(crate) container: String,
    /// Name of the image; it gets none if this is left out
    pub(crate) name: Option<String>,
    /// Change of the image's config; may be given more than once
    #[arg(short, long = "change", value_name = "CHANGE")]
    pub(crate) changes: Vec<plywood::image::ConfigChange>,
    /// What was done, for the image's history
    #[arg(short, long, value_name = "TEXT")]
    pub(crate) message: Option<String>,
    /// Who did it
    #[arg(short, long, value_name = "NAME")]
    pub(crate) author: Option<String>,
    /// When, as 2006-01-02T15:04:05Z or in seconds since 1970 [default: now]
    #[arg(long, value_name = "TIME", value_parser = super::human::parse_time)]
    pub(crate) created: Option<plywood::fs::Timestamp>,
    /// Seconds since 1970 that stand for now: no file in the layer is newer. --created goes before it
    #[arg(long, value_name = "SECONDS", env = "SOURCE_DATE_EPOCH")]
    pub(crate) source_date_epoch: Option<i64>,
}

/// Write a container's root as one tar
#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  plywood export -o root.tar web
  plywood export web | tar -t")]
pub(crate) struct ExportArgs {
    /// File to write; otherwise standard output
    #[arg(short, long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub(crate) output: Option<PathBuf>,
    /// The container
    pub(crate) container: String,
}

/// Remove from disk what no image and no container needs
#[derive(Args, Debug)]
pub(crate) struct GcArgs {
    /// Only tell what would be removed
    #[arg(short = 'n', long)]
    pub(crate) dry_run: bool,
}

/// Tell whether everything in the store is there and as it should be
///
/// Changes nothing. Exits with 1 if something is wrong.
#[derive(Args, Debug)]
pub(crate) struct CheckArgs {
    /// Look at every byte: hash all blobs, and compare unpacked layers with what they were unpacked from
    #[arg(long)]
    pub(crate) deep: bool,
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

/// Print the version
#[derive(Args, Debug)]
pub(crate) struct VersionArgs {}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn no_two_options_collide() {
        Cli::command().debug_assert();
    }

    #[test]
    fn options_of_every_command_stand_before_or_after_the_verb() {
        for words in [
            &["plywood", "--json", "--root", "/x", "images"][..],
            &["plywood", "images", "--json", "--root", "/x"],
            &["plywood", "image", "--json", "ls", "--root=/x"],
        ] {
            let cli = Cli::try_parse_from(words).unwrap();
            assert!(cli.global.json, "{words:?}");
            assert_eq!(cli.global.root.as_deref(), Some("/x".as_ref()), "{words:?}");
        }
    }

    #[test]
    fn every_command_has_help_of_its_own() {
        fn check(command: &clap::Command) {
            for sub in command.get_subcommands() {
                assert!(sub.get_about().is_some(), "{}", sub.get_name());
                for argument in sub.get_arguments() {
                    assert!(argument.get_help().is_some(), "{} {}", sub.get_name(), argument.get_id());
                }
                check(sub);
            }
        }
        check(&Cli::command());
    }
}
