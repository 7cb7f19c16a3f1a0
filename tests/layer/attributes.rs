//! What belongs to a file beside its content: capabilities, lists of who may do what, marks of other mounts.

use plywood::fs::Dir;
use plywood::layer::{Abilities, UnpackError, UnpackOptions, Unpacked, unpack};

use crate::common::privilege::{self, Privilege};
use crate::common::tar::{Tar, tar};
use crate::common::{self, is_real_root, skip};
use crate::lab::{chain, lab, meant, seen};
use crate::laws::both_ways;

/// `cap_net_raw` permitted and effective, as version 2 and 3 of the attribute have it; the latter only counts in
/// namespaces whose root is this user.
const V2: &[u8] = b"\x01\0\0\x02\0\x20\0\0\0\0\0\0\0\0\0\0\0\0\0\0";
const V3: &[u8] = b"\x01\0\0\x03\0\x20\0\0\0\0\0\0\0\0\0\0\0\0\0\0\xa0\x86\x01\0";

const NONE: u32 = u32::MAX;

/// An access control list as the kernel keeps it.
fn acl(entries: &[(u16, u16, u32)]) -> Vec<u8> {
    let mut value = 2_u32.to_le_bytes().to_vec();
    for (tag, bits, id) in entries {
        value.extend(tag.to_le_bytes());
        value.extend(bits.to_le_bytes());
        value.extend(id.to_le_bytes());
    }
    value
}

fn access() -> Vec<u8> {
    acl(&[(1, 6, NONE), (2, 5, 1000), (4, 4, NONE), (8, 2, 2000), (0x10, 7, NONE), (0x20, 0, NONE)])
}

fn default() -> Vec<u8> {
    acl(&[(1, 7, NONE), (2, 7, 1000), (4, 5, NONE), (0x10, 7, NONE), (0x20, 5, NONE)])
}

fn unpack_alone(layer: &Tar) -> Result<Unpacked, UnpackError> {
    let scratch = common::scratch();
    let into = Dir::ensure_ambient(scratch.path().join("layer")).unwrap();
    let abilities = Abilities::probe(&into).unwrap();
    unpack(&layer.clone().finish()[..], &into, None, abilities, &UnpackOptions::default())
}

#[test]
fn file_capabilities_of_both_versions_are_kept_both_ways() {
    if !is_real_root() {
        return skip("needs root in the initial user namespace");
    }
    let layer = tar()
        .file("v2", "x")
        .mode(0o755)
        .owner(1000, 1000)
        .xattr("security.capability", V2)
        .file("v3", "x")
        .mode(0o755)
        .xattr("security.capability", V3)
        .link("also", "v2");
    let tree = both_ways(std::slice::from_ref(&layer));
    assert_eq!(tree.at("v2").xattrs[&b"security.capability"[..]], V2);
    assert_eq!(tree.at("v3").xattrs[&b"security.capability"[..]], V3);
    both_ways(&[layer.clone(), tar().link("up", "v2").link("up3", "v3")]);
    assert_eq!(unpack_alone(&layer).unwrap().losses.count, 0);
}

#[test]
fn a_capability_that_root_cannot_set_is_an_error_and_not_lost() {
    if !is_real_root() {
        return skip("needs root in the initial user namespace");
    }
    let error = unpack_alone(&tar().file("odd", "x").xattr("security.capability", "nonsense")).unwrap_err();
    assert!(chain(&error).contains("odd"), "{}", chain(&error));
}

#[test]
fn setuid_and_capabilities_survive_the_change_of_owner() {
    if !is_real_root() {
        return skip("needs root in the initial user namespace");
    }
    both_ways(&[tar()
        .file("su", "x")
        .mode(0o6755)
        .owner(1000, 2000)
        .file("both", "content")
        .mode(0o4711)
        .owner(3, 4)
        .xattr("security.capability", V2)
        .dir("dir")
        .mode(0o3770)
        .owner(5, 6)]);
}

