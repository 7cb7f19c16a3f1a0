//! Several users of one machine: who may read what the tool makes, and containers that are in use.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Stdio};

use serde_json::json;

use crate::common::image::{Layout, image};
use crate::common::tar::tar;
use crate::tool::Tool;

fn mode(path: impl AsRef<Path>) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o777
}

fn archive() -> Vec<u8> {
    let layer = tar().dir("etc").file("etc/name", "sample").finish();
    Layout::of(&image().layer(layer).name("docker.io/library/sample:1")).oci_archive()
}

/// The tool under this umask.
fn under(umask: &str, tool: &Tool, words: &[&str]) -> Command {
    let inner = tool.command(words);
    let mut command = Command::new("sh");
    command.args(["-c", &format!("umask {umask}; exec \"$@\""), "sh"]).arg(inner.get_program());
    command.args(inner.get_args()).stdin(Stdio::null());
    command
}

#[test]
fn a_store_is_closed_unless_it_is_shared_and_nothing_is_for_all_to_write() {
    for (words, variable, expected) in
        [(&[][..], "", 0o700), (&["--shared"][..], "", 0o755), (&[][..], "1", 0o755), (&[][..], "no", 0o700)]
    {
        let tool = Tool::with("copy");
        let archive = tool.file("in.tar", archive());
        let load = [words, &["load", "-i", &archive]].concat();
        let done = under("0", &tool, &load).env("PLYWOOD_SHARED", variable).output().unwrap();
        assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
        assert_eq!((mode(tool.root()), mode(tool.root().join("oci"))), (expected, 0o755));
    }
    let tool = Tool::with("copy");
    let archive = tool.file("in.tar", archive());
    fs::create_dir(tool.path("man")).unwrap();
    for (words, made, expected) in [
        (vec!["load", "-i", &archive], tool.path("store"), 0o700),
        (vec!["save", "-o", &tool.path("out.tar"), "sample:1"], tool.path("out.tar"), 0o644),
        (vec!["save", "--format", "oci-dir", "-o", &tool.path("dir"), "sample:1"], tool.path("dir"), 0o755),
        (vec!["man", &tool.path("man")], tool.path("man/plywood.1"), 0o644),
    ] {
        let done = under("0", &tool, &words).output().unwrap();
        assert!(done.status.success(), "{words:?}: {}", String::from_utf8_lossy(&done.stderr));
        assert_eq!(mode(&made), expected, "{made}");
    }
}

#[test]
fn a_container_under_a_running_process_is_shown_refused_and_passed_over() {
    let tool = Tool::with("copy");
    let archive = tool.file("in.tar", archive());
    tool.text(&["load", "-i", &archive]);
    tool.text(&["create", "--name", "web", "sample:1"]);
    assert_eq!(tool.json(&["ps"])[0]["in_use"], json!(false));
    let path = tool.text(&["mount", "web"]);
    let path = Path::new(path.trim_end());
    // The process that mounted it has ended.
    let mut child = Command::new("cat")
        .current_dir(path.join("etc"))
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    let listed = tool.json(&["ps"]);
    assert_eq!((&listed[0]["in_use"], &listed[0]["state"]), (&json!(true), &json!("created")));
    assert!(tool.text(&["ps"]).contains("in use"));
    let refused = tool.run(&["rm", "web"]);
    let errors = String::from_utf8(refused.stderr).unwrap();
    let expected = format!("container web is in use by cat (process {}, its working directory)", child.id());
    assert!(!refused.status.success() && errors.contains(&expected) && errors.contains("-f"), "{errors}");
    assert_eq!(tool.json(&["container", "prune"])["containers"], json!([]));
    assert!(!tool.run(&["create", "--from-container", "web", "--name", "copy"]).status.success());
    drop(child.stdin.take());
    child.wait().unwrap();
    tool.text(&["rm", "web"]);
}
