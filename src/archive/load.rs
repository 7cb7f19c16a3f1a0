//! [`load`] and [`load_layout`]: image archives and layouts into the blobs of a store.
//!
//! An archive is read once, from its first byte to its last, so it may come from a pipe. What its members mean is known
//! only at the end: docker writes the list of images last. So every file goes to the workspace, hashed on the way, and
//! only when all documents were read and everything they refer to is there and is what they say, is anything given its
//! name. Layers come first, then configs, then manifests, so that whatever can be found is whole.

use std::collections::BTreeMap;
use std::fmt;
use std::io::Read;

use super::arrival::Arrival;
use super::content::{Content, Found, Layout, Received, find_in, read_in};
use super::docker::Item;
use super::fetch::{Fetch, Remote, Transfer};
use super::members::Members;
use super::stream::{self, Watched};
use super::walk::Walk;
use super::{LoadError, Warning, docker, legacy, names, oci};
use crate::blob::{BlobError, BlobSource, Blobs};
use crate::digest::{DiffId, Digest};
use crate::fs::{self, Context, Dir, Durability, Optional, Workspace};
use crate::image::{Config, Descriptor, Manifest, Platform, Reference};
use crate::limits::Limits;

/// Where an archive is loaded to.
#[derive(Clone, Copy)]
pub struct Destination<'a> {
    /// What it adds to.
    pub blobs: &'a Blobs,
    /// Where blobs are until they are verified. On the same file system as `blobs`.
    pub workspace: &'a Workspace,
    /// Where else blobs may be that what is loaded leaves out: they are copied from there.
    pub lent: Option<&'a dyn BlobSource>,
    /// Called with the digests that an image relies on, before looking whether they are there and before adding them. What was
    /// pinned must stay until the caller has given the images their names.
    pub pin: &'a dyn Fn(&[Digest]) -> fs::Result<()>,
}

impl Destination<'_> {
    /// What there is under `digest`, here or lent.
    pub(super) fn find(&self, digest: &Digest) -> Result<Option<Found>, LoadError> {
        match (find_in(self.blobs, digest)?, self.lent) {
            (None, Some(lent)) => find_in(lent, digest),
            (found, _) => Ok(found),
        }
    }

    /// The bytes of a document, one more than `limit` at most.
    pub(super) fn read(&self, digest: &Digest, limit: u64) -> Result<Option<Vec<u8>>, LoadError> {
        match (read_in(self.blobs, digest, limit)?, self.lent) {
            (None, Some(lent)) => read_in(lent, digest, limit),
            (found, _) => Ok(found),
        }
    }
}

impl fmt::Debug for Destination<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Destination").field("blobs", &self.blobs).finish_non_exhaustive()
    }
}

/// Tells which blob is the layer of a diff id, if that is known.
pub type FindLayer<'a> = &'a (dyn Fn(&DiffId) -> Result<Option<Digest>, BlobError> + Sync);

/// How an archive is loaded.
#[derive(Clone, Default)]
#[non_exhaustive]
pub struct LoadOptions<'a> {
    /// How much the archive may ask of us.
    pub limits: Limits,
    /// Whether the blobs have to be on disk when loading returns.
    pub durability: Durability,
    /// The repository of images that have only a tag, see [`repository_for`](super::repository_for). Without one they are loaded without
    /// a name.
    pub repository: Option<Reference>,
    /// Of images for several platforms, only those for these are loaded, the others count as absent. Default: all that
    /// there are.
    pub platforms: Option<Vec<Platform>>,
    /// Asked for the blob of a layer that a docker-archive names by its diff id and does not have.
    pub find_layer: Option<FindLayer<'a>>,
    /// Called now and then with the number of bytes that were read of the archive as it came.
    pub progress: Option<&'a (dyn Fn(u64) + Sync)>,
    /// Told what happens to each blob that is fetched, from any thread.
    pub transfer: Option<&'a (dyn Fn(Transfer) + Sync)>,
    /// Asked now and then; loading stops when it says true.
    pub cancelled: Option<&'a (dyn Fn() -> bool + Sync)>,
}

