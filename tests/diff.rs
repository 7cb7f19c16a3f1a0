//! What changed in a root is found exactly, whether it was an overlay or a copy, and becomes a layer that makes the same
//! root again. The judges are the kernel's overlayfs and GNU tar.

#![allow(clippy::unwrap_used)]

mod common;

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use common::edit::{Edit, When, an_edit, set_mtime};
use common::tree::{Kind, Tree as Snapshot, snapshot};
use common::{is_real_root, kernel, privilege, run_command, skip};
use plywood::fs::{Dir, Timestamp};
use plywood::layer::{
    CopyRecord, Diff, DiffError, DiffEvent, PackError, PackOptions, Selection, XattrPolicy, flatten, pack,
    pack_directory,
};
use plywood::path::LayerPath;
use plywood::stack::marks::Marks;
use plywood::stack::{Stack, Tree};
use plywood::whiteout::Namespace;
use proptest::prelude::*;
use rustix::fs::{CWD, FileType, Gid, Mode, RenameFlags, Uid, XattrFlags};

/// Whether this test may make owners, devices and mounts.
fn root() -> bool {
    if !is_real_root() {
        skip("needs root in the initial user namespace");
    }
    is_real_root()
}

/// Layers made by the kernel: each is the upper directory of a mount over those before it.
struct Lab {
    scratch: tempfile::TempDir,
    layers: usize,
}

/// A mounted overlay; unmounted with the value.
struct Mounted(PathBuf);

impl Drop for Mounted {
    fn drop(&mut self) {
        run_command(Command::new("umount").arg(&self.0));
    }
}

impl Lab {
    fn new() -> Self {
        Self { scratch: common::scratch(), layers: 0 }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.scratch.path().join(name)
    }

    fn layer_path(&self, index: usize) -> PathBuf {
        self.path(&index.to_string())
    }

    /// Adds a layer with what `edit` does to the root so far.
    fn layer(mut self, edit: impl FnOnce(&Path)) -> Self {
        let path = self.layer_path(self.layers);
        fs::create_dir(&path).unwrap();
        self.layers += 1;
        if self.layers == 1 {
            edit(&path);
        } else {
            copy_directory_metadata(&self.layer_path(self.layers - 2), &path);
            let mounted = self.mount();
            edit(&mounted.0);
        }
        self
    }

    /// Mounts the topmost layer writable over the others.
    fn mount(&self) -> Mounted {
        let lowers: Vec<_> = (0..self.layers - 1).rev().map(|layer| layer.to_string()).collect();
        let (work, merged) = (self.path("work"), self.path("merged"));
        fs::remove_dir_all(&work).ok();
        fs::create_dir(&work).unwrap();
        fs::create_dir_all(&merged).unwrap();
        // In a user namespace there is nothing to turn off, and no right to say so.
        let options = format!(
            "lowerdir={},upperdir={},workdir=work,{}",
            lowers.join(":"),
            self.layers - 1,
            if is_real_root() { "index=off,metacopy=off,redirect_dir=nofollow" } else { "userxattr" }
        );
        run_command(
            Command::new("mount")
                .env("LIBMOUNT_FORCE_MOUNT2", "always")
                .current_dir(self.scratch.path())
                .args(["-t", "overlay", "overlay", "-o", &options, "merged"]),
        );
        Mounted(merged)
    }

    /// All layers, topmost first.
    fn trees(&self) -> Vec<Tree> {
        let tree = |index| Tree {
            dir: Dir::open_ambient(self.layer_path(index)).unwrap(),
            marks: Marks::Overlay(if is_real_root() { Namespace::Trusted } else { Namespace::User }),
            declares_root: true,
        };
        (0..self.layers).rev().map(tree).collect()
    }

