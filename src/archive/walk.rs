//! [`Walk`]: from a descriptor to everything it stands for, each part verified.

use std::collections::BTreeSet;

use super::content::{Found, blob_path};
use super::load::{Loaded, LoadedManifest};
use super::{LoadError, MissingLayer, Warning};
use crate::codec::Compression;
use crate::digest::{DiffId, Digest};
use crate::image::{
    CompressionHint, Config, Descriptor, ImageError, Index, Manifest, ManifestDocument, MediaKind, Platform,
    json,
};
use crate::limits::Limits;

/// Blobs that belong together, each once however often it is referred to.
#[derive(Default)]
pub(super) struct Needed {
    layers: Vec<(Digest, u64)>,
    configs: Vec<(Digest, u64)>,
    /// Each behind what it refers to.
    manifests: Vec<(Digest, u64)>,
    known: BTreeSet<Digest>,
}

impl Needed {
    fn add(&mut self, list: fn(&mut Self) -> &mut Vec<(Digest, u64)>, descriptor: &Descriptor) {
        if self.known.insert(descriptor.digest) {
            list(self).push((descriptor.digest, descriptor.size));
        }
    }

    fn layer(&mut self, descriptor: &Descriptor) {
        self.add(|needed| &mut needed.layers, descriptor);
    }

    fn config(&mut self, descriptor: &Descriptor) {
        self.add(|needed| &mut needed.configs, descriptor);
    }

    fn manifest(&mut self, descriptor: &Descriptor) {
        self.add(|needed| &mut needed.manifests, descriptor);
    }

    /// Digests and sizes, what is referred to in front of what refers to it: the order of publishing.
    pub(super) fn bottom_up(&self) -> impl DoubleEndedIterator<Item = (Digest, u64)> {
        self.layers.iter().chain(&self.configs).chain(&self.manifests).copied()
    }

    /// The other way round, documents first: the order in an archive, so that who reads it knows early what will come.
    pub(super) fn top_down(&self) -> impl Iterator<Item = (Digest, u64)> {
        self.manifests.iter().rev().chain(&self.configs).chain(&self.layers).copied()
    }
}

/// Whether what a descriptor stands for is there.
enum Presence {
    Whole,
    Absent,
    /// The document is there, but not all that it refers to.
    Lacking(Lack),
}

/// What of a document's parts is not there.
enum Lack {
    Part(Digest),
    /// Layers, by blob and diff id; at least one.
    Layers(Vec<(Digest, DiffId)>),
}

impl Lack {
    /// One of them.
    fn first(&self) -> Option<Digest> {
        match self {
            Self::Part(digest) => Some(*digest),
            Self::Layers(layers) => layers.first().map(|(digest, _)| *digest),
        }
    }
}

/// Where a walk leads through.
pub(super) trait Lookup {
    /// Keeps what is about to be looked for from being removed.
    fn pin(&mut self, digests: &[Digest]) -> Result<(), LoadError>;

    /// What there is of `at`.
    fn find(&mut self, at: &Descriptor) -> Result<Option<Found>, LoadError>;

    /// The bytes of a document, not verified. Too long ones are cut behind `limit`, and the caller finds out.
    fn read(&mut self, at: &Descriptor, limit: u64) -> Result<Option<Vec<u8>>, LoadError>;

    /// What the content is called there, for messages.
    fn name_of(&self, digest: &Digest) -> String;
}

/// Reads documents and looks after what they refer to.
pub(super) struct Walk<'a, L> {
    pub(super) content: L,
    pub(super) needed: Needed,
    limits: &'a Limits,
    cancelled: &'a dyn Fn() -> bool,
    foreign_layers: bool,
    /// Of an index, only the images for these platforms are looked for.
    platforms: Option<&'a [Platform]>,
    documents: usize,
    /// What the documents take.
    memory: u64,
}

impl<'a, L: Lookup> Walk<'a, L> {
    pub(super) fn new(content: L, limits: &'a Limits, cancelled: &'a dyn Fn() -> bool) -> Self {
        Self {
            content,
            needed: Needed::default(),
            limits,
            cancelled,
            foreign_layers: true,
            platforms: None,
            documents: 0,
            memory: 0,
        }
    }

