//! [`Containers`]: all containers that there are, the damaged ones apart; and removing one of those.
//!
//! A container is damaged if nobody can tell what it is: `container.json` is missing or cannot be read. What it wrote is
//! not touched for that, and nothing of it goes without being asked for.

use std::ops::Deref;

use super::container::{Container, RemoveContainer};
use super::error::StoreError;
use super::records::is_id;
use super::{Inner, Store, hold};
use crate::container::{ContainerRecord, source_of};
use crate::driver::{self, RootState};
use crate::fs::{Kind, Lock, LockMode, Optional};

/// The containers of a store, in the order of their names. Reads as a slice.
#[derive(Debug, Default)]
pub struct Containers {
    list: Vec<Container>,
    damaged: Vec<DamagedContainer>,
}

/// A container whose record is missing or cannot be read, so that nothing more is known of it. [`Store::repair`] may mend
/// it.
#[derive(Debug)]
#[non_exhaustive]
pub struct DamagedContainer {
    /// Its id.
    pub id: String,
    /// Its name, if one leads to it.
    pub name: Option<String>,
    /// What is wrong.
    pub error: StoreError,
}

impl Containers {
    /// Those whose record cannot be read. They are in the way of no other, but for [`Store::gc`], which cannot know what they
    /// need.
    pub fn damaged(&self) -> &[DamagedContainer] {
        &self.damaged
    }
}

impl Deref for Containers {
    type Target = [Container];

    fn deref(&self) -> &[Container] {
        &self.list
    }
}

impl IntoIterator for Containers {
    type Item = Container;
    type IntoIter = std::vec::IntoIter<Container>;

    fn into_iter(self) -> Self::IntoIter {
        self.list.into_iter()
    }
}

impl<'a> IntoIterator for &'a Containers {
    type Item = &'a Container;
    type IntoIter = std::slice::Iter<'a, Container>;

    fn into_iter(self) -> Self::IntoIter {
        self.list.iter()
    }
}

impl Store {
    /// All containers.
    ///
    /// # Errors
    ///
    /// [`StoreError`] if they cannot be listed. One that is damaged is in the way of no other.
    pub fn containers(&self) -> Result<Containers, StoreError> {
        let (mut records, damaged) = self.inner.sorted_containers()?;
        records.sort_by(|one, other| one.name.cmp(&other.name));
        let list = records.into_iter().map(|record| Container { store: self.clone(), record }).collect();
        Ok(Containers { list, damaged })
    }

    /// Removes a container whose record is missing or cannot be read, with everything it changed: by its id, the beginning of
    /// that, or a name that leads to it.
    ///
    /// # Errors
    ///
    /// [`StoreError::NotFound`] if no damaged container is meant, [`StoreError::Ambiguous`] if several are,
    /// [`StoreError::Mounted`] if it is mounted and [`StoreError::InUse`] if a process uses it, both unless forced: nothing of it is gone then. If something cannot be unlinked at
    /// the end, it is gone all the same and the next collection tries again.
    pub fn remove_damaged_container(&self, name: &str, how: RemoveContainer) -> Result<(), StoreError> {
        let inner = &self.inner;
        let (_, damaged) = inner.sorted_containers()?;
        let is_meant = |one: &DamagedContainer| {
            one.name.as_deref() == Some(name) || (!name.is_empty() && one.id.starts_with(name))
        };
        let mut meant = damaged.into_iter().filter(is_meant);
        let DamagedContainer { id, name: known_as, .. } = match (meant.next(), meant.next()) {
            (Some(one), None) => one,
            (Some(one), Some(other)) => {
                let candidates = [one.id, other.id].into_iter().chain(meant.map(|one| one.id)).collect();
                return Err(StoreError::Ambiguous { what: "container", name: name.to_owned(), candidates });
            }
            _ => return Err(StoreError::NotFound { what: "damaged container", name: name.to_owned() }),
        };
        let operation = inner.begin()?;
        let lock_name = format!("container-{id}");
        let _lock = Lock::acquire(&inner.layout.locks, &lock_name, LockMode::Exclusive)?;
        let dir = inner.layout.containers.open_dir(&id)?;
        if let (RemoveContainer::Refuse, RootState::Mounted(path)) =
            (how, driver::state(&source_of(&id), &dir)?)
        {
            return Err(StoreError::Mounted { container: known_as.unwrap_or(id), path });
        }
        if how == RemoveContainer::Refuse {
            hold::refuse_if_held(known_as.as_deref().unwrap_or(&id), None, &dir)?;
        }
        driver::abandon_root(&source_of(&id), &dir)?;
        {
            let _name = known_as.as_deref().map(|name| inner.lock_name(name)).transpose()?;
            operation.workspace().discard(&inner.layout.containers, &id)?;
            inner.sync(&inner.layout.containers)?;
            if let Some(name) = known_as {
                inner.layout.names.remove_file(name).optional()?;
            }
        }
        inner.layout.locks.remove_file(lock_name).optional()?;
        Ok(operation.end()?)
    }
}

impl Inner {
    /// The records of all containers that can be read, and those that cannot.
    pub(super) fn sorted_containers(
        &self,
    ) -> Result<(Vec<ContainerRecord>, Vec<DamagedContainer>), StoreError> {
        let (mut records, mut damaged) = (Vec::new(), Vec::new());
        for entry in self.layout.containers.names()? {
            let Some(id) = str::from_utf8(&entry.name).ok().filter(|id| is_id(id)) else { continue };
            if !self.layout.containers.is_of_kind(&entry, Kind::Directory)? {
                continue;
            }
            match self.known_container(id) {
                Ok(Some(record)) => records.push(record),
                Ok(None) => {}
                Err(error) if error.is_damaged_record() => {
                    damaged.push(DamagedContainer { id: id.to_owned(), name: None, error });
                }
                Err(error) => return Err(error),
            }
        }
        if !damaged.is_empty() {
            for (name, id) in self.names_of_containers()? {
                for one in damaged.iter_mut().filter(|one| one.name.is_none() && one.id == id) {
                    one.name = Some(name.clone());
                }
            }
        }
        Ok((records, damaged))
    }

    /// The record of the container whose whole id is `id`; `None` if there is no such container, while one without a record
    /// is an error.
    pub(super) fn known_container(&self, id: &str) -> Result<Option<ContainerRecord>, StoreError> {
        self.known_in(&self.layout.containers, id)
    }

    /// What `names/` says, be it true or not: names and ids.
    pub(super) fn names_of_containers(&self) -> Result<Vec<(String, String)>, StoreError> {
        let mut found = Vec::new();
        for entry in self.layout.names.names()? {
            let Ok(name) = String::from_utf8(entry.name) else { continue };
            let id = self.layout.names.find_content(&name, 4096).fitting()?.flatten();
            let Some(id) = id else { continue };
            if let Some(id) = String::from_utf8(id).ok().filter(|id| is_id(id)) {
                found.push((name, id));
            }
        }
        Ok(found)
    }
}
