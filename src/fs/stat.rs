//! [`Stat`]: what an inode says of itself, in the units of this crate.

use std::ffi::OsStr;
use std::os::fd::AsFd;

use rustix::fs::{self as sys, AtFlags};

use super::meta::{DeviceNumber, Timestamp};

/// The kind of an inode.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
#[non_exhaustive]
pub enum Kind {
    /// A regular file.
    File,
    /// A directory.
    Directory,
    /// A symbolic link.
    Symlink,
    /// A named pipe.
    Fifo,
    /// A character device.
    CharDevice,
    /// A block device.
    BlockDevice,
    /// A Unix socket.
    Socket,
}

impl Kind {
    pub(super) fn from_raw(kind: sys::FileType) -> Option<Self> {
        Some(match kind {
            sys::FileType::RegularFile => Self::File,
            sys::FileType::Directory => Self::Directory,
            sys::FileType::Symlink => Self::Symlink,
            sys::FileType::Fifo => Self::Fifo,
            sys::FileType::CharacterDevice => Self::CharDevice,
            sys::FileType::BlockDevice => Self::BlockDevice,
            sys::FileType::Socket => Self::Socket,
            sys::FileType::Unknown => return None,
        })
    }

    pub(super) fn to_raw(self) -> sys::FileType {
        match self {
            Self::File => sys::FileType::RegularFile,
            Self::Directory => sys::FileType::Directory,
            Self::Symlink => sys::FileType::Symlink,
            Self::Fifo => sys::FileType::Fifo,
            Self::CharDevice => sys::FileType::CharacterDevice,
            Self::BlockDevice => sys::FileType::BlockDevice,
            Self::Socket => sys::FileType::Socket,
        }
    }
}

/// One inode's attributes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct Stat {
    /// What it is.
    pub kind: Kind,
    /// Permission bits, `0o7777` at most.
    pub mode: u32,
    /// Owner, as this process's user namespace numbers it.
    pub uid: u32,
    /// Group, as this process's user namespace numbers it.
    pub gid: u32,
    /// Apparent size in bytes.
    pub size: u64,
    /// Bytes allocated on disk.
    pub allocated: u64,
    /// Time of the last change to the content.
    pub mtime: Timestamp,
    /// Time of the last change to content or attributes; no program can set it.
    pub ctime: Timestamp,
    /// Device number of the file system it is on.
    pub device: u64,
    /// Inode number, unique on its file system.
    pub inode: u64,
    /// Number of names it has.
    pub links: u64,
    /// Which device a node stands for.
    pub node: DeviceNumber,
}

impl Stat {
    /// Of an open file.
    ///
    /// # Errors
    ///
    /// What the kernel says.
    pub fn of(file: impl AsFd) -> rustix::io::Result<Self> {
        sys::fstat(file).map(Self::from_raw)
    }

    /// Of `name` in `dir`, following nothing.
    ///
    /// # Errors
    ///
    /// What the kernel says.
    pub fn at(dir: impl AsFd, name: &OsStr) -> rustix::io::Result<Self> {
        sys::statat(dir, name, AtFlags::SYMLINK_NOFOLLOW).map(Self::from_raw)
    }

    fn from_raw(raw: sys::Stat) -> Self {
        let time = |seconds: i64, nanos| Timestamp { seconds, nanos: u32::try_from(nanos).unwrap_or(0) };
        Self {
            kind: Kind::from_raw(sys::FileType::from_raw_mode(raw.st_mode)).unwrap_or(Kind::Socket),
            mode: raw.st_mode & 0o7777,
            uid: raw.st_uid,
            gid: raw.st_gid,
            size: u64::try_from(raw.st_size).unwrap_or(0),
            allocated: u64::try_from(raw.st_blocks).unwrap_or(0) * 512,
            mtime: time(raw.st_mtime, raw.st_mtime_nsec),
            ctime: time(raw.st_ctime, raw.st_ctime_nsec),
            device: raw.st_dev,
            inode: raw.st_ino,
            #[allow(clippy::useless_conversion)] // it has 32 bits on some machines
            links: raw.st_nlink.into(),
            node: DeviceNumber { major: sys::major(raw.st_rdev), minor: sys::minor(raw.st_rdev) },
        }
    }

    /// Whether this and `other` are the same inode.
    pub fn is_same_inode(&self, other: &Self) -> bool {
        (self.device, self.inode) == (other.device, other.inode)
    }
}
