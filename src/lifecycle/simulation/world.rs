//! The world around a simulated fleet: processes with manners of their own, and an inbox in made-up time.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use crate::api::{ReportedHealth, ReportedState, State};
use crate::capacity::ledger::{Ledger, Rules};
use crate::id::{Backend, Pgid, Run, WorkerId};
use crate::kinds::{Busy, Kind, Probe, Protocol};
use crate::lifecycle::Policy;
use crate::lifecycle::event::{
    DiskJob, Effect, Event, ExitStatus, Key, LaunchError, LaunchJob, Plan, Probed, Signal, Usage, WorkerJob,
};
use crate::lifecycle::fleet::{AdmitError, AskError, Beat, Effects, Fleet, View};

use super::{Act, Seeded};

mod fetches;
mod memory;
mod restart;

const PORTS: RangeInclusive<u16> = 9000..=9007;
const GRACE: Duration = Duration::from_secs(3);
const RESTART_LIMIT: u32 = 2;
/// What a calm world needs at most to bring each worker to its end: all restarts with their waits.
const CALM: Duration = Duration::from_secs(600);

/// A process of the model. `manners` are bits: what it does when something is asked of it.
struct Proc {
    pgid: Pgid,
    port: u16,
    manners: u8,
    loaded_at: Instant,
    leader_alive: bool,
    group_alive: bool,
    /// What it was promised of each device.
    promise: [u64; 2],
    /// When it took it.
    taken_at: Instant,
    /// When the driver gave back what it had; none while it lives.
    returned_at: Option<Instant>,
    terms: u32,
    kills: u32,
}

impl Proc {
    fn ignores_term(&self) -> bool {
        self.manners & 1 == 1
    }
    fn ignores_shutdown(&self) -> bool {
        self.manners & 2 == 2
    }
    fn never_loads(&self) -> bool {
        self.manners & 12 == 12
    }
    fn leaves_children(&self) -> bool {
        self.manners & 16 == 16
    }
}

/// The fleet and the world around it.
pub(super) struct World {
    now: Instant,
    policy: Policy,
    fleet: Fleet,
    records: restart::Records,
    random: Seeded,
    calm: bool,
    inbox: BTreeMap<(Instant, u64), Event>,
    posted: u64,
    procs: BTreeMap<(WorkerId, Run), Proc>,
    manners: BTreeMap<WorkerId, u8>,
    seen: BTreeMap<WorkerId, State>,
    stop_asked: BTreeMap<WorkerId, Instant>,
    keys: BTreeMap<u8, (WorkerId, Instant)>,
    old_runs: BTreeMap<WorkerId, Run>,
    fetches: fetches::Fetches,
    next_pgid: u32,
}

impl World {
    pub(super) fn new(seed: u64) -> Self {
        let policy = Policy {
            heartbeat_timeout: Duration::from_secs(9),
            ready_timeout: Duration::from_secs(4),
            grace: GRACE,
            idle_timeout: (seed.is_multiple_of(3)).then_some(Duration::from_secs(40)),
            restart_limit: RESTART_LIMIT,
        };
        Self {
            now: Instant::now(),
            fleet: Fleet::new(policy.clone(), PORTS, ledger(), Box::new(Seeded::new(seed ^ 1))),
            policy,
            records: restart::Records::default(),
            random: Seeded::new(seed ^ 2),
            calm: false,
            inbox: BTreeMap::new(),
            posted: 0,
            procs: BTreeMap::new(),
            manners: BTreeMap::new(),
            seen: BTreeMap::new(),
            stop_asked: BTreeMap::new(),
            keys: BTreeMap::new(),
            old_runs: BTreeMap::new(),
            fetches: fetches::Fetches::default(),
            next_pgid: 100,
        }
    }

