//! [`MountPoint`]: a place where something is or can be mounted, named so that it cannot be swapped for another.

use std::ffi::{OsStr, OsString};
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::io::Errno;
use rustix::mount::UnmountFlags;

use super::error::DriverError;
use super::{Unmount, holders, mount_api};
use crate::fs::{self, Context, Dir};

/// A mount that is busy is tried again after pauses that double, up to this: an eighth of a second in all.
const LONGEST_PAUSE: Duration = Duration::from_millis(128);

/// A directory to mount on: an open parent and a name in it. The parent stays outside the mount, so holding this does
/// not keep the mount busy.
#[derive(Debug)]
pub struct MountPoint {
    parent: Dir,
    name: OsString,
}

impl MountPoint {
    /// The directory `name` in `parent`; `name` is a single file name.
    ///
    /// # Errors
    ///
    /// [`fs::Error`] if the process has too many open files, or `name` is more than a name.
    pub fn inside(parent: &Dir, name: impl AsRef<OsStr>) -> Result<Self, fs::Error> {
        let name = name.as_ref().to_owned();
        if Path::new(&name).file_name() != Some(&name) {
            let reason =
                io::Error::new(io::ErrorKind::InvalidInput, "a mount point is one name in a directory");
            return Err(fs::Error::new("mount on", parent.path_of(name), reason));
        }
        Ok(Self { parent: parent.try_clone()?, name })
    }

    /// The directory at a path of the caller's, resolved as any program would. What is mounted there need not answer.
    ///
    /// # Errors
    ///
    /// [`fs::Error`] if it is missing, or is the root directory.
    pub fn ambient(path: impl AsRef<Path>) -> Result<Self, fs::Error> {
        let path = path.as_ref();
        let whole = match std::fs::canonicalize(path) {
            Err(error) if Errno::from_io_error(&error) == Some(Errno::NOTCONN) => path.to_owned(),
            whole => whole.at("resolve", path)?,
        };
        match (whole.parent(), whole.file_name()) {
            (Some(parent), Some(name)) => Self::inside(&Dir::open_ambient(parent)?, name),
            _ => {
                let reason =
                    io::Error::new(io::ErrorKind::InvalidInput, "the root directory is no mount point");
                Err(fs::Error::new("mount on", path, reason))
            }
        }
    }

    /// The same place again.
    ///
    /// # Errors
    ///
    /// [`fs::Error`] if the process has too many open files.
    pub fn try_clone(&self) -> Result<Self, fs::Error> {
        Self::inside(&self.parent, &self.name)
    }

    /// Where it is, as the mount table names it.
    pub fn path(&self) -> PathBuf {
        self.parent.path_of(&self.name)
    }

    /// By which the kernel finds it again.
    pub(super) fn proc_path(&self) -> PathBuf {
        self.parent.proc_path().join(&self.name)
    }

    /// The directory that is seen there now: the root of what is mounted, or the bare directory.
    pub(super) fn target(&self) -> Result<Dir, fs::Error> {
        self.parent.open_dir(&self.name)
    }

    /// Puts an unattached mount here.
    pub(super) fn attach(&self, mount: &OwnedFd) -> Result<(), DriverError> {
        let target = self.target()?;
        mount_api::attach(mount, &target).map_err(|error| self.error("mount on", error))
    }

    /// Ends the topmost mount here.
    pub(super) fn detach(&self, how: Unmount) -> Result<(), DriverError> {
        let path = self.proc_path();
        let flags = match how {
            Unmount::Clean => UnmountFlags::NOFOLLOW,
            Unmount::Lazy => UnmountFlags::NOFOLLOW | UnmountFlags::DETACH,
        };
        let mut pause = Duration::from_millis(1);
        loop {
            match rustix::mount::unmount(&path, flags) {
                // A process that another thread is just starting has every handle of this one until it executes its
                // program, and so holds a root for a moment of which nobody here knows.
                Err(Errno::BUSY) if pause < LONGEST_PAUSE => {
                    std::thread::sleep(pause);
                    pause *= 2;
                }
                Err(Errno::BUSY) => {
                    let holders = holders::of(&self.target()?, &self.path());
                    return Err(DriverError::Busy { path: self.path(), holders });
                }
                done => return done.map_err(|error| self.error("unmount", error)),
            }
        }
    }

    pub(super) fn error(&self, step: &'static str, errno: Errno) -> DriverError {
        DriverError::Kernel { step, path: self.path(), log: Vec::new(), source: errno.into() }
    }
}
