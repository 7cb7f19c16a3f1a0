//! gzip: members with header and trailer around raw deflate ([RFC 1952](https://www.rfc-editor.org/rfc/rfc1952)).
//!
//! zlib-rs does the deflate and is called directly: a wrapper crate may be switched to another, slower backend by any
//! other crate in the program, and a compressor so switched would change the bytes we write.

use std::io::{self, Read, Write};

use zlib_rs::crc32::crc32;
use zlib_rs::{Deflate, DeflateFlush, Inflate, InflateFlush, Status};

use super::input::Input;
use super::toll::Toll;
use super::{CodecError, Compression, GZIP_MAGIC};
use crate::limits::Limits;

/// The largest window there is, as gzip uses it.
const WINDOW_BITS: u8 = 15;

// Flags of a member's header.
const HEADER_CRC: u8 = 2;
const EXTRA: u8 = 4;
const NAME: u8 = 8;
const COMMENT: u8 = 16;
const RESERVED: u8 = 0xe0;

/// Decodes any number of members one after the other.
pub(super) struct GzipMembers {
    inflate: Inflate,
    state: State,
    /// Of the member so far.
    checksum: u32,
    /// Of the member so far, modulo 2^32.
    length: u32,
    toll: Toll,
}

#[derive(Clone, Copy)]
enum State {
    /// At the magic of the first member, which was seen already, or where another one may begin.
    Between { first: bool },
    /// Inside the deflate stream.
    Body,
    /// Behind the last member, where only zeros may be.
    Padding,
    /// At the end of the input.
    End,
}

impl GzipMembers {
    pub(super) fn new(limits: &Limits) -> Self {
        let inflate = Inflate::new(false, WINDOW_BITS);
        let toll = Toll::new(Compression::Gzip, limits);
        Self { inflate, state: State::Between { first: true }, checksum: 0, length: 0, toll }
    }

    /// Decodes some bytes into `out`, which is not empty; 0 at the end of the input.
    pub(super) fn decode<R: Read>(&mut self, input: &mut Input<R>, out: &mut [u8]) -> io::Result<usize> {
        loop {
            match self.state {
                State::Between { first } => {
                    self.state = next_member(input, first)?;
                    if matches!(self.state, State::Body) {
                        self.toll.part(input.consumed())?;
                    }
                }
                State::Padding => self.state = skip_zeros(input)?,
                State::End => return Ok(0),
                State::Body => {
                    let (count, ended) = self.inflate(input, out)?;
                    if ended {
                        self.check_trailer(input)?;
                        self.inflate.reset(false);
                        self.state = State::Between { first: false };
                    }
                    if count > 0 {
                        self.toll.produced(count);
                        return Ok(count);
                    }
                    self.toll.progress(input.consumed())?;
                }
            }
        }
    }

    /// One step of the decompressor: how many bytes came out, and whether they were the last of the member.
    fn inflate<R: Read>(&mut self, input: &mut Input<R>, out: &mut [u8]) -> io::Result<(usize, bool)> {
        // At the end of the input there may still be output that had no room before.
        let data = input.fill(1)?;
        let (read, wrote) = (self.inflate.total_in(), self.inflate.total_out());
        let status = self.inflate.decompress(data, out, InflateFlush::NoFlush);
        let read = (self.inflate.total_in() - read) as usize;
        let wrote = (self.inflate.total_out() - wrote) as usize;
        let at_end = data.is_empty();
        input.consume(read);
        match status {
            Ok(Status::StreamEnd) => {}
            Ok(_) if read > 0 || wrote > 0 => {}
            Ok(_) if at_end => return Err(truncated(input, "a member")),
            Ok(_) => return Err(corrupt(input, "the decompressor makes no progress")),
            Err(error) => {
                return Err(corrupt(input, self.inflate.error_message().unwrap_or(error.as_str())));
            }
        }
        self.checksum = crc32(self.checksum, &out[..wrote]);
        self.length = self.length.wrapping_add(wrote as u32);
        Ok((wrote, status == Ok(Status::StreamEnd)))
    }

    /// Compares the trailer with what was unpacked, and forgets that.
    fn check_trailer<R: Read>(&mut self, input: &mut Input<R>) -> io::Result<()> {
        let Some(&[a, b, c, d, e, f, g, h]) = input.fill(8)?.first_chunk() else {
            return Err(truncated_at_end(input, "a trailer"));
        };
        input.consume(8);
        let position = input.consumed();
        let (found, length) = (std::mem::take(&mut self.checksum), std::mem::take(&mut self.length));
        let expected = u32::from_le_bytes([a, b, c, d]);
        if found != expected {
            return Err(CodecError::Checksum { position, expected, found }.into());
        }
        let expected = u32::from_le_bytes([e, f, g, h]);
        if length != expected {
            return Err(CodecError::Length { position, expected, found: length }.into());
        }
        Ok(())
    }
}

