//! [`Stored`]: how far the data of the current entry has been read.

use super::error::{ChangesetError, printable, truncated};
use super::header::BLOCK;
use super::sparse::Segment;

/// A run of a file's data.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Data<'a> {
    /// Where it belongs in the file. Between the end of one run and the offset of the next is a hole.
    pub offset: u64,
    /// The data, never empty.
    pub bytes: &'a [u8],
}

/// The data of the current entry: what is stored of it, where that belongs, and what has been read.
#[derive(Default)]
pub(super) struct Stored {
    /// What is stored, in order, and where it belongs. It was checked.
    map: Vec<Segment>,
    /// Which part of the map comes next or is being read.
    current: usize,
    /// Apparent size.
    pub(super) size: u64,
    /// Where in the file reading has come to.
    pub(super) position: u64,
    /// Stored bytes that were not read yet.
    pub(super) left: u64,
    /// Bytes behind them that fill up the last block.
    pub(super) padding: u64,
    /// The entry, for messages.
    pub(super) index: u64,
    pub(super) name: Vec<u8>,
}

impl Stored {
    /// A body without holes.
    pub(super) fn plain(index: u64, size: u64) -> Self {
        Self::sparse(index, size, size, vec![Segment { offset: 0, len: size }])
    }

    /// A body of which `stored` bytes are in the tar, and belong where `map` says.
    pub(super) fn sparse(index: u64, size: u64, stored: u64, map: Vec<Segment>) -> Self {
        let padding = stored.wrapping_neg() % BLOCK as u64;
        Self { map, size, left: stored, padding, index, ..Self::default() }
    }

    /// Leaves it to be skipped: the entry turned out to have no content.
    pub(super) fn hide(&mut self) {
        self.map.clear();
        self.size = 0;
    }

    /// Where the next data belongs; `None` if only a hole or nothing follows.
    pub(super) fn next_data(&mut self) -> Option<u64> {
        // Empty parts say nothing.
        while let Some(part) = self.map.get(self.current) {
            if part.len > 0 && part.offset + part.len > self.position {
                return Some(part.offset.max(self.position));
            }
            self.current += 1;
        }
        None
    }

    /// How much of the current part is left, reading being inside it.
    pub(super) fn run(&self) -> u64 {
        self.map.get(self.current).map_or(0, |part| part.offset + part.len - self.position)
    }

    pub(super) fn advance(&mut self, count: usize) {
        self.position += count as u64;
        self.left -= count as u64;
    }

    pub(super) fn truncated(&self, missing: u64) -> ChangesetError {
        truncated(self.index, &printable(&self.name), missing)
    }
}
