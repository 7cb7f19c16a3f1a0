//! Push: an image of the store becomes one of a registry.
//!
//! What the registry has is not moved; the name comes last. Layers that are not compressed here, as those of a commit, are
//! compressed for the way, in staging: the manifest is then another one there, and the image id the same.

use std::fmt;
use std::num::NonZeroUsize;
use std::sync::atomic::AtomicBool;

use super::error::StoreError;
use super::image::Image;
use super::operation::Operation;
use super::{Store, cancel};
use crate::archive::{self, AbsentPlatforms, Deliver, DeliverOptions, Delivered, LayerCompression};
use crate::archive::{OpenContent, SaveError, SaveOptions, Transfer};
use crate::codec::Encoding;
use crate::image::{Descriptor, Platform, Reference};
use crate::parallelism::Parallelism;
use crate::registry::{Client, RegistryError, Repository};

/// How to push.
#[derive(Clone)]
#[non_exhaustive]
pub struct PushOptions<'a> {
    /// How layers are compressed. Default: those that are not, by gzip; others stay as they are.
    pub compression: LayerCompression,
    /// Of an image for several platforms, only the one for this.
    pub platform: Option<Platform>,
    /// What to do with platforms of the image that are not here.
    pub absent: AbsentPlatforms,
    /// Other repositories of the same registry that may have some of it: what they have is not moved. Those that the image has
    /// names in are asked without being said here.
    pub mount_from: Vec<Reference>,
    /// How many blobs are moved at a time. Default: three.
    pub uploads: Option<NonZeroUsize>,
    /// How many layers are compressed at a time.
    pub parallelism: Parallelism,
    /// Told what happens to each blob.
    pub progress: Option<&'a (dyn Fn(Transfer) + Sync)>,
    /// Set by another thread to give up.
    pub cancel: Option<&'a AtomicBool>,
}

impl Default for PushOptions<'_> {
    fn default() -> Self {
        Self {
            compression: LayerCompression::IfPlain(Encoding::Gzip { level: 6 }),
            platform: None,
            absent: AbsentPlatforms::default(),
            mount_from: Vec::new(),
            uploads: None,
            parallelism: Parallelism::default(),
            progress: None,
            cancel: None,
        }
    }
}

impl fmt::Debug for PushOptions<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PushOptions")
            .field("compression", &self.compression)
            .field("platform", &self.platform)
            .field("absent", &self.absent)
            .field("mount_from", &self.mount_from)
            .field("uploads", &self.uploads)
            .field("parallelism", &self.parallelism)
            .finish_non_exhaustive()
    }
}

impl Store {
    /// Pushes `image`, every platform of it, to the repository of `name`, under its tag.
    ///
    /// A name without a tag pushes by digest only, and one with a digest is refused if that is not what is pushed.
    ///
    /// # Errors
    ///
    /// [`StoreError::Registry`] if the registry does not take something; [`StoreError::Save`] if a blob is missing or damaged here,
    /// or a platform is ([`SaveError::AbsentPlatforms`]); [`StoreError::Cancelled`]. The name stands there for what it stood for; some
    /// blobs may be there, and the next push uses them.
    pub fn push(
        &self,
        image: &Image,
        name: &Reference,
        client: &Client,
        options: &PushOptions<'_>,
    ) -> Result<Delivered, StoreError> {
        let operation = self.pin_for_reading(std::slice::from_ref(image))?;
        let save = SaveOptions {
            compression: options.compression,
            platform: options.platform.clone(),
            parallelism: options.parallelism,
            limits: self.inner.options.limits.for_one_image(),
            workspace: operation.as_ref().map(Operation::workspace),
            cancel: options.cancel,
            ..SaveOptions::default()
        };
        let PushOptions { absent, uploads, progress, .. } = *options;
        let how = DeliverOptions { save, absent, uploads, progress };
        let repository = client.repository(name)?.until(options.cancel);
        let sources = image.names().iter().chain(&options.mount_from);
        let to = Receiver { repository, name, sources: sources.collect() };
        let delivered = archive::deliver(image.target(), &self.inner.content(), &to, &how);
        let delivered = cancel::told(delivered.map_err(of_registry))?;
        operation.map_or(Ok(()), Operation::end)?;
        Ok(delivered)
    }
}

/// What the registry said, if it is that.
fn of_registry(error: SaveError) -> StoreError {
    match error {
        SaveError::Deliver { digest, source } => match source.downcast::<RegistryError>() {
            Ok(error) => error.into(),
            Err(source) => SaveError::Deliver { digest, source }.into(),
        },
        other => other.into(),
    }
}

/// A repository that is pushed to.
#[derive(Debug)]
struct Receiver<'a> {
    repository: Repository<'a>,
    name: &'a Reference,
    /// Where else the registry may have something.
    sources: Vec<&'a Reference>,
}

impl Deliver for Receiver<'_> {
    fn has(&self, descriptor: &Descriptor) -> std::io::Result<bool> {
        if self.repository.has(descriptor)? {
            return Ok(true);
        }
        if descriptor.media_type.is_document() {
            return Ok(false);
        }
        for source in &self.sources {
            if self.repository.mount(descriptor, source)? {
                return Ok(true);
            }
        }
        Ok(false)
    }

    fn blob(
        &self,
        descriptor: &Descriptor,
        open: OpenContent<'_>,
        moved: &(dyn Fn(u64) + Sync),
    ) -> std::io::Result<()> {
        Ok(self.repository.send(descriptor, open, moved)?)
    }

    fn document(&self, descriptor: &Descriptor, bytes: &[u8], named: bool) -> std::io::Result<()> {
        if let Some(&expected) = self.name.digest().filter(|digest| named && **digest != descriptor.digest) {
            let (registry, actual) = (self.name.domain().to_owned(), descriptor.digest);
            return Err(RegistryError::NotTheDigest { registry, expected, actual }.into());
        }
        let tag = self.name.tag().filter(|_| named);
        Ok(self.repository.put_document(descriptor, bytes, tag)?)
    }
}
