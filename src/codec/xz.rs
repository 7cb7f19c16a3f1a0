//! xz: streams of blocks ([the format](https://tukaani.org/xz/xz-file-format.txt)).
//!
//! The decoder reads by itself, so it owns the input. It checks the headers, every block's checksum, the index and the
//! footer, and takes padding between streams and behind the last.

use std::io::{self, Read};

use lzma_rust2::XzReader;

use super::input::Input;
use super::toll::Toll;
use super::{CodecError, Compression};
use crate::limits::Limits;

/// How much memory a block may ask for, in KiB: twice what `xz -9` does.
const MEMORY: u32 = 128 << 10;

/// Decodes any number of streams one after the other.
pub(super) struct XzStreams<R: Read>(XzReader<Watched<R>>);

/// The input as the decoder reads it. Its errors are kept, since the decoder's own are of the same type.
struct Watched<R> {
    input: Input<R>,
    failure: Option<io::Error>,
    /// How much of the last read had not come yet.
    rest: usize,
    toll: Toll,
}

impl<R: Read> Read for Watched<R> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        match self.input.fill(1) {
            Ok([]) => return Ok(0),
            // The decoder goes through blocks and streams by itself. It reads a single byte where a block begins, and where
            // a piece of one does, which has 64 KiB where there is so much; and some at the end of a stream. So these are
            // counted. The last byte of a longer read may come alone, and is not.
            Ok(_) => {
                let consumed = self.input.consumed();
                let checked = match out.len() {
                    1 if self.rest != 1 => self.toll.part(consumed),
                    _ => self.toll.progress(consumed),
                };
                if let Err(error) = checked {
                    self.failure = Some(error.into());
                    return Err(io::ErrorKind::InvalidData.into());
                }
            }
            Err(error) => {
                let kind = error.kind();
                self.failure = Some(error);
                return Err(kind.into());
            }
        }
        let count = self.input.read_through(out)?;
        self.rest = out.len() - count;
        Ok(count)
    }
}

impl<R: Read> XzStreams<R> {
    pub(super) fn new(input: Input<R>, limits: &Limits) -> Self {
        let toll = Toll::new(Compression::Xz, limits);
        Self(XzReader::new_mem_limit(Watched { input, failure: None, rest: 0, toll }, true, MEMORY))
    }

    pub(super) fn input(&self) -> &Input<R> {
        &self.0.inner().input
    }

    pub(super) fn into_input(self) -> Input<R> {
        self.0.into_inner().input
    }

    /// Decodes some bytes into `out`, which is not empty; 0 at the end of the input.
    pub(super) fn decode(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let error = match self.0.read(out) {
            Ok(count) => {
                self.0.inner_mut().toll.produced(count);
                return Ok(count);
            }
            Err(error) => error,
        };
        if let Some(failure) = self.0.inner_mut().failure.take() {
            return Err(failure);
        }
        let (compression, position) = (Compression::Xz, self.input().consumed());
        Err(match error.kind() {
            io::ErrorKind::Interrupted => error,
            io::ErrorKind::UnexpectedEof => {
                CodecError::Truncated { compression, position, inside: "a stream" }.into()
            }
            _ => CodecError::Corrupt { compression, position, reason: error.to_string() }.into(),
        })
    }
}
