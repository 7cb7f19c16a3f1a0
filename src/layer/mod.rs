//! A changeset as a directory: what a layer is between its tar and the stack it becomes a part of.

mod diff;
mod flatten;
mod pack;
mod xattrs;

pub use diff::{
    Change, ChangeKind, CopyRecord, Diff, DiffEntry, DiffError, DiffEvent, EntryChange, Selection,
};
pub use flatten::flatten;
pub use pack::{PackError, PackOptions, Packed, pack, pack_directory};
pub use xattrs::XattrPolicy;
