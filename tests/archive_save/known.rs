//! Layers that the receiver has are left out, and taken from what it has.

use std::collections::BTreeSet;

use crate::common::image::{Compression, ImageSpec, Layout, blob_path, image};
use crate::shop::{FORMATS, Shop, as_loaded, layer, members};
use plywood::archive::{ArchiveFormat, Known, LoadError, Loaded};
use plywood::digest::Digest;
use plywood::{LoadOptions, SaveOptions, Store};

/// A base, and an image on it with two more layers.
fn base() -> ImageSpec {
    image()
        .compressed(layer("one"), Compression::Gzip)
        .compressed(layer("two"), Compression::Zstd)
        .name("q.io/base:1")
}

fn web() -> ImageSpec {
    base().compressed(layer("three"), Compression::Gzip).layer(layer("four"))
}

fn both() -> (Layout, Layout) {
    let mut web = web();
    web.names = vec!["q.io/web:1".to_owned()];
    (Layout::of(&base()), Layout::of(&web))
}

/// What somebody has who has these layers.
fn known(layers: &[String]) -> Known {
    let mut known = Known::default();
    assert_eq!(known.add_text(&layers.join("\n")), layers.len());
    known
}

fn delta(format: ArchiveFormat, known: &Known, change: impl FnOnce(&mut SaveOptions<'_>)) -> Vec<u8> {
    let shop = Shop::new();
    let images = as_loaded(&shop.load(both().1.oci_archive()));
    let with = |options: &mut SaveOptions<'_>| {
        options.known = known.clone();
        change(options);
    };
    shop.save_with(&images, format, with).unwrap().0
}

fn ids(images: &[Loaded]) -> Vec<String> {
    images.iter().map(|image| image.manifests[0].manifest.config.digest.to_string()).collect()
}

#[test]
fn what_the_receiver_has_is_left_out_and_taken_from_there() {
    let (base, web) = both();
    let (_, added) = (&base.images[0], &web.images[0]);
    for format in FORMATS {
        let delta = delta(format, &known(&base.images[0].layers), |_| ());
        let (_, files) = members(&delta);
        let has = |digest: &String| files.contains_key(&blob_path(digest));
        assert_eq!(added.layers.iter().map(has).collect::<Vec<_>>(), [false, false, true, true]);
        let receiver = Shop::new();
        receiver.load(base.oci_archive());
        let loaded = receiver.load(&delta);
        assert_eq!(loaded[0].target.digest.to_string(), added.manifest, "{format:?}");
    }
}

#[test]
fn what_neither_has_is_listed_layer_by_layer_and_nothing_changes() {
    let (base, web) = both();
    for format in FORMATS {
        let delta = delta(format, &known(&base.images[0].layers), |_| ());
        let receiver = Shop::new();
        let error = receiver.try_load(&delta).unwrap_err();
        let LoadError::MissingLayers { layers } = &error else { panic!("{error}") };
        let found: Vec<_> =
            layers.iter().map(|layer| (layer.member.clone(), layer.diff_id.to_string())).collect();
        let added = &web.images[0];
        let expected: Vec<_> =
            (0..2).map(|at| (blob_path(&added.layers[at]), added.diff_ids[at].clone())).collect();
        assert_eq!(found, expected);
        for at in 0..2 {
            assert!(error.to_string().contains(&added.layers[at][7..]), "{error}");
        }
        assert_eq!(receiver.blobs.list().unwrap(), []);
    }
}

#[test]
fn what_is_left_out_is_not_compressed_anew() {
    let (base, web) = both();
    let keep = known(&base.images[0].layers);
    let archive = delta(ArchiveFormat::OciArchive, &keep, |options| {
        options.compression = "zstd:9".parse().unwrap();
    });
    let receiver = Shop::new();
    receiver.load(base.oci_archive());
    let loaded = receiver.load(&archive);
    assert_eq!(ids(&loaded), [web.images[0].config.clone()]);
    let layers = &loaded[0].manifests[0].manifest.layers;
    let digests: BTreeSet<String> = layers.iter().map(|layer| layer.digest.to_string()).collect();
    for at in 0..4 {
        assert_eq!(digests.contains(&web.images[0].layers[at]), at < 2, "layer {at}");
    }
}

