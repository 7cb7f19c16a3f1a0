//! [`Walk`]: from a descriptor to everything it stands for, each part verified.

use std::collections::BTreeSet;

use super::content::{Content, Found, blob_path, find_in, read_in};
use super::load::{Destination, LoadOptions, Loaded, LoadedManifest};
use super::publish::publish;
use super::{LoadError, Warning};
use crate::codec::Compression;
use crate::digest::{DiffId, Digest};
use crate::image::{
    CompressionHint, Config, Descriptor, ImageError, Index, Manifest, ManifestDocument, MediaKind, Platform,
};

/// What has to be published, each blob once.
#[derive(Default)]
pub(super) struct Needed {
    pub(super) layers: Blobs,
    pub(super) configs: Blobs,
    /// Each behind what it refers to.
    pub(super) manifests: Blobs,
}

/// Digests and sizes in the order in which they were found.
#[derive(Default)]
pub(super) struct Blobs {
    order: Vec<(Digest, u64)>,
    known: BTreeSet<Digest>,
}

impl Blobs {
    fn add(&mut self, descriptor: &Descriptor) {
        if self.known.insert(descriptor.digest) {
            self.order.push((descriptor.digest, descriptor.size));
        }
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (Digest, u64)> {
        self.order.iter().copied()
    }
}

impl Needed {
    /// All of it, in the order of publishing.
    pub(super) fn in_order(&self) -> impl Iterator<Item = (Digest, u64)> {
        self.layers.iter().chain(self.configs.iter()).chain(self.manifests.iter())
    }
}

/// Whether what a descriptor stands for is there.
enum Presence {
    Whole,
    Absent,
    /// The document is there, but not all that it refers to.
    Lacking(Digest),
}

/// Reads documents and looks after what they refer to, in the archive first and then in the store: an archive may
/// leave out what its receiver has.
pub(super) struct Walk<'a, 'w, C> {
    pub(super) content: C,
    pub(super) options: &'a LoadOptions<'a>,
    into: Destination<'w>,
    needed: Needed,
    documents: usize,
}

impl<'a, 'w, C: Content<'w>> Walk<'a, 'w, C> {
    pub(super) fn new(content: C, into: &Destination<'w>, options: &'a LoadOptions<'a>) -> Self {
        Self { content, options, into: *into, needed: Needed::default(), documents: 0 }
    }

    /// Publishes everything that was found.
    ///
    /// # Errors
    ///
    /// As [`publish`].
    pub(super) fn publish(mut self) -> Result<(), LoadError> {
        publish(&mut self.content, &self.needed, &self.into, self.options)
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
        self.pin(&[target.digest])?;
        let missing = match self.descend(&target, 0, &mut loaded)? {
            Presence::Whole => {
                loaded.warnings.extend(foreign_platform(&loaded.manifests));
                return Ok(loaded);
            }
            Presence::Absent => (target.digest, wanted_by.to_owned()),
            Presence::Lacking(missing) => (missing, self.content.name_of(&target.digest)),
        };
        let (digest, wanted_by) = missing;
        Err(LoadError::MissingMember { member: blob_path(&digest), wanted_by: format!("{wanted_by:?}") })
    }

    fn descend(&mut self, at: &Descriptor, depth: usize, loaded: &mut Loaded) -> Result<Presence, LoadError> {
        if !matches!(at.media_type.kind(), MediaKind::Manifest | MediaKind::Index) {
            return self.leaf(at, loaded);
        }
        self.count_document(at)?;
        let Some(bytes) = self.document(at)? else { return Ok(Presence::Absent) };
        let limits = &self.options.limits;
        let document = ManifestDocument::parse_described(at, &bytes, limits);
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
        let Some(found) = self.find(&at.digest)? else { return Ok(Presence::Absent) };
        self.check_size(at, found)?;
        self.needed.layers.add(at);
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
        if depth == self.options.limits.index_depth {
            let (limit, maximum) = ("index_depth", depth as u64);
            return Err(LoadError::Limit { member: self.content.name_of(&at.digest), limit, maximum });
        }
        self.pin(&index.manifests.iter().map(|child| child.digest).collect::<Vec<_>>())?;
        let mut any = index.manifests.is_empty();
        let mut first_missing = None;
        for child in &index.manifests {
            let (manifest, platform) = (child.digest, child.platform.clone());
            let (missing, warning) = match self.descend(child, depth + 1, loaded)? {
                Presence::Whole => {
                    // An attestation says something of an image, and is none.
                    any |= !child.is_attestation();
                    continue;
                }
                Presence::Absent => (manifest, Warning::AbsentManifest { manifest, platform }),
                Presence::Lacking(missing) => {
                    (missing, Warning::IncompleteManifest { manifest, platform, missing })
                }
            };
            first_missing = first_missing.or(Some(missing));
            loaded.warnings.push(warning);
            loaded.absent.push(child.clone());
        }
        match first_missing {
            Some(missing) if !any => Ok(Presence::Lacking(missing)),
            _ => {
                self.needed.manifests.add(at);
                Ok(Presence::Whole)
            }
        }
    }