    /// Passes over layers that must not be passed on, if they can be had elsewhere.
    pub(super) fn without_foreign_layers(self) -> Self {
        Self { foreign_layers: false, ..self }
    }

    /// Looks only for images for these platforms where there are several; the others count as absent.
    pub(super) fn only_for(self, platforms: Option<&'a [Platform]>) -> Self {
        Self { platforms, ..self }
    }

    /// Everything that `target` stands for, which `wanted_by` lists.
    ///
    /// # Errors
    ///
    /// [`LoadError`] if a document is missing or refused, a layer or config is missing or not what the document says.
    /// Below an index, what is missing is a warning as long as something is there.
    pub(super) fn image(&mut self, target: Descriptor, wanted_by: &str) -> Result<Loaded, LoadError> {
        let mut loaded = Loaded {
            target: target.clone(),
            manifests: Vec::new(),
            artifacts: Vec::new(),
            absent: Vec::new(),
            names: Vec::new(),
            warnings: Vec::new(),
        };
        self.content.pin(&[target.digest])?;
        let (lack, wanted_by) = match self.descend(&target, 0, &mut loaded)? {
            Presence::Whole => return Ok(loaded),
            Presence::Absent => (Lack::Part(target.digest), wanted_by.to_owned()),
            Presence::Lacking(lack) => (lack, self.content.name_of(&target.digest)),
        };
        Err(match lack {
            Lack::Part(digest) => LoadError::MissingMember { member: blob_path(&digest), wanted_by },
            Lack::Layers(layers) => {
                let missing = |(blob, diff_id)| {
                    let (member, wanted_by) = (blob_path(&blob), wanted_by.clone());
                    MissingLayer { member, diff_id, wanted_by }
                };
                LoadError::MissingLayers { layers: layers.into_iter().map(missing).collect() }
            }
        })
    }

    fn descend(&mut self, at: &Descriptor, depth: usize, loaded: &mut Loaded) -> Result<Presence, LoadError> {
        if !matches!(at.media_type.kind(), MediaKind::Manifest | MediaKind::Index) {
            return self.leaf(at, loaded);
        }
        self.count_document(at)?;
        let Some(bytes) = self.document(at)? else { return Ok(Presence::Absent) };
        let document = ManifestDocument::parse_described(at, &bytes, self.limits);
        match document.map_err(|source| self.refused(at, source))? {
            ManifestDocument::Index(index) => self.index(at, &index, depth, loaded),
            ManifestDocument::Image(manifest) if !at.is_attestation() => self.manifest(at, manifest, loaded),
            ManifestDocument::Image(manifest) | ManifestDocument::Artifact(manifest) => {
                self.artifact(at, &manifest, loaded)
            }
        }
    }

    /// Something of a kind that is not known here, kept as it is.
    fn leaf(&mut self, at: &Descriptor, loaded: &mut Loaded) -> Result<Presence, LoadError> {
        let Some(found) = self.content.find(at)? else { return Ok(Presence::Absent) };
        self.check_size(at, found)?;
        self.needed.layer(at);
        let (digest, media_type) = (at.digest, at.media_type.clone());
        loaded.warnings.push(Warning::UnknownType { digest, media_type });
        loaded.artifacts.push(at.clone());
        Ok(Presence::Whole)
    }

