//! The thread `exits`: sees workers end, kills what they leave, reaps, and says when nothing is left.
//!
//! ```text
//! Watch ──► watched ──► Exited sent, group killed, leader reaped ──► dying ──► GroupDead sent
//!  Launched  │  ▲                                                    │  ▲
//!  sent      └──┘ Signal                                             └──┘ look again
//! ```
//! One thread sends all three events of a run, so that they come in this order however short its life is.
//! A leader's end is told before anything else is done, and the first look waits for a moment: who is told
//! gets the processor first, and those that end together share the look. One signal to the group reaches
//! all its members, forks under way included. What is left then are members that take their time to die,
//! and descendants that left the group: these are looked for in `/proc`, with one look for all that die at
//! the moment.
//! While nothing ends, nothing wakes the thread.

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd as _, OwnedFd};
use std::time::{Duration, Instant};

use log::{debug, error, info, warn};
use rustix::event::{PollFd, PollFlags};
use rustix::process::{Pid, WaitId, WaitIdOptions};
use signal_hook::consts::{SIGINT, SIGTERM};

use crate::devices::OomKills;
use crate::id::{Pgid, Run, WorkerId};
use crate::lifecycle::event::{Event, ExitStatus, Signal};
use crate::limits;
use crate::process::adopt::{self, has_ended};
use crate::process::guard::{Guardian, Ward};
use crate::process::launch;
use crate::process::mailbox::{Inbox, Next, mailbox};
use crate::process::procfs::{self, Process, Variable};
use crate::process::{Jobs, OWNER_VARIABLE, Owner};
use crate::sys::timespec;
use crate::thread::Joined;

/// What the thread is asked to do.
#[derive(Debug)]
pub enum Job {
    /// Watch a child that leads a group of its own; answered by [`Event::Launched`] and, later,
    /// [`Event::Exited`] and [`Event::GroupDead`]. From now on nobody else may wait for it.
    Watch {
        /// Which worker.
        id: WorkerId,
        /// Which launch.
        run: Run,
        /// Leader and group.
        pgid: Pgid,
        /// The leader.
        pidfd: OwnedFd,
        /// Where it is to listen.
        at: SocketAddr,
        /// What has it ended if the hive is killed.
        ward: Ward,
    },
    /// Watch a worker that an earlier hive has launched; answered as a child is, but for [`Event::Launched`].
    Adopt {
        /// Which worker.
        id: WorkerId,
        /// Which launch.
        run: Run,
        /// Leader and group.
        pgid: Pgid,
        /// The leader.
        pidfd: OwnedFd,
        /// When the leader was started, in clock ticks since the machine was.
        started: u64,
        /// Where it listens.
        at: SocketAddr,
        /// What has it ended if the hive is killed.
        ward: Ward,
    },
    /// The hive ends without its workers: nobody is killed, and nobody's end is waited for.
    LetGo,
    /// Signal the whole group; nothing if its leader has ended already.
    Signal {
        /// Which worker.
        id: WorkerId,
        /// Which launch.
        run: Run,
        /// Which signal.
        signal: Signal,
    },
    /// Some child of the hive has ended: reap it if it is an orphan that workers left.
    Reap,
}

/// Starts the thread. It ends when the last [`Jobs`] is dropped and the last group is dead. It keeps the guardian
/// alive.
///
/// # Errors
/// If the system has no thread or descriptor to give.
pub fn start(
    owner: Owner,
    guardian: Guardian,
    oom_kills: OomKills,
    send: impl Fn(Event) + Send + 'static,
) -> io::Result<(Joined, Jobs<Job>)> {
    let (jobs, inbox) = mailbox()?;
    let exits = Exits {
        inbox,
        closed: false,
        let_go: false,
        owner,
        guardian,
        guardian_due: None,
        oom_kills,
        send: Box::new(send),
        watched: BTreeMap::new(),
        dying: Vec::new(),
        reap: false,
    };
    Ok((Joined::spawn_vital("exits", || {}, move || exits.run())?, jobs))
}

