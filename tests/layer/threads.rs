//! However many threads unpack a layer, the result is that of one.

use std::num::NonZeroUsize;

use plywood::fs::Dir;
use plywood::layer::{Abilities, UnpackError, UnpackOptions, Unpacked, unpack_layer};
use plywood::parallelism::Parallelism;
use proptest::prelude::*;
use proptest::test_runner::Config;

use crate::common::tar::{Entry, Tar, tar, tar_of};
use crate::common::tree::{Kind, Node, Tree, snapshot};
use crate::common::{self, random};
use crate::lab::{chain, diff_id};

/// Threads are of use only to layers that are larger than what one thread is through with at once.
fn large() -> Tar {
    tar().file("large", vec![1; 3 << 20])
}

fn with_threads(tar: &[u8], threads: usize) -> (Result<Unpacked, UnpackError>, Tree) {
    let dir = common::scratch();
    let into = Dir::ensure_ambient(dir.path().join("layer")).unwrap();
    let abilities = Abilities::probe(&into).unwrap();
    let mut options = UnpackOptions::default();
    options.parallelism = Parallelism::new(NonZeroUsize::new(threads).unwrap());
    let blob = std::io::Cursor::new(tar.to_vec());
    let unpacked = unpack_layer(blob, diff_id(tar), &into, None, abilities, &options);
    // Marks are made now, and nobody reads their time.
    let is_mark = |node: &Node| {
        node.kind == Kind::Char(0, 0) || node.xattrs.keys().any(|key| key.ends_with(b"overlay.whiteout"))
    };
    (unpacked, snapshot(dir.path().join("layer")).without_mtimes(|_, node| is_mark(node)))
}

/// What a layer says of itself once it is unpacked.
fn summary(unpacked: &Unpacked) -> String {
    let Unpacked { entries, tar_bytes, data_bytes, implied, below_links, losses, .. } = unpacked;
    format!("{entries} {tar_bytes} {data_bytes} {implied:?} {below_links:?} {}", losses.count)
}

#[test]
fn thousands_of_small_files_are_the_same_by_one_thread_and_by_many() {
    let mut layer = large();
    for number in 0..3000_usize {
        let directory = format!("d{}", number % 17);
        layer = match number % 23 {
            // Every name comes several times, as one thing and as another.
            0 => layer.dir(&directory).mode(0o700 + number as u32 % 64),
            1 => layer.symlink(format!("{directory}/{}", number % 90), "elsewhere"),
            2 => layer.link(format!("{directory}/l{}", number % 90), format!("{directory}/{}", number % 90)),
            3 => layer.file(&directory, "in place of a directory"),
            4 => layer.dir(format!("{directory}/{}", number % 90)),
            5 => layer.file(format!("x/{number}"), "noted").xattr("user.note", number.to_string()),
            6 => layer.file(format!("x/{number}"), vec![number as u8; 40_000 * (number % 7)]),
            _ => layer.file(format!("{directory}/{}", number % 90), vec![number as u8; number % 5000]),
        };
        layer = layer.mode(0o600 + number as u32 % 128).mtime(number as i64, 7).owner(0, 0);
        if number % 31 == 0 && common::is_real_root() {
            layer = layer.owner(number as u64, 5).mode(0o6711);
        }
    }
    let tar = layer.finish();
    let (one, alone) = with_threads(&tar, 1);
    let one = summary(&one.unwrap_or_else(|error| panic!("{}", chain(&error))));
    for threads in [2, 3, 8, 2, 3, 8] {
        let (many, tree) = with_threads(&tar, threads);
        tree.assert_same(&alone, &format!("{threads} threads"));
        assert_eq!(summary(&many.unwrap()), one);
    }
}

#[test]
fn of_all_failures_the_first_in_the_tar_is_reported() {
    let mut layer = large();
    for number in 0..200 {
        layer = layer.file(format!("d/{number}"), vec![1; 3000]);
    }
    let refused = layer.link("never", "never").file("behind", "x").finish();
    let mut cut = refused.clone();
    cut.truncate(cut.len() - 3 * 1024 - 200 * 1800);
    for tar in [refused, cut] {
        let errors = [1, 2, 5].map(|threads| chain(&with_threads(&tar, threads).0.unwrap_err()));
        assert!(errors.iter().all(|error| *error == errors[0]), "{errors:?}");
    }
}

proptest! {
    #![proptest_config(Config { cases: 40, failure_persistence: None, ..Config::default() })]

    #[test]
    fn layers_that_nobody_thought_of_do_not_depend_on_the_number_of_threads(layers in random::layers(12)) {
        // As one layer: what the layers do to each other one layer does to itself.
        let entries: Vec<Entry> = large().entries().into_iter().chain(layers.concat()).collect();
        let tar = tar_of(&entries);
        let (one, alone) = with_threads(&tar, 1);
        for threads in [2, 5] {
            let (many, tree) = with_threads(&tar, threads);
            match (&one, many) {
                (Ok(one), Ok(many)) => {
                    prop_assert_eq!(summary(&many), summary(one));
                    let lines = tree.differences(&alone);
                    prop_assert!(lines.is_empty(), "{} threads:\n{}", threads, lines.join("\n"));
                }
                (Err(one), Err(many)) => prop_assert_eq!(chain(&many), chain(one)),
                (one, many) => prop_assert!(false, "{:?} beside {:?}", one, many),
            }
        }
    }
}
