//! What people find who come with the words of docker and podman, or who guess.

use std::fs;

use crate::common::image::{Layout, image};
use crate::common::privilege::{self, Privilege};
use crate::common::tar::tar;
use serde_json::{Value, json};

use crate::tool::*;

#[test]
fn a_command_of_other_tools_is_answered_with_what_does_it_here() {
    let tool = Tool::new();
    for (words, next) in [
        (&["run", "debian"][..], "`plywood mount`"),
        (&["exec", "web", "sh"], "runs no processes"),
        (&["container", "start", "web"], "runs no processes"),
        (&["build", "."], "`plywood commit`"),
        (&["ls"], "`plywood images`"),
        (&["df"], "`plywood system df`"),
        (&["prune"], "`plywood system prune`"),
        (&["volume", "ls"], "only images and containers"),
        (&["image", "remove", "x"], "`plywood image rm`"),
        (&["fsck"], "`plywood check`"),
        (&["system", "reset"], "a directory"),
        (&["create", "-it", "debian", "sh"], "runs nothing"),
        (&["create", "debian", "sh"], "plywood commit -c"),
        (&["system", "prune", "-af", "--volumes"], "no volumes"),
        (&["ps", "--format", "{{.ID}}"], "--json"),
        (&["commit", "-p", "web", "x"], "leave it out"),
    ] {
        let (text, object) = tool.usage(words);
        assert!(text.contains(next), "{words:?}: {text}");
        assert!(object["hint"].as_str().unwrap().contains(next), "{words:?}: {object}");
        assert!(!text.contains("as a value, use"), "{words:?}: {text}");
    }
    let (text, _) = tool.usage(&["imgaes"]);
    assert!(text.contains("'images'"), "{text}");
}

#[test]
fn a_mistake_is_answered_with_the_command_and_not_with_the_environment() {
    let tool = Tool::new();
    let run = |words: &[&str]| {
        let mut command = privilege::plywood().unwrap();
        let output = command.args(words).env("PLYWOOD_ROOT", tool.root()).output().unwrap();
        assert_eq!(output.status.code(), Some(2), "{words:?}");
        String::from_utf8(output.stderr).unwrap()
    };
    let text = run(&["tag", "x"]);
    assert!(text.contains("Usage: plywood tag [OPTIONS] <IMAGE> <NAME>"), "{text}");
    // A group of commands alone shows what there is.
    for words in [&["system"][..], &["image"], &[]] {
        let text = run(words);
        assert!(text.contains("Commands:\n") && !text.contains("error:"), "{text}");
    }
}

#[test]
fn the_short_help_has_what_is_used_daily_and_the_long_one_all() {
    let tool = Tool::new();
    let short = tool.text(&["create", "-h"]);
    assert!(
        short.contains("--json") && short.contains("--root") && !short.contains("--durability"),
        "{short}"
    );
    let (arguments, rest) = short.split_once("How the root is mounted:").unwrap();
    assert!(arguments.contains("[IMAGE]") && !rest.contains("  [IMAGE]"), "{short}");
    assert!(tool.text(&["create", "--help"]).contains("--durability"));
}

#[test]
fn an_image_that_was_nearly_said_is_suggested() {
    let tool = Tool::with("copy");
    let archive = Layout::of(&base().name("quay.io/team/web:3")).docker_archive();
    tool.text(&["load", "-i", &tool.file("both.tar", archive)]);
    for (said, meant) in [
        ("web", "quay.io/team/web:3"),
        ("web:3", "quay.io/team/web:3"),
        ("base", "base:1"),
        ("bsae:1", "base:1"),
        ("base:2", "base:1"),
        ("other/base", "base:1"),
    ] {
        let (line, object) = tool.error(&["history", said]);
        assert!(line.ends_with(&format!("did you mean {meant}?")), "{line}");
        assert_eq!(object["hint"], format!("did you mean {meant}?"));
    }
    for said in ["nope", "nope:1", "x"] {
        let (line, _) = tool.error(&["history", said]);
        assert!(line.contains("`plywood images` lists"), "{line}");
    }
}

#[test]
fn candidates_for_the_beginning_of_an_id_are_told_by_what_begins_so() {
    let tool = Tool::with("copy");
    // Of enough images, two begin alike.
    let mut layout = Layout::default();
    for number in 0..20 {
        layout.add(&image().layer(tar().file("number", number.to_string()).finish()));
    }
    tool.text(&["load", "-q", "-i", &tool.file("many.tar", layout.oci_archive())]);
    let ids: Vec<_> = layout.images.iter().flat_map(|added| [&added.config, &added.manifest]).collect();
    let digit = ids.iter().map(|id| &id[7..8]).find(|digit| {
        let of = |added: &&crate::common::image::Added| {
            [&added.config, &added.manifest].iter().any(|id| id[7..].starts_with(*digit))
        };
        layout.images.iter().filter(of).count() > 1
    });
    let (line, object) = tool.error(&["create", digit.unwrap()]);
    assert_eq!(object["kind"], "ambiguous");
    let (_, candidates) = line.split_once(" image: ").unwrap();
    for candidate in candidates.split(", ") {
        assert!(candidate.starts_with(&format!("sha256:{}", digit.unwrap())), "{candidate} in {line}");
    }
}

