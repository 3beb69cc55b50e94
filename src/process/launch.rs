//! The thread `launch`: starts workers, and does what their logs need on disk.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs::File;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::process::CommandExt as _;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;

use crossbeam_channel::Sender;
use log::{debug, warn};
use rustix::net::{AddressFamily, SocketFlags, SocketType, sockopt};
use rustix::process::{Pid, PidfdFlags, Resource, Rlimit};

use crate::capacity::ledger::Placement;
use crate::health::{Condition, Conditions, plain};
use crate::id::{Backend, Pgid, Run, WorkerId};
use crate::kinds::CommandLine;
use crate::lifecycle::event::{Event, LaunchError, LaunchJob, Standing};
use crate::limits;
use crate::process::guard::{Guardian, Ward};
use crate::process::keep::Keeper;
use crate::process::log::{Logs, heading};
use crate::process::record::{Identity, Record, Records};
use crate::process::{Jobs, OWNER_VARIABLE, Owner, exits, reasons};
use crate::thread::Joined;

/// What the thread is asked to do.
pub use crate::lifecycle::event::DiskJob as Job;

/// What the thread needs to know.
#[derive(Debug)]
pub struct Config {
    /// The address that workers bind.
    pub host: IpAddr,
    /// Whose its workers are; the same as that of `exits`.
    pub owner: Owner,
    /// Where their logs go.
    pub logs: Arc<Logs>,
    /// What keeps the logs within their bound.
    pub keeper: Keeper,
    /// What is wrong with the hive.
    pub conditions: Conditions,
    /// Where it stands what was launched.
    pub records: Records,
    /// What ends them if the hive is killed.
    pub guardian: Guardian,
    /// How many descriptors they may have: what the hive itself was started with.
    pub descriptors: Rlimit,
}

/// Makes the command line of a launch, or says, for a person and without paths, why there is none.
pub type Render = Box<dyn Fn(&LaunchJob) -> Result<CommandLine, String> + Send>;

/// Starts the thread, with the records of workers that were `adopted`. It does what was asked before it ends, which
/// is when the last sender is dropped.
///
/// # Errors
/// If the system has no thread to give.
pub fn start(
    config: Config,
    adopted: impl IntoIterator<Item = Record>,
    render: Render,
    exits: Jobs<exits::Job>,
    send: impl Fn(Event) + Send + 'static,
) -> io::Result<(Joined, Sender<Job>)> {
    // How many jobs can wait is bounded by who asks: one of each sort for each worker.
    let (sender, jobs) = crossbeam_channel::unbounded();
    let written: BTreeMap<_, _> = adopted.into_iter().map(|record| (record.job.id.clone(), record)).collect();
    written.keys().for_each(|id| config.keeper.keep(id, config.logs.open(id).ok()));
    let mut launcher = Launcher { config, render, exits, written };
    let body = move || {
        for job in jobs {
            if let Some(event) = launcher.on(job) {
                send(event);
            }
        }
    };
    Ok((Joined::spawn_vital("launch", || {}, body)?, sender))
}

struct Launcher {
    config: Config,
    render: Render,
    exits: Jobs<exits::Job>,
    /// The records as they are, or should be, on the disk.
    written: BTreeMap<WorkerId, Record>,
}

impl Launcher {
    fn on(&mut self, job: Job) -> Option<Event> {
        match job {
            Job::Launch(job) => self.launch(&job),
            Job::ReadLogTail { id, run, status } => {
                let lines = self.tail(&id, run, limits::EXIT_LOG_LINES, limits::EXIT_LOG_BYTES_MAX);
                let more = self.tail(&id, run, limits::REASON_LOG_LINES, limits::REASON_LOG_BYTES_MAX);
                let reason = reasons::explain(&more, status);
                Some(Event::LogTail { id, run, lines, reason })
            }
            Job::Note { id, run, standing } => {
                self.note(&id, run, standing);
                None
            }
            Job::RemoveRecord { id } => {
                self.written.remove(&id);
                if let Err(e) = self.config.records.remove(&id) {
                    warn!("record cannot be removed worker={id} error={e}");
                }
                None
            }
            Job::DeleteLog { id } => {
                if let Err(e) = self.config.logs.delete(&id) {
                    warn!("log cannot be deleted worker={id} error={e}");
                }
                None
            }
        }
    }

    /// The last lines that were written in `run`.
    fn tail(&self, id: &WorkerId, run: Run, lines: usize, bytes_max: u64) -> Vec<String> {
        let mut lines = self.config.logs.tail(id, lines, bytes_max).unwrap_or_else(|e| {
            warn!("log cannot be read worker={id} error={e}");
            Vec::new()
        });
        let heading = heading(run);
        if let Some(at) = lines.iter().rposition(|line| *line == heading) {
            lines.drain(..=at);
        }
        lines
    }

