//! Whole lives through the front door: an archive becomes layers, layers become containers, containers become images.

#![allow(unreachable_pub, clippy::unwrap_used)]

mod arriving;
mod build_cache;
mod check;
mod clones;
mod collect;
mod commit;
mod conformance;
mod containers;
mod convert;
mod copies;
mod costs;
mod deletions;
mod depth;
mod digest_names;
mod families;
mod fetching;
mod filesystems;
mod fixture;
mod full_index;
mod fuse;
mod growing;
mod holes;
mod images;
mod import;
mod lenders;
mod life;
mod many;
mod many_layers;

mod mending;
mod mounts;
#[cfg(feature = "ocidir")]
mod ocidir;
mod plain_saves;
mod prune;
mod records;
mod referrers;
mod refusals;
mod repair;
mod rootless;
mod special_files;
mod squash;
mod strange;
mod trees;
mod trouble;
mod truth;
mod usage;
mod users;
mod views;
mod world;

#[path = "../common/mod.rs"]
mod common;
