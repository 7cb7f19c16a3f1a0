//! Squash: the layers of an image, or those from one on, become one.
//!
//! The new layer is what the layers change together: all of an image's layers make a plain tree without deletions, and of
//! those above others only what is still to be seen is in it, with deletions where something below would be seen. It is
//! read from the unpacked layers, so nothing is mounted. Config, manifest and name follow as after a commit.

use std::io::Write;
use std::sync::atomic::AtomicBool;

use super::Store;
use super::cancel::{self, While};
use super::error::StoreError;
use super::image::Image;
use super::new_image::NewImage;
use super::operation::Operation;
use crate::codec::Encoder;
use crate::container::ContainerError;
use crate::digest::{Algorithm, DiffId};
use crate::fs::Context;
use crate::image::{Config, Descriptor, History};
use crate::layer::{Diff, Layer, pack};
use crate::stack::Stack;

/// How to squash an image.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct SquashOptions<'a> {
    /// What the new image is called and says of itself. Without a note, its history says how many layers became one.
    pub image: NewImage,
    /// Which layers become one.
    pub from: SquashFrom,
    /// Set by another thread to give up.
    pub cancel: Option<&'a AtomicBool>,
}

impl SquashOptions<'_> {
    /// With this name.
    pub fn named(name: crate::image::Reference) -> Self {
        Self { image: NewImage::named(name), ..Self::default() }
    }
}

/// Which layers of an image become one. The others stay as they are, and are shared.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub enum SquashFrom {
    /// All of them.
    #[default]
    Bottom,
    /// All but this many at the bottom.
    Kept(usize),
    /// This layer and all above it. Of a layer that the image has more than once, the lowest.
    Layer(DiffId),
    /// All above the layers of this image, which the image is made on.
    Base(Box<Image>),
}

impl SquashFrom {
    /// How many layers of `image` stay as they are.
    fn kept(&self, image: &Image) -> Result<usize, StoreError> {
        let layers = image.diff_ids();
        match self {
            Self::Bottom => Ok(0),
            Self::Kept(count) if *count <= layers.len() => Ok(*count),
            Self::Kept(count) => {
                let name = format!("{count} of {} of {}", layers.len(), image.label());
                Err(StoreError::NotFound { what: "layer", name })
            }
            Self::Layer(diff_id) => layers.iter().position(|layer| layer == diff_id).ok_or_else(|| {
                let name = format!("{diff_id} of {}", image.label());
                StoreError::NotFound { what: "layer", name }
            }),
            Self::Base(base) => {
                base.require_config()?;
                match layers.starts_with(base.diff_ids()) {
                    true => Ok(base.diff_ids().len()),
                    false => Err(StoreError::NotABase { image: image.label(), base: base.label() }),
                }
            }
        }
    }
}

impl Store {
    /// Makes an image of `image` in which several layers are one. What it shows, and its config but for layers and history,
    /// stay. In the history, the steps that made those layers stay as steps that made none, and one more made the new layer.
    /// Layers that change nothing together become no layer.
    ///
    /// Where layers were unpacked by a process that cannot give files to others, and what the image has cannot be recorded
    /// either (the owner of a symbolic link; [`Store::load`] warned of it), the new layer has what there is.
    ///
    /// # Errors
    ///
    /// [`StoreError::NotFound`] or [`StoreError::NotABase`] if the image has no such layers, [`StoreError::NotAnImage`] if it is
    /// an artifact, [`StoreError::Layer`] if a layer is damaged, [`StoreError::Change`], [`StoreError::Blob`] if there is no
    /// space, [`StoreError::Cancelled`]. No image is visible then, the name points where it did, and what was written is
    /// removed; layers that were unpacked stay.
    pub fn squash(&self, image: &Image, options: &SquashOptions<'_>) -> Result<Image, StoreError> {
        let operation = self.inner.begin()?;
        let outcome = self.squash_in(image, &operation, options);
        self.conclude(operation, cancel::told(outcome))
    }

    fn squash_in(
        &self,
        image: &Image,
        operation: &Operation,
        options: &SquashOptions<'_>,
    ) -> Result<Image, StoreError> {
        // What can be refused without looking at a file is refused before anything is written.
        let kept = options.from.kept(image)?;
        let mut config = image.require_config()?.clone();
        config.apply(&options.image.changes).map_err(StoreError::Change)?;
        let mut step = options.image.step("plywood squash")?;
        let count = config.rootfs.diff_ids.len() - kept;
        step.comment.get_or_insert_with(|| format!("{count} layers became one"));

        self.inner.pin_held(operation, image)?;
        let layers = self.unpack_pinned(image, operation, options.cancel)?.layers;
        let packed = self.pack_topmost(&layers, count, operation, options)?;
        let mut manifest = image.manifest().to_oci();
        manifest.layers.truncate(kept);
        self.inner.take_over_blobs(&manifest.layers, operation)?;
        manifest.layers.extend(packed.as_ref().map(|(_, blob)| blob.clone()));
        rewrite(&mut config, kept, packed.map(|(diff_id, _)| diff_id), step);
        options.image.annotate(&mut manifest);
        let target = self.put_image(&config, manifest, operation)?;
        self.name_image(target, options.image.name.as_ref())
    }

    /// Writes what the topmost `count` of `layers`, lowest first, change, and gives the blob its name; `None` if that is
    /// nothing.
    fn pack_topmost(
        &self,
        layers: &[Layer],
        count: usize,
        operation: &Operation,
        options: &SquashOptions<'_>,
    ) -> Result<Option<(DiffId, Descriptor)>, StoreError> {
        let NewImage { compression, pack: how, .. } = &options.image;
        let writer = self.inner.layout.blobs.writer(operation.workspace(), Algorithm::Sha256)?;
        let path = writer.path();
        let mut encoder = Encoder::new(writer, *compression).at("write", &path)?;
        let stack = Stack::new(layers.iter().rev().map(|layer| &layer.tree));
        let out = While::wanted(&mut encoder, options.cancel);
        let packed = pack(&Diff::of_topmost(stack, count), out, how).map_err(ContainerError::from)?;
        encoder.flush().at("write", &path)?;
        let staged = encoder.finish().at("write", &path)?.finish()?;
        if packed.entries == 0 {
            return Ok(None);
        }
        Ok(Some((packed.diff_id, self.put_layer(staged, *compression, operation)?)))
    }
}

/// Puts `layer` into `config` in place of all layers but those that are kept. Their steps have made none.
fn rewrite(config: &mut Config, kept: usize, layer: Option<DiffId>, step: History) {
    config.rootfs.diff_ids.truncate(kept);
    let made_layers = config.history.iter_mut().filter(|step| !step.empty_layer);
    for step in made_layers.skip(kept) {
        step.empty_layer = true;
    }
    match layer {
        Some(diff_id) => config.push_layer(diff_id, step),
        None => config.push_empty_layer(step),
    }
}
