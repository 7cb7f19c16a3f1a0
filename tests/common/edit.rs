//! What processes do to roots, one thing at a time: drawn at random, done to any number of roots in the same way.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use proptest::prelude::*;
use rustix::fs::{AtFlags, CWD, FileType, Gid, Mode, RenameFlags, Timespec, Timestamps, Uid, XattrFlags};

use super::run_command;
use super::tree::{Kind, Tree as Snapshot, snapshot};

/// One thing that a process does to a root. Times are set, never left to the clock.
#[derive(Clone, Debug)]
pub enum Edit {
    /// Writes a new content, in place if the file is there.
    Write(String, Vec<u8>, When),
    /// Opens for writing and does nothing.
    Open(String),
    Remove(String),
    Mkdir(String),
    Symlink(String, String),
    Node(String, bool),
    Socket(String),
    Link(String, String),
    Rename(String, String),
    Exchange(String, String),
    Mode(String, u32),
    Owner(String, u32),
    Attribute(String, bool),
    Touch(String),
    /// Makes a directory and removes it again.
    Passing(String),
    /// Removes it and makes it and a directory in it again.
    Replace(String, String),
}

/// The time that a file is given after it was written.
#[derive(Clone, Copy, Debug)]
pub enum When {
    Later,
    AsBefore,
}

impl Edit {
    /// Does it; `step` makes times differ. A failed edit leaves no trace.
    pub fn apply(&self, root: &Path, step: usize) -> io::Result<()> {
        let mtime = (1_700_000_000 + i64::try_from(step).unwrap(), 5 * i64::try_from(step).unwrap());
        let parents =
            self.paths().into_iter().filter_map(|path| root.join(path).parent().map(Path::to_owned));
        let parents = parents.map(fs::canonicalize).collect::<io::Result<Vec<_>>>()?;
        let before = parents.iter().map(fs::symlink_metadata).collect::<io::Result<Vec<_>>>()?;
        let done = self.attempt(root, mtime);
        // Overlayfs touches a directory also for a rename that it then refuses.
        for (parent, before) in parents.iter().zip(before).filter(|_| done.is_err()) {
            set_mtime(parent, (before.mtime(), before.mtime_nsec()))?;
        }
        let Some(touched) = done? else { return Ok(()) };
        for path in touched.into_iter().chain(parents) {
            set_mtime(&path, mtime)?;
        }
        Ok(())
    }

