//! What is refused, by name and without a trace.

use crate::common::image::{Layout, blob_path, gzip, pack};
use crate::common::tar::{SparseDialect, tar};
use plywood::archive::{LoadError, LoadOptions, load, load_layout};
use plywood::fs::Dir;
use plywood::image::ImageError;
use serde_json::{Value, json};

use crate::shop::*;

#[test]
fn a_missing_blob_is_named_and_so_is_who_wants_it() {
    let layout = Layout::of(&db());
    let added = &layout.images[0];
    for (left_out, wanted_by) in
        [(&added.config, blob_path(&added.manifest)), (&added.manifest, "index.json".to_owned())]
    {
        let mut files = layout.files();
        files.remove(&blob_path(left_out));
        let error = refuse(pack(&files));
        assert!(matches!(error, LoadError::MissingMember { .. }));
        let expected = format!("{:?} is missing, {wanted_by:?} refers to it", blob_path(left_out));
        assert_eq!(error.to_string(), expected);
    }
    let mut files = layout.docker_files();
    let config = format!("{}.json", &added.config[7..]);
    files.remove(&config);
    assert_eq!(
        refuse(pack(&files)).to_string(),
        format!("{config:?} is missing, \"manifest.json\" refers to it")
    );
    for (left_out, other) in [("oci-layout", "index.json"), ("index.json", "oci-layout")] {
        let mut files = layout.files();
        files.remove(left_out);
        let expected = format!("{left_out:?} is missing, {other:?} refers to it");
        assert_eq!(refuse(pack(&files)).to_string(), expected);
    }
}

#[test]
fn bytes_that_are_not_what_their_name_says_are_refused() {
    let layout = Layout::of(&db());
    for digest in layout.blobs.keys() {
        let mut files = layout.files();
        let bytes = files.get_mut(&blob_path(digest)).unwrap();
        let last = bytes.len() - 1;
        bytes[last] ^= 1;
        let error = refuse(pack(&files));
        assert!(
            matches!(&error, LoadError::DigestMismatch { member, expected, .. }
                if *member == blob_path(digest) && expected.to_string() == *digest),
            "{error}"
        );
        // Also where the store has the right ones.
        let shop = Shop::new();
        shop.load(layout.oci_archive());
        assert!(matches!(shop.refuse(pack(&files)), LoadError::DigestMismatch { .. }));
        let dir = crate::common::scratch();
        for (path, bytes) in &files {
            let path = dir.path().join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, bytes).unwrap();
        }
        let (shop, dir) = (Shop::new(), Dir::open_ambient(dir.path()).unwrap());
        shop.with(|into| load_layout(&dir, into, &LoadOptions::default())).unwrap_err();
        assert!(shop.all().is_empty());
    }
}

#[test]
fn sizes_that_a_descriptor_gets_wrong_are_refused() {
    let layout = Layout::of(&db());
    let added = &layout.images[0];
    let mut wrong = layout.clone();
    let mut manifest: Value = serde_json::from_slice(&layout.blobs[&added.manifest]).unwrap();
    manifest["layers"][1]["size"] = json!(1);
    let descriptor = wrong.document("application/vnd.oci.image.manifest.v1+json", &manifest);
    wrong.index["manifests"] = json!([descriptor]);
    let error = refuse(wrong.oci_archive());
    let size = layout.blobs[&added.layers[1]].len() as u64;
    assert!(
        matches!(&error, LoadError::SizeMismatch { member, expected: 1, actual }
            if *member == blob_path(&added.layers[1]) && *actual == size),
        "{error}"
    );
    let mut wrong = layout.clone();
    wrong.index["manifests"][0]["size"] = json!(1);
    let error = refuse(wrong.oci_archive());
    assert!(
        matches!(error, LoadError::Image { source: ImageError::SizeMismatch { expected: 1, .. }, .. }),
        "{error}"
    );
}

