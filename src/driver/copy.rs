//! [`CopyDriver`]: a root that is a copy of everything, where nothing can be mounted.
//!
//! The copy is an ordinary directory without marks: what a layer hides is not in it, and attributes bear their own
//! names. What changed is told later by change times, which no program can set: see [`super::Copied`].

use std::collections::HashMap;
use std::os::fd::OwnedFd;
use std::time::Duration;

use super::error::DriverError;
use super::record::{self, Record};
use super::{
    Access, Driver, DriverKind, MountPlan, MountPoint, Prepared, Root, RootSpec, Unmount, Usage, Writable,
    mount_api, usage,
};
use crate::fs::{Context, Dir, Durability, FileType, Metadata, Stat, Timestamp, copy_content};
use crate::path::LayerPath;
use crate::stack::Tree;
use crate::stack::marks::Marks;
use crate::stack::object::{self, Object, Style};

const ROOT: &str = "root";
const TICK: &str = "tick";

/// Roots that are copies.
#[derive(Clone, Copy, Debug)]
pub struct CopyDriver {
    style: Style,
}

impl CopyDriver {
    /// For a process that is or is not above permission checks on its own files. A [`super::Probe`] finds out.
    pub fn new(privileged: bool) -> Self {
        Self { style: Style { families: None, privileged } }
    }

    fn refuse<T>(reason: String) -> Result<T, DriverError> {
        Err(DriverError::Refused { kind: DriverKind::Copy, reason })
    }

    fn writable_only(spec: &RootSpec<'_>) -> Result<(), DriverError> {
        match spec.options.access {
            Access::Writable => Ok(()),
            Access::ReadOnly => Self::refuse(
                "a read-only view needs a mount, and a copy would not be read-only; create a container instead".to_owned(),
            ),
        }
    }
}

impl Driver for CopyDriver {
    fn kind(&self) -> DriverKind {
        DriverKind::Copy
    }

    fn prepare(&self, spec: &RootSpec<'_>) -> Result<Prepared, DriverError> {
        Self::writable_only(spec)?;
        let mut prepared = Prepared::default();
        let mut copy = Copy::begin(spec, self.style, &mut prepared)?;
        spec.layers.walk::<DriverError>(&mut |path, found| {
            copy.add(path, &spec.layers.object(path, found)?, found)
        })?;
        copy.finish()?.write(spec.dir, spec.options.durability)?;
        if spec.options.durability == Durability::Full {
            // One sync of everything is far cheaper than one for each file.
            spec.dir.sync_file_system()?;
        }
        Ok(prepared)
    }

    fn plan<'a>(&self, spec: &RootSpec<'a>) -> Result<MountPlan<'a>, DriverError> {
        Self::writable_only(spec)?;
        Ok(MountPlan::Directory(spec.dir.open_dir(ROOT)?))
    }

    fn mount(&self, spec: &RootSpec<'_>, at: Option<&MountPoint>) -> Result<Root, DriverError> {
        Self::writable_only(spec)?;
        let path = spec.dir.path_of(ROOT);
        match at {
            Some(at) if at.path() != path => {
                Self::refuse(format!("it mounts nothing at {:?}; the root is at {path:?}", at.path()))
            }
            _ => Ok(Root { path, dir: spec.dir.open_dir(ROOT)?, point: None }),
        }
    }

    fn mount_detached(&self, spec: &RootSpec<'_>) -> Result<OwnedFd, DriverError> {
        Self::writable_only(spec)?;
        mount_api::bind(&spec.dir.open_dir(ROOT)?).map_err(|error| DriverError::Refused {
            kind: DriverKind::Copy,
            reason: format!("a bind mount of the root: {error}; use the path {:?}", spec.dir.path_of(ROOT)),
        })
    }

    fn unmount(&self, _: &str, _: &MountPoint, _: Unmount) -> Result<(), DriverError> {
        Ok(())
    }

    fn writable(&self, dir: &Dir) -> Result<Writable, DriverError> {
        let root = Tree { dir: dir.open_dir(ROOT)?, marks: Marks::None, declares_root: true };
        Ok(Writable::Copied(Record::read(dir, DriverKind::Copy)?.copied(dir, root)?))
    }

    fn usage(&self, dir: &Dir) -> Result<Usage, DriverError> {
        Ok(usage::of(dir.open_dir(ROOT)?)?)
    }

    fn remove(&self, dir: &Dir) -> Result<(), DriverError> {
        super::refuse_mounted(dir, ROOT)?;
        for name in [ROOT, TICK, record::NAME] {
            dir.remove_all(name)?;
        }
        Ok(())
    }
}

