//! Every order that the steps of a few processes can have.
//!
//! A protocol is a state and what each process does next in it. All states that can come about are visited once; each has
//! to keep the invariants, and somebody has to be able to go on until all have ended.

use std::collections::BTreeMap;
use std::fmt::Debug;

/// What a process does in a state.
pub enum Step<S> {
    /// It goes on, to one of these.
    To(Vec<S>),
    /// It waits for another.
    Waits,
    /// It has ended.
    Ended,
}

/// A few processes with something in common.
pub trait Protocol {
    type State: Clone + Ord + Debug;

    fn begin(&self) -> Self::State;

    fn processes(&self) -> usize;

    fn step(&self, state: &Self::State, process: usize) -> Step<Self::State>;

    /// What is wrong with a state, if anything is. `all_ended` says that nothing will change any more.
    fn fault(&self, state: &Self::State, all_ended: bool) -> Option<String>;
}

/// Visits everything; gives the number of states, or the steps that lead to a fault.
pub fn explore<P: Protocol>(protocol: &P) -> Result<usize, String> {
    let begin = protocol.begin();
    let mut seen: BTreeMap<P::State, Option<(usize, P::State)>> = [(begin.clone(), None)].into();
    let mut open = vec![begin];
    while let Some(state) = open.pop() {
        let (mut ended, mut moved) = (0, false);
        for process in 0..protocol.processes() {
            match protocol.step(&state, process) {
                Step::Ended => ended += 1,
                Step::Waits => {}
                Step::To(next) => {
                    moved = true;
                    for next in next {
                        if !seen.contains_key(&next) {
                            seen.insert(next.clone(), Some((process, state.clone())));
                            open.push(next);
                        }
                    }
                }
            }
        }
        let all_ended = ended == protocol.processes();
        let fault = match moved || all_ended {
            true => protocol.fault(&state, all_ended),
            false => Some("they wait for each other".to_owned()),
        };
        if let Some(fault) = fault {
            return Err(format!("{fault}:\n{}", path_to(&seen, &state)));
        }
    }
    Ok(seen.len())
}

fn path_to<S: Ord + Debug>(seen: &BTreeMap<S, Option<(usize, S)>>, state: &S) -> String {
    let mut lines = vec![format!("      {state:?}")];
    let mut at = state;
    while let Some((process, before)) = &seen[at] {
        lines.push(format!("   {process}: {before:?}"));
        at = before;
    }
    lines.reverse();
    lines.join("\n")
}
