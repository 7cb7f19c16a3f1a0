//! Views of images without a record, or with one that cannot be read.
//!
//! A view holds nothing of its own, so one that nobody has mounted is taken away. One that is mounted goes on, and has its
//! record again if its image can be read: its name is the image's.

use super::{Outcome, Repair};
use crate::container::ContainerRecord;
use crate::driver::{self, RootState};
use crate::fs::{Kind, Lock, LockMode};
use crate::store::damage::{Chain, Damage};
use crate::store::error::StoreError;
use crate::store::names::Named;
use crate::store::records::RECORD;
use crate::store::view::shown_by;

impl Repair<'_> {
    pub(super) fn mend_views(&mut self, damages: &[Damage]) -> Result<(), StoreError> {
        for damage in damages {
            let Damage::View { id, is_mounted, error } = damage else { continue };
            let (outcome, message) = match is_mounted {
                false => {
                    self.drop_view(id)?;
                    (Outcome::Mended, "is taken away; the next mount of the image makes it again".to_owned())
                }
                true => match self.record_of_view(id)? {
                    Some(record) => {
                        self.write_view(&record)?;
                        (Outcome::Mended, "has its record again, from its image; it stays mounted".to_owned())
                    }
                    None => (Outcome::Kept, format!("stays as it is while it is mounted: {}", Chain(error))),
                },
            };
            self.say(outcome, "view", id.clone(), message, Vec::new());
        }
        Ok(())
    }

    fn lock_view(&self, id: &str) -> Result<Lock, StoreError> {
        let name = format!("view-{id}");
        Ok(Lock::acquire(&self.store.inner.layout.locks, &name, LockMode::Exclusive)?)
    }

    /// Whether nobody mended it meanwhile.
    fn is_damaged(&self, id: &str) -> bool {
        let inner = &self.store.inner;
        inner.known_in(&inner.layout.views, id).is_err_and(|error| error.is_damaged_record())
    }

    fn drop_view(&self, id: &str) -> Result<(), StoreError> {
        if self.options.dry_run {
            return Ok(());
        }
        let _lock = self.lock_view(id)?;
        let inner = &self.store.inner;
        if self.is_damaged(id) && !matches!(inner.view_state(id)?, RootState::Mounted(_)) {
            inner.take_view_away(id, self.operation)?;
        }
        Ok(())
    }

    /// What the record of a mounted view said, as far as that can be known.
    fn record_of_view(&self, id: &str) -> Result<Option<ContainerRecord>, StoreError> {
        let inner = &self.store.inner;
        let target = match shown_by(id).map(|manifest| inner.descriptor_of(&manifest)) {
            Some(Err(error)) if !error.is_damage() => return Err(error),
            Some(Ok(target)) => target,
            _ => return Ok(None),
        };
        let Some(image) = self.read_image(Named { target, names: Vec::new() })? else { return Ok(None) };
        let Some(dir) = inner.layout.views.find_dir(id)? else { return Ok(None) };
        let Some(driver) = driver::kind_of(&dir)? else { return Ok(None) };
        let stack = self.stack_of(image.diff_ids())?;
        Ok(Some(ContainerRecord::new(id.to_owned(), String::new(), image.record(), stack, driver)))
    }

    fn write_view(&self, record: &ContainerRecord) -> Result<(), StoreError> {
        if self.options.dry_run {
            return Ok(());
        }
        let _lock = self.lock_view(&record.id)?;
        let inner = &self.store.inner;
        match inner.layout.views.find_dir(&record.id)? {
            Some(dir) if self.is_damaged(&record.id) => {
                dir.put_aside(RECORD, Kind::File)?;
                inner.write_record(record, &dir, self.operation)
            }
            _ => Ok(()),
        }
    }
}
