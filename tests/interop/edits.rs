//! What processes in containers do to the demanding image, with times that are told.

use std::fs;
use std::os::unix::fs::{PermissionsExt, chown, symlink};
use std::path::Path;

use rustix::fs::{AtFlags, CWD, Timespec, Timestamps, XattrFlags};

use crate::sample::CAPABILITY;

/// For us to commit.
pub fn edit(root: &Path) {
    let at = |name: &str| root.join(name);
    let set = |name: &str, key: &str, value: &[u8]| {
        rustix::fs::lsetxattr(at(name), key, value, XattrFlags::empty()).unwrap();
    };
    fs::write(at("etc/motd"), "edited").unwrap();
    fs::write(at("etc/new"), "new").unwrap();
    fs::remove_dir_all(at("data")).unwrap();
    fs::create_dir(at("data")).unwrap();
    fs::write(at("data/file"), "in a new directory").unwrap();
    fs::remove_file(at("bin/su")).unwrap();
    fs::create_dir(at("bin/su")).unwrap();
    fs::set_permissions(at("home/user/note"), PermissionsExt::from_mode(0o600)).unwrap();
    chown(at("home/far"), Some(3_000_000_000), Some(200_000)).unwrap();
    set("etc/new", "user.added", b"value");
    symlink("new", at("etc/soft")).unwrap();
    fs::write(at("bin/first"), "a program with a capability and two names").unwrap();
    chown(at("bin/first"), Some(5), Some(6)).unwrap();
    fs::set_permissions(at("bin/first"), PermissionsExt::from_mode(0o750)).unwrap();
    set("bin/first", "security.capability", &CAPABILITY);
    fs::hard_link(at("bin/first"), at("bin/second")).unwrap();
    let touched =
        ["etc/motd", "etc/new", "etc/soft", "data/file", "bin/first", "data", "bin/su", "bin", "etc"];
    tell_times(root, &touched);
}

/// More of that, for others to commit.
pub fn edit_more(root: &Path) {
    let at = |name: &str| root.join(name);
    fs::remove_file(at("etc/new")).unwrap();
    fs::remove_file(at("bin/second")).unwrap();
    fs::hard_link(at("etc/motd"), at("bin/second")).unwrap();
    fs::remove_dir_all(at("data")).unwrap();
    symlink("etc", at("data")).unwrap();
    fs::remove_dir_all(at("names")).unwrap();
    fs::write(at("names"), "a file where a directory was").unwrap();
    fs::remove_dir(at("bin/su")).unwrap();
    fs::write(at("bin/su"), "a file again").unwrap();
    fs::create_dir_all(at("srv/deep/er")).unwrap();
    chown(at("srv/deep"), Some(33), Some(100_000)).unwrap();
    tell_times(root, &["bin/su", "data", "names", "srv/deep/er", "srv/deep", "srv", "bin", "etc"]);
}

/// A root from nothing, for others to make an image of.
pub fn make(root: &Path) {
    let at = |name: &str| root.join(name);
    fs::create_dir_all(at("etc/dir")).unwrap();
    fs::write(at("etc/made"), "made").unwrap();
    fs::set_permissions(at("etc/made"), PermissionsExt::from_mode(0o4711)).unwrap();
    fs::hard_link(at("etc/made"), at("etc/linked")).unwrap();
    symlink("/etc/made", at("etc/soft")).unwrap();
    rustix::fs::lsetxattr(at("etc/made"), "security.capability", &CAPABILITY, XattrFlags::empty()).unwrap();
    tell_times(root, &["etc/made", "etc/soft", "etc/dir", "etc"]);
}

fn tell_times(root: &Path, names: &[&str]) {
    let time = Timespec { tv_sec: 1_700_000_000, tv_nsec: 123_456_789 };
    let times = Timestamps { last_access: time, last_modification: time };
    for name in names {
        rustix::fs::utimensat(CWD, root.join(name), &times, AtFlags::SYMLINK_NOFOLLOW).unwrap();
    }
}
