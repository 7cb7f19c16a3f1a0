//! OCI directories with many small images and one with many layers, or with one image of many files.

use std::path::Path;

use plywood::changeset::{Entry, EntryKind, Writer};
use plywood::fs::{Metadata, Timestamp};
use plywood::image::{Config, Descriptor, Index, Manifest, MediaType, OCI_REF_NAME};
use plywood::path::LayerPath;
use plywood::{Algorithm, DiffId, Digest, HashingWriter, Platform};

use super::Result;

/// A file of the image that [`write_large`] makes.
pub(crate) const FIRST: &str = "dir0000/file0000";

/// Writes `images` images of one layer each, all different: `bench/image-<n>:1`; and `bench/tall:1`, of `layers` layers.
pub(crate) fn write(directory: &Path, images: usize, layers: usize) -> Result<()> {
    let mut layout = Layout::begin(directory)?;
    for number in 0..images {
        let layer = layer(&format!("image{number}"), 1, 2)?;
        layout.image(&format!("docker.io/bench/image-{number}:1"), &[layer])?;
    }
    let layers =
        (0..layers).map(|number| layer(&format!("layer{number}"), 1, 2)).collect::<Result<Vec<_>>>()?;
    layout.image("docker.io/bench/tall:1", &layers)?;
    layout.finish()
}

/// Writes one image of `files` files in one layer, up to a thousand in a directory.
pub(crate) fn write_large(directory: &Path, files: usize) -> Result<()> {
    let mut layout = Layout::begin(directory)?;
    let layer = layer("dir", files.div_ceil(1000), files.min(1000))?;
    layout.image("docker.io/bench/large:1", &[layer])?;
    layout.finish()
}

fn layer(name: &str, directories: usize, files: usize) -> Result<(Vec<u8>, DiffId)> {
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

struct Layout<'a> {
    directory: &'a Path,
    named: Vec<Descriptor>,
}

impl<'a> Layout<'a> {
    fn begin(directory: &'a Path) -> Result<Self> {
        std::fs::create_dir_all(directory.join("blobs/sha256"))?;
        Ok(Self { directory, named: Vec::new() })
    }

    fn put(&self, bytes: &[u8]) -> Result<()> {
        Ok(std::fs::write(self.directory.join("blobs/sha256").join(Digest::of(bytes).hex()), bytes)?)
    }

    fn image(&mut self, name: &str, layers: &[(Vec<u8>, DiffId)]) -> Result<()> {
        let mut config = Config::new(&Platform::host());
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

    fn finish(self) -> Result<()> {
        std::fs::write(self.directory.join("index.json"), Index::new(self.named).to_json())?;
        Ok(std::fs::write(self.directory.join("oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#)?)
    }
}
