//! Containers: their records, what their drivers know of them, and the names that lead to them.
//!
//! A record that cannot be read is pieced together from what is left of it, from the name that leads to it and from what
//! lies beside it, and only if what comes of that can be verified: the image is there, and its layers are those of the
//! image. Otherwise the container stays as it is, with what was written in it.

use std::collections::BTreeMap;

use super::{Outcome, Repair};
use crate::container::{ContainerRecord, ImageRecord, source_of};
use crate::digest::{ChainId, DiffId};
use crate::driver::{self, MendedRecord};
use crate::fs::{Dir, Kind, Lock, LockMode, Optional};
use crate::layer::{Abilities, LayerKey};
use crate::store::Image;
use crate::store::containers::DamagedContainer;
use crate::store::damage::Damage;
use crate::store::error::StoreError;
use crate::store::names::Named;
use crate::store::records::{RECORD, check_name};
use crate::text::salvage;
use crate::whiteout::Namespace;

/// What a damaged record is kept as, beside the one that takes its place.
const DAMAGED: &str = "container.json.damaged";

/// Containers whose record cannot be read.
pub(super) struct PlannedContainers {
    pieced: Vec<ContainerRecord>,
    beyond: Vec<(DamagedContainer, String)>,
}

impl PlannedContainers {
    pub(super) fn records(&self) -> Vec<ContainerRecord> {
        self.pieced.clone()
    }
}

