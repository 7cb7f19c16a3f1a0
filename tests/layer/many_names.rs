//! More names of one file than a file system counts (65,000 on ext4).

use std::collections::BTreeMap;

use plywood::layer::{Ensured, Layer};

use crate::common::tar::{Tar, tar};
use crate::lab::{Lab, chain, lab};

/// A file with so many further names.
fn layer(names: usize) -> Tar {
    (0..names).fold(tar().file("o/first", "x").mode(0o640), |tar, number| {
        tar.link(format!("o/{number}"), "o/first")
    })
}

fn ensure(lab: &Lab, tars: &[Vec<u8>]) -> Ensured {
    lab.try_ensure(tars).unwrap_or_else(|error| panic!("{}", chain(&error)))
}

/// How many names each inode in `o` has there.
fn names(layer: &Layer) -> Vec<usize> {
    let dir = layer.tree.dir.open_dir("o").unwrap();
    let mut inodes: BTreeMap<u64, usize> = BTreeMap::new();
    for entry in dir.names().unwrap() {
        let stat = dir.stat(std::str::from_utf8(&entry.name).unwrap()).unwrap();
        assert_eq!((stat.size, stat.mode), (1, 0o640));
        *inodes.entry(stat.inode).or_default() += 1;
    }
    let mut names: Vec<_> = inodes.into_values().collect();
    names.sort_unstable();
    names
}

#[test]
fn the_names_that_one_file_cannot_have_share_a_second_one() {
    let lab = lab();
    let count = 65_100;
    let made = ensure(&lab, &[layer(count).finish()]);
    let names = names(&made.layers[0]);
    assert_eq!(names.iter().sum::<usize>(), count + 1);
    // A file system that counts further has one.
    assert!(names.len() <= 2, "{names:?}");
    let losses = &made.made[0].losses;
    assert_eq!(losses.count, names.len() as u64 - 1);
    assert!(losses.described.iter().all(|loss| loss.to_string().contains("share a copy of the file")));
}

#[test]
fn a_layer_on_another_base_has_the_links_of_the_layer() {
    let lab = lab();
    let top = layer(33_000).finish();
    for mode in [0o701, 0o702, 0o703] {
        let made = ensure(&lab, &[tar().dir("o").mode(mode).finish(), top.clone()]);
        assert_eq!(names(&made.layers[1]), [33_001], "{mode:o}");
        assert!(made.made.iter().all(|made| made.losses.count == 0));
    }
    lab.assert_clean();
}

#[test]
fn a_merged_layer_has_one_copy_for_the_names_that_do_not_fit() {
    let lab = lab();
    let layers = ensure(&lab, &[layer(40_000).finish(), tar().file("other", "").finish()]).keys;
    let work = lab.staging.workspace().unwrap();
    let merged = lab.store.ensure_merged(&layers, &work).unwrap();
    assert!(names(&merged).len() <= 2, "{:?}", names(&merged));
    work.close().unwrap();
}
