//! A process under a tracer that counts its file-system steps, and makes one of them fail or be the last.
//!
//! Faults come from outside, by ptrace, and not from a hook in the library, for three reasons. The kernel's interface is
//! the only place that every step passes: handles, plain files, mounts, the standard library and whatever is written next
//! without thinking of a hook. What is tested is the tool that people run, built as they build it, so that faults cost
//! nothing and cannot be switched on by accident. And a process that ends at a step ends as `kill -9` would end it, with
//! no destructor run.
//!
//! A step is a system call on something inside one directory, and every call that mounts. Steps have numbers in the order
//! in which they are entered; with one thread this is the same in each run.

use std::collections::{HashMap, HashSet};
use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use nix::errno::Errno;
use nix::sys::ptrace::{self, Options};
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;

/// What happens to a step.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Fault {
    /// It fails with this, and the next one does not.
    Once(Errno),
    /// It fails with this, and from then on every step that needs space.
    Full(Errno),
    /// The process is gone before it.
    Killed,
}

/// A system call on something inside the directory.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Step {
    /// The call and what it was made on.
    pub what: String,
    /// Whether it may need space on the disk.
    pub takes_space: bool,
}

/// A run to its end, whichever that was.
#[derive(Debug)]
pub struct Run {
    /// The exit status; `None` if a signal ended it.
    pub code: Option<i32>,
    pub errors: String,
    /// The steps until the fault, that one included.
    pub steps: Vec<Step>,
    /// Whether the fault came about.
    pub was_hit: bool,
}

/// Runs `command` with the fault `at` a step, if it gets there. What it prints goes into a file in `scratch`.
pub fn trace(command: &Command, inside: &Path, scratch: &Path, at: Option<(usize, Fault)>) -> Run {
    run(command, inside, scratch, at, &mut |_| {})
}

/// Runs `command`, and calls `meanwhile` with the number of each step before it is made.
pub fn interrupt(command: &Command, inside: &Path, scratch: &Path, meanwhile: &mut dyn FnMut(usize)) -> Run {
    run(command, inside, scratch, None, meanwhile)
}

fn run(
    command: &Command,
    inside: &Path,
    scratch: &Path,
    at: Option<(usize, Fault)>,
    meanwhile: &mut dyn FnMut(usize),
) -> Run {
    let output = scratch.join("traced-output");
    let file = File::create(&output).unwrap();
    // It waits until it is traced, and becomes the tool then.
    let mut waiting = Command::new("sh");
    waiting.args(["-c", "read -r _; exec \"$@\" </dev/null", "sh"]);
    waiting.arg(command.get_program()).args(command.get_args());
    waiting.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(file);
    for (name, value) in command.get_envs() {
        match value {
            Some(value) => waiting.env(name, value),
            None => waiting.env_remove(name),
        };
    }
    #[expect(clippy::zombie_processes, reason = "the tracer waits for it")]
    let mut child = waiting.spawn().unwrap();
    let pid = Pid::from_raw(i32::try_from(child.id()).unwrap());
    let follow = Options::PTRACE_O_TRACECLONE | Options::PTRACE_O_TRACEFORK | Options::PTRACE_O_TRACEVFORK;
    let options =
        follow | Options::PTRACE_O_TRACESYSGOOD | Options::PTRACE_O_TRACEEXEC | Options::PTRACE_O_EXITKILL;
    ptrace::seize(pid, options).unwrap();
    ptrace::interrupt(pid).unwrap();
    waitpid(pid, Some(WaitPidFlag::__WALL)).unwrap();
    ptrace::syscall(pid, None).unwrap();
    child.stdin.take().unwrap().write_all(b"\n").unwrap();

    let mut tracer = Tracer {
        main: pid,
        inside,
        at,
        steps: Vec::new(),
        is_tool: false,
        calling: HashSet::new(),
        failing: HashMap::new(),
        hit: false,
        meanwhile,
    };
    let code = tracer.follow();
    let errors = String::from_utf8_lossy(&fs::read(&output).unwrap()).into_owned();
    Run { code, errors, steps: tracer.steps, was_hit: tracer.hit }
}

struct Tracer<'a> {
    main: Pid,
    inside: &'a Path,
    at: Option<(usize, Fault)>,
    steps: Vec<Step>,
    /// Whether the shell is gone.
    is_tool: bool,
    /// Threads in a call: each stops when it enters one and when it leaves it.
    calling: HashSet<Pid>,
    /// Those in a call that was not made, with what it is to return.
    failing: HashMap<Pid, Errno>,
    hit: bool,
    /// Called before each step.
    meanwhile: &'a mut dyn FnMut(usize),
}

