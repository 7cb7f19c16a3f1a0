//! [`Writers`]: the content of small files, written by whichever thread has time.
//!
//! The thread that reads the tar creates every file in its turn, and so decides alone what the tree looks like. What is
//! left after that concerns open files, no two of them shared, and may be done in any order: by the thread that decodes
//! while it is ahead, by threads that have no layer, and by the reader itself where it would wait otherwise.
//! [`Outbox::settle`] is the barrier: behind it all that was handed out is done, or what failed first in the order of the
//! tar is known.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, Read};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use super::content::{Content, Written};
use super::error::UnpackError;
use super::files::Touch;
use crate::changeset::{ChangesetError, Data, Reader};
use crate::fs::{self, Context, path_of};

/// Size of the largest file that is handed out. Larger ones are written from where the decoder has put them: copying them
/// once more costs more than the system calls that another thread could do.
const SMALL: u64 = 128 << 10;

/// A parcel is handed out when it has this many files, which are open all the time, or this many bytes.
const FILES: usize = 8;
const BYTES: usize = 128 << 10;

/// Parcels of one layer that may wait: as many as the decoder's thread has time for while the reader goes through the
/// blocks that were decoded ahead.
const WAITING: usize = 12;

/// Where parcels wait, and what became of them.
#[derive(Default)]
pub(super) struct Writers {
    state: Mutex<State>,
    settled: Condvar,
    /// Whether another thread comes by, so that handing out is worth something.
    attended: AtomicBool,
}

#[derive(Default)]
struct State {
    waiting: VecDeque<Parcel>,
    /// Parcels to be filled again.
    empty: Vec<Parcel>,
    /// Parcels that a thread is at.
    at_work: usize,
    done: Done,
}

/// What became of the parcels so far.
#[derive(Default)]
struct Done {
    written: Written,
    /// Of the failures the first in the tar, by the number of its entry.
    failure: Option<(u64, fs::Error)>,
}

/// Files that were created, and what is to be written to them.
#[derive(Default)]
struct Parcel {
    files: Vec<Pending>,
    /// The runs of data of all files, one after the other: where in the file, and how long.
    runs: Vec<(u64, usize)>,
    data: Vec<u8>,
}

struct Pending {
    /// The entry.
    index: u64,
    file: File,
    size: u64,
    /// How many of the runs are its own.
    runs: usize,
    touch: Touch,
}

impl Writers {
    /// Says that a thread will come by for parcels.
    pub(super) fn attend(&self) {
        self.attended.store(true, Ordering::Relaxed);
    }

    /// Writes one parcel if one waits.
    pub(super) fn help(&self) -> bool {
        let mut state = self.lock();
        let Some(parcel) = state.waiting.pop_front() else { return false };
        state.at_work += 1;
        drop(state);
        AtWork(self).write(parcel);
        true
    }

    /// Writes what waits.
    pub(super) fn help_all(&self) {
        while self.help() {}
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing in here panics while the lock is held.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// Takes a parcel, and leaves an empty one.
    fn take(&mut self, parcel: &mut Parcel) {
        self.waiting.push_back(std::mem::replace(parcel, self.empty.pop().unwrap_or_default()));
    }
}

/// A thread that is at a parcel, until this is dropped.
struct AtWork<'w>(&'w Writers);

impl AtWork<'_> {
    fn write(self, mut parcel: Parcel) {
        let done = parcel.write();
        let mut state = self.0.lock();
        state.done.add(done);
        state.empty.push(parcel);
    }
}

impl Drop for AtWork<'_> {
    fn drop(&mut self) {
        let mut state = self.0.lock();
        state.at_work -= 1;
        if std::thread::panicking() {
            // Nobody waits for a thread that is gone, and nobody takes its files for written.
            let lost = fs::Error::new("write", "a small file", io::Error::other("the thread panicked"));
            state.done.add(Done { failure: Some((0, lost)), ..Done::default() });
        }
        if state.at_work == 0 {
            self.0.settled.notify_all();
        }
    }
}

impl Done {
    fn add(&mut self, other: Self) {
        self.written += other.written;
        let failures = self.failure.take().into_iter().chain(other.failure);
        self.failure = failures.min_by_key(|(index, _)| *index);
    }
}

