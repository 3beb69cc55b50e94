//! A worker on its way: launching, loading, killed for want of progress, backing off.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::api::WorkerHealth;
use crate::capacity::ledger::Placement;
use crate::id::{DownloadId, Pgid, Run, Token, WorkerId};
use crate::kinds::Protocol;
use crate::limits::{
    EXCHANGE_TIMEOUT, LOADING_PROBE_INTERVAL, MEASURE_INTERVAL, READY_TOTAL_FACTOR, RESTARTS_FORGOTTEN_AFTER,
};
use crate::models::Selection;

use super::Policy;
use super::event::{Adopted, Effect, Plan, Probed, Usage};
use super::ports::Lease;
use super::restart::Restarts;
use super::serving::Serving;
use super::state::{
    AfterExit, Effects, End, Facts, Live, Process, Ready, Reason, Slots, Turn, Worker, sealed,
};
use super::stopping::{Stage, Stopping};

/// On its way.
#[derive(Debug)]
pub struct Spawning {
    pub(super) step: Step,
}

#[derive(Debug)]
pub(super) enum Step {
    /// Its model is being fetched; then it may have to wait for `leave`.
    Provisioning { download: DownloadId, leave: Vec<WorkerId> },
    /// Its place is not free yet: it is launched when these are dead and their memory has come back.
    Waiting { leave: Vec<WorkerId>, give_up_at: Instant },
    /// The process is being started. A callback may overtake the news of it.
    Launching { early: Option<Slots> },
    /// The process loads the model.
    Loading(Loading),
    /// The process was killed for `why`; its exit decides what comes next.
    Killed { pgid: Pgid, why: Reason },
    /// It is started again at `until`, and not before nothing is left of its last run.
    Backoff { until: Instant, left: Left, move_port: bool },
}

/// What is left of a run that ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Left {
    /// The rest of its group is being killed.
    Processes,
    /// The driver has not given back its memory.
    Memory,
    /// Nothing.
    Nothing,
}

#[derive(Debug)]
pub(super) struct Loading {
    pub pgid: Pgid,
    /// Given up then, unless something moves.
    pub quiet_by: Instant,
    /// Given up then, whatever moves.
    pub total_by: Instant,
    pub health: Turn,
    pub measure: Turn,
}

impl sealed::Sealed for Spawning {}

impl Live for Spawning {
    fn process(&self) -> Process {
        match &self.step {
            Step::Provisioning { .. } | Step::Waiting { .. } => Process::Dead,
            Step::Launching { .. } => Process::Starting,
            Step::Loading(Loading { pgid, .. }) | Step::Killed { pgid, .. } => Process::Alive(*pgid),
            Step::Backoff { left: Left::Processes, .. } => Process::Dying,
            Step::Backoff { left: Left::Memory | Left::Nothing, .. } => Process::Dead,
        }
    }
    fn killed_for(&self) -> Option<Reason> {
        match self.step {
            Step::Killed { why, .. } => Some(why),
            _ => None,
        }
    }
    fn is_loading(&self) -> bool {
        matches!(self.step, Step::Launching { .. } | Step::Loading(_))
    }
}

impl Worker<Spawning> {
    /// A worker that was just admitted. Its first launch is under way, or waits for its model, and for
    /// `leave` until `give_up_at`.
    pub(super) fn admitted(
        id: WorkerId,
        plan: Plan,
        placement: Placement,
        lease: Lease,
        token: Token,
        wait: Wait,
        out: &mut Effects,
    ) -> Self {
        let slots_total = plan.parallel;
        let facts = Facts {
            id,
            plan: Arc::new(plan),
            placement: Arc::new(placement),
            seen: Vec::new(),
            slots_total,
            lease,
            run: Run(1),
            token,
            restarts: Restarts::default(),
            port_moves: 0,
            estranged: false,
            usage: None,
            started_at: None,
            last_heartbeat: None,
            last_activity: None,
            end: None,
        };
        let Wait { fetch, leave, give_up_at } = wait;
        let step = match fetch {
            Some(selection) => {
                let download = selection.id();
                out.push(Effect::Fetch { id: facts.id.clone(), selection });
                Step::Provisioning { download, leave }
            }
            None if !leave.is_empty() => Step::Waiting { leave, give_up_at },
            None => {
                out.push(facts.launch());
                Step::Launching { early: None }
            }
        };
        Self { facts, state: Spawning { step } }
    }

