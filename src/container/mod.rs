//! A writable layer on a stack of read-only ones: what a container's root is made of.
//!
//! ```text
//! containers/<id>/
//!   container.json          the record: name, image, layers, driver
//!   root.json upper/ …      the driver's, see `driver`
//! ```
//!
//! [`ContainerLayer`] brings together what the layer store opened and what the driver keeps. It knows neither names nor
//! images and takes no locks; `store` does.

mod record;
mod transfer;

use std::io::Write;

use crate::driver::mounts::Points;
use crate::driver::{
    self, Driver, DriverError, IdMap, MountPoint, Root, RootOptions, RootSpec, RootState, Unmount, Writable,
};
use crate::fs::Dir;
use crate::layer::{
    self, Change, CopyRecord, Diff, DiffError, HighestIds, Layer, PackError, PackOptions, Packed, Selection,
};
use crate::stack::{Stack, Tree};

pub use record::{ContainerRecord, ImageRecord};
pub(crate) use transfer::copy_in;
pub use transfer::{Copied, CopyError, CopyInOptions, CopyOutOptions, Located, copy_out, resolve};

/// The private directory of a container with the layers below it.
#[derive(Debug)]
pub struct ContainerLayer<'a> {
    dir: Dir,
    /// Bottom first.
    layers: Vec<Layer>,
    driver: &'a dyn Driver,
    source: String,
}

impl<'a> ContainerLayer<'a> {
    /// Puts together the container `id` in `dir`. `layers` are bottom first; of a layer that is there twice, the upper
    /// one shadows the other completely, and the kernel refuses to stack it twice.
    pub fn new(id: &str, dir: Dir, layers: Vec<Layer>, driver: &'a dyn Driver) -> Self {
        let mut distinct: Vec<Layer> = Vec::with_capacity(layers.len());
        for layer in layers.into_iter().rev() {
            if !distinct.iter().any(|above| above.key == layer.key) {
                distinct.push(layer);
            }
        }
        distinct.reverse();
        Self { dir, layers: distinct, driver, source: source_of(id) }
    }

    fn lowers(&self) -> Vec<&Tree> {
        self.layers.iter().rev().map(|layer| &layer.tree).collect()
    }

    /// Fills the private directory.
    ///
    /// # Errors
    ///
    /// [`DriverError`]; the directory then holds a part.
    pub fn prepare(&self, options: RootOptions) -> Result<Vec<String>, DriverError> {
        if let Some(ids) = &options.ids {
            self.require_ids(ids)?;
        }
        let stack = Stack::new(self.lowers());
        let prepared = self.driver.prepare(&RootSpec::new(&stack, &self.dir, &self.source).with(options))?;
        Ok(prepared.losses.iter().map(ToString::to_string).collect())
    }

    /// Refuses a map of ids that leaves owners of the layers out: their files would belong to nobody.
    fn require_ids(&self, ids: &IdMap) -> Result<(), DriverError> {
        for Layer { key, record, .. } in &self.layers {
            let HighestIds { uid, gid, .. } = record.highest_ids;
            let lacking = match (ids.has_user(uid), ids.has_group(gid)) {
                (true, true) => continue,
                (false, _) => format!("user {uid}"),
                (true, false) => format!("group {gid}"),
            };
            let reason = format!(
                "layer {key} has files of {lacking}, which the map of ids leaves out; map more ids, or none"
            );
            return Err(DriverError::Refused { kind: self.driver.kind(), reason });
        }
        Ok(())
    }

    /// Fills the private directory with what was changed in the container `id` with the private directory `from`, of the
    /// same driver, on the same layers and not mounted.
    ///
    /// # Errors
    ///
    /// [`DriverError`]; the directory then holds a part.
    pub fn duplicate(&self, id: &str, from: &Dir, options: RootOptions) -> Result<(), DriverError> {
        let stack = Stack::new(self.lowers());
        let spec = RootSpec::new(&stack, &self.dir, &self.source).with(options);
        self.driver.duplicate(&spec, from, &source_of(id))
    }

