//! [`Lock`]: an advisory lock on a file of its own.
//!
//! It belongs to the open file description (`flock(2)`), so the kernel releases it when the last handle closes, however
//! the process ends; no process id is written anywhere and nothing is left to clean up by hand. Lock files may be
//! removed by whoever holds them exclusively; a waiter then finds that its file has lost its name and starts over. So a
//! file that says something may be its own lock: whoever makes it holds it from before it has its name, and whoever wants
//! to replace or remove it holds it first.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;

use super::dir::Dir;
use super::error::{Context, Optional, Result};
use super::stat::Stat;

/// Files that can become a lock where no more can be made: removing takes one or two at a time, and gives them back.
const SPARES: [&str; 4] = ["spare0", "spare1", "spare2", "spare3"];

/// How often [`Dir::claim`] finds a shared lock before it believes that a process holds the directory.
const SEEN: u32 = 4;

/// How often [`Dir::claim`] asks again while others do the same, a millisecond apart.
const PATIENCE: u32 = 1000;

/// How much company a holder tolerates.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum LockMode {
    /// Any number of holders at a time.
    Shared,
    /// One holder and nobody else.
    Exclusive,
}

/// A held lock; dropping it releases.
#[derive(Debug)]
pub struct Lock {
    file: OwnedFd,
}

impl Lock {
    /// Waits for the lock `name` in `dir`, making its file if need be.
    ///
    /// # Errors
    ///
    /// [`super::Error`] if the file can neither be made nor opened.
    pub fn acquire(dir: &Dir, name: &str, mode: LockMode) -> Result<Self> {
        let operation = match mode {
            LockMode::Shared => FlockOperation::LockShared,
            LockMode::Exclusive => FlockOperation::LockExclusive,
        };
        Ok(Self::take(dir, name, operation)?.expect("a blocking lock is never refused for being held"))
    }

    /// Takes the lock if nobody is in the way.
    ///
    /// # Errors
    ///
    /// [`super::Error`] if the file can neither be made nor opened.
    pub fn try_acquire(dir: &Dir, name: &str, mode: LockMode) -> Result<Option<Self>> {
        Self::take(
            dir,
            name,
            match mode {
                LockMode::Shared => FlockOperation::NonBlockingLockShared,
                LockMode::Exclusive => FlockOperation::NonBlockingLockExclusive,
            },
        )
    }

    /// The lock on `file`, which has no name yet and so nobody to wait for.
    ///
    /// # Errors
    ///
    /// The kernel's, if it has no memory for it.
    pub fn of_new(file: &File) -> io::Result<Self> {
        // Locks belong to what was opened, of which this is another handle.
        let file = OwnedFd::from(file.try_clone()?);
        Self::flock(file.as_fd(), FlockOperation::NonBlockingLockExclusive)?;
        Ok(Self { file })
    }

    /// Waits for the exclusive lock on the file `name` in `dir`; `None` if there is no such file, or none any more.
    ///
    /// # Errors
    ///
    /// [`super::Error`] if the file cannot be opened.
    pub fn acquire_present(dir: &Dir, name: &str) -> Result<Option<Self>> {
        Self::take_present(dir, name, FlockOperation::LockExclusive)
    }

    /// Takes the exclusive lock on the file `name` in `dir`, if there is such a file and nobody is in the way.
    ///
    /// # Errors
    ///
    /// [`super::Error`] if the file cannot be opened.
    pub fn try_acquire_present(dir: &Dir, name: &str) -> Result<Option<Self>> {
        Self::take_present(dir, name, FlockOperation::NonBlockingLockExclusive)
    }

    /// Removes the lock file `name` in `dir` unless somebody holds it.
    ///
    /// # Errors
    ///
    /// [`super::Error`] if it cannot be removed.
    pub fn tidy(dir: &Dir, name: &str) -> Result<()> {
        match Self::try_acquire_present(dir, name)? {
            Some(_held) => dir.remove_file(name),
            None => Ok(()),
        }
    }

    /// Whether somebody holds the lock `name` in `dir`. Makes nothing: a file that is not there is held by nobody.
    ///
    /// # Errors
    ///
    /// [`super::Error`] if the file cannot be opened.
    pub fn is_held(dir: &Dir, name: &str) -> Result<bool> {
        let Some(file) = dir.open_file(name).optional()? else { return Ok(false) };
        Self::flock(file.as_fd(), FlockOperation::NonBlockingLockExclusive)
            .map(|free| !free)
            .at_path("lock", || dir.path_of(name))
    }

