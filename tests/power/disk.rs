//! A disk that can lose its power, and the tool with a store on it.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use crate::common::{privilege, run_command};

/// What became of a command.
pub enum Outcome {
    /// It said that it was done; this is what it printed.
    Done(String),
    /// It refused, and why.
    Failed(String),
    /// The power went before it said anything.
    Cut,
}

/// A file system in a file. The mount namespace is the test's own, so nothing outlives it.
pub struct Disk {
    file: PathBuf,
    mount: PathBuf,
    boot: PathBuf,
    boots: u32,
}

impl Disk {
    pub fn new(scratch: &Path, file_system: &str) -> Self {
        let disk = Self {
            file: scratch.join("disk"),
            mount: scratch.join("mounted"),
            boot: scratch.join("boot"),
            boots: 0,
        };
        fs::File::create(&disk.file).unwrap().set_len(512 << 20).unwrap();
        fs::create_dir(&disk.mount).unwrap();
        run_command(Command::new(format!("mkfs.{file_system}")).arg("-q").arg(&disk.file));
        disk.plug_in();
        // The store asks the kernel which boot this is.
        fs::write(&disk.boot, "boot 0\n").unwrap();
        let boot_id = "/proc/sys/kernel/random/boot_id";
        run_command(Command::new("mount").arg("--bind").arg(&disk.boot).arg(boot_id));
        disk
    }

    pub fn store(&self) -> PathBuf {
        self.mount.join("store")
    }

    fn plug_in(&self) {
        run_command(Command::new("mount").args(["-o", "loop"]).arg(&self.file).arg(&self.mount));
    }

    /// From now on nothing reaches the disk.
    pub fn cut(&self) {
        run_command(Command::new("xfs_io").args(["-x", "-c", "shutdown"]).arg(&self.mount));
    }

    /// Nothing is on it any more that is needed.
    pub fn unplug(&self) {
        run_command(Command::new("umount").arg("--recursive").arg(&self.mount));
        run_command(Command::new("umount").arg("/proc/sys/kernel/random/boot_id"));
    }

    /// The machine starts again.
    pub fn restart(&mut self) {
        run_command(Command::new("umount").arg("--recursive").arg(&self.mount));
        self.plug_in();
        self.boots += 1;
        fs::write(&self.boot, format!("boot {}\n", self.boots)).unwrap();
    }

    fn command(&self, words: &[String]) -> Command {
        let mut command = privilege::plywood().expect("the feature is on, so it was built");
        command.args(["--driver", "overlay", "--root"]).arg(self.store()).args(words);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    /// What a command prints that has to succeed.
    #[track_caller]
    pub fn must(&self, words: &[&str]) -> Vec<u8> {
        let words: Vec<_> = words.iter().map(|word| (*word).to_owned()).collect();
        run_command(&mut self.command(&words)).stdout
    }

    /// Runs a command; with `patience`, the power goes when it is not done by then.
    pub fn tool(&self, words: &[String], patience: Option<Duration>) -> Outcome {
        let mut child = self.command(words).spawn().unwrap();
        if let Some(patience) = patience
            && !ends_within(&mut child, patience)
        {
            self.cut();
            child.kill().unwrap();
            child.wait().unwrap();
            return Outcome::Cut;
        }
        let Output { status, stdout, stderr } = child.wait_with_output().unwrap();
        let text = |bytes| String::from_utf8(bytes).unwrap();
        if status.success() { Outcome::Done(text(stdout)) } else { Outcome::Failed(text(stderr)) }
    }
}

/// Nothing that is run here prints more than a pipe holds.
fn ends_within(child: &mut Child, patience: Duration) -> bool {
    let begin = Instant::now();
    while begin.elapsed() < patience {
        if child.try_wait().unwrap().is_some() {
            return true;
        }
        std::thread::sleep(Duration::from_micros(200));
    }
    child.try_wait().unwrap().is_some()
}
