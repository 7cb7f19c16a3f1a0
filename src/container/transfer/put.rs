//! [`put`]: carries an unpacked tree over into a directory that is in use.
//!
//! Everything is compared with what is there before the first thing changes. After that each file comes whole, by a rename
//! over what had its name, and a new directory with everything in it; a directory that is there stays and becomes what the
//! tree says of it. Nothing in the directory is followed. Devices, pipes and sockets that are there are never replaced.
//!
//! The directory may belong to another user, who renames and links in it at any time. What is made gets its metadata where
//! he cannot reach it (`fresh.rs`), and a directory that is there through a handle (`level.rs`).

use std::collections::HashMap;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::rc::Rc;

use rustix::io::Errno;

use super::level::Level;
use super::{Copied, CopyError, CopyInOptions, without_rights};
use crate::fs::{self, Dir, Error, FileType, Kind, Metadata, Stat, copy_content};
use crate::path::LayerPath;
use crate::stack::object::{self, Loss, Object, Style};
use crate::stack::{Found, Stack, owner};

/// Puts everything in `tree` but its root into `into`. Of `implied` directories the tree says nothing.
pub(super) fn put(
    tree: &Stack<'_>,
    into: &Dir,
    implied: &[LayerPath],
    privileged: bool,
    options: &CopyInOptions<'_>,
) -> Result<Copied, CopyError> {
    check(tree, into, options)?;
    let style = Style { family: None, privileged };
    let mut putting = Putting {
        tree,
        into,
        implied,
        style,
        options,
        open: vec![Level::top(into)?],
        building: None,
        linked: HashMap::new(),
        copied: Copied::default(),
    };
    let done = tree.walk::<CopyError>(&mut |path, found| putting.add(path, found));
    match done.and_then(|()| putting.finish()) {
        Ok(()) => Ok(putting.copied),
        Err(error) => {
            putting.clear();
            Err(error)
        }
    }
}

/// Refuses to put a directory in place of something else, something else in place of a directory, and anything in place
/// of a device, a pipe or a socket.
fn check(tree: &Stack<'_>, into: &Dir, options: &CopyInOptions<'_>) -> Result<(), CopyError> {
    // A directory that is not there yet: nothing below it is there either.
    let mut new: Option<LayerPath> = None;
    tree.walk::<CopyError>(&mut |path, found| {
        if new.as_ref().is_some_and(|new| path.starts_with(new)) {
            return Ok(());
        }
        match into.find(path.as_path())? {
            None if found.is_directory() => new = Some(path.clone()),
            None => {}
            Some(there) => {
                if let Err(refusal) = may_replace(into, path.as_path(), &there, found) {
                    let object = tree.object(path, found)?;
                    if !options.leaves_out(&object.file_type) && !is_same_node(&object, &there) {
                        return Err(refusal);
                    }
                }
            }
        }
        Ok(())
    })
}

/// Refuses to put what was `found` in place of what is `there`.
fn may_replace(dir: &Dir, name: &Path, there: &Stat, found: &Found) -> Result<(), CopyError> {
    if is_special(there.kind) {
        return Err(CopyError::Special { path: dir.path_of(name), found: described(there.kind) });
    }
    if (there.kind == Kind::Directory) == found.is_directory() {
        return Ok(());
    }
    Err(CopyError::Replace {
        path: dir.path_of(name),
        found: described(there.kind),
        wanted: described(found.stat.kind),
    })
}

fn is_special(kind: Kind) -> bool {
    !matches!(kind, Kind::Directory | Kind::File | Kind::Symlink)
}

/// Whether `there` is the same device, or also a pipe.
fn is_same_node(object: &Object, there: &Stat) -> bool {
    match object.file_type {
        FileType::Fifo => there.kind == Kind::Fifo,
        FileType::CharDevice(device) => there.kind == Kind::CharDevice && there.node == device,
        FileType::BlockDevice(device) => there.kind == Kind::BlockDevice && there.node == device,
        _ => false,
    }
}

fn described(kind: Kind) -> &'static str {
    match kind {
        Kind::Directory => "directory",
        Kind::File => "file",
        Kind::Symlink => "symbolic link",
        Kind::CharDevice => "character device",
        Kind::BlockDevice => "block device",
        Kind::Fifo => "named pipe",
        Kind::Socket => "socket",
    }
}

/// A tree on its way into a directory.
struct Putting<'a> {
    tree: &'a Stack<'a>,
    into: &'a Dir,
    implied: &'a [LayerPath],
    style: Style,
    options: &'a CopyInOptions<'a>,
    /// The directories from `into` down to the last that was there before.
    open: Vec<Level>,
    /// A new directory in the deepest of them.
    building: Option<Building>,
    /// Files with several names, by inode, and the first of them in `into`.
    linked: HashMap<u64, LayerPath>,
    copied: Copied,
}

/// A new directory that is filled before it gets its name.
struct Building {
    top: LayerPath,
    /// It and those below it, parents before children. They get their metadata last, since whatever is put into them
    /// changes it.
    directories: Vec<(LayerPath, Metadata)>,
    /// The directory that was used last: the next name is mostly in the same one.
    parent: Option<(LayerPath, Dir)>,
}

