//! [`NewImage`]: what can be said of an image that is made, whatever it is made of.

use std::collections::BTreeMap;

use super::error::StoreError;
use crate::codec::Encoding;
use crate::fs::Timestamp;
use crate::image::{ConfigChange, History, Manifest, Reference, time};
use crate::layer::PackOptions;

/// What a new image is called and says of itself, and how its layer is stored.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct NewImage {
    /// What to call it. Default: nothing; it is then found by its id.
    pub name: Option<Reference>,
    /// Changes to its config, applied in this order, all or none.
    pub changes: Vec<ConfigChange>,
    /// A note for the history.
    pub message: Option<String>,
    /// Who made it.
    pub author: Option<String>,
    /// What the history says made it. Default: the command of the tool that does it, `plywood commit` for one.
    pub created_by: Option<String>,
    /// The time to record, in the config and in the new step of the history. Default: none, so that what is made of equal
    /// things is equal.
    pub created: Option<Timestamp>,
    /// Notes for its manifest, besides those that the manifest has of the image that it is made of. Of one name this one
    /// counts.
    pub annotations: BTreeMap<String, String>,
    /// How to store the layer. Default: not compressed, since compression is for transport.
    pub compression: Encoding,
    /// How to write the layer.
    pub pack: PackOptions,
}

impl NewImage {
    /// With this name.
    pub fn named(name: Reference) -> Self {
        Self { name: Some(name), ..Self::default() }
    }

    /// With one more change to the config.
    #[must_use]
    pub fn change(mut self, change: ConfigChange) -> Self {
        self.changes.push(change);
        self
    }

    /// With a note for the history.
    #[must_use]
    pub fn message(mut self, message: impl Into<String>) -> Self {
        self.message = Some(message.into());
        self
    }

    /// With an author.
    #[must_use]
    pub fn author(mut self, author: impl Into<String>) -> Self {
        self.author = Some(author.into());
        self
    }

    /// With the time to record.
    #[must_use]
    pub fn created(mut self, created: Timestamp) -> Self {
        self.created = Some(created);
        self
    }

    /// With one more note for its manifest.
    #[must_use]
    pub fn annotation(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.annotations.insert(name.into(), value.into());
        self
    }

    /// Its step in the history. `made_by` is what made it unless something else is said.
    pub(super) fn step(&self, made_by: &str) -> Result<History, StoreError> {
        Ok(History {
            created: self.created.map(time::format).transpose().map_err(StoreError::Time)?,
            created_by: Some(self.created_by.clone().unwrap_or_else(|| made_by.to_owned())),
            author: self.author.clone(),
            comment: self.message.clone(),
            ..History::default()
        })
    }

    /// Adds its notes to those of `manifest`.
    pub(super) fn annotate(&self, manifest: &mut Manifest) {
        manifest.annotations.extend(self.annotations.clone());
    }
}
