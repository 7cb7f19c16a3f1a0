//! What the copy driver promises beyond what every driver does.

use std::path::Path;

use plywood::driver::{
    Copied, CopyDriver, Driver, DriverError, MountPlan, MountPoint, Probe, RootOptions, RootSpec, Writable,
};
use plywood::fs::{DeviceNumber, Dir, FileType, Kind, Metadata, Timestamp};
use plywood::path::LayerPath;
use plywood::stack::marks::Marks;
use plywood::stack::object::{self, Lost, Style};
use plywood::stack::{Stack, Tree};
use plywood::whiteout::Namespace;

use crate::common::privilege::{ALL, Privilege, under};
use crate::common::{have, run, scratch};
use crate::world::{World, assert_same, view, view_of};

fn driver(world: &World) -> CopyDriver {
    CopyDriver::new(world.probe.privileged)
}

fn copied(driver: &dyn Driver, dir: &Dir) -> Copied {
    match driver.writable(dir).unwrap() {
        Writable::Copied(copied) => copied,
        other => panic!("{other:?}"),
    }
}

#[test]
fn nothing_is_touched_until_somebody_touches_it() {
    under(ALL, |_| {
        let world = World::new();
        let (driver, layers, dir) = (driver(&world), world.layers(), world.root("root"));
        world.prepared(&driver, &layers, &dir, "plywood:copy");
        let copied = copied(&driver, &dir);
        let seen = view_of(&copied.root.dir);
        for name in seen.keys() {
            let path = LayerPath::parse(name).unwrap();
            let stat = copied.root.dir.stat(path.as_path()).unwrap();
            assert!(copied.is_untouched(&stat), "{name}");
            assert_eq!(copied.is_original(&path, &stat), stat.kind == Kind::Directory, "{name}");
        }
        // Whatever is done, the time that no program can set tells.
        let root = &copied.root.dir;
        let old = root.stat("etc/two").unwrap().mtime;
        std::fs::write(root.path_of("etc/two"), b"bottom twX").unwrap();
        root.set_mtime("etc/two", old).unwrap();
        root.set_xattr("sparse", "user.note", b"other").unwrap();
        root.rename("link", root, "link-too").unwrap();
        root.rename("etc/deep", root, "etc/deeper").unwrap();
        for touched in ["etc/two", "sparse", "link-too", "etc/deeper", "etc", "."] {
            assert!(!copied.is_untouched(&root.stat(touched).unwrap()), "{touched}");
        }
        // What is in a renamed directory was not touched, but the directory is not the one that was there.
        assert!(copied.is_untouched(&root.stat("etc/deeper/one").unwrap()));
        let deeper = LayerPath::parse("etc/deeper").unwrap();
        assert!(!copied.is_original(&deeper, &root.stat("etc/deeper").unwrap()));
    });
}

#[test]
fn what_this_user_cannot_make_is_recorded_and_read_back() {
    under(&[Privilege::SingleId, Privilege::Plain], |_| {
        let world = World::new();
        let (driver, mut layer) = (driver(&world), world.layer("odd"));
        let style = Style { family: Some(Namespace::User), privileged: world.probe.privileged };
        let device = FileType::CharDevice(DeviceNumber { major: 1, minor: 5 });
        let objects = [
            ("owned", FileType::File { size: 0 }, 0o4711),
            ("closed", FileType::File { size: 0 }, 0o000),
            ("dir", FileType::Directory, 0o500),
            ("dir/device", device, 0o600),
            ("link", FileType::Symlink(b"owned".to_vec()), 0o777),
        ];
        let mut lost = Vec::new();
        for (name, file_type, _) in &objects {
            object::create(&layer.dir, Path::new(name), file_type).unwrap();
        }
        for (name, file_type, mode) in objects.iter().rev() {
            let mtime = Timestamp { seconds: 77, nanos: 1 };
            let metadata = Metadata { mode: *mode, uid: 5, gid: 6, mtime, ..Metadata::default() };
            let path = LayerPath::parse(name).unwrap();
            let lose = &mut |loss| lost.push(loss);
            object::set_metadata(&layer.dir, path.as_path(), file_type, &metadata, style, lose, &path)
                .unwrap();
        }
        assert_eq!(lost.len(), 1, "{lost:?}");
        layer.declares_root = true;
        let (layers, dir) = (Stack::new([&layer]), world.root("root"));
        let spec = RootSpec::new(&layers, &dir, "plywood:copy");
        // A symlink carries no record, so its owner is what it became in the layer.
        let prepared = driver.prepare(&spec).unwrap();
        assert!(prepared.losses.iter().all(|loss| matches!(loss.what, Lost::Owner { .. })), "{prepared:?}");
        let seen = view_of(&copied(&driver, &dir).root.dir);
        assert_same(&seen, &view(&layers));
    });
}

