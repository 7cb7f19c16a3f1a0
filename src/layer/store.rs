//! [`LayerStore`]: the unpacked layers, read-only and shared.
//!
//! ```text
//! layers/<key>/           appears whole, by rename, and never changes but for the last line of its record
//!     layer.json          see `record.rs`
//!     tree/               the layer in overlayfs's form
//! layers/<key>.<family>/  the same with the marks of the family `trusted` or `user`, where `<key>` has the other
//! locks/layer-<key>       held while that layer is being made or removed; gone with its holder
//! ```
//!
//! A layer carries the marks of one family, and only mounts of that family stack it. Root and a user namespace of the same
//! user may share a store; each then has its own directory of a layer, and neither replaces the other's. A layer with both
//! families, of a record of version 1, is made again at its next use ([`State::Other`]); where that fails it is used as it is.
//!
//! Reading takes no lock and writes nothing. How layers come to be is `ensure.rs`; which of them are needed is for others
//! to know.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, OnceLock, PoisonError};

use super::abilities::Abilities;
use super::key::LayerKey;
use super::known::Known;
use super::lent::LentLayers;
use super::measure::Measure;
use super::record::{Record, RecordError};
use super::unpack::UnpackError;
use crate::digest::{DiffId, Digest};
use crate::fs::{self, Dir, Kind, Lock, LockMode, Optional, Session, StagedDir, Workspace};
use crate::stack::Tree;
use crate::stack::marks::{self, Marks};
use crate::whiteout::Namespace;

pub(super) const RECORD: &str = "layer.json";
pub(super) const TREE: &str = "tree";

/// Layers that are open at a time while they are waited for.
const SETTLED_AT_ONCE: usize = 100;

/// A record is as long as the list of what its layer assumes, which limits on entries bound.
pub(super) const LONGEST_RECORD: u64 = 4 << 30;

/// The unpacked layers of a store.
#[derive(Debug)]
pub struct LayerStore {
    pub(super) layers: Dir,
    pub(super) locks: Dir,
    /// The present boot and mounted file system, where the kernel tells.
    pub(super) session: Option<Session>,
    abilities: OnceLock<Abilities>,
    /// The family of marks that is wanted in any case.
    wanted: Option<Namespace>,
    /// The family that this process wants as far as can be told without writing.
    likely: OnceLock<Namespace>,
    /// Layers with both families that could not be made again, and are used as they are.
    kept: Mutex<BTreeSet<LayerKey>>,
    known: Known,
    /// Those of other stores, in the order in which they are asked.
    lent: Vec<LentLayers>,
}

/// One unpacked layer.
#[derive(Debug)]
#[non_exhaustive]
pub struct Layer {
    /// What it is called.
    pub key: LayerKey,
    /// Its content.
    pub tree: Tree,
    /// What is known of it.
    pub record: Record,
    /// Whether it belongs to another store: nothing of it may be changed, not even the number of its files' names.
    pub lent: bool,
    /// The name of its directory.
    pub(super) directory: String,
}

impl Layer {
    fn new(key: LayerKey, directory: &str, tree: Dir, record: Record) -> Self {
        let tree = Tree { dir: tree, marks: record.families.marks(), declares_root: record.declares_root };
        Self { key, tree, record, lent: false, directory: directory.to_owned() }
    }

    /// Returns true if this process is shown its marks. Otherwise files that it deletes would be seen.
    pub fn shows_marks(&self) -> bool {
        self.tree.marks != Marks::Overlay(Namespace::Trusted) || marks::sees_trusted()
    }

    /// Returns true if it has the marks of both families, as layers of records of version 1.
    pub fn has_both_families(&self) -> bool {
        self.tree.marks == Marks::Both
    }
}

/// The directory of the layer `key` with the marks of `family`, where the first has others.
fn beside(key: LayerKey, family: Namespace) -> String {
    format!("{key}.{}", family.as_str())
}

