//! Layers that were replaced while somebody may still look into them.
//!
//! ```text
//! layers/replaced-<unique>/
//!     replaced.json       which layer it was, and in which boot it was replaced
//!     layer/              what was there, with its record and its tree
//! ```
//!
//! Invariant 3: a layer never changes, so one that is damaged is not mended but swapped for another. A mount that looks
//! into the old one goes on doing so, and its files must not go before the mount does. Swapping is one step: the new
//! layer is put where the old one will be, and the two change places. If it does not come to that, the new one is what
//! is removed.
//!
//! Who has opened a layer to read or to mount it holds a shared lock on its `tree` for as long; so a replaced one goes
//! only when nobody does. What is mounted is for others to know, who are asked.

use std::path::Path;

use rustix::io::Errno;
use serde::{Deserialize, Serialize};

use super::key::LayerKey;
use super::store::{Layer, LayerError, LayerStore, RECORD, State, TREE, write};
use crate::fs::{Dir, Kind, Optional, StagedDir, Workspace, unique_name};

const PREFIX: &str = "replaced-";
const NOTE: &str = "replaced.json";
const LAYER: &str = "layer";

/// `replaced.json`.
#[derive(Serialize, Deserialize, Debug)]
struct Note {
    layer: LayerKey,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    boot: Option<String>,
}

/// A layer that was replaced and is still on disk.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct Replaced {
    /// The name of its directory.
    pub name: String,
    /// The layer that it was, as far as that can be told.
    pub key: Option<LayerKey>,
    /// Whether a mount of this boot may look into it. No other outlives its boot.
    pub is_of_this_boot: bool,
}

impl LayerStore {
    /// Whether `name` in the directory of layers is that of a replaced one.
    pub fn is_replaced(name: &str) -> bool {
        name.starts_with(PREFIX)
    }

    /// All that were replaced and are still there.
    ///
    /// # Errors
    ///
    /// [`LayerError`] if the directory cannot be read.
    pub fn replaced(&self) -> Result<Vec<Replaced>, LayerError> {
        let mut found = Vec::new();
        for entry in self.layers.names()? {
            if !self.layers.is_of_kind(&entry, Kind::Directory)? {
                continue;
            }
            let Some(name) = String::from_utf8(entry.name).ok().filter(|name| Self::is_replaced(name)) else {
                continue;
            };
            let note = self.layers.find_content(Path::new(&name).join(NOTE), 1 << 16).fitting()?.flatten();
            let note: Option<Note> = note.and_then(|note| serde_json::from_slice(&note).ok());
            let (key, boot) = note.map_or((None, None), |note| (Some(note.layer), note.boot));
            let here = self.session.as_ref().map(|session| &session.boot);
            let is_of_this_boot = here.is_none() || boot.is_none() || boot.as_ref() == here;
            found.push(Replaced { name, key, is_of_this_boot });
        }
        Ok(found)
    }

    /// Takes a replaced layer away; it is removed with `rubbish`. `false` if somebody reads it, or is just replacing it.
    /// That no mount looks into it is for the caller to know.
    ///
    /// # Errors
    ///
    /// [`LayerError`] if it cannot be moved; it is where it was then.
    pub fn remove_replaced(&self, replaced: &Replaced, rubbish: &Workspace) -> Result<bool, LayerError> {
        let _lock = match replaced.key.map(|key| self.try_lock(key)).transpose()? {
            // Two layers may be changing places just now.
            Some(None) => return Ok(false),
            lock => lock.flatten(),
        };
        // A part of what it was may be damaged, too; what is no directory is nobody's.
        let tree = self.layers.open_dir(Path::new(&replaced.name).join(LAYER).join(TREE)).fitting()?;
        if !tree.as_ref().map_or(Ok(true), Dir::hold_alone)? {
            return Ok(false);
        }
        Ok(rubbish.discard(&self.layers, &replaced.name).optional()?.is_some())
    }