impl Putting<'_> {
    fn add(&mut self, path: &LayerPath, found: &Found) -> Result<(), CopyError> {
        if self.building.as_ref().is_some_and(|new| !path.starts_with(&new.top)) {
            self.place_directory()?;
        }
        let mut object = self.tree.object(path, found)?;
        if self.options.leaves_out(&object.file_type) {
            self.copied.leave_out(path);
            return Ok(());
        }
        self.copied.entries += 1;
        self.adapt(&mut object);
        if self.building.is_some() {
            return self.build(path, found, object);
        }
        let parent = path.parent().unwrap_or_default();
        while self.level()?.path != parent {
            self.leave()?;
        }
        let name = file_name(path);
        let dir = self.open_level()?;
        match dir.find(name)? {
            Some(there) if is_same_node(&object, &there) => {
                let meant = &object.metadata;
                if (meant.mode, meant.uid, meant.gid) != (there.mode, there.uid, there.gid) {
                    let warning =
                        format!("{path}: the {} that is there stays as it is", described(there.kind));
                    self.copied.warnings.push(warning);
                }
                Ok(())
            }
            Some(there) if found.is_directory() => {
                may_replace(&dir, name, &there, found)?;
                let metadata = self.implied.binary_search(path).is_err().then_some(object.metadata);
                self.enter(path, &dir, metadata)
            }
            None if found.is_directory() => {
                let top = path.clone();
                self.building = Some(Building { top, directories: Vec::new(), parent: None });
                self.build(path, found, object)
            }
            there => {
                if let Some(there) = there {
                    may_replace(&dir, name, &there, found)?;
                }
                self.file(path, found, &object)
            }
        }
    }

    /// Gives up the owner, with the rights that go with it, unless it is to be kept.
    fn adapt(&self, object: &mut Object) {
        if self.options.archive {
            return;
        }
        let metadata = &mut object.metadata;
        // Root stands for a process that cannot make it root's.
        (metadata.uid, metadata.gid) = (0, 0);
        without_rights(&mut metadata.xattrs);
        if object.file_type != FileType::Directory {
            metadata.mode &= 0o1777;
        }
    }

    /// The deepest directory that was there before.
    fn level(&mut self) -> Result<&mut Level, CopyError> {
        let disturbed = || CopyError::Disturbed { path: self.into.path_of("") };
        self.open.last_mut().ok_or_else(disturbed)
    }

    fn open_level(&mut self) -> Result<Rc<Dir>, CopyError> {
        let into = self.into;
        self.level()?.open(into)
    }

    /// Goes on in the directory `path` of `parent`, which is there.
    fn enter(&mut self, path: &LayerPath, parent: &Dir, metadata: Option<Metadata>) -> Result<(), CopyError> {
        self.open.push(Level::enter(parent, path.clone(), metadata)?);
        Level::spare_handles(&mut self.open, self.into)
    }

    /// Finishes the deepest directory that was there before.
    fn leave(&mut self) -> Result<(), CopyError> {
        let Some(mut level) = self.open.pop() else { return Ok(()) };
        let dir = level.open(self.into)?;
        if let Some(fresh) = level.fresh.take() {
            fresh.remove(&dir)?;
        }
        if let Some(metadata) = &level.metadata {
            // What was recorded of it would go before what is set now.
            dir.inode(".")?.remove_xattr(owner::KEY)?;
            self.set_metadata(&dir, Path::new("."), &FileType::Directory, metadata, &level.path)?;
        }
        Ok(())
    }

    fn set_metadata(
        &mut self,
        dir: &Dir,
        at: &Path,
        file_type: &FileType,
        metadata: &Metadata,
        path: &LayerPath,
    ) -> Result<(), CopyError> {
        let mut lose = |loss: Loss| self.copied.warnings.push(loss.to_string());
        Ok(object::set_metadata(dir, at, file_type, metadata, self.style, &mut lose, path)?)
    }

    /// Makes a file in a directory that was there before.
    fn file(&mut self, path: &LayerPath, found: &Found, object: &Object) -> Result<(), CopyError> {
        let fresh = self.fresh()?;
        self.make(&fresh, file_name(path), path, found, object)?;
        self.place(&fresh, path, found)
    }

    /// Makes something in a new directory.
    fn build(&mut self, path: &LayerPath, found: &Found, object: Object) -> Result<(), CopyError> {
        let parent_path = path.parent().unwrap_or_default();
        let last = self.building.as_mut().and_then(|new| new.parent.take());
        let parent = match last {
            Some((at, dir)) if at == parent_path => dir,
            _ => {
                let inside = self.in_fresh(&parent_path)?;
                self.fresh()?.open_dir(inside.as_path())?
            }
        };
        if found.is_directory() {
            parent.create_dir(file_name(path), 0o700)?;
        } else {
            self.make(&parent, file_name(path), path, found, &object)?;
        }
        if let Some(new) = &mut self.building {
            new.parent = Some((parent_path, parent));
            if found.is_directory() {
                new.directories.push((path.clone(), object.metadata));
            }
        }
        Ok(())
    }

    /// What `path` is called in the private directory of the deepest directory that was there before.
    fn in_fresh(&mut self, path: &LayerPath) -> Result<LayerPath, CopyError> {
        let above = self.level()?.path.components().count();
        let below = path.components().skip(above);
        Ok(below.fold(LayerPath::ROOT, |path, name| path.join(name)))
    }

    /// The private directory of the deepest directory that was there before.
    fn fresh(&mut self) -> Result<Rc<Dir>, CopyError> {
        let (into, bare) = (self.into, self.options.archive);
        self.level()?.fresh(into, bare)
    }

    /// Finishes the new directories, the deepest first, and gives the topmost its name.
    fn place_directory(&mut self) -> Result<(), CopyError> {
        let Some(mut new) = self.building.take() else { return Ok(()) };
        let fresh = self.fresh()?;
        let mut time = None;
        while let Some((path, metadata)) = new.directories.pop() {
            let inside = self.in_fresh(&path)?;
            time = Some(metadata.mtime);
            self.set_metadata(&fresh, inside.as_path(), &FileType::Directory, &metadata, &path)?;
        }
        let (name, top) = (file_name(&new.top), fresh.inode(file_name(&new.top))?);
        let parent = self.open_level()?;
        match fresh.rename_new(name, &parent, name) {
            // Not every file system can promise that.
            Err(error) if matches!(error.errno(), Some(Errno::INVAL | Errno::NOSYS | Errno::OPNOTSUPP)) => {
                fresh.rename(name, &parent, name)?;
            }
            done => done?,
        }
        // Some file systems put something into a directory that moves.
        if let Some(time) = time {
            top.set_mtime(time)?;
        }
        Ok(())
    }

    /// Gives a file that was made in `fresh` its name.
    fn place(&mut self, fresh: &Dir, path: &LayerPath, found: &Found) -> Result<(), CopyError> {
        let (parent, name) = (self.open_level()?, file_name(path));
        if let Some(there) = parent.find(name)? {
            may_replace(&parent, name, &there, found)?;
        }
        Ok(fresh.rename(name, &parent, name)?)
    }

    /// Makes `name` in `parent`, where nobody else can reach it, what the tree has at `path`.
    fn make(
        &mut self,
        parent: &Dir,
        name: &Path,
        path: &LayerPath,
        found: &Found,
        object: &Object,
    ) -> Result<(), CopyError> {
        if found.stat.links > 1 && self.link(parent, name, path, found)? {
            return Ok(());
        }
        let Object { file_type, metadata, .. } = object;
        match file_type {
            FileType::File { size } => {
                let file = parent.create_file(name, 0o600)?;
                copy_content(&self.tree.open(path, found)?, &file, *size)
                    .map_err(|error| Error::new("copy to", parent.path_of(name), error))?;
            }
            other => object::create(parent, name, other)?,
        }
        self.set_metadata(parent, name, file_type, metadata, path)?;
        if found.stat.links > 1 {
            self.linked.insert(found.stat.inode, path.clone());
        }
        Ok(())
    }

    /// Makes `name` in `parent` one more name of a file that was made before; false if there is none, or the file system
    /// refuses.
    fn link(
        &mut self,
        parent: &Dir,
        name: &Path,
        path: &LayerPath,
        found: &Found,
    ) -> Result<bool, CopyError> {
        let Some(first) = self.linked.get(&found.stat.inode).cloned() else { return Ok(false) };
        let linked: fs::Result<()> = if self.building.as_ref().is_some_and(|new| first.starts_with(&new.top))
        {
            let inside = self.in_fresh(&first)?;
            self.fresh()?.hard_link(inside.as_path(), parent, name)
        } else {
            self.into.hard_link(first.as_path(), parent, name)
        };
        match linked {
            Ok(()) => Ok(true),
            // It lies on another file system, has too many names, may not be linked, or somebody took it away.
            Err(error)
                if matches!(error.errno(), Some(Errno::XDEV | Errno::MLINK | Errno::PERM | Errno::NOENT)) =>
            {
                let reason = &error.source;
                self.copied.warnings.push(format!("{path}: not linked to {first}, but copied: {reason}"));
                Ok(false)
            }
            Err(error) => Err(error.into()),
        }
    }

    /// Finishes what is open.
    fn finish(&mut self) -> Result<(), CopyError> {
        self.place_directory()?;
        while !self.open.is_empty() {
            self.leave()?;
        }
        Ok(())
    }

    /// Removes what was not finished.
    fn clear(&mut self) {
        while let Some(mut level) = self.open.pop() {
            let Some(fresh) = level.fresh.take() else { continue };
            if let Err(error) = level.open(self.into).and_then(|dir| fresh.remove(&dir)) {
                tracing::warn!(%error, "what was not copied to its end stays");
            }
        }
    }
}

/// The last name of `path`.
pub(super) fn file_name(path: &LayerPath) -> &Path {
    Path::new(OsStr::from_bytes(path.file_name().unwrap_or(b".")))
}
