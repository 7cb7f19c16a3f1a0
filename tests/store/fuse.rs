//! Containers by fuse-overlayfs, and what a store remembers of its trials.

use std::path::{Path, PathBuf};

use plywood::driver::DriverKind;
use plywood::store::{ContainerState, CreateOptions, DriverChoice, GcOptions, RemoveContainer};

use crate::common::{
    self,
    privilege::{self, ALL, Privilege},
    process,
};
use crate::world::*;

fn kill_server(merged: &Path) {
    let log = merged.with_file_name("server");
    let servers = process::that_complain_to(&log);
    assert_eq!(servers.len(), 1);
    process::kill(servers[0]);
}

#[test]
fn a_container_survives_the_death_of_its_server() {
    privilege::under_with_fuse(ALL, |_| {
        if !has_fuse() {
            return;
        }
        let world = World::driver(DriverKind::Fuse);
        let image = world.load_image(&sample());
        let container = world.store.create_container(&image, &CreateOptions::named("web")).unwrap();
        assert_eq!(container.driver(), DriverKind::Fuse);
        let path = container.mount().unwrap().keep();
        std::fs::write(path.join("etc/written"), "before").unwrap();
        std::fs::remove_file(path.join("etc/passwd")).unwrap();
        let listed = changes(&container);
        assert!(listed.contains(&"D /etc/passwd".to_owned()), "{listed:?}");
        kill_server(&path);

        // Another process comes and finds it so.
        let store = world.again();
        let container = store.container("web").unwrap();
        assert_eq!(container.state().unwrap(), ContainerState::Dead(path.clone()));
        let error = chain(&container.mounted().unwrap_err());
        assert!(error.contains(&format!("the server of {path:?} is gone")), "{error}");
        assert_eq!(changes(&container), listed);
        let mounted = container.mount().unwrap();
        assert_eq!(std::fs::read(path.join("etc/written")).unwrap(), b"before");
        assert_eq!(container.state().unwrap(), ContainerState::Mounted(path.clone()));
        mounted.keep();
        kill_server(&path);
        container.unmount().unwrap();
        assert_eq!(container.state().unwrap(), ContainerState::Created);
        container.commit(&Default::default()).unwrap();

        // What is dead is in nobody's way.
        let mounted = container.mount().unwrap();
        kill_server(mounted.path());
        drop(mounted);
        assert_eq!(container.state().unwrap(), ContainerState::Created);
        container.mount().unwrap().keep();
        kill_server(&path);
        container.remove(RemoveContainer::Refuse).unwrap();
        assert_eq!(names_in(&world.path().join("containers")).len(), 0);

        let store = &world.store;
        let view = store.mount_image(&image).unwrap();
        kill_server(&view);
        assert_eq!(store.image_mounted(&image).unwrap(), None);
        assert_eq!(store.mount_image(&image).unwrap(), view);
        assert!(view.join("etc/passwd").exists());
        kill_server(&view);
        store.unmount_image(&image).unwrap();
        assert!(!view.exists());
    });
}

#[test]
fn without_the_right_to_mount_there_is_still_a_union() {
    privilege::under_with_fuse(&[Privilege::Plain], |_| {
        if !has_fuse() {
            return;
        }
        let temp = common::scratch();
        let store = options().create(temp.path().join("store")).unwrap();
        let info = store.info().unwrap();
        assert_eq!(info.driver, Some(DriverKind::Fuse), "{}", info.reasons);
        assert!(info.reasons.starts_with("overlay: refused, "), "{}", info.reasons);
        assert!(info.reasons.contains("; fuse: a trial mount by fuse-overlayfs "), "{}", info.reasons);
        assert!(info.reasons.ends_with("; using fuse"), "{}", info.reasons);
    });
}

#[test]
fn a_collection_takes_away_what_a_killed_trial_left_mounted() {
    privilege::under(&[Privilege::Root, Privilege::SingleId], |_| {
        let world = World::driver(DriverKind::Copy);
        let left = world.path().join("staging/left/own/merged");
        std::fs::create_dir_all(&left).unwrap();
        common::run("mount", ["-t".as_ref(), "tmpfs".as_ref(), "none".as_ref(), left.as_os_str()]);
        std::fs::write(left.join("file"), "inside").unwrap();
        let report = world.store.gc(&GcOptions::default()).unwrap();
        assert_eq!(report.leftovers, 1);
        assert!(names_in(&world.path().join("staging")).is_empty());
    });
}

/// What is known of the machine, as the store keeps it.
fn kept(world: &World) -> PathBuf {
    world.path().join("cache/probe.json")
}

/// What a store that is opened now says, without looking or looking again.
fn reasons(world: &World, fresh: bool) -> String {
    let options = options().driver(DriverChoice::Auto).fresh_probe(fresh);
    options.open(world.path()).unwrap().info().unwrap().reasons
}

#[test]
fn what_was_found_out_is_kept_with_its_reasons_and_believed_in_the_same_circumstances_only() {
    privilege::under(ALL, |_| {
        let world = World::driver(DriverKind::Copy);
        let found = reasons(&world, false);
        let text = std::fs::read_to_string(kept(&world)).unwrap();
        // A mark in the reasons shows who speaks.
        let mut marked: serde_json::Value = serde_json::from_str(&text).unwrap();
        marked["probe"]["fuse"] = serde_json::json!({"Err": "as was found before"});
        let marked = marked.to_string();
        std::fs::write(kept(&world), &marked).unwrap();
        let believed = reasons(&world, false);
        assert!(believed.contains("fuse: refused, as was found before"), "{believed}");

        // Asked to, it looks again, and keeps that.
        assert_eq!(reasons(&world, true), found);
        assert_eq!(std::fs::read_to_string(kept(&world)).unwrap(), text);

        let boot = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap();
        let version = format!("\"version\":\"{}\"", env!("CARGO_PKG_VERSION"));
        let others = [
            marked.replace(boot.trim(), "00000000-0000-4000-8000-000000000000"),
            marked.replace(&version, "\"version\":\"0.0.1\""),
            marked.replace("CapEff:", "CapEff: 1"),
            marked.replace("user:[", "user:[1"),
            marked.replace("mnt:[", "mnt:[1"),
            marked.replace("\"circumstances\"", "\"situation\""),
            marked.replace("\"chosen\":\"", "\"chosen\":\"some"),
            marked[..marked.len() / 2].to_owned(),
            String::new(),
            "null".to_owned(),
        ];
        for other in others {
            assert_ne!(other, marked);
            std::fs::write(kept(&world), &other).unwrap();
            assert_eq!(reasons(&world, false), found, "{other}");
            assert_eq!(std::fs::read_to_string(kept(&world)).unwrap(), text, "{other}");
        }
        std::fs::remove_file(kept(&world)).unwrap();
        std::fs::create_dir(kept(&world)).unwrap();
        assert_eq!(reasons(&world, false), found);
    });
}
