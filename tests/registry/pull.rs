//! Pull: what a registry has is had here as it is there, and nothing is moved twice.

use std::collections::BTreeSet;
use std::sync::Mutex;

use plywood::archive::Transfer;
use plywood::registry::Client;
use plywood::{
    CreateOptions, ExportOptions, FetchOptions, Image, LoadedImage, Platforms, PushOptions, Store, StoreError,
};

use crate::common::image::{Compression, ImageSpec, Layout};
use crate::common::tar::tar;
use crate::common::{have, peers, run, scratch};
use crate::proxy::{Act, Asked, Proxy};
use crate::server::{Server, client, options};
use crate::shop::{both, load, name, web};

/// A registry that has `layout`'s only image as `me/web:1`, by our own hand.
pub fn with(layout: &Layout) -> Option<(Server, tempfile::TempDir)> {
    let server = Server::start()?;
    let dir = scratch();
    let (store, image) = load(&dir.path().join("source"), layout);
    let mut options = PushOptions::default();
    options.compression = plywood::LayerCompression::Keep;
    store.push(&image, &name(&server.address, "me/web:1"), &client(), &options).unwrap();
    Some((server, dir))
}

fn pull(store: &Store, address: &str, client: &Client) -> Result<LoadedImage, StoreError> {
    store.pull(&name(address, "me/web:1"), client, &FetchOptions::default())
}

/// The root of a container on the image, as a tar.
fn root(store: &Store, image: &Image) -> Vec<u8> {
    let container = store.create_container(image, &CreateOptions::default()).unwrap();
    let mut tar = Vec::new();
    container.export(&mut tar, &ExportOptions::default()).unwrap();
    tar
}

/// An image with a layer that does not compress.
pub fn large() -> ImageSpec {
    let mut state = 1_u64;
    let next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        (state >> 56) as u8
    };
    let bytes: Vec<u8> = std::iter::repeat_with(next).take(2 << 20).collect();
    web().compressed(tar().file("noise", bytes).finish(), Compression::Gzip)
}

#[test]
fn what_skopeo_and_podman_pushed_is_pulled_as_it_is_there() {
    let Some(server) = Server::start() else { return };
    let dir = scratch();
    Layout::of(&web()).write(&dir.path().join("layout"));
    let (source, image) = load(&dir.path().join("source"), &Layout::of(&web()));
    let store = Store::create(dir.path().join("store")).unwrap();
    if have(&["skopeo"]) {
        let from = format!("oci:{}", dir.path().join("layout").display());
        let to = format!("docker://{}/me/web:1", server.address);
        run("skopeo", ["copy", "-q", "--preserve-digests", "--dest-tls-verify=false", &from, &to]);
        let pulled = pull(&store, &server.address, &client()).unwrap();
        assert_eq!(pulled.image.digest(), image.digest());
        assert_eq!(pulled.image.id(), image.id());
        assert_eq!(pulled.names, [name(&server.address, "me/web:1")]);
        assert!(root(&store, &pulled.image) == root(&source, &image));
    }
    if let Some(podman) = peers::Storage::podman() {
        let archive = dir.path().join("web.tar");
        std::fs::write(&archive, Layout::of(&web()).oci_archive()).unwrap();
        podman.run(&["load", "-q", "-i", archive.to_str().unwrap()]);
        let id = podman.run(&["images", "-q", "--no-trunc"]);
        let there = name(&server.address, "me/podman:1");
        podman.run(&["push", "-q", "--tls-verify=false", &id, &there.canonical()]);
        let pulled = store.pull(&there, &client(), &FetchOptions::default()).unwrap();
        assert_eq!(pulled.image.id().to_string(), id);
        assert!(root(&store, &pulled.image) == root(&source, &image));
    }
}

