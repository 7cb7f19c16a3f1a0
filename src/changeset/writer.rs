//! [`Writer`]: entries as a tar, equal entries as equal bytes.
//!
//! The dialect is ustar; what ustar cannot say goes into PAX records, sorted by keyword. Nothing of the machine and the
//! moment gets in: no names of users, no access or change times, no padding but zeros.

use std::fmt;
use std::io::{self, BufWriter, Read, Write};

use super::entry::{Entry, EntryKind};
use super::error::ChangesetError;
use super::header::{self, BLOCK, HeaderWriter, ZERO_BLOCK, fits};
use super::pax::PaxWriter;
use super::sparse::{self, Segment};
use crate::fs::{DeviceNumber, Extent, Metadata, Timestamp};
use crate::path::{LayerPath, is_file_name};
use crate::whiteout;
use crate::zeros::zeros;

type Result<T> = std::result::Result<T, ChangesetError>;

/// Headers and small files are gathered to pieces of this size.
const BUFFER: usize = 128 << 10;

/// Writes a layer tar, uncompressed, entry by entry.
///
/// The order of the entries is the caller's; sorted by [`LayerPath`], with whiteouts before their siblings, it is the
/// order of a layer made here. The tar is whole only after [`finish`](Self::finish).
///
/// A file's entry is followed by its data, with [`data`](Self::data) and [`hole_until`](Self::hole_until), or all at
/// once with [`file`](Self::file). Its holes are written as zeros, because sparse files are not understood everywhere;
/// [`sparse_entry`](Self::sparse_entry) leaves them out.
///
/// ```
/// use plywood::changeset::{Entry, EntryKind, Writer};
/// use plywood::{fs::Metadata, path::LayerPath};
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
///
/// let mut layer = Writer::new(Vec::new());
/// let mode = |mode| Metadata { mode, ..Default::default() };
/// layer.entry(&Entry::new(LayerPath::parse("etc")?, EntryKind::Directory, mode(0o755)))?;
/// layer.entry(&Entry::whiteout(LayerPath::parse("etc/motd")?))?;
/// let hostname = Entry::new(LayerPath::parse("etc/hostname")?, EntryKind::File { size: 4 }, mode(0o644));
/// layer.file(&hostname, &b"box\n"[..])?;
/// let tar = layer.finish()?;
/// assert_eq!(tar.len(), 6 * 512);
/// # Ok(())
/// # }
/// ```
pub struct Writer<W: Write> {
    out: BufWriter<W>,
    reserved_names: bool,
    /// The entry written last, and how far its data has come.
    path: LayerPath,
    size: u64,
    position: u64,
    /// Bytes behind its data that fill up the last block.
    padding: u64,
    /// The data of it that is still to come, if its holes are left out.
    map: Option<std::vec::IntoIter<Extent>>,
}

impl<W: Write> Writer<W> {
    /// Begins a layer in `writer`, which needs no buffer of its own.
    pub fn new(writer: W) -> Self {
        let out = BufWriter::with_capacity(BUFFER, writer);
        Self {
            out,
            reserved_names: false,
            path: LayerPath::ROOT,
            size: 0,
            position: 0,
            padding: 0,
            map: None,
        }
    }

    /// Accepts names that begin with `.wh.` for ordinary entries.
    ///
    /// Whoever reads the tar as a layer takes them for deletions. It is right for a plain tar of a file system, such as
    /// an export.
    #[must_use]
    pub fn allow_reserved_names(mut self) -> Self {
        self.reserved_names = true;
        self
    }

    /// Writes the header of one entry. The data of a file must follow before the next entry.
    ///
    /// # Errors
    ///
    /// [`ChangesetError::ReservedName`] and [`ChangesetError::Unrepresentable`] before anything of the entry was written;
    /// [`ChangesetError::Size`] if data of the file before is missing; [`ChangesetError::Write`].
    pub fn entry(&mut self, entry: &Entry) -> Result<()> {
        self.begin(entry, EntryHeader::of)
    }

