//! A directory as a value: [`Tree`], read from disk by [`snapshot`], compared by [`Tree::assert_same`].
//!
//! A tree holds everything that a layer can say about a file, and nothing that depends on the machine (inode numbers,
//! block counts, access and change times). What a comparison must leave out is taken away first, by name.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs::{self, File};
use std::io::Read;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use rustix::fs::SeekFrom;
use sha2::Digest;

/// Every name below a root, and the root itself under the empty name.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Tree(pub BTreeMap<PathBuf, Node>);

/// One name in a tree.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Node {
    pub kind: Kind,
    pub mode: u32,
    pub uid: u32,
    pub gid: u32,
    /// Seconds (rounded down) and nanoseconds.
    pub mtime: (i64, u32),
    pub xattrs: BTreeMap<Vec<u8>, Vec<u8>>,
    /// The first of several names for one inode; `None` where this is its only name in the tree.
    pub linked_as: Option<PathBuf>,
}

/// What a name stands for.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Kind {
    File {
        size: u64,
        sha256: String,
        /// Where there is no data: offset and length. Whole blocks of 4096 bytes, but for the last.
        holes: Vec<(u64, u64)>,
    },
    Directory,
    Symlink(Vec<u8>),
    Fifo,
    Char(u32, u32),
    Block(u32, u32),
    Socket,
}

impl Kind {
    /// A regular file of these bytes, without holes.
    pub fn file(content: &[u8]) -> Self {
        Self::File { size: content.len() as u64, sha256: super::sha256(content), holes: Vec::new() }
    }

    fn is_file(&self) -> bool {
        matches!(self, Self::File { .. })
    }
}

/// Reads everything below `root`, content included.
///
/// # Panics
///
/// With the path, if anything cannot be read.
pub fn snapshot(root: impl AsRef<Path>) -> Tree {
    let root = root.as_ref();
    let mut tree = Tree::default();
    let mut inodes: BTreeMap<(u64, u64), Vec<PathBuf>> = BTreeMap::new();
    let mut pending = vec![PathBuf::new()];
    while let Some(path) = pending.pop() {
        // `join("")` would add a slash and follow a root that is a symlink.
        let full = if path.as_os_str().is_empty() { root.to_owned() } else { root.join(&path) };
        let metadata = on(&full, "stat", fs::symlink_metadata(&full));
        if metadata.is_dir() {
            for entry in on(&full, "list", fs::read_dir(&full)) {
                pending.push(path.join(on(&full, "list", entry).file_name()));
            }
        } else if metadata.nlink() > 1 {
            inodes.entry((metadata.dev(), metadata.ino())).or_default().push(path.clone());
        }
        let node = Node {
            kind: kind(&full, &metadata),
            mode: metadata.mode() & 0o7777,
            uid: metadata.uid(),
            gid: metadata.gid(),
            mtime: (metadata.mtime(), u32::try_from(metadata.mtime_nsec()).unwrap()),
            xattrs: xattrs(&full),
            linked_as: None,
        };
        tree.0.insert(path, node);
    }
    for mut names in inodes.into_values().filter(|names| names.len() > 1) {
        names.sort();
        for name in &names {
            tree.0.get_mut(name).unwrap().linked_as = Some(names[0].clone());
        }
    }
    tree
}

fn kind(path: &Path, metadata: &fs::Metadata) -> Kind {
    let kind = metadata.file_type();
    let device = || (rustix::fs::major(metadata.rdev()), rustix::fs::minor(metadata.rdev()));
    if kind.is_file() {
        let mut file = on(path, "open", File::open(path));
        let mut hasher = sha2::Sha256::new();
        let mut buffer = vec![0; 1 << 17];
        loop {
            match on(path, "read", file.read(&mut buffer)) {
                0 => break,
                read => hasher.update(&buffer[..read]),
            }
        }
        let sha256 = hasher.finalize().iter().map(|byte| format!("{byte:02x}")).collect();
        Kind::File { size: metadata.len(), sha256, holes: holes(path, &file, metadata.len()) }
    } else if kind.is_dir() {
        Kind::Directory
    } else if kind.is_symlink() {
        Kind::Symlink(on(path, "read link", fs::read_link(path)).as_os_str().as_bytes().to_vec())
    } else if kind.is_fifo() {
        Kind::Fifo
    } else if kind.is_char_device() {
        Kind::Char(device().0, device().1)
    } else if kind.is_block_device() {
        Kind::Block(device().0, device().1)
    } else {
        Kind::Socket
    }
}