    /// Does it and returns what else than its directories has a new time; `None` if not even they have.
    fn attempt(&self, root: &Path, mtime: (i64, i64)) -> io::Result<Option<Vec<PathBuf>>> {
        let at = |path: &String| root.join(path);
        let mut touched = Vec::new();
        match self {
            Self::Write(path, content, when) => {
                let path = at(path);
                let before = fs::symlink_metadata(&path).ok();
                if before.as_ref().is_some_and(|before| !before.is_file()) {
                    return Err(io::ErrorKind::AlreadyExists.into());
                }
                fs::write(&path, content)?;
                match (before, when) {
                    (Some(before), When::AsBefore) => {
                        set_mtime(&path, (before.mtime(), before.mtime_nsec()))?;
                    }
                    _ => touched.push(path),
                }
            }
            Self::Open(path) => {
                let path = at(path);
                if !fs::symlink_metadata(&path)?.is_file() {
                    return Err(io::ErrorKind::InvalidInput.into());
                }
                drop(File::options().append(true).open(path)?);
                return Ok(None);
            }
            Self::Remove(path) => {
                let path = at(path);
                match fs::symlink_metadata(&path)?.is_dir() {
                    true => fs::remove_dir_all(&path)?,
                    false => fs::remove_file(&path)?,
                }
            }
            Self::Mkdir(path) => {
                fs::create_dir(at(path))?;
                touched.push(at(path));
            }
            Self::Symlink(target, path) => {
                symlink(target, at(path))?;
                touched.push(at(path));
            }
            Self::Node(path, device) => {
                let kind = if *device { FileType::CharacterDevice } else { FileType::Fifo };
                let device = if *device { rustix::fs::makedev(1, 3) } else { 0 };
                rustix::fs::mknodat(CWD, at(path), kind, Mode::from_raw_mode(0o640), device)?;
                touched.push(at(path));
            }
            Self::Socket(path) => {
                rustix::fs::mknodat(CWD, at(path), FileType::Socket, Mode::from_raw_mode(0o600), 0)?;
                touched.push(at(path));
            }
            Self::Link(from, to) => {
                fs::hard_link(at(from), at(to))?;
            }
            Self::Rename(from, to) => {
                rename(&at(from), &at(to))?;
            }
            Self::Exchange(from, to) => {
                rustix::fs::renameat_with(CWD, at(from), CWD, at(to), RenameFlags::EXCHANGE)?;
            }
            Self::Mode(path, mode) => {
                if fs::symlink_metadata(at(path))?.is_symlink() {
                    return Err(io::ErrorKind::InvalidInput.into());
                }
                fs::set_permissions(at(path), fs::Permissions::from_mode(*mode))?;
            }
            Self::Owner(path, uid) => {
                let (uid, gid) = (Uid::from_raw(*uid), Gid::from_raw(uid / 2));
                rustix::fs::chownat(CWD, at(path), Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW)?;
            }
            Self::Attribute(path, there) => {
                let name = if path.len() % 2 == 0 { "user.some" } else { "trusted.some" };
                match there {
                    true => {
                        rustix::fs::lsetxattr(at(path), name, &mtime.0.to_be_bytes(), XattrFlags::empty())?
                    }
                    false => rustix::fs::lremovexattr(at(path), name)?,
                }
            }
            Self::Touch(path) => touched.push(at(path)),
            Self::Replace(path, inner) => {
                fs::remove_dir_all(at(path))?;
                fs::create_dir(at(path))?;
                fs::create_dir(at(path).join(inner))?;
                touched.extend([at(path).join(inner), at(path)]);
            }
            Self::Passing(path) => {
                fs::create_dir(at(path))?;
                fs::remove_dir(at(path))?;
            }
        }
        Ok(Some(touched))
    }

    /// The same on what is there now: `@7` is the seventh of all names, `@7/` the seventh directory, `@7/a` a name in it.
    pub fn resolved(&self, names: &Snapshot) -> Self {
        let all: Vec<_> = names.0.keys().skip(1).map(|path| path.to_str().unwrap()).collect();
        let directories = names.0.iter().filter(|(_, node)| node.kind == Kind::Directory);
        let directories: Vec<_> = directories.map(|(path, _)| path.to_str().unwrap()).collect();
        let mut edit = self.clone();
        for path in edit.paths_mut() {
            let Some(wish) = path.strip_prefix('@') else { continue };
            let pick = |paths: &[&str], number: &str| match paths.len() {
                0 => "nothing".to_owned(),
                count => paths[number.parse::<usize>().unwrap() % count].to_owned(),
            };
            *path = match wish.split_once('/') {
                None => pick(&all, wish),
                Some((number, "")) => pick(&directories[directories.len().min(1)..], number),
                Some((number, name)) => {
                    Path::new(&pick(&directories, number)).join(name).to_str().unwrap().to_owned()
                }
            };
        }
        edit
    }

    fn paths(&self) -> Vec<String> {
        self.clone().paths_mut().into_iter().map(|path| path.clone()).collect()
    }

    fn paths_mut(&mut self) -> Vec<&mut String> {
        match self {
            Self::Link(one, other) | Self::Rename(one, other) | Self::Exchange(one, other) => {
                vec![one, other]
            }
            Self::Write(path, ..)
            | Self::Open(path)
            | Self::Remove(path)
            | Self::Mkdir(path)
            | Self::Symlink(_, path)
            | Self::Node(path, _)
            | Self::Socket(path)
            | Self::Mode(path, _)
            | Self::Owner(path, _)
            | Self::Attribute(path, _)
            | Self::Touch(path)
            | Self::Replace(path, _)
            | Self::Passing(path) => vec![path],
        }
    }
}

