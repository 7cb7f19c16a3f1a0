//! From a layer's tar to a directory in overlayfs's form.
//!
//! What an archive may do is decided in three places. `place.rs` finds the directory that an entry belongs in, and is
//! why nothing is ever written outside the layer. `entries.rs` writes entries as they come. `finish.rs` settles what
//! depends on the whole layer: hard links to later entries (`links.rs`), deletions, metadata of directories. So the
//! result does not depend on the order in which whiteouts, opaque markers and directories stand in the tar.
//!
//! A layer alone cannot say what its implied directories are like, nor what is behind a hard link to a file below.
//! [`Unpacked`] names both; `bind.rs` settles them when the layers below are known.

mod ahead;
mod content;
mod deletions;
mod entries;
mod error;
mod expected;
mod files;
mod finish;
mod links;
mod place;
mod shadow;

mod target;
mod writers;

use std::collections::{BTreeMap, BTreeSet};
use std::io::Read;
use std::sync::Arc;

use self::ahead::{Ahead, Blob};
use self::entries::Unpacker;
pub use self::error::UnpackError;
use self::shadow::{Circumstances, Shadow};
use self::target::Target;
use self::writers::{Outbox, Writers};
use super::abilities::Abilities;
use super::bind;
use super::crew::Crew;
use super::measure::Measure;
use super::record::{HighestIds, Missing, Record};
use super::verify::Difference;
use super::xattrs::XattrPolicy;
use crate::changeset::Reader;
use crate::digest::{Algorithm, DiffId};
use crate::fs::{Dir, Metadata, Optional};
use crate::limits::Limits;
use crate::parallelism::Parallelism;
use crate::path::LayerPath;
use crate::stack::object::Loss;
use crate::stack::{Stack, Tree};
use crate::whiteout::Namespace;

/// Threads that one layer has work for. One reads and creates, which nobody else may, and takes about a third of the time
/// of the smallest files; one decodes.
pub(super) const THREADS: usize = 4;

/// What tunes unpacking.
#[derive(Clone)]
#[non_exhaustive]
pub struct UnpackOptions<'a> {
    /// What a layer may ask for.
    pub limits: Limits,
    /// Which attributes enter the layer.
    pub xattrs: XattrPolicy,
    /// How many losses are described in the result; more are counted only. Default 100.
    pub losses: usize,
    /// Threads that one layer may use: the second decodes ahead, and all write small files where they would wait.
    pub parallelism: Parallelism,
    /// Whether names that begin with `.wh.` are ordinary names, because the tar is a plain one and no layer.
    pub reserved_names: bool,
    /// Asked at every entry and every block of data; once it says true, unpacking ends with
    /// [`UnpackError::Cancelled`].
    pub cancelled: Option<&'a (dyn Fn() -> bool + Sync)>,
}

impl Default for UnpackOptions<'_> {
    fn default() -> Self {
        Self {
            limits: Limits::default(),
            xattrs: XattrPolicy::default(),
            losses: 100,
            parallelism: Parallelism::default(),
            reserved_names: false,
            cancelled: None,
        }
    }
}

impl std::fmt::Debug for UnpackOptions<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("UnpackOptions")
            .field("limits", &self.limits)
            .field("xattrs", &self.xattrs)
            .field("losses", &self.losses)
            .field("parallelism", &self.parallelism)
            .field("reserved_names", &self.reserved_names)
            .finish_non_exhaustive()
    }
}

impl UnpackOptions<'_> {
    fn is_cancelled(&self) -> bool {
        self.cancelled.is_some_and(|cancelled| cancelled())
    }
}

