//! What a probe finds, where it looks.

use std::process::Command;

use plywood::driver::{DriverError, DriverKind, Probe, ProbeOptions, mounts::MountTable};
use plywood::fs::Dir;
use plywood::whiteout::Namespace;

use crate::common::privilege::{Privilege, under};
use crate::common::{run, scratch, skip};

fn probe(path: &std::path::Path) -> Probe {
    // The rest of the machine mounts and unmounts meanwhile.
    let mounts = || MountTable::read().unwrap().within(path).cloned().collect::<Vec<_>>();
    let (dir, before) = (Dir::open_ambient(path).unwrap(), mounts());
    let probe = Probe::run(&dir).unwrap();
    assert!(dir.names().unwrap().is_empty(), "a probe leaves nothing");
    assert_eq!(mounts(), before);
    assert!(MountTable::read().unwrap().named("plywood:probe").next().is_none());
    probe
}

#[test]
fn a_probe_finds_what_each_privilege_can_do() {
    under(&[Privilege::Root, Privilege::IdRange, Privilege::SingleId, Privilege::Plain], |privilege| {
        let temp = scratch();
        let probe = probe(temp.path());
        let (kind, family, privileged) = match privilege {
            Privilege::Root => (DriverKind::Overlay, Namespace::Trusted, true),
            Privilege::IdRange | Privilege::SingleId => (DriverKind::Overlay, Namespace::User, true),
            Privilege::Plain => (DriverKind::Copy, Namespace::User, false),
        };
        assert_eq!((probe.chosen, probe.family, probe.privileged), (kind, family, privileged), "{probe}");
        match privilege {
            Privilege::Root => assert!(probe.to_string().ends_with("; using overlay"), "{probe}"),
            Privilege::IdRange | Privilege::SingleId => {
                assert!(probe.to_string().ends_with("; using overlay with userxattr"), "{probe}");
            }
            Privilege::Plain => {
                let text = probe.to_string();
                assert!(text.starts_with("overlay: refused, cannot begin mounting \""), "{text}");
                assert!(text.contains("Operation not permitted"), "{text}");
                assert!(text.ends_with("; using copy"), "{text}");
            }
        }
    });
}

#[test]
fn without_a_mount_namespace_of_its_own_a_user_namespace_gets_copies() {
    under(&[Privilege::Plain], |_| {
        if std::env::var_os("PLYWOOD_TEST_NAMESPACE").is_none() {
            if !Command::new("unshare").args(["-Ur", "true"]).status().is_ok_and(|status| status.success()) {
                return skip("no user namespaces for this user");
            }
            let own = std::env::args_os().map(|word| word.to_str().unwrap().to_owned());
            let words = ["env", "PLYWOOD_TEST_NAMESPACE=1"].map(String::from).into_iter().chain(own);
            run("unshare", ["-Ur".to_owned()].into_iter().chain(words));
            return;
        }
        let temp = scratch();
        let probe = probe(temp.path());
        assert_eq!((probe.chosen, probe.privileged), (DriverKind::Copy, true), "{probe}");
        let error = probe.driver(Some(DriverKind::Overlay)).unwrap_err().to_string();
        assert!(error.starts_with("the overlay driver cannot do this: cannot begin mounting"), "{error}");
    });
}

#[test]
fn a_store_in_memory_or_on_an_overlay_is_tried_like_any_other() {
    under(&[Privilege::Root, Privilege::SingleId], |_| {
        let temp = scratch();
        let at = |name: &str| temp.path().join(name).to_str().unwrap().to_owned();
        for name in ["memory", "lower", "upper", "work", "merged"] {
            std::fs::create_dir(at(name)).unwrap();
        }
        run("mount", ["-t", "tmpfs", "none", &at("memory")]);
        let found = probe(&temp.path().join("memory"));
        assert_eq!(found.chosen, DriverKind::Overlay, "{found}");

        let options = format!("lowerdir={},upperdir={},workdir={}", at("lower"), at("upper"), at("work"));
        run("mount", ["-t", "overlay", "-o", &options, "none", &at("merged")]);
        let found = probe(&temp.path().join("merged"));
        assert_eq!(found.chosen, DriverKind::Copy, "{found}");
        assert!(found.to_string().starts_with("overlay: refused, "), "{found}");
        eprintln!("{found}");
    });
}

#[test]
fn a_driver_that_is_not_there_is_refused_with_the_reason() {
    let temp = scratch();
    let mut options = ProbeOptions::default();
    options.fuse_overlayfs = Some("/no/such/program".into());
    options.fuse_in_any_case = true;
    let probe = Probe::run_with(&Dir::open_ambient(temp.path()).unwrap(), &options).unwrap();
    match probe.driver(Some(DriverKind::Fuse)) {
        Err(DriverError::Refused { kind: DriverKind::Fuse, reason }) => {
            assert!(reason.starts_with("\"/no/such/program\" cannot be executed"), "{reason}");
        }
        other => panic!("{other:?}"),
    }
    assert_eq!("overlay".parse(), Ok(DriverKind::Overlay));
    let error = "btrfs".parse::<DriverKind>().unwrap_err();
    assert_eq!(error.to_string(), "there is no driver \"btrfs\", only overlay, fuse and copy");
}
