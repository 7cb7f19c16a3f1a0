//! Files with holes, in the four forms tars have for them.

use super::*;
use crate::fs::Extent;

/// Where the data of the files of a tar belongs.
fn runs(tar: &Tar) -> Vec<(u64, Vec<u8>)> {
    let mut reader = Reader::new(&tar.0[..], &Limits::default());
    let mut runs = Vec::new();
    while reader.next_entry().unwrap().is_some() {
        while let Some(data) = reader.next_data().unwrap() {
            runs.push((data.offset, data.bytes.to_vec()));
        }
    }
    runs
}

/// `abc` at 0, `de` at 10, nothing at the end, which is 20.
fn check(tar: Tar, name: &str) {
    let tar = tar.file("after", b"next").end();
    let entries = read(&tar).unwrap();
    assert_eq!(entries[0].0.path, path(name));
    assert_eq!(entries[0].1, b"abc\0\0\0\0\0\0\0de\0\0\0\0\0\0\0\0");
    assert_eq!(entries[1].1, b"next");
    let expected = [(0, b"abc".to_vec()), (10, b"de".to_vec()), (0, b"next".to_vec())];
    assert_eq!(runs(&tar), expected);
}

fn octal(value: u64) -> Vec<u8> {
    format!("{value:011o}\0").into_bytes()
}

/// A GNU header with the first parts of the map, and whether more follows.
fn old_gnu(stored: u64, size: u64, parts: &[(u64, u64)], more: bool) -> Tar {
    assert!(parts.len() <= 4);
    Tar::default().header(b'S', "sparse", stored, |block| {
        block.text(header::MAGIC, b"ustar  \0");
        for (index, &(offset, len)) in parts.iter().enumerate() {
            let at = 386 + 24 * index;
            block.text(at..at + 24, &[octal(offset), octal(len)].concat());
        }
        block.text(482..483, &[u8::from(more)]).text(483..495, &octal(size));
    })
}

fn old_gnu_extension(parts: &[(u64, u64)], more: bool) -> Vec<u8> {
    let mut block: Vec<u8> = parts.iter().flat_map(|&(at, len)| [octal(at), octal(len)].concat()).collect();
    block.resize(504, 0);
    block.push(u8::from(more));
    block.resize(BLOCK, 0);
    block
}

#[test]
fn a_hole_is_a_hole_in_every_form() {
    check(old_gnu(5, 20, &[(0, 3), (10, 2), (20, 0)], false).padded(b"abcde"), "sparse");
    let extended = old_gnu(5, 20, &[(0, 3)], true)
        .raw(&old_gnu_extension(&[(3, 0), (10, 2)], true))
        .raw(&old_gnu_extension(&[(20, 0)], false));
    check(extended.padded(b"abcde"), "sparse");

    let pairs: [(&str, &[u8]); 8] = [
        ("GNU.sparse.size", b"20"),
        ("GNU.sparse.numblocks", b"3"),
        ("GNU.sparse.offset", b"0"),
        ("GNU.sparse.numbytes", b"3"),
        ("GNU.sparse.offset", b"10"),
        ("GNU.sparse.numbytes", b"2"),
        ("GNU.sparse.offset", b"20"),
        ("GNU.sparse.numbytes", b"0"),
    ];
    check(Tar::default().pax(&pairs).file("sparse", b"abcde"), "sparse");

    let map: [(&str, &[u8]); 4] = [
        ("GNU.sparse.size", b"20"),
        ("GNU.sparse.numblocks", b"2"),
        ("GNU.sparse.name", b"real"),
        ("GNU.sparse.map", b"0,3,10,2"),
    ];
    check(Tar::default().pax(&map).file("GNUSparseFile.1/real", b"abcde"), "real");

    let mut body = b"3\n0\n3\n10\n2\n20\n0\n".to_vec();
    body.resize(BLOCK, 0);
    body.extend(b"abcde");
    check(Tar::default().pax(IN_DATA).file("GNUSparseFile.1/real", &body), "real");
}

const IN_DATA: &[(&str, &[u8])] = &[
    ("GNU.sparse.major", b"1"),
    ("GNU.sparse.minor", b"0"),
    ("GNU.sparse.name", b"real"),
    ("GNU.sparse.realsize", b"20"),
];

