//! Merged layers: what several layers show together, as one, for images of more layers than a kernel stacks.
//!
//! ```text
//! layers/merged-sha256-<hex>/   the key names the layers, lowest first; otherwise a layer like any other
//! ```
//!
//! Such a layer can be made again from those that it was merged from, and is kept for as long as something stacks them.
//! Its files are theirs under second names; its directories are its own. A deletion in it, or a directory that hides what
//! is below, acts on the layers below the merged ones as it did before. Which layers are merged depends on the stack
//! alone, and the lowest are, so images with a common base share what was merged of it.

use std::collections::btree_map::Entry as Slot;
use std::collections::{BTreeMap, HashMap};
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use rustix::io::Errno;

use super::bind;
use super::key::{LayerKey, merged_digest};
use super::record::{HighestIds, Record};
use super::store::{Layer, LayerError, LayerStore, State};
use crate::digest::Digest;
use crate::fs::{Dir, Overflow, Result, Stat, Workspace};
use crate::path::LayerPath;
use crate::stack::object::Loss;
use crate::stack::{Found, Stack};
use crate::whiteout::{Namespace, Stored};

/// Layers that are stacked as they are: the kernel's 500 directories, less the one that a root without a writable
/// directory has of its own.
pub const MOST_STACKED: usize = 499;

/// Layers that become one. Fewer would be merged more often, and more take more open files at a time.
const GROUP: usize = 250;

/// What is stacked in place of a list of layers: the lowest of them merged, if there are too many.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Stacking {
    /// Lists of layers to be merged, lowest first, as are the layers in them.
    pub merged: Vec<Vec<LayerKey>>,
    /// The layers above these.
    pub single: Vec<LayerKey>,
}

impl Stacking {
    /// Decides for `layers`, lowest first. Of a layer that is there twice only the upper one counts: it shadows the other
    /// completely.
    pub fn of(layers: &[LayerKey]) -> Self {
        let mut seen = std::collections::HashSet::new();
        let mut distinct: Vec<_> = layers.iter().rev().filter(|key| seen.insert(**key)).copied().collect();
        distinct.reverse();
        let groups = distinct.len().saturating_sub(MOST_STACKED).div_ceil(GROUP - 1);
        let single = distinct.split_off(groups * GROUP);
        Self { merged: distinct.chunks(GROUP).map(<[_]>::to_vec).collect(), single }
    }

    /// The keys of the merged layers, lowest first.
    pub fn merged_keys(&self) -> impl Iterator<Item = LayerKey> {
        self.merged.iter().map(|group| LayerKey::merged(group))
    }

    /// What is stacked, lowest first.
    pub fn keys(&self) -> Vec<LayerKey> {
        self.merged_keys().chain(self.single.iter().copied()).collect()
    }
}

impl LayerStore {
    /// Makes sure that the layer is there that shows what `layers`, lowest first, show together. `work` is a workspace on
    /// the same file system. As for [`LayerStore::ensure`], the caller pins the key first.
    ///
    /// # Errors
    ///
    /// [`LayerError::Gone`] if one of `layers` is not there; [`LayerError::Io`]. Nothing is visible then.
    pub fn ensure_merged(&self, layers: &[LayerKey], work: &Workspace) -> Result<Layer, LayerError> {
        let digest = merged_digest(layers);
        let key = LayerKey::Merged(digest);
        if let State::Good(layer) = self.seek(key)? {
            return Ok(*layer);
        }
        let _lock = self.lock(key)?;
        if let State::Good(layer) = self.seek(key)? {
            return Ok(*layer);
        }
        let outdated = matches!(self.seek(key)?, State::Other(layer) if layer.has_both_families());
        match self.merge_again(layers, digest, work) {
            Err(error) if outdated && !matches!(error, LayerError::Cancelled) => {
                tracing::warn!(layer = %key, %error, "a merged layer of an older version of the store cannot be made again, and is used as it is");
                self.keep(key);
                self.find(key)?.ok_or(error)
            }
            made => made,
        }
    }

