//! What a power cut leaves: every operation that was acknowledged is there, whole, with the same ids; what was under way
//! is there or not; nothing is half visible, and the next command works without a repair.
//!
//! A power cut is the file system's own emergency stop (`XFS_IOC_GOINGDOWN`, which ext4 has too) without a last flush
//! of the journal: from that instant nothing reaches the disk, whatever the page cache holds. It comes at a random
//! moment of an operation, or at the instant an operation returns. Then everything is killed, unmounted and mounted
//! again, under another boot id. One store goes through all cuts.

#![cfg(feature = "cli")]
#![allow(unreachable_pub, clippy::unwrap_used)]

#[path = "../common/mod.rs"]
mod common;
mod disk;
mod ledger;
mod vouched;

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use common::image::{Compression, Layout, image};
use common::privilege::{self, Privilege};
use common::tar::tar;
use disk::{Disk, Outcome};
use ledger::{Contents, Ledger};

/// Cuts per file system, unless `PLYWOOD_POWER_CUTS` says another number.
const CUTS: u32 = 40;

/// The same sequence on every machine: which operation, on what, and when the cut comes.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        usize::try_from(self.0 >> 33).unwrap() % sides
    }

    fn pick<'a, T>(&mut self, from: &'a [T]) -> &'a T {
        &from[self.roll(from.len())]
    }
}

/// One operation of the tool.
#[derive(Clone, Debug)]
enum Operation {
    Load(usize),
    Tag(String, String),
    Untag(String),
    Remove(String),
    Create(String, String),
    Edit(String),
    Commit(String, String),
    Delete(String),
    Save(String),
    Collect,
}

/// Images to load: they share their base, and two versions share a name.
struct Archives(Vec<Archive>);

struct Archive {
    path: PathBuf,
    name: String,
    id: String,
}

impl Archives {
    fn write(dir: &std::path::Path) -> Self {
        let base = || {
            let files = (0..150).fold(tar().dir("base"), |tar, number| {
                tar.file(format!("base/{number}"), format!("{number} ").repeat(10 * number))
            });
            files.file("base/large", vec![7; 700_000]).link("base/linked", "base/1").finish()
        };
        let archives = ["one:1", "two:1", "one:1", "three:1"].iter().enumerate().map(|(number, name)| {
            let own = tar()
                .whiteout(format!("base/{number}"))
                .dir("own")
                .file("own/file", format!("of {number}"))
                .file("own/large", vec![number as u8; 300_000]);
            let image = image()
                .compressed(base(), Compression::Gzip)
                .compressed(own.finish(), if number == 1 { Compression::None } else { Compression::Zstd })
                .name(&format!("docker.io/library/{name}"));
            let layout = Layout::of(&image);
            let path = dir.join(format!("{number}.tar"));
            fs::write(&path, layout.oci_archive()).unwrap();
            Archive { path, name: (*name).to_owned(), id: layout.images[0].config.clone() }
        });
        Self(archives.collect())
    }
}

/// A store that lives through power cuts.
struct Life {
    disk: Disk,
    dice: Dice,
    archives: Archives,
    ledger: Ledger,
    contents: Contents,
    /// How long each kind of operation took when it was left alone.
    lasts: BTreeMap<&'static str, Duration>,
    _scratch: tempfile::TempDir,
}

impl Life {
    fn new(file_system: &str) -> Self {
        let scratch = common::scratch();
        let archives = Archives::write(scratch.path());
        let disk = Disk::new(scratch.path(), file_system);
        let (ledger, contents) = Default::default();
        Self { disk, dice: Dice(7), archives, ledger, contents, lasts: BTreeMap::new(), _scratch: scratch }
    }

    /// Something that can be done now.
    fn choose(&mut self) -> Operation {
        let names: Vec<String> = self.ledger.names.keys().cloned().collect();
        let containers: Vec<String> = self.ledger.containers.iter().cloned().collect();
        let fresh = format!("n{}:1", self.dice.roll(6));
        loop {
            let kind = self.dice.roll(12);
            if kind > 2 && names.is_empty() {
                continue;
            }
            return match kind {
                0..=2 => Operation::Load(self.dice.roll(self.archives.0.len())),
                3 => Operation::Tag(self.dice.pick(&names).clone(), fresh),
                4 if names.len() > 2 => Operation::Untag(self.dice.pick(&names).clone()),
                5 if names.len() > 2 => Operation::Remove(self.dice.pick(&names).clone()),
                6 if containers.len() < 4 => {
                    let container = format!("c{}", self.dice.roll(1000));
                    Operation::Create(container, self.dice.pick(&names).clone())
                }
                7 if !containers.is_empty() => Operation::Edit(self.dice.pick(&containers).clone()),
                8 if !containers.is_empty() => Operation::Commit(self.dice.pick(&containers).clone(), fresh),
                9 if containers.len() > 1 => Operation::Delete(self.dice.pick(&containers).clone()),
                10 => Operation::Save(self.dice.pick(&names).clone()),
                11 => Operation::Collect,
                _ => continue,
            };
        }
    }

