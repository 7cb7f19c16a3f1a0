//! What is none of the store's, under a name of the store's: it is told, is in nobody's way, and is never removed.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::{FileTypeExt, symlink};
use std::path::{Path, PathBuf};

use plywood::driver::DriverKind;
use plywood::store::{CheckOptions, CreateOptions, GcOptions, LoadOptions, RepairOptions, Store, StoreError};
use rustix::fs::{CWD, FileType, Mode};

use crate::common::image::{Compression, ImageSpec, Layout, image};
use crate::common::sha256;
use crate::common::tar::tar;
use crate::world::*;

const KINDS: [Strange; 4] = [Strange::File, Strange::Directory, Strange::Symlink, Strange::Fifo];

/// Something that somebody else put there.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Strange {
    File,
    Directory,
    /// To a directory outside.
    Symlink,
    Fifo,
}

impl Strange {
    fn put(self, path: &Path, outside: &Path) {
        match self {
            Self::File => fs::write(path, "mine").unwrap(),
            Self::Directory => {
                fs::create_dir(path).unwrap();
                fs::write(path.join("mine"), "mine").unwrap();
            }
            Self::Symlink => symlink(outside, path).unwrap(),
            Self::Fifo => {
                rustix::fs::mknodat(CWD, path, FileType::Fifo, Mode::from_raw_mode(0o600), 0).unwrap();
            }
        }
    }

    /// Whether this is what was put there.
    fn is_at(self, path: &Path) -> bool {
        let Ok(metadata) = fs::symlink_metadata(path) else { return false };
        match self {
            Self::File => metadata.is_file() && fs::read(path).unwrap() == b"mine",
            Self::Directory => {
                metadata.is_dir() && fs::read(path.join("mine")).is_ok_and(|own| own == b"mine")
            }
            Self::Symlink => metadata.is_symlink() && path.join("mine").exists(),
            Self::Fifo => metadata.file_type().is_fifo(),
        }
    }

    /// Whether it is there still, or was put aside.
    fn is_kept(self, path: &Path) -> bool {
        let aside = format!("{}.aside-", path.file_name().unwrap().to_str().unwrap());
        let names = names_in(path.parent().unwrap());
        self.is_at(path)
            || names.iter().any(|name| name.starts_with(&aside) && self.is_at(&path.with_file_name(name)))
    }
}

/// Two of them and the next time others: what they do does not depend on the place.
fn some_kinds(number: usize) -> [Strange; 2] {
    [0, 2].map(|other| KINDS[(number + other) % KINDS.len()])
}

fn spec(name: &str) -> ImageSpec {
    image()
        .compressed(tar().dir("base").file("base/file", "base").finish(), Compression::Gzip)
        .layer(tar().link("bound", "base/file").file(name, name).finish())
        .name(&format!("docker.io/library/{name}:1"))
}

/// A store with an image, a container of it that has written something, and a directory outside.
fn scene() -> (World, PathBuf, Vec<u8>) {
    let world = World::driver(DriverKind::Copy);
    let image = world.load_image(&spec("one"));
    let container = world.store.create_container(&image, &CreateOptions::named("web")).unwrap();
    fs::write(container.mount().unwrap().path().join("written"), "written").unwrap();
    let outside = world.beside("outside");
    fs::create_dir(&outside).unwrap();
    fs::write(outside.join("mine"), "mine").unwrap();
    let root = export(&container);
    (world, outside, root)
}

fn must<T>(what: &str, outcome: Result<T, StoreError>) -> T {
    outcome.unwrap_or_else(|error| panic!("{what}: {}", chain(&error)))
}

/// Everything that one does with a store, and none of it fails.
fn use_it(store: &Store, what: &str) {
    let mut deep = CheckOptions::default();
    deep.deep = true;
    must(what, store.check(&deep));
    must(what, store.list_images());
    must(what, store.images());
    must(what, store.usage(&plywood::UsageOptions::with_containers()));
    must(what, store.info());
    must(what, store.settle());
    must(what, store.containers());
    must(what, store.prune(&plywood::PruneOptions::images(plywood::PruneImages::Dangling)));
    must(what, store.gc(&GcOptions::default()));
}

