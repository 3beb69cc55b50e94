//! The guardian: a second, tiny process of the same program, which ends the workers of a hive that died.
//!
//! It holds one end of a pipe and waits. A hive that ends well kills it before; one that dies closes the pipe. The
//! guardian then waits for the next hive to take `hive.lock`, and if none does within `--orphan-timeout`, it ends
//! what the dead one left, by records and marks as the next hive would find it, and writes what it did to
//! `logs/guardian.log`. It runs only while workers do: whoever has a worker holds a [`Ward`], and once the hive has died
//! it looks for them itself.

use std::ffi::OsString;
use std::fs::{File, OpenOptions};
use std::io::{self, BufRead as _, BufReader, Write as _};
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::fs::OpenOptionsExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use log::{debug, info, warn};
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::process::{Signal, WaitId, WaitIdOptions};

use crate::clock::rfc3339;
use crate::limits::{
    GUARDIAN_AGAIN_AFTER, GUARDIAN_KILL_ROUNDS_MAX, GUARDIAN_LOOK, GUARDIAN_LOOK_FOR_WORKERS,
    ORPHAN_TIMEOUT_KEPT_MIN,
};
use crate::process::Owner;
use crate::process::adopt::{self, has_ended};
use crate::process::lock::LockWatch;
use crate::process::record::{Record, Records};

/// The command that starts it; not in any help.
pub const COMMAND: &str = "guard";

/// How it is called in the process list.
const NAME: &std::ffi::CStr = c"rbee-guardian";
/// Said by a hive that leaves its workers to the next one.
const KEEP: &str = "keep";

/// What a guardian has to know.
#[derive(Debug, Clone)]
pub struct Config {
    /// This program.
    pub program: PathBuf,
    /// Where the records are, and the lock.
    pub data_dir: PathBuf,
    /// Whose workers it ends.
    pub owner: Owner,
    /// The mark of the hive that it guards for, see [`HiveLock::settle`](super::lock::HiveLock::settle).
    pub hive: String,
    /// How long they may live without a hive.
    pub orphan_timeout: Duration,
    /// How long they have between SIGTERM and SIGKILL; nothing: SIGKILL at once.
    pub grace: Duration,
}

/// The hive's side of it. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Guardian(Arc<Mutex<State>>);

#[derive(Debug)]
struct State {
    config: Config,
    /// Workers that are to be guarded.
    wards: usize,
    running: Option<Running>,
    /// Not started again before.
    not_before: Option<Instant>,
    /// The hive ends and keeps its workers.
    kept: bool,
}

#[derive(Debug)]
struct Running {
    pidfd: Arc<OwnedFd>,
    lifeline: File,
}

/// A worker that is guarded, until this is dropped.
#[derive(Debug)]
pub struct Ward(Guardian);

impl Drop for Ward {
    fn drop(&mut self) {
        let mut state = self.0.state();
        state.wards -= 1;
        if state.wards == 0 {
            state.dismiss();
        }
    }
}

impl Guardian {
    /// A guardian that runs as soon as there is somebody to guard.
    pub fn new(config: Config) -> Self {
        let state = State { config, wards: 0, running: None, not_before: None, kept: false };
        Self(Arc::new(Mutex::new(state)))
    }

    /// Has a worker guarded that is about to be started.
    pub fn ward(&self) -> Ward {
        let mut state = self.state();
        state.wards += 1;
        state.revive();
        Ward(self.clone())
    }

    /// What becomes readable when the guardian dies; `None` if there is none.
    pub fn pidfd(&self) -> Option<Arc<OwnedFd>> {
        self.state().running.as_ref().map(|running| Arc::clone(&running.pidfd))
    }

    /// Starts another one in the place of one that died. Gives when to call again, if it does not run and should.
    pub fn revive(&self) -> Option<Instant> {
        self.state().revive()
    }