    pub(super) fn step(&mut self, act: Act) -> Result<(), String> {
        match act {
            Act::Spawn { probed, key, manners, hint } => self.spawn(probed, key, manners, hint)?,
            Act::Callback { who, old_run } => self.callback(who, old_run)?,
            Act::Beat { who, busy, available } => self.beat(who, busy, available)?,
            Act::Stop { who, force } => {
                if let Some(id) = self.pick(who) {
                    let (answer, effects) = self.fleet.stop(&id, force, self.now);
                    expect(answer.is_ok(), || format!("a living worker could not be stopped: {id}"))?;
                    self.stop_asked.entry(id).or_insert(self.now);
                    self.perform(effects)?;
                }
            }
            Act::Crash { who, code } => {
                let status = if code { ExitStatus::Code(1) } else { ExitStatus::Signal(9) };
                let living: Vec<_> =
                    self.procs.iter().filter(|(_, p)| p.leader_alive).map(|(k, _)| k.clone()).collect();
                if let Some(key) = nth(&living, who) {
                    self.end_leader(&key, status);
                }
            }
            Act::Advance { ms } => self.advance(Duration::from_millis(ms))?,
            Act::Sleep { secs } => {
                let gap = Duration::from_secs(secs);
                self.now += gap;
                let effects = self.fleet.on(Event::Slept(gap), self.now);
                self.perform(effects)?;
                self.advance(Duration::ZERO)?;
            }
            Act::Stray { who, what } => self.stray(who, what)?,
            Act::Restart { keep } => self.restart(keep)?,
            Act::Drain { drain, stop_idle } => {
                let (workers, effects) = self.fleet.drain(drain, stop_idle, self.now);
                expect(workers.is_none() == self.fleet.is_stopping(), || {
                    "drained in the cascade".to_owned()
                })?;
                expect(workers.is_none() || self.fleet.is_draining() == drain, || "not as asked".to_owned())?;
                self.perform(effects)?;
            }
            Act::Cascade { force } => {
                let (count, effects) = self.fleet.cascade(force, self.now);
                expect(count >= self.fleet.len(), || "the cascade miscounts".to_owned())?;
                for view in self.fleet.views() {
                    self.stop_asked.entry(view.id).or_insert(self.now);
                }
                self.perform(effects)?;
            }
        }
        self.check()
    }

    fn spawn(&mut self, probed: bool, key: Option<u8>, manners: u8, hint: u8) -> Result<(), String> {
        // Whoever asks has looked at the devices just before.
        let picture = self.picture();
        let effects = self.fleet.on(Event::Devices(Arc::new(picture)), self.now);
        self.perform(effects)?;
        let port_hint = (hint & 7 == 7).then_some(9000 + u16::from(hint >> 4));
        let text = key.map(|key| format!("key-{key}"));
        let plan = Plan {
            key: text.map(|text| Key { text, at: SystemTime::UNIX_EPOCH }),
            ..plan(probed, port_hint)
        };
        let order = memory::order(plan, hint.rotate_left(3) ^ manners);
        let mut usable = |port: u16| port % 8 != u16::from(hint % 16);
        let (answer, effects) = self.fleet.spawn(order, self.now, &mut usable);
        let known = key.and_then(|key| self.keys.get(&key)).filter(|(_, at)| self.now < *at).cloned();
        match answer {
            Ok(admitted) => {
                let id = admitted.view.id.clone();
                if let Some((known, _)) = known.filter(|_| admitted.again) {
                    expect(known == id, || "the same key gave another worker".to_owned())?;
                }
                if !admitted.again {
                    expect(!self.fleet.is_draining(), || format!("{id} came into a drained hive"))?;
                    expect(!self.seen.contains_key(&id), || format!("an id was given twice: {id}"))?;
                    self.manners.insert(id.clone(), manners);
                    if let Some(key) = key {
                        self.keys.insert(key, (id, self.now + crate::limits::IDEMPOTENCY_KEEP));
                    }
                }
            }
            Err(AdmitError::ShuttingDown) => {
                expect(self.fleet.is_stopping(), || "refused without a cascade".to_owned())?;
            }
            Err(AdmitError::Draining) => {
                expect(self.fleet.is_draining(), || "refused without a drain".to_owned())?;
            }
            Err(AdmitError::NoFreePort | AdmitError::TooManyWorkers | AdmitError::NoRoom(_)) => {}
        }
        self.perform(effects)
    }

