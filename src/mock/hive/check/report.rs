//! What a check found: a line for each, for a person or as JSON.

use std::collections::BTreeMap;
use std::fmt;

use serde_json::{Value, json};

/// Each check in the order in which it is told, and what would be right.
const CHECKS: [(&str, &str); 18] = [
    ("start", "the program starts with the arguments of the native protocol behind its own, and stays"),
    ("ready", "POST /v1/workers/ready once it can serve, within --ready-within"),
    (
        "ready-body",
        "worker_id, url, model_ref, backend and device as it was started; slots_total, if it is sent, 1 to 1024",
    ),
    ("token", "each call carries `Authorization: Bearer` and what stands in RBEE_WORKER_TOKEN"),
    ("health", "GET /health is 200 once it is ready"),
    ("heartbeat", "POST /v1/heartbeat every 30 s from ready on: never more than --beat-within apart"),
    (
        "heartbeat-body",
        "worker_id, timestamp and health_status (healthy or degraded); state, if it is sent, ready or busy",
    ),
    ("busy-known", "state or slots_available in its heartbeats, one not against the other"),
    ("busy-seen", "with all slots taken a heartbeat says that none is free, and after that one that some is"),
    ("ready-again", "a refused ready (500) is called again"),
    ("hive-500", "a heartbeat answered with 500 is followed by others"),
    ("hive-404", "a heartbeat answered with 404 is followed by others"),
    ("hive-cut", "a heartbeat whose connection is cut is followed by others"),
    ("hive-away", "a hive that is away for a while gets heartbeats again when it is back"),
    ("shutdown", "POST /v1/shutdown with its token is 2xx, and it leaves within --leave-within"),
    ("shutdown-guard", "POST /v1/shutdown without its token is 401 or 403, and it stays"),
    ("sigterm", "it leaves on SIGTERM within --leave-within"),
    ("children", "nothing that it started lives when it has left"),
];

/// Told last: it is known only when all is over.
const SECRET: (&str, &str) = ("secret", "its token does not stand in what it writes to stdout and stderr");

/// What came of a check.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// It holds.
    Ok,
    /// It does not.
    Fail,
    /// The contract allows it, and its author should know what follows from it.
    Note,
    /// It could not be seen.
    NotChecked,
}

impl Verdict {
    fn as_str(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Fail => "FAIL",
            Self::Note => "note",
            Self::NotChecked => "not checked",
        }
    }
}

/// What all checks found.
#[derive(Debug, Default)]
pub struct Report(BTreeMap<&'static str, (Verdict, String)>);

impl Report {
    /// Notes what was seen. A check that fails once has failed.
    pub(super) fn say(&mut self, check: &'static str, verdict: Verdict, seen: impl Into<String>) {
        debug_assert!(all().any(|(name, _)| name == check), "a check that is not told: {check}");
        match self.0.get(check) {
            Some((Verdict::Fail, _)) => {}
            _ => drop(self.0.insert(check, (verdict, seen.into()))),
        }
    }

    /// What came of a check, and what was seen.
    pub fn of(&self, check: &str) -> (Verdict, &str) {
        self.0.get(check).map_or((Verdict::NotChecked, "it did not come so far"), |(v, seen)| (*v, seen))
    }

    /// How many have failed.
    pub fn failed(&self) -> usize {
        self.count(Verdict::Fail)
    }

    fn count(&self, verdict: Verdict) -> usize {
        all().filter(|(name, _)| self.of(name).0 == verdict).count()
    }

    /// `{"checks":[{"check","verdict","seen","right"}],"failed":N}`.
    pub fn json(&self) -> Value {
        let check = |(name, right): (&str, &str)| {
            let (verdict, seen) = self.of(name);
            json!({ "check": name, "verdict": verdict.as_str().to_lowercase().replace(' ', "_"),
                "seen": seen, "right": right })
        };
        json!({ "checks": all().map(check).collect::<Vec<_>>(), "failed": self.failed() })
    }
}

fn all() -> impl Iterator<Item = (&'static str, &'static str)> {
    CHECKS.into_iter().chain([SECRET])
}

/// A line for each check; below one that failed, what would be right.
impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (name, right) in all() {
            let (verdict, seen) = self.of(name);
            writeln!(f, "{:<11}  {name:<14}  {seen}", verdict.as_str())?;
            if verdict == Verdict::Fail {
                writeln!(f, "{:<11}  {:<14}  right: {right}", "", "")?;
            }
        }
        let [ok, fail, note, not] =
            [Verdict::Ok, Verdict::Fail, Verdict::Note, Verdict::NotChecked].map(|v| self.count(v));
        writeln!(f, "{ok} ok, {fail} failed, {note} noted, {not} not checked")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_failed_once_has_failed_and_what_was_not_reached_is_told() {
        let mut report = Report::default();
        report.say("start", Verdict::Ok, "pid 7");
        report.say("token", Verdict::Fail, "none");
        report.say("token", Verdict::Ok, "right");
        assert_eq!((report.of("token"), report.failed()), ((Verdict::Fail, "none"), 1));
        let text = report.to_string();
        assert!(text.contains("FAIL         token           none\n"), "{text}");
        assert!(text.ends_with("1 ok, 1 failed, 0 noted, 17 not checked\n"), "{text}");
        assert_eq!(report.json()["checks"][1]["verdict"], "not_checked");
    }
}
