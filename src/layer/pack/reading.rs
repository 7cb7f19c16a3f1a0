//! Reading a file that may change meanwhile, or that says a size which it does not have.
//!
//! A tar says how long a file is before its data. A log grows while it is read, a state file is cut or replaced, and the
//! files of procfs and sysfs are 0 or 4,096 bytes long whatever is in them. The rule: a tar gets the bytes that a file had when
//! its size was asked, through the handle that is read; a file of which there are fewer is read once more.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::FileExt;

use rustix::io::Errno;

use crate::fs::{self, Context, Stat, path_of};
use crate::layer::diff::DiffError;
use crate::stack::object::Object;

/// Where an object of a tar is read from.
pub(in crate::layer) trait Source {
    /// Reads the object anew; `None` if it is gone.
    fn read(&self) -> Result<Option<Object>, DiffError>;

    /// Opens the regular file, and says whether its metadata is in the same inode: overlayfs can keep the two apart.
    fn open(&self) -> fs::Result<(File, bool)>;
}

/// What became of an object.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(in crate::layer) enum Outcome {
    /// It is in the tar, if it has a form there.
    Written,
    /// Something else has its name by now, and is in the tar.
    Replaced,
    /// It is gone.
    Gone,
}

/// How much of a file there is.
pub(super) enum Length {
    /// So many bytes.
    Known(u64),
    /// It has no size, and more content than the buffer holds.
    Unknown,
    /// It became shorter: it had the first number of bytes, and has the second.
    Short(u64, u64),
}

/// The bytes that a file without a size has at most: more is not content, but something that never ends.
const MOST: u64 = 16 << 30;

/// Reads a file of the size `told`, as much as goes into `buffer`, and says how much it is. A file of size 0 that has
/// content nevertheless is read to its end.
pub(super) fn read_small(file: &File, told: u64, buffer: &mut [u8]) -> fs::Result<Length> {
    let limit = usize::try_from(told).ok().filter(|&told| told > 0 && told < buffer.len());
    let limit = limit.unwrap_or(buffer.len());
    let count = fill(file, &mut buffer[..limit]).at_path("read", || path_of(file))?;
    let length = count as u64;
    if told > 0 && length == told {
        return Ok(Length::Known(told));
    }
    if count == 0 && told == 0 {
        return Ok(Length::Known(0));
    }
    let now = Stat::of(file).at_path("stat", || path_of(file))?.size;
    Ok(match told {
        // It has grown since its size was asked.
        0 if now > 0 => Length::Known(length.min(now)),
        0 if count == limit => Length::Unknown,
        0 => Length::Known(length),
        // The size is none of its content's: it says the same, and there is no more.
        _ if now >= told => Length::Known(length),
        _ => Length::Short(told, length),
    })
}

/// Counts the bytes of a file up to its end, or up to the size that it says if it says one.
pub(super) fn count(file: &File, told: u64, buffer: &mut [u8]) -> fs::Result<u64> {
    let limit = if told == 0 { MOST } else { told };
    let mut position = 0;
    while position < limit {
        let wanted = usize::try_from(limit - position).unwrap_or(usize::MAX).min(buffer.len());
        match file.read_at(&mut buffer[..wanted], position) {
            Ok(0) => return Ok(position),
            Ok(count) => position += count as u64,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error).at_path("read", || path_of(file)),
        }
    }
    match told {
        0 => Err(io::Error::new(io::ErrorKind::FileTooLarge, "it has no end"))
            .at_path("read", || path_of(file)),
        _ => Ok(told),
    }
}

/// Reads from the beginning until `buffer` is full or the file ends.
fn fill(file: &File, buffer: &mut [u8]) -> io::Result<usize> {
    let mut filled = 0;
    let mut seeks = true;
    while filled < buffer.len() {
        let rest = &mut buffer[filled..];
        let read = if seeks { file.read_at(rest, filled as u64) } else { (&mut &*file).read(rest) };
        match read {
            Ok(0) => break,
            Ok(count) => filled += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            // Some files of procfs can only be read from one end to the other.
            Err(error) if seeks && filled == 0 && Errno::from_io_error(&error) == Some(Errno::SPIPE) => {
                seeks = false;
            }
            Err(error) => return Err(error),
        }
    }
    Ok(filled)
}
