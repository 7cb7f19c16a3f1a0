//! Root file systems in, layers out.

use serde_json::json;

use crate::common::image::Layout;
use crate::common::tar::tar;
use crate::tool::*;

#[test]
fn an_export_is_imported_by_another_store() {
    let tool = Tool::new();
    tool.load_base();
    tool.word(&["create", "--name", "web", "base:1"]);
    let out = tool.path("root.tar");
    tool.text(&["export", "--config", "-o", &out, "web"]);
    let other = Tool::new();
    let id = other.word(&["import", &out, "web:1", "-c", "CMD [\"/run\"]", "-m", "from afar"]);
    let image = &other.json(&["image", "inspect", "web:1"])[0];
    assert_eq!(image["Id"], id.as_str());
    assert_eq!(image["Config"]["Cmd"], json!(["/run"]));
    let env = &tool.json(&["image", "inspect", "base:1"])[0]["Config"]["Env"];
    assert_eq!(image["Config"]["Env"], *env);
    let top = &other.json(&["history", "web:1"])[0];
    assert_eq!((&top["created_by"], &top["comment"]), (&json!("plywood import"), &json!("from afar")));
    other.word(&["create", "--name", "web", "web:1"]);
    assert!(tool.run(&["export", "web"]).stdout == other.run(&["export", "web"]).stdout);

    let directory = tool.path("root");
    std::fs::create_dir(&directory).unwrap();
    std::fs::write(format!("{directory}/file"), "x").unwrap();
    let object = other.json(&["import", &directory, "dir:1", "--platform", "linux/arm64"]);
    assert_eq!(object["names"], json!(["dir:1"]));
    let (message, object) = other.error(&["import", &tool.file("text", "hello\n")]);
    assert_eq!(message, "not a tar of a root file system, but a text");
    assert_eq!(object["kind"], "not-an-archive");
}

#[test]
fn one_layer_is_written_by_image_and_number_or_by_diff_id() {
    let tool = Tool::new();
    tool.load_base();
    let layout = Layout::of(&base());
    let lowest = tar().dir("etc").file("etc/hosts", "old").file("etc/gone", "x").dir("srv").finish();
    let top = tar().dir("etc").file("etc/issue", "two").finish();
    assert!(tool.run(&["layer", "base:1"]).stdout == top);
    assert!(tool.run(&["layer", "base:1", "2"]).stdout == top);
    assert!(tool.run(&["layer", "base:1", "1"]).stdout == lowest);
    let out = tool.path("layer.tar");
    let object = tool.json(&["image", "layer", "-o", &out, &layout.images[0].diff_ids[0]]);
    assert_eq!(object["diff_id"], layout.images[0].diff_ids[0].as_str());
    assert!(std::fs::read(&out).unwrap() == lowest);
    let (message, _) = tool.error(&["layer", "-o", &out, "base:1", "3"]);
    assert_eq!(message, "base:1 has the layers 1 to 2");
    tool.error(&["layer", "-o", &out, &format!("sha256:{}", "0".repeat(64))]);
    assert!(std::fs::read(&out).unwrap() == lowest, "what was there stays");
}
