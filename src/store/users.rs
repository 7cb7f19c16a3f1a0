//! Which containers were made of an image, without reading the record of every container.
//!
//! ```text
//! cache/containers    of each container: the manifest that it was made of
//! ```
//!
//! A container is of one image for as long as it lives, and no other ever gets its id, so what is kept of it stays true.
//! It says only which records need not be read: those of the containers that are asked for always are. Who writes a record
//! anew that was damaged makes all of it forgotten.

use std::fmt;

use super::Inner;
use super::error::StoreError;
use super::kept::FactName;
use super::records::is_id;
use crate::container::ContainerRecord;
use crate::digest::Digest;
use crate::fs::{Kind, Optional, Workspace};

const CONTAINERS: &str = "containers";

/// To read the records of as many containers costs less than to keep what they say.
const FEW: usize = 16;

/// The id of a container: hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
struct Id([u8; 64]);

impl Id {
    fn read(text: &str) -> Option<Self> {
        is_id(text).then(|| text.as_bytes().try_into().ok().map(Self))?
    }
}

impl FactName for Id {
    fn split_from(text: &str) -> Option<(Self, &str)> {
        let (id, rest) = text.split_at_checked(64)?;
        Some((Self::read(id)?, rest))
    }
}

impl fmt::Display for Id {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(str::from_utf8(&self.0).expect("digits are ASCII"))
    }
}

impl Inner {
    /// The records of the containers that were made of this manifest, in the order of their names, but for those that are
    /// damaged.
    pub(super) fn containers_of(&self, manifest: &Digest) -> Result<Vec<ContainerRecord>, StoreError> {
        let kept = self.kept(CONTAINERS);
        let mut facts = kept.facts::<Id>();
        let (mut found, mut new) = (Vec::new(), Vec::new());
        let containers = &self.layout.containers;
        for entry in containers.names()? {
            let Ok(name) = str::from_utf8(&entry.name) else { continue };
            let Some(id) = Id::read(name) else { continue };
            let known = facts.find(&id).and_then(|fact| fact.parse::<Digest>().ok());
            if known.is_some_and(|other| other != *manifest)
                || !containers.is_of_kind(&entry, Kind::Directory)?
            {
                continue;
            }
            let record = match self.known_container(name) {
                Ok(Some(record)) => record,
                // Removed just now.
                Ok(None) => continue,
                Err(error) if error.is_damaged_record() => continue,
                Err(error) => return Err(error),
            };
            if known.is_none() {
                new.push((id, record.image.target.digest.to_string()));
            }
            if record.image.target.digest == *manifest {
                found.push(record);
            }
        }
        if new.len() > FEW {
            self.keep_facts(CONTAINERS, &new);
        }
        found.sort_by(|one, other| one.name.cmp(&other.name));
        Ok(found)
    }

    /// Forgets of what the containers were made that are gone.
    pub(super) fn forget_containers(&self, workspace: &Workspace) -> Result<(), StoreError> {
        let there = self.layout.containers.names()?;
        self.forget_facts(CONTAINERS, workspace, |id: &Id| {
            there.binary_search_by(|entry| entry.name[..].cmp(&id.0)).is_ok()
        })
    }

    /// Forgets of what any container was made.
    pub(super) fn forget_all_containers(&self) -> Result<(), StoreError> {
        if let Some(cache) = self.cache().fitting()? {
            cache.remove_file(CONTAINERS).fitting()?;
        }
        Ok(())
    }
}
