//! A small image of this machine: its shell and a few programs with their libraries, in two layers, as an OCI archive.
//!
//! Shows the lower half of the crate: a layer is written entry by entry, then the documents that lead to it, then the
//! archive around them. What is written depends on nothing but the files, so packing twice gives equal bytes.

use std::collections::{BTreeMap, BTreeSet};
use std::error::Error;
use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Component, Path, PathBuf};
use std::process::Command;

use plywood::changeset::{ChangesetError, Entry, EntryKind, Writer};
use plywood::codec::{Encoder, Encoding};
use plywood::fs::{Metadata, Timestamp};
use plywood::image::{Config, Descriptor, History, Index, Manifest, MediaType, OCI_REF_NAME, time};
use plywood::path::LayerPath;
use plywood::{Algorithm, CommandLine, ConfigChange, DiffId, HashingWriter, Platform};

type Result<T> = std::result::Result<T, Box<dyn Error>>;

/// What the image is called.
pub(crate) const NAME: &str = "this-machine:1";

/// Programs to take along, as far as they are here. Without the first there is no image.
const PROGRAMS: [&str; 17] = [
    "sh", "cat", "chmod", "cp", "echo", "env", "head", "id", "ln", "ls", "mkdir", "mv", "rm", "sleep",
    "touch", "uname", "wc",
];

/// What was packed.
pub(crate) struct Packed {
    pub(crate) programs: usize,
    pub(crate) entries: usize,
    pub(crate) bytes: u64,
}

/// Packs a root from what this machine has, into the OCI archive `archive`.
pub(crate) fn pack(archive: &Path) -> Result<Packed> {
    let mut system = Tree::default();
    let mut programs = 0;
    for name in PROGRAMS {
        match find(name) {
            Some(program) => {
                system.program(&program)?;
                programs += 1;
            }
            None if name == "sh" => return Err("there is no sh in PATH".into()),
            None => {}
        }
    }
    let mut settings = Tree::default();
    for path in ["/etc/os-release", "/etc/passwd", "/etc/group", "/etc/nsswitch.conf", "/etc/hosts"] {
        if fs::metadata(path).is_ok() {
            settings.file(Path::new(path))?;
        }
    }
    settings.text("etc/motd", "Packed from this machine.\n");
    settings.add("srv", EntryKind::Directory, mode(0o755));
    settings.add("tmp", EntryKind::Directory, mode(0o1777));
    settings.add("root", EntryKind::Directory, mode(0o700));

    let mut config = Config::new(&Platform::host());
    config.apply(&[
        ConfigChange::Env { name: "PATH".into(), value: "/usr/local/bin:/usr/bin:/bin".into() },
        ConfigChange::Cmd(CommandLine::exec(["sh"])),
    ])?;
    let mut blobs = Vec::new();
    let mut layers = Vec::new();
    for (tree, encoding, step) in [
        (&system, Encoding::Zstd { level: 3 }, "programs and libraries"),
        (&settings, Encoding::Gzip { level: 6 }, "settings"),
    ] {
        let (blob, descriptor, diff_id) = tree.to_layer(encoding)?;
        let mut history = History::default();
        history.created = Some(time::format(Timestamp::from_seconds(0))?);
        history.created_by = Some(format!("quickstart: {step}"));
        config.push_layer(diff_id, history);
        layers.push(descriptor);
        blobs.push(blob);
    }
    let config = config.to_json();
    let manifest = Manifest::new(Descriptor::of(MediaType::OCI_CONFIG, &config), layers).to_json();
    let mut named = Descriptor::of(MediaType::OCI_MANIFEST, &manifest);
    named.annotations.insert(OCI_REF_NAME.to_owned(), NAME.to_owned());
    let index = Index::new(vec![named]).to_json();
    blobs.extend([config, manifest]);
    write_archive(archive, &index, &blobs)?;
    Ok(Packed {
        programs,
        entries: system.entries.len() + settings.entries.len(),
        bytes: system.bytes() + settings.bytes(),
    })
}

