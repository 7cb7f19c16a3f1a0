//! The client by itself: what it reads and writes, and how it takes it when a registry does not do as it should.

use std::io::Read;
use std::sync::atomic::{AtomicU64, Ordering};

use plywood::Reference;
use plywood::archive::Fetch;
use plywood::image::{Descriptor, Manifest, MediaType};
use plywood::registry::{Client, Credentials, RegistryError, Repository, Transport};

use crate::proxy::{Act, Asked, Proxy};
use crate::server::{Server, client, options};
use crate::shop::name;

/// Bytes that do not repeat.
fn content(length: usize) -> Vec<u8> {
    let mut state = 1_u32;
    let next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 24) as u8
    };
    std::iter::repeat_with(next).take(length).collect()
}

/// Puts an image of one layer of these bytes in the registry, by our own hand.
fn push(repository: &Repository<'_>, layer: &[u8]) -> Descriptor {
    let send = |media_type, bytes: &[u8]| {
        let descriptor = Descriptor::of(media_type, bytes);
        let bytes = bytes.to_vec();
        let open = move || Ok(Box::new(std::io::Cursor::new(bytes.clone())) as _);
        repository.send(&descriptor, &open, &|_| ()).unwrap();
        descriptor
    };
    let config = send(MediaType::OCI_CONFIG, b"{}");
    let manifest = Manifest::new(config, vec![send(MediaType::OCI_LAYER_GZIP, layer)]).to_json();
    let descriptor = Descriptor::of(MediaType::OCI_MANIFEST, &manifest);
    repository.put_document(&descriptor, &manifest, Some("1")).unwrap();
    descriptor
}

