//! [`Toll`]: a bound on work that a compressed stream causes without giving anything for it.
//!
//! A stream costs by the byte that goes in and by the byte that comes out; both are bounded by others. Besides, each part of
//! it costs something by itself: a bzip2 stream of 14 bytes, which holds nothing, takes 100 µs to set up, a gzip member, a
//! Zstandard frame, an xz block or stream some microseconds. So parts are counted, and may be many only where they hold
//! something. Input that gives no output at all (skippable frames, names in headers, empty blocks inside a part) is
//! bounded, too.

use super::{CodecError, Compression};
use crate::limits::Limits;

/// Counts the parts of one compressed stream, and the input that gave nothing.
pub(super) struct Toll {
    compression: Compression,
    /// Parts that began.
    parts: u64,
    /// Bytes that came out.
    produced: u64,
    limit: u64,
    idle: u64,
}

impl Toll {
    pub(super) fn new(compression: Compression, limits: &Limits) -> Self {
        Self { compression, parts: 0, produced: 0, limit: limits.empty_parts, idle: limits.idle_bytes }
    }

    /// Bytes of content that pay for one part. Writers that make small parts on purpose, so that single files can be
    /// fetched, use gzip and Zstandard, and make two for each file, which is 1024 bytes of tar at least. bzip2 makes parts
    /// of 100 kB or more, also where several threads compress.
    fn price(&self) -> u64 {
        match self.compression {
            Compression::None | Compression::Gzip | Compression::Zstd => 128,
            Compression::Xz => 1024,
            Compression::Bzip2 => 16 << 10,
        }
    }

    /// Another part begins, after `consumed` bytes of input.
    pub(super) fn part(&mut self, consumed: u64) -> Result<(), CodecError> {
        self.parts += 1;
        let paid = self.produced / self.price();
        if self.parts.saturating_sub(paid) > self.limit {
            let (compression, limit) = (self.compression, self.limit);
            return Err(CodecError::EmptyParts { compression, compressed: consumed, limit });
        }
        self.progress(consumed)
    }

    /// So much input was read by now.
    pub(super) fn progress(&self, consumed: u64) -> Result<(), CodecError> {
        if consumed.saturating_sub(self.produced.saturating_mul(2)) > self.idle {
            let (compression, limit) = (self.compression, self.idle);
            return Err(CodecError::Idle { compression, compressed: consumed, limit });
        }
        Ok(())
    }

    /// So much came out.
    pub(super) fn produced(&mut self, count: usize) {
        self.produced += count as u64;
    }
}

#[cfg(test)]
mod tests {
    use std::io::{self, Read, Write};

    use super::super::{Decoder, Encoder, Encoding};
    use super::*;

    /// A bzip2 stream that holds nothing.
    const BZIP2: &[u8] = b"BZh9\x17\x72\x45\x38\x50\x90\0\0\0\0";
    const SKIPPABLE: &[u8] = b"\x5f\x2a\x4d\x18\0\0\0\0";

    fn encoded(encoding: Encoding, content: &[u8]) -> Vec<u8> {
        let mut encoder = Encoder::new(Vec::new(), encoding).unwrap();
        encoder.write_all(content).unwrap();
        encoder.finish().unwrap()
    }

    fn gzip(content: &[u8]) -> Vec<u8> {
        encoded(Encoding::Gzip { level: 6 }, content)
    }

    fn zstd(content: &[u8]) -> Vec<u8> {
        encoded(Encoding::Zstd { level: 3 }, content)
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

    /// Bytes that come one at a time.
    struct Drip<'a>(&'a [u8]);

    impl Read for Drip<'_> {
        fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
            let count = self.0.len().min(out.len()).min(1);
            self.0.read(&mut out[..count])
        }
    }

    /// How much a stream holds.
    fn length(stream: &[u8], limits: &Limits) -> Result<u64, CodecError> {
        let length = |reader: Box<dyn Read + '_>| {
            io::copy(&mut Decoder::new(reader, limits).unwrap(), &mut io::sink())
                .map_err(|error| CodecError::of(&error).expect("memory has no errors").clone())
        };
        let whole = length(Box::new(stream));
        assert_eq!(
            length(Box::new(Drip(stream))).is_ok(),
            whole.is_ok(),
            "the pieces of the input must not matter"
        );
        whole
    }

    fn limits(empty_parts: u64) -> Limits {
        Limits { empty_parts, ..Limits::default() }
    }

    #[test]
    fn parts_with_no_content_or_next_to_none_are_bounded_in_every_format() {
        let parts = [
            BZIP2.to_vec(),
            bzip2(b"x"),
            gzip(b""),
            gzip(b"x"),
            zstd(b""),
            zstd(b"x"),
            [zstd(b"x"), SKIPPABLE.to_vec()].concat(),
            xz(b""),
            xz(b"x"),
        ];
        for part in parts {
            // A few are in many streams.
            length(&part.repeat(3), &limits(50)).unwrap();
            let error = length(&part.repeat(200), &limits(50)).unwrap_err();
            assert!(matches!(error, CodecError::EmptyParts { limit: 50, .. }), "{error}");
        }
        let error = length(&BZIP2.repeat(20_000), &Limits::default()).unwrap_err();
        assert!(
            matches!(error, CodecError::EmptyParts { compressed, .. } if compressed < 14 * 11_000),
            "{error}"
        );
    }

    #[test]
    fn parts_that_hold_what_they_cost_are_as_many_as_there_are() {
        let mut state = 1_u32;
        let noise: Vec<u8> = std::iter::repeat_with(|| {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 24) as u8
        })
        .take(200_000)
        .collect();
        for stream in [
            gzip(&noise[..512]).repeat(100),
            zstd(&noise[..512]).repeat(100),
            bzip2(&noise[..100_000]).repeat(5),
            xz(&noise).repeat(5),
            xz(&vec![7; 5 << 20]),
        ] {
            length(&stream, &limits(4)).unwrap();
        }
    }

    #[test]
    fn input_that_gives_nothing_is_bounded() {
        let limits = Limits { idle_bytes: 100_000, ..Limits::default() };
        let mut skippable = b"\x5f\x2a\x4d\x18\0\0\x10\0".to_vec();
        skippable.resize(8 + (1 << 20), 7);
        // Empty blocks of deflate in one member.
        let mut blocks = gzip(b"")[..10].to_vec();
        blocks.extend([0, 0, 0, 0xff, 0xff].repeat(100_000));
        for stream in [skippable, blocks] {
            let error = length(&stream, &limits).unwrap_err();
            assert!(matches!(error, CodecError::Idle { limit: 100_000, .. }), "{error}");
        }
    }

    #[test]
    fn the_layers_of_one_image_share_the_number_of_their_zeros() {
        let stream = gzip(&[0; 4 << 20]);
        let read = |limits: &Limits| {
            io::copy(&mut Decoder::new(&stream[..], limits).unwrap().with_holes(), &mut io::sink())
        };
        let alone = Limits { expansion_zeros: 10 << 20, ..Limits::default() };
        for _ in 0..5 {
            read(&alone).unwrap();
        }
        let together = alone.for_one_image();
        read(&together).unwrap();
        read(&together.clone()).unwrap();
        let error = read(&together).unwrap_err();
        assert!(matches!(CodecError::of(&error), Some(CodecError::Zeros { .. })), "{error}");
        // Another image begins at nothing.
        read(&alone.for_one_image()).unwrap();
    }
}
