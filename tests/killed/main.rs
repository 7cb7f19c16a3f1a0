//! Processes that end in the middle: killed at any moment, many times and several at once, or interrupted by a person.

#![cfg(feature = "cli")]
#![allow(unreachable_pub, clippy::unwrap_used)]

#[path = "../common/mod.rs"]
mod common;
mod interrupted;
mod storm;
