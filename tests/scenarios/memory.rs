//! Scenarios against the fleet: time is a number, and effects are what was asked for.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rbee_hive::api::{ReportedHealth, ReportedState};
use rbee_hive::capacity::ledger::{Choice, Ledger, Need, Rules, Split};
use rbee_hive::devices::{Cpu, Picture};
use rbee_hive::id::{Backend, Device, DownloadId, Entropy, Pgid, Run, WorkerId};
use rbee_hive::kinds::{Busy, Kind, Probe, Protocol};
use rbee_hive::lifecycle::event::{
    DiskJob, Effect, Event, ExitStatus, LaunchError, Order, Plan, Probed, Signal, Usage, WorkerJob,
};
use rbee_hive::lifecycle::fleet::{AdmitError, Beat, View};
use rbee_hive::lifecycle::{Fleet, Policy};
use rbee_hive::models::remote::{Digest, RemoteFile, Revision};
use rbee_hive::models::{ModelRef, Selection};

use super::{World, seconds};

struct Counting(u8);

impl Entropy for Counting {
    fn fill(&mut self, bytes: &mut [u8]) {
        for byte in bytes {
            self.0 = self.0.wrapping_add(1);
            *byte = self.0;
        }
    }
}

pub struct Memory {
    policy: Policy,
    fleet: Option<Fleet>,
    now: Instant,
    id: Option<WorkerId>,
    effects: Vec<Effect>,
    first_port: u16,
    pgid: u32,
    reads: u64,
}

impl Memory {
    pub fn new() -> Self {
        let policy = Policy {
            heartbeat_timeout: Duration::from_secs(90),
            ready_timeout: Duration::from_secs(300),
            grace: Duration::from_secs(30),
            idle_timeout: None,
            restart_limit: 3,
        };
        let now = Instant::now();
        Self { policy, fleet: None, now, id: None, effects: Vec::new(), first_port: 0, pgid: 100, reads: 0 }
    }

    fn fleet(&mut self) -> &mut Fleet {
        self.fleet.as_mut().expect("a scenario begins with a hive")
    }

    fn id(&self) -> WorkerId {
        self.id.clone().expect("a worker was spawned")
    }

    fn view(&mut self) -> View {
        let id = self.id();
        self.fleet().view(&id).expect("the worker is known")
    }

    fn on(&mut self, event: Event) {
        let now = self.now;
        let effects = self.fleet().on(event, now);
        self.perform(effects);
    }

    /// The world does what a well-behaved one does at once: logs are read, killed processes die.
    fn perform(&mut self, effects: Vec<Effect>) {
        for effect in effects {
            if let Effect::Disk(DiskJob::ReadLogTail { id, run, .. }) = &effect {
                self.on(Event::LogTail { id: id.clone(), run: *run, lines: Vec::new(), reason: None });
            }
            self.effects.push(effect);
        }
    }

    fn pass(&mut self, by: Duration, mut each_second: impl FnMut(&mut Self)) {
        let end = self.now + by;
        let mut next_second = self.now + Duration::from_secs(1);
        loop {
            let due = self.fleet().next_deadline().filter(|due| *due <= end);
            let at = due.map_or(next_second, |due| due.min(next_second)).min(end);
            self.now = at;
            if at == next_second {
                each_second(self);
                next_second += Duration::from_secs(1);
            }
            self.on(Event::Tick);
            if at == end {
                break;
            }
        }
    }

    fn beat(&mut self, state: Option<ReportedState>) {
        let (id, now) = (self.id(), self.now);
        let beat = Beat { health: ReportedHealth::Healthy, state, slots_total: None, slots_available: None };
        let (answer, effects) = self.fleet().beat(&id, None, beat, now);
        assert_eq!(answer, Ok(()));
        self.perform(effects);
    }

    fn admit(&mut self, order: Order) {
        let now = self.now;
        let (answer, effects) = self.fleet().spawn(order, now, &mut |_| true);
        let view = answer.expect("there is room").view;
        (self.id, self.first_port) = (Some(view.id), view.port);
        self.perform(effects);
    }

    fn fetched(&mut self, download: DownloadId, result: Result<(), String>) {
        let id = self.id();
        self.on(Event::Fetched { id, download, result });
    }

