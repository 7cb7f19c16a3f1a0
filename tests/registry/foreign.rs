//! Layers of types that must not be passed on: registries may have them or lack them.

use std::collections::BTreeMap;

use plywood::{CreateOptions, ExportOptions, FetchOptions, Image, Store, StoreError, Unpack};
use serde_json::{Value, json};

use crate::common::image::Layout;
use crate::common::scratch;
use crate::script::{Got, Reply, Script, reply};
use crate::server::client;
use crate::shop::{load, name, web};

const TYPES: [&str; 2] = [
    "application/vnd.oci.image.layer.nondistributable.v1.tar+gzip",
    "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip",
];
const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";

/// An image whose lowest layer is of the type `media_type`, and the digests of its manifest and of that layer.
struct Foreign {
    layout: Layout,
    manifest: String,
    layer: String,
}

impl Foreign {
    fn new(media_type: &str, urls: &[String]) -> Self {
        let mut layout = Layout::of(&web());
        let added = layout.images[0].clone();
        let mut document: Value = serde_json::from_slice(&layout.blobs[&added.manifest]).unwrap();
        document["layers"][0]["mediaType"] = json!(media_type);
        document["layers"][0]["urls"] = json!(urls);
        let described = layout.document(MANIFEST, &document);
        let manifest = described["digest"].as_str().unwrap().to_owned();
        Self { layout, manifest, layer: added.layers[0].clone() }
    }

    /// Serves the image as `me/web:1`. The registry lacks the foreign layer unless `has_layer` is set.
    fn serve(&self, has_layer: bool) -> Script {
        let mut blobs: BTreeMap<String, Vec<u8>> = self.layout.blobs.clone();
        if !has_layer {
            blobs.remove(&self.layer);
        }
        blobs.insert("1".to_owned(), blobs[&self.manifest].clone());
        Script::start(move |got: &Got, _: &str| -> Reply {
            let wanted = got.path.rsplit('/').next().unwrap();
            match blobs.get(wanted) {
                Some(bytes) if got.path.contains("/manifests/") => {
                    reply(200, &[&format!("Content-Type: {MANIFEST}")], bytes.clone())
                }
                Some(bytes) => reply(200, &[], bytes.clone()),
                None => reply(404, &[], r#"{"errors":[{"code":"BLOB_UNKNOWN","message":"unknown"}]}"#),
            }
        })
    }
}

fn pull(store: &Store, server: &Script, unpack: Unpack) -> Result<Image, StoreError> {
    let mut options = FetchOptions::default();
    options.unpack = unpack;
    Ok(store.pull(&name(&server.address, "me/web:1"), &client(), &options)?.image)
}

fn root(store: &Store, image: &Image) -> Vec<u8> {
    let container = store.create_container(image, &CreateOptions::default()).unwrap();
    let mut tar = Vec::new();
    container.export(&mut tar, &ExportOptions::default()).unwrap();
    tar
}

fn chain(error: &StoreError) -> String {
    let mut text = error.to_string();
    let mut cause = std::error::Error::source(error);
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}

#[test]
fn a_foreign_layer_that_the_registry_has_is_pulled_and_unpacked() {
    for media_type in TYPES {
        for unpack in [Unpack::Now, Unpack::OnDemand] {
            let foreign = Foreign::new(media_type, &["https://example.com/layer".to_owned()]);
            let server = foreign.serve(true);
            let dir = scratch();
            let store = Store::create(dir.path().join("store")).unwrap();
            let image = pull(&store, &server, unpack).unwrap();
            assert_eq!(image.digest().to_string(), foreign.manifest);
            let (source, same) = load(&dir.path().join("source"), &Layout::of(&web()));
            assert!(root(&store, &image) == root(&source, &same), "{media_type}");
        }
    }
}

#[test]
fn an_error_about_an_absent_foreign_layer_names_its_type_and_its_places() {
    let place = |at: &str| format!("https://{at}.example/layer");
    let hostile = format!("https://evil.example/\u{1b}[2J{}", "x".repeat(100_000));
    let many: Vec<String> = (0..1000).map(|at| place(&format!("h{at}"))).collect();
    let cases = [
        (vec![place("one")], vec![place("one")]),
        (vec![place("one"), place("two")], vec![place("one"), place("two")]),
        (vec![], vec!["no other place".to_owned()]),
        (vec![hostile], vec!["https://evil.example/".to_owned()]),
        (many, vec![place("h0"), "995 more".to_owned()]),
    ];
    for media_type in TYPES {
        for (urls, expected) in &cases {
            let foreign = Foreign::new(media_type, urls);
            let server = foreign.serve(false);
            let dir = scratch();
            let store = Store::create(dir.path().join("store")).unwrap();
            let now = pull(&store, &server, Unpack::Now).unwrap_err();
            assert!(store.images().unwrap().is_empty(), "nothing is visible of a pull that failed");
            let image = pull(&store, &server, Unpack::OnDemand).unwrap();
            let later = store.create_container(&image, &CreateOptions::default()).unwrap_err();
            for error in [now, later] {
                let StoreError::ForeignLayer { digest, urls: named, .. } = &error else {
                    panic!("{error:?}")
                };
                assert_eq!((digest.to_string(), named), (foreign.layer.clone(), urls));
                assert_eq!(error.kind(), "missing-blob");
                let said = chain(&error);
                for word in expected.iter().chain([&foreign.layer, &media_type.to_owned()]) {
                    assert!(said.contains(word), "{word}: {said}");
                }
                assert!(
                    !said.contains("is missing") && !said.contains('\u{1b}') && said.len() < 3000,
                    "{said}"
                );
            }
        }
    }
}

#[cfg(feature = "cli")]
#[test]
fn the_tool_says_from_where_a_foreign_layer_can_be_downloaded() {
    let foreign = Foreign::new(TYPES[0], &["https://example.com/layer".to_owned()]);
    let server = foreign.serve(false);
    let dir = scratch();
    let there = format!("{}/me/web:1", server.address);
    let refused = crate::tool::plywood(dir.path(), "store", &["pull", "--json", &there]);
    assert_eq!(refused.status.code(), Some(1));
    let said: Value = serde_json::from_slice(&refused.stderr).unwrap();
    let message = said["error"].as_str().unwrap_or_else(|| panic!("{said}"));
    for word in [&foreign.layer[..], TYPES[0], "must not be passed on", "https://example.com/layer"] {
        assert!(message.contains(word), "{said}");
    }
    assert!(!message.contains("is missing"), "{said}");
    assert!(said["hint"].as_str().unwrap().contains("plywood load"), "{said}");
}
