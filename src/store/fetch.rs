//! Fetch: an image is brought from elsewhere, unpacked as it comes.
//!
//! ```text
//! <root>/cache/downloads/<algorithm>-<hex>    the first bytes of a blob that did not come whole, or before the others
//! ```
//!
//! The steps are those of a load; where the blobs lie until they get their names is not the operation's workspace, so that
//! what has come of them outlasts an attempt that fails, whatever ended it. A collection removes what nobody is at.

use std::ffi::OsStr;
use std::fmt;
use std::num::NonZeroUsize;
use std::os::unix::ffi::OsStrExt;
use std::sync::atomic::AtomicBool;

use super::error::StoreError;
use super::load::{Elsewhere, LoadOptions, LoadedImage, Origin, Unpack, Wanted};
use super::{Inner, Store};
use crate::archive::{Fetch, Transfer};
use crate::blob::PartialBlob;
use crate::digest::Digest;
use crate::fs::{Dir, Kind, Workspace};
use crate::image::{Descriptor, Platform, Reference};

/// The directory of blobs that are not whole.
const DOWNLOADS: &str = "downloads";

/// How many blobs are fetched at a time unless the caller says otherwise. Registries and their caches often are no faster
/// for more, and some slow down those that ask for them.
pub(super) const AT_A_TIME: NonZeroUsize = NonZeroUsize::new(4).expect("it is not zero");

/// Which images of several are fetched.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub enum Platforms {
    /// The one for this machine.
    #[default]
    Host,
    /// Those for these platforms, each of which there must be.
    Of(Vec<Platform>),
    /// All.
    All,
}

/// How to fetch.
#[derive(Clone)]
#[non_exhaustive]
pub struct FetchOptions<'a> {
    /// Which images of an index. The index is kept whole, and what was not fetched of it can be fetched later. Default: the
    /// image for this machine.
    pub platforms: Platforms,
    /// When layers are unpacked. Default: as they come.
    pub unpack: Unpack,
    /// How many blobs are fetched at a time. Default 4.
    pub downloads: NonZeroUsize,
    /// Told what happens to each blob, from any thread.
    pub progress: Option<&'a (dyn Fn(Transfer) + Sync)>,
    /// Set by another thread to give up. What has come of the blobs is kept for the next attempt.
    pub cancel: Option<&'a AtomicBool>,
}

impl Default for FetchOptions<'_> {
    fn default() -> Self {
        let (platforms, unpack) = (Platforms::Host, Unpack::Now);
        Self { platforms, unpack, downloads: AT_A_TIME, progress: None, cancel: None }
    }
}

impl fmt::Debug for FetchOptions<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FetchOptions")
            .field("platforms", &self.platforms)
            .field("unpack", &self.unpack)
            .field("downloads", &self.downloads)
            .finish_non_exhaustive()
    }
}

impl Store {
    /// Fetches the image or index `target`, and gives it `names`. Only blobs are fetched that the store does not have,
    /// several at a time; layers are unpacked while they come. Every byte is verified. What an attempt before this one
    /// has left of a blob is not fetched again.
    ///
    /// # Errors
    ///
    /// [`StoreError::FalseDigest`] if a name has another digest than `target`; [`StoreError::Load`] if something cannot be fetched or is not what it should be, [`StoreError::Layer`] if a layer cannot be unpacked,
    /// [`StoreError::Cancelled`]. There is no image then and no name moved. What came of the blobs is kept in `cache/` for the
    /// next attempt, until the next [`Store::gc`]; what was wrong is not.
    pub fn fetch(
        &self,
        target: Descriptor,
        names: &[Reference],
        from: &dyn Fetch,
        options: &FetchOptions<'_>,
    ) -> Result<LoadedImage, StoreError> {
        let names = names.iter().map(|name| match name.digest() {
            Some(digest) if *digest != target.digest => {
                Err(StoreError::FalseDigest { name: name.clone(), digest: target.digest })
            }
            _ => Ok(name.clone()),
        });
        let names: Vec<Reference> = names.collect::<Result<_, _>>()?;
        let platforms = match &options.platforms {
            Platforms::Host => Some(vec![Platform::host()]),
            Platforms::Of(platforms) => Some(platforms.clone()),
            Platforms::All => None,
        };
        let (downloads, progress) = (options.downloads.get(), options.progress);
        let wanted = Wanted::Image(Box::new(target), names);
        let elsewhere = Elsewhere { from, wanted, downloads, progress };
        let how = LoadOptions {
            platforms,
            unpack: options.unpack,
            cancel: options.cancel,
            ..LoadOptions::default()
        };
        let mut fetched = self.load_from(Origin::Elsewhere(Box::new(elsewhere)), &how)?;
        Ok(fetched.pop().expect("one image was asked for, or there is an error"))
    }
}

impl Inner {
    /// Where blobs lie until they are whole.
    pub(super) fn ensure_downloads(&self) -> Result<Dir, StoreError> {
        Ok(self.cache()?.ensure_dir(DOWNLOADS, 0o700)?)
    }

    /// The same, if there is such a directory.
    pub(super) fn downloads(&self) -> Result<Option<Dir>, StoreError> {
        let cache = self.cache()?;
        match cache.find(DOWNLOADS)?.is_some_and(|stat| stat.kind == Kind::Directory) {
            true => Ok(cache.find_dir(DOWNLOADS)?),
            false => Ok(None),
        }
    }

    /// Bytes of blobs that are not whole.
    pub(super) fn downloaded(&self) -> Result<u64, StoreError> {
        let Some(dir) = self.downloads()? else { return Ok(0) };
        let mut bytes = 0;
        for entry in dir.names()? {
            let stat = dir.find(OsStr::from_bytes(&entry.name))?;
            bytes += stat.filter(|stat| stat.kind == Kind::File).map_or(0, |stat| stat.size);
        }
        Ok(bytes)
    }

    /// Removes what came of blobs that nobody is fetching or needs, and returns of how many and how many bytes. With `only_count`,
    /// it stays.
    pub(super) fn forget_downloads(
        &self,
        workspace: &Workspace,
        needed: impl Fn(&Digest) -> bool,
        only_count: bool,
    ) -> Result<(u64, u64), StoreError> {
        let Some(dir) = self.downloads()? else { return Ok((0, 0)) };
        // What has its place among the blobs has no business here, needed or not.
        let blobs = &self.layout.blobs;
        let awaited = |digest: &Digest| Ok(needed(digest) && blobs.size(digest)?.is_none());
        Ok(PartialBlob::collect(&dir, workspace, awaited, only_count)?)
    }
}
