//! [`Faults`]: what is wrong with an object of a layer, and what is not wrong though it looks different.
//!
//! A file system may round times, and the kernel has a form of its own for ACLs and file capabilities. What unpacking could
//! not set is noted in the layer's record, and is no fault.

use std::ops::BitOrAssign;

use rustix::io::Errno;

use crate::fs::{FileType, Metadata, Timestamp};

/// Something that is not as the tar says.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub(super) enum Fault {
    Type,
    Mode,
    Owner,
    Time,
    /// The time has lost its fraction, which is one if the file system keeps fractions.
    Fraction,
    Device,
    Attributes,
    Target,
    Size,
    Content,
    Unreadable,
}

/// A set of them.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) struct Faults(u16);

impl From<Fault> for Faults {
    fn from(fault: Fault) -> Self {
        Self(1 << fault as u8)
    }
}

impl BitOrAssign for Faults {
    fn bitor_assign(&mut self, other: Self) {
        self.0 |= other.0;
    }
}

impl Faults {
    pub(super) fn has(self, fault: Fault) -> bool {
        self.0 & Self::from(fault).0 != 0
    }

    fn remove(&mut self, fault: Fault) {
        self.0 &= !Self::from(fault).0;
    }

    /// Takes away what follows from an owner of something of type `expected` that could not be set. An empty file may stand
    /// for something else; type and mode are lost with the owner then.
    pub(super) fn excuse_owner(&mut self, expected: &FileType, found: &FileType) {
        self.remove(Fault::Owner);
        match (expected, found) {
            (FileType::File { .. }, FileType::File { .. }) | (FileType::Directory, FileType::Directory) => {
                self.remove(Fault::Mode);
            }
            (
                FileType::Fifo | FileType::CharDevice(_) | FileType::BlockDevice(_),
                FileType::File { size: 0 },
            ) => {
                self.remove(Fault::Type);
            }
            _ => {}
        }
    }

    /// Says each in words.
    pub(super) fn texts(self, fractions: bool) -> impl Iterator<Item = &'static str> {
        let all = [
            (Fault::Type, "is of another type"),
            (Fault::Mode, "has another mode"),
            (Fault::Owner, "has another owner"),
            (Fault::Time, "has another time"),
            (Fault::Fraction, "has another time"),
            (Fault::Device, "is another device"),
            (Fault::Attributes, "has other attributes"),
            (Fault::Target, "leads elsewhere"),
            (Fault::Size, "has another size"),
            (Fault::Content, "has another content"),
            (Fault::Unreadable, "cannot be read"),
        ];
        let counts = move |fault| self.has(fault) && (fault != Fault::Fraction || fractions);
        all.into_iter().filter(move |(fault, _)| counts(*fault)).map(|(_, text)| text)
    }
}

/// Compares the types of two objects, with what belongs to them.
pub(super) fn types(expected: &FileType, found: &FileType) -> Faults {
    use FileType::{BlockDevice, CharDevice, File, Symlink};
    match (expected, found) {
        _ if expected == found => Faults::default(),
        (File { .. }, File { .. }) => Fault::Size.into(),
        (Symlink(_), Symlink(_)) => Fault::Target.into(),
        (CharDevice(_), CharDevice(_)) | (BlockDevice(_), BlockDevice(_)) => Fault::Device.into(),
        _ => Fault::Type.into(),
    }
}

