//! [`Container`]: a writable root on an image.
//!
//! It holds no lock: each operation takes the container's lock for its own time, and what is mounted is asked of the
//! kernel every time. So a process may come and go while its containers stay mounted, and any other finds them.
//!
//! ```text
//! rename   reserve the new name → replace the record → give up the old name
//! remove   unmount → rename out of containers/ → give up the name → unlink
//! ```

use std::collections::BTreeMap;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;

use super::cancel::{self, While};
use super::error::StoreError;
use super::layout::Access;
use super::mounted::Mounted;
use super::names::Named;
use super::records::check_name;
use super::{DriverChoice, Inner, Store};
use crate::archive;
use crate::container::{ContainerLayer, ContainerRecord, root_state, source_of, unmount_all};
use crate::digest::Digest;
use crate::driver::{
    self, Driver, DriverError, DriverKind, MountPoint, RootOptions, RootState, Unmount, Usage,
};
use crate::fs::{Context, Dir, Durability, Lock, LockMode, Optional};
use crate::layer::{Change, Layer, PackOptions, Selection};

/// How to export a container.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct ExportOptions<'a> {
    /// What to leave out: names that the engine put into the root, attributes.
    pub selection: Selection,
    /// How to write the tar.
    pub pack: PackOptions,
    /// Whether the config of its image goes with it, in a comment that tools for tars pass over; [`Store::import`] finds it.
    pub config: bool,
    /// Set by another thread to give up.
    pub cancel: Option<&'a AtomicBool>,
}

/// What a container is doing, as the kernel sees it now.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum ContainerState {
    /// Nothing is mounted.
    Created,
    /// Its root is mounted here.
    Mounted(PathBuf),
    /// Its root is mounted here, but the program that serves it was killed or crashed. Nothing that was written is lost;
    /// [`Container::mount`] takes the dead mount away and makes another, [`Container::unmount`] takes it away.
    Dead(PathBuf),
}

/// What people and engines keep with a container.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
#[non_exhaustive]
pub struct Notes {
    /// See [`Container::labels`].
    pub labels: BTreeMap<String, String>,
    /// See [`Container::metadata`].
    pub metadata: BTreeMap<String, String>,
}

/// What to do about a container that is mounted, or that a process uses.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum RemoveContainer {
    /// Refuse.
    #[default]
    Refuse,
    /// Unmount it and remove it, even while it is in use. Its processes keep running, in a root that has no files any more.
    Force,
}

/// A container of a store: a handle, cheap and without a lock.
#[derive(Clone, Debug)]
pub struct Container {
    pub(super) store: Store,
    pub(super) record: ContainerRecord,
}

impl Store {
    /// Finds a container by its name, its id or the beginning of its id.
    ///
    /// # Errors
    ///
    /// [`StoreError::NotFound`], or [`StoreError::Ambiguous`] with everything that the beginning of an id may mean.
    pub fn container(&self, name: &str) -> Result<Container, StoreError> {
        let inner = &self.inner;
        let found = match inner.container_named(name)? {
            Some(record) => Some(record),
            None => inner.container_by_id(name)?,
        };
        let record =
            found.ok_or_else(|| StoreError::NotFound { what: "container", name: name.to_owned() })?;
        Ok(Container { store: self.clone(), record })
    }
}

impl Container {
    /// Its id: 64 hexadecimal digits.
    pub fn id(&self) -> &str {
        &self.record.id
    }

    /// What people call it.
    pub fn name(&self) -> &str {
        &self.record.name
    }

    /// The id of its image: the digest of the config.
    pub fn image_id(&self) -> Digest {
        self.record.image.id
    }

    /// The digest of its image's manifest.
    pub fn manifest_digest(&self) -> Digest {
        self.record.image.target.digest
    }

    /// What its image was called when it was made.
    pub fn image_name(&self) -> Option<&str> {
        self.record.image.name.as_deref()
    }

    /// When it was made, RFC 3339, as far as that was told.
    pub fn created(&self) -> Option<&str> {
        self.record.created.as_deref()
    }

    /// Notes by name.
    pub fn labels(&self) -> &BTreeMap<String, String> {
        &self.record.labels
    }

    /// What an engine keeps with it, by name: text of its own, a JSON document for example, that means nothing here. It is
    /// read with the container each time, so large things are better kept elsewhere.
    pub fn metadata(&self) -> &BTreeMap<String, String> {
        &self.record.metadata
    }

    /// Who makes its root.
    pub fn driver(&self) -> DriverKind {
        self.record.driver
    }

