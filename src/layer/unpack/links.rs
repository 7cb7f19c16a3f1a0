//! Hard links whose target had not come yet when they did: to later entries, and to files of the layers below.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use rustix::io::Errno;

use super::content::Written;
use super::entries::{Unpacker, refused, split};
use super::error::UnpackError;
use super::place::{Of, Place, Waiting};
use super::target::Target;
use super::{Below, BelowLink};
use crate::fs::{Dir, FileType};
use crate::layer::bind;
use crate::path::LayerPath;
use crate::stack::Found;
use crate::stack::object::{Loss, Lost};

/// What became of a waiting link.
enum Outcome {
    Made,
    /// Its target is another waiting link.
    After(LayerPath),
}

impl<D: Target> Unpacker<'_, D> {
    /// Makes every waiting link whose target can be found. Where nothing is known of the layers below, returns all that
    /// waited: those whose target is nowhere here can only mean a file below, and the others do if there is one.
    pub(super) fn make_waiting_links(&mut self) -> Result<Vec<BelowLink>, UnpackError> {
        let alone = self.places.below.is_none();
        let mut below_links = Vec::new();
        while let Some((path, _)) = self.places.waiting.first_key_value() {
            // Links that wait for each other are made from the last to the first.
            let mut chain = vec![path.clone()];
            let mut in_chain = BTreeSet::new();
            while let Some(path) = chain.last().cloned() {
                let Some(link) = self.places.waiting.get(&path).cloned() else {
                    chain.pop();
                    continue;
                };
                let of = Of { index: link.index, path: &path };
                match self.make_waiting_link(of, &link, &mut in_chain) {
                    Ok(Outcome::After(next)) => {
                        chain.push(next);
                        continue;
                    }
                    // With the layers below in sight it may be a link like any other.
                    Err(UnpackError::Link { .. }) if alone => {}
                    done => drop(done?),
                }
                self.places.waiting.remove(&path);
                if alone {
                    below_links.push(BelowLink { path, target: link.target });
                }
            }
        }
        Ok(below_links)
    }

    fn make_waiting_link(
        &mut self,
        of: Of<'_>,
        link: &Waiting,
        in_chain: &mut BTreeSet<LayerPath>,
    ) -> Result<Outcome, UnpackError> {
        let refuse = |reason| Err(refused(of, &link.target, reason));
        if let Some(found) = self.places.locate(&link.target, of)? {
            if found == *of.path {
                return refuse("is the link itself");
            }
            if self.places.waiting.contains_key(&found) {
                return match in_chain.insert(of.path.clone()) {
                    true => Ok(Outcome::After(found)),
                    false => refuse("is a circle of links"),
                };
            }
            if self.link(of, &link.target, &found, of.path)?
                || self.link_below(of, &link.target, &found, of.path)?
            {
                return Ok(Outcome::Made);
            }
        }
        match self.link_deleted(of, &link.target, of.path)? {
            true => Ok(Outcome::Made),
            false => refuse("does not exist"),
        }
    }

    /// Makes `path` a name of the file below that `target` leads to and that this layer deletes. Only the new names stay.
    fn link_deleted(
        &mut self,
        of: Of<'_>,
        target: &LayerPath,
        path: &LayerPath,
    ) -> Result<bool, UnpackError> {
        match self.places.locate_deleted(target, of)? {
            Some(found) if found != *path && self.places.is_deleted(&found) => {
                self.copy_up_and_link(of, target, &found, &[path])
            }
            _ => Ok(false),
        }
    }

    /// Makes `path` another name of the file `found` of the layers below. As `link(2)` in the mounted root does, this copies
    /// the file up under both names. Returns `false` if the layers below are not known or have no such file.
    pub(super) fn link_below(
        &mut self,
        of: Of<'_>,
        target: &LayerPath,
        found: &LayerPath,
        path: &LayerPath,
    ) -> Result<bool, UnpackError> {
        if self.places.is_deleted(found) {
            return Ok(false);
        }
        self.copy_up_and_link(of, target, found, &[found, path])
    }

    /// Copies the file `found` of the layers below into this layer, under `names`.
    fn copy_up_and_link(
        &mut self,
        of: Of<'_>,
        target: &LayerPath,
        found: &LayerPath,
        names: &[&LayerPath],
    ) -> Result<bool, UnpackError> {
        let Some(below) = self.places.below else { return Ok(false) };
        if self.places.waiting.contains_key(found) || self.places.deletions.replace(found) {
            return Ok(false);
        }
        let Some(lower) = below.stack.lookup(found)? else { return Ok(false) };
        if lower.is_directory() {
            return Err(refused(of, target, "is a directory"));
        }
        let inode = (lower.stat.device, lower.stat.inode);
        let aside = self.aside()?;
        let from = aside.dir.try_clone()?;
        let copy = match aside.copies.get(&inode) {
            Some(copy) => copy.clone(),
            None => {
                let copy = aside.fresh();
                aside.copies.insert(inode, copy.clone());
                self.copy_up(&from, &copy, found, &lower, below)?;
                copy
            }
        };
        for name in names {
            let (parent, base) = split(name);
            let place = self.places.directory(&parent, of)?;
            self.places.clear(&place.dir, &place.path.join(base))?;
            let path = place.path.join(base);
            self.add_name((&from, OsStr::new(&copy)), &place, OsStr::from_bytes(base), &path)?;
        }
        Ok(true)
    }

    /// Makes `name` in `place`, which is `path` in the layer, one more name of the file `from`.
    pub(super) fn add_name(
        &mut self,
        from: (&D, &OsStr),
        place: &Place<D>,
        name: &OsStr,
        path: &LayerPath,
    ) -> Result<(), UnpackError> {
        D::add_name(self, from, place, name, path)
    }

    /// Copies the file `found` of the layers below into `dir`, as `name`.
    fn copy_up(
        &mut self,
        dir: &D,
        name: &str,
        found: &LayerPath,
        lower: &Found,
        below: &Below<'_>,
    ) -> Result<(), UnpackError> {
        let object = below.stack.object(found, lower)?;
        match object.file_type {
            FileType::File { size } => {
                dir.copy(name, &below.stack.open(found, lower)?, size)?;
                self.written += Written::of(size.min(lower.stat.allocated));
            }
            ref other => dir.create(Path::new(name), other)?,
        }
        self.set_metadata(dir, Path::new(name), &object.file_type, &object.metadata, found)
    }
}

