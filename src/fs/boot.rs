//! Which boot of the machine this is, and which mounted file system: what a process wrote and did not sync is there while
//! both are the same, and perhaps never again.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use rustix::fs::{AtFlags, StatxFlags, statx};
use rustix::io::Errno;

use super::dir::Dir;
use super::error::{Context, Error, Result};
use super::stat::Stat;
use super::sys;

/// `STATX_MNT_ID_UNIQUE`: the id of a mount that no other mount gets in this boot (Linux 6.8).
const UNIQUE_MOUNT_ID: StatxFlags = StatxFlags::from_bits_retain(0x4000);

/// One life of a file system in memory, from its mount to its unmount: what was written in it can be read back until it
/// ends, synced or not.
///
/// Two sessions that are equal are the same. Two that differ may still be the same where the kernel identifies only the
/// mount and not the file system behind it; a reader must then take unsynced content for lost.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Session {
    /// The boot; see [`boot_id`].
    pub boot: String,
    /// The mounted file system; see [`file_system_id`].
    pub file_system: String,
}

impl Session {
    /// Returns the present session of the file system that `dir` is on.
    ///
    /// # Errors
    ///
    /// [`Error`] if the kernel does not tell.
    pub fn of(dir: &Dir) -> Result<Self> {
        Ok(Self { boot: boot_id()?, file_system: file_system_id(dir)? })
    }
}

/// Returns an id of the mounted file system that `dir` is on, which is another after it was unmounted and mounted again.
///
/// - File systems with a directory in `/sys/fs` (ext4, xfs and others, Linux 6.9) get that name and its inode number: the
///   kernel makes the directory when it mounts the file system and gives no number twice in one boot. All bind mounts, mount
///   namespaces and containers see the same id.
/// - Others get the id of the mount, which no other mount gets in one boot (Linux 6.8), or device number and mount id.
///   Through another mount of the same file system the id is another.
///
/// # Errors
///
/// [`Error`] if the kernel tells neither.
pub fn file_system_id(dir: &Dir) -> Result<String> {
    if let Ok(name) = sys::sysfs_name(dir)
        && let Ok(found) = Dir::open_ambient("/sys/fs").and_then(|sys| sys.stat(OsStr::from_bytes(&name)))
    {
        return Ok(format!("{}:{}", String::from_utf8_lossy(&name), found.inode));
    }
    let device = Stat::of(dir).at_path("stat", || dir.path_of(""))?.device;
    for (flag, word) in [(UNIQUE_MOUNT_ID, "mount"), (StatxFlags::MNT_ID, "mount-id")] {
        match statx(dir, "", AtFlags::EMPTY_PATH, flag) {
            Ok(found) if found.stx_mask & flag.bits() != 0 => {
                return Ok(format!("{word}:{device:x}:{}", found.stx_mnt_id));
            }
            Ok(_) | Err(Errno::INVAL | Errno::NOSYS) => {}
            Err(error) => return Err(error).at_path("stat", || dir.path_of("")),
        }
    }
    let unknown = std::io::Error::other("the kernel does not identify mounts");
    Err(Error::new("identify the file system of", dir.path_of(""), unknown))
}

/// The kernel's name for the present boot, a random UUID.
///
/// # Errors
///
/// [`Error`] if the kernel does not tell, for want of `/proc` perhaps.
pub fn boot_id() -> Result<String> {
    let (dir, name) = ("/proc/sys/kernel/random", "boot_id");
    let bytes = Dir::open_ambient(dir)?.read(name, 256)?;
    let text = String::from_utf8_lossy(&bytes).trim().to_owned();
    if text.is_empty() {
        let path = Path::new(dir).join(name);
        return Err(Error::new("read", path, std::io::Error::other("it is empty")));
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_boot_keeps_its_name() {
        assert_eq!(boot_id().unwrap(), boot_id().unwrap());
    }

    #[test]
    fn a_session_is_that_of_the_file_system() {
        let temp = tempfile::tempdir_in(".").unwrap();
        let here = Dir::open_ambient(temp.path()).unwrap();
        let below = here.ensure_dir("below", 0o755).unwrap();
        assert_eq!(Session::of(&here).unwrap(), Session::of(&below).unwrap());
        let proc = Dir::open_ambient("/proc").unwrap();
        assert_ne!(Session::of(&here).unwrap(), Session::of(&proc).unwrap());
    }
}
