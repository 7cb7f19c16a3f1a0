//! What is written, and that it comes back.

use proptest::collection::{btree_map, vec};
use proptest::prelude::*;

use super::*;

/// Writes entries, files with content.
fn write(entries: &[(Entry, Vec<u8>)]) -> Vec<u8> {
    let mut writer = Writer::new(Vec::new());
    for (entry, content) in entries {
        writer.file(entry, &content[..]).unwrap();
    }
    writer.finish().unwrap()
}

fn entry(name: &str, kind: EntryKind) -> (Entry, Vec<u8>) {
    let content = vec![b'x'; kind.size() as usize];
    (Entry::new(path(name), kind, Metadata { mode: 0o644, ..Metadata::default() }), content)
}

/// Reads back what is written, and expects it to be the same.
fn round_trip(entries: &[(Entry, Vec<u8>)]) {
    let tar = write(entries);
    let mut found = read(&Tar(tar.clone())).unwrap();
    for (entry, _) in &mut found {
        entry.index = 0;
    }
    assert_eq!(found, entries);
    assert_eq!(write(&found), tar);
}

#[test]
fn every_type_of_entry_comes_back() {
    round_trip(&[
        entry("", EntryKind::Directory),
        entry("d", EntryKind::Directory),
        (Entry::opaque(path("d")), Vec::new()),
        (Entry::opaque(path("")), Vec::new()),
        (Entry::whiteout(path("d/gone")), Vec::new()),
        (Entry::whiteout(path("gone")), Vec::new()),
        (Entry::whiteout(path(&"g".repeat(255))), Vec::new()),
        entry("d/f", EntryKind::File { size: 1000 }),
        entry("d/empty", EntryKind::File { size: 0 }),
        entry("d/l", EntryKind::Symlink(b"/absolute/../target".to_vec())),
        entry("d/h", EntryKind::HardLink(path("d/f"))),
        entry("p", EntryKind::Fifo),
        entry("c", EntryKind::CharDevice(DeviceNumber { major: 5, minor: 1 })),
        entry("b", EntryKind::BlockDevice(DeviceNumber { major: u32::MAX, minor: 0o1000_0000 })),
        entry("z", EntryKind::CharDevice(DeviceNumber::WHITEOUT)),
    ]);
}

#[test]
fn names_of_every_length_come_back() {
    for len in (90..110).chain(150..170).chain(245..260).chain([1000, 3000]) {
        for slash in [20, 50, 100, 155, 156, 200] {
            let name: String = (0..len).map(|at| if at % slash == slash - 1 { '/' } else { 'n' }).collect();
            let target = format!("t{name}").into_bytes();
            round_trip(&[
                entry(&name, EntryKind::File { size: 1 }),
                entry(&name, EntryKind::Directory),
                entry("link", EntryKind::Symlink(target)),
                entry("hard", EntryKind::HardLink(path(&name))),
            ]);
        }
    }
    round_trip(&[entry("späße/\u{1f600}", EntryKind::Directory)]);
    let latin = LayerPath::parse(b"caf\xe9").unwrap();
    let entry = Entry::new(latin.clone(), EntryKind::HardLink(latin), Metadata::default());
    round_trip(&[(entry, Vec::new())]);
}

#[test]
fn metadata_beyond_ustar_comes_back() {
    let time = |seconds, nanos| Metadata { mtime: Timestamp { seconds, nanos }, ..Metadata::default() };
    let xattrs = [
        (&b"user.plain"[..], &b"value"[..]),
        (b"user.empty", b""),
        (b"user.binary", b"\0\n=\xff"),
        (b"user.with=sign", b"\0 and %41"),
        (b"user.with space \n\xff", b"x"),
    ];
    let xattrs = xattrs.map(|(name, value)| (name.to_vec(), value.to_vec())).into();
    for metadata in [
        time(1, 1),
        time(-1, 0),
        time(-1, 999_999_999),
        time(0o77_777_777_777, 0),
        time(0o100_000_000_000, 0),
        time(i64::MAX, 5),
        time(i64::MIN, 0),
        Metadata { mode: 0o7777, uid: 0o777_7777, gid: 0o1000_0000, ..Metadata::default() },
        Metadata { uid: u32::MAX - 1, gid: u32::MAX - 1, xattrs, ..Metadata::default() },
    ] {
        round_trip(&[(Entry::new(path("x"), EntryKind::Directory, metadata), Vec::new())]);
    }
}

