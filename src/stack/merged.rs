//! [`Stack`]: layers seen as one tree, as overlayfs would show them, without mounting anything.
//!
//! A directory is merged from those layers that have it, from the top down to the first that is opaque or has something
//! else under its name. Everything else is what the topmost layer has. Marks that cannot be read are errors: a deleted
//! file must not come back because of one.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs::File;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use super::marks::{Marks, Opacity};
use super::object::{self, Object};
use crate::fs::{Dir, Kind, Metadata, Optional, PathTooLong, Result, Stat};
use crate::path::LayerPath;

/// One tree of a stack.
#[derive(Debug)]
pub struct Tree {
    /// Its root.
    pub dir: Dir,
    /// The marks it carries.
    pub marks: Marks,
    /// Whether its root directory's metadata is meant; if not, that of a layer below counts.
    pub declares_root: bool,
}

/// Trees on top of each other; the first is the topmost.
#[derive(Clone, Debug, Default)]
pub struct Stack<'a> {
    trees: Vec<&'a Tree>,
}

/// A name found in a stack.
#[derive(Clone, Debug)]
pub struct Found {
    /// What the topmost layer has there.
    pub stat: Stat,
    /// The trees it comes from, topmost first: one, for a directory all that are merged, and for a file whose content
    /// is in another tree also that.
    pub(super) parts: Vec<usize>,
    /// Its name in the trees below the topmost, if it has another there: it, or a directory above it, was renamed.
    pub(super) lower: Option<LayerPath>,
}

impl Found {
    /// Whether it is a directory.
    pub fn is_directory(&self) -> bool {
        self.stat.kind == Kind::Directory
    }

    /// The position of the tree that it comes from; of a merged directory, the topmost.
    pub fn tree(&self) -> usize {
        self.parts[0]
    }

    /// Whether the tree at this position contributes to it.
    pub fn includes(&self, tree: usize) -> bool {
        self.parts.contains(&tree)
    }

    /// Whether it comes from one tree: then metadata and content of a file are in one inode.
    pub fn is_whole(&self) -> bool {
        self.parts.len() == 1
    }

    /// Whether it has another name in the trees below the topmost.
    pub fn is_moved(&self) -> bool {
        self.lower.is_some()
    }

    /// What it is called in the tree at this position, if it is called `path` in the stack.
    pub(super) fn name_in<'p>(&'p self, position: usize, path: &'p LayerPath) -> &'p LayerPath {
        self.lower.as_ref().filter(|_| position > 0).unwrap_or(path)
    }
}

/// What the trees of a stack say of a name.
#[derive(Clone, Debug)]
pub struct Entry {
    /// What it is; `None` if it is deleted.
    pub found: Option<Found>,
    /// Whether nothing is seen of what is below the trees under this name. So it is with all but directories.
    pub hides_below: bool,
}

impl<'a> Stack<'a> {
    /// Stacks `trees`, topmost first.
    pub fn new(trees: impl IntoIterator<Item = &'a Tree>) -> Self {
        Self { trees: trees.into_iter().collect() }
    }

    /// The same without the topmost tree.
    #[must_use]
    pub fn below(&self) -> Self {
        Self { trees: self.trees.iter().skip(1).copied().collect() }
    }

    /// The trees, topmost first.
    pub fn trees(&self) -> &[&'a Tree] {
        &self.trees
    }

