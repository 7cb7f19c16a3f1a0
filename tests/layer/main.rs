//! Layers become directories, and directories are shared.

#![allow(clippy::unwrap_used, unreachable_pub)]

#[path = "../common/mod.rs"]
mod common;

mod attributes;
mod checking;
mod deletions;
mod holes;
mod lab;
mod laws;
mod many_names;
mod merging;
mod sharing;
mod squashing;
mod threads;
mod unpack;
