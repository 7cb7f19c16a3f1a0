//! The records of containers on disk, and the names that lead to them.
//!
//! A name counts only if the container that it leads to says the same, so a name left by a crash is no name. From one in
//! the making it is told by its lock: the file of a name is locked by whoever gives or takes that name, from before it is
//! there and until the container says the same or is gone. So nobody waits for anybody who wants another name.

use std::io::Write;

use super::Inner;
use super::error::StoreError;
use super::operation::Operation;
use crate::container::ContainerRecord;
use crate::fs::{Context, Dir, Durability, Kind, Lock, Optional};

pub(super) const RECORD: &str = "container.json";
/// Bytes of a record at most: room for a megabyte of labels and more.
const LONGEST_RECORD: u64 = 64 << 20;

impl Inner {
    /// Gives `name` to the container `id`, which says so before the lock that is returned is dropped.
    pub(super) fn reserve_name(
        &self,
        name: &str,
        id: &str,
        operation: &Operation,
    ) -> Result<Lock, StoreError> {
        let (names, durability) = (&self.layout.names, self.options.durability);
        let refuse_if_used = || match self.container_named(name)? {
            Some(other) => Err(StoreError::NameInUse { name: name.to_owned(), id: other.id }),
            None => Ok(()),
        };
        let mut staged = operation.workspace().file()?;
        let path = staged.path();
        staged.file().write_all(id.as_bytes()).at("write", &path)?;
        let reserved = Lock::of_new(staged.file()).at("lock", &path)?;
        while let Some(refused) = staged.publish_new(names, name, durability)? {
            refuse_if_used()?;
            names.put_aside(name, Kind::File)?;
            // Somebody is about to use it or to give it up, or died before that.
            if let Some(_before) = self.lock_name(name)? {
                refuse_if_used()?;
                refused.publish(names, name, durability)?;
                break;
            }
            staged = refused;
        }
        self.sync(names)?;
        Ok(reserved)
    }

    /// Excludes everybody else who gives or takes `name`; `None` if there is no such name.
    pub(super) fn lock_name(&self, name: &str) -> Result<Option<Lock>, StoreError> {
        Ok(Lock::acquire_present(&self.layout.names, name)?)
    }

    /// Writes the record of a container that nobody sees yet into its directory `dir`.
    pub(super) fn write_new_record(&self, record: &ContainerRecord, dir: &Dir) -> Result<(), StoreError> {
        let fault = |source| StoreError::Record { path: dir.path_of(RECORD), source };
        let bytes = serde_json::to_vec(record).map_err(fault)?;
        let mut file = dir.make_file(RECORD, 0o644)?;
        file.write_all(&bytes).at_path("write", || dir.path_of(RECORD))?;
        if self.options.durability == Durability::Full {
            file.sync_all().at_path("sync", || dir.path_of(RECORD))?;
            dir.sync()?;
        }
        Ok(())
    }

    /// Replaces the record of a container in `dir`.
    pub(super) fn write_record(
        &self,
        record: &ContainerRecord,
        dir: &Dir,
        operation: &Operation,
    ) -> Result<(), StoreError> {
        let fault = |source| StoreError::Record { path: dir.path_of(RECORD), source };
        let bytes = serde_json::to_vec(record).map_err(fault)?;
        Ok(operation.workspace().replace(&bytes, dir, RECORD, self.options.durability)?)
    }

    /// The records of all containers; an error if one cannot be read.
    pub(super) fn container_records(&self) -> Result<Vec<ContainerRecord>, StoreError> {
        let (records, damaged) = self.sorted_containers()?;
        match damaged.into_iter().next() {
            Some(damaged) => Err(damaged.error),
            None => Ok(records),
        }
    }