#[test]
fn what_is_no_image_archive_is_named_with_what_can_be_done() {
    let tool = Tool::with("copy");
    let root = tool.file("root.tar", tar().dir("etc").file("etc/hosts", "x").finish());
    let (line, _) = tool.error(&["load", "-i", &root]);
    assert!(line.starts_with(&format!("{root:?}: not an image archive")), "{line}");
    assert!(line.contains(&format!("`plywood import {root} NAME`")), "{line}");
    let directory = tool.path("tree");
    fs::create_dir_all(format!("{directory}/etc")).unwrap();
    let (line, _) = tool.error(&["load", &directory]);
    assert!(line.contains(&format!("`plywood import {directory} NAME`")), "{line}");
    let (line, _) = tool.error(&["load"]);
    assert!(line.starts_with("standard input: not an image archive, but nothing"), "{line}");
    let (line, _) = tool.error(&["import", "me/base:1", &root]);
    assert!(line.contains("`plywood import SOURCE NAME`"), "{line}");
}

#[test]
fn a_store_that_cannot_be_used_is_answered_with_how_to_name_another() {
    let tool = Tool::with("copy");
    fs::create_dir(tool.root()).unwrap();
    fs::write(tool.root().join("mine"), "").unwrap();
    for words in
        [&["images"][..], &["load", "-i", &tool.file("base.tar", Layout::of(&base()).docker_archive())]]
    {
        let (line, _) = tool.error(words);
        assert!(line.contains("--root or PLYWOOD_ROOT says which"), "{line}");
    }
    privilege::under(&[Privilege::Plain], |_| {
        let tool = Tool::with("copy");
        tool.load_base();
        let locks = tool.root().join("locks");
        let mode = |mode| fs::set_permissions(&locks, std::os::unix::fs::PermissionsExt::from_mode(mode));
        mode(0).unwrap();
        let (line, object) = tool.error(&["images"]);
        mode(0o700).unwrap();
        assert!(line.contains("a store of your own"), "{line}");
        assert_eq!(object["kind"], "permission");
    });
}

#[test]
fn an_image_for_another_machine_is_used_and_says_so() {
    let tool = Tool::with("copy");
    let root = tool.file("root.tar", tar().file("x", "x").finish());
    tool.text(&["import", &root, "foreign:1", "--platform", "linux/s390x"]);
    let output = tool.run(&["create", "--name", "web", "foreign:1"]);
    assert!(output.status.success());
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(said.contains("foreign:1 is for linux/s390x, and this machine is"), "{said}");
    assert_eq!(tool.run(&["create", "-q", "foreign:1"]).stderr, b"");
}

#[test]
fn a_taken_name_is_answered_with_both_ways_out() {
    let tool = Tool::with("copy");
    tool.load_base();
    tool.text(&["create", "--name", "web", "base:1"]);
    tool.text(&["create", "--name", "other", "base:1"]);
    for words in [&["create", "--name", "web", "base:1"][..], &["rename", "other", "web"]] {
        let (line, _) = tool.error(words);
        assert!(line.contains("choose another") && line.contains("`plywood rm web`"), "{line}");
    }
}

