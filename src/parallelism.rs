//! [`Parallelism`]: how many threads one call may use.

use std::num::NonZeroUsize;

/// How many threads may compute at a time inside one call, the caller's own among them. They are started and ended
/// inside the call. Results do not depend on the number.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Parallelism(NonZeroUsize);

impl Parallelism {
    /// Everything on the caller's thread.
    pub const SERIAL: Self = Self(NonZeroUsize::MIN);

    /// At most this many threads.
    pub fn new(threads: NonZeroUsize) -> Self {
        Self(threads)
    }

    /// The number of threads.
    pub fn threads(self) -> usize {
        self.0.get()
    }
}

/// As many threads as this process may use CPUs, by its affinity and its cgroup's quota; one where that is unknown.
impl Default for Parallelism {
    fn default() -> Self {
        Self(std::thread::available_parallelism().unwrap_or(NonZeroUsize::MIN))
    }
}
