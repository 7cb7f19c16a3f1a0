//! [`Processes`]: the directories that running processes stand in, as far as `/proc` shows them.
//!
//! The root of the copy driver is an ordinary directory: no mount says that a process works in it. Its processes are found
//! by their root and working directories. `/proc` shows the processes of this pid namespace, and of other users only to
//! root; files that are open or mapped are not looked at. A lock that the engine's process keeps, and its children
//! inherit, knows more: see [`crate::Container::hold`].

use std::collections::HashMap;
use std::fs;
use std::os::fd::OwnedFd;
use std::path::Path;

use rustix::fs::{AtFlags, CWD, Mode, OFlags, StatxFlags, openat, statx};

use super::copy;
use super::error::DriverError;
use super::holders::Holder;
use crate::fs::{Dir, Optional};

/// What identifies a directory on this machine: numbers of the device, and of the inode.
type Id = (u32, u32, u64);

/// Directories above one another at most: what a path of 4,095 bytes can hold, on a machine with a few mounts.
const LEVELS: usize = 4096;

/// The directories that running processes stand in.
#[derive(Clone, Debug, Default)]
pub struct Processes {
    inside: HashMap<Id, Vec<Holder>>,
}

impl Processes {
    /// Reads `/proc`. What it does not show is left out.
    pub fn read() -> Self {
        let mut processes = Self::default();
        let own = open(Path::new("/")).and_then(|root| id(&root));
        let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
        for entry in entries {
            let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
            for (link, by) in [("root", "its root directory"), ("cwd", "its working directory")] {
                let Some(dir) = open(&entry.path().join(link)) else { continue };
                processes.add(&entry.path(), pid, by, dir, own);
            }
        }
        processes
    }

    /// Adds the process to `dir` and to all directories above that.
    fn add(&mut self, process: &Path, pid: u32, by: &'static str, dir: OwnedFd, root: Option<Id>) {
        let (mut dir, mut below) = (dir, None);
        let mut command = None;
        for _ in 0..LEVELS {
            let at = id(&dir);
            // Above its root a directory is its own parent.
            if at.is_none() || at == below || at == root {
                return;
            }
            let command = command.get_or_insert_with(|| {
                let name = fs::read_to_string(process.join("comm"));
                name.map_or_else(|_| "?".to_owned(), |name| name.trim_end().to_owned())
            });
            let holders = at.map(|at| self.inside.entry(at).or_default());
            if let Some(holders) = holders
                && !holders
                    .iter()
                    .any(|known| matches!(known, Holder::Process { pid: known, .. } if *known == pid))
            {
                holders.push(Holder::Process { pid, command: command.clone(), by });
            }
            below = at;
            let Ok(above) = openat(&dir, "..", FLAGS, Mode::empty()) else { return };
            dir = above;
        }
    }

    /// Returns the processes that stand in `dir` or below it.
    pub fn inside(&self, dir: &Dir) -> &[Holder] {
        id(dir).and_then(|id| self.inside.get(&id)).map_or(&[], Vec::as_slice)
    }

    /// Returns the processes that stand in the root which the copy driver keeps in `dir`.
    ///
    /// # Errors
    ///
    /// [`DriverError`] if the root cannot be opened.
    pub fn inside_copy(&self, dir: &Dir) -> Result<&[Holder], DriverError> {
        let root = dir.open_dir(copy::ROOT).optional()?;
        Ok(root.map_or(&[], |root| self.inside(&root)))
    }
}

const FLAGS: OFlags = OFlags::PATH.union(OFlags::DIRECTORY).union(OFlags::CLOEXEC);

/// Opens a directory without the right to read it.
fn open(path: &Path) -> Option<OwnedFd> {
    openat(CWD, path, FLAGS, Mode::empty()).ok()
}

/// Identifies an open directory. A file system that a dead server should answer for is not asked.
fn id(dir: impl std::os::fd::AsFd) -> Option<Id> {
    let flags = AtFlags::EMPTY_PATH | AtFlags::STATX_DONT_SYNC;
    let stat = statx(dir, "", flags, StatxFlags::INO).ok()?;
    Some((stat.stx_dev_major, stat.stx_dev_minor, stat.stx_ino))
}

#[cfg(test)]
mod tests {
    use std::process::{Command, Stdio};

    use super::*;

    #[test]
    fn a_process_stands_in_its_working_directory_and_above() {
        let temp = tempfile::tempdir().unwrap();
        let top = Dir::open_ambient(temp.path()).unwrap();
        let (inner, other) = (top.make_dir("inner", 0o755).unwrap(), top.make_dir("other", 0o755).unwrap());
        let mut child = Command::new("cat")
            .current_dir(temp.path().join("inner"))
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        let processes = Processes::read();
        let pid = child.id();
        let has = |dir: &Dir| {
            processes
                .inside(dir)
                .iter()
                .any(|holder| matches!(holder, Holder::Process { pid: known, .. } if *known == pid))
        };
        assert!(has(&inner) && has(&top) && !has(&other));
        drop(child.stdin.take());
        child.wait().unwrap();
        assert!(Processes::read().inside(&inner).is_empty());
    }
}