impl Tracer<'_> {
    fn follow(&mut self) -> Option<i32> {
        loop {
            // Only what this thread started or traces: other tests have children of their own.
            match waitpid(None, Some(WaitPidFlag::__WALL | WaitPidFlag::__WNOTHREAD)).unwrap() {
                WaitStatus::PtraceSyscall(thread) => self.at_call(thread),
                WaitStatus::PtraceEvent(thread, _, event) => {
                    self.is_tool |= event == nix::libc::PTRACE_EVENT_EXEC;
                    resume(thread, None);
                }
                WaitStatus::Stopped(thread, signal) => resume(thread, Some(signal)),
                WaitStatus::Exited(thread, code) if thread == self.main => return Some(code),
                WaitStatus::Signaled(thread, ..) if thread == self.main => return None,
                _ => {}
            }
        }
    }

    /// A thread is about to make a call, or has made one.
    fn at_call(&mut self, thread: Pid) {
        if let Err(error) = self.look(thread) {
            // Killed in between: its end is reported next.
            assert_eq!(error, Errno::ESRCH);
        }
        resume(thread, None);
    }

    fn look(&mut self, thread: Pid) -> nix::Result<()> {
        if self.calling.remove(&thread) {
            if let Some(error) = self.failing.remove(&thread) {
                let mut registers = ptrace::getregs(thread)?;
                registers.rax = (-(error as i64)).cast_unsigned();
                ptrace::setregs(thread, registers)?;
            }
            return Ok(());
        }
        self.calling.insert(thread);
        if !self.is_tool || (self.hit && !matches!(self.at, Some((_, Fault::Full(_))))) {
            return Ok(());
        }
        let mut registers = ptrace::getregs(thread)?;
        let arguments = [registers.rdi, registers.rsi, registers.rdx, registers.r10];
        let Some(step) = step(thread, registers.orig_rax, arguments, self.inside) else { return Ok(()) };
        let takes_space = step.takes_space;
        if !self.hit {
            self.steps.push(step);
            (self.meanwhile)(self.steps.len() - 1);
        }
        let error = match self.at {
            Some((_, Fault::Full(error))) if self.hit && takes_space => error,
            Some((number, fault)) if !self.hit && number + 1 == self.steps.len() => {
                self.hit = true;
                match fault {
                    Fault::Once(error) | Fault::Full(error) => error,
                    Fault::Killed => return kill(self.main, Signal::SIGKILL),
                }
            }
            _ => return Ok(()),
        };
        self.failing.insert(thread, error);
        registers.orig_rax = u64::MAX; // a call that does not exist
        ptrace::setregs(thread, registers)
    }
}

fn resume(thread: Pid, signal: Option<Signal>) {
    match ptrace::syscall(thread, signal) {
        Ok(()) | Err(Errno::ESRCH) => {}
        Err(error) => panic!("{error}"),
    }
}

/// What a call says what it is made on by.
#[derive(Clone, Copy)]
enum On {
    /// An open file.
    File,
    /// A name in an open directory.
    Name,
    /// A path.
    Path,
    /// A name in the open directory that is the second argument.
    Second,
    /// The open file that is the third argument.
    Third,
    /// Whatever it is.
    Anything,
}

/// The step that a call is, if it is one.
fn step(thread: Pid, number: u64, arguments: [u64; 4], inside: &Path) -> Option<Step> {
    let &(_, name, on, space) = CALLS.iter().find(|(call, ..)| call.cast_unsigned() == number)?;
    let target = match on {
        On::File => file(thread, arguments[0])?,
        On::Name => named(thread, arguments[0], arguments[1])?,
        On::Path => named(thread, CWD, arguments[0])?,
        On::Second => named(thread, arguments[1], arguments[2])?,
        On::Third => file(thread, arguments[2])?,
        On::Anything => inside.to_owned(),
    };
    let place = target.strip_prefix(inside).ok()?;
    let makes = !name.starts_with("openat") || opens_to_create(thread, name, arguments);
    Some(Step { what: format!("{name} {}", place.display()), takes_space: space && makes })
}

fn opens_to_create(thread: Pid, name: &str, arguments: [u64; 4]) -> bool {
    let flags = match name {
        "openat2" => {
            let mut flags = [0; 8];
            memory(thread).read_exact_at(&mut flags, arguments[2]).unwrap();
            u64::from_ne_bytes(flags)
        }
        _ => arguments[2],
    };
    flags & u64::from(nix::libc::O_CREAT.cast_unsigned()) != 0
}

const CWD: u64 = (nix::libc::AT_FDCWD as i64).cast_unsigned();

/// An open file of the process, by its path.
fn file(thread: Pid, number: u64) -> Option<PathBuf> {
    let number = number as i32;
    fs::read_link(format!("/proc/{thread}/fd/{number}")).ok()
}

