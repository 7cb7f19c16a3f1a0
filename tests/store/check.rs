//! A check finds whatever is wrong, names it and those who need it, and changes nothing.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use plywood::driver::DriverKind;
use plywood::store::{CheckOptions, CheckReport, Container, CreateOptions, RemoveImage};

use crate::common::image::{Compression, ImageSpec, image};
use crate::common::privilege::{self, ALL};
use crate::common::tar::tar;
use crate::world::*;

fn check(world: &World, deep: bool) -> CheckReport {
    let mut options = CheckOptions::default();
    options.deep = deep;
    let before = world.state();
    let report = world.store.check(&options).unwrap_or_else(|error| panic!("{}", chain(&error)));
    world.state().assert_same(&before, "after a check");
    report
}

/// What a check says, one line for each damage.
fn said(world: &World, deep: bool) -> Vec<String> {
    check(world, deep).damages.iter().map(ToString::to_string).collect()
}

/// Two images with a common base; the second has a hard link to it, so it is bound to its base.
fn pair() -> [ImageSpec; 2] {
    let base = tar()
        .dir("etc")
        .file("etc/passwd", "root")
        .mode(0o640)
        .xattr("user.note", "note")
        .symlink("link", "etc")
        .file("twice", "linked")
        .link("again", "twice")
        .finish();
    let leaning = tar().link("etc/passwd-too", "etc/passwd").whiteout("link").file("own", vec![7; 10_000]);
    [
        image().compressed(base.clone(), Compression::Gzip).name("docker.io/library/one:1"),
        image()
            .compressed(base, Compression::Gzip)
            .compressed(leaning.finish(), Compression::Zstd)
            .name("docker.io/library/two:1"),
    ]
}

fn world_of_two(kind: DriverKind) -> (World, Container) {
    let world = World::driver(kind);
    let [_, two] = pair().map(|image| world.load_image(&image));
    let container = world.store.create_container(&two, &CreateOptions::named("user")).unwrap();
    (world, container)
}

#[test]
fn nothing_is_wrong_with_a_store_in_use() {
    privilege::under(ALL, |privilege| {
        for &kind in drivers(privilege) {
            let world = World::driver(kind);
            assert_eq!(said(&world, true), Vec::<String>::new());
            let image = world.load_image(&sample());
            pair().iter().for_each(|image| drop(world.load_image(image)));
            let container = world.store.create_container(&image, &CreateOptions::default()).unwrap();
            let mounted = container.mount().unwrap();
            edit(mounted.path());
            let committed = container.commit(&Default::default()).unwrap();
            world.store.create_container(&committed, &CreateOptions::default()).unwrap();
            world.store.remove_image(&committed.digest().to_string(), RemoveImage::Force).unwrap();
            for deep in [false, true] {
                let report = check(&world, deep);
                let said: Vec<_> = report.damages.iter().map(ToString::to_string).collect();
                assert!(said.is_empty(), "{privilege:?}, {kind}, deep {deep}: {said:?}");
                assert_eq!((report.images, report.containers), (4, 2));
                assert_eq!(report.compared, if deep { report.layers } else { 0 }, "{privilege:?}, {kind}");
            }
        }
    });
}

/// Every regular file below `dir`.
fn files(dir: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        let kind = fs::symlink_metadata(&path).unwrap().file_type();
        if kind.is_dir() {
            found.extend(files(&path));
        } else if kind.is_file() {
            found.push(path);
        }
    }
    found.sort();
    found
}