    /// The record of the container or view in `dir` whose whole id is `id`.
    pub(super) fn record_in(&self, dir: &Dir, id: &str) -> Result<Option<ContainerRecord>, StoreError> {
        let path = format!("{id}/{RECORD}");
        let bytes = match dir.find_content(&path, LONGEST_RECORD) {
            // What is no directory is none of ours, whatever it is called.
            Err(error) if error.is_other_kind() && dir.find_dir(id).fitting()?.flatten().is_none() => None,
            found => found?,
        };
        let Some(bytes) = bytes else { return Ok(None) };
        let fault = |source| StoreError::Record { path: dir.path_of(&path), source };
        serde_json::from_slice(&bytes).map(Some).map_err(fault)
    }

    /// The same; `None` if there is no such container or view, while one without a record, or with that of another, is an
    /// error.
    pub(super) fn known_in(&self, dir: &Dir, id: &str) -> Result<Option<ContainerRecord>, StoreError> {
        match self.record_in(dir, id)? {
            Some(record) if record.id == id => Ok(Some(record)),
            Some(record) => {
                Err(StoreError::ForeignRecord { path: dir.path_of(id).join(RECORD), found: record.id })
            }
            // They come and go with their records, so this is another thing than one that was removed just now.
            None if dir.find(id)?.is_some_and(|there| there.kind == Kind::Directory) => {
                Err(StoreError::RecordMissing { path: dir.path_of(id).join(RECORD) })
            }
            None => Ok(None),
        }
    }

    /// The record of the container whose whole id is `id`.
    pub(super) fn container_with_id(&self, id: &str) -> Result<Option<ContainerRecord>, StoreError> {
        self.record_in(&self.layout.containers, id)
    }

    /// The record of the container that is called `name`.
    pub(super) fn container_named(&self, name: &str) -> Result<Option<ContainerRecord>, StoreError> {
        if check_name(name).is_err() {
            return Ok(None);
        }
        let id = self.layout.names.find_content(name, 4096).fitting()?.flatten();
        let Some(id) = id else { return Ok(None) };
        let Some(id) = std::str::from_utf8(&id).ok().filter(|id| is_id(id)) else { return Ok(None) };
        Ok(self.container_with_id(id)?.filter(|record| record.name == name))
    }

    /// The record of the one container whose id begins with `prefix`.
    pub(super) fn container_by_id(&self, prefix: &str) -> Result<Option<ContainerRecord>, StoreError> {
        if prefix.is_empty() || !prefix.bytes().all(|digit| digit.is_ascii_hexdigit()) {
            return Ok(None);
        }
        let entries = self.layout.containers.names()?;
        let mut ids = Vec::new();
        for entry in &entries {
            let id = str::from_utf8(&entry.name).ok().filter(|id| id.starts_with(prefix));
            if let Some(id) = id
                && self.layout.containers.is_of_kind(entry, Kind::Directory)?
            {
                ids.push(id);
            }
        }
        match ids[..] {
            [] => Ok(None),
            [id] => self.known_container(id),
            _ => {
                let candidates = ids.iter().map(|id| (*id).to_owned()).collect();
                Err(StoreError::Ambiguous { what: "container", name: prefix.to_owned(), candidates })
            }
        }
    }
}

/// Whether `text` can be the id of a container.
pub(super) fn is_id(text: &str) -> bool {
    text.len() == 64 && text.bytes().all(|digit| matches!(digit, b'0'..=b'9' | b'a'..=b'f'))
}

/// Docker's rule for names of containers.
pub(super) fn check_name(name: &str) -> Result<(), StoreError> {
    let refuse = |reason| Err(StoreError::InvalidName { name: name.to_owned(), reason });
    let is_inner = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'.' | b'-');
    match name.as_bytes() {
        [] | [_] => refuse("it must have two characters at least"),
        [first, ..] if !first.is_ascii_alphanumeric() => refuse("it must begin with a letter or a digit"),
        bytes if bytes.len() > 200 => refuse("it is longer than 200 bytes"),
        bytes if !bytes.iter().copied().all(is_inner) => {
            refuse("only letters, digits, _, . and - may be in it")
        }
        _ if is_id(name) => refuse("it looks like an id"),
        _ => Ok(()),
    }
}
