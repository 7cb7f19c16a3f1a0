//! Saving images, through the public door: what is in the archive, and that loading it gives the same images.

#![allow(unreachable_pub, clippy::unwrap_used)]

mod classic;
mod compression;
mod contents;
mod known;
mod many_names;
mod shop;

#[path = "../common/mod.rs"]
mod common;