/// A worker whose leader is not reaped: its group's number is ours. Of an adopted one, whose leader somebody else
/// reaps, it is as long as the leader lives.
struct Watched {
    id: WorkerId,
    run: Run,
    pidfd: OwnedFd,
    at: SocketAddr,
    /// When the leader of one that was adopted was started; `None`: it is a child.
    adopted: Option<u64>,
    ward: Ward,
    /// The leader has ended, but a debugger holds it back: look again then.
    held_until: Option<Instant>,
}

/// A worker whose leader is reaped, and of which something may be left.
struct Dying {
    id: WorkerId,
    run: Run,
    pgid: Pgid,
    /// As in [`Watched`].
    adopted: Option<u64>,
    /// Held until nothing is left.
    _ward: Ward,
    /// The owner mark of all its descendants.
    mark: String,
    looks: u32,
    next_look: Instant,
    wait: Duration,
    /// Descendants that were killed one by one, to be reaped if they are or become our children.
    killed: BTreeMap<u32, OwnedFd>,
}

struct Exits {
    inbox: Inbox<Job>,
    closed: bool,
    /// Workers go on without the hive.
    let_go: bool,
    owner: Owner,
    guardian: Guardian,
    /// When another guardian is to be started.
    guardian_due: Option<Instant>,
    oom_kills: OomKills,
    send: Box<dyn Fn(Event) + Send>,
    watched: BTreeMap<Pgid, Watched>,
    dying: Vec<Dying>,
    /// Some child has ended since the last look.
    reap: bool,
}

impl Exits {
    fn run(mut self) {
        loop {
            self.take_jobs();
            // The looks at the dying reap as well.
            if std::mem::take(&mut self.reap) && self.dying.is_empty() {
                reap(&orphans(&procfs::processes()));
            }
            if self.closed && (self.let_go || (self.watched.is_empty() && self.dying.is_empty())) {
                return;
            }
            let ended = self.wait();
            self.on_ended(&ended);
            self.look_at_the_dying();
            self.guardian_due = self.guardian.revive();
        }
    }

    fn take_jobs(&mut self) {
        self.inbox.silence();
        loop {
            match self.inbox.next() {
                Next::Job(Job::Watch { id, run, pgid, pidfd, at, ward }) => {
                    self.oom_kills.forget();
                    let launched = Event::Launched { id: id.clone(), run, pgid };
                    let (adopted, held_until) = (None, None);
                    self.watched.insert(pgid, Watched { id, run, pidfd, at, adopted, ward, held_until });
                    (self.send)(launched);
                }
                Next::Job(Job::Adopt { id, run, pgid, pidfd, started, at, ward }) => {
                    let (adopted, held_until) = (Some(started), None);
                    self.watched.insert(pgid, Watched { id, run, pidfd, at, adopted, ward, held_until });
                }
                Next::Job(Job::LetGo) => self.let_go = true,
                Next::Job(Job::Signal { id, run, signal }) => self.signal(&id, run, signal),
                Next::Job(Job::Reap) => self.reap = true,
                Next::Empty => return,
                Next::Closed => {
                    // Who is still watched has nobody else to end it.
                    if !self.closed && !self.let_go {
                        self.watched.iter().for_each(|(pgid, worker)| worker.signal(*pgid, Signal::Kill));
                    }
                    self.closed = true;
                    return;
                }
            }
        }
    }

    fn signal(&self, id: &WorkerId, run: Run, signal: Signal) {
        let Some((pgid, worker)) = self.watched.iter().find(|(_, w)| w.id == *id && w.run == run) else {
            return;
        };
        info!("worker signalled worker={id} run={run} signal={signal:?}");
        worker.signal(*pgid, signal);
    }

