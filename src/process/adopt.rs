//! Workers that an earlier hive left: which processes they are, and which are to go.
//!
//! A process is ours if its environment bears our mark, or, where it has overwritten its environment, if it is the
//! leader that a record names: by number, start, boot and program. All others are left alone, whatever they look
//! like. What is signalled is proven again after the descriptor was opened through which it is signalled: from then
//! on its number cannot come to mean another process.

use std::collections::BTreeSet;
use std::io;
use std::os::fd::OwnedFd;
use std::time::Duration;

use log::{info, warn};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

use crate::config::Orphans;
use crate::health::{Condition, Conditions};
use crate::id::{Pgid, Run, WorkerId};
use crate::limits::{ADOPT_LOOK_WAIT, ADOPT_LOOKS_MAX, GUARDIAN_KILL_ROUNDS_MAX};
use crate::process::procfs::{self, Process, Variable};
use crate::process::record::{Found, Record, RecordError, Records};
use crate::process::{OWNER_VARIABLE, Owner};

/// A worker that lives and has no hive.
#[derive(Debug)]
pub struct Orphan {
    /// What is known of it.
    pub record: Record,
    /// Leader and group.
    pub pgid: Pgid,
    /// When the leader was started, in clock ticks since the machine was.
    pub started: u64,
    /// The leader.
    pub pidfd: OwnedFd,
    /// How long it runs.
    pub age: Duration,
}

/// Finds the workers that an earlier hive left, and puts in order what is left beside them: strays are killed, and
/// records of the dead removed. With [`Orphans::Kill`] all are killed.
///
/// # Errors
/// If the records cannot be read, or a later version wrote one: it knows of workers what this one does not.
pub fn take_over(
    records: &Records,
    owner: &Owner,
    orphans: Orphans,
    conditions: &Conditions,
) -> io::Result<Vec<Orphan>> {
    let Found { records: all, broken } = records.read_all()?;
    for (path, error) in broken {
        if let RecordError::Newer(_) = error {
            return Err(io::Error::other(format!("{}: {error}", path.display())));
        }
        // Out of the way, and there for who looks at it.
        let aside = path.with_extension("json.broken");
        warn!("a record of a worker is set aside; what it was is killed file={aside:?} error={error}");
        std::fs::rename(&path, aside)?;
        conditions.set(Condition::RecordsSetAside, "");
    }
    if orphans == Orphans::Kill {
        // Waits for who is in the middle of its exec.
        look(owner, &all);
        let mut rounds = 0;
        while signal_all(owner, &all, Signal::KILL) > 0 && rounds < GUARDIAN_KILL_ROUNDS_MAX {
            rounds += 1;
            std::thread::sleep(ADOPT_LOOK_WAIT);
        }
    }
    let Left { orphans, dead, strays } = look(owner, &all);
    for id in dead {
        info!("a worker of an earlier hive has ended worker={id}");
        records.remove(&id)?;
    }
    kill_strays(owner, &strays);
    Ok(orphans)
}

/// What an earlier hive left.
#[derive(Debug, Default)]
pub struct Left {
    /// Workers that can be taken over.
    pub orphans: Vec<Orphan>,
    /// Records of workers that do not live any more.
    pub dead: Vec<WorkerId>,
    /// Processes that are ours and belong to no worker that lives.
    pub strays: Vec<u32>,
}

/// A process that bears our mark.
struct Marked {
    process: Process,
    id: WorkerId,
    run: Run,
}

/// Looks for what the hive left that wrote these records.
pub fn look(owner: &Owner, records: &[Record]) -> Left {
    let mut looks = 1;
    loop {
        let left = look_once(owner, records);
        // A process in the middle of its exec shows no mark yet.
        let is_missing =
            |id: &&WorkerId| records.iter().any(|record| record.job.id == **id && record.leader.is_none());
        if looks >= ADOPT_LOOKS_MAX || !left.dead.iter().any(|id| is_missing(&id)) {
            return left;
        }
        looks += 1;
        std::thread::sleep(ADOPT_LOOK_WAIT);
    }
}

fn look_once(owner: &Owner, records: &[Record]) -> Left {
    let all = procfs::processes();
    let marked = marked(owner, &all);
    let mut left = Left::default();
    for record in records {
        match orphan(record, &marked, owner) {
            Some(orphan) => left.orphans.push(orphan),
            None => left.dead.push(record.job.id.clone()),
        }
    }
    let kept: BTreeSet<(&WorkerId, Run)> =
        left.orphans.iter().map(|orphan| (&orphan.record.job.id, orphan.record.job.run)).collect();
    left.strays = marked.iter().filter(|m| !kept.contains(&(&m.id, m.run))).map(|m| m.process.pid).collect();
    left
}

fn marked(owner: &Owner, all: &[Process]) -> Vec<Marked> {
    let mark = |process: &Process| match procfs::variable(process.pid, OWNER_VARIABLE) {
        Variable::Is(mark) => owner.read_mark(&mark).map(|(id, run)| Marked { process: *process, id, run }),
        Variable::Absent | Variable::Unclear => None,
    };
    all.iter().filter(|process| !process.dead).filter_map(mark).collect()
}

