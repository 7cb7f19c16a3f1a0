//! Unsettled layers are trusted while their file system stays mounted: not when it comes back without its last writes in the
//! same boot, and not where a snapshot of it is mounted. Processes that use one store through several mounts agree.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use plywood::driver::DriverKind;
use plywood::store::{CreateOptions, DriverChoice, Store, StoreOptions};
use serde_json::{Value, json};

use crate::common::privilege::{self, Privilege};
use crate::common::{have, run_command, scratch, skip};
use crate::world::*;

/// A file system in a file, and where it is mounted.
struct Disk {
    temp: tempfile::TempDir,
    image: PathBuf,
}

impl Disk {
    fn new() -> Option<Self> {
        if !have(&["mkfs.ext4", "mount", "python3"]) {
            return None;
        }
        let temp = scratch();
        let image = temp.path().join("image");
        fs::File::create(&image).unwrap().set_len(128 << 20).unwrap();
        run_command(Command::new("mkfs.ext4").arg("-q").arg(&image));
        let disk = Self { temp, image };
        let done = disk.try_mount(&disk.image, "at", "loop");
        if !done {
            skip("no loop device or no ext4");
        }
        done.then_some(disk)
    }

    fn try_mount(&self, image: &Path, name: &str, options: &str) -> bool {
        let at = self.temp.path().join(name);
        fs::create_dir_all(&at).unwrap();
        Command::new("mount").args(["-o", options]).args([image, &at]).status().unwrap().success()
    }

    fn mount(&self, image: &Path, name: &str, options: &str) -> PathBuf {
        assert!(self.try_mount(image, name, options));
        self.at(name)
    }

    fn at(&self, name: &str) -> PathBuf {
        self.temp.path().join(name)
    }

    fn unmount(&self, name: &str) {
        run_command(Command::new("umount").arg(self.at(name)));
    }

    /// Drops every write that is not on disk yet, as an I/O error with `errors=remount-ro` does.
    fn lose_writes(&self) {
        let shutdown = "import fcntl,os,struct,sys;\
            fcntl.ioctl(os.open(sys.argv[1],os.O_RDONLY),0x8004587d,struct.pack('I',2))";
        run_command(Command::new("python3").args(["-c", shutdown]).arg(self.at("at")));
    }
}

fn copying() -> StoreOptions {
    options().driver(DriverChoice::Only(DriverKind::Copy))
}

/// A store in `root` with the sample; of its layers the records are on disk and perhaps nothing else.
fn loaded(root: &Path) -> Store {
    let store = Store::options().driver(DriverChoice::Only(DriverKind::Copy)).create(root).unwrap();
    load(&store, crate::common::image::Layout::of(&sample()).oci_archive());
    for key in names_in(&root.join("layers")) {
        let layer = root.join("layers").join(key);
        fs::File::open(layer.join("layer.json")).unwrap().sync_all().unwrap();
        fs::File::open(layer).unwrap().sync_all().unwrap();
    }
    store
}

fn record(root: &Path, key: &str) -> Value {
    serde_json::from_slice(&fs::read(root.join("layers").join(key).join("layer.json")).unwrap()).unwrap()
}

fn settled(root: &Path) -> Vec<bool> {
    names_in(&root.join("layers")).iter().map(|key| record(root, key)["settled"] == true).collect()
}

/// Which directories the layers are.
fn inodes(root: &Path) -> Vec<u64> {
    let layers = root.join("layers");
    names_in(&layers).iter().map(|key| fs::metadata(layers.join(key)).unwrap().ino()).collect()
}

/// A new container of the sample shows every file as it should be.
#[track_caller]
fn is_whole(root: &Path) {
    let store = copying().open(root).unwrap();
    let image = store.image("sample:1").unwrap();
    let container = store.create_container(&image, &CreateOptions::default()).unwrap();
    exported(&container).assert_same(&sample_tree().without_holes(), "after the file system came back");
}

#[test]
fn a_file_system_that_lost_its_last_writes_and_came_back_in_the_same_boot_is_not_trusted() {
    privilege::under(&[Privilege::Root], |_| {
        let Some(disk) = Disk::new() else { return };
        let root = disk.at("at").join("store");
        drop(loaded(&root));
        assert_eq!(settled(&root), [false; 3]);
        disk.lose_writes();
        disk.unmount("at");
        disk.mount(&disk.image, "at", "loop");
        let sizes = |root: &Path| {
            let tree = crate::common::tree::snapshot(root.join("layers"));
            tree.0.into_values().filter(|node| node.kind == crate::common::tree::Kind::file(b"")).count()
        };
        assert!(sizes(&root) > 0, "nothing was lost, so nothing is tested");
        // A collection must not note what it finds as synced.
        copying().open(&root).unwrap().gc(&Default::default()).unwrap();
        assert_eq!(settled(&root), [false; 3]);
        is_whole(&root);
        disk.unmount("at");
    });
}

