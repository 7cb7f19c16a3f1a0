//! [`Parallelism`]: how many threads one call may use.

use std::num::NonZeroUsize;

/// How many threads may compute at a time inside one call, the caller's own among them. They are started and ended
/// inside the call. Results do not depend on the number.
///
/// Default: as many as this process may use CPUs, by its affinity and its cgroup's quota, counted when a call needs them;
/// one where that is unknown.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Parallelism(Option<NonZeroUsize>);

impl Parallelism {
    /// Everything on the caller's thread.
    pub const SERIAL: Self = Self(Some(NonZeroUsize::MIN));

    /// At most this many threads.
    pub fn new(threads: NonZeroUsize) -> Self {
        Self(Some(threads))
    }

    /// The number of threads.
    pub fn threads(self) -> usize {
        // Asking takes a dozen system calls, and most operations start no thread.
        let counted = || std::thread::available_parallelism().unwrap_or(NonZeroUsize::MIN);
        self.0.unwrap_or_else(counted).get()
    }
}
