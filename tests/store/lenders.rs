//! Stores that lend their images and layers to another, and are never changed by that.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, lchown};
use std::path::{Path, PathBuf};

use plywood::driver::DriverKind;
use plywood::image::Reference;
use plywood::store::{
    ArchiveFormat, CheckOptions, CommitOptions, Container, CreateOptions, DriverChoice, GcOptions, Image,
    LenderState, LoadOptions, RemoveContainer, RemoveImage, SaveOptions, Store, StoreError, StoreOptions,
};
use serde_json::{Value, json};

use crate::common::image::{ImageSpec, Layout, image};
use crate::common::privilege::{self, ALL, Privilege};
use crate::common::tar::{Tar, tar};
use crate::common::{run, scratch};
use crate::fetching::{Place, fetch};
use crate::world::*;

/// A store with an image, and beside it an empty one that may borrow.
struct Pair {
    temp: tempfile::TempDir,
    lender: Store,
    kind: DriverKind,
}

impl Pair {
    fn new(kind: DriverKind) -> Self {
        Self::of(kind, &sample())
    }

    fn of(kind: DriverKind, image: &ImageSpec) -> Self {
        let temp = scratch();
        let options = options().driver(DriverChoice::Only(kind));
        let lender = options.clone().shared(true).create(temp.path().join("lender")).unwrap();
        load(&lender, Layout::of(image).oci_archive());
        options.create(temp.path().join("own")).unwrap();
        Self { temp, lender, kind }
    }

    fn at(&self, name: &str) -> PathBuf {
        self.temp.path().join(name)
    }

    fn options(&self) -> StoreOptions {
        options().driver(DriverChoice::Only(self.kind))
    }

    /// The borrowing store.
    fn own(&self) -> Store {
        self.borrow_from(&["lender"])
    }

    fn borrow_from(&self, lenders: &[&str]) -> Store {
        let with = |options: StoreOptions, name: &&str| options.additional(self.at(name));
        lenders.iter().fold(self.options(), with).open(self.at("own")).unwrap()
    }

    /// Without any lender.
    fn alone(&self) -> Store {
        self.borrow_from(&[])
    }

    fn layers(&self) -> BTreeSet<String> {
        names_in(&self.at("own/layers"))
    }

    fn blobs(&self) -> BTreeSet<String> {
        names_in(&self.at("own/oci/blobs/sha256"))
    }
}

/// Everything below `root` with its inode and its change time, which every write and every new name of a file sets.
fn touched(root: &Path) -> BTreeMap<PathBuf, (u64, i64, i64, u64)> {
    let mut found = BTreeMap::new();
    let mut open = vec![root.to_owned()];
    while let Some(path) = open.pop() {
        let stat = fs::symlink_metadata(&path).unwrap();
        if stat.is_dir() {
            open.extend(fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()));
        }
        found.insert(path, (stat.ino(), stat.ctime(), stat.ctime_nsec(), stat.nlink()));
    }
    found
}

fn name(text: &str) -> Reference {
    Reference::parse_familiar(text).unwrap()
}

fn one(name: &str, content: &str) -> ImageSpec {
    image()
        .layer(tar().file("base", "base").finish())
        .layer(tar().file("file", content).finish())
        .name(&format!("docker.io/library/{name}:1"))
}

#[track_caller]
fn create(store: &Store, image: &Image, name: &str) -> Container {
    store
        .create_container(image, &CreateOptions::named(name))
        .unwrap_or_else(|error| panic!("{}", chain(&error)))
}

