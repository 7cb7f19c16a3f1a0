//! [`Dir`]: an open directory, and everything done relative to it.
//!
//! No method follows a symlink in any component of the path it is given, and none leaves the directory: paths are
//! resolved by the kernel with `RESOLVE_BENEATH` and `RESOLVE_NO_SYMLINKS`, or are single names. The two exceptions
//! say so: [`Dir::open_ambient`] takes a path from the caller, [`Dir::open_in_root`] resolves as a process whose root
//! this directory is.

mod ambient;
mod look;

use std::ffi::OsStr;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::fs::{
    self as sys, AtFlags, Gid, Mode, OFlags, RenameFlags, ResolveFlags, Timespec, Timestamps, Uid,
};
use rustix::io::Errno;

use super::error::{Error, NoInodes, NotRegular, Result};
use super::meta::{DeviceNumber, Timestamp};
use super::stat::{Kind, Stat};

/// A handle to a directory. Cheap to open, safe to send and share; closes itself.
#[derive(Debug)]
pub struct Dir(OwnedFd);

/// One name in a directory.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Name {
    /// The name, never `.` or `..`.
    pub name: Vec<u8>,
    /// What it is, where the file system says so without being asked for more.
    pub kind: Option<Kind>,
}

const OPEN_DIR: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::CLOEXEC);
const BENEATH: ResolveFlags =
    ResolveFlags::BENEATH.union(ResolveFlags::NO_SYMLINKS).union(ResolveFlags::NO_MAGICLINKS);

impl Dir {
    /// The same directory through a second handle.
    ///
    /// # Errors
    ///
    /// [`Error`] if the process has too many open files.
    pub fn try_clone(&self) -> Result<Self> {
        self.0.try_clone().map(Self).map_err(|error| self.fault("open", "", error))
    }

    /// The path of `name` below this directory as far as the kernel knows it: for messages, and for programs that take
    /// nothing but a path.
    pub fn path_of(&self, name: impl AsRef<Path>) -> PathBuf {
        let own = path_of(&self.0);
        if name.as_ref().as_os_str().is_empty() || name.as_ref() == Path::new(".") {
            own
        } else {
            own.join(name)
        }
    }

    /// This directory as a path through `/proc`, valid in this process while the handle lives.
    pub fn proc_path(&self) -> PathBuf {
        proc_path(&self.0)
    }

    /// A failed step on `path`. The full path costs a system call, so it is asked for only then.
    pub(super) fn fault(
        &self,
        step: &'static str,
        path: impl AsRef<Path>,
        source: impl Into<io::Error>,
    ) -> Error {
        let source = source.into();
        let source = match Errno::from_io_error(&source) {
            Some(Errno::NOSPC) if self.has_no_inodes() => NoInodes.into(),
            _ => source,
        };
        Error::new(step, self.path_of(path), source)
    }

    /// Whether the file system has blocks left, but no inode; what cannot be told is no.
    fn has_no_inodes(&self) -> bool {
        sys::fstatvfs(&self.0).is_ok_and(|left| left.f_files > 0 && left.f_favail == 0 && left.f_bavail > 0)
    }

    /// Opens the directory that this one is in, wherever that is by now. The caller verifies that it is the right one.
    pub(super) fn open_parent(&self) -> Result<Self> {
        let opened = sys::openat(&self.0, "..", OPEN_DIR | OFlags::NOFOLLOW, Mode::empty());
        opened.map(Self).map_err(|error| self.fault("open", "..", error))
    }

    /// Opens `path` with `flags` below this directory, following nothing.
    fn open_beneath(&self, path: &Path, flags: OFlags, mode: Mode) -> rustix::io::Result<OwnedFd> {
        let flags = flags | OFlags::CLOEXEC;
        loop {
            // EAGAIN: something was renamed meanwhile and the kernel could not prove that the path stays beneath.
            match sys::openat2(&self.0, path, flags, mode, BENEATH) {
                Err(Errno::AGAIN | Errno::INTR) => {}
                done => return done,
            }
        }
    }

