//! [`Decoder`]: whatever a stream is compressed with, its content.

use std::convert::Infallible;
use std::fmt;
use std::io::{self, Read};

use super::bzip2::Bzip2Streams;
use super::gzip::GzipMembers;
use super::input::Input;
use super::xz::XzStreams;
use super::zstd::ZstdFrames;
use super::{CodecError, Compression, SNIFFED, sniff};
use crate::limits::{Limits, SharedZeros};
use crate::zeros::DataRuns;

/// Reads the content of a stream that may be compressed.
///
/// It decodes straight into the caller's buffer, so read with a large one (128 KiB is good). `Ok(0)` comes only after
/// the compressed input was read to its end and found whole. Memory is bounded whatever the stream claims: 256 KiB of
/// input, and up to 128 MiB for the window of a Zstandard frame or xz block that asks for so much (more is refused).
///
/// ```
/// use std::io::{Read, Write};
/// use plywood::codec::{Compression, Decoder, Encoder, Encoding};
///
/// let mut encoder = Encoder::new(Vec::new(), Encoding::Gzip { level: 6 })?;
/// encoder.write_all(b"content")?;
/// let compressed = encoder.finish()?;
///
/// let mut decoder = Decoder::new(&compressed[..], &Default::default())?;
/// assert_eq!(decoder.compression(), Compression::Gzip);
/// let mut content = String::new();
/// decoder.read_to_string(&mut content)?;
/// assert_eq!(content, "content");
/// # Ok::<(), std::io::Error>(())
/// ```
///
/// # Errors
///
/// Reading fails with an [`io::Error`] that carries a [`CodecError`] (see [`CodecError::of`]) if the stream is not
/// what it should be, again and again once it has; or with the error of the underlying reader as it is.
pub struct Decoder<R: Read> {
    format: Format<R>,
    produced: u64,
    guard: Guard,
    failure: Option<CodecError>,
}

/// What keeps a short stream from unpacking to a long one.
struct Guard {
    expansion: u64,
    /// What may be unpacked before that is looked at.
    free: u64,
    /// How much of what was unpacked was not zeros, where those count less.
    data: Option<(DataRuns, u64)>,
    /// How many zeros there may be, in this stream and the others that share their number.
    zeros: u64,
    /// How many of this stream are in that number.
    counted: u64,
    shared: SharedZeros,
}

impl Guard {
    /// Looks at the next piece, of which there are `produced` bytes with it; the limit that was passed.
    fn check(&mut self, piece: &[u8], produced: u64, compressed: u64) -> Option<Excess> {
        let mut counted = produced;
        if let Some((runs, data)) = &mut self.data {
            let Ok(()) = runs.piece(piece, |run| {
                *data += run.end - run.start;
                Ok::<_, Infallible>(())
            });
            counted = *data;
        }
        // Most streams end here.
        if produced <= compressed.saturating_mul(self.expansion) {
            return None;
        }
        if counted > self.free && counted > compressed.saturating_mul(self.expansion) {
            return Some(Excess::Times(self.expansion));
        }
        // What one stream may hold for nothing, thousands may not: so zeros count from the first.
        let zeros = (produced - counted).max(self.counted);
        let all = self.shared.add(zeros - self.counted);
        self.counted = zeros;
        (zeros > self.zeros || all > self.zeros).then_some(Excess::Zeros(self.zeros))
    }
}

enum Excess {
    Times(u64),
    Zeros(u64),
}

/// How to decode, and from what.
enum Format<R: Read> {
    Plain(Input<R>),
    Gzip(GzipMembers, Input<R>),
    Zstd(ZstdFrames, Input<R>),
    Xz(Box<XzStreams<R>>),
    Bzip2(Bzip2Streams, Input<R>),
}

impl<R: Read> Format<R> {
    fn input(&self) -> &Input<R> {
        match self {
            Self::Plain(input) | Self::Gzip(_, input) | Self::Zstd(_, input) | Self::Bzip2(_, input) => input,
            Self::Xz(streams) => streams.input(),
        }
    }
}

