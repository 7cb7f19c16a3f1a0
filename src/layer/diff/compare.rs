//! When an object is the same as the one below: type, mode, owner, attributes, time, target, device and every byte.
//!
//! Times and sizes are never trusted to tell that a content is the same, only that it is not.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use super::links::{self, Groups};
use super::{Diff, DiffError, Place, Shape};
use crate::fs::{Error, FileType, Metadata, Stat, next_extent};
use crate::path::LayerPath;
use crate::stack::Found;
use crate::stack::object::Object;

/// How an object compares to what the layers below have under its name.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Verdict {
    /// They have nothing.
    Added,
    /// It is different.
    Changed,
    /// A directory that differs in its time only.
    Touched,
    /// It is the same.
    Same,
}

impl Diff<'_> {
    /// Reads what the root has at `path` and compares it with `below`; `None` if it vanished.
    pub(super) fn compare(
        &self,
        path: &LayerPath,
        place: Place<'_>,
        stat: &Stat,
        below: Option<&Found>,
        groups: &mut Groups,
    ) -> Result<Option<(Object, Verdict)>, DiffError> {
        self.check_marks(path, place, stat.kind, below.map_or(0, |below| below.stat.links))?;
        let Some(object) = self.object(path, place)? else { return Ok(None) };
        let verdict = match (below, self.shape) {
            // A root is there even if no layer is.
            (None, Shape::Upper | Shape::Copied(_) | Shape::Layers(_)) if path.is_root() => {
                compare_directories(&object.metadata, &Metadata::default_directory())
            }
            (None, _) => Verdict::Added,
            (Some(below), _) if object.file_type == FileType::Directory => {
                let old = self.object_below(path, below)?;
                match old.file_type {
                    FileType::Directory => compare_directories(&object.metadata, &old.metadata),
                    _ => Verdict::Changed,
                }
            }
            (Some(below), _) => {
                let inode = links::inode(place.tree(), &object.stat);
                let same =
                    self.is_same(path, place, &object, below)? && groups.same(self, path, inode, below)?;
                if same { Verdict::Same } else { Verdict::Changed }
            }
        };
        Ok(Some((object, verdict)))
    }

    /// Whether `object`, which is at `path` and no directory, is what the layers below have there, but for its links.
    pub(super) fn is_same(
        &self,
        path: &LayerPath,
        place: Place<'_>,
        object: &Object,
        below: &Found,
    ) -> Result<bool, DiffError> {
        let old = self.object_below(path, below)?;
        if object.file_type != old.file_type || object.metadata != old.metadata {
            return Ok(false);
        }
        // A type that is only recorded has no content.
        let FileType::File { size } = object.file_type else { return Ok(true) };
        let Some(new) = self.content(path, place)? else { return Ok(false) };
        let old = self.below.open(path, below)?;
        has_same_content(&new, &old, size)
            .map_err(|error| Error::new("compare", place.dir.path_of(place.name), error).into())
    }
}

fn compare_directories(new: &Metadata, old: &Metadata) -> Verdict {
    if (new.mode, new.uid, new.gid, &new.xattrs) != (old.mode, old.uid, old.gid, &old.xattrs) {
        Verdict::Changed
    } else if new.mtime != old.mtime {
        Verdict::Touched
    } else {
        Verdict::Same
    }
}

/// Compares two files of `size` bytes. What is a hole in both is not read.
fn has_same_content(a: &File, b: &File, size: u64) -> io::Result<bool> {
    let mut buffers = [vec![0; 64 << 10], vec![0; 64 << 10]];
    let mut position = 0;
    loop {
        let data =
            |file| Ok::<_, io::Error>(next_extent(file, position, size)?.map_or(size, |data| data.offset));
        position = data(a)?.min(data(b)?);
        if position >= size {
            return Ok(true);
        }
        let length = usize::try_from(size - position).unwrap_or(usize::MAX).min(64 << 10);
        for (file, buffer) in [a, b].into_iter().zip(&mut buffers) {
            match file.read_exact_at(&mut buffer[..length], position) {
                // It became shorter while it was read.
                Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(false),
                done => done?,
            }
        }
        if buffers[0][..length] != buffers[1][..length] {
            return Ok(false);
        }
        position += length as u64;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hole_is_the_same_as_zeros_and_nothing_else() {
        let file = || tempfile::tempfile_in(".").unwrap();
        let (a, b) = (file(), file());
        let size = 3 << 20;
        a.set_len(size).unwrap();
        b.set_len(size).unwrap();
        b.write_all_at(&[0; 9000], 1 << 20).unwrap();
        assert!(has_same_content(&a, &b, size).unwrap());
        for position in [0, 70_000, (1 << 20) + 8999, size - 1] {
            b.write_all_at(&[1], position).unwrap();
            assert!(!has_same_content(&a, &b, size).unwrap());
            a.write_all_at(&[1], position).unwrap();
            assert!(has_same_content(&a, &b, size).unwrap());
        }
        assert!(!has_same_content(&a, &b, size + 1).unwrap());
    }
}
