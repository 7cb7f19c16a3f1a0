//! Trees between plywood and its peers: what it saves they show alike, what they commit it shows alike, to the nanosecond
//! and to the last attribute that they keep. Needs the peers and real root; says loudly what is not here.
//!
//! Ids and names are in `interop_archive`, the store read in place in `interop_store`.

#![allow(clippy::unwrap_used)]

mod common;

use std::fs;
use std::os::unix::fs::{PermissionsExt, chown, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use common::image::{Compression, ImageSpec, Layout, image};
use common::peers::{Containerd, Docker, Storage};
use common::tar::{Tar, tar};
use common::tree::{Node, Tree, is_directory, snapshot};
use common::{model, privilege, run, run_command, untar};
use plywood::archive::ArchiveFormat;
use plywood::fs::Durability;
use plywood::image::Reference;
use plywood::store::{CommitOptions, CreateOptions, Image, LoadOptions, Store};
use rustix::fs::{AtFlags, CWD, Timespec, Timestamps, XattrFlags};
use serde_json::{Value, json};

/// `cap_net_bind_service` permitted and effective, as on disk.
const CAPABILITY: [u8; 20] = [1, 0, 0, 2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];

/// What every engine can hold: every directory is declared, nothing is older than 1970.
fn layers() -> Vec<Tar> {
    let base = tar()
        .dir("bin")
        .file("bin/su", "su")
        .mode(0o4755)
        .file("bin/ping", "ping")
        .mode(0o755)
        .xattr("security.capability", CAPABILITY)
        // Some engines take what a link's own entry says for the file's.
        .link("bin/ping6", "bin/ping")
        .mode(0o755)
        .xattr("security.capability", CAPABILITY)
        .dir("dev")
        .char_device("dev/zero", 1, 5)
        .mode(0o666)
        .block_device("dev/loop7", 7, 7)
        .owner(0, 6)
        .dir("etc")
        .mtime(1_600_000_000, 123_456_789)
        .file("etc/motd", "hello")
        .mtime(1_600_000_001, 1)
        .file("etc/gone", "gone")
        .dir("home")
        .dir("home/user")
        .mode(0o700)
        .owner(1000, 100)
        .file("home/user/note", "note")
        .owner(1000, 100)
        .xattr("user.note", b"bytes \0 and =")
        .symlink("home/user/link", "/etc/motd")
        .owner(1000, 100)
        .mtime(1_500_000_000, 5)
        .dir("opt")
        .file("opt/old", "old")
        .dir("run")
        .fifo("run/pipe")
        .mode(0o620)
        .dir("tmp")
        .mode(0o1777)
        .file("tmp/long".to_owned() + &"-name".repeat(30), "long");
    let top = tar()
        .dir("etc")
        .mtime(1_600_000_002, 999_999_999)
        .whiteout("etc/gone")
        .file("etc/motd", "hello again")
        .dir("opt")
        .opaque("opt")
        .file("opt/new", "new")
        .symlink("var", "opt");
    vec![base, top]
}

fn spec() -> ImageSpec {
    let mut spec = layers()
        .into_iter()
        .zip([Compression::Gzip, Compression::None])
        .fold(image(), |image, (layer, compression)| image.compressed(layer.finish(), compression))
        .name("docker.io/library/shared:1")
        .set("Entrypoint", json!(["/bin/ping"]))
        .set("Labels", json!({"a.label": "with = and \" in it"}))
        .set("WorkingDir", json!("/home/user"));
    spec.config["history"] = json!([
        {"created": "2024-01-01T00:00:00Z", "created_by": "ADD base"},
        {"created": "2024-01-01T00:00:01Z", "created_by": "CMD", "empty_layer": true},
        {"created": "2024-01-01T00:00:02Z", "created_by": "ADD top", "comment": "why"},
    ]);
    spec
}

/// A store with an image of layers that were made elsewhere and one that was committed here.
struct World {
    temp: tempfile::TempDir,
    store: Store,
    image: Image,
    /// What the image shows.
    tree: Tree,
}

impl World {
    fn new() -> Self {
        let temp = common::scratch();
        let store =
            Store::options().durability(Durability::Relaxed).create(temp.path().join("store")).unwrap();
        let archive = Layout::of(&spec()).oci_archive();
        let base = store.load(&archive[..], &LoadOptions::default()).unwrap().remove(0).image;
        let container = store.create_container(&base, &CreateOptions::default()).unwrap();
        let mounted = container.mount().unwrap();
        let entries: Vec<_> = layers().iter().map(Tar::entries).collect();
        let model = model::stack(entries.iter().map(Vec::as_slice)).without_root();
        seen(mounted.path()).assert_same(&model, "what others are compared with");
        edit(mounted.path());
        let tree = seen(mounted.path());
        let name = Reference::parse_familiar("shared:2").unwrap();
        let options = CommitOptions::named(name).message("edited").change("ENV ADDED=yes".parse().unwrap());
        let image = container.commit(&options).unwrap();
        drop(mounted);
        Self { temp, store, image, tree }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.temp.path().join(name)
    }

    fn saved(&self, format: ArchiveFormat) -> PathBuf {
        let path = self.path(&format!("{format:?}"));
        let out = fs::File::create(&path).unwrap();
        self.store.save(std::slice::from_ref(&self.image), format, out, &Default::default()).unwrap();
        path
    }

    /// Loads what somebody else saved, and what a container of it shows.
    #[track_caller]
    fn load(&self, path: &Path) -> (Image, Tree) {
        let loaded = match path.is_dir() {
            true => self.store.load_directory(path, &LoadOptions::default()),
            false => self.store.load(fs::File::open(path).unwrap(), &LoadOptions::default()),
        };
        let image = loaded.unwrap_or_else(|error| panic!("{path:?}: {error:?}")).pop().unwrap().image;
        let container = self.store.create_container(&image, &CreateOptions::default()).unwrap();
        let mounted = container.mount().unwrap();
        let tree = seen(mounted.path());
        (image, tree)
    }

    fn config(&self, image: &Image) -> Value {
        serde_json::from_slice(&self.store.config_bytes(image).unwrap()).unwrap()
    }
}

/// What a root shows but for the root directory itself, which every engine makes in its own way.
fn seen(root: &Path) -> Tree {
    snapshot(root).without_root().without_xattrs(|name| name.starts_with(b"user.overlay."))
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// Changes a root as a process in a container would, with times that are told.
fn edit(root: &Path) {
    let at = |name: &str| root.join(name);
    let set = |name: &str, key: &str, value: &[u8]| {
        rustix::fs::lsetxattr(at(name), key, value, XattrFlags::empty()).unwrap();
    };
    fs::write(at("etc/motd"), "edited").unwrap();
    fs::write(at("etc/new"), "new").unwrap();
    fs::remove_dir_all(at("opt")).unwrap();
    fs::create_dir(at("opt")).unwrap();
    fs::write(at("opt/file"), "in a new directory").unwrap();
    fs::remove_file(at("bin/su")).unwrap();
    fs::create_dir(at("bin/su")).unwrap();
    fs::set_permissions(at("home/user/note"), PermissionsExt::from_mode(0o600)).unwrap();
    set("etc/new", "user.added", b"value");
    symlink("new", at("etc/soft")).unwrap();
    fs::write(at("bin/first"), "a program with a capability and two names").unwrap();
    chown(at("bin/first"), Some(5), Some(6)).unwrap();
    fs::set_permissions(at("bin/first"), PermissionsExt::from_mode(0o750)).unwrap();
    set("bin/first", "security.capability", &CAPABILITY);
    fs::hard_link(at("bin/first"), at("bin/second")).unwrap();
    tell_times(
        root,
        &["etc/motd", "etc/new", "etc/soft", "opt/file", "bin/first", "opt", "bin/su", "bin", "etc"],
    );
}

/// More of that, for others to commit.
fn edit_more(root: &Path) {
    let at = |name: &str| root.join(name);
    fs::remove_file(at("etc/new")).unwrap();
    fs::remove_file(at("bin/second")).unwrap();
    fs::hard_link(at("etc/motd"), at("bin/second")).unwrap();
    fs::remove_dir_all(at("opt")).unwrap();
    symlink("etc", at("opt")).unwrap();
    fs::remove_dir(at("bin/su")).unwrap();
    fs::write(at("bin/su"), "a file again").unwrap();
    fs::create_dir_all(at("srv/deep/er")).unwrap();
    chown(at("srv/deep"), Some(33), Some(33)).unwrap();
    tell_times(root, &["bin/su", "opt", "srv/deep/er", "srv/deep", "srv", "bin", "etc"]);
}

fn tell_times(root: &Path, names: &[&str]) {
    let time = Timespec { tv_sec: 1_700_000_000, tv_nsec: 123_456_789 };
    let times = Timestamps { last_access: time, last_modification: time };
    for name in names {
        rustix::fs::utimensat(CWD, root.join(name), &times, AtFlags::SYMLINK_NOFOLLOW).unwrap();
    }
}

/// Forgets fractions of seconds: most peers do when they write a layer.
fn whole_seconds(tree: Tree) -> Tree {
    tree.map(|_, node| node.mtime.1 = 0)
}

#[test]
fn podman_shows_what_was_saved_and_commits_what_is_loaded() {
    let Some(podman) = Storage::podman() else { return };
    let world = World::new();
    for format in [ArchiveFormat::DockerArchive, ArchiveFormat::OciArchive] {
        podman.run(&["load", "-q", "-i", text(&world.saved(format))]);
        let id = podman.run(&["image", "inspect", "--format", "{{.Id}}", "shared:2"]);
        assert_eq!(id, world.image.id().hex());
        let root = podman.run(&["image", "mount", "shared:2"]);
        seen(Path::new(&root)).assert_same(&world.tree, &format!("podman, {format:?}"));
        podman.run(&["image", "umount", "shared:2"]);
        if format == ArchiveFormat::DockerArchive {
            podman.run(&["rmi", "shared:2"]);
        }
    }
    let history = podman.run(&["history", "--no-trunc", "--format", "{{.CreatedBy}}", "shared:2"]);
    assert_eq!(history.lines().collect::<Vec<_>>(), ["plywood commit", "ADD top", "CMD", "ADD base"]);

    podman.run(&["create", "--name", "changed", "shared:2"]);
    edit_more(Path::new(&podman.run(&["mount", "changed"])));
    podman.run(&["umount", "changed"]);
    podman.run(&["commit", "-q", "--change", "CMD /bin/new", "changed", "changed:1"]);
    let theirs = seen(Path::new(&podman.run(&["image", "mount", "changed:1"])));
    for format in ["docker-archive", "oci-archive", "oci-dir"] {
        let path = world.path(format);
        podman.run(&["save", "-q", "--format", format, "-o", text(&path), "changed:1"]);
        let (image, ours) = world.load(&path);
        ours.assert_same(&theirs, &format!("podman's {format}"));
        assert_eq!(image.diff_ids()[..3], *world.image.diff_ids());
        assert_eq!(world.config(&image)["config"]["Entrypoint"], json!(["/bin/ping"]));
    }
}

#[test]
fn buildah_shows_what_was_saved_and_commits_what_is_loaded() {
    let Some(buildah) = Storage::buildah() else { return };
    let world = World::new();
    let source = format!("docker-archive:{}", text(&world.saved(ArchiveFormat::DockerArchive)));
    buildah.run(&["from", "--name", "changed", &source]);
    let root = PathBuf::from(buildah.run(&["mount", "changed"]));
    seen(&root).assert_same(&world.tree, "buildah");
    edit_more(&root);
    let edited = seen(&root);
    buildah.run(&["umount", "changed"]);
    buildah.run(&["config", "--env", "ADDED=yes", "changed"]);
    buildah.run(&["commit", "-q", "changed", "changed:1"]);
    for transport in ["docker-archive", "oci-archive", "oci"] {
        let path = world.path(transport);
        buildah.run(&[
            "push",
            "-q",
            "changed:1",
            &format!("{transport}:{}:localhost/changed:1", text(&path)),
        ]);
        let (image, ours) = world.load(&path);
        whole_seconds(ours).assert_same(&whole_seconds(edited.clone()), &format!("buildah's {transport}"));
        assert_eq!(image.names()[0].canonical(), "localhost/changed:1");
        let env = world.config(&image)["config"]["Env"].clone();
        assert!(env.as_array().unwrap().contains(&json!("ADDED=yes")), "{env}");
    }
}

#[test]
fn docker_shows_what_was_saved_and_commits_what_is_loaded() {
    let Some(docker) = Docker::start() else { return };
    let world = World::new();
    docker.run(&["load", "-q", "-i", text(&world.saved(ArchiveFormat::DockerArchive))]);
    let id = docker.run(&["image", "inspect", "--format", "{{.Id}}", "shared:2"]);
    assert_eq!(id, world.image.id().to_string());
    let history =
        docker.run(&["history", "--no-trunc", "--format", "{{.CreatedBy}}{{.Comment}}", "shared:2"]);
    assert_eq!(
        history.lines().collect::<Vec<_>>(),
        ["plywood commitedited", "ADD topwhy", "CMD", "ADD base"]
    );
    let config = docker.run(&["image", "inspect", "--format", "{{json .Config}}", "shared:2"]);
    let config: Value = serde_json::from_str(&config).unwrap();
    for key in ["Entrypoint", "Labels", "WorkingDir"] {
        assert_eq!(config[key], spec().config["config"][key], "{key}");
    }
    assert!(config["Env"].as_array().unwrap().contains(&json!("ADDED=yes")));
    docker.run(&["create", "--name", "changed", "shared:2"]);
    let exported = || {
        let path = world.path("export.tar");
        docker.run(&["export", "-o", text(&path), "changed"]);
        docker_tells(model::stack([untar::entries(&fs::read(path).unwrap()).as_slice()]))
    };
    exported().assert_same(&docker_tells(world.tree.clone()), "docker's export");

    // A tar is the only way into a container that does not run.
    let added = tar()
        .dir("etc")
        .mtime(1_700_000_000, 0)
        .file("etc/added", "added")
        .mode(0o6711)
        .owner(7, 8)
        .dir("home/user")
        .mode(0o700)
        .owner(1000, 100);
    let path = world.path("added.tar");
    fs::write(&path, added.finish()).unwrap();
    run_command(docker.command().args(["cp", "-a", "-", "changed:/"]).stdin(fs::File::open(&path).unwrap()));
    docker.run(&["commit", "-a", "somebody", "-m", "added", "changed", "changed:1"]);
    let path = world.path("changed.tar");
    docker.run(&["save", "-o", text(&path), "changed:1"]);
    let (image, ours) = world.load(&path);
    docker_tells(ours.clone()).assert_same(&exported(), "docker's commit");
    assert_eq!(ours.at("etc/added").mode, 0o6711);
    assert_eq!(image.id().to_string(), docker.run(&["image", "inspect", "--format", "{{.Id}}", "changed:1"]));
    assert_eq!(image.history()[4].entry.comment.as_deref(), Some("added"));
}

/// What docker's export can tell, without what its daemon puts into every container.
fn docker_tells(tree: Tree) -> Tree {
    let own = [
        ".dockerenv",
        "dev/console",
        "dev/pts",
        "dev/shm",
        "etc/hostname",
        "etc/hosts",
        "etc/mtab",
        "etc/resolv.conf",
        "proc",
        "sys",
    ];
    let tree = own.iter().fold(tree.without_root(), |tree, path| tree.without(path));
    let touched = |path: &Path, node: &Node| is_directory(path, node) && ["dev", "etc"].contains(&text(path));
    tree.without_mtimes(touched)
        .without_xattrs(|name| name != b"security.capability")
        .map(|_, node| node.mtime.1 = 0)
}

#[test]
fn containerd_shows_what_was_saved() {
    let Some(containerd) = Containerd::start() else { return };
    let world = World::new();
    for format in [ArchiveFormat::DockerArchive, ArchiveFormat::OciArchive] {
        containerd.run(&["image", "import", text(&world.saved(format))]);
        let list = containerd.run(&["image", "ls"]);
        assert!(list.contains(&world.image.digest().to_string()), "{list}");
        let root = world.path("root");
        fs::create_dir_all(&root).unwrap();
        containerd.run(&["image", "mount", "docker.io/library/shared:2", text(&root)]);
        let shown = std::panic::catch_unwind(|| seen(&root));
        run("umount", [&root]);
        shown.unwrap().assert_same(&world.tree, &format!("containerd, {format:?}"));
        containerd.run(&["image", "rm", "docker.io/library/shared:2"]);
    }
}

#[test]
fn umoci_unpacks_what_was_saved_and_repacks_what_is_loaded() {
    if !common::is_real_root() {
        return common::skip("umoci unpacks owners and devices as root only");
    }
    if !common::have(&["umoci"]) {
        return;
    }
    let world = World::new();
    let layout = world.path("layout");
    world.store.save_directory(std::slice::from_ref(&world.image), &layout, &Default::default()).unwrap();
    let bundle = world.path("bundle");
    let source = format!("{}:shared:2", text(&layout));
    run("umoci", ["unpack", "--image", &source, text(&bundle)]);
    let root = bundle.join("rootfs");
    seen(&root).assert_same(&world.tree, "umoci's root");
    edit_more(&root);
    let edited = seen(&root);
    let target = format!("{}:localhost/changed:1", text(&layout));
    run_command(Command::new("umoci").args(["repack", "--image", &target, text(&bundle)]));
    let (image, ours) = world.load(&layout);
    whole_seconds(ours).assert_same(&whole_seconds(edited), "umoci's layer");
    assert_eq!(image.diff_ids()[..3], *world.image.diff_ids());
}

#[test]
fn skopeo_copies_without_a_change_to_the_tree() {
    if !common::have(&["skopeo"]) {
        return;
    }
    privilege::under(&[privilege::Privilege::Root], |_| {
        let world = World::new();
        let source = format!("docker-archive:{}:shared:2", text(&world.saved(ArchiveFormat::DockerArchive)));
        for (transport, more) in [
            ("oci", &["--dest-compress-format=zstd", "--dest-oci-accept-uncompressed-layers"][..]),
            ("oci-archive", &[]),
            ("docker-archive", &["--format=v2s2"]),
        ] {
            let path = world.path(transport);
            let target = format!("{transport}:{}:localhost/copied:1", text(&path));
            run("skopeo", ["copy", "-q"].iter().chain(more).copied().chain([&*source, &*target]));
            let (image, ours) = world.load(&path);
            ours.assert_same(&world.tree, transport);
            assert_eq!(image.diff_ids(), world.image.diff_ids());
        }
    });
}
