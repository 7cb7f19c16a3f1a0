//! The protocols of ARCHITECTURE.md, step by step as the file system sees them, in every order.
//!
//! A tool for memory models would show nothing here: what processes have in common is files and locks of the kernel,
//! which are in one order for all. Each protocol is also explored with its most important step left out, and has to fail
//! then: what could not go wrong proves nothing.

use crate::explore::{Protocol, Step, explore};

#[track_caller]
fn holds(protocol: &impl Protocol) {
    let states = explore(protocol).unwrap_or_else(|fault| panic!("{fault}"));
    assert!(states > 20, "{states} states are too few");
}

#[track_caller]
fn fails(protocol: &impl Protocol, fault: &str) {
    let found = explore(protocol).expect_err("it has to go wrong");
    assert!(found.starts_with(fault), "{found}");
}

/// A lock whose file goes with its holder (`fs::Lock`): open or create, lock, look whether the file still has the name.
struct RemovedLocks {
    looks_again: bool,
}

#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug, Default)]
struct Locks {
    /// The file that has the name.
    named: Option<u8>,
    made: u8,
    /// Who holds the lock on which file.
    holders: [Option<u8>; 3],
    at: [Locking; 3],
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default)]
enum Locking {
    #[default]
    Opens,
    Locks(u8),
    Looks(u8),
    Works(u8),
    Removes(u8),
    Releases,
    Over,
}

impl Protocol for RemovedLocks {
    type State = Locks;

    fn begin(&self) -> Locks {
        Locks::default()
    }

    fn processes(&self) -> usize {
        3
    }

    fn step(&self, state: &Locks, process: usize) -> Step<Locks> {
        let mut next = state.clone();
        next.at[process] = match state.at[process] {
            Locking::Opens => {
                if next.named.is_none() {
                    next.made += 1;
                    next.named = Some(next.made);
                }
                Locking::Locks(next.named.unwrap())
            }
            Locking::Locks(file) if state.holders.contains(&Some(file)) => return Step::Waits,
            Locking::Locks(file) => {
                next.holders[process] = Some(file);
                if self.looks_again { Locking::Looks(file) } else { Locking::Works(file) }
            }
            Locking::Looks(file) if state.named == Some(file) => Locking::Works(file),
            Locking::Looks(_) => {
                next.holders[process] = None;
                Locking::Opens
            }
            Locking::Works(file) => Locking::Removes(file),
            Locking::Removes(_) => {
                next.named = None;
                Locking::Releases
            }
            Locking::Releases => {
                next.holders[process] = None;
                Locking::Over
            }
            Locking::Over => return Step::Ended,
        };
        Step::To(vec![next])
    }

    fn fault(&self, state: &Locks, _: bool) -> Option<String> {
        let works = |at: &&Locking| matches!(at, Locking::Works(_) | Locking::Removes(_));
        (state.at.iter().filter(works).count() > 1).then(|| "two hold one lock".to_owned())
    }
}

#[test]
fn a_lock_whose_file_goes_with_its_holder_has_one_holder() {
    holds(&RemovedLocks { looks_again: true });
    fails(&RemovedLocks { looks_again: false }, "two hold one lock");
}

/// Pins and a collection: two that bring the same layer and lead a name to it, one that takes a name away, one that
/// collects. The `gc` lock is shared by who pins and exclusive to who collects.
struct Pins {
    /// Pins are written before it is looked whether the content is there.
    pins_first: bool,
}

#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
struct Store {
    content: bool,
    named: bool,
    pinned: [bool; 2],
    sharing: [bool; 2],
    collecting: bool,
    /// What the collector has decided.
    needed: bool,
    loads: [u8; 2],
    untags: u8,
    collects: u8,
}

impl Protocol for Pins {
    type State = Store;