#[test]
fn only_what_is_not_here_is_fetched_and_each_blob_once() {
    let Some((server, dir)) = with(&Layout::of(&web())) else { return };
    let proxy = Proxy::start(&server.address, |_, _| Act::Pass);
    let store = Store::create(dir.path().join("store")).unwrap();
    let told = Mutex::new(Vec::new());
    let progress = |transfer| told.lock().unwrap().push(transfer);
    let mut options = FetchOptions::default();
    options.progress = Some(&progress);
    let there = name(&proxy.address, "me/web:1");
    let image = store.pull(&there, &client(), &options).unwrap().image;
    let blobs: Vec<_> = proxy.asked().into_iter().filter(Asked::is_blob).map(|asked| asked.path).collect();
    assert_eq!(blobs.len(), 3);
    assert_eq!(blobs.iter().collect::<BTreeSet<_>>().len(), 3);
    assert_eq!(proxy.asked().len(), 4, "the manifest and the blobs, and nothing else: {:?}", proxy.asked());
    let finished =
        |told: &Vec<_>| told.iter().filter(|told| matches!(told, Transfer::Finished { .. })).count();
    assert!(finished(&told.lock().unwrap()) >= 2);

    proxy.forget();
    assert_eq!(store.pull(&there, &client(), &options).unwrap().image.digest(), image.digest());
    assert_eq!((proxy.blobs(), proxy.asked().len()), (0, 1));

    // Another image on the same layers: its config and its own layer.
    let (source, other) = load(&dir.path().join("other"), &Layout::of(&large()));
    let mut push = PushOptions::default();
    push.compression = plywood::LayerCompression::Keep;
    let later = name(&proxy.address, "me/web:2");
    source.push(&other, &later, &client(), &push).unwrap();
    proxy.forget();
    store.pull(&later, &client(), &options).unwrap();
    assert_eq!(proxy.blobs(), 2);
}

#[test]
fn a_pull_that_broke_goes_on_where_it_was() {
    let Some((server, dir)) = with(&Layout::of(&large())) else { return };
    let store = Store::create(dir.path().join("store")).unwrap();
    let layer = Layout::of(&large()).images[0].layers[2].clone();
    let broken = {
        let layer = layer.clone();
        Proxy::start(&server.address, move |asked, _| match asked.path.ends_with(&layer) {
            true => Act::Cut(700_000),
            false => Act::Pass,
        })
    };
    let mut once = options();
    once.retries = 0;
    let error = pull(&store, &broken.address, &Client::new(once).unwrap()).unwrap_err();
    assert_eq!(error.kind(), "unreachable", "{error}");
    assert!(store.images().unwrap().is_empty());

    let proxy = Proxy::start(&server.address, |_, _| Act::Pass);
    let image = pull(&store, &proxy.address, &client()).unwrap().image;
    let asked = proxy.asked();
    let rest: Vec<_> = asked.iter().filter(|asked| asked.path.ends_with(&layer)).collect();
    assert_eq!(rest.len(), 1);
    assert_eq!(rest[0].header("range"), Some("bytes=700000-"));
    let (source, expected) = load(&dir.path().join("again"), &Layout::of(&large()));
    assert!(root(&store, &image) == root(&source, &expected));
}

#[test]
fn connections_may_break_again_and_again_while_layers_are_unpacked() {
    let Some((server, dir)) = with(&Layout::of(&large())) else { return };
    let store = Store::create(dir.path().join("store")).unwrap();
    let proxy = Proxy::start(&server.address, |asked, _| match asked.is_blob() {
        true => Act::Cut(150_000),
        false => Act::Pass,
    });
    let image = pull(&store, &proxy.address, &client()).unwrap().image;
    let (source, expected) = load(&dir.path().join("again"), &Layout::of(&large()));
    assert_eq!(image.digest(), expected.digest());
    assert!(root(&store, &image) == root(&source, &expected));
}

#[test]
fn wrong_bytes_are_refused_and_the_store_stays_as_it_was() {
    let Some((server, dir)) = with(&Layout::of(&large())) else { return };
    let store = Store::create(dir.path().join("store")).unwrap();
    let proxy = Proxy::start(&server.address, |asked, _| match asked.is_blob() {
        true => Act::Wrong(1),
        false => Act::Pass,
    });
    let error = pull(&store, &proxy.address, &client()).unwrap_err();
    assert_eq!(error.kind(), "digest-mismatch", "{error:?}");
    assert!(store.images().unwrap().is_empty());
    // Nothing of it is believed later.
    pull(&store, &server.address, &client()).unwrap();
}

