//! The thread that owns the fleet: the only place that reads the clock for it.
//!
//! The one rule of the loop: apply, publish, reply, perform. Who was told 202 finds the worker in the list,
//! and no effect is seen before the picture that explains it.
//!
//! Invariants:
//! - it never waits for anyone: a reply goes into a channel with room for it, an effect is handed to a
//!   thread through a channel that never blocks;
//! - its inbox is bounded by construction: each request thread, launch, exit and exchange has at most one
//!   event under way, so that a send to it never blocks and never drops.

use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, bounded, unbounded};
use log::{Level, info, log, warn};

use crate::api::{HiveStatus, Phase, State};
use crate::capacity::ledger::{Choice, Placed, Refused};
use crate::clock::Clock;
use crate::id::{Device, Run, WorkerId};
use crate::limits::{REPLY_WAIT, SLEPT_AFTER};

use super::event::{Adopted, DiskJob, Effect, Event, ExitStatus, LaunchJob, Order};
use super::fleet::{AdmitError, Admitted, AskError, Beat, Effects, Fleet, View};
use super::picture::{Picture, signal_name};

/// What comes in: news, and questions that want an answer.
enum Input {
    Event(Event),
    Place { choices: Vec<Choice>, make_room: bool, reply: Sender<Result<Placed, Refused>> },
    Spawned { key: String, reply: Sender<Option<View>> },
    Available { reply: Sender<Vec<(Device, u64)>> },
    Spawn { order: Box<Order>, reply: Sender<Result<Admitted, AdmitError>> },
    Ready { id: WorkerId, run: Option<Run>, slots_total: Option<u32>, reply: Sender<Result<(), AskError>> },
    Beat { id: WorkerId, run: Option<Run>, beat: Beat, reply: Sender<Result<(), AskError>> },
    Stop { id: WorkerId, force: bool, reply: Sender<Result<(), AskError>> },
    Drain { drain: bool, stop_idle: bool, reply: Sender<Option<usize>> },
    Cascade { force: bool, reply: Sender<usize> },
    Keep { reply: Sender<Option<usize>> },
    Alive { reply: Sender<()> },
}

/// How it ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    /// By a cascade; so many workers are left, which did not die of SIGKILL in time.
    Stopped {
        /// How many.
        left: usize,
    },
    /// Workers go on without the hive.
    Kept {
        /// How many.
        workers: usize,
    },
}

/// Why the supervisor gave no answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NoAnswer {
    /// Its last worker is gone: the hive says its last words.
    Ended,
    /// It is stuck: [`REPLY_WAIT`] is over.
    Late,
}

/// The way to the supervisor. Cheap to clone.
#[derive(Clone)]
pub struct Inbox(Sender<Input>);

/// The supervisor's end of an [`Inbox`].
pub struct Outbox(Receiver<Input>);

/// A way to the supervisor and its other end.
pub fn inbox() -> (Inbox, Outbox) {
    let (sender, receiver) = unbounded();
    (Inbox(sender), Outbox(receiver))
}

impl Inbox {
    /// Tells what happened. Never blocks; after the end of the supervisor nobody listens.
    pub fn tell(&self, event: Event) {
        let _ = self.0.send(Input::Event(event));
    }

    /// Admits a worker, see [`Fleet::spawn`].
    ///
    /// # Errors
    /// As [`NoAnswer`] says.
    pub fn spawn(&self, order: Order) -> Result<Result<Admitted, AdmitError>, NoAnswer> {
        self.ask(|reply| Input::Spawn { order: Box::new(order), reply })
    }

    /// The worker that was spawned with a key, see [`Fleet::spawned`].
    ///
    /// # Errors
    /// As [`Inbox::spawn`].
    pub fn spawned(&self, key: String) -> Result<Option<View>, NoAnswer> {
        self.ask(|reply| Input::Spawned { key, reply })
    }

    /// Where a worker would go, see [`Fleet::place`].
    ///
    /// # Errors
    /// As [`Inbox::spawn`].
    pub fn place(&self, choices: Vec<Choice>, make_room: bool) -> Result<Result<Placed, Refused>, NoAnswer> {
        self.ask(|reply| Input::Place { choices, make_room, reply })
    }

