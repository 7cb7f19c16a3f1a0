//! Commit: what a container changed becomes a layer, and the layer an image.
//!
//! The layer is written as the digest of its tar passes by, then the config that lists it, then the manifest that lists
//! both; each is synced before the next names it, and the name comes last. A commit without changes adds no layer.

use std::io::Write;
use std::sync::atomic::AtomicBool;

use super::Store;
use super::build_cache::StepKey;
use super::cancel::{self, While};
use super::container::Container;
use super::error::StoreError;
use super::image::{Image, name_for};
use super::names::Named;
use super::new_image::NewImage;
use super::operation::Operation;
use crate::blob::StagedBlob;
use crate::codec::{Encoder, Encoding};
use crate::digest::{Algorithm, DiffId};
use crate::fs::{Context, Durability, LockMode, Timestamp};
use crate::image::{Config, ConfigChange, Descriptor, Manifest, MediaType, Reference};
use crate::layer::{Layer, Selection};

/// How to make an image of a container.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct CommitOptions<'a> {
    /// What it is called and says of itself.
    pub image: NewImage,
    /// The step of a build that this does, which is then found in the [build cache](Store::build_cache) with
    /// [`NewImage::created_by`] for a note. Without a name, the image is kept for that step alone and is in no list.
    pub step: Option<StepKey>,
    /// What to leave out of the layer: names that the engine put into the root, attributes.
    pub selection: Selection,
    /// Set by another thread to give up.
    pub cancel: Option<&'a AtomicBool>,
}

impl CommitOptions<'_> {
    /// With this name.
    pub fn named(name: Reference) -> Self {
        Self { image: NewImage::named(name), ..Self::default() }
    }

    /// With one more change to the config.
    #[must_use]
    pub fn change(mut self, change: ConfigChange) -> Self {
        self.image = self.image.change(change);
        self
    }

    /// With a note for the history.
    #[must_use]
    pub fn message(mut self, message: impl Into<String>) -> Self {
        self.image = self.image.message(message);
        self
    }

    /// As the outcome of a step of a build.
    #[must_use]
    pub fn step(mut self, step: StepKey) -> Self {
        self.step = Some(step);
        self
    }

    /// With an author.
    #[must_use]
    pub fn author(mut self, author: impl Into<String>) -> Self {
        self.image = self.image.author(author);
        self
    }

    /// With the time to record.
    #[must_use]
    pub fn created(mut self, created: Timestamp) -> Self {
        self.image = self.image.created(created);
        self
    }
}

impl Container {
    /// Makes an image of its image and what it changed. May be done while it is mounted; the caller keeps its processes
    /// still if the image is to show one moment.
    ///
    /// # Errors
    ///
    /// [`StoreError::Container`] if a file cannot be part of a layer, [`StoreError::Blob`] if there is no space,
    /// [`StoreError::Cancelled`]. No image is visible then, its name points where it did, and what was written is removed.
    pub fn commit(&self, options: &CommitOptions<'_>) -> Result<Image, StoreError> {
        let (container, layers) = self.restored(options.cancel)?;
        let operation = container.store.inner.begin()?;
        let outcome = container.commit_in(layers, &operation, options);
        let outcome = outcome.map_err(|error| container.store.inner.lacking(container.name(), error));
        container.store.conclude(operation, cancel::told(outcome))
    }

    fn commit_in(
        &self,
        layers: Vec<Layer>,
        operation: &Operation,
        options: &CommitOptions<'_>,
    ) -> Result<Image, StoreError> {
        let store = &self.store;
        let base =
            store.inner.image(Named { target: self.record.image.target.clone(), names: Vec::new() })?;
        store.inner.pin_manifest(operation, &base)?;
        // Only so that nobody removes it meanwhile.
        let _lock = self.locked(LockMode::Shared)?;

        // What can be refused without looking at a file is refused before anything is written.
        let mut config = base.require_config()?.clone();
        config.apply(&options.image.changes).map_err(StoreError::Change)?;
        let step = options.image.step("plywood commit")?;
        let mut manifest = base.manifest().to_oci();
        match self.pack_layer(layers, options, operation)? {
            Some((diff_id, descriptor)) => {
                config.push_layer(diff_id, step);
                manifest.layers.push(descriptor);
            }
            None => config.push_empty_layer(step),
        }
        options.image.annotate(&mut manifest);
        // What the base was lent of is this store's own from now on.
        store.inner.take_over_blobs(&base.manifest().layers, operation)?;
        let image = store.put_image(&config, manifest, operation)?;
        if let Some(step) = options.step {
            store.inner.record_step(step, &image, options.image.created_by.as_deref(), operation)?;
            if options.image.name.is_none() {
                return store.inner.image(Named { target: image, names: Vec::new() });
            }
        }
        store.name_image(image, options.image.name.as_ref())
    }

