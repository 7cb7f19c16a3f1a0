//! Starting a program that outlives this process and is nobody's child.

use std::io;
use std::os::unix::process::CommandExt;
use std::process::Command;

/// Starts `command` in a session of its own, with no permission masked out of what it creates, and lets go of it: it
/// gets no signal of this process's terminal, and no one has to wait for its end.
///
/// When this returns, the program runs; where it failed to start, that is the error.
///
/// # Errors
///
/// The system's, if there can be no new process or the program cannot be executed.
#[allow(unsafe_code)]
pub(crate) fn spawn_detached(mut command: Command) -> io::Result<()> {
    let detach = || {
        rustix::process::setsid()?;
        rustix::process::umask(rustix::fs::Mode::empty());
        // SAFETY: this runs in the child of a fork, which has one thread and has touched nothing since. Of the two
        // processes one ends at once without running any handler, and the other goes on to execute the program.
        match unsafe { libc::fork() } {
            -1 => Err(io::Error::last_os_error()),
            0 => Ok(()),
            // SAFETY: ends the process without unwinding, as a process between fork and exec must.
            _ => unsafe { libc::_exit(0) },
        }
    };
    // SAFETY: the closure allocates nothing, takes no lock and calls only what is allowed between fork and exec: setsid,
    // umask, fork and _exit.
    unsafe { command.pre_exec(detach) };
    // The child that this process has is only the one in between, which is gone already. Whether the program could be
    // executed is told through a pipe that its child inherited.
    command.spawn()?.wait()?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_detached_program_is_no_child_of_ours_and_a_missing_one_is_an_error() {
        let temp = tempfile::tempdir().unwrap();
        let file = temp.path().join("said");
        let mut command = Command::new("/bin/sh");
        let words = "echo \"$PPID $(umask) $(cut -d ' ' -f 6 /proc/$$/stat)\" > said.new; mv said.new said";
        command.args(["-c", words]).current_dir(temp.path());
        spawn_detached(command).unwrap();
        while !file.exists() {
            std::thread::sleep(std::time::Duration::from_millis(1));
        }
        let said = std::fs::read_to_string(&file).unwrap();
        let words: Vec<_> = said.split_whitespace().collect();
        assert_ne!(words[0], std::process::id().to_string());
        assert_eq!(words[1], "0000");
        // Read as the shell read its own: the leader of this process's session may be outside of the namespace of process
        // ids that the tests run in, where it has no number but zero.
        let own = std::fs::read_to_string("/proc/self/stat").unwrap();
        assert_ne!(Some(words[2]), own.split(") ").last().and_then(|rest| rest.split(' ').nth(3)));

        let error = spawn_detached(Command::new("/no/such/program")).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::NotFound);
    }
}
