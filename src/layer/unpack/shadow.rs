//! [`Shadow`]: a layer as its tar describes it, compared with the directory that should hold it.
//!
//! Unpacking into a shadow writes nothing. It keeps the names of the layer in memory, about a hundred bytes for each, and
//! compares every file with the one under the same name on disk while its data comes out of the tar. A name may come twice,
//! so nothing is decided before the end: a file that a later entry replaces takes its verdict with it. A file that is left
//! under its second name only was compared with the wrong one; then everything is read once more, and of such files a
//! digest is kept until the end ([`Shadow::stale`]).

use std::cell::RefCell;
use std::collections::{BTreeMap, HashSet};
use std::ffi::OsStr;
use std::fs::File;
use std::hash::{DefaultHasher, Hash, Hasher as _};
use std::io::{self, Read};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileExt;
use std::path::{Component, Path, PathBuf};
use std::rc::Rc;

use rustix::io::Errno;

use super::Losses;
use super::content::Written;
use super::entries::Unpacker;
use super::error::UnpackError;
use super::expected::{self, Fault, Faults};
use super::files::New;
use super::place::{Of, Place};
use super::target::Target;
use crate::changeset::{Data, Reader};
use crate::digest::{Algorithm, Digest, Hasher};
use crate::fs::{
    Context, DeviceNumber, Dir, Error, FileType, Kind, Metadata, Optional, Result, Stat, Timestamp,
    next_extent,
};
use crate::layer::Abilities;
use crate::layer::record::{Assumed, Missing};
use crate::layer::verify::{Difference, same_objects};
use crate::layer::xattrs::XattrPolicy;
use crate::path::LayerPath;
use crate::stack::Tree;
use crate::stack::marks::Opacity;
use crate::stack::object::{self, Loss, Style};
use crate::stack::owner;
use crate::whiteout::{Namespace, Stored};
use crate::zeros::DataRuns;

/// Bytes that are read at a time.
const BUFFER: usize = 256 << 10;

/// Blocks that count as a whole where contents are compared by their digest.
const BLOCK: usize = 4096;

/// What is known of the layer and of how it was unpacked.
pub(super) struct Circumstances<'c> {
    pub(super) tree: &'c Tree,
    pub(super) policy: &'c XattrPolicy,
    pub(super) missing: &'c Missing,
    pub(super) cancelled: Option<&'c (dyn Fn() -> bool + Sync)>,
}

/// A directory of the layer, in memory, with the one on disk that should hold it.
pub(super) struct Shadow<'c> {
    state: Rc<RefCell<State<'c>>>,
    node: u32,
    disk: Option<Rc<Dir>>,
    /// Whether it is no part of the layer: what it holds gets its place later.
    aside: bool,
}

struct State<'c> {
    about: Circumstances<'c>,
    ids: owner::Ids,
    nodes: Vec<Node>,
    free: Vec<u32>,
    /// Names whose files are not compared when they come.
    keep: HashSet<u64>,
    stale: HashSet<u64>,
    /// Whether a time with a fraction was seen on disk: then the file system keeps fractions.
    fractions: bool,
    buffer: Vec<u8>,
}

/// Something that has a name in the layer, or several.
struct Node {
    kind: Kind,
    faults: Faults,
    /// Marks that a directory should carry.
    marks: Expected,
    names: u32,
    /// The inode that it was compared with.
    inode: u64,
    size: u64,
    /// Stands for the name in the tar.
    tag: u64,
    more: More,
}

#[derive(Clone, Copy, Default)]
struct Expected {
    opaque: bool,
    origin: bool,
    whiteout: bool,
}

enum More {
    Nothing,
    // Few entries are directories, and the map by itself is larger than the other forms.
    #[allow(clippy::box_collection)]
    Children(Box<BTreeMap<Box<[u8]>, u32>>),
    Target(Box<[u8]>),
    Kept(Box<Kept>),
}

/// What something should be that was not compared when it came.
struct Kept {
    name: LayerPath,
    file_type: Option<FileType>,
    metadata: Metadata,
    content: Option<Digest>,
}

impl<'c> Shadow<'c> {
    /// Begins with an empty layer. Of the files in `keep` a digest is kept.
    pub(super) fn new(about: Circumstances<'c>, keep: HashSet<u64>) -> Result<Self> {
        let disk = Some(Rc::new(about.tree.dir.try_clone()?));
        let state = State {
            about,
            ids: owner::Ids::of_process(),
            nodes: Vec::new(),
            free: Vec::new(),
            keep,
            stale: HashSet::new(),
            fractions: false,
            buffer: vec![0; BUFFER],
        };
        let shadow = Self { state: Rc::new(RefCell::new(state)), node: 0, disk, aside: false };
        shadow.state.borrow_mut().add(Kind::Directory);
        Ok(shadow)
    }

