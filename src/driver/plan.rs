//! [`MountPlan`]: a root as data, before anything is mounted.
//!
//! The drivers here mount from it, and a runtime or a virtual machine that mounts by itself can do so too.

use std::borrow::Cow;
use std::ffi::OsString;
use std::ops::Deref;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::Path;

use super::Access;
use crate::fs::Dir;

/// The option that labels everything in a root for SELinux.
pub(super) const LABEL: &str = "context";

/// How to get at a root.
#[derive(Debug)]
#[non_exhaustive]
pub enum MountPlan<'a> {
    /// Mount the kernel's overlayfs.
    Overlay(OverlayPlan<'a>),
    /// Bind or use this directory.
    Directory(Dir),
}

/// A mount of overlayfs.
#[derive(Debug)]
#[non_exhaustive]
pub struct OverlayPlan<'a> {
    /// The name in the mount table.
    pub source: &'a str,
    /// What is stacked, topmost first.
    pub lowers: Vec<Lower<'a>>,
    /// Where changes go, with the kernel's scratch space; `None` for a root that cannot be changed.
    pub changes: Option<Changes>,
    /// Everything else that the file system is told: names, and values where they take one. Each is there for a
    /// reason that holds for whoever mounts.
    pub options: Vec<(&'static str, Option<Cow<'a, str>>)>,
    /// Whether setuid and setgid bits and file capabilities are ignored.
    pub nosuid: bool,
    /// Whether device nodes are dead.
    pub nodev: bool,
    /// Through which the writable directories are seen, if owners are translated. To be closed after mounting.
    #[expect(dead_code, reason = "it is held, not read")]
    pub(super) translated: Option<Dir>,
}

/// The writable part of an overlay.
#[derive(Debug)]
#[non_exhaustive]
pub struct Changes {
    /// The directory that changes go to.
    pub upper: Dir,
    /// The directory that the kernel works in.
    pub work: Dir,
}

impl Changes {
    pub(super) fn new(upper: Dir, work: Dir) -> Self {
        Self { upper, work }
    }
}

/// A directory to be stacked: a layer of the caller's, or one that the driver opened.
#[derive(Debug)]
#[non_exhaustive]
pub enum Lower<'a> {
    /// A layer.
    Layer(&'a Dir),
    /// A directory of the driver's own.
    Own(Dir),
}

impl Deref for Lower<'_> {
    type Target = Dir;

    fn deref(&self) -> &Dir {
        match self {
            Self::Layer(dir) => dir,
            Self::Own(dir) => dir,
        }
    }
}

impl OverlayPlan<'_> {
    /// What the file system type is called.
    pub const FS_TYPE: &'static str = "overlay";

    /// Whether the root can be written to.
    pub fn access(&self) -> Access {
        if self.changes.is_some() { Access::Writable } else { Access::ReadOnly }
    }

    /// The options as `mount -t overlay -o` takes them, with the true paths of the directories, escaped. A kernel takes
    /// 4095 bytes of it. Directories that are seen through a translation of owners have no paths.
    pub fn option_string(&self) -> OsString {
        OsString::from_vec(self.options_with(&|dir| dir.path_of("").into_os_string().into_vec()))
    }

    /// The option string with each directory named by `path`.
    pub(super) fn options_with(&self, path: &dyn Fn(&Dir) -> Vec<u8>) -> Vec<u8> {
        let mut text = b"lowerdir=".to_vec();
        for (number, lower) in self.lowers.iter().enumerate() {
            if number > 0 {
                text.push(b':');
            }
            escape(&path(lower), b"\\:,", &mut text);
        }
        if let Some(changes) = &self.changes {
            for (key, dir) in [("upperdir", &changes.upper), ("workdir", &changes.work)] {
                text.extend_from_slice(format!(",{key}=").as_bytes());
                escape(&path(dir), b"\\,", &mut text);
            }
        }
        for (key, value) in &self.options {
            text.push(b',');
            text.extend_from_slice(key.as_bytes());
            if let Some(value) = value {
                text.push(b'=');
                // The label of SELinux, whose categories are listed with commas.
                let quote: &[u8] = if value.contains(',') { b"\"" } else { b"" };
                text.extend_from_slice(&[quote, value.as_bytes(), quote].concat());
            }
        }
        text
    }
}

/// The path through `/proc` by which the kernel finds `dir` again; it needs no escaping.
pub(super) fn proc_path(dir: &Dir) -> Vec<u8> {
    dir.proc_path().as_path().as_os_str().as_bytes().to_vec()
}

fn escape(path: &[u8], special: &[u8], into: &mut Vec<u8>) {
    for byte in path {
        if special.contains(byte) {
            into.push(b'\\');
        }
        into.push(*byte);
    }
}

/// For messages: the first directory that belongs to the root alone.
pub(super) fn own_path(plan: &OverlayPlan<'_>) -> std::path::PathBuf {
    let own = plan
        .changes
        .as_ref()
        .map(|changes| &changes.upper)
        .or_else(|| plan.lowers.first().map(|lower| &**lower));
    own.map_or_else(|| Path::new("?").to_owned(), |dir| dir.path_of(""))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_option_string_escapes_what_overlayfs_splits_at() {
        let temp = tempfile::tempdir().unwrap();
        let dir = |name: &str| Dir::ensure_ambient(temp.path().join(name)).unwrap();
        let (one, two) = (dir("a:b,c\\d"), dir("two"));
        let plan = OverlayPlan {
            source: "plywood:x",
            lowers: vec![Lower::Layer(&one), Lower::Layer(&two)],
            changes: Some(Changes::new(dir("up,per:x"), dir("work"))),
            options: vec![
                ("index", Some("off".into())),
                ("context", Some("u:r:t:s0:c1,c2".into())),
                ("userxattr", None),
            ],
            nosuid: false,
            nodev: false,
            translated: None,
        };
        let at = temp.path().to_str().unwrap();
        assert_eq!(
            plan.option_string().to_str().unwrap(),
            format!(
                "lowerdir={at}/a\\:b\\,c\\\\d:{at}/two,upperdir={at}/up\\,per:x,workdir={at}/work,index=off,context=\"u:r:t:s0:c1,c2\",userxattr"
            )
        );
    }
}
