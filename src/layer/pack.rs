//! [`pack`]: what changed in a writable directory, as the tar of a layer.
//!
//! Equal trees give equal bytes: entries in the order of [`Diff`], the first of several hard links holds the content,
//! nothing of the moment gets in.
//!
//! The tree may change meanwhile, as the root of a running container does. A file has the bytes that it had when its size
//! was asked; one that vanished is not there; one that was replaced is read anew, so that its metadata and content are of one
//! inode; one that became shorter is read once more (`reading.rs`). If its entry was begun by then, a second one follows, which
//! counts for every reader of tars.

use std::fs::File;
use std::io::{self, Write};
use std::os::unix::fs::FileExt;

use crate::changeset::{ChangesetError, Entry, EntryKind, Writer};
use crate::digest::{Algorithm, DiffId, HashingWriter};
use crate::fs::{self, Context, DeviceNumber, Dir, Extent, FileType, Optional, Stat, Timestamp, next_extent};
use crate::path::LayerPath;
use crate::stack::Tree;
use crate::stack::marks::Marks;
use crate::stack::object::Object;

use super::diff::{Diff, DiffError, DiffEvent, EntryChange, Selection};
use crate::zeros::zeros;
use reading::Length;
pub(super) use reading::{Outcome, Source};
pub use sparse::SparseFiles;

mod reading;
mod sparse;

/// How often a name is looked at whose file is another each time.
const ATTEMPTS: u32 = 16;

/// How a tar is written.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
#[non_exhaustive]
pub struct PackOptions {
    /// Later modification times are written as this one (`SOURCE_DATE_EPOCH`).
    pub latest_mtime: Option<Timestamp>,
    /// Which files are written without their holes.
    pub sparse_files: SparseFiles,
}

impl PackOptions {
    /// Writes later modification times as this one.
    #[must_use]
    pub fn latest_mtime(mut self, mtime: Timestamp) -> Self {
        self.latest_mtime = Some(mtime);
        self
    }

    /// Writes these files without their holes.
    #[must_use]
    pub fn sparse_files(mut self, files: SparseFiles) -> Self {
        self.sparse_files = files;
        self
    }
}

/// A tar that was written.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct Packed {
    /// Digest of the tar.
    pub diff_id: DiffId,
    /// Length of the tar in bytes.
    pub bytes: u64,
    /// Entries in it. Where there are none, nothing changed.
    pub entries: u64,
}