    fn callback(&mut self, who: u8, old_run: bool) -> Result<(), String> {
        let Some(id) = self.pick(who) else { return Ok(()) };
        if old_run {
            let Some(run) = self.old_runs.get(&id).copied() else { return Ok(()) };
            let before = self.fleet.view(&id);
            let (answer, effects) = self.fleet.ready(&id, Some(run), None, self.now);
            let gone = answer == Err(AskError::NotFound);
            expect(gone || answer == Err(AskError::OldRun), || format!("an old run became ready: {id}"))?;
            if effects.is_empty() && !gone {
                expect(before == self.fleet.view(&id), || format!("an old run changed {id}"))?;
            }
            return self.perform(effects);
        }
        let view = self.fleet.view(&id).ok_or("a picked worker is not known")?;
        let alive = self.procs.get(&(id.clone(), view.run)).is_some_and(|proc| proc.leader_alive);
        if !alive {
            return Ok(());
        }
        let (answer, effects) = self.fleet.ready(&id, Some(view.run), Some(2), self.now);
        let after = self.fleet.view(&id).map(|view| view.state);
        let refused_rightly = matches!(answer, Err(AskError::State | AskError::NotFound | AskError::OldRun));
        expect(answer.is_ok() || refused_rightly, || format!("ready of {id}: {answer:?}"))?;
        if answer.is_ok() && view.state == State::Spawning && view.pgid.is_some() {
            expect(after.is_some_and(State::serves), || format!("{id} said ready and is {after:?}"))?;
        }
        self.perform(effects)
    }

    fn beat(&mut self, who: u8, busy: Option<bool>, available: Option<u8>) -> Result<(), String> {
        let Some(id) = self.pick(who) else { return Ok(()) };
        let Some(view) = self.fleet.view(&id) else { return Ok(()) };
        if !self.procs.get(&(id.clone(), view.run)).is_some_and(|proc| proc.leader_alive) {
            return Ok(());
        }
        let beat = Beat {
            health: if who & 1 == 1 { ReportedHealth::Healthy } else { ReportedHealth::Degraded },
            state: busy.map(|busy| if busy { ReportedState::Busy } else { ReportedState::Ready }),
            slots_total: None,
            slots_available: available.map(u32::from),
        };
        let (_, effects) = self.fleet.beat(&id, Some(view.run), beat, self.now);
        self.perform(effects)
    }

    /// News that nobody expects: of older runs, twice, of nobody.
    fn stray(&mut self, who: u8, what: u8) -> Result<(), String> {
        let Some(id) = self.pick(who) else { return Ok(()) };
        let Some(&run) = self.old_runs.get(&id) else { return Ok(()) };
        let event = match what % 6 {
            0 => Event::Launched { id, run, pgid: Pgid(1) },
            1 => Event::Exited {
                id,
                run,
                status: ExitStatus::Code(0),
                port_lost: what & 8 == 8,
                oom: what & 16 == 16,
            },
            2 => Event::GroupDead { id, run },
            3 => Event::Probed { id, run, probed: Probed::Ready },
            4 => Event::AskedToExit { id, run, accepted: false },
            _ => Event::LaunchFailed { id, run, error: LaunchError::PortTaken },
        };
        let effects = self.fleet.on(event, self.now);
        self.perform(effects)
    }

    fn pick(&self, who: u8) -> Option<WorkerId> {
        let ids: Vec<WorkerId> = self.fleet.views().map(|view| view.id).collect();
        nth(&ids, who)
    }

    /// Lets time pass, with all that falls into it, in order.
    fn advance(&mut self, by: Duration) -> Result<(), String> {
        let end = self.now + by;
        loop {
            let news = self.inbox.keys().next().map(|(at, _)| *at);
            let due = self.fleet.next_deadline();
            let Some(at) = [news, due].into_iter().flatten().min().filter(|at| *at <= end) else { break };
            self.now = self.now.max(at);
            let event = match self.inbox.first_entry() {
                Some(first) if first.key().0 <= self.now => first.remove(),
                _ => Event::Tick,
            };
            if let Event::GroupDead { id, run } = &event
                && let Some(proc) = self.procs.get_mut(&(id.clone(), *run))
            {
                proc.group_alive = false;
                let taken = proc.taken_at <= self.now && !self.calm;
                let late = if taken { u64::from(proc.manners >> 6) * 1300 } else { 0 };
                proc.returned_at = Some(self.now + Duration::from_millis(late));
            }
            self.fetch_told(&event);
            let effects = self.fleet.on(event, self.now);
            self.perform(effects)?;
            self.check()?;
            if self.fleet.is_done(self.now) {
                break;
            }
        }
        self.now = end;
        Ok(())
    }

