//! [`save`] and [`save_layout`]: images of a store as an archive or as another layout.
//!
//! Blobs are verified on the way, and unless layers are to be compressed otherwise they are copied as they are, so an
//! image that is loaded again has the same digests. Equal images give equal bytes: members come in a fixed order, with
//! the epoch for a time and root for an owner.

mod classic;
mod copying;
mod gather;
mod options;

use std::io::Write;

use super::content::blob_path;
use super::convert::{Converted, Made, convert};
use super::listing::{self, Listed, Naming};
use super::load::Loaded;
use super::target::Target;
use super::words::Recast;
use super::{SaveError, Warning, docker, oci};
use crate::blob::BlobSource;
use crate::changeset::{Entry, EntryKind, Writer};
use crate::codec::{Compression, Encoding};
use crate::digest::Digest;
use crate::fs::{Context, Dir, Metadata};
use crate::image::{Descriptor, Index, Platform, Reference};
use crate::path::LayerPath;

use copying::Copying;
use gather::gather_made;
pub(super) use gather::{Gathered, gather, only_platform};
pub use options::{ArchiveFormat, Known, LayerCompression, LayerCompressionError, SaveOptions};

/// An image to be saved.
#[derive(Clone, PartialEq, Debug)]
pub struct SaveImage {
    /// Its manifest, or an index of several.
    pub target: Descriptor,
    /// What it is to be called. An image without a name is saved too.
    pub names: Vec<Reference>,
}

/// Writes an archive of `images` to `out`, which needs no buffer of its own, and says what is odd about it.
///
/// Every image is in the archive's `index.json`, named or not; of an index, the platforms that are there. Layers that
/// must not be passed on are left out where their descriptor says from where they can be had, and so are those that the
/// receiver has ([`SaveOptions::known`]).
///
/// Each name is there in full (`io.containerd.image.name`) and as people know it
/// (`org.opencontainers.image.ref.name`, which is what skopeo is asked for: `oci-archive:web.tar:web:1`).
/// `RepoTags` has full names, because podman takes `web:1` for `localhost/web:1`.
///
/// # Errors
///
/// [`SaveError`]. Everything but the bytes of layers was verified before the first byte is written; layers that are
/// compressed again, with them.
pub fn save(
    images: &[SaveImage],
    blobs: &dyn BlobSource,
    format: ArchiveFormat,
    out: impl Write,
    options: &SaveOptions<'_>,
) -> Result<Vec<Warning>, SaveError> {
    if format == ArchiveFormat::ClassicDockerArchive {
        let plain = LayerCompression::Like(Encoding::None);
        let options = SaveOptions { compression: plain, ..options.clone() };
        let Converted { images, blobs, .. } = convert(images, blobs, &options, &Recast::default())?;
        return classic::save(gather_made(&images, &blobs, &options)?, &blobs, out, &options);
    }
    let Converted { images, blobs, .. } = convert(images, blobs, options, &Recast::default())?;
    let gathered = gather_made(&images, &blobs, options)?;
    let with_docker = format == ArchiveFormat::DockerArchive;
    save_oci(gathered, &blobs, with_docker, out, options)
}

