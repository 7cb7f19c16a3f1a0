//! [`Limits`]: how much a stranger's archive may ask of us.
//!
//! Every number is far above what real images hold and far below what would hurt the host. Of what the caller itself puts
//! in, only the number of names is limited ([`Limits::images`], [`Limits::list_bytes`]): a list of names that is written must
//! be readable.

use crate::path::LONGEST_PATH;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// Bytes of the `index.json` of a store that are read. Far more than [`Limits::list_bytes`], so that a longer one of an
/// older version is read, and names can be taken away.
pub(crate) const OWN_LIST_BYTES: u64 = 1 << 30;

/// Bounds on what one archive, layer or document may claim. Whatever goes beyond is refused with an error that names
/// the limit.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct Limits {
    /// Entries of one layer. Default 5 million: the largest layers in the field have about one million, and each
    /// costs an inode and, for directories, about 200 bytes of memory.
    pub entries: u64,
    /// Bytes of one entry's path. Default 4095: `PATH_MAX` without the NUL, beyond which no system call takes a path.
    pub path_bytes: usize,
    /// Slashes in one entry's path, as the archive spells it. Default 2,050, which a path of 4,095 bytes does not exceed.
    /// Every level is a directory, which a path of few bytes makes without an entry of its own; `layer_memory` bounds how
    /// many of them one layer has.
    pub path_depth: usize,
    /// Bytes of one symbolic or hard link's target. Default 4096 (`PATH_MAX`): no kernel stores a longer symlink.
    pub link_bytes: usize,
    /// Bytes of one entry's extended headers (PAX records, GNU long names and sparse maps together). Default 1 MiB, as
    /// containerd and Go's `archive/tar`; they are held in memory.
    pub header_bytes: u64,
    /// Bytes of all extended attributes of one entry, names included. Default 256 KiB: the kernel takes at most
    /// 64 KiB per value and per list of names.
    pub xattr_bytes: usize,
    /// Bytes of one file's apparent size, holes included. Default 8 TiB.
    pub file_bytes: u64,
    /// Bytes of data, holes of sparse files not counted, that the files of one layer may have. Default 1 TiB.
    pub layer_bytes: u64,
    /// Bytes of memory for what has to be known of one layer until its end, by estimate: directories, deletions, and
    /// links whose target has not come yet. Default 96 MiB, for about 250,000 of them; ten times what large layers in
    /// the field have.
    pub layer_memory: u64,
    /// How many times larger than the compressed blob the tar may be, once it is longer than `expansion_free`. Default
    /// 200: of real content nothing comes near, but deflate makes a thousandth of what always repeats, and zstd far
    /// less. Zeros that become holes are not counted here but in `expansion_zeros`.
    pub expansion: u64,
    /// Bytes that a blob may unpack to however short it is. Default 2 GiB.
    pub expansion_free: u64,
    /// Bytes of zeros that the tars of an image's layers may hold together, in runs so long that they become holes on disk.
    /// Those of a layer whose tar is no longer than `expansion` allows are not counted. Default 16 GiB: databases and disk images are filled with zeros for good reasons, every tool packs
    /// them so, and here they take no space; but reading and hashing them takes about a second for each GiB.
    pub expansion_zeros: u64,
    /// Parts of one compressed blob (bzip2 and xz streams, xz blocks, gzip members, Zstandard frames) that hold nothing, or
    /// next to nothing. Default 10,000: each costs up to 100 µs however short it is, so this is about a second. Parts that
    /// hold what they cost are not counted; writers end a blob with one or two that are empty.
    pub empty_parts: u64,
    /// Bytes of one compressed blob that may unpack to nothing, such as skippable frames; counted is what goes beyond twice
    /// the content. Default 64 MiB: the indexes in layers of the form zstd:chunked have a few.
    pub idle_bytes: u64,
    /// Bytes of one JSON document (index, manifest, config). Default 20 MiB, as containerd; they are held in memory.
    pub json_bytes: u64,
    /// Bytes of one list of images: the `index.json`, `manifest.json` or `repositories` of an archive or a layout, and the
    /// `index.json` of a store. Default 56 MiB: 896 bytes for each of the entries that [`Limits::images`] allows, which hold
    /// a descriptor and a name in two forms. Its memory is limited by `documents_memory`. Readers and writers apply the same limits, so
    /// an archive, layout or store that was written can be read.
    pub list_bytes: u64,
    /// Bytes of memory that one JSON document may take once it is read, by estimate. Default 64 MiB: a document that
    /// consists of braces takes a hundred times its length, real ones four times.
    pub json_memory: u64,
    /// Bytes of memory that all JSON documents of one archive may take, by the same estimate; what is listed twice
    /// counts twice. Default 256 MiB: thousands of images.
    pub documents_memory: u64,
    /// Bytes of the answer of an authorization server of a registry. Default 64 KiB: tokens have a few KiB; it is held in
    /// memory.
    pub token_bytes: u64,
    /// Depth of nested arrays and objects in a JSON document. Default 64.
    pub json_depth: usize,
    /// Layers of one image. Default 4096; no engine makes more than a few hundred.
    pub layers: usize,
    /// Image indexes inside image indexes. Default 8.
    pub index_depth: usize,
    /// Images in one archive, and entries of one list of images: each name is an entry, and so is each image without a
    /// name. Default 65,536: registries with more exist, machines that hold so many do not. A store refuses a name beyond
    /// this number or beyond `list_bytes`; lower values than the defaults do not apply to the list of a store itself.
    pub images: usize,
    /// Members of one image archive. Default 1 million.
    pub archive_members: u64,
    /// How many zeros were unpacked, where several blobs share the limit.
    pub(crate) zeros: SharedZeros,
}

