//! Layers of deletions, as a root shows them on every driver.

use plywood::store::CreateOptions;

use crate::common::image::image;
use crate::common::privilege::{self, ALL};
use crate::common::tar::tar;
use crate::world::*;

#[test]
fn every_driver_and_every_way_out_agree_on_directories_that_only_deletions_name() {
    privilege::under(ALL, |privilege| {
        for &kind in drivers(privilege) {
            let world = World::driver(kind);
            let deletions = || tar().whiteout("data/sub/x").whiteout("data/sub").whiteout("data").finish();
            let below = || tar().dir("etc").mode(0o751).file("etc/passwd", "").file("etc/group", "");
            for (first, names) in [
                (below(), &["etc", "etc/group"][..]),
                (below().dir("data").file("data/kept", ""), &["data", "data/kept", "etc", "etc/group"]),
                (below().dir("data").dir("data/sub").file("data/sub/x", ""), &["data", "etc", "etc/group"]),
                (below().file("data", "a file"), &["data", "etc", "etc/group"]),
            ] {
                let last = if first.entries().len() == 3 {
                    deletions()
                } else {
                    tar().whiteout("data/sub/x").whiteout("data/sub").finish()
                };
                let image = world.load_image(
                    &image().layer(first.finish()).layer(tar().whiteout("etc/passwd").finish()).layer(last),
                );
                let container = world.store.create_container(&image, &CreateOptions::default()).unwrap();
                let what = format!("{privilege:?}, {kind}");
                let mounted = container.mount().unwrap();
                let root = seen(mounted.path());
                assert_eq!(root.names(), names, "{what}");
                assert_eq!(root.0[std::path::Path::new("etc")].mode, 0o751, "{what}");
                assert_eq!(changes(&container), Vec::<String>::new(), "{what}");
                assert_eq!(exported(&container).names(), names, "{what}: export");
                std::fs::write(mounted.path().join("new"), "").unwrap();
                mounted.unmount().unwrap();
                let committed = container.commit(&Default::default()).unwrap();
                let next = world.store.create_container(&committed, &CreateOptions::default()).unwrap();
                let with_new = [names, &["new"]].concat();
                assert_eq!(exported(&next).names(), with_new, "{what}: commit");
            }
            assert!(world.store.check(&Default::default()).unwrap().damages.is_empty());
        }
    });
}