#[test]
fn a_deep_check_compares_what_is_lent_and_names_the_store_that_lends_it() {
    privilege::under(&[Privilege::Root, Privilege::Plain], |privilege| {
        let kind = if privilege == Privilege::Root { DriverKind::Overlay } else { DriverKind::Copy };
        let pair = Pair::of(kind, &one("lent", "content"));
        let own = pair.own();
        let container = create(&own, &own.image("lent:1").unwrap(), "web");
        is_well(&own);
        let layers = pair.at("lender/layers");
        let file = names_in(&layers).into_iter().map(|layer| layers.join(layer).join("tree/base"));
        let file = file.into_iter().find(|file| file.exists()).unwrap();
        fs::write(file, "base?").unwrap();
        let before = touched(&pair.at("lender"));
        let mut options = CheckOptions::default();
        assert_eq!(own.check(&options).unwrap().damages.len(), 0);
        options.deep = true;
        let report = own.check(&options).unwrap();
        let said: Vec<_> = report.damages.iter().map(ToString::to_string).collect();
        assert_eq!(said.len(), 1, "{said:?}");
        for word in [pair.at("lender").to_str().unwrap(), "/base", "container web"] {
            assert!(said[0].contains(word), "{word}: {said:?}");
        }
        // It is nobody's to mend but its owner's.
        let report = own.repair(&Default::default()).unwrap();
        assert!(!report.is_whole() && report.repaired.len() == 1, "{report:?}");
        assert_eq!(report.repaired[0].outcome, plywood::Outcome::Kept);
        assert!(report.repaired[0].message.contains(pair.at("lender").to_str().unwrap()), "{report:?}");
        assert_eq!(touched(&pair.at("lender")), before, "{privilege:?}");
        assert!(pair.lender.repair(&Default::default()).unwrap().is_whole());
        is_well(&own);
        drop(container);
    });
}

#[track_caller]
fn is_well(store: &Store) {
    let mut options = CheckOptions::default();
    options.deep = true;
    let report = store.check(&options).unwrap();
    let damages: Vec<_> = report.damages.iter().map(ToString::to_string).collect();
    assert_eq!(damages, Vec::<String>::new());
}

/// Changes what the record of every layer in `store` says.
fn change_records(store: &Path, change: impl Fn(&mut Value)) {
    for key in names_in(&store.join("layers")) {
        let path = store.join("layers").join(key).join("layer.json");
        let mut record: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
        change(&mut record);
        fs::write(&path, serde_json::to_vec(&record).unwrap()).unwrap();
    }
}

#[test]
fn a_container_on_a_lent_image_is_as_any_other_and_copies_nothing() {
    privilege::under(ALL, |privilege| {
        for &kind in drivers(privilege) {
            let pair = Pair::new(kind);
            let before = touched(&pair.at("lender"));
            let store = pair.own();
            let image = store.image("sample:1").unwrap();
            assert_eq!(image.lent_by(), Some(&*pair.at("lender")));
            let container = create(&store, &image, "web");
            let mounted = container.mount().unwrap_or_else(|error| panic!("{}", chain(&error)));
            seen(mounted.path())
                .assert_same(&shown(sample_tree(), privilege, kind), &format!("{privilege:?}, {kind}"));
            edit(mounted.path());
            mounted.unmount().unwrap();
            assert_eq!(changes(&container), EDITS, "{privilege:?}, {kind}");
            let mut tar = Vec::new();
            container.export(&mut tar, &Default::default()).unwrap();
            let view = store.mount_image(&image);
            if let Ok(view) = view {
                assert!(view.join("bin/su").exists());
                store.gc(&GcOptions::default()).unwrap();
                assert!(view.join("bin/su").exists(), "{privilege:?}, {kind}");
                store.unmount_image(&image).unwrap();
            }
            assert_eq!(pair.layers(), BTreeSet::new(), "{privilege:?}, {kind}");
            assert_eq!(pair.blobs(), BTreeSet::new(), "{privilege:?}, {kind}");
            is_well(&store);
            container.remove(RemoveContainer::Refuse).unwrap();
            assert_eq!(touched(&pair.at("lender")), before, "{privilege:?}, {kind}");
        }
    });
}

#[test]
fn an_image_that_is_committed_on_a_lent_one_needs_no_lender() {
    privilege::under(&[Privilege::Root], |_| {
        let pair = Pair::new(DriverKind::Overlay);
        let before = touched(&pair.at("lender"));
        let store = pair.own();
        let container = create(&store, &store.image("sample:1").unwrap(), "web");
        let mounted = container.mount().unwrap();
        edit(mounted.path());
        mounted.unmount().unwrap();
        let committed = container.commit(&CommitOptions::named(name("mine:1"))).unwrap();
        assert_eq!(committed.lent_by(), None);
        // As if it had been committed where its base is.
        let there = create(&pair.lender, &pair.lender.image("sample:1").unwrap(), "web");
        let mounted = there.mount().unwrap();
        edit(mounted.path());
        mounted.unmount().unwrap();
        assert_eq!(there.commit(&CommitOptions::default()).unwrap().id(), committed.id());
        there.remove(RemoveContainer::Refuse).unwrap();
        let tree = exported(&container);
        container.remove(RemoveContainer::Refuse).unwrap();
        store.gc(&GcOptions::default()).unwrap();

        let alone = pair.alone();
        is_well(&alone);
        let again = create(&alone, &alone.image("mine:1").unwrap(), "again");
        exported(&again).assert_same(&tree, "without the lender");
        let same: Vec<_> = before.keys().filter(|path| path.starts_with(pair.at("lender/layers"))).collect();
        let now = touched(&pair.at("lender"));
        assert!(same.iter().all(|path| now.get(*path) == before.get(*path)));
    });
}

