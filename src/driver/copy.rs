//! [`CopyDriver`]: a root that is a copy of everything, where nothing can be mounted.
//!
//! The copy is an ordinary directory without marks: what a layer hides is not in it, and attributes bear their own
//! names. What changed is told later by change times, which no program can set: see [`super::Copied`].

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::ffi::OsStr;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::time::Duration;

use rustix::io::Errno;

use super::error::DriverError;
use super::record::{self, Record};
use super::{
    Access, Driver, DriverKind, MountPlan, MountPoint, Prepared, Root, RootSpec, Unmount, Usage, Writable,
    mount_api, usage,
};
use crate::fs::{
    Dir, Durability, Error, FileType, Kind, Metadata, Stat, Timestamp, copy_content, duplicate, twins,
};
use crate::path::{LONGEST_PATH, LayerPath};
use crate::stack::marks::Marks;
use crate::stack::object::{self, Loss, Lost, Object, Style};
use crate::stack::{Found, Tree};

pub(super) const ROOT: &str = "root";
const TICK: &str = "tick";

/// Roots that are copies.
#[derive(Clone, Copy, Debug)]
pub struct CopyDriver {
    style: Style,
}

impl CopyDriver {
    /// For a process that is or is not above permission checks on its own files. A [`super::Probe`] finds out.
    pub fn new(privileged: bool) -> Self {
        Self { style: Style { family: None, privileged } }
    }

    fn refuse<T>(reason: String) -> Result<T, DriverError> {
        Err(DriverError::Refused { kind: DriverKind::Copy, reason })
    }

    fn writable_only(spec: &RootSpec<'_>) -> Result<(), DriverError> {
        if spec.options.ids.is_some() || spec.options.label.is_some() {
            return Self::refuse(
                "a translation of owners, and a label, belong to a mount; use overlay, or leave them out"
                    .to_owned(),
            );
        }
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
        spec.layers.walk::<DriverError>(&mut |path, found| copy.add(path, found))?;
        copy.finish()?.write(spec.dir, spec.options.durability)?;
        if spec.options.durability == Durability::Full {
            // One sync of everything is far cheaper than one for each file.
            spec.dir.sync_file_system()?;
        }
        Ok(prepared)
    }

    fn duplicate(&self, spec: &RootSpec<'_>, from: &Dir, _: &str) -> Result<(), DriverError> {
        Self::writable_only(spec)?;
        let tree = Tree { dir: from.open_dir(ROOT)?, marks: Marks::None, declares_root: true };
        let known = Record::read(from, DriverKind::Copy)?.copied(from, tree)?;
        spec.dir.create_private_dir(ROOT)?;
        let root = spec.dir.open_dir(ROOT)?;
        let (mut directories, mut is_touched) = (Vec::new(), false);
        let (mut oldest, mut newest) = (None, Timestamp::default());
        duplicate::<DriverError>(&known.root.dir, &root, &mut |copied| {
            saw(&mut oldest, &mut newest, copied.to);
            // Every directory of a layer has a path that can be stored; a container makes deeper ones.
            if copied.from.kind == Kind::Directory && copied.path.as_os_str().len() <= LONGEST_PATH {
                let path = layer_path(copied.path)?;
                if known.is_original(&path, copied.from) {
                    directories.push((path, copied.to.inode));
                }
            }
            is_touched |= !known.is_untouched(copied.from);
            Ok(())
        })?;
        let watermark = watermark(spec.dir, newest)?;
        directories.sort();
        let record = Record::copy(oldest.unwrap_or(watermark)..watermark, &directories);
        // What was changed in the original is changed here: this gives it a change time after the watermark.
        if is_touched {
            twins::<DriverError>(&known.root.dir, &root, &mut |twin| {
                if !known.is_untouched(twin.from) {
                    twin.dir.set_mtime(twin.name, twin.to.mtime)?;
                }
                Ok(())
            })?;
        }
        record.write(spec.dir, spec.options.durability)?;
        if spec.options.durability == Durability::Full {
            spec.dir.sync_file_system()?;
        }
        Ok(())
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
    into: Last,
    /// By position of the layer.
    from: HashMap<usize, Last>,
    /// Parents before children. They get their metadata last, since whatever is put into them changes it.
    directories: Vec<(LayerPath, Metadata)>,
    /// Files with several names: where they come from, and the name they have here.
    linked: HashMap<(usize, u64), LayerPath>,
    oldest: Option<Timestamp>,
    newest: Timestamp,
}

/// The directory that was used last: the next name is mostly in the same one.
#[derive(Default)]
struct Last(Option<(LayerPath, Dir)>);

impl Last {
    fn open(&mut self, root: &Dir, path: LayerPath) -> Result<&Dir, crate::fs::Error> {
        match self.0.take() {
            Some(last) if last.0 == path => Ok(&self.0.insert(last).1),
            _ => {
                let dir = root.open_dir(path.as_path())?;
                Ok(&self.0.insert((path, dir)).1)
            }
        }
    }
}

impl<'a> Copy<'a> {
    fn begin(spec: &'a RootSpec<'a>, style: Style, prepared: &'a mut Prepared) -> Result<Self, DriverError> {
        spec.dir.create_private_dir(ROOT)?;
        Ok(Self {
            spec,
            style,
            prepared,
            root: spec.dir.open_dir(ROOT)?,
            into: Last::default(),
            from: HashMap::new(),
            directories: vec![(LayerPath::ROOT, spec.layers.root_metadata()?)],
            linked: HashMap::new(),
            oldest: None,
            newest: Timestamp::default(),
        })
    }

