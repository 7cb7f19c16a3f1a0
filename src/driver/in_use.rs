//! Whether the kernel still works in a writable directory, wherever it is mounted: in another mount namespace, or
//! nowhere but as a handle in some process.
//!
//! Two overlays of one writable directory corrupt it, and the kernel lets it happen: it knows (it marks the directories of
//! every live overlay) but refuses only mounts with an index. So it is asked with a mount that has one and cannot succeed,
//! because its directories are the same. That leaves a line in the kernel's log, and is therefore done only where there is
//! doubt: the kernel makes `work/work` for every mount, and [`forget`] takes it away when an unmount was seen to be the
//! last. What is left was mounted by others, or when the machine or a process ended in between, or still is.

use std::ffi::{CString, OsStr};
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;

use rustix::fs::inotify::{self, CreateFlags, ReadFlags, WatchFlags};
use rustix::io::Errno;
use rustix::mount::{MountFlags, UnmountFlags};

use super::error::DriverError;
use super::mounts;
use super::plan::OverlayPlan;
use super::point::MountPoint;
use crate::fs::{DeviceNumber, Dir, Kind, Optional};

/// The directory that the kernel makes when it mounts.
const SCRATCH: &str = "work/work";

/// Refuses if the upper directory in `dir` is part of a live mount. The caller has looked for mounts of `source` in its
/// own mount namespace.
pub(super) fn refuse(dir: &Dir, upper: &str, source: &str) -> Result<(), DriverError> {
    if dir.stat(SCRATCH).optional()?.is_none() {
        return Ok(());
    }
    let upper = dir.open_dir(upper)?;
    let path = upper.proc_path();
    let own = path.display();
    let options = format!("lowerdir={own},upperdir={own},workdir={own},index=on");
    let options = CString::new(options).expect("a number in a /proc path has no NUL");
    match rustix::mount::mount(source, &path, OverlayPlan::FS_TYPE, MountFlags::empty(), options.as_c_str()) {
        Err(Errno::INVAL) => Ok(()),
        Err(Errno::BUSY) => {
            let found = mounts::everywhere(source)?;
            Err(DriverError::InUse { path: dir.path_of(""), found })
        }
        // No kernel does that, but if one did, the mount must not stay.
        Ok(()) => rustix::mount::unmount(path, UnmountFlags::DETACH).map_err(|errno| fault(dir, errno)),
        Err(errno) => Err(fault(dir, errno)),
    }
}

fn fault(dir: &Dir, errno: Errno) -> DriverError {
    let (step, log) = ("find out who has mounted", Vec::new());
    DriverError::Kernel { step, path: dir.path_of(""), log, source: errno.into() }
}

/// Notices the end of a file system, as opposed to that of one of its mounts.
#[derive(Debug)]
pub(super) struct Watch(Option<OwnedFd>);

impl Watch {
    /// Begins to watch what is mounted at `point`. Where that cannot be, the end is never noticed.
    pub(super) fn on(point: &MountPoint) -> Self {
        let watch = || {
            let events = inotify::init(CreateFlags::NONBLOCK | CreateFlags::CLOEXEC)?;
            // The end is told whatever else is asked for.
            let flags = WatchFlags::DELETE_SELF | WatchFlags::ONLYDIR | WatchFlags::DONT_FOLLOW;
            inotify::add_watch(&events, point.proc_path(), flags)?;
            Ok::<_, Errno>(events)
        };
        match watch() {
            Ok(events) => Self(Some(events)),
            Err(error) => {
                tracing::debug!(%error, path = ?point.path(), "the end of a mount cannot be watched");
                Self(None)
            }
        }
    }

    /// Whether it has ended.
    pub(super) fn has_ended(self) -> bool {
        let Some(events) = self.0 else { return false };
        let mut buffer = [MaybeUninit::uninit(); 512];
        let mut events = inotify::Reader::new(events, &mut buffer);
        while let Ok(event) = events.next() {
            if event.events().contains(ReadFlags::UNMOUNT) {
                return true;
            }
        }
        false
    }
}

/// Notes that nobody works in the directories in `dir` any more.
pub(super) fn forget(dir: &Dir) {
    // What a volatile mount leaves has to stay, and nobody is harmed by asking the kernel once more.
    if let Err(error) = remove_scratch(dir) {
        tracing::debug!(%error, source = %error.source, "the next mount will ask the kernel whether this one is over");
    }
}

fn remove_scratch(dir: &Dir) -> crate::fs::Result<()> {
    let Some(scratch) = dir.open_dir(SCRATCH).optional()? else { return Ok(()) };
    for entry in scratch.names()? {
        let name = OsStr::from_bytes(&entry.name);
        let stat = scratch.stat(name)?;
        // The whiteout that the kernel has linked to all deleted names. It would remove it itself.
        if stat.kind == Kind::CharDevice && stat.node == DeviceNumber::WHITEOUT {
            scratch.remove_file(name)?;
        }
    }
    dir.remove_dir(SCRATCH)
}
