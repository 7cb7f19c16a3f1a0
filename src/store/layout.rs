//! Where everything lies in a store, and the file that says which version of that it is.
//!
//! ```text
//! <root>/
//!   store.json              format version and feature flags; written last, so a store without it is not one
//!   oci/                    an OCI image layout, valid at every instant
//!     oci-layout  index.json  blobs/<algorithm>/<hex>
//!   layers/<key>/           unpacked layers, see `layer`
//!   containers/<id>/        writable layers, see `container`
//!   views/<digest>/         images that are mounted read-only, see `view`
//!   names/<name>            the id of the container of that name
//!   cache/                  what can be found out again, see `probing`, `survey`; steps of builds, see `build_cache`
//!   locks/                  one file for each thing that two processes may want
//!   staging/<unique>/       work in progress, see `fs::Staging`
//!   reserve/                what a full disk is left with, see `fs::staging::reserve`
//! ```
//!
//! The root directory of a new store is closed to other users (0700): images may be private. [`super::StoreOptions::shared`]
//! opens it (0755), and then `oci/` is for others to read. The rest is closed in any store: layers hold set-user-id
//! programs of whatever age, which must not be in reach of every user of the host.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::error::StoreError;
use super::strangers::strangers_in;
use crate::blob::Blobs;
use crate::fs::{Dir, Durability, Kind, Lock, LockMode, Optional, Staging, Workspace};

/// The version of the format that this crate writes.
pub(super) const VERSION: u32 = 1;

pub(super) const FORMAT_FILE: &str = "store.json";

/// An `index.json` that could not be read, kept for whoever can.
pub(super) const DAMAGED_INDEX: &str = "index.json.damaged";

/// What a store holds, beside what it works with.
pub(super) const DIRECTORIES: [&str; 6] = ["layers", "containers", "views", "names", "cache", "oci"];

/// Feature flags that this crate knows, of each kind. None exist in version 1.
const KNOWN: &[&str] = &[];

/// `store.json`.
#[derive(Serialize, Deserialize, Debug)]
#[serde(rename_all = "camelCase")]
struct Format {
    version: u32,
    #[serde(default)]
    features: Features,
}

/// What a store uses beyond its version. Who does not know a flag may: do anything, if it is compatible; read, if it is
/// read-only compatible; nothing, if it is incompatible.
#[derive(Serialize, Deserialize, Debug, Default)]
#[serde(rename_all = "camelCase")]
struct Features {
    #[serde(default)]
    compatible: Vec<String>,
    #[serde(default)]
    read_only_compatible: Vec<String>,
    #[serde(default)]
    incompatible: Vec<String>,
}

/// Whether a store may be changed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Access {
    /// Everything.
    ReadWrite,
    /// Nothing is written and no lock is taken.
    ReadOnly,
}

/// The open directories of a store.
#[derive(Debug)]
pub(super) struct Layout {
    pub(super) root: Dir,
    pub(super) blobs: Blobs,
    pub(super) layers: Dir,
    pub(super) containers: Dir,
    pub(super) views: Dir,
    pub(super) names: Dir,
    pub(super) locks: Dir,
    pub(super) staging: Dir,
    pub(super) access: Access,
}

impl Layout {
    /// Opens the store in `root`.
    pub(super) fn open(root: Dir) -> Result<Self, StoreError> {
        let allowed = check_format(&root)?;
        Self::assemble(root, allowed, false)
    }

    /// Opens the directories of the store in `root`. Its format is known; the word that `oci/` is a layout may be lacking if
    /// that is to be `assumed`.
    pub(super) fn assemble(root: Dir, allowed: Access, assumed: bool) -> Result<Self, StoreError> {
        let locks = root.open_dir("locks")?;
        let oci = root.open_dir("oci")?;
        Ok(Self {
            blobs: if assumed { Blobs::assume(oci)? } else { Blobs::open(oci)? },
            layers: root.open_dir("layers")?,
            containers: root.open_dir("containers")?,
            views: root.open_dir("views")?,
            names: root.open_dir("names")?,
            staging: root.open_dir("staging")?,
            access: if is_writable(&locks) { allowed } else { Access::ReadOnly },
            locks,
            root,
        })
    }

    /// What lies where only a store's own things should, and is none.
    pub(super) fn strangers(&self) -> Result<Vec<PathBuf>, StoreError> {
        let directories = [&DIRECTORIES[..], &["locks", "staging", "reserve"]].concat();
        strangers_in(&self.root, |name| match name {
            FORMAT_FILE | DAMAGED_INDEX => Some(Kind::File),
            name => directories.contains(&name).then_some(Kind::Directory),
        })
    }

