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
mod user;

use std::error::Error;
use std::ffi::OsString;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

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
    let runtimes = runtimes()?;

    let store = Store::ensure(store)?;
    let image = find(&store, Path::new(&image))?;
    let config = &image.config().ok_or("that is an artifact, which has no root")?.config;
    let container = store.create_container(&image, &CreateOptions::default())?;
    let mounted = container.mount()?;
    // From here on the guard unmounts, whatever happens.

    let process = bundle::Process {
        arguments: bundle::arguments(config, &command)?,
        user: user::look_up(mounted.root(), &config.user)?,
    };
    let bundle = tempfile::Builder::new().prefix("plywood-run-").tempdir()?;
    let spec = bundle::spec(config, &process, mounted.path(), container.name());
    serde_json::to_writer_pretty(File::create(bundle.path().join("config.json"))?, &spec)?;
    let status = start(&runtimes, bundle.path(), container.id())?;

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

/// The OCI runtimes that are installed.
fn runtimes() -> Result<Vec<PathBuf>> {
    let path = std::env::var_os("PATH").unwrap_or_else(|| "/usr/bin:/usr/sbin:/bin:/sbin".into());
    let places = ["crun", "runc"].into_iter().filter_map(|name| {
        std::env::split_paths(&path).map(|dir| dir.join(name)).find(|file| file.is_file())
    });
    match places.collect::<Vec<_>>() {
        none if none.is_empty() => Err("there is no OCI runtime here: install crun or runc".into()),
        found => Ok(found),
    }
}

/// Runs the process and returns its status. A runtime may be installed and not work here (crun needs cgroups of one
/// version, not both): then it says why, and the next has its turn.
fn start(runtimes: &[PathBuf], bundle: &Path, id: &str) -> Result<u8> {
    let mut status = 1;
    for runtime in runtimes {
        let started = bundle.join("pid");
        let done = Command::new(runtime)
            .args(bundle::runtime_options(runtime, bundle))
            .args(["run".as_ref(), "--bundle".as_ref(), bundle])
            .args(["--pid-file".as_ref(), started.as_path()])
            .arg(id)
            .status()?;
        status = done.code().and_then(|code| u8::try_from(code).ok()).unwrap_or(1);
        if started.exists() {
            break;
        }
    }
    Ok(status)
}
