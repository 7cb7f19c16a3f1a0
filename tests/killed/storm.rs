//! `kill -9` in a store that several use: what was acknowledged is there, what was killed was done or not, nothing that a
//! dead process held blocks anybody, and after a collection nothing is left of it all.
//!
//! The moments come from a fixed seed. `PLYWOOD_KILLS` says how many each worker is killed, for longer runs.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use serde_json::Value;

use crate::common::image::{Compression, Layout, image};
use crate::common::privilege::{self, Privilege};
use crate::common::tar::tar;
use crate::common::{run_command, scratch};

/// Processes that work at a time.
const WORKERS: usize = 3;
/// How many of each worker's are killed in a short run.
const KILLS: usize = 15;

/// The same sequence on every machine.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % sides
    }
}

/// What one worker was promised of what bears its name: the ids of its images, where they are known, and whether its
/// container is there.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
struct Promised {
    images: BTreeMap<String, Option<String>>,
    container: bool,
}

impl Promised {
    fn allows(&self, found: &Self) -> bool {
        self.container == found.container
            && self.images.keys().eq(found.images.keys())
            && self.images.iter().all(|(name, id)| id.is_none() || *id == found.images[name])
    }
}

struct Worker<'s> {
    number: usize,
    store: &'s Path,
    /// Two images that share a base with those of the others, and their ids.
    archives: Vec<(PathBuf, String)>,
    dice: Dice,
    promised: Promised,
}

impl<'s> Worker<'s> {
    fn new(number: usize, scratch: &Path, store: &'s Path) -> Self {
        let base = (0..40).fold(tar().dir("base"), |tar, file| {
            tar.file(format!("base/{file}"), format!("{file} ").repeat(600))
        });
        let base = base.finish();
        let archives = (0..2).map(|version| {
            let own = tar().file("own", format!("{number} {version} ").repeat(2000)).finish();
            let image = image()
                .compressed(base.clone(), Compression::Gzip)
                .compressed(own, Compression::Zstd)
                .name(&format!("docker.io/library/w{number}:loaded"));
            let layout = Layout::of(&image);
            let path = scratch.join(format!("{number}-{version}.tar"));
            fs::write(&path, layout.oci_archive()).unwrap();
            (path, layout.images[0].config.clone())
        });
        let archives = archives.collect();
        let dice = Dice(1 + number as u64);
        Self { number, store, archives, dice, promised: Promised::default() }
    }

    fn name(&self, tag: &str) -> String {
        format!("w{}:{tag}", self.number)
    }

    fn container(&self) -> String {
        format!("c{}", self.number)
    }

    /// Something that can be done now, and what is promised when it is done.
    fn choose(&mut self) -> (Vec<String>, Promised) {
        let words = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>();
        let [loaded, tagged, committed] = ["loaded", "tagged", "committed"].map(|tag| self.name(tag));
        let container = self.container();
        let mut after = self.promised.clone();
        let has = |name: &String| self.promised.images.contains_key(name);
        loop {
            let words = match self.dice.roll(12) {
                0..=2 => {
                    let (path, id) = &self.archives[usize::try_from(self.dice.roll(2)).unwrap()];
                    after.images.insert(loaded, Some(id.clone()));
                    words(&["load", "-i", path.to_str().unwrap()])
                }
                3 if has(&loaded) => {
                    after.images.insert(tagged.clone(), after.images[&loaded].clone());
                    words(&["tag", &loaded, &tagged])
                }
                4 if has(&tagged) => {
                    after.images.remove(&tagged);
                    words(&["untag", &tagged])
                }
                5 if has(&committed) => {
                    after.images.remove(&committed);
                    words(&["rmi", "--force", &committed])
                }
                6 if has(&loaded) && !after.container => {
                    after.container = true;
                    words(&["create", "--name", &container, &loaded])
                }
                7 if after.container => words(&["mount", &container]),
                8 if after.container => {
                    after.images.insert(committed.clone(), None);
                    words(&["commit", &container, &committed])
                }
                9 if after.container => {
                    after.container = false;
                    words(&["rm", "--force", &container])
                }
                10 if has(&loaded) => words(&["save", "-o", "/dev/null", &loaded]),
                11 => words(&["gc"]),
                _ => continue,
            };
            return (words, after);
        }
    }

