//! What layers mean: an interpreter over a map, slow and obvious, to judge the real thing by.
//!
//! It takes the entries that a test wrote, not the tar, and knows no disk. Each layer is applied in two steps, because
//! deletions act on what lies below and never on the layer they stand in: first its whiteouts, then its entries in
//! order. A whiteout makes no directory. An opaque marker makes its own, unless the layer deletes that. What must be refused (names that climb, links to nothing) is not its business: it panics.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Component, Path, PathBuf};

use super::tar::{Entry, Kind as EntryKind};
use super::tree::{Kind, Node, Tree};

/// Names and inodes of a root that layers are applied to.
#[derive(Clone, Debug)]
pub struct Model {
    names: BTreeMap<PathBuf, usize>,
    inodes: Vec<Node>,
}

/// The root that these layers make, lowest first.
pub fn stack<'a>(layers: impl IntoIterator<Item = &'a [Entry]>) -> Tree {
    let mut model = Model::default();
    layers.into_iter().for_each(|layer| model.apply(layer));
    model.tree()
}

impl Default for Model {
    /// Nothing but a root that nobody described.
    fn default() -> Self {
        Self { names: BTreeMap::from([(PathBuf::new(), 0)]), inodes: vec![undeclared_directory()] }
    }
}

impl Model {
    /// Puts one more layer on top.
    pub fn apply(&mut self, layer: &[Entry]) {
        let before = self.names.clone();
        for entry in layer {
            self.delete(&clean(&entry.name));
        }
        // What this layer made: a link to anything else is a link to a file below.
        let mut fresh: BTreeSet<usize> = BTreeSet::new();
        let mut copied_up: BTreeMap<usize, usize> = BTreeMap::new();
        // AUFS keeps the bodies of hard links here; they are no part of the tree.
        let mut aside: BTreeMap<PathBuf, usize> = BTreeMap::new();
        let mut later = Vec::new();
        for entry in layer {
            let path = clean(&entry.name);
            if is_aufs(&path) {
                if let EntryKind::File(_) = entry.kind {
                    let inode = self.inode(node(entry, &path));
                    fresh.insert(inode);
                    aside.insert(path, inode);
                }
                continue;
            }
            let is_whiteout = base(&path).starts_with(b".wh.");
            if is_whiteout {
                let directory = path.parent().expect("a whiteout has a directory");
                let covered = self.is_covered(&path, &fresh);
                if base(&path) == b".wh..wh..opq" && (covered || !is_deleted(directory, layer)) {
                    self.place(&path);
                }
                continue;
            }
            let place = self.place(&path);
            if let EntryKind::Link(target) = &entry.kind {
                if !self.link(&place, &clean(target), &mut fresh, &mut copied_up, &aside) {
                    later.push((place, clean(target)));
                }
                continue;
            }
            let node = node(entry, &path);
            let is_directory = node.kind == Kind::Directory;
            match self.names.get(&place) {
                Some(&old) if is_directory && self.inodes[old].kind == Kind::Directory => {
                    self.inodes[old] = node
                }
                _ => {
                    assert!(!place.as_os_str().is_empty(), "the root is a directory");
                    self.remove(&place);
                    let inode = self.inode(node);
                    fresh.insert(inode);
                    self.names.insert(place, inode);
                }
            }
        }
        for (place, target) in later {
            let mut found = self.link(&place, &target, &mut fresh, &mut copied_up, &aside);
            // Only a name that this layer deletes is left.
            if let (false, Some(&inode)) = (found, before.get(&target)) {
                let copy = *copied_up.entry(inode).or_insert_with(|| {
                    self.inodes.push(self.inodes[inode].clone());
                    self.inodes.len() - 1
                });
                self.remove(&place);
                self.names.insert(place.clone(), copy);
                found = true;
            }
            assert!(found, "{} links to {}, which is nowhere", place.display(), target.display());
        }
    }

    /// The root as it would be found on disk.
    pub fn tree(&self) -> Tree {
        let mut first: BTreeMap<usize, (&PathBuf, usize)> = BTreeMap::new();
        for (path, &inode) in &self.names {
            first.entry(inode).or_insert((path, 0)).1 += 1;
        }
        let node = |inode: usize| {
            let (path, names) = first[&inode];
            Node { linked_as: (names > 1).then(|| path.clone()), ..self.inodes[inode].clone() }
        };
        Tree(self.names.iter().map(|(path, &inode)| (path.clone(), node(inode))).collect())
    }