#[test]
fn what_fits_into_ustar_needs_no_records() {
    let tar = write(&[entry("a/b", EntryKind::File { size: 3 }), (Entry::whiteout(path("a/c")), Vec::new())]);
    assert_eq!(tar.len(), 5 * BLOCK);
    assert_eq!(tar[..156], {
        let mut start = [0; 156];
        start[..3].copy_from_slice(b"a/b");
        start[100..]
            .copy_from_slice(b"0000644\x000000000\x000000000\x0000000000003\x0000000000000\x00007562\0 ");
        start
    });
    assert_eq!(tar[156..500], {
        let mut rest = [0; 344];
        rest[0] = b'0';
        rest[101..109].copy_from_slice(b"ustar\x0000");
        rest[173..189].copy_from_slice(b"0000000\x000000000\0");
        rest
    });
    assert!(tar[2 * BLOCK..].starts_with(b"a/.wh.c\0"));
    assert!(
        tar[2 * BLOCK + 100..].starts_with(b"0000000\x000000000\x000000000\x0000000000000\x0000000000000\0")
    );
}

#[test]
fn reserved_names_are_refused_unless_asked_for() {
    for name in [".wh.x", "a/.wh.x", ".wh.x/a", ".wh..wh..opq", ".wh."] {
        let mut writer = Writer::new(Vec::new());
        for kind in [EntryKind::Directory, EntryKind::File { size: 0 }, EntryKind::HardLink(path("a"))] {
            let error = writer.entry(&entry(name, kind).0).unwrap_err();
            assert!(matches!(error, ChangesetError::ReservedName { .. }), "{name}");
        }
        let error = writer.entry(&entry("a", EntryKind::HardLink(path(name))).0).unwrap_err();
        assert!(matches!(error, ChangesetError::ReservedName { .. }), "{name}");
        let mut writer = writer.allow_reserved_names();
        writer.entry(&entry(name, EntryKind::Directory).0).unwrap();
        assert!(matches!(
            writer.entry(&Entry::whiteout(path(name))),
            Err(ChangesetError::ReservedName { .. })
        ));
    }
}

#[test]
fn what_has_no_form_in_a_tar_is_refused() {
    let mut writer = Writer::new(Vec::new());
    for (name, kind) in [
        ("", EntryKind::File { size: 0 }),
        ("", EntryKind::Whiteout),
        ("a", EntryKind::Symlink(Vec::new())),
        ("a", EntryKind::Symlink(b"a\0b".to_vec())),
        ("a", EntryKind::HardLink(LayerPath::ROOT)),
        ("a", EntryKind::AufsLink { size: 0 }),
    ] {
        let error = writer.entry(&Entry::new(path(name), kind, Metadata::default())).unwrap_err();
        assert!(matches!(error, ChangesetError::Unrepresentable { .. }), "{error}");
    }
    assert_eq!(writer.finish().unwrap(), [0; 1024], "a refused entry leaves nothing");
}

#[test]
fn a_file_has_exactly_the_size_its_entry_says() {
    let file = entry("file", EntryKind::File { size: 10 }).0;
    let size = |result: Result<(), ChangesetError>| match result {
        Err(ChangesetError::Size { expected, found, .. }) => (expected, found),
        other => panic!("{other:?}"),
    };
    assert_eq!(size(Writer::new(Vec::new()).file(&file, &b"short"[..])), (10, 5));
    let mut writer = Writer::new(Vec::new());
    writer.file(&file, &b"longer than it says"[..]).unwrap();
    writer.entry(&file).unwrap();
    writer.data(b"12345").unwrap();
    assert_eq!(size(writer.data(b"123456")), (10, 11));
    writer.hole_until(7).unwrap();
    assert_eq!(size(writer.hole_until(6)), (10, 7));
    assert_eq!(size(writer.hole_until(11)), (10, 11));
    assert_eq!(size(writer.entry(&file)), (10, 7));
    writer.hole_until(10).unwrap();
    let entries = read(&Tar(writer.finish().unwrap())).unwrap();
    assert_eq!(entries[0].1, b"longer tha");
    assert_eq!(entries[1].1, b"12345\0\0\0\0\0");
    let mut writer = Writer::new(Vec::new());
    writer.entry(&file).unwrap();
    assert_eq!(size(writer.finish().map(drop)), (10, 0));
}

