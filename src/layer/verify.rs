//! [`differences`]: whether a layer on disk is still what it was when it was made.
//!
//! The judge is the same layer made once more. The two are compared as they lie on disk, with marks and records of what
//! could not be held; how a layer is read does not matter here, and neither what else its files are linked to.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;
use std::fs::File;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use super::record::Families;
use super::store::Layer;
use crate::fs::{Context, DeviceNumber, Dir, Kind, Result, Stat, next_extent};
use crate::path::LayerPath;
use crate::stack::Tree;

/// Something in a layer that is not as it was.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct Difference {
    /// Where; the name as it is on disk, where a deletion has the name of what it deletes.
    pub path: LayerPath,
    /// What is wrong: `is missing`, `has another mode`, ….
    pub what: &'static str,
}

impl std::fmt::Display for Difference {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:?} {}", self.path, self.what)
    }
}

/// What in the layer `found` is not as in `expected`, which was made just now, in words and in order; the first `most` of
/// it. Once `cancelled` says so, the rest is left out. If they were made for bases that differ, the directories that neither describes are left out.
///
/// # Errors
///
/// [`Error`](crate::fs::Error) if something cannot be read.
pub fn layer_differences(
    expected: &Layer,
    found: &Layer,
    most: usize,
    cancelled: &dyn Fn() -> bool,
) -> Result<Vec<String>> {
    let (made, kept) = (&expected.record, &found.record);
    let facts = [
        (made.diff_id == kept.diff_id || !made.merged.is_empty(), "diff id"),
        (made.families == kept.families || kept.families == Families::Both, "marks"),
        (made.tar_bytes == kept.tar_bytes, "length of the tar"),
        (made.data_bytes == kept.data_bytes, "number of bytes"),
        (made.entries == kept.entries, "number of entries"),
        (made.declares_root == kept.declares_root, "word on the root directory"),
        (made.highest_ids == kept.highest_ids, "highest owners"),
    ];
    let mut said: Vec<String> = facts
        .iter()
        .filter(|(same, _)| !same)
        .map(|(_, what)| format!("its record has another {what}"))
        .collect();
    let open = match made.assumed == kept.assumed {
        true => BTreeSet::new(),
        false => {
            [made, kept].into_iter().flat_map(|record| &record.assumed).map(|one| one.path.clone()).collect()
        }
    };
    let absent = [made, kept].into_iter().flat_map(|record| &record.assumed);
    let absent = absent.filter(|one| one.holds_only_deletions && open.contains(&one.path));
    let absent = absent.map(|one| one.path.clone()).collect();
    let trees = differences_but(&expected.tree, &found.tree, most, open, absent, cancelled)?;
    said.extend(trees.iter().map(ToString::to_string));
    Ok(said)
}

/// What in `found` is not as in `expected`, in order; the first `most` of it. Both are trees of one layer.
///
/// # Errors
///
/// [`Error`](crate::fs::Error) if something cannot be read.
pub fn differences(expected: &Tree, found: &Tree, most: usize) -> Result<Vec<Difference>> {
    differences_but(expected, found, most, BTreeSet::new(), BTreeSet::new(), &|| false)
}

/// Compares as [`differences`], whatever the directories in `open` are like. Those in `absent` may be missing from either.
fn differences_but(
    expected: &Tree,
    found: &Tree,
    most: usize,
    open: BTreeSet<LayerPath>,
    absent: BTreeSet<LayerPath>,
    cancelled: &dyn Fn() -> bool,
) -> Result<Vec<Difference>> {
    let mut comparison =
        Comparison { most, open, absent, differences: Vec::new(), links: BTreeMap::new(), cancelled };
    let dirs = [&expected.dir, &found.dir];
    // What no layer describes is as it happened to be made.
    if expected.declares_root {
        comparison.objects(dirs, OsStr::new("."), &LayerPath::ROOT)?;
    } else {
        comparison.directories(dirs, &LayerPath::ROOT)?;
    }
    Ok(comparison.differences)
}

/// Whether two objects of one tree, that should be names of one file, say the same.
pub(super) fn same_objects(
    parents: [&Dir; 2],
    names: [&OsStr; 2],
    cancelled: &dyn Fn() -> bool,
) -> Result<bool> {
    let stats = [parents[0].stat(names[0])?, parents[1].stat(names[1])?];
    let facts =
        stats.map(|stat| (stat.kind, stat.mode, stat.uid, stat.gid, stat.mtime, stat.size, stat.node));
    if facts[0] != facts[1] || parents[0].xattrs(names[0])? != parents[1].xattrs(names[1])? {
        return Ok(false);
    }
    match stats[0].kind {
        Kind::File => {
            let files = [parents[0].open_file(names[0])?, parents[1].open_file(names[1])?];
            let paths = [parents[0].path_of(names[0]), parents[1].path_of(names[1])];
            same_content(&files, stats[0].size, &paths, cancelled)
        }
        Kind::Symlink => Ok(parents[0].read_link(names[0])? == parents[1].read_link(names[1])?),
        _ => Ok(true),
    }
}

