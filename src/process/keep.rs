//! The thread `log-keep`: keeps logs within their bound, and looks whether the disk is well.
//!
//! ```text
//!  still ── inotify tells of a write ──▶ growing ── every LOG_LOOK: longer than the bound? moved aside, or cut
//!    ▲                                     │
//!    └──── no longer than a look before ───┘
//! ```
//! A worker writes its log itself, and only the kernel knows when it does. A watch tells of one write and is gone;
//! then the length is looked at until it stays. So a worker that writes wakes this thread as often as it is looked
//! at, however often it writes, and one that is silent does not wake it at all.
//!
//! A log's file is kept open: one whose folder was moved or removed still has its bound.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use log::{debug, warn};
use rustix::event::{PollFd, PollFlags};
use rustix::fs::inotify::{self, ReadFlags, WatchFlags};

use crate::health::{Condition, Conditions};
use crate::id::WorkerId;
use crate::limits;
use crate::process::Jobs;
use crate::process::disk::DataDir;
use crate::process::log::{Logs, is_at};
use crate::process::mailbox::{Inbox, Next, mailbox};
use crate::sys::timespec;
use crate::thread::Joined;

/// The way to the thread, which ends when the last clone is dropped.
#[derive(Debug, Clone)]
pub struct Keeper {
    jobs: Jobs<Job>,
    began: Instant,
    /// When the disk may be looked at again for who asks, in milliseconds since `began`.
    look_at_ms: Arc<AtomicU64>,
}

#[derive(Debug)]
enum Job {
    Keep(WorkerId, Option<File>),
    Ended(WorkerId),
    Look,
}

impl Keeper {
    /// A worker has been given its log: keeps it within its bound from now on. Again for each run. Without `log`,
    /// which must be open for writing, it is looked for in its place.
    pub fn keep(&self, id: &WorkerId, log: Option<File>) {
        self.jobs.send(Job::Keep(id.clone(), log));
    }

    /// Nobody writes the log any more.
    pub fn ended(&self, id: &WorkerId) {
        self.jobs.send(Job::Ended(id.clone()));
    }

    /// Somebody asks how the hive is: has the disk looked at for the next who asks. Waits for nothing; a hive that
    /// nobody asks looks at no disk.
    pub fn asked(&self) {
        let now = u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX);
        let next = now.saturating_add(limits::DISK_LOOK.as_millis() as u64);
        let due = self.look_at_ms.load(Ordering::Relaxed);
        let swap = || self.look_at_ms.compare_exchange(due, next, Ordering::Relaxed, Ordering::Relaxed);
        if due <= now && swap().is_ok() {
            self.jobs.send(Job::Look);
        }
    }
}

/// Starts the thread.
///
/// # Errors
/// If the system has no thread or descriptor to give.
pub fn start(logs: Arc<Logs>, data_dir: PathBuf, conditions: Conditions) -> io::Result<(Joined, Keeper)> {
    let (jobs, inbox) = mailbox()?;
    let inotify = inotify::init(inotify::CreateFlags::CLOEXEC | inotify::CreateFlags::NONBLOCK)?;
    let data_dir = DataDir::new(data_dir, conditions.clone());
    let thread = Thread {
        logs,
        data_dir,
        conditions,
        inbox,
        inotify,
        kept: BTreeMap::new(),
        watches: BTreeMap::new(),
        look_at_disk: true,
    };
    let joined = Joined::spawn_vital("log-keep", || {}, move || thread.run())?;
    Ok((joined, Keeper { jobs, began: Instant::now(), look_at_ms: Arc::default() }))
}

struct Thread {
    logs: Arc<Logs>,
    data_dir: DataDir,
    conditions: Conditions,
    inbox: Inbox<Job>,
    inotify: OwnedFd,
    kept: BTreeMap<WorkerId, Kept>,
    watches: BTreeMap<i32, WorkerId>,
    look_at_disk: bool,
}

/// A log that somebody writes.
struct Kept {
    /// Not there while there is no descriptor to be had.
    file: Option<File>,
    /// Its length at the last look.
    bytes: u64,
    shortened_at: Option<Instant>,
    /// Neither moved aside nor cut before then.
    shorten_from: Option<Instant>,
    /// `None`: a watch tells.
    next_look: Option<Instant>,
}

impl Thread {
    fn run(mut self) {
        loop {
            self.conditions.silence();
            if !self.take_jobs() {
                return;
            }
            self.take_writes();
            let now = Instant::now();
            let is_due = |kept: &Kept| kept.next_look.is_some_and(|at| at <= now);
            let due: Vec<WorkerId> =
                self.kept.iter().filter(|(_, kept)| is_due(kept)).map(|(id, _)| id.clone()).collect();
            for id in due {
                self.look(&id, now);
            }
            if std::mem::take(&mut self.look_at_disk) || self.data_dir.next_look().is_some_and(|at| at <= now)
            {
                self.data_dir.look(now);
            }
            self.wait();
        }
    }

