//! [`Input`]: the tar's bytes, read in large pieces and handed out in blocks and slices without a copy.

use std::io::{self, Read};

use super::header::{BLOCK, Block};

/// A multiple of the block size, large enough that reading costs little beside what is read.
const CAPACITY: usize = 256 << 10;

pub(super) struct Input<R> {
    reader: R,
    buffer: Box<[u8]>,
    start: usize,
    end: usize,
}

impl<R: Read> Input<R> {
    pub(super) fn new(reader: R) -> Self {
        Self { reader, buffer: vec![0; CAPACITY].into(), start: 0, end: 0 }
    }

    /// What is in the buffer, after reading on until that is at least `wanted` bytes. Less only at the end of the
    /// stream.
    pub(super) fn fill(&mut self, wanted: usize) -> io::Result<&[u8]> {
        debug_assert!(wanted <= CAPACITY);
        while self.end - self.start < wanted {
            if self.start > 0 {
                self.buffer.copy_within(self.start..self.end, 0);
                self.end -= self.start;
                self.start = 0;
            }
            match self.reader.read(&mut self.buffer[self.end..]) {
                Ok(0) => break,
                Ok(count) => self.end += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(&self.buffer[self.start..self.end])
    }

    /// Takes up to `count` bytes that [`fill`](Self::fill) showed.
    pub(super) fn take(&mut self, count: usize) -> &[u8] {
        let from = self.start;
        self.start += count;
        &self.buffer[from..self.start]
    }

    /// Takes one block. `Err(n)` if the stream ends after `n` bytes of it.
    pub(super) fn block(&mut self) -> io::Result<Result<Block, usize>> {
        let found = self.fill(BLOCK)?;
        let block = match found.first_chunk() {
            Some(block) => *block,
            None => return Ok(Err(found.len())),
        };
        self.start += BLOCK;
        Ok(Ok(block))
    }

    /// Drops up to `count` bytes; returns how many the stream did not have.
    pub(super) fn skip(&mut self, mut count: u64) -> io::Result<u64> {
        while count > 0 {
            let found = self.fill(1)?.len();
            if found == 0 {
                break;
            }
            let step = count.min(found as u64);
            self.start += step as usize;
            count -= step;
        }
        Ok(count)
    }

    pub(super) fn into_inner(self) -> R {
        self.reader
    }
}