/// Why a layer could not be had.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LayerError {
    /// The blob of a layer cannot be opened.
    #[error("cannot open the blob {blob} of layer {diff_id}")]
    Open {
        /// The layer.
        diff_id: DiffId,
        /// The blob.
        blob: Digest,
        /// Why.
        source: std::io::Error,
    },
    /// A layer cannot be unpacked.
    #[error("cannot unpack layer {diff_id}")]
    Unpack {
        /// The layer.
        diff_id: DiffId,
        /// Why.
        source: UnpackError,
    },
    /// A layer that is to be merged with others is not there, or cannot be trusted any more.
    #[error("layer {key} is not there")]
    Gone {
        /// The layer.
        key: LayerKey,
    },
    /// A layer's record is one that this version does not know.
    #[error("cannot read the record {path:?}")]
    Record {
        /// The file.
        path: PathBuf,
        /// Why.
        source: RecordError,
    },
    /// The file system refused one step.
    #[error(transparent)]
    Io(#[from] fs::Error),
    /// The caller wished to stop.
    #[error("making layers was cancelled")]
    Cancelled,
}

impl LayerStore {
    /// Uses the directory `layers`, and `locks` while something is made or removed.
    pub fn new(layers: Dir, locks: Dir) -> Self {
        let session = match Session::of(&layers) {
            Ok(session) => Some(session),
            Err(error) => {
                tracing::debug!(%error, source = %error.source, "layers will be synced as they are made");
                None
            }
        };
        Self {
            layers,
            locks,
            session,
            abilities: OnceLock::new(),
            wanted: None,
            likely: OnceLock::new(),
            kept: Mutex::default(),
            known: Known::default(),
            lent: Vec::new(),
        }
    }

    /// Makes its layers with the marks of `family`, whatever this process can write.
    #[must_use]
    pub fn with_family(mut self, family: Namespace) -> Self {
        self.wanted = Some(family);
        self
    }

    /// Returns the family of marks that layers for this process carry: `trusted` where it may write that and the store is
    /// its own, else `user`. Whoever works in the store of another user does as that user would.
    pub fn family(&self) -> Namespace {
        if let Some(family) = self.wanted.or_else(|| self.abilities.get().map(|known| known.family)) {
            return family;
        }
        *self.likely.get_or_init(|| match marks::sees_trusted() && self.is_own() {
            true => Namespace::Trusted,
            false => Namespace::User,
        })
    }

    /// Whether the store belongs to this process's user.
    fn is_own(&self) -> bool {
        self.layers.stat(".").is_ok_and(|stat| stat.uid == rustix::process::geteuid().as_raw())
    }

    /// Returns the key of the layer whose directory has this name, or `None` if no layer's has.
    pub fn key_of(name: &str) -> Option<LayerKey> {
        let suffix = |family: Namespace| name.strip_suffix(family.as_str())?.strip_suffix('.');
        let key = Namespace::ALL.into_iter().find_map(suffix).unwrap_or(name);
        key.parse().ok()
    }

    /// The names that directories of the layer `key` may have.
    pub(super) fn directories(key: LayerKey) -> [String; 3] {
        let [first, second] = Namespace::ALL.map(|family| beside(key, family));
        [key.to_string(), first, second]
    }

    /// The same with other stores that lend theirs: what is not here is taken from the first that has it.
    #[must_use]
    pub fn with_lent(mut self, lent: Vec<LentLayers>) -> Self {
        self.lent = lent;
        self
    }

    /// Opens a layer, be it lent; `None` if it is nowhere or cannot be trusted any more, which [`LayerStore::ensure`]
    /// mends.
    ///
    /// # Errors
    ///
    /// [`LayerError`] if that cannot be told.
    pub fn find(&self, key: LayerKey) -> Result<Option<Layer>, LayerError> {
        match self.seek(key)? {
            State::Good(layer) => Ok(Some(*layer)),
            State::Absent | State::Untrusted | State::Other(_) => Ok(None),
        }
    }

