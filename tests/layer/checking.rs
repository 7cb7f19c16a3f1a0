//! A check compares a layer with its blob while that is read. Its verdict has to be that of unpacking the layer once more
//! and comparing the two trees, for any layer and any damage.

use std::cell::Cell;
use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use plywood::layer::{EnsureOptions, Layer, Verdict, blob_differences, layer_differences};
use proptest::prelude::*;
use proptest::sample::Index;
use proptest::test_runner::{Config, TestRunner};
use rustix::fs::{AtFlags, CWD, Timespec, Timestamps, XattrFlags};

use crate::common::privilege::{self, ALL};
use crate::common::random;
use crate::common::tar::{SparseDialect, Tar, tar, tar_of};
use crate::lab::{Lab, chain, lab, source};

const MOST: usize = 20;

/// What the streaming check says of each of `layers`, lowest first.
fn said(layers: &[Layer], tars: &[Vec<u8>]) -> Vec<Vec<String>> {
    let mut options = EnsureOptions::default();
    options.limits.path_depth = 2048;
    let check = |number: usize| {
        let (layer, tar) = (&layers[number], source(&tars[number]));
        match blob_differences(layer, &tar, Some(&layers[..number]), &options, MOST) {
            Ok(Verdict::Differences(differences)) => differences,
            Ok(other) => panic!("{other:?}"),
            Err(error) => panic!("{}", chain(&error)),
        }
    };
    (0..layers.len()).map(check).collect()
}

/// What comparing with the layers made once more says.
fn oracle(layers: &[Layer], tars: &[Vec<u8>]) -> Vec<Vec<String>> {
    let again = lab();
    let made = again.ensure(tars);
    let pairs = made.iter().zip(layers);
    pairs.map(|(made, found)| layer_differences(made, found, MOST, &|| false).unwrap()).collect()
}

fn trees(lab: &Lab, layers: &[Layer]) -> Vec<PathBuf> {
    let tree = |layer: &Layer| lab.scratch.path().join("layers").join(layer.key.to_string()).join("tree");
    layers.iter().map(tree).collect()
}

fn below(dir: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if fs::symlink_metadata(&path).unwrap().is_dir() {
            below(&path, found);
        }
        found.push(path);
    }
    found.sort();
}

fn is_device_mark(path: &Path) -> bool {
    let metadata = fs::symlink_metadata(path).unwrap();
    metadata.file_type().is_char_device() && metadata.rdev() == 0
}

fn is_mark(path: &Path) -> bool {
    let families = ["user.overlay.whiteout", "trusted.overlay.whiteout"];
    let has = |name: &&str| rustix::fs::lgetxattr(path, *name, &mut [0u8; 16][..]).is_ok();
    is_device_mark(path) || families.iter().any(has)
}

fn set_time(path: &Path, seconds: i64, nanos: i64) {
    let time = Timespec { tv_sec: seconds, tv_nsec: nanos };
    let times = Timestamps { last_access: time, last_modification: time };
    rustix::fs::utimensat(CWD, path, &times, AtFlags::SYMLINK_NOFOLLOW).unwrap();
}

/// Changes something and gives the directory that it is in the time back that it had.
fn quietly(path: &Path, change: impl FnOnce()) {
    let parent = path.parent().unwrap();
    let before = fs::metadata(parent).unwrap();
    change();
    set_time(parent, before.mtime(), before.mtime_nsec());
}

const DAMAGES: &[&str] = &[
    "content",
    "mode",
    "owner",
    "time",
    "attribute",
    "missing",
    "extra",
    "link",
    "deletion",
    "type",
    "shorter",
];

