//! Load: an archive or a directory becomes images of the store.
//!
//! ```text
//! 1  an archive is read once into staging, of a directory the documents;      nothing is visible
//!    what looks like a layer is unpacked while it is read
//! 2  what the images lead to is pinned; layers are unpacked and verified,     layers that nothing leads to
//!    while a directory's blobs are copied and verified
//! 3  blobs get their names, synced                                            blobs that nothing leads to
//! 4  all names are given in one step                                          done
//! ```
//!
//! Whatever goes wrong before the last step leaves no image, and takes back what the steps before it brought. What a
//! process leaves that dies in between is the next collection's.

use std::collections::BTreeMap;
use std::io::Read;
use std::path::Path;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use super::error::StoreError;
use super::image::Image;
use super::names::{Moved, Named};
use super::operation::Operation;
use super::stack::{Beside, Layers};
use super::{Inner, Store};
use crate::archive::{self, Arrival, Destination, Fetch, Loaded, LoadedManifest, Transfer};
use crate::blob::BlobError;
use crate::digest::{DiffId, Digest};
use crate::fs::Dir;
use crate::image::{Descriptor, Index, Platform, Reference};
use crate::layer::{Early, Ensured, LayerKey};

/// When layers are unpacked.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Unpack {
    /// At once: whatever is wrong with them is found now.
    #[default]
    Now,
    /// When the first container needs them.
    OnDemand,
}

/// How to load.
#[derive(Clone, Default)]
#[non_exhaustive]
pub struct LoadOptions<'a> {
    /// The repository for images whose only name is a tag, as in most OCI directories. Default: they get no name.
    pub repository: Option<Reference>,
    /// Of images for several platforms, only those for these are loaded, and each of these there must be. Default: all that
    /// the archive has.
    pub platforms: Option<Vec<Platform>>,
    /// When layers are unpacked.
    pub unpack: Unpack,
    /// Told how many bytes of the archive have been read, now and then.
    pub progress: Option<&'a (dyn Fn(u64) + Sync)>,
    /// Set by another thread to give up.
    pub cancel: Option<&'a AtomicBool>,
}

/// One image that was loaded.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct LoadedImage {
    /// The image, with all names that it has now.
    pub image: Image,
    /// The names that it came with.
    pub names: Vec<Reference>,
    /// Names that another image had before. That one is kept, without a name if this was its last.
    pub moved: Vec<Moved>,
    /// What is odd about it, or could not be held here. Nothing of this is lost in the stored blobs.
    pub warnings: Vec<String>,
}

