//! PAX records: what an extended header says about the entry that follows, and the text they are written in.

use base64::Engine as _;
use base64::engine::DecodePaddingMode;
use base64::engine::general_purpose::{GeneralPurpose, GeneralPurposeConfig};

use crate::fs::{Timestamp, Xattrs};

use super::acl;
use super::percent;
use super::sparse::SparseRecords;

/// How attributes are recorded by star, GNU tar and everyone since: the value is raw bytes.
const SCHILY_XATTR: &[u8] = b"SCHILY.xattr.";
/// libarchive writes no padding and reads either.
const LIBARCHIVE_BASE64: GeneralPurpose = GeneralPurpose::new(
    &base64::alphabet::STANDARD,
    GeneralPurposeConfig::new()
        .with_encode_padding(false)
        .with_decode_padding_mode(DecodePaddingMode::Indifferent)
        .with_decode_allow_trailing_bits(true),
);

/// How libarchive records them besides: name in percent escapes, value in base64.
const LIBARCHIVE_XATTR: &[u8] = b"LIBARCHIVE.xattr.";
const ACL_ACCESS: &[u8] = b"system.posix_acl_access";
const ACL_DEFAULT: &[u8] = b"system.posix_acl_default";

/// What the extended headers in front of one entry say. What none of them says is `None`, and the header counts.
#[derive(Default)]
pub(super) struct Pax {
    pub(super) path: Option<Vec<u8>>,
    pub(super) link: Option<Vec<u8>>,
    pub(super) size: Option<u64>,
    pub(super) uid: Option<u64>,
    pub(super) gid: Option<u64>,
    pub(super) mtime: Option<Timestamp>,
    pub(super) dev_major: Option<u64>,
    pub(super) dev_minor: Option<u64>,
    pub(super) sparse: SparseRecords,
    xattrs: Xattrs,
    /// Weaker than `xattrs`: libarchive writes every attribute both ways.
    libarchive_xattrs: Xattrs,
    /// Weaker still.
    acls: Xattrs,
}

/// What is wrong with an extended header.
#[derive(PartialEq, Eq, Debug)]
pub(super) enum PaxFault {
    /// It is not a sequence of records.
    Malformed(&'static str),
    /// A record that matters has a value that makes no sense.
    Value { keyword: String, value: Vec<u8> },
}

impl Pax {
    /// Takes in the records of one extended header; later ones win.
    pub(super) fn add(&mut self, mut bytes: &[u8]) -> Result<(), PaxFault> {
        while !bytes.is_empty() {
            let Record { keyword, value, rest } = Record::split(bytes).map_err(PaxFault::Malformed)?;
            self.record(keyword, value).ok_or_else(|| PaxFault::Value {
                keyword: keyword.escape_ascii().to_string(),
                value: value.to_vec(),
            })?;
            bytes = rest;
        }
        Ok(())
    }

    /// `None` if the value makes no sense.
    fn record(&mut self, keyword: &[u8], value: &[u8]) -> Option<()> {
        if let Some(name) = keyword.strip_prefix(SCHILY_XATTR) {
            // The one kind of record that may be empty without being deleted.
            return insert_xattr(&mut self.xattrs, name, value.to_vec());
        }
        if let Some(name) = keyword.strip_prefix(LIBARCHIVE_XATTR) {
            let name = percent::decode(name);
            return insert_xattr(&mut self.libarchive_xattrs, &name, LIBARCHIVE_BASE64.decode(value).ok()?);
        }
        match keyword {
            b"path" => self.path = some(value),
            b"linkpath" => self.link = some(value),
            b"size" => self.size = optional(value, decimal)?,
            b"uid" => self.uid = optional(value, decimal)?,
            b"gid" => self.gid = optional(value, decimal)?,
            b"mtime" => self.mtime = optional(value, timestamp)?,
            b"SCHILY.devmajor" => self.dev_major = optional(value, decimal)?,
            b"SCHILY.devminor" => self.dev_minor = optional(value, decimal)?,
            b"SCHILY.acl.access" => self.acl(ACL_ACCESS, acl::to_xattr(value, false)),
            b"SCHILY.acl.default" => self.acl(ACL_DEFAULT, acl::to_xattr(value, true)),
            _ => {
                if let Some(keyword) = keyword.strip_prefix(b"GNU.sparse.") {
                    return self.sparse.record(keyword, value);
                }
            }
        }
        Some(())
    }

