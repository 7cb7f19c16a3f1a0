//! Push: what a registry then has, who can use it, and what is not moved again.

use std::collections::BTreeMap;
use std::sync::Mutex;

use plywood::archive::{AbsentPlatforms, Transfer};
use plywood::image::Index;
use plywood::{CommitOptions, CreateOptions, LayerCompression, PushOptions};

use crate::common::image::Layout;
use crate::common::{have, peers, run, scratch};
use crate::proxy::{Act, Asked, Proxy};
use crate::server::{Server, client};
use crate::shop::{both, load, name, web};

fn kept() -> PushOptions<'static> {
    let mut options = PushOptions::default();
    options.compression = LayerCompression::Keep;
    options
}

/// How often something was sent.
fn sent(proxy: &Proxy) -> BTreeMap<&'static str, usize> {
    let of = |kind: &'static str, picks: fn(&Asked) -> bool| {
        (kind, proxy.asked().iter().filter(|asked| picks(asked)).count())
    };
    [
        of("blobs", |asked| asked.method == "PUT" && asked.path.contains("/blobs/")),
        of("documents", |asked| asked.method == "PUT" && asked.path.contains("/manifests/")),
    ]
    .into()
}

#[test]
fn skopeo_and_podman_find_what_was_pushed_as_it_is_here() {
    let Some(server) = Server::start() else { return };
    let dir = scratch();
    let (store, image) = load(&dir.path().join("store"), &Layout::of(&web()));
    let there = name(&server.address, "me/web:1");
    let pushed = store.push(&image, &there, &client(), &kept()).unwrap();
    assert_eq!(pushed.target.digest, image.digest());
    assert_eq!(pushed.moved, 3);
    if have(&["skopeo"]) {
        let copy = dir.path().join("copy");
        let from = format!("docker://{}", there.canonical());
        run(
            "skopeo",
            [
                "copy",
                "-q",
                "--preserve-digests",
                "--src-tls-verify=false",
                &from,
                &format!("oci:{}", copy.display()),
            ],
        );
        let index = std::fs::read(copy.join("index.json")).unwrap();
        let index = Index::parse(&index, &Default::default()).unwrap();
        assert_eq!(index.manifests[0].digest, image.digest());
    }
    if let Some(podman) = peers::Storage::podman() {
        podman.run(&["pull", "-q", "--tls-verify=false", &there.canonical()]);
        let id = podman.run(&["images", "-q", "--no-trunc"]);
        assert_eq!(id, image.id().to_string());
    }
}

#[test]
fn nothing_is_sent_that_the_registry_has() {
    let Some(server) = Server::start() else { return };
    let dir = scratch();
    let (store, image) = load(&dir.path().join("store"), &Layout::of(&web()));
    let proxy = Proxy::start(&server.address, |_, _| Act::Pass);
    let push = |rest: &str| {
        proxy.forget();
        let told = Mutex::new(Vec::new());
        let progress = |transfer| told.lock().unwrap().push(transfer);
        let mut options = PushOptions::default();
        options.progress = Some(&progress);
        store.push(&image, &name(&proxy.address, rest), &client(), &options).unwrap();
        let told = told.into_inner().unwrap();
        let present = told.iter().filter(|told| matches!(told, Transfer::Present { .. })).count();
        (sent(&proxy)["blobs"], sent(&proxy)["documents"], present)
    };
    assert_eq!(push("me/web:1"), (3, 1, 0));
    assert_eq!(push("me/web:2"), (0, 1, 3));
    // Another repository of the same registry gives what it has.
    store.tag(&image, &name(&proxy.address, "me/web:1")).unwrap();
    let image = store.image("localhost/web:1").unwrap();
    proxy.forget();
    store.push(&image, &name(&proxy.address, "me/other:1"), &client(), &PushOptions::default()).unwrap();
    assert_eq!((sent(&proxy)["blobs"], sent(&proxy)["documents"]), (0, 1));
}

