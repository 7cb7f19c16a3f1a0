//! Hard links: which names are one inode, in the writable directory and in the layers below.
//!
//! A file that is as it was may still differ: it was linked to something else, or from it. That question comes up for
//! few files, so the maps that answer it are made when it does, by one walk over each side.

use std::collections::{BTreeSet, HashMap, HashSet};

use super::{Diff, DiffError, Shape};
use crate::fs::{Kind, Optional, Stat};
use crate::path::LayerPath;
use crate::stack::Found;

/// An inode: device and number.
pub(super) type Key = (u64, u64);

type Names = BTreeSet<LayerPath>;

/// The inode, if it may have several names.
pub(super) fn key(stat: &Stat) -> Option<Key> {
    (stat.links > 1 && stat.kind != Kind::Directory).then_some((stat.device, stat.inode))
}

/// The names of every inode that has several.
#[derive(Default)]
pub(super) struct Groups {
    here: Option<Here>,
    /// By the tree of the stack that they are in.
    below: Option<HashMap<(usize, Key), Names>>,
}

#[derive(Default)]
struct Here {
    names: HashMap<Key, Names>,
    /// Those with a name in a directory that is not the one copied there.
    moved: HashSet<Key>,
}

impl Groups {
    /// Whether one of the inode's names is in a directory that was not copied to that place.
    pub(super) fn moved(&mut self, diff: &Diff<'_>, key: Key) -> Result<bool, DiffError> {
        Ok(self.here(diff)?.moved.contains(&key))
    }

    /// Whether `path`, which is as it was below in every other respect, would be linked to the same names as now if no
    /// event said anything about it.
    pub(super) fn same(
        &mut self,
        diff: &Diff<'_>,
        path: &LayerPath,
        stat: &Stat,
        below: &Found,
    ) -> Result<bool, DiffError> {
        let (here, old) = (key(stat), key(&below.stat));
        if here.is_none() && old.is_none() {
            return Ok(true);
        }
        let alone = Names::from([path.clone()]);
        let here = match here {
            Some(key) => self.here(diff)?.names.get(&key).unwrap_or(&alone).clone(),
            None => alone.clone(),
        };
        let old = match old {
            Some(key) => self.below(diff)?.get(&(below.tree(), key)).unwrap_or(&alone),
            None => &alone,
        };
        if !here.is_subset(old) {
            return Ok(false);
        }
        // What is not linked to it any more must be an event of its own, or they would stay together.
        for other in old.difference(&here) {
            if diff.is_left_alone(other)? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    fn here(&mut self, diff: &Diff<'_>) -> Result<&Here, DiffError> {
        if self.here.is_none() {
            self.here = Some(Here::read(diff)?);
        }
        Ok(self.here.get_or_insert_default())
    }

    fn below(&mut self, diff: &Diff<'_>) -> Result<&HashMap<(usize, Key), Names>, DiffError> {
        if self.below.is_none() {
            let mut names: HashMap<_, Names> = HashMap::new();
            diff.below.walk::<DiffError>(&mut |path, found| {
                if let Some(key) = key(&found.stat)
                    && !diff.selection.excludes(path)
                {
                    names.entry((found.tree(), key)).or_default().insert(path.clone());
                }
                Ok(())
            })?;
            self.below = Some(names);
        }
        Ok(self.below.get_or_insert_default())
    }
}

impl Here {
    fn read(diff: &Diff<'_>) -> Result<Self, DiffError> {
        let mut here = Self::default();
        let mut directories = vec![(LayerPath::ROOT, diff.root()?.stat)];
        while let Some((path, stat)) = directories.pop() {
            let moved = matches!(diff.shape, Shape::Copied(record) if !record.has(&path, &stat));
            let names = match diff.moved(&path)? {
                Some(found) => diff.names_moved(&path, &found)?,
                None => match diff.tree().dir.open_dir(path.as_path()).optional()? {
                    Some(dir) => super::listing::names(&path, &dir)?,
                    None => continue,
                },
            };
            for (_, path, stat) in names {
                if diff.excludes(&path) {
                    continue;
                }
                if stat.kind == Kind::Directory {
                    directories.push((path, stat));
                } else if let Some(key) = key(&stat) {
                    here.names.entry(key).or_default().insert(path);
                    if moved {
                        here.moved.insert(key);
                    }
                }
            }
        }
        Ok(here)
    }
}

impl Diff<'_> {
    /// Whether `path` is not deleted, and by its own content and metadata no event.
    fn is_left_alone(&self, path: &LayerPath) -> Result<bool, DiffError> {
        let (Some(now), Some(below)) = (self.view.lookup(path)?, self.below.lookup(path)?) else {
            return Ok(false);
        };
        if matches!(self.shape, Shape::Upper) && !now.includes(0) && !now.is_moved() {
            return Ok(true);
        }
        let place = self.place(path);
        match self.object(path, place)? {
            Some(object) => self.is_same(path, place, &object, &below),
            None => Ok(false),
        }
    }
}