#[test]
fn a_lent_image_with_a_name_of_ones_own_is_ones_own() {
    let pair = Pair::of(DriverKind::Copy, &one("lent", "lent"));
    let store = pair.own();
    let before = touched(&pair.at("lender"));
    let image = store.image("lent:1").unwrap();
    assert_eq!(store.tag(&image, &name("mine:1")).unwrap(), None);
    assert_eq!(store.image("mine:1").unwrap().lent_by(), None);
    assert_eq!(store.image("lent:1").unwrap().lent_by(), Some(&*pair.at("lender")));
    // Of one image that is in both, that of this store counts.
    assert_eq!(store.image(&image.id().to_string()).unwrap().lent_by(), None);
    assert_eq!(store.image(&image.id().hex()[..12]).unwrap().lent_by(), None);
    let alone = pair.alone();
    is_well(&alone);
    let tree = exported(&create(&alone, &alone.image("mine:1").unwrap(), "one"));
    assert_eq!(tree.0.len(), 3);
    assert_eq!(touched(&pair.at("lender")), before);
}

#[test]
fn the_first_store_that_knows_a_name_wins_it() {
    let pair = Pair::of(DriverKind::Copy, &one("a", "of the first"));
    load(&pair.lender, Layout::of(&one("b", "b, of the first")).oci_archive());
    let second = pair.options().create(pair.at("second")).unwrap();
    for (name, content) in [("a", "of the second"), ("b", "b, of the second"), ("c", "c, of the second")] {
        load(&second, Layout::of(&one(name, content)).oci_archive());
    }
    let own = pair.borrow_from(&["lender", "second"]);
    let mine = load(&own, Layout::of(&one("a", "of its own")).oci_archive());
    let of = |name: &str| own.image(name).unwrap();
    assert_eq!(of("a:1").id(), mine.id());
    assert_eq!(of("b:1").id(), pair.lender.image("b:1").unwrap().id());
    assert_eq!(of("c:1").id(), second.image("c:1").unwrap().id());
    let shadowed = pair.lender.image("a:1").unwrap();
    let found = of(&shadowed.id().to_string());
    assert_eq!((found.names(), found.lent_by()), (&[][..], Some(&*pair.at("lender"))));
    assert_eq!(of(&format!("a@{}", mine.digest())).id(), mine.id());
    assert!(own.image("d:1").is_err());
    let listed: Vec<_> = own
        .images()
        .unwrap()
        .iter()
        .map(|image| {
            (
                image.names().iter().map(Reference::familiar).collect::<Vec<_>>().join(" "),
                image.lent_by().map(|path| path.file_name().unwrap().to_str().unwrap().to_owned()),
            )
        })
        .collect();
    let expected = [
        ("a:1", None),
        ("b:1", Some("lender")),
        ("c:1", Some("second")),
        ("", Some("lender")),
        ("", Some("second")),
        ("", Some("second")),
    ];
    let expected = expected.map(|(name, store)| (name.to_owned(), store.map(str::to_owned)));
    let sorted = |mut list: Vec<(String, Option<String>)>| {
        list.sort();
        list
    };
    assert_eq!(sorted(listed), sorted(expected.to_vec()));
    let lenders: Vec<_> = own.lenders().into_iter().map(|lender| (lender.path, lender.state)).collect();
    let usable = |name: &str| (pair.at(name), LenderState::Usable);
    assert_eq!(lenders, [usable("lender"), usable("second")]);
}

