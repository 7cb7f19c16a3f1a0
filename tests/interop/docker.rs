//! docker 20.10: loads what we save for it, also without the layers that it has; what it saves, commits, exports and imports is
//! loaded.
//!
//! It keeps everything but times before 1970, when it loads; its exports and the layers that it commits have whole seconds and
//! no attributes but capabilities. It reads no Zstandard (version 23 does), of which `save` warns.

use std::fs;
use std::path::Path;
use std::process::Command;

use plywood::archive::Warning;
use plywood::store::{ArchiveFormat, SaveOptions};
use serde_json::json;

use crate::common::image::{Compression, Layout};
use crate::common::peers::Docker;
use crate::common::tar::tar;
use crate::common::tree::{Node, Tree, is_directory};
use crate::common::{model, run, run_command, untar};
use crate::sample::{self, ALSO_DEMANDING, DEMANDING, HOLES, SIBLING, STEPS};
use crate::world::*;

/// What docker's layers of an image make, mounted as its driver does: it has no command for that.
pub fn shown(docker: &Docker, world: &World, name: &str) -> Tree {
    let image = &json(docker.run(&["image", "inspect", name]))[0];
    let data = &image["GraphDriver"]["Data"];
    let lowers = data["UpperDir"].as_str().into_iter().chain(data["LowerDir"].as_str());
    let mut lowers: Vec<_> = lowers.map(str::to_owned).collect();
    let root = world.path("root");
    if lowers.len() == 1 {
        // Overlayfs wants two.
        fs::create_dir_all(world.path("empty")).unwrap();
        lowers.push(text(&world.path("empty")).to_owned());
    }
    fs::create_dir_all(&root).unwrap();
    let mut mount = Command::new("mount");
    // Newer versions of mount(8) use calls that take no more than 255 bytes for one option.
    mount.env("LIBMOUNT_FORCE_MOUNT2", "always").args(["-t", "overlay", "overlay", "-o"]);
    run_command(mount.arg(format!("ro,lowerdir={}", lowers.join(":"))).arg(&root));
    let shown = std::panic::catch_unwind(|| seen(&root));
    run("umount", [&root]);
    shown.unwrap()
}

/// What docker says of the demanding image.
#[track_caller]
fn assert_described(docker: &Docker) {
    let image = &json(docker.run(&["image", "inspect", DEMANDING]))[0];
    for (key, value) in sample::config().as_object().unwrap() {
        assert_eq!(image["Config"][key], *value, "{key}");
    }
    assert_eq!(image["Author"], json!("Somebody <somebody@example.org>"));
    assert_eq!(image["Created"], json!("2024-01-01T00:00:05.123456789Z"));
    let history = docker.run(&["history", "--no-trunc", "--format", "{{.CreatedBy}}", DEMANDING]);
    assert_eq!(history.lines().collect::<Vec<_>>(), STEPS);
}

#[test]
fn docker_shows_what_we_wrote_and_saves_commits_exports_and_imports_what_we_load() {
    let Some(docker) = Docker::start() else { return };
    let goods = Goods::new(Compression::Gzip);
    shows(&docker, &goods);
    completes_a_delta(&docker, &goods);
    saves(&docker, &goods);
    commits_and_exports(&docker, &goods);
    imports(&docker, &goods);
    is_not_given_zstandard(&goods);
    takes_holes(&docker);
}

fn load(docker: &Docker, path: &Path) {
    docker.run(&["load", "-q", "-i", text(path)]);
}

fn forget(docker: &Docker) {
    let all = docker.run(&["images", "-aq", "--no-trunc"]);
    let all: std::collections::BTreeSet<_> = all.lines().collect();
    docker.run(&["rmi", "-f"].into_iter().chain(all).collect::<Vec<_>>());
}

fn shows(docker: &Docker, goods: &Goods) {
    for format in [ArchiveFormat::DockerArchive, ArchiveFormat::ClassicDockerArchive] {
        load(docker, &goods.world.save(&goods.images, format, "docker.tar"));
        assert_eq!(listed(&docker.run(&LIST)), goods.ids(), "{format:?}");
        assert!(docker.run(&LIST).contains(&goods.images[2].id().to_string()));
        assert_described(docker);
        for (name, tree) in goods.shown() {
            shown(docker, &goods.world, name)
                .assert_same(&since_1970(tree), &format!("docker, {format:?}, {name}"));
        }
        forget(docker);
    }
    let mut options = SaveOptions::default();
    options.compression = "gzip:9".parse().unwrap();
    load(docker, &goods.world.save_with(&goods.images, ArchiveFormat::DockerArchive, "docker.tar", &options));
    assert_eq!(listed(&docker.run(&LIST)), goods.ids());
    forget(docker);
}

fn completes_a_delta(docker: &Docker, goods: &Goods) {
    let world = &goods.world;
    load(docker, &world.save(&goods.images[..1], ArchiveFormat::DockerArchive, "base.tar"));
    let mut options = SaveOptions::default();
    options.known = world.store.known(goods.demanding(), ArchiveFormat::ClassicDockerArchive).unwrap();
    let rest = &goods.images[1..];
    load(docker, &world.save_with(rest, ArchiveFormat::ClassicDockerArchive, "delta.tar", &options));
    assert_eq!(listed(&docker.run(&LIST)), goods.ids());
    shown(docker, &goods.world, COMMITTED).assert_same(&since_1970(&goods.trees[1]), "docker, completed");
}

