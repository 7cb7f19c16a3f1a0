//! Registries, against the distribution's `docker-registry` on loopback, and against one that misbehaves on the way.


mod proxy;
mod pull;
mod push;
mod server;
mod shop;

#[path = "../common/mod.rs"]
mod common;
