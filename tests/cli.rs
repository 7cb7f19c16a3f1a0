//! The command line tool from the outside: what it prints where, in which form, and how it exits.

#![cfg(feature = "cli")]
#![allow(clippy::unwrap_used)]

mod common;

use std::fs;
use std::io::Write as _;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use common::image::{Compression, ImageSpec, Layout, image};
use common::privilege::{self, Privilege};
use common::tar::tar;
use serde_json::Value;

/// The tool with a store of its own.
struct Tool {
    home: tempfile::TempDir,
    driver: &'static str,
}

impl Tool {
    fn new() -> Self {
        Self::with("auto")
    }

    fn with(driver: &'static str) -> Self {
        Self { home: common::scratch(), driver }
    }

    fn root(&self) -> PathBuf {
        self.home.path().join("store")
    }

    /// A file beside the store.
    fn file(&self, name: &str, bytes: impl AsRef<[u8]>) -> String {
        let path = self.path(name);
        fs::write(&path, bytes).unwrap();
        path
    }

    fn path(&self, name: &str) -> String {
        self.home.path().join(name).to_str().unwrap().to_owned()
    }

    fn command(&self, words: &[&str]) -> Command {
        let mut command = privilege::plywood().expect("the feature is on, so it was built");
        command.arg("--root").arg(self.root()).args(["--driver", self.driver]).args(words);
        command.env_remove("SOURCE_DATE_EPOCH").env_remove("PLYWOOD_ROOT").env_remove("PLYWOOD_DRIVER");
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

    /// The same without the end of its only line.
    #[track_caller]
    fn word(&self, words: &[&str]) -> String {
        let text = self.text(words);
        let word = text.strip_suffix('\n').unwrap();
        assert!(!word.contains('\n'), "{words:?}: {text}");
        word.to_owned()
    }

    /// The one JSON value of a command that succeeds.
    #[track_caller]
    fn json(&self, words: &[&str]) -> Value {
        let output = self.run(&[words, &["--json"]].concat());
        let errors = String::from_utf8(output.stderr).unwrap();
        assert!(output.status.success(), "{words:?}: {}\n{errors}", output.status);
        assert_eq!(errors, "", "{words:?}");
        serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{words:?}: {error}"))
    }

    /// The one line of a command that fails, and the object it is with `--json`.
    #[track_caller]
    fn error(&self, words: &[&str]) -> (String, Value) {
        let output = self.run(words);
        let line = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(1), "{words:?}: {line}");
        assert_eq!(String::from_utf8(output.stdout).unwrap(), "", "{words:?}");
        assert_eq!(line.lines().count(), 1, "{words:?}: {line}");
        let message = line.strip_prefix("plywood: ").unwrap_or_else(|| panic!("{words:?}: {line}"));
        let output = self.run(&[words, &["--json"]].concat());
        assert_eq!(output.status.code(), Some(1), "{words:?}");
        assert_eq!(String::from_utf8(output.stdout).unwrap(), "", "{words:?}");
        let object: Value = serde_json::from_slice(&output.stderr).unwrap();
        assert!(message.starts_with(object["error"].as_str().unwrap()), "{message} is not {object}");
        assert!(object["kind"].is_string(), "{object}");
        (message.trim_end().to_owned(), object)
    }

    /// What is said about a mistake in the command line, as text and as JSON.
    #[track_caller]
    fn usage(&self, words: &[&str]) -> (String, Value) {
        let output = self.run(words);
        assert_eq!(output.status.code(), Some(2), "{words:?}");
        assert_eq!(String::from_utf8(output.stdout).unwrap(), "", "{words:?}");
        let text = String::from_utf8(output.stderr).unwrap();
        let output = self.run(&[words, &["--json"]].concat());
        assert_eq!(output.status.code(), Some(2), "{words:?}");
        assert_eq!(String::from_utf8(output.stdout).unwrap(), "", "{words:?}");
        let object: Value = serde_json::from_slice(&output.stderr).unwrap();
        assert_eq!(object["kind"], "usage");
        (text, object)
    }

