//! The states of a worker as types. A transition takes the worker and gives it back as its next type: one
//! that the graph lacks has no method, and does not compile.
//!
//! ```text
//!               ready                busy
//!   Spawning ──────────▶ Ready ◀───────────▶ Busy
//!    │  ▲  ▲              │ │       free     │ │
//!    │  │  └── exited ────┘ │                │ │
//!    │  └───── exited ──────┼────────────────┘ │
//!    │ stop, given up       │ stop             │ stop
//!    ▼                      ▼                  ▼
//!   Stopping ◀─────────────────────────────────┘ ──▶ gone, when its group is dead
//! ```
//!
//! Inside `Spawning` a worker goes (provisioning →) launching → loading, and after a crash dying → backing off → launching.
//! Nothing here reads a clock or starts a process: transitions append [`Effect`]s to a sink.

use std::sync::Arc;
use std::time::{Duration, Instant};

use signal_hook::consts::SIGKILL;

use crate::capacity::ledger::{Placement, Seen};
use crate::id::{Device, Pgid, Run, Token, WorkerId};
use crate::kinds::Protocol;
use crate::limits::{ESTRANGED_PROBE_INTERVAL, EXCHANGE_TIMEOUT, LOG_TAIL_WAIT, PORT_MOVES_MAX};

use super::Policy;
use super::event::{
    DiskJob, Effect, ExitStatus, LaunchJob, Plan, ProbeJob, Signal, Standing, Usage, WorkerJob,
};
use super::ports::Lease;
use super::restart::{Decision, Restarts};
use super::serving::Serving;
pub use super::spawning::Spawning;
use super::spawning::{Left, Step};
use super::stopping::Stage;
pub use super::stopping::Stopping;

/// Where transitions say what is to be done.
pub type Effects = Vec<Effect>;

/// A worker in the state `S`.
#[derive(Debug)]
pub struct Worker<S> {
    pub(super) facts: Facts,
    pub(super) state: S,
}

/// What a worker is in every state.
#[derive(Debug)]
pub(super) struct Facts {
    pub id: WorkerId,
    pub plan: Arc<Plan>,
    /// Its devices, and what it was promised of each until its group is dead.
    pub placement: Arc<Placement>,
    /// What its processes were last seen to use of them.
    pub seen: Vec<Seen>,
    pub lease: Lease,
    pub run: Run,
    /// Of the present run: a callback with an older one is no worker's.
    pub token: Token,
    pub restarts: Restarts,
    /// How often it got another port because somebody else had its own.
    pub port_moves: u32,
    /// It is native, was adopted, and has not called since: its calls may go to where this hive is not.
    pub estranged: bool,
    pub usage: Option<Usage>,
    /// As its last report said, or as it was asked for.
    pub slots_total: u32,
    pub started_at: Option<Instant>,
    pub last_heartbeat: Option<Instant>,
    pub last_activity: Option<Instant>,
    pub end: Option<End>,
}

/// Requests at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Slots {
    /// All.
    pub total: u32,
    /// Those without a request.
    pub available: u32,
}

/// How a run ended, and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct End {
    /// What the kernel said; `None` if there was no process.
    pub status: Option<ExitStatus>,
    /// Why.
    pub reason: Reason,
    /// What a person needs beyond that.
    pub message: Option<String>,
    /// The last lines of the log, once they were read.
    pub log: Vec<String>,
}

/// What was found at the end of a process that nobody asked to end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Exit {
    /// What the kernel said.
    pub status: ExitStatus,
    /// Somebody else listens on its port.
    pub port_lost: bool,
    /// The kernel has killed it, or a process of it, for want of memory.
    pub oom: bool,
}

