//! OCI directories, written without the store.

use std::path::Path;

use plywood::changeset::{Entry, EntryKind, Writer};
use plywood::fs::{Metadata, Timestamp};
use plywood::image::{Config, ConfigChange, Descriptor, Index, Manifest, MediaType, OCI_REF_NAME};
use plywood::path::LayerPath;
use plywood::{Algorithm, DiffId, Digest, HashingWriter, Platform};

use super::Result;

/// An uncompressed layer with its diff id.
pub(crate) type Layer = (Vec<u8>, DiffId);

/// A layer of so many directories, called by `name`, with so many files each.
pub(crate) fn layer(name: &str, directories: usize, files: usize) -> Result<Layer> {
    let mut tar = Writer::new(HashingWriter::new(Algorithm::Sha256, Vec::new()));
    let mtime = Timestamp { seconds: 1_700_000_000, nanos: 0 };
    let metadata = |mode| Metadata { mode, mtime, ..Metadata::default() };
    for directory in 0..directories {
        let directory = format!("{name}{directory:04}");
        tar.entry(&Entry::new(LayerPath::parse(&directory)?, EntryKind::Directory, metadata(0o755)))?;
        for file in 0..files {
            let path = LayerPath::parse(format!("{directory}/file{file:04}"))?;
            let content = format!("{directory} {file}\n");
            let kind = EntryKind::File { size: content.len() as u64 };
            tar.file(&Entry::new(path, kind, metadata(0o644)), content.as_bytes())?;
        }
    }
    let (blob, digest, _) = tar.finish()?.finish();
    Ok((blob, DiffId::of_tar(digest)))
}

/// An OCI directory under way.
pub(crate) struct Layout<'a> {
    directory: &'a Path,
    named: Vec<Descriptor>,
}

impl<'a> Layout<'a> {
    pub(crate) fn begin(directory: &'a Path) -> Result<Self> {
        std::fs::create_dir_all(directory.join("blobs/sha256"))?;
        Ok(Self { directory, named: Vec::new() })
    }

    fn put(&self, bytes: &[u8]) -> Result<()> {
        Ok(std::fs::write(self.directory.join("blobs/sha256").join(Digest::of(bytes).hex()), bytes)?)
    }

    /// Adds an image; `label` tells it from others of the same layers.
    pub(crate) fn image(&mut self, name: &str, label: &str, layers: &[Layer]) -> Result<()> {
        let mut config = Config::new(&Platform::host());
        config.apply(&[ConfigChange::label("bench", label)])?;
        let mut descriptors = Vec::new();
        for (blob, diff_id) in layers {
            self.put(blob)?;
            config.push_layer(*diff_id, Default::default());
            descriptors.push(Descriptor::of(MediaType::OCI_LAYER, blob));
        }
        let config = config.to_json();
        let manifest = Manifest::new(Descriptor::of(MediaType::OCI_CONFIG, &config), descriptors).to_json();
        let mut named = Descriptor::of(MediaType::OCI_MANIFEST, &manifest);
        named.annotations.insert(OCI_REF_NAME.to_owned(), name.to_owned());
        self.put(&config)?;
        self.put(&manifest)?;
        self.named.push(named);
        Ok(())
    }

    pub(crate) fn finish(self) -> Result<()> {
        std::fs::write(self.directory.join("index.json"), Index::new(self.named).to_json())?;
        Ok(std::fs::write(self.directory.join("oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#)?)
    }
}
