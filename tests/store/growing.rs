//! Roots that change while they are read: logs grow, state files are cut, files come and go.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use plywood::container::{CopyOutOptions, copy_out, resolve};
use plywood::driver::DriverKind;
use plywood::fs::Dir;
use plywood::store::{CommitOptions, Container, CreateOptions};

use crate::common::privilege::{self, ALL};
use crate::common::tar::Kind as TarKind;
use crate::common::tree::Kind;
use crate::common::untar;
use crate::world::*;

/// What a log has at the beginning.
const FIRST: usize = 3 << 20;

/// Keeps what is written, and does something when the first of it comes: the reader is in the middle then.
struct Meanwhile<F: FnMut()> {
    tar: Vec<u8>,
    act: Option<F>,
}

impl<F: FnMut()> Write for Meanwhile<F> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if let Some(mut act) = self.act.take() {
            act();
        }
        self.tar.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// What is got of the root while `act` happens in it: an export, and a copy of all of it.
fn both(one: &Container, act: impl Fn(&Path)) -> [Vec<u8>; 2] {
    let mounted = one.mount().unwrap();
    let root = mounted.path().to_owned();
    let mut export = Meanwhile { tar: Vec::new(), act: Some(|| act(&root)) };
    one.export(&mut export, &Default::default()).unwrap_or_else(|error| panic!("{}", chain(&error)));
    let mut copy = Meanwhile { tar: Vec::new(), act: Some(|| act(&root)) };
    mounted
        .copy_out("/", &mut copy, &CopyOutOptions::default())
        .unwrap_or_else(|error| panic!("{}", chain(&error)));
    mounted.unmount().unwrap();
    [export.tar, copy.tar]
}

fn container(world: &World) -> Container {
    let image = world.load_image(&sample());
    world.store.create_container(&image, &CreateOptions::named("one")).unwrap()
}

fn fill(one: &Container) {
    let mounted = one.mount().unwrap();
    fs::create_dir(mounted.path().join("aa")).unwrap();
    fs::write(mounted.path().join("aa/log"), vec![b'a'; FIRST]).unwrap();
    fs::write(mounted.path().join("aa/next"), "next").unwrap();
    mounted.unmount().unwrap();
}

#[test]
fn a_file_that_grows_is_exported_and_copied_with_the_bytes_that_it_had() {
    privilege::under_with_fuse(ALL, |privilege| {
        for &kind in drivers(privilege) {
            let world = World::driver(kind);
            let one = container(&world);
            fill(&one);
            let tars = both(&one, |root| {
                let mut log = OpenOptions::new().append(true).open(root.join("aa/log")).unwrap();
                log.write_all(&vec![b'b'; 1 << 20]).unwrap();
                // It was empty when it was looked at, or full.
                fs::write(root.join("aa/next"), vec![b'n'; 1 << 20]).unwrap();
            });
            for (tar, expected) in tars.iter().zip([FIRST, FIRST + (1 << 20)]) {
                let tree = tree_of(tar);
                let Kind::File { .. } = tree.at("aa/log").kind else { panic!("{privilege:?}, {kind}") };
                let entries = untar::entries(tar);
                let logs: Vec<_> = entries.iter().filter(|entry| entry.name.ends_with(b"aa/log")).collect();
                assert_eq!(logs.len(), 1, "{privilege:?}, {kind}");
                assert_eq!(tree.at("aa/log").kind, Kind::file(&content(expected)), "{privilege:?}, {kind}");
            }
        }
    });
}

/// The content of the last entry of this name, which is the one that counts.
fn last(tar: &[u8], name: &str) -> Vec<u8> {
    let found = untar::entries(tar).into_iter().rfind(|entry| entry.name.ends_with(name.as_bytes()));
    match found.unwrap().kind {
        TarKind::File(content) => content,
        other => panic!("{name} is {other:?}"),
    }
}

/// The log when it has this many bytes.
fn content(length: usize) -> Vec<u8> {
    let mut content = vec![b'a'; length.min(FIRST)];
    content.resize(length, b'b');
    content
}

#[test]
fn a_file_that_is_cut_is_read_once_more() {
    privilege::under_with_fuse(ALL, |privilege| {
        for &kind in drivers(privilege) {
            let world = World::driver(kind);
            let one = container(&world);
            fill(&one);
            let cut = |root: &Path| {
                let log = OpenOptions::new().write(true).open(root.join("aa/log")).unwrap();
                let now = log.metadata().unwrap().len();
                log.set_len(now - (1 << 20)).unwrap();
            };
            for (tar, left) in both(&one, cut).iter().zip([FIRST - (1 << 20), FIRST - (2 << 20)]) {
                let entries = untar::entries(tar);
                assert!(last(tar, "aa/log") == content(left), "{privilege:?}, {kind}");
                assert!(
                    entries.iter().any(|entry| entry.name.ends_with(b"aa/next")),
                    "{privilege:?}, {kind}"
                );
            }
        }
    });
}

