//! What is done to one of many: a store of ten thousand named images and ten thousand containers, beside what the file
//! system takes for the same. Both are measured in the same run, taking turns.
//!
//! ```console
//! $ cargo bench --bench store                              # in a temporary directory
//! $ cargo bench --bench store -- --dir /mnt/scratch --images 1000 --containers 100
//! $ cargo bench --bench store -- --filter list --relaxed
//! $ cargo bench --bench store -- --quick                   # only to see whether it works
//! ```
//!
//! Every image has three layers of forty that all share, and a config of its own. **The product** is one call of the
//! library in one process. **Floor** is the file system by itself (`floor.rs`): for a lookup by name, one read of
//! `index.json`; for a change of names, a file of its size replaced, with the same syncs; for a container, its directories
//! and two files; for a list, a look at every blob, or one read of every record. Where nothing is said there is no such
//! thing. `goal` is what we hold ourselves to with ten thousand of each; nothing is asserted.
//!
//! Figures are medians in milliseconds: of the time that passed, and of that on the processor. Changes wait for the disk, so give `--dir` one of its own, or `--relaxed`.

// A benchmark prints its figures.
#![allow(clippy::print_stdout, clippy::print_stderr, clippy::unwrap_used)]

mod floor;
#[path = "../common/layout.rs"]
mod layout;
mod options;

use std::error::Error;
use std::path::Path;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use plywood::driver::DriverKind;
use plywood::store::{CreateOptions, DriverChoice, GcOptions, RemoveContainer, RemoveImage};
use plywood::{Durability, LoadOptions, Store, UsageOptions};

use floor::Floor;
use layout::{Layout, layer};
use options::Options;

pub(crate) type Result<T> = std::result::Result<T, Box<dyn Error>>;

/// Layers that all images share.
const LAYERS: usize = 40;

fn main() -> ExitCode {
    match Options::parse(std::env::args_os().skip(1)).and_then(|options| run(&options)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprint!("store: {error}");
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
    let mut scratch = tempfile::Builder::new();
    scratch.prefix("plywood-bench-");
    let scratch = match &options.place {
        Some(place) => scratch.tempdir_in(place)?,
        None => scratch.tempdir()?,
    };
    let begin = Instant::now();
    fill(scratch.path(), options)?;
    print_header(options, scratch.path(), begin.elapsed());
    let durability = if options.relaxed { Durability::Relaxed } else { Durability::Full };
    let at = scratch.path().join("store");
    let bench = Bench {
        options,
        store: open(&at, durability)?,
        floor: Floor::new(&at, scratch.path(), !options.relaxed)?,
    };
    bench.names()?;
    bench.containers()?;
    bench.whole()
}

fn open(path: &Path, durability: Durability) -> Result<Store> {
    let driver = DriverChoice::Only(DriverKind::Overlay);
    Ok(Store::options().durability(durability).driver(driver).ensure(path)?)
}

/// Makes the store with everything in it.
fn fill(scratch: &Path, options: &Options) -> Result<()> {
    let archive = scratch.join("images");
    let layers =
        (0..LAYERS).map(|number| layer(&format!("layer{number}"), 1, 2)).collect::<Result<Vec<_>>>()?;
    let mut layout = Layout::begin(&archive)?;
    for number in 0..options.images {
        let of = [0, 1 + number % (LAYERS - 1), 1 + (number / 7) % (LAYERS - 1)];
        let layers = of.map(|layer| layers[layer].clone());
        layout.image(&format!("docker.io/bench/image-{number}:1"), &number.to_string(), &layers)?;
    }
    layout.finish()?;
    let store = open(&scratch.join("store"), Durability::Relaxed)?;
    store.load_directory(&archive, &LoadOptions::default())?;
    std::fs::remove_dir_all(&archive)?;
    for number in 0..options.containers {
        let image = store.image(&format!("bench/image-{}:1", number % options.images.min(100)))?;
        store.create_container(&image, &CreateOptions::named(format!("container-{number}")))?;
    }
    Ok(store.settle()?)
}

fn print_header(options: &Options, place: &Path, made: Duration) {
    let load = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    let load = load.split(' ').next().unwrap_or("?");
    let Options { images, containers, repetitions, .. } = options;
    println!(
        "{images} images and {containers} containers, made in {:.0} s; {repetitions} repetitions in {}, load {load}",
        made.as_secs_f64(),
        place.display()
    );
    if cfg!(debug_assertions) {
        println!("not optimised: run it with cargo bench");
    }
    println!(
        "\n{:<34} | {:>9}{:>9} | {:>9}{:>8} | {:>6}",
        "milliseconds", "product", "CPU", "floor", "ratio", "goal"
    );
}

struct Bench<'o> {
    options: &'o Options,
    store: Store,
    floor: Floor,
}

