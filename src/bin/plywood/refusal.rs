//! What clap refused, said with the next step: people come with the words of docker and podman.

use std::ffi::OsString;
use std::io::Write as _;
use std::process::ExitCode;

use clap::CommandFactory as _;
use clap::builder::StyledStr;
use clap::error::{ContextKind, ContextValue, ErrorKind};

use crate::args::Cli;
use crate::{errors, signals};

/// Ends a run that clap refused, or that only asked for help.
pub(crate) fn refuse(mut error: clap::Error, words: &[OsString]) -> ExitCode {
    if error.use_stderr() {
        let (path, mut command) = command_of(words);
        // An error only because PLYWOOD_ROOT counts as a word that was said.
        if error.kind() == ErrorKind::MissingSubcommand && !wants_json(words) {
            // Nobody can be told that standard error does not work.
            write!(std::io::stderr().lock(), "{}", command.render_help()).unwrap_or_default();
            return errors::USAGE.into();
        }
        improve(&mut error, &path, &mut command);
    }
    if error.use_stderr() && wants_json(words) {
        errors::report_usage(&error);
        return errors::USAGE.into();
    }
    match error.print() {
        Ok(()) => u8::try_from(error.exit_code()).unwrap_or(errors::USAGE).into(),
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => {
            signals::die_of_a_closed_pipe().into()
        }
        Err(_) => errors::FAILED.into(),
    }
}

fn wants_json(words: &[OsString]) -> bool {
    words.iter().take_while(|word| *word != "--").any(|word| word == "--json")
}

/// The command that was said, by its words and as clap knows it.
fn command_of(words: &[OsString]) -> (Vec<String>, clap::Command) {
    let mut command = Cli::command();
    command.build();
    let mut path = Vec::new();
    for word in words.iter().skip(1).filter_map(|word| word.to_str()) {
        if let Some(below) = command.find_subcommand(word) {
            let below = below.clone();
            path.push(below.get_name().to_owned());
            command = below;
        }
    }
    (path, command)
}

/// Takes out what is of no use, and adds the next step where people are used to another tool.
fn improve(error: &mut clap::Error, path: &[String], command: &mut clap::Command) {
    // clap counts variables of the environment among the options that were said, and shows them.
    if error.get(ContextKind::Usage).is_some() {
        error.insert(ContextKind::Usage, ContextValue::StyledStr(command.render_usage()));
    }
    let word = |kind| match error.get(kind) {
        Some(ContextValue::String(word)) => Some(word.as_str()),
        _ => None,
    };
    let tip = match error.kind() {
        ErrorKind::InvalidSubcommand => {
            word(ContextKind::InvalidSubcommand).and_then(|word| verb(path, word))
        }
        ErrorKind::UnknownArgument => word(ContextKind::InvalidArg).and_then(|word| option(path, word)),
        _ => None,
    };
    // "To pass '-f' as a value, use '-- -f'" helps nobody whose option is not known.
    if error.kind() == ErrorKind::UnknownArgument && !is_similar(error) {
        error.remove(ContextKind::Suggested);
    }
    if let Some(tip) = tip {
        error.remove(ContextKind::SuggestedSubcommand);
        let tip = ContextValue::StyledStrs(vec![StyledStr::from(tip)]);
        error.insert(ContextKind::Suggested, tip);
    }
}

/// Whether clap knows an option that looks like the one that was said.
fn is_similar(error: &clap::Error) -> bool {
    error.get(ContextKind::SuggestedArg).is_some()
}

/// What to do instead of a command that other tools have.
fn verb(path: &[String], word: &str) -> Option<&'static str> {
    let below = path.first().map(String::as_str);
    Some(match (below, word) {
        (
            None | Some("container"),
            "run" | "start" | "exec" | "stop" | "restart" | "kill" | "pause" | "unpause" | "attach" | "logs"
            | "top" | "wait" | "stats",
        ) => {
            "plywood runs no processes; `plywood create` and `plywood mount` give a root in which crun, runc or chroot can"
        }
        (None | Some("image" | "builder"), "build" | "bud" | "buildx") => {
            "the steps of a build are `plywood create`, `plywood mount`, `plywood commit`; examples/build in the source reads Dockerfiles"
        }
        (None, "ls" | "list") => "`plywood images` lists images, `plywood ps` containers",
        (None, "df" | "du") => "`plywood system df` tells what takes how much of the disk",
        (None, "prune") => {
            "`plywood system prune` removes what is not used; `plywood image prune` and `plywood container prune` only such"
        }
        (None, "remove" | "delete" | "del") => {
            "`plywood rm` removes containers, `plywood rmi` images, `plywood untag` a name"
        }
        (None, "mv") => "`plywood rename` gives a container another name, `plywood tag` an image one more",
        (None | Some("system"), "fsck" | "verify") => "`plywood check` looks, `plywood repair` mends",
        #[cfg(feature = "registry")]
        (None, "login" | "logout") => {
            "`docker login` and `podman login` log in to a registry, and plywood uses what they leave"
        }
        #[cfg(not(feature = "registry"))]
        (None | Some("image"), "pull" | "push" | "login" | "logout" | "search") => {
            "this plywood was built without registries; skopeo brings images: \
             `skopeo copy docker://debian:12 docker-archive:debian.tar:debian:12`, then `plywood load -i debian.tar`"
        }
        (None, "volume" | "network" | "pod" | "secret" | "compose") => {
            "there are only images and containers here; the rest is for the engine that uses them"
        }
        (Some("image"), "remove" | "delete" | "rmi") => "`plywood image rm` removes images",
        (Some("container"), "remove" | "delete") => "`plywood container rm` removes containers",
        (Some("container"), "ps") => "`plywood container ls` lists containers",
        (Some("image"), "exists") => "`plywood inspect --type image NAME` fails if there is no such image",
        (Some("container"), "exists") => {
            "`plywood inspect --type container NAME` fails if there is no such container"
        }
        (Some("system"), "reset") => "a store is a directory: remove it",
        _ => return None,
    })
}

/// What to do instead of an option that other tools have.
fn option(path: &[String], word: &str) -> Option<&'static str> {
    let last = path.last().map(String::as_str)?;
    Some(match (last, word) {
        ("create", word) if !word.starts_with('-') => {
            "plywood runs no processes, so a container has no command; `plywood commit -c 'CMD [...]'` gives one to an image"
        }
        (
            "create",
            "-i" | "-t" | "-d" | "-v" | "-p" | "-e" | "-u" | "-w" | "-h" | "--rm" | "--volume" | "--mount"
            | "--publish" | "--env" | "--user" | "--workdir" | "--entrypoint" | "--network" | "--hostname"
            | "--privileged" | "--restart" | "--pull" | "--tty" | "--interactive" | "--detach" | "--memory"
            | "--cap-add",
        ) => "what a process gets is for whoever runs it: plywood makes the root and runs nothing",
        ("prune", "--volumes") => "there are no volumes here: leave it out",
        ("commit", "-p" | "--pause") => "nothing runs here that could be paused: leave it out",
        (_, "-f" | "--format" | "--filter") => "--json prints everything, and jq picks from it",
        _ => return None,
    })
}
