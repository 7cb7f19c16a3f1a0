//! What a machine needs for the parts of unpacking, each alone: decompress, hash the blob, hash the tar, create the files.
//!
//! Files are created as cheaply as a layer allows: directories first, then each file with open, write, futimens and close
//! below the handle of its directory, its mode given with open and its owner only where it is another; data comes from
//! one warm buffer. Nothing is synced.

use std::collections::BTreeMap;
use std::fmt;
use std::fs::File;
use std::io::Read;
use std::ops::AddAssign;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use plywood::changeset::{EntryKind, Reader};
use plywood::codec::Decoder;
use plywood::digest::Hasher;
use plywood::fs::{Metadata, both_times};
use plywood::path::LayerPath;
use plywood::{Algorithm, Limits, Store};
use rustix::fs::{AtFlags, CWD, Gid, Mode, OFlags, Uid};

use super::Result;

/// As much as is written at a time.
const PIECE: usize = 256 << 10;

pub(crate) struct Floor {
    layers: Vec<Layer>,
    root: bool,
    rounds: Vec<Round>,
}

/// One measurement of the stages that need no place to write.
struct Round {
    decompress: Time,
    hash_blobs: Time,
    hash_tars: Time,
    /// Processor time of the longest of them for one layer.
    longest: Duration,
}

struct Layer {
    blob: PathBuf,
    blob_bytes: u64,
    tar_bytes: u64,
    directories: Vec<(LayerPath, Metadata)>,
    others: Vec<Object>,
}

struct Object {
    path: LayerPath,
    kind: EntryKind,
    metadata: Metadata,
}

impl Floor {
    /// Reads what the layers of the images in `store` hold.
    pub(crate) fn of(store: &Store) -> Result<Self> {
        let mut layers = BTreeMap::new();
        for image in store.images()?.iter().filter(|image| image.config().is_some()) {
            for descriptor in &image.manifest().layers {
                let digest = descriptor.digest;
                let blob = store.path().join("oci/blobs").join(digest.algorithm().name()).join(digest.hex());
                layers.insert(digest, Layer::read(blob)?);
            }
        }
        let root = rustix::process::geteuid().is_root();
        Ok(Self { layers: layers.into_values().collect(), root, rounds: Vec::new() })
    }

    pub(crate) fn layers(&self) -> usize {
        self.layers.len()
    }

    /// Everything that is created.
    pub(crate) fn files(&self) -> usize {
        self.layers.iter().map(|layer| layer.directories.len() + layer.others.len()).sum()
    }

    pub(crate) fn blob_bytes(&self) -> u64 {
        self.layers.iter().map(|layer| layer.blob_bytes).sum()
    }

    pub(crate) fn tar_bytes(&self) -> u64 {
        self.layers.iter().map(|layer| layer.tar_bytes).sum()
    }

    /// Measures all stages but the last once more.
    pub(crate) fn measure_stages(&mut self) -> Result<()> {
        let mut round = Round {
            decompress: Time::default(),
            hash_blobs: Time::default(),
            hash_tars: Time::default(),
            longest: Duration::ZERO,
        };
        let piece = vec![7; PIECE];
        for layer in &self.layers {
            let watch = Watch::start();
            read_pieces(Decoder::new(File::open(&layer.blob)?, &Limits::default())?, |_| {})?;
            let decompress = watch.stop();

            let watch = Watch::start();
            let mut hasher = Hasher::new(Algorithm::Sha256);
            read_pieces(File::open(&layer.blob)?, |piece| hasher.update(piece))?;
            std::hint::black_box(hasher.finish());
            let hash_blob = watch.stop();

            // The same number of bytes; which they are makes no difference.
            let watch = Watch::start();
            let mut hasher = Hasher::new(Algorithm::Sha256);
            let mut rest = layer.tar_bytes;
            while rest > 0 {
                let count = rest.min(PIECE as u64);
                hasher.update(&piece[..count as usize]);
                rest -= count;
            }
            std::hint::black_box(hasher.finish());
            let hash_tar = watch.stop();

            round.longest = round.longest.max(decompress.cpu).max(hash_blob.cpu).max(hash_tar.cpu);
            round.decompress += decompress;
            round.hash_blobs += hash_blob;
            round.hash_tars += hash_tar;
        }
        self.rounds.push(round);
        Ok(())
    }

    /// Creates the files of all layers below `into`, by this many threads, and returns how long it took.
    pub(crate) fn create(&self, into: &Path, threads: usize) -> Result<Time> {
        let data = vec![7; 1 << 20];
        let watch = Watch::start();
        for (number, layer) in self.layers.iter().enumerate() {
            let root = into.join(number.to_string());
            std::fs::create_dir(&root)?;
            layer.create(&root, threads, &data, self.root)?;
        }
        Ok(watch.stop())
    }

