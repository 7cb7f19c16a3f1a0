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
//! `overlay.` stands for `trusted.overlay.` or `user.overlay.`. A tree carries the marks of one family, which the mounts that
//! stack it obey: the first where this process may write it (root in the initial user namespace), else the second.
//! fuse-overlayfs has more forms of its own, which are only read ([`Marks::Fuse`]).
//!
//! Attributes of the tree's own family that came *with* an image are stored escaped ([`Namespace::escape`]) and are not
//! marks. Those of the other family are attributes like any other. fuse-overlayfs obeys `user.overlay.opaque` as root too,
//! unless the directory has `trusted.overlay.opaque`: so a directory of an image with the former gets the latter with the
//! value `n`, which means nothing to anybody ([`Namespace::shield`]).

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use crate::fs::{DeviceNumber, Dir, Kind, Result, Stat, in_initial_user_namespace};
use crate::whiteout::{self, Namespace, Stored};
use rustix::io::Errno;
use rustix::thread::{CapabilitySet, capabilities};

/// Which marks a tree carries.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[non_exhaustive]
pub enum Marks {
    /// None: an ordinary directory, in which a device 0:0 is a device and an attribute an attribute.
    None,
    /// Overlayfs's, of this family, in a layer.
    Overlay(Namespace),
    /// Overlayfs's, of both families, in a layer with a record of version 1 that root unpacked. Attributes of the image are
    /// escaped in both families. Such layers are read, and replaced at their next use.
    Both,
    /// Overlayfs's, of this family, in an upper directory.
    Upper {
        /// The family.
        family: Namespace,
        /// Whether a directory may be merged with one of another name, and a file may have its content elsewhere
        /// (`redirect_dir`, `metacopy`), as only mounts with these options leave it.
        follows: bool,
        /// Whether it was begun on layers with the marks of both families, so that directories that were copied up may
        /// carry marks of the family that its mounts do not obey.
        copied_marks: bool,
        /// Whether the mounts translate ids, so that [`super::owner::HOST_ROOT`] may own something.
        translates: bool,
    },
    /// What fuse-overlayfs leaves in its upper directory, by its version and its rights: overlayfs's of either family,
    /// `user.fuseoverlayfs.*` attributes, `.wh.` files beside or in place of what they delete, and
    /// `.wh..wh..opq`: empty, with the mode 0700. Not every version refuses to make other things of such a name.
    Fuse,
}

/// Returns true if this process is shown `trusted.*` attributes, as far as can be told without making one. Where it cannot be
/// told it is not: whoever does not see deletions would bring deleted files back.
pub fn sees_trusted() -> bool {
    in_initial_user_namespace()
        && capabilities(None).is_ok_and(|sets| sets.effective.contains(CapabilitySet::SYS_ADMIN))
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

    /// Tells what the attribute `name` of an object in such a tree is called in an image.
    pub fn stored(self, name: &[u8]) -> Stored {
        match self {
            Self::None => Stored::Plain,
            Self::Overlay(family) => family.unescape(name),
            Self::Both => match Namespace::Trusted.unescape(name) {
                Stored::Plain => Namespace::User.unescape(name),
                stored => stored,
            },
            Self::Upper { family, copied_marks, .. } => match family.unescape(name) {
                Stored::Plain if copied_marks => family.other().unescape_copied_up(name),
                stored => stored,
            },
            // The server writes `trusted.overlay.*` and attributes of its own. It does not escape what a process writes.
            Self::Fuse if name.starts_with(super::owner::FUSE_PREFIX) => Stored::Private,
            Self::Fuse => match (Namespace::Trusted.unescape(name), Namespace::User.unescape_copied_up(name))
            {
                (Stored::Plain, Stored::Escaped(_)) => Stored::Plain,
                (Stored::Plain, stored) => stored,
                _ => Stored::Private,
            },
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

/// Writing marks of this family.
impl Namespace {
    /// Sets `overlay.<key>`.
    fn set(self, dir: &Dir, path: &Path, key: &str, value: &[u8]) -> Result<()> {
        dir.set_xattr(path, self.key(key), value)
    }

    /// Keeps fuse-overlayfs from obeying `user.overlay.opaque` on the directory `path`, which is an attribute of the image.
    /// A directory with a mark of its own keeps that.
    ///
    /// # Errors
    ///
    /// [`crate::fs::Error`] if an attribute cannot be read or set.
    pub fn shield(self, dir: &Dir, path: &Path) -> Result<()> {
        let own = self.key("opaque");
        if self == Self::User
            || dir.xattr(path, Self::User.key("opaque"))?.is_none()
            || dir.xattr(path, &own)?.is_some()
        {
            return Ok(());
        }
        dir.set_xattr(path, own, b"n")
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
                match Marks::Overlay(self).opacity(dir, parent)? {
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

    /// The family of marks that the tests' process can write in `dir`: being root is not enough, it may be a user
    /// namespace's.
    pub(in super::super) fn family(dir: &Dir) -> Namespace {
        let key = Namespace::Trusted.key("test");
        let allowed = dir.set_xattr(".", &key, b"").is_ok();
        dir.remove_xattr(".", &key).unwrap_or_default();
        if allowed { Namespace::Trusted } else { Namespace::User }
    }

    #[test]
    fn an_attribute_of_the_image_does_not_make_a_directory_opaque_for_fuse_overlayfs() {
        let temp = tempfile::tempdir_in(".").unwrap();
        let dir = Dir::open_ambient(temp.path()).unwrap();
        let family = family(&dir);
        for name in ["plain", "image", "both"] {
            dir.create_dir(name, 0o755).unwrap();
        }
        for name in ["image", "both"] {
            dir.set_xattr(name, Namespace::User.key("opaque"), b"y").unwrap();
        }
        family.mark_opaque(&dir, Path::new("both")).unwrap();
        for name in ["plain", "image", "both"] {
            family.shield(&dir, Path::new(name)).unwrap();
        }
        if family == Namespace::Trusted {
            let value = |name: &str| dir.xattr(name, family.key("opaque")).unwrap();
            assert_eq!(value("plain"), None);
            assert_eq!(value("image").as_deref(), Some(&b"n"[..]));
            assert_eq!(value("both").as_deref(), Some(&b"y"[..]));
            let opacity = |name| Marks::Overlay(family).opacity(&dir, Path::new(name)).unwrap();
            assert_eq!((opacity("image"), opacity("both")), (Opacity::Merged, Opacity::Opaque));
        }
    }
}
