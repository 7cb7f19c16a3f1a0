//! What others have put into a layout.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;

use super::{BlobError, Blobs, LAYOUT_FILE};
use crate::digest::{Algorithm, Digest};
use crate::fs::{Dir, Kind, Optional};

impl Blobs {
    /// What lies in the layout and is neither a blob nor one of its documents.
    ///
    /// # Errors
    ///
    /// [`BlobError::Io`] if a directory cannot be read.
    pub fn strangers(&self) -> Result<Vec<std::path::PathBuf>, BlobError> {
        let strange = |dir: &Dir, belongs: &dyn Fn(&str) -> Option<Kind>| -> Result<Vec<_>, BlobError> {
            let mut strange = Vec::new();
            for entry in dir.names()? {
                let kind = str::from_utf8(&entry.name).ok().and_then(belongs);
                if !kind.map_or(Ok(false), |kind| dir.is_of_kind(&entry, kind))? {
                    strange.push(dir.path_of(OsStr::from_bytes(&entry.name)));
                }
            }
            Ok(strange)
        };
        let algorithm = |name: &str| Algorithm::ALL.into_iter().find(|known| known.name() == name);
        let mut strangers = strange(&self.layout, &|name| match name {
            LAYOUT_FILE | "index.json" => Some(Kind::File),
            "blobs" => Some(Kind::Directory),
            _ => None,
        })?;
        strangers.extend(strange(&self.blobs, &|name| algorithm(name).map(|_| Kind::Directory))?);
        for algorithm in Algorithm::ALL.map(|algorithm| algorithm.name()) {
            if let Some(directory) = self.blobs.open_dir(algorithm).fitting()? {
                let is_blob = |hex: &str| Digest::from_parts(algorithm, hex).is_ok();
                strangers.extend(strange(&directory, &|hex| is_blob(hex).then_some(Kind::File))?);
            }
        }
        Ok(strangers)
    }
}