    /// Loads [`base`], and gives its id.
    fn load_base(&self) -> String {
        let archive = self.file("base.tar", Layout::of(&base()).docker_archive());
        self.word(&["load", "-q", "-i", &archive])
    }
}

/// A small image named `base:1`, of two layers.
fn base() -> ImageSpec {
    image()
        .layer(tar().dir("etc").file("etc/hosts", "old").file("etc/gone", "x").dir("srv").finish())
        .layer(tar().dir("etc").file("etc/issue", "two").finish())
        .name("docker.io/library/base:1")
}

/// The store of the present user and what the copy driver gives everybody.
const DRIVERS: &[&str] = &["auto", "copy"];

#[test]
fn an_image_lives_its_whole_life_by_commands() {
    privilege::under(privilege::ALL, |privilege| {
        for driver in DRIVERS {
            whole_life(privilege, &Tool::with(driver));
        }
    });
}

fn whole_life(privilege: Privilege, tool: &Tool) {
    let layout = Layout::of(&base());
    let (id, digest) = (&layout.images[0].config, &layout.images[0].manifest);

    // Load, and load again.
    let archive = tool.file("oci.tar", layout.oci_archive());
    assert_eq!(tool.text(&["load", &archive]), "Loaded image: base:1\n");
    let again = tool.json(&["load", "-i", &archive]);
    assert_eq!(again[0]["id"], id.as_str());
    assert_eq!(again[0]["digest"], digest.as_str());
    assert_eq!(again[0]["names"], serde_json::json!(["base:1"]));
    assert_eq!(again[0]["layers"], serde_json::json!(layout.images[0].diff_ids));
    assert_eq!(again[0]["warnings"], serde_json::json!([]));

    // Create and list.
    let container = tool.word(&["create", "--name", "web", "--label", "a=b", "base:1"]);
    assert_eq!(container.len(), 64);
    let listed = tool.json(&["ps"]);
    assert_eq!(listed.as_array().unwrap().len(), 1);
    assert_eq!(listed[0]["id"], container.as_str());
    assert_eq!(listed[0]["name"], "web");
    assert_eq!(listed[0]["image"], "base:1");
    assert_eq!(listed[0]["state"], "created");
    assert!(listed[0]["size"].is_u64());

    // Mount and change.
    let root = tool.word(&["mount", "web"]);
    assert_eq!(fs::read_to_string(format!("{root}/etc/issue")).unwrap(), "two");
    assert_eq!(tool.json(&["mount", &container[..10]])["path"], root.as_str(), "mounted is mounted");
    fs::write(format!("{root}/etc/hosts"), "new").unwrap();
    fs::write(format!("{root}/srv/page"), "hello").unwrap();
    fs::remove_file(format!("{root}/etc/gone")).unwrap();
    let changes = "C /etc\nD /etc/gone\nC /etc/hosts\nC /srv\nA /srv/page\n";
    assert_eq!(tool.text(&["changes", "web"]), changes);
    let copied = tool.driver == "copy" || privilege == Privilege::Plain;
    let state = tool.json(&["ps"])[0]["state"].clone();
    assert_eq!(state, if copied { "created" } else { "mounted" });
    tool.text(&["umount", "web"]);
    assert_eq!(tool.text(&["changes", "web"]), changes, "the same at rest");
    let kinds = tool.json(&["changes", "web"]);
    assert_eq!(kinds[4], serde_json::json!({"kind": "A", "path": "/srv/page"}));

    // Commit.
    let words = [
        "commit",
        "web",
        "me/web:1",
        "-c",
        "CMD [\"/srv/run\"]",
        "-m",
        "note",
        "-a",
        "me",
        "--created",
        "@0",
    ];
    let committed = tool.json(&words);
    assert_eq!(committed["names"], serde_json::json!(["me/web:1"]));
    assert_eq!(tool.word(&words), committed["id"].as_str().unwrap(), "equal changes give equal images");
    let inspected = tool.json(&["inspect", "me/web:1"]);
    assert_eq!(inspected[0]["Id"], committed["id"]);
    assert_eq!(inspected[0]["Config"]["Cmd"], serde_json::json!(["/srv/run"]));
    assert_eq!(inspected[0]["Author"], "me");
    assert_eq!(inspected[0]["Created"], "1970-01-01T00:00:00Z");
    let history = tool.json(&["history", "me/web:1"]);
    assert_eq!(history[0]["comment"], "note");

    // Save, and load where nothing is.
    let saved = tool.path("saved.tar");
    assert_eq!(tool.text(&["save", "-o", &saved, "me/web:1"]), "");
    let other = Tool::with(tool.driver);
    let loaded = other.json(&["load", "-i", &saved]);
    assert_eq!(loaded[0]["id"], committed["id"]);
    assert_eq!(loaded[0]["digest"], committed["digest"]);
    other.text(&["create", "--name", "again", "me/web:1"]);
    let root = PathBuf::from(other.word(&["mount", "again"]));
    assert_eq!(fs::read_to_string(root.join("srv/page")).unwrap(), "hello");
    assert!(!root.join("etc/gone").exists());
    other.text(&["umount", "again"]);
    assert_eq!(other.text(&["changes", "again"]), "");

    // Export.
    let exported = tool.path("root.tar");
    tool.text(&["export", "-o", &exported, "web"]);
    let members = String::from_utf8(common::run("tar", ["-tf", &exported])).unwrap();
    assert!(members.lines().any(|member| member.trim_start_matches("./") == "srv/page"), "{members}");
    assert!(!members.contains("gone"));

    // Remove and collect.
    tool.text(&["rename", "web", "site"]);
    assert_eq!(tool.text(&["rm", "site"]), "site\n");
    assert_eq!(tool.json(&["ps"]), serde_json::json!([]));
    assert_eq!(tool.text(&["rmi", "base:1"]), format!("Untagged: base:1\nDeleted: {id}\n"));
    tool.text(&["rmi", "me/web:1"]);
    assert_eq!(tool.json(&["images"]), serde_json::json!([]));
    let collected = tool.json(&["gc"]);
    assert!(!collected["blobs"].as_array().unwrap().is_empty());
    let collected = tool.json(&["gc"]);
    assert_eq!(collected["bytes"], 0);
}

