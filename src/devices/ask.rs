//! The hive's end of the probe child: asks it, waits for it in poll, ends it, starts another one.
//!
//! ```text
//!  none ──ask──▶ asked ──answer──▶ idle ──ask──▶ asked
//!   ▲              │ no answer in time, a bad one, its end        killed: reaped once it is dead
//!   └──────────────┴──▶ back off, 1 s … 60 s; "no driver": 60 s
//! ```
//! Invariant: nothing here waits for the child but [`Asker`]'s end, and that for a bounded time. A killed
//! child that hangs in the kernel stays in a list until it is dead; this is the only place that reaps it.

use std::io::{self, Write as _};
use std::os::fd::OwnedFd;
use std::os::unix::process::CommandExt as _;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

use log::{debug, warn};
use rustix::event::{PollFd, PollFlags};
use rustix::fs::OFlags;
use rustix::process::{Pid, PidfdFlags, Signal};

use super::Driver;
use super::child::{Answer, COMMAND, QUESTION};
use super::probe::{Card, ProbeConfig, drain};
use crate::limits;
use crate::sys::timespec;

/// Owns the probe child.
pub(super) struct Asker {
    config: ProbeConfig,
    running: Option<Running>,
    /// Killed, and not reaped yet.
    left: Vec<Killed>,
    /// When the next one may be started.
    not_before: Option<Instant>,
    failures: u32,
    state: State,
    /// A card of NVIDIA was seen.
    knows_nvidia: bool,
    /// What the last answer complained of, so that it is logged once.
    notes: Vec<String>,
}

/// What is known of drivers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum State {
    /// Nothing yet: an answer is worth waiting for.
    New,
    /// The last question was answered.
    Answers,
    /// There is none.
    NoDriver,
    /// The last question was not answered.
    Fails,
}

struct Running {
    child: Child,
    stdin: ChildStdin,
    stdout: ChildStdout,
    pidfd: OwnedFd,
    /// The beginning of an answer.
    line: Vec<u8>,
    /// Until when the answer has to be there, if one is owed.
    until: Option<Instant>,
    answered: bool,
}

struct Killed {
    child: Child,
    pidfd: OwnedFd,
}

/// What came of a question.
#[derive(Debug, PartialEq)]
pub(super) enum Told {
    /// All cards.
    Cards(Vec<Card>),
    /// No driver is on this machine.
    NoDriver,
    /// It did not answer, or badly.
    Failed,
}

impl Asker {
    pub fn new(config: ProbeConfig) -> Self {
        Self {
            config,
            running: None,
            left: Vec::new(),
            not_before: None,
            failures: 0,
            state: State::New,
            knows_nvidia: false,
            notes: Vec::new(),
        }
    }

    pub fn state(&self) -> State {
        self.state
    }

    /// Asks, unless an answer is owed already. False if nobody can be asked now: [`Asker::state`] says why.
    pub fn ask(&mut self, now: Instant) -> bool {
        if self.running.is_none() {
            if self.not_before.is_some_and(|at| now < at) || self.left.len() >= limits::PROBES_LEFT_MAX {
                return false;
            }
            match Running::start(&self.config) {
                Ok(running) => self.running = Some(running),
                Err(e) => {
                    self.fail(now, &format!("not started: {e}"));
                    return false;
                }
            }
        }
        let Some(running) = &mut self.running else { return false };
        if running.until.is_some() {
            return true;
        }
        let patience = if running.answered { limits::PROBE_ANSWER } else { limits::PROBE_FIRST_ANSWER };
        running.until = Some(now + patience);
        // A line into an empty pipe: this does not block.
        if let Err(e) = running.stdin.write_all(QUESTION) {
            self.fail(now, &format!("not asked: {e}"));
            return false;
        }
        true
    }

    /// By when [`Asker::step`] is to be called though no descriptor is readable.
    pub fn deadline(&self) -> Option<Instant> {
        self.running.as_ref()?.until
    }

