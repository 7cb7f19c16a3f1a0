//! The tests' own tools are held to their word first: what they get wrong, every other test would get wrong with them.

#![allow(clippy::unwrap_used)]

mod common;

use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;

use common::image::{Compression, Layout, image, image_of};
use common::peers::{Containerd, Docker, Storage};
use common::privilege::{self, Privilege};
use common::tar::{Dialect, SparseDialect, Tar, seal, tar, tar_of};
use common::tree::{Kind, Tree, is_directory, snapshot};
use common::{is_real_root, kernel, model, random, skip};
use proptest::prelude::*;

/// What GNU tar makes of a tar.
fn untarred(tar: &[u8]) -> Tree {
    let dir = common::scratch();
    std::fs::write(dir.path().join("tar"), tar).unwrap();
    std::fs::create_dir(dir.path().join("out")).unwrap();
    kernel::untar(&dir.path().join("tar"), &dir.path().join("out"));
    snapshot(dir.path().join("out"))
}

fn stacked(layers: &[&Tar]) -> Tree {
    let entries: Vec<_> = layers.iter().map(|layer| layer.entries()).collect();
    model::stack(entries.iter().map(Vec::as_slice))
}

/// Whether this test may make owners, devices and mounts.
fn root() -> bool {
    if !is_real_root() {
        skip("needs root in the initial user namespace");
    }
    is_real_root()
}

#[test]
fn gnu_tar_reads_every_kind_of_entry_as_it_was_meant() {
    if !root() {
        return;
    }
    let layer = tar()
        .dir("./")
        .mode(0o750)
        .dir("etc/")
        .owner(5, 6)
        .mtime(-1, 500_000_000)
        .file("etc/passwd", "root")
        .mode(0o4755)
        .mtime(1, 123_456_789)
        .xattr("user.note", b"a=b\nc\0d")
        .symlink("etc/link", "../elsewhere")
        .link("etc/shadow", "etc/passwd")
        .fifo("pipe")
        .char_device("null", 1, 3)
        .block_device("disk", 259, 300)
        .file("big-owner", "")
        .owner(4_000_000_000, 3_000_000_000);
    untarred(&layer.clone().finish()).assert_same(&stacked(&[&layer]), "one layer of everything");
}

#[test]
fn long_names_survive_in_every_dialect_that_has_them() {
    if !root() {
        return;
    }
    let deep = format!("{}/{}", "d".repeat(90), "f".repeat(60));
    let endless = format!("{}/{}", "d".repeat(200), "f".repeat(200));
    for (dialect, name) in [(Dialect::Ustar, &deep), (Dialect::Gnu, &endless), (Dialect::Pax, &endless)] {
        let directory = name.split('/').next().unwrap();
        let target = if dialect == Dialect::Ustar { "short".into() } else { "t".repeat(300) };
        let layer =
            tar().dialect(dialect).dir("").dir(directory).file(name, "x").symlink("link", &target).dir("z");
        untarred(&layer.clone().finish()).assert_same(&stacked(&[&layer]), &format!("{dialect:?}"));
    }
    let old = tar().dialect(Dialect::V7).dir("").file("a", "old").owner(1, 2).link("b", "a");
    untarred(&old.clone().finish()).assert_same(&stacked(&[&old]), "V7");
}

#[test]
fn every_sparse_dialect_describes_the_same_file() {
    if !root() {
        return;
    }
    let pieces: Vec<(u64, Vec<u8>)> = (0..40).map(|index| (8192 + index * 12288, vec![b'x'; 4096])).collect();
    let data: Vec<_> = pieces.iter().map(|(offset, bytes)| (*offset, bytes.as_slice())).collect();
    for dialect in [SparseDialect::Gnu, SparseDialect::Pax00, SparseDialect::Pax01, SparseDialect::Pax10] {
        let name = format!("{}/sparse", "n".repeat(30));
        let layer =
            tar().dir("").dir("n".repeat(30)).sparse(name, 1_000_000, &data, dialect).file("after", "y");
        let (tree, model) = (untarred(&layer.clone().finish()), stacked(&[&layer]));
        tree.without_owners().assert_same(&model, &format!("{dialect:?}"));
    }
}

#[test]
fn a_header_changed_by_hand_can_be_sealed_again() {
    if !root() {
        return;
    }
    let mut block = common::tar::header(b"name", b'0', 0);
    block[0] = b'g';
    seal(&mut block);
    let tree = untarred(&tar().dir("").raw(block).finish());
    assert_eq!(tree.names(), ["game"]);
}