    /// Makes the layer that `layers` are merged into once more, and puts it in the place of the one that is there.
    ///
    /// # Errors
    ///
    /// As [`LayerStore::ensure_merged`]; what is there is then still there.
    pub fn renew_merged(&self, layers: &[LayerKey], work: &Workspace) -> Result<Layer, LayerError> {
        let digest = merged_digest(layers);
        let _lock = self.lock(LayerKey::Merged(digest))?;
        self.merge_again(layers, digest, work)
    }

    /// Merges `layers` under the lock of what they become.
    fn merge_again(
        &self,
        layers: &[LayerKey],
        digest: Digest,
        work: &Workspace,
    ) -> Result<Layer, LayerError> {
        let key = LayerKey::Merged(digest);
        let open = |key: &LayerKey| self.find(*key)?.ok_or(LayerError::Gone { key: *key });
        let opened = layers.iter().map(open).collect::<Result<Vec<Layer>, _>>()?;
        let stack = Stack::new(opened.iter().rev().map(|layer| &layer.tree));
        let family = self.abilities(work)?.family;
        let staged = work.directory()?;
        let tree = Self::stage_tree(&staged)?;
        // Highest first, as the trees of a stack.
        let lent: Vec<bool> = opened.iter().rev().map(|layer| layer.lent).collect();
        let Merged { entries, copied } = merge(&stack, &lent, &tree, family)?;
        let declares_root = opened.iter().any(|layer| layer.tree.declares_root);
        let mut highest = HighestIds::default();
        for HighestIds { uid, gid } in opened.iter().map(|layer| layer.record.highest_ids) {
            highest.include(uid, gid);
        }
        let session = self.session.as_ref();
        let mut record =
            Record::merged(digest, layers.to_vec(), family, entries, declares_root, highest, session);
        record.data_bytes = copied;
        self.publish(key, staged, record, work, false)
    }
}

/// A directory that is being merged.
struct Merging {
    path: LayerPath,
    found: Found,
    /// Nothing of what lies below the merged layers is seen in it.
    closed: bool,
}

/// What became of merging.
struct Merged {
    /// Names in it.
    entries: u64,
    /// Bytes of data that are not second names of the layers' own.
    copied: u64,
}

/// Makes in `into`, a fresh directory, what `layers` show, with their effect on what is below them. Files of layers that
/// are `lent` are copied: a second name would be written to another's store.
fn merge(layers: &Stack<'_>, lent: &[bool], into: &Dir, family: Namespace) -> Result<Merged> {
    let Some(root) = layers.root()? else { return Ok(Merged { entries: 0, copied: 0 }) };
    let closed = layers.hides_below()?;
    if closed {
        family.mark_opaque(into, Path::new("."))?;
    }
    let mut directories = vec![Merging { path: LayerPath::ROOT, found: root, closed }];
    let (mut next, mut entries) = (0, 0);
    let (mut copies, mut overflow) = (Copies::default(), Overflow::default());
    while let Some(Merging { path, found, closed }) = directories.get(next) {
        next += 1;
        let target = into.open_dir(path.as_path())?;
        let mut sources: BTreeMap<usize, Dir> = BTreeMap::new();
        let mut below = Vec::new();
        for (name, entry) in layers.entries(path, found)? {
            entries += 1;
            let on_disk = Path::new(OsStr::from_bytes(&name));
            match entry.found {
                // Where nothing is seen of what is below there is nothing to delete.
                None if *closed => {}
                None => family.whiteout(&target, Path::new("."), on_disk)?,
                Some(found) if found.is_directory() => {
                    target.create_private_dir(on_disk)?;
                    if entry.hides_below && !closed {
                        family.mark_opaque(&target, on_disk)?;
                    }
                    let closed = *closed || entry.hides_below;
                    below.push(Merging { path: path.join(&name), found, closed });
                }
                Some(found) => {
                    let source = match sources.entry(found.tree()) {
                        Slot::Occupied(slot) => slot.into_mut(),
                        Slot::Vacant(slot) => {
                            slot.insert(layers.tree(found.tree()).dir.open_dir(path.as_path())?)
                        }
                    };
                    if lent[found.tree()] {
                        copies.add(source, (into, &target), path.join(&name), &found.stat)?;
                        continue;
                    }
                    match source.hard_link(on_disk, &target, on_disk) {
                        // The file system counts no further, or does not let this process link this file.
                        Err(error) if matches!(error.errno(), Some(Errno::MLINK | Errno::PERM)) => {
                            let (stat, path) = (&found.stat, path.join(&name));
                            let original = (stat.device, stat.inode);
                            let to = (&target, on_disk);
                            let copied = overflow.link(original, (into, path.as_path()), to, || {
                                bind::copy((source, on_disk), to, stat, &mut warn, &path)
                            })?;
                            copies.bytes += if copied { stat.allocated.min(stat.size) } else { 0 };
                        }
                        done => done?,
                    }
                }
            }
        }
        directories.append(&mut below);
    }
    // What was made in a directory has changed its time; the order above has parents first.
    for Merging { path, found, .. } in directories.iter().rev() {
        // The root is as the topmost layer says that says anything of it.
        let tree = match path.is_root() {
            true => layers.trees().iter().find(|tree| tree.declares_root),
            false => Some(&layers.trees()[found.tree()]),
        };
        if let Some(tree) = tree {
            let stat = tree.dir.stat(path.as_path())?;
            let keep = |name: &[u8]| tree.marks.stored(name) != Stored::Private;
            let at = path.as_path();
            bind::copy_raw((&tree.dir, at), (into, at), &stat, keep, &mut warn, path)?;
            family.shield(into, at)?;
        }
    }
    Ok(Merged { entries, copied: copies.bytes })
}

