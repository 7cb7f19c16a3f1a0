//! Pruning: what nobody uses, as far as it is meant, and what a dry run says of it.

use std::collections::{BTreeMap, BTreeSet};

use plywood::driver::DriverKind;
use plywood::fs::Timestamp;
use plywood::image::{ConfigChange, Reference};
use plywood::store::{
    CommitOptions, CreateOptions, GcOptions, Image, LabelFilter, PruneImages, PruneOptions, PruneReport,
    RemoveContainer, Store,
};

use crate::common::image::image;
use crate::common::privilege::{self, ALL, Privilege};
use crate::common::tar::tar;
use crate::world::*;

/// A store with images made at different times, with labels, with and without names.
struct Shop {
    world: World,
    images: BTreeMap<&'static str, Image>,
}

/// Name, when it was made, a label, whether it keeps its name.
const IMAGES: &[(&str, Option<i64>, Option<&str>, bool)] = &[
    ("old", Some(100), Some("keep=yes"), true),
    ("new", Some(200), Some("keep=no"), true),
    ("loose-old", Some(100), None, false),
    ("loose-new", Some(200), Some("keep=yes"), false),
    ("timeless", None, Some("other=1"), false),
];

impl Shop {
    fn new(kind: DriverKind) -> Self {
        let world = World::driver(kind);
        let base = world
            .load_image(&image().layer(tar().file("base", "base").finish()).name("docker.io/library/base:1"));
        let mut images = BTreeMap::new();
        for &(name, created, label, named) in IMAGES {
            let container = world.store.create_container(&base, &CreateOptions::named(name)).unwrap();
            std::fs::write(container.mount().unwrap().path().join(name), name).unwrap();
            let mut options = CommitOptions::default();
            options.image.name = named.then(|| Reference::parse_familiar(name).unwrap());
            options.image.created = created.map(Timestamp::from_seconds);
            if let Some(label) = label {
                options = options.change(format!("LABEL {label}").parse::<ConfigChange>().unwrap());
            }
            images.insert(name, container.commit(&options).unwrap());
            container.remove(RemoveContainer::Refuse).unwrap();
        }
        Self { world, images }
    }

    fn store(&self) -> &Store {
        &self.world.store
    }

    /// Prunes, after a dry run that changes nothing and says the same.
    #[track_caller]
    fn prune(&self, options: &PruneOptions<'_>) -> PruneReport {
        let before = self.world.state();
        let mut dry = options.clone();
        dry.dry_run = true;
        let would = self.store().prune(&dry).unwrap_or_else(|error| panic!("{}", chain(&error)));
        self.world.state().assert_same(&before, "a dry run");
        let did = self.store().prune(options).unwrap_or_else(|error| panic!("{}", chain(&error)));
        assert_eq!(did, would);
        // Everything is gone by then.
        if options.images != PruneImages::None {
            assert_eq!(self.store().gc(&GcOptions::dry_run()).unwrap(), Default::default());
        }
        did
    }

    /// What is left of the images, by the names of [`IMAGES`].
    fn left(&self) -> BTreeSet<&str> {
        let there: BTreeSet<_> = self.store().images().unwrap().iter().map(|image| image.digest()).collect();
        let left = self.images.iter().filter(|(_, image)| there.contains(&image.digest()));
        left.map(|(name, _)| *name).collect()
    }

    #[track_caller]
    fn gone(&self, options: &PruneOptions<'_>, expected: &[&str]) {
        let before = self.left();
        self.prune(options);
        let gone: BTreeSet<_> = before.difference(&self.left()).copied().collect();
        assert_eq!(gone, expected.iter().copied().collect());
    }
}

fn label(key: &str, value: Option<&str>) -> LabelFilter {
    LabelFilter::new(key, value.map(str::to_owned))
}

#[test]
fn by_default_only_images_without_a_name_go_and_what_only_they_needed() {
    privilege::under(ALL, |privilege| {
        for &kind in drivers(privilege) {
            let shop = Shop::new(kind);
            let report = shop.prune(&PruneOptions::images(PruneImages::Dangling));
            assert_eq!(shop.left(), BTreeSet::from(["old", "new"]));
            assert_eq!(report.images.len(), 3);
            assert!(report.images.iter().all(|image| image.names.is_empty()));
            // Manifest, config and layer of each; the layers were never unpacked.
            assert_eq!(report.collected.blobs.len(), 9);
            assert!(report.bytes() > 0 && report.bytes() == report.collected.bytes);
            assert_eq!(shop.prune(&PruneOptions::images(PruneImages::Dangling)), PruneReport::default());
        }
    });
}