#[test]
fn an_image_can_be_looked_into_and_not_changed() {
    privilege::under(privilege::MOUNTING, |_| {
        let tool = Tool::new();
        tool.load_base();
        let root = tool.word(&["image", "mount", "base:1"]);
        assert_eq!(fs::read_to_string(format!("{root}/etc/issue")).unwrap(), "two");
        assert!(fs::write(format!("{root}/etc/issue"), "x").is_err());
        assert_eq!(tool.json(&["image", "mount", "base:1"])["path"], root.as_str());
        assert_eq!(tool.json(&["image", "umount", "base:1"])["path"], root.as_str());
        assert_eq!(tool.json(&["image", "umount", "base:1"])["path"], Value::Null);
        assert_eq!(tool.text(&["rmi", "-q", "base:1"]), "");
    });
}

#[test]
fn tables_are_for_people_and_ids_for_scripts() {
    let tool = Tool::with("copy");
    let id = tool.load_base();
    tool.text(&["tag", "base:1", "localhost:5000/other:2"]);
    let table = tool.text(&["images"]);
    let lines: Vec<Vec<&str>> = table
        .lines()
        .map(|line| line.split("   ").map(str::trim).filter(|cell| !cell.is_empty()).collect())
        .collect();
    assert_eq!(lines[0], ["REPOSITORY", "TAG", "IMAGE ID", "CREATED", "SIZE"]);
    let short = &id["sha256:".len()..][..12];
    assert_eq!(lines[1][..3], ["base", "1", short]);
    assert_eq!(lines[2][..3], ["localhost:5000/other", "2", short]);
    assert!(lines[1][3].ends_with(" ago"), "{table}");
    assert_eq!(tool.text(&["images", "-q"]), format!("{id}\n"));
    assert_eq!(tool.text(&["image", "ls"]), table);
    assert!(tool.text(&["images", "--no-trunc"]).contains(&id));

    let images = tool.json(&["images"]);
    assert_eq!(images[0]["names"], serde_json::json!(["base:1", "localhost:5000/other:2"]));
    assert_eq!(images[0]["created"], "2024-01-01T00:00:00Z");
    assert!(images[0]["size"].as_u64().unwrap() > 0);
    assert!(images[0]["platform"].as_str().unwrap().starts_with("linux/"));

    let container = tool.word(&["create", "--name", "web", &id]);
    let table = tool.text(&["ps", "-a", "-s"]);
    let mut lines = table.lines();
    assert_eq!(lines.next().unwrap().split_whitespace().last(), Some("SIZE"));
    assert!(lines.next().unwrap().starts_with(&container[..12]), "{table}");
    assert_eq!(tool.text(&["ps", "-q"]), format!("{container}\n"));

    let steps = tool.text(&["history", "base:1"]);
    assert!(steps.starts_with("LAYER"), "{steps}");
    let info = tool.json(&["info"]);
    assert_eq!(info["driver"], "copy");
    assert_eq!(info["images"], 1);
    assert_eq!(info["containers"], 1);
    assert!(tool.text(&["info"]).contains("\nDriver      copy\n"));
}

