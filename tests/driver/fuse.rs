//! What the fuse driver promises beyond what every driver does.

use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use plywood::driver::mounts::MountTable;
use plywood::driver::{
    self, Driver, DriverError, DriverKind, FuseDriver, MountPoint, Probe, ProbeOptions, RootOptions,
    RootSpec, RootState, Unmount, Writable,
};
use plywood::fs::Dir;
use plywood::stack::{Stack, Tree, marks::Marks};

use crate::common::privilege::{ALL, MOUNTING, Privilege, under_with_fuse};
use crate::common::{fuse_overlayfs as programs, process, scratch};
use crate::world::{World, assert_same, view, view_of};

/// Those that a trial mount does not refuse.
pub fn trusted() -> Vec<PathBuf> {
    programs().into_iter().filter(|program| !is_forgetful(program)).collect()
}

/// Whether it is the version that forgets deletions in the top directory: see the test that it is refused.
fn is_forgetful(program: &Path) -> bool {
    let output = Command::new(program).arg("--version").output().unwrap();
    String::from_utf8_lossy(&output.stdout).contains("fuse-overlayfs: version 2.0.0")
}

/// The driver by this program, with or without a trial.
fn driver(world: &World, program: &Path) -> FuseDriver {
    FuseDriver::new(world.probe.family, world.probe.privileged, Some(program.to_owned()))
}

/// The process that serves the root in `dir`.
fn server(dir: &Dir) -> Option<u32> {
    let log = dir.path_of("server");
    process::that_complain_to(&log).first().copied()
}

fn kill(dir: &Dir) {
    process::kill(server(dir).unwrap());
}

fn mounts_in(dir: &Dir) -> usize {
    MountTable::read().unwrap().within(dir.path_of("")).count()
}

#[test]
fn a_killed_server_is_noticed_and_named_and_nothing_is_lost() {
    under_with_fuse(ALL, |_| {
        for program in programs() {
            let world = World::new();
            let (driver, layers, dir) = (driver(&world, &program), world.layers(), world.root("root"));
            let spec = world.prepared(&driver, &layers, &dir, "plywood:killed");
            let state = || driver::state(spec.source, &dir).unwrap();
            assert_eq!(state(), RootState::Unmounted);
            let root = driver.mount(&spec, None).unwrap();
            assert_eq!(state(), RootState::Mounted(root.path.clone()));
            root.dir.create_file("etc/written", 0o644).unwrap().write_all(b"before").unwrap();
            root.dir.remove_file("etc/two").unwrap();
            kill(&dir);
            assert_eq!(state(), RootState::Dead(root.path.clone()));
            let error = driver::dead(&dir).to_string();
            assert!(
                error.starts_with(&format!("the server of {:?} is gone: it was killed", root.path)),
                "{error}"
            );
            drop(root.dir);

            // The next takes over.
            let root = driver.mount(&spec, None).unwrap();
            assert_eq!((state(), mounts_in(&dir)), (RootState::Mounted(root.path.clone()), 1));
            let mut content = String::new();
            root.dir.open_file("etc/written").unwrap().read_to_string(&mut content).unwrap();
            assert_eq!(content, "before");
            assert!(root.dir.stat("etc/two").is_err());
            // Even with somebody in it who notices nothing.
            let mut inside =
                Command::new("cat").current_dir(&root.path).stdin(Stdio::piped()).spawn().unwrap();
            kill(&dir);
            driver.unmount(spec.source, root.point.as_ref().unwrap(), Unmount::Clean).unwrap();
            assert_eq!((state(), mounts_in(&dir)), (RootState::Unmounted, 0));
            drop(inside.stdin.take());
            inside.wait().unwrap();
            drop(root.dir);

            drop(driver.mount(&spec, None).unwrap().dir);
            kill(&dir);
            driver.remove(&dir).unwrap();
            assert!(mounts_in(&dir) == 0 && dir.names().unwrap().is_empty());
        }
    });
}

#[test]
fn an_unmounted_root_has_no_server_any_more() {
    under_with_fuse(ALL, |_| {
        for program in programs() {
            let world = World::new();
            let (driver, layers, dir) = (driver(&world, &program), world.layers(), world.root("root"));
            let spec = world.prepared(&driver, &layers, &dir, "plywood:ended");
            let root = driver.mount(&spec, None).unwrap();
            let id = server(&dir).unwrap();
            // Nobody has to wait for it, and no signal of a terminal reaches it.
            let (stat, own) = (process::stat(id).unwrap(), process::stat(std::process::id()).unwrap());
            assert!(stat[1] != std::process::id().to_string() && stat[3] != own[3], "{stat:?}");
            drop(root.dir);
            driver.unmount(spec.source, &root.point.unwrap(), Unmount::Clean).unwrap();
            assert!(server(&dir).is_none());
            process::wait_for_end(id);
        }
    });
}

