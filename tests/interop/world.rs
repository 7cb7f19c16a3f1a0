//! A store of ours to give to peers and take from them, and what of trees and lists is compared.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::path::{Path, PathBuf};

use plywood::driver::DriverKind;
use plywood::fs::Durability;
use plywood::image::Reference;
use plywood::store::{
    ArchiveFormat, CommitOptions, CreateOptions, DriverChoice, Image, LoadOptions, LoadedImage, SaveOptions,
    Store,
};
use serde_json::Value;

use crate::common::image::{Added, Compression, Layout};
use crate::common::tree::{Tree, snapshot};
use crate::edits::edit;
use crate::sample::{self, DEMANDING};

/// An empty store, and a directory beside it for what is passed on.
pub struct World {
    temp: tempfile::TempDir,
    pub store: Store,
}

impl World {
    pub fn new() -> Self {
        Self::with(DriverChoice::default())
    }

    /// One whose containers are plain copies.
    pub fn of_copies() -> Self {
        Self::with(DriverChoice::Only(DriverKind::Copy))
    }

    fn with(driver: DriverChoice) -> Self {
        let temp = crate::common::scratch();
        let options = Store::options().durability(Durability::Relaxed).driver(driver);
        let store = options.create(temp.path().join("store")).unwrap();
        Self { temp, store }
    }

    /// A path for a file or directory that others read or write.
    pub fn path(&self, name: &str) -> PathBuf {
        self.temp.path().join(name)
    }

    /// Where the store lets others read it in place.
    pub fn layout(&self) -> PathBuf {
        self.store.path().join("oci")
    }

    /// The images of a layout that was made in a test.
    pub fn give(&self, layout: &Layout) -> Vec<Image> {
        let loaded = self.store.load(&layout.oci_archive()[..], &LoadOptions::default()).unwrap();
        loaded.into_iter().map(|loaded| loaded.image).collect()
    }

    /// Loads what somebody else wrote.
    #[track_caller]
    pub fn load(&self, path: &Path) -> Vec<LoadedImage> {
        let loaded = match path.is_dir() {
            true => self.store.load_directory(path, &LoadOptions::default()),
            false => self.store.load(File::open(path).unwrap(), &LoadOptions::default()),
        };
        loaded.unwrap_or_else(|error| panic!("{path:?}: {error:?}"))
    }

    /// Loads the only image that somebody else wrote.
    #[track_caller]
    pub fn load_one(&self, path: &Path) -> Image {
        let mut loaded = self.load(path);
        assert_eq!(loaded.len(), 1, "images in {path:?}");
        loaded.remove(0).image
    }

    pub fn save(&self, images: &[Image], format: ArchiveFormat, name: &str) -> PathBuf {
        self.save_with(images, format, name, &SaveOptions::default())
    }

    pub fn save_with(
        &self,
        images: &[Image],
        format: ArchiveFormat,
        name: &str,
        options: &SaveOptions<'_>,
    ) -> PathBuf {
        let path = self.path(name);
        self.store.save(images, format, File::create(&path).unwrap(), options).unwrap();
        path
    }

    pub fn save_directory(&self, images: &[Image], name: &str) -> PathBuf {
        let path = self.path(name);
        self.store.save_directory(images, &path, &SaveOptions::default()).unwrap();
        path
    }

    /// What a container of the image shows.
    pub fn tree(&self, image: &Image) -> Tree {
        let container = self.store.create_container(image, &CreateOptions::default()).unwrap();
        let mounted = container.mount().unwrap();
        seen(mounted.path())
    }

    pub fn config(&self, image: &Image) -> Value {
        serde_json::from_slice(&self.store.config_bytes(image).unwrap()).unwrap()
    }
}

/// What peers get of us: the images of [`sample::several`], and one that was committed here.
pub struct Goods {
    pub world: World,
    /// The demanding image, its sibling, the one without a name, and the committed one.
    pub images: Vec<Image>,
    /// What the demanding image shows, and what the committed one shows.
    pub trees: [Tree; 2],
}

/// The name of the image that was committed here.
pub const COMMITTED: &str = "docker.io/library/committed:1";

