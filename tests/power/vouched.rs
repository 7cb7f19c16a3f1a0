//! What is acknowledged is there, also where another process did it and did not wait for the disk, or died before it could.

use std::fs;

use plywood::fs::Durability;
use plywood::store::{LoadOptions, Store, Unpack};

use crate::Archives;
use crate::common::privilege::{self, Privilege};
use crate::common::scratch;
use crate::disk::Disk;
use crate::ledger::Ledger;

/// A disk with a store, and archives beside it.
fn on_each(test: impl Fn(&mut Disk, &Archives)) {
    for file_system in ["ext4", "xfs"] {
        let scratch = scratch();
        let archives = Archives::write(scratch.path());
        let mut disk = Disk::new(scratch.path(), file_system);
        test(&mut disk, &archives);
        disk.unplug();
    }
}

#[test]
fn what_is_there_already_survives_a_power_cut_once_somebody_has_waited_for_it() {
    privilege::under(&[Privilege::Root], |_| {
        on_each(|disk, archives| {
            let path = |number: usize| archives.0[number].path.to_str().unwrap().to_owned();
            disk.must(&["load", "-i", &path(0)]);
            for words in [vec!["tag", "one:1", "again:1"], vec!["load", "-i", &path(1)]] {
                disk.must(&[&["--durability", "relaxed"], &words[..]].concat());
                disk.must(&words);
                disk.cut();
                disk.restart();
            }
            let names: Vec<_> = Ledger::of(disk).names.into_keys().collect();
            assert_eq!(names, ["again:1", "one:1", "two:1"]);
            for name in names {
                disk.must(&["create", "--name", "looked-at", &name]);
                disk.must(&["export", "looked-at"]);
                disk.must(&["rm", "looked-at"]);
            }
        });
    });
}

#[test]
fn a_layer_that_was_mended_stays_mended() {
    privilege::under(&[Privilege::Root], |_| {
        on_each(|disk, archives| {
            disk.must(&["load", "-i", archives.0[0].path.to_str().unwrap()]);
            // From now on the layers are believed after a restart.
            disk.must(&["gc"]);
            let layers = fs::read_dir(disk.store().join("layers")).unwrap();
            let files = layers.map(|layer| layer.unwrap().path().join("tree/base/large"));
            let file = files.into_iter().find(|file| file.exists()).unwrap();
            fs::write(&file, "damaged").unwrap();
            fs::File::open(&file).unwrap().sync_all().unwrap();
            disk.must(&["repair"]);
            disk.cut();
            disk.restart();
            // Unpacks again what was not on disk.
            disk.must(&["create", "--name", "one", "one:1"]);
            disk.must(&["check", "--deep"]);
        });
    });
}

#[test]
fn what_was_settled_is_there_whoever_did_not_wait_for_it() {
    privilege::under(&[Privilege::Root], |_| {
        on_each(|disk, archives| {
            let options = Store::options().durability(Durability::Relaxed);
            let store = options.ensure(disk.store()).unwrap();
            let mut options = LoadOptions::default();
            options.unpack = Unpack::OnDemand;
            store.load(fs::File::open(&archives.0[0].path).unwrap(), &options).unwrap();
            store.settle().unwrap();
            drop(store);
            disk.cut();
            disk.restart();
            disk.must(&["create", "one:1"]);
            disk.must(&["check", "--deep"]);
        });
    });
}

#[test]
fn a_store_that_was_made_is_there_with_the_directories_above_it() {
    privilege::under(&[Privilege::Root], |_| {
        on_each(|disk, _| {
            let path = disk.store().join("deep/and/deeper");
            Store::create(&path).unwrap();
            disk.cut();
            disk.restart();
            Store::open(&path).unwrap();
        });
    });
}
