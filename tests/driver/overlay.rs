//! What the overlay driver promises beyond what every driver does.

use std::io::Write;
use std::os::fd::AsFd;
use std::process::{Command, Stdio};

use plywood::driver::mounts::{self, MountTable};
use plywood::driver::{
    Access, DriverError, DriverKind, MountPlan, MountPoint, OverlayDriver, RootOptions, RootSpec, Route,
    Unmount, Writable,
};
use plywood::fs::Dir;
use plywood::stack::Stack;
use plywood::whiteout::Namespace;

use crate::common::privilege::{MOUNTING, Privilege, under};
use crate::world::{World, assert_same, view, view_of};

fn routed(route: Route) -> RootOptions {
    let mut options = RootOptions::default();
    options.route = route;
    options
}

#[test]
fn every_way_to_mount_gives_the_same_root() {
    under(MOUNTING, |_| {
        let world = World::new();
        let (driver, layers) = (world.driver(DriverKind::Overlay), world.layers());
        for route in [Route::Auto, Route::Descriptors, Route::ProcPaths, Route::OptionString] {
            let dir = world.root(&format!("{route:?}"));
            let spec = world.prepared(&*driver, &layers, &dir, "plywood:route").with(routed(route));
            let root = driver.mount(&spec, None).unwrap();
            assert_same(&view_of(&root.dir), &view(&layers));
            root.dir.create_file("written", 0o644).unwrap();
            let mount = MountTable::read().unwrap().at(&root.path).unwrap().clone();
            assert_eq!((mount.source.to_str(), &*mount.fs_type), (Some("plywood:route"), "overlay"));
            drop(root.dir);
            driver.unmount(spec.source, &root.point.unwrap(), Unmount::Clean).unwrap();

            let detached = driver.mount_detached(&spec).unwrap();
            let inside = open_root(&detached);
            assert!(inside.stat("written").is_ok());
            assert!(MountTable::read().unwrap().within(dir.path_of("")).next().is_none());
            drop((inside, detached));
            driver.remove(&dir).unwrap();
        }
    });
}

fn open_root(mount: impl AsFd) -> Dir {
    use rustix::fs::{Mode, OFlags};
    rustix::fs::openat(mount, ".", OFlags::RDONLY | OFlags::DIRECTORY, Mode::empty()).unwrap().into()
}

#[test]
fn a_detached_root_is_written_to_without_being_anywhere() {
    under(MOUNTING, |_| {
        let world = World::new();
        let (driver, layers, dir) = (world.driver(DriverKind::Overlay), world.layers(), world.root("root"));
        let spec = world.prepared(&*driver, &layers, &dir, "plywood:detached");
        let mount = driver.mount_detached(&spec).unwrap();
        open_root(&mount).create_file("inside", 0o644).unwrap().write_all(b"x").unwrap();
        drop(mount);
        let Writable::Upper(upper) = driver.writable(&dir).unwrap() else { panic!("it is an overlay") };
        assert_eq!(upper.dir.stat("inside").unwrap().size, 1);
    });
}

#[test]
fn a_view_of_an_image_cannot_be_written_to_and_bears_the_roots_metadata() {
    under(MOUNTING, |_| {
        let world = World::new();
        let driver = world.driver(DriverKind::Overlay);
        for (name, layers) in
            [("all", world.layers()), ("none", Stack::default()), ("one", Stack::new(&world.trees[2..]))]
        {
            let dir = world.root(name);
            let mut options = RootOptions::read_only();
            (options.nosuid, options.nodev) = (true, true);
            let spec = RootSpec::new(&layers, &dir, "plywood:view").with(options);
            driver.prepare(&spec).unwrap();
            let root = driver.mount(&spec, None).unwrap();
            if name != "none" {
                assert_same(&view_of(&root.dir), &view(&layers));
            }
            assert_eq!(root.dir.stat(".").unwrap().mode, 0o755);
            let error = root.dir.create_file("new", 0o644).unwrap_err();
            assert_eq!(error.errno(), Some(rustix::io::Errno::ROFS));
            let mount = MountTable::read().unwrap().at(&root.path).unwrap().clone();
            assert!(
                mount.is_read_only() && mount.options.starts_with("ro,nosuid,nodev"),
                "{}",
                mount.options
            );
            drop(root.dir);
            driver.unmount(spec.source, &root.point.unwrap(), Unmount::Clean).unwrap();
            driver.remove(&dir).unwrap();
            assert!(dir.names().unwrap().is_empty());
        }
    });
}