    /// Writes the header of a file with holes, of which only `data` is in the tar: GNU's sparse format 1.0, a map in front
    /// of the data. `data` must follow, with [`hole_until`](Self::hole_until) for the rest.
    ///
    /// GNU tar, libarchive and Go's `archive/tar` read this. The image specification advises against it in layers; it is
    /// for files that could hardly be stored otherwise.
    ///
    /// # Errors
    ///
    /// As [`entry`](Self::entry); [`ChangesetError::Unrepresentable`] also if the entry is no file, or `data` is out of
    /// order or outside of it.
    pub fn sparse_entry(&mut self, entry: &Entry, data: &[Extent]) -> Result<()> {
        self.begin(entry, |entry| EntryHeader::of_sparse(entry, data))?;
        let map = sparse::write_map(data, self.size);
        self.write(&map)?;
        self.padding = data.iter().map(|data| data.length).sum::<u64>().wrapping_neg() % BLOCK as u64;
        self.map = Some(Vec::from(data).into_iter());
        Ok(())
    }

    fn begin(&mut self, entry: &Entry, header: impl FnOnce(&Entry) -> Result<EntryHeader>) -> Result<()> {
        self.end_file()?;
        self.check_names(entry)?;
        let header = header(entry)?;
        self.path = entry.path.clone();
        let path = &self.path;
        header.write(&mut self.out).map_err(|source| ChangesetError::Write { path: path.clone(), source })?;
        self.size = entry.kind.size();
        self.padding = self.size.wrapping_neg() % BLOCK as u64;
        Ok(())
    }

    /// Writes the entry of a file and all of its data, of which `content` must have at least as much as the entry says;
    /// more is not looked at.
    ///
    /// # Errors
    ///
    /// Those of [`entry`](Self::entry), [`ChangesetError::Data`] if `content` cannot be read, and
    /// [`ChangesetError::Size`] if it ends early.
    pub fn file(&mut self, entry: &Entry, mut content: impl Read) -> Result<()> {
        self.entry(entry)?;
        let mut buffer = vec![0; BUFFER.min(usize::try_from(self.size).unwrap_or(BUFFER))];
        while self.position < self.size {
            let wanted = buffer.len().min(usize::try_from(self.size - self.position).unwrap_or(usize::MAX));
            match content.read(&mut buffer[..wanted]) {
                Ok(0) => break,
                Ok(count) => self.data(&buffer[..count])?,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(source) => return Err(ChangesetError::Data { path: self.path.clone(), source }),
            }
        }
        self.end_file()
    }

    /// Writes the next data of the current file.
    ///
    /// # Errors
    ///
    /// [`ChangesetError::Size`] if it is more than the entry said; [`ChangesetError::Unrepresentable`] if the map of a
    /// sparse entry has a hole there; [`ChangesetError::Write`].
    pub fn data(&mut self, bytes: &[u8]) -> Result<()> {
        let begin = self.position;
        self.take_room(bytes.len() as u64)?;
        if let Some(map) = &mut self.map {
            let inside = |data: &&Extent| begin >= data.offset && self.position <= data.offset + data.length;
            match map.as_slice().first().filter(inside) {
                Some(data) if self.position == data.offset + data.length => drop(map.next()),
                Some(_) => {}
                None if bytes.is_empty() => {}
                None => return Err(self.off_map()),
            }
        }
        self.write(bytes)
    }

    /// Writes zeros up to `offset` in the current file, or leaves them out if its map says so.
    ///
    /// # Errors
    ///
    /// [`ChangesetError::Size`] if the file is shorter, or longer already; [`ChangesetError::Unrepresentable`] if the map
    /// of a sparse entry has data there; [`ChangesetError::Write`].
    pub fn hole_until(&mut self, offset: u64) -> Result<()> {
        let Some(rest) = offset.checked_sub(self.position) else {
            return Err(self.wrong_size(self.position));
        };
        self.take_room(rest)?;
        match &self.map {
            None => zeros(rest).try_for_each(|zeros| self.write(zeros)),
            Some(map) if rest > 0 && map.as_slice().first().is_some_and(|data| data.offset < offset) => {
                Err(self.off_map())
            }
            Some(_) => Ok(()),
        }
    }

