//! One layer, many images: what is shared, what is made again, and what becomes of a layer that cannot be trusted.

use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};

use plywood::digest::ChainId;
use plywood::fs::Dir;
use plywood::layer::{EnsureOptions, LayerError, LayerKey, LayerSource, LayerStore, Progress};
use plywood::parallelism::Parallelism;
use proptest::prelude::*;
use proptest::test_runner::{Config, TestCaseError};

use crate::common::tar::{Entry, Kind as EntryKind, Tar, tar, tar_of};
use crate::common::tree::{Kind, snapshot};
use crate::common::{self, model};
use crate::common::{privilege, random};
use crate::lab::{Lab, chain, counted_source, diff_id, lab, meant, seen, source};

fn base() -> Tar {
    tar().dir("d").mode(0o700).mtime(9, 9).file("d/a", "a").dir("d/e").file("file", "")
}

fn other_base() -> Tar {
    tar().dir("d").mode(0o1711).owner(0, 0).xattr("user.d", "1").file("other", "")
}

fn keys(lab: &Lab, layers: &[&Tar]) -> Vec<LayerKey> {
    let tars: Vec<_> = layers.iter().map(|layer| (*layer).clone().finish()).collect();
    let made = lab.ensure(&tars);
    let layers: Vec<_> = layers.iter().map(|layer| (*layer).clone()).collect();
    seen(&made).assert_same(&meant(&layers), "the stack");
    lab.assert_clean();
    made.iter().map(|layer| layer.key).collect()
}

fn free(layer: &Tar) -> LayerKey {
    LayerKey::Free(diff_id(&layer.clone().finish()))
}

fn bound(layers: &[&Tar]) -> LayerKey {
    let ids = layers.iter().map(|layer| diff_id(&(*layer).clone().finish()));
    LayerKey::Bound(ChainId::of(ids).unwrap())
}

#[test]
fn a_layer_that_leans_on_nothing_is_one_directory_on_every_base() {
    let lab = lab();
    let (one, two, top) = (base(), other_base(), tar().dir("d").file("d/new", "").whiteout("d/a"));
    assert_eq!(keys(&lab, &[&one, &top]), [free(&one), free(&top)]);
    assert_eq!(keys(&lab, &[&two, &top, &one]), [free(&two), free(&top), free(&one)]);
    assert_eq!(lab.store.list().unwrap().len(), 3);
}

#[test]
fn a_layer_is_shared_where_what_it_assumes_is_true_and_varied_where_not() {
    privilege::under(privilege::ALL, |_| {
        let lab = lab();
        let top = tar().file("d/new", "new").file("q/r", "").whiteout("d/e").whiteout("d/nothing");
        let (one, like_one, two) = (base(), base().file("more", ""), other_base());
        assert_eq!(keys(&lab, &[&one, &top])[1], free(&top));
        assert_eq!(keys(&lab, &[&like_one, &top])[1], free(&top));
        assert_eq!(keys(&lab, &[&two, &top])[1], bound(&[&two, &top]));
        assert_eq!(keys(&lab, &[&two, &top])[1], bound(&[&two, &top]));
        // The files of the variant are those of the layer.
        let inode = |key: LayerKey| {
            lab.store.get(key).unwrap().unwrap().tree.dir.stat("d/new").map(|stat| stat.inode).unwrap()
        };
        assert_eq!(inode(free(&top)), inode(bound(&[&two, &top])));
        assert_eq!(lab.store.get(free(&top)).unwrap().unwrap().record.assumed.len(), 2);
    });
}

#[test]
fn a_layer_behind_a_link_of_its_base_is_bound_to_it() {
    privilege::under(privilege::ALL, |_| {
        let lab = lab();
        let linked = tar().dir("real").mode(0o711).file("real/a", "").symlink("d", "real");
        let top = tar().file("d/new", "").whiteout("d/a");
        assert_eq!(keys(&lab, &[&linked, &top])[1], bound(&[&linked, &top]));
        assert_eq!(keys(&lab, &[&base(), &top])[1], free(&top));
        let third = base().file("third", "");
        let linked = tar().dir("x").symlink("d", "x");
        assert_eq!(keys(&lab, &[&third, &top])[1], free(&top));
        assert_eq!(keys(&lab, &[&linked, &top])[1], bound(&[&linked, &top]));
    });
}

