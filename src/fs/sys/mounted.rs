//! Asking a file system for its place under `/sys/fs`.

use std::os::fd::AsFd;

use rustix::io::Errno;
use rustix::ioctl::{Getter, ioctl, opcode};

/// What `FS_IOC_GETFSSYSFSPATH` fills in.
#[repr(C)]
struct SysfsPath {
    length: u8,
    name: [u8; 128],
}

const GET_SYSFS_PATH: rustix::ioctl::Opcode = opcode::read::<SysfsPath>(0x15, 1);

/// Returns the name of the file system that `file` is on below `/sys/fs`, `ext4/vda` for example (Linux 6.9).
///
/// # Errors
///
/// What the kernel says: most often that it does not know the question, or that the file system has no such name.
#[allow(unsafe_code)]
pub(crate) fn sysfs_name(file: impl AsFd) -> rustix::io::Result<Vec<u8>> {
    // SAFETY: the opcode encodes the size of `SysfsPath`, which consists of bytes: the kernel writes exactly those, and
    // every value of them is valid.
    let path = unsafe { ioctl(file, Getter::<GET_SYSFS_PATH, SysfsPath>::new())? };
    match path.name.get(..usize::from(path.length)) {
        Some(name) if !name.is_empty() => Ok(name.to_vec()),
        _ => Err(Errno::OPNOTSUPP),
    }
}
