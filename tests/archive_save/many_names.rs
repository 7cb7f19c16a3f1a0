//! Lists of many names: every list that is saved can be loaded, and one that could not is refused.

use std::collections::BTreeSet;

use crate::common::image::Layout;
use crate::common::scratch;
use crate::shop::{Shop, as_loaded, web};
use plywood::archive::{
    ArchiveFormat, Destination, LoadError, LoadOptions, Loaded, SaveError, SaveImage, SaveOptions, load,
    load_layout, save, save_layout,
};
use plywood::fs::Dir;
use plywood::image::{ImageError, Reference};
use plywood::limits::Limits;

const ALL: [ArchiveFormat; 3] =
    [ArchiveFormat::DockerArchive, ArchiveFormat::OciArchive, ArchiveFormat::ClassicDockerArchive];

/// One image of the shop with names of these numbers.
fn named(shop: &Shop, numbers: std::ops::Range<usize>) -> SaveImage {
    let images = as_loaded(&shop.load(Layout::of(&web()).oci_archive()));
    let name = |number| Reference::parse_familiar(&format!("quay.io/some-team/builds:{number:06}")).unwrap();
    SaveImage { target: images[0].target.clone(), names: numbers.map(name).collect() }
}

fn names(loaded: &[Loaded]) -> BTreeSet<Reference> {
    loaded.iter().flat_map(|image| image.names.iter().cloned()).collect()
}

fn load_with(archive: &[u8], limits: &Limits) -> Result<Vec<Loaded>, LoadError> {
    let shop = Shop::new();
    let workspace = shop.staging.workspace().unwrap();
    let into = Destination { blobs: &shop.blobs, workspace: &workspace, lent: None, pin: &|_| Ok(()) };
    let mut options = LoadOptions::default();
    options.limits = limits.clone();
    load(archive, &into, &options)
}

#[test]
fn forty_thousand_names_are_loaded_again() {
    let shop = Shop::new();
    let image = named(&shop, 0..40_000);
    let expected: BTreeSet<_> = image.names.iter().cloned().collect();
    for format in ALL {
        let (archive, _) = shop.save_with(std::slice::from_ref(&image), format, |_| {}).unwrap();
        let loaded = Shop::new().load(&archive);
        assert_eq!(loaded.len(), 1);
        assert_eq!(loaded[0].names.len(), 40_000, "{format:?}");
        assert_eq!(names(&loaded), expected, "{format:?}");
    }
    let temp = scratch();
    let dir = Dir::open_ambient(temp.path()).unwrap();
    // The second save replaces every name of the first.
    for _ in 0..2 {
        let images = std::slice::from_ref(&image);
        save_layout(images, &shop.blobs, &dir, &SaveOptions::default()).unwrap();
        let there = Shop::new();
        let workspace = there.staging.workspace().unwrap();
        let into = Destination { blobs: &there.blobs, workspace: &workspace, lent: None, pin: &|_| Ok(()) };
        let loaded = load_layout(&dir, &into, &LoadOptions::default()).unwrap();
        assert_eq!((loaded.len(), names(&loaded).len()), (1, 40_000));
        assert_eq!(names(&loaded), expected);
    }
}

#[test]
fn what_could_not_be_loaded_is_refused_by_name_of_the_limit_before_anything_is_written() {
    let shop = Shop::new();
    let image = named(&shop, 0..11);
    let attempt = |format, change: &dyn Fn(&mut Limits)| {
        let mut options = SaveOptions::default();
        change(&mut options.limits);
        let mut out = Vec::new();
        let error = save(std::slice::from_ref(&image), &shop.blobs, format, &mut out, &options);
        assert!(out.is_empty());
        error.unwrap_err()
    };
    for format in [ArchiveFormat::DockerArchive, ArchiveFormat::OciArchive] {
        let error = attempt(format, &|limits| limits.images = 10);
        assert!(
            matches!(
                &error,
                SaveError::TooManyNames {
                    document: "index.json",
                    limit: "images",
                    source: ImageError::TooMany { found: 11, limit: 10, .. }
                }
            ),
            "{error:?}"
        );
        assert!(
            error.to_string().contains("index.json") && error.to_string().contains("`images`"),
            "{error}"
        );
        let error = attempt(format, &|limits| limits.list_bytes = 1000);
        assert!(
            matches!(error, SaveError::TooManyNames { document: "index.json", limit: "list_bytes", .. }),
            "{error:?}"
        );
    }
    for (list_bytes, document) in [(100, "manifest.json"), (800, "repositories")] {
        let error = attempt(ArchiveFormat::ClassicDockerArchive, &|limits| limits.list_bytes = list_bytes);
        assert!(
            matches!(&error, SaveError::TooManyNames { document: found, limit: "list_bytes", .. } if *found == document),
            "{error:?}"
        );
    }
}

#[test]
fn under_any_limit_what_is_saved_is_loaded() {
    let shop = Shop::new();
    let image = named(&shop, 0..11);
    let check = |limits: Limits| {
        let mut saved = 0;
        for format in ALL {
            let archive = shop
                .save_with(std::slice::from_ref(&image), format, |options| options.limits = limits.clone());
            if let Ok((archive, _)) = archive {
                let loaded = load_with(&archive, &limits);
                let loaded = loaded.unwrap_or_else(|error| panic!("{format:?} {limits:?}: {error:?}"));
                assert_eq!(names(&loaded).len(), 11);
                saved += 1;
            }
        }
        saved
    };
    let with = |change: &dyn Fn(&mut Limits)| {
        let mut limits = Limits::default();
        change(&mut limits);
        check(limits)
    };
    let by_count: Vec<_> = (1..=12).map(|images| with(&|limits| limits.images = images)).collect();
    assert_eq!((by_count[0], by_count[11]), (1, 3), "{by_count:?}");
    let by_bytes: Vec<_> = (0..40).map(|part| with(&|limits| limits.list_bytes = part * 120)).collect();
    assert_eq!((by_bytes[0], by_bytes[39]), (0, 3), "{by_bytes:?}");
}

#[test]
fn a_layout_at_the_limit_lists_what_it_listed() {
    let shop = Shop::new();
    let temp = scratch();
    let dir = Dir::open_ambient(temp.path()).unwrap();
    let mut options = SaveOptions::default();
    options.limits.images = 10;
    save_layout(&[named(&shop, 0..8)], &shop.blobs, &dir, &options).unwrap();
    let before = std::fs::read(temp.path().join("index.json")).unwrap();
    let error = save_layout(&[named(&shop, 6..11)], &shop.blobs, &dir, &options).unwrap_err();
    assert!(
        matches!(error, SaveError::TooManyNames { document: "index.json", limit: "images", .. }),
        "{error:?}"
    );
    assert_eq!(std::fs::read(temp.path().join("index.json")).unwrap(), before);
    save_layout(&[named(&shop, 6..10)], &shop.blobs, &dir, &options).unwrap();
}