#[test]
fn a_classic_delta_is_completed_by_diff_ids_however_the_receiver_has_its_layers_packed() {
    let (base, web) = both();
    let mut without = known(&base.images[0].diff_ids);
    without.blobs.clear();
    let archive = delta(ArchiveFormat::ClassicDockerArchive, &without, |_| ());
    let (names, _) = members(&archive);
    assert_eq!(names.iter().filter(|name| name.ends_with(".tar") && !name.contains('/')).count(), 2);

    let temp = crate::common::scratch();
    let store = Store::create(temp.path()).unwrap();
    let options = LoadOptions::default();
    let error = store.load(&archive[..], &options).unwrap_err();
    assert_eq!(error.kind(), "missing-layers");
    let facts: Vec<_> = error.facts().into_iter().filter(|(name, _)| *name == "diff_ids").collect();
    assert_eq!(facts, [("diff_ids", base.images[0].diff_ids.join(" "))]);
    assert!(store.images().unwrap().is_empty());

    store.load(&base.oci_archive()[..], &options).unwrap();
    let loaded = store.load(&archive[..], &options).unwrap();
    assert_eq!(loaded[0].image.id().to_string(), web.images[0].config);
    let packed: Vec<String> =
        loaded[0].image.manifest().layers.iter().map(|layer| layer.digest.to_string()).collect();
    assert_eq!(packed[..2], base.images[0].layers, "as they were packed here");
    assert!(store.check(&plywood::CheckOptions::default()).unwrap().damages.is_empty());
}

#[test]
fn a_store_says_what_the_owner_of_an_image_knows() {
    let (base, _) = both();
    let temp = crate::common::scratch();
    let store = Store::create(temp.path()).unwrap();
    let loaded = store.load(&base.oci_archive()[..], &LoadOptions::default()).unwrap();
    let digests = |texts: &[String]| texts.iter().map(|text| text.parse::<Digest>().unwrap()).collect();
    let oci = store.known(&loaded[0].image, ArchiveFormat::OciArchive).unwrap();
    assert_eq!((oci.blobs, oci.diff_ids.len()), (digests(&base.images[0].layers), 0));
    let classic = store.known(&loaded[0].image, ArchiveFormat::ClassicDockerArchive).unwrap();
    let diff_ids: BTreeSet<Digest> = classic.diff_ids.iter().map(|diff_id| *diff_id.as_digest()).collect();
    assert_eq!((diff_ids, classic.blobs.len()), (digests(&base.images[0].diff_ids), 0));
}

#[test]
fn every_image_that_lacks_a_layer_is_told_of() {
    let shop = Shop::new();
    let mut layout = Layout::of(&image().layer(layer("a")).name("q.io/a:1"));
    layout.add(&image().layer(layer("b")).name("q.io/b:1"));
    layout.add(&image().layer(layer("a")).layer(layer("c")).name("q.io/c:1"));
    let images = as_loaded(&shop.load(layout.oci_archive()));
    let without = known(&[layout.images[0].layers[0].clone(), layout.images[1].layers[0].clone()]);
    for format in FORMATS {
        let change = |options: &mut SaveOptions<'_>| options.known = without.clone();
        let (archive, _) = shop.save_with(&images, format, change).unwrap();
        let error = Shop::new().try_load(archive).unwrap_err();
        let LoadError::MissingLayers { layers } = error else { panic!("{error}") };
        let wanted: Vec<_> = layers.iter().map(|layer| layer.wanted_by.clone()).collect();
        let manifests: Vec<_> = layout.images.iter().map(|added| blob_path(&added.manifest)).collect();
        assert_eq!(wanted, manifests);
    }
}
