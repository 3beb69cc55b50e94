//! Whether a worker that ended is started again, and when.

use std::time::Duration;

use crate::limits::{BACKOFF_FIRST, BACKOFF_MAX};

/// Restarts of a worker since it was last well for long.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Restarts(u32);

/// What becomes of a worker that ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Decision {
    /// It is started again after this time.
    Again(Duration),
    /// It had all the restarts it may have.
    GiveUp,
}

impl Restarts {
    /// So many were counted before.
    pub fn resumed(count: u32) -> Self {
        Self(count)
    }

    /// How many there were.
    pub fn count(self) -> u32 {
        self.0
    }

    /// Decides after a crash, and counts the restart that it grants: 1 s, 2 s, 4 s … at most 60 s, each
    /// times a factor of 0.8 to 1.2 that `jitter` chooses (0 is 0.8, 255 is 1.2).
    pub fn after_crash(&mut self, limit: u32, jitter: u8) -> Decision {
        if self.0 >= limit {
            return Decision::GiveUp;
        }
        let doubled = BACKOFF_FIRST.saturating_mul(1 << self.0.min(16));
        self.0 += 1;
        Decision::Again(doubled.min(BACKOFF_MAX).mul_f64(0.8 + 0.4 * f64::from(jitter) / 255.0))
    }

    /// The worker was well for long enough.
    pub fn forget(&mut self) {
        self.0 = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_up_to_a_minute_and_end_at_the_limit() {
        let mut restarts = Restarts::default();
        let seconds: Vec<u64> = std::iter::from_fn(|| match restarts.after_crash(9, 128) {
            Decision::Again(wait) => Some(wait.as_secs_f64().round() as u64),
            Decision::GiveUp => None,
        })
        .collect();
        assert_eq!(seconds, [1, 2, 4, 8, 16, 32, 60, 60, 60]);
        assert_eq!(restarts.count(), 9);
    }

    #[test]
    fn jitter_moves_a_wait_by_a_fifth_at_most() {
        assert_eq!(Restarts(0).after_crash(1, 0), Decision::Again(Duration::from_millis(800)));
        assert_eq!(Restarts(0).after_crash(1, 255), Decision::Again(Duration::from_millis(1200)));
    }

    #[test]
    fn a_limit_of_zero_never_restarts() {
        assert_eq!(Restarts::default().after_crash(0, 7), Decision::GiveUp);
    }
}
