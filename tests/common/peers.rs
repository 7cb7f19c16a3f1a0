//! Other engines, each with a directory of its own: nothing of the machine's podman, docker or containerd is touched.
//!
//! Daemons run only as long as their value, in a mount namespace of their own, on a private socket, without network.
//! All of this needs real root.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use super::{have, is_real_root, run_command, skip};

/// How long a daemon may take to answer, or to stop.
const PATIENCE: Duration = Duration::from_secs(60);

/// podman or buildah with a storage of its own.
#[derive(Debug)]
pub struct Storage {
    program: &'static str,
    dir: tempfile::TempDir,
}

impl Storage {
    /// podman; `None`, after saying so, where it cannot run.
    pub fn podman() -> Option<Self> {
        Self::new("podman")
    }

    /// buildah; `None`, after saying so, where it cannot run.
    pub fn buildah() -> Option<Self> {
        Self::new("buildah")
    }

    fn new(program: &'static str) -> Option<Self> {
        usable(&[program]).then(|| Self { program, dir: super::scratch() })
    }

    /// The program, told to use this storage, ready for a subcommand.
    pub fn command(&self) -> Command {
        let mut command = Command::new(self.program);
        command.args(["--storage-driver", "overlay"]);
        command.arg("--root").arg(self.dir.path().join("root"));
        command.arg("--runroot").arg(self.dir.path().join("run"));
        command
    }

    /// Runs a subcommand to its end and gives what it printed, without white space around it.
    #[track_caller]
    pub fn run(&self, arguments: &[&str]) -> String {
        text(self.command().args(arguments))
    }

    /// The same in a directory: of what is called after a path, one that is relative makes a name that may be.
    #[track_caller]
    pub fn run_in(&self, dir: &Path, arguments: &[&str]) -> String {
        text(self.command().current_dir(dir).args(arguments))
    }
}

impl Drop for Storage {
    fn drop(&mut self) {
        unmount_below(self.dir.path());
    }
}

/// A daemon that stops with its value.
#[derive(Debug)]
struct Daemon {
    child: Child,
    dir: tempfile::TempDir,
}

impl Daemon {
    /// Starts a program and waits until `ready` succeeds.
    fn start(
        program: &str,
        dir: tempfile::TempDir,
        arguments: &[String],
        ready: &mut Command,
    ) -> Option<Self> {
        let log = std::fs::File::create(dir.path().join("log")).unwrap();
        let child = Command::new("setpriv")
            // Should the test die, so does the daemon.
            .args(["--pdeathsig", "TERM", "unshare", "--mount", program])
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap();
        let mut daemon = Self { child, dir };
        let begin = Instant::now();
        while !ready.output().is_ok_and(|output| output.status.success()) {
            let exited = daemon.child.try_wait().unwrap();
            if exited.is_some() || begin.elapsed() > PATIENCE {
                let log = std::fs::read_to_string(daemon.dir.path().join("log")).unwrap();
                let last: Vec<_> = log.lines().rev().take(3).collect();
                skip(format!("{program} does not start here: {exited:?} {last:?}"));
                return None;
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        Some(daemon)
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        // Asked nicely, dockerd also stops the containerd that it started.
        if let Some(pid) = Pid::from_raw(self.child.id().cast_signed()) {
            kill_process(pid, Signal::TERM).ok();
        }
        let begin = Instant::now();
        while matches!(self.child.try_wait(), Ok(None)) {
            if begin.elapsed() > PATIENCE {
                self.child.kill().ok();
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        unmount_below(self.dir.path());
    }
}

/// A docker daemon and its client.
#[derive(Debug)]
pub struct Docker {
    daemon: Daemon,
}

impl Docker {
    /// `None`, after saying so, where it cannot run.
    pub fn start() -> Option<Self> {
        if !usable(&["dockerd", "docker", "containerd", "setpriv", "unshare"]) {
            return None;
        }
        let dir = super::scratch();
        let within = |name: &str| dir.path().join(name).display().to_string();
        let arguments = [
            format!("--data-root={}", within("data")),
            format!("--exec-root={}", within("exec")),
            format!("--pidfile={}", within("pid")),
            format!("--host=unix://{}", within("socket")),
            "--iptables=false".into(),
            "--ip6tables=false".into(),
            "--bridge=none".into(),
            "--storage-driver=overlay2".into(),
        ];
        let mut ready = Command::new("docker");
        ready.args(["--host", &format!("unix://{}", within("socket")), "version"]);
        Some(Self { daemon: Daemon::start("dockerd", dir, &arguments, &mut ready)? })
    }

    /// The client, ready for a subcommand.
    pub fn command(&self) -> Command {
        let mut command = Command::new("docker");
        command.arg("--host").arg(format!("unix://{}", self.daemon.dir.path().join("socket").display()));
        command
    }

    /// Runs a subcommand to its end and gives what it printed, without white space around it.
    #[track_caller]
    pub fn run(&self, arguments: &[&str]) -> String {
        text(self.command().args(arguments))
    }
}

/// A containerd and its client `ctr`.
#[derive(Debug)]
pub struct Containerd {
    daemon: Daemon,
}

impl Containerd {
    /// `None`, after saying so, where it cannot run.
    pub fn start() -> Option<Self> {
        if !usable(&["containerd", "ctr", "setpriv", "unshare"]) {
            return None;
        }
        let dir = super::scratch();
        let within = |name: &str| dir.path().join(name).display().to_string();
        // The default configuration would read the machine's.
        std::fs::write(within("config"), "version = 2\ndisabled_plugins = [\"io.containerd.grpc.v1.cri\"]\n")
            .unwrap();
        let arguments = [
            format!("--config={}", within("config")),
            format!("--root={}", within("root")),
            format!("--state={}", within("state")),
            format!("--address={}", within("socket")),
        ];
        let mut ready = Command::new("ctr");
        ready.args(["--address", &within("socket"), "version"]);
        Some(Self { daemon: Daemon::start("containerd", dir, &arguments, &mut ready)? })
    }

    /// `ctr`, in a containerd namespace of the test's, ready for a subcommand.
    pub fn command(&self) -> Command {
        let mut command = Command::new("ctr");
        command.arg("--address").arg(self.daemon.dir.path().join("socket")).args(["--namespace", "plywood"]);
        command
    }

    /// Runs a subcommand to its end and gives what it printed, without white space around it.
    #[track_caller]
    pub fn run(&self, arguments: &[&str]) -> String {
        text(self.command().args(arguments))
    }
}

fn usable(programs: &[&str]) -> bool {
    if !is_real_root() {
        skip(format!("{} needs root in the initial user namespace", programs[0]));
        return false;
    }
    have(programs)
}

#[track_caller]
fn text(command: &mut Command) -> String {
    String::from_utf8(run_command(command).stdout).unwrap().trim().to_owned()
}

/// Takes away what an engine left mounted in its directory, the last mount first.
fn unmount_below(dir: &Path) {
    let mounts = std::fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    let points = mounts.lines().filter_map(|line| line.split(' ').nth(1)).map(PathBuf::from);
    let points: Vec<_> = points.filter(|point| point.starts_with(dir)).collect();
    for point in points.into_iter().rev() {
        rustix::mount::unmount(&point, rustix::mount::UnmountFlags::DETACH).ok();
    }
}
