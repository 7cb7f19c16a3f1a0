//! A comment at the beginning of a tar, for those who know it: a PAX global header, which everybody else passes over. So
//! what is extracted of such a tar is the same with it as without.

use std::io::{self, Cursor, Read, Write};

use super::header::{self, BLOCK, Block, Header, HeaderWriter, ZERO_BLOCK};
use super::pax::{PaxWriter, Record};

/// The keyword of POSIX for what means nothing. Readers complain of keywords that they do not know.
const KEYWORD: &str = "comment";

/// Begins a tar with the comment that `mark` and `text` make.
pub(crate) fn write_comment(out: &mut impl Write, mark: &str, text: &[u8]) -> io::Result<()> {
    let mut records = PaxWriter::default();
    records.add(KEYWORD, [mark.as_bytes(), text].concat());
    let records = records.finish();
    let mut block = HeaderWriter::new(b'g');
    block
        .text(header::NAME, b"pax_global_header")
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

/// The comment with this mark that `tar` begins with, up to `limit` bytes long, and the tar without it.
pub(crate) fn take_comment<R: Read>(
    mut tar: R,
    mark: &str,
    limit: u64,
) -> io::Result<(Option<Vec<u8>>, Rest<R>)> {
    let mut begin = Vec::new();
    tar.by_ref().take(BLOCK as u64).read_to_end(&mut begin)?;
    if let Some(size) = begin.first_chunk::<BLOCK>().and_then(|block| global_size(*block))
        && size <= limit
    {
        tar.by_ref().take(size.next_multiple_of(BLOCK as u64)).read_to_end(&mut begin)?;
        let records = begin[BLOCK..].get(..usize::try_from(size).unwrap_or(usize::MAX));
        if let Some(comment) = records.and_then(|records| find(records, mark)) {
            return Ok((Some(comment), Cursor::new(Vec::new()).chain(tar)));
        }
    }
    Ok((None, Cursor::new(begin).chain(tar)))
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
