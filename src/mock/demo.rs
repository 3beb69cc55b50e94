//! The main job on loopback, told step by step: a queen, the real hive, a worker; from spawn to cascade.
//!
//! Every step waits for what it tells of. One that does not happen in time ends the demo with an error, and
//! whatever happens, nothing is left behind: no process, no folder.

use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError, TryRecvError, bounded};
use serde_json::json;

use crate::api::{Heartbeat, HiveStatus, Phase, State, Worker};
use crate::id::WorkerId;
use crate::limits;
use crate::thread::Joined;

mod caller;
mod cast;
pub(super) mod gguf;
mod sse;
pub(super) mod stage;
mod teller;
mod traces;

use caller::{Caller, Reply, Seen};
use cast::Cast;
pub use cast::Engine;
use stage::Stage;
use teller::Teller;

/// Runs the demo, with a stand-in for the worker or with a real engine.
///
/// # Errors
/// The first step that did not happen, for a person, and the end of the hive's log.
pub fn run(engine: Option<Engine>) -> Result<(), String> {
    let mut stage = Stage::new()?;
    let cast = match engine {
        None => Cast::stand_in(stage.folder()),
        Some(engine) => Cast::engine(&engine),
    }?;
    let mut teller = Teller::new();
    let opened = open(&mut stage, &cast, &mut teller);
    let (hive, events, thread) = opened.map_err(|why| with_log(why, &stage))?;
    let mut demo = Demo { stage, cast, hive, events, last: None, teller, threads: vec![thread] };
    demo.play().map_err(|why| with_log(demo.with_exit(why), &demo.stage))
}

/// Starts the hive and follows its events.
fn open(
    stage: &mut Stage,
    cast: &Cast,
    teller: &mut Teller,
) -> Result<(Caller, Receiver<Seen>, Joined), String> {
    teller.step("A queen listens, and a hive starts");
    teller.line("queen", &format!("listens on http://{}", stage.queen.addr()));
    let begun = Instant::now();
    let url = stage.start_hive(&cast.hive_args())?;
    let (took, pid) = (begun.elapsed(), stage.hive_pid().unwrap_or_default());
    teller.line("hive", &format!("listens on {url}, pid {pid}, after {}", ms(took)));
    let hive = Caller::new(&url);
    let (events, thread) = hive.events()?;
    Ok((hive, events, thread))
}

/// What is on while the demo plays. The stage goes first: with its processes end the threads that listen to
/// them.
struct Demo {
    stage: Stage,
    cast: Cast,
    hive: Caller,
    events: Receiver<Seen>,
    /// The worker as last told.
    last: Option<Worker>,
    teller: Teller,
    threads: Vec<Joined>,
}

impl Demo {
    fn play(&mut self) -> Result<(), String> {
        let health = self.hive.get("/v1/health")?;
        self.teller.request("GET /v1/health", health.status, &health.body.to_string());
        expect(health.status == 200 && health.body["status"] == "alive", "the hive is alive")?;
        self.queen_hears("a first heartbeat", |beat| beat.status == HiveStatus::Ready)?;

        let (id, spawned, ready) = self.spawn()?;
        self.work(&id)?;
        let (seen, mended) = self.kill()?;
        self.ask()?;
        let cascade = self.cascade(&id)?;

        self.teller.summary(&format!(
            "All seen, nothing left: spawn answered in {}, ready after {}, kill -9 seen after {}, \
             ready again after {}, cascade took {}",
            ms(spawned),
            ms(ready),
            ms(seen),
            ms(mended),
            ms(cascade),
        ));
        Ok(())
    }

    /// Gives the worker's name, and the time until the answer and until it was ready.
    fn spawn(&mut self) -> Result<(WorkerId, Duration, Duration), String> {
        self.teller.step(&format!("A worker is spawned: {}", self.cast.kind()));
        let begun = Instant::now();
        let reply = self.hive.post("/v1/workers/spawn", &self.cast.spawn_request())?;
        let request = format!("POST /v1/workers/spawn {}", self.cast.spawn_request());
        self.teller.request(&request, reply.status, &format!("{} in {}", reply.body, ms(reply.took)));
        expect(reply.status == 202 && reply.body["state"] == "spawning", "202, and it is spawning")?;
        let id = serde_json::from_value::<WorkerId>(reply.body["worker_id"].clone());
        let id = id.map_err(|e| format!("the answer names no worker: {e}"))?;
        let (at, worker) = self.event("the worker is ready", |worker| worker.state == State::Ready)?;
        expect(worker.worker_id == id, "the event is the worker's")?;
        let beat = self.queen_hears("the worker is ready", |beat| shows(beat, &id, State::Ready, 0))?;
        let json = serde_json::to_string_pretty(&beat).expect("wire types are valid JSON");
        self.teller.details(&json);
        Ok((id, reply.took, at - begun))
    }