    /// The words of the tool, and a name for how long it takes.
    fn words(&self, operation: &Operation) -> (&'static str, Vec<String>) {
        let words = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>();
        match operation {
            Operation::Load(archive) => {
                ("load", words(&["load", "-i", self.archives.0[*archive].path.to_str().unwrap()]))
            }
            Operation::Tag(image, name) => ("tag", words(&["tag", image, name])),
            Operation::Untag(name) => ("untag", words(&["untag", name])),
            Operation::Remove(name) => ("rmi", words(&["rmi", name])),
            Operation::Create(name, image) => ("create", words(&["create", "--name", name, image])),
            Operation::Edit(name) => ("mount", words(&["mount", name])),
            Operation::Commit(name, image) => ("commit", words(&["commit", name, image])),
            // It may still be mounted.
            Operation::Delete(name) => ("rm", words(&["rm", "--force", name])),
            Operation::Save(name) => ("save", words(&["save", "-o", "/dev/null", name])),
            Operation::Collect => ("gc", words(&["gc"])),
        }
    }

    /// Does one operation, and perhaps cuts the power.
    fn step(&mut self, cut: bool) {
        let operation = self.choose();
        let (kind, words) = self.words(&operation);
        // Sometimes longer than it takes: then the cut comes at the instant it returns.
        let usual = self.lasts.get(kind).copied().unwrap_or(Duration::from_millis(50));
        let patience = usual.mul_f64(self.dice.roll(130) as f64 / 100.0);
        let begin = Instant::now();
        let outcome = self.disk.tool(&words, cut.then_some(patience));
        if !cut {
            self.lasts.insert(kind, begin.elapsed());
        }
        let before = self.ledger.clone();
        match outcome {
            Outcome::Done(output) => {
                self.record(&operation, output.trim());
                if let Operation::Edit(name) = &operation {
                    self.edit(name, output.trim());
                }
                if cut {
                    self.disk.cut();
                    let promised = [self.ledger.clone()];
                    self.recover(&promised, &format!("{operation:?}, when it had returned"));
                }
            }
            Outcome::Failed(errors) => {
                // A container keeps its image; nothing else is in the way of anything.
                let refused = matches!(operation, Operation::Remove(_)) && errors.contains("is used by");
                assert!(refused, "{operation:?}: {errors}");
                if cut {
                    self.disk.cut();
                    self.recover(&[before], &format!("{operation:?}, refused"));
                }
            }
            Outcome::Cut => {
                self.record(&operation, "");
                let after = self.ledger.clone();
                self.recover(&[before, after], &format!("{operation:?}, after {patience:?} of {usual:?}"));
            }
        }
    }

    /// Writes what has now happened into the ledger.
    fn record(&mut self, operation: &Operation, output: &str) {
        let ledger = &mut self.ledger;
        match operation {
            Operation::Load(archive) => {
                let Archive { name, id, .. } = &self.archives.0[*archive];
                ledger.names.insert(name.clone(), Some(id.clone()));
            }
            Operation::Tag(image, name) => {
                let named = ledger.names[image].clone();
                ledger.names.insert(name.clone(), named);
            }
            Operation::Untag(name) | Operation::Remove(name) => drop(ledger.names.remove(name)),
            Operation::Create(name, _) => drop(ledger.containers.insert(name.clone())),
            Operation::Commit(_, image) => {
                ledger.names.insert(image.clone(), (!output.is_empty()).then(|| output.to_owned()));
            }
            Operation::Delete(name) => drop(ledger.containers.remove(name)),
            Operation::Edit(_) | Operation::Save(_) | Operation::Collect => {}
        }
    }

    /// Writes into a mounted root.
    fn edit(&mut self, name: &str, root: &str) {
        let file = std::path::Path::new(root).join(format!("base/{}", self.dice.roll(20)));
        fs::write(&file, format!("edited {}\n", self.dice.roll(1000)).repeat(1000)).unwrap();
        if self.dice.roll(2) == 0 {
            self.disk.must(&["umount", name]);
        }
    }

    /// Starts the machine again and holds the store to what it promised: one of these.
    fn recover(&mut self, promised: &[Ledger], what: &str) {
        self.disk.restart();
        let found = Ledger::of(&self.disk);
        assert!(
            promised.iter().any(|ledger| ledger.allows(&found)),
            "{what}: {found:#?}\npromised: {promised:#?}"
        );
        self.contents.check(&self.disk, &found);
        self.ledger = found;
    }
}

/// Hundreds of operations in one store, some of them cut short; at the end nothing is left of it all.
fn survives(file_system: &str) {
    let cuts = std::env::var("PLYWOOD_POWER_CUTS").map_or(CUTS, |cuts| cuts.parse().unwrap());
    let mut life = Life::new(file_system);
    for _ in 0..cuts {
        for _ in 0..life.dice.roll(4) {
            life.step(false);
        }
        life.step(true);
    }
    for container in &Ledger::of(&life.disk).containers {
        life.disk.must(&["umount", container]);
        life.disk.must(&["rm", container]);
    }
    // Also those that lost their names to others.
    for id in ledger::image_ids(&life.disk) {
        life.disk.must(&["rmi", "--force", &id]);
    }
    life.disk.must(&["gc"]);
    for emptied in ["oci/blobs/sha256", "layers", "containers", "names", "staging"] {
        let left: Vec<_> = fs::read_dir(life.disk.store().join(emptied)).unwrap().collect();
        assert!(left.is_empty(), "{emptied}: {left:?}");
    }
}

#[test]
fn power_cuts_on_ext4_lose_nothing_that_was_acknowledged() {
    privilege::under(&[Privilege::Root], |_| survives("ext4"));
}

#[test]
fn power_cuts_on_xfs_lose_nothing_that_was_acknowledged() {
    privilege::under(&[Privilege::Root], |_| survives("xfs"));
}
