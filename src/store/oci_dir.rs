//! The store beside the crate [`ocidir`](::ocidir): its layout for that crate's readers, images from what that crate reads,
//! and images into that crate's layouts.
//!
//! Whatever is written is written by this crate. `ocidir` 0.8 updates `index.json` without a lock, so tags are lost where
//! two write at a time; it syncs no blob, so that after a power cut a name can lead to an empty manifest; it
//! panics on a full disk.

use std::collections::BTreeMap;
use std::fs::File;
use std::os::fd::OwnedFd;
use std::sync::{Mutex, PoisonError};

use ::ocidir::cap_std::fs::Dir as CapDir;
use ::ocidir::oci_spec::image as spec;
use ::ocidir::{OciDir, OciRead};

use super::error::StoreError;
use super::fetch::AT_A_TIME;
use super::image::Image;
use super::load::{Elsewhere, LoadOptions, LoadedImage, Origin, Wanted};
use super::{SaveOptions, Store};
use crate::archive::{LoadError, OciSource, SaveError, Transfer, Warning};
use crate::fs::{self, Context, Dir, Optional};

/// The store's `oci/` for whoever reads layouts with the crate `ocidir`. It has no way to write.
///
/// Names, manifests and blobs are found by the methods of [`OciRead`]. That crate looks for the annotation
/// `org.opencontainers.image.ref.name`, which is the familiar name here (`debian:12`), takes the first manifest that fits
/// in architecture and system, without a variant, and knows SHA-256 only. Its `fsck` believes manifests whatever their
/// digests are, and fails where an image has several platforms: [`Store::check`] does neither.
///
/// A reader takes no lock: what it has found can be removed from the store before it is read.
#[derive(Debug)]
pub struct ReadOnlyOciDir(OciDir);

impl ReadOnlyOciDir {
    /// The layout itself, for functions that want this very type. Nothing may be written with it: not to the index, because
    /// names would be lost that somebody gives at that moment, and not to the blobs, because the next collection
    /// removes what no name of the store leads to.
    pub fn into_inner(self) -> OciDir {
        self.0
    }
}

impl OciRead for ReadOnlyOciDir {
    type BlobReader = File;

    fn read_blob(&self, descriptor: &spec::Descriptor) -> ::ocidir::Result<File> {
        self.0.read_blob(descriptor)
    }

    fn read_index(&self) -> ::ocidir::Result<spec::ImageIndex> {
        self.0.read_index()
    }

    fn has_blob(&self, descriptor: &spec::Descriptor) -> ::ocidir::Result<bool> {
        self.0.has_blob(descriptor)
    }
}

impl Store {
    /// Opens the layout of this store for reading by the crate `ocidir`. Images that other stores lend are not in it.
    ///
    /// # Errors
    ///
    /// [`StoreError::Io`] if the directory of the layout cannot be opened.
    pub fn oci_dir(&self) -> Result<ReadOnlyOciDir, StoreError> {
        let layout = self.inner.layout.blobs.layout();
        let dir = CapDir::from_std_file(File::from(OwnedFd::from(layout.try_clone()?)));
        Ok(ReadOnlyOciDir(OciDir::open(dir).map_err(io_error).at_path("open", || layout.path_of(""))?))
    }

    /// Loads every image of whatever the crate `ocidir` reads: an `OciDir`, an `OciArchive`, anything that implements
    /// [`OciRead`]. Names and warnings are those of [`Store::load_directory`] for the same `index.json`; blobs that are here
    /// are not read.
    ///
    /// That crate reads `index.json` into its own types, so an entry of it that they have no place for is lost; manifests,
    /// configs and layers come as they are, and are believed nothing.
    ///
    /// # Errors
    ///
    /// [`StoreError::Load`] if a document or a blob is missing, cannot be read, or is not what it should be;
    /// [`StoreError::Layer`] if a layer cannot be unpacked; [`StoreError::Cancelled`]. No image was loaded and no name moved then. What
    /// came of the blobs is kept in `cache/` for the next attempt, until the next [`Store::gc`]; what was wrong is not.
    pub fn load_oci(
        &self,
        from: &(impl OciRead + Sync),
        options: &LoadOptions<'_>,
    ) -> Result<Vec<LoadedImage>, StoreError> {
        let index = from.read_index().and_then(|index| Ok(serde_json::to_vec(&index)?));
        let index = index.map_err(|source| LoadError::Read(std::io::Error::other(source)))?;
        let from = OciSource::new(from);
        let moved = Mutex::new(BTreeMap::new());
        let progress = options.progress.map(|progress| {
            let moved = &moved;
            move |transfer| {
                if let Transfer::Moved { digest, bytes } = transfer {
                    // A number that is not told is no reason to fail.
                    let mut moved = moved.lock().unwrap_or_else(PoisonError::into_inner);
                    moved.insert(digest, bytes);
                    progress(moved.values().sum());
                }
            }
        });
        let elsewhere = Elsewhere {
            from: &from,
            wanted: Wanted::Listed(index),
            downloads: AT_A_TIME.get(),
            progress: progress.as_ref().map(|progress| progress as _),
        };
        self.load_from(Origin::Elsewhere(Box::new(elsewhere)), options)
    }

    /// Writes `images` with their names into a layout that the crate `ocidir` has open. The layout keeps what else it holds; a
    /// name that is given to one of `images` is taken from what had it.
    ///
    /// Blobs are verified, written and synced before the index names them, all by this crate; nobody else may write to the
    /// layout at the same time.
    ///
    /// # Errors
    ///
    /// As [`Store::save_directory`]; [`SaveError::ExternalBlobs`] if the layout was opened with blobs from
    /// another directory, which is then left as it is.
    pub fn save_oci_dir(
        &self,
        images: &[Image],
        into: &OciDir,
        options: &SaveOptions<'_>,
    ) -> Result<Vec<Warning>, StoreError> {
        let (layout, blobs) = (owned(into.dir())?, owned(into.blobs_dir())?);
        let (here, there) = (layout.stat("blobs/sha256").optional()?, blobs.stat(".")?);
        if here.is_none_or(|here| !here.is_same_inode(&there)) {
            let (path, blobs) = (layout.path_of(""), blobs.path_of(""));
            return Err(SaveError::ExternalBlobs { path, blobs }.into());
        }
        self.save_in(images, &layout, options)
    }
}

/// A directory of that crate's as one of ours.
fn owned(dir: &CapDir) -> Result<Dir, fs::Error> {
    let handle = dir.try_clone().at_path("open", || fs::path_of(dir))?;
    // The handle may be one that only names the directory.
    Dir::from(OwnedFd::from(handle.into_std_file())).open_dir(".")
}

fn io_error(error: ::ocidir::Error) -> std::io::Error {
    match error {
        ::ocidir::Error::Io(error) => error,
        other => std::io::Error::other(other),
    }
}
