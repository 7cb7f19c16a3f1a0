//! Layer tars made byte for byte: [`tar()`] and what can be chained to it.
//!
//! The builder keeps both the bytes and the list of [`Entry`]s, so that [`super::model`] can say what they mean
//! without a tar reader. Nothing is checked: names, sizes and types that no honest writer would produce are what it is for.

use std::collections::BTreeMap;

/// When the entries of a test were last changed, unless it says otherwise: a whole second, long ago.
pub const MTIME: i64 = 1_700_000_000;

/// One member of a tar, as the test means it.
#[derive(Clone, PartialEq, Eq)]
pub struct Entry {
    /// The name as it stands in the archive.
    pub name: Vec<u8>,
    pub kind: Kind,
    pub mode: u32,
    pub uid: u64,
    pub gid: u64,
    /// Seconds (rounded down) and nanoseconds.
    pub mtime: (i64, u32),
    pub xattrs: BTreeMap<Vec<u8>, Vec<u8>>,
    pub dialect: Dialect,
    /// More records for the entry's PAX header, after those that the fields need.
    pub records: Vec<(Vec<u8>, Vec<u8>)>,
}

/// One line, so that a list of layers that a property test came upon can be read.
impl std::fmt::Debug for Entry {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let text = |bytes: &[u8]| bytes.escape_ascii().to_string();
        write!(f, "\"{}\" ", text(&self.name))?;
        match &self.kind {
            Kind::File(content) => write!(f, "File({})", text(content))?,
            Kind::Symlink(target) => write!(f, "Symlink({})", text(target))?,
            Kind::Link(target) => write!(f, "Link({})", text(target))?,
            other => write!(f, "{other:?}")?,
        }
        write!(f, " {:04o} {}:{} {}.{:09}", self.mode, self.uid, self.gid, self.mtime.0, self.mtime.1)?;
        for (key, value) in self.xattrs.iter().chain(self.records.iter().map(|(key, value)| (key, value))) {
            write!(f, " {}={}", text(key), text(value))?;
        }
        Ok(())
    }
}

/// What an entry is.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Kind {
    File(Vec<u8>),
    Directory,
    Symlink(Vec<u8>),
    /// Another name for an entry; the target as it stands in the archive.
    Link(Vec<u8>),
    Fifo,
    Char(u32, u32),
    Block(u32, u32),
    /// A file with holes: its size and the pieces of data, by offset.
    Sparse(u64, Vec<(u64, Vec<u8>)>, SparseDialect),
    /// Any type flag with any body.
    Other(u8, Vec<u8>),
}

/// How the header is written. What does not fit is cut off, except in [`Dialect::Pax`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Dialect {
    /// 1979: names of 100 bytes, no device numbers.
    V7,
    /// POSIX.1-1988: a prefix field for names of up to 255 bytes.
    Ustar,
    /// GNU: `L` and `K` entries for long names, base-256 for large numbers.
    Gnu,
    /// POSIX.1-2001: a ustar header, and an `x` header in front where something does not fit.
    Pax,
}

/// The four ways of writing a file with holes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum SparseDialect {
    /// GNU type `S`: the map in the header and in extension blocks.
    Gnu,
    /// `GNU.sparse.offset` and `.numbytes`, repeated.
    Pax00,
    /// `GNU.sparse.map`.
    Pax01,
    /// The map in front of the data.
    Pax10,
}

/// A tar in the making.
#[derive(Clone, Debug)]
pub struct Tar {
    bytes: Vec<u8>,
    entries: Vec<Entry>,
    /// The last entry is written when the next one begins, so that [`Tar::mode`] and its like can still change it.
    pending: Option<Entry>,
    dialect: Dialect,
}

/// An empty tar.
pub fn tar() -> Tar {
    Tar { bytes: Vec::new(), entries: Vec::new(), pending: None, dialect: Dialect::Pax }
}

impl Tar {
    /// Appends an entry as it is.
    #[must_use]
    pub fn entry(mut self, entry: Entry) -> Self {
        self.flush();
        self.pending = Some(entry);
        self
    }

    fn add(self, name: impl AsRef<[u8]>, mode: u32, kind: Kind) -> Self {
        let dialect = self.dialect;
        self.entry(Entry {
            name: name.as_ref().to_vec(),
            kind,
            mode,
            uid: 0,
            gid: 0,
            mtime: (MTIME, 0),
            xattrs: BTreeMap::new(),
            dialect,
            records: Vec::new(),
        })
    }