fn read(repository: &Repository<'_>, descriptor: &Descriptor, offset: u64) -> std::io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    repository.fetch(descriptor, offset)?.expect("it is there").read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// A registry that has an image of a layer of a megabyte, and something in front of it.
fn behind(decide: impl Fn(&Asked, usize) -> Act + Send + Sync + 'static) -> Option<(Server, Proxy, Vec<u8>)> {
    let server = Server::start()?;
    let layer = content(1 << 20);
    push(&client().repository(&name(&server.address, "me/web:1")).unwrap(), &layer);
    let proxy = Proxy::start(&server.address, decide);
    Some((server, proxy, layer))
}

#[test]
fn what_was_sent_is_read_byte_for_byte_from_any_place() {
    let Some(server) = Server::start() else { return };
    let client = client();
    let repository = client.repository(&name(&server.address, "me/web:1")).unwrap();
    let layer = content(1 << 20);
    let manifest = push(&repository, &layer);
    assert_eq!(repository.resolve().unwrap(), manifest);
    let blob = Descriptor::of(MediaType::OCI_LAYER_GZIP, &layer);
    for offset in [0, 1, 4711, (1 << 20) - 1, 1 << 20] {
        assert_eq!(read(&repository, &blob, offset).unwrap(), &layer[usize::try_from(offset).unwrap()..]);
    }
    assert!(repository.has(&blob).unwrap());
    let absent = Descriptor::of(MediaType::OCI_LAYER_GZIP, b"absent");
    assert!(!repository.has(&absent).unwrap());
    assert!(repository.fetch(&absent, 0).unwrap().is_none());
}

#[test]
fn a_digest_decides_and_a_name_that_is_not_there_is_said_to_be_absent() {
    let Some(server) = Server::start() else { return };
    let client = client();
    let tagged = name(&server.address, "me/web:1");
    let manifest = push(&client.repository(&tagged).unwrap(), b"layer");
    let resolve = |name: &Reference| client.repository(name).unwrap().resolve();
    assert_eq!(
        resolve(&name(&server.address, "me/web:other").with_digest(manifest.digest)).unwrap(),
        manifest
    );
    let error = resolve(&name(&server.address, "me/web:2")).unwrap_err();
    assert_eq!(error.kind(), "not-found");
    assert_eq!(error.to_string(), format!("{} has no 2 in me/web: manifest unknown", server.address));
}

#[test]
fn a_connection_that_breaks_is_asked_only_for_the_rest() {
    let decide =
        |asked: &Asked, before| if asked.is_blob() && before < 4 { Act::Cut(200_000) } else { Act::Pass };
    let Some((_server, proxy, layer)) = behind(decide) else { return };
    let client = client();
    let repository = client.repository(&name(&proxy.address, "me/web:1")).unwrap();
    let blob = Descriptor::of(MediaType::OCI_LAYER_GZIP, &layer);
    assert_eq!(read(&repository, &blob, 0).unwrap(), layer);
    let ranges: Vec<_> = proxy.asked().iter().map(|asked| asked.header("range").map(str::to_owned)).collect();
    let wanted = |at: usize| Some(format!("bytes={at}-"));
    assert_eq!(ranges, [None, wanted(200_000), wanted(400_000), wanted(600_000), wanted(800_000)]);
}

#[test]
fn a_server_that_ignores_ranges_has_its_beginning_skipped() {
    let decide = |asked: &Asked, before| match before {
        _ if !asked.is_blob() => Act::Pass,
        0 => Act::Cut(300_000),
        _ => Act::NoRange,
    };
    let Some((_server, proxy, layer)) = behind(decide) else { return };
    let client = client();
    let repository = client.repository(&name(&proxy.address, "me/web:1")).unwrap();
    let blob = Descriptor::of(MediaType::OCI_LAYER_GZIP, &layer);
    assert_eq!(read(&repository, &blob, 0).unwrap(), layer);
    assert_eq!(read(&repository, &blob, 77).unwrap(), &layer[77..]);
}

#[test]
fn an_answer_that_passes_is_waited_for_and_one_that_does_not_is_reported() {
    let decide = |_: &Asked, before| match before {
        0 => Act::Answer("HTTP/1.1 503 Service Unavailable\nContent-Length: 0\n\n"),
        1 => Act::Answer("HTTP/1.1 429 Too Many Requests\nRetry-After: 0\nContent-Length: 0\n\n"),
        2 => Act::Answer(""),
        _ => Act::Pass,
    };
    let Some((server, proxy, layer)) = behind(decide) else { return };
    let client = client();
    let repository = client.repository(&name(&proxy.address, "me/web:1")).unwrap();
    repository.resolve().unwrap();
    let blob = Descriptor::of(MediaType::OCI_LAYER_GZIP, &layer);
    assert_eq!(read(&repository, &blob, 0).unwrap(), layer);
    assert_eq!(proxy.asked().len(), 8);

    let always = Proxy::start(&server.address, |_, _| {
        Act::Answer("HTTP/1.1 503 Service Unavailable\nContent-Length: 9\n\nslow down")
    });
    let error = client.repository(&name(&always.address, "me/web:1")).unwrap().resolve().unwrap_err();
    assert_eq!(error.to_string(), format!("{} refused to read 1 in me/web (503: slow down)", always.address));
    assert_eq!(always.asked().len(), 6);

    let later = Proxy::start(&server.address, |_, _| {
        Act::Answer("HTTP/1.1 429 Too Many Requests\nRetry-After: 86400\nContent-Length: 0\n\n")
    });
    let error = client.repository(&name(&later.address, "me/web:1")).unwrap().resolve().unwrap_err();
    assert_eq!(later.asked().len(), 1, "{error}");
}

#[test]
fn a_manifest_that_is_not_what_its_digest_says_is_refused() {
    let Some((_server, proxy, _)) = behind(|_, _| Act::Wrong(3)) else { return };
    let client = client();
    let digest = plywood::Digest::of("another");
    let error = client.repository(&name(&proxy.address, "me/web:1")).unwrap().resolve().unwrap_err();
    assert_eq!(error.kind(), "invalid-image");
    let wrong = client.repository(&name(&proxy.address, "me/web").with_digest(digest)).unwrap().resolve();
    assert_eq!(wrong.unwrap_err().kind(), "not-found");
}

#[test]
fn a_document_without_end_is_not_taken_into_memory() {
    let Some((_server, proxy, _)) = behind(|_, _| Act::Pass) else { return };
    let mut options = options();
    options.limits.json_bytes = 100;
    let client = Client::new(options).unwrap();
    let error = client.repository(&name(&proxy.address, "me/web:1")).unwrap().resolve().unwrap_err();
    assert!(matches!(error, RegistryError::Document { .. }), "{error}");
}

#[test]
fn a_registry_that_nobody_runs_is_not_asked_twice() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    drop(listener);
    let mut options = options();
    options.back_off = std::time::Duration::from_secs(3600);
    let client = Client::new(options).unwrap();
    let error = client.repository(&name(&address, "x")).unwrap().resolve().unwrap_err();
    assert_eq!(error.to_string(), format!("cannot reach {address}"));
}