fn named(thread: Pid, dir: u64, name: u64) -> Option<PathBuf> {
    if name == 0 {
        return file(thread, dir);
    }
    let name = text(thread, name)?;
    // What is asked of a handle by way of /proc is asked of the file.
    if let Ok(number) = name.strip_prefix("/proc/self/fd/") {
        return file(thread, number.to_str()?.parse().ok()?);
    }
    match dir as i32 {
        nix::libc::AT_FDCWD => Some(name),
        _ => Some(file(thread, dir)?.join(name)),
    }
}

fn memory(thread: Pid) -> File {
    File::open(format!("/proc/{thread}/mem")).unwrap()
}

/// A text in the memory of the process.
fn text(thread: Pid, address: u64) -> Option<PathBuf> {
    let memory = memory(thread);
    let mut bytes = Vec::new();
    // Never beyond the end of a page, which may be the last there is.
    while bytes.len() < 4096 {
        let from = address + bytes.len() as u64;
        let mut page = vec![0; usize::try_from(256 - from % 256).unwrap()];
        memory.read_exact_at(&mut page, from).ok()?;
        match page.iter().position(|byte| *byte == 0) {
            Some(end) => {
                bytes.extend(&page[..end]);
                return Some(String::from_utf8(bytes).ok()?.into());
            }
            None => bytes.extend(page),
        }
    }
    None
}

/// The calls that can be steps, and whether they may need space. Closing is none, as nothing can be done about its
/// failure; nor is what only makes a path for a message.
const CALLS: &[(i64, &str, On, bool)] = {
    use nix::libc::*;
    &[
        (SYS_openat, "openat", On::Name, true),
        (SYS_openat2, "openat2", On::Name, true),
        (SYS_open, "open", On::Path, true),
        (SYS_read, "read", On::File, false),
        (SYS_pread64, "pread64", On::File, false),
        (SYS_write, "write", On::File, true),
        (SYS_writev, "writev", On::File, true),
        (SYS_pwrite64, "pwrite64", On::File, true),
        (SYS_copy_file_range, "copy_file_range", On::Third, true),
        (SYS_ftruncate, "ftruncate", On::File, false),
        (SYS_fallocate, "fallocate", On::File, true),
        (SYS_lseek, "lseek", On::File, false),
        (SYS_ioctl, "ioctl", On::File, false),
        (SYS_flock, "flock", On::File, false),
        (SYS_fsync, "fsync", On::File, true),
        (SYS_fdatasync, "fdatasync", On::File, true),
        (SYS_syncfs, "syncfs", On::File, true),
        (SYS_getdents64, "getdents64", On::File, false),
        (SYS_fstat, "fstat", On::File, false),
        (SYS_newfstatat, "newfstatat", On::Name, false),
        (SYS_statx, "statx", On::Name, false),
        (SYS_fstatfs, "fstatfs", On::File, false),
        (SYS_mkdirat, "mkdirat", On::Name, true),
        (SYS_mkdir, "mkdir", On::Path, true),
        (SYS_mknodat, "mknodat", On::Name, true),
        (SYS_symlinkat, "symlinkat", On::Second, true),
        (SYS_linkat, "linkat", On::Name, true),
        (SYS_renameat, "renameat", On::Name, true),
        (SYS_renameat2, "renameat2", On::Name, true),
        (SYS_rename, "rename", On::Path, true),
        (SYS_unlinkat, "unlinkat", On::Name, false),
        (SYS_unlink, "unlink", On::Path, false),
        (SYS_rmdir, "rmdir", On::Path, false),
        (SYS_readlinkat, "readlinkat", On::Name, false),
        (SYS_fchmod, "fchmod", On::File, false),
        (SYS_chmod, "chmod", On::Path, false),
        (SYS_fchmodat, "fchmodat", On::Name, false),
        (SYS_fchown, "fchown", On::File, false),
        (SYS_fchownat, "fchownat", On::Name, false),
        (SYS_utimensat, "utimensat", On::Name, false),
        (SYS_setxattr, "setxattr", On::Path, true),
        (SYS_lsetxattr, "lsetxattr", On::Path, true),
        (SYS_fsetxattr, "fsetxattr", On::File, true),
        (SYS_getxattr, "getxattr", On::Path, false),
        (SYS_lgetxattr, "lgetxattr", On::Path, false),
        (SYS_fgetxattr, "fgetxattr", On::File, false),
        (SYS_listxattr, "listxattr", On::Path, false),
        (SYS_llistxattr, "llistxattr", On::Path, false),
        (SYS_flistxattr, "flistxattr", On::File, false),
        (SYS_fsopen, "fsopen", On::Anything, false),
        (SYS_fsconfig, "fsconfig", On::Anything, false),
        (SYS_fsmount, "fsmount", On::Anything, false),
        (SYS_move_mount, "move_mount", On::Anything, false),
        (SYS_open_tree, "open_tree", On::Anything, false),
        (SYS_umount2, "umount2", On::Anything, false),
    ]
};
