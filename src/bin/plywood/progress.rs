//! [`Meter`]: how far something is, as a bar on standard error.
//!
//! Only where a person looks (a terminal, neither `-q` nor `--json`) and only once the work has taken half a second: what
//! is over at once needs no bar, and a flickering one is worse than none.

#[cfg(feature = "registry")]
mod transfers;

use std::io::{self, IsTerminal as _};
use std::sync::mpsc::{self, RecvTimeoutError, Sender};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::output::Output;

#[cfg(feature = "registry")]
pub(crate) use transfers::Transfers;

/// Work that is over by then shows no bar.
const DELAY: Duration = Duration::from_millis(500);

/// How often a bar moves that has nothing to tell.
const TICK: Duration = Duration::from_millis(100);

const PLAIN: &str = "{spinner} {msg}";
const COUNTING: &str = "{spinner} {msg}  {decimal_bytes}  {decimal_bytes_per_sec}";
const KNOWN: &str = "{spinner} {msg}  {wide_bar}  {decimal_bytes}/{decimal_total_bytes}  {eta}";

/// Shows that something is going on, and how far it is. Gone when dropped.
#[derive(Debug)]
pub(crate) struct Meter {
    bar: ProgressBar,
    waiting: Waiting,
}

impl Meter {
    /// A meter for work that people would call `doing`.
    pub(crate) fn new(doing: &'static str, output: Output) -> Self {
        let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::hidden());
        bar.set_message(doing);
        bar.set_style(style(PLAIN));
        let shown = bar.clone();
        let show = move || {
            shown.set_draw_target(ProgressDrawTarget::stderr());
            shown.enable_steady_tick(TICK);
        };
        Self { bar, waiting: Waiting::to(show, output) }
    }

    /// From now on it is known how many bytes there are.
    pub(crate) fn expect(&self, bytes: u64) {
        if self.bar.length() != Some(bytes) {
            self.bar.set_length(bytes);
            self.bar.set_style(style(KNOWN));
        }
    }

    /// More bytes are done.
    pub(crate) fn add(&self, bytes: u64) {
        self.set(self.bar.position() + bytes);
    }

    /// So many bytes are done by now.
    pub(crate) fn set(&self, bytes: u64) {
        if self.bar.length().is_none() && self.bar.position() == 0 {
            self.bar.set_style(style(COUNTING));
        }
        self.bar.set_position(bytes);
    }

    /// All bytes are done, and other work has begun.
    pub(crate) fn next(&self, doing: &'static str) {
        self.bar.set_style(style(PLAIN));
        self.bar.set_message(doing);
    }
}

impl Drop for Meter {
    fn drop(&mut self) {
        self.waiting.end();
        self.bar.finish_and_clear();
    }
}

/// Waits for the time to show something.
#[derive(Debug)]
struct Waiting(Option<(Sender<()>, JoinHandle<()>)>);

impl Waiting {
    /// Shows it then, if a person looks.
    fn to(show: impl FnOnce() + Send + 'static, output: Output) -> Self {
        let wanted = !output.quiet && !output.json && io::stderr().is_terminal();
        Self(wanted.then(|| {
            let (sender, receiver) = mpsc::channel::<()>();
            let thread = thread::spawn(move || {
                if receiver.recv_timeout(DELAY) == Err(RecvTimeoutError::Timeout) {
                    show();
                }
            });
            (sender, thread)
        }))
    }

    fn end(&mut self) {
        if let Some((sender, thread)) = self.0.take() {
            drop(sender);
            // It does nothing that could panic, and a bar is not worth an error.
            thread.join().unwrap_or_default();
        }
    }
}

fn style(template: &str) -> ProgressStyle {
    ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_templates_are_understood() {
        for template in [PLAIN, COUNTING, KNOWN] {
            assert!(ProgressStyle::with_template(template).is_ok(), "{template}");
        }
    }
}