    /// Opens a layer, be it lent: unlike [`LayerStore::find`] also one with marks that mounts by this process do not obey. Its
    /// content is only as the image means it if [`Layer::shows_marks`].
    ///
    /// # Errors
    ///
    /// [`LayerError`] if that cannot be told.
    pub fn find_any(&self, key: LayerKey) -> Result<Option<Layer>, LayerError> {
        match self.seek(key)? {
            State::Good(layer) | State::Other(layer) => Ok(Some(*layer)),
            State::Absent | State::Untrusted => Ok(None),
        }
    }

    /// Opens a layer of this store: unlike [`LayerStore::get`] also one with marks that mounts by this process do not obey.
    ///
    /// # Errors
    ///
    /// [`LayerError`] if that cannot be told.
    pub fn get_any(&self, key: LayerKey) -> Result<Option<Layer>, LayerError> {
        match self.look(key)? {
            State::Good(layer) | State::Other(layer) => Ok(Some(*layer)),
            State::Absent | State::Untrusted => Ok(None),
        }
    }

    /// Opens a layer of this store; `None` if it is not there or cannot be trusted any more.
    ///
    /// # Errors
    ///
    /// [`LayerError`] if that cannot be told.
    pub fn get(&self, key: LayerKey) -> Result<Option<Layer>, LayerError> {
        match self.look(key)? {
            State::Good(layer) => Ok(Some(*layer)),
            State::Absent | State::Untrusted | State::Other(_) => Ok(None),
        }
    }

    /// The keys of all layers that are there, trusted or not, sorted.
    ///
    /// # Errors
    ///
    /// [`LayerError`] if the directory cannot be read.
    pub fn list(&self) -> Result<Vec<LayerKey>, LayerError> {
        let mut keys = Vec::new();
        for entry in self.layers.names()? {
            let key = str::from_utf8(&entry.name).ok().and_then(Self::key_of);
            if let Some(key) = key
                && self.layers.is_of_kind(&entry, Kind::Directory)?
            {
                keys.push(key);
            }
        }
        keys.sort_unstable();
        keys.dedup();
        Ok(keys)
    }

    /// Takes a layer out of the store in one step; it is removed with `rubbish`. `false` if it is not there, or just being
    /// made. That nobody needs it is for the caller to know.
    ///
    /// # Errors
    ///
    /// [`LayerError`] if it cannot be moved; it is where it was then.
    pub fn remove(&self, key: LayerKey, rubbish: &Workspace) -> Result<bool, LayerError> {
        let Some(_lock) = self.try_lock(key)? else { return Ok(false) };
        let mut removed = false;
        for name in Self::directories(key) {
            removed |= rubbish.discard(&self.layers, name).optional()?.is_some();
        }
        Ok(removed)
    }

    /// Makes every trusted layer survive the end of this boot or mount: waits until all are on disk and notes that in their
    /// records. Returns how many were not known to be. A layer whose tree is not as large as its record says is left as it
    /// is: it must not be trusted for ever.
    ///
    /// # Errors
    ///
    /// [`LayerError`] if the disk fails. A layer that was not noted by then is made again after this boot.
    pub fn settle(&self, work: &Workspace) -> Result<usize, LayerError> {
        let (mut settled, mut unsettled) = (0, Vec::new());
        let keys = self.list()?;
        for (number, key) in keys.iter().enumerate() {
            for name in Self::directories(*key) {
                unsettled.extend(self.unsettled(*key, &name)?);
            }
            // Each is an open directory, of which a process may have no more than a thousand.
            if unsettled.len() == SETTLED_AT_ONCE || number + 1 == keys.len() {
                settled += self.settle_these(std::mem::take(&mut unsettled), work)?;
            }
        }
        Ok(settled)
    }

    /// Opens a layer that may not be on disk, in the directory `name`, with what its record will be once it is.
    fn unsettled(&self, key: LayerKey, name: &str) -> Result<Option<Unsettled>, LayerError> {
        // Opened first: under its name there may be another by the time that this one is on disk.
        let Some(dir) = self.directory(name)? else { return Ok(None) };
        let State::Good(layer) = self.look_in(key, name)? else { return Ok(None) };
        if layer.record.settled {
            return Ok(None);
        }
        let expected = layer.record.measure;
        if let Some(expected) = expected
            && Measure::of(&layer.tree.dir)? != expected
        {
            tracing::warn!(layer = %key, "a layer is not as large as its record says, and is not noted as synced");
            return Ok(None);
        }
        Ok(Some(Unsettled { dir, _tree: layer.tree.dir, record: Record { settled: true, ..layer.record } }))
    }

