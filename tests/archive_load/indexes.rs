//! Indexes of several platforms, artifacts, and what an archive may leave out.

use crate::common::image::{Layout, blob_path, pack};
use plywood::archive::{LoadError, Warning};
use serde_json::{Value, json};

use crate::shop::*;

/// An index for `platforms` of which only the first is there, and an attestation for it.
fn multi_platform(layout: &mut Layout) -> (Value, String) {
    let added = layout.images[0].clone();
    let in_toto = layout.document("application/vnd.in-toto+json", &json!({"predicate": 1}));
    let config = layout.document(
        "application/vnd.oci.image.config.v1+json",
        &json!({"architecture": "unknown", "os": "unknown", "rootfs": {"type": "layers", "diff_ids": [in_toto["digest"]]}}),
    );
    let manifest_type = "application/vnd.oci.image.manifest.v1+json";
    let mut attestation = layout.document(
        manifest_type,
        &json!({"schemaVersion": 2, "mediaType": manifest_type, "config": config, "layers": [in_toto]}),
    );
    attestation["platform"] = json!({"architecture": "unknown", "os": "unknown"});
    attestation["annotations"] = json!({"vnd.docker.reference.type": "attestation-manifest"});
    let mut present = json!({"mediaType": manifest_type, "digest": added.manifest, "size": layout.blobs[&added.manifest].len()});
    present["platform"] = serde_json::from_slice(&layout.blobs[&added.config])
        .map(|config: Value| json!({"architecture": config["architecture"], "os": "linux"}))
        .unwrap();
    let absent = json!({
        "mediaType": manifest_type,
        "digest": format!("sha256:{}", "0".repeat(64)),
        "size": 400,
        "platform": {"architecture": "s390x", "os": "linux"},
    });
    let index_type = "application/vnd.oci.image.index.v1+json";
    let manifests = json!([absent, present, attestation]);
    let index = layout
        .document(index_type, &json!({"schemaVersion": 2, "mediaType": index_type, "manifests": manifests}));
    (index, attestation["digest"].as_str().unwrap().to_owned())
}

#[test]
fn an_index_keeps_what_is_there_and_remembers_the_rest() {
    let mut layout = Layout::of(&web());
    let (mut index, attestation) = multi_platform(&mut layout);
    index["annotations"] = json!({"io.containerd.image.name": "docker.io/library/multi:1"});
    layout.index["manifests"] = json!([index]);
    let shop = Shop::new();
    let loaded = shop.load(layout.oci_archive());
    let [image] = &loaded[..] else { panic!("{loaded:?}") };
    assert_eq!(image.target.digest.to_string(), index["digest"].as_str().unwrap());
    assert_eq!(names(image), ["multi:1"]);
    assert_eq!(image.manifests.len(), 1);
    assert_eq!(image.manifests[0].descriptor.digest.to_string(), layout.images[0].manifest);
    assert_eq!(image.artifacts.iter().map(|kept| kept.digest.to_string()).collect::<Vec<_>>(), [attestation]);
    assert_eq!(image.absent.len(), 1);
    assert_eq!(image.absent[0].platform.as_ref().unwrap().to_string(), "linux/s390x");
    let [warning] = &image.warnings[..] else { panic!("{:?}", image.warnings) };
    let zeros = format!("sha256:{}", "0".repeat(64));
    assert_eq!(warning.to_string(), format!("the manifest {zeros} for linux/s390x is absent"));
    assert_eq!(shop.all(), layout.blobs.keys().cloned().collect(), "the index is kept whole");
}

#[test]
fn an_index_of_which_nothing_is_there_is_refused() {
    let mut layout = Layout::of(&web());
    let (index, _) = multi_platform(&mut layout);
    layout.index["manifests"] = json!([index]);
    let mut files = layout.files();
    files.remove(&blob_path(&layout.images[0].layers[0]));
    files.remove(&blob_path(&layout.images[0].layers[1]));
    let error = refuse(pack(&files));
    assert!(matches!(&error, LoadError::MissingLayers { layers } if layers.len() == 2), "{error}");
}

