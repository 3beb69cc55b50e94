//! The thread `worker-io`: short exchanges with workers, any number at once, and looks at their trees.
//!
//! Each exchange has a connection, a deadline and a bound of its own, and nothing here blocks: a worker
//! that is deaf, slow or endless delays no other.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use log::warn;
use rustix::buffer::spare_capacity;
use rustix::event::epoll;
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketFlags, SocketType, sockopt};

use crate::id::{Pgid, Run, WorkerId};
use crate::kinds::{Busy, Protocol};
use crate::lifecycle::event::{Event, ProbeJob, Probed, Usage};
use crate::limits;
use crate::process::exchange::{Garbage, Reply, ReplyReader};
use crate::process::log::Logs;
use crate::process::mailbox::{Inbox, Next, mailbox};
use crate::process::procfs::{self, Process};
use crate::process::{Jobs, busy, exchange};
use crate::sys::timespec;
use crate::thread::Joined;

/// What the thread is asked to do.
pub use crate::lifecycle::event::WorkerJob as Job;

/// What the thread needs to know.
#[derive(Debug)]
pub struct Config {
    /// The address that workers bind.
    pub host: IpAddr,
    /// Where their logs are.
    pub logs: Arc<Logs>,
}

/// Starts the thread. It ends when the last [`Jobs`] is dropped; exchanges under way are not answered then.
///
/// # Errors
/// If the system has no thread or descriptor to give.
pub fn start(config: Config, send: impl Fn(Event) + Send + 'static) -> io::Result<(Joined, Jobs<Job>)> {
    let (jobs, inbox) = mailbox()?;
    let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
    epoll::add(&epoll, &inbox, epoll::EventData::new_u64(INBOX), epoll::EventFlags::IN)?;
    let io = WorkerIo {
        config,
        inbox,
        epoll,
        send: Box::new(send),
        next: INBOX + 1,
        exchanges: BTreeMap::new(),
        deadlines: BTreeSet::new(),
    };
    Ok((Joined::spawn_vital("worker-io", || {}, move || io.run())?, jobs))
}

/// The number under which the inbox is waited for; exchanges have greater ones, and never one twice.
const INBOX: u64 = 0;
/// Ends of exchanges taken from the kernel at once.
const EVENTS_MAX: usize = 64;
/// Bytes of an answer read at once.
const READ_BYTES: usize = 16 * 1024;

/// What an exchange is for.
enum Purpose {
    Probe(ProbeJob),
    Count(ProbeJob),
    AskToExit { id: WorkerId, run: Run },
}

/// Why an exchange brought no answer.
enum Failure {
    /// Nobody listens.
    Refused,
    /// It was cut, too late, too long, or no HTTP.
    Other,
}

impl From<Errno> for Failure {
    fn from(e: Errno) -> Self {
        if e == Errno::CONNREFUSED { Self::Refused } else { Self::Other }
    }
}

impl From<Garbage> for Failure {
    fn from(_: Garbage) -> Self {
        Self::Other
    }
}

struct Exchange {
    purpose: Purpose,
    deadline: Instant,
    socket: OwnedFd,
    /// What is still to be sent, from `sent` on.
    question: Vec<u8>,
    sent: usize,
    reader: ReplyReader,
}

struct WorkerIo {
    config: Config,
    inbox: Inbox<Job>,
    epoll: OwnedFd,
    send: Box<dyn Fn(Event) + Send>,
    next: u64,
    exchanges: BTreeMap<u64, Exchange>,
    deadlines: BTreeSet<(Instant, u64)>,
}

impl WorkerIo {
    fn run(mut self) {
        let mut events = Vec::with_capacity(EVENTS_MAX);
        loop {
            let now = Instant::now();
            let timeout = self.deadlines.first().map(|(at, _)| timespec(at.saturating_duration_since(now)));
            events.clear();
            // An error is an interruption: nothing is ready then.
            let _ = epoll::wait(&self.epoll, spare_capacity(&mut events), timeout.as_ref());
            for event in &events {
                match event.data.u64() {
                    INBOX if !self.take_jobs() => return,
                    INBOX => {}
                    key => self.advance(key),
                }
            }
            self.give_up_the_late();
        }
    }