#[test]
fn what_is_lent_is_neither_removed_nor_renamed() {
    let pair = Pair::of(DriverKind::Copy, &one("lent", "lent"));
    let store = pair.own();
    for how in [RemoveImage::Refuse, RemoveImage::Force] {
        let error = store.remove_image("lent:1", how).unwrap_err();
        assert!(matches!(&error, StoreError::Lent { store, .. } if *store == pair.at("lender")), "{error}");
        assert_eq!(error.kind(), "lent");
    }
    assert_eq!(store.untag(&name("lent:1")).unwrap_err().kind(), "lent");
    store.image("lent:1").unwrap();
    let mut saved = Vec::new();
    let images = [store.image("lent:1").unwrap()];
    store.save(&images, Default::default(), &mut saved, &Default::default()).unwrap();
    assert_eq!(load(&World::driver(DriverKind::Copy).store, saved).id(), images[0].id());
}

#[test]
fn a_lender_that_cannot_be_written_lends_all_the_same() {
    privilege::under(&[Privilege::Root], |_| {
        let on_loop = |pair: &Pair| {
            let (file, at) = (pair.at("disk"), pair.at("lender"));
            // Only a settled layer is trusted on another file system.
            options().open(&at).unwrap().settle().unwrap();
            let [file, at] = [&file, &at].map(|path| path.to_str().unwrap());
            fs::File::create(file).unwrap().set_len(16 << 20).unwrap();
            run("mke2fs", ["-q", "-F", "-I", "256", "-t", "ext4", file]);
            let copied = "mount -o loop \"$0\" /mnt && cp -a \"$1\"/. /mnt/ && umount /mnt";
            run("sh", ["-c", copied, file, at]);
            fs::remove_dir_all(at).unwrap();
            fs::create_dir(at).unwrap();
            run("mount", ["-o", "loop,ro,noload", file, at]);
        };
        let bound = |pair: &Pair| {
            let at = pair.at("lender");
            run("mount", ["--bind", at.to_str().unwrap(), at.to_str().unwrap()]);
            run("mount", ["-o", "remount,bind,ro", at.to_str().unwrap()]);
        };
        let ways: [&dyn Fn(&Pair); 2] = [&on_loop, &bound];
        for (number, way) in ways.iter().enumerate() {
            for kind in [DriverKind::Overlay, DriverKind::Copy] {
                let pair = Pair::new(kind);
                way(&pair);
                assert!(fs::write(pair.at("lender/x"), "").is_err());
                let store = pair.own();
                let container = create(&store, &store.image("sample:1").unwrap(), "web");
                let mounted = container.mount().unwrap_or_else(|error| panic!("{}", chain(&error)));
                seen(mounted.path())
                    .assert_same(&shown(sample_tree(), Privilege::Root, kind), &format!("{number}, {kind}"));
                mounted.unmount().unwrap();
                assert_eq!(pair.layers(), BTreeSet::new());
                container.commit(&CommitOptions::named(name("mine:1"))).unwrap();
                drop(store);
                run("umount", ["-l", pair.at("lender").to_str().unwrap()]);
                create(&pair.alone(), &pair.alone().image("mine:1").unwrap(), "again");
            }
        }
    });
}

#[test]
fn a_store_of_somebody_else_who_lets_others_read_lends_its_images() {
    privilege::under(&[Privilege::Root], |_| {
        let pair = Pair::new(DriverKind::Copy);
        for name in names_in(&pair.at("lender")).iter().map(String::as_str).chain([""]) {
            let path = pair.at("lender").join(name);
            if path.is_dir() {
                lchown(&path, Some(61_299), Some(61_299)).unwrap();
                fs::set_permissions(&path, fs::Permissions::from_mode(0o555)).unwrap();
            }
        }
        let before = touched(&pair.at("lender"));
        // Root unpacked it, and root may read everything.
        let store = pair.own();
        create(&store, &store.image("sample:1").unwrap(), "web");
        assert_eq!(pair.layers(), BTreeSet::new());
        assert_eq!(touched(&pair.at("lender")), before);
    });
}

#[test]
fn layers_that_somebody_else_unpacked_are_unpacked_once_more() {
    privilege::under(&[Privilege::Root], |_| {
        let pair = Pair::new(DriverKind::Overlay);
        let keys = names_in(&pair.at("lender/layers"));
        for key in &keys {
            // As if it came from a user's namespace, whose root is somebody else here.
            run("chown", ["-R", "61234:61234", pair.at("lender/layers").join(key).to_str().unwrap()]);
        }
        let store = pair.own();
        let container = create(&store, &store.image("sample:1").unwrap(), "web");
        assert_eq!(pair.layers(), keys);
        let mounted = container.mount().unwrap();
        seen(mounted.path())
            .assert_same(&shown(sample_tree(), Privilege::Root, DriverKind::Overlay), "unpacked here");
    });
}

