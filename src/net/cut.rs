//! One switch for all that is under way for one purpose.

use std::io;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

use super::Deadline;

/// Ends at once, and for good, every wait that was begun in its name. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub(crate) struct Cut(Arc<Inner>);

#[derive(Debug, Default)]
struct Inner {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    is_cut: bool,
    deadlines: Vec<Weak<Deadline>>,
}

/// What was to be waited for is not wanted any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct WasCut;

impl Cut {
    /// Ends what is under way, and whatever begins later.
    pub(crate) fn cut(&self) {
        let mut state = self.state();
        state.is_cut = true;
        for deadline in std::mem::take(&mut state.deadlines) {
            if let Some(deadline) = deadline.upgrade() {
                deadline.cut(Duration::ZERO);
            }
        }
        self.0.changed.notify_all();
    }

    pub(crate) fn is_cut(&self) -> bool {
        self.state().is_cut
    }

    /// A deadline of its own, which this switch cuts as well.
    ///
    /// # Errors
    /// If the process has no descriptor to spare.
    pub(crate) fn deadline(&self) -> io::Result<Arc<Deadline>> {
        let deadline = Arc::new(Deadline::new()?);
        let mut state = self.state();
        if state.is_cut {
            deadline.cut(Duration::ZERO);
        } else {
            state.deadlines.retain(|other| other.strong_count() > 0);
            state.deadlines.push(Arc::downgrade(&deadline));
        }
        drop(state);
        Ok(deadline)
    }

    /// Waits for `time`.
    ///
    /// # Errors
    /// As soon as it is cut.
    pub(crate) fn pause(&self, time: Duration) -> Result<(), WasCut> {
        let end = Instant::now() + time;
        let mut state = self.state();
        loop {
            if state.is_cut {
                return Err(WasCut);
            }
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(());
            }
            state = self.0.changed.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use rustix::event::{EventfdFlags, PollFlags, eventfd};

    use super::*;

    const LONG: Duration = Duration::from_secs(600);

    #[test]
    fn a_cut_ends_pauses_and_exchanges_of_now_and_later() {
        let cut = Cut::default();
        let waiters = [true, false].map(|pauses| {
            let cut = cut.clone();
            let deadline = cut.deadline().unwrap();
            std::thread::spawn(move || {
                if pauses {
                    return cut.pause(LONG).is_err();
                }
                deadline.begin(LONG);
                deadline.wait(eventfd(0, EventfdFlags::CLOEXEC).unwrap(), PollFlags::IN, 1).is_err()
            })
        });
        cut.cut();
        assert!(waiters.into_iter().all(|waiter| waiter.join().unwrap()));
        assert_eq!(cut.pause(LONG), Err(WasCut));
        let late = cut.deadline().unwrap();
        late.begin(LONG);
        assert!(late.wait(eventfd(1, EventfdFlags::CLOEXEC).unwrap(), PollFlags::IN, 1).is_err());
    }

    #[test]
    fn a_pause_that_nobody_cuts_ends_by_itself() {
        assert_eq!(Cut::default().pause(Duration::from_millis(1)), Ok(()));
    }
}
