//! Drivers: stacking layer directories and a private writable directory into a root.
//!
//! ```text
//! <dir>/                  the private directory of one root, for example containers/<id>/
//!     root.json           what the driver has to know of the root later: its kind, and what its marks or times mean
//!     upper/ work/        overlay: what was changed, and the kernel's scratch space
//!     merged/             overlay: where it is mounted unless another place is named
//!     top/ bottom/        overlay, read-only: an empty directory with the root's metadata; one more if there are no layers
//!     root/               copy: the root itself
//!     server              fuse: what the server says, locked by it while it lives; else as overlay
//! ```
//!
//! A [`Driver`] is prepared once for a root and may then be mounted and unmounted any number of times, by any process.
//! Whether it is mounted is asked of the kernel ([`mounts`]) and never written down. Layers are only ever read. A
//! driver knows nothing of images, blobs or stores, and takes no locks: two operations on one root are the caller's to
//! keep apart. Which driver fits is found out by trying, see [`Probe`].

use std::fmt;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::fs::{Dir, Durability};
use crate::stack::{self, Stack, object::Loss};

mod copy;
mod error;
mod fuse;
mod holders;
mod ids;
mod in_use;
mod mount_api;
pub mod mounts;
mod overlay;
mod plan;
mod point;
mod private;
mod probe;
mod processes;
mod record;
mod usage;

pub use copy::CopyDriver;
pub use error::DriverError;
pub use fuse::FuseDriver;
pub use holders::Holder;
pub use ids::{IdMap, IdRange, InvalidIdMap};
pub use overlay::OverlayDriver;
pub use plan::{MountPlan, OverlayPlan};
pub use point::MountPoint;
pub use probe::{Circumstances, Probe, ProbeOptions, Refusal, reader};
pub use processes::Processes;
pub use record::{Copied, MendedRecord, kind_of, mend_record};
pub use usage::Usage;

/// The drivers there are.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum DriverKind {
    /// The kernel's overlayfs.
    Overlay,
    /// A union file system in userspace.
    Fuse,
    /// A copy of everything.
    Copy,
}

impl DriverKind {
    /// Its name in records and options.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Overlay => "overlay",
            Self::Fuse => "fuse",
            Self::Copy => "copy",
        }
    }
}

impl fmt::Display for DriverKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// A name that no driver has.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("there is no driver {0:?}, only overlay, fuse and copy")]
pub struct UnknownDriver(pub String);

impl FromStr for DriverKind {
    type Err = UnknownDriver;

    fn from_str(name: &str) -> Result<Self, UnknownDriver> {
        [Self::Overlay, Self::Fuse, Self::Copy]
            .into_iter()
            .find(|kind| kind.as_str() == name)
            .ok_or_else(|| UnknownDriver(name.to_owned()))
    }
}

/// What a root is made of.
#[derive(Clone, Debug)]
pub struct RootSpec<'a> {
    /// The layers, topmost first, none of them twice. They also say what the root directory itself is like.
    pub layers: &'a Stack<'a>,
    /// The root's private directory.
    pub dir: &'a Dir,
    /// The name that the mount bears in the mount table, and by which it is found again: `plywood:<id>`. No other root
    /// on this machine may have it.
    pub source: &'a str,
    /// What tunes it.
    pub options: RootOptions,
}

impl<'a> RootSpec<'a> {
    /// With the default options.
    pub fn new(layers: &'a Stack<'a>, dir: &'a Dir, source: &'a str) -> Self {
        Self { layers, dir, source, options: RootOptions::default() }
    }

    /// The same with other options.
    #[must_use]
    pub fn with(mut self, options: RootOptions) -> Self {
        self.options = options;
        self
    }
}

