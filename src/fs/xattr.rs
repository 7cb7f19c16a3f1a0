//! Extended attributes of anything a [`Dir`] can name, symlinks and device nodes included.
//!
//! The kernel has no `fgetxattr` for a handle that was opened without reading, and `getxattrat` is too young to rely
//! on; a path through `/proc/self/fd` reaches the very inode that the directory handle stands for.

use std::ffi::OsStr;
use std::io;
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use rustix::fs::{self as sys, XattrFlags};
use rustix::io::Errno;

use super::dir::{Dir, proc_path};
use super::error::{AttributeTooLarge, Context, Result};
use super::inode::Inode;
use super::meta::Xattrs;

/// Bytes that are free on a file system that has room: far more than all attributes of one file can take.
const ROOM: u64 = 1 << 20;

/// The kernel's bound on one value and on one list of names (`XATTR_SIZE_MAX`).
const LARGEST: usize = 64 << 10;

impl Dir {
    /// All extended attributes of `path`, which is not followed. A file system without attributes has none.
    ///
    /// # Errors
    ///
    /// [`super::Error`] if it is missing or an attribute cannot be read.
    pub fn xattrs(&self, path: impl AsRef<Path>) -> Result<Xattrs> {
        let target = self.xattr_path(path.as_ref())?;
        let list = |buffer: &mut [u8]| sys::llistxattr(&target.path, buffer);
        all(list, |name| target.get(name)).map_err(|(step, error)| self.fault(step, &path, error))
    }

    /// One extended attribute of `path`, which is not followed; `None` if it has no such attribute.
    ///
    /// # Errors
    ///
    /// [`super::Error`] if that cannot be told.
    pub fn xattr(&self, path: impl AsRef<Path>, name: impl AsRef<[u8]>) -> Result<Option<Vec<u8>>> {
        let (path, name) = (path.as_ref(), name.as_ref());
        let own = match path.file_name() {
            // Far cheaper than a path through `/proc`, if the handle was opened for reading.
            None => value(|buffer| sys::fgetxattr(self, OsStr::from_bytes(name), buffer)),
            Some(_) => Err(Errno::BADF),
        };
        let found = match own {
            Err(Errno::BADF) => self.xattr_path(path)?.get(name),
            own => own,
        };
        match found {
            Ok(value) => Ok(Some(value)),
            Err(Errno::NODATA | Errno::OPNOTSUPP) => Ok(None),
            Err(error) => Err(self.fault("read an attribute of", path, error)),
        }
    }

    /// Sets one extended attribute of `path`, which is not followed.
    ///
    /// # Errors
    ///
    /// [`super::Error`] if the process may not, or the object or the file system cannot hold it. Where the kernel reports a
    /// full disk and the disk is not full, the attribute is what does not fit: [`AttributeTooLarge`] says so.
    pub fn set_xattr(&self, path: impl AsRef<Path>, name: impl AsRef<[u8]>, value: &[u8]) -> Result<()> {
        let target = self.xattr_path(path.as_ref())?;
        sys::lsetxattr(&target.path, OsStr::from_bytes(name.as_ref()), value, XattrFlags::empty())
            .map_err(|error| self.fault("set an attribute of", &path, refusal(self, error)))
    }

    /// Removes one extended attribute of `path`, which is not followed; it need not be there.
    ///
    /// # Errors
    ///
    /// [`super::Error`] if the process may not.
    pub fn remove_xattr(&self, path: impl AsRef<Path>, name: impl AsRef<[u8]>) -> Result<()> {
        let target = self.xattr_path(path.as_ref())?;
        match sys::lremovexattr(&target.path, OsStr::from_bytes(name.as_ref())) {
            Err(Errno::NODATA | Errno::OPNOTSUPP) => Ok(()),
            done => done.map_err(|error| self.fault("remove an attribute of", &path, error)),
        }
    }

    fn xattr_path(&self, path: &Path) -> Result<Target> {
        let Some(name) = path.file_name() else {
            return Ok(Target { path: self.proc_path().join("."), _parent: None });
        };
        match path.parent().filter(|parent| !parent.as_os_str().is_empty()) {
            None => Ok(Target { path: self.proc_path().join(name), _parent: None }),
            Some(parent) => {
                let parent = self.open_dir(parent)?;
                Ok(Target { path: parent.proc_path().join(name), _parent: Some(parent) })
            }
        }
    }
}

impl Inode<'_> {
    /// All extended attributes. A file system without attributes has none.
    ///
    /// # Errors
    ///
    /// [`super::Error`] if an attribute cannot be read.
    pub fn xattrs(&self) -> Result<Xattrs> {
        let path = proc_path(self);
        let get = |name: &[u8]| value(|buffer| sys::getxattr(&path, OsStr::from_bytes(name), buffer));
        let xattrs = all(|buffer| sys::listxattr(&path, buffer), get);
        xattrs.or_else(|(step, error)| Err(error).at_path(step, || self.path()))
    }
}

