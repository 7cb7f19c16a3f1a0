//! Where a mount with `redirect_dir` or `metacopy` left something of what its upper directory shows in the layers below.
//!
//! ```text
//! overlay.redirect   on a directory: it is merged with what the layers below have under another name, a path from the
//!                    root if it begins with a slash, otherwise a name in the same directory
//! overlay.metacopy   on a regular file: its content is that of the file below, of the same name or of that which
//!                    overlay.redirect says
//! ```
//!
//! Only upper directories whose mounts were told so are read with this ([`Marks::follows`]), never layers: what an image
//! says in such attributes does not act.

use rustix::io::Errno;

use super::marks::{Marks, Opacity};
use super::merged::{Found, Merge, Stack};
use crate::fs::{Error, Kind, Result};
use crate::path::LayerPath;

impl Stack<'_> {
    /// Completes what was just taken from the tree at `position` for `name` in the directory `path`: false if it leads
    /// elsewhere, so that nothing of this name counts in the trees below.
    pub(super) fn follow(
        &self,
        position: usize,
        path: &LayerPath,
        directory: &Found,
        name: &[u8],
        merge: &mut Merge,
    ) -> Result<bool> {
        let marks = self.tree(position).marks;
        let Some(found) = merge.found.as_mut().filter(|_| position == 0 && marks.follows()) else {
            return Ok(true);
        };
        let (dir, own) = (&self.tree(position).dir, path.join(name));
        let mark = |key: &str| match marks.family() {
            Some(family) => dir.xattr(own.as_path(), family.key(key)),
            None => Ok(None),
        };
        match found.stat.kind {
            // A directory that hides what is below has no business there, whatever it was once called.
            Kind::Directory if marks.opacity(dir, own.as_path())? == Opacity::Opaque => Ok(true),
            Kind::Directory => {
                let Some(redirect) = mark("redirect")? else { return Ok(true) };
                merge.closed = true;
                found.lower = None;
                if let Some((lower, target)) = self.target(path, directory, &redirect)?
                    && target.is_directory()
                {
                    found.lower = Some(lower).filter(|lower| *lower != own);
                    found.parts.extend(target.parts);
                }
                Ok(false)
            }
            Kind::File if mark("metacopy")?.is_some() => {
                let redirect = mark("redirect")?;
                let target = self.target(path, directory, redirect.as_deref().unwrap_or(name))?;
                match target.filter(|(_, target)| target.stat.kind == Kind::File) {
                    Some((lower, target)) => {
                        found.lower = Some(lower).filter(|lower| *lower != own);
                        found.parts.extend(target.parts);
                        Ok(false)
                    }
                    None => Err(Error::new("find the content of", dir.path_of(own.as_path()), Errno::NOENT)),
                }
            }
            _ => Ok(true),
        }
    }

    /// What the trees below the topmost have where `redirect`, found in the directory `path`, leads, and its name there.
    fn target(
        &self,
        path: &LayerPath,
        directory: &Found,
        redirect: &[u8],
    ) -> Result<Option<(LayerPath, Found)>> {
        let below: Vec<usize> = directory.parts.iter().copied().filter(|&position| position > 0).collect();
        let lower = LayerPath::parse(redirect).map_err(|error| {
            let path = self.tree(0).dir.path_of(path.as_path());
            Error::new("follow a mark in", path, std::io::Error::other(error))
        })?;
        if !redirect.starts_with(b"/") {
            let Some(name) = lower.file_name() else { return Ok(None) };
            let lower = directory.name_in(1, path).join(name);
            return Ok(self.child_in(&below, path, directory, name)?.map(|found| (lower, found)));
        }
        let Some(mut found) = self.below().lookup(&lower)? else { return Ok(None) };
        for position in &mut found.parts {
            *position += 1;
        }
        Ok(Some((lower, found)))
    }
}

impl Marks {
    /// Whether something may be left in the layers below that this tree shows.
    pub fn follows(self) -> bool {
        matches!(self, Self::Upper { follows: true, .. })
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::path::Path;

    use super::super::merged::Tree;
    use super::*;
    use crate::fs::Dir;
    use crate::whiteout::Namespace;

    fn tree(root: &Path, name: &str, follows: bool) -> Tree {
        let dir = Dir::ensure_ambient(root.join(name)).unwrap();
        let marks = Marks::Upper { family: Namespace::User, follows, copied_marks: false, translates: false };
        Tree { dir, marks, declares_root: false }
    }

    fn mark(tree: &Tree, path: &str, key: &str, value: &[u8]) {
        tree.dir.set_xattr(path, Namespace::User.key(key), value).unwrap();
    }

    #[test]
    fn a_mark_leads_into_the_layers_below_and_nowhere_else() {
        let temp = tempfile::tempdir_in(".").unwrap();
        let (upper, lower) = (tree(temp.path(), "upper", true), tree(temp.path(), "lower", false));
        for directory in ["a", "a/b", "c"] {
            lower.dir.create_dir(directory, 0o755).unwrap();
        }
        lower.dir.create_file("a/b/file", 0o644).unwrap().write_all(b"content").unwrap();
        for directory in ["moved", "c", "c/near", "out", "gone"] {
            upper.dir.create_dir(directory, 0o755).unwrap();
        }
        mark(&upper, "moved", "redirect", b"/a/b");
        mark(&upper, "c", "redirect", b"a");
        mark(&upper, "c/near", "redirect", b"b");
        mark(&upper, "gone", "redirect", b"/a/nothing");
        mark(&upper, "out", "redirect", b"/../c");
        let path = |text: &str| LayerPath::parse(text).unwrap();
        let stack = Stack::new([&upper, &lower]);
        for name in ["moved/file", "c/near/file", "c/b/file"] {
            let found = stack.lookup(&path(name)).unwrap().unwrap();
            assert_eq!((found.tree(), found.is_moved()), (1, true), "{name}");
            let mut content = String::new();
            stack.open(&path(name), &found).unwrap().read_to_string(&mut content).unwrap();
            assert_eq!(content, "content", "{name}");
        }
        let gone = stack.lookup(&path("gone")).unwrap().unwrap();
        assert!(stack.children(&path("gone"), &gone).unwrap().is_empty());
        assert!(stack.lookup(&path("out")).is_err());
        // A layer's own marks lead nowhere, and neither do those of an upper directory that should have none.
        let other = Tree { marks: Marks::Overlay(Namespace::User), ..tree(temp.path(), "upper", false) };
        let stack = Stack::new([&other, &lower]);
        assert!(stack.lookup(&path("moved/file")).unwrap().is_none());
    }

    #[test]
    fn a_file_whose_content_is_not_to_be_found_is_an_error_and_no_zeros() {
        let temp = tempfile::tempdir_in(".").unwrap();
        let (upper, lower) = (tree(temp.path(), "upper", true), tree(temp.path(), "lower", false));
        upper.dir.create_file("file", 0o644).unwrap().set_len(7).unwrap();
        mark(&upper, "file", "metacopy", b"");
        let path = LayerPath::parse("file").unwrap();
        let stack = Stack::new([&upper, &lower]);
        let error = stack.lookup(&path).unwrap_err().to_string();
        assert!(error.contains("cannot find the content of"), "{error}");
        lower.dir.create_dir("file", 0o755).unwrap();
        assert!(stack.lookup(&path).is_err());
    }
}
