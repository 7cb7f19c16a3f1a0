//! Starts a process in a container's root through an OCI runtime, as a container engine would.
//!
//! ```console
//! $ cargo run --example run -- STORE IMAGE [-- COMMAND...]
//! $ cargo run --example run -- /tmp/store debian.tar -- /bin/echo hi
//! ```
//!
//! `STORE` is a store's directory, made if it is missing or empty; `IMAGE` a name or an id in it, or an archive or OCI
//! directory, which is loaded first. Without a command the image's own is run. Afterwards the example says what the
//! process changed, and removes the container.
//!
//! Needs crun or runc in `PATH`. As root the process has namespaces of its own, no network, and the capabilities that are
//! customary; anyone else's process is root of a user namespace with nobody else in it.

// An example talks.
#![allow(clippy::print_stderr)]

mod bundle;
mod runtime;
mod user;

use std::error::Error;
use std::ffi::OsString;
use std::fs::File;
use std::path::Path;
use std::process::ExitCode;

use plywood::image::RuntimeConfig;
use plywood::{CreateOptions, Image, LoadOptions, RemoveContainer, Store};

pub(crate) type Result<T> = std::result::Result<T, Box<dyn Error>>;

fn main() -> ExitCode {
    match run() {
        Ok(status) => ExitCode::from(status),
        Err(error) => {
            eprint!("run: {error}");
            let mut cause = error.source();
            while let Some(error) = cause {
                eprint!(": {error}");
                cause = error.source();
            }
            eprintln!();
            ExitCode::FAILURE
        }
    }
}

/// Runs what the command line says and returns the status of the process.
fn run() -> Result<u8> {
    let mut words = std::env::args_os().skip(1);
    let (Some(store), Some(image)) = (words.next(), words.next()) else {
        return Err("usage: run STORE IMAGE [-- COMMAND...]".into());
    };
    let command = command(words.collect())?;
    let runtimes = runtime::installed()?;

    let store = Store::ensure(store)?;
    let image = find(&store, Path::new(&image))?;
    let config = &image.config().ok_or("that is an artifact, which has no root")?.config;
    let container = store.create_container(&image, &CreateOptions::default())?;
    let mounted = container.mount()?;
    // From here on the guard unmounts, whatever happens.

    let process = bundle::Process {
        arguments: arguments(config, &command)?,
        user: user::look_up(mounted.root(), &config.user)?,
    };
    let bundle = tempfile::Builder::new().prefix("plywood-run-").tempdir()?;
    let spec = bundle::spec(config, &process, mounted.path(), container.name());
    serde_json::to_writer_pretty(File::create(bundle.path().join("config.json"))?, &spec)?;
    // The runtime inherits this: until it has ended, the container is in use, even if this process is killed.
    let inherited = mounted.hold().inheritable_fd()?;
    let status = runtime::start(&runtimes, bundle.path(), container.id())?;
    drop(inherited);

    for change in container.changes()? {
        eprintln!("{change}");
    }
    let container = mounted.unmount()?;
    container.remove(RemoveContainer::Refuse)?;
    Ok(status)
}

/// What follows `--`.
fn command(words: Vec<OsString>) -> Result<Vec<String>> {
    let mut words = words.into_iter();
    match words.next() {
        None => return Ok(Vec::new()),
        Some(word) if word == "--" => {}
        Some(word) => return Err(format!("the command begins with --, not with {word:?}").into()),
    }
    words.map(|word| word.into_string().map_err(|word| format!("{word:?} is not UTF-8").into())).collect()
}

/// The image that a person means: the path of an archive or OCI directory, or a name in the store.
fn find(store: &Store, image: &Path) -> Result<Image> {
    let loaded = match std::fs::metadata(image) {
        Ok(found) if found.is_dir() => store.load_directory(image, &LoadOptions::default())?,
        Ok(_) => store.load(File::open(image)?, &LoadOptions::default())?,
        Err(_) => return Ok(store.image(image.to_str().ok_or("that is no name")?)?),
    };
    let first = loaded.into_iter().next();
    Ok(first.ok_or("there is no image in it")?.image)
}

/// The image's entrypoint and what follows it: the command of the caller, or else the image's.
fn arguments(config: &RuntimeConfig, command: &[String]) -> Result<Vec<String>> {
    let rest = if command.is_empty() { &config.cmd } else { command };
    let arguments: Vec<String> = config.entrypoint.iter().chain(rest).cloned().collect();
    match arguments.is_empty() {
        true => Err("the image says nothing of what to run: give a command behind --".into()),
        false => Ok(arguments),
    }
}
