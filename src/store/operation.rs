//! [`Operation`]: something in progress that relies on content of the store, and keeps `gc` away from it.
//!
//! An operation writes down what it relies on (its pins) *before* it looks whether the content is there. Collection and
//! pinning exclude each other by one lock, held for moments only: never while data moves. So either the pin is seen by
//! the collection, or the collection is over and what it took is seen to be gone.
//!
//! ```text
//! locks/gc                    shared while pins are written or a workspace is made; exclusive while gc marks and moves
//! staging/<unique>/pins       one line each: "blob sha256:…" or "layer <key>"
//! ```
//!
//! Pins need no sync: they speak for a live process, and after a power cut there is none.

use std::collections::HashSet;
use std::io::Write;
use std::sync::Mutex;

use crate::digest::Digest;
use crate::fs::{self, Context, Dir, Lock, LockMode, Staging, Workspace};

/// The lock between pinning and collecting.
pub(super) const GC_LOCK: &str = "gc";
const PINS: &str = "pins";

/// One operation with its workspace and its pins; dropping it gives both up.
#[derive(Debug)]
pub(super) struct Operation {
    workspace: Workspace,
    locks: Dir,
    /// `None` until something is pinned.
    pins: Mutex<Option<std::fs::File>>,
}

impl Operation {
    /// Starts an operation that relies on nothing yet.
    pub(super) fn begin(locks: &Dir, staging: &Staging) -> fs::Result<Self> {
        let locks = locks.try_clone()?;
        let _no_collection = Lock::acquire(&locks, GC_LOCK, LockMode::Shared)?;
        let workspace = staging.workspace()?;
        Ok(Self { workspace, locks, pins: Mutex::new(None) })
    }

    /// Where this operation stages its content.
    pub(super) fn workspace(&self) -> &Workspace {
        &self.workspace
    }

    /// Keeps these blobs from being collected until the operation ends, whether they exist yet or not.
    pub(super) fn pin_blobs<'d>(&self, digests: impl IntoIterator<Item = &'d Digest>) -> fs::Result<()> {
        self.pin(&blob_lines(digests))
    }

    /// Keeps these layers from being collected until the operation ends, whether they exist yet or not.
    pub(super) fn pin_layers(
        &self,
        keys: impl IntoIterator<Item = impl std::fmt::Display>,
    ) -> fs::Result<()> {
        self.pin(&layer_lines(keys))
    }

    /// Both at once, which is one lock and one write.
    pub(super) fn pin_all<'d>(
        &self,
        digests: impl IntoIterator<Item = &'d Digest>,
        keys: impl IntoIterator<Item = impl std::fmt::Display>,
    ) -> fs::Result<()> {
        let mut lines = blob_lines(digests);
        lines.push_str(&layer_lines(keys));
        self.pin(&lines)
    }

    fn pin(&self, lines: &str) -> fs::Result<()> {
        let _no_collection = Lock::acquire(&self.locks, GC_LOCK, LockMode::Shared)?;
        let mut pins = self.pins.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let pins = match &mut *pins {
            Some(pins) => pins,
            none => none.insert(self.workspace.dir().make_file(PINS, 0o600)?),
        };
        pins.write_all(lines.as_bytes()).at_path("write", || self.workspace.dir().path_of(PINS))
    }

    /// What it relies on.
    pub(super) fn pinned(&self) -> fs::Result<Pinned> {
        Pinned::of([self.workspace.dir()])
    }

    /// Ends the operation and removes what it staged and did not publish.
    pub(super) fn end(self) -> fs::Result<()> {
        self.workspace.close()
    }
}

fn blob_lines<'d>(digests: impl IntoIterator<Item = &'d Digest>) -> String {
    digests.into_iter().map(|digest| format!("blob {digest}\n")).collect()
}

fn layer_lines(keys: impl IntoIterator<Item = impl std::fmt::Display>) -> String {
    keys.into_iter().map(|key| format!("layer {key}\n")).collect()
}

/// What the operations in progress rely on.
#[derive(Debug, Default)]
pub(super) struct Pinned {
    /// Digests of blobs, as text.
    pub(super) blobs: HashSet<String>,
    /// Layer keys, as text.
    pub(super) layers: HashSet<String>,
}

impl Pinned {
    /// Reads the pins of the workspaces in `live`. The caller holds the lock against pinning, or they are its own.
    pub(super) fn of<'d>(live: impl IntoIterator<Item = &'d Dir>) -> fs::Result<Self> {
        let mut pinned = Self::default();
        for workspace in live {
            let Some(pins) = workspace.find_content(PINS, 1 << 30)? else { continue };
            for line in String::from_utf8_lossy(&pins).lines() {
                match line.split_once(' ') {
                    Some(("blob", digest)) => drop(pinned.blobs.insert(digest.to_owned())),
                    Some(("layer", key)) => drop(pinned.layers.insert(key.to_owned())),
                    _ => {}
                }
            }
        }
        Ok(pinned)
    }
}