/// How many zeros several streams hold together; nothing where each is on its own. Two limits are equal whatever was
/// counted under them.
#[derive(Clone, Debug, Default)]
pub(crate) struct SharedZeros(Option<Arc<AtomicU64>>);

impl SharedZeros {
    /// Counts more, and returns how many there are.
    pub(crate) fn add(&self, count: u64) -> u64 {
        self.0.as_ref().map_or(0, |all| all.fetch_add(count, Ordering::Relaxed).saturating_add(count))
    }
}

impl PartialEq for SharedZeros {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

impl Eq for SharedZeros {}

impl Limits {
    /// Returns the same limits, with one number of zeros for all blobs that are unpacked under them and their clones.
    #[must_use]
    pub(crate) fn for_one_image(&self) -> Self {
        Self { zeros: SharedZeros(Some(Arc::default())), ..self.clone() }
    }

    /// Counts zeros that were unpacked under other limits. Returns whether all of them together are still allowed.
    pub(crate) fn count_zeros(&self, zeros: u64) -> bool {
        self.zeros.add(zeros) <= self.expansion_zeros
    }
}

impl Limits {
    /// Returns the limits under which a list of images is read, and checked before it is written.
    #[must_use]
    pub(crate) fn for_lists(&self) -> Self {
        let json_memory = self.json_memory.max(self.documents_memory);
        Self { json_bytes: self.list_bytes, json_memory, ..self.clone() }
    }

    /// Returns the limits under which a store reads its own list: older versions wrote lists of any length.
    #[must_use]
    pub(crate) fn for_own_list(&self) -> Self {
        Self { json_bytes: OWN_LIST_BYTES, json_memory: u64::MAX, images: usize::MAX, ..self.clone() }
    }

    /// Returns the entries and the bytes that a store's own list may have when a name is added.
    pub(crate) fn of_own_list(&self) -> (u64, u64) {
        let default = Self::default();
        (self.images.max(default.images) as u64, self.list_bytes.max(default.list_bytes))
    }
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            entries: 5_000_000,
            path_bytes: LONGEST_PATH,
            path_depth: 2050,
            link_bytes: 4096,
            header_bytes: 1 << 20,
            xattr_bytes: 256 << 10,
            file_bytes: 8 << 40,
            layer_bytes: 1 << 40,
            layer_memory: 96 << 20,
            expansion: 200,
            expansion_free: 2 << 30,
            expansion_zeros: 16 << 30,
            empty_parts: 10_000,
            idle_bytes: 64 << 20,
            json_bytes: 20 << 20,
            list_bytes: 56 << 20,
            json_memory: 64 << 20,
            documents_memory: 256 << 20,
            token_bytes: 64 << 10,
            json_depth: 64,
            layers: 4096,
            index_depth: 8,
            images: 65_536,
            archive_members: 1_000_000,
            zeros: SharedZeros::default(),
        }
    }
}
