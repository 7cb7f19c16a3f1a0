//! The server behind a root: starting it, knowing whether it lives, waiting for its end.
//!
//! ```text
//! <dir>/server    what the server says, and its lock: the standard error of the server holds it for as long as it lives
//! ```
//!
//! The lock belongs to the open file that the server was started with, so the kernel gives it up when the server ends,
//! however that happens. Nothing else says that a server lives: no process id is written down that could be another's
//! after a reboot. Two servers never work on one writable directory, whatever the mount table of a process shows.

use std::fs::File;
use std::io::Read;
use std::ops::ControlFlow;
use std::path::PathBuf;
use std::process::Stdio;
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::time::Duration;

use rustix::fs::{FlockOperation, Mode, OFlags, flock};
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

use super::super::error::DriverError;
use super::super::mounts::MountTable;
use super::super::point::MountPoint;
use super::super::{Unmount, mount_api};
use super::program::{Program, clean};
use crate::fs::{Context, Dir, Optional, sys};

/// The file.
pub(super) const NAME: &str = "server";

/// How long a server may take until it serves: long, because it opens every layer, perhaps on a disk that sleeps.
const START: Duration = Duration::from_secs(60);

/// How long a server may take to end after its mount: it has nothing left to write then.
const END: Duration = Duration::from_secs(60);

/// What of its words is read for a message.
const WORDS: u64 = 4096;

/// Whether a server works for the root in `dir`.
pub(super) fn is_alive(dir: &Dir) -> Result<bool, DriverError> {
    let Some(file) = dir.open_file(NAME).optional()? else { return Ok(false) };
    match flock(&file, FlockOperation::NonBlockingLockShared) {
        Ok(()) => Ok(false),
        Err(Errno::WOULDBLOCK) => Ok(true),
        Err(error) => Err(error).at("lock", dir.path_of(NAME))?,
    }
}

/// Waits until no server works for the root in `dir`.
pub(super) fn wait_for_end(dir: &Dir) -> Result<(), DriverError> {
    patiently(END, || match is_alive(dir) {
        Ok(true) => ControlFlow::Continue(()),
        done => ControlFlow::Break(done.map(drop)),
    })
    .unwrap_or_else(|| {
        let process = pid(dir).map_or_else(String::new, |pid| format!(" (process {pid})"));
        Err(failed(
            dir,
            format!("still runs{process}: somebody uses its mount where it cannot be seen from here"),
        ))
    })
}

/// Starts a server and waits until it serves at `point`. Gives its root directory.
pub(super) fn start(
    program: &Program,
    dir: &Dir,
    arguments: &[String],
    point: &MountPoint,
) -> Result<Dir, DriverError> {
    let log = claim(dir)?;
    log.set_len(0).at("empty", dir.path_of(NAME))?;
    let mut command = clean(&program.0);
    command.args(arguments).stdout(Stdio::null()).stderr(log).current_dir(dir.proc_path());
    // The command is gone with this call, and its hold on the lock with it.
    if let Err(source) = sys::spawn_detached(command) {
        // What could not become the program has still to end.
        wait_for_end(dir)?;
        let (step, path, log) = ("execute", program.0.clone(), Vec::new());
        return Err(DriverError::Kernel { step, path, log, source });
    }
    let served = wait_until_mounted(dir, point).and_then(|()| first_answer(dir, point));
    if served.is_err() {
        // Nothing stays mounted, and nobody goes on working in the directory.
        if MountTable::read()?.at(point.path()).is_some_and(super::is_served) {
            super::detach(point, Unmount::Lazy)?;
        }
        kill(dir);
        wait_for_end(dir)?;
    }
    served
}

/// Takes the lock for the server to come, once no other works for the same root.
fn claim(dir: &Dir) -> Result<File, DriverError> {
    let flags = OFlags::RDWR | OFlags::CREATE | OFlags::APPEND | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let file =
        rustix::fs::openat(dir, NAME, flags, Mode::from_raw_mode(0o600)).at("open", dir.path_of(NAME))?;
    // The umask may have taken away the right to open it again.
    rustix::fs::fchmod(&file, Mode::from_raw_mode(0o600)).at("chmod", dir.path_of(NAME))?;
    let taken = patiently(END, || match flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Err(Errno::WOULDBLOCK) => ControlFlow::Continue(()),
        done => ControlFlow::Break(done),
    });
    match taken {
        Some(done) => done.at("lock", dir.path_of(NAME))?,
        None => wait_for_end(dir)?,
    }
    Ok(file.into())
}