#[test]
fn a_busy_root_says_who_is_in_it_and_stays() {
    under(MOUNTING, |_| {
        let world = World::new();
        let (driver, layers, dir) = (world.driver(DriverKind::Overlay), world.layers(), world.root("root"));
        let spec = world.prepared(&*driver, &layers, &dir, "plywood:busy");
        let root = driver.mount(&spec, None).unwrap();
        let (path, point) = (root.path, root.point.unwrap());
        drop(root.dir);
        let mut other = Command::new("cat").current_dir(&path).stdin(Stdio::piped()).spawn().unwrap();
        let error = driver.unmount(spec.source, &point, Unmount::Clean).unwrap_err();
        let expected = format!("{path:?} is in use by cat (process {}, its working directory)", other.id());
        assert_eq!(error.to_string(), expected);

        let file = std::fs::File::open(path.join("setuid")).unwrap();
        let error = driver.unmount(spec.source, &point, Unmount::Clean).unwrap_err().to_string();
        assert!(error.contains(&format!("process {}, an open file)", std::process::id())), "{error}");
        assert!(path.join("setuid").exists());
        drop(file);

        driver.unmount(spec.source, &point, Unmount::Lazy).unwrap();
        assert!(!path.join("setuid").exists());
        drop(other.stdin.take());
        other.wait().unwrap();
    });
}

#[test]
fn a_root_is_mounted_once_and_nothing_foreign_is_unmounted() {
    under(MOUNTING, |_| {
        let world = World::new();
        let (driver, layers, dir) = (world.driver(DriverKind::Overlay), world.layers(), world.root("root"));
        let spec = world.prepared(&*driver, &layers, &dir, "plywood:once");
        let merged = MountPoint::inside(&dir, "merged").unwrap();
        let error = driver.unmount(spec.source, &merged, Unmount::Clean).unwrap_err();
        assert!(matches!(error, DriverError::NotMounted { found: None, .. }), "{error}");

        let place = world.root("elsewhere, with: a\\name\n");
        let at = MountPoint::ambient(place.path_of("")).unwrap();
        let root = driver.mount(&spec, Some(&at)).unwrap();
        for again in [driver.mount(&spec, None), driver.mount(&spec, Some(&at))] {
            match again.unwrap_err() {
                DriverError::Mounted { path, .. } => assert_eq!(path, root.path),
                other => panic!("{other}"),
            }
        }
        assert!(matches!(driver.mount_detached(&spec), Err(DriverError::Mounted { .. })));
        let (second, other) = (world.root("second"), RootSpec { source: "plywood:other", ..spec.clone() });
        let other = RootSpec { dir: &second, ..other };
        driver.prepare(&other).unwrap();
        match driver.mount(&other, Some(&at)).unwrap_err() {
            DriverError::Mounted { source_name, .. } => assert_eq!(source_name, "plywood:once"),
            error => panic!("{error}"),
        }
        match driver.unmount(other.source, &at, Unmount::Lazy).unwrap_err() {
            DriverError::NotMounted { found, .. } => assert_eq!(found.as_deref(), Some("plywood:once")),
            error => panic!("{error}"),
        }

        // A later process has nothing but the name.
        let path = root.path;
        drop((root.dir, root.point, at));
        let table = MountTable::read().unwrap();
        let found = table.named("plywood:once").next().unwrap();
        assert_eq!(found.point, path);
        driver.unmount("plywood:once", &MountPoint::ambient(&found.point).unwrap(), Unmount::Clean).unwrap();
    });
}