    /// Makes the root usable.
    ///
    /// # Errors
    ///
    /// [`DriverError::Mounted`] if it is; otherwise what the kernel refuses. Nothing was mounted by this call then.
    pub fn mount(&self, at: Option<&MountPoint>, options: RootOptions) -> Result<Root, DriverError> {
        let stack = Stack::new(self.lowers());
        self.driver.mount(&RootSpec::new(&stack, &self.dir, &self.source).with(options), at)
    }

    /// What the container changed.
    ///
    /// # Errors
    ///
    /// [`ContainerError`] if that cannot be told.
    pub fn changes(&self, selection: &Selection) -> Result<Vec<Change>, ContainerError> {
        self.with_diff(selection, |diff| Ok(diff.changes()?))
    }

    /// Writes what the container changed as an uncompressed layer.
    ///
    /// # Errors
    ///
    /// [`ContainerError`] if something cannot be read or cannot be part of a layer, or `out` fails. What was written is then
    /// useless, and the container what it was.
    pub fn pack(
        &self,
        out: impl Write,
        selection: &Selection,
        options: &PackOptions,
    ) -> Result<Packed, ContainerError> {
        self.with_diff(selection, |diff| Ok(layer::pack(diff, out, options)?))
    }

    /// Compares the private directory with the layers.
    fn with_diff<T>(
        &self,
        selection: &Selection,
        act: impl FnOnce(&Diff<'_>) -> Result<T, ContainerError>,
    ) -> Result<T, ContainerError> {
        let mut trees = self.lowers();
        match self.driver.writable(&self.dir)? {
            Writable::Upper(upper) => {
                trees.insert(0, &upper);
                act(&Diff::of_upper(Stack::new(trees)).with(selection.clone()))
            }
            Writable::Copied(copied) => {
                let record = CopyRecord { untouched: copied.untouched, directories: copied.directories };
                act(&Diff::of_copy(&copied.root, Stack::new(trees), &record).with(selection.clone()))
            }
        }
    }

    /// Writes the whole root as one plain tar.
    ///
    /// # Errors
    ///
    /// [`ContainerError`] if something cannot be read, or `out` fails. What was written is then useless.
    pub fn export(
        &self,
        out: impl Write,
        selection: &Selection,
        options: &PackOptions,
    ) -> Result<Packed, ContainerError> {
        let mut trees = self.lowers();
        let packed = match self.driver.writable(&self.dir)? {
            Writable::Upper(upper) => {
                trees.insert(0, &upper);
                layer::flatten(&Stack::new(trees), selection, out, options)
            }
            Writable::Copied(copied) => layer::flatten(&Stack::new([&copied.root]), selection, out, options),
        };
        Ok(packed?)
    }
}

/// The name that the mount of container `id` bears in the kernel's table.
pub fn source_of(id: &str) -> String {
    format!("plywood:{id}")
}

/// What the root of the container `id` in `dir` is doing, as this process sees it.
///
/// # Errors
///
/// [`DriverError`] if the kernel's table cannot be read.
pub fn root_state(id: &str, dir: &Dir) -> Result<RootState, DriverError> {
    driver::state(&source_of(id), dir)
}

/// Ends every mount of the container `id` in `dir`, as this process sees them: it may be mounted more than once, here and
/// elsewhere. Its layers need not be there.
///
/// # Errors
///
/// [`DriverError::Busy`] if one is in use: that one stays, and others may be gone by then.
pub fn unmount_all(id: &str, dir: &Dir, driver: &dyn Driver, how: Unmount) -> Result<(), DriverError> {
    let source = source_of(id);
    loop {
        let seen = Points::read()?;
        let (point, more) = match driver::state_in(&seen, &source, dir)? {
            RootState::Unmounted => return Ok(()),
            RootState::Mounted(point) => (point, seen.named(&source).nth(1).is_some()),
            RootState::Dead(point) => (point, false),
        };
        driver.end(&seen, dir, &source, &MountPoint::ambient(point)?, how)?;
        // The table may be long.
        if !more {
            return Ok(());
        }
    }
}

/// Reading a container failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ContainerError {
    /// Its private part cannot be opened.
    #[error(transparent)]
    Driver(#[from] DriverError),
    /// Its changes cannot be told.
    #[error(transparent)]
    Diff(#[from] DiffError),
    /// Its content cannot be written.
    #[error(transparent)]
    Pack(#[from] PackError),
}