/// The mount appears before the server answers.
fn wait_until_mounted(dir: &Dir, point: &MountPoint) -> Result<(), DriverError> {
    let path = point.path();
    let look = || {
        // In this order: a server that ended after the first look has left its mount for the second, if it made one.
        let alive = is_alive(dir)?;
        let mounted = MountTable::read()?.at(&path).is_some_and(super::is_served);
        match (alive, mounted) {
            (true, false) => Ok(false),
            (_, true) => Ok(true),
            (false, false) => Err(failed(dir, "ended before it served".to_owned())),
        }
    };
    let done = patiently(START, || match look() {
        Ok(false) => ControlFlow::Continue(()),
        done => ControlFlow::Break(done.map(drop)),
    });
    done.unwrap_or_else(|| Err(failed(dir, format!("mounted nothing in {} s", START.as_secs()))))
}

/// Opens the root, which asks the server its first question.
fn first_answer(dir: &Dir, point: &MountPoint) -> Result<Dir, DriverError> {
    // The kernel waits for the answer without end; a server that gives none has to be killed for it.
    let (answered, wait) = channel::<()>();
    let (root, late) = std::thread::scope(|scope| {
        let watch = scope.spawn(move || {
            let late = wait.recv_timeout(START) == Err(RecvTimeoutError::Timeout);
            if late {
                kill(dir);
            }
            late
        });
        let root = point.target();
        drop(answered);
        (root, watch.join().unwrap_or(false))
    });
    match root {
        Ok(root) => Ok(root),
        Err(_) if late => Err(failed(dir, format!("gave no answer in {} s", START.as_secs()))),
        Err(error) if is_cut_off(&error) => Err(failed(dir, "ended before it gave an answer".to_owned())),
        Err(error) => Err(error.into()),
    }
}

/// Whether an error says that nobody serves a mount any more.
pub(super) fn is_cut_off(error: &crate::fs::Error) -> bool {
    matches!(error.errno(), Some(Errno::NOTCONN | Errno::CONNABORTED | Errno::NODEV))
}

/// An error about the server, with what it said.
pub(super) fn failed(dir: &Dir, what: String) -> DriverError {
    DriverError::Server { path: dir.path_of(super::MERGED), what, said: said(dir) }
}

/// The last words of a server. They are for a message: where they cannot be read, there are none.
fn said(dir: &Dir) -> Vec<String> {
    let mut text = Vec::new();
    let Ok(file) = dir.open_file(NAME) else { return Vec::new() };
    if file.take(WORDS).read_to_end(&mut text).is_err() {
        return Vec::new();
    }
    let text = String::from_utf8_lossy(&text);
    // Version 1 does not know one of the options that it gives itself.
    let lines = text
        .lines()
        .map(str::trim)
        .filter(|line| !line.is_empty() && !line.contains("argument ignored: lazytime"));
    lines.map(str::to_owned).collect()
}

/// The process id of the server, as far as `/proc` tells.
pub(super) fn pid(dir: &Dir) -> Option<u32> {
    let own = dir.stat(NAME).ok()?;
    let entries = std::fs::read_dir("/proc").ok()?.flatten();
    entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).find(|pid| {
        let stat = rustix::fs::stat(PathBuf::from(format!("/proc/{pid}/fd/2")));
        stat.is_ok_and(|stat| (stat.st_dev, stat.st_ino) == (own.device, own.inode))
    })
}

/// Kills the server, if it lives and can be found.
fn kill(dir: &Dir) {
    let Some(process) = pid(dir).and_then(|pid| Pid::from_raw(pid.try_into().ok()?)) else { return };
    let Ok(handle) = pidfd_open(process, PidfdFlags::empty()) else { return };
    // It may have ended meanwhile and the number been given to another.
    if pid(dir) != Some(process.as_raw_nonzero().get().unsigned_abs()) {
        return;
    }
    if let Err(error) = pidfd_send_signal(&handle, Signal::KILL) {
        tracing::warn!(%error, "a server that does not serve cannot be killed");
    }
}

/// Asks again and again, less and less often, until there is a result or the time is over.
fn patiently<T>(limit: Duration, mut ask: impl FnMut() -> ControlFlow<T>) -> Option<T> {
    let (mut pause, mut waited) = (Duration::from_micros(500), Duration::ZERO);
    loop {
        match ask() {
            ControlFlow::Break(result) => return Some(result),
            ControlFlow::Continue(()) if waited >= limit => return None,
            ControlFlow::Continue(()) => {}
        }
        std::thread::sleep(pause);
        waited += pause;
        pause = (pause * 5 / 4).min(Duration::from_millis(20));
    }
}

/// Shows the root at another place too.
pub(super) fn show_at(root: &Dir, at: &MountPoint) -> Result<(), DriverError> {
    let mount = mount_api::bind(root).map_err(|error| at.error("show the root at", error))?;
    at.attach(&mount)
}