fn holes(path: &Path, file: &File, size: u64) -> Vec<(u64, u64)> {
    let mut holes = Vec::new();
    let mut at = 0;
    while at < size {
        let hole = on(path, "seek", rustix::fs::seek(file, SeekFrom::Hole(at)));
        let data = match rustix::fs::seek(file, SeekFrom::Data(hole)) {
            Err(rustix::io::Errno::NXIO) => size,
            data => on(path, "seek", data),
        };
        if hole < size {
            holes.push((hole, data - hole));
        }
        at = data;
    }
    holes
}

/// All extended attributes of `path` itself that this process can see.
pub fn xattrs(path: &Path) -> BTreeMap<Vec<u8>, Vec<u8>> {
    let mut names = vec![0; 1 << 16];
    let length = match rustix::fs::llistxattr(path, names.as_mut_slice()) {
        Err(rustix::io::Errno::OPNOTSUPP) => 0,
        length => on(path, "list xattrs", length),
    };
    let mut value = vec![0; 1 << 16];
    names[..length]
        .split(|&byte| byte == 0)
        .filter(|name| !name.is_empty())
        .map(|name| {
            let length = on(path, "read xattr", rustix::fs::lgetxattr(path, name, value.as_mut_slice()));
            (name.to_vec(), value[..length].to_vec())
        })
        .collect()
}

fn on<T, E: std::fmt::Display>(path: &Path, step: &str, result: Result<T, E>) -> T {
    result.unwrap_or_else(|error| panic!("cannot {step} {}: {error}", path.display()))
}

impl Tree {
    /// What is at `path`, which may begin with a slash.
    ///
    /// # Panics
    ///
    /// If nothing is.
    pub fn at(&self, path: impl AsRef<Path>) -> &Node {
        self.get(&path).unwrap_or_else(|| panic!("there is no {}", path.as_ref().display()))
    }

    /// What is at `path`, which may begin with a slash.
    pub fn get(&self, path: impl AsRef<Path>) -> Option<&Node> {
        let path = path.as_ref();
        self.0.get(path.strip_prefix("/").unwrap_or(path))
    }

    /// Every name but the root's, in order.
    pub fn names(&self) -> Vec<&str> {
        self.0.keys().filter_map(|path| path.to_str()).filter(|path| !path.is_empty()).collect()
    }

    /// The same tree with every node changed in one way.
    #[must_use]
    pub fn map(mut self, mut change: impl FnMut(&Path, &mut Node)) -> Self {
        self.0.iter_mut().for_each(|(path, node)| change(path, node));
        self
    }

    /// Without the attributes whose names the function picks.
    #[must_use]
    pub fn without_xattrs(self, mut pick: impl FnMut(&[u8]) -> bool) -> Self {
        self.map(|_, node| node.xattrs.retain(|name, _| !pick(name)))
    }

    /// With the files' holes filled: their content is still compared.
    #[must_use]
    pub fn without_holes(self) -> Self {
        self.map(|_, node| {
            if let Kind::File { holes, .. } = &mut node.kind {
                holes.clear();
            }
        })
    }

    /// With the owner of everything forgotten.
    #[must_use]
    pub fn without_owners(self) -> Self {
        self.map(|_, node| (node.uid, node.gid) = (0, 0))
    }

    /// With the modification time of everything forgotten that the function picks.
    #[must_use]
    pub fn without_mtimes(self, mut pick: impl FnMut(&Path, &Node) -> bool) -> Self {
        self.map(|path, node| {
            if pick(path, node) {
                node.mtime = (0, 0);
            }
        })
    }

    /// With the metadata of the root directory forgotten.
    #[must_use]
    pub fn without_root(mut self) -> Self {
        self.0.remove(Path::new(""));
        self
    }