    fn begin(&self) -> Store {
        // Something is there, and leads nowhere: it was just removed.
        Store {
            content: true,
            named: false,
            pinned: [false; 2],
            sharing: [false; 2],
            collecting: false,
            needed: false,
            loads: [0; 2],
            untags: 0,
            collects: 0,
        }
    }

    fn processes(&self) -> usize {
        4
    }

    fn step(&self, state: &Store, process: usize) -> Step<Store> {
        let mut next = state.clone();
        match process {
            0 | 1 => {
                let pin = if self.pins_first { [0, 1, 2, 3, 4, 5] } else { [3, 0, 1, 2, 4, 5] };
                match pin.get(usize::from(state.loads[process])) {
                    Some(0) if state.collecting => return Step::Waits,
                    Some(0) => next.sharing[process] = true,
                    Some(1) => next.pinned[process] = true,
                    Some(2) => next.sharing[process] = false,
                    // It looks, and makes what is not there.
                    Some(3) => next.content = true,
                    Some(4) => next.named = true,
                    Some(_) => next.pinned[process] = false,
                    None => return Step::Ended,
                }
                next.loads[process] += 1;
            }
            2 => {
                match state.untags {
                    0 => next.named = false,
                    _ => return Step::Ended,
                }
                next.untags += 1;
            }
            _ => {
                match state.collects {
                    0 | 4 if state.sharing.contains(&true) => return Step::Waits,
                    0 | 4 => next.collecting = true,
                    // Pins first: who ends in between has given a name by then.
                    1 | 5 => next.needed = state.pinned.contains(&true),
                    2 | 6 => next.needed |= state.named,
                    3 | 7 => {
                        next.content &= state.needed;
                        next.collecting = false;
                    }
                    _ => return Step::Ended,
                }
                next.collects += 1;
            }
        }
        Step::To(vec![next])
    }

    fn fault(&self, state: &Store, _: bool) -> Option<String> {
        (state.named && !state.content).then(|| "a name leads to nothing".to_owned())
    }
}

#[test]
fn what_is_pinned_before_it_is_looked_for_is_never_collected() {
    holds(&Pins { pins_first: true });
    fails(&Pins { pins_first: false }, "a name leads to nothing");
}

/// The name of a container is its own lock (`store::records`): two make a container of the same name, one removes the
/// container that has it, and one collects names that lead nowhere.
struct NamesOfContainers {
    locked_before_named: bool,
}

#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
struct Names {
    /// The container that the file of the name leads to; each container makes one file.
    file: Option<u8>,
    /// Who has locked the file that the container made: 0, 1 who make containers 0 and 1; 2 who removes 2; 3 who collects.
    locked: [Option<u8>; 3],
    /// Containers that are there.
    there: [bool; 3],
    at: [Naming; 4],
    refused: [bool; 2],
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
enum Naming {
    Begins,
    /// Found this file there.
    Meets(u8),
    /// Has the lock on it.
    Holds(u8),
    Named,
    Removed,
    Ends,
    Over,
}

impl NamesOfContainers {
    fn make(&self, state: &Names, process: usize) -> Step<Names> {
        let (mut next, own) = (state.clone(), u8::try_from(process).unwrap());
        next.at[process] = match state.at[process] {
            Naming::Begins => match state.file {
                None => {
                    next.file = Some(own);
                    next.locked[process] = self.locked_before_named.then_some(own);
                    Naming::Named
                }
                Some(other) => Naming::Meets(other),
            },
            Naming::Meets(other) if state.there[usize::from(other)] && state.file == Some(other) => {
                next.refused[process] = true;
                Naming::Over
            }
            Naming::Meets(other) if state.locked[usize::from(other)].is_some() => return Step::Waits,
            Naming::Meets(other) if state.file == Some(other) => {
                next.locked[usize::from(other)] = Some(own);
                Naming::Holds(other)
            }
            Naming::Meets(_) => Naming::Begins,
            Naming::Holds(other) => {
                next.locked[usize::from(other)] = None;
                if state.there[usize::from(other)] {
                    next.refused[process] = true;
                    Naming::Over
                } else {
                    // In the place of what leads nowhere.
                    next.file = Some(own);
                    next.locked[process] = self.locked_before_named.then_some(own);
                    Naming::Named
                }
            }
            Naming::Named => {
                next.there[process] = true;
                Naming::Ends
            }
            Naming::Ends => {
                next.locked[process] = None;
                Naming::Over
            }
            Naming::Removed => unreachable!("that is for who removes"),
            Naming::Over => return Step::Ended,
        };
        Step::To(vec![next])
    }

