//! Read-only views of images: what an image holds, mounted, without a container.
//!
//! ```text
//! views/<manifest digest>/
//!   container.json          as a container's: it keeps the image and its layers from collection
//!   root.json top/ merged/  the driver's
//! ```
//!
//! One view serves everybody who looks at that image. It ends when somebody unmounts it; one that lost its mount in a
//! crash is mounted again.

use std::path::PathBuf;

use super::error::StoreError;
use super::image::Image;
use super::{Inner, Store};
use crate::container::{ContainerLayer, ContainerRecord, root_state, unmount_all};
use crate::driver::{RootOptions, RootState, Unmount};
use crate::fs::{Lock, LockMode, Optional};
use crate::layer::Ensured;

impl Store {
    /// Mounts `image` read-only and says where. The mount outlives this process; an image that is mounted already is where
    /// it was.
    ///
    /// # Errors
    ///
    /// [`StoreError::Driver`] if nothing can be mounted here, [`StoreError::Layer`] if a layer is damaged.
    pub fn mount_image(&self, image: &Image) -> Result<PathBuf, StoreError> {
        let inner = &self.inner;
        let id = view_id(image);
        let operation = inner.begin()?;
        inner.pin_held(&operation, image)?;
        let _lock = Lock::acquire(&inner.layout.locks, &format!("view-{id}"), LockMode::Exclusive)?;
        if let RootState::Mounted(path) = inner.view_state(&id)? {
            return Ok(path);
        }
        if let Some(record) = inner.record_in(&inner.layout.views, &id)? {
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
    /// [`StoreError::Driver`] if somebody works in it.
    pub fn unmount_image(&self, image: &Image) -> Result<(), StoreError> {
        let inner = &self.inner;
        let id = view_id(image);
        let operation = inner.begin()?;
        let _lock = Lock::acquire(&inner.layout.locks, &format!("view-{id}"), LockMode::Exclusive)?;
        if let Some(record) = inner.record_in(&inner.layout.views, &id)? {
            let driver = inner.driver(record.driver)?;
            unmount_all(&id, &inner.layout.views.open_dir(&id)?, &*driver, Unmount::Clean)?;
            operation.workspace().discard(&inner.layout.views, &id)?;
        }
        inner.layout.locks.remove_file(format!("view-{id}")).optional()?;
        Ok(operation.end()?)
    }
}

impl Inner {
    /// What the view of this id is doing.
    pub(super) fn view_state(&self, id: &str) -> Result<RootState, StoreError> {
        match self.layout.views.open_dir(id).optional()? {
            Some(dir) => Ok(root_state(id, &dir)?),
            None => Ok(RootState::Unmounted),
        }
    }

    /// The records of all views.
    pub(super) fn view_records(&self) -> Result<Vec<ContainerRecord>, StoreError> {
        self.records_in(&self.layout.views)
    }
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
