//! [`Unpacker`]: puts one entry after the other on disk; `files.rs` is about those that have content.
//!
//! Files, links and nodes are final when their entry has been read. Directories get their owner, mode, attributes and
//! time at the very end (`finish.rs`): until then they are private to this process, writable, and pass nothing on to
//! what is made in them.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::io::Read;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use super::content::Written;
use super::error::UnpackError;
use super::place::{Of, Places, Waiting};
use super::target::Target;
use super::writers::Outbox;
use super::{Below, HighestIds, Losses, UnpackOptions};
use crate::changeset::{Entry, EntryKind, Reader};
use crate::fs::{DeviceNumber, FileType, Kind, Metadata, Optional, Overflow, unique_name};
use crate::layer::{Abilities, Measure};
use crate::path::LayerPath;
use crate::stack::owner;

/// A layer on its way from the tar to the disk.
pub(super) struct Unpacker<'a, D: Target> {
    pub(super) places: Places<'a, D>,
    pub(super) abilities: Abilities,
    pub(super) options: &'a UnpackOptions<'a>,
    /// Whom files belong to on disk.
    pub(super) ids: owner::Ids,
    /// Metadata of the root, if the layer says so.
    pub(super) root: Option<Metadata>,
    pub(super) losses: Losses,
    pub(super) written: Written,
    pub(super) entries: u64,
    /// Names that are no directories, and the lengths of the files under them.
    pub(super) measure: Measure,
    pub(super) highest_ids: HighestIds,
    aside: Option<Aside<D>>,
    /// Copies of files that have as many names as the file system can count.
    pub(super) overflow: Overflow,
    /// Takes files that other threads are to write; `None` if there are no other threads.
    pub(super) outbox: Option<Outbox<'a>>,
}

/// Files that are kept for the sake of hard links and are no part of the layer by themselves. They lie in a directory of
/// the layer's root whose name no archive can guess, until the end.
pub(super) struct Aside<D> {
    name: String,
    pub(super) dir: D,
    /// What AUFS kept, by the name that links know it by.
    pub(super) files: BTreeMap<LayerPath, String>,
    /// Files of the layers below, by inode: all names that this layer links to one of them become one file again.
    pub(super) copies: BTreeMap<(u64, u64), String>,
}

impl<D> Aside<D> {
    /// A name that nothing in it has.
    pub(super) fn fresh(&self) -> String {
        (self.files.len() + self.copies.len()).to_string()
    }
}

impl<'a, D: Target> Unpacker<'a, D> {
    pub(super) fn new(
        into: &'a D,
        below: Option<&'a Below<'a>>,
        abilities: Abilities,
        options: &'a UnpackOptions<'a>,
        outbox: Option<Outbox<'a>>,
    ) -> Result<Self, UnpackError> {
        into.begin()?;
        Ok(Self {
            places: Places::new(into, below, &options.limits),
            abilities,
            options,
            ids: owner::Ids::of_process(),
            root: None,
            losses: Losses::new(options.losses),
            written: Written::default(),
            entries: 0,
            measure: Measure::default(),
            highest_ids: HighestIds::default(),
            aside: None,
            overflow: Overflow::default(),
            outbox,
        })
    }

    /// Puts all entries of `tar` in their places.
    pub(super) fn all<R: Read>(&mut self, tar: &mut Reader<R>) -> Result<(), UnpackError> {
        let read = self.read(tar);
        // Also after a failure: what was handed out came earlier in the tar, and if it fails it is the cause.
        if let Some(outbox) = &mut self.outbox {
            self.written += outbox.settle()?;
        }
        read
    }

    fn read<R: Read>(&mut self, tar: &mut Reader<R>) -> Result<(), UnpackError> {
        while let Some(entry) = tar.next_entry()? {
            if self.options.is_cancelled() {
                return Err(UnpackError::Cancelled);
            }
            self.entry(entry, tar)?;
        }
        Ok(())
    }