    fn add(&mut self, path: &LayerPath, found: &Found) -> Result<(), DriverError> {
        let parent = path.parent().unwrap_or_default();
        let name = Path::new(OsStr::from_bytes(path.file_name().unwrap_or(b".")));
        let into = self.into.open(&self.root, parent.clone())?;
        if found.stat.links > 1 && !found.is_directory() {
            match self.linked.entry((found.tree(), found.stat.inode)) {
                Entry::Occupied(mut first) => match self.root.hard_link(first.get().as_path(), into, name) {
                    // The file system counts no further: this name and those that follow share the next copy.
                    Err(source) if source.errno() == Some(Errno::MLINK) => {
                        self.prepared.losses.push(Loss { path: path.clone(), what: Lost::Link, source });
                        first.insert(path.clone());
                    }
                    done => {
                        done?;
                        let stat = into.stat(name)?;
                        self.saw(&stat);
                        return Ok(());
                    }
                },
                Entry::Vacant(first) => drop(first.insert(path.clone())),
            }
        }
        let tree = self.spec.layers.tree(found.tree());
        let from = self.from.entry(found.tree()).or_default().open(&tree.dir, parent)?;
        let Object { file_type, metadata, .. } = object::read(from, name, tree.marks)?;
        if let FileType::File { size } = file_type {
            let to = into.create_file(name, 0o600)?;
            copy_content(&from.open_file(name)?, &to, size)
                .map_err(|error| Error::new("copy", self.root.path_of(path.as_path()), error))?;
        } else {
            object::create(into, name, &file_type)?;
        }
        if file_type == FileType::Directory {
            self.directories.push((path.clone(), metadata));
            return Ok(());
        }
        let mut lose = |loss| self.prepared.losses.push(loss);
        object::set_metadata(into, name, &file_type, &metadata, self.style, &mut lose, path)?;
        let stat = into.stat(name)?;
        self.saw(&stat);
        Ok(())
    }

    fn saw(&mut self, stat: &Stat) {
        saw(&mut self.oldest, &mut self.newest, stat);
    }

    /// Finishes the directories, the deepest first, and says what the copy looks like now.
    fn finish(mut self) -> Result<Record, DriverError> {
        let mut inodes = Vec::new();
        while let Some((path, metadata)) = self.directories.pop() {
            let (at, kind) = (path.as_path(), FileType::Directory);
            let mut lose = |loss| self.prepared.losses.push(loss);
            object::set_metadata(&self.root, at, &kind, &metadata, self.style, &mut lose, &path)?;
            let stat = self.root.stat(at)?;
            self.saw(&stat);
            inodes.push((path, stat.inode));
        }
        let watermark = watermark(self.spec.dir, self.newest)?;
        Ok(Record::copy(self.oldest.unwrap_or(watermark)..watermark, &inodes))
    }
}

/// Widens a range of change times to that of `stat`.
fn saw(oldest: &mut Option<Timestamp>, newest: &mut Timestamp, stat: &Stat) {
    *oldest = Some(oldest.map_or(stat.ctime, |oldest| oldest.min(stat.ctime)));
    *newest = (*newest).max(stat.ctime);
}

/// The name of something in a root. A container may have made paths that are longer than any layer can hold.
fn layer_path(path: &Path) -> Result<LayerPath, DriverError> {
    LayerPath::parse(path.as_os_str().as_bytes()).map_err(|error| DriverError::Refused {
        kind: DriverKind::Copy,
        reason: format!("{path:?} cannot be in a layer: {error}"),
    })
}

/// A time that the file system's clock has reached and that is later than `newest`: no change from now on can have an
/// earlier one.
fn watermark(dir: &Dir, newest: Timestamp) -> Result<Timestamp, DriverError> {
    dir.make_file(TICK, 0o600)?;
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
