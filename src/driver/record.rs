//! `root.json`: what a driver has to know later of a root that it prepared.
//!
//! Written once, beside what it describes, and never changed. It says nothing about whether the root is mounted.

use std::collections::BTreeMap;
use std::io::Write;
use std::ops::Range;

use serde::{Deserialize, Serialize};

use super::error::DriverError;
use super::{DriverKind, IdMap, RootOptions};
use crate::fs::{Context, Dir, Durability, Kind, Optional, Stat, Timestamp, Workspace};
use crate::path::LayerPath;
use crate::stack::Tree;
use crate::text::{escape, salvage, unescape};
use crate::whiteout::Namespace;

/// Its name.
pub(super) const NAME: &str = "root.json";

/// What a damaged one is kept as.
const DAMAGED: &str = "root.json.damaged";

/// The only version there is.
const VERSION: u32 = 1;

/// More than a root of a million directories takes; nobody but the owner of the store writes it.
const LONGEST: u64 = 1 << 30;

#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Record {
    version: u32,
    pub(super) driver: DriverKind,
    /// Overlay: the family of attributes that hold the marks of `upper/`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    marks: Option<Namespace>,
    /// Overlay: whether no layer below `upper/` ever carried marks of the other family. Roots that were made when layers
    /// carried both do not say so.
    #[serde(default, skip_serializing_if = "std::ops::Not::not", rename = "singleFamily")]
    single_family: bool,
    /// Overlay: what all its mounts have in common.
    #[serde(default, skip_serializing_if = "Settings::is_default")]
    settings: Settings,
    /// Fuse: the name of the root, which its mount cannot bear.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    source: Option<String>,
    /// Copy: what it looked like when it was made.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    copied: Option<Snapshot>,
}

/// What every mount of a root has in common, see [`RootOptions`].
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct Settings {
    pub(super) redirect_dir: bool,
    pub(super) metacopy: bool,
    pub(super) ids: Option<IdMap>,
    pub(super) label: Option<String>,
    pub(super) volatile: bool,
    pub(super) nosuid: bool,
    pub(super) nodev: bool,
}

impl Settings {
    pub(super) fn of(options: &RootOptions) -> Self {
        let RootOptions { redirect_dir, metacopy, volatile, nosuid, nodev, .. } = *options;
        let (ids, label) = (options.ids.clone(), options.label.clone());
        Self { redirect_dir, metacopy, ids, label, volatile, nosuid, nodev }
    }

    /// With what one mount asks for in addition.
    pub(super) fn with(mut self, options: &RootOptions) -> Self {
        self.volatile |= options.volatile;
        self.nosuid |= options.nosuid;
        self.nodev |= options.nodev;
        self
    }

    fn is_default(&self) -> bool {
        *self == Self::default()
    }
}

/// The state of a copied root at the moment it was complete.
#[derive(Debug, Serialize, Deserialize)]
struct Snapshot {
    /// The oldest change time in it.
    begun: (i64, u32),
    /// Later than the latest.
    watermark: (i64, u32),
    /// Path (with `%` and what is no UTF-8 as `%XX`) and inode number of every directory.
    directories: Vec<(String, u64)>,
}

/// A root that holds everything, changed or not, and how to tell one from the other without reading it.
#[derive(Debug)]
#[non_exhaustive]
pub struct Copied {
    /// The root.
    pub root: Tree,
    /// What is in it and was not touched since it was made has a change time in this range. The end is the watermark:
    /// everything done since has that time or a later one, as long as the clock was not set back; if it was, most
    /// likely to before the beginning.
    pub untouched: Range<Timestamp>,
    /// The inode number of every directory that was made, the root among them.
    pub directories: BTreeMap<LayerPath, u64>,
}

impl Copied {
    /// Whether nothing about this inode was changed since the root was made. What changes further down does not
    /// change a directory.
    pub fn is_untouched(&self, stat: &Stat) -> bool {
        self.untouched.contains(&stat.ctime)
    }

    /// Whether the directory that is at `path` now is the one that was made there. In any other, for example one that
    /// was renamed, nothing can be told from change times.
    pub fn is_original(&self, path: &LayerPath, stat: &Stat) -> bool {
        self.directories.get(path) == Some(&stat.inode)
    }
}

impl Record {
    /// Of a root whose mounts obey `family`; `single_family` says whether its layers carry no marks of the other.
    pub(super) fn overlay(family: Namespace, single_family: bool, settings: Settings) -> Self {
        let driver = DriverKind::Overlay;
        Self { marks: Some(family), single_family, settings, ..Self::new(driver) }
    }

    fn new(driver: DriverKind) -> Self {
        let settings = Settings::default();
        Self {
            version: VERSION,
            driver,
            marks: None,
            single_family: false,
            settings,
            source: None,
            copied: None,
        }
    }

    pub(super) fn fuse(source: &str, settings: Settings) -> Self {
        let source = Some(source.to_owned());
        Self { settings, source, ..Self::new(DriverKind::Fuse) }
    }