    /// Lets a whiteout or an opaque marker act; anything else is nothing to it.
    fn delete(&mut self, path: &Path) {
        let Some(deleted) = base(path).strip_prefix(b".wh.") else { return };
        let parent = path.parent().expect("a whiteout has a directory");
        let Some(parent) = self.resolve(parent, false) else { return };
        if deleted == b".wh..opq" {
            self.remove_children(&parent);
        } else if !is_aufs(path) {
            self.remove(&parent.join(OsStr::from_bytes(deleted)));
        }
    }

    /// Whether this layer has something on the way to `path` that is no directory.
    fn is_covered(&self, path: &Path, fresh: &BTreeSet<usize>) -> bool {
        path.ancestors().skip(1).any(|above| {
            let inode = self.names.get(above).filter(|inode| fresh.contains(inode));
            inode.is_some_and(|&inode| self.inodes[inode].kind != Kind::Directory)
        })
    }

    /// Where the entry at `path` goes, after its parents were made.
    fn place(&mut self, path: &Path) -> PathBuf {
        let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else { return PathBuf::new() };
        self.resolve(parent, true).expect("parents are made").join(name)
    }

    /// The directory that `path` leads to, as seen from inside the root; what is missing on the way is made, and what
    /// is neither a directory nor a link is replaced by one, if `make` says so.
    fn resolve(&mut self, path: &Path, make: bool) -> Option<PathBuf> {
        let mut todo: Vec<PathBuf> = path.components().rev().map(|one| one.as_os_str().into()).collect();
        let mut at = PathBuf::new();
        let mut links = 0;
        while let Some(component) = todo.pop() {
            match component.components().next() {
                Some(Component::Normal(name)) => at.push(name),
                Some(Component::RootDir) => at = PathBuf::new(),
                Some(Component::ParentDir) => _ = at.pop(),
                _ => {}
            }
            let kind = self.names.get(&at).map(|&inode| self.inodes[inode].kind.clone());
            match kind {
                Some(Kind::Directory) => {}
                Some(Kind::Symlink(target)) => {
                    links += 1;
                    assert!(links <= 40, "{} is a loop of links", path.display());
                    at.pop();
                    let target = PathBuf::from(OsStr::from_bytes(&target));
                    todo.extend(target.components().rev().map(|one| PathBuf::from(one.as_os_str())));
                }
                _ if !make => return None,
                _ => {
                    self.remove(&at);
                    let inode = self.inode(undeclared_directory());
                    self.names.insert(at.clone(), inode);
                }
            }
        }
        Some(at)
    }

    /// Makes `place` another name of what `target` names. The inode is copied if it belongs to a layer below, as
    /// overlayfs copies up: names that only layers below gave it stay behind. `false` if the target is not there.
    fn link(
        &mut self,
        place: &Path,
        target: &Path,
        fresh: &mut BTreeSet<usize>,
        copied_up: &mut BTreeMap<usize, usize>,
        aside: &BTreeMap<PathBuf, usize>,
    ) -> bool {
        let parent = target.parent().and_then(|parent| self.resolve(parent, false));
        let name = parent.zip(target.file_name()).map(|(parent, name)| parent.join(name));
        assert_ne!(name.as_deref(), Some(place), "a link to itself");
        let (inode, name) = match (aside.get(target), name) {
            (Some(&inode), name) => (inode, name),
            (None, Some(name)) if self.names.contains_key(&name) => (self.names[&name], Some(name)),
            _ => return false,
        };
        let inode = if fresh.contains(&inode) {
            inode
        } else {
            let copy = *copied_up.entry(inode).or_insert_with(|| {
                self.inodes.push(self.inodes[inode].clone());
                self.inodes.len() - 1
            });
            fresh.insert(copy);
            self.names.insert(name.expect("what lies below has a name"), copy);
            copy
        };
        if self.names.get(place) != Some(&inode) {
            self.remove(place);
            self.names.insert(place.to_owned(), inode);
        }
        true
    }

