//! Pipes, files, terminals and signals: what goes in and out beside the store.

use std::fs;
use std::io::Write as _;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::MetadataExt as _;
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use crate::common::image::{Layout, image};
use crate::common::privilege::{self, Privilege};
use crate::common::tar::tar;
use serde_json::Value;

use crate::tool::*;

#[test]
fn a_pipe_carries_images_from_store_to_store() {
    let (from, to) = (Tool::with("copy"), Tool::with("copy"));
    let id = from.load_base();
    for format in ["docker-archive", "oci-archive"] {
        let mut save = from.command(&["save", "--format", format, "base:1"]);
        let mut save = save.stdout(Stdio::piped()).spawn().unwrap();
        let load = to.command(&["load", "-q"]).stdin(save.stdout.take().unwrap()).output().unwrap();
        assert!(save.wait().unwrap().success());
        assert_eq!(String::from_utf8(load.stderr).unwrap(), "");
        assert_eq!(String::from_utf8(load.stdout).unwrap(), format!("{id}\n"));
    }
    let export = from.command(&["create", "-q", "base:1"]).output().unwrap();
    let container = String::from_utf8(export.stdout).unwrap();
    let tar = from.run(&["export", container.trim()]).stdout;
    assert_eq!(tar.len() % 512, 0);
}

#[test]
fn a_directory_layout_is_written_and_read() {
    let tool = Tool::with("copy");
    let id = tool.load_base();
    let directory = tool.path("layout");
    tool.text(&["save", "--format", "oci-dir", "-o", &format!("{directory}/"), "base:1"]);
    assert!(Path::new(&directory).join("oci-layout").is_file());
    let other = Tool::with("copy");
    assert_eq!(other.word(&["load", "-q", &directory]), id);
    assert_eq!(other.json(&["images"])[0]["names"], serde_json::json!(["base:1"]));

    // A layout takes one more image; what is something else stays so.
    tool.text(&["tag", "base:1", "more:2"]);
    tool.text(&["save", "--format", "oci-dir", "-o", &directory, "more:2"]);
    other.text(&["load", &directory]);
    assert_eq!(other.json(&["images"])[0]["names"], serde_json::json!(["base:1", "more:2"]));
    let home = tool.home.path().to_str().unwrap();
    let (line, _) = tool.error(&["save", "--format", "oci-dir", "-o", home, "base:1"]);
    assert!(line.contains("not empty"), "{line}");
    tool.usage(&["save", "--format", "oci-dir", "base:1"]);
}

#[test]
fn what_is_saved_is_whole_or_not_there() {
    let tool = Tool::with("copy");
    let id = tool.load_base();
    let target = tool.file("target.tar", "precious");
    let beside = || fs::read_dir(tool.home.path()).unwrap().count();
    let before = beside();

    // A layer is gone: the save fails when it comes to it.
    let layer = &Layout::of(&base()).images[0].layers[1];
    let blob = tool.root().join("oci").join(crate::common::image::blob_path(layer));
    let bytes = fs::read(&blob).unwrap();
    fs::remove_file(&blob).unwrap();
    tool.error(&["save", "-o", &target, "base:1"]);
    assert_eq!(fs::read(&target).unwrap(), b"precious");
    assert_eq!(beside(), before, "nothing is left");
    fs::write(&blob, bytes).unwrap();

    // A link stays one, and what it leads to is replaced.
    let link = tool.path("link");
    std::os::unix::fs::symlink("target.tar", &link).unwrap();
    tool.text(&["save", "-o", &link, "base:1"]);
    assert!(fs::symlink_metadata(&link).unwrap().is_symlink());
    assert_ne!(fs::read(&target).unwrap(), b"precious");
    assert_eq!(beside(), before + 1);
    assert_eq!(Tool::with("copy").word(&["load", "-q", "-i", &target]), id);

    // A device is no file to replace.
    tool.text(&["save", "-o", "/dev/null", "base:1"]);
    assert_eq!(fs::metadata("/dev/null").unwrap().mode() & 0o170_000, 0o020_000);
    // A place that does not exist is named.
    let (line, _) = tool.error(&["save", "-o", &tool.path("no/where"), "base:1"]);
    assert!(line.contains("no/where"), "{line}");
    // An archive and JSON do not fit on one output.
    let output = tool.run(&["save", "base:1", "--json"]);
    assert_eq!((output.status.code(), &*output.stdout), (Some(2), &b""[..]));
    assert_eq!(serde_json::from_slice::<Value>(&output.stderr).unwrap()["kind"], "usage");
}