    /// Ends the tar with two blocks of zeros and returns the writer, with everything written to it.
    ///
    /// # Errors
    ///
    /// [`ChangesetError::Size`] if data of the last file is missing; [`ChangesetError::Write`].
    pub fn finish(mut self) -> Result<W> {
        self.end_file()?;
        self.write(&ZERO_BLOCK)?;
        self.write(&ZERO_BLOCK)?;
        let path = self.path;
        self.out.into_inner().map_err(|error| ChangesetError::Write { path, source: error.into_error() })
    }

    fn take_room(&mut self, count: u64) -> Result<()> {
        let end = self.position.saturating_add(count);
        if end > self.size {
            return Err(self.wrong_size(end));
        }
        self.position = end;
        Ok(())
    }

    /// Makes sure that the current file is complete, and fills up its last block.
    fn end_file(&mut self) -> Result<()> {
        if self.position != self.size {
            return Err(self.wrong_size(self.position));
        }
        let padding = std::mem::take(&mut self.padding);
        (self.size, self.position, self.map) = (0, 0, None);
        self.write(&ZERO_BLOCK[..padding as usize])
    }

    fn wrong_size(&self, found: u64) -> ChangesetError {
        ChangesetError::Size { path: self.path.clone(), expected: self.size, found }
    }

    fn off_map(&self) -> ChangesetError {
        let reason = "its content is not where its map says";
        ChangesetError::Unrepresentable { path: self.path.clone(), reason }
    }

    fn write(&mut self, bytes: &[u8]) -> Result<()> {
        let path = &self.path;
        self.out.write_all(bytes).map_err(|source| ChangesetError::Write { path: path.clone(), source })
    }

    /// Refuses names that would come back as something else.
    fn check_names(&self, entry: &Entry) -> Result<()> {
        let is_reserved = |path: &LayerPath| path.components().any(|name| name.starts_with(whiteout::PREFIX));
        let reserved = match &entry.kind {
            // ".wh." before ".wh.x" would be bookkeeping of AUFS, in an export too.
            EntryKind::Whiteout | EntryKind::Opaque => is_reserved(&entry.path),
            EntryKind::HardLink(target) => {
                !self.reserved_names && (is_reserved(&entry.path) || is_reserved(target))
            }
            _ => !self.reserved_names && is_reserved(&entry.path),
        };
        match reserved {
            true => Err(ChangesetError::ReservedName { path: entry.path.clone() }),
            false => Ok(()),
        }
    }
}

impl<W: Write> fmt::Debug for Writer<W> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Writer").field("path", &self.path).finish_non_exhaustive()
    }
}

/// An entry as the tar will say it.
struct EntryHeader {
    typeflag: u8,
    name: Vec<u8>,
    link: Vec<u8>,
    size: u64,
    device: DeviceNumber,
    metadata: Metadata,
    /// Name and size of a file whose holes are left out; the fields above then say what is stored.
    sparse: Option<(Vec<u8>, u64)>,
}

