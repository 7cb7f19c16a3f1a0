//! What can be said to the commands about containers.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::{Args, ValueHint};
use plywood::driver::IdMap;

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
    /// Of an image for several platforms, that for this one (linux/arm64, say) [default: this machine]
    #[arg(long, value_name = "PLATFORM", conflicts_with = "from_container")]
    pub(crate) platform: Option<plywood::Platform>,
    /// The image
    #[arg(required_unless_present = "from_container")]
    pub(crate) image: Option<String>,
    #[command(flatten)]
    pub(crate) root: RootArgs,
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
A FILTER is one of:
  name=TEXT           has this in its name
  id=TEXT             its id begins so
  ancestor=IMAGE      was made of this image: its name, or its id or the beginning of that
  state=STATE         created, mounted or dead
  label=KEY[=VALUE]   has this label

Examples:
  plywood ps
  plywood ps -q -f label=job
  plywood ps --json | jq -r '.[] | select(.state == \"mounted\") | .path'
  plywood rm $(plywood ps -q)")]
pub(crate) struct PsArgs {
    /// Only what this filter lets through; may be given more than once, see below
    #[arg(short, long = "filter", value_name = "FILTER", value_parser = super::container_filter)]
    pub(crate) filters: Vec<super::ContainerFilter>,
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
    /// Remove the container even if it is mounted or a process uses it
    #[arg(short, long)]
    pub(crate) force: bool,
    /// Containers
    #[arg(required = true, value_name = "CONTAINER")]
    pub(crate) containers: Vec<String>,
}

/// Mount a container's root and print where
///
/// It stays mounted until `plywood umount`, whichever process asks for that. Mounting what is mounted prints the same path.
/// Without CONTAINER, lists what is mounted.
#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  root=$(plywood mount web) && chroot \"$root\" /bin/sh
  unshare -Urm sh -c 'ls \"$(plywood mount web)\"'    # as a plain user: the mount lives in the namespace")]
pub(crate) struct MountArgs {
    /// The container; what is mounted is listed if it is left out
    pub(crate) container: Option<String>,
}

/// Unmount a container's root
#[derive(Args, Debug)]
pub(crate) struct UmountArgs {
    /// The container
    pub(crate) container: String,
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
/// set-user-id and set-group-id bits and capabilities of files are then left out, and so are devices on the way out.
///
/// Files and symbolic links at the destination are replaced. A device, a named pipe or a socket never is: to write to a
/// stream, copy to `-`, which gives a tar. The directory may belong to another user: nothing that is unfinished can be
/// reached by him, and no file of his gets an owner or a mode from the copy.
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
    /// Keep owners, set-user-id bits, capabilities and devices
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
    #[command(flatten)]
    pub(crate) made: super::NewImageArgs,
}

/// Write a container's root as one tar
#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  plywood export -o root.tar web
  plywood export web | tar -t
  plywood export --config web | plywood --root /other import - web:1")]
pub(crate) struct ExportArgs {
    /// Put the config of its image in front, where `plywood import` finds it and other tools pass over it
    #[arg(long)]
    pub(crate) config: bool,
    /// File to write; otherwise standard output
    #[arg(short, long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub(crate) output: Option<PathBuf>,
    /// The container
    pub(crate) container: String,
}
