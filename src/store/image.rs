//! [`Image`]: something that a name points at, read; and everything that it leads to.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use super::error::StoreError;
use super::names::{Named, Names};
use super::summary::ImageSummary;
use super::{Inner, Store};
use crate::blob::{BlobError, BlobSource};
use crate::container::ImageRecord;
use crate::digest::{DiffId, Digest};
use crate::image::{
    Config, Descriptor, ImageError, Index, Manifest, ManifestDocument, MediaKind, Platform, Reference,
};
use crate::layer::LayerKey;

/// An image of a store: what a name points at, with the manifest for this machine and its config, read and checked.
///
/// A value of this type is a snapshot: names that are given or taken later do not show.
#[derive(Clone, Debug)]
pub struct Image {
    pub(super) target: Descriptor,
    pub(super) names: Vec<Reference>,
    descriptor: Descriptor,
    manifest: Manifest,
    config: Option<Config>,
    /// The store that lends it.
    pub(super) lender: Option<PathBuf>,
}

/// One step of an image's history, with the layer that it made.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct HistoryEntry {
    /// The step as the config tells it.
    pub entry: crate::image::History,
    /// The layer, unless the step made none.
    pub layer: Option<DiffId>,
    /// Stored bytes of that layer.
    pub size: u64,
}

impl Image {
    /// The image id: the digest of its config. An artifact has no config of its own, often an empty one that all have, so its
    /// id is the digest of its manifest.
    pub fn id(&self) -> Digest {
        self.identity().digest
    }

    /// The document whose digest is its id.
    pub(super) fn identity(&self) -> &Descriptor {
        match &self.config {
            Some(_) => &self.manifest.config,
            None => &self.descriptor,
        }
    }

    /// The digest of what its names point at: of its manifest, or of the index that lists it.
    pub fn digest(&self) -> Digest {
        self.target.digest
    }

    /// The digest of its manifest.
    pub fn manifest_digest(&self) -> Digest {
        self.descriptor.digest
    }

    /// The store that it belongs to, if that is another one that lends it (see [`super::StoreOptions::additional`]).
    pub fn lent_by(&self) -> Option<&Path> {
        self.lender.as_deref()
    }

    /// What its names point at.
    pub fn target(&self) -> &Descriptor {
        &self.target
    }

    /// Its names, sorted.
    pub fn names(&self) -> &[Reference] {
        &self.names
    }

    /// Its manifest.
    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// Its config; `None` for an artifact, which is kept and not run.
    pub fn config(&self) -> Option<&Config> {
        self.config.as_ref()
    }

    /// What kind of artifact it is: what its manifest says, or else the type of its config. `None` for an image.
    pub fn artifact_type(&self) -> Option<String> {
        self.config.is_none().then(|| self.manifest.kind_of_artifact())
    }

    /// The platform that it is for, as far as it says.
    pub fn platform(&self) -> Option<Platform> {
        self.config.as_ref().map(Config::platform).or_else(|| self.descriptor.platform.clone())
    }

    /// Stored bytes of manifest, config and layers, each blob counted once.
    pub fn size(&self) -> u64 {
        let blobs: BTreeMap<Digest, u64> =
            self.closure().map(|descriptor| (descriptor.digest, descriptor.size)).collect();
        blobs.values().sum()
    }

    /// The diff ids of its layers, bottom first.
    pub fn diff_ids(&self) -> &[DiffId] {
        self.config.as_ref().map_or(&[], |config| &config.rootfs.diff_ids)
    }

    /// The same image under these names, which is how [`Store::save`] then names it. The store is not changed.
    #[must_use]
    pub fn with_names(mut self, names: Vec<Reference>) -> Self {
        self.names = names;
        self
    }

    /// Returns what a person calls it: its first name, or its id. Tags go before digests.
    pub fn label(&self) -> String {
        self.first_name().map_or_else(|| self.id().to_string(), Reference::familiar)
    }

    /// Returns its first tag, or its first name if all have digests.
    fn first_name(&self) -> Option<&Reference> {
        self.names.iter().find(|name| name.digest().is_none()).or(self.names.first())
    }

    /// Returns its names by digest, as docker and podman list them in `RepoDigests`: one for each repository that it has a
    /// name in, sorted.
    pub fn repo_digests(&self) -> Vec<Reference> {
        repo_digests(&self.names, self.digest())
    }

    /// Its history, oldest first, aligned with its layers.
    pub fn history(&self) -> Vec<HistoryEntry> {
        let Some(config) = &self.config else { return Vec::new() };
        let mut sizes = self.manifest.layers.iter().map(|layer| layer.size);
        config
            .history_with_layers()
            .map(|(entry, layer)| {
                let size = layer.and_then(|_| sizes.next()).unwrap_or(0);
                HistoryEntry { entry: entry.clone(), layer: layer.copied(), size }
            })
            .collect()
    }

