//! A person who presses Ctrl-C: the tool ends with status 130, what it had begun is put away, and the store is as before.
//!
//! How long that takes is not asserted, but that it was not given up: the tool ends by force when it cannot end cleanly in
//! time, and then leaves its things in `staging/`.

use std::fs;
use std::io::{Read, Write};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::thread::yield_now;

use rustix::process::{Pid, Signal, kill_process};

use crate::common::image::{Compression, Layout, image};
use crate::common::privilege::{self, Privilege};
use crate::common::tar::tar;
use crate::common::{run_command, scratch};

/// The mount namespace is the test's own, so no mount outlives it.
struct Bench {
    scratch: tempfile::TempDir,
}

impl Drop for Bench {
    fn drop(&mut self) {
        run_command(Command::new("umount").args(["--lazy", "--recursive"]).arg(self.scratch.path()));
    }
}

impl Bench {
    /// A store with an image of many files that is not unpacked, and a container with a large file.
    fn new() -> Self {
        let bench = Self { scratch: scratch() };
        run_command(Command::new("mount").args(["-t", "tmpfs", "tmpfs"]).arg(bench.scratch.path()));
        let files = (0..15_000).fold(tar().dir("many"), |tar, file| tar.file(format!("many/{file}"), "some"));
        let many = image().compressed(files.finish(), Compression::Zstd).name("docker.io/library/many:1");
        fs::write(bench.path("many.tar"), Layout::of(&many).oci_archive()).unwrap();
        let base = image().layer(tar().dir("etc").file("etc/base", vec![7; 3_000_000]).finish());
        let base = Layout::of(&base.name("docker.io/library/base:1"));
        fs::write(bench.path("base.tar"), base.oci_archive()).unwrap();
        bench.must(&["load", "--on-demand", "-i", bench.path("many.tar").to_str().unwrap()]);
        bench.must(&["load", "-i", bench.path("base.tar").to_str().unwrap()]);
        bench.must(&["create", "--name", "large", "base:1"]);
        let root = String::from_utf8(bench.must(&["mount", "large"])).unwrap();
        let large = fs::File::create(PathBuf::from(root.trim_end()).join("large")).unwrap();
        large.set_len(800 << 20).unwrap();
        drop(large);
        bench.must(&["umount", "large"]);
        bench
    }

    fn path(&self, name: &str) -> PathBuf {
        self.scratch.path().join(name)
    }

