//! [`Input`]: a reader with a buffer that can be looked into before it is consumed.

use std::io::{self, Read};

/// Large enough that a read costs little beside decompressing what it brings.
const CAPACITY: usize = 256 << 10;

/// Compressed bytes: read in large pieces, consumed in small ones, counted.
pub(super) struct Input<R> {
    reader: R,
    buffer: Box<[u8]>,
    start: usize,
    end: usize,
    consumed: u64,
}

impl<R: Read> Input<R> {
    pub(super) fn new(reader: R) -> Self {
        Self { reader, buffer: vec![0; CAPACITY].into(), start: 0, end: 0, consumed: 0 }
    }

    /// What is in the buffer, after reading on until it is at least `wanted` bytes (a few, not more than the buffer
    /// holds). Less only at the end of the stream.
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
        Ok(self.buffered())
    }

    /// What is in the buffer now.
    pub(super) fn buffered(&self) -> &[u8] {
        &self.buffer[self.start..self.end]
    }

    /// Takes `count` bytes off the front of the buffer.
    pub(super) fn consume(&mut self, count: usize) {
        debug_assert!(count <= self.end - self.start);
        self.start += count;
        self.consumed += count as u64;
    }

    /// The next byte; `None` at the end of the stream.
    pub(super) fn byte(&mut self) -> io::Result<Option<u8>> {
        let byte = self.fill(1)?.first().copied();
        self.consume(usize::from(byte.is_some()));
        Ok(byte)
    }

    /// Bytes consumed since the beginning.
    pub(super) fn consumed(&self) -> u64 {
        self.consumed
    }

    /// Reads past the buffer when that is empty: what needs no decoding needs no second copy either.
    pub(super) fn read_through(&mut self, out: &mut [u8]) -> io::Result<usize> {
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

    pub(super) fn get_ref(&self) -> &R {
        &self.reader
    }

    pub(super) fn into_inner(self) -> R {
        self.reader
    }
}