    /// Copies what the layers so far show to `copy`, in the way of a driver.
    fn copy(&self) -> CopyRecord {
        let top = Lab { scratch: common::scratch(), layers: self.layers + 1 };
        // A mount of its own, with an empty upper directory.
        for layer in 0..self.layers {
            symlink(self.layer_path(layer), top.layer_path(layer)).unwrap();
        }
        fs::create_dir(top.layer_path(self.layers)).unwrap();
        copy_directory_metadata(&self.layer_path(self.layers - 1), &top.layer_path(self.layers));
        let mounted = top.mount();
        run_command(Command::new("cp").arg("-a").arg(&mounted.0).arg(self.path("copy")));
        let mut directories = BTreeMap::new();
        let copy = snapshot(self.path("copy"));
        let begun = Timestamp { seconds: 1_750_000_000, nanos: 0 };
        for (path, node) in &copy.0 {
            if node.kind == Kind::Directory {
                let inode = fs::symlink_metadata(self.path("copy").join(path)).unwrap().ino();
                directories.insert(layer_path(path), inode);
            }
        }
        let pause = || std::thread::sleep(std::time::Duration::from_millis(12));
        pause();
        let probe = self.path("probe");
        fs::write(&probe, "").unwrap();
        let probe = fs::metadata(&probe).unwrap();
        let nanos = u32::try_from(probe.ctime_nsec()).unwrap();
        CopyRecord { untouched: begun..Timestamp { seconds: probe.ctime(), nanos }, directories }
    }

    fn copied(&self) -> Tree {
        let dir = Dir::open_ambient(self.path("copy")).unwrap();
        Tree { dir, marks: Marks::None, declares_root: true }
    }
}

fn layer_path(path: impl AsRef<Path>) -> LayerPath {
    LayerPath::parse(path.as_ref().as_os_str().as_encoded_bytes()).unwrap()
}

fn copy_directory_metadata(from: &Path, to: &Path) {
    let metadata = fs::symlink_metadata(from).unwrap();
    rustix::fs::chown(to, Some(Uid::from_raw(metadata.uid())), Some(Gid::from_raw(metadata.gid()))).unwrap();
    rustix::fs::chmod(to, Mode::from_raw_mode(metadata.mode() & 0o7777)).unwrap();
    for (name, value) in common::tree::xattrs(from) {
        if !name.starts_with(b"trusted.overlay.") && !name.starts_with(b"user.overlay.") {
            rustix::fs::lsetxattr(to, name.as_slice(), &value, XattrFlags::empty()).unwrap();
        }
    }
    set_mtime(to, (metadata.mtime(), metadata.mtime_nsec())).unwrap();
}

fn listed(diff: &Diff<'_>) -> Vec<String> {
    diff.changes().unwrap().iter().map(ToString::to_string).collect()
}

/// All events as text, with everything that they say.
fn events(diff: &Diff<'_>) -> Vec<String> {
    let mut events = Vec::new();
    diff.walk::<DiffError>(&mut |event| {
        events.push(match event {
            DiffEvent::Deleted(path) => format!("{path:?} deleted"),
            DiffEvent::Present(entry) => format!(
                "{:?} {:?} {:?} {:?} {:?}",
                entry.path, entry.kind, entry.object.file_type, entry.object.metadata, entry.link_to
            ),
        });
        Ok(())
    })
    .unwrap();
    events
}

fn packed(diff: &Diff<'_>) -> Vec<u8> {
    let (mut tar, mut again) = (Vec::new(), Vec::new());
    let first = pack(diff, &mut tar, &PackOptions::default()).unwrap();
    assert_eq!(pack(diff, &mut again, &PackOptions::default()).unwrap(), first);
    assert_eq!(tar, again, "equal trees give equal bytes");
    assert_eq!(first.bytes, tar.len() as u64);
    assert_eq!(first.diff_id.to_string(), format!("sha256:{}", common::sha256(&tar)));
    tar
}

/// What a tar has no form for is no difference.
fn storable(mut tree: Snapshot) -> Snapshot {
    tree.0.retain(|_, node| node.kind != Kind::Socket);
    tree.without_holes()
}

/// Everything below `path` as GNU tar sees it.
fn gnu_tar(path: &Path) -> Vec<u8> {
    let mut command = Command::new("tar");
    command.args(["--create", "--format=pax", "--xattrs", "--xattrs-include=*", "--numeric-owner", "-C"]);
    command.arg(path).arg(".");
    let tar = command.output().unwrap();
    assert!(tar.status.success(), "{tar:?}");
    tar.stdout
}