#[test]
fn lists_take_names_and_filters() {
    let tool = Tool::with("copy");
    let mut layout = Layout::of(&base().name("localhost:5000/base:2"));
    layout.add(&image().layer(tar().file("x", "x").finish()).name("docker.io/library/more:1"));
    layout.add(
        &image().layer(tar().file("y", "y").finish()).set("Labels", json!({"role": "none", "job": "1"})),
    );
    tool.text(&["load", "-q", "-i", &tool.file("all.tar", layout.oci_archive())]);
    let rows = |words: &[&str]| {
        let table = tool.text(&[&["images"], words].concat());
        let row = |line: &str| line.split_whitespace().take(2).collect::<Vec<_>>().join(":");
        table.lines().skip(1).map(row).collect::<Vec<_>>()
    };
    assert_eq!(rows(&["-a"]), ["base:1", "localhost:5000/base:2", "more:1", "<none>:<none>"]);
    assert_eq!(rows(&["base"]), ["base:1"]);
    assert_eq!(rows(&["*base"]), ["base:1", "localhost:5000/base:2"]);
    assert_eq!(rows(&["-f", "reference=localhost:5000/*"]), ["localhost:5000/base:2"]);
    assert_eq!(rows(&["-f", "dangling=true"]), ["<none>:<none>"]);
    assert_eq!(rows(&["--filter", "dangling=false", "more"]), ["more:1"]);
    assert_eq!(rows(&["-f", "label=role", "-f", "label=job=1"]), ["<none>:<none>"]);
    assert_eq!(rows(&["-f", "label=job=2"]), [""; 0]);
    assert_eq!(rows(&["-f", "until=2024-01-01"]), [""; 0]);
    assert_eq!(rows(&["-f", "until=2024-01-02"]).len(), 4);
    assert_eq!(tool.word(&["images", "-q", "-f", "dangling=true"]), layout.images[2].config);
    assert_eq!(tool.json(&["images", "more"])[0]["names"], json!(["more:1"]));
    let table = tool.text(&["images", "--digests", "more"]);
    assert!(table.contains("DIGEST") && table.contains(&layout.images[1].manifest), "{table}");

    let web = tool.word(&["create", "--name", "web", "-l", "job=1", "base:1"]);
    let other = tool.word(&["create", "--name", "other", "more:1"]);
    let listed = |filters: &[&str]| {
        let filters = filters.iter().flat_map(|filter| ["-f", *filter]);
        tool.text(&[&["ps", "-q"][..], &filters.collect::<Vec<_>>()].concat())
    };
    for (filters, id) in [
        (&["name=we"][..], &web),
        (&[&format!("id={}", &web[..20])], &web),
        (&["label=job"], &web),
        (&["label=job=1", "state=created"], &web),
        (&["ancestor=base:1"], &web),
        (&[&format!("ancestor={}", layout.images[1].config)], &other),
        (&["ancestor=more:1", "status=created"], &other),
    ] {
        assert_eq!(listed(filters), format!("{id}\n"), "{filters:?}");
    }
    assert_eq!(listed(&["label=job=2"]), "");
    let (text, _) = tool.usage(&["ps", "-f", "status=exited"]);
    assert!(text.contains("created, mounted and dead"), "{text}");
    let (text, _) = tool.usage(&["images", "-f", "name=x"]);
    assert!(text.contains("reference="), "{text}");
}

#[test]
fn what_is_mounted_is_listed() {
    privilege::under(&[Privilege::Root, Privilege::SingleId], |_| {
        let tool = Tool::with("overlay");
        tool.load_base();
        let id = tool.word(&["create", "--name", "web", "base:1"]);
        tool.text(&["create", "--name", "idle", "base:1"]);
        assert_eq!(tool.json(&["mount"]), json!([]));
        let path = tool.word(&["mount", "web"]);
        assert_eq!(tool.json(&["mount"]), json!([{"id": id, "name": "web", "path": path}]));
        assert!(tool.text(&["mount"]).ends_with(&format!("web    {path}\n")));
        tool.text(&["umount", "web"]);
    });
    let nowhere = Tool::new();
    assert_eq!(nowhere.run(&["mount", "-q"]).status.code(), Some(0));
    assert!(!nowhere.root().exists());
}

#[test]
fn inspect_prints_what_a_template_asks_for() {
    let tool = Tool::with("copy");
    let id = tool.load_base();
    tool.text(&["create", "--name", "web", "base:1"]);
    assert_eq!(tool.word(&["inspect", "-f", "{{.Id}}", "base:1"]), id);
    assert_eq!(tool.text(&["inspect", "base:1", "web", "--format", "<{{.Id}}>"]).lines().count(), 2);
    assert_eq!(tool.word(&["inspect", "-f", "{{.State.Status}}", "web"]), "created");
    assert_eq!(tool.word(&["image", "inspect", "-f", "{{json .Config.Cmd}}", "base:1"]), r#"["/bin/sh"]"#);
    let object: Value = serde_json::from_str(&tool.word(&["inspect", "-f", "json", "base:1"])).unwrap();
    assert_eq!(object["Id"], id);
    let output = tool.run(&["inspect", "-f", "{{.Nope}}", "base:1"]);
    assert_eq!((output.status.code(), &*output.stdout), (Some(2), &b""[..]));
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(said.contains("there is no field .Nope; there are: ") && said.contains("RepoTags"), "{said}");
    let output = tool.run(&["inspect", "-f", "{{range .RepoTags}}{{.}}{{end}}", "base:1"]);
    assert!(String::from_utf8(output.stderr).unwrap().contains("jq"));
}

#[test]
fn where_nothing_is_to_be_removed_that_is_said() {
    let tool = Tool::with("copy");
    tool.load_base();
    for words in
        [&["gc"][..], &["image", "prune"], &["container", "prune", "-f"], &["builder", "prune", "-n"]]
    {
        assert_eq!(tool.text(words), "nothing to remove\n", "{words:?}");
    }
    tool.text(&["rmi", "base:1"]);
    assert!(tool.text(&["gc", "-n"]).starts_with("would remove 4 blobs and 2 layers: "));
}
