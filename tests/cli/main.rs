//! The command line tool from the outside: what it prints where, in which form, and how it exits.

#![cfg(feature = "cli")]
#![allow(unreachable_pub, clippy::unwrap_used)]

mod commands;
mod digests;
mod errors;
mod forms;
mod import;
mod json;
mod lenders;
mod mending;
mod newcomers;
mod save;
mod streams;
mod tool;
mod users;

#[path = "../common/mod.rs"]
mod common;
