//! Lenders: other stores whose images and layers this one may use, and never changes.
//!
//! ```text
//! <lender>/
//!   store.json    has to be of a format that is known
//!   oci/          its names and blobs are read
//!   layers/       its layers are stacked where they lie; without the right to read them, its blobs serve
//! ```
//!
//! Nothing is written there and no lock is taken (invariant 7), so a lender may be on a read-only file system, belong to
//! somebody else, or be changed by its owner at any time. What counts is what is there when it is needed, asked for in
//! this store first and then in the lenders, in their order: a container notes keys, not where they were found, so
//! stores may move. A lender that cannot be used is in the way of nothing but what needs it.
//!
//! This store's own images never depend on a lender (invariant 2): whoever commits on a lent image or gives it a name
//! takes its blobs over. Layers are caches, and stay where they are.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use super::error::StoreError;
use super::image::Image;
use super::layout;
use super::names::{self, Moved, Named, Names};
use super::operation::Operation;
use super::stack::is_missing;
use super::{Inner, Store};
use crate::blob::{BlobError, BlobSource, Blobs};
use crate::digest::Digest;
use crate::fs::{Context, Dir, Durability};
use crate::image::{Descriptor, Reference};
use crate::layer::LentLayers;

/// Another store, as far as it can be used.
#[derive(Debug)]
pub(super) struct Lender {
    path: PathBuf,
    state: LenderState,
    /// `None` if nothing of it can be used.
    blobs: Option<Blobs>,
}

/// What can be used of another store.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum LenderState {
    /// Everything.
    Usable,
    /// Its images, but not its layers: they are unpacked once more, here.
    BlobsOnly {
        /// Why.
        reason: String,
    },
    /// Nothing.
    Unusable {
        /// Why.
        reason: String,
    },
}

/// Another store that lends its images and layers.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct LenderInfo {
    /// The directory that was named.
    pub path: PathBuf,
    /// What can be used of it.
    pub state: LenderState,
}

/// Opens the stores in `paths`, for a store in `own`.
pub(super) fn open(paths: &[PathBuf], own: &Dir) -> Result<(Vec<Lender>, Vec<LentLayers>), StoreError> {
    let (mut lenders, mut layers) = (Vec::with_capacity(paths.len()), Vec::new());
    let mut known = vec![(own.stat(".")?, "it is this store itself")];
    for path in paths {
        let mut blobs = None;
        let state = match Dir::open_ambient(path) {
            Err(error) => unusable(super::closed(path, error)),
            Ok(root) => {
                let stat = root.stat(".")?;
                if let Some((_, reason)) = known.iter().find(|(other, _)| other.is_same_inode(&stat)) {
                    return Err(StoreError::Lender { path: path.clone(), reason });
                }
                known.push((stat, "it is named twice"));
                match open_blobs(&root) {
                    Err(error) => unusable(error),
                    Ok(found) => {
                        blobs = Some(found);
                        match root.open_dir("layers").and_then(LentLayers::open) {
                            Ok(found) => {
                                layers.push(found);
                                LenderState::Usable
                            }
                            Err(error) => LenderState::BlobsOnly { reason: with_causes(&error) },
                        }
                    }
                }
            }
        };
        lenders.push(Lender { path: path.clone(), state, blobs });
    }
    Ok((lenders, layers))
}

fn open_blobs(root: &Dir) -> Result<Blobs, StoreError> {
    layout::check_format(root)?;
    Ok(Blobs::open(root.open_dir("oci")?)?)
}

fn unusable(error: StoreError) -> LenderState {
    LenderState::Unusable { reason: with_causes(&error) }
}

fn with_causes(error: &dyn std::error::Error) -> String {
    let cause = error.source().map(|cause| format!(": {}", with_causes(cause)));
    format!("{error}{}", cause.unwrap_or_default())
}

