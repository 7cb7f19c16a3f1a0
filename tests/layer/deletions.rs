//! A deletion is not an entry: it takes away and makes nothing.

use plywood::layer::LayerKey;
use plywood::path::LayerPath;

use crate::common::privilege;
use crate::common::tar::{Tar, tar};
use crate::common::tree::Tree;
use crate::lab::{Lab, diff_id, lab, meant, seen};
use crate::unpack::{base, in_every_order};

fn root_of(layers: &[&Tar]) -> Tree {
    let layers: Vec<_> = layers.iter().map(|layer| (*layer).clone()).collect();
    lab().root(&layers)
}

#[test]
fn whiteouts_without_entries_make_no_directory_in_any_order() {
    for base in [tar(), tar().file("kept", ""), base()] {
        for top in [
            tar().whiteout("data").whiteout("data/sub").whiteout("data/sub/x"),
            tar().whiteout("data/sub").whiteout("data/sub/x").whiteout("data/other/x"),
            tar().whiteout("d").whiteout("d/e").whiteout("d/e/f"),
            tar().whiteout("d/e").whiteout("d/e/f").whiteout("d/new/x"),
            tar().whiteout("file/x").whiteout("file/x/y"),
            tar().whiteout("lib/old").whiteout("lib/none/x"),
        ] {
            in_every_order(&base, &top);
        }
    }
    let root = root_of(&[&tar().file("a", ""), &tar().whiteout("data/sub/x").whiteout("data")]);
    assert_eq!(root.names(), ["a"]);
}

#[test]
fn whiteouts_delete_in_a_directory_that_no_entry_names_and_leave_it_as_it_was() {
    in_every_order(&base(), &tar().whiteout("d/a"));
    in_every_order(&base(), &tar().whiteout("d/e/f").whiteout("d/b"));
    in_every_order(&base(), &tar().whiteout("usr/lib/old").file("new", ""));
    privilege::under(privilege::ALL, |_| {
        let base = tar().dir("etc").mode(0o751).mtime(7, 5).file("etc/passwd", "").file("etc/group", "");
        let layers = [base, tar().whiteout("etc/passwd")];
        let found = lab().root(&layers);
        assert_eq!(found.names(), ["etc", "etc/group"]);
        found.assert_same(&meant(&layers), "a deletion and nothing else");
    });
}

#[test]
fn an_opaque_marker_makes_its_directory_unless_the_layer_deletes_it() {
    for base in [tar(), base()] {
        for top in [
            tar().opaque("new"),
            tar().opaque("d").whiteout("d/a"),
            tar().opaque("d").whiteout("d"),
            tar().opaque("d/e").whiteout("d").whiteout("d/e/x"),
            tar().opaque("new/dir").whiteout("new").opaque("new"),
            tar().opaque("d/e").whiteout("d").file("d/x", ""),
        ] {
            in_every_order(&base, &top);
        }
    }
    assert_eq!(root_of(&[&tar(), &tar().whiteout("data").opaque("data")]).names(), [""; 0]);
}

fn key(lab: &Lab, layers: &[&Tar]) -> LayerKey {
    let tars: Vec<_> = layers.iter().map(|layer| (*layer).clone().finish()).collect();
    let made = lab.ensure(&tars);
    let layers: Vec<_> = layers.iter().map(|layer| (*layer).clone()).collect();
    seen(&made).assert_same(&meant(&layers), "the layers");
    made.last().unwrap().key
}

#[test]
fn a_layer_of_deletions_is_shared_by_the_bases_that_have_their_directories() {
    privilege::under(privilege::ALL, |_| {
        let top = tar().whiteout("d/a").whiteout("d/sub/x").file("new", "");
        let with =
            tar().dir("d").mode(0o755).file("d/a", "").dir("d/sub").file("d/sub/x", "").file("d/b", "");
        let like = tar().dir("d").mode(0o755).file("d/c", "").dir("d/sub").file("d/sub/x", "1");
        let half = tar().dir("d").mode(0o755).file("d/a", "1").file("d/sub", "no directory");
        let without = tar().file("other", "");
        let free = LayerKey::Free(diff_id(&top.clone().finish()));
        // Whichever base comes first.
        for bases in [[&with, &like, &half, &without], [&without, &half, &like, &with]] {
            let lab = lab();
            for _ in 0..2 {
                for base in bases {
                    let has_all = std::ptr::eq(base, &raw const with) || std::ptr::eq(base, &raw const like);
                    assert_eq!(key(&lab, &[base, &top]) == free, has_all);
                }
            }
            let layer = lab.store.get(free).unwrap().unwrap();
            let parents: Vec<_> = layer
                .record
                .assumed
                .iter()
                .filter(|one| one.holds_only_deletions)
                .map(|one| &one.path)
                .collect();
            assert_eq!(parents, [&LayerPath::parse("d").unwrap(), &LayerPath::parse("d/sub").unwrap()]);
            lab.assert_clean();
        }
    });
}

#[test]
fn a_link_to_a_file_that_the_layer_deletes_keeps_the_new_names_only() {
    privilege::under(privilege::ALL, |_| {
        for top in [
            tar().link("x", "d/a").whiteout("d/a"),
            tar().link("x", "d/a").link("y", "d/a").whiteout("d"),
            tar().link("x", "d/a").link("y", "x").opaque("d"),
            tar().link("x", "d/a").opaque(""),
            tar().link("x", "d/a").whiteout("d").file("d/new", ""),
        ] {
            in_every_order(&base(), &top);
        }
    });
}

#[test]
fn a_link_to_what_never_was_is_refused_beside_deletions() {
    for top in [
        tar().link("x", "d/none").whiteout("d"),
        tar().whiteout("x").link("x", "x"),
        tar().whiteout("none").link("x", "none"),
        tar().whiteout("d").link("x", "d"),
    ] {
        assert!(lab().try_ensure(&[base().finish(), top.finish()]).is_err());
    }
}
