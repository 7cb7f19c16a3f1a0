//! An image in other forms.

use serde_json::json;

use crate::common::image::Layout;
use crate::tool::*;

#[test]
fn layers_are_squashed_from_a_layer_a_number_or_a_base_on() {
    let tool = Tool::new();
    tool.load_base();
    let layers = Layout::of(&base()).images[0].diff_ids.clone();
    let show = |name: &str| {
        tool.word(&["create", "--name", name.split(':').next().unwrap(), name]);
        tool.run(&["export", name.split(':').next().unwrap()]).stdout
    };
    let expected = show("base:1");
    let id = tool.word(&["squash", "base:1", "flat:1", "-m", "flat now", "--annotation", "a=b=c"]);
    let image = &tool.json(&["image", "inspect", "flat:1"])[0];
    assert_eq!(image["Id"], id.as_str());
    assert_eq!(image["RootFS"]["Layers"].as_array().unwrap().len(), 1);
    let top = &tool.json(&["history", "flat:1"])[0];
    assert_eq!((&top["created_by"], &top["comment"]), (&json!("plywood squash"), &json!("flat now")));
    assert!(show("flat:1") == expected);

    let made = ["--created", "0"];
    let keep = tool.word(&[&["squash", "--keep", "1", "base:1"], &made[..]].concat());
    let short = &layers[1]["sha256:".len()..][..12];
    assert_eq!(tool.word(&[&["image", "squash", "--from", short, "base:1"], &made[..]].concat()), keep);
    let (message, _) = tool.error(&["squash", "--from", "zz", "base:1"]);
    assert!(message.starts_with("base:1 has no layer zz, but sha256:"), "{message}");
    let (message, object) = tool.error(&["squash", "--base", "flat:1", "base:1"]);
    assert_eq!(message, "image base:1 is not made on flat:1, whose layers it should begin with");
    assert_eq!(object["kind"], "not-a-base");
    let (message, _) = tool.usage(&["squash", "base:1", "--compression", "keep"]);
    assert!(message.contains("a new layer has no compression to keep"), "{message}");
}

#[test]
fn an_image_is_converted_and_keeps_its_id() {
    let tool = Tool::new();
    let id = tool.load_base();
    let digest = tool.word(&["convert", "--format", "docker", "base:1", "base:docker"]);
    let image = &tool.json(&["image", "inspect", "base:docker"])[0];
    assert_eq!((&image["Id"], &image["ManifestDigest"]), (&json!(id), &json!(digest)));
    assert!(image["Descriptor"]["mediaType"].as_str().unwrap().starts_with("application/vnd.docker."));
    let made = tool.json(&["convert", "--annotation", "a=b", "--compression", "zstd", "base:1", "base:1"]);
    assert_eq!((&made["id"], &made["names"]), (&json!(id), &json!(["base:1"])));
    assert_eq!(made["warnings"], json!([]));
    let (message, object) = tool.error(&["convert", "--format", "docker", "--compression", "gzip", "base:1"]);
    assert_eq!(object["kind"], "not-in-docker");
    assert!(message.ends_with("--lossy leaves it out"), "{message}");
    let (message, _) = tool.error(&["convert", "--format", "docker", "--lossy", "base:1"]);
    assert!(message.ends_with("--compression gzip makes layers that docker reads"), "{message}");
    tool.word(&["convert", "--format", "docker", "--lossy", "--compression", "gzip", "base:1", "base:2"]);
    tool.usage(&["convert", "base:1"]);
    tool.usage(&["convert", "--lossy", "--format", "oci", "base:1"]);
}

#[test]
fn what_is_about_an_image_is_listed_and_artifacts_are_told_apart() {
    let tool = Tool::new();
    let mut layout = Layout::of(&base());
    let mut subject = layout.index["manifests"][0].clone();
    subject.as_object_mut().unwrap().remove("annotations");
    let kind = "application/vnd.oci.image.manifest.v1+json";
    let config = layout.document("application/vnd.oci.empty.v1+json", &json!({}));
    let artifact = layout.document(kind, &json!({
        "schemaVersion": 2, "mediaType": kind, "artifactType": "text/x-note", "config": config, "layers": [],
        "subject": subject, "annotations": {"a": "b"},
    }));
    let digest = artifact["digest"].as_str().unwrap().to_owned();
    let mut entry = artifact.clone();
    entry["annotations"] = json!({"io.containerd.image.name": "docker.io/library/note:1"});
    layout.index["manifests"].as_array_mut().unwrap().push(entry);
    tool.run(&["load", "-i", &tool.file("both.tar", layout.oci_archive())]);

    let found = tool.json(&["referrers", "base:1"]);
    assert_eq!((&found[0]["digest"], &found[0]["artifactType"]), (&json!(digest), &json!("text/x-note")));
    assert_eq!(found[0]["annotations"], json!({"a": "b"}));
    assert_eq!(tool.word(&["referrers", "-q", "base:1"]), digest);
    assert_eq!(tool.json(&["image", "referrers", "--type", "other", "base:1"]), json!([]));
    let manifest = &layout.images[0].manifest;
    assert_eq!(tool.json(&["referrers", manifest])[0]["digest"], digest.as_str());
    let table = tool.text(&["images"]);
    assert!(table.lines().next().unwrap().ends_with("ARTIFACT"), "{table}");
    assert!(table.lines().any(|line| line.starts_with("note") && line.contains("text/x-note")), "{table}");
    let shown = &tool.json(&["image", "inspect", "note:1"])[0];
    assert_eq!((&shown["ArtifactType"], &shown["Annotations"]), (&json!("text/x-note"), &json!({"a": "b"})));
    assert_eq!(shown["Subject"], subject);
    let (message, _) = tool.error(&["create", "note:1"]);
    assert!(message.contains("it is an artifact of type text/x-note"), "{message}");

    for (words, digest) in
        [("--raw", manifest), ("--raw=manifest", manifest), ("--raw=config", &layout.images[0].config)]
    {
        assert!(tool.run(&["inspect", words, "base:1"]).stdout == layout.blobs[digest], "{words}");
    }
}

#[test]
fn an_image_archive_is_no_root_and_an_image_has_its_platform() {
    let tool = Tool::new();
    tool.load_base();
    let archive = tool.file("base.tar", Layout::of(&base()).docker_archive());
    let (message, object) = tool.error(&["import", &archive]);
    assert!(message.ends_with("`plywood load` reads it; --force imports its files as they are"), "{message}");
    assert_eq!(object["kind"], "image-archive");
    tool.word(&["import", "--force", "--compression", "zstd:3", &archive]);
    let (message, _) = tool.error(&["create", "--platform", "linux/mips", "base:1"]);
    assert!(message.starts_with("image base:1 is not here for linux/mips, but for linux/"), "{message}");
    let platform = tool.json(&["images"])[0]["platform"].as_str().unwrap().to_owned();
    let shown = tool.json(&["inspect", "--platform", &platform, "base:1"]);
    assert_eq!(shown, tool.json(&["inspect", "base:1"]));
}