/// What tunes a root. `Default` is a writable root that loses nothing.
///
/// What [`Driver::prepare`] is told of a writable root is kept with it and holds for every mount, whatever that is told:
/// `redirect_dir`, `metacopy`, `ids` and `label` as they were then, `volatile`, `nosuid` and `nodev` in addition.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
#[non_exhaustive]
pub struct RootOptions {
    /// Whether the root can be written to. To be the same at every call for one private directory.
    pub access: Access,
    /// What [`Driver::prepare`] waits for.
    pub durability: Durability,
    /// Lets the kernel skip every sync that the root's processes ask for. Such a root can be mounted once: afterwards,
    /// also if it was unmounted in order, the kernel refuses it ([`DriverError::Volatile`]). For builds, whose result
    /// is committed and whose root is thrown away.
    pub volatile: bool,
    /// Lets a directory of a layer be renamed as other directories are (`redirect_dir=on`). Without it the kernel refuses
    /// with `EXDEV`, and programs copy it instead. The writable directory does then not stand for itself, but changes,
    /// commit and export are the same. Root in the initial user namespace only.
    pub redirect_dir: bool,
    /// Lets a change of owner, mode or time of a layer's file leave its content where it is (`metacopy=on`), instead of
    /// copying it. Takes `redirect_dir` along, as the kernel wants it.
    pub metacopy: bool,
    /// Shows the owners of the image as other ids of the host, and what is written with those as the image's. Root in
    /// the initial user namespace only, on Linux 5.19 or later and file systems that can translate.
    pub ids: Option<IdMap>,
    /// The SELinux context of everything in the root (`context=`), as `system_u:object_r:container_file_t:s0:c1,c2`. A
    /// kernel without SELinux refuses it.
    pub label: Option<String>,
    /// Ignores setuid and setgid bits and file capabilities in the mount.
    pub nosuid: bool,
    /// Makes device nodes in the mount dead.
    pub nodev: bool,
    /// How layers are handed to the kernel. For tests and for kernels with a fault.
    pub route: Route,
}

impl RootOptions {
    /// A view of the layers alone.
    pub fn read_only() -> Self {
        Self { access: Access::ReadOnly, ..Self::default() }
    }
}

/// Whether a root can be written to.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub enum Access {
    /// Changes go to the private directory.
    #[default]
    Writable,
    /// The layers as they are.
    ReadOnly,
}

/// How layers are handed to the kernel.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
#[non_exhaustive]
pub enum Route {
    /// The first of the others that this kernel knows.
    #[default]
    Auto,
    /// As open directories, since Linux 6.13.
    Descriptors,
    /// As paths through `/proc`, one by one, since Linux 6.8.
    ProcPaths,
    /// As one string of paths through `/proc`, which must fit a page: about 200 layers.
    OptionString,
}

/// What [`Driver::prepare`] reports.
#[derive(Debug, Default)]
#[non_exhaustive]
pub struct Prepared {
    /// What the file system or this process could not hold.
    pub losses: Vec<Loss>,
}

/// A root that can be used now.
#[derive(Debug)]
#[non_exhaustive]
pub struct Root {
    /// Where it is.
    pub path: PathBuf,
    /// The root directory. While it is open nothing can be unmounted.
    pub dir: Dir,
    /// Where it is mounted; `None` if nothing needs to be mounted for it.
    pub point: Option<MountPoint>,
}

/// The private part of a root, as whoever looks for changes reads it.
#[derive(Debug)]
#[non_exhaustive]
pub enum Writable {
    /// What was changed, in the form of a layer; it goes on top of the layers.
    Upper(stack::Tree),
    /// Everything, changed or not.
    Copied(Copied),
}

/// What a root is doing, as the kernel tells now.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum RootState {
    /// Nothing is mounted.
    Unmounted,
    /// It is mounted here.
    Mounted(PathBuf),
    /// It is mounted here, but nobody serves it any more: the program that did was killed or crashed. Nothing that was
    /// written is lost. Mounting it again takes the dead mount away first, and so does unmounting it.
    Dead(PathBuf),
}