    /// A regular file, 0644.
    #[must_use]
    pub fn file(self, name: impl AsRef<[u8]>, content: impl AsRef<[u8]>) -> Self {
        self.add(name, 0o644, Kind::File(content.as_ref().to_vec()))
    }

    /// A directory, 0755. The name is written as given, with or without a slash at the end.
    #[must_use]
    pub fn dir(self, name: impl AsRef<[u8]>) -> Self {
        self.add(name, 0o755, Kind::Directory)
    }

    /// A symbolic link.
    #[must_use]
    pub fn symlink(self, name: impl AsRef<[u8]>, target: impl AsRef<[u8]>) -> Self {
        self.add(name, 0o777, Kind::Symlink(target.as_ref().to_vec()))
    }

    /// A hard link to the entry called `target`.
    #[must_use]
    pub fn link(self, name: impl AsRef<[u8]>, target: impl AsRef<[u8]>) -> Self {
        self.add(name, 0o644, Kind::Link(target.as_ref().to_vec()))
    }

    /// A named pipe, 0644.
    #[must_use]
    pub fn fifo(self, name: impl AsRef<[u8]>) -> Self {
        self.add(name, 0o644, Kind::Fifo)
    }

    /// A character device, 0644.
    #[must_use]
    pub fn char_device(self, name: impl AsRef<[u8]>, major: u32, minor: u32) -> Self {
        self.add(name, 0o644, Kind::Char(major, minor))
    }

    /// A block device, 0644.
    #[must_use]
    pub fn block_device(self, name: impl AsRef<[u8]>, major: u32, minor: u32) -> Self {
        self.add(name, 0o644, Kind::Block(major, minor))
    }

    /// A file of `size` bytes that has data only at these offsets. Offsets are in order and do not overlap.
    #[must_use]
    pub fn sparse(
        self,
        name: impl AsRef<[u8]>,
        size: u64,
        data: &[(u64, &[u8])],
        dialect: SparseDialect,
    ) -> Self {
        let data = data.iter().map(|&(offset, bytes)| (offset, bytes.to_vec())).collect();
        self.add(name, 0o644, Kind::Sparse(size, data, dialect))
    }

    /// An entry of any type.
    #[must_use]
    pub fn other(self, name: impl AsRef<[u8]>, flag: u8, body: impl AsRef<[u8]>) -> Self {
        self.add(name, 0o644, Kind::Other(flag, body.as_ref().to_vec()))
    }

    /// The mark that `name` below is deleted: `etc/passwd` becomes `etc/.wh.passwd`.
    #[must_use]
    pub fn whiteout(self, name: impl AsRef<[u8]>) -> Self {
        let name = name.as_ref();
        let base = name.iter().rposition(|&byte| byte == b'/').map_or(0, |slash| slash + 1);
        self.file([&name[..base], b".wh.", &name[base..]].concat(), "")
    }

    /// The mark that everything below the directory `name` is deleted; an empty name is the root.
    #[must_use]
    pub fn opaque(self, name: impl AsRef<[u8]>) -> Self {
        let name = name.as_ref();
        let slash: &[u8] = if name.is_empty() || name.ends_with(b"/") { b"" } else { b"/" };
        self.file([name, slash, b".wh..wh..opq"].concat(), "")
    }

    /// Permission bits of the last entry.
    #[must_use]
    pub fn mode(mut self, mode: u32) -> Self {
        self.last().mode = mode;
        self
    }

    /// User and group of the last entry.
    #[must_use]
    pub fn owner(mut self, uid: u64, gid: u64) -> Self {
        (self.last().uid, self.last().gid) = (uid, gid);
        self
    }

    /// Modification time of the last entry: seconds rounded down, and nanoseconds.
    #[must_use]
    pub fn mtime(mut self, seconds: i64, nanos: u32) -> Self {
        self.last().mtime = (seconds, nanos);
        self
    }

    /// An extended attribute of the last entry.
    #[must_use]
    pub fn xattr(mut self, name: impl AsRef<[u8]>, value: impl AsRef<[u8]>) -> Self {
        self.last().xattrs.insert(name.as_ref().to_vec(), value.as_ref().to_vec());
        self
    }

    /// One more record in the PAX header of the last entry.
    #[must_use]
    pub fn record(mut self, key: impl AsRef<[u8]>, value: impl AsRef<[u8]>) -> Self {
        self.last().records.push((key.as_ref().to_vec(), value.as_ref().to_vec()));
        self
    }

    /// The dialect of all entries that follow.
    #[must_use]
    pub fn dialect(mut self, dialect: Dialect) -> Self {
        self.dialect = dialect;
        self
    }

