//! [`Base`]: the layers of an image from the bottom up, each put on those below it.
//!
//! Short and serial. Most layers are published by now, lean on nothing, and are only opened. The others get what they
//! need from the layers below: as they are if their assumptions hold, as a variant or unpacked once more if not. What
//! depends on its base is *bound*: its key is the chain id, which names that base too.

use std::collections::BTreeMap;

use super::bind::{self, Assumptions, Variant};
use super::ensure::{Context, Ensured, Job, LayerSource, Made, Slot, Staged};
use super::key::LayerKey;
use super::record::Record;
use super::store::{Layer, LayerError, LayerStore, State};
use super::unpack::{Below, Losses, Unpacked};
use crate::digest::{ChainId, DiffId};
use crate::stack::Stack;

/// Whether every one of `layers`, bottom first, stands on what it assumes of those below it. One that is shared may have
/// been made again for another base meanwhile, or be another store's now.
///
/// # Errors
///
/// [`LayerError::Io`] if a directory cannot be read.
pub fn agree(layers: &[Layer]) -> Result<bool, LayerError> {
    for (height, Layer { key, record, .. }) in layers.iter().enumerate() {
        // What is bound was made for this base.
        if record.assumed.is_empty() || !matches!(key, LayerKey::Free(_)) {
            continue;
        }
        let below = Stack::new(layers[..height].iter().rev().map(|layer| &layer.tree));
        let here = bind::assume(&below, record.implied())?;
        if !here.agree_with(&record.assumed) {
            return Ok(false);
        }
    }
    Ok(true)
}

/// The layers of an image that are in place.
pub(super) struct Base<'b, 's, 'w> {
    context: &'b Context<'w>,
    ready: BTreeMap<DiffId, Layer>,
    jobs: BTreeMap<DiffId, Job<'s, 'w>>,
    /// Bottom first.
    layers: Vec<Layer>,
    made: Vec<Made>,
}

impl<'b, 's, 'w> Base<'b, 's, 'w> {
    /// Starts with nothing in place. `ready` lean on nothing and were there; `jobs` has what was unpacked for this image.
    pub(super) fn new(
        context: &'b Context<'w>,
        ready: BTreeMap<DiffId, Layer>,
        jobs: BTreeMap<DiffId, Job<'s, 'w>>,
    ) -> Self {
        Self { context, ready, jobs, layers: Vec::new(), made: Vec::new() }
    }

    /// Puts one layer after the other in place.
    pub(super) fn raise(mut self, sources: &[LayerSource<'_>]) -> Result<Ensured, LayerError> {
        let mut chain: Option<ChainId> = None;
        for source in sources {
            self.context.check_cancelled()?;
            let diff_id = source.diff_id;
            let top = chain.map_or_else(|| ChainId::base(diff_id), |below| below.with(diff_id));
            chain = Some(top);
            let layer = self.layer(source, LayerKey::Bound(top))?;
            self.layers.push(layer);
        }
        let keys = self.layers.iter().map(|layer| layer.key).collect();
        Ok(Ensured { keys, layers: self.layers, made: self.made })
    }

    fn stack(&self) -> Stack<'_> {
        Stack::new(self.layers.iter().rev().map(|layer| &layer.tree))
    }

    /// The layer for the next place, which is `bound` if it depends on what is below.
    fn layer(&mut self, source: &LayerSource<'_>, bound: LayerKey) -> Result<Layer, LayerError> {
        if let Some(layer) = self.ready.remove(&source.diff_id) {
            return Ok(layer);
        }
        let store = self.context.store;
        if let State::Good(layer) = store.seek(bound)? {
            return Ok(*layer);
        }
        let free = LayerKey::Free(source.diff_id);
        let mut slot = self.take(source.diff_id);
        loop {
            match slot {
                Slot::Published(losses) => self.note(free, source.diff_id, losses),
                Slot::Staged(staged) => return self.staged(source, bound, *staged),
                Slot::Open => {}
            }
            // One that cannot be made again may have become good enough meanwhile.
            if let State::Good(layer) = store.seek(bound)? {
                return Ok(*layer);
            }
            if let State::Good(layer) = store.seek(free)? {
                return self.on_this_base(source, bound, *layer);
            }
            // Left to someone else, or removed since.
            self.release_locks();
            let lock = self.context.lock(free)?;
            slot = self.context.alone(source, lock, None)?;
        }
    }

    /// Uses a layer that was made for another base, if what it assumes is true here.
    fn on_this_base(
        &mut self,
        source: &LayerSource<'_>,
        bound: LayerKey,
        layer: Layer,
    ) -> Result<Layer, LayerError> {
        let here = bind::assume(&self.stack(), layer.record.implied())?;
        if here.agree_with(&layer.record.assumed) {
            return Ok(layer);
        }
        // A variant would share its files, and so write to another's store.
        if here.crosses_link || layer.lent {
            return self.unpack_again(source, bound);
        }
        match self.variant(bound, &layer, here)? {
            Some(variant) => Ok(variant),
            None => self.unpack_again(source, bound),
        }
    }

