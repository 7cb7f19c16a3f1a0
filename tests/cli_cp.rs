//! `plywood cp`: docker's rules for every pair of ends, in both directions.

#![cfg(feature = "cli")]
#![allow(clippy::unwrap_used)]

mod common;

use std::fs;
use std::io::Write as _;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use common::image::{Layout, image};
use common::privilege::{self, ALL};
use common::tar::tar;
use common::untar;

/// The tool with a store of its own, in which there is a container `web`.
struct Tool {
    home: tempfile::TempDir,
}

impl Tool {
    fn new() -> Self {
        let tool = Self { home: common::scratch() };
        let base = image()
            .layer(tar().dir("etc").file("etc/hosts", "old").dir("box").dir("src").finish())
            .name("docker.io/library/base:1");
        let archive = tool.home.path().join("base.tar");
        fs::write(&archive, Layout::of(&base).docker_archive()).unwrap();
        tool.text(&["load", "-q", archive.to_str().unwrap()]);
        tool.text(&["create", "--name", "web", "base:1"]);
        fs::create_dir(tool.here()).unwrap();
        tool
    }

    /// Where the tool is started.
    fn here(&self) -> PathBuf {
        self.home.path().join("here")
    }

    fn command(&self, words: &[&str]) -> Command {
        let mut command = privilege::plywood().expect("the feature is on, so it was built");
        command.arg("--root").arg(self.home.path().join("store")).args(["--durability", "relaxed"]);
        command.args(words).env_remove("PLYWOOD_ROOT").env_remove("PLYWOOD_DRIVER");
        if self.here().exists() {
            command.current_dir(self.here());
        }
        command.stdin(Stdio::null());
        command
    }

    fn run(&self, words: &[&str]) -> Output {
        self.command(words).output().unwrap()
    }

    /// What a command prints that succeeds and has nothing to complain of.
    #[track_caller]
    fn text(&self, words: &[&str]) -> String {
        let output = self.run(words);
        let errors = String::from_utf8(output.stderr).unwrap();
        assert!(output.status.success(), "{words:?}: {}\n{errors}", output.status);
        assert_eq!(errors, "", "{words:?}");
        String::from_utf8(output.stdout).unwrap()
    }

    /// The one line of a command that fails with this status.
    #[track_caller]
    fn error(&self, status: i32, words: &[&str]) -> String {
        let output = self.run(words);
        let line = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(status), "{words:?}: {line}");
        assert_eq!(line.lines().count(), 1, "{words:?}: {line}");
        assert!(output.stdout.is_empty(), "{words:?}");
        line.strip_prefix("plywood: ").unwrap_or_else(|| panic!("{words:?}: {line}")).trim_end().to_owned()
    }

    /// Runs a command with this on its standard input.
    fn fed(&self, words: &[&str], input: &[u8]) -> Output {
        let mut command = self.command(words);
        let mut child =
            command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        // It may have gone away by then.
        child.stdin.take().unwrap().write_all(input).ok();
        child.wait_with_output().unwrap()
    }

    /// The root of `web`, which stays mounted.
    fn mount(&self) -> PathBuf {
        PathBuf::from(self.text(&["mount", "web"]).trim_end())
    }
}

/// What a destination is before.
#[derive(Clone, Copy, PartialEq, Debug)]
enum There {
    Nothing,
    File,
    Directory,
}

use There::{Directory, File, Nothing};

/// Source, what is at `there` before, destination, and what is there afterwards or what is said.
type Rule = (&'static str, There, &'static str, Result<&'static [&'static str], &'static str>);