#[test]
fn a_layer_in_the_wrong_place_is_refused() {
    let layout = Layout::of(&web());
    let mut files = layout.docker_files();
    edit(&mut files, "manifest.json", |items| items[0]["Layers"].as_array_mut().unwrap().reverse());
    let error = refuse(pack(&files));
    let [first, second] = &layout.images[0].diff_ids[..] else { panic!() };
    assert!(
        matches!(&error, LoadError::DiffIdMismatch { expected, actual, .. }
            if expected.to_string() == *first && actual.to_string() == *second),
        "{error}"
    );
    let mut files = layout.docker_files();
    edit(&mut files, "manifest.json", |items| drop(items[0]["Layers"].as_array_mut().unwrap().pop()));
    let error = chain(&refuse(pack(&files)));
    assert_eq!(error, "\"manifest.json\" is refused: the manifest lists 1 layers and the config 2 diff ids");
}

#[test]
fn a_config_that_is_not_the_id_it_is_called_by_is_refused() {
    let layout = Layout::of(&web());
    let mut files = layout.docker_files();
    let config = format!("{}.json", &layout.images[0].config[7..]);
    edit(&mut files, &config, |config| config["author"] = json!("somebody else"));
    let error = refuse(pack(&files));
    assert!(matches!(&error, LoadError::DigestMismatch { member, .. } if *member == config), "{error}");
}

#[test]
fn one_document_twice_refuses_the_archive() {
    let layout = Layout::of(&web());
    let files = hybrid(&layout);
    for document in ["manifest.json", "index.json", "oci-layout"] {
        let twice = files.iter().fold(tar(), |tar, (path, bytes)| tar.file(path, bytes));
        let error = refuse(twice.file(format!("./{document}"), &files[document]).finish());
        assert_eq!(error.to_string(), format!("{document:?} is in the archive twice"));
    }
}

#[test]
fn documents_that_other_readers_would_understand_otherwise_are_refused() {
    let layout = Layout::of(&web());
    let files = layout.docker_files();
    let manifest = String::from_utf8(files["manifest.json"].clone()).unwrap();
    for (wrong, message) in [
        (
            manifest.replace("\"Layers\"", "\"Config\":\"x\",\"Layers\""),
            "\"manifest.json\" is refused: manifest.json[0].Config is there twice",
        ),
        (
            manifest.replace("\"RepoTags\"", "\"repotags\":[],\"RepoTags\""),
            "\"manifest.json\" is refused: manifest.json[0].repotags would be read as \"RepoTags\" by some and ignored by others",
        ),
        (
            manifest[..manifest.len() - 1].to_owned(),
            "\"manifest.json\" is refused: manifest.json is not JSON",
        ),
        ("{}".to_owned(), "\"manifest.json\" is refused: manifest.json should be an array, found an object"),
        ("[{}]".to_owned(), "\"manifest.json\" is refused: manifest.json[0].Config is missing"),
        ("[]".to_owned(), "\"manifest.json\" lists no image"),
    ] {
        let mut files = files.clone();
        files.insert("manifest.json".to_owned(), wrong.into_bytes());
        let error = chain(&refuse(pack(&files)));
        assert!(error.starts_with(message), "{error}");
    }
    let mut files = layout.files();
    edit(&mut files, "index.json", |index| index["manifests"] = json!([]));
    assert_eq!(refuse(pack(&files)).to_string(), "\"index.json\" lists no image");
    for (content, message) in [
        ("{\"imageLayoutVersion\":\"2.0.0\"}", "\"oci-layout\" is not of version 1: it says \"2.0.0\""),
        ("{}", "\"oci-layout\" is not of version 1: it says nothing of a version"),
        ("[]", "\"oci-layout\" is refused: oci-layout should be an object, found an array"),
    ] {
        let mut files = layout.files();
        files.insert("oci-layout".to_owned(), content.into());
        assert_eq!(chain(&refuse(pack(&files))), message);
    }
}

