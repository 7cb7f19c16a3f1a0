//! [`Members`]: everything an archive has, read in one pass.
//!
//! Large files are in the workspace, small ones in memory, links are texts. Nothing is written to a path that the
//! archive names.

use std::collections::BTreeMap;
use std::io::{Read, Write};

use super::LoadError;
use super::arrival::Source;
use super::content::{self, Content, Found, find_in, read_in};
use super::load::{Begins, Destination, LoadOptions};
use super::stream::Plain;
use super::watchers::Watchers;
use crate::blob::ParkedBlob;
use crate::changeset::{Member, MemberKind, Reader};
use crate::codec::{Compression, Decoder, SNIFFED, sniff};
use crate::digest::{Algorithm, DiffId, Digest, Hasher, HashingReader};
use crate::fs::Context;
use crate::image::{Descriptor, ImageError};
use crate::limits::Limits;
use crate::path::LayerPath;
use crate::zeros::zeros;

/// The documents that say what the other members are.
const DOCUMENTS: [&str; 4] =
    [super::oci::LAYOUT, super::oci::INDEX, super::docker::MANIFEST, super::docker::REPOSITORIES];
/// Files up to this size are kept in memory: an archive has many of a few bytes.
const SMALL: u64 = 64 << 10;
/// How much is kept in memory altogether, but for [`DOCUMENTS`]; what is beyond goes to the workspace.
const MEMORY: u64 = 32 << 20;
/// How much memory names and links may take altogether.
const NAMES: usize = 64 << 20;
/// What a member takes beside its name, in maps that are about half full.
const MEMBER: usize = 300;
/// How many links may follow each other, as in the kernel.
const HOPS: usize = 40;

/// What an archive has.
pub(super) struct Members<'w> {
    into: Destination<'w>,
    named: BTreeMap<LayerPath, Named>,
    held: BTreeMap<Digest, Held<'w>>,
    documents: BTreeMap<&'static str, Vec<u8>>,
    /// Those that somebody reads while they come, by number.
    begun: BTreeMap<Digest, usize>,
    /// Bytes in memory.
    memory: u64,
    /// Bytes that names and links take.
    names: usize,
}

enum Named {
    File(Digest),
    /// A text, and the directory that it starts from.
    Link {
        from: LayerPath,
        target: Vec<u8>,
    },
}

/// Where the bytes of a member are.
enum Held<'w> {
    Memory(Vec<u8>),
    Workspace {
        blob: Option<ParkedBlob<'w>>,
        found: Found,
    },
    /// There was no need to keep them.
    Store,
}

impl<'w> Members<'w> {
    /// Reads an archive to its end.
    pub(super) fn read<R: Read>(
        plain: Plain<R>,
        into: &Destination<'w>,
        options: &LoadOptions<'_>,
        begins: Begins<'_>,
    ) -> Result<Self, LoadError> {
        let mut members = Self {
            into: *into,
            named: BTreeMap::new(),
            held: BTreeMap::new(),
            documents: BTreeMap::new(),
            begun: BTreeMap::new(),
            memory: 0,
            names: 0,
        };
        let mut limits = options.limits.clone();
        limits.entries = limits.archive_members;
        limits.layer_bytes = u64::MAX; // an archive has many layers
        let mut tar = Reader::new(plain, &limits);
        while let Some(member) = tar.next_member().map_err(LoadError::of_tar)? {
            members.take(member, &mut tar, &limits, begins)?;
        }
        Ok(members)
    }

    fn take<R: Read>(
        &mut self,
        member: Member,
        tar: &mut Reader<R>,
        limits: &Limits,
        begins: Begins<'_>,
    ) -> Result<(), LoadError> {
        let Member { path, kind } = member;
        let named = match kind {
            MemberKind::Other => return Ok(()),
            MemberKind::File { size, stored } => {
                // What is all holes would cost a stranger nothing and us a disk.
                if size > limits.expansion.saturating_mul(stored).max(1 << 20) {
                    let (limit, maximum) = ("expansion", limits.expansion);
                    return Err(LoadError::Limit { member: name(&path), limit, maximum });
                }
                if let Some(document) = DOCUMENTS.into_iter().find(|name| path.as_bytes() == name.as_bytes())
                {
                    return self.take_document(document, size, tar, limits);
                }
                Named::File(self.file(&path, size, tar, begins)?)
            }
            MemberKind::Symlink(target) => Named::Link { from: path.parent().unwrap_or_default(), target },
            MemberKind::HardLink(target) => Named::Link { from: LayerPath::ROOT, target },
        };
        self.names += path.as_bytes().len() + MEMBER;
        if let Named::Link { target, .. } = &named {
            self.names += target.len();
        }
        if self.names > NAMES {
            let (limit, maximum) = ("memory for all names", NAMES as u64);
            return Err(LoadError::Limit { member: name(&path), limit, maximum });
        }
        self.named.insert(path, named); // as in any tar, the last of a name counts
        Ok(())
    }