/// Compares metadata. `is_lost` says of an attribute that it could not be set.
pub(super) fn metadata(
    expected: &Metadata,
    found: &Metadata,
    file_type: &FileType,
    is_lost: impl Fn(&[u8]) -> bool,
) -> Faults {
    let mut faults = Faults::default();
    // Linux gives symbolic links no mode of their own.
    if expected.mode != found.mode && !matches!(file_type, FileType::Symlink(_)) {
        faults |= Fault::Mode.into();
    }
    if (expected.uid, expected.gid) != (found.uid, found.gid) {
        faults |= Fault::Owner.into();
    }
    if expected.mtime != found.mtime {
        match found.mtime {
            Timestamp { seconds, nanos: 0 } if seconds == expected.mtime.seconds => {
                faults |= Fault::Fraction.into();
            }
            found if is_bound(expected.mtime, found) => {}
            _ => faults |= Fault::Time.into(),
        }
    }
    let has_same = |key: &Vec<u8>, value: &Vec<u8>| match found.xattrs.get(key) {
        Some(other) => {
            value == other || kernel_form(key, value, expected.mode) == kernel_form(key, other, found.mode)
        }
        None => is_lost(key) || key == ACCESS && is_mode_alone(value),
    };
    let is_unexpected = |key: &Vec<u8>| !expected.xattrs.contains_key(key);
    if !expected.xattrs.iter().all(|(key, value)| has_same(key, value))
        || found.xattrs.keys().any(is_unexpected)
    {
        faults |= Fault::Attributes.into();
    }
    faults
}

const ACCESS: &[u8] = b"system.posix_acl_access";
const DEFAULT: &[u8] = b"system.posix_acl_default";
const CAPABILITY: &[u8] = b"security.capability";

/// Whether `found` is the first or the last time that some file system can hold, and `expected` lies beyond it.
fn is_bound(expected: Timestamp, found: Timestamp) -> bool {
    // 1901, 1970; 2038, 2106, 2446 (ext4), 2486 (xfs).
    const FIRST: [i64; 2] = [i32::MIN as i64, 0];
    const LAST: [i64; 4] = [i32::MAX as i64, u32::MAX as i64, 15_032_385_535, 16_299_260_424];
    match expected > found {
        true => LAST.contains(&found.seconds),
        false => FIRST.contains(&found.seconds),
    }
}

/// The value that the kernel shows for one that was set on something with this mode.
fn kernel_form(key: &[u8], value: &[u8], mode: u32) -> Vec<u8> {
    match key {
        ACCESS | DEFAULT => {
            let mut form = value.to_vec();
            let entries = form.get_mut(4..).unwrap_or_default();
            let has_mask = entries.chunks_exact(8).any(|entry| entry[0] == 0x10);
            for entry in entries.chunks_exact_mut(8) {
                let permissions = match entry[0] {
                    0x01 => Some(mode >> 6),
                    0x10 => Some(mode >> 3),
                    0x04 if !has_mask => Some(mode >> 3),
                    0x20 => Some(mode),
                    _ => None,
                };
                // A later change of the mode changes the ACL.
                if let (ACCESS, Some(permissions)) = (key, permissions) {
                    entry[2] = (permissions & 7) as u8;
                }
                if !matches!(entry[0], 0x02 | 0x08) {
                    entry[4..].fill(0xff);
                }
            }
            form
        }
        // The third version for root says what the second does.
        CAPABILITY if value.len() == 24 && value[20..] == [0; 4] => {
            let mut form = value[..20].to_vec();
            form[3] = 2;
            form
        }
        _ => value.to_vec(),
    }
}

/// Whether an ACL says nothing that the mode does not say; the kernel stores none then.
fn is_mode_alone(acl: &[u8]) -> bool {
    acl.get(4..).is_some_and(|entries| entries.chunks(8).all(|entry| matches!(entry[0], 0x01 | 0x04 | 0x20)))
}

/// Whether an error of the system says that something on disk is damaged.
pub(super) fn is_damage(error: Option<Errno>) -> bool {
    error.is_some_and(crate::fs::is_damage)
}

/// Whether a file with `links` names, or one that should have `names`, has as many as a file system may allow: further
/// names are names of another file.
pub(super) fn is_full(links: u64, names: u32) -> bool {
    // ext2 and ext3; other file systems allow more.
    const FEWEST: u64 = 32_000;
    links >= FEWEST || u64::from(names) >= FEWEST
}
