//! The thread `devices`: takes pictures when somebody asks for one.
//!
//! A look reads, in this order: the workers' process trees and what they hold, what is free of memory, and
//! then, through the probe child, who uses the GPUs and what is free of them. While a driver hangs nobody
//! waits for it: pictures are published with the last figures of the GPUs, which keep their age.
//! While nobody asks, nothing wakes the thread.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use log::warn;
use rustix::event::{PollFd, PollFlags};

use super::ask::{Asker, State, Told};
use super::cpu::CpuProbe;
use super::numbers::{Numbers, Users};
use super::probe::{Probe as _, ProbeConfig};
use super::{Cpu, Picture};
use crate::id::Pgid;
use crate::limits;
use crate::process::procfs;
use crate::sys::{Bell, timespec};
use crate::thread::Joined;

/// Starts the thread. It ends when the last [`Devices`] is dropped.
///
/// `groups` gives the process groups of the workers that live; `tell` gets every picture before anybody else
/// does. Neither may block, nor call [`Devices::look`], which waits for the thread that they run on.
///
/// # Errors
/// If the memory of this machine cannot be read, or the system has no thread or descriptor to give.
pub fn start(
    config: ProbeConfig,
    groups: impl Fn() -> Vec<Pgid> + Send + 'static,
    tell: impl Fn(Arc<Picture>) + Send + 'static,
) -> io::Result<(Joined, Devices)> {
    let mut processor = CpuProbe::new(config.clone());
    let cpu =
        processor.look().map_err(|failed| io::Error::other(format!("{} {failed}", processor.name())))?;
    let desk = Arc::new(Desk { state: Mutex::default(), published: Condvar::new(), bell: Bell::new()? });
    let now = Instant::now();
    let watch = Watch {
        desk: Arc::clone(&desk),
        groups: Box::new(groups),
        tell: Box::new(tell),
        asker: Asker::new(config),
        processor,
        cpu,
        numbers: Numbers::default(),
        gpus_taken_at: now,
        look: None,
        last_look: None,
        refresh: false,
    };
    let joined = Joined::spawn_vital("devices", || {}, move || watch.run())?;
    Ok((joined, Devices(Arc::new(Handle(desk)))))
}

/// The way to the thread. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Devices(Arc<Handle>);

