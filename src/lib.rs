//! Plywood: a layered image store and an overlay storage driver, as a library.
//!
//! A container engine links this crate and gets the whole life of an image on one machine: archives in, verified and
//! content-addressed; layers unpacked once and shared; copy-on-write roots on top; commit, export and save; collection
//! of what is no longer used. There is no daemon, no helper program, no async runtime and no thread that outlives a
//! call.
//!
//! ```
//! use std::fs::File;
//! use plywood::{ArchiveFormat, CommitOptions, CreateOptions, GcOptions, LoadOptions, RemoveContainer, SaveOptions};
//! use plywood::{ConfigChange, Store};
//! # // The hidden lines make an image with one layer, in which there is one file.
//! # use plywood::changeset::{Entry, EntryKind, Writer};
//! # use plywood::image::{Config, Descriptor, Index, Manifest, MediaType, OCI_REF_NAME};
//! # use plywood::{Digest, DiffId, Platform, fs::Metadata, path::LayerPath};
//! # fn main() -> Result<(), plywood::Error> {
//! # let dir = tempfile::tempdir()?;
//! # let entry = |name: &str, size| -> Result<Entry, plywood::Error> {
//! #     let metadata = Metadata { mode: 0o644, ..Metadata::default() };
//! #     Ok(Entry::new(LayerPath::parse(name)?, EntryKind::File { size }, metadata))
//! # };
//! # let mut layer = Writer::new(Vec::new());
//! # layer.file(&entry("motd", 6)?, &b"hello\n"[..])?;
//! # let layer = layer.finish()?;
//! # let mut config = Config::new(&Platform::host());
//! # config.push_layer(DiffId::of_tar(Digest::of(&layer)), Default::default());
//! # let config = config.to_json();
//! # let layers = vec![Descriptor::of(MediaType::OCI_LAYER, &layer)];
//! # let manifest = Manifest::new(Descriptor::of(MediaType::OCI_CONFIG, &config), layers).to_json();
//! # let mut named = Descriptor::of(MediaType::OCI_MANIFEST, &manifest);
//! # named.annotations.insert(OCI_REF_NAME.to_owned(), "web:1".to_owned());
//! # let index = Index::new(vec![named]).to_json();
//! # let mut archive = Writer::new(File::create(dir.path().join("web.tar"))?);
//! # let mut members = vec![("index.json".to_owned(), &index[..])];
//! # members.push(("oci-layout".to_owned(), br#"{"imageLayoutVersion":"1.0.0"}"#));
//! # for blob in [&layer, &config, &manifest] {
//! #     members.push((format!("blobs/sha256/{}", Digest::of(blob).hex()), blob));
//! # }
//! # for (name, content) in members {
//! #     archive.file(&entry(&name, content.len() as u64)?, content)?;
//! # }
//! # archive.finish()?;
//! # let store = dir.path().join("store");
//! # let here = std::env::current_dir()?;
//!
//! // A directory of one's own. Any number of processes may use a store at a time.
//! let store = Store::ensure(store)?;
//! # let (web, second) = (dir.path().join("web.tar"), dir.path().join("web-2.tar"));
//! # let read = |_: &str| File::open(&web);
//! # let create = |_: &str| File::create(&second);
//!
//! // An archive of docker, podman, skopeo or another tool: here from a file, but a pipe will do.
//! store.load(read("web.tar")?, &LoadOptions::default())?;
//! let image = store.image("web:1")?;
//!
//! // A root of its own on the image's layers, which it shares with every other container.
//! let container = store.create_container(&image, &CreateOptions::named("web"))?;
//! let mounted = container.mount()?;
//! // Here an engine runs something in `mounted.path()`; this root is only written to.
//! mounted.root().create_dir("srv", 0o755)?;
//! mounted.root().remove_file("motd")?;
//! let container = mounted.unmount()?;
//!
//! let changes: Vec<String> = container.changes()?.iter().map(ToString::to_string).collect();
//! assert_eq!(changes, ["D /motd", "A /srv"]);
//!
//! // What it changed becomes a layer, and the layer an image.
//! let options = CommitOptions::named("web:2".parse()?).change("WORKDIR /srv".parse::<ConfigChange>()?);
//! let image = container.commit(&options)?;
//! store.save(&[image], ArchiveFormat::default(), create("web-2.tar")?, &SaveOptions::default())?;
//!
//! container.remove(RemoveContainer::Refuse)?;
//! store.remove_image("web:1", Default::default())?;
//! store.gc(&GcOptions::default())?; // web:2 and all that it needs stays
//! # assert_eq!(store.images()?.len(), 1);
//! # Ok(())
//! # }
//! ```
//!
//! # The parts
//!
//! What most callers need is here at the root: [`Store`] is the front door, [`Image`], [`Container`] and [`Mounted`] are
//! what comes out of it. The modules are the parts that it is made of, and can be used without it; each begins with what
//! it is and what it leaves to others. From the bottom up:
//!
//! | module | holds |
//! | --- | --- |
//! | [`digest`], [`path`], [`whiteout`], [`limits`], [`parallelism`], [`codec`] | words of the field, checked once and then carried in a type |
//! | [`fs`] | handles, staging, locks: the only way to the disk |
//! | [`changeset`] | entries of a layer tar, and streams of them |
//! | [`stack`] | directories in overlayfs's form, read and written as the image means them |
//! | [`blob`] | bytes by digest, in an OCI image layout |
//! | [`image`] | references, indexes, manifests, configs: the JSON side |
//! | [`layer`] | a changeset as a directory: unpack, pack, compare, the shared read-only layers |
//! | [`driver`] | directories stacked to a root: overlay, copy, and the probe that chooses |
//! | [`container`] | a writable layer on a stack |
//! | [`archive`] | images read from and written to archives |
//! | [`store`] | the facade: where everything lies, names, collection |
//!
//! # Features
//!
//! | feature | adds |
//! | --- | --- |
//! | `cli` | the tool `plywood`; the library is the same |
//! | `registry` | the module `registry`, `Store::pull` and `Store::push`; an async runtime behind a blocking interface, and TLS |
//! | `ocidir` | the store's layout for users of the crate `ocidir`: [`store::Store`] gets `oci_dir`, `load_oci` and `save_oci_dir`, [`archive`] gets `OciSource`. That crate needs OpenSSL's headers and pkg-config to build, and links C zlib, so it is not in the core |
//!
//! The FUSE driver needs no feature: it runs the installed program fuse-overlayfs.
//!
//! # What may be relied on
//!
//! - An operation that succeeded survives a power cut at the next instant ([`Durability::Full`], the default). One that
//!   failed left the store as it was, but for rubbish that the next [`Store::gc`] takes away.
//! - The store's `oci/` is an OCI image layout at every instant, which other tools may read.
//! - Nothing that an archive says is believed before it was checked, and no layer writes outside its directory. What an
//!   archive may ask of the machine is bounded by [`Limits`].
//! - Equal inputs and options give equal bytes, for any number of threads. The library reads no clock and no
//!   environment, prints nothing and changes no state of the process: times and choices are options.
//! - Handles are `Send + Sync`. Locks, mounts (unless [kept](Mounted::keep)) and temporary files do not outlive their
//!   owners.
//!
//! Errors say which object, what was expected and what was found; [`Error`] holds any of them.