/// An OCI archive, perhaps with docker's documents beside.
fn save_oci(
    gathered: Gathered,
    blobs: &Made<'_>,
    with_docker: bool,
    out: impl Write,
    options: &SaveOptions<'_>,
) -> Result<Vec<Warning>, SaveError> {
    let Gathered { listed, needed, mut warnings } = gathered;
    let mut documents = vec![(oci::LAYOUT, oci::LAYOUT_CONTENT.to_vec())];
    documents.push((oci::INDEX, Index::new(listing::entries(&listed)).to_json()));
    if with_docker {
        for Listed { loaded, .. } in &listed {
            if has_zstd_layer(loaded, blobs)? {
                warnings.push(Warning::NeedsDocker23 { target: loaded.target.digest });
            }
        }
        let (manifest, repositories) =
            listing::docker(&listed, &wanted(options), &mut warnings, Naming::Blobs);
        documents.push((docker::MANIFEST, manifest));
        documents.push((docker::REPOSITORIES, repositories));
    }

    // `oci-layout` is no list.
    let lists: Vec<_> = documents[1..].iter().map(|(name, content)| (*name, &content[..])).collect();
    listing::check(&lists, &options.limits)?;
    let mut archive = Writer::new(out);
    for (name, content) in documents {
        let entry = member(name, EntryKind::File { size: content.len() as u64 });
        archive.file(&entry, &content[..]).map_err(SaveError::Write)?;
    }
    let mut directories = vec!["blobs".to_owned()];
    let mut algorithms: Vec<_> = needed.iter().map(|(digest, _)| digest.algorithm()).collect();
    algorithms.sort();
    algorithms.dedup();
    directories.extend(algorithms.iter().map(|algorithm| format!("blobs/{}", algorithm.name())));
    for directory in directories {
        archive.entry(&member(&directory, EntryKind::Directory)).map_err(SaveError::Write)?;
    }
    let mut copy = Copying::new(total(&needed), options);
    for (digest, size) in needed {
        let entry = member(&blob_path(&digest), EntryKind::File { size });
        archive.entry(&entry).map_err(SaveError::Write)?;
        copy.blob(blobs, &digest, size, |bytes| archive.data(bytes).map_err(SaveError::Write))?;
    }
    let mut out = archive.finish().map_err(SaveError::Write)?;
    out.flush().at("write", "the archive")?;
    Ok(warnings)
}

/// Adds `images` to the OCI layout in `into`, which is made one if it is empty, and says what is odd about it.
///
/// What the layout holds already stays, but a name that is given to one of `images` is taken from what had it.
///
/// # Errors
///
/// [`SaveError`]. The layout lists then what it listed before; blobs that were written stay, and the next call uses them.
pub fn save_layout(
    images: &[SaveImage],
    blobs: &dyn BlobSource,
    into: &Dir,
    options: &SaveOptions<'_>,
) -> Result<Vec<Warning>, SaveError> {
    let Converted { images, blobs, .. } = convert(images, blobs, options, &Recast::default())?;
    let Gathered { listed, mut needed, warnings } = gather_made(&images, &blobs, options)?;
    needed.reverse();
    let target = Target::open(into, options)?;
    let mut copy = Copying::new(total(&needed), options);
    for (digest, size) in needed {
        if target.has(&digest, size)? {
            copy.skip(size);
        } else {
            target.add(&digest, |write| copy.blob(&blobs, &digest, size, write))?;
        }
    }
    target.list(listing::entries(&listed))?;
    Ok(warnings)
}

/// The platform that is listed where only one can be.
fn wanted(options: &SaveOptions<'_>) -> Platform {
    options.platform.clone().unwrap_or_else(Platform::host)
}

fn total(needed: &[(Digest, u64)]) -> u64 {
    needed.iter().map(|(_, size)| size).sum()
}

fn has_zstd_layer(loaded: &Loaded, blobs: &Made<'_>) -> Result<bool, SaveError> {
    for layer in loaded.manifests.iter().flat_map(|image| &image.manifest.layers) {
        let image = |source| SaveError::Image { image: loaded.target.digest, source };
        let found = blobs.find(&layer.digest).map_err(image)?;
        if found.is_some_and(|found| found.compression == Some(Compression::Zstd)) {
            return Ok(true);
        }
    }
    Ok(false)
}

fn member(name: &str, kind: EntryKind) -> Entry {
    let mode = match kind {
        EntryKind::Directory => 0o755,
        EntryKind::Symlink(_) => 0o777,
        _ => 0o644,
    };
    let path = LayerPath::parse(name).expect("our own names are plain");
    Entry::new(path, kind, Metadata { mode, ..Metadata::default() })
}
