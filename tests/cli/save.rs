//! The forms that images leave the store in.

use std::fs;
use std::path::Path;

use serde_json::Value;

use crate::common::image::Layout;
use crate::common::tree::snapshot;
use crate::tool::*;

/// The files of an archive, unpacked by GNU tar.
fn unpacked(tool: &Tool, archive: &str, name: &str) -> String {
    let into = tool.path(name);
    fs::create_dir(&into).unwrap();
    crate::common::run("tar", ["-xf", archive, "-C", &into]);
    into
}

#[test]
fn every_form_loads_as_the_same_image() {
    let tool = Tool::new();
    let id = tool.load_base();
    for (format, compression) in [
        ("docker-archive", "keep"),
        ("classic-docker-archive", "keep"),
        ("oci-archive", "gzip:9"),
        ("oci-dir", "zstd"),
        ("docker-archive", "none"),
    ] {
        let out = tool.path(&format!("{format}-{compression}"));
        tool.text(&["save", "--format", format, "--compression", compression, "-o", &out, "base:1"]);
        let other = Tool::new();
        assert_eq!(other.word(&["load", "-q", &out]), id, "{format} {compression}");
        assert_eq!(other.json(&["images"])[0]["names"], serde_json::json!(["base:1"]));
        other.word(&["create", "base:1"]);
    }
}

#[test]
fn a_store_that_can_only_be_read_saves_layers_compressed_otherwise() {
    let tool = Tool::new();
    let id = tool.load_base();
    let record = tool.root().join("store.json");
    let json = fs::read_to_string(&record).unwrap();
    let later = json.replace("\"readOnlyCompatible\":[]", "\"readOnlyCompatible\":[\"later\"]");
    assert_ne!(json, later);
    fs::write(record, later).unwrap();
    let before = snapshot(tool.root());
    let temporary = tool.path("tmp");
    fs::create_dir(&temporary).unwrap();
    let out = tool.path("zstd.tar");
    let words = ["save", "--format", "oci-archive", "--compression", "zstd", "-o", &out, "base:1"];
    let saved = tool.command(&words).env("TMPDIR", &temporary).output().unwrap();
    assert!(saved.status.success(), "{}", String::from_utf8_lossy(&saved.stderr));
    snapshot(tool.root()).assert_same(&before, "after saving");
    assert_eq!(fs::read_dir(temporary).unwrap().count(), 0);
    assert_eq!(Tool::new().word(&["load", "-q", &out]), id);
}

#[test]
fn a_classic_archive_has_what_old_tools_look_for() {
    let tool = Tool::new();
    let id = tool.load_base();
    let out = tool.path("classic.tar");
    tool.text(&["save", "--format", "classic-docker-archive", "-o", &out, &id]);
    let files = unpacked(&tool, &out, "files");
    let file = |name: &str| fs::read(Path::new(&files).join(name)).unwrap();
    let manifest: Value = serde_json::from_slice(&file("manifest.json")).unwrap();
    assert_eq!(
        manifest[0]["RepoTags"],
        serde_json::json!(["docker.io/library/base:1"]),
        "by id, with its names"
    );
    assert_eq!(
        format!("sha256:{}", crate::common::sha256(&file(manifest[0]["Config"].as_str().unwrap()))),
        id
    );
    let repositories: Value = serde_json::from_slice(&file("repositories")).unwrap();
    let top = repositories["docker.io/library/base"]["1"].as_str().unwrap();
    let json: Value = serde_json::from_slice(&file(&format!("{top}/json"))).unwrap();
    assert_eq!(json["id"], top);
    let below = json["parent"].as_str().unwrap();
    let layers = [below, top].map(|id| file(&format!("{id}/layer.tar")));
    for (name, layer) in manifest[0]["Layers"].as_array().unwrap().iter().zip(layers) {
        assert_eq!(file(name.as_str().unwrap()), layer);
    }
}

#[test]
fn a_platform_that_an_image_is_not_for_is_an_error_that_names_those_that_it_is_for() {
    let tool = Tool::new();
    tool.load_base();
    let out = tool.path("out.tar");
    let (message, object) = tool.error(&["save", "--platform", "linux/s390x", "-o", &out, "base:1"]);
    assert!(message.contains("is not for linux/s390x, but for linux/"), "{message}");
    assert_eq!(object["kind"], "no-platform");
    assert!(!Path::new(&out).exists());
    let (message, _) = tool.usage(&["save", "--compression", "gzip:10", "-o", &out, "base:1"]);
    assert!(message.contains("\"gzip:10\" is none of keep, none, gzip"), "{message}");
}

#[test]
fn a_failed_save_leaves_what_was_there() {
    let tool = Tool::new();
    let layout = Layout::of(&base());
    tool.load_base();
    let out = tool.file("out.tar", "precious");
    let blob = layout.images[0].layers[1].replace(':', "/");
    let blob = tool.root().join("oci/blobs").join(blob);
    let mut bytes = fs::read(&blob).unwrap();
    bytes[600] ^= 1;
    fs::write(&blob, bytes).unwrap();
    for options in [
        &["--compression", "zstd"][..],
        &["--format", "classic-docker-archive"],
        &["--format", "oci-archive", "--compression", "gzip"],
    ] {
        tool.error(&[&["save", "-o", &out, "base:1"], options].concat());
        assert_eq!(fs::read(&out).unwrap(), b"precious");
    }
    let names: Vec<_> =
        fs::read_dir(tool.home.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert!(!names.iter().any(|name| name.to_str().unwrap().contains("partial")), "{names:?}");
    assert_eq!(fs::read_dir(tool.root().join("staging")).unwrap().count(), 0);
}

#[test]
fn a_delta_is_for_who_has_the_base() {
    let tool = Tool::new();
    tool.load_base();
    tool.word(&["create", "--name", "web", "base:1"]);
    tool.text(&["cp", &tool.file("page", "hello"), "web:/srv/page"]);
    tool.text(&["commit", "web", "web:1"]);
    let inspected = tool.file("inspected", tool.text(&["inspect", "base:1"]));
    for known in [["--base", "base:1"], ["--exclude-known", &inspected]] {
        for format in ["docker-archive", "oci-archive", "classic-docker-archive"] {
            let out = tool.path("delta.tar");
            tool.text(&[&["save", "--format", format, "-o", &out, "web:1"], &known[..]].concat());
            let other = Tool::new();
            let (message, object) = other.error(&["load", "-i", &out]);
            assert_eq!(object["kind"], "missing-layers");
            assert!(message.contains("load the image that it was saved for first"), "{message}");
            assert_eq!(other.json(&["images"]), serde_json::json!([]));
            other.load_base();
            other.text(&["load", "-i", &out]);
            assert_eq!(other.json(&["images"]).as_array().unwrap().len(), 2);
            assert!(other.text(&["check"]).contains("all is well"));
            other.word(&["create", "web:1"]);
        }
    }
    let empty = tool.file("empty", "no digest here");
    let (message, _) = tool.error(&["save", "--exclude-known", &empty, "-o", "/dev/null", "web:1"]);
    assert!(message.contains("names no digest of a layer"), "{message}");
}