fn strangers(store: &Store, what: &str) -> BTreeSet<PathBuf> {
    let told = must(what, store.check(&CheckOptions::default()));
    let told: BTreeSet<_> = told
        .damages
        .iter()
        .filter(|damage| damage.kind() == "stranger")
        .map(|damage| PathBuf::from(damage.subject()))
        .collect();
    let report = must(what, store.gc(&GcOptions::dry_run()));
    assert_eq!(report.strangers.into_iter().collect::<BTreeSet<_>>(), told, "{what}");
    // What was put aside is told as well.
    let place = |path: &PathBuf| path.to_str().unwrap().split(".aside-").next().unwrap().into();
    told.iter().map(place).collect()
}

#[test]
fn what_has_a_name_as_the_store_gives_it_and_is_of_another_kind_is_told_and_stays() {
    let hex = sha256(b"nothing");
    let directories = [
        "reserve".to_owned(),
        format!("layers/sha256-{hex}"),
        format!("layers/chain-sha256-{hex}"),
        "layers/replaced-0123456789abcdef0123456789abcdef".to_owned(),
        format!("containers/{hex}"),
        format!("views/{hex}"),
        "oci/blobs/sha512".to_owned(),
    ];
    let files = [
        format!("oci/blobs/sha256/{hex}"),
        "names/someone".to_owned(),
        format!("locks/layer-sha256-{hex}"),
        format!("locks/container-{hex}"),
        format!("locks/view-{hex}"),
    ];
    // Whatever it is.
    let beside = ["locks/my-notes", "locks/layer-notes", "names/.hidden", "views/x", "containers/x", "notes"];
    for kind in KINDS {
        let (world, outside, root) = scene();
        let what = format!("{kind:?}");
        must(&what, world.store.gc(&GcOptions::default()));
        for kept in ["reserve/lock", "reserve/space", "reserve", "oci/blobs/sha512"]
            .map(|name| world.path().join(name))
        {
            match kept.is_dir() {
                true => fs::remove_dir(kept).unwrap(),
                false => fs::remove_file(kept).unwrap(),
            }
        }
        let directories = directories.iter().filter(|_| kind != Strange::Directory);
        let files = files.iter().filter(|_| kind != Strange::File);
        let places: BTreeSet<PathBuf> = (directories.chain(files).map(String::as_str).chain(beside))
            .map(|place| world.path().join(place))
            .collect();
        for place in &places {
            kind.put(place, &outside);
        }
        for store in [&world.store, &world.again()] {
            assert_eq!(strangers(store, &what), places, "{what}");
            use_it(store, &what);
            let report = must(&what, store.repair(&RepairOptions::default()));
            assert!(report.is_whole(), "{what}: {report:?}");
        }
        // What is made goes on being made, and what is not there is not found.
        let other = world.load_image(&spec("two"));
        let container = must(&what, world.store.create_container(&other, &CreateOptions::default()));
        assert_eq!(world.store.container("someone").unwrap_err().kind(), "not-found");
        assert_eq!(world.store.container(&hex[..20]).unwrap_err().kind(), "not-found");
        drop(container);
        must(&what, world.store.create_container(&other, &CreateOptions::named("someone")));
        assert_eq!(
            export(&world.store.container("someone").unwrap()),
            export(&world.store.container("someone").unwrap())
        );
        assert_eq!(export(&world.store.container("web").unwrap()), root);
        use_it(&world.store, &what);
        for place in &places {
            assert!(kind.is_kept(place), "{what}: {place:?}");
        }
        assert!(outside.join("mine").exists());
    }
}

/// The first name in a directory of the store that `is_meant`.
fn one_in(world: &World, dir: &str, is_meant: impl Fn(&str) -> bool) -> String {
    let name = names_in(&world.path().join(dir)).into_iter().find(|name| is_meant(name)).unwrap();
    format!("{dir}/{name}")
}

