//! [`Circumstances`]: everything that the outcome of a probe depends on, so that an outcome can be kept.

use std::fs::{self, read_link};
use std::io::ErrorKind;
use std::path::Path;

use rustix::fs::{fstatvfs, stat};
use serde::{Deserialize, Serialize};

use super::super::error::DriverError;
use super::super::fuse;
use super::ProbeOptions;
use crate::fs::{Context, Dir, boot_id};

/// Who asks, where, on what machine and with which programs. What was found out holds as long as these are the same; two
/// that differ in anything have nothing to say about each other.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Circumstances {
    /// The version of this crate: what is tried changes.
    version: String,
    /// The kernel, which changes no more while it runs.
    boot: String,
    /// The file systems that it knows by now: modules come and go.
    overlay_and_fuse: [bool; 2],
    user: [u32; 2],
    /// The ids that the user namespace maps, and its number, which may be given again, with that of the mount namespace.
    ids: [String; 2],
    namespaces: [String; 2],
    /// Capabilities, system calls that are filtered, and what a security module says.
    capabilities: String,
    label: String,
    /// Device, inode and mount flags of the directory.
    directory: [u64; 3],
    /// The device and the programs in userspace.
    files: Vec<Option<[u64; 6]>>,
    fuse_in_any_case: bool,
}

impl Circumstances {
    /// The present ones, for a probe with these options in `dir`.
    ///
    /// # Errors
    ///
    /// [`DriverError`] if something of it cannot be told; then nothing that was kept may be believed.
    pub fn now(dir: &Dir, options: &ProbeOptions) -> Result<Self, DriverError> {
        let own = |name: &str| Path::new("/proc/thread-self").join(name);
        let text = |name: &str| fs::read_to_string(own(name)).at("read", own(name));
        let namespace = |name: &str| {
            let link = read_link(own(name)).at("read", own(name))?;
            Ok::<_, DriverError>(link.to_string_lossy().into_owned())
        };
        let known = fs::read_to_string("/proc/filesystems").at("read", "/proc/filesystems")?;
        let knows = |name| known.split_whitespace().any(|word| word == name);
        let status = text("status")?;
        let rights = ["CapEff:", "NoNewPrivs:", "Seccomp:", "Seccomp_filters:"];
        let rights = status.lines().filter(|line| rights.iter().any(|key| line.starts_with(key)));
        let label = match fs::read(own("attr/current")) {
            Ok(label) => String::from_utf8_lossy(&label).into_owned(),
            // No security module has anything to say.
            Err(error) if matches!(error.kind(), ErrorKind::InvalidInput | ErrorKind::NotFound) => {
                String::new()
            }
            Err(error) => Err(error).at("read", own("attr/current"))?,
        };
        let place = dir.stat(".")?;
        let flags = fstatvfs(dir).at("look at", dir.path_of(""))?.f_flag.bits();
        Ok(Self {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            boot: boot_id()?,
            overlay_and_fuse: [knows("overlay"), knows("fuse")],
            user: [rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw()],
            ids: [text("uid_map")?, text("gid_map")?],
            namespaces: [namespace("ns/user")?, namespace("ns/mnt")?],
            capabilities: rights.collect::<Vec<_>>().join(" "),
            label,
            directory: [place.device, place.inode, flags],
            files: fuse::files(options.fuse_overlayfs.as_deref()).iter().map(|path| identity(path)).collect(),
            fuse_in_any_case: options.fuse_in_any_case,
        })
    }
}

/// What tells a file from another, and from itself after a change.
fn identity(path: &Path) -> Option<[u64; 6]> {
    let stat = stat(path).ok()?;
    let changed = [stat.st_ctime as u64, stat.st_ctime_nsec as u64];
    Some([stat.st_dev, stat.st_ino, stat.st_rdev, u64::from(stat.st_mode), changed[0], changed[1]])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_may_change_an_outcome_changes_the_circumstances() {
        let temp = tempfile::tempdir_in(".").unwrap();
        let dir = Dir::open_ambient(temp.path()).unwrap();
        let mut options = ProbeOptions::default();
        let first = Circumstances::now(&dir, &options).unwrap();
        assert_eq!(Circumstances::now(&dir, &options).unwrap(), first);
        let kept: Circumstances = serde_json::from_slice(&serde_json::to_vec(&first).unwrap()).unwrap();
        assert_eq!(kept, first);

        let other = Dir::ensure_ambient(temp.path().join("other")).unwrap();
        assert_ne!(Circumstances::now(&other, &options).unwrap(), first);
        options.fuse_in_any_case = true;
        assert_ne!(Circumstances::now(&dir, &options).unwrap(), first);
        let program = temp.path().join("program");
        options = ProbeOptions { fuse_overlayfs: Some(program.clone()), ..ProbeOptions::default() };
        let absent = Circumstances::now(&dir, &options).unwrap();
        assert_ne!(absent, first);
        fs::write(&program, "one").unwrap();
        let present = Circumstances::now(&dir, &options).unwrap();
        assert_ne!(present, absent);
        fs::remove_file(&program).unwrap();
        fs::write(&program, "two").unwrap();
        assert_ne!(Circumstances::now(&dir, &options).unwrap(), present);
    }
}
