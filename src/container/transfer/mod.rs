//! What goes in and out of a root one by one: a part of a directory as a plain tar, and a plain tar into a directory.
//!
//! The invariant: nothing is read or written outside the root, whatever links are in it and whatever is in the tar
//! (`resolve.rs` for the path that the caller names, `fs::Dir` for everything below it); and a tar that cannot be unpacked
//! changes nothing, because it is unpacked into a directory of its own first (`put.rs` then carries it over). A user who
//! may write to the directory gets no file of his own with an owner, a mode or an attribute that comes from the tar.

mod fresh;
mod level;
mod put;
mod resolve;

use std::io::{self, Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use crate::changeset::ChangesetError;
use crate::codec::Decoder;
use crate::fs::{self, Dir, FileType, Optional, Xattrs};
use crate::layer::{
    Abilities, PackError, PackOptions, Selection, UnpackError, UnpackOptions, XattrPolicy, flatten_part,
    unpack,
};
use crate::path::{LayerPath, PathError};
use crate::stack::marks::Marks;
use crate::stack::{Stack, Tree};
use crate::whiteout::MARKS;

pub use resolve::{Located, resolve};

/// What of a root is copied out, and how.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
#[non_exhaustive]
pub struct CopyOutOptions {
    /// Whether a symbolic link at the path itself is followed. Those below it are copied as links in any case.
    pub follow: bool,
    /// What the thing is called in the tar, where that is not its own name.
    pub name: Option<LayerPath>,
    /// Which attributes go into the tar.
    pub xattrs: XattrPolicy,
    /// How the tar is written.
    pub pack: PackOptions,
}

impl CopyOutOptions {
    /// Follows a symbolic link at the path itself.
    #[must_use]
    pub fn follow(mut self) -> Self {
        self.follow = true;
        self
    }

    /// Calls the thing `name` in the tar; the content of a directory without itself if that is the root.
    #[must_use]
    pub fn name(mut self, name: LayerPath) -> Self {
        self.name = Some(name);
        self
    }
}

/// How a tar is put into a directory.
#[derive(Clone, Default)]
#[non_exhaustive]
pub struct CopyInOptions<'a> {
    /// Whether owners, set-user-id and set-group-id bits of files and their capabilities are those in the tar. Otherwise
    /// everything belongs to root, or to this process where it cannot give anything to root, and these rights, which were
    /// given to another owner's file, are left out. Modes, times and other attributes are always kept.
    pub archive: bool,
    /// Whether block and character devices are made also without `archive`. Into the root of a container they always are.
    pub devices: bool,
    /// Which attributes are taken from the tar.
    pub xattrs: XattrPolicy,
    /// Set by another thread to give up while the tar is read; nothing has changed then.
    pub cancel: Option<&'a AtomicBool>,
}

impl CopyInOptions<'_> {
    /// Keeps owners and what depends on them.
    #[must_use]
    pub fn archive(mut self) -> Self {
        self.archive = true;
        self
    }

    /// Makes block and character devices also without [`archive`](Self::archive).
    #[must_use]
    pub fn devices(mut self) -> Self {
        self.devices = true;
        self
    }

    /// Whether something of this type is not copied.
    fn leaves_out(&self, file_type: &FileType) -> bool {
        let is_device = matches!(file_type, FileType::BlockDevice(_) | FileType::CharDevice(_));
        is_device && !self.archive && !self.devices
    }
}

impl std::fmt::Debug for CopyInOptions<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { archive, devices, xattrs, .. } = self;
        f.debug_struct("CopyInOptions")
            .field("archive", archive)
            .field("devices", devices)
            .field("xattrs", xattrs)
            .finish_non_exhaustive()
    }
}