#[test]
fn a_full_disk_behind_standard_output_is_an_error() {
    let tool = Tool::with("copy");
    tool.load_base();
    for words in
        [&["images"][..], &["images", "--json"], &["save", "base:1"], &["version"], &["completions", "bash"]]
    {
        let full = fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
        let output = tool.command(words).stdout(full).output().unwrap();
        assert_eq!(output.status.code(), Some(1), "{words:?}");
        assert!(!output.stderr.is_empty(), "{words:?}");
    }
}

#[test]
fn a_reader_that_went_away_is_no_noise() {
    let tool = Tool::with("copy");
    tool.load_base();
    for words in [&["images"][..], &["save", "base:1"], &["--help"], &["inspect", "base:1"]] {
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let output = tool.command(words).stdout(writer).output().unwrap();
        assert_eq!(output.status.signal(), Some(13), "{words:?}: {:?}", output.status);
        assert_eq!(String::from_utf8(output.stderr).unwrap(), "", "{words:?}");
    }
}

#[test]
fn an_interruption_ends_a_load_that_waits_and_leaves_no_image() {
    let archive = Layout::of(&base()).docker_archive();
    for signal in [2, 15] {
        let tool = Tool::with("copy");
        let mut load = tool.command(&["load"]);
        let mut load =
            load.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let mut stdin = load.stdin.take().unwrap();
        stdin.write_all(&archive[..archive.len() / 2]).unwrap();
        stdin.flush().unwrap();
        // The store is made when the waiting begins.
        let deadline = Instant::now() + Duration::from_secs(60);
        while !tool.root().join("store.json").exists() {
            assert!(Instant::now() < deadline, "the load does not begin");
            std::thread::sleep(Duration::from_millis(20));
        }
        let id = load.id().to_string();
        crate::common::run("kill", [format!("-{signal}"), id]);
        let output = load.wait_with_output().unwrap();
        assert_eq!(output.status.code(), Some(128 + signal));
        assert!(String::from_utf8(output.stderr).unwrap().starts_with("plywood: interrupted; "));
        assert_eq!(output.stdout, b"");
        drop(stdin);
        assert_eq!(tool.json(&["images"]), serde_json::json!([]));
    }
}

#[test]
fn paths_that_are_no_text_are_exact_in_every_output() {
    let tool = Tool::with("copy");
    let archive = Layout::of(&image().layer(tar().dir("d").finish()).name("docker.io/library/x:1"));
    let archive = tool.file("x.tar", archive.docker_archive());
    tool.text(&["load", "-i", &archive]);
    tool.text(&["create", "--name", "web", "x:1"]);
    let root = PathBuf::from(tool.word(&["mount", "web"]));
    fs::write(root.join(std::ffi::OsStr::from_bytes(b"d/caf\xe9\n")), "").unwrap();
    let output = tool.run(&["changes", "web"]);
    assert_eq!(output.stdout, b"C /d\nA /d/caf\xe9\n\n");
    let value = tool.json(&["changes", "web"]);
    assert_eq!(value[0], serde_json::json!({"kind": "C", "path": "/d"}));
    assert_eq!(value[1]["path"], "/d/caf\u{fffd}\n");
    assert_eq!(value[1]["path_bytes"], "L2QvY2Fm6Qo=");
}

#[test]
fn what_cannot_be_kept_is_said_once_and_not_for_ever() {
    privilege::under(&[Privilege::Plain], |_| {
        let tool = Tool::new();
        // Nobody but root can give a link away, and a link has no attributes that would remember it.
        let layer = (0..50).fold(tar(), |tar, number| tar.symlink(format!("link{number}"), "x").owner(7, 7));
        let archive =
            Layout::of(&image().layer(layer.finish()).name("docker.io/library/x:1")).docker_archive();
        let archive = tool.file("x.tar", archive);
        let output = tool.run(&["load", "-i", &archive]);
        assert_eq!(String::from_utf8(output.stdout).unwrap(), "Loaded image: x:1\n");
        let lines = String::from_utf8(output.stderr).unwrap();
        assert_eq!(lines.lines().count(), 11, "{lines}");
        assert!(lines.lines().all(|line| line.starts_with("plywood: warning: x:1: ")), "{lines}");
        assert!(lines.ends_with("and 40 warnings more, see --json\n"), "{lines}");
        let other = Tool::new();
        assert_eq!(other.json(&["load", &archive])[0]["warnings"].as_array().unwrap().len(), 50);
        assert_eq!(Tool::new().text(&["load", "-q", &archive]).lines().count(), 1);
    });
}
