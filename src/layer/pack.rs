//! [`pack`]: what changed in a writable directory, as the tar of a layer.
//!
//! Equal trees give equal bytes: entries in the order of [`Diff`], the first of several hard links holds the content,
//! nothing of the moment gets in. What is written is what was found: a file that changes its size under our hands is an
//! error, never padded or cut.

use std::fs::File;
use std::io::{self, Write};
use std::os::unix::fs::FileExt;

use crate::changeset::{ChangesetError, Entry, EntryKind, Writer};
use crate::digest::{Algorithm, DiffId, HashingWriter};
use crate::fs::{self, Context, DeviceNumber, Dir, Extent, FileType, Stat, Timestamp, next_extent};
use crate::path::LayerPath;
use crate::stack::Tree;
use crate::stack::marks::Marks;
use crate::stack::object::Object;

use super::diff::{Diff, DiffError, DiffEvent, EntryChange, Selection};
pub use sparse::SparseFiles;

mod sparse;

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
    /// A file became shorter or longer while it was read.
    #[error("{path} changed while it was read: it had {expected} bytes, found {found}")]
    SizeChanged {
        /// The file.
        path: LayerPath,
        /// Its size when the tar came to it.
        expected: u64,
        /// Its size at the end, or how much of it could be read.
        found: u64,
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
            _ => out.object(&entry.path, &entry.object, entry.link_to.as_ref(), || entry.open()),
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

    /// Writes one object, or one more name of the object at `link_to`. Sockets are left out.
    pub(super) fn object(
        &mut self,
        path: &LayerPath,
        object: &Object,
        link_to: Option<&LayerPath>,
        open: impl FnOnce() -> fs::Result<File>,
    ) -> Result<(), PackError> {
        let Some(mut kind) = EntryKind::of(object.file_type.clone()) else { return Ok(()) };
        if let Some(first) = link_to {
            kind = EntryKind::HardLink(first.clone());
        }
        let mut metadata = object.metadata.clone();
        if let Some(latest) = self.options.latest_mtime {
            metadata.mtime = metadata.mtime.min(latest);
        }
        let entry = Entry::new(path.clone(), kind, metadata);
        match entry.kind {
            EntryKind::File { size } => self.file(&entry, &open()?, size),
            _ => self.entry(&entry),
        }
    }

    /// Writes an entry that has no data.
    fn entry(&mut self, entry: &Entry) -> Result<(), PackError> {
        self.out.entry(entry)?;
        self.entries += 1;
        Ok(())
    }

    /// Writes a file. Holes are not read.
    fn file(&mut self, entry: &Entry, file: &File, size: u64) -> Result<(), PackError> {
        let path = &entry.path;
        if let Some(map) = self.options.sparse_files.map(file, size).at("read", path.as_path())? {
            self.out.sparse_entry(entry, &map)?;
            self.entries += 1;
            for data in map {
                self.data(path, file, size, data)?;
            }
        } else {
            self.entry(entry)?;
            let mut position = 0;
            while let Some(data) = next_extent(file, position, size).at("read", path.as_path())? {
                position = data.offset + data.length;
                self.data(path, file, size, data)?;
            }
        }
        self.out.hole_until(size)?;
        match Stat::of(file).at("stat", path.as_path())?.size {
            found if found == size => Ok(()),
            found => Err(PackError::SizeChanged { path: path.clone(), expected: size, found }),
        }
    }

    /// Writes one piece of the content of a file of `size` bytes, and the hole in front of it.
    fn data(&mut self, path: &LayerPath, file: &File, size: u64, data: Extent) -> Result<(), PackError> {
        self.out.hole_until(data.offset)?;
        let end = size.min(data.offset + data.length);
        let mut position = data.offset;
        while position < end {
            let wanted = usize::try_from(end - position).unwrap_or(usize::MAX).min(self.buffer.len());
            match file.read_at(&mut self.buffer[..wanted], position) {
                Ok(0) => {
                    let path = path.clone();
                    return Err(PackError::SizeChanged { path, expected: size, found: position });
                }
                Ok(count) => {
                    self.out.data(&self.buffer[..count])?;
                    position += count as u64;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(fs::Error::new("read", path.as_path(), error).into()),
            }
        }
        Ok(())
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

    #[test]
    fn a_file_that_grows_or_shrinks_under_our_hands_is_an_error_that_names_it() {
        let file = tempfile::tempfile().unwrap();
        file.write_all_at(b"content", 0).unwrap();
        let path = LayerPath::parse("var/log").unwrap();
        // The size as it was seen when the tar came to the file, and as it is now.
        for size in [3, 6, 8, 200_000] {
            let out = Writer::new(HashingWriter::new(Algorithm::Sha256, Vec::new()));
            let mut out = Packer::new(out, &PackOptions::default());
            let entry = Entry::new(path.clone(), EntryKind::File { size }, Metadata::default());
            let error = out.file(&entry, &file, size).unwrap_err();
            let expected = format!("/var/log changed while it was read: it had {size} bytes, found 7");
            assert_eq!(error.to_string(), expected);
        }
    }
}
