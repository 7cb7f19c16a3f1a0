//! [`MountTable`]: what is mounted, as the kernel tells in `/proc/<pid>/mountinfo`; [`Points`] tells less, for less.
//!
//! This is the only source of what is mounted: a record of ours would be made a lie by a reboot, a crash or a foreign
//! `umount`. The table is that of the calling thread's mount namespace, and shows what is below its root.

mod points;

use std::ffi::{OsStr, OsString};
use std::fs;
use std::io::Read;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use super::error::DriverError;
use crate::fs::{Context, DeviceNumber};

pub use points::Points;

/// One mount.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct Mount {
    /// Its number, unique while it exists.
    pub id: u64,
    /// The number of the mount that it is mounted on.
    pub parent: u64,
    /// The number of its file system, which every mount of the same has.
    pub device: DeviceNumber,
    /// The directory of its file system that is seen.
    pub root: PathBuf,
    /// Where it is seen.
    pub point: PathBuf,
    /// Options of this mount, `ro` or `rw` first.
    pub options: String,
    /// The kind of file system, `overlay` for example.
    pub fs_type: String,
    /// What it was made from; a name given by whoever mounted it.
    pub source: OsString,
    /// Options of the file system.
    pub super_options: OsString,
}

impl Mount {
    /// Returns true if the mount or its file system is read-only.
    pub fn is_read_only(&self) -> bool {
        let has = |options: &[u8]| options.split(|&byte| byte == b',').any(|option| option == b"ro");
        has(self.options.as_bytes()) || has(self.super_options.as_bytes())
    }
}

/// Everything that is mounted.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct MountTable(Vec<Mount>);

/// The thread's own: an engine may have given one of its threads a mount namespace of its own.
const OWN: &str = "/proc/thread-self/mountinfo";

impl MountTable {
    /// Reads the table of the calling thread.
    ///
    /// # Errors
    ///
    /// [`DriverError`] if `/proc` is not mounted or the table cannot be read.
    pub fn read() -> Result<Self, DriverError> {
        Self::read_from(Path::new(OWN))
    }

    fn read_from(path: &Path) -> Result<Self, DriverError> {
        // In few large reads: between two of them the table may change.
        let mut text = Vec::with_capacity(256 << 10);
        fs::File::open(path).and_then(|mut file| file.read_to_end(&mut text)).at("read", path)?;
        Self::parse(&text).map_err(|(line, text)| DriverError::MountTable {
            path: path.to_owned(),
            line,
            text,
        })
    }

    /// Reads the format of `proc_pid_mountinfo(5)`; the error is a line that is not in it.
    fn parse(text: &[u8]) -> Result<Self, (usize, String)> {
        let lines = text.split(|&byte| byte == b'\n').enumerate().filter(|(_, line)| !line.is_empty());
        let mounts = lines.map(|(number, line)| {
            parse_line(line).ok_or_else(|| (number + 1, String::from_utf8_lossy(line).into_owned()))
        });
        mounts.collect::<Result<_, _>>().map(Self)
    }

    /// All mounts, in the kernel's order: a mount after the one it is mounted on.
    pub fn iter(&self) -> std::slice::Iter<'_, Mount> {
        self.0.iter()
    }

    /// The mounts that bear this name.
    pub fn named<'a>(&'a self, source: impl AsRef<OsStr> + 'a) -> impl Iterator<Item = &'a Mount> {
        self.0.iter().filter(move |mount| mount.source == source.as_ref())
    }

    /// What is mounted at `path`, an absolute path without symlinks; of several on top of each other the one that is
    /// seen.
    pub fn at(&self, path: impl AsRef<Path>) -> Option<&Mount> {
        let here: Vec<_> = self.0.iter().filter(|mount| mount.point == path.as_ref()).collect();
        here.iter().find(|mount| !here.iter().any(|over| over.parent == mount.id)).copied()
    }

    /// What is mounted at or somewhere below `path`, an absolute path without symlinks.
    pub fn within<'a>(&'a self, path: impl AsRef<Path> + 'a) -> impl Iterator<Item = &'a Mount> {
        self.0.iter().filter(move |mount| mount.point.starts_with(path.as_ref()))
    }
}

impl<'a> IntoIterator for &'a MountTable {
    type Item = &'a Mount;
    type IntoIter = std::slice::Iter<'a, Mount>;

    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}

/// A process that sees a mount in its own mount namespace.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct Elsewhere {
    /// A process of that namespace.
    pub pid: u32,
    /// The mount, with the path that it has there.
    pub mount: Mount,
}

