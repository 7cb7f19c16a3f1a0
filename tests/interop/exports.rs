//! Tars of roots and of layers: GNU tar, bsdtar, docker 20.10 and podman 4.3 take what we export, with and without a config in
//! it; GNU tar and the kernel make of our layers what we do; archives are loaded however others pack them.

use std::fs;
use std::path::Path;

use plywood::store::{Container, CreateOptions, ExportOptions, ImportOptions};
use serde_json::json;

use crate::common::image::{Compression, Layout};
use crate::common::kernel;
use crate::common::peers::{Docker, Storage};
use crate::common::tree::Tree;
use crate::common::{have, is_real_root, run, skip};
use crate::docker;
use crate::sample;
use crate::world::*;

fn export(container: &Container, config: bool, path: &Path) {
    let mut options = ExportOptions::default();
    options.config = config;
    container.export(fs::File::create(path).unwrap(), &options).unwrap();
}

#[test]
fn every_reader_of_tars_takes_an_export_with_a_config_of_any_length() {
    if !is_real_root() {
        return skip("owners and devices are unpacked by root only");
    }
    let world = World::new();
    // A header with all of it would be more than Go's readers and libarchive's take.
    let long = sample::demanding(Compression::None)
        .set("Labels", json!({"short": "label", "long": "\u{e4}".repeat(800_000)}));
    let image = world.give(&Layout::of(&long)).remove(0);
    let container = world.store.create_container(&image, &CreateOptions::default()).unwrap();
    let tree = sample::tree().without_holes();
    let (docker, podman) = (Docker::start(), Storage::podman());
    for config in [true, false] {
        let path = world.path(if config { "with.tar" } else { "without.tar" });
        export(&container, config, &path);
        let root = world.path(if config { "with" } else { "without" });
        fs::create_dir(&root).unwrap();
        kernel::untar(&path, &root);
        seen(&root).assert_same(&tree, "GNU tar");
        if have(&["bsdtar"]) {
            let root = world.path(if config { "bsd-with" } else { "bsd-without" });
            fs::create_dir(&root).unwrap();
            run("bsdtar", ["-xpf", text(&path), "--acls", "--xattrs", "--numeric-owner", "-C", text(&root)]);
            // bsdtar 3.6 takes -86399.5 seconds for half a second more, and access lists only in words.
            let kept = |tree: &Tree| {
                let tree = tree.clone().without_xattrs(|name| name == b"system.posix_acl_access");
                tree.without_mtimes(|_, node| node.mtime.0 < 0)
            };
            kept(&seen(&root)).assert_same(&kept(&tree), "bsdtar");
        }
        if let Some(docker) = &docker {
            docker.run(&["import", text(&path), "imported:1"]);
            docker::shown(docker, &world, "imported:1").assert_same(&since_1970(&tree), "docker import");
        }
        if let Some(podman) = &podman {
            podman.run(&["import", "-q", text(&path), "imported:1"]);
            let root = podman.run(&["image", "mount", "imported:1"]);
            seen(Path::new(&root)).assert_same(&since_1970(&tree), "podman import");
            podman.run(&["image", "umount", "imported:1"]);
        }
        let again = world.store.import(fs::File::open(&path).unwrap(), &ImportOptions::default()).unwrap();
        world.tree(&again).assert_same(&tree, "our own import");
        let expected = if config { world.config(&image)["config"].clone() } else { json!(null) };
        assert!(world.config(&again)["config"] == expected, "the config of our own import");
    }
}

#[test]
fn gnu_tar_and_the_kernel_make_of_our_layers_what_we_do() {
    if !is_real_root() {
        return skip("whiteouts are unpacked by root only");
    }
    let goods = Goods::new(Compression::Zstd);
    let tars: Vec<_> = (0..goods.committed().diff_ids().len())
        .map(|at| {
            let path = goods.world.path(&format!("layer-{at}.tar"));
            let out = fs::File::create(&path).unwrap();
            goods.world.store.write_layer(goods.committed(), at, out, None).unwrap();
            path
        })
        .collect();
    seen(&kernel::stack(&tars).path()).assert_same(&goods.trees[1], "the kernel's stack");
}

#[test]
fn an_image_that_others_packed_is_loaded() {
    let layout = sample::several(Compression::Gzip);
    let world = World::new();
    let dir = world.path("layout");
    layout.write(&dir);
    // The layer that is mostly zeros becomes sparse.
    let packed = world.path("packed.tar");
    for words in [
        &["tar", "--format=gnu", "--sparse"][..],
        &["tar", "--format=pax", "--sparse"],
        &["tar", "--format=v7"],
        &["tar", "--format=ustar", "--gzip"],
        &["tar", "--format=posix", "--hard-dereference"],
        &["bsdtar", "--format=pax", "--zstd"],
        &["bsdtar", "--format=ustar", "--xz"],
    ] {
        if have(&words[..1]) {
            let rest = ["-C", text(&dir), "-cf", text(&packed), "."];
            run(words[0], words[1..].iter().chain(&rest));
            assert_eq!(ids_of(&World::new().load(&packed)), expected(&layout), "{words:?}");
        }
    }
}
