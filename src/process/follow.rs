//! Reading along in logs: one thread for all followers, woken by inotify.
//!
//! A follower's bytes wait in a bounded buffer that the event loop drains; while it is full, the log is
//! not read on, so a slow reader costs its buffer and nothing else.

use std::collections::BTreeMap;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use log::warn;
use rustix::event::{PollFd, PollFlags};
use rustix::fs::inotify::{self, ReadFlags, WatchFlags};

use crate::http::{Pull, Source};
use crate::id::WorkerId;
use crate::limits;
use crate::process::Jobs;
use crate::process::log::Logs;
use crate::process::mailbox::{Inbox, Next, mailbox};
use crate::process::sse::LineEvents;
use crate::sys::{Bell, timespec};
use crate::thread::Joined;

/// Lets readers in. The thread behind it ends, and with it every stream, when the last clone is dropped.
#[derive(Debug, Clone)]
pub struct Followers {
    jobs: Jobs<Job>,
    following: Arc<AtomicUsize>,
}

/// There are [`limits::FOLLOWERS_MAX`] followers already.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TooManyFollowers;

#[derive(Debug)]
enum Job {
    Follow { id: WorkerId, lines: usize, after: Option<u64>, outlet: Arc<Outlet> },
    Ended(WorkerId),
}

/// Starts the thread `log-follow`.
///
/// # Errors
/// If the log directory cannot be made or watched, or the system has no thread or descriptor to give.
pub fn start(logs: Arc<Logs>) -> io::Result<(Joined, Followers)> {
    let (jobs, inbox) = mailbox()?;
    let inotify = inotify::init(inotify::CreateFlags::CLOEXEC | inotify::CreateFlags::NONBLOCK)?;
    let dir = watch_dir(&logs, &inotify)?;
    let thread =
        Thread { logs, inbox, inotify, dir, watches: BTreeMap::new(), followers: Vec::new(), closed: false };
    let joined = Joined::spawn_vital("log-follow", || {}, move || thread.run())?;
    Ok((joined, Followers { jobs, following: Arc::default() }))
}

/// Asks to be told of logs that begin, in the folder that is in its place now; makes it if there is none.
fn watch_dir(logs: &Logs, inotify: &OwnedFd) -> io::Result<i32> {
    logs.make_dir()?;
    Ok(inotify::add_watch(inotify, logs.dir(), WatchFlags::CREATE)?)
}

impl Followers {
    /// A stream of the last `lines` lines of a worker's log and all that follow, one event a line.
    /// `after`: the id of the last event that the reader has seen; what follows it comes instead, as far as it
    /// is still there. `wake` is called from another thread when a stream that had nothing has something; it must not
    /// block.
    ///
    /// The stream ends after [`Followers::ended`]. Who follows a worker that may be gone looks again
    /// whether it is after this call, and calls `ended` if so.
    ///
    /// # Errors
    /// If there are too many already.
    pub fn follow(
        &self,
        id: WorkerId,
        lines: usize,
        after: Option<u64>,
        wake: Box<dyn Fn() + Send + Sync>,
    ) -> Result<Following, TooManyFollowers> {
        let place = Place(Arc::clone(&self.following));
        if self.following.fetch_add(1, Ordering::Relaxed) >= limits::FOLLOWERS_MAX {
            return Err(TooManyFollowers); // dropping the place gives it back
        }
        let outlet = Arc::new(Outlet { state: Mutex::default(), wake, bell: self.jobs.bell() });
        self.jobs.send(Job::Follow { id, lines, after, outlet: Arc::clone(&outlet) });
        Ok(Following { outlet, _place: place })
    }

    /// The worker is gone and its log complete: its followers end after the last byte.
    pub fn ended(&self, id: &WorkerId) {
        self.jobs.send(Job::Ended(id.clone()));
    }
}

/// One of the places for followers, given back when it is dropped.
#[derive(Debug)]
struct Place(Arc<AtomicUsize>);