/// A merged layer has no result that could list what is lost. Its layers are on the same file system but for those of
/// additional stores, so this is rare.
fn warn(loss: Loss) {
    tracing::warn!(%loss, "a merged layer lacks this");
}

/// Files that are copied instead of getting a second name. Those that are one file stay one.
#[derive(Default)]
struct Copies {
    /// Where the copy is, by device and inode of the original.
    made: HashMap<(u64, u64), LayerPath>,
    bytes: u64,
}

impl Copies {
    /// Copies a file in the directory `from` to the one of the same name in `target`, which is at `path` in `into`.
    fn add(&mut self, from: &Dir, (into, target): (&Dir, &Dir), path: LayerPath, stat: &Stat) -> Result<()> {
        let at = path.as_path();
        let original = (stat.device, stat.inode);
        if let Some(copy) = self.made.get(&original) {
            match into.hard_link(copy.as_path(), into, at) {
                // The next copy takes this name and those that follow.
                Err(error) if error.errno() == Some(Errno::MLINK) => {}
                done => return done,
            }
        }
        let name = at.file_name().map_or(at, Path::new);
        bind::copy((from, name), (target, name), stat, &mut warn, &path)?;
        self.bytes += stat.allocated.min(stat.size);
        if stat.links > 1 {
            self.made.insert(original, path);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::digest::DiffId;

    fn layers(count: usize) -> Vec<LayerKey> {
        let key = |number: usize| LayerKey::Free(DiffId::of_tar(Digest::of(number.to_be_bytes())));
        (0..count).map(key).collect()
    }

    #[test]
    fn only_what_is_too_much_is_merged_and_the_lowest_layers_are() {
        for count in [0, 1, MOST_STACKED, 500, 600, 748, 1000, 1024, 4096] {
            let layers = layers(count);
            let stacking = Stacking::of(&layers);
            assert!(stacking.keys().len() <= MOST_STACKED, "{count}");
            assert_eq!(stacking.merged.is_empty(), count <= MOST_STACKED, "{count}");
            let all: Vec<_> = stacking.merged.concat().into_iter().chain(stacking.single).collect();
            assert_eq!(all, layers, "{count}");
        }
    }

    #[test]
    fn images_with_a_common_base_share_what_is_merged_of_it() {
        let merged = |count: usize| Stacking::of(&layers(count)).merged_keys().collect::<Vec<_>>();
        let most = merged(1000);
        assert!(most.len() > 1);
        for count in [500, 501, 600, 999] {
            assert!(most.starts_with(&merged(count)), "{count}");
        }
        assert_ne!(most[0], most[1]);
    }

    #[test]
    fn a_layer_that_is_there_many_times_counts_once() {
        let mut twice = layers(400);
        twice.extend(layers(300));
        let stacking = Stacking::of(&twice);
        assert!(stacking.merged.is_empty());
        assert_eq!(stacking.single, twice[300..]);
    }
}
