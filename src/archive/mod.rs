//! Image archives: docker-archives, OCI archives and OCI directories, read and written.
//!
//! Knows `blob` for bytes and `image` for documents, and is where the two meet. Names are told to the caller, who owns
//! the index of the store; layers are not unpacked here.

mod content;
mod docker;
mod error;
mod listing;
mod load;
mod members;
mod names;
mod oci;
mod publish;
mod save;
mod stream;
mod target;
mod walk;
mod warning;

pub use error::{LoadError, SaveError};
pub use load::{Destination, LoadOptions, Loaded, LoadedManifest, load, load_layout};
pub use names::repository_for;
pub use save::{ArchiveFormat, SaveImage, SaveOptions, save, save_layout};
pub use warning::Warning;
