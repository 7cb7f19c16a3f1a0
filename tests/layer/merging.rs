//! Layers merged into one: nobody who reads the stack can tell.

use plywood::layer::{Layer, LayerKey};
use proptest::prelude::*;

use crate::common::random;
use crate::common::tar::{tar, tar_of};
use crate::lab::{Lab, lab, meant, seen};

/// Merges some neighbours among `layers` and puts the result in their place.
fn with_merged(lab: &Lab, layers: &[Layer], range: std::ops::Range<usize>) -> Vec<Layer> {
    let keys: Vec<LayerKey> = layers.iter().map(|layer| layer.key).collect();
    let work = lab.staging.workspace().unwrap();
    let merged = lab.store.ensure_merged(&keys[range.clone()], &work).unwrap().key;
    work.close().unwrap();
    let keys = keys[..range.start].iter().chain([&merged]).chain(&keys[range.end..]);
    keys.map(|&key| lab.store.get(key).unwrap().expect("it is there")).collect()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn merging_any_neighbours_of_a_stack_changes_nothing_that_it_shows(
        layers in random::layers(6),
        (one, other) in (any::<prop::sample::Index>(), any::<prop::sample::Index>()),
    ) {
        let lab = lab();
        let tars: Vec<_> = layers.iter().map(|entries| tar_of(entries)).collect();
        let made = lab.ensure(&tars);
        let (one, other) = (one.index(made.len()), other.index(made.len()));
        let range = one.min(other)..one.max(other) + 1;
        let before = seen(&made);
        seen(&with_merged(&lab, &made, range.clone())).assert_same(&before, &format!("{range:?} merged"));
        lab.assert_clean();
    }
}

#[test]
fn a_merged_layer_hides_and_deletes_what_its_layers_did() {
    let base = tar()
        .file("opaque/below", "1")
        .file("replaced/below", "2")
        .file("remade/below", "3")
        .file("deleted", "4")
        .file("kept", "5");
    let first = tar().opaque("opaque").file("opaque/first", "6").whiteout("remade").file("replaced", "7");
    let second = tar()
        .dir("opaque")
        .mode(0o700)
        .whiteout("opaque/first")
        .file("opaque/second", "8")
        .dir("remade")
        .file("remade/new", "9")
        .whiteout("replaced")
        .dir("replaced")
        .whiteout("deleted");
    let layers = [base, first, second];
    let lab = lab();
    let tars: Vec<_> = layers.iter().map(|layer| layer.clone().finish()).collect();
    let made = lab.ensure(&tars);
    for range in [0..2, 1..3, 0..3, 2..3] {
        let merged = with_merged(&lab, &made, range.clone());
        seen(&merged).assert_same(&meant(&layers), &format!("{range:?}"));
    }
}

#[test]
fn a_merged_layer_takes_no_room_for_files_and_is_made_once() {
    let lab = lab();
    let tars = [tar().file("large", vec![7; 1 << 20]).finish(), tar().file("other", "x").finish()];
    let made = lab.ensure(&tars);
    let merged = with_merged(&lab, &made, 0..2).remove(0);
    let (one, same) = (made[0].tree.dir.stat("large").unwrap(), merged.tree.dir.stat("large").unwrap());
    assert!(one.is_same_inode(&same));
    assert_eq!(merged.record.merged, [made[0].key, made[1].key]);
    let again = with_merged(&lab, &made, 0..2).remove(0);
    let inode = |layer: &Layer| layer.tree.dir.stat(".").unwrap().inode;
    assert_eq!(inode(&again), inode(&merged));
    assert!(!merged.record.settled);
    let work = lab.staging.workspace().unwrap();
    assert_eq!(lab.store.settle(&work).unwrap(), 3);
    assert!(lab.store.get(merged.key).unwrap().unwrap().record.settled);
}
