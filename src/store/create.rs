//! Making containers: on an image, or as another container is now.
//!
//! ```text
//! create   pin image and layers → stage the directory → reserve the name → rename into containers/
//! ```

use std::collections::BTreeMap;
use std::sync::atomic::AtomicBool;

use super::Store;
use super::cancel;
use super::container::Container;
use super::error::StoreError;
use super::image::Image;
use super::names::Named;
use super::operation::Operation;
use super::records::check_name;
use crate::container::{ContainerLayer, ContainerRecord, root_state};
use crate::driver::{RootOptions, RootState};
use crate::fs::{LockMode, StagedDir, Timestamp, unique_name};
use crate::image::time;
use crate::layer::Ensured;

/// How to make a container.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct CreateOptions<'a> {
    /// What people call it. Default: the beginning of its id.
    pub name: Option<String>,
    /// Notes by name, kept with it.
    pub labels: BTreeMap<String, String>,
    /// What an engine keeps with it, by name: see [`Container::metadata`].
    pub metadata: BTreeMap<String, String>,
    /// The time to record.
    pub created: Option<Timestamp>,
    /// What tunes its root, kept with it for every mount. `access`, `durability` and `route` have no effect; nor does any of
    /// it on a clone, whose root is tuned as its original's.
    pub root: RootOptions,
    /// Set by another thread to give up while layers are unpacked.
    pub cancel: Option<&'a AtomicBool>,
}

impl CreateOptions<'_> {
    /// With this name.
    pub fn named(name: impl Into<String>) -> Self {
        Self { name: Some(name.into()), ..Self::default() }
    }

    /// With a label more.
    #[must_use]
    pub fn label(mut self, key: impl Into<String>, value: impl Into<String>) -> Self {
        self.labels.insert(key.into(), value.into());
        self
    }

    /// With something more that an engine keeps with it.
    #[must_use]
    pub fn metadata(mut self, key: impl Into<String>, value: impl Into<String>) -> Self {
        self.metadata.insert(key.into(), value.into());
        self
    }

    /// With the time to record.
    #[must_use]
    pub fn created(mut self, created: Timestamp) -> Self {
        self.created = Some(created);
        self
    }

    /// With a root so tuned.
    #[must_use]
    pub fn root(mut self, root: RootOptions) -> Self {
        self.root = root;
        self
    }
}

impl Store {
    /// Makes a container on `image`, unpacking what is not unpacked. It is at rest; see [`Container::mount`].
    ///
    /// # Errors
    ///
    /// [`StoreError::NameInUse`], [`StoreError::InvalidName`], [`StoreError::NotAnImage`] for an artifact,
    /// [`StoreError::Driver`] if the driver that was asked for does not work here, [`StoreError::Layer`] if a layer is
    /// damaged, [`StoreError::Cancelled`]. No container is visible then; layers that were unpacked by then stay, as those
    /// of any image in the store.
    pub fn create_container(
        &self,
        image: &Image,
        options: &CreateOptions<'_>,
    ) -> Result<Container, StoreError> {
        let inner = &self.inner;
        let (id, name) = identity(options)?;
        let driver = inner.new_driver()?;
        let operation = inner.begin()?;
        inner.pin_held(&operation, image)?;
        let Ensured { keys, layers, .. } =
            cancel::told(self.stack_pinned(image, &operation, options.cancel))?;
        let mut record = ContainerRecord::new(id, name, image.record(), keys, driver.kind());
        describe(&mut record, options)?;

        let staged = operation.workspace().directory_with(0o700)?;
        let layer = ContainerLayer::new(&record.id, staged.dir().try_clone()?, layers, &*driver);
        let RootOptions { access, durability, route, .. } = inner.root_options();
        layer.prepare(RootOptions { access, durability, route, ..options.root.clone() })?;
        let container = self.publish_container(record, staged, &operation)?;
        operation.end()?;
        Ok(container)
    }

    /// Makes a container visible of which everything but the record is in `staged`.
    fn publish_container(
        &self,
        record: ContainerRecord,
        staged: StagedDir<'_>,
        operation: &Operation,
    ) -> Result<Container, StoreError> {
        let inner = &self.inner;
        inner.write_new_record(&record, staged.dir())?;
        let _name = inner.reserve_name(&record.name, &record.id, operation)?;
        staged.publish(&inner.layout.containers, &record.id)?;
        inner.sync(&inner.layout.containers)?;
        Ok(Container { store: self.clone(), record })
    }
}

impl Container {
    /// Makes another container with the same image and driver and with everything that was changed in this one. From
    /// then on they have nothing to do with each other. It gets the labels and the metadata of this one; those in
    /// `options` go over them.
    ///
    /// # Errors
    ///
    /// [`StoreError::Mounted`] if it is mounted and [`StoreError::InUse`] if a process uses it: what is half-written there
    /// would be half-written in the copy. Otherwise as [`Store::create_container`]. The original is what it was.
    pub fn clone_as(&self, options: &CreateOptions<'_>) -> Result<Self, StoreError> {
        let (container, layers) = self.restored(options.cancel)?;
        let store = &container.store;
        let inner = &store.inner;
        let (id, name) = identity(options)?;
        let operation = inner.begin()?;
        let image = Named { target: container.record.image.target.clone(), names: Vec::new() };
        let pinned = inner.image(image).and_then(|image| inner.pin_manifest(&operation, &image));
        pinned.map_err(|error| inner.lacking(container.name(), error))?;
        // Nobody mounts it meanwhile.
        let (_lock, container) = container.locked(LockMode::Exclusive)?;
        if let RootState::Mounted(path) = root_state(container.id(), &container.dir()?)? {
            return Err(StoreError::Mounted { container: container.name().to_owned(), path });
        }
        let _alone = container.refuse_if_held()?;
        let mut record = container.record.clone();
        (record.id, record.name) = (id, name);
        describe(&mut record, options)?;
        let driver = inner.driver(record.driver)?;
        let staged = operation.workspace().directory_with(0o700)?;
        let layer = ContainerLayer::new(&record.id, staged.dir().try_clone()?, layers, &*driver);
        layer.duplicate(container.id(), &container.dir()?, inner.root_options())?;
        let made = store.publish_container(record, staged, &operation)?;
        operation.end()?;
        Ok(made)
    }
}

/// A new id, and the name that was asked for.
fn identity(options: &CreateOptions<'_>) -> Result<(String, String), StoreError> {
    let id = unique_name()? + &unique_name()?;
    let name = options.name.clone().unwrap_or_else(|| id[..12].to_owned());
    check_name(&name)?;
    Ok((id, name))
}

/// Writes into the record what the caller says of the container.
fn describe(record: &mut ContainerRecord, options: &CreateOptions<'_>) -> Result<(), StoreError> {
    record.labels.extend(options.labels.clone());
    record.metadata.extend(options.metadata.clone());
    record.created = options.created.map(time::format).transpose().map_err(StoreError::Time)?;
    Ok(())
}
