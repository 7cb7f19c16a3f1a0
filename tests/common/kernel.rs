//! The reference: layers unpacked by GNU tar and stacked by the kernel's own overlayfs.
//!
//! Only what tar cannot do is done here: `.wh.` files become what overlayfs takes for a deletion, and directories that
//! a layer does not declare get the metadata of the layer below. Needs real root. Layers that link to a file below
//! are beyond it, because GNU tar sees one layer at a time.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use rustix::fs::{AtFlags, CWD, FileType, Gid, Mode, Timespec, Timestamps, Uid, XattrFlags};

use super::{run, run_command};

/// A root stacked by the kernel; unmounted and removed with the value.
#[derive(Debug)]
pub struct KernelRoot {
    scratch: tempfile::TempDir,
}

impl KernelRoot {
    /// Where the root is mounted, for reading and writing.
    pub fn path(&self) -> PathBuf {
        self.scratch.path().join("merged")
    }

    /// The directory that takes what is written into the root.
    pub fn upper(&self) -> PathBuf {
        self.scratch.path().join("upper")
    }

    /// The unpacked layer with this number, lowest first.
    pub fn layer(&self, index: usize) -> PathBuf {
        self.scratch.path().join(index.to_string())
    }
}

impl Drop for KernelRoot {
    fn drop(&mut self) {
        // A failure shows when the scratch directory cannot be removed; a panic here would hide the test's own.
        if let Ok(mut umount) = Command::new("umount").arg("--lazy").arg(self.path()).spawn() {
            umount.wait().ok();
        }
    }
}

/// Unpacks layer tars (uncompressed, lowest first) and mounts them on top of one another.
///
/// # Panics
///
/// If tar or the kernel refuses.
pub fn stack<T: AsRef<Path>>(layers: &[T]) -> KernelRoot {
    let root = KernelRoot { scratch: super::scratch() };
    for (index, tar) in layers.iter().enumerate() {
        let lowers: Vec<_> = (0..index).rev().map(|below| root.layer(below)).collect();
        unpack(tar.as_ref(), &root.layer(index), &lowers);
    }
    for name in ["upper", "work", "merged"] {
        fs::create_dir(root.scratch.path().join(name)).unwrap();
    }
    // An upper directory's own metadata is that of the root.
    copy_metadata(&root.layer(layers.len() - 1), &root.upper());
    // The kernel does not look whether the root of a layer is opaque: what lies below it is left out.
    let lowest = (0..layers.len()).rfind(|&index| is_opaque(&root.layer(index))).unwrap_or(0);
    // Relative names keep 120 layers within the page that the kernel has for options.
    let lowers: Vec<_> = (lowest..layers.len()).rev().map(|index| index.to_string()).collect();
    let options = format!(
        "lowerdir={},upperdir=upper,workdir=work,index=off,metacopy=off,redirect_dir=nofollow",
        lowers.join(":")
    );
    // Newer versions of mount(8) use calls that take no more than 255 bytes for one option.
    run_command(
        Command::new("mount")
            .env("LIBMOUNT_FORCE_MOUNT2", "always")
            .current_dir(root.scratch.path())
            .args(["-t", "overlay", "overlay", "-o", &options, "merged"]),
    );
    root
}

/// The same from tars in memory.
pub fn stack_bytes(layers: &[impl AsRef<[u8]>]) -> KernelRoot {
    let dir = super::scratch();
    let paths: Vec<_> = (0..layers.len()).map(|index| dir.path().join(format!("{index}.tar"))).collect();
    for (path, layer) in paths.iter().zip(layers) {
        fs::write(path, layer).unwrap();
    }
    stack(&paths)
}

/// Unpacks one tar with GNU tar, with everything that it can restore.
pub fn untar(tar: &Path, into: &Path) {
    run_command(
        Command::new("tar")
            .args(["--extract", "--preserve-permissions", "--same-owner", "--numeric-owner"])
            .args(["--xattrs", "--xattrs-include=*", "--delay-directory-restore", "--file"])
            .arg(tar)
            .arg("--directory")
            .arg(into)
            .stdin(Stdio::null()),
    );
}

