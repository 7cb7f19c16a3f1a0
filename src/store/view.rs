//! Read-only views of images: what an image holds, mounted, without a container.
//!
//! ```text
//! views/<manifest digest>/
//!   container.json          as a container's: it keeps the image and its layers from collection
//!   root.json top/ merged/  the driver's
//! ```
//!
//! One view serves everybody who looks at that image. It ends when somebody unmounts it; one that lost its mount in a
//! crash is mounted again, and one that lost its record is made again.

use std::path::PathBuf;

use super::error::StoreError;
use super::image::Image;
use super::operation::Operation;
use super::{Inner, Store};
use crate::container::{ContainerLayer, ContainerRecord, root_state, source_of, unmount_all};
use crate::digest::{Algorithm, Digest};
use crate::driver::{self, RootOptions, RootState, Unmount, kind_of};
use crate::fs::{Kind, Lock, LockMode, Optional};
use crate::layer::Ensured;

impl Store {
    /// Mounts `image` read-only and says where. The mount outlives this process; an image that is mounted already is where
    /// it was.
    ///
    /// # Errors
    ///
    /// [`StoreError::Driver`] if nothing can be mounted here, [`StoreError::Layer`] if a layer is damaged. The image is not
    /// mounted then; layers that were unpacked stay.
    pub fn mount_image(&self, image: &Image) -> Result<PathBuf, StoreError> {
        let inner = &self.inner;
        let id = view_id(image);
        let operation = inner.begin()?;
        inner.pin_held(&operation, image)?;
        let _lock = Lock::acquire(&inner.layout.locks, &format!("view-{id}"), LockMode::Exclusive)?;
        if let RootState::Mounted(path) = inner.view_state(&id)? {
            return Ok(path);
        }
        let record = match inner.known_in(&inner.layout.views, &id) {
            Err(error) if error.is_damaged_record() => {
                tracing::warn!(%error, "a view is made again");
                inner.take_view_away(&id, &operation)?;
                None
            }
            found => found?,
        };
        if let Some(record) = record {
            // Its mount is gone, or it never needed one.
            if let Some(layers) = inner.find_stack(&record.stack)? {
                let driver = inner.driver(record.driver)?;
                let dir = inner.layout.views.open_dir(&id)?;
                let layer = ContainerLayer::new(&id, dir, layers, &*driver);
                let root = layer.mount(None, view_options(inner))?;
                operation.end()?;
                return Ok(root.path);
            }
            operation.workspace().discard(&inner.layout.views, &id)?;
        }
        let driver = inner.new_driver()?;
        let Ensured { keys, layers, .. } = self.stack_pinned(image, &operation, None)?;
        let record = ContainerRecord::new(id, String::new(), image.record(), keys, driver.kind());
        let staged = operation.workspace().directory_with(0o700)?;
        let layer = ContainerLayer::new(&record.id, staged.dir().try_clone()?, layers, &*driver);
        let options = view_options(inner);
        layer.prepare(options.clone())?;
        inner.write_new_record(&record, staged.dir())?;
        inner.layout.views.put_aside(&record.id, Kind::Directory)?;
        staged.publish(&inner.layout.views, &record.id)?;
        let root = layer.mount(None, options)?;
        operation.end()?;
        Ok(root.path)
    }

    /// Where the view of `image` is mounted, if it is.
    ///
    /// # Errors
    ///
    /// [`StoreError::Driver`] if the kernel's table cannot be read.
    pub fn image_mounted(&self, image: &Image) -> Result<Option<PathBuf>, StoreError> {
        match self.inner.view_state(&view_id(image))? {
            RootState::Mounted(path) => Ok(Some(path)),
            _ => Ok(None),
        }
    }

    /// Ends the view of `image`. An image that is not mounted is no error.
    ///
    /// # Errors
    ///
    /// [`StoreError::Driver`] if somebody works in it; it stays mounted.
    pub fn unmount_image(&self, image: &Image) -> Result<(), StoreError> {
        let inner = &self.inner;
        let id = view_id(image);
        let operation = inner.begin()?;
        let _lock = Lock::acquire(&inner.layout.locks, &format!("view-{id}"), LockMode::Exclusive)?;
        if let Some(dir) = inner.layout.views.open_dir(&id).fitting()? {
            let kind = match inner.known_in(&inner.layout.views, &id) {
                Err(error) if error.is_damaged_record() => kind_of(&dir)?,
                found => found?.map(|record| record.driver),
            };
            if let Some(kind) = kind {
                unmount_all(&id, &dir, &*inner.driver(kind)?, Unmount::Clean)?;
            }
            inner.take_view_away(&id, &operation)?;
        }
        inner.layout.locks.remove_file(format!("view-{id}")).optional()?;
        Ok(operation.end()?)
    }
}

impl Inner {
    /// What the view of this id is doing.
    pub(super) fn view_state(&self, id: &str) -> Result<RootState, StoreError> {
        match self.layout.views.open_dir(id).fitting()? {
            Some(dir) => Ok(root_state(id, &dir)?),
            None => Ok(RootState::Unmounted),
        }
    }

    /// The records of all views that can be read, and the views of which none can.
    pub(super) fn sorted_views(&self) -> Result<(Vec<ContainerRecord>, Vec<DamagedView>), StoreError> {
        let (mut records, mut damaged) = (Vec::new(), Vec::new());
        for entry in self.layout.views.names()? {
            let Some(id) = str::from_utf8(&entry.name).ok() else { continue };
            let Some(image) = shown_by(id) else { continue };
            match self.known_in(&self.layout.views, id) {
                Ok(record) => records.extend(record),
                Err(error) if error.is_damaged_record() => {
                    let is_mounted = matches!(self.view_state(id)?, RootState::Mounted(_));
                    damaged.push(DamagedView { id: id.to_owned(), image, is_mounted, error });
                }
                Err(error) => return Err(error),
            }
        }
        Ok((records, damaged))
    }

    /// Removes a view that nobody uses, with what a dead mount left. The next mount of the image makes it again.
    pub(super) fn take_view_away(&self, id: &str, operation: &Operation) -> Result<(), StoreError> {
        if let Some(dir) = self.layout.views.open_dir(id).fitting()? {
            driver::abandon_root(&source_of(id), &dir)?;
            // Once its image is gone, a collection takes it without its lock.
            operation.workspace().discard(&self.layout.views, id).optional()?;
        }
        Ok(())
    }
}

/// A view whose record is missing or cannot be read. Which image it shows, its name says.
#[derive(Debug)]
pub(super) struct DamagedView {
    pub(super) id: String,
    /// The manifest.
    pub(super) image: Digest,
    pub(super) is_mounted: bool,
    pub(super) error: StoreError,
}

/// The manifest of what the view `id` shows; `None` if nothing is called so.
pub(super) fn shown_by(id: &str) -> Option<Digest> {
    let known = |algorithm: Algorithm| Digest::from_parts(algorithm.name(), id).ok();
    Algorithm::ALL.into_iter().find_map(known)
}

/// A view's id is that of what it shows.
fn view_id(image: &Image) -> String {
    image.manifest_digest().hex()
}

fn view_options(inner: &Inner) -> RootOptions {
    let mut options = RootOptions::read_only();
    options.durability = inner.options.durability;
    options
}