    fn remove(state: &Names) -> Step<Names> {
        let mut next = state.clone();
        next.at[2] = match state.at[2] {
            Naming::Begins if state.locked[2].is_some() => return Step::Waits,
            Naming::Begins => {
                next.locked[2] = Some(2);
                Naming::Named
            }
            Naming::Named => {
                next.there[2] = false;
                Naming::Removed
            }
            Naming::Removed => {
                next.file = None;
                Naming::Ends
            }
            Naming::Ends => {
                next.locked[2] = None;
                Naming::Over
            }
            _ => return Step::Ended,
        };
        Step::To(vec![next])
    }

    /// One that is locked is left alone.
    fn collect(state: &Names) -> Step<Names> {
        let mut next = state.clone();
        next.at[3] = match (state.at[3], state.file) {
            (Naming::Begins, Some(file)) if !state.there[usize::from(file)] => Naming::Meets(file),
            (Naming::Meets(file), _) if state.locked[usize::from(file)].is_none() => {
                next.locked[usize::from(file)] = Some(3);
                Naming::Holds(file)
            }
            (Naming::Holds(file), now) => {
                if now == Some(file) && !state.there[usize::from(file)] {
                    next.file = None;
                }
                next.locked[usize::from(file)] = None;
                Naming::Over
            }
            (Naming::Over, _) => return Step::Ended,
            _ => Naming::Over,
        };
        Step::To(vec![next])
    }
}

impl Protocol for NamesOfContainers {
    type State = Names;

    fn begin(&self) -> Names {
        let (file, there) = (Some(2), [false, false, true]);
        Names { file, locked: [None; 3], there, at: [Naming::Begins; 4], refused: [false; 2] }
    }

    fn processes(&self) -> usize {
        4
    }

    fn step(&self, state: &Names, process: usize) -> Step<Names> {
        match process {
            0 | 1 => self.make(state, process),
            2 => Self::remove(state),
            _ => Self::collect(state),
        }
    }

    fn fault(&self, state: &Names, all_ended: bool) -> Option<String> {
        let there: Vec<_> = (0..3).filter(|container| state.there[usize::from(*container)]).collect();
        if there.len() > 1 {
            return Some("two containers of one name".to_owned());
        }
        // What is there and not about to go has its name.
        let lost = there.iter().any(|container| {
            let is_going = *container == 2 && state.at[2] != Naming::Begins;
            !is_going && state.file != Some(*container)
        });
        let left = all_ended && there.is_empty() && state.file.is_some();
        match (lost, left) {
            (true, _) => Some("a container without its name".to_owned()),
            (_, true) => Some("a name of nothing".to_owned()),
            _ => None,
        }
    }
}

#[test]
fn the_name_of_a_container_has_one_container_and_a_container_its_name() {
    holds(&NamesOfContainers { locked_before_named: true });
    fails(&NamesOfContainers { locked_before_named: false }, "");
}

/// The names of images: one removes an image by the one name that it found, one gives it another name. Both change the
/// index under its lock, which each step of theirs here is.
struct NamesOfImages {
    compares: bool,
}

#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug, Default)]
struct Index {
    /// Whether the image has its first and its second name, and whether it is kept.
    names: [bool; 2],
    kept: bool,
    /// What who removes has seen.
    seen: Option<[bool; 2]>,
    removed: bool,
    tagged: u8,
    acknowledged: bool,
}

impl Protocol for NamesOfImages {
    type State = Index;

