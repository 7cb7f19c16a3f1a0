//! One 512-byte header block: its fields, how numbers are written in them, and its checksum.

use std::ops::Range;

/// Everything in a tar is padded to blocks of this size.
pub(super) const BLOCK: usize = 512;
pub(super) type Block = [u8; BLOCK];

/// The block that fills up files and ends the archive.
pub(super) static ZERO_BLOCK: Block = [0; BLOCK];

// The fields, as POSIX lays them out.
pub(super) const NAME: Range<usize> = 0..100;
pub(super) const MODE: Range<usize> = 100..108;
pub(super) const UID: Range<usize> = 108..116;
pub(super) const GID: Range<usize> = 116..124;
pub(super) const SIZE: Range<usize> = 124..136;
pub(super) const MTIME: Range<usize> = 136..148;
pub(super) const CHECKSUM: Range<usize> = 148..156;
pub(super) const TYPEFLAG: usize = 156;
pub(super) const LINK: Range<usize> = 157..257;
pub(super) const MAGIC: Range<usize> = 257..265;
pub(super) const DEV_MAJOR: Range<usize> = 329..337;
pub(super) const DEV_MINOR: Range<usize> = 337..345;
pub(super) const PREFIX: Range<usize> = 345..500;
/// The prefix of star is shorter, access and change time follow it.
const STAR_PREFIX: Range<usize> = 345..476;
const STAR_TRAILER: Range<usize> = 508..512;

/// A header as it stands in the tar.
pub(super) struct Header(Block);

impl Header {
    /// Takes the block for a header if its checksum says so, else returns the right sum.
    ///
    /// The sum is of unsigned bytes by the standard, and of signed ones in archives of some historic systems.
    pub(super) fn parse(block: Block) -> Result<Self, u64> {
        let (mut unsigned, mut signed) = (0_i64, 0_i64);
        for (index, &byte) in block.iter().enumerate() {
            let byte = if CHECKSUM.contains(&index) { b' ' } else { byte };
            unsigned += i64::from(byte);
            signed += i64::from(byte as i8);
        }
        match number(&block[CHECKSUM]) {
            Some(sum) if sum == i128::from(unsigned) || sum == i128::from(signed) => Ok(Self(block)),
            _ => Err(unsigned as u64),
        }
    }

    pub(super) fn bytes(&self, field: Range<usize>) -> &[u8] {
        &self.0[field]
    }

    /// A field up to its first NUL.
    pub(super) fn text(&self, field: Range<usize>) -> &[u8] {
        text(&self.0[field])
    }

    pub(super) fn number(&self, field: Range<usize>) -> Option<i128> {
        number(&self.0[field])
    }

    pub(super) fn typeflag(&self) -> u8 {
        self.0[TYPEFLAG]
    }

    /// The name, put together from its two fields where the dialect has two.
    pub(super) fn name(&self) -> Vec<u8> {
        let name = self.text(NAME);
        // GNU has other things where POSIX has the prefix, v7 has nothing there.
        if !self.0[MAGIC].starts_with(b"ustar\0") {
            return name.to_vec();
        }
        let prefix = match self.0[STAR_TRAILER] == *b"tar\0" {
            true => self.text(STAR_PREFIX),
            false => self.text(PREFIX),
        };
        match prefix {
            [] => name.to_vec(),
            _ => [prefix, b"/", name].concat(),
        }
    }
}

/// Up to the first NUL.
pub(super) fn text(field: &[u8]) -> &[u8] {
    field.split(|&byte| byte == 0).next().unwrap_or_default()
}

/// Reads a number: octal digits between blanks (nothing but blanks is 0), or GNU's base-256 if the first bit is set,
/// in two's complement.
pub(super) fn number(field: &[u8]) -> Option<i128> {
    match field {
        [first, rest @ ..] if first & 0x80 != 0 => {
            // 12 bytes less the mark at most: 95 bits.
            let start = i128::from(first & 0x3f) - i128::from(first & 0x40);
            Some(rest.iter().fold(start, |value, &byte| value << 8 | i128::from(byte)))
        }
        _ => {
            let is_blank = |byte: u8| byte == b' ' || byte == 0;
            let start = field.iter().position(|&byte| !is_blank(byte)).unwrap_or(field.len());
            let field = &field[start..];
            let end = field.iter().position(|&byte| is_blank(byte)).unwrap_or(field.len());
            field[..end].iter().try_fold(0, |value, &digit| match digit {
                b'0'..=b'7' => Some(value << 3 | i128::from(digit - b'0')),
                _ => None,
            })
        }
    }
}