    fn manifest(
        &mut self,
        at: &Descriptor,
        manifest: Manifest,
        loaded: &mut Loaded,
    ) -> Result<Presence, LoadError> {
        self.pin_parts(&manifest)?;
        let Some(bytes) = self.document(&manifest.config)? else {
            return Ok(Presence::Lacking(manifest.config.digest));
        };
        let config = Config::parse_described(&manifest.config, &bytes, &self.options.limits);
        let config = config.map_err(|source| self.refused(&manifest.config, source))?;
        manifest.check_config(&config).map_err(|source| self.refused(at, source))?;

        let mut warnings = Vec::new();
        for (layer, diff_id) in manifest.layers.iter().zip(&config.rootfs.diff_ids) {
            match self.find(&layer.digest)? {
                Some(found) => {
                    self.check_size(layer, found)?;
                    self.check_diff_id(layer, diff_id, found)?;
                }
                None if is_foreign(layer) => warnings.push(Warning::ForeignLayer { layer: layer.digest }),
                None => return Ok(Presence::Lacking(layer.digest)),
            }
        }
        for layer in &manifest.layers {
            if !warnings.contains(&Warning::ForeignLayer { layer: layer.digest }) {
                self.needed.layers.add(layer);
            }
        }
        self.needed.configs.add(&manifest.config);
        self.needed.manifests.add(at);
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
            match self.find(&part.digest)? {
                Some(found) => self.check_size(part, found)?,
                None => return Ok(Presence::Lacking(part.digest)),
            }
        }
        parts().for_each(|part| self.needed.layers.add(part));
        self.needed.manifests.add(at);
        loaded.artifacts.push(at.clone());
        Ok(Presence::Whole)
    }

    fn pin(&self, digests: &[Digest]) -> Result<(), LoadError> {
        Ok((self.into.pin)(digests)?)
    }

    fn pin_parts(&self, manifest: &Manifest) -> Result<(), LoadError> {
        let parts = manifest.layers.iter().chain([&manifest.config]);
        self.pin(&parts.map(|part| part.digest).collect::<Vec<_>>())
    }

    fn find(&mut self, digest: &Digest) -> Result<Option<Found>, LoadError> {
        match self.content.find(digest)? {
            Some(found) => Ok(Some(found)),
            None => find_in(self.into.blobs, digest),
        }
    }

    /// The bytes that `at` names, not verified.
    fn document(&mut self, at: &Descriptor) -> Result<Option<Vec<u8>>, LoadError> {
        let limit = self.options.limits.json_bytes;
        if at.size > limit {
            let source = ImageError::TooLarge { document: "document", bytes: at.size, limit };
            return Err(self.refused(at, source));
        }
        match self.content.read(&at.digest, limit)? {
            Some(bytes) => Ok(Some(bytes)),
            None => read_in(self.into.blobs, &at.digest, limit),
        }
    }

    fn count_document(&mut self, at: &Descriptor) -> Result<(), LoadError> {
        let limit = self.options.limits.images;
        self.documents += 1;
        if self.documents > limit {
            let member = self.content.name_of(&at.digest);
            return Err(LoadError::Limit { member, limit: "images", maximum: limit as u64 });
        }
        if self.options.is_cancelled() {
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
        let plain = found.compression == Compression::None && !unknown;
        // A layer of no bytes may stand for a tar without entries.
        if !plain || found.size == 0 || !comparable || actual == *expected {
            return Ok(());
        }
        let member = self.content.name_of(&layer.digest);
        Err(LoadError::DiffIdMismatch { member, expected: *expected, actual })
    }
}

/// Whether a layer may be absent, because it must not be passed on.
fn is_foreign(layer: &Descriptor) -> bool {
    matches!(layer.media_type.kind(), MediaKind::Layer { distributable: false, .. })
}

fn foreign_platform(manifests: &[LoadedManifest]) -> Option<Warning> {
    let host = Platform::host();
    let offered = manifests.first()?.platform();
    let runs = manifests.iter().any(|manifest| host.accepts(&manifest.platform()));
    (!runs).then_some(Warning::ForeignPlatform { offered, host })
}