    /// A PAX global header.
    #[must_use]
    pub fn global(mut self, records: &[(&str, &str)]) -> Self {
        self.flush();
        let body: Vec<u8> =
            records.iter().flat_map(|(key, value)| pax_record(key.as_bytes(), value.as_bytes())).collect();
        self.bytes.extend(header(b"pax_global_header", b'g', body.len() as u64));
        append_body(&mut self.bytes, &body);
        self
    }

    /// Bytes as they are: a damaged header, half an entry, padding.
    #[must_use]
    pub fn raw(mut self, bytes: impl AsRef<[u8]>) -> Self {
        self.flush();
        self.bytes.extend_from_slice(bytes.as_ref());
        self
    }

    /// The archive with its two zero blocks at the end.
    pub fn finish(self) -> Vec<u8> {
        let mut bytes = self.unfinished();
        bytes.resize(bytes.len() + 1024, 0);
        bytes
    }

    /// The archive without an end.
    pub fn unfinished(mut self) -> Vec<u8> {
        self.flush();
        self.bytes
    }

    /// All entries so far, in their order.
    pub fn entries(&self) -> Vec<Entry> {
        self.entries.iter().chain(&self.pending).cloned().collect()
    }

    fn last(&mut self) -> &mut Entry {
        self.pending.as_mut().expect("there is an entry to change")
    }

    fn flush(&mut self) {
        if let Some(entry) = self.pending.take() {
            write_entry(&mut self.bytes, &entry);
            self.entries.push(entry);
        }
    }
}

/// A tar of these entries.
pub fn tar_of(entries: &[Entry]) -> Vec<u8> {
    entries.iter().cloned().fold(tar(), Tar::entry).finish()
}

/// A ustar header with a right checksum and nothing but a name, a type flag and a size.
pub fn header(name: &[u8], flag: u8, size: u64) -> [u8; 512] {
    let mut block = [0; 512];
    put(&mut block[..100], name);
    octal(&mut block[100..108], 0o644);
    octal(&mut block[108..116], 0);
    octal(&mut block[116..124], 0);
    octal(&mut block[124..136], size);
    octal(&mut block[136..148], 0);
    block[156] = flag;
    block[257..265].copy_from_slice(b"ustar\x0000");
    seal(&mut block);
    block
}

/// Writes the checksum of a header that was changed by hand.
pub fn seal(block: &mut [u8; 512]) {
    block[148..156].fill(b' ');
    let sum: u64 = block.iter().map(|&byte| u64::from(byte)).sum();
    block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
}

/// `LENGTH KEY=VALUE\n`, where the length counts itself.
pub fn pax_record(key: &[u8], value: &[u8]) -> Vec<u8> {
    let rest = key.len() + value.len() + 3;
    let mut length = rest + 1;
    while length != rest + length.to_string().len() {
        length = rest + length.to_string().len();
    }
    [length.to_string().as_bytes(), b" ", key, b"=", value, b"\n"].concat()
}

