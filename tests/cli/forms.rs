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
