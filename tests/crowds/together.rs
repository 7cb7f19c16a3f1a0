//! Two at the same thing, at a chosen moment.
//!
//! An operation is stopped where it can be seen to wait: at a lock that the test holds, at a pipe that gives nothing, by a
//! signal. That it does is read in `/proc/locks`, so nothing here depends on how fast anything is. Who stands at a lock
//! is let past others with the right of whoever holds it: to take the file away, so that all who come later have another.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::time::Duration;

use plywood::fs::Durability;
use plywood::store::{
    CommitOptions, CreateOptions, ExportOptions, GcOptions, Image, LoadOptions, RemoveContainer, RemoveImage,
    Store, StoreError,
};
use rustix::fs::{FlockOperation, flock};
use rustix::process::{Pid, Signal, kill_process};

use crate::common::image::{Compression, Layout, image};
use crate::common::privilege::{self, MOUNTING, Privilege};
use crate::common::process;
use crate::common::tar::tar;
use crate::crowd::names_in;
use crate::hands::{Hands, reference};
use crate::{common, shop};

/// What makes a difference here: whether roots are mounted.
const USUAL: &[Privilege] = &[Privilege::Root, Privilege::Plain];

/// A store with the images of the shop beside it.
struct World {
    scratch: tempfile::TempDir,
    store: Store,
    archives: Vec<shop::Archive>,
}

impl World {
    fn new() -> Self {
        let scratch = common::scratch();
        let store =
            Store::options().durability(Durability::Relaxed).create(scratch.path().join("store")).unwrap();
        let archives = shop::archives(scratch.path());
        Self { scratch, store, archives }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.scratch.path().join("store").join(name)
    }

    fn load(&self, number: usize) -> Image {
        let archive = File::open(&self.archives[number].path).unwrap();
        self.store.load(archive, &LoadOptions::default()).unwrap().remove(0).image
    }

    fn collect(&self) {
        self.store.gc(&GcOptions::default()).unwrap();
    }

    /// Nothing is wrong in the store, and when all is removed nothing is left.
    #[track_caller]
    fn is_well(&self) {
        let hands = Hands::Library(self.store.clone());
        assert_eq!(hands.check(true).unwrap(), "");
        hands.clear();
        for emptied in ["oci/blobs/sha256", "layers", "containers", "views", "names", "staging"] {
            assert_eq!(names_in(&self.path(emptied)), Default::default(), "{emptied}");
        }
    }

    fn tool(&self, words: &[&str]) -> Command {
        let mut tool = privilege::plywood().expect("the feature is on, so it was built");
        tool.arg("--root").arg(self.path("")).args(words);
        tool.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
        tool
    }
}

/// A lock that the test holds.
struct Held {
    file: File,
    path: PathBuf,
}

impl Held {
    fn new(path: PathBuf) -> Self {
        let file = File::options().create(true).truncate(false).write(true).open(&path).unwrap();
        flock(&file, FlockOperation::LockExclusive).unwrap();
        Self { file, path }
    }

    /// Returns when so many wait for it.
    fn await_waiters(&self, count: usize) {
        let inode = self.file.metadata().unwrap().ino();
        until(|| {
            let locks = fs::read_to_string("/proc/locks").unwrap();
            let waits = |line: &&str| line.contains(" -> ") && line.contains(&format!(":{inode} "));
            locks.lines().filter(waits).count() >= count
        });
    }

    /// Lets all past who come from now on; those who wait go on waiting.
    fn let_others_pass(&self) {
        fs::remove_file(&self.path).unwrap();
    }
}

/// Waits for something that another does. Nothing is concluded from how long it takes.
fn until(mut is_so: impl FnMut() -> bool) {
    while !is_so() {
        std::thread::sleep(Duration::from_millis(2));
    }
}

#[test]
fn a_name_that_an_image_gets_while_its_other_name_is_removed_is_kept() {
    privilege::under(USUAL, |_| {
        let world = World::new();
        let image = world.load(0);
        let held = Held::new(world.path("locks/index"));
        std::thread::scope(|scope| {
            let removed = scope.spawn(|| world.store.remove_image("app-0:1", RemoveImage::Refuse).unwrap());
            held.await_waiters(1);
            held.let_others_pass();
            world.store.tag(&image, &reference("other:1")).unwrap();
            drop(held);
            let removed = removed.join().unwrap();
            assert_eq!((removed.untagged, removed.deleted), (vec![reference("app-0:1")], None));
        });
        assert_eq!(world.store.image("other:1").unwrap().id(), image.id());
        world.is_well();
    });
}