    pub(super) fn calm_down(&mut self) -> Result<(), String> {
        self.calm = true;
        for manners in self.manners.values_mut() {
            *manners = 0;
        }
        let until = self.now + CALM;
        while self.now < until && !self.all_settled() {
            self.advance(Duration::from_secs(2))?;
        }
        expect(self.all_settled(), || format!("no end in a calm world: {:#?}", self.unsettled()))?;
        self.step(Act::Cascade { force: false })?;
        self.advance(GRACE + Duration::from_secs(5))?;
        expect(self.fleet.is_empty(), || format!("left after the cascade: {:#?}", self.unsettled()))?;
        expect(self.fleet.is_done(self.now), || "the cascade does not end".to_owned())?;
        expect(self.fleet.ports_leased() == 0, || "a port was lost".to_owned())?;
        let left = self.procs.values().filter(|proc| proc.group_alive).count();
        expect(left == 0, || format!("{left} processes outlived the hive"))?;
        let left = self.records.ids();
        expect(left.is_empty(), || format!("records outlived their workers: {left:?}"))
    }

    fn all_settled(&self) -> bool {
        self.fleet.views().all(|view| view.state.serves())
    }

    fn unsettled(&self) -> Vec<View> {
        self.fleet.views().filter(|view| !view.state.serves()).collect()
    }

    fn check(&mut self) -> Result<(), String> {
        self.check_news()?;
        let views: Vec<View> = self.fleet.views().collect();
        let ports: BTreeSet<u16> = views.iter().map(|view| view.port).collect();
        expect(ports.len() == views.len(), || "two workers share a port".to_owned())?;
        expect(self.fleet.ports_leased() == views.len(), || "leases and workers differ".to_owned())?;
        expect(views.iter().all(|v| PORTS.contains(&v.port)), || "a port outside the range".to_owned())?;
        self.check_promises(&views)?;
        for ((id, run), proc) in self.procs.iter().filter(|(_, proc)| proc.group_alive) {
            let view = views.iter().find(|view| view.id == *id && view.run == *run);
            let Some(view) = view else {
                return Err(format!("process {} of {id} run {run} has no worker", proc.pgid));
            };
            expect(proc.kills <= 1 && proc.terms <= 1, || format!("{id} run {run} was signalled twice"))?;
            if let Some(asked) = self.stop_asked.get(id)
                && proc.leader_alive
                && view.pgid.is_some()
            {
                let late = self.now > *asked + GRACE && proc.kills == 0;
                expect(!late, || format!("{id} outlives its grace"))?;
            }
        }
        for view in &views {
            expect(view.slots.available <= view.slots.total, || format!("{}: slots", view.id))?;
            expect(view.restarts <= RESTART_LIMIT, || format!("{}: too many restarts", view.id))?;
            let busy = view.state == State::Busy;
            if view.state.serves() {
                expect(busy == (view.slots.available == 0), || format!("{}: busy?", view.id))?;
                expect(view.pgid.is_some(), || format!("{} serves without a process", view.id))?;
            }
        }
        let due = self.fleet.next_deadline();
        let effects = self.fleet.on(Event::Tick, self.now);
        if let Some(due) = due.filter(|due| *due > self.now) {
            expect(effects.is_empty(), || format!("something fired before {due:?}"))?;
        }
        self.perform(effects)?;
        let overdue = self.fleet.next_deadline().is_some_and(|at| at <= self.now);
        expect(!overdue || self.fleet.is_done(self.now), || "a deadline lies in the past".to_owned())
    }

    /// Each change that is told must be one that the graph in `state.rs` has.
    fn check_news(&mut self) -> Result<(), String> {
        for view in self.fleet.take_news() {
            use State::{Busy, Gone, Ready, Spawning, Stopping};
            let allowed: &[State] = match self.seen.get(&view.id) {
                None => &[Spawning],
                Some(Spawning) => &[Spawning, Ready, Stopping],
                Some(Ready | Busy) => &[Ready, Busy, Spawning, Stopping],
                Some(Stopping) => &[Stopping, Gone],
                Some(Gone) => &[],
            };
            let before = self.seen.insert(view.id.clone(), view.state);
            expect(allowed.contains(&view.state), || {
                format!("{}: {before:?} became {:?}", view.id, view.state)
            })?;
        }
        self.fleet.take_touched();
        Ok(())
    }

    fn post(&mut self, after: Duration, event: Event) {
        self.posted += 1;
        self.inbox.insert((self.now + after, self.posted), event);
    }

    fn dice(&mut self, sides: u64) -> bool {
        !self.calm && self.random.next_u64().is_multiple_of(sides)
    }

