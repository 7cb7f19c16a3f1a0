//! A comment at the beginning of a tar, for those who know it: a PAX global header, which everybody else passes over. So
//! what is extracted of such a tar is the same with it as without.

use std::io::{self, Cursor, Read, Write};

use super::header::{self, BLOCK, Block, Header, HeaderWriter, ZERO_BLOCK};
use super::pax::{PaxWriter, Record};

/// The keyword of POSIX for what means nothing. Readers complain of keywords that they do not know.
const KEYWORD: &str = "comment";

/// Bytes of a text that go into one header. Go's readers and libarchive's refuse headers of more than 1 MiB.
const PIECE: usize = 512 << 10;

/// Begins a tar with the comment that `mark` and `text` make. A long text, which should be UTF-8, goes into several.
pub(crate) fn write_comment(out: &mut impl Write, mark: &str, mut text: &[u8]) -> io::Result<()> {
    // docker and podman take no two headers of one name.
    let mut name = "pax_global_header".to_owned();
    for number in 1.. {
        if text.len() <= PIECE {
            break;
        }
        // Some readers want text in a header: no character is cut.
        let end = (PIECE - 3..=PIECE).rfind(|&end| text[end] & 0xc0 != 0x80).unwrap_or(PIECE);
        let (piece, rest) = text.split_at(end);
        write_header(out, &name, mark, piece)?;
        name = format!("pax_global_header.{number}");
        text = rest;
    }
    write_header(out, &name, mark, text)
}

fn write_header(out: &mut impl Write, name: &str, mark: &str, text: &[u8]) -> io::Result<()> {
    let mut records = PaxWriter::default();
    records.add(KEYWORD, [mark.as_bytes(), text].concat());
    let records = records.finish();
    let mut block = HeaderWriter::new(b'g');
    block
        .text(header::NAME, name.as_bytes())
        .number(header::MODE, 0o644)
        .number(header::UID, 0)
        .number(header::GID, 0)
        .number(header::SIZE, records.len() as u64)
        .number(header::MTIME, 0);
    out.write_all(block.finish())?;
    out.write_all(&records)?;
    out.write_all(&ZERO_BLOCK[..records.len().wrapping_neg() % BLOCK])
}

/// What was read to look at it, and what comes behind.
type Rest<R> = io::Chain<Cursor<Vec<u8>>, R>;

/// The comments with this mark that `tar` begins with, as one, up to about `limit` bytes long, and the tar without them.
pub(crate) fn take_comment<R: Read>(
    mut tar: R,
    mark: &str,
    limit: u64,
) -> io::Result<(Option<Vec<u8>>, Rest<R>)> {
    let mut text: Option<Vec<u8>> = None;
    loop {
        let left = limit.saturating_sub(text.as_ref().map_or(0, |text| text.len() as u64));
        let mut begin = Vec::new();
        tar.by_ref().take(BLOCK as u64).read_to_end(&mut begin)?;
        if let Some(size) = begin.first_chunk::<BLOCK>().and_then(|block| global_size(*block))
            && size <= left
        {
            tar.by_ref().take(size.next_multiple_of(BLOCK as u64)).read_to_end(&mut begin)?;
            let records = begin[BLOCK..].get(..usize::try_from(size).unwrap_or(usize::MAX));
            if let Some(piece) = records.and_then(|records| find(records, mark)) {
                text.get_or_insert_default().extend(piece);
                continue;
            }
        }
        return Ok((text, Cursor::new(begin).chain(tar)));
    }
}

/// The length of a global header's records.
fn global_size(block: Block) -> Option<u64> {
    let header = Header::parse(block).ok().filter(|header| header.typeflag() == b'g')?;
    u64::try_from(header.number(header::SIZE)?).ok()
}

fn find(mut records: &[u8], mark: &str) -> Option<Vec<u8>> {
    while !records.is_empty() {
        let Record { keyword, value, rest } = Record::split(records).ok()?;
        if let Some(text) = value.strip_prefix(mark.as_bytes()).filter(|_| keyword == KEYWORD.as_bytes()) {
            return Some(text.to_vec());
        }
        records = rest;
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn take(tar: &[u8]) -> (Option<Vec<u8>>, Vec<u8>) {
        let (comment, mut rest) = take_comment(tar, "mark:", 100_000).unwrap();
        let mut bytes = Vec::new();
        rest.read_to_end(&mut bytes).unwrap();
        (comment, bytes)
    }

    #[test]
    fn a_comment_comes_back_and_leaves_the_tar() {
        for length in [0, 1, 400, 512, 5000] {
            let text = vec![b'\n'; length];
            let mut tar = Vec::new();
            write_comment(&mut tar, "mark:", &text).unwrap();
            assert_eq!(tar.len() % BLOCK, 0);
            tar.extend(b"rest");
            assert_eq!(take(&tar), (Some(text), b"rest".to_vec()));
        }
    }

    #[test]
    fn a_long_comment_goes_into_headers_that_others_read() {
        // Two characters of two bytes and one of one, so that cuts fall everywhere.
        let text = "\u{e4}\u{f6}u".repeat(400_000);
        let mut tar = Vec::new();
        write_comment(&mut tar, "mark:", text.as_bytes()).unwrap();
        tar.extend(b"rest");
        let (found, rest) = take_comment(&tar[..], "mark:", 20 << 20).unwrap();
        assert!(found == Some(text.into_bytes()));
        assert_eq!(io::read_to_string(rest).unwrap(), "rest");
        let mut at = 0;
        while &tar[at..] != b"rest" {
            let size = usize::try_from(global_size(*tar[at..].first_chunk().unwrap()).unwrap()).unwrap();
            assert!(size < 1 << 20);
            assert!(std::str::from_utf8(&tar[at + BLOCK..][..size]).is_ok());
            at += BLOCK + size.next_multiple_of(BLOCK);
        }
        let (cut, _) = take_comment(&tar[..], "mark:", 1 << 20).unwrap();
        assert!(cut.is_some_and(|cut| cut.len() < 1 << 20));
    }

    #[test]
    fn whatever_else_a_stream_begins_with_stays_in_it() {
        let mut other = Vec::new();
        write_comment(&mut other, "another", b"").unwrap();
        let mut huge = Vec::new();
        write_comment(&mut huge, "mark:", &[0; 200_000]).unwrap();
        for bytes in [&b""[..], b"short", &[0; 1024], &other, &other[..600], &huge, &huge[..700]] {
            assert_eq!(take(bytes), (None, bytes.to_vec()));
        }
    }
}