fn untarred(tar: &[u8]) -> Snapshot {
    let dir = common::scratch();
    fs::write(dir.path().join("tar"), tar).unwrap();
    fs::create_dir(dir.path().join("out")).unwrap();
    kernel::untar(&dir.path().join("tar"), &dir.path().join("out"));
    snapshot(dir.path().join("out"))
}

/// Does these edits as far as they are possible, and gives those that were, with their number.
fn edit(root: &Path, edits: &[Edit], first: usize) -> Vec<(usize, Edit)> {
    let mut done = Vec::new();
    for (step, edit) in edits.iter().enumerate().map(|(index, edit)| (first + index, edit)) {
        let edit = edit.resolved(&snapshot(root));
        if edit.apply(root, step).is_ok() {
            done.push((step, edit));
        }
    }
    done
}

/// What is done with everything else.
fn laws(base: &[Edit], more: &[Edit], edits: &[Edit], linked: bool) {
    // Layers hold no sockets. Where they hold hard links, what is done to one name is another thing in a copy.
    let lay = |edits: &[Edit]| -> Vec<_> {
        let keep = |edit: &&Edit| match edit {
            Edit::Socket(_) => false,
            Edit::Link(..) => linked,
            _ => true,
        };
        edits.iter().filter(keep).cloned().collect()
    };
    let lab = Lab::new()
        .layer(|root| {
            set_mtime(root, (1_600_000_000, 0)).unwrap();
            edit(root, &lay(base), 0);
        })
        .layer(|root| drop(edit(root, &lay(more), 1000)));
    let record = lab.copy();
    // Not GNU tar's, which has no hard links of fifos.
    let mut below_tar = Vec::new();
    let (selection, options) = (Selection::default(), PackOptions::default());
    flatten(&Stack::new([&lab.copied()]), &selection, &mut below_tar, &options).unwrap();
    let has_links_below = snapshot(lab.path("copy")).0.values().any(|node| node.linked_as.is_some());

    let mut done = Vec::new();
    let mut over = Snapshot::default();
    let mut seen_by_tar = Vec::new();
    let lab = lab.layer(|root| {
        done = edit(root, edits, 2000);
        over = snapshot(root);
        seen_by_tar = gnu_tar(root);
    });
    let trees = lab.trees();
    let stack = Stack::new(&trees);
    let of_upper = Diff::of_upper(stack.clone());
    let layer = packed(&of_upper);
    let made_again = kernel::stack_bytes(&[&below_tar, &layer]);
    let what = "layer of an upper directory, applied";
    storable(snapshot(made_again.path())).assert_same(&storable(over.clone()), what);

    let mut flat = Vec::new();
    flatten(&stack, &selection, &mut flat, &options).unwrap();
    untarred(&flat).without_holes().assert_same(&storable(over.clone()), "export");
    // GNU tar keeps hard links of files only.
    let same = |tree: Snapshot| {
        tree.without_holes().map(|_, node| {
            if !matches!(node.kind, Kind::File { .. }) {
                node.linked_as = None;
            }
        })
    };
    same(untarred(&flat)).assert_same(&same(untarred(&seen_by_tar)), "export beside GNU tar's");

    for (step, edit) in done {
        // Where the overlay broke a hard link, what was possible there may be impossible here.
        let result = edit.apply(&lab.path("copy"), step);
        assert!(result.is_ok() || has_links_below, "{edit:?}: {result:?}");
    }
    let copied = lab.copied();
    let of_copy = Diff::of_copy(&copied, stack.below(), &record);
    let layer_of_copy = packed(&of_copy);
    let made_again = kernel::stack_bytes(&[&below_tar, &layer_of_copy]);
    let copy = snapshot(lab.path("copy"));
    let what = "layer of a copy, applied";
    storable(snapshot(made_again.path())).assert_same(&storable(copy.clone()), what);
    if copy == over && !has_links_below {
        assert_eq!(events(&of_copy), events(&of_upper));
        assert_eq!(listed(&of_copy), listed(&of_upper));
        assert_eq!(layer_of_copy, layer);
    } else {
        assert!(has_links_below, "{:?}", copy.differences(&over));
    }
}

