//! Which names of one directory may differ from the layers below: those to look at, and those that are gone.
//!
//! An upper directory has what was changed and says what was deleted. A copy has everything, and tells by inode and
//! change time what needs no look.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;

use super::links::{self, Groups};
use super::{CopyRecord, Diff, DiffError, Shape};
use crate::fs::{self, Dir, Kind, Optional, PathTooLong, Stat};
use crate::path::LayerPath;
use crate::stack::Found;
use crate::stack::marks::Opacity;

/// The names of one directory that need a look.
#[derive(Default)]
pub(super) struct Listing {
    /// Names that the layers below have and the root does not.
    pub(super) deleted: Vec<LayerPath>,
    /// Names that the root has.
    pub(super) children: Vec<Child>,
}

/// One name that the root has.
pub(super) struct Child {
    pub(super) path: LayerPath,
    pub(super) stat: Stat,
    pub(super) below: Below,
    /// A directory that is as it was copied, and where; what is in it may still differ.
    pub(super) untouched: bool,
    /// Something above it in the upper directory is opaque. What is made in there bears no mark of its own.
    pub(super) hides_below: bool,
    /// What the root has there, where it was found in more than one tree.
    pub(super) found: Option<Found>,
}

impl Child {
    fn new(path: LayerPath, stat: Stat, below: Below) -> Self {
        Self { path, stat, below, untouched: false, hides_below: false, found: None }
    }
}

/// What the layers below have under a name.
pub(super) enum Below {
    /// Nobody asked yet.
    NotLooked,
    /// It was looked up.
    Known(Option<Found>),
}

impl Below {
    /// What the layers below have at `path`, which this is about.
    pub(super) fn look(&mut self, diff: &Diff<'_>, path: &LayerPath) -> Result<Option<&Found>, DiffError> {
        if let Self::NotLooked = self {
            *self = Self::Known(diff.below.lookup(path)?);
        }
        match self {
            Self::Known(found) => Ok(found.as_ref()),
            Self::NotLooked => Ok(None),
        }
    }
}

/// Names in a directory, by bytes, with what they lead to.
pub(super) type Names = Vec<(Vec<u8>, LayerPath, Stat)>;

/// The names in `dir`, which is at `path`. One that vanished since it was listed is no name.
pub(super) fn names(path: &LayerPath, dir: &Dir) -> fs::Result<Names> {
    let mut names = Vec::new();
    for entry in dir.names()? {
        // A container can make deeper trees than a path can name.
        PathTooLong::check(path, &entry.name)?;
        if let Some(stat) = dir.find(OsStr::from_bytes(&entry.name))? {
            let path = path.join(&entry.name);
            names.push((entry.name, path, stat));
        }
    }
    Ok(names)
}

impl CopyRecord {
    /// Whether the directory at `path` is the one that was copied there.
    pub(super) fn has(&self, path: &LayerPath, stat: &Stat) -> bool {
        self.directories.get(path) == Some(&stat.inode)
    }

    /// Whether the inode may have been changed, linked or renamed since.
    fn is_touched(&self, stat: &Stat) -> bool {
        !self.untouched.contains(&stat.ctime)
    }
}