/// A layer that was unpacked, and what it leaves open.
#[derive(Debug)]
#[non_exhaustive]
pub struct Unpacked {
    /// Entries of the tar, those that mean nothing not counted.
    pub entries: u64,
    /// Length of the tar in bytes; 0 where nobody counted.
    pub tar_bytes: u64,
    /// Bytes of data written; holes are not counted, nor are the long runs of zeros that became holes.
    pub data_bytes: u64,
    /// Bytes of the blocks of 4 KiB that the data is in, and one block for each directory.
    pub allocated_bytes: u64,
    /// Names and lengths of files in the directory; `None` where a later entry replaced an earlier one, so that only a walk
    /// through it can tell.
    pub measure: Option<Measure>,
    /// Whether the layer says what its root directory is like.
    pub declares_root: bool,
    /// The highest owners in it.
    pub highest_ids: HighestIds,
    /// Directories that the layer needs and does not describe, sorted; they are `0755 0:0` at the epoch unless the layers
    /// below were given. New directories, which take nothing from below, are not among them.
    pub implied: Vec<LayerPath>,
    /// Those of them that exist only to hold deletions. Where the layers below have no such directory, there is nothing to
    /// delete, and a root must not show the directory.
    pub deletion_parents: BTreeSet<LayerPath>,
    /// Hard links to what had not come yet: either it came later, or it is a file below, in which case the link was not
    /// made. Only where the layers below were not given; then the layer has to be unpacked again with them.
    pub below_links: Vec<BelowLink>,
    /// What this file system or this process could not hold.
    pub losses: Losses,
    first: First,
}

/// Bytes of headers and padding of an entry: a block, as a rule a pair of blocks before it, and less than one behind its data.
const HEADERS: u64 = 2048;

impl Unpacked {
    /// Returns about how many zeros of the tar became holes: what is neither data nor a header.
    pub(crate) fn zeros(&self) -> u64 {
        self.tar_bytes.saturating_sub(self.data_bytes).saturating_sub(self.entries.saturating_mul(HEADERS))
    }

    /// The implied directories, each with whether it exists only to hold deletions.
    pub(super) fn implied(&self) -> impl Iterator<Item = (&LayerPath, bool)> {
        self.implied.iter().map(|path| (path, self.deletion_parents.contains(path)))
    }
}

/// A hard link that is to a file of a lower layer, if there is one.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct BelowLink {
    /// The link.
    pub path: LayerPath,
    /// What it should be another name of.
    pub target: LayerPath,
}

/// Losses, of which the first are described.
#[derive(Debug)]
#[non_exhaustive]
pub struct Losses {
    /// The first of them.
    pub described: Vec<Loss>,
    /// How many there are.
    pub count: u64,
    most: usize,
}

impl Losses {
    /// None yet, of which at most this many will be described.
    pub(super) fn new(most: usize) -> Self {
        Self { described: Vec::new(), count: 0, most }
    }

    pub(super) fn add(&mut self, loss: Loss) {
        self.count += 1;
        if self.described.len() < self.most {
            self.described.push(loss);
        }
    }
}

/// The layers that another one is unpacked on, and what is known of that one from unpacking it alone.
#[derive(Clone, Copy, Debug)]
pub struct Below<'a> {
    stack: &'a Stack<'a>,
    first: &'a First,
}

impl<'a> Below<'a> {
    /// The layers `stack` below a layer that was unpacked alone as `alone`. One look at the whole layer is needed first,
    /// because a deletion at its end takes effect for the entries at its beginning.
    pub fn new(stack: &'a Stack<'a>, alone: &'a Unpacked) -> Self {
        Self { stack, first: &alone.first }
    }
}

/// What a first look at a layer showed.
#[derive(Debug)]
struct First {
    deletions: Deletions,
    /// Its directories; `None` for those that it does not describe.
    directories: BTreeMap<LayerPath, Option<Metadata>>,
    /// Directories that have an opaque marker, that the layer deletes, and that no entry makes.
    without_directory: BTreeSet<LayerPath>,
}

impl First {
    /// Whether the layer itself says that `path` is a directory.
    fn declares(&self, path: &LayerPath) -> bool {
        self.directories.get(path).is_some_and(Option::is_some)
    }
}

/// What a layer deletes from the layers below it.
#[derive(Clone, Debug, Default)]
struct Deletions {
    /// Names.
    whiteouts: BTreeSet<LayerPath>,
    /// Directories whose content goes.
    opaque: BTreeSet<LayerPath>,
    /// Directories that came where this layer had something else before: they have nothing from below.
    replaced: BTreeSet<LayerPath>,
}