/// A copy that is being made.
struct Copy<'a> {
    spec: &'a RootSpec<'a>,
    style: Style,
    prepared: &'a mut Prepared,
    root: Dir,
    /// Parents before children. They get their metadata last, since whatever is put into them changes it.
    directories: Vec<(LayerPath, Metadata)>,
    /// Files with several names: where they come from, and the name they have here.
    linked: HashMap<(usize, u64), LayerPath>,
    oldest: Option<Timestamp>,
    newest: Timestamp,
}

impl<'a> Copy<'a> {
    fn begin(spec: &'a RootSpec<'a>, style: Style, prepared: &'a mut Prepared) -> Result<Self, DriverError> {
        spec.dir.create_dir(ROOT, 0o700)?;
        Ok(Self {
            spec,
            style,
            prepared,
            root: spec.dir.open_dir(ROOT)?,
            directories: vec![(LayerPath::ROOT, spec.layers.root_metadata()?)],
            linked: HashMap::new(),
            oldest: None,
            newest: Timestamp::default(),
        })
    }

    fn add(
        &mut self,
        path: &LayerPath,
        object: &Object,
        found: &crate::stack::Found,
    ) -> Result<(), DriverError> {
        let at = path.as_path();
        if object.stat.links > 1 && !found.is_directory() {
            match self.linked.entry((found.tree(), object.stat.inode)) {
                std::collections::hash_map::Entry::Occupied(first) => {
                    self.root.hard_link(first.get().as_path(), &self.root, at)?;
                    self.saw(&self.root.stat(at)?);
                    return Ok(());
                }
                std::collections::hash_map::Entry::Vacant(first) => drop(first.insert(path.clone())),
            }
        }
        if let FileType::File { size } = object.file_type {
            let from = self.spec.layers.open(path, found)?;
            let to = self.root.create_file(at, 0o600)?;
            copy_content(&from, &to, size).at("copy", self.root.path_of(at))?;
        } else {
            object::create(&self.root, at, &object.file_type)?;
        }
        if object.file_type == FileType::Directory {
            self.directories.push((path.clone(), object.metadata.clone()));
            return Ok(());
        }
        self.set(path, &object.file_type, &object.metadata)
    }

    fn set(
        &mut self,
        path: &LayerPath,
        file_type: &FileType,
        metadata: &Metadata,
    ) -> Result<(), DriverError> {
        let mut lose = |loss| self.prepared.losses.push(loss);
        object::set_metadata(&self.root, path.as_path(), file_type, metadata, self.style, &mut lose, path)?;
        self.saw(&self.root.stat(path.as_path())?);
        Ok(())
    }

    fn saw(&mut self, stat: &Stat) {
        self.oldest = Some(self.oldest.map_or(stat.ctime, |oldest| oldest.min(stat.ctime)));
        self.newest = self.newest.max(stat.ctime);
    }

    /// Finishes the directories and says what the copy looks like now.
    fn finish(mut self) -> Result<Record, DriverError> {
        let directories = std::mem::take(&mut self.directories);
        for (path, metadata) in directories.iter().rev() {
            self.set(path, &FileType::Directory, metadata)?;
        }
        let inodes = directories.into_iter().map(|(path, _)| {
            let inode = self.root.stat(path.as_path())?.inode;
            Ok((path, inode))
        });
        let inodes: Vec<_> = inodes.collect::<Result<_, DriverError>>()?;
        let watermark = watermark(self.spec.dir, self.newest)?;
        Ok(Record::copy(self.oldest.unwrap_or(watermark)..watermark, &inodes))
    }
}

/// A time that the file system's clock has reached and that is later than `newest`: no change from now on can have an
/// earlier one.
fn watermark(dir: &Dir, newest: Timestamp) -> Result<Timestamp, DriverError> {
    dir.create_file(TICK, 0o600)?;
    let mut now = newest;
    // File systems stamp with a clock of a few milliseconds. Should it stand still or have been set back meanwhile, the
    // latest time itself serves: what has that time is then compared for nothing.
    for _ in 0..100 {
        dir.set_mode(TICK, 0o600)?;
        now = dir.stat(TICK)?.ctime;
        if now > newest {
            break;
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    dir.remove_file(TICK)?;
    Ok(now.max(newest))
}
