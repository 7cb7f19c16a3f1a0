//! Copying one file's content by the cheapest means that the two file systems share: a reflink, a copy inside the
//! kernel, or reading and writing. Holes stay holes.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use rustix::fs::{self as sys, SeekFrom};
use rustix::io::Errno;

/// One piece of a file that holds data; what lies between pieces is a hole.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Extent {
    /// Where it begins, in bytes.
    pub offset: u64,
    /// How long it is, in bytes.
    pub length: u64,
}

/// Finds the next data at or behind `from` in a file of `size` bytes; `None` if only a hole follows. A file system that
/// cannot tell has no holes.
///
/// # Errors
///
/// What the kernel says.
pub fn next_extent(file: &File, from: u64, size: u64) -> io::Result<Option<Extent>> {
    if from >= size {
        return Ok(None);
    }
    let offset = match sys::seek(file, SeekFrom::Data(from)) {
        Ok(offset) if offset >= size => return Ok(None),
        Ok(offset) => offset,
        Err(Errno::NXIO) => return Ok(None),
        Err(Errno::INVAL | Errno::OPNOTSUPP) => {
            return Ok(Some(Extent { offset: from, length: size - from }));
        }
        Err(error) => return Err(error.into()),
    };
    let end = sys::seek(file, SeekFrom::Hole(offset))?.min(size);
    // A file that changes meanwhile may report an end before its beginning; never stand still.
    Ok(Some(Extent { offset, length: end.saturating_sub(offset).max(1) }))
}

/// Copies the content of `from`, `size` bytes long, into the empty file `to`.
///
/// # Errors
///
/// What the kernel says; `to` then holds a part. [`io::ErrorKind::UnexpectedEof`] if `from` became shorter meanwhile.
pub fn copy_content(from: &File, to: &File, size: u64) -> io::Result<()> {
    if size == 0 {
        return Ok(());
    }
    match sys::ioctl_ficlone(to, from) {
        Ok(()) => return Ok(()),
        // Every one of these means "not these two files".
        Err(Errno::OPNOTSUPP | Errno::NOTTY | Errno::XDEV | Errno::INVAL | Errno::NOSYS | Errno::PERM) => {}
        Err(error) => return Err(error.into()),
    }
    to.set_len(size)?;
    let mut position = 0;
    while let Some(extent) = next_extent(from, position, size)? {
        copy_extent(from, to, extent)?;
        position = extent.offset + extent.length;
    }
    Ok(())
}

fn copy_extent(from: &File, to: &File, extent: Extent) -> io::Result<()> {
    let (mut position, end) = (extent.offset, extent.offset + extent.length);
    while position < end {
        let (mut source, mut target) = (position, position);
        let length = usize::try_from(end - position).unwrap_or(usize::MAX).min(1 << 30);
        match sys::copy_file_range(from, Some(&mut source), to, Some(&mut target), length) {
            // Some file systems in the kernel return nothing instead of an error.
            Ok(0) => return copy_by_hand(from, to, position, end),
            Ok(copied) => position += copied as u64,
            Err(Errno::INTR | Errno::AGAIN) => {}
            Err(Errno::XDEV | Errno::INVAL | Errno::NOSYS | Errno::OPNOTSUPP | Errno::PERM | Errno::IO) => {
                return copy_by_hand(from, to, position, end);
            }
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

fn copy_by_hand(from: &File, to: &File, mut position: u64, end: u64) -> io::Result<()> {
    let mut buffer = vec![0; 128 << 10];
    while position < end {
        let want = usize::try_from(end - position).unwrap_or(usize::MAX).min(buffer.len());
        let read = match from.read_at(&mut buffer[..want], position) {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            done => done?,
        };
        to.write_all_at(&buffer[..read], position)?;
        position += read as u64;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_copy_has_the_bytes_and_the_holes() {
        let (from, to) = (tempfile::tempfile_in(".").unwrap(), tempfile::tempfile_in(".").unwrap());
        from.write_all_at(b"begin", 0).unwrap();
        from.write_all_at(&[7; 5000], 40 << 20).unwrap();
        from.set_len(80 << 20).unwrap();
        copy_content(&from, &to, 80 << 20).unwrap();
        assert_eq!(to.metadata().unwrap().len(), 80 << 20);
        let mut bytes = [0; 5000];
        to.read_exact_at(&mut bytes, 40 << 20).unwrap();
        assert_eq!(bytes, [7; 5000]);
        let allocated = std::os::unix::fs::MetadataExt::blocks(&to.metadata().unwrap()) * 512;
        assert!(allocated < 1 << 20, "{allocated} bytes are allocated");
    }
}