/// Why a run ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reason {
    /// By itself.
    Exited,
    /// By a signal that was not ours.
    Signaled,
    /// The kernel killed it, or a process of it, for want of memory.
    Oom,
    /// Its model could not be fetched.
    DownloadFailed,
    /// It was not started.
    LaunchFailed,
    /// It made no progress, or needed too long in all.
    ReadyTimeout,
    /// It was silent, and did not answer either.
    Deaf,
    /// Somebody else has its port.
    PortLost,
    /// Those who were to leave for it did not.
    NoRoom,
    /// Somebody asked.
    Stopped,
    /// It was idle, and another one needed its memory.
    MakeRoom,
    /// It had nothing to do for too long.
    Idle,
    /// It had nothing to do, and the hive is drained.
    Drain,
    /// The hive stops.
    Cascade,
}

impl Reason {
    /// All of them.
    pub const ALL: [Self; 14] = [
        Self::Exited,
        Self::Signaled,
        Self::Oom,
        Self::DownloadFailed,
        Self::LaunchFailed,
        Self::ReadyTimeout,
        Self::Deaf,
        Self::PortLost,
        Self::NoRoom,
        Self::Stopped,
        Self::MakeRoom,
        Self::Idle,
        Self::Drain,
        Self::Cascade,
    ];

    /// Nobody wanted it: what the worker wrote may tell why.
    pub fn is_failure(self) -> bool {
        matches!(self, Self::Exited | Self::Signaled | Self::Oom | Self::ReadyTimeout | Self::Deaf)
    }

    /// The word on the wire.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Exited => "exited",
            Self::Signaled => "signaled",
            Self::Oom => "oom",
            Self::DownloadFailed => "download_failed",
            Self::LaunchFailed => "launch_failed",
            Self::ReadyTimeout => "ready_timeout",
            Self::Deaf => "deaf",
            Self::PortLost => "port_lost",
            Self::NoRoom => "no_room",
            Self::Stopped => "stopped",
            Self::MakeRoom => "make_room",
            Self::Idle => "idle",
            Self::Drain => "drain",
            Self::Cascade => "cascade",
        }
    }
}

/// Why a worker is asked to leave.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StopReason {
    /// Somebody asked.
    Asked,
    /// Another one needs its memory.
    MakeRoom,
    /// It had nothing to do for too long.
    Idle,
    /// It had nothing to do, and the hive is drained.
    Drain,
    /// The hive stops.
    Cascade,
}

impl From<StopReason> for Reason {
    fn from(why: StopReason) -> Self {
        match why {
            StopReason::Asked => Self::Stopped,
            StopReason::MakeRoom => Self::MakeRoom,
            StopReason::Idle => Self::Idle,
            StopReason::Drain => Self::Drain,
            StopReason::Cascade => Self::Cascade,
        }
    }
}

/// What there is of a worker's process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Process {
    /// It is being started; its number is not known yet.
    Starting,
    /// It runs, as far as we know.
    Alive(Pgid),
    /// Its leader has ended; the rest of its group is being killed.
    Dying,
    /// Nothing is left.
    Dead,
}

/// A question that is asked again and again, one at a time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Turn {
    /// Not asked.
    Off,
    /// To be asked at this time.
    Due(Instant),
    /// Asked; taken for unanswered at this time.
    Asked(Instant),
}

impl Turn {
    pub fn deadline(self) -> Option<Instant> {
        match self {
            Self::Off => None,
            Self::Due(at) | Self::Asked(at) => Some(at),
        }
    }
    pub fn is_due(self, now: Instant) -> bool {
        matches!(self, Self::Due(at) if at <= now)
    }
    pub fn is_lost(self, now: Instant) -> bool {
        matches!(self, Self::Asked(at) if at <= now)
    }
}

/// Serves, and has a free slot.
#[derive(Debug)]
pub struct Ready {
    pub(super) serving: Serving,
    pub(super) idle_since: Instant,
}

/// Serves, and has no free slot.
#[derive(Debug)]
pub struct Busy {
    pub(super) serving: Serving,
}

pub(super) mod sealed {
    pub trait Sealed {}
    impl Sealed for super::Ready {}
    impl Sealed for super::Busy {}
}