    /// How long an answer takes: usually little, sometimes very long.
    fn delay(&mut self) -> Duration {
        let long = self.dice(16);
        let ms = self.random.next_u64() % if long { 12_000 } else { 40 };
        Duration::from_millis(ms)
    }

    /// An answer that may be late, lost or given twice.
    fn answer(&mut self, event: Event) {
        if self.dice(10) {
            return;
        }
        if self.dice(20) {
            let twice = self.delay();
            self.post(twice, event.clone());
        }
        let after = self.delay();
        self.post(after, event);
    }

    fn perform(&mut self, effects: Effects) -> Result<(), String> {
        for effect in effects {
            match effect {
                Effect::Fetch { id, selection } => self.fetch(id, &selection)?,
                Effect::Forsake { id, .. } => self.forsake(&id)?,
                Effect::Disk(DiskJob::Launch(job)) => self.launch(job)?,
                Effect::LookAtDevices => {
                    let picture = self.picture();
                    self.answer(Event::Devices(Arc::new(picture)));
                }
                Effect::Signal { id, run, signal } => self.signal(&(id, run), signal)?,
                Effect::Worker(WorkerJob::Probe(job)) => {
                    let proc = self.procs.get(&(job.id.clone(), job.run));
                    let ready = proc.is_some_and(|p| p.leader_alive && p.loaded_at <= self.now);
                    let alive = proc.is_some_and(|p| p.leader_alive && !p.never_loads());
                    let probed = match (ready, alive) {
                        (true, true) if job.check_owner && self.dice(24) => Probed::Foreign,
                        (true, true) if self.dice(12) => Probed::NotReady,
                        (true, true) => Probed::Ready,
                        _ => Probed::Loading,
                    };
                    self.answer(Event::Probed { id: job.id, run: job.run, probed });
                }
                Effect::Worker(WorkerJob::Count(job)) => {
                    let running = Some((self.random.next_u64() % 4) as u32);
                    self.answer(Event::Counted { id: job.id, run: job.run, running });
                }
                Effect::Worker(WorkerJob::AskToExit { id, run, .. }) => {
                    let key = (id.clone(), run);
                    let obeys = self
                        .procs
                        .get(&key)
                        .is_some_and(|proc| proc.leader_alive && !proc.ignores_shutdown());
                    let accepted = obeys || self.dice(2);
                    self.answer(Event::AskedToExit { id, run, accepted });
                    if obeys {
                        self.end_leader(&key, ExitStatus::Code(0));
                    }
                }
                Effect::Worker(WorkerJob::Measure { id, run, .. }) => {
                    let moving =
                        self.procs.get(&(id.clone(), run)).is_some_and(|proc| proc.manners & 32 == 32);
                    let log_bytes = if self.dice(30) { 11 * 1024 * 1024 } else { 0 };
                    let read_bytes = if moving { self.random.next_u64() >> 1 } else { 0 };
                    let usage = Usage { rss_bytes: 1, read_bytes, log_bytes };
                    self.answer(Event::Measured { id, run, usage });
                }
                Effect::Disk(DiskJob::ReadLogTail { id, run, .. }) => {
                    self.answer(Event::LogTail {
                        id,
                        run,
                        lines: vec!["last words".to_owned()],
                        reason: Some("of old age".to_owned()),
                    });
                }
                Effect::Disk(DiskJob::Note { id, standing, .. }) => self.records.note(&id, standing),
                Effect::Disk(DiskJob::RemoveRecord { id }) => self.records.remove(&id),
                Effect::Disk(DiskJob::DeleteLog { id }) => {
                    expect(self.fleet.view(&id).is_none(), || format!("the log of {id} is still askable"))?;
                }
            }
        }
        Ok(())
    }

