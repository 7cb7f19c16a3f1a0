//! Archives between plywood and its peers: what it writes they load under the same names, what they write it loads with
//! the same ids. Needs the peers and, for most of them, real root; says loudly what is not here.

#![allow(clippy::unwrap_used)]

mod common;

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::path::{Path, PathBuf};

use common::image::{Compression, Layout, image};
use common::peers::{Containerd, Docker, Storage};
use common::tar::tar;
use plywood::archive::{
    ArchiveFormat, Destination, LoadOptions, Loaded, SaveImage, SaveOptions, load, load_layout,
    repository_for, save, save_layout,
};
use plywood::blob::Blobs;
use plywood::fs::{Dir, Durability, Staging};
use plywood::image::Reference;
use serde_json::Value;

struct Shop {
    temp: tempfile::TempDir,
    blobs: Blobs,
    staging: Staging,
}

impl Shop {
    fn new() -> Self {
        let temp = common::scratch();
        let dir = Dir::open_ambient(temp.path()).unwrap();
        let staging = Staging::new(dir.ensure_dir("staging", 0o700).unwrap());
        let layout = dir.ensure_dir("oci", 0o755).unwrap();
        let blobs = Blobs::create(layout, &staging.workspace().unwrap(), Durability::Relaxed).unwrap();
        Self { temp, blobs, staging }
    }

    /// A path for a file or directory that others read or write.
    fn path(&self, name: &str) -> PathBuf {
        self.temp.path().join(name)
    }

    #[track_caller]
    fn load(&self, path: &Path) -> Vec<Loaded> {
        let workspace = self.staging.workspace().unwrap();
        let into = Destination { blobs: &self.blobs, workspace: &workspace, pin: &|_| Ok(()) };
        let mut options = LoadOptions::default();
        options.repository = repository_for(path);
        let loaded = match path.is_dir() {
            true => load_layout(&Dir::open_ambient(path).unwrap(), &into, &options),
            false => load(File::open(path).unwrap(), &into, &options),
        };
        loaded.unwrap_or_else(|error| panic!("{path:?}: {error:?}"))
    }

    fn save(&self, images: &[Loaded], format: ArchiveFormat, name: &str) -> PathBuf {
        let path = self.path(name);
        let images: Vec<_> = images
            .iter()
            .map(|image| SaveImage { target: image.target.clone(), names: image.names.clone() })
            .collect();
        let out = File::create(&path).unwrap();
        let workspace = self.staging.workspace().unwrap();
        let mut options = SaveOptions::default();
        options.workspace = Some(&workspace);
        save(&images, &self.blobs, format, out, &options).unwrap();
        path
    }

    fn sample(&self, layout: &Layout) -> Vec<Loaded> {
        let path = self.path("sample.tar");
        std::fs::write(&path, layout.oci_archive()).unwrap();
        self.load(&path)
    }
}

/// Two images that share their lowest layer, with `compression` above it.
fn sample(compression: Compression) -> Layout {
    let base = tar().dir("etc").file("etc/hostname", "base\n").file("bin", "x").finish();
    let top = |name: &str| tar().dir("srv").file("srv/name", name).whiteout("etc/hostname").finish();
    let mut layout = Layout::of(
        &image().layer(&*base).compressed(top("web"), compression).name("docker.io/library/web:1"),
    );
    layout.add(
        &image()
            .layer(base)
            .compressed(top("db"), compression)
            .name("quay.io/me/db:2")
            .name("docker.io/me/db:latest"),
    );
    layout
}

const COMPRESSIONS: [Compression; 3] = [Compression::None, Compression::Gzip, Compression::Zstd];

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// Names and config digests, as plywood loaded them.
fn ids(images: &[Loaded]) -> BTreeMap<String, String> {
    let each = |image: &Loaded| {
        let id = image.manifests[0].manifest.config.digest.to_string();
        image.names.iter().map(|name| (name.canonical(), id.clone())).collect::<Vec<_>>()
    };
    images.iter().flat_map(each).collect()
}

fn expected(layout: &Layout) -> BTreeMap<String, String> {
    let each = |added: &common::image::Added| {
        added.names.iter().map(|name| (name.clone(), added.config.clone())).collect::<Vec<_>>()
    };
    layout.images.iter().flat_map(each).collect()
}

/// What podman and docker list: names and ids.
fn listed(lines: &str) -> BTreeMap<String, String> {
    let split = |line: &str| {
        let (name, id) = line.split_once(' ').unwrap();
        (
            Reference::parse_familiar(name).unwrap().canonical(),
            format!("sha256:{}", id.trim_start_matches("sha256:")),
        )
    };
    lines.lines().map(split).collect()
}