/// Builds a ustar header.
pub(super) struct HeaderWriter(Block);

impl HeaderWriter {
    pub(super) fn new(typeflag: u8) -> Self {
        let mut block = ZERO_BLOCK;
        block[TYPEFLAG] = typeflag;
        block[MAGIC].copy_from_slice(b"ustar\x0000");
        Self(block)
    }

    /// `text` fits into the field.
    pub(super) fn text(&mut self, field: Range<usize>, text: &[u8]) -> &mut Self {
        self.0[field][..text.len()].copy_from_slice(text);
        self
    }

    /// Octal with leading zeros and a closing NUL. `value` fits, see [`fits`].
    pub(super) fn number(&mut self, field: Range<usize>, mut value: u64) -> &mut Self {
        let digits = field.len() - 1;
        for byte in self.0[field][..digits].iter_mut().rev() {
            *byte = b'0' + (value & 7) as u8;
            value >>= 3;
        }
        debug_assert_eq!(value, 0, "the number was checked with fits()");
        self
    }

    /// The block with its checksum: six digits, NUL, blank, as everyone writes it.
    pub(super) fn finish(&mut self) -> &Block {
        self.0[CHECKSUM].fill(b' ');
        let sum: u64 = self.0.iter().map(|&byte| u64::from(byte)).sum();
        let Range { start, end } = CHECKSUM;
        self.number(start..end - 1, sum);
        self.0[end - 2] = 0;
        &self.0
    }
}

/// Whether `value` can be written in octal into a field of this length.
pub(super) fn fits(field: Range<usize>, value: u64) -> bool {
    value < 1 << (3 * (field.len() - 1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_octal_or_binary() {
        assert_eq!(number(b"0000644\0"), Some(0o644));
        assert_eq!(number(b"  644 \0\0"), Some(0o644));
        assert_eq!(number(b"77777777"), Some(0o7777_7777));
        assert_eq!(number(b"\0\0\0\0\0\0\0\0"), Some(0));
        assert_eq!(number(b"        "), Some(0));
        assert_eq!(number(b"644 junk"), Some(0o644));
        assert_eq!(number(b"648\0\0\0\0\0"), None);
        assert_eq!(number(b"-1\0\0\0\0\0\0"), None);
        assert_eq!(number(b"\x80\0\0\0\0\0\x01\x02"), Some(258));
        assert_eq!(number(&[0xff; 12]), Some(-1));
        assert_eq!(number(b"\xff\xff\xff\xff\xff\xff\xff\xfe"), Some(-2));
        assert_eq!(number(b"\xbf\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff"), Some((1 << 94) - 1));
        assert_eq!(number(b"\xc0\0\0\0\0\0\0\0\0\0\0\0"), Some(-(1 << 94)));
    }

    #[test]
    fn both_kinds_of_checksum_are_accepted() {
        let mut writer = HeaderWriter::new(b'0');
        writer.text(NAME, b"na\xffme");
        let block = *writer.finish();
        assert!(Header::parse(block).is_ok());
        let unsigned = number(&block[CHECKSUM]).unwrap() as u64;
        let mut signed = block;
        signed[CHECKSUM].copy_from_slice(format!("{:06o}\0 ", unsigned - 256).as_bytes());
        assert!(Header::parse(signed).is_ok());
        let mut wrong = block;
        wrong[0] ^= 1;
        assert!(Header::parse(wrong).is_err());
    }

    #[test]
    fn the_prefix_counts_only_where_the_dialect_has_one() {
        let mut writer = HeaderWriter::new(b'0');
        let header = |writer: &mut HeaderWriter| Header::parse(*writer.finish()).unwrap().name();
        writer.text(NAME, b"name").text(PREFIX, b"some/where");
        assert_eq!(header(&mut writer), b"some/where/name");
        // What star writes behind its prefix is no name.
        writer.text(476..488, b"00000000000\0").text(STAR_TRAILER, b"tar\0");
        assert_eq!(header(&mut writer), b"some/where/name");
        writer.0[MAGIC].copy_from_slice(b"ustar  \0");
        assert_eq!(header(&mut writer), b"name");
        writer.0[MAGIC].fill(0);
        assert_eq!(header(&mut writer), b"name");
    }
}
