//! The build cache: a step that was done is found, for as long as all that came of it is there.

use std::collections::BTreeSet;
use std::path::PathBuf;

use plywood::store::{
    CommitOptions, CreateOptions, GcOptions, Image, PruneImages, PruneOptions, RemoveContainer, RemoveImage,
    StoreError,
};
use plywood::{CheckOptions, CheckReport, StepKey, Timestamp, UsageOptions};

use plywood::driver::DriverKind;

use crate::common::image::{blob_path, image};
use crate::common::privilege::{self, ALL};
use crate::common::tar::tar;
use crate::world::*;

fn base(world: &World) -> Image {
    world.load_image(&image().layer(tar().file("base", "base").finish()).name("docker.io/library/base:1"))
}

/// Does a step of a build: a file more on `parent`.
fn step(world: &World, parent: &Image, file: &str) -> (StepKey, Image) {
    let key = StepKey::new(Some(&parent.id()), file.as_bytes());
    let container = world.store.create_container(parent, &CreateOptions::named("step")).unwrap();
    std::fs::write(container.mount().unwrap().path().join(file), file).unwrap();
    let mut options = CommitOptions::default().step(key);
    options.image.created_by = Some(format!("COPY {file} /"));
    let image = container.commit(&options).unwrap();
    container.remove(RemoveContainer::Refuse).unwrap();
    (key, image)
}

fn found(world: &World, key: &StepKey) -> Option<Image> {
    world.store.build_cache().find(key).unwrap()
}

fn check(world: &World) -> CheckReport {
    let mut options = CheckOptions::default();
    options.deep = true;
    world.store.check(&options).unwrap()
}

fn entry(world: &World, key: &StepKey) -> PathBuf {
    world.path().join("cache/steps").join(key.to_string())
}

#[test]
fn what_came_of_a_step_is_found_and_built_upon_and_is_in_no_list() {
    privilege::under(ALL, |privilege| {
        for &kind in drivers(privilege) {
            let world = World::driver(kind);
            let base = base(&world);
            let (first, one) = step(&world, &base, "one");
            let (second, two) = step(&world, &one, "two");
            world.store.gc(&GcOptions::default()).unwrap();
            assert_eq!(world.store.images().unwrap().len(), 1);
            for (key, image) in [(first, &one), (second, &two)] {
                let found = found(&world, &key).unwrap();
                assert_eq!((found.id(), found.names()), (image.id(), &[][..]));
            }
            assert!(found(&world, &StepKey::new(Some(&base.id()), b"two")).is_none());
            assert!(found(&world, &StepKey::new(None, b"one")).is_none());

            let again = found(&world, &second).unwrap();
            let container = world.store.create_container(&again, &CreateOptions::named("built")).unwrap();
            let mounted = container.mount().unwrap();
            for file in ["base", "one", "two"] {
                assert_eq!(std::fs::read_to_string(mounted.path().join(file)).unwrap(), file);
            }
        }
    });
}

#[test]
fn an_image_with_a_name_is_found_with_it_and_stays_for_the_step_without() {
    let world = World::driver(DriverKind::Overlay);
    let base = base(&world);
    let key = StepKey::new(None, b"FROM base");
    world.store.build_cache().record(&key, &base, Some("FROM base")).unwrap();
    assert_eq!(found(&world, &key).unwrap().names(), base.names());
    world.store.remove_image("base:1", RemoveImage::Refuse).unwrap();
    world.store.gc(&GcOptions::default()).unwrap();
    let left = found(&world, &key).unwrap();
    assert_eq!((left.id(), left.names()), (base.id(), &[][..]));

    // It gets a name again, and needs the step no more.
    world.store.tag(&left, &"base:2".parse().unwrap()).unwrap();
    assert!(world.store.build_cache().remove(&key).unwrap());
    assert!(!world.store.build_cache().remove(&key).unwrap());
    world.store.gc(&GcOptions::default()).unwrap();
    assert_eq!(world.store.image("base:2").unwrap().id(), base.id());
    assert!(check(&world).damages.is_empty());
}

#[test]
fn what_is_gone_cannot_be_recorded_nor_named() {
    let world = World::driver(DriverKind::Overlay);
    let (key, image) = step(&world, &base(&world), "one");
    world.store.build_cache().remove(&key).unwrap();
    let tagged = world.store.tag(&image, &"one".parse().unwrap());
    assert!(matches!(tagged, Err(StoreError::NotFound { .. })), "{tagged:?}");
    world.store.gc(&GcOptions::default()).unwrap();
    let recorded = world.store.build_cache().record(&key, &image, None);
    assert!(matches!(recorded, Err(StoreError::NotFound { .. })), "{recorded:?}");
    assert!(found(&world, &key).is_none());
}

