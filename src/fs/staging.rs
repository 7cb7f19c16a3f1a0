//! Work in progress: [`Staging`] holds it, a [`Workspace`] is one operation's share, and publishing is a rename.
//!
//! ```text
//! staging/<unique>/       one workspace; owned while its lock is held, otherwise rubbish
//!     lock
//!     pins                what the operation relies on, one line each (see `store::pins`)
//!     <number>            a file or directory on its way into the store, or one on its way out
//! ```
//!
//! Nothing outside `staging/` is ever seen half-made: content is written here and renamed to its name once it is
//! whole. What a dead process left is told from work in progress by its lock, never by its age.

use std::ffi::OsStr;
use std::fs::File;
use std::io::Write;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};

use super::dir::Dir;
use super::error::{Context, Optional, Result};
use super::lock::{Lock, LockMode};
use super::stat::Kind;

/// What an operation waits for before it reports success.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Durability {
    /// What is reported as done survives a power cut at the next instant.
    #[default]
    Full,
    /// The kernel writes back when it likes. A power cut may lose what was done last, or leave names without content.
    Relaxed,
}

/// The directory that workspaces are made in, on the same file system as everything they publish.
#[derive(Debug)]
pub struct Staging {
    dir: Dir,
}

const LOCK: &str = "lock";

impl Staging {
    /// Uses `dir`.
    pub fn new(dir: Dir) -> Self {
        Self { dir }
    }

    /// Makes a workspace for one operation.
    ///
    /// # Errors
    ///
    /// [`Error`](super::Error) if it cannot be made.
    pub fn workspace(&self) -> Result<Workspace> {
        let staging = self.dir.try_clone()?;
        let name = unique_name()?;
        staging.create_dir(&name, 0o700)?;
        let dir = staging.open_dir(&name)?;
        let lock = Lock::acquire(&dir, LOCK, LockMode::Exclusive)?;
        Ok(Workspace { staging, name, dir, lock: Some(lock), next: AtomicU64::new(0) })
    }

    /// The workspaces of operations that are still running, and how much else there is: it belongs to nobody and is moved
    /// into `rubbish`, or only counted.
    ///
    /// The caller must keep new workspaces from being made meanwhile.
    ///
    /// # Errors
    ///
    /// [`Error`](super::Error) if the directory cannot be read or something cannot be moved.
    pub fn sweep(&self, rubbish: &Workspace, only_count: bool) -> Result<(Vec<Dir>, u64)> {
        let (mut live, mut swept) = (Vec::new(), 0);
        for entry in self.dir.names()? {
            if entry.name == rubbish.name.as_bytes() {
                continue;
            }
            let name = OsStr::from_bytes(&entry.name);
            match self.owned(name) {
                Ok(Some(dir)) => live.push(dir),
                Ok(None) => {
                    // Its owner may be done with removing it just now.
                    let found = match only_count {
                        true => self.dir.find(name)?.is_some(),
                        false => rubbish.discard(&self.dir, name).optional()?.is_some(),
                    };
                    swept += u64::from(found);
                }
                Err(error) if error.is_not_found() => {} // it ended just now
                Err(error) => return Err(error),
            }
        }
        Ok((live, swept))
    }

    /// What lies there and belongs to nobody.
    ///
    /// # Errors
    ///
    /// [`Error`](super::Error) if the directory cannot be read.
    pub fn abandoned(&self) -> Result<Vec<Vec<u8>>> {
        let mut found = Vec::new();
        for entry in self.dir.names()? {
            match self.owned(OsStr::from_bytes(&entry.name)) {
                // A workspace in the making has no lock yet, and one that ends has none any more.
                Ok(None) => found.push(entry.name),
                Ok(Some(_)) => {}
                Err(error) if error.is_not_found() => {}
                Err(error) => return Err(error),
            }
        }
        Ok(found)
    }

