//! The tool with a store on a file system that is short of something.

use std::fs::{self, OpenOptions};
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_json::Value;

use crate::common::image::{Compression, Layout, image};
use crate::common::tar::tar;
use crate::common::{privilege, run_command, scratch};

/// A file system of its own, with a store on it. The mount namespace is the test's own, so nothing outlives it.
pub struct Machine {
    scratch: tempfile::TempDir,
    /// Something to put around the tool, such as `prlimit`.
    pub around: Vec<String>,
}

impl Machine {
    /// One in memory, mounted with these options.
    pub fn in_memory(options: &str) -> Self {
        let machine = Self { scratch: scratch(), around: Vec::new() };
        fs::create_dir(machine.disk()).unwrap();
        run_command(Command::new("mount").args(["-t", "tmpfs", "-o", options, "tmpfs"]).arg(machine.disk()));
        machine
    }

    /// A small one in a file, made by `mkfs` with these options and mounted with those.
    pub fn on_disk(megabytes: u64, mkfs: &[&str], options: &str) -> Self {
        let machine = Self { scratch: scratch(), around: Vec::new() };
        fs::create_dir(machine.disk()).unwrap();
        let file = machine.path("image");
        fs::File::create(&file).unwrap().set_len(megabytes << 20).unwrap();
        run_command(Command::new(mkfs[0]).args(&mkfs[1..]).arg("-q").arg(&file));
        run_command(Command::new("mount").args(["-o", options]).arg(file).arg(machine.disk()));
        machine
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.scratch.path().join(name)
    }

    /// Where the file system is mounted.
    pub fn disk(&self) -> PathBuf {
        self.path("disk")
    }

    pub fn store(&self) -> PathBuf {
        self.disk().join("store")
    }

    pub fn remount(&self, options: &str) {
        run_command(Command::new("mount").args(["-o", &format!("remount,{options}")]).arg(self.disk()));
    }

    pub fn run(&self, words: &[&str]) -> Output {
        let tool = privilege::plywood().expect("the feature is on, so it was built");
        let mut line = self.around.clone();
        line.push(tool.get_program().to_str().unwrap().to_owned());
        let mut command = Command::new(&line[0]);
        command.args(&line[1..]).args(["--json", "--root"]).arg(self.store()).args(words);
        command.env_remove("PLYWOOD_ROOT").env_remove("PLYWOOD_DRIVER").env_remove("SOURCE_DATE_EPOCH");
        command.output().unwrap()
    }

    /// A command that has to succeed.
    #[track_caller]
    pub fn must(&self, words: &[&str]) -> Value {
        self.attempt(words).unwrap_or_else(|error| panic!("{words:?}: {error}"))
    }

    /// A command that may fail: what it prints, or the error that it ends with.
    #[track_caller]
    pub fn attempt(&self, words: &[&str]) -> Result<Value, Value> {
        let output = self.run(words);
        let errors = String::from_utf8(output.stderr).unwrap();
        if output.status.success() {
            // Some print nothing.
            return Ok(serde_json::from_slice(&output.stdout).unwrap_or(Value::Null));
        }
        assert_eq!(output.status.code(), Some(1), "{words:?}: {}\n{errors}", output.status);
        let error: Value = serde_json::from_str(&errors).unwrap_or_else(|_| panic!("{words:?}: {errors}"));
        Err(error)
    }

    /// A command that fails with one of these words, and names a place on the disk.
    #[track_caller]
    pub fn refused(&self, words: &[&str], kinds: &[&str]) -> Value {
        let error = match self.attempt(words) {
            Err(error) => error,
            Ok(printed) => panic!("{words:?} worked: {printed}"),
        };
        self.assert_named(words, &error, kinds);
        error
    }

    /// Whether an error names what is short, and where.
    #[track_caller]
    pub fn assert_named(&self, words: &[&str], error: &Value, kinds: &[&str]) {
        assert!(kinds.contains(&error["kind"].as_str().unwrap()), "{words:?}: {error}");
        let message = error["error"].as_str().unwrap();
        assert!(message.contains(self.disk().to_str().unwrap()), "{words:?}: {error}");
    }