    /// Returns the names of files that were compared with something else than what they are now.
    pub(super) fn stale(&self) -> HashSet<u64> {
        let state = self.state.borrow();
        let is_stale = |node: &&Node| node.names > 0 && state.stale.contains(&node.tag);
        state.nodes.iter().filter(is_stale).map(|node| node.tag).collect()
    }

    /// Compares the directory `path`, which the layer does not describe, with what it was taken to be.
    pub(super) fn compare_assumed(&self, Assumed { path, metadata, .. }: &Assumed) -> Result<()> {
        let dir = self.open_dir(path.as_path())?;
        dir.compare(Path::new("."), &FileType::Directory, metadata, path)
    }

    /// Takes away a directory that holds nothing but deletions, and that the base does not need.
    pub(super) fn leave_out(&self, path: &LayerPath) -> Result<()> {
        let Some((parent, name)) = path.parent().zip(path.file_name()) else { return Ok(()) };
        match self.open_dir(parent.as_path()).optional()? {
            Some(parent) => parent.remove_all(name),
            None => Ok(()),
        }
    }

    /// Forgets what is known of the root: the layer does not describe it.
    pub(super) fn forget_root(&self) {
        self.state.borrow_mut().nodes[0].faults = Faults::default();
    }

    fn fault(&self, step: &'static str, path: &Path, errno: Errno) -> Error {
        Error::new(step, PathBuf::from(path), io::Error::from(errno))
    }

    fn find(&self, path: &Path) -> std::result::Result<u32, Errno> {
        let state = self.state.borrow();
        let mut node = self.node;
        for component in path.components() {
            let Component::Normal(name) = component else { continue };
            node = match &state.nodes[node as usize].more {
                More::Children(children) => *children.get(name.as_bytes()).ok_or(Errno::NOENT)?,
                _ => return Err(Errno::NOTDIR),
            };
        }
        Ok(node)
    }

    fn found(&self, step: &'static str, path: &Path) -> Result<u32> {
        self.find(path).map_err(|errno| self.fault(step, path, errno))
    }

    /// Gives `node` a name in this directory.
    fn name(&self, path: &Path, node: u32) -> Result<()> {
        let mut state = self.state.borrow_mut();
        let name = path.file_name().map_or(&b""[..], OsStr::as_bytes);
        let More::Children(children) = &mut state.nodes[self.node as usize].more else {
            return Err(self.fault("create", path, Errno::NOTDIR));
        };
        children.insert(name.into(), node);
        state.nodes[node as usize].names += 1;
        Ok(())
    }

    fn make(&self, path: &Path, kind: Kind) -> Result<u32> {
        match self.find(path) {
            Ok(_) => Err(self.fault("create", path, Errno::EXIST)),
            Err(Errno::NOENT) => {
                if let Some(parent) = path.parent().filter(|parent| !parent.as_os_str().is_empty()) {
                    let parent = self.found("create", parent)?;
                    let state = Rc::clone(&self.state);
                    let dir = Self { state, node: parent, disk: None, aside: self.aside };
                    return dir.make(Path::new(path.file_name().unwrap_or_default()), kind);
                }
                let node = self.state.borrow_mut().add(kind);
                self.name(path, node)?;
                Ok(node)
            }
            Err(errno) => Err(self.fault("create", path, errno)),
        }
    }

    fn unlink(&self, name: &[u8], only_files: bool) -> Result<()> {
        let path = Path::new(OsStr::from_bytes(name));
        let node = self.found("remove", path)?;
        let mut state = self.state.borrow_mut();
        if only_files && state.nodes[node as usize].kind == Kind::Directory {
            return Err(self.fault("remove", path, Errno::ISDIR));
        }
        if let More::Children(children) = &mut state.nodes[self.node as usize].more {
            children.remove(name);
        }
        state.release(node);
        Ok(())
    }

    /// Compares what is at `at` with what the layer says of it, or keeps that.
    fn compare(&self, at: &Path, file_type: &FileType, metadata: &Metadata, name: &LayerPath) -> Result<()> {
        let node = self.found("look at", at)?;
        let tag = tag(name);
        let keeps =
            self.aside || self.state.borrow().keep.contains(&tag) && *file_type != FileType::Directory;
        if keeps {
            let mut state = self.state.borrow_mut();
            let node = &mut state.nodes[node as usize];
            node.tag = tag;
            let content = match &node.more {
                More::Kept(kept) => kept.content,
                _ => None,
            };
            let (name, metadata) = (name.clone(), metadata.clone());
            let file_type = (node.kind != Kind::File).then(|| file_type.clone());
            node.more = More::Kept(Box::new(Kept { name, file_type, metadata, content }));
            return Ok(());
        }
        let Some(disk) = &self.disk else { return Ok(()) };
        let compared = self.state.borrow_mut().compare(disk, at, file_type, metadata, name)?;
        let mut state = self.state.borrow_mut();
        let node = &mut state.nodes[node as usize];
        node.tag = tag;
        if let Some((faults, inode)) = compared {
            (node.faults, node.inode) = (faults, inode);
        }
        Ok(())
    }
}

