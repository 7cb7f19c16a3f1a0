//! [`Store`]: the front door. Images and containers of one directory, for any number of processes at a time.
//!
//! This is where the parts meet: archives bring blobs, blobs become layers, layers are stacked for containers, and names
//! say what is kept. What each step leaves on disk, and in which order, is decided here.

mod build_cache;
mod cancel;
mod check;
mod commit;
mod container;
mod containers;
mod convert;
mod copies;
mod create;
mod damage;
mod describe;
mod error;
mod fetch;
mod gc;
mod hold;
mod image;
mod images;
mod import;
mod index_file;
mod info;
mod kept;
mod layer;
mod layout;
mod lenders;
mod load;
mod mounted;
mod names;
mod new_image;
#[cfg(feature = "ocidir")]
mod oci_dir;
mod operation;
mod options;
mod probing;
mod prune;
#[cfg(feature = "registry")]
mod pull;
#[cfg(feature = "registry")]
mod push;
mod records;
mod referrers;
mod remove;
mod repair;
mod replaced;
mod save;
mod squash;
mod stack;
mod strangers;
mod summary;
mod survey;
mod usage;
mod users;
mod view;

use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use rustix::io::Errno;

use crate::driver::Probe;
use crate::fs::{Dir, Durability, Staging};
use crate::layer::LayerStore;

pub use build_cache::{BuildCache, CachedStep, StepKey};
pub use check::{CheckOptions, CheckReport, CheckStage};
pub use commit::CommitOptions;
pub use container::{Container, ContainerState, ExportOptions, Notes, RemoveContainer};
pub use containers::{Containers, DamagedContainer};
pub use convert::{ConvertOptions, ConvertedImage, MediaTypes};
pub use create::CreateOptions;
pub use damage::Damage;
pub use error::StoreError;
pub use fetch::{FetchOptions, Platforms};
pub use gc::{GcOptions, GcReport};
pub use hold::Hold;
pub use image::{HistoryEntry, Image};
pub use images::{DamagedImage, Images};
pub use import::ImportOptions;
pub use info::Info;
pub use lenders::{LenderInfo, LenderState};
pub use load::{LoadOptions, LoadedImage, Unpack};
pub use mounted::{Mounted, UnmountError};
pub use names::Moved;
pub use new_image::NewImage;
#[cfg(feature = "ocidir")]
pub use oci_dir::ReadOnlyOciDir;
pub use options::{DriverChoice, StoreOptions};
pub use prune::{LabelFilter, PruneImages, PruneOptions, PruneReport, PrunedContainer, PrunedImage};
#[cfg(feature = "registry")]
pub use push::PushOptions;
pub use remove::{RemoveImage, Removed};
pub use repair::{Outcome, RepairOptions, RepairReport, Repaired};
pub use save::{ArchiveFormat, Known, LayerCompression, LayerCompressionError, SaveOptions};
pub use squash::{SquashFrom, SquashOptions};
pub use summary::ImageSummary;
pub use usage::{Bytes, ContainerUsage, ImageUsage, LayerUsage, StoreUsage, UsageOptions};

use layout::{Access, Layout};
use lenders::Lender;
use operation::Operation;

/// A store, open. Cheap to clone; every clone is the same store. Threads and processes may use one store at a time.
///
/// # After an error
///
/// Functions that read change nothing, but for facts in `cache/` and layers that had to be made again. Those that change
/// something say with their errors what is there then, and that holds as well if the process dies. Besides,
/// [`StoreError::Io`] may come from what is done last: the sync of the directory in which something has got or lost its
/// name, and the removal of what is not needed any more: an old name, a lock file, the operation's workspace. Then the
/// operation was done; a power cut may undo it, or the next collection has something to take away.
#[derive(Clone, Debug)]
pub struct Store {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    layout: Layout,
    layers: LayerStore,
    lenders: Vec<Lender>,
    staging: Staging,
    options: StoreOptions,
    probe: OnceLock<Probe>,
}

impl Store {
    /// Opens the store in the directory `path`, with the options that are safe.
    ///
    /// # Errors
    ///
    /// [`StoreError::NotAStore`] if there is none, [`StoreError::UnknownFormat`] if it is of a newer format,
    /// [`StoreError::Lender`] if one of the additional stores is the store itself, or named twice. Opening writes nothing.
    pub fn open(path: impl AsRef<Path>) -> Result<Self, StoreError> {
        StoreOptions::default().open(path)
    }

    /// Makes a store in the directory `path`, which must be empty or missing.
    ///
    /// # Errors
    ///
    /// [`StoreError::Occupied`] if something is there, and nothing was changed; [`StoreError::Io`], and what was made until
    /// then is no store, but another call goes on with it.
    pub fn create(path: impl AsRef<Path>) -> Result<Self, StoreError> {
        StoreOptions::default().create(path)
    }

    /// Opens the store in the directory `path`, making it first if the directory is empty or missing.
    ///
    /// # Errors
    ///
    /// As [`Store::open`] and [`Store::create`].
    pub fn ensure(path: impl AsRef<Path>) -> Result<Self, StoreError> {
        StoreOptions::default().ensure(path)
    }

    /// Options to open or create a store with.
    pub fn options() -> StoreOptions {
        StoreOptions::default()
    }

    /// The directory of the store.
    pub fn path(&self) -> PathBuf {
        self.inner.layout.root.path_of("")
    }

    /// Returns true if the store is read-only: for this process, or for this version of the library.
    pub fn is_read_only(&self) -> bool {
        self.inner.layout.access == Access::ReadOnly
    }