#[test]
fn every_command_prints_one_json_value() {
    let tool = Tool::with("copy");
    let archive = tool.file("base.tar", Layout::of(&base()).docker_archive());
    let (saved, exported) = (tool.path("saved.tar"), tool.path("root.tar"));
    let directory = tool.path("saved");
    for words in [
        &["load", &archive][..],
        &["images"],
        &["image", "ls"],
        &["inspect", "base:1"],
        &["image", "inspect", "base:1", "base:1"],
        &["history", "base:1"],
        &["tag", "base:1", "two:2"],
        &["untag", "two:2"],
        &["create", "--name", "web", "base:1"],
        &["create", "--name", "other", "base:1"],
        &["inspect", "web", "other"],
        &["ps"],
        &["rename", "other", "another"],
        &["mount", "web"],
        &["umount", "web"],
        &["changes", "web"],
        &["commit", "web", "new:1"],
        &["export", "-o", &exported, "web"],
        &["save", "-o", &saved, "new:1"],
        &["save", "--format", "oci-dir", "-o", &directory, "new:1"],
        &["rm", "web", "another"],
        &["rmi", "new:1", "base:1"],
        &["gc", "--dry-run"],
        &["gc"],
        &["info"],
        &["completions", "zsh"],
        &["version"],
    ] {
        let value = tool.json(words);
        assert_ne!(value, Value::Null, "{words:?}");
        // Quiet changes nothing about JSON.
        if matches!(words, ["images"] | ["ps"] | ["info"]) {
            assert_eq!(tool.json(&[words, &["-q"]].concat()), value);
        }
    }
}

#[test]
fn inspect_speaks_dockers_words() {
    let tool = Tool::with("copy");
    let id = tool.load_base();
    let container = tool.word(&["create", "--name", "web", "--label", "key=value", "base:1"]);
    let text = tool.text(&["inspect", "base:1", "web"]);
    let value: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(value[0]["Id"], id.as_str());
    assert_eq!(value[0]["RepoTags"], serde_json::json!(["base:1"]));
    assert_eq!(value[0]["RootFS"]["Type"], "layers");
    assert_eq!(value[0]["RootFS"]["Layers"].as_array().unwrap().len(), 2);
    assert_eq!(value[0]["Config"]["Cmd"], serde_json::json!(["/bin/sh"]));
    assert_eq!(value[0]["Os"], "linux");
    assert_eq!(value[1]["Id"], container.as_str());
    assert_eq!(value[1]["Name"], "web");
    assert_eq!(value[1]["Image"], id.as_str());
    assert_eq!(value[1]["State"]["Status"], "created");
    assert_eq!(value[1]["Config"]["Labels"]["key"], "value");
    let (_, object) = tool.error(&["inspect", "--type", "image", "web"]);
    assert_eq!(object["kind"], "not-found");
}

