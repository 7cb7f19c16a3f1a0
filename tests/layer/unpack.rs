//! Layers become directories: what is in the tar is on the disk, what is deleted is gone, and nothing else changes.

use std::os::unix::fs::MetadataExt;
use std::path::Path;

use plywood::fs::Dir;
use plywood::layer::{Abilities, LayerError, LayerKey, UnpackError, UnpackOptions, unpack, unpack_layer};

use crate::common::privilege::{self, Privilege};
use crate::common::tar::{Entry, SparseDialect, Tar, tar, tar_of};
use crate::common::tree::{Kind, Tree, snapshot};
use crate::common::{self, is_real_root, kernel, skip};
use crate::lab::{chain, diff_id, lab, meant, seen};

/// Unpacks alone.
fn unpack_into(dir: &Path, tar: &[u8]) -> Result<plywood::layer::Unpacked, UnpackError> {
    let into = Dir::ensure_ambient(dir).unwrap();
    let abilities = Abilities::probe(&into).unwrap();
    unpack(tar, &into, None, abilities, &UnpackOptions::default())
}

fn everything() -> Tar {
    tar()
        .dir("./")
        .mode(0o750)
        .mtime(3, 4)
        .dir("etc/")
        .owner(5, 6)
        .mode(0o2755)
        .mtime(-1, 500_000_000)
        .xattr("user.dir", "d")
        .file("etc/passwd", "root")
        .mode(0o4755)
        .mtime(1, 123_456_789)
        .xattr("user.note", b"a=b\nc\0d")
        .file("etc/secret", "x")
        .mode(0)
        .owner(7, 0)
        .file("etc/read-only", "x")
        .mode(0o444)
        .xattr("user.kept", "1")
        .file("etc/open", "")
        .mode(0o1666)
        .symlink("etc/link", "../elsewhere")
        .link("etc/shadow", "etc/passwd")
        .link("etc/link2", "etc/link")
        .fifo("pipe")
        .mode(0o600)
        .dir("locked")
        .mode(0)
        .file("locked/in", "side")
        .file("big", vec![7; 700_000])
}

#[test]
fn a_layer_is_on_disk_what_gnu_tar_makes_of_it() {
    if !is_real_root() {
        return skip("needs root in the initial user namespace");
    }
    let dir = common::scratch();
    let layer = everything()
        .char_device("null", 1, 3)
        .block_device("disk", 259, 300)
        .owner(3, 4)
        .sparse("sparse", 1_000_000, &[(8192, &[1; 4096]), (400_000, &[2; 100])], SparseDialect::Pax10)
        .file("caps", "x")
        .xattr("security.capability", b"\x01\0\0\x02\0\x20\0\0\0\0\0\0\0\0\0\0\0\0\0\0")
        .finish();
    std::fs::write(dir.path().join("tar"), &layer).unwrap();
    for name in ["gnu", "plywood"] {
        std::fs::create_dir(dir.path().join(name)).unwrap();
    }
    kernel::untar(&dir.path().join("tar"), &dir.path().join("gnu"));
    let unpacked = unpack_into(&dir.path().join("plywood"), &layer).unwrap();
    assert!(unpacked.implied.is_empty() && unpacked.declares_root && unpacked.losses.count == 0);
    snapshot(dir.path().join("plywood"))
        .assert_same(&snapshot(dir.path().join("gnu")), "plywood beside GNU tar");
}

#[test]
fn whatever_the_privilege_a_layer_reads_back_as_it_was_meant() {
    privilege::under(privilege::ALL, |privilege| {
        let lab = lab();
        let layers = [
            everything().char_device("null", 1, 3),
            tar().whiteout("etc/passwd").file("etc/new/file", "new").opaque("locked").dir("etc").mode(0o700),
        ];
        let limited = matches!(privilege, Privilege::SingleId | Privilege::Plain);
        // A symlink and a fifo can carry no record of an owner that could not be given to them.
        let forget = |tree: Tree| {
            tree.map(|_, node| {
                if limited && matches!(node.kind, Kind::Symlink(_)) {
                    (node.uid, node.gid) = (0, 0);
                }
                if limited && node.kind == Kind::Fifo {
                    (node.uid, node.gid) = (0, 0);
                }
            })
        };
        for count in 1..=layers.len() {
            let found = forget(lab.root(&layers[..count]));
            found.assert_same(&forget(meant(&layers[..count])), &format!("{count} layers as {privilege:?}"));
        }
        lab.assert_clean();
    });
}

