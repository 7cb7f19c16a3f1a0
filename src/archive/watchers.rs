//! [`Watchers`]: those who read a member of an archive while it comes.

use std::fs::File;
use std::io;
use std::sync::Arc;

use super::fetch::{Growing, GrowingReader};
use super::load::Begins;
use crate::changeset::begins_like_tar;
use crate::codec::{Compression, sniff};
use crate::digest::Digest;

/// Members smaller than this are read soon enough.
const WORTH_IT: u64 = 1 << 20;

/// How much is looked at: the header of a tar.
const BEGINNING: usize = 512;

/// Tells of one member. Dropped before its end, it tells those who read that no more will come.
pub(super) struct Watchers<'b> {
    state: State<'b>,
    length: u64,
}

enum State<'b> {
    /// Too little has come to know what it is.
    Unknown {
        likely: Option<Digest>,
        begins: Begins<'b>,
        beginning: Vec<u8>,
    },
    Nobody,
    Somebody {
        number: usize,
        growing: Arc<Growing>,
        file: Arc<File>,
    },
}

impl<'b> Watchers<'b> {
    /// For a member of this size, whose name is perhaps made of its digest.
    pub(super) fn new(size: u64, likely: Option<Digest>, begins: Begins<'b>) -> Self {
        let state = match size >= WORTH_IT {
            true => State::Unknown { likely, begins, beginning: Vec::new() },
            false => State::Nobody,
        };
        Self { state, length: 0 }
    }

    /// This `part` has come and is in `file`, behind those before it.
    pub(super) fn tell(&mut self, part: &[u8], file: &File) -> io::Result<()> {
        self.length += part.len() as u64;
        if let State::Unknown { likely, begins, beginning } = &mut self.state {
            beginning.extend_from_slice(&part[..part.len().min(BEGINNING - beginning.len())]);
            if beginning.len() < BEGINNING {
                return Ok(());
            }
            let is_likely = sniff(beginning) != Compression::None || begins_like_tar(beginning);
            let (likely, begins) = (*likely, *begins);
            self.state = State::Nobody;
            if is_likely {
                // Before anybody waits for it.
                let file = Arc::new(file.try_clone()?);
                let growing = Arc::new(Growing::default());
                let reader = GrowingReader::new(Arc::clone(&growing));
                if let Some(number) = begins(likely, Box::new(reader)) {
                    self.state = State::Somebody { number, growing, file };
                }
            }
        }
        if let State::Somebody { growing, file, .. } = &self.state {
            growing.grow(file, self.length);
        }
        Ok(())
    }

    /// All of it has come. Returns the number that it was given, if somebody reads it.
    pub(super) fn end(mut self) -> Option<usize> {
        match std::mem::replace(&mut self.state, State::Nobody) {
            State::Somebody { number, growing, .. } => {
                growing.end();
                Some(number)
            }
            State::Unknown { .. } | State::Nobody => None,
        }
    }
}

impl Drop for Watchers<'_> {
    fn drop(&mut self) {
        if let State::Somebody { growing, .. } = &self.state {
            growing.fail();
        }
    }
}
