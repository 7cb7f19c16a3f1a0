//! A crowd in one store: threads with the library, and processes of the tool.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use plywood::fs::Durability;
use plywood::store::Store;

use crate::common::privilege::{self, Privilege};
use crate::hands::Hands;
use crate::member::{COVETED, Member, World};
use crate::watchdog::Watchdog;
use crate::{common, shop};

/// Seconds to go on for, instead of a number of steps.
const SOAK: &str = "PLYWOOD_SOAK_SECONDS";

/// Who comes, and how long each stays.
#[derive(Clone, Copy)]
struct Crowd {
    threads: usize,
    processes: usize,
    steps: u32,
}

impl Crowd {
    /// Lets everybody do what they do, and holds the store to everything it promised.
    fn meet(self) {
        let scratch = common::scratch();
        let store = scratch.path().join("store");
        let library = Store::options().durability(Durability::Relaxed);
        let first = library.create(&store).unwrap();
        let archives = shop::archives(scratch.path());
        let members = self.threads + self.processes;
        let world = World::new(archives, Watchdog::over(&store, members));
        let soak = std::env::var(SOAK).ok().map(|seconds| Duration::from_secs(seconds.parse().unwrap()));
        let begin = Instant::now();
        let is_over = |step: u32| match soak {
            Some(time) => begin.elapsed() >= time,
            None => step >= self.steps,
        };
        let work = |number: usize| {
            let hands = match number.checked_sub(self.threads) {
                // Each its own store, as processes have it, or two the same.
                None if number == 0 => Hands::Library(first.clone()),
                None => Hands::Library(library.open(&store).unwrap()),
                Some(process) => {
                    let may_part = rustix::process::geteuid().is_root();
                    Hands::Tool { store: store.clone(), apart: may_part && process % 2 == 1 }
                }
            };
            let mut member = Member::new(number, hands, &world);
            let mut step = 0;
            while !is_over(step) {
                // The tool begins anew for each thing that it does.
                let patience = if number < self.threads { 1 } else { 3 };
                member.step();
                step += patience;
            }
            member.look_at_all();
        };
        let work = &work;
        std::thread::scope(|scope| {
            scope.spawn(|| world.watchdog.watch());
            let crowd: Vec<_> = (0..members).map(|number| scope.spawn(move || work(number))).collect();
            let ends: Vec<_> = crowd.into_iter().map(|member| member.join()).collect();
            world.watchdog.release();
            for end in ends {
                end.unwrap_or_else(|panic| std::panic::resume_unwind(panic));
            }
        });
        let took = begin.elapsed();
        let hands = Hands::Library(first);
        let has_coveted = i64::from(hands.containers().unwrap().contains(COVETED));
        assert_eq!(world.coveted.load(Ordering::SeqCst), has_coveted, "the coveted name");
        let seen: usize = world.registers.values().map(|register| register.seen()).sum();
        world.registers.iter().for_each(|(name, register)| register.check(name));
        assert_eq!(hands.check(true).unwrap(), "");
        let size = disk_usage(&store);
        hands.clear();
        is_as_new(&store);
        let (done, refused) = (world.done.into_inner(), world.refused.into_inner());
        println!(
            "{members} members: {done} done, {refused} refused, {seen} looks at shared names, {took:?}; {size} kB, then {} kB",
            disk_usage(&store)
        );
    }
}

/// Kilobytes.
fn disk_usage(path: &Path) -> u64 {
    let output = common::run("du", ["-sk".as_ref(), path.as_os_str()]);
    String::from_utf8(output).unwrap().split_whitespace().next().unwrap().parse().unwrap()
}

/// Nothing is left in the store but what a store begins with.
fn is_as_new(store: &Path) {
    for emptied in ["oci/blobs/sha256", "layers", "containers", "views", "names", "staging"] {
        assert_eq!(names_in(&store.join(emptied)), BTreeSet::new(), "{emptied}");
    }
    // A lock on one thing goes with the thing.
    let left: Vec<_> = names_in(&store.join("locks")).into_iter().filter(|name| name.contains('-')).collect();
    assert!(left.is_empty(), "{left:?}");
}

pub fn names_in(dir: &Path) -> BTreeSet<String> {
    let name = |entry: std::io::Result<fs::DirEntry>| entry.unwrap().file_name().into_string().unwrap();
    fs::read_dir(dir).unwrap().map(name).collect()
}

#[test]
fn a_crowd_loses_nothing_and_nobody_waits_for_ever() {
    privilege::under(&[Privilege::Root], |_| Crowd { threads: 5, processes: 4, steps: 45 }.meet());
}

#[test]
fn a_crowd_without_privileges_loses_nothing_either() {
    if std::env::var_os(SOAK).is_some() {
        return; // one crowd is enough
    }
    privilege::under(&[Privilege::SingleId, Privilege::Plain], |_| {
        Crowd { threads: 3, processes: 2, steps: 30 }.meet();
    });
}