#[test]
fn platforms_are_fetched_as_they_are_wanted() {
    let Some((server, dir)) = with(&both(true)) else { return };
    let proxy = Proxy::start(&server.address, |_, _| Act::Pass);
    let store = Store::create(dir.path().join("store")).unwrap();
    let client = client();
    let there = name(&proxy.address, "me/web:1");
    let mut options = FetchOptions::default();
    options.platforms = Platforms::Of(vec!["linux/riscv64".parse().unwrap()]);
    let one = store.pull(&there, &client, &options).unwrap().image;
    let fetched = proxy.blobs();
    options.platforms = Platforms::All;
    let all = store.pull(&there, &client, &options).unwrap().image;
    assert_eq!(one.digest(), all.digest());
    // They share their layers; the other has a config of its own.
    assert_eq!(proxy.blobs(), fetched + 1);
    options.platforms = Platforms::Of(vec!["linux/s390x".parse().unwrap()]);
    assert_eq!(store.pull(&there, &client, &options).unwrap_err().kind(), "no-platform");
}

#[test]
fn a_password_is_needed_where_one_is_wanted_and_a_digest_decides() {
    let Some(server) = Server::with_password() else { return };
    let dir = scratch();
    let (source, image) = load(&dir.path().join("source"), &Layout::of(&web()));
    let with = |password: Option<&str>| {
        let mut options = options();
        options.credentials = password.map(|word| plywood::registry::Credentials::password("me", word));
        Client::new(options).unwrap()
    };
    let there = name(&server.address, "me/web:1");
    let pushed = source.push(&image, &there, &with(Some("secret")), &PushOptions::default()).unwrap();
    let store = Store::create(dir.path().join("store")).unwrap();
    for client in [with(None), with(Some("wrong"))] {
        assert_eq!(pull(&store, &server.address, &client).unwrap_err().kind(), "access-denied");
    }
    let other = name(&server.address, "me/web:other").with_digest(pushed.target.digest);
    let pulled = store.pull(&other, &with(Some("secret")), &FetchOptions::default()).unwrap();
    assert_eq!(pulled.image.id(), image.id());
    assert_eq!(pulled.names, [name(&server.address, "me/web:other")]);
}

#[test]
fn what_a_digest_brings_is_found_and_kept_by_it() {
    let Some(server) = Server::start() else { return };
    let dir = scratch();
    let (source, image) = load(&dir.path().join("source"), &Layout::of(&web()));
    let there = name(&server.address, "me/web:1");
    let digest = source.push(&image, &there, &client(), &PushOptions::default()).unwrap().target.digest;
    let store = Store::create(dir.path().join("store")).unwrap();
    let by_digest = there.at_digest(digest);
    let pulled = store.pull(&by_digest, &client(), &FetchOptions::default()).unwrap();
    assert_eq!(pulled.names, std::slice::from_ref(&by_digest));
    store.prune(&plywood::PruneOptions::images(plywood::PruneImages::Dangling)).unwrap();
    store.gc(&plywood::GcOptions::default()).unwrap();
    for text in [by_digest.familiar(), there.with_digest(digest).familiar()] {
        let found = store.image(&text).unwrap();
        assert_eq!((found.id(), found.repo_digests()), (image.id(), vec![by_digest.clone()]));
    }
    // With a tag beside it, the image gets both, and the digest keeps it when the tag moves.
    let with_tag = there.with_digest(digest);
    store.pull(&with_tag, &client(), &FetchOptions::default()).unwrap();
    assert_eq!(store.image(&digest.to_string()).unwrap().names(), [there.clone(), by_digest.clone()]);
    store.untag(&there).unwrap();
    assert_eq!(store.image(&by_digest.familiar()).unwrap().id(), image.id());
}
