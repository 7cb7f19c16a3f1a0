//! A store in a directory of its own, an image with everything in it, and ways to look at both.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use plywood::driver::DriverKind;
use plywood::fs::Durability;
use plywood::store::{Container, DriverChoice, Image, LoadOptions, Store, StoreError, StoreOptions};
use rustix::fs::{AtFlags, CWD, FileType, Mode, Timespec, Timestamps, XattrFlags};

use crate::common::image::{Compression, ImageSpec, Layout, image};
use crate::common::privilege::Privilege;
use crate::common::tar::{SparseDialect, Tar, tar};
use crate::common::tree::{Kind, Tree, snapshot};
use crate::common::untar;
use crate::common::{self, model};

/// A new store, removed at the end.
pub struct World {
    temp: tempfile::TempDir,
    pub store: Store,
}

impl World {
    /// With this driver, and without waiting for the disk: the machine does not stop in a test.
    pub fn driver(kind: DriverKind) -> Self {
        Self::with(&options().driver(DriverChoice::Only(kind)))
    }

    /// With these options.
    pub fn with(options: &StoreOptions) -> Self {
        let temp = common::scratch();
        let store = options.create(temp.path().join("store")).unwrap();
        Self { temp, store }
    }

    /// The directory of the store.
    pub fn path(&self) -> PathBuf {
        self.temp.path().join("store")
    }

    /// A place beside the store.
    pub fn beside(&self, name: &str) -> PathBuf {
        self.temp.path().join(name)
    }

    /// The same store, opened once more.
    pub fn again(&self) -> Store {
        options().open(self.path()).unwrap()
    }

    /// Loads an archive with one image.
    #[track_caller]
    pub fn load(&self, archive: impl AsRef<[u8]>) -> Image {
        load(&self.store, archive)
    }

    /// Loads one image.
    #[track_caller]
    pub fn load_image(&self, image: &ImageSpec) -> Image {
        self.load(Layout::of(image).oci_archive())
    }

    /// Everything that can be seen in the store: what is left out is work in progress and locks.
    pub fn state(&self) -> Tree {
        let state = snapshot(self.path()).without("staging").without("locks").without("cache");
        // That something was tried in staging is no trace.
        state.without_mtimes(|path, _| path.as_os_str().is_empty())
    }

    /// Runs what must fail and leaves nothing behind.
    #[track_caller]
    pub fn refuse<T: std::fmt::Debug>(
        &self,
        what: impl FnOnce(&Store) -> Result<T, StoreError>,
    ) -> StoreError {
        // What came and went again shows in the times of the directories that it was in.
        let fixed = ["layers", "oci/blobs/sha256"].map(Path::new);
        let state = || self.state().without_mtimes(|path, _| fixed.contains(&path));
        let before = state();
        let error = what(&self.store).expect_err("it should have been refused");
        state().assert_same(&before, &format!("after {}", chain(&error)));
        assert_eq!(names_in(&self.path().join("staging")), BTreeSet::new(), "after {}", chain(&error));
        error
    }
}

/// Puts the directory for temporary files into memory, for a test that makes and removes many files: it is root in a mount
/// namespace of its own, which takes it away at the end.
pub fn in_memory() {
    let memory = std::env::temp_dir();
    common::run_command(std::process::Command::new("mount").args(["-t", "tmpfs", "tmpfs"]).arg(memory));
}

/// The drivers that work with this privilege. Fuse is one of them in tests that ask for it.
pub fn drivers(privilege: Privilege) -> &'static [DriverKind] {
    use DriverKind::{Copy, Fuse, Overlay};
    match (privilege, has_fuse()) {
        (Privilege::Plain, false) => &[Copy],
        (Privilege::Plain, true) => &[Fuse, Copy],
        (_, false) => &[Overlay, Copy],
        (_, true) => &[Overlay, Fuse, Copy],
    }
}

/// Whether the test asked for FUSE and it can be used; says so loudly where it cannot.
pub fn has_fuse() -> bool {
    common::privilege::with_fuse() && !common::fuse_overlayfs().is_empty()
}

/// Options that do not wait for the disk.
pub fn options() -> StoreOptions {
    Store::options().durability(Durability::Relaxed)
}

/// Loads an archive with one image.
#[track_caller]
pub fn load(store: &Store, archive: impl AsRef<[u8]>) -> Image {
    let mut loaded = store
        .load(archive.as_ref(), &LoadOptions::default())
        .unwrap_or_else(|error| panic!("{}", chain(&error)));
    assert_eq!(loaded.len(), 1);
    loaded.remove(0).image
}

/// An error with all its causes.
pub fn chain(error: &dyn std::error::Error) -> String {
    let source = error.source().map(|source| format!(": {}", chain(source)));
    format!("{error}{}", source.unwrap_or_default())
}