#[test]
fn a_name_that_moves_to_another_image_while_it_is_removed_does_not_take_the_first_image_along() {
    privilege::under(USUAL, |_| {
        let world = World::new();
        let (first, second) = (world.load(0), world.load(1));
        let held = Held::new(world.path("locks/index"));
        std::thread::scope(|scope| {
            let removed = scope.spawn(|| world.store.remove_image("app-0:1", RemoveImage::Refuse).unwrap());
            held.await_waiters(1);
            held.let_others_pass();
            world.store.tag(&second, &reference("app-0:1")).unwrap();
            drop(held);
            // It is one of two names of the second by now.
            assert_eq!(removed.join().unwrap().deleted, None);
        });
        assert_eq!(world.store.image(&first.id().to_string()).unwrap().names(), []);
        assert_eq!(world.store.image("app-1:1").unwrap().names(), [reference("app-1:1")]);
        world.is_well();
    });
}

#[test]
fn a_container_that_is_renamed_while_it_is_removed_does_not_take_along_who_has_its_old_name() {
    privilege::under(USUAL, |_| {
        let world = World::new();
        let image = world.load(0);
        let create = |name: &str| world.store.create_container(&image, &CreateOptions::named(name)).unwrap();
        let mut container = create("old");
        let held = Held::new(world.path("locks").join(format!("container-{}", container.id())));
        std::thread::scope(|scope| {
            let goner = container.clone();
            let removed = scope.spawn(|| goner.remove(RemoveContainer::Refuse).unwrap());
            held.await_waiters(1);
            held.let_others_pass();
            container.rename("new").unwrap();
            create("old");
            drop(held);
            removed.join().unwrap();
        });
        assert_eq!(world.store.container("old").unwrap().name(), "old");
        assert!(matches!(world.store.container("new"), Err(StoreError::NotFound { .. })));
        assert_eq!(names_in(&world.path("names")).into_iter().collect::<Vec<_>>(), ["old"]);
        world.is_well();
    });
}

#[test]
fn who_comes_second_to_remove_a_container_is_told_that_there_is_none_and_leaves_no_lock() {
    privilege::under(USUAL, |_| {
        let world = World::new();
        let image = world.load(0);
        let container = world.store.create_container(&image, &CreateOptions::named("one")).unwrap();
        let locks = names_in(&world.path("locks"));
        let held = Held::new(world.path("locks").join(format!("container-{}", container.id())));
        std::thread::scope(|scope| {
            let second: Vec<_> = [0, 1, 2, 3]
                .map(|number| {
                    let mut container = container.clone();
                    scope.spawn(move || match number {
                        0 => container.remove(RemoveContainer::Refuse),
                        1 => container.rename("two"),
                        2 => container.commit(&CommitOptions::default()).map(drop),
                        _ => container.unmount(),
                    })
                })
                .into();
            held.await_waiters(4);
            held.let_others_pass();
            container.clone().remove(RemoveContainer::Refuse).unwrap();
            drop(held);
            for second in second {
                let error = second.join().unwrap().unwrap_err();
                assert!(matches!(error, StoreError::NotFound { what: "container", .. }), "{error}");
            }
        });
        assert_eq!(names_in(&world.path("locks")).into_iter().filter(|lock| lock.contains('-')).count(), 0);
        assert!(locks.iter().all(|lock| !lock.contains('-')), "{locks:?}");
        world.is_well();
    });
}

#[test]
fn an_image_that_was_collected_before_it_could_be_pinned_is_not_there() {
    privilege::under(USUAL, |_| {
        let world = World::new();
        let image = world.load(0);
        let held = Held::new(world.path("locks/gc"));
        std::thread::scope(|scope| {
            let created = scope.spawn(|| world.store.create_container(&image, &CreateOptions::named("one")));
            held.await_waiters(1);
            held.let_others_pass();
            world.store.remove_image("app-0:1", RemoveImage::Refuse).unwrap();
            world.collect();
            drop(held);
            let error = created.join().unwrap().unwrap_err();
            assert!(matches!(error, StoreError::NotFound { what: "image", .. }), "{error}");
        });
        world.is_well();
    });
}

