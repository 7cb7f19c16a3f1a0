//! [`SparseFiles`]: which files are written without their holes, and the map of those.
//!
//! The map depends on the content alone: what is zeros is left out by the rule that unpacking knows too, whether the file
//! system stores it or not. So a file gets the same map wherever it lies, and the same blocks wherever it is unpacked.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;

use crate::fs::{Extent, next_extent};
use crate::zeros::DataRuns;

/// Pieces of data in one map at most. It stands in front of the data, and readers set a limit to what they take there: Go
/// and this crate one MiB.
const PIECES: usize = 16_384;

/// Which files of a tar are written as sparse files, without their holes.
///
/// The image specification advises against sparse files in layers: podman and docker unpack them, but cannot save or
/// push the layer again. So ordinary files with holes are plain, whatever they were on disk. But a file of a terabyte
/// with a few kilobytes in it cannot be hashed, sent and read as a terabyte of zeros.
///
/// Whether a file has holes is asked of the file system; zeros that it stores are none. So a large file may be plain in
/// one layer and sparse in another if the one was written in full. Where its holes are is then told by its content.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum SparseFiles {
    /// None: every hole is written as zeros.
    Never,
    /// Those of which at least this many bytes are holes. 0 means the same as 1.
    WithHoles(u64),
}

/// Files with holes of 1 GiB or more. What is less is hashed in a second or two, and every engine can take it and pass it
/// on; logs that are indexed by user id (`lastlog`) stay below for ids up to three million.
impl Default for SparseFiles {
    fn default() -> Self {
        Self::WithHoles(1 << 30)
    }
}

impl SparseFiles {
    /// Every file with holes long enough to be one in a map, 64 KiB.
    pub const ALWAYS: Self = Self::WithHoles(1);

    /// Where `file`, `size` bytes long, has data, if it is to be written without its holes.
    pub(super) fn map(self, file: &File, size: u64) -> io::Result<Option<Vec<Extent>>> {
        let Self::WithHoles(least) = self else { return Ok(None) };
        let least = least.max(1);
        if size < least {
            return Ok(None);
        }
        let (mut position, mut stored) = (0, 0);
        while let Some(data) = next_extent(file, position, size)? {
            stored += data.length;
            position = data.offset + data.length;
        }
        if size.saturating_sub(stored) < least {
            return Ok(None);
        }
        let data = find_data(file, size)?;
        let stored: u64 = data.iter().map(|data| data.length).sum();
        Ok((size - stored >= least).then_some(data))
    }
}

/// Everything in `file` but long runs of zeros.
fn find_data(file: &File, size: u64) -> io::Result<Vec<Extent>> {
    let mut map = Map::default();
    let mut runs = DataRuns::new(size);
    let mut add = |run| {
        map.add(run);
        Ok::<_, io::Error>(())
    };
    let mut buffer = vec![0; 256 << 10];
    while let Some(data) = next_extent(file, runs.position(), size)? {
        runs.zeros_until(data.offset, &mut add)?;
        let end = size.min(data.offset + data.length);
        while runs.position() < end {
            let wanted = usize::try_from(end - runs.position()).unwrap_or(usize::MAX).min(buffer.len());
            match file.read_at(&mut buffer[..wanted], runs.position()) {
                // It became shorter; who writes it finds out.
                Ok(0) => return Ok(map.extents),
                Ok(count) => runs.piece(&buffer[..count], &mut add)?,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }
    runs.zeros_until(size, &mut add)?;
    Ok(map.extents)
}

/// A map that stays short: should there be too many holes, the shorter ones are data.
struct Map {
    extents: Vec<Extent>,
    shortest: u64,
    most: usize,
}

impl Default for Map {
    fn default() -> Self {
        Self { extents: Vec::new(), shortest: 1, most: PIECES }
    }
}

impl Map {
    fn add(&mut self, run: Range<u64>) {
        self.join(run);
        while self.extents.len() > self.most {
            self.shortest *= 2;
            for extent in std::mem::take(&mut self.extents) {
                self.join(extent.offset..extent.offset + extent.length);
            }
        }
    }

    fn join(&mut self, run: Range<u64>) {
        match self.extents.last_mut() {
            Some(last) if run.start - (last.offset + last.length) < self.shortest => {
                last.length = run.end - last.offset;
            }
            _ => self.extents.push(Extent { offset: run.start, length: run.end - run.start }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    fn extents(map: Option<Vec<Extent>>) -> Option<Vec<(u64, u64)>> {
        Some(map?.iter().map(|extent| (extent.offset, extent.offset + extent.length)).collect())
    }

    #[test]
    fn a_map_says_where_the_content_is_and_not_what_the_file_system_stores() {
        let files = SparseFiles::WithHoles(64 * MIB);
        let file = tempfile::tempfile_in(".").unwrap();
        file.set_len(100 * MIB).unwrap();
        file.write_all_at(b"content", 5 * MIB + 5000).unwrap();
        let expected = Some(vec![(5 * MIB + 4096, 5 * MIB + 8192)]);
        assert_eq!(extents(files.map(&file, 100 * MIB).unwrap()), expected);
        // Zeros that are stored, and what is left of a hole where there were some.
        file.write_all_at(&vec![0; 3 << 20], 2 * MIB + 77).unwrap();
        file.write_all_at(&vec![0; 1 << 20], 99 * MIB).unwrap();
        assert_eq!(extents(files.map(&file, 100 * MIB).unwrap()), expected);
        file.write_all_at(b"x", 100 * MIB - 1).unwrap();
        let expected = Some(vec![(5 * MIB + 4096, 5 * MIB + 8192), (100 * MIB - 4096, 100 * MIB)]);
        assert_eq!(extents(SparseFiles::ALWAYS.map(&file, 100 * MIB).unwrap()), expected);
        assert_eq!(SparseFiles::Never.map(&file, 100 * MIB).unwrap(), None);
        assert_eq!(SparseFiles::WithHoles(101 * MIB).map(&file, 100 * MIB).unwrap(), None);
    }

    #[test]
    fn a_file_of_one_hole_has_no_data_and_a_short_or_full_one_no_map() {
        let file = tempfile::tempfile_in(".").unwrap();
        file.set_len(1 << 40).unwrap();
        assert_eq!(SparseFiles::default().map(&file, 1 << 40).unwrap(), Some(vec![]));
        file.set_len(1000).unwrap();
        assert_eq!(SparseFiles::ALWAYS.map(&file, 1000).unwrap(), None);
        assert_eq!(SparseFiles::ALWAYS.map(&file, 0).unwrap(), None);
        file.write_all_at(&[1; 200_000], 0).unwrap();
        assert_eq!(SparseFiles::ALWAYS.map(&file, 200_000).unwrap(), None);
    }

    #[test]
    fn a_map_of_too_many_pieces_keeps_the_longest_holes() {
        let mut map = Map { most: 4, ..Map::default() };
        for index in 0..100 {
            map.add(index * 1000..index * 1000 + 10);
        }
        map.add(200_000..200_010);
        map.add(900_000..900_010);
        let found = extents(Some(map.extents)).unwrap();
        assert_eq!(found, [(0, 99_010), (200_000, 200_010), (900_000, 900_010)]);
    }
}