/// The names in a directory.
pub fn names_in(dir: &Path) -> BTreeSet<String> {
    let name = |entry: std::io::Result<fs::DirEntry>| entry.unwrap().file_name().into_string().unwrap();
    fs::read_dir(dir).unwrap().map(name).collect()
}

/// Three layers with everything that an image is made of and every privilege can tell in an archive.
pub fn layers() -> Vec<Tar> {
    let base = tar()
        .dir("./")
        .mtime(1_600_000_000, 7)
        .dir("etc")
        .mtime(1_600_000_001, 123_456_789)
        .file("etc/passwd", "root:x:0:0\n")
        .mtime(-1, 999_999_999)
        .file("etc/shadow", "root:*\n")
        .mode(0o640)
        .owner(0, 42)
        .file("etc/hosts", "localhost\n")
        .dir("bin")
        .file("bin/su", "su, as root\n")
        .mode(0o4755)
        .link("bin/su-too", "bin/su")
        .file("bin/sh", "sh\n")
        .mode(0o755)
        .dir("dev")
        .char_device("dev/null", 1, 3)
        .mode(0o666)
        .block_device("dev/loop0", 7, 0)
        .mode(0o660)
        .owner(0, 6)
        .dir("run")
        .fifo("run/pipe")
        .mode(0o620)
        .dir("tmp")
        .mode(0o1777)
        .dir("usr/lib")
        .file("usr/lib/libc.so", vec![7; 70_000])
        .dir("usr/share")
        .file("usr/share/doc", "read me")
        .symlink("lib", "usr/lib")
        .symlink("usr/lib/dangling", "/nowhere/at all")
        .sparse("var/log/lastlog", 1 << 20, &[(0, &[1; 4096]), (512 << 10, &[2; 8192])], SparseDialect::Pax10)
        .dir("home/user")
        .mode(0o700)
        .owner(1000, 100)
        .file("home/user/note", "mine\n")
        .mode(0o604)
        .owner(1000, 100)
        .xattr("user.note", b"bytes \0 and = and \n")
        .file("home/user/locked", "nobody reads this\n")
        .mode(0)
        .owner(1000, 100)
        .dir("sealed")
        .mode(0o555)
        .file("sealed/inside", "inside\n")
        .mode(0o444)
        .dir("opt")
        .file("opt/one", "1")
        .file("opt/two", "2")
        .file("data", "a file\n");
    let middle = tar()
        .whiteout("etc/hosts")
        .whiteout("usr/share")
        .dir("usr/share")
        .mode(0o2755)
        .file("usr/share/new", "new\n")
        .opaque("opt")
        .file("opt/three", "3")
        .file("home/user/more", "more\n")
        .owner(1000, 100)
        .dir("cache")
        .file("cache/one", "same")
        .link("cache/two", "cache/one");
    let top = tar()
        .file("data-too", "another file\n")
        .xattr("user.empty", "")
        .symlink("opt", "usr")
        .dir("empty")
        .mode(0o711)
        .mtime(1, 1)
        .file("bin/sh", "another sh\n")
        .mode(0o2711);
    vec![base, middle, top]
}

/// An image of [`layers`], stored in three ways.
pub fn sample() -> ImageSpec {
    let compressions = [Compression::Gzip, Compression::ZstdFrames, Compression::None];
    layers()
        .into_iter()
        .zip(compressions)
        .fold(image(), |image, (layer, compression)| image.compressed(layer.finish(), compression))
        .name("docker.io/library/sample:1")
}

/// The root that [`layers`] make.
pub fn sample_tree() -> Tree {
    let entries: Vec<_> = layers().iter().map(Tar::entries).collect();
    model::stack(entries.iter().map(Vec::as_slice))
}

/// What an archive can tell of `tree` after a process with this privilege held it. Symbolic links and pipes have nowhere
/// to keep an owner that cannot be set; whatever belongs to the process itself belongs to root.
pub fn told(tree: Tree, privilege: Privilege) -> Tree {
    let lost = matches!(privilege, Privilege::SingleId | Privilege::Plain);
    tree.map(|_, node| {
        if lost && matches!(node.kind, Kind::Symlink(_) | Kind::Fifo) {
            (node.uid, node.gid) = (0, 0);
        }
    })
}

/// What `tree` looks like where a process with this privilege holds it.
pub fn held(tree: Tree, privilege: Privilege) -> Tree {
    let (uid, gid) = ids();
    tree.map(|_, node| {
        if privilege != Privilege::Root && matches!(node.kind, Kind::Char(..) | Kind::Block(..)) {
            node.kind = Kind::file(b"");
        }
        if matches!(privilege, Privilege::SingleId | Privilege::Plain) {
            (node.uid, node.gid) = (uid, gid);
        }
        if privilege == Privilege::Plain {
            match node.kind {
                Kind::Directory => node.mode |= 0o700,
                Kind::File { .. } => node.mode |= 0o400,
                _ => {}
            }
        }
    })
}

