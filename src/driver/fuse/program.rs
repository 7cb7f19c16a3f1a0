//! Finding fuse-overlayfs, and taking a mount away where only fusermount may.

use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use rustix::fs::{Access, access};

use super::super::error::DriverError;
use super::super::{DriverKind, Unmount, holders};
use crate::fs::Dir;

/// Where programs are looked for, and the only thing that the server finds in its environment: what the caller's
/// environment says must not change how a root behaves.
pub(super) const SEARCH: &str = "/usr/bin:/bin:/usr/local/bin:/usr/sbin:/sbin:/usr/local/sbin";

/// A program that can be executed.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(in super::super) struct Program(pub(super) PathBuf);

impl Program {
    /// fuse-overlayfs: the one that was named, or the first that is installed.
    pub(in super::super) fn find(named: Option<&Path>) -> Result<Self, DriverError> {
        let refuse = |reason| Err(DriverError::Refused { kind: DriverKind::Fuse, reason });
        match named {
            Some(path) => match access(path, Access::EXEC_OK) {
                Ok(()) => Ok(Self(path.to_owned())),
                Err(error) => refuse(format!("{path:?} cannot be executed: {}", io::Error::from(error))),
            },
            None => match installed("fuse-overlayfs") {
                Some(path) => Ok(Self(path)),
                None => refuse(format!("fuse-overlayfs is not installed: it is not in {SEARCH}")),
            },
        }
    }

    /// What it calls itself, for people.
    pub(in super::super) fn version(&self) -> String {
        let output = clean(&self.0).arg("--version").output();
        let text = output.map(|output| String::from_utf8_lossy(&output.stdout).into_owned());
        // Version 1 names other programs too, and not itself first.
        let version = text.ok().and_then(|text| {
            let own = text.lines().find(|line| line.starts_with("fuse-overlayfs"))?;
            Some(own.replace(": version", "").trim().to_owned())
        });
        format!("{} ({})", version.unwrap_or_else(|| "some version".to_owned()), self.0.display())
    }
}

/// The files by which it is decided whether there is a driver: the device and the programs, there or not.
pub(in super::super) fn files(named: Option<&Path>) -> Vec<PathBuf> {
    let places = |name: &'static str| SEARCH.split(':').map(move |dir| Path::new(dir).join(name));
    let own = named.map_or_else(|| places("fuse-overlayfs").collect(), |path| vec![path.to_owned()]);
    let others = places("fusermount3").chain(places("fusermount")).chain([PathBuf::from("/dev/fuse")]);
    own.into_iter().chain(others).collect()
}

fn installed(name: &str) -> Option<PathBuf> {
    let candidates = SEARCH.split(':').map(|dir| Path::new(dir).join(name));
    candidates.into_iter().find(|path| access(path, Access::EXEC_OK).is_ok())
}

/// A command with an environment of its own.
pub(super) fn clean(program: &Path) -> Command {
    let mut command = Command::new(program);
    command.env_clear().env("PATH", SEARCH).stdin(Stdio::null()).current_dir("/");
    command
}

/// Ends the mount of an ordinary user at `path`.
pub(super) fn fusermount(
    target: impl Fn() -> Result<Dir, crate::fs::Error>,
    path: &Path,
    how: Unmount,
) -> Result<(), DriverError> {
    let Some(program) = installed("fusermount3").or_else(|| installed("fusermount")) else {
        let reason = "unmounting takes fusermount3, which is not installed".to_owned();
        return Err(DriverError::Refused { kind: DriverKind::Fuse, reason });
    };
    let lazy = match how {
        Unmount::Clean => &[][..],
        Unmount::Lazy => &["-z"][..],
    };
    let kernel = |log, source| DriverError::Kernel { step: "unmount", path: path.to_owned(), log, source };
    let output = clean(&program)
        .arg("-u")
        .args(lazy)
        .arg("--")
        .arg(path)
        .output()
        .map_err(|error| kernel(Vec::new(), error))?;
    if output.status.success() {
        return Ok(());
    }
    let said: Vec<_> = String::from_utf8_lossy(&output.stderr).lines().map(str::to_owned).collect();
    if said.iter().any(|line| line.contains("busy")) {
        let holders = target().map_or_else(|_| Vec::new(), |root| holders::of(&root, path));
        return Err(DriverError::Busy { path: path.to_owned(), holders });
    }
    Err(kernel(said, io::Error::other(format!("{} failed", program.display()))))
}
