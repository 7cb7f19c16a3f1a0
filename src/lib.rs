//! Plywood: a layered image store and an overlay storage driver, as a library.

pub mod archive;
pub mod blob;
pub mod changeset;
pub mod codec;
pub mod container;
pub mod digest;
pub mod driver;
pub mod fs;
pub mod image;
pub mod layer;
pub mod limits;
pub mod parallelism;
pub mod path;
pub mod stack;
pub mod store;
pub mod whiteout;