    fn native(&mut self) -> bool {
        self.view().plan.kind.protocol == Protocol::Native
    }

    fn count(&mut self, running: u32) {
        let view = self.view();
        self.on(Event::Counted { id: view.id, run: view.run, running: Some(running) });
    }

    fn dies(&mut self, status: ExitStatus) {
        self.ends(status, false);
    }

    fn ends(&mut self, status: ExitStatus, port_lost: bool) {
        let view = self.view();
        self.on(Event::Exited { id: view.id.clone(), run: view.run, status, port_lost, oom: false });
        self.on(Event::GroupDead { id: view.id, run: view.run });
    }

    /// Takes the signals that were asked for so far.
    fn signals(&mut self) -> Vec<Signal> {
        let effects = std::mem::take(&mut self.effects);
        effects
            .iter()
            .filter_map(|e| if let Effect::Signal { signal, .. } = e { Some(*signal) } else { None })
            .collect()
    }
}

impl World for Memory {
    fn given(&mut self, setting: Option<(&str, u64)>) {
        match setting {
            None => {}
            Some(("restart limit", limit)) => self.policy.restart_limit = u32::try_from(limit).unwrap(),
            Some(("grace", s)) => self.policy.grace = Duration::from_secs(s),
            Some(("ready timeout", s)) => self.policy.ready_timeout = Duration::from_secs(s),
            Some(("heartbeat timeout", s)) => self.policy.heartbeat_timeout = Duration::from_secs(s),
            Some(("idle timeout", s)) => self.policy.idle_timeout = Some(Duration::from_secs(s)),
            Some((other, _)) => panic!("no such setting: {other}"),
        }
        self.fleet = Some(Fleet::new(self.policy.clone(), 9000..=9009, ledger(), Box::new(Counting(0))));
    }

    fn spawn(&mut self, probed: bool) {
        self.admit(order(probed));
    }

    fn launched(&mut self) {
        let view = self.view();
        self.pgid += 1;
        self.on(Event::Launched { id: view.id, run: view.run, pgid: Pgid(self.pgid) });
    }

    fn becomes_ready(&mut self) {
        let (view, now) = (self.view(), self.now);
        if self.native() {
            let (answer, effects) = self.fleet().ready(&view.id, Some(view.run), None, now);
            assert_eq!(answer, Ok(()));
            self.perform(effects);
        } else {
            self.on(Event::Probed { id: view.id, run: view.run, probed: Probed::Ready });
        }
    }

    fn take_slots(&mut self) {
        if self.native() { self.beat(Some(ReportedState::Busy)) } else { self.count(1) }
    }

    fn free_slot(&mut self) {
        if self.native() { self.beat(Some(ReportedState::Ready)) } else { self.count(0) }
    }

    fn killed_by(&mut self, signal: &str) {
        let number = if signal == "SIGKILL" { 9 } else { 11 };
        self.dies(ExitStatus::Signal(number));
    }

    fn stop(&mut self, force: bool) {
        let (id, now) = (self.id(), self.now);
        self.effects.clear();
        let (answer, effects) = self.fleet().stop(&id, force, now);
        assert_eq!(answer, Ok(()));
        self.perform(effects);
    }

    fn cascade(&mut self) {
        let now = self.now;
        let (_, effects) = self.fleet().cascade(false, now);
        self.perform(effects);
        self.dies(ExitStatus::Code(0));
    }

    fn drain(&mut self, drain: bool, stop_idle: bool) {
        let now = self.now;
        let (workers, effects) = self.fleet().drain(drain, stop_idle, now);
        assert!(workers.is_some());
        self.perform(effects);
    }

    fn expect_spawns_refused(&mut self) {
        let now = self.now;
        let (answer, _) = self.fleet().spawn(order(false), now, &mut |_| true);
        assert_eq!(answer, Err(AdmitError::Draining));
    }

    fn backoff_over(&mut self) {
        self.pass(Duration::from_millis(1200), |_| ());
    }

