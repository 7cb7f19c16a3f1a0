//! Commits: what the new image says of itself, and what a commit leaves alone.

use std::fs;

use plywood::codec::Encoding;
use plywood::driver::DriverKind;
use plywood::fs::Timestamp;
use plywood::image::{CommandLine, ConfigChange, Reference};
use plywood::path::LayerPath;
use plywood::store::{CommitOptions, Container, CreateOptions, Image};
use serde_json::{Value, json};

use crate::common::image::{Layout, image};
use crate::common::tar::{tar, tar_of};
use crate::common::{sha256, untar};
use crate::world::*;

fn reference(name: &str) -> Reference {
    Reference::parse_familiar(name).unwrap()
}

fn config(world: &World, image: &Image) -> Value {
    serde_json::from_slice(&world.store.config_bytes(image).unwrap()).unwrap()
}

fn manifest(world: &World, image: &Image) -> Value {
    serde_json::from_slice(&world.store.manifest_bytes(image).unwrap()).unwrap()
}

fn layer(world: &World, image: &Image, index: usize) -> Vec<u8> {
    fs::read(world.path().join("oci/blobs/sha256").join(image.manifest().layers[index].digest.hex())).unwrap()
}

/// An image with a history and with fields that nobody knows, and a container with one change.
fn changed() -> (World, Image, Container) {
    let world = World::driver(DriverKind::Copy);
    let mut spec =
        image().layer(tar().dir("etc").file("etc/base", "base").finish()).name("docker.io/library/base:1");
    spec.config["history"] = json!([
        {"created": "2024-01-01T00:00:00Z", "created_by": "ADD rootfs", "their.field": [1, 2.50]},
        {"created_by": "CMD [\"sh\"]", "empty_layer": true},
    ]);
    spec.config["their.extension"] = json!({"kept": true, "number": 1e3});
    spec.config["config"]["Labels"] = json!({"old": "label"});
    let base = world.load_image(&spec);
    let container = world.store.create_container(&base, &CreateOptions::named("one")).unwrap();
    let mounted = container.mount().unwrap();
    fs::write(mounted.path().join("etc/new"), "new").unwrap();
    touch(&mounted.path().join("etc/new"), 1_700_000_000, 5);
    touch(&mounted.path().join("etc"), 1_700_000_000, 6);
    drop(mounted);
    (world, base, container)
}

#[test]
fn a_commit_says_what_was_done_and_keeps_what_it_does_not_know() {
    let (world, base, container) = changed();
    let mut options = CommitOptions::named(reference("localhost:5000/new:2"))
        .change(ConfigChange::Cmd(CommandLine::exec(["/srv/web", "--port", "80"])))
        .change(ConfigChange::env("PORT", "80"))
        .change("LABEL new=label".parse().unwrap())
        .change("EXPOSE $PORT/udp".parse().unwrap())
        .message("why it was done")
        .author("somebody <s@example.org>")
        .created(Timestamp { seconds: 1_234_567_890, nanos: 120_000_000 });
    options.image.created_by = Some("a test".to_owned());
    let image = container.commit(&options).unwrap();
    assert_eq!(image.names(), [reference("localhost:5000/new:2")]);
    assert_eq!(world.store.image("localhost:5000/new:2").unwrap().digest(), image.digest());

    let (before, after) = (config(&world, &base), config(&world, &image));
    let mut expected = before.clone();
    let created = "2009-02-13T23:31:30.12Z";
    expected["created"] = json!(created);
    expected["author"] = json!("somebody <s@example.org>");
    expected["config"]["Cmd"] = json!(["/srv/web", "--port", "80"]);
    expected["config"]["Env"].as_array_mut().unwrap().push(json!("PORT=80"));
    expected["config"]["Labels"]["new"] = json!("label");
    expected["config"]["ExposedPorts"] = json!({"80/udp": {}});
    expected["history"].as_array_mut().unwrap().push(json!({
        "created": created, "created_by": "a test", "author": "somebody <s@example.org>", "comment": "why it was done",
    }));
    let tar = layer(&world, &image, 1);
    let diff_id = format!("sha256:{}", sha256(&tar));
    expected["rootfs"]["diff_ids"].as_array_mut().unwrap().push(json!(diff_id));
    assert_eq!(after, expected, "{after:#}\n{expected:#}");

    let manifest = manifest(&world, &image);
    assert_eq!(manifest["mediaType"], "application/vnd.oci.image.manifest.v1+json");
    assert_eq!(manifest["layers"][0], self::manifest(&world, &base)["layers"][0]);
    assert_eq!(
        manifest["layers"][1],
        json!({"mediaType": "application/vnd.oci.image.layer.v1.tar", "digest": diff_id, "size": tar.len()})
    );
    assert_eq!(
        manifest["config"]["digest"],
        format!("sha256:{}", sha256(&world.store.config_bytes(&image).unwrap()))
    );
    let names: Vec<_> =
        untar::entries(&tar).into_iter().map(|entry| String::from_utf8(entry.name).unwrap()).collect();
    assert_eq!(names, ["etc/", "etc/new"]);
    let history = image.history();
    assert_eq!(history.iter().map(|step| step.layer.is_some()).collect::<Vec<_>>(), [true, false, true]);
    assert_eq!(history[2].size, tar.len() as u64);
}