fn cases() -> u32 {
    std::env::var("PROPTEST_CASES").ok().and_then(|cases| cases.parse().ok()).unwrap_or(40)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: cases(), max_shrink_iters: 3000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn applying_a_diff_gives_the_changed_root(
        base in prop::collection::vec(an_edit(), 5..40),
        more in prop::collection::vec(an_edit(), 0..15),
        edits in prop::collection::vec(an_edit(), 0..25),
        linked in prop::bool::weighted(0.3),
    ) {
        if root() {
            laws(&base, &more, &edits, linked);
        }
    }
}

/// A root of one layer with a few things in it.
fn small() -> Lab {
    Lab::new().layer(|root| {
        for directory in ["etc", "etc/conf.d", "usr", "usr/bin", "usr/lib", "empty"] {
            fs::create_dir(root.join(directory)).unwrap();
        }
        for file in
            ["etc/passwd", "etc/hosts", "etc/conf.d/one", "etc/conf.d/two", "usr/bin/sh", "usr/lib/libc"]
        {
            fs::write(root.join(file), file).unwrap();
        }
        for path in ["etc", "etc/conf.d", "usr", "usr/bin", "usr/lib", "empty", ""] {
            set_mtime(&root.join(path), (1_600_000_000, 0)).unwrap();
        }
    })
}

/// What is listed after `edit`, made on an overlay; the same must be listed, and packed, after it was made on a copy.
#[track_caller]
fn both(edit: impl Fn(&Path)) -> Vec<String> {
    let lab = small();
    let record = lab.copy();
    edit(&lab.path("copy"));
    let lab = lab.layer(&edit);
    let trees = lab.trees();
    let stack = Stack::new(&trees);
    let (of_upper, copied) = (Diff::of_upper(stack.clone()), lab.copied());
    let of_copy = Diff::of_copy(&copied, stack.below(), &record);
    let listed_in_upper = listed(&of_upper);
    assert_eq!(listed(&of_copy), listed_in_upper);
    let without_times = |diff| {
        let tar = packed(diff);
        untarred(&tar).without_mtimes(|_, _| true).without_root()
    };
    without_times(&of_copy).assert_same(&without_times(&of_upper), "layer of a copy");
    listed_in_upper
}

#[test]
fn changes_are_listed_as_docker_lists_them() {
    privilege::under(privilege::MOUNTING, |_| {
        let changes = both(|root| {
            fs::write(root.join("etc/passwd"), "changed").unwrap();
            fs::remove_file(root.join("etc/hosts")).unwrap();
            fs::create_dir(root.join("etc/new")).unwrap();
            fs::write(root.join("etc/new/file"), "").unwrap();
            fs::remove_dir_all(root.join("usr/lib")).unwrap();
            fs::set_permissions(root.join("empty"), fs::Permissions::from_mode(0o700)).unwrap();
        });
        let expected = [
            "C /empty",
            "C /etc",
            "D /etc/hosts",
            "A /etc/new",
            "A /etc/new/file",
            "C /etc/passwd",
            "C /usr",
            "D /usr/lib",
        ];
        assert_eq!(changes, expected);
    });
}

#[test]
fn what_is_the_same_again_is_no_change() {
    privilege::under(privilege::MOUNTING, |_| {
        let changes = both(|root| {
            // Everything is copied up and nothing changes.
            for file in ["etc/passwd", "usr/bin/sh", "etc/conf.d/one"] {
                let path = root.join(file);
                let before = fs::metadata(&path).unwrap();
                fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
                fs::set_permissions(&path, before.permissions()).unwrap();
                fs::write(&path, file).unwrap();
                set_mtime(&path, (before.mtime(), before.mtime_nsec())).unwrap();
            }
            // Something comes and goes.
            fs::write(root.join("usr/lib/passing"), "").unwrap();
            fs::remove_file(root.join("usr/lib/passing")).unwrap();
            // A name goes and comes.
            let path = root.join("etc/hosts");
            let before = fs::metadata(&path).unwrap();
            fs::remove_file(&path).unwrap();
            fs::write(&path, "etc/hosts").unwrap();
            set_mtime(&path, (before.mtime(), before.mtime_nsec())).unwrap();
        });
        assert_eq!(changes, [""; 0]);
    });
}

