//! [`Hold`]: a lock that says that a process uses a container.
//!
//! It is a shared lock on the container's directory (`flock(2)`). It belongs to what was opened, so it lasts for as long as
//! a process has that open, this one or a child that inherited it, and ends with the last of them however that ends. It
//! keeps nobody from changing the container: commit, copy, rename and mount work on a container that is held. It keeps the
//! container from being removed, pruned and cloned.
//!
//! The lock on the container's operations (`locks/container-<id>`) is another one, and is held only for the time of one
//! operation.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use super::container::{Container, ContainerState};
use super::error::StoreError;
use crate::driver::{DriverKind, Holder, Processes};
use crate::fs::Dir;

/// Says that a container is in use, until it is dropped and all children that inherited it have ended.
///
/// On a file system without locks (`flock(2)` on directories, NFS for example) it says nothing.
#[derive(Debug)]
pub struct Hold {
    dir: Dir,
}

impl Hold {
    /// Returns a second handle that programs inherit which this process starts: it has no close-on-exec flag. A program
    /// that inherits it holds the container for as long as it runs or keeps the handle open.
    ///
    /// Every program inherits it that any thread starts while the handle is open. So make it right before the one that is
    /// meant, and drop it right after.
    ///
    /// # Errors
    ///
    /// The kernel's, if this process has too many open files.
    pub fn inheritable_fd(&self) -> io::Result<OwnedFd> {
        Ok(rustix::io::dup(&self.dir)?)
    }
}

impl AsFd for Hold {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.dir.as_fd()
    }
}

impl Container {
    /// Says that this container is in use until the [`Hold`] is dropped. Any number of processes may hold it. While it is
    /// held, [`Container::remove`] and [`Container::clone_as`] refuse, and [`crate::Store::prune`] leaves it.
    ///
    /// [`Container::mount`] takes one, which its guard keeps: see [`crate::Mounted::hold`].
    ///
    /// # Errors
    ///
    /// [`StoreError::NotFound`] if the container was removed.
    pub fn hold(&self) -> Result<Hold, StoreError> {
        let dir = self.dir()?;
        dir.hold_patiently()?;
        // Until the lock was there, it may have been removed.
        let held = dir.stat(".")?;
        match self.store.inner.layout.containers.find(self.id())? {
            Some(found) if found.is_same_inode(&held) => Ok(Hold { dir }),
            _ => Err(self.not_found()),
        }
    }

    /// Returns true if the container is mounted, if a process holds it ([`Container::hold`]), or, of the copy driver, if one
    /// of `processes` has its root or working directory in it. Such a container is neither removed, pruned nor cloned.
    ///
    /// # Errors
    ///
    /// [`StoreError::Driver`] if the kernel's table of mounts cannot be read.
    pub fn is_in_use(&self, processes: &Processes) -> Result<bool, StoreError> {
        if matches!(self.state()?, ContainerState::Mounted(_)) {
            return Ok(true);
        }
        self.is_held(processes)
    }

    /// Does the same as [`Container::is_in_use`] for a container that is not mounted.
    pub(super) fn is_held(&self, processes: &Processes) -> Result<bool, StoreError> {
        let dir = match self.dir() {
            Err(StoreError::NotFound { .. }) => return Ok(false),
            dir => dir?,
        };
        Ok(!dir.claim()? || (self.driver() == DriverKind::Copy && !processes.inside_copy(&dir)?.is_empty()))
    }

    /// Refuses if a process uses this container, which is not mounted. No process gets a hold until what is returned is
    /// dropped.
    pub(super) fn refuse_if_held(&self) -> Result<Dir, StoreError> {
        let dir = self.dir()?;
        refuse_if_held(self.name(), Some(self.driver()), &dir)?;
        Ok(dir)
    }
}

/// Refuses if a process uses the container `name` in `dir`; the driver may be unknown. Otherwise `dir` keeps others from
/// holding it.
pub(super) fn refuse_if_held(name: &str, driver: Option<DriverKind>, dir: &Dir) -> Result<(), StoreError> {
    let refuse = |holders| Err(StoreError::InUse { container: name.to_owned(), holders });
    if !dir.claim()? {
        return refuse(Holder::with_open(dir));
    }
    if driver.is_none_or(|driver| driver == DriverKind::Copy) {
        let processes = Processes::read();
        let inside = processes.inside_copy(dir)?;
        if !inside.is_empty() {
            return refuse(inside.to_vec());
        }
    }
    Ok(())
}