#[test]
fn a_commit_without_changes_adds_a_step_and_no_layer() {
    let (world, base, _) = changed();
    let container = world.store.create_container(&base, &CreateOptions::default()).unwrap();
    let blobs = names_in(&world.path().join("oci/blobs/sha256")).len();
    let image = container.commit(&CommitOptions::default().message("nothing")).unwrap();
    assert_eq!(image.diff_ids(), base.diff_ids());
    assert_eq!(image.manifest().layers.len(), 1);
    let history = config(&world, &image)["history"].clone();
    assert_eq!(history.as_array().unwrap().len(), 3);
    assert_eq!(
        history[2],
        json!({"created_by": "plywood commit", "comment": "nothing", "empty_layer": true})
    );
    assert_eq!(names_in(&world.path().join("oci/blobs/sha256")).len(), blobs + 2);
    assert!(image.names().is_empty());
    assert_eq!(world.store.images().unwrap().len(), 2);
}

#[test]
fn equal_containers_give_equal_images_whoever_commits_them_and_when() {
    let ((world, _, one), (other_world, _, other)) = (changed(), changed());
    let (image, same) =
        (one.commit(&CommitOptions::default()).unwrap(), other.commit(&CommitOptions::default()).unwrap());
    assert_eq!(image.digest(), same.digest());
    // Once more: nothing new, and nothing written.
    let before = world.state();
    assert_eq!(one.commit(&CommitOptions::default()).unwrap().digest(), image.digest());
    world.state().assert_same(&before, "committed twice");
    let compressed = |encoding| {
        let mut options = CommitOptions::default();
        options.image.compression = encoding;
        [&one, &other].map(|container| container.commit(&options).unwrap())
    };
    for (encoding, suffix) in [(Encoding::Gzip { level: 6 }, "+gzip"), (Encoding::Zstd { level: 3 }, "+zstd")]
    {
        let [one, other] = compressed(encoding);
        assert_eq!(one.digest(), other.digest());
        assert_eq!(
            (one.id(), one.diff_ids()),
            (image.id(), image.diff_ids()),
            "compression is not the image's"
        );
        assert_ne!(one.digest(), image.digest());
        let media_type = one.manifest().layers[1].media_type.to_string();
        assert_eq!(media_type, format!("application/vnd.oci.image.layer.v1.tar{suffix}"));
    }
    drop(other_world);
}