#[test]
fn a_rootless_store_borrows_the_images_of_roots_without_its_layers() {
    const LENDER: &str = "PLYWOOD_TEST_LENDER";
    if let Some(lender) = std::env::var_os(LENDER) {
        let temp = scratch();
        let store = options().additional(&lender).create(temp.path().join("own")).unwrap();
        let [info] = &store.lenders()[..] else { panic!("one lender") };
        assert!(matches!(info.state, LenderState::BlobsOnly { .. }), "{info:?}");
        let container = create(&store, &store.image("sample:1").unwrap(), "web");
        assert_eq!(names_in(&temp.path().join("own/layers")).len(), 3);
        let tree = exported(&container);
        tree.assert_same(&told(sample_tree().without_holes(), Privilege::Plain), "of root's image");
        return;
    }
    privilege::under(&[Privilege::Root], |_| {
        let pair = Pair::new(DriverKind::Copy);
        let before = touched(&pair.at("lender"));
        let home = scratch();
        lchown(home.path(), Some(61_234), Some(61_234)).unwrap();
        let test = "lenders::a_rootless_store_borrows_the_images_of_roots_without_its_layers";
        let words = ["--reuid=61234", "--regid=61234", "--clear-groups"];
        let mut command = std::process::Command::new("setpriv");
        let exe = home.path().join("tests");
        fs::copy(std::env::current_exe().unwrap(), &exe).unwrap();
        command.args(words).arg(exe).args(["--exact", test, "--nocapture"]);
        command.env(LENDER, pair.at("lender")).env("TMPDIR", home.path());
        crate::common::run_command(&mut command);
        assert_eq!(touched(&pair.at("lender")), before);
    });
}

#[test]
fn a_layer_that_is_not_known_to_be_on_disk_is_not_borrowed() {
    let pair = Pair::of(DriverKind::Copy, &one("lent", "lent"));
    change_records(&pair.at("lender"), |record| {
        record["settled"] = json!(false);
        record["boot"] = json!("another");
    });
    let before = touched(&pair.at("lender"));
    let store = pair.own();
    let container = create(&store, &store.image("lent:1").unwrap(), "web");
    assert_eq!(pair.layers(), names_in(&pair.at("lender/layers")));
    assert_eq!(exported(&container).0.len(), 3);
    // It is not this store's image, but its container needs the layers.
    store.gc(&GcOptions::default()).unwrap();
    assert_eq!(pair.layers().len(), 2);
    container.remove(RemoveContainer::Refuse).unwrap();
    store.gc(&GcOptions::default()).unwrap();
    assert_eq!(pair.layers().len(), 0);
    assert_eq!(touched(&pair.at("lender")), before);
}

#[test]
fn a_container_whose_lender_is_away_says_what_it_needs_and_where_that_was_sought() {
    let pair = Pair::of(DriverKind::Copy, &one("lent", "lent"));
    let store = pair.own();
    let container = create(&store, &store.image("lent:1").unwrap(), "web");
    let fails = |store: &Store| {
        let container = store.container("web").unwrap();
        let errors = [
            container.changes().unwrap_err(),
            container.commit(&CommitOptions::default()).unwrap_err(),
            container.clone_as(&CreateOptions::default()).unwrap_err(),
        ];
        for error in &errors {
            assert_eq!(error.kind(), "unavailable", "{}", chain(error));
            assert!(error.to_string().contains("web"), "{}", chain(error));
            assert!(error.to_string().contains(pair.at("own").to_str().unwrap()), "{}", chain(error));
        }
        let report = store.check(&CheckOptions::default()).unwrap();
        let damages: Vec<_> = report.damages.iter().map(ToString::to_string).collect();
        assert!(matches!(&damages[..], [one] if one.contains("needed by container web")), "{damages:?}");
        // All else goes on.
        assert_eq!(store.containers().unwrap().len(), 1);
        store.gc(&GcOptions::default()).unwrap();
        assert!(store.images().unwrap().is_empty());
        errors.map(|error| chain(&error)).concat()
    };
    fails(&pair.alone());

    fs::rename(pair.at("lender"), pair.at("moved")).unwrap();
    let said = fails(&pair.own());
    assert!(said.contains(pair.at("lender").to_str().unwrap()) && said.contains("No such file"), "{said}");

    // It is known by what it is and not by where it was.
    let moved = pair.borrow_from(&["moved"]);
    assert_eq!(moved.container("web").unwrap().changes().unwrap().len(), 0);
    drop((container, moved));
    pair.alone().container("web").unwrap().remove(RemoveContainer::Refuse).unwrap();
}

