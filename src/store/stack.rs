//! The layers of images and containers, unpacked: between what `image` says and what `layer` holds.

use std::io::Read;
use std::sync::atomic::{AtomicBool, Ordering};

use super::error::StoreError;
use super::image::Image;
use super::layout::Access;
use super::names::Named;
use super::operation::Operation;
use super::{Inner, Store};
use crate::archive::is_foreign;
use crate::blob::{BlobError, BlobSource};
use crate::container::ContainerRecord;
use crate::digest::{DiffId, Digest};
use crate::driver::DriverError;
use crate::fs::Source;
use crate::image::Descriptor;
use crate::layer::{
    Early, EnsureOptions, Ensured, Layer, LayerError, LayerKey, LayerSource, LayerStore, MOST_STACKED,
    Progress, Stacking, agree,
};
use crate::whiteout::Namespace;

/// The layers of an image, bottom first.
#[derive(Clone, Copy)]
pub(super) struct Layers<'i> {
    pub(super) blobs: &'i [Descriptor],
    pub(super) diff_ids: &'i [DiffId],
}

impl Layers<'_> {
    /// Describes an error that concerns the blob of a foreign layer, which sources of images need not have.
    fn of_foreign(&self, error: StoreError) -> StoreError {
        let blob = match &error {
            StoreError::Layer(LayerError::Open { blob, source, .. }) if is_missing(source) => blob,
            _ => return error,
        };
        match self.blobs.iter().find(|layer| layer.digest == *blob) {
            Some(layer) if is_foreign(layer) => StoreError::ForeignLayer {
                digest: layer.digest,
                media_type: layer.media_type.clone(),
                urls: layer.urls.clone(),
            },
            _ => error,
        }
    }
}

/// Returns whether a blob could not be opened because there is none.
pub(super) fn is_missing(error: &std::io::Error) -> bool {
    let inner = error.get_ref().and_then(|inner| inner.downcast_ref::<BlobError>());
    matches!(inner, Some(BlobError::Missing { .. }))
}

/// Opens the blob of a layer, wherever it is.
pub(super) type OpenLayer<'o> = &'o (dyn Fn(&Digest) -> Result<Box<dyn Read + Send>, BlobError> + Sync);

/// What goes on beside the unpacking.
#[derive(Clone, Copy, Default)]
pub(super) struct Beside<'b> {
    /// What threads do that have no layer.
    pub(super) meanwhile: Option<&'b (dyn Fn() + Sync)>,
    /// Told as soon as a layer cannot be made.
    pub(super) failed: Option<&'b (dyn Fn(&DiffId) + Sync)>,
    /// Layers that are unpacked already.
    pub(super) early: Option<&'b Early>,
}

impl Inner {
    /// Opens the blob of a layer that is in the store.
    pub(super) fn open_layer(&self, digest: &Digest) -> Result<Box<dyn Read + Send>, BlobError> {
        Ok(Box::new(Source::from(self.content().open_blob(digest)?)))
    }

    /// Keeps `image` and all its layers from collection until `operation` ends, and makes sure that they were not
    /// collected before that.
    pub(super) fn pin_image(&self, operation: &Operation, image: &Image) -> Result<(), StoreError> {
        operation.pin_blobs(&self.closure(image.target())?)?;
        operation.pin_layers(image.layer_keys())?;
        // Whatever was collected in between is missed here.
        self.closure(image.target()).map(drop)
    }

    /// The same for what a container of `image` relies on: its manifest and what that lists. `image` was read, so nothing
    /// but what may have been collected since has to be looked at again.
    pub(super) fn pin_manifest(&self, operation: &Operation, image: &Image) -> Result<(), StoreError> {
        operation.pin_all(image.closure().map(|descriptor| &descriptor.digest), image.layer_keys())?;
        for digest in [image.manifest_digest(), image.manifest().config.digest] {
            if self.content().size(&digest)?.is_none() {
                return Err(BlobError::Missing { digest }.into());
            }
        }
        Ok(())
    }