    /// What to wait for.
    pub fn descriptors(&self) -> impl Iterator<Item = PollFd<'_>> {
        let running = self.running.iter().map(|running| PollFd::new(&running.stdout, PollFlags::IN));
        running.chain(self.left.iter().map(|killed| PollFd::new(&killed.pidfd, PollFlags::IN)))
    }

    /// Takes what has come, and ends what is overdue. Does not block.
    pub fn step(&mut self, now: Instant) -> Option<Told> {
        // Nothing else waits for them; an error would say that they are gone.
        self.left.retain_mut(|killed| matches!(killed.child.try_wait(), Ok(None)));
        let running = self.running.as_mut()?;
        let told = match running.read() {
            Ok(None) if running.until.is_some_and(|until| until <= now) => {
                Err("no answer in time".to_owned())
            }
            Ok(None) => return None,
            Ok(Some(answer)) if running.until.take().is_some() => {
                running.answered = true;
                Ok(answer)
            }
            Ok(Some(_)) => Err("an answer to no question".to_owned()),
            Err(e) => Err(e.to_string()),
        };
        Some(match told {
            Ok(answer) => self.on(answer, now),
            Err(why) => {
                self.fail(now, &why);
                Told::Failed
            }
        })
    }

    fn on(&mut self, answer: Answer, now: Instant) -> Told {
        // What is broken beside another maker's cards, and never worked, is only said.
        self.knows_nvidia |= answer.cards.iter().any(|card| card.driver != Driver::Sysfs);
        let there = answer.is_driver_there();
        if let Some(why) = answer.broken.filter(|_| self.knows_nvidia || answer.cards.is_empty()) {
            self.fail(now, &why);
            return Told::Failed;
        }
        if answer.notes != self.notes {
            for note in &answer.notes {
                debug!("a source tells of no GPU source_and_reason={note:?}");
            }
            self.notes = answer.notes;
        }
        self.failures = 0;
        if there {
            self.state = State::Answers;
            return Told::Cards(answer.cards);
        }
        self.state = State::NoDriver;
        self.end_child();
        self.not_before = Some(now + limits::DRIVER_LOOK_INTERVAL);
        Told::NoDriver
    }

    fn fail(&mut self, now: Instant, why: &str) {
        let wait = limits::PROBE_BACKOFF_FIRST.saturating_mul(1 << self.failures.min(16));
        let wait = wait.min(limits::PROBE_BACKOFF_MAX);
        self.failures = self.failures.saturating_add(1);
        warn!(
            "GPUs not looked at reason={why:?} failures={} next_after_ms={}",
            self.failures,
            wait.as_millis()
        );
        self.state = State::Fails;
        self.end_child();
        self.not_before = Some(now + wait);
    }

    fn end_child(&mut self) {
        let Some(Running { child, pidfd, .. }) = self.running.take() else { return };
        if let Some(group) = Pid::from_raw(i32::try_from(child.id()).unwrap_or(0)) {
            // It is not reaped: the number is its. With it goes a command that it runs.
            if let Err(e) = rustix::process::kill_process_group(group, Signal::KILL) {
                debug!("probe not killed pid={} error={e}", child.id());
            }
        }
        self.left.push(Killed { child, pidfd });
    }
}

impl Drop for Asker {
    fn drop(&mut self) {
        self.end_child();
        let until = Instant::now() + limits::PROBE_KILL_WAIT;
        loop {
            self.left.retain_mut(|killed| matches!(killed.child.try_wait(), Ok(None)));
            let left = until.saturating_duration_since(Instant::now());
            if self.left.is_empty() || left == Duration::ZERO {
                break;
            }
            let mut fds: Vec<PollFd<'_>> = self.descriptors().collect();
            // An error is an interruption.
            let _ = rustix::event::poll(&mut fds, Some(&timespec(left)));
        }
        for killed in &self.left {
            warn!("a killed probe hangs in the kernel and is left behind pid={}", killed.child.id());
        }
    }
}

impl Running {
    fn start(config: &ProbeConfig) -> io::Result<Self> {
        let mut command = Command::new(&config.program);
        command.arg0("rbee-hive").arg(COMMAND).args([&config.nvml, &config.nvidia_smi, &config.sysfs]);
        // What the loader and the search for a command need, and one language.
        command.env_clear().env("LC_ALL", "C");
        for name in ["PATH", "LD_LIBRARY_PATH"] {
            command.envs(std::env::var_os(name).map(|value| (name, value)));
        }
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null()).process_group(0);
        let mut child = command.spawn()?;
        let pid = Pid::from_child(&child);
        let stdin = child.stdin.take().expect("it was asked for as a pipe");
        let stdout = child.stdout.take().expect("it was asked for as a pipe");
        let watched = rustix::process::pidfd_open(pid, PidfdFlags::empty()).and_then(|pidfd| {
            rustix::fs::fcntl_setfl(&stdout, OFlags::NONBLOCK)?;
            Ok(pidfd)
        });
        match watched {
            Ok(pidfd) => {
                Ok(Self { child, stdin, stdout, pidfd, line: Vec::new(), until: None, answered: false })
            }
            Err(e) => {
                // It has not been asked anything yet: nothing can hold it back.
                child.kill()?;
                child.wait()?;
                Err(e.into())
            }
        }
    }

    /// The next whole answer, if it is there.
    fn read(&mut self) -> io::Result<Option<Answer>> {
        let open = drain(&mut self.stdout, &mut self.line, limits::PROBE_ANSWER_BYTES_MAX)?;
        if self.line.last() == Some(&b'\n') {
            let answer = serde_json::from_slice(&self.line);
            self.line.clear();
            return Ok(Some(answer?));
        }
        if open { Ok(None) } else { Err(io::Error::other("it ended")) }
    }
}
