//! What a stranger's image may cost: work without content, and zeros in many layers.

use plywood::limits::Limits;
use plywood::store::{LoadOptions, Unpack};

use crate::common::image::{Compression, Layout, image};
use crate::common::tar::tar;
use crate::world::*;

#[test]
fn an_archive_of_streams_that_hold_nothing_is_refused() {
    let world = World::with(&options());
    let empty = b"BZh9\x17\x72\x45\x38\x50\x90\0\0\0\0".repeat(100_000);
    let error = world.refuse(|store| store.load(&empty[..], &LoadOptions::default()));
    assert_eq!(error.kind(), "limit", "{}", chain(&error));
    let error = world.refuse(|store| store.import(&empty[..], &Default::default()));
    assert_eq!(error.kind(), "limit", "{}", chain(&error));
}

#[test]
fn zeros_are_bounded_for_an_image_and_not_for_each_of_its_layers() {
    // Zstandard packs zeros far beyond the expansion that is allowed in any case.
    let layers = |count: usize| {
        let layer = |number: usize| tar().file(format!("zeros-{number}"), vec![0; 8 << 20]).finish();
        let image =
            (0..count).fold(image(), |image, number| image.compressed(layer(number), Compression::Zstd));
        Layout::of(&image.name("docker.io/library/zeros:1")).oci_archive()
    };
    let mut limits = Limits::default();
    limits.expansion_zeros = 20 << 20;
    let world = World::with(&options().limits(limits));
    let mut now = LoadOptions::default();
    now.unpack = Unpack::Now;
    world.store.load(&layers(2)[..], &now).unwrap();
    let error = world.store.load(&layers(6)[..], &now).unwrap_err();
    assert_eq!(error.kind(), "limit", "{}", chain(&error));
    assert!(chain(&error).contains("zeros are unpacked for one image"), "{}", chain(&error));
}