#[test]
fn what_a_lender_gave_up_is_made_from_its_blob_or_named() {
    let pair = Pair::of(DriverKind::Copy, &one("lent", "lent"));
    let store = pair.own();
    let container = create(&store, &store.image("lent:1").unwrap(), "web");
    let keys = names_in(&pair.at("lender/layers"));
    for key in &keys {
        fs::remove_dir_all(pair.at("lender/layers").join(key)).unwrap();
    }
    assert_eq!(container.changes().unwrap().len(), 0);
    assert_eq!(pair.layers(), keys);

    pair.lender.remove_image("lent:1", RemoveImage::Refuse).unwrap();
    pair.lender.gc(&GcOptions::default()).unwrap();
    // By now nothing of it is there but what this store made.
    assert_eq!(container.changes().unwrap().len(), 0);
    for key in &keys {
        fs::remove_dir_all(pair.at("own/layers").join(key)).unwrap();
    }
    let error = container.changes().unwrap_err();
    assert_eq!(error.kind(), "unavailable", "{}", chain(&error));
    assert_eq!(store.image("lent:1").unwrap_err().kind(), "not-found");
}

#[test]
fn a_store_does_not_lend_to_itself_nor_twice() {
    let pair = Pair::new(DriverKind::Copy);
    let open = |lenders: &[&str]| {
        let with = |options: StoreOptions, name: &&str| options.additional(pair.at(name));
        lenders.iter().fold(pair.options(), with).open(pair.at("own"))
    };
    std::os::unix::fs::symlink("lender", pair.at("link")).unwrap();
    for (lenders, reason) in [
        (&["own"][..], "this store itself"),
        (&["lender", "own"], "this store itself"),
        (&["lender", "lender"], "twice"),
        (&["lender", "link"], "twice"),
    ] {
        let error = open(lenders).unwrap_err();
        assert!(matches!(&error, StoreError::Lender { .. }), "{error}");
        assert!(error.to_string().contains(reason), "{error}");
    }
    open(&["link"]).unwrap().image("sample:1").unwrap();
}

#[test]
fn a_lender_of_an_unknown_format_is_left_alone_and_told() {
    let pair = Pair::of(DriverKind::Copy, &one("lent", "lent"));
    let container = create(&pair.own(), &pair.own().image("lent:1").unwrap(), "web");
    for (format, reason) in [
        (json!({"version": 99}), "version 99"),
        (json!({"version": 1, "features": {"incompatible": ["holograms"]}}), "holograms"),
        (json!("what"), "store.json"),
    ] {
        fs::write(pair.at("lender/store.json"), format.to_string()).unwrap();
        let store = pair.own();
        let [lender] = &store.info().unwrap().lenders[..] else { panic!("one lender") };
        assert!(
            matches!(&lender.state, LenderState::Unusable { reason: said } if said.contains(reason)),
            "{lender:?}"
        );
        assert_eq!(store.image("lent:1").unwrap_err().kind(), "not-found");
        let error = store.container(container.name()).unwrap().changes().unwrap_err();
        assert!(error.to_string().contains(reason), "{error}");
    }
    let readable = json!({"version": 1, "features": {"readOnlyCompatible": ["holograms"]}});
    fs::write(pair.at("lender/store.json"), readable.to_string()).unwrap();
    pair.own().image("lent:1").unwrap();
}