#[test]
fn a_layer_with_links_to_its_base_is_bound_to_it_and_has_files_of_its_own() {
    privilege::under(privilege::ALL, |_| {
        let lab = lab();
        let (one, two) = (base(), other_base().dir("d").file("d/a", "another"));
        let top = tar().link("again", "d/a").link("once-more", "again");
        assert_eq!(keys(&lab, &[&one, &top])[1], bound(&[&one, &top]));
        assert_eq!(keys(&lab, &[&two, &top])[1], bound(&[&two, &top]));
        let lower = lab.store.get(free(&one)).unwrap().unwrap();
        assert_eq!(lower.tree.dir.stat("d/a").unwrap().links, 1);
    });
}

#[test]
fn one_layer_twice_in_an_image_is_one_directory() {
    let lab = lab();
    let (one, two) = (base(), tar().whiteout("d").file("x", ""));
    assert_eq!(keys(&lab, &[&one, &two, &one]), [free(&one), free(&two), free(&one)]);
    let leaning = tar().file("d/x", "");
    let other = other_base();
    let chain = [&one, &leaning, &other, &leaning];
    assert_eq!(keys(&lab, &chain), [free(&one), free(&leaning), free(&other), bound(&chain)]);
}

/// Changes a layer's record as another boot, or an unclean stop, would leave it: by another file, since what was read of a
/// layer counts while its directory has not changed.
fn rewrite(lab: &Lab, key: LayerKey, change: impl Fn(String) -> String) {
    let path = lab.scratch.path().join("layers").join(key.to_string()).join("layer.json");
    let text = std::fs::read_to_string(&path).unwrap();
    let other = path.with_extension("new");
    std::fs::write(&other, change(text)).unwrap();
    std::fs::rename(other, path).unwrap();
}

fn of_another_boot(text: String) -> String {
    let (before, after) = text.split_once("\"boot\": \"").unwrap();
    format!("{before}\"boot\": \"another{after}")
}

#[test]
fn a_layer_of_another_boot_that_was_not_synced_is_made_again() {
    for damage in [of_another_boot, |_| String::new(), |text: String| text[..text.len() / 2].to_owned()] {
        let lab = lab();
        let layer = base();
        let key = keys(&lab, &[&layer])[0];
        let tree = lab.scratch.path().join("layers").join(key.to_string()).join("tree");
        std::fs::write(tree.join("d/a"), "").unwrap(); // what a power cut leaves
        rewrite(&lab, key, damage);
        assert!(lab.store.get(key).unwrap().is_none());
        assert_eq!(lab.store.list().unwrap(), [key]);
        assert_eq!(keys(&lab, &[&layer]), [key]);
        assert_eq!(std::fs::read(tree.join("d/a")).unwrap(), b"a");
    }
}

#[test]
fn a_settled_layer_is_trusted_in_every_boot() {
    let lab = lab();
    let (layer, top) = (base(), tar().file("d/x", ""));
    let made = keys(&lab, &[&layer, &top]);
    let work = lab.staging.workspace().unwrap();
    assert_eq!(lab.store.settle(&work).unwrap(), 2);
    assert_eq!(lab.store.settle(&work).unwrap(), 0);
    work.close().unwrap();
    for key in made {
        rewrite(&lab, key, of_another_boot);
        let layer = lab.store.get(key).unwrap().expect("it is on disk");
        assert!(layer.record.settled);
    }
    lab.assert_clean();
}

#[test]
fn a_layer_can_be_on_disk_before_it_is_seen() {
    let lab = lab();
    let work = lab.staging.workspace().unwrap();
    let mut options = EnsureOptions::default();
    options.synced = true;
    let tar = base().finish();
    let ensured = lab.store.ensure(&[source(&tar)], &work, &options).unwrap();
    assert!(lab.store.get(ensured.keys[0]).unwrap().unwrap().record.settled);
}

#[test]
fn a_record_of_a_newer_version_is_refused_and_left_alone() {
    let lab = lab();
    let key = keys(&lab, &[&base()])[0];
    rewrite(&lab, key, |text| text.replace("\"version\": 2", "\"version\": 7"));
    let error = lab.store.get(key).unwrap_err();
    assert!(matches!(error, LayerError::Record { .. }), "{error}");
    assert!(chain(&error).contains("version 7, expected 2"), "{}", chain(&error));
    assert!(lab.try_ensure(&[base().finish()]).is_err());
    assert_eq!(lab.store.list().unwrap(), [key]);
}

#[test]
fn a_removed_layer_is_gone_at_once_and_can_be_made_again() {
    let lab = lab();
    let key = keys(&lab, &[&base()])[0];
    let rubbish = lab.staging.workspace().unwrap();
    assert!(lab.store.remove(key, &rubbish).unwrap());
    assert!(!lab.store.remove(key, &rubbish).unwrap());
    assert!(lab.store.get(key).unwrap().is_none() && lab.store.list().unwrap().is_empty());
    rubbish.close().unwrap();
    lab.assert_clean();
    assert_eq!(keys(&lab, &[&base()]), [key]);
}