#[test]
fn what_is_written_can_be_read_below_at_once() {
    under_with_fuse(ALL, |_| {
        for program in programs() {
            let world = World::new();
            let (driver, layers, dir) = (driver(&world, &program), world.layers(), world.root("root"));
            let spec = world.prepared(&driver, &layers, &dir, "plywood:through");
            let root = driver.mount(&spec, None).unwrap();
            let mut file = root.dir.create_file("etc/new", 0o644).unwrap();
            file.write_all(&[7; 100_000]).unwrap();
            let Writable::Upper(upper) = driver.writable(&dir).unwrap() else {
                panic!("it is an upper directory")
            };
            let mut content = Vec::new();
            upper.dir.open_file("etc/new").unwrap().read_to_end(&mut content).unwrap();
            assert!(content == [7; 100_000]);
            drop((file, root.dir));
            driver.unmount(spec.source, &root.point.unwrap(), Unmount::Clean).unwrap();
        }
    });
}

#[test]
fn a_busy_root_says_who_is_in_it_and_stays_served() {
    under_with_fuse(ALL, |_| {
        for program in programs() {
            let world = World::new();
            let (driver, layers, dir) = (driver(&world, &program), world.layers(), world.root("root"));
            let spec = world.prepared(&driver, &layers, &dir, "plywood:busy");
            let root = driver.mount(&spec, None).unwrap();
            let (path, point) = (root.path, root.point.unwrap());
            drop(root.dir);
            let mut other = Command::new("cat").current_dir(&path).stdin(Stdio::piped()).spawn().unwrap();
            let error = driver.unmount(spec.source, &point, Unmount::Clean).unwrap_err();
            let expected =
                format!("{path:?} is in use by cat (process {}, its working directory)", other.id());
            assert_eq!(error.to_string(), expected);
            assert!(path.join("setuid").exists());
            for again in [driver.mount(&spec, None), driver.mount(&spec, Some(&point))] {
                assert!(matches!(again, Err(DriverError::Mounted { .. })));
            }
            driver.unmount(spec.source, &point, Unmount::Lazy).unwrap();
            assert_eq!(mounts_in(&dir), 0);
            drop(other.stdin.take());
            other.wait().unwrap();
            // Its server ends when the last user has gone, and only then is there another.
            let root = driver.mount(&spec, None).unwrap();
            drop(root.dir);
            driver.unmount(spec.source, &root.point.unwrap(), Unmount::Clean).unwrap();
        }
    });
}

#[test]
fn a_root_is_seen_at_another_place_and_ends_there() {
    under_with_fuse(ALL, |privilege| {
        for program in programs() {
            let world = World::new();
            let (driver, layers, dir) = (driver(&world, &program), world.layers(), world.root("root"));
            let spec = world.prepared(&driver, &layers, &dir, "plywood:elsewhere");
            let place = world.root("elsewhere, with: a\\name\n");
            let at = MountPoint::ambient(place.path_of("")).unwrap();
            if privilege == Privilege::Plain {
                let error = driver.mount(&spec, Some(&at)).unwrap_err().to_string();
                assert!(error.starts_with("cannot show the root at"), "{error}");
                assert!(mounts_in(&world.dir) == 0 && server(&dir).is_none());
                continue;
            }
            let root = driver.mount(&spec, Some(&at)).unwrap();
            assert_same(&view_of(&root.dir), &view(&layers));
            assert_eq!(driver::state(spec.source, &dir).unwrap(), RootState::Mounted(at.path()));
            assert!(
                matches!(driver.mount(&spec, None), Err(DriverError::Mounted { path, .. }) if path == at.path())
            );
            let foreign = driver.unmount("plywood:other", &at, Unmount::Lazy).unwrap_err();
            assert!(matches!(foreign, DriverError::NotMounted { found: Some(_), .. }), "{foreign}");
            drop(root.dir);
            driver.unmount(spec.source, &at, Unmount::Clean).unwrap();
            assert!(mounts_in(&world.dir) == 0 && server(&dir).is_none());
            let gone = driver.unmount(spec.source, &at, Unmount::Clean).unwrap_err();
            assert!(matches!(gone, DriverError::NotMounted { found: None, .. }), "{gone}");

            // Somebody else unmounted it there: it is still at its own place.
            drop(driver.mount(&spec, Some(&at)).unwrap().dir);
            crate::common::run("umount", [at.path()]);
            let own = dir.path_of("merged");
            assert_eq!(driver::state(spec.source, &dir).unwrap(), RootState::Mounted(own.clone()));
            driver.unmount(spec.source, &MountPoint::ambient(own).unwrap(), Unmount::Clean).unwrap();

            // A dead one is taken away from both.
            drop(driver.mount(&spec, Some(&at)).unwrap().dir);
            kill(&dir);
            assert!(matches!(driver::state(spec.source, &dir).unwrap(), RootState::Dead(_)));
            driver.unmount(spec.source, &at, Unmount::Clean).unwrap();
            assert_eq!(mounts_in(&world.dir), 0);
        }
    });
}

