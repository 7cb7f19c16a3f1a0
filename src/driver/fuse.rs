//! [`FuseDriver`]: roots by fuse-overlayfs, a program of its own that is installed beside this crate, for where the
//! kernel's overlayfs may not be mounted.
//!
//! One server works for each root that is mounted. It is started in a session of its own and belongs to nobody, so that
//! the mount outlives this process; that it lives is told by a lock that it holds (see [`server`]), and what is mounted
//! is told by the kernel. A server gives its mount a name that is not the root's, so the mount is known by its place: it
//! is always at `merged/` in the private directory, and what is to be seen elsewhere is a second mount of the same.
//!
//! The server hides attributes of both families of overlayfs's, also those that came with an image, and does not copy them
//! up. As root it obeys `user.overlay.opaque` beside `trusted.overlay.opaque`, which is why directories of layers have a
//! shield against the former where it is an attribute of the image ([`Namespace::shield`]).
//!
//! Layers are handed over as handles of this process, so that no path matters. The writable directory is in
//! fuse-overlayfs's own form of overlayfs's ([`Marks::Fuse`]). Writes reach it before they return (`writeback=0`): so it
//! can be read while the root is in use, as with every driver. Owners that this process cannot set are recorded in the
//! layers, and the records survive in the writable directory; the mount shows the owner on disk, as overlayfs does.

mod program;
mod server;

use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::PathBuf;

use rustix::io::Errno;

use super::error::DriverError;
use super::mounts::{Mount, MountTable};
use super::private::{self, BOTTOM, MERGED, TOP, UPPER, WORK};
use super::record::{self, Record, Settings};
use super::{
    Access, Driver, DriverKind, MountPlan, MountPoint, Prepared, Root, RootSpec, RootState, Unmount, Usage,
    Writable, mount_api, usage,
};
use crate::fs::{Context, Dir, Optional};
use crate::stack::Tree;
use crate::stack::marks::Marks;
use crate::stack::object::Style;
use crate::stack::owner;
use crate::whiteout::Namespace;

pub(super) use program::{Program, files};

/// Bytes that one argument of a program may have.
const LONGEST_ARGUMENT: usize = 128 << 10;

/// Roots by fuse-overlayfs.
#[derive(Clone, Debug)]
pub struct FuseDriver {
    style: Style,
    program: Option<PathBuf>,
}

impl FuseDriver {
    /// For a process whose marks are of `family`, and that is or is not above permission checks. A
    /// [`super::Probe`] finds out. `program` is fuse-overlayfs; `None` stands for the one that is installed.
    pub fn new(family: Namespace, privileged: bool, program: Option<PathBuf>) -> Self {
        Self { style: Style { family: Some(family), privileged }, program }
    }

    fn refuse<T>(reason: String) -> Result<T, DriverError> {
        Err(DriverError::Refused { kind: DriverKind::Fuse, reason })
    }

    /// Starts a server for the root, which then is mounted at its own place.
    fn serve(&self, spec: &RootSpec<'_>, own: &MountPoint) -> Result<Dir, DriverError> {
        let program = Program::find(self.program.as_deref())?;
        let settings = Record::read(spec.dir, DriverKind::Fuse)?.settings().clone().with(&spec.options);
        check(&settings)?;
        match state(&MountTable::read()?, spec.dir)? {
            RootState::Unmounted => {}
            RootState::Dead(path) => {
                tracing::warn!(?path, "the server of a root is gone; another takes its place");
                clear(spec.dir)?;
            }
            RootState::Mounted(path) => {
                return Err(DriverError::Mounted { source_name: spec.source.to_owned(), path });
            }
        }
        let place = own.path();
        if let Some(mount) = MountTable::read()?.at(&place) {
            return Err(DriverError::Mounted {
                source_name: mount.source.to_string_lossy().into_owned(),
                path: place,
            });
        }
        let handles = Handles::open(spec)?;
        server::start(&program, spec.dir, &handles.arguments(&settings)?, own)
    }
}

