//! The JSON side of an image: reference, index, manifest, config.
//!
//! Pure values, no disk. What is read was checked as a whole ([`Manifest::parse`], [`Index::parse`],
//! [`Config::parse`], [`ManifestDocument::parse`]): within the limits, one JSON value, no key twice, sizes
//! and digests that can be, and nothing that another reader would understand otherwise. What is written is
//! compact, in a fixed order, and the same for equal values. Fields that nobody here knows survive a change.
//!
//! ```
//! use plywood::digest::{Digest, DiffId};
//! use plywood::image::{Config, ConfigChange, History, Platform};
//! use plywood::limits::Limits;
//!
//! let mut config = Config::new(&"linux/arm64".parse()?);
//! let mut step = History::default();
//! step.created_by = Some("an example".to_owned());
//! config.push_layer(DiffId::of_tar(Digest::of(b"a tar")), step);
//! config.apply(&["CMD [\"/srv/web\"]".parse()?, ConfigChange::env("PORT", "80")])?;
//!
//! let bytes = config.to_json();
//! assert_eq!(Config::parse(&bytes, &Limits::default())?, config);
//! assert_eq!(config.platform(), Platform::new("linux", "arm64"));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod change;
mod config;
mod descriptor;
mod document;
mod error;
mod expand;
mod index;
mod instruction;
pub(crate) mod json;
mod manifest;
mod media_type;
mod platform;
mod reference;
mod runtime;
pub mod time;

pub use change::{ChangeError, CommandLine, ConfigChange, Protocol};
pub use config::{Config, ConfigWarning, History, RootFs};
pub use descriptor::Descriptor;
pub use document::ManifestDocument;
pub use error::ImageError;
pub use expand::expand_variables;
pub use index::Index;
pub use instruction::Instruction;
pub use json::Extra;
pub use manifest::Manifest;
pub use media_type::{CompressionHint, MediaKind, MediaType};
pub use platform::{Platform, PlatformError};
pub use reference::{CONTAINERD_IMAGE_NAME, OCI_REF_NAME, Reference, ReferenceError};
pub(crate) use reference::{familiar, is_canonical_tag};
pub use runtime::{Healthcheck, RuntimeConfig};