#[test]
fn what_vanishes_meanwhile_is_not_there() {
    privilege::under_with_fuse(ALL, |privilege| {
        for &kind in drivers(privilege) {
            let world = World::driver(kind);
            let one = container(&world);
            fill(&one);
            for tar in both(&one, |root| {
                fs::remove_file(root.join("aa/next")).unwrap_or_default();
                fs::remove_dir_all(root.join("home")).unwrap_or_default();
                fs::remove_file(root.join("etc/passwd")).unwrap_or_default();
            }) {
                let tree = tree_of(&tar);
                assert!(tree.get("aa/next").is_none(), "{privilege:?}, {kind}");
            }
        }
    });
}

#[test]
fn a_container_whose_log_grows_all_the_time_is_committed_cloned_and_exported() {
    privilege::under_with_fuse(ALL, |privilege| {
        for &kind in drivers(privilege) {
            let what = format!("{privilege:?}, {kind}");
            let world = World::driver(kind);
            let one = container(&world);
            fill(&one);
            let mounted = one.mount().unwrap();
            let log = mounted.path().join("aa/log");
            let end = AtomicBool::new(false);
            std::thread::scope(|scope| {
                scope.spawn(|| {
                    let mut log = OpenOptions::new().append(true).open(log).unwrap();
                    while !end.load(Ordering::Relaxed) {
                        log.write_all(&[b'b'; 20_000]).unwrap();
                        if log.metadata().unwrap().len() > 64 << 20 {
                            log.set_len(FIRST as u64).unwrap();
                        }
                        std::thread::yield_now();
                    }
                });
                let mut outcomes = Vec::new();
                for _ in 0..3 {
                    let committed = one.commit(&CommitOptions::default());
                    outcomes.push(committed.map(drop).map_err(|error| chain(&error)));
                    let mut tar = Vec::new();
                    let exported = one.export(&mut tar, &Default::default());
                    if exported.is_ok() {
                        let log = last(&tar, "aa/log");
                        assert!(log == content(log.len()), "{what}");
                    }
                    outcomes.push(exported.map_err(|error| chain(&error)));
                    if kind == DriverKind::Copy {
                        // Not mounted, as far as the kernel knows.
                        let copied = mounted.copy_out("/aa/log", io::sink(), &CopyOutOptions::default());
                        outcomes.push(copied.map_err(|error| chain(&error)));
                    }
                }
                end.store(true, Ordering::Relaxed);
                // A log that was cut twice while it was read is an error that names it.
                for outcome in outcomes {
                    if let Err(error) = outcome {
                        assert!(
                            error.contains("aa/log") && error.contains("changed while"),
                            "{what}: {error}"
                        );
                    }
                }
            });
            mounted.unmount().unwrap();
        }
    });
}

#[test]
fn files_without_a_size_come_whole_and_errors_name_the_source() {
    let root = Dir::open_ambient("/").unwrap();
    for path in ["/proc/version", "/proc/kallsyms", "/sys/kernel/mm/transparent_hugepage/enabled"] {
        let Ok(expected) = fs::read(path) else { continue };
        let found = resolve(&root, path, false).unwrap();
        let mut tar = Vec::new();
        copy_out(&found, Path::new(path), &mut tar, &CopyOutOptions::default()).unwrap();
        let name = path.rsplit('/').next().unwrap();
        assert!(last(&tar, name) == expected, "{path}");
    }

    // Cut before each write: whatever size is said, there are fewer bytes.
    let temp = tempfile::tempdir().unwrap();
    let path = temp.path().join("source");
    fs::write(&path, vec![7; 4 << 20]).unwrap();
    struct Cutting(File);
    impl Write for Cutting {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            let now = self.0.metadata()?.len();
            self.0.set_len(now.saturating_sub(100_000))?;
            Ok(bytes.len())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }
    let found = resolve(&root, &path, false).unwrap();
    let options = CopyOutOptions::default().name(plywood::path::LayerPath::parse("target").unwrap());
    let out = Cutting(OpenOptions::new().write(true).open(&path).unwrap());
    let error = copy_out(&found, &path, out, &options).unwrap_err().to_string();
    assert!(error.contains("source\" changed while it was read"), "{error}");
}
