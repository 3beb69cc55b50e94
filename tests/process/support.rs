//! A hive without its head: the threads that touch processes, and the events that they send.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender};
use rbee_hive::capacity::ledger::{Placement, Share};
use rbee_hive::devices::OomKills;
use rbee_hive::health::Conditions;
use rbee_hive::http::{Pull, Source as _};
use rbee_hive::id::{Backend, Device, Pgid, Run, SystemEntropy, Token, WorkerId};
use rbee_hive::kinds::{CommandLine, Kind, Protocol};
use rbee_hive::lifecycle::event::{Event, ExitStatus, LaunchJob, Plan, Signal};
use rbee_hive::process::follow::{self, Followers, Following};
use rbee_hive::process::guard::{self, Guardian};
use rbee_hive::process::keep::{self, Keeper};
use rbee_hive::process::launch::{self, Job};
use rbee_hive::process::log::Logs;
use rbee_hive::process::record::Records;
use rbee_hive::process::{Jobs, Owner, exits};
use rbee_hive::sys;
use rbee_hive::thread::Joined;
use tempfile::TempDir;

/// Against hanging; nothing is expected to take so long.
pub const PATIENCE: Duration = Duration::from_secs(60);

pub fn id(name: &str) -> WorkerId {
    name.parse().unwrap()
}

pub fn kind(protocol: Protocol) -> Arc<Kind> {
    Arc::new(Kind {
        name: "test".into(),
        protocol,
        program: PathBuf::from("sh"),
        backends: vec![Backend::Cpu],
        args: Vec::new(),
        env: BTreeMap::new(),
        env_allow: Vec::new(),
        args_allow: Vec::new(),
        version_args: Vec::new(),
        install: None,
    })
}

/// Launches whatever a test says. Fields drop, hence threads join, in this order.
pub struct Hive {
    pub launch: Option<Sender<Job>>,
    pub exits: Option<Jobs<exits::Job>>,
    pub followers: Option<Followers>,
    pub keeper: Option<Keeper>,
    pub events: Receiver<Event>,
    pub logs: Arc<Logs>,
    _threads: [Joined; 4],
    _dir: TempDir,
}

impl Hive {
    pub fn new() -> Self {
        sys::become_subreaper().unwrap();
        let dir = tempfile::tempdir().unwrap();
        let logs = Arc::new(Logs::new(dir.path().join("logs")));
        let owner = Owner::random(&mut SystemEntropy::new());
        let (to_us, events) = crossbeam_channel::unbounded();
        let send = |to: Sender<Event>| move |event| to.send(event).unwrap_or(());
        let guardian = Guardian::new(guard::Config {
            program: env!("CARGO_BIN_EXE_rbee-hive").into(),
            data_dir: dir.path().to_owned(),
            owner: owner.clone(),
            hive: String::new(),
            orphan_timeout: Duration::from_secs(600),
            grace: Duration::ZERO,
        });
        let oom_kills = OomKills::new("/proc".as_ref(), "/sys".as_ref());
        let (watching, exits) =
            exits::start(owner.clone(), guardian.clone(), oom_kills, send(to_us.clone())).unwrap();
        let descriptors = rustix::process::getrlimit(rustix::process::Resource::Nofile);
        let host = "127.0.0.1".parse().unwrap();
        let conditions = Conditions::new().unwrap();
        let (keeping, keeper) =
            keep::start(Arc::clone(&logs), dir.path().to_path_buf(), conditions.clone()).unwrap();
        let config = launch::Config {
            host,
            owner,
            logs: Arc::clone(&logs),
            keeper: keeper.clone(),
            conditions,
            records: Records::of(dir.path()),
            guardian,
            descriptors,
        };
        let (launching, launch) =
            launch::start(config, [], Box::new(render), exits.clone(), send(to_us)).unwrap();
        let (following, followers) = follow::start(Arc::clone(&logs)).unwrap();
        Self {
            launch: Some(launch),
            exits: Some(exits),
            followers: Some(followers),
            events,
            logs,
            keeper: Some(keeper),
            _threads: [launching, watching, following, keeping],
            _dir: dir,
        }
    }

    pub fn ask(&self, job: Job) {
        self.launch.as_ref().unwrap().send(job).unwrap();
    }

    pub fn launch(&self, name: &str, port: u16, command: &[&str]) {
        self.ask(Job::Launch(job(name, port, command)));
    }

