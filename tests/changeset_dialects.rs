//! What other programs write is read as they meant it, and they read what we write.
//!
//! A tree is made on disk, archived by GNU tar, bsdtar and Python's tarfile in every dialect they know, read with
//! [`Reader`], and compared with what the disk itself says; then the other way round. A program that is not installed
//! is skipped, and says so.

#![allow(clippy::unwrap_used, clippy::print_stderr)]

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, FileTypeExt, MetadataExt, symlink};
use std::path::Path;
use std::process::{Command, Stdio};
use std::{fmt, fs};

use plywood::changeset::{Entry, EntryKind, Reader, Writer};
use plywood::digest::Digest;
use plywood::fs::{DeviceNumber, Metadata, Timestamp, Xattrs};
use plywood::path::LayerPath;
use rustix::fs as sys;

/// What a path holds. Hard links look like the file they are.
#[derive(Clone, PartialEq, Eq, Debug)]
struct Node {
    kind: EntryKind,
    metadata: Metadata,
    content: Content,
}

/// The pages of a file that are not all zeros, so that a file of terabytes is small if its data is.
type Content = BTreeMap<u64, Page>;

#[derive(Clone, PartialEq, Eq)]
struct Page([u8; PAGE as usize]);

impl fmt::Debug for Page {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", Digest::of(self.0))
    }
}

type Tree = BTreeMap<LayerPath, Node>;

const PAGE: u64 = 4096;

/// What a dialect can say, as this writer of it does.
#[derive(Clone, Copy)]
struct Can {
    /// Names over 100 bytes, link targets too.
    long_names: bool,
    /// Names over 255 bytes.
    very_long_names: bool,
    /// Names that are not UTF-8.
    raw_names: bool,
    /// Devices and named pipes.
    special: bool,
    /// Ids over 262,143 and 2,097,151, times after 2242.
    numbers: bool,
    /// Times before 1970.
    negative: bool,
    nanos: bool,
    xattrs: bool,
}

const V7: Can = Can {
    long_names: false,
    very_long_names: false,
    raw_names: true,
    special: false,
    numbers: false,
    negative: false,
    nanos: false,
    xattrs: false,
};
const USTAR: Can = Can { long_names: true, special: true, ..V7 };
const GNU: Can = Can { very_long_names: true, numbers: true, negative: true, ..USTAR };
const PAX: Can = Can { nanos: true, xattrs: true, ..GNU };

fn path(name: impl AsRef<[u8]>) -> LayerPath {
    LayerPath::parse(name).unwrap()
}

