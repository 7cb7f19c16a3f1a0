//! [`Reader`]: a layer tar as a sequence of entries.
//!
//! Headers in front of an entry (PAX, GNU long names, sparse maps) are gathered first and count against one budget;
//! then the entry is made of them. Nothing is allocated because a header says so: buffers grow with the bytes that
//! have come.

mod member;

use std::fmt;
use std::io::{self, Read};

use super::body::{Data, Stored};
use super::entry::{Entry, EntryKind};
use super::error::{ChangesetError, invalid, limit, printable, truncated};
use super::header::{self, BLOCK, Block, Header, ZERO_BLOCK};
use super::headers::{Headers, stored_size};
use super::name::Name;
use super::pax::{Pax, PaxFault};
use super::sparse::{self, MapAt, MapReader, Segment};
use crate::codec::Input;
use crate::limits::Limits;
use crate::path::LayerPath;

/// Bytes that a name may have beside its path: a leading `./`, a trailing slash, the prefix of a whiteout or an opaque marker.
const SPELLING: usize = 16;

pub(crate) use member::{Member, MemberKind, begins_like_tar};

type Result<T> = std::result::Result<T, ChangesetError>;

/// Reads a layer tar, uncompressed, entry by entry.
///
/// The stream is believed to be hostile. Names, numbers, sizes and counts are verified, memory is bounded by
/// [`Limits`] (256 KiB of buffer, plus `header_bytes` and some for the headers of one entry), and what is not
/// understood is refused. Skipped as meaning nothing: PAX global headers, GNU volume labels, the bookkeeping of AUFS,
/// owner and group names, times other than the modification time, and `SCHILY.acl` records that name users without
/// their number.
///
/// ```
/// use plywood::changeset::{EntryKind, Reader};
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # use plywood::changeset::{Entry, Writer};
/// # let mut writer = Writer::new(Vec::new());
/// # let entry = Entry::new(plywood::path::LayerPath::parse("etc/hostname")?, EntryKind::File { size: 4 }, Default::default());
/// # writer.file(&entry, &b"box\n"[..])?;
/// # let tar = writer.finish()?;
/// let mut layer = Reader::new(&tar[..], &Default::default());
/// while let Some(entry) = layer.next_entry()? {
///     println!("{}", entry.path);
///     if let EntryKind::File { .. } = entry.kind {
///         while let Some(data) = layer.next_data()? {
///             println!("{} bytes at {}", data.bytes.len(), data.offset);
///         }
///     }
/// }
/// # Ok(())
/// # }
/// ```
pub struct Reader<R> {
    input: Input<R>,
    limits: Limits,
    reserved_names: bool,
    state: State,
    /// Whether a header was found: the stream is a tar.
    recognised: bool,
    /// Index of the next entry.
    next: u64,
    /// Data, holes not counted, of all files so far.
    layer_bytes: u64,
    body: Stored,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    Reading,
    Ended,
    Failed,
}

impl<R: Read> Reader<R> {
    /// Reads a layer from `reader`, which needs no buffer of its own.
    pub fn new(reader: R, limits: &Limits) -> Self {
        Self {
            input: Input::new(reader),
            limits: limits.clone(),
            reserved_names: false,
            state: State::Reading,
            recognised: false,
            next: 0,
            layer_bytes: 0,
            body: Stored::default(),
        }
    }

    /// Takes names that begin with `.wh.` as ordinary names: the stream is a plain tar and deletes nothing. What a
    /// [`Writer`](super::Writer) wrote that allows them reads back.
    #[must_use]
    pub fn allow_reserved_names(mut self) -> Self {
        self.reserved_names = true;
        self
    }

    /// Goes on to the next entry, past what was not read of the current one; `None` at the end.
    ///
    /// The end is the end of the stream: whatever stands behind the end mark of the tar has been read, since the
    /// layer's digest covers it. A missing end mark is accepted between two entries; a stream of no bytes is an empty
    /// layer.
    ///
    /// # Errors
    ///
    /// [`ChangesetError`], and after it only [`ChangesetError::FailedBefore`].
    pub fn next_entry(&mut self) -> Result<Option<Entry>> {
        match self.state {
            State::Reading => {}
            State::Ended => return Ok(None),
            State::Failed => return Err(ChangesetError::FailedBefore),
        }
        let entry = self.advance();
        match &entry {
            Ok(Some(_)) => {}
            Ok(None) => self.state = State::Ended,
            Err(_) => self.state = State::Failed,
        }
        entry
    }

