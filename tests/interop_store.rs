//! The store as other tools see it: `oci/` is an OCI layout at every instant, and they read it in place.

#![allow(clippy::unwrap_used)]

mod common;

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use common::image::{Compression, ImageSpec, Layout, image};
use common::privilege::{self, Privilege};
use common::tar::tar;
use common::tree::snapshot;
use common::{model, run};
use plywood::fs::Durability;
use plywood::image::Reference;
use plywood::store::{CommitOptions, CreateOptions, Image, LoadOptions, RemoveImage, Store};
use serde_json::Value;

fn store() -> (tempfile::TempDir, Store) {
    let temp = common::scratch();
    let store = Store::options().durability(Durability::Relaxed).create(temp.path().join("store")).unwrap();
    (temp, store)
}

fn layout(store: &Store) -> PathBuf {
    store.path().join("oci")
}

fn load(store: &Store, image: &ImageSpec) -> Image {
    let archive = Layout::of(image).oci_archive();
    store.load(&archive[..], &LoadOptions::default()).unwrap().remove(0).image
}

fn web() -> ImageSpec {
    let base = tar().dir("etc").file("etc/hosts", "base").dir("srv").mode(0o2755).owner(33, 33).finish();
    let top =
        tar().dir("etc").whiteout("etc/hosts").file("srv-link", "x").link("srv/link", "srv-link").finish();
    image()
        .compressed(base, Compression::Gzip)
        .compressed(top, Compression::None)
        .name("docker.io/library/web:1")
        .name("localhost:5000/team/web:latest")
}

fn json(bytes: &[u8]) -> Value {
    serde_json::from_slice(bytes).unwrap()
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

#[test]
fn skopeo_reads_every_image_of_the_store_in_place() {
    if !common::have(&["skopeo"]) {
        return;
    }
    let (temp, store) = store();
    let image = load(&store, &web());
    let container = store.create_container(&image, &CreateOptions::default()).unwrap();
    let name = Reference::parse_familiar("web:2").unwrap();
    let committed = container.commit(&CommitOptions::named(name)).unwrap();
    let layout = layout(&store);
    for image in [&image, &committed] {
        for name in image.names() {
            let source = format!("oci:{}:{}", text(&layout), name.familiar());
            let inspected = json(&run("skopeo", ["inspect", &source]));
            assert_eq!(inspected["Digest"], image.digest().to_string());
            let layers: Vec<_> =
                image.manifest().layers.iter().map(|layer| layer.digest.to_string()).collect();
            assert_eq!(inspected["Layers"], serde_json::json!(layers));
            let config = run("skopeo", ["inspect", "--config", "--raw", &source]);
            assert_eq!(json(&config), json(&store.config_bytes(image).unwrap()));
            // Copied, it is verified blob by blob.
            let copy = temp.path().join("copy");
            run("skopeo", ["copy", "-q", &source, &format!("dir:{}", text(&copy))]);
        }
    }
}

#[test]
fn umoci_lists_and_unpacks_the_images_of_the_store_in_place() {
    if !common::have(&["umoci"]) {
        return;
    }
    privilege::under(&[Privilege::Root], |_| {
        let (temp, store) = store();
        let image = load(&store, &web());
        let layout = layout(&store);
        let list = String::from_utf8(run("umoci", ["ls", "--layout", text(&layout)])).unwrap();
        let names: Vec<_> = image.names().iter().map(Reference::familiar).collect();
        assert_eq!(list.lines().collect::<Vec<_>>(), names);
        let source = format!("{}:web:1", text(&layout));
        let stat = json(&run("umoci", ["stat", "--image", &source, "--json"]));
        assert_eq!(stat["history"].as_array().map_or(0, Vec::len), image.history().len());
        let bundle = temp.path().join("bundle");
        run("umoci", ["unpack", "--image", &source, text(&bundle)]);
        let entries: Vec<_> = [
            tar().dir("etc").file("etc/hosts", "base").dir("srv").mode(0o2755).owner(33, 33),
            tar().dir("etc").whiteout("etc/hosts").file("srv-link", "x").link("srv/link", "srv-link"),
        ]
        .map(|layer| layer.entries())
        .to_vec();
        let expected = model::stack(entries.iter().map(Vec::as_slice)).without_root();
        // umoci sets the time of a directory before it takes things out of it.
        let late = |path: &Path, _: &common::tree::Node| ["etc", "srv"].contains(&text(path));
        let unpacked = snapshot(bundle.join("rootfs")).without_root().without_mtimes(late);
        unpacked.assert_same(&expected.without_mtimes(late), "umoci's root");
    });
}

#[test]
fn at_every_moment_of_a_busy_store_its_layout_is_whole() {
    if !common::have(&["skopeo"]) {
        return;
    }
    let (_temp, store) = store();
    load(&store, &web());
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let busy = scope.spawn(|| {
            for round in 0.. {
                if done.load(Ordering::Relaxed) {
                    break;
                }
                let other = load(&store, &web().layer(tar().file("round", format!("{round}")).finish()));
                assert_eq!(other.names().len(), 2);
                // The old one has no name now.
                for image in store.images().unwrap().iter().filter(|image| image.names().is_empty()) {
                    store.remove_image(&image.digest().to_string(), RemoveImage::Refuse).unwrap();
                }
            }
        });
        let source = format!("oci:{}:web:1", text(&layout(&store)));
        let looked: Vec<_> = (0..15)
            .map(|_| std::panic::catch_unwind(|| json(&run("skopeo", ["inspect", &source]))))
            .collect();
        done.store(true, Ordering::Relaxed);
        busy.join().unwrap();
        assert!(looked.into_iter().all(|looked| looked.is_ok_and(|inspected| inspected["Os"] == "linux")));
    });
}