    fn launch(&mut self, job: LaunchJob) -> Result<(), String> {
        self.records.launch(&job);
        let LaunchJob { id, run, port, placement, .. } = job;
        let promise = memory::promise(&placement);
        self.check_room(&id, promise)?;
        self.check_fetched(&id)?;
        let key = (id.clone(), run);
        expect(!self.procs.contains_key(&key), || format!("{id} run {run} was launched twice"))?;
        let others = self.fleet.views().filter(|view| view.port == port && view.id != id).count();
        expect(others == 0, || format!("{id} was launched on a port of another"))?;
        let taken = self.procs.values().any(|proc| proc.group_alive && proc.port == port);
        expect(!taken, || format!("{id} was launched on a port that a living group has"))?;
        if run > Run(1) {
            self.old_runs.insert(id.clone(), Run(run.0 - 1));
        }
        let after = self.delay();
        if self.dice(8) {
            let taken = self.dice(2);
            let error = if taken { LaunchError::PortTaken } else { LaunchError::Failed("no".to_owned()) };
            self.post(after, Event::LaunchFailed { id, run, error });
            return Ok(());
        }
        self.next_pgid += 1;
        let pgid = Pgid(self.next_pgid);
        // A worker that is launched by the spawn under way has its manners only after the answer.
        let manners = if self.calm { 0 } else { self.manners.get(&id).copied().unwrap_or(pgid.0 as u8) };
        let load = Duration::from_millis(self.random.next_u64() % 900);
        let proc = Proc {
            pgid,
            port,
            manners,
            loaded_at: self.now + after + load,
            leader_alive: true,
            group_alive: true,
            promise,
            taken_at: self.now + after + load / 2,
            returned_at: None,
            terms: 0,
            kills: 0,
        };
        self.procs.insert(key.clone(), proc);
        self.post(after, Event::Launched { id, run, pgid });
        if self.dice(10) {
            // It dies so soon that the news of its end may overtake the news of its start.
            self.end_leader(&key, ExitStatus::Code(127));
        }
        Ok(())
    }

    fn signal(&mut self, key: &(WorkerId, Run), signal: Signal) -> Result<(), String> {
        let (id, run) = key;
        let Some(proc) = self.procs.get_mut(key) else {
            return Err(format!("{id} run {run} was signalled and never launched"));
        };
        let (dies, status) = match signal {
            Signal::Term => {
                proc.terms += 1;
                (!proc.ignores_term() || self.calm, ExitStatus::Signal(15))
            }
            Signal::Kill => {
                proc.kills += 1;
                (true, ExitStatus::Signal(9))
            }
        };
        if dies {
            self.end_leader(key, status);
        }
        Ok(())
    }

    fn end_leader(&mut self, key: &(WorkerId, Run), status: ExitStatus) {
        let Some(proc) = self.procs.get_mut(key).filter(|proc| proc.leader_alive) else { return };
        proc.leader_alive = false;
        let lingers = proc.leaves_children();
        let (id, run) = key.clone();
        let seen = Duration::from_millis(self.random.next_u64() % 3);
        let swept = seen + Duration::from_millis(if lingers { 1 + self.random.next_u64() % 300 } else { 0 });
        let port_lost = self.dice(4);
        let oom = self.dice(8);
        self.post(seen, Event::Exited { id: id.clone(), run, status, port_lost, oom });
        self.post(swept, Event::GroupDead { id, run });
    }
}

/// A ledger for a machine with a GPU.
pub(in crate::lifecycle) fn ledger() -> Ledger {
    Ledger::new(Rules::default(), Arc::new(memory::picture(&BTreeMap::new(), 0)))
}

pub(super) fn plan(probed: bool, port_hint: Option<u16>) -> Plan {
    let protocol = if probed {
        Protocol::Probe(Probe {
            path: "/health".to_owned(),
            interval: Duration::from_millis(500),
            timeout: Duration::from_secs(2),
            busy: Some(Busy::Count { path: "/slots".to_owned(), field: "is_processing".to_owned() }),
        })
    } else {
        Protocol::Native
    };
    let kind = Kind {
        name: "model".to_owned(),
        protocol,
        program: PathBuf::from("model"),
        backends: vec![Backend::Cpu],
        args: Vec::new(),
        env: BTreeMap::new(),
        env_allow: Vec::new(),
        args_allow: Vec::new(),
        version_args: Vec::new(),
        install: None,
    };
    Plan {
        kind: Arc::new(kind),
        model_ref: "file:/m.gguf".to_owned(),
        model_path: PathBuf::from("/m.gguf"),
        ctx: 4096,
        parallel: 2,
        port_hint,
        env: Vec::new(),
        extra_args: Vec::new(),
        pinned: false,
        key: None,
    }
}

fn nth<T: Clone>(items: &[T], who: u8) -> Option<T> {
    (!items.is_empty()).then(|| items[usize::from(who) % items.len()].clone())
}

fn expect(holds: bool, otherwise: impl FnOnce() -> String) -> Result<(), String> {
    if holds { Ok(()) } else { Err(otherwise()) }
}