/// Reads the header of a member if there is one more.
fn next_member<R: Read>(input: &mut Input<R>, first: bool) -> io::Result<State> {
    match *input.fill(2)? {
        [] => return Ok(State::End),
        [0, ..] if !first => return Ok(State::Padding),
        [0x1f] => return Err(truncated_at_end(input, "a header")),
        [a, b, ..] if [a, b] == GZIP_MAGIC => {}
        _ => return Err(trailing(input)),
    }
    let mut header = Header { input, checksum: 0 };
    let [_, _, method, flags, ..]: [u8; 10] = header.bytes()?;
    if method != 8 {
        return Err(corrupt(input, &format!("a header names the unknown compression method {method}")));
    }
    if flags & RESERVED != 0 {
        return Err(corrupt(input, &format!("a header has the unknown flags {:#04x}", flags & RESERVED)));
    }
    if flags & EXTRA != 0 {
        for _ in 0..u16::from_le_bytes(header.bytes()?) {
            header.byte()?;
        }
    }
    for field in [NAME, COMMENT] {
        if flags & field != 0 {
            while header.byte()? != 0 {}
        }
    }
    if flags & HEADER_CRC != 0 {
        let found = header.checksum as u16;
        let expected = u16::from_le_bytes(header.bytes()?);
        if found != expected {
            let reason = format!("a header has checksum {found:04x} and says {expected:04x}");
            return Err(corrupt(input, &reason));
        }
    }
    Ok(State::Body)
}

/// A header while it is read: nothing of it is kept but its checksum, however long a name it holds.
struct Header<'a, R> {
    input: &'a mut Input<R>,
    checksum: u32,
}

impl<R: Read> Header<'_, R> {
    fn byte(&mut self) -> io::Result<u8> {
        let byte = self.input.byte()?.ok_or_else(|| truncated(self.input, "a header"))?;
        self.checksum = crc32(self.checksum, &[byte]);
        Ok(byte)
    }

    fn bytes<const N: usize>(&mut self) -> io::Result<[u8; N]> {
        let mut bytes = [0; N];
        for byte in &mut bytes {
            *byte = self.byte()?;
        }
        Ok(bytes)
    }
}

fn skip_zeros<R: Read>(input: &mut Input<R>) -> io::Result<State> {
    let data = input.fill(1)?;
    if data.is_empty() {
        return Ok(State::End);
    }
    let zeros = data.iter().take_while(|&&byte| byte == 0).count();
    let all = zeros == data.len();
    input.consume(zeros);
    if all { Ok(State::Padding) } else { Err(trailing(input)) }
}

fn truncated<R: Read>(input: &Input<R>, inside: &'static str) -> io::Error {
    CodecError::Truncated { compression: Compression::Gzip, position: input.consumed(), inside }.into()
}

/// The same where some bytes are still in the buffer: they belong to the length of the stream.
fn truncated_at_end<R: Read>(input: &mut Input<R>, inside: &'static str) -> io::Error {
    input.consume(input.buffered().len());
    truncated(input, inside)
}

fn trailing<R: Read>(input: &Input<R>) -> io::Error {
    CodecError::Trailing { compression: Compression::Gzip, position: input.consumed() }.into()
}

fn corrupt<R: Read>(input: &Input<R>, reason: &str) -> io::Error {
    let (position, reason) = (input.consumed(), reason.to_owned());
    CodecError::Corrupt { compression: Compression::Gzip, position, reason }.into()
}

/// Writes one member.
pub(super) struct GzipWriter<W> {
    writer: W,
    deflate: Deflate,
    out: Box<[u8]>,
    checksum: u32,
    length: u32,
}

impl<W: Write> GzipWriter<W> {
    /// `level` is 0 to 9. Writes the header.
    pub(super) fn new(mut writer: W, level: u8) -> io::Result<Self> {
        // No time, no name; extra flags as RFC 1952 wants them; system "unknown".
        let extra = match level {
            1 => 4,
            9 => 2,
            _ => 0,
        };
        writer.write_all(&[GZIP_MAGIC[0], GZIP_MAGIC[1], 8, 0, 0, 0, 0, 0, extra, 255])?;
        let deflate = Deflate::new(i32::from(level), false, WINDOW_BITS);
        Ok(Self { writer, deflate, out: vec![0; 128 << 10].into(), checksum: 0, length: 0 })
    }

    /// Compresses one block.
    pub(super) fn block(&mut self, block: &[u8]) -> io::Result<()> {
        self.checksum = crc32(self.checksum, block);
        self.length = self.length.wrapping_add(block.len() as u32);
        let mut rest = block;
        while !rest.is_empty() {
            let (read, _) = self.deflate(rest, DeflateFlush::NoFlush)?;
            rest = &rest[read..];
        }
        Ok(())
    }

    /// Ends the member.
    pub(super) fn finish(mut self) -> io::Result<W> {
        while self.deflate(&[], DeflateFlush::Finish)?.1 != Status::StreamEnd {}
        self.writer.write_all(&self.checksum.to_le_bytes())?;
        self.writer.write_all(&self.length.to_le_bytes())?;
        Ok(self.writer)
    }

    /// One step of the compressor: how much it read, and what it says.
    fn deflate(&mut self, data: &[u8], flush: DeflateFlush) -> io::Result<(usize, Status)> {
        let (read, wrote) = (self.deflate.total_in(), self.deflate.total_out());
        let status = self
            .deflate
            .compress(data, &mut self.out, flush)
            .map_err(|error| io::Error::other(error.as_str()))?;
        let read = (self.deflate.total_in() - read) as usize;
        let wrote = (self.deflate.total_out() - wrote) as usize;
        self.writer.write_all(&self.out[..wrote])?;
        if read == 0 && wrote == 0 && status != Status::StreamEnd {
            return Err(io::Error::other("the gzip compressor makes no progress"));
        }
        Ok((read, status))
    }

    pub(super) fn get_mut(&mut self) -> &mut W {
        &mut self.writer
    }
}
