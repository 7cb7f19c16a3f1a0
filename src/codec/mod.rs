//! Compressed streams: [`Decoder`] finds out what it was given and unpacks it, [`Encoder`] compresses.
//!
//! Compression is told by the first bytes, never by a media type or a file name: archives label their layers
//! loosely. A stream is believed only when it is whole: every gzip member's checksum and length are verified, a cut
//! stream is an error that says so, and bytes behind the last member are refused unless they are zeros. The input is
//! always read to its end, because its digest covers padding too.
//!
//! Equal bytes in give equal bytes out, however the caller cuts them into writes: headers hold no time and no name of
//! a system, and the compressors are always fed blocks of one size.
//!
//! What is inside the stream, and which digest it should have, is the business of others. A new format is one more
//! variant of [`Compression`], one line in [`sniff`] and one file beside `gzip.rs`.

mod decoder;
mod encoder;
mod error;
mod gzip;
mod input;
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
}

impl Compression {
    /// What an OCI media type of a layer ends in: empty, `+gzip` or `+zstd`.
    pub fn media_type_suffix(self) -> &'static str {
        match self {
            Self::None => "",
            Self::Gzip => "+gzip",
            Self::Zstd => "+zstd",
        }
    }
}

/// Prints `none`, `gzip` or `zstd`.
impl fmt::Display for Compression {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::None => "none",
            Self::Gzip => "gzip",
            Self::Zstd => "zstd",
        })
    }
}

/// What begins every gzip member.
const GZIP_MAGIC: [u8; 2] = [0x1f, 0x8b];
/// What begins a Zstandard frame.
const ZSTD_MAGIC: [u8; 4] = 0xfd2f_b528_u32.to_le_bytes();
/// How many first bytes [`sniff`] looks at.
const SNIFFED: usize = 4;

/// Tells by its first bytes (four are enough) how a stream is compressed.
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
    } else {
        Compression::None
    }
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
    }

    #[test]
    fn a_skippable_frame_in_front_counts_as_zstd() {
        for low in 0x50..=0x5f {
            assert_eq!(sniff(&[low, 0x2a, 0x4d, 0x18]), Compression::Zstd);
        }
        assert_eq!(sniff(&[0x60, 0x2a, 0x4d, 0x18]), Compression::None);
    }
}
