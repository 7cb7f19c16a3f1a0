//! Import: a root file system becomes an image of one layer.
//!
//! A tar is stored as the layer byte for byte, decompressed; a directory is packed as a commit packs one. The layer is unpacked
//! at once, so that what is wrong with it is found before there is an image; then config, manifest and name follow as after
//! a commit.

use std::io::{Read, Write};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use super::Store;
use super::cancel::{self, While};
use super::error::StoreError;
use super::image::Image;
use super::new_image::NewImage;
use super::operation::Operation;
use super::stack::{Beside, Layers};
use crate::archive;
use crate::codec::Encoder;
use crate::container::ContainerError;
use crate::digest::{Algorithm, DiffId, Digest};
use crate::fs::{Context, Dir};
use crate::image::{Config, Descriptor, Manifest, MediaType, Platform};
use crate::layer::{LayerKey, Selection, pack_directory};

/// How to make an image of a root file system.
#[derive(Clone, Default)]
#[non_exhaustive]
pub struct ImportOptions<'a> {
    /// What it is called and says of itself. How to write the layer counts for a directory only.
    pub image: NewImage,
    /// What it runs on. Default: what the config in the tar says, else this machine.
    pub platform: Option<Platform>,
    /// Take the tar of an image, which [`Store::load`] reads, for a root with the files that are in it. Default: refuse it.
    pub take_archives: bool,
    /// What to leave out of a directory.
    pub selection: Selection,
    /// Told how many bytes have been read of a tar, now and then.
    pub progress: Option<&'a (dyn Fn(u64) + Sync)>,
    /// Set by another thread to give up.
    pub cancel: Option<&'a AtomicBool>,
}

impl Store {
    /// Makes an image of the tar of a root file system, compressed or not, from a file or a pipe.
    ///
    /// The tar becomes the layer as it is, so equal tars give equal images. If it was exported with the config of its image
    /// ([`ExportOptions::config`](super::ExportOptions::config)), the new image has that config, and in its history the steps
    /// of the old one, which made no layer here.
    ///
    /// # Errors
    ///
    /// [`StoreError::Load`] if it is no tar, damaged, or has a name that begins with `.wh.`, or is an image archive; [`StoreError::Layer`] if it cannot
    /// be unpacked; [`StoreError::Change`], [`StoreError::Blob`], [`StoreError::Cancelled`]. No image is visible then, the name
    /// points where it did, and what was written is removed.
    pub fn import(&self, tar: impl Read, options: &ImportOptions<'_>) -> Result<Image, StoreError> {
        self.import_with(options, |out| {
            let cancelled = || options.cancel.is_some_and(|cancel| cancel.load(Ordering::Relaxed));
            let tar = Told { tar, bytes: 0, progress: options.progress };
            let root = archive::receive_root(tar, out, &self.inner.options.limits, &cancelled)?;
            match root.archive_member.filter(|_| !options.take_archives) {
                Some(member) => Err(archive::LoadError::ImageArchive { member }.into()),
                None => Ok((root.diff_id, root.config)),
            }
        })
    }

    /// Makes an image of what is in the directory `path`, its own metadata included.
    ///
    /// # Errors
    ///
    /// As [`Store::import`]; [`StoreError::Container`] if something cannot be read or has no place in a layer.
    pub fn import_directory(
        &self,
        path: impl AsRef<Path>,
        options: &ImportOptions<'_>,
    ) -> Result<Image, StoreError> {
        let dir = Dir::open_ambient(path)?;
        self.import_with(options, |out| {
            let out = While::wanted(out, options.cancel);
            let packed = pack_directory(&dir, &options.selection, out, &options.image.pack);
            Ok((packed.map_err(ContainerError::from)?.diff_id, None))
        })
    }

    /// `write` writes the tar and gives its digest, and the config that came with it.
    fn import_with(
        &self,
        options: &ImportOptions<'_>,
        write: impl FnOnce(&mut dyn Write) -> Result<(DiffId, Option<Vec<u8>>), StoreError>,
    ) -> Result<Image, StoreError> {
        let operation = self.inner.begin()?;
        let outcome = self.import_in(&operation, options, write);
        self.conclude(operation, cancel::told(outcome))
    }

    fn import_in(
        &self,
        operation: &Operation,
        options: &ImportOptions<'_>,
        write: impl FnOnce(&mut dyn Write) -> Result<(DiffId, Option<Vec<u8>>), StoreError>,
    ) -> Result<Image, StoreError> {
        let step = options.image.step("plywood import")?;
        // What can be refused without a look at the root is refused first; a config that comes with it may refuse more.
        Config::default().apply(&options.image.changes).map_err(StoreError::Change)?;

        let writer = self.inner.layout.blobs.writer(operation.workspace(), Algorithm::Sha256)?;
        let path = writer.path();
        let mut encoder = Encoder::new(writer, options.image.compression).at("write", &path)?;
        let (diff_id, carried) = write(&mut encoder)?;
        let staged = encoder.finish().at("write", &path)?.finish()?;

        let mut config = match carried {
            Some(bytes) => without_layers(self.carried(&bytes)?),
            None => Config::new(&Platform::host()),
        };
        if let Some(platform) = &options.platform {
            let Platform { os, architecture, os_version, os_features, variant, .. } = platform.clone();
            config = Config { os, architecture, os_version, os_features, variant, ..config };
        }
        config.apply(&options.image.changes).map_err(StoreError::Change)?;
        config.push_layer(diff_id, step);

        let layer = self.put_layer(staged, options.image.compression, operation)?;
        operation.pin_layers(LayerKey::candidates([diff_id]))?;
        let layers = Layers { blobs: std::slice::from_ref(&layer), diff_ids: &[diff_id] };
        let open = |digest: &Digest| self.inner.open_layer(digest);
        self.unpack_layers(layers, &open, Beside::default(), operation, options.cancel)?;
        let empty = Descriptor::of(MediaType::OCI_CONFIG, b"{}");
        let mut manifest = Manifest::new(empty, vec![layer]);
        options.image.annotate(&mut manifest);
        let target = self.put_image(&config, manifest, operation)?;
        self.name_image(target, options.image.name.as_ref())
    }

    /// The config that came with a root.
    fn carried(&self, bytes: &[u8]) -> Result<Config, StoreError> {
        Config::parse(bytes, &self.inner.options.limits).map_err(|source| {
            archive::LoadError::Image { member: "the config in the tar".to_owned(), source }.into()
        })
    }
}

/// The same config for an image whose layers are yet to come. The steps that made the old ones stay in its history.
fn without_layers(mut config: Config) -> Config {
    config.rootfs.diff_ids.clear();
    for step in &mut config.history {
        step.empty_layer = true;
    }
    config
}

/// Tells how far reading has come.
struct Told<'a, R> {
    tar: R,
    bytes: u64,
    progress: Option<&'a (dyn Fn(u64) + Sync)>,
}

impl<R: Read> Read for Told<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let count = self.tar.read(buffer)?;
        self.bytes += count as u64;
        if let Some(progress) = self.progress {
            progress(self.bytes);
        }
        Ok(count)
    }
}