#[test]
fn damage_to_any_file_is_found() {
    let (world, _container) = world_of_two(DriverKind::Copy);
    let documents: Vec<_> = world
        .store
        .images()
        .unwrap()
        .iter()
        .flat_map(|image| [image.digest(), image.id()].map(|digest| digest.hex().to_owned()))
        .collect();
    let all = ["oci/blobs", "layers", "containers"].map(|dir| files(&world.path().join(dir))).concat();
    assert!(all.len() > 15, "{all:?}");
    for file in all {
        let name = file.strip_prefix(world.path()).unwrap().to_str().unwrap();
        if name.ends_with("/layer.json") || name.contains("/root/") {
            // A layer without its record is made again when it is needed; what a container wrote is its own.
            continue;
        }
        let (whole, metadata) = (fs::read(&file).unwrap(), fs::metadata(&file).unwrap());
        let mut flipped = whole.clone();
        *flipped.last_mut().unwrap() ^= 1;
        for (how, bytes) in [("flipped", Some(&flipped[..])), ("cut", Some(&whole[1..])), ("gone", None)] {
            match bytes {
                Some(bytes) => fs::write(&file, bytes).unwrap(),
                None => fs::remove_file(&file).unwrap(),
            }
            fs::File::open(file.parent().unwrap()).unwrap();
            let deep = said(&world, true);
            let subject = name.split('/').find(|part| part.len() > 40).unwrap();
            assert!(deep.iter().any(|line| line.contains(subject)), "{name}, {how}: {deep:?}");
            // Without a look at every byte, what is missing, cut, or has to be read is found all the same.
            let must_be_seen = !name.starts_with("layers/")
                && (how != "flipped" || documents.iter().any(|document| name.ends_with(document)));
            if must_be_seen {
                let quick = said(&world, false);
                assert!(quick.iter().any(|line| line.contains(subject)), "{name}, {how}, quick: {quick:?}");
            }
            let again = fs::File::create(&file).unwrap();
            std::io::Write::write_all(&mut &again, &whole).unwrap();
            again.set_permissions(metadata.permissions()).unwrap();
            again.set_modified(metadata.modified().unwrap()).unwrap();
            for attribute in ["user.note"].iter().filter(|_| name.contains("passwd")) {
                rustix::fs::setxattr(&file, *attribute, b"note", rustix::fs::XattrFlags::empty()).unwrap();
            }
            mend_directory_times(&file);
        }
    }
}

#[test]
fn a_damaged_record_of_a_layer_is_found_and_mended_by_the_next_use_or_a_repair() {
    privilege::under(ALL, |privilege| {
        for by_use in [true, false] {
            let (world, _container) = world_of_two(DriverKind::Copy);
            let layers = world.path().join("layers");
            for key in names_in(&layers) {
                let path = layers.join(&key).join("layer.json");
                let whole = fs::read_to_string(&path).unwrap();
                let mut other: serde_json::Value = serde_json::from_str(&whole).unwrap();
                other["diffId"] = format!("sha256:{}", "0".repeat(64)).into();
                let other_id = other.to_string();
                let tar_bytes = whole.replace("\"tarBytes\": ", "\"tarBytes\": 1");
                let measure = whole.replace("\"names\": ", "\"names\": 1");
                // How, what stands there, and whether a quick check and the next use see it.
                let damages: [(&str, Option<String>, bool); 7] = [
                    ("cut", Some(whole[..whole.len() / 2].to_owned()), true),
                    ("empty", Some(String::new()), true),
                    ("garbage", Some("\0\u{1}garbage".to_owned()), true),
                    ("another type", Some(whole.replace("\"entries\": ", "\"entries\": -")), true),
                    ("another layer", Some(other_id), true),
                    ("names", Some(measure), true),
                    ("length", Some(tar_bytes), false),
                ];
                let is_directory = ("a directory", None, true);
                for (how, bytes, is_quick) in damages.into_iter().chain([is_directory]) {
                    match bytes {
                        Some(bytes) => fs::write(&path, bytes).unwrap(),
                        None => {
                            fs::remove_file(&path).unwrap();
                            fs::create_dir(&path).unwrap();
                        }
                    }
                    let about = format!("{privilege:?}, {key}, {how}");
                    let told = |deep| said(&world, deep).iter().any(|line| line.contains(&key));
                    assert!(told(true), "{about}: {:?}", said(&world, true));
                    assert_eq!(told(false), is_quick, "{about}: {:?}", said(&world, false));
                    let image = world.store.image("two:1").unwrap();
                    let use_it = || {
                        let options = CreateOptions::default();
                        exported(&world.store.create_container(&image, &options).unwrap())
                    };
                    // A record that is wrong and can be used is used until it is repaired.
                    let can_be_used = matches!(how, "names" | "length")
                        || how == "another layer" && key.starts_with("chain");
                    if by_use && !can_be_used {
                        use_it();
                    } else {
                        world.store.repair(&plywood::store::RepairOptions::default()).unwrap();
                    }
                    assert_eq!(said(&world, true), Vec::<String>::new(), "{about}");
                    use_it();
                    let found: serde_json::Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
                    let expected: serde_json::Value = serde_json::from_str(&whole).unwrap();
                    assert_eq!(found["tarBytes"], expected["tarBytes"], "{about}");
                }
            }
        }
    });
}