#[test]
fn a_step_of_which_anything_is_missing_or_damaged_is_none_and_is_forgotten() {
    let blob = |world: &World, digest: plywood::Digest| {
        world.path().join("oci").join(blob_path(&digest.to_string()))
    };
    for damage in 0..5 {
        let world = World::driver(DriverKind::Overlay);
        let (key, image) = step(&world, &base(&world), "one");
        let layer = image.manifest().layers.last().unwrap().digest;
        let entry = entry(&world, &key);
        match damage {
            0 => std::fs::remove_file(blob(&world, image.manifest_digest())).unwrap(),
            1 => std::fs::write(blob(&world, image.id()), "{}").unwrap(),
            2 => std::fs::write(&entry, &std::fs::read(&entry).unwrap()[..20]).unwrap(),
            3 => std::fs::write(&entry, "").unwrap(),
            _ => std::fs::remove_file(blob(&world, layer)).unwrap(),
        }
        assert!(found(&world, &key).is_none(), "{damage}");
        world.store.gc(&GcOptions::default()).unwrap();
        // A layer that is missing is for a look to find, and for a load to bring; documents are looked at in any case.
        assert_eq!(entry.exists(), damage == 4, "{damage}");
        let (again, _) = step(&world, &world.store.image("base:1").unwrap(), "one");
        assert!(again == key && found(&world, &key).is_some(), "{damage}");
    }
}

#[test]
fn steps_are_evicted_by_when_they_were_used_and_what_only_they_needed_goes() {
    let world = World::driver(DriverKind::Overlay);
    let base = base(&world);
    let (old, one) = step(&world, &base, "one");
    let (new, _) = step(&world, &one, "two");
    let keys = || world.store.build_cache().steps().unwrap().iter().map(|step| step.key).collect::<Vec<_>>();
    let long_ago = std::fs::FileTimes::new().set_modified(std::time::UNIX_EPOCH);
    let age = |key: &StepKey| {
        std::fs::File::options().append(true).open(entry(&world, key)).unwrap().set_times(long_ago).unwrap();
    };
    age(&old);
    age(&new);
    assert!(found(&world, &new).is_some());
    assert_eq!(keys(), [new, old]);
    let notes: BTreeSet<_> =
        world.store.build_cache().steps().unwrap().into_iter().filter_map(|step| step.note).collect();
    assert_eq!(notes, ["COPY one /", "COPY two /"].map(str::to_owned).into());

    let usage = world.store.usage(&UsageOptions::default()).unwrap();
    assert_eq!((usage.steps, usage.unused.total()), (2, 0));
    assert!(usage.build_cache.blobs > 0);

    let mut options = PruneOptions::build_cache();
    options.until = Some(Timestamp::from_seconds(1000));
    for dry_run in [true, false] {
        options.dry_run = dry_run;
        let before = world.state();
        let report = world.store.prune(&options).unwrap();
        assert_eq!(report.steps.iter().map(|step| step.key).collect::<Vec<_>>(), [old]);
        // The layer of the first is one of the second.
        assert_eq!(report.collected.blobs.len(), 2, "its manifest and its config");
        if dry_run {
            world.state().assert_same(&before, "a dry run");
        }
    }
    assert_eq!(keys(), [new]);
    options.until = None;
    world.store.prune(&options).unwrap();
    assert_eq!(world.store.images().unwrap().len(), 1, "images are not meant");
    assert_eq!(world.store.usage(&UsageOptions::default()).unwrap().build_cache.total(), 0);
    assert_eq!(world.store.gc(&GcOptions::dry_run()).unwrap(), Default::default());
    let mut all = PruneOptions::images(PruneImages::All);
    all.build_cache = true;
    world.store.prune(&all).unwrap();
    assert!(world.store.images().unwrap().is_empty());
}

#[test]
fn a_check_looks_at_what_came_of_steps() {
    let world = World::driver(DriverKind::Overlay);
    let (key, image) = step(&world, &base(&world), "one");
    let sound = check(&world);
    assert!(sound.damages.is_empty(), "{sound:?}");
    let layer = image.manifest().layers.last().unwrap();
    let path = world.path().join("oci").join(blob_path(&layer.digest.to_string()));
    std::fs::write(&path, vec![0; layer.size as usize]).unwrap();
    let report = check(&world);
    let needed_by: Vec<_> = report.damages.iter().flat_map(|damage| damage.needed_by()).collect();
    assert!(needed_by.iter().any(|by| by.contains(&key.to_string())), "{report:?}");
}

#[test]
fn what_is_none_of_the_cache_stays_in_it_and_is_told() {
    let world = World::driver(DriverKind::Overlay);
    let (key, _) = step(&world, &base(&world), "one");
    let steps = world.path().join("cache/steps");
    std::fs::write(steps.join("README"), "mine").unwrap();
    let other = StepKey::new(None, b"").to_string();
    std::fs::create_dir(steps.join(&other)).unwrap();
    let report = world.store.gc(&GcOptions::default()).unwrap();
    assert_eq!(report.strangers.len(), 2, "{report:?}");
    assert!(found(&world, &key).is_some());

    // Something else in the place of all steps is in nobody's way, and nothing can be recorded.
    std::fs::rename(&steps, world.path().join("cache/moved")).unwrap();
    std::fs::write(&steps, "").unwrap();
    assert!(found(&world, &key).is_none());
    world.store.gc(&GcOptions::default()).unwrap();
    let image = world.store.image("base:1").unwrap();
    assert!(world.store.build_cache().record(&key, &image, None).is_err());
}