/// Why a tar could not be written. What was written of it is useless.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PackError {
    /// What changed could not be told.
    #[error(transparent)]
    Diff(#[from] DiffError),
    /// An object has no form in a layer, or the tar could not be written.
    #[error(transparent)]
    Changeset(#[from] ChangesetError),
    /// A file became shorter while it was read, and once more when it was read again.
    #[error("{path} changed while it was read: it had {expected} bytes, found {found}")]
    SizeChanged {
        /// The file.
        path: LayerPath,
        /// Its size when the tar came to it.
        expected: u64,
        /// Its size at the end, or how much of it could be read.
        found: u64,
    },
    /// A name led to another file each time that it was looked at.
    #[error("{path} was replaced by another file each time that it was read")]
    Replaced {
        /// The file.
        path: LayerPath,
    },
    /// A device node that would be a deletion in every place where the layer is used.
    #[error("{path} is a character device 0:0, which layers cannot hold: overlayfs takes it for a deletion")]
    WhiteoutDevice {
        /// The node.
        path: LayerPath,
    },
    /// The file system refused one step.
    #[error(transparent)]
    Io(#[from] fs::Error),
}

/// Writes the layer that turns what is below into what the writable directory shows.
///
/// Deletions are whiteouts, never opaque markers. Sockets are left out. A tar without entries means that nothing
/// changed; it is a valid layer nevertheless.
///
/// # Errors
///
/// [`PackError`]; names that begin with `.wh.` are [`ChangesetError::ReservedName`]. What was written is then no layer.
pub fn pack(diff: &Diff<'_>, writer: impl Write, options: &PackOptions) -> Result<Packed, PackError> {
    let mut out = Packer::new(Writer::new(HashingWriter::new(Algorithm::Sha256, writer)), options);
    diff.walk::<PackError>(&mut |event| match event {
        DiffEvent::Deleted(path) => out.entry(&Entry::whiteout(path.clone())),
        DiffEvent::Present(entry) => match &entry.object.file_type {
            FileType::CharDevice(DeviceNumber::WHITEOUT) => {
                Err(PackError::WhiteoutDevice { path: entry.path.clone() })
            }
            // Known only by a record, or it would be a deletion and an addition.
            FileType::Socket if entry.kind == EntryChange::Changed => {
                out.entry(&Entry::whiteout(entry.path.clone()))
            }
            _ => {
                let outcome = out.object(&entry.path, &entry.object, entry.link_to.as_ref(), entry)?;
                if outcome != Outcome::Written {
                    entry.disown();
                }
                match (outcome, entry.kind) {
                    (Outcome::Gone, EntryChange::Changed) => out.entry(&Entry::whiteout(entry.path.clone())),
                    _ => Ok(()),
                }
            }
        },
    })?;
    out.finish()
}

/// Writes the layer that makes an ordinary directory, its root included, out of nothing.
///
/// # Errors
///
/// As [`pack`].
pub fn pack_directory(
    dir: &Dir,
    selection: &Selection,
    writer: impl Write,
    options: &PackOptions,
) -> Result<Packed, PackError> {
    let tree = Tree { dir: dir.try_clone()?, marks: Marks::None, declares_root: true };
    pack(&Diff::of_directory(&tree).with(selection.clone()), writer, options)
}

/// Objects of a file system on their way into a tar.
pub(super) struct Packer<W: Write> {
    out: Writer<HashingWriter<W>>,
    entries: u64,
    options: PackOptions,
    buffer: Vec<u8>,
}

impl<W: Write> Packer<W> {
    pub(super) fn new(out: Writer<HashingWriter<W>>, options: &PackOptions) -> Self {
        Self { out, entries: 0, options: options.clone(), buffer: vec![0; 128 << 10] }
    }

    /// Writes one object, or one more name of the object at `link_to`. Sockets are left out. What changes meanwhile is
    /// read again.
    pub(super) fn object(
        &mut self,
        path: &LayerPath,
        object: &Object,
        link_to: Option<&LayerPath>,
        source: &dyn Source,
    ) -> Result<Outcome, PackError> {
        let mut read: Option<Object> = None;
        let (mut outcome, mut cut) = (Outcome::Written, false);
        for _ in 0..ATTEMPTS {
            let object = read.as_ref().unwrap_or(object);
            let Some(mut kind) = EntryKind::of(object.file_type.clone()) else { return Ok(outcome) };
            if let Some(first) = link_to {
                kind = EntryKind::HardLink(first.clone());
            }
            let mut metadata = object.metadata.clone();
            if let Some(latest) = self.options.latest_mtime {
                metadata.mtime = metadata.mtime.min(latest);
            }
            let mut entry = Entry::new(path.clone(), kind, metadata);
            if !matches!(entry.kind, EntryKind::File { .. }) {
                self.entry(&entry)?;
                return Ok(outcome);
            }
            if let Some((file, has_metadata)) = source.open().fitting()? {
                let stat = Stat::of(&file).at_path("stat", || fs::path_of(&file))?;
                if !has_metadata || stat.is_same_inode(&object.stat) {
                    match self.file(&mut entry, &file, stat.size, cut)? {
                        None => return Ok(outcome),
                        Some((expected, found)) if cut => {
                            return Err(PackError::SizeChanged { path: path.clone(), expected, found });
                        }
                        Some(_) => cut = true,
                    }
                }
            }
            // Whatever it was, the name leads to something else now, or to less: it is looked at anew.
            let Some(anew) = source.read()? else { return Ok(Outcome::Gone) };
            if !anew.stat.is_same_inode(&object.stat) {
                outcome = Outcome::Replaced;
            }
            read = Some(anew);
        }
        Err(PackError::Replaced { path: path.clone() })
    }

    /// Writes an entry that has no data.
    fn entry(&mut self, entry: &Entry) -> Result<(), PackError> {
        self.out.entry(entry)?;
        self.entries += 1;
        Ok(())
    }

    /// Writes a file that says it has `told` bytes; or, if it was `cut` before, as many as can be read. Holes are not read.
    /// Returns what it had and what it has if it became shorter: the entry is useless then, and is filled up if it was begun,
    /// so that another of the same name can follow.
    fn file(
        &mut self,
        entry: &mut Entry,
        file: &File,
        told: u64,
        cut: bool,
    ) -> Result<Option<(u64, u64)>, PackError> {
        let mut size = if cut { reading::count(file, told, &mut self.buffer)? } else { told };
        let map = self.options.sparse_files.map(file, size).at_path("read", || fs::path_of(file))?;
        if map.is_none() && size <= self.buffer.len() as u64 {
            match reading::read_small(file, size, &mut self.buffer)? {
                Length::Known(length) => {
                    entry.kind = EntryKind::File { size: length };
                    self.entry(entry)?;
                    // No longer than the buffer.
                    self.out.data(&self.buffer[..length as usize])?;
                    return Ok(None);
                }
                Length::Short(expected, found) => return Ok(Some((expected, found))),
                Length::Unknown => size = reading::count(file, 0, &mut self.buffer)?,
            }
        }
        entry.kind = EntryKind::File { size };
        let mut short = None;
        if let Some(map) = map {
            self.out.sparse_entry(entry, &map)?;
            self.entries += 1;
            for data in map {
                short = self.data(file, size, data)?.or(short);
            }
        } else {
            self.entry(entry)?;
            let mut position = 0;
            // A file of procfs says that it has no data anywhere.
            let end = if told == 0 { 0 } else { size };
            while let Some(data) = next_extent(file, position, end).at_path("read", || fs::path_of(file))? {
                position = data.offset + data.length;
                short = self.data(file, size, data)?.or(short);
            }
            if told == 0 {
                short = self.data(file, size, Extent { offset: 0, length: size })?;
            }
        }
        self.out.hole_until(size)?;
        if short.is_none() && told > 0 {
            // A hole may be where nothing is any more.
            let now = Stat::of(file).at_path("stat", || fs::path_of(file))?.size;
            short = (now < size).then_some(now);
        }
        Ok(short.map(|found| (size, found)))
    }

    /// Writes one piece of the content of a file of `size` bytes, and the hole in front of it. Returns where the file ends if
    /// that is inside the piece, of which the rest is zeros then.
    fn data(&mut self, file: &File, size: u64, data: Extent) -> Result<Option<u64>, PackError> {
        self.out.hole_until(data.offset)?;
        let end = size.min(data.offset + data.length);
        let mut position = data.offset;
        while position < end {
            let wanted = usize::try_from(end - position).unwrap_or(usize::MAX).min(self.buffer.len());
            match file.read_at(&mut self.buffer[..wanted], position) {
                Ok(0) => {
                    for zeros in zeros(end - position) {
                        self.out.data(zeros)?;
                    }
                    return Ok(Some(position));
                }
                Ok(count) => {
                    self.out.data(&self.buffer[..count])?;
                    position += count as u64;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(fs::Error::new("read", fs::path_of(file), error).into()),
            }
        }
        Ok(None)
    }

    pub(super) fn finish(self) -> Result<Packed, PackError> {
        let (_, digest, bytes) = self.out.finish()?.finish();
        Ok(Packed { diff_id: DiffId::of_tar(digest), bytes, entries: self.entries })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fs::Metadata;

    /// A file whose size is another each time that it is read.
    struct Changing<'a> {
        file: &'a File,
        sizes: std::cell::RefCell<Vec<u64>>,
    }

    impl Source for Changing<'_> {
        fn read(&self) -> Result<Option<Object>, DiffError> {
            Ok(Some(object(self.file)))
        }

        fn open(&self) -> fs::Result<(File, bool)> {
            Ok((self.file.try_clone().unwrap(), true))
        }
    }

    /// Passes on what is written, and gives the file another size before that.
    struct Meanwhile<'a, 'f> {
        changing: &'a Changing<'f>,
        out: &'a mut Vec<u8>,
    }

    impl Write for Meanwhile<'_, '_> {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            let mut sizes = self.changing.sizes.borrow_mut();
            if !sizes.is_empty() {
                self.changing.file.set_len(sizes.remove(0))?;
            }
            self.out.write(bytes)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn object(file: &File) -> Object {
        let stat = Stat::of(file).unwrap();
        Object { file_type: FileType::File { size: stat.size }, metadata: Metadata::default(), stat }
    }

    /// The sizes of the entries of a file that has these sizes one after the other.
    fn sizes(first: u64, then: &[u64], options: &PackOptions) -> Result<Vec<u64>, String> {
        let file = tempfile::tempfile_in(".").unwrap();
        file.write_all_at(&vec![7; usize::try_from(first).unwrap()], 0).unwrap();
        let changing = Changing { file: &file, sizes: then.to_vec().into() };
        let mut tar = Vec::new();
        let out = Meanwhile { changing: &changing, out: &mut tar };
        let mut out = Packer::new(Writer::new(HashingWriter::new(Algorithm::Sha256, out)), options);
        let path = LayerPath::parse("var/log").unwrap();
        out.object(&path, &object(&file), None, &changing).map_err(|error| error.to_string())?;
        out.finish().unwrap();
        let limits = crate::limits::Limits::default();
        let mut reader = crate::changeset::Reader::new(&tar[..], &limits);
        let mut sizes = Vec::new();
        while let Some(entry) = reader.next_entry().unwrap() {
            assert_eq!(entry.path, path);
            sizes.push(entry.kind.size());
        }
        Ok(sizes)
    }

    #[test]
    fn a_file_that_grows_has_the_bytes_that_it_had() {
        let plain = PackOptions::default();
        for size in [0, 1, 1000, 1 << 20] {
            assert_eq!(sizes(size, &[9 << 20], &plain), Ok(vec![size]));
        }
    }

    #[test]
    fn a_file_that_shrinks_is_read_once_more_and_then_an_error_that_names_it() {
        for options in [PackOptions::default(), PackOptions::default().sparse_files(SparseFiles::ALWAYS)] {
            // The second entry is the one that counts.
            assert_eq!(sizes(2 << 20, &[1 << 20], &options), Ok(vec![2 << 20, 1 << 20]));
            assert_eq!(sizes(2 << 20, &[100], &options), Ok(vec![2 << 20, 100]));
            assert_eq!(sizes(2 << 20, &[0], &options), Ok(vec![2 << 20, 0]));
            let cuts: Vec<u64> = (1..100).map(|cut| (2 << 20) - cut * 10_000).collect();
            let error = sizes(2 << 20, &cuts, &options).unwrap_err();
            assert!(error.starts_with("/var/log changed while it was read: it had "), "{error}");
        }
    }

    #[test]
    fn a_sparse_file_that_shrinks_is_read_once_more() {
        let options = PackOptions::default().sparse_files(SparseFiles::ALWAYS);
        let file = tempfile::tempfile_in(".").unwrap();
        file.write_all_at(&vec![7; 1 << 20], 0).unwrap();
        file.write_all_at(&vec![7; 1 << 20], 8 << 20).unwrap();
        let changing = Changing { file: &file, sizes: vec![8 << 20].into() };
        let mut tar = Vec::new();
        let out = Meanwhile { changing: &changing, out: &mut tar };
        let mut out = Packer::new(Writer::new(HashingWriter::new(Algorithm::Sha256, out)), &options);
        let path = LayerPath::parse("var/log").unwrap();
        out.object(&path, &object(&file), None, &changing).unwrap();
        out.finish().unwrap();
        let limits = crate::limits::Limits::default();
        let mut reader = crate::changeset::Reader::new(&tar[..], &limits);
        let mut sizes = Vec::new();
        while let Some(entry) = reader.next_entry().unwrap() {
            sizes.push(entry.kind.size());
        }
        assert_eq!(sizes, [9 << 20, 8 << 20]);
    }

    #[test]
    fn metadata_and_content_are_of_one_inode_though_the_name_leads_to_another_meanwhile() {
        struct Swapped(File);
        impl Source for Swapped {
            fn read(&self) -> Result<Option<Object>, DiffError> {
                Ok(Some(object(&self.0)))
            }
            fn open(&self) -> fs::Result<(File, bool)> {
                Ok((self.0.try_clone().unwrap(), true))
            }
        }
        let (file, other) = (tempfile::tempfile_in(".").unwrap(), tempfile::tempfile_in(".").unwrap());
        other.write_all_at(b"another user's", 0).unwrap();
        let mut seen = object(&file);
        (seen.metadata.mode, seen.metadata.uid) = (0o4755, 0);
        let mut tar = Vec::new();
        let out = Writer::new(HashingWriter::new(Algorithm::Sha256, &mut tar));
        let mut out = Packer::new(out, &PackOptions::default());
        let path = LayerPath::parse("bin/su").unwrap();
        let outcome = out.object(&path, &seen, None, &Swapped(other)).unwrap();
        assert_eq!(outcome, Outcome::Replaced);
        out.finish().unwrap();
        let limits = crate::limits::Limits::default();
        let mut reader = crate::changeset::Reader::new(&tar[..], &limits);
        let entry = reader.next_entry().unwrap().unwrap();
        assert_eq!((entry.metadata.mode, entry.kind.size()), (0, 14));
        assert!(reader.next_entry().unwrap().is_none());
    }

    #[test]
    fn what_says_no_size_or_a_false_one_is_read_to_its_end() {
        let paths = [
            "/proc/version",
            "/proc/kallsyms",
            "/proc/self/mountinfo",
            "/sys/kernel/mm/transparent_hugepage/enabled",
        ];
        for path in paths {
            let Ok(expected) = std::fs::read(path) else { continue };
            let file = File::open(path).unwrap();
            let changing = Changing { file: &file, sizes: Vec::new().into() };
            let mut tar = Vec::new();
            let mut out = Packer::new(
                Writer::new(HashingWriter::new(Algorithm::Sha256, &mut tar)),
                &PackOptions::default(),
            );
            let name = LayerPath::parse("file").unwrap();
            out.object(&name, &object(&file), None, &changing).unwrap();
            out.finish().unwrap();
            let limits = crate::limits::Limits::default();
            let mut reader = crate::changeset::Reader::new(&tar[..], &limits);
            assert_eq!(reader.next_entry().unwrap().unwrap().kind.size(), expected.len() as u64, "{path}");
            let mut found = Vec::new();
            while let Some(data) = reader.next_data().unwrap() {
                found.extend_from_slice(data.bytes);
            }
            assert!(found == expected, "{path}");
        }
    }
}
