//! Images that are made for the purpose: many small files, few large ones, many layers; each plain, in gzip and in zstd.
//! The content is text that compresses about as well as that of real images, and the same every time.

use std::path::Path;

use plywood::changeset::{Entry, EntryKind, Writer};
use plywood::codec::{Encoder, Encoding};
use plywood::fs::{Metadata, Timestamp};
use plywood::image::{Config, Descriptor, Index, Manifest, MediaType, OCI_REF_NAME};
use plywood::path::LayerPath;
use plywood::{Algorithm, DiffId, Digest, HashingWriter, Platform};

use super::Result;

/// An image to be made.
pub(crate) struct Plan {
    shape: &'static str,
    encoding: Encoding,
    layers: usize,
    /// In each layer.
    directories: usize,
    /// In each directory.
    files: usize,
    /// Bytes of a file: between half of this and half as much again.
    size: usize,
}

/// Every image.
pub(crate) fn all(quick: bool) -> Vec<Plan> {
    let encodings = [Encoding::Gzip { level: 6 }, Encoding::Zstd { level: 3 }, Encoding::None];
    let mut plans = Vec::new();
    for (shape, layers, directories, files, size) in match quick {
        false => [("small", 2, 500, 12, 5 << 10), ("large", 2, 1, 4, 20 << 20), ("many", 64, 4, 10, 4 << 10)],
        true => [("small", 2, 5, 5, 5 << 10), ("large", 2, 1, 1, 1 << 20), ("many", 8, 2, 2, 4 << 10)],
    } {
        for encoding in encodings {
            plans.push(Plan { shape, encoding, layers, directories, files, size });
        }
    }
    plans
}

impl Plan {
    pub(crate) fn name(&self) -> String {
        format!("{}/{}", self.shape, self.encoding.compression())
    }

    /// Writes the image as an OCI directory.
    pub(crate) fn write(&self, directory: &Path) -> Result<()> {
        let blobs = directory.join("blobs/sha256");
        std::fs::create_dir_all(&blobs)?;
        let put = |bytes: &[u8]| std::fs::write(blobs.join(Digest::of(bytes).hex()), bytes);
        let mut config = Config::new(&Platform::host());
        let mut layers = Vec::new();
        let mut random = Random(0x9e37_79b9_7f4a_7c15);
        let media_type = match self.encoding {
            Encoding::Gzip { .. } => MediaType::OCI_LAYER_GZIP,
            Encoding::Zstd { .. } => MediaType::OCI_LAYER_ZSTD,
            _ => MediaType::OCI_LAYER,
        };
        for number in 0..self.layers {
            let (blob, diff_id) = self.layer(number, &mut random)?;
            put(&blob)?;
            config.push_layer(diff_id, Default::default());
            layers.push(Descriptor::of(media_type.clone(), &blob));
        }
        let config = config.to_json();
        let manifest = Manifest::new(Descriptor::of(MediaType::OCI_CONFIG, &config), layers).to_json();
        let mut named = Descriptor::of(MediaType::OCI_MANIFEST, &manifest);
        named.annotations.insert(OCI_REF_NAME.to_owned(), "bench:latest".to_owned());
        put(&config)?;
        put(&manifest)?;
        std::fs::write(directory.join("index.json"), Index::new(vec![named]).to_json())?;
        std::fs::write(directory.join("oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#)?;
        Ok(())
    }

    fn layer(&self, number: usize, random: &mut Random) -> Result<(Vec<u8>, DiffId)> {
        let blob = Encoder::new(Vec::new(), self.encoding)?;
        let mut tar = Writer::new(HashingWriter::new(Algorithm::Sha256, blob));
        let mtime = Timestamp { seconds: 1_700_000_000, nanos: 0 };
        let metadata = |mode| Metadata { mode, mtime, ..Metadata::default() };
        let mut text = Vec::new();
        for directory in 0..self.directories {
            let directory = format!("layer{number:03}-dir{directory:04}");
            let entry = Entry::new(LayerPath::parse(&directory)?, EntryKind::Directory, metadata(0o755));
            tar.entry(&entry)?;
            for file in 0..self.files {
                let path = LayerPath::parse(format!("{directory}/file{file:04}"))?;
                let size = self.size / 2 + random.below(self.size);
                random.text(size, &mut text);
                let entry = Entry::new(path, EntryKind::File { size: size as u64 }, metadata(0o644));
                tar.file(&entry, &text[..])?;
            }
        }
        let (blob, digest, _) = tar.finish()?.finish();
        Ok((blob.finish()?, DiffId::of_tar(digest)))
    }
}

/// A generator of numbers that is always the same (xorshift64*).
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    fn below(&mut self, limit: usize) -> usize {
        (self.next() % limit as u64) as usize
    }

    /// Fills `text` with `size` bytes: words out of a thousand, and now and then a number.
    fn text(&mut self, size: usize, text: &mut Vec<u8>) {
        text.clear();
        while text.len() < size {
            let roll = self.next();
            match roll % 4 {
                0 => text.extend_from_slice(format!("{:08x} ", roll >> 32).as_bytes()),
                _ => text.extend_from_slice(format!("word{} ", (roll >> 8) % 1000).as_bytes()),
            }
        }
        text.truncate(size);
    }
}
