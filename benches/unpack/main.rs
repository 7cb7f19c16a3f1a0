//! How fast images become layers, beside what the machine needs for the parts of it. Both are measured in the same run, so
//! that their ratio means the same on any machine.
//!
//! ```console
//! $ cargo bench --bench unpack                                     # generated images
//! $ cargo bench --bench unpack -- --filter small/gzip --repetitions 9
//! $ cargo bench --bench unpack -- --dir /mnt/scratch debian.tar    # an archive or OCI directory, unpacked there
//! $ cargo bench --bench unpack -- --save-baseline before           # keeps the figures, in target/baselines
//! $ cargo bench --bench unpack -- --baseline before                # prints how each case has changed since
//! $ cargo bench --bench unpack -- --quick                          # only to see whether it works
//! ```
//!
//! **The product** is `Store::load` of an image into a new store: blobs copied and verified, layers unpacked, names given.
//! With [`Durability::Full`] it waits for the disk where it has to; no floor does.
//!
//! **The floor** is made of four stages, each measured by itself on one thread with the source in the page cache:
//! decompress the blobs, hash them, hash the tars, create the files (`floor.rs`). `sum` is their time one after the other.
//! `floor` is the largest of three: their processor time divided by the number of threads; the longest step that no other
//! thread can help with, since one layer is decompressed by one thread and hashed by one; and the time in which all
//! threads together create the files and do nothing else. Copying the blobs into the store is in no floor.
//!
//! Every run has a directory of its own; runs of different kinds alternate; figures are medians. Directories are removed
//! at the end or when space runs out, because some file systems are slow to create after they have removed: for exact
//! figures give `--before` a command that makes an empty file system in `--dir`. Nothing is asserted about times.

// A benchmark prints its figures.
#![allow(clippy::print_stdout, clippy::print_stderr, clippy::unwrap_used)]

mod baseline;
mod floor;
mod images;
mod options;

use std::error::Error;
use std::fs::File;
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::time::{Duration, Instant};

use plywood::fs::Dir;
use plywood::{Durability, LoadOptions, Parallelism, Store, Unpack};

use baseline::{Baseline, Figures};
use floor::{Floor, Time};
use options::Options;

pub(crate) type Result<T> = std::result::Result<T, Box<dyn Error>>;

fn main() -> ExitCode {
    match Options::parse(std::env::args_os().skip(1)).and_then(|options| run(&options)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprint!("unpack: {error}");
            let mut cause = error.source();
            while let Some(error) = cause {
                eprint!(": {error}");
                cause = error.source();
            }
            eprintln!();
            ExitCode::FAILURE
        }
    }
}

fn run(options: &Options) -> Result<()> {
    let scratch = tempfile::Builder::new().prefix("plywood-bench-").tempdir()?;
    let place = options.place.clone().unwrap_or_else(|| scratch.path().join("runs"));
    let all = Parallelism::default().threads();
    let mut threads = vec![1, all];
    threads.dedup();
    let mut against = Against { figures: Baseline::default(), before: None };
    if let Some(name) = &options.baseline {
        against.before = Some(Baseline::load(name)?);
    }
    print_header(options, &place, all);

    let mut given = options.sources.iter().map(|source| Case::given(source)).collect::<Result<Vec<_>>>()?;
    let generated = images::all(options.quick).into_iter().filter(|_| given.is_empty());
    for plan in generated.filter(|plan| options.selects(&plan.name())) {
        let directory = scratch.path().join("images").join(plan.name().replace('/', "-"));
        plan.write(&directory)?;
        let case = Case { name: plan.name(), source: directory.clone() };
        measure(&case, &place, &threads, options, &mut against)?;
        std::fs::remove_dir_all(directory)?;
    }
    given.retain(|case| options.selects(&case.name));
    for case in &given {
        let measured = measure(case, &place, &threads, options, &mut against);
        measured.map_err(|error| format!("{}: {error}", case.source.display()))?;
    }
    if let Some(name) = &options.save_baseline {
        println!("\nsaved as {}", against.figures.save(name)?.display());
    }
    Ok(())
}

fn print_header(options: &Options, place: &Path, threads: usize) {
    let load = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    let load = load.split(' ').next().unwrap_or("?");
    println!("{} repetitions in {}, {threads} CPUs, load {load}", options.repetitions, place.display());
    if load.parse::<f64>().is_ok_and(|load| load > 0.5) {
        println!("other programs are at work: ratios are rough, times are worthless");
    }
    if cfg!(debug_assertions) {
        println!("not optimised: run it with cargo bench");
    }
    println!(
        "\n{:<18}{:>3} | {:>8}{:>8} | {:>8}{:>7}{:>8}{:>7} | {:>9}{:>8}",
        "seconds", "thr", "sum", "floor", "relaxed", "ratio", "full", "ratio", "files/s", "MB/s"
    );
}

/// The figures of this run, and those to compare them with.
struct Against {
    figures: Baseline,
    before: Option<Baseline>,
}

/// One image.
struct Case {
    name: String,
    /// An archive or an OCI directory.
    source: PathBuf,
}

impl Case {
    fn given(source: &Path) -> Result<Self> {
        let name = source.file_name().ok_or("that is no archive")?.to_string_lossy().into_owned();
        Ok(Self { name, source: std::fs::canonicalize(source)? })
    }

