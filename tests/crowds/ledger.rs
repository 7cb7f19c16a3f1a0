//! What was done to a thing that everybody changes, and what may be seen of it.

use std::sync::Mutex;
use std::time::Instant;

/// From when to when something was done: it took effect at one moment in between.
#[derive(Clone, Copy, Debug)]
pub struct Span {
    pub begin: Instant,
    pub end: Instant,
}

impl Span {
    fn is_before(&self, other: &Self) -> bool {
        self.end < other.begin
    }
}

/// A name that everybody gives and takes: all writes that were acknowledged. `None` is no image.
#[derive(Default, Debug)]
pub struct Register {
    writes: Mutex<Vec<(Span, Option<String>)>>,
    reads: Mutex<Vec<(Span, Option<String>)>>,
}

impl Register {
    pub fn wrote(&self, span: Span, value: Option<String>) {
        self.writes.lock().unwrap().push((span, value));
    }

    pub fn read(&self, span: Span, value: Option<String>) {
        self.reads.lock().unwrap().push((span, value));
    }

    /// Holds everything that was seen against what was written: each value seen was written by somebody who had begun by
    /// then, and nobody had overwritten it who began after that and had ended by then.
    pub fn check(&self, name: &str) {
        let writes = self.writes.lock().unwrap();
        for (seen, value) in self.reads.lock().unwrap().iter() {
            let possible =
                writes.iter().filter(|(write, written)| written == value && write.begin <= seen.end);
            let overwritten = |write: &Span| {
                writes.iter().any(|(other, _)| write.is_before(other) && other.is_before(seen))
            };
            // Before all writes there was nothing.
            let untouched = value.is_none() && !writes.iter().any(|(write, _)| write.is_before(seen));
            let explained = untouched || possible.into_iter().any(|(write, _)| !overwritten(write));
            assert!(explained, "{name}: {value:?} was seen at {seen:?} after\n{writes:#?}");
        }
    }

    pub fn seen(&self) -> usize {
        self.reads.lock().unwrap().len()
    }
}