#[test]
fn layers_that_are_there_are_not_read_again() {
    let lab = lab();
    let tars = [base().finish(), tar().file("d/x", "").finish()];
    lab.ensure(&tars);
    let sources: Vec<_> = tars
        .iter()
        .map(|tar| {
            let (id, blob) = (diff_id(tar), plywood::digest::Digest::of(tar));
            LayerSource::new(id, blob, 1, Box::new(|| panic!("it is there")))
        })
        .collect();
    let work = lab.staging.workspace().unwrap();
    let ensured = lab.store.ensure(&sources, &work, &EnsureOptions::default()).unwrap();
    assert!(ensured.made.is_empty());
}

#[test]
fn many_at_a_time_make_each_layer_once() {
    let lab = lab();
    let layers = [base(), tar().file("d/x", vec![1; 3_000_000]), tar().link("l", "d/x"), other_base()];
    let tars: Vec<_> = layers.iter().map(|layer| layer.clone().finish()).collect();
    let (sources, counts): (Vec<_>, Vec<_>) = tars.iter().map(|tar| counted_source(tar)).unzip();
    let results = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for _ in 0..6 {
            scope.spawn(|| {
                let work = lab.staging.workspace().unwrap();
                let ensured = lab.store.ensure(&sources, &work, &EnsureOptions::default());
                results.lock().unwrap().push(ensured.map_err(|error| chain(&error)).unwrap().keys);
                work.close().unwrap();
            });
        }
    });
    let results = results.into_inner().unwrap();
    assert!(results.iter().all(|keys| keys == &results[0]), "{results:?}");
    let made: Vec<_> = results[0].iter().map(|&key| lab.store.get(key).unwrap().unwrap()).collect();
    seen(&made).assert_same(&meant(&layers), "made by many");
    lab.assert_clean();
    // Those that lean on nothing are shared for certain; of the others two may have been under way.
    for leans_on_nothing in [0, 3] {
        assert_eq!(counts[leans_on_nothing].load(Ordering::Relaxed), 1);
    }
}

#[test]
fn the_number_of_threads_changes_nothing() {
    let layers: Vec<_> = (0..7_u8)
        .map(|number| {
            (0..20).fold(tar().dir("all"), |layer, file| {
                layer.file(
                    format!("all/{}", (file * 7 + number) % 31),
                    vec![number; 20_000 * usize::from(number)],
                )
            })
        })
        .collect();
    let tars: Vec<_> = layers.iter().map(|layer| common::image::gzip(&layer.clone().finish())).collect();
    let mut trees = Vec::new();
    for threads in [1, 2, 3, 16] {
        let lab = lab();
        let sources: Vec<_> = tars
            .iter()
            .zip(&layers)
            .map(|(blob, layer)| {
                let (id, blob) = (diff_id(&layer.clone().finish()), blob.clone());
                let digest = plywood::digest::Digest::of(&blob);
                let open = move || Ok(Box::new(std::io::Cursor::new(blob.clone())) as Box<_>);
                LayerSource::new(id, digest, 1, Box::new(open))
            })
            .collect();
        let work = lab.staging.workspace().unwrap();
        let mut options = EnsureOptions::default();
        options.parallelism = Parallelism::new(threads.try_into().unwrap());
        lab.store.ensure(&sources, &work, &options).unwrap();
        work.close().unwrap();
        // Everything that is there, records included, but for the times that the layers do not give.
        let tree = snapshot(lab.scratch.path().join("layers"));
        trees.push(tree.without_mtimes(|path, _| path.components().count() < 3));
    }
    for tree in &trees[1..] {
        tree.assert_same(&trees[0], "another number of threads");
    }
}

#[test]
fn a_layer_that_fails_leaves_nothing_and_stops_the_others() {
    let lab = lab();
    let good = base().finish();
    let mut cut = tar().file("big", vec![1; 2_000_000]).finish();
    cut.truncate(1_000_000);
    let work = lab.staging.workspace().unwrap();
    let missing = LayerSource::new(
        diff_id(b"missing"),
        plywood::digest::Digest::of(b"missing"),
        1,
        Box::new(|| Err(std::io::ErrorKind::NotFound.into())),
    );
    let error = lab.store.ensure(&[source(&good), missing], &work, &EnsureOptions::default()).unwrap_err();
    assert!(matches!(error, LayerError::Open { .. }), "{error}");
    let error = lab.store.ensure(&[source(&cut)], &work, &EnsureOptions::default()).unwrap_err();
    assert!(chain(&error).contains("cut short"), "{}", chain(&error));
    work.close().unwrap();
    assert!(lab.store.get(LayerKey::Free(diff_id(&cut))).unwrap().is_none());
    lab.assert_clean();
}

