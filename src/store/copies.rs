//! Copying in and out of containers.
//!
//! A root is asked through its mount, so that it does not matter which driver makes it; one that is not mounted is, for as
//! long as the copy takes. What is copied in is unpacked in the store's staging directory first.

use std::io::{Read, Write};
use std::path::Path;

use super::container::Container;
use super::error::StoreError;
use super::mounted::{Mounted, UnmountError};
use super::{Inner, Store};
use crate::container::{
    Copied, CopyError, CopyInOptions, CopyOutOptions, Located, copy_in, copy_out, resolve,
};
use crate::driver::{DriverKind, Writable};
use crate::fs::{Dir, Durability};
use crate::layer::{Abilities, UnpackOptions};
use crate::stack::marks::Marks;
use crate::whiteout::Namespace;

impl Mounted {
    /// What `path` means in this root, see [`resolve`].
    ///
    /// # Errors
    ///
    /// [`StoreError::Copy`] if a directory on the way is missing.
    pub fn resolve(&self, path: impl AsRef<Path>, follow: bool) -> Result<Located, StoreError> {
        let mut found = resolve(self.root(), path, follow)?;
        found.shows_marks = self.container().copied_marks()?;
        Ok(found)
    }

    /// Writes what is at `path` as a plain tar, named by its last component. The path, and links if they are followed, are
    /// resolved inside the root. Owners are those in the container.
    ///
    /// It is what the mount shows. Fuse-overlayfs shows no owners and devices that this process could not make and that are
    /// recorded, and of names of one file only those that were made since it was mounted; [`Container::export`] has them.
    ///
    /// # Errors
    ///
    /// [`StoreError::Copy`]; what was written is then useless.
    pub fn copy_out(
        &self,
        path: impl AsRef<Path>,
        out: impl Write,
        options: &CopyOutOptions,
    ) -> Result<(), StoreError> {
        let path = path.as_ref();
        Ok(copy_out(&self.resolve(path, options.follow)?, path, out, options)?)
    }

    /// Puts a plain tar, which may be compressed, into the directory at `path`, which must exist. Names that begin with
    /// `.wh.` are names like any other. Files and links are replaced; directories stay, and become what the tar says of
    /// them, but for the one at `path` itself. Devices, pipes and sockets are never replaced: one that the tar has too stays
    /// as it is. Links in the root are followed on the way to `path` only, inside the root.
    ///
    /// A tar that is damaged, or that has a directory where something else is or the reverse, or a file where a device, a
    /// pipe or a socket is, changes nothing.
    ///
    /// Processes in the container may rename and link in the directory meanwhile. They get no file of theirs with an owner, a mode
    /// or an attribute of the tar: files and new directories are finished in a directory that only this process's user can
    /// enter (`.` and 32 hexadecimal digits, beside the target), and renamed into place.
    ///
    /// # Errors
    ///
    /// [`StoreError::Copy`]. Only with [`CopyError::Io`](crate::container::CopyError::Io) and
    /// [`CopyError::Disturbed`](crate::container::CopyError::Disturbed) may a part have been copied: each file of it is
    /// whole, the old one or the new.
    pub fn copy_in(
        &self,
        path: impl AsRef<Path>,
        tar: impl Read,
        options: &CopyInOptions<'_>,
    ) -> Result<Copied, StoreError> {
        let path = path.as_ref();
        let found = self.resolve(path, true)?;
        match found.kind {
            Some(_) if found.is_directory() => {}
            Some(_) => return Err(CopyError::NotADirectory { path: path.to_owned() }.into()),
            None => return Err(CopyError::NotFound { path: path.to_owned() }.into()),
        }
        let options = options.clone().devices();
        let copied = self.container().store.unpack_into(&found.dir, tar, &options)?;
        if self.container().store.inner.options.durability == Durability::Full {
            found.dir.sync_file_system()?;
        }
        Ok(copied)
    }
}