    /// A question to an engine, then so much work that no slot is free.
    fn work(&mut self, id: &WorkerId) -> Result<(), String> {
        self.teller.step("It is given work");
        self.ask()?;
        let (url, work) = (self.worker()?.url.clone(), self.cast.work_request());
        let (caller, path) = (Caller::new(&url), self.cast.path());
        self.teller.line("demo", &format!("POST {url}{path} {work}"));
        // Closed when it was seen busy. A fast engine is done before anybody looks: it gets work again.
        let (busy, unseen) = bounded::<()>(0);
        let (done, answers) = bounded(1);
        let keep_at_work = move || {
            let mut answer = caller.post(path, &work);
            for _ in 1..limits::DEMO_WORKS_MAX {
                if answer.is_err() || unseen.try_recv() != Err(TryRecvError::Empty) {
                    break;
                }
                answer = caller.post(path, &work);
            }
            // Who asked may have given up.
            let _ = done.send(answer);
        };
        self.threads.push(Joined::spawn("work", || {}, keep_at_work).map_err(|e| e.to_string())?);
        self.event("no slot is free: the worker is busy", |worker| worker.state == State::Busy)?;
        drop(busy);
        self.queen_hears("the worker is busy", |beat| shows(beat, id, State::Busy, 0))?;
        let reply =
            self.stage.wait("the work is done", limits::DEMO_ENGINE, |time| waited(&answers, time))??;
        self.tell_answer(path, &reply)?;
        self.event("the worker is ready again", |worker| worker.state == State::Ready)?;
        self.queen_hears("the worker is ready again", |beat| shows(beat, id, State::Ready, 0)).map(drop)
    }

    /// Asks an engine a question, and tells the answer; a stand-in has none.
    fn ask(&mut self) -> Result<(), String> {
        let Some(question) = self.cast.question() else { return Ok(()) };
        let (url, path) = (self.worker()?.url.clone(), self.cast.path());
        self.teller.line("demo", &format!("POST {url}{path} {question}"));
        let (done, answers) = bounded(1);
        let ask = move || drop(done.send(Caller::new(&url).post(path, &question)));
        self.threads.push(Joined::spawn("ask", || {}, ask).map_err(|e| e.to_string())?);
        let what = "the worker answers";
        let reply = self.stage.wait(what, limits::DEMO_ENGINE, |time| waited(&answers, time))??;
        self.tell_answer(path, &reply)?;
        self.catch_up()
    }

    fn tell_answer(&self, path: &str, reply: &Reply) -> Result<(), String> {
        let text = self.cast.answer(&reply.body);
        let told = text.map_or_else(|| reply.body.to_string(), teller::quoted);
        self.teller.request(&format!("POST {path}"), reply.status, &format!("{told} in {}", ms(reply.took)));
        expect(reply.status == 200 && text.is_some(), "the worker answers with a text")
    }

    /// Tells what came meanwhile: a slow answer was seen as work, too.
    fn catch_up(&mut self) -> Result<(), String> {
        for (_, worker) in self.events.try_iter().collect::<Vec<_>>() {
            self.last = Some(told(&self.teller, self.last.take(), worker));
        }
        if self.worker()?.state == State::Busy {
            self.event("the worker is ready again", |worker| worker.state == State::Ready)?;
        }
        while let Some(beat) = self.stage.queen.heartbeats().next(Duration::ZERO) {
            self.teller.line("queen", &teller::heartbeat(&beat));
        }
        Ok(())
    }

    /// Gives the times from the kill until it was seen and until the worker was ready again.
    fn kill(&mut self) -> Result<(Duration, Duration), String> {
        self.teller.step("It is killed");
        let worker = self.worker()?;
        let (id, pid) = (worker.worker_id.clone(), worker.pid.ok_or("the worker has no process")?);
        let pid_of = i32::try_from(pid).ok().and_then(rustix::process::Pid::from_raw);
        let pid_of = pid_of.ok_or("the worker's process id is none")?;
        let begun = Instant::now();
        rustix::process::kill_process(pid_of, rustix::process::Signal::KILL)
            .map_err(|e| format!("cannot kill {pid}: {e}"))?;
        self.teller.line("demo", &format!("kill -9 {pid}"));
        let (seen, _) = self.event("the exit is seen", |worker| {
            let killed = worker.exit.as_ref().is_some_and(|exit| exit.signal.as_deref() == Some("SIGKILL"));
            killed && worker.phase == Some(Phase::Backoff)
        })?;
        let seen = seen - begun;
        self.teller.line("demo", &format!("the exit was seen {} after the kill", ms(seen)));
        self.queen_hears("the worker restarts", |beat| shows(beat, &id, State::Spawning, 1))?;
        let is_back = |worker: &Worker| worker.state == State::Ready && worker.restart_count == 1;
        let (mended, worker) = self.event("the worker is ready again", is_back)?;
        expect(worker.pid != Some(pid), "its process is another one")?;
        self.queen_hears("the worker is ready again", |beat| shows(beat, &id, State::Ready, 1))?;
        Ok((seen, mended - begun))
    }

