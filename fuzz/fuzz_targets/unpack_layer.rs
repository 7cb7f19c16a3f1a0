//! Layers as directories.
//!
//! The laws: nothing outside the directory changes, whatever the tar says; the same tar gives the same tree, from
//! pieces, compressed and on two threads as well; a layer that is refused leaves a store of layers as it was, and one
//! that was made stays as it is.

#![no_main]

use std::io::{Cursor, Read, Write};
use std::num::NonZeroUsize;

use libfuzzer_sys::fuzz_target;
use plywood::changeset::{Entry, EntryKind, Writer};
use plywood::codec::{Encoder, Encoding};
use plywood::digest::{DiffId, Digest};
use plywood::fs::{DeviceNumber, Dir, Metadata};
use plywood::layer::{
    Abilities, EnsureOptions, LayerSource, LayerStore, UnpackError, UnpackOptions, Unpacked, unpack,
    unpack_layer,
};
use plywood::limits::Limits;
use plywood::parallelism::Parallelism;
use plywood::path::LayerPath;
use plywood_fuzz::{Pieces, Sandbox, Tree, repair_checksums, tree};

fn limits() -> Limits {
    let mut limits = Limits::default();
    limits.entries = 100;
    limits.file_bytes = 1 << 20;
    limits.layer_bytes = 2 << 20;
    limits.header_bytes = 16 << 10;
    limits
}

/// What unpacking ended with, in words that do not depend on where it happened.
type Outcome = Result<(String, Tree), String>;

fn outcome(into: &Dir, result: Result<Unpacked, UnpackError>) -> Outcome {
    match result {
        Ok(unpacked) => {
            let open = (unpacked.entries, unpacked.declares_root, &unpacked.implied, &unpacked.below_links);
            Ok((format!("{open:?} {}", unpacked.losses.count), tree(into)))
        }
        Err(error) => {
            let place = into.path_of("").display().to_string();
            Err(format!("{error}").replace(place.trim_end_matches('/'), "the layer"))
        }
    }
}

fn compress(tar: &[u8]) -> Vec<u8> {
    let encoding = if tar.len() % 2 == 0 { Encoding::Gzip { level: 1 } } else { Encoding::Zstd { level: 1 } };
    let mut encoder = Encoder::new(Vec::new(), encoding).expect("the level exists");
    encoder.write_all(tar).expect("memory can be written");
    encoder.finish().expect("memory can be written")
}

/// The names that inputs use, with something behind each.
fn base() -> Vec<u8> {
    let mut writer = Writer::new(Vec::new());
    let mut put = |path: &str, kind| {
        let path = LayerPath::parse(path).expect("the names are good");
        let metadata = Metadata { mode: 0o700, uid: 3, ..Metadata::default() };
        writer.entry(&Entry::new(path, kind, metadata)).expect("memory can be written");
    };
    put("a", EntryKind::Directory);
    put("a/b", EntryKind::File { size: 0 });
    put("b", EntryKind::File { size: 0 });
    put("c", EntryKind::Symlink(b"a".to_vec()));
    put("d", EntryKind::Symlink(b"../../victim".to_vec()));
    put("e", EntryKind::Symlink(b"/etc".to_vec()));
    put("f", EntryKind::Fifo);
    put("n", EntryKind::CharDevice(DeviceNumber { major: 1, minor: 3 }));
    writer.finish().expect("memory can be written")
}

fn source(tar: &[u8]) -> LayerSource<'_> {
    let digest = Digest::of(tar);
    let open = move || Ok(Box::new(Cursor::new(tar.to_vec())) as Box<dyn Read + Send>);
    LayerSource::new(DiffId::of_tar(digest), digest, tar.len() as u64, Box::new(open))
}

fn keep_the_store(sandbox: &Sandbox, tar: &[u8]) {
    let base = base();
    let (layers, staging) = (sandbox.dir("layers"), sandbox.staging());
    let workspace = staging.workspace().expect("there is room for a directory");
    let store = LayerStore::new(sandbox.dir("layers"), sandbox.dir("locks"));
    let mut options = EnsureOptions::default();
    options.limits = limits();
    options.parallelism = Parallelism::SERIAL;
    store.ensure(&[source(&base)], &workspace, &options).expect("the base is in order");
    let before = tree(&layers);
    let sources = [source(&base), source(tar)];
    match store.ensure(&sources, &workspace, &options) {
        Err(_) => assert!(tree(&layers) == before, "a refused layer left something"),
        Ok(ensured) => {
            let made = tree(&layers);
            let again = store.ensure(&sources, &workspace, &options).expect("what is there can be had");
            assert_eq!(again.keys, ensured.keys);
            assert!(again.made.is_empty() && tree(&layers) == made, "a layer was made twice");
        }
    }
    workspace.close().expect("what is ours can be removed");
}

fuzz_target!(|input: &[u8]| {
    let mut tar = input.to_vec();
    repair_checksums(&mut tar);
    let sandbox = Sandbox::new();
    let probe = sandbox.dir("probe");
    let abilities = Abilities::probe(&probe).expect("the file system takes files");
    let mut options = UnpackOptions::default();
    options.limits = limits();
    options.parallelism = Parallelism::SERIAL;

    let one = sandbox.dir("one");
    let first = outcome(&one, unpack(&tar[..], &one, None, abilities, &options));
    let two = sandbox.dir("two");
    let second = outcome(&two, unpack(Pieces(&tar, 300), &two, None, abilities, &options));
    assert!(first == second, "in pieces: {first:?} {second:?}");

    options.parallelism = Parallelism::new(NonZeroUsize::new(2).expect("two is not zero"));
    let diff_id = DiffId::of_tar(Digest::of(&tar));
    let three = sandbox.dir("three");
    let third = unpack_layer(Cursor::new(compress(&tar)), diff_id, &three, None, abilities, &options);
    let third = outcome(&three, third);
    assert!(first == third, "compressed: {first:?} {third:?}");

    keep_the_store(&sandbox, &tar);
    sandbox.check(&["probe", "one", "two", "three", "layers", "locks"]);
});