impl Lender {
    /// Its names as they are now; none if they cannot be read.
    fn names(&self, inner: &Inner) -> Names {
        let Some(blobs) = &self.blobs else { return Names::default() };
        names::read(blobs.layout(), &inner.options.limits).unwrap_or_else(|error| {
            tracing::warn!(store = ?self.path, error = with_causes(&error), "the images of another store cannot be listed");
            Names::default()
        })
    }
}

/// Tells of an image that `store` lends and that cannot be read.
pub(super) fn damaged_elsewhere(store: &Path, named: &Named, error: &StoreError) {
    let (target, error) = (named.target.digest, with_causes(error));
    tracing::warn!(?store, %target, error, "an image of another store is damaged");
}

/// Blobs of this store, and behind them those of its lenders. A blob of a lender that cannot be read is not there.
#[derive(Clone, Copy, Debug)]
pub(super) struct Content<'a> {
    own: &'a Blobs,
    lenders: &'a [Lender],
}

impl BlobSource for Content<'_> {
    fn open_blob(&self, digest: &Digest) -> Result<File, BlobError> {
        match self.own.open_blob(digest) {
            Err(BlobError::Missing { .. }) => {}
            found => return found,
        }
        for lender in self.lenders {
            match lender.blobs.as_ref().map(|blobs| blobs.open_blob(digest)) {
                None | Some(Err(BlobError::Missing { .. })) => {}
                Some(Ok(file)) => return Ok(file),
                Some(Err(error)) => {
                    tracing::warn!(store = ?lender.path, error = with_causes(&error), "a blob of another store cannot be read");
                }
            }
        }
        Err(BlobError::Missing { digest: *digest })
    }

    fn path(&self, digest: &Digest) -> PathBuf {
        let mut lent = self.lenders.iter().filter_map(|lender| lender.blobs.as_ref());
        let has = |blobs: &&Blobs| blobs.open_blob(digest).is_ok();
        match self.own.open_blob(digest) {
            Ok(_) => self.own,
            Err(_) => lent.find(has).unwrap_or(self.own),
        }
        .path(digest)
    }
}