#[test]
fn a_whiteout_acts_on_lower_layers_only_whatever_the_order() {
    let base = tar().dir("").dir("d").file("d/old", "1").file("d/both", "1").dir("gone").file("gone/x", "");
    let first = tar().whiteout("d/old").whiteout("d/both").file("d/both", "2").whiteout("gone");
    let last = tar().file("d/both", "2").whiteout("gone").whiteout("d/both").whiteout("d/old");
    for top in [first, last] {
        let tree = stacked(&[&base, &top]);
        assert_eq!(tree.names(), ["d", "d/both"]);
        assert_eq!(tree.at("/d/both").kind, Kind::file(b"2"));
    }
}

#[test]
fn an_opaque_directory_hides_what_is_below_and_keeps_itself() {
    let base = tar().dir("").dir("d").mode(0o700).file("d/a", "").dir("d/e").file("d/e/f", "");
    let tree = stacked(&[&base, &tar().file("d/b", "").opaque("d")]);
    assert_eq!(tree.names(), ["d", "d/b"]);
    assert_eq!(tree.at("/d").mode, 0o700);
    assert_eq!(stacked(&[&base, &tar().opaque("").file("only", "")]).names(), ["only"]);
}

#[test]
fn a_deleted_directory_that_comes_back_has_nothing_of_the_old() {
    let base = tar().dir("").dir("d").mode(0o700).file("d/a", "");
    let tree = stacked(&[&base, &tar().whiteout("d").file("d/b", "").whiteout("d/a")]);
    assert_eq!(tree.names(), ["d", "d/b"]);
    assert_eq!(tree.at("/d").mode, 0o755);
}

#[test]
fn a_parent_that_is_not_declared_keeps_what_it_was() {
    let base = tar().dir("").dir("d").mode(0o711).owner(1, 2).mtime(3, 4).xattr("user.x", "y");
    let tree = stacked(&[&base, &tar().file("d/new/file", "")]);
    assert_eq!(tree.at("d"), stacked(&[&base]).at("d"));
    assert_eq!((tree.at("d/new").mode, tree.at("d/new").mtime), (0o755, (0, 0)));
}

#[test]
fn a_parent_that_is_a_link_is_written_through_inside_the_root() {
    let base = tar().dir("usr").dir("usr/lib").symlink("lib", "usr/lib").symlink("up", "../../usr");
    let tree = stacked(&[&base, &tar().file("lib/a", "").file("up/b", "").whiteout("lib/none")]);
    assert_eq!(tree.names(), ["lib", "up", "usr", "usr/b", "usr/lib", "usr/lib/a"]);
    let tree = stacked(&[&base, &tar().dir("lib").file("lib/a", "")]);
    assert_eq!(tree.at("lib").kind, Kind::Directory);
    let tree = stacked(&[&tar().file("f", ""), &tar().file("f/below", "")]);
    assert_eq!(tree.at("f").kind, Kind::Directory);
}

#[test]
fn a_link_to_a_file_below_takes_it_into_its_own_layer() {
    let base = tar().file("a", "1").link("b", "a").link("early", "late").file("late", "2");
    let tree = stacked(&[&base]);
    assert_eq!(tree.at("b").linked_as, Some("a".into()));
    assert_eq!(tree.at("late").linked_as, Some("early".into()));
    let tree = stacked(&[&base, &tar().link("c", "a").link("d", "a").mode(0)]);
    assert_eq!(tree.at("d").linked_as, Some("a".into()));
    assert_eq!(tree.at("b").linked_as, None);
    let tree = stacked(&[&base, &tar().file("a", "new").link("c", "a")]);
    assert_eq!(tree.at("c").kind, Kind::file(b"new"));
}

#[test]
fn bodies_that_aufs_set_aside_are_found_by_links_only() {
    let layer = tar().file(".wh..wh.plnk/1.2", "x").file(".wh..wh.aufs", "").link("a", ".wh..wh.plnk/1.2");
    let tree = stacked(&[&layer.link("b", "a")]);
    assert_eq!(tree.names(), ["a", "b"]);
    assert_eq!(tree.at("b").kind, Kind::file(b"x"));
}