    /// Waits for jobs, ends and the next look; answers with the groups whose leader has ended.
    fn wait(&self) -> Vec<Pgid> {
        let now = Instant::now();
        let is_held = |w: &Watched| w.held_until.is_some_and(|until| until > now);
        let polled: Vec<(Pgid, &Watched)> =
            self.watched.iter().map(|(pgid, w)| (*pgid, w)).filter(|(_, w)| !is_held(w)).collect();
        let guardian = self.guardian.pidfd();
        let mut fds: Vec<PollFd<'_>> = vec![PollFd::new(&self.inbox, PollFlags::IN)];
        fds.extend(polled.iter().map(|(_, w)| PollFd::new(&w.pidfd, PollFlags::IN)));
        fds.extend(guardian.as_ref().map(|pidfd| PollFd::new(pidfd, PollFlags::IN)));
        let held = self.watched.values().filter_map(|w| w.held_until);
        let looks = self.dying.iter().map(|d| d.next_look).chain(self.guardian_due);
        let next = looks.chain(held.filter(|until| *until > now)).min();
        let timeout = next.map(|at| timespec(at.saturating_duration_since(now)));
        if rustix::event::poll(&mut fds, timeout.as_ref()).is_err() {
            return Vec::new(); // interrupted
        }
        let ready = fds[1..].iter().map(|fd| !fd.revents().is_empty());
        polled.iter().zip(ready).filter(|(_, ready)| *ready).map(|((pgid, _), _)| *pgid).collect()
    }

    fn on_ended(&mut self, ended: &[Pgid]) {
        let now = Instant::now();
        let mut told = Vec::new();
        for pgid in ended {
            let Some(worker) = self.watched.get_mut(pgid) else { continue };
            let Some((status, leader)) = worker.leader_status() else {
                worker.held_until = Some(now + limits::GROUP_LOOK_MAX);
                continue;
            };
            let Some(worker) = self.watched.get(pgid) else { continue };
            let port_lost = self.has_lost_port(*pgid, worker);
            let oom = may_be_of_oom(status) && self.oom_kills.explains_an_end();
            (self.send)(Event::Exited { id: worker.id.clone(), run: worker.run, status, port_lost, oom });
            debug!("worker exited worker={} run={} status={status:?}", worker.id, worker.run);
            told.push((*pgid, leader));
        }
        for (pgid, leader) in told {
            let Some(Watched { id, run, pidfd, adopted, ward, .. }) = self.watched.remove(&pgid) else {
                continue;
            };
            if leader == Leader::Unreaped {
                kill_group(pgid, Signal::Kill);
                // The status was there a moment ago: this does not block.
                let _ = rustix::process::waitid(WaitId::PidFd(pidfd.as_fd()), WaitIdOptions::EXITED);
            }
            let mark = self.owner.mark(&id, run);
            let wait = limits::GROUP_LOOK_FIRST;
            let (next_look, killed) = (now + wait, BTreeMap::new());
            let looks = 0;
            self.dying.push(Dying {
                id,
                run,
                pgid,
                adopted,
                _ward: ward,
                mark,
                looks,
                next_look,
                wait,
                killed,
            });
        }
    }

    /// Whether somebody listens on the worker's port who is none of its own: those that it leaves listen at times
    /// until they are killed. Hardly ever asked of `/proc`: a port that is free is lost to nobody.
    fn has_lost_port(&self, pgid: Pgid, worker: &Watched) -> bool {
        if launch::is_free(worker.at).unwrap_or(true) {
            return false;
        }
        let (sight, mark) = (Sight::now(&self.watched), self.owner.mark(&worker.id, worker.run));
        let mut own = procfs::tree(pgid, &sight.all);
        own.extend(sight.marks.iter().filter(|(_, of)| of.as_slice() == mark.as_bytes()).map(|(pid, _)| pid));
        procfs::listens(&own, worker.at.ip(), worker.at.port()) == Some(false)
    }

    /// One look at `/proc` for all whose time has come.
    fn look_at_the_dying(&mut self) {
        let now = Instant::now();
        if !self.dying.iter().any(|d| d.next_look <= now) {
            return;
        }
        let sight = Sight::now(&self.watched);
        reap(&sight.orphans);
        let send = &self.send;
        self.dying.retain_mut(|worker| {
            if worker.next_look > now {
                return true;
            }
            let left = worker.look(&sight);
            worker.next_look = now + worker.wait;
            worker.wait = (worker.wait * 2).min(limits::GROUP_LOOK_MAX);
            if !left {
                debug!("group dead worker={} run={} looks={}", worker.id, worker.run, worker.looks);
                send(Event::GroupDead { id: worker.id.clone(), run: worker.run });
            }
            left
        });
    }
}

