//! Headers of every kind, and what is refused.

use super::*;

#[test]
fn every_type_of_entry_is_told() {
    let tar = Tar::default()
        .entry(b'5', "dir/")
        .file("dir/file", b"content")
        .link(b'2', "dir/link", "../x")
        .link(b'1', "hard", "./dir/file")
        .header(b'3', "null", 0, |block| {
            block.number(header::DEV_MAJOR, 1).number(header::DEV_MINOR, 3);
        })
        .header(b'4', "disk", 0, |block| {
            block.number(header::DEV_MAJOR, 8).number(header::DEV_MINOR, 0);
        })
        .entry(b'3', "zero")
        .entry(b'6', "pipe")
        .end();
    let expected: Vec<_> = [
        ("dir", EntryKind::Directory),
        ("dir/file", EntryKind::File { size: 7 }),
        ("dir/link", EntryKind::Symlink(b"../x".to_vec())),
        ("hard", EntryKind::HardLink(path("dir/file"))),
        ("null", EntryKind::CharDevice(DeviceNumber { major: 1, minor: 3 })),
        ("disk", EntryKind::BlockDevice(DeviceNumber { major: 8, minor: 0 })),
        ("zero", EntryKind::CharDevice(DeviceNumber { major: 0, minor: 0 })),
        ("pipe", EntryKind::Fifo),
    ]
    .into_iter()
    .enumerate()
    .map(|(index, (name, kind))| {
        let metadata = Metadata { mode: 0o644, ..Metadata::default() };
        Entry { path: path(name), kind, metadata, index: index as u64 }
    })
    .collect();
    let found = read(&tar).unwrap();
    assert_eq!(found.iter().map(|(entry, _)| entry.clone()).collect::<Vec<_>>(), expected);
    assert_eq!(found[1].1, b"content");
}

#[test]
fn a_whiteout_is_one_whatever_its_type() {
    let tar = Tar::default()
        .file(".wh.file", b"not empty")
        .entry(b'5', "d/.wh.dir/")
        .link(b'1', ".wh.linked", ".wh..wh.plnk/1")
        .link(b'2', "d/.wh..wh..opq", "x")
        .file("after", b"x")
        .end();
    assert_eq!(
        kinds(tar),
        ["/file Whiteout", "/d/dir Whiteout", "/linked Whiteout", "/d Opaque", "/after File { size: 1 }"]
    );
}

#[test]
fn bookkeeping_of_aufs_is_skipped_but_for_what_serves_hard_links() {
    let tar = Tar::default()
        .file(".wh..wh.aufs", b"x")
        .entry(b'5', ".wh..wh.orph/")
        .file(".wh..wh.orph/gone", b"x")
        .entry(b'5', ".wh..wh.plnk/")
        .file(".wh..wh.plnk/1.2", b"shared")
        .link(b'2', ".wh..wh.plnk/1.3", "x")
        .link(b'1', "a", ".wh..wh.plnk/1.2")
        .end();
    assert_eq!(kinds(tar), ["/.wh..wh.plnk/1.2 AufsLink { size: 6 }", "/a HardLink(\"/.wh..wh.plnk/1.2\")"]);
}

#[test]
fn long_names_come_from_gnu_and_pax_headers() {
    let long = "d/".repeat(100) + "name";
    let target = "t/".repeat(90) + "target";
    let gnu = Tar::default()
        .with_body(b'K', "././@LongLink", format!("{target}\0").as_bytes())
        .with_body(b'L', "././@LongLink", format!("{long}\0").as_bytes())
        .link(b'2', "cut", "cut")
        .end();
    let entry = one(gnu);
    assert_eq!((entry.path, entry.kind), (path(&long), EntryKind::Symlink(target.clone().into_bytes())));
    let pax = Tar::default()
        .pax(&[("path", long.as_bytes()), ("linkpath", target.as_bytes())])
        .link(b'2', "cut", "cut")
        .end();
    let entry = one(pax);
    assert_eq!((entry.path, entry.kind), (path(&long), EntryKind::Symlink(target.into_bytes())));
}

#[test]
fn what_an_extended_header_says_is_forgotten_after_its_entry() {
    let tar =
        Tar::default().pax(&[("path", b"named"), ("uid", b"7")]).file("first", b"").file("second", b"").end();
    let entries = read(&tar).unwrap();
    assert_eq!(entries[0].0.path, path("named"));
    assert_eq!((&entries[1].0.path, entries[1].0.metadata.uid), (&path("second"), 0));
}