impl LoadOptions<'_> {
    pub(super) fn is_cancelled(&self) -> bool {
        self.cancelled.is_some_and(|cancelled| cancelled())
    }

    pub(super) fn report(&self, bytes: u64) {
        if let Some(progress) = self.progress {
            progress(bytes);
        }
    }
}

impl fmt::Debug for LoadOptions<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LoadOptions")
            .field("limits", &self.limits)
            .field("durability", &self.durability)
            .field("repository", &self.repository)
            .finish_non_exhaustive()
    }
}

/// An image that was loaded: its blobs are there, its names are for the caller to give.
#[derive(Clone, PartialEq, Debug)]
#[non_exhaustive]
pub struct Loaded {
    /// What the names should point at: a manifest, or an index of several. The annotations that name it are not among
    /// its annotations.
    pub target: Descriptor,
    /// The images that are there whole, one for each platform. None if the target is an artifact.
    pub manifests: Vec<LoadedManifest>,
    /// Attestations and other artifacts that came with them. They are kept and never unpacked.
    pub artifacts: Vec<Descriptor>,
    /// What the index lists besides, and the archive did not have.
    pub absent: Vec<Descriptor>,
    /// The names that the archive gives it.
    pub names: Vec<Reference>,
    /// What is odd about it.
    pub warnings: Vec<Warning>,
}

/// An image for one platform, with the documents that were read.
#[derive(Clone, PartialEq, Debug)]
#[non_exhaustive]
pub struct LoadedManifest {
    /// Its manifest, as the index lists it.
    pub descriptor: Descriptor,
    /// The manifest.
    pub manifest: Manifest,
    /// The config.
    pub config: Config,
}

impl LoadedManifest {
    /// The platform that it is for: as the index says, else as the config does.
    pub fn platform(&self) -> Platform {
        self.descriptor.platform.clone().unwrap_or_else(|| self.config.platform())
    }
}

/// Loads an archive: a docker-archive of any age, an OCI archive, or one that is both; plain or compressed with gzip or
/// Zstandard.
///
/// Reads `reader`, which needs no buffer of its own, to its end. Where an archive is both, the OCI side counts, and
/// `manifest.json` tells the names of images that have none there, and images that are not there at all. A
/// docker-archive gets manifests made for it; the same archive gives the same ones. Layers may be missing that are where it is
/// loaded to.
///
/// A blob that is there already is not written again.
///
/// # Errors
///
/// [`LoadError`], naming the member or the document. After any of them no image was loaded and no blob that was not
/// verified is visible; what was staged goes with the workspace.
pub fn load(
    reader: impl Read,
    into: &Destination<'_>,
    options: &LoadOptions<'_>,
) -> Result<Vec<Loaded>, LoadError> {
    receive(reader, into, options)?.publish()
}

/// Does everything that [`load`] does but giving the blobs their names: what is in them can be used before.
///
/// # Errors
///
/// As [`load`].
pub fn receive<'a, 'w>(
    reader: impl Read,
    into: &Destination<'w>,
    options: &'a LoadOptions<'a>,
) -> Result<Arrival<'a, 'w>, LoadError> {
    receive_while(reader, into, options, &|_, _| None)
}

/// Tells of a large member that may be a layer, while it is read: the digest that its name seems to give it, decompressed or
/// not, and its bytes as they come. Returns a number for it if somebody is interested.
pub type Begins<'b> = &'b dyn Fn(Option<Digest>, Box<dyn Read + Send>) -> Option<usize>;

