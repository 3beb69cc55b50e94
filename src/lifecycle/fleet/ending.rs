//! The end of the hive: all workers end with it, or go on for the next one.

use std::time::{Duration, Instant};

use crate::id::WorkerId;
use crate::lifecycle::any::AnyWorker;
use crate::lifecycle::state::{Effects, StopReason};
use crate::limits::{CASCADE_KILL_WAIT, KEEP_WAIT};

use super::Fleet;

/// The end of the hive.
#[derive(Debug, Clone, Copy)]
pub(super) enum Ending {
    /// All workers end; what still lives at `kill_at` is killed.
    Cascade { kill_at: Instant },
    /// Workers go on; launches that are under way are waited for until `by`.
    Keep { by: Instant },
}

impl Ending {
    /// What is not over by then is not waited for.
    pub(super) fn over_at(self) -> Instant {
        match self {
            Self::Cascade { kill_at } => kill_at + CASCADE_KILL_WAIT,
            Self::Keep { by } => by,
        }
    }

    /// The machine slept: who is killed only now has the same time to die.
    pub(super) fn slept(&mut self, gap: Duration, now: Instant) {
        if let Self::Cascade { kill_at } = self {
            *kill_at = (*kill_at).max(now.min(*kill_at + gap));
        }
    }
}

impl Fleet {
    /// Stops all workers at once and refuses new ones; a second call, or `force`, only makes it faster.
    /// Gives how many there are to stop.
    pub fn cascade(&mut self, force: bool, now: Instant) -> (usize, Effects) {
        let mut out = self.fire(now);
        let grace = if force { Duration::ZERO } else { self.policy.grace };
        let kill_at = match self.ending {
            Some(Ending::Cascade { kill_at }) => kill_at.min(now + grace),
            Some(Ending::Keep { .. }) | None => now + grace,
        };
        self.ending = Some(Ending::Cascade { kill_at });
        let ids: Vec<WorkerId> = self.workers.keys().cloned().collect();
        let count = ids.len();
        for id in ids {
            self.change(&id, now, &mut out, |worker, _, out| {
                worker.stop(StopReason::Cascade, now, kill_at.saturating_duration_since(now), out)
            });
        }
        (count, out)
    }

    /// Refuses new workers and lets go of those that run, for the next hive. What has no process ends here. Gives how
    /// many there are to keep; `None` in the cascade, which is not taken back.
    pub fn keep(&mut self, now: Instant) -> (Option<usize>, Effects) {
        let mut out = self.fire(now);
        if self.ending.is_none() {
            self.ending = Some(Ending::Keep { by: now + KEEP_WAIT });
            self.end_those_without_process(now, &mut out);
        }
        (self.keeps().then_some(self.workers.len()), out)
    }

    pub(super) fn end_those_without_process(&mut self, now: Instant, out: &mut Effects) {
        let has_none = |worker: &AnyWorker| worker.group().is_none() && !worker.is_in_transit();
        let ids = self.workers.iter().filter(|(_, worker)| has_none(worker)).map(|(id, _)| id.clone());
        for id in ids.collect::<Vec<_>>() {
            self.change(&id, now, out, |worker, _, out| {
                worker.stop(StopReason::Cascade, now, Duration::ZERO, out)
            });
        }
    }

    /// Whether the end is over: of a cascade, nothing lives, or what lives did not die of SIGKILL in time; otherwise,
    /// nothing is under way.
    pub fn is_done(&self, now: Instant) -> bool {
        let Some(ending) = self.ending else { return false };
        let is_settled = match ending {
            Ending::Cascade { .. } => self.workers.is_empty(),
            Ending::Keep { .. } => !self.workers.values().any(AnyWorker::is_in_transit),
        };
        is_settled || ending.over_at() <= now
    }

    /// Whether the workers go on without the hive.
    pub fn keeps(&self) -> bool {
        matches!(self.ending, Some(Ending::Keep { .. }))
    }

    /// Whether the end has begun: nothing new is taken.
    pub fn is_stopping(&self) -> bool {
        self.ending.is_some()
    }
}