#[test]
fn a_snapshot_of_a_mounted_file_system_is_not_trusted_on_the_machine_that_it_was_taken_on() {
    privilege::under(&[Privilege::Root], |_| {
        let Some(disk) = Disk::new() else { return };
        let root = disk.at("at").join("store");
        let store = loaded(&root);
        let snapshot = disk.at("snapshot");
        fs::copy(&disk.image, &snapshot).unwrap();
        let there = disk.mount(&snapshot, "elsewhere", "loop").join("store");
        is_whole(&there);
        // The original goes on as it was.
        let before = inodes(&root);
        is_whole(&root);
        assert_eq!(inodes(&root), before);
        drop(store);
        ["elsewhere", "at"].iter().for_each(|name| disk.unmount(name));
    });
}

#[test]
fn processes_that_use_one_store_through_several_mounts_do_not_make_its_layers_in_turns() {
    privilege::under(&[Privilege::Root], |_| {
        let Some(disk) = Disk::new() else { return };
        let memory = disk.at("memory");
        fs::create_dir(&memory).unwrap();
        run_command(Command::new("mount").args(["-t", "tmpfs", "tmpfs"]).arg(&memory));
        for (name, bound) in [("at", "bound"), ("memory", "bound-memory")] {
            let here = disk.at(name).join("store");
            drop(loaded(&here));
            let there = disk.mount(&disk.at(name), bound, "bind").join("store");
            is_whole(&there);
            is_whole(&here);
            // At most once, where the kernel tells the mounts apart and not the file system: then it was synced.
            let after = inodes(&here);
            for root in [&there, &here, &there] {
                is_whole(root);
                assert_eq!(inodes(&here), after, "{name}");
            }
        }
        ["bound", "bound-memory", "memory", "at"].iter().for_each(|name| disk.unmount(name));
    });
}

#[test]
fn a_record_that_does_not_name_its_file_system_is_trusted_if_it_is_settled_only() {
    let world = World::driver(DriverKind::Copy);
    world.load_image(&sample());
    let old = |settled: bool| {
        for key in names_in(&world.path().join("layers")) {
            let mut old = record(&world.path(), &key);
            old["settled"] = json!(settled);
            for field in ["fileSystem", "measure"] {
                old.as_object_mut().unwrap().remove(field);
            }
            let path = world.path().join("layers").join(key).join("layer.json");
            fs::write(path, serde_json::to_vec(&old).unwrap()).unwrap();
        }
    };
    old(true);
    let before = inodes(&world.path());
    is_whole(&world.path());
    assert_eq!(inodes(&world.path()), before);
    old(false);
    is_whole(&world.path());
    assert_ne!(inodes(&world.path()), before);
}

#[test]
fn a_layer_that_is_smaller_than_its_record_says_is_never_noted_as_settled() {
    privilege::under(privilege::ALL, |_| {
        let world = World::driver(DriverKind::Copy);
        world.load_image(&sample());
        let layers = world.path().join("layers");
        let damaged: Vec<_> = names_in(&layers)
            .into_iter()
            .filter(|key| {
                let file = layers.join(key).join("tree/etc/passwd");
                file.exists() && fs::write(file, "").is_ok()
            })
            .collect();
        assert_eq!(damaged.len(), 1);
        world.store.settle().unwrap();
        world.store.gc(&Default::default()).unwrap();
        for key in names_in(&layers) {
            assert_eq!(record(&world.path(), &key)["settled"] == true, key != damaged[0], "{key}");
        }
    });
}

/// Whether what a record says of the size of its tree is so, however the layer came to be.
#[test]
fn a_record_measures_its_tree_whatever_replaced_whatever() {
    use crate::common::tar::tar;
    privilege::under(privilege::ALL, |privilege| {
        let world = World::driver(DriverKind::Copy);
        let odd = tar()
            .file("twice", "short")
            .file("twice", "rather longer")
            .dir("was/dir/deep")
            .file("was/dir/deep/file", "gone")
            .file("was/dir", "a file now")
            .file("was2", "a file")
            .file("was2/file", "in a directory now")
            .link("forward", "later")
            .file("later", vec![7; 5000])
            .link("again", "later")
            .whiteout("bin/su")
            .whiteout("etc/passwd")
            .link("below", "etc/shadow")
            .finish();
        world.load_image(&sample().layer(odd));
        let layers = world.path().join("layers");
        assert_eq!(names_in(&layers).len(), 4);
        for key in names_in(&layers) {
            let tree = plywood::fs::Dir::open_ambient(layers.join(&key).join("tree")).unwrap();
            let found = plywood::layer::Measure::of(&tree).unwrap();
            let measure = &record(&world.path(), &key)["measure"];
            assert_eq!(*measure, json!({"names": found.names, "bytes": found.bytes}), "{privilege:?}, {key}");
        }
    });
}