impl<R: Read> Decoder<R> {
    /// Reads the first bytes of `reader` to see how it is compressed.
    ///
    /// # Errors
    ///
    /// Those of `reader`.
    pub fn new(reader: R, limits: &Limits) -> io::Result<Self> {
        let mut input = Input::new(reader);
        let format = match sniff(input.fill(SNIFFED)?) {
            Compression::None => Format::Plain(input),
            Compression::Gzip => Format::Gzip(GzipMembers::new(limits), input),
            Compression::Zstd => Format::Zstd(ZstdFrames::new(limits)?, input),
            Compression::Xz => Format::Xz(Box::new(XzStreams::new(input, limits))),
            Compression::Bzip2 => Format::Bzip2(Bzip2Streams::new(limits), input),
        };
        let Limits { expansion, expansion_free: free, expansion_zeros: zeros, .. } = *limits;
        let guard = Guard { expansion, free, data: None, zeros, counted: 0, shared: limits.zeros.clone() };
        Ok(Self { format, produced: 0, guard, failure: None })
    }

    /// Counts long runs of zeros by [`Limits::expansion_zeros`] instead of [`Limits::expansion`]: who reads this makes
    /// holes of them.
    pub(crate) fn with_holes(mut self) -> Self {
        self.guard.data = Some((DataRuns::new(u64::MAX), 0));
        self
    }

    /// How the stream is compressed.
    pub fn compression(&self) -> Compression {
        match self.format {
            Format::Plain(_) => Compression::None,
            Format::Gzip(..) => Compression::Gzip,
            Format::Zstd(..) => Compression::Zstd,
            Format::Xz(_) => Compression::Xz,
            Format::Bzip2(..) => Compression::Bzip2,
        }
    }

    /// The underlying reader. It may be ahead of what was decoded.
    pub fn get_ref(&self) -> &R {
        self.format.input().get_ref()
    }

    /// Returns the underlying reader. Before the end was reached, it is further ahead than what was decoded.
    pub fn into_inner(self) -> R {
        match self.format {
            Format::Plain(input)
            | Format::Gzip(_, input)
            | Format::Zstd(_, input)
            | Format::Bzip2(_, input) => input,
            Format::Xz(streams) => streams.into_input(),
        }
        .into_inner()
    }

    fn decode(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let count = match &mut self.format {
            Format::Plain(input) => return input.read_through(out),
            Format::Gzip(members, input) => members.decode(input, out)?,
            Format::Zstd(frames, input) => frames.decode(input, out)?,
            Format::Xz(streams) => streams.decode(out)?,
            Format::Bzip2(streams, input) => streams.decode(input, out)?,
        };
        self.produced += count as u64;
        let compressed = self.format.input().consumed();
        match self.guard.check(&out[..count], self.produced, compressed) {
            None => {}
            Some(Excess::Times(limit)) => {
                return Err(
                    CodecError::Expansion { compression: self.compression(), compressed, limit }.into()
                );
            }
            Some(Excess::Zeros(limit)) => {
                return Err(CodecError::Zeros { compression: self.compression(), compressed, limit }.into());
            }
        }
        Ok(count)
    }
}

impl<R: Read> Read for Decoder<R> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        if let Some(failure) = &self.failure {
            return Err(failure.clone().into());
        }
        if out.is_empty() {
            return Ok(0);
        }
        self.decode(out).inspect_err(|error| self.failure = CodecError::of(error).cloned())
    }
}