#[test]
fn access_control_lists_are_kept_both_ways() {
    let layer = tar()
        .dir("dir")
        .mode(0o755)
        .xattr("system.posix_acl_default", default())
        // Made in a directory with a default, and not touched by it.
        .file("dir/plain", "x")
        .dir("dir/sub")
        .file("file", "x")
        .mode(0o670)
        .xattr("system.posix_acl_access", access());
    privilege::under(&[Privilege::Root, Privilege::IdRange], |_| {
        let tree = both_ways(std::slice::from_ref(&layer));
        assert_eq!(tree.at("file").xattrs[&b"system.posix_acl_access"[..]], access());
        assert_eq!(tree.at("dir").xattrs[&b"system.posix_acl_default"[..]], default());
        assert!(tree.at("dir/plain").xattrs.is_empty() && tree.at("dir/sub").xattrs.is_empty());
        assert_eq!(tree.at("file").mode, 0o670);
    });
}

#[test]
fn access_control_lists_in_words_are_kept_if_they_have_numbers() {
    if !is_real_root() {
        return skip("needs root in the initial user namespace");
    }
    let words = "user::rw-,user:lisa:r-x:1000,group::r--,group:2000:-w-,mask::rwx,other::---";
    let layer = tar()
        .dir("dir")
        .record("SCHILY.acl.default", "user::rwx,user:1000:rwx,group::r-x,mask::rwx,other::r-x")
        .file("file", "x")
        .mode(0o670)
        .record("SCHILY.acl.access", words)
        // Names mean something to the machine that wrote them, and to no other.
        .file("named", "x")
        .record("SCHILY.acl.access", "user::rw-,user:lisa:r-x,group::r--,mask::r-x,other::---");
    let tree = lab().root(&[layer]);
    assert_eq!(tree.at("file").xattrs[&b"system.posix_acl_access"[..]], access());
    assert_eq!(tree.at("dir").xattrs[&b"system.posix_acl_default"[..]], default());
    assert!(tree.at("named").xattrs.is_empty());
    assert_eq!(tree.at("named").mode, 0o644);
}

#[test]
fn attributes_of_nested_overlays_never_act_and_come_back() {
    let base = tar().dir("d").file("d/below", "x").file("d/other", "x").dir("e").file("e/below", "x");
    let marks = |family: &str| {
        let key = |name: &str| format!("{family}.overlay.{name}");
        tar()
            .dir("d")
            .xattr(key("opaque"), "y")
            .xattr(key("origin"), "")
            .xattr(key("overlay.opaque"), "y")
            .file("d/other", "")
            .xattr(key("whiteout"), "")
            .dir("e")
            .xattr(key("opaque"), "x")
            .xattr(key("redirect"), "/d")
            .xattr(key("impure"), "y")
            .file("e/file", "content")
            .xattr(key("metacopy"), "")
            .xattr(key("nlink"), "U+1")
            .xattr(key("protattr"), "i")
            .xattr(key("uuid"), "0123456789abcdef")
            .xattr(key("upper"), "x")
            .whiteout("e/gone")
    };
    privilege::under(privilege::ALL, |privilege| {
        let families: &[&str] = match privilege {
            Privilege::Root => &["user", "trusted"],
            _ => &["user"],
        };
        for family in families {
            let tree = both_ways(&[base.clone(), marks(family)]);
            assert!(tree.get("d/below").is_some() && tree.get("e/below").is_some());
        }
    });
}

#[test]
fn a_record_of_an_owner_that_came_with_an_image_is_none() {
    let layer = tar()
        .file("file", "x")
        .xattr("user.containers.override_stat", "7:8:04755:file")
        .xattr("user.rootlesscontainers", "\x08\x07\x10\x08")
        .xattr("user.fuseoverlayfs.override_stat", "7:8:104755")
        .xattr("user.kept", "1");
    let tree = lab().root(&[layer]);
    let file = tree.at("file");
    assert_eq!((file.uid, file.gid, file.mode), (0, 0, 0o644));
    assert_eq!(file.xattrs.keys().collect::<Vec<_>>(), [&b"user.kept"[..]]);
}