    /// The next run of the current file's data; `None` at its end, and for entries without data.
    ///
    /// A file may end in a hole: its size is [`EntryKind::size`], not the end of the last run.
    ///
    /// # Errors
    ///
    /// [`ChangesetError::Truncated`] and [`ChangesetError::Read`].
    pub fn next_data(&mut self) -> Result<Option<Data<'_>>> {
        self.refuse_after_failure()?;
        let Some(offset) = self.body.next_data() else { return Ok(None) };
        self.body.position = offset;
        let count = self.available()?;
        self.body.advance(count);
        Ok(Some(Data { offset, bytes: self.input.take(count) }))
    }

    /// The current file as its reader sees it, holes as zeros; goes on where earlier reading stopped.
    pub fn body(&mut self) -> Body<'_, R> {
        Body(self)
    }

    /// Reads the stream to its end without looking at it, for whoever stops early and wants the digest nonetheless.
    ///
    /// # Errors
    ///
    /// [`ChangesetError::Read`].
    pub fn drain(&mut self) -> Result<()> {
        self.body = Stored::default();
        if self.state == State::Reading {
            self.state = State::Ended;
        }
        let index = self.next;
        self.input.skip(u64::MAX).map_err(|source| ChangesetError::Read { index, source })?;
        Ok(())
    }

    /// Returns the underlying reader. Unless the end was reached it is further ahead than what was handed out.
    pub fn into_inner(self) -> R {
        self.input.into_inner()
    }

    fn refuse_after_failure(&self) -> Result<()> {
        match self.state {
            State::Failed => Err(ChangesetError::FailedBefore),
            _ => Ok(()),
        }
    }

    /// How much of the current run of data is in the buffer, at least one byte.
    fn available(&mut self) -> Result<usize> {
        let found = self.input.fill(1).map(<[u8]>::len);
        let found = found.map_err(|source| ChangesetError::Read { index: self.body.index, source });
        let found = found.inspect_err(|_| self.state = State::Failed)?;
        if found == 0 {
            self.state = State::Failed;
            return Err(self.body.truncated(self.body.left));
        }
        Ok(self.body.run().min(found as u64) as usize)
    }

    fn advance(&mut self) -> Result<Option<Entry>> {
        loop {
            self.skip_body()?;
            let Some(headers) = self.next_headers()? else {
                self.drain()?;
                return Ok(None);
            };
            if let Some(entry) = self.interpret(headers)? {
                return Ok(Some(entry));
            }
        }
    }

    fn skip_body(&mut self) -> Result<()> {
        let body = &self.body;
        let read = |source| ChangesetError::Read { index: body.index, source };
        let missing = self.input.skip(body.left).map_err(read)?;
        if missing > 0 {
            return Err(body.truncated(missing));
        }
        // Some writers end right behind the data of the last file.
        self.input.skip(body.padding).map_err(read)?;
        self.body = Stored::default();
        Ok(())
    }

    /// Gathers the headers of the next entry that may mean something; `None` at the end mark or without one at the
    /// end of the stream.
    fn next_headers(&mut self) -> Result<Option<Headers>> {
        let mut pax = Pax::default();
        let (mut long_name, mut long_link) = (None, None);
        let mut budget = self.limits.header_bytes;
        let mut extended = false;
        loop {
            let index = self.next;
            let header = match self.header()? {
                Some(header) => header,
                None if extended => return Err(truncated(index, "", BLOCK as u64)),
                None => return Ok(None),
            };
            match header.typeflag() {
                b'x' => {
                    let records = self.extension(&header, &mut budget)?;
                    pax.add(&records).map_err(|fault| pax_fault(index, fault))?;
                }
                b'L' => long_name = self.long_text(&header, &mut budget)?,
                b'K' => long_link = self.long_text(&header, &mut budget)?,
                b'g' | b'V' => {
                    // Its records would apply to all that follows, and nobody who makes layers means that.
                    let size = stored_size(&header, index)?;
                    if size > self.limits.header_bytes {
                        return Err(limit(index, "", "header_bytes", self.limits.header_bytes));
                    }
                    self.body = Stored::plain(index, size);
                    self.skip_body()?;
                    self.count_entry("")?;
                    continue;
                }
                _ => {
                    self.count_entry("")?;
                    return Ok(Some(Headers { index, header, pax, long_name, long_link, budget }));
                }
            }
            extended = true;
        }
    }

    /// The next header block, verified; `None` at the end.
    fn header(&mut self) -> Result<Option<Header>> {
        let index = self.next;
        let read = |source| ChangesetError::Read { index, source };
        let block = match take_block(&mut self.input).map_err(read)? {
            Ok(block) => block,
            Err(0) => return Ok(None),
            // A text file or a picture is no cut tar.
            Err(_) if !self.recognised => return Err(ChangesetError::NotTar),
            Err(found) => return Err(truncated(index, "", (BLOCK - found) as u64)),
        };
        if block == ZERO_BLOCK {
            return match self.input.fill(BLOCK).map_err(read)? {
                [] => Ok(None),
                next if next.iter().take(BLOCK).all(|&byte| byte == 0) => Ok(None),
                _ => Err(ChangesetError::LoneZeroBlock { index }),
            };
        }
        match Header::parse(block) {
            Ok(header) => {
                self.recognised = true;
                Ok(Some(header))
            }
            Err(_) if !self.recognised => Err(ChangesetError::NotTar),
            Err(expected) => {
                Err(ChangesetError::Checksum { index, expected, found: printable(&block[header::CHECKSUM]) })
            }
        }
    }

    fn count_entry(&mut self, name: &str) -> Result<()> {
        let index = self.next;
        self.next += 1;
        if self.next > self.limits.entries {
            return Err(limit(index, name, "entries", self.limits.entries));
        }
        Ok(())
    }

    /// Reads the body of an extended header.
    fn extension(&mut self, header: &Header, budget: &mut u64) -> Result<Vec<u8>> {
        let index = self.next;
        let size = stored_size(header, index)?;
        // Without their blocks a stream of empty headers would cost nothing.
        let cost = size.saturating_add(BLOCK as u64);
        *budget = budget
            .checked_sub(cost)
            .ok_or_else(|| limit(index, "", "header_bytes", self.limits.header_bytes))?;
        let mut bytes = Vec::new();
        self.body = Stored::plain(index, size);
        while let Some(data) = self.next_data()? {
            bytes.extend_from_slice(data.bytes);
        }
        self.skip_body()?;
        Ok(bytes)
    }

    /// Reads a GNU long name.
    fn long_text(&mut self, header: &Header, budget: &mut u64) -> Result<Option<Vec<u8>>> {
        let bytes = self.extension(header, budget)?;
        Ok(Some(header::text(&bytes).to_vec()))
    }

    /// Whether a name is one that may be looked at.
    fn check_name(&self, index: u64, raw: &[u8]) -> Result<()> {
        let too_much = |what, most: usize| Err(limit(index, &printable(raw), what, most as u64));
        let Limits { path_bytes, path_depth, .. } = self.limits;
        // The path itself is measured when it is known; a marker, `./` and a trailing slash are no part of it.
        if raw.len() > path_bytes.saturating_add(SPELLING) {
            return too_much("path_bytes", path_bytes);
        }
        if raw.iter().filter(|&&byte| byte == b'/').count() > path_depth {
            return too_much("path_depth", path_depth);
        }
        Ok(())
    }

    /// Makes an entry of its headers, ready to read its data; `None` if it means nothing.
    fn interpret(&mut self, mut headers: Headers) -> Result<Option<Entry>> {
        let index = headers.index;
        let typeflag = headers.header.typeflag();
        let is_file = matches!(typeflag, b'0' | 0 | b'7' | b'S');
        let raw = headers.take_name(is_file);
        self.check_name(index, &raw)?;

        // The body first: whatever the name means, the stream goes on behind it.
        match typeflag {
            b'1' => self.skip_link_body(&headers, &raw)?,
            _ if is_file => self.begin_file(&mut headers, &raw)?,
            b'2'..=b'6' => {}
            _ => {
                let (name, typeflag) = (printable(&raw), char::from(typeflag));
                return Err(ChangesetError::Type { index, name, typeflag });
            }
        }

        let name = if self.reserved_names { Name::plain(&raw) } else { Name::parse(&raw) };
        let name = name.map_err(|fault| fault.into_error(index, &raw))?;
        let (path, kind) = match name {
            Name::Whiteout(path) => (path, EntryKind::Whiteout),
            Name::Opaque(path) => (path, EntryKind::Opaque),
            Name::Aufs => return Ok(None),
            Name::AufsLink(path) if is_file => (path, EntryKind::AufsLink { size: self.body.size }),
            Name::AufsLink(_) => return Ok(None),
            Name::Plain(path) => {
                let kind = self.kind(&mut headers, &path, is_file && raw.ends_with(b"/"))?;
                if path.is_root() && kind != EntryKind::Directory {
                    return Err(ChangesetError::Root { index, found: describe(&kind) });
                }
                (path, kind)
            }
        };
        if path.as_bytes().len() > self.limits.path_bytes {
            return Err(limit(index, &printable(&raw), "path_bytes", self.limits.path_bytes as u64));
        }
        let metadata = headers.metadata(&self.limits, &path)?;
        self.body.name = raw;
        if !matches!(kind, EntryKind::File { .. } | EntryKind::AufsLink { .. }) {
            self.body.hide();
        }
        Ok(Some(Entry { path, kind, metadata, index }))
    }

    /// Finds out what an ordinary entry is. `old_directory`: a file whose name ends in a slash.
    fn kind(&self, headers: &mut Headers, path: &LayerPath, old_directory: bool) -> Result<EntryKind> {
        let index = headers.index;
        let link_bytes = self.limits.link_bytes;
        Ok(match headers.header.typeflag() {
            b'1' => {
                let target = headers.take_link(link_bytes, path)?;
                let parsed = LayerPath::parse(&target).map_err(|source| {
                    let (path, target) = (path.clone(), printable(&target));
                    ChangesetError::LinkTarget { index, path, target, source }
                })?;
                if parsed.is_root() {
                    let (path, target) = (path.clone(), printable(&target));
                    return Err(ChangesetError::EmptyLink { index, path, target });
                }
                EntryKind::HardLink(parsed)
            }
            b'2' => {
                let target = headers.take_link(link_bytes, path)?;
                if target.is_empty() || target.contains(&0) {
                    let (path, target) = (path.clone(), printable(&target));
                    return Err(ChangesetError::EmptyLink { index, path, target });
                }
                EntryKind::Symlink(target)
            }
            b'3' => EntryKind::CharDevice(headers.device()?),
            b'4' => EntryKind::BlockDevice(headers.device()?),
            b'5' => EntryKind::Directory,
            b'6' => EntryKind::Fifo,
            _ if old_directory => EntryKind::Directory,
            _ => EntryKind::File { size: self.body.size },
        })
    }

    /// A hard link has no data by the older standards, whatever its size says, and may have some by the newer. If what
    /// follows is a header or the end, there is none.
    fn skip_link_body(&mut self, headers: &Headers, raw: &[u8]) -> Result<()> {
        let index = headers.index;
        let size = match headers.pax.size {
            Some(size) => size,
            None => stored_size(&headers.header, index)?,
        };
        if size == 0 {
            return Ok(());
        }
        let next = self.input.fill(BLOCK).map_err(|source| ChangesetError::Read { index, source })?;
        let data_follows = match next.first_chunk::<BLOCK>() {
            Some(block) => *block != ZERO_BLOCK && Header::parse(*block).is_err(),
            None => !next.is_empty(),
        };
        if data_follows {
            self.body = Stored::plain(index, size);
            self.body.name = raw.to_vec();
            self.skip_body()?;
        }
        Ok(())
    }

    /// Makes ready to read the data of a file, sparse or not.
    fn begin_file(&mut self, headers: &mut Headers, raw: &[u8]) -> Result<()> {
        let index = headers.index;
        let fault = |reason| ChangesetError::Sparse { index, name: printable(raw), reason };
        let mut stored = match headers.pax.size {
            Some(size) => size,
            None => stored_size(&headers.header, index)?,
        };
        let sparse = headers.pax.sparse.take().map_err(fault)?;
        let (size, map) = if headers.header.typeflag() == b'S' {
            let map = self.old_map(headers, raw)?;
            (sparse::old_size(&headers.header).map_err(fault)?, map)
        } else {
            match sparse {
                None => (stored, vec![Segment { offset: 0, len: stored }]),
                Some((size, MapAt::Header(map))) => (size, map),
                Some((size, MapAt::Data)) => {
                    let (map, blocks) = self.map_in_data(headers, raw)?;
                    let rest = stored.checked_sub(blocks);
                    stored = rest.ok_or_else(|| fault("it is longer than what is stored"))?;
                    (size, map)
                }
            }
        };
        sparse::check(&map, size, stored).map_err(fault)?;
        if size > self.limits.file_bytes {
            return Err(limit(index, &printable(raw), "file_bytes", self.limits.file_bytes));
        }
        self.layer_bytes = self.layer_bytes.saturating_add(stored);
        if self.layer_bytes > self.limits.layer_bytes {
            return Err(limit(index, &printable(raw), "layer_bytes", self.limits.layer_bytes));
        }
        self.body = Stored::sparse(index, size, stored, map);
        Ok(())
    }

    /// Reads the map of a GNU sparse file from its header and the blocks behind it.
    fn old_map(&mut self, headers: &mut Headers, raw: &[u8]) -> Result<Vec<Segment>> {
        let index = headers.index;
        let fault = |reason| ChangesetError::Sparse { index, name: printable(raw), reason };
        let mut map = Vec::new();
        let mut more = sparse::old_header(&headers.header, &mut map).map_err(fault)?;
        while more {
            let block = self.header_block(headers, raw)?;
            more = sparse::old_extension(&block, &mut map).map_err(fault)?;
        }
        Ok(map)
    }

    /// Reads the map in front of a file's data, and how many bytes it takes.
    fn map_in_data(&mut self, headers: &mut Headers, raw: &[u8]) -> Result<(Vec<Segment>, u64)> {
        let index = headers.index;
        let mut reader = MapReader::default();
        let mut bytes = 0;
        loop {
            let block = self.header_block(headers, raw)?;
            bytes += BLOCK as u64;
            let map = reader.block(&block);
            let fault = |reason| ChangesetError::Sparse { index, name: printable(raw), reason };
            if let Some(map) = map.map_err(fault)? {
                return Ok((map, bytes));
            }
        }
    }

    /// One more block that belongs to an entry's headers and counts as such.
    fn header_block(&mut self, headers: &mut Headers, raw: &[u8]) -> Result<Block> {
        let index = headers.index;
        let rest = headers.budget.checked_sub(BLOCK as u64);
        headers.budget =
            rest.ok_or_else(|| limit(index, &printable(raw), "header_bytes", self.limits.header_bytes))?;
        let block = take_block(&mut self.input).map_err(|source| ChangesetError::Read { index, source })?;
        block.map_err(|found| truncated(index, &printable(raw), (BLOCK - found) as u64))
    }
}

