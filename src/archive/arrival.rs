//! [`Arrival`]: what an archive or a layout brings along, from the moment when that is known until its blobs have their
//! names.
//!
//! A layout's blobs are copied by as many threads as call [`Arrival::stage`], while others may read them for what is in
//! them. No blob is visible before all of them are verified and, where that was asked for, on disk.

use std::fs::File;
use std::io::{self, Read, Write};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rustix::fs::{Advice, fadvise};

use super::LoadError;
use super::content::{Content, blob_path, verify};
use super::error::Cancelled;
use super::load::{Destination, LoadOptions, Loaded};
use super::walk::Needed;
use crate::blob::{BlobError, Blobs, ParkedBlob};
use crate::digest::Digest;
use crate::fs::{Context, Durability, Workspace};

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
    blobs: &'w Blobs,
    workspace: &'w Workspace,
    options: &'a LoadOptions<'a>,
}

/// One blob, and where its bytes are now.
struct Incoming<'w> {
    digest: Digest,
    size: u64,
    at: Mutex<Source<'w>>,
}

/// Where the bytes of a blob can be had.
pub(super) enum Source<'w> {
    /// In the workspace, verified.
    Staged(ParkedBlob<'w>),
    /// In another layout, not verified.
    Layout(Arc<Blobs>),
}

impl Source<'_> {
    fn open(&self, digest: &Digest) -> Result<File, BlobError> {
        match self {
            Self::Staged(blob) => blob.open(),
            Self::Layout(blobs) => blobs.open_blob(digest),
        }
    }
}

impl<'a, 'w> Arrival<'a, 'w> {
    /// `images` with everything in `needed`, all of which is pinned.
    pub(super) fn new(
        images: Vec<Loaded>,
        content: &mut impl Content<'w>,
        needed: &Needed,
        into: &Destination<'w>,
        options: &'a LoadOptions<'a>,
    ) -> Result<Self, LoadError> {
        let (mut incoming, mut present) = (Vec::new(), Vec::new());
        for (digest, size) in needed.bottom_up() {
            if into.blobs.holds(&digest, size)? {
                present.push(digest);
                continue;
            }
            if options.is_cancelled() {
                return Err(LoadError::Cancelled);
            }
            incoming.push(Incoming { digest, size, at: Mutex::new(content.source(&digest)?) });
        }
        let mut order: Vec<usize> = (0..incoming.len()).collect();
        order.sort_by_key(|&at| std::cmp::Reverse(incoming[at].size));
        let (next, bytes, failure) = (AtomicUsize::new(0), Mutex::new(0), Mutex::new(None));
        let &Destination { blobs, workspace, .. } = into;
        Ok(Self { images, incoming, order, present, next, bytes, failure, blobs, workspace, options })
    }

    /// The images. Their documents are verified; their layers are once they are staged.
    pub fn images(&self) -> &[Loaded] {
        &self.images
    }

    /// Opens a blob that an image needs, from wherever it is now. It may not have been verified yet.
    ///
    /// # Errors
    ///
    /// [`BlobError`] if it is nowhere or cannot be opened.
    pub fn open_blob(&self, digest: &Digest) -> Result<File, BlobError> {
        match self.incoming.iter().find(|incoming| incoming.digest == *digest) {
            Some(incoming) => locked(&incoming.at).open(digest),
            None => self.blobs.open_blob(digest),
        }
    }

    /// Brings blobs into the workspace and verifies them, until there is none left that nobody is at. Several threads may
    /// call this at the same time. What goes wrong is told at the end.
    pub fn stage(&self) {
        while let Some(&at) = self.order.get(self.next.fetch_add(1, Ordering::Relaxed)) {
            if locked(&self.failure).is_some() {
                return;
            }
            if let Err(error) = self.stage_one(&self.incoming[at]) {
                locked(&self.failure).get_or_insert(error);
            }
        }
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
        let Self { images, incoming, present, blobs, options, .. } = self;
        let full = options.durability == Durability::Full;
        let mut staged = Vec::with_capacity(incoming.len());
        for Incoming { digest, at, .. } in incoming {
            match at.into_inner().unwrap_or_else(PoisonError::into_inner) {
                Source::Staged(blob) => staged.push(blob),
                Source::Layout(_) => return Err(BlobError::Missing { digest }.into()),
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
        Ok(images)
    }

    fn stage_one(&self, incoming: &Incoming<'w>) -> Result<(), LoadError> {
        let layout = match &*locked(&incoming.at) {
            Source::Staged(blob) => {
                if self.options.durability == Durability::Full {
                    let file = blob.open()?;
                    begin_write_back(&file, 0, incoming.size).at_path("write", || blob.path())?;
                }
                return Ok(());
            }
            Source::Layout(layout) => Arc::clone(layout),
        };
        let blob = self.copy(incoming, &layout)?;
        *locked(&incoming.at) = Source::Staged(blob);
        Ok(())
    }

    /// Copies a blob out of `layout`.
    fn copy(&self, incoming: &Incoming<'w>, layout: &Blobs) -> Result<ParkedBlob<'w>, LoadError> {
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
