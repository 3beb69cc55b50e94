//! A hive, and around it all that it deals with: workers, a queen, a hub, clients.

use std::collections::BTreeSet;
use std::io::Write as _;
use std::net::TcpStream;
use std::time::Duration;

use rbee_hive::mock::hub::Hub;
use rustix::process::{Pid, Resource, Rlimit, prlimit};
use serde_json::{Value, json};

use crate::action::{Action, Manner, Mood, Upgrade};
use crate::checks::{self, essence, guardian, marked, settles, strangers};
use crate::court::Court;
use crate::figures::Figures;
use crate::random::Random;
use crate::setting;
use crate::support::{Builder, Hive, PATIENCE, Ports, is_alive, kill, port_range};

/// Connections that are held at once; an older one is closed for a further one.
const CLIENTS_MAX: usize = 40;
/// Sockets of an idle hive that come and go: the relay's, and that of whoever looks.
const SOCKETS_SPARE: usize = 3;
/// Refusals that a client must expect of a hive that does what it should.
const REFUSALS: [&str; 6] =
    ["SHUTTING_DOWN", "DRAINING", "NO_FREE_PORT", "OVERLOADED", "UPSTREAM", "INSUFFICIENT_DISK"];

/// A hive and its surroundings, told of by seed, actions and logs if a check fails.
pub struct World {
    /// Always there but while it is replaced.
    hive: Option<Hive>,
    options: Vec<(&'static str, String)>,
    queen: Court,
    own_port: u16,
    /// Those of queen and hive.
    _ports: Ports,
    hub: Hub,
    clients: Vec<TcpStream>,
    /// The usual limit, while descriptors are scarce.
    scarce: Option<Rlimit>,
    /// Those that were begun in this run.
    downloads: Vec<String>,
    /// Workers without a fault that nobody has signalled.
    loyal: BTreeSet<String>,
    /// Guardians that got a signal: one that is stopped goes on when all is calm.
    guardians: Vec<u32>,
    /// An idle hive's.
    idle: Figures,
    story: Vec<String>,
    pub actions: u64,
    pub adoptions: usize,
    pub starts: u64,
}

impl World {
    pub fn start(seed: u64) -> Self {
        let ports = port_range(2);
        let (queen_port, own_port) = (ports.first(), ports.first() + 1);
        let hub = setting::hub();
        let mut world = Self {
            hive: None,
            options: setting::options(seed, own_port),
            queen: Court::new(queen_port),
            own_port,
            _ports: ports,
            hub,
            clients: Vec::new(),
            scarce: None,
            downloads: Vec::new(),
            loyal: BTreeSet::new(),
            guardians: Vec::new(),
            idle: Figures::default(),
            story: Vec::new(),
            actions: 0,
            adoptions: 0,
            starts: 1,
        };
        world.queen.set(Mood::Well);
        world.hive = Some(world.builder().start());
        world.hive().get("/v1/devices");
        world.queen_knows_the_truth();
        // A thread that has just begun is called as the one that has made it.
        settles("each thread has its name", || {
            world.idle = world.figures();
            let unnamed = world.idle.threads.get("rbee-hive").copied().unwrap_or(0);
            (unnamed != 1).then(|| format!("{:?}", world.idle))
        });
        world
    }

    pub fn figures(&self) -> Figures {
        Figures::of(self.hive().pid())
    }

    fn hive(&self) -> &Hive {
        self.hive.as_ref().expect("it is there but while it is replaced")
    }

    fn builder(&self) -> Builder {
        let builder = Hive::builder()
            .kind(setting::script())
            .ports(12)
            .arg("--queen-url", self.queen.url())
            .env("HF_ENDPOINT", self.hub.url())
            .env("HF_HUB_OFFLINE", "0")
            .env("HF_HUB_DOWNLOAD_TIMEOUT", "1")
            .env("RUST_LOG", "rbee_hive=debug");
        self.options.iter().fold(builder, |builder, (name, value)| builder.arg(name, value))
    }

