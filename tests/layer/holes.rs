//! What reads as zeros need not lie on the disk: holes of tars, long runs of zeros, and what packing makes of both.

use std::os::unix::fs::MetadataExt;
use std::path::Path;

use plywood::digest::DiffId;
use plywood::fs::Dir;
use plywood::layer::{Abilities, UnpackError, UnpackOptions, Unpacked, unpack_layer};
use plywood::parallelism::Parallelism;

use crate::common;
use crate::common::tar::{SparseDialect, tar};
use crate::lab::diff_id;

/// Bytes on disk.
fn allocated(path: &Path) -> u64 {
    std::fs::metadata(path).unwrap().blocks() * 512
}

fn unpack_with(dir: &Path, layer: &[u8], parallelism: Parallelism) -> Unpacked {
    let mut options = UnpackOptions::default();
    options.parallelism = parallelism;
    try_unpack(dir, layer, diff_id(layer), &options).unwrap()
}

fn try_unpack(
    dir: &Path,
    blob: &[u8],
    diff_id: DiffId,
    options: &UnpackOptions<'_>,
) -> Result<Unpacked, UnpackError> {
    let into = Dir::ensure_ambient(dir).unwrap();
    let abilities = Abilities::probe(&into).unwrap();
    unpack_layer(blob, diff_id, &into, None, abilities, options)
}

#[test]
fn long_runs_of_zeros_in_a_plain_tar_are_holes_on_disk_for_any_thread_count() {
    let scratch = common::scratch();
    let holey = [&[7; 5000][..], &[0; 3 << 20], &[7; 100_000], &[0; 20_000], &[7], &[0; 1 << 20]].concat();
    let zeros = vec![0; 4 << 20];
    let layer = tar()
        .file("holey", &holey)
        .file("zeros", &zeros)
        .file("short", vec![0; 60 << 10])
        .file("full", vec![1; 1 << 20]);
    // Of a size that other threads take, where there are some.
    let middle = [&[7; 20_000][..], &[0; 100_000]].concat();
    let layer = (0..20).fold(layer, |layer, number| layer.file(format!("middle{number}"), &middle)).finish();
    let mut written = Vec::new();
    for threads in [1, 2, 8].map(|threads| std::num::NonZeroUsize::new(threads).unwrap()) {
        let dir = scratch.path().join(threads.to_string());
        let unpacked = unpack_with(&dir, &layer, Parallelism::new(threads));
        assert!(std::fs::read(dir.join("holey")).unwrap() == holey);
        assert!(std::fs::read(dir.join("zeros")).unwrap() == zeros);
        assert_eq!(std::fs::read(dir.join("full")).unwrap().len(), 1 << 20);
        // One block more, should the file system keep a list of extents in one.
        let at_most = |name: &str, bytes: u64| {
            let found = allocated(&dir.join(name));
            assert!(found <= bytes + 4096, "{threads}: {name} takes {found} bytes");
        };
        at_most("holey", 140 << 10);
        at_most("zeros", 0);
        (0..20).for_each(|number| at_most(&format!("middle{number}"), 20 << 10));
        assert!(allocated(&dir.join("short")) >= 60 << 10);
        written.push(unpacked.data_bytes);
    }
    assert_eq!(written, [written[0]; 3]);
    let most = (1 << 20) + (60 << 10) + (140 << 10) + 20 * (20 << 10);
    assert!((1 << 20..=most).contains(&written[0]), "{written:?}");
}

#[test]
fn holes_of_every_sparse_dialect_are_holes_on_disk_however_short() {
    for dialect in [SparseDialect::Gnu, SparseDialect::Pax00, SparseDialect::Pax01, SparseDialect::Pax10] {
        let scratch = common::scratch();
        let data: Vec<_> = (0..32).map(|index| (index * 16_384, vec![index as u8 + 1; 4096])).collect();
        let data: Vec<_> = data.iter().map(|(offset, bytes)| (*offset, &bytes[..])).collect();
        let layer = tar().sparse("sparse", 1 << 30, &data, dialect).finish();
        let unpacked = unpack_with(scratch.path(), &layer, Parallelism::SERIAL);
        assert_eq!(unpacked.data_bytes, 32 * 4096);
        let path = scratch.path().join("sparse");
        assert_eq!(std::fs::metadata(&path).unwrap().len(), 1 << 30);
        let found = allocated(&path);
        assert!(found <= 33 * 4096, "{dialect:?}: {found} bytes");
    }
}

#[test]
fn a_compressed_layer_of_nearly_only_zeros_is_unpacked_and_takes_no_space() {
    let scratch = common::scratch();
    let layer = tar().file("database", vec![0; 256 << 20]).file("note", "x").finish();
    let mut options = UnpackOptions::default();
    options.limits.expansion_free = 1 << 20;
    let mut zipped = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
    std::io::Write::write_all(&mut zipped, &layer).unwrap();
    let zipped = zipped.finish().unwrap();
    let packed = zstd::encode_all(&layer[..], 1).unwrap();
    for (name, blob) in [("gzip", zipped), ("zstd", packed)] {
        assert!(blob.len() < 1 << 20);
        let dir = scratch.path().join(name);
        let unpacked = try_unpack(&dir, &blob, diff_id(&layer), &options).unwrap();
        assert_eq!(unpacked.data_bytes, 1);
        assert_eq!(std::fs::metadata(dir.join("database")).unwrap().len(), 256 << 20);
        assert!(allocated(&dir.join("database")) <= 4096);

        let mut options = options.clone();
        options.limits.expansion_zeros = 128 << 20;
        let error = try_unpack(&dir.join("again"), &blob, diff_id(&layer), &options).unwrap_err();
        assert_eq!(plywood::Error::from(error).kind(), "limit");
    }
}
