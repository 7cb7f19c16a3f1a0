//! The next steps that the tool names after a registry refused: only those that can help.

use std::path::Path;

use serde_json::Value;

use crate::common::image::{Layout, image};
use crate::common::scratch;
use crate::common::tar::tar;
use crate::script::{Got, Script, reply};
use crate::server::Server;
use crate::tool::plywood;

/// Runs a command that fails. Returns its error and the hint, if there is one.
#[track_caller]
fn refused(dir: &Path, words: &[&str]) -> (String, Option<String>) {
    let words: Vec<&str> = words.iter().copied().chain(["--json"]).collect();
    let output = plywood(dir, "store", &words);
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let said: Value = serde_json::from_slice(&output.stderr).unwrap();
    (said["error"].as_str().unwrap().to_owned(), said["hint"].as_str().map(str::to_owned))
}

#[test]
fn tls_is_suggested_to_a_registry_that_asks_for_it_and_after_no_other_400() {
    let go = "Client sent an HTTP request to an HTTPS server.";
    let nginx = "<html><center>The plain HTTP request was sent to HTTPS port</center></html>";
    for (body, asks_for_tls) in [
        (go, true),
        (nginx, true),
        ("", false),
        ("bad request", false),
        ("use --tls", false),
        (r#"{"errors":[{"code":"NAME_INVALID","message":"invalid name"}]}"#, false),
    ] {
        let server = Script::start(move |_: &Got, _: &str| reply(400, &[], body));
        let dir = scratch();
        let there = format!("{}/me/web:1", server.address);
        let (error, hint) = refused(dir.path(), &["pull", &there]);
        assert!(error.contains("400"), "{error}");
        assert_eq!(hint.is_some_and(|hint| hint.contains("--tls")), asks_for_tls, "{body}: {error}");
        let (_, hint) = refused(dir.path(), &["pull", "--plain-http", &there]);
        assert_eq!(hint.is_some_and(|hint| hint.contains("without --plain-http")), asks_for_tls, "{body}");
    }
}

#[test]
fn a_login_is_suggested_after_a_challenge_that_it_can_meet_and_after_no_other() {
    for (challenge, can_help) in [
        ("Basic realm=\"x\"", true),
        ("Negotiate", false),
        ("NTLM", false),
        ("Bearer realm=\"no url\"", false),
        ("AWS4-HMAC-SHA256 realm=\"http://127.0.0.1:1/\"", false),
    ] {
        let line = format!("WWW-Authenticate: {challenge}");
        let server = Script::start(move |_: &Got, _: &str| reply(401, &[&line], ""));
        let dir = scratch();
        let (error, hint) = refused(dir.path(), &["pull", &format!("{}/me/web:1", server.address)]);
        let suggests = hint.as_ref().is_some_and(|hint| hint.contains("docker login"));
        assert_eq!(suggests, can_help, "{challenge}: {error}: {hint:?}");
    }
}

#[test]
fn the_name_that_is_suggested_is_another_one_and_can_be_used() {
    let names = ["localhost/me/web:1", "docker.io/library/web:1", "registry.example:5000/me/api:latest"];
    let dir = scratch();
    for (at, name) in names.into_iter().enumerate() {
        let layer = tar().file("which", at.to_string()).finish();
        let archive = Layout::of(&image().layer(layer).name(name)).oci_archive();
        std::fs::write(dir.path().join("image.tar"), archive).unwrap();
        assert!(plywood(dir.path(), "store", &["load", "-q", "-i", "image.tar"]).status.success());
    }
    let digest = format!("sha256:{}", "0".repeat(64));
    let mut suggested = 0;
    for name in names.into_iter().chain(["web:1", "library/web:1", "registry.example:5000/me/api"]) {
        let (repository, _) =
            name.rsplit_once(':').filter(|(_, tag)| !tag.contains('/')).unwrap_or((name, ""));
        for typed in [
            format!("{name}@{digest}"),
            format!("{repository}@{digest}"),
            format!("{repository}:2"),
            format!("{repository}s:1"),
            format!("{name}0"),
            name.to_uppercase(),
            format!("index.docker.io/library/{}", name.rsplit('/').next().unwrap()),
        ] {
            for words in [&["push", &typed, "127.0.0.1:1/me/web:1"][..], &["inspect", &typed]] {
                let output = plywood(dir.path(), "store", &[words, &["--json"]].concat());
                // Some of the names are right.
                let Ok(said) = serde_json::from_slice::<Value>(&output.stderr) else { continue };
                let hint = said["hint"].as_str().unwrap_or_default().to_owned();
                let Some(other) = hint.strip_prefix("did you mean ") else { continue };
                let other = other.strip_suffix('?').unwrap();
                assert_ne!(other, typed, "{words:?}");
                let found = plywood(dir.path(), "store", &["inspect", other]);
                assert!(found.status.success(), "{words:?}: {hint}: {found:?}");
                suggested += 1;
            }
        }
    }
    assert!(suggested > 0, "nothing was suggested at all");
}

#[test]
fn a_certificate_file_is_suggested_only_where_it_can_help() {
    let Some((unknown, own)) = Server::self_signed() else { return };
    let Some((signed, authority)) = Server::with_tls() else { return };
    let Some((expired, old)) = Server::expired() else { return };
    let dir = scratch();
    let file = |name: &str, pem: &[u8]| {
        let path = dir.path().join(name);
        std::fs::write(&path, pem).unwrap();
        path.display().to_string()
    };
    let (own, authority, old) = (file("own", &own), file("authority", &authority), file("old", &old));
    let pull = |address: &str, certificate: Option<&String>| {
        let there = format!("{address}/me/web:1");
        let mut words = vec!["pull", "--tls", &there];
        words.extend(certificate.iter().flat_map(|path| ["--certificate", path]));
        refused(dir.path(), &words)
    };
    for (server, right, wrong) in [(&unknown, &own, &authority), (&signed, &authority, &own)] {
        let (error, hint) = pull(&server.address, None);
        assert!(hint.as_ref().is_some_and(|hint| hint.contains("--certificate FILE")), "{error}: {hint:?}");
        // The suggestion works: the registry answers that it has no such image.
        let (error, _) = pull(&server.address, Some(right));
        assert!(error.contains(" has no "), "{error}");
        let (error, hint) = pull(&server.address, Some(wrong));
        let hint = hint.unwrap_or_else(|| panic!("{error}"));
        assert!(!hint.contains("--certificate FILE") && hint.contains("is not the server's"), "{hint}");

        // The certificate is for 127.0.0.1.
        let port = server.address.rsplit(':').next().unwrap();
        for certificate in [None, Some(right), Some(wrong)] {
            let (error, hint) = pull(&format!("localhost:{port}"), certificate);
            assert!(error.contains("not valid for name \"localhost\""), "{error}");
            assert_eq!(hint, None, "{error}");
        }
    }
    for certificate in [None, Some(&old), Some(&own)] {
        let (error, hint) = pull(&expired.address, certificate);
        assert!(error.contains("certificate expired"), "{error}");
        assert_eq!(hint, None, "{error}");
    }
}