impl EntryHeader {
    fn of(entry: &Entry) -> Result<Self> {
        let refuse = |reason| ChangesetError::Unrepresentable { path: entry.path.clone(), reason };
        let path = entry.path.as_bytes();
        let mut header = Self {
            typeflag: b'0',
            name: path.to_vec(),
            link: Vec::new(),
            size: entry.kind.size(),
            device: DeviceNumber::WHITEOUT,
            metadata: Metadata::default(),
            sparse: None,
        };
        match &entry.kind {
            EntryKind::File { .. } => {}
            EntryKind::Directory => {
                header.typeflag = b'5';
                header.name = [if path.is_empty() { b"." } else { path }, b"/"].concat();
            }
            EntryKind::Symlink(target) => {
                if target.is_empty() || target.contains(&0) {
                    return Err(refuse("a symbolic link cannot have this target"));
                }
                header.typeflag = b'2';
                header.link.clone_from(target);
            }
            EntryKind::HardLink(target) => {
                if target.is_root() {
                    return Err(refuse("the root cannot have a hard link"));
                }
                header.typeflag = b'1';
                header.link = target.as_bytes().to_vec();
            }
            EntryKind::Fifo => header.typeflag = b'6',
            EntryKind::CharDevice(number) => (header.typeflag, header.device) = (b'3', *number),
            EntryKind::BlockDevice(number) => (header.typeflag, header.device) = (b'4', *number),
            EntryKind::Whiteout => {
                let name = entry.path.file_name().filter(|name| is_file_name(name));
                let name = name.ok_or_else(|| refuse("the root cannot be deleted"))?;
                let parent = &path[..path.len() - name.len()];
                header.name = [parent, whiteout::PREFIX, name].concat();
                return Ok(header);
            }
            EntryKind::Opaque => {
                let slash: &[u8] = if path.is_empty() { b"" } else { b"/" };
                header.name = [path, slash, whiteout::OPAQUE].concat();
                return Ok(header);
            }
            EntryKind::AufsLink { .. } => return Err(refuse("it is not part of any layer")),
        }
        if path.is_empty() && header.typeflag != b'5' {
            return Err(refuse("the root is a directory"));
        }
        header.metadata = entry.metadata.clone();
        if header.metadata.xattrs.keys().any(|name| name.is_empty() || name.contains(&0)) {
            return Err(refuse("an extended attribute cannot have this name"));
        }
        if header.metadata.uid == u32::MAX || header.metadata.gid == u32::MAX {
            return Err(refuse("its owner is none"));
        }
        if header.metadata.mtime.nanos > 999_999_999 {
            return Err(refuse("its time has more than a second of nanoseconds"));
        }
        Ok(header)
    }

    /// A file of which only `data` is stored.
    fn of_sparse(entry: &Entry, data: &[Extent]) -> Result<Self> {
        let refuse = |reason| ChangesetError::Unrepresentable { path: entry.path.clone(), reason };
        let EntryKind::File { size } = entry.kind else { return Err(refuse("only a file has holes")) };
        let segments: Vec<_> =
            data.iter().map(|data| Segment { offset: data.offset, len: data.length }).collect();
        let empty = segments.iter().any(|segment| segment.len == 0);
        let stored = segments.iter().fold(0_u64, |sum, segment| sum.saturating_add(segment.len));
        if empty || sparse::check(&segments, size, stored).is_err() {
            return Err(refuse("its map is out of order"));
        }
        let mut header = Self::of(entry)?;
        header.size = stored + sparse::write_map(data, size).len() as u64;
        // Where a reader that does not know the format would put what it takes for the file.
        let last = entry.path.file_name().unwrap_or_default();
        let parent = &header.name[..header.name.len() - last.len()];
        let name = [parent, b"GNUSparseFile.0/", last].concat();
        header.sparse = Some((std::mem::replace(&mut header.name, name), size));
        Ok(header)
    }

