//! Files with holes of any size go through a whole life: nobody reads, stores or writes what is not there.

use std::fs::{self, File};
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::Command;

use plywood::archive::ArchiveFormat;
use plywood::digest::DiffId;
use plywood::driver::DriverKind;
use plywood::image::Reference;
use plywood::layer::SparseFiles;
use plywood::store::{CommitOptions, Container, CreateOptions, ExportOptions, Image, SaveOptions};

use crate::common::image::image;
use crate::common::peers::{Docker, Storage};
use crate::common::privilege::{self, ALL};
use crate::common::tar::{Kind, tar};
use crate::common::{have, run_command, untar};
use crate::world::*;

const TIB: u64 = 1 << 40;

/// What a huge file holds, by offset.
fn pieces() -> [(u64, &'static [u8]); 4] {
    [(0, b"begin"), (70 << 20, &[7; 300_000]), (TIB / 2 + 77, b"middle"), (TIB - 3, b"end")]
}

fn make_huge(path: &Path) {
    let file = File::create_new(path).unwrap();
    file.set_len(TIB).unwrap();
    for (offset, bytes) in pieces() {
        file.write_all_at(bytes, offset).unwrap();
    }
    touch(path, 1_700_000_000, 9);
}

#[track_caller]
fn assert_huge(path: &Path) {
    let file = File::open(path).unwrap();
    let metadata = file.metadata().unwrap();
    assert_eq!(metadata.len(), TIB);
    for (offset, bytes) in pieces() {
        let mut found = vec![0; bytes.len()];
        file.read_exact_at(&mut found, offset).unwrap();
        assert!(found == bytes, "at {offset}");
    }
    let mut zeros = vec![1; 1 << 20];
    file.read_exact_at(&mut zeros, 1 << 20).unwrap();
    assert!(zeros.iter().all(|&byte| byte == 0));
    let allocated = metadata.blocks() * 512;
    assert!(allocated < 1 << 20, "{allocated} bytes are allocated");
}

fn base(world: &World) -> Image {
    world.load_image(&image().layer(tar().dir("var").file("var/note", "x").finish()).name("base"))
}

fn container(world: &World, image: &Image) -> Container {
    world.store.create_container(image, &CreateOptions::default()).unwrap()
}

fn save(world: &World, image: &Image, out: impl std::io::Write) {
    let format = ArchiveFormat::DockerArchive;
    world.store.save(std::slice::from_ref(image), format, out, &SaveOptions::default()).unwrap();
}

fn top_layer(image: &Image) -> (DiffId, u64) {
    (*image.diff_ids().last().unwrap(), image.manifest().layers.last().unwrap().size)
}

#[test]
fn a_terabyte_of_holes_is_committed_saved_loaded_and_unpacked_as_holes() {
    privilege::under(ALL, |privilege| {
        for &driver in drivers(privilege) {
            let world = World::driver(driver);
            let one = container(&world, &base(&world));
            let mounted = one.mount().unwrap();
            make_huge(&mounted.path().join("var/huge"));
            mounted.unmount().unwrap();
            let image =
                one.commit(&CommitOptions::named(Reference::parse_familiar("huge").unwrap())).unwrap();
            let (_, size) = top_layer(&image);
            assert!(size < 1 << 20, "{driver}: a layer of {size} bytes");

            let mut archive = Vec::new();
            save(&world, &image, &mut archive);
            let other = World::driver(driver);
            let image = other.load(&archive);
            let two = container(&other, &image);
            let mounted = two.mount().unwrap();
            let huge = mounted.path().join("var/huge");
            assert_huge(&huge);

            // Copied up and compared: neither reads what is not there.
            let mode = fs::metadata(&huge).unwrap().permissions();
            fs::set_permissions(&huge, PermissionsExt::from_mode(0o600)).unwrap();
            fs::set_permissions(&huge, mode).unwrap();
            mounted.unmount().unwrap();
            assert_eq!(changes(&two), <[&str; 0]>::default());
            let again = two.commit(&CommitOptions::default()).unwrap();
            assert_eq!(again.diff_ids(), image.diff_ids());
        }
    });
}

#[test]
fn gnu_tar_and_bsdtar_unpack_an_export_with_a_terabyte_of_holes() {
    if !have(&["tar", "bsdtar"]) {
        return;
    }
    let world = World::driver(DriverKind::Copy);
    let one = container(&world, &base(&world));
    let mounted = one.mount().unwrap();
    let long = format!("var/{}/{}", "long".repeat(20), "name".repeat(40));
    fs::create_dir(mounted.path().join(&long).parent().unwrap()).unwrap();
    for name in ["var/huge", "huge", &long] {
        make_huge(&mounted.path().join(name));
    }
    let empty = File::create_new(mounted.path().join("empty")).unwrap();
    empty.set_len(1 << 30).unwrap();
    mounted.unmount().unwrap();
    let export = world.beside("export.tar");
    fs::write(&export, super::world::export(&one)).unwrap();
    for program in ["tar", "bsdtar"] {
        let into = world.beside(program);
        fs::create_dir(&into).unwrap();
        run_command(Command::new(program).arg("-xf").arg(&export).arg("-C").arg(&into));
        for name in ["var/huge", "huge", &long] {
            assert_huge(&into.join(name));
        }
        let empty = fs::metadata(into.join("empty")).unwrap();
        assert_eq!((empty.len(), empty.blocks()), (1 << 30, 0), "{program}");
        assert_eq!(fs::read(into.join("var/note")).unwrap(), b"x");
    }
}

#[test]
fn ordinary_files_with_holes_are_plain_unless_the_caller_wants_otherwise() {
    let world = World::driver(DriverKind::Copy);
    let one = container(&world, &base(&world));
    let mounted = one.mount().unwrap();
    let log = File::create_new(mounted.path().join("var/lastlog")).unwrap();
    log.set_len(5 << 20).unwrap();
    log.write_all_at(b"user", 3 << 20).unwrap();
    mounted.unmount().unwrap();
    let export = |files| {
        let mut options = ExportOptions::default();
        options.pack.sparse_files = files;
        let mut tar = Vec::new();
        one.export(&mut tar, &options).unwrap();
        tar
    };
    let plain = export(SparseFiles::default());
    assert!(untar::entries(&plain).iter().any(|entry| entry.name == b"var/lastlog"));
    assert!(plain == export(SparseFiles::Never) && plain.len() > 5 << 20);
    assert!(plain == export(SparseFiles::WithHoles(5 << 20)));
    let sparse = export(SparseFiles::ALWAYS);
    assert!(sparse.len() < 100 << 10);
    assert!(sparse == export(SparseFiles::WithHoles(4 << 20)));
    assert!(sparse.windows(22).any(|bytes| bytes == b" GNU.sparse.name=var/l"));
}

#[test]
fn how_a_file_with_holes_was_written_makes_no_difference_to_its_layer() {
    let world = World::driver(DriverKind::Copy);
    let base = base(&world);
    let commit = |write: &dyn Fn(&File)| {
        let one = container(&world, &base);
        let mounted = one.mount().unwrap();
        let path = mounted.path().join("var/file");
        let file = File::create_new(&path).unwrap();
        file.set_len(200 << 20).unwrap();
        write(&file);
        touch(&path, 1, 0);
        touch(&mounted.path().join("var"), 2, 0);
        mounted.unmount().unwrap();
        let mut options = CommitOptions::default();
        options.image.pack.sparse_files = SparseFiles::WithHoles(64 << 20);
        top_layer(&one.commit(&options).unwrap())
    };
    let short = commit(&|file| file.write_all_at(b"content", 99 << 20).unwrap());
    let long = commit(&|file| {
        file.write_all_at(&vec![0; 20 << 20], (80 << 20) + 100).unwrap();
        file.write_all_at(b"content", 99 << 20).unwrap();
    });
    assert!(short.1 < 100 << 10, "{} bytes", short.1);
    assert_eq!(short, long);
}

/// An archive of an image whose layer leaves out the holes of `var/large`.
fn sparse_archive(world: &World) -> PathBuf {
    let one = container(world, &base(world));
    let mounted = one.mount().unwrap();
    let file = File::create_new(mounted.path().join("var/large")).unwrap();
    file.set_len(100 << 20).unwrap();
    file.write_all_at(b"middle", 50 << 20).unwrap();
    mounted.unmount().unwrap();
    let mut options = CommitOptions::named(Reference::parse_familiar("holes").unwrap());
    options.image.pack.sparse_files = SparseFiles::ALWAYS;
    let image = one.commit(&options).unwrap();
    assert!(top_layer(&image).1 < 100 << 10);
    let archive = world.beside("holes.tar");
    save(world, &image, File::create(&archive).unwrap());
    archive
}

#[test]
fn podman_shows_a_sparse_file_as_it_is() {
    let Some(podman) = Storage::podman() else { return };
    let world = World::driver(DriverKind::Copy);
    podman.run(&["load", "-q", "-i", sparse_archive(&world).to_str().unwrap()]);
    let root = podman.run(&["image", "mount", "docker.io/library/holes:latest"]);
    let shown = File::open(Path::new(&root).join("var/large")).unwrap();
    assert_eq!(shown.metadata().unwrap().len(), 100 << 20);
    let mut found = [0; 6];
    shown.read_exact_at(&mut found, 50 << 20).unwrap();
    assert_eq!(&found, b"middle");
    podman.run(&["image", "umount", "docker.io/library/holes:latest"]);
}

#[test]
fn docker_shows_a_sparse_file_as_it_is() {
    let Some(docker) = Docker::start() else { return };
    let world = World::driver(DriverKind::Copy);
    docker.run(&["load", "-q", "-i", sparse_archive(&world).to_str().unwrap()]);
    docker.run(&["create", "--name", "one", "holes:latest", "x"]);
    let export = world.beside("docker.tar");
    docker.run(&["export", "-o", export.to_str().unwrap(), "one"]);
    let file =
        untar::entries(&fs::read(export).unwrap()).into_iter().find(|entry| entry.name == b"var/large");
    let Kind::File(content) = file.unwrap().kind else { panic!("it is a file") };
    assert_eq!(content.len(), 100 << 20);
    assert_eq!(&content[50 << 20..][..6], b"middle");
}
