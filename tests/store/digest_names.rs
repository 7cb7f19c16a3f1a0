//! Names that read as ids, and names with a digest.

use std::fs;

use plywood::archive::{ArchiveFormat, SaveOptions};
use plywood::digest::Digest;
use plywood::driver::DriverKind;
use plywood::image::Reference;
use plywood::store::{
    CommitOptions, CreateOptions, GcOptions, Image, LoadOptions, LoadedImage, PruneOptions, RemoveImage,
    StoreError,
};
use serde_json::{Value, json};

use crate::common::image::{ImageSpec, Layout, image, pack};
use crate::common::tar::tar;
use crate::world::*;

const CONTAINERD: &str = "io.containerd.image.name";
const OCI: &str = "org.opencontainers.image.ref.name";

fn reference(name: &str) -> Reference {
    Reference::parse_familiar(name).unwrap_or_else(|error| panic!("{error}"))
}

fn small(content: &str) -> ImageSpec {
    image().layer(tar().dir("etc").file("etc/content", content).finish())
}

fn names(image: &Image) -> Vec<String> {
    image.names().iter().map(Reference::familiar).collect()
}

/// A layout with one image under these annotations.
fn annotated(content: &str, annotations: &Value) -> Layout {
    let mut layout = Layout::of(&small(content));
    layout.index["manifests"][0]["annotations"] = annotations.clone();
    layout
}

#[track_caller]
fn load(world: &World, archive: &[u8]) -> LoadedImage {
    let mut loaded = world.store.load(archive, &LoadOptions::default()).unwrap();
    assert_eq!(loaded.len(), 1);
    loaded.remove(0)
}

#[test]
fn a_name_that_reads_as_an_id_is_left_out_of_whatever_brings_it() {
    let world = World::driver(DriverKind::Copy);
    let good = world.load_image(&small("good").name("docker.io/library/good:1"));
    let ids = [good.id(), good.digest()];
    let mut texts: Vec<String> = ids.iter().map(Digest::to_string).collect();
    texts.push(format!("docker.io/library/{}", good.id()));
    texts.push(format!("sha256:{}", &good.id().hex()[..12]));
    texts.push(format!("{}:latest", good.id().hex()));
    for text in &texts {
        let docker = {
            let layout = Layout::of(&small("evil"));
            let mut files = layout.docker_files();
            let mut items: Value = serde_json::from_slice(&files["manifest.json"]).unwrap();
            items[0]["RepoTags"] = json!([text]);
            files.insert("manifest.json".to_owned(), items.to_string().into_bytes());
            pack(&files)
        };
        let archives = [
            docker,
            annotated("evil", &json!({CONTAINERD: text})).oci_archive(),
            annotated("evil", &json!({OCI: text})).oci_archive(),
            annotated("evil", &json!({OCI: text, CONTAINERD: text})).oci_archive(),
        ];
        for (number, archive) in archives.iter().enumerate() {
            let loaded = load(&world, archive);
            assert_eq!(loaded.names, [], "{text} {number}");
            let warned = loaded.warnings.iter().filter(|warning| warning.contains("reads as an image id"));
            assert_eq!(warned.count(), 1, "{text} {number}: {:?}", loaded.warnings);
        }
        // A good name beside it is kept.
        let both = annotated("evil", &json!({OCI: "evil:1", CONTAINERD: text})).oci_archive();
        assert_eq!(load(&world, &both).names, [reference("evil:1")]);
    }
    for id in ids {
        for text in [id.to_string(), id.hex(), id.to_string()[..20].to_owned()] {
            assert_eq!(world.store.image(&text).unwrap().digest(), good.digest(), "{text}");
        }
    }
}