    /// The directory `name` if a live process owns it.
    fn owned(&self, name: &OsStr) -> Result<Option<Dir>> {
        let dir = match self.dir.open_dir(name) {
            Err(error) if !error.is_not_found() => return Ok(None), // not even a directory
            dir => dir?,
        };
        // Its owner may be removing it just now, so nothing may be made in it.
        Ok(Lock::is_held(&dir, LOCK)?.then_some(dir))
    }
}

/// A name that nothing else has: 128 random bits in hex.
///
/// # Errors
///
/// [`Error`](super::Error) if the kernel gives no random bytes.
pub fn unique_name() -> Result<String> {
    use std::fmt::Write as _;
    let mut random = [0; 16];
    getrandom::fill(&mut random).map_err(std::io::Error::from).at("read", "/dev/urandom")?;
    let mut name = String::with_capacity(32);
    for byte in random {
        write!(name, "{byte:02x}").expect("a String takes every write");
    }
    Ok(name)
}

/// A private directory of one operation. Dropping it removes what is left in it; [`Workspace::close`] does the same and
/// reports.
#[derive(Debug)]
pub struct Workspace {
    staging: Dir,
    name: String,
    dir: Dir,
    lock: Option<Lock>,
    next: AtomicU64,
}

impl Workspace {
    /// The directory itself.
    pub fn dir(&self) -> &Dir {
        &self.dir
    }

    /// A name that nothing in this workspace has.
    fn fresh(&self) -> String {
        self.next.fetch_add(1, Ordering::Relaxed).to_string()
    }

    /// A new empty file.
    ///
    /// # Errors
    ///
    /// [`Error`](super::Error) if it cannot be made.
    pub fn file(&self) -> Result<StagedFile<'_>> {
        let name = self.fresh();
        Ok(StagedFile { file: self.dir.create_file(&name, 0o644)?, workspace: self, name })
    }

    /// A new empty directory.
    ///
    /// # Errors
    ///
    /// [`Error`](super::Error) if it cannot be made.
    pub fn directory(&self) -> Result<StagedDir<'_>> {
        self.directory_with(0o755)
    }

    /// A new empty directory with this mode; the process's umask takes bits away from it.
    ///
    /// # Errors
    ///
    /// [`Error`](super::Error) if it cannot be made.
    pub fn directory_with(&self, mode: u32) -> Result<StagedDir<'_>> {
        let name = self.fresh();
        self.dir.create_dir(&name, mode)?;
        Ok(StagedDir { dir: self.dir.open_dir(&name)?, workspace: self, name })
    }

    /// Makes `content` the content of `name` in `into`, in one step: whoever reads sees the old or the new.
    ///
    /// # Errors
    ///
    /// [`Error`](super::Error) if the file system refuses; the old content is then still there.
    pub fn replace(
        &self,
        content: &[u8],
        into: &Dir,
        name: impl AsRef<Path>,
        durability: Durability,
    ) -> Result<()> {
        let mut staged = self.file()?;
        staged.file.write_all(content).at_path("write", || self.dir.path_of(&staged.name))?;
        staged.publish(into, &name, durability)?;
        match durability {
            Durability::Full => into.sync(),
            Durability::Relaxed => Ok(()),
        }
    }

    /// Takes the directory `name` out of `from`, to be given another name.
    ///
    /// # Errors
    ///
    /// [`Error`](super::Error) if it is missing, no directory, or the file system refuses.
    pub fn adopt(&self, from: &Dir, name: impl AsRef<Path>) -> Result<StagedDir<'_>> {
        let fresh = self.fresh();
        from.rename(name, &self.dir, &fresh)?;
        Ok(StagedDir { dir: self.dir.open_dir(&fresh)?, workspace: self, name: fresh })
    }

    /// Takes `name` out of `from`, in one step, to be removed with this workspace.
    ///
    /// # Errors
    ///
    /// [`Error`](super::Error) if it is missing or the file system refuses.
    pub fn discard(&self, from: &Dir, name: impl AsRef<Path>) -> Result<()> {
        from.rename(name, &self.dir, self.fresh())
    }

    /// Removes the workspace with everything that was not published.
    ///
    /// # Errors
    ///
    /// [`Error`](super::Error) if something cannot be removed; the next collection tries again.
    pub fn close(mut self) -> Result<()> {
        self.remove()
    }

    fn remove(&mut self) -> Result<()> {
        match self.lock.take() {
            None => Ok(()),
            Some(_held) => {
                // The lock goes last: until then a sweep sees that this is somebody's.
                for entry in self.dir.names()?.iter().filter(|entry| entry.name != LOCK.as_bytes()) {
                    match entry.kind {
                        Some(Kind::File) => self.dir.remove_file(OsStr::from_bytes(&entry.name))?,
                        _ => self.dir.remove_all(&entry.name)?,
                    }
                }
                self.dir.remove_file(LOCK).optional()?;
                match self.staging.remove_dir(&self.name) {
                    Err(error) if error.is_exists() => self.staging.remove_all(&self.name),
                    done => done.optional().map(drop),
                }
            }
        }
    }
}

