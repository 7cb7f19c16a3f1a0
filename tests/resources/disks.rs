//! Disks that cannot be written to any more, and disks that fail.

use std::fs;
use std::path::Path;
use std::process::Command;

use crate::common::privilege::{self, Privilege};
use crate::common::run_command;
use crate::machine::Machine;

/// Everything that an operation on images and containers may be. `ARCHIVE` stands for an archive to load.
const CHANGES: &[&[&str]] = &[
    &["load", "-i", "ARCHIVE"],
    &["commit", "edited", "committed:1"],
    &["create", "--name", "new", "one:1"],
    &["tag", "one:1", "two:1"],
    &["rmi", "--force", "one:1"],
    &["rm", "edited"],
    &["rename", "edited", "new"],
    &["gc"],
];

/// Every change is refused with one of these words, and nothing is changed by that.
fn refuses_changes(machine: &Machine, archive: &str, kinds: &[&str]) {
    for words in CHANGES {
        let words: Vec<&str> =
            words.iter().map(|word| if *word == "ARCHIVE" { archive } else { word }).collect();
        machine.refused(&words, kinds);
    }
}

fn filled(machine: &Machine) -> String {
    machine.must(&["load", "-i", &machine.archive("one:1", 2)]);
    machine.edited("edited", "one:1");
    machine.archive("other:1", 2)
}

#[test]
fn a_read_only_disk_can_be_read_and_says_so_to_who_writes() {
    privilege::under(&[Privilege::Root], |_| {
        for machine in [Machine::in_memory("size=20m"), Machine::on_disk(32, &["mkfs.ext4"], "loop")] {
            let archive = filled(&machine);
            let before = machine.names();
            machine.remount("ro");
            refuses_changes(&machine, &archive, &["read-only"]);
            assert_eq!(machine.names(), before);
            machine.must(&["export", "-o", "/dev/null", "edited"]);
            machine.must(&["save", "-o", "/dev/null", "one:1"]);
            machine.remount("rw");
            machine.must(&["load", "-i", &archive]);
            machine.assert_sound();
        }
    });
}

#[test]
fn a_disk_that_turns_read_only_under_an_open_store_is_named() {
    privilege::under(&[Privilege::Root], |_| {
        let machine = Machine::in_memory("size=20m");
        let archive = fs::read(filled(&machine)).unwrap();
        let store = plywood::Store::open(machine.store()).unwrap();
        let container = store.container("edited").unwrap();
        machine.remount("ro");
        let errors = [
            store.load(&archive[..], &Default::default()).unwrap_err(),
            container.commit(&Default::default()).unwrap_err(),
            store.gc(&Default::default()).unwrap_err(),
            store.remove_image("one:1", plywood::RemoveImage::Force).unwrap_err(),
            container.remove(Default::default()).unwrap_err(),
        ];
        for error in errors {
            assert_eq!(error.kind(), "read-only", "{error}: {:?}", error.facts());
            let path = error.facts().into_iter().find(|(name, _)| *name == "path").unwrap().1;
            assert!(Path::new(&path).starts_with(machine.disk()), "{error}");
        }
        machine.remount("rw");
        store.load(&archive[..], &Default::default()).unwrap();
        machine.assert_sound();
    });
}

#[test]
fn a_disk_that_fails_is_named_and_loses_nothing_when_it_is_back() {
    privilege::under(&[Privilege::Root], |_| {
        let machine = Machine::on_disk(512, &["mkfs.xfs"], "loop");
        let archive = filled(&machine);
        let before = machine.names();
        // The emergency stop of a file system: every access that is not in memory fails.
        run_command(Command::new("xfs_io").args(["-x", "-c", "shutdown -f"]).arg(machine.disk()));
        refuses_changes(&machine, &archive, &["io"]);
        run_command(Command::new("umount").arg(machine.disk()));
        run_command(
            Command::new("mount").args(["-o", "loop"]).arg(machine.path("image")).arg(machine.disk()),
        );
        assert_eq!(machine.names(), before);
        machine.must(&["gc"]);
        machine.must(&["load", "-i", &archive]);
        machine.assert_sound();
    });
}