#[test]
fn a_store_that_has_a_name_that_reads_as_an_id_loses_nothing_but_that() {
    let world = World::driver(DriverKind::Copy);
    let good = world.load_image(&small("good").name("docker.io/library/good:1"));
    let evil = world.load_image(&small("evil").name("docker.io/library/evil:1"));
    let path = world.path().join("oci/index.json");
    let (name, id) = ("docker.io/library/evil:1", good.id().to_string());
    let text = fs::read_to_string(&path).unwrap();
    let text = text.replace(name, &format!("docker.io/library/{id}")).replace("evil:1", &id);
    fs::write(&path, text).unwrap();
    let store = world.again();
    assert_eq!(store.images().unwrap().len(), 2);
    assert_eq!(store.image(&id).unwrap().digest(), good.digest());
    let found = store.image(&evil.id().to_string()).unwrap();
    assert_eq!((found.digest(), found.names().len()), (evil.digest(), 0));
    store.tag(&found, &reference("evil:2")).unwrap();
    assert_eq!(names(&store.image(&evil.id().to_string()).unwrap()), ["evil:2"]);
    assert_eq!(store.images().unwrap().len(), 2);
    let removed = store.remove_image(&evil.id().to_string(), RemoveImage::Refuse).unwrap();
    assert_eq!(removed.deleted, Some(evil.id()));
    assert_eq!(store.image(&id).unwrap().digest(), good.digest());
}

#[test]
fn a_whole_id_goes_before_a_name_and_a_name_before_the_beginning_of_an_id() {
    let world = World::driver(DriverKind::Copy);
    let one = world.load_image(&small("one").name("docker.io/library/one:1"));
    let two = world.load_image(&small("two").name("docker.io/library/two:1"));
    let beginning = one.id().hex()[..12].to_owned();
    assert_eq!(world.store.image(&beginning).unwrap().digest(), one.digest());
    world.store.tag(&two, &reference(&beginning)).unwrap();
    assert_eq!(world.store.image(&beginning).unwrap().digest(), two.digest());
    for text in [format!("sha256:{beginning}"), one.id().hex(), one.id().to_string()] {
        assert_eq!(world.store.image(&text).unwrap().digest(), one.digest(), "{text}");
    }
}

#[test]
fn a_name_by_digest_finds_and_keeps_an_image() {
    let world = World::driver(DriverKind::Copy);
    let mut layout = Layout::of(&small("x"));
    let digest = layout.images[0].manifest.clone();
    let name = format!("quay.io/me/x@{digest}");
    layout.index["manifests"][0]["annotations"] = json!({CONTAINERD: name, OCI: format!("@{digest}")});
    let loaded = load(&world, &layout.oci_archive());
    assert_eq!((loaded.names, loaded.warnings.len()), (vec![reference(&name)], 0));
    world.store.prune(&PruneOptions::default()).unwrap();
    world.store.gc(&GcOptions::default()).unwrap();
    let store = world.again();
    for text in [name.clone(), format!("quay.io/me/x:1@{digest}"), digest.clone()] {
        let image = store.image(&text).unwrap_or_else(|error| panic!("{text}: {error}"));
        assert_eq!(image.digest().to_string(), digest);
        assert_eq!(image.repo_digests(), [reference(&name)]);
        assert_eq!(store.list_images().unwrap()[0].repo_digests(), [reference(&name)]);
    }
    for text in ["quay.io/me/x", &format!("quay.io/me/y@{digest}"), "quay.io/me/x:1"] {
        assert_eq!(store.image(text).unwrap_err().kind(), "not-found", "{text}");
    }
    // The layout names it as containerd does, and a load of what is saved gives the same name.
    let index: Value =
        serde_json::from_slice(&fs::read(world.path().join("oci/index.json")).unwrap()).unwrap();
    assert_eq!(index["manifests"][0]["annotations"], json!({CONTAINERD: name, OCI: name}));
    let mut saved = Vec::new();
    let image = store.image(&name).unwrap();
    store
        .save(std::slice::from_ref(&image), ArchiveFormat::OciArchive, &mut saved, &SaveOptions::default())
        .unwrap();
    assert_eq!(load(&World::driver(DriverKind::Copy), &saved).names, [reference(&name)]);
    // Its container is of an image of that name.
    let container = store.create_container(&image, &CreateOptions::named("one")).unwrap();
    assert_eq!(container.image_name(), Some(&*name));
}

