//! What the images of an archive are called.

use crate::common::image::{Layout, image, pack};
use plywood::archive::{LoadError, LoadOptions, Warning, load};
use plywood::image::Reference;
use serde_json::{Value, json};

use crate::shop::*;

#[test]
fn names_come_from_the_annotations_else_from_the_docker_side() {
    let mut layout = Layout::of(&web());
    layout.add(&db());
    layout.add(&image().layer(layer("third")));
    // The second lost its annotations, the third never had a name.
    for entry in layout.index["manifests"].as_array_mut().unwrap().iter_mut().skip(1) {
        entry.as_object_mut().unwrap().remove("annotations");
    }
    let mut files = hybrid(&layout);
    edit(&mut files, "manifest.json", |items| {
        items[0]["RepoTags"] = json!(["other:9"]);
        items[2]["RepoTags"] = Value::Null;
    });
    let loaded = Shop::new().load(pack(&files));
    assert_eq!(
        loaded.iter().map(names).collect::<Vec<_>>(),
        [vec!["web:1".to_owned()], vec!["quay.io/me/db:2".to_owned(), "db:latest".to_owned()], vec![]]
    );
}

#[test]
fn an_image_that_only_the_docker_side_lists_is_loaded_too() {
    let mut layout = Layout::of(&web());
    layout.add(&image().layer(layer("untagged")));
    let mut files = hybrid(&layout);
    edit(&mut files, "index.json", |index| drop(index["manifests"].as_array_mut().unwrap().pop()));
    let loaded = Shop::new().load(pack(&files));
    let configs: Vec<_> =
        loaded.iter().map(|image| image.manifests[0].manifest.config.digest.to_string()).collect();
    assert_eq!(configs, [layout.images[0].config.clone(), layout.images[1].config.clone()]);
}

#[test]
fn a_bare_tag_is_a_name_only_with_a_repository() {
    let mut layout = Layout::of(&web());
    layout.index["manifests"][0]["annotations"] =
        json!({"org.opencontainers.image.ref.name": "latest", "other": "x"});
    let loaded = Shop::new().load(layout.oci_archive());
    assert!(loaded[0].names.is_empty());
    assert_eq!(loaded[0].warnings, [Warning::OnlyTag { tag: "latest".to_owned() }]);
    assert_eq!(loaded[0].target.annotations.len(), 1);
    let mut options = LoadOptions::default();
    options.repository = Some(Reference::parse_familiar("quay.io/me/web:ignored").unwrap());
    let loaded = Shop::new().with(|into| load(&layout.oci_archive()[..], into, &options)).unwrap();
    assert_eq!(names(&loaded[0]), ["quay.io/me/web:latest"]);
    assert!(loaded[0].warnings.is_empty());
    // The docker side knows more.
    let loaded = Shop::new().load(pack(&hybrid(&layout)));
    assert_eq!((names(&loaded[0]), loaded[0].warnings.len()), (vec!["web:1".to_owned()], 0));
    layout.index["manifests"][0]["annotations"] = json!({"org.opencontainers.image.ref.name": "Not A Name"});
    let loaded = Shop::new().load(layout.oci_archive());
    assert_eq!(loaded[0].warnings, [Warning::NotAName { text: "Not A Name".to_owned() }]);
}

#[test]
fn a_name_that_two_images_have_goes_to_the_last_and_the_result_says_so() {
    let mut layout = Layout::of(&web());
    layout
        .add(&image().layer(layer("newer")).name("docker.io/library/web:1").name("docker.io/library/web:2"));
    for archive in [layout.oci_archive(), layout.docker_archive()] {
        let loaded = Shop::new().load(archive);
        assert_eq!(
            (names(&loaded[0]), names(&loaded[1])),
            (vec![], vec!["web:1".to_owned(), "web:2".to_owned()])
        );
        let name = Reference::parse_familiar("web:1").unwrap();
        assert_eq!(loaded[0].warnings, [Warning::NameTaken { name, winner: loaded[1].target.digest }]);
        assert!(loaded[1].warnings.is_empty());
    }
}

#[test]
fn a_tag_that_is_none_refuses_the_archive() {
    let layout = Layout::of(&web());
    for tag in ["Web:1", "web", "web:", "<none>:<none>", "web@sha256:00", ""] {
        let mut files = layout.docker_files();
        edit(&mut files, "manifest.json", |items| items[0]["RepoTags"] = json!(["fine:1", tag]));
        let error = refuse(pack(&files));
        assert!(matches!(&error, LoadError::InvalidTag { tag: found, .. } if found == tag), "{error}");
    }
}

#[test]
fn tags_that_read_as_ids_are_left_out_with_a_warning() {
    let layout = Layout::of(&web());
    let id = layout.images[0].config.clone();
    for tag in [id.clone(), "sha256:cafe".to_owned(), format!("{}:1", &id[7..])] {
        let mut files = layout.docker_files();
        edit(&mut files, "manifest.json", |items| items[0]["RepoTags"] = json!(["fine:1", tag]));
        let loaded = Shop::new().load(pack(&files));
        assert_eq!(names(&loaded[0]), ["fine:1"], "{tag}");
        assert_eq!(loaded[0].warnings, [Warning::NameReadsAsId { text: tag }]);
    }
    // The digest of a manifest that is made here cannot have been known.
    let mut files = layout.docker_files();
    let name = format!("fine@{id}");
    edit(&mut files, "manifest.json", |items| items[0]["RepoTags"] = json!([name]));
    let loaded = Shop::new().load(pack(&files));
    assert_eq!(loaded[0].names, []);
    let expected = Warning::FalseDigest {
        name: Reference::parse_familiar(&name).unwrap(),
        digest: loaded[0].target.digest,
    };
    assert_eq!(loaded[0].warnings, [expected]);
}

#[test]
fn layers_that_have_no_file_name_are_told_by_their_diff_ids() {
    // Buildpacks leave the layers of the base out like this.
    let layout = Layout::of(&web());
    let mut files = layout.docker_files();
    edit(&mut files, "manifest.json", |items| {
        for layer in items[0]["Layers"].as_array_mut().unwrap() {
            *layer = json!("");
        }
    });
    let error = refuse(pack(&files));
    let text = error.to_string();
    assert!(matches!(&error, LoadError::MissingLayers { .. }), "{text}");
    assert!(!text.contains("\"\""), "{text}");
    for diff_id in &layout.images[0].diff_ids {
        assert!(text.contains(diff_id), "{text}");
    }
    let mut files = layout.docker_files();
    edit(&mut files, "manifest.json", |items| items[0]["Config"] = json!(""));
    let text = refuse(pack(&files)).to_string();
    assert!(text.starts_with("a member without a name is missing"), "{text}");
}

#[test]
fn a_tag_of_2015_that_reads_as_an_id_is_left_out_with_a_warning() {
    let id = "ab".repeat(32);
    let mut files = std::collections::BTreeMap::new();
    files.insert("top/json".to_owned(), json!({"id": "top"}).to_string().into_bytes());
    files.insert("top/VERSION".to_owned(), b"1.0".to_vec());
    files.insert("top/layer.tar".to_owned(), layer("top"));
    let repositories = json!({"sha256": {&id: "top"}, "web": {"1": "top"}});
    files.insert("repositories".to_owned(), repositories.to_string().into_bytes());
    let loaded = Shop::new().load(pack(&files));
    assert_eq!(names(&loaded[0]), ["web:1"]);
    assert!(loaded[0].warnings.contains(&Warning::NameReadsAsId { text: format!("sha256:{id}") }));
}
