//! A tar read back into the [`Entry`]s that it stands for, so that [`super::model`] can say what it means.
//!
//! Reads what an honest writer of today writes, ustar with PAX headers, and panics at anything else. It is short enough
//! to be seen to be right.

use std::collections::BTreeMap;

use super::tar::{Dialect, Entry, Kind};

/// Every entry of a tar, in its order.
///
/// # Panics
///
/// If it is not ustar with PAX headers from its first byte to two zero blocks at its end.
pub fn entries(tar: &[u8]) -> Vec<Entry> {
    let mut entries = Vec::new();
    let mut records = BTreeMap::new();
    let mut at = 0;
    loop {
        let header = &tar[at..at + 512];
        if header.iter().all(|&byte| byte == 0) {
            assert!(tar[at..].iter().all(|&byte| byte == 0), "something behind the end");
            assert!(tar.len() - at >= 1024, "no two zero blocks at the end");
            return entries;
        }
        assert_eq!(&header[257..265], b"ustar\x0000", "at {at}");
        let sum: u64 = header[..148].iter().chain(&header[156..]).map(|&byte| u64::from(byte)).sum();
        assert_eq!(octal(&header[148..156]), sum + 8 * u64::from(b' '), "checksum at {at}");
        let size = number(&records, "size").unwrap_or_else(|| octal(&header[124..136]));
        let size = usize::try_from(size).unwrap();
        let body = &tar[at + 512..at + 512 + size];
        at += 512 + size.next_multiple_of(512);
        match header[156] {
            b'x' => records = pax(body),
            flag => entries.push(entry(header, flag, body, std::mem::take(&mut records))),
        }
    }
}

type Records = BTreeMap<Vec<u8>, Vec<u8>>;

fn entry(header: &[u8], flag: u8, body: &[u8], mut records: Records) -> Entry {
    let device = || (to_u32(octal(&header[329..337])), to_u32(octal(&header[337..345])));
    let name = records.remove(&b"path"[..]).unwrap_or_else(|| match text(&header[345..500]) {
        b"" => text(&header[..100]).to_vec(),
        prefix => [prefix, b"/", text(&header[..100])].concat(),
    });
    let target = records.remove(&b"linkpath"[..]).unwrap_or_else(|| text(&header[157..257]).to_vec());
    let kind = match flag {
        b'0' => Kind::File(body.to_vec()),
        b'1' => Kind::Link(target),
        b'2' => Kind::Symlink(target),
        b'3' => Kind::Char(device().0, device().1),
        b'4' => Kind::Block(device().0, device().1),
        b'5' => Kind::Directory,
        b'6' => Kind::Fifo,
        other => panic!("{:?} is of type {other:?}", name.escape_ascii().to_string()),
    };
    let mtime = records.get(&b"mtime"[..]).map_or_else(
        || (i64::try_from(octal(&header[136..148])).unwrap(), 0),
        |text| time(std::str::from_utf8(text).unwrap()),
    );
    let xattrs = records
        .iter()
        .filter_map(|(key, value)| Some((key.strip_prefix(b"SCHILY.xattr.")?.to_vec(), value.clone())));
    let known = |key: &[u8]| {
        key.starts_with(b"SCHILY.xattr.")
            || [&b"uid"[..], b"gid", b"size", b"mtime", b"hdrcharset"].contains(&key)
    };
    let unknown: Vec<_> =
        records.keys().filter(|key| !known(key)).map(|key| key.escape_ascii().to_string()).collect();
    assert!(unknown.is_empty(), "PAX records {unknown:?}");
    Entry {
        name,
        kind,
        // Docker writes the type of the file into the mode as well.
        mode: to_u32(octal(&header[100..108])) & 0o7777,
        uid: number(&records, "uid").unwrap_or_else(|| octal(&header[108..116])),
        gid: number(&records, "gid").unwrap_or_else(|| octal(&header[116..124])),
        mtime,
        xattrs: xattrs.collect(),
        dialect: Dialect::Pax,
        records: Vec::new(),
    }
}

fn pax(mut body: &[u8]) -> Records {
    let mut records = BTreeMap::new();
    while !body.is_empty() {
        let space = body.iter().position(|&byte| byte == b' ').unwrap();
        let length: usize = std::str::from_utf8(&body[..space]).unwrap().parse().unwrap();
        let (record, rest) = body.split_at(length);
        let record = record[space + 1..].strip_suffix(b"\n").unwrap();
        let equals = record.iter().position(|&byte| byte == b'=').unwrap();
        records.insert(record[..equals].to_vec(), record[equals + 1..].to_vec());
        body = rest;
    }
    records
}

fn number(records: &Records, key: &str) -> Option<u64> {
    records.get(key.as_bytes()).map(|value| std::str::from_utf8(value).unwrap().parse().unwrap())
}

/// Seconds rounded down, and nanoseconds.
fn time(text: &str) -> (i64, u32) {
    let (sign, digits) = text.strip_prefix('-').map_or((1, text), |digits| (-1, digits));
    let (whole, fraction) = digits.split_once('.').unwrap_or((digits, ""));
    let nanos: i128 = format!("{fraction:0<9}").parse().unwrap();
    let total = sign * (whole.parse::<i128>().unwrap() * 1_000_000_000 + nanos);
    let nanos = u32::try_from(total.rem_euclid(1_000_000_000)).unwrap();
    (i64::try_from(total.div_euclid(1_000_000_000)).unwrap(), nanos)
}

fn octal(field: &[u8]) -> u64 {
    let digits = std::str::from_utf8(text(field)).unwrap().trim();
    if digits.is_empty() { 0 } else { u64::from_str_radix(digits, 8).unwrap() }
}

fn text(field: &[u8]) -> &[u8] {
    field.split(|&byte| byte == 0).next().unwrap()
}

fn to_u32(number: u64) -> u32 {
    u32::try_from(number).unwrap()
}
