//! Unpacked layers, compared with their blobs as these are read: nothing is made, and nothing is written.
//!
//! Each layer is compared once, by itself, whatever stacks it: with its blob, and with what its record says that it takes
//! from below. Only a layer that links to files of the layers below it, or whose directories are symbolic links there, is
//! compared on top of those; that comes last, and only if they are whole. A merged layer is compared with the layers that it
//! was merged from.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

use super::layers::{Compared, Wanted, Wrong};
use super::{Check, CheckStage, MOST_DIFFERENCES};
use crate::blob::BlobSource;
use crate::digest::{ChainId, DiffId};
use crate::image::Descriptor;
use crate::layer::{
    Condition, Layer, LayerError, LayerKey, LayerSource, MOST_STACKED, Progress, Stacking, Verdict,
    blob_differences, merged_differences,
};
use crate::store::damage::Chain;
use crate::store::error::StoreError;

/// A layer that is there and somebody stacks.
struct Task {
    key: LayerKey,
    blob: Descriptor,
    diff_id: DiffId,
    /// Who stacks it, and at which height.
    stacks: Vec<(usize, usize)>,
}

/// What came of comparing one layer.
enum Outcome {
    Compared(Vec<String>),
    NeedsBase,
    /// It is not there any more, or was not.
    Gone,
}

