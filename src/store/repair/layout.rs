//! The files and directories without which a store is none.

use super::report::{Outcome, Repaired};
use crate::blob::{BlobError, Blobs};
use crate::fs::{Dir, Durability, Optional, Staging};
use crate::store::error::StoreError;
use crate::store::layout::{Access, DIRECTORIES, FORMAT_FILE, Layout, check_format};

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
            return Err(StoreError::NotAStore { path: root.path_of(""), reason });
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
            if root.find(name).optional()?.flatten().is_none() {
                say("directory", name, "was missing and is made again");
                lacking = true;
                if !only_tell {
                    root.ensure_dir(name, mode)?;
                }
            }
        }
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
            let workspace = Staging::new(root.open_dir("staging")?).workspace()?;
            if damaged_layout {
                Blobs::create(oci, &workspace, durability)?;
            }
            if damaged_format {
                Self::write_format(&root, &workspace, durability)?;
            }
            workspace.close()?;
        }
        Self::assemble(root, allowed, only_tell && damaged_layout).map(Some)
    }
}
