//! [`flatten`]: everything that a stack shows, or a part of it, as one plain tar: an export, a copy.
//!
//! It is no layer: there is nothing below it to delete, so names that begin with `.wh.` are stored as they are. Entries
//! are in the order of [`LayerPath`], the root first.

use std::collections::HashMap;
use std::fs::File;
use std::io::Write;

use crate::changeset::Writer;
use crate::digest::{Algorithm, HashingWriter};
use crate::fs::{self, Optional};
use crate::path::LayerPath;
use crate::stack::object::Object;
use crate::stack::{Found, Stack};

use super::diff::DiffError;
use super::diff::Selection;
use super::pack::{Outcome, PackError, PackOptions, Packed, Packer, Source};

/// Writes everything that `stack` shows, its root directory included. An ordinary directory is a stack of one tree
/// without marks. Names that are one inode of one tree are hard links; sockets are left out.
///
/// # Errors
///
/// [`PackError`]; what was written is then useless.
pub fn flatten(
    stack: &Stack<'_>,
    selection: &Selection,
    writer: impl Write,
    options: &PackOptions,
) -> Result<Packed, PackError> {
    flatten_part(stack, &LayerPath::ROOT, &LayerPath::ROOT, selection, writer, options)
}

/// Writes what `stack` shows at `start`, and below it if that is a directory, as if it were called `name`. Nothing at
/// `start` makes a tar of nothing.
///
/// # Errors
///
/// [`PackError`]; what was written is then useless.
pub fn flatten_part(
    stack: &Stack<'_>,
    start: &LayerPath,
    name: &LayerPath,
    selection: &Selection,
    writer: impl Write,
    options: &PackOptions,
) -> Result<Packed, PackError> {
    let out = Writer::new(HashingWriter::new(Algorithm::Sha256, writer)).allow_reserved_names();
    let mut out = Packer::new(out, options);
    // The first name of each inode that has several.
    let mut written: HashMap<(usize, u64, u64), LayerPath> = HashMap::new();
    let mut add = |path: &LayerPath, found: &Found| {
        if selection.excludes(path) {
            return Ok(());
        }
        let seen = Seen { stack, selection, path, found };
        let object = match seen.read()? {
            Some(object) => object,
            None if path == start => stack.object(path, found)?,
            // It vanished since its directory was listed.
            None => return Ok(()),
        };
        let path_in_tar = renamed(path, start, name);
        let mut first = None;
        if found.stat.links > 1 && !found.is_directory() {
            let inode = (found.tree(), found.stat.device, found.stat.inode);
            first = written.get(&inode).cloned();
            if first.is_none() && out.object(&path_in_tar, &object, None, &seen)? == Outcome::Written {
                written.insert(inode, path_in_tar.clone());
            }
            if first.is_none() {
                return Ok(());
            }
        }
        out.object(&path_in_tar, &object, first.as_ref(), &seen).map(drop)
    };
    if let Some(found) = stack.lookup(start)? {
        add(start, &found)?;
        if found.is_directory() {
            stack.walk_below::<PackError>(start, &found, &mut add)?;
        }
    }
    out.finish()
}

/// Something that a stack shows.
struct Seen<'a> {
    stack: &'a Stack<'a>,
    selection: &'a Selection,
    path: &'a LayerPath,
    found: &'a Found,
}

impl Source for Seen<'_> {
    fn read(&self) -> Result<Option<Object>, DiffError> {
        let mut object = self.stack.object(self.path, self.found).optional()?;
        if let Some(object) = &mut object {
            self.selection.xattrs.apply(&mut object.metadata.xattrs);
        }
        Ok(object)
    }

    fn open(&self) -> fs::Result<(File, bool)> {
        Ok((self.stack.open(self.path, self.found)?, self.found.is_whole()))
    }
}

/// `path`, which is `start` or below it, as it is called if `start` is called `name`.
fn renamed(path: &LayerPath, start: &LayerPath, name: &LayerPath) -> LayerPath {
    if start == name {
        return path.clone();
    }
    let below = path.components().skip(start.components().count());
    below.fold(name.clone(), |path, component| path.join(component))
}