const RULES: &[Rule] = &[
    ("file", Nothing, "there", Ok(&["there=f"])),
    ("file", Nothing, "there/", Err("there is no")),
    ("file", Nothing, "no/there", Err("there is no")),
    ("file", File, "there", Ok(&["there=f"])),
    ("file", File, "there/", Err("is not a directory")),
    ("file", Directory, "there", Ok(&["there/", "there/file=f"])),
    ("file", Directory, "there/", Ok(&["there/", "there/file=f"])),
    ("file", Directory, "there/new", Ok(&["there/", "there/new=f"])),
    ("file/", Nothing, "there", Err("is not a directory")),
    ("dir", Nothing, "there", Ok(&["there/", "there/deep/", "there/deep/er=d", "there/inner=i"])),
    ("dir", Nothing, "there/", Ok(&["there/", "there/deep/", "there/deep/er=d", "there/inner=i"])),
    ("dir/.", Nothing, "there", Ok(&["there/", "there/deep/", "there/deep/er=d", "there/inner=i"])),
    ("dir", Nothing, "no/there", Err("there is no")),
    ("dir", File, "there", Err("cannot replace the file")),
    ("dir/.", File, "there", Err("cannot replace the file")),
    (
        "dir",
        Directory,
        "there",
        Ok(&["there/", "there/dir/", "there/dir/deep/", "there/dir/deep/er=d", "there/dir/inner=i"]),
    ),
    (
        "dir/",
        Directory,
        "there/",
        Ok(&["there/", "there/dir/", "there/dir/deep/", "there/dir/deep/er=d", "there/dir/inner=i"]),
    ),
    ("dir/.", Directory, "there", Ok(&["there/", "there/deep/", "there/deep/er=d", "there/inner=i"])),
    ("missing", Nothing, "there", Err("there is no")),
    ("missing", Directory, "there", Err("there is no")),
    ("link", Nothing, "there", Ok(&["there->file"])),
    ("way", Nothing, "there", Ok(&["there->dir"])),
    ("way/inner", Nothing, "there", Ok(&["there=i"])),
    ("way/.", Directory, "there", Ok(&["there/", "there/deep/", "there/deep/er=d", "there/inner=i"])),
];

/// What `RULES` copy.
fn sources(dir: &Path) {
    fs::create_dir_all(dir.join("dir/deep")).unwrap();
    fs::write(dir.join("file"), "f").unwrap();
    fs::write(dir.join("dir/inner"), "i").unwrap();
    fs::write(dir.join("dir/deep/er"), "d").unwrap();
    symlink("file", dir.join("link")).unwrap();
    symlink("dir", dir.join("way")).unwrap();
}

/// Everything below `dir` by name and content.
fn listed(dir: &Path) -> Vec<String> {
    fn add(top: &Path, dir: &Path, found: &mut Vec<String>) {
        for entry in fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            let name = path.strip_prefix(top).unwrap().display().to_string();
            let kind = fs::symlink_metadata(&path).unwrap().file_type();
            if kind.is_symlink() {
                found.push(format!("{name}->{}", fs::read_link(&path).unwrap().display()));
            } else if kind.is_dir() {
                found.push(format!("{name}/"));
                add(top, &path, found);
            } else {
                found.push(format!("{name}={}", fs::read_to_string(&path).unwrap()));
            }
        }
    }
    let mut found = Vec::new();
    add(dir, dir, &mut found);
    found.sort();
    found
}

/// Goes through the rules: `said` makes both words of the command of the ends' names; `to` is where the destinations are.
fn go_through(tool: &Tool, to: &Path, said: impl Fn(&str, &str) -> (String, String)) {
    for (source, there, dest, expected) in RULES {
        for entry in fs::read_dir(to).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() && !path.is_symlink() {
                fs::remove_dir_all(path).unwrap();
            } else {
                fs::remove_file(path).unwrap();
            }
        }
        match there {
            Nothing => {}
            File => fs::write(to.join("there"), "was there").unwrap(),
            Directory => fs::create_dir(to.join("there")).unwrap(),
        }
        let before = listed(to);
        let (from, into) = said(source, dest);
        match expected {
            Ok(names) => {
                assert_eq!(tool.text(&["cp", &from, &into]), "", "{from} {into}");
                assert_eq!(listed(to), *names, "{from} to {into} where {there:?} is");
            }
            Err(message) => {
                let line = tool.error(1, &["cp", &from, &into]);
                assert!(line.contains(message), "{from} to {into} where {there:?} is: {line}");
                assert_eq!(listed(to), before, "{from} {into}");
            }
        }
    }
}

#[test]
fn a_copy_goes_where_docker_puts_it_in_both_directions() {
    privilege::under(ALL, |_| {
        let tool = Tool::new();
        let root = tool.mount();
        sources(&tool.here());
        go_through(&tool, &root.join("box"), |source, dest| (source.to_owned(), format!("web:/box/{dest}")));
        sources(&root.join("src"));
        let to = tool.here().join("to");
        fs::create_dir(&to).unwrap();
        go_through(&tool, &to, |source, dest| (format!("web:src/{source}"), format!("to/{dest}")));
        let here = fs::canonicalize(&to).unwrap();
        go_through(&tool, &to, |source, dest| {
            (format!("web:/src/{source}"), format!("{}/{dest}", here.display()))
        });

        // Links at the end are followed where that is asked for, and those at a destination always.
        tool.text(&["cp", "-L", "web:/src/link", "to/followed"]);
        assert_eq!(fs::read_to_string(to.join("followed")).unwrap(), "f");
        tool.text(&["cp", "-L", "way", "web:/box"]);
        assert_eq!(fs::read_to_string(root.join("box/way/inner")).unwrap(), "i");
        symlink("/etc/hosts", root.join("box/hosts")).unwrap();
        tool.text(&["cp", "file", "web:/box/hosts"]);
        assert_eq!(fs::read_to_string(root.join("etc/hosts")).unwrap(), "f");
        assert!(root.join("box/hosts").is_symlink());
        tool.text(&["umount", "web"]);
    });
}

