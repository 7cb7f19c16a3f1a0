//! What a step that fails leaves: every file-system step of an operation is made to fail in turn, once, or as on a disk
//! that is full from then on, or to be the last of its process.
//!
//! After each, the store is as it was before the operation or as it is after it, and in no other state: names, ids,
//! containers and their content are compared, and every byte is checked. A call that failed says why and where. The same
//! operation then works, and after a collection nothing is left but what would be there had nothing failed.
//!
//! A short run takes every so many steps; `PLYWOOD_FAULTS=all` takes all, `PLYWOOD_FAULTS=7` every seventh.

#![cfg(all(feature = "cli", target_arch = "x86_64"))]
#![allow(unreachable_pub, clippy::unwrap_used, clippy::print_stdout)]

#[path = "../common/mod.rs"]
mod common;
mod mending;
mod others;
mod shop;
mod tracer;
mod view;

use std::panic::{AssertUnwindSafe, catch_unwind};

use common::privilege::{self, Privilege};
use nix::errno::Errno;
use shop::Shop;
use tracer::{Fault, Run};
use view::View;

/// Steps that a short run takes of each operation, for each way to fail.
const SHORT: usize = 5;

/// One operation of the tool.
struct Operation {
    words: &'static [&'static str],
    /// What it may say when it is repeated, though it was done before it failed.
    repeated: &'static [&'static str],
}

/// Each is done on a store as [`Shop`] makes it.
fn survives(words: &'static [&'static str], repeated: &'static [&'static str]) {
    let operation = Operation { words, repeated };
    let shop = Shop::open();
    let (old, run) = (shop.look(), shop.run(operation.words, None));
    assert_eq!(run.code, Some(0), "{}", run.errors);
    let new = shop.look();
    shop.collect();
    let trial =
        Trial { shop: &shop, operation: &operation, old, new, tidy: shop.listing(), steps: run.steps };
    let chosen = faults(words, &trial.steps);
    // All are tried before the first that was not survived is held against anybody.
    let suffer = |&(number, fault): &(usize, Fault)| {
        catch_unwind(AssertUnwindSafe(|| trial.suffer(number, fault))).is_err()
    };
    let fatal: Vec<_> = chosen.into_iter().filter(suffer).collect();
    assert!(fatal.is_empty(), "{words:?}: {fatal:?}");
}

/// The faults that are tried of an operation with these steps.
fn faults(words: &[&str], steps: &[tracer::Step]) -> Vec<(usize, Fault)> {
    let mut chosen = Vec::new();
    for (number, step) in steps.iter().enumerate() {
        chosen.push((number, Fault::Once(Errno::EIO)));
        chosen.push((number, Fault::Killed));
        if step.takes_space {
            let full = if number % 2 == 0 { Errno::ENOSPC } else { Errno::EDQUOT };
            chosen.push((number, Fault::Full(full)));
        }
    }
    let (all, chosen) = (chosen.len(), thinned(chosen));
    println!("{words:?}: {} steps, {} of {all} faults", steps.len(), chosen.len());
    chosen
}

/// As many of these as the run is to take.
fn thinned(all: Vec<(usize, Fault)>) -> Vec<(usize, Fault)> {
    let each = match std::env::var("PLYWOOD_FAULTS") {
        Ok(every) if every == "all" => 1,
        Ok(number) => number.parse().unwrap(),
        // Never a multiple of the ways to fail, so that each gets its share.
        Err(_) => (all.len() / (3 * SHORT)) / 6 * 6 + 7,
    };
    all.into_iter().step_by(each).collect()
}

struct Trial<'a> {
    shop: &'a Shop,
    operation: &'a Operation,
    old: View,
    new: View,
    /// Every path in the store when it is done and collected.
    tidy: Vec<String>,
    steps: Vec<tracer::Step>,
}

impl Trial<'_> {
    fn suffer(&self, number: usize, fault: Fault) {
        self.shop.reset();
        let run = self.shop.run(self.operation.words, Some((number, fault)));
        let what = format!(
            "{:?}, {fault:?} at step {number} of {}: {}\n{}",
            self.operation.words,
            self.steps.len(),
            run.steps.last().map_or("", |step| &*step.what),
            run.errors
        );
        assert!(run.was_hit, "{what}");
        explained(self.shop, &run, fault, &what);
        let found = self.shop.look();
        match run.code {
            Some(0) => found.assert_same(&self.new, &what),
            _ if found != self.old => found.assert_same(&self.new, &what),
            _ => {}
        }
        // Nothing stands in the way of doing it again.
        let again = self.shop.run(self.operation.words, None);
        let is_done = |word| again.errors.contains(&format!("\"kind\":\"{word}\""));
        assert!(
            again.code == Some(0) || (found == self.new && self.operation.repeated.iter().any(is_done)),
            "again after {what}{}",
            again.errors
        );
        self.shop.look().assert_same(&self.new, &what);
        self.shop.collect();
        assert_eq!(self.shop.listing(), self.tidy, "{what}");
    }
}

/// A call that failed names the cause, and a place in the store.
fn explained(shop: &Shop, run: &Run, fault: Fault, what: &str) {
    let (words, kind) = match (run.code, fault) {
        (None, Fault::Killed) => return,
        (Some(0), _) => return,
        (_, Fault::Once(_)) => ("Input/output error", "io"),
        (_, Fault::Full(Errno::EDQUOT)) => ("quota exceeded", "quota"),
        _ => ("No space left on device", "no-space"),
    };
    assert_eq!(run.code, Some(1), "{what}");
    let error: serde_json::Value = serde_json::from_str(&run.errors).unwrap_or_else(|_| panic!("{what}"));
    let message = error["error"].as_str().unwrap();
    assert!(message.contains(words), "{what}");
    assert_eq!(error["kind"], kind, "{what}");
    assert!(message.contains(shop.store().to_str().unwrap()), "{what}");
}

#[test]
fn loading_survives_every_fault() {
    privilege::under(&[Privilege::Root], |_| survives(&["load", "-i", "ARCHIVE"], &[]));
}

#[test]
fn committing_survives_every_fault() {
    privilege::under(&[Privilege::Root], |_| survives(&["commit", "edited", "base:1"], &[]));
}

#[test]
fn tagging_survives_every_fault() {
    privilege::under(&[Privilege::Root], |_| survives(&["tag", "base:1", "other:1"], &[]));
}

#[test]
fn saving_survives_every_fault() {
    privilege::under(&[Privilege::Root], |_| survives(&["save", "-o", "SAVED", "base:1"], &[]));
}

#[test]
fn removing_an_image_survives_every_fault() {
    privilege::under(&[Privilege::Root], |_| survives(&["rmi", "other:1"], &["not-found"]));
}

#[test]
fn collecting_survives_every_fault() {
    privilege::under(&[Privilege::Root], |_| survives(&["gc"], &[]));
}

#[test]
fn creating_survives_every_fault() {
    privilege::under(&[Privilege::Root], |_| {
        survives(&["create", "--name", "new", "packed:1"], &["name-in-use"])
    });
}

#[test]
fn creating_a_copy_survives_every_fault() {
    privilege::under(&[Privilege::Root], |_| {
        survives(&["--driver", "copy", "create", "--name", "new", "base:1"], &["name-in-use"])
    });
}

#[test]
fn removing_a_container_survives_every_fault() {
    privilege::under(&[Privilege::Root], |_| survives(&["rm", "edited"], &["not-found"]));
}

#[test]
fn renaming_a_container_survives_every_fault() {
    privilege::under(&[Privilege::Root], |_| survives(&["rename", "edited", "new"], &["not-found"]));
}