fn write_entry(bytes: &mut Vec<u8>, entry: &Entry) {
    let mut records: Vec<(Vec<u8>, Vec<u8>)> = Vec::new();
    let mut name = entry.name.clone();
    let mut link: &[u8] = b"";
    let mut body = Vec::new();
    let mut device = (0, 0);
    let mut sparse = None;
    let flag = match &entry.kind {
        Kind::File(content) => {
            body.clone_from(content);
            if entry.dialect == Dialect::V7 { 0 } else { b'0' }
        }
        Kind::Directory => b'5',
        Kind::Symlink(target) => {
            link = target;
            b'2'
        }
        Kind::Link(target) => {
            link = target;
            b'1'
        }
        Kind::Fifo => b'6',
        Kind::Char(major, minor) => {
            device = (*major, *minor);
            b'3'
        }
        Kind::Block(major, minor) => {
            device = (*major, *minor);
            b'4'
        }
        Kind::Other(flag, content) => {
            body.clone_from(content);
            *flag
        }
        Kind::Sparse(size, data, dialect) => {
            body = sparse_body(*size, data, *dialect, &entry.name, &mut records, &mut name);
            sparse = (*dialect == SparseDialect::Gnu).then_some((*size, data));
            if sparse.is_some() { b'S' } else { b'0' }
        }
    };

    let (short_name, prefix) = match entry.dialect {
        Dialect::Ustar => split_name(&name),
        _ => (&name[..name.len().min(100)], &b""[..]),
    };
    match entry.dialect {
        Dialect::V7 | Dialect::Ustar => {}
        Dialect::Gnu => {
            for (flag, text) in [(b'K', link), (b'L', &name)] {
                if text.len() > 100 {
                    bytes.extend(header(b"././@LongLink", flag, text.len() as u64 + 1));
                    append_body(bytes, &[text, b"\0"].concat());
                }
            }
        }
        Dialect::Pax => {
            if name.len() > 100 {
                records.push((b"path".to_vec(), name.clone()));
            }
            if link.len() > 100 {
                records.push((b"linkpath".to_vec(), link.to_vec()));
            }
            for (key, id) in [(&b"uid"[..], entry.uid), (b"gid", entry.gid)] {
                if id > 0o7_777_777 {
                    records.push((key.to_vec(), id.to_string().into_bytes()));
                }
            }
            if body.len() as u64 > 0o77_777_777_777 {
                records.push((b"size".to_vec(), body.len().to_string().into_bytes()));
            }
            if entry.mtime.0 < 0 || entry.mtime.0 > 0o77_777_777_777 || entry.mtime.1 != 0 {
                records.push((b"mtime".to_vec(), pax_time(entry.mtime)));
            }
        }
    }
    records.extend(
        entry.xattrs.iter().map(|(key, value)| ([b"SCHILY.xattr.", key.as_slice()].concat(), value.clone())),
    );
    records.extend(entry.records.iter().cloned());
    if !records.is_empty() {
        let content: Vec<u8> = records.iter().flat_map(|(key, value)| pax_record(key, value)).collect();
        bytes.extend(header(b"PaxHeaders/x", b'x', content.len() as u64));
        append_body(bytes, &content);
    }

    let mut block = [0; 512];
    put(&mut block[..100], short_name);
    let gnu = entry.dialect == Dialect::Gnu;
    number(&mut block[100..108], u64::from(entry.mode), gnu);
    number(&mut block[108..116], entry.uid, gnu);
    number(&mut block[116..124], entry.gid, gnu);
    number(&mut block[124..136], body.len() as u64, gnu);
    if gnu && (entry.mtime.0 < 0 || entry.mtime.0 > 0o77_777_777_777) {
        block[136..140].fill(if entry.mtime.0 < 0 { 0xff } else { 0 });
        block[140..148].copy_from_slice(&entry.mtime.0.to_be_bytes());
        block[136] |= 0x80;
    } else {
        octal(&mut block[136..148], u64::try_from(entry.mtime.0).unwrap_or(0));
    }
    block[156] = flag;
    put(&mut block[157..257], &link[..link.len().min(100)]);
    match entry.dialect {
        Dialect::V7 => {}
        Dialect::Ustar | Dialect::Pax => {
            block[257..265].copy_from_slice(b"ustar\x0000");
            put(&mut block[345..500], prefix);
        }
        Dialect::Gnu => block[257..265].copy_from_slice(b"ustar  \0"),
    }
    if entry.dialect != Dialect::V7 {
        number(&mut block[329..337], u64::from(device.0), gnu);
        number(&mut block[337..345], u64::from(device.1), gnu);
    }
    let extensions = sparse.map(|(size, data)| gnu_sparse_map(&mut block, size, data)).unwrap_or_default();
    seal(&mut block);
    bytes.extend(block);
    bytes.extend(extensions);
    append_body(bytes, &body);
}

/// The stored body of a file with holes; its PAX records and its stand-in name where the dialect has such.
fn sparse_body(
    size: u64,
    data: &[(u64, Vec<u8>)],
    dialect: SparseDialect,
    real_name: &[u8],
    records: &mut Vec<(Vec<u8>, Vec<u8>)>,
    name: &mut Vec<u8>,
) -> Vec<u8> {
    let content: Vec<u8> = data.iter().flat_map(|(_, bytes)| bytes.clone()).collect();
    let map: Vec<(u64, u64)> =
        data.iter().map(|(offset, bytes)| (*offset, bytes.len() as u64)).chain([(size, 0)]).collect();
    let mut record = |key: &str, value: Vec<u8>| records.push((key.into(), value));
    match dialect {
        SparseDialect::Gnu => content,
        SparseDialect::Pax00 => {
            record("GNU.sparse.size", size.to_string().into());
            record("GNU.sparse.numblocks", map.len().to_string().into());
            for (offset, length) in &map {
                record("GNU.sparse.offset", offset.to_string().into());
                record("GNU.sparse.numbytes", length.to_string().into());
            }
            content
        }
        SparseDialect::Pax01 => {
            record("GNU.sparse.size", size.to_string().into());
            record("GNU.sparse.numblocks", map.len().to_string().into());
            record("GNU.sparse.name", real_name.to_vec());
            let list: Vec<_> = map.iter().map(|(offset, length)| format!("{offset},{length}")).collect();
            record("GNU.sparse.map", list.join(",").into());
            *name = b"GNUSparseFile.0/stand-in".to_vec();
            content
        }
        SparseDialect::Pax10 => {
            record("GNU.sparse.major", "1".into());
            record("GNU.sparse.minor", "0".into());
            record("GNU.sparse.name", real_name.to_vec());
            record("GNU.sparse.realsize", size.to_string().into());
            *name = b"GNUSparseFile.0/stand-in".to_vec();
            let mut body = format!("{}\n", map.len()).into_bytes();
            for (offset, length) in &map {
                body.extend(format!("{offset}\n{length}\n").into_bytes());
            }
            body.resize(body.len().next_multiple_of(512), 0);
            body.extend(content);
            body
        }
    }
}