/// As mv(1) does: overlayfs does not rename directories that come from below.
fn rename(from: &Path, to: &Path) -> io::Result<()> {
    if to.starts_with(from) {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    // A copy takes hard links apart, so a directory with one in it is copied everywhere or nowhere.
    let linked = fs::symlink_metadata(from)?.is_dir()
        && snapshot(from).0.keys().any(|path| {
            let metadata = fs::symlink_metadata(from.join(path)).unwrap();
            !metadata.is_dir() && metadata.nlink() > 1
        });
    let renamed = if linked { Err(io::ErrorKind::CrossesDevices.into()) } else { fs::rename(from, to) };
    match renamed {
        Err(error) if error.kind() == io::ErrorKind::CrossesDevices => {
            if fs::symlink_metadata(to).is_ok() {
                fs::remove_dir(to)?;
            }
            run_command(Command::new("cp").arg("-aT").arg(from).arg(to));
            fs::remove_dir_all(from)
        }
        done => done,
    }
}

/// Something that is there, in [`Edit::resolved`]'s spelling.
fn there() -> impl Strategy<Value = String> {
    (0..1000u32).prop_map(|number| format!("@{number}"))
}

fn a_directory() -> impl Strategy<Value = String> {
    (0..1000u32).prop_map(|number| format!("@{number}/"))
}

/// A name in a directory that is there.
fn a_name() -> impl Strategy<Value = String> {
    let names = prop::sample::select(vec!["a", "b", "c", "a-b"]);
    (0..1000u32, names).prop_map(|(number, name)| format!("@{number}/{name}"))
}

/// One edit; its names are resolved when it is its turn.
pub fn an_edit() -> impl Strategy<Value = Edit> {
    let content = prop::sample::select(vec![vec![], b"x".to_vec(), b"y".to_vec(), vec![b'z'; 70_000]]);
    let when = prop::sample::select(vec![When::Later, When::AsBefore]);
    let modes = prop::sample::select(vec![0o700, 0o644, 0o4755]);
    let names = || prop::sample::select(vec!["a", "b", "c"]);
    let either = || prop_oneof![there(), a_name()];
    prop_oneof![
        6 => (either(), content, when).prop_map(|(path, content, when)| Edit::Write(path, content, when)),
        1 => there().prop_map(Edit::Open),
        3 => there().prop_map(Edit::Remove),
        6 => a_name().prop_map(Edit::Mkdir),
        1 => (names(), a_name()).prop_map(|(target, path)| Edit::Symlink(target.to_owned(), path)),
        1 => (a_name(), any::<bool>()).prop_map(|(path, device)| Edit::Node(path, device)),
        1 => a_name().prop_map(Edit::Socket),
        2 => (there(), a_name()).prop_map(|(from, to)| Edit::Link(from, to)),
        4 => (there(), either()).prop_map(|(from, to)| Edit::Rename(from, to)),
        2 => (there(), there()).prop_map(|(from, to)| Edit::Exchange(from, to)),
        1 => (there(), modes).prop_map(|(path, mode)| Edit::Mode(path, mode)),
        1 => (there(), 0..3u32).prop_map(|(path, uid)| Edit::Owner(path, uid)),
        1 => (there(), any::<bool>()).prop_map(|(path, there)| Edit::Attribute(path, there)),
        1 => there().prop_map(Edit::Touch),
        1 => a_name().prop_map(Edit::Passing),
        2 => (a_directory(), names()).prop_map(|(path, inner)| Edit::Replace(path, inner.to_owned())),
    ]
}

/// Sets a modification time.
pub fn set_mtime(path: &Path, (seconds, nanos): (i64, i64)) -> io::Result<()> {
    let time = Timespec { tv_sec: seconds, tv_nsec: nanos };
    let times = Timestamps { last_access: time, last_modification: time };
    Ok(rustix::fs::utimensat(CWD, path, &times, AtFlags::SYMLINK_NOFOLLOW)?)
}