#[test]
fn an_unknown_name_is_answered_with_the_next_step() {
    let tool = Tool::with("copy");
    tool.load_base();
    tool.text(&["create", "--name", "web", "base:1"]);
    for (words, wanted) in [
        (&["create", "bsae:1"][..], "did you mean base:1?"),
        (&["history", "base"], "did you mean base:1?"),
        (&["rmi", "nothing:like-it"], "`plywood images`"),
        (&["untag", "base:2"], "did you mean base:1?"),
        (&["changes", "wbe"], ""),
        (&["mount", "webb"], "did you mean web?"),
        (&["rm", "nothing-like-it"], "`plywood ps`"),
        (&["inspect", "nothing-like-it"], "image or container"),
    ] {
        let (line, object) = tool.error(words);
        assert!(line.contains(wanted), "{line}");
        assert_eq!(object["kind"], "not-found", "{object}");
    }
}

#[test]
fn an_image_that_is_there_twice_is_still_one_image() {
    let tool = Tool::with("copy");
    let layer = base().layers[0].tar.clone();
    for compression in [Compression::None, Compression::Gzip] {
        let spec = image().compressed(layer.clone(), compression).name("docker.io/library/base:1");
        let archive = tool.file("base.tar", Layout::of(&spec).oci_archive());
        assert!(tool.run(&["load", &archive]).status.success());
    }
    assert_eq!(tool.json(&["images"]).as_array().unwrap().len(), 2);
    let id = tool.word(&["images", "-q"]);
    let short = &id["sha256:".len()..][..12];
    assert_eq!(tool.json(&["inspect", short])[0]["RepoTags"], serde_json::json!(["base:1"]));
}

#[test]
fn an_image_is_found_by_everything_that_names_it() {
    let tool = Tool::with("copy");
    let mut layout = Layout::of(&base());
    let manifest = layout.index["manifests"][0].clone();
    let mut index = layout.index.clone();
    index["manifests"][0].as_object_mut().unwrap().remove("annotations");
    let mut named = layout.document("application/vnd.oci.image.index.v1+json", &index);
    named["annotations"] = manifest["annotations"].clone();
    layout.index["manifests"] = serde_json::json!([named]);
    let archive = tool.file("base.tar", layout.oci_archive());
    let loaded = tool.json(&["load", &archive]);
    let (id, index) = (layout.images[0].config.as_str(), named["digest"].as_str().unwrap());
    let manifest = manifest["digest"].as_str().unwrap();
    assert_eq!(loaded[0]["digest"], manifest);
    for name in [
        "base:1",
        "docker.io/library/base:1",
        id,
        &id["sha256:".len()..],
        &id["sha256:".len()..][..6],
        &id[..20],
        manifest,
        &format!("base@{manifest}"),
        &format!("base:1@{manifest}"),
        &format!("base@{index}"),
    ] {
        assert_eq!(tool.json(&["inspect", name])[0]["Id"], id, "{name}");
    }
    for name in ["base", "base:2", &format!("other@{manifest}"), &format!("base@{id}")] {
        assert_eq!(tool.error(&["inspect", name]).1["kind"], "not-found", "{name}");
    }
}

#[test]
fn what_is_in_use_is_named() {
    let tool = Tool::with("copy");
    let id = tool.load_base();
    tool.text(&["create", "--name", "web", "base:1"]);
    let (line, object) = tool.error(&["rmi", "base:1"]);
    assert!(line.contains("web") && line.contains(&id), "{line}");
    assert_eq!(object["kind"], "image-in-use");
    let (line, object) = tool.error(&["create", "--name", "web", "base:1"]);
    assert!(line.contains("\"web\""), "{line}");
    assert_eq!(object["kind"], "name-in-use");
    for words in [&["create", "--name", "not/one", "base:1"][..], &["tag", "base:1", "Not:one"]] {
        let (line, object) = tool.error(words);
        assert!(line.contains("one\""), "{line}");
        assert_eq!(object["kind"], "invalid-name");
    }
}