    fn index(
        &mut self,
        at: &Descriptor,
        index: &Index,
        depth: usize,
        loaded: &mut Loaded,
    ) -> Result<Presence, LoadError> {
        if depth == self.limits.index_depth {
            let (limit, maximum) = ("index_depth", depth as u64);
            return Err(LoadError::Limit { member: self.content.name_of(&at.digest), limit, maximum });
        }
        self.content.pin(&index.manifests.iter().map(|child| child.digest).collect::<Vec<_>>())?;
        let wanted = self.wanted_of(at, index)?;
        let mut any = index.manifests.is_empty();
        let mut worst = None;
        for child in &index.manifests {
            if wanted.as_ref().is_some_and(|wanted| !wanted.contains(&child.digest)) {
                loaded.absent.push(child.clone());
                continue;
            }
            let (manifest, platform) = (child.digest, child.platform.clone());
            let (lack, warning) = match self.descend(child, depth + 1, loaded)? {
                Presence::Whole => {
                    // An attestation says something of an image, and is none.
                    any |= !child.is_attestation();
                    continue;
                }
                Presence::Absent => (Lack::Part(manifest), Warning::AbsentManifest { manifest, platform }),
                Presence::Lacking(lack) => {
                    let missing = lack.first().unwrap_or(manifest);
                    (lack, Warning::IncompleteManifest { manifest, platform, missing })
                }
            };
            // Layers can be brought; a platform that is absent mostly was never wanted.
            match (&worst, &lack) {
                (None, _) | (Some(Lack::Part(_)), Lack::Layers(_)) => worst = Some(lack),
                _ => {}
            }
            loaded.warnings.push(warning);
            loaded.absent.push(child.clone());
        }
        match worst {
            Some(lack) if !any => Ok(Presence::Lacking(lack)),
            _ => {
                self.needed.manifest(at);
                Ok(Presence::Whole)
            }
        }
    }

    /// Which parts of an index are looked for: the best image for each platform, what is said of these, and whatever may
    /// have more of them inside. `None` if it is all.
    fn wanted_of(&self, at: &Descriptor, index: &Index) -> Result<Option<BTreeSet<Digest>>, LoadError> {
        let Some(platforms) = self.platforms else { return Ok(None) };
        let nested = index.manifests.iter().filter(|child| child.media_type.kind() == MediaKind::Index);
        let mut wanted: BTreeSet<Digest> = nested.map(|child| child.digest).collect();
        let is_nested = !wanted.is_empty();
        for platform in platforms {
            match index.select(platform) {
                Some(image) => _ = wanted.insert(image.digest),
                None if is_nested => {}
                None => {
                    let images = index.manifests.iter().filter(|child| !child.is_attestation());
                    return Err(LoadError::NoPlatform {
                        member: self.content.name_of(&at.digest),
                        wanted: Box::new(platform.clone()),
                        found: images.filter_map(|child| child.platform.clone()).collect(),
                    });
                }
            }
        }
        let said_of_wanted = |child: &&Descriptor| {
            let subject = child.annotations.get("vnd.docker.reference.digest");
            child.is_attestation()
                && subject.and_then(|digest| digest.parse().ok()).is_some_and(|of| wanted.contains(&of))
        };
        let said: Vec<_> = index.manifests.iter().filter(said_of_wanted).map(|child| child.digest).collect();
        wanted.extend(said);
        Ok(Some(wanted))
    }

    fn manifest(
        &mut self,
        at: &Descriptor,
        manifest: Manifest,
        loaded: &mut Loaded,
    ) -> Result<Presence, LoadError> {
        self.pin_parts(&manifest)?;
        let Some(bytes) = self.document(&manifest.config)? else {
            return Ok(Presence::Lacking(Lack::Part(manifest.config.digest)));
        };
        let config = Config::parse_described(&manifest.config, &bytes, self.limits);
        let config = config.map_err(|source| self.refused(&manifest.config, source))?;
        manifest.check_config(&config).map_err(|source| self.refused(at, source))?;

        let (mut warnings, mut missing) = (Vec::new(), Vec::new());
        for (layer, diff_id) in manifest.layers.iter().zip(&config.rootfs.diff_ids) {
            let passed_over = !self.foreign_layers && is_passed_over(layer);
            match self.content.find(layer)?.filter(|_| !passed_over) {
                Some(found) => {
                    self.check_size(layer, found)?;
                    self.check_diff_id(layer, diff_id, found)?;
                }
                None if is_foreign(layer) => warnings.push(Warning::ForeignLayer { layer: layer.digest }),
                None => missing.push((layer.digest, *diff_id)),
            }
        }
        if !missing.is_empty() {
            return Ok(Presence::Lacking(Lack::Layers(missing)));
        }
        for layer in &manifest.layers {
            if !warnings.contains(&Warning::ForeignLayer { layer: layer.digest }) {
                self.needed.layer(layer);
            }
        }
        self.needed.config(&manifest.config);
        self.needed.manifest(at);
        let digest = manifest.config.digest;
        warnings
            .extend(config.warnings().into_iter().map(|warning| Warning::Config { config: digest, warning }));
        loaded.warnings.append(&mut warnings);
        loaded.manifests.push(LoadedManifest { descriptor: at.clone(), manifest, config });
        Ok(Presence::Whole)
    }