    /// A run: so many actions of a seed, and what must hold when they are over.
    pub fn play(&mut self, seed: u64, actions: u64, mortal: bool) {
        self.story.push(format!("seed {seed} mortal {mortal} options {:?}", self.options));
        self.downloads.clear();
        let mut random = Random::new(seed);
        for _ in 0..actions {
            let action = Action::draw(&mut random, mortal);
            self.story.push(format!("{action:?}"));
            self.actions += 1;
            self.act(action);
        }
        self.calm();
        if !mortal || seed.is_multiple_of(2) {
            self.idle(random.chance(50));
        }
    }

    fn act(&mut self, action: Action) {
        match action {
            Action::Spawn { kind, faults, from_hub } => self.spawn(kind, &faults, from_hub),
            Action::Stop { nth, force } => {
                if let Some(id) = pick(&self.workers(), nth).and_then(|worker| worker["worker_id"].as_str()) {
                    self.loyal.remove(id);
                    self.ask("DELETE", &format!("/v1/workers/{id}?force={force}"), None);
                }
            }
            Action::SignalWorker { nth, signal } => self.signal_worker(nth, signal),
            Action::SignalGuardian { signal } => {
                if let Some(pid) = guardian(self.hive().folder.path()) {
                    kill(pid, signal);
                    self.guardians.push(pid);
                }
            }
            Action::KillHive { pause_ms } => {
                let before = self.adoptable();
                self.hive_mut().kill();
                let before = before.into_iter().filter(|worker| is_alive(pid(worker)));
                let before: Vec<Value> = before.collect();
                wait_ms(pause_ms);
                self.replace(&before);
            }
            Action::EndHive => {
                self.end();
                self.replace(&[]);
            }
            Action::Upgrade { by } => {
                let before = self.adoptable();
                let keep = json!({"workers": "keep"});
                let asked =
                    matches!(by, Upgrade::Request) && self.ask("POST", "/v1/shutdown", Some(&keep)).is_some();
                if !asked {
                    self.hive().signal(12);
                }
                assert_eq!(self.hive_mut().wait_exit().code(), Some(0));
                self.replace(&before);
            }
            Action::Pause { ms, kill } => {
                self.hive().signal(19);
                if kill {
                    self.signal_worker(ms, 9);
                }
                wait_ms(ms);
                self.hive().signal(18);
            }
            Action::Reload => self.hive().signal(1),
            Action::Drain(drain) => {
                self.ask("POST", "/v1/drain", Some(&json!({ "drain": drain })));
            }
            Action::Queen(mood) => self.queen.set(mood),
            Action::Hub(Some(rule)) => self.hub.add_rule(rule.parse().unwrap()),
            Action::Hub(None) => self.hub.heal(),
            Action::Download { repository } => {
                let model = json!({"model_ref": format!("hf:org/m{repository}")});
                if let Some((202, answer)) = self.ask("POST", "/v1/models/download", Some(&model)) {
                    self.downloads.push(answer["download_id"].as_str().unwrap().to_owned());
                }
            }
            Action::CancelDownload { nth } => {
                if let Some(id) = pick(&self.downloads, nth) {
                    self.ask("DELETE", &format!("/v1/models/download?id={id}"), None);
                }
            }
            Action::DeleteModel { repository } => {
                self.ask("DELETE", &format!("/v1/models?ref=hf:org/m{repository}"), None);
            }
            Action::Descriptors(spare) => self.descriptors(spare),
            Action::Client(manner) => self.client(manner),
            Action::Hangup => self.clients.clear(),
            Action::Read(path) => drop(self.ask("GET", path, None)),
            Action::Wait { ms } => wait_ms(ms),
        }
    }

    fn spawn(&mut self, kind: &str, faults: &str, from_hub: bool) {
        let model = if from_hub { "hf:org/m1".to_owned() } else { self.hive().model_ref() };
        let body = json!({"model_ref": model, "kind": kind, "env": {"MOCK_FAULTS": faults}});
        let Some((202, worker)) = self.ask("POST", "/v1/workers/spawn", Some(&body)) else { return };
        if faults.is_empty() {
            self.loyal.insert(worker["worker_id"].as_str().unwrap().to_owned());
        }
    }

    fn signal_worker(&mut self, nth: u64, signal: i32) {
        let marked: Vec<_> = marked(self.hive().folder.path()).into_iter().collect();
        if let Some((pid, (id, _))) = pick(&marked, nth) {
            self.loyal.remove(id);
            kill(*pid, signal);
        }
    }