    /// What it is doing now.
    ///
    /// # Errors
    ///
    /// [`StoreError::Driver`] if the kernel's table cannot be read.
    pub fn state(&self) -> Result<ContainerState, StoreError> {
        // One that was removed is mounted nowhere.
        let Some(dir) = self.store.inner.layout.containers.open_dir(self.id()).optional()? else {
            return Ok(ContainerState::Created);
        };
        Ok(match root_state(self.id(), &dir)? {
            RootState::Unmounted => ContainerState::Created,
            RootState::Mounted(path) => ContainerState::Mounted(path),
            RootState::Dead(path) => ContainerState::Dead(path),
        })
    }

    /// Bytes on disk that are its own.
    ///
    /// # Errors
    ///
    /// As [`Container::usage`].
    pub fn size(&self) -> Result<u64, StoreError> {
        Ok(self.usage()?.allocated)
    }

    /// What it takes on disk beside its layers, counted now by walking through what was changed in it; where the root is a
    /// copy, through all of it. May be asked while it is mounted. Content that the file system shares between files counts
    /// for each of them.
    ///
    /// # Errors
    ///
    /// [`StoreError::NotFound`] if it was removed meanwhile; otherwise if it cannot be counted.
    pub fn usage(&self) -> Result<Usage, StoreError> {
        let driver = self.store.inner.driver(self.record.driver)?;
        self.unless_removed(driver.usage(&self.dir()?).map_err(StoreError::from))
    }

    /// Changes its labels and metadata in one step: `change` gets those of now, whoever wrote them last, and what it makes
    /// of them replaces them. Others who do the same wait.
    ///
    /// # Errors
    ///
    /// [`StoreError::NotFound`] if it was removed meanwhile; otherwise if the record cannot be replaced, and then it is
    /// what it was.
    pub fn update(&mut self, change: impl FnOnce(&mut Notes)) -> Result<(), StoreError> {
        let inner = &self.store.inner;
        let operation = inner.begin()?;
        let (_lock, Self { mut record, .. }) = self.locked(LockMode::Exclusive)?;
        let mut notes = Notes {
            labels: std::mem::take(&mut record.labels),
            metadata: std::mem::take(&mut record.metadata),
        };
        change(&mut notes);
        Notes { labels: record.labels, metadata: record.metadata } = notes;
        inner.write_record(&record, &self.dir()?, &operation)?;
        operation.end()?;
        self.record = record;
        Ok(())
    }

    /// Mounts its root at its own place in the store. The guard unmounts when it is dropped; [`Mounted::keep`] leaves the
    /// mount to whoever comes next.
    ///
    /// # Errors
    ///
    /// [`StoreError::Mounted`] if it is mounted already; [`StoreError::Driver`] if the kernel refuses;
    /// [`StoreError::Layer`] or [`StoreError::Unavailable`] if a layer has to be made again and cannot be. It is not mounted
    /// by this call then.
    pub fn mount(&self) -> Result<Mounted, StoreError> {
        self.mount_at(None)
    }

    /// Mounts its root at `path`, an existing directory.
    ///
    /// # Errors
    ///
    /// As [`Container::mount`]; [`StoreError::Io`] if `path` is not there.
    pub fn mount_to(&self, path: impl AsRef<Path>) -> Result<Mounted, StoreError> {
        self.mount_at(Some(&MountPoint::ambient(path)?))
    }

    fn mount_at(&self, at: Option<&MountPoint>) -> Result<Mounted, StoreError> {
        let (container, layers) = self.restored(None)?;
        let (_lock, container) = container.locked(LockMode::Exclusive)?;
        let inner = &container.store.inner;
        let driver = inner.driver(container.record.driver)?;
        let layer = ContainerLayer::new(container.id(), container.dir()?, layers, &*driver);
        // The driver looks whether it is mounted: what is mounted is a long list.
        let root = layer.mount(at, inner.root_options()).map_err(|error| match error {
            DriverError::Mounted { source_name, path } if source_name == source_of(container.id()) => {
                StoreError::Mounted { container: container.name().to_owned(), path }
            }
            error => error.into(),
        })?;
        let (path, dir, mounted) = (root.path, root.dir, root.point.is_some());
        // Its lock is held: it is not removed before it is in use.
        let hold = container.hold()?;
        Ok(Mounted::new(container.clone(), path, dir, mounted, hold))
    }

    /// The root of a container that is mounted, by this process or another. Dropping this guard leaves it mounted.
    ///
    /// # Errors
    ///
    /// [`StoreError::Driver`] if the kernel's table cannot be read, the root cannot be opened, or the program that serves
    /// it is gone.
    pub fn mounted(&self) -> Result<Option<Mounted>, StoreError> {
        let path = match self.state()? {
            ContainerState::Created => return Ok(None),
            ContainerState::Mounted(path) => path,
            ContainerState::Dead(_) => return Err(driver::dead(&self.dir()?).into()),
        };
        let dir = Dir::open_ambient(&path)?;
        let hold = self.hold()?;
        Ok(Some(Mounted::new(self.clone(), path, dir, false, hold)))
    }

