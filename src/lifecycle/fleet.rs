//! All workers of a hive: the only place that matches on a worker's state and on what happened to it.
//!
//! Invariants:
//! - no two workers share a port, and a port is free again only when the group that had it is dead;
//! - a worker is listed until nothing of its process is left, and has its promise of memory as long;
//! - what is promised of a device is never more than it has for newcomers at that moment;
//! - what is overdue fires before anything that came in is looked at;
//! - news of an older run changes nothing;
//! - each change that can be seen is told once, in order ([`Fleet::take_news`]).

use std::collections::{BTreeMap, VecDeque};
use std::ops::RangeInclusive;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::api::{ReportedHealth, State, WorkerHealth};
use crate::capacity::ledger::Ledger;
use crate::devices::Picture;
use crate::id::{DownloadId, Entropy, Run, Token, WorkerId};
use crate::kinds::Protocol;
use crate::limits::{GONE_KEEP, GONE_MAX};

use super::Policy;
use super::any::AnyWorker;
pub use super::any::Beat;
use super::event::{DiskJob, Effect, Event, LaunchError, Standing};
use super::ports::Ports;
pub use super::state::Effects;
use super::state::{Exit, Reason, Slots, Spawning, StopReason, Stopping, Worker};
pub use super::view::View;
pub use admission::{AdmitError, Admitted};

mod admission;
mod drain;
mod ending;

/// The workers of a hive.
pub struct Fleet {
    /// As it is now; draining may make it stricter than the operator's.
    policy: Policy,
    usual: Policy,
    drain: Option<drain::Drain>,
    entropy: Box<dyn Entropy>,
    ports: Ports,
    ledger: Ledger,
    workers: BTreeMap<WorkerId, AnyWorker>,
    gone: VecDeque<Gone>,
    keys: VecDeque<admission::Known>,
    ending: Option<ending::Ending>,
    /// What was adopted has said by then that it lives, or is not waited for.
    adopted_by: Option<Instant>,
    news: Vec<View>,
    touched: Vec<View>,
}

struct Gone {
    view: View,
    forget_at: Instant,
}

/// Why a callback or a stop is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AskError {
    /// No such worker lives.
    NotFound,
    /// The worker's state, or its kind's protocol, does not allow it.
    State,
    /// It comes from a launch that is over.
    OldRun,
}

impl Fleet {
    /// A fleet without workers, with `ports` and the memory of `ledger` to give.
    pub fn new(
        policy: Policy,
        ports: RangeInclusive<u16>,
        ledger: Ledger,
        entropy: Box<dyn Entropy>,
    ) -> Self {
        Self {
            usual: policy.clone(),
            policy,
            drain: None,
            entropy,
            ports: Ports::new(ports),
            ledger,
            workers: BTreeMap::new(),
            gone: VecDeque::new(),
            keys: VecDeque::new(),
            ending: None,
            adopted_by: None,
            news: Vec::new(),
            touched: Vec::new(),
        }
    }

    /// A native worker has bound its port and loaded its model. `run` is the launch whose token it showed,
    /// if it showed one.
    ///
    /// # Errors
    /// If no such worker lives, it is of another launch, or its state or kind does not allow it.
    pub fn ready(
        &mut self,
        id: &WorkerId,
        run: Option<Run>,
        slots_total: Option<u32>,
        now: Instant,
    ) -> (Result<(), AskError>, Effects) {
        self.ask(id, run, now, |worker, fleet, _out| {
            if worker.plan().kind.protocol != Protocol::Native {
                return (Err(AskError::State), worker);
            }
            let total = slots_total.unwrap_or(worker.plan().parallel);
            let slots = Slots { total, available: total };
            match worker {
                AnyWorker::Spawning(mut spawning) => {
                    if spawning.ready_early(slots) {
                        return (Ok(()), AnyWorker::Spawning(spawning));
                    }
                    match spawning.ready(slots, now, &fleet.policy) {
                        Ok(ready) => (Ok(()), AnyWorker::Ready(ready)),
                        Err(same) => (Err(AskError::State), AnyWorker::Spawning(same)),
                    }
                }
                serving @ (AnyWorker::Ready(_) | AnyWorker::Busy(_)) => (Ok(()), serving),
                stopping @ AnyWorker::Stopping(_) => (Err(AskError::State), stopping),
            }
        })
    }