    /// Locks an open file; false if others are in the way of an operation that does not wait.
    fn flock(file: BorrowedFd<'_>, operation: FlockOperation) -> std::result::Result<bool, Errno> {
        loop {
            match flock(file, operation) {
                Ok(()) => return Ok(true),
                Err(Errno::INTR) => {}
                Err(Errno::WOULDBLOCK) => return Ok(false),
                Err(error) => return Err(error),
            }
        }
    }

    fn take(dir: &Dir, name: &str, operation: FlockOperation) -> Result<Option<Self>> {
        loop {
            let file = match dir.ensure_file(name, 0o600) {
                Err(full) if full.is_no_space() => match Self::use_spare(dir, name)? {
                    true => continue,
                    false => return Err(full),
                },
                file => file?,
            };
            match Self::take_file(file, dir, name, operation)? {
                Taken::Nameless => {}
                Taken::Held(lock) => return Ok(Some(lock)),
                Taken::InTheWay => return Ok(None),
            }
        }
    }

    fn take_present(dir: &Dir, name: &str, operation: FlockOperation) -> Result<Option<Self>> {
        loop {
            let Some(file) = dir.open_file(name).optional()? else { return Ok(None) };
            match Self::take_file(file, dir, name, operation)? {
                Taken::Nameless => {}
                Taken::Held(lock) => return Ok(Some(lock)),
                Taken::InTheWay => return Ok(None),
            }
        }
    }

    fn take_file(file: File, dir: &Dir, name: &str, operation: FlockOperation) -> Result<Taken> {
        let file = OwnedFd::from(file);
        if !Self::flock(file.as_fd(), operation).at_path("lock", || dir.path_of(name))? {
            return Ok(Taken::InTheWay);
        }
        let held = Stat::of(&file).at_path("stat", || dir.path_of(name))?;
        Ok(match dir.find(name)?.is_some_and(|named| named.is_same_inode(&held)) {
            true => Taken::Held(Self { file }),
            false => Taken::Nameless,
        })
    }

    /// Keeps a few empty files in `dir` of which locks can be made where no more files can be.
    ///
    /// # Errors
    ///
    /// [`super::Error`] if they cannot be made.
    pub fn keep_spares(dir: &Dir) -> Result<()> {
        SPARES.iter().try_for_each(|spare| dir.ensure_file(spare, 0o600).map(drop))
    }

    /// Whether `name` is that of a file which is kept by [`Lock::keep_spares`].
    pub fn is_spare(name: &str) -> bool {
        SPARES.contains(&name)
    }

    /// Makes the file of the lock `name` of a spare one. `false` if there is none.
    fn use_spare(dir: &Dir, name: &str) -> Result<bool> {
        for spare in SPARES {
            match dir.rename_new(spare, dir, name) {
                Err(error) if error.is_not_found() => {}
                // Somebody else has made it.
                Err(error) if error.is_exists() => return Ok(true),
                done => return done.map(|()| true),
            }
        }
        Ok(false)
    }

    /// Lets others in beside this holder: an exclusive lock becomes a shared one.
    ///
    /// # Errors
    ///
    /// The kernel's, if it has no memory for it.
    pub fn share(&self) -> io::Result<()> {
        Ok(flock(&self.file, FlockOperation::LockShared)?)
    }
}

/// What came of locking a file that was opened by its name.
enum Taken {
    Held(Lock),
    /// Others hold it.
    InTheWay,
    /// Until it was locked it had lost its name.
    Nameless,
}

impl Dir {
    /// Lets others know that this directory is being read, until this handle and all that were cloned from it are closed. It
    /// makes nothing and needs no right to write. `false` if somebody is just taking the directory away
    /// ([`Dir::hold_alone`]). Where a file system has no such locks, nobody is told.
    ///
    /// # Errors
    ///
    /// [`super::Error`] if the kernel has no memory for it.
    pub fn hold(&self) -> Result<bool> {
        self.flock_if_possible(FlockOperation::NonBlockingLockShared)
    }

    /// Whether nobody else holds this directory; nobody will, until this handle is closed.
    ///
    /// # Errors
    ///
    /// As [`Dir::hold`].
    pub fn hold_alone(&self) -> Result<bool> {
        self.flock_if_possible(FlockOperation::NonBlockingLockExclusive)
    }

    /// Holds this directory as [`Dir::hold`] does. Waits while another process finds out whether it is held.
    ///
    /// # Errors
    ///
    /// As [`Dir::hold`].
    pub fn hold_patiently(&self) -> Result<()> {
        self.flock_if_possible(FlockOperation::LockShared).map(drop)
    }

