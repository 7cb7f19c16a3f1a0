//! What can be said on the command line. Every text here is read by people: it is the help.
//!
//! Nothing is decided here but what words mean; defaults that need the machine (where the store is) are in `global`.

mod containers;
mod images;
mod list;
mod made;
mod prune;
#[cfg(feature = "registry")]
mod registry;
mod store;

use std::path::PathBuf;

use clap::builder::{FalseyValueParser, OsStringValueParser, TypedValueParser as _};
use clap::{Args, Parser, Subcommand, ValueEnum, ValueHint};

pub(crate) use containers::*;
pub(crate) use images::*;
pub(crate) use list::*;
pub(crate) use made::*;
pub(crate) use prune::*;
#[cfg(feature = "registry")]
pub(crate) use registry::*;
pub(crate) use store::*;

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

    /// Let other users of this machine read the images of a store that this command makes
    ///
    /// The directory of a new store is closed to other users (mode 0700). With this option it is open (0755), and others
    /// read the images in DIR/oci, or with --additional-store. A store that is there keeps its mode: `chmod 755 DIR` opens
    /// it, `chmod 700 DIR` closes it. Layers and containers stay closed in any store.
    #[arg(long, global = true, hide_short_help = true, env = "PLYWOOD_SHARED")]
    #[arg(value_parser = FalseyValueParser::new(), hide_env_values = true)]
    pub(crate) shared: bool,

    /// Directory of another store that lends its images and layers; may be given more than once
    ///
    /// Nothing is ever written there. Its images are listed and used like those of this store. A container on one needs the
    /// other store for as long as it lives; an image that is committed on one, or tagged here, does not. Where the option is
    /// not given, the directories in PLYWOOD_ADDITIONAL_STORES count, separated by colons.
    #[arg(long = "additional-store", global = true, hide_short_help = true, value_name = "DIR", value_hint = ValueHint::DirPath)]
    pub(crate) additional_stores: Vec<PathBuf>,

    /// How the roots of containers are made
    #[arg(
        long,
        global = true,
        hide_short_help = true,
        env = "PLYWOOD_DRIVER",
        value_name = "DRIVER",
        default_value = "auto"
    )]
    #[arg(hide_env_values = true)]
    pub(crate) driver: Driver,

    /// Program for the fuse driver [default: the fuse-overlayfs that is installed in /usr/bin or the like]
    #[arg(
        long,
        global = true,
        hide_short_help = true,
        env = "PLYWOOD_FUSE_OVERLAYFS",
        value_name = "PROGRAM"
    )]
    #[arg(hide_env_values = true, value_hint = ValueHint::ExecutablePath)]
    #[arg(value_parser = OsStringValueParser::new().map(PathBuf::from))]
    pub(crate) fuse_overlayfs: Option<PathBuf>,

    /// What to wait for before success is reported
    #[arg(long, global = true, hide_short_help = true, value_name = "HOW", default_value = "full")]
    pub(crate) durability: Durability,

    /// Unpack layers however much larger than their blobs they are; for images that you trust
    #[arg(long, global = true, hide_short_help = true)]
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
    #[cfg(feature = "registry")]
    Pull(PullArgs),
    #[cfg(feature = "registry")]
    Push(PushArgs),
    Images(ImagesArgs),
    Inspect(InspectArgs),
    History(HistoryArgs),
    Referrers(ReferrersArgs),
    Tag(TagArgs),
    Untag(UntagArgs),
    Rmi(RmiArgs),
    Save(SaveArgs),
    Import(ImportArgs),
    Squash(SquashArgs),
    Convert(ConvertArgs),
    Layer(LayerArgs),
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
    /// Work with images: list, inspect, remove, prune, mount a read-only view
    #[command(subcommand, arg_required_else_help = true)]
    Image(ImageCommand),
    /// Work with containers: list, mount, remove, prune
    #[command(subcommand, arg_required_else_help = true)]
    Container(ContainerCommand),
    /// Look at what the store remembers of builds: list, prune
    #[command(subcommand, arg_required_else_help = true)]
    Builder(BuilderCommand),
    /// Look after the store as a whole: what takes space, collect, prune, check
    #[command(subcommand, arg_required_else_help = true)]
    System(SystemCommand),
    Gc(GcArgs),
    Check(CheckArgs),
    Repair(RepairArgs),
    Info(InfoArgs),
    Completions(CompletionsArgs),
    Man(ManArgs),
    Version(VersionArgs),
}

/// `plywood image …`
#[derive(Subcommand, Debug)]
pub(crate) enum ImageCommand {
    #[command(visible_alias = "list")]
    Ls(ImagesArgs),
    Inspect(ImageInspectArgs),
    History(HistoryArgs),
    Referrers(ReferrersArgs),
    Load(LoadArgs),
    #[cfg(feature = "registry")]
    Pull(PullArgs),
    #[cfg(feature = "registry")]
    Push(PushArgs),
    Save(SaveArgs),
    Import(ImportArgs),
    Squash(SquashArgs),
    Convert(ConvertArgs),
    Layer(LayerArgs),
    Tag(TagArgs),
    Untag(UntagArgs),
    Rm(RmiArgs),
    Mount(ImageMountArgs),
    #[command(visible_alias = "unmount")]
    Umount(ImageUmountArgs),
    Prune(ImagePruneArgs),
}

/// `plywood container …`
#[derive(Subcommand, Debug)]
pub(crate) enum ContainerCommand {
    Create(CreateArgs),
    #[command(visible_alias = "list")]
    Ls(PsArgs),
    Rename(RenameArgs),
    Rm(RmArgs),
    Mount(MountArgs),
    #[command(visible_alias = "unmount")]
    Umount(UmountArgs),
    #[command(visible_alias = "changes")]
    Diff(ChangesArgs),
    Cp(CpArgs),
    Commit(CommitArgs),
    Export(ExportArgs),
    Prune(ContainerPruneArgs),
}

/// `plywood builder …`
#[derive(Subcommand, Debug)]
pub(crate) enum BuilderCommand {
    #[command(visible_alias = "list")]
    Ls(StepsArgs),
    Prune(BuilderPruneArgs),
}

/// `plywood system …`
#[derive(Subcommand, Debug)]
pub(crate) enum SystemCommand {
    Df(DfArgs),
    Gc(GcArgs),
    Check(CheckArgs),
    Repair(RepairArgs),
    Info(InfoArgs),
    Prune(SystemPruneArgs),
}

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
