//! [`DataRuns`]: which parts of a content are data, and which are zeros that a file system need not store.
//!
//! One rule for both directions, unpacking and packing. It looks at the content alone: neither the pieces that it comes
//! in nor the blocks that it lay in make a difference.

use std::ops::Range;

/// What can be a hole: whole blocks of this size, which is the one of nearly every file system.
const BLOCK: u64 = 4096;

/// Shorter runs of zeros are data: every hole costs an extent and splits a write. In the 6 GB of a Debian `/usr`, two
/// thirds of the zeros in whole blocks are in 56 runs of this length or more, the rest in 679 shorter ones, which are
/// padding inside of programs.
const SHORTEST: u64 = 64 << 10;

/// What holes read as.
static ZEROS: [u8; 64 << 10] = [0; 64 << 10];

/// Zeros in pieces, `count` together.
pub(crate) fn zeros(mut count: u64) -> impl Iterator<Item = &'static [u8]> {
    std::iter::from_fn(move || {
        let step = count.min(ZEROS.len() as u64);
        count -= step;
        (step > 0).then(|| &ZEROS[..step as usize])
    })
}

/// Tells data from long runs of zeros in content that comes piece by piece.
///
/// A run of zeros begins and ends at the border of a block, or with the content.
#[derive(Clone, Debug)]
pub(crate) struct DataRuns {
    /// Length of the content.
    size: u64,
    /// How much of it has come.
    position: u64,
    /// Where the blocks of zeros began that it ends in until now.
    zeros: Option<u64>,
}

impl DataRuns {
    /// Begins with content of `size` bytes.
    pub(crate) fn new(size: u64) -> Self {
        Self { size, position: 0, zeros: None }
    }

    /// How much has come.
    pub(crate) fn position(&self) -> u64 {
        self.position
    }

    /// Takes the next piece and calls `data` for every run of data that is certain by now, in order. All end inside the
    /// piece; the first may begin before it, with zeros that turned out to be too few.
    pub(crate) fn piece<E>(
        &mut self,
        bytes: &[u8],
        mut data: impl FnMut(Range<u64>) -> Result<(), E>,
    ) -> Result<(), E> {
        let begin = self.position;
        let end = begin + bytes.len() as u64;
        self.position = end;
        if self.size < SHORTEST {
            return data(begin..end);
        }
        let mut from = self.zeros.unwrap_or(begin);
        let mut at = begin;
        while at < end {
            let block = at - at % BLOCK;
            let next = end.min(block + BLOCK);
            // The rest of a block that began with data belongs to it.
            if at == block || self.zeros.is_some() {
                if is_zero(&bytes[(at - begin) as usize..(next - begin) as usize]) {
                    self.zeros.get_or_insert(at);
                } else if let Some(start) = self.zeros.take()
                    && block - start >= SHORTEST
                {
                    if start > from {
                        data(from..start)?;
                    }
                    from = block;
                }
            }
            at = next;
        }
        let certain = self.zeros.filter(|start| end < self.size || end - start >= SHORTEST).unwrap_or(end);
        if certain > from { data(from..certain) } else { Ok(()) }
    }

    /// Goes on at `offset`. What was left out is a hole, however short, that somebody else made.
    pub(crate) fn hole_until<E>(
        &mut self,
        offset: u64,
        mut data: impl FnMut(Range<u64>) -> Result<(), E>,
    ) -> Result<(), E> {
        let end = std::mem::replace(&mut self.position, offset);
        match self.zeros.take() {
            Some(start) if end - start < SHORTEST => data(start..end),
            _ => Ok(()),
        }
    }

    /// Goes on at `offset`, as if what was left out had come as zeros.
    pub(crate) fn zeros_until<E>(
        &mut self,
        offset: u64,
        mut data: impl FnMut(Range<u64>) -> Result<(), E>,
    ) -> Result<(), E> {
        let from = std::mem::replace(&mut self.position, offset);
        if from == offset {
            return Ok(());
        }
        let rest = if self.size < SHORTEST { offset } else { offset.min(from.next_multiple_of(BLOCK)) };
        if self.zeros.is_none() {
            if rest > from {
                data(from..rest)?;
            }
            self.zeros = (rest < offset).then_some(rest);
        }
        match self.zeros {
            Some(start) if offset == self.size && offset - start < SHORTEST => {
                self.zeros = None;
                data(start..offset)
            }
            _ => Ok(()),
        }
    }
}

