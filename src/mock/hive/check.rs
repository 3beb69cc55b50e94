//! Whether a native worker keeps its contract, `docs/worker.md`: it is started as a hive starts it, and each
//! point is tried on it.
//!
//! A check that ends the worker does not end the others: the next one starts it again.

use std::io;
use std::net::{Ipv4Addr, TcpListener};
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, bounded};
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

use crate::id::Token;
use crate::limits;
use crate::thread::Joined;

mod ask;
mod child;
mod ear;
mod heard;
mod judge;
mod options;
mod report;
mod steps;

pub use options::{HELP, Options};
pub use report::{Report, Verdict};

use Verdict::{Fail, Ok as Holds};
use child::Worker;
use ear::{Call, Ear, News, What};
use heard::Heard;

/// Checks a worker. Nothing of it is left at the end. SIGTERM and SIGINT break it off.
///
/// # Errors
/// If it was broken off, or the system has no port, thread or descriptor to give.
pub fn run(options: &Options) -> Result<Report, String> {
    let system = |e: io::Error| e.to_string();
    let (sender, news) = bounded(limits::CHECK_CALLS_MAX);
    let _signals = forward_signals(sender.clone()).map_err(system)?;
    let ear = Ear::open(sender.clone()).map_err(system)?;
    let port = match options.port {
        Some(port) => port,
        // Free again at once: the worker binds it next.
        None => {
            TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).and_then(|l| l.local_addr()).map_err(system)?.port()
        }
    };
    let mut check = Check {
        options,
        port,
        ear,
        news,
        sender,
        worker: None,
        earlier: Vec::new(),
        runs: 0,
        report: Report::default(),
        heard: Heard::default(),
    };
    match check.story() {
        Ok(()) | Err(Over::NotReady | Over::Exited) => {}
        Err(Over::Broken(why)) => return Err(why),
    }
    check.bury();
    check.heard.sum_up(check.runs, &mut check.report);
    Ok(check.report)
}

fn forward_signals(news: Sender<News>) -> io::Result<Joined> {
    let mut signals = Signals::new([SIGTERM, SIGINT])?;
    let handle = signals.handle();
    Joined::spawn(
        "signals",
        move || handle.close(),
        move || {
            for _ in signals.forever() {
                // Nobody listens any more: it is over anyway.
                let _ = news.send(News::Interrupted);
            }
        },
    )
}

/// Why a step did not come to its end.
enum Over {
    /// The worker has ended.
    Exited,
    /// It did not become ready: nothing more can be tried.
    NotReady,
    /// Nothing that the worker did.
    Broken(String),
}

impl From<io::Error> for Over {
    fn from(e: io::Error) -> Self {
        Self::Broken(e.to_string())
    }
}

struct Check<'a> {
    options: &'a Options,
    port: u16,
    ear: Ear,
    news: Receiver<News>,
    sender: Sender<News>,
    worker: Option<Worker>,
    /// Tokens of the launches before its.
    earlier: Vec<Token>,
    runs: u32,
    report: Report,
    heard: Heard,
}