#[test]
fn a_changed_byte_is_found_whatever_size_and_time_say() {
    if !root() {
        return;
    }
    let changes = both(|root| {
        let path = root.join("usr/bin/sh");
        let before = fs::metadata(&path).unwrap();
        fs::write(&path, "usr/bin/SH").unwrap();
        set_mtime(&path, (before.mtime(), before.mtime_nsec())).unwrap();
    });
    assert_eq!(changes, ["C /usr", "C /usr/bin", "C /usr/bin/sh"]);
}

#[test]
fn a_replaced_directory_is_compared_name_by_name() {
    privilege::under(privilege::MOUNTING, |_| {
        let changes = both(|root| {
            let old = fs::metadata(root.join("etc/passwd")).unwrap();
            fs::remove_dir_all(root.join("etc")).unwrap();
            fs::create_dir(root.join("etc")).unwrap();
            fs::write(root.join("etc/passwd"), "etc/passwd").unwrap();
            set_mtime(&root.join("etc/passwd"), (old.mtime(), old.mtime_nsec())).unwrap();
            fs::create_dir(root.join("etc/conf.d")).unwrap();
            fs::write(root.join("etc/conf.d/three"), "").unwrap();
        });
        let expected = [
            "C /etc",
            "C /etc/conf.d",
            "D /etc/conf.d/one",
            "A /etc/conf.d/three",
            "D /etc/conf.d/two",
            "D /etc/hosts",
        ];
        assert_eq!(changes, expected);
    });
}

#[test]
fn another_type_under_the_same_name_is_a_change_without_deletions() {
    if !root() {
        return;
    }
    let changes = both(|root| {
        fs::remove_dir_all(root.join("etc/conf.d")).unwrap();
        fs::write(root.join("etc/conf.d"), "").unwrap();
        fs::remove_file(root.join("etc/hosts")).unwrap();
        fs::create_dir(root.join("etc/hosts")).unwrap();
        fs::write(root.join("etc/hosts/a"), "").unwrap();
    });
    assert_eq!(changes, ["C /etc", "C /etc/conf.d", "C /etc/hosts", "A /etc/hosts/a"]);
}

#[test]
fn a_socket_is_listed_and_not_packed_but_what_it_replaced_is_deleted() {
    if !root() {
        return;
    }
    let lab = small().layer(|root| {
        for name in ["etc/hosts", "empty/socket"] {
            fs::remove_file(root.join(name)).ok();
            Edit::Socket(name.to_owned()).apply(root, 0).unwrap();
        }
    });
    let trees = lab.trees();
    let diff = Diff::of_upper(Stack::new(&trees));
    assert_eq!(listed(&diff), ["C /empty", "A /empty/socket", "C /etc", "D /etc/hosts", "A /etc/hosts"]);
    let layer = untarred(&packed(&diff));
    assert_eq!(layer.without_root().names(), ["empty", "etc", "etc/.wh.hosts"]);
}

#[test]
fn moved_and_swapped_things_are_found_in_a_copy_though_their_times_are_old() {
    if !root() {
        return;
    }
    let swap = |root: &Path, one: &str, other: &str| {
        rustix::fs::renameat_with(CWD, root.join(one), CWD, root.join(other), RenameFlags::EXCHANGE).unwrap();
    };
    let lab = small();
    let record = lab.copy();
    let copy = lab.path("copy");
    swap(&copy, "etc/conf.d", "usr/bin");
    swap(&copy, "etc/passwd", "etc/hosts");
    fs::rename(copy.join("usr/lib"), copy.join("usr/lib64")).unwrap();
    fs::hard_link(copy.join("etc/hosts"), copy.join("empty/link")).unwrap();
    let (copied, trees) = (lab.copied(), lab.trees());
    let diff = Diff::of_copy(&copied, Stack::new(&trees), &record);
    let expected = [
        "C /empty",
        "A /empty/link",
        "C /etc",
        "C /etc/conf.d",
        "D /etc/conf.d/one",
        "A /etc/conf.d/sh",
        "D /etc/conf.d/two",
        "C /etc/hosts",
        "C /etc/passwd",
        "C /usr",
        "C /usr/bin",
        "A /usr/bin/one",
        "D /usr/bin/sh",
        "A /usr/bin/two",
        "D /usr/lib",
        "A /usr/lib64",
        "A /usr/lib64/libc",
    ];
    // The swapped directories differ in nothing but what is in them.
    let expected: Vec<_> = expected.into_iter().collect();
    assert_eq!(listed(&diff), expected);
    let layer = untarred(&packed(&diff));
    assert_eq!(layer.at("etc/hosts").linked_as.as_deref(), Some(Path::new("empty/link")));
}

