//! [`Arrival`]: what an archive or a layout brings along, from the moment when that is known until its blobs have their
//! names.
//!
//! A layout's blobs are copied, and those of a place elsewhere fetched, by as many threads as call [`Arrival::stage`], while
//! others may read them for what is in them. No blob is visible before all of them are verified and, where that was asked
//! for, on disk.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read, Write};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use rustix::fs::{Advice, fadvise};

use super::LoadError;
use super::content::{Content, Received, blob_path, verify};
use super::error::Cancelled;
use super::fetch::{Coming, Growing, GrowingReader, Transfer};
use super::load::{Destination, LoadOptions, Loaded};
use super::walk::Needed;
use crate::blob::{BlobError, BlobSource, Blobs, ParkedBlob, PartialBlob, WholeBlob};
use crate::digest::Digest;
use crate::fs::{self, Context, Durability, Workspace};

/// How much is read at once.
const BUFFER: usize = 128 << 10;

/// After how many bytes the disk is told to begin with them, where somebody will wait for it.
const WRITE_BACK: u64 = 16 << 20;

/// Images that were found, and their blobs on the way into the store.
///
/// Dropped before [`Arrival::publish`], it leaves nothing.
pub struct Arrival<'a, 'w> {
    images: Vec<Loaded>,
    /// What the store does not have, what is referred to in front of what refers to it.
    incoming: Vec<Incoming<'w>>,
    /// The same by size, the largest first: the order of staging.
    order: Vec<usize>,
    /// What the store has already.
    present: Vec<Digest>,
    next: AtomicUsize,
    /// Bytes of a layout that were read.
    bytes: Mutex<u64>,
    failure: Mutex<Option<LoadError>>,
    /// Nothing is fetched any more, but perhaps one blob.
    abandoned: OnceLock<Option<Digest>>,
    /// Numbers that were given to blobs while they came.
    begun: BTreeMap<Digest, usize>,
    blobs: &'w Blobs,
    workspace: &'w Workspace,
    options: &'a LoadOptions<'a>,
}

/// One blob, and where its bytes are now.
struct Incoming<'w> {
    digest: Digest,
    size: u64,
    at: Mutex<Source<'w>>,
    /// How far it has come, of what is fetched.
    growing: Option<Arc<Growing>>,
}