/// What one look at `/proc` shows.
struct Sight {
    all: Vec<Process>,
    /// Our children that were others' children before.
    orphans: Vec<Process>,
    /// The owner mark of each living process that is in no watched group and has one.
    marks: BTreeMap<u32, Vec<u8>>,
    /// Living orphans that show no environment: they may be in the middle of an exec.
    unclear: bool,
}

impl Sight {
    fn now(watched: &BTreeMap<Pgid, Watched>) -> Self {
        let all = procfs::processes();
        let orphans = orphans(&all);
        let (mut marks, mut unclear) = (BTreeMap::new(), false);
        for process in all.iter().filter(|p| !p.dead && !watched.contains_key(&Pgid(p.group))) {
            match procfs::variable(process.pid, OWNER_VARIABLE) {
                Variable::Is(mark) => drop(marks.insert(process.pid, mark)),
                Variable::Unclear => unclear |= orphans.iter().any(|o| o.pid == process.pid),
                Variable::Absent => {}
            }
        }
        Self { all, orphans, marks, unclear }
    }
}

/// Our children that were others' children before.
fn orphans(all: &[Process]) -> Vec<Process> {
    let me = std::process::id();
    let own = all.iter().find(|p| p.pid == me);
    // See the invariant in the module's parent: our own children look otherwise.
    let is_orphan = |p: &&Process| {
        p.parent == me
            && own.is_some_and(|own| p.session != own.session || (p.group != own.group && p.group != p.pid))
    };
    all.iter().filter(is_orphan).copied().collect()
}

/// Reaps those that are dead.
fn reap(orphans: &[Process]) {
    for pid in orphans.iter().filter(|p| p.dead).filter_map(|p| as_pid(p.pid)) {
        // It is ours to reap, so its number cannot have become another's.
        let _ = rustix::process::waitid(WaitId::Pid(pid), WaitIdOptions::EXITED | WaitIdOptions::NOHANG);
    }
}

impl Dying {
    /// Kills and reaps what is left; false if nothing is.
    fn look(&mut self, sight: &Sight) -> bool {
        self.looks += 1;
        // The leader is reaped, or waits for somebody else to do so. Any other process with its number is a
        // stranger, and shows that the group is empty: until then the number is not given out.
        let number_is_anothers =
            sight.all.iter().any(|p| p.pid == self.pgid.0 && Some(p.started) != self.adopted);
        let group = self.pgid.0;
        let is_member = |p: &Process| p.group == group && !number_is_anothers;
        let members = !is_empty(self.pgid)
            && (sight.all.is_empty() || sight.all.iter().any(|p| is_member(p) && !p.dead));
        let mut escaped = false;
        // A child's group was killed before its leader was reaped.
        if let Some(started) = self.adopted {
            let is_left = |p: &&Process| is_member(p) && !p.dead && p.started >= started;
            sight.all.iter().filter(is_left).for_each(|process| self.kill_member(process, started));
        }
        for process in sight.all.iter().filter(|p| !is_member(p)) {
            if sight.marks.get(&process.pid).is_some_and(|mark| mark == self.mark.as_bytes()) {
                escaped = true;
                self.kill_escaped(process.pid);
            }
        }
        self.killed.retain(|_, pidfd| {
            let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG;
            // It may be another's child, which that one reaps.
            let _ = rustix::process::waitid(WaitId::PidFd(pidfd.as_fd()), options);
            !has_ended(pidfd)
        });
        // A process on its way out has lost its environment, and is not dead yet.
        escaped |= !self.killed.is_empty();
        members || escaped || (sight.unclear && self.looks < limits::ORPHAN_LOOKS_MAX)
    }