#[test]
fn an_index_inside_itself_ends() {
    // By hash it cannot be; nested deeply it can.
    let mut layout = Layout::of(&web());
    let mut index = layout.index["manifests"][0].clone();
    for _ in 0..9 {
        let index_type = "application/vnd.oci.image.index.v1+json";
        index = layout.document(
            index_type,
            &json!({"schemaVersion": 2, "mediaType": index_type, "manifests": [index]}),
        );
    }
    layout.index["manifests"] = json!([index]);
    let error = refuse(layout.oci_archive());
    assert!(matches!(error, LoadError::Limit { limit: "index_depth", maximum: 8, .. }), "{error}");
}

#[test]
fn an_artifact_is_kept_with_all_it_has() {
    let mut layout = Layout::of(&web());
    let chart = layout.document("application/vnd.cncf.helm.chart.content.v1.tar+gzip", &json!("chart"));
    let config = layout.document("application/vnd.oci.empty.v1+json", &json!({}));
    let manifest_type = "application/vnd.oci.image.manifest.v1+json";
    let artifact = layout.document(
        manifest_type,
        &json!({"schemaVersion": 2, "mediaType": manifest_type, "artifactType": "a/b", "config": config, "layers": [chart]}),
    );
    let unknown = layout.document("application/x-unknown", &json!(1));
    layout.index["manifests"].as_array_mut().unwrap().extend([artifact.clone(), unknown]);
    let shop = Shop::new();
    let loaded = shop.load(layout.oci_archive());
    assert_eq!(loaded.len(), 3);
    assert!(loaded[1].manifests.is_empty() && loaded[2].manifests.is_empty());
    assert_eq!(loaded[1].artifacts, [loaded[1].target.clone()]);
    assert!(matches!(loaded[2].warnings[..], [Warning::UnknownType { .. }]));
    assert_eq!(shop.all(), layout.blobs.keys().cloned().collect());
}

#[test]
fn layers_that_must_not_be_passed_on_may_be_absent() {
    let mut layout = Layout::of(&web());
    let added = layout.images[0].clone();
    let mut manifest: Value = serde_json::from_slice(&layout.blobs[&added.manifest]).unwrap();
    manifest["layers"][0]["mediaType"] = json!("application/vnd.docker.image.rootfs.foreign.diff.tar.gzip");
    manifest["layers"][0]["urls"] = json!(["https://example.com/layer"]);
    let descriptor = layout.document("application/vnd.oci.image.manifest.v1+json", &manifest);
    layout.index["manifests"] = json!([descriptor]);
    layout.blobs.remove(&added.layers[0]);
    let loaded = Shop::new().load(layout.oci_archive());
    let layer = added.layers[0].parse().unwrap();
    assert_eq!(loaded[0].warnings, [Warning::ForeignLayer { layer }]);

    let mut files = Layout::of(&web()).docker_files();
    files.remove(&format!("{}/layer.tar", &added.diff_ids[0][7..]));
    edit(&mut files, "manifest.json", |items| {
        items[0]["LayerSources"] = json!({&added.diff_ids[0]: manifest["layers"][0]});
    });
    let loaded = Shop::new().load(pack(&files));
    assert_eq!(loaded[0].warnings, [Warning::ForeignLayer { layer }]);
    assert_eq!(loaded[0].manifests[0].manifest.layers[0].urls, ["https://example.com/layer"]);
}

#[test]
fn an_image_for_another_machine_loads_and_says_so() {
    let mut foreign = web();
    foreign.config["architecture"] = json!("s390x");
    let loaded = Shop::new().load(Layout::of(&foreign).docker_archive());
    let [warning @ Warning::ForeignPlatform { .. }] = &loaded[0].warnings[..] else { panic!("{loaded:?}") };
    assert!(warning.to_string().starts_with("the image is for linux/s390x, this machine is linux/"));
}
