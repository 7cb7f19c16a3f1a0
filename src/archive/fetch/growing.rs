//! [`Growing`]: a file that one thread writes and others read, as far as it has come.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::FileExt;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

/// What readers and the writer of a file know of each other.
#[derive(Debug, Default)]
pub(in crate::archive) struct Growing {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    file: Option<Arc<File>>,
    length: u64,
    end: Option<End>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum End {
    Whole,
    Failed,
}

/// Carried by the [`io::Error`] of a reader whose writer gave up. The writer knows why.
#[derive(Debug, thiserror::Error)]
#[error("the rest of it did not come")]
struct GaveUp;

impl Growing {
    /// There are this many bytes in `file` by now.
    pub(in crate::archive) fn grow(&self, file: &Arc<File>, length: u64) {
        let mut state = self.state();
        if state.file.is_none() {
            state.file = Some(Arc::clone(file));
        }
        state.length = length;
        drop(state);
        self.changed.notify_all();
    }

    /// There will be no more.
    pub(in crate::archive) fn end(&self) {
        self.set_end(End::Whole);
    }

    /// There will be no more, and it is not all.
    pub(in crate::archive) fn fail(&self) {
        self.set_end(End::Failed);
    }

    fn set_end(&self, end: End) {
        self.state().end.get_or_insert(end);
        self.changed.notify_all();
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Nothing is left half-done under this lock, whatever panics.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Reads a growing file from its beginning, and waits where it has not come far enough.
#[derive(Debug)]
pub(in crate::archive) struct GrowingReader {
    growing: Arc<Growing>,
    position: u64,
}

impl GrowingReader {
    pub(in crate::archive) fn new(growing: Arc<Growing>) -> Self {
        Self { growing, position: 0 }
    }

    /// Waits until there is more than was read, and says where and how much; `None` at the end.
    fn wait(&self) -> io::Result<Option<(Arc<File>, u64)>> {
        let mut state = self.growing.state();
        loop {
            if state.end == Some(End::Failed) {
                return Err(io::Error::other(GaveUp));
            }
            if let Some(file) = &state.file
                && state.length > self.position
            {
                return Ok(Some((Arc::clone(file), state.length - self.position)));
            }
            if state.end == Some(End::Whole) {
                return Ok(None);
            }
            state = self.growing.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }
}

impl Read for GrowingReader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let Some((file, there)) = self.wait()? else { return Ok(0) };
        let most = usize::try_from(there).unwrap_or(usize::MAX).min(buffer.len());
        let count = file.read_at(&mut buffer[..most], self.position)?;
        self.position += count as u64;
        match count {
            0 if most > 0 => Err(io::ErrorKind::UnexpectedEof.into()),
            count => Ok(count),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file() -> Arc<File> {
        Arc::new(tempfile::tempfile().unwrap())
    }

    #[test]
    fn a_reader_sees_all_that_is_written_however_it_comes() {
        let (growing, file) = (Arc::new(Growing::default()), file());
        let content: Vec<u8> = (0..100_000u32).flat_map(u32::to_le_bytes).collect();
        let readers: Vec<_> = (0..3).map(|_| GrowingReader::new(Arc::clone(&growing))).collect();
        std::thread::scope(|scope| {
            let read = |mut reader: GrowingReader| {
                let mut bytes = Vec::new();
                reader.read_to_end(&mut bytes).map(|_| bytes)
            };
            let threads: Vec<_> =
                readers.into_iter().map(|reader| scope.spawn(move || read(reader))).collect();
            let mut at = 0;
            for part in content.chunks(7777) {
                file.write_all_at(part, at).unwrap();
                at += part.len() as u64;
                growing.grow(&file, at);
            }
            growing.end();
            for thread in threads {
                assert_eq!(thread.join().unwrap().unwrap(), content);
            }
        });
    }

    #[test]
    fn a_reader_does_not_wait_for_a_writer_that_gave_up() {
        let growing = Arc::new(Growing::default());
        let mut reader = GrowingReader::new(Arc::clone(&growing));
        growing.fail();
        assert_eq!(reader.read(&mut [0; 10]).unwrap_err().to_string(), "the rest of it did not come");
    }

    #[test]
    fn nothing_is_a_file_too() {
        let growing = Arc::new(Growing::default());
        growing.grow(&file(), 0);
        growing.end();
        assert_eq!(GrowingReader::new(growing).read(&mut [0; 10]).unwrap(), 0);
    }
}