fn is_zero(bytes: &[u8]) -> bool {
    // Most blocks are no zeros in their first word, and the rest of them is not worth a look.
    bytes.first_chunk::<16>().is_none_or(|first| *first == [0; 16]) && bytes == &ZEROS[..bytes.len()]
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use super::*;

    fn join(runs: &mut Vec<Range<u64>>, run: Range<u64>) {
        match runs.last_mut() {
            Some(last) if last.end == run.start => last.end = run.end,
            _ => runs.push(run),
        }
    }

    fn runs(content: &[u8], piece: usize) -> Vec<Range<u64>> {
        let mut runs = Vec::new();
        let mut finder = DataRuns::new(content.len() as u64);
        for bytes in content.chunks(piece) {
            let end = finder.position() + bytes.len() as u64;
            let done = finder.piece(bytes, |run| {
                assert!(run.start < run.end && run.end <= end);
                join(&mut runs, run);
                Ok::<_, Infallible>(())
            });
            done.unwrap();
        }
        runs
    }

    /// The rule, said once more and slowly.
    fn expected(content: &[u8]) -> Vec<Range<u64>> {
        let blocks: Vec<_> = content.chunks(BLOCK as usize).collect();
        let mut runs = Vec::new();
        let mut at = 0;
        for group in blocks.chunk_by(|a, b| is_zero(a) == is_zero(b)) {
            let length: u64 = group.iter().map(|block| block.len() as u64).sum();
            if !is_zero(group[0]) || length < SHORTEST {
                join(&mut runs, at..at + length);
            }
            at += length;
        }
        runs
    }

    /// Pieces of data and zeros by turns.
    fn content(lengths: &[usize]) -> Vec<u8> {
        let parts = lengths.iter().enumerate().map(|(turn, &length)| vec![1 - (turn % 2) as u8; length]);
        parts.collect::<Vec<_>>().concat()
    }

    fn samples() -> Vec<Vec<u8>> {
        let long = SHORTEST as usize;
        [
            &[][..],
            &[1],
            &[0, 1],
            &[0, long - 1],
            &[0, long],
            &[0, long + 1],
            &[1, long],
            &[1, long + 4095],
            &[1, long + 4094, 1],
            &[1, long + 4095, 1],
            &[4096, long, 4096],
            &[4096, long - 1, 4097],
            &[0, long, 1, long, 1, 5000, 5000, 2 * long + 77],
            &[300_000, 300_000, 3, 4096, 5, long - 512, 5, 3 * long, 12_345],
        ]
        .map(content)
        .to_vec()
    }

    #[test]
    fn only_whole_blocks_in_long_runs_of_zeros_are_holes() {
        let long = SHORTEST;
        let one = |lengths: &[usize], run: Range<u64>| {
            assert_eq!(runs(&content(lengths), 1 << 20), std::slice::from_ref(&run));
        };
        one(&[1, 2 * long as usize], 0..4096);
        one(&[0, 2 * long as usize, 1], 2 * long..2 * long + 1);
        for content in samples() {
            assert_eq!(runs(&content, 1 << 20), expected(&content));
        }
    }

    #[test]
    fn the_pieces_that_a_content_comes_in_make_no_difference() {
        for content in samples() {
            let whole = expected(&content);
            for piece in [512, 1000, 4096, 5555, 65_536, 100_000] {
                assert_eq!(runs(&content, piece), whole, "{piece}");
            }
        }
    }

    #[test]
    fn zeros_that_were_left_out_count_like_others() {
        for content in samples() {
            for piece in [1024, 3000, 20_000, 70_000] {
                let mut runs = Vec::new();
                let mut finder = DataRuns::new(content.len() as u64);
                let mut add = |run: Range<u64>| {
                    join(&mut runs, run);
                    Ok::<_, Infallible>(())
                };
                for bytes in content.chunks(piece) {
                    match bytes.iter().all(|&byte| byte == 0) {
                        true => finder.zeros_until(finder.position() + bytes.len() as u64, &mut add),
                        false => finder.piece(bytes, &mut add),
                    }
                    .unwrap();
                }
                assert_eq!(runs, expected(&content), "{piece}");
            }
        }
    }

    #[test]
    fn a_hole_that_somebody_else_made_stays_as_it_is() {
        let mut runs = Vec::new();
        let mut finder = DataRuns::new(1 << 20);
        let mut add = |run: Range<u64>| {
            runs.push(run);
            Ok::<_, Infallible>(())
        };
        finder.piece(&[1; 100], &mut add).unwrap();
        finder.hole_until(8192, &mut add).unwrap();
        finder.piece(&[0; 5000], &mut add).unwrap();
        finder.hole_until(20_000, &mut add).unwrap();
        finder.piece(&[0; 200_000], &mut add).unwrap();
        finder.hole_until(1 << 20, &mut add).unwrap();
        // In order: what was mapped, a run that is too short, the rest of the block that the last one began in.
        assert_eq!(runs, [0..100, 8192..13_192, 20_000..20_480]);
    }
}