    /// A native worker says that it lives.
    ///
    /// # Errors
    /// If no such worker lives, it is of another launch, or its kind is asked instead.
    pub fn beat(
        &mut self,
        id: &WorkerId,
        run: Option<Run>,
        beat: Beat,
        now: Instant,
    ) -> (Result<(), AskError>, Effects) {
        self.ask(id, run, now, |mut worker, fleet, out| {
            if worker.plan().kind.protocol != Protocol::Native {
                return (Err(AskError::State), worker);
            }
            let health = match beat.health {
                ReportedHealth::Healthy => WorkerHealth::Healthy,
                ReportedHealth::Degraded => WorkerHealth::Degraded,
            };
            worker.facts_mut().estranged = false;
            if let Some((facts, serving)) = worker.serving_mut() {
                serving.heard(facts, health, now, &fleet.policy, out);
            }
            (Ok(()), worker.settle(|slots| beat.slots(slots), now))
        })
    }

    /// Stops a worker; with `force` by SIGKILL at once. Stopping one that stops already only makes it faster.
    ///
    /// # Errors
    /// If no such worker lives.
    pub fn stop(&mut self, id: &WorkerId, force: bool, now: Instant) -> (Result<(), AskError>, Effects) {
        let grace = if force { Duration::ZERO } else { self.policy.grace };
        self.ask(id, None, now, |worker, _, out| (Ok(()), worker.stop(StopReason::Asked, now, grace, out)))
    }

    /// Takes in what happened.
    pub fn on(&mut self, event: Event, now: Instant) -> Effects {
        if let Event::Slept(gap) = event {
            self.slept(gap, now);
        }
        let mut out = self.fire(now);
        match event {
            Event::Tick | Event::Slept(_) => {}
            Event::Devices(picture) => self.looked(picture, now, &mut out),
            Event::LogTail { id, run, lines, reason } => {
                self.tail_read(&id, run, lines, reason, now, &mut out)
            }
            Event::Launched { id, run, pgid } => {
                self.event(&id, run, now, &mut out, |worker, fleet, out| match worker {
                    AnyWorker::Spawning(spawning) => spawning.launched(pgid, now, &fleet.policy).into(),
                    AnyWorker::Stopping(mut stopping) => {
                        stopping.launched(pgid, now, out);
                        AnyWorker::Stopping(stopping)
                    }
                    serving => serving,
                });
            }
            Event::LaunchFailed { id, run, error } => {
                self.event(&id, run, now, &mut out, |worker, fleet, _out| match worker {
                    AnyWorker::Spawning(spawning) => {
                        let jitter = fleet.jitter();
                        match error {
                            LaunchError::PortTaken => spawning.port_taken(now, &fleet.policy, jitter),
                            LaunchError::Failed(message) => {
                                spawning.launch_failed(message, now, &fleet.policy, jitter)
                            }
                        }
                        .into()
                    }
                    AnyWorker::Stopping(mut stopping) => {
                        stopping.launch_failed();
                        AnyWorker::Stopping(stopping)
                    }
                    serving => serving,
                });
            }
            Event::Fetched { id, download, result } => {
                self.fetched(&id, &download, result, now, &mut out);
            }
            Event::Exited { id, run, status, port_lost, oom } => {
                let exit = Exit { status, port_lost, oom };
                self.event(&id, run, now, &mut out, |worker, fleet, out| {
                    let jitter = fleet.jitter();
                    match worker {
                        AnyWorker::Spawning(w) => w.exited(exit, now, &fleet.policy, jitter, out).into(),
                        AnyWorker::Ready(w) => w.exited(exit, now, &fleet.policy, jitter, out).into(),
                        AnyWorker::Busy(w) => w.exited(exit, now, &fleet.policy, jitter, out).into(),
                        AnyWorker::Stopping(mut stopping) => {
                            stopping.exited(status, now, out);
                            AnyWorker::Stopping(stopping)
                        }
                    }
                });
            }
            Event::GroupDead { id, run } => {
                self.event(&id, run, now, &mut out, |mut worker, fleet, out| {
                    match &mut worker {
                        AnyWorker::Spawning(spawning) => spawning.group_dead(),
                        AnyWorker::Stopping(stopping) => stopping.group_dead(),
                        AnyWorker::Ready(_) | AnyWorker::Busy(_) => return worker,
                    }
                    let seen = std::mem::take(&mut worker.facts_mut().seen);
                    if !seen.is_empty() {
                        fleet.ledger.wait_for(id.clone(), seen, now);
                        out.push(Effect::LookAtDevices);
                    }
                    worker
                });
            }
            Event::Probed { id, run, probed } => {
                self.event(&id, run, now, &mut out, |mut worker, fleet, out| {
                    if let Some((facts, serving)) = worker.serving_mut() {
                        let hearing = serving.probed(facts, probed, now, &fleet.policy, out);
                        return worker.unless_deaf(hearing, out);
                    }
                    match worker {
                        AnyWorker::Spawning(w) => w.probed(probed, now, &fleet.policy, out).into(),
                        other => other,
                    }
                });
            }
            Event::Counted { id, run, running } => {
                self.event(&id, run, now, &mut out, |mut worker, _, _out| {
                    if let Some((facts, serving)) = worker.serving_mut() {
                        serving.counted(facts, now);
                    }
                    let Some(running) = running else {
                        worker.may_work(now);
                        return worker;
                    };
                    let available = |slots: Slots| slots.total.saturating_sub(running);
                    worker.settle(|slots| Slots { available: available(slots), ..slots }, now)
                });
            }
            Event::AskedToExit { id, run, accepted } => {
                self.event(&id, run, now, &mut out, |mut worker, _, out| {
                    if let (AnyWorker::Stopping(stopping), false) = (&mut worker, accepted) {
                        stopping.refused(out);
                    }
                    worker
                });
            }
            Event::Measured { id, run, usage } => {
                self.event(&id, run, now, &mut out, |mut worker, fleet, _out| {
                    if let AnyWorker::Spawning(w) = &mut worker {
                        w.measured(usage, now, &fleet.policy);
                    } else if let Some((facts, _)) = worker.serving_mut() {
                        facts.measured(usage);
                    }
                    worker
                });
            }
        }
        if self.keeps() {
            self.end_those_without_process(now, &mut out); // nobody is there to start them again
        }
        out
    }