impl Diff<'_> {
    /// The root directory; `None` if there are no layers that have one.
    pub(super) fn root(&self) -> Result<Option<Child>, DiffError> {
        let path = LayerPath::ROOT;
        if let Shape::Layers(_) = self.shape {
            let child = |found: Found| Child {
                found: Some(found.clone()),
                ..Child::new(path, found.stat, Below::NotLooked)
            };
            return Ok(self.view.root()?.map(child));
        }
        let stat = self.tree().dir.stat(path.as_path())?;
        let untouched = match self.shape {
            Shape::Copied(record) => record.has(&path, &stat) && !record.is_touched(&stat),
            Shape::Upper | Shape::Whole | Shape::Layers(_) => false,
        };
        Ok(Some(Child { untouched, ..Child::new(path, stat, Below::NotLooked) }))
    }

    /// Lists a directory.
    pub(super) fn list(&self, directory: Child, groups: &mut Groups) -> Result<Listing, DiffError> {
        let path = &directory.path;
        let mut listing = if let Shape::Layers(count) = self.shape {
            self.list_layers(directory, count)?
        } else if let Some(found) = self.moved(path)? {
            self.list_moved(directory, &found)?
        } else {
            // One that was removed meanwhile has nothing in it.
            let Some(dir) = self.tree().dir.open_dir(path.as_path()).optional()? else {
                return Ok(Listing::default());
            };
            match self.shape {
                Shape::Upper => self.list_upper(directory, &dir)?,
                Shape::Copied(record) => self.list_copied(directory, &dir, record, groups)?,
                Shape::Whole | Shape::Layers(_) => Self::list_whole(path, &dir)?,
            }
        };
        listing.deleted.retain(|path| !self.excludes(path));
        listing.children.retain(|child| !self.excludes(&child.path));
        // A socket cannot be stored; in place of something else, that is deleted.
        for child in listing.children.iter_mut().filter(|child| child.stat.kind == Kind::Socket) {
            if child.below.look(self, &child.path)?.is_some() {
                listing.deleted.push(child.path.clone());
                child.below = Below::Known(None);
            }
        }
        listing.deleted.sort_unstable();
        Ok(listing)
    }

    fn list_upper(&self, directory: Child, dir: &Dir) -> Result<Listing, DiffError> {
        let Child { path, mut below, hides_below, .. } = directory;
        let below = below.look(self, &path)?.filter(|below| below.is_directory());
        let mut listing = Listing::default();
        let marks = self.tree().marks;
        let opacity = marks.opacity(dir, LayerPath::ROOT.as_path())?;
        let hides_below = hides_below || opacity == Opacity::Opaque;
        // What an opaque directory hides is deleted, unless it was made again.
        let mut hidden = match below {
            Some(below) if hides_below => self.below.children(&path, below)?,
            _ => BTreeMap::new(),
        };
        let merged = match below {
            Some(below) if !hides_below => Some(self.below.directory(&path, below)?),
            _ => None,
        };
        for (name, path_of_name, stat) in names(&path, dir)? {
            if let Some(deleted) = marks.deletes(dir, &name)? {
                // What is there all the same comes along by its own name. In an opaque directory all is deleted anyway.
                if let Some(merged) = &merged
                    && dir.find(OsStr::from_bytes(&deleted))?.is_none()
                    && merged.child(&deleted)?.is_some()
                {
                    listing.deleted.push(path.join(&deleted));
                }
                continue;
            }
            let below = match &merged {
                Some(merged) => merged.child(&name)?,
                None => hidden.remove(&name),
            };
            let on_disk = OsStr::from_bytes(&name).as_ref();
            match (marks.is_whiteout(dir, on_disk, &stat, opacity)?, below) {
                (false, below) => {
                    let child = Child::new(path_of_name, stat, Below::Known(below));
                    listing.children.push(Child { hides_below, ..child });
                }
                (true, Some(_)) => listing.deleted.push(path_of_name),
                // A deletion of nothing: overlayfs leaves one where a name was made and removed again.
                (true, None) => {}
            }
        }
        listing.deleted.extend(hidden.keys().map(|name| path.join(name)));
        Ok(listing)
    }

    /// Lists a directory that has another name in the layers below: all that it shows came with it.
    fn list_moved(&self, directory: Child, found: &Found) -> Result<Listing, DiffError> {
        let Child { path, mut below, .. } = directory;
        let mut expected = match below.look(self, &path)?.filter(|below| below.is_directory()) {
            Some(below) => self.below.children(&path, below)?,
            None => BTreeMap::new(),
        };
        let names = self.names_moved(&path, found)?.into_iter();
        let children =
            names.map(|(name, path, stat)| Child::new(path, stat, Below::Known(expected.remove(&name))));
        let children = children.collect();
        Ok(Listing { children, deleted: expected.keys().map(|name| path.join(name)).collect() })
    }

    /// The names in such a directory.
    pub(super) fn names_moved(&self, path: &LayerPath, found: &Found) -> Result<Names, DiffError> {
        let children = self.view.children(path, found)?.into_iter();
        Ok(children.map(|(name, found)| (name.clone(), path.join(&name), found.stat)).collect())
    }

    fn list_copied(
        &self,
        directory: Child,
        dir: &Dir,
        record: &CopyRecord,
        groups: &mut Groups,
    ) -> Result<Listing, DiffError> {
        let Child { path, stat, mut below, .. } = directory;
        let mut listing = Listing::default();
        let is_copied = record.has(&path, &stat);
        // Names come and go only by touching the directory.
        let mut expected = if is_copied && !record.is_touched(&stat) {
            None
        } else {
            Some(match below.look(self, &path)?.filter(|below| below.is_directory()) {
                Some(below) => self.below.children(&path, below)?,
                None => BTreeMap::new(),
            })
        };
        for (name, path, stat) in names(&path, dir)? {
            let below = match &mut expected {
                Some(expected) => Below::Known(expected.remove(&name)),
                None => Below::NotLooked,
            };
            let untouched = !record.is_touched(&stat)
                && match (stat.kind, links::inode(0, &stat)) {
                    (Kind::Directory, _) => record.has(&path, &stat),
                    (_, None) => is_copied,
                    // One inode, so all its names are untouched; but another one may have moved with its directory.
                    (_, Some(inode)) => is_copied && !groups.moved(self, inode)?,
                };
            if !untouched || stat.kind == Kind::Directory {
                listing.children.push(Child { untouched, ..Child::new(path, stat, below) });
            }
        }
        listing.deleted.extend(expected.unwrap_or_default().keys().map(|name| path.join(name)));
        Ok(listing)
    }

    /// Lists what the topmost `count` trees have a part in.
    fn list_layers(&self, directory: Child, count: usize) -> Result<Listing, DiffError> {
        let Child { path, mut below, found, .. } = directory;
        let mut listing = Listing::default();
        let Some(found) = found.filter(|found| found.tree() < count) else { return Ok(listing) };
        let mut expected = match below.look(self, &path)?.filter(|below| below.is_directory()) {
            Some(below) => self.below.children(&path, below)?,
            None => BTreeMap::new(),
        };
        for (name, found) in self.view.children(&path, &found)? {
            let below = expected.remove(&name);
            // What comes from the others alone is what they show.
            if found.tree() < count {
                let child = Child::new(path.join(&name), found.stat, Below::Known(below));
                listing.children.push(Child { found: Some(found), ..child });
            }
        }
        listing.deleted.extend(expected.keys().map(|name| path.join(name)));
        Ok(listing)
    }

    fn list_whole(path: &LayerPath, dir: &Dir) -> Result<Listing, DiffError> {
        let children = names(path, dir)?.into_iter();
        let children = children.map(|(_, path, stat)| Child::new(path, stat, Below::Known(None)));
        Ok(Listing { deleted: Vec::new(), children: children.collect() })
    }
}