    fn load(&self, store: &Store, unpack: Unpack) -> Result<()> {
        let mut how = LoadOptions::default();
        how.unpack = unpack;
        match self.source.is_dir() {
            true => store.load_directory(&self.source, &how)?,
            false => store.load(File::open(&self.source)?, &how)?,
        };
        Ok(())
    }
}

/// What is timed.
#[derive(Clone, Copy, PartialEq)]
enum Kind {
    Stages,
    Create { threads: usize },
    Product { threads: usize, durability: Durability },
}

/// Measures one image and prints a line for each number of threads.
fn measure(
    case: &Case,
    place: &Path,
    threads: &[usize],
    options: &Options,
    against: &mut Against,
) -> Result<()> {
    // The blobs as a store has them, whatever they came in; they are read once, so they are in the page cache.
    let blobs = tempfile::Builder::new().prefix("plywood-bench-").tempdir()?;
    let store = Store::options().durability(Durability::Relaxed).create(blobs.path())?;
    case.load(&store, Unpack::OnDemand)?;
    let mut floor = Floor::of(&store)?;

    let mut kinds = vec![Kind::Stages];
    for &threads in threads {
        kinds.push(Kind::Create { threads });
        for durability in [Durability::Relaxed, Durability::Full] {
            kinds.push(Kind::Product { threads, durability });
        }
    }
    let mut times: Vec<Vec<Time>> = vec![Vec::new(); kinds.len()];
    let mut runs = Runs::new(place, options);
    for _ in 0..options.repetitions {
        for (kind, times) in kinds.iter().zip(&mut times) {
            match *kind {
                Kind::Stages => floor.measure_stages()?,
                Kind::Create { threads } => {
                    let into = runs.fresh()?;
                    times.push(floor.create(&into, threads)?);
                }
                Kind::Product { threads, durability } => {
                    let parallelism = Parallelism::new(NonZeroUsize::new(threads).unwrap());
                    let how = Store::options().parallelism(parallelism).durability(durability);
                    let store = how.create(runs.fresh()?.join("store"))?;
                    let begin = Instant::now();
                    case.load(&store, Unpack::Now)?;
                    times.push(Time::of(begin.elapsed()));
                }
            }
        }
    }
    let median_of = |kind: Kind| {
        let position = kinds.iter().position(|known| *known == kind).unwrap();
        Time::median(&times[position])
    };
    let stages = floor.stages(median_of(Kind::Create { threads: 1 }));
    for &threads in threads {
        let creating = median_of(Kind::Create { threads });
        let floor_time = stages.floor(threads, creating.wall);
        let product = |durability| median_of(Kind::Product { threads, durability }).wall.as_secs_f64();
        let (relaxed, full) = (product(Durability::Relaxed), product(Durability::Full));
        println!(
            "{:<18}{threads:>3} | {:>8.3}{floor_time:>8.3} | {relaxed:>8.3}{:>7.2}{full:>8.3}{:>7.2} | {:>9.0}{:>8.0}",
            case.name,
            stages.sum(),
            relaxed / floor_time,
            full / floor_time,
            floor.files() as f64 / relaxed,
            floor.tar_bytes() as f64 / 1e6 / relaxed,
        );
        let figures = Figures { floor: floor_time, relaxed, full };
        against.figures.add(&case.name, threads, figures);
        if let Some(before) = &against.before {
            println!("{:22}  {}", "", before.compare(&case.name, threads, figures));
        }
    }
    println!("{:22}  {stages}", "");
    println!(
        "{:22}  {} layers, {} entries, blobs {:.1} MB, tars {:.1} MB",
        "",
        floor.layers(),
        floor.files(),
        floor.blob_bytes() as f64 / 1e6,
        floor.tar_bytes() as f64 / 1e6
    );
    runs.remove_all()
}

fn median(times: &[Duration]) -> Duration {
    let mut times = times.to_vec();
    times.sort();
    times.get(times.len() / 2).copied().unwrap_or_default()
}

/// Directories for runs, each used once.
struct Runs<'a> {
    place: &'a Path,
    before: Option<&'a str>,
    made: u32,
    kept: Vec<PathBuf>,
}

impl<'a> Runs<'a> {
    fn new(place: &'a Path, options: &'a Options) -> Self {
        Self { place, before: options.before.as_deref(), made: 0, kept: Vec::new() }
    }

    /// An empty directory, with nothing else left to write for the disk.
    fn fresh(&mut self) -> Result<PathBuf> {
        if let Some(command) = self.before {
            let status = Command::new("sh").args(["-c", command]).status()?;
            if !status.success() {
                return Err(format!("{command}: {status}").into());
            }
            self.kept.clear();
        }
        std::fs::create_dir_all(self.place)?;
        let space = rustix::fs::statvfs(self.place)?;
        if space.f_bavail * space.f_frsize < 8 << 30 || space.f_favail < 1 << 20 {
            self.remove_all()?;
        }
        self.made += 1;
        let path = self.place.join(format!("plywood-run-{}-{}", std::process::id(), self.made));
        std::fs::create_dir(&path)?;
        Dir::open_ambient(&path)?.sync_file_system()?;
        self.kept.push(path.clone());
        Ok(path)
    }

    fn remove_all(&mut self) -> Result<()> {
        for path in self.kept.drain(..) {
            std::fs::remove_dir_all(path)?;
        }
        Ok(())
    }
}
