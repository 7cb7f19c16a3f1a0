//! [`differences`]: whether a layer on disk is still what it was when it was made.
//!
//! The judge is the same layer made once more. The two are compared as they lie on disk, with marks and records of what
//! could not be held; how a layer is read does not matter here, and neither what else its files are linked to.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;
use std::fs::File;
use std::io::Read;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use super::record::Families;
use super::store::Layer;
use crate::fs::{Context, DeviceNumber, Dir, Kind, Result, Stat};
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
/// it. If they were made for bases that differ, the directories that neither describes are left out.
///
/// # Errors
///
/// [`Error`](crate::fs::Error) if something cannot be read.
pub fn layer_differences(expected: &Layer, found: &Layer, most: usize) -> Result<Vec<String>> {
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
    let trees = differences_but(&expected.tree, &found.tree, most, open, absent)?;
    said.extend(trees.iter().map(ToString::to_string));
    Ok(said)
}

/// What in `found` is not as in `expected`, in order; the first `most` of it. Both are trees of one layer.
///
/// # Errors
///
/// [`Error`](crate::fs::Error) if something cannot be read.
pub fn differences(expected: &Tree, found: &Tree, most: usize) -> Result<Vec<Difference>> {
    differences_but(expected, found, most, BTreeSet::new(), BTreeSet::new())
}

/// Compares as [`differences`], whatever the directories in `open` are like. Those in `absent` may be missing from either.
fn differences_but(
    expected: &Tree,
    found: &Tree,
    most: usize,
    open: BTreeSet<LayerPath>,
    absent: BTreeSet<LayerPath>,
) -> Result<Vec<Difference>> {
    let mut comparison = Comparison {
        most,
        open,
        absent,
        differences: Vec::new(),
        links: BTreeMap::new(),
        buffers: [(); 2].map(|()| vec![0; 128 << 10]),
    };
    let dirs = [&expected.dir, &found.dir];
    // What no layer describes is as it happened to be made.
    if expected.declares_root {
        comparison.objects(dirs, OsStr::new("."), &LayerPath::ROOT)?;
    } else {
        comparison.directories(dirs, &LayerPath::ROOT)?;
    }
    Ok(comparison.differences)
}

struct Comparison {
    most: usize,
    /// Directories that may be as they like.
    open: BTreeSet<LayerPath>,
    /// Directories that hold nothing but deletions and may be missing.
    absent: BTreeSet<LayerPath>,
    differences: Vec<Difference>,
    /// The inode that stands for an inode of the other tree, for files with several names.
    links: BTreeMap<u64, u64>,
    buffers: [Vec<u8>; 2],
}

impl Comparison {
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
            if self.is_full() {
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
        } else if stats[0].inode != stats[1].inode && !self.same_content(parents, name)? {
            self.differs(path, "has another content");
        }
        Ok(())
    }

    fn same_content(&mut self, parents: [&Dir; 2], name: &OsStr) -> Result<bool> {
        let [mut one, mut other] = [parents[0].open_file(name)?, parents[1].open_file(name)?];
        let [first, second] = &mut self.buffers;
        loop {
            let count = fill(&mut one, first).at_path("read", || parents[0].path_of(Path::new(name)))?;
            let same =
                fill(&mut other, second).at_path("read", || parents[1].path_of(Path::new(name)))? == count;
            if !same || first[..count] != second[..count] {
                return Ok(false);
            }
            if count == 0 {
                return Ok(true);
            }
        }
    }
}

/// Reads until `buffer` is full or the file ends.
fn fill(file: &mut File, buffer: &mut [u8]) -> std::io::Result<usize> {
    let mut filled = 0;
    while filled < buffer.len() {
        match file.read(&mut buffer[filled..]) {
            Ok(0) => break,
            Ok(count) => filled += count,
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(filled)
}