/// Damages something in `tree` in the way `how`; `None` if there is nothing that could be damaged so.
fn damage(tree: &Path, how: &str, index: Index) -> Option<PathBuf> {
    let mut all = Vec::new();
    below(tree, &mut all);
    let kind = |path: &PathBuf| fs::symlink_metadata(path).unwrap();
    let is_file = |path: &PathBuf| kind(path).is_file() && !is_mark(path);
    let suits = |path: &PathBuf| match how {
        "content" | "shorter" => is_file(path) && kind(path).len() > 0,
        "mode" => {
            (is_file(path) || kind(path).is_dir()) && kind(path).uid() == rustix::process::geteuid().as_raw()
        }
        "owner" => !is_mark(path) && rustix::process::geteuid().is_root(),
        "time" | "missing" => !is_mark(path),
        "attribute" => is_file(path) || kind(path).is_dir(),
        "extra" => kind(path).is_dir(),
        "link" => is_file(path) && kind(path).nlink() > 1,
        "deletion" => is_mark(path),
        _ => is_file(path),
    };
    let fitting: Vec<PathBuf> = all.into_iter().filter(suits).collect();
    if fitting.is_empty() {
        return None;
    }
    let path = index.get(&fitting).clone();
    let before = kind(&path);
    let write = |path: &Path, bytes: &[u8]| {
        fs::write(path, bytes).is_ok().then(|| set_time(path, before.mtime(), before.mtime_nsec()))
    };
    match how {
        "content" => {
            let mut bytes = fs::read(&path).ok()?;
            let at = index.index(bytes.len());
            bytes[at] ^= 1;
            write(&path, &bytes)?;
        }
        "shorter" => {
            let bytes = fs::read(&path).ok()?;
            write(&path, &bytes[1..])?;
        }
        "mode" => {
            fs::set_permissions(&path, fs::Permissions::from_mode(before.mode() & 0o7777 ^ 0o001)).unwrap();
        }
        "owner" => std::os::unix::fs::lchown(&path, Some(before.uid()), Some(before.gid() ^ 1)).ok()?,
        "time" => set_time(&path, before.mtime() ^ 1, before.mtime_nsec()),
        "attribute" => rustix::fs::lsetxattr(&path, "user.damage", b"x", XattrFlags::empty()).ok()?,
        "missing" | "deletion" => quietly(&path, || match before.is_dir() {
            true => fs::remove_dir_all(&path).unwrap(),
            false => fs::remove_file(&path).unwrap(),
        }),
        "extra" => {
            let extra = path.join("extra");
            quietly(&extra, || fs::write(&extra, "").unwrap());
        }
        "link" => quietly(&path, || {
            let bytes = fs::read(&path).unwrap();
            fs::remove_file(&path).unwrap();
            fs::write(&path, bytes).unwrap();
            let _ = std::os::unix::fs::chown(&path, Some(before.uid()), Some(before.gid()));
            fs::set_permissions(&path, fs::Permissions::from_mode(before.mode() & 0o7777)).unwrap();
            set_time(&path, before.mtime(), before.mtime_nsec());
        }),
        _ => quietly(&path, || {
            fs::remove_file(&path).unwrap();
            symlink("elsewhere", &path).unwrap();
        }),
    }
    Some(path)
}

/// Compares the verdicts on `tars`, whole and damaged.
fn agree(tars: &[Vec<u8>], how: &str, index: Index, seen: &Cell<usize>) {
    let lab = lab();
    let layers = lab.ensure(tars);
    for (number, differences) in said(&layers, tars).into_iter().enumerate() {
        assert_eq!(differences, Vec::<String>::new(), "layer {number} is as it was made");
    }
    let trees = trees(&lab, &layers);
    let number = index.index(trees.len());
    let Some(path) = damage(&trees[number], how, index) else { return };
    // The lower layers stand for the base of the others only while they are whole.
    let count = number + 1;
    let (expected, found) =
        (oracle(&layers[..count], &tars[..count]), said(&layers[..count], &tars[..count]));
    assert_eq!(
        found[number].is_empty(),
        expected[number].is_empty(),
        "{how} of {path:?}: {found:?}, {expected:?}"
    );
    seen.set(seen.get() + usize::from(!found[number].is_empty()));
}

#[test]
fn the_verdict_is_that_of_unpacking_once_more() {
    privilege::under(ALL, |privilege| {
        let seen = Cell::new(0);
        let config = Config { cases: 60, failure_persistence: None, ..Config::default() };
        let strategy = (random::layers(3), 0..DAMAGES.len(), any::<Index>());
        TestRunner::new(config)
            .run(&strategy, |(layers, how, index)| {
                let tars: Vec<_> = layers.iter().map(|layer| tar_of(layer)).collect();
                // A link to nothing refuses its layer.
                prop_assume!(lab().try_ensure(&tars).is_ok());
                agree(&tars, DAMAGES[how], index, &seen);
                Ok(())
            })
            .unwrap_or_else(|error| panic!("{privilege:?}: {error}"));
        assert!(seen.get() > 10, "{privilege:?}: only {} layers were damaged", seen.get());
    });
}