impl State<'_> {
    fn add(&mut self, kind: Kind) -> u32 {
        let more = match kind {
            Kind::Directory => More::Children(Box::default()),
            _ => More::Nothing,
        };
        let marks = Expected::default();
        let node = Node { kind, faults: Faults::default(), marks, names: 0, inode: 0, size: 0, tag: 0, more };
        match self.free.pop() {
            Some(free) => {
                self.nodes[free as usize] = node;
                free
            }
            None => {
                // Each entry of a tar takes 512 bytes, and limits bound how many there are.
                self.nodes.push(node);
                u32::try_from(self.nodes.len() - 1).unwrap_or(u32::MAX)
            }
        }
    }

    /// Takes a name from `node`, and from everything below it if that was the last.
    fn release(&mut self, node: u32) {
        let mut open = vec![node];
        while let Some(node) = open.pop() {
            let released = &mut self.nodes[node as usize];
            released.names = released.names.saturating_sub(1);
            if released.names > 0 {
                if !matches!(released.more, More::Kept(_)) {
                    self.stale.insert(released.tag);
                }
                continue;
            }
            if let More::Children(children) = std::mem::replace(&mut released.more, More::Nothing) {
                open.extend(children.into_values());
            }
            self.free.push(node);
        }
    }

    /// Compares an object on disk; `None` if there is none.
    fn compare(
        &mut self,
        disk: &Dir,
        at: &Path,
        file_type: &FileType,
        metadata: &Metadata,
        name: &LayerPath,
    ) -> Result<Option<(Faults, u64)>> {
        let Some(stat) = disk.find(at).fitting()?.flatten() else { return Ok(None) };
        let object = match object::read(disk, at, self.about.tree.marks) {
            Ok(object) => object,
            Err(error) if error.is_not_found() || error.is_other_kind() => {
                return Ok(Some((Fault::Type.into(), stat.inode)));
            }
            Err(error) if self.is_damage(&error, &stat) => {
                return Ok(Some((Fault::Unreadable.into(), stat.inode)));
            }
            Err(error) => return Err(error),
        };
        let mut faults = expected::types(file_type, &object.file_type);
        let (meant, mode) = (metadata.mode, object.metadata.mode);
        if !faults.has(Fault::Type) {
            faults |= self.metadata(metadata, object.metadata, file_type, name);
        }
        // A mode by itself is lost with the record of it, where it would have locked the owner out. An earlier entry of this
        // name may be what the list of losses is about.
        let without_record = faults.has(Fault::Mode) && mode | 0o700 == meant | 0o700;
        let may_be_lost = faults.has(Fault::Type) || faults.has(Fault::Owner) || without_record;
        if may_be_lost && self.about.missing.owner(name) {
            faults.excuse_owner(file_type, &object.file_type);
        }
        Ok(Some((faults, stat.inode)))
    }

    fn metadata(
        &mut self,
        expected: &Metadata,
        mut found: Metadata,
        file_type: &FileType,
        name: &LayerPath,
    ) -> Faults {
        self.fractions |= found.mtime.nanos != 0;
        self.about.policy.apply(&mut found.xattrs);
        expected::metadata(expected, &found, file_type, |key| self.about.missing.xattr(name, key))
    }

    /// Whether an error says that the layer is damaged, and not that this process cannot read it.
    fn is_damage(&self, error: &Error, stat: &Stat) -> bool {
        let is_own = stat.uid == rustix::process::geteuid().as_raw();
        expected::is_damage(error.errno()) || error.errno() == Some(Errno::ACCESS) && is_own
    }

    fn is_cancelled(&self) -> bool {
        self.about.cancelled.is_some_and(|cancelled| cancelled())
    }
}

/// Stands for a name; two names have the same by accident once in many lifetimes, and then one more file is read twice.
fn tag(name: &LayerPath) -> u64 {
    let mut hasher = DefaultHasher::new();
    name.as_bytes().hash(&mut hasher);
    hasher.finish()
}

impl<'c> Target for Shadow<'c> {
    type File = u32;

    fn try_clone(&self) -> Result<Self> {
        let &Self { ref state, node, ref disk, aside } = self;
        Ok(Self { state: Rc::clone(state), node, disk: disk.clone(), aside })
    }