    /// What each device has for a newcomer, see [`Fleet::available`].
    ///
    /// # Errors
    /// As [`Inbox::spawn`].
    pub fn available(&self) -> Result<Vec<(Device, u64)>, NoAnswer> {
        self.ask(|reply| Input::Available { reply })
    }

    /// A native worker is ready, see [`Fleet::ready`].
    ///
    /// # Errors
    /// As [`Inbox::spawn`].
    pub fn ready(
        &self,
        id: WorkerId,
        run: Option<Run>,
        slots_total: Option<u32>,
    ) -> Result<Result<(), AskError>, NoAnswer> {
        self.ask(|reply| Input::Ready { id, run, slots_total, reply })
    }

    /// A native worker lives, see [`Fleet::beat`].
    ///
    /// # Errors
    /// As [`Inbox::spawn`].
    pub fn beat(&self, id: WorkerId, run: Option<Run>, beat: Beat) -> Result<Result<(), AskError>, NoAnswer> {
        self.ask(|reply| Input::Beat { id, run, beat, reply })
    }

    /// Stops a worker, see [`Fleet::stop`].
    ///
    /// # Errors
    /// As [`Inbox::spawn`].
    pub fn stop(&self, id: WorkerId, force: bool) -> Result<Result<(), AskError>, NoAnswer> {
        self.ask(|reply| Input::Stop { id, force, reply })
    }

    /// Drains the hive, or ends that, see [`Fleet::drain`]. Gives how many workers live; `None` in the cascade.
    ///
    /// # Errors
    /// As [`Inbox::spawn`].
    pub fn drain(&self, drain: bool, stop_idle: bool) -> Result<Option<usize>, NoAnswer> {
        self.ask(|reply| Input::Drain { drain, stop_idle, reply })
    }

    /// Begins the cascade, see [`Fleet::cascade`]. Gives the number of workers to stop.
    ///
    /// # Errors
    /// As [`Inbox::spawn`].
    pub fn cascade(&self, force: bool) -> Result<usize, NoAnswer> {
        self.ask(|reply| Input::Cascade { force, reply })
    }

    /// Ends the hive without its workers, see [`Fleet::keep`]. Gives the number of workers that are kept;
    /// `None` in the cascade.
    ///
    /// # Errors
    /// As [`Inbox::spawn`].
    pub fn keep(&self) -> Result<Option<usize>, NoAnswer> {
        self.ask(|reply| Input::Keep { reply })
    }

    /// Whether the supervisor answers `within` that time.
    ///
    /// # Errors
    /// As [`NoAnswer`] says.
    pub fn is_alive(&self, within: Duration) -> Result<(), NoAnswer> {
        self.ask_within(within, |reply| Input::Alive { reply })
    }

    fn ask<R>(&self, input: impl FnOnce(Sender<R>) -> Input) -> Result<R, NoAnswer> {
        self.ask_within(REPLY_WAIT, input)
    }

    fn ask_within<R>(&self, within: Duration, input: impl FnOnce(Sender<R>) -> Input) -> Result<R, NoAnswer> {
        let (reply, answer) = bounded(1);
        let asked_at = Instant::now();
        self.0.send(input(reply)).map_err(|_| NoAnswer::Ended)?;
        let mut answered = answer.recv_timeout(within);
        // This thread stood still, and so did the supervisor: it has its time anew.
        if let Err(RecvTimeoutError::Timeout) = answered
            && asked_at.elapsed() > within + SLEPT_AFTER
        {
            answered = answer.recv_timeout(within);
        }
        answered.map_err(|error| match error {
            RecvTimeoutError::Timeout => NoAnswer::Late,
            RecvTimeoutError::Disconnected => NoAnswer::Ended,
        })
    }
}

/// What the supervisor needs of the rest of the hive. Nothing here may block.
pub trait Surroundings {
    /// Hands effects to the threads that perform them.
    fn perform(&mut self, effects: Effects);
    /// Whether nobody listens on a port.
    fn is_usable(&mut self, port: u16) -> bool;
    /// Called after each new picture; `told` if there is a change for the queen and the event streams.
    fn published(&mut self, told: bool);
    /// Called once, when the end begins: nothing is fetched any more.
    fn stopping(&mut self);
    /// Called after the picture without it: nothing is left of a worker.
    fn gone(&mut self, id: &WorkerId);
}

