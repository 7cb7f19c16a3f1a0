//! Deletions: how a layer says that a name below it is gone.
//!
//! In a layer tar it is an empty file whose name begins with `.wh.`, or `.wh..wh..opq` for "everything below this
//! directory" ([spec](https://github.com/opencontainers/image-spec/blob/main/layer.md#whiteouts)). On disk, for
//! overlayfs, it is a character device 0:0 or a marked empty file, and an extended attribute on the directory
//! ([overlayfs.rst](https://docs.kernel.org/filesystems/overlayfs.html#whiteouts-and-opaque-directories)). This file
//! knows names and attribute keys only; `stack` reads and writes them on disk.

use serde::{Deserialize, Serialize};

/// What begins the name of every whiteout.
pub const PREFIX: &[u8] = b".wh.";

/// The marker that makes its directory opaque.
pub const OPAQUE: &[u8] = b".wh..wh..opq";

/// What a file name in a layer tar stands for. Only the name counts: images exist whose whiteouts are hard links or
/// have a size.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum Meaning<'a> {
    /// An entry like any other.
    Entry,
    /// This sibling is deleted.
    Whiteout(&'a [u8]),
    /// The directory hides everything below it.
    Opaque,
    /// Bookkeeping of AUFS: no entry and no whiteout.
    Aufs,
}

/// A whiteout for no possible name: `.wh.`, `.wh..` or `.wh...`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("the whiteout names no file")]
pub struct InvalidWhiteout;

/// Reads the last component of an entry's name.
///
/// # Errors
///
/// [`InvalidWhiteout`] if it would delete the directory itself or its parent.
pub fn meaning(name: &[u8]) -> Result<Meaning<'_>, InvalidWhiteout> {
    match name.strip_prefix(PREFIX) {
        None => Ok(Meaning::Entry),
        Some(_) if name == OPAQUE => Ok(Meaning::Opaque),
        Some(rest) if rest.starts_with(PREFIX) => Ok(Meaning::Aufs),
        Some(b"" | b"." | b"..") => Err(InvalidWhiteout),
        Some(rest) => Ok(Meaning::Whiteout(rest)),
    }
}

/// The two families of overlayfs attributes. A mount obeys one of them, and treats the attributes of the other as it treats
/// any attribute.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum Namespace {
    /// `trusted.overlay.*`: mounts made with privilege in the initial user namespace.
    Trusted,
    /// `user.overlay.*`: mounts with the option `userxattr`.
    User,
}

/// The marks of layers. Layers with a record of version 1 carry them in both families.
pub(crate) const MARKS: [&str; 3] = ["opaque", "origin", "whiteout"];

impl Namespace {
    /// Both families.
    pub const ALL: [Self; 2] = [Self::Trusted, Self::User];

    /// The other family.
    #[must_use]
    pub fn other(self) -> Self {
        match self {
            Self::Trusted => Self::User,
            Self::User => Self::Trusted,
        }
    }