fn saves(docker: &Docker, goods: &Goods) {
    let path = goods.world.path("saved.tar");
    docker.run(&["save", "-o", text(&path), DEMANDING, ALSO_DEMANDING, SIBLING, COMMITTED]);
    for world in [World::new(), World::of_copies()] {
        let loaded = world.load(&path);
        assert_eq!(ids_of(&loaded), goods.ids());
        for image in [goods.demanding(), goods.committed()] {
            let again = world.store.image(&image.id().to_string()).unwrap();
            assert_eq!(world.config(&again), goods.world.config(image));
            world.tree(&again).assert_same(&goods.world.tree(image), "docker save");
        }
    }
    let id = goods.demanding().id();
    docker.run(&["save", "-o", text(&path), &id.to_string()]);
    let nameless = World::new().load_one(&path);
    assert_eq!((nameless.id(), nameless.names()), (id, &[][..]));
}

fn commits_and_exports(docker: &Docker, goods: &Goods) {
    docker.run(&["create", "--name", "changed", COMMITTED]);
    let exported = || {
        let path = goods.world.path("export.tar");
        docker.run(&["export", "-o", text(&path), "changed"]);
        told(model::stack([untar::entries(&fs::read(&path).unwrap()).as_slice()]))
    };
    exported().assert_same(&told(since_1970(&goods.trees[1])), "docker's export");
    let world = World::new();
    let path = goods.world.path("export.tar");
    let image = world.store.import(fs::File::open(&path).unwrap(), &Default::default()).unwrap();
    told(world.tree(&image)).assert_same(&exported(), "docker's export, imported");

    // A tar is the only way into a container that does not run.
    let added = tar()
        .dir("etc")
        .mtime(1_700_000_000, 0)
        .file("etc/added", "added")
        .mode(0o6711)
        .owner(7, 8)
        .dir("home/user")
        .mode(0o700)
        .owner(1000, 100);
    let path = goods.world.path("added.tar");
    fs::write(&path, added.finish()).unwrap();
    run_command(docker.command().args(["cp", "-", "changed:/"]).stdin(fs::File::open(&path).unwrap()));
    docker.run(&["commit", "-a", "somebody", "-m", "added", "changed", "changed:1"]);
    let path = goods.world.path("changed.tar");
    docker.run(&["save", "-o", text(&path), "changed:1"]);
    let image = world.load_one(&path);
    let ours = world.tree(&image);
    told(since_1970(&ours)).assert_same(&exported(), "docker's commit");
    assert_eq!(ours.at("etc/added").mode, 0o6711);
    assert_eq!(image.id().to_string(), docker.run(&["image", "inspect", "--format", "{{.Id}}", "changed:1"]));
    assert_eq!(image.history()[8].entry.comment.as_deref(), Some("added"));
}

fn imports(docker: &Docker, goods: &Goods) {
    let path = goods.world.path("root.tar");
    fs::write(&path, sample::layers()[0].clone().finish()).unwrap();
    let words = ["import", "--change", "CMD [\"/bin/su\"]", "--message", "why", text(&path), "imported:1"];
    let id = docker.run(&words);
    let path = goods.world.path("imported.tar");
    docker.run(&["save", "-o", text(&path), "imported:1"]);
    let world = World::new();
    let image = world.load_one(&path);
    assert_eq!(image.id().to_string(), id);
    assert_eq!(world.config(&image)["config"]["Cmd"], json!(["/bin/su"]));
    assert_eq!(image.history()[0].entry.comment.as_deref(), Some("why"));
    let entries = sample::layers()[0].entries();
    world
        .tree(&image)
        .assert_same(&model::stack([&*entries]).without_root().without_holes(), "docker import");
}

fn is_not_given_zstandard(goods: &Goods) {
    let mut options = SaveOptions::default();
    options.compression = "zstd".parse().unwrap();
    let warnings =
        goods.world.store.save(&goods.images, ArchiveFormat::DockerArchive, std::io::sink(), &options);
    let warnings = warnings.unwrap();
    assert!(warnings.iter().all(|warning| matches!(warning, Warning::NeedsDocker23 { .. })), "{warnings:?}");
    assert_eq!(warnings.len(), 4);
    let classic = goods.world.store.save(
        &goods.images,
        ArchiveFormat::ClassicDockerArchive,
        std::io::sink(),
        &Default::default(),
    );
    assert!(classic.unwrap().is_empty());
}

/// A layer with a map of the holes of a file.
fn takes_holes(docker: &Docker) {
    let world = World::new();
    let image = world.give(&Layout::of(&sample::with_holes())).remove(0);
    load(docker, &world.save(std::slice::from_ref(&image), ArchiveFormat::DockerArchive, "holes.tar"));
    shown(docker, &world, HOLES).assert_same(&world.tree(&image), "docker, holes");
    // docker 20.10 puts the layer together again without its map, and then finds it changed.
    let path = world.path("saved.tar");
    let saved = docker.command().args(["save", "-o", text(&path), HOLES]).output().unwrap();
    assert!(String::from_utf8_lossy(&saved.stderr).contains("could not verify layer data"), "{saved:?}");
}

/// What docker's export can tell, without what its daemon puts into every container.
fn told(tree: Tree) -> Tree {
    let own = [
        ".dockerenv",
        "dev/console",
        "dev/pts",
        "dev/shm",
        "etc/hostname",
        "etc/hosts",
        "etc/mtab",
        "etc/resolv.conf",
        "proc",
        "sys",
    ];
    let tree = own.iter().fold(tree.without_root(), |tree, path| tree.without(path));
    let touched = |path: &Path, node: &Node| is_directory(path, node) && ["dev", "etc"].contains(&text(path));
    let tree = tree.without_mtimes(touched).without_xattrs(|name| name != b"security.capability");
    whole_seconds(tree.without_holes())
}
