//! [`Override`]: what a file is to the image, where the process may not make it so on disk.
//!
//! Without the right to change owners (a user namespace with a single id, a plain user) or to make device nodes, a file
//! keeps its true owner, mode and type in an attribute, in the spelling of containers/storage:
//! `user.containers.override_stat` = `uid:gid:mode[:type]`, the mode in octal. fuse-overlayfs 1.x writes
//! `user.fuseoverlayfs.override_stat` with the file type in the mode's upper bits; that is read too.
//!
//! A record is an attribute that anybody may set who may write to the file, and no secret tells ours from others. It is
//! believed on files of this process's own user only ([`is_record`]), and in what a container wrote only where this process
//! could not have done without ([`are_needed`]): the root of a container without `CAP_MKNOD` must not have a device made by
//! who commits what it wrote.

use rustix::thread::{CapabilitySet, capabilities};

use super::marks::Marks;
use crate::fs::{DeviceNumber, FileType, Kind, in_initial_user_namespace};
use crate::whiteout::Namespace;

/// Who owns on disk what belongs to `uid:gid` in the image; `None` if that has to be recorded.
///
/// A plain user's own ids stand for root, both ways: it can make nothing that is root's, root owns nearly everything in
/// an image, and what it changes in a root is meant to be root's, too. The ids that then mean something else are
/// recorded.
pub fn on_disk(uid: u32, gid: u32) -> Option<(u32, u32)> {
    Ids::of_process().on_disk(uid, gid)
}

/// Who the host's root is on disk, in a directory that is written to through a mount which translates ids and has no
/// other for it. In the image that is root.
pub const HOST_ROOT: u32 = u32::MAX - 2;

/// The reverse of [`on_disk`], for an object without a record.
pub fn in_image(uid: u32, gid: u32) -> (u32, u32) {
    Ids::of_process().in_image(uid, gid)
}

/// Whether a record counts in a tree with `marks`, on a file that belongs to `uid` on disk.
///
/// Those that we write are on files that stayed our own: a user in a container could write one on a file of his own, and
/// have it committed as root's, and setuid. No layer has one that came with an image. In trees that somebody else writes
/// into, which the container's root does with the same user id, they count where they are needed, and never beside marks
/// that only root can make.
pub fn is_record(marks: Marks, uid: u32) -> bool {
    let in_tree = match marks {
        Marks::Both | Marks::Overlay(_) => true,
        Marks::Upper { family: Namespace::Trusted, .. } => false,
        Marks::Upper { family: Namespace::User, .. } | Marks::Fuse | Marks::None => are_needed(),
    };
    in_tree && uid == rustix::process::geteuid().as_raw()
}

/// Whether there may be something that this process cannot give to a file, so that it has to be recorded: everywhere but in
/// the initial user namespace with the capabilities to give any owner, make any device and pass any mode.
pub fn are_needed() -> bool {
    let all = CapabilitySet::CHOWN | CapabilitySet::MKNOD | CapabilitySet::DAC_OVERRIDE;
    !(in_initial_user_namespace() && capabilities(None).is_ok_and(|sets| sets.effective.contains(all)))
}

/// The ids of a process that is not root, neither on the host nor in a user namespace; asked once where many files are
/// written.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Ids(Option<(u32, u32)>);

impl Ids {
    /// Of this process, now.
    pub fn of_process() -> Self {
        let uid = rustix::process::geteuid();
        Self((!uid.is_root()).then(|| (uid.as_raw(), rustix::process::getegid().as_raw())))
    }

    /// [`in_image`] for a process with these.
    pub fn in_image(self, uid: u32, gid: u32) -> (u32, u32) {
        let Self(Some((own_uid, own_gid))) = self else { return (uid, gid) };
        (if uid == own_uid { 0 } else { uid }, if gid == own_gid { 0 } else { gid })
    }