const LIST: [&str; 4] = ["images", "--no-trunc", "--format", "{{.Repository}}:{{.Tag}} {{.ID}}"];

#[test]
fn podman_loads_what_was_saved_under_the_same_names() {
    for compression in COMPRESSIONS {
        let Some(podman) = Storage::podman() else { return };
        let shop = Shop::new();
        let layout = sample(compression);
        let images = shop.sample(&layout);
        podman.run(&[
            "load",
            "-q",
            "-i",
            text(&shop.save(&images, ArchiveFormat::DockerArchive, "docker.tar")),
        ]);
        assert_eq!(listed(&podman.run(&LIST)), expected(&layout), "{compression:?}");
        // Of OCI archives podman 4 takes those with one name.
        podman.run(&["rmi", "-af"]);
        podman.run(&[
            "load",
            "-q",
            "-i",
            text(&shop.save(&images[..1], ArchiveFormat::OciArchive, "oci.tar")),
        ]);
        assert_eq!(listed(&podman.run(&LIST)), ids(&images[..1]));
    }
}

#[test]
fn every_engine_loads_a_classic_docker_archive_under_the_same_names() {
    let layout = sample(Compression::Zstd);
    let shop = Shop::new();
    let path = shop.save(&shop.sample(&layout), ArchiveFormat::ClassicDockerArchive, "classic.tar");
    if let Some(podman) = Storage::podman() {
        podman.run(&["load", "-q", "-i", text(&path)]);
        assert_eq!(listed(&podman.run(&LIST)), expected(&layout));
    }
    if let Some(docker) = Docker::start() {
        docker.run(&["load", "-q", "-i", text(&path)]);
        assert_eq!(listed(&docker.run(&LIST)), expected(&layout));
    }
    if common::have(&["skopeo"]) {
        let copy = shop.path("copy.tar");
        let from = format!("docker-archive:{}:web:1", text(&path));
        common::run("skopeo", ["copy", "-q", &from, &format!("docker-archive:{}:web:1", text(&copy))]);
        let copied = Shop::new().load(&copy);
        assert_eq!(copied[0].manifests[0].manifest.config.digest.to_string(), layout.images[0].config);
    }
}

#[test]
fn every_engine_takes_layers_that_were_compressed_anew() {
    let layout = sample(Compression::None);
    let shop = Shop::new();
    let images = shop.sample(&layout);
    let podman = Storage::podman();
    let docker = Docker::start();
    for (method, old_docker_reads_it) in [("gzip:9", true), ("zstd:7", false)] {
        let path = shop.path("packed.tar");
        let workspace = shop.staging.workspace().unwrap();
        let mut options = SaveOptions::default();
        options.workspace = Some(&workspace);
        options.compression = method.parse().unwrap();
        let images: Vec<_> = images
            .iter()
            .map(|image| SaveImage { target: image.target.clone(), names: image.names.clone() })
            .collect();
        let out = File::create(&path).unwrap();
        save(&images, &shop.blobs, ArchiveFormat::DockerArchive, out, &options).unwrap();
        if let Some(podman) = &podman {
            podman.run(&["rmi", "-af"]);
            podman.run(&["load", "-q", "-i", text(&path)]);
            assert_eq!(listed(&podman.run(&LIST)), expected(&layout), "{method}");
        }
        if let Some(docker) = docker.as_ref().filter(|_| old_docker_reads_it) {
            docker.run(&["load", "-q", "-i", text(&path)]);
            assert_eq!(listed(&docker.run(&LIST)), expected(&layout), "{method}");
        }
        if common::have(&["skopeo"]) {
            let to = shop.path(&method.replace(':', "-"));
            let from = format!("oci-archive:{}:web:1", text(&path));
            common::run("skopeo", ["copy", "-q", &from, &format!("oci:{}:web:1", text(&to))]);
            let copied = Shop::new().load(&to);
            assert_eq!(copied[0].manifests[0].manifest.config.digest.to_string(), layout.images[0].config);
        }
    }
}

