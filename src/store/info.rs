//! [`Info`]: what a store holds and what this machine can do with it.

use super::Store;
use super::error::StoreError;
use super::layout::{Access, VERSION};
use super::lenders::LenderInfo;
use crate::driver::DriverKind;

/// What a store holds and what this machine can do with it.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct Info {
    /// Version of the store's format.
    pub version: u32,
    /// The directory.
    pub path: std::path::PathBuf,
    /// Whether it is read-only.
    pub read_only: bool,
    /// Images, with and without names.
    pub images: u64,
    /// Containers.
    pub containers: u64,
    /// Unpacked layers.
    pub layers: u64,
    /// Unpacked layers that are not known to be on disk; after a power cut they are made again.
    pub unsettled_layers: u64,
    /// Bytes in blobs.
    pub blob_bytes: u64,
    /// Bytes of data in unpacked layers, as recorded.
    pub layer_bytes: u64,
    /// Other stores that lend their images and layers.
    pub lenders: Vec<LenderInfo>,
    /// The driver that new containers get; `None` if the one that was asked for does not work here.
    pub driver: Option<DriverKind>,
    /// Why this driver: what was tried, and what came of it.
    pub reasons: String,
}

impl Store {
    /// Counts what the store holds, and tries what this machine can do with it.
    ///
    /// # Errors
    ///
    /// [`StoreError`] if something cannot be read.
    pub fn info(&self) -> Result<Info, StoreError> {
        let inner = &self.inner;
        let blobs = inner.layout.blobs.list()?;
        let (mut unsettled, mut layer_bytes) = (0, 0);
        let keys = inner.layers.list()?;
        for key in &keys {
            if let Some(layer) = inner.layers.get_any(*key)? {
                layer_bytes += layer.record.data_bytes;
                unsettled += u64::from(!layer.record.settled);
            } else {
                unsettled += 1;
            }
        }
        let read_only = inner.layout.access == Access::ReadOnly;
        let (driver, reasons) = if read_only {
            (None, "the store is read-only".to_owned())
        } else {
            let probe = inner.probe()?;
            (inner.new_driver().ok().map(|driver| driver.kind()), probe.to_string())
        };
        Ok(Info {
            version: VERSION,
            path: self.path(),
            read_only,
            images: inner.names()?.targets().len() as u64,
            containers: inner.sorted_containers()?.0.len() as u64,
            layers: keys.len() as u64,
            unsettled_layers: unsettled,
            blob_bytes: blobs.iter().map(|(_, size)| size).sum(),
            layer_bytes,
            lenders: self.lenders(),
            driver,
            reasons,
        })
    }
}
