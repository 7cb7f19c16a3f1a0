//! [`SaveOptions`]: what of the images is saved, and how.

use std::collections::BTreeSet;
use std::fmt;
use std::str::FromStr;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::codec::{Compression, Encoding};
use crate::digest::{DiffId, Digest};
use crate::fs::{Durability, Workspace};
use crate::image::{Descriptor, Platform};
use crate::limits::Limits;
use crate::parallelism::Parallelism;

/// What kind of archive is written.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[non_exhaustive]
pub enum ArchiveFormat {
    /// An OCI layout with docker's `manifest.json` and `repositories` beside it, as docker has written it since version
    /// 25. Docker, podman, containerd and skopeo read it.
    #[default]
    DockerArchive,
    /// An OCI layout and nothing else.
    OciArchive,
    /// What docker wrote before version 25, for tools that know nothing else: `<image id>.json`, each layer as a plain
    /// tar, `manifest.json`; and for the oldest `repositories` and a directory for each layer. It has one platform of
    /// each image, and no manifests: what loads it makes new ones.
    ClassicDockerArchive,
}

/// How layers are compressed in what is saved.
///
/// A layer that is compressed anew has another digest, so its image gets another manifest; config, image id and diff ids
/// stay. As text: `keep`, `none`, `gzip`, `gzip:9`, `zstd`, `zstd:19`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[non_exhaustive]
pub enum LayerCompression {
    /// As they are stored.
    #[default]
    Keep,
    /// Layers that are not compressed are. Others stay as they are. Has no text.
    IfPlain(Encoding),
    /// Layers that are compressed by another method are compressed anew. Others stay as they are, whatever their level.
    Like(Encoding),
    /// All layers are compressed anew.
    Anew(Encoding),
}

impl LayerCompression {
    /// How layers are compressed that are; `None` if all stay as they are.
    pub fn encoding(self) -> Option<Encoding> {
        match self {
            Self::Keep => None,
            Self::IfPlain(encoding) | Self::Like(encoding) | Self::Anew(encoding) => Some(encoding),
        }
    }

    /// What becomes of a layer that is compressed like `found`; `None` if it stays as it is.
    pub(in crate::archive) fn of(self, found: Compression) -> Option<Encoding> {
        match self {
            Self::Keep => None,
            Self::IfPlain(wanted) => {
                (found == Compression::None && wanted != Encoding::None).then_some(wanted)
            }
            Self::Like(wanted) => (wanted.compression() != found).then_some(wanted),
            Self::Anew(Encoding::None) if found == Compression::None => None,
            Self::Anew(encoding) => Some(encoding),
        }
    }
}

/// The customary levels.
const GZIP: Encoding = Encoding::Gzip { level: 6 };
const ZSTD: Encoding = Encoding::Zstd { level: 3 };

/// A text that names no compression of layers.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{text:?} is none of keep, none, gzip, gzip:0 to gzip:9, zstd, zstd:1 to zstd:22")]
pub struct LayerCompressionError {
    text: String,
}

impl FromStr for LayerCompression {
    type Err = LayerCompressionError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let fault = || LayerCompressionError { text: text.to_owned() };
        let Some((name, level)) = text.split_once(':') else {
            return match text {
                "keep" => Ok(Self::Keep),
                "none" => Ok(Self::Like(Encoding::None)),
                "gzip" => Ok(Self::Like(GZIP)),
                "zstd" => Ok(Self::Like(ZSTD)),
                _ => Err(fault()),
            };
        };
        let level: u8 = level.parse().map_err(|_| fault())?;
        match (name, level) {
            ("gzip", 0..=9) => Ok(Self::Anew(Encoding::Gzip { level })),
            ("zstd", 1..=22) => Ok(Self::Anew(Encoding::Zstd { level: i32::from(level) })),
            _ => Err(fault()),
        }
    }
}

/// Layers that the receiver has. They are left out of what is saved, and what loads it takes them from where it is loaded
/// to.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
#[non_exhaustive]
pub struct Known {
    /// Digests of blobs. A layer of this digest stays as it is, however others are compressed.
    pub blobs: BTreeSet<Digest>,
    /// Diff ids. They are enough for what docker-archives are loaded into, whose layers have no other name there; what an
    /// OCI manifest lists has to be found by the digest of its blob.
    pub diff_ids: BTreeSet<DiffId>,
}

impl Known {
    /// Adds all of `other`.
    pub fn add(&mut self, other: Self) {
        self.blobs.extend(other.blobs);
        self.diff_ids.extend(other.diff_ids);
    }

