//! buildah 1.28: pulls from every archive and directory of ours, and from the store in place; what it builds, from nothing
//! or from an image of ours, and pushes is loaded.
//!
//! It stores as podman does: everything but times before 1970. Layers that it commits have whole seconds.

use std::path::PathBuf;

use plywood::store::ArchiveFormat;
use serde_json::{Value, json};

use crate::common::image::Compression;
use crate::common::peers::Storage;
use crate::edits::{edit_more, make};
use crate::sample;
use crate::world::*;

/// Where something is pushed to, and what it is called there.
const TRANSPORTS: [&str; 3] = ["docker-archive", "oci-archive", "oci"];

#[test]
fn buildah_shows_what_we_wrote_in_any_form_and_in_the_store() {
    let Some(buildah) = Storage::buildah() else { return };
    let goods = Goods::new(Compression::Zstd);
    let docker = goods.world.save(&goods.images, ArchiveFormat::DockerArchive, "docker.tar");
    let classic = goods.world.save(&goods.images, ArchiveFormat::ClassicDockerArchive, "classic.tar");
    let oci = goods.world.save(&goods.images, ArchiveFormat::OciArchive, "oci.tar");
    let directory = goods.world.save_directory(&goods.images, "directory");
    for (transport, path) in [
        ("docker-archive", &docker),
        ("docker-archive", &classic),
        ("oci-archive", &oci),
        ("oci", &directory),
        ("oci", &goods.world.layout()),
    ] {
        for (name, id) in goods.ids() {
            // buildah 1.28 calls what it takes from a directory after the path, which must be in lower case then.
            let (above, file) = (path.parent().unwrap(), path.file_name().unwrap().to_str().unwrap());
            let source = format!("{transport}:{file}:{}", familiar(&name));
            buildah.run_in(above, &["from", "--name", "one", &source]);
            let described = json(buildah.run(&["inspect", "one"]));
            assert_eq!(described["FromImageID"], id.trim_start_matches("sha256:"), "{source}");
            if let Some((_, tree)) = goods.shown().into_iter().find(|(shown, _)| *shown == name) {
                let root = PathBuf::from(buildah.run(&["mount", "one"]));
                seen(&root).assert_same(&since_1970(tree), &format!("buildah, {source}"));
                let config = json(described["Config"].as_str().unwrap());
                let image = goods.images.iter().find(|image| image.id().to_string() == id).unwrap();
                assert_eq!(config, goods.world.config(image));
            }
            buildah.run(&["rm", "one"]);
        }
        buildah.run(&["rmi", "-af"]);
    }
}

#[test]
fn what_buildah_commits_and_pushes_is_loaded() {
    let Some(buildah) = Storage::buildah() else { return };
    let goods = Goods::new(Compression::Gzip);
    let archive = goods.world.save(&[goods.committed().clone()], ArchiveFormat::DockerArchive, "docker.tar");
    buildah.run(&["from", "--name", "changed", &format!("docker-archive:{}", text(&archive))]);
    let root = PathBuf::from(buildah.run(&["mount", "changed"]));
    edit_more(&root);
    let edited = whole_seconds(seen(&root));
    buildah.run(&["umount", "changed"]);
    buildah.run(&["config", "--env", "MORE=yes", "changed"]);
    buildah.run(&["commit", "-q", "changed", "changed:1"]);
    let id = buildah.run(&["images", "--no-trunc", "-q", "changed:1"]);
    for transport in TRANSPORTS {
        for compression in ["gzip", "zstd"] {
            if (transport, compression) == ("docker-archive", "zstd") {
                continue;
            }
            let path = goods.world.path(transport);
            remove(&path);
            let target = format!("{transport}:{}:localhost/changed:1", text(&path));
            buildah.run(&["push", "-q", "--compression-format", compression, "changed:1", &target]);
            let world = World::new();
            let image = world.load_one(&path);
            assert_eq!(image.id().to_string(), id, "{transport}");
            assert_eq!(image.names()[0].canonical(), "localhost/changed:1");
            assert_eq!(image.diff_ids()[..6], *goods.committed().diff_ids());
            whole_seconds(since_1970(&world.tree(&image)))
                .assert_same(&edited, &format!("buildah's {transport}"));
            let env = &world.config(&image)["config"]["Env"];
            assert!(env.as_array().unwrap().contains(&json!("MORE=yes")), "{env}");
        }
    }
    let path = goods.world.path("dir");
    buildah.run(&["push", "-q", "changed:1", &format!("dir:{}", text(&path))]);
    let error = World::new().store.load_directory(&path, &Default::default()).unwrap_err();
    assert!(error.to_string().contains("dir:"), "{error}");
}

#[test]
fn what_buildah_makes_from_nothing_is_loaded() {
    let Some(buildah) = Storage::buildah() else { return };
    buildah.run(&["from", "--name", "made", "scratch"]);
    let root = PathBuf::from(buildah.run(&["mount", "made"]));
    make(&root);
    let made = whole_seconds(seen(&root));
    let config = sample::config();
    buildah.run(&[
        "config",
        "--cmd",
        "/etc/made",
        "--label",
        "a=b",
        "--port",
        "80/tcp",
        "--volume",
        "/data",
        "made",
    ]);
    buildah.run(&[
        "config",
        "--user",
        "1000:100",
        "--workingdir",
        "/etc",
        "--stop-signal",
        "SIGUSR1",
        "made",
    ]);
    buildah.run(&["config", "--shell", "/bin/sh -ec", "--onbuild", "LABEL of.build=yes", "made"]);
    buildah.run(&["config", "--healthcheck", "CMD /bin/true", "made"]);
    for format in ["docker", "oci"] {
        let name = format!("localhost/{format}:1");
        buildah.run(&["commit", "-q", "--format", format, "made", &name]);
        for transport in TRANSPORTS {
            let world = World::new();
            let path = world.path(transport);
            buildah.run(&["push", "-q", &name, &format!("{transport}:{}:{name}", text(&path))]);
            let image = world.load_one(&path);
            assert_eq!(image.names()[0].canonical(), name);
            whole_seconds(world.tree(&image))
                .assert_same(&made, &format!("buildah's {transport} of {format}"));
            let found = &world.config(&image)["config"];
            for key in ["User", "Volumes", "StopSignal", "OnBuild", "Shell"] {
                let is_kept =
                    (format, transport) == ("docker", "docker-archive") || !NOT_IN_OCI.contains(&key);
                assert_eq!(found[key], if is_kept { config[key].clone() } else { Value::Null }, "{key}");
            }
        }
    }
}
