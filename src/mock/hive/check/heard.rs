//! What a worker said in all its launches, and the checks that come of it.

use crate::limits;

use super::Verdict::{self, Fail, Note, Ok as Holds};
use super::child::Worker;
use super::ear::{Call, What};
use super::judge::{self, Said};
use super::report::Report;

/// What it said in all its launches.
#[derive(Default)]
pub(super) struct Heard {
    calls: u64,
    /// Calls with another token, or none.
    foreign: u64,
    readies: u64,
    pub(super) heartbeats: u64,
    wrong_ready: Vec<String>,
    wrong_heartbeats: Vec<String>,
    pub(super) others: Vec<String>,
    pub(super) last: Said,
    pub(super) slots_total: Option<u64>,
    tells_state: bool,
    tells_slots: bool,
    contradicts_itself: bool,
    pub(super) wrote_its_token: bool,
}

impl Heard {
    /// Takes in a call of `worker`.
    pub(super) fn judge(&mut self, call: &Call, worker: &Worker) {
        self.calls += 1;
        self.foreign += u64::from(call.bearer.as_deref().is_none_or(|token| !worker.token.matches(token)));
        match &call.what {
            What::Ready => {
                let (wrong, slots_total) = judge::ready(call.body.as_ref(), &worker.started);
                self.readies += 1;
                self.slots_total = slots_total.or(self.slots_total);
                keep(&mut self.wrong_ready, wrong);
            }
            What::Heartbeat => {
                let (wrong, said) = judge::heartbeat(call.body.as_ref(), &worker.started);
                self.heartbeats += 1;
                self.last = said;
                self.slots_total = said.total.or(self.slots_total);
                self.tells_state |= said.busy.is_some();
                self.tells_slots |= said.available.is_some();
                self.contradicts_itself |= said.contradicts_itself();
                keep(&mut self.wrong_heartbeats, wrong);
            }
            What::Other(what) => keep(&mut self.others, vec![what.escape_debug().to_string()]),
        }
    }

    /// The checks of all that was said in `launches`.
    pub(super) fn sum_up(&self, launches: u32, report: &mut Report) {
        if self.foreign > 0 {
            report.say("token", Fail, format!("not in {} of {} calls", self.foreign, self.calls));
        } else if self.calls > 0 {
            report.say("token", Holds, format!("in all {} calls", self.calls));
        }
        for (check, count, wrong) in [
            ("ready-body", self.readies, &self.wrong_ready),
            ("heartbeat-body", self.heartbeats, &self.wrong_heartbeats),
        ] {
            match (count, wrong.is_empty()) {
                (0, _) => {}
                (_, true) => report.say(check, Holds, format!("{count} as they must be")),
                (_, false) => report.say(check, Fail, wrong.join("; ")),
            }
        }
        if self.heartbeats > 0 {
            let (verdict, seen) = self.busy_known();
            report.say("busy-known", verdict, seen);
        }
        if self.wrote_its_token {
            report.say("secret", Fail, "it does");
        } else if launches > 0 {
            report.say("secret", Holds, format!("not in what it wrote; launches: {launches}"));
        }
    }

    fn busy_known(&self) -> (Verdict, &'static str) {
        if self.contradicts_itself {
            return (Fail, "state says one thing and slots_available the other: a hive goes by the number");
        }
        match (self.tells_state, self.tells_slots) {
            (true, true) => (Holds, "both are sent"),
            (true, false) => (Holds, "state is sent; with slots_available a hive knows partial work too"),
            (false, true) => (Holds, "slots_available is sent, of which a hive makes the state"),
            (false, false) => (
                Note,
                "its heartbeats say neither state nor slots_available: a hive shows it as ready while it works, \
                 and with --idle-timeout stops it in the middle of its work",
            ),
        }
    }
}

/// Adds what is new, as long as there is room; of a long one the beginning.
fn keep(kept: &mut Vec<String>, texts: Vec<String>) {
    for text in texts {
        let text: String = text.chars().take(limits::CHECK_MISTAKE_CHARS_MAX).collect();
        if kept.len() < limits::CHECK_SHOWN_MAX && !kept.contains(&text) {
            kept.push(text);
        }
    }
}
