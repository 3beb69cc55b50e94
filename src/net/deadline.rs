//! The end of what is under way, which another thread may bring forward.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};
use rustix::io::{Errno, write};

/// Every wait for a peer ends here: a name, a connect, a handshake, a request and its answer all have one
/// deadline together, and [`Deadline::cut`] reaches each of them.
#[derive(Debug)]
pub struct Deadline {
    /// Readable from the cut on.
    woken: OwnedFd,
    times: Mutex<Times>,
}

#[derive(Debug, Clone, Copy)]
struct Times {
    /// The end of the present exchange.
    exchange: Instant,
    /// What ends it sooner.
    cut: Option<Instant>,
    /// What ends all of them.
    limit: Option<Instant>,
}

impl Deadline {
    /// A deadline that has passed: nothing may be waited for before [`Deadline::begin`].
    ///
    /// # Errors
    /// If the process has no descriptor to spare.
    pub fn new() -> io::Result<Self> {
        let woken = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        Ok(Self { woken, times: Mutex::new(Times { exchange: Instant::now(), cut: None, limit: None }) })
    }

    /// An exchange begins that may take `all`; less if it is cut, or has been.
    pub fn begin(&self, all: Duration) {
        self.times().exchange = Instant::now() + all;
    }

    /// The last word begins: it has `all`, whatever was cut before it.
    pub fn begin_last(&self, all: Duration) {
        let end = Instant::now() + all;
        *self.times() = Times { exchange: end, cut: Some(end), limit: None };
    }

    /// All exchanges together end at `end`.
    pub fn limit(&self, end: Instant) {
        self.times().limit = Some(end);
    }

    /// What is under way, and what begins after it, has `left` and no more. The first cut counts.
    pub fn cut(&self, left: Duration) {
        self.times().cut.get_or_insert_with(|| Instant::now() + left);
        // Fails only where the counter is full, and then the waiter wakes as well.
        let _ = write(&self.woken, &1_u64.to_ne_bytes());
    }

    /// Waits for `events` of `fd`, at most for the `share` of what is left, which is divided by it.
    ///
    /// # Errors
    /// [`io::ErrorKind::TimedOut`] once the deadline or the share has passed, also if `fd` is ready: a
    /// peer that sends without end is no reason to stay.
    pub fn wait(&self, fd: impl AsFd, events: PollFlags, share: u32) -> io::Result<()> {
        let began = Instant::now();
        loop {
            let Times { exchange, cut, limit } = *self.times();
            let end = [cut, limit].into_iter().flatten().fold(exchange, Instant::min);
            let end = began + end.saturating_duration_since(began) / share;
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(io::ErrorKind::TimedOut.into());
            }
            let left = Timespec::try_from(left).expect("a deadline is seconds away, not centuries");
            let mut fds = [PollFd::new(&fd, events), PollFd::new(&self.woken, PollFlags::IN)];
            // After a cut only its time counts: the eventfd stays readable.
            let watched = if cut.is_some() { 1 } else { 2 };
            match poll(&mut fds[..watched], Some(&left)) {
                Ok(_) if !fds[0].revents().is_empty() => return Ok(()),
                Ok(_) | Err(Errno::INTR) => {}
                Err(e) => return Err(e.into()),
            }
        }
    }

    fn times(&self) -> MutexGuard<'_, Times> {
        self.times.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;

    const LONG: Duration = Duration::from_secs(600);

    fn silent() -> OwnedFd {
        eventfd(0, EventfdFlags::CLOEXEC).unwrap()
    }

    #[test]
    fn a_cut_ends_a_wait_that_has_begun() {
        let deadline = Arc::new(Deadline::new().unwrap());
        deadline.begin(LONG);
        let waiter = std::thread::spawn({
            let deadline = Arc::clone(&deadline);
            move || deadline.wait(silent(), PollFlags::IN, 1)
        });
        deadline.cut(Duration::ZERO);
        assert_eq!(waiter.join().unwrap().unwrap_err().kind(), io::ErrorKind::TimedOut);
    }

    #[test]
    fn what_begins_after_a_cut_is_cut_too_but_not_the_last_word() {
        let deadline = Deadline::new().unwrap();
        deadline.cut(Duration::ZERO);
        deadline.begin(LONG);
        let ready = eventfd(1, EventfdFlags::CLOEXEC).unwrap();
        assert!(deadline.wait(&ready, PollFlags::IN, 1).is_err(), "even though it is ready");
        deadline.begin_last(LONG);
        assert!(deadline.wait(&ready, PollFlags::IN, 1).is_ok());
    }
}