#[test]
fn the_kernel_shows_the_layers_as_the_model_does() {
    if !is_real_root() {
        return skip("needs root in the initial user namespace");
    }
    let layers = [
        everything(),
        tar().whiteout("etc/passwd").file("etc/new/file", "new").opaque("locked").whiteout("nothing/there"),
        tar().dir("locked").file("locked/again", "").whiteout("etc").file("etc/x", "").whiteout("etc/y"),
    ];
    privilege::under(&[Privilege::Root], |_| {
        let lab = lab();
        let tars: Vec<_> = layers.iter().map(|layer| layer.clone().finish()).collect();
        let made = lab.ensure(&tars);
        let path = |name: &str| lab.scratch.path().join(name);
        for name in ["upper", "work", "merged"] {
            std::fs::create_dir(path(name)).unwrap();
        }
        let trees: Vec<_> = made
            .iter()
            .rev()
            .map(|layer| format!("{}/{}/tree", path("layers").display(), layer.key))
            .collect();
        let options = format!(
            "lowerdir={},upperdir={},workdir={},index=off,metacopy=off,redirect_dir=nofollow",
            trees.join(":"),
            path("upper").display(),
            path("work").display()
        );
        common::run_command(
            std::process::Command::new("mount")
                .env("LIBMOUNT_FORCE_MOUNT2", "always")
                .args(["-t", "overlay", "overlay", "-o", &options])
                .arg(path("merged")),
        );
        // The root of a mount is that of its upper directory.
        let found = snapshot(path("merged")).without_root().without_holes();
        // The marks for mounts in user namespaces are ordinary attributes to this one.
        let found = found.without_xattrs(|name| name.starts_with(b"user.overlay."));
        found.assert_same(&meant(&layers).without_root(), "the kernel's view");
        common::run("umount", [path("merged")]);
    });
}

/// Every order of some entries gives the same root on every base.
#[track_caller]
pub fn in_every_order(base: &Tar, top: &Tar) {
    let entries = top.entries();
    let lab = lab();
    let expected = meant(&[base.clone(), top.clone()]);
    let mut orders = vec![Vec::new()];
    for entry in entries {
        orders = orders
            .iter()
            .flat_map(|order: &Vec<Entry>| {
                let entry = entry.clone();
                (0..=order.len()).map(move |at| {
                    let mut order = order.clone();
                    order.insert(at, entry.clone());
                    order
                })
            })
            .collect();
    }
    for order in orders {
        let names: Vec<_> = order.iter().map(|entry| String::from_utf8_lossy(&entry.name)).collect();
        let what = format!("{names:?}");
        let made = lab.ensure(&[base.clone().finish(), tar_of(&order)]);
        seen(&made).assert_same(&expected, &what);
    }
    lab.assert_clean();
}

pub fn base() -> Tar {
    tar()
        .dir("")
        .mode(0o711)
        .dir("d")
        .mode(0o700)
        .mtime(9, 9)
        .xattr("user.d", "1")
        .file("d/a", "a")
        .file("d/b", "b")
        .dir("d/e")
        .mode(0o711)
        .file("d/e/f", "f")
        .file("file", "file")
        .dir("usr")
        .dir("usr/lib")
        .mode(0o750)
        .file("usr/lib/old", "old")
        .symlink("lib", "usr/lib")
}

#[test]
fn a_whiteout_acts_on_lower_layers_only_whatever_the_order() {
    in_every_order(&base(), &tar().whiteout("d/a").file("d/a", "new").whiteout("d/b").whiteout("nothing"));
    in_every_order(&base(), &tar().whiteout("d").file("d/x", "new").whiteout("d/a"));
    in_every_order(&base(), &tar().whiteout("d").whiteout("d/e").whiteout("d/e/f"));
    in_every_order(&base(), &tar().whiteout("file").file("file/x", "").whiteout("file/y"));
}

#[test]
fn an_opaque_directory_hides_what_is_below_and_keeps_itself_whatever_the_order() {
    in_every_order(&base(), &tar().opaque("d").file("d/x", "").whiteout("d/a"));
    in_every_order(&base(), &tar().opaque("d").dir("d").mode(0o755).file("d/e/x", ""));
    in_every_order(&base(), &tar().opaque("").file("d/x", "").whiteout("d/a"));
    in_every_order(&base(), &tar().opaque("new").file("new/x", ""));
    in_every_order(&base(), &tar().opaque("d").opaque("d/e").whiteout("d/e/f"));
}

