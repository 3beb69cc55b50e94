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
use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::process::{Pid, PidfdFlags, WaitId, WaitIdOptions};

use crate::id::{Pgid, Run, WorkerId};
use crate::lifecycle::event::{Event, ExitStatus, Signal};
use crate::limits;
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
    },
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

/// Starts the thread. It ends when the last [`Jobs`] is dropped and the last group is dead.
///
/// # Errors
/// If the system has no thread or descriptor to give.
pub fn start(owner: Owner, send: impl Fn(Event) + Send + 'static) -> io::Result<(Joined, Jobs<Job>)> {
    let (jobs, inbox) = mailbox()?;
    let send = Box::new(send);
    let exits =
        Exits { inbox, closed: false, owner, send, watched: BTreeMap::new(), dying: Vec::new(), reap: false };
    Ok((Joined::spawn_vital("exits", || {}, move || exits.run())?, jobs))
}

/// A worker whose leader is not reaped: its group's number is ours.
struct Watched {
    id: WorkerId,
    run: Run,
    pidfd: OwnedFd,
    at: SocketAddr,
    /// The leader has ended, but a debugger holds it back: look again then.
    held_until: Option<Instant>,
}

/// A worker whose leader is reaped, and of which something may be left.
struct Dying {
    id: WorkerId,
    run: Run,
    pgid: Pgid,
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
    owner: Owner,
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
            if self.closed && self.watched.is_empty() && self.dying.is_empty() {
                return;
            }
            let ended = self.wait();
            self.on_ended(&ended);
            self.look_at_the_dying();
        }
    }

    fn take_jobs(&mut self) {
        self.inbox.silence();
        loop {
            match self.inbox.next() {
                Next::Job(Job::Watch { id, run, pgid, pidfd, at }) => {
                    let launched = Event::Launched { id: id.clone(), run, pgid };
                    self.watched.insert(pgid, Watched { id, run, pidfd, at, held_until: None });
                    (self.send)(launched);
                }
                Next::Job(Job::Signal { id, run, signal }) => self.signal(&id, run, signal),
                Next::Job(Job::Reap) => self.reap = true,
                Next::Empty => return,
                Next::Closed => {
                    // Who is still watched has nobody else to end it.
                    if !self.closed {
                        self.watched.keys().for_each(|pgid| kill_group(*pgid, Signal::Kill));
                    }
                    self.closed = true;
                    return;
                }
            }
        }
    }

    fn signal(&self, id: &WorkerId, run: Run, signal: Signal) {
        let Some(pgid) =
            self.watched.iter().find(|(_, w)| w.id == *id && w.run == run).map(|(pgid, _)| *pgid)
        else {
            return;
        };
        info!("worker signalled worker={id} run={run} signal={signal:?}");
        kill_group(pgid, signal);
    }

    /// Waits for jobs, ends and the next look; answers with the groups whose leader has ended.
    fn wait(&self) -> Vec<Pgid> {
        let now = Instant::now();
        let is_held = |w: &Watched| w.held_until.is_some_and(|until| until > now);
        let polled: Vec<(Pgid, &Watched)> =
            self.watched.iter().map(|(pgid, w)| (*pgid, w)).filter(|(_, w)| !is_held(w)).collect();
        let mut fds: Vec<PollFd<'_>> = vec![PollFd::new(&self.inbox, PollFlags::IN)];
        fds.extend(polled.iter().map(|(_, w)| PollFd::new(&w.pidfd, PollFlags::IN)));
        let held = self.watched.values().filter_map(|w| w.held_until);
        let next = self.dying.iter().map(|d| d.next_look).chain(held.filter(|until| *until > now)).min();
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
            let Some((status, leader)) = leader_status(worker) else {
                worker.held_until = Some(now + limits::GROUP_LOOK_MAX);
                continue;
            };
            let Some(worker) = self.watched.get(pgid) else { continue };
            let port_lost = self.has_lost_port(*pgid, worker);
            (self.send)(Event::Exited { id: worker.id.clone(), run: worker.run, status, port_lost });
            debug!("worker exited worker={} run={} status={status:?}", worker.id, worker.run);
            told.push((*pgid, leader));
        }
        for (pgid, leader) in told {
            let Some(Watched { id, run, pidfd, .. }) = self.watched.remove(&pgid) else { continue };
            if leader == Leader::Unreaped {
                kill_group(pgid, Signal::Kill);
                // The status was there a moment ago: this does not block.
                let _ = rustix::process::waitid(WaitId::PidFd(pidfd.as_fd()), WaitIdOptions::EXITED);
            }
            let mark = self.owner.mark(&id, run);
            let wait = limits::GROUP_LOOK_FIRST;
            let (next_look, killed) = (now + wait, BTreeMap::new());
            self.dying.push(Dying { id, run, pgid, mark, looks: 0, next_look, wait, killed });
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
        // The leader is reaped. A process with its number is a stranger, and shows that the group is empty:
        // until then the number is not given out.
        let number_is_anothers = sight.all.iter().any(|p| p.pid == self.pgid.0);
        let group = self.pgid.0;
        let is_member = |p: &Process| p.group == group && !number_is_anothers;
        let members = !is_empty(self.pgid)
            && (sight.all.is_empty() || sight.all.iter().any(|p| is_member(p) && !p.dead));
        let mut escaped = false;
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

    /// Kills a process that left the group, if it still is what it was taken for.
    fn kill_escaped(&mut self, pid: u32) {
        if self.killed.contains_key(&pid) {
            return;
        }
        let Some(pidfd) =
            as_pid(pid).and_then(|pid| rustix::process::pidfd_open(pid, PidfdFlags::empty()).ok())
        else {
            return;
        };
        // Now the descriptor cannot come to mean another process: this proof holds.
        if procfs::variable(pid, OWNER_VARIABLE) == Variable::Is(self.mark.clone().into_bytes()) {
            info!("descendant outside the group killed worker={} run={} pid={pid}", self.id, self.run);
            if let Err(e) = rustix::process::pidfd_send_signal(&pidfd, rustix::process::Signal::KILL) {
                debug!("descendant was gone worker={} pid={pid} error={e}", self.id);
            }
            self.killed.insert(pid, pidfd);
        }
    }
}

