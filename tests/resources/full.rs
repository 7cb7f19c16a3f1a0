//! Disks that are full: of blocks, of inodes, or as far as a quota goes.

use crate::common::privilege::{self, Privilege};
use crate::machine::Machine;

/// Everything that needs room is refused and changes nothing; then room is made with what the store offers for that.
fn a_way_out(machine: &Machine, fill: impl Fn(), kinds: &[&str]) {
    let [one, two, three] =
        [("one:1", 2), ("two:1", 3), ("three:1", 2)].map(|(name, layers)| machine.archive(name, layers));
    for archive in [&one, &two] {
        machine.must(&["load", "-i", archive]);
    }
    machine.edited("edited", "one:1");
    machine.must(&["create", "--name", "idle", "two:1"]);
    let before = machine.names();
    fill();
    for words in [
        &["load", "-i", &three][..],
        &["commit", "edited", "committed:1"],
        &["create", "--name", "new", "one:1"],
    ] {
        machine.refused(words, kinds);
        assert_eq!(machine.names(), before, "{words:?}");
    }
    // Reading needs no room.
    machine.must(&["export", "-o", "/dev/null", "edited"]);
    machine.must(&["changes", "edited"]);
    for words in [&["check"][..], &["check", "--deep"]] {
        let report = machine.must(words);
        assert_eq!(report["damages"].as_array().unwrap().len(), 0, "{words:?}: {report}");
    }

    machine.must(&["gc"]);
    fill();
    machine.must(&["rm", "idle"]);
    fill();
    machine.must(&["rm", "edited"]);
    fill();
    machine.must(&["rmi", "two:1"]);
    fill();
    machine.must(&["rmi", "one:1"]);
    fill();
    let collected = machine.must(&["gc"]);
    assert_eq!(collected["layers"].as_array().unwrap().len(), 5, "{collected}");
    assert_eq!(machine.names(), Vec::<String>::new());
    machine.empty();
    machine.must(&["gc"]);
    machine.must(&["load", "-i", &three]);
    machine.assert_sound();
}

#[test]
fn there_is_a_way_out_of_a_disk_in_memory_without_a_free_page() {
    privilege::under(&[Privilege::Root], |_| {
        let machine = Machine::in_memory("size=12m");
        a_way_out(&machine, || machine.fill(), &["no-space"]);
    });
}

#[test]
fn there_is_a_way_out_of_a_disk_without_a_free_block() {
    privilege::under(&[Privilege::Root], |_| {
        let machine =
            Machine::on_disk(24, &["mkfs.ext4", "-m0", "-Onone,extents,has_journal,dir_index"], "loop");
        a_way_out(&machine, || machine.fill(), &["no-space"]);
    });
}

#[test]
fn there_is_a_way_out_of_a_disk_in_memory_without_an_inode() {
    privilege::under(&[Privilege::Root], |_| {
        let machine = Machine::in_memory("size=100m,nr_inodes=400");
        a_way_out(&machine, || machine.fill_inodes(), &["no-inodes"]);
    });
}

#[test]
fn there_is_a_way_out_of_a_disk_without_an_inode() {
    privilege::under(&[Privilege::Root], |_| {
        let machine = Machine::on_disk(24, &["mkfs.ext4", "-m0", "-N512"], "loop");
        a_way_out(&machine, || machine.fill_inodes(), &["no-inodes"]);
    });
}
