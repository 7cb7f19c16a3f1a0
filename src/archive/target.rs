//! [`Target`]: an OCI layout on disk that images are added to.

use std::collections::BTreeSet;
use std::io::{Read, Write};

use super::save::SaveOptions;
use super::{SaveError, listing, oci};
use crate::blob::Blobs;
use crate::digest::Digest;
use crate::fs::{Context, Dir, Durability, Optional, Staging, Workspace};
use crate::image::{Descriptor, Index, OCI_REF_NAME, Reference};
use crate::limits::Limits;

/// A layout that is written to. Work in progress is in a directory with a random name beside `blobs`.
pub(super) struct Target<'a> {
    dir: &'a Dir,
    blobs: Blobs,
    workspace: Workspace,
    index: Index,
    durability: Durability,
    limits: Limits,
}

impl<'a> Target<'a> {
    /// Opens the layout in `dir`, or makes one there if it is empty, or has nothing but what a save that was cut short
    /// left.
    pub(super) fn open(dir: &'a Dir, options: &SaveOptions<'_>) -> Result<Self, SaveError> {
        let durability = options.durability;
        let names = dir.names()?;
        let is_layout = names.iter().any(|name| name.name == oci::LAYOUT.as_bytes());
        if !is_layout && !names.iter().all(|name| is_begun(&name.name)) {
            return Err(SaveError::NotALayout { path: dir.path_of("") });
        }
        let (blobs, workspace, index) = if is_layout {
            let blobs = Blobs::open(dir.try_clone()?)?;
            let index = read_index(dir, options)?;
            (blobs, Staging::new(dir.try_clone()?).workspace()?, index)
        } else {
            let workspace = Staging::new(dir.try_clone()?).workspace()?;
            (Blobs::create(dir.try_clone()?, &workspace, durability)?, workspace, Index::default())
        };
        Ok(Self { dir, blobs, workspace, index, durability, limits: options.limits.clone() })
    }

    /// Whether there is no need to add a blob. Whoever did may not have waited for the disk.
    pub(super) fn has(&self, digest: &Digest, size: u64) -> Result<bool, SaveError> {
        let is_there = self.blobs.holds(digest, size)?;
        if is_there && self.durability == Durability::Full {
            self.blobs.open_blob(digest)?.sync_all().at_path("sync", || self.blobs.path(digest))?;
        }
        Ok(is_there)
    }

    /// Adds a blob. `copy` hands out its bytes and makes sure that they are it.
    pub(super) fn add(
        &self,
        digest: &Digest,
        copy: impl FnOnce(&mut dyn FnMut(&[u8]) -> Result<(), SaveError>) -> Result<(), SaveError>,
    ) -> Result<(), SaveError> {
        let mut writer = self.blobs.writer(&self.workspace, digest.algorithm())?;
        copy(&mut |bytes| Ok(writer.write_all(bytes).at_path("write", || writer.path())?))?;
        self.blobs.publish(writer.finish()?, self.durability)?;
        Ok(())
    }

    /// Lists `entries` in the layout and closes it.
    pub(super) fn list(self, entries: Vec<Descriptor>) -> Result<(), SaveError> {
        let Self { dir, blobs, workspace, mut index, durability, limits } = self;
        if durability == Durability::Full {
            blobs.sync()?;
        }
        let replaced = Replaced::by(&entries);
        index.manifests.retain(|old| !replaced.has(old));
        index.manifests.extend(entries);
        let json = index.to_json();
        listing::check(&[(oci::INDEX, &json)], &limits)?;
        workspace.replace(&json, dir, oci::INDEX, durability)?;
        Ok(workspace.close()?)
    }
}

/// Whether a layout in the making has something of this name: `blobs`, or work in progress.
fn is_begun(name: &[u8]) -> bool {
    name == b"blobs" || (name.len() == 32 && name.iter().all(u8::is_ascii_hexdigit))
}

/// The entries of a layout that others take the place of: those that have a name of one of them, and those without a name
/// that are one of them.
struct Replaced<'e> {
    digests: BTreeSet<Digest>,
    texts: BTreeSet<&'e String>,
    names: BTreeSet<Reference>,
}

impl<'e> Replaced<'e> {
    fn by(entries: &'e [Descriptor]) -> Self {
        Self {
            digests: entries.iter().map(|entry| entry.digest).collect(),
            texts: entries.iter().filter_map(text).collect(),
            names: entries.iter().filter_map(name).collect(),
        }
    }

    fn has(&self, old: &Descriptor) -> bool {
        match (text(old), name(old)) {
            (None, None) => self.digests.contains(&old.digest),
            // Who looks for a text would find both.
            (text, name) => {
                text.is_some_and(|text| self.texts.contains(text))
                    || name.is_some_and(|name| self.names.contains(&name))
            }
        }
    }
}

fn text(entry: &Descriptor) -> Option<&String> {
    entry.annotations.get(OCI_REF_NAME)
}

fn name(entry: &Descriptor) -> Option<Reference> {
    Reference::from_annotations(&entry.annotations, None)
}

fn read_index(dir: &Dir, options: &SaveOptions<'_>) -> Result<Index, SaveError> {
    let Some(file) = dir.open_file(oci::INDEX).optional()? else { return Ok(Index::default()) };
    let path = dir.path_of(oci::INDEX);
    let mut bytes = Vec::new();
    // One byte more than is allowed, for the parser to say so.
    let limits = options.limits.for_lists();
    let limit = limits.json_bytes.saturating_add(1);
    file.take(limit).read_to_end(&mut bytes).at("read", &path)?;
    Index::parse(&bytes, &limits).map_err(|source| SaveError::Index { path, source })
}