impl Bench<'_> {
    /// Measures `product`, which is told the number of the repetition.
    fn case<T>(&self, name: &str, goal: f64, product: impl FnMut(usize) -> Result<T>) -> Result<()> {
        self.beside(name, goal, product, None::<fn(usize) -> Result<()>>)
    }

    /// The same, taking turns with `floor`.
    fn beside<T, U>(
        &self,
        name: &str,
        goal: f64,
        mut product: impl FnMut(usize) -> Result<T>,
        mut floor: Option<impl FnMut(usize) -> Result<U>>,
    ) -> Result<()> {
        if !self.options.selects(name) {
            return Ok(());
        }
        let (mut ours, mut theirs, mut processor) = (Vec::new(), Vec::new(), Vec::new());
        for number in 0..self.options.repetitions {
            let (begin, before) = (Instant::now(), on_processor());
            let done = product(number)?;
            ours.push(begin.elapsed());
            processor.push(on_processor().saturating_sub(before));
            drop(done);
            if let Some(floor) = &mut floor {
                let begin = Instant::now();
                floor(number)?;
                theirs.push(begin.elapsed());
            }
        }
        let medians = [ours, processor, theirs].map(|times| median(times).as_secs_f64() * 1e3);
        let [ours, processor, theirs] = medians;
        let goal = if goal > 0.0 { goal.to_string() } else { String::new() };
        match floor {
            Some(_) => println!(
                "{name:<34} | {ours:>9.3}{processor:>9.3} | {theirs:>9.3}{:>8.2} | {goal:>6}",
                ours / theirs
            ),
            None => println!("{name:<34} | {ours:>9.3}{processor:>9.3} | {:17} | {goal:>6}", ""),
        }
        Ok(())
    }

    /// One image of many.
    fn names(&self) -> Result<()> {
        let Self { store, floor, options, .. } = self;
        let path = store.path();
        let middle = format!("bench/image-{}:1", options.images / 2);
        let image = store.image(&middle)?;
        let index = floor.index()?;
        let read = || Some(|_| floor.index());
        let replace = || Some(|_| floor.replace(&index));
        self.case("open the store", 10.0, |_| Ok(Store::open(&path)?))?;
        self.beside("find by name", 10.0, |_| Ok(store.image(&middle)?), read())?;
        let missing = |_| Ok(store.image("bench/missing:1").is_err());
        self.beside("find no such name", 10.0, missing, read())?;
        let digest = image.digest().to_string();
        self.beside("find by digest", 10.0, |_| Ok(store.image(&digest)?), read())?;
        let id = image.id().hex();
        let first = Instant::now();
        store.image(&id[..63])?;
        println!("{:<34} | {:>9.3}", "  the first, by all documents", first.elapsed().as_secs_f64() * 1e3);
        self.beside("find by id", 10.0, |_| Ok(store.image(&id)?), read())?;
        self.beside("find by the beginning of an id", 10.0, |_| Ok(store.image(&id[..12])?), read())?;
        let other = |number: usize| format!("bench/other-{number}:1").parse();
        let tag = |number| Ok(store.tag(&image, &other(number)?)?);
        self.beside("tag", 10.0, tag, replace())?;
        if options.selects("tag") {
            self.beside("untag", 10.0, |number| Ok(store.untag(&other(number)?)?), replace())?;
        }
        let list = |_| Ok(store.list_images()?);
        self.beside("list images", 200.0, list, Some(|_| floor.blobs()))?;
        self.case("read all images", 0.0, |_| Ok(store.images()?))
    }

    /// One container of many.
    fn containers(&self) -> Result<()> {
        let Self { store, floor, options, .. } = self;
        let image = store.image("bench/image-0:1")?;
        let made = std::cell::RefCell::new(Vec::new());
        let create = |_| {
            let container = store.create_container(&image, &CreateOptions::default())?;
            made.borrow_mut().push(container);
            Ok(())
        };
        self.beside("create", 10.0, create, Some(|number| floor.create(number)))?;
        let remove = |_| match made.borrow_mut().pop() {
            Some(container) => Ok(container.remove(RemoveContainer::Refuse)?),
            None => Ok(()),
        };
        if options.selects("create") {
            self.beside("rm", 10.0, remove, Some(|number| floor.remove(number)))?;
        }
        let name = format!("container-{}", options.containers / 2);
        self.case("find container by name", 10.0, |_| Ok(store.container(&name)?))?;
        let id = store.container(&name)?.id()[..12].to_owned();
        self.case("find container by beginning", 10.0, |_| Ok(store.container(&id)?))?;
        let list = |_| Ok(store.containers()?);
        self.beside("list containers", 200.0, list, Some(|_| floor.records()))
    }

    /// What concerns the whole store.
    fn whole(&self) -> Result<()> {
        let Self { store, floor, options, .. } = self;
        let all = || Some(|_| Ok((floor.blobs()?, floor.records()?)));
        self.case("usage", 1000.0, |_| Ok(store.usage(&UsageOptions::default())?))?;
        let walked = |_| Ok(store.usage(&UsageOptions::with_containers())?);
        self.case("usage, containers walked through", 0.0, walked)?;
        self.case("info", 0.0, |_| Ok(store.info()?))?;
        self.beside("gc, dry run", 5000.0, |_| Ok(store.gc(&GcOptions::dry_run())?), all())?;
        self.beside("gc", 5000.0, |_| Ok(store.gc(&GcOptions::default())?), all())?;
        let last = |number: usize| format!("bench/image-{}:1", options.images - 1 - number);
        if options.images > 100 + options.repetitions {
            let remove = |number| Ok(store.remove_image(&last(number), RemoveImage::Refuse)?);
            self.case("rmi", 20.0, remove)?;
        }
        Ok(())
    }
}

/// How long this thread was on a processor, zero where the kernel does not tell.
fn on_processor() -> Duration {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
    Duration::from_nanos(text.split(' ').next().unwrap_or_default().parse().unwrap_or(0))
}

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort();
    times.get(times.len() / 2).copied().unwrap_or_default()
}
