//! [`Record`]: what `layer.json` says of the tree beside it.
//!
//! The record is written before the layer gets its name and changes once at most: when the tree is known to be on disk.
//! Whether a layer may be believed is decided here ([`Record::is_trusted`]): after an unclean stop the record may be
//! there and the files empty (invariant 4).

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use super::key::LayerKey;
use super::measure::Measure;
use super::unpack::{Losses, Unpacked};
use crate::digest::{DiffId, Digest};
use crate::fs::{Metadata, Session, Timestamp};
use crate::path::LayerPath;
use crate::stack::marks::Marks;
use crate::stack::object::{Loss, Lost};
use crate::text::{escape, unescape};
use crate::whiteout::Namespace;

/// The version of the record's format that this crate writes. Version 1 is read: its layers have the marks of both families
/// if root unpacked them, and are else the same.
pub(super) const VERSION: u32 = 2;

/// The oldest version of the record's format that this crate reads.
const OLDEST: u32 = 1;

/// What is known of an unpacked layer.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub struct Record {
    pub(super) version: u32,
    /// Digest of the layer's tar. A merged layer has none, and the digest in its key stands here and below.
    pub diff_id: DiffId,
    /// How the layer is held.
    pub form: Form,
    /// Which marks its tree carries.
    pub families: Families,
    /// The blob it was unpacked from.
    pub blob: Digest,
    /// Length of the tar in bytes.
    pub tar_bytes: u64,
    /// Bytes of data in its files, holes not counted.
    pub data_bytes: u64,
    /// Bytes of the blocks of 4 KiB that its files have data in, and one block for each of its directories: what `du` says
    /// where blocks are of that size. Of a layer that was unpacked
    /// before this was noted it is not known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub allocated_bytes: Option<u64>,
    /// Number of entries in the tar.
    pub entries: u64,
    /// Whether the layer says what its root directory is like.
    pub declares_root: bool,
    /// The highest owners in it: a map of ids has to reach so far.
    #[serde(default)]
    pub highest_ids: HighestIds,
    /// Directories that the layer needs and does not describe, and what they were taken to be. Sorted.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub assumed: Vec<Assumed>,
    /// Attributes and owners that could not be held when it was unpacked. A record of before this was noted has none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lost: Option<LostItems>,
    /// What it was merged from, lowest first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub merged: Vec<LayerKey>,
    /// Names in its tree, and the lengths of the files under them. A record of before this was noted has none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub measure: Option<Measure>,
    /// The boot in which it was written.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub boot: Option<String>,
    /// The mounted file system that it was written to; see [`crate::fs::file_system_id`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub file_system: Option<String>,
    /// Whether the tree is known to be on disk.
    pub settled: bool,
}

/// The families of marks that a layer carries.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum Families {
    /// `trusted.overlay.*`: root unpacked it.
    Trusted,
    /// `user.overlay.*`: somebody unpacked it who may not write `trusted.*`.
    User,
    /// Both: root unpacked it, and its record has version 1. Such a layer is made again at its next use.
    Both,
}

impl Families {
    /// Returns the marks that its tree carries.
    pub fn marks(self) -> Marks {
        match self {
            Self::Trusted => Marks::Overlay(Namespace::Trusted),
            Self::User => Marks::Overlay(Namespace::User),
            Self::Both => Marks::Both,
        }
    }

    /// Returns the family, if there is one only.
    pub fn single(self) -> Option<Namespace> {
        match self {
            Self::Trusted => Some(Namespace::Trusted),
            Self::User => Some(Namespace::User),
            Self::Both => None,
        }
    }
}

impl From<Namespace> for Families {
    fn from(family: Namespace) -> Self {
        match family {
            Namespace::Trusted => Self::Trusted,
            Namespace::User => Self::User,
        }
    }
}

/// The highest user and the highest group that something belongs to.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[non_exhaustive]
pub struct HighestIds {
    /// The user.
    pub uid: u32,
    /// The group.
    pub gid: u32,
}

impl HighestIds {
    /// Takes in one more owner.
    pub(super) fn include(&mut self, uid: u32, gid: u32) {
        (self.uid, self.gid) = (self.uid.max(uid), self.gid.max(gid));
    }
}

/// What a file system or a process could not hold of a layer, so that a check does not take it for damage.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[non_exhaustive]
pub struct LostItems {
    /// How many there were.
    pub count: u64,
    /// The first of them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub items: Vec<LostItem>,
}

/// One thing that could not be held.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
#[non_exhaustive]
pub struct LostItem {
    /// The object, escaped.
    path: String,
    /// The attribute, escaped; the owner if none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    xattr: Option<String>,
}

/// Bytes of names in [`LostItems`]: more are counted only.
const MOST_LOST: usize = 64 << 10;