#[test]
fn records_outweigh_the_header_even_where_that_is_garbage() {
    let tar = Tar::default()
        .pax(&[
            ("size", b"3"),
            ("uid", b"4294967294"),
            ("gid", b"3000000"),
            ("mtime", b"-1.25"),
            ("SCHILY.xattr.user.a", b"=\n\0"),
            ("comment", b"ignored"),
        ])
        .header(b'0', "file", 0, |block| {
            block.text(header::UID, b"garbage").text(header::GID, b"garbage").text(header::MTIME, b"garbage");
        })
        .padded(b"abc")
        .end();
    let entries = read(&tar).unwrap();
    assert_eq!(entries[0].1, b"abc");
    let xattrs = [(b"user.a".to_vec(), b"=\n\0".to_vec())].into();
    let mtime = Timestamp { seconds: -2, nanos: 750_000_000 };
    let expected = Metadata { mode: 0o644, uid: u32::MAX - 1, gid: 3_000_000, mtime, xattrs };
    assert_eq!(entries[0].0.metadata, expected);
}

#[test]
fn numbers_may_be_binary_and_times_negative() {
    let entry = one(Tar::default()
        .header(b'5', "dir", 0, |block| {
            block
                .text(header::UID, b"\x80\0\0\0\x7f\xff\xff\xff")
                .text(header::MTIME, b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xfe")
                .text(header::MODE, b"0104755\0");
        })
        .end());
    assert_eq!(entry.metadata.uid, 0x7fff_ffff);
    assert_eq!(entry.metadata.mtime, Timestamp::from_seconds(-2));
    assert_eq!(entry.metadata.mode, 0o4755);
}

#[test]
fn ids_that_mean_nobody_are_refused() {
    for uid in ["4294967295", "4294967296", "18446744073709551615"] {
        let tar = Tar::default().pax(&[("uid", uid.as_bytes())]).file("file", b"").end();
        assert!(matches!(refusal(tar), ChangesetError::Field { index: 0, .. }), "{uid}");
    }
    let tar = Tar::default().pax(&[("gid", b"-1")]).file("file", b"").end();
    assert!(matches!(refusal(tar), ChangesetError::Field { .. }));
}

#[test]
fn a_name_that_leaves_the_layer_is_refused() {
    for name in ["../x", "a/../../x", "a/..", ".."] {
        assert!(
            matches!(refusal(Tar::default().file(name, b"").end()), ChangesetError::Path { .. }),
            "{name}"
        );
        let link = Tar::default().link(b'1', "a", name).end();
        assert!(matches!(refusal(link), ChangesetError::LinkTarget { .. }), "{name}");
    }
    let nul = Tar::default().pax(&[("path", b"a\0b")]).file("x", b"").end();
    assert!(matches!(refusal(nul), ChangesetError::Path { .. }));
    // Symbolic links are data: where they lead is for whoever follows them.
    assert_eq!(one(Tar::default().link(b'2', "a", "../../x").end()).path, path("a"));
}

#[test]
fn only_a_directory_may_be_the_root() {
    assert!(one(Tar::default().entry(b'5', "./").end()).path.is_root());
    assert!(one(Tar::default().entry(b'0', "./").end()).kind == EntryKind::Directory);
    for name in [".", "/.", ""] {
        assert!(matches!(refusal(Tar::default().link(b'2', name, "x").end()), ChangesetError::Root { .. }));
        assert!(matches!(refusal(Tar::default().file(name, b"x").end()), ChangesetError::Root { .. }));
    }
}

#[test]
fn links_need_a_possible_target() {
    assert!(matches!(refusal(Tar::default().link(b'2', "a", "").end()), ChangesetError::EmptyLink { .. }));
    assert!(matches!(refusal(Tar::default().link(b'1', "a", "").end()), ChangesetError::EmptyLink { .. }));
    let nul = Tar::default().pax(&[("linkpath", b"a\0b")]).link(b'2', "a", "x").end();
    assert!(matches!(refusal(nul), ChangesetError::EmptyLink { .. }));
}

#[test]
fn a_file_whose_name_ends_in_a_slash_is_a_directory_of_old() {
    for typeflag in [0, b'0', b'7'] {
        assert_eq!(one(Tar::default().entry(typeflag, "dir/").end()).kind, EntryKind::Directory);
        assert_eq!(one(Tar::default().entry(typeflag, "file").end()).kind, EntryKind::File { size: 0 });
    }
}

#[test]
fn global_headers_and_volume_labels_are_skipped() {
    let tar = Tar::default()
        .with_body(b'g', "pax_global_header", b"52 comment=0123456789012345678901234567890123456789\n")
        .with_body(b'g', "pax_global_header", b"12 path=all\n")
        .entry(b'V', "label")
        .file("file", b"x")
        .end();
    assert_eq!(kinds(tar), ["/file File { size: 1 }"]);
}

#[test]
fn what_no_layer_may_hold_is_refused() {
    for typeflag in [b'M', b'D', b'N', b'A', b'X', b'8', b'a', 0xff] {
        let error = refusal(Tar::default().with_body(typeflag, "odd", b"x").end());
        assert!(matches!(error, ChangesetError::Type { index: 0, .. }), "{typeflag} {error}");
    }
}

#[test]
fn the_data_of_a_hard_link_is_skipped_if_there_is_any() {
    let link = |tar: Tar| {
        tar.header(b'1', "link", 600, |block| {
            block.text(header::LINK, b"file");
        })
    };
    let with_data = link(Tar::default().file("file", b"")).padded(&[b'x'; 600]).file("next", b"x").end();
    assert_eq!(kinds(with_data).len(), 3);
    let without = link(Tar::default().file("file", b"")).file("next", b"x").end();
    assert_eq!(kinds(without).len(), 3);
    assert_eq!(kinds(link(Tar::default().file("file", b"")).end()).len(), 2);
    assert_eq!(kinds(link(Tar::default().file("file", b""))).len(), 2);
    let cut = link(Tar::default().file("file", b"")).raw(&[b'x'; 512]);
    assert!(matches!(refusal(cut), ChangesetError::Truncated { index: 1, missing: 88, .. }));
}

#[test]
fn a_missing_end_is_accepted_between_entries_only() {
    assert_eq!(read(&Tar::default()).unwrap().len(), 0);
    assert_eq!(read(&Tar::default().end()).unwrap().len(), 0);
    let tar = Tar::default().file("a", b"x").file("b", &[b'y'; 700]);
    assert_eq!(read(&tar).unwrap().len(), 2);
    let complete = tar.0.len();
    // One block of zeros, padding, and whatever stands behind the end mark.
    for tail in [&[0; 512][..], &[0; 700], &[0; 100_000], &[&[0; 1024][..], b"rubbish"].concat()] {
        assert_eq!(read(&tar.clone().raw(tail)).unwrap().len(), 2);
    }
    // The last file's padding may be missing, its data may not.
    for end in 0..complete {
        let result = read(&Tar(tar.0[..end].to_vec()));
        match end {
            0 | 1024 | 513..=1023 => assert_eq!(result.unwrap().len(), (end > 512) as usize, "{end}"),
            2236.. => assert_eq!(result.unwrap().len(), 2, "{end}"),
            1..=511 => assert!(matches!(result, Err(ChangesetError::NotTar)), "{end}"),
            _ => assert!(matches!(result, Err(ChangesetError::Truncated { .. })), "{end}"),
        }
    }
}

#[test]
fn a_lone_block_of_zeros_does_not_hide_what_follows() {
    let tar = Tar::default().file("a", b"x").raw(&[0; 512]).file("b", b"x").end();
    assert!(matches!(refusal(tar), ChangesetError::LoneZeroBlock { index: 1 }));
}

#[test]
fn damage_is_told_from_what_never_was_a_tar() {
    assert!(matches!(refusal(Tar(b"#!/bin/sh\n".repeat(200))), ChangesetError::NotTar));
    assert!(matches!(refusal(Tar(b"short".to_vec())), ChangesetError::NotTar));
    let tar = Tar::default().file("a", b"x").raw(&[b'x'; 512]).end();
    assert!(matches!(refusal(tar), ChangesetError::Checksum { index: 1, .. }));
    let tar = Tar::default().pax(&[("path", b"a")]).raw(&[b'x'; 512]).end();
    assert!(matches!(refusal(tar), ChangesetError::Checksum { index: 0, .. }));
}

#[test]
fn an_extended_header_needs_an_entry() {
    for tail in [&b""[..], &[0; 1024]] {
        let tar = Tar::default().file("a", b"x").pax(&[("path", b"b")]).raw(tail);
        assert!(matches!(refusal(tar), ChangesetError::Truncated { index: 1, .. }));
    }
}

#[test]
fn reading_on_after_an_error_fails() {
    let tar = Tar::default().file("a", b"x").file("../b", b"x").file("c", b"x").end();
    let mut reader = Reader::new(&tar.0[..], &Limits::default());
    reader.next_entry().unwrap();
    reader.next_entry().unwrap_err();
    assert!(matches!(reader.next_entry(), Err(ChangesetError::FailedBefore)));
    assert!(matches!(reader.next_data(), Err(ChangesetError::FailedBefore)));
    reader.drain().unwrap();
    assert!(reader.into_inner().is_empty());
}

#[test]
fn errors_of_the_stream_keep_their_cause() {
    use crate::codec::{CodecError, Decoder, Encoder, Encoding};
    use std::io::Write;
    let mut encoder = Encoder::new(Vec::new(), Encoding::Gzip { level: 1 }).unwrap();
    encoder.write_all(&Tar::default().file("a", b"x").end().0).unwrap();
    let stream = encoder.finish().unwrap();
    let decoder = Decoder::new(&stream[..stream.len() - 4], &Limits::default()).unwrap();
    let mut reader = Reader::new(decoder, &Limits::default());
    let error = loop {
        if let Err(error) = reader.next_entry() {
            break error;
        }
    };
    let ChangesetError::Read { source, .. } = error else { panic!("{error}") };
    assert!(matches!(CodecError::of(&source), Some(CodecError::Truncated { .. })));
}

#[test]
fn every_limit_is_named_when_it_is_exceeded() {
    let limited = |tar: &Tar, limits: Limits| match read_with(&tar.0, &limits) {
        Err(ChangesetError::Limit { limit, .. }) => limit,
        other => panic!("{other:?}"),
    };
    let tar = Tar::default().file("long-name", b"1234").link(b'2', "b", "target").end();
    let default = Limits::default;
    assert_eq!(limited(&tar, Limits { entries: 1, ..default() }), "entries");
    assert_eq!(limited(&tar, Limits { path_bytes: 8, ..default() }), "path_bytes");
    assert_eq!(limited(&tar, Limits { link_bytes: 5, ..default() }), "link_bytes");
    assert_eq!(limited(&tar, Limits { file_bytes: 3, ..default() }), "file_bytes");
    assert_eq!(limited(&tar, Limits { layer_bytes: 3, ..default() }), "layer_bytes");
    let exact =
        Limits { entries: 2, path_bytes: 9, link_bytes: 6, file_bytes: 4, layer_bytes: 4, ..default() };
    assert_eq!(read_with(&tar.0, &exact).unwrap().len(), 2);
    let deep = Tar::default().file("a/b/c", b"").end();
    assert_eq!(limited(&deep, Limits { path_depth: 1, ..default() }), "path_depth");
    assert!(read_with(&deep.0, &Limits { path_depth: 2, ..default() }).is_ok());

    let pax = Tar::default().pax(&[("SCHILY.xattr.user.a", b"1234")]).file("a", b"").end();
    assert_eq!(limited(&pax, Limits { xattr_bytes: 9, ..default() }), "xattr_bytes");
    assert_eq!(limited(&pax, Limits { header_bytes: 100, ..default() }), "header_bytes");
    // A header that only claims to be large costs no memory.
    let huge = Tar::default().header(b'x', "x", 0o77_777_777_777, |_| {}).raw(b"12 ");
    assert_eq!(limited(&huge, default()), "header_bytes");
    // Nor time, if it means nothing.
    let huge = Tar::default().header(b'g', "g", 0o77_777_777_777, |_| {}).raw(b"12 ");
    assert_eq!(limited(&huge, default()), "header_bytes");
    // Nor do endless small ones.
    let many = (0..3000).fold(Tar::default(), |tar, _| tar.pax(&[]));
    assert_eq!(limited(&many, default()), "header_bytes");
}

#[test]
fn skipped_headers_count_as_entries() {
    let many = (0..10).fold(Tar::default(), |tar, _| tar.with_body(b'g', "g", b"x"));
    let limits = Limits { entries: 5, ..Limits::default() };
    assert!(matches!(read_with(&many.0, &limits), Err(ChangesetError::Limit { limit: "entries", .. })));
}

#[test]
fn an_error_names_the_entry_as_far_as_it_is_known() {
    let message = |tar: &Tar, limits: Limits| read_with(&tar.0, &limits).unwrap_err().to_string();
    let default = Limits::default;
    let named = Tar::default().file("a", b"").file("etc/\npasswd", b"1234").end();
    assert_eq!(
        message(&named, Limits { file_bytes: 3, ..default() }),
        r"tar entry 1 (etc/\npasswd) exceeds the limit file_bytes of 3"
    );
    let unnamed = Tar::default().file("a", b"").pax(&[("comment", &[b'x'; 2000])]).file("b", b"").end();
    let few = Limits { header_bytes: 1000, ..default() };
    assert_eq!(message(&unnamed, few), "tar entry 1 exceeds the limit header_bytes of 1000");
    let one = Limits { entries: 1, ..default() };
    assert_eq!(message(&named, one), "tar entry 1 exceeds the limit entries of 1");
    let cut = Tar(named.0[..1000].to_vec());
    assert_eq!(message(&cut, default()), "the tar is cut short: it ends inside entry 1, 24 bytes early");
}

#[test]
fn names_of_owners_and_times_of_access_mean_nothing() {
    let entry = one(Tar::default()
        .pax(&[("uname", b"root"), ("gname", b"wheel"), ("atime", b"1.5"), ("ctime", b"2.5"), ("uid", b"7")])
        .header(b'0', "file", 0, |block| {
            block.text(265..297, b"root").text(297..329, b"daemon");
        })
        .end());
    let expected = Metadata { mode: 0o644, uid: 7, ..Metadata::default() };
    assert_eq!(entry.metadata, expected);
}