impl Devices {
    /// A picture that is at most [`limits::DEVICES_FRESH`] old when the call begins, or the next one that is
    /// taken. Waits for it: for some milliseconds, for [`limits::PROBE_ANSWER`] where a driver begins to hang,
    /// and for [`limits::PROBE_FIRST_ANSWER`] at the first look of all.
    pub fn look(&self) -> Arc<Picture> {
        let desk = &self.0.0;
        let mut state = desk.state();
        let count = state.count;
        loop {
            let is_new = |picture: &&Arc<Picture>| {
                state.count > count || picture.taken_at.elapsed() <= limits::DEVICES_FRESH
            };
            if let Some(picture) = state.last.as_ref().filter(is_new) {
                return Arc::clone(picture);
            }
            if !state.look {
                state.look = true;
                desk.bell.ring();
            }
            state = desk.published.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// The newest picture, however old; `None` before the first look has ended. Waits for nobody.
    pub fn last(&self) -> Option<Arc<Picture>> {
        self.0.0.state().last.clone()
    }

    /// Asks for a picture that is newer than now, and does not wait for it. At most one such wish in
    /// [`limits::DEVICES_REFRESH`] is followed; one that comes earlier is followed then.
    pub fn refresh(&self) {
        let desk = &self.0.0;
        desk.state().refresh = true;
        desk.bell.ring();
    }
}

/// Ends the thread when it is dropped.
#[derive(Debug)]
struct Handle(Arc<Desk>);

impl Drop for Handle {
    fn drop(&mut self) {
        self.0.state().closed = true;
        self.0.bell.ring();
    }
}

/// Where callers and the thread meet.
#[derive(Debug)]
struct Desk {
    state: Mutex<Counter>,
    published: Condvar,
    bell: Bell,
}

#[derive(Debug, Default)]
struct Counter {
    last: Option<Arc<Picture>>,
    /// Pictures published so far.
    count: u64,
    look: bool,
    refresh: bool,
    closed: bool,
}

impl Desk {
    fn state(&self) -> MutexGuard<'_, Counter> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

struct Watch {
    desk: Arc<Desk>,
    groups: Box<dyn Fn() -> Vec<Pgid> + Send>,
    tell: Box<dyn Fn(Arc<Picture>) + Send>,
    asker: Asker,
    processor: CpuProbe,
    /// As last read well.
    cpu: Cpu,
    numbers: Numbers,
    gpus_taken_at: Instant,
    /// Under way: the driver's answer is waited for.
    look: Option<Look>,
    last_look: Option<Instant>,
    /// A picture is wanted that is newer than the look under way, or sooner than a new one may be taken.
    refresh: bool,
}

/// What was seen before the driver was asked.
struct Look {
    begun: Instant,
    cpu: Cpu,
    users: Users,
    /// Whether callers wait for the answer; else it only shows that the driver is back.
    waited_for: bool,
}

impl Watch {
    fn run(mut self) {
        loop {
            self.desk.bell.silence();
            {
                let mut state = self.desk.state();
                if state.closed {
                    return;
                }
                self.refresh |= std::mem::take(&mut state.refresh);
            }
            if let Some(told) = self.asker.step(Instant::now()) {
                self.on(told);
            }
            let now = Instant::now();
            let waited_for = self.look.as_ref().is_some_and(|look| look.waited_for);
            let refresh = self.refresh && self.refresh_at().is_none_or(|at| at <= now);
            if !waited_for && (refresh || self.desk.state().look) {
                self.begin(now);
            }
            self.wait();
        }
    }

    fn refresh_at(&self) -> Option<Instant> {
        self.last_look.map(|at| at + limits::DEVICES_REFRESH)
    }

    fn wait(&self) {
        let waited_for = self.look.as_ref().is_some_and(|look| look.waited_for);
        let refresh = self.refresh_at().filter(|_| self.refresh && !waited_for);
        let until = [self.asker.deadline(), refresh].into_iter().flatten().min();
        let timeout = until.map(|at| timespec(at.saturating_duration_since(Instant::now())));
        let mut fds = vec![PollFd::new(&self.desk.bell, PollFlags::IN)];
        fds.extend(self.asker.descriptors());
        // An error is an interruption: the loop looks at everything again.
        let _ = rustix::event::poll(&mut fds, timeout.as_ref());
    }

    fn begin(&mut self, now: Instant) {
        self.refresh = false;
        self.last_look = Some(now);
        let groups = (self.groups)();
        let (users, used_by) = users(&groups);
        match self.processor.look() {
            Ok(cpu) => self.cpu = cpu,
            Err(failed) => {
                warn!("{} not looked at, the last figures stand reason={failed}", self.processor.name())
            }
        }
        let look = Look {
            begun: now,
            cpu: Cpu { used_by, ..self.cpu.clone() },
            users,
            waited_for: self.asker.state() != State::Fails,
        };
        match (self.asker.ask(now), look.waited_for) {
            (true, true) => self.look = Some(look),
            (true, false) => {
                self.publish(&look);
                self.look = Some(look);
            }
            (false, _) if self.asker.state() == State::NoDriver => {
                self.gpus_taken_at = now;
                self.publish(&look);
            }
            (false, _) => self.publish(&look),
        }
    }

    fn on(&mut self, told: Told) {
        let Some(look) = self.look.take() else { return };
        let cards = match told {
            Told::Failed if look.waited_for => return self.publish(&look),
            Told::Failed => return,
            // The driver is back: now its figures can be read in their order.
            _ if !look.waited_for => {
                self.refresh = true;
                return;
            }
            Told::Cards(cards) => cards,
            Told::NoDriver => Vec::new(),
        };
        self.numbers.take(cards, &look.cpu, &look.users);
        self.gpus_taken_at = look.begun;
        self.publish(&look);
    }

    /// Whoever is told hears it before any caller.
    fn publish(&self, look: &Look) {
        let picture = Arc::new(Picture {
            taken_at: look.begun,
            gpus_taken_at: self.gpus_taken_at,
            cpu: look.cpu.clone(),
            gpus: self.numbers.last(),
        });
        (self.tell)(Arc::clone(&picture));
        let mut state = self.desk.state();
        state.last = Some(picture);
        state.count += 1;
        state.look = false;
        self.desk.published.notify_all();
    }
}

/// Which process is whose, and what each worker holds of the processor's memory.
fn users(groups: &[Pgid]) -> (Users, BTreeMap<Pgid, u64>) {
    let all = procfs::processes();
    let mut users = Users { seen: all.iter().map(|p| p.pid).collect(), ..Users::default() };
    let mut used_by = BTreeMap::new();
    for group in groups {
        let tree: BTreeSet<u32> = procfs::tree(*group, &all);
        let bytes = tree.iter().filter_map(|pid| procfs::taken_bytes(*pid)).fold(0, u64::saturating_add);
        used_by.insert(*group, bytes);
        users.workers.extend(tree.into_iter().map(|pid| (pid, *group)));
    }
    (users, used_by)
}
