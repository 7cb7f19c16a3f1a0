//! Hard links whose target had not come yet when they did: to later entries, and to files of the layers below.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use super::entries::{Unpacker, refused};
use super::error::UnpackError;
use super::place::{Of, Waiting};
use super::{Below, BelowLink};
use crate::fs::{Context, FileType, copy_content};
use crate::path::LayerPath;
use crate::stack::object;

/// What became of a waiting link.
enum Outcome {
    Made,
    /// Its target is another waiting link.
    After(LayerPath),
    /// Its target is not in this layer; this is where it would be.
    NotHere(Option<LayerPath>),
}

impl Unpacker<'_> {
    /// Makes every waiting link whose target can be found. Returns those whose target can only be below, when nothing is
    /// known of that.
    pub(super) fn make_waiting_links(&mut self) -> Result<Vec<BelowLink>, UnpackError> {
        let mut below_links = Vec::new();
        // Files of the layers below that were taken into this layer, by inode: all their names become one file again.
        let mut copied: BTreeMap<(u64, u64), LayerPath> = BTreeMap::new();
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
                match self.try_link(of, &link)? {
                    Outcome::Made => drop(chain.pop()),
                    Outcome::After(next) => {
                        if !in_chain.insert(path.clone()) {
                            return Err(refused(of, &link.target, "is a circle of links"));
                        }
                        chain.push(next);
                    }
                    Outcome::NotHere(found) => {
                        chain.pop();
                        match self.places.below {
                            None => {
                                below_links.push(BelowLink { path: path.clone(), target: link.target });
                                self.places.waiting.remove(&path);
                            }
                            Some(below) => {
                                let found = found.filter(|found| !self.places.hides(found));
                                let Some(found) = found else {
                                    return Err(refused(of, &link.target, "does not exist"));
                                };
                                self.copy_up(of, &link.target, &found, below, &mut copied)?;
                                self.link(of, &link.target, &found, &path)?;
                            }
                        }
                    }
                }
            }
        }
        Ok(below_links)
    }

    fn try_link(&mut self, of: Of<'_>, link: &Waiting) -> Result<Outcome, UnpackError> {
        let Some(found) = self.places.locate(&link.target, of)? else { return Ok(Outcome::NotHere(None)) };
        if found == *of.path {
            return Err(refused(of, &link.target, "is the link itself"));
        }
        if self.places.waiting.contains_key(&found) {
            return Ok(Outcome::After(found));
        }
        match self.link(of, &link.target, &found, of.path)? {
            true => Ok(Outcome::Made),
            false => Ok(Outcome::NotHere(Some(found))),
        }
    }

    /// Takes the file `found` of the layers below into this layer.
    fn copy_up(
        &mut self,
        of: Of<'_>,
        target: &LayerPath,
        found: &LayerPath,
        below: &Below<'_>,
        copied: &mut BTreeMap<(u64, u64), LayerPath>,
    ) -> Result<(), UnpackError> {
        let Some(lower) = below.stack.lookup(found)? else {
            return Err(refused(of, target, "does not exist"));
        };
        if lower.is_directory() {
            return Err(refused(of, target, "is a directory"));
        }
        let inode = (lower.stat.device, lower.stat.inode);
        if let Some(copy) = copied.get(&inode).cloned() {
            self.link(of, target, &copy, found)?;
            return Ok(());
        }
        let parent = found.parent().unwrap_or_default();
        let place = self.places.directory(&parent, of)?;
        let name = Path::new(OsStr::from_bytes(found.file_name().unwrap_or(b".")));
        let object = below.stack.object(found, &lower)?;
        match object.file_type {
            FileType::File { size } => {
                let file = place.dir.create_file(name, 0o600)?;
                let source = below.stack.open(found, &lower)?;
                copy_content(&source, &file, size).at("copy to", place.dir.path_of(name))?;
                self.data_bytes += size.min(lower.stat.allocated);
            }
            ref other => object::create(&place.dir, name, other)?,
        }
        self.set_metadata(&place.dir, name, &object.file_type, &object.metadata, found)?;
        copied.insert(inode, found.clone());
        Ok(())
    }
}
