//! What a demo says: headings, requests, events, for a person who watches.

use std::io::{self, IsTerminal as _, Write as _};

use crate::api::{Heartbeat, Phase, Worker};

/// What is shown of an answer.
const TEXT_CHARS_MAX: usize = 160;

/// Writes to standard output; in colours only where that is a terminal and `NO_COLOR` is not set.
#[derive(Debug)]
pub struct Teller {
    colours: bool,
    steps: u32,
}

impl Teller {
    /// Says nothing yet.
    pub fn new() -> Self {
        let wanted = std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
        Self { colours: wanted && io::stdout().is_terminal(), steps: 0 }
    }

    /// A heading of the next step.
    pub fn step(&mut self, heading: &str) {
        self.steps += 1;
        let heading = self.painted("1", &format!("{}. {heading}", self.steps));
        put(&format!("\n{heading}\n"));
    }

    /// A line: in one word who says it, and what.
    pub fn line(&self, who: &str, what: &str) {
        put(&format!("   {} {what}\n", self.painted("36", &format!("{who:<7}"))));
    }

    /// A request and its answer.
    pub fn request(&self, request: &str, status: u16, answer: &str) {
        let colour = if status < 400 { "32" } else { "31" };
        put(&format!("   {request} → {}  {answer}\n", self.painted(colour, &status.to_string())));
    }

    /// Lines that belong to the one before.
    pub fn details(&self, text: &str) {
        for line in text.lines() {
            put(&format!("           {}\n", self.painted("2", line)));
        }
    }

    /// The last line.
    pub fn summary(&self, text: &str) {
        put(&format!("\n{}\n", self.painted("1;32", text)));
    }

    fn painted(&self, code: &str, text: &str) -> String {
        if self.colours { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_owned() }
    }
}

/// A reader that is gone is no failure.
fn put(text: &str) {
    let mut out = io::stdout().lock();
    let _ = out.write_all(text.as_bytes()).and_then(|()| out.flush());
}

/// A text of somebody else: in quotes, escaped, and cut where it is long.
pub fn quoted(text: &str) -> String {
    let cut: String = text.chars().take(TEXT_CHARS_MAX).collect();
    if cut.len() < text.len() {
        format!("{cut:?}… ({} characters)", text.chars().count())
    } else {
        format!("{cut:?}")
    }
}

/// A worker in a line: what changes of it.
pub fn worker(worker: &Worker) -> String {
    let mut line = format!("{} {}", worker.worker_id, worker.state.as_str());
    match worker.phase {
        Some(Phase::Provisioning) => line.push_str(", provisioning"),
        Some(Phase::Launching) => line.push_str(", launching"),
        Some(Phase::Loading) => line.push_str(", loading"),
        Some(Phase::Backoff) => line.push_str(", backoff"),
        None => {}
    }
    if let Some(pid) = worker.pid {
        line.push_str(&format!(", pid {pid}"));
    }
    if worker.state.serves() {
        line.push_str(&format!(", {}/{} slots free", worker.slots_available, worker.slots_total));
    }
    if worker.restart_count > 0 {
        line.push_str(&format!(", restart {}", worker.restart_count));
    }
    if let Some(exit) = worker.exit.as_ref().filter(|_| worker.pid.is_none()) {
        let status = match (&exit.signal, exit.code) {
            (Some(signal), _) => format!(" by {signal}"),
            (None, Some(code)) => format!(" with code {code}"),
            (None, None) => String::new(),
        };
        line.push_str(&format!(", ended{status} ({})", exit.reason));
    }
    line
}

/// A heartbeat in a line.
pub fn heartbeat(heartbeat: &Heartbeat) -> String {
    let workers: Vec<_> = heartbeat
        .workers
        .iter()
        .map(|worker| {
            let state = worker.state.as_str();
            format!("{} {state}, restart {}", worker.worker_id, worker.restart_count)
        })
        .collect();
    let status = format!("{:?}", heartbeat.status).to_lowercase();
    let workers = if workers.is_empty() { "no workers".to_owned() } else { workers.join("; ") };
    format!("heartbeat {} of {} {status}: {workers}", heartbeat.sequence, heartbeat.hive_id)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_of_somebody_else_is_escaped_and_cut() {
        assert_eq!(quoted("a\x1b[2J\n"), r#""a\u{1b}[2J\n""#);
        let shown = quoted(&"ä".repeat(TEXT_CHARS_MAX + 1));
        assert_eq!(shown, format!("\"{}\"… (161 characters)", "ä".repeat(TEXT_CHARS_MAX)));
    }
}