    /// Writes an archive of one image of `layers` layers, and gives its path.
    pub fn archive(&self, name: &str, layers: usize) -> String {
        let mut spec = image().name(&format!("docker.io/library/{name}"));
        for number in 0..layers {
            let files = (0..12).fold(tar().dir(format!("dir-{number}")), |tar, file| {
                tar.file(format!("dir-{number}/{file}"), format!("{name} {number} {file} ").repeat(400))
            });
            let compression = if number % 2 == 0 { Compression::Gzip } else { Compression::None };
            spec = spec.compressed(files.finish(), compression);
        }
        let path = self.path(&format!("{}.tar", name.replace(':', "-")));
        fs::write(&path, Layout::of(&spec).oci_archive()).unwrap();
        path.to_str().unwrap().to_owned()
    }

    /// Makes a container and writes into its root.
    pub fn edited(&self, name: &str, image: &str) {
        self.must(&["create", "--name", name, image]);
        let root = self.must(&["mount", name]);
        let root = Path::new(root["path"].as_str().unwrap());
        fs::write(root.join("edited"), vec![b'e'; 40_000]).unwrap();
        self.must(&["umount", name]);
    }

    /// Takes every block that is left, to the last.
    pub fn fill(&self) {
        let full = self.disk().join("full");
        let mut file = OpenOptions::new().create(true).append(true).open(&full).unwrap();
        let mut piece = 1 << 20;
        while piece >= 512 {
            match file.write(&vec![1; piece]) {
                Ok(_) => {}
                Err(error) if matches!(error.kind(), ErrorKind::StorageFull | ErrorKind::QuotaExceeded) => {
                    piece /= 2;
                }
                Err(error) => panic!("{error}"),
            }
        }
        // Blocks that were promised are given now, and what that frees is taken as well.
        match file.sync_all() {
            Ok(()) => {}
            Err(error) => assert_eq!(error.kind(), ErrorKind::StorageFull),
        }
        // Directories with room for names would be too easy. A file system in memory has always room for them.
        for number in 0..64 {
            match fs::create_dir(self.disk().join(format!("full-{number}"))) {
                Err(error) if error.kind() != ErrorKind::AlreadyExists => return,
                _ => {}
            }
        }
    }

    /// Takes every inode that is left.
    pub fn fill_inodes(&self) {
        for number in 0.. {
            let made = fs::File::create(self.disk().join(format!("inode-{number}")));
            if let Err(error) = made {
                assert_eq!(error.kind(), ErrorKind::StorageFull);
                return;
            }
        }
    }

    /// What was taken is given back.
    pub fn empty(&self) {
        for entry in fs::read_dir(self.disk()).unwrap() {
            let path = entry.unwrap().path();
            let name = path.file_name().unwrap().to_str().unwrap().to_owned();
            if name.starts_with("full-") {
                fs::remove_dir(path).unwrap();
            } else if name == "full" || name.starts_with("inode-") {
                fs::remove_file(path).unwrap();
            }
        }
    }

    /// Everything is as it should be, and nothing is left of what failed.
    #[track_caller]
    pub fn assert_sound(&self) {
        let report = self.must(&["check", "--deep"]);
        assert_eq!(report["damages"].as_array().unwrap().len(), 0, "{report}");
        let left: Vec<_> = fs::read_dir(self.store().join("staging")).unwrap().collect();
        assert!(left.is_empty(), "{left:?}");
    }

    /// The names of all images and containers.
    pub fn names(&self) -> Vec<String> {
        let list = |what| self.must(&[what]).as_array().unwrap().clone();
        let mut names: Vec<String> = list("images")
            .iter()
            .flat_map(|image| image["names"].as_array().unwrap().clone())
            .map(|name| name.as_str().unwrap().to_owned())
            .collect();
        names.extend(list("ps").iter().map(|container| container["name"].as_str().unwrap().to_owned()));
        names
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        // The temporary directory goes next. A test that has failed may have left nothing to unmount.
        let mut unmount = Command::new("umount");
        drop(unmount.args(["--lazy", "--recursive"]).arg(self.disk()).output());
    }
}