impl Drop for Place {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// The reader's end of a follower: an event stream that ends with `data: [DONE]`.
#[derive(Debug)]
pub struct Following {
    outlet: Arc<Outlet>,
    _place: Place,
}

impl Source for Following {
    fn pull(&mut self, out: &mut Vec<u8>, room: usize) -> Pull {
        let mut state = self.outlet.lock();
        let taken = room.min(state.bytes.len());
        out.extend(state.bytes.drain(..taken));
        if state.full && state.bytes.len() < limits::FOLLOWER_BUFFER_BYTES_MAX / 2 {
            state.full = false;
            self.outlet.bell.ring();
        }
        match state.bytes.is_empty() {
            false => Pull::More,
            true if state.done => Pull::End,
            true => Pull::Wait,
        }
    }
}

impl Drop for Following {
    fn drop(&mut self) {
        self.outlet.lock().done = true;
        self.outlet.bell.ring();
    }
}

/// Between the thread and a reader.
struct Outlet {
    state: Mutex<Outflow>,
    wake: Box<dyn Fn() + Send + Sync>,
    bell: Arc<Bell>,
}

#[derive(Debug, Default)]
struct Outflow {
    bytes: Vec<u8>,
    /// The thread reads on when the reader has taken enough.
    full: bool,
    /// Nothing more comes, or nobody takes it.
    done: bool,
}

impl std::fmt::Debug for Outlet {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Outlet").field("state", &self.state).finish_non_exhaustive()
    }
}

impl Outlet {
    fn lock(&self) -> MutexGuard<'_, Outflow> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn append(&self, bytes: &[u8], done: bool) {
        let mut state = self.lock();
        let idle = state.bytes.is_empty();
        state.bytes.extend_from_slice(bytes);
        state.full = state.bytes.len() >= limits::FOLLOWER_BUFFER_BYTES_MAX;
        state.done |= done;
        drop(state);
        if idle && (done || !bytes.is_empty()) {
            (self.wake)();
        }
    }
}

/// The thread's end of a follower.
struct Follower {
    id: WorkerId,
    /// Where its next byte is; unknown until its first step.
    position: Option<u64>,
    lines: usize,
    /// The id of the last event that its reader has seen.
    after: Option<u64>,
    events: LineEvents,
    outlet: Arc<Outlet>,
    /// There may be something to read.
    due: bool,
    /// Nobody writes the log any more.
    ended: bool,
}

struct Thread {
    logs: Arc<Logs>,
    inbox: Inbox<Job>,
    inotify: OwnedFd,
    /// The watch of the directory, which tells of logs that begin.
    dir: i32,
    /// The watches of logs that somebody follows.
    watches: BTreeMap<i32, WorkerId>,
    followers: Vec<Follower>,
    closed: bool,
}

impl Thread {
    fn run(mut self) {
        let mut block = vec![0; limits::LOG_BLOCK_BYTES];
        while !self.closed {
            self.wait();
            self.take_jobs();
            self.take_changes();
            self.forget_the_done();
            for follower in &mut self.followers {
                follower.step(&self.logs, &mut block);
            }
        }
        for follower in &self.followers {
            follower.outlet.append(&[], true);
        }
    }

    fn wait(&self) {
        let busy = self.followers.iter().any(|f| f.due && !f.outlet.lock().full);
        let timeout = busy.then(|| timespec(Duration::ZERO));
        let mut fds = [PollFd::new(&self.inbox, PollFlags::IN), PollFd::new(&self.inotify, PollFlags::IN)];
        // An error is an interruption: looking without need costs nothing.
        let _ = rustix::event::poll(&mut fds, timeout.as_ref());
    }

    fn take_jobs(&mut self) {
        self.inbox.silence();
        loop {
            match self.inbox.next() {
                Next::Job(Job::Follow { id, lines, after, outlet }) => {
                    let ended = !self.watch(&id);
                    let events = LineEvents::default();
                    self.followers.push(Follower {
                        id,
                        position: None,
                        lines,
                        after,
                        events,
                        outlet,
                        due: true,
                        ended,
                    });
                }
                Next::Job(Job::Ended(id)) => {
                    for follower in self.followers.iter_mut().filter(|f| f.id == id) {
                        (follower.ended, follower.due) = (true, true);
                    }
                }
                Next::Empty => return,
                Next::Closed => {
                    self.closed = true;
                    return;
                }
            }
        }
    }

