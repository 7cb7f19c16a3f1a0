//! [`Crew`]: the threads of one call, and how those that have nothing of their own to do help the others.
//!
//! Layers differ in size by a factor of a thousand, so sharing them out leaves threads idle in the end. A thread without
//! a layer waits here for a task from one that has; a task is offered only to a thread that waits, so there are never
//! more tasks than threads, and whoever offers does the work itself when nobody waits.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

/// Something that another thread may do.
pub(super) type Task<'env> = Box<dyn FnOnce() + Send + 'env>;

/// Where threads wait for tasks.
pub(super) struct Crew<'env> {
    state: Mutex<State<'env>>,
    wake: Condvar,
    /// Threads that wait, less the tasks that are on their way to them. A hint, read without the lock.
    idle: AtomicUsize,
}

#[derive(Default)]
struct State<'env> {
    tasks: Vec<Task<'env>>,
    closed: bool,
}

impl<'env> Crew<'env> {
    pub(super) fn new() -> Self {
        Self { state: Mutex::default(), wake: Condvar::new(), idle: AtomicUsize::new(0) }
    }

    /// Whether a task would be taken now; another may be quicker.
    pub(super) fn is_idle(&self) -> bool {
        self.idle.load(Ordering::Relaxed) > 0
    }

    /// Gives `task` to a waiting thread, or back if none waits.
    pub(super) fn offer(&self, task: Task<'env>) -> Result<(), Task<'env>> {
        let mut state = self.lock();
        if self.idle.load(Ordering::Relaxed) == 0 || state.closed {
            return Err(task);
        }
        self.idle.fetch_sub(1, Ordering::Relaxed);
        state.tasks.push(task);
        self.wake.notify_one();
        Ok(())
    }

    /// Does what others offer until the crew is closed.
    pub(super) fn help(&self) {
        let mut state = self.lock();
        while !state.closed {
            self.idle.fetch_add(1, Ordering::Relaxed);
            let task = loop {
                if let Some(task) = state.tasks.pop() {
                    break task;
                }
                if state.closed {
                    return;
                }
                state = self.wake.wait(state).unwrap_or_else(PoisonError::into_inner);
            };
            drop(state);
            task();
            state = self.lock();
        }
    }

    /// Lets the helping threads go.
    pub(super) fn close(&self) {
        let mut state = self.lock();
        state.closed = true;
        // A task that nobody has begun is dropped, and whoever waits for it finds its channel closed.
        state.tasks.clear();
        self.wake.notify_all();
    }

    /// Closes the crew when dropped, also by a panic: nobody waits for a thread that is gone.
    pub(super) fn closing(&self) -> Closing<'_, 'env> {
        Closing { crew: self, only_by_panic: false }
    }

    /// Closes the crew if this is dropped by a panic.
    pub(super) fn closing_by_panic(&self) -> Closing<'_, 'env> {
        Closing { crew: self, only_by_panic: true }
    }

    fn lock(&self) -> MutexGuard<'_, State<'env>> {
        // Nothing in here panics while the lock is held.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// See [`Crew::closing`].
pub(super) struct Closing<'c, 'env> {
    crew: &'c Crew<'env>,
    only_by_panic: bool,
}

impl Drop for Closing<'_, '_> {
    fn drop(&mut self) {
        if !self.only_by_panic || std::thread::panicking() {
            self.crew.close();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    #[test]
    fn a_task_goes_to_a_thread_that_waits_and_to_no_other() {
        let crew = Crew::new();
        assert!(crew.offer(Box::new(|| ())).is_err());
        std::thread::scope(|scope| {
            let closing = crew.closing();
            scope.spawn(|| crew.help());
            let (done, result) = mpsc::channel();
            for number in 0..100 {
                let mut task: Task<'_> = Box::new({
                    let done = done.clone();
                    move || done.send(number).unwrap()
                });
                while let Err(back) = crew.offer(task) {
                    task = back;
                    std::thread::yield_now();
                }
                assert_eq!(result.recv(), Ok(number));
            }
            drop(closing);
        });
        assert!(crew.offer(Box::new(|| ())).is_err());
    }
}
