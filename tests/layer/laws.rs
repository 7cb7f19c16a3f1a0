//! What must hold for every layer: unpacked and packed it is the same, and what others unpack is the same too.

use std::path::Path;
use std::process::{Command, Stdio};

use plywood::fs::Dir;
use plywood::layer::{
    Abilities, Layer, PackOptions, Selection, UnpackOptions, flatten, unpack, unpack_layer,
};
use plywood::parallelism::Parallelism;
use plywood::stack::Stack;
use proptest::prelude::*;
use proptest::test_runner::Config;

use crate::common::random;
use crate::common::tar::{Dialect, Entry, Kind, SparseDialect, Tar, tar, tar_of};
use crate::common::tree::{Tree, snapshot};
use crate::common::{self, have, is_real_root, kernel, model, run_command, skip, untar};
use crate::lab::{Lab, chain, diff_id, lab, meant, seen};
use crate::sharing::has_lost_link;

/// The root that these layers, lowest first, make, as one tar.
fn flat(layers: &[Layer]) -> Vec<u8> {
    let stack = Stack::new(layers.iter().rev().map(|layer| &layer.tree));
    let mut tar = Vec::new();
    flatten(&stack, &Selection::default(), &mut tar, &PackOptions::default()).unwrap();
    tar
}

/// Layers show what they mean, so does what is packed of them, and that is unpacked and packed to the same bytes.
#[track_caller]
pub fn both_ways(layers: &[Tar]) -> Tree {
    let lab = lab();
    let tars: Vec<_> = layers.iter().map(|layer| layer.clone().finish()).collect();
    let (found, packed) = there_and_back(&lab, &tars);
    let expected = meant(layers);
    found.assert_same(&expected, "unpacked");
    packed.assert_same(&expected, "packed");
    found
}

/// What unpacking shows, and what packing of that means.
#[track_caller]
fn there_and_back(lab: &Lab, tars: &[Vec<u8>]) -> (Tree, Tree) {
    let made = lab.ensure(tars);
    let packed = flat(&made);
    let again = lab.ensure(std::slice::from_ref(&packed));
    assert!(flat(&again) == packed, "packed again it is another tar");
    (seen(&made), model::stack([untar::entries(&packed).as_slice()]).without_holes())
}

proptest! {
    #![proptest_config(Config { cases: 60, failure_persistence: None, ..Config::default() })]

    #[test]
    fn what_is_unpacked_packs_to_the_same_and_that_again(layers in random::layers(3)) {
        prop_assume!(!layers.iter().any(|layer| has_lost_link(layer)));
        let expected = model::stack(layers.iter().map(Vec::as_slice)).without_holes();
        let tars: Vec<_> = layers.iter().map(|layer| tar_of(layer)).collect();
        let (found, packed) = there_and_back(&lab(), &tars);
        for tree in [found, packed] {
            let lines = tree.differences(&expected);
            prop_assert!(lines.is_empty(), "found → expected:\n{}", lines.join("\n"));
        }
    }
}

/// A plain layer, as one dialect can say it, with every directory declared.
fn in_dialect(layer: &[Entry], dialect: Dialect) -> Vec<Entry> {
    let mut entries = Vec::new();
    for entry in layer {
        let name = std::str::from_utf8(&entry.name).unwrap();
        if name.split('/').any(|name| name.starts_with(".wh.")) {
            continue;
        }
        let parents = Path::new(name).ancestors().skip(1).filter(|parent| parent.components().count() > 0);
        let parents: Vec<_> = parents.map(|parent| parent.to_str().unwrap().to_owned()).collect();
        entries.extend(parents.into_iter().rev().flat_map(|parent| tar().dir(parent).entries()));
        entries.push(entry.clone());
    }
    let mut entries = random::for_gnu_tar(&entries);
    for entry in &mut entries {
        let old = dialect == Dialect::V7 && entry.kind == Kind::Fifo;
        entry.dialect = if old { Dialect::Ustar } else { dialect };
        // bsdtar gives the fraction of a time before 1970 the wrong sign.
        if dialect != Dialect::Pax || entry.mtime.0 < 0 {
            entry.mtime.1 = 0;
        }
        if dialect != Dialect::Pax {
            entry.xattrs.clear();
            entry.mtime.0 = entry.mtime.0.max(0);
        }
    }
    entries
}

proptest! {
    #![proptest_config(Config { cases: 24, failure_persistence: None, ..Config::default() })]

    #[test]
    fn a_plain_layer_of_any_dialect_and_on_any_number_of_threads_is_what_gnu_tar_and_bsdtar_make_of_it(
        layer in random::layers(1),
        long in prop::bool::ANY,
    ) {
        if !is_real_root() || !have(&["tar", "bsdtar"]) {
            skip("GNU tar and bsdtar give files to others as root only");
            return Ok(());
        }
        for dialect in [Dialect::V7, Dialect::Ustar, Dialect::Gnu, Dialect::Pax] {
            let mut entries = in_dialect(&layer[0], dialect);
            if long && dialect != Dialect::V7 {
                let name = format!("{}/{}", "l".repeat(90), "n".repeat(99));
                entries.extend(tar().dialect(dialect).dir("l".repeat(90)).file(name, "long").entries());
            }
            compare_with_others(&tar_of(&entries), &format!("{dialect:?}"))?;
        }
    }
}