    /// The tree at this position.
    pub fn tree(&self, position: usize) -> &'a Tree {
        self.trees[position]
    }

    /// Whether there are no trees.
    pub fn is_empty(&self) -> bool {
        self.trees.is_empty()
    }

    /// The root directory; `None` for a stack of nothing.
    ///
    /// # Errors
    ///
    /// [`crate::fs::Error`] if a tree cannot be read.
    pub fn root(&self) -> Result<Option<Found>> {
        let Some(top) = self.trees.first() else { return Ok(None) };
        let mut found = Found { stat: top.dir.stat(".")?, parts: Vec::new(), lower: None };
        for (position, tree) in self.trees.iter().enumerate() {
            found.parts.push(position);
            if opacity(tree, &LayerPath::ROOT)? == Opacity::Opaque {
                break;
            }
        }
        Ok(Some(found))
    }

    /// What the root directory is like: as the topmost tree says that says anything, else `0755 0:0`.
    ///
    /// # Errors
    ///
    /// [`crate::fs::Error`] if it cannot be read.
    pub fn root_metadata(&self) -> Result<Metadata> {
        match self.trees.iter().find(|tree| tree.declares_root) {
            Some(tree) => Ok(object::read(&tree.dir, LayerPath::ROOT.as_path(), tree.marks)?.metadata),
            None => Ok(Metadata::default_directory()),
        }
    }

    /// Looks up `path`, following no symlink; `None` if the stack has no such name.
    ///
    /// # Errors
    ///
    /// [`crate::fs::Error`] if that cannot be told.
    pub fn lookup(&self, path: &LayerPath) -> Result<Option<Found>> {
        let Some(mut found) = self.root()? else { return Ok(None) };
        let mut at = LayerPath::ROOT;
        for component in path.components() {
            if !found.is_directory() {
                return Ok(None);
            }
            match self.child(&at, &found, component)? {
                Some(child) => found = child,
                None => return Ok(None),
            }
            at = at.join(component);
        }
        Ok(Some(found))
    }

    /// Looks up one name in the directory `path`, found before as `directory`. For many, [`Stack::directory`] is faster.
    ///
    /// # Errors
    ///
    /// [`crate::fs::Error`] if that cannot be told.
    pub fn child(&self, path: &LayerPath, directory: &Found, name: &[u8]) -> Result<Option<Found>> {
        self.child_in(&directory.parts, path, directory, name)
    }

    /// The same as if the directory were merged from `parts` of its trees only.
    pub(super) fn child_in(
        &self,
        parts: &[usize],
        path: &LayerPath,
        directory: &Found,
        name: &[u8],
    ) -> Result<Option<Found>> {
        let mut merge = Merge::of(directory, name);
        let child = path.join(name);
        for &position in parts {
            let tree = self.trees[position];
            let child = merge.lower.as_ref().filter(|_| position > 0).unwrap_or(&child).clone();
            let more = match tree.dir.find(child.as_path())? {
                Some(stat) => {
                    let opacity = opacity(tree, directory.name_in(position, path))?;
                    let more = merge.take(position, tree.marks, &tree.dir, child.as_path(), stat, opacity)?;
                    self.follow(position, path, directory, name, &mut merge)? && more
                }
                None => !tree.marks.is_deleted(&tree.dir, child.as_path())?,
            };
            if !more {
                break;
            }
        }
        Ok(merge.found)
    }

    /// Opens the directory `path`, found before as `directory`, for many lookups in it.
    ///
    /// # Errors
    ///
    /// [`crate::fs::Error`] if it cannot be opened in one of the trees.
    pub fn directory<'s>(&'s self, path: &'s LayerPath, directory: &Found) -> Result<OpenDirectory<'s>> {
        let open = |(number, &position): (usize, &usize)| {
            let tree = self.trees[position];
            let path = directory.name_in(position, path);
            let dir = if number < HANDLES { Some(tree.dir.open_dir(path.as_path())?) } else { None };
            Ok(Part { position, tree, dir, opacity: opacity(tree, path)? })
        };
        let parts = directory.parts.iter().enumerate().map(open).collect::<Result<_>>()?;
        Ok(OpenDirectory { stack: self, path, directory: directory.clone(), parts })
    }

    /// Everything in the directory `path`, found before as `directory`, by name.
    ///
    /// # Errors
    ///
    /// [`crate::fs::Error`] if one of the directories cannot be read.
    pub fn children(&self, path: &LayerPath, directory: &Found) -> Result<BTreeMap<Vec<u8>, Found>> {
        let merges = self.merges(path, directory)?;
        Ok(merges.into_iter().filter_map(|(name, merge)| Some((name, merge.found?))).collect())
    }

    /// As [`Stack::children`], with what the trees say of names below them all.
    ///
    /// # Errors
    ///
    /// [`crate::fs::Error`] if one of the directories cannot be read.
    pub fn entries(&self, path: &LayerPath, directory: &Found) -> Result<BTreeMap<Vec<u8>, Entry>> {
        let merges = self.merges(path, directory)?.into_iter();
        Ok(merges
            .map(|(name, Merge { found, closed, .. })| (name, Entry { found, hides_below: closed }))
            .collect())
    }

    /// Whether nothing would be seen of what lies below the lowest tree.
    ///
    /// # Errors
    ///
    /// [`crate::fs::Error`] if that cannot be told.
    pub fn hides_below(&self) -> Result<bool> {
        for tree in &self.trees {
            if opacity(tree, &LayerPath::ROOT)? == Opacity::Opaque {
                return Ok(true);
            }
        }
        Ok(false)
    }

    fn merges(&self, path: &LayerPath, directory: &Found) -> Result<BTreeMap<Vec<u8>, Merge>> {
        let mut merges: BTreeMap<Vec<u8>, Merge> = BTreeMap::new();
        // One after the other: there may be more of them than a process may have open.
        for &position in &directory.parts {
            let tree = self.trees[position];
            let here = directory.name_in(position, path);
            let dir = tree.dir.open_dir(here.as_path())?;
            let opacity = opacity(tree, here)?;
            for entry in dir.names()? {
                // A container can make deeper trees than a path can name.
                PathTooLong::check(path, &entry.name)?;
                if let Some(deleted) = tree.marks.deletes(&dir, &entry.name)? {
                    let merge = Merge::of(directory, &deleted);
                    merges.entry(deleted).or_insert(merge).closed = true;
                    continue;
                }
                let name = OsStr::from_bytes(&entry.name).to_owned();
                // A name that vanished between the listing and now is no name.
                let Some(stat) = dir.find(&name)? else { continue };
                let key = entry.name.clone();
                let merge = merges.entry(key).or_insert_with(|| Merge::of(directory, &entry.name));
                if !merge.closed {
                    merge.take(position, tree.marks, &dir, name.as_ref(), stat, opacity)?;
                    self.follow(position, path, directory, &entry.name, merge)?;
                }
            }
        }
        Ok(merges)
    }

    /// Reads the object at `path`, found before as `found`.
    ///
    /// # Errors
    ///
    /// [`crate::fs::Error`] if it cannot be read.
    pub fn object(&self, path: &LayerPath, found: &Found) -> Result<Object> {
        let tree = self.trees[found.tree()];
        let name = found.name_in(found.tree(), path);
        let mut object = object::read(&tree.dir, name.as_path(), tree.marks)?;
        if path.is_root() {
            object.metadata = self.root_metadata()?;
        }
        Ok(object)
    }

    /// Opens the regular file at `path`, found before as `found`, for reading.
    ///
    /// # Errors
    ///
    /// [`crate::fs::Error`] if it cannot be opened.
    pub fn open(&self, path: &LayerPath, found: &Found) -> Result<File> {
        // Of a file with its content elsewhere, that is the last.
        let position = found.parts.last().copied().unwrap_or_default();
        self.trees[position].dir.open_file(found.name_in(position, path).as_path())
    }

    /// Calls `visit` for everything in the stack but its root: a directory before what it holds, names in byte order.
    ///
    /// # Errors
    ///
    /// What `visit` returns, or [`crate::fs::Error`] if a directory cannot be read.
    pub fn walk<E: From<crate::fs::Error>>(
        &self,
        visit: &mut dyn FnMut(&LayerPath, &Found) -> Result<(), E>,
    ) -> Result<(), E> {
        match self.root()? {
            Some(root) => self.walk_below(&LayerPath::ROOT, &root, visit),
            None => Ok(()),
        }
    }

    /// Calls `visit` for everything below the directory `path`, found before as `directory`, without it.
    ///
    /// # Errors
    ///
    /// As [`Stack::walk`].
    pub fn walk_below<E: From<crate::fs::Error>>(
        &self,
        path: &LayerPath,
        directory: &Found,
        visit: &mut dyn FnMut(&LayerPath, &Found) -> Result<(), E>,
    ) -> Result<(), E> {
        // Its own stack instead of recursion: a container decides how deep its tree is.
        let mut open = vec![(path.clone(), self.children(path, directory)?.into_iter())];
        while let Some((parent, children)) = open.last_mut() {
            let Some((name, found)) = children.next() else {
                open.pop();
                continue;
            };
            let path = parent.join(&name);
            visit(&path, &found)?;
            // One that vanished meanwhile has nothing in it.
            if found.is_directory()
                && let Some(children) = self.children(&path, &found).optional()?
            {
                open.push((path, children.into_iter()));
            }
        }
        Ok(())
    }
}

