//! [`Entry`]: what one header of a layer tar says.

use crate::fs::{DeviceNumber, FileType, Metadata};
use crate::path::LayerPath;

/// One entry of a layer, without the data of a file.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Entry {
    /// Where it belongs. For a whiteout the deleted name, for an opaque marker the directory, without `.wh.`.
    pub path: LayerPath,
    /// What it is.
    pub kind: EntryKind,
    /// Mode, owner, time and attributes. Those of hard links, whiteouts and opaque markers mean nothing.
    pub metadata: Metadata,
    /// Which entry of the tar this is, from 0, counting those that are skipped too; for messages. A [`Writer`] ignores
    /// it.
    ///
    /// [`Writer`]: super::Writer
    pub index: u64,
}

impl Entry {
    /// An entry to be written.
    pub fn new(path: LayerPath, kind: EntryKind, metadata: Metadata) -> Self {
        Self { path, kind, metadata, index: 0 }
    }

    /// The deletion of `path` from the layers below.
    pub fn whiteout(path: LayerPath) -> Self {
        Self::new(path, EntryKind::Whiteout, Metadata::default())
    }

    /// The mark that the directory `path` hides everything below it.
    pub fn opaque(path: LayerPath) -> Self {
        Self::new(path, EntryKind::Opaque, Metadata::default())
    }
}

/// What an entry is.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum EntryKind {
    /// A regular file; its data follows in the stream.
    File {
        /// Apparent size in bytes, holes included.
        size: u64,
    },
    /// A directory.
    Directory,
    /// A symbolic link with its target as written, never empty and without NUL.
    Symlink(Vec<u8>),
    /// Another name of the file at this path, which may be in this layer (also further on) or below.
    HardLink(LayerPath),
    /// A named pipe.
    Fifo,
    /// A character device. 0:0 is delivered like any other, though overlayfs would take it for a whiteout.
    CharDevice(DeviceNumber),
    /// A block device.
    BlockDevice(DeviceNumber),
    /// The path is deleted from the layers below.
    Whiteout,
    /// The directory at the path hides everything that the layers below have in it.
    Opaque,
    /// A regular file that AUFS kept aside (`.wh..wh.plnk/…`, which is its path here) because later hard links refer
    /// to it. It is not part of the layer under its own name.
    AufsLink {
        /// Apparent size in bytes, holes included.
        size: u64,
    },
}

impl EntryKind {
    /// The kind of an object found on disk; `None` for a socket, which has no form in a tar.
    pub fn of(file_type: FileType) -> Option<Self> {
        Some(match file_type {
            FileType::File { size } => Self::File { size },
            FileType::Directory => Self::Directory,
            FileType::Symlink(target) => Self::Symlink(target),
            FileType::Fifo => Self::Fifo,
            FileType::CharDevice(number) => Self::CharDevice(number),
            FileType::BlockDevice(number) => Self::BlockDevice(number),
            FileType::Socket => return None,
        })
    }

    /// The size of the data that follows, holes included; 0 where none does.
    pub fn size(&self) -> u64 {
        match *self {
            Self::File { size } | Self::AufsLink { size } => size,
            _ => 0,
        }
    }
}
