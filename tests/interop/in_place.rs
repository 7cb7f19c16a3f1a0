//! The store's directory, read by others while we work in it: skopeo 1.9, umoci 0.4.7, podman 4.3 and buildah 1.28 find
//! every image whole at every moment.
//!
//! What a name led to before it was given to another image may be collected while somebody reads it: readers hold nothing. So
//! it is the image of another name that is read here. What they make of images is in the modules of each.

use std::sync::atomic::{AtomicBool, Ordering};

use plywood::image::Reference;
use plywood::store::{CreateOptions, GcOptions, LoadOptions, RemoveContainer, RemoveImage};

use crate::common::image::{Compression, Layout};
use crate::common::peers::Storage;
use crate::common::tar::tar;
use crate::common::{have, run};
use crate::sample::{self, DEMANDING, SIBLING as STEADY};
use crate::world::*;

/// Loads, tags, untags, removes and collects until told to stop.
fn work(world: &World, stop: &AtomicBool) -> u32 {
    let other: Reference = Reference::parse_familiar("tagged:1").unwrap();
    let mut rounds = 0;
    while !stop.load(Ordering::Relaxed) {
        rounds += 1;
        // The same names, another image.
        let spec =
            sample::demanding(Compression::Gzip).layer(tar().file("round", rounds.to_string()).finish());
        let archive = Layout::of(&spec).oci_archive();
        let image = world.store.load(&archive[..], &LoadOptions::default()).unwrap().remove(0).image;
        world.store.tag(&image, &other).unwrap();
        let container = world.store.create_container(&image, &CreateOptions::default()).unwrap();
        container.remove(RemoveContainer::Refuse).unwrap();
        world.store.untag(&other).unwrap();
        for image in world.store.images().unwrap().iter().filter(|image| image.names().is_empty()) {
            world.store.remove_image(&image.digest().to_string(), RemoveImage::Refuse).unwrap();
        }
        world.store.gc(&GcOptions::default()).unwrap();
    }
    rounds
}

#[test]
fn at_every_moment_of_a_busy_store_its_layout_is_whole() {
    let world = World::new();
    world.give(&sample::several(Compression::Gzip));
    let layout = world.layout();
    let (above, dir) = (layout.parent().unwrap(), layout.file_name().unwrap().to_str().unwrap());
    let skopeo = have(&["skopeo"]);
    let umoci = have(&["umoci"]);
    let engines = [Storage::podman(), Storage::buildah()];
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let busy = scope.spawn(|| work(&world, &stop));
        let looked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            for _ in 0..8 {
                if skopeo {
                    let copy = world.path("copy");
                    remove(&copy);
                    let steady = format!("oci:{}:{STEADY}", text(&layout));
                    run("skopeo", ["inspect", &steady]);
                    run("skopeo", ["copy", "-q", &steady, &format!("dir:{}", text(&copy))]);
                }
                if umoci {
                    let list = String::from_utf8(run("umoci", ["ls", "--layout", text(&layout)])).unwrap();
                    assert!(list.lines().any(|name| name == familiar(DEMANDING)), "{list}");
                    assert!(list.lines().any(|name| name == STEADY), "{list}");
                }
            }
            for engine in engines.iter().flatten() {
                engine.run_in(above, &["pull", "-q", &format!("oci:{dir}:{STEADY}")]);
            }
        }));
        stop.store(true, Ordering::Relaxed);
        assert!(busy.join().unwrap() > 0);
        looked.unwrap();
    });
}