/// What was put into a directory.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
#[non_exhaustive]
pub struct Copied {
    /// How many files, directories and other things.
    pub entries: u64,
    /// Bytes of their content; holes are not counted.
    pub bytes: u64,
    /// What could not be kept of them, in words.
    pub warnings: Vec<String>,
    /// How many devices were left out, because neither [`CopyInOptions::archive`] nor [`CopyInOptions::devices`] was set.
    pub devices_left_out: u64,
    /// The first hundred of them.
    pub left_out: Vec<LayerPath>,
}

impl Copied {
    /// Counts a device that is not copied.
    fn leave_out(&mut self, path: &LayerPath) {
        if self.left_out.len() < 100 {
            self.left_out.push(path.clone());
        }
        self.devices_left_out += 1;
    }
}

/// Why something could not be copied in or out.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CopyError {
    /// There is nothing at the path, or a directory on the way to it is missing.
    #[error("there is no {path:?}")]
    NotFound {
        /// The path, as it was said.
        path: PathBuf,
    },
    /// A directory is needed and something else is there.
    #[error("{path:?} is not a directory")]
    NotADirectory {
        /// The path, as it was said.
        path: PathBuf,
    },
    /// Symbolic links lead in a circle, or too far.
    #[error("{path:?} leads through too many symbolic links")]
    TooManyLinks {
        /// The path, as it was said.
        path: PathBuf,
    },
    /// A directory would replace something else, or something else a directory. Nothing was changed.
    #[error("cannot replace the {found} {path:?} with a {wanted}; nothing was copied")]
    Replace {
        /// Where.
        path: PathBuf,
        /// What is there.
        found: &'static str,
        /// What was to be there.
        wanted: &'static str,
    },
    /// A device, a named pipe or a socket is where something was to be put. These are never replaced. Nothing was changed.
    #[error("{path:?} is a {found}, which is never replaced; nothing was copied")]
    Special {
        /// Where.
        path: PathBuf,
        /// What is there.
        found: &'static str,
    },
    /// Another process keeps renaming or replacing what is at the destination.
    #[error("{path:?} was replaced by another process during the copy")]
    Disturbed {
        /// The directory.
        path: PathBuf,
    },
    /// What is copied changed while it was read, and once more when it was read again.
    #[error("{path:?} changed while it was read: {reason}")]
    Changed {
        /// What was read.
        path: PathBuf,
        /// How it changed.
        reason: String,
    },
    /// A name cannot stand in a tar.
    #[error("{path:?} cannot be copied")]
    Name {
        /// The path.
        path: PathBuf,
        /// What is wrong with its name.
        source: PathError,
    },
    /// The stream cannot be read or decompressed. Nothing was changed.
    #[error("cannot read the tar; nothing was copied")]
    Read(#[source] io::Error),
    /// The stream is no tar, or is damaged. Nothing was changed.
    #[error("the tar is invalid; nothing was copied")]
    Tar(#[source] ChangesetError),
    /// Something in the tar cannot be unpacked. Nothing was changed.
    #[error("the tar cannot be unpacked; nothing was copied")]
    Unpack(#[source] UnpackError),
    /// A tar cannot be written.
    #[error(transparent)]
    Pack(#[from] PackError),
    /// The file system refused one step.
    #[error(transparent)]
    Io(#[from] fs::Error),
}

impl From<UnpackError> for CopyError {
    fn from(error: UnpackError) -> Self {
        match error {
            UnpackError::Blob(source) => Self::Read(source),
            UnpackError::Tar(source) => Self::Tar(source),
            UnpackError::Io(source) => Self::Io(source),
            other => Self::Unpack(other),
        }
    }
}

/// Writes what was found at `path` as a plain tar, with everything below it if it is a directory. It is named by the last
/// component of `path` unless the options say otherwise; a path without one, such as `/` or `dir/.`, gives the content of
/// the directory with `./` itself. Sockets are left out, and symbolic links are links.
///
/// # Errors
///
/// [`CopyError`]; what was written is then useless.
pub fn copy_out(
    found: &Located,
    path: &Path,
    out: impl Write,
    options: &CopyOutOptions,
) -> Result<(), CopyError> {
    if found.kind.is_none() {
        return Err(CopyError::NotFound { path: path.to_owned() });
    }
    let named = |name: &[u8]| {
        LayerPath::parse(name).map_err(|source| CopyError::Name { path: path.to_owned(), source })
    };
    let start = found.name.as_deref().map_or(Ok(LayerPath::ROOT), |name| named(name.as_encoded_bytes()))?;
    let name = match &options.name {
        Some(name) => name.clone(),
        None => named(resolve::last_name(path).unwrap_or_default())?,
    };
    let tree = Tree { dir: found.dir.try_clone()?, marks: Marks::None, declares_root: true };
    let mut xattrs = options.xattrs.clone();
    if let Some(family) = found.shows_marks {
        xattrs = MARKS.iter().map(|mark| family.key(mark)).fold(xattrs, XattrPolicy::leave_out);
    }
    let selection = Selection::default().xattrs(xattrs);
    match flatten_part(&Stack::new([&tree]), &start, &name, &selection, out, &options.pack) {
        Ok(_) => Ok(()),
        Err(PackError::SizeChanged { path: changed, expected, found }) => {
            let reason = format!("it had {expected} bytes, found {found}");
            Err(CopyError::Changed { path: source_of(path, &name, &changed), reason })
        }
        Err(PackError::Replaced { path: changed }) => {
            let reason = "its name led to another file each time".to_owned();
            Err(CopyError::Changed { path: source_of(path, &name, &changed), reason })
        }
        Err(error) => Err(error.into()),
    }
}

/// What is called `changed` in a tar in which the thing at `path` is called `name`.
fn source_of(path: &Path, name: &LayerPath, changed: &LayerPath) -> PathBuf {
    let below = changed.components().skip(name.components().count());
    below.fold(path.to_owned(), |path, name| path.join(std::ffi::OsStr::from_bytes(name)))
}

/// Puts a plain tar, which may be compressed, into the directory `into`. It is unpacked in `staging`, an empty directory of
/// a file system with `abilities`, first.
///
/// # Errors
///
/// [`CopyError`]. Only [`CopyError::Io`] and [`CopyError::Disturbed`] may come after something was changed in `into`.
pub(crate) fn copy_in(
    tar: impl Read,
    staging: &Dir,
    into: &Dir,
    abilities: Abilities,
    unpacking: &UnpackOptions<'_>,
    options: &CopyInOptions<'_>,
) -> Result<Copied, CopyError> {
    let tar = Decoder::new(tar, &unpacking.limits).map_err(CopyError::Read)?;
    let mut unpacking = unpacking.clone();
    unpacking.reserved_names = true;
    unpacking.xattrs = options.xattrs.clone();
    let cancelled = options.cancel.map(|cancel| || cancel.load(Ordering::Relaxed));
    unpacking.cancelled = cancelled.as_ref().map(|cancelled| cancelled as _);
    let unpacked = unpack(tar, staging, None, abilities, &unpacking)?;
    // Other names of later files were made by now; what is left is a link to nothing in this tar.
    for link in &unpacked.below_links {
        if staging.find(link.path.as_path()).optional()?.flatten().is_none() {
            let (path, target) = (link.path.clone(), link.target.clone());
            let reason = "is not in the tar";
            return Err(CopyError::Unpack(UnpackError::Link { index: 0, path, target, reason }));
        }
    }
    let marks = Marks::Overlay(abilities.family);
    let tree = Tree { dir: staging.try_clone()?, marks, declares_root: true };
    let mut copied = put::put(&Stack::new([&tree]), into, &unpacked.implied, abilities.privileged, options)?;
    copied.bytes = unpacked.data_bytes;
    copied.warnings.extend(unpacked.losses.described.iter().map(ToString::to_string));
    Ok(copied)
}

/// Takes from attributes what only the owner that is given up could give.
fn without_rights(xattrs: &mut Xattrs) {
    xattrs.remove(&b"security.capability"[..]);
}
