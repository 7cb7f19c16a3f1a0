//! Containers that are made and removed by many at a time: threads of one process, and processes.
//!
//! Figures are containers per second, of the product and of the bare system calls, and how many times as many each gets
//! done as one thread alone. Where the product does not grow and bare does, it is a lock of ours that is in the way.

use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use plywood::store::{CreateOptions, RemoveContainer};
use plywood::{Durability, LoadOptions, Store};

use super::bare::Bare;
use super::options::Options;
use super::{DURABILITIES, Result, images, open};

/// How many at a time.
const CROWDS: [usize; 4] = [1, 2, 4, 32];

const IMAGE: &str = "bench/image-0:1";

/// Measures every crowd, with and without waiting for the disk.
pub(crate) fn measure(scratch: &Path, options: &Options) -> Result<()> {
    let (at, archive) = (scratch.join("store"), scratch.join("images"));
    images::write(&archive, 2, 2)?;
    let store = open(&at, Durability::Relaxed)?;
    store.load_directory(&archive, &LoadOptions::default())?;
    store.settle()?;
    println!(
        "\n{:<24} | {:>10}{:>8} | {:>10}{:>8} | {:>10}{:>8} | {:>14}",
        "containers per second",
        "threads",
        "growth",
        "bare",
        "growth",
        "processes",
        "growth",
        "threads / bare"
    );
    for (durability, word) in DURABILITIES {
        let mut alone = [0.0; 3];
        for crowd in CROWDS {
            let name = format!("{crowd} at a time/{word}");
            if !options.selects(&name) {
                continue;
            }
            let each = (options.repetitions * 4).div_ceil(crowd).max(2);
            let rates = [
                rate(crowd, each, || lives(&at, durability, each))?,
                rate(crowd, each, || bare_lives(scratch, durability, each))?,
                rate(crowd, each, || process(&at, durability, each))?,
            ];
            if crowd == 1 {
                alone = rates;
            }
            let [threads, bare, processes] = rates;
            let [more, bare_more, processes_more] = std::array::from_fn(|kind| rates[kind] / alone[kind]);
            println!(
                "{name:<24} | {threads:>10.0}{more:>8.2} | {bare:>10.0}{bare_more:>8.2} | {processes:>10.0}{processes_more:>8.2} | {:>14.2}",
                threads / bare
            );
        }
    }
    Ok(())
}

/// Containers per second, if each of a crowd makes and removes so many. Each says how long that took, without what it does
/// before.
fn rate(crowd: usize, each: usize, work: impl Fn() -> Result<Duration> + Sync) -> Result<f64> {
    let took = std::thread::scope(|scope| {
        let work = || work().map_err(|error| error.to_string());
        let threads: Vec<_> = (0..crowd).map(|_| scope.spawn(work)).collect();
        threads.into_iter().map(|thread| thread.join().expect("no thread panics")).collect::<Vec<_>>()
    });
    let longest = took.into_iter().collect::<std::result::Result<Vec<_>, _>>()?.into_iter().max();
    Ok((crowd * each) as f64 / longest.unwrap_or_default().as_secs_f64())
}

fn lives(at: &Path, durability: Durability, count: usize) -> Result<Duration> {
    let store = open(at, durability)?;
    come_and_go(&store, count)
}

fn come_and_go(store: &Store, count: usize) -> Result<Duration> {
    let image = store.image(IMAGE)?;
    // Whatever is found out once.
    store.create_container(&image, &CreateOptions::default())?.remove(RemoveContainer::Refuse)?;
    let begin = Instant::now();
    for _ in 0..count {
        store.create_container(&image, &CreateOptions::default())?.remove(RemoveContainer::Refuse)?;
    }
    Ok(begin.elapsed())
}

fn bare_lives(scratch: &Path, durability: Durability, count: usize) -> Result<Duration> {
    let name = format!("{:?}", std::thread::current().id());
    let bare = Bare::new(scratch, Vec::new(), durability)?.named(name);
    bare.come_and_go()?;
    let begin = Instant::now();
    for _ in 0..count {
        bare.come_and_go()?;
    }
    Ok(begin.elapsed())
}

/// The same in a process of its own, which prints how long it took.
fn process(at: &Path, durability: Durability, count: usize) -> Result<Duration> {
    let wait = if durability == Durability::Full { "full" } else { "relaxed" };
    let mut process = Command::new(std::env::current_exe()?);
    let output = process.arg("--one-of-many").arg(at).args([wait, &count.to_string()]).output()?;
    if !output.status.success() {
        return Err(String::from_utf8_lossy(&output.stderr).into());
    }
    Ok(Duration::from_secs_f64(String::from_utf8(output.stdout)?.trim().parse()?))
}

/// What that process does.
pub(crate) fn one_of_many(words: &[std::ffi::OsString]) -> Result<()> {
    let [at, wait, count] = words else { return Err("these words are for this program itself".into()) };
    let durability = if wait == "full" { Durability::Full } else { Durability::Relaxed };
    let took = lives(Path::new(at), durability, count.to_string_lossy().parse()?)?;
    println!("{}", took.as_secs_f64());
    Ok(())
}