    /// Returns false if a process holds this directory. Otherwise none does, and none will until this handle is closed.
    /// This handle must not be that of a hold.
    ///
    /// # Errors
    ///
    /// As [`Dir::hold`].
    pub fn claim(&self) -> Result<bool> {
        let mut shared = 0;
        for _ in 0..PATIENCE {
            if self.flock_if_possible(FlockOperation::NonBlockingLockExclusive)? {
                return Ok(true);
            }
            // Others who ask do so with exclusive locks; only holders, and others at this line, have shared ones.
            if self.flock_if_possible(FlockOperation::NonBlockingLockShared)? {
                shared += 1;
                self.flock_if_possible(FlockOperation::NonBlockingUnlock)?;
                if shared == SEEN {
                    return Ok(false);
                }
                std::thread::yield_now();
            } else {
                std::thread::sleep(Duration::from_millis(1));
            }
        }
        Ok(false)
    }

    fn flock_if_possible(&self, operation: FlockOperation) -> Result<bool> {
        match Lock::flock(self.as_fd(), operation) {
            Err(error @ (Errno::OPNOTSUPP | Errno::NOSYS | Errno::INVAL | Errno::BADF)) => {
                tracing::debug!(%error, "directories cannot be locked here");
                Ok(true)
            }
            done => done.at_path("lock", || self.path_of("")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lock_is_exclusive_until_it_is_dropped() {
        let temp = tempfile::tempdir().unwrap();
        let dir = Dir::open_ambient(temp.path()).unwrap();
        let held = Lock::acquire(&dir, "one", LockMode::Exclusive).unwrap();
        assert!(Lock::try_acquire(&dir, "one", LockMode::Shared).unwrap().is_none());
        assert!(Lock::try_acquire(&dir, "two", LockMode::Exclusive).unwrap().is_some());
        drop(held);
        let first = Lock::acquire(&dir, "one", LockMode::Shared).unwrap();
        assert!(Lock::try_acquire(&dir, "one", LockMode::Shared).unwrap().is_some());
        assert!(Lock::try_acquire(&dir, "one", LockMode::Exclusive).unwrap().is_none());
        drop(first);
    }

    #[test]
    fn to_ask_whether_a_lock_is_held_makes_no_file() {
        let temp = tempfile::tempdir().unwrap();
        let dir = Dir::open_ambient(temp.path()).unwrap();
        assert!(!Lock::is_held(&dir, "one").unwrap());
        assert!(dir.names().unwrap().is_empty());
        let held = Lock::acquire(&dir, "one", LockMode::Shared).unwrap();
        assert!(Lock::is_held(&dir, "one").unwrap());
        drop(held);
        assert!(!Lock::is_held(&dir, "one").unwrap());
    }

    #[test]
    fn a_file_is_locked_from_before_it_has_a_name() {
        let temp = tempfile::tempdir().unwrap();
        let dir = Dir::open_ambient(temp.path()).unwrap();
        assert!(Lock::acquire_present(&dir, "name").unwrap().is_none());
        let file = dir.create_file("staged", 0o600).unwrap();
        let held = Lock::of_new(&file).unwrap();
        drop(file);
        dir.rename_new("staged", &dir, "name").unwrap();
        assert!(Lock::try_acquire_present(&dir, "name").unwrap().is_none());
        Lock::tidy(&dir, "name").unwrap();
        assert!(dir.stat("name").is_ok());
        // Whoever waits gets what has the name by then.
        std::thread::scope(|scope| {
            let waiter = scope.spawn(|| Lock::acquire_present(&dir, "name").unwrap().unwrap());
            dir.create_file("staged", 0o600).unwrap();
            dir.rename("staged", &dir, "name").unwrap();
            drop(held);
            let _held = waiter.join().unwrap();
            assert!(Lock::try_acquire_present(&dir, "name").unwrap().is_none());
        });
        Lock::tidy(&dir, "name").unwrap();
        assert!(dir.stat("name").is_err());
    }

    #[test]
    fn a_lock_on_a_removed_file_is_not_a_lock() {
        let temp = tempfile::tempdir().unwrap();
        let dir = Dir::open_ambient(temp.path()).unwrap();
        let held = Lock::acquire(&dir, "one", LockMode::Exclusive).unwrap();
        std::thread::scope(|scope| {
            let waiter = scope.spawn(|| Lock::acquire(&dir, "one", LockMode::Exclusive).unwrap());
            dir.remove_file("one").unwrap();
            drop(held);
            let _held = waiter.join().unwrap();
            assert!(Lock::try_acquire(&dir, "one", LockMode::Exclusive).unwrap().is_none());
        });
    }
}
