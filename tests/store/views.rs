//! A view that lost its record is in nobody's way, and what it shows stays while it is mounted.

use std::fs;
use std::path::{Path, PathBuf};

use plywood::driver::DriverKind;
use plywood::store::{
    CheckOptions, GcOptions, Image, Outcome, PruneImages, PruneOptions, RemoveImage, RepairOptions,
};

use crate::common::image::{ImageSpec, image};
use crate::common::privilege::{self, MOUNTING, Privilege};
use crate::common::tar::tar;
use crate::world::*;

fn spec(name: &str) -> ImageSpec {
    let base = tar().dir("base").file("base/file", "base").finish();
    image().layer(base).layer(tar().file("own", name).finish()).name(&format!("docker.io/library/{name}:1"))
}

/// The record of the view of an image.
fn record(world: &World, image: &Image) -> PathBuf {
    world.path().join("views").join(image.manifest_digest().hex()).join("container.json")
}

/// Ways to lose a record.
const LOSSES: [fn(&Path); 4] = [
    |record| fs::remove_file(record).unwrap(),
    |record| fs::write(record, "").unwrap(),
    |record| fs::write(record, "{\"id\": 1}").unwrap(),
    |record| {
        fs::remove_file(record).unwrap();
        fs::create_dir(record).unwrap();
    },
];

/// As another tool may do; of ours none forgets an image that is mounted.
fn forget_names(world: &World) {
    fs::write(world.path().join("oci/index.json"), "{\"schemaVersion\":2,\"manifests\":[]}").unwrap();
}

fn damages(world: &World) -> Vec<(&'static str, String)> {
    let report = world.store.check(&CheckOptions::default()).unwrap();
    report.damages.iter().map(|damage| (damage.kind(), damage.subject())).collect()
}

#[test]
fn a_view_that_lost_its_record_is_named_and_what_it_shows_stays_while_it_is_mounted() {
    privilege::under(MOUNTING, |privilege| {
        for lose in LOSSES {
            let world = World::driver(DriverKind::Overlay);
            let [shown, other] = ["shown", "other"].map(|name| world.load_image(&spec(name)));
            let path = world.store.mount_image(&shown).unwrap();
            lose(&record(&world, &shown));
            let hex = shown.manifest_digest().hex();
            assert_eq!(damages(&world), [("view", hex.to_string())], "{privilege:?}");

            // It is in nobody's way, and nothing that it shows goes.
            world.store.remove_image("other:1", RemoveImage::Refuse).unwrap();
            world.store.prune(&PruneOptions::images(PruneImages::All)).unwrap();
            let report = world.store.gc(&GcOptions::default()).unwrap();
            assert_eq!(report.leftovers, 0, "{report:?}");
            assert!(world.store.image(&other.digest().to_string()).is_err());
            assert_eq!(fs::read_to_string(path.join("own")).unwrap(), "shown");
            assert_eq!(fs::read_to_string(path.join("base/file")).unwrap(), "base");
            let error = world.store.remove_image("shown:1", RemoveImage::Refuse).unwrap_err();
            assert_eq!(error.kind(), "image-mounted", "{}", chain(&error));
            // Even where its image has lost its name.
            forget_names(&world);
            world.store.gc(&GcOptions::default()).unwrap();
            assert_eq!(fs::read_to_string(path.join("base/file")).unwrap(), "base");

            assert_eq!(world.store.mount_image(&shown).unwrap(), path);
            world.store.unmount_image(&shown).unwrap();
            assert_eq!(damages(&world), []);
            world.store.gc(&GcOptions::default()).unwrap();
            for dir in ["views", "layers", "oci/blobs/sha256"] {
                assert!(names_in(&world.path().join(dir)).is_empty(), "{dir}");
            }
        }
    });
}

#[test]
fn every_layer_stays_while_nobody_knows_what_a_mounted_view_needs() {
    privilege::under(&[Privilege::Root], |_| {
        let world = World::driver(DriverKind::Overlay);
        let shown = world.load_image(&spec("shown"));
        let path = world.store.mount_image(&shown).unwrap();
        fs::remove_file(record(&world, &shown)).unwrap();
        forget_names(&world);
        fs::write(world.path().join("oci/blobs/sha256").join(shown.manifest_digest().hex()), "{}").unwrap();
        world.store.gc(&GcOptions::default()).unwrap();
        assert_eq!(fs::read_to_string(path.join("base/file")).unwrap(), "base");
        let report = world.store.repair(&RepairOptions::default()).unwrap();
        let view = report.repaired.iter().find(|one| one.kind == "view").unwrap();
        assert_eq!(view.outcome, Outcome::Kept, "{view}");
        world.store.unmount_image(&shown).unwrap();
        world.store.gc(&GcOptions::default()).unwrap();
        assert!(names_in(&world.path().join("layers")).is_empty());
    });
}

#[test]
fn a_view_that_lost_its_record_is_made_again_or_mended() {
    privilege::under(&[Privilege::Root], |_| {
        for lose in LOSSES {
            let world = World::driver(DriverKind::Overlay);
            let image = world.load_image(&spec("shown"));
            let path = world.store.mount_image(&image).unwrap();
            let record = record(&world, &image);
            let said = |how: &RepairOptions<'_>| {
                let report = world.store.repair(how).unwrap();
                assert!(report.is_whole(), "{report:?}");
                report.repaired.iter().map(ToString::to_string).collect::<Vec<_>>()
            };
            // Mounted, its record is written again.
            let whole = fs::read_to_string(&record).unwrap();
            // What the image was called then is known no more.
            let whole = whole.replace(",\"name\":\"shown:1\"", "");
            lose(&record);
            let told = said(&RepairOptions::dry_run());
            assert!(told[0].contains("has its record again"), "{told:?}");
            assert_eq!(said(&RepairOptions::default()), told);
            assert_eq!(fs::read_to_string(&record).unwrap(), whole);
            assert_eq!(damages(&world), []);
            assert_eq!(fs::read_to_string(path.join("own")).unwrap(), "shown");
            // As after a reboot, a repair takes it away.
            rustix::mount::unmount(&path, rustix::mount::UnmountFlags::empty()).unwrap();
            lose(&record);
            let told = said(&RepairOptions::dry_run());
            assert!(told[0].contains("is taken away"), "{told:?}");
            assert_eq!(said(&RepairOptions::default()), told);
            assert!(!record.exists());
            // Without a repair, the next mount makes it again.
            assert_eq!(world.store.mount_image(&image).unwrap(), path);
            rustix::mount::unmount(&path, rustix::mount::UnmountFlags::empty()).unwrap();
            lose(&record);
            assert_eq!(world.store.mount_image(&image).unwrap(), path);
            assert_eq!(fs::read_to_string(path.join("own")).unwrap(), "shown");
            // Without an image, a collection takes it.
            rustix::mount::unmount(&path, rustix::mount::UnmountFlags::empty()).unwrap();
            lose(&record);
            world.store.remove_image("shown:1", RemoveImage::Refuse).unwrap();
            assert_eq!(world.store.gc(&GcOptions::dry_run()).unwrap().leftovers, 1);
            assert_eq!(world.store.gc(&GcOptions::default()).unwrap().leftovers, 1);
            assert!(names_in(&world.path().join("views")).is_empty());
        }
    });
}
