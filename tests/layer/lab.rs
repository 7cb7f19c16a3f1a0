//! What the tests of this binary share: a place for layers, and what a reader of them sees.

use std::collections::BTreeMap;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use plywood::digest::{DiffId, Digest};
use plywood::fs::{Dir, FileType, Staging};
use plywood::layer::{EnsureOptions, Ensured, Layer, LayerError, LayerSource, LayerStore};
use plywood::stack::Stack;

use crate::common;
use crate::common::model;
use crate::common::tar::Tar;
use crate::common::tree::{Kind, Node, Tree};

/// A place for layers.
pub struct Lab {
    pub scratch: tempfile::TempDir,
    pub store: LayerStore,
    pub staging: Staging,
}

pub fn lab() -> Lab {
    let scratch = common::scratch();
    let dir = |name| Dir::ensure_ambient(scratch.path().join(name)).unwrap();
    let store = LayerStore::new(dir("layers"), dir("locks"));
    let staging = Staging::new(dir("staging"));
    Lab { scratch, store, staging }
}

pub fn diff_id(tar: &[u8]) -> DiffId {
    DiffId::of_tar(Digest::of(tar))
}

pub fn source(tar: &[u8]) -> LayerSource<'static> {
    let blob = tar.to_vec();
    LayerSource::new(
        diff_id(tar),
        Digest::of(tar),
        tar.len() as u64,
        Box::new(move || Ok(Box::new(std::io::Cursor::new(blob.clone())))),
    )
}

impl Lab {
    pub fn try_ensure(&self, tars: &[Vec<u8>]) -> Result<Ensured, LayerError> {
        let sources: Vec<_> = tars.iter().map(|tar| source(tar)).collect();
        let work = self.staging.workspace().unwrap();
        let ensured = self.store.ensure(&sources, &work, &EnsureOptions::default());
        work.close().unwrap();
        ensured
    }

    pub fn ensure(&self, tars: &[Vec<u8>]) -> Vec<Layer> {
        let ensured = self.try_ensure(tars).unwrap_or_else(|error| panic!("{}", chain(&error)));
        ensured.keys.iter().map(|&key| self.store.get(key).unwrap().expect("it was just made")).collect()
    }

    /// The root that these layers make, lowest first.
    pub fn root(&self, layers: &[Tar]) -> Tree {
        let tars: Vec<_> = layers.iter().map(|layer| layer.clone().finish()).collect();
        seen(&self.ensure(&tars))
    }

    /// Nothing is left but layers.
    pub fn assert_clean(&self) {
        for name in ["staging", "locks"] {
            let left: Vec<_> = std::fs::read_dir(self.scratch.path().join(name)).unwrap().collect();
            assert!(left.is_empty(), "{name}: {left:?}");
        }
    }
}

pub fn chain(error: &dyn std::error::Error) -> String {
    std::iter::successors(Some(error), |error| error.source())
        .map(ToString::to_string)
        .collect::<Vec<_>>()
        .join(": ")
}

/// What a reader of the layers, lowest first, sees.
pub fn seen(layers: &[Layer]) -> Tree {
    let stack = Stack::new(layers.iter().rev().map(|layer| &layer.tree));
    let mut tree = Tree::default();
    let mut inodes: BTreeMap<(u64, u64), Vec<PathBuf>> = BTreeMap::new();
    let mut add = |path: &plywood::path::LayerPath, found: &plywood::stack::Found| {
        let object = stack.object(path, found)?;
        let name = PathBuf::from(std::ffi::OsStr::from_bytes(path.as_bytes()));
        let kind = match object.file_type {
            FileType::File { .. } => {
                let mut content = Vec::new();
                std::io::Read::read_to_end(&mut stack.open(path, found)?, &mut content).unwrap();
                Kind::file(&content)
            }
            FileType::Directory => Kind::Directory,
            FileType::Symlink(target) => Kind::Symlink(target),
            FileType::Fifo => Kind::Fifo,
            FileType::CharDevice(device) => Kind::Char(device.major, device.minor),
            FileType::BlockDevice(device) => Kind::Block(device.major, device.minor),
            _ => Kind::Socket,
        };
        if kind != Kind::Directory {
            inodes.entry((found.stat.device, found.stat.inode)).or_default().push(name.clone());
        }
        let metadata = object.metadata;
        let node = Node {
            kind,
            mode: metadata.mode,
            uid: metadata.uid,
            gid: metadata.gid,
            mtime: (metadata.mtime.seconds, metadata.mtime.nanos),
            xattrs: metadata.xattrs,
            linked_as: None,
        };
        tree.0.insert(name, node);
        Ok::<_, plywood::fs::Error>(())
    };
    let root = stack.root().unwrap().expect("there is a layer");
    add(&plywood::path::LayerPath::ROOT, &root).unwrap();
    stack.walk(&mut add).unwrap();
    for mut names in inodes.into_values().filter(|names| names.len() > 1) {
        names.sort();
        for name in &names {
            tree.0.get_mut(name).unwrap().linked_as = Some(names[0].clone());
        }
    }
    tree
}

pub fn meant(layers: &[Tar]) -> Tree {
    let entries: Vec<_> = layers.iter().map(Tar::entries).collect();
    model::stack(entries.iter().map(Vec::as_slice)).without_holes()
}

/// A source that counts how often it is opened.
pub fn counted_source(tar: &[u8]) -> (LayerSource<'static>, Arc<AtomicUsize>) {
    let count = Arc::new(AtomicUsize::new(0));
    let LayerSource { diff_id, blob, size, open, .. } = source(tar);
    let counter = Arc::clone(&count);
    let open = move || {
        counter.fetch_add(1, Ordering::Relaxed);
        open()
    };
    (LayerSource::new(diff_id, blob, size, Box::new(open)), count)
}
