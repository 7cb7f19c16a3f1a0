//! What lies in a store and is none of its own. It is told, and never touched.
//!
//! A collection removes what it recognises as the store's own and finds that nobody needs. A name that the store would not
//! give is somebody else's, whatever it is doing here. Only `staging/` is the store's to empty.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

use super::Inner;
use super::error::StoreError;
use super::records::{check_name, is_id};
use crate::fs::{Dir, Kind, Lock};
use crate::layer::{LayerKey, LayerStore};

/// Locks of the whole store, `names` before each name had its own.
const LOCKS: [&str; 4] = ["create", "gc", "index", "names"];

/// What locks of single things are called, before a hyphen and the thing.
const LOCKED: [&str; 3] = ["container", "layer", "view"];

fn is_lock(name: &str) -> bool {
    // Kept for a full disk, of which locks can be made.
    if Lock::is_spare(name) {
        return true;
    }
    LOCKS.contains(&name) || name.split_once('-').is_some_and(|(kind, _)| LOCKED.contains(&kind))
}

/// Whether something among the names of containers is one: a file, as far as the file system tells.
pub(super) fn is_name(name: &str, kind: Option<Kind>) -> bool {
    matches!(kind, None | Some(Kind::File)) && check_name(name).is_ok()
}

/// Whether it is the name of a view: the hexadecimal digits of a digest.
fn is_view(name: &str) -> bool {
    matches!(name.len(), 64 | 128) && name.bytes().all(|digit| matches!(digit, b'0'..=b'9' | b'a'..=b'f'))
}

impl Inner {
    /// What is none of the store's own, in any of its directories.
    pub(super) fn strangers(&self) -> Result<Vec<PathBuf>, StoreError> {
        let layout = &self.layout;
        let mut strangers = layout.strangers()?;
        strangers.extend(layout.blobs.strangers()?);
        strangers.extend(strangers_in(&layout.containers, |name, _| is_id(name))?);
        let is_layer = |name: &str, _| name.parse::<LayerKey>().is_ok() || LayerStore::is_replaced(name);
        strangers.extend(strangers_in(&layout.layers, is_layer)?);
        strangers.extend(strangers_in(&layout.views, |name, _| is_view(name))?);
        strangers.extend(strangers_in(&layout.names, is_name)?);
        strangers.extend(strangers_in(&layout.locks, |name, _| is_lock(name))?);
        strangers.sort_unstable();
        Ok(strangers)
    }
}

fn strangers_in(dir: &Dir, is_ours: impl Fn(&str, Option<Kind>) -> bool) -> Result<Vec<PathBuf>, StoreError> {
    let mut strangers = Vec::new();
    for entry in dir.names()? {
        if !std::str::from_utf8(&entry.name).is_ok_and(|name| is_ours(name, entry.kind)) {
            strangers.push(dir.path_of(OsStr::from_bytes(&entry.name)));
        }
    }
    Ok(strangers)
}