/// Takes over what an earlier hive has launched, and shows it, before anybody looks. Gives what is to be done for it.
pub fn take_over(fleet: &mut Fleet, picture: &Picture, adopted: Vec<Adopted>) -> Effects {
    let now = Instant::now();
    let mut effects = Vec::new();
    for adopted in adopted {
        let (LaunchJob { id, run, .. }, pgid) = (&adopted.job, adopted.pgid);
        info!("worker adopted worker={id} run={run} pid={pgid} standing={:?}", adopted.standing);
        effects.extend(fleet.adopt(adopted, now));
    }
    picture.publish(&Clock::new(), fleet.take_news(), fleet.take_touched(), &[]);
    if fleet.is_adopting(now) {
        picture.publish_status(HiveStatus::Starting);
    }
    effects
}

/// Drives `fleet` until its end is over. `first` is what is to be done before anything else.
pub fn run(
    fleet: Fleet,
    first: Effects,
    outbox: &Outbox,
    picture: &Picture,
    around: impl Surroundings,
) -> Ended {
    let mut supervisor = Supervisor { fleet, picture, around, clock: Clock::new(), to_stop: 0, stopped: 0 };
    supervisor.around.perform(first);
    let mut looked_at = Instant::now();
    loop {
        if supervisor.fleet.is_done(looked_at) {
            break;
        }
        let wake = supervisor.fleet.next_deadline();
        let received = match wake {
            Some(wake) => outbox.0.recv_deadline(wake),
            None => outbox.0.recv().map_err(|_| RecvTimeoutError::Disconnected),
        };
        let now = Instant::now();
        // Counted from the last look, not from the deadline: what came due meanwhile is not due at once.
        if wake.is_some_and(|wake| now > wake.max(looked_at) + SLEPT_AFTER) {
            let gap = now - looked_at;
            warn!("the hive stood still; silence meanwhile counts for nothing gap_ms={}", gap.as_millis());
            supervisor.take(Input::Event(Event::Slept(gap)), now);
        }
        looked_at = now;
        match received {
            Ok(input) => supervisor.take(input, now),
            Err(RecvTimeoutError::Timeout) => supervisor.take(Input::Event(Event::Tick), now),
            Err(RecvTimeoutError::Disconnected) => break,
        }
    }
    if supervisor.fleet.keeps() {
        return Ended::Kept { workers: supervisor.fleet.len() };
    }
    for view in supervisor.fleet.views() {
        warn!("worker did not die of SIGKILL in time worker={} pid={:?}", view.id, view.pgid);
    }
    Ended::Stopped { left: supervisor.fleet.len() }
}

struct Supervisor<'a, A> {
    fleet: Fleet,
    picture: &'a Picture,
    around: A,
    clock: Clock,
    to_stop: usize,
    stopped: usize,
}

