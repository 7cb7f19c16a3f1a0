//! What is in what is saved.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write;
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::AtomicBool;

use crate::common;
use crate::common::image::{Layout, blob_path, image};
use crate::common::tar::tar;
use crate::shop::{FORMATS, Shop, as_loaded, members, three, two_platforms, web};
use plywood::archive::{ArchiveFormat, SaveError, SaveOptions, Warning, save, save_layout};
use plywood::blob::BlobError;
use plywood::digest::Digest;
use plywood::fs::Dir;
use plywood::image::Reference;
use serde_json::{Value, json};

#[test]
fn what_was_saved_loads_as_the_same_images() {
    let layout = three();
    for first in [layout.oci_archive(), layout.docker_archive()] {
        let shop = Shop::new();
        let loaded = shop.load(first);
        for format in FORMATS {
            let saved = shop.save(&as_loaded(&loaded), format);
            assert_eq!(Shop::new().load(&saved), loaded, "{format:?}");
            assert_eq!(shop.save(&as_loaded(&shop.load(&saved)), format), saved, "{format:?}");
        }
    }
}

#[test]
fn an_archive_has_each_blob_once_and_every_image_in_its_index() {
    let layout = three();
    let shop = Shop::new();
    let images = as_loaded(&shop.load(layout.oci_archive()));
    for format in FORMATS {
        let (names, files) = members(&shop.save(&images, format));
        let unique: BTreeSet<_> = names.iter().collect();
        assert_eq!(unique.len(), names.len(), "{names:?}");
        for (digest, bytes) in &layout.blobs {
            assert_eq!(files[&blob_path(digest)], *bytes);
        }
        assert_eq!(files["oci-layout"], br#"{"imageLayoutVersion":"1.0.0"}"#);
        let documents = if format == ArchiveFormat::OciArchive { 2 } else { 4 };
        assert_eq!(files.len(), layout.blobs.len() + documents);

        let index: Value = serde_json::from_slice(&files["index.json"]).unwrap();
        let entries: Vec<_> = index["manifests"]
            .as_array()
            .unwrap()
            .iter()
            .map(|entry| {
                let annotation = |key: &str| entry["annotations"][key].as_str().unwrap_or("-").to_owned();
                (
                    entry["digest"].as_str().unwrap().to_owned(),
                    annotation("org.opencontainers.image.ref.name"),
                    annotation("io.containerd.image.name"),
                )
            })
            .collect();
        let entry = |image: usize, familiar: &str, canonical: &str| {
            (layout.images[image].manifest.clone(), familiar.to_owned(), canonical.to_owned())
        };
        assert_eq!(
            entries,
            [
                entry(0, "web:1", "docker.io/library/web:1"),
                entry(1, "quay.io/me/db:2", "quay.io/me/db:2"),
                entry(1, "me/db:latest", "docker.io/me/db:latest"),
                entry(2, "-", "-"),
            ]
        );
    }
}

#[test]
fn the_docker_side_lists_the_same_images() {
    let layout = three();
    let shop = Shop::new();
    let images = as_loaded(&shop.load(layout.oci_archive()));
    let (_, files) = members(&shop.save(&images, ArchiveFormat::DockerArchive));
    let items: Value = serde_json::from_slice(&files["manifest.json"]).unwrap();
    let tags = [
        json!(["docker.io/library/web:1"]),
        json!(["quay.io/me/db:2", "docker.io/me/db:latest"]),
        Value::Null,
    ];
    let expected: Value = layout
        .images
        .iter()
        .zip(tags)
        .map(|(added, tags)| {
            json!({
                "Config": blob_path(&added.config),
                "RepoTags": tags,
                "Layers": added.layers.iter().map(|digest| blob_path(digest)).collect::<Vec<_>>(),
            })
        })
        .collect();
    assert_eq!(items, expected);
    let repositories: Value = serde_json::from_slice(&files["repositories"]).unwrap();
    let top = |image: usize| layout.images[image].layers.last().unwrap()[7..].to_owned();
    assert_eq!(
        repositories,
        json!({
            "docker.io/library/web": {"1": top(0)},
            "quay.io/me/db": {"2": top(1)},
            "docker.io/me/db": {"latest": top(1)},
        })
    );
}

#[test]
fn headers_tell_nothing_of_the_machine_and_the_moment() {
    let shop = Shop::new();
    let images = as_loaded(&shop.load(three().oci_archive()));
    let archive = shop.save(&images, ArchiveFormat::DockerArchive);
    let mut at = 0;
    while archive[at] != 0 {
        let header = &archive[at..at + 512];
        let octal = |field: &[u8]| {
            u64::from_str_radix(std::str::from_utf8(field).unwrap().trim_end_matches('\0'), 8).unwrap()
        };
        let mode = if header[156] == b'5' { 0o755 } else { 0o644 };
        assert_eq!(octal(&header[100..108]), mode);
        assert_eq!((octal(&header[108..116]), octal(&header[116..124]), octal(&header[136..148])), (0, 0, 0));
        assert!(header[265..].iter().all(|&byte| byte == 0 || byte == b'0'), "no names of users");
        at += 512 + usize::try_from(octal(&header[124..136])).unwrap().next_multiple_of(512);
    }
    assert_eq!(archive.len(), at + 1024);
}

#[test]
fn a_name_with_a_digest_is_no_tag() {
    let shop = Shop::new();
    let mut images = as_loaded(&shop.load(Layout::of(&web()).oci_archive()));
    let name = format!("docker.io/library/web:1@{}", images[0].target.digest);
    images[0].names = vec![Reference::parse_familiar(&name).unwrap()];
    let archive = shop.save(&images, ArchiveFormat::DockerArchive);
    let (_, files) = members(&archive);
    let items: Value = serde_json::from_slice(&files["manifest.json"]).unwrap();
    assert_eq!(items[0]["RepoTags"], Value::Null);
    assert_eq!(Shop::new().load(archive)[0].names, images[0].names);
}

#[test]
fn of_an_index_all_is_saved_and_the_docker_side_lists_one_platform() {
    let layout = two_platforms();
    let shop = Shop::new();
    let loaded = shop.load(layout.oci_archive());
    let archive = shop.save(&as_loaded(&loaded), ArchiveFormat::DockerArchive);
    assert_eq!(Shop::new().load(&archive), loaded);
    let config = |files: &BTreeMap<String, Vec<u8>>| {
        let items: Value = serde_json::from_slice(&files["manifest.json"]).unwrap();
        assert_eq!(items.as_array().unwrap().len(), 1);
        items[0]["Config"].as_str().unwrap().to_owned()
    };
    assert_eq!(config(&members(&archive).1), blob_path(&layout.images[1].config), "this machine's");
    let mut options = SaveOptions::default();
    options.platform = Some("linux/s390x".parse().unwrap());
    for format in [ArchiveFormat::DockerArchive, ArchiveFormat::OciArchive] {
        let mut out = Vec::new();
        save(&as_loaded(&loaded), &shop.blobs, format, &mut out, &options).unwrap();
        let files = members(&out).1;
        assert!(!files.contains_key(&blob_path(&layout.images[1].config)), "only what was asked for");
        if format == ArchiveFormat::DockerArchive {
            assert_eq!(config(&files), blob_path(&layout.images[0].config));
        }
        let alone = Shop::new().load(&out);
        assert_eq!(alone[0].target.digest.to_string(), layout.images[0].manifest);
        assert_eq!(alone[0].names, loaded[0].names);
    }
    options.platform = Some("linux/mips".parse().unwrap());
    let error = save(&as_loaded(&loaded), &shop.blobs, ArchiveFormat::OciArchive, Vec::new(), &options);
    let message = error.unwrap_err().to_string();
    assert!(message.contains("is not for linux/mips, but for linux/s390x, linux/"), "{message}");
}

#[test]
fn platforms_that_are_absent_stay_absent() {
    let layout = two_platforms();
    let mut files = layout.files();
    files.remove(&blob_path(&layout.images[0].manifest)).unwrap();
    let shop = Shop::new();
    let loaded = shop.load(common::image::pack(&files));
    let mut archive = Vec::new();
    let warnings = save(
        &as_loaded(&loaded),
        &shop.blobs,
        ArchiveFormat::DockerArchive,
        &mut archive,
        &SaveOptions::default(),
    );
    assert!(matches!(warnings.unwrap()[..], [Warning::AbsentManifest { .. }]));
    assert_eq!(Shop::new().load(archive), loaded);
}

#[test]
fn layers_that_must_not_be_passed_on_are_not() {
    let mut layout = Layout::of(&web());
    let added = layout.images[0].clone();
    let mut manifest: Value = serde_json::from_slice(&layout.blobs[&added.manifest]).unwrap();
    manifest["layers"][0]["mediaType"] = json!("application/vnd.oci.image.layer.nondistributable.v1.tar");
    manifest["layers"][1]["mediaType"] = json!("application/vnd.oci.image.layer.nondistributable.v1.tar");
    manifest["layers"][0]["urls"] = json!(["https://example.com/layer"]);
    let descriptor = layout.document("application/vnd.oci.image.manifest.v1+json", &manifest);
    layout.index["manifests"] = json!([descriptor]);
    let shop = Shop::new();
    let images = as_loaded(&shop.load(layout.oci_archive()));
    let mut archive = Vec::new();
    let options = SaveOptions::default();
    let warnings = save(&images, &shop.blobs, ArchiveFormat::DockerArchive, &mut archive, &options).unwrap();
    let layer = added.layers[0].parse().unwrap();
    assert_eq!(warnings, [Warning::ForeignLayer { layer }]);
    let (_, files) = members(&archive);
    assert!(!files.contains_key(&blob_path(&added.layers[0])));
    assert!(files.contains_key(&blob_path(&added.layers[1])), "it is nowhere else");
    let items: Value = serde_json::from_slice(&files["manifest.json"]).unwrap();
    assert_eq!(items[0]["LayerSources"], json!({&added.diff_ids[0]: manifest["layers"][0]}));
    assert_eq!(Shop::new().load(archive)[0].warnings, [Warning::ForeignLayer { layer }]);
}

#[test]
fn a_blob_that_rotted_in_the_store_is_found_out() {
    let layout = Layout::of(&web());
    let shop = Shop::new();
    let images = as_loaded(&shop.load(layout.oci_archive()));
    let options = SaveOptions::default();
    for digest in layout.blobs.keys() {
        let path = shop.temp.path().join("oci").join(blob_path(digest));
        let good = std::fs::read(&path).unwrap();
        let mut flipped = good.clone();
        *flipped.last_mut().unwrap() ^= 1;
        let longer = [&good[..], b"x"].concat();
        for bad in [flipped, longer, good[1..].to_vec()] {
            std::fs::write(&path, bad).unwrap();
            save(&images, &shop.blobs, ArchiveFormat::OciArchive, &mut Vec::new(), &options).unwrap_err();
            let into = common::scratch();
            let dir = Dir::open_ambient(into.path()).unwrap();
            save_layout(&images, &shop.blobs, &dir, &options).unwrap_err();
            assert!(!into.path().join("index.json").exists());
        }
        std::fs::remove_file(&path).unwrap();
        let error =
            save(&images, &shop.blobs, ArchiveFormat::OciArchive, &mut Vec::new(), &options).unwrap_err();
        assert!(
            matches!(error, SaveError::Image { .. } | SaveError::Blob(BlobError::Missing { .. })),
            "{error}"
        );
        std::fs::write(&path, good).unwrap();
    }
    shop.save(&images, ArchiveFormat::OciArchive);
}

#[test]
fn what_cannot_be_written_says_why() {
    struct Full(usize);
    impl Write for Full {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0 = self.0.checked_sub(bytes.len()).ok_or(std::io::Error::from_raw_os_error(28))?;
            Ok(bytes.len())
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }
    let shop = Shop::new();
    let images = as_loaded(&shop.load(three().oci_archive()));
    let options = SaveOptions::default();
    for room in [0, 100_000] {
        let images = if room == 0 {
            images.clone()
        } else {
            let big = tar().file("big", vec![1; 1 << 20]).finish();
            as_loaded(&shop.load(Layout::of(&image().layer(big)).oci_archive()))
        };
        let error = save(&images, &shop.blobs, ArchiveFormat::OciArchive, Full(room), &options).unwrap_err();
        assert!(matches!(error, SaveError::Write(_)), "{error}");
        let reason = std::error::Error::source(&error).and_then(|error| error.source()).unwrap().to_string();
        assert!(reason.starts_with("No space left on device"), "{reason}");
    }
    let error = save(&[], &shop.blobs, ArchiveFormat::OciArchive, Vec::new(), &options).unwrap_err();
    assert!(matches!(error, SaveError::NoImage));
}

#[test]
fn the_caller_hears_how_far_it_is_and_can_stop_it() {
    let layout = three();
    let shop = Shop::new();
    let images = as_loaded(&shop.load(layout.oci_archive()));
    let heard = Mutex::new(Vec::new());
    let progress = |done, total| heard.lock().unwrap().push((done, total));
    let mut options = SaveOptions::default();
    options.progress = Some(&progress);
    save(&images, &shop.blobs, ArchiveFormat::OciArchive, &mut Vec::new(), &options).unwrap();
    let total: u64 = layout.blobs.values().map(|blob| blob.len() as u64).sum();
    assert!(heard.lock().unwrap().is_sorted());
    assert_eq!(heard.lock().unwrap().last(), Some(&(total, total)));
    let stop = AtomicBool::new(true);
    options.cancel = Some(&stop);
    let error = save(&images, &shop.blobs, ArchiveFormat::OciArchive, &mut Vec::new(), &options).unwrap_err();
    assert!(matches!(error, SaveError::Cancelled), "{error:?}");
}

/// What an `index.json` lists: ref.names (or `-`) and digests.
fn listed(dir: &Path) -> Vec<(String, String)> {
    let index: Value = serde_json::from_slice(&std::fs::read(dir.join("index.json")).unwrap()).unwrap();
    let entry = |entry: &Value| {
        let name = entry["annotations"]["org.opencontainers.image.ref.name"].as_str().unwrap_or("-");
        (name.to_owned(), entry["digest"].as_str().unwrap().to_owned())
    };
    index["manifests"].as_array().unwrap().iter().map(entry).collect()
}

#[test]
fn a_layout_is_made_in_an_empty_directory_and_added_to() {
    let layout = three();
    let shop = Shop::new();
    let images = as_loaded(&shop.load(layout.oci_archive()));
    let into = common::scratch();
    let dir = Dir::open_ambient(into.path()).unwrap();
    let options = SaveOptions::default();
    save_layout(&images[..1], &shop.blobs, &dir, &options).unwrap();
    let names: BTreeSet<_> =
        std::fs::read_dir(into.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(names, ["blobs", "index.json", "oci-layout"].map(Into::into).into());
    let manifest = |image: usize| layout.images[image].manifest.clone();
    assert_eq!(listed(into.path()), [("web:1".to_owned(), manifest(0))]);

    // Somebody else's entries stay, names move, what has no name is there once.
    let mut moved = images[1].clone();
    moved.names = vec![Reference::parse_familiar("web:1").unwrap()];
    for _ in 0..2 {
        save_layout(&[images[2].clone(), images[1].clone()], &shop.blobs, &dir, &options).unwrap();
    }
    let index = into.path().join("index.json");
    let mut document: Value = serde_json::from_slice(&std::fs::read(&index).unwrap()).unwrap();
    document["annotations"] = json!({"kept": "yes"});
    std::fs::write(&index, serde_json::to_vec(&document).unwrap()).unwrap();
    save_layout(&[moved], &shop.blobs, &dir, &options).unwrap();
    assert_eq!(
        listed(into.path()),
        [
            ("-".to_owned(), manifest(2)),
            ("quay.io/me/db:2".to_owned(), manifest(1)),
            ("me/db:latest".to_owned(), manifest(1)),
            ("web:1".to_owned(), manifest(1)),
        ]
    );
    let document: Value = serde_json::from_slice(&std::fs::read(&index).unwrap()).unwrap();
    assert_eq!(document["annotations"]["kept"], "yes");
    for (digest, bytes) in &layout.blobs {
        assert_eq!(std::fs::read(into.path().join(blob_path(digest))).unwrap(), *bytes);
    }
}

#[test]
fn a_layout_whose_first_save_was_cut_short_is_written_by_the_next() {
    let shop = Shop::new();
    let images = as_loaded(&shop.load(three().oci_archive()));
    let into = common::scratch();
    // As a process leaves it that dies before it has said that this is a layout.
    std::fs::create_dir_all(into.path().join("0123456789abcdef0123456789abcdef")).unwrap();
    std::fs::create_dir_all(into.path().join("blobs/sha256")).unwrap();
    let damaged = images[0].target.digest;
    std::fs::write(
        into.path().join(blob_path(&damaged.to_string())),
        vec![0; images[0].target.size as usize],
    )
    .unwrap();
    let dir = Dir::open_ambient(into.path()).unwrap();
    save_layout(&images, &shop.blobs, &dir, &SaveOptions::default()).unwrap();
    let saved = std::fs::read(into.path().join(blob_path(&damaged.to_string()))).unwrap();
    assert_eq!(Digest::of(&saved), damaged);
}

#[test]
fn a_directory_that_is_no_layout_is_left_alone() {
    let shop = Shop::new();
    let images = as_loaded(&shop.load(three().oci_archive()));
    let options = SaveOptions::default();
    let try_in = |files: &[(&str, &str)]| {
        let into = common::scratch();
        for (name, content) in files {
            std::fs::write(into.path().join(name), content).unwrap();
        }
        let dir = Dir::open_ambient(into.path()).unwrap();
        let error = save_layout(&images, &shop.blobs, &dir, &options).unwrap_err();
        let after: BTreeMap<_, _> = std::fs::read_dir(into.path())
            .unwrap()
            .map(|entry| entry.unwrap())
            .map(|entry| {
                (entry.file_name().into_string().unwrap(), std::fs::read_to_string(entry.path()).unwrap())
            })
            .collect();
        let before =
            files.iter().map(|(name, content)| ((*name).to_owned(), (*content).to_owned())).collect();
        assert_eq!(after, before);
        error
    };
    assert!(matches!(try_in(&[("letters", "private")]), SaveError::NotALayout { .. }));
    assert!(matches!(
        try_in(&[("oci-layout", "{\"imageLayoutVersion\":\"2.0\"}")]),
        SaveError::Blob(BlobError::NotALayout { .. })
    ));
}

#[test]
fn layers_that_an_old_docker_cannot_read_are_pointed_out() {
    let shop = Shop::new();
    let images = as_loaded(&shop.load(three().oci_archive()));
    for (format, expected) in [
        (ArchiveFormat::DockerArchive, vec![Warning::NeedsDocker23 { target: images[1].target.digest }]),
        (ArchiveFormat::OciArchive, vec![]),
    ] {
        let warnings = save(&images, &shop.blobs, format, Vec::new(), &SaveOptions::default()).unwrap();
        assert_eq!(warnings, expected);
    }
}

#[test]
fn an_artifact_is_saved_but_docker_is_not_told() {
    let mut layout = Layout::of(&web());
    let config = layout.document("application/vnd.oci.empty.v1+json", &json!({}));
    let manifest_type = "application/vnd.oci.image.manifest.v1+json";
    // The same two bytes as config and as layer.
    let artifact = layout.document(
        manifest_type,
        &json!({"schemaVersion": 2, "mediaType": manifest_type, "artifactType": "a/b", "config": config, "layers": [config]}),
    );
    layout.index["manifests"].as_array_mut().unwrap().push(artifact.clone());
    let shop = Shop::new();
    let loaded = shop.load(layout.oci_archive());
    let mut archive = Vec::new();
    let options = SaveOptions::default();
    let warnings =
        save(&as_loaded(&loaded), &shop.blobs, ArchiveFormat::DockerArchive, &mut archive, &options).unwrap();
    let target: Digest = artifact["digest"].as_str().unwrap().parse().unwrap();
    assert_eq!(warnings, [Warning::NotForDocker { target }]);
    assert_eq!(Shop::new().load(archive), loaded);
}
