//! How fast containers come and go, beside the system calls that no implementation can do without. Both are measured in
//! the same run, taking turns, so that their ratio means the same on any machine.
//!
//! ```console
//! $ cargo bench --bench container                                  # in a temporary directory
//! $ cargo bench --bench container -- --dir /mnt/scratch --repetitions 200
//! $ cargo bench --bench container -- --filter 100/ --split         # each step by itself as well
//! $ cargo bench --bench container -- --parallel                    # many at a time
//! $ cargo bench --bench container -- --quick                       # only to see whether it works
//! ```
//!
//! **The product** is `Store::create_container` from an image in hand, `Container::mount`, `Mounted::unmount` and
//! `Container::remove`, in one process that has tried the machine before (`probe` says what that took). Each case is
//! called by the number of layers of its image and the number of images in its store: neither the second, nor what else
//! is in the store, may matter.
//!
//! **Bare** is what is left when everything that is ours is taken away (`bare.rs`): directories, two small files, one
//! overlay mount made through the new mount API, and the removal of all that. It takes no lock, keeps nothing from a
//! collection, reads no document and checks no digest. With `full` it makes the same promise by the fewest syncs.
//!
//! `find` is `Store::image` by name, which reads all names of the store. `commit` is `Container::commit` of one changed
//! file, on an image of so many files; its bare side writes the four files of a commit and syncs them.
//!
//! Figures are medians in milliseconds: of the time that passed, and of that on the processor, which says more where
//! other programs are at work, and leaves out what is waited for. The end of an overlay mount waits for whatever else is written to the same file
//! system, so give `--dir` one of its own. Nothing is asserted about times.

// A benchmark prints its figures.
#![allow(clippy::print_stdout, clippy::print_stderr, clippy::unwrap_used)]

mod bare;
mod images;
#[path = "../common/layout.rs"]
mod layout;
mod options;
mod parallel;

use std::error::Error;
use std::path::Path;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use plywood::driver::DriverKind;
use plywood::fs::Dir;
use plywood::store::{CreateOptions, DriverChoice, RemoveContainer};
use plywood::{CommitOptions, Durability, Image, LoadOptions, Store};

use bare::Bare;
use options::Options;

pub(crate) type Result<T> = std::result::Result<T, Box<dyn Error>>;