#[test]
fn a_container_that_is_not_mounted_is_not_mounted_afterwards() {
    privilege::under(ALL, |_| {
        let tool = Tool::new();
        fs::write(tool.here().join("a:b"), "colon").unwrap();
        fs::set_permissions(tool.here().join("a:b"), fs::Permissions::from_mode(0o4751)).unwrap();
        tool.text(&["cp", "./a:b", "web:/box/x:y"]);
        tool.text(&["cp", "web:box/x:y", "."]);
        let copied = fs::metadata(tool.here().join("x:y")).unwrap();
        assert_eq!(copied.mode() & 0o7777, 0o751, "rights are given by an owner, who is another now");
        assert_eq!(copied.uid(), rustix::process::geteuid().as_raw());
        let listed: serde_json::Value = serde_json::from_str(&tool.text(&["ps", "--json"])).unwrap();
        assert_eq!(listed[0]["state"], "created");
        assert_eq!(tool.text(&["changes", "web"]), "C /box\nA /box/x:y\n");

        tool.text(&["cp", "-a", "./a:b", "web:/box/kept"]);
        tool.text(&["cp", "-a", "web:/box/kept", "kept"]);
        let kept = fs::metadata(tool.here().join("kept")).unwrap();
        assert_eq!(kept.mode() & 0o7777, 0o4751);
        let told: serde_json::Value =
            serde_json::from_str(&tool.text(&["cp", "--json", "kept", "web:/"])).unwrap();
        assert_eq!((&told["entries"], &told["size"]), (&1.into(), &5.into()));
    });
}

#[test]
fn a_dash_is_a_tar_on_either_end() {
    privilege::under(ALL, |_| {
        let tool = Tool::new();
        let given = tar().dir("site").owner(5, 6).file("site/page", "hello").owner(5, 6).finish();
        let output = tool.fed(&["cp", "-", "web:/box"], &given);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let output = tool.run(&["cp", "web:/box/site", "-"]);
        let entries = untar::entries(&output.stdout);
        let names: Vec<_> = entries.iter().map(|entry| String::from_utf8_lossy(&entry.name)).collect();
        assert_eq!(names, ["site/", "site/page"]);
        assert!(entries.iter().all(|entry| (entry.uid, entry.gid) == (0, 0)));

        let output = tool.fed(&["cp", "-a", "-", "web:/box"], &given);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let output = tool.run(&["cp", "web:/box/site/.", "-"]);
        let entries = untar::entries(&output.stdout);
        assert!(entries.iter().all(|entry| (entry.uid, entry.gid) == (5, 6)));

        for (given, dest, message) in [
            (&given[..700], "web:/box", "nothing was copied"),
            (&given, "web:/nowhere", "a tar goes into a directory that is there"),
            (&given, "web:/etc/hosts", "is not a directory"),
            (b"no tar at all", "web:/box", "not a tar"),
        ] {
            let output = tool.fed(&["cp", "-", dest], given);
            assert_eq!(output.status.code(), Some(1), "{dest}");
            let line = String::from_utf8(output.stderr).unwrap();
            assert!(line.contains(message) && line.lines().count() == 1, "{dest}: {line}");
        }
    });
}

#[test]
fn a_source_that_cannot_be_read_to_its_end_changes_nothing() {
    privilege::under(&[privilege::Privilege::Plain], |_| {
        let tool = Tool::new();
        let dir = tool.here().join("dir");
        fs::create_dir(&dir).unwrap();
        fs::write(dir.join("a"), "can be read").unwrap();
        fs::write(dir.join("b"), "cannot").unwrap();
        fs::set_permissions(dir.join("b"), fs::Permissions::from_mode(0o0)).unwrap();
        let line = tool.error(1, &["cp", "dir", "web:/box"]);
        assert!(line.contains("dir/b") && line.contains("ermission denied"), "{line}");
        assert_eq!(tool.text(&["changes", "web"]), "");
    });
}