    /// As [`Inner::pin_manifest`], for an image that the caller has had for a while and somebody may have removed.
    pub(super) fn pin_held(&self, operation: &Operation, image: &Image) -> Result<(), StoreError> {
        match self.pin_manifest(operation, image) {
            Err(error) if error.is_damage() && !self.names()?.has(&image.digest()) => {
                Err(StoreError::NotFound { what: "image", name: image.digest().to_string() })
            }
            pinned => pinned,
        }
    }

    /// Opens what is stacked for these layers, both bottom first; `None` if not all is there and can be relied on.
    pub(super) fn find_stack(&self, keys: &[LayerKey]) -> Result<Option<Vec<Layer>>, StoreError> {
        let open = |keys: &[LayerKey]| -> Result<Option<Vec<Layer>>, StoreError> {
            let find = |key: &LayerKey| match self.layout.access {
                Access::ReadWrite => self.layers.find(*key),
                // Who cannot mount can read layers whatever their marks.
                Access::ReadOnly => self.layers.find_any(*key),
            };
            let found: Option<Vec<Layer>> = keys.iter().map(find).collect::<Result<_, _>>()?;
            match found.iter().flatten().find(|layer| !layer.shows_marks()) {
                None => Ok(found),
                Some(hidden) => Err(DriverError::ForeignMarks {
                    path: hidden.tree.dir.path_of(""),
                    recorded: Namespace::Trusted,
                    obeyed: Namespace::User,
                }
                .into()),
            }
        };
        if keys.len() <= MOST_STACKED {
            let found = open(keys)?;
            return match (&found, self.layout.access) {
                // What stands on something else now is another layer. Who cannot make it can still read this one.
                (Some(layers), Access::ReadWrite) if !agree(layers)? => Ok(None),
                _ => Ok(found),
            };
        }
        match (open(&Stacking::of(keys).keys())?, self.layout.access) {
            // Who cannot merge can still read one layer after the other.
            (None, Access::ReadOnly) => open(keys),
            (found, _) => Ok(found),
        }
    }
}

impl Inner {
    /// Opens what is stacked for these layers, as [`Inner::find_stack`], where none of it can be made again: layers of an
    /// older version of the store, with the marks of both families, are used as they are.
    fn find_outdated_stack(&self, keys: &[LayerKey]) -> Result<Option<Vec<Layer>>, StoreError> {
        self.layers.keep_outdated(&Stacking::of(keys).keys())?;
        self.find_stack(keys)
    }
}

impl Store {
    /// Unpacks every layer of `image`, pinned by `operation`, that is not unpacked.
    pub(super) fn unpack_pinned(
        &self,
        image: &Image,
        operation: &Operation,
        cancel: Option<&AtomicBool>,
    ) -> Result<Ensured, StoreError> {
        image.require_config()?;
        let layers = Layers { blobs: &image.manifest().layers, diff_ids: image.diff_ids() };
        let open = |digest: &Digest| self.inner.open_layer(digest);
        self.unpack_layers(layers, &open, Beside::default(), operation, cancel)
    }

    /// Unpacks `layers`, pinned by `operation`, into a directory of layers of their own. `told` hears how many bytes of
    /// blobs were read more.
    pub(super) fn make_layers(
        &self,
        layers: Layers<'_>,
        into: &LayerStore,
        operation: &Operation,
        cancel: Option<&AtomicBool>,
        told: &(dyn Fn(u64) + Sync),
    ) -> Result<Ensured, StoreError> {
        let open = |digest: &Digest| -> Result<Box<dyn Read + Send>, BlobError> {
            Ok(Box::new(self.inner.content().open_blob(digest)?))
        };
        let source = |(blob, &diff_id): (&Descriptor, &DiffId)| {
            let digest = blob.digest;
            let open = move || open(&digest).map_err(std::io::Error::other);
            LayerSource::new(diff_id, digest, blob.size, Box::new(open))
        };
        let sources: Vec<_> = layers.blobs.iter().zip(layers.diff_ids).map(source).collect();
        let cancelled = cancel.map(|cancel| || cancel.load(Ordering::Relaxed));
        let seen = std::sync::Mutex::new(std::collections::BTreeMap::new());
        let progress = |progress: Progress| {
            let Progress::Read { diff_id, bytes } = progress else { return };
            let mut seen = seen.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
            // A layer may be read twice, and what is told once counts.
            let before = seen.entry(diff_id).or_insert(0);
            if bytes > *before {
                told(bytes - *before);
                *before = bytes;
            }
        };
        let mut options = self.ensure_options();
        options.cancelled = cancelled.as_ref().map(|cancelled| cancelled as _);
        options.progress = Some(&progress);
        into.ensure(&sources, operation.workspace(), &options)
            .map_err(|error| layers.of_foreign(error.into()))
    }