    /// Unmounts its root, whoever mounted it. What is not mounted is no error.
    ///
    /// # Errors
    ///
    /// [`StoreError::Driver`] if it is in use, with its users as far as they can be found. It stays mounted there; where it
    /// was mounted in several places, it may be gone from others.
    pub fn unmount(&self) -> Result<(), StoreError> {
        let (_lock, container) = self.locked(LockMode::Exclusive)?;
        container.unmount_locked(Unmount::Clean)
    }

    fn unmount_locked(&self, how: Unmount) -> Result<(), StoreError> {
        let driver = self.store.inner.driver(self.record.driver)?;
        Ok(unmount_all(self.id(), &self.dir()?, &*driver, how)?)
    }

    /// What it changed, parents before what they hold. May be asked while it is mounted.
    ///
    /// # Errors
    ///
    /// [`StoreError::Container`] if that cannot be told. Nothing of the container was changed.
    pub fn changes(&self) -> Result<Vec<Change>, StoreError> {
        let (container, layers) = self.restored(None)?;
        let changes = container.with_layers(layers, |layer| Ok(layer.changes(&Selection::default())?));
        container.unless_removed(changes)
    }

    /// Writes its root as one plain tar. May be done while it is mounted; the caller keeps its processes still if the
    /// tar is to show one moment.
    ///
    /// # Errors
    ///
    /// [`StoreError::Container`] if something cannot be read, or `out` fails; [`StoreError::Cancelled`]. What was written
    /// by then is no tar.
    pub fn export(&self, out: impl Write, options: &ExportOptions<'_>) -> Result<(), StoreError> {
        let (container, layers) = self.restored(options.cancel)?;
        let mut out = While::wanted(out, options.cancel);
        if options.config {
            let (target, names) = (container.record.image.target.clone(), Vec::new());
            let image = container.store.inner.image(Named { target, names })?;
            let config = container.store.config_bytes(&image)?;
            archive::write_config(&mut out, &config).at("write", "the tar")?;
        }
        let exported = container
            .with_layers(layers, |layer| Ok(layer.export(out, &options.selection, &options.pack)?));
        cancel::told(container.unless_removed(exported).map(drop))
    }

    /// Gives it another name.
    ///
    /// # Errors
    ///
    /// [`StoreError::NameInUse`], [`StoreError::InvalidName`], [`StoreError::NotFound`] if it was removed meanwhile. It has
    /// the name then that it had; the new one, if it was reserved by then, leads to nothing and can be given to others.
    pub fn rename(&mut self, name: &str) -> Result<(), StoreError> {
        check_name(name)?;
        let (_lock, container) = self.locked(LockMode::Exclusive)?;
        let inner = &container.store.inner;
        if container.name() == name {
            return Ok(());
        }
        let operation = inner.begin()?;
        let _new = inner.reserve_name(name, container.id(), &operation)?;
        let _old = inner.lock_name(container.name())?;
        let mut record = container.record.clone();
        let old = std::mem::replace(&mut record.name, name.to_owned());
        inner.write_record(&record, &container.dir()?, &operation)?;
        inner.layout.names.remove_file(&old).optional()?;
        operation.end()?;
        self.record = record;
        Ok(())
    }

    /// Removes it with everything it changed. Works on a disk that is full.
    ///
    /// # Errors
    ///
    /// [`StoreError::Mounted`] if it is mounted and [`StoreError::InUse`] if a process uses it, both unless forced;
    /// [`StoreError::Driver`] if it cannot be unmounted. It is there then with everything. If something cannot be unlinked at the end, the container is gone all the same and the
    /// next collection tries again.
    pub fn remove(self, how: RemoveContainer) -> Result<(), StoreError> {
        let (_lock, container) = self.locked(LockMode::Exclusive)?;
        let inner = &container.store.inner;
        let _alone = match how {
            RemoveContainer::Refuse => {
                container.refuse_if_mounted()?;
                Some(container.refuse_if_held()?)
            }
            RemoveContainer::Force => None,
        };
        container.unmount_locked(Unmount::Lazy)?;
        let operation = inner.begin()?;
        {
            let _name = inner.lock_name(container.name())?;
            operation.workspace().discard(&inner.layout.containers, container.id())?;
            inner.sync(&inner.layout.containers)?;
            inner.layout.names.remove_file(container.name()).optional()?;
        }
        inner.layout.locks.remove_file(container.lock_name()).optional()?;
        Ok(operation.end()?)
    }

    pub(super) fn lock_name(&self) -> String {
        format!("container-{}", self.id())
    }

