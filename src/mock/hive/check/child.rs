//! The worker under check: started as a hive starts it, watched, and never left behind.

use std::fs::File;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::FileExt as _;
use std::process::{Child, ExitStatus};
use std::sync::Arc;
use std::time::Instant;

use crossbeam_channel::Sender;
use rustix::event::{PollFd, PollFlags};
use rustix::fs::MemfdFlags;
use rustix::process::{Pid, PidfdFlags, Signal};

use crate::capacity::ledger::{Placement, Share};
use crate::id::{Pgid, Run, SystemEntropy, Token, WorkerId};
use crate::kinds::{CommandLine, Values, find_program};
use crate::lifecycle::event::{LaunchJob, Plan};
use crate::limits;
use crate::process::procfs::{self, Variable};
use crate::process::{OWNER_VARIABLE, Owner, launch};
use crate::sys::timespec;
use crate::thread::Joined;

use super::Options;
use super::ear::News;
use super::judge::Started;

/// A running worker. Dropping it kills what is left of it.
pub(super) struct Worker {
    child: Child,
    pub(super) pid: Pid,
    pidfd: Arc<OwnedFd>,
    mark: String,
    pub(super) run: u32,
    pub(super) token: Token,
    pub(super) addr: SocketAddr,
    pub(super) started: Started,
    pub(super) since: Instant,
    /// What it writes; kept in memory.
    log: File,
    buried: bool,
    /// Ends when the process does.
    _watch: Joined,
}

/// The worker's name: a hive keeps it from one launch to the next.
const WORKER_ID: &str = "w-check";

impl Worker {
    /// Starts the program for the `run`th time. Its end is told to `news`.
    ///
    /// # Errors
    /// Why it did not start, for a person.
    pub(super) fn start(
        options: &Options,
        run: u32,
        port: u16,
        hive_url: &str,
        news: Sender<News>,
    ) -> Result<Self, String> {
        let system = |e: io::Error| format!("the system does not let it start: {e}");
        let id: WorkerId = WORKER_ID.parse().map_err(|_| "no name for it")?;
        let mut entropy = SystemEntropy::new();
        let token = Token::random(&mut entropy);
        let owner = Owner::random(&mut entropy);
        let addr = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        let placement = Placement {
            backend: options.backend,
            shares: vec![Share {
                device: options.device,
                visible_as: options.visible_as(),
                backend: options.backend,
                total_bytes: 0,
                bytes: 0,
            }],
            host_bytes: 0,
        };
        let started = Started {
            worker_id: id.to_string(),
            url: format!("http://{addr}"),
            model_ref: options.model_ref.clone(),
            backend: options.backend.to_string(),
            device: placement.device(),
        };
        let values = Values {
            worker_id: &id,
            model_path: &options.model,
            model_ref: &options.model_ref,
            placement: &placement,
            host: &addr.ip().to_string(),
            port,
            hive_url,
            ctx: options.ctx,
            parallel: options.parallel,
            extra_args: &[],
        };
        let line = options.kind.command(&values);
        let program =
            find_program(&options.kind).ok_or("the program was not found, or may not be executed")?;
        let plan = Plan {
            kind: Arc::clone(&options.kind),
            model_ref: options.model_ref.clone(),
            model_path: options.model.clone(),
            ctx: options.ctx,
            parallel: options.parallel,
            port_hint: None,
            env: Vec::new(),
            extra_args: Vec::new(),
            pinned: false,
            key: None,
        };
        let job = LaunchJob {
            id: id.clone(),
            run: Run(run),
            plan: Arc::new(plan),
            placement: Arc::new(placement),
            port,
            token: token.clone(),
            restarts: 0,
            port_moves: 0,
        };
        let log = File::from(
            rustix::fs::memfd_create("worker.log", MemfdFlags::CLOEXEC).map_err(|e| system(e.into()))?,
        );
        let out = log.try_clone().and_then(|out| Ok((out, log.try_clone()?))).map_err(system)?;
        let since = Instant::now();
        let mut child = launch::command(&job, &CommandLine { program, ..line }, &owner, out)
            .spawn()
            .map_err(|e| format!("the program was not started: {e}"))?;
        let pid = Pid::from_child(&child);
        let watched = rustix::process::pidfd_open(pid, PidfdFlags::empty())
            .map_err(io::Error::from)
            .map(Arc::new)
            .and_then(|pidfd| Ok((Arc::clone(&pidfd), watch(pidfd, run, news)?)));
        let (pidfd, watch) = watched.map_err(|e| {
            // Errors say that it is dead already.
            let _ = rustix::process::kill_process_group(pid, Signal::KILL);
            let _ = child.wait();
            system(e)
        })?;
        let mark = owner.mark(&id, Run(run));
        Ok(Self {
            child,
            pid,
            pidfd,
            mark,
            run,
            token,
            addr,
            started,
            since,
            log,
            buried: false,
            _watch: watch,
        })
    }

