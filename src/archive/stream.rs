//! The bytes of an archive before they are members: watched by the caller, decompressed, and told from what is no
//! archive at all.

use std::io::{self, Cursor, Read};

use super::LoadError;
use super::error::Cancelled;
use super::load::LoadOptions;
use crate::changeset::begins_like_tar;
use crate::codec::{Compression, Decoder, sniff};
use crate::limits::Limits;

/// Tells the caller how far reading has come, and stops when the caller says so.
pub(super) struct Watched<'a, R> {
    inner: R,
    bytes: u64,
    options: &'a LoadOptions<'a>,
}

impl<'a, R: Read> Watched<'a, R> {
    pub(super) fn new(inner: R, options: &'a LoadOptions<'a>) -> Self {
        Self { inner, bytes: 0, options }
    }
}

impl<R: Read> Read for Watched<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.options.is_cancelled() {
            return Err(io::Error::other(Cancelled));
        }
        let count = self.inner.read(buffer)?;
        self.bytes += count as u64;
        self.options.report(self.bytes);
        Ok(count)
    }
}

/// What an archive is read from, decompressed.
pub(super) type Plain<R> = io::Chain<Cursor<Vec<u8>>, Decoder<R>>;

/// How much is looked at: the header of the first member.
const BEGINNING: u64 = 512;

/// The content of `reader` if that can be a tar.
///
/// # Errors
///
/// [`LoadError::Unsupported`] and [`LoadError::NotAnArchive`].
pub(super) fn open<R: Read>(reader: R, limits: &Limits) -> Result<Plain<R>, LoadError> {
    let mut decoder = Decoder::new(reader, limits).map_err(LoadError::of_stream)?;
    let mut beginning = Vec::new();
    decoder.by_ref().take(BEGINNING).read_to_end(&mut beginning).map_err(LoadError::of_stream)?;
    match describe(&beginning) {
        What::Tar => Ok(Cursor::new(beginning).chain(decoder)),
        What::Compressed(format) => Err(LoadError::Unsupported { format }),
        What::Other(found) => Err(LoadError::NotAnArchive {
            found: match decoder.compression() {
                Compression::None => found,
                compression => format!("{found}, compressed with {compression}"),
            },
        }),
    }
}

#[derive(PartialEq, Eq, Debug)]
enum What {
    Tar,
    Compressed(&'static str),
    Other(String),
}

/// Files that people take for image archives, by their first bytes.
const KNOWN: [(&[u8], &str); 9] = [
    (b"PK\x03\x04", "a zip archive"),
    (b"7z\xbc\xaf\x27\x1c", "a 7z archive"),
    (b"!<arch>\n", "an ar archive or a Debian package"),
    (b"\xed\xab\xee\xdb", "an RPM package"),
    (b"hsqs", "a squashfs image"),
    (b"\x7fELF", "an ELF file"),
    (b"QFI\xfb", "a QCOW disk image"),
    (b"0707", "a cpio archive"),
    (b"#!", "a script"),
];

/// Tells what begins like this.
fn describe(beginning: &[u8]) -> What {
    if begins_like_tar(beginning) {
        return What::Tar;
    }
    let other = |found: &str| What::Other(found.to_owned());
    match beginning {
        [] => return other("nothing: it is empty"),
        [0x5d, 0, 0, ..] => return What::Compressed("lzma"),
        [0x1f, 0x9d, ..] => return What::Compressed("compress"),
        [0x04, 0x22, 0x4d, 0x18, ..] => return What::Compressed("lz4"),
        _ if sniff(beginning) != Compression::None => return other("something compressed twice"),
        _ => {}
    }
    if let Some((_, found)) = KNOWN.iter().find(|(magic, _)| beginning.starts_with(magic)) {
        return other(found);
    }
    if beginning.iter().all(|&byte| byte == 0) {
        // Two such blocks are a tar without members, which is no image archive either.
        return other("zeros");
    }
    let text = beginning.utf8_chunks().next().map_or("", |chunk| chunk.valid());
    // The last character may be cut.
    if text.len() + 4 > beginning.len() && !text.contains(|c: char| c.is_control() && !c.is_whitespace()) {
        return match text.trim_start().chars().next() {
            Some('{' | '[') => other("a JSON document"),
            Some('<') => other("an XML or HTML document"),
            _ => other("a text"),
        };
    }
    let start = &beginning[..beginning.len().min(8)];
    What::Other(format!("unknown data that begins with \"{}\"", start.escape_ascii()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(bytes: &[u8]) -> String {
        match open(bytes, &Limits::default()) {
            Ok(_) => "a tar".to_owned(),
            Err(error) => error.to_string(),
        }
    }

    #[test]
    fn what_is_no_archive_is_named() {
        for (bytes, expected) in [
            (&b""[..], "not an image archive, but nothing: it is empty"),
            (b"PK\x03\x04....", "not an image archive, but a zip archive"),
            (b"\x7fELF\x02\x01", "not an image archive, but an ELF file"),
            (b" {\"a\": 1}\n", "not an image archive, but a JSON document"),
            (b"hello\n", "not an image archive, but a text"),
            ("é".repeat(300).as_bytes(), "not an image archive, but a text"),
            (&[0; 1024], "not an image archive, but zeros"),
            (b"\x01\x02\x03", "not an image archive, but unknown data that begins with \"\\x01\\x02\\x03\""),
            (
                b"\x04\x22\x4d\x18",
                "the archive is compressed with lz4, which is not supported: decompress it first",
            ),
            (b"BZh9 is a text", "not an image archive, but a text"),
        ] {
            assert_eq!(found(bytes), expected);
        }
    }

    #[test]
    fn what_is_inside_a_compressed_stream_is_named_too() {
        use std::io::Write;
        let mut encoder =
            crate::codec::Encoder::new(Vec::new(), crate::codec::Encoding::Gzip { level: 1 }).unwrap();
        encoder.write_all(b"hello\n").unwrap();
        let text = encoder.finish().unwrap();
        assert_eq!(found(&text), "not an image archive, but a text, compressed with gzip");
        assert_eq!(found(&text[..20]), "cannot decompress the archive");
    }
}
