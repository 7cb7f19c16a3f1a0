//! Objects of a tree as the image means them: [`read`] undoes what [`create`] and [`set_metadata`] had to do to hold
//! them on this file system with these privileges.
//!
//! The invariant: what is written and then read is the same, or the difference was reported as a [`Loss`].

use std::path::Path;

use rustix::io::Errno;

use super::marks::Marks;
use super::owner::{self, Override};
use crate::fs::{DeviceNumber, Dir, Error, FileType, Kind, Metadata, Result, Stat};
use crate::path::LayerPath;
use crate::whiteout::{Namespace, Stored};

/// One object of a tree, as the image means it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Object {
    /// Its type, with the size or target or device.
    pub file_type: FileType,
    /// Mode, owner, time and attributes.
    pub metadata: Metadata,
    /// The inode that holds it.
    pub stat: Stat,
}

/// Reads the object at `path`, which carries `marks` like the tree it is in.
///
/// # Errors
///
/// [`Error`] if it is missing or cannot be read.
pub fn read(dir: &Dir, path: &Path, marks: Marks) -> Result<Object> {
    // Whatever the name leads to meanwhile, all of this is of one inode.
    let inode = dir.inode(path)?;
    let stat = inode.stat()?;
    let (mut uid, mut gid) = owner::in_image(stat.uid, stat.gid);
    if let Marks::Upper { translates: true, .. } = marks {
        uid = if uid == owner::HOST_ROOT { 0 } else { uid };
        gid = if gid == owner::HOST_ROOT { 0 } else { gid };
    }
    let mut metadata = Metadata { mode: stat.mode, uid, gid, mtime: stat.mtime, ..Metadata::default() };
    let (mut kind, mut node) = (stat.kind, stat.node);
    for (name, value) in inode.xattrs()? {
        if name == owner::KEY || name == owner::FUSE_KEY {
            if let Some(meant) = Override::parse(&value).filter(|_| owner::is_record(marks, stat.uid)) {
                (metadata.uid, metadata.gid) = (meant.uid, meant.gid);
                // fuse-overlayfs gives files modes of its own; otherwise another mode than was made is a later one.
                if name == owner::FUSE_KEY || is_mode_of(meant.mode, &stat) {
                    metadata.mode = meant.mode;
                }
                // Only an empty file stands for something else: content is never thrown away.
                if let Some((meant, device)) =
                    meant.node.filter(|_| stat.kind == Kind::File && stat.size == 0)
                {
                    (kind, node) = (meant, device);
                }
            }
            continue;
        }
        match marks.stored(&name) {
            Stored::Plain => drop(metadata.xattrs.insert(name, value)),
            Stored::Escaped(real) => drop(metadata.xattrs.insert(real, value)),
            Stored::Private => {}
        }
    }
    let file_type = match kind {
        Kind::File => FileType::File { size: stat.size },
        Kind::Directory => FileType::Directory,
        Kind::Symlink => FileType::Symlink(inode.read_link()?),
        Kind::Fifo => FileType::Fifo,
        Kind::CharDevice => FileType::CharDevice(node),
        Kind::BlockDevice => FileType::BlockDevice(node),
        Kind::Socket => FileType::Socket,
    };
    Ok(Object { file_type, metadata, stat })
}

/// Whether `stat` has the mode that [`set_metadata`] gives to what should have the mode `meant`.
fn is_mode_of(meant: u32, stat: &Stat) -> bool {
    let needed = needed(stat.kind);
    // The kernel takes the set-group-id bit from whoever is not of the group.
    [meant, meant | needed].iter().any(|mode| (mode ^ stat.mode) & !0o2000 == 0)
}

/// What the owner of a file or directory must be able to do with it, where permissions bind its owner.
fn needed(kind: Kind) -> u32 {
    match kind {
        Kind::Directory => 0o700,
        Kind::File => 0o400,
        _ => 0,
    }
}

/// How objects are put on disk: what this process may do and who will read them.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Style {
    /// The family of the tree's marks; `None` for an ordinary directory, where attributes keep their names.
    pub family: Option<Namespace>,
    /// Whether the process passes permission checks on its own files (`CAP_DAC_OVERRIDE`). If not, every file stays
    /// readable and every directory usable for its owner, and the mode that was meant is recorded.
    pub privileged: bool,
}

/// Something of an object that this file system or this process could not hold. The object is there without it.
#[derive(Debug)]
#[non_exhaustive]
pub struct Loss {
    /// The object.
    pub path: LayerPath,
    /// What is missing.
    pub what: Lost,
    /// The refusal.
    pub source: Error,
}

/// What was lost.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum Lost {
    /// The owner of something that can carry no record of it.
    Owner {
        /// Owner in the image.
        uid: u32,
        /// Group in the image.
        gid: u32,
    },
    /// An extended attribute.
    Xattr(Vec<u8>),
    /// That this name and further ones are names of the same file as the names before. The file system counts no more names
    /// of one file: these share a copy of it.
    Link,
}

