//! [`LayerPath`]: a name inside a layer, which cannot point outside it.
//!
//! Names in archives are bytes, not text. The proof that a name is relative, has no `..`, no empty component and no
//! NUL is made once, in [`LayerPath::parse`], and travels with the type. The type says nothing about symlinks: a
//! path that is fine as a name may still lead through one, which is for the code that opens it to refuse or resolve.

use std::ffi::OsStr;
use std::fmt;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

/// Bytes of a path at most: the kernel's `PATH_MAX` without the NUL. That is room for 2,048 components of one letter.
pub const LONGEST_PATH: usize = 4095;

/// A path below the root of a layer: components joined by single slashes, no leading or trailing slash; the root
/// itself is empty.
///
/// Ordered by bytes with the slash first, so that a directory comes right before what it holds and `a/b` before
/// `a-b`: the order in which layers are written.
#[derive(Clone, PartialEq, Eq, Hash, Default)]
pub struct LayerPath(Vec<u8>);

/// Why some bytes are not a name inside a layer.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PathError {
    /// A component is `..`.
    #[error("the name has a \"..\" component")]
    Parent,
    /// It holds a NUL byte, which no file name can.
    #[error("the name holds a NUL byte")]
    Nul,
    /// A component is longer than 255 bytes, which no Linux file system takes.
    #[error("a component of the name is longer than 255 bytes")]
    ComponentTooLong,
}

impl LayerPath {
    /// The root of the layer.
    pub const ROOT: Self = Self(Vec::new());

    /// Reads a name as archives write it: leading `/` and `./`, doubled and trailing slashes and `.` components are
    /// dropped; `.`, `./`, `/` and the empty name are the root.
    ///
    /// # Errors
    ///
    /// [`PathError`] if a component is `..` or too long, or the name holds a NUL.
    pub fn parse(name: impl AsRef<[u8]>) -> Result<Self, PathError> {
        let name = name.as_ref();
        if name.contains(&0) {
            return Err(PathError::Nul);
        }
        let mut path = Vec::with_capacity(name.len());
        for component in name.split(|&byte| byte == b'/') {
            match component {
                b"" | b"." => continue,
                b".." => return Err(PathError::Parent),
                _ if component.len() > 255 => return Err(PathError::ComponentTooLong),
                _ => {}
            }
            if !path.is_empty() {
                path.push(b'/');
            }
            path.extend_from_slice(component);
        }
        Ok(Self(path))
    }

    /// Whether this is the root of the layer.
    pub fn is_root(&self) -> bool {
        self.0.is_empty()
    }

    /// The bytes, without a leading slash; empty for the root.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// The same as a relative [`Path`]; `.` for the root, so that it can be opened.
    pub fn as_path(&self) -> &Path {
        Path::new(OsStr::from_bytes(if self.0.is_empty() { b"." } else { &self.0 }))
    }

    /// The components, outermost first.
    pub fn components(&self) -> impl DoubleEndedIterator<Item = &[u8]> {
        self.0.split(|&byte| byte == b'/').filter(|component| !component.is_empty())
    }

    /// The last component; `None` for the root.
    pub fn file_name(&self) -> Option<&[u8]> {
        self.components().next_back()
    }

    /// The directory this is in; `None` for the root.
    pub fn parent(&self) -> Option<Self> {
        if self.is_root() {
            return None;
        }
        let end = self.0.iter().rposition(|&byte| byte == b'/').unwrap_or(0);
        Some(Self(self.0[..end].to_vec()))
    }

    /// Every directory above this one, outermost (the root) first, without this one.
    pub fn ancestors(&self) -> impl Iterator<Item = Self> + '_ {
        let root = (!self.is_root()).then_some(Self::ROOT);
        let inner = self.0.iter().enumerate().filter(|&(_, &byte)| byte == b'/');
        root.into_iter().chain(inner.map(|(end, _)| Self(self.0[..end].to_vec())))
    }

    /// This path with one more component.
    ///
    /// # Panics
    ///
    /// If `name` is not one proper file name. File names from a directory always are.
    #[must_use]
    pub fn join(&self, name: impl AsRef<[u8]>) -> Self {
        let name = name.as_ref();
        assert!(is_file_name(name), "{:?} is not a file name", name.escape_ascii().to_string());
        let mut path = Vec::with_capacity(self.0.len() + 1 + name.len());
        path.extend_from_slice(&self.0);
        if !path.is_empty() {
            path.push(b'/');
        }
        path.extend_from_slice(name);
        Self(path)
    }

    /// Whether this is `other` or lies below it.
    pub fn starts_with(&self, other: &Self) -> bool {
        other.is_root()
            || self.0.strip_prefix(&*other.0).is_some_and(|rest| rest.is_empty() || rest[0] == b'/')
    }
}