    fn open_dir(&self, path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        let node = self.found("open", path)?;
        if self.state.borrow().nodes[node as usize].kind != Kind::Directory {
            return Err(self.fault("open", path, Errno::NOTDIR));
        }
        let disk = match &self.disk {
            Some(disk) if node == self.node => Some(Rc::clone(disk)),
            Some(disk) => match disk.find_dir(path).fitting() {
                Ok(found) => found.flatten().map(Rc::new),
                Err(error) => {
                    let stat = disk.find(path).fitting()?.flatten();
                    let mut state = self.state.borrow_mut();
                    match stat {
                        Some(stat) if state.is_damage(&error, &stat) => {
                            state.nodes[node as usize].faults |= Fault::Unreadable.into();
                            None
                        }
                        _ => return Err(error),
                    }
                }
            },
            None => None,
        };
        Ok(Self { state: Rc::clone(&self.state), node, disk, aside: self.aside })
    }

    /// Only for what is kept aside.
    fn ensure_dir(&self, path: impl AsRef<Path>, _: u32) -> Result<Self> {
        let node = self.make(path.as_ref(), Kind::Directory)?;
        Ok(Self { state: Rc::clone(&self.state), node, disk: None, aside: true })
    }

    fn create_private_dir(&self, path: impl AsRef<Path>) -> Result<()> {
        self.make(path.as_ref(), Kind::Directory).map(drop)
    }

    fn create_file(&self, path: impl AsRef<Path>, _: u32) -> Result<u32> {
        self.make(path.as_ref(), Kind::File)
    }

    fn stat(&self, path: impl AsRef<Path>) -> Result<Stat> {
        let node = self.found("stat", path.as_ref())?;
        let Node { kind, size, .. } = self.state.borrow().nodes[node as usize];
        Ok(Stat {
            kind,
            mode: 0,
            uid: 0,
            gid: 0,
            size,
            allocated: 0,
            mtime: Timestamp::default(),
            ctime: Timestamp::default(),
            device: 0,
            inode: u64::from(node),
            links: 1,
            node: DeviceNumber::WHITEOUT,
        })
    }

    fn read_link(&self, path: impl AsRef<Path>) -> Result<Vec<u8>> {
        let node = self.found("read link", path.as_ref())?;
        match &self.state.borrow().nodes[node as usize].more {
            More::Target(target) => Ok(target.to_vec()),
            More::Kept(kept) => match &kept.file_type {
                Some(FileType::Symlink(target)) => Ok(target.clone()),
                _ => Err(self.fault("read link", path.as_ref(), Errno::INVAL)),
            },
            _ => Err(self.fault("read link", path.as_ref(), Errno::INVAL)),
        }
    }

    fn remove_file(&self, path: impl AsRef<Path>) -> Result<()> {
        self.unlink(path.as_ref().as_os_str().as_bytes(), true)
    }

    fn remove_all(&self, name: impl AsRef<[u8]>) -> Result<()> {
        match self.unlink(name.as_ref(), false) {
            Err(error) if error.is_not_found() => Ok(()),
            done => done,
        }
    }

    fn hard_link(&self, from: impl AsRef<Path>, into: &Self, to: impl AsRef<Path>) -> Result<()> {
        let (node, to) = (self.found("link", from.as_ref())?, to.as_ref());
        match into.find(to) {
            Ok(_) => Err(self.fault("link", to, Errno::EXIST)),
            Err(Errno::NOENT) => into.name(to, node),
            Err(errno) => Err(self.fault("link", to, errno)),
        }
    }

    fn begin(&self) -> Result<()> {
        Ok(())
    }

    fn create(&self, at: &Path, file_type: &FileType) -> Result<()> {
        let (kind, more) = match file_type {
            FileType::File { .. } => (Kind::File, More::Nothing),
            FileType::Directory => (Kind::Directory, More::Children(Box::default())),
            FileType::Symlink(target) => (Kind::Symlink, More::Target(target.clone().into())),
            FileType::Fifo => (Kind::Fifo, More::Nothing),
            FileType::CharDevice(_) => (Kind::CharDevice, More::Nothing),
            FileType::BlockDevice(_) => (Kind::BlockDevice, More::Nothing),
            FileType::Socket => (Kind::Socket, More::Nothing),
        };
        let node = self.make(at, kind)?;
        self.state.borrow_mut().nodes[node as usize].more = more;
        Ok(())
    }

    fn set_metadata(
        &self,
        at: &Path,
        file_type: &FileType,
        metadata: &Metadata,
        _: Style,
        _: &mut dyn FnMut(Loss),
        name: &LayerPath,
    ) -> Result<()> {
        self.compare(at, file_type, metadata, name)
    }

    fn mark_opaque(&self, _: Namespace, at: &Path) -> Result<()> {
        let node = self.found("mark", at)?;
        self.state.borrow_mut().nodes[node as usize].marks.opaque = true;
        Ok(())
    }

    fn whiteout(&self, _: Namespace, parent: &Path, name: &Path) -> Result<()> {
        let parent = self.open_dir(parent)?;
        let node = parent.make(name, Kind::CharDevice)?;
        let mut state = self.state.borrow_mut();
        state.nodes[node as usize].marks.whiteout = true;
        state.nodes[parent.node as usize].marks.origin = true;
        Ok(())
    }

