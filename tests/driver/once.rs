//! One writable directory, one mount: whoever holds it, and wherever.

use std::io::Read;
use std::process::{Child, Command, Stdio};

use plywood::driver::mounts::Points;
use plywood::driver::{Driver, DriverError, DriverKind, MountPoint, RootSpec, Unmount, mounts};

use crate::common::privilege::{MOUNTING, under};
use crate::world::World;

/// A process with a mount namespace of its own, a copy of this one.
fn elsewhere() -> Child {
    let mut other = Command::new("unshare")
        .args(["--mount", "sh", "-c", "echo here; read -r _"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    assert!(other.stdout.as_mut().unwrap().read(&mut [0; 8]).unwrap() > 0);
    other
}

fn end(mut other: Child) {
    drop(other.stdin.take());
    other.wait().unwrap();
}

fn refused(driver: &dyn Driver, spec: &RootSpec<'_>) -> DriverError {
    match (driver.mount(spec, None), driver.mount_detached(spec)) {
        (Err(error @ DriverError::InUse { .. }), Err(DriverError::InUse { .. })) => error,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_root_that_lives_on_in_another_mount_namespace_is_not_mounted_again() {
    under(MOUNTING, |_| {
        let world = World::new();
        let (driver, layers, dir) = (world.driver(DriverKind::Overlay), world.layers(), world.root("root"));
        let source = format!("plywood:{}", dir.path_of("").display());
        let spec = world.prepared(&*driver, &layers, &dir, &source);
        let root = driver.mount(&spec, None).unwrap();
        drop(root.dir);
        let other = elsewhere();
        driver.end(&Points::read().unwrap(), &dir, &source, &root.point.unwrap(), Unmount::Clean).unwrap();
        let error = refused(&*driver, &spec);
        let at = format!("at {:?} in the mount namespace of process {}", dir.path_of("merged"), other.id());
        assert!(error.to_string().contains(&at), "{error}");
        end(other);
        let root = driver.mount(&spec, None).unwrap();
        drop(root.dir);
        driver.end(&Points::read().unwrap(), &dir, &source, &root.point.unwrap(), Unmount::Clean).unwrap();
    });
}

#[test]
fn a_root_that_somebody_has_a_handle_on_is_not_mounted_again() {
    under(MOUNTING, |_| {
        let world = World::new();
        let (driver, layers, dir) = (world.driver(DriverKind::Overlay), world.layers(), world.root("root"));
        let spec = world.prepared(&*driver, &layers, &dir, "plywood:handle");
        let handle = driver.mount_detached(&spec).unwrap();
        let error = refused(&*driver, &spec).to_string();
        assert!(
            error.ends_with("is mounted in another mount namespace, or as a handle: end that mount first"),
            "{error}"
        );
        drop(handle);

        // Out of sight is not over.
        let root = driver.mount(&spec, None).unwrap();
        let file = root.dir.open_file("setuid").unwrap();
        drop(root.dir);
        driver.end(&Points::read().unwrap(), &dir, spec.source, &root.point.unwrap(), Unmount::Lazy).unwrap();
        refused(&*driver, &spec);
        drop(file);
        driver.mount_detached(&spec).unwrap();
    });
}

#[test]
fn a_root_that_was_unmounted_in_order_is_known_to_be_free() {
    under(MOUNTING, |_| {
        let world = World::new();
        let (driver, layers, dir) = (world.driver(DriverKind::Overlay), world.layers(), world.root("root"));
        let spec = world.prepared(&*driver, &layers, &dir, "plywood:free");
        for round in 0..3 {
            let root = driver.mount(&spec, None).unwrap();
            root.dir.remove_file(["setuid", "removed/x", "etc/two"][round]).unwrap_or_default();
            root.dir.create_dir(format!("new{round}"), 0o755).unwrap();
            drop(root.dir);
            assert!(dir.stat("work/work").is_ok());
            driver
                .end(&Points::read().unwrap(), &dir, spec.source, &root.point.unwrap(), Unmount::Clean)
                .unwrap();
            // Nobody has to ask the kernel, which would write that down each time.
            assert!(dir.stat("work/work").is_err());
        }
        // Who mounts by a path leaves the same trace.
        let place = world.root("place");
        let at = MountPoint::ambient(place.path_of("")).unwrap();
        drop(driver.mount(&spec, Some(&at)).unwrap().dir);
        driver.unmount(spec.source, &at, Unmount::Clean).unwrap();
        assert!(dir.stat("work/work").is_ok());
        assert!(mounts::everywhere(spec.source).unwrap().is_empty());
        drop(driver.mount_detached(&spec).unwrap());
    });
}