/// Refuses what fuse-overlayfs does not do.
fn check(settings: &Settings) -> Result<(), DriverError> {
    let asked = [
        // It lets every directory be renamed, at the price of a copy.
        (settings.metacopy, "metacopy"),
        (settings.ids.is_some(), "translation of owners"),
        (settings.label.is_some(), "label"),
    ];
    match asked.iter().find(|(asked, _)| *asked) {
        None => Ok(()),
        Some((_, what)) => {
            FuseDriver::refuse(format!("there is no {what} in fuse-overlayfs; leave it out, or use overlay"))
        }
    }
}

/// What a server is started with: the directories stay open until it has opened them itself.
struct Handles<'a> {
    lowers: Vec<&'a Dir>,
    own: Vec<Dir>,
    upper: Option<(Dir, Dir)>,
}

impl<'a> Handles<'a> {
    fn open(spec: &RootSpec<'a>) -> Result<Self, DriverError> {
        let root = spec.layers.root()?;
        let trees = spec.layers.trees().iter().enumerate();
        // What an opaque root hides is left out.
        let shown = trees.filter(|(position, _)| root.as_ref().is_some_and(|root| root.includes(*position)));
        let lowers: Vec<_> = shown.map(|(_, tree)| &tree.dir).collect();
        let mut own = Vec::new();
        let upper = match spec.options.access {
            Access::Writable => {
                let upper = spec.dir.open_dir(UPPER)?;
                if !owner::are_needed() {
                    // On the root it makes the server believe every record: a container's root, to whom version 2 leaves
                    // these attributes, would have devices that it may not make.
                    for key in [owner::KEY, owner::FUSE_KEY] {
                        upper.remove_xattr(".", key)?;
                    }
                }
                Some((upper, spec.dir.open_dir(WORK)?))
            }
            Access::ReadOnly => {
                own.push(spec.dir.open_dir(TOP)?);
                None
            }
        };
        if lowers.is_empty() {
            own.push(spec.dir.open_dir(BOTTOM)?);
        }
        Ok(Self { lowers, own, upper })
    }

    fn arguments(&self, settings: &Settings) -> Result<Vec<String>, DriverError> {
        // The server opens what it is given at once. This process by the number that /proc knows it by, which is another
        // than its own where /proc is that of an outer process namespace.
        let this = std::fs::read_link("/proc/self").at("read", "/proc/self")?;
        let path = |dir: &Dir| format!("/proc/{}/fd/{}", this.display(), dir.as_fd().as_raw_fd());
        let lowers: Vec<_> = self.own.iter().chain(self.lowers.iter().copied()).map(path).collect();
        let mut options = vec![format!("lowerdir={}", lowers.join(":"))];
        if let [layers] = &options[..]
            && layers.len() >= LONGEST_ARGUMENT
        {
            let limit = lowers.len() * LONGEST_ARGUMENT / layers.len();
            return Err(DriverError::TooManyLayers { layers: lowers.len(), limit });
        }
        match &self.upper {
            Some((upper, work)) => {
                options.push(format!("upperdir={},workdir={}", path(upper), path(work)));
                // Otherwise the kernel keeps what was written to itself for up to half a minute.
                options.push("writeback=0".to_owned());
                options.extend(settings.volatile.then(|| "volatile".to_owned()));
            }
            None => options.push("ro".to_owned()),
        }
        // An ordinary user's mount has neither devices nor setuid programs, whatever is asked for.
        if rustix::process::geteuid().is_root() {
            options.push(if settings.nodev { "nodev" } else { "dev" }.to_owned());
        }
        options.extend(settings.nosuid.then(|| "nosuid".to_owned()));
        let options = options.into_iter().flat_map(|option| ["-o".to_owned(), option]);
        // In the foreground: it has a session of its own already, and its standard error is its lock.
        Ok(["-f".to_owned()].into_iter().chain(options).chain([MERGED.to_owned()]).collect())
    }
}

