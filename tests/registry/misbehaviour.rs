//! Registries, and servers that they name, which break rules: nothing is lost by it, and no secret told.

use std::io::Read;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use plywood::archive::Fetch;
use plywood::image::{Descriptor, MediaType};
use plywood::registry::{Client, ClientOptions, Credentials, RegistryError, Transport};

use crate::script::{Decide, Got, Reply, Script, reply};
use crate::server::{Server, options};
use crate::shop::name;

/// More than sockets hold, and less than what does not end.
const BOUND: u64 = 32 << 20;
const MANIFEST: &str =
    r#"{"schemaVersion":2,"mediaType":"application/vnd.oci.image.index.v1+json","manifests":[]}"#;

fn manifest() -> Reply {
    reply(200, &["Content-Type: application/vnd.oci.image.index.v1+json"], MANIFEST)
}

fn bearer(own: &str) -> Reply {
    reply(401, &[&format!("WWW-Authenticate: Bearer realm=\"http://{own}/token\",service=\"s\"")], "{}")
}

fn identities() -> [Option<Credentials>; 3] {
    let identity = Credentials::IdentityToken("SECRET".to_owned());
    [None, Some(Credentials::password("me", "SECRET")), Some(identity)]
}

fn client(credentials: Option<Credentials>) -> Client {
    with(credentials, |_| ())
}

fn with(credentials: Option<Credentials>, change: impl FnOnce(&mut ClientOptions)) -> Client {
    let mut options = options();
    options.credentials = credentials;
    change(&mut options);
    Client::new(options).unwrap()
}

fn resolve(client: &Client, server: &Script) -> Result<Descriptor, RegistryError> {
    client.repository(&name(&server.address, "me/web:1")).unwrap().resolve()
}

fn send(client: &Client, server: &Script) -> Result<(), RegistryError> {
    let blob = Descriptor::of(MediaType::OCI_LAYER, b"blob");
    let repository = client.repository(&name(&server.address, "me/web:1")).unwrap();
    repository.send(&blob, &|| Ok(Box::new(&b"blob"[..])), &|_| ())
}

fn is_told(server: &Script) -> bool {
    // The password stands in base64, behind "me:".
    server.got().iter().any(|got| {
        let text = format!("{got:?}");
        text.contains("SECRET") || text.contains("bWU6U0VDUkVU") || text.contains("Bearer T")
    })
}

#[test]
fn a_token_without_end_is_not_taken_into_memory() {
    for credentials in identities() {
        let server = Script::start(|got: &Got, own: &str| match got.path.starts_with("/token") {
            true => Reply::Endless(200),
            false => bearer(own),
        });
        let client = client(credentials);
        for error in [resolve(&client, &server).unwrap_err(), send(&client, &server).unwrap_err()] {
            assert!(matches!(error, RegistryError::Protocol { .. }), "{error}");
        }
        assert!(server.sent() < BOUND, "{}", server.sent());
    }
}

#[test]
fn an_error_without_end_is_not_taken_into_memory() {
    for status in [400, 404, 500] {
        let server = Script::start(move |_: &Got, _: &str| Reply::Endless(status));
        let client = with(None, |options| options.retries = 1);
        resolve(&client, &server).unwrap_err();
        send(&client, &server).unwrap_err();
        assert!(server.sent() < BOUND, "{}", server.sent());
    }
    for credentials in identities() {
        let server = Script::start(|got: &Got, own: &str| match got.path.starts_with("/token") {
            true => Reply::Endless(403),
            false => bearer(own),
        });
        resolve(&client(credentials), &server).unwrap_err();
        assert!(server.sent() < BOUND, "{}", server.sent());
    }
}