/// Unpacks one layer into `into`, a fresh directory.
///
/// `tar` is the *uncompressed* stream; it is read to its end, unless an error comes first. Whiteouts stay whiteouts, in
/// overlayfs's form, because this directory holds one layer and not the stack. Give `below` to have hard links to files
/// of lower layers copied up, and the directories that are implied made like those below. See the [spec].
///
/// The process's umask may be any, but must not change meanwhile: what it takes from new files is not asked for each.
///
/// # Errors
///
/// [`UnpackError`]; `into` then holds a partial tree, and nothing was written anywhere else.
///
/// [spec]: https://github.com/opencontainers/image-spec/blob/main/layer.md#applying-changesets
///
/// ```no_run
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// use plywood::fs::Dir;
/// use plywood::layer::{Abilities, UnpackOptions, unpack};
///
/// let into = Dir::ensure_ambient("layer")?;
/// let abilities = Abilities::probe(&into)?;
/// let tar = std::fs::File::open("layer.tar")?;
/// let unpacked = unpack(tar, &into, None, abilities, &UnpackOptions::default())?;
/// println!("{} entries", unpacked.entries);
/// # Ok(())
/// # }
/// ```
pub fn unpack(
    tar: impl Read,
    into: &Dir,
    below: Option<&Below<'_>>,
    abilities: Abilities,
    options: &UnpackOptions<'_>,
) -> Result<Unpacked, UnpackError> {
    unpack_from(tar, into, below, abilities, options, None).map(|(unpacked, _)| unpacked)
}

/// Unpacks one layer from its blob, which may be compressed, into `into`, a fresh directory; see [`unpack`].
///
/// # Errors
///
/// [`UnpackError::DiffIdMismatch`] if the tar is not `expected`, and as [`unpack`].
pub fn unpack_layer<'env>(
    blob: impl Read + Send + 'env,
    expected: DiffId,
    into: &Dir,
    below: Option<&Below<'_>>,
    abilities: Abilities,
    options: &UnpackOptions<'_>,
) -> Result<Unpacked, UnpackError> {
    let blob: Blob<'env> = Box::new(blob);
    if options.parallelism.threads() == 1 {
        return unpack_blob(blob, expected, into, below, abilities, options, None);
    }
    let crew = Crew::new();
    std::thread::scope(|scope| {
        let _closing = crew.closing();
        for _ in 1..options.parallelism.threads().min(THREADS) {
            scope.spawn(|| crew.help());
        }
        unpack_blob(blob, expected, into, below, abilities, options, Some(&crew))
    })
}

/// Unpacks a blob; idle threads of `crew` help.
pub(super) fn unpack_blob<'env>(
    blob: Blob<'env>,
    expected: DiffId,
    into: &Dir,
    below: Option<&Below<'_>>,
    abilities: Abilities,
    options: &UnpackOptions<'_>,
    crew: Option<&Crew<'env>>,
) -> Result<Unpacked, UnpackError> {
    let algorithm = expected.as_digest().algorithm();
    let (unpacked, actual) = unpack_any(blob, algorithm, into, below, abilities, options, crew)?;
    if actual != expected {
        return Err(UnpackError::DiffIdMismatch { expected, actual, bytes: unpacked.tar_bytes });
    }
    Ok(unpacked)
}

/// Unpacks a blob of which nobody knows what it should be, and says what it is.
pub(super) fn unpack_any<'env>(
    blob: Blob<'env>,
    algorithm: Algorithm,
    into: &Dir,
    below: Option<&Below<'_>>,
    abilities: Abilities,
    options: &UnpackOptions<'_>,
    crew: Option<&Crew<'env>>,
) -> Result<(Unpacked, DiffId), UnpackError> {
    unpack_to(blob, algorithm, into, below, abilities, options, crew)
}

/// Unpacks a blob into any target.
fn unpack_to<'env, D: Target>(
    blob: Blob<'env>,
    algorithm: Algorithm,
    into: &D,
    below: Option<&Below<'_>>,
    abilities: Abilities,
    options: &UnpackOptions<'_>,
    crew: Option<&Crew<'env>>,
) -> Result<(Unpacked, DiffId), UnpackError> {
    let help = crew.map(|crew| Help { crew, writers: Arc::default() });
    let invite = || {
        if let Some(help) = &help {
            help.invite();
        }
    };
    let outbox = help.as_ref().map(|help| Outbox::new(Arc::clone(&help.writers), &invite));
    let tar = Ahead::new(blob, algorithm, &options.limits, help.as_ref()).map_err(UnpackError::Blob)?;
    let (mut unpacked, tar) = unpack_from(tar, into, below, abilities, options, outbox)?;
    let (actual, bytes) = tar.digest().expect("the reader of the tar reads to the end");
    unpacked.tar_bytes = bytes;
    Ok((unpacked, DiffId::of_tar(actual)))
}