/// Where images come from.
pub(super) enum Origin<'f> {
    /// A tar.
    Archive(Box<dyn Read + Send + 'f>),
    /// A directory.
    Layout(&'f Dir),
    /// Anywhere.
    Elsewhere(Box<Elsewhere<'f>>),
}

/// What is fetched from a place.
pub(super) enum Wanted {
    /// An image, and what it is to be called.
    Image(Box<Descriptor>, Vec<Reference>),
    /// Everything that an `index.json` lists.
    #[cfg(feature = "ocidir")]
    Listed(Vec<u8>),
}

/// Images that are fetched.
pub(super) struct Elsewhere<'f> {
    pub(super) from: &'f dyn Fetch,
    pub(super) wanted: Wanted,
    pub(super) downloads: usize,
    pub(super) progress: Option<&'f (dyn Fn(Transfer) + Sync)>,
}

/// Who brings the blobs.
#[derive(Clone, Copy)]
enum Stagers<'e> {
    /// Threads that have nothing to unpack, of what is not unpacked yet: the disk is what they would wait for.
    Unpackers(&'e Early),
    /// This many threads, which wait for others most of the time.
    Own(usize),
}

impl Store {
    /// Loads every image of an archive: docker-archive or OCI archive, compressed or not, from a file or a pipe.
    ///
    /// # Errors
    ///
    /// [`StoreError::Load`] if it is no archive, damaged or incomplete: layers may be missing that images of this store have,
    /// and [`LoadError::MissingLayers`](archive::LoadError::MissingLayers) lists all others. [`StoreError::Layer`] if a layer cannot be
    /// unpacked. No image was loaded and no name moved then.
    pub fn load(
        &self,
        archive: impl Read + Send,
        options: &LoadOptions<'_>,
    ) -> Result<Vec<LoadedImage>, StoreError> {
        self.load_from(Origin::Archive(Box::new(archive)), options)
    }

    /// Loads every image of the OCI image layout in the directory `path`.
    ///
    /// # Errors
    ///
    /// As [`Store::load`].
    pub fn load_directory(
        &self,
        path: impl AsRef<Path>,
        options: &LoadOptions<'_>,
    ) -> Result<Vec<LoadedImage>, StoreError> {
        let dir = Dir::open_ambient(path)?;
        self.load_from(Origin::Layout(&dir), options)
    }

    pub(super) fn load_from(
        &self,
        from: Origin<'_>,
        options: &LoadOptions<'_>,
    ) -> Result<Vec<LoadedImage>, StoreError> {
        let operation = self.inner.begin()?;
        let outcome = self.load_in(&operation, from, options);
        self.conclude(operation, outcome)
    }

    fn load_in(
        &self,
        operation: &Operation,
        from: Origin<'_>,
        options: &LoadOptions<'_>,
    ) -> Result<Vec<LoadedImage>, StoreError> {
        let inner = &self.inner;
        let pin = |digests: &[_]| operation.pin_blobs(digests);
        let content = inner.content();
        let to = Destination {
            blobs: &inner.layout.blobs,
            workspace: operation.workspace(),
            lent: (!inner.lenders.is_empty()).then_some(&content),
            pin: &pin,
        };
        let progress = options.progress.map(|progress| move |bytes| progress(bytes));
        let cancelled = options.cancel.map(|cancel| || cancel.load(Ordering::Relaxed));
        let mut how = archive::LoadOptions::default();
        how.limits.clone_from(&inner.options.limits);
        how.durability = inner.options.durability;
        how.repository.clone_from(&options.repository);
        how.platforms.clone_from(&options.platforms);
        let known = OnceLock::new();
        let find_layer = |diff_id: &DiffId| inner.blob_of_layer(diff_id, &known);
        how.find_layer = Some(&find_layer);
        how.progress = progress.as_ref().map(|progress| progress as _);
        how.cancelled = cancelled.as_ref().map(|cancelled| cancelled as _);
        let (mut loaded, mut unpacked);
        match from {
            Origin::Archive(archive) => {
                let (arrival, early) = self.receive(archive, &to, &how, options)?;
                unpacked = self.unpack_arriving(&arrival, options, operation, Stagers::Unpackers(&early))?;
                loaded = arrival.publish()?;
            }
            Origin::Layout(dir) => {
                let arrival = archive::receive_layout(dir, &to, &how)?;
                let stagers = Stagers::Unpackers(&Early::default());
                unpacked = self.unpack_arriving(&arrival, options, operation, stagers)?;
                loaded = arrival.publish()?;
            }
            Origin::Elsewhere(elsewhere) => {
                let Elsewhere { from, wanted, downloads, progress } = *elsewhere;
                how.transfer = progress;
                let partial = inner.ensure_downloads()?;
                let (arrival, names) = match wanted {
                    Wanted::Image(target, names) => {
                        (archive::receive_from(from, *target, &partial, &to, &how)?, Some(names))
                    }
                    #[cfg(feature = "ocidir")]
                    Wanted::Listed(index) => {
                        (archive::receive_listed(from, &index, &partial, &to, &how)?, None)
                    }
                };
                unpacked = self.unpack_arriving(&arrival, options, operation, Stagers::Own(downloads))?;
                loaded = arrival.publish()?;
                if let (Some(names), Some(image)) = (names, loaded.first_mut()) {
                    image.names = names;
                }
            }
        }
        for (one, warnings) in loaded.iter().zip(&mut unpacked) {
            warnings.extend(self.unpack_loaded(one, options, operation)?);
        }
        self.name_loaded(loaded, unpacked)
    }

    /// Reads an archive; what looks like a layer is unpacked while it comes.
    fn receive<'a, 'w>(
        &self,
        archive: Box<dyn Read + Send + '_>,
        to: &Destination<'w>,
        how: &'a archive::LoadOptions<'a>,
        options: &LoadOptions<'_>,
    ) -> Result<(Arrival<'a, 'w>, Early), StoreError> {
        if options.unpack == Unpack::OnDemand || self.inner.options.parallelism.threads() == 1 {
            return Ok((archive::receive(archive, to, how)?, Early::default()));
        }
        let layers = &self.inner.layers;
        let is_there = |digest| matches!(layers.find(LayerKey::Free(DiffId::of_tar(digest))), Ok(Some(_)));
        let cancelled = options.cancel.map(|cancel| || cancel.load(Ordering::Relaxed));
        let mut ensure = self.ensure_options();
        ensure.cancelled = cancelled.as_ref().map(|cancelled| cancelled as _);
        let (arrival, early) = layers.unpack_early(to.workspace, &ensure, |begin| {
            let begins = |likely: Option<Digest>, coming| match likely.is_some_and(is_there) {
                true => None,
                false => begin(coming),
            };
            let arrival = archive::receive_while(archive, to, how, &begins);
            let wanted = arrival.iter().flat_map(|arrival| {
                let images = arrival.images().iter().filter_map(for_host);
                let layers = images.flat_map(|image| &image.manifest.layers);
                layers.filter_map(|layer| Some((layer.digest, arrival.begun(&layer.digest)?)))
            });
            let wanted = wanted.collect();
            (arrival, wanted)
        })?;
        Ok((arrival?, early))
    }

    /// Unpacks the images for this machine while their blobs are staged, and says what could not be held.
    fn unpack_arriving(
        &self,
        arrival: &Arrival<'_, '_>,
        options: &LoadOptions<'_>,
        operation: &Operation,
        stagers: Stagers<'_>,
    ) -> Result<Vec<Vec<String>>, StoreError> {
        let stage = || arrival.stage();
        let unpack = |meanwhile, early| {
            let unpacked = self.unpack_staged(arrival, options, operation, meanwhile, early);
            if unpacked.is_err() {
                arrival.abandon(None);
            }
            unpacked
        };
        let unpacked = match stagers {
            Stagers::Unpackers(early) => unpack(Some(&stage as _), Some(early)),
            Stagers::Own(count) => thread::scope(|scope| {
                let start = |_: &usize| thread::Builder::new().spawn_scoped(scope, stage).is_ok();
                if (0..count.max(1)).filter(start).count() == 0 {
                    // Where no thread can be had, one thing comes after the other.
                    stage();
                }
                unpack(None, None)
            }),
        };
        unpacked.map_err(|error| {
            // A blob that is not what it should be is the cause, whatever came of unpacking it.
            arrival.stage();
            arrival.take_failure().map_or(error, StoreError::from)
        })
    }

    fn unpack_staged(
        &self,
        arrival: &Arrival<'_, '_>,
        options: &LoadOptions<'_>,
        operation: &Operation,
        meanwhile: Option<&(dyn Fn() + Sync)>,
        early: Option<&Early>,
    ) -> Result<Vec<Vec<String>>, StoreError> {
        let unpack = |one: &Loaded| {
            if options.unpack == Unpack::OnDemand {
                return Ok(Vec::new());
            }
            let Some(image) = for_host(one) else { return Ok(Vec::new()) };
            let layers = Layers { blobs: &image.manifest.layers, diff_ids: &image.config.rootfs.diff_ids };
            operation.pin_layers(LayerKey::candidates(layers.diff_ids.iter().copied()))?;
            let open = |digest: &Digest| arrival.open_blob(digest);
            let failed = |diff_id: &DiffId| {
                let of_layer = layers.diff_ids.iter().zip(layers.blobs).find(|(known, _)| *known == diff_id);
                arrival.abandon(of_layer.map(|(_, blob)| blob.digest));
            };
            let beside = Beside { meanwhile, failed: Some(&failed), early };
            let ensured = self.unpack_layers(layers, &open, beside, operation, options.cancel)?;
            Ok(losses(&ensured))
        };
        arrival.images().iter().map(unpack).collect()
    }

    /// Unpacks what [`Store::unpack_arriving`] left, and says what could not be held.
    fn unpack_loaded(
        &self,
        loaded: &Loaded,
        options: &LoadOptions<'_>,
        operation: &Operation,
    ) -> Result<Vec<String>, StoreError> {
        let image = self.inner.image(Named { target: loaded.target.clone(), names: Vec::new() })?;
        if options.unpack == Unpack::OnDemand || image.config().is_none() {
            return Ok(Vec::new());
        }
        self.inner.pin_image(operation, &image)?;
        let ensured = self.unpack_pinned(&image, operation, options.cancel)?;
        Ok(losses(&ensured))
    }

    /// Gives all images their names in one step.
    fn name_loaded(
        &self,
        loaded: Vec<Loaded>,
        unpacked: Vec<Vec<String>>,
    ) -> Result<Vec<LoadedImage>, StoreError> {
        let (moved, named) = self.inner.update_names(|names| {
            let mut all = Vec::with_capacity(loaded.len());
            for one in &loaded {
                let set = one.names.iter().filter_map(|name| names.set(name.clone(), &one.target));
                all.push(set.collect::<Vec<_>>());
                names.keep(&one.target);
            }
            Ok((all, names.with_digests(&loaded.iter().map(|one| one.target.digest).collect())))
        })?;
        let mut done = Vec::with_capacity(loaded.len());
        for ((one, moved), mut warnings) in loaded.into_iter().zip(moved).zip(unpacked) {
            let known = named.binary_search_by(|named| named.target.digest.cmp(&one.target.digest));
            let image = self.inner.image(named[known.expect("it was put in a moment ago")].clone())?;
            warnings.splice(0..0, one.warnings.iter().map(ToString::to_string));
            done.push(LoadedImage { image, names: one.names, moved, warnings });
        }
        Ok(done)
    }
}

/// The blobs of all layers of all images, by diff id.
type Known = OnceLock<BTreeMap<DiffId, Digest>>;

impl Inner {
    /// The blob of a layer that some image of this store has, or a lent one. All of them are read to find the first, which happens only if
    /// an archive lacks a layer.
    fn blob_of_layer(&self, diff_id: &DiffId, known: &Known) -> Result<Option<Digest>, BlobError> {
        if let Some(known) = known.get() {
            return Ok(known.get(diff_id).copied());
        }
        let mut found = BTreeMap::new();
        let mut look = |target: &Descriptor| {
            self.walk(target, |_, manifest| {
                let Some(manifest) = manifest.filter(|manifest| manifest.is_image()) else { return Ok(()) };
                let diff_ids = self.config(manifest)?.rootfs.diff_ids;
                found.extend(diff_ids.into_iter().zip(manifest.layers.iter().map(|layer| layer.digest)));
                Ok(())
            })
        };
        let names = self.names().map_err(unreadable)?;
        let lent = self.lent_names().map_err(unreadable)?.into_iter().map(|(_, named)| named);
        // What is here is preferred to what is lent.
        for named in lent.chain(names.images()) {
            match look(&named.target) {
                // What is damaged is no help, and in nobody's way.
                Err(error) if !error.is_damage() => return Err(unreadable(error)),
                _ => {}
            }
        }
        Ok(known.get_or_init(|| found).get(diff_id).copied())
    }
}

/// Why it cannot be told what the store has.
fn unreadable(error: StoreError) -> BlobError {
    match error {
        StoreError::Blob(error) => error,
        StoreError::Io(error) => error.into(),
        other => BlobError::Source(std::io::Error::other(other)),
    }
}

/// The image of several that is unpacked on this machine.
fn for_host(loaded: &Loaded) -> Option<&LoadedManifest> {
    let index = Index::new(loaded.manifests.iter().map(|image| image.descriptor.clone()).collect());
    let best = index.select(&Platform::host()).map(|descriptor| descriptor.digest);
    let found = loaded.manifests.iter().find(|image| Some(image.descriptor.digest) == best);
    found.or_else(|| loaded.manifests.first())
}

/// What could not be held of layers that were made.
fn losses(ensured: &Ensured) -> Vec<String> {
    let mut warnings = Vec::new();
    for made in &ensured.made {
        warnings.extend(made.losses.described.iter().map(ToString::to_string));
        let more = made.losses.count - made.losses.described.len() as u64;
        if more > 0 {
            warnings.push(format!("layer {}: {more} more of this kind", made.diff_id));
        }
    }
    warnings
}