    /// Puts the entry that `tar` has just returned in its place, data included.
    fn entry<R: Read>(&mut self, mut entry: Entry, tar: &mut Reader<R>) -> Result<(), UnpackError> {
        self.entries += 1;
        self.options.xattrs.apply(&mut entry.metadata.xattrs);
        let Entry { path, kind, metadata, index } = entry;
        let of = Of { index, path: &path };
        // A link has none of its own, and a deletion has nobody's.
        if !matches!(kind, EntryKind::HardLink(_) | EntryKind::Whiteout | EntryKind::Opaque) {
            self.highest_ids.include(metadata.uid, metadata.gid);
        }
        let file_type = match kind {
            EntryKind::Directory => return self.directory(of, metadata),
            EntryKind::File { .. } => return self.file(of, &metadata, kind.size(), tar),
            EntryKind::AufsLink { size } => return self.set_aside(of, &metadata, size, tar),
            EntryKind::HardLink(target) => return self.hard_link(of, target),
            EntryKind::Opaque => return self.opaque(of),
            EntryKind::Whiteout => return self.whiteout(of),
            EntryKind::CharDevice(DeviceNumber::WHITEOUT) => {
                return Err(UnpackError::WhiteoutDevice { index, path });
            }
            EntryKind::CharDevice(device) | EntryKind::BlockDevice(device) if !device.is_possible() => {
                let DeviceNumber { major, minor } = device;
                return Err(UnpackError::Device { index, path, major, minor });
            }
            EntryKind::CharDevice(device) => FileType::CharDevice(device),
            EntryKind::BlockDevice(device) => FileType::BlockDevice(device),
            EntryKind::Fifo => FileType::Fifo,
            EntryKind::Symlink(target) => FileType::Symlink(target),
        };
        self.node(of, &file_type, &metadata)
    }

    fn directory(&mut self, of: Of<'_>, metadata: Metadata) -> Result<(), UnpackError> {
        if of.path.is_root() {
            self.root = Some(metadata);
            return Ok(());
        }
        let (parent, name) = split(of.path);
        let place = self.places.directory(&parent, of)?;
        let path = place.path.join(name);
        // Most directories are new, and asking the kernel costs less than searching the list.
        match place.dir.create_private_dir(OsStr::from_bytes(name)) {
            Ok(()) => self.places.take_over(&path),
            Err(error) if !error.is_exists() => return Err(error.into()),
            Err(_) if self.places.is_directory(&path) => {}
            Err(_) => self.places.make(&place.dir, &path, of)?,
        }
        self.places.know(path, Some(metadata), of)
    }

    fn node(&mut self, of: Of<'_>, file_type: &FileType, metadata: &Metadata) -> Result<(), UnpackError> {
        let (parent, name) = split(of.path);
        let place = self.places.directory(&parent, of)?;
        let at = Path::new(OsStr::from_bytes(name));
        match place.dir.create(at, file_type) {
            Err(error) if error.is_exists() => {
                self.places.clear(&place.dir, &place.path.join(name))?;
                place.dir.create(at, file_type)?;
            }
            done => done?,
        }
        self.measure.names += 1;
        self.places.supersede(&place.path, name);
        self.set_metadata(&place.dir, at, file_type, metadata, of.path)
    }

    /// Sets what [`object::set_metadata`] sets, and keeps account of what cannot be.
    pub(super) fn set_metadata(
        &mut self,
        dir: &D,
        at: &Path,
        file_type: &FileType,
        metadata: &Metadata,
        path: &LayerPath,
    ) -> Result<(), UnpackError> {
        let losses = &mut self.losses;
        let mut lose = |loss| losses.add(loss);
        dir.set_metadata(at, file_type, metadata, self.abilities.style(), &mut lose, path)?;
        Ok(())
    }

    /// The place for what is kept aside.
    pub(super) fn aside(&mut self) -> Result<&mut Aside<D>, UnpackError> {
        if self.aside.is_none() {
            let name = format!(".{}", unique_name()?);
            let dir = self.places.root.ensure_dir(&name, 0o700)?;
            self.places.recount = true;
            self.aside = Some(Aside { name, dir, files: BTreeMap::new(), copies: BTreeMap::new() });
        }
        Ok(self.aside.as_mut().expect("it was just made"))
    }