#[test]
fn an_image_that_is_loaded_where_its_layers_are_lent_has_its_own_blobs_and_unpacks_nothing() {
    let pair = Pair::of(DriverKind::Copy, &one("lent", "lent"));
    let store = pair.own();
    let image = load(&store, Layout::of(&one("mine", "lent")).oci_archive());
    assert_eq!((image.lent_by(), pair.layers().len()), (None, 0));
    is_well(&store);
    let container = create(&store, &image, "web");
    assert_eq!(pair.layers().len(), 0);
    // Without the lender, its blobs are enough.
    let alone = pair.alone();
    is_well(&alone);
    assert_eq!(exported(&alone.container(container.name()).unwrap()).0.len(), 3);
    assert_eq!(pair.layers().len(), 2);
}

#[test]
fn an_archive_that_leaves_out_what_is_lent_is_loaded_with_blobs_of_its_own() {
    let base = one("base", "below");
    let mut web = one("web", "below");
    web.layers.push(image().layer(tar().file("above", "above").finish()).layers.remove(0));
    let sender = World::with(&options());
    let (below, all) = (sender.load_image(&base), sender.load_image(&web));
    for format in
        [ArchiveFormat::DockerArchive, ArchiveFormat::OciArchive, ArchiveFormat::ClassicDockerArchive]
    {
        let mut save = SaveOptions::default();
        save.known = sender.store.known(&below, format).unwrap();
        let mut delta = Vec::new();
        sender.store.save(std::slice::from_ref(&all), format, &mut delta, &save).unwrap();
        let pair = Pair::of(DriverKind::Copy, &base);
        let refused = pair.alone().load(&delta[..], &LoadOptions::default()).unwrap_err();
        assert_eq!(refused.kind(), "missing-layers", "{format:?}");
        load(&pair.own(), &delta);
        // Without the lender, too, everything is there.
        let alone = pair.alone();
        is_well(&alone);
        let container = create(&alone, &alone.image("web:1").unwrap(), "web");
        assert_eq!(exported(&container).0.len(), 4, "{format:?}");
    }
}

#[test]
fn what_is_lent_is_not_fetched() {
    let pair = Pair::of(DriverKind::Copy, &one("lent", "lent"));
    let layout = Layout::of(&one("mine", "lent"));
    let place = Place::of(&layout);
    fetch(&pair.own(), &layout, &place).unwrap();
    let asked: Vec<_> = place.asked().into_iter().map(|(digest, _)| digest).collect();
    assert!(layout.images[0].layers.iter().all(|layer| !asked.contains(layer)), "{asked:?}");
    is_well(&pair.alone());
}

#[test]
fn lent_layers_with_the_marks_of_users_are_made_again_for_root() {
    privilege::under(&[Privilege::Root], |_| {
        // Deleted and hidden files come back wherever a mark is missed.
        let upper =
            |number: u32| tar().whiteout("etc/hosts").opaque("opt").file("opt/new", format!("{number}"));
        let base = || layers().remove(0);
        let spec = |tops: &[Tar], name: &str| {
            let stack = [base()].into_iter().chain(tops.iter().cloned());
            stack.fold(image(), |image, layer| image.layer(layer.finish())).name(name)
        };
        let pair = Pair::of(DriverKind::Overlay, &spec(&[upper(1)], "docker.io/library/lent:1"));
        for key in names_in(&pair.at("lender/layers")) {
            let tree = pair.at("lender/layers").join(key).join("tree");
            let find = "find \"$0\" -type d | while read -r f; do for a in opaque origin; do \
                        v=$(getfattr --only-values -n trusted.overlay.$a \"$f\" 2>/dev/null) || continue; \
                        setfattr -x trusted.overlay.$a \"$f\"; setfattr -n user.overlay.$a -v \"$v\" \"$f\"; \
                        done; done; true";
            run("sh", ["-c", find, tree.to_str().unwrap()]);
        }
        change_records(&pair.at("lender"), |record| record["families"] = json!("user"));
        let store = pair.own();
        // A mount of root's obeys other marks than those of the layers that are lent.
        let mixed =
            load(&store, Layout::of(&spec(&[upper(1), upper(2)], "docker.io/library/own:1")).oci_archive());
        assert_eq!(pair.layers().len(), 3);
        for (image, number) in [(store.image("lent:1").unwrap(), "1"), (mixed, "2")] {
            let container = create(&store, &image, &format!("container{number}"));
            let mounted = container.mount().unwrap_or_else(|error| panic!("{}", chain(&error)));
            let root = mounted.path();
            assert!(!root.join("etc/hosts").exists() && root.join("etc/passwd").exists());
            assert_eq!(names_in(&root.join("opt")), BTreeSet::from(["new".to_owned()]));
            assert_eq!(fs::read_to_string(root.join("opt/new")).unwrap(), number);
            fs::remove_dir_all(root.join("usr/share")).unwrap();
            fs::create_dir(root.join("usr/share")).unwrap();
            fs::remove_file(root.join("data")).unwrap();
            mounted.unmount().unwrap();
            let listed = changes(&container);
            assert!(listed.contains(&"D /data".to_owned()), "{listed:?}");
            let committed = container.commit(&CommitOptions::default()).unwrap();
            let again = create(&store, &committed, &format!("again{number}"));
            exported(&again).assert_same(&exported(&container), "committed");
        }
    });
}

