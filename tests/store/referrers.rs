//! Artifacts, and what says something about something else: listed, found, kept, and never run.

use plywood::driver::DriverKind;
use plywood::store::{
    CreateOptions, GcOptions, Image, LoadOptions, PruneImages, PruneOptions, RemoveImage, SquashOptions,
    Store,
};
use serde_json::{Value, json};

use crate::common::image::{Layout, image};
use crate::common::tar::tar;
use crate::world::*;

const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const SBOM: &str = "application/spdx+json";
const SIGNATURE: &str = "application/vnd.example.signature.v1";

/// Adds an artifact that says `content` about `subject`.
fn add(layout: &mut Layout, artifact_type: Option<&str>, content: &str, subject: Option<&Value>) -> Value {
    let config_type = if artifact_type.is_some() { "application/vnd.oci.empty.v1+json" } else { SIGNATURE };
    let config = layout.document(config_type, &json!({}));
    let layer = json!({"mediaType": "text/plain", "digest": layout.blob(content), "size": content.len()});
    let mut manifest = json!({
        "schemaVersion": 2, "mediaType": MANIFEST, "config": config, "layers": [layer],
        "annotations": {"org.example.says": content},
    });
    if let Some(artifact_type) = artifact_type {
        manifest["artifactType"] = json!(artifact_type);
    }
    if let Some(subject) = subject {
        manifest["subject"] = subject.clone();
    }
    let descriptor = layout.document(MANIFEST, &manifest);
    layout.index["manifests"].as_array_mut().unwrap().push(descriptor.clone());
    descriptor
}

/// An image, a list of what is in it, and a signature of that list.
fn signed() -> (World, Image, [Value; 2]) {
    let world = World::driver(DriverKind::Copy);
    let spec = image().layer(tar().file("a", "a").finish()).name("docker.io/library/signed:1");
    let mut layout = Layout::of(&spec);
    let mut subject = layout.index["manifests"][0].clone();
    subject.as_object_mut().unwrap().remove("annotations");
    let list = add(&mut layout, Some(SBOM), "what is in it", Some(&subject));
    let signature = add(&mut layout, None, "who says so", Some(&list));
    world.store.load(&layout.oci_archive()[..], &LoadOptions::default()).unwrap();
    let image = world.store.image("signed:1").unwrap();
    (world, image, [list, signature])
}

fn digests(store: &Store, subject: &str, artifact_type: Option<&str>) -> Vec<String> {
    let found = store.referrers(&subject.parse().unwrap(), artifact_type).unwrap();
    found.iter().map(|referrer| referrer.digest.to_string()).collect()
}

fn digest(descriptor: &Value) -> &str {
    descriptor["digest"].as_str().unwrap()
}

#[test]
fn referrers_are_found_by_what_they_are_about_as_a_registry_lists_them() {
    let (world, image, [list, signature]) = signed();
    let found = world.store.referrers(&image.digest(), None).unwrap();
    let mut expected = list.clone();
    expected["artifactType"] = json!(SBOM);
    expected["annotations"] = json!({"org.example.says": "what is in it"});
    assert_eq!(serde_json::to_value(&found).unwrap(), json!([expected]));
    let found = world.store.referrers(&digest(&list).parse().unwrap(), None).unwrap();
    assert_eq!(found[0].artifact_type.as_deref(), Some(SIGNATURE), "that of its config");
    assert_eq!(found[0].digest.to_string(), digest(&signature));
    let of_image = image.digest().to_string();
    assert_eq!(digests(&world.store, &of_image, Some(SBOM)), [digest(&list)]);
    assert!(digests(&world.store, &of_image, Some(SIGNATURE)).is_empty());
    assert!(digests(&world.store, digest(&signature), None).is_empty());
    let lending = options().additional(world.path()).create(world.beside("other")).unwrap();
    assert_eq!(digests(&lending, &of_image, None), [digest(&list)]);
}

#[test]
fn referrers_stay_while_their_subject_does() {
    let (world, image, [list, signature]) = signed();
    let store = &world.store;
    store.gc(&GcOptions::default()).unwrap();
    let mut prune = PruneOptions::default();
    prune.images = PruneImages::Dangling;
    assert!(store.prune(&prune).unwrap().images.is_empty(), "none of them has a name");
    assert_eq!(digests(store, digest(&list), None), [digest(&signature)]);

    store.remove_image("signed:1", RemoveImage::Refuse).unwrap();
    store.gc(&GcOptions::default()).unwrap();
    assert_eq!(digests(store, &image.digest().to_string(), None), [digest(&list)], "gc takes no image");
    assert_eq!(store.prune(&prune).unwrap().images.len(), 2);
    assert!(names_in(&world.path().join("oci/blobs/sha256")).is_empty());
}

#[test]
fn artifacts_are_listed_as_what_they_are_and_cannot_be_unpacked() {
    let world = World::driver(DriverKind::Copy);
    let mut layout = Layout::of(&image().name("docker.io/library/image:1"));
    for (name, content) in [("one", "1"), ("two", "2")] {
        add(&mut layout, Some(SBOM), content, None);
        let entries = layout.index["manifests"].as_array_mut().unwrap();
        entries.last_mut().unwrap()["annotations"] =
            json!({"io.containerd.image.name": format!("docker.io/library/{name}:1")});
    }
    world.store.load(&layout.oci_archive()[..], &LoadOptions::default()).unwrap();
    // Read, and remembered from then.
    for _ in 0..2 {
        let listed = world.store.list_images().unwrap();
        let told: Vec<_> =
            listed.iter().map(|image| (image.names[0].familiar(), image.artifact_type.as_deref())).collect();
        assert_eq!(
            told,
            [
                ("image:1".to_owned(), None),
                ("one:1".to_owned(), Some(SBOM)),
                ("two:1".to_owned(), Some(SBOM))
            ]
        );
        assert_ne!(listed[1].id, listed[2].id, "they have the same config, which is empty");
        for summary in listed.iter() {
            assert_eq!(world.store.image(&summary.id.to_string()).unwrap().summary(), *summary);
        }
    }
    let one = world.store.image("one:1").unwrap();
    assert_eq!((one.artifact_type().as_deref(), one.id()), (Some(SBOM), one.manifest_digest()));
    assert_eq!(world.store.config_bytes(&one).unwrap(), b"{}");
    let message =
        "one:1 is not an image with a root file system: it is an artifact of type application/spdx+json";
    for error in [
        world.refuse(|store| store.create_container(&one, &CreateOptions::default())),
        world.refuse(|store| store.squash(&one, &SquashOptions::default())),
        world.refuse(|store| store.mount_image(&one)),
    ] {
        assert_eq!((error.kind(), error.to_string().as_str()), ("not-an-image", message));
    }
}