/// An OCI archive is an OCI layout as a tar.
fn write_archive(path: &Path, index: &[u8], blobs: &[Vec<u8>]) -> Result<()> {
    let mut members = BTreeMap::new();
    members.insert("oci-layout".to_owned(), &br#"{"imageLayoutVersion":"1.0.0"}"#[..]);
    members.insert("index.json".to_owned(), index);
    for blob in blobs {
        members.insert(format!("blobs/sha256/{}", plywood::Digest::of(blob).hex()), blob);
    }
    let mut tar = Writer::new(File::create(path)?);
    for (name, content) in members {
        let kind = EntryKind::File { size: content.len() as u64 };
        tar.file(&Entry::new(LayerPath::parse(name)?, kind, mode(0o644)), content)?;
    }
    tar.finish()?;
    Ok(())
}

fn mode(mode: u32) -> Metadata {
    Metadata { mode, ..Metadata::default() }
}

/// Where a file's bytes are.
enum Content {
    None,
    Text(Vec<u8>),
    File(PathBuf),
}

/// A layer in the making, in the order in which layers are written: parents before what they hold.
#[derive(Default)]
struct Tree {
    entries: BTreeMap<LayerPath, (EntryKind, Metadata, Content)>,
    /// Files that are in it with their libraries.
    done: BTreeSet<PathBuf>,
}

impl Tree {
    fn add(&mut self, path: &str, kind: EntryKind, metadata: Metadata) {
        let path = LayerPath::parse(path).expect("it is written above");
        self.entries.entry(path).or_insert((kind, metadata, Content::None));
    }

    fn text(&mut self, path: &str, text: &str) {
        let entry = (
            EntryKind::File { size: text.len() as u64 },
            mode(0o644),
            Content::Text(text.as_bytes().to_vec()),
        );
        self.entries.insert(LayerPath::parse(path).expect("it is written above"), entry);
    }

    /// Takes along a program and the libraries that it is linked with.
    fn program(&mut self, path: &Path) -> Result<()> {
        let file = self.file(path)?;
        if !self.done.insert(file.clone()) {
            return Ok(());
        }
        for library in libraries(&file)? {
            self.file(&library)?;
        }
        Ok(())
    }

    /// Takes along a file with every directory and symbolic link that leads to it, and says where it really is.
    fn file(&mut self, path: &Path) -> Result<PathBuf> {
        let mut here = PathBuf::from("/");
        let mut ahead: Vec<PathBuf> = names(path);
        let mut links = 0;
        while let Some(name) = ahead.pop() {
            if name == Path::new("..") {
                here.pop();
                continue;
            }
            let next = here.join(&name);
            let stat = fs::symlink_metadata(&next)?;
            if stat.is_symlink() {
                links += 1;
                if links > 40 {
                    return Err(format!("{path:?} leads through too many symbolic links").into());
                }
                let target = fs::read_link(&next)?;
                self.host(&next, EntryKind::Symlink(target.as_os_str().as_bytes().to_vec()), &stat)?;
                if target.is_absolute() {
                    here = PathBuf::from("/");
                }
                ahead.extend(names(&target));
                continue;
            }
            let kind = match stat.is_dir() {
                true => EntryKind::Directory,
                false => EntryKind::File { size: stat.len() },
            };
            self.host(&next, kind, &stat)?;
            here = next;
        }
        Ok(here)
    }

    /// An object of this machine, with its mode and time; it belongs to root in the image.
    fn host(&mut self, path: &Path, kind: EntryKind, stat: &fs::Metadata) -> Result<()> {
        let content = match kind {
            EntryKind::File { .. } => Content::File(path.to_owned()),
            _ => Content::None,
        };
        let nanos = u32::try_from(stat.mtime_nsec())?;
        let metadata = Metadata {
            mode: stat.mode() & 0o7777,
            mtime: Timestamp { seconds: stat.mtime(), nanos },
            ..Metadata::default()
        };
        let path = LayerPath::parse(path.as_os_str().as_bytes())?;
        self.entries.entry(path).or_insert((kind, metadata, content));
        Ok(())
    }

    fn bytes(&self) -> u64 {
        self.entries.values().map(|(kind, ..)| kind.size()).sum()
    }

    /// The layer's blob, what a manifest says of it, and what a config says.
    fn to_layer(&self, encoding: Encoding) -> Result<(Vec<u8>, Descriptor, DiffId)> {
        let compressed = Encoder::new(Vec::new(), encoding)?;
        let mut tar = Writer::new(HashingWriter::new(Algorithm::Sha256, compressed));
        for (path, (kind, metadata, content)) in &self.entries {
            let entry = Entry::new(path.clone(), kind.clone(), metadata.clone());
            match content {
                Content::None => tar.entry(&entry)?,
                Content::Text(text) => tar.file(&entry, &text[..])?,
                Content::File(file) => tar.file(&entry, open(file, path)?)?,
            }
        }
        let (mut compressed, digest, _) = tar.finish()?.finish();
        compressed.flush()?;
        let blob = compressed.finish()?;
        let media_type = match encoding {
            Encoding::Zstd { .. } => MediaType::OCI_LAYER_ZSTD,
            _ => MediaType::OCI_LAYER_GZIP,
        };
        let descriptor = Descriptor::of(media_type, &blob);
        Ok((blob, descriptor, DiffId::of_tar(digest)))
    }
}

fn open(file: &Path, path: &LayerPath) -> std::result::Result<File, ChangesetError> {
    File::open(file).map_err(|source| ChangesetError::Data { path: path.clone(), source })
}

/// The names of a path, the last one first.
fn names(path: &Path) -> Vec<PathBuf> {
    path.components()
        .rev()
        .filter(|part| matches!(part, Component::Normal(_) | Component::ParentDir))
        .map(|part| PathBuf::from(part.as_os_str()))
        .collect()
}

/// A program in `PATH`.
fn find(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_else(|| "/usr/bin:/bin".into());
    std::env::split_paths(&path).map(|dir| dir.join(name)).find(|program| program.is_file())
}

/// The libraries that a program needs, its loader among them. A static program needs none.
fn libraries(program: &Path) -> io::Result<Vec<PathBuf>> {
    let output = Command::new("ldd").arg(program).output()?;
    let words = output.stdout.split(|byte| byte.is_ascii_whitespace());
    // "libc.so.6 => /lib/libc.so.6 (0x…)" or "/lib64/ld-linux-x86-64.so.2 (0x…)"
    let paths =
        words.filter(|word| word.starts_with(b"/")).map(|word| PathBuf::from(OsStr::from_bytes(word)));
    Ok(paths.filter(|path| path.is_file()).collect())
}
