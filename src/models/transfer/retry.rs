//! Whether a transfer that failed is tried again, and when. Pure.

use std::time::Duration;

use crate::id::Entropy;
use crate::limits::{ATTEMPT_PROGRESS_BYTES, RETRY_AFTER_MAX, TRANSFER_ATTEMPTS, TRANSFER_BACKOFF_MAX};

/// Failures in a row that brought next to nothing.
#[derive(Debug)]
pub struct Retry {
    backoff_first: Duration,
    failures: u32,
    came_before: u64,
}

impl Retry {
    /// No failure yet; the wait after the first is `backoff_first`.
    pub fn new(backoff_first: Duration) -> Self {
        Self { backoff_first, failures: 0, came_before: 0 }
    }

    /// Which attempt is under way, from 1.
    pub fn attempt(&self) -> u32 {
        self.failures + 1
    }

    /// An attempt failed, `came` bytes after the beginning. How long to wait before the next one; `None` if there
    /// were enough. Waits double and are spread by 20 % either way; a wait that the server `asked` for is not cut
    /// short.
    pub fn failed(
        &mut self,
        came: u64,
        asked: Option<Duration>,
        entropy: &mut dyn Entropy,
    ) -> Option<Duration> {
        if came - self.came_before >= ATTEMPT_PROGRESS_BYTES {
            self.failures = 0;
        }
        self.came_before = came;
        self.failures += 1;
        if self.failures >= TRANSFER_ATTEMPTS {
            return None;
        }
        let mut random = [0];
        entropy.fill(&mut random);
        let spread = 0.4 * f64::from(random[0]) / 255.0;
        Some(match asked {
            Some(asked) => asked.min(RETRY_AFTER_MAX).max(self.backoff_first).mul_f64(1.0 + spread),
            None => {
                let doubled = self.backoff_first.saturating_mul(1 << (self.failures - 1));
                doubled.min(TRANSFER_BACKOFF_MAX).mul_f64(0.8 + spread)
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::limits::TRANSFER_BACKOFF_FIRST;

    struct Always(u8);

    impl Entropy for Always {
        fn fill(&mut self, bytes: &mut [u8]) {
            bytes.fill(self.0);
        }
    }

    fn seconds(wait: Option<Duration>) -> f64 {
        (wait.unwrap().as_secs_f64() * 10.0).round() / 10.0
    }

    #[test]
    fn six_attempts_that_bring_nothing_are_enough() {
        for (random, factor) in [(0, 0.8), (255, 1.2)] {
            let mut retry = Retry::new(TRANSFER_BACKOFF_FIRST);
            for (attempt, wait) in (1..).zip([1.0, 2.0, 4.0, 8.0, 16.0]) {
                assert_eq!(retry.attempt(), attempt);
                assert_eq!(seconds(retry.failed(1000, None, &mut Always(random))), wait * factor);
            }
            assert_eq!(retry.failed(1000, None, &mut Always(random)), None);
        }
    }

    #[test]
    fn progress_begins_the_count_anew() {
        let mut retry = Retry::new(TRANSFER_BACKOFF_FIRST);
        for attempt in 1..100 {
            assert!(retry.failed(attempt * ATTEMPT_PROGRESS_BYTES, None, &mut Always(0)).is_some());
            assert_eq!(retry.attempt(), 2);
        }
    }

    #[test]
    fn a_wait_that_the_server_asked_for_is_never_cut_short_up_to_a_limit() {
        let mut retry = Retry::new(TRANSFER_BACKOFF_FIRST);
        let mut wait = |asked| retry.failed(0, Some(asked), &mut Always(0)).unwrap();
        assert_eq!(wait(Duration::from_secs(7)), Duration::from_secs(7));
        assert_eq!(wait(Duration::ZERO), TRANSFER_BACKOFF_FIRST);
        assert_eq!(wait(Duration::MAX), RETRY_AFTER_MAX);
    }
}