#[test]
fn a_served_root_can_be_a_handle_alone() {
    under_with_fuse(MOUNTING, |_| {
        for program in programs() {
            let world = World::new();
            let (driver, layers, dir) = (driver(&world, &program), world.layers(), world.root("root"));
            let spec = world.prepared(&driver, &layers, &dir, "plywood:handle");
            let mount = driver.mount_detached(&spec).unwrap();
            assert_eq!(mounts_in(&dir), 0);
            use rustix::fs::{Mode, OFlags};
            let flags = OFlags::RDONLY | OFlags::DIRECTORY;
            let root = Dir::from(rustix::fs::openat(&mount, ".", flags, Mode::empty()).unwrap());
            assert_same(&view_of(&root), &view(&layers));
            root.create_file("inside", 0o644).unwrap();
            drop((root, mount));
            while server(&dir).is_some() {
                std::thread::sleep(std::time::Duration::from_millis(1));
            }
            let Writable::Upper(upper) = driver.writable(&dir).unwrap() else {
                panic!("it is an upper directory")
            };
            assert!(upper.dir.stat("inside").is_ok());
        }
    });
}

#[test]
fn a_served_view_cannot_be_written_to() {
    under_with_fuse(ALL, |_| {
        for program in programs() {
            let world = World::new();
            let driver = driver(&world, &program);
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
                let error = root.dir.create_file("new", 0o644).unwrap_err();
                assert_eq!(error.errno(), Some(rustix::io::Errno::ROFS));
                let mount = MountTable::read().unwrap().at(&root.path).unwrap().clone();
                assert!(mount.is_read_only() && mount.options.contains("nosuid,nodev"), "{}", mount.options);
                drop(root.dir);
                driver.unmount(spec.source, &root.point.unwrap(), Unmount::Clean).unwrap();
                driver.remove(&dir).unwrap();
                assert!(dir.names().unwrap().is_empty());
            }
        }
    });
}

#[test]
fn hundreds_of_layers_are_served_whatever_they_are_called() {
    under_with_fuse(&[Privilege::Root, Privilege::Plain], |_| {
        for program in programs() {
            let mut world = World::new();
            // Not the comma alone would break an option: version 1.10 has no way to say a colon.
            let odd = "a,b\\c:d ".repeat(20);
            world.trees = (0..501).map(|number| world.layer(&format!("{odd}{number}"))).collect();
            world.trees[500].dir.create_file("deepest", 0o644).unwrap();
            let (driver, layers, dir) = (driver(&world, &program), world.layers(), world.root("root"));
            let spec = world.prepared(&driver, &layers, &dir, "plywood:many");
            let root = driver.mount(&spec, None).unwrap();
            assert!(root.dir.stat("deepest").is_ok());
            drop(root.dir);
            driver.unmount(spec.source, &root.point.unwrap(), Unmount::Clean).unwrap();
        }
    });
}

