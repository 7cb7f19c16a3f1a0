//! [`receive_root`] and [`write_config`]: a root file system as one tar, from anybody, and what it was an image of.
//!
//! The config of an image goes in front of the tar, in a comment that every reader of tars passes over
//! (`comment=plywood.image.config={…}` in a PAX global header; a config of more than 512 KiB in several, one after another).
//! What is extracted is the root and nothing else.

use std::io::{self, Read, Write};

use super::content::digest_in_name;
use super::error::Cancelled;
use super::{LoadError, docker, oci, stream};
use crate::changeset::{self, ChangesetError, Entry, EntryKind, Reader};
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
    /// The member that says that this is an image archive and no root: `manifest.json`, for one. A root that merely has a file
    /// of that name beside others is a root.
    pub archive_member: Option<&'static str>,
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
    let mut looks = Looks::default();
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
        looks.see(&entry);
        entries += 1;
    }
    drop(reader);
    let diff_id = DiffId::of_tar(hasher.finish());
    Ok(ReceivedRoot { config, diff_id, entries, archive_member: looks.archive_member() })
}

/// Whether a tar looks like an image archive.
#[derive(Default)]
struct Looks {
    /// The first of [`MEMBERS`] that is there.
    first: Option<usize>,
    /// Something is at the top that no image archive has there.
    has_other: bool,
}

/// What image archives list their images in, the best known first.
const MEMBERS: [&str; 4] = [docker::MANIFEST, oci::LAYOUT, docker::REPOSITORIES, oci::INDEX];

impl Looks {
    fn see(&mut self, entry: &Entry) {
        let mut components = entry.path.components();
        let Some(top) = components.next() else { return };
        let is_file = components.next().is_none() && matches!(entry.kind, EntryKind::File { .. });
        match MEMBERS.iter().position(|member| member.as_bytes() == top) {
            Some(found) if is_file => self.first = Some(self.first.map_or(found, |first| first.min(found))),
            Some(_) => self.has_other = true,
            None => self.has_other |= top != b"blobs" && digest_in_name(top).is_none(),
        }
    }

    fn archive_member(&self) -> Option<&'static str> {
        self.first.filter(|_| !self.has_other).map(|first| MEMBERS[first])
    }
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