/// Makes a tree with everything that `can` be said.
fn make_tree(root: &Path, can: Can) {
    let file = |name: &OsStr, content: &[u8]| fs::write(root.join(name), content).unwrap();
    fs::create_dir_all(root.join("dir/sub")).unwrap();
    for size in [0, 1, 511, 512, 513, 10_000] {
        file(format!("dir/{size}").as_ref(), &vec![b'x'; size]);
    }
    file("späße".as_ref(), b"umlauts");
    symlink("../späße", root.join("dir/link")).unwrap();
    symlink("nowhere at all", root.join("dir/sub/dangling")).unwrap();
    fs::hard_link(root.join("dir/513"), root.join("dir/sub/hard")).unwrap();
    fs::hard_link(root.join("dir/513"), root.join("zz-hard")).unwrap();
    fs::create_dir(root.join("empty")).unwrap();
    if can.raw_names {
        file(OsStr::from_bytes(b"caf\xe9"), b"latin");
    }
    if can.long_names {
        // Where the two fields of a name end, with and without the leading "./".
        for (prefix, name) in [(48, 48), (48, 49), (48, 50), (48, 51), (48, 100), (152, 100), (153, 99)] {
            let parent = root.join("l".repeat(prefix / 2)).join("p".repeat(prefix - prefix / 2 - 1));
            fs::create_dir_all(&parent).unwrap();
            fs::write(parent.join("n".repeat(name)), [name as u8]).unwrap();
        }
        symlink("t".repeat(100), root.join("link-100")).unwrap();
    }
    if can.very_long_names {
        let deep = ["d".repeat(200), "e".repeat(200), "f".repeat(200)].join("/");
        fs::create_dir_all(root.join(&deep)).unwrap();
        file(format!("{deep}/{}", "g".repeat(255)).as_ref(), b"deep");
        fs::hard_link(root.join("dir/511"), root.join(format!("{deep}/hard"))).unwrap();
        symlink("t/".repeat(1000), root.join("link-2000")).unwrap();
    }
    if can.special {
        let node = |name: &str, kind, major, minor| {
            let device = sys::makedev(major, minor);
            sys::mknodat(sys::CWD, root.join(name), kind, sys::Mode::from_raw_mode(0o640), device).unwrap();
        };
        node("fifo", sys::FileType::Fifo, 0, 0);
        node("char", sys::FileType::CharacterDevice, 1, 3);
        node("block", sys::FileType::BlockDevice, 259, 70_000);
    }
    let chown =
        |name: &str, uid, gid| std::os::unix::fs::lchown(root.join(name), Some(uid), Some(gid)).unwrap();
    chown("dir/1", 1000, if can.numbers { 2_097_151 } else { 262_143 });
    chown("dir/link", 7, 8);
    if can.numbers {
        chown("dir/0", 2_097_152, 4_294_967_294);
    }
    let chmod = |name: &str, mode| sys::chmod(root.join(name), sys::Mode::from_raw_mode(mode)).unwrap();
    chmod("dir/512", 0o6755);
    chmod("empty", 0o1777);
    if can.xattrs {
        let set = |name: &str, key: &str, value: &[u8]| {
            sys::lsetxattr(root.join(name), key, value, sys::XattrFlags::empty()).unwrap();
        };
        set("dir/512", "user.text", b"value");
        set("dir/512", "user.binary", b"\0\n=\xff ");
        set("dir/512", "user.empty", b"");
        set("dir", "user.dir", &[b'v'; 3000]);
        set("dir/link", "trusted.link", b"on a link");
        let capability = b"\x01\0\0\x02\0\x20\0\0\0\0\0\0\0\0\0\0\0\0\0\0";
        set("dir/512", "security.capability", capability);
    }
    // Times last, the deepest first.
    let mut names: Vec<_> = walk(root).into_keys().collect();
    names.reverse();
    for (index, name) in names.iter().enumerate() {
        let seconds = match index % 3 {
            0 if can.negative => -1_000_000 - index as i64,
            1 if can.numbers => 9_000_000_000 + index as i64,
            _ => 1_600_000_000 + index as i64,
        };
        let nanos = if can.nanos { 123_456_789 } else { 0 };
        let time = sys::Timespec { tv_sec: seconds, tv_nsec: nanos };
        let times = sys::Timestamps { last_access: time, last_modification: time };
        let at = root.join(name.as_path());
        sys::utimensat(sys::CWD, at, &times, sys::AtFlags::SYMLINK_NOFOLLOW).unwrap();
    }
}

/// What the disk says.
fn walk(root: &Path) -> Tree {
    let mut tree = Tree::new();
    let mut todo = vec![LayerPath::ROOT];
    while let Some(name) = todo.pop() {
        let at = root.join(name.as_path());
        let stat = fs::symlink_metadata(&at).unwrap();
        let kind = stat.file_type();
        let device = DeviceNumber { major: sys::major(stat.rdev()), minor: sys::minor(stat.rdev()) };
        let mut content = Content::new();
        let kind = if kind.is_dir() {
            todo.extend(
                fs::read_dir(&at).unwrap().map(|entry| name.join(entry.unwrap().file_name().as_bytes())),
            );
            EntryKind::Directory
        } else if kind.is_symlink() {
            EntryKind::Symlink(fs::read_link(&at).unwrap().into_os_string().into_encoded_bytes())
        } else if kind.is_fifo() {
            EntryKind::Fifo
        } else if kind.is_char_device() {
            EntryKind::CharDevice(device)
        } else if kind.is_block_device() {
            EntryKind::BlockDevice(device)
        } else {
            content = file_content(&fs::File::open(&at).unwrap(), stat.len());
            EntryKind::File { size: stat.len() }
        };
        let metadata = Metadata {
            mode: stat.mode() & 0o7777,
            uid: stat.uid(),
            gid: stat.gid(),
            mtime: Timestamp { seconds: stat.mtime(), nanos: stat.mtime_nsec() as u32 },
            xattrs: xattrs(&at),
        };
        tree.insert(name, Node { kind, metadata, content });
    }
    tree
}