#[test]
fn a_name_with_a_false_digest_is_refused() {
    let world = World::driver(DriverKind::Copy);
    let false_digest = Digest::of(b"something else");
    let annotations = |text: String| {
        [
            json!({CONTAINERD: text}),
            json!({OCI: text}),
            json!({CONTAINERD: text, OCI: format!("@{false_digest}")}),
        ]
    };
    let names = [format!("docker.io/library/foo@{false_digest}"), format!("foo:1@{false_digest}")];
    for annotations in names.map(annotations).concat() {
        let loaded = load(&world, &annotated("x", &annotations).oci_archive());
        assert_eq!((loaded.names.len(), loaded.image.names().len()), (0, 0), "{annotations}");
        let digest = loaded.image.digest().to_string();
        let told = |text: &&String| text.contains(&digest) && text.contains(&false_digest.to_string());
        assert_eq!(loaded.warnings.iter().filter(told).count(), 1, "{:?}", loaded.warnings);
        assert_eq!(loaded.image.repo_digests(), []);
    }
    let image = world.store.image(&Layout::of(&small("x")).images[0].config).unwrap();
    let container = world.store.create_container(&image, &CreateOptions::named("one")).unwrap();
    for name in [format!("foo@{false_digest}"), format!("foo:1@{false_digest}")] {
        let name = reference(&name);
        let error = world.refuse(|store| store.tag(&image, &name));
        assert!(matches!(&error, StoreError::FalseDigest { digest, .. } if *digest == image.digest()));
        let text = error.to_string();
        assert!(text.contains(&image.digest().to_string()) && text.contains(&false_digest.to_string()));
        let error = container.commit(&CommitOptions::named(name)).unwrap_err();
        assert!(matches!(error, StoreError::FalseDigest { .. }), "{error}");
    }
    assert_eq!(world.store.image_names().unwrap(), []);
    // A store that another tool, or an older version, wrote such a name into does not vouch for it.
    let path = world.path().join("oci/index.json");
    let mut index: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    for entry in index["manifests"].as_array_mut().unwrap() {
        entry["annotations"] = json!({CONTAINERD: format!("docker.io/library/foo@{false_digest}")});
    }
    fs::write(&path, index.to_string()).unwrap();
    let images = world.again().images().unwrap();
    assert!(images.len() == 1 && images[0].names().is_empty());
}

#[test]
fn a_true_digest_is_a_name() {
    let world = World::driver(DriverKind::Copy);
    let image = world.load_image(&small("x").name("docker.io/library/x:1"));
    let digest = image.digest();
    world.store.tag(&image, &reference(&format!("y:2@{digest}"))).unwrap();
    world.store.tag(&image, &reference(&format!("z@{digest}"))).unwrap();
    let image = world.store.image("x:1").unwrap();
    assert_eq!(names(&image), ["x:1".to_owned(), "y:2".to_owned(), format!("z@{digest}")]);
    let repositories = ["x", "y", "z"].map(|name| reference(&format!("{name}@{digest}")));
    assert_eq!(image.repo_digests(), repositories);
    assert_eq!(image.label(), "x:1");
    assert_eq!(world.store.untag(&repositories[2]).unwrap(), digest);
    assert_eq!(names(&world.store.image("x:1").unwrap()), ["x:1", "y:2"]);
}

