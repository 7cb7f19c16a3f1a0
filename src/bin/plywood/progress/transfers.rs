//! [`Transfers`]: a bar for each blob that is on its way.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget};
use plywood::Digest;
use plywood::archive::Transfer;

use super::{KNOWN, PLAIN, TICK, Waiting, style};
use crate::output::Output;

/// Shows what moves, one line for each blob and one for all. Gone when dropped.
#[derive(Debug)]
pub(crate) struct Transfers {
    all: MultiProgress,
    /// What goes on as a whole.
    whole: ProgressBar,
    doing: &'static str,
    blobs: Mutex<Blobs>,
    waiting: Waiting,
}

#[derive(Debug, Default)]
struct Blobs {
    moving: BTreeMap<Digest, ProgressBar>,
    begun: usize,
    done: usize,
    present: usize,
}

impl Transfers {
    /// For something that people would call `doing`.
    pub(crate) fn new(doing: &'static str, output: Output) -> Self {
        let all = MultiProgress::with_draw_target(ProgressDrawTarget::hidden());
        let whole = all.add(ProgressBar::no_length().with_style(style(PLAIN)).with_message(doing));
        let (shown, ticking) = (all.clone(), whole.clone());
        let show = move || {
            shown.set_draw_target(ProgressDrawTarget::stderr());
            ticking.enable_steady_tick(TICK);
        };
        Self { all, whole, doing, blobs: Mutex::default(), waiting: Waiting::to(show, output) }
    }

    /// Something happened to a blob.
    pub(crate) fn tell(&self, transfer: Transfer) {
        let mut blobs = self.blobs.lock().unwrap_or_else(PoisonError::into_inner);
        match transfer {
            Transfer::Present { .. } => blobs.present += 1,
            Transfer::Started { digest, size } => {
                blobs.begun += 1;
                let name = digest.hex().chars().take(12).collect::<String>();
                let bar = ProgressBar::new(size).with_style(style(KNOWN)).with_message(name);
                blobs.moving.insert(digest, self.all.insert_before(&self.whole, bar));
            }
            Transfer::Moved { digest, bytes } => {
                if let Some(bar) = blobs.moving.get(&digest) {
                    bar.set_position(bytes);
                }
                return;
            }
            Transfer::Finished { digest } => {
                blobs.done += 1;
                if let Some(bar) = blobs.moving.remove(&digest) {
                    bar.finish_and_clear();
                    self.all.remove(&bar);
                }
            }
            _ => return,
        }
        let Blobs { begun, done, present, .. } = *blobs;
        let there = if present > 0 { format!(", {present} were there") } else { String::new() };
        self.whole.set_message(format!("{}  {done} of {begun} blobs{there}", self.doing));
    }
}

impl Drop for Transfers {
    fn drop(&mut self) {
        self.waiting.end();
        for bar in self.blobs.lock().unwrap_or_else(PoisonError::into_inner).moving.values() {
            bar.finish_and_clear();
        }
        self.whole.finish_and_clear();
    }
}