/// The same, which tells `begins` what comes. What it has numbered is found by [`Arrival::begun`].
///
/// # Errors
///
/// As [`load`]. Readers of what has not come whole then end with an error.
pub fn receive_while<'a, 'w>(
    reader: impl Read,
    into: &Destination<'w>,
    options: &'a LoadOptions<'a>,
    begins: Begins<'_>,
) -> Result<Arrival<'a, 'w>, LoadError> {
    let limits = &options.limits;
    let plain = stream::open(Watched::new(reader, options), limits)?;
    let mut members = Members::read(plain, into, options, begins)?;
    let begun = members.take_begun();
    let docker = docker_side(&mut members, limits)?;
    let index = match (members.document(oci::INDEX), members.document(oci::LAYOUT), &docker) {
        (Some(index), Some(layout), _) => {
            oci::check_layout(layout, limits)?;
            Some(index.to_vec())
        }
        (_, _, Some(_)) => None,
        (Some(_), None, None) => return Err(missing(oci::LAYOUT, oci::INDEX)),
        (None, Some(_), None) => return Err(missing(oci::INDEX, oci::LAYOUT)),
        (None, None, None) => return Err(LoadError::NotAnArchive { found: members.describe() }),
    };
    let (listed_in, items) = docker.unwrap_or((oci::INDEX, Vec::new()));

    let cancelled = || options.is_cancelled();
    let mut walk = Walk::new(Received { content: members, into: *into }, limits, &cancelled)
        .only_for(options.platforms.as_deref());
    let mut images = match index {
        Some(index) => oci::images(&index, &mut walk, options)?,
        None => Vec::new(),
    };
    let named: Vec<bool> = images.iter().map(|image| !image.names.is_empty()).collect();
    let mut places = BTreeMap::new();
    for (at, image) in images.iter().enumerate() {
        for found in &image.manifests {
            places.entry(found.manifest.config.digest).or_insert(at);
        }
    }
    let mut missing_layers = oci::Missing::default();
    for item in items {
        let at = match places.get(&item.id) {
            Some(at) => *at,
            None => {
                let target = docker::manifest_for(&item, &mut walk.content.content, options);
                let Some(target) = missing_layers.note(target)? else { continue };
                images.push(walk.image(target, listed_in)?);
                places.insert(item.id, images.len() - 1);
                images.len() - 1
            }
        };
        let refused = item.refused.into_iter().map(|text| Warning::NameReadsAsId { text });
        images[at].warnings.extend(refused);
        // What the index names is not named again here.
        if !named.get(at).is_some_and(|named| *named) {
            names::add(&mut images[at], item.names);
        }
    }
    missing_layers.check()?;
    Ok(finish(images, walk, listed_in, options)?.with_begun(begun))
}

/// What docker's documents list, and which of them does: `manifest.json`, or without one `repositories`. `None` if there
/// is neither, or only the one that counts for nothing beside an index.
fn docker_side(
    members: &mut Members<'_>,
    limits: &Limits,
) -> Result<Option<(&'static str, Vec<Item>)>, LoadError> {
    if let Some(document) = members.document(docker::MANIFEST) {
        return Ok(Some((docker::MANIFEST, docker::items(document, members, limits)?)));
    }
    match (members.document(docker::REPOSITORIES), members.document(oci::INDEX)) {
        (Some(document), None) => {
            let document = document.to_vec();
            Ok(Some((docker::REPOSITORIES, legacy::items(&document, members, limits)?)))
        }
        _ => Ok(None),
    }
}

/// Loads an OCI layout from a directory, with everything that its `index.json` lists.
///
/// # Errors
///
/// As [`load`].
pub fn load_layout(
    dir: &Dir,
    into: &Destination<'_>,
    options: &LoadOptions<'_>,
) -> Result<Vec<Loaded>, LoadError> {
    receive_layout(dir, into, options)?.publish()
}

/// Reads and verifies the documents of a layout. Its blobs stay where they are until they are staged: by other threads, or
/// when they get their names.
///
/// # Errors
///
/// As [`load`].
pub fn receive_layout<'a, 'w>(
    dir: &Dir,
    into: &Destination<'w>,
    options: &'a LoadOptions<'a>,
) -> Result<Arrival<'a, 'w>, LoadError> {
    let limits = &options.limits;
    let document = |name: &'static str| -> Result<Option<Vec<u8>>, LoadError> {
        let Some(file) = dir.open_file(name).optional()? else { return Ok(None) };
        let mut bytes = Vec::new();
        // One byte more than is allowed, for the parser to say so.
        let limit = limits.list_bytes.saturating_add(1);
        file.take(limit).read_to_end(&mut bytes).at_path("read", || dir.path_of(name))?;
        Ok(Some(bytes))
    };
    let Some(layout) = document(oci::LAYOUT)? else {
        return Err(LoadError::NotAnArchive { found: describe_dir(dir)? });
    };
    oci::check_layout(&layout, limits)?;
    let index = document(oci::INDEX)?.ok_or_else(|| missing(oci::INDEX, oci::LAYOUT))?;
    let blobs = Blobs::open(dir.try_clone()?)?;
    let cancelled = || options.is_cancelled();
    let content = Layout::new(blobs);
    let mut walk = Walk::new(Received { content, into: *into }, limits, &cancelled)
        .only_for(options.platforms.as_deref());
    let images = oci::images(&index, &mut walk, options)?;
    finish(images, walk, oci::INDEX, options)
}