    fn artifact(
        &mut self,
        at: &Descriptor,
        manifest: &Manifest,
        loaded: &mut Loaded,
    ) -> Result<Presence, LoadError> {
        self.pin_parts(manifest)?;
        let parts = || manifest.layers.iter().chain([&manifest.config]);
        for part in parts() {
            match self.content.find(part)? {
                Some(found) => self.check_size(part, found)?,
                None => return Ok(Presence::Lacking(Lack::Part(part.digest))),
            }
        }
        parts().for_each(|part| self.needed.layer(part));
        self.needed.manifest(at);
        loaded.artifacts.push(at.clone());
        Ok(Presence::Whole)
    }

    fn pin_parts(&mut self, manifest: &Manifest) -> Result<(), LoadError> {
        let parts = manifest.layers.iter().chain([&manifest.config]);
        self.content.pin(&parts.map(|part| part.digest).collect::<Vec<_>>())
    }

    /// The bytes that `at` names, not verified.
    fn document(&mut self, at: &Descriptor) -> Result<Option<Vec<u8>>, LoadError> {
        let limit = self.limits.json_bytes;
        if at.size > limit {
            let source = ImageError::TooLarge { document: "document", bytes: at.size, limit };
            return Err(self.refused(at, source));
        }
        let bytes = self.content.read(at, limit)?;
        // All of them are kept until the end, and a small one may ask for the same large one as many others.
        self.memory += bytes.as_deref().map_or(0, json::memory);
        let maximum = self.limits.documents_memory;
        if self.memory > maximum {
            let member = self.content.name_of(&at.digest);
            return Err(LoadError::Limit { member, limit: "documents_memory", maximum });
        }
        Ok(bytes)
    }

    fn count_document(&mut self, at: &Descriptor) -> Result<(), LoadError> {
        let limit = self.limits.images;
        self.documents += 1;
        if self.documents > limit {
            let member = self.content.name_of(&at.digest);
            return Err(LoadError::Limit { member, limit: "images", maximum: limit as u64 });
        }
        if (self.cancelled)() {
            return Err(LoadError::Cancelled);
        }
        Ok(())
    }

    fn refused(&self, at: &Descriptor, source: ImageError) -> LoadError {
        LoadError::image(self.content.name_of(&at.digest), source)
    }

    fn check_size(&self, expected: &Descriptor, found: Found) -> Result<(), LoadError> {
        if expected.size == found.size {
            return Ok(());
        }
        let member = self.content.name_of(&expected.digest);
        Err(LoadError::SizeMismatch { member, expected: expected.size, actual: found.size })
    }

    /// A layer that is not compressed is its own diff id. One that is gets verified when it is unpacked.
    fn check_diff_id(&self, layer: &Descriptor, expected: &DiffId, found: Found) -> Result<(), LoadError> {
        let actual = DiffId::of_tar(layer.digest);
        let comparable = layer.digest.algorithm() == expected.as_digest().algorithm();
        // What is wrapped in something unknown may well be encrypted.
        let unknown =
            matches!(layer.media_type.kind(), MediaKind::Layer { compression: CompressionHint::Unknown, .. });
        let plain = found.compression == Some(Compression::None) && !unknown;
        // A layer of no bytes may stand for a tar without entries.
        if !plain || found.size == 0 || !comparable || actual == *expected {
            return Ok(());
        }
        let member = self.content.name_of(&layer.digest);
        Err(LoadError::DiffIdMismatch { member, expected: *expected, actual })
    }
}

/// Returns whether a layer may be absent, because it must not be passed on.
pub(crate) fn is_foreign(layer: &Descriptor) -> bool {
    matches!(layer.media_type.kind(), MediaKind::Layer { distributable: false, .. })
}

/// Whether a layer is left out of what is saved: it must not be passed on, and can be had elsewhere.
pub(super) fn is_passed_over(layer: &Descriptor) -> bool {
    is_foreign(layer) && !layer.urls.is_empty()
}
