//! What a worker looks like from outside: the one place where inner states become wire words.

use std::sync::Arc;
use std::time::Instant;

use crate::api::{Phase, State, WorkerHealth};
use crate::capacity::ledger::Placement;
use crate::id::{DownloadId, Pgid, Run, Token, WorkerId};
use crate::kinds::Kind;

use super::event::Plan;
use super::spawning::Step;
use super::state::{Busy, End, Facts, Live as _, Process, Ready, Reason, Slots, Spawning, Stopping, Worker};

/// A worker at one moment, with times of the monotonic clock.
#[derive(Debug, Clone, PartialEq)]
pub struct View {
    /// Its name.
    pub id: WorkerId,
    /// Its present launch.
    pub run: Run,
    /// What opens `ready` and `heartbeat` for this launch.
    pub token: Token,
    /// What it is to be.
    pub plan: Arc<Plan>,
    /// Its devices and its promise.
    pub placement: Arc<Placement>,
    /// Wire state.
    pub state: State,
    /// While spawning: how far it is.
    pub phase: Option<Phase>,
    /// While provisioning: what is being fetched for it.
    pub download: Option<DownloadId>,
    /// Whether it is well, once that is known.
    pub health: Option<WorkerHealth>,
    /// Its process, if there is one.
    pub pgid: Option<Pgid>,
    /// Where it listens.
    pub port: u16,
    /// Requests at once.
    pub slots: Slots,
    /// Restarts after crashes.
    pub restarts: u32,
    /// Resident memory of its process tree.
    pub memory_bytes: Option<u64>,
    /// When its present run was launched.
    pub started_at: Option<Instant>,
    /// When it last said, or answered, that it lives.
    pub last_heartbeat: Option<Instant>,
    /// When it last had work.
    pub last_activity: Option<Instant>,
    /// The end of its last run.
    pub end: Option<End>,
}

impl View {
    /// Whether the two differ in more than what moves all the time (times and memory).
    pub(super) fn differs(&self, other: &Self) -> bool {
        let still = |view: &Self| Self {
            memory_bytes: None,
            last_heartbeat: None,
            last_activity: None,
            ..view.clone()
        };
        still(self) != still(other)
    }
}

fn base(facts: &Facts, state: State, process: Process) -> View {
    let pgid = match process {
        Process::Alive(pgid) => Some(pgid),
        Process::Starting | Process::Dying | Process::Dead => None,
    };
    View {
        id: facts.id.clone(),
        run: facts.run,
        token: facts.token.clone(),
        plan: Arc::clone(&facts.plan),
        placement: Arc::clone(&facts.placement),
        state,
        phase: None,
        download: None,
        health: None,
        pgid,
        port: facts.lease.port(),
        slots: Slots { total: facts.slots_total, available: 0 },
        restarts: facts.restarts.count(),
        memory_bytes: facts.usage.map(|usage| usage.rss_bytes),
        started_at: facts.started_at,
        last_heartbeat: facts.last_heartbeat,
        last_activity: facts.last_activity,
        end: facts.end.clone(),
    }
}

impl Worker<Spawning> {
    pub(super) fn view(&self) -> View {
        let phase = match self.state.step {
            Step::Provisioning { .. } => Phase::Provisioning,
            Step::Waiting { .. } | Step::Launching { .. } => Phase::Launching,
            Step::Loading(_) => Phase::Loading,
            Step::Killed { .. } | Step::Backoff { .. } => Phase::Backoff,
        };
        let view = base(&self.facts, State::Spawning, self.state.process());
        // What was killed is no process to speak to any more.
        let pgid = view.pgid.filter(|_| phase != Phase::Backoff);
        View { phase: Some(phase), download: self.download().cloned(), pgid, ..view }
    }
}

impl Worker<Ready> {
    pub(super) fn view(&self) -> View {
        let serving = &self.state.serving;
        let (health, slots) = (Some(serving.health), serving.slots);
        View { health, slots, ..base(&self.facts, State::Ready, self.state.process()) }
    }
}

impl Worker<Busy> {
    pub(super) fn view(&self) -> View {
        let serving = &self.state.serving;
        let (health, slots) = (Some(serving.health), serving.slots);
        View { health, slots, ..base(&self.facts, State::Busy, self.state.process()) }
    }
}

impl Worker<Stopping> {
    pub(super) fn view(&self) -> View {
        base(&self.facts, State::Stopping, self.state.process)
    }

    /// Its last picture, and the right to its port.
    pub(super) fn bury(mut self) -> (View, super::ports::Lease) {
        // One that never had a process ends as it was asked to, or for want of a port.
        let reason = self.state.why.map_or(Reason::PortLost, Reason::from);
        self.facts.end.get_or_insert(End { status: None, reason, message: None, log: Vec::new() });
        let mut view = View { state: State::Gone, ..self.view() };
        // It is remembered for a while, and the files of its program are not kept for that.
        if view.plan.kind.install.is_some() {
            let kind = Kind { install: None, ..Kind::clone(&view.plan.kind) };
            view.plan = Arc::new(Plan { kind: Arc::new(kind), ..Plan::clone(&view.plan) });
        }
        (view, self.facts.lease)
    }
}
