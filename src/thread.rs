//! Threads that are named, woken and joined: nothing is detached.

use std::io;
use std::thread::JoinHandle;

use log::error;

/// A running thread. Dropping it wakes the thread and waits for its end.
///
/// Locals drop, hence threads join, in reverse order of their making.
#[must_use = "dropping it ends the thread"]
pub struct Joined {
    thread: Option<JoinHandle<()>>,
    wake: Option<Box<dyn FnOnce() + Send + Sync>>,
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
        let thread = std::thread::Builder::new().name(name.to_owned()).spawn(body)?;
        Ok(Self { thread: Some(thread), wake: Some(Box::new(wake)) })
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