    /// A worker that an earlier hive has launched. It is asked at once how it is, also if it is one that calls: its
    /// calls may go to where this hive is not.
    pub(super) fn adopted(adopted: Adopted, lease: Lease, now: Instant, policy: &Policy) -> Self {
        let Adopted { job, pgid, standing: _, age } = adopted;
        let facts = Facts {
            id: job.id,
            slots_total: job.plan.parallel,
            estranged: job.plan.kind.protocol == Protocol::Native,
            plan: job.plan,
            placement: job.placement,
            seen: Vec::new(),
            lease,
            run: job.run,
            token: job.token,
            restarts: Restarts::resumed(job.restarts),
            port_moves: job.port_moves,
            usage: None,
            started_at: now.checked_sub(age),
            last_heartbeat: None,
            last_activity: None,
            end: None,
        };
        let step = Step::Loading(Loading {
            pgid,
            quiet_by: now + policy.ready_timeout,
            total_by: now + policy.ready_timeout.saturating_mul(READY_TOTAL_FACTOR),
            health: Turn::Due(now),
            measure: Turn::Due(now),
        });
        Self { facts, state: Spawning { step } }
    }

    /// An adopted worker that has served before: it is taken to do so still, until it is found silent.
    #[expect(clippy::result_large_err, reason = "a worker moves by value from state to state")]
    pub(super) fn resumed(self, now: Instant, policy: &Policy) -> Result<Worker<Ready>, Self> {
        let total = self.facts.slots_total;
        let mut ready = self.ready(Slots { total, available: total }, now, policy)?;
        ready.facts.last_heartbeat = None;
        ready.state.serving.probe = Turn::Due(now);
        ready.state.serving.measured_at = now - MEASURE_INTERVAL;
        Ok(ready)
    }

    /// The download that it waits for.
    pub(super) fn download(&self) -> Option<&DownloadId> {
        match &self.state.step {
            Step::Provisioning { download, .. } => Some(download),
            _ => None,
        }
    }

    /// Its model is there: now it waits for its place, until `give_up_at`.
    pub(super) fn fetched(&mut self, give_up_at: Instant) {
        if let Step::Provisioning { leave, .. } = &mut self.state.step {
            self.state.step = Step::Waiting { leave: std::mem::take(leave), give_up_at };
        }
    }

    /// Those who must be gone before it is launched, if that is all that it waits for.
    pub(super) fn waits_for(&self) -> Option<&[WorkerId]> {
        match &self.state.step {
            Step::Waiting { leave, .. } => Some(leave),
            _ => None,
        }
    }

    /// Its place is free: it is launched.
    pub(super) fn go(&mut self, out: &mut Effects) {
        if let Step::Waiting { .. } = self.state.step {
            out.push(self.facts.launch());
            self.state.step = Step::Launching { early: None };
        }
    }

    /// Whether its place did not become free in time.
    pub(super) fn waited_in_vain(&self, now: Instant) -> bool {
        matches!(self.state.step, Step::Waiting { give_up_at, .. } if give_up_at <= now)
    }

    /// The process runs. Gives the worker as ready at once if its callback was faster than this news.
    pub(super) fn launched(mut self, pgid: Pgid, now: Instant, policy: &Policy) -> Launched {
        self.facts.started_at = Some(now);
        let Step::Launching { early } = self.state.step else { return Launched::Loading(self) };
        let health = match self.facts.plan.kind.protocol {
            Protocol::Native => Turn::Off,
            Protocol::Probe(_) => Turn::Due(now + LOADING_PROBE_INTERVAL),
        };
        self.state.step = Step::Loading(Loading {
            pgid,
            quiet_by: now + policy.ready_timeout,
            total_by: now + policy.ready_timeout.saturating_mul(READY_TOTAL_FACTOR),
            health,
            measure: Turn::Due(now + measure_while_loading(policy)),
        });
        match early {
            Some(slots) => match self.ready(slots, now, policy) {
                Ok(ready) => Launched::Ready(ready),
                Err(loading) => Launched::Loading(loading),
            },
            None => Launched::Loading(self),
        }
    }