    fn made_up(&mut self, step: &str) -> bool {
        match step {
            "it gets SIGTERM" => assert_eq!(self.signals(), [Signal::Term]),
            "it gets SIGKILL" => assert_eq!(self.signals(), [Signal::Kill]),
            "it gets nothing" => assert_eq!(self.signals(), []),
            "it is asked to exit" => {
                assert!(
                    self.effects
                        .iter()
                        .any(|effect| matches!(effect, Effect::Worker(WorkerJob::AskToExit { .. })))
                );
            }
            "a worker is spawned whose model is missing" => {
                self.admit(Order { fetch: Some(missing()), ..order(false) });
                let id = self.id();
                let fetch = Effect::Fetch { id, selection: missing() };
                assert_eq!(std::mem::take(&mut self.effects), [fetch]);
            }
            "its model is there" => self.fetched(missing().id(), Ok(())),
            "its download fails" => self.fetched(missing().id(), Err("the hub is away".to_owned())),
            "another download ends" => {
                let another = DownloadId::parse("d-0000000000000000").expect("a good name");
                self.fetched(another, Ok(()));
            }
            "its download is forsaken" => {
                let forsaken = Effect::Forsake { id: self.id(), download: missing().id() };
                assert!(self.effects.contains(&forsaken), "{:?}", self.effects);
            }
            "its process is gone" => self.dies(ExitStatus::Signal(9)),
            "it ends because its port is taken" => self.ends(ExitStatus::Code(1), true),
            "it sends a heartbeat" => self.beat(None),
            "one of its two slots is taken" => {
                let (id, now, health) = (self.id(), self.now, ReportedHealth::Healthy);
                let beat = Beat { health, state: None, slots_total: Some(2), slots_available: Some(1) };
                let (answer, effects) = self.fleet().beat(&id, None, beat, now);
                assert_eq!(answer, Ok(()));
                self.perform(effects);
            }
            "its launch fails" => {
                let view = self.view();
                let error = LaunchError::Failed("no such program".to_owned());
                self.on(Event::LaunchFailed { id: view.id, run: view.run, error });
            }
            "its probe answers" => {
                let view = self.view();
                self.on(Event::Probed { id: view.id, run: view.run, probed: Probed::Ready });
            }
            _ if step.starts_with("its probe is not answered") => {
                let times: u32 =
                    step.split(' ').nth(5).and_then(|n| n.parse().ok()).expect("a number of times");
                for _ in 0..times {
                    let view = self.view();
                    self.on(Event::Probed { id: view.id, run: view.run, probed: Probed::NotReady });
                    self.pass(Duration::from_secs(1), |_| ());
                }
            }
            "somebody else answers on its port" => {
                let view = self.view();
                self.on(Event::Probed { id: view.id, run: view.run, probed: Probed::Foreign });
            }
            "its older run says ready" => {
                let (view, now) = (self.view(), self.now);
                let older = Run(view.run.0 - 1);
                let (answer, effects) = self.fleet().ready(&view.id, Some(older), None, now);
                assert!(answer.is_err());
                self.perform(effects);
            }
            "it is launched again on another port" => {
                self.on(Event::Tick);
                let view = self.view();
                assert_ne!(view.port, self.first_port);
                let launched = self.effects.iter().rev().find_map(|effect| match effect {
                    Effect::Disk(DiskJob::Launch(job)) => Some((job.run, job.port)),
                    _ => None,
                });
                assert_eq!(launched, Some((view.run, view.port)));
            }
            _ => {
                let Some(by) = seconds(step) else { return false };
                if step.contains("hive sleeps") {
                    self.now += by;
                    self.on(Event::Slept(by));
                } else if step.contains("of answers without a count") {
                    self.pass(by, |world| {
                        let view = world.view();
                        let (id, run) = (view.id, view.run);
                        world.on(Event::Probed { id: id.clone(), run, probed: Probed::Ready });
                        world.on(Event::Counted { id, run, running: None });
                    });
                } else if step.contains("of heartbeats") {
                    self.pass(by, |world| world.beat(None));
                } else if step.contains("of progress") {
                    self.pass(by, |world| {
                        let view = world.view();
                        world.reads += 1;
                        let usage = Usage { read_bytes: world.reads, ..Usage::default() };
                        world.on(Event::Measured { id: view.id, run: view.run, usage });
                    });
                } else {
                    self.pass(by, |_| ());
                }
            }
        }
        true
    }

