//! Docker-archives as docker wrote them before version 25.

use std::collections::BTreeMap;

use crate::common::image::{Compression, Layout, image, pack};
use crate::common::tar::tar;
use crate::shop::{Shop, as_loaded, layer, members, three, two_platforms, web};
use plywood::archive::{ArchiveFormat, Loaded, SaveError};
use serde_json::{Value, json};

const CLASSIC: ArchiveFormat = ArchiveFormat::ClassicDockerArchive;

fn save(shop: &Shop, images: &[Loaded]) -> Vec<u8> {
    let (archive, warnings) = shop.save_with(&as_loaded(images), CLASSIC, |_| ()).unwrap();
    assert_eq!(warnings, []);
    archive
}

/// Names, image ids and diff ids, which are all that a classic archive keeps of an image.
fn essence(images: &[Loaded]) -> Vec<(Vec<String>, String, Vec<String>)> {
    let essence = |image: &Loaded| {
        let found = &image.manifests[0];
        let names = image.names.iter().map(|name| name.canonical()).collect();
        let diff_ids = found.config.rootfs.diff_ids.iter().map(ToString::to_string).collect();
        (names, found.manifest.config.digest.to_string(), diff_ids)
    };
    images.iter().map(essence).collect()
}

#[test]
fn a_classic_archive_has_plain_layers_each_once_and_loads_as_the_same_images() {
    let layout = three();
    let shop = Shop::new();
    let loaded = shop.load(layout.oci_archive());
    let archive = save(&shop, &loaded);
    assert_eq!(essence(&Shop::new().load(&archive)), essence(&loaded));

    let (names, files) = members(&archive);
    assert!(!names.iter().any(|name| name.starts_with("blobs") || name == "oci-layout"), "{names:?}");
    let items: Value = serde_json::from_slice(&files["manifest.json"]).unwrap();
    let hex = |digest: &str| digest.trim_start_matches("sha256:").to_owned();
    let mut tars = BTreeMap::new();
    for (added, item) in layout.images.iter().zip(items.as_array().unwrap()) {
        assert_eq!(item["Config"], json!(format!("{}.json", hex(&added.config))));
        assert_eq!(files[item["Config"].as_str().unwrap()], layout.blobs[&added.config], "byte for byte");
        for (name, diff_id) in item["Layers"].as_array().unwrap().iter().zip(&added.diff_ids) {
            let name = name.as_str().unwrap().to_owned();
            assert_eq!(crate::common::sha256(&files[&name]), hex(diff_id));
            tars.insert(name, ());
        }
    }
    let roots: Vec<_> =
        names.iter().filter(|name| name.ends_with(".tar") && !name.contains('/')).cloned().collect();
    assert_eq!(roots, tars.into_keys().collect::<Vec<_>>(), "each once");
}

#[test]
fn the_oldest_readers_find_the_same_layers_by_repositories_alone() {
    let shop = Shop::new();
    let spec = image()
        .layer(layer("base"))
        .compressed(layer("top"), Compression::Gzip)
        .set("Env", json!(["A=b"]))
        .name("docker.io/library/old:1");
    let mut spec = spec;
    spec.config["history"] = json!([
        {"created": "2015-01-01T00:00:00Z", "created_by": "ADD base"},
        {"created": "2015-01-02T00:00:00Z", "created_by": "ENV A=b", "empty_layer": true},
        {"created": "2015-01-03T00:00:00Z", "created_by": "ADD top", "comment": "why not"},
    ]);
    let loaded = shop.load(Layout::of(&spec).oci_archive());
    let archive = save(&shop, &loaded);
    // What a reader that knows no links and no manifest.json is left with.
    let (_, mut files) = members(&archive);
    files.remove("manifest.json").unwrap();
    let old = Shop::new().load(pack(&files));
    assert_eq!(old[0].names, loaded[0].names);
    let (config, expected) = (&old[0].manifests[0].config, &loaded[0].manifests[0].config);
    assert_eq!(config.rootfs.diff_ids, expected.rootfs.diff_ids);
    assert_eq!(config.config, expected.config);
    let steps: Vec<_> = expected.history.iter().filter(|step| !step.empty_layer).cloned().collect();
    assert_eq!(config.history, steps);
}