#[test]
fn an_implied_directory_is_what_it_is_below_and_a_declared_one_is_not() {
    in_every_order(&base(), &tar().file("d/e/x", "").whiteout("d/a"));
    in_every_order(&base(), &tar().file("d/e/x", "").dir("d").mode(0o1777).file("q/r/s", ""));
    in_every_order(&base(), &tar().file("d/x", "").dir("d/e").xattr("user.new", "1"));
}

#[test]
fn an_entry_behind_a_link_of_a_lower_layer_is_written_through_it_inside_the_root() {
    in_every_order(&base(), &tar().file("lib/new", "").whiteout("lib/old"));
    in_every_order(&base(), &tar().opaque("lib").file("usr/lib/x", ""));
    in_every_order(&base().symlink("up", "../../usr/../usr"), &tar().file("up/lib/x", "").dir("up/new"));
    in_every_order(&base(), &tar().whiteout("lib").file("lib/mine", ""));
    in_every_order(&base().symlink("chain", "/lib"), &tar().file("chain/x", "").file("chain/y/z", ""));
    in_every_order(&base().symlink("nowhere", "not/there"), &tar().file("nowhere/x", ""));
}

#[test]
fn a_directory_takes_the_place_of_a_lower_file_or_link() {
    in_every_order(&base(), &tar().file("file/x", ""));
    in_every_order(&base(), &tar().dir("lib").dir("lib/x"));
}

#[test]
fn a_link_to_a_file_below_takes_it_into_its_own_layer() {
    let base = base().link("d/a2", "d/a").symlink("d/s", "a");
    for top in [
        tar().link("x", "d/a").link("y", "d/a"),
        tar().link("x", "d/a").link("y", "d/a2"),
        tar().link("x", "d/s"),
        tar().link("x", "lib/old").file("z", ""),
        tar().link("z", "d/b").link("y", "z").link("x", "y"),
        tar().link("d/a", "d/b").file("d/x", ""),
        tar().link("new/dir/x", "d/e/f").dir("new").mode(0o711),
    ] {
        in_every_order(&base, &top);
    }
}

#[test]
fn a_link_that_came_before_its_target_was_replaced_has_the_file_that_was_there() {
    let lab = lab();
    for top in [
        tar().link("x", "d/a").file("d", "now a file"),
        tar().link("x", "d/a").dir("d/a"),
        tar().link("x", "d/a").link("y", "d/a").file("d/a/b", ""),
        tar().link("x", "d/e/f").symlink("d", "usr"),
    ] {
        let layers = [base(), top];
        lab.root(&layers).assert_same(&meant(&layers), "a link to what is gone");
    }
}

#[test]
fn a_link_finds_its_target_in_its_own_layer_wherever_it_stands() {
    in_every_order(&base(), &tar().file("x", "1").link("y", "x").link("z", "y"));
    in_every_order(&base(), &tar().symlink("s", "x").link("t", "s"));
    in_every_order(&base(), &tar().file("d/new", "1").link("y", "d/new").whiteout("d/a"));
}

#[test]
fn bodies_that_aufs_kept_aside_are_found_by_links_only() {
    let lab = lab();
    let layer = tar()
        .file(".wh..wh.plnk/1.2", "x")
        .mode(0o640)
        .file(".wh..wh.aufs", "")
        .dir(".wh..wh.orph")
        .link("a", ".wh..wh.plnk/1.2")
        .link("b", "a");
    let tree = lab.root(std::slice::from_ref(&layer));
    tree.assert_same(&meant(&[layer]), "AUFS");
    assert_eq!(tree.names(), ["a", "b"]);
}

#[test]
fn the_last_of_two_entries_of_one_name_wins() {
    let lab = lab();
    for layer in [
        tar().file("a", "1").file("a", "2").mode(0o600),
        tar().dir("a").xattr("user.old", "1").file("a/kept", "").dir("a").mode(0o700).xattr("user.new", ""),
        tar().dir("a").dir("a/b").file("a/b/c", "").file("a", "file"),
        tar().file("a", "file").dir("a").file("a/b", ""),
        tar().file("a", "file").file("a/b", ""),
        tar().symlink("a", "b").dir("a").file("a/c", ""),
        tar().file("x", "1").link("a", "x").file("a", "2").link("b", "x"),
        tar().file("a", "1").link("b", "a").file("a", "2").link("c", "a"),
        tar().file("a", "1").file("x", "2").link("a", "x"),
        tar().file("a", "1").link("b", "a").link("b", "a"),
        tar().fifo("a").symlink("a", "x").fifo("a"),
        tar().dir("d").file("d/f", "").dir("t").symlink("d", "t").file("d/g", "in t"),
    ] {
        let what = format!(
            "{:?}",
            layer.entries().iter().map(|e| String::from_utf8_lossy(&e.name).into_owned()).collect::<Vec<_>>()
        );
        for lower in [None, Some(base().dir("a").file("a/below", ""))] {
            let layers: Vec<_> = lower.into_iter().chain([layer.clone()]).collect();
            lab.root(&layers).assert_same(&meant(&layers), &what);
        }
    }
}

