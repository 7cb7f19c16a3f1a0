//! podman 4.3: loads every archive and directory of ours, and the store in place; what it saves, commits and exports is loaded.
//!
//! What it keeps of a tree is everything but times before 1970, when it loads; a layer that it commits has whole seconds.

use std::path::Path;

use plywood::store::{ArchiveFormat, SaveOptions};
use serde_json::json;

use crate::common::image::{Compression, Layout};
use crate::common::peers::Storage;
use crate::common::tree::Tree;
use crate::edits::edit_more;
use crate::sample::{self, ALSO_DEMANDING, DEMANDING, HOLES, SIBLING, STEPS};
use crate::world::*;

fn shown(podman: &Storage, name: &str) -> Tree {
    let tree = seen(Path::new(&podman.run(&["image", "mount", name])));
    podman.run(&["image", "umount", name]);
    tree
}

#[track_caller]
fn assert_shown(podman: &Storage, goods: &Goods, what: &str) {
    for (name, tree) in goods.shown() {
        shown(podman, name).assert_same(&since_1970(tree), &format!("podman, {what}, {name}"));
    }
}

/// What is said of the demanding image.
#[track_caller]
fn assert_described(podman: &Storage, is_docker: bool) {
    let image = &json(podman.run(&["image", "inspect", DEMANDING]))[0];
    for (key, value) in sample::config().as_object().unwrap() {
        match key.as_str() {
            // podman 4.3 shows them nowhere. It keeps them: the id of the image is that of its config.
            "OnBuild" | "Shell" => assert!(image["Config"][key].is_null()),
            // Of an OCI image this, too, is only kept.
            "Healthcheck" if is_docker => assert_eq!(image[key], *value),
            "Healthcheck" => assert!(image[key].is_null()),
            _ => assert_eq!(image["Config"][key], *value, "{key}"),
        }
    }
    assert_eq!(image["Author"], json!("Somebody <somebody@example.org>"));
    assert_eq!(image["Created"], json!("2024-01-01T00:00:05.123456789Z"));
    let history = podman.run(&["history", "--no-trunc", "--format", "{{.CreatedBy}}", DEMANDING]);
    assert_eq!(history.lines().collect::<Vec<_>>(), STEPS);
}

#[test]
fn podman_shows_what_we_wrote_in_any_form_and_in_the_store() {
    let Some(podman) = Storage::podman() else { return };
    let goods = Goods::new(Compression::Zstd);
    let forget = || podman.run(&["rmi", "-af"]);
    let load = |path: &Path| podman.run(&["load", "-q", "-i", text(path)]);
    for format in [ArchiveFormat::DockerArchive, ArchiveFormat::ClassicDockerArchive] {
        load(&goods.world.save(&goods.images, format, "docker.tar"));
        assert_eq!(listed(&podman.run(&LIST)), goods.ids(), "{format:?}");
        // The nameless one is there, too.
        assert!(podman.run(&LIST).contains(&goods.images[2].id().hex()));
        assert_described(&podman, true);
        assert_shown(&podman, &goods, &format!("{format:?}"));
        forget();
    }
    // Of an OCI archive podman 4.3 loads one image, under one name.
    for image in [goods.demanding(), goods.committed()] {
        load(&goods.world.save(
            &[image.clone().with_names(image.names()[..1].to_vec())],
            ArchiveFormat::OciArchive,
            "oci.tar",
        ));
    }
    assert_shown(&podman, &goods, "an OCI archive");
    assert_described(&podman, false);
    // What came as an OCI image goes as what it was.
    let path = goods.world.path("saved.tar");
    podman.run(&["save", "-q", "--format", "oci-archive", "-o", text(&path), DEMANDING]);
    assert_eq!(World::new().load_one(&path).id(), goods.demanding().id());
    forget();
    let directory = goods.world.save_directory(&goods.images, "directory");
    for layout in [directory, goods.world.layout()] {
        for (name, id) in goods.ids() {
            // podman 4.3 calls what it pulls from a directory after the path, which must be in lower case then.
            let (above, dir) = (layout.parent().unwrap(), layout.file_name().unwrap().to_str().unwrap());
            let pulled = podman.run_in(above, &["pull", "-q", &format!("oci:{dir}:{}", familiar(&name))]);
            assert_eq!(format!("sha256:{pulled}"), id);
            podman.run(&["tag", id.trim_start_matches("sha256:"), &name]);
        }
        assert_described(&podman, false);
        assert_shown(&podman, &goods, text(&layout));
        forget();
    }
    for compression in ["none", "gzip:9", "zstd:7"] {
        let mut options = SaveOptions::default();
        options.compression = compression.parse().unwrap();
        load(&goods.world.save_with(&goods.images, ArchiveFormat::DockerArchive, "docker.tar", &options));
        assert_eq!(listed(&podman.run(&LIST)), goods.ids(), "{compression}");
        forget();
    }
}