    fn command(&self, words: &[&str]) -> Command {
        let mut command = privilege::plywood().expect("the feature is on, so it was built");
        command.args(["--driver", "overlay", "--root"]).arg(self.path("store")).args(words);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    fn must(&self, words: &[&str]) -> Vec<u8> {
        run_command(&mut self.command(words)).stdout
    }

    /// Takes a file out of the layer of many.
    fn damage_many(&self) {
        let layers = fs::read_dir(self.path("store/layers")).unwrap();
        let many = layers.map(|layer| layer.unwrap().path().join("tree/many")).find(|many| many.exists());
        fs::remove_file(many.unwrap().join("7")).unwrap();
    }

    /// Puts blobs there that nothing leads to: to take that many away one after the other takes its time.
    fn drop_many_blobs(&self) {
        let blobs = self.path("store/oci/blobs/sha256");
        for blob in 0..20_000 {
            fs::write(blobs.join(format!("{blob:064x}")), "").unwrap();
        }
    }

    fn has_begun(&self) -> bool {
        fs::read_dir(self.path("store/staging")).unwrap().next().is_some()
    }

    fn state(&self) -> [Vec<u8>; 2] {
        [self.must(&["images", "--json"]), self.must(&["ps", "--json"])]
    }

    /// Starts a command, does to it what brings it into the middle of its work, and interrupts it.
    fn interrupt(&self, words: &[&str], bring: impl FnOnce(&mut Child)) {
        let before = self.state();
        let mut child = self.command(words).spawn().unwrap();
        bring(&mut child);
        let pid = Pid::from_raw(i32::try_from(child.id()).unwrap()).unwrap();
        kill_process(pid, Signal::INT).unwrap();
        // What it waits for stays stalled until it has ended; waiting for it would close its input.
        let input = child.stdin.take();
        let status = child.wait().unwrap();
        drop(input);
        let mut errors = String::new();
        child.stderr.take().unwrap().read_to_string(&mut errors).unwrap();
        assert_eq!(status.code(), Some(130), "{words:?}: {status}, {errors}");
        assert!(errors.contains("interrupted"), "{words:?}: {errors}");
        let left: Vec<_> = fs::read_dir(self.path("store/staging")).unwrap().collect();
        assert!(left.is_empty(), "{words:?}: {left:?}");
        assert_eq!(self.state(), before, "{words:?}");
    }

    /// Interrupts a command that writes nothing, later and later, until that meets it at work.
    fn interrupt_soon(&self, words: &[&str]) {
        let before = self.state();
        for delay in (0..400).step_by(3) {
            let mut child = self.command(words).spawn().unwrap();
            std::thread::sleep(std::time::Duration::from_millis(delay));
            if child.try_wait().unwrap().is_none() {
                kill_process(Pid::from_raw(i32::try_from(child.id()).unwrap()).unwrap(), Signal::INT)
                    .unwrap();
            }
            let output = child.wait_with_output().unwrap();
            match output.status.code() {
                // It had not begun to listen, or was faster.
                None | Some(0) => continue,
                Some(code) => assert_eq!(code, 130, "{words:?}: {output:?}"),
            }
            assert!(String::from_utf8_lossy(&output.stderr).contains("interrupted"), "{output:?}");
            assert!(!self.has_begun(), "{words:?} left something");
            assert_eq!(self.state(), before, "{words:?}");
            return;
        }
        panic!("no interruption met {words:?} at work");
    }

    /// The same for what begins by itself.
    fn interrupt_at_work(&self, words: &[&str]) {
        self.interrupt(words, |child| {
            while !self.has_begun() && child.try_wait().unwrap().is_none() {
                yield_now();
            }
        });
    }
}

#[test]
fn an_interrupted_command_puts_everything_away() {
    privilege::under(&[Privilege::Root], |_| {
        let bench = Bench::new();
        let archive = fs::read(bench.path("base.tar")).unwrap();
        let first_half = |child: &mut Child| {
            child.stdin.as_mut().unwrap().write_all(&archive[..archive.len() / 2]).unwrap();
            while !bench.has_begun() {
                yield_now();
            }
        };
        let first_byte = |child: &mut Child| {
            child.stdout.as_mut().unwrap().read_exact(&mut [0]).unwrap();
        };
        bench.interrupt(&["load"], first_half);
        bench.interrupt(&["save", "base:1"], first_byte);
        bench.interrupt(&["export", "large"], first_byte);
        bench.interrupt(&["cp", "-", "large:/"], first_half);
        bench.interrupt(&["cp", "large:/", "-"], first_byte);
        bench.interrupt_at_work(&["load", "-i", bench.path("many.tar").to_str().unwrap()]);
        bench.interrupt_at_work(&["commit", "large", "committed:1"]);
        bench.interrupt_at_work(&["create", "--name", "new", "many:1"]);
        // Nothing is in the way of doing it.
        bench.must(&["create", "--name", "new", "many:1"]);
        bench.interrupt_soon(&["check", "--deep"]);
        bench.damage_many();
        bench.interrupt_at_work(&["repair"]);
        bench.must(&["repair"]);
        bench.must(&["check", "--deep"]);
        bench.drop_many_blobs();
        bench.interrupt_at_work(&["builder", "prune"]);
        bench.interrupt_at_work(&["gc"]);
        bench.must(&["gc"]);
        bench.must(&["check"]);
    });
}
