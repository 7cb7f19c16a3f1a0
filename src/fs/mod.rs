//! The disk, reached through handles: directories, staging and publishing, locks, metadata.
//!
//! Knows nothing of layers, images or stores. Every path below a [`Dir`] is resolved without following anything, every
//! error names its step and path, and new content appears by rename.

mod aside;
mod boot;
mod copy;
mod descent;
mod dir;
mod duplicate;
mod error;
mod inode;
mod lock;
mod meta;
mod namespace;
mod overflow;
mod remove;
mod source;
mod staging;
mod stat;
pub(crate) mod sys;
mod xattr;

pub use boot::{Session, boot_id, file_system_id};
pub use copy::{Extent, copy_content, next_extent};
pub(crate) use descent::Descent;
pub use dir::{Dir, Name, both_times, path_of};
pub use duplicate::{Duplicated, Twin, duplicate, twins};
pub use error::{AttributeTooLarge, Context, Error, NoInodes, Optional, PathTooLong, Result, is_damage};
pub use inode::Inode;
pub use lock::{Lock, LockMode};
pub use meta::{DeviceNumber, FileType, Metadata, Timestamp, Xattrs};
pub use namespace::in_initial_user_namespace;
pub(crate) use overflow::Overflow;
pub use source::Source;
pub use staging::{
    Durability, ParkedDir, ParkedFile, StagedDir, StagedFile, Staging, Workspace, unique_name,
};
pub use stat::{Kind, Stat};
