//! [`Inode`]: a handle to one inode of any kind, through which owner, mode, attributes and times are read and set.
//!
//! A name in a directory that somebody else may write to can lead to another file at every step. A handle leads to the
//! same inode for as long as it is open. The kernel has no `fchmod`, `fsetxattr` or `futimens` for a handle that was opened
//! without reading (`O_PATH`), which is the only kind that symbolic links, devices and pipes have; a path through
//! `/proc/self/fd` reaches the very inode that the handle stands for.

use std::ffi::OsStr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::fs::{self as sys, AtFlags, Gid, Mode, Uid, XattrFlags};
use rustix::io::Errno;

use super::dir::{Dir, both_times, path_of, proc_path};
use super::error::{Context, Error, Result};
use super::meta::Timestamp;
use super::stat::Stat;
use super::xattr::refusal;

/// One inode, held open.
#[derive(Debug)]
pub struct Inode<'a>(Handle<'a>);

#[derive(Debug)]
enum Handle<'a> {
    /// An open directory or file, mostly opened for reading.
    Borrowed(BorrowedFd<'a>),
    /// Opened with `O_PATH`.
    Path(OwnedFd),
}

impl Dir {
    /// Opens the inode at `path`, which is not followed, for reading and setting its metadata. `.` is this directory, and
    /// costs no system call.
    ///
    /// # Errors
    ///
    /// [`Error`](super::Error) if it is missing or reached through a symlink.
    pub fn inode(&self, path: impl AsRef<Path>) -> Result<Inode<'_>> {
        let path = path.as_ref();
        match path.file_name() {
            None if path.as_os_str().is_empty() || path == Path::new(".") => Ok(Inode::of(self)),
            _ => Ok(Inode(Handle::Path(self.open_path(path)?))),
        }
    }
}

impl<'a> Inode<'a> {
    /// The inode of an open file or directory.
    pub fn of(file: &'a impl AsFd) -> Self {
        Self(Handle::Borrowed(file.as_fd()))
    }

    /// Reads what the inode says of itself.
    ///
    /// # Errors
    ///
    /// [`Error`](super::Error) if the file system does not tell.
    pub fn stat(&self) -> Result<Stat> {
        Stat::of(self).at_path("stat", || self.path())
    }

    /// Reads the text of a symbolic link.
    ///
    /// # Errors
    ///
    /// [`Error`](super::Error) if it is no symlink.
    pub fn read_link(&self) -> Result<Vec<u8>> {
        let target = sys::readlinkat(self, "", Vec::new()).at_path("read link", || self.path())?;
        Ok(target.into_bytes())
    }

    /// Sets owner and group.
    ///
    /// # Errors
    ///
    /// [`Error`](super::Error) if the process may not or cannot name these ids here.
    pub fn set_owner(&self, uid: u32, gid: u32) -> Result<()> {
        let (uid, gid) = (Uid::from_raw_unchecked(uid), Gid::from_raw_unchecked(gid));
        sys::chownat(self, "", Some(uid), Some(gid), AtFlags::EMPTY_PATH).at_path("chown", || self.path())
    }

    /// Sets the permission bits of anything but a symlink.
    ///
    /// # Errors
    ///
    /// [`Error`](super::Error) if the process may not.
    pub fn set_mode(&self, mode: u32) -> Result<()> {
        let mode = Mode::from_raw_mode(mode);
        self.apply(|file| sys::fchmod(file, mode), |path| sys::chmod(path, mode), "chmod")
    }

    /// Sets one extended attribute.
    ///
    /// # Errors
    ///
    /// [`Error`](super::Error) if the process may not, or the object or the file system cannot hold it. Where the kernel
    /// reports a full disk and the disk is not full, it is [`AttributeTooLarge`](super::AttributeTooLarge).
    pub fn set_xattr(&self, name: impl AsRef<[u8]>, value: &[u8]) -> Result<()> {
        let (name, flags) = (OsStr::from_bytes(name.as_ref()), XattrFlags::empty());
        self.apply(
            |file| sys::fsetxattr(file, name, value, flags),
            |path| sys::setxattr(path, name, value, flags),
            "set an attribute of",
        )
        .map_err(|error| match error.errno() {
            Some(errno) => Error { source: refusal(self, errno), ..error },
            None => error,
        })
    }

    /// Removes one extended attribute, which need not be there.
    ///
    /// # Errors
    ///
    /// [`Error`](super::Error) if the process may not.
    pub fn remove_xattr(&self, name: impl AsRef<[u8]>) -> Result<()> {
        let name = OsStr::from_bytes(name.as_ref());
        let absent = |done| match done {
            Err(Errno::NODATA | Errno::OPNOTSUPP) => Ok(()),
            done => done,
        };
        self.apply(
            |file| absent(sys::fremovexattr(file, name)),
            |path| absent(sys::removexattr(path, name)),
            "remove an attribute of",
        )
    }