#[test]
fn making_layers_can_be_cancelled_and_leaves_nothing() {
    let lab = lab();
    let tars =
        [tar().file("one", vec![1; 3_000_000]).finish(), tar().file("two", vec![2; 3_000_000]).finish()];
    let sources: Vec<_> = tars.iter().map(|tar| source(tar)).collect();
    let wanted = AtomicBool::new(false);
    let progress = |progress: Progress| {
        if let Progress::Read { bytes: 500_000.., .. } = progress {
            wanted.store(true, Ordering::Relaxed);
        }
    };
    let cancelled = || wanted.load(Ordering::Relaxed);
    let mut options = EnsureOptions::default();
    options.progress = Some(&progress);
    options.cancelled = Some(&cancelled);
    let work = lab.staging.workspace().unwrap();
    let error = lab.store.ensure(&sources, &work, &options).unwrap_err();
    assert!(matches!(error, LayerError::Cancelled), "{error}");
    work.close().unwrap();
    assert!(lab.store.list().unwrap().is_empty());
    lab.assert_clean();
}

#[test]
fn progress_tells_every_byte_of_every_blob() {
    let lab = lab();
    let tars = [base().finish(), tar().dir("x").file("x/y", vec![1; 700_000]).finish()];
    let sources: Vec<_> = tars.iter().map(|tar| source(tar)).collect();
    let told = Mutex::new(Vec::new());
    let progress = |progress: Progress| told.lock().unwrap().push(progress);
    let mut options = EnsureOptions::default();
    options.progress = Some(&progress);
    let work = lab.staging.workspace().unwrap();
    lab.store.ensure(&sources, &work, &options).unwrap();
    let told = told.lock().unwrap();
    for tar in &tars {
        let id = diff_id(tar);
        let size = tar.len() as u64;
        assert!(told.contains(&Progress::Started { diff_id: id, size }));
        assert!(told.contains(&Progress::Read { diff_id: id, bytes: size }));
        assert!(told.contains(&Progress::Finished { diff_id: id }));
    }
}

#[test]
fn a_layer_of_no_bytes_is_empty() {
    let lab = lab();
    let made = lab.ensure(&[Vec::new(), tar().finish()]);
    assert_eq!(seen(&made).names(), [""; 0]);
    assert_eq!(made[0].record.entries, 0);
}

#[test]
fn reading_writes_nothing_and_takes_no_lock() {
    let lab = lab();
    let key = keys(&lab, &[&base()])[0];
    let before = snapshot(lab.scratch.path());
    let open = |name: &str| Dir::open_ambient(lab.scratch.path().join(name)).unwrap();
    let again = LayerStore::new(open("layers"), open("locks"));
    assert!(again.get(key).unwrap().is_some());
    assert_eq!(again.list().unwrap(), [key]);
    snapshot(lab.scratch.path()).assert_same(&before, "after reading");
}

#[test]
fn a_tree_deeper_than_the_process_may_open_files_is_made_and_varied() {
    let lab = lab();
    let deep = vec!["d"; 1500].join("/");
    let layer = tar().file(format!("{deep}/file"), "deep");
    let one = base();
    let two = tar().dir("d").mode(0o711);
    assert_eq!(lab.ensure(&[one.finish(), layer.clone().finish()])[1].key, free(&layer));
    let made = lab.ensure(&[two.clone().finish(), layer.clone().finish()]);
    assert_eq!(made[1].key, bound(&[&two, &layer]));
    let stat = made[1].tree.dir.stat(format!("{deep}/file")).unwrap();
    assert_eq!((stat.size, stat.links), (4, 2));
}

#[test]
fn nobody_else_can_reach_what_is_in_a_layer_being_made() {
    let lab = lab();
    let key = keys(&lab, &[&tar().dir("./").mode(0o1777).file("x", "")])[0];
    let path = lab.scratch.path().join("layers").join(key.to_string());
    assert_eq!(std::fs::metadata(path.join("tree")).unwrap().mode() & 0o7777, 0o1777);
    assert_eq!(snapshot(path.join("tree")).at("x").kind, Kind::file(b""));
}