#[test]
fn a_new_name_makes_its_old_ones_part_of_the_layer() {
    if !root() {
        return;
    }
    let changes = both(|root| fs::hard_link(root.join("usr/bin/sh"), root.join("usr/bin/ash")).unwrap());
    assert_eq!(changes, ["C /usr", "C /usr/bin", "A /usr/bin/ash", "C /usr/bin/sh"]);
}

#[test]
fn nothing_changed_is_no_entry() {
    if !root() {
        return;
    }
    let lab = small().layer(|root| {
        // Copied up.
        drop(File::options().append(true).open(root.join("etc/conf.d/one")).unwrap());
    });
    let trees = lab.trees();
    let packed = pack(&Diff::of_upper(Stack::new(&trees)), io::sink(), &PackOptions::default()).unwrap();
    assert_eq!((packed.entries, packed.bytes), (0, 1024));
    let empty = "sha256:5f70bf18a086007016e948b04aed3b82103a36bea41755b6cddfaf10ace3c6ef";
    assert_eq!(packed.diff_id.to_string(), empty);
}

#[test]
fn a_layer_declares_its_directories_and_deletes_before_it_adds() {
    if !root() {
        return;
    }
    let lab = small().layer(|root| {
        fs::write(root.join("etc/conf.d/added"), "").unwrap();
        fs::remove_file(root.join("etc/conf.d/two")).unwrap();
        fs::remove_dir_all(root.join("usr/lib")).unwrap();
        for path in ["etc/conf.d", "usr"] {
            set_mtime(&root.join(path), (1_600_000_000, 0)).unwrap();
        }
    });
    let trees = lab.trees();
    let tar = packed(&Diff::of_upper(Stack::new(&trees)));
    let path = lab.path("tar");
    fs::write(&path, tar).unwrap();
    let names = String::from_utf8(common::run("tar", ["-tf", path.to_str().unwrap()])).unwrap();
    let expected = ["etc/", "etc/conf.d/", "etc/conf.d/.wh.two", "etc/conf.d/added", "usr/", "usr/.wh.lib"];
    assert_eq!(names.lines().collect::<Vec<_>>(), expected);
}

#[test]
fn a_deletion_of_what_no_layer_has_is_not_written() {
    if !root() {
        return;
    }
    let lab = small().layer(|root| {
        drop(File::options().append(true).open(root.join("etc/conf.d/one")).unwrap());
    });
    let nothing = lab.layer_path(1).join("etc/conf.d/nothing");
    rustix::fs::mknodat(CWD, &nothing, FileType::CharacterDevice, Mode::empty(), 0).unwrap();
    let below = fs::metadata(lab.layer_path(0).join("etc/conf.d")).unwrap();
    set_mtime(nothing.parent().unwrap(), (below.mtime(), below.mtime_nsec())).unwrap();
    let trees = lab.trees();
    assert_eq!(common::untar::entries(&packed(&Diff::of_upper(Stack::new(&trees)))), []);
}