fn xattrs(at: &Path) -> Xattrs {
    let mut names = vec![0; 64 << 10];
    let len = sys::llistxattr(at, &mut names[..]).unwrap();
    let names = names[..len].split(|&byte| byte == 0).filter(|name| !name.is_empty());
    let value = |name: &[u8]| {
        let mut value = vec![0; 64 << 10];
        let len = sys::lgetxattr(at, name, &mut value[..]).unwrap();
        value[..len].to_vec()
    };
    names.map(|name| (name.to_vec(), value(name))).collect()
}

fn file_content(file: &fs::File, size: u64) -> Content {
    let mut content = Content::new();
    let mut offset = 0;
    while offset < size {
        // The end of the file if only a hole is left.
        let Ok(data) = sys::seek(file, sys::SeekFrom::Data(offset)) else { break };
        let end = sys::seek(file, sys::SeekFrom::Hole(data)).unwrap();
        let mut bytes = vec![0; (end - data) as usize];
        file.read_exact_at(&mut bytes, data).unwrap();
        add_data(&mut content, data, &bytes);
        offset = end;
    }
    strip_zeros(content)
}

fn add_data(content: &mut Content, mut offset: u64, mut bytes: &[u8]) {
    while !bytes.is_empty() {
        let at = (offset % PAGE) as usize;
        let count = bytes.len().min(PAGE as usize - at);
        let page = content.entry(offset / PAGE).or_insert(Page([0; PAGE as usize]));
        page.0[at..at + count].copy_from_slice(&bytes[..count]);
        offset += count as u64;
        bytes = &bytes[count..];
    }
}

fn strip_zeros(mut content: Content) -> Content {
    content.retain(|_, page| page.0.iter().any(|&byte| byte != 0));
    content
}

/// What the tar says, hard links resolved, and how many bytes of data it holds.
fn read(tar: &[u8]) -> (Tree, u64) {
    let mut tree = Tree::new();
    let mut stored = 0;
    let mut reader = Reader::new(tar, &Default::default());
    while let Some(entry) = reader.next_entry().unwrap() {
        let mut content = Content::new();
        while let Some(data) = reader.next_data().unwrap() {
            stored += data.bytes.len() as u64;
            add_data(&mut content, data.offset, data.bytes);
        }
        let node = match entry.kind {
            EntryKind::HardLink(target) => tree[&target].clone(),
            kind => Node { kind, metadata: entry.metadata, content: strip_zeros(content) },
        };
        assert_eq!(tree.insert(entry.path, node), None);
    }
    (tree, stored)
}

fn assert_same(found: &Tree, expected: &Tree, what: &str) {
    for (path, node) in expected {
        assert_eq!(found.get(path), Some(node), "{path} of {what}");
    }
    assert_eq!(found.len(), expected.len(), "{what} has more than it should");
}

/// A directory on a real file system: one in memory may know no attributes.
fn scratch() -> std::io::Result<tempfile::TempDir> {
    tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR"))
}