#[test]
fn an_archive_cut_anywhere_leaves_nothing() {
    let layout = Layout::of(&db());
    for archive in [layout.oci_archive(), layout.docker_archive()] {
        let shop = Shop::new();
        let whole = archive.len() - 1024; // without its end mark it is as good
        // Behind the last byte of the last member there is nothing to miss.
        for end in (0..=whole - 512).step_by(256) {
            let error = shop.refuse(&archive[..end]);
            assert!(
                matches!(
                    error,
                    LoadError::Truncated { .. }
                        | LoadError::MissingMember { .. }
                        | LoadError::MissingLayers { .. }
                        | LoadError::NotAnArchive { .. }
                ),
                "{end}: {error:?}"
            );
        }
        shop.load(&archive[..whole]);
    }
    let archive = gzip(&layout.oci_archive());
    let shop = Shop::new();
    for end in (0..archive.len()).step_by(97) {
        shop.refuse(&archive[..end]);
    }
    let error = shop.refuse(&archive[..archive.len() - 1]);
    assert!(
        chain(&error).starts_with("cannot decompress the archive: the gzip stream is cut short"),
        "{error}"
    );
}

#[test]
fn what_is_no_image_archive_is_told_what_it_is() {
    let rootfs = tar().dir("etc").file("etc/passwd", "root").symlink("bin", "usr/bin").finish();
    for (bytes, message) in [
        (&b"hello"[..], "not an image archive, but a text"),
        (b"", "not an image archive, but nothing: it is empty"),
        (
            &rootfs,
            "not an image archive, but a tar with neither index.json nor manifest.json (2 members, such as bin); \
             a root file system can be imported",
        ),
        (
            b"\x04\x22\x4d\x18",
            "the archive is compressed with lz4, which is not supported: decompress it first",
        ),
    ] {
        assert_eq!(refuse(bytes).to_string(), message);
    }
    let shop = Shop::new();
    let dir = crate::common::scratch();
    let open = Dir::open_ambient(dir.path()).unwrap();
    let error = shop.with(|into| load_layout(&open, into, &LoadOptions::default())).unwrap_err();
    assert_eq!(error.to_string(), "not an image archive, but a directory without oci-layout");
}

#[test]
fn names_that_leave_the_archive_are_refused() {
    let archive = Layout::of(&web()).files().iter().fold(tar(), |tar, (path, bytes)| tar.file(path, bytes));
    let error = refuse(archive.file("../../outside", "x").finish());
    assert_eq!(
        chain(&error),
        "the archive is damaged: tar entry 6 cannot be named \"../../outside\": the name has a \"..\" component"
    );
}

#[test]
fn nothing_grows_beyond_its_limit() {
    let layout = Layout::of(&web());
    let try_with = |change: &dyn Fn(&mut LoadOptions<'_>), archive: Vec<u8>| {
        let mut options = LoadOptions::default();
        change(&mut options);
        let shop = Shop::new();
        let error = shop.with(|into| load(&archive[..], into, &options)).unwrap_err();
        assert!(shop.all().is_empty());
        error
    };
    let error = try_with(&|options| options.limits.archive_members = 3, layout.oci_archive());
    assert!(matches!(error, LoadError::Limit { limit: "archive_members", maximum: 3, .. }), "{error}");
    let error = try_with(&|options| options.limits.json_bytes = 20, layout.oci_archive());
    assert!(
        matches!(error, LoadError::Image { source: ImageError::TooLarge { limit: 20, .. }, .. }),
        "{error}"
    );
    let error = try_with(&|options| options.limits.images = 0, layout.docker_archive());
    assert!(matches!(error, LoadError::Image { source: ImageError::TooMany { .. }, .. }), "{error}");
    let error = try_with(&|options| options.limits.layers = 1, layout.docker_archive());
    assert!(matches!(error, LoadError::Image { source: ImageError::TooMany { .. }, .. }), "{error}");
    // Each document is within its limit.
    let mut many = Layout::default();
    let mut large = web();
    large.config["author"] = json!("a".repeat(30_000));
    for number in 0..20 {
        many.add(&large.clone().layer(layer(&number.to_string())));
    }
    for archive in [many.oci_archive(), many.docker_archive()] {
        let error = try_with(&|options| options.limits.documents_memory = 300_000, archive);
        assert!(matches!(error, LoadError::Limit { limit: "documents_memory", .. }), "{error}");
    }
    let hole = tar().sparse("hole", 1 << 40, &[(0, b"x")], SparseDialect::Pax10).finish();
    let error = try_with(&|_| (), hole);
    assert!(matches!(error, LoadError::Limit { limit: "expansion", .. }), "{error}");
}
