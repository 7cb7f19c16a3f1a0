//! Names with digests, and ids, on the command line.

use crate::common::image::{Layout, image};
use crate::common::tar::tar;
use serde_json::json;

use crate::tool::*;

#[test]
fn a_name_by_digest_is_shown_as_docker_shows_it() {
    let tool = Tool::with("copy");
    tool.load_base();
    let manifest = tool.json(&["inspect", "base:1"])[0]["ManifestDigest"].as_str().unwrap().to_owned();
    let by_digest = format!("mine@{manifest}");
    assert_eq!(tool.json(&["tag", "base:1", &by_digest])["name"], by_digest.as_str());
    assert_eq!(tool.json(&["tag", "base:1", &format!("other:2@{manifest}")])["name"], "other:2");
    let object = &tool.json(&["inspect", &by_digest])[0];
    assert_eq!(object["RepoTags"], json!(["base:1", "other:2"]));
    let digests = ["base", "mine", "other"].map(|name| format!("{name}@{manifest}"));
    assert_eq!(object["RepoDigests"], json!(digests));
    let listed = &tool.json(&["images"])[0];
    assert_eq!(listed["names"], json!(["base:1", by_digest, "other:2"]));
    assert_eq!(listed["repo_digests"], json!(digests));
    let table = tool.text(&["images", "--digests"]);
    let row = table.lines().find(|line| line.starts_with("mine")).unwrap();
    assert_eq!(row.split_whitespace().collect::<Vec<_>>()[..3], ["mine", "<none>", &manifest]);
    assert!(tool.text(&["images", "mine"]).lines().count() == 2);

    for words in [
        &["create", "--name", "web", &by_digest][..],
        &["history", &by_digest],
        &["save", "-o", &tool.path("x.tar"), &by_digest],
    ] {
        tool.text(words);
    }
    tool.text(&["tag", &by_digest, "third:3"]);
    tool.text(&["rm", "web"]);
    assert_eq!(tool.text(&["rmi", &by_digest]), format!("Untagged: {by_digest}\n"));
    tool.text(&["rmi", "third:3"]);
}

#[test]
fn a_name_that_would_lie_is_refused_with_the_reason() {
    let tool = Tool::with("copy");
    let id = tool.load_base();
    let manifest = tool.json(&["inspect", "base:1"])[0]["ManifestDigest"].as_str().unwrap().to_owned();
    for name in [format!("x@{id}"), format!("x:1@{id}")] {
        let (text, object) = tool.error(&["tag", "base:1", &name]);
        assert!(text.contains(&id) && text.contains(&manifest), "{text}");
        assert_eq!(object["kind"], "invalid-name");
    }
    let root = tool.file("root.tar", tar().file("x", "y").finish());
    let container = tool.word(&["create", "base:1"]);
    for name in [&id, &id[7..], &format!("{}:1", &id[7..]), "sha256:cafe", &format!("library/{id}")] {
        for words in [&["tag", "base:1", name][..], &["import", &root, name], &["commit", &container, name]] {
            let output = tool.run(words);
            let text = String::from_utf8(output.stderr).unwrap();
            assert!(!output.status.success() && text.contains("reads as an image id"), "{words:?}: {text}");
        }
    }
    assert_eq!(tool.json(&["images"])[0]["names"], json!(["base:1"]));
}

#[test]
fn whole_ids_remove_images_with_all_their_names_and_forms() {
    let tool = Tool::with("copy");
    let id = tool.load_base();
    tool.text(&["tag", "base:1", "base:2"]);
    tool.text(&["tag", "base:1", "quay.io/me/other:1"]);
    // The same image with its layers compressed is another manifest, and the same id.
    tool.text(&["convert", "--compression", "gzip", "base:1", "packed:1"]);
    let other = image().layer(tar().file("x", "y").finish()).name("docker.io/library/other:1");
    tool.text(&["load", "-q", &tool.file("other.tar", Layout::of(&other).docker_archive())]);
    let ids = tool.text(&["images", "-q"]);
    let ids: Vec<&str> = ids.lines().collect();
    assert_eq!((ids.len(), ids.contains(&&*id)), (2, true));
    // The beginning of an id may be a slip of the hand.
    let (text, object) = tool.error(&["rmi", &id[7..19]]);
    assert!(text.contains("base:1, base:2") && text.contains("-f"), "{text}");
    assert_eq!(object["kind"], "several-names");
    let container = tool.word(&["create", "base:1"]);
    let (_, object) = tool.error(&["rmi", &id]);
    assert_eq!(object["kind"], "image-in-use");
    assert_eq!(tool.json(&["images"]).as_array().unwrap().len(), 3);
    tool.text(&["rm", &container]);
    tool.text(&[&["rmi"], &ids[..]].concat());
    assert_eq!(tool.json(&["images"]), json!([]));
}
