//! `mount_setattr` with `MOUNT_ATTR_IDMAP`, since Linux 5.12.

use std::os::fd::{AsFd, AsRawFd};

use rustix::io::Errno;

/// Makes `mount`, a new mount that is not attached anywhere, show every owner as the user namespace translates it.
///
/// # Errors
///
/// `ENOSYS` or `EINVAL` if the kernel or the file system cannot do it, `EPERM` without the privilege.
#[allow(unsafe_code)]
pub(crate) fn translate_ids(mount: impl AsFd, user_namespace: impl AsFd) -> rustix::io::Result<()> {
    let namespace = user_namespace.as_fd().as_raw_fd();
    let attributes = libc::mount_attr {
        attr_set: libc::MOUNT_ATTR_IDMAP,
        attr_clr: 0,
        propagation: 0,
        userns_fd: u64::try_from(namespace).map_err(|_| Errno::BADF)?,
    };
    // SAFETY: the descriptors are borrowed for the call, the path is an empty string with its NUL, and the kernel reads
    // the structure, of the size that it is told, and keeps no pointer.
    let done = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            mount.as_fd().as_raw_fd(),
            c"".as_ptr(),
            libc::AT_EMPTY_PATH,
            &raw const attributes,
            size_of::<libc::mount_attr>(),
        )
    };
    match done {
        0 => Ok(()),
        _ => Err(super::last_error()),
    }
}
