//! Threads that are named, woken and joined: none is detached but one that hangs, at the end of the process.

use std::io;
use std::thread::JoinHandle;
use std::time::Instant;

use crossbeam_channel::{Receiver, RecvTimeoutError, bounded};
use log::error;

/// A running thread. Dropping it wakes the thread and waits for its end.
///
/// Locals drop, hence threads join, in reverse order of their making.
#[must_use = "dropping it ends the thread"]
pub struct Joined {
    thread: Option<JoinHandle<()>>,
    wake: Option<Box<dyn FnOnce() + Send + Sync>>,
    /// Closed when its body has ended.
    ended: Receiver<()>,
}

impl Joined {
    /// Starts `body` on a thread called `name` (at most 15 bytes: Linux cuts the rest).
    ///
    /// `wake` is called once before the join: it closes the channel or writes the eventfd that the
    /// thread waits for. It may be empty where dropping a sender elsewhere does that.
    ///
    /// # Errors
    /// If the system has no thread to give.
    pub fn spawn(
        name: &str,
        wake: impl FnOnce() + Send + Sync + 'static,
        body: impl FnOnce() + Send + 'static,
    ) -> io::Result<Self> {
        debug_assert!(name.len() <= 15, "Linux cuts a thread's name at 15 bytes");
        let (alive, ended) = bounded(0);
        let body = move || {
            let _alive = alive;
            body();
        };
        let thread = std::thread::Builder::new().name(name.to_owned()).spawn(body)?;
        Ok(Self { thread: Some(thread), wake: Some(Box::new(wake)), ended })
    }

    /// Starts a thread that owns state: if it panics, the process aborts, so that no half-dead daemon
    /// goes on without it.
    ///
    /// # Errors
    /// If the system has no thread to give.
    pub fn spawn_vital(
        name: &'static str,
        wake: impl FnOnce() + Send + Sync + 'static,
        body: impl FnOnce() + Send + 'static,
    ) -> io::Result<Self> {
        Self::spawn(name, wake, move || {
            if std::panic::catch_unwind(std::panic::AssertUnwindSafe(body)).is_err() {
                error!("a thread that owns state panicked; the process ends thread={name}");
                std::process::abort();
            }
        })
    }

    /// Wakes the thread and waits for its end.
    pub fn join(self) {}

    /// The same until then at most, for nothing wakes a thread that hangs in a disk. Tells whether it has ended; one
    /// that has not is left behind, with all that it holds.
    pub fn join_by(mut self, until: Instant) -> bool {
        if let Some(wake) = self.wake.take() {
            wake();
        }
        if self.ended.recv_deadline(until) != Err(RecvTimeoutError::Timeout) {
            return true; // joined where it drops
        }
        if let Some(thread) = self.thread.take() {
            error!("a thread hangs and is left behind name={}", thread.thread().name().unwrap_or("?"));
        }
        false
    }
}

impl Drop for Joined {
    fn drop(&mut self) {
        if let Some(wake) = self.wake.take() {
            wake();
        }
        let Some(thread) = self.thread.take() else { return };
        let name = thread.thread().name().unwrap_or("?").to_owned();
        if thread.join().is_err() {
            error!("thread panicked name={name}");
        }
    }
}
