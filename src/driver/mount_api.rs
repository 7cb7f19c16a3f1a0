//! Handing an overlay to the kernel: by open directories where it takes them, by paths through `/proc` elsewhere.
//!
//! No path of the caller's is ever given to the kernel, so neither length nor special characters of one matter, and
//! nothing can be swapped between looking and mounting.

use std::ffi::CString;
use std::os::fd::OwnedFd;

use rustix::fs::{Mode, OFlags, StatVfsMountFlags};
use rustix::io::Errno;
use rustix::mount::{self as sys, FsMountFlags, FsOpenFlags, MountAttrFlags, MountFlags, OpenTreeFlags};

use super::error::DriverError;
use super::plan::{self, OverlayPlan};
use super::point::MountPoint;
use super::{Access, Route};
use crate::fs::{self, Context, Dir};

/// The kernel's own limit on directories below the writable one.
pub(super) const MOST_LOWERS: usize = 500;

/// What mount(2) takes, without the closing NUL.
const OPTION_BYTES: usize = 4095;

/// A refused way of mounting.
struct Failure {
    step: &'static str,
    errno: Errno,
    log: Vec<String>,
    /// Whether it may be that this kernel does not know the way at all.
    unknown_way: bool,
}

impl Failure {
    fn into_error(self, plan: &OverlayPlan<'_>) -> DriverError {
        let Self { step, errno, log, .. } = self;
        DriverError::Kernel { step, path: plan::own_path(plan), log, source: errno.into() }
    }
}

/// Makes the mount and leaves it unattached. `scratch` is a place where it may be seen for a moment on kernels that
/// cannot do otherwise.
pub(super) fn detached(
    plan: &OverlayPlan<'_>,
    route: Route,
    scratch: &MountPoint,
) -> Result<OwnedFd, DriverError> {
    match unattached(plan, route)? {
        Some(mount) => Ok(mount),
        None => {
            with_option_string(plan, scratch)?;
            let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
            let clone = scratch.target().map_err(DriverError::from).and_then(|seen| {
                sys::open_tree(&seen, "", flags | OpenTreeFlags::AT_EMPTY_PATH)
                    .map_err(|error| scratch.error("clone the mount at", error))
            });
            let ended = scratch.detach(super::Unmount::Lazy);
            let clone = clone?;
            ended?;
            Ok(clone)
        }
    }
}

/// Makes the mount at `at` and opens its root.
pub(super) fn attached(plan: &OverlayPlan<'_>, route: Route, at: &MountPoint) -> Result<Dir, DriverError> {
    match unattached(plan, route)? {
        Some(mount) => {
            // Before it is attached, so that nothing has to be taken back if it fails.
            let root = open_root(&mount)?;
            at.attach(&mount)?;
            Ok(root)
        }
        None => {
            with_option_string(plan, at)?;
            let root = at.target();
            if root.is_err() {
                at.detach(super::Unmount::Lazy)?;
            }
            Ok(root?)
        }
    }
}

/// Opens the root directory of a mount that only a handle leads to.
pub(super) fn open_root(mount: &OwnedFd) -> Result<Dir, fs::Error> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    rustix::fs::openat(mount, ".", flags, Mode::empty()).map(Dir::from).at("open", "the root of a new mount")
}

/// Tries the ways that need no mount point; `None` if the option string is what is left.
fn unattached(plan: &OverlayPlan<'_>, route: Route) -> Result<Option<OwnedFd>, DriverError> {
    let ways: &[Route] = match route {
        Route::Auto => &[Route::Descriptors, Route::ProcPaths],
        Route::OptionString => &[],
        ref one => std::slice::from_ref(one),
    };
    for &way in ways {
        match with_context(plan, way) {
            Ok(mount) => return Ok(Some(mount)),
            Err(failure) if failure.unknown_way && route == Route::Auto => {
                tracing::debug!(step = failure.step, error = %failure.errno, "the kernel does not mount this way");
            }
            Err(failure) => return Err(failure.into_error(plan)),
        }
    }
    Ok(None)
}

