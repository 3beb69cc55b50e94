//! The log: one event a line, on stderr, in one write; level by `RUST_LOG`, `info` without it.
//!
//! Invariant: whatever a message contains, it stays one line and cannot forge another.

use std::fmt::Write as _;
use std::io::Write as _;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use log::{Level, Record};
use serde::Serialize;

use crate::config::LogFormat;

/// Keeps lines that others can cause from filling the log.
#[derive(Debug)]
pub struct Seldom {
    interval: Duration,
    told_at: Option<Instant>,
    untold: u32,
}

impl Seldom {
    /// One line in each `interval`.
    pub fn every(interval: Duration) -> Self {
        Self { interval, told_at: None, untold: 0 }
    }

    /// Whether the line is written: with how many there were before it that were not.
    pub fn next(&mut self, now: Instant) -> Option<u32> {
        if self.told_at.is_some_and(|at| now < at + self.interval) {
            self.untold = self.untold.saturating_add(1);
            return None;
        }
        self.told_at = Some(now);
        Some(std::mem::take(&mut self.untold))
    }
}

/// Sets the log up for the whole process.
///
/// # Panics
/// If a logger is set already.
pub fn init(format: LogFormat) {
    env_logger::Builder::from_env(env_logger::Env::default().default_filter_or("info"))
        .format(move |out, record| out.write_all(line(format, Timestamp::now(), record).as_bytes()))
        .init();
}

fn line(format: LogFormat, now: Timestamp, record: &Record<'_>) -> String {
    let (level, target, message) = (record.level(), record.target(), record.args().to_string());
    match format {
        LogFormat::Text => text_line(now, level, &message),
        LogFormat::Json => json_line(now, level, target, &message),
    }
}

fn text_line(now: Timestamp, level: Level, message: &str) -> String {
    let mut line = format!("{now:.3} {level} ");
    for c in message.chars() {
        if is_hazard(c) {
            line.extend(c.escape_default());
        } else {
            line.push(c);
        }
    }
    line.push('\n');
    line
}

/// As [`text_line`] in an object; what JSON itself would leave as it is is written as `\u…`.
fn json_line(now: Timestamp, level: Level, target: &str, message: &str) -> String {
    #[derive(Serialize)]
    struct Line<'a> {
        timestamp: String,
        level: &'a str,
        target: &'a str,
        message: &'a str,
    }
    let line = Line { timestamp: format!("{now:.3}"), level: level.as_str(), target, message };
    let json = serde_json::to_string(&line).expect("texts are valid JSON");
    let mut escaped = String::with_capacity(json.len() + 1);
    for c in json.chars() {
        if is_hazard(c) {
            write!(escaped, "\\u{:04x}", u32::from(c)).expect("a String takes all");
        } else {
            escaped.push(c);
        }
    }
    escaped.push('\n');
    escaped
}

/// Characters that end a line, move a terminal's cursor, or turn the direction of what follows.
pub(crate) fn is_hazard(c: char) -> bool {
    c.is_control() || matches!(c, '\u{2028}' | '\u{2029}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOSTILE: &str =
        "exited name=a\n2026-01-01T00:00:00.000Z INFO all is well\r\t\x1b[2J\u{9b}1m\u{2028}\u{202e}é \"q\"";

    fn made(format: LogFormat, message: &str) -> String {
        let now = "2026-01-01T00:00:03.12Z".parse().expect("a time");
        let args = format_args!("{message}").to_string();
        line(
            format,
            now,
            &Record::builder().level(Level::Warn).target("hive").args(format_args!("{args}")).build(),
        )
    }

    #[test]
    fn a_text_line_is_time_level_and_message() {
        let line = made(LogFormat::Text, "worker exited worker=w-7f3a run=2");
        assert_eq!(line, "2026-01-01T00:00:03.120Z WARN worker exited worker=w-7f3a run=2\n");
    }

    #[test]
    fn a_json_line_is_one_object() {
        let line = made(LogFormat::Json, HOSTILE);
        let object: serde_json::Value = serde_json::from_str(&line).expect("an object");
        assert_eq!(object["timestamp"], "2026-01-01T00:00:03.120Z");
        assert_eq!((&object["level"], &object["target"]), (&"WARN".into(), &"hive".into()));
        assert_eq!(object["message"], HOSTILE, "nothing is lost");
    }

    #[test]
    fn no_message_breaks_its_line_or_reaches_the_terminal() {
        for format in [LogFormat::Text, LogFormat::Json] {
            let line = made(format, HOSTILE);
            let body = line.strip_suffix('\n').expect("it ends with its only line end");
            assert!(!body.chars().any(is_hazard), "{line:?}");
            assert!(body.contains("\\n2026") && body.contains('é'), "{line}");
        }
    }
}