impl<R> fmt::Debug for Reader<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reader").field("next", &self.next).finish_non_exhaustive()
    }
}

/// The content of the current file, holes as zeros. Made by [`Reader::body`].
///
/// # Errors
///
/// An [`io::Error`] that carries a [`ChangesetError`], see [`ChangesetError::of`].
pub struct Body<'a, R>(&'a mut Reader<R>);

impl<R: Read> Read for Body<'_, R> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let reader = &mut *self.0;
        reader.refuse_after_failure()?;
        let body = &mut reader.body;
        let data_at = body.next_data();
        let hole = data_at.unwrap_or(body.size) - body.position;
        if hole > 0 {
            let count = hole.min(out.len() as u64) as usize;
            out[..count].fill(0);
            body.position += count as u64;
            return Ok(count);
        }
        if out.is_empty() || data_at.is_none() {
            return Ok(0);
        }
        let count = reader.available()?.min(out.len());
        reader.body.advance(count);
        out[..count].copy_from_slice(reader.input.take(count));
        Ok(count)
    }
}

impl<R> fmt::Debug for Body<'_, R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Body").field("position", &self.0.body.position).finish_non_exhaustive()
    }
}

/// Takes one block; `Err(n)` if the stream ends after `n` bytes of it.
fn take_block<R: Read>(input: &mut Input<R>) -> io::Result<std::result::Result<Block, usize>> {
    let found = input.fill(BLOCK)?;
    let block = match found.first_chunk() {
        Some(block) => *block,
        None => return Ok(Err(found.len())),
    };
    input.consume(BLOCK);
    Ok(Ok(block))
}

fn describe(kind: &EntryKind) -> &'static str {
    match kind {
        EntryKind::Symlink(_) => "symbolic link",
        EntryKind::HardLink(_) => "hard link",
        EntryKind::Fifo => "named pipe",
        EntryKind::CharDevice(_) => "character device",
        EntryKind::BlockDevice(_) => "block device",
        _ => "file",
    }
}

fn pax_fault(index: u64, fault: PaxFault) -> ChangesetError {
    match fault {
        PaxFault::Malformed(reason) => ChangesetError::ExtendedHeader { index, reason },
        PaxFault::Value { keyword, value } => invalid(index, &format!("record {keyword}"), &value),
    }
}