    fn expect_state(&mut self, state: &str) {
        let id = self.id();
        // A native worker that was asked nicely leaves.
        let asked =
            self.effects.iter().any(|effect| matches!(effect, Effect::Worker(WorkerJob::AskToExit { .. })));
        let killed =
            self.effects.iter().any(|effect| matches!(effect, Effect::Signal { signal: Signal::Kill, .. }));
        if state == "gone" && self.view().state.as_str() == "stopping" {
            assert!(asked || killed, "nobody asked it to leave");
            let status = if killed { ExitStatus::Signal(9) } else { ExitStatus::Code(0) };
            self.dies(status);
        }
        let view = self.fleet().view(&id).expect("the worker is known");
        assert_eq!(view.state.as_str(), state);
    }

    fn expect(&mut self, what: &str, value: &str) {
        let view = self.view();
        let end = view.end.clone();
        let seen = match what {
            "phase" => view.phase.map(|phase| format!("{phase:?}").to_lowercase()),
            "health" => view.health.map(|health| format!("{health:?}").to_lowercase()),
            "restart count" => Some(view.restarts.to_string()),
            "exit reason" => end.map(|end| end.reason.as_str().to_owned()),
            "exit message" => end.and_then(|end| end.message),
            "exit code" => end.and_then(|end| end.status).map(|status| match status {
                ExitStatus::Code(code) => code.to_string(),
                ExitStatus::Signal(_) | ExitStatus::Unknown => "none".to_owned(),
            }),
            "exit signal" => end.and_then(|end| end.status).map(|status| match status {
                ExitStatus::Signal(9) => "SIGKILL".to_owned(),
                other => format!("{other:?}"),
            }),
            _ => None,
        };
        assert_eq!(seen.as_deref(), Some(value), "{what}");
    }

    fn expect_end(&mut self) {
        let now = self.now;
        assert!(self.fleet().is_done(now));
        assert_eq!(self.fleet().ports_leased(), 0);
    }
}

fn order(probed: bool) -> Order {
    let probe = Probe {
        path: "/health".to_owned(),
        interval: Duration::from_millis(500),
        timeout: Duration::from_secs(2),
        busy: Some(Busy::Count { path: "/slots".to_owned(), field: "is_processing".to_owned() }),
    };
    let kind = Kind {
        name: "scenario".to_owned(),
        protocol: if probed { Protocol::Probe(probe) } else { Protocol::Native },
        program: PathBuf::from("worker"),
        backends: vec![Backend::Cpu],
        args: Vec::new(),
        env: BTreeMap::new(),
        env_allow: Vec::new(),
        args_allow: Vec::new(),
        version_args: Vec::new(),
        install: None,
    };
    let plan = Plan {
        kind: Arc::new(kind),
        model_ref: "file:/m.gguf".to_owned(),
        model_path: PathBuf::from("/m.gguf"),
        ctx: 4096,
        parallel: 1,
        port_hint: None,
        env: Vec::new(),
        extra_args: Vec::new(),
        pinned: false,
        key: None,
    };
    let need = Need { bytes: 1 << 30, host_bytes: 0, breakdown: None };
    let choices =
        vec![Choice { backend: Backend::Cpu, devices: vec![Device::Cpu], need, split: Split::ByFree }];
    Order { plan, choices, make_room: false, fetch: None }
}

/// What is to be fetched for a worker whose model is missing.
fn missing() -> Arc<Selection> {
    let Ok(ModelRef::Hub(hub)) = "hf:org/tiny".parse() else { panic!("a good reference") };
    let file = RemoteFile { path: "m.gguf".to_owned(), bytes: 1 << 30, digest: Digest::Sha256([7; 32]) };
    let revision = Revision { commit: "c0ffee".to_owned(), files: vec![file] };
    Arc::new(Selection::new(Path::new("/models"), &hub, &revision).expect("it is there"))
}

/// A machine with 16 GiB and no GPU.
fn ledger() -> Ledger {
    let cpu = Cpu { cores: 2, total_bytes: 16 << 30, available_bytes: 16 << 30, used_by: BTreeMap::new() };
    Ledger::new(Rules::default(), Arc::new(Picture { cpu, ..Picture::unknown().as_ref().clone() }))
}
