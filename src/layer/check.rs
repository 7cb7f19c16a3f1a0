//! Whether a layer on disk is what it should be, told without making it again: [`LayerStore::condition`] looks at its record
//! and its size, [`blob_differences`] at every byte, [`merged_differences`] at a layer that was merged from others.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::io::Read;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use super::bind;
use super::ensure::{Counted, EnsureOptions, LayerSource};
use super::key::LayerKey;
use super::measure::Measure;
use super::record::{Record, RecordError};
use super::store::{LONGEST_RECORD, Layer, LayerError, LayerStore, RECORD, State, TREE};
use super::unpack::{Below, Compared, UnpackError, compare_blob};
use super::verify::same_objects;
use crate::fs::{Dir, Kind, Optional, Result as FsResult, Stat};
use crate::path::LayerPath;
use crate::stack::marks::Opacity;
use crate::stack::{Found, Stack};
use crate::whiteout::{Namespace, Stored};

/// What is found under a key, for checks.
#[derive(Debug)]
#[non_exhaustive]
pub enum Condition {
    /// Nothing, or a layer that was not synced before the file system was unmounted: no damage, and made when it is needed.
    Absent,
    /// A layer of a newer version of the format.
    Unknown,
    /// Its record or its size is wrong; why. It is made again when it is needed, or by a repair.
    Damaged(String),
    /// A layer that can be used.
    Good(Box<Layer>),
}

impl LayerStore {
    /// Looks at the record of a layer of this store and counts what is in its tree, but reads no file.
    ///
    /// # Errors
    ///
    /// [`LayerError`] if that cannot be told.
    pub fn condition(&self, key: LayerKey) -> Result<Condition, LayerError> {
        // What the process remembers of a record says nothing of the file.
        let layer = match self.look_anew(key) {
            Ok(State::Good(layer)) => layer,
            // One with other marks is made again when it is needed.
            Ok(State::Absent | State::Other(_)) => return Ok(Condition::Absent),
            Ok(State::Untrusted) => return self.why_untrusted(key),
            Err(LayerError::Record { .. }) => return Ok(Condition::Unknown),
            Err(LayerError::Io(error)) if error.is_damage() => {
                return Ok(Condition::Damaged(format!("its record cannot be read: {}", error.source)));
            }
            Err(error) => return Err(error),
        };
        let Some(expected) = layer.record.measure else { return Ok(Condition::Good(layer)) };
        match Measure::of(&layer.tree.dir) {
            Ok(found) if found == expected => Ok(Condition::Good(layer)),
            Ok(found) => Ok(Condition::Damaged(format!(
                "it has {} names and {} bytes, expected {} and {}",
                found.names, found.bytes, expected.names, expected.bytes
            ))),
            Err(error) if error.is_damage() => {
                Ok(Condition::Damaged(format!("{:?} cannot be read: {}", error.path, error.source)))
            }
            // The deep check tells what it is; or it is gone by now.
            Err(error) if error.is_not_found() || error.is_other_kind() => Ok(Condition::Absent),
            // A layer of another user may hold directories that this one cannot read.
            Err(error) if error.errno() == Some(rustix::io::Errno::ACCESS) => Ok(Condition::Good(layer)),
            Err(error) => Err(error.into()),
        }
    }

    /// Returns whether `layer` is still the one that its key leads to.
    ///
    /// # Errors
    ///
    /// [`LayerError`] if that cannot be told.
    pub fn is_there(&self, layer: &Layer) -> Result<bool, LayerError> {
        if layer.lent {
            return Ok(true);
        }
        let opened = layer.tree.dir.stat(".")?;
        let now = self.layers.find(Path::new(&layer.key.to_string()).join(TREE)).fitting()?.flatten();
        Ok(now.is_some_and(|now| now.is_same_inode(&opened)))
    }

    /// Tells damage from what was not synced.
    fn why_untrusted(&self, key: LayerKey) -> Result<Condition, LayerError> {
        let damaged = |why: &str| Ok(Condition::Damaged(why.to_owned()));
        let Some(dir) = self.layers.find_dir(key.to_string()).fitting()?.flatten() else {
            return Ok(Condition::Absent);
        };
        let json = match dir.find_content(RECORD, LONGEST_RECORD).fitting()? {
            Some(Some(json)) => json,
            Some(None) if !self.has(key)? => return Ok(Condition::Absent),
            Some(None) => return damaged("its record is missing"),
            None => return damaged("its record is no file"),
        };
        match Record::parse(&json) {
            Err(RecordError::Version { .. }) => Ok(Condition::Unknown),
            Err(RecordError::Damaged(error)) => damaged(&format!("its record is damaged: {error}")),
            Ok(record) if !record.is_of_key(key) => damaged("its record is that of another layer"),
            Ok(record) if record.is_trusted(self.session.as_ref()) => {
                match dir.find_dir(TREE).fitting()?.flatten() {
                    None if self.has(key)? => damaged("its tree is missing"),
                    _ => Ok(Condition::Absent),
                }
            }
            Ok(_) => Ok(Condition::Absent),
        }
    }
}