/// A layer that does not say what its directory is like.
fn leaning() -> Tar {
    tar().file("dir/file", "leaning")
}

fn base(mode: u32) -> Tar {
    tar().dir("dir").mode(mode)
}

fn leaning_on(mode: u32, name: &str) -> ImageSpec {
    image().layer(base(mode).finish()).layer(leaning().finish()).name(&format!("docker.io/library/{name}:1"))
}

#[test]
fn a_lent_layer_that_leans_on_another_base_is_unpacked_here_and_shares_no_file() {
    let pair = Pair::of(DriverKind::Copy, &leaning_on(0o700, "lent"));
    let before = touched(&pair.at("lender"));
    let store = pair.own();
    let image = load(&store, Layout::of(&leaning_on(0o711, "own")).oci_archive());
    assert_eq!(touched(&pair.at("lender")), before);
    let mode = |container: &Container| exported(container).0[Path::new("dir")].mode;
    assert_eq!(mode(&create(&store, &image, "own")), 0o711);
    assert_eq!(mode(&create(&store, &store.image("lent:1").unwrap(), "lent")), 0o700);
    // The base and the layer that leans on it.
    assert_eq!(pair.layers().len(), 2);
}

#[test]
fn a_container_keeps_its_looks_though_its_layer_was_made_for_another_base_meanwhile() {
    let pair = Pair::of(DriverKind::Copy, &leaning_on(0o700, "lent"));
    let store = pair.own();
    // The base is its own, what leans on it is lent.
    let own_base = load(&store, Layout::of(&leaning_on(0o700, "own")).oci_archive());
    let container = create(&store, &own_base, "web");
    assert_eq!(pair.layers().len(), 0);
    let alone = pair.alone();
    load(&alone, Layout::of(&leaning_on(0o711, "other")).oci_archive());
    let container = alone.container(container.name()).unwrap();
    assert_eq!(exported(&container).0[Path::new("dir")].mode, 0o700);
    let other = create(&alone, &alone.image("other:1").unwrap(), "other");
    assert_eq!(exported(&other).0[Path::new("dir")].mode, 0o711);
    // Both stay what they are with the lender in sight.
    let store = pair.own();
    for (name, mode) in [("web", 0o700), ("other", 0o711)] {
        assert_eq!(exported(&store.container(name).unwrap()).0[Path::new("dir")].mode, mode, "{name}");
    }
}

#[test]
fn lent_layers_that_are_merged_are_copied_for_that() {
    privilege::under(&[Privilege::Root], |_| {
        let layer = |number: usize| {
            let file = format!("file{number}");
            tar().file(&file, format!("{number}")).link(format!("link{number}"), &file).finish()
        };
        let spec = (0..510).fold(image(), |image, number| image.layer(layer(number)));
        let pair = Pair::of(DriverKind::Overlay, &spec.name("docker.io/library/many:1"));
        let before = touched(&pair.at("lender"));
        let store = pair.own();
        let container = create(&store, &store.image("many:1").unwrap(), "web");
        assert_eq!(pair.layers().len(), 1);
        let mounted = container.mount().unwrap();
        assert_eq!(names_in(mounted.path()).len(), 1020);
        let file = |name: &str| fs::metadata(mounted.path().join(name)).unwrap();
        assert_eq!(file("file3").ino(), file("link3").ino());
        assert_eq!(fs::read_to_string(mounted.path().join("link500")).unwrap(), "500");
        mounted.unmount().unwrap();
        assert_eq!(touched(&pair.at("lender")), before);
    });
}
