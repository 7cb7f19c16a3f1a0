//! `plywood check` and `plywood repair`, as people and programs meet them.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use serde_json::Value;

use crate::tool::Tool;

/// A store with an image and a container, which nothing is wrong with.
fn tool() -> Tool {
    let tool = Tool::with("copy");
    tool.load_base();
    tool.text(&["create", "--name", "web", "base:1"]);
    tool
}

/// A file of the first layer.
fn hosts(tool: &Tool) -> PathBuf {
    let layers = fs::read_dir(tool.root().join("layers")).unwrap();
    let files = layers.map(|layer| layer.unwrap().path().join("tree/etc/hosts"));
    files.into_iter().find(|hosts| hosts.is_file()).unwrap()
}

/// The status and what is printed, as JSON.
fn run(tool: &Tool, words: &[&str]) -> (Option<i32>, Value) {
    let output = tool.run(&[words, &["--json"]].concat());
    assert_eq!(output.stderr, b"", "{words:?}: {}", String::from_utf8_lossy(&output.stderr));
    (output.status.code(), serde_json::from_slice(&output.stdout).unwrap())
}

#[test]
fn a_repair_says_what_it_did_and_fails_if_something_is_lost() {
    let tool = tool();
    assert_eq!(tool.text(&["repair"]), "all is well\n");
    let (status, report) = run(&tool, &["repair"]);
    assert_eq!((status, &report["whole"]), (Some(0), &Value::Bool(true)));
    assert_eq!(report["repaired"].as_array().unwrap().len(), 0);
    let counts = ["images", "blobs", "layers", "containers"].map(|count| report[count].as_u64().unwrap());
    assert_eq!(counts, [1, 4, 2, 1]);

    // A layer is made again; what would be done is said before, and only by who looks at every byte.
    fs::write(hosts(&tool), "somebody else").unwrap();
    assert_eq!(tool.text(&["repair", "--quick"]), "all is well\n");
    for words in [&["repair", "-n"][..], &["repair", "--dry-run"]] {
        let (status, report) = run(&tool, words);
        assert_eq!((status, &report["dry_run"]), (Some(0), &Value::Bool(true)), "{words:?}");
        assert_eq!(report["repaired"][0]["outcome"], "mended");
        assert_eq!(report["repaired"][0]["kind"], "layer");
        assert_eq!(fs::read_to_string(hosts(&tool)).unwrap(), "somebody else");
    }
    let said = tool.text(&["repair"]);
    assert!(said.contains("mended") && said.contains("image base:1"), "{said}");
    assert!(said.ends_with("1 thing mended, all is well\n"), "{said}");
    assert_eq!(fs::read_to_string(hosts(&tool)).unwrap(), "old");
    assert!(tool.text(&["check", "--deep"]).ends_with("all is well\n"));

    // A blob cannot be.
    let blobs = tool.root().join("oci/blobs/sha256");
    let layer = fs::read_dir(&blobs).unwrap().map(|blob| blob.unwrap().path());
    let layer = layer.into_iter().find(|blob| !fs::read(blob).unwrap().starts_with(b"{")).unwrap();
    let mut bytes = fs::read(&layer).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    fs::write(&layer, bytes).unwrap();
    let (status, report) = run(&tool, &["repair", "-n"]);
    assert_eq!((status, &report["whole"]), (Some(1), &Value::Bool(false)));
    assert!(layer.exists());
    let output = tool.run(&["repair"]);
    let said = String::from_utf8(output.stdout).unwrap();
    assert_eq!((output.status.code(), &output.stderr[..]), (Some(1), &b""[..]));
    assert!(said.contains("lost") && said.ends_with("0 things mended, 1 could not be\n"), "{said}");
    assert!(!layer.exists());
    // What the container stands on is unpacked, so it goes on; loading brings the blob again.
    tool.text(&["export", "-o", &tool.path("web.tar"), "web"]);
    tool.load_base();
    assert_eq!(tool.text(&["repair"]), "all is well\n");
}

#[test]
fn a_store_that_cannot_be_opened_is_repaired_and_what_is_none_is_not_touched() {
    let tool = tool();
    fs::remove_file(tool.root().join("store.json")).unwrap();
    assert_eq!(tool.error(&["ps"]).1["kind"], "not-a-store");
    let (status, report) = run(&tool, &["repair"]);
    assert_eq!((status, &report["repaired"][0]["kind"]), (Some(0), &Value::from("format")));
    assert!(tool.text(&["ps"]).contains("web"));

    let none = Tool::new();
    fs::create_dir(none.root()).unwrap();
    fs::write(none.root().join("notes"), "mine").unwrap();
    assert_eq!(none.error(&["repair"]).1["kind"], "not-a-store");
    assert_eq!(fs::read_dir(none.root()).unwrap().count(), 1);
}

#[test]
fn a_check_lists_what_is_left_over_and_a_collection_takes_it() {
    let tool = tool();
    let root = tool.root();
    let dead = root.join("staging/0123456789abcdef0123456789abcdef");
    fs::create_dir(&dead).unwrap();
    fs::write(dead.join("lock"), "").unwrap();
    fs::write(root.join("names/nobody"), "0".repeat(64)).unwrap();
    let replaced = root.join("layers/replaced-0123456789abcdef0123456789abcdef");
    fs::create_dir(&replaced).unwrap();
    let (status, report) = run(&tool, &["check"]);
    assert_eq!(status, Some(0), "{report}");
    let left: Vec<_> = report["leftovers"].as_array().unwrap().iter().map(|left| &left["path"]).collect();
    let expected =
        [dead, replaced, root.join("names/nobody")].map(|path| Value::from(path.to_str().unwrap()));
    assert_eq!(left, expected.iter().collect::<Vec<_>>());
    let said = tool.text(&["check"]);
    assert!(said.starts_with("3 leftovers for `plywood gc` to take away\n"), "{said}");
    tool.text(&["gc"]);
    let (_, report) = run(&tool, &["check"]);
    assert_eq!(report["leftovers"].as_array().unwrap().len(), 0);
}

#[test]
fn damage_is_status_1_and_a_check_that_cannot_be_completed_is_status_3() {
    let tool = tool();
    for words in [&["check"][..], &["check", "--deep"]] {
        let whole = tool.command(words);
        let mut limited = Command::new("prlimit");
        limited.args(["--nofile=5:5", "--"]).arg(whole.get_program()).args(whole.get_args());
        let output = limited.output().unwrap();
        let errors = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(3), "{words:?}: {errors}");
        assert!(errors.contains("too many open files") || errors.contains("Too many open files"), "{errors}");
        assert_eq!(tool.run(words).status.code(), Some(0), "{words:?}");
    }
    fs::write(hosts(&tool), "somebody else").unwrap();
    assert_eq!(tool.run(&["check", "--deep"]).status.code(), Some(1));
}