/// The states from which a worker can be stopped, and in which an exit is a crash.
pub trait Live: sealed::Sealed {
    /// What there is of its process.
    fn process(&self) -> Process;
    /// What it was killed for, if it was.
    fn killed_for(&self) -> Option<Reason>;
    /// Whether it still loads: an exit then may come from a lost race for the port.
    fn is_loading(&self) -> bool;
}

impl Live for Ready {
    fn process(&self) -> Process {
        Process::Alive(self.serving.pgid)
    }
    fn killed_for(&self) -> Option<Reason> {
        None
    }
    fn is_loading(&self) -> bool {
        false
    }
}

impl Live for Busy {
    fn process(&self) -> Process {
        Process::Alive(self.serving.pgid)
    }
    fn killed_for(&self) -> Option<Reason> {
        None
    }
    fn is_loading(&self) -> bool {
        false
    }
}

/// A worker whose process ended without being asked to.
#[derive(Debug)]
pub enum AfterExit {
    /// It is started again.
    Again(Worker<Spawning>),
    /// It had all its restarts.
    GivenUp(Worker<Stopping>),
}

impl<S: Live> Worker<S> {
    /// Asks the worker to leave: native ones by `POST /v1/shutdown` and, where that fails or after a third
    /// of `grace`, by SIGTERM; others by SIGTERM at once; all by SIGKILL after `grace`.
    #[must_use]
    pub fn stop(self, why: StopReason, now: Instant, grace: Duration, out: &mut Effects) -> Worker<Stopping> {
        let Self { facts, state } = self;
        let process = state.process();
        let mut stage = Stage::Termed;
        if let Process::Alive(_) = process {
            if state.killed_for().is_some() {
                stage = Stage::Killed;
            } else if facts.plan.kind.protocol == Protocol::Native && !grace.is_zero() {
                out.push(facts.ask_to_exit());
                stage = Stage::Asked(now + grace / 3);
            } else {
                let signal = if grace.is_zero() { Signal::Kill } else { Signal::Term };
                stage = if grace.is_zero() { Stage::Killed } else { Stage::Termed };
                out.push(facts.signal(signal));
            }
        }
        // A crash that is being mended has its log read already; what comes of it is not waited for.
        let state = Stopping { why: Some(why), process, stage, kill_at: now + grace, tail_by: None };
        Worker { facts, state }
    }

    /// The leader has ended by itself or by somebody's signal: a crash, unless it ended while it loaded because it
    /// had lost the race for its port. The policy decides what follows.
    #[must_use]
    pub fn exited(
        mut self,
        exit: Exit,
        now: Instant,
        policy: &Policy,
        jitter: u8,
        out: &mut Effects,
    ) -> AfterExit {
        let Exit { status, port_lost, oom } = exit;
        let natural = match status {
            _ if oom => Reason::Oom,
            _ if port_lost && self.state.is_loading() => Reason::PortLost,
            ExitStatus::Code(_) | ExitStatus::Unknown => Reason::Exited,
            ExitStatus::Signal(_) => Reason::Signaled,
        };
        let reason = self.state.killed_for().unwrap_or(natural);
        // Said here: it is launched again at once, and what its log says of an older run comes too late.
        let message = match reason {
            Reason::PortLost => Some(format!("somebody else listens on port {}", self.facts.lease.port())),
            Reason::Oom => Some(self.facts.why_oom(status)),
            _ => None,
        };
        self.facts.end = Some(End { status: Some(status), reason, message, log: Vec::new() });
        out.push(self.facts.read_log_tail());
        self.after_end(reason, false, now, policy, jitter)
    }

    /// Kills the worker for `why`; its exit decides what comes next.
    pub(super) fn kill(self, pgid: Pgid, why: Reason, out: &mut Effects) -> Worker<Spawning> {
        out.push(self.facts.signal(Signal::Kill));
        Worker { facts: self.facts, state: Spawning { step: Step::Killed { pgid, why } } }
    }