    /// Waits until everything that this store holds is on disk, and records that of its layers. What was reported as
    /// done is safe without this; it spares unpacking again after a power cut.
    ///
    /// # Errors
    ///
    /// [`StoreError::Io`] if the disk fails: nobody knows then what of the store is on it. A layer is taken for
    /// settled only if it is.
    pub fn settle(&self) -> Result<(), StoreError> {
        self.settle_layers()?;
        // Where no layer waits for the disk, other things may: those that were done with `Durability::Relaxed`.
        Ok(self.inner.layout.root.sync_file_system()?)
    }

    fn settle_layers(&self) -> Result<(), StoreError> {
        let operation = self.inner.begin()?;
        self.inner.layers.settle(operation.workspace())?;
        Ok(operation.end()?)
    }

    fn new(layout: Layout, options: StoreOptions) -> Result<Self, StoreError> {
        let staging = Staging::with_reserve(layout.staging.try_clone()?, layout.root.try_clone()?);
        let (lenders, lent) = lenders::open(&options.additional, &layout.root)?;
        let layers = LayerStore::new(layout.layers.try_clone()?, layout.locks.try_clone()?).with_lent(lent);
        let probe = OnceLock::new();
        Ok(Self { inner: Arc::new(Inner { layout, layers, lenders, staging, options, probe }) })
    }
}

impl Inner {
    /// Starts an operation that changes the store.
    fn begin(&self) -> Result<Operation, StoreError> {
        self.require_writable()?;
        Ok(Operation::begin(&self.layout.locks, &self.staging)?)
    }

    fn require_writable(&self) -> Result<(), StoreError> {
        match self.layout.access {
            Access::ReadWrite => Ok(()),
            Access::ReadOnly => Err(StoreError::ReadOnly { path: self.layout.root.path_of("") }),
        }
    }
}

impl StoreOptions {
    /// Opens the store in the directory `path`.
    ///
    /// # Errors
    ///
    /// As [`Store::open`].
    pub fn open(&self, path: impl AsRef<Path>) -> Result<Store, StoreError> {
        let root = open_root(path)?;
        let layout = match Layout::open(root.try_clone()?) {
            Err(StoreError::NotAStore { path, reason, .. }) => {
                let is_blank = Layout::is_blank(&root)?;
                // Somebody may have made it since the first look.
                if is_blank || !Layout::is_store(&root)? {
                    return Err(StoreError::NotAStore { path, reason, is_blank });
                }
                Layout::open(root)?
            }
            opened => opened?,
        };
        Store::new(layout, self.clone())
    }

    /// Makes a store in the directory `path`.
    ///
    /// # Errors
    ///
    /// As [`Store::create`].
    pub fn create(&self, path: impl AsRef<Path>) -> Result<Store, StoreError> {
        let root = self.ensure_root(&path)?;
        let reason = match () {
            () if Layout::is_store(&root)? => "there is a store already",
            () if !is_free(&root)? => "the directory is not empty",
            () => {
                let layout = Layout::create(root, self.shared, self.durability)?;
                return Store::new(layout, self.clone());
            }
        };
        Err(StoreError::Occupied { path: path.as_ref().to_owned(), reason })
    }

    /// Opens the store in the directory `path`, or makes it.
    ///
    /// # Errors
    ///
    /// As [`Store::ensure`].
    pub fn ensure(&self, path: impl AsRef<Path>) -> Result<Store, StoreError> {
        let root = self.ensure_root(&path)?;
        // What is not free by now may have become a store since the first look.
        if !Layout::is_store(&root)? && !is_free(&root)? && !Layout::is_store(&root)? {
            let reason = "the directory is not empty, and no store";
            return Err(StoreError::Occupied { path: path.as_ref().to_owned(), reason });
        }
        let layout = if Layout::is_store(&root)? {
            Layout::open(root)?
        } else {
            Layout::create(root, self.shared, self.durability)?
        };
        Store::new(layout, self.clone())
    }
}

impl StoreOptions {
    /// Opens the directory that a store is or will be in, or makes it: then it is there for good.
    fn ensure_root(&self, path: impl AsRef<Path>) -> Result<Dir, StoreError> {
        let (path, mode) = (path.as_ref(), layout::root_mode(self.shared));
        let root = match self.durability {
            Durability::Full => Dir::ensure_ambient_synced(path, mode),
            Durability::Relaxed => Dir::ensure_ambient_with(path, mode),
        };
        root.map_err(|error| closed(path, error))
    }
}

/// Opens the directory that a store should be in.
fn open_root(path: impl AsRef<Path>) -> Result<Dir, StoreError> {
    match Dir::open_ambient(&path) {
        Err(error) if error.is_not_found() => {
            let (path, reason) = (path.as_ref().to_owned(), "there is no such directory".to_owned());
            Err(StoreError::NotAStore { path, reason, is_blank: true })
        }
        root => root.map_err(|error| closed(path.as_ref(), error)),
    }
}

/// Returns the error that says why a store cannot be opened.
pub(super) fn closed(path: &Path, source: crate::fs::Error) -> StoreError {
    match source.errno() {
        Some(Errno::ACCESS) if source.step == "open" => StoreError::Closed { path: path.to_owned(), source },
        _ => source.into(),
    }
}

/// Whether a directory holds nothing but what a store in the making holds, or the root of a file system.
fn is_free(root: &Dir) -> Result<bool, StoreError> {
    const OURS: [&[u8]; 9] =
        [b"layers", b"containers", b"views", b"names", b"cache", b"oci", b"locks", b"staging", b"reserve"];
    Ok(root.names()?.iter().all(|entry| OURS.contains(&&*entry.name) || entry.name == b"lost+found"))
}