#[test]
fn an_attribute_that_its_file_cannot_hold_is_reported_and_the_rest_is_kept() {
    let layer = tar()
        .symlink("link", "x")
        .xattr("user.on-a-link", "1")
        .file("file", "x")
        .xattr("user.kept", "1")
        .xattr("strange.family", "1")
        .file("large", "x")
        .xattr("user.large", vec![b'x'; 100_000]);
    let unpacked = unpack_alone(&layer).unwrap();
    let described: Vec<_> = unpacked.losses.described.iter().map(ToString::to_string).collect();
    assert_eq!(unpacked.losses.count, 3, "{described:?}");
    for (line, start) in described.iter().zip([
        "/link: attribute user.on-a-link cannot be kept: ",
        "/file: attribute strange.family cannot be kept: ",
        "/large: attribute user.large cannot be kept: ",
    ]) {
        assert!(line.starts_with(start), "{line}");
    }
    let tree = lab().root(&[layer]);
    assert_eq!(tree.at("file").xattrs.len(), 1);
}

#[test]
fn what_the_entry_of_a_hard_link_says_of_the_file_is_ignored() {
    let layer = tar()
        .file("file", "x")
        .mode(0o600)
        .mtime(5, 6)
        .link("link", "file")
        .mode(0o4777)
        .owner(7, 8)
        .mtime(9, 9)
        .xattr("user.link", "1")
        .record("size", "77");
    let tree = both_ways(std::slice::from_ref(&layer));
    let (file, link) = (tree.at("file"), tree.at("link"));
    assert_eq!((file.mode, file.uid, file.mtime, file.xattrs.len()), (0o600, 0, (5, 6), 0));
    assert_eq!(file, link);
}

#[test]
fn an_opaque_marker_makes_a_directory_of_what_was_none() {
    let base = tar().file("lower", "x").symlink("lower-link", "elsewhere");
    for (layer, names) in
        [(tar().file("a", "x").opaque("a").file("a/b", "x"), &["a", "a/b"][..]), (tar().opaque("a"), &["a"])]
    {
        let tree = lab().root(&[base.clone(), layer]);
        let expected: Vec<_> = names.iter().copied().chain(["lower", "lower-link"]).collect();
        assert_eq!(tree.names(), expected);
    }
    let layers = [base, tar().opaque("lower").file("lower/x", "")];
    lab().root(&layers).assert_same(&meant(&layers), "an opaque directory over a file");
}

#[test]
fn a_whiteout_in_an_opaque_directory_is_no_object_on_disk() {
    let lab = lab();
    let base = tar().dir("d").file("d/a", "").file("d/b", "");
    for top in [
        tar().opaque("d").whiteout("d/a").file("d/c", ""),
        tar().whiteout("d/a").whiteout("d").file("d/c", ""),
        tar().whiteout("d").file("d/e/f", "").whiteout("d/e/x"),
    ] {
        let made = lab.ensure(&[base.clone().finish(), top.finish()]);
        let tree = lab.scratch.path().join("layers").join(made[1].key.to_string()).join("tree");
        for entry in std::fs::read_dir(tree.join("d")).unwrap() {
            let name = entry.unwrap().file_name();
            assert!(name == "c" || name == "e", "{name:?}");
        }
        if let Ok(entries) = std::fs::read_dir(tree.join("d/e")) {
            assert_eq!(entries.map(|entry| entry.unwrap().file_name()).collect::<Vec<_>>(), ["f"]);
        }
    }
}

#[test]
fn a_root_looks_as_the_topmost_layer_that_describes_it_says() {
    let lab = lab();
    let described = tar().dir("./").mode(0o711).mtime(7, 8).xattr("user.root", "1").file("a", "");
    let silent = tar().file("b", "");
    for layers in [
        vec![described.clone(), silent.clone()],
        vec![described.clone(), tar().dir("").mode(0o700), silent.clone()],
        vec![silent.clone(), described],
        vec![silent],
    ] {
        lab.root(&layers).assert_same(&meant(&layers), "the root");
    }
}

#[test]
fn a_device_of_numbers_that_the_kernel_does_not_have_is_refused_by_name() {
    if !is_real_root() {
        return skip("needs root in the initial user namespace");
    }
    let most = tar().char_device("c", 4095, 0x000f_ffff).block_device("b", 259, 1);
    let layer = most.record("SCHILY.devmajor", "259").record("SCHILY.devminor", "1048575");
    let tree = lab().root(&[layer]);
    let at = |name: &str| tree.at(name).kind.clone();
    assert_eq!(at("b"), common::tree::Kind::Block(259, 0x000f_ffff));
    // The kernel would cut the first to 0:0, and that is a deletion.
    for (key, number) in [("SCHILY.devmajor", "4096"), ("SCHILY.devminor", "1048576")] {
        let layer = tar().char_device("far", 0, 0).record(key, number);
        let error = chain(&unpack_alone(&layer).unwrap_err());
        assert!(error.starts_with("tar entry 0 (/far) is a device "), "{error}");
    }
}