    /// Opens a directory below this one.
    ///
    /// # Errors
    ///
    /// [`Error`] if it is missing, no directory, reached through a symlink or may not be read.
    pub fn open_dir(&self, path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        self.open_beneath(path, OPEN_DIR, Mode::empty())
            .map(Self)
            .map_err(|error| self.fault("open", path, error))
    }

    /// Opens a regular file below this directory for reading. A fifo does not block and a device does nothing.
    ///
    /// # Errors
    ///
    /// [`Error`] if it is missing, reached through a symlink, no regular file or may not be read.
    pub fn open_file(&self, path: impl AsRef<Path>) -> Result<File> {
        let path = path.as_ref();
        let opened = self.open_known(path).map_err(|error| self.fault("open", path, error));
        opened.map(|(file, _)| file)
    }

    /// Opens a regular file, with what it says of itself.
    pub(crate) fn open_known(&self, path: &Path) -> io::Result<(File, Stat)> {
        let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY;
        let file = File::from(self.open_beneath(path, flags, Mode::empty())?);
        let stat = Stat::of(&file)?;
        match stat.kind {
            Kind::File => Ok((file, stat)),
            _ => Err(NotRegular.into()),
        }
    }

    /// Opens whatever `path` names without reading it (`O_PATH`), following nothing.
    ///
    /// # Errors
    ///
    /// [`Error`] if it is missing or reached through a symlink.
    pub fn open_path(&self, path: impl AsRef<Path>) -> Result<OwnedFd> {
        let path = path.as_ref();
        // NO_SYMLINKS would refuse a symlink as the last component, which O_PATH | O_NOFOLLOW may well open.
        let (parent, name) =
            (path.parent().filter(|parent| !parent.as_os_str().is_empty()), path.file_name());
        let opened = match (parent, name) {
            (Some(parent), Some(name)) => self
                .open_beneath(parent, OFlags::PATH | OFlags::DIRECTORY, Mode::empty())
                .and_then(|parent| open_leaf(&parent, name)),
            (None, Some(name)) => open_leaf(&self.0, name),
            _ => self.open_beneath(Path::new("."), OFlags::PATH, Mode::empty()),
        };
        opened.map_err(|error| self.fault("open", path, error))
    }

    /// Opens `path` as a process would whose root directory this is: symlinks are followed, absolute ones and `..`
    /// from here, and none leads out.
    ///
    /// # Errors
    ///
    /// [`Error`] if it is missing or the kernel refuses.
    pub fn open_in_root(&self, path: impl AsRef<Path>, flags: OFlags) -> Result<OwnedFd> {
        let path = path.as_ref();
        let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
        loop {
            match sys::openat2(&self.0, path, flags | OFlags::CLOEXEC, Mode::empty(), resolve) {
                Err(Errno::AGAIN | Errno::INTR) => {}
                done => return done.map_err(|error| self.fault("open", path, error)),
            }
        }
    }

    /// Creates a regular file that must not exist and opens it for reading and writing. The process's umask takes bits
    /// away from `mode`; [`Dir::make_file`] gives it exactly that mode.
    ///
    /// # Errors
    ///
    /// [`Error`] if something of that name is there or it cannot be created.
    pub fn create_file(&self, path: impl AsRef<Path>, mode: u32) -> Result<File> {
        let path = path.as_ref();
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL;
        let file = self.open_beneath(path, flags, Mode::from_raw_mode(mode));
        file.map(File::from).map_err(|error| self.fault("create", path, error))
    }

    /// Creates a regular file that must not exist, with exactly this `mode`, and opens it for reading and writing.
    ///
    /// # Errors
    ///
    /// As [`Dir::create_file`].
    pub fn make_file(&self, path: impl AsRef<Path>, mode: u32) -> Result<File> {
        let path = path.as_ref();
        let file = self.create_file(path, mode)?;
        self.undo_umask(path, &file, mode)?;
        Ok(file)
    }

