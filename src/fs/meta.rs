//! What a file system object is besides its name and its bytes: [`Metadata`] and [`FileType`].
//!
//! The same types describe an entry of a layer tar and an object on disk, so that nothing is lost in between. They
//! are plain data; [`super::Dir`] and its files read and write them.

use std::collections::BTreeMap;

/// Seconds and nanoseconds since 1970-01-01 00:00 UTC. The nanoseconds count forward from the second, also before
/// 1970: half a second before the epoch is `{ seconds: -1, nanos: 500_000_000 }`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct Timestamp {
    /// Whole seconds, rounded down.
    pub seconds: i64,
    /// 0 to 999,999,999.
    pub nanos: u32,
}

impl Timestamp {
    /// A time without a fraction.
    pub fn from_seconds(seconds: i64) -> Self {
        Self { seconds, nanos: 0 }
    }
}

/// Extended attributes by full name (`user.mime_type`), values as raw bytes.
pub type Xattrs = BTreeMap<Vec<u8>, Vec<u8>>;

/// Permissions, owner, modification time and extended attributes.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Metadata {
    /// Permission bits with setuid, setgid and sticky: `0o7777` at most, no file type.
    pub mode: u32,
    /// Owner, as the image numbers it.
    pub uid: u32,
    /// Group, as the image numbers it.
    pub gid: u32,
    /// Modification time.
    pub mtime: Timestamp,
    /// Extended attributes, ACLs and file capabilities among them.
    pub xattrs: Xattrs,
}

impl Metadata {
    /// What a directory gets that nobody described: `0755 0:0`, the epoch, no attributes.
    pub fn default_directory() -> Self {
        Self { mode: 0o755, ..Self::default() }
    }
}

/// What kind of object something is, with what belongs to that kind.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum FileType {
    /// A regular file of this many bytes, holes included.
    File {
        /// Apparent size in bytes.
        size: u64,
    },
    /// A directory.
    Directory,
    /// A symbolic link with its target as written.
    Symlink(Vec<u8>),
    /// A named pipe.
    Fifo,
    /// A character device.
    CharDevice(DeviceNumber),
    /// A block device.
    BlockDevice(DeviceNumber),
    /// A Unix socket. It has no form in a tar and is skipped on both sides.
    Socket,
}

/// Major and minor number of a device node.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct DeviceNumber {
    /// The driver.
    pub major: u32,
    /// The device of that driver.
    pub minor: u32,
}

impl DeviceNumber {
    /// The number that overlayfs uses as a deletion mark.
    pub const WHITEOUT: Self = Self { major: 0, minor: 0 };

    /// Whether Linux has such a number. It keeps 12 and 20 bits of the two and forgets the others: 4096:0 would become
    /// 0:0.
    pub fn is_possible(self) -> bool {
        self.major < 1 << 12 && self.minor < 1 << 20
    }
}
