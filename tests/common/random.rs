//! Layers that nobody thought of: proptest strategies for lists of [`Entry`]s.
//!
//! Names come from a small alphabet, so that layers meet: files below files, directories over links, deletions of what
//! the same layer brings, parents that no layer declares, hard links into layers below. Names of symbolic links are
//! never parents; that is left to tests that say where they lead.

use std::path::Path;

use proptest::prelude::*;
use proptest::sample::{Index, select};

use super::model::Model;
use super::tar::{Entry, Kind, tar};
use super::tree;

/// Up to `count` layers, lowest first.
pub fn layers(count: usize) -> impl Strategy<Value = Vec<Vec<Entry>>> {
    let steps = prop::collection::vec(prop::collection::vec((entry(), any::<Index>()), 0..12), 1..=count);
    steps.prop_map(|steps| {
        let mut model = Model::default();
        let mut layers = Vec::new();
        for steps in steps {
            let layer = link_up(&model, steps);
            model.apply(&layer);
            layers.push(layer);
        }
        layers
    })
}

/// One entry. The target of a hard link is chosen later, when it is known what there is to link to.
fn entry() -> impl Strategy<Value = Entry> {
    let name = prop::collection::vec(select(vec!["a", "b", "c"]), 1..4).prop_map(|names| names.join("/"));
    let link_name = (prop::option::of(name.clone()), select(vec!["x", "y"]))
        .prop_map(|(parent, name)| parent.map_or(name.to_owned(), |parent| format!("{parent}/{name}")));
    let content = prop::collection::vec(any::<u8>(), 0..20);
    let plain = prop_oneof![
        4 => (name.clone(), content).prop_map(|(name, content)| tar().file(name, content)),
        4 => name.clone().prop_map(|name| tar().dir(name)),
        1 => (link_name.clone(), name.clone()).prop_map(|(name, target)| tar().symlink(name, format!("/{target}"))),
        1 => name.clone().prop_map(|name| tar().fifo(name)),
        2 => prop_oneof![name.clone(), link_name].prop_map(|name| tar().link(name, "")),
        2 => name.clone().prop_map(|name| tar().whiteout(name)),
        1 => name.prop_map(|name| tar().opaque(name)),
        1 => Just(tar().opaque("")),
        1 => Just(tar().dir("./")),
    ];
    let mode = select(vec![0o644, 0o755, 0o600, 0o4711, 0o2755, 0o1777]);
    let mtime = (-10_000i64..2_000_000_000, select(vec![0u32, 1, 123_456_789, 999_999_999]));
    let xattr = prop::option::of(prop::collection::vec(any::<u8>(), 0..5));
    (plain, mode, (0u64..3, 0u64..3), mtime, xattr).prop_map(|(plain, mode, (uid, gid), mtime, xattr)| {
        let mut entry = plain.mode(mode).owner(uid, gid).mtime(mtime.0, mtime.1).entries().remove(0);
        if let (Some(value), Kind::File(_) | Kind::Directory) = (xattr, &entry.kind) {
            entry.xattrs.insert(b"user.test".to_vec(), value);
        }
        entry
    })
}

/// Gives the hard links of a layer targets, and leaves out those for which there is none.
fn link_up(below: &Model, steps: Vec<(Entry, Index)>) -> Vec<Entry> {
    // Deletions act first, wherever they stand in the layer: a link to what they delete would be one to nothing.
    let deletions: Vec<_> =
        steps.iter().map(|(entry, _)| entry).filter(|entry| is_deletion(entry)).cloned().collect();
    let mut layer: Vec<Entry> = Vec::new();
    for (mut entry, index) in steps {
        if let Kind::Link(target) = &mut entry.kind {
            let mut now = below.clone();
            now.apply(&[deletions.clone(), layer.clone()].concat());
            let name = Path::new(std::str::from_utf8(&entry.name).unwrap());
            let never_a_parent = name.ends_with("x") || name.ends_with("y");
            let suits = |kind: &tree::Kind| match kind {
                tree::Kind::Directory => false,
                tree::Kind::Symlink(_) => never_a_parent,
                _ => true,
            };
            let targets: Vec<_> = now
                .tree()
                .0
                .into_iter()
                .filter(|(path, node)| suits(&node.kind) && !overlap(path, name))
                .map(|(path, _)| path)
                .collect();
            if targets.is_empty() {
                continue;
            }
            *target = index.get(&targets).to_str().unwrap().into();
        }
        layer.push(entry);
    }
    layer
}

/// Leaves out what GNU tar does in another way than container engines, or not at all: a name that comes twice,
/// entries below what is no directory, hard links to other layers.
#[must_use]
pub fn for_gnu_tar(layer: &[Entry]) -> Vec<Entry> {
    let mut kept: Vec<Entry> = Vec::new();
    let path =
        |entry: &Entry| String::from_utf8(entry.name.clone()).unwrap().trim_matches(['.', '/']).to_owned();
    for entry in layer {
        let name = path(entry);
        let clash = kept.iter().any(|other| {
            let (other_name, directory) = (path(other), other.kind == Kind::Directory);
            let (a, b) = (Path::new(&other_name), Path::new(&name));
            // A name without an entry has become a directory as soon as something is in it.
            a == b || (!directory && b.starts_with(a)) || (entry.kind != Kind::Directory && a.starts_with(b))
        });
        let holds =
            |target: &[u8]| kept.iter().any(|other| other.name == target && other.kind != Kind::Directory);
        let lost = matches!(&entry.kind, Kind::Link(target) if !holds(target));
        if !clash && !lost {
            kept.push(entry.clone());
        }
    }
    kept
}

fn is_deletion(entry: &Entry) -> bool {
    entry.name.rsplit(|&byte| byte == b'/').next().is_some_and(|name| name.starts_with(b".wh."))
}

fn overlap(one: &Path, other: &Path) -> bool {
    one.starts_with(other) || other.starts_with(one)
}
