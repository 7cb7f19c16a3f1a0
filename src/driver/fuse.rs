//! [`FuseDriver`]: a union file system in userspace. This version has none, and says so at every door.

use std::os::fd::OwnedFd;

use super::error::DriverError;
use super::{Driver, DriverKind, MountPlan, MountPoint, Prepared, Root, RootSpec, Unmount, Usage, Writable};
use crate::fs::Dir;

/// The place of a union file system in userspace.
#[derive(Clone, Copy, Debug, Default)]
#[non_exhaustive]
pub struct FuseDriver;

/// Why there is none.
pub(super) const REASON: &str =
    "this version of plywood has no userspace union file system; use overlay or copy";

impl FuseDriver {
    fn refuse<T>() -> Result<T, DriverError> {
        Err(DriverError::Refused { kind: DriverKind::Fuse, reason: REASON.to_owned() })
    }
}

impl Driver for FuseDriver {
    fn kind(&self) -> DriverKind {
        DriverKind::Fuse
    }

    fn prepare(&self, _: &RootSpec<'_>) -> Result<Prepared, DriverError> {
        Self::refuse()
    }

    fn plan<'a>(&self, _: &RootSpec<'a>) -> Result<MountPlan<'a>, DriverError> {
        Self::refuse()
    }

    fn mount(&self, _: &RootSpec<'_>, _: Option<&MountPoint>) -> Result<Root, DriverError> {
        Self::refuse()
    }

    fn mount_detached(&self, _: &RootSpec<'_>) -> Result<OwnedFd, DriverError> {
        Self::refuse()
    }

    fn unmount(&self, _: &str, _: &MountPoint, _: Unmount) -> Result<(), DriverError> {
        Self::refuse()
    }

    fn writable(&self, _: &Dir) -> Result<Writable, DriverError> {
        Self::refuse()
    }

    fn usage(&self, _: &Dir) -> Result<Usage, DriverError> {
        Self::refuse()
    }

    fn remove(&self, _: &Dir) -> Result<(), DriverError> {
        Self::refuse()
    }
}