    /// Returns its name: `trusted` or `user`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Trusted => "trusted",
            Self::User => "user",
        }
    }

    /// What begins the family's attribute names.
    pub fn prefix(self) -> &'static str {
        match self {
            Self::Trusted => "trusted.overlay.",
            Self::User => "user.overlay.",
        }
    }

    /// The full attribute name for `key`, such as `opaque`.
    pub fn key(self, key: &str) -> String {
        format!("{}{key}", self.prefix())
    }

    /// Returns the name under which a tree with marks of this family stores the attribute `name` of an image, or `None` if
    /// the attribute keeps its name. An attribute of this family gets one more level of `overlay.`, so that overlayfs
    /// never obeys it. An attribute of the other family keeps its name.
    ///
    /// The kernel removes the level when it shows the file (`overlayfs.rst`, nesting), and so does
    /// [`Namespace::unescape`] when a layer is written.
    pub fn escape(self, name: &[u8]) -> Option<Vec<u8>> {
        let rest = name.strip_prefix(self.prefix().as_bytes())?;
        Some([self.prefix().as_bytes(), b"overlay.", rest].concat())
    }

    /// Tells the marks of this family from the attributes of the image; the reverse of [`Namespace::escape`].
    pub fn unescape(self, name: &[u8]) -> Stored {
        let prefix = self.prefix().as_bytes();
        match name.strip_prefix(prefix) {
            None => Stored::Plain,
            Some(rest) => match rest.strip_prefix(b"overlay.") {
                Some(rest) => Stored::Escaped([prefix, rest].concat()),
                None => Stored::Private,
            },
        }
    }

    /// Does the same for an attribute of this family in a writable directory whose mounts obeyed the *other* family, on layers
    /// that carried the marks of both. A mount copied those marks up with their directories; any other name is one that a
    /// process wrote.
    pub fn unescape_copied_up(self, name: &[u8]) -> Stored {
        match (self.unescape(name), name.strip_prefix(self.prefix().as_bytes())) {
            (Stored::Private, Some(mark)) if MARKS.iter().all(|known| known.as_bytes() != mark) => {
                Stored::Plain
            }
            (stored, _) => stored,
        }
    }
}

/// What an attribute found on disk is called in a layer tar.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum Stored {
    /// Its own name.
    Plain,
    /// Overlayfs's bookkeeping, which stays behind.
    Private,
    /// It was escaped; this is its real name.
    Escaped(Vec<u8>),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_whiteout_is_known_by_its_name() {
        assert_eq!(meaning(b"file"), Ok(Meaning::Entry));
        assert_eq!(meaning(b".wh"), Ok(Meaning::Entry));
        assert_eq!(meaning(b".wh.file"), Ok(Meaning::Whiteout(b"file")));
        assert_eq!(meaning(b".wh..hidden"), Ok(Meaning::Whiteout(b".hidden")));
        assert_eq!(meaning(b".wh..wh..opq"), Ok(Meaning::Opaque));
        for aufs in [&b".wh..wh.aufs"[..], b".wh..wh.orph", b".wh..wh.plnk", b".wh..wh."] {
            assert_eq!(meaning(aufs), Ok(Meaning::Aufs));
        }
    }

    #[test]
    fn a_whiteout_never_names_the_directory_or_its_parent() {
        for name in [&b".wh."[..], b".wh..", b".wh..."] {
            assert_eq!(meaning(name), Err(InvalidWhiteout));
        }
    }

    #[test]
    fn an_attribute_of_the_own_family_is_escaped_and_comes_back() {
        for family in Namespace::ALL {
            for key in ["opaque", "redirect", "x", "overlay.x"] {
                let name = family.key(key).into_bytes();
                let stored = family.escape(&name).unwrap();
                assert_eq!(family.unescape(&stored), Stored::Escaped(name.clone()));
                assert_ne!(family.unescape(&name), Stored::Plain);
                assert_eq!(family.other().escape(&name), None);
                assert_eq!(family.other().unescape(&name), Stored::Plain);
                assert_eq!(family.other().unescape(&stored), Stored::Plain);
            }
            assert_eq!(family.unescape(family.key("opaque").as_bytes()), Stored::Private);
            assert_eq!(family.escape(b"user.mime_type"), None);
            assert_eq!(family.unescape(b"user.mime_type"), Stored::Plain);
        }
    }

    #[test]
    fn of_what_was_copied_up_only_marks_are_left_behind() {
        let stored = |key: &str| Namespace::User.unescape_copied_up(Namespace::User.key(key).as_bytes());
        for mark in ["opaque", "origin", "whiteout"] {
            assert_eq!(stored(mark), Stored::Private);
        }
        assert_eq!(stored("written"), Stored::Plain);
        assert_eq!(stored("overlay.x"), Stored::Escaped(b"user.overlay.x".to_vec()));
        assert_eq!(Namespace::User.unescape_copied_up(b"user.x"), Stored::Plain);
    }
}