    /// The hive ends, and its workers go on without it.
    pub fn keep(&self) {
        let mut state = self.state();
        // One that has just died is not replaced later.
        state.not_before = None;
        state.revive();
        state.kept = true;
        if let Some(running) = &mut state.running {
            let _ = writeln!(running.lifeline, "{KEEP}");
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn revive(&mut self) -> Option<Instant> {
        if let Some(running) = self.running.take_if(|running| has_ended(&running.pidfd)) {
            reap(&running.pidfd);
            warn!("the guardian has died; another one takes its place");
        }
        if self.running.is_some() || self.wards == 0 || self.kept {
            return None;
        }
        let now = Instant::now();
        if let Some(at) = self.not_before.filter(|at| *at > now) {
            return Some(at);
        }
        self.not_before = Some(now + GUARDIAN_AGAIN_AFTER);
        match start(&self.config) {
            Ok(running) => {
                self.running = Some(running);
                None
            }
            Err(error) => {
                warn!(
                    "no guardian can be started; workers would outlive a hive that is killed error={error}"
                );
                self.not_before
            }
        }
    }

    fn dismiss(&mut self) {
        self.not_before = None;
        let Some(running) = self.running.take_if(|_| !self.kept) else { return };
        // Not asked: it may be stopped.
        let _ = rustix::process::pidfd_send_signal(&running.pidfd, Signal::KILL);
        reap(&running.pidfd);
        debug!("the guardian is dismissed");
    }
}

fn reap(pidfd: &OwnedFd) {
    let _ = rustix::process::waitid(WaitId::PidFd(pidfd.as_fd()), WaitIdOptions::EXITED);
}

fn start(config: &Config) -> io::Result<Running> {
    let (its, ours) = pipe_with(PipeFlags::CLOEXEC)?;
    let child = Command::new(&config.program)
        .arg0("rbee-hive")
        .arg(COMMAND)
        .arg(&config.data_dir)
        .arg(config.owner.text())
        .arg(&config.hive)
        .arg(config.orphan_timeout.as_millis().to_string())
        .arg(config.grace.as_millis().to_string())
        .env_clear()
        .stdin(Stdio::from(its))
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        // What a terminal sends to the hive is not for it.
        .process_group(0)
        .spawn()?;
    let pidfd = adopt::open(child.id()).ok_or(io::ErrorKind::NotFound)?;
    info!("a guardian runs pid={}", child.id());
    Ok(Running { pidfd: Arc::new(pidfd), lifeline: File::from(ours) })
}

/// The guardian's own life.
pub fn main(args: &[OsString]) -> ExitCode {
    let Some(config) = read(args) else { return ExitCode::from(2) };
    let _ = rustix::thread::set_name(NAME);
    // The kernel sends it to one that is stopped when its hive dies, and has it go on.
    let _ = signal_hook::flag::register(signal_hook::consts::SIGHUP, Arc::default());
    let Ok(lock) = LockWatch::open(&config.data_dir) else { return ExitCode::FAILURE };
    let timeout = wait_for_the_end(config.orphan_timeout);
    let until = Instant::now() + timeout;
    let (mut look_at, mut was_empty) = (Instant::now(), false);
    loop {
        if lock.settled() != config.hive {
            return ExitCode::SUCCESS; // another hive has come, with a guardian of its own
        }
        let left = until.saturating_duration_since(Instant::now());
        // Who holds it and has not settled may still fail; and a process that the dead one was about to start has it
        // until its exec.
        if left.is_zero() && !lock.is_held() {
            break;
        }
        if look_at <= Instant::now() {
            // Twice: a process in the middle of its exec shows no mark yet.
            let is_empty = !lock.is_held() && !adopt::is_anything_left(&config.owner, &records(&config));
            if is_empty && was_empty {
                return ExitCode::SUCCESS; // its workers have died as well
            }
            (look_at, was_empty) = (Instant::now() + GUARDIAN_LOOK_FOR_WORKERS, is_empty);
        }
        std::thread::sleep(left.clamp(GUARDIAN_LOOK / 10, GUARDIAN_LOOK));
    }
    let ended = end_all(&config, &lock);
    log(&config.data_dir, &format!("no hive came within {timeout:?}: processes were ended count={ended}"));
    ExitCode::SUCCESS
}

fn read(args: &[OsString]) -> Option<Config> {
    let [data_dir, owner, hive, orphan_timeout, grace] = args else { return None };
    let ms = |text: &OsString| text.to_str()?.parse().ok().map(Duration::from_millis);
    Some(Config {
        program: PathBuf::new(),
        data_dir: data_dir.into(),
        owner: Owner::parse(owner.to_str()?)?,
        hive: hive.to_str()?.to_owned(),
        orphan_timeout: ms(orphan_timeout)?,
        grace: ms(grace)?,
    })
}

/// Waits until the hive has ended. Gives how long its workers may then live.
fn wait_for_the_end(timeout: Duration) -> Duration {
    let mut words = BufReader::new(io::stdin()).lines().map_while(Result::ok);
    if words.any(|word| word == KEEP) { timeout.max(ORPHAN_TIMEOUT_KEPT_MIN) } else { timeout }
}

/// What the hive wrote of its workers; nothing if that cannot be read: they bear their mark as well.
fn records(config: &Config) -> Vec<Record> {
    Records::of(&config.data_dir).read_all().map(|found| found.records).unwrap_or_default()
}

/// Ends what the hive left, as long as no other one has come. Gives how many processes were killed or asked to end.
fn end_all(config: &Config, lock: &LockWatch) -> usize {
    let records = records(config);
    // Also one that has gone again: what it left, its own guardian guards.
    let has_come = || lock.is_held() || lock.settled() != config.hive;
    let signal = |signal| if has_come() { 0 } else { adopt::signal_all(&config.owner, &records, signal) };
    let mut most = 0;
    if !config.grace.is_zero() {
        most = signal(Signal::TERM);
        let until = Instant::now() + config.grace;
        while Instant::now() < until && !has_come() && adopt::is_anything_left(&config.owner, &records) {
            std::thread::sleep(GUARDIAN_LOOK);
        }
    }
    for _ in 0..GUARDIAN_KILL_ROUNDS_MAX {
        most = most.max(signal(Signal::KILL));
        if lock.settled() != config.hive || !adopt::is_anything_left(&config.owner, &records) {
            break;
        }
        std::thread::sleep(GUARDIAN_LOOK / 10);
    }
    if !adopt::is_anything_left(&config.owner, &records) {
        // Asked before each: the next hive writes records under the same names.
        for record in records.iter().take_while(|_| !has_come()) {
            let _ = Records::of(&config.data_dir).remove(&record.job.id);
        }
    }
    most
}

/// Its one line, where an operator looks for those of workers.
fn log(data_dir: &Path, line: &str) {
    let file = data_dir.join("logs").join("guardian.log");
    let Ok(mut file) = OpenOptions::new().append(true).create(true).mode(0o600).open(file) else { return };
    let _ = writeln!(file, "{} {line}", rfc3339(SystemTime::now()));
}