/// Finds the mounts named `source` in the mount namespaces of all processes that this one may look at, the own among
/// them: an engine may have moved a root into its container's. One mount per namespace is told, and none that exists
/// as a handle only.
///
/// # Errors
///
/// [`DriverError`] if `/proc` cannot be listed. Processes that end meanwhile or are none of ours to look at are left
/// out.
pub fn everywhere(source: impl AsRef<OsStr>) -> Result<Vec<Elsewhere>, DriverError> {
    let mut seen = std::collections::BTreeSet::new();
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc").at("list", "/proc")? {
        let entry = entry.at("list", "/proc")?;
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
        // No permission to look, or it ended: neither is ours to report.
        let Ok(namespace) = fs::read_link(entry.path().join("ns/mnt")) else { continue };
        if !seen.insert(namespace) {
            continue;
        }
        let Ok(table) = MountTable::read_from(&entry.path().join("mountinfo")) else { continue };
        found.extend(table.named(&source).next().map(|mount| Elsewhere { pid, mount: mount.clone() }));
    }
    Ok(found)
}

fn parse_line(line: &[u8]) -> Option<Mount> {
    let mut fields = line.split(|&byte| byte == b' ');
    let mut next = || fields.next();
    let (id, parent) = (number(next()?)?, number(next()?)?);
    let (major, minor) = std::str::from_utf8(next()?).ok()?.split_once(':')?;
    let device = DeviceNumber { major: major.parse().ok()?, minor: minor.parse().ok()? };
    let (root, point) = (PathBuf::from(unescape(next()?)), PathBuf::from(unescape(next()?)));
    let options = String::from_utf8_lossy(next()?).into_owned();
    // Any number of optional fields, ended by a dash.
    while next()? != b"-" {}
    let fs_type = String::from_utf8_lossy(next()?).into_owned();
    // An empty source is an empty field; the kernel then still writes the space after it.
    let (source, super_options) = (unescape(next()?), unescape(next()?));
    Some(Mount { id, parent, device, root, point, options, fs_type, source, super_options })
}

fn number(field: &[u8]) -> Option<u64> {
    std::str::from_utf8(field).ok()?.parse().ok()
}

/// Undoes the kernel's `\ooo` for space, tab, newline, backslash and `#`.
fn unescape(field: &[u8]) -> OsString {
    let mut bytes = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((&byte, after)) = rest.split_first() {
        let octal =
            after.get(..3).filter(|digits| byte == b'\\' && digits.iter().all(|d| (b'0'..=b'7').contains(d)));
        match octal {
            Some(digits) => {
                // The kernel escapes single bytes, so that three digits never exceed 0o377.
                bytes.push(
                    digits.iter().fold(0_u8, |byte, digit| byte.wrapping_mul(8).wrapping_add(digit - b'0')),
                );
                rest = &after[3..];
            }
            None => {
                bytes.push(byte);
                rest = after;
            }
        }
    }
    OsString::from_vec(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    const TABLE: &[u8] = b"\
22 1 254:0 / / rw,relatime shared:1 - ext4 /dev/vda rw,discard\n\
30 22 0:26 / /a\\040b\\011c\\134d rw,nosuid shared:3 master:2 propagate_from:9 - tmpfs  rw\n\
31 22 0:40 / /c/merged rw,relatime - overlay plywood:one ro,lowerdir+=/x\n\
32 31 0:41 / /c/merged ro,relatime - overlay plywood:two rw\n\
33 22 0:42 /sub /c/merged-not rw - overlay plywood:one rw\n";

    #[test]
    fn a_table_is_read_with_its_escapes_and_optional_fields() {
        let table = MountTable::parse(TABLE).unwrap();
        let names: Vec<_> = table.iter().map(|mount| mount.point.to_str().unwrap()).collect();
        assert_eq!(names, ["/", "/a b\tc\\d", "/c/merged", "/c/merged", "/c/merged-not"]);
        assert_eq!(table.0[1].source, "");
        assert_eq!(table.0[1].super_options, "rw");
        assert_eq!(table.0[4].root, Path::new("/sub"));
    }

    #[test]
    fn the_mount_that_is_seen_is_the_one_on_top() {
        let table = MountTable::parse(TABLE).unwrap();
        assert_eq!(table.at("/c/merged").unwrap().id, 32);
        assert!(table.at("/c").is_none());
        assert_eq!(table.within("/c/merged").count(), 2);
        assert_eq!(table.named("plywood:one").map(|mount| mount.id).collect::<Vec<_>>(), [31, 33]);
        assert!(table.iter().filter(|mount| mount.is_read_only()).map(|mount| mount.id).eq([31, 32]));
    }

    #[test]
    fn a_line_that_is_no_mount_is_an_error_that_shows_it() {
        assert_eq!(MountTable::parse(b"1 2 3\n"), Err((1, "1 2 3".to_owned())));
        assert!(MountTable::parse(b"").unwrap().iter().next().is_none());
    }

    #[test]
    fn the_own_table_has_a_root() {
        assert!(MountTable::read().unwrap().at("/").is_some());
    }
}