    /// The same for a root of another name.
    pub(super) fn renamed(mut self, source: &str) -> Self {
        self.source = Some(source.to_owned());
        self
    }

    /// Whether it was written for the root of this name.
    pub(super) fn is_of(&self, source: &str) -> bool {
        self.source.as_deref() == Some(source)
    }

    pub(super) fn copy(untouched: Range<Timestamp>, directories: &[(LayerPath, u64)]) -> Self {
        let snapshot = Snapshot {
            begun: (untouched.start.seconds, untouched.start.nanos),
            watermark: (untouched.end.seconds, untouched.end.nanos),
            directories: directories.iter().map(|(path, inode)| (escape(path.as_bytes()), *inode)).collect(),
        };
        Self { copied: Some(snapshot), ..Self::new(DriverKind::Copy) }
    }

    /// Writes the record into `dir`, which has none yet.
    pub(super) fn write(&self, dir: &Dir, durability: Durability) -> Result<(), DriverError> {
        let content = serde_json::to_vec(self).map_err(|error| damaged(dir, &error))?;
        let mut file = dir.make_file(NAME, 0o644)?;
        file.write_all(&content).at_path("write", || dir.path_of(NAME))?;
        if durability == Durability::Full {
            file.sync_all().at_path("sync", || dir.path_of(NAME))?;
        }
        Ok(())
    }