impl Inner {
    /// The blobs that can be read, lent ones included.
    pub(super) fn content(&self) -> Content<'_> {
        Content { own: &self.layout.blobs, lenders: &self.lenders }
    }

    /// Whether a lender has an image with this target.
    pub(super) fn is_lent(&self, target: &Digest) -> bool {
        let has =
            |lender: &Lender| lender.names(self).images().iter().any(|named| named.target.digest == *target);
        self.lenders.iter().any(has)
    }

    /// The images of all lenders, without the names that this store or an earlier lender gives to another. One that is
    /// here too and has no name of its own left is left out.
    pub(super) fn lent_names(&self) -> Result<Vec<(&Path, Named)>, StoreError> {
        if self.lenders.is_empty() {
            return Ok(Vec::new());
        }
        let mut seen = vec![self.names()?];
        let mut lent = Vec::new();
        for lender in &self.lenders {
            let here = lender.names(self);
            for Named { target, mut names } in here.images() {
                names.retain(|name| !seen.iter().any(|before| before.has_name(name)));
                if !names.is_empty() || !seen.iter().any(|before| before.has(&target.digest)) {
                    lent.push((&*lender.path, Named { target, names }));
                }
            }
            seen.push(here);
        }
        Ok(lent)
    }

    /// Reads a lent image.
    fn lent_image(&self, store: &Path, named: Named) -> Result<Image, StoreError> {
        let mut image = self.image(named)?;
        image.lender = Some(store.to_owned());
        Ok(image)
    }

    /// The lent images whose id or digest begins with or is `name`, each once.
    fn lent_images_with_id(&self, name: &str) -> Result<Vec<Image>, StoreError> {
        let hex = name.strip_prefix("sha256:").unwrap_or(name);
        let is_prefix =
            !hex.is_empty() && hex.bytes().all(|digit| matches!(digit, b'0'..=b'9' | b'a'..=b'f'));
        let mut found: Vec<Image> = Vec::new();
        if !is_prefix && name.parse::<Digest>().is_err() {
            return Ok(found);
        }
        for image in self.lent_images()? {
            let ids = [image.id(), image.digest(), image.manifest_digest()];
            if ids.iter().any(|id| id.to_string() == name || id.hex() == hex) {
                return Ok(vec![image]);
            }
            let begins = is_prefix && ids.iter().any(|id| id.hex().starts_with(hex));
            if begins && found.iter().all(|known| known.id() != image.id()) {
                found.push(image);
            }
        }
        Ok(found)
    }

    /// All images of lenders that can be read.
    pub(super) fn lent_images(&self) -> Result<Vec<Image>, StoreError> {
        let mut images = Vec::new();
        for (store, named) in self.lent_names()? {
            match self.lent_image(store, named.clone()) {
                Ok(image) => images.push(image),
                Err(error) if error.is_damage() => damaged_elsewhere(store, &named, &error),
                Err(error) => return Err(error),
            }
        }
        Ok(images)
    }

    /// The lent image that is called `name`.
    pub(super) fn lent_image_named(
        &self,
        name: &Reference,
    ) -> Result<Option<(Image, Option<Reference>)>, StoreError> {
        for (store, named) in self.lent_names()? {
            let Some(digest) = name.digest() else {
                if named.names.contains(name) {
                    return Ok(Some((self.lent_image(store, named)?, Some(name.clone()))));
                }
                continue;
            };
            if named.names.iter().any(|known| known.is_beside(name)) {
                if named.target.digest == *digest {
                    return Ok(Some((self.lent_image(store, named)?, None)));
                }
                if let Some(mut image) = self.listed_image(&named, digest)? {
                    image.lender = Some(store.to_owned());
                    return Ok(Some((image, None)));
                }
            }
        }
        Ok(None)
    }

    /// Makes this store the owner of everything that `target` leads to: what only lenders have is copied, verified on the
    /// way. `operation` has pinned it.
    pub(super) fn take_over(&self, target: &Descriptor, operation: &Operation) -> Result<(), StoreError> {
        self.walk(target, |descriptor, manifest| {
            // An index keeps its entries for platforms that were never loaded.
            if manifest.is_some() || self.content().size(&descriptor.digest)?.is_some() {
                self.take_over_blob(descriptor, operation)?;
            }
            let Some(manifest) = manifest else { return Ok(()) };
            self.take_over_blob(&manifest.config, operation)?;
            self.take_over_blobs(&manifest.layers, operation)
        })?;
        self.sync_blobs()
    }

    /// The same for some blobs; their names are not synced yet.
    pub(super) fn take_over_blobs(
        &self,
        blobs: &[Descriptor],
        operation: &Operation,
    ) -> Result<(), StoreError> {
        for blob in blobs {
            match self.take_over_blob(blob, operation) {
                // What must not be passed on may be absent.
                Err(StoreError::Blob(BlobError::Missing { .. })) if !blob.urls.is_empty() => {}
                done => done?,
            }
        }
        Ok(())
    }

    fn take_over_blob(&self, blob: &Descriptor, operation: &Operation) -> Result<(), StoreError> {
        let &Descriptor { digest, size, .. } = blob;
        let own = &self.layout.blobs;
        if self.lenders.is_empty() || own.size(&digest)?.is_some() {
            return Ok(());
        }
        let mut from = self.content().open_blob(&digest)?.take(size.saturating_add(1));
        let mut writer = own.writer(operation.workspace(), digest.algorithm())?;
        std::io::copy(&mut from, &mut writer).at_path("copy", || self.content().path(&digest))?;
        own.publish(writer.finish()?.expect(&digest, Some(size))?, self.options.durability)?;
        Ok(())
    }

    fn sync_blobs(&self) -> Result<(), StoreError> {
        match self.options.durability {
            Durability::Full => Ok(self.layout.blobs.sync()?),
            Durability::Relaxed => Ok(()),
        }
    }

    /// Every store that was asked, and why nothing of it can be used where that is so.
    pub(super) fn searched(&self) -> Vec<String> {
        let own = self.layout.root.path_of("").display().to_string();
        let lender = |lender: &Lender| match &lender.state {
            LenderState::Usable => lender.path.display().to_string(),
            LenderState::BlobsOnly { reason } | LenderState::Unusable { reason } => {
                format!("{} ({reason})", lender.path.display())
            }
        };
        [own].into_iter().chain(self.lenders.iter().map(lender)).collect()
    }

    /// An error of an operation on `container`: if something is missing that another store might lend, it says so.
    pub(super) fn lacking(&self, container: &str, error: StoreError) -> StoreError {
        use crate::layer::LayerError;
        let what = match &error {
            StoreError::Blob(BlobError::Missing { digest }) => format!("blob {digest}"),
            StoreError::Layer(LayerError::Open { diff_id, source, .. }) if is_missing(source) => {
                format!("layer {diff_id}")
            }
            StoreError::Layer(LayerError::Gone { key }) => format!("layer {key}"),
            // An additional store may have it.
            StoreError::ForeignLayer { digest, .. } if !self.lenders.is_empty() => format!("layer {digest}"),
            _ => return error,
        };
        let (container, searched) = (container.to_owned(), self.searched());
        StoreError::Unavailable { container, what, searched, source: Box::new(error) }
    }
}

