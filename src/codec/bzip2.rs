//! bzip2: streams of blocks, each of which is checked by the decompressor.

use std::io::{self, Read};

use ::bzip2::{Decompress, Status};

use super::input::Input;
use super::toll::Toll;
use super::{BZIP2_MAGIC, CodecError, Compression};
use crate::limits::Limits;

/// Decodes any number of streams one after the other.
pub(super) struct Bzip2Streams {
    /// `None` before a stream and at the end.
    decompress: Option<Decompress>,
    first: bool,
    toll: Toll,
}

impl Bzip2Streams {
    pub(super) fn new(limits: &Limits) -> Self {
        Self { decompress: None, first: true, toll: Toll::new(Compression::Bzip2, limits) }
    }

    /// Decodes some bytes into `out`, which is not empty; 0 at the end of the input.
    pub(super) fn decode<R: Read>(&mut self, input: &mut Input<R>, out: &mut [u8]) -> io::Result<usize> {
        loop {
            let decompress = match &mut self.decompress {
                Some(decompress) => decompress,
                none => {
                    if !next_stream(input, self.first)? {
                        return Ok(0);
                    }
                    self.first = false;
                    self.toll.part(input.consumed())?;
                    none.insert(Decompress::new(false))
                }
            };
            // At the end of the input there may still be output that had no room before.
            let data = input.fill(1)?;
            let at_end = data.is_empty();
            let (read, wrote) = (decompress.total_in(), decompress.total_out());
            let status = decompress.decompress(data, out);
            let read = (decompress.total_in() - read) as usize;
            let wrote = (decompress.total_out() - wrote) as usize;
            input.consume(read);
            match status {
                Ok(Status::StreamEnd) => self.decompress = None,
                Ok(Status::MemNeeded) => return Err(io::ErrorKind::OutOfMemory.into()),
                Ok(_) if read > 0 || wrote > 0 => {}
                Ok(_) if at_end => return Err(truncated(input)),
                Ok(_) => return Err(corrupt(input, "the decompressor makes no progress".into())),
                Err(error) => return Err(corrupt(input, error.to_string())),
            }
            if wrote > 0 {
                self.toll.produced(wrote);
                return Ok(wrote);
            }
            self.toll.progress(input.consumed())?;
        }
    }
}

/// Whether another stream begins here; `false` at the end of the input.
fn next_stream<R: Read>(input: &mut Input<R>, first: bool) -> io::Result<bool> {
    let data = input.fill(BZIP2_MAGIC.len())?;
    match data {
        [] => Ok(first),
        data if data.starts_with(&BZIP2_MAGIC) => Ok(true),
        data if BZIP2_MAGIC.starts_with(data) => {
            input.consume(input.buffered().len());
            Err(truncated(input))
        }
        _ => {
            let position = input.consumed();
            Err(CodecError::Trailing { compression: Compression::Bzip2, position }.into())
        }
    }
}

fn truncated<R: Read>(input: &Input<R>) -> io::Error {
    let position = input.consumed();
    CodecError::Truncated { compression: Compression::Bzip2, position, inside: "a stream" }.into()
}

fn corrupt<R: Read>(input: &Input<R>, reason: String) -> io::Error {
    CodecError::Corrupt { compression: Compression::Bzip2, position: input.consumed(), reason }.into()
}