    fn copy(&self, name: &str, source: &File, size: u64) -> Result<()> {
        let node = self.make(Path::new(name), Kind::File)?;
        let mut content = Blocks::new();
        let mut state = self.state.borrow_mut();
        let read = content.read(source, size, &mut state);
        let content = match read.at_path("read", || crate::fs::path_of(source))? {
            true => Some(content.finish()),
            false => None,
        };
        let (name, metadata) = (LayerPath::ROOT, Metadata::default());
        let kept = Kept { name, file_type: None, metadata, content };
        state.nodes[node as usize].more = More::Kept(Box::new(kept));
        state.nodes[node as usize].size = size;
        Ok(())
    }

    fn add_name(
        _: &mut Unpacker<'_, Self>,
        (dir, from): (&Self, &OsStr),
        place: &Place<Self>,
        name: &OsStr,
        _: &LayerPath,
    ) -> std::result::Result<(), UnpackError> {
        Ok(dir.hard_link(from, &place.dir, name)?)
    }

    fn fill<R: Read>(
        unpacker: &mut Unpacker<'_, Self>,
        of: Of<'_>,
        new: New<'_, Self>,
        metadata: &Metadata,
        size: u64,
        tar: &mut Reader<R>,
    ) -> std::result::Result<(), UnpackError> {
        let (dir, node, tag) = (&new.place.dir, new.file, tag(of.path));
        let keeps = dir.aside || dir.state.borrow().keep.contains(&tag);
        let mut seen = match &dir.disk {
            Some(disk) if !keeps => dir.state.borrow_mut().open(disk, new.name, metadata, size, of.path)?,
            _ => Seen::Nothing,
        };
        let mut blocks = keeps.then(Blocks::new);
        let mut runs = DataRuns::new(size);
        let mut data = 0;
        let mut count = |run: std::ops::Range<u64>| {
            data += run.end - run.start;
            Ok::<_, UnpackError>(())
        };
        let mut position = 0;
        while let Some(Data { offset, bytes }) = tar.next_data()? {
            if unpacker.options.is_cancelled() {
                return Err(UnpackError::Cancelled);
            }
            if offset > runs.position() {
                runs.hole_until(offset, &mut count)?;
            }
            runs.piece(bytes, &mut count)?;
            seen.zeros(position, offset, &mut dir.state.borrow_mut())?;
            seen.bytes(offset, bytes, &mut dir.state.borrow_mut())?;
            position = offset + bytes.len() as u64;
            if let Some(blocks) = &mut blocks {
                blocks.add(offset, bytes);
            }
        }
        if runs.position() < size {
            runs.hole_until(size, &mut count)?;
        }
        seen.zeros(position, size, &mut dir.state.borrow_mut())?;
        unpacker.written += Written::of(data);
        let mut state = dir.state.borrow_mut();
        let node = &mut state.nodes[node as usize];
        (node.size, node.tag) = (size, tag);
        if let Some(blocks) = blocks {
            let (name, metadata, content) = (of.path.clone(), metadata.clone(), Some(blocks.finish()));
            node.more = More::Kept(Box::new(Kept { name, file_type: None, metadata, content }));
        } else if let Seen::File { faults, inode, .. } | Seen::Fault { faults, inode } = seen {
            (node.faults, node.inode) = (faults, inode);
        }
        Ok(())
    }

    /// What the record says was taken from below is compared at the end.
    fn apply(&self, _: &[Assumed], _: Abilities, _: &mut Losses) -> Result<()> {
        Ok(())
    }
}

/// The file on disk that the data of an entry is compared with.
enum Seen {
    Nothing,
    Fault { faults: Faults, inode: u64 },
    File { file: File, faults: Faults, inode: u64 },
}

