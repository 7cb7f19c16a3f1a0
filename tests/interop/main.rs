//! Images between plywood and its peers, in both directions: ids, names, configs, history, and trees with attributes and times.
//! docs/interoperability.md says what comes of it, and has to be changed with what is asserted here.
//!
//! | file | peer, or what is exchanged |
//! | --- | --- |
//! | `podman` `buildah` `docker` `containerd` `skopeo` `umoci` | each takes what we write and writes what we load |
//! | `in_place` | the store's directory, read while we work in it |
//! | `exports` | tars of roots and of layers, archives that others packed |
//! | `sample` `edits` `world` | what is passed on, what is done to it, and a store to pass it on from |
//!
//! Most of it needs real root; each says loudly what is not here. What a peer loses is said where it is left out of a
//! comparison, with its version; all else is compared.

#![allow(unreachable_pub, clippy::unwrap_used)]

#[path = "../common/mod.rs"]
mod common;

mod buildah;
mod containerd;
mod docker;
mod edits;
mod exports;
mod in_place;
mod podman;
mod sample;
mod skopeo;
mod umoci;
mod world;