    fn take_document<R: Read>(
        &mut self,
        document: &'static str,
        size: u64,
        tar: &mut Reader<R>,
        limits: &Limits,
    ) -> Result<(), LoadError> {
        if size > limits.list_bytes {
            let source = ImageError::TooLarge { document, bytes: size, limit: limits.list_bytes };
            return Err(LoadError::image(document, source));
        }
        let mut bytes = Vec::new();
        copy(tar, size, |part| {
            bytes.extend_from_slice(part);
            Ok(())
        })?;
        match self.documents.insert(document, bytes) {
            None => Ok(()),
            Some(_) => Err(LoadError::DuplicateManifest { member: document.to_owned() }),
        }
    }

    /// Takes in a file and returns its digest.
    fn file<R: Read>(
        &mut self,
        path: &LayerPath,
        size: u64,
        tar: &mut Reader<R>,
        begins: Begins<'_>,
    ) -> Result<Digest, LoadError> {
        let claimed = content::digest_of_path(path.as_bytes());
        let likely = claimed.or_else(|| content::digest_in_name(path.as_bytes()));
        let algorithm = claimed.map_or(Algorithm::Sha256, |digest| digest.algorithm());

        if size <= SMALL && self.memory + size <= MEMORY {
            let mut bytes = Vec::new();
            copy(tar, size, |part| {
                bytes.extend_from_slice(part);
                Ok(())
            })?;
            let digest = Digest::of_with(algorithm, &bytes);
            check_claim(path, claimed, digest)?;
            self.memory += size;
            self.held.entry(digest).or_insert(Held::Memory(bytes));
            return Ok(digest);
        }

        // What the store has already is read and checked, but not written again.
        if let Some(likely) = likely {
            (self.into.pin)(&[likely])?;
            if self.into.blobs.holds(&likely, size)? {
                let mut hasher = Hasher::new(algorithm);
                copy(tar, size, |part| {
                    hasher.update(part);
                    Ok(())
                })?;
                check_claim(path, Some(likely), hasher.finish())?;
                self.held.entry(likely).or_insert(Held::Store);
                return Ok(likely);
            }
        }

        let mut writer = self.into.blobs.writer(self.into.workspace, algorithm)?;
        let mut watchers = Watchers::new(size, likely, begins);
        let mut start = Vec::new();
        copy(tar, size, |part| {
            let missing = SNIFFED.saturating_sub(start.len()).min(part.len());
            start.extend_from_slice(&part[..missing]);
            writer.write_all(part).at_path("write", || writer.path())?;
            Ok(watchers.tell(part, writer.file()).at_path("open", || writer.path())?)
        })?;
        let staged = writer.finish()?;
        let digest = staged.digest();
        check_claim(path, claimed, digest)?;
        self.begun.extend(watchers.end().map(|number| (digest, number)));
        let found = Found { size, compression: Some(sniff(&start)) };
        self.held.entry(digest).or_insert(Held::Workspace { blob: Some(staged.park()), found });
        Ok(digest)
    }

    /// The numbers of those that somebody has read while they came.
    pub(super) fn take_begun(&mut self) -> BTreeMap<Digest, usize> {
        std::mem::take(&mut self.begun)
    }

    /// One of the documents, if the archive has it.
    pub(super) fn document(&self, name: &str) -> Option<&[u8]> {
        self.documents.get(name).map(Vec::as_slice)
    }

    /// Adds a document that the archive should have had, and returns its digest.
    pub(super) fn add(&mut self, bytes: Vec<u8>) -> Digest {
        let digest = Digest::of(&bytes);
        self.held.insert(digest, Held::Memory(bytes));
        digest
    }