    fn settle_these(&self, layers: Vec<Unsettled>, work: &Workspace) -> Result<usize, LayerError> {
        if layers.is_empty() {
            return Ok(0);
        }
        // The new records are on disk before one of them is seen, at the price of one sync for all.
        let staged = work.directory()?;
        for (number, Unsettled { record, .. }) in layers.iter().enumerate() {
            write(staged.dir(), &number.to_string(), &record.to_json())?;
        }
        self.layers.sync_file_system()?;
        for (number, Unsettled { dir, .. }) in layers.iter().enumerate() {
            // It may have been removed meanwhile.
            staged.dir().rename(number.to_string(), dir, RECORD).optional()?;
        }
        staged.discard()?;
        Ok(layers.len())
    }

    /// What this process can put where layers are.
    pub(super) fn abilities(&self, work: &Workspace) -> Result<Abilities, LayerError> {
        if let Some(known) = self.abilities.get() {
            return Ok(*known);
        }
        let mut found = Abilities::probe(work.dir())?;
        if let Some(family) = self.wanted {
            found.family = family;
        } else if !self.is_own() {
            found.family = Namespace::User;
        }
        Ok(*self.abilities.get_or_init(|| found))
    }

    /// Uses a layer with the marks of both families as it is from now on, because it cannot be made again.
    pub(super) fn keep(&self, key: LayerKey) {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner).insert(key);
    }

    /// Uses every one of these layers as it is that has the marks of both families.
    ///
    /// # Errors
    ///
    /// [`LayerError`] if it cannot be told which do.
    pub fn keep_outdated(&self, keys: &[LayerKey]) -> Result<(), LayerError> {
        for &key in keys {
            if let State::Other(layer) = self.seek(key)?
                && layer.has_both_families()
            {
                self.keep(key);
            }
        }
        Ok(())
    }

    /// Whether mounts by this process, which obey `family`, can stack the layer.
    fn is_fit(&self, layer: &Layer, family: Namespace) -> bool {
        match layer.tree.marks {
            Marks::Both => self.kept.lock().unwrap_or_else(PoisonError::into_inner).contains(&layer.key),
            marks => marks == Marks::Overlay(family),
        }
    }

    /// What there is under `key`, here or lent.
    pub(super) fn seek(&self, key: LayerKey) -> Result<State, LayerError> {
        let mut best = self.look(key)?;
        for lender in &self.lent {
            if matches!(best, State::Good(_)) {
                break;
            }
            match lender.find(key, self.family()) {
                Some(layer) if self.is_fit(&layer, self.family()) => best = State::Good(Box::new(layer)),
                Some(layer) if !matches!(best, State::Other(_)) => best = State::Other(Box::new(layer)),
                _ => {}
            }
        }
        Ok(best)
    }

    /// What is here under `key`.
    pub(super) fn look(&self, key: LayerKey) -> Result<State, LayerError> {
        self.look_for(key, self.family())
    }

    /// Returns what is here under `key`, and reads records also if they are known.
    pub(super) fn look_anew(&self, key: LayerKey) -> Result<State, LayerError> {
        self.known.forget(&key.to_string());
        self.known.forget(&beside(key, self.family()));
        self.look(key)
    }

    /// What is here under `key` for mounts that obey `family`.
    pub(super) fn look_for(&self, key: LayerKey, family: Namespace) -> Result<State, LayerError> {
        let first = self.look_in(key, &key.to_string())?;
        match first {
            State::Good(layer) if self.is_fit(&layer, family) => return Ok(State::Good(layer)),
            // Only beside a layer of the other family there is another.
            State::Good(layer) if layer.has_both_families() => return Ok(State::Other(layer)),
            _ => {}
        }
        if let State::Good(layer) = self.look_in(key, &beside(key, family))?
            && self.is_fit(&layer, family)
        {
            return Ok(State::Good(layer));
        }
        Ok(match first {
            State::Good(layer) => State::Other(layer),
            other => other,
        })
    }

    /// What is in the directory `name` of the layer `key`, whatever its marks.
    fn look_in(&self, key: LayerKey, name: &str) -> Result<State, LayerError> {
        if let Some(layer) = self.look_again(key, name)? {
            return Ok(State::Good(Box::new(layer)));
        }
        loop {
            if let Some(state) = self.look_closely(key, name)? {
                return Ok(state);
            }
        }
    }

    /// The directory `name`, if there is one. What is none is no layer, but a stranger.
    fn directory(&self, name: &str) -> Result<Option<Dir>, LayerError> {
        Ok(self.layers.find_dir(name).fitting()?.flatten())
    }

    /// The same by reading its record; `None` if it was replaced meanwhile.
    fn look_closely(&self, key: LayerKey, name: &str) -> Result<Option<State>, LayerError> {
        let Some(dir) = self.directory(name)? else { return Ok(Some(State::Absent)) };
        // Every lock that is made or removed changes their directory, so that is seldom older than a layer.
        let passed = self.locks.stat(".")?.ctime;
        let seen = dir.stat(".")?;
        let Some(json) = dir.find_content(RECORD, LONGEST_RECORD).fitting()?.flatten() else {
            return Ok(Some(State::Untrusted));
        };
        let record = match Record::parse(&json) {
            Ok(record) => record,
            // The last boot may have ended before the record was on disk.
            Err(RecordError::Damaged(error)) => {
                tracing::debug!(layer = %key, %error, "the record of a layer is damaged");
                return Ok(Some(State::Untrusted));
            }
            Err(source) => return Err(LayerError::Record { path: dir.path_of(RECORD), source }),
        };
        if !record.is_of_key(key) || !record.is_trusted(self.session.as_ref()) {
            return Ok(Some(State::Untrusted));
        }
        let Some(tree) = dir.find_dir(TREE).fitting()?.flatten() else { return Ok(Some(State::Untrusted)) };
        // Held first and looked at then: what is there still will not go before it is let go.
        let is_held = tree.hold()?;
        if !is_held || !self.layers.find(name)?.is_some_and(|there| there.is_same_inode(&seen)) {
            return Ok(None);
        }
        self.known.keep(name, &record, json.len(), &seen, passed);
        Ok(Some(State::Good(Box::new(Layer::new(key, name, tree, record)))))
    }

    /// The layer under `key`, if it is the one whose record was read before.
    fn look_again(&self, key: LayerKey, name: &str) -> Result<Option<Layer>, LayerError> {
        let Some(seen) = self.known.get(name) else { return Ok(None) };
        let tree = self.layers.find_dir(Path::new(name).join(TREE));
        let Some(tree) = tree.fitting()?.flatten() else { return Ok(None) };
        if !tree.hold()? {
            return Ok(None);
        }
        // Not before: what is the same now was the same when the tree was opened, and will stay while it is held.
        let is_same = self.layers.find(name)?.is_some_and(|dir| seen.is_in(&dir));
        Ok(is_same.then(|| Layer::new(key, name, tree, seen.record)))
    }

    /// Gives a layer its name. The caller holds its lock.
    pub(super) fn publish(
        &self,
        key: LayerKey,
        staged: StagedDir<'_>,
        mut record: Record,
        work: &Workspace,
        synced: bool,
    ) -> Result<Layer, LayerError> {
        let name = self.name_for(key, record.families.single())?;
        // Without a name for this boot and mount nobody could tell later whether to trust it.
        record.settled = synced || record.file_system.is_none() || self.was_made_elsewhere(&name)?;
        if record.measure.is_none() {
            record.measure = Some(Measure::of(&staged.dir().open_dir(TREE)?)?);
        }
        write(staged.dir(), RECORD, &record.to_json())?;
        if record.settled {
            staged.dir().sync_file_system()?;
        }
        // One that is not trusted may stand in the way.
        let dir = self.put(key, &name, staged, work)?;
        if record.settled {
            self.layers.sync()?;
        }
        let tree = dir.open_dir(TREE)?;
        tree.hold()?;
        Ok(Layer::new(key, &name, tree, record))
    }

    /// The name of the directory for a layer that was made with the marks of `family`. One that is made for mounts of the
    /// other family is left alone: its user would make it again, and so on.
    pub(super) fn name_for(&self, key: LayerKey, family: Option<Namespace>) -> Result<String, LayerError> {
        let name = key.to_string();
        let there = match self.look_in(key, &name) {
            Ok(State::Good(layer)) => layer.record.families.single(),
            Ok(_) | Err(LayerError::Record { .. }) => None,
            Err(error) => return Err(error),
        };
        Ok(match (there, family) {
            (Some(there), Some(family)) if there != family => beside(key, family),
            _ => name,
        })
    }

    /// Returns whether an unsettled layer stands in the directory `name` that was written in this boot through another mount. If two
    /// processes share the store through mounts that have no id in common, each would make the other's layers again, for
    /// ever; so the second to make one syncs it, and both trust it.
    fn was_made_elsewhere(&self, name: &str) -> Result<bool, LayerError> {
        let Some(session) = &self.session else { return Ok(false) };
        let record = self.layers.find_content(Path::new(name).join(RECORD), LONGEST_RECORD);
        let record = record.fitting()?.flatten().and_then(|json| Record::parse(&json).ok());
        Ok(record.is_some_and(|record| record.is_of_another_mount(session)))
    }

    /// The directory that the tree of a staged layer goes into.
    pub(super) fn stage_tree(staged: &StagedDir<'_>) -> Result<Dir, LayerError> {
        Ok(staged.dir().ensure_dir(TREE, 0o700)?)
    }

    /// The lock on one layer, waited for.
    pub(super) fn lock(&self, key: LayerKey) -> Result<LayerLock<'_>, LayerError> {
        let name = format!("layer-{key}");
        let lock = Lock::acquire(&self.locks, &name, LockMode::Exclusive)?;
        Ok(LayerLock { _lock: lock, locks: &self.locks, name })
    }

    /// The lock on one layer, if nobody has it.
    pub(super) fn try_lock(&self, key: LayerKey) -> Result<Option<LayerLock<'_>>, LayerError> {
        let name = format!("layer-{key}");
        let lock = Lock::try_acquire(&self.locks, &name, LockMode::Exclusive)?;
        Ok(lock.map(|lock| LayerLock { _lock: lock, locks: &self.locks, name }))
    }
}