    /// What a container made from it remembers of it.
    pub(super) fn record(&self) -> ImageRecord {
        ImageRecord {
            target: self.descriptor.clone(),
            id: self.id(),
            name: self.first_name().map(Reference::familiar),
        }
    }

    /// What a list shows of it.
    pub fn summary(&self) -> ImageSummary {
        ImageSummary {
            id: self.id(),
            target: self.target.clone(),
            manifest_digest: self.manifest_digest(),
            names: self.names.clone(),
            size: self.size(),
            created: self.config().and_then(|config| config.created.clone()),
            platform: self.platform(),
            artifact_type: self.artifact_type(),
            lent_by: self.lender.clone(),
        }
    }

    /// Its config, which an artifact does not have.
    pub(super) fn require_config(&self) -> Result<&Config, StoreError> {
        self.config.as_ref().ok_or_else(|| StoreError::NotAnImage {
            name: self.label(),
            reason: format!("it is an artifact of type {}", self.manifest.kind_of_artifact()),
        })
    }

    /// Manifest, config and layers.
    pub(super) fn closure(&self) -> impl Iterator<Item = &Descriptor> {
        [&self.descriptor, &self.manifest.config].into_iter().chain(&self.manifest.layers)
    }

    /// Every key that a layer of this image can have.
    pub(super) fn layer_keys(&self) -> Vec<LayerKey> {
        LayerKey::candidates(self.diff_ids().iter().copied())
    }
}

/// Returns the names by digest of an image with these names.
pub(super) fn repo_digests(names: &[Reference], digest: Digest) -> Vec<Reference> {
    BTreeSet::from_iter(names.iter().map(|name| name.at_digest(digest))).into_iter().collect()
}

/// Returns `name` as an image whose names point at `target` gets it: without a digest if it has a tag.
///
/// # Errors
///
/// [`StoreError::FalseDigest`] if it has the digest of something else.
pub(super) fn name_for(name: &Reference, target: &Descriptor) -> Result<Reference, StoreError> {
    match (name.digest(), name.tag()) {
        (Some(digest), _) if *digest != target.digest => {
            Err(StoreError::FalseDigest { name: name.clone(), digest: target.digest })
        }
        (Some(_), None) | (None, _) => Ok(name.clone()),
        (Some(_), Some(_)) => Ok(name.without_digest()),
    }
}

/// What a document in the store is. Its descriptor says which, so it is read once; [`crate::image::ManifestDocument`] is for
/// bytes of which nobody knows, and has to look first.
pub(super) enum Document {
    Manifest(Box<Manifest>),
    Index(Box<Index>),
}

impl Inner {
    pub(super) fn document(&self, descriptor: &Descriptor) -> Result<Document, StoreError> {
        let limits = &self.options.limits;
        let bytes = self.content().read(&descriptor.digest, limits.json_bytes)?;
        let read = match descriptor.media_type.kind() {
            MediaKind::Index => {
                Index::parse_described(descriptor, &bytes, limits).map(Box::new).map(Document::Index)
            }
            _ => Manifest::parse_described(descriptor, &bytes, limits).map(Box::new).map(Document::Manifest),
        };
        read.map_err(|source| StoreError::Image { image: descriptor.digest, source })
    }

    /// What one asks for the manifest or index `digest` with, of which nothing is known but that.
    pub(super) fn descriptor_of(&self, digest: &Digest) -> Result<Descriptor, StoreError> {
        let limits = &self.options.limits;
        let bytes = self.content().read(digest, limits.json_bytes)?;
        let document = ManifestDocument::parse(&bytes, limits);
        let document = document.map_err(|source| StoreError::Image { image: *digest, source })?;
        Ok(Descriptor::new(document.media_type(), *digest, bytes.len() as u64))
    }

    /// Reads the image that `named` points at: of an index, the manifest for this machine, or the first that is present.
    pub(super) fn image(&self, named: Named) -> Result<Image, StoreError> {
        let descriptor = match named.target.media_type.kind() {
            MediaKind::Index => self.choose(&named.target)?.into_owned(),
            _ => named.target.clone(),
        };
        let manifest = self.manifest(&descriptor)?;
        let config = manifest.is_image().then(|| self.config(&manifest)).transpose()?;
        Ok(Image { target: named.target, names: named.names, descriptor, manifest, config, lender: None })
    }

