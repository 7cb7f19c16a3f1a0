//! [`LayerStore::unpack_early`]: layers that are unpacked while they still come, before anybody knows what they are.
//!
//! An archive often says at its end which of its members are layers, and of what. What looks like one is unpacked
//! meanwhile, in a workspace; [`LayerStore::ensure`] takes it if it turns out to be a layer that is missing. If it is none,
//! or no good, nothing is said of that here: what matters is read again, by whoever knows what it should be.

use std::collections::BTreeMap;
use std::io::Read;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;

use rustix::process::{Resource, getrlimit};

use super::abilities::Abilities;
use super::crew::Crew;
use super::ensure::{EnsureOptions, THREADS};
use super::store::{LayerError, LayerStore};
use super::unpack::{Unpacked, unpack_any};
use crate::digest::{Algorithm, DiffId, Digest};
use crate::fs::{ParkedDir, Workspace};
use crate::open_files::{EACH_LAYER, OTHERS};

/// What may be a layer, from its beginning; reading it waits where it has not come far enough.
pub type Coming = Box<dyn Read + Send>;

/// Begins to unpack something, if a thread is free for that, and says which one it is.
pub type Begin<'b> = &'b (dyn Fn(Coming) -> Option<usize> + Sync);

/// Layers that were unpacked early, by blob.
#[derive(Debug, Default)]
pub struct Early {
    layers: Mutex<BTreeMap<Digest, EarlyLayer>>,
}

/// A layer that was unpacked by itself.
#[derive(Debug)]
pub(super) struct EarlyLayer {
    pub(super) dir: ParkedDir,
    pub(super) unpacked: Unpacked,
    pub(super) diff_id: DiffId,
}

impl Early {
    /// Takes what came of `blob`, if that is the layer `diff_id`.
    pub(super) fn take(&self, blob: &Digest, diff_id: &DiffId) -> Option<EarlyLayer> {
        locked(&self.layers).remove(blob).filter(|layer| layer.diff_id == *diff_id)
    }
}

/// What is being unpacked.
#[derive(Default)]
struct Begun {
    number: usize,
    running: BTreeMap<usize, Arc<AtomicBool>>,
    done: BTreeMap<usize, EarlyLayer>,
    /// Nothing more will come.
    over: bool,
}

impl LayerStore {
    /// Calls `read`, and unpacks what it begins, by as many other threads as there may be. What `read` returns beside its
    /// result says which blobs the things are that it wants; the others are given up.
    ///
    /// # Errors
    ///
    /// [`LayerError`] if nothing can be unpacked here.
    pub fn unpack_early<T>(
        &self,
        work: &Workspace,
        options: &EnsureOptions<'_>,
        read: impl FnOnce(Begin<'_>) -> (T, BTreeMap<Digest, usize>),
    ) -> Result<(T, Early), LayerError> {
        let abilities = self.abilities(work)?;
        let threads = options.parallelism.threads().min(THREADS).min(1 + layers_at_a_time());
        let begun = Mutex::new(Begun::default());
        let crew = Crew::new();
        let (result, wanted) = thread::scope(|scope| {
            let _closing = crew.closing();
            let begin = |blob: Coming| {
                let (number, given_up) = {
                    let mut begun = locked(&begun);
                    if begun.running.len() + 1 >= threads {
                        return None;
                    }
                    let given_up = Arc::new(AtomicBool::new(false));
                    begun.number += 1;
                    let number = begun.number;
                    begun.running.insert(number, Arc::clone(&given_up));
                    (number, given_up)
                };
                let (begun, crew) = (&begun, &crew);
                let unpack = move || {
                    let ending = Ending { begun, crew, number };
                    match unpack_one(blob, work, abilities, options, crew, &given_up) {
                        Ok(layer) => _ = locked(begun).done.insert(number, layer),
                        Err(error) => tracing::debug!(%error, "what looked like a layer is not unpacked yet"),
                    }
                    drop(ending);
                };
                match thread::Builder::new().spawn_scoped(scope, unpack) {
                    Ok(_) => Some(number),
                    // Without a thread it waits, like all that is too many.
                    Err(_) => {
                        locked(begun).running.remove(&number);
                        None
                    }
                }
            };
            let (result, wanted) = read(&begin);
            let running = {
                let mut begun = locked(&begun);
                begun.over = true;
                let unwanted =
                    begun.running.iter().filter(|(number, _)| !wanted.values().any(|one| one == *number));
                unwanted.for_each(|(_, given_up)| given_up.store(true, Ordering::Relaxed));
                begun.running.len()
            };
            if running > 0 {
                let help = || crew.help();
                let start = |_: usize| thread::Builder::new().spawn_scoped(scope, help).is_ok();
                (running + 1..threads).all(start);
                crew.help();
            }
            (result, wanted)
        });
        let mut done = begun.into_inner().unwrap_or_else(PoisonError::into_inner).done;
        let layers = wanted.into_iter().filter_map(|(blob, number)| Some((blob, done.remove(&number)?)));
        Ok((result, Early { layers: Mutex::new(layers.collect()) }))
    }
}

/// How many layers may be unpacked at a time without taking the files from whoever reads the archive.
fn layers_at_a_time() -> usize {
    match getrlimit(Resource::Nofile).current {
        Some(files) => usize::try_from(files.saturating_sub(OTHERS) / EACH_LAYER).unwrap_or(THREADS),
        None => THREADS,
    }
}

fn unpack_one<'env>(
    blob: Coming,
    work: &Workspace,
    abilities: Abilities,
    options: &EnsureOptions<'_>,
    crew: &Crew<'env>,
    given_up: &AtomicBool,
) -> Result<EarlyLayer, Box<dyn std::error::Error>> {
    let cancelled = || given_up.load(Ordering::Relaxed) || options.cancelled.is_some_and(|ask| ask());
    let how = options.for_unpacking(&cancelled);
    let dir = work.directory()?;
    let tree = LayerStore::stage_tree(&dir)?;
    let (unpacked, diff_id) = unpack_any(blob, Algorithm::Sha256, &tree, None, abilities, &how, Some(crew))?;
    Ok(EarlyLayer { dir: dir.park(), unpacked, diff_id })
}

/// Notes when dropped that something is unpacked, or will never be; the last lets those go who help.
struct Ending<'b, 'env> {
    begun: &'b Mutex<Begun>,
    crew: &'b Crew<'env>,
    number: usize,
}

impl Drop for Ending<'_, '_> {
    fn drop(&mut self) {
        let mut begun = locked(self.begun);
        begun.running.remove(&self.number);
        if begun.over && begun.running.is_empty() {
            self.crew.close();
        }
    }
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Nothing is left half-done under these locks, whatever panics.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
