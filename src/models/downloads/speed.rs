//! How fast bytes come, without the jumps.

use std::time::{Duration, Instant};

/// What the past counts for: after so long a third of the figure is still old.
const MEMORY: Duration = Duration::from_secs(3);

/// A rate that follows the last seconds. Bytes that had come at the first look do not count.
#[derive(Debug, Default)]
pub(crate) struct Speed {
    last: Option<(u64, Instant)>,
    bytes_per_second: Option<f64>,
}

impl Speed {
    /// The rate when `bytes` have come; 0 at the first look.
    pub(crate) fn at(&mut self, bytes: u64, now: Instant) -> f64 {
        let known = self.bytes_per_second;
        let Some((before, then)) = self.last else {
            self.last = Some((bytes, now));
            return 0.0;
        };
        let seconds = now.saturating_duration_since(then).as_secs_f64();
        if seconds > 0.0 {
            self.last = Some((bytes, now));
            let rate = bytes.saturating_sub(before) as f64 / seconds;
            let old = (-seconds / MEMORY.as_secs_f64()).exp();
            self.bytes_per_second = Some(known.map_or(rate, |known| old * known + (1.0 - old) * rate));
        }
        self.bytes_per_second.unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_steady_stream_has_its_rate_and_what_was_there_does_not_count() {
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        let mut speed = Speed::default();
        assert_eq!(speed.at(1 << 40, at(0)), 0.0);
        for step in 1..20 {
            let rate = speed.at((1 << 40) + step * 250, at(step * 250));
            assert!((rate - 1000.0).abs() < 1e-6, "{rate}");
        }
    }

    #[test]
    fn a_pause_lets_it_fall_slowly_and_never_below_nothing() {
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        let mut speed = Speed::default();
        speed.at(0, at(0));
        let full = speed.at(1_000_000, at(1000));
        let later = speed.at(1_000_000, at(2000));
        assert!(later > full / 2.0 && later < full, "{later}");
        assert!(speed.at(0, at(3000)) >= 0.0, "fetched anew");
        assert!(speed.at(0, at(3000)).is_finite(), "asked twice at once");
    }
}
