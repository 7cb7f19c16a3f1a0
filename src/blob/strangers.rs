//! What others have put into a layout.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;

use super::{BlobError, Blobs, LAYOUT_FILE};
use crate::digest::{Algorithm, Digest};
use crate::fs::{Dir, Optional};

impl Blobs {
    /// What lies in the layout and is neither a blob nor one of its documents.
    ///
    /// # Errors
    ///
    /// [`BlobError::Io`] if a directory cannot be read.
    pub fn strangers(&self) -> Result<Vec<std::path::PathBuf>, BlobError> {
        let strange = |dir: &Dir, is_ours: &dyn Fn(&str) -> bool| -> Result<Vec<_>, BlobError> {
            let names = dir.names()?.into_iter().map(|entry| entry.name);
            let strange = names.filter(|name| !std::str::from_utf8(name).is_ok_and(is_ours));
            Ok(strange.map(|name| dir.path_of(OsStr::from_bytes(&name))).collect())
        };
        let algorithm = |name: &str| Algorithm::ALL.into_iter().find(|known| known.name() == name);
        let mut strangers =
            strange(&self.layout, &|name| [LAYOUT_FILE, "index.json", "blobs"].contains(&name))?;
        strangers.extend(strange(&self.blobs, &|name| algorithm(name).is_some())?);
        for algorithm in Algorithm::ALL.map(|algorithm| algorithm.name()) {
            if let Some(directory) = self.blobs.open_dir(algorithm).optional()? {
                strangers.extend(strange(&directory, &|hex| Digest::from_parts(algorithm, hex).is_ok())?);
            }
        }
        Ok(strangers)
    }
}
