//! [`Name`]: what the name of an entry says about it, before its type is looked at.

use super::error::{ChangesetError, printable};
use crate::path::{LayerPath, PathError};
use crate::whiteout::{self, Meaning};

/// Where AUFS keeps files that have several names.
const AUFS_LINKS: &[u8] = b".wh..wh.plnk";

/// What the name of an entry says about it.
pub(super) enum Name {
    /// An ordinary place in the layer.
    Plain(LayerPath),
    /// The deletion of this path.
    Whiteout(LayerPath),
    /// This directory hides what lies below it.
    Opaque(LayerPath),
    /// Bookkeeping of AUFS, or something in it.
    Aufs,
    /// Something in the directory where AUFS keeps what has several names.
    AufsLink(LayerPath),
}

/// Why a name is refused.
pub(super) enum NameFault {
    Path(PathError),
    Whiteout(whiteout::InvalidWhiteout),
}

impl NameFault {
    pub(super) fn into_error(self, index: u64, raw: &[u8]) -> ChangesetError {
        let name = printable(raw);
        match self {
            Self::Path(source) => ChangesetError::Path { index, name, source },
            Self::Whiteout(source) => ChangesetError::Whiteout { index, name, source },
        }
    }
}

impl Name {
    /// Reads a name as it stands in a tar that is no layer, where every name is an ordinary one.
    pub(super) fn plain(raw: &[u8]) -> Result<Self, NameFault> {
        LayerPath::parse(raw).map(Self::Plain).map_err(NameFault::Path)
    }

    /// Reads a name as it stands in the tar. Only its last component makes it a whiteout.
    pub(super) fn parse(raw: &[u8]) -> Result<Self, NameFault> {
        // The prefix of a whiteout may make its name longer than a file's may be, so it comes off before the path is
        // verified.
        let mut end = raw.len();
        let last = loop {
            let start = raw[..end].iter().rposition(|&byte| byte == b'/').map_or(0, |slash| slash + 1);
            match &raw[start..end] {
                b"" | b"." if start > 0 => end = start - 1,
                _ => break start..end,
            }
        };
        let parent = || LayerPath::parse(&raw[..last.start]).map_err(NameFault::Path);
        let is_aufs = |path: &LayerPath| {
            path.components()
                .any(|name| matches!(whiteout::meaning(name), Ok(Meaning::Aufs | Meaning::Opaque)))
        };
        match whiteout::meaning(&raw[last.clone()]).map_err(NameFault::Whiteout)? {
            Meaning::Entry => {
                let path = LayerPath::parse(raw).map_err(NameFault::Path)?;
                let is_link = path.components().next() == Some(AUFS_LINKS) && path.components().count() == 2;
                Ok(match is_aufs(&path) {
                    true if is_link => Self::AufsLink(path),
                    true => Self::Aufs,
                    false => Self::Plain(path),
                })
            }
            Meaning::Whiteout(name) => {
                let parent = parent()?;
                // Verifies the name like any other.
                let path = match LayerPath::parse(name) {
                    Ok(_) => parent.join(name),
                    Err(source) => return Err(NameFault::Path(source)),
                };
                Ok(if is_aufs(&path) { Self::Aufs } else { Self::Whiteout(path) })
            }
            Meaning::Opaque => {
                let path = parent()?;
                Ok(if is_aufs(&path) { Self::Aufs } else { Self::Opaque(path) })
            }
            Meaning::Aufs => parent().map(|_| Self::Aufs),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(raw: &str) -> String {
        match Name::parse(raw.as_bytes()) {
            Ok(Name::Plain(path)) => format!("plain {path}"),
            Ok(Name::Whiteout(path)) => format!("whiteout {path}"),
            Ok(Name::Opaque(path)) => format!("opaque {path}"),
            Ok(Name::Aufs) => "aufs".into(),
            Ok(Name::AufsLink(path)) => format!("link {path}"),
            Err(fault) => fault.into_error(0, raw.as_bytes()).to_string(),
        }
    }

    #[test]
    fn the_last_component_decides_however_the_name_is_spelt() {
        for (raw, expected) in [
            ("a/b", "plain /a/b"),
            ("./a/b/", "plain /a/b"),
            ("", "plain /"),
            ("./", "plain /"),
            ("a/.wh.b", "whiteout /a/b"),
            ("./.wh.b", "whiteout /b"),
            ("/a/.wh.b/", "whiteout /a/b"),
            ("a/.wh.b/./", "whiteout /a/b"),
            (".wh..hidden", "whiteout /.hidden"),
            ("a/.wh..wh..opq", "opaque /a"),
            (".wh..wh..opq", "opaque /"),
            ("a/.wh.b/c", "plain /a/.wh.b/c"),
        ] {
            assert_eq!(text(raw), expected, "{raw}");
        }
    }

    #[test]
    fn bookkeeping_of_aufs_is_told_from_deletions() {
        for raw in [".wh..wh.aufs", ".wh..wh.orph/", ".wh..wh.orph/x", "a/.wh..wh.plnk", "a/.wh..wh.x/.wh.b"]
        {
            assert_eq!(text(raw), "aufs", "{raw}");
        }
        assert_eq!(text(".wh..wh.plnk/12.34"), "link /.wh..wh.plnk/12.34");
        assert_eq!(text(".wh..wh.plnk/12/34"), "aufs");
    }

    #[test]
    fn a_whiteout_may_have_a_longer_name_than_a_file() {
        let name = "x".repeat(255);
        assert_eq!(text(&format!("a/.wh.{name}")), format!("whiteout /a/{name}"));
        assert!(text(&format!("a/.wh.{name}x")).contains("cannot be named"));
    }

    #[test]
    fn names_that_climb_and_whiteouts_of_nothing_are_refused() {
        for raw in ["../a", "a/..", "../.wh.a", "a\0b", ".wh.a\0", "a/../.wh..wh..opq", "../.wh..wh.aufs"] {
            assert!(text(raw).contains("cannot be named"), "{raw}");
        }
        for raw in [".wh.", "a/.wh.", ".wh..", "a/.wh..."] {
            assert!(text(raw).contains("is named"), "{raw}");
        }
    }
}