    /// Excludes every other operation that changes this container, or with a shared lock that removes it, and tells what
    /// it is from then on: until the lock was there, another process may have renamed or removed it.
    pub(super) fn locked(&self, mode: LockMode) -> Result<(Lock, Self), StoreError> {
        let inner = &self.store.inner;
        inner.require_writable()?;
        // What is not there gets no lock.
        self.current()?;
        let lock = Lock::acquire(&inner.layout.locks, &self.lock_name(), mode)?;
        match self.current() {
            Err(gone @ StoreError::NotFound { .. }) => {
                // Its lock went with it; this is another.
                drop(lock);
                Lock::tidy(&inner.layout.locks, &self.lock_name())?;
                Err(gone)
            }
            current => Ok((lock, current?)),
        }
    }

    /// This container as it is now; another process may have renamed or removed it.
    pub(super) fn current(&self) -> Result<Self, StoreError> {
        match self.store.inner.container_with_id(self.id())? {
            Some(record) => Ok(Self { store: self.store.clone(), record }),
            None => Err(self.not_found()),
        }
    }

    pub(super) fn not_found(&self) -> StoreError {
        StoreError::NotFound { what: "container", name: self.name().to_owned() }
    }

    /// What was read of it without a lock, which is worth nothing if it was removed meanwhile.
    fn unless_removed<T>(&self, read: Result<T, StoreError>) -> Result<T, StoreError> {
        match self.store.inner.layout.containers.find(self.id())? {
            Some(_) => read,
            None => Err(self.not_found()),
        }
    }

    /// This container as it is now, with all its layers: those that a power cut took are made again from their blobs.
    pub(super) fn restored(&self, cancel: Option<&AtomicBool>) -> Result<(Self, Vec<Layer>), StoreError> {
        let mut container = self.current()?;
        let inner = &container.store.inner;
        if let Some(layers) = inner.find_stack(&container.record.stack)? {
            return Ok((container, layers));
        }
        let operation = inner.begin()?;
        let (_lock, current) = container.locked(LockMode::Exclusive)?;
        container = current;
        let inner = &container.store.inner;
        let made = container.store.unpack_again(&container.record, &operation, cancel);
        let made = made.map_err(|error| inner.lacking(container.name(), error))?;
        if made.keys != container.record.stack {
            // A layer that was shared may be bound now, or the reverse.
            let mut record = container.record.clone();
            record.stack = made.keys;
            inner.write_record(&record, &container.dir()?, &operation)?;
            container.record = record;
        }
        operation.end()?;
        Ok((container, made.layers))
    }

    fn refuse_if_mounted(&self) -> Result<(), StoreError> {
        match self.state()? {
            // What is dead is in nobody's way.
            ContainerState::Created | ContainerState::Dead(_) => Ok(()),
            ContainerState::Mounted(path) => {
                Err(StoreError::Mounted { container: self.name().to_owned(), path })
            }
        }
    }

    pub(super) fn dir(&self) -> Result<Dir, StoreError> {
        let dir = self.store.inner.layout.containers.open_dir(self.id()).optional()?;
        dir.ok_or_else(|| self.not_found())
    }

    /// Does `act` on what its root is made of. `layers` are those of its record, opened.
    pub(super) fn with_layers<T>(
        &self,
        layers: Vec<Layer>,
        act: impl FnOnce(ContainerLayer<'_>) -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        let driver = self.store.inner.driver(self.record.driver)?;
        act(ContainerLayer::new(self.id(), self.dir()?, layers, &*driver))
    }
}

impl Inner {
    /// The driver of a root that exists, whether or not it could make one here.
    pub(super) fn driver(&self, kind: DriverKind) -> Result<Box<dyn Driver>, StoreError> {
        match self.layout.access {
            Access::ReadWrite => match self.probe() {
                // On a full disk nothing can be tried, and removing needs no more than reading.
                Err(error) if error.is_no_space() => Ok(driver::reader(kind)),
                probe => Ok(probe?.driver_anyway(kind)),
            },
            // Nothing can be tried here, and reading needs nothing that could be found out.
            Access::ReadOnly => Ok(driver::reader(kind)),
        }
    }

    /// The driver that new roots get.
    pub(super) fn new_driver(&self) -> Result<Box<dyn Driver>, StoreError> {
        let kind = match self.options.driver {
            DriverChoice::Auto => None,
            DriverChoice::Only(kind) => Some(kind),
        };
        Ok(self.probe()?.driver(kind)?)
    }

    pub(super) fn root_options(&self) -> RootOptions {
        let mut options = RootOptions::default();
        options.durability = self.options.durability;
        options
    }

    pub(super) fn sync(&self, dir: &Dir) -> Result<(), StoreError> {
        match self.options.durability {
            Durability::Full => Ok(dir.sync()?),
            Durability::Relaxed => Ok(()),
        }
    }
}