/// What the root named `source` with the private directory `dir` is doing. Whoever made it, and by which driver, does not
/// matter. A root whose server hangs is not asked.
///
/// # Errors
///
/// [`DriverError`] if the kernel's table cannot be read.
pub fn state(source: &str, dir: &Dir) -> Result<RootState, DriverError> {
    state_in(&mounts::Points::read()?, source, dir)
}

/// The same by a table that was just read.
///
/// # Errors
///
/// [`DriverError`] if it cannot be told whether a root is served.
pub fn state_in(seen: &mounts::Points, source: &str, dir: &Dir) -> Result<RootState, DriverError> {
    match seen.named(source).next() {
        Some(path) => Ok(RootState::Mounted(path.to_owned())),
        // Only the whole table says who serves it.
        None if seen.at(dir.path_of(private::MERGED))?.is_some() => {
            fuse::state(&mounts::MountTable::read()?, dir)
        }
        None => Ok(RootState::Unmounted),
    }
}

/// The error that says what became of a root that is [`RootState::Dead`], with the last words of whoever served it.
pub fn dead(dir: &Dir) -> DriverError {
    fuse::is_gone(dir)
}

/// Takes everything out of sight that is mounted in `dir` or below: for directories that belong to nobody any more, which
/// could not be removed otherwise.
///
/// # Errors
///
/// [`DriverError`] if the kernel refuses; what was on top of that is gone.
pub fn abandon(dir: &Dir) -> Result<(), DriverError> {
    let path = dir.path_of("");
    // What is mounted last is on top.
    while let Some(mount) = mounts::MountTable::read()?.within(&path).last() {
        fuse::detach(&MountPoint::ambient(&mount.point)?, Unmount::Lazy)?;
    }
    Ok(())
}

/// Whether the root named `source` with the private directory `dir`, of a driver of this kind, may look into its layers now:
/// whether it is mounted, here or in another mount namespace, or held as a handle by some process.
///
/// # Errors
///
/// [`DriverError`] if that cannot be told.
pub fn sees_layers(kind: DriverKind, source: &str, dir: &Dir) -> Result<bool, DriverError> {
    if kind == DriverKind::Copy {
        return Ok(false);
    }
    if matches!(state(source, dir)?, RootState::Mounted(_)) || !mounts::everywhere(source)?.is_empty() {
        return Ok(true);
    }
    match kind {
        DriverKind::Fuse => fuse::is_served_in(dir),
        // A root that is only read has nothing that the kernel would mark.
        _ => match in_use::refuse(dir, private::UPPER, source) {
            Ok(()) => Ok(false),
            Err(DriverError::InUse { .. }) => Ok(true),
            Err(error) => Err(error),
        },
    }
}

/// Takes the root named `source` out of sight wherever this process sees it, and everything that is mounted in its private
/// directory `dir`, whichever driver made it.
///
/// # Errors
///
/// As [`abandon`].
pub fn abandon_root(source: &str, dir: &Dir) -> Result<(), DriverError> {
    while let Some(path) = mounts::Points::read()?.named(source).next() {
        fuse::detach(&MountPoint::ambient(path)?, Unmount::Lazy)?;
    }
    abandon(dir)
}

/// What to do about a root that is in use.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub enum Unmount {
    /// Say so and leave it.
    #[default]
    Clean,
    /// Take it out of sight; the kernel ends it when its last user goes. Until then it still writes.
    Lazy,
}

/// One way to make a root from layers and a private directory.
pub trait Driver: fmt::Debug + Send + Sync {
    /// Which one it is.
    fn kind(&self) -> DriverKind;