#[test]
fn a_removal_by_digest_takes_that_name() {
    let world = World::driver(DriverKind::Copy);
    let image = world.load_image(&small("x").name("docker.io/library/x:1"));
    let digest = image.digest();
    let by_digest = |name: &str| format!("{name}@{digest}");
    let tag = |name: &str| world.store.tag(&image, &reference(name)).unwrap();
    let remove = |name: &str| {
        let removed = world.store.remove_image(name, RemoveImage::Refuse)?;
        let untagged: Vec<_> = removed.untagged.iter().map(Reference::familiar).collect();
        Ok::<_, StoreError>((untagged, removed.deleted.is_some()))
    };
    tag(&by_digest("x"));
    assert_eq!(remove(&by_digest("x")).unwrap(), (vec![by_digest("x")], false));
    // Of two repositories: not by id, and each by its own names.
    tag(&by_digest("y"));
    assert!(matches!(remove(&digest.to_string()), Err(StoreError::SeveralNames { .. })));
    assert_eq!(remove("x:1").unwrap(), (vec!["x:1".to_owned()], false));
    tag("x:1");
    tag("x:2");
    tag(&by_digest("x"));
    assert_eq!(remove(&by_digest("y")).unwrap(), (vec![by_digest("y")], false));
    assert_eq!(remove("x:2").unwrap(), (vec!["x:2".to_owned()], false));
    // A tag and the digest of one repository are one name, and the last tag takes the digest with it.
    assert_eq!(remove("x:1").unwrap(), (vec!["x:1".to_owned(), by_digest("x")], true));
    let image = world.load_image(&small("x").name("docker.io/library/x:1"));
    world.store.tag(&image, &reference(&by_digest("x"))).unwrap();
    let container = world.store.create_container(&image, &CreateOptions::named("one")).unwrap();
    assert!(matches!(remove("x:1"), Err(StoreError::ImageInUse { .. })));
    container.remove(plywood::store::RemoveContainer::Refuse).unwrap();
    assert_eq!(remove(&digest.to_string()).unwrap(), (vec!["x:1".to_owned(), by_digest("x")], true));
}

#[test]
fn all_names_go_with_an_id_if_that_is_wanted() {
    let world = World::driver(DriverKind::Copy);
    let image = world.load_image(&small("x").name("docker.io/library/x:1").name("docker.io/library/y:1"));
    let id = image.id().to_string();
    assert!(matches!(
        world.store.remove_image(&id, RemoveImage::Refuse),
        Err(StoreError::SeveralNames { .. })
    ));
    let container = world.store.create_container(&image, &CreateOptions::named("one")).unwrap();
    let refused = world.refuse(|store| store.remove_image(&id, RemoveImage::AllNames));
    assert!(matches!(refused, StoreError::ImageInUse { .. }), "{refused}");
    container.remove(plywood::store::RemoveContainer::Refuse).unwrap();
    let removed = world.store.remove_image(&id, RemoveImage::AllNames).unwrap();
    assert_eq!((removed.untagged.len(), removed.deleted), (2, Some(image.id())));
    assert!(world.store.images().unwrap().is_empty());
}

#[test]
fn every_manifest_of_an_index_is_found_by_its_digest() {
    let world = World::driver(DriverKind::Copy);
    let mut layout = Layout::default();
    for architecture in ["amd64", "arm64", "s390x"] {
        layout.add(&small(architecture).set("architecture", json!(architecture)));
    }
    let mut listed = layout.index.clone();
    for (entry, architecture) in
        listed["manifests"].as_array_mut().unwrap().iter_mut().zip(["amd64", "arm64", "s390x"])
    {
        entry["platform"] = json!({"os": "linux", "architecture": architecture});
    }
    let mut index = layout.document("application/vnd.oci.image.index.v1+json", &listed);
    let digest = index["digest"].as_str().unwrap().to_owned();
    index["annotations"] = json!({CONTAINERD: format!("quay.io/x@{digest}")});
    layout.index["manifests"] = json!([index]);
    let loaded = load(&world, &layout.oci_archive());
    assert_eq!(loaded.names, [reference(&format!("quay.io/x@{digest}"))]);
    assert_eq!(world.store.image(&format!("quay.io/x@{digest}")).unwrap().digest().to_string(), digest);
    for added in &layout.images {
        let found = world.store.image(&format!("quay.io/x@{}", added.manifest)).unwrap();
        assert_eq!(found.manifest_digest().to_string(), added.manifest);
        assert_eq!(
            (found.id().to_string(), found.digest().to_string()),
            (added.config.clone(), digest.clone())
        );
    }
    // Saved for one platform it is another image, which does not have the digest of the index.
    let mut saved = Vec::new();
    let mut options = SaveOptions::default();
    options.platform = Some("linux/arm64".parse().unwrap());
    world.store.save(&[loaded.image], ArchiveFormat::OciArchive, &mut saved, &options).unwrap();
    let again = load(&World::driver(DriverKind::Copy), &saved);
    assert_eq!(
        (again.names.len(), again.warnings.iter().filter(|text| text.contains("digest")).count()),
        (0, 0)
    );
}