/// What a root of `tree` shows to a process with this privilege. fuse-overlayfs tells nobody of holes.
pub fn shown(tree: Tree, privilege: Privilege, driver: DriverKind) -> Tree {
    let tree = held(tree, privilege);
    if driver == DriverKind::Fuse { tree.without_holes() } else { tree }
}

/// What is in a root, without what the store keeps there for itself.
pub fn seen(root: &Path) -> Tree {
    snapshot(root).without_xattrs(is_ours)
}

/// Whether an attribute is not the image's.
pub fn is_ours(name: &[u8]) -> bool {
    name == b"user.containers.override_stat"
}

fn ids() -> (u32, u32) {
    (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw())
}

/// What a container's export tells.
#[track_caller]
pub fn exported(container: &Container) -> Tree {
    tree_of(&export(container))
}

/// A container's export.
#[track_caller]
pub fn export(container: &Container) -> Vec<u8> {
    let mut tar = Vec::new();
    container.export(&mut tar, &Default::default()).unwrap_or_else(|error| panic!("{}", chain(&error)));
    tar
}

/// What a tar means where there is nothing yet.
pub fn tree_of(tar: &[u8]) -> Tree {
    model::stack([untar::entries(tar).as_slice()])
}

/// The lines of `docker diff`.
#[track_caller]
pub fn changes(container: &Container) -> Vec<String> {
    let changes = container.changes().unwrap_or_else(|error| panic!("{}", chain(&error)));
    changes.iter().map(ToString::to_string).collect()
}

/// What [`edit`] does, as `docker diff` tells it.
pub const EDITS: &[&str] = &[
    "C /bin",
    "C /bin/sh",
    "C /data",
    "A /data/deep",
    "A /data/deep/file",
    "A /data/linked",
    "A /data/symlink",
    "C /data-too",
    "C /etc",
    "A /etc/hostname",
    "C /etc/passwd",
    "D /etc/shadow",
    "A /hole",
    "C /home",
    "C /home/user",
    "C /home/user/more",
    "A /home/user/moved",
    "D /home/user/note",
    "C /opt",
    "C /run",
    "A /run/second",
    "C /usr",
    "D /usr/share",
];

/// Edits a root as a process in a container would: every kind of change, all times told.
pub fn edit(root: &Path) {
    let at = |name: &str| root.join(name);
    fs::write(at("etc/hostname"), "edited\n").unwrap();
    fs::write(at("etc/passwd"), "root:x:0:0\nuser:x:1000:100\n").unwrap();
    fs::remove_file(at("etc/shadow")).unwrap();
    fs::remove_dir_all(at("usr/share")).unwrap();
    fs::set_permissions(at("bin/sh"), fs::Permissions::from_mode(0o750)).unwrap();
    fs::set_permissions(at("home/user/more"), fs::Permissions::from_mode(0o600)).unwrap();
    fs::remove_file(at("data")).unwrap();
    fs::create_dir_all(at("data/deep")).unwrap();
    fs::write(at("data/deep/file"), "was a file\n").unwrap();
    fs::remove_file(at("opt")).unwrap();
    fs::write(at("opt"), "was a link\n").unwrap();
    fs::rename(at("home/user/note"), at("home/user/moved")).unwrap();
    fs::hard_link(at("data/deep/file"), at("data/linked")).unwrap();
    symlink("deep/file", at("data/symlink")).unwrap();
    rustix::fs::mknodat(CWD, at("run/second"), FileType::Fifo, Mode::from_raw_mode(0o600), 0).unwrap();
    rustix::fs::lsetxattr(at("data-too"), "user.added", b"value", XattrFlags::empty()).unwrap();
    rustix::fs::lremovexattr(at("data-too"), "user.empty").unwrap();
    let hole = fs::File::create(at("hole")).unwrap();
    hole.set_len(1 << 20).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&hole, &[9; 4096], 256 << 10).unwrap();
    for (seconds, name) in TOUCHED.iter().enumerate() {
        touch(&at(name), 1_750_000_000 + seconds as i64, 987_654_321);
    }
}

/// Everything whose time [`edit`] changes, directories last.
const TOUCHED: &[&str] = &[
    "etc/hostname",
    "etc/passwd",
    "data/deep/file",
    "data/symlink",
    "home/user/moved",
    "opt",
    "run/second",
    "hole",
    "data/deep",
    "data",
    "etc",
    "home/user",
    "run",
    "usr",
    "",
];

/// Bytes that no compression makes smaller.
pub fn noise(length: usize) -> Vec<u8> {
    let mut state = 1u64;
    let mut next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 56) as u8
    };
    (0..length).map(|_| next()).collect()
}

/// Sets a modification time.
pub fn touch(path: &Path, seconds: i64, nanos: i64) {
    let time = Timespec { tv_sec: seconds, tv_nsec: nanos };
    let times = Timestamps { last_access: time, last_modification: time };
    rustix::fs::utimensat(CWD, path, &times, AtFlags::SYMLINK_NOFOLLOW).unwrap();
}