    /// [`on_disk`] for a process with these.
    pub fn on_disk(self, uid: u32, gid: u32) -> Option<(u32, u32)> {
        let Some((own_uid, own_gid)) = self.0 else { return Some((uid, gid)) };
        let to_disk = |id, own| match id {
            0 => Some(own),
            id if id == own => None,
            id => Some(id),
        };
        Some((to_disk(uid, own_uid)?, to_disk(gid, own_gid)?))
    }
}

/// The attribute that is written.
pub const KEY: &[u8] = b"user.containers.override_stat";

/// What begins the names of fuse-overlayfs's own attributes.
pub const FUSE_PREFIX: &[u8] = b"user.fuseoverlayfs.";

/// The attribute of fuse-overlayfs 1.x.
pub const FUSE_KEY: &[u8] = b"user.fuseoverlayfs.override_stat";

/// Owner, mode and type that an image gives a file.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Override {
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Permission bits.
    pub mode: u32,
    /// The type and the device, where they are not those on disk.
    pub node: Option<(Kind, DeviceNumber)>,
}

impl Override {
    /// The value of [`KEY`] for this.
    pub fn to_value(self, kind: &FileType) -> Vec<u8> {
        let Self { uid, gid, mode, .. } = self;
        let kind = match kind {
            FileType::File { .. } => "file".to_owned(),
            FileType::Directory => "dir".to_owned(),
            FileType::Symlink(_) => "symlink".to_owned(),
            FileType::Fifo => "pipe".to_owned(),
            FileType::Socket => "socket".to_owned(),
            FileType::CharDevice(device) => format!("char-{}-{}", device.major, device.minor),
            FileType::BlockDevice(device) => format!("block-{}-{}", device.major, device.minor),
        };
        format!("{uid}:{gid}:0{mode:o}:{kind}").into_bytes()
    }

    /// Reads the value of either attribute; `None` if it is neither's.
    pub fn parse(value: &[u8]) -> Option<Self> {
        let mut parts = std::str::from_utf8(value).ok()?.split(':');
        let (uid, gid) = (parts.next()?.parse().ok()?, parts.next()?.parse().ok()?);
        let mode = u32::from_str_radix(parts.next()?, 8).ok()?;
        let node = match parts.next() {
            None => None,
            Some(kind) => {
                let mut words = kind.split('-');
                let kind = match words.next()? {
                    "char" => Some(Kind::CharDevice),
                    "block" => Some(Kind::BlockDevice),
                    "pipe" => Some(Kind::Fifo),
                    "socket" => Some(Kind::Socket),
                    _ => None,
                };
                let number = |words: &mut std::str::Split<'_, char>| {
                    words.next().map_or(Some(0), |word| word.parse().ok())
                };
                let device = DeviceNumber { major: number(&mut words)?, minor: number(&mut words)? };
                kind.map(|kind| (kind, device))
            }
        };
        Some(Self { uid, gid, mode: mode & 0o7777, node })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_reads_back_and_so_does_what_others_write() {
        let device = DeviceNumber { major: 1, minor: 3 };
        let own = Override { uid: 0, gid: 42, mode: 0o4755, node: None };
        assert_eq!(own.to_value(&FileType::File { size: 3 }), b"0:42:04755:file");
        assert_eq!(Override::parse(b"0:42:04755:file"), Some(own));
        let node = Override { node: Some((Kind::CharDevice, device)), ..own };
        assert_eq!(Override::parse(&node.to_value(&FileType::CharDevice(device))), Some(node));
        assert_eq!(Override::parse(b"5:6:644"), Some(Override { uid: 5, gid: 6, mode: 0o644, node: None }));
        assert_eq!(
            Override::parse(b"5:6:100755"),
            Some(Override { uid: 5, gid: 6, mode: 0o755, node: None })
        );
        for wrong in [&b""[..], b"1", b"1:2", b"a:b:c", b"1:2:9", b"1:2:7:char-x-1"] {
            assert_eq!(Override::parse(wrong), None);
        }
    }
}
