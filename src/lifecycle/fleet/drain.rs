//! Draining: no newcomers, and on request nobody stays who has nothing to do.

use std::time::Instant;

use crate::lifecycle::Policy;
use crate::lifecycle::any::AnyWorker;
use crate::lifecycle::state::{Effects, StopReason};
use crate::limits::DRAIN_IDLE_AFTER;

use super::Fleet;

/// What a hive that is drained does with its workers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Drain {
    /// They serve on, and are started again after a crash.
    Keep,
    /// They are stopped when they have no request, and not started again.
    StopIdle,
}

impl Fleet {
    /// Refuses newcomers, or takes them again. With `stop_idle`, workers without a request leave: those on their
    /// way at once, those that serve once they were idle for [`DRAIN_IDLE_AFTER`]; the ones that do not say how
    /// busy they are stay. The last call counts. Gives how many workers live; `None` in the cascade, which is not
    /// taken back.
    pub fn drain(&mut self, drain: bool, stop_idle: bool, now: Instant) -> (Option<usize>, Effects) {
        let mut out = self.fire(now);
        if self.is_stopping() {
            return (None, out);
        }
        self.drain = drain.then_some(if stop_idle { Drain::StopIdle } else { Drain::Keep });
        self.policy = self.usual.clone();
        if self.drain == Some(Drain::StopIdle) {
            let idle = self.usual.idle_timeout.map_or(DRAIN_IDLE_AFTER, |usual| usual.min(DRAIN_IDLE_AFTER));
            self.policy = Policy { idle_timeout: Some(idle), restart_limit: 0, ..self.usual.clone() };
            self.stop_those_on_their_way(now, &mut out);
            out.append(&mut self.fire(now)); // who was idle for long
        }
        (Some(self.len()), out)
    }

    /// Whether newcomers are refused, but for the cascade.
    pub fn is_draining(&self) -> bool {
        self.drain.is_some()
    }

    fn stop_those_on_their_way(&mut self, now: Instant, out: &mut Effects) {
        let grace = self.policy.grace;
        let ids: Vec<_> = self.workers.keys().cloned().collect();
        for id in ids {
            self.change(&id, now, out, |worker, _, out| match worker {
                AnyWorker::Spawning(_) => worker.stop(StopReason::Drain, now, grace, out),
                other => other,
            });
        }
    }

    /// Why one that has nothing to do is stopped.
    pub(super) fn why_idle_ones_leave(&self) -> StopReason {
        if self.drain == Some(Drain::StopIdle) { StopReason::Drain } else { StopReason::Idle }
    }
}