#[test]
fn equal_images_give_equal_classic_archives_however_they_were_packed() {
    let spec = |compression| {
        Layout::of(&image().compressed(layer("a"), compression).compressed(layer("b"), compression))
            .oci_archive()
    };
    let archive = |compression| {
        let shop = Shop::new();
        let loaded = shop.load(spec(compression));
        save(&shop, &loaded)
    };
    let plain = archive(Compression::None);
    for compression in [Compression::Gzip, Compression::GzipMembers, Compression::ZstdFrames] {
        assert!(archive(compression) == plain, "{compression:?}");
    }
}

#[test]
fn a_layer_that_two_stacks_share_is_in_the_archive_once() {
    let mut layout = Layout::of(&image().layer(layer("one")).layer(layer("shared")).name("q.io/a:1"));
    layout.add(&image().layer(layer("two")).layer(layer("shared")).layer(layer("shared")).name("q.io/b:1"));
    let shop = Shop::new();
    let loaded = shop.load(layout.oci_archive());
    let archive = save(&shop, &loaded);
    let (names, _) = members(&archive);
    assert_eq!(names.iter().filter(|name| name.ends_with(".tar") && !name.contains('/')).count(), 3);
    assert_eq!(names.iter().filter(|name| name.ends_with("/layer.tar")).count(), 5, "a place for each");
    assert_eq!(essence(&Shop::new().load(&archive)), essence(&loaded));
}

#[test]
fn images_without_layers_and_layers_without_bytes_are_saved() {
    let shop = Shop::new();
    let mut layout = Layout::of(&image().name("q.io/empty:1"));
    layout.add(&image().layer(Vec::new()).layer(tar().finish()).name("q.io/nothing:1"));
    let loaded = shop.load(layout.oci_archive());
    assert_eq!(essence(&Shop::new().load(save(&shop, &loaded))), essence(&loaded));
}

#[test]
fn of_several_platforms_one_is_saved_and_what_is_no_image_is_refused() {
    let layout = two_platforms();
    let shop = Shop::new();
    let loaded = shop.load(layout.oci_archive());
    let id = |archive: &[u8]| Shop::new().load(archive)[0].manifests[0].manifest.config.digest.to_string();
    assert_eq!(id(&save(&shop, &loaded)), layout.images[1].config, "this machine's");
    let s390x = |options: &mut plywood::SaveOptions<'_>| {
        options.platform = Some("linux/s390x".parse().unwrap());
    };
    let (archive, _) = shop.save_with(&as_loaded(&loaded), CLASSIC, s390x).unwrap();
    assert_eq!(id(&archive), layout.images[0].config);

    let mut layout = Layout::of(&web());
    let config = layout.document("application/vnd.oci.empty.v1+json", &json!({}));
    let kind = "application/vnd.oci.image.manifest.v1+json";
    let artifact = json!({"schemaVersion": 2, "mediaType": kind, "artifactType": "a/b", "config": config, "layers": [config]});
    let artifact = layout.document(kind, &artifact);
    layout.index["manifests"].as_array_mut().unwrap().push(artifact);
    let loaded = shop.load(layout.oci_archive());
    let error = shop.save_with(&as_loaded(&loaded), CLASSIC, |_| ()).unwrap_err();
    assert!(matches!(error, SaveError::NotForDocker { .. }), "{error}");
}

#[test]
fn without_room_only_plain_layers_are_saved() {
    let shop = Shop::new();
    let without = |options: &mut plywood::SaveOptions<'_>| options.workspace = None;
    let plain = as_loaded(&shop.load(Layout::of(&web()).oci_archive()));
    shop.save_with(&plain, CLASSIC, without).unwrap();
    let packed = as_loaded(&shop.load(three().oci_archive()));
    let error = shop.save_with(&packed, CLASSIC, without).unwrap_err();
    assert!(matches!(error, SaveError::NoWorkspace), "{error}");
}