/// What comes of comparing a layer with its blob.
#[derive(Debug)]
#[non_exhaustive]
pub enum Verdict {
    /// What is not as it should be, in words and in order.
    Differences(Vec<String>),
    /// It depends on the layers below it, which were not given.
    NeedsBase,
}

/// Compares `layer` with the blob in `source`, from which it was unpacked, and writes nothing. The blob is read once, and
/// compared with the files as it is decompressed; a hundred bytes of memory are taken for each entry. Of the differences the
/// first `most` are returned.
///
/// `below` are the layers below it, lowest first. They are looked at only if the layer links to one of their files, or if
/// one of its directories is a symbolic link there.
///
/// # Errors
///
/// [`LayerError`] if something cannot be read though it is not damaged, or the caller wished to stop.
/// [`LayerError::Unpack`] if the blob is no layer.
pub fn blob_differences(
    layer: &Layer,
    source: &LayerSource<'_>,
    below: Option<&[Layer]>,
    options: &EnsureOptions<'_>,
    most: usize,
) -> Result<Verdict, LayerError> {
    let cancelled = || options.cancelled.is_some_and(|cancelled| cancelled());
    let unpack = options.for_unpacking(&cancelled);
    let diff_id = source.diff_id;
    let open = || -> Result<Box<dyn Read + Send + '_>, UnpackError> {
        let reader = (source.open)().map_err(UnpackError::Blob)?;
        Ok(Box::new(Counted::new(reader, diff_id, options.progress)))
    };
    let algorithm = diff_id.as_digest().algorithm();
    let compare = |below: Option<&Below<'_>>| {
        let compared = compare_blob(&open, algorithm, (&layer.tree, &layer.record), below, &unpack, most);
        compared.map_err(|error| match error {
            UnpackError::Cancelled => LayerError::Cancelled,
            UnpackError::Io(error) => LayerError::Io(error),
            source => LayerError::Unpack { diff_id, source },
        })
    };
    let alone = compare(None)?;
    let has_implied = !alone.unpacked.implied.is_empty();
    let mut said = Vec::new();
    let mut has_base = false;
    let compared = match (layer.key, below) {
        (LayerKey::Bound(_), Some(below)) => {
            let stack = Stack::new(below.iter().rev().map(|layer| &layer.tree));
            let crosses_link = bind::assume(&stack, alone.unpacked.implied())?.crosses_link;
            match alone.unpacked.below_links.is_empty() && !crosses_link {
                true => alone,
                false => {
                    has_base = true;
                    compare(Some(&Below::new(&stack, &alone.unpacked)))?
                }
            }
        }
        (LayerKey::Bound(_), None) if !alone.unpacked.below_links.is_empty() || has_implied => {
            return Ok(Verdict::NeedsBase);
        }
        _ => {
            if !alone.unpacked.below_links.is_empty() {
                said.push("it links to files of layers below, and stands for every base".to_owned());
            }
            alone
        }
    };
    let Compared { unpacked, diff_id: found, differences } = compared;
    if found != diff_id {
        let (expected, actual, bytes) = (diff_id, found, unpacked.tar_bytes);
        let source = UnpackError::DiffIdMismatch { expected, actual, bytes };
        return Err(LayerError::Unpack { diff_id, source });
    }
    let record = &layer.record;
    let assumed: Vec<&LayerPath> = record.assumed.iter().map(|one| &one.path).collect();
    // A base that has no such directory leaves out those that hold deletions only.
    let is_needed =
        |path: &&LayerPath| !unpacked.deletion_parents.contains(*path) || assumed.binary_search(path).is_ok();
    let implied: Vec<&LayerPath> = unpacked.implied.iter().filter(is_needed).collect();
    let facts = [
        (record.diff_id == diff_id, "diff id"),
        (record.tar_bytes == unpacked.tar_bytes, "length of the tar"),
        // Copies of files below are as large as those happen to lie on disk.
        (has_base || record.data_bytes == unpacked.data_bytes, "number of bytes"),
        (
            has_base || record.allocated_bytes.is_none_or(|bytes| bytes == unpacked.allocated_bytes),
            "number of blocks",
        ),
        (record.entries == unpacked.entries, "number of entries"),
        (record.declares_root == unpacked.declares_root, "word on the root directory"),
        (record.highest_ids == unpacked.highest_ids, "highest owners"),
        (assumed == implied, "directories that it assumes"),
        (record.merged.is_empty(), "list of layers"),
    ];
    let wrong = facts.iter().filter(|(same, _)| !same);
    said.extend(wrong.map(|(_, what)| format!("its record has another {what}")));
    said.extend(differences.iter().map(ToString::to_string));
    Ok(Verdict::Differences(said))
}