/// One directory of a stack, opened for many lookups in it.
#[derive(Debug)]
pub struct OpenDirectory<'a> {
    stack: &'a Stack<'a>,
    path: &'a LayerPath,
    directory: Found,
    parts: Vec<Part<'a>>,
}

/// The directory in one of the trees that it is merged from.
#[derive(Debug)]
struct Part<'a> {
    position: usize,
    tree: &'a Tree,
    /// Itself, for the first [`HANDLES`].
    dir: Option<Dir>,
    opacity: Opacity,
}

/// How many handles one open directory holds. There may be more layers than a process may have open files.
const HANDLES: usize = 64;

impl OpenDirectory<'_> {
    /// Looks up one name.
    ///
    /// # Errors
    ///
    /// [`crate::fs::Error`] if that cannot be told.
    pub fn child(&self, name: &[u8]) -> Result<Option<Found>> {
        let Self { stack, path, directory, parts } = self;
        if parts.first().is_some_and(|part| part.tree.marks.follows()) {
            return stack.child(path, directory, name);
        }
        let mut merge = Merge::of(directory, name);
        for Part { position, tree, dir, opacity } in parts {
            let path;
            let (dir, name): (_, &Path) = match dir {
                Some(dir) => (dir, OsStr::from_bytes(name).as_ref()),
                None => {
                    path = directory.name_in(*position, self.path).join(name);
                    (&tree.dir, path.as_path())
                }
            };
            let more = match dir.find(name)? {
                Some(stat) => merge.take(*position, tree.marks, dir, name, stat, *opacity)?,
                None => !tree.marks.is_deleted(dir, name)?,
            };
            if !more {
                break;
            }
        }
        Ok(merge.found)
    }
}

