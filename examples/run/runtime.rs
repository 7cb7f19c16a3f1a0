//! The OCI runtimes of this machine: crun and runc.

use std::path::{Path, PathBuf};
use std::process::Command;

use super::Result;
use super::bundle::runtime_options;

/// The OCI runtimes that are installed.
pub(crate) fn installed() -> Result<Vec<PathBuf>> {
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
pub(crate) fn start(runtimes: &[PathBuf], bundle: &Path, id: &str) -> Result<u8> {
    let mut status = 1;
    for runtime in runtimes {
        let started = bundle.join("pid");
        let done = Command::new(runtime)
            .args(runtime_options(runtime, bundle))
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