/// The worker of a record, if its leader lives.
fn orphan(record: &Record, marked: &[Marked], owner: &Owner) -> Option<Orphan> {
    let (id, run) = (&record.job.id, record.job.run);
    let by_mark = || {
        let leads = |m: &&Marked| m.id == *id && m.run == run && m.process.pid == m.process.group;
        marked.iter().find(leads).map(|m| m.process.pid)
    };
    let pid = match &record.leader {
        Some(leader) => leader.pid,
        None => by_mark()?,
    };
    let pidfd = open(pid)?;
    let process = Process::of(pid).filter(|process| !process.dead && process.group == pid)?;
    if let Some(leader) = &record.leader
        && !(leader.started == process.started && leader.is_there())
    {
        return None;
    }
    let is_ours = match procfs::variable(pid, OWNER_VARIABLE) {
        Variable::Is(mark) => mark == owner.mark(id, run).as_bytes(),
        Variable::Absent | Variable::Unclear => {
            record.leader.as_ref().is_some_and(|leader| leader.runs_the_same())
        }
    };
    is_ours.then(|| Orphan {
        record: record.clone(),
        pgid: Pgid(pid),
        started: process.started,
        pidfd,
        age: process.age(),
    })
}

/// Signals all that is ours, once. Gives how many processes that were.
pub fn signal_all(owner: &Owner, records: &[Record], signal: Signal) -> usize {
    let left = look_once(owner, records);
    let mut count = 0;
    let mut seen = BTreeSet::new();
    for orphan in &left.orphans {
        for member in members(orphan.pgid, orphan.started, &orphan.pidfd) {
            seen.insert(member.0);
            count += usize::from(send(&member.1, member.0, signal));
        }
    }
    let others = marked(owner, &procfs::processes());
    for process in others.iter().map(|m| m.process.pid).filter(|pid| !seen.contains(pid)) {
        count += usize::from(kill_marked(owner, process, signal));
    }
    count
}

/// Whether something that is ours lives.
pub fn is_anything_left(owner: &Owner, records: &[Record]) -> bool {
    let left = look_once(owner, records);
    !left.orphans.is_empty() || !left.strays.is_empty()
}

/// Kills what belongs to no worker that lives.
pub fn kill_strays(owner: &Owner, strays: &[u32]) {
    for pid in strays {
        if kill_marked(owner, *pid, Signal::KILL) {
            info!("a process that an earlier hive left is killed pid={pid}");
        }
    }
}

fn kill_marked(owner: &Owner, pid: u32, signal: Signal) -> bool {
    let Some(pidfd) = open(pid) else { return false };
    let is_ours = matches!(
        procfs::variable(pid, OWNER_VARIABLE),
        Variable::Is(mark) if owner.read_mark(&mark).is_some()
    );
    is_ours && send(&pidfd, pid, signal)
}

/// The living members of the group whose leader is behind `leader`, each behind a descriptor; none if the leader has
/// ended: its number may then be another's.
pub(super) fn members(pgid: Pgid, started: u64, leader: &OwnedFd) -> Vec<(u32, OwnedFd)> {
    let in_group = |process: &Process| process.group == pgid.0 && !process.dead && process.started >= started;
    let all = procfs::processes();
    let candidates = all.iter().filter(|process| in_group(process));
    let opened: Vec<_> = candidates
        .filter_map(|process| {
            let pidfd = open(process.pid)?;
            let again = Process::of(process.pid)?;
            (again.started == process.started && in_group(&again)).then_some((process.pid, pidfd))
        })
        .collect();
    // Asked last: as long as the leader lived, the group's number was its own.
    if has_ended(leader) { Vec::new() } else { opened }
}

pub(super) fn open(pid: u32) -> Option<OwnedFd> {
    let pid = Pid::from_raw(i32::try_from(pid).ok()?)?;
    pidfd_open(pid, PidfdFlags::empty()).ok()
}

/// Whether it was there to be signalled.
pub(super) fn send(pidfd: &OwnedFd, pid: u32, signal: Signal) -> bool {
    match pidfd_send_signal(pidfd, signal) {
        Ok(()) => true,
        Err(rustix::io::Errno::SRCH) => false,
        Err(error) => {
            warn!("a process cannot be signalled pid={pid} error={error}");
            false
        }
    }
}

/// Whether the process of a descriptor is dead. The descriptor cannot come to mean another one, as a number can.
pub(super) fn has_ended(pidfd: &OwnedFd) -> bool {
    use rustix::event::{PollFd, PollFlags, Timespec, poll};
    let mut fds = [PollFd::new(pidfd, PollFlags::IN)];
    poll(&mut fds, Some(&Timespec { tv_sec: 0, tv_nsec: 0 })).is_ok_and(|ready| ready > 0)
}
