//! What lies in a store and is none of its own. It is told, and never touched.
//!
//! A collection removes what it recognises as the store's own and finds that nobody needs. A name that the store would not
//! give, or a thing of another kind than it makes under that name, is somebody else's, whatever it is doing here. What is in
//! the place of something that is made is put aside, and is a stranger there. Only `staging/` is the store's to empty.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

use super::Inner;
use super::build_cache::StepKey;
use super::error::StoreError;
use super::records::{check_name, is_id};
use super::view::shown_by;
use crate::blob::PartialBlob;
use crate::fs::{Dir, Kind, Lock};
use crate::layer::{LayerKey, LayerStore};

/// Locks of the whole store, `names` before each name had its own.
const LOCKS: [&str; 4] = ["create", "gc", "index", "names"];

pub(super) fn is_lock(name: &str) -> bool {
    // Kept for a full disk, of which locks can be made.
    if Lock::is_spare(name) {
        return true;
    }
    LOCKS.contains(&name) || is_lock_of_one(name)
}

/// Whether it is the lock of a single thing, which is removed when nobody holds it.
pub(super) fn is_lock_of_one(name: &str) -> bool {
    match name.split_once('-') {
        Some(("container", id)) => is_id(id),
        Some(("layer", key)) => key.parse::<LayerKey>().is_ok(),
        Some(("view", id)) => shown_by(id).is_some(),
        _ => false,
    }
}

impl Inner {
    /// What is none of the store's own, in any of its directories.
    pub(super) fn strangers(&self) -> Result<Vec<PathBuf>, StoreError> {
        let layout = &self.layout;
        let mut strangers = layout.strangers()?;
        strangers.extend(layout.blobs.strangers()?);
        let directory = |is_ours: bool| is_ours.then_some(Kind::Directory);
        let file = |is_ours: bool| is_ours.then_some(Kind::File);
        let is_layer = |name: &str| LayerStore::key_of(name).is_some() || LayerStore::is_replaced(name);
        strangers.extend(strangers_in(&layout.containers, |name| directory(is_id(name)))?);
        strangers.extend(strangers_in(&layout.layers, |name| directory(is_layer(name)))?);
        strangers.extend(strangers_in(&layout.views, |name| directory(shown_by(name).is_some()))?);
        strangers.extend(strangers_in(&layout.names, |name| file(check_name(name).is_ok()))?);
        if let Some(steps) = self.steps_dir()? {
            strangers.extend(strangers_in(&steps, |name| file(name.parse::<StepKey>().is_ok()))?);
        }
        if let Some(downloads) = self.downloads()? {
            strangers.extend(strangers_in(&downloads, |name| file(PartialBlob::is_one(name)))?);
        }
        strangers.extend(strangers_in(&layout.locks, |name| file(is_lock(name)))?);
        strangers.sort_unstable();
        Ok(strangers)
    }
}

/// Names in `dir` that are not of the kind that the store would make under them.
pub(super) fn strangers_in(
    dir: &Dir,
    belongs: impl Fn(&str) -> Option<Kind>,
) -> Result<Vec<PathBuf>, StoreError> {
    let mut strangers = Vec::new();
    for entry in dir.names()? {
        let kind = str::from_utf8(&entry.name).ok().and_then(&belongs);
        if !kind.map_or(Ok(false), |kind| dir.is_of_kind(&entry, kind))? {
            strangers.push(dir.path_of(OsStr::from_bytes(&entry.name)));
        }
    }
    Ok(strangers)
}