    /// Asks to be told of changes of a log. False if that is not to be had; a log that is not there is
    /// watched when it begins.
    fn watch(&mut self, id: &WorkerId) -> bool {
        let watched = self.watch_log(id).and_then(|is_there| {
            if is_there {
                return Ok(());
            }
            // Another folder may lie where the one was that is watched: the same one again changes nothing.
            self.dir = watch_dir(&self.logs, &self.inotify)?;
            self.watch_log(id).map(drop)
        });
        if let Err(e) = &watched {
            warn!("log cannot be followed worker={id} error={e}");
        }
        watched.is_ok()
    }

    /// False if it is not there.
    fn watch_log(&mut self, id: &WorkerId) -> io::Result<bool> {
        match inotify::add_watch(&self.inotify, self.logs.path(id), WatchFlags::MODIFY) {
            Err(rustix::io::Errno::NOENT) => Ok(false),
            watch => {
                self.watches.insert(watch?, id.clone());
                Ok(true)
            }
        }
    }

    fn take_changes(&mut self) {
        let mut changed = Vec::new();
        let mut begun = Vec::new();
        let mut missed = false;
        let mut buffer = [MaybeUninit::uninit(); 4096];
        let mut reader = inotify::Reader::new(&self.inotify, &mut buffer);
        while let Ok(event) = reader.next() {
            missed |= event.events().contains(ReadFlags::QUEUE_OVERFLOW);
            if event.wd() == self.dir {
                begun.extend(event.file_name().and_then(|name| name.to_str().ok()).map(str::to_owned));
            } else if event.events().contains(ReadFlags::IGNORED) {
                self.watches.remove(&event.wd());
            } else {
                changed.extend(self.watches.get(&event.wd()).cloned());
            }
        }
        for id in begun.iter().filter_map(|name| name.strip_suffix(".log")?.parse::<WorkerId>().ok()) {
            if self.followers.iter().any(|f| f.id == id) {
                self.watch(&id);
                changed.push(id);
            }
        }
        for follower in &mut self.followers {
            follower.due |= missed || changed.contains(&follower.id);
        }
    }

    fn forget_the_done(&mut self) {
        self.followers.retain(|f| !f.outlet.lock().done);
        let followers = &self.followers;
        let inotify = &self.inotify;
        self.watches.retain(|watch, id| {
            let needed = followers.iter().any(|f| f.id == *id);
            if !needed {
                // An error says that the file, and with it the watch, is gone.
                let _ = inotify::remove_watch(inotify, *watch);
            }
            needed
        });
    }
}

impl Follower {
    /// Where it begins to read: at the last byte that its reader has seen, which says how a line ended.
    fn begin(&mut self, logs: &Logs) -> io::Result<u64> {
        match self.after.and_then(|after| after.checked_sub(1)) {
            Some(seen) if logs.reaches(&self.id, seen + 1)? => {
                self.events = LineEvents::resumed();
                Ok(seen)
            }
            _ => logs.tail_position(&self.id, self.lines),
        }
    }

    /// Reads on. What is gone before it was read is told in `out`.
    fn read(&mut self, logs: &Logs, block: &mut [u8], out: &mut Vec<u8>) -> io::Result<usize> {
        let expected = match self.position {
            Some(position) => position,
            None => self.begin(logs)?,
        };
        let position = self.position.insert(expected);
        let read = logs.read(&self.id, position, block)?;
        let place = *position - read as u64;
        if place != expected {
            self.events.on_gap(expected, place, out);
        }
        Ok(read)
    }

    /// Reads one block if there is room for it, so that a log that grows fast starves no other.
    fn step(&mut self, logs: &Logs, block: &mut [u8]) {
        if !self.due || self.outlet.lock().full {
            return;
        }
        let mut out = Vec::new();
        let read = self.read(logs, block, &mut out).unwrap_or_else(|e| {
            warn!("log cannot be read worker={} error={}", self.id, e.kind());
            self.ended = true;
            0
        });
        let place = self.position.unwrap_or_default();
        self.events.on_bytes(&block[..read], place, &mut out);
        self.due = read > 0;
        let done = read == 0 && self.ended;
        if done {
            self.events.on_end(place, &mut out);
        }
        self.outlet.append(&out, done);
    }
}