#[test]
fn within_a_layer_a_link_on_the_way_resolves_inside_the_root() {
    let lab = lab();
    for layer in [
        tar().dir("real").symlink("door", "real").file("door/x", ""),
        tar().symlink("door", "/not/yet/../there").file("door/x", ""),
        tar().symlink("door", "../../../..").file("door/etc/x", ""),
        tar().symlink("a", "b").symlink("b", "c").dir("c").file("a/x", "").link("l", "a/x"),
        tar().dir("d").symlink("d/up", "..").file("d/up/d/up/x", "").whiteout("d/up/gone"),
    ] {
        let tree = lab.root(std::slice::from_ref(&layer));
        tree.assert_same(&meant(&[layer]), "links on the way");
    }
}

#[test]
fn a_deletion_below_what_is_no_directory_any_more_deletes_nothing_else() {
    let base =
        || tar().dir("data").file("data/file", "").dir("data/dir").dir("etc").file("etc/file", "innocent");
    // umoci 0.4.7 writes such layers, in this order.
    for top in [
        tar().file("data", "now a file").whiteout("data/file").whiteout("data/dir/deeper"),
        tar().symlink("data", "etc").whiteout("data/file").whiteout("data/dir/file"),
        tar().symlink("data", "/etc").whiteout("data/file"),
        tar().fifo("data").whiteout("data/dir"),
    ] {
        in_every_order(&base(), &top);
    }
    let linked = tar().link("data", "etc/other").whiteout("data/file").dir("etc").file("etc/other", "linked");
    let layers = [base(), linked];
    lab().root(&layers).assert_same(&meant(&layers), "a link to a later file");
}

fn refusal(tar: &[u8]) -> UnpackError {
    let lab = lab();
    let error = lab.try_ensure(&[tar.to_vec()]).unwrap_err();
    lab.assert_clean();
    assert!(lab.store.list().unwrap().is_empty());
    match error {
        LayerError::Unpack { source, .. } => source,
        other => panic!("{}", chain(&other)),
    }
}

#[test]
fn what_cannot_be_meant_is_refused_by_name() {
    let reason = |tar: Tar| chain(&refusal(&tar.finish()));
    for (tar, part) in [
        (tar().link("a", "a"), "entry 0 (/a) is a hard link to /a, which is the link itself"),
        (tar().file("a", "").link("a", "a"), "which is the link itself"),
        (tar().link("a", "b"), "entry 0 (/a) is a hard link to /b, which does not exist"),
        (tar().link("a", "b").link("b", "c").link("c", "a"), "is a circle of links"),
        (tar().dir("d").link("a", "d"), "which is a directory"),
        (tar().link("a", "/"), "invalid link target"),
        (tar().dir("d").file("d/f", "").link("d", "d/f"), "lies below the link itself"),
        (tar().char_device("null", 0, 0), "entry 0 (/null) is a character device 0:0"),
        (tar().symlink("a", "b").symlink("b", "a").file("a/x", ""), "too many symbolic links"),
        (tar().file("x/../../y", ""), ".."),
        (tar().link("x", "../y"), ".."),
        (tar().whiteout("../y"), ".."),
        (tar().file(".wh.", ""), ".wh."),
        (tar().symlink("./", "x"), "root"),
    ] {
        let found = reason(tar);
        assert!(found.contains(part), "{found:?} should say {part:?}");
    }
}