#[test]
fn a_file_may_be_one_hole() {
    let tar = old_gnu(0, 20, &[(20, 0)], false).end();
    assert_eq!(read(&tar).unwrap()[0].1, [0; 20]);
    assert_eq!(runs(&tar), []);
    let tar = Tar::default().pax(&[("GNU.sparse.size", b"20")]).file("hole", b"").end();
    assert_eq!(read(&tar).unwrap()[0].1, [0; 20]);
}

#[test]
fn a_map_that_lies_is_refused() {
    let sparse = |tar: Tar| {
        let error = refusal(tar.end());
        assert!(matches!(error, ChangesetError::Sparse { index: 0, .. }), "{error}");
    };
    sparse(old_gnu(5, 20, &[(10, 2), (0, 3)], false).padded(b"abcde"));
    sparse(old_gnu(5, 20, &[(0, 3), (19, 2)], false).padded(b"abcde"));
    sparse(old_gnu(5, 20, &[(0, 3), (10, 3)], false).padded(b"abcde"));
    sparse(old_gnu(5, 20, &[(0, 3)], false).padded(b"abcde"));
    sparse(old_gnu(5, 20, &[(0, 0o77_777_777_777), (10, 2)], false).padded(b"abcde"));
    let with = |body: &[u8]| {
        let mut body = body.to_vec();
        body.resize(BLOCK, 0);
        Tar::default().pax(IN_DATA).file("sparse", &[body, b"abcde".to_vec()].concat())
    };
    sparse(with(b"1\n0\n6\n"));
    sparse(with(b"2\n0\n3\n10\n"));
    sparse(with(b"99999999999999999999\n"));
    sparse(with(b"18446744073709551615\n"));
    sparse(with(b"\n"));
    sparse(with(b"x\n"));
    sparse(with(b"-1\n"));
    sparse(with(b""));
    sparse(Tar::default().pax(&[("GNU.sparse.major", b"2"), ("GNU.sparse.minor", b"0")]).file("a", b""));
    sparse(Tar::default().pax(&IN_DATA[..3]).file("a", b"0\n"));
    let odd: [(&str, &[u8]); 2] = [("GNU.sparse.size", b"9"), ("GNU.sparse.offset", b"1")];
    sparse(Tar::default().pax(&odd).file("a", b""));
}

#[test]
fn an_endless_map_is_stopped() {
    let in_header =
        (0..3000).fold(old_gnu(0, 20, &[], true), |tar, _| tar.raw(&old_gnu_extension(&[], true)));
    assert!(matches!(refusal(in_header), ChangesetError::Limit { limit: "header_bytes", .. }));
    let mut body = b"9999999\n".to_vec();
    body.extend(b"0\n".repeat(1 << 20));
    let in_data = Tar::default().pax(IN_DATA).file("sparse", &body);
    assert!(matches!(refusal(in_data), ChangesetError::Limit { limit: "header_bytes", .. }));
}

#[test]
fn the_size_with_holes_is_limited_too() {
    let tar = old_gnu(0, 0o77_777_777_777, &[], false).end();
    let limits = Limits { file_bytes: 1 << 30, ..Limits::default() };
    assert!(matches!(read_with(&tar.0, &limits), Err(ChangesetError::Limit { limit: "file_bytes", .. })));
}

#[test]
fn data_that_is_missing_or_cut_is_noticed() {
    let map = [(0, 3), (10, 2), (20, 0)];
    let cut = old_gnu(5, 20, &map, false).raw(b"abcd");
    assert!(matches!(refusal(cut), ChangesetError::Truncated { missing: 1, .. }));
    let cut = old_gnu(5, 20, &map, true).raw(&[0; 100]);
    assert!(matches!(refusal(cut), ChangesetError::Truncated { missing: 412, .. }));
}

