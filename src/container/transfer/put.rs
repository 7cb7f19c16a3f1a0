//! [`put`]: carries an unpacked tree over into a directory that is in use.
//!
//! Everything is compared with what is there before the first thing changes. After that each file comes whole, by a rename
//! over what had its name; a directory that is there stays and becomes what the tree says of it. Nothing in the directory
//! is followed.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use super::{Copied, CopyError, CopyInOptions, without_rights};
use crate::fs::{Dir, Error, FileType, Kind, Metadata, copy_content, unique_name};
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
    check(tree, into)?;
    let style = Style { families: None, privileged };
    let mut putting = Putting {
        tree,
        into,
        implied,
        style,
        archive: options.archive,
        temporary: format!(".{}", unique_name()?),
        parent: None,
        linked: HashMap::new(),
        directories: Vec::new(),
        copied: Copied::default(),
    };
    tree.walk::<CopyError>(&mut |path, found| putting.add(path, found))?;
    putting.finish()
}

/// Refuses to put a directory in place of something else, or something else in place of a directory.
fn check(tree: &Stack<'_>, into: &Dir) -> Result<(), CopyError> {
    // A directory that is not there yet: nothing below it is there either.
    let mut new: Option<LayerPath> = None;
    tree.walk::<CopyError>(&mut |path, found| {
        if new.as_ref().is_some_and(|new| path.starts_with(new)) {
            return Ok(());
        }
        match into.find(path.as_path())? {
            None if found.is_directory() => new = Some(path.clone()),
            None => {}
            Some(there) if (there.kind == Kind::Directory) == found.is_directory() => {}
            Some(there) => {
                return Err(CopyError::Replace {
                    path: into.path_of(path.as_path()),
                    found: described(there.kind),
                    wanted: described(found.stat.kind),
                });
            }
        }
        Ok(())
    })
}

fn described(kind: Kind) -> &'static str {
    match kind {
        Kind::Directory => "directory",
        Kind::File => "file",
        Kind::Symlink => "symbolic link",
        _ => "special file",
    }
}

/// A tree on its way into a directory.
struct Putting<'a> {
    tree: &'a Stack<'a>,
    into: &'a Dir,
    implied: &'a [LayerPath],
    style: Style,
    archive: bool,
    /// What a file is called until it is whole.
    temporary: String,
    /// The directory that was used last: the next name is mostly in the same one.
    parent: Option<(LayerPath, Dir)>,
    /// Files with several names, by inode, and the first of them here.
    linked: HashMap<u64, LayerPath>,
    /// Parents before children. They get their metadata last, since whatever is put into them changes it.
    directories: Vec<(LayerPath, Metadata)>,
    copied: Copied,
}

impl Putting<'_> {
    fn add(&mut self, path: &LayerPath, found: &Found) -> Result<(), CopyError> {
        self.copied.entries += 1;
        let name = Path::new(OsStr::from_bytes(path.file_name().unwrap_or(b".")));
        let parent_path = path.parent().unwrap_or_default();
        let parent = match self.parent.take() {
            Some(last) if last.0 == parent_path => last.1,
            _ => self.into.open_dir(parent_path.as_path())?,
        };
        let mut object = self.tree.object(path, found)?;
        self.adapt(&mut object);
        let done = if found.is_directory() {
            self.directory(&parent, path, name, object.metadata)
        } else {
            self.file(&parent, path, name, found, &object)
        };
        self.parent = Some((parent_path, parent));
        done
    }

    /// Gives up the owner, with the rights that go with it, unless it is to be kept.
    fn adapt(&self, object: &mut Object) {
        if self.archive {
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

    fn directory(
        &mut self,
        parent: &Dir,
        path: &LayerPath,
        name: &Path,
        metadata: Metadata,
    ) -> Result<(), CopyError> {
        let implied = self.implied.binary_search(path).is_ok();
        match parent.create_dir(name, 0o700) {
            Err(error) if !error.is_exists() => return Err(error.into()),
            // It stays as it is.
            Err(_) if implied => return Ok(()),
            // What was recorded of it would go before what is set now.
            Err(_) => parent.remove_xattr(name, owner::KEY)?,
            Ok(()) => {}
        }
        self.directories.push((path.clone(), metadata));
        Ok(())
    }

    fn file(
        &mut self,
        parent: &Dir,
        path: &LayerPath,
        name: &Path,
        found: &Found,
        object: &Object,
    ) -> Result<(), CopyError> {
        let temporary = Path::new(&self.temporary).to_owned();
        let first = self.linked.get(&found.stat.inode).filter(|_| found.stat.links > 1);
        let made = match first {
            Some(first) => self.into.hard_link(first.as_path(), parent, &temporary).map_err(CopyError::from),
            None => self.make(parent, &temporary, path, found, object),
        };
        let placed = made.and_then(|()| Ok(parent.rename(&temporary, parent, name)?));
        if placed.is_err()
            && let Err(error) = parent.remove_file(&temporary)
            && !error.is_not_found()
        {
            tracing::warn!(%error, "what was not copied to its end stays");
        }
        placed?;
        if found.stat.links > 1 {
            self.linked.entry(found.stat.inode).or_insert_with(|| path.clone());
        }
        Ok(())
    }

    /// Makes `name` in `parent` what the tree has at `path`.
    fn make(
        &mut self,
        parent: &Dir,
        name: &Path,
        path: &LayerPath,
        found: &Found,
        object: &Object,
    ) -> Result<(), CopyError> {
        let Object { file_type, metadata, .. } = object;
        match file_type {
            FileType::File { size } => {
                let file = parent.create_file(name, 0o600)?;
                copy_content(&self.tree.open(path, found)?, &file, *size)
                    .map_err(|error| Error::new("copy to", parent.path_of(name), error))?;
            }
            other => object::create(parent, name, other)?,
        }
        let mut lose = |loss: Loss| self.copied.warnings.push(loss.to_string());
        object::set_metadata(parent, name, file_type, metadata, self.style, &mut lose, path)?;
        Ok(())
    }

    /// Finishes the directories, the deepest first.
    fn finish(mut self) -> Result<Copied, CopyError> {
        while let Some((path, metadata)) = self.directories.pop() {
            let warnings = &mut self.copied.warnings;
            let mut lose = |loss: Loss| warnings.push(loss.to_string());
            let (at, kind) = (path.as_path(), FileType::Directory);
            object::set_metadata(self.into, at, &kind, &metadata, self.style, &mut lose, &path)?;
        }
        Ok(self.copied)
    }
}