    /// Removes what was kept aside.
    pub(super) fn remove_aside(&mut self) -> Result<(), UnpackError> {
        match self.aside.take() {
            Some(aside) => Ok(self.places.root.remove_all(&aside.name)?),
            None => Ok(()),
        }
    }

    fn hard_link(&mut self, of: Of<'_>, target: LayerPath) -> Result<(), UnpackError> {
        if of.path.is_root() {
            return Err(refused(of, &target, "cannot be the root"));
        }
        let (parent, name) = split(of.path);
        let place = self.places.directory(&parent, of)?;
        let path = place.path.join(name);
        self.places.forget_markers(&path);
        let aside = self.aside.as_ref().and_then(|aside| Some((aside.files.get(&target)?, &aside.dir)));
        if let Some((kept, dir)) = aside {
            let (kept, dir) = (kept.clone(), dir.try_clone()?);
            self.places.clear(&place.dir, &path)?;
            return self.add_name((&dir, OsStr::new(&kept)), &place, OsStr::from_bytes(name), &path);
        }
        let located = self.places.locate(&target, of)?;
        if located.as_ref() == Some(&path) {
            return Err(refused(of, &target, "is the link itself"));
        }
        match located {
            Some(found) if self.link(of, &target, &found, &path)? => {}
            // What a later entry puts there comes too late: the link is to what is there now.
            Some(found) if self.link_below(of, &target, &found, &path)? => {}
            _ => {
                self.places.clear(&place.dir, &path)?;
                self.places.remember(&path, of)?;
                self.places.remember(&target, of)?;
                self.places.waiting.insert(path, Waiting { index: of.index, target });
            }
        }
        Ok(())
    }

    /// Makes `path` another name of `found`, which `target` led to; `false` if this layer has no such file.
    pub(super) fn link(
        &mut self,
        of: Of<'_>,
        target: &LayerPath,
        found: &LayerPath,
        path: &LayerPath,
    ) -> Result<bool, UnpackError> {
        let Some((parent, name)) = found.parent().zip(found.file_name()) else {
            return Err(refused(of, target, "is a directory"));
        };
        if !self.places.is_directory(&parent) {
            return Ok(false);
        }
        let from = self.places.directory(&parent, of)?;
        match from.dir.stat(OsStr::from_bytes(name)).optional()? {
            None => return Ok(false),
            Some(stat) if stat.kind == Kind::Directory => {
                return Err(refused(of, target, "is a directory"));
            }
            Some(stat) => {
                self.measure.names += 1;
                self.measure.bytes += if stat.kind == Kind::File { stat.size } else { 0 };
            }
        }
        if found.starts_with(path) {
            return Err(refused(of, target, "lies below the link itself"));
        }
        let (into, link) = split(path);
        let place = self.places.directory(&into, of)?;
        let (name, link) = (OsStr::from_bytes(name), OsStr::from_bytes(link));
        match self.add_name((&from.dir, name), &place, link, path) {
            // Something of the same name came before; the link replaces it, also if it is the same file.
            Err(UnpackError::Io(error)) if error.is_exists() => {
                self.places.clear(&place.dir, path)?;
                self.add_name((&from.dir, name), &place, link, path)?;
            }
            done => done?,
        }
        self.places.waiting.remove(path);
        Ok(true)
    }
}

/// The refusal of a hard link.
pub(super) fn refused(of: Of<'_>, target: &LayerPath, reason: &'static str) -> UnpackError {
    UnpackError::Link { index: of.index, path: of.path.clone(), target: target.clone(), reason }
}

/// The directory that an entry other than the root is in, and its name there.
pub(super) fn split(path: &LayerPath) -> (LayerPath, &[u8]) {
    (path.parent().unwrap_or_default(), path.file_name().unwrap_or(b"."))
}