    /// Gives the time from the request to the end of the hive.
    fn cascade(&mut self, id: &WorkerId) -> Result<Duration, String> {
        self.teller.step("The cascade");
        let begun = Instant::now();
        let reply = self.hive.post("/v1/shutdown", &json!({}))?;
        self.teller.request("POST /v1/shutdown", reply.status, &reply.body.to_string());
        expect(reply.status == 202 && reply.body["workers"] == 1, "202, and one worker to stop")?;
        self.next_event("the worker is gone", |worker| {
            worker.worker_id == *id && worker.state == State::Gone
        })?;
        let status = self.stage.hive_end()?;
        let took = begun.elapsed();
        self.teller.line("hive", &format!("ended, {status}"));
        expect(status.success(), "the hive exits with 0")?;
        let beat = self.queen_hears("the hive has stopped", |beat| beat.status == HiveStatus::Stopped)?;
        expect(beat.workers.is_empty(), "the last heartbeat has no workers")?;
        let left = self.stage.left();
        expect(left.is_empty(), &format!("no process is left, but there are {left:?}"))?;
        self.teller.line("demo", "no process is left");
        Ok(took)
    }

    /// The worker as last told.
    fn worker(&self) -> Result<&Worker, String> {
        self.last.as_ref().ok_or_else(|| "no worker was told of".to_owned())
    }

    /// Waits until the queen has a heartbeat as `wanted`; tells each on the way.
    fn queen_hears(&mut self, what: &str, wanted: impl Fn(&Heartbeat) -> bool) -> Result<Heartbeat, String> {
        let inbox = self.stage.queen.heartbeats().clone();
        let Self { stage, teller, .. } = self;
        stage.wait(&format!("the queen hears that {what}"), limits::DEMO_STEP, |time| {
            let Some(beat) = inbox.next(time) else { return Ok(None) };
            teller.line("queen", &teller::heartbeat(&beat));
            Ok(wanted(&beat).then_some(beat))
        })
    }

    /// [`Demo::next_event`] of a worker that is expected to live.
    fn event(&mut self, what: &str, wanted: impl Fn(&Worker) -> bool) -> Result<Seen, String> {
        let (at, worker) = self.next_event(what, |worker| wanted(worker) || worker.state == State::Gone)?;
        if worker.state == State::Gone {
            Err(format!("the worker is gone; expected: {what}"))
        } else {
            Ok((at, worker))
        }
    }

    /// Waits until an event tells of the worker as `wanted`; tells each change on the way.
    fn next_event(&mut self, what: &str, wanted: impl Fn(&Worker) -> bool) -> Result<Seen, String> {
        let Self { stage, events, last, teller, .. } = self;
        stage.wait(what, limits::DEMO_ENGINE, |time| {
            let Some((at, worker)) = waited(events, time)? else { return Ok(None) };
            let worker = told(teller, last.take(), worker);
            *last = Some(worker.clone());
            Ok(wanted(&worker).then_some((at, worker)))
        })
    }

    /// Adds how the worker's last run ended to what went wrong.
    fn with_exit(&self, why: String) -> String {
        let Some(exit) = self.last.as_ref().and_then(|worker| worker.exit.as_ref()) else { return why };
        let message = exit.message.as_deref().unwrap_or(&exit.reason);
        let log = exit.log.join("\n").replace(|c: char| c.is_control() && c != '\n', "\u{fffd}");
        format!("{why}\nthe worker's last end: {message}\n{log}")
    }
}

/// Tells of the worker, unless that says the same as the last time.
fn told(teller: &Teller, last: Option<Worker>, worker: Worker) -> Worker {
    let line = teller::worker(&worker);
    if last.is_none_or(|last| teller::worker(&last) != line) {
        teller.line("event", &line);
    }
    worker
}

/// Whether the worker is so in the heartbeat.
fn shows(beat: &Heartbeat, id: &WorkerId, state: State, restarts: u32) -> bool {
    beat.workers
        .iter()
        .any(|worker| worker.worker_id == *id && worker.state == state && worker.restart_count == restarts)
}

/// The next of a channel, if it comes in `time`.
fn waited<T>(channel: &Receiver<T>, time: Duration) -> Result<Option<T>, String> {
    match channel.recv_timeout(time) {
        Ok(next) => Ok(Some(next)),
        Err(RecvTimeoutError::Timeout) => Ok(None),
        Err(RecvTimeoutError::Disconnected) => Err("the hive's events ended".to_owned()),
    }
}

fn expect(seen: bool, what: &str) -> Result<(), String> {
    if seen { Ok(()) } else { Err(format!("expected: {what}")) }
}

fn with_log(why: String, stage: &Stage) -> String {
    format!("{why}\nthe end of the hive's log:\n{}", stage.log_tail())
}

fn ms(time: Duration) -> String {
    if time.as_secs() >= 2 {
        format!("{:.1} s", time.as_secs_f64())
    } else {
        format!("{:.1} ms", time.as_secs_f64() * 1000.0)
    }
}