impl Check<'_> {
    /// Compares every layer that somebody stacks with its blob.
    pub(super) fn compare_with_blobs(&mut self, wanted: &[Wanted]) -> Result<Compared, StoreError> {
        let mut compared = Compared::default();
        let tasks = self.tasks(wanted, &mut compared)?;
        let all: u64 = tasks.iter().map(|task| task.blob.size).sum();
        let read = AtomicU64::new(0);
        let outcomes = self.all_outcomes(&tasks, &read, all)?;
        let mut last = Vec::new();
        for (task, outcome) in tasks.iter().zip(outcomes) {
            match outcome {
                Outcome::Compared(differences) => {
                    self.note(task, differences, wanted, &mut compared)?;
                }
                Outcome::NeedsBase => last.push(task),
                Outcome::Gone => {}
            }
        }
        // Lowest first: one may stand on another.
        last.sort_by_key(|task| task.stacks.iter().map(|(_, height)| *height).min());
        for task in last {
            let Some(below) = self.base_of(task, wanted, &compared)? else {
                self.report.skipped.push(format!(
                    "layer {} was not compared: it depends on layers below it that are damaged or not there",
                    task.key
                ));
                continue;
            };
            match self.outcome(task, Some(&below), &read, all)? {
                Outcome::Compared(differences) => self.note(task, differences, wanted, &mut compared)?,
                Outcome::NeedsBase | Outcome::Gone => {}
            }
        }
        for one in wanted.iter().filter(|one| one.diff_ids.len() > MOST_STACKED) {
            self.compare_merged_layers(one, &mut compared)?;
        }
        self.tell(CheckStage::Layers, all, all);
        Ok(compared)
    }

    /// Lists the layers that are there, each once, and those that are damaged without a look inside.
    fn tasks(&self, wanted: &[Wanted], compared: &mut Compared) -> Result<Vec<Task>, StoreError> {
        let layers = &self.store.inner.layers;
        let mut tasks: BTreeMap<LayerKey, Option<Task>> = BTreeMap::new();
        for (stack, one) in wanted.iter().enumerate() {
            for (height, (key, blob, diff_id)) in one.keys().into_iter().enumerate() {
                for key in [key, LayerKey::Free(diff_id)] {
                    if let Some(wrong) = compared.wrong.get_mut(&key) {
                        wrong.needed_by.insert(one.label.clone());
                    }
                    let task = match tasks.entry(key) {
                        std::collections::btree_map::Entry::Occupied(task) => task.into_mut(),
                        std::collections::btree_map::Entry::Vacant(slot) => {
                            self.refuse_cancelled()?;
                            let is_there = match layers.condition(key)? {
                                Condition::Good(_) => true,
                                Condition::Damaged(why) => {
                                    let wrong = compared.wrong.entry(key).or_default();
                                    wrong.is_record = true;
                                    (wrong.differences, wrong.can_be_mended) = (vec![why], true);
                                    wrong.needed_by.insert(one.label.clone());
                                    // What can be opened nevertheless is compared all the same.
                                    layers.get(key).is_ok_and(|layer| layer.is_some())
                                }
                                Condition::Absent if layers.has(key)? => {
                                    let wrong = compared.wrong.entry(key).or_default();
                                    (wrong.is_untrusted, wrong.can_be_mended) = (true, true);
                                    wrong.needed_by.insert(one.label.clone());
                                    false
                                }
                                Condition::Absent => layers.find(key)?.is_some_and(|layer| layer.lent),
                                Condition::Unknown => false,
                            };
                            let blob = blob.clone();
                            slot.insert(is_there.then_some(Task { key, blob, diff_id, stacks: Vec::new() }))
                        }
                    };
                    if let Some(task) = task {
                        task.stacks.push((stack, height));
                    }
                }
            }
        }
        let mut tasks: Vec<Task> = tasks.into_values().flatten().collect();
        tasks.sort_by_key(|task| std::cmp::Reverse(task.blob.size));
        Ok(tasks)
    }

    /// Compares all of `tasks`, several at a time.
    fn all_outcomes(&self, tasks: &[Task], read: &AtomicU64, all: u64) -> Result<Vec<Outcome>, StoreError> {
        let next = AtomicUsize::new(0);
        let outcomes = Mutex::new(BTreeMap::new());
        let failed = Mutex::new(None);
        let work = || {
            loop {
                let number = next.fetch_add(1, Ordering::Relaxed);
                let Some(task) = tasks.get(number) else { return };
                match self.outcome(task, None, read, all) {
                    Ok(outcome) => {
                        outcomes.lock().unwrap_or_else(PoisonError::into_inner).insert(number, outcome);
                    }
                    Err(error) => {
                        failed.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(error);
                        next.store(tasks.len(), Ordering::Relaxed);
                    }
                }
            }
        };
        let threads = self.store.inner.options.parallelism.threads().min(tasks.len().max(1));
        std::thread::scope(|scope| {
            for _ in 1..threads {
                // Without a thread the others do its work.
                if std::thread::Builder::new().spawn_scoped(scope, work).is_err() {
                    break;
                }
            }
            work();
        });
        self.refuse_cancelled()?;
        match failed.into_inner().unwrap_or_else(PoisonError::into_inner) {
            Some(error) => Err(error),
            None => Ok(outcomes.into_inner().unwrap_or_else(PoisonError::into_inner).into_values().collect()),
        }
    }

    /// Compares one layer.
    fn outcome(
        &self,
        task: &Task,
        below: Option<&[Layer]>,
        read: &AtomicU64,
        all: u64,
    ) -> Result<Outcome, StoreError> {
        let inner = &self.store.inner;
        let Some(layer) = inner.layers.find(task.key)? else { return Ok(Outcome::Gone) };
        let digest = task.blob.digest;
        let open = || -> std::io::Result<Box<dyn std::io::Read + Send>> {
            Ok(Box::new(inner.content().open_blob(&digest).map_err(std::io::Error::other)?))
        };
        let source = LayerSource::new(task.diff_id, digest, task.blob.size, Box::new(open));
        let cancelled = || self.refuse_cancelled().is_err();
        let seen = AtomicU64::new(0);
        let progress = |progress: Progress| {
            let Progress::Read { bytes, .. } = progress else { return };
            let before = seen.fetch_max(bytes, Ordering::Relaxed);
            let more = bytes.saturating_sub(before);
            let done = read.fetch_add(more, Ordering::Relaxed) + more;
            self.tell(CheckStage::Layers, done.min(all), all);
        };
        let mut options = self.store.ensure_options();
        options.cancelled = Some(&cancelled);
        options.progress = Some(&progress);
        match blob_differences(&layer, &source, below, &options, MOST_DIFFERENCES) {
            Ok(Verdict::Differences(differences)) => {
                // What was removed or replaced while it was looked at has no faults.
                match differences.is_empty() || inner.layers.is_there(&layer)? {
                    true => Ok(Outcome::Compared(differences)),
                    false => Ok(Outcome::Gone),
                }
            }
            Ok(_) => Ok(Outcome::NeedsBase),
            Err(LayerError::Io(error)) if error.is_damage() => {
                let why = format!("{:?} cannot be read: {}", error.path, error.source);
                Ok(Outcome::Compared(vec![why]))
            }
            Err(LayerError::Io(error)) if error.is_not_found() && !inner.layers.is_there(&layer)? => {
                Ok(Outcome::Gone)
            }
            Err(LayerError::Unpack { diff_id, source }) => {
                // A blob that is gone by now, or was damaged, is told by itself.
                if inner.content().size(&digest)?.is_none() {
                    return Ok(Outcome::Gone);
                }
                let error = StoreError::Layer(LayerError::Unpack { diff_id, source });
                match error.says_damage() {
                    true => Ok(Outcome::Compared(vec![Chain(&error).to_string()])),
                    false => Err(error),
                }
            }
            Err(LayerError::Cancelled) => Err(StoreError::Cancelled),
            Err(error) => Err(error.into()),
        }
    }

    fn note(
        &self,
        task: &Task,
        differences: Vec<String>,
        wanted: &[Wanted],
        compared: &mut Compared,
    ) -> Result<(), StoreError> {
        compared.done.insert(task.key);
        if differences.is_empty() {
            return Ok(());
        }
        let lent = self.store.inner.layers.find(task.key)?.filter(|layer| layer.lent);
        let wrong = compared.wrong.entry(task.key).or_default();
        match wrong.is_record {
            true => wrong.differences.extend(differences),
            false => wrong.differences = differences,
        }
        wrong.can_be_mended = lent.is_none();
        // It is its owner's to mend.
        wrong.lent_by =
            lent.and_then(|lent| lent.tree.dir.path_of("").ancestors().nth(3).map(Path::to_owned));
        let labels = task.stacks.iter().map(|(stack, _)| wanted[*stack].label.clone());
        wrong.needed_by.extend(labels);
        Ok(())
    }

    /// Opens what is below a layer, lowest first; `None` if not all of that is whole.
    fn base_of(
        &self,
        task: &Task,
        wanted: &[Wanted],
        compared: &Compared,
    ) -> Result<Option<Vec<Layer>>, StoreError> {
        let Some(&(stack, height)) = task.stacks.first() else { return Ok(None) };
        let mut below = Vec::new();
        for (bound, _, diff_id) in wanted[stack].keys().into_iter().take(height) {
            match self.used(bound, diff_id, compared)? {
                Some(layer) => below.push(layer),
                None => return Ok(None),
            }
        }
        Ok(Some(below))
    }

    /// Opens the layer that is used in a stack, if it is whole.
    fn used(
        &self,
        bound: LayerKey,
        diff_id: DiffId,
        compared: &Compared,
    ) -> Result<Option<Layer>, StoreError> {
        let layers = &self.store.inner.layers;
        for key in [bound, LayerKey::Free(diff_id)] {
            if let Some(layer) = layers.find(key)? {
                return Ok((!compared.wrong.contains_key(&key)).then_some(layer));
            }
        }
        Ok(None)
    }

    /// Compares the merged layers of one stack with what they were merged from.
    fn compare_merged_layers(&mut self, wanted: &Wanted, compared: &mut Compared) -> Result<(), StoreError> {
        let layers = &self.store.inner.layers;
        let mut here = Vec::new();
        for (bound, _, diff_id) in wanted.keys() {
            here.push(match layers.find(bound)? {
                Some(_) => bound,
                None => LayerKey::Free(diff_id),
            });
        }
        for group in Stacking::of(&here).merged {
            self.refuse_cancelled()?;
            let key = LayerKey::merged(&group);
            if let Some(wrong) = compared.wrong.get_mut(&key) {
                wrong.needed_by.insert(wanted.label.clone());
            }
            if compared.done.contains(&key) || compared.wrong.contains_key(&key) || !layers.has(key)? {
                continue;
            }
            let mut wrong = Wrong { can_be_mended: true, ..Wrong::default() };
            match layers.condition(key)? {
                Condition::Damaged(why) => wrong.differences = vec![why],
                Condition::Absent => wrong.is_untrusted = layers.has(key)?,
                Condition::Unknown => continue,
                Condition::Good(found) => {
                    // It shares their files: where one of them is damaged nothing can be said of it.
                    let mut from = Vec::new();
                    for part in &group {
                        from.extend(layers.find(*part)?.filter(|_| !compared.wrong.contains_key(part)));
                    }
                    if from.len() < group.len() {
                        self.report.skipped.push(format!(
                            "layer {key} was not compared: layers that it was merged from are damaged or not there"
                        ));
                        continue;
                    }
                    compared.done.insert(key);
                    let cancelled = || self.refuse_cancelled().is_err();
                    wrong.differences = merged_differences(&from, &found, MOST_DIFFERENCES, &cancelled)?;
                }
            }
            self.refuse_cancelled()?;
            if wrong.is_untrusted || !wrong.differences.is_empty() {
                wrong.needed_by.insert(wanted.label.clone());
                compared.wrong.insert(key, wrong);
            }
        }
        Ok(())
    }

    /// Looks at the records and sizes of all layers, which reads none of their files.
    pub(super) fn conditions(&mut self, wanted: &[Wanted]) -> Result<(), StoreError> {
        let layers = &self.store.inner.layers;
        let keys = layers.list()?;
        let expected: BTreeMap<LayerKey, DiffId> = wanted
            .iter()
            .flat_map(Wanted::keys)
            .flat_map(|(bound, _, diff_id)| [(bound, diff_id), (LayerKey::Free(diff_id), diff_id)])
            .collect();
        let look = |key: LayerKey| {
            self.refuse_cancelled()?;
            match layers.condition(key)? {
                Condition::Damaged(why) => Ok(Some(why)),
                Condition::Good(layer)
                    if expected.get(&key).is_some_and(|diff_id| layer.record.diff_id != *diff_id) =>
                {
                    Ok(Some("its record is that of another layer".to_owned()))
                }
                _ => Ok::<_, StoreError>(None),
            }
        };
        let next = AtomicUsize::new(0);
        let found = Mutex::new(Ok(BTreeMap::new()));
        let work = || {
            while let Some(&key) = keys.get(next.fetch_add(1, Ordering::Relaxed)) {
                let condition = look(key);
                let mut found = found.lock().unwrap_or_else(PoisonError::into_inner);
                match (condition, &mut *found) {
                    (Ok(Some(why)), Ok(damaged)) => drop(damaged.insert(key, why)),
                    (Err(error), Ok(_)) => {
                        *found = Err(error);
                        return;
                    }
                    _ => {}
                }
            }
        };
        let threads = self.store.inner.options.parallelism.threads().min(keys.len().max(1));
        std::thread::scope(|scope| {
            for _ in 1..threads {
                if std::thread::Builder::new().spawn_scoped(scope, work).is_err() {
                    break;
                }
            }
            work();
        });
        let damaged = found.into_inner().unwrap_or_else(PoisonError::into_inner)?;
        // What was removed meanwhile is not damaged.
        for (key, why) in damaged {
            if layers.has(key)? {
                let users = wanted.iter().filter(|one| one.all_keys().contains(&key));
                let needed_by = users.map(|one| one.label.clone()).collect();
                let differences = vec![why];
                let wrong = Wrong { differences, needed_by, can_be_mended: true, ..Wrong::default() };
                self.damaged_layers.insert(key, wrong);
            }
        }
        Ok(())
    }
}

impl Wanted {
    /// The layers, lowest first: the key on this base, the blob, and the diff id.
    pub(super) fn keys(&self) -> Vec<(LayerKey, &Descriptor, DiffId)> {
        let mut chain: Option<ChainId> = None;
        let key = |(blob, &diff_id)| {
            let top = chain.map_or_else(|| ChainId::base(diff_id), |below: ChainId| below.with(diff_id));
            chain = Some(top);
            (LayerKey::Bound(top), blob, diff_id)
        };
        self.blobs.iter().zip(&self.diff_ids).map(key).collect()
    }

    /// All keys that its layers may have, merged ones included.
    pub(super) fn all_keys(&self) -> BTreeSet<LayerKey> {
        self.keys().into_iter().flat_map(|(bound, _, diff_id)| [bound, LayerKey::Free(diff_id)]).collect()
    }
}