#[test]
fn a_body_may_be_read_in_both_ways_at_once() {
    let tar = old_gnu(5, 20, &[(0, 3), (10, 2), (20, 0)], false).padded(b"abcde").end();
    let mut reader = Reader::new(&tar.0[..], &Limits::default());
    reader.next_entry().unwrap();
    let mut start = [0; 2];
    reader.body().read_exact(&mut start).unwrap();
    assert_eq!(start, *b"ab");
    assert_eq!(reader.next_data().unwrap(), Some(Data { offset: 2, bytes: b"c" }));
    let mut middle = [1; 8];
    reader.body().read_exact(&mut middle).unwrap();
    assert_eq!(middle, *b"\0\0\0\0\0\0\0d");
    assert_eq!(reader.next_data().unwrap(), Some(Data { offset: 11, bytes: b"e" }));
    assert_eq!(reader.next_data().unwrap(), None);
    let mut end = Vec::new();
    reader.body().read_to_end(&mut end).unwrap();
    assert_eq!(end, [0; 8]);
    assert!(reader.next_entry().unwrap().is_none());
}

fn extents(pairs: &[(u64, u64)]) -> Vec<Extent> {
    pairs.iter().map(|&(offset, length)| Extent { offset, length }).collect()
}

fn sparse_file(name: LayerPath, size: u64) -> Entry {
    Entry::new(name, EntryKind::File { size }, Metadata::default())
}

#[test]
fn a_file_written_without_its_holes_reads_as_it_was() {
    let long = LayerPath::ROOT.join([b'd'; 200]).join([b'n'; 255]);
    let mut writer = Writer::new(Vec::new());
    let mut content = vec![0; 1_000_000];
    content[5000..5100].fill(1);
    content[999_000..].fill(2);
    let data = extents(&[(5000, 100), (999_000, 1000)]);
    let names = [path("a/b"), path("c"), long, LayerPath::ROOT.join(b"not \xff text")];
    for name in &names {
        writer.sparse_entry(&sparse_file(name.clone(), 1_000_000), &data).unwrap();
        writer.hole_until(5000).unwrap();
        writer.data(&content[5000..5050]).unwrap();
        writer.data(&content[5050..5100]).unwrap();
        writer.hole_until(9000).unwrap();
        writer.hole_until(999_000).unwrap();
        writer.data(&content[999_000..]).unwrap();
    }
    writer.sparse_entry(&sparse_file(path("empty"), 1 << 30), &[]).unwrap();
    writer.hole_until(1 << 30).unwrap();
    writer.file(&sparse_file(path("plain"), 3), &b"abc"[..]).unwrap();
    let tar = writer.finish().unwrap();
    assert!(tar.len() < 20_000);
    let mut reader = Reader::new(&tar[..], &Limits::default());
    for name in names {
        let entry = reader.next_entry().unwrap().unwrap();
        assert_eq!((&entry.path, entry.kind.size()), (&name, 1_000_000));
        let mut found = Vec::new();
        reader.body().read_to_end(&mut found).unwrap();
        assert!(found == content);
    }
    assert_eq!(reader.next_entry().unwrap().unwrap().kind.size(), 1 << 30);
    assert_eq!(reader.next_data().unwrap(), None);
    assert_eq!(reader.next_entry().unwrap().unwrap().path, path("plain"));
    assert!(reader.next_entry().unwrap().is_none());
}

#[test]
fn data_that_is_not_where_its_map_says_is_refused() {
    let refused = |result: Result<(), ChangesetError>| {
        let error = result.unwrap_err();
        assert!(matches!(error, ChangesetError::Unrepresentable { .. }), "{error}");
    };
    let file = sparse_file(path("file"), 100);
    let mut writer = Writer::new(Vec::new());
    for wrong in [&[(10, 0)][..], &[(90, 11)], &[(20, 5), (10, 5)], &[(10, 5), (14, 5)], &[(u64::MAX, 2)]] {
        refused(writer.sparse_entry(&file, &extents(wrong)));
    }
    let directory = Entry::new(path("dir"), EntryKind::Directory, Metadata::default());
    refused(writer.sparse_entry(&directory, &[]));
    assert_eq!(writer.finish().unwrap(), [0; 1024], "a refused entry leaves nothing");

    let begin = || {
        let mut writer = Writer::new(Vec::new());
        writer.sparse_entry(&file, &extents(&[(10, 5)])).unwrap();
        writer
    };
    refused(begin().data(b"x"));
    refused(begin().hole_until(11));
    let mut writer = begin();
    writer.hole_until(10).unwrap();
    refused(writer.data(b"123456"));
    let mut writer = begin();
    writer.hole_until(10).unwrap();
    writer.data(b"1234").unwrap();
    refused(writer.hole_until(100));
}
