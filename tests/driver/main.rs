//! One suite of promises for every driver, through every privilege that it claims to work with.

#![allow(unreachable_pub, clippy::unwrap_used)]

#[path = "../common/mod.rs"]
mod common;
mod copy;
mod fuse;
mod ids;
mod once;
mod overlay;
mod probe;
mod promises;
mod world;