fn opacity(tree: &Tree, path: &LayerPath) -> Result<Opacity> {
    tree.marks.opacity(&tree.dir, path.as_path())
}

/// One name on its way down through the layers.
pub(super) struct Merge {
    pub(super) found: Option<Found>,
    pub(super) closed: bool,
    /// See [`Found::lower`].
    pub(super) lower: Option<LayerPath>,
}

impl Merge {
    /// Of `name` in `directory`.
    fn of(directory: &Found, name: &[u8]) -> Self {
        Self { found: None, closed: false, lower: directory.lower.as_ref().map(|lower| lower.join(name)) }
    }

    /// Takes what the next lower tree has; false once nothing below can count any more.
    fn take(
        &mut self,
        position: usize,
        marks: Marks,
        dir: &Dir,
        path: &Path,
        stat: Stat,
        parent: Opacity,
    ) -> Result<bool> {
        let whiteout = marks.is_whiteout(dir, path, &stat, parent)?;
        let directory = stat.kind == Kind::Directory;
        match &mut self.found {
            None if whiteout => {}
            None => {
                let lower = self.lower.clone();
                self.found = Some(Found { stat, parts: vec![position], lower });
            }
            Some(found) if directory && !whiteout => found.parts.push(position),
            Some(_) => {}
        }
        self.closed = whiteout || !directory || marks.opacity(dir, path)? == Opacity::Opaque;
        Ok(!self.closed)
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::super::marks::tests::family;
    use super::*;

    fn tree(root: &Path, name: &str, make: impl Fn(&Dir)) -> Tree {
        let dir = Dir::ensure_ambient(root.join(name)).unwrap();
        make(&dir);
        let marks = Marks::Overlay(family(&dir));
        Tree { dir, marks, declares_root: false }
    }

    fn file(dir: &Dir, path: &str) {
        dir.create_file(path, 0o644).unwrap();
    }

    fn shown(stack: &Stack<'_>) -> Vec<String> {
        let mut names = Vec::new();
        stack
            .walk::<crate::fs::Error>(&mut |path, found| {
                assert_eq!(stack.lookup(path)?.expect("what is listed is found").tree(), found.tree());
                names.push(format!("{path}@{}", found.tree()));
                Ok(())
            })
            .unwrap();
        names
    }

    #[test]
    fn a_stack_shows_what_overlayfs_would() {
        let temp = tempfile::tempdir_in(".").unwrap();
        let bottom = tree(temp.path(), "bottom", |dir| {
            for name in ["a", "b", "c"] {
                dir.create_dir(name, 0o755).unwrap();
                file(dir, &format!("{name}/one"));
                file(dir, &format!("{name}/two"));
            }
            file(dir, "file");
        });
        let middle = tree(temp.path(), "middle", |dir| {
            dir.create_dir("a", 0o755).unwrap();
            family(dir).whiteout(dir, Path::new("a"), Path::new("one")).unwrap();
            dir.create_dir("b", 0o755).unwrap();
            family(dir).mark_opaque(dir, Path::new("b")).unwrap();
            file(dir, "b/three");
            family(dir).whiteout(dir, Path::new(""), Path::new("c")).unwrap();
        });
        let top = tree(temp.path(), "top", |dir| {
            dir.create_dir("c", 0o755).unwrap();
            file(dir, "c/new");
            dir.create_dir("file", 0o755).unwrap();
            dir.create_dir("a", 0o755).unwrap();
            file(dir, "a/one");
        });
        let stack = Stack::new([&top, &middle, &bottom]);
        assert_eq!(
            shown(&stack),
            ["/a@0", "/a/one@0", "/a/two@2", "/b@1", "/b/three@1", "/c@0", "/c/new@0", "/file@0"]
        );
        assert_eq!(shown(&stack.below()), ["/a@0", "/a/two@1", "/b@0", "/b/three@0", "/file@1"]);
        assert!(shown(&Stack::default()).is_empty());
        let path = |name: &str| LayerPath::parse(name).unwrap();
        for gone in ["a/three", "b/one", "c/one", "file/x", "nothing"] {
            assert!(stack.lookup(&path(gone)).unwrap().is_none(), "{gone}");
        }
    }
}