    fn acl(&mut self, name: &[u8], value: Option<Vec<u8>>) {
        match value {
            Some(value) => self.acls.insert(name.to_vec(), value),
            None => self.acls.remove(name),
        };
    }

    /// The attributes, from the most exact of the ways they were recorded in.
    pub(super) fn take_xattrs(&mut self) -> Xattrs {
        let mut xattrs = std::mem::take(&mut self.acls);
        xattrs.append(&mut self.libarchive_xattrs);
        xattrs.append(&mut self.xattrs);
        xattrs
    }
}

fn insert_xattr(xattrs: &mut Xattrs, name: &[u8], value: Vec<u8>) -> Option<()> {
    if name.is_empty() || name.contains(&0) {
        return None;
    }
    xattrs.insert(name.to_vec(), value);
    Some(())
}

/// An empty value takes the record back.
fn some(value: &[u8]) -> Option<Vec<u8>> {
    (!value.is_empty()).then(|| value.to_vec())
}

/// The same for a value that must be read; the outer `None` says it cannot be.
fn optional<T>(value: &[u8], read: impl Fn(&[u8]) -> Option<T>) -> Option<Option<T>> {
    if value.is_empty() { Some(None) } else { read(value).map(Some) }
}

/// One record, and what follows it.
#[derive(PartialEq, Eq, Debug)]
pub(super) struct Record<'a> {
    pub(super) keyword: &'a [u8],
    pub(super) value: &'a [u8],
    pub(super) rest: &'a [u8],
}

impl<'a> Record<'a> {
    /// Splits `<length> <keyword>=<value>\n` off the front; the length counts itself and the line feed.
    pub(super) fn split(bytes: &'a [u8]) -> Result<Self, &'static str> {
        let blank = bytes.iter().position(|&byte| byte == b' ').ok_or("a record has no length")?;
        let length = decimal(&bytes[..blank]).ok_or("the length of a record is not a number")?;
        let length = usize::try_from(length).map_err(|_| "a record is longer than the header")?;
        let record = bytes.get(blank + 1..length).ok_or("the length of a record is wrong")?;
        let record = record.strip_suffix(b"\n").ok_or("a record does not end in a line feed")?;
        let equals = record.iter().position(|&byte| byte == b'=').ok_or("a record has no \"=\"")?;
        let (keyword, value) = (&record[..equals], &record[equals + 1..]);
        match keyword {
            [] => Err("a record has no keyword"),
            _ => Ok(Self { keyword, value, rest: &bytes[length..] }),
        }
    }
}

/// Digits and nothing else.
pub(super) fn decimal(digits: &[u8]) -> Option<u64> {
    if digits.is_empty() {
        return None;
    }
    digits.iter().try_fold(0_u64, |value, digit| match digit {
        b'0'..=b'9' => value.checked_mul(10)?.checked_add(u64::from(digit - b'0')),
        _ => None,
    })
}

/// Seconds with an optional sign and fraction. What is finer than a nanosecond is rounded down, as are negative times.
fn timestamp(text: &[u8]) -> Option<Timestamp> {
    let (negative, text) = match text.strip_prefix(b"-") {
        Some(rest) => (true, rest),
        None => (false, text),
    };
    let mut parts = text.splitn(2, |&byte| byte == b'.');
    let whole = i128::from(decimal(parts.next()?)?);
    let fraction = parts.next().unwrap_or_default();
    if !fraction.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let digit = |index: usize| u32::from(fraction.get(index).map_or(0, |digit| digit - b'0'));
    let mut nanos = (0..9).fold(0, |nanos, index| nanos * 10 + digit(index));
    let (seconds, nanos) = if negative {
        nanos += u32::from(fraction.iter().skip(9).any(|&digit| digit != b'0'));
        if nanos == 0 { (-whole, 0) } else { (-whole - 1, 1_000_000_000 - nanos) }
    } else {
        (whole, nanos)
    };
    Some(Timestamp { seconds: i64::try_from(seconds).ok()?, nanos })
}

/// Records to be written, in the order of their keywords.
#[derive(Default)]
pub(super) struct PaxWriter(Vec<(Vec<u8>, Vec<u8>)>);

impl PaxWriter {
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(super) fn add(&mut self, keyword: &str, value: impl Into<Vec<u8>>) {
        self.0.push((keyword.into(), value.into()));
    }