    fn begin(&self) -> Index {
        Index { names: [true, false], kept: true, ..Index::default() }
    }

    fn processes(&self) -> usize {
        3
    }

    fn step(&self, state: &Index, process: usize) -> Step<Index> {
        let mut next = state.clone();
        match process {
            0 => match state.seen {
                _ if state.removed => return Step::Ended,
                None if !state.names[0] => next.removed = true, // nothing has that name
                None => next.seen = Some(state.names),
                Some(seen) if self.compares && seen != state.names => next.seen = None,
                Some([_, true]) => (next.names[0], next.removed) = (false, true),
                Some(_) => (next.names, next.kept, next.removed) = ([false; 2], false, true),
            },
            // Gives the second name and takes it away again, and gives it.
            1 => {
                match state.tagged {
                    _ if !state.kept => return Step::Ended, // refused
                    0 | 2 => (next.names[1], next.acknowledged) = (true, true),
                    1 => (next.names[1], next.acknowledged) = (false, false),
                    _ => return Step::Ended,
                }
                next.tagged += 1;
            }
            // Loads it again, once it is gone.
            _ => match state.kept {
                false => (next.names[0], next.kept) = (true, true),
                true => return Step::Ended,
            },
        }
        Step::To(vec![next])
    }

    fn fault(&self, state: &Index, _: bool) -> Option<String> {
        (state.acknowledged && !state.names[1]).then(|| "a name was lost".to_owned())
    }
}

#[test]
fn a_name_that_was_given_is_lost_by_no_removal_that_began_before() {
    let states = explore(&NamesOfImages { compares: true }).unwrap();
    assert!(states > 5, "{states}");
    fails(&NamesOfImages { compares: false }, "a name was lost");
}

/// Locks of layers (`layer::ensure`): two images of the same three layers, each of which leans on the one below, in two
/// orders. First each takes what is free; before it waits for one it gives up those that it holds.
struct Layers {
    gives_up: bool,
}

#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug, Default)]
struct Making {
    holders: [Option<u8>; 3],
    there: [bool; 3],
    at: [u8; 2],
}

const ORDERS: [[usize; 3]; 2] = [[0, 1, 2], [2, 1, 0]];

impl Protocol for Layers {
    type State = Making;

    fn begin(&self) -> Making {
        Making::default()
    }

    fn processes(&self) -> usize {
        2
    }

    fn step(&self, state: &Making, process: usize) -> Step<Making> {
        let (mut next, own) = (state.clone(), Some(u8::try_from(process).unwrap()));
        let at = usize::from(state.at[process]);
        match at {
            // What another has is left for later. The largest comes first, which may be the topmost.
            0..3 => {
                let layer = ORDERS[process][2 - at];
                if state.holders[layer].is_none() && !state.there[layer] {
                    next.holders[layer] = own;
                }
            }
            3 => {
                if self.gives_up {
                    next.holders = state.holders.map(|holder| holder.filter(|_| holder != own));
                }
            }
            4..7 => {
                let layer = ORDERS[process][at - 4];
                if state.holders[layer].is_some_and(|_| state.holders[layer] != own) {
                    return Step::Waits;
                }
                next.there[layer] = true;
                next.holders[layer] = None;
            }
            _ => return Step::Ended,
        }
        next.at[process] += 1;
        Step::To(vec![next])
    }

    fn fault(&self, state: &Making, all_ended: bool) -> Option<String> {
        (all_ended && state.there != [true; 3]).then(|| "a layer is missing".to_owned())
    }
}

#[test]
fn who_waits_for_a_layer_holds_none_that_another_waits_for() {
    holds(&Layers { gives_up: true });
    fails(&Layers { gives_up: false }, "they wait for each other");
}
