//! [`Engine`]: the async runtime that the client runs on, on a thread of its own.
//!
//! Callers wait for results on a channel and never drive the runtime themselves, so they may be inside one of their own. The
//! thread ends with the engine; what nobody waits for any more is dropped, and its connection with it.

use std::future::Future;
use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use tokio::runtime::{Builder, Handle};
use tokio::sync::oneshot;
use tokio::task::AbortHandle;

/// How often somebody who waits looks whether that is still wanted.
const GLANCE: Duration = Duration::from_millis(50);

/// Why there is no result: it is not wanted any more, or what made it is gone.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum NoResult {
    Cancelled,
    Lost,
}

/// A runtime and its thread.
#[derive(Debug)]
pub(super) struct Engine {
    handle: Handle,
    /// Dropping it ends the thread.
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Engine {
    pub(super) fn start() -> io::Result<Self> {
        let (stop, stopped) = oneshot::channel();
        let (started, start) = mpsc::channel();
        // Made and dropped by the thread: neither is allowed inside somebody else's runtime.
        let run = move || {
            let runtime = match Builder::new_current_thread().enable_all().build() {
                Ok(runtime) => runtime,
                Err(error) => return started.send(Err(error)).unwrap_or_default(),
            };
            if started.send(Ok(runtime.handle().clone())).is_ok() {
                // It ends when the other half is dropped, which is no error.
                runtime.block_on(stopped).unwrap_or_default();
            }
        };
        let thread = thread::Builder::new().name("registry".to_owned()).spawn(run)?;
        let lost = |_| io::Error::other("the thread of the registry client ended");
        let handle = start.recv().map_err(lost)??;
        Ok(Self { handle, stop: Some(stop), thread: Some(thread) })
    }

    /// Starts something.
    pub(super) fn spawn<T: Send + 'static>(
        &self,
        future: impl Future<Output = T> + Send + 'static,
    ) -> Pending<T> {
        let (sender, receiver) = mpsc::channel();
        let task = self.handle.spawn(async move {
            // Nobody may want it any more.
            sender.send(future.await).unwrap_or_default();
        });
        Pending { receiver, task: task.abort_handle() }
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            // A panic there was somebody's lost result.
            thread.join().unwrap_or_default();
        }
    }
}

/// A result that is yet to come. Given up when dropped.
#[derive(Debug)]
pub(super) struct Pending<T> {
    receiver: Receiver<T>,
    task: AbortHandle,
}

impl<T> Pending<T> {
    /// Waits for it, unless `cancel` is set meanwhile.
    pub(super) fn wait(self, cancel: Option<&AtomicBool>) -> Result<T, NoResult> {
        self.wait_while(cancel, || true)
    }

    /// Waits for it, unless `cancel` is set meanwhile or `goes_on` returns false, which is asked now and then.
    pub(super) fn wait_while(
        self,
        cancel: Option<&AtomicBool>,
        mut goes_on: impl FnMut() -> bool,
    ) -> Result<T, NoResult> {
        loop {
            match self.receiver.recv_timeout(GLANCE) {
                Ok(value) => return Ok(value),
                Err(RecvTimeoutError::Disconnected) => return Err(NoResult::Lost),
                Err(RecvTimeoutError::Timeout) if is_set(cancel) || !goes_on() => {
                    return Err(NoResult::Cancelled);
                }
                Err(RecvTimeoutError::Timeout) => {}
            }
        }
    }
}

impl<T> Drop for Pending<T> {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Waits for so long; `false` if `cancel` was set meanwhile.
pub(super) fn pause(time: Duration, cancel: Option<&AtomicBool>) -> bool {
    let end = Instant::now() + time;
    loop {
        if is_set(cancel) {
            return false;
        }
        match end.checked_duration_since(Instant::now()) {
            None | Some(Duration::ZERO) => return true,
            Some(left) => thread::sleep(left.min(GLANCE)),
        }
    }
}

pub(super) fn is_set(cancel: Option<&AtomicBool>) -> bool {
    cancel.is_some_and(|cancel| cancel.load(Ordering::Relaxed))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_engine_works_inside_a_runtime_of_the_caller_and_ends_there() {
        let runtime = Builder::new_current_thread().build().unwrap();
        let value = runtime.block_on(async {
            let engine = Engine::start().unwrap();
            engine.spawn(async { 7 }).wait(None)
        });
        assert_eq!(value, Ok(7));
    }

    #[test]
    fn who_does_not_want_a_result_any_more_does_not_wait_for_it() {
        let engine = Engine::start().unwrap();
        let cancel = AtomicBool::new(true);
        let never = engine.spawn(std::future::pending::<()>());
        assert_eq!(never.wait(Some(&cancel)), Err(NoResult::Cancelled));
        assert!(!pause(Duration::from_secs(3600), Some(&cancel)));
    }

    #[test]
    fn a_task_that_panics_is_a_lost_result_and_harms_no_other() {
        let engine = Engine::start().unwrap();
        let lost = engine.spawn(async { panic!("this one") });
        assert_eq!(lost.wait(None).map(|(): ()| ()), Err(NoResult::Lost));
        assert_eq!(engine.spawn(async { 7 }).wait(None), Ok(7));
    }
}
