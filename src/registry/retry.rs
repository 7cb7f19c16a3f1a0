//! [`Attempts`]: how often something is tried again, and after what time.

use std::sync::atomic::AtomicBool;
use std::time::Duration;

use super::RegistryError;
use super::engine::pause;

/// Who is told to wait longer gives up at once, and says so.
const LONGEST: Duration = Duration::from_secs(60);

/// Attempts at one thing. The time between them doubles, and is not the same for all who wait for the same server.
#[derive(Clone, Debug)]
pub(super) struct Attempts {
    allowed: u32,
    made: u32,
    first: Duration,
}

impl Attempts {
    /// `allowed` more after the first, the second `first` after it.
    pub(super) fn new(allowed: u32, first: Duration) -> Self {
        Self { allowed, made: 0, first }
    }

    /// There is progress: what failed before does not count any more.
    pub(super) fn forget(&mut self) {
        self.made = 0;
    }

    /// Waits for the time to try again after `error`.
    ///
    /// # Errors
    ///
    /// `error`, if there is no point in trying again; [`RegistryError::Cancelled`].
    pub(super) fn next(
        &mut self,
        error: RegistryError,
        cancel: Option<&AtomicBool>,
    ) -> Result<(), RegistryError> {
        let time = error.retry_after().unwrap_or_else(|| self.delay());
        if !error.is_passing() || self.made == self.allowed || time > LONGEST {
            return Err(error);
        }
        self.made += 1;
        tracing::debug!(error = &error as &dyn std::error::Error, ?time, "trying again");
        if pause(time, cancel) { Ok(()) } else { Err(RegistryError::Cancelled) }
    }

    /// Counts an attempt after `error`, without a wait.
    ///
    /// # Errors
    ///
    /// `error`, if there were enough of them.
    pub(super) fn count(&mut self, error: RegistryError) -> Result<(), RegistryError> {
        if self.made == self.allowed {
            return Err(error);
        }
        self.made += 1;
        Ok(())
    }

    /// Between the half and the whole of what is due.
    fn delay(&self) -> Duration {
        let due = self.first.saturating_mul(1 << self.made.min(16)).min(LONGEST);
        // Without random numbers everybody waits the same time, which is no fault.
        let random = getrandom::u32().unwrap_or(u32::MAX);
        due / 2 + (due / 2).mul_f64(f64::from(random) / f64::from(u32::MAX))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(status: u16, retry_after: Option<Duration>) -> RegistryError {
        let (registry, action, said) = ("r".to_owned(), "read".to_owned(), String::new());
        RegistryError::Refused { registry, action, status, said, retry_after }
    }

    #[test]
    fn what_may_pass_is_tried_again_so_often_and_no_more() {
        let mut attempts = Attempts::new(2, Duration::ZERO);
        for expected in [true, true, false] {
            assert_eq!(attempts.next(refused(503, None), None).is_ok(), expected);
        }
        attempts.forget();
        assert!(attempts.next(refused(429, None), None).is_ok());
        assert!(attempts.next(refused(404, None), None).is_err());
    }

    #[test]
    fn the_time_between_attempts_doubles_and_has_an_end() {
        let mut attempts = Attempts::new(100, Duration::from_secs(1));
        for (made, most) in [(0, 1), (1, 2), (3, 8), (6, 60), (99, 60)] {
            attempts.made = made;
            let delay = attempts.delay();
            let most = Duration::from_secs(most);
            assert!(most / 2 <= delay && delay <= most, "{delay:?}");
        }
    }

    #[test]
    fn a_registry_that_wants_to_be_left_alone_for_long_is() {
        let mut attempts = Attempts::new(2, Duration::ZERO);
        assert!(attempts.next(refused(429, Some(Duration::from_secs(3600))), None).is_err());
        assert!(attempts.next(refused(429, Some(Duration::ZERO)), None).is_ok());
    }
}
