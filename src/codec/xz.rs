//! xz: streams of blocks ([the format](https://tukaani.org/xz/xz-file-format.txt)).
//!
//! The decoder reads by itself, so it owns the input. It checks the headers, every block's checksum, the index and the
//! footer, and takes padding between streams and behind the last.

use std::io::{self, Read};

use lzma_rust2::XzReader;

use super::input::Input;
use super::{CodecError, Compression};

/// How much memory a block may ask for, in KiB: twice what `xz -9` does.
const MEMORY: u32 = 128 << 10;

/// Decodes any number of streams one after the other.
pub(super) struct XzStreams<R: Read>(XzReader<Watched<R>>);

/// The input as the decoder reads it. Its errors are kept, since the decoder's own are of the same type.
struct Watched<R> {
    input: Input<R>,
    failure: Option<io::Error>,
}

impl<R: Read> Read for Watched<R> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        match self.input.fill(1) {
            Ok([]) => return Ok(0),
            Ok(_) => {}
            Err(error) => {
                let kind = error.kind();
                self.failure = Some(error);
                return Err(kind.into());
            }
        }
        self.input.read_through(out)
    }
}

impl<R: Read> XzStreams<R> {
    pub(super) fn new(input: Input<R>) -> Self {
        Self(XzReader::new_mem_limit(Watched { input, failure: None }, true, MEMORY))
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
            Ok(count) => return Ok(count),
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
