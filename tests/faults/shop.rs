//! A store with something of everything, which is put back as it was as often as one likes.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use plywood::store::{GcOptions, LoadOptions, Unpack};

use crate::common::image::{Compression, ImageSpec, Layout, image};
use crate::common::tar::{Tar, tar};
use crate::common::{privilege, run_command, scratch};
use crate::tracer::{Fault, Run, trace};
use crate::view::{View, open};

/// The store, and its likeness from which it is put back.
pub struct Shop {
    scratch: tempfile::TempDir,
}

impl Shop {
    /// A store on a file system in memory: what is synced is not asked here, and is quick.
    pub fn open() -> Self {
        Self::damaged(|_| {})
    }

    /// The same with something wrong in the store.
    pub fn damaged(damage: impl FnOnce(&Path)) -> Self {
        let scratch = scratch();
        run_command(Command::new("mount").args(["-t", "tmpfs", "tmpfs"]).arg(scratch.path()));
        let shop = Self { scratch };
        shop.fill();
        damage(&shop.store());
        run_command(Command::new("cp").arg("-a").arg(shop.store()).arg(shop.path("likeness")));
        shop
    }

    fn path(&self, name: &str) -> PathBuf {
        self.scratch.path().join(name)
    }

    pub fn store(&self) -> PathBuf {
        self.path("store")
    }

    fn fill(&self) {
        let store = plywood::Store::create(self.store()).unwrap();
        let load = |image: ImageSpec, unpack| {
            let mut options = LoadOptions::default();
            options.unpack = unpack;
            store.load(&Layout::of(&image).oci_archive()[..], &options).unwrap().remove(0).image
        };
        let base = load(based("base:1", tar().file("own", "base")), Unpack::Now);
        load(based("other:1", tar().whiteout("etc/hosts").file("own", "other")), Unpack::Now);
        load(
            image()
                .layer(tar().dir("srv").file("srv/file", "packed").link("srv/linked", "srv/file").finish())
                .name("docker.io/library/packed:1"),
            Unpack::OnDemand,
        );
        // Something for a collection: an image that is no more, and what a dead process left.
        load(based("gone:1", tar().dir("gone").file("gone/file", "gone")), Unpack::Now);
        store.remove_image("gone:1", Default::default()).unwrap();
        let named = plywood::CreateOptions::named("edited");
        let container = store.create_container(&base, &named).unwrap();
        let mounted = container.mount().unwrap();
        fs::write(mounted.path().join("etc/hosts"), "edited").unwrap();
        fs::remove_file(mounted.path().join("etc/large")).unwrap();
        fs::create_dir(mounted.path().join("new")).unwrap();
        fs::write(mounted.path().join("new/file"), vec![b'n'; 10_000]).unwrap();
        mounted.unmount().unwrap();
        // What can be done here is found out, and remembered.
        drop(open(&self.store()).info().unwrap());
        fs::write(self.path("ARCHIVE"), Layout::of(&arriving()).oci_archive()).unwrap();
    }

    /// Puts the store back. `staging` stays the same directory, since what was found out of it is remembered.
    pub fn reset(&self) {
        let (store, likeness) = (self.store(), self.path("likeness"));
        let mut copy = Command::new("cp");
        copy.arg("-a");
        for entry in fs::read_dir(&likeness).unwrap() {
            let name = entry.unwrap().file_name();
            let path = store.join(&name);
            if name == "staging" {
                for left in fs::read_dir(path).unwrap() {
                    fs::remove_dir_all(left.unwrap().path()).unwrap();
                }
                continue;
            }
            match path.is_dir() {
                true => fs::remove_dir_all(&path).unwrap(),
                false => fs::remove_file(&path).unwrap(),
            }
            copy.arg(likeness.join(name));
        }
        run_command(copy.arg(store));
        if self.path("SAVED").exists() {
            fs::remove_file(self.path("SAVED")).unwrap();
        }
    }

    /// Runs the tool on the store, on one processor, so that it does one thing after the other.
    pub fn run(&self, words: &[&str], at: Option<(usize, Fault)>) -> Run {
        let tool = privilege::plywood().expect("the feature is on, so it was built");
        let mut command = Command::new("taskset");
        command.args(["--cpu-list", &first_processor()]).arg(tool.get_program());
        command.args(["--json", "--root"]).arg(self.store());
        for word in words {
            match *word {
                "ARCHIVE" | "SAVED" => command.arg(self.path(word)),
                word => command.arg(word),
            };
        }
        command
            .env("PLYWOOD_DRIVER", "overlay")
            .env("SOURCE_DATE_EPOCH", "1700000000")
            .env_remove("PLYWOOD_ROOT");
        trace(&command, &self.store(), self.scratch.path(), at)
    }

    pub fn look(&self) -> View {
        View::of(&self.store(), &self.path("SAVED"))
    }

    pub fn collect(&self) {
        open(&self.store()).gc(&GcOptions::default()).unwrap();
    }

    /// Every path in the store but in its cache; ids of containers, which are chosen by chance, are not told.
    pub fn listing(&self) -> Vec<String> {
        let mut paths = Vec::new();
        list(&self.store(), Path::new(""), &mut paths);
        paths.retain(|path| !path.starts_with("cache/"));
        paths.sort();
        paths
    }
}

impl Drop for Shop {
    fn drop(&mut self) {
        run_command(Command::new("umount").arg("--lazy").arg(self.scratch.path()));
    }
}

fn list(root: &Path, dir: &Path, paths: &mut Vec<String>) {
    for entry in fs::read_dir(root.join(dir)).unwrap() {
        let entry = entry.unwrap();
        let path = dir.join(entry.file_name());
        paths.push(without_ids(path.to_str().unwrap()));
        if entry.file_type().unwrap().is_dir() {
            list(root, &path, paths);
        }
    }
}

/// Lock files and directories of containers, whichever id they have.
fn without_ids(path: &str) -> String {
    let is_id = |part: &str| part.len() == 64 && part.bytes().all(|digit| digit.is_ascii_hexdigit());
    let parts = path.split('/').map(|part| match part.strip_prefix("container-").unwrap_or(part) {
        bare if is_id(bare) && (path.starts_with("containers/") || path.starts_with("locks/container-")) => {
            "ID"
        }
        _ => part,
    });
    parts.collect::<Vec<_>>().join("/")
}

fn first_processor() -> String {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let list = status.lines().find_map(|line| line.strip_prefix("Cpus_allowed_list:")).unwrap();
    list.trim().split(['-', ',']).next().unwrap().to_owned()
}

/// An image of a common base and one more layer.
fn based(name: &str, own: Tar) -> ImageSpec {
    let base = tar()
        .dir("etc")
        .file("etc/hosts", "localhost")
        .file("etc/large", vec![7; 30_000])
        .link("etc/linked", "etc/hosts")
        .symlink("etc/link", "hosts");
    image()
        .compressed(base.finish(), Compression::Gzip)
        .compressed(own.finish(), Compression::Zstd)
        .name(&format!("docker.io/library/{name}"))
}

/// What is loaded: it shares its base with another, moves a name, and has a layer that is bound.
fn arriving() -> ImageSpec {
    let own = tar()
        .dir("own-too")
        .opaque("own-too")
        .file("own-too/file", vec![9; 20_000])
        .mode(0o4755)
        .xattr("user.note", b"kept")
        .fifo("own-too/pipe");
    based("base:1", own).layer(tar().whiteout("etc/linked").link("etc/bound", "etc/hosts").finish())
}