#[test]
fn a_mounted_container_is_not_removed_unless_forced() {
    privilege::under(&[Privilege::Root, Privilege::SingleId], |_| {
        let tool = Tool::with("overlay");
        tool.load_base();
        tool.text(&["create", "--name", "web", "base:1"]);
        let path = tool.word(&["mount", "web"]);
        let (line, object) = tool.error(&["rm", "web"]);
        assert!(line.contains("plywood umount web"), "{line}");
        assert_eq!(object["kind"], "container-mounted");
        assert_eq!(tool.text(&["rm", "-f", "web"]), "web\n");
        assert!(!Path::new(&path).exists());
    });
}

#[test]
fn of_several_things_one_failure_does_not_stop_the_rest() {
    let tool = Tool::with("copy");
    tool.load_base();
    tool.text(&["create", "--name", "one", "base:1"]);
    tool.text(&["create", "--name", "two", "base:1"]);
    let output = tool.run(&["rm", "one", "none", "two", "--json"]);
    assert_eq!(output.status.code(), Some(1));
    let removed: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(removed.as_array().unwrap().len(), 2);
    let error: Value = serde_json::from_slice(&output.stderr).unwrap();
    assert_eq!(error["kind"], "not-found");
}

#[test]
fn wrong_usage_is_status_two_and_touches_nothing() {
    let tool = Tool::new();
    for (words, said) in [
        (&["bogus"][..], "bogus"),
        (&["load", "-i", "x", "y"], "cannot be used with"),
        (&["images", "--bogus"], "--bogus"),
        (&["create"], "<IMAGE>"),
        (&["save", "--format", "zip", "x"], "zip"),
        (&["ps", "--driver", "zfs"], "zfs"),
        (&["commit", "x", "-c", "BOGUS 1"], "BOGUS"),
        (&["commit", "x", "--created", "yesterday"], "yesterday"),
        (&["create", "-l", "=x", "y"], "needs a key"),
    ] {
        let (text, object) = tool.usage(words);
        assert!(text.contains(said), "{text}");
        assert!(object["error"].as_str().unwrap().contains(said), "{object}");
    }
    assert!(!tool.root().exists());
}

#[test]
fn help_and_version_are_no_failures() {
    let tool = Tool::new();
    for words in
        [&["--help"][..], &["help", "load"], &["commit", "--help"], &["--version"], &["image", "ls", "-h"]]
    {
        assert!(!tool.text(words).is_empty());
    }
    assert_eq!(tool.text(&["version"]), concat!("plywood ", env!("CARGO_PKG_VERSION"), "\n"));
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        assert!(tool.text(&["completions", shell]).contains("plywood"), "{shell}");
    }
    assert!(!tool.root().exists());
}

#[test]
fn listing_makes_no_store() {
    let tool = Tool::with("copy");
    for words in [&["images"][..], &["ps"], &["gc"]] {
        let output = tool.run(&[words, &["--json"]].concat());
        assert!(output.status.success(), "{words:?}");
        serde_json::from_slice::<Value>(&output.stdout).unwrap();
        assert!(String::from_utf8(output.stderr).unwrap().contains("plywood load"), "{words:?}");
        assert_eq!(tool.run(&[words, &["-q"]].concat()).stderr, b"");
    }
    let (line, object) = tool.error(&["inspect", "x"]);
    assert!(line.contains("`plywood load` makes a store"), "{line}");
    assert_eq!(object["kind"], "not-a-store");
    assert!(!tool.root().exists());
}

