//! [`save`] and [`save_layout`]: images of a store as an archive or as another layout.
//!
//! Blobs are copied as they are and verified on the way, so an image that is loaded again has the same digests. Equal
//! images give equal bytes: members come in a fixed order, with the epoch for a time and root for an owner.

use std::fmt;
use std::io::{self, Read, Write};

use super::content::{Found, blob_path, find_in, read_in};
use super::listing::{self, Listed};
use super::load::Loaded;
use super::target::Target;
use super::walk::{Lookup, Walk};
use super::{LoadError, SaveError, Warning, docker, oci};
use crate::blob::{BlobError, BlobSource};
use crate::changeset::{Entry, EntryKind, Writer};
use crate::codec::Compression;
use crate::digest::{Digest, Hasher};
use crate::fs::{self, Context, Dir, Durability, Metadata};
use crate::image::{Descriptor, Index, Platform, Reference};
use crate::limits::Limits;
use crate::path::LayerPath;

/// An image to be saved.
#[derive(Clone, PartialEq, Debug)]
pub struct SaveImage {
    /// Its manifest, or an index of several.
    pub target: Descriptor,
    /// What it is to be called. An image without a name is saved too.
    pub names: Vec<Reference>,
}

/// What kind of archive is written.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[non_exhaustive]
pub enum ArchiveFormat {
    /// An OCI layout with docker's `manifest.json` and `repositories` beside it, as docker has written it since version
    /// 25. Docker, podman, containerd and skopeo read it.
    #[default]
    DockerArchive,
    /// An OCI layout and nothing else.
    OciArchive,
}

/// How images are saved.
#[derive(Clone)]
#[non_exhaustive]
pub struct SaveOptions<'a> {
    /// How large documents may be, and how deep they may nest.
    pub limits: Limits,
    /// Of an index, `manifest.json` lists the image for this platform: it has no way of listing several.
    pub platform: Platform,
    /// Whether a layout on disk has to be there for good when saving returns. An archive is the caller's to sync.
    pub durability: Durability,
    /// Called now and then with the bytes of blobs that were written, and those that there are altogether.
    pub progress: Option<&'a dyn Fn(u64, u64)>,
    /// Asked now and then; saving stops when it says true.
    pub cancelled: Option<&'a dyn Fn() -> bool>,
}

impl Default for SaveOptions<'_> {
    fn default() -> Self {
        Self {
            limits: Limits::default(),
            platform: Platform::host(),
            durability: Durability::default(),
            progress: None,
            cancelled: None,
        }
    }
}

impl fmt::Debug for SaveOptions<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SaveOptions")
            .field("limits", &self.limits)
            .field("platform", &self.platform)
            .field("durability", &self.durability)
            .finish_non_exhaustive()
    }
}

impl SaveOptions<'_> {
    pub(super) fn is_cancelled(&self) -> bool {
        self.cancelled.is_some_and(|cancelled| cancelled())
    }
}

