//! Sparse files: where the data of a file with holes belongs, in the four forms tars have for it.
//!
//! GNU's old form keeps the map in the header and blocks behind it; PAX 0.0 in pairs of records, 0.1 in one record,
//! 1.0 in front of the data. Whatever its form, a map is used only after [`check`] found it in order.

use super::header::{BLOCK, Block, Header, number};
use super::pax::decimal;
use crate::fs::Extent;

/// One run of data.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Segment {
    /// Where it begins in the file.
    pub(super) offset: u64,
    /// How long it is.
    pub(super) len: u64,
}

/// What `GNU.sparse.*` records say.
#[derive(Default)]
pub(super) struct SparseRecords {
    pub(super) name: Option<Vec<u8>>,
    size: Option<u64>,
    major: Option<u64>,
    minor: Option<u64>,
    count: Option<u64>,
    map: Vec<Segment>,
    /// An offset whose length has not come yet.
    offset: Option<u64>,
}

/// Where the map of a sparse file is.
#[derive(PartialEq, Eq, Debug)]
pub(super) enum MapAt {
    /// It is known already.
    Header(Vec<Segment>),
    /// It stands in front of the data.
    Data,
}

impl SparseRecords {
    /// Takes in one record, `keyword` without its prefix. `None` if the value makes no sense.
    pub(super) fn record(&mut self, keyword: &[u8], value: &[u8]) -> Option<()> {
        match keyword {
            b"name" => self.name = Some(value.to_vec()).filter(|name| !name.is_empty()),
            b"size" | b"realsize" => self.size = Some(decimal(value)?),
            b"major" => self.major = Some(decimal(value)?),
            b"minor" => self.minor = Some(decimal(value)?),
            b"numblocks" => self.count = Some(decimal(value)?),
            b"offset" => match self.offset.replace(decimal(value)?) {
                None => {}
                Some(_) => return None,
            },
            b"numbytes" => self.map.push(Segment { offset: self.offset.take()?, len: decimal(value)? }),
            b"map" => {
                self.map.clear();
                let mut numbers = value.split(|&byte| byte == b',').filter(|text| !text.is_empty());
                while let Some(offset) = numbers.next() {
                    self.map.push(Segment { offset: decimal(offset)?, len: decimal(numbers.next()?)? });
                }
            }
            _ => {}
        }
        Some(())
    }

    /// The apparent size of the file and where its map is; `None` if the file is not sparse.
    pub(super) fn take(&mut self) -> Result<Option<(u64, MapAt)>, &'static str> {
        let map = std::mem::take(&mut self.map);
        let version = (self.major.unwrap_or(0), self.minor.unwrap_or(0));
        let at = match version {
            (1, 0) => MapAt::Data,
            (0, 0 | 1) if self.size.is_none() && map.is_empty() => return Ok(None),
            (0, 0 | 1) => {
                if self.offset.is_some() {
                    return Err("an offset has no length");
                }
                if self.count.is_some_and(|count| count != map.len() as u64) {
                    return Err("the number of its parts is wrong");
                }
                MapAt::Header(map)
            }
            _ => return Err("its version is unknown"),
        };
        Ok(Some((self.size.ok_or("the size of the file is missing")?, at)))
    }
}

/// Reads the map in a GNU header. `Ok(true)` if blocks with more of it follow.
pub(super) fn old_header(header: &Header, map: &mut Vec<Segment>) -> Result<bool, &'static str> {
    old_parts(header.bytes(386..482), map)?;
    Ok(header.bytes(482..483) != [0])
}

/// The apparent size in a GNU header.
pub(super) fn old_size(header: &Header) -> Result<u64, &'static str> {
    let size = header.number(483..495).and_then(|size| u64::try_from(size).ok());
    size.ok_or("the size of the file is not a number")
}

/// Reads the map in a block that follows a GNU header. `Ok(true)` if another follows.
pub(super) fn old_extension(block: &Block, map: &mut Vec<Segment>) -> Result<bool, &'static str> {
    old_parts(&block[..504], map)?;
    Ok(block[504] != 0)
}

fn old_parts(fields: &[u8], map: &mut Vec<Segment>) -> Result<(), &'static str> {
    for part in fields.chunks_exact(24) {
        // Unused places are zeros.
        if part[0] == 0 || part[12] == 0 {
            break;
        }
        let value = |field| number(field).and_then(|value| u64::try_from(value).ok());
        let (offset, len) =
            value(&part[..12]).zip(value(&part[12..])).ok_or("an offset or length is not a number")?;
        map.push(Segment { offset, len });
    }
    Ok(())
}

/// Reads the numbers that stand in front of the data in form 1.0, one per line, over any number of blocks.
#[derive(Default)]
pub(super) struct MapReader {
    /// How many numbers are still to come; `None` before the first, which says so.
    expected: Option<u64>,
    number: Option<u64>,
    offset: Option<u64>,
    map: Vec<Segment>,
}