#[test]
fn what_was_pinned_is_not_collected_whatever_becomes_of_its_name() {
    privilege::under(USUAL, |_| {
        let world = World::new();
        let image = world.load(3);
        // Somebody else is about to give this name, so whoever wants it stands still, with everything else done.
        let held = Held::new(world.path("names/one"));
        std::thread::scope(|scope| {
            let created =
                scope.spawn(|| world.store.create_container(&image, &CreateOptions::named("one")).unwrap());
            held.await_waiters(1);
            world.store.remove_image("app-3:1", RemoveImage::Refuse).unwrap();
            world.collect();
            drop(held);
            created.join().unwrap();
        });
        world.collect();
        let hands = Hands::Library(world.store.clone());
        let files = &world.archives[3].files;
        assert_eq!(hands.read("one", files).unwrap(), *files);
        world.is_well();
    });
}

#[test]
fn a_container_is_committed_whole_though_somebody_wants_it_removed() {
    privilege::under(USUAL, |_| {
        let world = World::new();
        let image = world.load(0);
        let container = world.store.create_container(&image, &CreateOptions::named("one")).unwrap();
        let hands = Hands::Library(world.store.clone());
        hands.edit("one", "base/5", "changed").unwrap();
        let options = CommitOptions::named(reference("made:1"));
        let index = Held::new(world.path("locks/index"));
        std::thread::scope(|scope| {
            let committed = scope.spawn(|| container.commit(&options).unwrap());
            index.await_waiters(1);
            let removed = scope.spawn(|| container.clone().remove(RemoveContainer::Refuse).unwrap());
            let own = File::open(world.path("locks").join(format!("container-{}", container.id()))).unwrap();
            Held { file: own, path: PathBuf::new() }.await_waiters(1);
            world.collect();
            drop(index);
            committed.join().unwrap();
            removed.join().unwrap();
        });
        world.collect();
        hands.create("made:1", "two").unwrap();
        let mut files = world.archives[0].files.clone();
        files.insert("base/5".to_owned(), "changed".to_owned());
        assert_eq!(hands.read("two", &files).unwrap(), files);
        world.is_well();
    });
}

#[test]
fn a_view_in_the_making_keeps_an_image_that_is_removed() {
    privilege::under(MOUNTING, |_| {
        let world = World::new();
        let image = world.load(0);
        let held = Held::new(world.path("locks").join(format!("view-{}", image.manifest_digest().hex())));
        std::thread::scope(|scope| {
            let mounted = scope.spawn(|| world.store.mount_image(&image).unwrap());
            held.await_waiters(1);
            world.store.remove_image("app-0:1", RemoveImage::Refuse).unwrap();
            world.collect();
            drop(held);
            let at = mounted.join().unwrap();
            world.collect();
            assert_eq!(fs::read_to_string(at.join("own/file")).unwrap(), "of 0");
        });
        // Two who end it are one too many, and no harm is done.
        world.store.unmount_image(&image).unwrap();
        world.store.unmount_image(&image).unwrap();
        world.is_well();
    });
}

/// Does something when it is first written to.
struct Interrupted<F>(Option<F>);

