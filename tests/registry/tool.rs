//! The commands `pull` and `push`.

use std::ffi::OsStr;
use std::path::Path;
use std::process::{Command, Output};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::common::image::Layout;
use crate::common::scratch;
use crate::proxy::{Act, Proxy};
use crate::pull::{large, with};
use crate::server::Server;
use crate::shop::web;

/// The tool with a store of its own, and an environment without anybody's credentials.
pub fn plywood(dir: &Path, store: &str, words: &[&str]) -> Output {
    command(dir, store, words).output().unwrap()
}

fn command<W: AsRef<OsStr>>(dir: &Path, store: &str, words: &[W]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_plywood"));
    command.arg("--root").arg(dir.join(store)).args(words).current_dir(dir);
    command.env("HOME", dir).env("XDG_RUNTIME_DIR", dir.join("run"));
    for variable in ["REGISTRY_AUTH_FILE", "DOCKER_CONFIG", "XDG_CONFIG_HOME", "PLYWOOD_ADDITIONAL_STORES"] {
        command.env_remove(variable);
    }
    command
}

#[track_caller]
fn done(output: Output) -> String {
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

#[test]
fn an_image_is_pushed_and_pulled_by_the_tool() {
    let Some(server) = Server::start() else { return };
    let dir = scratch();
    std::fs::write(dir.path().join("web.tar"), Layout::of(&web()).oci_archive()).unwrap();
    let run = |store: &str, words: &[&str]| plywood(dir.path(), store, words);
    let id = done(run("one", &["load", "-q", "-i", "web.tar"]));
    let there = format!("{}/me/web:1", server.address);
    let pushed = done(run("one", &["push", "localhost/web:1", &there]));
    assert!(pushed.starts_with(&format!("Pushed image: {there} (sha256:")), "{pushed}");
    assert_eq!(done(run("two", &["pull", "-q", &there])), id);
    assert_eq!(done(run("two", &["pull", &there])), format!("Pulled image: {there}"));
    // By its own name, which says where to.
    let again = done(run("two", &["push", "--json", &there]));
    let again: serde_json::Value = serde_json::from_str(&again).unwrap();
    assert_eq!((&again["blobs"], &again["id"]), (&0.into(), &id.as_str().into()));
    assert_eq!(fields(&again), fields(&documented("push")));
    let pulled = done(run("three", &["pull", "--on-demand", "--json", &there]));
    let pulled: serde_json::Value = serde_json::from_str(&pulled).unwrap();
    assert_eq!(pulled[0]["id"], id.as_str());
    assert_eq!(fields(&pulled[0]), fields(&documented("pull")[0]));
}

/// What docs/json.md says that a command prints.
fn documented(command: &str) -> Value {
    let document = include_str!("../../docs/json.md");
    let (_, rest) = document.split_once(&format!("$ plywood {command} ")).unwrap();
    let (_, rest) = rest.split_once("```json\n").unwrap();
    serde_json::from_str(rest.split_once("```").unwrap().0).unwrap()
}

fn fields(object: &Value) -> Vec<&String> {
    object.as_object().unwrap().keys().collect()
}

#[test]
fn what_a_pull_fetched_that_was_killed_is_not_fetched_again() {
    const STALL: u64 = 700_000;
    let layout = Layout::of(&large());
    let Some((server, dir)) = with(&layout) else { return };
    let layer = layout.images[0].layers[2].clone();
    let stalled = {
        let layer = layer.clone();
        Proxy::start(&server.address, move |asked, _| match asked.path.ends_with(&layer) {
            true => Act::Stall(STALL as usize),
            false => Act::Pass,
        })
    };
    let words = |address: &str| ["pull".to_owned(), "-q".to_owned(), format!("{address}/me/web:1")];
    let mut pull = command(dir.path(), "store", &words(&stalled.address)).spawn().unwrap();
    let left = dir.path().join("store/cache/downloads").join(layer.replace(':', "-"));
    let begin = Instant::now();
    while !std::fs::metadata(&left).is_ok_and(|left| left.len() == STALL) {
        assert!(begin.elapsed() < Duration::from_secs(60), "it did not come so far");
        assert_eq!(pull.try_wait().unwrap(), None);
        std::thread::sleep(Duration::from_millis(5));
    }
    pull.kill().unwrap();
    pull.wait().unwrap();
    drop(stalled);

    let proxy = Proxy::start(&server.address, |_, _| Act::Pass);
    let id = done(command(dir.path(), "store", &words(&proxy.address)).output().unwrap());
    assert_eq!(format!("sha256:{}", id.trim_start_matches("sha256:")), layout.images[0].config);
    let asked = proxy.asked();
    let rest: Vec<_> = asked.iter().filter(|asked| asked.path.ends_with(&layer)).collect();
    assert_eq!(rest.iter().map(|asked| asked.header("range")).collect::<Vec<_>>(), [Some("bytes=700000-")]);
    done(plywood(dir.path(), "store", &["check", "--deep"]));
}

#[test]
fn who_is_not_let_in_is_told_how_to_log_in() {
    let Some(server) = Server::with_password() else { return };
    let dir = scratch();
    let there = format!("{}/me/web:1", server.address);
    let refused = plywood(dir.path(), "store", &["pull", &there]);
    assert_eq!(refused.status.code(), Some(1));
    let said = String::from_utf8(refused.stderr).unwrap();
    assert!(said.contains(&format!("log in with `docker login {}`", server.address)), "{said}");

    // Where podman keeps them: that is looked at without being said.
    let file = dir.path().join("run/containers");
    std::fs::create_dir_all(&file).unwrap();
    let auth = format!(r#"{{"auths": {{"{}": {{"auth": "bWU6c2VjcmV0"}}}}}}"#, server.address);
    std::fs::write(file.join("auth.json"), auth).unwrap();
    let absent = plywood(dir.path(), "store", &["pull", "--json", &there]);
    let said: serde_json::Value = serde_json::from_slice(&absent.stderr).unwrap();
    assert_eq!(said["kind"], "not-found", "{said}");

    // A program that keeps them.
    std::fs::remove_file(file.join("auth.json")).unwrap();
    let helper = dir.path().join("docker-credential-test");
    let script =
        "#!/bin/sh\nread server\necho '{\"ServerURL\":\"x\",\"Username\":\"me\",\"Secret\":\"secret\"}'\n";
    std::fs::write(&helper, script).unwrap();
    std::fs::set_permissions(&helper, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    std::fs::create_dir(dir.path().join(".docker")).unwrap();
    std::fs::write(dir.path().join(".docker/config.json"), r#"{"credsStore": "test"}"#).unwrap();
    let path = format!("{}:{}", dir.path().display(), std::env::var("PATH").unwrap());
    let mut command = Command::new(env!("CARGO_BIN_EXE_plywood"));
    command.arg("--root").arg(dir.path().join("store")).args(["pull", "--json", &there]);
    command.env("HOME", dir.path()).env("PATH", path).env_remove("XDG_RUNTIME_DIR");
    for variable in ["REGISTRY_AUTH_FILE", "DOCKER_CONFIG", "XDG_CONFIG_HOME"] {
        command.env_remove(variable);
    }
    let said: serde_json::Value = serde_json::from_slice(&command.output().unwrap().stderr).unwrap();
    assert_eq!(said["kind"], "not-found", "{said}");
}