    fn write(&self, out: &mut impl Write) -> io::Result<()> {
        let mut pax = PaxWriter::default();
        let mut block = HeaderWriter::new(self.typeflag);

        if let Some((name, size)) = &self.sparse {
            pax.add("GNU.sparse.major", "1");
            pax.add("GNU.sparse.minor", "0");
            pax.add_name("GNU.sparse.name", name);
            pax.add("GNU.sparse.realsize", size.to_string());
        }
        match split_name(&self.name) {
            Some((prefix, name)) => {
                block.text(header::PREFIX, prefix).text(header::NAME, name);
            }
            // The record above says it, and goes before.
            None if self.sparse.is_some() => {
                block.text(header::NAME, &ascii_start(&self.name, header::NAME.len()));
            }
            None => {
                pax.add_name("path", &self.name);
                block.text(header::NAME, &ascii_start(&self.name, header::NAME.len()));
            }
        }
        if is_plain(&self.link) && self.link.len() <= header::LINK.len() {
            block.text(header::LINK, &self.link);
        } else {
            pax.add_name("linkpath", &self.link);
            block.text(header::LINK, &ascii_start(&self.link, header::LINK.len()));
        }

        let mut number = |keyword: &str, field: std::ops::Range<usize>, value: u64| {
            let value = if fits(field.clone(), value) {
                value
            } else {
                pax.add(keyword, value.to_string());
                0
            };
            block.number(field, value);
        };
        let metadata = &self.metadata;
        number("size", header::SIZE, self.size);
        number("uid", header::UID, u64::from(metadata.uid));
        number("gid", header::GID, u64::from(metadata.gid));
        number("SCHILY.devmajor", header::DEV_MAJOR, u64::from(self.device.major));
        number("SCHILY.devminor", header::DEV_MINOR, u64::from(self.device.minor));
        block.number(header::MODE, u64::from(metadata.mode & 0o7777));

        let Timestamp { seconds, nanos } = metadata.mtime;
        let plain = u64::try_from(seconds).ok().filter(|&seconds| fits(header::MTIME, seconds));
        if plain.is_none() || nanos != 0 {
            pax.add_time("mtime", metadata.mtime);
        }
        block.number(header::MTIME, plain.unwrap_or(0));
        for (name, value) in &metadata.xattrs {
            pax.add_xattr(name, value);
        }

        if !pax.is_empty() {
            write_extended(out, &self.name, &pax.finish())?;
        }
        out.write_all(block.finish())
    }
}

/// Writes PAX records as a pseudo-file in front of their entry.
fn write_extended(out: &mut impl Write, name: &[u8], records: &[u8]) -> io::Result<()> {
    let last = name.rsplit(|&byte| byte == b'/').find(|part| !part.is_empty()).unwrap_or_default();
    let name = [b"PaxHeaders.0/", last].concat();
    let mut block = HeaderWriter::new(b'x');
    block
        .text(header::NAME, &ascii_start(&name, header::NAME.len()))
        .number(header::MODE, 0o644)
        .number(header::UID, 0)
        .number(header::GID, 0)
        .number(header::SIZE, records.len() as u64)
        .number(header::MTIME, 0);
    out.write_all(block.finish())?;
    out.write_all(records)?;
    out.write_all(&ZERO_BLOCK[..records.len().wrapping_neg() % BLOCK])
}

/// Splits a name over the two fields of a ustar header, as late as possible; `None` if it needs a record.
fn split_name(name: &[u8]) -> Option<(&[u8], &[u8])> {
    if !is_plain(name) {
        return None;
    }
    if name.len() <= header::NAME.len() {
        return Some((b"", name));
    }
    // The slash at the split is written in neither field; the one that ends a directory's name is no place for it.
    let last = name.len().min(header::PREFIX.len() + 1);
    let slash =
        name[..last].iter().rposition(|&byte| byte == b'/').filter(|&at| at > 0 && at + 1 < name.len());
    let at = slash?;
    let (prefix, rest) = (&name[..at], &name[at + 1..]);
    (rest.len() <= header::NAME.len()).then_some((prefix, rest))
}

/// Whether every reader, of whatever character set, reads this as it is.
fn is_plain(name: &[u8]) -> bool {
    name.iter().all(|byte| matches!(byte, b' '..=b'~'))
}

/// Something for readers that do not know PAX: the beginning of the name in ASCII.
fn ascii_start(name: &[u8], len: usize) -> Vec<u8> {
    name.iter().take(len).map(|&byte| if is_plain(&[byte]) { byte } else { b'_' }).collect()
}
