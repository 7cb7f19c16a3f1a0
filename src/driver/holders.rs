//! Who keeps a mount busy, as far as `/proc` tells: it is for a message, so what cannot be seen is left out.

use std::fmt;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, StatxFlags, statx};

use super::mounts::MountTable;
use crate::fs::Dir;

/// Someone who keeps a mount busy.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum Holder {
    /// A process.
    Process {
        /// Its id.
        pid: u32,
        /// The name of its program.
        command: String,
        /// How it holds the mount: `its working directory`, `an open file`.
        by: &'static str,
    },
    /// Another mount, on a directory of this one.
    Mount {
        /// Where it is.
        path: PathBuf,
    },
}

impl fmt::Display for Holder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Process { pid, command, by } => write!(f, "{command} (process {pid}, {by})"),
            Self::Mount { path } => write!(f, "the mount at {path:?}"),
        }
    }
}

impl Holder {
    /// Finds the processes that have `dir` open, for a message. Leaves out this process, which asks through such a handle,
    /// unless it is the only one.
    pub(crate) fn with_open(dir: &Dir) -> Vec<Self> {
        let Ok(wanted) = dir.stat(".") else { return Vec::new() };
        let own = std::process::id();
        let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
        let holders = entries.filter_map(|entry| {
            let pid = entry.file_name().to_str()?.parse().ok()?;
            let files = fs::read_dir(entry.path().join("fd")).into_iter().flatten().flatten();
            let is_meant = |file: &fs::DirEntry| {
                fs::metadata(file.path()).is_ok_and(|found| {
                    found.is_dir() && (found.dev(), found.ino()) == (wanted.device, wanted.inode)
                })
            };
            let open = files.filter(is_meant).take(2).count();
            if open <= usize::from(pid == own) {
                return None;
            }
            Some(Self::Process { pid, command: command(&entry.path()), by: "which holds it" })
        });
        holders.take(MOST).collect()
    }
}

/// The name of a process's program.
fn command(process: &Path) -> String {
    let command = fs::read_to_string(process.join("comm"));
    command.map_or_else(|_| "?".to_owned(), |name| name.trim_end().to_owned())
}

/// Names at most this many; a message is not a report.
const MOST: usize = 8;

/// Finds who holds the mount whose root is `root`, seen at `path`.
pub(super) fn of(root: &Dir, path: &Path) -> Vec<Holder> {
    let mut holders = Vec::new();
    if let Ok(table) = MountTable::read() {
        let above = table.within(path).filter(|mount| mount.point != path);
        holders.extend(above.map(|mount| Holder::Mount { path: mount.point.clone() }));
    }
    if let Some(mount) = mount_id(&root.proc_path()) {
        holders.extend(processes(mount));
    }
    holders.truncate(MOST);
    holders
}

fn processes(mount: u64) -> impl Iterator<Item = Holder> {
    let own = std::process::id();
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    entries.filter_map(move |entry| {
        let pid = entry.file_name().to_str()?.parse().ok()?;
        let by = how(&entry.path(), mount, pid == own)?;
        Some(Holder::Process { pid, command: command(&entry.path()), by })
    })
}

/// How the process holds the mount, if it does. Of the own process one open file is the handle that asks.
fn how(process: &Path, mount: u64, own: bool) -> Option<&'static str> {
    for (link, by) in
        [("cwd", "its working directory"), ("root", "its root directory"), ("exe", "its program")]
    {
        if mount_id(&process.join(link)) == Some(mount) {
            return Some(by);
        }
    }
    let files = fs::read_dir(process.join("fd")).into_iter().flatten().flatten();
    let held = files.filter(|file| mount_id(&file.path()) == Some(mount)).take(2).count();
    if held > usize::from(own) {
        return Some("an open file");
    }
    // Only root may look at these.
    let mut mapped = fs::read_dir(process.join("map_files")).into_iter().flatten().flatten();
    mapped.any(|file| mount_id(&file.path()) == Some(mount)).then_some("a mapped file")
}

/// The number of the mount that `path` leads to; none before Linux 5.8.
fn mount_id(path: &Path) -> Option<u64> {
    let stat = statx(CWD, path, AtFlags::NO_AUTOMOUNT, StatxFlags::MNT_ID).ok()?;
    (stat.stx_mask & StatxFlags::MNT_ID.bits() != 0).then_some(stat.stx_mnt_id)
}
