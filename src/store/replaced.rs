//! Layers that were replaced: they go when nobody looks into them any more.
//!
//! A root that is mounted keeps looking into the layers that it was mounted with. Which of several generations of a layer
//! these are the kernel does not tell; so a replaced layer stays for as long as anything is mounted, in this boot, that
//! stands on a layer of its key.

use super::Inner;
use super::error::StoreError;
use crate::container::{ContainerRecord, source_of};
use crate::driver;
use crate::fs::{Dir, Workspace};
use crate::layer::{LayerKey, Stacking};

/// What became of replaced layers.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) struct Swept {
    /// Those that went.
    pub(super) removed: u64,
    /// Those that something still looks into.
    pub(super) kept: u64,
}

impl Inner {
    /// Moves into `rubbish` what nobody looks into any more, or only counts it.
    pub(super) fn sweep_replaced(&self, rubbish: &Workspace, only_count: bool) -> Result<Swept, StoreError> {
        let mut swept = Swept::default();
        let replaced = self.layers.replaced()?;
        if replaced.is_empty() {
            return Ok(swept);
        }
        let containers = self.sorted_containers();
        let views = self.sorted_views();
        let (Ok((containers, damaged)), Ok((views, damaged_views))) = (containers, views) else {
            swept.kept = replaced.len() as u64;
            return Ok(swept);
        };
        let stood_on = |key: LayerKey| -> Result<bool, StoreError> {
            if !damaged.is_empty() || damaged_views.iter().any(|view| view.is_mounted) {
                return Ok(true);
            }
            Ok(self.is_seen(key, &containers, &self.layout.containers)?
                || self.is_seen(key, &views, &self.layout.views)?)
        };
        for one in &replaced {
            let in_use = match one.key {
                _ if !one.is_of_this_boot => false,
                Some(key) => stood_on(key)?,
                None => false,
            };
            let gone = !in_use && (only_count || self.layers.remove_replaced(one, rubbish)?);
            *if gone { &mut swept.removed } else { &mut swept.kept } += 1;
        }
        Ok(swept)
    }

    /// Whether one of the roots in `dir` is mounted and stands on the layer.
    fn is_seen(&self, key: LayerKey, roots: &[ContainerRecord], dir: &Dir) -> Result<bool, StoreError> {
        for root in roots {
            if !root.stack.contains(&key) && !Stacking::of(&root.stack).keys().contains(&key) {
                continue;
            }
            let Some(dir) = dir.find_dir(&root.id)? else { continue };
            match driver::sees_layers(root.driver, &source_of(&root.id), &dir) {
                Ok(false) => {}
                Ok(true) => return Ok(true),
                Err(error) => {
                    tracing::debug!(%error, root = root.id, "a root counts as mounted");
                    return Ok(true);
                }
            }
        }
        Ok(false)
    }
}