    pub(super) fn after_end(
        self,
        reason: Reason,
        group_dead: bool,
        now: Instant,
        policy: &Policy,
        jitter: u8,
    ) -> AfterExit {
        let Self { mut facts, state: _ } = self;
        facts.usage = None;
        let moved = reason == Reason::PortLost && facts.port_moves < PORT_MOVES_MAX;
        let left = if group_dead { Left::Nothing } else { Left::Processes };
        let decision = if moved {
            Decision::Again(Duration::ZERO)
        } else {
            facts.restarts.after_crash(policy.restart_limit, jitter)
        };
        match decision {
            Decision::Again(wait) => {
                let step = Step::Backoff { until: now + wait, left, move_port: reason == Reason::PortLost };
                AfterExit::Again(Worker { facts, state: Spawning { step } })
            }
            Decision::GiveUp => {
                let process = if group_dead { Process::Dead } else { Process::Dying };
                let tail_by = (!group_dead).then(|| now + LOG_TAIL_WAIT);
                let stage = Stage::Killed;
                AfterExit::GivenUp(Worker {
                    facts,
                    state: Stopping { why: None, process, stage, kill_at: now, tail_by },
                })
            }
        }
    }
}

impl Worker<Ready> {
    /// No slot is free any more.
    #[must_use]
    pub fn busy(mut self, slots: Slots, now: Instant) -> Worker<Busy> {
        self.facts.last_activity = Some(now);
        self.facts.slots_total = slots.total;
        let Ready { mut serving, idle_since: _ } = self.state;
        serving.slots = slots;
        Worker { facts: self.facts, state: Busy { serving } }
    }

    /// Some slots are taken, or were: that is work.
    pub(super) fn stay(&mut self, slots: Slots, now: Instant) {
        let works = slots.available < slots.total;
        let worked = self.state.serving.slots.available < self.state.serving.slots.total;
        if works || worked {
            self.facts.last_activity = Some(now);
            self.state.idle_since = now;
        }
        self.facts.slots_total = slots.total;
        self.state.serving.slots = slots;
    }

    /// When it last had work; `None` while it has some, or nobody can tell.
    pub(super) fn idle_since(&self) -> Option<Instant> {
        if let Protocol::Probe(probe) = &self.facts.plan.kind.protocol
            && probe.busy.is_none()
        {
            return None;
        }
        let Slots { total, available } = self.state.serving.slots;
        (available == total).then_some(self.state.idle_since)
    }

    /// When it is stopped for having nothing to do; never while it has some work, or nobody can tell. One that has
    /// to be asked has been asked since, and has answered.
    pub(super) fn idle_at(&self, policy: &Policy) -> Option<Instant> {
        if let Turn::Asked(_) = self.state.serving.count {
            return None;
        }
        let asked_since = 2 * self.facts.probe_interval().unwrap_or_default();
        Some(self.idle_since()? + policy.idle_timeout?.max(asked_since))
    }

    pub(super) fn slept(&mut self, gap: Duration) {
        self.state.idle_since += gap;
        self.state.serving.slept(gap);
    }
}

impl Worker<Busy> {
    /// A slot is free again.
    #[must_use]
    pub fn free(mut self, slots: Slots, now: Instant) -> Worker<Ready> {
        self.facts.last_activity = Some(now);
        self.facts.slots_total = slots.total;
        let Busy { mut serving } = self.state;
        serving.slots = slots;
        Worker { facts: self.facts, state: Ready { serving, idle_since: now } }
    }

    pub(super) fn stay(&mut self, slots: Slots, now: Instant) {
        self.facts.last_activity = Some(now);
        self.facts.slots_total = slots.total;
        self.state.serving.slots = slots;
    }

    pub(super) fn slept(&mut self, gap: Duration) {
        self.state.serving.slept(gap);
    }
}

