//! The files and directories without which a store is none.

use super::report::{Outcome, Repaired};
use crate::blob::{BlobError, Blobs};
use crate::fs::{Dir, Durability, Kind, Lock, LockMode, Optional, Staging};
use crate::store::error::StoreError;
use crate::store::layout::{Access, DIRECTORIES, FORMAT_FILE, Layout, check_format};
use crate::store::operation::GC_LOCK;
use crate::store::strangers::is_lock;

impl Layout {
    /// Opens the store in `root`, making again what is missing of its frame, or only telling that. `None` if the rest
    /// cannot be told without.
    pub(super) fn mend(
        root: Dir,
        only_tell: bool,
        durability: Durability,
        done: &mut Vec<Repaired>,
    ) -> Result<Option<Self>, StoreError> {
        let names: Vec<Vec<u8>> = root.names()?.into_iter().map(|entry| entry.name).collect();
        let has = |name: &str| names.iter().any(|known| known == name.as_bytes());
        let known = DIRECTORIES.iter().filter(|name| has(name)).count();
        if !has(FORMAT_FILE) && known < 3 {
            let reason = "nothing in it looks as if it was one".to_owned();
            let is_blank = Self::is_blank(&root)?;
            return Err(StoreError::NotAStore { path: root.path_of(""), reason, is_blank });
        }
        let mut say = |kind, name: &str, message: &str| {
            done.push(Repaired {
                outcome: Outcome::Mended,
                kind,
                subject: root.path_of(name).display().to_string(),
                message: message.to_owned(),
                needed_by: Vec::new(),
            });
        };
        // First of all: what is of a newer version is left alone.
        let (damaged_format, allowed) = match check_format(&root) {
            Ok(allowed) => (false, allowed),
            Err(StoreError::NotAStore { .. }) => (true, Access::ReadWrite),
            Err(error) => return Err(error),
        };
        let mut frame: Vec<(&str, u32)> = DIRECTORIES.map(|name| (name, 0o700)).to_vec();
        frame.extend([
            ("locks", 0o700),
            ("staging", 0o700),
            ("oci/blobs", 0o755),
            ("oci/blobs/sha256", 0o755),
        ]);
        let mut lacking = false;
        for (name, mode) in frame {
            let mode = if name == "oci" { 0o755 } else { mode };
            let there = root.find(name).fitting()?.flatten();
            if there.as_ref().is_some_and(|there| there.kind == Kind::Directory) {
                continue;
            }
            say(
                "directory",
                name,
                match there {
                    None => "was missing and is made again",
                    Some(_) => "was none, is put aside and made again",
                },
            );
            lacking = true;
            if !only_tell {
                put_aside(&root, name, Kind::Directory)?;
                root.ensure_dir(name, mode)?;
            }
        }
        lacking |= mend_locks(&root, only_tell, &mut say)?;
        if lacking && only_tell {
            return Ok(None);
        }
        let oci = root.open_dir("oci")?;
        let damaged_layout = match Blobs::open(oci.try_clone()?) {
            Ok(_) => false,
            Err(BlobError::NotALayout { .. }) => Blobs::has_no_version(&oci)?,
            Err(error) => return Err(error.into()),
        };
        if damaged_layout {
            say("layout", "oci/oci-layout", "was missing or damaged and is written again");
        }
        if damaged_format {
            say("format", FORMAT_FILE, "was missing or damaged and is written again");
        }
        if !only_tell && (damaged_layout || damaged_format) {
            // Those who have it open may collect.
            let _no_collection = Lock::acquire(&root.open_dir("locks")?, GC_LOCK, LockMode::Shared)?;
            let workspace = Staging::new(root.open_dir("staging")?).workspace()?;
            if damaged_layout {
                oci.put_aside("oci-layout", Kind::File)?;
                Blobs::create(oci, &workspace, durability)?;
            }
            if damaged_format {
                root.put_aside(FORMAT_FILE, Kind::File)?;
                Self::write_format(&root, &workspace, durability)?;
            }
            workspace.close()?;
        }
        Self::assemble(root, allowed, only_tell && damaged_layout).map(Some)
    }
}

/// Puts aside what is at `path` and of another kind than belongs there.
fn put_aside(root: &Dir, path: &str, belongs: Kind) -> Result<(), StoreError> {
    match path.rsplit_once('/') {
        None => root.put_aside(path, belongs)?,
        Some((parent, name)) => root.open_dir(parent)?.put_aside(name, belongs)?,
    };
    Ok(())
}

/// Puts aside what has the name of a lock and is no file. Nobody can have it, nor take it while it is there. Whether there
/// is such a thing.
fn mend_locks(
    root: &Dir,
    only_tell: bool,
    say: &mut impl FnMut(&'static str, &str, &str),
) -> Result<bool, StoreError> {
    let mut found = false;
    let Some(locks) = root.find_dir("locks").fitting()?.flatten() else { return Ok(found) };
    for entry in locks.names()? {
        let Some(name) = str::from_utf8(&entry.name).ok().filter(|name| is_lock(name)) else { continue };
        // A lock can be had on a pipe as well.
        if locks.is_of_kind(&entry, Kind::File)? || locks.is_of_kind(&entry, Kind::Fifo)? {
            continue;
        }
        found = true;
        say("lock", &format!("locks/{name}"), "was no file and is put aside");
        if !only_tell {
            locks.put_aside(name, Kind::File)?;
        }
    }
    Ok(found)
}