/// The mount API of Linux 5.2.
fn with_context(plan: &OverlayPlan<'_>, way: Route) -> Result<OwnedFd, Failure> {
    let context = sys::fsopen(OverlayPlan::FS_TYPE, FsOpenFlags::FSOPEN_CLOEXEC).map_err(|errno| {
        Failure { step: "begin mounting", errno, log: Vec::new(), unknown_way: errno == Errno::NOSYS }
    })?;
    let step = |step, unknown_way: bool, done: rustix::io::Result<()>| {
        done.map_err(|errno| {
            let log = read_log(&context);
            // A kernel that knows the option but not this value of it says why.
            let unknown_way = unknown_way && errno == Errno::INVAL && log.is_empty();
            Failure { step, errno, log, unknown_way }
        })
    };
    let set_dir = |key: &str, dir: &Dir| match way {
        Route::ProcPaths => sys::fsconfig_set_string(&context, key, plan::proc_path(dir)),
        _ => sys::fsconfig_set_fd(&context, key, dir),
    };
    step("name", false, sys::fsconfig_set_string(&context, "source", plan.source))?;
    for (key, value) in &plan.options {
        let done = match value {
            Some(value) => sys::fsconfig_set_string(&context, *key, &**value),
            None => sys::fsconfig_set_flag(&context, *key),
        };
        step(if *key == plan::LABEL { "label" } else { "set options of" }, false, done)?;
    }
    for lower in &plan.lowers {
        step("stack a layer below", true, set_dir("lowerdir+", lower))?;
    }
    if let Some(changes) = &plan.changes {
        step("set the upper directory of", true, set_dir("upperdir", &changes.upper))?;
        step("set the work directory of", true, set_dir("workdir", &changes.work))?;
    }
    step("mount", false, sys::fsconfig_create(&context))?;
    let mut attributes = MountAttrFlags::empty();
    attributes.set(MountAttrFlags::MOUNT_ATTR_RDONLY, plan.access() == Access::ReadOnly);
    attributes.set(MountAttrFlags::MOUNT_ATTR_NOSUID, plan.nosuid);
    attributes.set(MountAttrFlags::MOUNT_ATTR_NODEV, plan.nodev);
    let mount = sys::fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, attributes);
    let failure = |step, errno| Failure { step, errno, log: read_log(&context), unknown_way: false };
    let mount = mount.map_err(|errno| failure("mount", errno))?;
    // Where the kernel cannot use the work directory it mounts for reading, and says so only in its own log.
    if plan.access() == Access::Writable {
        let found = rustix::fs::fstatvfs(&mount).map_err(|errno| failure("look at", errno))?;
        if found.f_flag.contains(StatVfsMountFlags::RDONLY) {
            return Err(failure("mount for writing", Errno::ROFS));
        }
    }
    Ok(mount)
}

/// What the kernel has to say about a context: one message per read, `e `, `w ` or `i ` in front.
fn read_log(context: &OwnedFd) -> Vec<String> {
    let mut log = Vec::new();
    let mut message = [0; 1024];
    // ENODATA ends it, and any other error as well: this only adds to an error that is reported anyway.
    while let Ok(length @ 1..) = rustix::io::read(context, &mut message) {
        let text = String::from_utf8_lossy(&message[..length]);
        let text = text.trim_end();
        let text = ["e ", "w ", "i "].iter().find_map(|level| text.strip_prefix(level)).unwrap_or(text);
        log.push(text.to_owned());
    }
    log
}

/// The mount call of old, with all layers in one string.
fn with_option_string(plan: &OverlayPlan<'_>, at: &MountPoint) -> Result<(), DriverError> {
    let options = plan.options_with(&plan::proc_path);
    if options.len() > OPTION_BYTES {
        let layers = plan.lowers.len();
        let limit = layers * OPTION_BYTES / options.len();
        return Err(DriverError::TooManyLayers { layers, limit });
    }
    let mut flags = MountFlags::empty();
    flags.set(MountFlags::RDONLY, plan.access() == Access::ReadOnly);
    flags.set(MountFlags::NOSUID, plan.nosuid);
    flags.set(MountFlags::NODEV, plan.nodev);
    let options = CString::new(options).expect("neither option names nor /proc paths have a NUL");
    let target = at.target()?;
    // Through the handle, so that a symlink put in its place meanwhile is not followed.
    sys::mount(plan.source, target.proc_path(), OverlayPlan::FS_TYPE, flags, options.as_c_str()).map_err(
        |errno| Failure { step: "mount", errno, log: Vec::new(), unknown_way: false }.into_error(plan),
    )
}

/// Attaches `mount` on the directory `target`.
pub(super) fn attach(mount: &OwnedFd, target: &Dir) -> rustix::io::Result<()> {
    use rustix::mount::MoveMountFlags;
    let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
    sys::move_mount(mount, "", target, "", flags)
}

/// Makes a mount of a directory, unattached, that shows the same directory.
pub(super) fn bind(dir: &Dir) -> rustix::io::Result<OwnedFd> {
    let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    sys::open_tree(dir, "", flags | OpenTreeFlags::AT_EMPTY_PATH)
}