    /// Makes the empty directory `root` a store; a store that another process is making or has just made is waited for
    /// and opened.
    pub(super) fn create(root: Dir, shared: bool, durability: Durability) -> Result<Self, StoreError> {
        let locks = root.ensure_dir("locks", 0o700)?;
        let _creating = Lock::acquire(&locks, "create", LockMode::Exclusive)?;
        if root.stat(FORMAT_FILE).optional()?.is_some() {
            return Self::open(root);
        }
        give_mode(&root, root_mode(shared))?;
        for name in DIRECTORIES {
            let mode = if name == "oci" { 0o755 } else { 0o700 };
            let dir = root.ensure_dir(name, mode)?;
            // A store below a directory with default ACLs or a set-group-id bit must not pass them on to its layers.
            for acl in ["system.posix_acl_default", "system.posix_acl_access"] {
                dir.remove_xattr(".", acl)?;
            }
            dir.set_mode(".", mode)?;
        }
        let staging = root.ensure_dir("staging", 0o700)?;
        let keeper = Staging::with_reserve(staging.try_clone()?, root.try_clone()?);
        let workspace = keeper.workspace()?;
        staging.remove_xattr(".", "system.posix_acl_default")?;
        staging.set_mode(".", 0o700)?;
        let oci = root.open_dir("oci")?;
        if oci.stat("index.json").optional()?.is_none() {
            workspace.replace(super::names::EMPTY_INDEX, &oci, "index.json", durability)?;
        }
        Blobs::create(oci, &workspace, durability)?;
        keeper.keep_reserve(&workspace, 0)?;
        Lock::keep_spares(&locks)?;
        if durability == Durability::Full {
            root.sync()?;
        }
        Self::write_format(&root, &workspace, durability)?;
        workspace.close()?;
        Self::open(root)
    }

    /// Writes the file that makes `root` a store.
    pub(super) fn write_format(
        root: &Dir,
        workspace: &Workspace,
        durability: Durability,
    ) -> Result<(), StoreError> {
        let format = Format { version: VERSION, features: Features::default() };
        let format = serde_json::to_vec(&format).expect("numbers and strings are JSON");
        Ok(workspace.replace(&format, root, FORMAT_FILE, durability)?)
    }

    /// Whether `root` holds nothing, or what a store holds before it is one: empty directories, and an index of nothing.
    pub(super) fn is_blank(root: &Dir) -> Result<bool, StoreError> {
        for entry in root.names()? {
            let Some(name) = DIRECTORIES.iter().find(|name| name.as_bytes() == entry.name) else {
                if !["locks", "staging", "reserve", "lost+found"]
                    .iter()
                    .any(|name| name.as_bytes() == entry.name)
                {
                    return Ok(false);
                }
                continue;
            };
            let Some(dir) = root.open_dir(name).fitting()? else { return Ok(false) };
            let is_blank = match *name {
                "oci" => {
                    let index = dir.find("index.json")?;
                    index.is_none_or(|index| index.size == super::names::EMPTY_INDEX.len() as u64)
                }
                _ => dir.names()?.is_empty(),
            };
            if !is_blank {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Whether there is a store in `root`, whatever its version.
    pub(super) fn is_store(root: &Dir) -> Result<bool, StoreError> {
        Ok(root.stat(FORMAT_FILE).optional()?.is_some())
    }
}

/// Returns the mode of a new store's root directory.
pub(super) fn root_mode(shared: bool) -> u32 {
    if shared { 0o755 } else { 0o700 }
}

/// Gives the root directory of a new store its mode. The caller may have made that directory, empty, with another mode:
/// now it will hold images, and the umask of whoever made it says nothing about them.
fn give_mode(root: &Dir, mode: u32) -> Result<(), StoreError> {
    if root.stat(".")?.mode == mode {
        return Ok(());
    }
    match root.set_mode(".", mode) {
        // The directory belongs to another user, who let this one write to it and reads it in any case.
        Err(error) if error.errno() == Some(rustix::io::Errno::PERM) => {
            tracing::warn!(%error, path = ?root.path_of(""), "the owner of this directory decides who reads the store in it");
            Ok(())
        }
        done => Ok(done?),
    }
}

/// Makes sure that the store in `root` is of a format that is known, and says what may be done with it.
pub(super) fn check_format(root: &Dir) -> Result<Access, StoreError> {
    let fault = |reason: String| StoreError::NotAStore { path: root.path_of(""), reason, is_blank: false };
    let format = match root.read(FORMAT_FILE, 1 << 20) {
        Err(error) if error.is_not_found() => return Err(fault(format!("there is no {FORMAT_FILE}"))),
        Err(error) if error.is_other_kind() => return Err(fault(format!("{FORMAT_FILE} is no file"))),
        format => format?,
    };
    let format: Format =
        serde_json::from_slice(&format).map_err(|error| fault(format!("{FORMAT_FILE}: {error}")))?;
    let refuse = |found: String| StoreError::UnknownFormat { path: root.path_of(""), found };
    if format.version != VERSION {
        return Err(refuse(format!("version {}", format.version)));
    }
    let unknown = |flags: &[String]| flags.iter().find(|flag| !KNOWN.contains(&flag.as_str())).cloned();
    if let Some(flag) = unknown(&format.features.incompatible) {
        return Err(refuse(format!("feature {flag:?}")));
    }
    match unknown(&format.features.read_only_compatible) {
        Some(_) => Ok(Access::ReadOnly),
        None => Ok(Access::ReadWrite),
    }
}

/// Whether this process may make files in `dir`, asked without making one.
fn is_writable(dir: &Dir) -> bool {
    rustix::fs::accessat(dir, ".", rustix::fs::Access::WRITE_OK, rustix::fs::AtFlags::EACCESS).is_ok()
}