/// Whether a test with this program can run; says so if not.
fn installed(program: &str) -> bool {
    let dir = scratch().unwrap();
    let node = dir.path().join("node");
    let mode = sys::Mode::from_raw_mode(0o600);
    let device = sys::mknodat(sys::CWD, &node, sys::FileType::CharacterDevice, mode, sys::makedev(1, 3));
    let xattr = sys::lsetxattr(&node, "trusted.probe", b"x", sys::XattrFlags::empty());
    if device.and(xattr).is_err() {
        eprintln!("SKIPPED: devices, owners and attributes of any kind need root");
        return false;
    }
    let found = Command::new(program).arg("--version").stdout(Stdio::null()).status();
    let found = found.is_ok_and(|status| status.success());
    if !found {
        eprintln!("SKIPPED: {program} is not installed");
    }
    found
}

fn run(program: &str, args: &[OsString], input: &[u8]) -> Vec<u8> {
    use std::io::Write;
    let mut command = Command::new(program);
    command.args(args).env("LC_ALL", "C.UTF-8").env("TZ", "UTC");
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let output = std::thread::scope(|scope| {
        // The program may stop reading early.
        scope.spawn(move || stdin.write_all(input).is_ok());
        child.wait_with_output().unwrap()
    });
    let complaints = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{program} {args:?}: {complaints}");
    output.stdout
}

fn words(line: &str) -> Vec<OsString> {
    line.split_whitespace().map(OsString::from).collect()
}

fn in_dir(line: &str, dir: &Path) -> Vec<OsString> {
    let mut args = words(line);
    args.extend(["-C".into(), dir.into(), ".".into()]);
    args
}

/// Archives a tree with the given command and compares.
fn check(can: Can, what: &str, archive: impl Fn(&Path) -> Vec<u8>) {
    let dir = scratch().unwrap();
    make_tree(dir.path(), can);
    assert_same(&read(&archive(dir.path())).0, &walk(dir.path()), what);
}

#[test]
fn every_dialect_of_gnu_tar_is_read() {
    if !installed("tar") {
        return;
    }
    let everything = "--xattrs --xattrs-include=*";
    for (format, can) in [("v7", V7), ("oldgnu", GNU), ("gnu", GNU), ("ustar", USTAR), ("posix", PAX)] {
        let options = if can.xattrs { everything } else { "" };
        let line = format!("--create --format={format} {options} --file=-");
        check(can, &line, |dir| run("tar", &in_dir(&line, dir), b""));
    }
}

#[test]
fn every_dialect_of_bsdtar_is_read() {
    if !installed("bsdtar") {
        return;
    }
    // Its GNU dialect ends in 2242.
    let gnu = Can { numbers: false, ..GNU };
    for (format, can) in [("v7", V7), ("ustar", USTAR), ("gnutar", gnu), ("pax", PAX)] {
        // Nor does it write times before 1970, or it gives their fraction the wrong sign.
        let can = Can { negative: false, ..can };
        let line = format!("--create --format={format} --numeric-owner --file=-");
        check(can, &line, |dir| run("bsdtar", &in_dir(&line, dir), b""));
    }
}

#[test]
fn every_dialect_of_python_is_read() {
    if !installed("python3") {
        return;
    }
    let script = "import sys, tarfile\n\
        with tarfile.open(fileobj=sys.stdout.buffer, mode='w|', format=getattr(tarfile, sys.argv[1])) as tar:\n\
        \x20   tar.add(sys.argv[2], arcname='.')\n";
    let no_xattrs = |can| Can { xattrs: false, ..can };
    for (format, can) in [("USTAR_FORMAT", USTAR), ("GNU_FORMAT", GNU), ("PAX_FORMAT", no_xattrs(PAX))] {
        // Python keeps times as floating point numbers: microseconds at best.
        let can = Can { nanos: false, ..can };
        check(can, format, |dir| {
            run("python3", &["-c".into(), script.into(), format.into(), dir.into()], b"")
        });
    }
}