#[test]
fn a_copy_is_where_it_is_and_says_so() {
    under(&[Privilege::Root, Privilege::Plain], |privilege| {
        let world = World::new();
        let (driver, layers, dir) = (driver(&world), world.layers(), world.root("root"));
        let spec = world.prepared(&driver, &layers, &dir, "plywood:copy");
        let elsewhere = world.root("elsewhere");
        let at = MountPoint::inside(&world.dir, "elsewhere").unwrap();
        let error = driver.mount(&spec, Some(&at)).unwrap_err().to_string();
        let own = dir.path_of("root");
        assert!(error.contains(&format!("{:?}; the root is at {own:?}", elsewhere.path_of(""))), "{error}");
        let MountPlan::Directory(plan) = driver.plan(&spec).unwrap() else { panic!("it is a directory") };
        assert_eq!(plan.path_of(""), own);
        match (privilege, driver.mount_detached(&spec)) {
            (Privilege::Root, mount) => drop(mount.unwrap()),
            (_, mount) => assert!(matches!(mount, Err(DriverError::Refused { .. }))),
        }
        let view = world.root("view");
        let read_only = RootSpec { dir: &view, ..spec }.with(RootOptions::read_only());
        let error = driver.prepare(&read_only).unwrap_err().to_string();
        assert!(error.ends_with("create a container instead"), "{error}");
        assert!(view.names().unwrap().is_empty());
    });
}

#[test]
fn a_copy_shares_its_blocks_where_the_file_system_can() {
    under(&[Privilege::Root], |_| {
        if !have(&["mkfs.btrfs", "mount"]) {
            return;
        }
        let temp = scratch();
        let (image, at) = (temp.path().join("image"), temp.path().join("at"));
        std::fs::File::create(&image).unwrap().set_len(256 << 20).unwrap();
        std::fs::create_dir(&at).unwrap();
        run("mkfs.btrfs", ["-q".as_ref(), image.as_os_str()]);
        run("mount", ["-o".as_ref(), "loop".as_ref(), image.as_os_str(), at.as_os_str()]);
        let dir = Dir::open_ambient(&at).unwrap();
        let probe = Probe::run(&dir).unwrap();
        assert!(probe.reflink, "{probe}");

        let free = || {
            dir.sync_file_system().unwrap();
            let space = rustix::fs::statvfs(&at).unwrap();
            space.f_bavail * space.f_frsize
        };
        let (layer, root) = (dir.ensure_dir("layer", 0o755).unwrap(), dir.ensure_dir("root", 0o755).unwrap());
        std::io::Write::write_all(&mut layer.create_file("large", 0o644).unwrap(), &[7; 32 << 20]).unwrap();
        let layer = Tree { dir: layer, marks: Marks::None, declares_root: true };
        let (layers, before) = (Stack::new([&layer]), free());
        CopyDriver::new(true).prepare(&RootSpec::new(&layers, &root, "plywood:copy")).unwrap();
        assert_same(&view_of(&root.open_dir("root").unwrap()), &view(&layers));
        assert!(before.saturating_sub(free()) < 8 << 20);
    });
}
