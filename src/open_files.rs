//! [`OpenFiles`]: the limits that an operation met when a process or the system had too many open files.

use std::error::Error;
use std::fmt;
use std::io;

use rustix::io::Errno;
use rustix::process::{Resource, getrlimit};

/// The word for programs, wherever the error is in the chain of causes.
pub(crate) const KIND: &str = "too-many-files";

/// The files that the threads of one layer keep open while it is unpacked.
pub(crate) const EACH_LAYER: u64 = 150;

/// The files that everything else keeps open: the store, the archive, the connections of a registry.
pub(crate) const OTHERS: u64 = 100;

/// The layers that are unpacked at a time at most.
pub(crate) const LAYERS_AT_A_TIME: usize = 10;

/// The directories that are open while a root is mounted: one for each layer, of which overlayfs takes 500.
const STACK: u64 = 500;

/// Why no file could be opened (`EMFILE`, `ENFILE`), and how many the process may have.
///
/// Displays as a sentence.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct OpenFiles {
    /// Whether the whole system has too many (`fs.file-max`), and not this process.
    pub of_system: bool,
    /// The soft limit of this process, `RLIMIT_NOFILE`. `None` if there is none.
    pub limit: Option<u64>,
    /// The hard limit, up to which the process may raise the soft one.
    pub hard_limit: Option<u64>,
    /// The number that is enough for every operation of this crate by estimate, besides the files that the caller has
    /// open. Twice the present limit if that is as high already.
    pub needed: u64,
}

impl OpenFiles {
    /// Finds `EMFILE` or `ENFILE` anywhere among `error` and its causes. The limits are those of the process at the time of
    /// the call.
    pub fn of(error: &(dyn Error + 'static)) -> Option<Self> {
        let of_system = is_of_system(error)?;
        let limits = getrlimit(Resource::Nofile);
        let enough = OTHERS + EACH_LAYER * LAYERS_AT_A_TIME as u64 + STACK;
        let needed = match limits.current {
            Some(limit) if limit >= enough => limit.saturating_mul(2),
            _ => enough,
        };
        Some(Self { of_system, limit: limits.current, hard_limit: limits.maximum, needed })
    }

    /// Returns `limit`, `hard_limit`, `needed` and `scope` (`process` or `system`), as [`StoreError::facts`] has them.
    ///
    /// [`StoreError::facts`]: crate::store::StoreError::facts
    pub(crate) fn facts(&self) -> Vec<(&'static str, String)> {
        vec![
            ("limit", number(self.limit)),
            ("hard_limit", number(self.hard_limit)),
            ("needed", self.needed.to_string()),
            ("scope", if self.of_system { "system" } else { "process" }.to_owned()),
        ]
    }
}

impl fmt::Display for OpenFiles {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.of_system {
            return f.write_str("the whole system has too many open files");
        }
        let (limit, hard, needed) = (number(self.limit), number(self.hard_limit), self.needed);
        write!(
            f,
            "this process may have {limit} open files (hard limit {hard}), and about {needed} are needed"
        )
    }
}

fn number(limit: Option<u64>) -> String {
    limit.map_or_else(|| "unlimited".to_owned(), |limit| limit.to_string())
}

/// Whether the first such error in the chain is that of the system; `None` if there is none.
fn is_of_system(error: &(dyn Error + 'static)) -> Option<bool> {
    let mut next = Some(error);
    while let Some(error) = next {
        let errno = match error.downcast_ref::<io::Error>() {
            // An error inside another is no source of that one: its own source is.
            Some(outer) => match outer.get_ref() {
                Some(inner) => return is_of_system(inner),
                None => Errno::from_io_error(outer),
            },
            None => error.downcast_ref::<Errno>().copied(),
        };
        match errno {
            Some(Errno::MFILE) => return Some(false),
            Some(Errno::NFILE) => return Some(true),
            _ => next = error.source(),
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("outer")]
    struct Outer(#[source] io::Error);

    #[test]
    fn the_error_is_found_wherever_it_is_in_the_chain() {
        for (errno, of_system) in [(Errno::MFILE, false), (Errno::NFILE, true)] {
            let plain = || io::Error::from(errno);
            let errors: [Box<dyn Error>; 5] = [
                Box::new(errno),
                Box::new(plain()),
                Box::new(Outer(plain())),
                Box::new(io::Error::other(Outer(plain()))),
                Box::new(Outer(io::Error::other(io::Error::other(Outer(io::Error::other(plain())))))),
            ];
            for error in errors {
                let found = OpenFiles::of(error.as_ref()).unwrap();
                assert_eq!(found.of_system, of_system, "{error:?}");
                assert!(found.limit.is_none_or(|limit| found.needed > limit), "{found:?}");
            }
        }
        for other in [io::Error::from(Errno::NOSPC), io::Error::other("too many open files")] {
            assert_eq!(OpenFiles::of(&Outer(other)), None);
        }
    }
}