#[test]
fn the_model_and_the_kernel_agree() {
    if !root() {
        return;
    }
    let base = tar()
        .dir("")
        .mode(0o711)
        .mtime(9, 9)
        .dir("keep")
        .mode(0o2755)
        .owner(7, 8)
        .mtime(-5, 250_000_000)
        .file("keep/a", "a")
        .link("keep/b", "keep/a")
        .dir("gone")
        .file("gone/x", "x")
        .dir("opaque")
        .mode(0o700)
        .xattr("user.kept", "1")
        .file("opaque/x", "x")
        .file("file", "file")
        .dir("becomes-file")
        .file("becomes-file/x", "")
        .char_device("null", 1, 3);
    let middle = tar()
        .whiteout("gone")
        .file("keep/c", "c")
        .opaque("opaque")
        .whiteout("opaque/x")
        .file("opaque/y", "y")
        .file("becomes-file", "now a file")
        .whiteout("nothing")
        .whiteout("file")
        .dir("file")
        .file("file/inside", "");
    let top = tar().file("gone", "back").whiteout("keep/b").file("keep/deep/er", "x").mode(0o6711);
    let layers = [base, middle, top];
    let (_, expected) = image_of(&layers);
    let root = kernel::stack_bytes(&layers.map(Tar::finish));
    snapshot(root.path()).assert_same(&expected, "the kernel's view");
}

#[test]
fn every_difference_between_trees_is_named() {
    let left = stacked(&[&tar().file("a", "1").file("only", "").file("x", "").xattr("user.k", "1")]);
    let right = stacked(&[&tar()
        .file("a", "2")
        .mode(0o600)
        .owner(1, 1)
        .mtime(0, 0)
        .symlink("new", "t")
        .file("x", "")]);
    let lines = left.differences(&right).join("\n");
    for part in [
        "/a: content",
        "/a: mode 0644 → 0600",
        "/a: owner 0:0 → 1:1",
        "/a: mtime 1700000000.0",
        "/only: only on the left",
        "/new: only on the right",
        "/x: xattr user.k \"1\" → absent",
    ] {
        assert!(lines.contains(part), "{part} in\n{lines}");
    }
    assert_eq!(left.differences(&left), [""; 0]);
}

#[test]
fn a_snapshot_sees_holes_links_and_attributes() {
    let dir = common::scratch();
    let file = std::fs::File::create(dir.path().join("sparse")).unwrap();
    file.set_len(1 << 20).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&file, b"data", 1 << 16).unwrap();
    std::fs::hard_link(dir.path().join("sparse"), dir.path().join("again")).unwrap();
    let tree = snapshot(dir.path());
    let Kind::File { size, holes, .. } = &tree.at("sparse").kind else { panic!("it is a file") };
    assert_eq!(
        (*size, holes.as_slice()),
        (1 << 20, &[(0, 1 << 16), ((1 << 16) + 4096, (1 << 20) - (1 << 16) - 4096)][..])
    );
    assert_eq!(tree.at("sparse").linked_as, Some(PathBuf::from("again")));
}

#[test]
fn skopeo_reads_the_images_that_the_tests_make() {
    // Without root, skopeo cannot give the files of an OCI archive their owners, and insists on it.
    if !root() || !common::have(&["skopeo"]) {
        return;
    }
    let dir = common::scratch();
    let layer = tar().dir("").file("hello", "world").finish();
    let spec = image()
        .layer(layer.clone())
        .compressed(tar().file("a", "").finish(), Compression::GzipMembers)
        .compressed(tar().file("b", "").finish(), Compression::Zstd)
        .compressed(tar().file("c", "").finish(), Compression::ZstdFrames)
        .name("example.org/test:one");
    let layout = Layout::of(&spec);
    layout.write(&dir.path().join("layout"));
    std::fs::write(dir.path().join("oci.tar"), layout.oci_archive()).unwrap();
    std::fs::write(dir.path().join("docker.tar"), layout.docker_archive()).unwrap();
    let config = String::from_utf8(layout.blobs[&layout.images[0].config].clone()).unwrap();
    for source in ["oci:layout:one", "oci-archive:oci.tar:one", "docker-archive:docker.tar"] {
        let (kind, path) = source.split_once(':').unwrap();
        let source = format!("{kind}:{}/{path}", dir.path().display());
        let read = common::run("skopeo", ["inspect", "--config", "--raw", &source]);
        assert_eq!(String::from_utf8(read).unwrap(), config, "{source}");
        // Copying checks every digest.
        common::run("skopeo", ["copy", "-q", &source, &format!("dir:{}/{kind}", dir.path().display())]);
    }
    let mut unpacked = Vec::new();
    let blob = layout.blobs[&layout.images[0].layers[0]].as_slice();
    std::io::copy(&mut { blob }, &mut unpacked).unwrap();
    assert_eq!(unpacked, layer);
}

