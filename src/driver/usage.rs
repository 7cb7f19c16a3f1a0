//! [`Usage`]: what a directory tree takes on disk.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;

use crate::fs::{Descent, Dir, Kind, Optional, Result};

/// What a directory tree takes on disk.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[non_exhaustive]
pub struct Usage {
    /// Bytes allocated, a file with several names counted once.
    pub allocated: u64,
    /// Bytes of the content of regular files, as large as they look, a file with several names counted once.
    pub content: u64,
    /// Files, directories and everything else, the top directory not counted.
    pub inodes: u64,
}

/// Measures everything below `dir`. What vanishes meanwhile is not counted: the tree may be in use.
pub(super) fn of(dir: Dir) -> Result<Usage> {
    let mut usage = Usage::default();
    let mut linked = BTreeSet::new();
    let mut names = vec![dir.names()?.into_iter()];
    let mut way = Descent::new(dir)?;
    while let Some(left) = names.last_mut() {
        let Some(entry) = left.next() else {
            names.pop();
            way.leave()?;
            continue;
        };
        let name = OsStr::from_bytes(&entry.name);
        let Some(stat) = way.dir().find(name)? else { continue };
        if stat.kind == Kind::Directory {
            if way.enter(name).fitting()?.is_some() {
                names.push(way.dir().names()?.into_iter());
            }
        } else if stat.links > 1 && !linked.insert((stat.device, stat.inode)) {
            continue;
        }
        usage.inodes += 1;
        usage.allocated += stat.allocated;
        usage.content += if stat.kind == Kind::File { stat.size } else { 0 };
    }
    Ok(usage)
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    #[test]
    fn a_file_with_two_names_counts_once_and_depth_is_no_matter() {
        let temp = tempfile::tempdir_in(".").unwrap();
        let dir = Dir::open_ambient(temp.path()).unwrap();
        dir.create_file("file", 0o644).unwrap().write_all(&[7; 10_000]).unwrap();
        dir.hard_link("file", &dir, "second").unwrap();
        let mut inner = dir.try_clone().unwrap();
        for _ in 0..2000 {
            inner = inner.ensure_dir("a-name-of-some-length", 0o755).unwrap();
        }
        inner.create_file("end", 0o644).unwrap().write_all(b"12345").unwrap();
        let usage = of(dir.try_clone().unwrap()).unwrap();
        assert_eq!((usage.content, usage.inodes), (10_005, 2002));
        assert!(usage.allocated >= 10_000);
        dir.remove_all("a-name-of-some-length").unwrap();
    }
}