impl Goods {
    /// The topmost layer of the demanding image is compressed like this.
    pub fn new(compression: Compression) -> Self {
        let world = World::new();
        let layout = sample::several(compression);
        let mut images = world.give(&layout);
        let container = world.store.create_container(&images[0], &CreateOptions::default()).unwrap();
        let mounted = container.mount().unwrap();
        let tree = seen(mounted.path());
        tree.assert_same(&sample::tree().without_holes(), "what others are compared with");
        edit(mounted.path());
        let edited = seen(mounted.path());
        let name = Reference::parse_familiar(COMMITTED).unwrap();
        let options = CommitOptions::named(name).message("edited").change("ENV ADDED=yes".parse().unwrap());
        images.push(container.commit(&options).unwrap());
        drop(mounted);
        Self { world, images, trees: [tree, edited] }
    }

    /// The names that there are, and the ids of their images.
    pub fn ids(&self) -> BTreeMap<String, String> {
        ids(&self.images)
    }

    /// Both trees with the names of their images.
    pub fn shown(&self) -> [(&'static str, &Tree); 2] {
        [(DEMANDING, &self.trees[0]), (COMMITTED, &self.trees[1])]
    }

    pub fn demanding(&self) -> &Image {
        &self.images[0]
    }

    pub fn committed(&self) -> &Image {
        &self.images[3]
    }
}

/// What a root shows but for the root directory itself, which every engine makes in its own way, and holes: nobody but us
/// keeps them.
pub fn seen(root: &Path) -> Tree {
    snapshot(root).without_root().without_xattrs(|name| name.starts_with(b"user.overlay.")).without_holes()
}

/// Forgets fractions of seconds, which most peers do when they write a layer.
pub fn whole_seconds(tree: Tree) -> Tree {
    tree.map(|_, node| node.mtime.1 = 0)
}

/// With nothing older than 1970: Go's engines (docker 20.10, podman 4.3, buildah 1.28, umoci 0.4.7) put the epoch in its place.
pub fn since_1970(tree: &Tree) -> Tree {
    tree.clone().map(|_, node| {
        if node.mtime.0 < 0 {
            node.mtime = (0, 0);
        }
    })
}

/// Names with the ids of their images.
pub fn ids<'a>(images: impl IntoIterator<Item = &'a Image>) -> BTreeMap<String, String> {
    let each = |image: &Image| {
        let id = image.id().to_string();
        image.names().iter().map(|name| (name.canonical(), id.clone())).collect::<Vec<_>>()
    };
    images.into_iter().flat_map(each).collect()
}

/// Names and ids of what was loaded.
pub fn ids_of(loaded: &[LoadedImage]) -> BTreeMap<String, String> {
    ids(loaded.iter().map(|loaded| &loaded.image))
}

/// Names, and the ids that the images of a layout must have under them.
pub fn expected(layout: &Layout) -> BTreeMap<String, String> {
    each_name(layout, |added| added.config.clone())
}

/// Names, and a digest of each image.
pub fn each_name(layout: &Layout, digest: impl Fn(&Added) -> String) -> BTreeMap<String, String> {
    let named =
        |added: &Added| added.names.iter().map(|name| (name.clone(), digest(added))).collect::<Vec<_>>();
    layout.images.iter().flat_map(named).collect()
}

/// What docker and podman print for [`LIST`]: names and ids. Images without a name are left out.
pub fn listed(lines: &str) -> BTreeMap<String, String> {
    let split = |line: &str| {
        let (name, id) = line.split_once(' ').unwrap();
        let name = Reference::parse_familiar(name).ok()?.canonical();
        Some((name, format!("sha256:{}", id.trim_start_matches("sha256:"))))
    };
    lines.lines().filter_map(split).collect()
}

/// Arguments by which docker and podman list names and ids.
pub const LIST: [&str; 4] = ["images", "--no-trunc", "--format", "{{.Repository}}:{{.Tag}} {{.ID}}"];

/// What docker's configs have and OCI's do not: it is lost where a tool writes a config anew.
pub const NOT_IN_OCI: &[&str] = &["Healthcheck", "OnBuild", "Shell"];

/// The config of an image without these fields of `config`.
pub fn without_fields(mut config: Value, fields: &[&str]) -> Value {
    let inner = config["config"].as_object_mut().unwrap();
    fields.iter().for_each(|field| _ = inner.remove(*field));
    config
}

/// The name of an image as people write it.
pub fn familiar(name: &str) -> String {
    Reference::parse_familiar(name).unwrap().familiar()
}

pub fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

pub fn json(bytes: impl AsRef<[u8]>) -> Value {
    serde_json::from_slice(bytes.as_ref()).unwrap()
}

/// What is at a path, whichever it is: engines write directories over directories.
pub fn remove(path: &Path) {
    if path.is_dir() {
        fs::remove_dir_all(path).unwrap();
    } else if path.exists() {
        fs::remove_file(path).unwrap();
    }
}