    /// The status and body of an answer; none where none can be expected.
    fn ask(&self, method: &str, path: &str, body: Option<&Value>) -> Option<(u16, Value)> {
        let patience = if self.scarce.is_some() { Duration::from_secs(1) } else { PATIENCE };
        let config = ureq::Agent::config_builder().http_status_as_error(false).timeout_global(Some(patience));
        // No connection is kept: who looks is not to be seen.
        let agent = config.max_idle_connections(0).build().new_agent();
        let url = format!("{}{path}", self.hive().url);
        let request = ureq::http::Request::builder().method(method).uri(url);
        let text = body.map(Value::to_string);
        let answer = match text {
            Some(text) => agent.run(request.body(text).unwrap()),
            None => agent.run(request.body(()).unwrap()),
        };
        let read = |mut answer: ureq::http::Response<ureq::Body>| {
            Ok((answer.status().as_u16(), answer.body_mut().read_to_string()?))
        };
        let (status, text) = match answer.and_then(read) {
            Ok(answer) => answer,
            Err(error) if self.scarce.is_some() => {
                drop(error);
                return None;
            }
            Err(error) => panic!("{method} {path}: {error}"),
        };
        let value: Value = serde_json::from_str(&text).unwrap_or_default();
        let is_refusal = path == "/ready" || REFUSALS.iter().any(|code| value["error"]["code"] == *code);
        assert!(status < 500 || is_refusal || self.scarce.is_some(), "{method} {path}: {status} {text}");
        Some((status, value))
    }

    fn workers(&self) -> Vec<Value> {
        let answer = self.ask("GET", "/v1/workers/list", None);
        answer.and_then(|(_, list)| list["workers"].as_array().cloned()).unwrap_or_default()
    }

    /// Workers that the next hive must take over as they are.
    fn adoptable(&self) -> Vec<Value> {
        let is =
            |name: &str, value: &str| self.options.iter().any(|option| *option == (name, value.to_owned()));
        if is("--orphans", "kill") || !is("--idle-timeout", "0s") {
            return Vec::new();
        }
        let mut workers = self.workers();
        let is_loyal = |worker: &Value| self.loyal.contains(worker["worker_id"].as_str().unwrap());
        workers.retain(|worker| worker["state"] == "ready" && is_loyal(worker));
        workers
    }

    fn hive_mut(&mut self) -> &mut Hive {
        self.hive.as_mut().expect("it is there but while it is replaced")
    }

    /// Starts the next hive in the place of one that has ended; it has all of these workers.
    fn replace(&mut self, before: &[Value]) {
        let ended = self.hive.take().expect("it is there but while it is replaced");
        self.keep_log(&ended);
        self.scarce = None;
        self.starts += 1;
        self.hive = Some(ended.restart(self.builder()));
        let workers = self.hive().workers();
        self.adoptions += workers.len();
        for worker in before {
            let again = workers.iter().find(|again| again["worker_id"] == worker["worker_id"]);
            let same = |field: &str| again.is_some_and(|again| again[field] == worker[field]);
            assert!(same("pid") && same("restart_count") && same("url"), "{worker} became {again:?}");
        }
        self.no_strangers();
    }

    fn keep_log(&mut self, hive: &Hive) {
        let log = hive.log();
        checks::log_is_clean(&log);
        self.story.push(format!("---- the log of the hive until then\n{log}----"));
    }

    fn descriptors(&mut self, spare: Option<u64>) {
        let pid = Pid::from_raw(i32::try_from(self.hive().pid()).unwrap());
        let set = |limit| prlimit(pid, Resource::Nofile, limit).unwrap();
        if let Some(usual) = self.scarce.take() {
            set(usual);
        }
        if let Some(spare) = spare {
            // The limit is one on their numbers.
            let fds = std::fs::read_dir(format!("/proc/{}/fd", self.hive().pid())).unwrap().flatten();
            let last = fds.filter_map(|fd| fd.file_name().to_str()?.parse::<u64>().ok()).max().unwrap_or(0);
            let maximum = std::fs::read_to_string(format!("/proc/{}/limits", self.hive().pid())).unwrap();
            let maximum = maximum.lines().find(|line| line.starts_with("Max open files")).unwrap();
            let maximum = maximum.split_whitespace().nth(4).unwrap().parse().ok();
            self.scarce = Some(set(Rlimit { current: Some(last + 1 + spare), maximum }));
        }
    }