#[test]
fn a_directory_that_is_something_else_stays_so() {
    let tool = Tool::with("copy");
    fs::create_dir(tool.root()).unwrap();
    fs::write(tool.root().join("mine"), "").unwrap();
    let archive = tool.file("base.tar", Layout::of(&base()).docker_archive());
    let (line, _) = tool.error(&["load", "-i", &archive]);
    assert!(line.contains(tool.root().to_str().unwrap()), "{line}");
    tool.error(&["images"]);
    assert_eq!(fs::read_dir(tool.root()).unwrap().count(), 1);
}

#[test]
fn a_bad_archive_is_refused_in_one_line_that_names_it() {
    let tool = Tool::with("copy");
    tool.load_base();
    let whole = Layout::of(&base()).docker_archive();
    let mut damaged = Layout::of(&base());
    let layer = damaged.images[0].layers[0].clone();
    damaged.blobs.get_mut(&layer).unwrap()[600] ^= 1;
    for (name, bytes) in [
        ("empty", Vec::new()),
        ("text", b"this is no archive\n".repeat(100)),
        ("cut", whole[..whole.len() / 2].to_vec()),
        ("damaged", damaged.oci_archive()),
    ] {
        let before = tool.json(&["images"]);
        let path = tool.file(name, bytes);
        tool.error(&["load", "-i", &path]);
        assert_eq!(tool.json(&["images"]), before, "{name}");
    }
    let (line, object) = tool.error(&["load", "-i", &tool.path("missing")]);
    assert!(line.contains("missing"), "{line}");
    assert_eq!(object["kind"], "not-found");
}

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
    let blob = tool.root().join("oci").join(common::image::blob_path(layer));
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
        common::run("kill", [format!("-{signal}"), id]);
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

#[test]
fn a_store_that_may_not_be_read_is_named() {
    privilege::under(&[Privilege::Plain], |_| {
        let tool = Tool::new();
        tool.load_base();
        fs::set_permissions(tool.root(), fs::Permissions::from_mode(0o000)).unwrap();
        let (line, object) = tool.error(&["images"]);
        fs::set_permissions(tool.root(), fs::Permissions::from_mode(0o700)).unwrap();
        assert!(line.contains(tool.root().to_str().unwrap()), "{line}");
        assert_eq!(object["kind"], "permission");
    });
}

#[test]
fn the_environment_says_where_the_store_is_and_options_say_it_louder() {
    privilege::under(&[Privilege::SingleId, Privilege::Plain], |_| {
        let tool = Tool::with("copy");
        let archive = tool.file("base.tar", Layout::of(&base()).docker_archive());
        let run = |variables: &[(&str, &str)], words: &[&str]| {
            let mut command = privilege::plywood().unwrap();
            command.args(words).env("HOME", tool.home.path()).envs(variables.iter().copied());
            let output = command.stdin(Stdio::null()).output().unwrap();
            assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        };
        let is_store = |path: &str| tool.home.path().join(path).join("store.json").is_file();
        let at = |path: &str| tool.path(path);
        run(&[], &["load", "-i", &archive]);
        assert!(is_store(".local/share/plywood"));
        run(&[("XDG_DATA_HOME", &at("data")), ("PLYWOOD_ROOT", "")], &["load", "-i", &archive]);
        assert!(is_store("data/plywood"));
        run(&[("PLYWOOD_ROOT", &at("variable")), ("PLYWOOD_DRIVER", "copy")], &["load", "-i", &archive]);
        assert!(is_store("variable"));
        run(&[("PLYWOOD_ROOT", &at("variable"))], &["load", "-i", &archive, "--root", &at("option")]);
        assert!(is_store("option"));
    });
}

#[test]
fn a_driver_that_does_not_work_here_says_why() {
    privilege::under(&[Privilege::Plain], |_| {
        let tool = Tool::with("overlay");
        tool.load_base();
        let output = tool.run(&["create", "base:1", "--json"]);
        assert_eq!(output.status.code(), Some(1));
        let object: Value = serde_json::from_slice(&output.stderr).unwrap();
        assert_eq!(object["kind"], "driver-refused");
        assert_eq!(object["driver"], "overlay");
        assert_ne!(object["reason"], "");
        assert_eq!(tool.json(&["info"])["driver"], Value::Null);
    });
}