impl Check<'_> {
    fn story(&mut self) -> Result<(), Over> {
        self.serving()?;
        self.attempt("health", Self::health)?;
        self.attempt("heartbeat", Self::heartbeats)?;
        self.attempt("busy-seen", Self::work)?;
        self.attempt("hive-500", |check| check.refuses("hive-500", 500))?;
        self.attempt("hive-404", |check| check.refuses("hive-404", 404))?;
        self.attempt("hive-cut", Self::cut)?;
        self.attempt("hive-away", Self::away)?;
        self.attempt("shutdown", Self::shutdown)?;
        self.bury();
        self.ready_again()?;
        self.attempt("shutdown-guard", Self::shutdown_guard)?;
        self.attempt("sigterm", Self::sigterm)
    }

    /// Does a step with a worker that serves; one that ends in it has failed.
    fn attempt(
        &mut self,
        check: &'static str,
        step: impl FnOnce(&mut Self) -> Result<(), Over>,
    ) -> Result<(), Over> {
        self.serving()?;
        let done = step(self);
        self.ear.answer_with(200);
        match done {
            Err(Over::Exited) => {
                let end = self.bury();
                self.report.say(check, Fail, format!("it ended meanwhile: {end}"));
                Ok(())
            }
            done => done,
        }
    }

    /// Makes sure that there is a worker that serves.
    fn serving(&mut self) -> Result<(), Over> {
        if self.worker.is_some() {
            return Ok(());
        }
        self.launch()?;
        self.await_ready()
    }

    fn launch(&mut self) -> Result<(), Over> {
        self.runs += 1;
        match Worker::start(self.options, self.runs, self.port, &self.ear.url(), self.sender.clone()) {
            Ok(worker) => {
                self.worker = Some(worker);
                Ok(())
            }
            Err(why) => {
                self.report.say("start", Fail, why);
                Err(Over::NotReady)
            }
        }
    }

    fn await_ready(&mut self) -> Result<(), Over> {
        let since = self.worker.as_ref().map_or_else(Instant::now, |worker| worker.since);
        match self.next(since + self.options.ready_within, |call| call.what == What::Ready) {
            Ok(Some(call)) => {
                self.report.say("start", Holds, "it starts");
                self.report.say("ready", Holds, format!("after {}", seconds(call.at - since)));
                Ok(())
            }
            Ok(None) => {
                let instead = match self.heard.others.first() {
                    Some(other) => format!("; it called {other} instead"),
                    None if self.heard.heartbeats > 0 => {
                        "; heartbeats came, which do not make it ready".into()
                    }
                    None => String::new(),
                };
                let within = seconds(self.options.ready_within);
                self.report.say("start", Holds, "it starts");
                self.report.say("ready", Fail, format!("not within {within}{instead}{}", self.last_words()));
                Err(Over::NotReady)
            }
            Err(Over::Exited) => {
                let time = seconds(since.elapsed());
                let end = self.bury();
                self.report.say("start", Fail, format!("it ended after {time}, before it was ready: {end}"));
                Err(Over::NotReady)
            }
            Err(over) => Err(over),
        }
    }

    /// A second start, with a hive that refuses the first ready.
    fn ready_again(&mut self) -> Result<(), Over> {
        self.ear.answer_with(500);
        self.launch()?;
        let since = Instant::now();
        let deadline = since + self.options.ready_within;
        let refused = self.next(deadline, |call| call.what == What::Ready && call.status == 500);
        self.ear.answer_with(200);
        let again = match refused {
            Ok(Some(_)) => self.next(deadline, |call| call.what == What::Ready && call.status == 200),
            other => other,
        };
        match again {
            Ok(Some(call)) => {
                self.report.say("ready-again", Holds, format!("after {}", seconds(call.at - since)));
            }
            Ok(None) => {
                let within = seconds(self.options.ready_within);
                self.report.say("ready-again", Fail, format!("not within {within}{}", self.last_words()));
                self.bury();
            }
            Err(Over::Exited) => {
                let end = self.bury();
                self.report.say("ready-again", Fail, format!("it ended instead: {end}"));
            }
            Err(over) => return Err(over),
        }
        Ok(())
    }

    /// How it left, if it did in time; else it is killed. Either way there is no worker any more.
    fn leaves(&mut self) -> Result<Option<String>, Over> {
        let since = Instant::now();
        let left = match self.next(since + self.options.leave_within, |_| false) {
            Err(Over::Exited) => Some(since.elapsed()),
            Err(over) => return Err(over),
            Ok(_) => None,
        };
        let Some(mut worker) = self.worker.take() else { return Ok(None) };
        let (status, children) = worker.bury();
        self.heard.wrote_its_token |= worker.wrote_its_token();
        self.earlier.push(worker.token.clone());
        let Some(time) = left else { return Ok(None) };
        if children.is_empty() {
            self.report.say("children", Holds, "none");
        } else {
            let seen = format!("a hive would kill them: {}", children.join(", "));
            self.report.say("children", Fail, seen);
        }
        let status = status.map_or_else(String::new, |status| format!(", {status}"));
        Ok(Some(format!("it left after {}{status}", seconds(time))))
    }

    /// Ends what is left of the worker, and tells how it ended.
    fn bury(&mut self) -> String {
        let Some(mut worker) = self.worker.take() else { return "nothing is left of it".to_owned() };
        let (status, _) = worker.bury();
        self.heard.wrote_its_token |= worker.wrote_its_token();
        self.earlier.push(worker.token.clone());
        let words = lines(&worker);
        status.map_or_else(|| "no status".to_owned(), |status| status.to_string()) + &words
    }

    fn last_words(&self) -> String {
        self.worker.as_ref().map(lines).unwrap_or_default()
    }

    fn grace(&self) -> String {
        seconds(self.options.leave_within)
    }

    fn worker(&self) -> Result<&Worker, Over> {
        self.worker.as_ref().ok_or(Over::NotReady)
    }

    /// Whether it is the call of an earlier launch that was not looked at while that lived.
    fn is_late(&self, call: &Call) -> bool {
        let is_of_earlier = |token: &str| self.earlier.iter().any(|earlier| earlier.matches(token));
        self.worker.as_ref().is_none_or(|worker| call.at < worker.since)
            || call.bearer.as_deref().is_some_and(is_of_earlier)
    }

    /// The next call that is `wanted`; `None` if it does not come in time. All calls are judged.
    fn next(
        &mut self,
        deadline: Instant,
        mut wanted: impl FnMut(&Call) -> bool,
    ) -> Result<Option<Call>, Over> {
        loop {
            match self.news.recv_deadline(deadline) {
                Ok(News::Called(call)) if self.is_late(&call) => {}
                Ok(News::Called(call)) => {
                    if let Some(worker) = &self.worker {
                        self.heard.judge(&call, worker);
                    }
                    if wanted(&call) {
                        return Ok(Some(call));
                    }
                }
                Ok(News::Exited(run)) if self.worker.as_ref().is_some_and(|worker| worker.run == run) => {
                    return Err(Over::Exited);
                }
                Ok(News::Exited(_)) => {}
                Ok(News::Interrupted) => return Err(Over::Broken("interrupted".to_owned())),
                Err(RecvTimeoutError::Timeout) => return Ok(None),
                Err(RecvTimeoutError::Disconnected) => return Err(Over::Broken("nobody calls".to_owned())),
            }
        }
    }
}

fn lines(worker: &Worker) -> String {
    let lines = worker.last_lines();
    if lines.is_empty() { String::new() } else { format!("; it last wrote: {}", lines.join(" | ")) }
}

fn seconds(time: Duration) -> String {
    let ms = time.as_millis();
    if ms < 1000 { format!("{ms} ms") } else { format!("{:.2} s", time.as_secs_f64()) }
}