#[test]
fn a_program_that_does_not_serve_is_an_error_with_its_own_words() {
    under_with_fuse(ALL, |_| {
        let world = World::new();
        let script = |name: &str, text: &str| {
            let path = world.dir.path_of(name);
            std::fs::write(&path, text).unwrap();
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
            path
        };
        let (layers, dir) = (world.layers(), world.root("root"));
        let fails = driver(&world, &script("fails", "#!/bin/sh\necho no luck today >&2\nexit 3\n"));
        let spec = world.prepared(&fails, &layers, &dir, "plywood:fails");
        let error = fails.mount(&spec, None).unwrap_err().to_string();
        let merged = dir.path_of("merged");
        assert_eq!(error, format!("the server of {merged:?} ended before it served, it says: no luck today"));
        let absent = world.dir.path_of("absent");
        let error = driver(&world, &absent).mount(&spec, None).unwrap_err().to_string();
        assert!(error.contains(&format!("{absent:?} cannot be executed: No such file")), "{error}");
        let broken = script("broken", "#!/no/such/interpreter\n");
        let error = driver(&world, &broken).mount(&spec, None).unwrap_err().to_string();
        assert!(error.starts_with(&format!("cannot execute {broken:?}")), "{error}");
        assert!(server(&dir).is_none() && mounts_in(&dir) == 0);
    });
}