impl State<'_> {
    /// Opens a file and compares everything but its content.
    fn open(
        &mut self,
        disk: &Dir,
        at: &OsStr,
        metadata: &Metadata,
        size: u64,
        name: &LayerPath,
    ) -> Result<Seen> {
        let file_type = FileType::File { size };
        let (file, stat) = match disk.open_known(Path::new(at)) {
            Ok(opened) => opened,
            // What stands there instead, if anything, is told by its type.
            Err(_) => {
                return Ok(match self.compare(disk, Path::new(at), &file_type, metadata, name)? {
                    None => Seen::Nothing,
                    Some((faults, inode)) if faults.has(Fault::Type) => Seen::Fault { faults, inode },
                    Some((mut faults, inode)) => {
                        match disk.open_file(at) {
                            Ok(file) => return Ok(Seen::File { file, faults, inode }),
                            Err(error) => {
                                let stat = disk.stat(at)?;
                                faults |= match stat.kind {
                                    Kind::File if self.is_damage(&error, &stat) => Fault::Unreadable.into(),
                                    Kind::File => return Err(error),
                                    _ => Fault::Type.into(),
                                };
                            }
                        }
                        Seen::Fault { faults, inode }
                    }
                });
            }
        };
        // Most files have no attributes, and then there is nothing but what was just seen.
        let has_none = matches!(rustix::fs::flistxattr(&file, &mut [0u8; 256][..]), Ok(0));
        let faults = if has_none {
            let (uid, gid) = self.ids.in_image(stat.uid, stat.gid);
            let found = Metadata { mode: stat.mode, uid, gid, mtime: stat.mtime, ..Metadata::default() };
            let mut faults = expected::types(&file_type, &FileType::File { size: stat.size });
            faults |= self.metadata(metadata, found, &file_type, name);
            if (faults.has(Fault::Owner) || faults.has(Fault::Mode)) && self.about.missing.owner(name) {
                faults.excuse_owner(&file_type, &FileType::File { size: stat.size });
            }
            faults
        } else {
            match self.compare(disk, Path::new(at), &file_type, metadata, name)? {
                Some((faults, _)) => faults,
                None => return Ok(Seen::Nothing),
            }
        };
        let inode = stat.inode;
        match faults.has(Fault::Size) || faults.has(Fault::Type) {
            true => Ok(Seen::Fault { faults, inode }),
            false => Ok(Seen::File { file, faults, inode }),
        }
    }
}

impl Seen {
    /// Compares the next data.
    fn bytes(
        &mut self,
        mut offset: u64,
        mut bytes: &[u8],
        state: &mut State<'_>,
    ) -> std::result::Result<(), UnpackError> {
        let Self::File { file, faults, .. } = self else { return Ok(()) };
        while !bytes.is_empty() && !faults.has(Fault::Content) && !faults.has(Fault::Unreadable) {
            let length = bytes.len().min(state.buffer.len());
            let (piece, rest) = bytes.split_at(length);
            match file.read_exact_at(&mut state.buffer[..length], offset) {
                Ok(()) if state.buffer[..length] == *piece => {}
                Ok(()) => *faults |= Fault::Content.into(),
                Err(error) => *faults |= unreadable(error, file)?,
            }
            offset += length as u64;
            bytes = rest;
        }
        Ok(())
    }

    /// Compares a hole, of which nothing is read where the file has a hole too.
    fn zeros(
        &mut self,
        from: u64,
        until: u64,
        state: &mut State<'_>,
    ) -> std::result::Result<(), UnpackError> {
        let Self::File { file, faults, .. } = self else { return Ok(()) };
        let mut position = from;
        while position < until && !faults.has(Fault::Content) && !faults.has(Fault::Unreadable) {
            if state.is_cancelled() {
                return Err(UnpackError::Cancelled);
            }
            let extent = match next_extent(file, position, until) {
                Ok(Some(extent)) => extent,
                Ok(None) => break,
                Err(error) => {
                    *faults |= unreadable(error, file)?;
                    break;
                }
            };
            let length = usize::try_from(extent.length).unwrap_or(usize::MAX).min(state.buffer.len());
            match file.read_exact_at(&mut state.buffer[..length], extent.offset) {
                Ok(()) if state.buffer[..length].iter().all(|&byte| byte == 0) => {}
                Ok(()) => *faults |= Fault::Content.into(),
                Err(error) => *faults |= unreadable(error, file)?,
            }
            position = extent.offset + length as u64;
        }
        Ok(())
    }
}

/// What it means that a file cannot be read.
fn unreadable(error: io::Error, file: &File) -> Result<Faults> {
    match error.kind() {
        // It has become shorter.
        io::ErrorKind::UnexpectedEof => Ok(Fault::Content.into()),
        _ if expected::is_damage(Errno::from_io_error(&error)) => Ok(Fault::Unreadable.into()),
        _ => Err(error).at_path("read", || crate::fs::path_of(file)),
    }
}

/// The digest of a content in which holes and zeros are the same: of the blocks that are not zero, with their places.
struct Blocks {
    hasher: Hasher,
    block: Box<[u8; BLOCK]>,
    at: u64,
}

impl Blocks {
    fn new() -> Self {
        Self { hasher: Hasher::new(Algorithm::Sha256), block: Box::new([0; BLOCK]), at: 0 }
    }