/// Where the bytes of a blob can be had.
pub(super) enum Source<'w> {
    /// In the workspace, verified.
    Staged(ParkedBlob<'w>),
    /// In another layout, not verified.
    Layout(Arc<Blobs>),
    /// With somebody who lends it, not verified.
    Lent(&'w dyn BlobSource),
    /// Elsewhere.
    Coming(Box<Coming<'w>>),
    /// Fetched and verified.
    Fetched(WholeBlob<'w>),
    /// In the store: somebody else has fetched it meanwhile.
    Present,
}

impl<'a, 'w> Arrival<'a, 'w> {
    /// `images` with everything in `needed`, all of which is pinned.
    pub(super) fn new(
        images: Vec<Loaded>,
        mut content: Received<'w, impl Content<'w>>,
        needed: &Needed,
        options: &'a LoadOptions<'a>,
    ) -> Result<Self, LoadError> {
        let Destination { blobs, workspace, .. } = content.into;
        let (mut incoming, mut present) = (Vec::new(), Vec::new());
        for (digest, size) in needed.bottom_up() {
            if blobs.holds(&digest, size)? {
                present.push(digest);
                continue;
            }
            if options.is_cancelled() {
                return Err(LoadError::Cancelled);
            }
            let at = content.source(&digest)?;
            let growing = match &at {
                Source::Coming(coming) => Some(Arc::clone(&coming.growing)),
                _ => None,
            };
            incoming.push(Incoming { digest, size, at: Mutex::new(at), growing });
        }
        if let Some(tell) = options.transfer {
            let present = needed.bottom_up().filter(|(digest, _)| present.contains(digest));
            present.for_each(|(digest, size)| tell(Transfer::Present { digest, size }));
        }
        let mut order: Vec<usize> = (0..incoming.len()).collect();
        order.sort_by_key(|&at| std::cmp::Reverse(incoming[at].size));
        let (next, bytes, failure) = (AtomicUsize::new(0), Mutex::new(0), Mutex::new(None));
        let (abandoned, begun) = (OnceLock::new(), BTreeMap::new());
        Ok(Self {
            images,
            incoming,
            order,
            present,
            next,
            bytes,
            failure,
            abandoned,
            begun,
            blobs,
            workspace,
            options,
        })
    }

    pub(super) fn with_begun(self, begun: BTreeMap<Digest, usize>) -> Self {
        Self { begun, ..self }
    }

    /// The number that a blob was given while it came, if it was given one.
    pub fn begun(&self, digest: &Digest) -> Option<usize> {
        self.begun.get(digest).copied()
    }

    /// The images. Their documents are verified; their layers are once they are staged.
    pub fn images(&self) -> &[Loaded] {
        &self.images
    }

    /// Opens a blob that an image needs, from wherever it is now. It may not have been verified yet, and what is fetched may
    /// not have come: reading it waits for whoever is staging.
    ///
    /// # Errors
    ///
    /// [`BlobError`] if it is nowhere or cannot be opened.
    pub fn open_blob(&self, digest: &Digest) -> Result<Box<dyn Read + Send>, BlobError> {
        let open = |file| Box::new(fs::Source::from(file)) as Box<dyn Read + Send>;
        let Some(incoming) = self.incoming.iter().find(|incoming| incoming.digest == *digest) else {
            return self.blobs.open_blob(digest).map(open);
        };
        if let Some(growing) = &incoming.growing {
            return Ok(Box::new(GrowingReader::new(Arc::clone(growing))));
        }
        match &*locked(&incoming.at) {
            Source::Staged(blob) => blob.open().map(open),
            Source::Layout(blobs) => blobs.open_blob(digest).map(open),
            Source::Lent(blobs) => blobs.open_blob(digest).map(open),
            Source::Coming(_) | Source::Fetched(_) | Source::Present => {
                Err(BlobError::Missing { digest: *digest })
            }
        }
    }

    /// Brings blobs into the workspace and verifies them, until there is none left that nobody is at. Several threads may
    /// call this at the same time. What goes wrong is told at the end.
    pub fn stage(&self) {
        let waiting = Waiting(self);
        while let Some(&at) = self.order.get(self.next.fetch_add(1, Ordering::Relaxed)) {
            if locked(&self.failure).is_some() {
                return;
            }
            let incoming = &self.incoming[at];
            if let Err(error) = self.stage_one(incoming) {
                // What nobody needs any more has not failed.
                if !self.is_abandoned(&incoming.digest) {
                    locked(&self.failure).get_or_insert(error);
                }
                return;
            }
        }
        std::mem::forget(waiting);
    }

    /// Ends the fetching of blobs: nobody needs them any more. The one that is the reason for that is fetched to its end: it
    /// may not be what it should be.
    pub fn abandon(&self, reason: Option<Digest>) {
        self.abandoned.get_or_init(|| reason);
    }

    fn is_abandoned(&self, digest: &Digest) -> bool {
        self.abandoned.get().is_some_and(|reason| reason.as_ref() != Some(digest))
    }

    /// Takes what has gone wrong with a blob so far.
    pub fn take_failure(&self) -> Option<LoadError> {
        locked(&self.failure).take()
    }

    /// Gives all blobs their names, layers first and manifests last, after staging what is not staged.
    ///
    /// # Errors
    ///
    /// [`LoadError`]. Whatever is visible then is whole, refers only to what is visible too, and is collected like
    /// anything that no name leads to.
    pub fn publish(self) -> Result<Vec<Loaded>, LoadError> {
        self.stage();
        if let Some(error) = self.take_failure() {
            return Err(error);
        }
        if self.options.is_cancelled() {
            return Err(LoadError::Cancelled);
        }
        let Self { images, incoming, mut present, blobs, workspace, options, .. } = self;
        let full = options.durability == Durability::Full;
        let mut staged = Vec::with_capacity(incoming.len());
        let mut fetched = Vec::new();
        for Incoming { digest, size, at, .. } in incoming {
            match at.into_inner().unwrap_or_else(PoisonError::into_inner) {
                Source::Staged(blob) => staged.push(blob),
                Source::Fetched(blob) => match blob.stage(workspace)? {
                    Some(parked) => {
                        staged.push(parked);
                        fetched.push(blob);
                    }
                    // Somebody else was faster.
                    None if blobs.holds(&digest, size)? => present.push(digest),
                    None => return Err(BlobError::Missing { digest }.into()),
                },
                Source::Present => present.push(digest),
                Source::Layout(_) | Source::Lent(_) | Source::Coming(_) => {
                    return Err(BlobError::Missing { digest }.into());
                }
            }
        }
        if full {
            // All bytes before the first name: a disk that is full shows here, when nothing is visible yet.
            for blob in &staged {
                blob.open()?.sync_all().at_path("sync", || blob.path())?;
            }
            // Whoever stored these may have been content with less.
            for digest in &present {
                blobs.open_blob(digest)?.sync_all().at_path("sync", || blobs.path(digest))?;
            }
        }
        for blob in staged {
            blobs.publish(blob.reopen()?, Durability::Relaxed)?; // synced above
        }
        if full {
            blobs.sync()?;
        }
        for blob in fetched {
            blob.forget()?;
        }
        Ok(images)
    }

    fn stage_one(&self, incoming: &Incoming<'w>) -> Result<(), LoadError> {
        let from = match &*locked(&incoming.at) {
            Source::Staged(blob) => {
                if self.options.durability == Durability::Full {
                    let file = blob.open()?;
                    begin_write_back(&file, 0, incoming.size).at_path("write", || blob.path())?;
                }
                return Ok(());
            }
            Source::Layout(layout) => Origin::Layout(Arc::clone(layout)),
            Source::Lent(layout) => Origin::Lent(*layout),
            Source::Coming(_) if self.is_abandoned(&incoming.digest) => return Err(LoadError::Cancelled),
            Source::Coming(coming) => Origin::Elsewhere(coming.clone()),
            Source::Fetched(_) | Source::Present => return Ok(()),
        };
        let brought = match from {
            Origin::Layout(layout) => Source::Staged(self.copy(incoming, &*layout)?),
            Origin::Lent(layout) => Source::Staged(self.copy(incoming, layout)?),
            Origin::Elsewhere(coming) => self.bring(incoming, &coming)?,
        };
        *locked(&incoming.at) = brought;
        Ok(())
    }

    /// Fetches a blob, or what an earlier attempt left of it.
    fn bring(&self, incoming: &Incoming<'w>, coming: &Coming<'w>) -> Result<Source<'w>, LoadError> {
        let &Incoming { digest, size, .. } = incoming;
        let mut partial = PartialBlob::take(coming.partial, digest)?;
        if self.blobs.holds(&digest, size)? {
            partial.discard()?;
            coming.growing.grow(&Arc::new(self.blobs.open_blob(&digest)?), size);
            coming.growing.end();
            self.tell(Transfer::Present { digest, size });
            return Ok(Source::Present);
        }
        self.tell(Transfer::Started { digest, size });
        // What was left is read by nobody before it is known to be good: a power cut may have left anything.
        let mut is_left = partial.length() > 0;
        loop {
            if partial.length() > size {
                partial = partial.restart()?;
                is_left = partial.length() > 0;
                continue;
            }
            if let Err(error) = self.fetch(&mut partial, coming, size, is_left) {
                if partial.length() == 0 {
                    partial.discard()?;
                }
                return Err(error);
            }
            if partial.actual() == digest {
                break;
            }
            if !is_left {
                let (member, actual) = (digest.to_string(), partial.actual());
                partial.discard()?;
                return Err(LoadError::DigestMismatch { member, expected: digest, actual });
            }
            partial = partial.restart()?;
            is_left = partial.length() > 0;
        }
        coming.growing.grow(&partial.file(), partial.length());
        coming.growing.end();
        self.tell(Transfer::Finished { digest });
        Ok(Source::Fetched(partial.finish()?))
    }

    /// Fetches what a blob lacks. Readers see it come unless it is `hidden`.
    fn fetch(
        &self,
        partial: &mut PartialBlob<'_>,
        coming: &Coming<'_>,
        size: u64,
        hidden: bool,
    ) -> Result<(), LoadError> {
        let Coming { from, descriptor, growing, .. } = coming;
        let digest = descriptor.digest;
        let fault = |source| LoadError::Fetch { digest, source };
        if partial.length() == size {
            return Ok(());
        }
        let reader = from.fetch(descriptor, partial.length()).map_err(fault)?;
        let reader =
            reader.ok_or_else(|| fault(io::Error::new(io::ErrorKind::NotFound, "it is not there")))?;
        // One byte more than there should be, to see that there is.
        let mut reader = reader.take(size - partial.length() + 1);
        let mut buffer = vec![0; BUFFER];
        let mut begun = partial.length();
        loop {
            if self.is_abandoned(&digest) || self.options.is_cancelled() {
                return Err(LoadError::Cancelled);
            }
            let count = match reader.read(&mut buffer) {
                Ok(0) => break,
                Ok(count) => count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(fault(error)),
            };
            partial.write_all(&buffer[..count]).at_path("write", || partial.path())?;
            let bytes = partial.length();
            if !hidden {
                growing.grow(&partial.file(), bytes);
            }
            if self.options.durability == Durability::Full && bytes - begun >= WRITE_BACK {
                begin_write_back(&partial.file(), begun, bytes - begun)
                    .at_path("write", || partial.path())?;
                begun = bytes;
            }
            self.tell(Transfer::Moved { digest, bytes });
        }
        match partial.length() {
            actual if actual == size => Ok(()),
            actual => Err(LoadError::SizeMismatch { member: digest.to_string(), expected: size, actual }),
        }
    }

    fn tell(&self, transfer: Transfer) {
        if let Some(tell) = self.options.transfer {
            tell(transfer);
        }
    }

    /// Copies a blob out of `layout`.
    fn copy(&self, incoming: &Incoming<'w>, layout: &dyn BlobSource) -> Result<ParkedBlob<'w>, LoadError> {
        let &Incoming { digest, size, .. } = incoming;
        let mut source = layout.open_blob(&digest)?;
        let mut writer = self.blobs.writer(self.workspace, digest.algorithm())?;
        let mut buffer = vec![0; BUFFER.min(usize::try_from(size).unwrap_or(BUFFER).max(1))];
        let (mut written, mut begun) = (0, 0);
        loop {
            if self.options.is_cancelled() {
                return Err(LoadError::of_stream(io::Error::other(Cancelled)));
            }
            let count = match source.read(&mut buffer) {
                Ok(0) => break,
                Ok(count) => count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(LoadError::of_stream(error)),
            };
            writer.write_all(&buffer[..count]).at_path("write", || writer.path())?;
            written += count as u64;
            if self.options.durability == Durability::Full && written - begun >= WRITE_BACK {
                begin_write_back(writer.file(), begun, written - begun).at_path("write", || writer.path())?;
                begun = written;
            }
            let mut bytes = locked(&self.bytes);
            *bytes += count as u64;
            self.options.report(*bytes);
        }
        let staged = writer.finish()?;
        verify(blob_path(&digest), &digest, staged.digest(), size, staged.size())?;
        Ok(staged.park())
    }
}

impl std::fmt::Debug for Arrival<'_, '_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Arrival").field("images", &self.images).finish_non_exhaustive()
    }
}

/// Where a blob is brought from.
enum Origin<'w> {
    Layout(Arc<Blobs>),
    Lent(&'w dyn BlobSource),
    Elsewhere(Box<Coming<'w>>),
}

/// Dropped when staging ends early: tells those who wait for blobs that these will not come.
struct Waiting<'s, 'a, 'w>(&'s Arrival<'a, 'w>);

impl Drop for Waiting<'_, '_, '_> {
    fn drop(&mut self) {
        for growing in self.0.incoming.iter().filter_map(|incoming| incoming.growing.as_ref()) {
            growing.fail();
        }
    }
}

/// Tells the kernel to begin writing these bytes to disk, so that who waits for them later waits for less.
fn begin_write_back(file: &File, offset: u64, length: u64) -> io::Result<()> {
    match std::num::NonZeroU64::new(length) {
        // Pages that cannot be dropped because they are dirty are written, which is all that is wanted of this.
        Some(length) => Ok(fadvise(file, offset, Some(length), Advice::DontNeed)?),
        None => Ok(()),
    }
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Nothing is left half-done under these locks, whatever panics.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