impl<R: Read> fmt::Debug for Decoder<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Decoder").field("produced", &self.produced).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::super::{Encoder, Encoding};
    use super::*;

    fn compress(encoding: Encoding, content: &[u8]) -> Vec<u8> {
        let mut encoder = Encoder::new(Vec::new(), encoding).unwrap();
        encoder.write_all(content).unwrap();
        encoder.finish().unwrap()
    }

    fn gzip(content: &[u8]) -> Vec<u8> {
        compress(Encoding::Gzip { level: 6 }, content)
    }

    fn zstd(content: &[u8]) -> Vec<u8> {
        compress(Encoding::Zstd { level: 3 }, content)
    }

    fn xz(content: &[u8]) -> Vec<u8> {
        let options = lzma_rust2::XzOptions::with_preset(1);
        let mut encoder = lzma_rust2::XzWriter::new(Vec::new(), options).unwrap();
        encoder.write_all(content).unwrap();
        encoder.finish().unwrap()
    }

    fn bzip2(content: &[u8]) -> Vec<u8> {
        let mut encoder = ::bzip2::write::BzEncoder::new(Vec::new(), ::bzip2::Compression::fast());
        encoder.write_all(content).unwrap();
        encoder.finish().unwrap()
    }

    fn decode(stream: &[u8]) -> Result<Vec<u8>, CodecError> {
        // One byte at a time is the hardest way to get it.
        struct Drip<'a>(&'a [u8]);
        impl Read for Drip<'_> {
            fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
                let count = self.0.len().min(out.len()).min(1);
                self.0.read(&mut out[..count])
            }
        }
        let drip = read_all(Drip(stream));
        assert_eq!(drip, read_all(stream), "the pieces of the input must not matter");
        drip
    }

    fn read_all(reader: impl Read) -> Result<Vec<u8>, CodecError> {
        let mut content = Vec::new();
        match Decoder::new(reader, &Limits::default()).unwrap().read_to_end(&mut content) {
            Ok(_) => Ok(content),
            Err(error) => Err(CodecError::of(&error).expect("a memory reader has no errors").clone()),
        }
    }

    fn noise(len: usize) -> Vec<u8> {
        let mut state = 1_u64;
        std::iter::repeat_with(|| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (state >> 40) as u8 & 0x3f
        })
        .take(len)
        .collect()
    }

    #[test]
    fn what_was_encoded_is_decoded() {
        for content in [&b""[..], b"x", &noise(1 << 20), &[0; 300_000]] {
            for encoding in [Encoding::None, Encoding::Gzip { level: 1 }, Encoding::Zstd { level: 1 }] {
                let stream = compress(encoding, content);
                assert!(read_all(&stream[..]).unwrap() == content, "{encoding:?}");
            }
            assert!(read_all(&xz(content)[..]).unwrap() == content);
            assert!(read_all(&bzip2(content)[..]).unwrap() == content);
        }
    }

    #[test]
    fn members_and_frames_follow_each_other() {
        assert_eq!(decode(&[gzip(b"one"), gzip(b""), gzip(b"two")].concat()).unwrap(), b"onetwo");
        assert_eq!(decode(&[zstd(b"one"), zstd(b""), zstd(b"two")].concat()).unwrap(), b"onetwo");
        assert_eq!(decode(&[bzip2(b"one"), bzip2(b""), bzip2(b"two")].concat()).unwrap(), b"onetwo");
        let padding = vec![0; 8];
        assert_eq!(
            decode(&[xz(b"one"), xz(b""), padding.clone(), xz(b"two"), padding].concat()).unwrap(),
            b"onetwo"
        );
    }

    #[test]
    fn damage_to_any_byte_of_an_old_format_is_noticed() {
        for stream in [xz(&noise(300)), bzip2(&noise(300))] {
            let whole = decode(&stream).unwrap();
            // Behind what it is known by. The digits for block sizes change nothing in so short a stream.
            for at in 10..stream.len() {
                let mut damaged = stream.clone();
                damaged[at] ^= 0x10;
                assert_ne!(read_all(&damaged[..]).as_ref(), Ok(&whole), "{at}");
            }
            let trailing = decode(&[&stream[..], b"xyz"].concat());
            assert!(
                matches!(trailing, Err(CodecError::Trailing { .. } | CodecError::Corrupt { .. })),
                "{trailing:?}"
            );
        }
    }

    #[test]
    fn an_xz_block_that_asks_for_too_much_memory_is_refused() {
        let mut options = lzma_rust2::XzOptions::with_preset(9);
        options.lzma_options.dict_size = 256 << 20;
        let mut encoder = lzma_rust2::XzWriter::new(Vec::new(), options).unwrap();
        encoder.write_all(b"content").unwrap();
        let error = decode(&encoder.finish().unwrap()).unwrap_err();
        assert!(matches!(error, CodecError::Corrupt { .. }) && error.to_string().contains("mem"), "{error}");
    }

    #[test]
    fn skippable_frames_are_skipped_wherever_they_stand() {
        let empty = b"\x5f\x2a\x4d\x18\0\0\0\0".to_vec();
        let full = b"\x50\x2a\x4d\x18\x05\0\0\0hello".to_vec();
        let stream = [full.clone(), zstd(b"one"), empty.clone(), full.clone(), zstd(b"two"), empty].concat();
        assert_eq!(decode(&stream).unwrap(), b"onetwo");
        assert_eq!(decode(&full).unwrap(), b"");
    }

    #[test]
    fn a_zstd_frame_holds_what_it_declares_however_it_comes() {
        // 256 bytes are declared, with a window of 1 KiB; the only block is the last and empty.
        let lying = b"\x28\xb5\x2f\xfd\x40\x00\x00\x00\x01\x00\x00";
        for stream in [lying.to_vec(), [&lying[..], &zstd(b"next")].concat()] {
            for piece in [1, 5, 100] {
                let pieces = stream.chunks(piece).map(io::Cursor::new);
                let pieces = pieces.fold(Box::new(io::empty()) as Box<dyn Read>, |before, piece| {
                    Box::new(before.chain(piece))
                });
                let error = read_all(pieces).unwrap_err();
                assert!(matches!(error, CodecError::Corrupt { .. }), "{piece}: {error}");
            }
        }
    }

    #[test]
    fn every_optional_field_of_a_gzip_header_is_read_over() {
        let plain = gzip(b"content");
        let mut header = vec![0x1f, 0x8b, 8, 0x1f, 1, 2, 3, 4, 0, 3];
        header.extend(b"\x05\0extra");
        header.extend(b"name\0comment\0");
        let sum = zlib_rs::crc32::crc32(0, &header) as u16;
        let good = [&header[..], &sum.to_le_bytes(), &plain[10..]].concat();
        assert_eq!(decode(&good).unwrap(), b"content");
        let bad = [&header[..], &(!sum).to_le_bytes(), &plain[10..]].concat();
        assert!(matches!(decode(&bad), Err(CodecError::Corrupt { .. })));
    }

    #[test]
    fn a_stream_cut_anywhere_says_so() {
        for stream in [gzip(&noise(3000)), zstd(&noise(3000)), xz(&noise(300)), bzip2(&noise(300))] {
            for end in SNIFFED..stream.len() {
                let error = decode(&stream[..end]).unwrap_err();
                assert!(matches!(error, CodecError::Truncated { .. }), "{end}: {error}");
            }
        }
        let frames = [zstd(b"one"), zstd(b"two")].concat();
        let error = decode(&frames[..zstd(b"one").len() + 2]).unwrap_err();
        assert!(matches!(error, CodecError::Truncated { .. }), "{error}");
    }

    #[test]
    fn a_wrong_gzip_trailer_names_both_values() {
        let stream = gzip(b"content");
        let at = stream.len();
        let mut wrong = stream.clone();
        wrong[at - 8] ^= 1;
        let found = zlib_rs::crc32::crc32(0, b"content");
        let expected = CodecError::Checksum { position: at as u64, expected: found ^ 1, found };
        assert_eq!(decode(&wrong), Err(expected));
        let mut wrong = stream;
        wrong[at - 4] ^= 1;
        assert_eq!(decode(&wrong), Err(CodecError::Length { position: at as u64, expected: 6, found: 7 }));
    }

    #[test]
    fn zeros_behind_the_last_member_are_ignored_and_nothing_else_is() {
        let stream = gzip(b"content");
        let position = stream.len() as u64;
        assert_eq!(decode(&[&stream[..], &[0; 1000]].concat()).unwrap(), b"content");
        let trailing = |position| CodecError::Trailing { compression: Compression::Gzip, position };
        assert_eq!(decode(&[&stream[..], b"x"].concat()), Err(trailing(position)));
        assert_eq!(decode(&[&stream[..], b"\x1fx"].concat()), Err(trailing(position)));
        assert_eq!(decode(&[&stream[..], b"\0\0x"].concat()), Err(trailing(position + 2)));
        let stream = zstd(b"content");
        let position = stream.len() as u64;
        let trailing = CodecError::Trailing { compression: Compression::Zstd, position };
        assert_eq!(decode(&[&stream[..], b"\0"].concat()), Err(trailing.clone()));
        assert_eq!(decode(&[&stream[..], b"garbage"].concat()), Err(trailing));
    }

    #[test]
    fn a_bomb_is_stopped_and_stays_stopped() {
        let (free, length) = (1 << 20, 11 << 20);
        let zeros = io::repeat(0).take(length);
        let mut encoder = Encoder::new(Vec::new(), Encoding::Zstd { level: 1 }).unwrap();
        io::copy(&mut { zeros }, &mut encoder).unwrap();
        let bomb = encoder.finish().unwrap();
        let mut decoder =
            Decoder::new(&bomb[..], &Limits { expansion_free: free, ..Limits::default() }).unwrap();
        let error = io::copy(&mut decoder, &mut io::sink()).unwrap_err();
        assert!(matches!(CodecError::of(&error), Some(CodecError::Expansion { limit: 200, .. })));
        let error = decoder.read(&mut [0; 10]).unwrap_err();
        assert!(matches!(CodecError::of(&error), Some(CodecError::Expansion { .. })));
        let limits = Limits { expansion: u64::MAX, expansion_free: free, ..Limits::default() };
        let mut decoder = Decoder::new(&bomb[..], &limits).unwrap();
        assert_eq!(io::copy(&mut decoder, &mut io::sink()).unwrap(), length);
    }

    #[test]
    fn zeros_that_become_holes_have_a_limit_of_their_own() {
        let limits = |zeros| Limits { expansion_free: 1 << 20, expansion_zeros: zeros, ..Limits::default() };
        let read = |stream: &[u8], zeros| {
            let mut decoder = Decoder::new(stream, &limits(zeros)).unwrap().with_holes();
            io::copy(&mut decoder, &mut io::sink()).map_err(|error| CodecError::of(&error).unwrap().clone())
        };
        let many = vec![0; 8 << 20];
        for stream in [gzip(&many), zstd(&many)] {
            assert_eq!(read(&stream, 8 << 20), Ok(8 << 20));
            let error = read(&stream, 7 << 20).unwrap_err();
            assert!(matches!(error, CodecError::Zeros { limit: 0x0070_0000, .. }), "{error}");
        }
        // What would be written to disk counts as before, zeros in it and others.
        let striped = [&[0; 60 << 10][..], &[1; 4 << 10]].concat().repeat(128);
        for content in [vec![1; 8 << 20], striped] {
            for stream in [gzip(&content), zstd(&content)] {
                let error = read(&stream, u64::MAX).unwrap_err();
                assert!(matches!(error, CodecError::Expansion { limit: 200, .. }), "{error}");
            }
        }
    }

    #[test]
    fn errors_of_the_reader_come_through_as_they_are() {
        struct Broken;
        impl Read for Broken {
            fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
                Err(io::Error::from_raw_os_error(5))
            }
        }
        let start = gzip(&noise(1000));
        let mut decoder = Decoder::new(start[..500].chain(Broken), &Limits::default()).unwrap();
        let error = io::copy(&mut decoder, &mut io::sink()).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(5));
        assert!(CodecError::of(&error).is_none());
    }

    #[test]
    fn a_wrapped_error_is_still_found() {
        let inner: io::Error = CodecError::Trailing { compression: Compression::Gzip, position: 1 }.into();
        let outer = io::Error::other(io::Error::other(inner));
        assert!(CodecError::of(&outer).is_some());
    }

    #[test]
    fn decoder_and_encoder_may_change_threads() {
        fn movable<T: Send>() {}
        movable::<Decoder<std::fs::File>>();
        movable::<Encoder<std::fs::File>>();
    }
}