#[test]
fn a_secret_follows_no_redirect_of_the_authorization_server() {
    for status in [301, 302, 303, 307, 308] {
        for credentials in identities().into_iter().flatten() {
            let elsewhere = Script::start(|_: &Got, _: &str| reply(200, &[], r#"{"token":"T"}"#));
            let to = format!("Location: http://{}/token", elsewhere.address);
            let server = Script::start(move |got: &Got, own: &str| match got.path.starts_with("/token") {
                true => reply(status, &[&to], ""),
                false => bearer(own),
            });
            let error = resolve(&client(Some(credentials)), &server).unwrap_err();
            assert!(matches!(error, RegistryError::Protocol { .. }), "{error}");
            assert!(is_told(&server) && elsewhere.got().is_empty());
        }
    }
}

#[test]
fn a_secret_goes_to_no_authorization_server_in_plain_http() {
    for credentials in identities().into_iter().flatten() {
        let server = Script::start(|_: &Got, _: &str| {
            reply(401, &["WWW-Authenticate: Bearer realm=\"http://a.invalid/token\""], "")
        });
        let error = resolve(&client(Some(credentials)), &server).unwrap_err();
        assert!(matches!(error, RegistryError::Protocol { .. }), "{error}");
        assert_eq!(server.got().len(), 1);
    }
}

#[test]
fn another_origin_is_shown_no_credentials_and_cannot_ask_for_them() {
    let thief = Script::start(|got: &Got, own: &str| match got.path.starts_with("/token") {
        true => reply(200, &[], r#"{"token":"T"}"#),
        false => bearer(own),
    });
    let to = format!("http://{}/x", thief.address);
    let server = Script::start(move |got: &Got, _: &str| match got.header("authorization") {
        None => reply(401, &["WWW-Authenticate: Basic realm=x"], ""),
        Some(_) if got.method == "POST" => reply(202, &[&format!("Location: {to}")], ""),
        Some(_) => reply(307, &[&format!("Location: {to}")], ""),
    });
    let client = client(Some(Credentials::password("me", "SECRET")));
    resolve(&client, &server).unwrap_err();
    send(&client, &server).unwrap_err();
    assert!(is_told(&server) && !thief.got().is_empty() && !is_told(&thief), "{:?}", thief.got());
}

#[test]
fn every_challenge_of_every_line_is_read() {
    const CASES: [&[&str]; 4] = [
        &["Negotiate", "Bearer realm=\"http://OWN/token\",service=\"s\""],
        &["Basic realm=\"x\"", "Bearer realm=\"http://OWN/token\""],
        &[
            "Digest realm=\"a, b\", qop=\"auth, Bearer\", Bearer realm=\"http://OWN/token\",scope=\"r:x:pull,push\"",
        ],
        &["NTLM abc==, bearer  realm = http://OWN/token , error=x"],
    ];
    for lines in CASES {
        let server = Script::start(move |got: &Got, own: &str| {
            let lines: Vec<String> =
                lines.iter().map(|line| format!("WWW-Authenticate: {}", line.replace("OWN", own))).collect();
            let lines: Vec<&str> = lines.iter().map(String::as_str).collect();
            match (got.path.starts_with("/token"), got.header("authorization")) {
                (true, _) => reply(200, &[], r#"{"token":"","access_token":"T"}"#),
                (false, Some("Bearer T")) => manifest(),
                _ => reply(401, &lines, ""),
            }
        });
        resolve(&client(None), &server).unwrap();
    }
}

#[test]
fn a_challenge_that_is_not_known_asks_for_no_login() {
    let server = Script::start(|_: &Got, _: &str| reply(401, &["WWW-Authenticate: Negotiate"], ""));
    let error = resolve(&client(None), &server).unwrap_err();
    assert!(!matches!(error, RegistryError::Denied { .. }), "{error}");
    assert!(error.to_string().contains("Negotiate"), "{error}");
}

#[test]
fn a_fresh_token_that_is_refused_is_replaced_once() {
    for (refused, succeeds) in [(1, true), (9, false)] {
        let count = Arc::new(AtomicUsize::new(0));
        let server = Script::start(move |got: &Got, own: &str| match got.path.starts_with("/token") {
            true => reply(200, &[], r#"{"token":"T"}"#),
            false if got.header("authorization").is_none() => bearer(own),
            false if count.fetch_add(1, Ordering::SeqCst) < refused => bearer(own),
            false => manifest(),
        });
        let found = resolve(&client(None), &server);
        assert_eq!(found.is_ok(), succeeds, "{found:?}");
        let tokens = server.got().iter().filter(|got| got.path.starts_with("/token")).count();
        assert_eq!(tokens, 2);
    }
}

#[test]
fn a_content_coding_is_not_asked_for_and_refused() {
    let server = Script::start(|got: &Got, _: &str| match got.header("accept-encoding") {
        Some("identity") => manifest(),
        _ => reply(500, &[], ""),
    });
    resolve(&client(None), &server).unwrap();
    let server = Script::start(|_: &Got, _: &str| reply(200, &["Content-Encoding: gzip"], "packed"));
    let client = client(None);
    let error = resolve(&client, &server).unwrap_err();
    assert!(error.to_string().contains("content coding"), "{error}");
    let blob = Descriptor::of(MediaType::OCI_CONFIG, b"a config");
    let repository = client.repository(&name(&server.address, "me/web:1")).unwrap();
    let error = repository.fetch(&blob, 0).err().expect("it is refused");
    assert!(error.to_string().contains("content coding"), "{error}");
    assert_eq!(server.got().len(), 2, "no retry mends it");
}

#[test]
fn a_location_is_resolved_against_the_request() {
    for (location, expected) in [
        ("1?_state=a", "/v2/me/web/blobs/uploads/1?_state=a&digest="),
        ("/up/1", "/up/1?digest="),
        ("?a=b", "/v2/me/web/blobs/uploads/?a=b&digest="),
        ("http://OWN/up", "/up?digest="),
        ("//OWN/up", "/up?digest="),
    ] {
        let server = Script::start(move |got: &Got, own: &str| match &got.method[..] {
            "POST" => reply(202, &[&format!("Location: {}", location.replace("OWN", own))], ""),
            _ => reply(201, &[], ""),
        });
        send(&client(None), &server).unwrap();
        let got = server.got();
        assert!(got[1].path.starts_with(expected) && got[1].body == "blob", "{got:?}");
    }
}

#[test]
fn a_fault_that_no_retry_mends_is_not_tried_again() {
    let long = "x".repeat(1 << 20);
    let cases: [(&str, usize, Decide); 5] = [
        (
            "realm",
            1,
            Box::new(|_: &Got, _: &str| reply(401, &["WWW-Authenticate: Bearer realm=\"no url\""], "")),
        ),
        (
            "host",
            1,
            Box::new(|_: &Got, _: &str| {
                reply(401, &["WWW-Authenticate: Bearer realm=\"https://a.invalid/\""], "")
            }),
        ),
        ("header", 1, Box::new(move |_: &Got, _: &str| reply(200, &[&format!("X: {long}")], ""))),
        ("loop", 11, Box::new(|got: &Got, _: &str| reply(302, &[&format!("Location: {}", got.path)], ""))),
        ("scheme", 1, Box::new(|_: &Got, _: &str| reply(302, &["Location: file:///etc/passwd"], ""))),
    ];
    for (case, asked, decide) in cases {
        let server = Script::start(decide);
        let client = with(None, |options| options.back_off = Duration::from_secs(3600));
        let error = resolve(&client, &server).unwrap_err();
        assert!(
            matches!(error, RegistryError::Protocol { .. } | RegistryError::Unreachable { .. }),
            "{case}: {error}"
        );
        assert_eq!(server.got().len(), asked, "{case}: {error}");
    }
}

#[test]
fn an_error_quotes_no_more_of_a_registry_than_a_message_holds() {
    let long = "x".repeat(100_000);
    let lines = [
        (200, format!("Content-Encoding: {long}")),
        (200, format!("Content-Encoding: identity\r\nContent-Encoding: {long}")),
        (302, format!("Location: http://{long}.invalid/")),
        (302, format!("Location: {long}:{long}")),
        (401, format!("WWW-Authenticate: {long}")),
        (401, "WWW-Authenticate: a\u{9b}b".to_owned()),
        (401, format!("WWW-Authenticate: Bearer realm=\"http://{long}.invalid/\"")),
        (401, format!("WWW-Authenticate: Bearer realm=\"{long}\"")),
        (503, format!("Retry-After: {}", "9".repeat(100_000))),
        (503, format!("Retry-After: {}", u64::MAX)),
    ];
    for (status, line) in lines {
        let case = line[..line.len().min(60)].to_owned();
        let server = Script::start(move |_: &Got, _: &str| reply(status, &[&line], ""));
        for credentials in identities() {
            let client = with(credentials, |options| options.retries = 1);
            let repository = client.repository(&name(&server.address, "me/web:1")).unwrap();
            let blob = Descriptor::of(MediaType::OCI_CONFIG, b"a config");
            let errors = [
                resolve(&client, &server).err().map(std::io::Error::other),
                send(&client, &server).err().map(std::io::Error::other),
                repository.fetch(&blob, 0).err(),
            ];
            for error in errors.into_iter().flatten() {
                let said = format!("{error} {error:?}");
                assert!(said.len() < 4000, "{case}: {} bytes: {}", said.len(), &said[..500]);
                assert!(!said.contains('\u{9b}'), "{case}");
            }
        }
    }
}

#[test]
fn a_token_that_no_header_can_hold_is_refused_as_such() {
    for token in ["SECRET\\r\\nX: y", "SECRET SECRET", "SECRET\\u0000", "SECRET\u{e4}"] {
        let server = Script::start(move |got: &Got, own: &str| match got.path.starts_with("/token") {
            true => reply(200, &[], format!("{{\"token\": \"{token}\"}}")),
            false => bearer(own),
        });
        for credentials in identities() {
            let error = resolve(&client(credentials), &server).unwrap_err();
            assert!(matches!(error, RegistryError::Protocol { .. }), "{error:?}");
            let said = error.to_string();
            assert!(said.contains("token") && !said.contains("SECRET"), "{said}");
        }
        let given = Credentials::RegistryToken(serde_json::from_str(&format!("\"{token}\"")).unwrap());
        let error = resolve(&client(Some(given)), &server).unwrap_err();
        assert!(matches!(error, RegistryError::Client(_)), "{error:?}");
        assert!(!format!("{error:?}").contains("SECRET"), "{error:?}");
    }
}

#[test]
fn a_blob_of_which_no_part_is_given_is_read_from_its_beginning() {
    const BLOB: &[u8] = b"the bytes of a blob";
    let server = Script::start(|got: &Got, _: &str| match got.header("range") {
        Some(_) => reply(416, &["Content-Range: bytes */19"], ""),
        None => reply(200, &[], BLOB),
    });
    let blob = Descriptor::of(MediaType::OCI_LAYER, BLOB);
    let client = client(None);
    let repository = client.repository(&name(&server.address, "me/web:1")).unwrap();
    let mut rest = Vec::new();
    repository.fetch(&blob, 4).unwrap().unwrap().read_to_end(&mut rest).unwrap();
    assert_eq!(rest, &BLOB[4..]);
    assert_eq!(server.got().len(), 2);
}

#[test]
fn a_server_that_hardly_sends_is_given_up() {
    let server = Script::start(|_: &Got, _: &str| Reply::Drip(vec![b' '; 1000], Duration::from_millis(50)));
    let client = with(None, |options| {
        options.retries = 1;
        options.slow_window = Duration::from_millis(200);
        options.slow_bytes = 1000;
    });
    let error = resolve(&client, &server).unwrap_err();
    assert!(matches!(error, RegistryError::Broken { .. }), "{error}");
    let blob = Descriptor::of(MediaType::OCI_LAYER, &[b' '; 1000]);
    let repository = client.repository(&name(&server.address, "me/web:1")).unwrap();
    let read = repository.fetch(&blob, 0).unwrap().unwrap().read_to_end(&mut Vec::new());
    assert!(matches!(RegistryError::of(&read.unwrap_err()), Some(RegistryError::Broken { .. })));
    assert_eq!(server.got().len(), 4);
}

#[test]
fn a_certificate_that_signed_itself_is_trusted_if_it_is_given() {
    let Some((server, own)) = Server::self_signed() else { return };
    let with = |certificates: Vec<Vec<u8>>, address: &str| {
        let client = with(None, |options| {
            options.transport = Transport::Tls;
            options.certificates = certificates;
        });
        client.repository(&name(address, "me/web:1")).unwrap().resolve().unwrap_err()
    };
    assert_eq!(with(vec![own.clone()], &server.address).kind(), "not-found");
    let port = server.address.rsplit(':').next().unwrap();
    let wrong = with(vec![own.clone()], &format!("localhost:{port}"));
    assert!(matches!(wrong, RegistryError::Unreachable { .. }), "{wrong}");
    let Some((_other, others)) = Server::self_signed() else { return };
    for certificates in [vec![], vec![others]] {
        assert!(matches!(with(certificates, &server.address), RegistryError::Unreachable { .. }));
    }
    // A registry that is spoken to by TLS.
    let realm = Script::start(|_: &Got, _: &str| reply(200, &[], r#"{"token":"T"}"#));
    let config = format!(
        "auth:\n  token: {{realm: 'http://{}/token', service: s, issuer: i, rootcertbundle: PEM}}\n",
        realm.address
    );
    let Some((server, own)) = Server::self_signed_with(&config) else { return };
    for credentials in identities().into_iter().flatten() {
        let client = crate::misbehaviour::with(Some(credentials), |options| {
            options.transport = Transport::Tls;
            options.certificates = vec![own.clone()];
        });
        client.repository(&name(&server.address, "me/web:1")).unwrap().resolve().unwrap_err();
    }
    assert!(realm.got().is_empty(), "{:?}", realm.got());
}