/// Whether two files of `size` bytes hold the same. Where both have a hole nothing is read. Ends early, with whatever
/// answer, once `cancelled` says so.
fn same_content(
    files: &[File; 2],
    size: u64,
    paths: &[PathBuf; 2],
    cancelled: &dyn Fn() -> bool,
) -> Result<bool> {
    let mut buffers = [(); 2].map(|()| vec![0; 128 << 10]);
    let extent = |which: usize, from| {
        let found = next_extent(&files[which], from, size).at_path("read", || paths[which].clone())?;
        Ok(found.map_or((size, size), |extent| (extent.offset, extent.offset + extent.length)))
    };
    let mut position = 0;
    let mut ahead = [(0, 0); 2];
    while position < size && !cancelled() {
        for (which, ahead) in ahead.iter_mut().enumerate() {
            if ahead.1 <= position {
                *ahead = extent(which, position)?;
            }
        }
        let from = ahead[0].0.min(ahead[1].0).max(position);
        if from >= size {
            break;
        }
        // Up to where the next of the two begins or ends; what is not data is zeros, and reads as such.
        let borders = ahead.iter().flat_map(|&(begin, end)| [begin, end]).filter(|&border| border > from);
        let until = borders.min().unwrap_or(size).min(size);
        let length = usize::try_from(until - from).unwrap_or(usize::MAX).min(buffers[0].len());
        for which in 0..2 {
            let read = files[which].read_exact_at(&mut buffers[which][..length], from);
            match read {
                Err(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => return Ok(false),
                read => read.at_path("read", || paths[which].clone())?,
            }
        }
        if buffers[0][..length] != buffers[1][..length] {
            return Ok(false);
        }
        position = from + length as u64;
    }
    Ok(true)
}

struct Comparison<'c> {
    most: usize,
    /// Directories that may be as they like.
    open: BTreeSet<LayerPath>,
    /// Directories that hold nothing but deletions and may be missing.
    absent: BTreeSet<LayerPath>,
    differences: Vec<Difference>,
    /// The inode that stands for an inode of the other tree, for files with several names.
    links: BTreeMap<u64, u64>,
    cancelled: &'c dyn Fn() -> bool,
}

impl Comparison<'_> {
    fn is_full(&self) -> bool {
        self.differences.len() >= self.most
    }

    fn differs(&mut self, path: &LayerPath, what: &'static str) {
        if !self.is_full() {
            self.differences.push(Difference { path: path.clone(), what });
        }
    }

    /// Compares what two directories have under one name, and everything below.
    fn objects(&mut self, parents: [&Dir; 2], name: &OsStr, path: &LayerPath) -> Result<()> {
        let [expected, found] = [parents[0].stat(name)?, parents[1].stat(name)?];
        if expected.kind != found.kind {
            self.differs(path, "is of another type");
            return Ok(());
        }
        if expected.kind == Kind::Directory && self.open.contains(path) {
            return self.directories([&parents[0].open_dir(name)?, &parents[1].open_dir(name)?], path);
        }
        let attributes = parents[0].xattrs(name)?;
        let is_deletion = expected.node == DeviceNumber::WHITEOUT && expected.kind == Kind::CharDevice
            || attributes.keys().any(|attribute| attribute.ends_with(b".overlay.whiteout"));
        let facts = [
            (expected.mode == found.mode, "has another mode"),
            ((expected.uid, expected.gid) == (found.uid, found.gid), "has another owner"),
            // Nobody sets or sees the time of a deletion.
            (is_deletion || expected.mtime == found.mtime, "has another time"),
            (expected.node == found.node, "is another device"),
        ];
        for (_, what) in facts.iter().filter(|(same, _)| !same) {
            self.differs(path, what);
        }
        if attributes != parents[1].xattrs(name)? {
            self.differs(path, "has other attributes");
        }
        match expected.kind {
            Kind::Directory => {
                return self.directories([&parents[0].open_dir(name)?, &parents[1].open_dir(name)?], path);
            }
            Kind::Symlink if parents[0].read_link(name)? != parents[1].read_link(name)? => {
                self.differs(path, "leads elsewhere");
            }
            Kind::File => self.files(parents, name, path, [&expected, &found])?,
            _ => {}
        }
        if *self.links.entry(expected.inode).or_insert(found.inode) != found.inode {
            self.differs(path, "is no link to the same file any more");
        }
        Ok(())
    }

    fn directories(&mut self, dirs: [&Dir; 2], path: &LayerPath) -> Result<()> {
        let [expected, found] = [dirs[0].names()?, dirs[1].names()?]
            .map(|names| names.into_iter().map(|entry| entry.name).collect::<BTreeSet<_>>());
        for name in expected.union(&found) {
            if self.is_full() || (self.cancelled)() {
                break;
            }
            let path = path.join(name);
            match (expected.contains(name), found.contains(name)) {
                (true, true) => self.objects(dirs, OsStr::from_bytes(name), &path)?,
                _ if expected.contains(name) != found.contains(name) && self.absent.contains(&path) => {}
                (true, false) => self.differs(&path, "is missing"),
                (false, _) => self.differs(&path, "does not belong there"),
            }
        }
        Ok(())
    }

    fn files(&mut self, parents: [&Dir; 2], name: &OsStr, path: &LayerPath, stats: [&Stat; 2]) -> Result<()> {
        if stats[0].size != stats[1].size {
            self.differs(path, "has another size");
        } else if stats[0].inode != stats[1].inode && !self.same_files(parents, name, stats[0].size)? {
            self.differs(path, "has another content");
        }
        Ok(())
    }

    fn same_files(&self, parents: [&Dir; 2], name: &OsStr, size: u64) -> Result<bool> {
        let files = [parents[0].open_file(name)?, parents[1].open_file(name)?];
        let paths = parents.map(|parent| parent.path_of(Path::new(name)));
        same_content(&files, size, &paths, self.cancelled)
    }
}