    /// Unpacks a layer that is there once more, with the layers below it in sight.
    fn unpack_again(&mut self, source: &LayerSource<'_>, bound: LayerKey) -> Result<Layer, LayerError> {
        let again = self.context.work.directory()?;
        let tree = LayerStore::stage_tree(&again)?;
        let alone = self.context.unpack(source, &tree, None, None)?;
        again.discard()?;
        self.unpack_on_base(source, bound, &alone)
    }

    /// Settles what a layer leaves open that was unpacked by itself.
    fn staged(
        &mut self,
        source: &LayerSource<'_>,
        bound: LayerKey,
        mut staged: Staged<'w>,
    ) -> Result<Layer, LayerError> {
        let free = LayerKey::Free(source.diff_id);
        if staged.lock.is_none() {
            staged.lock = Some(self.context.lock(free)?);
            if let State::Good(layer) = self.context.store.seek(free)? {
                staged.dir.discard()?;
                return self.on_this_base(source, bound, *layer);
            }
        }
        if staged.unpacked.below_links.is_empty() {
            let here = bind::assume(&self.stack(), staged.unpacked.implied())?;
            if !here.crosses_link {
                let Staged { dir, tree, mut unpacked, lock } = staged;
                let (mut key, mut _lock) = (free, lock);
                if !here.absent.is_empty() {
                    // Without what this base does not have, it is not the layer that others can share. One lock goes
                    // before the other is waited for.
                    drop(_lock);
                    (key, _lock) = (bound, Some(self.context.lock(bound)?));
                    if let State::Good(layer) = self.context.store.seek(bound)? {
                        dir.discard()?;
                        return Ok(*layer);
                    }
                    bind::prune(&tree, &here.absent)?;
                }
                let abilities = self.context.abilities;
                bind::apply(&tree, &here.directories, abilities, &mut unpacked.losses)?;
                if !here.absent.is_empty() {
                    unpacked.measure = None; // counted again when it is published
                }
                let record = self.context.record(source, &unpacked, here.directories);
                let layer = self.context.publish(key, dir, record)?;
                self.note(key, source.diff_id, Some(unpacked.losses));
                return Ok(layer);
            }
        }
        staged.lock = None;
        let layer = self.unpack_on_base(source, bound, &staged.unpacked)?;
        staged.dir.discard()?;
        Ok(layer)
    }

    /// Unpacks a layer with the layers below it in sight.
    fn unpack_on_base(
        &mut self,
        source: &LayerSource<'_>,
        bound: LayerKey,
        alone: &Unpacked,
    ) -> Result<Layer, LayerError> {
        let context = self.context;
        let _lock = context.lock(bound)?;
        if let State::Good(layer) = context.store.seek(bound)? {
            return Ok(*layer);
        }
        let dir = context.work.directory()?;
        let tree = LayerStore::stage_tree(&dir)?;
        let stack = self.stack();
        let unpacked = context.unpack(source, &tree, Some(&Below::new(&stack, alone)), None)?;
        let assumed = bind::assume(&stack, unpacked.implied())?.directories;
        let record = context.record(source, &unpacked, assumed);
        let layer = context.publish(bound, dir, record)?;
        self.note(bound, source.diff_id, Some(unpacked.losses));
        Ok(layer)
    }

    /// Makes `layer` again with other assumptions, from its own files; `None` if they take no more names.
    fn variant(
        &mut self,
        bound: LayerKey,
        layer: &Layer,
        here: Assumptions,
    ) -> Result<Option<Layer>, LayerError> {
        let context = self.context;
        let _lock = context.lock(bound)?;
        if let State::Good(layer) = context.store.seek(bound)? {
            return Ok(Some(*layer));
        }
        let dir = context.work.directory()?;
        let tree = LayerStore::stage_tree(&dir)?;
        let mut losses = Losses::new(context.unpack.losses);
        match bind::variant(&layer.tree, &tree, &here, context.abilities, &mut losses)? {
            Variant::Made => {}
            Variant::TooManyNames => {
                dir.discard()?;
                return Ok(None);
            }
        }
        let is_smaller = !here.absent.is_empty();
        let mut record = Record { assumed: here.directories, ..layer.record.clone() };
        record.written_in(context.store.session.as_ref());
        if is_smaller {
            record.measure = None;
        }
        record.lost.get_or_insert_default().add(&losses);
        let made = context.publish(bound, dir, record)?;
        self.note(bound, layer.record.diff_id, Some(losses));
        Ok(Some(made))
    }

    /// What was unpacked for this image of the layer `diff_id`; it is taken.
    fn take(&mut self, diff_id: DiffId) -> Slot<'w> {
        match self.jobs.get_mut(&diff_id) {
            Some(job) => std::mem::replace(&mut job.slot, Slot::Open),
            None => Slot::Open,
        }
    }

    /// Lets others go on with the layers that this call has unpacked and not published yet.
    fn release_locks(&mut self) {
        for job in self.jobs.values_mut() {
            if let Slot::Staged(staged) = &mut job.slot {
                staged.lock = None;
            }
        }
    }

    fn note(&mut self, key: LayerKey, diff_id: DiffId, losses: Option<Losses>) {
        if let Some(losses) = losses {
            self.made.push(Made { key, diff_id, losses });
        }
    }
}
