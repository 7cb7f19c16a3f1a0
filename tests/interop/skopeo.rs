//! skopeo 1.9: finds every image of ours by its name, and copies it between all transports without a change that shows;
//! what it writes is loaded.

use plywood::store::ArchiveFormat;
use serde_json::Value;

use crate::common::image::Compression;
use crate::common::privilege::{self, Privilege};
use crate::common::{have, run};
use crate::sample;
use crate::world::*;

fn inspect(words: &[&str], place: &str) -> Value {
    json(run("skopeo", ["inspect"].iter().chain(words).chain([&place])))
}

fn copy(words: &[&str], from: &str, to: &str) {
    run("skopeo", ["copy", "-q"].iter().chain(words).chain([&from, &to]));
}

#[test]
fn skopeo_finds_every_image_by_its_name_in_any_form_and_in_the_store() {
    if !have(&["skopeo"]) {
        return;
    }
    privilege::under(&[Privilege::Root], |_| {
        for compression in [Compression::None, Compression::Gzip, Compression::Zstd] {
            let goods = Goods::new(compression);
            let save = |format, name| goods.world.save(&goods.images, format, name);
            for (transport, path) in [
                ("docker-archive", save(ArchiveFormat::DockerArchive, "docker.tar")),
                ("docker-archive", save(ArchiveFormat::ClassicDockerArchive, "classic.tar")),
                ("oci-archive", save(ArchiveFormat::DockerArchive, "both.tar")),
                ("oci-archive", save(ArchiveFormat::OciArchive, "oci.tar")),
                ("oci", goods.world.save_directory(&goods.images, "directory")),
                ("oci", goods.world.layout()),
            ] {
                for image in &goods.images {
                    for name in image.names() {
                        let place = format!("{transport}:{}:{}", text(&path), name.familiar());
                        let manifest = inspect(&["--raw"], &place);
                        assert_eq!(manifest["config"]["digest"], image.id().to_string(), "{place}");
                        if transport != "docker-archive" {
                            let digest = inspect(&[], &place)["Digest"].clone();
                            assert_eq!(digest, image.digest().to_string(), "{place}");
                        }
                        let config = inspect(&["--config", "--raw"], &place);
                        assert_eq!(config, goods.world.config(image), "{place}");
                    }
                }
            }
        }
    });
}

#[test]
fn what_skopeo_copies_from_one_form_to_another_is_loaded_as_it_was() {
    if !have(&["skopeo"]) {
        return;
    }
    privilege::under(&[Privilege::Root], |_| {
        // skopeo has no docker name for a layer in Zstandard.
        let goods = Goods::new(Compression::Gzip);
        let save = |format, name| goods.world.save(&goods.images, format, name);
        let sources = [
            ("docker-archive", save(ArchiveFormat::DockerArchive, "docker.tar")),
            ("docker-archive", save(ArchiveFormat::ClassicDockerArchive, "classic.tar")),
            ("oci-archive", save(ArchiveFormat::OciArchive, "oci.tar")),
            ("oci", goods.world.save_directory(&goods.images, "directory")),
            ("oci", goods.world.layout()),
        ];
        let back = World::new();
        let lost = without_fields(goods.world.config(goods.committed()), NOT_IN_OCI);
        for (from, source) in &sources {
            for (to, words) in [
                ("docker-archive", &[][..]),
                ("oci-archive", &[]),
                ("oci", &["--dest-compress-format=zstd"]),
                ("oci", &["--dest-oci-accept-uncompressed-layers"]),
            ] {
                let path = back.path("copied");
                remove(&path);
                let target = format!("{to}:{}:localhost/copied:1", text(&path));
                copy(words, &format!("{from}:{}:committed:1", text(source)), &target);
                let image = back.load_one(&path);
                assert_eq!(ids([&image]).into_keys().collect::<Vec<_>>(), ["localhost/copied:1"]);
                assert_eq!(image.diff_ids(), goods.committed().diff_ids(), "{from} to {to}");
                // skopeo 1.9 writes a config anew where it makes an OCI image of docker's.
                if *from == "docker-archive" && to != "docker-archive" {
                    assert_eq!(back.config(&image), lost, "{from} to {to}");
                } else {
                    assert_eq!(image.id(), goods.committed().id(), "{from} to {to}");
                }
                back.tree(&image).assert_same(&goods.trees[1], &format!("{from} to {to}"));
            }
        }
        let path = back.path("dir");
        copy(
            &[],
            &format!("oci:{}:committed:1", text(&goods.world.layout())),
            &format!("dir:{}", text(&path)),
        );
        let error = back.store.load_directory(&path, &Default::default()).unwrap_err();
        assert!(error.to_string().contains("dir:"), "{error}");
    });
}

#[test]
fn a_directory_of_skopeo_takes_our_images_and_keeps_its_own() {
    if !have(&["skopeo"]) {
        return;
    }
    privilege::under(&[Privilege::Root], |_| {
        let goods = Goods::new(Compression::Zstd);
        let path = goods.world.path("shared");
        let place = |name: &str| format!("oci:{}:{name}", text(&path));
        copy(&[], &format!("oci:{}:demanding:1", text(&goods.world.layout())), &place("theirs"));
        goods.world.save_directory(&goods.images[3..], "shared");
        copy(
            &[],
            &format!("oci:{}:localhost:5000/team/sibling:2", text(&goods.world.layout())),
            &place("also-theirs"),
        );
        for (name, image) in [("theirs", 0), ("also-theirs", 1), ("committed:1", 3)] {
            assert_eq!(
                inspect(&["--raw"], &place(name))["config"]["digest"],
                goods.images[image].id().to_string()
            );
        }
        let loaded = World::new().load(&path);
        let ids: Vec<_> = loaded.iter().map(|loaded| loaded.image.id()).collect();
        assert_eq!(ids, [0, 3, 1].map(|at: usize| goods.images[at].id()));
    });
}

#[test]
fn skopeo_copies_every_platform_of_an_index_of_ours_and_we_of_one_of_its() {
    if !have(&["skopeo"]) {
        return;
    }
    privilege::under(&[Privilege::Root], |_| {
        let name = "docker.io/library/platforms:1";
        let (layout, index) = sample::platforms(name);
        let world = World::new();
        let image = world.give(&layout).remove(0);
        let archive = world.save(std::slice::from_ref(&image), ArchiveFormat::OciArchive, "oci.tar");
        let directory = world.save_directory(std::slice::from_ref(&image), "directory");
        for source in [
            format!("oci-archive:{}", text(&archive)),
            format!("oci:{}", text(&directory)),
            format!("oci:{}", text(&world.layout())),
        ] {
            for transport in ["oci-archive", "oci"] {
                let path = world.path("copied");
                remove(&path);
                let words = ["--all", "--dest-oci-accept-uncompressed-layers"];
                copy(
                    &words,
                    &format!("{source}:platforms:1"),
                    &format!("{transport}:{}:{name}", text(&path)),
                );
                let back = World::new();
                let again = back.load_one(&path);
                assert_eq!((again.digest().to_string(), again.id()), (index.clone(), image.id()), "{source}");
                assert_eq!(ids([&again]), ids([&image]));
                back.tree(&again).assert_same(&world.tree(&image), &source);
            }
        }
    });
}
