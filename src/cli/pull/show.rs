//! How far a download is, on a terminal, in a log, or as JSON.

use std::io::Write;
use std::time::{Duration, Instant};

use crate::api::Progress;
use crate::cli::table::size;
use crate::limits::{PULL_LINE, PULL_REDRAW};

/// Columns of a bar at most; with less than a third of them it is left out.
const BAR: usize = 30;

/// Where it is shown. What cannot be written is not: the download goes on.
pub(in crate::cli) struct Show<'a> {
    out: &'a mut dyn Write,
    err: &'a mut dyn Write,
    look: Look<'a>,
    /// What was shown last.
    last: Option<Last>,
    /// The most bytes that were: a hive that was started anew begins to count anew.
    most_bytes: u64,
}

/// How it is shown.
pub(in crate::cli) enum Look<'a> {
    /// One line of a terminal that is so wide, drawn again and again.
    Bar(&'a dyn Fn() -> usize),
    /// A line now and then.
    Lines,
    /// Each event as a line of JSON, on stdout.
    Json,
}

struct Last {
    at: Instant,
    is_verifying: bool,
    percent: u64,
    /// Columns that the bar takes.
    columns: usize,
}

impl<'a> Show<'a> {
    pub fn new(out: &'a mut dyn Write, err: &'a mut dyn Write, look: Look<'a>) -> Self {
        Self { out, err, look, last: None, most_bytes: 0 }
    }

    /// Whether the events themselves are what is wanted.
    pub fn is_json(&self) -> bool {
        matches!(self.look, Look::Json)
    }

    /// An event came.
    pub fn on_event(&mut self, progress: &Progress, now: Instant) {
        if self.is_json() {
            let text = serde_json::to_string(progress).expect("wire types are valid JSON");
            let _ = writeln!(self.out, "{text}");
            let _ = self.out.flush();
            return;
        }
        match progress {
            // It waits for its turn.
            Progress::Downloading { bytes_total: 0, .. } => {}
            Progress::Downloading { bytes_downloaded, bytes_total, speed_mbps, attempt, .. } => {
                let bytes_per_s = Some(speed_mbps * 1e6 / 8.0).filter(|speed| *speed >= 1.0);
                self.most_bytes = self.most_bytes.max(*bytes_downloaded);
                let left = bytes_total.saturating_sub(self.most_bytes);
                let state = State {
                    bytes: self.most_bytes,
                    total: *bytes_total,
                    bytes_per_s,
                    left: bytes_per_s.and_then(|speed| time_for(left, speed)),
                    attempt: *attempt,
                };
                self.draw(now, Some(&state));
            }
            Progress::Verifying => self.draw(now, None),
            Progress::Complete { .. } | Progress::Error { .. } => self.clear(),
        }
    }

    /// Says something beside that.
    pub fn note(&mut self, text: &str) {
        self.clear();
        let _ = writeln!(self.err, "{text}");
    }

    /// Takes the bar away: something else will be written.
    pub fn clear(&mut self) {
        if let (Look::Bar(_), Some(last)) = (&self.look, self.last.take()) {
            let _ = write!(self.err, "\r{}\r", " ".repeat(last.columns));
            let _ = self.err.flush();
        }
    }

    /// Draws what is downloaded, or that it is being verified, if it is time.
    fn draw(&mut self, now: Instant, state: Option<&State>) {
        let (is_verifying, percent) = (state.is_none(), state.map_or(100, State::percent));
        if let Some(last) = self.last.as_ref().filter(|last| last.is_verifying == is_verifying) {
            let since = now.saturating_duration_since(last.at);
            let is_time = match self.look {
                Look::Bar(_) => since >= PULL_REDRAW,
                _ => since >= PULL_LINE || percent >= last.percent + 10,
            };
            if !is_time {
                return;
            }
        }
        let columns = match &self.look {
            Look::Bar(width) => {
                let line = state.map_or_else(|| "verifying".to_owned(), |state| state.bar(width()));
                let columns = line.chars().count();
                let before = self.last.as_ref().map_or(0, |last| last.columns);
                let _ = write!(self.err, "\r{line:<before$}");
                let _ = self.err.flush();
                columns
            }
            _ => {
                let line = state.map_or_else(|| "verifying".to_owned(), State::line);
                let _ = writeln!(self.err, "{line}");
                0
            }
        };
        self.last = Some(Last { at: now, is_verifying, percent, columns });
    }
}