    /// Does one thing, which may be killed on the way.
    fn step(&mut self, kill: bool) {
        let (words, after) = self.choose();
        let mut command = tool(self.store, &words);
        if !kill {
            let output = command.output().unwrap();
            assert!(output.status.success(), "{words:?}: {}", text(&output));
            self.promised = after.clone();
            if words[0] == "mount" {
                let root = String::from_utf8(output.stdout).unwrap();
                fs::write(Path::new(root.trim_end()).join("edited"), format!("{}", self.dice.roll(1000)))
                    .unwrap();
            }
        } else {
            let mut child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
            std::thread::sleep(Duration::from_micros(self.dice.roll(60_000)));
            child.kill().unwrap();
            child.wait().unwrap();
        }
        let found = self.found();
        let is_kept = self.promised.allows(&found) || (kill && after.allows(&found));
        assert!(is_kept, "{words:?}: {found:#?}\npromised: {:#?}\nor: {after:#?}", self.promised);
        self.promised = found;
    }

    /// What the store says of this worker's.
    fn found(&self) -> Promised {
        let list = |what: &str| -> Vec<Value> {
            let output = tool(self.store, &[what.to_owned(), "--json".to_owned()]).output().unwrap();
            assert!(output.status.success(), "{what}: {}", text(&output));
            serde_json::from_slice(&output.stdout).unwrap()
        };
        let mut found = Promised::default();
        for image in list("images") {
            for name in image["names"].as_array().unwrap().iter().map(|name| name.as_str().unwrap()) {
                if name.starts_with(&self.name("")) {
                    found.images.insert(name.to_owned(), Some(image["id"].as_str().unwrap().to_owned()));
                }
            }
        }
        found.container = list("ps").iter().any(|container| container["name"] == *self.container());
        found
    }
}

fn tool(store: &Path, words: &[String]) -> Command {
    let mut command = privilege::plywood().expect("the feature is on, so it was built");
    command.args(["--driver", "overlay", "--root"]).arg(store).args(words).stdin(Stdio::null());
    command
}

fn text(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
fn processes_that_are_killed_take_nothing_with_them_and_leave_nothing() {
    privilege::under(&[Privilege::Root], |_| {
        let kills = std::env::var("PLYWOOD_KILLS").map_or(KILLS, |kills| kills.parse().unwrap());
        let scratch = scratch();
        // Syncing is the disk's matter, and power cuts are another test's.
        run_command(Command::new("mount").args(["-t", "tmpfs", "tmpfs"]).arg(scratch.path()));
        let store = scratch.path().join("store");
        let words = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>();
        let must = |said: &[&str]| run_command(&mut tool(&store, &words(said))).stdout;
        let mut workers: Vec<_> =
            (0..WORKERS).map(|number| Worker::new(number, scratch.path(), &store)).collect();
        std::thread::scope(|scope| {
            for worker in &mut workers {
                scope.spawn(move || {
                    worker.step(false);
                    for _ in 0..kills {
                        for _ in 0..worker.dice.roll(2) {
                            worker.step(false);
                        }
                        worker.step(true);
                    }
                });
            }
        });
        let report: Value = serde_json::from_slice(&must(&["check", "--deep", "--json"])).unwrap();
        assert_eq!(report["damages"].as_array().unwrap().len(), 0, "{report}");
        for worker in &workers {
            if worker.promised.container {
                must(&["export", "-o", "/dev/null", &worker.container()]);
                must(&["rm", "--force", &worker.container()]);
            }
        }
        // Those that lost their names to others, too.
        let images: Vec<Value> = serde_json::from_slice(&must(&["images", "--json"])).unwrap();
        for image in images {
            must(&["rmi", "--force", image["id"].as_str().unwrap()]);
        }
        must(&["gc"]);
        for emptied in ["oci/blobs/sha256", "layers", "containers", "names", "staging"] {
            let left: Vec<_> = fs::read_dir(store.join(emptied)).unwrap().collect();
            assert!(left.is_empty(), "{emptied}: {left:?}");
        }
        for lock in fs::read_dir(store.join("locks")).unwrap() {
            let name = lock.unwrap().file_name().into_string().unwrap();
            assert!(!name.contains('-'), "{name}");
        }
        run_command(Command::new("umount").arg("--lazy").arg(scratch.path()));
    });
}