    /// Sets the modification time, and the access time to the same.
    ///
    /// # Errors
    ///
    /// [`Error`](super::Error) if the process may not.
    pub fn set_mtime(&self, mtime: Timestamp) -> Result<()> {
        let times = both_times(mtime);
        self.apply(
            |file| sys::futimens(file, &times),
            |path| sys::utimensat(sys::CWD, path, &times, AtFlags::empty()),
            "set time of",
        )
    }

    /// The path of the inode as far as the kernel knows it, for messages.
    pub fn path(&self) -> PathBuf {
        path_of(self)
    }

    /// Does one step on the handle, or by way of `/proc` where the handle does not allow it.
    fn apply(
        &self,
        on_handle: impl FnOnce(BorrowedFd<'_>) -> rustix::io::Result<()>,
        on_path: impl FnOnce(&Path) -> rustix::io::Result<()>,
        step: &'static str,
    ) -> Result<()> {
        let done = match &self.0 {
            Handle::Borrowed(file) => on_handle(*file),
            Handle::Path(_) => Err(Errno::BADF),
        };
        match done {
            Err(Errno::BADF) => on_path(&proc_path(self)),
            done => done,
        }
        .at_path(step, || self.path())
    }
}

impl AsFd for Inode<'_> {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match &self.0 {
            Handle::Borrowed(file) => *file,
            Handle::Path(file) => file.as_fd(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fs::{DeviceNumber, Kind};

    #[test]
    fn metadata_goes_to_the_inode_that_was_opened_whatever_its_name_leads_to_now() {
        let temp = tempfile::tempdir_in(".").unwrap();
        let dir = Dir::open_ambient(temp.path()).unwrap();
        let time = Timestamp { seconds: 77, nanos: 5 };
        for kind in ["file", "directory", "fifo", "symlink"] {
            match kind {
                "file" => drop(dir.create_file(kind, 0o600).unwrap()),
                "directory" => dir.create_dir(kind, 0o700).unwrap(),
                "fifo" => dir.create_node(kind, Kind::Fifo, 0o600, DeviceNumber::WHITEOUT).unwrap(),
                _ => dir.create_symlink(b"other", kind).unwrap(),
            }
            let inode = dir.inode(kind).unwrap();
            let before = inode.stat().unwrap();
            dir.rename(kind, &dir, "moved").unwrap();
            let other = dir.create_file(kind, 0o600).unwrap();
            inode.set_owner(before.uid, before.gid).unwrap();
            if before.kind != Kind::Symlink {
                inode.set_mode(0o555).unwrap();
            } else {
                assert!(inode.set_mode(0o555).is_err());
            }
            if matches!(before.kind, Kind::File | Kind::Directory) {
                inode.set_xattr("user.x", b"y").unwrap();
                inode.set_xattr("user.z", b"z").unwrap();
                inode.remove_xattr("user.z").unwrap();
                inode.remove_xattr("user.z").unwrap();
                assert_eq!(dir.xattrs("moved").unwrap().len(), 1);
            }
            inode.set_mtime(time).unwrap();
            let found = dir.stat("moved").unwrap();
            assert_eq!((found.inode, found.mtime), (before.inode, time), "{kind}");
            assert!(found.kind == Kind::Symlink || found.mode == 0o555, "{kind}");
            let untouched = Stat::of(&other).unwrap();
            assert!(untouched.mode == 0o600 && untouched.mtime != time, "{kind}");
            assert!(dir.xattrs(kind).unwrap().is_empty(), "{kind}");
            dir.remove_file(kind).unwrap();
            dir.remove_all("moved").unwrap();
        }
    }

    #[test]
    fn a_directory_is_its_own_inode_however_it_was_opened() {
        let temp = tempfile::tempdir_in(".").unwrap();
        let dir = Dir::open_ambient(temp.path()).unwrap();
        let unread = Dir::from(dir.open_path(".").unwrap());
        for (dir, mode) in [(&dir, 0o750), (&unread, 0o711)] {
            let inode = dir.inode(".").unwrap();
            inode.set_mode(mode).unwrap();
            inode.set_xattr("user.x", b"y").unwrap();
            inode.set_mtime(Timestamp::from_seconds(i64::from(mode))).unwrap();
            let found = dir.stat(".").unwrap();
            assert_eq!((found.mode, found.mtime.seconds), (mode, i64::from(mode)));
        }
    }
}