#![cfg_attr(docsrs, feature(doc_cfg))]

pub mod archive;
pub mod blob;
pub mod changeset;
pub mod codec;
pub mod container;
pub mod digest;
pub mod driver;
mod error;
pub mod fs;
pub mod image;
pub mod layer;
pub mod limits;
pub mod open_files;
pub mod parallelism;
pub mod path;
#[cfg(feature = "registry")]
pub mod registry;
pub mod stack;
pub mod store;
mod text;
pub mod whiteout;
mod zeros;

pub use codec::Encoding;
pub use digest::{Algorithm, ChainId, DiffId, Digest, HashingReader, HashingWriter};
pub use driver::DriverKind;
pub use error::Error;
pub use fs::{Durability, Timestamp};
pub use image::{CommandLine, ConfigChange, Platform, Reference};
pub use layer::{Change, ChangeKind};
pub use limits::Limits;
pub use parallelism::Parallelism;
#[cfg(feature = "ocidir")]
pub use store::ReadOnlyOciDir;
pub use store::{
    ArchiveFormat, BuildCache, CachedStep, CheckOptions, CheckReport, CheckStage, CommitOptions, Container,
    ContainerState, Containers, ConvertOptions, ConvertedImage, CreateOptions, Damage, DamagedContainer,
    DamagedImage, DriverChoice, ExportOptions, FetchOptions, GcOptions, GcReport, HistoryEntry, Hold, Image,
    ImageSummary, Images, ImportOptions, Info, Known, LabelFilter, LayerCompression, LenderInfo, LenderState,
    LoadOptions, LoadedImage, MediaTypes, Mounted, Moved, NewImage, Outcome, Platforms, PruneImages,
    PruneOptions, PruneReport, PrunedContainer, PrunedImage, RemoveContainer, RemoveImage, Removed,
    RepairOptions, RepairReport, Repaired, SaveOptions, SquashFrom, SquashOptions, StepKey, Store,
    StoreError, StoreOptions, StoreUsage, UnmountError, Unpack, UsageOptions,
};

#[cfg(feature = "registry")]
pub use store::PushOptions;

/// Tests the examples in README.md.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;

/// Tests the examples in the guide for engine authors.
#[cfg(doctest)]
#[doc = include_str!("../docs/guide.md")]
struct Guide;
