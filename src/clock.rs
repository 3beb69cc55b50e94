//! Wall-clock times for people: RFC 3339 in UTC with milliseconds.

use std::time::{Duration, Instant, SystemTime};

/// A drift beyond this makes the two clocks be compared anew.
const DRIFT_MAX: Duration = Duration::from_secs(1);

/// Tells the wall-clock time of a moment of the monotonic clock: the same moment always reads the same,
/// until somebody sets the clock.
#[derive(Debug, Clone, Copy)]
pub struct Clock {
    instant: Instant,
    wall: SystemTime,
}

impl Clock {
    /// Compares the two clocks now.
    pub fn new() -> Self {
        Self { instant: Instant::now(), wall: SystemTime::now() }
    }

    /// Compares them again if the wall clock was set meanwhile.
    pub fn follow(&mut self) {
        let expected = self.wall + self.instant.elapsed();
        let now = SystemTime::now();
        let drift = now.duration_since(expected).unwrap_or_else(|early| early.duration());
        if drift > DRIFT_MAX {
            *self = Self::new();
        }
    }

    /// The time of `at`, written out.
    pub fn text(&self, at: Instant) -> String {
        let wall = match at.checked_duration_since(self.instant) {
            Some(later) => self.wall + later,
            None => self.wall - self.instant.duration_since(at),
        };
        rfc3339(wall)
    }
}

impl Default for Clock {
    fn default() -> Self {
        Self::new()
    }
}

/// `2026-01-01T00:00:00.000Z`.
pub fn rfc3339(at: SystemTime) -> String {
    let stamp = jiff::Timestamp::try_from(at).unwrap_or(jiff::Timestamp::UNIX_EPOCH);
    format!("{stamp:.3}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_has_milliseconds_and_is_utc() {
        let at = SystemTime::UNIX_EPOCH + Duration::from_millis(1_767_225_600_007);
        assert_eq!(rfc3339(at), "2026-01-01T00:00:00.007Z");
    }

    #[test]
    fn the_same_moment_always_reads_the_same() {
        let (mut clock, at) = (Clock::new(), Instant::now());
        let first = clock.text(at);
        clock.follow();
        assert_eq!(clock.text(at), first);
    }
}
