//! What must be listed as changed, told from two snapshots by the rules of `docker diff` and nothing else.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use crate::common::tree::{Kind, Node, Tree};

/// The lines, in order.
pub fn changes(before: &Tree, after: &Tree) -> Vec<String> {
    let mut letters: BTreeMap<&Path, char> = BTreeMap::new();
    for (path, node) in &after.0 {
        match before.0.get(path) {
            None => drop(letters.insert(path, 'A')),
            Some(old) if differ(old, node) => drop(letters.insert(path, 'C')),
            Some(_) => {}
        }
    }
    for path in before.0.keys().filter(|path| !after.0.contains_key(*path)) {
        // With a directory goes all that is in it, without a line for each.
        let parent = path.parent().expect("the root stays");
        if after.0.get(parent).is_some_and(|node| node.kind == Kind::Directory) {
            letters.insert(path, 'D');
        }
    }
    let listed: Vec<&Path> = letters.keys().copied().collect();
    for path in listed {
        for parent in path.ancestors().skip(1) {
            letters.entry(parent).or_insert('C');
        }
    }
    letters.remove(Path::new(""));
    letters
        .into_iter()
        .map(|(path, letter)| format!("{letter} {}", PathBuf::from("/").join(path).display()))
        .collect()
}

/// Times of directories change with what is in them, which has lines of its own.
fn differ(old: &Node, new: &Node) -> bool {
    let (mut old, mut new) = (old.clone(), new.clone());
    if old.kind == Kind::Directory && new.kind == Kind::Directory {
        (old.mtime, new.mtime) = Default::default();
    }
    for node in [&mut old, &mut new] {
        if let Kind::File { holes, .. } = &mut node.kind {
            holes.clear();
        }
    }
    old != new
}