    fn wait(&self) {
        let looks = self.kept.values().filter_map(|kept| kept.next_look);
        let next = looks.chain(self.data_dir.next_look()).min();
        let timeout = next.map(|at| timespec(at.saturating_duration_since(Instant::now())));
        let mut fds = [
            PollFd::new(&self.inbox, PollFlags::IN),
            PollFd::new(&self.inotify, PollFlags::IN),
            PollFd::new(&self.conditions, PollFlags::IN),
        ];
        // An error is an interruption: looking without need costs nothing.
        let _ = rustix::event::poll(&mut fds, timeout.as_ref());
    }

    /// False if there will be no other.
    fn take_jobs(&mut self) -> bool {
        self.inbox.silence();
        loop {
            match self.inbox.next() {
                Next::Job(Job::Keep(id, file)) => {
                    self.look_at_disk = true;
                    let next_look = Some(Instant::now());
                    let kept = Kept { file, bytes: 0, shortened_at: None, shorten_from: None, next_look };
                    self.kept.insert(id, kept);
                }
                Next::Job(Job::Ended(id)) => drop(self.kept.remove(&id)),
                Next::Job(Job::Look) => self.look_at_disk = true,
                Next::Empty => return true,
                Next::Closed => return false,
            }
        }
    }

    /// Who was written to is looked at.
    fn take_writes(&mut self) {
        let now = Instant::now();
        let mut buffer = [MaybeUninit::uninit(); 4096];
        let mut reader = inotify::Reader::new(&self.inotify, &mut buffer);
        while let Ok(event) = reader.next() {
            if event.events().contains(ReadFlags::QUEUE_OVERFLOW) {
                self.kept.values_mut().for_each(|kept| kept.next_look = Some(now));
            }
            // Whatever it told, the watch is gone with it.
            if let Some(kept) = self.watches.remove(&event.wd()).and_then(|id| self.kept.get_mut(&id)) {
                kept.next_look.get_or_insert(now);
            }
        }
    }

    fn look(&mut self, id: &WorkerId, now: Instant) {
        let Some(kept) = self.kept.get_mut(id) else { return };
        let path = self.logs.path(id);
        let file = match kept.file.take().map_or_else(|| OpenOptions::new().write(true).open(path), Ok) {
            Ok(file) => kept.file.insert(file),
            Err(e) if e.kind() == io::ErrorKind::NotFound => return drop(self.kept.remove(id)),
            Err(e) => {
                debug!("log is not kept for now worker={id} error={e}");
                return kept.next_look = Some(now + limits::DISK_RETRY);
            }
        };
        let bytes = length(file);
        let is_flood = bytes.saturating_sub(kept.bytes) > limits::LOG_BYTES_MAX / 2;
        let soon = now + if is_flood { limits::LOG_LOOK_FLOOD } else { limits::LOG_LOOK };
        if bytes > limits::LOG_BYTES_MAX {
            kept.next_look = Some(soon);
            if kept.shorten_from.is_none_or(|from| from <= now) {
                let often = kept.shortened_at.is_some_and(|at| now < at + limits::LOG_WHOLE_INTERVAL);
                let done = shorten(&self.logs, id, file, often || is_flood);
                kept.shortened_at = Some(Instant::now());
                kept.bytes = length(file);
                kept.shorten_from = None;
                if let Err(e) = done {
                    if !self.conditions.has(Condition::DataDir) {
                        warn!("log cannot be moved aside worker={id} error={e}");
                    }
                    self.conditions.failed(Condition::DataDir, &e);
                    let is_long = kept.bytes > limits::LOG_BYTES_MAX;
                    kept.shorten_from = is_long.then_some(now + limits::DISK_RETRY);
                }
            }
        } else if bytes == kept.bytes {
            kept.next_look = None;
            // Through the descriptor: the log may have another name by now, or none.
            let path = format!("/proc/self/fd/{}", file.as_raw_fd());
            match inotify::add_watch(&self.inotify, path, WatchFlags::MODIFY | WatchFlags::ONESHOT) {
                Ok(watch) => {
                    self.watches.insert(watch, id.clone());
                    // Written between the look and the watch, which does not tell of it.
                    if length(file) != bytes {
                        kept.next_look = Some(soon);
                    }
                }
                Err(e) => {
                    debug!("log cannot be watched worker={id} error={e}");
                    kept.next_look = Some(now + limits::LOG_LOOK_UNTOLD);
                }
            }
        } else {
            kept.bytes = bytes;
            kept.next_look = Some(soon);
        }
    }
}

/// Brings a log within its bound.
fn shorten(logs: &Logs, id: &WorkerId, file: &File, is_flood: bool) -> io::Result<()> {
    if !is_at(file, &logs.path(id)) {
        return file.set_len(0); // nobody can read it
    }
    if is_flood {
        return logs.cut(id);
    }
    // What cannot be kept elsewhere is lost: the bound is for the sake of the disk.
    logs.rotate(id).or_else(|failed| logs.cut(id).and(Err(failed)))
}

/// An open file has one.
fn length(file: &File) -> u64 {
    file.metadata().map_or(0, |meta| meta.len())
}
