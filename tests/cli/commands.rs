//! What every command does, prints for people and gives to programs.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use crate::common::image::{Compression, Layout, image};
use crate::common::privilege::{self, Privilege};
use serde_json::Value;

use crate::tool::*;

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
    let members = String::from_utf8(crate::common::run("tar", ["-tf", &exported])).unwrap();
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

    let used = tool.json(&["system", "df"]);
    assert_eq!(used["images"][0]["containers"], 1);
    assert_eq!(used["reclaimable"], serde_json::json!({"blobs": 0, "layers": 0}));
    assert_eq!(used["containers"][0]["size"], used["writable"]);
    let said = tool.text(&["system", "df", "-v"]);
    for word in ["RECLAIMABLE", "\nImages  ", "\nContainers:\n", "base:1", "0B (0%)"] {
        assert!(said.contains(word), "{word}: {said}");
    }
}

#[test]
fn every_command_prints_one_json_value() {
    let tool = Tool::with("copy");
    let archive = tool.file("base.tar", Layout::of(&base()).docker_archive());
    let (saved, exported) = (tool.path("saved.tar"), tool.path("root.tar"));
    let (directory, pages) = (tool.path("saved"), tool.path("pages"));
    fs::create_dir(&pages).unwrap();
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
        &["man"],
        &["man", &pages],
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

#[test]
fn pruning_tells_what_goes_and_a_dry_run_that_it_would() {
    let tool = Tool::with("copy");
    let base = tool.load_base();
    tool.text(&["create", "--name", "old", "--label", "job=1", "base:1"]);
    tool.text(&["create", "--name", "other", "base:1"]);
    fs::write(format!("{}/new", tool.word(&["mount", "old"])), "new").unwrap();
    let loose = tool.word(&["commit", "--created", "@100", "old"]);

    let text = tool.text(&["image", "prune", "-n"]);
    let expected = format!("Image: {loose}\nwould remove 1 image and 3 blobs: ");
    assert!(text.starts_with(&expected), "{text}");
    assert_eq!(tool.text(&["image", "prune", "-q", "--filter", "until=1970-01-01"]), "");
    let pruned = tool.json(&["image", "prune", "-f", "--filter", "until=1h"]);
    assert_eq!(pruned["images"][0]["id"], loose.as_str());
    assert_eq!(pruned["images"].as_array().unwrap().len(), 1);
    assert_eq!(pruned["dry_run"], false);

    assert_eq!(tool.text(&["container", "prune", "-q", "--filter", "label!=job", "-n"]).lines().count(), 1);
    let text = tool.text(&["container", "prune", "--filter", "label=job=1"]);
    assert!(text.starts_with("Container: old\nremoved 1 container"), "{text}");
    assert_eq!(tool.text(&["image", "prune", "-aq"]), "");
    let text = tool.text(&["system", "prune", "-a"]);
    assert!(
        text.contains("Container: other\n") && text.contains(&format!("Image: {base} (base:1)\n")),
        "{text}"
    );
    assert_eq!(tool.text(&["images", "-q"]), "");

    assert_eq!(tool.text(&["builder", "ls", "-q"]), "");
    tool.load_base();
    let store = plywood::Store::open(tool.root()).unwrap();
    let key = plywood::StepKey::new(None, b"FROM base:1");
    store.build_cache().record(&key, &store.image("base:1").unwrap(), Some("FROM base:1")).unwrap();
    let list = tool.text(&["builder", "ls"]);
    assert!(list.contains(&key.to_string()[..12]) && list.contains("FROM base:1"), "{list}");
    assert_eq!(tool.json(&["builder", "ls"])[0]["key"], key.to_string());
    let df = tool.text(&["system", "df"]);
    let row = df.lines().find(|line| line.starts_with("Build cache")).unwrap();
    assert_eq!(row.split_whitespace().nth(2), Some("1"), "{df}");
    tool.text(&["rmi", "base:1"]);
    let text = tool.text(&["builder", "prune"]);
    assert!(text.starts_with(&format!("Step: {key} (FROM base:1)\nremoved 1 step")), "{text}");
    assert_eq!(tool.json(&["system", "df"])["total"]["blobs"], 0);

    let (text, _) = tool.usage(&["image", "prune", "--filter", "until=yesterday"]);
    assert!(text.contains("neither a time"), "{text}");
    let (text, _) = tool.usage(&["container", "prune", "--filter", "dangling=true"]);
    assert!(text.contains("is a filter for images"), "{text}");
}