impl Parcel {
    fn is_full(&self) -> bool {
        self.files.len() >= FILES || self.data.len() >= BYTES
    }

    /// Takes a file, and the data that `tar` is at.
    fn add<R: Read>(
        &mut self,
        (index, file, touch): (u64, File, Touch),
        size: u64,
        tar: &mut Reader<R>,
    ) -> Result<(), ChangesetError> {
        let before = self.runs.len();
        while let Some(Data { offset, bytes }) = tar.next_data()? {
            self.data.extend_from_slice(bytes);
            match self.runs[before..].last_mut() {
                // It was cut by a buffer; one system call writes it all the same.
                Some((begin, length)) if *begin + *length as u64 == offset => *length += bytes.len(),
                _ => self.runs.push((offset, bytes.len())),
            }
        }
        let runs = self.runs.len() - before;
        self.files.push(Pending { index, file, size, runs, touch });
        Ok(())
    }

    /// Writes all files up to the first that fails, and leaves nothing in the parcel but room.
    fn write(&mut self) -> Done {
        let mut done = Done::default();
        let (mut runs, mut data) = (self.runs.drain(..), &self.data[..]);
        for Pending { index, file, size, runs: count, touch } in self.files.drain(..) {
            let own = runs.by_ref().take(count);
            let mut pieces = own.map(|(offset, length)| {
                let (bytes, behind) = data.split_at(length);
                data = behind;
                Data { offset, bytes }
            });
            let mut content = Content::new(&file, size);
            let written = pieces.try_for_each(|piece| content.write(piece)).and_then(|()| content.finish());
            let written = written.at_path("write", || path_of(&file));
            match written.and_then(|bytes| touch.apply(&file).map(|()| bytes)) {
                Ok(bytes) => done.written += bytes,
                Err(error) => {
                    done.failure = Some((index, error));
                    break;
                }
            }
        }
        drop(runs);
        self.data.clear();
        done
    }
}

/// The reader's side of [`Writers`].
pub(super) struct Outbox<'a> {
    writers: Arc<Writers>,
    /// Asks a thread that has nothing to do to come by.
    invite: &'a dyn Fn(),
    parcel: Parcel,
}

impl<'a> Outbox<'a> {
    pub(super) fn new(writers: Arc<Writers>, invite: &'a dyn Fn()) -> Self {
        Self { writers, invite, parcel: Parcel::default() }
    }

    /// Whether a file of this size is to be handed out.
    pub(super) fn takes(&self, size: u64) -> bool {
        size <= SMALL && self.writers.attended.load(Ordering::Relaxed)
    }

    /// Takes the new file of entry `index`, which needs no more than its data, which `tar` is at, and `touch`.
    ///
    /// # Errors
    ///
    /// Of this file, or the first of those before that has failed.
    pub(super) fn put<R: Read>(
        &mut self,
        index: u64,
        file: File,
        touch: Touch,
        size: u64,
        tar: &mut Reader<R>,
    ) -> Result<(), UnpackError> {
        self.parcel.add((index, file, touch), size, tar)?;
        if !self.parcel.is_full() {
            return Ok(());
        }
        let mut state = self.writers.lock();
        state.take(&mut self.parcel);
        let (too_many, failed) = (state.waiting.len() > WAITING, state.done.failure.is_some());
        drop(state);
        if failed {
            return self.settle().map(drop);
        }
        if too_many {
            self.writers.help();
        }
        (self.invite)();
        Ok(())
    }

    /// Waits until all is written that was handed out. Returns how many bytes of data that were.
    ///
    /// # Errors
    ///
    /// What failed first in the order of the tar.
    pub(super) fn settle(&mut self) -> Result<Written, UnpackError> {
        self.writers.lock().take(&mut self.parcel);
        self.writers.help_all();
        let state = self.writers.lock();
        let settled = self.writers.settled.wait_while(state, |state| state.at_work > 0);
        let mut state = settled.unwrap_or_else(PoisonError::into_inner);
        let Done { written, failure } = std::mem::take(&mut state.done);
        failure.map_or(Ok(written), |(_, error)| Err(error.into()))
    }
}
