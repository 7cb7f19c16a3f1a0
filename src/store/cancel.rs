//! Giving up when whoever asked for an operation wishes it: the flag `cancel` of its options, set by another thread.
//!
//! An operation that gives up ends with [`StoreError::Cancelled`] and leaves what any other that failed leaves.

use std::fmt;
use std::io::{self, Write};
use std::sync::atomic::{AtomicBool, Ordering};

use super::error::StoreError;

/// Why a write was refused: nobody wants it any more.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Unwanted;

impl fmt::Display for Unwanted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("it was cancelled")
    }
}

impl std::error::Error for Unwanted {}

/// Writes on to another writer until it is cancelled.
pub(super) struct While<'a, W> {
    out: W,
    cancel: Option<&'a AtomicBool>,
}

impl<'a, W: Write> While<'a, W> {
    pub(super) fn wanted(out: W, cancel: Option<&'a AtomicBool>) -> Self {
        Self { out, cancel }
    }
}

impl<W: Write> Write for While<'_, W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match is_set(self.cancel) {
            true => Err(io::Error::other(Unwanted)),
            false => self.out.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}

fn is_set(cancel: Option<&AtomicBool>) -> bool {
    cancel.is_some_and(|cancel| cancel.load(Ordering::Relaxed))
}

/// Gives up if that is wished.
pub(super) fn refuse(cancel: Option<&AtomicBool>) -> Result<(), StoreError> {
    match is_set(cancel) {
        true => Err(StoreError::Cancelled),
        false => Ok(()),
    }
}

/// Says of an operation that gave up that it did, whichever part of it noticed.
pub(super) fn told<T>(outcome: Result<T, StoreError>) -> Result<T, StoreError> {
    match outcome {
        Err(error) if error.kind() == "cancelled" => Err(StoreError::Cancelled),
        other => other,
    }
}