fn unpack(tar: &Path, into: &Path, lowers: &[PathBuf]) {
    fs::create_dir(into).unwrap();
    untar(tar, into);
    let declared = declared(tar);
    let mut paths = vec![PathBuf::new()];
    walk(into, Path::new(""), &mut paths);
    // What only markers made, and the layers below do not have, is no directory.
    let mut absent: Vec<PathBuf> = Vec::new();
    for path in paths.iter().filter(|path| !path.as_os_str().is_empty() && is_dir(&into.join(path))) {
        let inside = || paths.iter().filter(|other| *other != path && other.starts_with(path));
        let is_marker =
            |path: &PathBuf| path.file_name().is_some_and(|name| name.as_bytes().starts_with(b".wh."));
        let is_made_by_markers = !declared.contains(path)
            && inside()
                .all(|other| is_marker(other) || is_dir(&into.join(other)) && !declared.contains(other));
        let whiteout = |path: &Path| {
            let name = [b".wh.".as_slice(), path.file_name().unwrap_or_default().as_bytes()].concat();
            path.with_file_name(std::ffi::OsString::from_vec(name))
        };
        let is_deleted = paths.contains(&whiteout(path));
        let is_hidden = path.ancestors().skip(1).any(|above| {
            paths.contains(&above.join(".wh..wh..opq"))
                || !above.as_os_str().is_empty() && paths.contains(&whiteout(above))
        });
        let is_opaque = inside().any(|other| other.file_name().is_some_and(|name| name == ".wh..wh..opq"));
        let is_below = !is_hidden && lookup(lowers, path).is_some_and(|below| is_dir(&below));
        if is_made_by_markers && (is_deleted || !is_opaque && !is_below) {
            absent.push(path.clone());
        }
    }
    let is_there = |path: &PathBuf| fs::symlink_metadata(into.join(path)).is_ok();
    let parents: Vec<_> = paths.iter().filter(|path| is_dir(&into.join(path))).cloned().collect();
    let kept: Vec<_> =
        parents.iter().map(|path| (path, fs::symlink_metadata(into.join(path)).unwrap())).collect();
    for path in absent.iter().filter(|path| is_dir(&into.join(path))) {
        fs::remove_dir_all(into.join(path)).unwrap();
    }
    for (path, metadata) in kept.into_iter().rev().filter(|(path, _)| is_there(path)) {
        set_mtime(&into.join(path), &metadata);
    }
    paths.retain(is_there);
    // Turning markers into marks changes the times of directories, which are set again at the end.
    let times: Vec<_> = paths
        .iter()
        .filter(|path| is_dir(&into.join(path)))
        .map(|path| (path.clone(), fs::symlink_metadata(into.join(path)).unwrap()))
        .collect();
    // Directories that hide what is below: with a marker in them, they are still the directory that was there.
    let (mut opaque, mut replaced) = (BTreeSet::new(), BTreeSet::new());
    for path in &paths {
        let name = path.file_name().unwrap_or_default().as_bytes();
        let Some(deleted) = name.strip_prefix(b".wh.") else { continue };
        fs::remove_file(into.join(path)).unwrap();
        let deleted = path.with_file_name(std::ffi::OsString::from_vec(deleted.to_vec()));
        if name == b".wh..wh..opq" {
            opaque.insert(path.parent().unwrap().to_owned());
        } else if is_dir(&into.join(&deleted)) {
            replaced.insert(deleted);
        } else if fs::symlink_metadata(into.join(&deleted)).is_err() && lookup(lowers, &deleted).is_some() {
            // Only where there is something to delete: the mark of a deletion of nothing would show as a ghost.
            let (kind, mode) = (FileType::CharacterDevice, Mode::empty());
            rustix::fs::mknodat(CWD, into.join(&deleted), kind, mode, 0).unwrap();
        }
    }
    for path in opaque.iter().chain(&replaced) {
        set_opaque(&into.join(path));
        // The kernel would list a deletion in there, though it cannot be looked up.
        remove_whiteouts(&into.join(path));
    }
    for (path, metadata) in times.into_iter().rev() {
        set_mtime(&into.join(&path), &metadata);
        if !declared.contains(&path) {
            let fresh = path.ancestors().any(|above| replaced.contains(above))
                || path.ancestors().skip(1).any(|above| opaque.contains(above));
            imply(&into.join(&path), lookup(if fresh { &[] } else { lowers }, &path));
        }
    }
}

/// The names that the archive has an entry for, as seen from the root.
fn declared(tar: &Path) -> BTreeSet<PathBuf> {
    let names = run("tar", ["--list", "--quoting-style=literal", "--file", tar.to_str().unwrap()]);
    if names.is_empty() {
        return BTreeSet::new();
    }
    // An entry with an empty name is the root, so only the last line break ends no name.
    let Some(names) = names.strip_suffix(b"\n") else { return BTreeSet::new() };
    names
        .split(|&byte| byte == b'\n')
        .map(|name| {
            let path = PathBuf::from(std::ffi::OsString::from_vec(name.to_vec()));
            path.components().filter(|one| matches!(one, std::path::Component::Normal(_))).collect()
        })
        .collect()
}