    fn client(&mut self, manner: Manner) {
        let Ok(mut stream) = TcpStream::connect(self.hive().address) else { return };
        stream.set_nonblocking(true).unwrap();
        let id = self.workers().first().and_then(|worker| Some(worker["worker_id"].as_str()?.to_owned()));
        let text = manner.text(&id.unwrap_or("w-0".to_owned()));
        // As much as the kernel takes.
        let _ = stream.write(text.as_bytes());
        if self.clients.len() == CLIENTS_MAX {
            self.clients.remove(0);
        }
        self.clients.push(stream);
    }

    /// All that disturbs ends: what must hold then, whatever happened.
    fn calm(&mut self) {
        self.story.push("calm".to_owned());
        self.clients.clear();
        self.let_guardians_go_on();
        self.descriptors(None);
        self.hub.heal();
        self.ask("POST", "/v1/drain", Some(&json!({"drain": false})));
        self.queen.set(Mood::Well);
        self.no_strangers();
        self.queen_knows_the_truth();
        checks::log_is_clean(&self.hive().log());
    }

    fn let_guardians_go_on(&mut self) {
        self.guardians.drain(..).for_each(|pid| kill(pid, 18));
    }

    fn no_strangers(&self) {
        settles("list and processes", || strangers(self.hive(), &self.hive().workers()));
    }

    fn queen_knows_the_truth(&self) {
        settles("the queen's picture", || {
            let list = essence(&self.hive().workers().into());
            let known = self.queen.known();
            (known.as_ref() != Some(&list)).then(|| format!("{known:#?}, and the list {list:#?}"))
        });
    }

    /// All workers are stopped: the hive takes no more than one that has just started.
    fn idle(&mut self, force: bool) {
        self.story.push(format!("all workers are stopped force {force}"));
        settles("the list is empty", || {
            let workers = self.workers();
            for worker in workers.iter().filter(|worker| force || worker["state"] != "stopping") {
                let id = worker["worker_id"].as_str().unwrap();
                self.ask("DELETE", &format!("/v1/workers/{id}?force={force}"), None);
            }
            (!workers.is_empty()).then(|| format!("{workers:?}"))
        });
        settles("an idle hive", || {
            let more = self.figures().more_than(&self.idle, SOCKETS_SPARE);
            (!more.is_empty()).then(|| format!("{more:?}"))
        });
        // That of a hive before it looks from time to time whether there is another one.
        settles("no guardian without workers", || {
            guardian(self.hive().folder.path()).map(|pid| pid.to_string())
        });
    }

    /// SIGTERM, and what must hold then.
    pub fn end(&mut self) {
        self.let_guardians_go_on();
        self.hive().signal(15);
        assert_eq!(self.hive_mut().wait_exit().code(), Some(0), "the exit code");
        checks::nothing_is_left(self.hive());
        checks::log_is_clean(&self.hive().log());
        checks::cache_is_sound(&self.hive().models);
    }

    /// SIGTERM, what must hold then, and another hive for another seed.
    pub fn end_and_restart(&mut self, seed: u64) {
        self.end();
        self.options = setting::options(seed, self.own_port);
        self.replace(&[]);
        self.story.clear();
    }
}

impl Drop for World {
    fn drop(&mut self) {
        if std::thread::panicking() && !self.story.is_empty() {
            let log = self.hive.as_ref().map(Hive::log).unwrap_or_default();
            eprintln!("{}\n---- the log of the last hive\n{log}----", self.story.join("\n"));
        }
    }
}

fn pick<T>(all: &[T], nth: u64) -> Option<&T> {
    let count = all.len().max(1) as u64;
    all.get(usize::try_from(nth % count).unwrap())
}

fn pid(worker: &Value) -> u32 {
    worker["pid"].as_u64().and_then(|pid| pid.try_into().ok()).expect("it has a process")
}

fn wait_ms(ms: u64) {
    std::thread::sleep(Duration::from_millis(ms));
}