impl Unpacker<'_, Dir> {
    /// Makes `name` in `place`, which is `path` in the layer, one more name of the file `from`. A file that takes no more
    /// names gets a copy, which this name and the next ones share.
    pub(super) fn add_name_on_disk(
        &mut self,
        (dir, from): (&Dir, &OsStr),
        place: &Place<Dir>,
        name: &OsStr,
        path: &LayerPath,
    ) -> Result<(), UnpackError> {
        let source = match dir.hard_link(from, &place.dir, name) {
            Err(error) if error.errno() == Some(Errno::MLINK) => error,
            done => return Ok(done?),
        };
        // The content may still be on its way to the disk.
        if let Some(outbox) = &mut self.outbox {
            self.written += outbox.settle()?;
        }
        let stat = dir.stat(from)?;
        let losses = &mut self.losses;
        let at = Path::new(name);
        let copied = self.overflow.link(
            (stat.device, stat.inode),
            (self.places.root, path.as_path()),
            (&place.dir, at),
            || {
                bind::copy(
                    (dir, Path::new(from)),
                    (&place.dir, at),
                    &stat,
                    &mut |loss| losses.add(loss),
                    path,
                )
            },
        )?;
        if copied {
            self.losses.add(Loss { path: path.clone(), what: Lost::Link, source });
            self.written += Written::of(stat.size.min(stat.allocated));
        }
        Ok(())
    }
}