#[test]
fn a_device_a_pipe_or_a_socket_is_never_replaced_and_its_name_is_said() {
    privilege::under(ALL, |privilege| {
        let tool = Tool::new();
        let root = tool.mount();
        for (dir, prefix) in [(tool.here(), ""), (root.join("box"), "web:/box/")] {
            let pipe = dir.join("pipe");
            let mode = rustix::fs::Mode::from_raw_mode(0o600);
            rustix::fs::mknodat(rustix::fs::CWD, &pipe, rustix::fs::FileType::Fifo, mode, 0).unwrap();
            symlink("pipe", dir.join("link")).unwrap();
            let mut names = vec!["pipe", "link"];
            if privilege == privilege::Privilege::Root {
                let (kind, device) = (rustix::fs::FileType::CharacterDevice, rustix::fs::makedev(1, 3));
                rustix::fs::mknodat(rustix::fs::CWD, dir.join("device"), kind, mode, device).unwrap();
                symlink("device", dir.join("other")).unwrap();
                names.extend(["device", "other"]);
            }
            fs::write(tool.here().join("file"), "f").unwrap();
            let before = |name| fs::metadata(dir.join(name)).unwrap().mode();
            for name in names {
                let (mode, dest) = (before(name), format!("{prefix}{name}"));
                let from = if prefix.is_empty() { "web:/etc/hosts" } else { "file" };
                let line = tool.error(1, &["cp", from, &dest]);
                assert!(line.contains(name) && line.contains("never replaced"), "{dest}: {line}");
                assert!(line.contains("`-`"), "{dest}: {line}");
                assert_eq!(before(name), mode, "{dest}");
                assert_eq!(dir.join(name).is_symlink(), name == "link" || name == "other", "{dest}");
            }
        }
        let line = tool.error(1, &["cp", "web:/etc/hosts", "/dev/null"]);
        assert!(line.contains("\"/dev/null\" is a character device"), "{line}");
        tool.text(&["umount", "web"]);
    });
}

#[test]
fn devices_come_out_of_a_container_with_a_only() {
    privilege::under(ALL, |privilege| {
        let tool = Tool::new();
        let given = tar().dir("dev").char_device("dev/null", 1, 3).mode(0o666).file("dev/file", "f").finish();
        let output = tool.fed(&["cp", "-a", "-", "web:/box"], &given);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let output = tool.run(&["cp", "web:/box/dev", "."]);
        let note = String::from_utf8(output.stderr).unwrap();
        assert!(output.status.success(), "{note}");
        assert!(note.contains("/dev/null") && note.contains("-a"), "{note}");
        assert_eq!(listed(&tool.here().join("dev")), ["file=f"]);
        let told: serde_json::Value =
            serde_json::from_str(&tool.text(&["cp", "--json", "web:/box/dev/null", "."])).unwrap();
        assert_eq!((&told["entries"], &told["devicesLeftOut"]), (&0.into(), &1.into()));
        assert!(!tool.here().join("null").exists());
        tool.text(&["cp", "-a", "web:/box/dev/null", "."]);
        let made = fs::metadata(tool.here().join("null")).unwrap();
        assert_eq!(made.rdev() == rustix::fs::makedev(1, 3), privilege == privilege::Privilege::Root);
    });
}

#[test]
fn what_cannot_be_meant_is_said_with_the_way_out() {
    let tool = Tool::new();
    for (words, message) in [
        (["a", "b"], "one end must be in a container"),
        (["web:/a", "web:/b"], "both ends are in containers"),
        (["-", "-"], "one end must be in a container"),
        (["-", "file"], "one end must be in a container"),
        ([":a", "web:/b"], "./:a"),
        (["web:", "b"], "web:/"),
        (["", "web:/b"], "empty"),
    ] {
        let line = tool.error(2, &["cp", words[0], words[1]]);
        assert!(line.contains(message), "{words:?}: {line}");
    }
    let line = tool.error(1, &["cp", "web2:/etc", "x"]);
    assert!(line.contains("there is no container \"web2\""), "{line}");
    let line = tool.error(1, &["cp", "web:/missing", "x"]);
    assert!(line.contains("there is no \"/missing\"") && line.contains("plywood cp web:/ -"), "{line}");
}