    /// Waits for one who connects to `listener`, but not beyond the worker's end, nor beyond `deadline`.
    pub(super) fn awaits_connection(&self, listener: &impl AsFd, deadline: Instant) -> bool {
        let mut fds = [PollFd::new(listener, PollFlags::IN), PollFd::new(&self.pidfd, PollFlags::IN)];
        let left = timespec(deadline.saturating_duration_since(Instant::now()));
        rustix::event::poll(&mut fds, Some(&left)).is_ok() && !fds[0].revents().is_empty()
    }

    /// Sends SIGTERM to its group, as a hive does.
    pub(super) fn terminate(&self) {
        // An error says that it has left, which is what is asked for.
        let _ = rustix::process::kill_process_group(self.pid, Signal::TERM);
    }

    /// Once it has left: those of its children that did not end within [`limits::CHECK_CHILDREN_WAIT`], by
    /// number and name. They are killed, and the worker is reaped.
    pub(super) fn bury(&mut self) -> (Option<ExitStatus>, Vec<String>) {
        let deadline = Instant::now() + limits::CHECK_CHILDREN_WAIT;
        let left: Vec<(u32, OwnedFd)> =
            self.family().into_iter().filter(|(_, pidfd)| !has_ended(pidfd, deadline)).collect();
        let names = left.iter().map(|(pid, _)| {
            let name = std::fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
            format!("{pid} ({:?})", name.trim_end())
        });
        let names = names.collect();
        (self.kill(), names)
    }

    /// Living processes of its group, and those that carry its mark, by descriptors that cannot come to mean
    /// others.
    fn family(&self) -> Vec<(u32, OwnedFd)> {
        let group = Pgid(self.child.id());
        let is_marked =
            |pid| procfs::variable(pid, OWNER_VARIABLE) == Variable::Is(self.mark.clone().into_bytes());
        let all = procfs::processes();
        let tree = procfs::tree(group, &all);
        all.iter()
            .filter(|p| !p.dead && p.pid != group.0 && (tree.contains(&p.pid) || is_marked(p.pid)))
            .filter_map(|p| {
                let pid = Pid::from_raw(i32::try_from(p.pid).ok()?)?;
                Some((p.pid, rustix::process::pidfd_open(pid, PidfdFlags::empty()).ok()?))
            })
            .collect()
    }

    /// Kills all that is left, and reaps the worker: then nothing of it holds a port any more.
    fn kill(&mut self) -> Option<ExitStatus> {
        if std::mem::replace(&mut self.buried, true) {
            return None;
        }
        let mut family = self.family();
        // Errors say that they are dead. The leader is unreaped until the wait: the group's number is its own.
        let _ = rustix::process::kill_process_group(self.pid, Signal::KILL);
        // Again, for those that came meanwhile.
        family.extend(self.family());
        for (_, pidfd) in &family {
            let _ = rustix::process::pidfd_send_signal(pidfd, Signal::KILL);
        }
        let deadline = Instant::now() + limits::CHECK_KILL_WAIT;
        for (_, pidfd) in &family {
            has_ended(pidfd, deadline);
        }
        self.child.wait().ok()
    }

    /// Whether its token stands in what it wrote.
    pub(super) fn wrote_its_token(&self) -> bool {
        let secret = self.token.secret().as_bytes();
        let (mut block, mut at, mut seen) = (vec![0; limits::CHECK_BLOCK_BYTES], 0, Vec::new());
        while let Ok(count @ 1..) = self.log.read_at(&mut block, at) {
            at += count as u64;
            seen.extend_from_slice(&block[..count]);
            if seen.windows(secret.len()).any(|window| window == secret) {
                return true;
            }
            seen.drain(..seen.len().saturating_sub(secret.len()));
        }
        false
    }

    /// The last lines that it wrote.
    pub(super) fn last_lines(&self) -> Vec<String> {
        let length = self.log.metadata().map_or(0, |meta| meta.len());
        let mut end = vec![0; limits::CHECK_BLOCK_BYTES];
        let from = length.saturating_sub(limits::EXIT_LOG_BYTES_MAX);
        let count = self.log.read_at(&mut end, from).unwrap_or(0);
        let text = String::from_utf8_lossy(&end[..count]);
        let lines: Vec<String> = text.lines().map(|line| line.escape_debug().to_string()).collect();
        lines[lines.len().saturating_sub(limits::CHECK_SHOWN_MAX)..].to_vec()
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Tells when the process has ended; it stays unreaped.
fn watch(pidfd: Arc<OwnedFd>, run: u32, news: Sender<News>) -> io::Result<Joined> {
    Joined::spawn(
        "watch",
        || {},
        move || {
            let mut fds = [PollFd::new(&pidfd, PollFlags::IN)];
            while rustix::event::poll(&mut fds, None).is_err() {} // interrupted
            // Nobody listens any more: then it is no news.
            let _ = news.send(News::Exited(run));
        },
    )
}

fn has_ended(pidfd: &OwnedFd, deadline: Instant) -> bool {
    let left = timespec(deadline.saturating_duration_since(Instant::now()));
    rustix::event::poll(&mut [PollFd::new(pidfd, PollFlags::IN)], Some(&left)).is_ok_and(|ready| ready > 0)
}