/// Whether a leader that ended pins its group's number.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Leader {
    Unreaped,
    /// Somebody else has reaped it: a mistake, and the number is not ours any more.
    Taken,
}

/// Whether the process of a descriptor is dead. The descriptor cannot come to mean another one, as a number
/// can.
fn has_ended(pidfd: &OwnedFd) -> bool {
    let mut fds = [PollFd::new(pidfd, PollFlags::IN)];
    rustix::event::poll(&mut fds, Some(&Timespec { tv_sec: 0, tv_nsec: 0 })).is_ok_and(|ready| ready > 0)
}

/// How a leader ended. It stays unreaped. `None` while a debugger holds it back.
fn leader_status(worker: &Watched) -> Option<(ExitStatus, Leader)> {
    let options = WaitIdOptions::EXITED | WaitIdOptions::NOWAIT | WaitIdOptions::NOHANG;
    match rustix::process::waitid(WaitId::PidFd(worker.pidfd.as_fd()), options) {
        Ok(status) => {
            let status = status?;
            let ended = status.exit_status().map(ExitStatus::Code);
            let ended = ended.or_else(|| status.terminating_signal().map(ExitStatus::Signal))?;
            Some((ended, Leader::Unreaped))
        }
        Err(e) => {
            error!("exit status was taken by somebody else worker={} error={e}", worker.id);
            Some((ExitStatus::Signal(rustix::process::Signal::KILL.as_raw()), Leader::Taken))
        }
    }
}

/// Signals a group whose leader is unreaped.
fn kill_group(pgid: Pgid, signal: Signal) {
    let Some(group) = as_pid(pgid.0) else { return };
    let signal = match signal {
        Signal::Term => rustix::process::Signal::TERM,
        Signal::Kill => rustix::process::Signal::KILL,
    };
    if let Err(e) = rustix::process::kill_process_group(group, signal) {
        warn!("group not signalled pgid={pgid} error={e}");
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