#[test]
fn access_control_lists_in_words_are_understood() {
    let dir = scratch().unwrap();
    fs::create_dir(dir.path().join("dir")).unwrap();
    fs::write(dir.path().join("dir/file"), b"content").unwrap();
    // Ids without a name here: GNU tar writes the name where there is one, and that is lost on another machine.
    let set = |name: &str, key: &str, entries: &[(u8, u8, u32)]| {
        let words =
            entries.iter().flat_map(|&(tag, bits, id)| [&[tag, 0, bits, 0][..], &id.to_le_bytes()].concat());
        let value: Vec<u8> = b"\x02\0\0\0".iter().copied().chain(words).collect();
        sys::lsetxattr(dir.path().join(name), key, &value, sys::XattrFlags::empty())
    };
    let none = u32::MAX;
    let access = [
        (1, 6, none),
        (2, 5, 47_111),
        (2, 7, 47_112),
        (4, 4, none),
        (8, 2, 47_113),
        (0x10, 7, none),
        (0x20, 0, none),
    ];
    let file = set("dir/file", "system.posix_acl_access", &access);
    let default = [(1, 7, none), (4, 5, none), (0x20, 5, none)];
    if file.and(set("dir", "system.posix_acl_default", &default)).is_err() {
        eprintln!("SKIPPED: the file system has no access control lists");
        return;
    }
    let mut expected = walk(dir.path());
    for (program, line, mode) in [
        ("tar", "--create --format=posix --acls --numeric-owner --file=-", 0o670),
        // The group's bits are its own and not the mask's; they are on disk as soon as the list is.
        ("bsdtar", "--create --format=pax --acls --numeric-owner --file=-", 0o640),
    ] {
        if installed(program) {
            expected.get_mut(&path("dir/file")).unwrap().metadata.mode = mode;
            assert_same(&read(&run(program, &in_dir(line, dir.path()), b"")).0, &expected, line);
        }
    }
}

#[test]
fn holes_are_found_in_every_sparse_dialect() {
    if !installed("tar") {
        return;
    }
    let dir = scratch().unwrap();
    let file = |name: &str| fs::File::create(dir.path().join(name)).unwrap();
    let many = file("many");
    for part in 0..100 {
        many.write_all_at(&[b'x'; 5000], part << 20).unwrap();
    }
    many.set_len((100 << 20) + 77).unwrap();
    file("one-hole").set_len(20 << 30).unwrap();
    let tail = file("tail");
    tail.write_all_at(b"the end", 9 << 30).unwrap();
    fs::write(dir.path().join("whole"), [b'y'; 100_000]).unwrap();
    let deep = dir.path().join("d".repeat(200));
    fs::create_dir(&deep).unwrap();
    fs::copy(dir.path().join("whole"), deep.join("sparse")).unwrap();
    fs::File::options().write(true).open(deep.join("sparse")).unwrap().set_len(1 << 20).unwrap();

    let expected = walk(dir.path());
    let check = |program, line: &str, whole_seconds: bool| {
        let (found, stored) = read(&run(program, &in_dir(line, dir.path()), b""));
        let mut expected = expected.clone();
        if whole_seconds {
            expected.values_mut().for_each(|node| node.metadata.mtime.nanos = 0);
        }
        assert_same(&found, &expected, line);
        assert!(stored < 2 << 20, "{line}: {stored} bytes are stored");
    };
    for version in ["0.0", "0.1", "1.0"] {
        check("tar", &format!("--create --format=posix --sparse-version={version} --sparse --file=-"), false);
    }
    check("tar", "--create --format=gnu --sparse --file=-", true);
    check("tar", "--create --format=oldgnu --sparse --file=-", true);
    if installed("bsdtar") {
        check("bsdtar", "--create --format=pax --read-sparse --file=-", false);
    }
}

/// Writes a tree as a layer.
fn write(tree: &Tree) -> Vec<u8> {
    let mut writer = Writer::new(Vec::new());
    for (path, node) in tree {
        writer.entry(&Entry::new(path.clone(), node.kind.clone(), node.metadata.clone())).unwrap();
        let size = node.kind.size();
        for (page, Page(bytes)) in &node.content {
            let offset = page * PAGE;
            writer.hole_until(offset).unwrap();
            writer.data(&bytes[..PAGE.min(size - offset) as usize]).unwrap();
        }
        writer.hole_until(size).unwrap();
    }
    writer.finish().unwrap()
}