impl Container {
    /// Does `act` on its root: where it is mounted, or mounted for as long as that takes.
    ///
    /// # Errors
    ///
    /// What `act` returns, or [`StoreError`] if the root cannot be mounted, and `act` was not called, or not be unmounted
    /// afterwards: it stays mounted, and what `act` did is done.
    pub fn with_root<T, E: From<StoreError>>(
        &self,
        act: impl FnOnce(&Mounted) -> Result<T, E>,
    ) -> Result<T, E> {
        if let Some(mounted) = self.mounted()? {
            return act(&mounted);
        }
        let mounted = self.mount()?;
        let done = act(&mounted);
        let unmounted = mounted.unmount();
        let done = done?;
        unmounted.map_err(|UnmountError { source, .. }| *source)?;
        Ok(done)
    }

    /// [`Mounted::copy_out`] of its root, which is mounted for that if it is not.
    ///
    /// # Errors
    ///
    /// As [`Mounted::copy_out`] and [`Container::mount`].
    pub fn copy_out(
        &self,
        path: impl AsRef<Path>,
        out: impl Write,
        options: &CopyOutOptions,
    ) -> Result<(), StoreError> {
        self.with_root(|mounted| mounted.copy_out(path, out, options))
    }

    /// [`Mounted::copy_in`] to its root, which is mounted for that if it is not.
    ///
    /// # Errors
    ///
    /// As [`Mounted::copy_in`] and [`Container::mount`].
    pub fn copy_in(
        &self,
        path: impl AsRef<Path>,
        tar: impl Read,
        options: &CopyInOptions<'_>,
    ) -> Result<Copied, StoreError> {
        self.with_root(|mounted| mounted.copy_in(path, tar, options))
    }
}

impl Store {
    /// Puts a plain tar into any directory of this machine as [`Mounted::copy_in`] does, by way of this store's staging
    /// directory; no link in it is followed. What was written is not waited for. Block and character devices are left out
    /// unless the options say otherwise ([`CopyInOptions::archive`], [`CopyInOptions::devices`]);
    /// [`Copied::devices_left_out`] counts them.
    ///
    /// The directory may belong to another user, see [`Mounted::copy_in`].
    ///
    /// # Errors
    ///
    /// As [`Mounted::copy_in`].
    pub fn unpack_into(
        &self,
        into: &Dir,
        tar: impl Read,
        options: &CopyInOptions<'_>,
    ) -> Result<Copied, StoreError> {
        let inner = &self.inner;
        let operation = inner.begin()?;
        let staging = operation.workspace().directory_with(0o700)?;
        let copied = copy_in(tar, staging.dir(), into, inner.abilities()?, &inner.unpack_options(), options)?;
        staging.discard()?;
        operation.end()?;
        Ok(copied)
    }
}

impl Container {
    /// The family that its mounts do not obey, and therefore show, if directories may carry marks of it: they were copied up
    /// from layers with both families.
    fn copied_marks(&self) -> Result<Option<Namespace>, StoreError> {
        if self.driver() != DriverKind::Overlay {
            return Ok(None);
        }
        let inner = &self.store.inner;
        let Writable::Upper(upper) = inner.driver(self.driver())?.writable(&self.dir()?)? else {
            return Ok(None);
        };
        Ok(match upper.marks {
            Marks::Upper { family, copied_marks: true, .. } => Some(family.other()),
            _ => None,
        })
    }
}

impl Inner {
    /// What this process can put in the staging directory.
    fn abilities(&self) -> Result<Abilities, StoreError> {
        let probe = self.probe()?;
        Ok(Abilities { family: probe.family, privileged: probe.privileged })
    }

    fn unpack_options(&self) -> UnpackOptions<'static> {
        let mut options = UnpackOptions::default();
        options.limits.clone_from(&self.options.limits);
        options.parallelism = self.options.parallelism;
        options
    }
}
