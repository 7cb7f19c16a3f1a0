//! Layers to stack, a place to stack them in, and two ways to see a tree: as a driver shows it and as the layers say.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::os::unix::fs::FileExt;
use std::path::Path;

use plywood::driver::{Driver, DriverKind, Probe, ProbeOptions, RootSpec};
use plywood::fs::{DeviceNumber, Dir, Error, FileType, Kind, Metadata, Timestamp};
use plywood::path::LayerPath;
use plywood::stack::marks::Marks;
use plywood::stack::object::{self, Style};
use plywood::stack::{Stack, Tree};
use plywood::whiteout::Namespace;

/// A directory with layers and space for roots, removed at the end.
pub struct World {
    pub dir: Dir,
    pub probe: Probe,
    pub trees: Vec<Tree>,
    _temp: tempfile::TempDir,
}

impl World {
    /// Three layers with everything that a layer can hold and that this process can make.
    pub fn new() -> Self {
        Self::probed(&ProbeOptions::default())
    }

    /// The same, with this fuse-overlayfs tried too.
    pub fn with_fuse(program: &Path) -> Self {
        let mut options = ProbeOptions::default();
        options.fuse_overlayfs = Some(program.to_owned());
        options.fuse_in_any_case = true;
        Self::probed(&options)
    }

    fn probed(options: &ProbeOptions) -> Self {
        let temp = crate::common::scratch();
        let dir = Dir::open_ambient(temp.path()).unwrap();
        let probe = Probe::run_with(&dir, options).unwrap();
        let mut world = Self { dir, probe, trees: Vec::new(), _temp: temp };
        world.trees = vec![world.top(), world.middle(), world.bottom()];
        world
    }

    pub fn driver(&self, kind: DriverKind) -> Box<dyn Driver> {
        self.probe.driver(Some(kind)).unwrap()
    }

    pub fn layers(&self) -> Stack<'_> {
        Stack::new(&self.trees)
    }

    /// A new private directory.
    pub fn root(&self, name: &str) -> Dir {
        self.dir.ensure_dir(name, 0o755).unwrap()
    }

    fn family(&self) -> Namespace {
        self.probe.family
    }

    /// An empty layer.
    pub fn layer(&self, name: &str) -> Tree {
        let dir = self.dir.ensure_dir(name, 0o755).unwrap();
        Tree { dir, marks: Marks::Overlay(self.family()), declares_root: false }
    }

    fn put(&self, tree: &Tree, path: &str, file_type: FileType, mode: u32, xattrs: &[(&str, &[u8])]) {
        let name = LayerPath::parse(path).unwrap();
        if !name.is_root() {
            object::create(&tree.dir, name.as_path(), &file_type).unwrap();
        }
        self.describe(tree, path, file_type, mode, xattrs);
    }

    fn describe(&self, tree: &Tree, path: &str, file_type: FileType, mode: u32, xattrs: &[(&str, &[u8])]) {
        let name = LayerPath::parse(path).unwrap();
        let style = Style { family: Some(self.family()), privileged: self.probe.privileged };
        let foreign = self.family() == Namespace::Trusted;
        let metadata = Metadata {
            mode,
            uid: if foreign { 1234 } else { 0 },
            gid: if foreign { 77 } else { 0 },
            mtime: Timestamp { seconds: 1_000_000_000 + i64::from(mode), nanos: 123_456_789 },
            xattrs: xattrs.iter().map(|(name, value)| (name.as_bytes().to_vec(), value.to_vec())).collect(),
        };
        let mut lose = |loss: object::Loss| panic!("{loss}");
        object::set_metadata(&tree.dir, name.as_path(), &file_type, &metadata, style, &mut lose, &name)
            .unwrap();
    }

    fn file(&self, tree: &Tree, path: &str, content: &[u8], mode: u32) {
        tree.dir.create_file(path, 0o600).unwrap().write_all(content).unwrap();
        let size = content.len() as u64;
        self.describe(tree, path, FileType::File { size }, mode, &[("user.note", path.as_bytes())]);
    }

    fn bottom(&self) -> Tree {
        let mut tree = self.layer("bottom");
        for name in ["etc", "etc/deep", "gone", "opaque", "replaced"] {
            self.put(&tree, name, FileType::Directory, 0o755, &[]);
            self.file(&tree, &format!("{name}/one"), b"bottom one", 0o644);
            self.file(&tree, &format!("{name}/two"), b"bottom two", 0o640);
        }
        self.file(&tree, "setuid", b"#!/bin/true\n", 0o4755);
        self.file(&tree, "removed", b"removed", 0o644);
        tree.dir.hard_link("setuid", &tree.dir, "etc/setuid-too").unwrap();
        self.put(&tree, "link", FileType::Symlink(b"../../etc/one".to_vec()), 0o777, &[]);
        self.put(&tree, "pipe", FileType::Fifo, 0o622, &[]);
        let sparse = tree.dir.create_file("sparse", 0o600).unwrap();
        sparse.write_all_at(b"end", 8 << 20).unwrap();
        self.describe(&tree, "sparse", FileType::File { size: 0 }, 0o600, &[]);
        if self.family() == Namespace::Trusted {
            self.put(&tree, "null", FileType::CharDevice(DeviceNumber { major: 1, minor: 3 }), 0o666, &[]);
        }
        self.describe(&tree, "etc", FileType::Directory, 0o751, &[("user.dir", b"attr")]);
        self.describe(&tree, "", FileType::Directory, 0o755, &[("user.root", b"yes")]);
        tree.declares_root = true;
        tree
    }

    fn middle(&self) -> Tree {
        let tree = self.layer("middle");
        let at = Path::new;
        self.put(&tree, "etc", FileType::Directory, 0o750, &[("user.dir", b"middle")]);
        self.family().whiteout(&tree.dir, at("etc"), at("one")).unwrap();
        self.family().whiteout(&tree.dir, at("."), at("gone")).unwrap();
        self.family().whiteout(&tree.dir, at("."), at("removed")).unwrap();
        self.put(&tree, "opaque", FileType::Directory, 0o700, &[]);
        self.family().mark_opaque(&tree.dir, at("opaque")).unwrap();
        self.file(&tree, "opaque/three", b"middle three", 0o444);
        tree
    }

    fn top(&self) -> Tree {
        let tree = self.layer("top");
        self.put(&tree, "replaced", FileType::Symlink(b"etc".to_vec()), 0o777, &[]);
        self.put(&tree, "gone", FileType::Directory, 0o1777, &[]);
        self.file(&tree, "gone/back", b"top", 0o604);
        self.put(&tree, "etc", FileType::Directory, 0o755, &[]);
        self.file(&tree, "etc/one", b"top one", 0o644);
        tree
    }

    /// A prepared root of the world's layers.
    pub fn prepared<'a>(
        &self,
        driver: &dyn Driver,
        layers: &'a Stack<'a>,
        dir: &'a Dir,
        id: &'a str,
    ) -> RootSpec<'a> {
        let spec = RootSpec::new(layers, dir, id);
        let prepared = driver.prepare(&spec).unwrap();
        assert!(prepared.losses.is_empty(), "{:?}", prepared.losses);
        spec
    }
}

