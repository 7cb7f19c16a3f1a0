//! Many at one store: processes and threads that load, create, mount, commit, tag, remove and collect, each after a fixed
//! seed, beside a model that knows what has to be there; what one has begun while another does something, by hand; and
//! the protocol of the locks, in every order that its steps can have.
//!
//! | file | what it shows |
//! | --- | --- |
//! | `crowd` | a crowd keeps what every one of it was promised |
//! | `member` | one of a crowd, with the library or with the tool in its hands |
//! | `ledger` | what was done to things that everybody changes, and what may come of it |
//! | `watchdog` | who waits for whom, where nothing goes on |
//! | `together` | two at the same thing at a chosen moment |
//! | `protocol` | the protocols of locks and names, explored |
//! | `explore` | every order of the steps of a few processes |

#![cfg(feature = "cli")]
#![allow(unreachable_pub, clippy::unwrap_used, clippy::print_stdout, clippy::print_stderr)]

#[path = "../common/mod.rs"]
mod common;
mod crowd;
mod explore;
mod hands;
mod ledger;
mod member;
mod protocol;
mod shop;
mod together;
mod watchdog;