/// Compares `found` with the layers that it was merged from, lowest first, and writes nothing. Of the differences the first
/// `most` are returned. Once `cancelled` says so, the rest is left out.
///
/// # Errors
///
/// [`Error`](crate::fs::Error) if something cannot be read.
pub fn merged_differences(
    layers: &[Layer],
    found: &Layer,
    most: usize,
    cancelled: &dyn Fn() -> bool,
) -> FsResult<Vec<String>> {
    let stack = Stack::new(layers.iter().rev().map(|layer| &layer.tree));
    let mut said = Vec::new();
    let keys: Vec<LayerKey> = layers.iter().map(|layer| layer.key).collect();
    if found.record.merged != keys {
        said.push("its record has another list of layers".to_owned());
    }
    if found.record.declares_root != layers.iter().any(|layer| layer.tree.declares_root) {
        said.push("its record has another word on the root directory".to_owned());
    }
    let Some(root) = stack.root()? else { return Ok(said) };
    let closed = stack.hides_below()?;
    let mut open = vec![(LayerPath::ROOT, root, closed, closed)];
    while let Some((path, directory, closed, is_marked)) = open.pop() {
        if said.len() >= most || cancelled() {
            break;
        }
        let mut differs = |path: &LayerPath, what: &str| said.push(format!("{path:?} {what}"));
        let Some(here) = found.tree.dir.find_dir(path.as_path()).fitting()?.flatten() else { continue };
        if !same_directory(&stack, &path, &directory, &here)? {
            differs(&path, "is not as in the layers that it was merged from");
        }
        let opacity = found.tree.marks.opacity(&here, Path::new("."))?;
        // Below an opaque directory nothing needs a mark.
        if (opacity == Opacity::Opaque) != is_marked {
            differs(&path, "has other marks");
        }
        let mut names: BTreeSet<Vec<u8>> = here.names()?.into_iter().map(|entry| entry.name).collect();
        for (name, entry) in stack.entries(&path, &directory)? {
            let at = path.join(&name);
            let os_name = OsStr::from_bytes(&name);
            if entry.found.is_none() && closed {
                continue;
            }
            if !names.remove(&name) {
                differs(&at, "is missing");
                continue;
            }
            let stat = here.stat(os_name)?;
            match entry.found {
                None => {
                    if !found.tree.marks.is_whiteout(&here, Path::new(os_name), &stat, opacity)? {
                        differs(&at, "is of another type");
                    }
                }
                Some(below) if below.is_directory() => match stat.kind {
                    Kind::Directory => {
                        let hides = entry.hides_below;
                        open.push((at, below, closed || hides, hides && !closed));
                    }
                    _ => differs(&at, "is of another type"),
                },
                Some(below) => {
                    let source = stack.tree(below.tree()).dir.open_dir(path.as_path())?;
                    if !is_same(&source, &here, os_name, [&below.stat, &stat], cancelled)? {
                        differs(&at, "is not as in the layers that it was merged from");
                    }
                }
            }
        }
        for name in names {
            differs(&path.join(&name), "does not belong there");
        }
    }
    said.truncate(most);
    Ok(said)
}

fn is_same(
    source: &Dir,
    here: &Dir,
    name: &OsStr,
    stats: [&Stat; 2],
    cancelled: &dyn Fn() -> bool,
) -> FsResult<bool> {
    Ok(stats[0].is_same_inode(stats[1]) || same_objects([source, here], [name, name], cancelled)?)
}

/// Compares the metadata of a directory with that of the topmost layer that describes it; marks left out.
fn same_directory(stack: &Stack<'_>, path: &LayerPath, found: &Found, here: &Dir) -> FsResult<bool> {
    let tree = match path.is_root() {
        true => stack.trees().iter().copied().find(|tree| tree.declares_root),
        false => Some(stack.tree(found.tree())),
    };
    let Some(tree) = tree else { return Ok(true) };
    let there = tree.dir.open_dir(path.as_path())?;
    let facts = |stat: Stat| (stat.mode, stat.uid, stat.gid, stat.mtime);
    let plain = |dir: &Dir| -> FsResult<Vec<(Vec<u8>, Vec<u8>)>> {
        Ok(dir.xattrs(".")?.into_iter().filter(|(name, _)| !is_mark(name)).collect())
    };
    Ok(facts(there.stat(".")?) == facts(here.stat(".")?) && plain(&there)? == plain(here)?)
}

/// Returns whether the attribute `name` is a mark of overlayfs, of either family.
fn is_mark(name: &[u8]) -> bool {
    Namespace::ALL.iter().any(|family| family.unescape(name) == Stored::Private)
}
