//! [`BuildCache`]: what came of steps of builds, so that a step is done once.
//!
//! ```text
//! cache/steps/<key>     a descriptor of the image, and a note; its modification time says when it was last used
//! ```
//!
//! A step is known by what it stood on and how it changed that ([`StepKey`]). What that is, is for the builder to say: a
//! command, its environment, digests of the files that it copies. What came of it is an image like any other, but
//! that it has no name and is in no list; it stays in the store for as long as the step does. A step whose image is damaged
//! is no step: a look at it finds nothing, and the next collection forgets it.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::error::StoreError;
use super::image::Image;
use super::layout::Access;
use super::names::Named;
use super::operation::{GC_LOCK, Operation};
use super::{Inner, Store};
use crate::blob::{BlobError, BlobSource};
use crate::digest::{Digest, Hasher};
use crate::fs::{Dir, Kind, Lock, LockMode, Optional, Timestamp, Workspace};
use crate::image::Descriptor;

/// Where steps are kept, in `cache/`.
pub(super) const STEPS: &str = "steps";
/// Bytes of a step at most.
const LONGEST: u64 = 1 << 20;

/// What a step of a build is known by.
///
/// ```
/// # use plywood::{Digest, StepKey};
/// # let base = Digest::of("config");
/// let install = StepKey::new(Some(&base), b"RUN apt-get install -y gcc");
/// assert_ne!(install, StepKey::new(Some(&base), b"RUN apt-get install -y g++"));
/// assert_eq!(install.to_string().parse(), Ok(install));
/// ```
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct StepKey(Digest);

impl StepKey {
    /// Of a step that stands on `parent`, usually the id of an image, or on nothing; `recipe` is everything else that its
    /// outcome depends on.
    pub fn new(parent: Option<&Digest>, recipe: &[u8]) -> Self {
        let mut hasher = Hasher::new(crate::digest::Algorithm::Sha256);
        // A digest has no line break, so that no recipe looks like another parent.
        hasher.update(parent.map_or_else(String::new, ToString::to_string).as_bytes());
        hasher.update(b"\n");
        hasher.update(recipe);
        Self(hasher.finish())
    }
}

/// Prints 64 hexadecimal digits.
impl fmt::Display for StepKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.hex())
    }
}

impl FromStr for StepKey {
    type Err = crate::digest::DigestError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Digest::from_parts("sha256", text).map(Self)
    }
}

/// A step that was done.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct CachedStep {
    /// What it is known by.
    pub key: StepKey,
    /// The digest of the manifest that came of it.
    pub manifest_digest: Digest,
    /// What the builder says of it.
    pub note: Option<String>,
    /// When it was last recorded or found, by the clock of the file system.
    pub last_used: Timestamp,
}

/// `cache/steps/<key>`.
#[derive(Serialize, Deserialize, Debug)]
struct Record {
    image: Descriptor,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    note: Option<String>,
}

/// A step as the store sees it.
pub(super) struct Step {
    pub(super) key: StepKey,
    /// `None` if what is there says nothing.
    pub(super) target: Option<Descriptor>,
    note: Option<String>,
    last_used: Timestamp,
}

/// The steps of builds that a store remembers; see [`Store::build_cache`].
#[derive(Clone, Copy, Debug)]
pub struct BuildCache<'s> {
    store: &'s Store,
}

impl Store {
    /// What the store remembers of builds.
    pub fn build_cache(&self) -> BuildCache<'_> {
        BuildCache { store: self }
    }
}

impl BuildCache<'_> {
    /// What came of a step, if it was done and all of it is still there. The step counts as used.
    ///
    /// What is returned stays in the store for as long as the step does, as an image stays for as long as it has a name: who
    /// evicts while others build makes them do a step again.
    ///
    /// # Errors
    ///
    /// [`StoreError::Io`] if it cannot be read for another reason than that it is damaged. Nothing is changed.
    pub fn find(&self, key: &StepKey) -> Result<Option<Image>, StoreError> {
        let inner = &self.store.inner;
        let Some(target) = inner.step(*key)?.and_then(|step| step.target) else { return Ok(None) };
        let names = inner.names()?.with_digest(&target.digest).map_or_else(Vec::new, |named| named.names);
        let image = match inner.image(Named { target, names }) {
            Err(error) if error.is_damage() => return Ok(None),
            image => image?,
        };
        if inner.missing_part(&image)?.is_some() {
            return Ok(None);
        }
        if inner.layout.access == Access::ReadWrite
            && let Some(steps) = inner.steps_dir()?
        {
            // Somebody may evict it just now.
            steps.touch(key.to_string()).optional()?;
        }
        Ok(Some(image))
    }

    /// Remembers that `image` came of a step, whatever came of it before; `note` is for those who look at the cache. An image
    /// that is committed for a step alone is better recorded by [`CommitOptions::step`](super::CommitOptions::step).
    ///
    /// # Errors
    ///
    /// [`StoreError::NotFound`] if the image was removed meanwhile, [`StoreError::Blob`] if a part of it is missing. What was
    /// known of the step is as it was.
    pub fn record(&self, key: &StepKey, image: &Image, note: Option<&str>) -> Result<(), StoreError> {
        let inner = &self.store.inner;
        let operation = inner.begin()?;
        inner.pin_held(&operation, image)?;
        if let Some(digest) = inner.missing_part(image)? {
            return Err(BlobError::Missing { digest }.into());
        }
        inner.record_step(*key, &image.record().target, note, &operation)?;
        Ok(operation.end()?)
    }

    /// All steps, those that were used last first.
    ///
    /// # Errors
    ///
    /// [`StoreError::Io`] if they cannot be read.
    pub fn steps(&self) -> Result<Vec<CachedStep>, StoreError> {
        let mut steps: Vec<_> = self.store.inner.steps()?.into_iter().filter_map(Step::known).collect();
        steps.sort_by(|one, other| other.last_used.cmp(&one.last_used).then(one.key.cmp(&other.key)));
        Ok(steps)
    }

    /// Forgets a step; `false` if there was none. What only it needed is the next collection's.
    ///
    /// # Errors
    ///
    /// [`StoreError::Io`] if it cannot be removed. It is then still known.
    pub fn remove(&self, key: &StepKey) -> Result<bool, StoreError> {
        let inner = &self.store.inner;
        let operation = inner.begin()?;
        let removed = inner.forget_step(*key, operation.workspace())?;
        operation.end()?;
        Ok(removed)
    }
}