    /// The content of the member `path`, if there is one. Too long ones are refused.
    pub(super) fn read_named(&mut self, path: &str, limits: &Limits) -> Result<Option<Vec<u8>>, LoadError> {
        match self.resolve(path)? {
            Some(digest) => self.read_digest(&digest, limits.json_bytes),
            None => Ok(None),
        }
    }

    /// The digest of the tar that the member `path` is, decompressed.
    pub(super) fn diff_id(&mut self, path: &str, limits: &Limits) -> Result<Option<DiffId>, LoadError> {
        let Some(digest) = self.resolve(path)? else { return Ok(None) };
        match self.find_digest(&digest)? {
            None => return Ok(None),
            Some(found) if found.compression == Some(Compression::None) => {
                return Ok(Some(DiffId::of_tar(digest)));
            }
            Some(_) => {}
        }
        let mut tar = HashingReader::new(Algorithm::Sha256, self.decoder(&digest, limits)?);
        std::io::copy(&mut tar, &mut std::io::sink()).map_err(LoadError::of_stream)?;
        Ok(Some(DiffId::of_tar(tar.finish().1)))
    }

    /// Adds what `digest` is decompressed, and returns its digest and size.
    pub(super) fn add_decompressed(
        &mut self,
        digest: &Digest,
        limits: &Limits,
    ) -> Result<(Digest, u64), LoadError> {
        let mut writer = self.into.blobs.writer(self.into.workspace, Algorithm::Sha256)?;
        let mut decoder = self.decoder(digest, limits)?;
        let mut buffer = vec![0; 128 << 10];
        loop {
            match decoder.read(&mut buffer) {
                Ok(0) => break,
                Ok(count) => writer.write_all(&buffer[..count]).at_path("write", || writer.path())?,
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                Err(error) => return Err(LoadError::of_stream(error)),
            }
        }
        drop(decoder);
        let staged = writer.finish()?;
        let (digest, size) = (staged.digest(), staged.size());
        let found = Found { size, compression: Some(Compression::None) };
        self.held.entry(digest).or_insert(Held::Workspace { blob: Some(staged.park()), found });
        Ok((digest, size))
    }

    fn decoder(&self, digest: &Digest, limits: &Limits) -> Result<Decoder<Box<dyn Read + '_>>, LoadError> {
        let reader: Box<dyn Read + '_> = match self.held.get(digest) {
            Some(Held::Memory(bytes)) => Box::new(&bytes[..]),
            Some(Held::Workspace { blob: Some(blob), .. }) => Box::new(blob.open()?),
            _ => Box::new(self.into.blobs.open_blob(digest)?),
        };
        Decoder::new(reader, limits).map_err(LoadError::of_stream)
    }

    /// What the store has under `digest`, or is lent.
    pub(super) fn find_in_store(&self, digest: &Digest) -> Result<Option<Found>, LoadError> {
        (self.into.pin)(&[*digest])?;
        self.into.find(digest)
    }

    /// Says what the archive is if it is no image archive.
    pub(super) fn describe(&self) -> String {
        let count = self.named.len() + self.documents.len();
        match self.named.keys().next() {
            None if count == 0 => "a tar without members".to_owned(),
            None => "a tar of a few documents without index.json and manifest.json".to_owned(),
            Some(first) => format!(
                "a tar with neither index.json nor manifest.json ({count} members, such as {}); \
                 a root file system can be imported",
                name(first)
            ),
        }
    }

    /// What there is under `digest`.
    pub(super) fn find_digest(&self, digest: &Digest) -> Result<Option<Found>, LoadError> {
        match self.held.get(digest) {
            None => Ok(None),
            Some(Held::Memory(bytes)) => {
                Ok(Some(Found { size: bytes.len() as u64, compression: Some(sniff(bytes)) }))
            }
            Some(Held::Workspace { found, .. }) => Ok(Some(*found)),
            Some(Held::Store) => find_in(self.into.blobs, digest),
        }
    }

    /// The bytes of a document. Too long ones are cut behind `limit`, and the caller finds out.
    pub(super) fn read_digest(&self, digest: &Digest, limit: u64) -> Result<Option<Vec<u8>>, LoadError> {
        match self.held.get(digest) {
            None | Some(Held::Workspace { blob: None, .. }) => Ok(None),
            Some(Held::Memory(bytes)) => Ok(Some(bytes.clone())),
            Some(Held::Workspace { blob: Some(blob), .. }) => Ok(Some(blob.read(limit)?)),
            Some(Held::Store) => read_in(self.into.blobs, digest, limit),
        }
    }

    /// The digest of the file that `path` names, through links; `None` if there is no such member.
    ///
    /// # Errors
    ///
    /// [`LoadError::Link`] if a link on the way leaves the archive or leads in a circle.
    pub(super) fn resolve(&self, path: &str) -> Result<Option<Digest>, LoadError> {
        let mut rest: Vec<Vec<u8>> = split(path.as_bytes()).rev().collect();
        let mut at = Vec::<Vec<u8>>::new();
        let mut last = None;
        let mut hops = 0;
        // Without a link on the way there is just no such member.
        let fault = |last: Option<(&LayerPath, &Vec<u8>)>, reason| match last {
            Some((member, target)) => {
                let (member, target) = (name(member), target.escape_ascii().to_string());
                Err(LoadError::Link { member, target, reason })
            }
            None => Ok(None),
        };
        while let Some(component) = rest.pop() {
            match &component[..] {
                b"" | b"." => continue,
                b".." if at.pop().is_none() => return fault(last, "which leaves the archive"),
                b".." => continue,
                _ => at.push(component),
            }
            let Ok(here) = LayerPath::parse(at.join(&b'/')) else { return Ok(None) };
            let Some((here, named)) = self.named.get_key_value(&here) else { continue };
            match named {
                Named::File(digest) if rest.iter().all(|name| name.is_empty() || name == b".") => {
                    return Ok(Some(*digest));
                }
                Named::File(_) => return fault(last, "which is below a file"),
                Named::Link { from, target } => {
                    last = Some((here, target));
                    hops += 1;
                    if hops > HOPS {
                        return fault(last, "which leads in a circle");
                    }
                    // An absolute target is meant from the root of the archive, as if it were unpacked there.
                    at = match target.first() {
                        Some(b'/') => Vec::new(),
                        _ => from.components().map(<[u8]>::to_vec).collect(),
                    };
                    rest.extend(split(target).rev());
                }
            }
        }
        fault(last, "which is not in the archive")
    }
}