#[test]
fn docker_completes_a_classic_archive_from_the_layers_that_it_has() {
    let Some(docker) = Docker::start() else { return };
    let shop = Shop::new();
    let base = tar().dir("etc").file("etc/hostname", "base\n").finish();
    let mut layout = Layout::of(&image().layer(&*base).name("docker.io/library/base:1"));
    let top = tar().file("top", "x").finish();
    layout.add(&image().layer(base).compressed(top, Compression::Gzip).name("docker.io/library/web:1"));
    let images = shop.sample(&layout);
    docker.run(&[
        "load",
        "-q",
        "-i",
        text(&shop.save(&images[..1], ArchiveFormat::DockerArchive, "base.tar")),
    ]);
    let delta = shop.path("delta.tar");
    let workspace = shop.staging.workspace().unwrap();
    let mut options = SaveOptions::default();
    options.workspace = Some(&workspace);
    options.known.diff_ids.extend(images[0].manifests[0].config.rootfs.diff_ids.iter().copied());
    let web = SaveImage { target: images[1].target.clone(), names: images[1].names.clone() };
    let out = File::create(&delta).unwrap();
    save(&[web], &shop.blobs, ArchiveFormat::ClassicDockerArchive, out, &options).unwrap();
    docker.run(&["load", "-q", "-i", text(&delta)]);
    assert_eq!(listed(&docker.run(&LIST)), expected(&layout));
}

#[test]
fn podman_saves_what_is_loaded_under_the_same_names() {
    let Some(podman) = Storage::podman() else { return };
    let shop = Shop::new();
    let layout = sample(Compression::None);
    let images = shop.sample(&layout);
    podman.run(&[
        "load",
        "-q",
        "-i",
        text(&shop.save(&images, ArchiveFormat::DockerArchive, "to-podman.tar")),
    ]);
    let all = shop.path("all.tar");
    podman.run(&["save", "-q", "-m", "-o", text(&all), "web:1", "quay.io/me/db:2", "me/db"]);
    let loaded = Shop::new().load(&all);
    assert_eq!(ids(&loaded), expected(&layout));
    for format in ["docker-archive", "oci-archive", "oci-dir"] {
        let path = shop.path(format);
        podman.run(&["save", "-q", "--format", format, "-o", text(&path), "web:1"]);
        let loaded = Shop::new().load(&path);
        // For OCI podman writes a config of its own, with another id.
        assert_eq!(loaded[0].names, images[0].names, "{format}");
        assert_eq!(loaded[0].manifests[0].config.rootfs, images[0].manifests[0].config.rootfs);
    }
}

#[test]
fn docker_loads_what_was_saved_and_saves_what_is_loaded() {
    let Some(docker) = Docker::start() else { return };
    // Docker reads Zstandard since version 23; this may be an older one.
    for compression in [Compression::None, Compression::Gzip] {
        let shop = Shop::new();
        let layout = sample(compression);
        let images = shop.sample(&layout);
        docker.run(&[
            "load",
            "-q",
            "-i",
            text(&shop.save(&images, ArchiveFormat::DockerArchive, "docker.tar")),
        ]);
        assert_eq!(listed(&docker.run(&LIST)), expected(&layout), "{compression:?}");
        let back = shop.path("back.tar");
        docker.run(&["save", "-o", text(&back), "web:1", "quay.io/me/db:2", "me/db"]);
        assert_eq!(ids(&Shop::new().load(&back)), expected(&layout));
        docker.run(&["rmi", "-f", "web:1", "quay.io/me/db:2", "me/db"]);
    }
}

#[test]
fn containerd_imports_what_was_saved_and_exports_what_is_loaded() {
    let Some(containerd) = Containerd::start() else { return };
    for (compression, format) in COMPRESSIONS
        .into_iter()
        .flat_map(|c| [ArchiveFormat::DockerArchive, ArchiveFormat::OciArchive].map(|f| (c, f)))
    {
        let shop = Shop::new();
        let layout = sample(compression);
        let images = shop.sample(&layout);
        let names: Vec<&String> = layout.images.iter().flat_map(|added| &added.names).collect();
        containerd.run(&["image", "import", "--no-unpack", text(&shop.save(&images, format, "archive.tar"))]);
        let list = containerd.run(&["image", "ls"]);
        let digests: BTreeMap<_, _> = list
            .lines()
            .skip(1)
            .map(|line| line.split_whitespace().collect::<Vec<_>>())
            .map(|fields| (fields[0].to_owned(), fields[2].to_owned()))
            .collect();
        let wanted = layout
            .images
            .iter()
            .flat_map(|added| added.names.iter().map(|name| (name.clone(), added.manifest.clone())));
        assert_eq!(digests, wanted.collect(), "{compression:?} {format:?}");
        let back = shop.path("back.tar");
        let mut export = vec!["image", "export", text(&back)];
        export.extend(names.iter().map(|name| name.as_str()));
        containerd.run(&export);
        let loaded = Shop::new().load(&back);
        assert_eq!(ids(&loaded), expected(&layout));
        let targets: BTreeSet<_> = loaded.iter().map(|image| image.target.digest.to_string()).collect();
        assert_eq!(targets, layout.images.iter().map(|added| added.manifest.clone()).collect());
        let mut remove = vec!["image", "rm"];
        remove.extend(names.iter().map(|name| name.as_str()));
        containerd.run(&remove);
    }
}