#[test]
fn a_mount_in_another_namespace_is_found() {
    under(MOUNTING, |_| {
        let world = World::new();
        let (driver, layers, dir) = (world.driver(DriverKind::Overlay), world.layers(), world.root("root"));
        let source = format!("plywood:{}", dir.path_of("").display());
        let spec = world.prepared(&*driver, &layers, &dir, &source);
        let root = driver.mount(&spec, None).unwrap();
        drop(root.dir);
        let mut other = Command::new("unshare")
            .args(["--mount", "sh", "-c", "echo here; read -r _"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        std::io::Read::read(other.stdout.as_mut().unwrap(), &mut [0; 8]).unwrap();
        driver.unmount(spec.source, &root.point.unwrap(), Unmount::Clean).unwrap();
        assert!(MountTable::read().unwrap().named(&source).next().is_none());
        let found = mounts::everywhere(&source).unwrap();
        assert_eq!(found.iter().map(|mount| mount.pid).collect::<Vec<_>>(), [other.id()]);
        drop(other.stdin.take());
        other.wait().unwrap();
        assert!(mounts::everywhere(&source).unwrap().is_empty());
    });
}

#[test]
fn five_hundred_layers_are_stacked_and_one_more_is_refused() {
    under(MOUNTING, |_| {
        let mut world = World::new();
        // Longer than a string option of the mount API may be, and together far longer than a page.
        let long = "long-name-".repeat(20);
        world.trees = (0..501).map(|number| world.layer(&format!("{long}{number}"))).collect();
        world.trees[499].dir.create_file("deepest", 0o644).unwrap();
        let driver = world.driver(DriverKind::Overlay);
        let (layers, dir) = (Stack::new(&world.trees[..500]), world.root("root"));
        let spec = world.prepared(&*driver, &layers, &dir, "plywood:many");
        for route in [Route::Descriptors, Route::ProcPaths] {
            let root = driver.mount(&spec.clone().with(routed(route)), None).unwrap();
            assert!(root.dir.stat("deepest").is_ok());
            drop(root.dir);
            driver.unmount(spec.source, &root.point.unwrap(), Unmount::Clean).unwrap();
        }
        match driver.mount(&spec.clone().with(routed(Route::OptionString)), None).unwrap_err() {
            DriverError::TooManyLayers { layers: 500, limit } => {
                assert!((150..300).contains(&limit), "{limit}")
            }
            error => panic!("{error}"),
        }
        let more = Stack::new(&world.trees);
        let error = driver.mount(&RootSpec { layers: &more, ..spec }, None).unwrap_err();
        assert_eq!(error.to_string(), "501 directories cannot be stacked, the limit is 500");
    });
}

#[test]
fn a_volatile_root_is_mounted_once() {
    under(MOUNTING, |_| {
        let world = World::new();
        let (driver, layers, dir) = (world.driver(DriverKind::Overlay), world.layers(), world.root("root"));
        let mut options = RootOptions::default();
        options.volatile = true;
        let spec = world.prepared(&*driver, &layers, &dir, "plywood:volatile").with(options);
        let root = driver.mount(&spec, None).unwrap();
        assert!(root.dir.create_file("new", 0o644).is_ok());
        drop(root.dir);
        driver.unmount(spec.source, &root.point.unwrap(), Unmount::Clean).unwrap();
        let plain = spec.clone().with(RootOptions::default());
        for spec in [&spec, &plain] {
            assert!(matches!(driver.mount(spec, None), Err(DriverError::Volatile { .. })));
        }
        driver.remove(&dir).unwrap();
        assert!(dir.names().unwrap().is_empty());
    });
}

#[test]
fn a_root_is_never_mounted_with_marks_that_the_kernel_would_not_see() {
    under(&[Privilege::Root], |_| {
        let world = World::new();
        let (layers, dir) = (world.layers(), world.root("root"));
        let spec = world.prepared(&*world.driver(DriverKind::Overlay), &layers, &dir, "plywood:marks");
        // As in a user namespace, where only layers with user.* marks can be believed.
        let trees = world.trees.iter().map(|tree| plywood::stack::Tree {
            dir: tree.dir.try_clone().unwrap(),
            marks: plywood::stack::marks::Marks::Overlay(Namespace::User),
            declares_root: tree.declares_root,
        });
        let trees: Vec<_> = trees.collect();
        let foreign = Stack::new(&trees);
        let rootless = OverlayDriver::new(Namespace::User, true);
        let there = RootSpec { layers: &foreign, ..spec.clone() };
        use plywood::driver::Driver;
        let error = rootless.mount(&there, None).unwrap_err().to_string();
        assert!(
            error.contains("has its marks in trusted.overlay.*, but the mount would obey user.overlay.*"),
            "{error}"
        );
        assert!(matches!(rootless.writable(&dir), Err(DriverError::ForeignMarks { .. })));

        // Nor is one with user.* marks mounted on layers with trusted.* marks, or on some of each.
        let dir = world.root("rootless");
        let spec = RootSpec { dir: &dir, ..there };
        rootless.prepare(&spec).unwrap();
        let driver = world.driver(DriverKind::Overlay);
        let error =
            driver.mount(&RootSpec { layers: &layers, ..spec.clone() }, None).unwrap_err().to_string();
        assert!(
            error.contains("has its marks in user.overlay.*, but the mount would obey trusted.overlay.*"),
            "{error}"
        );
        let mixed = Stack::new([&world.trees[0], &trees[1]]);
        for access in [Access::Writable, Access::ReadOnly] {
            let dir = world.root(&format!("mixed-{access:?}"));
            let mut options = RootOptions::default();
            options.access = access;
            let spec = RootSpec { layers: &mixed, dir: &dir, ..spec.clone() }.with(options);
            let made = driver.prepare(&spec).and_then(|_| driver.mount(&spec, None).map(drop));
            assert!(matches!(made, Err(DriverError::ForeignMarks { .. })), "{made:?}");
        }
        let read = driver.writable(&dir).unwrap();
        let Writable::Upper(upper) = read else { panic!("it is an overlay") };
        assert_eq!(upper.marks.family(), Some(Namespace::User));
    });
}

/// Tells a copy of this binary the number of the handle that it has.
const HANDED_OVER: &str = "PLYWOOD_TEST_HANDLE";

#[test]
fn a_detached_root_is_put_where_a_process_in_namespaces_of_its_own_wants_it() {
    use rustix::fs::CWD;
    use rustix::mount::{MoveMountFlags, move_mount};
    if let Ok(number) = std::env::var(HANDED_OVER) {
        // No file descriptor can be made of a number without `unsafe`; its link in /proc leads to the mount.
        let at = crate::common::scratch();
        let from = format!("/proc/self/fd/{number}");
        move_mount(CWD, from, CWD, at.path(), MoveMountFlags::MOVE_MOUNT_F_SYMLINKS).unwrap();
        let root = Dir::open_ambient(at.path()).unwrap();
        assert!(root.stat("etc/two").is_ok() && root.stat("removed").is_err());
        root.create_file("by-the-container", 0o644).unwrap();
        root.remove_file("setuid").unwrap();
        drop(root);
        return rustix::mount::unmount(at.path(), rustix::mount::UnmountFlags::DETACH).unwrap();
    }
    under(MOUNTING, |privilege| {
        let world = World::new();
        let (driver, layers, dir) = (world.driver(DriverKind::Overlay), world.layers(), world.root("root"));
        let spec = world.prepared(&*driver, &layers, &dir, "plywood:handed-over");
        // The namespace has no other id.
        dir.set_owner("upper", 0, 0).unwrap();
        let mount = driver.mount_detached(&spec).unwrap();
        rustix::io::fcntl_setfd(&mount, rustix::io::FdFlags::empty()).unwrap();
        let binary = std::env::current_exe().unwrap();
        let test = "overlay::a_detached_root_is_put_where_a_process_in_namespaces_of_its_own_wants_it";
        let handle = std::os::fd::AsRawFd::as_raw_fd(&mount).to_string();
        let done = Command::new("unshare")
            .args(["--user", "--map-root-user", "--mount"])
            .arg(binary)
            .args(["--exact", test, "--nocapture"])
            .env_remove("PLYWOOD_TEST_PRIVILEGE")
            .env(HANDED_OVER, handle)
            .output()
            .unwrap();
        let said =
            String::from_utf8_lossy(&done.stdout).into_owned() + &String::from_utf8_lossy(&done.stderr);
        assert!(done.status.success() && said.contains("1 passed"), "{privilege:?}: {said}");
        drop(mount);
        let Writable::Upper(upper) = driver.writable(&dir).unwrap() else { panic!("it is an overlay") };
        assert!(upper.dir.stat("by-the-container").is_ok());
        assert!(MountTable::read().unwrap().named("plywood:handed-over").next().is_none());
    });
}

#[test]
fn a_label_is_for_the_kernel_to_take_or_refuse_in_its_own_words() {
    under(&[Privilege::Root], |_| {
        let world = World::new();
        let (driver, layers, dir) = (world.driver(DriverKind::Overlay), world.layers(), world.root("root"));
        let label = "system_u:object_r:container_file_t:s0:c1,c2";
        let mut options = RootOptions::default();
        options.label = Some(label.to_owned());
        let spec = RootSpec::new(&layers, &dir, "plywood:label").with(options);
        driver.prepare(&spec).unwrap();
        // It is kept with the root.
        let spec = spec.with(RootOptions::default());
        let MountPlan::Overlay(plan) = driver.plan(&spec).unwrap() else { panic!("it is an overlay") };
        let text = plan.option_string().into_string().unwrap();
        assert!(text.ends_with(&format!(",context=\"{label}\"")), "{text}");
        if std::path::Path::new("/sys/fs/selinux/enforce").exists() {
            let mount = driver.mount_detached(&spec).unwrap();
            let found = open_root(&mount).xattr(".", "security.selinux").unwrap().unwrap();
            return assert!(found.starts_with(label.as_bytes()));
        }
        let error = driver.mount(&spec, None).unwrap_err().to_string();
        assert!(error.contains("cannot label"), "{error}");
        assert!(error.contains("the kernel says: overlay: Unknown parameter 'context'"), "{error}");
    });
}

#[test]
fn a_plan_is_enough_to_mount_by_other_means() {
    under(MOUNTING, |_| {
        let world = World::new();
        let (driver, layers, dir) =
            (world.driver(DriverKind::Overlay), world.layers(), world.root("a,b:c\\d"));
        let spec = world.prepared(&*driver, &layers, &dir, "plywood:plan");
        let MountPlan::Overlay(plan) = driver.plan(&spec).unwrap() else { panic!("it is an overlay") };
        let at = world.root("at").path_of("");
        // The mount program takes commas apart by itself, so the call is made here.
        let options =
            std::ffi::CString::new(std::os::unix::ffi::OsStringExt::into_vec(plan.option_string())).unwrap();
        let flags = rustix::mount::MountFlags::empty();
        rustix::mount::mount(plan.source, &at, "overlay", flags, options.as_c_str()).unwrap();
        assert_same(&view_of(&Dir::open_ambient(&at).unwrap()), &view(&layers));
        driver.unmount(spec.source, &MountPoint::ambient(&at).unwrap(), Unmount::Clean).unwrap();
    });
}
