//! How a directory in overlayfs's form says "deleted" and "hides what is below": writing and reading the marks.
//!
//! ```text
//! whiteout   a character device 0:0; where that cannot be made, an empty regular file with the attribute
//!            overlay.whiteout in a directory whose overlay.opaque is "x"
//! opaque     overlay.opaque = "y" on the directory
//! origin     overlay.origin, empty, on every directory that holds whiteouts: without it overlayfs lists a whiteout in
//!            a directory that it merges with nothing as a name that cannot be looked up
//! ```
//!
//! `overlay.` stands for `trusted.overlay.` or `user.overlay.`; which family a mount obeys depends on who made it, so
//! trees that root writes carry both. fuse-overlayfs has more forms of its own, which are only read ([`Marks::Fuse`]).
//! Attributes of either family that came *with* an image are stored escaped (see [`crate::whiteout::escape`]) and are not
//! marks.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use rustix::io::Errno;
use serde::{Deserialize, Serialize};

use crate::fs::{DeviceNumber, Dir, Kind, Result, Stat};
use crate::whiteout::{self, Namespace};

/// Which marks a tree carries.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[non_exhaustive]
pub enum Marks {
    /// None: an ordinary directory, in which a device 0:0 is a device and an attribute an attribute.
    None,
    /// Overlayfs's, of this family, in a layer.
    Overlay(Namespace),
    /// Overlayfs's, of both families, in a layer: root wrote it, and whoever reads may obey the one or the other.
    Both,
    /// Overlayfs's, of this family, in an upper directory.
    Upper {
        /// The family.
        family: Namespace,
        /// Whether a directory may be merged with one of another name, and a file may have its content elsewhere
        /// (`redirect_dir`, `metacopy`), as only mounts with these options leave it.
        follows: bool,
        /// Whether the mounts translate ids, so that [`super::owner::HOST_ROOT`] may own something.
        translates: bool,
    },
    /// What fuse-overlayfs leaves in its upper directory, by its version and its rights: overlayfs's of either family,
    /// `user.fuseoverlayfs.*` attributes, `.wh.` files beside or in place of what they delete, and
    /// `.wh..wh..opq`: empty, with the mode 0700. Not every version refuses to make other things of such a name.
    Fuse,
}

/// fuse-overlayfs's own mark where it may not write `trusted.overlay.opaque`.
const FUSE_OPAQUE: &str = "user.fuseoverlayfs.opaque";

impl Marks {
    /// The family to read, if there are marks. Of a tree with both it is the one that every process can read.
    pub fn family(self) -> Option<Namespace> {
        match self {
            Self::None | Self::Fuse => None,
            Self::Overlay(family) | Self::Upper { family, .. } => Some(family),
            Self::Both => Some(Namespace::User),
        }
    }

    /// How the directory `path` treats what is below it.
    ///
    /// # Errors
    ///
    /// [`crate::fs::Error`] if the mark cannot be read: deleted files must not come back because of that.
    pub fn opacity(self, dir: &Dir, path: &Path) -> Result<Opacity> {
        if self == Self::Fuse {
            return fuse_opacity(dir, path);
        }
        let Some(family) = self.family() else { return Ok(Opacity::Merged) };
        Ok(match dir.xattr(path, family.key("opaque"))?.as_deref() {
            Some(b"y") => Opacity::Opaque,
            Some(b"x") => Opacity::MergedWithMarkedFiles,
            _ => Opacity::Merged,
        })
    }

    /// The name that `name` in `dir` deletes, if it is a file whose name is the mark. The name's own file may be there
    /// too.
    ///
    /// # Errors
    ///
    /// [`crate::fs::Error`] if that cannot be told.
    pub fn deletes(self, dir: &Dir, name: &[u8]) -> Result<Option<Vec<u8>>> {
        let Some(deleted) = name.strip_prefix(whiteout::PREFIX).filter(|_| self == Self::Fuse) else {
            return Ok(None);
        };
        Ok(dir.find(OsStr::from_bytes(name))?.is_some_and(|stat| is_mark(&stat)).then(|| deleted.to_owned()))
    }

    /// Whether a mark beside `path`, which need not exist, deletes it.
    ///
    /// # Errors
    ///
    /// [`crate::fs::Error`] if that cannot be told.
    pub fn is_deleted(self, dir: &Dir, path: &Path) -> Result<bool> {
        match (self, path.file_name()) {
            (Self::Fuse, Some(name)) => {
                let mark = [whiteout::PREFIX, name.as_bytes()].concat();
                match dir.find(path.with_file_name(OsStr::from_bytes(&mark))) {
                    // No file has a name as long as that mark's would be.
                    Err(error) if error.errno() == Some(Errno::NAMETOOLONG) => Ok(false),
                    found => Ok(found?.is_some_and(|stat| is_mark(&stat))),
                }
            }
            _ => Ok(false),
        }
    }