/// What the unpacked layers (topmost first) show at `path`, as overlayfs looks it up.
fn lookup(layers: &[PathBuf], path: &Path) -> Option<PathBuf> {
    let visible = layers.iter().position(|layer| is_opaque(layer)).map_or(layers.len(), |last| last + 1);
    let mut merged = layers[..visible].to_vec();
    for name in path {
        let mut parts = Vec::new();
        for part in merged.iter().map(|part| part.join(name)) {
            let Ok(metadata) = fs::symlink_metadata(&part) else { continue };
            if !metadata.is_dir() {
                if parts.is_empty() && !is_whiteout(&metadata) {
                    parts.push(part);
                }
                break;
            }
            let opaque =
                super::tree::xattrs(&part).get(&b"trusted.overlay.opaque"[..]) == Some(&b"y".to_vec());
            parts.push(part);
            if opaque {
                break;
            }
        }
        merged = parts;
    }
    merged.into_iter().next()
}

/// Gives a directory that the layer does not declare the metadata of the directory below, if there is one.
fn imply(target: &Path, below: Option<PathBuf>) {
    match below.filter(|below| is_dir(below)) {
        Some(below) => copy_metadata(&below, target),
        None => {
            rustix::fs::chmod(target, Mode::from_raw_mode(0o755)).unwrap();
            let epoch = Timespec { tv_sec: 0, tv_nsec: 0 };
            let times = Timestamps { last_access: epoch, last_modification: epoch };
            rustix::fs::utimensat(CWD, target, &times, AtFlags::SYMLINK_NOFOLLOW).unwrap();
        }
    }
}

fn copy_metadata(from: &Path, to: &Path) {
    let metadata = fs::symlink_metadata(from).unwrap();
    let (uid, gid) = (Uid::from_raw(metadata.uid()), Gid::from_raw(metadata.gid()));
    rustix::fs::chown(to, Some(uid), Some(gid)).unwrap();
    rustix::fs::chmod(to, Mode::from_raw_mode(metadata.mode() & 0o7777)).unwrap();
    for (name, value) in super::tree::xattrs(from) {
        if !name.starts_with(b"trusted.overlay.") {
            rustix::fs::lsetxattr(to, name.as_slice(), &value, XattrFlags::empty()).unwrap();
        }
    }
    set_mtime(to, &metadata);
}

fn set_mtime(path: &Path, metadata: &fs::Metadata) {
    let mtime = Timespec { tv_sec: metadata.mtime(), tv_nsec: metadata.mtime_nsec() };
    let times = Timestamps { last_access: mtime, last_modification: mtime };
    rustix::fs::utimensat(CWD, path, &times, AtFlags::SYMLINK_NOFOLLOW).unwrap();
}

fn is_opaque(directory: &Path) -> bool {
    super::tree::xattrs(directory).get(&b"trusted.overlay.opaque"[..]) == Some(&b"y".to_vec())
}

fn set_opaque(directory: &Path) {
    rustix::fs::lsetxattr(directory, "trusted.overlay.opaque", b"y", XattrFlags::empty()).unwrap();
}

fn remove_whiteouts(directory: &Path) {
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        let metadata = fs::symlink_metadata(&path).unwrap();
        if metadata.is_dir() {
            remove_whiteouts(&path);
        } else if metadata.rdev() == 0
            && FileType::from_raw_mode(metadata.mode()) == FileType::CharacterDevice
        {
            fs::remove_file(&path).unwrap();
        }
    }
}

fn is_whiteout(metadata: &fs::Metadata) -> bool {
    metadata.rdev() == 0 && FileType::from_raw_mode(metadata.mode()) == FileType::CharacterDevice
}

/// Everything below `root`, a directory before what it holds.
fn walk(root: &Path, path: &Path, paths: &mut Vec<PathBuf>) {
    let mut names: Vec<_> =
        fs::read_dir(root.join(path)).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    names.sort();
    for name in names {
        let path = path.join(name);
        let directory = is_dir(&root.join(&path));
        paths.push(path.clone());
        if directory {
            walk(root, &path, paths);
        }
    }
}

fn is_dir(path: &Path) -> bool {
    fs::symlink_metadata(path).is_ok_and(|metadata| metadata.is_dir())
}
