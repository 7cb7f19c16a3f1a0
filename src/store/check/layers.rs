//! Unpacked layers that a repair makes once more, beside the store, compares and swaps in.
//!
//! Which layers are damaged is found out by reading (`compare.rs`); only the stacks that hold one are made. What stands for a layer on one base may be another than on the next: a variant that is bound to its base, or the
//! shared one, if that assumes what is true there. So stacks are made as a whole, and each layer is compared with the one
//! that this stack would use. Merged layers are merged once more from what was made.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use super::{Check, CheckStage, MOST_DIFFERENCES, Readable};
use crate::digest::{ChainId, DiffId};
use crate::fs::Dir;
use crate::image::{Descriptor, MediaType};
use crate::layer::{Layer, LayerError, LayerKey, LayerStore, MOST_STACKED, Stacking, layer_differences};
use crate::store::damage::{Chain, Damage};
use crate::store::error::StoreError;
use crate::store::operation::Operation;
use crate::store::stack::Layers;

/// Layers that somebody stacks, bottom first.
pub(super) struct Wanted {
    pub(super) label: String,
    pub(super) blobs: Vec<Descriptor>,
    pub(super) diff_ids: Vec<DiffId>,
}

/// A layer that is not as it should be.
#[derive(Debug, Default)]
pub(in crate::store) struct Wrong {
    pub(in crate::store) differences: Vec<String>,
    pub(in crate::store) needed_by: BTreeSet<String>,
    /// Nothing is wrong with it, but it cannot be relied on and would be made again when it is needed.
    pub(in crate::store) is_untrusted: bool,
    /// Its record or its size is wrong.
    pub(in crate::store) is_record: bool,
    /// It can be made again; if that was to be done, it has been.
    pub(in crate::store) can_be_mended: bool,
    /// The directory of the store that lends it. It is never changed.
    pub(in crate::store) lent_by: Option<PathBuf>,
}

/// What has been found out about layers.
#[derive(Debug, Default)]
pub(in crate::store) struct Compared {
    pub(in crate::store) wrong: BTreeMap<LayerKey, Wrong>,
    /// Those that were compared, whatever came of it.
    pub(super) done: BTreeSet<LayerKey>,
    /// Those that were made for a base that nobody has who was looked at so far, and what is wrong with them apart from
    /// that.
    baseless: BTreeMap<LayerKey, Vec<String>>,
}

/// What was found of one stack.
#[derive(Default)]
struct Found {
    /// Under which key each layer is here, and under which beside.
    keys: Vec<(LayerKey, LayerKey)>,
    /// What is wrong: its key, what is there unless it cannot be relied on, and under which key it was made beside.
    wrong: Vec<(LayerKey, Option<Layer>, LayerKey)>,
}

/// What stands for a layer that was made once more.
enum Place {
    Nothing,
    /// Something that cannot be relied on.
    Untrusted(LayerKey),
    /// Made for another base.
    Baseless(Layer),
    Here(Layer),
}