    /// Adds a path or link target, and the word that this is not text if it is not.
    pub(super) fn add_name(&mut self, keyword: &str, name: &[u8]) {
        self.add(keyword, name);
        let charset = (b"hdrcharset".to_vec(), b"BINARY".to_vec());
        if std::str::from_utf8(name).is_err() && !self.0.contains(&charset) {
            self.0.push(charset);
        }
    }

    pub(super) fn add_time(&mut self, keyword: &str, time: Timestamp) {
        let mut text = match (time.seconds < 0, time.nanos) {
            (_, 0) => time.seconds.to_string(),
            (false, nanos) => format!("{}.{nanos:09}", time.seconds),
            // Two's complement in decimal: -2 and 0.75 are -1.25.
            (true, nanos) => format!("-{}.{:09}", -(time.seconds + 1), 1_000_000_000 - nanos),
        };
        if time.nanos != 0 {
            text.truncate(text.trim_end_matches('0').len());
        }
        self.add(keyword, text);
    }

    /// Adds an attribute as star does, or as libarchive does where a `=` in the name leaves no other way.
    pub(super) fn add_xattr(&mut self, name: &[u8], value: &[u8]) {
        self.0.push(match name.contains(&b'=') {
            false => ([SCHILY_XATTR, name].concat(), value.to_vec()),
            true => (
                [LIBARCHIVE_XATTR, &percent::encode(name)].concat(),
                LIBARCHIVE_BASE64.encode(value).into_bytes(),
            ),
        });
    }