impl Repair<'_> {
    pub(super) fn plan_containers(&self, images: &[Named]) -> Result<PlannedContainers, StoreError> {
        let (readable, damaged) = self.store.inner.sorted_containers()?;
        let mut planned = PlannedContainers { pieced: Vec::new(), beyond: Vec::new() };
        if damaged.is_empty() {
            return Ok(planned);
        }
        let mut known = Vec::new();
        for named in images {
            known.extend(self.read_image(named.clone())?);
        }
        for record in &readable {
            let named = Named { target: record.image.target.clone(), names: Vec::new() };
            known.extend(self.read_image(named)?);
        }
        let mut taken: BTreeMap<String, String> =
            readable.into_iter().map(|record| (record.name, record.id)).collect();
        for one in damaged {
            match self.piece_together(&one, &known)? {
                Ok(mut record) => {
                    if check_name(&record.name).is_err() || taken.contains_key(&record.name) {
                        record.name = one.id[..12].to_owned();
                    }
                    taken.insert(record.name.clone(), record.id.clone());
                    planned.pieced.push(record);
                }
                Err(lacking) => planned.beyond.push((one, lacking)),
            }
        }
        Ok(planned)
    }

    pub(super) fn read_image(&self, named: Named) -> Result<Option<Image>, StoreError> {
        match self.store.inner.image(named) {
            Ok(image) => Ok(Some(image)),
            Err(error) if error.is_damage() => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// The record of a container, as far as it can be known; otherwise what is lacking.
    fn piece_together(
        &self,
        damaged: &DamagedContainer,
        known: &[Image],
    ) -> Result<Result<ContainerRecord, String>, StoreError> {
        let inner = &self.store.inner;
        let dir = inner.layout.containers.open_dir(&damaged.id)?;
        // Of what is no file at all nothing can be read.
        let left = dir.find_content(RECORD, 64 << 20).unwrap_or_default().unwrap_or_default();
        let image = match self.image_of(&left, known)? {
            Some(image) => image,
            None => {
                return Ok(Err("what is left of its record does not say of which image it is".to_owned()));
            }
        };
        let driver = match salvage(&left, "driver") {
            Some(driver) => Some(driver),
            None => driver::kind_of(&dir)?,
        };
        let Some(driver) = driver else { return Ok(Err("it does not show which driver made it".to_owned())) };
        let candidates = image.layer_keys();
        let stack = salvage::<Vec<LayerKey>>(&left, "stack");
        let stack = stack.filter(|stack| {
            stack.len() == image.diff_ids().len() && stack.iter().all(|key| candidates.contains(key))
        });
        let stack = match stack {
            Some(stack) => stack,
            None => self.stack_of(image.diff_ids())?,
        };
        let name = damaged.name.clone().or_else(|| salvage(&left, "name"));
        let name = name.unwrap_or_else(|| damaged.id[..12].to_owned());
        let of = salvage::<ImageRecord>(&left, "image").filter(|of| of.id == image.id());
        let of = of.unwrap_or_else(|| image.record());
        let mut record = ContainerRecord::new(damaged.id.clone(), name, of, stack, driver);
        record.labels = salvage(&left, "labels").unwrap_or_default();
        record.metadata = salvage(&left, "metadata").unwrap_or_default();
        record.created = salvage(&left, "created");
        Ok(Ok(record))
    }

    /// The image that is named in what is left of a record.
    fn image_of(&self, left: &[u8], known: &[Image]) -> Result<Option<Image>, StoreError> {
        if let Some(record) = salvage::<ImageRecord>(left, "image")
            && let Some(image) = self.read_image(Named { target: record.target, names: Vec::new() })?
            && image.id() == record.id
        {
            return Ok(Some(image));
        }
        let text = String::from_utf8_lossy(left);
        let mut meant = known.iter().filter(|image| text.contains(&image.manifest_digest().to_string()));
        Ok(meant.next().cloned())
    }

    /// The layers of an image as they would be stacked.
    pub(super) fn stack_of(&self, layers: &[DiffId]) -> Result<Vec<LayerKey>, StoreError> {
        let mut chain: Option<ChainId> = None;
        let mut keys = Vec::with_capacity(layers.len());
        for &layer in layers {
            let top = chain.map_or_else(|| ChainId::base(layer), |below| below.with(layer));
            chain = Some(top);
            let bound = LayerKey::Bound(top);
            keys.push(if self.store.inner.layers.has(bound)? { bound } else { LayerKey::Free(layer) });
        }
        Ok(keys)
    }

    pub(super) fn mend_containers(
        &mut self,
        planned: PlannedContainers,
        damages: &[Damage],
    ) -> Result<(), StoreError> {
        for (DamagedContainer { id, name, error }, lacking) in planned.beyond {
            let name = name.map_or_else(String::new, |name| format!("({name}) "));
            let message = format!(
                "{name}stays as it is, with what was written in it: {error}, and {lacking}; `rm --force` removes it"
            );
            self.say(Outcome::Kept, "container", id, message, Vec::new());
        }
        for record in planned.pieced {
            self.mend_record(record)?;
        }
        for damage in damages {
            match damage {
                Damage::ContainerName { id, name, found } => self.mend_name(id, name, found.as_deref())?,
                Damage::Container { id, error, .. } if !error.is_damaged_record() || is_of_root(error) => {
                    self.mend_root(id, error)?;
                }
                _ => {}
            }
        }
        Ok(())
    }

    fn lock_container(&self, id: &str) -> Result<Lock, StoreError> {
        let name = format!("container-{id}");
        Ok(Lock::acquire(&self.store.inner.layout.locks, &name, LockMode::Exclusive)?)
    }

    /// Writes a record that was pieced together, keeps what was left of the old one, and gives the name.
    fn mend_record(&mut self, record: ContainerRecord) -> Result<(), StoreError> {
        let inner = &self.store.inner;
        let mut has_root = true;
        if let Some(dir) = inner.layout.containers.find_dir(&record.id)? {
            has_root = inner.driver(record.driver)?.writable(&dir).is_ok();
            if !self.options.dry_run {
                let _lock = self.lock_container(&record.id)?;
                if inner.known_container(&record.id).is_err_and(|error| error.is_damaged_record()) {
                    dir.put_aside(RECORD, Kind::File)?;
                    keep(&dir, RECORD, DAMAGED)?;
                    inner.forget_all_containers()?;
                    inner.write_record(&record, &dir, self.operation)?;
                }
                self.give_name(&record.name, &record.id)?;
            }
        }
        let message = format!(
            "({}) has its record again, from what was left of it and its image; what was left is kept as {DAMAGED}",
            record.name
        );
        let id = record.id.clone();
        self.say(Outcome::Mended, "container", id, message, Vec::new());
        if !has_root {
            self.mend_root_of(&record)?;
        }
        Ok(())
    }

    fn mend_name(&mut self, id: &str, name: &str, found: Option<&str>) -> Result<(), StoreError> {
        let inner = &self.store.inner;
        let other = match found {
            Some(found) => inner.container_named(name)?.filter(|other| other.id == found && other.id != id),
            None => None,
        };
        let Some(other) = other else {
            if !self.options.dry_run {
                self.give_name(name, id)?;
            }
            self.say(
                Outcome::Mended,
                "name",
                name.to_owned(),
                format!("leads to container {id} again"),
                Vec::new(),
            );
            return Ok(());
        };
        let new = id[..12].to_owned();
        if !self.options.dry_run {
            let _lock = self.lock_container(id)?;
            if let Some(mut record) = inner.container_with_id(id)?.filter(|record| record.name == name) {
                record.name.clone_from(&new);
                let _new = self.give_name(&new, id)?;
                inner.write_record(&record, &inner.layout.containers.open_dir(id)?, self.operation)?;
            }
        }
        let message = format!("is that of container {}; container {id} is called {new} now", other.id);
        self.say(Outcome::Mended, "name", name.to_owned(), message, Vec::new());
        Ok(())
    }

    /// Makes `name` lead to the container `id`, unless it does or truly leads to another. What is returned is held until the
    /// container says the same.
    fn give_name(&self, name: &str, id: &str) -> Result<Option<Lock>, StoreError> {
        let inner = &self.store.inner;
        match inner.layout.names.find_content(name, 4096) {
            Ok(Some(led_to)) if led_to == id.as_bytes() => return Ok(None),
            Ok(_) => {}
            // What is no file is put aside below.
            Err(error) if error.is_other_kind() => {}
            Err(error) => return Err(error.into()),
        }
        match inner.reserve_name(name, id, self.operation) {
            Ok(lock) => Ok(Some(lock)),
            Err(StoreError::NameInUse { .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Mends what the driver of a container knows of it.
    fn mend_root(&mut self, id: &str, error: &StoreError) -> Result<(), StoreError> {
        match self.store.inner.container_with_id(id)? {
            Some(record) if is_of_root(error) => self.mend_root_of(&record),
            Some(record) => {
                let message = format!("({}) stays as it is: {error}", record.name);
                self.say(Outcome::Kept, "container", id.to_owned(), message, Vec::new());
                Ok(())
            }
            None => Ok(()),
        }
    }

    fn mend_root_of(&mut self, record: &ContainerRecord) -> Result<(), StoreError> {
        let inner = &self.store.inner;
        let Some(dir) = inner.layout.containers.find_dir(&record.id)? else { return Ok(()) };
        let family = self.family(&record.stack)?;
        let id = &record.id;
        let source = source_of(id);
        let outcome = match self.options.dry_run {
            true => driver::mend_record(record.driver, &dir, &source, family, None),
            false => {
                let _lock = self.lock_container(id)?;
                let to = (self.operation.workspace(), inner.options.durability);
                driver::mend_record(record.driver, &dir, &source, family, Some(to))
            }
        };
        let outcome = match outcome? {
            MendedRecord::Written(message) => {
                (Outcome::Mended, format!("has its root.json again: {message}"))
            }
            MendedRecord::Left(reason) => {
                (Outcome::Kept, format!("({}) stays as it is: {reason}", record.name))
            }
        };
        self.say(outcome.0, "root", id.clone(), outcome.1, Vec::new());
        Ok(())
    }

    /// The family that a root on these layers obeys.
    fn family(&self, stack: &[LayerKey]) -> Result<Namespace, StoreError> {
        let layers = &self.store.inner.layers;
        for &key in stack {
            let found = layers.get_any(key)?;
            if let Some(family) = found.and_then(|layer| layer.record.families.single()) {
                return Ok(family);
            }
        }
        Ok(Abilities::probe(self.operation.workspace().dir())?.family)
    }
}

/// Whether this is about what a driver keeps, and not about the container's own record.
fn is_of_root(error: &StoreError) -> bool {
    use crate::driver::DriverError;
    match error {
        StoreError::Driver(DriverError::Record { .. }) => true,
        StoreError::Driver(DriverError::Io(error)) => error.path.ends_with("root.json"),
        _ => false,
    }
}

/// Gives the file `name` a second name, if it is there.
fn keep(dir: &Dir, name: &str, kept: &str) -> Result<(), StoreError> {
    if dir.find(name)?.is_some() {
        dir.remove_file(kept).optional()?;
        dir.hard_link(name, dir, kept)?;
    }
    Ok(())
}
