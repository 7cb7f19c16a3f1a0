//! [`Points`]: where something is mounted and what it is called, which is all that most questions are about.
//!
//! `mountinfo` has the options of every file system too, of an overlay the paths of all its layers, which the kernel prints
//! up to four times until they fit: half a millisecond for one root of a hundred layers, whichever root is asked for.
//! `mountstats` is the same list without them.

use std::collections::HashSet;
use std::ffi::{OsStr, OsString};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::{MountTable, unescape};
use crate::driver::error::DriverError;

/// The names and places of everything that is mounted, as the calling thread sees it.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Points(Vec<Point>);

#[derive(Clone, PartialEq, Eq, Debug)]
struct Point {
    source: OsString,
    path: PathBuf,
}

impl Points {
    /// Asks the kernel.
    ///
    /// # Errors
    ///
    /// [`DriverError`] if `/proc` is not mounted or the table cannot be read.
    pub fn read() -> Result<Self, DriverError> {
        match read_statistics().map(|text| Self::parse(&text)) {
            Ok(Some(points)) => return Ok(points),
            Ok(None) => tracing::debug!("mountstats is not as documented"),
            // It is not for everyone: a process that may not be looked into has no right to its own.
            Err(error) => tracing::debug!(%error, "mountstats cannot be read"),
        }
        let mounts = MountTable::read()?.0.into_iter();
        Ok(Self(mounts.map(|mount| Point { source: mount.source, path: mount.point }).collect()))
    }

    /// Reads the format of `proc_pid_mountstats(5)`. Lines that do not begin as that of a mount are what a file system
    /// has to say of itself.
    fn parse(text: &[u8]) -> Option<Self> {
        let lines = text.split(|&byte| byte == b'\n');
        let lines = lines.filter(|line| line.starts_with(b"device ") || line.starts_with(b"no device "));
        lines.map(parse_line).collect::<Option<_>>().map(Self)
    }

    /// Where the mounts are that bear this name.
    pub fn named<'a>(&'a self, source: impl AsRef<OsStr> + 'a) -> impl Iterator<Item = &'a Path> {
        self.0.iter().filter(move |point| point.source == source.as_ref()).map(|point| &*point.path)
    }

    /// The names of everything that is mounted: to ask for many.
    pub fn by_name(&self) -> HashSet<&OsStr> {
        self.0.iter().map(|point| &*point.source).collect()
    }

    /// What that is called which is mounted at `path`, an absolute path without symlinks; of several on top of each other
    /// the one that is seen.
    ///
    /// # Errors
    ///
    /// As [`Points::read`]: which of several is seen has to be asked for.
    pub fn at(&self, path: impl AsRef<Path>) -> Result<Option<OsString>, DriverError> {
        let mut here = self.0.iter().filter(|point| point.path == path.as_ref());
        match (here.next(), here.next()) {
            (Some(_), Some(_)) => Ok(MountTable::read()?.at(path).map(|mount| mount.source.clone())),
            (one, _) => Ok(one.map(|point| point.source.clone())),
        }
    }
}

/// That of the calling thread, which may have a mount namespace of its own. It is not where the threads of a process are
/// listed, but each can be found where the processes are.
fn read_statistics() -> io::Result<Vec<u8>> {
    let own = fs::read_link("/proc/thread-self")?;
    let thread = own.file_name().ok_or(io::ErrorKind::NotFound)?;
    fs::read(Path::new("/proc").join(thread).join("mountstats"))
}

/// `device <name> mounted on <path> with …`, or `no device mounted …`.
fn parse_line(line: &[u8]) -> Option<Point> {
    let (source, rest) = match line.strip_prefix(b"device ") {
        Some(rest) => rest.split_at(rest.iter().position(|&byte| byte == b' ')?),
        None => (&line[..0], line.strip_prefix(b"no device")?),
    };
    let path = rest.strip_prefix(b" mounted on ")?.split(|&byte| byte == b' ').next()?;
    Some(Point { source: unescape(source), path: unescape(path).into() })
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &[u8] = b"\
device /dev/vda mounted on / with fstype ext4\n\
no device mounted on /run with fstype tmpfs\n\
device  mounted on /a\\040b\\134 with fstype tmpfs\n\
device host:/x mounted on /nfs with fstype nfs4 statvers=1.1\n\
\topts:\trw\n\
\n\
device plywood:one mounted on /c/merged with fstype overlay\n";

    #[test]
    fn names_and_places_are_found_between_what_file_systems_say() {
        let points = Points::parse(TEXT).unwrap();
        let paths: Vec<_> = points.0.iter().map(|point| point.path.to_str().unwrap()).collect();
        assert_eq!(paths, ["/", "/run", "/a b\\", "/nfs", "/c/merged"]);
        assert_eq!(points.named("").count(), 2);
        assert_eq!(points.named("plywood:one").collect::<Vec<_>>(), [Path::new("/c/merged")]);
        assert_eq!(points.at("/c/merged").unwrap().unwrap(), "plywood:one");
        assert_eq!(points.at("/c").unwrap(), None);
        for line in ["device x", "device x mounted at /", "no device at all"] {
            assert_eq!(Points::parse(line.as_bytes()), None, "{line}");
        }
    }

    #[test]
    fn the_short_table_of_a_thread_is_the_long_one() {
        std::thread::spawn(|| {
            read_statistics().unwrap();
            let points = Points::read().unwrap().0.into_iter();
            let mounts = MountTable::read().unwrap();
            // Other tests mount and unmount.
            let lasting = |path: &Path| ["/", "/proc", "/sys", "/dev"].contains(&path.to_str().unwrap());
            let points: Vec<_> = points.filter(|point| lasting(&point.path)).collect();
            let mounts = mounts.iter().filter(|mount| lasting(&mount.point));
            let mounts: Vec<_> = mounts
                .map(|mount| Point { source: mount.source.clone(), path: mount.point.clone() })
                .collect();
            assert!(!points.is_empty());
            assert_eq!(points, mounts);
        })
        .join()
        .unwrap();
    }
}
