//! Work in progress: [`Staging`] holds it, a [`Workspace`] is one operation's share, and publishing is a rename.
//!
//! ```text
//! staging/<unique>/       one workspace; owned while its lock is held, otherwise rubbish
//!     lock
//!     pins                what the operation relies on, one line each (see `store::pins`)
//!     <number>            a file or directory on its way into the store
//!     taken-<number>      one on its way out
//!     space               see `reserve`
//! ```
//!
//! Nothing outside `staging/` is ever seen half-made: content is written here and renamed to its name once it is
//! whole. What a dead process left is told from work in progress by its lock, never by its age.

mod reserve;
mod staged;

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
use reserve::{Reserve, SPACE};
pub use staged::{ParkedDir, ParkedFile, StagedDir, StagedFile};

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
    reserve: Option<Reserve>,
}

const LOCK: &str = "lock";
/// Begins the name of what was taken out of the store and only waits to be unlinked.
const TAKEN: &str = "taken-";

impl Staging {
    /// Uses `dir`.
    pub fn new(dir: Dir) -> Self {
        Self { dir, reserve: None }
    }

    /// Uses `dir`, and what is kept in `root` for a disk that is full.
    pub fn with_reserve(dir: Dir, root: Dir) -> Self {
        Self { dir, reserve: Some(Reserve::new(root)) }
    }

    /// Makes a workspace for one operation; on a disk that is full, of what is kept for that or of what the dead left.
    ///
    /// The caller must keep a sweep from running meanwhile.
    ///
    /// # Errors
    ///
    /// [`Error`](super::Error) if it cannot be made.
    pub fn workspace(&self) -> Result<Workspace> {
        match self.new_workspace() {
            Err(full) if full.is_no_space() => match self.spare_workspace() {
                Ok(Some(spare)) => Ok(spare),
                Ok(None) => Err(full),
                Err(error) => {
                    tracing::warn!(%error, "what is kept for a full disk cannot be used");
                    Err(full)
                }
            },
            made => made,
        }
    }

    fn new_workspace(&self) -> Result<Workspace> {
        let name = unique_name()?;
        let made = self.dir.make_dir(&name, 0o700).and_then(|dir| {
            let lock = Lock::acquire(&dir, LOCK, LockMode::Exclusive)?;
            self.owned_workspace(name.clone(), dir, lock)
        });
        if made.is_err()
            && let Err(error) = self.dir.remove_all(&name)
        {
            tracing::warn!(%error, "cannot remove a staging directory; the next gc will");
        }
        made
    }

    fn owned_workspace(&self, name: String, dir: Dir, lock: Lock) -> Result<Workspace> {
        let staging = self.dir.try_clone()?;
        let reserve = self.reserve.as_ref().map(Reserve::try_clone).transpose()?;
        Ok(Workspace {
            staging,
            name,
            dir,
            lock: Some(lock),
            next: AtomicU64::new(0),
            reserve,
            is_spare: false,
        })
    }

    /// A workspace that takes neither space nor an inode: the one that is kept, or else one that a dead process left.
    fn spare_workspace(&self) -> Result<Option<Workspace>> {
        if let Some(reserve) = &self.reserve {
            let name = unique_name()?;
            if reserve.take(&self.dir, &name)?
                && let Some(spare) = self.adopt(&name)?
            {
                return Ok(Some(spare));
            }
        }
        for entry in self.dir.names()? {
            let name = String::from_utf8_lossy(&entry.name);
            // Another process may be about the same one.
            if entry.kind == Some(Kind::Directory)
                && let Some(spare) = self.adopt(&name).optional()?.flatten()
            {
                return Ok(Some(spare));
            }
        }
        Ok(None)
    }

    /// Makes the workspace `name` that of this process if it is nobody's. Nothing is left in it but its lock.
    fn adopt(&self, name: &str) -> Result<Option<Workspace>> {
        let dir = self.dir.open_dir(name)?;
        if dir.find(LOCK)?.is_none() {
            return Ok(None);
        }
        let Some(lock) = Lock::try_acquire(&dir, LOCK, LockMode::Exclusive)? else { return Ok(None) };
        let mut spare = self.owned_workspace(name.to_owned(), dir, lock)?;
        spare.is_spare = true;
        spare.clear(|name| name != LOCK.as_bytes() && name != SPACE.as_bytes())?;
        Ok(Some(spare))
    }

    /// Keeps something for a disk that is full, if there is not enough of it: so much that a file of `size` bytes can be
    /// replaced. What is missing on a disk that is full now is made when it is not.
    ///
    /// # Errors
    ///
    /// [`Error`](super::Error) if the disk fails.
    pub fn keep_reserve(&self, work: &Workspace, size: u64) -> Result<()> {
        match &self.reserve {
            None => Ok(()),
            Some(reserve) => match reserve.keep(work, size) {
                Err(error) if error.is_no_space() => Ok(()),
                done => done,
            },
        }
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
    /// What is kept for a full disk.
    reserve: Option<Reserve>,
    /// Whether this was made of it.
    is_spare: bool,
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
        Ok(StagedFile { file: self.dir.make_file(&name, 0o644)?, workspace: self, name })
    }