/// Whether this is a mount that fuse-overlayfs serves.
fn is_served(mount: &Mount) -> bool {
    // Version 1 says which program, version 2 does not.
    ["fuse", "fuse.fuse-overlayfs"].contains(&&*mount.fs_type) && mount.source == "fuse-overlayfs"
}

/// What is mounted at the own place of the root in `dir`.
fn own_mount<'t>(table: &'t MountTable, dir: &Dir) -> Option<&'t Mount> {
    table.at(dir.path_of(MERGED)).filter(|mount| is_served(mount))
}

/// What has become of the root in `dir`.
pub(super) fn state(table: &MountTable, dir: &Dir) -> Result<RootState, DriverError> {
    let Some(own) = own_mount(table, dir) else { return Ok(RootState::Unmounted) };
    if !server::is_alive(dir)? {
        return Ok(RootState::Dead(own.point.clone()));
    }
    let elsewhere = table.iter().find(|mount| mount.device == own.device && mount.point != own.point);
    Ok(RootState::Mounted(elsewhere.unwrap_or(own).point.clone()))
}

/// Takes away what a server left mounted when it died. Its users get errors already; there is nothing to wait for.
fn clear(dir: &Dir) -> Result<(), DriverError> {
    let own = MountPoint::inside(dir, MERGED)?;
    loop {
        let table = MountTable::read()?;
        let Some(mount) = own_mount(&table, dir) else { return Ok(()) };
        match table.iter().find(|other| other.device == mount.device && other.point != mount.point) {
            Some(other) => detach(&MountPoint::ambient(&other.point)?, Unmount::Lazy)?,
            None => detach(&own, Unmount::Lazy)?,
        }
    }
}

/// Whether a server works for the root in `dir`.
pub(super) fn is_served_in(dir: &Dir) -> Result<bool, DriverError> {
    server::is_alive(dir)
}

/// Says that nobody serves the root in `dir` any more.
pub(super) fn is_gone(dir: &Dir) -> DriverError {
    let what =
        "is gone: it was killed or crashed. What was written is there; mount the root again, or unmount it";
    server::failed(dir, what.to_owned())
}

/// Ends a mount, by the program that may where this process may not.
pub(super) fn detach(point: &MountPoint, how: Unmount) -> Result<(), DriverError> {
    match point.detach(how) {
        Err(error) if error.errno() == Some(Errno::PERM) => {
            program::fusermount(|| point.target(), &point.path(), how)
        }
        done => done,
    }
}

/// The private directory of the root that is seen at `at`, if it is the one called `source`.
fn private_dir(table: &MountTable, source: &str, at: &Mount) -> Result<Option<Dir>, DriverError> {
    for mount in table.iter().filter(|mount| is_served(mount) && mount.device == at.device) {
        if mount.point.file_name() != Some(MERGED.as_ref()) {
            continue;
        }
        let Some(dir) = mount.point.parent() else { continue };
        let dir = Dir::open_ambient(dir)?;
        if Record::read_optional(&dir, DriverKind::Fuse)?.is_some_and(|record| record.is_of(source)) {
            return Ok(Some(dir));
        }
    }
    Ok(None)
}

impl Driver for FuseDriver {
    fn kind(&self) -> DriverKind {
        DriverKind::Fuse
    }

    fn prepare(&self, spec: &RootSpec<'_>) -> Result<Prepared, DriverError> {
        let settings = Settings::of(&spec.options);
        check(&settings)?;
        private::fill(spec, self.style, Some(&Record::fuse(spec.source, settings)))
    }

    fn duplicate(&self, spec: &RootSpec<'_>, from: &Dir, _: &str) -> Result<(), DriverError> {
        let record = Record::read(from, DriverKind::Fuse)?.renamed(spec.source);
        if server::is_alive(from)? {
            let reason = format!("{:?} is still served somewhere", from.path_of(MERGED));
            return Self::refuse(reason);
        }
        private::fill_from(spec, from, &record)
    }