impl<A: Surroundings> Supervisor<'_, A> {
    fn take(&mut self, input: Input, now: Instant) {
        match input {
            Input::Event(event) => {
                let effects = self.fleet.on(event, now);
                self.finish(effects, || ());
            }
            Input::Place { choices, make_room, reply } => {
                answer_to(&reply, self.fleet.place(&choices, make_room));
            }
            Input::Spawned { key, reply } => answer_to(&reply, self.fleet.spawned(&key, now)),
            Input::Available { reply } => answer_to(&reply, self.fleet.available()),
            Input::Spawn { order, reply } => {
                let around = &mut self.around;
                let usable = &mut |port| around.is_usable(port);
                let (answer, effects) = self.fleet.spawn(*order, now, usable);
                self.finish(effects, || answer_to(&reply, answer));
            }
            Input::Ready { id, run, slots_total, reply } => {
                let (answer, effects) = self.fleet.ready(&id, run, slots_total, now);
                self.finish(effects, || answer_to(&reply, answer));
            }
            Input::Beat { id, run, beat, reply } => {
                let (answer, effects) = self.fleet.beat(&id, run, beat, now);
                self.finish(effects, || answer_to(&reply, answer));
            }
            Input::Stop { id, force, reply } => {
                let (answer, effects) = self.fleet.stop(&id, force, now);
                self.finish(effects, || answer_to(&reply, answer));
            }
            Input::Drain { drain, stop_idle, reply } => {
                let before = self.fleet.is_draining();
                let (workers, effects) = self.fleet.drain(drain, stop_idle, now);
                if self.fleet.is_draining() != before {
                    info!("drain {} stop_idle={stop_idle}", if drain { "begins" } else { "ends" });
                    let status = if drain { HiveStatus::Draining } else { HiveStatus::Ready };
                    self.picture.publish_status(status);
                    self.around.published(true);
                }
                self.finish(effects, || answer_to(&reply, workers));
            }
            Input::Cascade { force, reply } => {
                let first = !self.fleet.is_stopping();
                let (count, effects) = self.fleet.cascade(force, now);
                if first {
                    self.to_stop = count;
                    info!("cascade begins workers={count}");
                    self.stopping();
                }
                self.finish(effects, || answer_to(&reply, count));
            }
            Input::Alive { reply } => answer_to(&reply, ()),
            Input::Keep { reply } => {
                let first = !self.fleet.is_stopping();
                let (count, effects) = self.fleet.keep(now);
                if let (true, Some(count)) = (first, count) {
                    info!("the hive ends, its workers go on workers={count}");
                    self.stopping();
                }
                self.finish(effects, || answer_to(&reply, count));
            }
        }
    }

    fn stopping(&mut self) {
        self.picture.publish_status(HiveStatus::Stopping);
        self.around.published(true);
        self.around.stopping();
    }

    fn finish(&mut self, effects: Effects, reply: impl FnOnce()) {
        self.publish(&effects);
        if self.picture.snapshot().status == HiveStatus::Starting && !self.fleet.is_adopting(Instant::now()) {
            info!("what an earlier hive left is taken over workers={}", self.fleet.len());
            self.picture.publish_status(HiveStatus::Ready);
            self.around.published(true);
        }
        reply();
        self.around.perform(effects);
    }

    fn publish(&mut self, effects: &Effects) {
        let (news, touched) = (self.fleet.take_news(), self.fleet.take_touched());
        let forgotten: Vec<WorkerId> = effects
            .iter()
            .filter_map(|effect| match effect {
                Effect::Disk(DiskJob::DeleteLog { id }) => Some(id.clone()),
                _ => None,
            })
            .collect();
        if news.is_empty() && touched.is_empty() && forgotten.is_empty() {
            return;
        }
        self.clock.follow();
        news.iter().for_each(|view| self.log(view));
        let told = !news.is_empty();
        let gone = news.iter().filter(|view| view.state == State::Gone).map(|view| view.id.clone());
        let gone: Vec<WorkerId> = gone.collect();
        self.picture.publish(&self.clock, news, touched, &forgotten);
        gone.iter().for_each(|id| self.around.gone(id));
        self.around.published(told);
    }

    fn log(&mut self, view: &View) {
        let View { id, run, state, port, .. } = view;
        let shown = self.picture.snapshot();
        let same = shown.worker(id).is_some_and(|entry| {
            let worker = &entry.worker;
            (worker.state, worker.phase, entry.run) == (*state, view.phase, *run)
        });
        if same {
            return; // slots, health or the end of a log: the events tell
        }
        let pid = view.pgid.map_or_else(|| "-".to_owned(), |pgid| pgid.to_string());
        let phase = view.phase.map_or("", |phase| match phase {
            Phase::Provisioning => " phase=provisioning",
            Phase::Launching => " phase=launching",
            Phase::Loading => " phase=loading",
            Phase::Backoff => " phase=backoff",
        });
        let end = view.end.as_ref().map_or_else(String::new, |end| {
            let status = match end.status {
                Some(ExitStatus::Code(code)) => format!(" code={code}"),
                Some(ExitStatus::Signal(signal)) => format!(" signal={}", signal_name(signal)),
                Some(ExitStatus::Unknown) => " code=unknown".to_owned(),
                None => String::new(),
            };
            format!(" exit={}{status}", end.reason.as_str())
        });
        // A crash is for somebody to look at, all else is as it was asked for.
        let level = if view.phase == Some(Phase::Backoff) { Level::Warn } else { Level::Info };
        log!(level, "worker {} worker={id} run={run}{phase} pid={pid} port={port}{end}", state.as_str());
        if *state == State::Gone && self.fleet.is_stopping() {
            self.stopped += 1;
            info!("{}/{} workers stopped", self.stopped, self.to_stop.max(self.stopped));
        }
    }
}

/// Who asked may have given up waiting.
fn answer_to<R>(reply: &Sender<R>, answer: R) {
    let _ = reply.send(answer);
}
