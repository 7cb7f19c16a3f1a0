//! Zstandard: frames and skippable frames in any order ([RFC 8878](https://www.rfc-editor.org/rfc/rfc8878)).

use std::io::{self, Read};

use ::zstd::stream::raw::{Decoder, Operation};
use ::zstd::zstd_safe::get_frame_content_size;

use super::input::Input;
use super::toll::Toll;
use super::{CodecError, Compression, ZSTD_MAGIC, is_skippable};
use crate::limits::Limits;

/// Decodes any number of frames one after the other.
pub(super) struct ZstdFrames {
    decoder: Decoder<'static>,
    inside: bool,
    /// What this frame still has to give, if it says how much it holds.
    declared: Option<u64>,
    toll: Toll,
}

impl ZstdFrames {
    pub(super) fn new(limits: &Limits) -> io::Result<Self> {
        let toll = Toll::new(Compression::Zstd, limits);
        Ok(Self { decoder: Decoder::new()?, inside: false, declared: None, toll })
    }

    /// Decodes some bytes into `out`, which is not empty; 0 at the end of the input.
    pub(super) fn decode<R: Read>(&mut self, input: &mut Input<R>, out: &mut [u8]) -> io::Result<usize> {
        loop {
            if !self.inside {
                if !next_frame(input)? {
                    return Ok(0);
                }
                self.toll.part(input.consumed())?;
                self.declared = declared(input)?;
                self.inside = true;
            }
            // At the end of the input there may still be output that had no room before.
            let data = input.fill(1)?;
            let at_end = data.is_empty();
            let step = self.decoder.run_on_buffers(data, out);
            let step = step.map_err(|error| corrupt(input, error.to_string()))?;
            input.consume(step.bytes_read);
            self.inside = step.remaining > 0;
            self.count(step.bytes_written).map_err(|reason| corrupt(input, reason.into()))?;
            if step.bytes_written > 0 {
                self.toll.produced(step.bytes_written);
                return Ok(step.bytes_written);
            }
            self.toll.progress(input.consumed())?;
            if step.bytes_read == 0 && self.inside {
                return Err(match at_end {
                    true => truncated(input),
                    false => corrupt(input, "the decompressor makes no progress".into()),
                });
            }
        }
    }

    /// Holds what came out against what the frame declares. The library does that too, but not where an empty block ends
    /// a frame that it gets in pieces.
    fn count(&mut self, written: usize) -> Result<(), &'static str> {
        let Some(left) = &mut self.declared else { return Ok(()) };
        *left = left.checked_sub(written as u64).ok_or("a frame holds more than it declares")?;
        match *left {
            1.. if !self.inside => Err("a frame holds less than it declares"),
            _ => Ok(()),
        }
    }
}

/// The longest header of a frame, magic number included.
const HEADER: usize = 18;

/// How much the frame that begins here says it holds.
fn declared<R: Read>(input: &mut Input<R>) -> io::Result<Option<u64>> {
    // Of a header that is cut short or wrong, the decompressor knows better what to say.
    Ok(get_frame_content_size(input.fill(HEADER)?).unwrap_or(None))
}

/// Whether another frame begins here; `false` at the end of the input.
fn next_frame<R: Read>(input: &mut Input<R>) -> io::Result<bool> {
    let data = input.fill(4)?;
    match data.len() {
        0 => Ok(false),
        1..=3 if ZSTD_MAGIC.starts_with(data) || may_become_skippable(data) => {
            input.consume(input.buffered().len());
            Err(truncated(input))
        }
        4.. if data.starts_with(&ZSTD_MAGIC) || is_skippable(data) => Ok(true),
        _ => {
            let position = input.consumed();
            Err(CodecError::Trailing { compression: Compression::Zstd, position }.into())
        }
    }
}

fn may_become_skippable(data: &[u8]) -> bool {
    matches!(data, [0x50..=0x5f] | [0x50..=0x5f, 0x2a] | [0x50..=0x5f, 0x2a, 0x4d])
}

fn truncated<R: Read>(input: &Input<R>) -> io::Error {
    let position = input.consumed();
    CodecError::Truncated { compression: Compression::Zstd, position, inside: "a frame" }.into()
}

fn corrupt<R: Read>(input: &Input<R>, reason: String) -> io::Error {
    CodecError::Corrupt { compression: Compression::Zstd, position: input.consumed(), reason }.into()
}
