//! [`Content`]: the data of one file on its way to the disk, long runs of zeros left out.

use std::fs::File;
use std::io;
use std::ops::{AddAssign, Range};
use std::os::unix::fs::FileExt;

use crate::changeset::Data;
use crate::zeros::{DataRuns, zeros};

/// Bytes of a block, in which file systems count what a file takes: theirs of ext4, xfs and btrfs, unless they were made
/// otherwise. It is not asked for, so that equal layers have equal records.
pub(super) const BLOCK: u64 = 4096;

/// What was written to files.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) struct Written {
    /// Bytes of data.
    pub(super) data: u64,
    /// Bytes of the blocks that they are in.
    pub(super) allocated: u64,
}

impl Written {
    /// This much data in one file, which begins a block wherever it goes on behind a hole.
    pub(super) fn of(data: u64) -> Self {
        Self { data, allocated: data.next_multiple_of(BLOCK) }
    }
}

impl AddAssign for Written {
    fn add_assign(&mut self, other: Self) {
        self.data += other.data;
        self.allocated += other.allocated;
    }
}

/// Writes the data of one file. What is a hole in the tar becomes a hole, and so do long runs of zeros: image builders
/// unpack and pack files with holes by tools that know none, and what reads the same need not take space on disk. A
/// file without either costs no more than one write for each piece of data.
#[derive(Debug)]
pub(super) struct Content<'f> {
    file: &'f File,
    size: u64,
    runs: DataRuns,
    /// Where the last data ends.
    end: u64,
    written: u64,
}

impl<'f> Content<'f> {
    /// Begins in `file`, which is empty and will have `size` bytes.
    pub(super) fn new(file: &'f File, size: u64) -> Self {
        Self { file, size, runs: DataRuns::new(size), end: 0, written: 0 }
    }

    /// Writes the next data, which lies behind all before.
    pub(super) fn write(&mut self, data: Data<'_>) -> io::Result<()> {
        let Self { file, runs, end, written, .. } = self;
        let mut put = |run: Range<u64>, bytes: &[u8], offset: u64| {
            let late = run.start.max(offset);
            put_zeros(file, run.start, late.min(run.end))?;
            if run.end > late {
                file.write_all_at(&bytes[(late - offset) as usize..(run.end - offset) as usize], late)?;
            }
            *end = run.end;
            *written += run.end - run.start;
            Ok::<_, io::Error>(())
        };
        if data.offset > runs.position() {
            runs.hole_until(data.offset, |run| put(run, &[], u64::MAX))?;
        }
        runs.piece(data.bytes, |run| put(run, data.bytes, data.offset))
    }

    /// Gives the file its size; how much was written.
    pub(super) fn finish(mut self) -> io::Result<Written> {
        if self.runs.position() < self.size {
            let (file, end, written) = (self.file, &mut self.end, &mut self.written);
            self.runs.hole_until(self.size, |run| {
                *end = run.end;
                *written += run.end - run.start;
                put_zeros(file, run.start, run.end)
            })?;
        }
        if self.end < self.size {
            self.file.set_len(self.size)?;
        }
        Ok(Written::of(self.written))
    }
}

fn put_zeros(file: &File, mut from: u64, until: u64) -> io::Result<()> {
    for zeros in zeros(until.saturating_sub(from)) {
        file.write_all_at(zeros, from)?;
        from += zeros.len() as u64;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt;

    use super::*;

    /// Writes `parts`, by offset, in pieces; the content of the file, what is allocated, what was reported.
    fn write(parts: &[(u64, &[u8])], size: u64, piece: usize) -> (Vec<u8>, u64, u64) {
        let file = tempfile::tempfile_in(".").unwrap();
        let mut content = Content::new(&file, size);
        for (offset, bytes) in parts {
            for (index, bytes) in bytes.chunks(piece).enumerate() {
                content.write(Data { offset: offset + (index * piece) as u64, bytes }).unwrap();
            }
        }
        let written = content.finish().unwrap().data;
        file.sync_all().unwrap();
        let mut found = vec![1; size as usize];
        file.read_exact_at(&mut found, 0).unwrap();
        let metadata = file.metadata().unwrap();
        assert_eq!(metadata.len(), size);
        (found, metadata.blocks() * 512, written)
    }

    #[test]
    fn long_runs_of_zeros_take_no_space_however_the_data_comes() {
        let content = [&[7; 5000][..], &[0; 1 << 20], &[7; 70_000], &[0; 9000], &[7], &[0; 1 << 20]].concat();
        for piece in [512, 4096, 10_000, 262_144, 1 << 22] {
            let (found, allocated, written) = write(&[(0, &content)], content.len() as u64, piece);
            assert!(found == content, "{piece}");
            assert_eq!(written, 8192 + 81_920, "{piece}");
            assert!(allocated <= written + 8192, "{piece}: {allocated} bytes are allocated");
        }
    }

    #[test]
    fn a_mapped_hole_stays_what_it_is() {
        let (found, allocated, written) =
            write(&[(0, &[7; 100]), (8192, &[0; 6000]), (1 << 20, &[7; 4096])], 2 << 20, 1000);
        assert!(found[..100] == [7; 100] && found[100..1 << 20].iter().all(|&byte| byte == 0));
        assert_eq!(written, 100 + 6000 + 4096);
        assert!(allocated <= 32 << 10, "{allocated} bytes are allocated");
        assert_eq!(write(&[], 1 << 20, 1).2, 0);
        assert_eq!(write(&[], 0, 1).2, 0);
    }
}
