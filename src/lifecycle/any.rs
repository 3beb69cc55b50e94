//! A worker in whatever state: what is the same question in each of them.

use std::time::{Duration, Instant};

use crate::api::{ReportedHealth, ReportedState};
use crate::capacity::ledger::Claim;
use crate::id::{Pgid, Run};

use super::Policy;
use super::event::{Effect, Plan};
use super::serving::{Hearing, Serving};
use super::spawning::Launched;
use super::state::{
    AfterExit, Busy, Effects, End, Facts, Live, Process, Ready, Reason, Slots, Spawning, StopReason,
    Stopping, Worker,
};
use super::view::View;

/// What a native worker says in a heartbeat.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Beat {
    /// How it is.
    pub health: ReportedHealth,
    /// What it does.
    pub state: Option<ReportedState>,
    /// Requests at once.
    pub slots_total: Option<u32>,
    /// How many of them are free.
    pub slots_available: Option<u32>,
}

/// A worker in one of its states.
#[derive(Debug)]
pub(super) enum AnyWorker {
    Spawning(Worker<Spawning>),
    Ready(Worker<Ready>),
    Busy(Worker<Busy>),
    Stopping(Worker<Stopping>),
}

impl Beat {
    /// What the heartbeat makes of the slots that were known. Numbers win over the word: busy means that
    /// no slot is free.
    pub(super) fn slots(self, known: Slots) -> Slots {
        let total = self.slots_total.unwrap_or(known.total);
        let available = match (self.slots_available, self.state) {
            (Some(available), _) => available,
            (None, Some(ReportedState::Busy)) => 0,
            (None, Some(ReportedState::Ready)) if known.available == 0 => total,
            (None, _) => known.available,
        };
        Slots { total, available: available.min(total) }
    }
}

impl AnyWorker {
    pub fn facts(&self) -> &Facts {
        match self {
            Self::Spawning(w) => &w.facts,
            Self::Ready(w) => &w.facts,
            Self::Busy(w) => &w.facts,
            Self::Stopping(w) => &w.facts,
        }
    }

    pub fn facts_mut(&mut self) -> &mut Facts {
        match self {
            Self::Spawning(w) => &mut w.facts,
            Self::Ready(w) => &mut w.facts,
            Self::Busy(w) => &mut w.facts,
            Self::Stopping(w) => &mut w.facts,
        }
    }

    fn process(&self) -> Process {
        match self {
            Self::Spawning(w) => w.state.process(),
            Self::Ready(w) => w.state.process(),
            Self::Busy(w) => w.state.process(),
            Self::Stopping(w) => w.state.process,
        }
    }

    /// Its processes, if there are any.
    pub fn group(&self) -> Option<Pgid> {
        if let Process::Alive(group) = self.process() { Some(group) } else { None }
    }

    /// Whether it counts as serving, and has neither said nor answered that it lives.
    pub fn is_unheard(&self) -> bool {
        matches!(self, Self::Ready(_) | Self::Busy(_)) && self.facts().last_heartbeat.is_none()
    }

    /// Whether its processes are about to be there, or to be gone.
    pub fn is_in_transit(&self) -> bool {
        matches!(self.process(), Process::Starting | Process::Dying)
    }

