//! What a layer tar means, byte for byte, and what is written for it.

mod reading;
mod sparse;
mod writing;

use std::io::Read;

use super::header::{self, BLOCK, HeaderWriter};
use super::*;
use crate::fs::{DeviceNumber, Metadata, Timestamp, Xattrs};
use crate::limits::Limits;
use crate::path::LayerPath;

/// A tar made by hand.
#[derive(Default, Clone)]
struct Tar(Vec<u8>);

impl Tar {
    fn raw(mut self, bytes: &[u8]) -> Self {
        self.0.extend_from_slice(bytes);
        self
    }

    fn padded(self, body: &[u8]) -> Self {
        let padding = body.len().wrapping_neg() % BLOCK;
        self.raw(body).raw(&vec![0; padding])
    }

    fn header(self, typeflag: u8, name: &str, size: u64, more: impl FnOnce(&mut HeaderWriter)) -> Self {
        let mut block = HeaderWriter::new(typeflag);
        block.text(header::NAME, name.as_bytes()).number(header::SIZE, size).number(header::MODE, 0o644);
        more(&mut block);
        let block = *block.finish();
        self.raw(&block)
    }

    fn entry(self, typeflag: u8, name: &str) -> Self {
        self.header(typeflag, name, 0, |_| {})
    }

    fn link(self, typeflag: u8, name: &str, target: &str) -> Self {
        self.header(typeflag, name, 0, |block| {
            block.text(header::LINK, target.as_bytes());
        })
    }

    fn file(self, name: &str, body: &[u8]) -> Self {
        self.header(b'0', name, body.len() as u64, |_| {}).padded(body)
    }

    fn with_body(self, typeflag: u8, name: &str, body: &[u8]) -> Self {
        self.header(typeflag, name, body.len() as u64, |_| {}).padded(body)
    }

    fn pax(self, records: &[(&str, &[u8])]) -> Self {
        let mut body = Vec::new();
        for (keyword, value) in records {
            let rest = keyword.len() + value.len() + 3;
            let length = (1..).find(|length| rest + length.to_string().len() == *length).unwrap();
            body.extend(
                [length.to_string().as_bytes(), b" ", keyword.as_bytes(), b"=", value, b"\n"].concat(),
            );
        }
        self.with_body(b'x', "PaxHeaders/x", &body)
    }

    fn end(self) -> Self {
        self.raw(&[0; 2 * BLOCK])
    }
}

fn path(name: &str) -> LayerPath {
    LayerPath::parse(name).unwrap()
}

/// Every entry with its content, holes as zeros.
fn read_with(tar: &[u8], limits: &Limits) -> Result<Vec<(Entry, Vec<u8>)>, ChangesetError> {
    let mut reader = Reader::new(tar, limits);
    let mut entries = Vec::new();
    while let Some(entry) = reader.next_entry()? {
        let mut content = Vec::new();
        if let Err(error) = reader.body().read_to_end(&mut content) {
            return Err(*error.into_inner().unwrap().downcast().unwrap());
        }
        assert_eq!(content.len() as u64, entry.kind.size());
        entries.push((entry, content));
    }
    assert!(reader.next_entry().unwrap().is_none());
    assert!(reader.into_inner().is_empty(), "the stream is read to its end");
    Ok(entries)
}

fn read(tar: &Tar) -> Result<Vec<(Entry, Vec<u8>)>, ChangesetError> {
    read_with(&tar.0, &Limits::default())
}

/// The only entry of a tar.
fn one(tar: Tar) -> Entry {
    let mut entries = read(&tar).unwrap();
    assert_eq!(entries.len(), 1);
    entries.remove(0).0
}

fn kinds(tar: Tar) -> Vec<String> {
    read(&tar).unwrap().into_iter().map(|(entry, _)| format!("{} {:?}", entry.path, entry.kind)).collect()
}

fn refusal(tar: Tar) -> ChangesetError {
    read(&tar).unwrap_err()
}