#[test]
fn who_is_asked_for_credentials_shows_those_of_the_files() {
    let Some(server) = Server::with_password() else { return };
    let web = name(&server.address, "me/web:1");
    let file = |password: &str| {
        use base64::Engine as _;
        let auth = base64::engine::general_purpose::STANDARD.encode(format!("me:{password}"));
        let path = server.dir.path().join(format!("{}.json", password.len()));
        let text = format!("{{\"auths\": {{\"{}\": {{\"auth\": \"{auth}\"}}}}}}", server.address);
        std::fs::write(&path, text).unwrap();
        let mut options = options();
        options.auth_files = vec!["/nowhere/auth.json".into(), path];
        Client::new(options).unwrap()
    };
    let right = file("secret");
    let manifest = push(&right.repository(&web).unwrap(), &content(100_000));
    assert_eq!(right.repository(&web).unwrap().resolve().unwrap(), manifest);

    for (client, known) in [(client(), false), (file("wrong"), true)] {
        let repository = client.repository(&web).unwrap();
        let error = repository.resolve().unwrap_err();
        assert!(
            matches!(error, RegistryError::Denied { status: 401, with_credentials, .. } if with_credentials == known),
            "{error:?}"
        );
        let text = format!("{error} {error:?} {repository:?}");
        assert!(!text.contains("wrong") && !text.contains("d3Jvbmc"), "{text}");
        let blob = Descriptor::of(MediaType::OCI_LAYER, b"more");
        let error = repository.send(&blob, &|| Ok(Box::new(&b"more"[..])), &|_| ()).unwrap_err();
        assert_eq!(error.kind(), "access-denied");
    }
    let mut options = options();
    options.credentials = Some(Credentials::password("me", "secret"));
    let given = Client::new(options).unwrap();
    assert_eq!(given.repository(&web).unwrap().resolve().unwrap(), manifest);
}

#[test]
fn a_blob_that_cannot_be_sent_at_once_is_sent_again_and_counted() {
    let Some(server) = Server::start() else { return };
    // Each attempt has a place of its own to write to.
    let puts = AtomicU64::new(0);
    let proxy = Proxy::start(&server.address, move |asked, before| match &asked.method[..] {
        "POST" if before == 0 => Act::Answer("HTTP/1.1 500 Oops\nContent-Length: 0\n\n"),
        "PUT" if puts.fetch_add(1, Ordering::SeqCst) == 0 => {
            Act::Answer("HTTP/1.1 503 Oops\nContent-Length: 0\n\n")
        }
        _ => Act::Pass,
    });
    let client = client();
    let repository = client.repository(&name(&proxy.address, "me/web:1")).unwrap();
    let bytes = content(3 << 20);
    let blob = Descriptor::of(MediaType::OCI_LAYER, &bytes);
    let moved = AtomicU64::new(0);
    let open = || Ok(Box::new(std::io::Cursor::new(bytes.clone())) as _);
    repository.send(&blob, &open, &|bytes| moved.store(bytes, Ordering::Relaxed)).unwrap();
    assert_eq!(moved.into_inner(), 3 << 20);
    assert_eq!(read(&repository, &blob, 0).unwrap(), bytes);

    let other = client.repository(&name(&proxy.address, "me/other:1")).unwrap();
    assert!(!other.has(&blob).unwrap());
    assert!(other.mount(&blob, &name(&proxy.address, "me/web")).unwrap());
    assert!(other.has(&blob).unwrap());
    assert!(!other.mount(&blob, &name("localhost:1", "me/web")).unwrap());
    let absent = Descriptor::of(MediaType::OCI_LAYER, b"absent");
    assert!(!other.mount(&absent, &name(&proxy.address, "me/web")).unwrap());
}

#[test]
fn it_works_inside_a_runtime_of_the_caller() {
    let Some((_server, proxy, layer)) = behind(|_, _| Act::Pass) else { return };
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    runtime.block_on(async {
        let client = client();
        let repository = client.repository(&name(&proxy.address, "me/web:1")).unwrap();
        let manifest = repository.resolve().unwrap();
        repository.put_document(&manifest, &read(&repository, &manifest, 0).unwrap(), Some("2")).unwrap();
        let blob = Descriptor::of(MediaType::OCI_LAYER_GZIP, &layer);
        assert_eq!(read(&repository, &blob, 0).unwrap(), layer);
        push(&repository, b"another");
    });
}

#[test]
fn a_registry_with_tls_is_believed_only_by_who_trusts_its_certificate() {
    let Some((server, authority)) = Server::with_tls() else { return };
    let web = name(&server.address, "me/web:1");
    let with = |certificates: Vec<Vec<u8>>| {
        let mut options = options();
        options.transport = Transport::Tls;
        options.certificates = certificates;
        Client::new(options).unwrap()
    };
    let trusting = with(vec![authority]);
    let manifest = push(&trusting.repository(&web).unwrap(), &content(100_000));
    assert_eq!(trusting.repository(&web).unwrap().resolve().unwrap(), manifest);
    let error = with(Vec::new()).repository(&web).unwrap().resolve().unwrap_err();
    assert_eq!(error.to_string(), format!("cannot reach {}", server.address));
    let error = with(vec![b"nothing".to_vec()]).repository(&web).unwrap_err();
    assert!(matches!(error, RegistryError::Client(_)), "{error}");
}
