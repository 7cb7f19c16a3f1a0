//! Directories in overlayfs's own form, seen as the image means them: marks, recorded owners, and several trees merged
//! into one.
//!
//! This is the one place that knows how a layer looks on disk. Whoever stacks, walks, compares or writes layers does so
//! through it, so that another form of layer is one more file here.

pub mod marks;
pub mod object;
pub mod owner;

mod follow;
mod merged;

pub use merged::{Entry, Found, OpenDirectory, Stack, Tree};