    /// Without `path` and all below it.
    #[must_use]
    pub fn without(mut self, path: impl AsRef<Path>) -> Self {
        self.0.retain(|name, _| !name.starts_with(path.as_ref()));
        self
    }

    /// One line for every name that the two do not share, and for every fact about a shared name that differs.
    pub fn differences(&self, other: &Self) -> Vec<String> {
        let mut lines = Vec::new();
        for path in self.0.keys().chain(other.0.keys().filter(|path| !self.0.contains_key(*path))) {
            let name = format!("/{}", path.display());
            match (self.0.get(path), other.0.get(path)) {
                (Some(left), Some(right)) => {
                    lines.extend(
                        node_differences(left, right).into_iter().map(|fact| format!("{name}: {fact}")),
                    );
                }
                (Some(left), None) => lines.push(format!("{name}: only on the left: {}", left.describe())),
                (None, Some(right)) => lines.push(format!("{name}: only on the right: {}", right.describe())),
                (None, None) => unreachable!("the name came from one of them"),
            }
        }
        lines.sort();
        lines
    }

    /// Compares with what was expected.
    ///
    /// # Panics
    ///
    /// With the differences, named from `self` (left) to `expected` (right).
    #[track_caller]
    pub fn assert_same(&self, expected: &Self, what: &str) {
        let lines = self.differences(expected);
        let more = lines.len().saturating_sub(60);
        let mut text = lines.iter().take(60).fold(String::new(), |text, line| text + "  " + line + "\n");
        if more > 0 {
            writeln!(text, "  … and {more} more").unwrap();
        }
        assert!(lines.is_empty(), "{what}: the trees differ (found → expected):\n{text}");
    }
}

impl Node {
    /// The node in one line.
    pub fn describe(&self) -> String {
        let mut text = format!("{:?} {:04o} {}:{}", self.kind, self.mode, self.uid, self.gid);
        write!(text, " {}.{:09}", self.mtime.0, self.mtime.1).unwrap();
        for (name, value) in &self.xattrs {
            write!(text, " {}={:?}", name.escape_ascii(), value.escape_ascii().to_string()).unwrap();
        }
        if let Some(first) = &self.linked_as {
            write!(text, " linked as /{}", first.display()).unwrap();
        }
        text
    }
}

fn node_differences(left: &Node, right: &Node) -> Vec<String> {
    let mut facts = Vec::new();
    let mut compare = |what: &str, left: String, right: String| {
        if left != right {
            facts.push(format!("{what} {left} → {right}"));
        }
    };
    match (&left.kind, &right.kind) {
        (
            Kind::File { size, sha256, holes },
            Kind::File { size: other_size, sha256: other_sha256, holes: other_holes },
        ) => {
            compare("size", size.to_string(), other_size.to_string());
            compare("content", sha256.clone(), other_sha256.clone());
            compare("holes", format!("{holes:?}"), format!("{other_holes:?}"));
        }
        (left, right) => compare("kind", format!("{left:?}"), format!("{right:?}")),
    }
    compare("mode", format!("{:04o}", left.mode), format!("{:04o}", right.mode));
    compare("owner", format!("{}:{}", left.uid, left.gid), format!("{}:{}", right.uid, right.gid));
    let time = |node: &Node| format!("{}.{:09}", node.mtime.0, node.mtime.1);
    compare("mtime", time(left), time(right));
    compare("linked as", format!("{:?}", left.linked_as), format!("{:?}", right.linked_as));
    let value = |node: &Node, name: &[u8]| {
        node.xattrs.get(name).map_or("absent".to_owned(), |value| format!("\"{}\"", value.escape_ascii()))
    };
    for name in left.xattrs.keys().chain(right.xattrs.keys().filter(|name| !left.xattrs.contains_key(*name)))
    {
        compare(&format!("xattr {}", name.escape_ascii()), value(left, name), value(right, name));
    }
    facts
}

/// The directories of a tree, for picking.
pub fn is_directory(_: &Path, node: &Node) -> bool {
    node.kind == Kind::Directory
}

/// The regular files of a tree, for picking.
pub fn is_file(_: &Path, node: &Node) -> bool {
    node.kind.is_file()
}