    /// When [`Fleet::on`] is to be called at the latest.
    pub fn next_deadline(&self) -> Option<Instant> {
        let workers = self.workers.values().filter_map(|worker| worker.deadline(&self.policy));
        let gone = self.gone.front().map(|gone| gone.forget_at);
        let ending = self.ending.map(ending::Ending::over_at);
        workers.chain(gone).chain(ending).chain(self.adopted_by).chain(self.ledger.next_deadline()).min()
    }

    /// How many workers live.
    pub fn len(&self) -> usize {
        self.workers.len()
    }

    /// Whether none lives.
    pub fn is_empty(&self) -> bool {
        self.workers.is_empty()
    }

    /// How many ports are leased.
    pub fn ports_leased(&self) -> usize {
        self.ports.leased()
    }

    /// The worker called `id`, also for a while after its end.
    pub fn view(&self, id: &WorkerId) -> Option<View> {
        let living = self.workers.get(id).map(AnyWorker::view);
        living.or_else(|| self.gone.iter().find(|gone| gone.view.id == *id).map(|gone| gone.view.clone()))
    }

    /// All workers that live, by name.
    pub fn views(&self) -> impl Iterator<Item = View> + '_ {
        self.workers.values().map(AnyWorker::view)
    }

    /// The changes since the last call, oldest first: each is what a follower of events gets.
    pub fn take_news(&mut self) -> Vec<View> {
        std::mem::take(&mut self.news)
    }

    /// Workers that only moved in what moves all the time since the last call.
    pub fn take_touched(&mut self) -> Vec<View> {
        std::mem::take(&mut self.touched)
    }

    fn ask<R>(
        &mut self,
        id: &WorkerId,
        run: Option<Run>,
        now: Instant,
        step: impl FnOnce(AnyWorker, &mut Self, &mut Effects) -> (Result<R, AskError>, AnyWorker),
    ) -> (Result<R, AskError>, Effects) {
        let mut out = self.fire(now);
        let mut answer = Err(AskError::NotFound);
        self.change(id, now, &mut out, |worker, fleet, out| {
            if run.is_some_and(|run| run != worker.run()) {
                answer = Err(AskError::OldRun);
                return worker;
            }
            let (result, worker) = step(worker, fleet, out);
            answer = result;
            worker
        });
        (answer, out)
    }

    fn event(
        &mut self,
        id: &WorkerId,
        run: Run,
        now: Instant,
        out: &mut Effects,
        step: impl FnOnce(AnyWorker, &mut Self, &mut Effects) -> AnyWorker,
    ) {
        self.change(
            id,
            now,
            out,
            |worker, fleet, out| {
                if worker.run() == run { step(worker, fleet, out) } else { worker }
            },
        );
    }

    /// Takes a worker through `step` and tells what can be seen of it.
    fn change(
        &mut self,
        id: &WorkerId,
        now: Instant,
        out: &mut Effects,
        step: impl FnOnce(AnyWorker, &mut Self, &mut Effects) -> AnyWorker,
    ) {
        let Some(worker) = self.workers.remove(id) else { return };
        let before = worker.view();
        let worker = step(worker, self, out);
        let after = worker.view();
        if after.state != before.state && after.placement.is_on_gpu() {
            out.push(Effect::LookAtDevices); // what it uses now is what must come back
        }
        if after.state != before.state && after.pgid.is_some() {
            match after.state {
                State::Ready | State::Busy if !before.state.serves() => {
                    out.push(worker.facts().note(Standing::Serving));
                }
                State::Stopping => out.push(worker.facts().note(Standing::Stopping)),
                _ => {}
            }
        }
        if after.differs(&before) {
            self.news.push(after);
        } else if after != before {
            self.touched.push(after);
        }
        match worker {
            AnyWorker::Stopping(stopping) if stopping.is_over() => self.bury(stopping, now, out),
            living => {
                self.workers.insert(id.clone(), living);
            }
        }
    }

    fn bury(&mut self, stopping: Worker<Stopping>, now: Instant, out: &mut Effects) {
        let (view, lease) = stopping.bury();
        self.ports.give_back(lease);
        out.push(Effect::Disk(DiskJob::RemoveRecord { id: view.id.clone() }));
        self.ledger.release(&view.id, &view.placement);
        self.news.push(view.clone());
        self.gone.push_back(Gone { view, forget_at: now + GONE_KEEP });
        if self.gone.len() > GONE_MAX {
            self.forget_first(out);
        }
        self.go_on(now, out);
    }

    /// The devices were looked at: what each worker uses, and what has come back.
    fn looked(&mut self, picture: Arc<Picture>, now: Instant, out: &mut Effects) {
        self.ledger.look(picture);
        let renamed = |(id, worker): (&WorkerId, &AnyWorker)| {
            Some((id.clone(), self.ledger.renamed(worker.claim().placement)?))
        };
        let renamed: Vec<_> = self.workers.iter().filter_map(renamed).collect();
        for (id, placement) in renamed {
            self.change(&id, now, out, |mut worker, _, _| {
                worker.facts_mut().placement = Arc::new(placement);
                worker
            });
        }
        for worker in self.workers.values_mut() {
            if let Some(seen) = self.ledger.seen(&worker.claim()) {
                worker.facts_mut().seen = seen;
            }
        }
        if self.ledger.is_settling() {
            out.push(Effect::LookAtDevices);
        }
        self.go_on(now, out);
    }

    /// Those who waited for memory go on once it has come back: launched in the place of others, or again in
    /// their own.
    fn go_on(&mut self, now: Instant, out: &mut Effects) {
        let is_left = |id: &WorkerId| self.workers.contains_key(id) || self.ledger.settles(id);
        let can = |id: &WorkerId, worker: &Worker<Spawning>| {
            let has_place = worker.waits_for().is_some_and(|leave| !leave.iter().any(is_left));
            has_place || (worker.waits_for_memory() && !self.ledger.settles(id))
        };
        let ids: Vec<WorkerId> = self
            .workers
            .iter()
            .filter(|(id, worker)| matches!(worker, AnyWorker::Spawning(spawning) if can(id, spawning)))
            .map(|(id, _)| id.clone())
            .collect();
        for id in ids {
            self.change(&id, now, out, |mut worker, _, out| {
                if let AnyWorker::Spawning(spawning) = &mut worker {
                    spawning.go(out);
                    spawning.memory_returned();
                }
                worker
            });
        }
    }

    /// The download that a worker waits for has ended.
    fn fetched(
        &mut self,
        id: &WorkerId,
        download: &DownloadId,
        result: Result<(), String>,
        now: Instant,
        out: &mut Effects,
    ) {
        let give_up_at = self.room_by(now);
        self.change(id, now, out, |worker, _, _out| match worker {
            AnyWorker::Spawning(mut spawning) if spawning.download() == Some(download) => match result {
                Ok(()) => {
                    spawning.fetched(give_up_at);
                    AnyWorker::Spawning(spawning)
                }
                Err(why) => AnyWorker::Stopping(spawning.abandon(Reason::DownloadFailed, &why, now)),
            },
            other => other,
        });
        self.go_on(now, out);
    }

    fn forget_first(&mut self, out: &mut Effects) {
        if let Some(gone) = self.gone.pop_front() {
            self.keys.retain(|key| key.id != gone.view.id);
            out.push(Effect::Disk(DiskJob::DeleteLog { id: gone.view.id }));
        }
    }

    /// The end of the log belongs to the run that ended, which may not be the present one any more.
    fn tail_read(
        &mut self,
        id: &WorkerId,
        run: Run,
        lines: Vec<String>,
        reason: Option<String>,
        now: Instant,
        out: &mut Effects,
    ) {
        self.event(id, run, now, out, |mut worker, _, _out| {
            if let Some(end) = worker.end_mut() {
                end.log = lines;
                if end.reason.is_failure() {
                    end.message = end.message.take().or(reason);
                }
            }
            if let AnyWorker::Stopping(stopping) = &mut worker {
                stopping.tail_read();
            }
            worker
        });
    }

    fn slept(&mut self, gap: Duration, now: Instant) {
        if let Some(ending) = &mut self.ending {
            ending.slept(gap, now);
        }
        for worker in self.workers.values_mut() {
            match worker {
                AnyWorker::Spawning(w) => w.slept(gap),
                AnyWorker::Ready(w) => w.slept(gap),
                AnyWorker::Busy(w) => w.slept(gap),
                AnyWorker::Stopping(w) => w.slept(gap),
            }
        }
    }

    /// Fires all that is due.
    fn fire(&mut self, now: Instant) -> Effects {
        let mut out = Vec::new();
        let due: Vec<WorkerId> = self
            .workers
            .iter()
            .filter(|(_, worker)| worker.deadline(&self.policy).is_some_and(|at| at <= now))
            .map(|(id, _)| id.clone())
            .collect();
        for id in due {
            self.change(&id, now, &mut out, |worker, fleet, out| fleet.tick(worker, now, out));
        }
        self.adopted_by.take_if(|by| *by <= now);
        if self.ledger.next_deadline().is_some_and(|at| at <= now) {
            self.ledger.expire(now);
            self.go_on(now, &mut out);
        }
        while self.gone.front().is_some_and(|gone| gone.forget_at <= now) {
            self.forget_first(&mut out);
        }
        out
    }

    fn tick(&mut self, worker: AnyWorker, now: Instant, out: &mut Effects) -> AnyWorker {
        match worker {
            AnyWorker::Spawning(spawning) if spawning.waited_in_vain(now) => {
                let message = "the workers that were to leave for it did not end in time";
                AnyWorker::Stopping(spawning.abandon(Reason::NoRoom, message, now))
            }
            AnyWorker::Spawning(spawning) => match spawning.relaunch_due(now) {
                Some(move_port) => self.relaunch(spawning, move_port, now, out),
                None => AnyWorker::Spawning(spawning.tick(now, &self.policy, out)),
            },
            AnyWorker::Ready(ready) if ready.idle_at(&self.policy).is_some_and(|at| at <= now) => {
                AnyWorker::Stopping(ready.stop(self.why_idle_ones_leave(), now, self.policy.grace, out))
            }
            mut worker @ (AnyWorker::Ready(_) | AnyWorker::Busy(_)) => {
                let Some((facts, serving)) = worker.serving_mut() else { return worker };
                let hearing = serving.tick(facts, now, &self.policy, out);
                worker.unless_deaf(hearing, out)
            }
            AnyWorker::Stopping(mut stopping) => {
                stopping.tick(now, out);
                AnyWorker::Stopping(stopping)
            }
        }
    }

    fn relaunch(
        &mut self,
        spawning: Worker<Spawning>,
        move_port: bool,
        now: Instant,
        out: &mut Effects,
    ) -> AnyWorker {
        let lease = if move_port {
            // Whether somebody listens there, the launch finds out.
            let Some(lease) = self.ports.take(None, now, &mut |_| true) else {
                let message = "no free port is left in --worker-ports";
                return AnyWorker::Stopping(spawning.abandon(Reason::PortLost, message, now));
            };
            Some(lease)
        } else {
            None
        };
        let token = Token::random(&mut *self.entropy);
        let (spawning, old) = spawning.relaunch(lease, token, out);
        if let Some(old) = old {
            self.ports.give_back_as_taken(old, now);
        }
        AnyWorker::Spawning(spawning)
    }

    fn jitter(&mut self) -> u8 {
        let mut byte = [0];
        self.entropy.fill(&mut byte);
        byte[0]
    }
}

#[cfg(test)]
mod tests;