#[test]
fn a_test_runs_under_every_privilege_it_asks_for() {
    privilege::under(privilege::ALL, |privilege| {
        let map = std::fs::read_to_string("/proc/self/uid_map").unwrap();
        let ids: u64 =
            map.lines().map(|line| line.split_whitespace().last().unwrap().parse::<u64>().unwrap()).sum();
        let uid = rustix::process::geteuid().as_raw();
        match privilege {
            Privilege::Root => assert_eq!((uid, ids), (0, 4_294_967_295)),
            Privilege::IdRange => assert_eq!((uid, ids > 60_000), (0, true)),
            Privilege::SingleId => assert_eq!((uid, ids), (0, 1)),
            Privilege::Plain => assert!(uid != 0),
        }
        let dir = common::scratch();
        assert_eq!(dir.path().metadata().unwrap().uid(), uid);
        let mounted = std::process::Command::new("mount").args(["-t", "tmpfs", "t"]).arg(dir.path()).output();
        assert_eq!(mounted.unwrap().status.success(), privilege != Privilege::Plain);
        if privilege != Privilege::Plain {
            common::run("umount", [dir.path()]);
        }
        if privilege == Privilege::IdRange {
            std::os::unix::fs::chown(dir.path(), Some(1000), Some(65_535)).unwrap();
        }
    });
}

#[test]
fn directory_times_can_be_left_out_of_a_comparison() {
    let left = stacked(&[&tar().dir("d").mtime(1, 0).file("d/f", "")]);
    let right = stacked(&[&tar().dir("d").mtime(2, 0).file("d/f", "")]);
    assert_eq!(left.differences(&right).len(), 1);
    let forget = |tree: Tree| tree.without_mtimes(is_directory);
    forget(left).assert_same(&forget(right), "without times");
}

#[test]
fn a_reader_gets_all_members_of_a_compressed_layer() {
    let layer = tar().file("a", vec![7; 10_000]).finish();
    let (bytes, _) = common::image::compress(&layer, Compression::GzipMembers);
    let mut read = Vec::new();
    flate2::read::MultiGzDecoder::new(bytes.as_slice()).read_to_end(&mut read).unwrap();
    assert_eq!(read, layer);
}

/// The archive that every peer is given, and what its config and name are.
fn archive(dir: &std::path::Path) -> (String, String) {
    let (spec, _) =
        image_of(&[tar().dir("").file("a", "1"), tar().whiteout("a").dir("etc").file("etc/b", "2")]);
    let layout = Layout::of(&spec.name("docker.io/library/made-by-tests:one"));
    let path = dir.join("docker.tar");
    std::fs::write(&path, layout.docker_archive()).unwrap();
    (path.to_str().unwrap().to_owned(), layout.images[0].config.clone())
}

#[test]
fn podman_reads_an_archive_made_here() {
    let Some(podman) = Storage::podman() else { return };
    let dir = common::scratch();
    let (path, config) = archive(dir.path());
    podman.run(&["load", "--quiet", "--input", &path]);
    let id = podman.run(&["image", "inspect", "--format", "{{.Id}}", "made-by-tests:one"]);
    assert_eq!(format!("sha256:{id}"), config);
    let root = podman.run(&["image", "mount", "made-by-tests:one"]);
    assert_eq!(snapshot(root).names(), ["etc", "etc/b"]);
}

#[test]
fn buildah_reads_an_archive_made_here() {
    let Some(buildah) = Storage::buildah() else { return };
    let dir = common::scratch();
    let (path, config) = archive(dir.path());
    assert_eq!(
        format!("sha256:{}", buildah.run(&["pull", "--quiet", &format!("docker-archive:{path}")])),
        config
    );
}

#[test]
fn docker_reads_an_archive_made_here() {
    let Some(docker) = Docker::start() else { return };
    let dir = common::scratch();
    let (path, config) = archive(dir.path());
    docker.run(&["load", "--quiet", "--input", &path]);
    assert_eq!(docker.run(&["image", "inspect", "--format", "{{.Id}}", "made-by-tests:one"]), config);
}

#[test]
fn containerd_reads_an_archive_made_here() {
    let Some(containerd) = Containerd::start() else { return };
    let dir = common::scratch();
    let (path, _) = archive(dir.path());
    containerd.run(&["images", "import", &path]);
    assert_eq!(containerd.run(&["images", "ls", "--quiet"]), "docker.io/library/made-by-tests:one");
}

#[test]
fn the_model_and_the_kernel_agree_on_layers_that_nobody_thought_of() {
    if !root() {
        return;
    }
    let config = ProptestConfig { cases: 40, failure_persistence: None, ..ProptestConfig::default() };
    proptest!(config, |(layers in random::layers(4))| {
        let layers: Vec<_> = layers.iter().map(|layer| random::for_gnu_tar(layer)).collect();
        let tars: Vec<_> = layers.iter().map(|layer| tar_of(layer)).collect();
        let expected = model::stack(layers.iter().map(Vec::as_slice));
        snapshot(kernel::stack_bytes(&tars).path()).assert_same(&expected, "the kernel's view");
    });
}