    fn note(&mut self, id: &WorkerId, run: Run, standing: Standing) {
        let Some(record) = self.written.get_mut(id).filter(|record| record.job.run == run) else { return };
        record.standing = standing;
        if let Some(leader) = &record.leader
            && leader.is_there()
        {
            // A script may have become the engine that it starts.
            record.leader = Identity::of(leader.pid);
        }
        self.write(id);
    }

    /// Writes the record of a worker that runs: without it the next hive would not know all of it.
    fn write(&self, id: &WorkerId) {
        let Some(record) = self.written.get(id) else { return };
        if let Err(e) = self.config.records.write(record) {
            self.config.conditions.failed(Condition::DataDir, &e);
            debug!("record cannot be written worker={id} error={e}");
        }
    }

    /// The answer, unless it is for `exits` to give: who watches a worker says that it runs, so that the
    /// end of a short life cannot be told before its beginning.
    fn launch(&mut self, job: &LaunchJob) -> Option<Event> {
        let (id, run) = (job.id.clone(), job.run);
        match self.spawn(job) {
            Ok((pgid, pidfd, ward)) => {
                debug!("worker launched worker={id} run={run} pid={pgid} port={}", job.port);
                let at = SocketAddr::new(self.config.host, job.port);
                // While it is unreaped: until somebody watches it, nobody reaps it.
                let leader = Identity::of(pgid.0);
                // The news that it runs does not wait for the disk.
                self.exits.send(exits::Job::Watch { id: id.clone(), run, pgid, pidfd, at, ward });
                if let Some(record) = self.written.get_mut(&id) {
                    record.leader = leader;
                }
                self.write(&id);
                None
            }
            Err(error) => {
                warn!("worker not launched worker={id} run={run} error={error:?}");
                Some(Event::LaunchFailed { id, run, error })
            }
        }
    }

    fn spawn(&mut self, job: &LaunchJob) -> Result<(Pgid, OwnedFd, Ward), LaunchError> {
        let failed = |text: &str| LaunchError::Failed(text.to_owned());
        let line = (self.render)(job).map_err(LaunchError::Failed)?;
        if !is_free(SocketAddr::new(self.config.host, job.port))
            .map_err(|e| LaunchError::Failed(format!("its address cannot be bound: {}", e.kind())))?
        {
            return Err(LaunchError::PortTaken);
        }
        let log =
            self.config.logs.open_for(&job.id, job.run).and_then(|out| Ok((out.try_clone()?, out))).map_err(
                |e| {
                    self.config.conditions.failed(Condition::DataDir, &e);
                    LaunchError::Failed(format!("its log cannot be opened: {}", plain(&e)))
                },
            )?;
        self.config.keeper.keep(&job.id, log.0.try_clone().ok());
        let record = Record::new(job.clone(), self.config.host);
        self.config.records.write(&record).map_err(|e| {
            self.config.conditions.failed(Condition::DataDir, &e);
            LaunchError::Failed(format!("its record cannot be written: {}", plain(&e)))
        })?;
        self.written.insert(job.id.clone(), record);
        let ward = self.config.guardian.ward();
        let child =
            command(job, &line, &self.config.owner, log).spawn().map_err(|e| failed(&why_not_started(&e)))?;
        let pid = Pid::from_child(&child);
        // Only now, since limits are inherited and changing them in between takes a pre_exec: for its first
        // microseconds, long before its `main`, it has the hive's own.
        if let Err(e) = rustix::process::prlimit(Some(pid), Resource::Nofile, self.config.descriptors) {
            debug!("worker keeps the hive's limit of descriptors worker={} error={e}", job.id);
        }
        if let Err(e) = raise_oom_score(pid) {
            debug!("worker keeps the hive's place before the kernel's killer worker={} error={e}", job.id);
        }
        match rustix::process::pidfd_open(pid, PidfdFlags::empty()) {
            Ok(pidfd) => Ok((Pgid(child.id()), pidfd, ward)),
            Err(e) => {
                kill_unwatched(child, pid);
                Err(failed(&format!("it cannot be watched: {}", io::Error::from(e).kind())))
            }
        }
    }
}

/// The command that starts a worker: program, arguments, environment, a group of its own, and nothing to read.
/// `out` and `err` are what it writes to.
pub(crate) fn command(
    job: &LaunchJob,
    line: &CommandLine,
    owner: &Owner,
    (out, err): (File, File),
) -> Command {
    let mut command = Command::new(&line.program);
    command.args(&line.args).stdin(Stdio::null()).stdout(out).stderr(err);
    // No pre_exec anywhere: it would make std fork this process instead of using posix_spawn. Nor is
    // the environment cleared: std forks then too if the program is looked for on PATH.
    command.process_group(0);
    for (name, _) in std::env::vars_os().filter(|(name, _)| is_kept_from_workers(name)) {
        command.env_remove(name);
    }
    command.envs(visible_devices(&job.placement));
    if job.placement.backend == Backend::Cpu {
        command.env("GGML_VK_VISIBLE_DEVICES", "");
    }
    command.envs(job.plan.env.iter().map(|(name, value)| (name, value)));
    command.envs(line.env.iter().map(|(name, value)| (name, value)));
    command.env("RBEE_WORKER_TOKEN", job.token.secret());
    command.env(OWNER_VARIABLE, owner.mark(&job.id, job.run));
    command
}