    /// Takes all jobs; false if there will be no other.
    fn take_jobs(&mut self) -> bool {
        self.inbox.silence();
        let mut measures = Vec::new();
        loop {
            match self.inbox.next() {
                Next::Job(Job::Probe(job)) => self.probe(job),
                Next::Job(Job::Count(job)) => self.count(job),
                Next::Job(Job::AskToExit { id, run, port, token }) => {
                    let to = SocketAddr::new(self.config.host, port);
                    let question = exchange::post(to, "/v1/shutdown", &token);
                    self.begin(Purpose::AskToExit { id, run }, to, question, limits::EXCHANGE_TIMEOUT, false);
                }
                Next::Job(Job::Measure { id, run, pgid }) => measures.push((id, run, pgid)),
                Next::Empty => break,
                Next::Closed => return false,
            }
        }
        if !measures.is_empty() {
            let all = procfs::processes();
            for (id, run, pgid) in measures {
                let usage = self.usage(&id, pgid, &all);
                (self.send)(Event::Measured { id, run, usage });
            }
        }
        true
    }

    fn usage(&self, id: &WorkerId, pgid: Pgid, all: &[Process]) -> Usage {
        let tree = procfs::tree(pgid, all);
        Usage {
            rss_bytes: tree.iter().filter_map(|pid| procfs::resident_bytes(*pid)).sum(),
            read_bytes: tree.iter().filter_map(|pid| procfs::read_bytes(*pid)).sum(),
            log_bytes: self.config.logs.bytes(id),
        }
    }

    fn probe(&mut self, job: ProbeJob) {
        let to = SocketAddr::new(self.config.host, job.port);
        let (path, timeout) = match &job.kind.protocol {
            Protocol::Native => ("/health", limits::EXCHANGE_TIMEOUT),
            Protocol::Probe(probe) => (probe.path.as_str(), probe.timeout),
        };
        let question = exchange::get(to, path);
        self.begin(Purpose::Probe(job), to, question, timeout, false);
    }

    fn count(&mut self, job: ProbeJob) {
        let to = SocketAddr::new(self.config.host, job.port);
        let Some((Busy::Count { path, .. } | Busy::Sum { path, .. }, timeout)) = busy_question(&job) else {
            return (self.send)(Event::Counted { id: job.id, run: job.run, running: None });
        };
        let question = exchange::get(to, path);
        self.begin(Purpose::Count(job), to, question, timeout, true);
    }

    fn begin(&mut self, purpose: Purpose, to: SocketAddr, question: Vec<u8>, timeout: Duration, body: bool) {
        let deadline = Instant::now() + timeout;
        let key = self.next;
        match connect(&self.epoll, key, to) {
            Ok(socket) => {
                self.next += 1;
                let reader = ReplyReader::new(body);
                self.deadlines.insert((deadline, key));
                self.exchanges.insert(key, Exchange { purpose, deadline, socket, question, sent: 0, reader });
            }
            Err(e) => {
                if e != Errno::CONNREFUSED {
                    warn!("worker cannot be asked port={} error={e}", to.port());
                }
                self.conclude(purpose, Err(e.into()));
            }
        }
    }

    /// The exchange's socket is ready for its next step.
    fn advance(&mut self, key: u64) {
        let Some(exchange) = self.exchanges.get_mut(&key) else { return };
        let result = match exchange.step(&self.epoll, key) {
            Ok(None) => return,
            Ok(Some(reply)) => Ok(reply),
            Err(failure) => Err(failure),
        };
        self.end(key, result);
    }

