//! Compressed streams: [`Decoder`] finds out what it was given and unpacks it, [`Encoder`] compresses.
//!
//! Compression is told by the first bytes, never by a media type or a file name: archives label their layers
//! loosely. A stream is believed only when it is whole: every gzip member's checksum and length are verified, a cut
//! stream is an error that says so, and bytes behind the last member are refused unless they are zeros. The input is
//! always read to its end, because its digest covers padding too. gzip and Zstandard are what layers come in; xz and
//! bzip2 are read because archives of images do, and so did the layers of old ones.
//!
//! Equal bytes in give equal bytes out, however the caller cuts them into writes: headers hold no time and no name of
//! a system, and the compressors are always fed blocks of one size.
//!
//! What is inside the stream, and which digest it should have, is the business of others. A new format is one more
//! variant of [`Compression`], one line in [`sniff`] and one file beside `gzip.rs`.

mod bzip2;
mod decoder;
mod encoder;
mod error;
mod gzip;
mod input;
mod toll;
mod xz;
mod zstd;

use std::fmt;

pub use decoder::Decoder;
pub use encoder::{Encoder, Encoding};
pub use error::CodecError;
pub(crate) use input::Input;

/// How a stream is compressed.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
#[non_exhaustive]
pub enum Compression {
    /// Not at all, as far as the first bytes tell.
    #[default]
    None,
    /// gzip ([RFC 1952](https://www.rfc-editor.org/rfc/rfc1952)), any number of members.
    Gzip,
    /// Zstandard ([RFC 8878](https://www.rfc-editor.org/rfc/rfc8878)), any number of frames.
    Zstd,
    /// [xz](https://tukaani.org/xz/xz-file-format.txt), any number of streams. Only read.
    Xz,
    /// bzip2, any number of streams. Only read.
    Bzip2,
}

impl Compression {
    /// What an OCI media type of a layer ends in: empty, `+gzip` or `+zstd`. There is none for the others.
    pub fn media_type_suffix(self) -> Option<&'static str> {
        match self {
            Self::None => Some(""),
            Self::Gzip => Some("+gzip"),
            Self::Zstd => Some("+zstd"),
            Self::Xz | Self::Bzip2 => None,
        }
    }
}

/// Prints `none`, `gzip`, `zstd`, `xz` or `bzip2`.
impl fmt::Display for Compression {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::None => "none",
            Self::Gzip => "gzip",
            Self::Zstd => "zstd",
            Self::Xz => "xz",
            Self::Bzip2 => "bzip2",
        })
    }
}

/// What begins every gzip member.
const GZIP_MAGIC: [u8; 2] = [0x1f, 0x8b];
/// What begins a Zstandard frame.
const ZSTD_MAGIC: [u8; 4] = 0xfd2f_b528_u32.to_le_bytes();
/// What begins every xz stream.
const XZ_MAGIC: [u8; 6] = *b"\xfd7zXZ\0";
/// What begins every bzip2 stream, before a digit for the size of its blocks.
const BZIP2_MAGIC: [u8; 3] = *b"BZh";
/// What comes behind that digit: the beginning of a block, or of the end. A tar may begin with a name of four letters.
const BZIP2_BLOCKS: [[u8; 6]; 2] = [*b"\x31\x41\x59\x26\x53\x59", *b"\x17\x72\x45\x38\x50\x90"];
/// How many first bytes [`sniff`] looks at.
pub(crate) const SNIFFED: usize = 10;

/// Tells by its first bytes (ten are enough) how a stream is compressed.
///
/// A skippable Zstandard frame may come first (eStargz and seekable zstd do that), so it counts as [`Zstd`]. Whatever
/// has no known magic, an empty stream included, is [`None`]; whether it is a tar is for the reader of the tar to say.
///
/// [`Zstd`]: Compression::Zstd
/// [`None`]: Compression::None
pub fn sniff(first_bytes: &[u8]) -> Compression {
    if first_bytes.starts_with(&GZIP_MAGIC) {
        Compression::Gzip
    } else if first_bytes.starts_with(&ZSTD_MAGIC) || is_skippable(first_bytes) {
        Compression::Zstd
    } else if first_bytes.starts_with(&XZ_MAGIC) {
        Compression::Xz
    } else if is_bzip2(first_bytes) {
        Compression::Bzip2
    } else {
        Compression::None
    }
}

fn is_bzip2(bytes: &[u8]) -> bool {
    let level_and_block = bytes.strip_prefix(&BZIP2_MAGIC).and_then(<[u8]>::split_first);
    level_and_block.is_some_and(|(level, rest)| {
        matches!(level, b'1'..=b'9') && BZIP2_BLOCKS.iter().any(|block| rest.starts_with(block))
    })
}

/// Whether these bytes begin a skippable Zstandard frame: the magic 0x184D2A50 to 0x184D2A5F, little-endian.
fn is_skippable(bytes: &[u8]) -> bool {
    matches!(bytes, [0x50..=0x5f, 0x2a, 0x4d, 0x18, ..])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn compression_is_told_by_the_magic_alone() {
        assert_eq!(sniff(b""), Compression::None);
        assert_eq!(sniff(b"\x1f"), Compression::None);
        assert_eq!(sniff(b"\x1f\x8b"), Compression::Gzip);
        assert_eq!(sniff(b"\x28\xb5\x2f\xfd\x00"), Compression::Zstd);
        assert_eq!(sniff(b"ustar"), Compression::None);
        assert_eq!(sniff(b"\xfd7zXZ\0\0\x04"), Compression::Xz);
        assert_eq!(sniff(b"BZh9\x31\x41\x59\x26\x53\x59"), Compression::Bzip2);
        assert_eq!(sniff(b"BZh9\x17\x72\x45\x38\x50\x90"), Compression::Bzip2);
        assert_eq!(sniff(b"BZh9\0\0\0\0\0\0"), Compression::None); // a file of this name in a tar
    }

    #[test]
    fn a_skippable_frame_in_front_counts_as_zstd() {
        for low in 0x50..=0x5f {
            assert_eq!(sniff(&[low, 0x2a, 0x4d, 0x18]), Compression::Zstd);
        }
        assert_eq!(sniff(&[0x60, 0x2a, 0x4d, 0x18]), Compression::None);
    }
}