impl Step {
    fn known(self) -> Option<CachedStep> {
        let Self { key, target, note, last_used } = self;
        target.map(|target| CachedStep { key, manifest_digest: target.digest, note, last_used })
    }
}

impl Inner {
    pub(super) fn steps_dir(&self) -> Result<Option<Dir>, StoreError> {
        let cache = self.cache()?;
        match cache.find(STEPS)?.is_some_and(|stat| stat.kind == Kind::Directory) {
            true => Ok(cache.find_dir(STEPS)?),
            false => Ok(None),
        }
    }

    /// All steps, also those that say nothing.
    pub(super) fn steps(&self) -> Result<Vec<Step>, StoreError> {
        let Some(dir) = self.steps_dir()? else { return Ok(Vec::new()) };
        let mut steps = Vec::new();
        for entry in dir.names()? {
            if let Some(key) = str::from_utf8(&entry.name).ok().and_then(|name| name.parse().ok()) {
                steps.extend(read_step(&dir, key)?);
            }
        }
        Ok(steps)
    }

    fn step(&self, key: StepKey) -> Result<Option<Step>, StoreError> {
        self.steps_dir()?.map_or(Ok(None), |dir| read_step(&dir, key))
    }

    /// Whether the image behind `target` came of a step.
    pub(super) fn is_of_step(&self, target: &Digest) -> Result<bool, StoreError> {
        let is_target = |step: &Step| step.target.as_ref().is_some_and(|other| other.digest == *target);
        Ok(self.steps()?.iter().any(is_target))
    }

    /// Remembers a step whose image `operation` has pinned and is durable by now.
    pub(super) fn record_step(
        &self,
        key: StepKey,
        target: &Descriptor,
        note: Option<&str>,
        operation: &Operation,
    ) -> Result<(), StoreError> {
        let dir = self.cache()?.ensure_dir(STEPS, 0o700)?;
        let record = Record { image: target.clone(), note: note.map(str::to_owned) };
        let fault = |source| StoreError::Record { path: dir.path_of(key.to_string()), source };
        let bytes = serde_json::to_vec(&record).map_err(fault)?;
        // A collection that found the old record damaged must not take the new one.
        let _no_collection = Lock::acquire(&self.layout.locks, GC_LOCK, LockMode::Shared)?;
        Ok(operation.workspace().replace(&bytes, &dir, key.to_string(), self.options.durability)?)
    }

    /// Forgets a step; `false` if there was none.
    pub(super) fn forget_step(&self, key: StepKey, workspace: &Workspace) -> Result<bool, StoreError> {
        let Some(dir) = self.steps_dir()? else { return Ok(false) };
        Ok(workspace.discard(&dir, key.to_string()).optional()?.is_some())
    }

    /// A blob of the image that is not there, or not as long as it should be.
    fn missing_part(&self, image: &Image) -> Result<Option<Digest>, StoreError> {
        for part in image.closure().filter(|part| part.urls.is_empty()) {
            if self.content().size(&part.digest)? != Some(part.size) {
                return Ok(Some(part.digest));
            }
        }
        Ok(None)
    }
}

/// The step of this name, if it is there.
fn read_step(dir: &Dir, key: StepKey) -> Result<Option<Step>, StoreError> {
    let name = key.to_string();
    let Some(stat) = dir.find(&name)?.filter(|stat| stat.kind == Kind::File) else { return Ok(None) };
    let Some(bytes) = dir.find_content(&name, LONGEST)? else { return Ok(None) };
    let (target, note) = match serde_json::from_slice::<Record>(&bytes) {
        Ok(Record { image, note }) => (Some(image), note),
        Err(error) => {
            tracing::debug!(%error, %key, "a step of a build is forgotten");
            (None, None)
        }
    };
    Ok(Some(Step { key, target, note, last_used: stat.mtime }))
}