/// Puts the map into an old GNU header, and gives the extension blocks that hold the rest of it.
fn gnu_sparse_map(block: &mut [u8; 512], size: u64, data: &[(u64, Vec<u8>)]) -> Vec<u8> {
    let map: Vec<(u64, u64)> =
        data.iter().map(|(offset, bytes)| (*offset, bytes.len() as u64)).chain([(size, 0)]).collect();
    let fill = |target: &mut [u8], pieces: &[(u64, u64)]| {
        for (slot, &(offset, length)) in target.chunks_exact_mut(24).zip(pieces) {
            octal(&mut slot[..12], offset);
            octal(&mut slot[12..], length);
        }
    };
    let (first, rest) = map.split_at(map.len().min(4));
    block[257..265].copy_from_slice(b"ustar  \0");
    block[345..512].fill(0);
    fill(&mut block[386..482], first);
    block[482] = u8::from(!rest.is_empty());
    octal(&mut block[483..495], size);
    let mut extensions = Vec::new();
    for (index, pieces) in rest.chunks(21).enumerate() {
        let mut extension = [0; 512];
        fill(&mut extension[..504], pieces);
        extension[504] = u8::from((index + 1) * 21 < rest.len());
        extensions.extend(extension);
    }
    extensions
}

/// Name and prefix fields of a ustar header.
fn split_name(name: &[u8]) -> (&[u8], &[u8]) {
    if name.len() <= 100 {
        return (name, b"");
    }
    let cut = (name.len() - 101..name.len().min(156)).find(|&at| name[at] == b'/' && at > 0);
    cut.map_or((&name[..100], b""), |at| (&name[at + 1..], &name[..at]))
}

/// Seconds with a fraction, as PAX writes them: the sign belongs to the whole number.
fn pax_time((seconds, nanos): (i64, u32)) -> Vec<u8> {
    let total = i128::from(seconds) * 1_000_000_000 + i128::from(nanos);
    let sign = if total < 0 { "-" } else { "" };
    let (whole, fraction) = (total.unsigned_abs() / 1_000_000_000, total.unsigned_abs() % 1_000_000_000);
    let text = if fraction == 0 { format!("{sign}{whole}") } else { format!("{sign}{whole}.{fraction:09}") };
    text.into_bytes()
}

fn append_body(bytes: &mut Vec<u8>, body: &[u8]) {
    bytes.extend_from_slice(body);
    bytes.resize(bytes.len().next_multiple_of(512), 0);
}

fn put(field: &mut [u8], text: &[u8]) {
    let length = text.len().min(field.len());
    field[..length].copy_from_slice(&text[..length]);
}

/// Octal digits and a NUL; the highest digits are lost if they do not fit.
fn octal(field: &mut [u8], value: u64) {
    let digits = field.len() - 1;
    let text = format!("{value:0digits$o}");
    field[..digits].copy_from_slice(&text.as_bytes()[text.len() - digits..]);
    field[digits] = 0;
}

/// Octal, or base 256 where that is allowed and needed.
fn number(field: &mut [u8], value: u64, base256: bool) {
    let digits = u32::try_from(field.len() - 1).unwrap();
    if !base256 || value < 8u64.saturating_pow(digits) {
        return octal(field, value);
    }
    let wide = u128::from(value).to_be_bytes();
    let length = field.len();
    field.copy_from_slice(&wide[16 - length..]);
    field[0] |= 0x80;
}
