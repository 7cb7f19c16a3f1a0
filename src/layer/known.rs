//! [`Known`]: records of layers that this process has read, so that none is read and parsed for every container.
//!
//! A record counts only while the directory that it was read in is the one that is there, and that is asked each time.
//! In a layer nothing changes but the record, by a new file over the old one, and a layer that is made again is another
//! directory: either way the inode or its change time, which no program can set, is another. A change in the same tick
//! of the kernel's clock would not show, so nothing is kept unless the clock is seen to have gone on.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use super::record::Record;
use crate::fs::{Stat, Timestamp};

/// Layers at most: more than the containers of one engine commonly stack.
const MOST: usize = 4096;

/// Bytes of a record at most. Few are longer.
const LONGEST: usize = 4096;

/// A record, and the directory that it was read in.
#[derive(Clone, Debug)]
pub(super) struct Seen {
    pub(super) record: Record,
    device: u64,
    inode: u64,
    ctime: Timestamp,
}

impl Seen {
    /// Whether it is what the record in `dir` says.
    pub(super) fn is_in(&self, dir: &Stat) -> bool {
        (self.device, self.inode, self.ctime) == (dir.device, dir.inode, dir.ctime)
    }
}

/// What this process has read.
#[derive(Debug, Default)]
pub(super) struct Known(Mutex<HashMap<String, Seen>>);

impl Known {
    /// What was read in the directory `name` of a layer, be it true or not any more.
    pub(super) fn get(&self, name: &str) -> Option<Seen> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).get(name).cloned()
    }

    /// Forgets what was read in the directory `name` of a layer.
    pub(super) fn forget(&self, name: &str) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(name);
    }

    /// Keeps a record of `length` bytes that was read in `dir`, after `dir` was looked at, and that after the same file
    /// system had given something else the change time `passed`.
    pub(super) fn keep(&self, name: &str, record: &Record, length: usize, dir: &Stat, passed: Timestamp) {
        if length > LONGEST || passed <= dir.ctime {
            return;
        }
        let &Stat { device, inode, ctime, .. } = dir;
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if known.len() >= MOST {
            known.clear();
        }
        known.insert(name.to_owned(), Seen { record: record.clone(), device, inode, ctime });
    }
}