    /// Gives an open file back the bits of `mode` that the umask took away when the file was created. The umask is the
    /// process's own, and other threads rely on it; so the library never changes it.
    fn undo_umask(&self, path: &Path, file: impl AsFd, mode: u32) -> Result<()> {
        let undo = || {
            let stat = Stat::of(&file)?;
            if stat.kind != Kind::File || stat.mode & mode == mode {
                return Ok(());
            }
            match sys::fchmod(&file, Mode::from_raw_mode(stat.mode | mode)) {
                // Another user created it, with the mode that it needs.
                Err(Errno::PERM) => Ok(()),
                done => done,
            }
        };
        undo().map_err(|error| self.fault("chmod", path, error))
    }

    /// Opens a regular file for reading and writing, creating it empty if it is not there. It has at least the bits of
    /// `mode` then, whatever the umask.
    ///
    /// # Errors
    ///
    /// [`Error`] if it can neither be opened nor created.
    pub fn ensure_file(&self, path: impl AsRef<Path>, mode: u32) -> Result<File> {
        let path = path.as_ref();
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::NONBLOCK | OFlags::NOCTTY;
        let file = self.open_beneath(path, flags, Mode::from_raw_mode(mode));
        let file = file.map(File::from).map_err(|error| self.fault("open", path, error))?;
        self.undo_umask(path, &file, mode)?;
        Ok(file)
    }

    /// Opens a regular file to add to its end, creating it empty if it is not there. It has at least the bits of `mode`
    /// then, whatever the umask.
    ///
    /// # Errors
    ///
    /// [`Error`] if it can neither be opened nor created.
    pub fn append_file(&self, path: impl AsRef<Path>, mode: u32) -> Result<File> {
        let path = path.as_ref();
        let flags = OFlags::WRONLY | OFlags::APPEND | OFlags::CREATE | OFlags::NONBLOCK | OFlags::NOCTTY;
        let file = self.open_beneath(path, flags, Mode::from_raw_mode(mode));
        let file = file.map(File::from).map_err(|error| self.fault("open", path, error))?;
        self.undo_umask(path, &file, mode)?;
        Ok(file)
    }

    /// Creates a directory that must not exist. The process's umask takes bits away from `mode`; [`Dir::make_dir`] gives
    /// it exactly that mode.
    ///
    /// # Errors
    ///
    /// [`Error`] if something of that name is there or it cannot be created.
    pub fn create_dir(&self, path: impl AsRef<Path>, mode: u32) -> Result<()> {
        self.at_leaf("create directory", path.as_ref(), |dir, name| {
            sys::mkdirat(dir, name, Mode::from_raw_mode(mode))
        })
    }

    /// Creates a directory that must not exist, with mode 0700 whatever the umask. Only this process may write to the
    /// directory that it is created in.
    ///
    /// # Errors
    ///
    /// As [`Dir::create_dir`].
    pub fn create_private_dir(&self, path: impl AsRef<Path>) -> Result<()> {
        const MODE: u32 = 0o700;
        let path = path.as_ref();
        let taken = self.at_leaf("create directory", path, |dir, name| {
            sys::mkdirat(dir, name, Mode::from_raw_mode(MODE))?;
            Ok(MODE & !Stat::at(dir, name)?.mode)
        })?;
        if taken == 0 { Ok(()) } else { self.set_mode(path, MODE) }
    }

    /// Creates a directory that must not exist, with exactly this `mode`, and opens it.
    ///
    /// # Errors
    ///
    /// As [`Dir::create_dir`] and [`Dir::open_dir`].
    pub fn make_dir(&self, path: impl AsRef<Path>, mode: u32) -> Result<Self> {
        let path = path.as_ref();
        self.create_dir(path, mode)?;
        let dir = match self.open_dir(path) {
            // The umask took away the right to read it.
            Err(error) if error.errno() == Some(Errno::ACCESS) => {
                self.set_mode(path, mode)?;
                self.open_dir(path)?
            }
            opened => opened?,
        };
        // The set-group-id bit comes from the directory above.
        if dir.stat(".")?.mode != mode {
            dir.set_mode(".", mode)?;
        }
        Ok(dir)
    }

    /// Opens a directory. Creates it first with exactly this `mode` if it is not there.
    ///
    /// # Errors
    ///
    /// [`Error`] if it can neither be created nor opened.
    pub fn ensure_dir(&self, path: impl AsRef<Path>, mode: u32) -> Result<Self> {
        let path = path.as_ref();
        match self.make_dir(path, mode) {
            Err(error) if error.is_exists() => self.open_dir(path),
            made => made,
        }
    }