    fn give_up_the_late(&mut self) {
        let now = Instant::now();
        while let Some((deadline, key)) = self.deadlines.first().copied()
            && deadline <= now
        {
            self.advance(key); // whoever stood still himself finds the answer there
            self.end(key, Err(Failure::Other));
        }
    }

    fn end(&mut self, key: u64, result: Result<Reply, Failure>) {
        // Closing the socket takes it out of the epoll: nobody else has it.
        let Some(exchange) = self.exchanges.remove(&key) else { return };
        self.deadlines.remove(&(exchange.deadline, key));
        self.conclude(exchange.purpose, result);
    }

    /// Says what an exchange has brought.
    fn conclude(&self, purpose: Purpose, result: Result<Reply, Failure>) {
        (self.send)(match purpose {
            Purpose::Probe(job) => {
                let probed = match result {
                    Ok(Reply { status: 200, .. }) if self.is_foreign(&job) => Probed::Foreign,
                    Ok(Reply { status: 200, .. }) => Probed::Ready,
                    Ok(Reply { status: 503, .. }) | Err(Failure::Refused) => Probed::Loading,
                    Ok(_) | Err(Failure::Other) => Probed::NotReady,
                };
                Event::Probed { id: job.id, run: job.run, probed }
            }
            Purpose::Count(job) => {
                let reply = result.ok().filter(|reply| reply.status == 200);
                let running = reply.and_then(|reply| busy::running(busy_question(&job)?.0, &reply.body));
                Event::Counted { id: job.id, run: job.run, running }
            }
            Purpose::AskToExit { id, run } => {
                let accepted = result.is_ok_and(|reply| (200..300).contains(&reply.status));
                Event::AskedToExit { id, run, accepted }
            }
        });
    }

    /// Whether it can be seen that somebody else than the worker listens on its port.
    fn is_foreign(&self, job: &ProbeJob) -> bool {
        job.check_owner && {
            let tree = procfs::tree(job.pgid, &procfs::processes());
            procfs::listens(&tree, self.config.host, job.port) == Some(false)
        }
    }
}

/// How a worker is asked how busy it is, and how long that may take.
fn busy_question(job: &ProbeJob) -> Option<(&Busy, Duration)> {
    match &job.kind.protocol {
        Protocol::Native => None,
        Protocol::Probe(probe) => probe.busy.as_ref().map(|busy| (busy, probe.timeout)),
    }
}

/// Begins to connect; the epoll tells when it is done, under `key`.
fn connect(epoll: &OwnedFd, key: u64, to: SocketAddr) -> Result<OwnedFd, Errno> {
    let family = if to.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = rustix::net::socket_with(family, SocketType::STREAM, flags, None)?;
    match rustix::net::connect(&socket, &to) {
        Ok(()) | Err(Errno::INPROGRESS) => {}
        Err(e) => return Err(e),
    }
    epoll::add(epoll, &socket, epoll::EventData::new_u64(key), epoll::EventFlags::OUT)?;
    Ok(socket)
}

impl Exchange {
    /// Sends, then reads, as far as that goes without waiting.
    fn step(&mut self, epoll: &OwnedFd, key: u64) -> Result<Option<Reply>, Failure> {
        if self.sent < self.question.len() {
            sockopt::socket_error(&self.socket)??;
            match rustix::net::send(
                &self.socket,
                &self.question[self.sent..],
                rustix::net::SendFlags::NOSIGNAL,
            ) {
                Err(Errno::AGAIN | Errno::INTR) => {}
                sent => self.sent += sent?,
            }
            if self.sent == self.question.len() {
                epoll::modify(epoll, &self.socket, epoll::EventData::new_u64(key), epoll::EventFlags::IN)?;
            }
            return Ok(None);
        }
        let mut block = [0; READ_BYTES];
        match rustix::io::read(&self.socket, &mut block) {
            Err(Errno::AGAIN | Errno::INTR) => Ok(None),
            Ok(0) => Ok(Some(self.reader.on_end()?)),
            read => Ok(self.reader.on_bytes(&block[..read?])?),
        }
    }
}
