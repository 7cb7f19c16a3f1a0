//! Images of more layers than a kernel stacks.

use std::fs;

use plywood::driver::DriverKind;
use plywood::store::{CommitOptions, CreateOptions, RemoveContainer};

use crate::common::image::{ImageSpec, image};
use crate::common::model;
use crate::common::privilege::{self, Privilege};
use crate::common::tar::{Entry, tar};
use crate::common::tree::Tree;
use crate::world::*;

/// Layers that add to, replace, delete and hide what is in the layers below them, near and far.
fn many(count: usize) -> Vec<Vec<Entry>> {
    let layer = |number: usize| {
        let time = 1_600_000_000 + number as i64;
        let name = |number: usize| format!("dir{}/sub{}/file{number}", number % 7, number % 3);
        let directory = name(number).rsplit_once('/').unwrap().0.to_owned();
        let mut layer = tar().dir(directory.split_once('/').unwrap().0).dir(directory).mtime(time, 1);
        layer = layer.file(name(number), format!("{number}")).mtime(time, 0);
        layer =
            layer.file("counter", format!("{number}\n")).mode(0o600 + number as u32 % 8 * 8).mtime(time, 5);
        if number >= 300 {
            layer = layer.whiteout(name(number - 300));
        }
        match number % 50 {
            11 => layer = layer.opaque(format!("dir{}", number % 7)),
            23 => layer = layer.file(format!("swap{}", number % 4), "a file"),
            24 => layer = layer.link(format!("other{number}"), name(number)),
            // Its parent was a file until now, or is that of many layers below.
            37 => layer = layer.file(format!("swap{}/in", (number - 14) % 4), "in a directory"),
            41 => layer = layer.dir(format!("dir{}", number % 7)).mode(0o711).mtime(time, 9),
            _ => {}
        }
        layer.entries()
    };
    (0..count).map(layer).collect()
}

fn image_of(layers: &[Vec<Entry>]) -> ImageSpec {
    layers
        .iter()
        .fold(image(), |image, layer| image.layer(crate::common::tar::tar_of(layer)))
        .name("docker.io/library/many:1")
}

fn tree(layers: &[Vec<Entry>]) -> Tree {
    model::stack(layers.iter().map(Vec::as_slice))
}

fn merged(world: &World) -> usize {
    names_in(&world.path().join("layers")).iter().filter(|name| name.starts_with("merged-")).count()
}

fn live(count: usize, privilege: Privilege, kind: DriverKind) {
    let world = World::driver(kind);
    let layers = many(count);
    let image = world.load_image(&image_of(&layers));
    assert_eq!(merged(&world), 0, "merging is for who stacks them");
    let container = world.store.create_container(&image, &CreateOptions::named("many")).unwrap();
    assert!(merged(&world) > 0);
    let expected = told(tree(&layers), privilege);
    exported(&container).assert_same(&expected, "export");
    let mounted = container.mount().unwrap_or_else(|error| panic!("{}", chain(&error)));
    seen(mounted.path()).assert_same(&held(tree(&layers), privilege), "root");

    let at = |name: &str| mounted.path().join(name);
    let last = count - 1;
    fs::write(at("counter"), "edited").unwrap();
    fs::remove_dir_all(at("dir0")).unwrap();
    fs::create_dir(at("dir0")).unwrap();
    fs::write(at("dir0/new"), "new").unwrap();
    let name = format!("dir{}/sub{}/file{last}", last % 7, last % 3);
    fs::remove_file(at(&name)).unwrap();
    let after = seen(mounted.path());
    let changes = changes(&container);
    for change in ["C /counter", "A /dir0/new", &format!("D /{name}")] {
        assert!(changes.iter().any(|line| line == change), "{change}: {changes:?}");
    }
    mounted.unmount().unwrap();

    let image = container.commit(&CommitOptions::default()).unwrap();
    let again = world.store.create_container(&image, &CreateOptions::named("again")).unwrap();
    let mounted = again.mount().unwrap();
    seen(mounted.path()).assert_same(&after, "commit and mount");
    assert_eq!(crate::world::changes(&again), Vec::<String>::new());
    drop(mounted);
    exported(&again).assert_same(&exported(&container), "commit and export");

    // Used, it is kept; lost, it is made again; unused, it goes.
    let kept = merged(&world);
    let report = world.store.gc(&Default::default()).unwrap();
    assert_eq!((merged(&world), report.layers.len()), (kept, 0));
    for name in names_in(&world.path().join("layers")).iter().filter(|name| name.starts_with("merged-")) {
        fs::remove_file(world.path().join("layers").join(name).join("layer.json")).unwrap();
    }
    let mounted = again.mount().unwrap();
    seen(mounted.path()).assert_same(&after, "made again");
    drop(mounted);
    let view = world.store.mount_image(&image).unwrap_or_else(|error| panic!("{}", chain(&error)));
    if kind == DriverKind::Overlay {
        seen(&view).assert_same(&after, "view");
        world.store.unmount_image(&image).unwrap();
    }
    again.remove(RemoveContainer::Refuse).unwrap();
    container.remove(RemoveContainer::Refuse).unwrap();
    world.store.gc(&Default::default()).unwrap();
    assert_eq!(merged(&world), 0);
}

#[test]
fn an_image_of_six_hundred_layers_lives_like_any_other() {
    privilege::under(&[Privilege::Root, Privilege::SingleId], |privilege| {
        live(600, privilege, DriverKind::Overlay);
    });
}

#[test]
fn an_image_of_a_thousand_layers_lives_like_any_other() {
    privilege::under(&[Privilege::Root], |privilege| live(1000, privilege, DriverKind::Overlay));
}

#[test]
fn images_of_many_layers_share_what_is_merged_of_their_base() {
    privilege::under(&[Privilege::Root], |_| {
        let world = World::driver(DriverKind::Overlay);
        let layers = many(540);
        let create = |count: usize| {
            let image = world.load_image(&image_of(&layers[..count]));
            let container = world.store.create_container(&image, &CreateOptions::default()).unwrap();
            exported(&container).assert_same(&tree(&layers[..count]), "export");
        };
        create(510);
        let merged_before = merged(&world);
        create(540);
        assert_eq!(merged(&world), merged_before);
    });
}