    /// Creates a symbolic link with `target` as its text.
    ///
    /// # Errors
    ///
    /// [`Error`] if something of that name is there or it cannot be created.
    pub fn create_symlink(&self, target: &[u8], path: impl AsRef<Path>) -> Result<()> {
        self.at_leaf("create symlink", path.as_ref(), |dir, name| {
            sys::symlinkat(OsStr::from_bytes(target), dir, name)
        })
    }

    /// Creates a fifo or device node. The process's umask takes bits away from `mode`.
    ///
    /// # Errors
    ///
    /// [`Error`] if something of that name is there, the process may not, `kind` is another kind, or there is no such
    /// device.
    pub fn create_node(
        &self,
        path: impl AsRef<Path>,
        kind: Kind,
        mode: u32,
        device: DeviceNumber,
    ) -> Result<()> {
        let kind = kind.to_raw();
        self.at_leaf("create node", path.as_ref(), |dir, name| {
            if !device.is_possible() {
                return Err(Errno::INVAL);
            }
            let device = sys::makedev(device.major, device.minor);
            sys::mknodat(dir, name, kind, Mode::from_raw_mode(mode), device)
        })
    }

    /// Gives the file at `from` (a symlink itself, not its target) a second name, `to` below `into`.
    ///
    /// # Errors
    ///
    /// [`Error`] if `to` exists or the file system refuses.
    pub fn hard_link(&self, from: impl AsRef<Path>, into: &Self, to: impl AsRef<Path>) -> Result<()> {
        let from = from.as_ref();
        let (parent, name) = self.leaf("link", from)?;
        into.at_leaf("link", to.as_ref(), |dir, to| sys::linkat(&parent, name, dir, to, AtFlags::empty()))
    }

    /// Renames `from` to `to` below `into`, replacing what is there.
    ///
    /// # Errors
    ///
    /// [`Error`] if the file system refuses.
    pub fn rename(&self, from: impl AsRef<Path>, into: &Self, to: impl AsRef<Path>) -> Result<()> {
        self.rename_with(from.as_ref(), into, to.as_ref(), RenameFlags::empty())
    }

    /// Renames `from` to `to` below `into`, which must not exist.
    ///
    /// # Errors
    ///
    /// [`Error`] with [`Error::is_exists`] if `to` is there, otherwise if the file system refuses.
    pub fn rename_new(&self, from: impl AsRef<Path>, into: &Self, to: impl AsRef<Path>) -> Result<()> {
        self.rename_with(from.as_ref(), into, to.as_ref(), RenameFlags::NOREPLACE)
    }

    /// Swaps `from` with `to` below `into`; both must exist.
    ///
    /// # Errors
    ///
    /// [`Error`] if the file system refuses.
    pub fn exchange(&self, from: impl AsRef<Path>, into: &Self, to: impl AsRef<Path>) -> Result<()> {
        self.rename_with(from.as_ref(), into, to.as_ref(), RenameFlags::EXCHANGE)
    }

    fn rename_with(&self, from: &Path, into: &Self, to: &Path, flags: RenameFlags) -> Result<()> {
        let (parent, name) = self.leaf("rename", from)?;
        into.at_leaf("rename to", to, |dir, to| {
            if flags.is_empty() {
                sys::renameat(&parent, name, dir, to)
            } else {
                sys::renameat_with(&parent, name, dir, to, flags)
            }
        })
    }

    /// Removes a file, symlink or node.
    ///
    /// # Errors
    ///
    /// [`Error`] if it is missing, a directory, or the file system refuses.
    pub fn remove_file(&self, path: impl AsRef<Path>) -> Result<()> {
        self.at_leaf("remove", path.as_ref(), |dir, name| sys::unlinkat(dir, name, AtFlags::empty()))
    }