    /// Reads the record in `dir`, if there is one of `driver`.
    pub(super) fn read_optional(dir: &Dir, driver: DriverKind) -> Result<Option<Self>, DriverError> {
        match Self::read(dir, driver) {
            Ok(record) => Ok(Some(record)),
            Err(DriverError::Record { .. }) => Ok(None),
            Err(DriverError::Io(error)) if error.is_not_found() => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Reads the record in `dir`, which must be `driver`'s.
    pub(super) fn read(dir: &Dir, driver: DriverKind) -> Result<Self, DriverError> {
        let content = dir.read(NAME, LONGEST)?;
        let head: Head = serde_json::from_slice(&content).map_err(|error| damaged(dir, &error))?;
        if head.version != VERSION {
            return Err(damaged(dir, &format!("version {} is not known, only {VERSION}", head.version)));
        }
        if head.driver != driver.as_str() {
            return Err(damaged(
                dir,
                &format!("it is the {} driver's, not the {driver} driver's", head.driver),
            ));
        }
        serde_json::from_slice(&content).map_err(|error| damaged(dir, &error))
    }

    /// The family that the marks of an overlay's upper directory are in.
    pub(super) fn marks(&self, dir: &Dir) -> Result<Namespace, DriverError> {
        self.marks.ok_or_else(|| damaged(dir, &"it does not say which attributes hold the marks"))
    }

    /// Whether directories of an overlay's upper directory may carry marks of the other family, which were copied up.
    pub(super) fn has_copied_marks(&self) -> bool {
        !self.single_family
    }

    /// What all mounts of an overlay have in common.
    pub(super) fn settings(&self) -> &Settings {
        &self.settings
    }

    /// What a copied root looked like when it was made.
    pub(super) fn copied(self, dir: &Dir, root: Tree) -> Result<Copied, DriverError> {
        let Some(snapshot) = self.copied else {
            return Err(damaged(dir, &"it does not say what was copied"));
        };
        let time = |(seconds, nanos)| Timestamp { seconds, nanos };
        let directories = snapshot.directories.into_iter().map(|(path, inode)| {
            let path = unescape(&path).and_then(|path| LayerPath::parse(path).ok());
            path.map(|path| (path, inode)).ok_or_else(|| damaged(dir, &"it holds a path that is none"))
        });
        Ok(Copied {
            root,
            untouched: time(snapshot.begun)..time(snapshot.watermark),
            directories: directories.collect::<Result<_, _>>()?,
        })
    }
}

/// What every version has.
#[derive(Deserialize)]
struct Head {
    version: u32,
    driver: String,
}

/// What became of a record that could not be read.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum MendedRecord {
    /// It is there again, for this reason or made of this.
    Written(&'static str),
    /// It is as it was, for this reason.
    Left(&'static str),
}

/// Writes the `root.json` of the root named `source` in `dir` again, from what is left of it and otherwise as of a root with
/// the default options on layers with marks of `family`; or only tells. What is left of it is kept beside it. One that a later
/// version wrote is left as it is.
///
/// # Errors
///
/// [`DriverError`] if the file system refuses; what was there is then still there.
pub fn mend_record(
    kind: DriverKind,
    dir: &Dir,
    source: &str,
    family: Namespace,
    to: Option<(&Workspace, Durability)>,
) -> Result<MendedRecord, DriverError> {
    let holds = if kind == DriverKind::Copy { "root" } else { "upper" };
    if dir.find(holds)?.is_none() {
        return Ok(MendedRecord::Left("what it wrote is not there"));
    }
    // A disk may fail once; what is whole must not be replaced by less.
    if Record::read(dir, kind).is_ok() {
        return Ok(MendedRecord::Written("a second look finds nothing wrong with it"));
    }
    // Of what is no file at all nothing can be read.
    let left = dir.find_content(NAME, LONGEST).unwrap_or_default().unwrap_or_default();
    if serde_json::from_slice::<Head>(&left).is_ok_and(|head| head.version > VERSION) {
        return Ok(MendedRecord::Left("a later version wrote its root.json"));
    }
    let settings = salvage::<Settings>(&left, "settings");
    let mut message = match &settings {
        Some(_) => "with the options that were left of the old one",
        None => "with the default options",
    };
    let settings = settings.unwrap_or_default();
    let record = match kind {
        DriverKind::Overlay => {
            // It is only written where it is true, and one of its words is left where a byte is wrong.
            let has = |word: &[u8]| left.windows(word.len()).any(|text| text == word);
            let single_family = has(b"single") || has(b"Family");
            let mut record = Record::overlay(family, single_family, settings);
            record.marks = salvage(&left, "marks").or(record.marks);
            record
        }
        DriverKind::Fuse => Record::fuse(source, settings),
        DriverKind::Copy => {
            let none = Timestamp { seconds: 0, nanos: 0 };
            let mut record = Record::copy(none..none, &[]);
            // Where nothing is known to be untouched, everything is compared.
            message = "everything in it will be compared, as it is not known any more what was touched";
            if let Some(copied) = salvage::<Snapshot>(&left, "copied") {
                (record.copied, message) = (Some(copied), "from what was left of the old one");
            }
            record
        }
    };
    if let Some((workspace, durability)) = to {
        dir.put_aside(NAME, Kind::File)?;
        if dir.find(NAME)?.is_some() {
            dir.remove_file(DAMAGED).optional()?;
            dir.hard_link(NAME, dir, DAMAGED)?;
        }
        let content = serde_json::to_vec(&record).map_err(|error| damaged(dir, &error))?;
        workspace.replace(&content, dir, NAME, durability)?;
    }
    Ok(MendedRecord::Written(message))
}

fn damaged(dir: &Dir, reason: &dyn std::fmt::Display) -> DriverError {
    DriverError::Record { path: dir.path_of(NAME), reason: reason.to_string() }
}

/// The driver that the root in `dir` is of, as what lies there shows; `None` if it does not.
///
/// # Errors
///
/// [`DriverError::Io`] if that cannot be told.
pub fn kind_of(dir: &Dir) -> Result<Option<DriverKind>, DriverError> {
    let root = dir.find_content(NAME, LONGEST).unwrap_or_default().unwrap_or_default();
    if let Some(kind) = salvage(&root, "driver") {
        return Ok(Some(kind));
    }
    let shows = [
        ("server", DriverKind::Fuse),
        ("root", DriverKind::Copy),
        ("upper", DriverKind::Overlay),
        ("top", DriverKind::Overlay),
    ];
    for (name, kind) in shows {
        if dir.find(name)?.is_some() {
            return Ok(Some(kind));
        }
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stack::marks::Marks;

    #[test]
    fn a_record_reads_back_and_is_no_other_drivers() {
        let temp = tempfile::tempdir().unwrap();
        let dir = Dir::open_ambient(temp.path()).unwrap();
        let time = |seconds| Timestamp { seconds, nanos: 5 };
        let directories = vec![(LayerPath::ROOT, 2), (LayerPath::parse(b"a/\xff").unwrap(), 3)];
        Record::copy(time(1)..time(9), &directories).write(&dir, Durability::Full).unwrap();
        let tree = Tree { dir: dir.try_clone().unwrap(), marks: Marks::None, declares_root: true };
        let copied = Record::read(&dir, DriverKind::Copy).unwrap().copied(&dir, tree).unwrap();
        assert_eq!(copied.untouched, time(1)..time(9));
        assert_eq!(copied.directories.into_iter().collect::<Vec<_>>(), directories);
        let error = Record::read(&dir, DriverKind::Overlay).unwrap_err().to_string();
        assert!(error.ends_with("it is the copy driver's, not the overlay driver's"), "{error}");
    }

    #[test]
    fn a_record_of_a_newer_version_is_refused_by_its_number() {
        let temp = tempfile::tempdir().unwrap();
        let dir = Dir::open_ambient(temp.path()).unwrap();
        dir.create_file(NAME, 0o644).unwrap().write_all(b"{\"version\":7,\"driver\":\"erofs\"}").unwrap();
        let error = Record::read(&dir, DriverKind::Overlay).unwrap_err().to_string();
        assert!(error.ends_with("version 7 is not known, only 1"), "{error}");
        dir.create_dir("upper", 0o755).unwrap();
        let mended = mend_record(DriverKind::Overlay, &dir, "plywood:x", Namespace::Trusted, None).unwrap();
        assert_eq!(mended, MendedRecord::Left("a later version wrote its root.json"));
    }
}
