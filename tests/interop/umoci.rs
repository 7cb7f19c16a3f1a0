//! umoci 0.4.7: lists and unpacks what we save into directories, and the store in place; what it makes, changes and repacks is
//! loaded.
//!
//! It keeps of a tree everything but times before 1970, when it unpacks; layers that it packs have whole seconds. It reads no
//! Zstandard.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use serde_json::json;

use crate::common::image::Compression;
use crate::common::tree::Tree;
use crate::common::{have, is_real_root, run, skip};
use crate::edits::{edit_more, make};
use crate::sample::{self, LINKED, STEPS};
use crate::world::*;

fn usable() -> bool {
    if !is_real_root() {
        skip("umoci unpacks owners and devices as root only");
        return false;
    }
    have(&["umoci"])
}

fn umoci<'a>(words: impl IntoIterator<Item = &'a str>) -> String {
    String::from_utf8(run("umoci", words)).unwrap()
}

/// The root in a new bundle of an image.
fn unpack(layout: &Path, name: &str, bundle: &Path) -> PathBuf {
    remove(bundle);
    umoci(["unpack", "--image", &format!("{}:{name}", text(layout)), text(bundle)]);
    bundle.join("rootfs")
}

/// What umoci 0.4.7 unpacks. It sets the time of a directory before it takes things out of it.
fn kept(tree: &Tree) -> Tree {
    let late = ["data", "etc"].map(Path::new);
    since_1970(tree).without_mtimes(|path, _| late.contains(&path))
}

#[test]
fn umoci_lists_and_unpacks_what_we_saved_and_the_store_in_place() {
    if !usable() {
        return;
    }
    let goods = Goods::new(Compression::Gzip);
    // Into one that umoci made, with an image of its own.
    let theirs = goods.world.path("theirs");
    umoci(["init", "--layout", text(&theirs)]);
    umoci(["new", "--image", &format!("{}:their-own", text(&theirs))]);
    goods.world.save_directory(&goods.images, "theirs");
    let directory = goods.world.save_directory(&goods.images, "directory");
    for layout in [&theirs, &directory, &goods.world.layout()] {
        let list = umoci(["ls", "--layout", text(layout)]);
        let listed: BTreeSet<_> = list.lines().filter(|name| *name != "their-own").collect();
        let names: Vec<_> = goods.ids().into_keys().map(|name| familiar(&name)).collect();
        assert_eq!(listed, names.iter().map(String::as_str).collect());
        assert_eq!(list.contains("their-own"), layout == &theirs);
        let stat = json(umoci(["stat", "--json", "--image", &format!("{}:demanding:1", text(layout))]));
        let steps = stat["history"].as_array().unwrap().iter().rev();
        assert_eq!(steps.map(|step| step["created_by"].as_str().unwrap()).collect::<Vec<_>>(), STEPS);
        for (name, tree) in goods.shown() {
            let root = unpack(layout, &familiar(name), &goods.world.path("bundle"));
            kept(&seen(&root)).assert_same(&kept(tree), &format!("umoci, {layout:?}, {name}"));
        }
    }
    let list: Vec<_> = World::new().load(&theirs).into_iter().map(|loaded| loaded.image.id()).collect();
    assert_eq!(list[1..], goods.images.iter().map(|image| image.id()).collect::<Vec<_>>());
}