#[test]
fn what_stands_in_the_place_of_something_needed_is_put_aside_and_that_is_made_again() {
    let places = ["free layer", "bound layer", "manifest", "config", "layer blob", "name", "container"];
    for (number, place) in places.into_iter().enumerate() {
        for kind in some_kinds(number) {
            let (world, outside, root) = scene();
            let what = format!("{kind:?} for {place}");
            let image = world.store.image("one:1").unwrap();
            let blob = |digest: plywood::Digest| format!("oci/blobs/sha256/{}", digest.hex());
            let (path, belongs) = match place {
                "free layer" => {
                    (one_in(&world, "layers", |name| name.starts_with("sha256")), Strange::Directory)
                }
                "bound layer" => {
                    (one_in(&world, "layers", |name| name.starts_with("chain")), Strange::Directory)
                }
                "manifest" => (blob(image.digest()), Strange::File),
                "config" => (blob(image.id()), Strange::File),
                "layer blob" => (blob(image.manifest().layers[0].digest), Strange::File),
                "name" => ("names/web".to_owned(), Strange::File),
                _ => (one_in(&world, "containers", |_| true), Strange::Directory),
            };
            if kind == belongs {
                continue;
            }
            let path = world.path().join(path);
            fs::rename(&path, world.beside("away")).unwrap();
            kind.put(&path, &outside);
            let store = world.again();
            let told = must(&what, store.check(&CheckOptions::default())).damages;
            let told: Vec<_> = told.iter().map(ToString::to_string).collect();
            assert!(told.iter().any(|told| told.contains(path.to_str().unwrap())), "{what}: {told:?}");
            match (place, store.gc(&GcOptions::default())) {
                ("manifest" | "config", Err(error)) => assert_eq!(error.kind(), "missing-blob", "{what}"),
                ("manifest" | "config", Ok(_)) => panic!("{what}: nobody knows what is needed"),
                (_, collected) => drop(must(&what, collected)),
            }
            must(&what, store.list_images());
            must(&what, store.containers());
            must(&what, store.usage(&plywood::UsageOptions::default()));
            must(&what, store.repair(&RepairOptions::dry_run()));
            must(&what, store.repair(&RepairOptions::default()));
            let archive = Layout::of(&spec("one")).oci_archive();
            let image = must(&what, store.load(&archive[..], &LoadOptions::default())).remove(0).image;
            let options = CreateOptions::named("new");
            export(&must(&what, store.create_container(&image, &options)));
            if place == "container" {
                // It is gone, as if it had been removed; only what is in its place is not.
                assert_eq!(store.container("web").unwrap_err().kind(), "not-found", "{what}");
                must(&what, store.create_container(&image, &CreateOptions::named("web")));
            } else {
                assert_eq!(export(&must(&what, store.container("web"))), root, "{what}");
            }
            use_it(&store, &what);
            assert!(kind.is_kept(&path), "{what}");
            assert!(outside.join("mine").exists());
        }
    }
}

#[test]
fn what_stands_in_the_place_of_the_frame_is_named_and_a_repair_puts_it_aside() {
    let frame = [
        "store.json",
        "oci/oci-layout",
        "oci/index.json",
        "locks/gc",
        "locks/index",
        "names",
        "views",
        "cache",
        "staging",
        "locks",
        "oci/blobs",
    ];
    for (number, place) in frame.into_iter().enumerate() {
        for kind in some_kinds(number) {
            let (world, outside, _) = scene();
            let what = format!("{kind:?} for {place}");
            let path = world.path().join(place);
            let belongs = if path.is_dir() { Strange::Directory } else { Strange::File };
            // A lock can be had on a pipe as well.
            if kind == belongs || (place.starts_with("locks/") && kind == Strange::Fifo) {
                continue;
            }
            if path.exists() {
                fs::rename(&path, world.beside("away")).unwrap();
            }
            kind.put(&path, &outside);
            // Whatever needs it says so; nothing is lost by trying.
            let used = options().open(world.path()).and_then(|store| {
                store.gc(&GcOptions::default())?;
                store.list_images()?;
                store.load(&Layout::of(&spec("two")).oci_archive()[..], &LoadOptions::default())
            });
            match used {
                Err(error) => {
                    let name = place.rsplit('/').next().unwrap();
                    assert!(chain(&error).contains(name), "{what}: {}", chain(&error));
                }
                Ok(_) => assert_eq!(place, "cache", "{what}"),
            }
            assert!(kind.is_kept(&path), "{what}");
            let repair = |how: &RepairOptions<'_>| must(&what, options().repair(world.path(), how));
            repair(&RepairOptions::dry_run());
            assert!(kind.is_at(&path), "{what}: a dry run");
            assert!(!repair(&RepairOptions::default()).repaired.is_empty(), "{what}");
            let store = must(&what, options().open(world.path()));
            use_it(&store, &what);
            let archive = Layout::of(&spec("one")).oci_archive();
            let image = must(&what, store.load(&archive[..], &LoadOptions::default())).remove(0).image;
            export(&must(&what, store.create_container(&image, &CreateOptions::default())));
            assert!(kind.is_kept(&path), "{what}");
        }
    }
}