#[test]
fn directories_on_the_way_to_a_change_keep_their_own_time() {
    if !root() {
        return;
    }
    let lab = small().layer(|root| fs::write(root.join("etc/conf.d/one"), "changed").unwrap());
    let trees = lab.trees();
    let entries = common::untar::entries(&packed(&Diff::of_upper(Stack::new(&trees))));
    let names: Vec<_> = entries.iter().map(|entry| entry.name.escape_ascii().to_string()).collect();
    assert_eq!(names, ["etc/", "etc/conf.d/", "etc/conf.d/one"]);
    for entry in &entries[..2] {
        let below = fs::metadata(lab.layer_path(0).join(std::str::from_utf8(&entry.name).unwrap())).unwrap();
        assert_eq!(entry.mtime, (below.mtime(), u32::try_from(below.mtime_nsec()).unwrap()));
    }
}

#[test]
fn what_is_excluded_is_neither_there_nor_missed() {
    if !root() {
        return;
    }
    let lab = small();
    let record = lab.copy();
    let edit = |root: &Path| {
        fs::remove_file(root.join("etc/hosts")).unwrap();
        fs::write(root.join("etc/resolv.conf"), "").unwrap();
        fs::create_dir(root.join("dev")).unwrap();
        fs::write(root.join("dev/null"), "").unwrap();
        fs::write(root.join("usr/bin/sh"), "").unwrap();
        for path in ["etc", ""] {
            set_mtime(&root.join(path), (1_600_000_000, 0)).unwrap();
        }
    };
    edit(&lab.path("copy"));
    let lab = lab.layer(edit);
    let (trees, copied) = (lab.trees(), lab.copied());
    let stack = Stack::new(&trees);
    let selection = ["etc/hosts", "etc/resolv.conf", "dev", "usr/bin"]
        .iter()
        .fold(Selection::default(), |selection, path| selection.exclude(layer_path(path)));
    for diff in [Diff::of_upper(stack.clone()), Diff::of_copy(&copied, stack.below(), &record)] {
        assert_eq!(events(&diff.with(selection.clone())), [""; 0]);
    }
    let mut tar = Vec::new();
    flatten(&stack, &selection, &mut tar, &PackOptions::default()).unwrap();
    let names = ["empty", "etc", "etc/conf.d", "etc/conf.d/one", "etc/conf.d/two", "etc/passwd", "usr"];
    let names: Vec<_> = names.into_iter().chain(["usr/lib", "usr/lib/libc"]).collect();
    assert_eq!(untarred(&tar).names(), names);
}

#[test]
fn marks_of_mounts_that_cannot_be_read_are_refused() {
    if !root() {
        return;
    }
    for (mark, path) in [("redirect", "etc"), ("metacopy", "etc/passwd")] {
        let lab = small().layer(|root| fs::write(root.join("etc/passwd"), "").unwrap());
        let name = format!("trusted.overlay.{mark}");
        rustix::fs::lsetxattr(lab.layer_path(1).join(path), name, b"", XattrFlags::empty()).unwrap();
        let trees = lab.trees();
        let error = Diff::of_upper(Stack::new(&trees)).changes().unwrap_err();
        assert!(matches!(&error, DiffError::Mark { mark: found, .. } if *found == mark), "{error:?}");
        assert!(error.to_string().starts_with(&format!("/{path} carries overlay.{mark}")), "{error}");
    }
}

#[test]
fn a_tree_may_be_deeper_than_there_are_file_handles() {
    let lab = Lab::new();
    let dir =
        fs::create_dir(lab.path("deep")).map(|()| Dir::open_ambient(lab.path("deep")).unwrap()).unwrap();
    let mut at = dir.try_clone().unwrap();
    for _ in 0..1900 {
        at.create_dir("d", 0o755).unwrap();
        at = at.open_dir("d").unwrap();
    }
    at.create_file("end", 0o644).unwrap();
    let mut tar = Vec::new();
    let (selection, options) = (Selection::default(), PackOptions::default());
    let packed = pack_directory(&dir, &selection, &mut tar, &options).unwrap();
    assert_eq!(packed.entries, 1902);
    let tree = Tree { dir, marks: Marks::None, declares_root: true };
    let mut flat = Vec::new();
    assert_eq!(flatten(&Stack::new([&tree]), &selection, &mut flat, &options).unwrap(), packed);
    assert!(flat == tar);
}