    /// The launch came to nothing: a crash without a process.
    pub(super) fn launch_failed(
        mut self,
        message: String,
        now: Instant,
        policy: &Policy,
        jitter: u8,
    ) -> AfterExit {
        let reason = Reason::LaunchFailed;
        self.facts.end = Some(End { status: None, reason, message: Some(message), log: Vec::new() });
        self.after_end(reason, true, now, policy, jitter)
    }

    /// Somebody else listens on the port: the launch is tried again on another one.
    pub(super) fn port_taken(self, now: Instant, policy: &Policy, jitter: u8) -> AfterExit {
        self.after_end(Reason::PortLost, true, now, policy, jitter)
    }

    /// The model is loaded: the worker serves.
    ///
    /// # Errors
    /// The worker as it was, if its process is not known to run: being launched, killed, or backing off.
    #[expect(clippy::result_large_err, reason = "a worker moves by value from state to state")]
    pub fn ready(self, slots: Slots, now: Instant, policy: &Policy) -> Result<Worker<Ready>, Self> {
        let Self { mut facts, state } = self;
        let Step::Loading(Loading { pgid, quiet_by: _, total_by: _, health: _, measure: _ }) = state.step
        else {
            return Err(Self { facts, state });
        };
        facts.last_heartbeat = Some(now);
        facts.slots_total = slots.total;
        let (probe, count) = match &facts.plan.kind.protocol {
            Protocol::Native => (Turn::Off, Turn::Off),
            Protocol::Probe(probe) => {
                let count = if probe.busy.is_some() { Turn::Due(now) } else { Turn::Off };
                (Turn::Due(now + probe.interval), count)
            }
        };
        let serving = Serving {
            pgid,
            slots,
            health: WorkerHealth::Healthy,
            silent_at: Some(now + facts.silence(policy)),
            deaf_probes: 0,
            probe,
            count,
            measured_at: now,
            since: now,
            forget_at: (facts.restarts.count() > 0).then(|| now + RESTARTS_FORGOTTEN_AFTER),
        };
        Ok(Worker { facts, state: Ready { serving, idle_since: now } })
    }

    /// A callback came before the news that the process runs.
    pub(super) fn ready_early(&mut self, slots: Slots) -> bool {
        match &mut self.state.step {
            Step::Launching { early } => {
                *early = Some(slots);
                true
            }
            _ => false,
        }
    }

    /// The last process of the group is gone.
    pub(super) fn group_dead(&mut self) {
        if let Step::Backoff { left: left @ Left::Processes, .. } = &mut self.state.step {
            *left = if self.facts.seen.is_empty() { Left::Nothing } else { Left::Memory };
        }
    }

    /// Whether it waits for the memory of its last run.
    pub(super) fn waits_for_memory(&self) -> bool {
        matches!(self.state.step, Step::Backoff { left: Left::Memory, .. })
    }

    /// The memory of its last run has come back.
    pub(super) fn memory_returned(&mut self) {
        if let Step::Backoff { left: left @ Left::Memory, .. } = &mut self.state.step {
            *left = Left::Nothing;
        }
    }

    /// A health probe was answered.
    pub(super) fn probed(
        mut self,
        probed: Probed,
        now: Instant,
        policy: &Policy,
        out: &mut Effects,
    ) -> Launched {
        let parallel = self.facts.plan.parallel;
        let Step::Loading(loading) = &mut self.state.step else { return Launched::Loading(self) };
        match probed {
            Probed::Ready => match self.ready(Slots { total: parallel, available: parallel }, now, policy) {
                Ok(ready) => Launched::Ready(ready),
                Err(same) => Launched::Loading(same),
            },
            Probed::Loading | Probed::NotReady => {
                if loading.health != Turn::Off {
                    loading.health = Turn::Due(now + LOADING_PROBE_INTERVAL);
                }
                Launched::Loading(self)
            }
            Probed::Foreign => {
                let pgid = loading.pgid;
                Launched::Loading(self.kill(pgid, Reason::PortLost, out))
            }
        }
    }

    /// The process tree was looked at: whatever moved puts the deadline off.
    pub(super) fn measured(&mut self, usage: Usage, now: Instant, policy: &Policy) {
        if let Step::Loading(loading) = &mut self.state.step {
            loading.measure = Turn::Due(now + measure_while_loading(policy));
            if self.facts.usage != Some(usage) {
                loading.quiet_by = now + policy.ready_timeout;
            }
            self.facts.measured(usage);
        }
    }