impl<F: FnOnce()> Write for Interrupted<F> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if let Some(interrupt) = self.0.take() {
            interrupt();
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[test]
fn an_export_of_what_is_removed_meanwhile_never_passes_for_whole() {
    privilege::under(USUAL, |_| {
        let world = World::new();
        let image = world.load(0);
        let container = world.store.create_container(&image, &CreateOptions::named("one")).unwrap();
        let interrupt = || {
            container.clone().remove(RemoveContainer::Refuse).unwrap();
            world.store.remove_image("app-0:1", RemoveImage::Refuse).unwrap();
            world.collect();
        };
        let error = container.export(Interrupted(Some(interrupt)), &ExportOptions::default()).unwrap_err();
        assert!(matches!(error, StoreError::NotFound { what: "container", .. }), "{error}");
        world.is_well();
    });
}

/// Gives the first half, says so, and the rest when it is told to.
struct Stalled {
    first: io::Cursor<Vec<u8>>,
    rest: Option<io::Cursor<Vec<u8>>>,
    half: mpsc::Sender<()>,
    go_on: mpsc::Receiver<()>,
}

impl Stalled {
    fn new(archive: &Path) -> (Self, mpsc::Receiver<()>, mpsc::Sender<()>) {
        let mut first = fs::read(archive).unwrap();
        let rest = first.split_off(first.len() / 2);
        let ((half, is_half), (tell, go_on)) = (mpsc::channel(), mpsc::channel());
        (
            Self { first: io::Cursor::new(first), rest: Some(io::Cursor::new(rest)), half, go_on },
            is_half,
            tell,
        )
    }
}

impl Read for Stalled {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.first.read(buffer)?;
        if let Some(rest) = self.rest.take_if(|_| read == 0) {
            self.half.send(()).unwrap();
            self.go_on.recv().unwrap();
            self.first = rest;
            return self.read(buffer);
        }
        Ok(read)
    }
}

#[test]
fn a_load_that_gets_no_more_bytes_is_in_the_way_of_nobody() {
    privilege::under(USUAL, |_| {
        let world = World::new();
        let (slow, is_half, go_on) = Stalled::new(&world.archives[0].path);
        std::thread::scope(|scope| {
            let loaded = scope.spawn(|| world.store.load(slow, &LoadOptions::default()).unwrap());
            is_half.recv().unwrap();
            world.collect();
            // The same image as well, from its beginning to its end.
            let image = world.load(0);
            let container = world.store.create_container(&image, &CreateOptions::named("one")).unwrap();
            container.commit(&CommitOptions::named(reference("made:1"))).unwrap();
            container.remove(RemoveContainer::Refuse).unwrap();
            for name in ["made:1", "app-0:1"] {
                world.store.remove_image(name, RemoveImage::Refuse).unwrap();
            }
            world.collect();
            assert_eq!(names_in(&world.path("layers")), Default::default());
            go_on.send(()).unwrap();
            loaded.join().unwrap();
        });
        assert_eq!(world.store.image("app-0:1").unwrap().id().to_string(), world.archives[0].id);
        world.is_well();
    });
}

/// A process that is ended and awaited whatever happens.
struct Process(Child);

impl Process {
    fn start(mut command: Command) -> Self {
        Self(command.spawn().unwrap())
    }

    fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.0), signal).unwrap();
    }

    /// Stops it, and returns when it has stopped.
    fn stop(&self) {
        self.signal(Signal::STOP);
        until(|| process::stat(self.0.id()).unwrap()[0] == "T");
    }

    #[track_caller]
    fn succeeds(mut self) {
        self.signal(Signal::CONT);
        let mut errors = String::new();
        self.0.stderr.take().unwrap().read_to_string(&mut errors).unwrap();
        assert!(self.0.wait().unwrap().success(), "{errors}");
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // It may have ended by itself.
        self.0.kill().unwrap_or_default();
        self.0.wait().unwrap();
    }
}

/// An archive with one layer of so many files.
fn large(world: &World, files: usize, name: &str) -> PathBuf {
    let layer = (0..files).fold(tar().dir("many"), |tar, number| {
        tar.file(format!("many/{number}"), format!("{number} of {name}").repeat(200))
    });
    let spec =
        image().compressed(layer.finish(), Compression::Gzip).name(&format!("docker.io/library/{name}"));
    let path = world.scratch.path().join("large.tar");
    fs::write(&path, Layout::of(&spec).oci_archive()).unwrap();
    path
}

/// Whether nobody holds a lock of the store.
fn is_free(path: &Path) -> bool {
    flock(File::open(path).unwrap(), FlockOperation::NonBlockingLockExclusive).is_ok()
}