fn main() -> ExitCode {
    match Options::parse(std::env::args_os().skip(1)).and_then(|options| run(&options)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprint!("container: {error}");
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
    if let Some(words) = &options.one_of_many {
        return parallel::one_of_many(words);
    }
    let mut scratch = tempfile::Builder::new();
    scratch.prefix("plywood-bench-");
    let scratch = match &options.place {
        Some(place) => scratch.tempdir_in(place)?,
        None => scratch.tempdir()?,
    };
    print_header(options, scratch.path());
    if options.parallel || options.quick {
        parallel::measure(scratch.path(), options)?;
        std::fs::remove_dir_all(scratch.path().join("store"))?;
        std::fs::remove_dir_all(scratch.path().join("images"))?;
    }
    if options.parallel {
        return Ok(());
    }
    let (few, many, files) = if options.quick { (2, 20, 100) } else { (10, 10_000, 100_000) };
    for images in [few, many] {
        lives(images, scratch.path(), options)?;
    }
    commits(files, scratch.path(), options)
}

fn print_header(options: &Options, place: &Path) {
    let load = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    let load = load.split(' ').next().unwrap_or("?");
    println!("{} repetitions in {}, load {load}", options.repetitions, place.display());
    if load.parse::<f64>().is_ok_and(|load| load > 0.5) {
        println!("other programs are at work: ratios are rough, times are worthless");
    }
    if cfg!(debug_assertions) {
        println!("not optimised: run it with cargo bench");
    }
    println!(
        "\n{:<32} | {:>9}{:>9}{:>8} | {:>9}{:>9}{:>8}",
        "milliseconds", "product", "bare", "ratio", "CPU", "bare", "ratio"
    );
}

/// How one store waits for the disk.
const DURABILITIES: [(Durability, &str); 2] = [(Durability::Relaxed, "relaxed"), (Durability::Full, "full")];

fn open(path: &Path, durability: Durability) -> Result<Store> {
    Ok(Store::options()
        .durability(durability)
        .driver(DriverChoice::Only(DriverKind::Overlay))
        .ensure(path)?)
}

/// Containers that are made, mounted, unmounted and removed, in a store with so many images.
fn lives(images: usize, scratch: &Path, options: &Options) -> Result<()> {
    let most = if options.quick { 5 } else { 100 };
    let cases: Vec<_> = [1, most]
        .into_iter()
        .flat_map(|layers| DURABILITIES.map(|(durability, word)| (layers, durability, word)))
        .map(|(layers, durability, word)| (format!("{layers}/{images}/{word}"), layers, durability))
        .filter(|(name, ..)| options.selects(name))
        .collect();
    if cases.is_empty() {
        return Ok(());
    }
    let at = scratch.join("store");
    let archive = scratch.join("images");
    let store = open(&at, Durability::Relaxed)?;
    images::write(&archive, images, most)?;
    store.load_directory(&archive, &LoadOptions::default())?;
    std::fs::remove_dir_all(&archive)?;
    store.settle()?;

    let mut found = Vec::new();
    for _ in 0..options.repetitions.min(11) {
        let watch = Watch::start();
        store.image("bench/tall:1")?;
        found.push(watch.stop());
    }
    print(&format!("find {images}"), &found, None);
    for (name, layers, durability) in cases {
        let store = open(&at, durability)?;
        let image = store.image(if layers == 1 { "bench/image-0:1" } else { "bench/tall:1" })?;
        // Whatever is found out once per process.
        let watch = Watch::start();
        live(&store, &image)?;
        let first = watch.stop();
        let bare = Bare::new(scratch, lowers(&store, &image)?, durability)?;
        bare.live()?;
        let (mut product, mut floor) = (Vec::new(), Vec::new());
        let (mut product_steps, mut floor_steps) = (Vec::new(), Vec::new());
        for _ in 0..options.repetitions {
            let watch = Watch::start();
            product_steps.push(live(&store, &image)?);
            product.push(watch.stop());
            let watch = Watch::start();
            floor_steps.push(bare.live()?);
            floor.push(watch.stop());
        }
        print(&name, &product, Some(&floor));
        if options.split {
            for (number, step) in ["create", "mount", "unmount", "remove"].iter().enumerate() {
                let of = |steps: &[[Duration; 4]]| {
                    median(steps.iter().map(|steps| steps[number])).as_secs_f64() * 1e3
                };
                let (product, floor) = (of(&product_steps), of(&floor_steps));
                println!("  {step:<30} | {product:>9.3}{floor:>9.3}{:>8.2} |", product / floor);
            }
        }
        if layers == 1 {
            print("  the first, with the probe", &[first], None);
        }
    }
    std::fs::remove_dir_all(at)?;
    Ok(())
}

/// The life of one container, each of its four steps timed.
fn live(store: &Store, image: &Image) -> Result<[Duration; 4]> {
    let begin = Instant::now();
    let container = store.create_container(image, &CreateOptions::default())?;
    let created = Instant::now();
    let mounted = container.mount()?;
    let used = Instant::now();
    let container = mounted.unmount()?;
    let unmounted = Instant::now();
    container.remove(RemoveContainer::Refuse)?;
    Ok([created - begin, used - created, unmounted - used, unmounted.elapsed()])
}

/// The directories that the kernel is to stack, topmost first.
fn lowers(store: &Store, image: &Image) -> Result<Vec<std::path::PathBuf>> {
    let path =
        |diff_id: &plywood::DiffId| store.path().join("layers").join(diff_id.to_string().replace(':', "-"));
    Ok(image.diff_ids().iter().rev().map(|diff_id| path(diff_id).join("tree")).collect())
}

/// Commits of one changed file on an image of so many files.
fn commits(files: usize, scratch: &Path, options: &Options) -> Result<()> {
    for (durability, word) in DURABILITIES {
        let name = format!("commit {files}/{word}");
        if !options.selects(&name) {
            continue;
        }
        let (at, archive) = (scratch.join("store"), scratch.join("images"));
        images::write_large(&archive, files)?;
        let store = open(&at, durability)?;
        let image = store.load_directory(&archive, &LoadOptions::default())?.remove(0).image;
        std::fs::remove_dir_all(&archive)?;
        store.settle()?;
        let container = store.create_container(&image, &CreateOptions::default())?;
        let mounted = container.mount()?;
        Dir::open_ambient(mounted.path())?;
        let changed = mounted.path().join(images::FIRST);
        let bare = Bare::new(scratch, Vec::new(), durability)?;
        let (mut product, mut floor) = (Vec::new(), Vec::new());
        for number in 0..options.repetitions.min(51) {
            std::fs::write(&changed, format!("changed {number}\n"))?;
            let watch = Watch::start();
            container.commit(&CommitOptions::default())?;
            product.push(watch.stop());
            let watch = Watch::start();
            bare.commit()?;
            floor.push(watch.stop());
        }
        print(&name, &product, Some(&floor));
        mounted.unmount().map_err(|error| error.to_string())?.remove(RemoveContainer::Refuse)?;
        std::fs::remove_dir_all(at)?;
    }
    Ok(())
}

/// What something took.
struct Time {
    wall: Duration,
    cpu: Duration,
}

/// Measures the calling thread.
struct Watch {
    begin: Instant,
    cpu: Duration,
}

impl Watch {
    fn start() -> Self {
        Self { cpu: on_processor(), begin: Instant::now() }
    }

    fn stop(self) -> Time {
        let wall = self.begin.elapsed();
        Time { wall, cpu: on_processor().saturating_sub(self.cpu) }
    }
}

/// How long this thread was on a processor, zero where the kernel does not tell.
fn on_processor() -> Duration {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
    Duration::from_nanos(text.split(' ').next().unwrap_or_default().parse().unwrap_or(0))
}

fn median(times: impl Iterator<Item = Duration>) -> Duration {
    let mut times: Vec<_> = times.collect();
    times.sort();
    times.get(times.len() / 2).copied().unwrap_or_default()
}

fn print(name: &str, product: &[Time], bare: Option<&[Time]>) {
    let milliseconds = |times: &[Time]| {
        [median(times.iter().map(|time| time.wall)), median(times.iter().map(|time| time.cpu))]
            .map(|time| time.as_secs_f64() * 1e3)
    };
    let [wall, cpu] = milliseconds(product);
    match bare.map(milliseconds) {
        Some([bare_wall, bare_cpu]) => println!(
            "{name:<32} | {wall:>9.3}{bare_wall:>9.3}{:>8.2} | {cpu:>9.3}{bare_cpu:>9.3}{:>8.2}",
            wall / bare_wall,
            cpu / bare_cpu
        ),
        None => println!("{name:<32} | {wall:>9.3}{:17} | {cpu:>9.3}", ""),
    }
}