    /// Takes the next data, which lies behind all before.
    fn add(&mut self, mut offset: u64, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let block = offset - offset % BLOCK as u64;
            if block != self.at {
                self.flush();
                self.at = block;
            }
            let start = (offset - block) as usize;
            let (piece, rest) = bytes.split_at(bytes.len().min(BLOCK - start));
            self.block[start..start + piece.len()].copy_from_slice(piece);
            offset += piece.len() as u64;
            bytes = rest;
        }
    }

    fn flush(&mut self) {
        if self.block.iter().any(|&byte| byte != 0) {
            self.hasher.update(&self.at.to_le_bytes());
            self.hasher.update(&self.block[..]);
            self.block.fill(0);
        }
    }

    /// Takes what `file` holds; `false` if it cannot be read.
    fn read(&mut self, file: &File, size: u64, state: &mut State<'_>) -> io::Result<bool> {
        let mut position = 0;
        loop {
            if state.is_cancelled() {
                return Err(io::ErrorKind::Interrupted.into());
            }
            let extent = match next_extent(file, position, size) {
                Ok(Some(extent)) => extent,
                Ok(None) => return Ok(true),
                Err(error) if expected::is_damage(Errno::from_io_error(&error)) => return Ok(false),
                Err(error) => return Err(error),
            };
            let length = usize::try_from(extent.length).unwrap_or(usize::MAX).min(state.buffer.len());
            match file.read_exact_at(&mut state.buffer[..length], extent.offset) {
                Ok(()) => {}
                Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(false),
                Err(error) if expected::is_damage(Errno::from_io_error(&error)) => return Ok(false),
                Err(error) => return Err(error),
            }
            let buffer = std::mem::take(&mut state.buffer);
            self.add(extent.offset, &buffer[..length]);
            state.buffer = buffer;
            position = extent.offset + length as u64;
        }
    }

    fn finish(mut self) -> Digest {
        self.flush();
        self.hasher.finish()
    }
}

impl Shadow<'_> {
    /// Compares the names, and returns the first `most` differences that were found, in order.
    pub(super) fn differences(&self, most: usize) -> std::result::Result<Vec<Difference>, UnpackError> {
        let mut state = self.state.borrow_mut();
        let root = state.about.tree.dir.try_clone()?;
        let mut found = Vec::new();
        let mut groups: BTreeMap<u32, Group> = BTreeMap::new();
        let mut open = vec![(LayerPath::ROOT, 0u32)];
        while let Some((path, node)) = open.pop() {
            if found.len() >= most {
                break;
            }
            if state.is_cancelled() {
                return Err(UnpackError::Cancelled);
            }
            state.tell(node, &path, &mut found);
            if state.nodes[node as usize].kind == Kind::Directory {
                state.directory(&root, &path, node, &mut open, &mut groups, &mut found)?;
            }
        }
        for (node, group) in &groups {
            if found.len() >= most {
                break;
            }
            state.group(&root, *node, group, &mut found)?;
        }
        found.sort_by(|one, other| one.path.cmp(&other.path));
        found.truncate(most);
        Ok(found)
    }
}