#[test]
fn the_layers_of_a_commit_are_compressed_for_the_way_and_the_id_stays() {
    let Some(server) = Server::start() else { return };
    let dir = scratch();
    let (store, image) = load(&dir.path().join("store"), &Layout::of(&web()));
    let container = store.create_container(&image, &CreateOptions::named("box")).unwrap();
    let committed = container.commit(&CommitOptions::named("localhost/web:2".parse().unwrap())).unwrap();
    let there = name(&server.address, "me/web:2");
    let pushed = store.push(&committed, &there, &client(), &PushOptions::default()).unwrap();
    assert_ne!(pushed.target.digest, committed.digest());
    if have(&["skopeo"]) {
        let from = format!("docker://{}", there.canonical());
        let raw = run("skopeo", ["inspect", "--raw", "--tls-verify=false", &from]);
        let manifest = plywood::image::Manifest::parse(&raw, &Default::default()).unwrap();
        assert_eq!(manifest.config.digest.to_string(), committed.id().to_string());
        let types: Vec<_> = manifest.layers.iter().map(|layer| layer.media_type.as_str()).collect();
        assert!(types.iter().all(|name| name.ends_with("tar+gzip")), "{types:?}");
        // What was compressed before is what it was.
        assert_eq!(manifest.layers[0].digest.to_string(), Layout::of(&web()).images[0].layers[0]);
    }
}

#[test]
fn an_index_goes_whole_or_not_unless_that_is_wished() {
    let Some(server) = Server::start() else { return };
    let dir = scratch();
    let (store, image) = load(&dir.path().join("part"), &both(false));
    let (there, client) = (name(&server.address, "me/both:1"), client());
    let error = store.push(&image, &there, &client, &kept()).unwrap_err();
    assert_eq!(error.to_string(), format!("the image {} is not here for linux/riscv64", image.digest()));
    assert_eq!(client.repository(&there).unwrap().resolve().unwrap_err().kind(), "not-found");

    let mut options = kept();
    options.absent = AbsentPlatforms::LeaveOut;
    let pushed = store.push(&image, &there, &client, &options).unwrap();
    assert_ne!(pushed.target.digest, image.digest());
    assert_eq!(client.repository(&there).unwrap().resolve().unwrap().digest, pushed.target.digest);

    // One who has all of it pushes it whole, and then nobody lacks anything.
    let (other, whole) = load(&dir.path().join("whole"), &both(true));
    let pushed = other.push(&whole, &there, &client, &kept()).unwrap();
    assert_eq!(pushed.target.digest, image.digest());
    assert_eq!(store.push(&image, &there, &client, &kept()).unwrap().target, pushed.target);

    let mut options = kept();
    options.platform = Some("linux/amd64".parse().unwrap());
    let one = store.push(&image, &name(&server.address, "me/one:1"), &client, &options).unwrap();
    assert_eq!(one.target.digest.to_string(), both(true).images[0].manifest);
}

#[test]
fn a_push_that_breaks_leaves_the_name_where_it_was_and_the_next_goes_on() {
    let Some(server) = Server::start() else { return };
    let dir = scratch();
    let (store, image) = load(&dir.path().join("store"), &Layout::of(&web()));
    let broken = Proxy::start(&server.address, |asked, _| match asked.path.contains("/manifests/") {
        true if asked.method == "PUT" => Act::Answer("HTTP/1.1 500 Oops\nContent-Length: 0\n\n"),
        _ => Act::Pass,
    });
    let error = store.push(&image, &name(&broken.address, "me/web:1"), &client(), &kept()).unwrap_err();
    assert_eq!(error.kind(), "registry", "{error}");
    let there = name(&server.address, "me/web:1");
    assert_eq!(client().repository(&there).unwrap().resolve().unwrap_err().kind(), "not-found");
    assert_eq!(store.push(&image, &there, &client(), &kept()).unwrap().moved, 0);
}

#[test]
fn a_password_is_needed_where_one_is_wanted() {
    let Some(server) = Server::with_password() else { return };
    let dir = scratch();
    let (store, image) = load(&dir.path().join("store"), &Layout::of(&web()));
    let there = name(&server.address, "me/web:1");
    let push = |credentials| {
        let mut options = crate::server::options();
        options.credentials = credentials;
        let client = plywood::registry::Client::new(options).unwrap();
        store.push(&image, &there, &client, &kept())
    };
    let credentials = |password| Some(plywood::registry::Credentials::password("me", password));
    assert_eq!(push(None).unwrap_err().kind(), "access-denied");
    assert_eq!(push(credentials("wrong")).unwrap_err().kind(), "access-denied");
    assert_eq!(push(credentials("secret")).unwrap().target.digest, image.digest());
}