    /// Whether `path` is a whiteout, in a directory of `opacity`.
    ///
    /// # Errors
    ///
    /// [`crate::fs::Error`] if that cannot be told.
    pub fn is_whiteout(self, dir: &Dir, path: &Path, stat: &Stat, opacity: Opacity) -> Result<bool> {
        if self == Self::Fuse {
            let device = stat.kind == Kind::CharDevice && stat.node == DeviceNumber::WHITEOUT;
            return Ok(device || self.is_deleted(dir, path)?);
        }
        let Some(family) = self.family() else { return Ok(false) };
        match stat.kind {
            Kind::CharDevice => Ok(stat.node == DeviceNumber::WHITEOUT),
            Kind::File if stat.size == 0 && opacity == Opacity::MergedWithMarkedFiles => {
                Ok(dir.xattr(path, family.key("whiteout"))?.is_some())
            }
            _ => Ok(false),
        }
    }
}

fn fuse_opacity(dir: &Dir, path: &Path) -> Result<Opacity> {
    let keys = Namespace::ALL.map(|family| family.key("opaque"));
    for key in keys.iter().map(String::as_str).chain([FUSE_OPAQUE]) {
        if dir.xattr(path, key)?.as_deref() == Some(b"y") {
            return Ok(Opacity::Opaque);
        }
    }
    match dir.find(path.join(OsStr::from_bytes(whiteout::OPAQUE)))? {
        Some(stat) if is_mark(&stat) => Ok(Opacity::Opaque),
        _ => Ok(Opacity::Merged),
    }
}

/// Whether something whose name is a mark is one, as fuse-overlayfs makes them. Anything else has got that name from a
/// container.
fn is_mark(stat: &Stat) -> bool {
    stat.kind == Kind::File && stat.size == 0 && stat.mode == 0o700
}

/// How a directory treats what is below it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Opacity {
    /// It is merged with it.
    Merged,
    /// It is merged with it, and empty files with a mark are whiteouts.
    MergedWithMarkedFiles,
    /// It hides it.
    Opaque,
}

/// The families of marks that are written into one tree.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum Families {
    /// `trusted.overlay.*` and `user.overlay.*`: root's trees, which a rootless reader can share.
    Both,
    /// `user.overlay.*` only: whoever may not write `trusted.*`.
    User,
}

impl Families {
    fn namespaces(self) -> &'static [Namespace] {
        match self {
            Self::Both => &[Namespace::Trusted, Namespace::User],
            Self::User => &[Namespace::User],
        }
    }

    /// What a tree written with these carries.
    pub fn marks(self) -> Marks {
        match self {
            Self::Both => Marks::Both,
            Self::User => Marks::Overlay(Namespace::User),
        }
    }

    /// The family that a mount made by whoever writes these marks obeys.
    pub fn own(self) -> Namespace {
        self.namespaces()[0]
    }

    /// Sets `overlay.<key>` in every family.
    fn set(self, dir: &Dir, path: &Path, key: &str, value: &[u8]) -> Result<()> {
        self.namespaces().iter().try_for_each(|space| dir.set_xattr(path, space.key(key), value))
    }

    /// Makes the directory `path` hide everything below it.
    ///
    /// # Errors
    ///
    /// [`crate::fs::Error`] if the attribute cannot be set.
    pub fn mark_opaque(self, dir: &Dir, path: &Path) -> Result<()> {
        self.set(dir, path, "opaque", b"y")
    }

    /// Marks `name`, which must not exist, in the directory `parent` as deleted.
    ///
    /// # Errors
    ///
    /// [`crate::fs::Error`] if neither form of whiteout can be made.
    pub fn whiteout(self, dir: &Dir, parent: &Path, name: &Path) -> Result<()> {
        self.set(dir, parent, "origin", b"")?;
        let path = parent.join(name);
        match dir.create_node(&path, Kind::CharDevice, 0, DeviceNumber::WHITEOUT) {
            Err(error) if matches!(error.errno(), Some(Errno::PERM | Errno::ACCESS | Errno::OPNOTSUPP)) => {
                dir.make_file(&path, 0o600)?;
                self.set(dir, &path, "whiteout", b"")?;
                // Never weaken an opaque directory; it needs no whiteouts anyway.
                match self.marks().opacity(dir, parent)? {
                    Opacity::Merged => self.set(dir, parent, "opaque", b"x"),
                    Opacity::MergedWithMarkedFiles | Opacity::Opaque => Ok(()),
                }
            }
            done => done,
        }
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// The marks that the tests' process can write in `dir`: being root is not enough, it may be a user namespace's.
    pub(in super::super) fn families(dir: &Dir) -> Families {
        let key = Namespace::Trusted.key("test");
        let allowed = dir.set_xattr(".", &key, b"").is_ok();
        dir.remove_xattr(".", &key).unwrap_or_default();
        if allowed { Families::Both } else { Families::User }
    }
}