impl std::fmt::Display for Loss {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match &self.what {
            Lost::Owner { uid, gid } => write!(f, "{}: owner {uid}:{gid} cannot be kept", self.path)?,
            Lost::Xattr(name) => {
                write!(f, "{}: attribute {} cannot be kept", self.path, name.escape_ascii())?
            }
            Lost::Link => write!(f, "{}: this and further names share a copy of the file", self.path)?,
        }
        match (&self.what, self.source.errno()) {
            (Lost::Owner { .. }, Some(Errno::INVAL)) => f.write_str(
                ": this user namespace has no such id; give it more (/etc/subuid and /etc/subgid)",
            ),
            _ => write!(f, ": {}", self.source.source),
        }
    }
}

/// Creates `path`, which must not exist, as `file_type`, with the right type and target but preliminary metadata. A
/// device or fifo that this process may not make becomes an empty file, which [`set_metadata`] then labels.
///
/// # Errors
///
/// [`Error`] if it cannot be created. Sockets are refused: they have no life outside the process that bound them.
pub fn create(dir: &Dir, path: &Path, file_type: &FileType) -> Result<()> {
    let node = |kind, device| match dir.create_node(path, kind, 0o600, device) {
        Err(error) if matches!(error.errno(), Some(Errno::PERM | Errno::ACCESS)) => {
            dir.create_file(path, 0o600).map(drop)
        }
        done => done,
    };
    match file_type {
        FileType::File { .. } => dir.create_file(path, 0o600).map(drop),
        FileType::Directory => dir.create_private_dir(path),
        FileType::Symlink(target) => dir.create_symlink(target, path),
        FileType::Fifo => node(Kind::Fifo, DeviceNumber::WHITEOUT),
        FileType::CharDevice(device) => node(Kind::CharDevice, *device),
        FileType::BlockDevice(device) => node(Kind::BlockDevice, *device),
        FileType::Socket => Err(Error::new("create socket", dir.path_of(path), Errno::OPNOTSUPP)),
    }
}

/// Gives `path`, of type `file_type`, its owner, mode, attributes and time, in that order: changing the owner clears
/// setuid and file capabilities, and everything before changes the time.
///
/// All of it goes to the one inode that `path` leads to when this begins. Where another user may write to the directory,
/// `path` must be `.`, or lie in a directory that he cannot enter.
///
/// `name` is the object's name in the image, for reports. Attributes that are there already and not wanted stay.
///
/// # Errors
///
/// [`Error`] for a refusal that is no [`Loss`]: out of space, or a file capability that root may not set.
pub fn set_metadata(
    dir: &Dir,
    path: &Path,
    file_type: &FileType,
    metadata: &Metadata,
    style: Style,
    lose: &mut dyn FnMut(Loss),
    name: &LayerPath,
) -> Result<()> {
    let inode = dir.inode(path)?;
    let stat = inode.stat()?;
    let is_symlink = stat.kind == Kind::Symlink;
    let mut recorded = stat.kind == Kind::File && !matches!(file_type, FileType::File { .. });
    let owner = owner::on_disk(metadata.uid, metadata.gid);
    if owner != Some((stat.uid, stat.gid)) {
        let set = match owner {
            Some((uid, gid)) => inode.set_owner(uid, gid),
            None => Err(Error::new("chown", inode.path(), Errno::PERM)),
        };
        match set {
            Ok(()) => {}
            Err(error) if matches!(error.errno(), Some(Errno::PERM | Errno::INVAL)) => {
                if matches!(stat.kind, Kind::File | Kind::Directory) {
                    recorded = true;
                } else {
                    let what = Lost::Owner { uid: metadata.uid, gid: metadata.gid };
                    lose(Loss { path: name.clone(), what, source: error });
                }
            }
            Err(error) => return Err(error),
        }
    }
    let needed = if style.privileged { 0 } else { needed(stat.kind) };
    recorded |= metadata.mode & needed != needed;
    // `user.*` attributes of a file can be set by whoever may write to it, its owner not excepted.
    let writable = if stat.kind == Kind::File && !style.privileged { 0o200 } else { 0 };
    if !is_symlink {
        inode.set_mode(metadata.mode | needed | writable)?;
    }
    // First of the attributes: where not all fit, those of the image give way.
    if recorded {
        let meant = Override { uid: metadata.uid, gid: metadata.gid, mode: metadata.mode, node: None };
        match inode.set_xattr(owner::KEY, &meant.to_value(file_type)) {
            Ok(()) => {}
            Err(source) if is_loss(&source, owner::KEY, style) => {
                let what = Lost::Owner { uid: metadata.uid, gid: metadata.gid };
                lose(Loss { path: name.clone(), what, source });
            }
            Err(error) => return Err(error),
        }
    }
    let mut needs_shield = false;
    for (key, value) in &metadata.xattrs {
        needs_shield |= stat.kind == Kind::Directory && key.as_slice() == USER_OPAQUE;
        let stored = style.family.and_then(|family| family.escape(key));
        match inode.set_xattr(stored.as_deref().unwrap_or(key), value) {
            Ok(()) => {}
            Err(source) if is_loss(&source, key, style) => {
                lose(Loss { path: name.clone(), what: Lost::Xattr(key.clone()), source });
            }
            Err(error) => return Err(error),
        }
    }
    if let Some(family) = style.family.filter(|_| needs_shield) {
        family.shield(dir, path)?;
    }
    if metadata.mode & writable != writable {
        inode.set_mode(metadata.mode | needed)?;
    }
    inode.set_mtime(metadata.mtime)
}

