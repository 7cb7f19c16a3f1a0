//! One layer as a stream: a tar of additions, changes and deletions, read and written entry by entry.
//!
//! [`Reader`] understands every dialect that layers in the field are written in (v7, ustar, GNU, PAX, star, all four
//! sparse forms) and hands out what an entry *means*: names that cannot leave the layer, whiteouts told from files,
//! sizes and numbers verified against [`Limits`](crate::limits::Limits). It believes no claim before it holds the
//! bytes, and it refuses what it does not understand instead of leaving it out. [`Writer`] writes one dialect, ustar
//! with PAX records where ustar is too small, and equal entries give equal bytes.
//!
//! Both know one entry at a time. What an entry does to a directory, in which order entries may come, and what a hard
//! link or a whiteout refers to is for those who apply and make layers.
//!
//! The meaning of a layer: [OCI image spec](https://github.com/opencontainers/image-spec/blob/main/layer.md). The
//! format: [POSIX pax](https://pubs.opengroup.org/onlinepubs/9799919799/utilities/pax.html) and the
//! [GNU tar manual](https://www.gnu.org/software/tar/manual/html_node/Tar-Internals.html).

mod acl;
mod body;
mod comment;
mod entry;
mod error;
mod header;
mod headers;
mod name;
mod pax;
mod percent;
mod reader;
mod sparse;
mod writer;

pub use body::Data;
pub(crate) use comment::{take_comment, write_comment};
pub use entry::{Entry, EntryKind};
pub use error::ChangesetError;
pub use reader::{Body, Reader};
pub(crate) use reader::{Member, MemberKind, begins_like_tar};
pub use writer::Writer;

#[cfg(test)]
mod tests;
