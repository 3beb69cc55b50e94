//! What Ready and Busy have in common: the questions that are asked of a worker that serves, and what its
//! silence means.

use std::time::{Duration, Instant};

use crate::api::WorkerHealth;
use crate::id::Pgid;
use crate::limits::{DEAF_PROBE_INTERVAL, DEAF_PROBES, MEASURE_INTERVAL, RESTARTS_FORGOTTEN_AFTER};

use super::Policy;
use super::event::Probed;
use super::state::{Effects, Facts, Slots, Turn};

/// What Ready and Busy have in common.
#[derive(Debug)]
pub(super) struct Serving {
    pub pgid: Pgid,
    pub slots: Slots,
    pub health: WorkerHealth,
    /// Stale then, unless heard; none while stale.
    pub silent_at: Option<Instant>,
    pub deaf_probes: u32,
    pub probe: Turn,
    pub count: Turn,
    pub measured_at: Instant,
    /// When it became ready in this run.
    pub since: Instant,
    /// Its restarts are forgotten then.
    pub forget_at: Option<Instant>,
}

/// Whether a worker that serves is still to be believed in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use]
pub(super) enum Hearing {
    /// It is, or nothing shows that it is not.
    Fine,
    /// It was silent, and deaf to its probes too often: it is to be killed.
    Deaf,
}

impl Serving {
    /// It said, or answered, that it lives.
    pub fn heard(
        &mut self,
        facts: &mut Facts,
        health: WorkerHealth,
        now: Instant,
        policy: &Policy,
        out: &mut Effects,
    ) {
        facts.last_heartbeat = Some(now);
        if self.health == WorkerHealth::Stale && facts.restarts.count() > 0 {
            self.forget_at = Some(now + RESTARTS_FORGOTTEN_AFTER);
        }
        self.health = health;
        self.silent_at = Some(now + facts.silence(policy));
        self.deaf_probes = 0;
        if facts.probe_interval().is_none() {
            self.probe = Turn::Off;
        }
        self.look(facts, now, out);
    }

    /// Looks at the process tree, if that is long ago.
    fn look(&mut self, facts: &Facts, now: Instant, out: &mut Effects) {
        if now >= self.measured_at + MEASURE_INTERVAL {
            self.measured_at = now;
            out.push(facts.measure(self.pgid));
        }
    }

    /// A health probe was answered.
    pub fn probed(
        &mut self,
        facts: &mut Facts,
        probed: Probed,
        now: Instant,
        policy: &Policy,
        out: &mut Effects,
    ) -> Hearing {
        let interval = facts.probe_interval();
        let stale = self.health == WorkerHealth::Stale;
        let answered = probed == Probed::Ready;
        if answered {
            match interval {
                Some(_) => self.heard(facts, WorkerHealth::Healthy, now, policy, out),
                None => {
                    self.deaf_probes = 0;
                    self.look(facts, now, out);
                }
            }
        } else if stale {
            self.deaf_probes += 1;
        }
        if self.deaf_probes >= DEAF_PROBES {
            return Hearing::Deaf;
        }
        self.probe = match (interval, stale, answered) {
            (Some(interval), false, _) | (Some(interval), true, true) => Turn::Due(now + interval),
            (_, true, false) => Turn::Due(now + DEAF_PROBE_INTERVAL),
            (None, true, true) => Turn::Due(now + policy.heartbeat_timeout),
            (None, false, _) => Turn::Off,
        };
        Hearing::Fine
    }

    /// The busy question was answered, or was not.
    pub fn counted(&mut self, facts: &Facts, now: Instant) {
        if let (Turn::Asked(_), Some(interval)) = (self.count, facts.probe_interval()) {
            self.count = Turn::Due(now + interval);
        }
    }

    /// Fires what is due.
    pub fn tick(&mut self, facts: &mut Facts, now: Instant, policy: &Policy, out: &mut Effects) -> Hearing {
        if self.forget_at.is_some_and(|at| at <= now) {
            self.forget_at = None;
            facts.restarts.forget();
        }
        if self.silent_at.is_some_and(|at| at <= now) {
            self.silent_at = None;
            self.health = WorkerHealth::Stale;
            self.deaf_probes = 0;
            self.forget_at = None;
            if !matches!(self.probe, Turn::Asked(_)) {
                self.probe = Turn::Due(now);
            }
        }
        if self.count.is_lost(now) {
            self.count = Turn::Due(now);
        }
        if self.count.is_due(now) {
            self.count = Turn::Asked(now + facts.probe_patience());
            out.push(facts.count(self.pgid));
        }
        if self.probe.is_lost(now) && self.probed(facts, Probed::NotReady, now, policy, out) == Hearing::Deaf
        {
            return Hearing::Deaf;
        }
        if self.probe.is_due(now) {
            self.probe = Turn::Asked(now + facts.probe_patience());
            out.push(facts.probe(self.pgid, false));
        }
        Hearing::Fine
    }

    pub fn deadline(&self) -> Option<Instant> {
        [self.silent_at, self.forget_at, self.probe.deadline(), self.count.deadline()]
            .into_iter()
            .flatten()
            .min()
    }

    /// The machine slept: silence is counted anew by so much, and an answer that did not come meanwhile may have
    /// waited for us.
    pub fn slept(&mut self, gap: Duration) {
        self.silent_at = self.silent_at.map(|at| at + gap);
        self.forget_at = self.forget_at.map(|at| at + gap);
        self.deaf_probes = 0;
        for turn in [&mut self.probe, &mut self.count] {
            if let Turn::Asked(lost_at) = turn {
                *lost_at += gap;
            }
        }
    }
}