    /// Fires what is due.
    pub(super) fn tick(mut self, now: Instant, policy: &Policy, out: &mut Effects) -> Self {
        let Step::Loading(loading) = &mut self.state.step else { return self };
        if loading.quiet_by <= now || loading.total_by <= now {
            let pgid = loading.pgid;
            return self.kill(pgid, Reason::ReadyTimeout, out);
        }
        if loading.health.is_lost(now) {
            loading.health = Turn::Due(now);
        }
        if loading.health.is_due(now) {
            loading.health = Turn::Asked(now + self.facts.probe_patience());
            out.push(self.facts.probe(loading.pgid, true));
        }
        if loading.measure.is_lost(now) {
            loading.measure = Turn::Due(now);
        }
        if loading.measure.is_due(now) {
            loading.measure = Turn::Asked(now + EXCHANGE_TIMEOUT + measure_while_loading(policy));
            out.push(self.facts.measure(loading.pgid));
        }
        self
    }

    /// What is to happen at a relaunch, if the time for it has come: `Some(true)` on another port.
    pub(super) fn relaunch_due(&self, now: Instant) -> Option<bool> {
        match self.state.step {
            Step::Backoff { until, left: Left::Nothing, move_port } if until <= now => Some(move_port),
            _ => None,
        }
    }

    /// Starts the next run, with a token of its own and, where one is given, on another port. Gives the
    /// old lease back.
    pub(super) fn relaunch(
        mut self,
        lease: Option<Lease>,
        token: Token,
        out: &mut Effects,
    ) -> (Self, Option<Lease>) {
        let old = lease.map(|new| {
            self.facts.port_moves += 1;
            std::mem::replace(&mut self.facts.lease, new)
        });
        self.facts.run = self.facts.run.next();
        self.facts.token = token;
        self.facts.started_at = None;
        self.facts.estranged = false;
        self.facts.seen = Vec::new();
        out.push(self.facts.launch());
        self.state.step = Step::Launching { early: None };
        (self, old)
    }

    /// It cannot be launched: it ends here.
    pub(super) fn abandon(mut self, reason: Reason, message: &str, now: Instant) -> Worker<Stopping> {
        let message = Some(message.to_owned());
        self.facts.end = Some(End { status: None, reason, message, log: Vec::new() });
        let state = Stopping {
            why: None,
            process: self.state.process(),
            stage: Stage::Killed,
            kill_at: now,
            tail_by: None,
        };
        Worker { facts: self.facts, state }
    }

    pub(super) fn deadline(&self) -> Option<Instant> {
        match &self.state.step {
            Step::Provisioning { .. } | Step::Launching { .. } | Step::Killed { .. } => None,
            Step::Waiting { give_up_at, .. } => Some(*give_up_at),
            Step::Backoff { until, left, .. } => (*left == Left::Nothing).then_some(*until),
            Step::Loading(loading) => [loading.health.deadline(), loading.measure.deadline()]
                .into_iter()
                .flatten()
                .chain([loading.quiet_by, loading.total_by])
                .min(),
        }
    }

    /// The machine slept: what was to show that nothing moves starts anew by so much.
    pub(super) fn slept(&mut self, gap: Duration) {
        match &mut self.state.step {
            Step::Loading(loading) => {
                loading.quiet_by += gap;
                loading.total_by += gap;
            }
            Step::Waiting { give_up_at, .. } => *give_up_at += gap,
            _ => {}
        }
    }
}

/// What a worker that was just admitted waits for before its first launch.
#[derive(Debug)]
pub(super) struct Wait {
    /// What is to be fetched.
    pub fetch: Option<Arc<Selection>>,
    /// Those who leave for it.
    pub leave: Vec<WorkerId>,
    /// How long it waits for them.
    pub give_up_at: Instant,
}

/// A spawning worker after news that may have made it ready.
#[derive(Debug)]
pub(super) enum Launched {
    Loading(Worker<Spawning>),
    Ready(Worker<Ready>),
}

fn measure_while_loading(policy: &Policy) -> Duration {
    (policy.ready_timeout / 4).clamp(Duration::from_millis(100), MEASURE_INTERVAL)
}