    /// Adds every digest that a text names (`sha256:…`), as that of a blob and as diff id. Whatever else the text says
    /// counts for nothing, so a list, the output of `plywood inspect` or a manifest will do. Returns how many there were.
    pub fn add_text(&mut self, text: &str) -> usize {
        let words = text.split(|c: char| !c.is_ascii_alphanumeric() && c != ':');
        let digests = words.filter_map(|word| word.parse::<Digest>().ok());
        let mut count = 0;
        for digest in digests {
            count += 1;
            self.blobs.insert(digest);
            self.diff_ids.insert(DiffId::of_tar(digest));
        }
        count
    }

    pub(in crate::archive) fn has(&self, layer: &Descriptor, diff_id: &DiffId) -> bool {
        self.blobs.contains(&layer.digest) || self.diff_ids.contains(diff_id)
    }
}

/// Returns the length of a layer as a tar, if it is known.
type TarBytes<'a> = &'a (dyn Fn(&DiffId) -> Option<u64> + Sync);

/// How images are saved.
#[derive(Clone, Default)]
#[non_exhaustive]
pub struct SaveOptions<'a> {
    /// How large documents may be, and how deep they may nest.
    pub limits: Limits,
    /// Of an index, save only the image for this platform. Default: all that are there. Where only one can be listed, as
    /// in `manifest.json`, that is the one for this machine, else the first.
    pub platform: Option<Platform>,
    /// How layers are compressed.
    pub compression: LayerCompression,
    /// What the receiver has.
    pub known: Known,
    /// How many layers are compressed at a time.
    pub parallelism: Parallelism,
    /// Where layers that are compressed anew are until they are written. [`Store`](crate::Store) takes its own.
    pub workspace: Option<&'a Workspace>,
    /// Whether a layout on disk has to be there for good when saving returns. An archive is the caller's to sync.
    pub durability: Durability,
    /// Called now and then with the bytes of blobs that were written, and those that there are altogether; before that,
    /// where layers are compressed anew, with the bytes of those.
    pub progress: Option<&'a (dyn Fn(u64, u64) + Sync)>,
    /// Set by another thread to give up.
    pub cancel: Option<&'a AtomicBool>,
    /// Returns the length of a layer as a tar, if it is known. Such a layer is decompressed while it is written, and needs
    /// no room in the workspace.
    pub(crate) tar_bytes: Option<TarBytes<'a>>,
}

impl fmt::Debug for SaveOptions<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SaveOptions")
            .field("limits", &self.limits)
            .field("platform", &self.platform)
            .field("compression", &self.compression)
            .field("known", &self.known)
            .field("parallelism", &self.parallelism)
            .field("durability", &self.durability)
            .finish_non_exhaustive()
    }
}

impl SaveOptions<'_> {
    pub(in crate::archive) fn is_cancelled(&self) -> bool {
        self.cancel.is_some_and(|cancel| cancel.load(Ordering::Relaxed))
    }

    pub(in crate::archive) fn report(&self, done: u64, total: u64) {
        if let Some(progress) = self.progress {
            progress(done, total);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_compression_is_a_name_and_perhaps_a_level_that_exists() {
        let parse = |text: &str| text.parse::<LayerCompression>();
        assert_eq!(parse("keep"), Ok(LayerCompression::Keep));
        assert_eq!(parse("none"), Ok(LayerCompression::Like(Encoding::None)));
        assert_eq!(parse("gzip"), Ok(LayerCompression::Like(GZIP)));
        assert_eq!(parse("gzip:0"), Ok(LayerCompression::Anew(Encoding::Gzip { level: 0 })));
        assert_eq!(parse("zstd:22"), Ok(LayerCompression::Anew(Encoding::Zstd { level: 22 })));
        for text in ["", "xz", "gzip:", "gzip:10", "zstd:0", "zstd:23", "none:1", "gzip:-1", "Gzip", "keep:1"]
        {
            assert!(parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn every_digest_in_a_text_is_known_and_nothing_else() {
        let (one, two) = (Digest::of("one"), Digest::of("two"));
        let mut known = Known::default();
        let text = format!("# layers\n{one} 12 MB\n[\"{two}\"]\nsha256:abc md5:{}\n", "0".repeat(32));
        assert_eq!(known.add_text(&text), 2);
        assert_eq!(known.blobs, [one, two].into());
        assert_eq!(known.diff_ids, [one, two].map(DiffId::of_tar).into());
        assert_eq!(known.add_text("nothing"), 0);
    }
}