/// How long `bytes` will take; none beyond a year.
fn time_for(bytes: u64, bytes_per_s: f64) -> Option<Duration> {
    const LONGEST: Duration = Duration::from_secs(365 * 86_400);
    Duration::try_from_secs_f64(bytes as f64 / bytes_per_s).ok().filter(|time| *time <= LONGEST)
}

/// A download under way.
#[derive(Debug, Clone, Copy)]
struct State {
    bytes: u64,
    total: u64,
    bytes_per_s: Option<f64>,
    left: Option<Duration>,
    attempt: u32,
}

impl State {
    /// From 0 to 100, rounded down; 0 if there is nothing to come, as far as is known.
    fn percent(&self) -> u64 {
        let part = u128::from(self.bytes.min(self.total)) * 100;
        part.checked_div(self.total.into()).and_then(|percent| u64::try_from(percent).ok()).unwrap_or(0)
    }

    /// Its parts, the most important one first.
    fn parts(&self) -> Vec<String> {
        let mut parts = vec![format!("{:>3}%", self.percent())];
        parts.push(format!("{} of {}", size(self.bytes), size(self.total)));
        // Above that a float is no number of bytes any more; nothing is so fast.
        parts.extend(self.bytes_per_s.map(|speed| format!("{}/s", size(speed as u64))));
        parts.extend(self.left.map(|left| format!("{} left", time(left))));
        if self.attempt > 1 {
            parts.push(format!("attempt {}", self.attempt));
        }
        parts
    }

    /// As a line of a log.
    fn line(&self) -> String {
        format!("downloading {}", self.parts().join("  ").trim_start())
    }

    /// As a line of a terminal of so many columns, the last of which stays free: written to its end, some
    /// terminals go on to the next line.
    fn bar(&self, width: usize) -> String {
        let room = width.saturating_sub(1);
        let mut parts = self.parts();
        while parts.len() > 1 && parts.join("  ").len() > room {
            parts.pop();
        }
        let text = parts.join("  ");
        // Two brackets, and two spaces after them.
        let columns = room.saturating_sub(text.len() + 4).min(BAR);
        if columns < BAR / 3 {
            return text.chars().take(room).collect();
        }
        let filled = self.percent() as usize * columns / 100;
        format!("[{}{}]  {text}", "#".repeat(filled), ".".repeat(columns - filled))
    }
}