#[test]
fn nothing_ever_leaves_the_layer() {
    let host = common::scratch();
    let victim = host.path().join("victim");
    std::fs::write(&victim, "host").unwrap();
    std::fs::create_dir(host.path().join("empty")).unwrap();
    let absolute = victim.to_str().unwrap();
    let outside = host.path().to_str().unwrap();
    for (number, tar) in [
        tar().symlink("door", "..").file("door/victim", "guest"),
        tar().symlink("door", "../..").file("door/victim", "guest").file("door/door/victim", "guest"),
        tar().symlink("door", outside).file("door/victim", "guest"),
        tar().symlink("door", outside).whiteout("door/victim").opaque("door"),
        tar().link("mine", absolute).file("mine", "guest"),
        tar().symlink("door", outside).link("mine", "door/victim"),
        tar().symlink("mine", absolute).file("mine", "guest"),
        tar().symlink("mine", absolute).mode(0o600).owner(1, 1).link("again", "mine"),
        tar().file("../victim", "guest"),
        tar().file("a/../../victim", "guest"),
        tar().link("mine", "../victim"),
        tar().file(absolute, "guest"),
        tar().symlink("d", outside).dir("d").file("d/victim", "guest"),
        tar().dir("d").symlink("d", outside).file("d/victim", "guest"),
        tar().symlink("d", "..").dir("d/empty").mode(0o700).opaque("d/empty"),
        tar().symlink("proc", "/proc/self/root").file(format!("proc{absolute}"), "guest"),
        tar().symlink("./", "/").file("victim", "guest"),
    ]
    .into_iter()
    .enumerate()
    {
        // Refused or contained: what is outside stays as it was.
        drop(unpack_into(&host.path().join(number.to_string()).join("layer"), &tar.finish()));
        assert_eq!(std::fs::read(&victim).unwrap(), b"host", "{number}");
        let names = std::fs::read_dir(host.path()).unwrap().count();
        assert_eq!(names, number + 3, "{number}");
        let victim = std::fs::metadata(&victim).unwrap();
        assert_eq!((victim.nlink(), victim.mode() & 0o777), (1, 0o644), "{number}");
        assert_eq!(std::fs::read_dir(host.path().join("empty")).unwrap().count(), 0, "{number}");
        assert_eq!(std::fs::metadata(host.path().join("empty")).unwrap().mode() & 0o777, 0o755, "{number}");
    }
}

#[test]
fn the_directory_and_the_umask_leave_no_trace() {
    privilege::under(&[Privilege::Root, Privilege::Plain], |privilege| {
        let plain = common::scratch();
        let odd = common::scratch();
        let layer =
            everything().file("shared", "").mode(0o666).dir("all").mode(0o777).file("all/x", "").mode(0o775);
        let layer = layer.finish();
        unpack_into(&plain.path().join("layer"), &layer).unwrap();
        let into = odd.path().join("layer");
        std::fs::create_dir(&into).unwrap();
        if privilege == Privilege::Root {
            std::os::unix::fs::chown(&into, Some(0), Some(4242)).unwrap();
        }
        rustix::fs::chmod(&into, rustix::fs::Mode::from_raw_mode(0o2777)).unwrap();
        // user::rwx, group::rwx, other::rwx, as a default ACL.
        let mut acl = 2_u32.to_le_bytes().to_vec();
        for tag in [1_u16, 4, 32] {
            acl.extend(tag.to_le_bytes());
            acl.extend(7_u16.to_le_bytes());
            acl.extend(u32::MAX.to_le_bytes());
        }
        let flags = rustix::fs::XattrFlags::empty();
        rustix::fs::setxattr(&into, "system.posix_acl_default", &acl, flags).unwrap();
        let before = rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o077));
        unpack_into(&into, &layer).unwrap();
        rustix::process::umask(before);
        // As a plain user modes and owners are records, and a group that is not the user's own stays as it was.
        let forget = |tree: Tree| match privilege {
            Privilege::Root => tree,
            _ => tree.without_owners(),
        };
        forget(snapshot(&into))
            .assert_same(&forget(snapshot(plain.path().join("layer"))), "an odd directory");
    });
}

#[test]
fn a_tar_that_is_not_the_layer_is_refused() {
    let dir = common::scratch();
    let into = Dir::ensure_ambient(dir.path().join("layer")).unwrap();
    let abilities = Abilities::probe(&into).unwrap();
    let tar = base().finish();
    let other = diff_id(b"other");
    let error = unpack_layer(&tar[..], other, &into, None, abilities, &UnpackOptions::default()).unwrap_err();
    let UnpackError::DiffIdMismatch { expected, actual, bytes } = error else { panic!("{error}") };
    assert_eq!((expected, actual, bytes), (other, diff_id(&tar), tar.len() as u64));
}

#[test]
fn padding_behind_the_end_counts_for_the_diff_id() {
    let lab = lab();
    let mut tar = base().finish();
    tar.resize(tar.len() + 3_000_000, 0);
    let made = lab.ensure(&[tar.clone()]);
    assert_eq!(made[0].key, LayerKey::Free(diff_id(&tar)));
    assert_eq!(made[0].record.tar_bytes, tar.len() as u64);
}
