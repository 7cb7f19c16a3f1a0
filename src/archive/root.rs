//! [`receive_root`] and [`write_config`]: a root file system as one tar, from anybody, and what it was an image of.
//!
//! The config of an image goes in front of the tar, in a comment that every reader of tars passes over
//! (`comment=plywood.image.config={…}` in a PAX global header; a config of more than 512 KiB in several, one after another).
//! What is extracted is the root and nothing else.

use std::io::{self, Read, Write};

use super::error::Cancelled;
use super::{LoadError, stream};
use crate::changeset::{self, ChangesetError, Reader};
use crate::digest::{Algorithm, DiffId, Hasher};
use crate::limits::Limits;
use crate::whiteout;

/// What the comment with a config begins with.
const MARK: &str = "plywood.image.config=";

/// Puts `config` in front of the tar of a root that is written to `out` next.
///
/// # Errors
///
/// Those of `out`.
pub fn write_config(out: &mut impl Write, config: &[u8]) -> io::Result<()> {
    changeset::write_comment(out, MARK, config)
}

/// A root that was read.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct ReceivedRoot {
    /// The config that was in front of it, as it was written.
    pub config: Option<Vec<u8>>,
    /// Digest of the tar.
    pub diff_id: DiffId,
    /// Entries in it.
    pub entries: u64,
}

/// Reads the tar of a root file system, compressed or not, to its end, and passes it on to `out`: decompressed, without the
/// config, and otherwise byte for byte.
///
/// # Errors
///
/// [`LoadError::NotATar`] for anything else; [`LoadError::Tar`] with [`ChangesetError::ReservedName`] if a name in it would be
/// a deletion in a layer; others if it is damaged, `cancelled` says so or `out` fails. What `out` got is useless then.
pub fn receive_root(
    reader: impl Read,
    out: impl Write,
    limits: &Limits,
    cancelled: &dyn Fn() -> bool,
) -> Result<ReceivedRoot, LoadError> {
    let plain = stream::open(reader, limits).map_err(|error| match error {
        LoadError::NotAnArchive { found } => LoadError::NotATar { found },
        other => other,
    })?;
    let taken = changeset::take_comment(plain, MARK, limits.json_bytes);
    let (config, tar) = taken.map_err(LoadError::of_stream)?;
    let mut hasher = Hasher::new(Algorithm::Sha256);
    let mut entries = 0;
    let mut failed = None;
    let tee = Tee { tar, out, hasher: &mut hasher, failed: &mut failed, cancelled };
    // All names as they are: what they would mean in a layer is looked at here.
    let mut reader = Reader::new(tee, limits).allow_reserved_names();
    loop {
        let entry = match reader.next_entry() {
            Ok(Some(entry)) => entry,
            Ok(None) => break,
            Err(error) => {
                drop(reader);
                return Err(failed.map_or_else(|| LoadError::of_tar(error), LoadError::Write));
            }
        };
        if entry.path.components().any(|name| name.starts_with(whiteout::PREFIX)) {
            return Err(LoadError::Tar(ChangesetError::ReservedName { path: entry.path }));
        }
        entries += 1;
    }
    drop(reader);
    Ok(ReceivedRoot { config, diff_id: DiffId::of_tar(hasher.finish()), entries })
}

/// Passes on what is read.
struct Tee<'a, R, W> {
    tar: R,
    out: W,
    hasher: &'a mut Hasher,
    /// Why `out` failed: the reader of the tar would take it for a failure to read.
    failed: &'a mut Option<io::Error>,
    cancelled: &'a dyn Fn() -> bool,
}

impl<R: Read, W: Write> Read for Tee<'_, R, W> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if (self.cancelled)() {
            return Err(io::Error::other(Cancelled));
        }
        let count = self.tar.read(buffer)?;
        self.hasher.update(&buffer[..count]);
        match self.out.write_all(&buffer[..count]) {
            Ok(()) => Ok(count),
            Err(error) => {
                let kind = error.kind();
                *self.failed = Some(error);
                Err(kind.into())
            }
        }
    }
}