impl LostItems {
    /// Adds what was lost.
    pub(super) fn add(&mut self, losses: &Losses) {
        self.count += losses.count;
        let mut left = MOST_LOST;
        for Loss { path, what, .. } in &losses.described {
            let xattr = match what {
                Lost::Owner { .. } => None,
                Lost::Xattr(name) => Some(escape(name)),
                // A check sees for itself which names share a file.
                Lost::Link => continue,
            };
            let item = LostItem { path: escape(path.as_bytes()), xattr };
            match left.checked_sub(item.path.len() + item.xattr.as_ref().map_or(0, String::len)) {
                Some(rest) => left = rest,
                None => break,
            }
            self.items.push(item);
        }
    }
}

impl From<&Losses> for LostItems {
    fn from(losses: &Losses) -> Self {
        let mut items = Self::default();
        items.add(losses);
        items
    }
}

/// [`LostItems`], to be asked.
#[derive(Debug)]
pub(super) struct Missing {
    items: BTreeSet<LostItem>,
    /// Whether there are more, or may be.
    more: bool,
}

impl Missing {
    /// Returns what `record` says is missing.
    pub(super) fn of(record: &Record) -> Self {
        match &record.lost {
            Some(LostItems { count, items }) => {
                Self { items: items.iter().cloned().collect(), more: *count > items.len() as u64 }
            }
            None => Self { items: BTreeSet::new(), more: true },
        }
    }

    /// Whether an attribute could not be set.
    pub(super) fn xattr(&self, path: &LayerPath, name: &[u8]) -> bool {
        self.has(path, Some(escape(name)))
    }

    /// Whether an owner could not be set.
    pub(super) fn owner(&self, path: &LayerPath) -> bool {
        self.has(path, None)
    }

    fn has(&self, path: &LayerPath, xattr: Option<String>) -> bool {
        let listed =
            || self.items.contains(&LostItem { path: escape(path.as_bytes()), xattr: xattr.clone() });
        self.more || !self.items.is_empty() && listed()
    }
}

/// The forms of layers.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum Form {
    /// A directory `tree` in overlayfs's form.
    Tree,
}

/// A directory that a layer does not describe.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(try_from = "AssumedText", into = "AssumedText")]
pub struct Assumed {
    /// The directory.
    pub path: LayerPath,
    /// What the nearest layer below says of it; [`Metadata::default_directory`] if none has it.
    pub metadata: Metadata,
    /// Whether it is in the layer only to hold deletions. A base that has no such directory needs the layer without it.
    pub holds_only_deletions: bool,
}

/// Why a `layer.json` cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RecordError {
    /// It is no record: cut, or damaged.
    #[error("it is damaged")]
    Damaged(#[from] serde_json::Error),
    /// It was written by a newer version of this crate.
    #[error(
        "its format has version {found}, expected {VERSION} or less; use a newer version of plywood, or remove the layer: it is unpacked again"
    )]
    Version {
        /// What it says.
        found: u32,
    },
}

impl Record {
    /// A record of the layer `diff_id` that was unpacked just now from `blob` in `session`, and not synced.
    pub(super) fn new(
        diff_id: DiffId,
        blob: Digest,
        family: Namespace,
        unpacked: &Unpacked,
        assumed: Vec<Assumed>,
        session: Option<&Session>,
    ) -> Self {
        Self {
            version: VERSION,
            diff_id,
            form: Form::Tree,
            families: family.into(),
            blob,
            tar_bytes: unpacked.tar_bytes,
            data_bytes: unpacked.data_bytes,
            allocated_bytes: Some(unpacked.allocated_bytes),
            entries: unpacked.entries,
            declares_root: unpacked.declares_root,
            highest_ids: unpacked.highest_ids,
            assumed,
            merged: Vec::new(),
            measure: unpacked.measure,
            lost: Some(LostItems::from(&unpacked.losses)),
            boot: session.map(|session| session.boot.clone()),
            file_system: session.map(|session| session.file_system.clone()),
            settled: false,
        }
    }

    /// A record of what `layers` were merged into just now, not synced. It holds no data that is not theirs.
    pub(super) fn merged(
        digest: Digest,
        layers: Vec<LayerKey>,
        family: Namespace,
        entries: u64,
        declares_root: bool,
        highest_ids: HighestIds,
        session: Option<&Session>,
    ) -> Self {
        Self {
            version: VERSION,
            diff_id: DiffId::of_tar(digest),
            form: Form::Tree,
            families: family.into(),
            blob: digest,
            tar_bytes: 0,
            data_bytes: 0,
            allocated_bytes: None,
            entries,
            declares_root,
            highest_ids,
            assumed: Vec::new(),
            merged: layers,
            measure: None,
            lost: Some(LostItems::default()),
            boot: session.map(|session| session.boot.clone()),
            file_system: session.map(|session| session.file_system.clone()),
            settled: false,
        }
    }

