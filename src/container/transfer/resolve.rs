//! [`resolve`]: what a path means in a root, without leaving it.
//!
//! The last component is looked at here, so that it may be missing or be a link that is not meant to be followed; all
//! others the kernel resolves, as for a process whose root this is. Links of `/proc`, which lead anywhere, are read as the
//! text that they show and so stay inside like any other.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::fs::OFlags;
use rustix::io::Errno;

use super::CopyError;
use crate::fs::{self, Dir, Kind};
use crate::whiteout::Namespace;

/// How many links the kernel follows, too.
const LINKS: usize = 40;

/// What a path means in a root.
#[derive(Debug)]
#[non_exhaustive]
pub struct Located {
    /// The directory itself, if it is one, otherwise the directory that it is in.
    pub dir: Dir,
    /// Its name in `dir`; `None` for a directory. Where links were followed it is that of what they lead to.
    pub name: Option<OsString>,
    /// What it is; `None` if there is nothing of that name.
    pub kind: Option<Kind>,
    /// The family of which marks may be seen here as attributes.
    pub(crate) shows_marks: Option<Namespace>,
}

impl Located {
    /// Whether it is a directory.
    pub fn is_directory(&self) -> bool {
        self.kind == Some(Kind::Directory)
    }
}

/// Finds what `path` means where `root` is the root directory: absolute links and `..` lead from there. The last component
/// may be missing. `follow` says whether it is followed if it is a symbolic link; behind a slash it always is.
///
/// # Errors
///
/// [`CopyError::NotFound`] if a directory on the way is missing, [`CopyError::NotADirectory`] if it is something else.
pub fn resolve(root: &Dir, path: impl AsRef<Path>, follow: bool) -> Result<Located, CopyError> {
    let said = path.as_ref();
    let mut path = said.as_os_str().as_bytes().to_vec();
    for _ in 0..LINKS {
        let cut = path.iter().rposition(|&byte| byte == b'/').map_or(0, |slash| slash + 1);
        let (parent, name) = path.split_at(cut);
        if matches!(name, b"" | b"." | b"..") {
            let dir = directory(root, &path, said)?;
            return Ok(Located { dir, name: None, kind: Some(Kind::Directory), shows_marks: None });
        }
        let parent_dir = directory(root, parent, said)?;
        let name = OsStr::from_bytes(name).to_owned();
        match parent_dir.find(&name)?.map(|stat| stat.kind) {
            Some(Kind::Directory) => {
                let dir = parent_dir.open_dir(&name)?;
                return Ok(Located { dir, name: None, kind: Some(Kind::Directory), shows_marks: None });
            }
            Some(Kind::Symlink) if follow => {
                let target = parent_dir.read_link(&name)?;
                path = if target.starts_with(b"/") { target } else { [parent, &target].concat() };
            }
            kind => return Ok(Located { dir: parent_dir, name: Some(name), kind, shows_marks: None }),
        }
    }
    Err(CopyError::TooManyLinks { path: said.to_owned() })
}

/// Opens a directory as a process would whose root this is.
fn directory(root: &Dir, path: &[u8], said: &Path) -> Result<Dir, CopyError> {
    let path = Path::new(OsStr::from_bytes(if path.is_empty() { b"/" } else { path }));
    let opened = root.open_in_root(path, OFlags::RDONLY | OFlags::DIRECTORY);
    opened.map(Dir::from).map_err(|error| refused(error, said.to_owned()))
}

fn refused(error: fs::Error, path: PathBuf) -> CopyError {
    match error.errno() {
        Some(Errno::NOENT) => CopyError::NotFound { path },
        Some(Errno::NOTDIR) => CopyError::NotADirectory { path },
        Some(Errno::LOOP) => CopyError::TooManyLinks { path },
        _ => error.into(),
    }
}

/// The last component of a path, if it is a name.
pub(super) fn last_name(path: &Path) -> Option<&[u8]> {
    let bytes = path.as_os_str().as_bytes();
    let end = bytes.iter().rposition(|&byte| byte != b'/').map_or(0, |last| last + 1);
    let name = bytes[..end].rsplit(|&byte| byte == b'/').next()?;
    (!matches!(name, b"" | b"." | b"..")).then_some(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_means_what_it_means_to_a_process_in_the_root() {
        let temp = tempfile::tempdir().unwrap();
        let outside = Dir::open_ambient(temp.path()).unwrap();
        outside.create_file("secret", 0o600).unwrap();
        let root = outside.ensure_dir("root", 0o755).unwrap();
        root.create_dir("dir", 0o755).unwrap();
        root.create_file("dir/file", 0o600).unwrap();
        for (target, link) in [
            ("dir/file", "relative"),
            ("/dir", "absolute"),
            ("../../secret", "up"),
            ("/../secret", "up-from-the-root"),
            ("circle", "circle"),
            ("relative", "twice"),
        ] {
            root.create_symlink(target.as_bytes(), link).unwrap();
        }
        let told = |path: &str, follow| match resolve(&root, path, follow) {
            Ok(Located { name, kind, .. }) => {
                let kind = kind.map_or("nothing".to_owned(), |kind| format!("{kind:?}").to_lowercase());
                name.map_or(kind.clone(), |name| format!("{kind} {}", name.display()))
            }
            Err(error) => error.to_string(),
        };
        for (path, unfollowed, followed) in [
            ("dir/file", "file file", "file file"),
            ("/", "directory", "directory"),
            ("", "directory", "directory"),
            ("dir/.", "directory", "directory"),
            ("dir/../..", "directory", "directory"),
            ("relative", "symlink relative", "file file"),
            ("twice", "symlink twice", "file file"),
            ("absolute", "symlink absolute", "directory"),
            ("absolute/", "directory", "directory"),
            ("absolute/file", "file file", "file file"),
            ("absolute/new", "nothing new", "nothing new"),
            ("up", "symlink up", "nothing secret"),
            ("up-from-the-root", "symlink up-from-the-root", "nothing secret"),
            ("../secret", "nothing secret", "nothing secret"),
            ("missing/x", "there is no \"missing/x\"", "there is no \"missing/x\""),
            ("relative/x", "\"relative/x\" is not a directory", "\"relative/x\" is not a directory"),
            ("circle", "symlink circle", "\"circle\" leads through too many symbolic links"),
        ] {
            assert_eq!(told(path, false), unfollowed, "{path}");
            assert_eq!(told(path, true), followed, "{path}");
        }
    }

    #[test]
    fn the_name_of_a_path_is_its_last_component() {
        for (path, name) in
            [("/a/b", Some("b")), ("b/", Some("b")), ("/", None), ("a/.", None), ("a/..", None), ("", None)]
        {
            assert_eq!(last_name(Path::new(path)), name.map(str::as_bytes), "{path}");
        }
    }
}
