//! [`Bare`]: the system calls of a container's life, and nothing else.
//!
//! ```text
//! create     staging/c, upper, work, merged; a record (1 kB) in it; renamed into place; a file with its name
//! mount      fsopen, options, every lower by path, upper and work; fsmount; move_mount
//! unmount    umount2
//! remove     renamed out; the name unlinked; the record and each directory removed, the two that overlayfs made too
//! ```
//!
//! A container is called `c`, or as its thread. Directories that are the same for every container (`containers`, `names`, `staging`) stay open; all else is reached
//! from them. Where it has to last, the record, the name and the three directories that hold them are synced, and the
//! removal too; files of one moment are written first and synced then, which is the cheapest order.

use std::fs::File;
use std::io::Write;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use plywood::Durability;
use rustix::fs::{AtFlags, Mode, OFlags, fsync, mkdirat, open, openat, renameat, unlinkat};
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MoveMountFlags, UnmountFlags, fsconfig_create,
    fsconfig_set_fd, fsconfig_set_string, fsmount, fsopen, move_mount, unmount,
};

use super::Result;

const DIRECTORY: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::CLOEXEC);

pub(crate) struct Bare {
    containers: OwnedFd,
    names: OwnedFd,
    staging: OwnedFd,
    at: PathBuf,
    /// Topmost first.
    lowers: Vec<PathBuf>,
    durable: bool,
    /// What its container is called.
    name: String,
}

impl Bare {
    pub(crate) fn new(scratch: &Path, lowers: Vec<PathBuf>, durability: Durability) -> Result<Self> {
        let at = scratch.join("bare");
        let dir = |name: &str| -> Result<OwnedFd> {
            std::fs::create_dir_all(at.join(name))?;
            Ok(open(at.join(name), DIRECTORY, Mode::empty())?)
        };
        let (containers, names, staging) = (dir("containers")?, dir("names")?, dir("staging")?);
        let (durable, name) = (durability == Durability::Full, "c".to_owned());
        Ok(Self { containers, names, staging, at, lowers, durable, name })
    }

    /// The same for a container of this name.
    pub(crate) fn named(self, name: String) -> Self {
        Self { name, ..self }
    }

    /// A container that is made and removed.
    pub(crate) fn come_and_go(&self) -> Result<()> {
        self.create()?;
        self.remove()
    }

    /// The life of one container, each of its four steps timed.
    pub(crate) fn live(&self) -> Result<[Duration; 4]> {
        let begin = Instant::now();
        self.create()?;
        let created = Instant::now();
        self.mount()?;
        let used = Instant::now();
        // No path that a user gave is resolved.
        unmount(self.at.join("containers").join(&self.name).join("merged"), UnmountFlags::NOFOLLOW)?;
        let unmounted = Instant::now();
        self.remove()?;
        Ok([created - begin, used - created, unmounted - used, unmounted.elapsed()])
    }

    fn sync(&self, file: impl AsFd) -> Result<()> {
        if self.durable {
            fsync(file)?;
        }
        Ok(())
    }

    fn create(&self) -> Result<()> {
        mkdirat(&self.staging, &self.name, Mode::from_raw_mode(0o700))?;
        let dir = openat(&self.staging, &self.name, DIRECTORY, Mode::empty())?;
        for (name, mode) in [("upper", 0o755), ("work", 0o700), ("merged", 0o700)] {
            mkdirat(&dir, name, Mode::from_raw_mode(mode))?;
        }
        let record = self.file(&dir, "container.json", 1000)?;
        let name = self.file(&self.names, &self.name, 64)?;
        self.sync(&record)?;
        self.sync(&dir)?;
        self.sync(&name)?;
        self.sync(&self.names)?;
        renameat(&self.staging, &self.name, &self.containers, &self.name)?;
        self.sync(&self.containers)
    }

    fn file(&self, dir: &OwnedFd, name: &str, bytes: usize) -> Result<File> {
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
        let mut file = File::from(openat(dir, name, flags, Mode::from_raw_mode(0o600))?);
        file.write_all(&vec![b'x'; bytes])?;
        Ok(file)
    }

    fn mount(&self) -> Result<()> {
        let open_dir = |path: &Path| open(path, DIRECTORY, Mode::empty());
        let dir = openat(&self.containers, &self.name, DIRECTORY, Mode::empty())?;
        let context = fsopen("overlay", FsOpenFlags::FSOPEN_CLOEXEC)?;
        fsconfig_set_string(&context, "source", "bare")?;
        for lower in &self.lowers {
            fsconfig_set_fd(&context, "lowerdir+", open_dir(lower)?)?;
        }
        for (key, name) in [("upperdir", "upper"), ("workdir", "work")] {
            fsconfig_set_fd(&context, key, openat(&dir, name, DIRECTORY, Mode::empty())?)?;
        }
        fsconfig_create(&context)?;
        let mount = fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, MountAttrFlags::empty())?;
        let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH;
        Ok(move_mount(&mount, "", &dir, "merged", flags)?)
    }

    fn remove(&self) -> Result<()> {
        renameat(&self.containers, &self.name, &self.staging, &self.name)?;
        self.sync(&self.containers)?;
        unlinkat(&self.names, &self.name, AtFlags::empty())?;
        let dir = openat(&self.staging, &self.name, DIRECTORY, Mode::empty())?;
        unlinkat(&dir, "container.json", AtFlags::empty())?;
        for name in ["upper", "work/work", "work", "merged"] {
            match unlinkat(&dir, name, AtFlags::REMOVEDIR) {
                // It was never mounted.
                Err(rustix::io::Errno::NOENT) if name == "work/work" => {}
                done => done?,
            }
        }
        Ok(unlinkat(&self.staging, &self.name, AtFlags::REMOVEDIR)?)
    }

    /// What a commit leaves, without what is in it: layer, config and manifest, then the index.
    pub(crate) fn commit(&self) -> Result<()> {
        let blobs = ["layer", "config", "manifest"];
        let files = blobs.map(|name| self.file(&self.staging, name, 2000));
        for (name, file) in blobs.into_iter().zip(files) {
            self.sync(file?)?;
            renameat(&self.staging, name, &self.containers, name)?;
        }
        self.sync(&self.containers)?;
        let index = self.file(&self.staging, "index", 2000)?;
        self.sync(index)?;
        renameat(&self.staging, "index", &self.names, "index")?;
        self.sync(&self.names)
    }
}
