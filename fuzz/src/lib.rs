//! What several targets need: readers that give little at a time, tars with repaired checksums, and directories as
//! values.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::io::{self, Read};
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

use plywood::fs::{DeviceNumber, Dir, Kind, Staging, Stat, Xattrs};

/// Gives what it has in pieces of one size.
#[derive(Debug)]
pub struct Pieces<'a>(pub &'a [u8], pub usize);

impl Read for Pieces<'_> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let count = self.1.min(out.len());
        self.0.read(&mut out[..count])
    }
}

/// Gives every header the checksum it should have: no fuzzer finds it by trying.
pub fn repair_checksums(tar: &mut [u8]) {
    let mut at = 0;
    while let Some(block) = tar.get_mut(at..at + 512) {
        if block.iter().all(|&byte| byte == 0) {
            break;
        }
        block[148..156].fill(b' ');
        let sum: u32 = block.iter().map(|&byte| u32::from(byte)).sum();
        block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        let digits = block[124..135].iter().take_while(|byte| byte.is_ascii_digit());
        let size = digits.fold(0, |size, digit| size * 8 + usize::from(digit & 7));
        let has_body = matches!(block[156], b'0' | 0 | b'7' | b'x' | b'g' | b'L' | b'K');
        at += 512 + if has_body { size.next_multiple_of(512) } else { 0 };
    }
}

/// Everything that can be seen of a directory, by path. Times of change, inode numbers and the like are left out.
pub type Tree = BTreeMap<PathBuf, Node>;

/// One name in a [`Tree`].
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Node {
    kind: Kind,
    mode: u32,
    owner: (u32, u32),
    mtime: (i64, u32),
    node: String,
    links: u64,
    xattrs: Xattrs,
    content: Vec<u8>,
}

/// Reads a whole directory, without following anything.
///
/// # Panics
///
/// If something cannot be read.
pub fn tree(dir: &Dir) -> Tree {
    let mut tree = Tree::new();
    walk(dir, Path::new(""), &mut tree);
    tree
}

fn walk(dir: &Dir, at: &Path, tree: &mut Tree) {
    let stat = Stat::of(dir).expect("an open directory has attributes");
    tree.insert(at.to_owned(), node(dir, "", &stat, Vec::new()));
    for name in names_in(dir) {
        let path = at.join(&name);
        let stat = dir.stat(&name).expect("nobody else removes anything");
        let content = match stat.kind {
            Kind::Directory => {
                walk(&dir.open_dir(&name).expect("a directory of ours can be opened"), &path, tree);
                continue;
            }
            Kind::File => dir.read(&name, 64 << 20).expect("a file of ours can be read"),
            Kind::Symlink => dir.read_link(&name).expect("a link can be read"),
            _ => Vec::new(),
        };
        tree.insert(path, node(dir, &name, &stat, content));
    }
}

fn node(dir: &Dir, name: impl AsRef<Path>, stat: &Stat, content: Vec<u8>) -> Node {
    let whiteout = stat.kind == Kind::CharDevice && stat.node == DeviceNumber::WHITEOUT;
    Node {
        kind: stat.kind,
        mode: stat.mode,
        owner: (stat.uid, stat.gid),
        // A whiteout has no time but that of its making.
        mtime: if whiteout { (0, 0) } else { (stat.mtime.seconds, stat.mtime.nanos) },
        node: format!("{:?}", stat.node),
        // How many names a directory has depends on what is in it and on the file system.
        links: if stat.kind == Kind::Directory { 0 } else { stat.links },
        xattrs: dir.xattrs(name).expect("attributes can be read"),
        content,
    }
}

/// A directory for one input, with things beside it that nobody may touch.
#[derive(Debug)]
pub struct Sandbox {
    path: PathBuf,
    outside: Dir,
    world: Dir,
    before: Tree,
}

/// What is never touched. Some have names that a lost path may well end in.
const BYSTANDERS: [&str; 4] = ["a", "etc", "victim", "layers"];
const WORLD: &str = "world";

impl Sandbox {
    /// Makes one below `TMPDIR`; it goes away with the value.
    ///
    /// # Panics
    ///
    /// If that is not possible.
    pub fn new() -> Self {
        let path = std::env::temp_dir().join(format!("plywood-fuzz-{}", std::process::id()));
        let outside = Dir::ensure_ambient(&path).expect("there is room for a directory");
        for name in BYSTANDERS {
            let dir = outside.ensure_dir(name, 0o755).expect("there is room for a directory");
            dir.create_file("a", 0o644).expect("there is room for a file");
        }
        let world = outside.ensure_dir(WORLD, 0o755).expect("there is room for a directory");
        let before = bystanders(&outside);
        Self { path, outside, world, before }
    }

    /// A directory in it.
    ///
    /// # Panics
    ///
    /// If the file system refuses.
    pub fn dir(&self, name: &str) -> Dir {
        self.world.ensure_dir(name, 0o755).expect("there is room for a directory")
    }

    /// Where work in progress is kept.
    pub fn staging(&self) -> Staging {
        Staging::new(self.dir("staging"))
    }

    /// Demands that nothing beside the sandbox changed, that only these are in it, and that nobody left anything in
    /// staging.
    ///
    /// # Panics
    ///
    /// If that is not so.
    pub fn check(&self, names: &[&str]) {
        assert!(bystanders(&self.outside) == self.before, "something outside was changed");
        for found in names_in(&self.world) {
            assert!(found == "staging" || names.iter().any(|name| found == *name), "{found:?} is new");
        }
        assert_eq!(names_in(&self.dir("staging")), [""; 0], "something was left in staging");
    }
}

impl Default for Sandbox {
    fn default() -> Self {
        Self::new()
    }
}

impl Drop for Sandbox {
    fn drop(&mut self) {
        std::fs::remove_dir_all(&self.path).expect("what is ours can be removed");
    }
}

/// All but the sandbox itself.
fn bystanders(outside: &Dir) -> Tree {
    let mut all = Tree::new();
    for name in names_in(outside).into_iter().filter(|name| name != WORLD) {
        walk(&outside.open_dir(&name).expect("they are all directories"), Path::new(&name), &mut all);
    }
    all
}

fn names_in(dir: &Dir) -> Vec<OsString> {
    let names = dir.names().expect("a directory of ours can be listed");
    names.into_iter().map(|name| OsString::from_vec(name.name)).collect()
}