    /// The stages by medians; `create` is that of one thread.
    pub(crate) fn stages(&self, create: Time) -> Stages {
        let median = |time: fn(&Round) -> Time| {
            let times: Vec<Time> = self.rounds.iter().map(time).collect();
            Time::median(&times)
        };
        let longest: Vec<Duration> = self.rounds.iter().map(|round| round.longest).collect();
        Stages {
            decompress: median(|round| round.decompress),
            hash_blobs: median(|round| round.hash_blobs),
            hash_tars: median(|round| round.hash_tars),
            create,
            longest: super::median(&longest),
        }
    }
}

/// The stages of one image.
pub(crate) struct Stages {
    decompress: Time,
    hash_blobs: Time,
    hash_tars: Time,
    create: Time,
    /// Processor time of the longest step that one thread has to do alone.
    longest: Duration,
}

impl Stages {
    fn all(&self) -> [Time; 4] {
        [self.decompress, self.hash_blobs, self.hash_tars, self.create]
    }

    /// Seconds of all stages, one after the other on one thread.
    pub(crate) fn sum(&self) -> f64 {
        self.all().iter().map(|stage| stage.wall.as_secs_f64()).sum()
    }

    /// Seconds that so many threads need at least; `creating` is how long they take together to create the files.
    pub(crate) fn floor(&self, threads: usize, creating: Duration) -> f64 {
        let computing: f64 = self.all().iter().map(|stage| stage.cpu.as_secs_f64()).sum();
        (computing / threads as f64).max(self.longest.as_secs_f64()).max(creating.as_secs_f64())
    }
}

impl fmt::Display for Stages {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [decompress, blobs, tars, create] = self.all().map(|stage| stage.cpu.as_secs_f64());
        let longest = self.longest.as_secs_f64();
        write!(f, "CPU: decompress {decompress:.3}, hash {blobs:.3} + {tars:.3}, create {create:.3}; ")?;
        write!(f, "longest step {longest:.3}")
    }
}

/// How long something took.
#[derive(Clone, Copy, Default)]
pub(crate) struct Time {
    pub(crate) wall: Duration,
    /// Processor time of the thread that did it.
    cpu: Duration,
}

impl Time {
    /// Of something that many threads did.
    pub(crate) fn of(wall: Duration) -> Self {
        Self { wall, cpu: wall }
    }

    pub(crate) fn median(times: &[Self]) -> Self {
        let median = |of: fn(&Self) -> Duration| super::median(&times.iter().map(of).collect::<Vec<_>>());
        Self { wall: median(|time| time.wall), cpu: median(|time| time.cpu) }
    }
}

impl AddAssign for Time {
    fn add_assign(&mut self, more: Self) {
        self.wall += more.wall;
        self.cpu += more.cpu;
    }
}

/// Measures what its own thread does.
struct Watch {
    wall: Instant,
    cpu: Option<Duration>,
}

impl Watch {
    fn start() -> Self {
        Self { cpu: cpu_time(), wall: Instant::now() }
    }

    fn stop(self) -> Time {
        let wall = self.wall.elapsed();
        // A kernel that does not count: on an idle machine it is the same.
        let cpu = self.cpu.and_then(|begin| Some(cpu_time()?.saturating_sub(begin)));
        Time { wall, cpu: cpu.unwrap_or(wall) }
    }
}

/// Processor time that this thread has used.
fn cpu_time() -> Option<Duration> {
    // The kernel brings its count up to date when a thread gives up its turn.
    std::thread::yield_now();
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").ok()?;
    text.split(' ').next()?.parse().ok().map(Duration::from_nanos)
}

impl Layer {
    fn read(blob: PathBuf) -> Result<Self> {
        let limits = Limits::default();
        let mut tar_bytes = 0;
        read_pieces(Decoder::new(File::open(&blob)?, &limits)?, |piece| tar_bytes += piece.len() as u64)?;
        let mut objects: BTreeMap<LayerPath, (EntryKind, Metadata)> = BTreeMap::new();
        let mut reader = Reader::new(Decoder::new(File::open(&blob)?, &limits)?, &limits);
        while let Some(entry) = reader.next_entry()? {
            for above in entry.path.ancestors() {
                let implied = || (EntryKind::Directory, Metadata::default_directory());
                objects.entry(above).or_insert_with(implied);
            }
            match entry.kind {
                EntryKind::Opaque | EntryKind::AufsLink { .. } => {}
                kind => drop(objects.insert(entry.path, (kind, entry.metadata))),
            }
        }
        objects.remove(&LayerPath::ROOT);
        let (mut directories, mut others) = (Vec::new(), Vec::new());
        for (path, (kind, metadata)) in objects {
            match kind {
                EntryKind::Directory => directories.push((path, metadata)),
                kind => others.push(Object { path, kind, metadata }),
            }
        }
        let blob_bytes = std::fs::metadata(&blob)?.len();
        Ok(Self { blob, blob_bytes, tar_bytes, directories, others })
    }