#[test]
fn podman_saves_commits_and_exports_what_we_load() {
    let Some(podman) = Storage::podman() else { return };
    let goods = Goods::new(Compression::Gzip);
    podman.run(&[
        "load",
        "-q",
        "-i",
        text(&goods.world.save(&goods.images, ArchiveFormat::DockerArchive, "docker.tar")),
    ]);
    let path = goods.world.path("several");
    podman.run(&["save", "-q", "-m", "-o", text(&path), DEMANDING, ALSO_DEMANDING, SIBLING, COMMITTED]);
    let back = World::new();
    let loaded = back.load(&path);
    assert_eq!(ids_of(&loaded), goods.ids());
    for image in [goods.demanding(), goods.committed()] {
        let again = back.store.image(&image.id().to_string()).unwrap();
        assert_eq!(back.config(&again), goods.world.config(image));
        back.tree(&again).assert_same(&goods.world.tree(image), "podman save -m");
    }

    // By id it has no name.
    let id = goods.demanding().id();
    remove(&path);
    podman.run(&["save", "-q", "-o", text(&path), &id.hex()]);
    let nameless = World::new().load_one(&path);
    assert_eq!((nameless.id(), nameless.names()), (id, &[][..]));

    podman.run(&["create", "--name", "changed", COMMITTED]);
    edit_more(Path::new(&podman.run(&["mount", "changed"])));
    let edited = seen(Path::new(&podman.run(&["mount", "changed"])));
    podman.run(&["umount", "changed"]);
    podman.run(&["commit", "-q", "--change", "CMD /bin/new", "changed", "changed:1"]);
    let theirs = shown(&podman, "changed:1");
    whole_seconds(theirs.clone()).assert_same(&whole_seconds(edited.clone()), "podman commit");
    for format in ["docker-archive", "oci-archive", "oci-dir"] {
        let path = goods.world.path(format);
        let save = |name: &str| {
            remove(&path);
            podman.run(&["save", "-q", "--format", format, "-o", text(&path), name]);
            let world = World::new();
            let image = world.load_one(&path);
            assert_eq!(ids([&image]).into_keys().collect::<Vec<_>>(), [name]);
            (world, image)
        };
        let (world, image) = save(DEMANDING);
        // Of an image that came as docker's, podman 4.3 makes an OCI image with a config of its own.
        let lost: &[&str] = if format == "docker-archive" { &[] } else { NOT_IN_OCI };
        assert_eq!(
            world.config(&image),
            without_fields(goods.world.config(goods.demanding()), lost),
            "{format}"
        );
        world.tree(&image).assert_same(&goods.trees[0], &format!("podman's {format}"));
        let (world, image) = save("localhost/changed:1");
        since_1970(&world.tree(&image)).assert_same(&theirs, &format!("podman's {format} of its commit"));
        assert_eq!(image.diff_ids()[..6], *goods.committed().diff_ids());
        let config = &world.config(&image)["config"];
        assert_eq!(
            (&config["Cmd"], &config["Entrypoint"]),
            (&json!(["/bin/sh", "-c", "/bin/new"]), &json!(["/bin/ping"]))
        );
        assert_eq!(image.history()[7].entry.comment.as_deref(), Some("edited"));
        // The commit of a container is a step of its own.
        assert_eq!(image.history().len(), 9);
    }
    // docker-dir is skopeo's `dir:`, which is no archive of images.
    let path = goods.world.path("docker-dir");
    podman.run(&["save", "-q", "--format", "docker-dir", "-o", text(&path), DEMANDING]);
    let error = World::new().store.load_directory(&path, &Default::default()).unwrap_err();
    assert!(error.to_string().contains("dir:"), "{error}");

    let path = goods.world.path("export.tar");
    podman.run(&["export", "-o", text(&path), "changed"]);
    let world = World::new();
    let image = world.store.import(std::fs::File::open(&path).unwrap(), &Default::default()).unwrap();
    let kept = |tree: Tree| whole_seconds(tree).without_xattrs(|name| !is_written(name));
    kept(world.tree(&image)).assert_same(&kept(edited), "podman export");
}

#[test]
fn podman_shows_a_file_with_holes_but_cannot_save_it() {
    let Some(podman) = Storage::podman() else { return };
    let world = World::new();
    let image = world.give(&Layout::of(&sample::with_holes())).remove(0);
    let path = world.save(std::slice::from_ref(&image), ArchiveFormat::DockerArchive, "holes.tar");
    podman.run(&["load", "-q", "-i", text(&path)]);
    shown(&podman, HOLES).assert_same(&world.tree(&image), "podman, holes");
    // podman 4.3 takes the length of the file for that of its entry, which has no holes.
    let saved =
        podman.command().args(["save", "-q", "-o", text(&world.path("saved.tar")), HOLES]).output().unwrap();
    assert!(String::from_utf8_lossy(&saved.stderr).contains("write too long"), "{saved:?}");
}

/// The attributes that podman 4.3 writes into layers and exports. It keeps all that it reads.
fn is_written(name: &[u8]) -> bool {
    name == b"security.capability" || name.starts_with(b"user.")
}
