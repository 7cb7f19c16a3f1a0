//! Images that are pushed and pulled.

use std::path::Path;

use plywood::{Image, LoadOptions, Reference, Store};

use crate::common::image::{Compression, ImageSpec, Layout, image};
use crate::common::tar::tar;

/// An image of a plain and a compressed layer.
pub fn web() -> ImageSpec {
    let base = tar().dir("etc").file("etc/motd", "hello").mode(0o640);
    let upper = tar().file("etc/motd", "changed").symlink("link", "etc/motd").file("large", vec![7; 300_000]);
    image().compressed(base.finish(), Compression::Gzip).layer(upper.finish()).name("localhost/web:1")
}

pub fn load(dir: &Path, layout: &Layout) -> (Store, Image) {
    let store = Store::ensure(dir).unwrap();
    let loaded = store.load(&layout.oci_archive()[..], &LoadOptions::default()).unwrap();
    (store, loaded[0].image.clone())
}

pub fn name(address: &str, rest: &str) -> Reference {
    format!("{address}/{rest}").parse().unwrap()
}

/// An image for two platforms, of which the second is here only if `whole`.
pub fn both(whole: bool) -> Layout {
    let mut layout = Layout::default();
    let mut other = web();
    other.config["architecture"] = "riscv64".into();
    let images = [layout.add(&web()), layout.add(&other)];
    let mut entries = Vec::new();
    for (added, architecture) in images.iter().zip(["amd64", "riscv64"]) {
        let size = layout.blobs[&added.manifest].len();
        entries.push(serde_json::json!({
            "mediaType": "application/vnd.oci.image.manifest.v1+json", "digest": added.manifest, "size": size,
            "platform": {"os": "linux", "architecture": architecture},
        }));
    }
    let media_type = "application/vnd.oci.image.index.v1+json";
    let index = serde_json::json!({"schemaVersion": 2, "mediaType": media_type, "manifests": entries});
    let mut named = layout.document(media_type, &index);
    named["annotations"] = serde_json::json!({"io.containerd.image.name": "localhost/both:1"});
    layout.index["manifests"] = serde_json::json!([named]);
    if !whole {
        layout.blobs.remove(&images[1].manifest);
        layout.blobs.remove(&images[1].config);
    }
    layout
}