#[test]
fn a_failing_writer_is_reported_with_the_entry() {
    struct Full;
    impl std::io::Write for Full {
        fn write(&mut self, _: &[u8]) -> std::io::Result<usize> {
            Err(std::io::Error::from_raw_os_error(28))
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }
    let mut writer = Writer::new(Full);
    writer.entry(&entry("file", EntryKind::File { size: 1 << 20 }).0).unwrap();
    let error = writer.hole_until(1 << 20).unwrap_err();
    let ChangesetError::Write { path, source } = error else { panic!("{error}") };
    assert_eq!((path, source.raw_os_error()), (self::path("file"), Some(28)));
}

fn a_name() -> impl Strategy<Value = LayerPath> {
    let byte = prop_oneof![10 => b'a'..=b'z', 1 => b' '..=b'.', 1 => b'0'..=0xff_u8];
    let component = prop_oneof![9 => vec(byte.clone(), 1..12), 1 => vec(byte, 90..=255)];
    let usable = |name: &Vec<u8>| crate::path::is_file_name(name) && !name.starts_with(b".wh.");
    vec(component.prop_filter("a file name", usable), 1..6)
        .prop_map(|components| components.iter().fold(LayerPath::ROOT, |path, name| path.join(name)))
}

fn some_metadata() -> impl Strategy<Value = Metadata> {
    let seconds = prop_oneof![0..2_000_000_000_i64, any::<i64>(), -10..10_i64];
    let nanos = prop_oneof![Just(0), 0..1_000_000_000_u32, Just(500_000_000)];
    let id = || prop_oneof![0..70_000_u32, 2_097_140..2_097_160_u32, 0..u32::MAX];
    let key = vec(1..=255_u8, 1..20);
    let xattrs = prop_oneof![2 => Just(Xattrs::new()), 1 => btree_map(key, vec(any::<u8>(), 0..300), 0..4)];
    (0..=0o7777_u32, id(), id(), seconds, nanos, xattrs).prop_map(
        |(mode, uid, gid, seconds, nanos, xattrs)| Metadata {
            mode,
            uid,
            gid,
            mtime: Timestamp { seconds, nanos },
            xattrs,
        },
    )
}

fn some_entry() -> impl Strategy<Value = (Entry, Vec<u8>)> {
    let device = || (any::<u32>(), any::<u32>()).prop_map(|(major, minor)| DeviceNumber { major, minor });
    let content = prop_oneof![vec(any::<u8>(), 0..1500), Just(vec![0; 70_000])];
    let kind = prop_oneof![
        4 => content.prop_map(|content| (EntryKind::File { size: content.len() as u64 }, content)),
        4 => prop_oneof![
            Just(EntryKind::Directory),
            vec(1..=255_u8, 1..300).prop_map(EntryKind::Symlink),
            a_name().prop_map(EntryKind::HardLink),
            Just(EntryKind::Fifo),
            device().prop_map(EntryKind::CharDevice),
            device().prop_map(EntryKind::BlockDevice),
            Just(EntryKind::Whiteout),
            Just(EntryKind::Opaque),
        ]
        .prop_map(|kind| (kind, Vec::new())),
    ];
    (a_name(), kind, some_metadata(), 0..20).prop_map(|(path, (kind, content), metadata, root)| {
        let is_marker = matches!(kind, EntryKind::Whiteout | EntryKind::Opaque);
        let metadata = if is_marker { Metadata::default() } else { metadata };
        let may_be_root = matches!(kind, EntryKind::Directory | EntryKind::Opaque);
        let path = if may_be_root && root == 0 { LayerPath::ROOT } else { path };
        (Entry::new(path, kind, metadata), content)
    })
}

proptest! {
    #[test]
    fn what_is_written_is_what_is_read(entries in vec(some_entry(), 0..12)) {
        round_trip(&entries);
    }

    #[test]
    fn no_bytes_make_the_reader_panic(
        entries in vec(some_entry(), 1..4),
        damage in vec((any::<prop::sample::Index>(), any::<u8>()), 1..8),
    ) {
        let mut tar = write(&entries);
        for (at, byte) in damage {
            let at = at.index(tar.len());
            tar[at] = byte;
        }
        // Refused or read, but nothing else.
        if let Ok(entries) = read(&Tar(tar)) {
            prop_assert!(entries.len() < 100);
        }
    }
}
