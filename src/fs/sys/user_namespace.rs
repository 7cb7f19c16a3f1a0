//! `clone3` with `CLONE_NEWUSER`: a user namespace that nobody lives in.
//!
//! A namespace begins with a process, and a process of several threads cannot move itself into a new one. So there is a
//! child for as long as its maps are being written. It runs nothing: no program, no signal handler, no library code. It
//! shares the table of open files instead of copying it, so that no file, lock or mount of this process is held a moment
//! longer because of it; it sends no signal when it ends; and it ends with its parent.

use std::fs::File;
use std::io;
use std::os::fd::{FromRawFd, OwnedFd};

use rustix::process::{Signal, WaitId, WaitIdOptions};

/// Waits also for children that send no signal when they end.
const WALL: u32 = 0x4000_0000;

/// Makes a user namespace whose maps are written by `write_maps`, which is told the id of a process in it.
///
/// # Errors
///
/// The kernel's, where there can be no such namespace, and those of `write_maps`.
pub(crate) fn user_namespace(write_maps: impl FnOnce(u32) -> io::Result<()>) -> io::Result<OwnedFd> {
    let child = Child::new()?;
    let pid = child.pid;
    // Ended and waited for however this goes.
    let made = write_maps(pid).and_then(|()| File::open(format!("/proc/{pid}/ns/user")));
    child.end()?;
    made.map(OwnedFd::from)
}

struct Child {
    pid: u32,
    handle: OwnedFd,
}

impl Child {
    #[allow(unsafe_code)]
    fn new() -> io::Result<Self> {
        let mut handle: libc::c_int = -1;
        // SAFETY: an array of numbers, for which zeros are valid.
        let mut arguments: libc::clone_args = unsafe { std::mem::zeroed() };
        let flags = libc::CLONE_NEWUSER | libc::CLONE_FILES | libc::CLONE_PIDFD;
        arguments.flags = u64::from(flags.cast_unsigned()) | CLEAR_SIGNAL_HANDLERS;
        arguments.pidfd = (&raw mut handle).expose_provenance() as u64;
        let parent = std::process::id();
        // SAFETY: without a stack and without CLONE_VM this returns twice, like fork; the kernel reads the structure,
        // of the size that it is told, and writes the handle before it returns to the parent.
        let pid =
            unsafe { libc::syscall(libc::SYS_clone3, &raw mut arguments, size_of::<libc::clone_args>()) };
        match pid {
            -1 => Err(io::Error::last_os_error()),
            // SAFETY: the one thread of the child makes system calls and nothing else.
            0 => unsafe { sleep_until_killed(parent) },
            pid => {
                // SAFETY: the kernel has just opened it for this call and nobody else knows it.
                let handle = unsafe { OwnedFd::from_raw_fd(handle) };
                Ok(Self { pid: u32::try_from(pid).map_err(io::Error::other)?, handle })
            }
        }
    }

    fn end(self) -> io::Result<()> {
        rustix::process::pidfd_send_signal(&self.handle, Signal::KILL)?;
        let options = WaitIdOptions::EXITED | WaitIdOptions::from_bits_retain(WALL);
        rustix::io::retry_on_intr(|| {
            rustix::process::waitid(WaitId::PidFd(std::os::fd::AsFd::as_fd(&self.handle)), options)
        })?;
        Ok(())
    }
}

/// `CLONE_CLEAR_SIGHAND`: what the terminal sends to the whole group ends the child instead of running a handler in it.
const CLEAR_SIGNAL_HANDLERS: u64 = 1 << 32;

/// What the child does.
///
/// # Safety
///
/// To be called in the child alone.
#[allow(unsafe_code)]
unsafe fn sleep_until_killed(parent: u32) -> ! {
    // SAFETY: system calls without pointers, allowed after a fork.
    unsafe {
        libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL);
        // It may have died before that.
        while libc::getppid().cast_unsigned() == parent {
            libc::pause();
        }
        libc::_exit(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_namespace_outlives_the_process_that_began_it_and_has_its_maps() {
        let before = std::fs::read_dir("/proc/self/fd").unwrap().count();
        let mut process = 0;
        let made = user_namespace(|pid| {
            process = pid;
            let own = rustix::process::geteuid().as_raw();
            std::fs::write(format!("/proc/{pid}/uid_map"), format!("7 {own} 1"))
        });
        if let Err(error) = &made {
            eprintln!("SKIPPED: no user namespaces: {error}");
            return;
        }
        assert!(!std::path::Path::new(&format!("/proc/{process}")).exists());
        drop(made);
        // Other tests open files meanwhile, but not hundreds.
        assert!(std::fs::read_dir("/proc/self/fd").unwrap().count() < before + 200);
        let failed = user_namespace(|_| Err(io::Error::other("no")));
        assert_eq!(failed.unwrap_err().to_string(), "no");
    }
}
