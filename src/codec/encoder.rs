//! [`Encoder`]: compresses what is written, always to the same bytes.

use std::fmt;
use std::io::{self, Write};

use super::gzip::GzipWriter;
use super::{CodecError, Compression};

/// The compressors are fed blocks of exactly this size, so that the caller's writes leave no trace in the output.
const BLOCK: usize = 128 << 10;

/// How to compress.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
#[non_exhaustive]
pub enum Encoding {
    /// Not at all.
    #[default]
    None,
    /// gzip.
    Gzip {
        /// 0 (stored) to 9 (smallest).
        level: u8,
    },
    /// Zstandard, one frame with a checksum, made by one thread.
    Zstd {
        /// 1 to 22; 3 is what its authors take.
        level: i32,
    },
}

impl Encoding {
    /// What the stream will be, without the level.
    pub fn compression(self) -> Compression {
        match self {
            Self::None => Compression::None,
            Self::Gzip { .. } => Compression::Gzip,
            Self::Zstd { .. } => Compression::Zstd,
        }
    }
}

/// Compresses what is written to it and passes it on.
///
/// The stream is whole only after [`finish`](Self::finish); dropping the encoder instead leaves it cut. Flushing
/// passes on what is compressed already and does not end a block, because that would change the bytes.
pub struct Encoder<W: Write> {
    format: Format<W>,
    /// What is not a whole [`BLOCK`] yet; stays empty without compression.
    block: Vec<u8>,
}

enum Format<W: Write> {
    Plain(W),
    Gzip(GzipWriter<W>),
    Zstd(::zstd::stream::write::Encoder<'static, W>),
}

impl<W: Write> Encoder<W> {
    /// Begins a stream in `writer`.
    ///
    /// # Errors
    ///
    /// An [`io::Error`] that carries [`CodecError::Level`] if there is no such level, or the error of `writer`.
    pub fn new(writer: W, encoding: Encoding) -> io::Result<Self> {
        let compression = encoding.compression();
        let check = |level: i32, lowest: i32, highest: i32| match (lowest..=highest).contains(&level) {
            true => Ok(()),
            false => Err(CodecError::Level { compression, level, lowest, highest }),
        };
        let (format, capacity) = match encoding {
            Encoding::None => (Format::Plain(writer), 0),
            Encoding::Gzip { level } => {
                check(i32::from(level), 0, 9)?;
                (Format::Gzip(GzipWriter::new(writer, level)?), BLOCK)
            }
            Encoding::Zstd { level } => {
                check(level, 1, 22)?;
                let mut encoder = ::zstd::stream::write::Encoder::new(writer, level)?;
                encoder.include_checksum(true)?;
                (Format::Zstd(encoder), BLOCK)
            }
        };
        Ok(Self { format, block: Vec::with_capacity(capacity) })
    }

    /// Ends the stream and returns the writer, which is not flushed.
    ///
    /// # Errors
    ///
    /// Those of the writer.
    pub fn finish(mut self) -> io::Result<W> {
        self.compress_block()?;
        match self.format {
            Format::Plain(writer) => Ok(writer),
            Format::Gzip(gzip) => gzip.finish(),
            Format::Zstd(zstd) => zstd.finish(),
        }
    }

    fn compress_block(&mut self) -> io::Result<()> {
        match &mut self.format {
            Format::Plain(writer) => writer.write_all(&self.block)?,
            Format::Gzip(gzip) => gzip.block(&self.block)?,
            Format::Zstd(zstd) => zstd.write_all(&self.block)?,
        }
        self.block.clear();
        Ok(())
    }
}

impl<W: Write> Write for Encoder<W> {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        if let Format::Plain(writer) = &mut self.format {
            return writer.write(data);
        }
        if self.block.len() == BLOCK {
            self.compress_block()?;
        }
        let count = data.len().min(BLOCK - self.block.len());
        self.block.extend_from_slice(&data[..count]);
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        match &mut self.format {
            Format::Plain(writer) => writer.flush(),
            Format::Gzip(gzip) => gzip.get_mut().flush(),
            Format::Zstd(zstd) => zstd.get_mut().flush(),
        }
    }
}

impl<W: Write> fmt::Debug for Encoder<W> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let compression = match self.format {
            Format::Plain(_) => Compression::None,
            Format::Gzip(_) => Compression::Gzip,
            Format::Zstd(_) => Compression::Zstd,
        };
        f.debug_struct("Encoder").field("compression", &compression).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use super::*;

    fn content() -> Vec<u8> {
        (0..400_000_u32).flat_map(|n| (n.wrapping_mul(n) / 7).to_le_bytes()).collect()
    }

    fn encode(encoding: Encoding, piece: usize) -> Vec<u8> {
        let mut encoder = Encoder::new(Vec::new(), encoding).unwrap();
        for piece in content().chunks(piece) {
            encoder.write_all(piece).unwrap();
            encoder.flush().unwrap();
        }
        encoder.finish().unwrap()
    }

    #[test]
    fn the_size_of_the_writes_leaves_no_trace() {
        let gzip = (0..=9).map(|level| Encoding::Gzip { level });
        let zstd = [1, 3, 9].map(|level| Encoding::Zstd { level });
        for encoding in gzip.chain(zstd) {
            let whole = encode(encoding, usize::MAX);
            assert!(whole == encode(encoding, 1000), "{encoding:?}");
            assert!(whole == encode(encoding, 200_001), "{encoding:?}");
        }
    }

    #[test]
    fn the_gzip_header_tells_nothing_of_time_and_place() {
        assert_eq!(encode(Encoding::Gzip { level: 6 }, 512)[..10], *b"\x1f\x8b\x08\0\0\0\0\0\0\xff");
    }

    #[test]
    fn another_decoder_reads_what_was_written() {
        let mut read = Vec::new();
        let gzip = encode(Encoding::Gzip { level: 6 }, 5000);
        flate2::read::MultiGzDecoder::new(&gzip[..]).read_to_end(&mut read).unwrap();
        assert!(read == content());
        assert!(::zstd::decode_all(&encode(Encoding::Zstd { level: 3 }, 5000)[..]).unwrap() == content());
        assert!(encode(Encoding::None, 5000) == content());
    }

    #[test]
    fn a_level_that_does_not_exist_is_refused() {
        for encoding in
            [Encoding::Gzip { level: 10 }, Encoding::Zstd { level: 0 }, Encoding::Zstd { level: 23 }]
        {
            let error = Encoder::new(Vec::new(), encoding).unwrap_err();
            assert!(matches!(CodecError::of(&error), Some(CodecError::Level { .. })), "{encoding:?}");
        }
    }
}