proptest! {
    #![proptest_config(Config { cases: 80, failure_persistence: None, ..Config::default() })]

    #[test]
    fn layers_that_nobody_thought_of_are_what_the_model_says(layers in random::layers(4)) {
        prop_assume!(!layers.iter().any(|layer| has_lost_link(layer)));
        check(&lab(), &layers)?;
    }

    #[test]
    fn layers_that_were_made_for_another_stack_are_what_the_model_says(layers in random::layers(4)) {
        let no_link = |entry: &Entry| !matches!(entry.kind, EntryKind::Link(_));
        let mut layers: Vec<Vec<_>> =
            layers.into_iter().map(|layer| layer.into_iter().filter(no_link).collect()).collect();
        let lab = lab();
        check(&lab, &layers)?;
        layers.reverse();
        check(&lab, &layers)?;
    }
}

fn check(lab: &Lab, layers: &[Vec<Entry>]) -> Result<(), TestCaseError> {
    let expected = model::stack(layers.iter().map(Vec::as_slice)).without_holes();
    let tars: Vec<_> = layers.iter().map(|layer| tar_of(layer)).collect();
    let lines = seen(&lab.ensure(&tars)).differences(&expected);
    prop_assert!(lines.is_empty(), "found → expected:\n{}", lines.join("\n"));
    lab.assert_clean();
    Ok(())
}

/// Whether something else takes the place of a hard link to a file below. Here nothing was linked then; the model has
/// copied the file up all the same.
pub fn has_lost_link(layer: &[Entry]) -> bool {
    let path = |entry: &Entry| PathBuf::from(String::from_utf8(entry.name.clone()).unwrap());
    layer.iter().enumerate().any(|(at, entry)| {
        let EntryKind::Link(target) = &entry.kind else { return false };
        let (before, after) = layer.split_at(at);
        let link = path(entry);
        let replaces = |later: &Entry| {
            let directory = later.kind == EntryKind::Directory;
            path(later).starts_with(&link) || (!directory && link.starts_with(path(later)))
        };
        !before.iter().any(|earlier| earlier.name == *target) && after[1..].iter().any(replaces)
    })
}

/// Waits until the clock of the file system has gone on since the layer was as it is.
fn wait(lab: &Lab, key: LayerKey) {
    let changed = |path: PathBuf| {
        let metadata = std::fs::metadata(path).unwrap();
        (metadata.ctime(), metadata.ctime_nsec())
    };
    let at = lab.scratch.path();
    while changed(at.join("locks")) <= changed(at.join("layers").join(key.to_string())) {
        std::fs::write(at.join("locks/tick"), "").unwrap();
        std::fs::remove_file(at.join("locks/tick")).unwrap();
    }
}

#[test]
fn a_record_is_read_once_and_no_longer_believed_when_others_change_the_layer() {
    privilege::under(privilege::ALL, |_| {
        let lab = lab();
        let tar = base().finish();
        let key = lab.ensure(std::slice::from_ref(&tar))[0].key;
        let dir = |name| Dir::open_ambient(lab.scratch.path().join(name)).unwrap();
        let other = LayerStore::new(dir("layers"), dir("locks"));
        let work = lab.staging.workspace().unwrap();
        let record = || lab.store.get(key).unwrap().map(|layer| layer.record);
        wait(&lab, key);
        let first = record().unwrap();
        assert!(!first.settled);

        // Nobody writes into a record that is there; here it shows who reads.
        let json = lab.scratch.path().join("layers").join(key.to_string()).join("layer.json");
        let content = std::fs::read(&json).unwrap();
        std::fs::write(&json, "damaged").unwrap();
        assert_eq!(record().as_ref(), Some(&first));
        assert!(other.get(key).unwrap().is_none());
        std::fs::write(&json, content).unwrap();

        assert_eq!(other.settle(&work).unwrap(), 1);
        assert!(record().unwrap().settled);
        wait(&lab, key);
        assert!(record().unwrap().settled);
        assert!(other.remove(key, &work).unwrap());
        assert_eq!(record(), None);

        let again = LayerSource::new(
            diff_id(&tar),
            plywood::Digest::of(b"another blob of the same layer"),
            1,
            source(&tar).open,
        );
        let blob = again.blob;
        other.ensure(&[again], &work, &EnsureOptions::default()).unwrap();
        let made = record().unwrap();
        assert_eq!((made.blob, made.settled), (blob, false));
        wait(&lab, key);
        assert_eq!(record(), Some(made.clone()));
        assert_eq!(record(), Some(made));
        // What cannot be opened any more is not there, whatever was read of it.
        std::fs::rename(json.with_file_name("tree"), json.with_file_name("lost")).unwrap();
        assert_eq!(record(), None);
        work.close().unwrap();
    });
}