#[test]
fn what_the_engine_put_into_the_root_stays_out_of_the_layer() {
    let (world, _, container) = changed();
    let mounted = container.mount().unwrap();
    fs::write(mounted.path().join("etc/resolv.conf"), "the host's").unwrap();
    fs::create_dir(mounted.path().join("proc")).unwrap();
    touch(&mounted.path().join("etc"), 1_700_000_000, 6);
    drop(mounted);
    let mut options = CommitOptions::default();
    for path in ["etc/resolv.conf", "proc"] {
        options.selection = options.selection.exclude(LayerPath::parse(path).unwrap());
    }
    options.image.pack = options.image.pack.latest_mtime(Timestamp { seconds: 1_600_000_000, nanos: 0 });
    let image = container.commit(&options).unwrap();
    let entries = untar::entries(&layer(&world, &image, 1));
    let of_etc: Vec<_> = entries.iter().filter(|entry| entry.name.starts_with(b"etc")).collect();
    assert_eq!(of_etc.iter().map(|entry| &entry.name[..]).collect::<Vec<_>>(), [&b"etc/"[..], b"etc/new"]);
    assert!(
        entries.iter().all(|entry| entry.mtime <= (1_600_000_000, 0) && !entry.name.starts_with(b"proc"))
    );
}

#[test]
fn a_commit_that_fails_leaves_the_name_where_it_was() {
    let (world, base, container) = changed();
    let options = CommitOptions::named(reference("base:1"));
    let wrong = options.clone().change("USER nobody".parse().unwrap()).change("ENV =x".parse().unwrap());
    let error = world.refuse(|_| container.commit(&wrong));
    assert_eq!(error.kind(), "invalid-change", "{}", chain(&error));
    let early = options.clone().created(Timestamp { seconds: i64::MIN, nanos: 0 });
    assert_eq!(world.refuse(|_| container.commit(&early)).kind(), "invalid-time");

    // A name that no layer can hold.
    let mounted = container.mount().unwrap();
    fs::write(mounted.path().join("etc/.wh.name"), "").unwrap();
    let error = world.refuse(|_| container.commit(&options));
    assert_eq!(error.kind(), "reserved-name");
    assert!(chain(&error).contains("etc/.wh.name"), "{}", chain(&error));
    assert_eq!(world.store.image("base:1").unwrap().digest(), base.digest());
    // A plain export holds it.
    let entries = untar::entries(&export(&container));
    assert!(entries.iter().any(|entry| entry.name == b"etc/.wh.name"));
    fs::remove_file(mounted.path().join("etc/.wh.name")).unwrap();
    let image = container.commit(&options).unwrap();
    assert_eq!(world.store.image("base:1").unwrap().digest(), image.digest());
    assert!(world.store.image(&base.id().to_string()).unwrap().names().is_empty());
}

#[test]
fn the_base_is_kept_as_it_is_and_docker_types_become_those_of_oci() {
    let world = World::driver(DriverKind::Copy);
    let mut layout = Layout::of(&image().layer(tar_of(&tar().file("a", "a").entries())));
    // The manifest as docker's registries had it.
    let mut docker: Value = serde_json::from_slice(&layout.blobs[&layout.images[0].manifest]).unwrap();
    let media_type = "application/vnd.docker.distribution.manifest.v2+json";
    docker["mediaType"] = json!(media_type);
    docker["config"]["mediaType"] = json!("application/vnd.docker.container.image.v1+json");
    docker["layers"][0]["mediaType"] = json!("application/vnd.docker.image.rootfs.diff.tar");
    layout.index["manifests"] = json!([layout.document(media_type, &docker)]);
    let base = world.load(layout.oci_archive());
    assert_eq!(
        base.manifest().layers[0].media_type.to_string(),
        "application/vnd.docker.image.rootfs.diff.tar"
    );
    let container = world.store.create_container(&base, &CreateOptions::default()).unwrap();
    fs::write(container.mount().unwrap().path().join("b"), "b").unwrap();
    let image = container.commit(&CommitOptions::default()).unwrap();
    let manifest = manifest(&world, &image);
    assert_eq!(manifest["config"]["mediaType"], "application/vnd.oci.image.config.v1+json");
    for layer in manifest["layers"].as_array().unwrap() {
        assert_eq!(layer["mediaType"], "application/vnd.oci.image.layer.v1.tar");
    }
}
