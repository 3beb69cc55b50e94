//! When the next heartbeat is due. Pure: the time and the random numbers are arguments.

use std::time::{Duration, Instant};

use crate::id::Entropy;
use crate::limits;

/// The one deadline of the relay.
///
/// ```text
///            posted ok: in an interval
///          ┌──────────┐   changed: at most RELAY_COALESCE away
///          ▼          │
///       on time ──────┘
///        │   ▲ posted ok
/// failed ▼   │
///       backing off ──┐   failed: the wait doubles, up to the interval
///          ▲          │   changed: nothing, the next post carries it anyway
///          └──────────┘
/// ```
#[derive(Debug, Clone)]
pub struct Schedule {
    interval: Duration,
    due: Instant,
    /// The wait after the next failure; some while the queen is away.
    backoff: Option<Duration>,
}

/// What an outcome means for who reads the log: said once for each turn, not for each post.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Turn {
    /// The first failure after a success, or the very first post.
    Lost,
    /// The first success after failures.
    Found,
}

impl Schedule {
    /// The first post is due at once. `interval` is brought within
    /// [`limits::RELAY_INTERVAL_MIN`] and [`limits::RELAY_INTERVAL_MAX`].
    pub fn new(now: Instant, interval: Duration) -> Self {
        let interval = interval.clamp(limits::RELAY_INTERVAL_MIN, limits::RELAY_INTERVAL_MAX);
        Self { interval, due: now, backoff: None }
    }

    /// When the next post is due; in the past if it is overdue.
    pub fn due(&self) -> Instant {
        self.due
    }

    /// Some worker's state has changed. A burst of changes makes one post, since only the first of them
    /// moves the deadline; while the queen is away none does.
    pub fn changed(&mut self, now: Instant) {
        if self.backoff.is_none() {
            self.due = self.due.min(now + limits::RELAY_COALESCE);
        }
    }

    /// The post that began at `began` has arrived.
    pub fn posted(&mut self, began: Instant) -> Option<Turn> {
        self.due = began + self.interval;
        self.backoff.take().map(|_| Turn::Found)
    }

    /// The post that ended at `now` has failed. Waits are spread by 20 % either way, so that the hives
    /// of a cluster do not come back to their queen as one.
    pub fn failed(&mut self, now: Instant, entropy: &mut dyn Entropy) -> Option<Turn> {
        let turn = if self.backoff.is_none() { Some(Turn::Lost) } else { None };
        let wait = self.backoff.unwrap_or(limits::RELAY_BACKOFF_FIRST).min(self.interval);
        self.backoff = Some(wait * 2);
        self.due = now + spread(wait, entropy);
        turn
    }
}

/// `wait` times something between 0.8 and 1.2.
fn spread(wait: Duration, entropy: &mut dyn Entropy) -> Duration {
    let mut random = [0; 2];
    entropy.fill(&mut random);
    wait.mul_f64(0.8 + 0.4 * f64::from(u16::from_le_bytes(random)) / f64::from(u16::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    const INTERVAL: Duration = Duration::from_secs(30);

    /// Gives the same byte for ever: 0 for the shortest wait, 255 for the longest.
    struct Always(u8);

    impl Entropy for Always {
        fn fill(&mut self, bytes: &mut [u8]) {
            bytes.fill(self.0);
        }
    }

    fn on_time() -> (Instant, Schedule) {
        let now = Instant::now();
        let mut schedule = Schedule::new(now, INTERVAL);
        assert_eq!(schedule.due(), now, "the queen hears of a hive at once");
        assert_eq!(schedule.posted(now), None, "a first success is no news");
        (now, schedule)
    }

    #[test]
    fn without_changes_there_is_a_post_an_interval() {
        let (start, mut schedule) = on_time();
        assert_eq!(schedule.due(), start + INTERVAL);
        let took = Duration::from_secs(4);
        schedule.posted(start + INTERVAL);
        assert_eq!(schedule.due(), start + 2 * INTERVAL, "a post of {took:?} does not shift the next one");
    }

    #[test]
    fn a_burst_of_changes_makes_one_post() {
        let (start, mut schedule) = on_time();
        for ms in 0..40 {
            schedule.changed(start + Duration::from_millis(ms));
        }
        assert_eq!(schedule.due(), start + limits::RELAY_COALESCE);
        assert!(limits::RELAY_COALESCE < Duration::from_millis(100), "what the documents promise");
    }

    #[test]
    fn a_change_does_not_delay_what_is_due_sooner() {
        let (start, mut schedule) = on_time();
        schedule.changed(start + INTERVAL - Duration::from_millis(1));
        assert_eq!(schedule.due(), start + INTERVAL);
    }

    #[test]
    fn failures_back_off_up_to_the_interval_and_changes_wait_with_them() {
        let (now, mut schedule) = on_time();
        for (nth, seconds) in [1, 2, 4, 8, 16, 30, 30, 30].into_iter().enumerate() {
            let turn = schedule.failed(now, &mut Always(0));
            assert_eq!(turn, (nth == 0).then_some(Turn::Lost), "only the first failure is news");
            let shortest = Duration::from_secs(seconds).mul_f64(0.8);
            assert_eq!(schedule.due(), now + shortest);
            schedule.changed(now);
            assert_eq!(schedule.due(), now + shortest, "no extra post while the queen is away");
        }
        assert_eq!(schedule.posted(now), Some(Turn::Found));
        schedule.changed(now);
        assert_eq!(schedule.due(), now + limits::RELAY_COALESCE);
        assert_eq!(schedule.failed(now, &mut Always(255)), Some(Turn::Lost));
        assert_eq!(schedule.due(), now + Duration::from_millis(1200), "the backoff begins anew");
    }

    #[test]
    fn an_interval_of_nothing_does_not_spin() {
        let now = Instant::now();
        let mut schedule = Schedule::new(now, Duration::ZERO);
        schedule.posted(now);
        assert_eq!(schedule.due(), now + limits::RELAY_INTERVAL_MIN);
        schedule.failed(now, &mut Always(0));
        assert!(schedule.due() > now);
    }
}
