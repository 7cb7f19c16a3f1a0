//! A repair that fails or is killed at any step: nothing is worse than it was, and the next one finishes.

use std::collections::BTreeMap;
use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};

use plywood::store::CreateOptions;

use crate::common::privilege::{self, Privilege};
use crate::common::sha256;
use crate::shop::Shop;
use crate::tracer::Fault;
use crate::view::{View, open};
use crate::{explained, faults};

const WORDS: &[&str] = &["repair"];

/// One of everything that can be mended.
fn damage(store: &Path) {
    let opened = open(store);
    let base = opened.image("base:1").unwrap();
    for name in ["still", "nameless"] {
        opened.create_container(&base, &CreateOptions::named(name)).unwrap();
    }
    let id = |name: &str| opened.container(name).unwrap().id().to_owned();
    let record = |name: &str, file: &str| store.join("containers").join(id(name)).join(file);
    let cut = |path: PathBuf| {
        let content = fs::read(&path).unwrap();
        fs::write(path, &content[..content.len() - 1]).unwrap();
    };
    let (cut_record, cut_root) = (record("edited", "container.json"), record("still", "root.json"));
    cut(cut_record);
    cut(cut_root);
    fs::remove_file(store.join("names/nameless")).unwrap();
    let layers: Vec<_> =
        fs::read_dir(store.join("layers")).unwrap().map(|layer| layer.unwrap().path()).collect();
    let hosts = layers.iter().map(|layer| layer.join("tree/etc/hosts")).find(|hosts| hosts.is_file());
    fs::write(hosts.unwrap(), "somebody else").unwrap();
    // Nobody needs it, and nobody could load it.
    let stray = store.join("oci/blobs/sha256").join(sha256(b"stray"));
    fs::write(stray, "something else").unwrap();
    let gone = layers.iter().find(|layer| layer.join("tree/own").exists()).unwrap();
    fs::remove_file(gone.join("layer.json")).unwrap();
    let index = store.join("oci/index.json");
    let whole = fs::read_to_string(&index).unwrap();
    // Only its end is lost, and every entry is whole.
    fs::write(index, &whole[..whole.trim_end().len() - 1]).unwrap();
}

/// What containers hold, of those that can be read.
fn roots(store: &Path) -> BTreeMap<String, String> {
    let store = open(store);
    let mut roots = BTreeMap::new();
    for container in store.containers().unwrap() {
        let mut tar = Vec::new();
        if container.export(&mut tar, &Default::default()).is_ok() {
            roots.insert(container.id().to_owned(), sha256(&tar));
        }
    }
    roots
}

struct Trial {
    shop: Shop,
    /// Before a repair and after it.
    roots: [BTreeMap<String, String>; 2],
    mended: View,
    tidy: Vec<String>,
    steps: usize,
}

impl Trial {
    fn suffer(&self, number: usize, fault: Fault) {
        self.shop.reset();
        let run = self.shop.run(WORDS, Some((number, fault)));
        let step = run.steps.last().map_or("", |step| &*step.what);
        let what = format!("{fault:?} at step {number} of {}: {step}\n{}", self.steps, run.errors);
        if !run.was_hit {
            // How often a record is read again depends on how coarse the clock is.
            assert_eq!(run.code, Some(0), "{what}");
            return;
        }
        // What cannot be read is told in the report.
        let is_told = run.code == Some(1) && run.errors.is_empty() && step.starts_with("read");
        if !is_told {
            explained(&self.shop, &run, fault, &what);
        }
        // Who could be read can be, and holds what it held or what it should.
        let now = roots(&self.shop.store());
        for (id, before) in &self.roots[0] {
            let found = now.get(id).unwrap_or_else(|| panic!("{what}: {id} is lost"));
            assert!(found == before || *found == self.roots[1][id], "{what}: {id} holds something else");
        }
        let again = self.shop.run(WORDS, None);
        assert_eq!(again.code, Some(0), "again after {what}{}", again.errors);
        self.shop.look().assert_same(&self.mended, &what);
        self.shop.collect();
        assert_eq!(self.shop.listing(), self.tidy, "{what}");
    }
}

#[test]
fn mending_survives_every_fault() {
    privilege::under(&[Privilege::Root], |_| {
        let shop = Shop::damaged(damage);
        let before = roots(&shop.store());
        assert!(!before.is_empty());
        let run = shop.run(WORDS, None);
        assert_eq!(run.code, Some(0), "{}", run.errors);
        let (mended, after) = (shop.look(), roots(&shop.store()));
        assert_eq!(after.len(), 3);
        shop.collect();
        let (tidy, steps) = (shop.listing(), run.steps.len());
        let trial = Trial { shop, roots: [before, after], mended, tidy, steps };
        let suffer = |&(number, fault): &(usize, Fault)| {
            catch_unwind(AssertUnwindSafe(|| trial.suffer(number, fault))).is_err()
        };
        let fatal: Vec<_> = faults(WORDS, &run.steps).into_iter().filter(suffer).collect();
        assert!(fatal.is_empty(), "{fatal:?}");
    });
}
