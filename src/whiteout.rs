//! Deletions: how a layer says that a name below it is gone.
//!
//! In a layer tar it is an empty file whose name begins with `.wh.`, or `.wh..wh..opq` for "everything below this
//! directory" ([spec](https://github.com/opencontainers/image-spec/blob/main/layer.md#whiteouts)). On disk, for
//! overlayfs, it is a character device 0:0 or a marked empty file, and an extended attribute on the directory
//! ([overlayfs.rst](https://docs.kernel.org/filesystems/overlayfs.html#whiteouts-and-opaque-directories)). This file
//! knows names and attribute keys only; `stack` reads and writes them on disk.

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

/// The two families of overlayfs attributes; a mount obeys one of them.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
#[non_exhaustive]
pub enum Namespace {
    /// `trusted.overlay.*`: mounts made with privilege in the initial user namespace.
    Trusted,
    /// `user.overlay.*`: mounts with the option `userxattr`.
    User,
}

impl Namespace {
    /// Both families.
    pub const ALL: [Self; 2] = [Self::Trusted, Self::User];

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
}

/// How an attribute that came with an image is stored so that overlayfs never obeys it: one level of `overlay.` is
/// put in front. `None` if the name is none of overlayfs's and can stay.
///
/// The kernel takes the level away again when it shows the file (`overlayfs.rst`, nesting), and so does
/// [`unescape`] when a layer is written.
pub fn escape(name: &[u8]) -> Option<Vec<u8>> {
    let prefix = overlay_prefix(name)?;
    Some([prefix, b"overlay.", &name[prefix.len()..]].concat())
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

/// Tells overlayfs's own attributes from those of the image; the reverse of [`escape`].
pub fn unescape(name: &[u8]) -> Stored {
    match overlay_prefix(name) {
        None => Stored::Plain,
        Some(prefix) => match name[prefix.len()..].strip_prefix(b"overlay.") {
            Some(rest) => Stored::Escaped([prefix, rest].concat()),
            None => Stored::Private,
        },
    }
}

/// The overlayfs prefix that `name` begins with.
fn overlay_prefix(name: &[u8]) -> Option<&'static [u8]> {
    Namespace::ALL.into_iter().map(|space| space.prefix().as_bytes()).find(|prefix| name.starts_with(prefix))
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
    fn an_escaped_attribute_comes_back_and_a_private_one_does_not() {
        for name in [&b"trusted.overlay.opaque"[..], b"user.overlay.redirect", b"user.overlay.overlay.x"] {
            assert_eq!(unescape(&escape(name).unwrap()), Stored::Escaped(name.to_vec()));
            assert_ne!(unescape(name), Stored::Plain);
        }
        assert_eq!(unescape(b"trusted.overlay.opaque"), Stored::Private);
        assert_eq!(escape(b"user.mime_type"), None);
        assert_eq!(unescape(b"user.mime_type"), Stored::Plain);
    }
}