    fn create(&self, root: &Path, threads: usize, data: &[u8], privileged: bool) -> Result<()> {
        let top = open_directory(CWD, root)?;
        for (path, metadata) in &self.directories {
            rustix::fs::mkdirat(&top, path.as_path(), mode(metadata))?;
        }
        let (links, others): (Vec<&Object>, Vec<&Object>) =
            self.others.iter().partition(|object| matches!(object.kind, EntryKind::HardLink(_)));
        let share = others.len().div_ceil(threads).max(1);
        std::thread::scope(|scope| {
            let top = &top;
            let create = |share: &[&Object]| Objects { top, above: None, data, privileged }.create(share);
            let helpers: Vec<_> =
                others.chunks(share).skip(1).map(|share| scope.spawn(move || create(share))).collect();
            others.chunks(share).take(1).try_for_each(create)?;
            helpers.into_iter().try_for_each(|helper| helper.join().unwrap())
        })?;
        for link in links {
            if let EntryKind::HardLink(target) = &link.kind {
                // It may be in a layer below, which is another stage's business.
                rustix::fs::linkat(&top, target.as_path(), &top, link.path.as_path(), AtFlags::empty()).ok();
            }
        }
        for (path, metadata) in self.directories.iter().rev() {
            let times = both_times(metadata.mtime);
            rustix::fs::utimensat(&top, path.as_path(), &times, AtFlags::SYMLINK_NOFOLLOW)?;
        }
        Ok(())
    }
}

/// One thread's share of what is created.
struct Objects<'a> {
    top: &'a OwnedFd,
    above: Option<(LayerPath, OwnedFd)>,
    data: &'a [u8],
    privileged: bool,
}

impl Objects<'_> {
    fn create(mut self, objects: &[&Object]) -> rustix::io::Result<()> {
        for object in objects {
            self.one(object)?;
        }
        Ok(())
    }

    fn one(&mut self, object: &Object) -> rustix::io::Result<()> {
        let parent = object.path.parent().unwrap_or_default();
        if self.above.as_ref().is_none_or(|(above, _)| *above != parent) {
            let path = if parent.is_root() { Path::new(".") } else { parent.as_path() };
            let directory = open_directory(self.top, path)?;
            self.above = Some((parent, directory));
        }
        let above = &self.above.as_ref().expect("it was opened above").1;
        let name = object.path.file_name().unwrap_or_default();
        let metadata = &object.metadata;
        let other_owner = self.privileged && (metadata.uid, metadata.gid) != (0, 0);
        let owner = (Uid::from_raw(metadata.uid), Gid::from_raw(metadata.gid));
        match &object.kind {
            EntryKind::File { size } => {
                let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
                let file = rustix::fs::openat(above, name, flags, mode(metadata))?;
                let mut rest = *size;
                while rest > 0 {
                    let count = rest.min(PIECE as u64) as usize;
                    rest -= rustix::io::write(&file, &self.data[..count])? as u64;
                }
                if other_owner {
                    rustix::fs::fchown(&file, Some(owner.0), Some(owner.1))?;
                }
                rustix::fs::futimens(&file, &both_times(metadata.mtime))
            }
            EntryKind::Symlink(target) => {
                rustix::fs::symlinkat(&target[..], above, name)?;
                let times = both_times(metadata.mtime);
                rustix::fs::utimensat(above, name, &times, AtFlags::SYMLINK_NOFOLLOW)
            }
            EntryKind::Whiteout if self.privileged => {
                let device = rustix::fs::FileType::CharacterDevice;
                rustix::fs::mknodat(above, name, device, Mode::empty(), 0)
            }
            // Devices and pipes are too few to matter.
            _ => Ok(()),
        }
    }
}

fn open_directory(at: impl std::os::fd::AsFd, path: &Path) -> rustix::io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    rustix::fs::openat(at, path, flags, Mode::empty())
}

fn mode(metadata: &Metadata) -> Mode {
    Mode::from_raw_mode(metadata.mode)
}

/// Reads a stream to its end.
fn read_pieces(mut reader: impl Read, mut each: impl FnMut(&[u8])) -> Result<()> {
    let mut piece = vec![0; PIECE];
    loop {
        match reader.read(&mut piece)? {
            0 => return Ok(()),
            count => each(&piece[..count]),
        }
    }
}
