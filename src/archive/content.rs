//! [`Content`]: what an archive or a layout brings along, by digest.

use std::fs::File;
use std::io::{Read, Write};
use std::sync::Arc;

use super::LoadError;
use super::arrival::Source;
use super::load::Destination;
use super::walk::Lookup;
use crate::blob::{BlobError, BlobSource, Blobs};
use crate::codec::{Compression, SNIFFED, sniff};
use crate::digest::{Algorithm, Digest};
use crate::fs::Context;
use crate::image::Descriptor;

/// What is known of some content before its bytes are looked at.
#[derive(Clone, Copy, Debug)]
pub(super) struct Found {
    pub(super) size: u64,
    /// As its first bytes say, if they were seen.
    pub(super) compression: Option<Compression>,
}

/// A source of blobs.
pub(super) trait Content<'w> {
    /// What there is of `at`.
    fn find(&mut self, at: &Descriptor) -> Result<Option<Found>, LoadError>;

    /// The bytes of a document. Too long ones are cut behind `limit`, and the caller finds out.
    fn read(&mut self, at: &Descriptor, limit: u64) -> Result<Option<Vec<u8>>, LoadError>;

    /// Hands over where the bytes are: in the workspace, or where they can be brought from. `None` if it does not have them.
    fn source(&mut self, digest: &Digest) -> Result<Option<Source<'w>>, LoadError>;

    /// What the content is called there, for messages.
    fn name_of(&self, digest: &Digest) -> String;
}

/// What comes along, and behind it what the store has: an archive may leave out what its receiver has.
pub(super) struct Received<'w, C> {
    pub(super) content: C,
    pub(super) into: Destination<'w>,
}

impl<'w, C: Content<'w>> Lookup for Received<'w, C> {
    fn pin(&mut self, digests: &[Digest]) -> Result<(), LoadError> {
        Ok((self.into.pin)(digests)?)
    }

    fn find(&mut self, at: &Descriptor) -> Result<Option<Found>, LoadError> {
        match self.content.find(at)? {
            Some(found) => Ok(Some(found)),
            None => self.into.find(&at.digest),
        }
    }

    fn read(&mut self, at: &Descriptor, limit: u64) -> Result<Option<Vec<u8>>, LoadError> {
        match self.content.read(at, limit)? {
            Some(bytes) => Ok(Some(bytes)),
            None => self.into.read(&at.digest, limit),
        }
    }

    fn name_of(&self, digest: &Digest) -> String {
        self.content.name_of(digest)
    }
}

impl<'w, C: Content<'w>> Received<'w, C> {
    /// Where the bytes are.
    pub(super) fn source(&mut self, digest: &Digest) -> Result<Source<'w>, LoadError> {
        if let Some(source) = self.content.source(digest)? {
            return Ok(source);
        }
        // The pin was to keep it there.
        self.into.lent.map(Source::Lent).ok_or_else(|| BlobError::Missing { digest: *digest }.into())
    }
}

/// Where a layout has a blob.
pub(super) fn blob_path(digest: &Digest) -> String {
    format!("blobs/{}/{}", digest.algorithm().name(), digest.hex())
}

/// Puts a document into the workspace.
pub(super) fn stage<'w>(
    bytes: &[u8],
    digest: &Digest,
    into: &Destination<'w>,
) -> Result<Source<'w>, LoadError> {
    let mut writer = into.blobs.writer(into.workspace, digest.algorithm())?;
    writer.write_all(bytes).at_path("write", || writer.path())?;
    Ok(Source::Staged(writer.finish()?.park()))
}

/// Another layout, on disk.
pub(super) struct Layout(Arc<Blobs>);

impl Layout {
    pub(super) fn new(blobs: Blobs) -> Self {
        Self(Arc::new(blobs))
    }
}

impl<'w> Content<'w> for Layout {
    fn find(&mut self, at: &Descriptor) -> Result<Option<Found>, LoadError> {
        find_in(&*self.0, &at.digest)
    }

    fn read(&mut self, at: &Descriptor, limit: u64) -> Result<Option<Vec<u8>>, LoadError> {
        read_in(&*self.0, &at.digest, limit)
    }

    fn source(&mut self, digest: &Digest) -> Result<Option<Source<'w>>, LoadError> {
        Ok(self.0.size(digest)?.map(|_| Source::Layout(Arc::clone(&self.0))))
    }

    fn name_of(&self, digest: &Digest) -> String {
        blob_path(digest)
    }
}

/// Makes sure that content is what it was asked for as.
pub(super) fn verify(
    member: String,
    expected: &Digest,
    actual: Digest,
    size: u64,
    actual_size: u64,
) -> Result<(), LoadError> {
    if size != actual_size {
        return Err(LoadError::SizeMismatch { member, expected: size, actual: actual_size });
    }
    if *expected != actual {
        return Err(LoadError::DigestMismatch { member, expected: *expected, actual });
    }
    Ok(())
}

/// What a layout has under `digest`.
pub(super) fn find_in(blobs: &dyn BlobSource, digest: &Digest) -> Result<Option<Found>, LoadError> {
    let Some(file) = open(blobs, digest)? else { return Ok(None) };
    let path = blobs.path(digest);
    let size = file.metadata().at("stat", &path)?.len();
    let mut start = Vec::new();
    file.take(SNIFFED as u64).read_to_end(&mut start).at("read", &path)?;
    Ok(Some(Found { size, compression: Some(sniff(&start)) }))
}

/// The first bytes of a document that a layout has, one more than `limit` at most.
pub(super) fn read_in(
    blobs: &dyn BlobSource,
    digest: &Digest,
    limit: u64,
) -> Result<Option<Vec<u8>>, LoadError> {
    let Some(file) = open(blobs, digest)? else { return Ok(None) };
    let mut bytes = Vec::new();
    file.take(limit.saturating_add(1)).read_to_end(&mut bytes).at("read", blobs.path(digest))?;
    Ok(Some(bytes))
}

fn open(blobs: &dyn BlobSource, digest: &Digest) -> Result<Option<File>, LoadError> {
    match blobs.open_blob(digest) {
        Ok(file) => Ok(Some(file)),
        Err(BlobError::Missing { .. }) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// The digest that a member's name in a layout gives it.
pub(super) fn digest_of_path(path: &[u8]) -> Option<Digest> {
    let path = std::str::from_utf8(path).ok()?;
    let (algorithm, hex) = path.strip_prefix("blobs/")?.split_once('/')?;
    Digest::from_parts(algorithm, hex).ok()
}

/// The SHA-256 that a member's name in a docker-archive may be made of: `<hex>.tar`, `<hex>.json`, `sha256:<hex>`.
pub(super) fn digest_in_name(path: &[u8]) -> Option<Digest> {
    let path = std::str::from_utf8(path).ok()?;
    let name = path.strip_prefix("sha256:").unwrap_or(path);
    let hex = name.split_once('.').map_or(name, |(hex, _)| hex);
    Digest::from_parts(Algorithm::Sha256.name(), hex).ok()
}
