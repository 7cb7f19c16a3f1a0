//! [`Mounted`]: the root of a container while it is in use.
//!
//! It holds no lock on operations: the kernel knows what is mounted. It has a [`Hold`], which says that the container is in
//! use also where nothing is mounted for it. Unmounting goes through [`Container::unmount`], which takes the
//! container's lock, so a guard and another process may try at the same time.

use std::path::{Path, PathBuf};

use super::container::Container;
use super::error::StoreError;
use super::hold::Hold;
use crate::fs::Dir;

/// The root of a container, in use. Dropping it unmounts, if it was this guard that mounted; [`Mounted::unmount`] does
/// the same and reports.
#[derive(Debug)]
pub struct Mounted {
    container: Container,
    path: PathBuf,
    /// `None` only while it is being unmounted: the kernel would find it busy.
    dir: Option<Dir>,
    unmount: bool,
    hold: Hold,
}

/// A root that could not be unmounted, still mounted, and why.
#[derive(Debug, thiserror::Error)]
#[error("cannot unmount container {}", mounted.container.name())]
pub struct UnmountError {
    /// The root.
    pub mounted: Box<Mounted>,
    /// The reason.
    pub source: Box<StoreError>,
}

impl Mounted {
    /// A root that is usable. Whether this guard ends the mount is `unmount`.
    pub(super) fn new(container: Container, path: PathBuf, dir: Dir, unmount: bool, hold: Hold) -> Self {
        Self { container, path, dir: Some(dir), unmount, hold }
    }

    /// Returns the hold that this guard keeps on its container. A program that inherits it
    /// ([`Hold::inheritable_fd`]) keeps the container in use after this guard is gone.
    pub fn hold(&self) -> &Hold {
        &self.hold
    }

    /// Where the root is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The root directory. The mount is busy for as long as a clone of it is open.
    pub fn root(&self) -> &Dir {
        self.dir.as_ref().expect("it is gone only inside unmount and drop")
    }

    /// The container.
    pub fn container(&self) -> &Container {
        &self.container
    }

    /// Leaves the root mounted, beyond the life of this process if need be. [`Container::mounted`] finds it again and
    /// [`Container::unmount`] ends it. The hold ends with this guard.
    ///
    /// Nothing is mounted for a root of the copy driver. It is in use then for as long as a process has its root or working
    /// directory in it, or inherited the hold.
    pub fn keep(mut self) -> PathBuf {
        self.unmount = false;
        self.path.clone()
    }

    /// Unmounts the root.
    ///
    /// # Errors
    ///
    /// [`UnmountError`] with this guard in it, if the root is in use. It stays mounted until the guard is dropped, which tries
    /// once more.
    pub fn unmount(mut self) -> Result<Container, UnmountError> {
        self.dir = None;
        match self.container.unmount() {
            Ok(()) => {
                self.unmount = false;
                Ok(self.container.clone())
            }
            Err(source) => {
                match Dir::open_ambient(&self.path) {
                    Ok(dir) => self.dir = Some(dir),
                    Err(error) => {
                        tracing::warn!(%error, "a root that cannot be unmounted cannot be opened either")
                    }
                }
                Err(UnmountError { mounted: Box::new(self), source: Box::new(source) })
            }
        }
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        self.dir = None;
        if !std::mem::take(&mut self.unmount) {
            return;
        }
        if let Err(error) = self.container.unmount() {
            tracing::warn!(%error, container = self.container.name(), "a root stays mounted");
        }
    }
}
