//! The disk, reached through handles.

mod meta;

pub use meta::{DeviceNumber, FileType, Metadata, Timestamp, Xattrs};