#[test]
fn what_umoci_repacks_changes_and_tags_is_loaded() {
    if !usable() {
        return;
    }
    let goods = Goods::new(Compression::Gzip);
    let layout = goods.world.save_directory(&goods.images[3..], "directory");
    let bundle = goods.world.path("bundle");
    let root = unpack(&layout, "committed:1", &bundle);
    edit_more(&root);
    let edited = seen(&root);
    let place = |name: &str| format!("{}:{name}", text(&layout));
    // Else it leaves out what changed in volumes.
    umoci(["repack", "--no-mask-volumes", "--image", &place("localhost/changed:1"), text(&bundle)]);
    umoci(["tag", "--image", &place("localhost/changed:1"), "localhost/again:2"]);
    umoci([
        "config",
        "--image",
        &place("localhost/again:2"),
        "--tag",
        "localhost/other:3",
        "--config.env",
        "MORE=yes",
    ]);
    // What they are called there is in the annotation that umoci knows; in the other they are all what ours was.
    goods.world.save_directory(&goods.images[3..], "directory");
    let world = World::new();
    let loaded = world.load(&layout);
    let images: Vec<_> = loaded.iter().map(|loaded| &loaded.image).collect();
    let found = ids(images.iter().copied());
    assert_eq!(found.len(), 4, "{found:?}");
    assert_eq!(found[COMMITTED], goods.committed().id().to_string());
    assert_eq!(found["localhost/changed:1"], found["localhost/again:2"]);
    let changed = world.store.image("localhost/changed:1").unwrap();
    assert_eq!(changed.diff_ids()[..6], *goods.committed().diff_ids());
    whole_seconds(kept(&world.tree(&changed))).assert_same(&whole_seconds(kept(&edited)), "umoci's layer");
    let other = world.store.image("localhost/other:3").unwrap();
    let config = world.config(&other);
    assert!(config["config"]["Env"].as_array().unwrap().contains(&json!("MORE=yes")));
    // umoci 0.4.7 writes configs anew, as OCI has them.
    let written = without_fields(goods.world.config(goods.committed()), NOT_IN_OCI);
    for key in ["Cmd", "Entrypoint", "ExposedPorts", "Labels", "StopSignal", "User", "Volumes", "WorkingDir"]
    {
        assert_eq!(config["config"][key], written["config"][key], "{key}");
    }
}

#[test]
fn what_umoci_makes_from_nothing_is_loaded() {
    if !usable() {
        return;
    }
    let world = World::new();
    let layout = world.path("layout");
    umoci(["init", "--layout", text(&layout)]);
    let place = format!("{}:made", text(&layout));
    umoci(["new", "--image", &place]);
    let root = unpack(&layout, "made", &world.path("bundle"));
    make(&root);
    let made = whole_seconds(seen(&root));
    umoci(["repack", "--image", &place, text(&world.path("bundle"))]);
    umoci([
        "config",
        "--image",
        &place,
        "--config.cmd",
        "/etc/made",
        "--config.label",
        "a=b",
        "--author",
        "somebody",
    ]);
    let image = world.load_one(&layout);
    whole_seconds(world.tree(&image)).assert_same(&made, "umoci's image");
    let config = world.config(&image);
    assert_eq!(
        (&config["config"]["Cmd"], &config["config"]["Labels"]),
        (&json!(["/etc/made"]), &json!({"a": "b"}))
    );
    assert_eq!(config["author"], "somebody");
}

#[test]
fn umoci_follows_a_link_to_a_lower_layer_and_a_layer_of_ours_is_added_to_its_image() {
    if !usable() {
        return;
    }
    let world = World::new();
    let image = world.give(&crate::common::image::Layout::of(&sample::linked_below())).remove(0);
    let root = unpack(&world.layout(), &familiar(LINKED), &world.path("bundle"));
    seen(&root).assert_same(&world.tree(&image), "umoci, a link to a lower layer");

    let goods = Goods::new(Compression::Gzip);
    let layout = world.path("layout");
    umoci(["init", "--layout", text(&layout)]);
    let place = format!("{}:layers", text(&layout));
    umoci(["new", "--image", &place]);
    for at in 0..goods.committed().diff_ids().len() {
        let path = world.path("layer.tar");
        let out = fs::File::create(&path).unwrap();
        goods.world.store.write_layer(goods.committed(), at, out, None).unwrap();
        umoci(["raw", "add-layer", "--image", &place, text(&path)]);
    }
    let root = unpack(&layout, "layers", &world.path("bundle"));
    kept(&seen(&root)).assert_same(&kept(&goods.trees[1]), "layers by umoci");
    let again = world.load_one(&layout);
    assert_eq!(again.diff_ids(), goods.committed().diff_ids());
}
