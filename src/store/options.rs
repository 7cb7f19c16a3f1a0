//! What a store is opened with. Nothing here changes what is on disk, only how the work is done.

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
}
