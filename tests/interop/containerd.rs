//! containerd 1.6 with `ctr`: imports what we save, in any compression; what it exports is loaded.
//!
//! It keeps every document and every blob as it was, and of a tree everything but times before 1970 and `trusted.*`.

use std::fs;
use std::path::Path;

use plywood::store::ArchiveFormat;

use crate::common::image::{Compression, Layout};
use crate::common::peers::Containerd;
use crate::common::tree::Tree;
use crate::sample::{self, HOLES};
use crate::world::*;

fn import(containerd: &Containerd, path: &Path) {
    containerd.run(&["image", "import", "--all-platforms", text(path)]);
}

/// The names that it has, and the digests of what they lead to.
fn targets(containerd: &Containerd) -> std::collections::BTreeMap<String, String> {
    let list = containerd.run(&["image", "ls"]);
    let fields = list.lines().skip(1).map(|line| line.split_whitespace().collect::<Vec<_>>());
    fields.map(|fields| (fields[0].to_owned(), fields[2].to_owned())).collect()
}

fn forget(containerd: &Containerd) {
    let names: Vec<_> = targets(containerd).into_keys().collect();
    containerd.run(
        &["image", "rm", "--sync"].into_iter().chain(names.iter().map(String::as_str)).collect::<Vec<_>>(),
    );
}

/// What containerd 1.6 unpacks of a tree.
fn kept(tree: &Tree) -> Tree {
    since_1970(tree).without_xattrs(|name| name.starts_with(b"trusted."))
}

fn shown(containerd: &Containerd, world: &World, name: &str) -> Tree {
    let root = world.path("root");
    fs::create_dir_all(&root).unwrap();
    containerd.run(&["image", "mount", name, text(&root)]);
    let shown = std::panic::catch_unwind(|| seen(&root));
    // Or the next image that is mounted there shows this one.
    containerd.run(&["image", "unmount", "--rm", text(&root)]);
    shown.unwrap()
}

#[test]
fn containerd_shows_what_we_wrote_and_exports_what_we_load() {
    let Some(containerd) = Containerd::start() else { return };
    for compression in [Compression::None, Compression::Gzip, Compression::Zstd] {
        let goods = Goods::new(compression);
        for format in [ArchiveFormat::DockerArchive, ArchiveFormat::OciArchive] {
            shows(&containerd, &goods, format);
            exports(&containerd, &goods);
            forget(&containerd);
        }
    }
    takes_the_classic_form(&containerd);
    takes_several_platforms(&containerd);
    takes_holes(&containerd);
}

fn shows(containerd: &Containerd, goods: &Goods, format: ArchiveFormat) {
    import(containerd, &goods.world.save(&goods.images, format, "archive.tar"));
    let named = goods.images.iter().flat_map(|image| image.names().iter().map(move |name| (name, image)));
    let wanted = named.map(|(name, image)| (name.canonical(), image.digest().to_string())).collect();
    assert_eq!(targets(containerd), wanted, "{format:?}");
    for (name, tree) in goods.shown() {
        shown(containerd, &goods.world, name)
            .assert_same(&kept(tree), &format!("containerd, {format:?}, {name}"));
    }
}

fn exports(containerd: &Containerd, goods: &Goods) {
    let path = goods.world.path("exported.tar");
    let names = goods.ids();
    let words = ["image", "export", text(&path)].into_iter().chain(names.keys().map(String::as_str));
    containerd.run(&words.collect::<Vec<_>>());
    let back = World::new();
    let loaded = back.load(&path);
    assert_eq!(ids_of(&loaded), names);
    for image in [goods.demanding(), goods.committed()] {
        let again = back.store.image(&image.id().to_string()).unwrap();
        assert_eq!(again.digest(), image.digest());
        assert_eq!(back.config(&again), goods.world.config(image));
        back.tree(&again).assert_same(&goods.world.tree(image), "ctr image export");
    }
}

/// The form has no manifests, so containerd makes some: the ids of the images stay.
fn takes_the_classic_form(containerd: &Containerd) {
    let goods = Goods::new(Compression::Gzip);
    import(containerd, &goods.world.save(&goods.images, ArchiveFormat::ClassicDockerArchive, "classic.tar"));
    assert_eq!(
        targets(containerd).into_keys().collect::<Vec<_>>(),
        goods.ids().into_keys().collect::<Vec<_>>()
    );
    for (name, tree) in goods.shown() {
        shown(containerd, &goods.world, name)
            .assert_same(&kept(tree), &format!("containerd, classic, {name}"));
    }
    let path = goods.world.path("exported.tar");
    let names = goods.ids();
    let words = ["image", "export", text(&path)].into_iter().chain(names.keys().map(String::as_str));
    containerd.run(&words.collect::<Vec<_>>());
    assert_eq!(ids_of(&World::new().load(&path)), names);
    forget(containerd);
}

/// An index of this machine's platform and another, whole and with one of them left out.
fn takes_several_platforms(containerd: &Containerd) {
    let name = "docker.io/library/platforms:1";
    let (layout, index) = sample::platforms(name);
    let world = World::new();
    let image = world.give(&layout).remove(0);
    assert_eq!(image.digest().to_string(), index);
    for format in [ArchiveFormat::DockerArchive, ArchiveFormat::OciArchive] {
        import(containerd, &world.save(std::slice::from_ref(&image), format, "platforms.tar"));
        assert_eq!(targets(containerd)[name], index, "{format:?}");
        let path = world.path("exported.tar");
        containerd.run(&["image", "export", "--all-platforms", text(&path), name]);
        let back = World::new();
        let again = back.load_one(&path);
        assert_eq!((again.digest(), again.id()), (image.digest(), image.id()));
        back.tree(&again).assert_same(&world.tree(&image), "all platforms");
        // containerd 1.6 passes on the index with the platforms that it leaves out.
        containerd.run(&["image", "export", text(&path), name]);
        let back = World::new();
        let again = back.load_one(&path);
        assert_eq!((again.digest(), again.id()), (image.digest(), image.id()));
        back.tree(&again).assert_same(&world.tree(&image), "this platform");
        forget(containerd);
    }
}

/// A layer with a map of the holes of a file.
fn takes_holes(containerd: &Containerd) {
    let world = World::new();
    let image = world.give(&Layout::of(&sample::with_holes())).remove(0);
    import(containerd, &world.save(std::slice::from_ref(&image), ArchiveFormat::OciArchive, "holes.tar"));
    shown(containerd, &world, HOLES).assert_same(&world.tree(&image), "containerd, holes");
    forget(containerd);
}