impl Facts {
    pub fn launch(&self) -> Effect {
        Effect::Disk(DiskJob::Launch(LaunchJob {
            id: self.id.clone(),
            run: self.run,
            plan: Arc::clone(&self.plan),
            placement: Arc::clone(&self.placement),
            port: self.lease.port(),
            token: self.token.clone(),
            restarts: self.restarts.count(),
            port_moves: self.port_moves,
        }))
    }

    pub fn note(&self, standing: Standing) -> Effect {
        Effect::Disk(DiskJob::Note { id: self.id.clone(), run: self.run, standing })
    }

    pub fn signal(&self, signal: Signal) -> Effect {
        Effect::Signal { id: self.id.clone(), run: self.run, signal }
    }

    pub fn ask_to_exit(&self) -> Effect {
        let (id, run, port) = (self.id.clone(), self.run, self.lease.port());
        Effect::Worker(WorkerJob::AskToExit { id, run, port, token: self.token.clone() })
    }

    pub fn read_log_tail(&self) -> Effect {
        let by_itself = |end: &&End| matches!(end.reason, Reason::Exited | Reason::Signaled);
        let status = self.end.as_ref().filter(by_itself).and_then(|end| end.status);
        Effect::Disk(DiskJob::ReadLogTail { id: self.id.clone(), run: self.run, status })
    }

    pub fn measure(&self, pgid: Pgid) -> Effect {
        Effect::Worker(WorkerJob::Measure { id: self.id.clone(), run: self.run, pgid })
    }

    /// Silence after which it is stale: a worker that is asked seldom is not expected to answer more often.
    pub fn silence(&self, policy: &Policy) -> Duration {
        let interval = self.probe_interval().unwrap_or_default();
        policy.heartbeat_timeout.max(interval * 2)
    }

    /// Time between two health probes; `None`: it is not asked, it calls.
    pub fn probe_interval(&self) -> Option<Duration> {
        match &self.plan.kind.protocol {
            Protocol::Native => self.estranged.then_some(ESTRANGED_PROBE_INTERVAL),
            Protocol::Probe(probe) => Some(probe.interval),
        }
    }

    pub fn probe(&self, pgid: Pgid, check_owner: bool) -> Effect {
        Effect::Worker(WorkerJob::Probe(self.probe_job(pgid, check_owner)))
    }

    pub fn count(&self, pgid: Pgid) -> Effect {
        Effect::Worker(WorkerJob::Count(self.probe_job(pgid, false)))
    }

    pub fn probe_job(&self, pgid: Pgid, check_owner: bool) -> ProbeJob {
        let (id, kind) = (self.id.clone(), Arc::clone(&self.plan.kind));
        ProbeJob { id, run: self.run, kind, port: self.lease.port(), pgid, check_owner }
    }

    /// After this time without an answer, a probe is taken for unanswered: its own time, and what the
    /// answer may take through the threads.
    pub fn probe_patience(&self) -> Duration {
        let own = match &self.plan.kind.protocol {
            Protocol::Native => EXCHANGE_TIMEOUT,
            Protocol::Probe(probe) => probe.timeout,
        };
        own + EXCHANGE_TIMEOUT
    }

    /// For a person: what it was promised of the memory that ran out, and what it had of it.
    fn why_oom(&self, status: ExitStatus) -> String {
        let whom = if status == ExitStatus::Signal(SIGKILL) { "it" } else { "a process of it" };
        let mib = |bytes: u64| format!("{} MiB", bytes.div_ceil(1 << 20));
        let of_devices = self.placement.shares.iter().filter(|share| share.device == Device::Cpu);
        let promised =
            of_devices.fold(self.placement.host_bytes, |sum, share| sum.saturating_add(share.bytes));
        let used = self.usage.map_or("was not yet looked at".to_owned(), |usage| {
            format!("was last seen to use {}", mib(usage.rss_bytes))
        });
        let promised = mib(promised);
        format!(
            "the kernel killed {whom} for want of memory: it was promised {promised} of the host's and {used}"
        )
    }

    pub fn measured(&mut self, usage: Usage) {
        self.usage = Some(usage);
    }
}
