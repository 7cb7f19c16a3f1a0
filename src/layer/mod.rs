//! A changeset as a directory: what a layer is between its tar and the stack it becomes a part of.

mod xattrs;

pub use xattrs::XattrPolicy;