/// One name of a tree, with all that can be seen of it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Seen {
    file_type: FileType,
    metadata: Metadata,
    content: Vec<u8>,
    /// The first of the names that the same file has.
    first_name: String,
}

pub type View = BTreeMap<String, Seen>;

/// What `stack` says.
pub fn view(stack: &Stack<'_>) -> View {
    let mut view = View::new();
    let mut first_names = BTreeMap::new();
    let mut see = |path: &LayerPath, found: &plywood::stack::Found| {
        let mut object = stack.object(path, found)?;
        // The kernel shows marks of the family that a mount does not obey.
        object.metadata.xattrs.retain(|name, _| !name.starts_with(b"user.overlay."));
        let mut content = Vec::new();
        if matches!(object.file_type, FileType::File { .. }) && found.stat.kind == Kind::File {
            stack.open(path, found)?.read_to_end(&mut content).unwrap();
        }
        let key = (found.tree(), object.stat.inode);
        let name = path.to_string();
        let first_name =
            if found.is_directory() { &name } else { first_names.entry(key).or_insert(name.clone()) };
        let seen = Seen {
            file_type: object.file_type,
            metadata: object.metadata,
            content,
            first_name: first_name.clone(),
        };
        view.insert(name, seen);
        Ok::<_, Error>(())
    };
    let root = stack.root().unwrap().unwrap();
    see(&LayerPath::ROOT, &root).unwrap();
    stack.walk::<Error>(&mut see).unwrap();
    view
}

/// What an ordinary directory shows, mounted or not.
pub fn view_of(dir: &Dir) -> View {
    let tree = Tree { dir: dir.try_clone().unwrap(), marks: Marks::None, declares_root: true };
    view(&Stack::new([&tree]))
}

/// Compares two views name by name, for a message that can be read.
pub fn assert_same(left: &View, right: &View) {
    let names = |view: &View| view.keys().cloned().collect::<Vec<_>>();
    assert_eq!(names(left), names(right));
    for (name, seen) in left {
        assert_eq!(seen, &right[name], "{name}");
    }
}
