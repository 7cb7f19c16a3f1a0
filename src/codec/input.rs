//! [`Input`]: a reader with a buffer that can be looked into before it is consumed.
//!
//! Compressed streams and tars are read through it: large reads below, small steps above, no copy in between.

use std::io::{self, Read};

/// Large enough that a read costs little beside what is done with what it brings.
const CAPACITY: usize = 256 << 10;

/// Bytes read in large pieces, consumed in small ones, counted.
pub(crate) struct Input<R> {
    reader: R,
    buffer: Box<[u8]>,
    start: usize,
    end: usize,
    consumed: u64,
}

impl<R: Read> Input<R> {
    pub(crate) fn new(reader: R) -> Self {
        Self { reader, buffer: vec![0; CAPACITY].into(), start: 0, end: 0, consumed: 0 }
    }

    /// What is in the buffer, after reading on until it is at least `wanted` bytes (a few, not more than the buffer
    /// holds). Less only at the end of the stream.
    pub(crate) fn fill(&mut self, wanted: usize) -> io::Result<&[u8]> {
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
        Ok(self.buffered())
    }

    /// What is in the buffer now.
    pub(crate) fn buffered(&self) -> &[u8] {
        &self.buffer[self.start..self.end]
    }

    /// Takes `count` bytes off the front of the buffer.
    pub(crate) fn consume(&mut self, count: usize) {
        debug_assert!(count <= self.end - self.start);
        self.start += count;
        self.consumed += count as u64;
    }

    /// The same, and hands them out.
    pub(crate) fn take(&mut self, count: usize) -> &[u8] {
        let from = self.start;
        self.consume(count);
        &self.buffer[from..self.start]
    }

    /// Reads past `count` bytes; returns how many of them the stream did not have.
    pub(crate) fn skip(&mut self, mut count: u64) -> io::Result<u64> {
        while count > 0 {
            let found = self.fill(1)?.len();
            if found == 0 {
                break;
            }
            let step = count.min(found as u64);
            self.consume(step as usize);
            count -= step;
        }
        Ok(count)
    }

    /// The next byte; `None` at the end of the stream.
    pub(crate) fn byte(&mut self) -> io::Result<Option<u8>> {
        let byte = self.fill(1)?.first().copied();
        self.consume(usize::from(byte.is_some()));
        Ok(byte)
    }

    /// Bytes consumed since the beginning.
    pub(crate) fn consumed(&self) -> u64 {
        self.consumed
    }

    /// Reads past the buffer when that is empty: what needs no decoding needs no second copy either.
    pub(crate) fn read_through(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let buffered = self.buffered();
        if buffered.is_empty() {
            let count = self.reader.read(out)?;
            self.consumed += count as u64;
            return Ok(count);
        }
        let count = buffered.len().min(out.len());
        out[..count].copy_from_slice(&buffered[..count]);
        self.consume(count);
        Ok(count)
    }

    pub(crate) fn get_ref(&self) -> &R {
        &self.reader
    }

    pub(crate) fn into_inner(self) -> R {
        self.reader
    }
}