/// A file that went and came back has changed the time of its directory, which is part of a layer.
fn mend_directory_times(file: &Path) {
    let parent = file.parent().unwrap();
    if parent.components().any(|part| part.as_os_str() == "tree") {
        touch(parent, 1_600_000_000, 0);
    }
}

#[test]
fn what_is_wrong_with_a_layer_is_told_by_name() {
    let (world, container) = world_of_two(DriverKind::Copy);
    let layers = world.path().join("layers");
    let is_base =
        |name: &String| name.starts_with("sha256") && layers.join(name).join("tree/etc/passwd").exists();
    let base = names_in(&layers).into_iter().find(is_base).unwrap();
    let tree = layers.join(&base).join("tree");
    let found = |change: &dyn Fn()| {
        change();
        said(&world, true).join("\n")
    };
    let quick = || check(&world, false).damages.len();
    let passwd = tree.join("etc/passwd");
    let time = fs::metadata(&passwd).unwrap().modified().unwrap();
    let steps: &[(&str, &dyn Fn())] = &[
        ("etc/passwd\" has another mode", &|| {
            fs::set_permissions(&passwd, fs::Permissions::from_mode(0o600)).unwrap();
        }),
        ("etc/passwd\" has another content", &|| {
            fs::set_permissions(&passwd, fs::Permissions::from_mode(0o640)).unwrap();
            fs::write(&passwd, "toor").unwrap();
            fs::File::options().write(true).open(&passwd).unwrap().set_modified(time).unwrap();
        }),
        ("etc/passwd\" has another size", &|| fs::write(&passwd, "longer than it was").unwrap()),
        ("etc/passwd\" is missing", &|| fs::remove_file(&passwd).unwrap()),
        ("etc/extra\" does not belong there", &|| fs::write(tree.join("etc/extra"), "").unwrap()),
        ("link\" leads elsewhere", &|| {
            fs::remove_file(tree.join("link")).unwrap();
            symlink("elsewhere", tree.join("link")).unwrap();
        }),
        ("twice\" is no link to the same file any more", &|| {
            fs::remove_file(tree.join("twice")).unwrap();
            fs::write(tree.join("twice"), "linked").unwrap();
        }),
    ];
    for (number, (expected, change)) in steps.iter().enumerate() {
        let said = found(change);
        // A quick check counts names and lengths.
        assert_eq!(quick(), if number < 2 { 0 } else { 1 }, "{expected}");
        assert!(said.contains(expected) && said.contains(&base), "{expected}: {said}");
        for user in ["image one:1", "image two:1", &format!("container {}", container.name())] {
            assert!(said.contains(user), "{user}: {said}");
        }
    }
}

#[test]
fn what_is_not_the_stores_is_told() {
    let world = World::driver(DriverKind::Copy);
    let strangers = ["notes.txt", "layers/notes", "containers/nobody"];
    for stranger in strangers {
        fs::create_dir(world.path().join(stranger)).unwrap();
    }
    let said = said(&world, false);
    assert_eq!(said.len(), 3);
    for stranger in strangers {
        assert!(
            said.iter().any(|line| line.contains(stranger) && line.contains("does not belong")),
            "{said:?}"
        );
    }
}