impl Store {
    /// Finds an image of this store or of a lender, and the name it was found by, if it was a name. Names go before ids,
    /// and this store before its lenders.
    pub(super) fn find_image(&self, name: &str) -> Result<(Image, Option<Reference>), StoreError> {
        let own = self.find_own_image(name);
        if self.inner.lenders.is_empty() || matches!(own, Ok((_, Some(_)))) {
            return own;
        }
        // A name may look like the beginning of an id.
        let reference = Reference::parse_familiar(name).ok();
        let lent = match &reference {
            Some(reference) if own.is_err() || reference.digest().is_none() => {
                self.inner.lent_image_named(reference)?
            }
            _ => None,
        };
        match (own, lent) {
            (_, Some(lent)) => Ok(lent),
            (Err(error @ StoreError::NotFound { .. }), None) => {
                let mut found = self.inner.lent_images_with_id(name)?;
                match found.len() {
                    0 => Err(error),
                    1 => Ok((found.remove(0), None)),
                    _ => {
                        let label = |image: &Image| format!("{} ({})", image.id(), image.label());
                        let candidates = found.iter().map(label).collect();
                        Err(StoreError::Ambiguous { what: "image", name: name.to_owned(), candidates })
                    }
                }
            }
            (own, None) => own,
        }
    }

    /// The other stores that lend their images and layers, in the order in which they are asked.
    pub fn lenders(&self) -> Vec<LenderInfo> {
        let info = |lender: &Lender| LenderInfo { path: lender.path.clone(), state: lender.state.clone() };
        self.inner.lenders.iter().map(info).collect()
    }

    /// Gives a lent image a name here, and its blobs with it.
    pub(super) fn tag_lent(&self, image: &Image, name: Reference) -> Result<Option<Moved>, StoreError> {
        let operation = self.inner.begin()?;
        let outcome = (|| {
            self.inner.pin_image(&operation, image)?;
            self.inner.take_over(image.target(), &operation)?;
            self.inner.update_names(|names| Ok(names.set(name, image.target())))
        })();
        self.conclude(operation, outcome)
    }

    /// Refuses to change what is only lent.
    pub(super) fn refuse_lent(image: &Image) -> Result<(), StoreError> {
        match image.lent_by() {
            None => Ok(()),
            Some(store) => Err(StoreError::Lent { image: image.label(), store: store.to_owned() }),
        }
    }
}
