//! The files that COPY and ADD mean: found in a directory, and written as a tar that becomes the container's.

use std::fs::File;
use std::io::{Seek, Write};

use plywood::changeset::{EntryKind, Reader, Writer};
use plywood::container::{CopyOutOptions, copy_out, resolve};
use plywood::fs::Dir;
use plywood::path::LayerPath;
use plywood::{Algorithm, Digest, HashingReader, HashingWriter, Limits, Mounted};

use super::Result;

/// Where files come from.
pub(crate) enum Source<'a> {
    /// The directory that is built from, and what in it is not there for a build.
    Context(&'a Dir, &'a Ignored),
    /// The root of another image.
    Root(&'a Mounted),
}

/// What becomes of the files on the way.
#[derive(Clone, Copy, Default)]
pub(crate) struct Become {
    pub(crate) owner: (u32, u32),
    pub(crate) mode: Option<u32>,
}

/// A tar of one source: a directory's content, or one file.
pub(crate) struct Collected {
    pub(crate) tar: File,
    /// Of names, modes and content, and not of times.
    pub(crate) digest: Digest,
}

impl Source<'_> {
    /// Whether `path` is a directory here.
    pub(crate) fn is_directory(&self, path: &str) -> Result<bool> {
        let found = match self {
            Self::Context(dir, _) => resolve(dir, path, true)?,
            Self::Root(mounted) => mounted.resolve(path, true)?,
        };
        let ignored = matches!(self, Self::Context(_, ignored) if ignored.has(path));
        match found.kind {
            Some(_) if ignored => Err(format!("{path:?} is in .dockerignore").into()),
            Some(_) => Ok(found.is_directory()),
            None => Err(format!("there is no {path:?}").into()),
        }
    }

    /// Packs what is at `path`: a file as `name`, a directory's content as that of the root.
    pub(crate) fn collect(&self, path: &str, name: &str, become_: Become) -> Result<Collected> {
        let is_directory = self.is_directory(path)?;
        let options = CopyOutOptions::default().follow();
        let options = options.name(LayerPath::parse(if is_directory { "." } else { name })?);
        let mut raw = tempfile::tempfile()?;
        match self {
            Self::Context(dir, _) => copy_out(&resolve(dir, path, true)?, path.as_ref(), &mut raw, &options)?,
            Self::Root(mounted) => mounted.copy_out(path, &mut raw, &options)?,
        }
        raw.rewind()?;
        self.rewrite(&raw, path, is_directory, become_)
    }

    /// Gives every entry its owner and mode, and leaves out what is ignored.
    fn rewrite(&self, raw: &File, path: &str, is_directory: bool, become_: Become) -> Result<Collected> {
        let mut reader = Reader::new(raw, &Limits::default()).allow_reserved_names();
        let mut writer = Writer::new(tempfile::tempfile()?).allow_reserved_names();
        let mut hash = HashingWriter::new(Algorithm::Sha256, std::io::sink());
        while let Some(mut entry) = reader.next_entry()? {
            if let Self::Context(_, ignored) = self {
                let inside = entry.path.as_path().to_string_lossy();
                let whole = if is_directory { format!("{path}/{inside}") } else { path.to_owned() };
                if ignored.has(&whole) {
                    continue;
                }
                // Files of another image keep their owners.
                (entry.metadata.uid, entry.metadata.gid) = become_.owner;
            }
            if become_.owner != (0, 0) {
                (entry.metadata.uid, entry.metadata.gid) = become_.owner;
            }
            if let (Some(mode), false) = (become_.mode, matches!(entry.kind, EntryKind::Symlink(_))) {
                entry.metadata.mode = mode;
            }
            // The name of a single file is where it goes, which the instruction says.
            let name = if is_directory { entry.path.clone() } else { LayerPath::parse("file")? };
            writeln!(
                hash,
                "{name:?} {:?} {:o} {:?}",
                entry.kind, entry.metadata.mode, entry.metadata.xattrs
            )?;
            match entry.kind {
                EntryKind::File { .. } => {
                    let mut content = HashingReader::new(Algorithm::Sha256, reader.body());
                    writer.file(&entry, &mut content)?;
                    writeln!(hash, "{}", content.finish().1)?;
                }
                _ => writer.entry(&entry)?,
            }
        }
        let mut tar = writer.finish()?;
        tar.rewind()?;
        let (_, digest, _) = hash.finish();
        Ok(Collected { tar, digest })
    }
}

/// `.dockerignore`: patterns, of which the last that fits counts; `!` brings back.
#[derive(Debug, Default)]
pub(crate) struct Ignored {
    patterns: Vec<(bool, String)>,
}

impl Ignored {
    pub(crate) fn parse(text: &str) -> Self {
        let lines = text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
        let pattern = |line: &str| {
            let (ignored, pattern) = line.strip_prefix('!').map_or((true, line), |kept| (false, kept));
            (ignored, clean(pattern))
        };
        Self { patterns: lines.map(pattern).collect() }
    }

    /// Whether what is at `path` is not there for a build, itself or by a directory that it is in.
    pub(crate) fn has(&self, path: &str) -> bool {
        let path = clean(path);
        let mut ignored = false;
        for (ignores, pattern) in &self.patterns {
            let mut ends = path.match_indices('/').map(|(end, _)| end).chain([path.len()]);
            if ends.any(|end| fits(pattern, &path[..end])) {
                ignored = *ignores;
            }
        }
        ignored
    }
}

/// A path without slashes around it and without `.` in it.
pub(crate) fn clean(path: &str) -> String {
    path.split('/').filter(|part| !matches!(*part, "" | ".")).collect::<Vec<_>>().join("/")
}

/// Whether `path` fits `pattern`, in which `*` and `?` stand for anything but a slash, and `**` for anything.
pub(crate) fn fits(pattern: &str, path: &str) -> bool {
    let Some(first) = pattern.chars().next() else { return path.is_empty() };
    if let Some(rest) = pattern.strip_prefix("**") {
        let rest = rest.strip_prefix('/').unwrap_or(rest);
        return (0..=path.len()).any(|at| path.is_char_boundary(at) && fits(rest, &path[at..]));
    }
    if let Some(rest) = pattern.strip_prefix('*') {
        let end = path.find('/').unwrap_or(path.len());
        return (0..=end).any(|at| path.is_char_boundary(at) && fits(rest, &path[at..]));
    }
    let Some(c) = path.chars().next() else { return false };
    let is_same = if first == '?' { c != '/' } else { c == first };
    is_same && fits(&pattern[first.len_utf8()..], &path[c.len_utf8()..])
}