    /// Kills a process of the group that an adopted worker leaves, if it still is one.
    fn kill_member(&self, process: &Process, started: u64) {
        let Some(pidfd) = adopt::open(process.pid) else { return };
        let is_same =
            Process::of(process.pid).is_some_and(|again| again == Process { dead: again.dead, ..*process });
        let number_is_ours = Process::of(self.pgid.0).is_none_or(|leader| leader.started == started);
        if is_same && number_is_ours {
            info!("what a worker left is killed worker={} run={} pid={}", self.id, self.run, process.pid);
            adopt::send(&pidfd, process.pid, rustix::process::Signal::KILL);
        }
    }

    /// Kills a process that left the group, if it still is what it was taken for.
    fn kill_escaped(&mut self, pid: u32) {
        if self.killed.contains_key(&pid) {
            return;
        }
        let Some(pidfd) = adopt::open(pid) else { return };
        // Now the descriptor cannot come to mean another process: this proof holds.
        if procfs::variable(pid, OWNER_VARIABLE) == Variable::Is(self.mark.clone().into_bytes()) {
            info!("descendant outside the group killed worker={} run={} pid={pid}", self.id, self.run);
            adopt::send(&pidfd, pid, rustix::process::Signal::KILL);
            self.killed.insert(pid, pidfd);
        }
    }
}

/// Whether a leader that ended pins its group's number.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Leader {
    Unreaped,
    /// Somebody else reaps it: the number is not ours any more. Of a child, a mistake.
    Taken,
}

impl Watched {
    /// How the leader ended. It stays unreaped. `None` while a debugger holds it back.
    fn leader_status(&self) -> Option<(ExitStatus, Leader)> {
        if self.adopted.is_some() {
            return Some((ExitStatus::Unknown, Leader::Taken));
        }
        let options = WaitIdOptions::EXITED | WaitIdOptions::NOWAIT | WaitIdOptions::NOHANG;
        match rustix::process::waitid(WaitId::PidFd(self.pidfd.as_fd()), options) {
            Ok(status) => {
                let status = status?;
                let ended = status.exit_status().map(ExitStatus::Code);
                let ended = ended.or_else(|| status.terminating_signal().map(ExitStatus::Signal))?;
                Some((ended, Leader::Unreaped))
            }
            Err(e) => {
                error!("exit status was taken by somebody else worker={} error={e}", self.id);
                Some((ExitStatus::Signal(rustix::process::Signal::KILL.as_raw()), Leader::Taken))
            }
        }
    }

    /// Signals the whole group.
    fn signal(&self, pgid: Pgid, signal: Signal) {
        match self.adopted {
            None => kill_group(pgid, signal),
            // Its leader may be reaped by somebody else at any moment, and the number be another's then.
            Some(started) => adopt::members(pgid, started, &self.pidfd).iter().for_each(|(pid, pidfd)| {
                adopt::send(pidfd, *pid, raw(signal));
            }),
        }
    }
}

/// Whether a worker that the kernel killed for want of memory, or one of its processes, may end so.
fn may_be_of_oom(status: ExitStatus) -> bool {
    !matches!(status, ExitStatus::Code(0) | ExitStatus::Signal(SIGTERM | SIGINT))
}

/// Signals a group whose leader is unreaped.
fn kill_group(pgid: Pgid, signal: Signal) {
    let Some(group) = as_pid(pgid.0) else { return };
    if let Err(e) = rustix::process::kill_process_group(group, raw(signal)) {
        warn!("group not signalled pgid={pgid} error={e}");
    }
}

fn raw(signal: Signal) -> rustix::process::Signal {
    match signal {
        Signal::Term => rustix::process::Signal::TERM,
        Signal::Kill => rustix::process::Signal::KILL,
    }
}

/// Whether the kernel knows no process of the group, not even an unreaped one.
fn is_empty(pgid: Pgid) -> bool {
    as_pid(pgid.0)
        .is_none_or(|group| rustix::process::test_kill_process_group(group) == Err(rustix::io::Errno::SRCH))
}

fn as_pid(pid: u32) -> Option<Pid> {
    Pid::from_raw(i32::try_from(pid).ok()?)
}
