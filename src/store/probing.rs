//! What this machine can do with the store: tried once, and kept.
//!
//! ```text
//! cache/probe.json    what was found out, with the circumstances that it holds in
//! ```
//!
//! A trial takes some milliseconds and a command lives no longer, so that the outcome is kept from one process to the
//! next. It is believed only where all that it depends on is the same ([`Circumstances`]), and nothing depends on it being
//! there: what cannot be read, is damaged or is of other circumstances is tried again and replaced. Refusals are kept like
//! successes, with their reasons.

use serde::{Deserialize, Serialize};

use super::error::StoreError;
use super::operation::Operation;
use super::{DriverChoice, Inner};
use crate::driver::{Circumstances, DriverKind, Probe, ProbeOptions};
use crate::fs::{Dir, Durability, Optional};

const DIR: &str = "cache";
const NAME: &str = "probe.json";
/// Bytes of it at most: refusals are lines of text.
const LONGEST: u64 = 1 << 20;

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Kept {
    circumstances: Circumstances,
    probe: Probe,
}

impl Inner {
    /// What this machine can do with this store.
    pub(super) fn probe(&self) -> Result<&Probe, StoreError> {
        if let Some(probe) = self.probe.get() {
            return Ok(probe);
        }
        self.require_writable()?;
        let mut options = ProbeOptions::default();
        options.fuse_overlayfs.clone_from(&self.options.fuse_overlayfs);
        options.fuse_in_any_case = self.options.driver == DriverChoice::Only(DriverKind::Fuse);
        let circumstances = match Circumstances::now(&self.layout.staging, &options) {
            Ok(circumstances) => Some(circumstances),
            Err(error) => {
                tracing::debug!(%error, "what was found out before cannot be relied on");
                None
            }
        };
        let wanted = circumstances.as_ref().filter(|_| !self.options.fresh_probe);
        let probe = match wanted.and_then(|now| self.kept_probe(now)) {
            Some(probe) => probe,
            None => self.try_and_keep(&options, circumstances)?,
        };
        Ok(self.probe.get_or_init(|| probe))
    }

    fn try_and_keep(
        &self,
        options: &ProbeOptions,
        circumstances: Option<Circumstances>,
    ) -> Result<Probe, StoreError> {
        let operation = self.begin()?;
        let scratch = operation.workspace().directory()?;
        let probe = Probe::run_with(scratch.dir(), options)?;
        scratch.discard()?;
        if let Some(circumstances) = circumstances
            && let Err(error) = self.keep(&operation, &Kept { circumstances, probe: probe.clone() })
        {
            tracing::debug!(%error, "what was found out is not kept");
        }
        operation.end()?;
        Ok(probe)
    }

    fn kept_probe(&self, now: &Circumstances) -> Option<Probe> {
        let read = || self.cache()?.read(NAME, LONGEST);
        let bytes = match read().optional() {
            Ok(bytes) => bytes?,
            Err(error) => {
                tracing::debug!(%error, "what was found out before cannot be read");
                return None;
            }
        };
        match serde_json::from_slice::<Kept>(&bytes) {
            Ok(kept) if kept.circumstances == *now => Some(kept.probe),
            Ok(_) => None,
            Err(error) => {
                tracing::debug!(%error, "what was found out before is damaged");
                None
            }
        }
    }

    fn keep(&self, operation: &Operation, kept: &Kept) -> Result<(), StoreError> {
        let fault = |source| StoreError::Record { path: self.layout.root.path_of(DIR).join(NAME), source };
        let bytes = serde_json::to_vec(kept).map_err(fault)?;
        // A power cut may take it.
        Ok(operation.workspace().replace(&bytes, &self.cache()?, NAME, Durability::Relaxed)?)
    }

    /// The directory of what can be found out again.
    pub(super) fn cache(&self) -> Result<Dir, crate::fs::Error> {
        self.layout.root.open_dir(DIR)
    }
}