    /// Fills the private directory, which is empty but for names that are none of the driver's. The directory may be
    /// renamed afterwards.
    ///
    /// # Errors
    ///
    /// [`DriverError`]; the directory then holds a part.
    fn prepare(&self, spec: &RootSpec<'_>) -> Result<Prepared, DriverError>;

    /// The same as [`Driver::prepare`], but with everything that was changed in the root whose private directory `from`
    /// is: one of this driver, on the same layers, mounted as `source` when it is, and not mounted.
    ///
    /// # Errors
    ///
    /// [`DriverError`] if something cannot be kept as it is; the directory then holds a part.
    fn duplicate(&self, _spec: &RootSpec<'_>, _from: &Dir, _source: &str) -> Result<(), DriverError> {
        let reason = "what was changed in one root cannot be given to another".to_owned();
        Err(DriverError::Refused { kind: self.kind(), reason })
    }

    /// The root as data, for whoever mounts by itself.
    ///
    /// # Errors
    ///
    /// [`DriverError`] if there is no such form, or the root must not be mounted.
    fn plan<'a>(&self, spec: &RootSpec<'a>) -> Result<MountPlan<'a>, DriverError>;

    /// Makes the root usable at `at`, or where the driver puts it by default. A mount outlives this process.
    ///
    /// # Errors
    ///
    /// [`DriverError::Mounted`] if it is or something else is mounted there; otherwise what the kernel refuses.
    /// Nothing stays mounted then.
    fn mount(&self, spec: &RootSpec<'_>, at: Option<&MountPoint>) -> Result<Root, DriverError>;

    /// Makes the root usable through a handle alone: it has no path and no entry in the mount table, can be read and
    /// written with `openat`, be put anywhere with `move_mount`, and ends with its last handle.
    ///
    /// # Errors
    ///
    /// [`DriverError`] if it is mounted or the kernel refuses. Nothing stays mounted then.
    fn mount_detached(&self, spec: &RootSpec<'_>) -> Result<OwnedFd, DriverError>;

    /// Ends the mount named `source` at `at`. Where nothing is mounted for a root, that is nothing to do.
    ///
    /// # Errors
    ///
    /// [`DriverError::Busy`] if it is in use, with the users that can be found; [`DriverError::NotMounted`] if
    /// something else is mounted there, or nothing. What is mounted stays so.
    fn unmount(&self, source: &str, at: &MountPoint, how: Unmount) -> Result<(), DriverError>;

    /// As [`Driver::unmount`], for the root with the private directory `dir`, by who has just `seen` what is mounted: that is
    /// a long list where many roots are. If the kernel has let go of it with that, it is known to be free when it is
    /// mounted again, and nobody needs to find out.
    ///
    /// # Errors
    ///
    /// As [`Driver::unmount`].
    fn end(
        &self,
        _seen: &mounts::Points,
        _dir: &Dir,
        source: &str,
        at: &MountPoint,
        how: Unmount,
    ) -> Result<(), DriverError> {
        self.unmount(source, at, how)
    }

    /// Opens the private part of the writable root in `dir`. It can be read while mounted.
    ///
    /// # Errors
    ///
    /// [`DriverError`] if the root is another driver's or its record cannot be read.
    fn writable(&self, dir: &Dir) -> Result<Writable, DriverError>;

    /// What the private part of the root in `dir` takes on disk, without what it shares.
    ///
    /// # Errors
    ///
    /// [`DriverError`] if it cannot be read.
    fn usage(&self, dir: &Dir) -> Result<Usage, DriverError>;

    /// Removes everything that [`Driver::prepare`] and mounting left in `dir`, and nothing else. What is missing is no
    /// error, so it can be repeated.
    ///
    /// # Errors
    ///
    /// [`DriverError::Mounted`] if something is mounted in it; nothing is removed then. Otherwise something may be left.
    fn remove(&self, dir: &Dir) -> Result<(), DriverError>;
}

/// Refuses while anything is mounted at `name` in `dir` or below.
fn refuse_mounted(dir: &Dir, name: &str) -> Result<(), DriverError> {
    match mounts::MountTable::read()?.within(dir.path_of(name)).next() {
        None => Ok(()),
        Some(mount) => Err(DriverError::Mounted {
            source_name: mount.source.to_string_lossy().into_owned(),
            path: mount.point.clone(),
        }),
    }
}
