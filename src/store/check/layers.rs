//! Unpacked layers: each is made once more, beside the store, and compared.

use std::collections::{BTreeMap, BTreeSet};

use super::{Check, MOST_DIFFERENCES, Readable};
use crate::image::Descriptor;
use crate::layer::{LayerKey, LayerStore, differences};
use crate::store::Image;
use crate::store::damage::Damage;
use crate::store::error::StoreError;

impl Check<'_> {
    /// Makes the layers of one image after the other once more, beside the store, and compares.
    pub(super) fn layers(&mut self) -> Result<(), StoreError> {
        let mut compared = BTreeSet::new();
        let mut wrong: BTreeMap<LayerKey, (Vec<String>, BTreeSet<String>)> = BTreeMap::new();
        for Readable { named, label } in std::mem::take(&mut self.readable) {
            let image = self.store.inner.image(named)?;
            let keys = image.layer_keys();
            for key in &keys {
                if let Some((_, needed_by)) = wrong.get_mut(key) {
                    needed_by.insert(label.clone());
                }
            }
            // Of damaged blobs nothing can be made, which was told.
            let is_damaged = |blob: &Descriptor| {
                self.report.damages.iter().any(|damage| damage.subject() == blob.digest.to_string())
            };
            let here = keys.iter().any(|key| !compared.contains(key));
            if image.config().is_none() || !here || image.manifest().layers.iter().any(is_damaged) {
                continue;
            }
            self.operation.pin_layers(keys)?;
            for (key, differences) in self.compare(&image, &mut compared)? {
                wrong.entry(key).or_default().0 = differences;
                wrong.entry(key).or_default().1.insert(label.clone());
            }
        }
        self.report.compared = compared.len() as u64;
        self.report.damages.extend(wrong.into_iter().map(|(key, (differences, needed_by))| Damage::Layer {
            key,
            differences,
            needed_by: needed_by.into_iter().collect(),
        }));
        Ok(())
    }

    /// The layers of `image` that are not as they should be.
    pub(super) fn compare(
        &self,
        image: &Image,
        compared: &mut BTreeSet<LayerKey>,
    ) -> Result<Vec<(LayerKey, Vec<String>)>, StoreError> {
        let inner = &self.store.inner;
        let beside = self.operation.workspace().directory()?;
        let again = LayerStore::new(
            beside.dir().ensure_dir("layers", 0o700)?,
            beside.dir().ensure_dir("locks", 0o700)?,
        );
        let made = self.store.make_layers(image, &again, self.operation)?;
        let mut wrong = Vec::new();
        for layer in made.layers {
            // What was not unpacked yet, or in another boot, is made anew when it is needed.
            if !compared.insert(layer.key) {
                continue;
            }
            let Some(found) = inner.layers.get(layer.key)? else {
                compared.remove(&layer.key);
                continue;
            };
            let found = differences(&layer.tree, &found.tree, MOST_DIFFERENCES)?;
            if !found.is_empty() {
                wrong.push((layer.key, found.iter().map(ToString::to_string).collect()));
            }
        }
        beside.discard()?;
        Ok(wrong)
    }
}