#[test]
fn filters_let_through_what_all_of_them_mean() {
    let all = || PruneOptions::images(PruneImages::All);
    let until = |seconds: i64| {
        let mut options = all();
        options.until = Some(Timestamp::from_seconds(seconds));
        options
    };
    let with = |labels: &[LabelFilter], without: &[LabelFilter]| {
        let mut options = all();
        (options.labels, options.without_labels) = (labels.to_vec(), without.to_vec());
        options
    };
    let shop = || Shop::new(DriverKind::Copy);
    shop().gone(&until(100), &[]);
    // What does not say when it was made stays.
    shop().gone(&until(101), &["old", "loose-old"]);
    shop().gone(&until(1000), &["old", "loose-old", "new", "loose-new"]);
    shop().gone(&with(&[label("keep", None)], &[]), &["old", "new", "loose-new"]);
    shop().gone(&with(&[label("keep", Some("yes"))], &[]), &["old", "loose-new"]);
    shop().gone(&with(&[label("keep", Some("yes")), label("other", None)], &[]), &[]);
    shop().gone(&with(&[], &[label("keep", Some("yes"))]), &["new", "loose-old", "timeless"]);
    shop().gone(&with(&[], &[label("keep", None), label("other", None)]), &["loose-old"]);
    let mut both = with(&[label("keep", None)], &[label("keep", Some("no"))]);
    both.until = Some(Timestamp::from_seconds(150));
    shop().gone(&both, &["old"]);
    both.images = PruneImages::Dangling;
    shop().gone(&both, &[]);
}

#[test]
fn what_a_container_stands_on_or_somebody_looks_at_stays() {
    privilege::under(&[Privilege::Root], |_| {
        let shop = Shop::new(DriverKind::Overlay);
        let create = |name: &str| {
            shop.store().create_container(&shop.images[name], &CreateOptions::named(name)).unwrap()
        };
        let container = create("loose-old");
        let view = shop.store().mount_image(&shop.images["new"]).unwrap();
        shop.gone(&PruneOptions::images(PruneImages::All), &["old", "loose-new", "timeless"]);
        assert!(view.join("new").exists());
        shop.store().unmount_image(&shop.images["new"]).unwrap();
        let mounted = container.mount().unwrap();
        let mut everything = PruneOptions::images(PruneImages::All);
        everything.containers = true;
        // It is mounted.
        shop.gone(&everything, &["new"]);
        mounted.unmount().unwrap();
        let report = shop.prune(&everything);
        assert_eq!(report.containers.iter().map(|one| &*one.name).collect::<Vec<_>>(), ["loose-old"]);
        assert_eq!(shop.left(), BTreeSet::new());
    });
}

#[test]
fn containers_go_by_their_own_times_and_labels_and_take_no_image_with_them() {
    let shop = Shop::new(DriverKind::Copy);
    for (name, created, key) in [("c1", 100, "a"), ("c2", 200, "a"), ("c3", 100, "b")] {
        let options = CreateOptions::named(name).created(Timestamp::from_seconds(created)).label(key, "x");
        shop.store().create_container(&shop.images["old"], &options).unwrap();
    }
    let mut options = PruneOptions::containers();
    options.until = Some(Timestamp::from_seconds(150));
    options.labels = vec![label("a", Some("x"))];
    let report = shop.prune(&options);
    assert_eq!(report.containers.iter().map(|one| &*one.name).collect::<Vec<_>>(), ["c1"]);
    assert!(report.containers[0].bytes > 0);
    assert_eq!((report.images.len(), report.collected.blobs.len()), (0, 0));
    assert_eq!(shop.left().len(), IMAGES.len());
    let left: Vec<_> = shop.store().containers().unwrap().iter().map(|one| one.name().to_owned()).collect();
    assert_eq!(left, ["c2", "c3"]);
    assert_eq!(shop.prune(&PruneOptions::containers()).containers.len(), 2);
    assert_eq!(shop.prune(&PruneOptions::default()), PruneReport::default());
}