impl MapReader {
    /// Takes in one block. The map once it is complete; the rest of that block is padding.
    pub(super) fn block(&mut self, block: &Block) -> Result<Option<Vec<Segment>>, &'static str> {
        for &byte in block {
            match byte {
                b'0'..=b'9' => {
                    let number = self.number.unwrap_or(0).checked_mul(10);
                    let number = number.and_then(|number| number.checked_add(u64::from(byte - b'0')));
                    self.number = Some(number.ok_or("a number in it is too large")?);
                }
                b'\n' => {
                    let number = self.number.take().ok_or("a number in it is missing")?;
                    self.accept(number)?;
                    if self.expected == Some(0) {
                        return Ok(Some(std::mem::take(&mut self.map)));
                    }
                }
                _ => return Err("it holds something else than numbers"),
            }
        }
        Ok(None)
    }

    fn accept(&mut self, number: u64) -> Result<(), &'static str> {
        let Some(expected) = self.expected else {
            self.expected = Some(number.checked_mul(2).ok_or("the number of its parts is too large")?);
            return Ok(());
        };
        match self.offset.take() {
            None => self.offset = Some(number),
            Some(offset) => self.map.push(Segment { offset, len: number }),
        }
        self.expected = Some(expected - 1);
        Ok(())
    }
}

/// The map of form 1.0 of a file of `size` bytes, filled up to whole blocks.
pub(super) fn write_map(data: &[Extent], size: u64) -> Vec<u8> {
    // GNU tar sets the size of a file that ends in a hole by an empty part at its end.
    let last = data.last().is_none_or(|last| last.offset + last.length < size);
    let end = last.then_some(Extent { offset: size, length: 0 });
    let mut map = format!("{}\n", data.len() + usize::from(last));
    for Extent { offset, length } in data.iter().chain(&end) {
        map.push_str(&format!("{offset}\n{length}\n"));
    }
    let mut map = map.into_bytes();
    map.resize(map.len().next_multiple_of(BLOCK), 0);
    map
}

/// Makes sure that the parts lie in order and inside the file, and that together they are what is stored.
pub(super) fn check(map: &[Segment], size: u64, stored: u64) -> Result<(), &'static str> {
    let (mut end, mut total) = (0, 0_u64);
    for segment in map {
        if segment.offset < end {
            return Err("its parts overlap or are out of order");
        }
        end = segment.offset.checked_add(segment.len).ok_or("a part ends beyond all bounds")?;
        // No overflow: the parts do not overlap.
        total += segment.len;
    }
    if end > size {
        return Err("a part lies behind the end of the file");
    }
    if total != stored {
        return Err("its parts are not as long as the data that is stored");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn segments(pairs: &[(u64, u64)]) -> Vec<Segment> {
        pairs.iter().map(|&(offset, len)| Segment { offset, len }).collect()
    }

    #[test]
    fn a_map_is_in_order_and_inside_the_file() {
        assert!(check(&segments(&[(0, 5), (5, 0), (10, 5)]), 20, 10).is_ok());
        assert!(check(&[], 20, 0).is_ok());
        assert!(check(&segments(&[(20, 0)]), 20, 0).is_ok());
        for (map, size, stored) in [
            (&[(0, 5), (4, 1)][..], 20, 6),
            (&[(10, 1), (0, 1)], 20, 2),
            (&[(16, 5)], 20, 5),
            (&[(21, 0)], 20, 0),
            (&[(u64::MAX, 1)], 20, 1),
            (&[(0, 5)], 20, 4),
            (&[(0, 5)], 20, 6),
        ] {
            assert!(check(&segments(map), size, stored).is_err(), "{map:?}");
        }
    }

    #[test]
    fn a_map_in_front_of_the_data_may_span_blocks() {
        let pairs: Vec<_> = (0..200).map(|n| (n * 1000, 7)).collect();
        let mut text = format!("{}\n", pairs.len());
        for (offset, len) in &pairs {
            text += &format!("{offset}\n{len}\n");
        }
        let mut bytes = text.into_bytes();
        bytes.resize(bytes.len().next_multiple_of(512), 0);
        let mut reader = MapReader::default();
        let blocks = bytes.chunks(512).map(|chunk| *chunk.first_chunk().unwrap());
        let results: Vec<_> = blocks.map(|block| reader.block(&block).unwrap()).collect();
        let (last, others) = results.split_last().unwrap();
        assert!(others.iter().all(Option::is_none));
        assert_eq!(last.as_ref().unwrap(), &segments(&pairs));
    }

    #[test]
    fn the_records_of_the_older_forms_are_paired() {
        let mut records = SparseRecords::default();
        for (keyword, value) in [
            ("size", "100"),
            ("numblocks", "2"),
            ("offset", "1"),
            ("numbytes", "2"),
            ("offset", "50"),
            ("numbytes", "3"),
        ] {
            records.record(keyword.as_bytes(), value.as_bytes()).unwrap();
        }
        let expected = (100, MapAt::Header(segments(&[(1, 2), (50, 3)])));
        assert_eq!(records.take(), Ok(Some(expected)));
        let mut records = SparseRecords::default();
        records.record(b"map", b"1,2,50,3").unwrap();
        records.record(b"size", b"100").unwrap();
        assert_eq!(records.take(), Ok(Some((100, MapAt::Header(segments(&[(1, 2), (50, 3)]))))));
        assert_eq!(SparseRecords::default().take(), Ok(None));
        assert_eq!(SparseRecords::default().record(b"map", b"1,2,3"), None);
        assert_eq!(SparseRecords::default().record(b"numbytes", b"3"), None);
    }
}