impl Drop for Workspace {
    fn drop(&mut self) {
        if let Err(error) = self.remove() {
            tracing::warn!(%error, source = %error.source, "cannot remove a staging directory; the next gc will");
        }
    }
}

/// A file in a workspace on its way to a name.
#[derive(Debug)]
pub struct StagedFile<'a> {
    file: File,
    workspace: &'a Workspace,
    name: String,
}

impl<'a> StagedFile<'a> {
    /// The open file.
    pub fn file(&mut self) -> &mut File {
        &mut self.file
    }

    /// Where it lies until then, for messages.
    pub fn path(&self) -> std::path::PathBuf {
        self.workspace.dir.path_of(&self.name)
    }

    /// Gives it its name, replacing what had it. The caller syncs `into` once all its names are in place.
    ///
    /// # Errors
    ///
    /// [`Error`](super::Error) if the file system refuses; nothing is visible then.
    pub fn publish(self, into: &Dir, name: impl AsRef<Path>, durability: Durability) -> Result<()> {
        if durability == Durability::Full {
            self.file.sync_all().at_path("sync", || self.path())?;
        }
        self.workspace.dir.rename(&self.name, into, name)
    }

    /// Gives it its name if that is free; otherwise it is returned. The caller syncs `into`.
    ///
    /// # Errors
    ///
    /// [`Error`](super::Error) if the file system refuses; nothing is visible then.
    pub fn publish_new(
        self,
        into: &Dir,
        name: impl AsRef<Path>,
        durability: Durability,
    ) -> Result<Option<Self>> {
        if durability == Durability::Full {
            self.file.sync_all().at_path("sync", || self.path())?;
        }
        match self.workspace.dir.rename_new(&self.name, into, name) {
            Err(error) if error.is_exists() => Ok(Some(self)),
            done => done.map(|()| None),
        }
    }

    /// Closes the file and keeps it: an operation may stage more files than a process may have open.
    pub fn park(self) -> ParkedFile<'a> {
        ParkedFile { workspace: self.workspace, name: self.name }
    }

    /// Removes it before its workspace goes.
    ///
    /// # Errors
    ///
    /// [`Error`](super::Error) if it cannot be removed.
    pub fn discard(self) -> Result<()> {
        self.workspace.dir.remove_file(&self.name)
    }
}

/// A file in a workspace that is not open at present.
#[derive(Debug)]
pub struct ParkedFile<'a> {
    workspace: &'a Workspace,
    name: String,
}

impl<'a> ParkedFile<'a> {
    /// Opens it again, for reading and for giving it its name.
    ///
    /// # Errors
    ///
    /// [`Error`](super::Error) if it cannot be opened.
    pub fn reopen(self) -> Result<StagedFile<'a>> {
        Ok(StagedFile { file: self.open()?, workspace: self.workspace, name: self.name })
    }

    /// Opens it for reading from its start.
    ///
    /// # Errors
    ///
    /// [`Error`](super::Error) if it cannot be opened.
    pub fn open(&self) -> Result<File> {
        self.workspace.dir.open_file(&self.name)
    }

    /// Where it lies, for messages.
    pub fn path(&self) -> std::path::PathBuf {
        self.workspace.dir.path_of(&self.name)
    }
}