#[test]
fn a_collection_that_stands_still_while_it_unlinks_is_in_the_way_of_nobody() {
    privilege::under(USUAL, |_| {
        let world = World::new();
        let archive = large(&world, 1500, "large:1");
        let collection = loop {
            world.store.load(File::open(&archive).unwrap(), &LoadOptions::default()).unwrap();
            world.store.remove_image("large:1", RemoveImage::Refuse).unwrap();
            let collection = Process::start(world.tool(&["gc"]));
            // The layer is out of sight, and its files are not gone yet.
            until(|| names_in(&world.path("layers")).is_empty() && is_free(&world.path("locks/gc")));
            collection.stop();
            let rubbish = names_in(&world.path("staging"));
            if rubbish.iter().any(|name| world.path("staging").join(name).join("lock").exists()) {
                break collection;
            }
            collection.succeeds(); // it was over before it was stopped
        };
        let image = world.load(0);
        let container = world.store.create_container(&image, &CreateOptions::named("one")).unwrap();
        world.collect();
        container.remove(RemoveContainer::Refuse).unwrap();
        collection.succeeds();
        world.is_well();
    });
}

/// Bytes that this process and those that it has waited for have written so far; `None` where the kernel does not count.
fn bytes_written() -> Option<u64> {
    let counters = fs::read_to_string("/proc/self/io").ok()?;
    counters.lines().find_map(|line| line.strip_prefix("wchar: ")?.parse().ok())
}

#[test]
fn a_layer_that_many_want_at_once_is_unpacked_once() {
    privilege::under(USUAL, |_| {
        let world = World::new();
        // Four megabytes in a few kilobytes.
        let files = 400;
        let archive = large(&world, files, "large:1");
        let packed = fs::metadata(&archive).unwrap().len();
        let unpacked: u64 = (0..files).map(|number| 200 * format!("{number} of large:1").len() as u64).sum();
        assert!(packed * 20 < unpacked, "{packed} of {unpacked}");
        let Some(before) = bytes_written() else { return common::skip("the kernel counts no bytes") };
        let crowd = 4;
        std::thread::scope(|scope| {
            for _ in 0..crowd {
                scope.spawn(|| {
                    let store =
                        Store::options().durability(Durability::Relaxed).open(world.path("")).unwrap();
                    store.load(File::open(&archive).unwrap(), &LoadOptions::default()).unwrap();
                });
                scope.spawn(|| {
                    Process::start(world.tool(&["load", "-i", archive.to_str().unwrap()])).succeeds();
                });
            }
        });
        let written = bytes_written().unwrap() - before;
        assert!(written >= unpacked, "{written} of {unpacked}: the kernel counts otherwise");
        assert!(written < unpacked * 3 / 2, "{written} were written for {unpacked}");
        world.is_well();
    });
}

/// How many operations in progress rely on something.
fn pinning(world: &World, line: &str) -> usize {
    let pins = |name: &String| fs::read_to_string(world.path("staging").join(name).join("pins"));
    let relies = |pins: &String| pins.lines().any(|pinned| pinned == line);
    names_in(&world.path("staging")).iter().filter_map(|name| pins(name).ok()).filter(relies).count()
}

#[test]
fn who_wants_a_layer_that_another_unpacks_waits_for_it_and_nobody_else_does() {
    privilege::under(USUAL, |_| {
        let world = World::new();
        let archive = large(&world, 1500, "large:1");
        let load = || Process::start(world.tool(&["load", "-i", archive.to_str().unwrap()]));
        let lock_of_layer =
            || names_in(&world.path("locks")).into_iter().find(|name| name.starts_with("layer-"));
        let (first, key) = loop {
            let first = load();
            until(|| lock_of_layer().is_some() || !names_in(&world.path("layers")).is_empty());
            first.stop();
            if let Some(name) = lock_of_layer() {
                break (first, name.replacen('-', " ", 1));
            }
            first.succeeds(); // it was over before it was stopped
            world.store.remove_image("large:1", RemoveImage::Refuse).unwrap();
            world.collect();
        };
        let second = load();
        // It asks for the lock now and then: who waits in the kernel cannot be called off.
        until(|| pinning(&world, &key) == 2);
        // Neither a collection nor another image waits.
        world.collect();
        world.load(0);
        world.collect();
        first.succeeds();
        second.succeeds();
        let large = world.store.image("large:1").unwrap();
        world.store.create_container(&large, &CreateOptions::named("one")).unwrap();
        world.is_well();
    });
}