    /// Removes an empty directory.
    ///
    /// # Errors
    ///
    /// [`Error`] if it is missing, not empty, not a directory, or the file system refuses.
    pub fn remove_dir(&self, path: impl AsRef<Path>) -> Result<()> {
        self.at_leaf("remove directory", path.as_ref(), |dir, name| {
            sys::unlinkat(dir, name, AtFlags::REMOVEDIR)
        })
    }

    /// Sets owner and group; a symlink is not followed.
    ///
    /// # Errors
    ///
    /// [`Error`] if the process may not or cannot name these ids here.
    pub fn set_owner(&self, path: impl AsRef<Path>, uid: u32, gid: u32) -> Result<()> {
        self.at_leaf("chown", path.as_ref(), |dir, name| {
            let (uid, gid) = (Uid::from_raw_unchecked(uid), Gid::from_raw_unchecked(gid));
            sys::chownat(dir, name, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW)
        })
    }

    /// Sets the permission bits of something that is not a symlink. `.` is this directory.
    ///
    /// # Errors
    ///
    /// [`Error`] if the process may not.
    pub fn set_mode(&self, path: impl AsRef<Path>, mode: u32) -> Result<()> {
        self.at_leaf("chmod", path.as_ref(), |dir, name| {
            if name == "." {
                return sys::fchmod(dir, Mode::from_raw_mode(mode));
            }
            // fchmodat follows symlinks and has no flag against it before Linux 6.6; go through an O_PATH handle,
            // whose /proc link leads to the inode itself. On a symlink that fails instead of changing its target.
            let handle = open_leaf(dir, name)?;
            sys::chmod(proc_path(&handle), Mode::from_raw_mode(mode))
        })
    }

    /// Sets the modification time, and the access time to the same; a symlink is not followed.
    ///
    /// # Errors
    ///
    /// [`Error`] if the process may not.
    pub fn set_mtime(&self, path: impl AsRef<Path>, mtime: Timestamp) -> Result<()> {
        self.at_leaf("set time of", path.as_ref(), |dir, name| {
            sys::utimensat(dir, name, &both_times(mtime), AtFlags::SYMLINK_NOFOLLOW)
        })
    }

    /// Sets the modification time to what the clock of the file system says; a symlink is not followed.
    ///
    /// # Errors
    ///
    /// [`Error`] if the process may not.
    pub fn touch(&self, path: impl AsRef<Path>) -> Result<()> {
        let now = Timespec { tv_sec: 0, tv_nsec: sys::UTIME_NOW };
        self.at_leaf("set time of", path.as_ref(), |dir, name| {
            let times = Timestamps { last_access: now, last_modification: now };
            sys::utimensat(dir, name, &times, AtFlags::SYMLINK_NOFOLLOW)
        })
    }

    /// Waits until the names in this directory are on disk.
    ///
    /// # Errors
    ///
    /// [`Error`] if the disk fails.
    pub fn sync(&self) -> Result<()> {
        sys::fsync(&self.0).map_err(|error| self.fault("sync", "", error))
    }

    /// Waits until everything written to the file system of this directory is on disk, by whomever.
    ///
    /// # Errors
    ///
    /// [`Error`] if the disk fails.
    pub fn sync_file_system(&self) -> Result<()> {
        sys::syncfs(&self.0).map_err(|error| self.fault("sync the file system of", "", error))
    }

    /// Does `act` on the directory that holds `path` and the last component, so that no component is followed.
    fn at_leaf<T>(
        &self,
        step: &'static str,
        path: &Path,
        act: impl Fn(BorrowedFd<'_>, &OsStr) -> rustix::io::Result<T>,
    ) -> Result<T> {
        let (parent, name) = self.leaf(step, path)?;
        act(parent.as_fd(), name).map_err(|error| self.fault(step, path, error))
    }

    /// The directory that holds `path`, opened, and the last component.
    fn leaf<'a>(&self, step: &'static str, path: &'a Path) -> Result<(Handle<'_>, &'a OsStr)> {
        self.raw_leaf(path).map_err(|error| self.fault(step, path, error))
    }