    /// Writes the layer of what this container changed and gives the blob its name; `None` if nothing changed.
    fn pack_layer(
        &self,
        layers: Vec<Layer>,
        options: &CommitOptions<'_>,
        operation: &Operation,
    ) -> Result<Option<(DiffId, Descriptor)>, StoreError> {
        let blobs = &self.store.inner.layout.blobs;
        let writer = blobs.writer(operation.workspace(), Algorithm::Sha256)?;
        let path = writer.path();
        let mut encoder = Encoder::new(writer, options.image.compression).at("write", &path)?;
        let packed = self.with_layers(layers, |layer| {
            let out = While::wanted(&mut encoder, options.cancel);
            Ok(layer.pack(out, &options.selection, &options.image.pack)?)
        })?;
        encoder.flush().at("write", &path)?;
        let staged = encoder.finish().at("write", &path)?.finish()?;
        if packed.entries == 0 {
            return Ok(None);
        }
        let descriptor = self.store.put_layer(staged, options.image.compression, operation)?;
        Ok(Some((packed.diff_id, descriptor)))
    }
}

impl Store {
    /// Gives a layer that was written the name of its blob, and returns what a manifest says of it.
    pub(super) fn put_layer(
        &self,
        staged: StagedBlob<'_>,
        encoding: Encoding,
        operation: &Operation,
    ) -> Result<Descriptor, StoreError> {
        let blobs = &self.inner.layout.blobs;
        let media_type = MediaType::OCI_LAYER.with_encoding(encoding);
        let layer = Descriptor::new(media_type, staged.digest(), staged.size());
        operation.pin_blobs([&layer.digest])?;
        if !blobs.holds(&layer.digest, layer.size)? {
            blobs.publish(staged, self.inner.options.durability)?;
        }
        Ok(layer)
    }

    /// Stores `config` and `manifest`, which then lists it, and waits for all blobs until now.
    pub(super) fn put_image(
        &self,
        config: &Config,
        mut manifest: Manifest,
        operation: &Operation,
    ) -> Result<Descriptor, StoreError> {
        let (blobs, durability) = (&self.inner.layout.blobs, self.inner.options.durability);
        let config = config.to_json();
        manifest.config = Descriptor::of(MediaType::OCI_CONFIG, &config);
        let bytes = manifest.to_json();
        let target = Descriptor::of(manifest.media_type(), &bytes);
        operation.pin_blobs([&manifest.config.digest, &target.digest])?;
        for bytes in [&config, &bytes] {
            blobs.put(bytes, operation.workspace(), durability)?;
        }
        if durability == Durability::Full {
            blobs.sync()?;
        }
        Ok(target)
    }

    /// Keeps the image behind `target`, under `name` if there is one. Everything behind it is durable by now.
    ///
    /// # Errors
    ///
    /// [`StoreError::FalseDigest`] if `name` has another digest than the image that was made.
    pub(super) fn name_image(
        &self,
        target: Descriptor,
        name: Option<&Reference>,
    ) -> Result<Image, StoreError> {
        let named = self.inner.update_names(|names| {
            match name {
                Some(name) => drop(names.set(name_for(name, &target)?, &target)),
                None => names.keep(&target),
            }
            Ok(names.with_digest(&target.digest).expect("it was put in a moment ago"))
        })?;
        self.inner.image(named)
    }
}