    /// Puts `made`, a whole layer, in the place of `found`, which is not as it should be. `false` if that is not there any
    /// more: somebody else was at it. What is replaced stays on disk until [`LayerStore::remove_replaced`].
    ///
    /// # Errors
    ///
    /// [`LayerError`]; the old layer is then still there.
    pub fn replace(&self, found: &Layer, made: StagedDir<'_>, work: &Workspace) -> Result<bool, LayerError> {
        let _lock = self.lock(found.key)?;
        let name = &found.directory;
        let there = self.layers.find(Path::new(name).join(TREE))?;
        let compared = found.tree.dir.stat(".")?;
        if !there.is_some_and(|there| there.is_same_inode(&compared)) {
            return Ok(false);
        }
        self.put(found.key, name, made, work)?;
        Ok(true)
    }

    /// Puts `made`, a whole layer, in the place of one that cannot be relied on. `false` if somebody else did before.
    ///
    /// # Errors
    ///
    /// [`LayerError`]; what was there is then still there. (Where the file system cannot exchange names, it may be gone: then
    /// it is made again from its blob.)
    pub fn renew(&self, key: LayerKey, made: StagedDir<'_>, work: &Workspace) -> Result<bool, LayerError> {
        let _lock = self.lock(key)?;
        match self.look(key) {
            Ok(State::Good(_)) => Ok(false),
            Ok(State::Absent | State::Untrusted | State::Other(_)) | Err(LayerError::Record { .. }) => {
                let record = made.dir().find_content(RECORD, super::store::LONGEST_RECORD)?;
                let record = record.and_then(|json| super::record::Record::parse(&json).ok());
                let name = self.name_for(key, record.and_then(|record| record.families.single()))?;
                self.put(key, &name, made, work)?;
                Ok(true)
            }
            Err(error) => Err(error),
        }
    }

    /// Whether something is there under `key`, be it whole or not, and whatever its marks.
    ///
    /// # Errors
    ///
    /// [`LayerError`] if that cannot be told.
    pub fn has(&self, key: LayerKey) -> Result<bool, LayerError> {
        for name in Self::directories(key) {
            if self.layers.find(name)?.is_some_and(|there| there.kind == Kind::Directory) {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Gives `staged`, a whole layer, the name `name`, and puts aside what had it. The caller holds the layer's lock.
    pub(super) fn put(
        &self,
        key: LayerKey,
        name: &str,
        staged: StagedDir<'_>,
        work: &Workspace,
    ) -> Result<Dir, LayerError> {
        // What is no layer is nobody's to remove.
        self.layers.put_aside(name, Kind::Directory)?;
        match self.layers.find(name)? {
            None => return Ok(staged.publish(&self.layers, name)?),
            Some(_) if self.may_be_seen(name)? => {}
            Some(_) => {
                work.discard(&self.layers, name)?;
                return Ok(staged.publish(&self.layers, name)?);
            }
        }
        let aside = format!("{PREFIX}{}", unique_name()?);
        let boot = self.session.as_ref().map(|session| session.boot.clone());
        let note = Note { layer: key, boot };
        let note = serde_json::to_vec(&note).expect("strings are JSON");
        let outer = work.directory_with(0o700)?;
        write(outer.dir(), NOTE, &note)?;
        let dir = staged.publish(outer.dir(), LAYER)?;
        let outer = outer.publish(&self.layers, &aside)?;
        match outer.exchange(LAYER, &self.layers, name) {
            // Some file systems cannot do both at once.
            Err(error) if matches!(error.errno(), Some(Errno::INVAL | Errno::NOSYS | Errno::OPNOTSUPP)) => {
                let staged = "new";
                outer.rename(LAYER, &outer, staged)?;
                self.layers.rename(name, &outer, LAYER)?;
                outer.rename_new(staged, &self.layers, name)?;
            }
            done => done?,
        }
        Ok(dir)
    }

    /// Returns whether something mounted in this boot may look into the layer that is there: not if it was written in another
    /// boot and was not trusted in this one. One of this boot may be in use through another mount of the file system.
    fn may_be_seen(&self, name: &str) -> Result<bool, LayerError> {
        let json = self.layers.find_content(Path::new(name).join(RECORD), super::store::LONGEST_RECORD);
        let record = match json {
            Ok(json) => json.and_then(|json| super::record::Record::parse(&json).ok()),
            Err(error) => {
                tracing::debug!(%error, source = %error.source, "what was made of a layer before cannot be read");
                None
            }
        };
        let session = self.session.as_ref();
        Ok(record.is_none_or(|record| {
            record.is_trusted(session) || session.is_some_and(|here| record.is_of_another_mount(here))
        }))
    }
}
