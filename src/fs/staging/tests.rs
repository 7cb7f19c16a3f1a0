//! Workspaces: what is published, what goes, and what a sweep takes for rubbish.

use super::*;

fn staging() -> (tempfile::TempDir, Dir, Staging) {
    let temp = tempfile::tempdir().unwrap();
    let dir = Dir::open_ambient(temp.path()).unwrap();
    let staging = Staging::new(dir.ensure_dir("staging", 0o700).unwrap());
    (temp, dir, staging)
}

#[test]
fn what_is_not_published_is_gone_with_its_workspace() {
    let (_temp, dir, staging) = staging();
    let work = staging.workspace().unwrap();
    work.file().unwrap().publish(&dir, "kept", Durability::Full).unwrap();
    let tree = work.directory().unwrap();
    tree.dir().create_file("inside", 0o644).unwrap();
    drop(work.file().unwrap());
    drop(tree);
    drop(work);
    assert!(dir.stat("kept").is_ok());
    assert!(dir.open_dir("staging").unwrap().names().unwrap().is_empty());
}

#[test]
fn a_directory_never_replaces_another() {
    let (_temp, dir, staging) = staging();
    let work = staging.workspace().unwrap();
    work.directory().unwrap().publish(&dir, "name").unwrap();
    let second = work.directory().unwrap();
    assert!(second.publish(&dir, "name").unwrap_err().is_exists());
}

#[test]
fn a_sweep_tells_the_living_from_the_dead() {
    let (_temp, dir, staging) = staging();
    let live = staging.workspace().unwrap();
    let inner = dir.open_dir("staging").unwrap();
    inner.ensure_dir("of-a-dead-process", 0o700).unwrap().create_file("lock", 0o600).unwrap();
    inner.create_file("stray", 0o600).unwrap();
    let rubbish = staging.workspace().unwrap();
    let (living, swept) = staging.sweep(&rubbish, false).unwrap();
    assert_eq!((living.len(), swept), (1, 2));
    rubbish.close().unwrap();
    live.close().unwrap();
    assert!(inner.names().unwrap().is_empty());
}

#[test]
fn sweeps_and_ends_of_operations_do_not_meet() {
    let (_temp, dir, staging) = staging();
    let inner = dir.open_dir("staging").unwrap();
    let ended = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let rubbish = staging.workspace().unwrap();
            while !ended.load(Ordering::Relaxed) {
                staging.sweep(&rubbish, true).unwrap();
            }
            rubbish.close().unwrap();
        });
        let outcome = (0..2000).try_for_each(|_| staging.workspace()?.close());
        ended.store(true, Ordering::Relaxed);
        outcome.unwrap();
    });
    assert!(inner.names().unwrap().is_empty());
}
