//! Hard links: which names are one inode, in the writable directory and in the layers below.
//!
//! A file that is as it was may still differ: it was linked to something else, or from it. That question comes up for
//! few files, so the maps that answer it are made when it does, by one walk over each side.

use std::collections::{BTreeSet, HashMap, HashSet};

use super::{Diff, DiffError, Shape};
use crate::fs::{Kind, Optional, Stat};
use crate::path::LayerPath;
use crate::stack::{Found, Stack};

/// An inode: the tree of the stack that it is in, device and number. One of several trees is another thing in each.
pub(super) type Inode = (usize, u64, u64);

type Names = BTreeSet<LayerPath>;

/// The inode in the tree at this position, if it may have several names.
pub(super) fn inode(tree: usize, stat: &Stat) -> Option<Inode> {
    (stat.links > 1 && stat.kind != Kind::Directory).then_some((tree, stat.device, stat.inode))
}

/// The names of every inode that has several.
#[derive(Default)]
pub(super) struct Groups {
    here: Option<Here>,
    below: Option<HashMap<Inode, Names>>,
}

#[derive(Default)]
struct Here {
    names: HashMap<Inode, Names>,
    /// Those with a name in a directory that is not the one copied there.
    moved: HashSet<Inode>,
}

impl Groups {
    /// Whether one of the inode's names is in a directory that was not copied to that place.
    pub(super) fn moved(&mut self, diff: &Diff<'_>, inode: Inode) -> Result<bool, DiffError> {
        Ok(self.here(diff)?.moved.contains(&inode))
    }

    /// Whether `path`, which is as it was below in every other respect, would be linked to the same names as now if no
    /// event said anything about it.
    pub(super) fn same(
        &mut self,
        diff: &Diff<'_>,
        path: &LayerPath,
        here: Option<Inode>,
        below: &Found,
    ) -> Result<bool, DiffError> {
        let old = inode(below.tree(), &below.stat);
        if here.is_none() && old.is_none() {
            return Ok(true);
        }
        let alone = Names::from([path.clone()]);
        let here = match here {
            Some(inode) => self.here(diff)?.names.get(&inode).unwrap_or(&alone).clone(),
            None => alone.clone(),
        };
        let old = match old {
            Some(inode) => self.below(diff)?.get(&inode).unwrap_or(&alone),
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

    fn below(&mut self, diff: &Diff<'_>) -> Result<&HashMap<Inode, Names>, DiffError> {
        if self.below.is_none() {
            self.below = Some(names_in(&diff.below, diff)?);
        }
        Ok(self.below.get_or_insert_default())
    }
}

/// The names that `stack` has for every inode that may have several.
fn names_in(stack: &Stack<'_>, diff: &Diff<'_>) -> Result<HashMap<Inode, Names>, DiffError> {
    let mut names: HashMap<_, Names> = HashMap::new();
    stack.walk::<DiffError>(&mut |path, found| {
        if let Some(inode) = inode(found.tree(), &found.stat)
            && !diff.selection.excludes(path)
        {
            names.entry(inode).or_default().insert(path.clone());
        }
        Ok(())
    })?;
    Ok(names)
}

impl Here {
    fn read(diff: &Diff<'_>) -> Result<Self, DiffError> {
        if let Shape::Layers(_) = diff.shape {
            return Ok(Self { names: names_in(&diff.view, diff)?, moved: HashSet::new() });
        }
        let mut here = Self::default();
        let root = diff.root()?.into_iter();
        let mut directories: Vec<_> = root.map(|root| (LayerPath::ROOT, root.stat)).collect();
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
                } else if let Some(inode) = inode(0, &stat) {
                    here.names.entry(inode).or_default().insert(path);
                    if moved {
                        here.moved.insert(inode);
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
        let place = match self.shape {
            Shape::Upper if !now.includes(0) && !now.is_moved() => return Ok(true),
            Shape::Layers(count) if now.tree() >= count => return Ok(true),
            Shape::Layers(_) => self.place_of(path, &now),
            Shape::Upper | Shape::Copied(_) | Shape::Whole => self.place(path),
        };
        match self.object(path, place)? {
            Some(object) => self.is_same(path, place, &object, &below),
            None => Ok(false),
        }
    }
}