    fn remove(&mut self, path: &Path) {
        self.names.retain(|name, _| !name.starts_with(path));
    }

    fn remove_children(&mut self, path: &Path) {
        self.names.retain(|name, _| name == path || !name.starts_with(path));
    }

    fn inode(&mut self, node: Node) -> usize {
        self.inodes.push(node);
        self.inodes.len() - 1
    }
}

/// Whether `layer` deletes `directory`, and no entry of it makes that directory again.
fn is_deleted(directory: &Path, layer: &[Entry]) -> bool {
    directory.ancestors().any(|above| {
        let whiteout = above.file_name().map(|name| {
            above.with_file_name(OsStr::from_bytes(&[b".wh.".as_slice(), name.as_bytes()].concat()))
        });
        let entries = || layer.iter().map(|entry| clean(&entry.name));
        entries().any(|entry| Some(entry) == whiteout)
            && !entries().any(|entry| !base(&entry).starts_with(b".wh.") && entry.starts_with(above))
    })
}

fn undeclared_directory() -> Node {
    Node {
        kind: Kind::Directory,
        mode: 0o755,
        uid: 0,
        gid: 0,
        mtime: (0, 0),
        xattrs: BTreeMap::new(),
        linked_as: None,
    }
}

/// A name or link target as it stands in an archive, seen from the root.
fn clean(name: &[u8]) -> PathBuf {
    let path = PathBuf::from(std::ffi::OsString::from_vec(name.to_vec()));
    let keep = |component: &Component<'_>| matches!(component, Component::Normal(_) | Component::ParentDir);
    let path: PathBuf = path.components().filter(keep).collect();
    assert!(
        !path.components().any(|component| component == Component::ParentDir),
        "{} climbs",
        path.display()
    );
    path
}

fn base(path: &Path) -> &[u8] {
    path.file_name().unwrap_or_default().as_bytes()
}

fn is_aufs(path: &Path) -> bool {
    path.components().any(|component| {
        let name = component.as_os_str().as_bytes();
        name.starts_with(b".wh..wh.") && name != b".wh..wh..opq"
    })
}

fn node(entry: &Entry, path: &Path) -> Node {
    let kind = match &entry.kind {
        EntryKind::File(_) if entry.name.ends_with(b"/") => Kind::Directory,
        EntryKind::File(content) => Kind::file(content),
        EntryKind::Directory => Kind::Directory,
        EntryKind::Symlink(target) => Kind::Symlink(target.clone()),
        EntryKind::Fifo => Kind::Fifo,
        EntryKind::Char(major, minor) => Kind::Char(*major, *minor),
        EntryKind::Block(major, minor) => Kind::Block(*major, *minor),
        EntryKind::Sparse(size, data, _) => sparse(*size, data),
        EntryKind::Link(_) | EntryKind::Other(..) => {
            panic!("{}: {:?} has no node", path.display(), entry.kind)
        }
    };
    // Nobody asks a link for permission: the mode that an archive gives it is lost.
    let mode = if matches!(kind, Kind::Symlink(_)) { 0o777 } else { entry.mode };
    Node {
        kind,
        mode,
        uid: u32::try_from(entry.uid).unwrap(),
        gid: u32::try_from(entry.gid).unwrap(),
        mtime: entry.mtime,
        xattrs: entry.xattrs.clone(),
        linked_as: None,
    }
}

fn sparse(size: u64, data: &[(u64, Vec<u8>)]) -> Kind {
    let mut content = vec![0; usize::try_from(size).unwrap()];
    let mut holes = Vec::new();
    let mut end = 0;
    for (offset, bytes) in data.iter().filter(|(_, bytes)| !bytes.is_empty()) {
        let start = usize::try_from(*offset).unwrap();
        content[start..start + bytes.len()].copy_from_slice(bytes);
        let first = offset / 4096 * 4096;
        if first > end {
            holes.push((end, first - end));
        }
        end = (offset + bytes.len() as u64).next_multiple_of(4096);
    }
    if end < size {
        holes.push((end, size - end));
    }
    let Kind::File { size, sha256, .. } = Kind::file(&content) else { unreachable!("it is a file") };
    Kind::File { size, sha256, holes }
}
