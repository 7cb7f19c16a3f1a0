//! Regular files: created in the order of the tar, then filled and finished through their handle.
//!
//! Whether the name is free, what it was before and whose the file is, is settled when it is created. What is left after
//! that (data, mode, time) concerns the open file alone, wherever its name may lead by then: so other threads may do it
//! (`writers.rs`).

use std::ffi::OsStr;
use std::fs::File;
use std::io::Read;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use rustix::fs as sys;
use rustix::fs::{Gid, Mode, Uid};
use rustix::io::Errno;

use super::content::Content;
use super::entries::{Unpacker, split};
use super::error::UnpackError;
use super::place::{Of, Place};
use super::target::Target;
use crate::changeset::Reader;
use crate::fs::{Context, Dir, FileType, Metadata, Timestamp, both_times, path_of};

/// The bits of a mode that a file may have from the beginning; the others are taken away by what is done to it.
const PERMISSIONS: u32 = 0o777;

/// A file that was just created.
pub(super) struct New<'n, D: Target> {
    pub(super) file: D::File,
    pub(super) place: &'n Place<D>,
    /// Its name there.
    pub(super) name: &'n OsStr,
}

impl<D: Target> Unpacker<'_, D> {
    /// Puts a file in its place, with the data that `tar` is at.
    pub(super) fn file<R: Read>(
        &mut self,
        of: Of<'_>,
        metadata: &Metadata,
        size: u64,
        tar: &mut Reader<R>,
    ) -> Result<(), UnpackError> {
        let (parent, name) = split(of.path);
        let place = self.places.directory(&parent, of)?;
        let os_name = OsStr::from_bytes(name);
        let file = match place.dir.create_file(os_name, metadata.mode & PERMISSIONS) {
            Err(error) if error.is_exists() => {
                self.places.clear(&place.dir, &place.path.join(name))?;
                place.dir.create_file(os_name, metadata.mode & PERMISSIONS)?
            }
            file => file?,
        };
        self.measure.names += 1;
        self.measure.bytes += size;
        self.places.supersede(&place.path, name);
        D::fill(self, of, New { file, place: &place, name: os_name }, metadata, size, tar)
    }

    /// Puts a file where it is known for hard links only.
    pub(super) fn set_aside<R: Read>(
        &mut self,
        of: Of<'_>,
        metadata: &Metadata,
        size: u64,
        tar: &mut Reader<R>,
    ) -> Result<(), UnpackError> {
        self.places.remember(of.path, of)?;
        let aside = self.aside()?;
        let name = aside.fresh();
        aside.files.insert(of.path.clone(), name.clone());
        let place = Place::new(of.path.clone(), aside.dir.try_clone()?);
        let file = place.dir.create_file(&name, metadata.mode & PERMISSIONS)?;
        D::fill(self, of, New { file, place: &place, name: OsStr::new(&name) }, metadata, size, tar)
    }
}

impl Unpacker<'_, Dir> {
    /// Gives a file its data and its metadata, or sees to it that another thread does.
    pub(super) fn fill<R: Read>(
        &mut self,
        of: Of<'_>,
        new: New<'_, Dir>,
        metadata: &Metadata,
        size: u64,
        tar: &mut Reader<R>,
    ) -> Result<(), UnpackError> {
        match (self.own(&new, metadata)?, &mut self.outbox) {
            (Some(touch), Some(outbox)) if outbox.takes(size) => {
                outbox.put(of.index, new.file, touch, size, tar)
            }
            (Some(touch), _) => {
                self.write(&new.file, size, tar)?;
                Ok(touch.apply(&new.file)?)
            }
            (None, _) => {
                self.write(&new.file, size, tar)?;
                let file_type = FileType::File { size };
                self.set_metadata(&new.place.dir, Path::new(new.name), &file_type, metadata, of.path)
            }
        }
    }

    /// Gives a file its owner, and says what is left to do when its data is written; `None` if that takes more than mode
    /// and time.
    fn own(&self, new: &New<'_, Dir>, metadata: &Metadata) -> Result<Option<Touch>, UnpackError> {
        let New { file, place, .. } = new;
        let made = place.as_made(file, metadata.mode & PERMISSIONS).at_path("stat", || path_of(file))?;
        let readable = self.abilities.privileged || metadata.mode & 0o400 != 0;
        let Some(owner) = self.ids.on_disk(metadata.uid, metadata.gid) else { return Ok(None) };
        if !metadata.xattrs.is_empty() || !readable {
            return Ok(None);
        }
        if owner != made.owner {
            let (uid, gid) = (Uid::from_raw_unchecked(owner.0), Gid::from_raw_unchecked(owner.1));
            match sys::fchown(file, Some(uid), Some(gid)) {
                Err(Errno::PERM | Errno::INVAL) => return Ok(None),
                done => done.at_path("chown", || path_of(file))?,
            }
        }
        let mode = Some(metadata.mode).filter(|mode| *mode != made.mode);
        Ok(Some(Touch { mode, mtime: metadata.mtime }))
    }

    /// Writes the data of the entry that `tar` is at.
    fn write<R: Read>(&mut self, file: &File, size: u64, tar: &mut Reader<R>) -> Result<(), UnpackError> {
        let mut content = Content::new(file, size);
        while let Some(data) = tar.next_data()? {
            if self.options.is_cancelled() {
                return Err(UnpackError::Cancelled);
            }
            content.write(data).at_path("write", || path_of(file))?;
        }
        self.written += content.finish().at_path("write", || path_of(file))?;
        Ok(())
    }
}

/// What is left to do to a file when its data is written. Changing the owner clears setuid, and so does writing: the mode
/// comes after both. The time comes last.
pub(super) struct Touch {
    /// The mode, where it is not that which the file was created with.
    mode: Option<u32>,
    mtime: Timestamp,
}

impl Touch {
    pub(super) fn apply(&self, file: &File) -> crate::fs::Result<()> {
        if let Some(mode) = self.mode {
            sys::fchmod(file, Mode::from_raw_mode(mode)).at_path("chmod", || path_of(file))?;
        }
        sys::futimens(file, &both_times(self.mtime)).at_path("set time of", || path_of(file))
    }
}
