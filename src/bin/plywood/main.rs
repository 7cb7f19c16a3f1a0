//! `plywood`, the command line tool: the library for people and for scripts.
//!
//! It uses the public API and nothing else. What the library leaves to its caller is here: the environment, the clock, signals,
//! printing. Exit status: 0, 1 for a failure, 2 for wrong usage, 128 and the signal's number for an interruption.
//!
//! | file | what it knows |
//! | --- | --- |
//! | `args` `refusal` | what can be said on the command line, and what is answered to the rest |
//! | `global` | which store, opened how |
//! | `load` `save` `copy` `images` `containers` `inspect` `store` `check` `prune` `usage` `registry` | the commands |
//! | `select` `template` | what of a list, or of one thing, was asked for |
//! | `output` `errors` `progress` `human` | how things are printed |
//! | `files` `signals` | the world outside the store |

mod args;
mod check;
mod containers;
mod copy;
mod errors;
mod files;
mod forms;
mod global;
mod human;
mod images;
mod import;
mod inspect;
mod load;
mod manual;
mod output;
mod progress;
mod prune;
mod refusal;
#[cfg(feature = "registry")]
mod registry;
mod repair;
mod save;
mod select;
mod signals;
mod store;
mod template;
mod usage;

use std::env;
use std::ffi::OsString;
use std::process::ExitCode;

use clap::Parser as _;

use args::{BuilderCommand, Cli, Command, ContainerCommand, ImageCommand, SystemCommand};
use errors::Failure;
use global::Context;

fn main() -> ExitCode {
    let words: Vec<OsString> = env::args_os().collect();
    let cli = match Cli::try_parse_from(&words) {
        Ok(cli) => cli,
        Err(error) => return refusal::refuse(error, &words),
    };
    let context = Context::new(cli.global);
    match run(&context, &cli.command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(Failure::StdoutClosed) => signals::die_of_a_closed_pipe().into(),
        Err(failure) => {
            failure.report(context.output.json);
            failure.status().into()
        }
    }
}

fn run(context: &Context, command: &Command) -> Result<(), Failure> {
    match command {
        Command::Load(args) => load::load(context, args),
        Command::Save(args) => save::save(context, args),
        #[cfg(feature = "registry")]
        Command::Pull(args) => registry::pull(context, args),
        #[cfg(feature = "registry")]
        Command::Push(args) => registry::push(context, args),
        Command::Import(args) => import::import(context, args),
        Command::Squash(args) => forms::squash(context, args),
        Command::Convert(args) => forms::convert(context, args),
        Command::Layer(args) => import::layer(context, args),
        Command::Export(args) => save::export(context, args),
        Command::Images(args) => images::list(context, args),
        Command::History(args) => images::history(context, args),
        Command::Referrers(args) => images::referrers(context, args),
        Command::Tag(args) => images::tag(context, args),
        Command::Untag(args) => images::untag(context, args),
        Command::Rmi(args) => images::remove(context, args),
        Command::Inspect(args) => inspect::any(context, args),
        Command::Create(args) => containers::create(context, args),
        Command::Ps(args) => containers::list(context, args),
        Command::Rename(args) => containers::rename(context, args),
        Command::Rm(args) => containers::remove(context, args),
        Command::Mount(args) => containers::mount(context, args),
        Command::Umount(args) => containers::umount(context, args),
        Command::Changes(args) => containers::changes(context, args),
        Command::Cp(args) => copy::copy(context, args),
        Command::Commit(args) => containers::commit(context, args),
        Command::Image(command) => run_image(context, command),
        Command::Container(command) => run_container(context, command),
        Command::Builder(command) => run_builder(context, command),
        Command::System(command) => run_system(context, command),
        Command::Gc(args) => store::gc(context, args),
        Command::Check(args) => check::check(context, args),
        Command::Repair(args) => repair::repair(context, args),
        Command::Info(args) => store::info(context, args),
        Command::Completions(args) => store::completions(context, args),
        Command::Man(args) => manual::manual(context, args),
        Command::Version(_) => store::version(context),
    }
}

fn run_image(context: &Context, command: &ImageCommand) -> Result<(), Failure> {
    match command {
        ImageCommand::Ls(args) => images::list(context, args),
        ImageCommand::Inspect(args) => inspect::images(context, args),
        ImageCommand::History(args) => images::history(context, args),
        ImageCommand::Referrers(args) => images::referrers(context, args),
        ImageCommand::Load(args) => load::load(context, args),
        ImageCommand::Save(args) => save::save(context, args),
        #[cfg(feature = "registry")]
        ImageCommand::Pull(args) => registry::pull(context, args),
        #[cfg(feature = "registry")]
        ImageCommand::Push(args) => registry::push(context, args),
        ImageCommand::Import(args) => import::import(context, args),
        ImageCommand::Squash(args) => forms::squash(context, args),
        ImageCommand::Convert(args) => forms::convert(context, args),
        ImageCommand::Layer(args) => import::layer(context, args),
        ImageCommand::Tag(args) => images::tag(context, args),
        ImageCommand::Untag(args) => images::untag(context, args),
        ImageCommand::Rm(args) => images::remove(context, args),
        ImageCommand::Mount(args) => images::mount(context, args),
        ImageCommand::Umount(args) => images::umount(context, args),
        ImageCommand::Prune(args) => prune::images(context, args),
    }
}

fn run_container(context: &Context, command: &ContainerCommand) -> Result<(), Failure> {
    match command {
        ContainerCommand::Create(args) => containers::create(context, args),
        ContainerCommand::Ls(args) => containers::list(context, args),
        ContainerCommand::Rename(args) => containers::rename(context, args),
        ContainerCommand::Rm(args) => containers::remove(context, args),
        ContainerCommand::Mount(args) => containers::mount(context, args),
        ContainerCommand::Umount(args) => containers::umount(context, args),
        ContainerCommand::Diff(args) => containers::changes(context, args),
        ContainerCommand::Cp(args) => copy::copy(context, args),
        ContainerCommand::Commit(args) => containers::commit(context, args),
        ContainerCommand::Export(args) => save::export(context, args),
        ContainerCommand::Prune(args) => prune::containers(context, args),
    }
}

fn run_builder(context: &Context, command: &BuilderCommand) -> Result<(), Failure> {
    match command {
        BuilderCommand::Ls(_) => prune::list_steps(context),
        BuilderCommand::Prune(args) => prune::steps(context, args),
    }
}

fn run_system(context: &Context, command: &SystemCommand) -> Result<(), Failure> {
    match command {
        SystemCommand::Df(args) => usage::df(context, args),
        SystemCommand::Gc(args) => store::gc(context, args),
        SystemCommand::Check(args) => check::check(context, args),
        SystemCommand::Repair(args) => repair::repair(context, args),
        SystemCommand::Info(args) => store::info(context, args),
        SystemCommand::Prune(args) => prune::system(context, args),
    }
}