/// Whether `name` is one component: not empty, `.` or `..`, without slash and NUL.
pub fn is_file_name(name: &[u8]) -> bool {
    !matches!(name, b"" | b"." | b"..") && !name.iter().any(|&byte| byte == b'/' || byte == 0)
}

impl Ord for LayerPath {
    /// Orders as the lists of components. Long paths have long beginnings in common, so those are compared in blocks.
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        const BLOCK: usize = 64;
        let (one, two) = (self.0.chunks(BLOCK), other.0.chunks(BLOCK));
        let same = one.zip(two).take_while(|(one, two)| one == two).count() * BLOCK;
        // A shorter component comes first, whatever follows it in the other path.
        let rank = |byte: &u8| if *byte == b'/' { 0 } else { u16::from(*byte) + 1 };
        let [one, two] = [self, other].map(|path| path.0.get(same..).unwrap_or_default());
        let differs = one.iter().zip(two).position(|(one, two)| one != two);
        match differs {
            Some(at) => rank(&one[at]).cmp(&rank(&two[at])),
            None => one.len().cmp(&two.len()),
        }
    }
}

impl PartialOrd for LayerPath {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

/// Prints an absolute path as the container sees it; bytes that are not UTF-8 are replaced.
impl fmt::Display for LayerPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "/{}", String::from_utf8_lossy(&self.0))
    }
}

impl fmt::Debug for LayerPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "\"/{}\"", self.0.escape_ascii())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path(name: &str) -> LayerPath {
        LayerPath::parse(name).unwrap()
    }

    #[test]
    fn every_spelling_of_a_name_is_one_path() {
        for name in ["a/b", "/a/b", "./a/b", "a//b", "a/./b/", "//./a/b//"] {
            assert_eq!(path(name), path("a/b"), "{name}");
        }
        for name in ["", ".", "./", "/", "//", "/./"] {
            assert!(path(name).is_root(), "{name}");
        }
    }

    #[test]
    fn a_name_that_climbs_is_refused() {
        for name in ["..", "../a", "a/..", "a/../b", "/..", "./.."] {
            assert_eq!(LayerPath::parse(name), Err(PathError::Parent), "{name}");
        }
        assert_eq!(LayerPath::parse(b"a\0b"), Err(PathError::Nul));
        assert_eq!(LayerPath::parse("x".repeat(256)), Err(PathError::ComponentTooLong));
        assert!(LayerPath::parse("x".repeat(255)).is_ok());
        assert!(LayerPath::parse("..a/b..").is_ok());
    }

    #[test]
    fn a_directory_sorts_right_before_what_it_holds() {
        let mut paths = ["a-b", "a/b", "a", "", "a/b/c", "b"].map(path);
        paths.sort();
        assert_eq!(paths, ["", "a", "a/b", "a/b/c", "a-b", "b"].map(path));
    }

    #[test]
    fn paths_are_ordered_as_their_components() {
        let long = "d/".repeat(100);
        let names = ["a", "a/b", "a/b/c", "ab", "a-b", "a\u{1}", "b", "d", "d/e", "dd"];
        let long = names.map(|name| format!("{long}{name}"));
        let paths: Vec<_> =
            names.iter().map(|name| path(name)).chain(long.iter().map(|name| path(name))).collect();
        for one in &paths {
            for two in &paths {
                assert_eq!(one.cmp(two), one.components().cmp(two.components()), "{one} {two}");
            }
        }
    }

    #[test]
    fn ancestors_run_from_the_root_down() {
        assert_eq!(path("a/b/c").ancestors().collect::<Vec<_>>(), ["", "a", "a/b"].map(path));
        assert_eq!(path("").ancestors().count(), 0);
        assert_eq!(path("a").parent(), Some(LayerPath::ROOT));
        assert!(path("a/b").starts_with(&path("a")) && !path("ab").starts_with(&path("a")));
    }
}