    /// The same image by another one of its manifests.
    pub(super) fn image_of(&self, image: &Image, descriptor: Descriptor) -> Result<Image, StoreError> {
        let found = self.image(Named { target: descriptor.clone(), names: image.names.clone() })?;
        Ok(Image { target: image.target.clone(), descriptor, lender: image.lender.clone(), ..found })
    }

    fn manifest(&self, descriptor: &Descriptor) -> Result<Manifest, StoreError> {
        match self.document(descriptor)? {
            Document::Manifest(manifest) => Ok(*manifest),
            Document::Index(_) => unreachable!("`choose` ends at what is described as no index"),
        }
    }

    /// The manifest behind `target`: of an index, that for this machine, or the first that is present.
    pub(super) fn choose<'t>(&self, target: &'t Descriptor) -> Result<Cow<'t, Descriptor>, StoreError> {
        let mut chosen = Cow::Borrowed(target);
        for _ in 0..=self.options.limits.index_depth {
            if chosen.media_type.kind() != MediaKind::Index {
                return Ok(chosen);
            }
            let Document::Index(index) = self.document(&chosen)? else { return Ok(chosen) };
            let refuse = |reason: &str| StoreError::NotAnImage {
                name: chosen.digest.to_string(),
                reason: reason.to_owned(),
            };
            let preferred = index.select(&Platform::host()).into_iter();
            let mut found = None;
            for descriptor in preferred.chain(index.manifests.iter().filter(|entry| !entry.is_attestation()))
            {
                // An index keeps its entries for platforms that were never loaded.
                if self.content().size(&descriptor.digest)?.is_some() {
                    found = Some(Cow::Owned(descriptor.clone()));
                    break;
                }
            }
            chosen = found.ok_or_else(|| refuse("none of its platforms is present"))?;
        }
        Err(StoreError::NotAnImage {
            name: chosen.digest.to_string(),
            reason: "its indexes are nested too deep".to_owned(),
        })
    }

    pub(super) fn config(&self, manifest: &Manifest) -> Result<Config, StoreError> {
        let limits = &self.options.limits;
        let fault = |source: ImageError| StoreError::Image { image: manifest.config.digest, source };
        let bytes = self.content().read(&manifest.config.digest, limits.json_bytes)?;
        let config = Config::parse_described(&manifest.config, &bytes, limits).map_err(fault)?;
        manifest.check_config(&config).map_err(fault)?;
        Ok(config)
    }

    /// Every blob that `target` leads to, itself included, whether it is present or not.
    pub(super) fn closure(&self, target: &Descriptor) -> Result<Vec<Digest>, StoreError> {
        let mut found = Vec::new();
        self.walk(target, |descriptor, manifest| {
            found.extend(parts(descriptor, manifest));
            Ok(())
        })?;
        Ok(found)
    }

    /// The same, with every key that a layer of the images behind `target` can have.
    pub(super) fn closure_and_layers(
        &self,
        target: &Descriptor,
    ) -> Result<(Vec<Digest>, Vec<LayerKey>), StoreError> {
        let (mut blobs, mut keys) = (Vec::new(), Vec::new());
        self.walk(target, |descriptor, manifest| {
            blobs.extend(parts(descriptor, manifest));
            if let Some(manifest) = manifest.filter(|manifest| manifest.is_image()) {
                keys.extend(LayerKey::candidates(self.config(manifest)?.rootfs.diff_ids));
            }
            Ok(())
        })?;
        Ok((blobs, keys))
    }

    /// Visits `target` and everything that it lists, manifests with what they say. Entries of an index may be absent; they
    /// are visited like any other document that is no manifest.
    pub(super) fn walk(
        &self,
        target: &Descriptor,
        mut visit: impl FnMut(&Descriptor, Option<&Manifest>) -> Result<(), StoreError>,
    ) -> Result<(), StoreError> {
        self.walk_documents(target, |descriptor, document| match document {
            Some(Document::Manifest(manifest)) => visit(descriptor, Some(manifest)),
            Some(Document::Index(_)) | None => visit(descriptor, None),
        })
    }

    /// The same with what the indexes say, too.
    pub(super) fn walk_documents(
        &self,
        target: &Descriptor,
        mut visit: impl FnMut(&Descriptor, Option<&Document>) -> Result<(), StoreError>,
    ) -> Result<(), StoreError> {
        let mut open = vec![(target.clone(), self.options.limits.index_depth)];
        while let Some((descriptor, depth)) = open.pop() {
            let document = match self.document(&descriptor) {
                Err(StoreError::Blob(BlobError::Missing { .. })) if descriptor.digest != target.digest => {
                    visit(&descriptor, None)?;
                    continue;
                }
                document => document?,
            };
            visit(&descriptor, Some(&document))?;
            match document {
                Document::Manifest(_) => {}
                Document::Index(index) => {
                    match depth.checked_sub(1) {
                        Some(depth) => open.extend(index.manifests.into_iter().map(|entry| (entry, depth))),
                        // Too deep to be used is too deep to be lost: the entries stay, unread.
                        None => index.manifests.iter().try_for_each(|entry| visit(entry, None))?,
                    }
                }
            }
        }
        Ok(())
    }
}

