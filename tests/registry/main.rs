//! Registries, against the distribution's `docker-registry` on loopback, and against one that misbehaves on the way.

#![allow(unreachable_pub, clippy::unwrap_used)]

mod client;
mod foreign;
#[cfg(feature = "cli")]
mod hints;
mod misbehaviour;
mod origin;
mod proxy;
mod pull;
mod push;
mod script;
mod server;
mod shop;
#[cfg(feature = "cli")]
mod tool;

#[path = "../common/mod.rs"]
mod common;