/// A directory in a workspace on its way to a name.
#[derive(Debug)]
pub struct StagedDir<'a> {
    dir: Dir,
    workspace: &'a Workspace,
    name: String,
}

impl StagedDir<'_> {
    /// The open directory.
    pub fn dir(&self) -> &Dir {
        &self.dir
    }

    /// Gives it its name, which must be free. What is in it is not synced; the caller has done that, or means not to.
    ///
    /// # Errors
    ///
    /// [`Error`](super::Error) with [`Error::is_exists`](super::Error::is_exists) if the name is taken, otherwise if the file system refuses. The directory
    /// then stays in the workspace.
    pub fn publish(self, into: &Dir, name: impl AsRef<Path>) -> Result<Dir> {
        self.workspace.dir.rename_new(&self.name, into, name)?;
        Ok(self.dir)
    }

    /// Removes it before its workspace goes.
    ///
    /// # Errors
    ///
    /// [`Error`](super::Error) if something cannot be removed.
    pub fn discard(self) -> Result<()> {
        self.workspace.dir.remove_all(&self.name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn staging() -> (tempfile::TempDir, Dir, Staging) {
        let temp = tempfile::tempdir().unwrap();
        let dir = Dir::open_ambient(temp.path()).unwrap();
        let staging = Staging::new(dir.ensure_dir("staging", 0o700).unwrap());
        (temp, dir, staging)
    }

    #[test]
    fn what_is_not_published_is_gone_with_its_workspace() {
        let (_temp, dir, staging) = staging();
        let work = staging.workspace().unwrap();
        work.file().unwrap().publish(&dir, "kept", Durability::Full).unwrap();
        let tree = work.directory().unwrap();
        tree.dir().create_file("inside", 0o644).unwrap();
        drop(work.file().unwrap());
        drop(tree);
        drop(work);
        assert!(dir.stat("kept").is_ok());
        assert!(dir.open_dir("staging").unwrap().names().unwrap().is_empty());
    }

    #[test]
    fn a_directory_never_replaces_another() {
        let (_temp, dir, staging) = staging();
        let work = staging.workspace().unwrap();
        work.directory().unwrap().publish(&dir, "name").unwrap();
        let second = work.directory().unwrap();
        assert!(second.publish(&dir, "name").unwrap_err().is_exists());
    }

    #[test]
    fn a_sweep_tells_the_living_from_the_dead() {
        let (_temp, dir, staging) = staging();
        let live = staging.workspace().unwrap();
        let inner = dir.open_dir("staging").unwrap();
        inner.ensure_dir("of-a-dead-process", 0o700).unwrap().create_file("lock", 0o600).unwrap();
        inner.create_file("stray", 0o600).unwrap();
        let rubbish = staging.workspace().unwrap();
        let (living, swept) = staging.sweep(&rubbish, false).unwrap();
        assert_eq!((living.len(), swept), (1, 2));
        rubbish.close().unwrap();
        live.close().unwrap();
        assert!(inner.names().unwrap().is_empty());
    }

    #[test]
    fn sweeps_and_ends_of_operations_do_not_meet() {
        let (_temp, dir, staging) = staging();
        let inner = dir.open_dir("staging").unwrap();
        let ended = std::sync::atomic::AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let rubbish = staging.workspace().unwrap();
                while !ended.load(Ordering::Relaxed) {
                    staging.sweep(&rubbish, true).unwrap();
                }
                rubbish.close().unwrap();
            });
            let outcome = (0..2000).try_for_each(|_| staging.workspace()?.close());
            ended.store(true, Ordering::Relaxed);
            outcome.unwrap();
        });
        assert!(inner.names().unwrap().is_empty());
    }
}