/// Writes an archive of `images` to `out`, which needs no buffer of its own, and says what is odd about it.
///
/// Every image is in the archive's `index.json`, named or not; of an index, the platforms that are there. Layers that
/// must not be passed on are left out where their descriptor says from where they can be had.
///
/// Each name is there in full (`io.containerd.image.name`) and as people know it
/// (`org.opencontainers.image.ref.name`, which is what skopeo is asked for: `oci-archive:web.tar:web:1`).
/// `RepoTags` has full names, because podman takes `web:1` for `localhost/web:1`.
///
/// # Errors
///
/// [`SaveError`]. Everything but the bytes of layers was verified before the first byte is written.
pub fn save(
    images: &[SaveImage],
    blobs: &dyn BlobSource,
    format: ArchiveFormat,
    out: impl Write,
    options: &SaveOptions<'_>,
) -> Result<Vec<Warning>, SaveError> {
    let Gathered { listed, needed, mut warnings } = gather(images, blobs, options)?;
    let mut documents = vec![(oci::LAYOUT, oci::LAYOUT_CONTENT.to_vec())];
    documents.push((oci::INDEX, Index::new(listing::entries(&listed)).to_json()));
    if format == ArchiveFormat::DockerArchive {
        for Listed { loaded, .. } in &listed {
            if has_zstd_layer(loaded, blobs)? {
                warnings.push(Warning::NeedsDocker23 { target: loaded.target.digest });
            }
        }
        let (manifest, repositories) = listing::docker(&listed, &options.platform, &mut warnings);
        documents.push((docker::MANIFEST, manifest));
        documents.push((docker::REPOSITORIES, repositories));
    }

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
    let mut copy = Copying::new(&needed, options);
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
/// [`SaveError`]. The layout lists the images only after everything of them is there.
pub fn save_layout(
    images: &[SaveImage],
    blobs: &dyn BlobSource,
    into: &Dir,
    options: &SaveOptions<'_>,
) -> Result<Vec<Warning>, SaveError> {
    let Gathered { listed, mut needed, warnings } = gather(images, blobs, options)?;
    needed.reverse();
    let target = Target::open(into, options)?;
    let mut copy = Copying::new(&needed, options);
    for (digest, size) in needed {
        if target.has(&digest, size)? {
            copy.skip(size);
        } else {
            target.add(&digest, |write| copy.blob(blobs, &digest, size, write))?;
        }
    }
    target.list(listing::entries(&listed))?;
    Ok(warnings)
}

/// What is to be saved.
struct Gathered {
    listed: Vec<Listed>,
    /// Blobs with their sizes, documents first.
    needed: Vec<(Digest, u64)>,
    warnings: Vec<Warning>,
}

fn gather(
    images: &[SaveImage],
    blobs: &dyn BlobSource,
    options: &SaveOptions<'_>,
) -> Result<Gathered, SaveError> {
    let cancelled = || options.is_cancelled();
    // The store was asked for as much as there is in it.
    let limits = Limits { documents_memory: u64::MAX, ..options.limits.clone() };
    let mut walk = Walk::new(Stored(blobs), &limits, &cancelled).without_foreign_layers();
    let mut listed: Vec<Listed> = Vec::new();
    let mut warnings = Vec::new();
    for SaveImage { target, names } in images {
        let same = listed.iter_mut().find(|listed| listed.loaded.target.digest == target.digest);
        let listed = match same {
            Some(same) => same,
            None => {
                if blobs.size(&target.digest)?.is_none() {
                    return Err(BlobError::Missing { digest: target.digest }.into());
                }
                let loaded = walk.image(target.clone(), "the request").map_err(|source| match source {
                    LoadError::Cancelled => SaveError::Cancelled,
                    source => SaveError::Image { image: target.digest, source },
                })?;
                let odd = loaded.warnings.iter().filter(|warning| !matches!(warning, Warning::Config { .. }));
                warnings.extend(odd.cloned());
                listed.push(Listed { loaded, names: Vec::new() });
                listed.last_mut().expect("it was just pushed")
            }
        };
        for name in names {
            if !listed.names.contains(name) {
                listed.names.push(name.clone());
            }
        }
    }
    if listed.is_empty() {
        return Err(SaveError::NoImage);
    }
    Ok(Gathered { listed, needed: walk.needed.top_down().collect(), warnings })
}

fn has_zstd_layer(loaded: &Loaded, blobs: &dyn BlobSource) -> Result<bool, SaveError> {
    for layer in loaded.manifests.iter().flat_map(|image| &image.manifest.layers) {
        let image = |source| SaveError::Image { image: loaded.target.digest, source };
        let found = find_in(blobs, &layer.digest).map_err(image)?;
        if found.is_some_and(|found| found.compression == Compression::Zstd) {
            return Ok(true);
        }
    }
    Ok(false)
}

/// The blobs of a store, and nothing else.
struct Stored<'a>(&'a dyn BlobSource);

impl Lookup for Stored<'_> {
    fn pin(&mut self, _: &[Digest]) -> Result<(), LoadError> {
        Ok(()) // the caller keeps what it asks for
    }

    fn find(&mut self, digest: &Digest) -> Result<Option<Found>, LoadError> {
        find_in(self.0, digest)
    }

    fn read(&mut self, digest: &Digest, limit: u64) -> Result<Option<Vec<u8>>, LoadError> {
        read_in(self.0, digest, limit)
    }

    fn name_of(&self, digest: &Digest) -> String {
        blob_path(digest)
    }
}

fn member(name: &str, kind: EntryKind) -> Entry {
    let mode = if kind == EntryKind::Directory { 0o755 } else { 0o644 };
    let path = LayerPath::parse(name).expect("our own names are plain");
    Entry::new(path, kind, Metadata { mode, ..Metadata::default() })
}

/// How much is read at once.
const BUFFER: usize = 256 << 10;

/// Blobs on their way out.
struct Copying<'a> {
    options: &'a SaveOptions<'a>,
    done: u64,
    total: u64,
    buffer: Vec<u8>,
}

impl<'a> Copying<'a> {
    fn new(needed: &[(Digest, u64)], options: &'a SaveOptions<'a>) -> Self {
        let total = needed.iter().map(|(_, size)| size).sum();
        Self { options, done: 0, total, buffer: vec![0; BUFFER] }
    }

    fn skip(&mut self, size: u64) {
        self.done += size;
        if let Some(progress) = self.options.progress {
            progress(self.done, self.total);
        }
    }

    /// Hands out the bytes of a blob, and makes sure that they were it.
    fn blob(
        &mut self,
        blobs: &dyn BlobSource,
        digest: &Digest,
        size: u64,
        mut write: impl FnMut(&[u8]) -> Result<(), SaveError>,
    ) -> Result<(), SaveError> {
        // One byte more than expected shows that there is more.
        let mut file = blobs.open_blob(digest)?.take(size.saturating_add(1));
        let mut hasher = Hasher::new(digest.algorithm());
        let mut actual = 0;
        loop {
            if self.options.is_cancelled() {
                return Err(SaveError::Cancelled);
            }
            let count = match file.read(&mut self.buffer) {
                Ok(0) => break,
                Ok(count) => count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(fs::Error::new("read", blobs.path(digest), error).into()),
            };
            actual += count as u64;
            if actual > size {
                break;
            }
            hasher.update(&self.buffer[..count]);
            write(&self.buffer[..count])?;
            self.skip(count as u64);
        }
        if actual != size {
            return Err(BlobError::SizeMismatch { digest: *digest, expected: size, actual }.into());
        }
        let actual = hasher.finish();
        if actual != *digest {
            return Err(BlobError::DigestMismatch { expected: *digest, actual }.into());
        }
        Ok(())
    }
}