/// Fetches and verifies the documents of `target`. Its blobs stay where they are until they are staged: by other threads,
/// or when they get their names. What came of a blob when that fails stays in `partial`, for the next attempt.
///
/// # Errors
///
/// As [`load`].
pub fn receive_from<'a, 'w>(
    from: &'w dyn Fetch,
    target: Descriptor,
    partial: &'w Dir,
    into: &Destination<'w>,
    options: &'a LoadOptions<'a>,
) -> Result<Arrival<'a, 'w>, LoadError> {
    let cancelled = || options.is_cancelled();
    let content = Remote::new(from, partial, *into);
    let mut walk = Walk::new(Received { content, into: *into }, &options.limits, &cancelled)
        .only_for(options.platforms.as_deref());
    let image = walk.image(target, "the request")?;
    finish(vec![image], walk, "the request", options)
}

/// The same for everything that `index` lists, an `index.json`, which also says what it is called.
///
/// # Errors
///
/// As [`load`].
#[cfg(feature = "ocidir")]
pub fn receive_listed<'a, 'w>(
    from: &'w dyn Fetch,
    index: &[u8],
    partial: &'w Dir,
    into: &Destination<'w>,
    options: &'a LoadOptions<'a>,
) -> Result<Arrival<'a, 'w>, LoadError> {
    let cancelled = || options.is_cancelled();
    let content = Remote::new(from, partial, *into);
    let mut walk = Walk::new(Received { content, into: *into }, &options.limits, &cancelled)
        .only_for(options.platforms.as_deref());
    let images = oci::images(index, &mut walk, options)?;
    finish(images, walk, oci::INDEX, options)
}

fn finish<'a, 'w>(
    mut images: Vec<Loaded>,
    walk: Walk<'_, Received<'w, impl Content<'w>>>,
    listed_in: &'static str,
    options: &'a LoadOptions<'a>,
) -> Result<Arrival<'a, 'w>, LoadError> {
    if images.is_empty() {
        return Err(LoadError::NoImage { member: listed_in.to_owned() });
    }
    for image in &mut images {
        image.warnings.extend(foreign_platform(&image.manifests));
    }
    names::settle(&mut images);
    let Walk { content, needed, .. } = walk;
    Arrival::new(images, content, &needed, options)
}

fn foreign_platform(manifests: &[LoadedManifest]) -> Option<Warning> {
    let host = Platform::host();
    let offered = manifests.first()?.platform();
    let runs = manifests.iter().any(|manifest| host.accepts(&manifest.platform()));
    (!runs).then_some(Warning::ForeignPlatform { offered, host })
}

fn missing(member: &str, wanted_by: &str) -> LoadError {
    LoadError::MissingMember { member: member.to_owned(), wanted_by: wanted_by.to_owned() }
}

fn describe_dir(dir: &Dir) -> Result<String, LoadError> {
    let has = |name| Ok::<_, fs::Error>(dir.stat(name).optional()?.is_some());
    Ok(match (has("manifest.json")?, has("version")?) {
        (true, true) => "a directory as skopeo's \"dir:\" writes it, without oci-layout".to_owned(),
        (true, false) => {
            "a directory with manifest.json, perhaps an unpacked docker-archive: pack it as a tar".to_owned()
        }
        _ => format!("a directory without {}", oci::LAYOUT),
    })
}
