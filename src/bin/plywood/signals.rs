//! [`Interrupt`]: Ctrl-C as a flag, for commands that can stop cleanly.
//!
//! A command that never asks for one dies of the signal, which is clean as well: what a dead process leaves in the
//! store is invisible, and the next `gc` removes it. The flag is for those that could wait for long or that leave a file
//! beside the store. However busy the command is, the process is gone [`PATIENCE`] after the signal.

use std::fs;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI32, Ordering};
use std::thread;
use std::time::Duration;

use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

use crate::errors::Failure;

/// How long a command may take to put its things away.
const PATIENCE: Duration = Duration::from_millis(1500);

/// Whether the user wants the command to end.
#[derive(Clone, Debug, Default)]
pub(crate) struct Interrupt {
    flag: Arc<AtomicBool>,
    signal: Arc<AtomicI32>,
}

impl Interrupt {
    /// From now on, signals that ask the process to end set the flag; a second one ends it at once.
    pub(crate) fn watch() -> Result<Self, Failure> {
        let interrupt = Self::default();
        let mut signals = vec![SIGINT, SIGTERM];
        // `nohup` means it.
        if !is_ignored(SIGHUP) {
            signals.push(SIGHUP);
        }
        let start = || -> io::Result<()> {
            let mut signals = Signals::new(signals)?;
            let interrupt = interrupt.clone();
            thread::Builder::new().name("signals".to_owned()).spawn(move || {
                for signal in signals.forever() {
                    interrupt.signal.store(signal, Ordering::SeqCst);
                    if interrupt.flag.swap(true, Ordering::SeqCst) {
                        std::process::exit(128 + signal);
                    }
                    thread::spawn(move || {
                        thread::sleep(PATIENCE);
                        std::process::exit(128 + signal);
                    });
                }
            })?;
            Ok(())
        };
        start().map_err(|source| Failure::Io { doing: "watch for signals".to_owned(), source })?;
        Ok(interrupt)
    }

    /// The flag, as the library takes it.
    pub(crate) fn flag(&self) -> &AtomicBool {
        &self.flag
    }

    /// Fails once the flag is set.
    pub(crate) fn check(&self) -> io::Result<()> {
        // Not ErrorKind::Interrupted: that asks to be tried again.
        if self.flag.load(Ordering::SeqCst) { Err(io::Error::other("interrupted")) } else { Ok(()) }
    }

    /// `failure`, unless the reason for it is that the user wanted it.
    pub(crate) fn explain(&self, failure: Failure) -> Failure {
        match self.flag.load(Ordering::SeqCst) {
            true => Failure::Interrupted(self.signal.load(Ordering::SeqCst)),
            false => failure,
        }
    }
}

/// Whether whoever started this process chose that it does not get `signal`.
fn is_ignored(signal: i32) -> bool {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    let mask = mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok());
    mask.is_some_and(|mask| mask >> (signal - 1) & 1 == 1)
}

/// Ends the process the way a program ends whose reader went away: by SIGPIPE, which a shell does not report.
pub(crate) fn die_of_a_closed_pipe() -> u8 {
    // Returns only if it cannot be done.
    signal_hook::low_level::emulate_default_handler(signal_hook::consts::SIGPIPE).map_or(141, |()| 141)
}