#[test]
fn skopeo_finds_every_image_by_its_name() {
    if !common::have(&["skopeo"]) {
        return;
    }
    let inspect = |image: String| -> Value {
        serde_json::from_slice(&common::run("skopeo", ["inspect", "--raw", &image])).unwrap()
    };
    for compression in COMPRESSIONS {
        let shop = Shop::new();
        let layout = sample(compression);
        let images = shop.sample(&layout);
        let docker = shop.save(&images, ArchiveFormat::DockerArchive, "docker.tar");
        let oci = shop.save(&images, ArchiveFormat::OciArchive, "oci.tar");
        let dir = shop.path("layout");
        let target = Dir::ensure_ambient(&dir).unwrap();
        let to_save: Vec<_> = images
            .iter()
            .map(|image| SaveImage { target: image.target.clone(), names: image.names.clone() })
            .collect();
        save_layout(&to_save, &shop.blobs, &target, &SaveOptions::default()).unwrap();
        for (name, id) in ids(&images) {
            let name = Reference::parse_familiar(&name).unwrap().familiar();
            for place in [
                format!("docker-archive:{}", text(&docker)),
                format!("oci-archive:{}", text(&oci)),
                format!("oci:{}", text(&dir)),
            ] {
                let manifest = inspect(format!("{place}:{name}"));
                assert_eq!(manifest["config"]["digest"].as_str(), Some(&*id), "{place}:{name}");
            }
        }
    }
}

#[test]
fn skopeo_writes_what_is_loaded() {
    if !common::have(&["skopeo"]) {
        return;
    }
    // skopeo has no docker name for a layer in Zstandard.
    for compression in [Compression::None, Compression::Gzip] {
        let shop = Shop::new();
        let layout = sample(compression);
        let images = shop.sample(&layout);
        let from =
            format!("oci-archive:{}:web:1", text(&shop.save(&images, ArchiveFormat::OciArchive, "from.tar")));
        for (transport, file, name) in [
            ("docker-archive", "a.tar", ":web:1"),
            ("oci-archive", "b.tar", ":web:1"),
            ("oci", "c", ":web:1"),
            ("oci", "web", ":1"),
            ("oci-archive", "web.tar", ":1"),
        ] {
            let path = shop.path(file);
            common::run("skopeo", ["copy", "-q", &from, &format!("{transport}:{}{name}", text(&path))]);
            assert_eq!(ids(&Shop::new().load(&path)), ids(&images[..1]), "{transport}");
        }
    }
}

#[test]
fn umoci_lists_a_saved_layout() {
    if !common::have(&["umoci"]) {
        return;
    }
    let shop = Shop::new();
    let images = shop.sample(&sample(Compression::Gzip));
    let path = shop.path("layout");
    let target = Dir::ensure_ambient(&path).unwrap();
    let image = SaveImage { target: images[0].target.clone(), names: images[0].names.clone() };
    save_layout(&[image], &shop.blobs, &target, &SaveOptions::default()).unwrap();
    let list = String::from_utf8(common::run("umoci", ["ls", "--layout", text(&path)])).unwrap();
    assert_eq!(list.trim(), "web:1");
}

#[test]
fn a_layout_that_others_packed_is_loaded() {
    let shop = Shop::new();
    let layout = sample(Compression::Gzip);
    let dir = shop.path("layout");
    layout.write(&dir);
    // The layer that is mostly zeros becomes sparse.
    let packed = shop.path("packed.tar");
    for arguments in [
        vec!["--format=gnu", "--sparse"],
        vec!["--format=pax", "--sparse"],
        vec!["--format=v7"],
        vec!["--format=ustar", "--gzip"],
        vec!["--format=posix", "--hard-dereference"],
    ] {
        let mut arguments = arguments;
        arguments.extend(["-C", text(&dir), "-cf", text(&packed), "."]);
        common::run("tar", arguments);
        assert_eq!(ids(&Shop::new().load(&packed)), expected(&layout));
    }
}