    /// A new empty directory.
    ///
    /// # Errors
    ///
    /// [`Error`](super::Error) if it cannot be made.
    pub fn directory(&self) -> Result<StagedDir<'_>> {
        self.directory_with(0o755)
    }

    /// A new empty directory with exactly this mode.
    ///
    /// # Errors
    ///
    /// [`Error`](super::Error) if it cannot be made.
    pub fn directory_with(&self, mode: u32) -> Result<StagedDir<'_>> {
        let name = self.fresh();
        Ok(StagedDir { dir: self.dir.make_dir(&name, mode)?, workspace: self, name })
    }

    /// Makes `content` the content of `name` in `into`, in one step: whoever reads sees the old or the new.
    ///
    /// # Errors
    ///
    /// [`Error`](super::Error) if the file system refuses; the old content is then still there, unless it was the sync of
    /// `into` that failed: the new content has its name by then.
    pub fn replace(
        &self,
        content: &[u8],
        into: &Dir,
        name: impl AsRef<Path>,
        durability: Durability,
    ) -> Result<()> {
        self.written(self.file()?, content)?.publish(into, &name, durability)?;
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

    /// Takes in the file `name` of `from`, which stays there, to be given another name.
    ///
    /// # Errors
    ///
    /// [`Error`](super::Error) if it is missing, no file, or the file system refuses.
    pub fn link_file(&self, from: &Dir, name: impl AsRef<Path>) -> Result<StagedFile<'_>> {
        let fresh = self.fresh();
        from.hard_link(name, &self.dir, &fresh)?;
        Ok(StagedFile { file: self.dir.open_file(&fresh)?, workspace: self, name: fresh })
    }

    /// The same for content that replaces longer content, to make room: on a disk that is full it is written into space
    /// that was kept for this.
    ///
    /// # Errors
    ///
    /// As [`Workspace::replace`].
    pub fn replace_at_any_price(
        &self,
        content: &[u8],
        into: &Dir,
        name: impl AsRef<Path>,
        durability: Durability,
    ) -> Result<()> {
        let full = match self.replace(content, into, &name, durability) {
            Err(error) if error.is_no_space() => error,
            done => return done,
        };
        let Some(file) = self.kept_file()? else { return Err(full) };
        let staged = self.written(StagedFile { file, workspace: self, name: SPACE.to_owned() }, content)?;
        staged.file.set_len(content.len() as u64).at_path("truncate", || staged.path())?;
        if durability == Durability::Full {
            staged.file.sync_all().at_path("sync", || staged.path())?;
        }
        // The space of the old content is kept for the next time, which needs no more than that.
        self.dir.exchange(SPACE, into, &name)?;
        if durability == Durability::Full {
            into.sync()?;
        }
        match &self.reserve {
            Some(reserve) if !self.is_spare => reserve.give_back_space(&self.dir),
            _ => Ok(()),
        }
    }

    fn written<'a>(&self, mut staged: StagedFile<'a>, content: &[u8]) -> Result<StagedFile<'a>> {
        staged.file.write_all(content).at_path("write", || staged.path())?;
        Ok(staged)
    }

    /// The file whose space was kept, in this workspace by now.
    fn kept_file(&self) -> Result<Option<File>> {
        if self.dir.find(SPACE)?.is_none() {
            let Some(reserve) = &self.reserve else { return Ok(None) };
            if !reserve.take_space(&self.dir)? {
                return Ok(None);
            }
        }
        self.dir.ensure_file(SPACE, 0o600).map(Some)
    }

    /// Takes `name` out of `from`, in one step, to be removed with this workspace.
    ///
    /// # Errors
    ///
    /// [`Error`](super::Error) if it is missing or the file system refuses.
    pub fn discard(&self, from: &Dir, name: impl AsRef<Path>) -> Result<()> {
        let take = || from.rename(&name, &self.dir, format!("{TAKEN}{}", self.fresh()));
        match take() {
            // One more name may need one more block. What was taken before is nobody's.
            Err(full) if full.is_no_space() => {
                self.clear(|name| name.starts_with(TAKEN.as_bytes()))?;
                take()
            }
            done => done,
        }
    }

    /// Removes what is called so.
    fn clear(&self, is_meant: impl Fn(&[u8]) -> bool) -> Result<()> {
        for entry in self.dir.names()?.iter().filter(|entry| is_meant(&entry.name)) {
            match entry.kind {
                Some(Kind::File) => self.dir.remove_file(OsStr::from_bytes(&entry.name))?,
                _ => self.dir.remove_all(&entry.name)?,
            }
        }
        Ok(())
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
                self.clear(|name| name != LOCK.as_bytes() && !(self.is_spare && name == SPACE.as_bytes()))?;
                if self.is_spare
                    && let Some(reserve) = &self.reserve
                    && reserve.give_back(&self.staging, &self.name)?
                {
                    return Ok(());
                }
                self.clear(|name| name == SPACE.as_bytes())?;
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

#[cfg(test)]
mod tests;
