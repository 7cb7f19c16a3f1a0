//! Machines that are short of something: a disk without a free block or inode, a quota, a disk that turned read-only or
//! fails, few open files, little memory. Each operation works, or ends with an error that names what is short, and where;
//! and what makes room works on a disk that is full to its last block.

#![cfg(feature = "cli")]
#![allow(unreachable_pub, clippy::unwrap_used, clippy::print_stdout)]

#[path = "../common/mod.rs"]
mod common;
mod disks;
mod full;
mod limits;
mod machine;