fn split(path: &[u8]) -> impl DoubleEndedIterator<Item = Vec<u8>> {
    path.split(|&byte| byte == b'/').map(<[u8]>::to_vec)
}

/// A member's name for messages.
fn name(path: &LayerPath) -> String {
    path.as_bytes().escape_ascii().to_string()
}

fn check_claim(path: &LayerPath, claimed: Option<Digest>, actual: Digest) -> Result<(), LoadError> {
    match claimed {
        Some(expected) if expected != actual => {
            Err(LoadError::DigestMismatch { member: name(path), expected, actual })
        }
        _ => Ok(()),
    }
}

/// Hands out the data of the current member, holes as zeros.
fn copy<R: Read>(
    tar: &mut Reader<R>,
    size: u64,
    mut each: impl FnMut(&[u8]) -> Result<(), LoadError>,
) -> Result<(), LoadError> {
    let mut position = 0;
    loop {
        let data = tar.next_data().map_err(LoadError::of_tar)?;
        let hole_end = data.map_or(size, |data| data.offset);
        for zeros in zeros(hole_end - position) {
            each(zeros)?;
        }
        let Some(data) = data else { return Ok(()) };
        each(data.bytes)?;
        position = data.offset + data.bytes.len() as u64;
    }
}

impl<'w> Content<'w> for Members<'w> {
    fn find(&mut self, at: &Descriptor) -> Result<Option<Found>, LoadError> {
        self.find_digest(&at.digest)
    }

    fn read(&mut self, at: &Descriptor, limit: u64) -> Result<Option<Vec<u8>>, LoadError> {
        self.read_digest(&at.digest, limit)
    }

    fn source(&mut self, digest: &Digest) -> Result<Option<Source<'w>>, LoadError> {
        match self.held.get_mut(digest) {
            Some(Held::Workspace { blob, .. }) => Ok(blob.take().map(Source::Staged)),
            Some(Held::Memory(bytes)) => content::stage(bytes, digest, &self.into).map(Some),
            Some(Held::Store) | None => Ok(None),
        }
    }

    fn name_of(&self, digest: &Digest) -> String {
        let named =
            self.named.iter().find(|(_, named)| matches!(named, Named::File(found) if found == digest));
        named.map_or_else(|| content::blob_path(digest), |(path, _)| name(path))
    }
}