/// An attribute of the image that fuse-overlayfs would obey, see [`Namespace::shield`].
const USER_OPAQUE: &[u8] = b"user.overlay.opaque";

/// Whether a refused attribute is reported and done without.
fn is_loss(error: &Error, key: &[u8], style: Style) -> bool {
    let root = style.family == Some(Namespace::Trusted);
    match error.errno() {
        // Too large for the file or the file system; a full disk is another error.
        Some(
            Errno::OPNOTSUPP | Errno::PERM | Errno::ACCESS | Errno::INVAL | Errno::RANGE | Errno::TOOBIG,
        ) => !(root && key == b"security.capability"),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fs::Timestamp;

    #[test]
    fn what_is_written_is_read_back() {
        let temp = tempfile::tempdir_in(".").unwrap();
        let dir = Dir::open_ambient(temp.path()).unwrap();
        let family = super::super::marks::tests::family(&dir);
        let root = family == Namespace::Trusted;
        let style = Style { family: Some(family), privileged: root };
        let device = DeviceNumber { major: 1, minor: 3 };
        let types = [
            FileType::File { size: 0 },
            FileType::Directory,
            FileType::Symlink(b"/no/where".to_vec()),
            FileType::Fifo,
            FileType::CharDevice(device),
        ];
        for (number, file_type) in types.into_iter().enumerate() {
            let name = number.to_string();
            let mut metadata = Metadata {
                mode: if matches!(file_type, FileType::Symlink(_)) { 0o777 } else { 0o4051 },
                uid: if root { 7 } else { 0 },
                gid: 0,
                mtime: Timestamp { seconds: -3, nanos: 999_999_999 },
                ..Metadata::default()
            };
            if matches!(file_type, FileType::File { .. } | FileType::Directory) {
                metadata.xattrs.insert(b"user.plain".to_vec(), b"\0=\n".to_vec());
                metadata.xattrs.insert(b"user.overlay.opaque".to_vec(), b"y".to_vec());
            }
            let path = LayerPath::parse(&name).unwrap();
            create(&dir, path.as_path(), &file_type).unwrap();
            let mut lose = |loss: Loss| panic!("{loss}");
            set_metadata(&dir, path.as_path(), &file_type, &metadata, style, &mut lose, &path).unwrap();
            let object = read(&dir, path.as_path(), Marks::Overlay(family)).unwrap();
            assert_eq!((object.file_type, object.metadata), (file_type, metadata));
        }
    }

    #[test]
    fn a_mode_that_was_changed_after_it_was_recorded_counts() {
        let temp = tempfile::tempdir_in(".").unwrap();
        let dir = Dir::open_ambient(temp.path()).unwrap();
        let path = Path::new("file");
        dir.create_file(path, 0o644).unwrap();
        let meant = Override { uid: 4, gid: 5, mode: 0o044, node: None };
        dir.set_xattr(path, owner::KEY, &meant.to_value(&FileType::File { size: 0 })).unwrap();
        for (on_disk, shown) in [(0o044, 0o044), (0o444, 0o044), (0o600, 0o600), (0o4044, 0o4044)] {
            dir.set_mode(path, on_disk).unwrap();
            let marks = Marks::Overlay(Namespace::User);
            let metadata = read(&dir, path, marks).unwrap().metadata;
            assert_eq!((metadata.uid, metadata.gid, metadata.mode), (4, 5, shown), "{on_disk:o}");
        }
    }

    #[test]
    fn a_record_counts_where_no_container_writes_or_where_it_is_needed() {
        let temp = tempfile::tempdir_in(".").unwrap();
        let dir = Dir::open_ambient(temp.path()).unwrap();
        let path = Path::new("file");
        dir.create_file(path, 0o600).unwrap();
        let node = Some((Kind::BlockDevice, DeviceNumber { major: 8, minor: 0 }));
        let meant = Override { uid: 4, gid: 5, mode: 0o600, node };
        let value = meant.to_value(&FileType::BlockDevice(DeviceNumber { major: 8, minor: 0 }));
        dir.set_xattr(path, owner::KEY, &value).unwrap();
        let upper = |family| Marks::Upper { family, follows: false, copied_marks: false, translates: false };
        for (marks, counts) in [
            (Marks::Both, true),
            (Marks::Overlay(Namespace::User), true),
            (upper(Namespace::Trusted), false),
            (upper(Namespace::User), owner::are_needed()),
            (Marks::Fuse, owner::are_needed()),
            (Marks::None, owner::are_needed()),
        ] {
            let object = read(&dir, path, marks).unwrap();
            assert_eq!(object.file_type != FileType::File { size: 0 }, counts, "{marks:?}");
            assert_eq!(object.metadata.uid == 4, counts, "{marks:?}");
            assert!(object.metadata.xattrs.is_empty(), "{marks:?}");
        }
    }
}