    pub(super) fn ensure_options<'o>(&self) -> EnsureOptions<'o> {
        let mut options = EnsureOptions::default();
        options.parallelism = self.inner.options.parallelism;
        options.limits = self.inner.options.limits.for_one_image();
        options
    }

    /// Unpacks every layer of `image`, pinned by `operation`, that is not unpacked, and merges the lowest where they are more
    /// than can be stacked. The layers that are returned are those to be stacked; the keys are all.
    pub(super) fn stack_pinned(
        &self,
        image: &Image,
        operation: &Operation,
        cancel: Option<&AtomicBool>,
    ) -> Result<Ensured, StoreError> {
        let mut ensured = self.unpack_pinned(image, operation, cancel)?;
        if ensured.keys.len() <= MOST_STACKED {
            return Ok(ensured);
        }
        let stacking = Stacking::of(&ensured.keys);
        operation.pin_layers(stacking.merged_keys())?;
        // Each has an open directory, of which a process may have no more than a thousand.
        ensured.layers.retain(|layer| stacking.single.contains(&layer.key));
        let layers = &self.inner.layers;
        let merge = |group: &Vec<LayerKey>| layers.ensure_merged(group, operation.workspace());
        let merged = stacking.merged.iter().map(merge).collect::<Result<Vec<_>, _>>()?;
        ensured.layers.splice(..0, merged);
        Ok(ensured)
    }

    /// Unpacks every one of `layers`, pinned by `operation`, that is not unpacked.
    pub(super) fn unpack_layers(
        &self,
        layers: Layers<'_>,
        open: OpenLayer<'_>,
        beside: Beside<'_>,
        operation: &Operation,
        cancel: Option<&AtomicBool>,
    ) -> Result<Ensured, StoreError> {
        let source = |(blob, &diff_id): (&Descriptor, &DiffId)| {
            let digest = blob.digest;
            let open = move || open(&digest).map_err(std::io::Error::other);
            LayerSource::new(diff_id, digest, blob.size, Box::new(open))
        };
        let sources: Vec<_> = layers.blobs.iter().zip(layers.diff_ids).map(source).collect();
        let cancelled = cancel.map(|cancel| || cancel.load(Ordering::Relaxed));
        let mut options = self.ensure_options();
        let progress = |progress: Progress| {
            if let (Progress::Failed { diff_id }, Some(failed)) = (progress, beside.failed) {
                failed(&diff_id);
            }
        };
        options.meanwhile = beside.meanwhile;
        options.early = beside.early;
        options.progress = Some(&progress);
        options.cancelled = cancelled.as_ref().map(|cancelled| cancelled as _);
        let ensured = self.inner.layers.ensure(&sources, operation.workspace(), &options);
        ensured.map_err(|error| layers.of_foreign(error.into()))
    }

    /// Unpacks the layers of a container again, of which some were lost; they may be called otherwise now.
    pub(super) fn unpack_again(
        &self,
        record: &ContainerRecord,
        operation: &Operation,
        cancel: Option<&AtomicBool>,
    ) -> Result<Ensured, StoreError> {
        let made = || {
            let image = self.inner.image(Named { target: record.image.target.clone(), names: Vec::new() })?;
            self.inner.pin_manifest(operation, &image)?;
            self.stack_pinned(&image, operation, cancel)
        };
        made().or_else(|error| match error {
            StoreError::Layer(LayerError::Cancelled) => Err(error),
            error => match self.inner.find_outdated_stack(&record.stack)? {
                Some(layers) => {
                    tracing::warn!(container = record.id, %error, "the layers of a container cannot be made again, and are used as they are");
                    Ok(Ensured { keys: record.stack.clone(), layers, made: Vec::new() })
                }
                None => Err(error),
            },
        })
    }
}
