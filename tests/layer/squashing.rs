//! Several layers as one: what they change together, no more and no less.

use std::path::PathBuf;

use plywood::layer::{Diff, Layer, PackOptions, Selection, flatten, pack};
use plywood::stack::Stack;
use proptest::prelude::*;
use proptest::test_runner::Config;

use crate::common::tar::{Kind, Tar, tar, tar_of};
use crate::common::{model, random, untar};
use crate::lab::{Lab, lab};
use crate::sharing::has_lost_link;

fn stack(layers: &[Layer]) -> Stack<'_> {
    Stack::new(layers.iter().rev().map(|layer| &layer.tree))
}

fn flat(layers: &[Layer]) -> Vec<u8> {
    let mut tar = Vec::new();
    flatten(&stack(layers), &Selection::default(), &mut tar, &PackOptions::default()).unwrap();
    tar
}

/// What all of `tars` but the lowest `kept` change together.
fn squashed(lab: &Lab, tars: &[Vec<u8>], kept: usize) -> Vec<u8> {
    let layers = lab.ensure(tars);
    let mut tar = Vec::new();
    let diff = Diff::of_topmost(stack(&layers), tars.len() - kept);
    pack(&diff, &mut tar, &PackOptions::default()).unwrap();
    tar
}

/// The name that a whiteout deletes.
fn deleted(name: &[u8]) -> Option<PathBuf> {
    let name = std::str::from_utf8(name).unwrap();
    let (parent, base) = name.rsplit_once('/').unwrap_or(("", name));
    Some(PathBuf::from(parent).join(base.strip_prefix(".wh.")?))
}

/// The lines that `tar -t` would print.
fn names(tar: &[u8]) -> Vec<String> {
    untar::entries(tar).into_iter().map(|entry| String::from_utf8(entry.name).unwrap()).collect()
}

fn finished(layers: &[Tar]) -> Vec<Vec<u8>> {
    layers.iter().map(|layer| layer.clone().finish()).collect()
}

proptest! {
    #![proptest_config(Config { cases: 40, failure_persistence: None, ..Config::default() })]

    #[test]
    fn the_layers_below_with_the_new_one_are_what_all_were(
        layers in random::layers(4),
        kept in any::<prop::sample::Index>(),
    ) {
        prop_assume!(!layers.iter().any(|layer| has_lost_link(layer)));
        let kept = kept.index(layers.len() + 1);
        let tars: Vec<_> = layers.iter().map(|layer| tar_of(layer)).collect();
        let lab = lab();
        let new = squashed(&lab, &tars, kept);
        let fewer = [&tars[..kept], std::slice::from_ref(&new)].concat();
        prop_assert!(flat(&lab.ensure(&fewer)) == flat(&lab.ensure(&tars)), "it shows something else");

        // By the model too, which knows neither stacks nor diffs.
        let entries = untar::entries(&new);
        let below: Vec<_> = layers[..kept].iter().map(Vec::as_slice).collect();
        let found = model::stack(below.iter().copied().chain([entries.as_slice()])).without_holes();
        let expected = model::stack(layers.iter().map(Vec::as_slice)).without_holes();
        let lines = found.differences(&expected);
        prop_assert!(lines.is_empty(), "found → expected:\n{}", lines.join("\n"));

        // Nothing is said that is not needed: no deletion of nothing, no file that is as it was.
        let below = model::stack(below);
        for entry in &entries {
            if let Some(path) = deleted(&entry.name) {
                prop_assert!(below.get(&path).is_some() && kept > 0, "{path:?} is deleted, and was never there");
            } else if let Kind::File(content) = &entry.kind {
                let path = PathBuf::from(std::str::from_utf8(&entry.name).unwrap());
                let as_it_was = below.get(&path).is_some_and(|old| old.linked_as.is_none()
                    && old.kind == crate::common::tree::Kind::file(content)
                    && (old.mode, old.mtime, &old.xattrs) == (entry.mode, entry.mtime, &entry.xattrs)
                    && (u64::from(old.uid), u64::from(old.gid)) == (entry.uid, entry.gid));
                let linked = entries.iter().any(|other| matches!(&other.kind, Kind::Link(to) if *to == entry.name));
                prop_assert!(!as_it_was || linked, "{path:?} is as it was");
            }
        }
        prop_assert_eq!(squashed(&lab, &fewer, kept), new, "squashed again it is another layer");
    }
}

#[test]
fn what_was_changed_back_or_made_and_removed_is_in_no_layer() {
    let base = tar()
        .dir("etc")
        .file("etc/a", "one")
        .file("etc/b", "two")
        .file("etc/c", "three")
        .dir("d")
        .file("d/x", "x");
    let there =
        tar().dir("etc").file("etc/a", "changed").whiteout("etc/b").file("etc/new", "new").opaque("d");
    let back = tar()
        .dir("etc")
        .file("etc/a", "one")
        .file("etc/b", "two")
        .whiteout("etc/new")
        .dir("d")
        .file("d/x", "x");
    let lab = lab();
    let tars = finished(&[base, there, back, tar().whiteout("etc/c")]);
    assert_eq!(names(&squashed(&lab, &tars[..3], 1)), [""; 0]);
    assert_eq!(names(&squashed(&lab, &tars, 1)), ["etc/", "etc/.wh.c"]);
    // Of everything nothing is left to delete.
    assert_eq!(names(&squashed(&lab, &tars, 0)), ["d/", "d/x", "etc/", "etc/a", "etc/b"]);
    assert_eq!(names(&squashed(&lab, &tars, 4)), [""; 0]);
}

#[test]
fn links_that_were_made_or_taken_apart_are_told_with_all_their_names() {
    let base = tar().file("a", "x").link("b", "a").link("c", "a").file("d", "d");
    let apart = tar().file("b", "x");
    let joined = tar().link("e", "d");
    let lab = lab();
    let tars = finished(&[base, apart, joined]);
    let new = squashed(&lab, &tars, 1);
    let entries = untar::entries(&new);
    let found = model::stack([&untar::entries(&tars[0])[..], &entries[..]]);
    let layers: Vec<_> = tars.iter().map(|tar| untar::entries(tar)).collect();
    found.assert_same(&model::stack(layers.iter().map(Vec::as_slice)), "squashed");
    assert_eq!(names(&new).first().map(String::as_str), Some("b"));
}