#[test]
fn a_program_that_brings_deleted_files_back_is_refused() {
    under_with_fuse(ALL, |privilege| {
        for program in programs() {
            let temp = scratch();
            let mut options = ProbeOptions::default();
            options.fuse_overlayfs = Some(program.clone());
            options.fuse_in_any_case = true;
            let dir = Dir::open_ambient(temp.path()).unwrap();
            let probe = Probe::run_with(&dir, &options).unwrap();
            assert!(dir.names().unwrap().is_empty(), "a probe leaves nothing");
            eprintln!("{probe}");
            if !is_forgetful(&program) {
                assert!(probe.driver(Some(DriverKind::Fuse)).is_ok(), "{probe}");
                let works = "fuse: a trial mount by fuse-overlayfs ";
                assert!(probe.to_string().contains(works), "{probe}");
                continue;
            }
            let error = probe.driver(Some(DriverKind::Fuse)).unwrap_err().to_string();
            let expected = "the fuse driver cannot do this: in the trial mount ";
            // As root it also obeys an attribute of the image.
            let brings_back = error.contains("afterwards there is") && error.contains("/directory/below");
            let obeys = error.contains(r#"directory holds ["above"] instead of ["above", "below"]"#);
            assert!(error.starts_with(expected), "{error}");
            assert!(brings_back || obeys && privilege == Privilege::Root, "{error}");
        }
    });
}

#[test]
fn whiteouts_that_are_files_are_understood() {
    under_with_fuse(&[Privilege::Root, Privilege::SingleId], |_| {
        for program in trusted() {
            let world = World::new();
            let (driver, layers, dir) = (driver(&world, &program), world.layers(), world.root("root"));
            world.prepared(&driver, &layers, &dir, "plywood:files");
            // As it writes where no device can be made.
            let lowers: Vec<_> =
                world.trees.iter().map(|tree| tree.dir.path_of("").display().to_string()).collect();
            let options = format!("lowerdir={},upperdir=upper,workdir=work,writeback=0", lowers.join(":"));
            let mut server = Command::new(&program)
                .args(["-f", "-o", &options, "merged"])
                .env("FUSE_OVERLAYFS_DISABLE_OVL_WHITEOUT", "1")
                .current_dir(dir.path_of(""))
                .stderr(Stdio::null())
                .spawn()
                .unwrap();
            while mounts_in(&dir) == 0 {
                std::thread::sleep(std::time::Duration::from_millis(1));
            }
            let root = dir.open_dir("merged").unwrap();
            root.remove_file("etc/two").unwrap();
            root.remove_file("gone/back").unwrap();
            root.remove_dir("gone").unwrap();
            root.create_dir("gone", 0o755).unwrap();
            root.create_file("gone/fresh", 0o644).unwrap();
            root.remove_file("setuid").unwrap();
            root.create_file("setuid", 0o600).unwrap();
            root.remove_file("link").unwrap();
            let shown = view_of(&root);
            drop(root);
            crate::common::run("umount", [dir.path_of("merged")]);
            server.wait().unwrap();
            assert!(dir.stat("upper/.wh.link").is_ok() && dir.stat("upper/etc/.wh.two").is_ok());
            let Writable::Upper(upper) = driver.writable(&dir).unwrap() else {
                panic!("it is an upper directory")
            };
            let whole = Stack::new([&upper].into_iter().chain(layers.trees().iter().copied()));
            assert_same(&view(&whole), &shown);
            for gone in ["link", "etc/two", "gone/back"] {
                let path = plywood::path::LayerPath::parse(gone).unwrap();
                assert!(whole.lookup(&path).unwrap().is_none(), "{gone}");
            }
            let changes = plywood::layer::Diff::of_upper(whole).changes().unwrap();
            let changes: Vec<_> = changes.iter().map(ToString::to_string).collect();
            let expected =
                ["C /etc", "D /etc/two", "C /gone", "D /gone/back", "A /gone/fresh", "D /link", "C /setuid"];
            assert_eq!(changes, expected);
        }
    });
}

#[test]
fn a_name_that_looks_like_a_whiteout_deletes_nothing() {
    under_with_fuse(ALL, |_| {
        for program in programs() {
            let world = World::new();
            let (driver, layers, dir) = (driver(&world, &program), world.layers(), world.root("root"));
            let spec = world.prepared(&driver, &layers, &dir, "plywood:names");
            let root = driver.mount(&spec, None).unwrap();
            // Version 1.10 lets directories have such names and version 2.0 files, and then takes them for marks itself.
            let file = root.dir.create_file(".wh.setuid", 0o644).is_ok();
            let directory = root.dir.create_dir(".wh.link", 0o755).is_ok();
            drop(root.dir);
            driver.unmount(spec.source, &root.point.unwrap(), Unmount::Clean).unwrap();
            let Writable::Upper(upper) = driver.writable(&dir).unwrap() else {
                panic!("it is an upper directory")
            };
            let whole = Stack::new([&upper].into_iter().chain(layers.trees().iter().copied()));
            let shown = view(&whole);
            assert!(shown.contains_key("/link") && shown.contains_key("/setuid"));
            let changes = plywood::layer::Diff::of_upper(whole.clone()).changes().unwrap();
            let changes: Vec<_> = changes.iter().map(ToString::to_string).collect();
            let made = [("A /.wh.link", directory), ("A /.wh.setuid", file)];
            let made: Vec<_> = made.into_iter().filter(|(_, made)| *made).map(|(line, _)| line).collect();
            assert_eq!(changes, made);
            let diff = plywood::layer::Diff::of_upper(whole);
            let packed = plywood::layer::pack(&diff, Vec::new(), &Default::default());
            assert_eq!(packed.is_err(), !made.is_empty());
        }
    });
}

#[test]
fn the_marks_of_every_version_are_read() {
    let temp = scratch();
    let dir = |name: &str| Dir::ensure_ambient(temp.path().join(name)).unwrap();
    let (lower, upper) = (dir("lower"), dir("upper"));
    for name in ["a", "b", "c", "d"] {
        lower.create_dir(name, 0o755).unwrap();
        lower.create_file(format!("{name}/below"), 0o644).unwrap();
        upper.create_dir(name, 0o755).unwrap();
        upper.create_file(format!("{name}/above"), 0o644).unwrap();
    }
    upper.set_xattr("a", "user.fuseoverlayfs.opaque", b"y").unwrap();
    upper.set_xattr("b", "user.overlay.opaque", b"y").unwrap();
    upper.create_file("c/.wh..wh..opq", 0o700).unwrap();
    upper.set_xattr("d/above", "user.fuseoverlayfs.origin", b"d/below").unwrap();
    upper.set_xattr("d/above", "user.fuseoverlayfs.override_stat", b"5:6:100755").unwrap();
    let tree = |dir, marks| Tree { dir, marks, declares_root: true };
    let (upper, lower) = (tree(upper, Marks::Fuse), tree(lower, Marks::None));
    let seen = view(&Stack::new([&upper, &lower]));
    let names: Vec<_> = seen.keys().map(String::as_str).collect();
    assert_eq!(
        names,
        ["/", "/a", "/a/above", "/b", "/b/above", "/c", "/c/above", "/d", "/d/above", "/d/below"]
    );
    let path = plywood::path::LayerPath::parse("d/above").unwrap();
    let stack = Stack::new([&upper]);
    let object = stack.object(&path, &stack.lookup(&path).unwrap().unwrap()).unwrap();
    let metadata = object.metadata;
    // Only where owners have to be recorded are they believed of a container.
    let recorded = if plywood::stack::owner::are_needed() { (5, 6, 0o755) } else { (0, 0, 0o644) };
    assert_eq!((metadata.uid, metadata.gid, metadata.mode), recorded);
    assert!(metadata.xattrs.is_empty());
}