    /// Runs a script as the worker `w`.
    pub fn script(&self, script: &str) -> Pgid {
        self.launch("w", 0, &["sh", "-c", script]);
        match self.next() {
            Event::Launched { pgid, .. } => pgid,
            other => panic!("not launched: {other:?}"),
        }
    }

    pub fn signal(&self, signal: Signal) {
        self.exits.as_ref().unwrap().send(exits::Job::Signal { id: id("w"), run: Run(1), signal });
    }

    pub fn next(&self) -> Event {
        self.events.recv_timeout(PATIENCE).unwrap()
    }

    /// The worker `w` ends like this, and then nothing of it is left.
    pub fn expect_end(&self, status: ExitStatus) {
        assert_eq!(
            self.next(),
            Event::Exited { id: id("w"), run: Run(1), status, port_lost: false, oom: false }
        );
        assert_eq!(self.next(), Event::GroupDead { id: id("w"), run: Run(1) });
    }

    pub fn follow(&self, name: &str, lines: usize) -> Reader {
        let (wake, woken) = crossbeam_channel::unbounded();
        let wake = Box::new(move || wake.send(()).unwrap_or(()));
        let stream = self.followers.as_ref().unwrap().follow(id(name), lines, None, wake).unwrap();
        Reader { stream, woken, text: Vec::new() }
    }

    /// Waits until the log of `w` has a line that begins so, and gives the rest of it.
    pub fn log_line(&self, start: &str) -> String {
        let mut reader = self.follow("w", 1000);
        reader.until(&format!("data: {start}"));
        reader.text().split(&format!("data: {start}")).nth(1).unwrap().trim_end().to_owned()
    }
}

impl Drop for Hive {
    fn drop(&mut self) {
        (self.launch, self.exits, self.followers, self.keeper) = (None, None, None, None);
    }
}

fn render(job: &LaunchJob) -> Result<CommandLine, String> {
    let mut words = job.plan.extra_args.iter().map(OsString::from);
    let program = words.next().ok_or("no program")?.into();
    Ok(CommandLine { program, args: words.collect(), env: vec![("FROM_KIND".into(), "kind".into())] })
}

pub fn job(name: &str, port: u16, command: &[&str]) -> LaunchJob {
    let plan = Plan {
        kind: kind(Protocol::Native),
        model_ref: "hf:org/tiny".into(),
        model_path: PathBuf::new(),
        ctx: 1,
        parallel: 1,
        port_hint: None,
        env: vec![("FROM_PLAN".into(), "plan".into()), ("FROM_KIND".into(), "plan".into())],
        extra_args: command.iter().map(|&word| word.to_owned()).collect(),
        pinned: false,
        key: None,
    };
    let share = Share {
        device: Device::Cpu,
        visible_as: String::new(),
        backend: Backend::Cpu,
        total_bytes: 0,
        bytes: 0,
    };
    LaunchJob {
        id: id(name),
        run: Run(1),
        plan: Arc::new(plan),
        placement: Arc::new(Placement { backend: Backend::Cpu, shares: vec![share], host_bytes: 0 }),
        port,
        token: Token::parse("secret").unwrap(),
        restarts: 0,
        port_moves: 0,
    }
}

/// Reads a stream as the event loop does.
pub struct Reader {
    pub stream: Following,
    woken: Receiver<()>,
    text: Vec<u8>,
}

impl Reader {
    /// What came, without the ids.
    pub fn text(&self) -> String {
        let text = String::from_utf8(self.text.clone()).unwrap();
        text.split_inclusive('\n').filter(|line| !line.starts_with("id: ")).collect()
    }

    fn read_while(&mut self, goes_on: impl Fn(&str) -> bool) -> bool {
        let deadline = Instant::now() + PATIENCE;
        loop {
            match self.stream.pull(&mut self.text, 1000) {
                Pull::More => {}
                Pull::End => return true,
                Pull::Wait if !goes_on(&self.text()) => return false,
                Pull::Wait => self.woken.recv_deadline(deadline).unwrap(),
            }
        }
    }

    /// Reads until there is an event that begins so.
    pub fn until(&mut self, start: &str) {
        let ended =
            self.read_while(|text| !text.split_once(start).is_some_and(|(_, rest)| rest.contains("\n\n")));
        assert!(!ended, "ended without {start}: {}", self.text());
    }

    /// Reads to the end.
    pub fn rest(mut self) -> String {
        assert!(self.read_while(|_| true));
        self.text()
    }
}