/// A layer that was compared with its blob.
pub(super) struct Compared {
    /// What unpacking would have told.
    pub(super) unpacked: Unpacked,
    /// The tar in the blob.
    pub(super) diff_id: DiffId,
    /// What is not as the tar says.
    pub(super) differences: Vec<Difference>,
}

/// Compares the layer `tree` with the blob that `open` opens, and writes nothing; see [`Shadow`]. Of the differences the
/// first `most` are told.
pub(super) fn compare_blob<'b>(
    open: &dyn Fn() -> Result<Blob<'b>, UnpackError>,
    algorithm: Algorithm,
    (tree, record): (&Tree, &Record),
    below: Option<&Below<'_>>,
    options: &UnpackOptions<'_>,
    most: usize,
) -> Result<Compared, UnpackError> {
    // Both are about what is written.
    let family = record.families.single().unwrap_or(Namespace::Trusted);
    let abilities = Abilities { family, privileged: true };
    let missing = Missing::of(record);
    let mut keep = None;
    loop {
        let (policy, cancelled) = (&options.xattrs, options.cancelled);
        let about = Circumstances { tree, policy, missing: &missing, cancelled };
        let is_first = keep.is_none();
        let shadow = Shadow::new(about, keep.unwrap_or_default())?;
        let blob = open()?;
        let (unpacked, diff_id) = match options.parallelism.threads() {
            1 => unpack_to(blob, algorithm, &shadow, below, abilities, options, None)?,
            _ => {
                let crew = Crew::new();
                std::thread::scope(|scope| {
                    let _closing = crew.closing();
                    scope.spawn(|| crew.help());
                    unpack_to(blob, algorithm, &shadow, below, abilities, options, Some(&crew))
                })?
            }
        };
        let stale = shadow.stale();
        if is_first && !stale.is_empty() {
            keep = Some(stale);
            continue;
        }
        if !unpacked.declares_root {
            shadow.forget_root();
        }
        if below.is_none() {
            let has = |path: &LayerPath| record.assumed.iter().any(|assumed| assumed.path == *path);
            for path in unpacked.deletion_parents.iter().filter(|path| !has(path)) {
                shadow.leave_out(path)?;
            }
        }
        for assumed in &record.assumed {
            shadow.compare_assumed(assumed).optional()?;
        }
        let differences = shadow.differences(most)?;
        return Ok(Compared { unpacked, diff_id, differences });
    }
}

/// The threads that help with a layer, and what they help with.
struct Help<'c, 'env> {
    crew: &'c Crew<'env>,
    writers: Arc<Writers>,
}

impl Help<'_, '_> {
    /// Sends a thread that has nothing to do, if there is one, for what is to be written.
    fn invite(&self) {
        if self.crew.is_idle() {
            let writers = Arc::clone(&self.writers);
            // If another was quicker to take it, whoever comes by next does the work.
            drop(self.crew.offer(Box::new(move || writers.help_all())));
        }
    }
}

/// Unpacks and gives the reader back, at its end.
fn unpack_from<D: Target, R: Read>(
    tar: R,
    into: &D,
    below: Option<&Below<'_>>,
    abilities: Abilities,
    options: &UnpackOptions<'_>,
    outbox: Option<Outbox<'_>>,
) -> Result<(Unpacked, R), UnpackError> {
    let mut tar = Reader::new(tar, &options.limits);
    if options.reserved_names {
        tar = tar.allow_reserved_names();
    }
    let mut unpacker = Unpacker::new(into, below, abilities, options, outbox)?;
    unpacker.all(&mut tar)?;
    let mut unpacked = unpacker.finish()?;
    if let Some(below) = below {
        // A name that is a link below was followed, so none is left to stand in the way.
        let assumed = bind::assume(below.stack, unpacked.implied())?;
        into.apply(&assumed.directories, abilities, &mut unpacked.losses)?;
    }
    Ok((unpacked, tar.into_inner()))
}
