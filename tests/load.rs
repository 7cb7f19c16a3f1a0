//! Loading into a store: what comes out does not depend on who does the work, and a blob that is not what it should be
//! leaves nothing.

#![allow(clippy::unwrap_used)]

mod common;

use std::collections::BTreeMap;
use std::num::NonZeroUsize;
use std::path::Path;

use common::image::{Compression, ImageSpec, Layout, image};
use common::random;
use common::tar::{tar, tar_of};
use common::tree::{Kind, Tree, snapshot};
use plywood::Parallelism;
use plywood::archive::LoadError;
use plywood::fs::Durability;
use plywood::store::{LoadOptions, Store, StoreError, StoreOptions};
use proptest::prelude::*;

/// A layer that is worth a second thread.
fn large(seed: u8) -> Vec<u8> {
    let content: Vec<u8> =
        (0..900_000_u32).map(|at| (at.wrapping_mul(2_654_435_761) >> 25) as u8 ^ seed).collect();
    let layer = tar().dir("large").file("large/one", &content).file("large/two", &content[..700_000]);
    (0..40).fold(layer, |layer, at| layer.file(format!("large/{seed}-{at}"), format!("{at}"))).finish()
}

fn store(at: &Path, threads: usize, durability: Durability) -> Store {
    let parallelism = Parallelism::new(NonZeroUsize::new(threads).unwrap());
    StoreOptions::default().parallelism(parallelism).durability(durability).create(at).unwrap()
}

/// The trees of all layers, and all blobs.
fn content(store: &Path) -> BTreeMap<String, Tree> {
    let mut found = BTreeMap::new();
    for layer in std::fs::read_dir(store.join("layers")).unwrap() {
        let layer = layer.unwrap();
        // A whiteout has no time of its own.
        let tree = snapshot(layer.path().join("tree")).map(|_, node| {
            if node.kind == Kind::Char(0, 0) {
                node.mtime = (0, 0);
            }
        });
        found.insert(layer.file_name().into_string().unwrap(), tree);
    }
    let untimed = |tree: Tree| tree.map(|_, node| node.mtime = (0, 0));
    for blobs in std::fs::read_dir(store.join("oci/blobs")).unwrap() {
        let blobs = blobs.unwrap();
        found.insert(blobs.file_name().into_string().unwrap(), untimed(snapshot(blobs.path())));
    }
    found
}

fn compressed(spec: ImageSpec, tar: Vec<u8>, at: usize) -> ImageSpec {
    spec.compressed(tar, [Compression::Gzip, Compression::Zstd, Compression::None][at % 3])
}

#[test]
fn any_number_of_threads_loads_the_same() {
    let config = ProptestConfig {
        cases: 12,
        max_shrink_iters: 50,
        failure_persistence: None,
        ..ProptestConfig::default()
    };
    proptest!(config, |(layers in random::layers(4), seed: u8)| {
        let mut spec = compressed(image().name("random:1"), large(seed), usize::from(seed));
        for (at, layer) in layers.iter().enumerate() {
            spec = compressed(spec, tar_of(layer), at);
        }
        let layout = Layout::of(&compressed(spec, large(!seed), 1));
        let scratch = common::scratch();
        let source = scratch.path().join("layout");
        std::fs::create_dir(&source).unwrap();
        layout.write(&source);
        let mut expected = None;
        for threads in [1, 2, 5] {
            for directory in [true, false] {
                let at = scratch.path().join(format!("{threads}-{directory}"));
                let durability = if directory { Durability::Full } else { Durability::Relaxed };
                let store = store(&at, threads, durability);
                let loaded = match directory {
                    true => store.load_directory(&source, &LoadOptions::default()),
                    false => store.load(&layout.oci_archive()[..], &LoadOptions::default()),
                };
                prop_assert_eq!(loaded.unwrap().len(), 1);
                let found = content(&at);
                prop_assert!(found.len() > 3);
                let expected = expected.get_or_insert_with(|| found.clone());
                prop_assert!(expected.keys().eq(found.keys()));
                for (name, tree) in &found {
                    tree.assert_same(&expected[name], &format!("{name} with {threads} threads beside one"));
                }
            }
        }
    });
}

#[test]
fn a_blob_that_is_not_its_digest_is_the_reason_even_where_it_unpacks() {
    let spec =
        image().name("app:1").compressed(large(1), Compression::Gzip).compressed(large(2), Compression::Zstd);
    for damage in 0..3 {
        let mut layout = Layout::of(&spec);
        let sizes: Vec<usize> = layout.blobs.values().map(Vec::len).collect();
        let largest = layout.blobs.values_mut().max_by_key(|blob| blob.len()).unwrap();
        match damage {
            // The gzip header says on which system it was made: other bytes, the same tar.
            0 if largest[..2] == [0x1f, 0x8b] => largest[9] ^= 1,
            0 | 1 => {
                let middle = largest.len() / 2;
                largest[middle] ^= 1;
            }
            _ => *largest.last_mut().unwrap() ^= 1,
        }
        assert!(sizes.iter().eq(layout.blobs.values().map(Vec::len).collect::<Vec<_>>().iter()));
        let scratch = common::scratch();
        let source = scratch.path().join("layout");
        std::fs::create_dir(&source).unwrap();
        layout.write(&source);
        for threads in [1, 2, 5] {
            let at = scratch.path().join(threads.to_string());
            let store = store(&at, threads, Durability::Full);
            let refused = store.load_directory(&source, &LoadOptions::default()).unwrap_err();
            assert!(
                matches!(refused, StoreError::Load(LoadError::DigestMismatch { .. })),
                "damage {damage}, {threads} threads: {refused:?}"
            );
            assert!(store.images().unwrap().is_empty());
            assert!(snapshot(at.join("oci/blobs/sha256")).0.len() == 1, "a blob is visible");
            assert!(snapshot(at.join("staging")).0.len() == 1, "something is left in staging");
        }
    }
}