    /// Notes that the tree was written in `session`.
    pub(super) fn written_in(&mut self, session: Option<&Session>) {
        self.boot = session.map(|session| session.boot.clone());
        self.file_system = session.map(|session| session.file_system.clone());
    }

    /// The directories that the layer does not describe, each with whether it exists only to hold deletions.
    pub(super) fn implied(&self) -> impl Iterator<Item = (&LayerPath, bool)> {
        self.assumed.iter().map(|assumed| (&assumed.path, assumed.holds_only_deletions))
    }

    /// Reads the content of a `layer.json`.
    ///
    /// # Errors
    ///
    /// [`RecordError::Version`] if the format is not this one, otherwise [`RecordError::Damaged`].
    pub fn parse(json: &[u8]) -> Result<Self, RecordError> {
        #[derive(Deserialize)]
        struct Versioned {
            version: u32,
        }
        match serde_json::from_slice::<Self>(json) {
            Ok(record) if record.is_known() => Ok(record),
            // A newer record may lack what this one needs, and is not damaged for that.
            failed => match serde_json::from_slice::<Versioned>(json)?.version {
                OLDEST..=VERSION => match failed {
                    Ok(_) => Err(serde::de::Error::custom("no record of its version has these families")),
                    Err(error) => Err(error),
                }
                .map_err(RecordError::Damaged),
                found => Err(RecordError::Version { found }),
            },
        }
    }

    /// Whether a record of its version can say what it says.
    fn is_known(&self) -> bool {
        match self.version {
            1 => self.families != Families::Trusted,
            VERSION => self.families != Families::Both,
            _ => false,
        }
    }

    /// Bytes that it takes on disk, as far as the record tells.
    pub fn disk_bytes(&self) -> u64 {
        self.allocated_bytes.unwrap_or(self.data_bytes)
    }

    /// The content of a `layer.json`.
    pub fn to_json(&self) -> Vec<u8> {
        let mut json = serde_json::to_vec_pretty(self).expect("numbers, strings and lists are JSON");
        json.push(b'\n');
        json
    }

    /// Returns whether the tree holds what was written, as seen in `session`: it is known to be on disk, or the file system
    /// has been mounted ever since.
    pub fn is_trusted(&self, session: Option<&Session>) -> bool {
        self.settled || session.is_some_and(|session| self.is_of(session))
    }

    /// Returns whether it is the record of a layer that is called `key`, as far as the key tells.
    pub(super) fn is_of_key(&self, key: LayerKey) -> bool {
        match key {
            LayerKey::Free(diff_id) => self.diff_id == diff_id && self.merged.is_empty(),
            LayerKey::Bound(_) => self.merged.is_empty(),
            LayerKey::Merged(_) => LayerKey::merged(&self.merged) == key,
        }
    }

    /// Returns whether it was written in `session`. A record that does not name its file system is of no session.
    fn is_of(&self, session: &Session) -> bool {
        self.boot.as_deref() == Some(&session.boot)
            && self.file_system.as_deref() == Some(&session.file_system)
    }

    /// Returns whether it was written in this boot through a mount that is not that of `session`: either the file system
    /// was mounted again, or two processes share the store through mounts that have no id in common.
    pub(super) fn is_of_another_mount(&self, session: &Session) -> bool {
        self.boot.as_deref() == Some(&session.boot) && !self.is_of(session)
    }
}

/// [`Assumed`] as it stands in the file: bytes are text, permissions are octal.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct AssumedText {
    path: String,
    mode: String,
    uid: u32,
    gid: u32,
    /// Seconds and nanoseconds.
    mtime: (i64, u32),
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    xattrs: BTreeMap<String, String>,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    holds_only_deletions: bool,
}

impl From<Assumed> for AssumedText {
    fn from(Assumed { path, metadata, holds_only_deletions }: Assumed) -> Self {
        let xattrs = metadata.xattrs.iter().map(|(name, value)| (escape(name), escape(value))).collect();
        Self {
            path: escape(path.as_bytes()),
            mode: format!("{:04o}", metadata.mode),
            uid: metadata.uid,
            gid: metadata.gid,
            mtime: (metadata.mtime.seconds, metadata.mtime.nanos),
            xattrs,
            holds_only_deletions,
        }
    }
}

impl TryFrom<AssumedText> for Assumed {
    type Error = String;

