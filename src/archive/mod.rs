//! Image archives: docker-archives, OCI archives and OCI directories, read and written.
//!
//! Knows `blob` for bytes and `image` for documents, and is where the two meet. Names are told to the caller, who owns
//! the index of the store; layers are not unpacked here.
//!
//! A name comes from the full name in an index entry's annotations (`io.containerd.image.name`), else from
//! `org.opencontainers.image.ref.name` if that is more than a tag, else from the same image's `RepoTags` in
//! `manifest.json`, else from the tag and the repository that the caller gives ([`LoadOptions::repository`]).
//!
//! ```
//! use plywood::archive::{self, ArchiveFormat, Destination, SaveImage};
//! # use plywood::{blob::Blobs, digest::Digest, fs::{Dir, Durability, Staging}};
//! # use plywood::image::{Config, Descriptor, Manifest, MediaType, Platform, Reference};
//! # let temp = tempfile::tempdir()?;
//! # let dir = Dir::open_ambient(temp.path())?;
//! # let workspace = Staging::new(dir.ensure_dir("staging", 0o700)?).workspace()?;
//! # let blobs = Blobs::create(dir.ensure_dir("oci", 0o755)?, &workspace, Durability::Relaxed)?;
//! # let put = |media_type, bytes: Vec<u8>| {
//! #     blobs.put(&bytes, &workspace, Durability::Relaxed).map(|_| Descriptor::of(media_type, &bytes))
//! # };
//! # let config = put(MediaType::OCI_CONFIG, Config::new(&Platform::host()).to_json())?;
//! # let target = put(MediaType::OCI_MANIFEST, Manifest::new(config, Vec::new()).to_json())?;
//! # let other = dir.ensure_dir("other", 0o755)?;
//! # let others = Blobs::create(other, &workspace, Durability::Relaxed)?;
//! let image = SaveImage { target, names: vec![Reference::parse_familiar("web:1")?] };
//! let mut file = Vec::new();
//! archive::save(&[image], &blobs, ArchiveFormat::DockerArchive, &mut file, &Default::default())?;
//!
//! let pin = |_: &[Digest]| Ok(()); // nobody collects garbage here
//! let into = Destination { blobs: &others, workspace: &workspace, lent: None, pin: &pin };
//! let loaded = archive::load(&file[..], &into, &Default::default())?;
//! assert_eq!(loaded[0].names[0].familiar(), "web:1");
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod arrival;
mod content;
mod convert;
mod decoded;
mod deliver;
mod docker;
mod error;
mod fetch;
mod legacy;
mod listing;
mod load;
mod members;
mod names;
mod oci;
#[cfg(feature = "ocidir")]
mod oci_read;
mod recode;
mod root;
mod save;
mod stream;
mod target;
mod walk;
mod warning;
mod watchers;
mod words;

pub use arrival::Arrival;
pub(crate) use convert::{Converted, convert};
pub use deliver::{AbsentPlatforms, Deliver, DeliverOptions, Delivered, OpenContent, deliver};
pub use error::{LoadError, MissingLayer, SaveError};
pub use fetch::{Fetch, Transfer};
#[cfg(feature = "ocidir")]
pub use load::receive_listed;
pub use load::{
    Begins, Destination, FindLayer, LoadOptions, Loaded, LoadedManifest, load, load_layout, receive,
    receive_from, receive_layout, receive_while,
};
pub use names::repository_for;
#[cfg(feature = "ocidir")]
pub use oci_read::OciSource;
pub(crate) use recode::LayerTar;
pub use root::{ReceivedRoot, receive_root, write_config};
pub use save::{
    ArchiveFormat, Known, LayerCompression, LayerCompressionError, SaveImage, SaveOptions, save, save_layout,
};
pub(crate) use walk::is_foreign;
pub use warning::Warning;
pub use words::MediaTypes;
pub(crate) use words::Recast;
