//! Loading archives, through the public door: what is accepted, what it is called, and what is refused without a trace.

#![allow(unreachable_pub, clippy::unwrap_used)]

mod control;
mod forms;
mod indexes;
mod names;
mod refusals;
mod shop;

#[path = "../common/mod.rs"]
mod common;
