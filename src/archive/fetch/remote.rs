//! [`Remote`]: what is found through a [`Fetch`]. Documents are fetched when they are asked for, all else when it is staged.

use std::collections::BTreeMap;
use std::fmt;
use std::io::{self, Read};
use std::sync::Arc;

use super::{Fetch, Growing};
use crate::archive::LoadError;
use crate::archive::arrival::Source;
use crate::archive::content::{self, Content, Found, find_in, read_in};
use crate::archive::load::Destination;
use crate::archive::walk::is_foreign;
use crate::digest::Digest;
use crate::fs::Dir;
use crate::image::Descriptor;

/// A place that content is fetched from, behind what the store has.
pub(in crate::archive) struct Remote<'w> {
    from: &'w dyn Fetch,
    partial: &'w Dir,
    into: Destination<'w>,
    documents: BTreeMap<Digest, Vec<u8>>,
    described: BTreeMap<Digest, Descriptor>,
}

/// A blob that is fetched by whoever stages it.
#[derive(Clone)]
pub(in crate::archive) struct Coming<'w> {
    pub(in crate::archive) from: &'w dyn Fetch,
    /// Where it lies until it is whole.
    pub(in crate::archive) partial: &'w Dir,
    pub(in crate::archive) descriptor: Descriptor,
    pub(in crate::archive) growing: Arc<Growing>,
}

impl<'w> Remote<'w> {
    pub(in crate::archive) fn new(from: &'w dyn Fetch, partial: &'w Dir, into: Destination<'w>) -> Self {
        Self { from, partial, into, documents: BTreeMap::new(), described: BTreeMap::new() }
    }

    fn fetch_document(&self, at: &Descriptor, limit: u64) -> io::Result<Option<Vec<u8>>> {
        let Some(reader) = self.from.fetch(at, 0)? else { return Ok(None) };
        let mut bytes = Vec::new();
        reader.take(limit.saturating_add(1)).read_to_end(&mut bytes)?;
        Ok(Some(bytes))
    }
}

impl<'w> Content<'w> for Remote<'w> {
    fn find(&mut self, at: &Descriptor) -> Result<Option<Found>, LoadError> {
        if self.into.blobs.holds(&at.digest, at.size)? {
            return find_in(self.into.blobs, &at.digest);
        }
        // What is lent is copied, which is nearer.
        let is_lent = match self.into.lent {
            Some(lent) => lent.size(&at.digest)? == Some(at.size),
            None => false,
        };
        if is_lent {
            return Ok(None);
        }
        // Layers that must not be passed on are in some registries all the same. All others have to be there.
        if is_foreign(at) {
            let there = self.from.has(at);
            if !there.map_err(|source| LoadError::Fetch { digest: at.digest, source })? {
                return Ok(None);
            }
        }
        self.described.insert(at.digest, at.clone());
        Ok(Some(Found { size: at.size, compression: None }))
    }

    fn read(&mut self, at: &Descriptor, limit: u64) -> Result<Option<Vec<u8>>, LoadError> {
        if self.into.blobs.holds(&at.digest, at.size)? {
            return read_in(self.into.blobs, &at.digest, limit);
        }
        if let Some(bytes) = self.documents.get(&at.digest) {
            return Ok(Some(bytes.clone()));
        }
        let fetched = self.fetch_document(at, limit);
        let bytes = fetched.map_err(|source| LoadError::Fetch { digest: at.digest, source })?;
        if let Some(bytes) = &bytes {
            self.documents.insert(at.digest, bytes.clone());
        }
        Ok(bytes)
    }

    fn source(&mut self, digest: &Digest) -> Result<Option<Source<'w>>, LoadError> {
        if let Some(bytes) = self.documents.get(digest) {
            return content::stage(bytes, digest, &self.into).map(Some);
        }
        let Some(descriptor) = self.described.remove(digest) else { return Ok(None) };
        let (from, partial) = (self.from, self.partial);
        let growing = Arc::default();
        Ok(Some(Source::Coming(Box::new(Coming { from, partial, descriptor, growing }))))
    }

    fn name_of(&self, digest: &Digest) -> String {
        digest.to_string()
    }
}

impl fmt::Debug for Coming<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Coming").field("from", &self.from).field("descriptor", &self.descriptor).finish()
    }
}