impl State<'_> {
    /// Adds what was found out about one node.
    fn tell(&self, node: u32, path: &LayerPath, found: &mut Vec<Difference>) {
        let faults = self.nodes[node as usize].faults;
        let texts = faults.texts(self.fractions);
        found.extend(texts.map(|what| Difference { path: path.clone(), what }));
    }

    fn directory(
        &mut self,
        root: &Dir,
        path: &LayerPath,
        node: u32,
        open: &mut Vec<(LayerPath, u32)>,
        groups: &mut BTreeMap<u32, Group>,
        found: &mut Vec<Difference>,
    ) -> Result<()> {
        let mut differs = |path: LayerPath, what| found.push(Difference { path, what });
        let Some(dir) = root
            .find_dir(path.as_path())
            .fitting()
            .or_else(|error| {
                let stat = root.find(path.as_path())?;
                match stat {
                    // It was told already that it cannot be read.
                    Some(stat) if self.is_damage(&error, &stat) => Ok(None),
                    _ => Err(error),
                }
            })?
            .flatten()
        else {
            return Ok(());
        };
        let names = match dir.names() {
            Ok(names) => names,
            Err(error) if expected::is_damage(error.errno()) => {
                differs(path.clone(), "cannot be read");
                return Ok(());
            }
            Err(error) => return Err(error),
        };
        let children = match &mut self.nodes[node as usize].more {
            More::Children(children) => std::mem::take(&mut **children),
            _ => BTreeMap::new(),
        };
        let has_marked_files = self.marks(&dir, node, &mut |what| differs(path.clone(), what))?;
        let mut on_disk = names.iter().map(|name| &name.name[..]).collect::<HashSet<_>>();
        let mut below = Vec::new();
        for (name, &child) in &children {
            let at = path.join(name);
            if !on_disk.remove(&name[..]) {
                differs(at, "is missing");
                continue;
            }
            let os_name = OsStr::from_bytes(name);
            if self.nodes[child as usize].marks.whiteout {
                let Some(stat) = dir.find(os_name)? else { continue };
                let opacity = if has_marked_files { Opacity::MergedWithMarkedFiles } else { Opacity::Merged };
                if !self.about.tree.marks.is_whiteout(&dir, Path::new(os_name), &stat, opacity)? {
                    differs(at, "is of another type");
                }
                continue;
            }
            let is_kept = matches!(self.nodes[child as usize].more, More::Kept(_));
            if is_kept
                && let More::Kept(kept) =
                    std::mem::replace(&mut self.nodes[child as usize].more, More::Nothing)
            {
                self.compare_kept(&dir, os_name, child, &kept)?;
                // Every other name is a link to the one that was compared.
            }
            if self.nodes[child as usize].kind != Kind::Directory && self.nodes[child as usize].names > 1 {
                self.link(&dir, os_name, child, &at, groups.entry(child).or_default())?;
            }
            below.push((at, child));
        }
        for name in names.iter().filter(|name| on_disk.contains(&name.name[..])) {
            differs(path.join(&name.name), "does not belong there");
        }
        open.extend(below.into_iter().rev());
        Ok(())
    }

    /// Compares the marks of a directory. Returns whether empty files may be marks in it.
    fn marks(&mut self, dir: &Dir, node: u32, differs: &mut dyn FnMut(&'static str)) -> Result<bool> {
        let expected = self.nodes[node as usize].marks;
        let opacity = self.about.tree.marks.opacity(dir, Path::new("."))?;
        let is_opaque = opacity == Opacity::Opaque;
        if is_opaque != expected.opaque || opacity == Opacity::MergedWithMarkedFiles && !expected.origin {
            differs("has other marks");
            return Ok(!is_opaque);
        }
        let marks = self.about.tree.marks;
        let private = dir.xattrs(".")?.into_keys().filter(|name| marks.stored(name) == Stored::Private);
        let origin = private.filter(|name| name.ends_with(b".overlay.origin")).count() > 0;
        if origin != expected.origin {
            differs("has other marks");
        }
        Ok(opacity == Opacity::MergedWithMarkedFiles)
    }

    /// Compares what was kept with what is on disk under its first name.
    fn compare_kept(&mut self, dir: &Dir, at: &OsStr, node: u32, kept: &Kept) -> Result<()> {
        let size = self.nodes[node as usize].size;
        let file_type = kept.file_type.clone().unwrap_or(FileType::File { size });
        let Some((mut faults, inode)) =
            self.compare(dir, Path::new(at), &file_type, &kept.metadata, &kept.name)?
        else {
            return Ok(());
        };
        if let Some(content) = kept.content
            && !faults.has(Fault::Type)
            && !faults.has(Fault::Size)
        {
            let file = dir.open_file(at)?;
            let mut blocks = Blocks::new();
            match blocks.read(&file, size, self).at_path("read", || dir.path_of(at))? {
                true if blocks.finish() == content => {}
                true => faults |= Fault::Content.into(),
                false => faults |= Fault::Unreadable.into(),
            }
        }
        (self.nodes[node as usize].faults, self.nodes[node as usize].inode) = (faults, inode);
        Ok(())
    }

    /// Notes which inode is behind one of several names.
    fn link(&self, dir: &Dir, at: &OsStr, node: u32, path: &LayerPath, group: &mut Group) -> Result<()> {
        let Some(stat) = dir.find(at)? else { return Ok(()) };
        match self.nodes[node as usize].inode == stat.inode {
            true => drop(group.first.get_or_insert((path.clone(), stat.links))),
            false => drop(group.others.entry(stat.inode).or_insert_with(|| path.clone())),
        }
        Ok(())
    }

    /// Compares the inodes behind the names of one file. All should be one; where a file system counts no further, further
    /// names share another inode, which has to say the same.
    fn group(&mut self, root: &Dir, node: u32, group: &Group, found: &mut Vec<Difference>) -> Result<()> {
        let names = self.nodes[node as usize].names;
        for path in group.others.values() {
            let is_copy = match &group.first {
                Some((first, links)) if expected::is_full(*links, names) => {
                    let dirs =
                        [first, path].map(|path| root.open_dir(path.parent().unwrap_or_default().as_path()));
                    let [one, other] = dirs;
                    let (one, other) = (one?, other?);
                    let name =
                        |path: &LayerPath| OsStr::from_bytes(path.file_name().unwrap_or(b".")).to_owned();
                    let cancelled = || self.is_cancelled();
                    same_objects([&one, &other], [&name(first), &name(path)], &cancelled)?
                }
                // Nothing stands under the name that was compared; that was told.
                None => group.others.len() == 1,
                Some(_) => false,
            };
            if !is_copy {
                // Of two names, nothing tells which has changed; the later is most often the link.
                let path = match &group.first {
                    Some((first, _)) if names == 2 => first.max(path),
                    _ => path,
                };
                found.push(Difference { path: path.clone(), what: "is no link to the same file any more" });
            }
        }
        Ok(())
    }
}

/// The inodes behind the names of one file.
#[derive(Default)]
struct Group {
    /// A name of the one that was compared, and how many names that has.
    first: Option<(LayerPath, u64)>,
    /// The other ones, each with a name.
    others: BTreeMap<u64, LayerPath>,
}
