//! Durations as people write them: `250ms`, `30s`, `5m`, `1h`, or plain seconds.

use std::ops::RangeInclusive;
use std::time::Duration;

/// Reads a duration: a whole number and `ms`, `s`, `m` or `h`; seconds where no unit is given.
///
/// `None` for anything else, and for what does not fit into 64 bits of milliseconds.
pub fn parse(text: &str) -> Option<Duration> {
    let unit_at = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(unit_at);
    let unit_ms: u64 = match unit {
        "ms" => 1,
        "" | "s" => 1000,
        "m" => 60 * 1000,
        "h" => 60 * 60 * 1000,
        _ => return None,
    };
    let number: u64 = number.parse().ok()?;
    number.checked_mul(unit_ms).map(Duration::from_millis)
}

/// [`parse`], and the result must lie in `range`.
///
/// # Errors
/// What would be right, to follow the name of the thing that is wrong.
pub fn parse_in(text: &str, range: &RangeInclusive<Duration>) -> Result<Duration, String> {
    let Some(duration) = parse(text) else {
        return Err("is no duration; write one like 250ms, 30s, 5m, 1h, or plain seconds".to_owned());
    };
    if range.contains(&duration) {
        Ok(duration)
    } else {
        Err(format!("is out of bounds; it must be from {} to {}", show(*range.start()), show(*range.end())))
    }
}

/// The shortest text that [`parse`] reads back, to the millisecond.
pub fn show(duration: Duration) -> String {
    let ms = duration.as_millis();
    for (unit_ms, unit) in [(60 * 60 * 1000, "h"), (60 * 1000, "m"), (1000, "s")] {
        if ms > 0 && ms.is_multiple_of(unit_ms) {
            return format!("{}{unit}", ms / unit_ms);
        }
    }
    if ms == 0 { "0s".to_owned() } else { format!("{ms}ms") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_unit_is_read_and_shown_again() {
        for (text, ms) in [("250ms", 250), ("30s", 30_000), ("5m", 300_000), ("1h", 3_600_000), ("0s", 0)] {
            assert_eq!(parse(text), Some(Duration::from_millis(ms)), "{text}");
            assert_eq!(show(Duration::from_millis(ms)), text);
        }
        assert_eq!(parse("90"), Some(Duration::from_secs(90)));
    }

    #[test]
    fn what_is_no_duration_is_refused() {
        for text in [
            "",
            "s",
            "-1s",
            "+1s",
            "1.5s",
            "1 s",
            "1d",
            "1S",
            "99999999999999999999",
            "18446744073709551615h",
        ] {
            assert_eq!(parse(text), None, "{text}");
        }
    }

    #[test]
    fn bounds_are_named() {
        let range = Duration::from_millis(50)..=Duration::from_secs(3600);
        assert_eq!(parse_in("1ms", &range), Err("is out of bounds; it must be from 50ms to 1h".to_owned()));
        assert_eq!(parse_in("50ms", &range), Ok(Duration::from_millis(50)));
    }
}