    fn raw_leaf<'a>(&self, path: &'a Path) -> rustix::io::Result<(Handle<'_>, &'a OsStr)> {
        let name = path.file_name().unwrap_or(OsStr::new("."));
        match path.parent().filter(|parent| !parent.as_os_str().is_empty()) {
            None => Ok((Handle::Own(self.0.as_fd()), name)),
            Some(parent) => {
                let parent = self.open_beneath(parent, OFlags::PATH | OFlags::DIRECTORY, Mode::empty())?;
                Ok((Handle::Opened(parent), name))
            }
        }
    }
}

/// The directory itself, or one below it opened for one step.
enum Handle<'a> {
    Own(BorrowedFd<'a>),
    Opened(OwnedFd),
}

impl AsFd for Handle<'_> {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Own(fd) => *fd,
            Self::Opened(fd) => fd.as_fd(),
        }
    }
}

/// Opens one name without following or reading it.
fn open_leaf(dir: impl AsFd, name: &OsStr) -> rustix::io::Result<OwnedFd> {
    sys::openat(dir, name, OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty())
}

/// The path of an open file as far as the kernel knows it, for messages.
pub fn path_of(file: impl AsFd) -> PathBuf {
    let path = sys::readlinkat(sys::CWD, proc_path(file), Vec::new());
    path.map_or_else(|_| PathBuf::from("?"), |path| PathBuf::from(OsStr::from_bytes(path.as_bytes())))
}

/// An open file as a path through `/proc`.
pub(super) fn proc_path(file: impl AsFd) -> PathBuf {
    PathBuf::from(format!("/proc/self/fd/{}", file.as_fd().as_raw_fd()))
}

/// Access and modification time alike: an unpacked file was never read, and a fixed time keeps trees equal.
pub fn both_times(time: Timestamp) -> Timestamps {
    let time = Timespec { tv_sec: time.seconds, tv_nsec: time.nanos.into() };
    Timestamps { last_access: time, last_modification: time }
}

impl AsFd for Dir {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl From<OwnedFd> for Dir {
    fn from(fd: OwnedFd) -> Self {
        Self(fd)
    }
}

impl From<Dir> for OwnedFd {
    fn from(dir: Dir) -> Self {
        dir.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_component_is_followed_and_nothing_is_reached_outside() {
        let temp = tempfile::tempdir().unwrap();
        let dir = Dir::open_ambient(temp.path()).unwrap();
        let inner = dir.ensure_dir("inner", 0o755).unwrap();
        drop(dir.create_file("secret", 0o600).unwrap());
        inner.create_symlink(b"..", "up").unwrap();
        inner.create_symlink(b"/etc", "etc").unwrap();
        for path in ["up/secret", "../secret", "/etc/passwd", "etc/passwd"] {
            assert!(inner.open_file(path).is_err(), "{path}");
            assert!(inner.create_file(format!("{path}-new"), 0o644).is_err(), "{path}");
            assert!(inner.remove_file(path).is_err(), "{path}");
            assert!(inner.stat(path).is_err(), "{path}");
            assert!(inner.set_mode(path, 0o777).is_err(), "{path}");
        }
        assert!(inner.set_mode("up", 0o777).is_err());
        assert_eq!(inner.stat("up").unwrap().kind, Kind::Symlink);
        assert_eq!(dir.stat("secret").unwrap().mode, 0o600);
    }

    #[test]
    fn a_path_in_a_root_resolves_as_inside_a_container() {
        let temp = tempfile::tempdir().unwrap();
        let root = Dir::open_ambient(temp.path()).unwrap();
        root.create_dir("etc", 0o755).unwrap();
        root.create_file("etc/passwd-here", 0o644).unwrap();
        root.create_symlink(b"/../../etc", "link").unwrap();
        assert!(root.open_in_root("link/passwd-here", OFlags::RDONLY).is_ok());
        assert!(root.open_in_root("/link/../../etc/passwd", OFlags::RDONLY).is_err());
    }

    #[test]
    fn an_error_names_the_step_and_the_whole_path() {
        let temp = tempfile::tempdir().unwrap();
        let dir = Dir::open_ambient(temp.path()).unwrap();
        let error = dir.open_file("missing").unwrap_err();
        assert!(error.is_not_found());
        assert_eq!(error.to_string(), format!("cannot open {:?}", temp.path().join("missing")));
    }
}