/// Layers that random ones do not hit upon.
fn odd() -> Vec<(&'static str, Vec<Tar>)> {
    let base = || {
        tar()
            .dir("etc")
            .file("etc/passwd", "root")
            .xattr("user.x", "y")
            .symlink("lib", "usr/lib")
            .dir("usr/lib")
    };
    let acl = [
        &[2, 0, 0, 0][..],
        &[1, 0, 6, 0],
        &[0xff; 4],
        &[2, 0, 4, 0],
        &[7, 0, 0, 0],
        &[4, 0, 4, 0],
        &[0xff; 4],
        &[0x10, 0, 4, 0],
        &[0xff; 4],
        &[0x20, 0, 0, 0],
        &[0xff; 4],
    ]
    .concat();
    let minimal =
        [&[2, 0, 0, 0][..], &[1, 0, 6, 0], &[0; 4], &[4, 0, 4, 0], &[0; 4], &[0x20, 0, 4, 0], &[0; 4]]
            .concat();
    let big: Vec<u8> = (0..300_000u32).map(|number| (number % 251) as u8).collect();
    vec![
        (
            "a name twice, the first with another name",
            vec![
                tar()
                    .file("a", "first")
                    .link("b", "a")
                    .file("a", "second")
                    .symlink("s", "x")
                    .link("t", "s")
                    .symlink("s", "y"),
            ],
        ),
        (
            "a directory in the place of files",
            vec![tar().file("a", "file").link("keep", "a").file("a/b", "inside")],
        ),
        (
            "a file in the place of a directory",
            vec![tar().file("a/b", "inside").link("keep", "a/b").file("a", "file")],
        ),
        (
            "links to later entries and to below",
            vec![
                base(),
                tar()
                    .link("forward", "later")
                    .file("later", "later")
                    .link("below", "etc/passwd")
                    .link("too", "etc/passwd"),
            ],
        ),
        (
            "through a symbolic link below",
            vec![base(), tar().file("lib/libc.so", "libc").whiteout("lib/none")],
        ),
        (
            "zeros and holes",
            vec![
                tar()
                    .file("zeros", vec![0; 1 << 20])
                    .file("mixed", [vec![7; 5000], vec![0; 200_000], vec![1; 100]].concat())
                    .sparse(
                        "sparse",
                        4 << 20,
                        &[(0, &[1; 4096]), (2 << 20, &[2; 8192])],
                        SparseDialect::Pax10,
                    )
                    .file("big", big),
            ],
        ),
        (
            "attributes that the kernel has a form of its own for",
            vec![
                tar()
                    .file("acl", "x")
                    .mode(0o640)
                    .xattr("system.posix_acl_access", acl)
                    .file("minimal", "x")
                    .mode(0o644)
                    .xattr("system.posix_acl_access", minimal)
                    .file("user", "x")
                    .xattr("user.overlay.opaque", "y")
                    .xattr("trusted.overlay.redirect", "/x")
                    .file("selinux", "x")
                    .xattr("security.selinux", "label"),
            ],
        ),
        (
            "times that file systems bound",
            vec![tar().file("old", "x").mtime(-10_000_000_000, 5).file("late", "x").mtime(20_000_000_000, 0)],
        ),
        (
            "attributes where there can be none",
            vec![
                tar().symlink("link", "x").xattr("user.x", "y").fifo("pipe").xattr("user.x", "y").owner(5, 6),
            ],
        ),
    ]
}

#[test]
fn odd_layers_are_whole_as_they_were_unpacked_and_not_when_damaged() {
    privilege::under(ALL, |privilege| {
        for (name, layers) in odd() {
            let tars: Vec<_> = layers.into_iter().map(Tar::finish).collect();
            let lab = lab();
            let made = lab.ensure(&tars);
            let found = said(&made, &tars);
            assert!(found.iter().all(Vec::is_empty), "{privilege:?}, {name}: {found:?}");
            // Each file, damaged by itself.
            let tree = trees(&lab, &made).pop().unwrap();
            let mut all = Vec::new();
            below(&tree, &mut all);
            for path in all {
                let before = fs::symlink_metadata(&path).unwrap();
                if !before.is_file() || before.len() == 0 || is_mark(&path) {
                    continue;
                }
                let Ok(mut file) = fs::File::options().read(true).write(true).open(&path) else { continue };
                use std::io::{Read, Seek, Write};
                file.seek(std::io::SeekFrom::Start(before.len() - 1)).unwrap();
                let mut last = [0];
                file.read_exact(&mut last).unwrap();
                let mut put = |byte: u8| {
                    file.seek(std::io::SeekFrom::Start(before.len() - 1)).unwrap();
                    file.write_all(&[byte]).unwrap();
                    set_time(&path, before.mtime(), before.mtime_nsec());
                };
                put(last[0] ^ 1);
                let found = said(&made, &tars).pop().unwrap();
                assert!(
                    found.iter().any(|line| line.contains("has another content")),
                    "{name}, {path:?}: {found:?}"
                );
                put(last[0]);
            }
            let found = said(&made, &tars);
            assert!(found.iter().all(Vec::is_empty), "{privilege:?}, {name}, put right: {found:?}");
        }
    });
}

/// The number of names that a check takes for too many for one file system.
#[test]
fn names_beyond_the_limit_of_links_may_share_a_second_file() {
    let mut many = tar().file("dir/first", "content").mtime(1, 1);
    for number in 0..32_100 {
        many = many.link(format!("dir/{number}"), "dir/first");
    }
    let tars = vec![many.finish()];
    let lab = lab();
    let layers = lab.ensure(&tars);
    let tree = trees(&lab, &layers).remove(0);
    let dir = tree.join("dir");
    let time = fs::metadata(&dir).unwrap();
    let before = fs::metadata(dir.join("first")).unwrap();
    for (content, is_whole) in [("content", true), ("Content", false)] {
        let second = dir.join("second");
        fs::write(&second, content).unwrap();
        fs::set_permissions(&second, before.permissions()).unwrap();
        set_time(&second, before.mtime(), before.mtime_nsec());
        for name in ["7", "8"] {
            fs::remove_file(dir.join(name)).unwrap();
            fs::hard_link(&second, dir.join(name)).unwrap();
        }
        fs::remove_file(&second).unwrap();
        set_time(&dir, time.mtime(), time.mtime_nsec());
        let found = said(&layers, &tars).remove(0);
        assert_eq!(found.is_empty(), is_whole, "{found:?}");
    }
}