/// Tells an attribute that is too large from a full disk: both are `ENOSPC`.
pub(super) fn refusal(on: impl AsFd, error: Errno) -> io::Error {
    match error {
        Errno::NOSPC if has_room(on) => AttributeTooLarge.into(),
        _ => error.into(),
    }
}

/// Whether the file system says that it has room left: blocks that this process may use, and inodes.
fn has_room(on: impl AsFd) -> bool {
    sys::fstatvfs(on).is_ok_and(|left| {
        let blocks = left.f_blocks == 0 || left.f_bavail.saturating_mul(left.f_frsize) >= ROOM;
        blocks && (left.f_files == 0 || left.f_favail > 0)
    })
}

/// Reads every attribute that `list` names. An error comes with the step that failed.
fn all(
    list: impl Fn(&mut [u8]) -> rustix::io::Result<usize>,
    get: impl Fn(&[u8]) -> rustix::io::Result<Vec<u8>>,
) -> std::result::Result<Xattrs, (&'static str, Errno)> {
    // Most files have none: ask with a small buffer first.
    let mut names = vec![0; 1024];
    let length = match list(&mut names) {
        Err(Errno::RANGE) => {
            names.resize(LARGEST, 0);
            list(&mut names)
        }
        Err(Errno::OPNOTSUPP) => Ok(0),
        done => done,
    };
    let length = length.map_err(|error| ("list attributes of", error))?;
    let mut xattrs = Xattrs::new();
    for name in names[..length].split(|&byte| byte == 0).filter(|name| !name.is_empty()) {
        match get(name) {
            Ok(value) => drop(xattrs.insert(name.to_vec(), value)),
            // Removed between the two calls, or a name that this process may list but not read.
            Err(Errno::NODATA) => {}
            Err(error) => return Err(("read an attribute of", error)),
        }
    }
    Ok(xattrs)
}

/// A path through `/proc`, and the handle that keeps it valid.
struct Target {
    path: std::path::PathBuf,
    _parent: Option<Dir>,
}

impl Target {
    fn get(&self, name: &[u8]) -> rustix::io::Result<Vec<u8>> {
        value(|buffer| sys::lgetxattr(&self.path, OsStr::from_bytes(name), buffer))
    }
}

/// What `read` puts into a buffer that is large enough.
fn value(read: impl Fn(&mut [u8]) -> rustix::io::Result<usize>) -> rustix::io::Result<Vec<u8>> {
    let mut value = vec![0; 256];
    loop {
        match read(&mut value) {
            Ok(length) => {
                value.truncate(length);
                return Ok(value);
            }
            Err(Errno::RANGE) if value.len() < LARGEST => value.resize(LARGEST, 0),
            Err(error) => return Err(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attributes_of_every_size_read_back() {
        let temp = tempfile::tempdir_in(".").unwrap();
        let dir = Dir::open_ambient(temp.path()).unwrap();
        dir.ensure_dir("sub", 0o755).unwrap().create_file("file", 0o644).unwrap();
        for (name, value) in
            [("user.empty", vec![]), ("user.small", b"a=b\n\0".to_vec()), ("user.big", vec![7; 3000])]
        {
            dir.set_xattr("sub/file", name, &value).unwrap();
            assert_eq!(dir.xattr("sub/file", name).unwrap(), Some(value));
        }
        assert_eq!(dir.xattrs("sub/file").unwrap().len(), 3);
        dir.remove_xattr("sub/file", "user.big").unwrap();
        dir.remove_xattr("sub/file", "user.big").unwrap();
        assert_eq!(dir.xattr("sub/file", "user.big").unwrap(), None);
        assert!(dir.xattr("sub/missing", "user.big").is_err());
    }

    #[test]
    fn the_attributes_of_a_symlink_are_not_its_targets() {
        let temp = tempfile::tempdir_in(".").unwrap();
        let dir = Dir::open_ambient(temp.path()).unwrap();
        dir.create_file("file", 0o644).unwrap();
        dir.set_xattr("file", "user.x", b"y").unwrap();
        dir.create_symlink(b"file", "link").unwrap();
        assert_eq!(dir.xattr("link", "user.x").unwrap(), None);
    }

    #[test]
    fn a_directory_tells_its_own_attributes_however_it_was_opened() {
        let temp = tempfile::tempdir_in(".").unwrap();
        let dir = Dir::open_ambient(temp.path()).unwrap();
        let unread = Dir::from(dir.open_path(".").unwrap());
        dir.set_xattr(".", "user.x", &[7; 300]).unwrap();
        for dir in [dir, unread] {
            assert_eq!(dir.xattr(".", "user.x").unwrap(), Some(vec![7; 300]));
            assert_eq!(dir.xattr(".", "user.y").unwrap(), None);
        }
    }
}