    fn try_from(text: AssumedText) -> Result<Self, String> {
        let bytes = |text: &str| unescape(text).ok_or_else(|| format!("{text:?} is no escaped text"));
        let path = LayerPath::parse(bytes(&text.path)?).map_err(|error| format!("{}: {error}", text.path))?;
        let mode = u32::from_str_radix(&text.mode, 8).ok().filter(|&mode| mode <= 0o7777);
        let mut xattrs = BTreeMap::new();
        for (name, value) in &text.xattrs {
            xattrs.insert(bytes(name)?, bytes(value)?);
        }
        let metadata = Metadata {
            mode: mode.ok_or_else(|| format!("{:?} is no mode", text.mode))?,
            uid: text.uid,
            gid: text.gid,
            mtime: Timestamp { seconds: text.mtime.0, nanos: text.mtime.1 },
            xattrs,
        };
        Ok(Self { path, metadata, holds_only_deletions: text.holds_only_deletions })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record() -> Record {
        let diff = DiffId::of_tar(Digest::of(b"tar"));
        let mut record = Record {
            version: VERSION,
            diff_id: diff,
            form: Form::Tree,
            families: Families::Trusted,
            blob: Digest::of(b"blob"),
            tar_bytes: 1024,
            data_bytes: 0,
            allocated_bytes: Some(4096),
            entries: 3,
            declares_root: true,
            highest_ids: HighestIds { uid: 1000, gid: 7 },
            assumed: Vec::new(),
            merged: vec![LayerKey::Free(diff)],
            measure: Some(Measure { names: 2, bytes: 7 }),
            lost: Some(LostItems {
                count: 2,
                items: vec![LostItem { path: "a\\b".to_owned(), xattr: None }],
            }),
            boot: Some("boot".to_owned()),
            file_system: Some("ext4/vda:7".to_owned()),
            settled: false,
        };
        let mut metadata = Metadata { mode: 0o2711, uid: 1, gid: 2, ..Metadata::default() };
        metadata.mtime = Timestamp { seconds: -1, nanos: 5 };
        metadata.xattrs.insert(b"user.x\xff".to_vec(), b"\0\\".to_vec());
        let path = LayerPath::parse(b"usr/\xfe").unwrap();
        record.assumed.push(Assumed { path, metadata, holds_only_deletions: true });
        record
    }

    #[test]
    fn a_record_reads_back_as_it_was_written() {
        let record = record();
        let json = record.to_json();
        assert_eq!(Record::parse(&json).unwrap(), record);
        assert_eq!(Record::parse(&json).unwrap().to_json(), json);
    }

    #[test]
    fn a_record_that_lacks_what_was_added_later_is_read() {
        let json =
            String::from_utf8(record().to_json()).unwrap().replace("  \"allocatedBytes\": 4096,\n", "");
        let old = Record::parse(json.as_bytes()).unwrap();
        assert_eq!(old, Record { allocated_bytes: None, ..record() });
        assert_eq!(String::from_utf8(old.to_json()).unwrap(), json);
    }

    #[test]
    fn an_unknown_version_is_no_damage_and_damage_is_no_unknown_version() {
        let newer = br#"{"version":3,"anything":[]}"#;
        assert!(matches!(Record::parse(newer), Err(RecordError::Version { found: 3 })));
        let json = record().to_json();
        for cut in [0, 1, json.len() / 2, json.len() - 3] {
            assert!(matches!(Record::parse(&json[..cut]), Err(RecordError::Damaged(_))), "{cut}");
        }
        let wrong = String::from_utf8(json).unwrap().replace("2711", "2811");
        assert!(matches!(Record::parse(wrong.as_bytes()), Err(RecordError::Damaged(_))));
    }

    #[test]
    fn a_record_of_version_1_is_read_and_stays_one() {
        for families in [Families::Both, Families::User] {
            let old = Record { version: 1, families, ..record() };
            let read = Record::parse(&old.to_json()).unwrap();
            assert_eq!(read, old);
            assert_eq!(read.to_json(), old.to_json());
        }
        for (version, families) in [(1, Families::Trusted), (VERSION, Families::Both)] {
            let never = Record { version, families, ..record() }.to_json();
            assert!(matches!(Record::parse(&never), Err(RecordError::Damaged(_))), "{version}");
        }
    }

    #[test]
    fn an_unsettled_layer_is_trusted_while_its_file_system_stays_mounted_only() {
        let session = |boot: &str, file_system: &str| Session {
            boot: boot.to_owned(),
            file_system: file_system.to_owned(),
        };
        let here = session("boot", "ext4/vda:7");
        let mut record = record();
        assert!(record.is_trusted(Some(&here)));
        assert!(!record.is_trusted(Some(&session("another", "ext4/vda:7"))) && !record.is_trusted(None));
        let again = session("boot", "ext4/vda:8");
        assert!(!record.is_trusted(Some(&again)), "it was mounted again");
        assert!(record.is_of_another_mount(&again) && !record.is_of_another_mount(&here));
        record.file_system = None;
        assert!(!record.is_trusted(Some(&here)), "a record of before that was noted");
        record.boot = None;
        assert!(!record.is_trusted(None), "two unknown boots are not the same");
        record.settled = true;
        assert!(record.is_trusted(Some(&again)) && record.is_trusted(None));
    }
}