/// A layer that is to be noted as synced.
struct Unsettled {
    dir: Dir,
    /// Keeps the layer from being removed after it was replaced: a new record would come into a directory that goes.
    _tree: Dir,
    record: Record,
}

/// What is found under a key.
pub(super) enum State {
    Absent,
    /// Something that was not synced before the machine stopped, or is damaged.
    Untrusted,
    /// A whole layer whose marks mounts by this process do not obey, or with the marks of both families. To be stacked it is
    /// made again.
    Other(Box<Layer>),
    Good(Box<Layer>),
}

/// The lock on one layer. Its file goes with it.
#[derive(Debug)]
pub(super) struct LayerLock<'a> {
    _lock: Lock,
    locks: &'a Dir,
    name: String,
}

impl Drop for LayerLock<'_> {
    fn drop(&mut self) {
        // Whoever waits for the file finds that it has lost its name, and starts over.
        if let Err(error) = self.locks.remove_file(&self.name).optional() {
            tracing::debug!(%error, source = %error.source, "a lock file stays behind");
        }
    }
}

pub(super) fn write(dir: &Dir, name: &str, content: &[u8]) -> Result<(), LayerError> {
    use std::io::Write as _;
    let mut file = dir.make_file(name, 0o644)?;
    let written = file.write_all(content);
    Ok(fs::Context::at(written, "write", dir.path_of(Path::new(name)))?)
}