/// A document, and what it lists itself if it is a manifest.
fn parts<'d>(descriptor: &'d Descriptor, manifest: Option<&'d Manifest>) -> impl Iterator<Item = Digest> {
    let listed =
        manifest.into_iter().flat_map(|manifest| [&manifest.config].into_iter().chain(&manifest.layers));
    [descriptor].into_iter().chain(listed).map(|blob| blob.digest)
}

impl Store {
    /// Gives `image` one more name. If another image had it, that one is kept without and returned. An image that another
    /// store lends becomes one of this store with that, under the new name: its blobs are copied.
    ///
    /// A digest in `name` must be that of the image. A tag beside it becomes the name; without a tag the image gets the
    /// name by digest, which keeps it as a tag does.
    ///
    /// # Errors
    ///
    /// [`StoreError::FalseDigest`] if `name` has another digest than the image; [`StoreError::NotFound`] if the image was removed
    /// meanwhile; [`StoreError::Blob`] if a lent one cannot be copied; [`StoreError::TooManyNames`] if the store has as many names
    /// as it can have. The name points where it did, and blobs that were copied by then are removed.
    pub fn tag(&self, image: &Image, name: &Reference) -> Result<Option<super::Moved>, StoreError> {
        let name = match (name.digest(), name.tag()) {
            // People see the digest of the manifest, too.
            (Some(digest), Some(_)) if *digest == image.manifest_digest() => name.without_digest(),
            _ => name_for(name, &image.target)?,
        };
        if image.lent_by().is_some() {
            return self.tag_lent(image, name);
        }
        let digest = image.digest();
        let set = |names: &mut Names| Ok(names.has(&digest).then(|| names.set(name.clone(), &image.target)));
        match self.inner.update_names(set)? {
            Some(moved) => Ok(moved),
            None => self.tag_step(image, name),
        }
    }

    /// Names an image that only a step of a build keeps.
    fn tag_step(&self, image: &Image, name: Reference) -> Result<Option<super::Moved>, StoreError> {
        // Before the look, so that nobody who evicts the step after it can also collect the image.
        let operation = self.inner.begin()?;
        self.inner.pin_held(&operation, image)?;
        if !self.inner.is_of_step(&image.digest())? {
            return Err(StoreError::NotFound { what: "image", name: image.digest().to_string() });
        }
        let moved = self.inner.update_names(|names| Ok(names.set(name, &image.target)))?;
        operation.end()?;
        Ok(moved)
    }

    /// Takes a name away. The image stays, without a name if that was the last.
    ///
    /// # Errors
    ///
    /// [`StoreError::NotFound`] if nothing has that name, [`StoreError::Lent`] if another store gives it. Every name points
    /// where it did.
    pub fn untag(&self, name: &Reference) -> Result<Digest, StoreError> {
        self.inner.update_names(|names| match names.unset(name) {
            Some(target) => Ok(target.digest),
            None => {
                if let Some((lent, _)) = self.inner.lent_image_named(name)? {
                    Self::refuse_lent(&lent)?;
                }
                Err(StoreError::NotFound { what: "image", name: name.familiar() })
            }
        })
    }

    /// The bytes of the image's manifest as they are stored.
    ///
    /// # Errors
    ///
    /// [`StoreError::Blob`] if they are missing or damaged.
    pub fn manifest_bytes(&self, image: &Image) -> Result<Vec<u8>, StoreError> {
        Ok(self.inner.content().read(&image.manifest_digest(), self.inner.options.limits.json_bytes)?)
    }

    /// The bytes of what the image's names point at as they are stored: of its manifest, or of the index that lists it.
    ///
    /// # Errors
    ///
    /// [`StoreError::Blob`] if they are missing or damaged.
    pub fn target_bytes(&self, image: &Image) -> Result<Vec<u8>, StoreError> {
        Ok(self.inner.content().read(&image.digest(), self.inner.options.limits.json_bytes)?)
    }

    /// The bytes of the image's config, or of an artifact's, as they are stored.
    ///
    /// # Errors
    ///
    /// [`StoreError::Blob`] if they are missing or damaged.
    pub fn config_bytes(&self, image: &Image) -> Result<Vec<u8>, StoreError> {
        Ok(self.inner.content().read(&image.manifest.config.digest, self.inner.options.limits.json_bytes)?)
    }
}