/// An ordinary directory with something of everything that a plain user can make.
fn plain(lab: &Lab) -> Dir {
    let path = lab.path("plain");
    fs::create_dir(&path).unwrap();
    let edits = [
        Edit::Write("file".into(), b"content".to_vec(), When::Later),
        Edit::Mkdir("directory".into()),
        Edit::Link("file".into(), "directory/link".into()),
        Edit::Symlink("nowhere".into(), "symlink".into()),
        Edit::Node("fifo".into(), false),
        Edit::Socket("socket".into()),
        Edit::Mode("file".into(), 0o4751),
    ];
    assert_eq!(edit(&path, &edits, 0).len(), edits.len());
    Dir::open_ambient(path).unwrap()
}

#[test]
fn a_directory_becomes_the_layer_that_gnu_tar_unpacks_to_it() {
    let lab = Lab::new();
    let dir = plain(&lab);
    let sparse = File::create(lab.path("plain/sparse")).unwrap();
    sparse.set_len(64 << 20).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&sparse, b"data", 40 << 20).unwrap();
    let mut tar = Vec::new();
    pack_directory(&dir, &Selection::default(), &mut tar, &PackOptions::default()).unwrap();
    untarred(&tar).without_holes().assert_same(&storable(snapshot(lab.path("plain"))), "the layer");
}

#[test]
fn later_times_become_the_latest_and_earlier_ones_stay() {
    let lab = Lab::new();
    let dir = plain(&lab);
    set_mtime(&lab.path("plain/file"), (12, 5)).unwrap();
    let latest = Timestamp { seconds: 1_000, nanos: 0 };
    let mut tar = Vec::new();
    let options = PackOptions::default().latest_mtime(latest);
    pack_directory(&dir, &Selection::default(), &mut tar, &options).unwrap();
    for (path, node) in untarred(&tar).0 {
        let expected = if path.ends_with("file") || path.ends_with("link") { (12, 5) } else { (1_000, 0) };
        assert_eq!(node.mtime, expected, "{path:?}");
    }
}

#[test]
fn a_reserved_name_is_refused_in_a_layer_and_kept_in_an_export() {
    let lab = Lab::new();
    let dir = plain(&lab);
    fs::write(lab.path("plain/directory/.wh.file"), "").unwrap();
    let (selection, options) = (Selection::default(), PackOptions::default());
    let error = pack_directory(&dir, &selection, io::sink(), &options).unwrap_err();
    assert!(error.to_string().contains("/directory/.wh.file"), "{error}");
    let tree = Tree { dir, marks: Marks::None, declares_root: true };
    let mut tar = Vec::new();
    flatten(&Stack::new([&tree]), &selection, &mut tar, &options).unwrap();
    assert!(untarred(&tar).get("directory/.wh.file").is_some());
}

#[test]
fn a_device_that_overlayfs_takes_for_a_deletion_is_refused() {
    if !root() {
        return;
    }
    let lab = Lab::new();
    let dir = plain(&lab);
    rustix::fs::mknodat(CWD, lab.path("plain/node"), FileType::CharacterDevice, Mode::empty(), 0).unwrap();
    let error = pack_directory(&dir, &Selection::default(), io::sink(), &PackOptions::default()).unwrap_err();
    assert!(matches!(&error, PackError::WhiteoutDevice { path } if path == &layer_path("node")), "{error:?}");
}

#[test]
fn an_attribute_outside_the_policy_makes_no_difference() {
    if !root() {
        return;
    }
    let lab = small().layer(|root| {
        rustix::fs::lsetxattr(root.join("etc"), "user.cache.x", b"1", XattrFlags::empty()).unwrap();
        rustix::fs::lsetxattr(root.join("etc/hosts"), "user.cache.x", b"1", XattrFlags::empty()).unwrap();
    });
    let trees = lab.trees();
    let stack = Stack::new(&trees);
    assert_eq!(listed(&Diff::of_upper(stack.clone())), ["C /etc", "C /etc/hosts"]);
    let selection = Selection::default().xattrs(XattrPolicy::default().leave_out("user.cache.*"));
    assert_eq!(events(&Diff::of_upper(stack).with(selection)), [""; 0]);
}