impl Check<'_> {
    /// Looks at unpacked layers: at their records and sizes, and in a deep check at every byte.
    pub(super) fn layers(&mut self) -> Result<(), StoreError> {
        let wanted = self.wanted()?;
        self.conditions(&wanted)?;
        let mut damaged = std::mem::take(&mut self.damaged_layers);
        if self.deep {
            let compared = self.compare_with_blobs(&wanted)?;
            self.report.compared = compared.done.len() as u64;
            let wrong = compared.wrong.into_iter().filter(|(_, wrong)| !wrong.is_untrusted);
            damaged.extend(wrong);
        }
        for (key, Wrong { differences, needed_by, lent_by, .. }) in damaged {
            let needed_by = needed_by.into_iter().collect();
            self.report.damages.push(Damage::Layer { key, differences, needed_by, lent_by });
        }
        Ok(())
    }

    /// Compares layers, and makes those again that are damaged if it is to `mend`.
    pub(in crate::store) fn compare_layers(&mut self, mend: bool) -> Result<Compared, StoreError> {
        let wanted = self.wanted()?;
        let mut found = self.compare_with_blobs(&wanted)?;
        // A layer that nobody stacks and that has lost its record is made again by whoever needs it.
        let Some(operation) = self.operation.filter(|_| mend && !found.wrong.is_empty()) else {
            return Ok(found);
        };
        let mut compared = Compared::default();
        let all: u64 = wanted.iter().flat_map(|one| &one.blobs).map(|blob| blob.size).sum();
        let mut before = 0;
        for one in wanted {
            self.refuse_cancelled()?;
            let size: u64 = one.blobs.iter().map(|blob| blob.size).sum();
            self.tell(CheckStage::Layers, before, all);
            let keys = LayerKey::candidates(one.diff_ids.iter().copied());
            for key in &keys {
                if let Some(wrong) = compared.wrong.get_mut(key) {
                    wrong.needed_by.insert(one.label.clone());
                }
            }
            let is_damaged = |key: &LayerKey| found.wrong.contains_key(key) && !compared.done.contains(key);
            let is_long = one.diff_ids.len() > MOST_STACKED;
            let merged = || found.wrong.keys().any(|key| matches!(key, LayerKey::Merged(_)));
            if keys.iter().any(is_damaged) || is_long && merged() {
                operation.pin_layers(keys)?;
                self.compare(&one, operation, mend, (before, all), &found.wrong, &mut compared)?;
            }
            before += size;
        }
        self.tell(CheckStage::Layers, all, all);
        for (key, differences) in std::mem::take(&mut compared.baseless) {
            compared.done.insert(key);
            if differences.is_empty() {
                continue;
            }
            // Nobody stands on it, so it need not be there.
            if mend {
                self.store.inner.layers.remove(key, operation.workspace())?;
            }
            let wrong = compared.wrong.entry(key).or_default();
            (wrong.differences, wrong.can_be_mended) = (differences, true);
        }
        // What is said of a layer is what was found, as in a dry run; what was not made again after all cannot be.
        for (key, wrong) in std::mem::take(&mut found.wrong) {
            match compared.wrong.get_mut(&key) {
                Some(made) => *made = Wrong { can_be_mended: made.can_be_mended, ..wrong },
                None if compared.done.contains(&key) => {}
                None => drop(compared.wrong.insert(key, Wrong { can_be_mended: false, ..wrong })),
            }
        }
        Ok(compared)
    }

    /// Everything that somebody stacks and of which the blobs are there, as far up as that goes.
    fn wanted(&mut self) -> Result<Vec<Wanted>, StoreError> {
        let damaged: BTreeSet<String> = self.report.damages.iter().map(Damage::subject).collect();
        let mut found = Vec::new();
        for Readable { named, label } in std::mem::take(&mut self.readable) {
            let image = match self.store.inner.image(named) {
                // None of its platforms is there; or it was removed just now.
                Err(error) if error.is_damage() => continue,
                image => image?,
            };
            found.push(Wanted {
                label,
                blobs: image.manifest().layers.clone(),
                diff_ids: image.diff_ids().to_vec(),
            });
        }
        let sources = self.sources(&found)?;
        for record in std::mem::take(&mut self.orphaned) {
            let label = format!("container {}", record.name);
            let layers: Option<(Vec<_>, Vec<_>)> =
                record.stack.iter().map(|key| sources.get(key).cloned()).collect();
            found.extend(layers.map(|(blobs, diff_ids)| Wanted { label, blobs, diff_ids }));
        }
        for one in &mut found {
            let first = one.blobs.iter().position(|blob| damaged.contains(&blob.digest.to_string()));
            let whole = first.unwrap_or(one.blobs.len()).min(one.diff_ids.len());
            one.blobs.truncate(whole);
            one.diff_ids.truncate(whole);
        }
        Ok(found)
    }

    /// From which blobs layers can be made, and which they are: as the images say, and the records of layers that are there.
    fn sources(&self, known: &[Wanted]) -> Result<BTreeMap<LayerKey, (Descriptor, DiffId)>, StoreError> {
        let mut sources = BTreeMap::new();
        if self.orphaned.is_empty() {
            return Ok(sources);
        }
        let inner = &self.store.inner;
        for key in inner.layers.list()? {
            let layer = match inner.layers.get_any(key) {
                Ok(Some(layer)) if layer.record.merged.is_empty() => layer.record,
                Ok(_) | Err(LayerError::Record { .. }) => continue,
                Err(error) => return Err(error.into()),
            };
            if let Some(size) = inner.layout.blobs.size(&layer.blob)? {
                let blob = Descriptor::new(MediaType::OCI_LAYER, layer.blob, size);
                sources.insert(key, (blob, layer.diff_id));
            }
        }
        for one in known {
            for (&diff_id, blob) in one.diff_ids.iter().zip(&one.blobs) {
                sources.insert(LayerKey::Free(diff_id), (blob.clone(), diff_id));
            }
        }
        Ok(sources)
    }

    /// Compares the layers of one stack with those that were unpacked.
    fn compare(
        &mut self,
        wanted: &Wanted,
        operation: &Operation,
        mend: bool,
        (before, all): (u64, u64),
        damaged: &BTreeMap<LayerKey, Wrong>,
        compared: &mut Compared,
    ) -> Result<(), StoreError> {
        let work = operation.workspace();
        let beside = work.directory()?;
        let trees = beside.dir().ensure_dir("layers", 0o700)?;
        let again = LayerStore::new(trees.try_clone()?, beside.dir().ensure_dir("locks", 0o700)?)
            .with_family(self.store.inner.layers.family());
        let layers = Layers { blobs: &wanted.blobs, diff_ids: &wanted.diff_ids };
        let read = std::sync::atomic::AtomicU64::new(before);
        let told = |more| {
            let done = read.fetch_add(more, std::sync::atomic::Ordering::Relaxed) + more;
            self.tell(CheckStage::Layers, done.min(all), all);
        };
        let made = match self.store.make_layers(layers, &again, operation, self.cancel, &told) {
            Ok(made) => made,
            Err(StoreError::Layer(LayerError::Unpack { diff_id, source })) => {
                let error = StoreError::Layer(LayerError::Unpack { diff_id, source });
                let wrong = compared.wrong.entry(LayerKey::Free(diff_id)).or_default();
                wrong.differences = vec![Chain(&error).to_string()];
                wrong.needed_by.insert(wanted.label.clone());
                beside.discard()?;
                return Ok(());
            }
            Err(error) => return Err(error),
        };
        let found = self.compare_each(wanted, made.layers, damaged, compared)?;
        let merged = match found.keys.len() > MOST_STACKED {
            true => self.compare_merged(wanted, &found.keys, &again, operation, compared)?,
            false => Vec::new(),
        };
        if mend {
            // Not before all were compared: one may share files with another.
            self.mend_layers(found.wrong, &trees, operation)?;
            for group in merged {
                self.store.inner.layers.renew_merged(&group, operation.workspace())?;
            }
        }
        drop(trees);
        Ok(beside.discard()?)
    }

    /// Compares each of the layers that were `made` with what stands for it here.
    fn compare_each(
        &self,
        wanted: &Wanted,
        made: Vec<Layer>,
        damaged: &BTreeMap<LayerKey, Wrong>,
        compared: &mut Compared,
    ) -> Result<Found, StoreError> {
        let mut chain: Option<ChainId> = None;
        let mut all = Found::default();
        for (expected, &diff_id) in made.iter().zip(&wanted.diff_ids) {
            let top = chain.map_or_else(|| ChainId::base(diff_id), |below| below.with(diff_id));
            chain = Some(top);
            let (key, found, differences) = match self.place(expected, LayerKey::Bound(top))? {
                Place::Nothing => {
                    all.keys.push((expected.key, expected.key));
                    continue;
                }
                Place::Baseless(found) => {
                    all.keys.push((expected.key, expected.key));
                    if !compared.done.contains(&found.key) {
                        let differences = self.differences(expected, &found)?;
                        compared.baseless.insert(found.key, differences);
                    }
                    continue;
                }
                Place::Untrusted(key) => {
                    if compared.wrong.get(&key).is_some_and(|wrong| wrong.is_untrusted) {
                        continue;
                    }
                    (key, None, Vec::new())
                }
                Place::Here(found) => {
                    all.keys.push((found.key, expected.key));
                    compared.baseless.remove(&found.key);
                    if !compared.done.insert(found.key) {
                        continue;
                    }
                    let mut differences = self.differences(expected, &found)?;
                    // The tree may be right and the record beside it wrong.
                    if let Some(wrong) = damaged.get(&found.key).filter(|wrong| wrong.is_record) {
                        differences.extend_from_slice(&wrong.differences);
                    }
                    if differences.is_empty() {
                        continue;
                    }
                    (found.key, Some(found), differences)
                }
            };
            let wrong = compared.wrong.entry(key).or_default();
            wrong.needed_by.insert(wanted.label.clone());
            (wrong.differences, wrong.can_be_mended) = (differences, true);
            if let Some(lent) = found.as_ref().filter(|found| found.lent) {
                // It is its owner's to mend.
                wrong.lent_by = lent.tree.dir.path_of("").ancestors().nth(3).map(Path::to_owned);
                wrong.can_be_mended = false;
                continue;
            }
            if found.is_none() {
                all.keys.push((key, expected.key));
                wrong.is_untrusted = true;
            }
            all.wrong.push((key, found, expected.key));
        }
        Ok(all)
    }

    fn differences(&self, expected: &Layer, found: &Layer) -> Result<Vec<String>, StoreError> {
        let cancelled = || self.refuse_cancelled().is_err();
        let differences = layer_differences(expected, found, MOST_DIFFERENCES, &cancelled)?;
        self.refuse_cancelled()?;
        Ok(differences)
    }

    /// Puts what was made in `trees` in the place of what is `wrong`.
    fn mend_layers(
        &self,
        wrong: Vec<(LayerKey, Option<Layer>, LayerKey)>,
        trees: &Dir,
        operation: &Operation,
    ) -> Result<(), StoreError> {
        let (layers, work) = (&self.store.inner.layers, operation.workspace());
        for (key, found, made) in wrong {
            let made = work.adopt(trees, made.to_string())?;
            // If it is not to be done, somebody else did it.
            match &found {
                Some(found) => layers.replace(found, made, work)?,
                None => layers.renew(key, made, work)?,
            };
        }
        // What was damaged may be believed after a power cut, and must not be back; what was made is made again then.
        self.store.inner.sync(&self.store.inner.layout.layers)
    }

    /// What is used where `expected` is, which is `bound` if it depends on its base.
    fn place(&self, expected: &Layer, bound: LayerKey) -> Result<Place, StoreError> {
        let layers = &self.store.inner.layers;
        let free = LayerKey::Free(expected.record.diff_id);
        for key in [bound, free] {
            match layers.get(key) {
                Ok(Some(found)) if key == free && found.record.assumed != expected.record.assumed => {
                    return Ok(Place::Baseless(found));
                }
                Ok(Some(found)) => return Ok(Place::Here(found)),
                Ok(None) | Err(LayerError::Record { .. }) => {}
                Err(error) => return Err(error.into()),
            }
            if layers.has(key)? {
                return Ok(Place::Untrusted(key));
            }
        }
        for key in [bound, free] {
            match layers.find(key) {
                Ok(Some(lent))
                    if lent.lent && (key == bound || lent.record.assumed == expected.record.assumed) =>
                {
                    return Ok(Place::Here(lent));
                }
                Ok(_) | Err(LayerError::Record { .. }) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(Place::Nothing)
    }

    /// Merges what was made once more, and compares that with what is merged here; returns what was merged into something
    /// wrong. `keys` are those here and there.
    fn compare_merged(
        &self,
        wanted: &Wanted,
        keys: &[(LayerKey, LayerKey)],
        again: &LayerStore,
        operation: &Operation,
        compared: &mut Compared,
    ) -> Result<Vec<Vec<LayerKey>>, StoreError> {
        let layers = &self.store.inner.layers;
        let here: Vec<LayerKey> = keys.iter().map(|(here, _)| *here).collect();
        let there: BTreeMap<LayerKey, LayerKey> = keys.iter().copied().collect();
        let mut renew = Vec::new();
        for group in Stacking::of(&here).merged {
            let key = LayerKey::merged(&group);
            if let Some(wrong) = compared.wrong.get_mut(&key) {
                wrong.needed_by.insert(wanted.label.clone());
            }
            if compared.done.contains(&key) || compared.wrong.contains_key(&key) || !layers.has(key)? {
                continue;
            }
            operation.pin_layers([key])?;
            let mut wrong = Wrong { can_be_mended: true, ..Wrong::default() };
            match layers.get(key)? {
                None => wrong.is_untrusted = true,
                Some(found) => {
                    compared.done.insert(key);
                    let made: Vec<LayerKey> = group.iter().map(|key| there[key]).collect();
                    let expected = again.ensure_merged(&made, operation.workspace())?;
                    wrong.differences = self.differences(&expected, &found)?;
                    if found.record.merged != group {
                        wrong.differences.insert(0, "its record has another list of layers".to_owned());
                    }
                }
            }
            if wrong.is_untrusted || !wrong.differences.is_empty() {
                wrong.needed_by.insert(wanted.label.clone());
                compared.wrong.insert(key, wrong);
                renew.push(group);
            }
        }
        Ok(renew)
    }
}