    /// What it was promised, and what for the ledger depends on.
    pub fn claim(&self) -> Claim<'_> {
        let facts = self.facts();
        let idle_since = match self {
            Self::Ready(w) => w.idle_since(),
            Self::Spawning(_) | Self::Busy(_) | Self::Stopping(_) => None,
        };
        Claim {
            worker: &facts.id,
            placement: &facts.placement,
            group: self.group(),
            serves_since: match self {
                Self::Ready(w) => Some(w.state.serving.since),
                Self::Busy(w) => Some(w.state.serving.since),
                Self::Spawning(_) | Self::Stopping(_) => None,
            },
            idle_since: idle_since.filter(|_| !facts.plan.pinned),
        }
    }

    pub fn end_mut(&mut self) -> Option<&mut End> {
        match self {
            Self::Spawning(w) => w.facts.end.as_mut(),
            Self::Ready(w) => w.facts.end.as_mut(),
            Self::Busy(w) => w.facts.end.as_mut(),
            Self::Stopping(w) => w.facts.end.as_mut(),
        }
    }

    pub fn serving_mut(&mut self) -> Option<(&mut Facts, &mut Serving)> {
        match self {
            Self::Ready(w) => Some((&mut w.facts, &mut w.state.serving)),
            Self::Busy(w) => Some((&mut w.facts, &mut w.state.serving)),
            Self::Spawning(_) | Self::Stopping(_) => None,
        }
    }

    /// Whether it works is not known: that is no idleness.
    pub fn may_work(&mut self, now: Instant) {
        if let Self::Ready(w) = self {
            w.state.idle_since = now;
        }
    }

    pub fn unless_deaf(self, hearing: Hearing, out: &mut Effects) -> Self {
        match (hearing, self) {
            (Hearing::Deaf, Self::Ready(w)) => {
                let pgid = w.state.serving.pgid;
                Self::Spawning(w.kill(pgid, Reason::Deaf, out))
            }
            (Hearing::Deaf, Self::Busy(w)) => {
                let pgid = w.state.serving.pgid;
                Self::Spawning(w.kill(pgid, Reason::Deaf, out))
            }
            (_, same) => same,
        }
    }

    pub fn plan(&self) -> &Plan {
        &self.facts().plan
    }

    pub fn run(&self) -> Run {
        self.facts().run
    }

    pub fn view(&self) -> View {
        match self {
            Self::Spawning(w) => w.view(),
            Self::Ready(w) => w.view(),
            Self::Busy(w) => w.view(),
            Self::Stopping(w) => w.view(),
        }
    }

    pub fn deadline(&self, policy: &Policy) -> Option<Instant> {
        match self {
            Self::Spawning(w) => w.deadline(),
            Self::Ready(w) => [w.state.serving.deadline(), w.idle_at(policy)].into_iter().flatten().min(),
            Self::Busy(w) => w.state.serving.deadline(),
            Self::Stopping(w) => w.deadline(),
        }
    }

    pub fn stop(self, why: StopReason, now: Instant, grace: Duration, out: &mut Effects) -> Self {
        fn live<S: Live>(
            w: Worker<S>,
            why: StopReason,
            now: Instant,
            g: Duration,
            out: &mut Effects,
        ) -> AnyWorker {
            AnyWorker::Stopping(w.stop(why, now, g, out))
        }
        match self {
            Self::Spawning(w) => {
                if let Some(download) = w.download() {
                    let (id, download) = (w.facts.id.clone(), download.clone());
                    out.push(Effect::Forsake { id, download });
                }
                live(w, why, now, grace, out)
            }
            Self::Ready(w) => live(w, why, now, grace, out),
            Self::Busy(w) => live(w, why, now, grace, out),
            Self::Stopping(mut w) => {
                w.hurry(now + grace);
                w.tick(now, out);
                Self::Stopping(w)
            }
        }
    }

    /// Busy or ready by what is free now.
    pub fn settle(self, slots: impl FnOnce(Slots) -> Slots, now: Instant) -> Self {
        match self {
            Self::Ready(mut w) => {
                let slots = slots(w.state.serving.slots);
                if slots.available == 0 {
                    return Self::Busy(w.busy(slots, now));
                }
                w.stay(slots, now);
                Self::Ready(w)
            }
            Self::Busy(mut w) => {
                let slots = slots(w.state.serving.slots);
                if slots.available > 0 {
                    return Self::Ready(w.free(slots, now));
                }
                w.stay(slots, now);
                Self::Busy(w)
            }
            other => other,
        }
    }
}

impl From<Launched> for AnyWorker {
    fn from(launched: Launched) -> Self {
        match launched {
            Launched::Loading(w) => Self::Spawning(w),
            Launched::Ready(w) => Self::Ready(w),
        }
    }
}

impl From<AfterExit> for AnyWorker {
    fn from(after: AfterExit) -> Self {
        match after {
            AfterExit::Again(w) => Self::Spawning(w),
            AfterExit::GivenUp(w) => Self::Stopping(w),
        }
    }
}
