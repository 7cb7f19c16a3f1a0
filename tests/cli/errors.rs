//! What goes wrong is said in one line, with the next step, and with a status that means something.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use crate::common::image::Layout;
use crate::common::privilege::{self, Privilege};
use serde_json::Value;

use crate::tool::*;

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
    assert!(tool.text(&["man"]).contains("additional\\-store"));
    let pages = tool.path("pages");
    let (error, _) = tool.error(&["man", &pages]);
    assert!(error.contains("write manual pages into") && error.contains("No such file"), "{error}");
    std::fs::create_dir(&pages).unwrap();
    assert_eq!(tool.text(&["man", &pages]), "");
    let load = std::fs::read_to_string(format!("{pages}/plywood-load.1")).unwrap();
    // What the short help passes over is there, and examples stand as they were written.
    for word in [
        "repository",
        "What to wait for before success",
        "docker save debian:12 | plywood load",
        "EXIT STATUS",
    ] {
        assert!(load.contains(word), "{word}: {load}");
    }
    let all = std::fs::read_to_string(format!("{pages}/plywood.1")).unwrap();
    for word in ["EXIT STATUS", "PLYWOOD_ADDITIONAL_STORES", "/var/lib/plywood", "plywood\\-load"] {
        assert!(all.contains(word), "{word}: {all}");
    }
    for page in ["plywood.1", "plywood-create.1", "plywood-images.1"].map(|name| format!("{pages}/{name}")) {
        let output = std::process::Command::new("man").args(["--warnings", "-l"]).arg(&page).output().ok();
        // Not every machine has a typesetter.
        if let Some(output) = output.filter(|output| output.status.success()) {
            assert_eq!(String::from_utf8_lossy(&output.stderr), "", "{page:?}");
        }
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
    // Other bytes of the same length are found by reading only; a name more or less is counted.
    let file = ["tree/etc/hosts", "tree/etc/issue"]
        .map(|file| layer.join(file))
        .into_iter()
        .find(|file| file.exists());
    let file = file.unwrap();
    let bytes = fs::read(&file).unwrap();
    fs::write(&file, vec![b'x'; bytes.len()]).unwrap();
    assert!(tool.text(&["check"]).ends_with("all is well\n"));
    assert_eq!(tool.run(&["check", "--deep"]).status.code(), Some(1));
    fs::write(&file, bytes).unwrap();
    fs::write(layer.join("tree/stranger"), "").unwrap();
    let output = tool.run(&["check"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8(output.stdout).unwrap().ends_with("1 thing wrong\n"));
    let output = tool.run(&["check", "--deep"]);
    assert_eq!(output.status.code(), Some(1));
    let said = String::from_utf8(output.stdout).unwrap();
    assert!(said.contains("/stranger\" does not belong there"), "{said}");
    assert!(said.contains("needed by image base:1"), "{said}");
    assert!(said.ends_with("1 thing wrong\n"), "{said}");
    let output = tool.run(&["check", "--deep", "--json"]);
    assert_eq!((output.status.code(), &output.stderr[..]), (Some(1), &b""[..]));
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(report["damages"][0]["kind"], "layer");
    assert_eq!(report["damages"][0]["needed_by"][0], "image base:1");
}

#[test]
fn a_damaged_container_is_listed_apart_and_can_be_removed_by_force() {
    let tool = Tool::new();
    tool.load_base();
    let id = tool.text(&["create", "--name", "web", "base:1"]).trim().to_owned();
    tool.text(&["create", "--name", "other", "base:1"]);
    fs::write(tool.root().join("containers").join(&id).join("container.json"), "{").unwrap();
    let output = tool.run(&["ps"]);
    let (listed, said) =
        (String::from_utf8(output.stdout).unwrap(), String::from_utf8(output.stderr).unwrap());
    assert!(output.status.success() && listed.contains("other") && !listed.contains("web"), "{listed}{said}");
    for word in [&id, "web", "damaged", "plywood rm --force"] {
        assert!(said.contains(word), "{word}: {said}");
    }
    let output = tool.run(&["rm", "web"]);
    assert_eq!(output.status.code(), Some(1));
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(said.contains("plywood rm --force"), "{said}");
    assert_eq!(tool.text(&["rm", "--force", &id[..12]]), format!("{}\n", &id[..12]));
    assert!(!tool.root().join("containers").join(&id).exists());
    tool.text(&["gc"]);
}
