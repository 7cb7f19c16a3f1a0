//! Layer tars, whatever they hold.
//!
//! The laws: the limits hold; data lies in order and inside its file, and there is not more of it than was sent; how
//! the stream is cut changes nothing; what was read and can be written reads back equal, from bytes that are always
//! the same.

#![no_main]

use std::io::Read;

use libfuzzer_sys::fuzz_target;
use plywood::changeset::{ChangesetError, Entry, EntryKind, Reader, Writer};
use plywood::fs::Metadata;
use plywood::limits::Limits;
use plywood_fuzz::{Pieces, repair_checksums};

/// An entry, and its data with where that belongs.
type Item = (Entry, Vec<(u64, Vec<u8>)>);

fn limits() -> Limits {
    let mut limits = Limits::default();
    limits.entries = 200;
    limits.file_bytes = 1 << 20;
    limits.layer_bytes = 4 << 20;
    limits.header_bytes = 16 << 10;
    limits
}

fn read(tar: impl Read, limits: &Limits) -> Result<Vec<Item>, ChangesetError> {
    let mut reader = Reader::new(tar, limits);
    let mut items: Vec<Item> = Vec::new();
    while let Some(entry) = reader.next_entry().inspect_err(|error| drop(error.to_string()))? {
        let size = entry.kind.size();
        assert!(entry.index < limits.entries && size <= limits.file_bytes);
        let xattrs = &entry.metadata.xattrs;
        assert!(
            xattrs.iter().map(|(name, value)| name.len() + value.len()).sum::<usize>() <= limits.xattr_bytes
        );
        let mut runs: Vec<(u64, Vec<u8>)> = Vec::new();
        let mut end = 0;
        while let Some(data) = reader.next_data()? {
            assert!(data.offset >= end && !data.bytes.is_empty());
            match runs.last_mut() {
                // Where one read ended and the next began means nothing.
                Some((_, bytes)) if data.offset == end => bytes.extend_from_slice(data.bytes),
                _ => runs.push((data.offset, data.bytes.to_vec())),
            }
            end = data.offset + data.bytes.len() as u64;
        }
        assert!(end <= size);
        items.push((entry, runs));
    }
    assert!(reader.next_entry().is_ok_and(|entry| entry.is_none()));
    Ok(items)
}

fn write(items: &[Item]) -> Vec<u8> {
    let mut writer = Writer::new(Vec::new()).allow_reserved_names();
    for (entry, runs) in items {
        writer.entry(entry).expect("what was read can be written");
        for (offset, bytes) in runs {
            writer.hole_until(*offset).expect("runs are in order");
            writer.data(bytes).expect("runs are inside the file");
        }
        writer.hole_until(entry.kind.size()).expect("runs are inside the file");
    }
    writer.finish().expect("memory can be written")
}

/// The same as far as a tar without holes can tell.
fn flatten(items: &mut [Item]) {
    for (entry, runs) in items {
        entry.index = 0;
        let mut content = vec![0; entry.kind.size() as usize];
        for (offset, bytes) in runs.drain(..) {
            content[offset as usize..][..bytes.len()].copy_from_slice(&bytes);
        }
        if !content.is_empty() {
            runs.push((0, content));
        }
    }
}

fuzz_target!(|input: &[u8]| {
    let mut tar = input.to_vec();
    repair_checksums(&mut tar);
    let result = read(&tar[..], &limits());
    let in_pieces = read(Pieces(&tar, 100), &limits());
    let mut items = match (result, in_pieces) {
        (Ok(items), Ok(in_pieces)) => {
            assert_eq!(items, in_pieces);
            items
        }
        (Err(one), Err(other)) => {
            assert_eq!(one.to_string(), other.to_string());
            return;
        }
        (one, other) => panic!("{one:?} in one piece, {other:?} in many"),
    };
    let stored: usize = items.iter().flat_map(|(_, runs)| runs).map(|(_, bytes)| bytes.len()).sum();
    assert!(stored <= tar.len());

    items.retain(|(entry, _)| match entry.kind {
        EntryKind::AufsLink { .. } => false,
        // The name of something below ".wh.x" cannot be deleted again.
        EntryKind::Whiteout | EntryKind::Opaque => {
            entry.path.components().all(|name| !name.starts_with(b".wh."))
        }
        _ => true,
    });
    for (entry, runs) in &mut items {
        if matches!(entry.kind, EntryKind::Whiteout | EntryKind::Opaque) {
            entry.metadata = Metadata::default();
            assert!(runs.is_empty());
        }
    }
    flatten(&mut items);
    let written = write(&items);
    // Holes became zeros, and names and attributes may take more room in records.
    let mut limits = Limits::default();
    limits.entries = 200;
    let mut again = read(&written[..], &limits).expect("what was written can be read");
    flatten(&mut again);
    assert_eq!(items, again);
    assert!(written == write(&again), "equal entries gave different bytes");
});