#[test]
fn a_damaged_image_is_named_with_what_to_do_and_can_be_removed() {
    let tool = Tool::new();
    tool.load_base();
    let digest = tool.json(&["images"])[0]["digest"].as_str().unwrap().to_owned();
    let manifest = tool.root().join("oci/blobs/sha256").join(digest.strip_prefix("sha256:").unwrap());
    fs::write(manifest, "{}").unwrap();
    let output = tool.run(&["images"]);
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.success() && !String::from_utf8(output.stdout).unwrap().contains("base"), "{said}");
    for word in [&digest, "base:1", "damaged", "plywood rmi --force"] {
        assert!(said.contains(word), "{word}: {said}");
    }
    for words in [&["gc"][..], &["create", "base:1"], &["rmi", "base:1"]] {
        let output = tool.run(words);
        assert_eq!(output.status.code(), Some(1), "{words:?}");
        let said = String::from_utf8(output.stderr).unwrap();
        assert!(said.contains("plywood rmi --force"), "{words:?}: {said}");
    }
    assert_eq!(tool.text(&["rmi", "--force", "base:1"]), "Untagged: base:1\n");
    tool.text(&["gc"]);
    assert!(fs::read_dir(tool.root().join("oci/blobs/sha256")).unwrap().next().is_none());
}

#[test]
fn a_check_says_what_is_wrong_and_fails_if_something_is() {
    let tool = Tool::new();
    tool.load_base();
    assert!(tool.text(&["check", "--deep"]).ends_with("all is well\n"));
    let layers = tool.root().join("layers");
    let layer = fs::read_dir(&layers).unwrap().next().unwrap().unwrap().path();
    fs::write(layer.join("tree/stranger"), "").unwrap();
    assert!(tool.text(&["check"]).ends_with("all is well\n"));
    let output = tool.run(&["check", "--deep"]);
    assert_eq!(output.status.code(), Some(1));
    let said = String::from_utf8(output.stdout).unwrap();
    assert!(said.contains("/stranger\" does not belong there; needed by image base:1"), "{said}");
    assert!(said.ends_with("1 thing wrong\n"), "{said}");
    let output = tool.run(&["check", "--deep", "--json"]);
    assert_eq!((output.status.code(), &output.stderr[..]), (Some(1), &b""[..]));
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(report["damages"][0]["kind"], "layer");
    assert_eq!(report["damages"][0]["needed_by"][0], "image base:1");
}

#[test]
fn a_root_is_mounted_as_it_was_asked_for() {
    privilege::under(&[Privilege::Root], |_| {
        let tool = Tool::with("overlay");
        tool.load_base();
        let create = |words: &[&str]| tool.word(&[&["create"], words, &["base:1"]].concat());
        let ids = create(&["--id-map", "300000:65536", "--nodev", "--nosuid"]);
        let root = tool.word(&["mount", &ids]);
        assert_eq!(fs::metadata(Path::new(&root).join("etc")).unwrap().uid(), 300_000);
        let mounts = fs::read_to_string("/proc/self/mounts").unwrap();
        let line = mounts.lines().find(|line| line.contains(&ids)).unwrap();
        assert!(line.contains("nosuid") && line.contains("nodev"), "{line}");
        tool.text(&["umount", &ids]);

        let volatile = create(&["--volatile"]);
        tool.word(&["mount", &volatile]);
        tool.text(&["umount", &volatile]);
        let again = tool.run(&["mount", &volatile]);
        assert_eq!(again.status.code(), Some(1));
        assert!(String::from_utf8(again.stderr).unwrap().contains("volatile"));

        for wrong in ["5", "5:", "x:1", "5:0", "4294967295:1"] {
            let output = tool.run(&["create", "--id-map", wrong, "base:1"]);
            assert_eq!(output.status.code(), Some(2), "{wrong}");
        }
        let both = tool.run(&["create", "--from-container", &ids, "--volatile"]);
        assert_eq!(both.status.code(), Some(2));
    });
}