/// `42s`, `1m05s`, `2h05m` or `3d04h`.
fn time(time: Duration) -> String {
    let seconds = time.as_secs();
    let (minutes, hours, days) = (seconds / 60, seconds / 3600, seconds / 86_400);
    match (days, hours, minutes) {
        (0, 0, 0) => format!("{seconds}s"),
        (0, 0, _) => format!("{minutes}m{:02}s", seconds % 60),
        (0, ..) => format!("{hours}h{:02}m", minutes % 60),
        _ => format!("{days}d{:02}h", hours % 24),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GIB: u64 = 1 << 30;
    const MIB: u64 = 1 << 20;

    fn downloading(bytes_downloaded: u64, bytes_total: u64) -> Progress {
        let file = "m.gguf".to_owned();
        Progress::Downloading { bytes_downloaded, bytes_total, speed_mbps: 0.0, file, attempt: 1 }
    }

    /// What is written to stdout and stderr for events at milliseconds.
    fn shown(look: Look<'_>, events: &[(u64, Progress)]) -> (String, String) {
        let (mut out, mut err) = (Vec::new(), Vec::new());
        let mut show = Show::new(&mut out, &mut err, look);
        let start = Instant::now();
        for (at, progress) in events {
            show.on_event(progress, start + Duration::from_millis(*at));
        }
        (String::from_utf8(out).unwrap(), String::from_utf8(err).unwrap())
    }

    fn state(bytes: u64, total: u64) -> State {
        let left = Some(Duration::from_secs(102));
        State { bytes, total, bytes_per_s: Some(38.1 * MIB as f64), left, attempt: 1 }
    }

    #[test]
    fn a_bar_fits_its_terminal_and_the_important_stays() {
        let half = state(5 * GIB / 2, 5 * GIB);
        let text = " 50%  2.5 GiB of 5.0 GiB  38.1 MiB/s  1m42s left";
        assert_eq!(half.bar(200), format!("[{}{}]  {text}", "#".repeat(15), ".".repeat(15)));
        assert_eq!(half.bar(66), format!("[######.......]  {text}"));
        assert_eq!(half.bar(50), text);
        assert_eq!(half.bar(40), " 50%  2.5 GiB of 5.0 GiB  38.1 MiB/s");
        assert_eq!(half.bar(20), "[#####......]   50%");
        for width in 0..200 {
            assert!(half.bar(width).chars().count() <= width.saturating_sub(1), "{width}");
        }
    }

    #[test]
    fn odd_figures_are_shown_without_nonsense() {
        let text = |state: State| state.line();
        let unknown = State { bytes_per_s: None, left: None, ..state(0, 0) };
        assert_eq!(text(unknown), "downloading 0%  0 B of 0 B");
        let more = State { attempt: 3, left: None, ..state(9, 5) };
        assert_eq!(text(more), "downloading 100%  9 B of 5 B  38.1 MiB/s  attempt 3");
        let huge = State { bytes_per_s: Some(0.0), left: None, ..state(4 << 40, 8 << 40) };
        assert_eq!(text(huge), "downloading 50%  4.0 TiB of 8.0 TiB  0 B/s");
        assert!(text(state(u64::MAX - 1, u64::MAX)).starts_with("downloading 99%  "));
        let times = [0, 59, 60, 3599, 3600, 86_399, 86_400, 31_536_000].map(|s| time(Duration::from_secs(s)));
        assert_eq!(times, ["0s", "59s", "1m00s", "59m59s", "1h00m", "23h59m", "1d00h", "365d00h"]);
    }

    #[test]
    fn a_terminal_is_drawn_at_most_ten_times_a_second_and_left_clean() {
        let mut events: Vec<_> = (0..1000).map(|ms| (ms, downloading(ms, 1000))).collect();
        events.push((1000, Progress::Verifying));
        events.push((1001, Progress::Complete { local_path: "/m".to_owned() }));
        let (out, err) = shown(Look::Bar(&|| 80), &events);
        assert_eq!((out.as_str(), err.contains('\n'), err.contains('\u{1b}')), ("", false, false));
        let drawn: Vec<_> = err.split('\r').collect();
        assert_eq!(drawn.len(), 1 + 10 + 1 + 2, "{drawn:?}");
        assert!(drawn[11].starts_with("verifying  ") && drawn[12].trim().is_empty() && drawn[13].is_empty());
    }

    #[test]
    fn a_log_gets_a_line_for_each_stage_each_tenth_and_each_ten_seconds() {
        let mut events: Vec<_> = (0..=100).map(|percent| (percent, downloading(percent, 100))).collect();
        events.extend([(101, Progress::Verifying), (102, Progress::Verifying)]);
        let (_, err) = shown(Look::Lines, &events);
        assert_eq!(err.lines().count(), 11 + 1, "{err}");
        let slow: Vec<_> = (0..60).map(|second| (second * 1000, downloading(1, 100))).collect();
        assert_eq!(shown(Look::Lines, &slow).1.lines().count(), 6);
        assert!(!err.contains('\r') && err.ends_with("verifying\n"));
    }

    #[test]
    fn json_is_each_event_as_it_came() {
        let (out, err) = shown(Look::Json, &[(0, Progress::Verifying), (0, Progress::Verifying)]);
        assert_eq!(
            (out.as_str(), err.as_str()),
            ("{\"stage\":\"verifying\"}\n{\"stage\":\"verifying\"}\n", "")
        );
    }
}