    fn plan<'a>(&self, _: &RootSpec<'a>) -> Result<MountPlan<'a>, DriverError> {
        Self::refuse("its root is served by a program that has to be started; mount it".to_owned())
    }

    fn mount(&self, spec: &RootSpec<'_>, at: Option<&MountPoint>) -> Result<Root, DriverError> {
        let own = MountPoint::inside(spec.dir, MERGED)?;
        let elsewhere = at.filter(|at| at.path() != own.path());
        if let Some(at) = elsewhere
            && let Some(mount) = MountTable::read()?.at(at.path())
        {
            let source_name = mount.source.to_string_lossy().into_owned();
            return Err(DriverError::Mounted { source_name, path: at.path() });
        }
        let root = self.serve(spec, &own)?;
        let Some(at) = elsewhere else { return Ok(Root { path: own.path(), dir: root, point: Some(own) }) };
        let shown = server::show_at(&root, at).and_then(|()| Ok(at.target()?));
        drop(root);
        match shown {
            Ok(dir) => Ok(Root { path: at.path(), dir, point: Some(at.try_clone()?) }),
            Err(error) => {
                clear(spec.dir)?;
                server::wait_for_end(spec.dir)?;
                Err(error)
            }
        }
    }

    fn mount_detached(&self, spec: &RootSpec<'_>) -> Result<OwnedFd, DriverError> {
        let own = MountPoint::inside(spec.dir, MERGED)?;
        let root = self.serve(spec, &own)?;
        let mount = mount_api::bind(&root).map_err(|error| own.error("clone the mount at", error));
        drop(root);
        // The clone keeps the server alive.
        detach(&own, Unmount::Lazy)?;
        mount
    }

    fn unmount(&self, source: &str, at: &MountPoint, how: Unmount) -> Result<(), DriverError> {
        let (table, path) = (MountTable::read()?, at.path());
        let not_mounted = |found: Option<&Mount>| DriverError::NotMounted {
            source_name: source.to_owned(),
            path: path.clone(),
            found: found.map(|mount| mount.source.to_string_lossy().into_owned()),
        };
        let mount = table.at(&path).ok_or_else(|| not_mounted(None))?;
        let dir = match is_served(mount) {
            true => private_dir(&table, source, mount)?,
            false => None,
        };
        let dir = dir.ok_or_else(|| not_mounted(Some(mount)))?;
        if !server::is_alive(&dir)? {
            return clear(&dir);
        }
        match detach(at, how) {
            // It is ending just now: the kernel has cut it off, and its lock goes with its last thread.
            Err(DriverError::Io(error)) if server::is_cut_off(&error) => {
                server::wait_for_end(&dir)?;
                return clear(&dir);
            }
            done => done?,
        }
        let own = MountPoint::inside(&dir, MERGED)?;
        if own.path() != path && own_mount(&table, &dir).is_some() {
            detach(&own, how)?;
        }
        match how {
            // What it has still to write is written when it has ended.
            Unmount::Clean => server::wait_for_end(&dir),
            Unmount::Lazy => Ok(()),
        }
    }

    fn writable(&self, dir: &Dir) -> Result<Writable, DriverError> {
        Record::read(dir, DriverKind::Fuse)?;
        Ok(Writable::Upper(Tree { dir: dir.open_dir(UPPER)?, marks: Marks::Fuse, declares_root: true }))
    }

    fn usage(&self, dir: &Dir) -> Result<Usage, DriverError> {
        match dir.open_dir(UPPER).optional()? {
            Some(upper) => Ok(usage::of(upper)?),
            None => Ok(Usage::default()),
        }
    }

    fn remove(&self, dir: &Dir) -> Result<(), DriverError> {
        if let RootState::Dead(_) = state(&MountTable::read()?, dir)? {
            clear(dir)?;
        }
        super::refuse_mounted(dir, MERGED)?;
        // Never by removing what is in it first: if something is mounted there after all, that is not ours to empty.
        dir.remove_dir(MERGED).optional()?;
        for name in [UPPER, WORK, TOP, BOTTOM, server::NAME, record::NAME] {
            dir.remove_all(name)?;
        }
        Ok(())
    }
}
