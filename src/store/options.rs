//! What a store is opened with. Only [`StoreOptions::shared`] changes what is on disk, and only of a store that is made.

use std::path::PathBuf;

use crate::driver::DriverKind;
use crate::fs::Durability;
use crate::limits::Limits;
use crate::parallelism::Parallelism;

/// How roots are made.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[non_exhaustive]
pub enum DriverChoice {
    /// The first that works here, found out by trying: overlay, then fuse, then copy.
    #[default]
    Auto,
    /// This one or none.
    Only(DriverKind),
}

/// Options of a store. The default is the safe choice.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct StoreOptions {
    /// How roots are made. Default: what works.
    pub driver: DriverChoice,
    /// The program fuse-overlayfs, for the fuse driver. Default: the one that is installed in one of the usual places.
    pub fuse_overlayfs: Option<PathBuf>,
    /// Tries what this machine can do with the store, and does not believe what an earlier process found out in the same
    /// circumstances.
    pub fresh_probe: bool,
    /// What an operation waits for before it reports success. Default: the disk.
    pub durability: Durability,
    /// How many threads an operation may use. Default: as many as this process may run at a time.
    pub parallelism: Parallelism,
    /// How much a stranger's archive may ask for.
    pub limits: Limits,
    /// Opens the directory of a store that is made to other users. See [`StoreOptions::shared`].
    pub shared: bool,
    /// Other stores that lend their images and layers, in the order in which they are asked for what is not here. See
    /// [`StoreOptions::additional`].
    pub additional: Vec<PathBuf>,
}

impl StoreOptions {
    /// Chooses how roots are made.
    #[must_use]
    pub fn driver(mut self, driver: DriverChoice) -> Self {
        self.driver = driver;
        self
    }

    /// Names the program for the fuse driver.
    #[must_use]
    pub fn fuse_overlayfs(mut self, program: impl Into<PathBuf>) -> Self {
        self.fuse_overlayfs = Some(program.into());
        self
    }

    /// Tries again what an earlier process may have found out.
    #[must_use]
    pub fn fresh_probe(mut self, fresh: bool) -> Self {
        self.fresh_probe = fresh;
        self
    }

    /// Chooses what an operation waits for.
    #[must_use]
    pub fn durability(mut self, durability: Durability) -> Self {
        self.durability = durability;
        self
    }

    /// Chooses how many threads an operation may use.
    #[must_use]
    pub fn parallelism(mut self, parallelism: Parallelism) -> Self {
        self.parallelism = parallelism;
        self
    }

    /// Chooses how much a stranger's archive may ask for.
    #[must_use]
    pub fn limits(mut self, limits: Limits) -> Self {
        self.limits = limits;
        self
    }

    /// Lets other users of the machine read a store that is made with these options. Default: only its owner.
    ///
    /// The directory of a new store gets mode 0700, or 0755 if it is shared; so does an empty directory that the caller
    /// made for it. In a shared store others read `oci/` in place, as an OCI layout or through
    /// [`StoreOptions::additional`]. Layers and containers stay closed: they hold set-user-id programs. A store that is
    /// there keeps its mode; `chmod 755` or `chmod 700` on its directory changes who may read it.
    #[must_use]
    pub fn shared(mut self, shared: bool) -> Self {
        self.shared = shared;
        self
    }

    /// Lets the store in the directory `path` lend its images and layers, after those that were named before. It may lie
    /// where nothing can be written, and belong to somebody else: nothing is written and no lock is taken there.
    ///
    /// Its images are found and listed as this store's own ([`crate::Image::lent_by`] tells them apart; of two images with
    /// one name, that of this store counts), and containers are made on its layers where they lie. Committing on a lent
    /// image, or giving it a name here, copies its blobs into this store. Loading an image whose layers are there stores
    /// its blobs and unpacks nothing.
    ///
    /// Containers on its layers need it for as long as they live: its owner must not remove or collect what others use,
    /// which nothing here can prevent. A container notes what it needs and not where that was, so the other store may
    /// move. Of one that is not there, or of a format that is not known, nothing is used; [`crate::Store::lenders`]
    /// says why.
    ///
    /// Layers are shared between stores only where owners mean the same on disk: by whoever is the same user to the
    /// kernel as the one who unpacked them. Anyone else unpacks a layer once more from the other store's blob.
    #[must_use]
    pub fn additional(mut self, path: impl Into<PathBuf>) -> Self {
        self.additional.push(path.into());
        self
    }
}
