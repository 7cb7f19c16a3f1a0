//! Roots whose owners are other ids on the host.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::{Command, Stdio};

use plywood::driver::mounts::Points;
use plywood::driver::{
    CopyDriver, Driver, DriverKind, IdMap, IdRange, RootOptions, RootSpec, Unmount, Writable,
};
use plywood::stack::Stack;

use crate::common::privilege::{MOUNTING, Privilege, under};
use crate::world::{World, assert_same, view, view_of};

const FIRST: u32 = 300_000;

fn mapped() -> RootOptions {
    let mut options = RootOptions::default();
    options.ids = Some(IdMap::range(FIRST, 65_536).unwrap());
    options
}

/// Runs a script as root of a user namespace with these ids, in `dir`.
fn as_root_of_the_range(dir: &Path, script: &str) -> String {
    let id = FIRST.to_string();
    let mut child = Command::new("setpriv")
        .args(["--reuid", &id, "--regid", &id, "--clear-groups", "unshare", "--user", "--mount", "sh", "-c"])
        .args(["echo ready; read -r _; cd \"$1\" && exec sh -euc \"$2\"", "sh"])
        .args([dir.as_os_str(), script.as_ref()])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdout = BufReader::new(child.stdout.take().unwrap());
    let mut output = String::new();
    stdout.read_line(&mut output).unwrap();
    for map in ["uid_map", "gid_map"] {
        fs::write(format!("/proc/{}/{map}", child.id()), format!("0 {FIRST} 65536")).unwrap();
    }
    child.stdin.take().unwrap().write_all(b"\n").unwrap();
    output.clear();
    stdout.read_to_string(&mut output).unwrap();
    assert!(child.wait().unwrap().success(), "{output}");
    output
}

#[test]
fn one_layer_serves_other_ids_and_what_is_written_has_the_images() {
    under(&[Privilege::Root], |_| {
        let world = World::new();
        fs::set_permissions(world.dir.path_of(""), std::os::unix::fs::PermissionsExt::from_mode(0o755))
            .unwrap();
        let (driver, layers, dir) = (world.driver(DriverKind::Overlay), world.layers(), world.root("root"));
        let before = view(&layers);
        let spec = RootSpec::new(&layers, &dir, "plywood:ids").with(mapped());
        assert!(driver.prepare(&spec).unwrap().losses.is_empty());
        // Kept with the root: whoever mounts it need not know.
        let spec = spec.with(RootOptions::default());
        let root = driver.mount(&spec, None).unwrap();
        let owner = |name: &str| {
            let metadata = fs::symlink_metadata(root.path.join(name)).unwrap();
            (metadata.uid(), metadata.gid())
        };
        assert_eq!(owner("setuid"), (FIRST + 1234, FIRST + 77));
        let script = "
            [ \"$(id -u):$(stat -c %u:%g setuid)\" = 0:1234:77 ]
            echo new > new; chown 7:8 new
            chmod 4700 setuid
            rm etc/two; rmdir gone || rm -r gone; mkdir gone; touch gone/fresh
            mv etc/deep/one moved; ln moved moved-too; mkfifo fifo; ln -s new symlink; rm sparse";
        as_root_of_the_range(&root.path, script);
        // The engine writes into the root as the host's root.
        fs::write(root.path.join("etc/hosts"), "by the engine").unwrap();
        assert_eq!(owner("etc/hosts"), (0, 0));
        assert_eq!(owner("new"), (FIRST + 7, FIRST + 8));
        assert_eq!(owner("moved"), (FIRST + 1234, FIRST + 77));
        let seen = view_of(&root.dir);
        assert_same(&view(&layers), &before);

        let Writable::Upper(upper) = driver.writable(&dir).unwrap() else { panic!("it is an overlay") };
        let whole = Stack::new([&upper].into_iter().chain(layers.trees().iter().copied()));
        let read = view(&whole);
        assert_eq!(read.keys().collect::<Vec<_>>(), seen.keys().collect::<Vec<_>>());
        let owner = |name: &str| {
            let found = whole.lookup(&plywood::path::LayerPath::parse(name).unwrap()).unwrap().unwrap();
            let metadata =
                whole.object(&plywood::path::LayerPath::parse(name).unwrap(), &found).unwrap().metadata;
            (metadata.uid, metadata.gid)
        };
        for (name, expected) in [
            ("new", (7, 8)),
            ("moved-too", (1234, 77)),
            ("setuid", (1234, 77)),
            ("gone/fresh", (0, 0)),
            ("symlink", (0, 0)),
            ("fifo", (0, 0)),
            ("etc/hosts", (0, 0)),
        ] {
            assert_eq!(owner(name), expected, "{name}");
        }
        drop(root.dir);
        driver
            .end(&Points::read().unwrap(), &dir, spec.source, &root.point.unwrap(), Unmount::Clean)
            .unwrap();
        assert_same(&view(&whole), &read);
        let root = driver.mount(&spec, None).unwrap();
        assert_same(&view_of(&root.dir), &seen);
        drop(root.dir);
        driver
            .end(&Points::read().unwrap(), &dir, spec.source, &root.point.unwrap(), Unmount::Clean)
            .unwrap();
        driver.remove(&dir).unwrap();
    });
}

#[test]
fn two_roots_with_other_ids_stand_on_the_same_layers() {
    under(&[Privilege::Root], |_| {
        let world = World::new();
        let (driver, layers) = (world.driver(DriverKind::Overlay), world.layers());
        let mounts: Vec<_> = [0, 70_000, 500_000]
            .into_iter()
            .map(|first| {
                let dir = world.root(&format!("root{first}"));
                let mut options = RootOptions::default();
                let all = |count| vec![IdRange { image: 0, host: first, count }];
                options.ids = Some(IdMap::new(all(60_000), all(50_000)).unwrap());
                let source = format!("plywood:{first}");
                let spec = RootSpec::new(&layers, &dir, &source).with(options);
                driver.prepare(&spec).unwrap();
                let mount = driver.mount_detached(&spec).unwrap();
                let stat = rustix::fs::statat(&mount, "setuid", rustix::fs::AtFlags::empty()).unwrap();
                assert_eq!((stat.st_uid, stat.st_gid), (first + 1234, first + 77));
                mount
            })
            .collect();
        drop(mounts);
        // A view has no record, and translates all the same.
        let dir = world.root("view");
        let mut options = RootOptions::read_only();
        options.ids = mapped().ids;
        let spec = RootSpec::new(&layers, &dir, "plywood:view").with(options);
        driver.prepare(&spec).unwrap();
        let root = driver.mount(&spec, None).unwrap();
        assert_eq!(root.dir.stat("setuid").unwrap().uid, FIRST + 1234);
        drop(root.dir);
        driver.unmount(spec.source, &root.point.unwrap(), Unmount::Clean).unwrap();
    });
}

#[test]
fn who_cannot_translate_owners_is_told_why() {
    under(MOUNTING, |privilege| {
        let world = World::new();
        let (layers, dir) = (world.layers(), world.root("root"));
        let spec = RootSpec::new(&layers, &dir, "plywood:ids").with(mapped());
        let error = CopyDriver::new(true).prepare(&spec).unwrap_err().to_string();
        assert!(error.contains("belong to a mount; use overlay"), "{error}");
        if privilege != Privilege::Root {
            let error = world.driver(DriverKind::Overlay).prepare(&spec).unwrap_err().to_string();
            assert!(
                error.contains("a translation of owners is for root in the initial user namespace"),
                "{error}"
            );
        }
        assert!(dir.names().unwrap().is_empty());
    });
}
