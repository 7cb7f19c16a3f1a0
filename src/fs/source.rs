//! [`Source`]: a file that is handed on as a reader, and names itself where reading fails.

use std::fs::File;
use std::io::{self, Read};

use super::dir::path_of;
use super::error::Error;

/// An open file to read from. Its errors hold an [`Error`] with its path.
#[derive(Debug)]
pub struct Source(File);

impl From<File> for Source {
    fn from(file: File) -> Self {
        Self(file)
    }
}

impl Read for Source {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.0.read(buffer).map_err(|error| match error.kind() {
            io::ErrorKind::Interrupted => error,
            kind => io::Error::new(kind, Error::new("read", path_of(&self.0), error)),
        })
    }
}