#[test]
fn what_is_written_is_extracted_by_others() {
    let source = scratch().unwrap();
    for (program, line, can) in [
        ("tar", "--extract --xattrs --xattrs-include=* --same-permissions --same-owner --file=-", PAX),
        // It reads fractions before 1970 as it writes them.
        ("bsdtar", "-x -p --same-owner --numeric-owner -f -", Can { negative: false, ..PAX }),
    ] {
        if !installed(program) {
            continue;
        }
        let source = source.path().join(program);
        fs::create_dir(&source).unwrap();
        make_tree(&source, can);
        let expected = walk(&source);
        let tar = write(&expected);
        assert_same(&read(&tar).0, &expected, "our own tar");
        let target = scratch().unwrap();
        let mut args = words(line);
        args.extend(["-C".into(), target.path().into()]);
        run(program, &args, &tar);
        let mut found = walk(target.path());
        if program == "bsdtar" {
            // It never touches the directory it extracts into.
            found.insert(LayerPath::ROOT, expected[&LayerPath::ROOT].clone());
        }
        assert_same(&found, &expected, line);
    }
}

#[test]
fn what_is_written_is_read_by_python() {
    if !installed("python3") {
        return;
    }
    let source = scratch().unwrap();
    make_tree(source.path(), PAX);
    let tree = walk(source.path());
    let script = "import sys, tarfile, hashlib\n\
        with tarfile.open(fileobj=sys.stdin.buffer, mode='r|') as tar:\n\
        \x20   for m in tar:\n\
        \x20       data = tar.extractfile(m).read() if m.isreg() else b''\n\
        \x20       fields = (m.name, m.type, m.linkname, m.size, m.mode, m.uid, m.gid, len(data),\n\
        \x20                 ''.join(sorted(k for k in m.pax_headers if k.startswith('SCHILY.xattr'))))\n\
        \x20       line = '\\x1f'.join(f.decode() if isinstance(f, bytes) else str(f) for f in fields)\n\
        \x20       sys.stdout.buffer.write(line.encode('utf-8', 'surrogateescape') + b'\\n')\n";
    let output = run("python3", &["-c".into(), script.into()], &write(&tree));
    let expected: Vec<_> = tree
        .iter()
        .map(|(path, node)| {
            let (typeflag, link) = match &node.kind {
                EntryKind::Directory => ("5", &b""[..]),
                EntryKind::Symlink(target) => ("2", &target[..]),
                EntryKind::CharDevice(_) => ("3", &b""[..]),
                EntryKind::BlockDevice(_) => ("4", &b""[..]),
                EntryKind::Fifo => ("6", &b""[..]),
                _ => ("0", &b""[..]),
            };
            let Metadata { mode, uid, gid, xattrs, .. } = &node.metadata;
            let size = node.kind.size();
            let keys: String = xattrs
                .keys()
                .map(|key| format!("SCHILY.xattr.{}", String::from_utf8(key.clone()).unwrap()))
                .collect();
            let name = if path.is_root() { b"." } else { path.as_bytes() };
            let start = [name, typeflag.as_bytes(), link].join(&0x1f);
            [start, format!("{size}\x1f{mode}\x1f{uid}\x1f{gid}\x1f{size}\x1f{keys}").into_bytes()]
                .join(&0x1f)
        })
        .collect();
    let found: Vec<_> = output.strip_suffix(b"\n").unwrap().split(|&byte| byte == b'\n').collect();
    for (found, expected) in found.iter().zip(&expected) {
        assert_eq!(found.escape_ascii().to_string(), expected.escape_ascii().to_string());
    }
    assert_eq!(found.len(), expected.len());
    assert!(tree.contains_key(&path("dir/sub/hard")));
}