    /// All records as the body of an extended header.
    pub(super) fn finish(mut self) -> Vec<u8> {
        self.0.sort();
        let mut body = Vec::new();
        for (keyword, value) in &self.0 {
            let rest = 1 + keyword.len() + 1 + value.len() + 1;
            let mut length = rest;
            // The length counts its own digits, which may make it longer once.
            while length != rest + digits(length) {
                length = rest + digits(length);
            }
            body.extend(length.to_string().bytes());
            body.push(b' ');
            body.extend(keyword);
            body.push(b'=');
            body.extend(value);
            body.push(b'\n');
        }
        body
    }
}

fn digits(number: usize) -> usize {
    number.checked_ilog10().unwrap_or(0) as usize + 1
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(bytes: &[u8]) -> Pax {
        let mut pax = Pax::default();
        pax.add(bytes).unwrap();
        pax
    }

    #[test]
    fn the_example_of_the_standard_is_a_record() {
        let record = Record { keyword: b"path", value: b"abc", rest: b"rest" };
        assert_eq!(Record::split(b"12 path=abc\nrest"), Ok(record));
    }

    #[test]
    fn a_record_counts_its_own_length() {
        for value in 0..2000 {
            let mut writer = PaxWriter::default();
            writer.add("path", vec![b'x'; value + 1]);
            let body = writer.finish();
            assert_eq!(parse(&body).path.unwrap().len(), value + 1);
            assert!(body.starts_with(body.len().to_string().as_bytes()));
        }
    }

    #[test]
    fn an_attribute_is_raw_bytes_and_may_be_empty() {
        let mut pax = parse(b"34 SCHILY.xattr.user.key=a=b\n\n\0\xffz\n24 SCHILY.xattr.user.e=\n");
        let xattrs = pax.take_xattrs();
        assert_eq!(xattrs[&b"user.key"[..]], b"a=b\n\n\0\xffz");
        assert_eq!(xattrs[&b"user.e"[..]], b"");
    }

    #[test]
    fn an_attribute_of_libarchive_is_decoded_and_yields_to_a_raw_one() {
        let mut pax = parse(b"34 LIBARCHIVE.xattr.user.a%3D=Zm8\n");
        assert_eq!(pax.take_xattrs()[&b"user.a="[..]], b"fo");
        let mut pax = parse(b"25 SCHILY.xattr.user.a=x\n31 LIBARCHIVE.xattr.user.a=Zm8\n");
        assert_eq!(pax.take_xattrs()[&b"user.a"[..]], b"x");
    }

    #[test]
    fn an_empty_value_takes_a_record_back() {
        let pax = parse(b"12 path=abc\n8 path=\n9 uid=12\n7 uid=\n");
        assert_eq!((pax.path, pax.uid), (None, None));
    }

    #[test]
    fn times_are_rounded_down_also_before_the_epoch() {
        let at = |seconds, nanos| Some(Timestamp { seconds, nanos });
        assert_eq!(timestamp(b"1"), at(1, 0));
        assert_eq!(timestamp(b"1.5"), at(1, 500_000_000));
        assert_eq!(timestamp(b"1."), at(1, 0));
        assert_eq!(timestamp(b"1.1234567899"), at(1, 123_456_789));
        assert_eq!(timestamp(b"-1"), at(-1, 0));
        assert_eq!(timestamp(b"-1.25"), at(-2, 750_000_000));
        assert_eq!(timestamp(b"-0.0000000001"), at(-1, 999_999_999));
        assert_eq!(timestamp(b"-0.9999999991"), at(-1, 0));
        for wrong in [&b"-"[..], b".5", b"1.x", b"nan", b"1e3", b"+1", b"99999999999999999999", b"1.-5"] {
            assert_eq!(timestamp(wrong), None, "{}", wrong.escape_ascii());
        }
    }

    #[test]
    fn a_written_time_comes_back() {
        for (seconds, nanos, text) in [
            (0, 1, "0.000000001"),
            (-1, 500_000_000, "-0.5"),
            (-2, 750_000_000, "-1.25"),
            (-1, 999_999_999, "-0.000000001"),
            (5, 0, "5"),
            (-5, 0, "-5"),
            (10, 100_000_000, "10.1"),
            (i64::MIN + 1, 1, "-9223372036854775806.999999999"),
            (i64::MIN, 0, "-9223372036854775808"),
            (i64::MIN, 1, "-9223372036854775807.999999999"),
            (i64::MAX, 999_999_999, "9223372036854775807.999999999"),
        ] {
            let time = Timestamp { seconds, nanos };
            let mut writer = PaxWriter::default();
            writer.add_time("mtime", time);
            assert_eq!(String::from_utf8(writer.0[0].1.clone()).unwrap(), text);
            assert_eq!(timestamp(text.as_bytes()), Some(time));
        }
    }

    #[test]
    fn malformed_records_are_refused() {
        for wrong in [
            &b"path=x\n"[..],
            b"12 path=abc",
            b"13 path=abc\n",
            b"11 path=abc\n",
            b"5 ab\n",
            b"5 =a\n",
            b"0 a=b\n",
            b"1 a=b\n",
            b" 6 a=b\n",
            b"99999999999999999999 a=b\n",
            b"18446744073709551615 a=b\n",
            b"6 a=b\n\0\0",
        ] {
            let fault = Pax::default().add(wrong);
            assert!(matches!(fault, Err(PaxFault::Malformed(_))), "{} {fault:?}", wrong.escape_ascii());
        }
        for wrong in [&b"9 uid=-1\n"[..], b"11 size=1x\n", b"12 mtime=1x\n", b"19 SCHILY.xattr.=x\n"] {
            assert!(matches!(Pax::default().add(wrong), Err(PaxFault::Value { .. })));
        }
    }
}