#[test]
fn a_tar_of_nothing_has_the_diff_id_that_all_engines_know() {
    let empty = crate::lab::diff_id(&tar().finish());
    assert!(empty.to_string().starts_with("sha256:5f70bf18a086007016e948b04aed3b82"), "{empty}");
    assert_eq!(lab().root(&[tar()]).0.len(), 1);
}

#[test]
fn a_pipe_and_a_device_need_no_privilege_to_be_remembered() {
    privilege::under(&[Privilege::SingleId, Privilege::Plain], |_| {
        let layer =
            tar().fifo("pipe").mode(0o600).char_device("null", 1, 3).mode(0o666).block_device("disk", 8, 1);
        both_ways(&[layer]);
    });
}

#[test]
fn an_attribute_too_large_for_the_file_system_is_a_loss_while_there_is_space() {
    privilege::under(privilege::ALL, |_| {
        let lab = lab();
        // One block on ext4, more on others.
        for size in [5000, 20_000, 65_000] {
            let layer = tar()
                .dir("dir")
                .xattr("user.large", vec![b'd'; size])
                .file("dir/file", "x")
                .owner(7, 7)
                .mode(0o600)
                .xattr("user.large", vec![b'f'; size])
                .xattr("user.small", "kept")
                .file("other", "y");
            let tars = [tar().file("below", "").finish(), layer.finish()];
            let ensured = lab.try_ensure(&tars).unwrap_or_else(|error| panic!("{}", chain(&error)));
            let losses: Vec<_> = ensured.made.iter().flat_map(|made| &made.losses.described).collect();
            let tree = seen(&ensured.layers);
            for path in ["dir", "dir/file"] {
                let name = format!("/{path}: attribute user.large cannot be kept: ");
                let is_lost = losses.iter().any(|loss| loss.to_string().starts_with(&name));
                let is_there = tree.at(path).xattrs.contains_key(&b"user.large"[..]);
                assert!(is_lost != is_there, "{path}, {size} bytes: {losses:?}");
            }
            assert_eq!(tree.at("dir/file").xattrs[&b"user.small"[..]], b"kept");
            assert_eq!((tree.at("dir/file").uid, tree.at("dir/file").mode), (7, 0o600));
            assert_eq!(tree.names(), ["below", "dir", "dir/file", "other"]);
        }
    });
}

#[test]
fn an_attribute_that_does_not_fit_a_full_disk_is_an_error() {
    privilege::under(&[Privilege::Root], |_| {
        let scratch = common::scratch();
        let (image, at) = (scratch.path().join("disk"), scratch.path().join("mounted"));
        if !common::have(&["mkfs.ext4", "mount"]) {
            return skip("needs mkfs.ext4");
        }
        std::fs::create_dir(&at).unwrap();
        std::fs::File::create(&image).unwrap().set_len(8 << 20).unwrap();
        common::run("mkfs.ext4", ["-q".as_ref(), "-m0".as_ref(), image.as_os_str()]);
        common::run("mount", ["-o".as_ref(), "loop".as_ref(), image.as_os_str(), at.as_os_str()]);
        let dir = plywood::fs::Dir::open_ambient(&at).unwrap();
        dir.create_file("file", 0o644).unwrap();
        let large = dir.set_xattr("file", "user.large", &[1; 20_000]).unwrap_err();
        assert!(large.is_attribute_too_large() && !large.is_no_space(), "{large:?}");
        let mut filler = dir.create_file("filler", 0o644).unwrap();
        let full = loop {
            if let Err(error) = std::io::Write::write_all(&mut filler, &[7; 4096]) {
                break error;
            }
        };
        assert_eq!(full.kind(), std::io::ErrorKind::StorageFull);
        let none = dir.set_xattr("file", "user.block", &[1; 3000]).unwrap_err();
        assert!(none.is_no_space() && !none.is_attribute_too_large(), "{none:?}");
        drop((dir, filler));
        common::run("umount", [&at]);
    });
}