/// Unpacks a plain layer here, on one thread and on several, and with both programs.
fn compare_with_others(layer: &[u8], what: &str) -> Result<(), TestCaseError> {
    let scratch = common::scratch();
    let path = |name: &str| scratch.path().join(name);
    std::fs::write(path("tar"), layer).unwrap();
    for name in ["gnu", "bsd"] {
        std::fs::create_dir(path(name)).unwrap();
    }
    kernel::untar(&path("tar"), &path("gnu"));
    run_command(
        Command::new("bsdtar")
            .args(["-x", "-p", "--same-owner", "--numeric-owner", "--xattrs", "--acls", "-f"])
            .arg(path("tar"))
            .arg("-C")
            .arg(path("bsd"))
            .stdin(Stdio::null()),
    );
    // bsdtar does not touch the directory that it unpacks into.
    let tree = |name: &str| snapshot(path(name)).without_root();
    for threads in [1, 4] {
        let name = threads.to_string();
        let into = Dir::ensure_ambient(path(&name)).unwrap();
        let mut options = UnpackOptions::default();
        options.parallelism = Parallelism::new(std::num::NonZeroUsize::new(threads).unwrap());
        let abilities = Abilities::probe(&into).unwrap();
        unpack_layer(layer, diff_id(layer), &into, None, abilities, &options).unwrap();
        for other in ["gnu", "bsd"] {
            let lines = tree(&name).differences(&tree(other));
            prop_assert!(lines.is_empty(), "{what}: plywood → {other}:\n{}", lines.join("\n"));
        }
    }
    Ok(())
}

#[test]
fn a_sparse_file_of_any_dialect_is_what_gnu_tar_and_bsdtar_make_of_it() {
    if !is_real_root() || !have(&["tar", "bsdtar"]) {
        return skip("GNU tar and bsdtar give files to others as root only");
    }
    let pieces: Vec<(u64, Vec<u8>)> = (0..40).map(|index| (8192 + index * 12288, vec![b'x'; 4096])).collect();
    let data: Vec<_> = pieces.iter().map(|(offset, bytes)| (*offset, bytes.as_slice())).collect();
    for dialect in [SparseDialect::Gnu, SparseDialect::Pax00, SparseDialect::Pax01, SparseDialect::Pax10] {
        let layer = tar().dir("d").sparse("d/sparse", 1_000_000, &data, dialect).file("after", "y");
        compare_with_others(&layer.finish(), &format!("{dialect:?}")).unwrap();
    }
}

#[test]
fn what_only_a_record_can_say_comes_back_both_ways() {
    let name = |length: usize| format!("long/{}/{}", "d".repeat(255), "n".repeat(length));
    let layer = tar()
        .dir("long")
        .dir(format!("long/{}", "d".repeat(255)))
        .file(name(255), "255 bytes")
        .link("long/link", name(255))
        .symlink("long/symlink", "t/".repeat(1500))
        .file("old", "")
        .mtime(-1_000_000_000, 1)
        .file("before", "")
        .mtime(-1, 999_999_999)
        .dir("new")
        .mtime(9_000_000_000, 123_456_789);
    both_ways(&[layer]);
    if is_real_root() {
        let most = u64::from(u32::MAX - 1);
        let ids = tar()
            .file("last", "")
            .owner(most, most)
            .dir("dir")
            .owner(2_097_152, most)
            .symlink("link", "x")
            .owner(most, 2_097_151)
            .fifo("pipe")
            .owner(most, 0);
        both_ways(&[ids]);
    }
    let error = unpack(
        &tar().file("nobody", "").owner(u64::from(u32::MAX), 0).finish()[..],
        &Dir::ensure_ambient(common::scratch().path()).unwrap(),
        None,
        Abilities::probe(&Dir::ensure_ambient(common::scratch().path()).unwrap()).unwrap(),
        &UnpackOptions::default(),
    );
    let error = chain(&error.unwrap_err());
    assert!(error.contains("uid"), "{error}");
}

#[test]
fn names_that_are_no_text_come_back_both_ways() {
    let layer = tar()
        .dir(b"caf\xe9")
        .file(b"caf\xe9/\xff\xfe\x01", "x")
        .link(b"caf\xe9/link", b"caf\xe9/\xff\xfe\x01")
        .symlink("to", b"caf\xe9/\xff")
        .file("new\nline", "x")
        .file("with = and, comma", "x");
    let tree = both_ways(&[layer]);
    assert_eq!(tree.0.len(), 7);
}
