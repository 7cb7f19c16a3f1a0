//! [`Target`]: where the entries of a layer go.
//!
//! Unpacking decides which entry means what; a target holds the result. A directory on disk ([`Dir`]) is written. A
//! [`Shadow`](super::shadow) is compared with a directory on disk instead, and writes nothing: so a check makes the very
//! decisions that unpacking made.

use std::ffi::OsStr;
use std::fs::File;
use std::io::Read;
use std::path::Path;

use super::Losses;
use super::entries::Unpacker;
use super::error::UnpackError;
use super::files::New;
use super::place::{Of, Place};
use crate::changeset::Reader;
use crate::fs::{Context, Dir, FileType, Metadata, Result, Stat, copy_content};
use crate::layer::Abilities;
use crate::layer::bind;
use crate::layer::record::Assumed;
use crate::path::LayerPath;
use crate::stack::object::{self, Loss, Style};
use crate::whiteout::Namespace;

/// A directory that takes a layer. Methods that [`Dir`] has are the same here.
pub(super) trait Target: Sized {
    /// A file that was created.
    type File;

    fn try_clone(&self) -> Result<Self>;
    fn open_dir(&self, path: impl AsRef<Path>) -> Result<Self>;
    fn ensure_dir(&self, path: impl AsRef<Path>, mode: u32) -> Result<Self>;
    fn create_private_dir(&self, path: impl AsRef<Path>) -> Result<()>;
    fn create_file(&self, path: impl AsRef<Path>, mode: u32) -> Result<Self::File>;
    /// Kind and size are right; the other fields are for a directory on disk only.
    fn stat(&self, path: impl AsRef<Path>) -> Result<Stat>;
    fn read_link(&self, path: impl AsRef<Path>) -> Result<Vec<u8>>;
    fn remove_file(&self, path: impl AsRef<Path>) -> Result<()>;
    fn remove_all(&self, name: impl AsRef<[u8]>) -> Result<()>;
    fn hard_link(&self, from: impl AsRef<Path>, into: &Self, to: impl AsRef<Path>) -> Result<()>;

    /// Makes the root of the layer pass nothing on to what is created in it.
    fn begin(&self) -> Result<()>;

    /// As [`object::create`].
    fn create(&self, at: &Path, file_type: &FileType) -> Result<()>;

    /// As [`object::set_metadata`].
    fn set_metadata(
        &self,
        at: &Path,
        file_type: &FileType,
        metadata: &Metadata,
        style: Style,
        lose: &mut dyn FnMut(Loss),
        name: &LayerPath,
    ) -> Result<()>;

    /// As [`Namespace::mark_opaque`].
    fn mark_opaque(&self, family: Namespace, at: &Path) -> Result<()>;

    /// As [`Namespace::whiteout`].
    fn whiteout(&self, family: Namespace, parent: &Path, name: &Path) -> Result<()>;

    /// Creates the file `name` with the content of `source`, which has `size` bytes.
    fn copy(&self, name: &str, source: &File, size: u64) -> Result<()>;

    /// Makes `name` in `place`, which is `path` in the layer, one more name of the file `from`.
    fn add_name(
        unpacker: &mut Unpacker<'_, Self>,
        from: (&Self, &OsStr),
        place: &Place<Self>,
        name: &OsStr,
        path: &LayerPath,
    ) -> std::result::Result<(), UnpackError>;

    /// Gives a file that was just created the data that `tar` is at, and its metadata.
    fn fill<R: Read>(
        unpacker: &mut Unpacker<'_, Self>,
        of: Of<'_>,
        new: New<'_, Self>,
        metadata: &Metadata,
        size: u64,
        tar: &mut Reader<R>,
    ) -> std::result::Result<(), UnpackError>;

    /// As [`bind::apply`].
    fn apply(&self, assumed: &[Assumed], abilities: Abilities, losses: &mut Losses) -> Result<()>;
}

impl Target for Dir {
    type File = File;

    fn try_clone(&self) -> Result<Self> {
        Self::try_clone(self)
    }

    fn open_dir(&self, path: impl AsRef<Path>) -> Result<Self> {
        Self::open_dir(self, path)
    }

    fn ensure_dir(&self, path: impl AsRef<Path>, mode: u32) -> Result<Self> {
        Self::ensure_dir(self, path, mode)
    }

    fn create_private_dir(&self, path: impl AsRef<Path>) -> Result<()> {
        Self::create_private_dir(self, path)
    }

    fn create_file(&self, path: impl AsRef<Path>, mode: u32) -> Result<File> {
        Self::create_file(self, path, mode)
    }

    fn stat(&self, path: impl AsRef<Path>) -> Result<Stat> {
        Self::stat(self, path)
    }

    fn read_link(&self, path: impl AsRef<Path>) -> Result<Vec<u8>> {
        Self::read_link(self, path)
    }

    fn remove_file(&self, path: impl AsRef<Path>) -> Result<()> {
        Self::remove_file(self, path)
    }

    fn remove_all(&self, name: impl AsRef<[u8]>) -> Result<()> {
        Self::remove_all(self, name)
    }

    fn hard_link(&self, from: impl AsRef<Path>, into: &Self, to: impl AsRef<Path>) -> Result<()> {
        Self::hard_link(self, from, into, to)
    }

    fn begin(&self) -> Result<()> {
        // Neither a default ACL nor a group.
        for acl in ["system.posix_acl_default", "system.posix_acl_access"] {
            self.remove_xattr(".", acl)?;
        }
        self.set_mode(".", 0o700)
    }

    fn create(&self, at: &Path, file_type: &FileType) -> Result<()> {
        object::create(self, at, file_type)
    }

    fn set_metadata(
        &self,
        at: &Path,
        file_type: &FileType,
        metadata: &Metadata,
        style: Style,
        lose: &mut dyn FnMut(Loss),
        name: &LayerPath,
    ) -> Result<()> {
        object::set_metadata(self, at, file_type, metadata, style, lose, name)
    }

    fn mark_opaque(&self, family: Namespace, at: &Path) -> Result<()> {
        family.mark_opaque(self, at)
    }

    fn whiteout(&self, family: Namespace, parent: &Path, name: &Path) -> Result<()> {
        family.whiteout(self, parent, name)
    }

    fn copy(&self, name: &str, source: &File, size: u64) -> Result<()> {
        let file = self.create_file(name, 0o600)?;
        copy_content(source, &file, size).at_path("copy to", || self.path_of(name))
    }

    fn add_name(
        unpacker: &mut Unpacker<'_, Self>,
        from: (&Self, &OsStr),
        place: &Place<Self>,
        name: &OsStr,
        path: &LayerPath,
    ) -> std::result::Result<(), UnpackError> {
        unpacker.add_name_on_disk(from, place, name, path)
    }

    fn fill<R: Read>(
        unpacker: &mut Unpacker<'_, Self>,
        of: Of<'_>,
        new: New<'_, Self>,
        metadata: &Metadata,
        size: u64,
        tar: &mut Reader<R>,
    ) -> std::result::Result<(), UnpackError> {
        unpacker.fill(of, new, metadata, size, tar)
    }

    fn apply(&self, assumed: &[Assumed], abilities: Abilities, losses: &mut Losses) -> Result<()> {
        bind::apply(self, assumed, abilities, losses)
    }
}
