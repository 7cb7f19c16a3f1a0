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