/// What keeps a worker on its own devices. Numbers are those of the PCI bus, as the hive counts.
fn visible_devices(placement: &Placement) -> [(&'static str, String); 3] {
    let of = |backend: Backend| {
        let mine = placement.shares.iter().filter(|share| share.backend == backend);
        mine.map(|share| share.visible_as.as_str()).collect::<Vec<_>>().join(",")
    };
    [
        ("CUDA_DEVICE_ORDER", "PCI_BUS_ID".to_owned()),
        ("CUDA_VISIBLE_DEVICES", of(Backend::Cuda)),
        ("ROCR_VISIBLE_DEVICES", of(Backend::Rocm)),
    ]
}

/// Has the kernel, when memory runs out, kill a worker before the hive. What an operator has given both stays
/// between them and the rest of the machine.
fn raise_oom_score(pid: Pid) -> io::Result<()> {
    let path = format!("/proc/{}/oom_score_adj", pid.as_raw_nonzero());
    let inherited: i32 = std::fs::read_to_string(&path)?.trim().parse().map_err(io::Error::other)?;
    std::fs::write(path, (inherited + limits::WORKER_OOM_SCORE_RAISE).min(1000).to_string())
}

/// Ends a process that nobody would see end.
fn kill_unwatched(mut child: Child, pid: Pid) {
    // Errors say that it is dead already: it is our child, unreaped until the wait.
    let _ = rustix::process::kill_process_group(pid, rustix::process::Signal::KILL);
    let _ = child.wait();
}

/// Whether a worker could listen there. A port whose connections only linger is free. Does not block.
///
/// # Errors
/// If the address is none of this machine, or no descriptor is left.
pub fn is_free(address: SocketAddr) -> io::Result<bool> {
    let family = if address.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let socket = rustix::net::socket_with(family, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
    sockopt::set_socket_reuseaddr(&socket, true)?;
    match rustix::net::bind(&socket, &address) {
        Err(rustix::io::Errno::ADDRINUSE) => Ok(false),
        bound => Ok(bound.map(|()| true)?),
    }
}

/// Whether a variable of the hive's own environment is none of its workers' business: secrets, what
/// systemd tells the hive, and what would change a worker behind its arguments.
pub(super) fn is_kept_from_workers(name: &OsStr) -> bool {
    const PREFIXES: [&[u8]; 4] = [b"RBEE_", b"LLAMA_ARG_", b"WATCHDOG_", b"LISTEN_"];
    const NAMES: [&[u8]; 3] = [b"HF_TOKEN", b"HUGGING_FACE_HUB_TOKEN", b"NOTIFY_SOCKET"];
    let name = name.as_bytes();
    PREFIXES.iter().any(|prefix| name.starts_with(prefix))
        || NAMES.contains(&name)
        || name.ends_with(b"_VISIBLE_DEVICES")
}

/// For a person, without paths.
fn why_not_started(error: &io::Error) -> String {
    let why = match error.kind() {
        io::ErrorKind::NotFound => "the program was not found",
        io::ErrorKind::PermissionDenied => "the program may not be executed",
        io::ErrorKind::ArgumentListTooLong => "its arguments and environment are too long",
        io::ErrorKind::ExecutableFileBusy => "the program is being written",
        io::ErrorKind::InvalidInput => "an argument or variable holds a zero byte",
        _ if error.raw_os_error() == Some(rustix::io::Errno::NOEXEC.raw_os_error()) => {
            "the program is not one for this machine"
        }
        kind => return format!("the program was not started: {kind}"),
    };
    why.to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_is_taken_only_while_somebody_listens() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        assert!(!is_free(address).unwrap());
        let client = std::net::TcpStream::connect(address).unwrap();
        drop(listener.accept().unwrap()); // the side that closes first lingers
        drop((client, listener));
        assert!(is_free(address).unwrap());
        let everywhere = std::net::TcpListener::bind("0.0.0.0:0").unwrap();
        assert!(!is_free(SocketAddr::new(address.ip(), everywhere.local_addr().unwrap().port())).unwrap());
        assert!(is_free("192.0.2.1:1".parse().unwrap()).is_err());
    }

    #[test]
    fn secrets_and_what_is_meant_for_the_hive_stay_in_the_hive() {
        let kept = ["RBEE_HIVE_TOKEN", "HF_TOKEN", "LISTEN_FDS", "NOTIFY_SOCKET", "CUDA_VISIBLE_DEVICES"];
        assert!(kept.iter().all(|name| is_kept_from_workers(OsStr::new(name))));
        let given = ["PATH", "HF_HOME", "LD_LIBRARY_PATH", "LANG", "HF_TOKEN_PATH"];
        assert!(!given.iter().any(|name| is_kept_from_workers(OsStr::new(name))));
    }
}
