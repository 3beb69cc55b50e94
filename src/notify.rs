//! What a service manager is told, as `sd_notify(3)` has it: that the hive is ready, how it is, that it ends, and that
//! it lives.
//!
//! One thread, and only where `NOTIFY_SOCKET` says that somebody listens. It vouches for the hive (`WATCHDOG=1`) only
//! after the supervisor and each event loop have answered a question: a timer alone would vouch for one that hangs.

use std::ffi::OsString;
use std::io;
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, at, bounded, never, select};
use log::{info, warn};
use rustix::time::{ClockId, clock_gettime};

use crate::api::{HiveStatus, State};
use crate::http::Pulse;
use crate::lifecycle::picture::{Picture, Snapshot};
use crate::lifecycle::supervisor::{Inbox, NoAnswer};
use crate::limits::{NOTIFY_SEND, REPLY_WAIT, WATCHDOG_MIN};
use crate::thread::Joined;

/// Who started the hive and wants to hear of it.
pub(crate) struct Manager {
    socket: UnixDatagram,
    /// It takes the hive for dead after so long without a sign of life.
    watchdog: Option<Duration>,
    is_ready: AtomicBool,
    is_deaf: AtomicBool,
}

impl Manager {
    /// The one that the environment names, if it can be reached. A hive that cannot tell starts all the same.
    pub fn of(env: &dyn Fn(&str) -> Option<OsString>) -> Option<Self> {
        let name = env("NOTIFY_SOCKET").filter(|name| !name.is_empty())?;
        let connected = || {
            let address = match name.as_bytes().strip_prefix(b"@") {
                Some(name) => SocketAddr::from_abstract_name(name)?,
                None => SocketAddr::from_pathname(&name)?,
            };
            let socket = UnixDatagram::unbound()?;
            socket.connect_addr(&address)?;
            socket.set_write_timeout(Some(NOTIFY_SEND))?;
            io::Result::Ok(socket)
        };
        match connected() {
            Ok(socket) => Some(Self {
                socket,
                watchdog: watchdog(env),
                is_ready: AtomicBool::new(false),
                is_deaf: AtomicBool::new(false),
            }),
            Err(e) => {
                warn!("the service manager cannot be told anything: NOTIFY_SOCKET leads nowhere error={e}");
                None
            }
        }
    }

    /// Reads settings again by `again`, and tells when that begins and ends.
    pub fn reloads(&self, again: impl FnOnce()) {
        // Before it is ready the manager waits for that, and for nothing else.
        if !self.is_ready.load(Ordering::Relaxed) {
            return again();
        }
        let now = clock_gettime(ClockId::Monotonic);
        let micros = i128::from(now.tv_sec) * 1_000_000 + i128::from(now.tv_nsec) / 1000;
        self.tell(&format!("RELOADING=1\nMONOTONIC_USEC={micros}"));
        again();
        self.tell("READY=1");
    }

    fn tell(&self, what: &str) {
        let told = self.socket.send(what.as_bytes());
        let was_deaf = self.is_deaf.swap(told.is_err(), Ordering::Relaxed);
        match told {
            Ok(_) if was_deaf => info!("the service manager takes messages again"),
            Err(e) if !was_deaf => warn!("the service manager takes no messages error={e}"),
            _ => {}
        }
    }
}

/// How often a sign of life is wanted of this process; `None` if it is not.
fn watchdog(env: &dyn Fn(&str) -> Option<OsString>) -> Option<Duration> {
    let number = |name| env(name)?.to_str()?.parse::<u64>().ok();
    let for_us = env("WATCHDOG_PID").is_none() || number("WATCHDOG_PID") == Some(std::process::id().into());
    let time = Duration::from_micros(number("WATCHDOG_USEC").filter(|_| for_us)?);
    (!time.is_zero()).then(|| time.max(WATCHDOG_MIN))
}

/// What the thread looks at.
pub(crate) struct Subject {
    pub picture: Arc<Picture>,
    pub inbox: Inbox,
    pub pulse: Pulse,
    /// Rung after each change of the picture.
    pub changed: Receiver<()>,
}

/// Starts the thread. It tells its last when it is dropped.
///
/// # Errors
/// If the system has no thread to give.
pub(crate) fn start(manager: Arc<Manager>, subject: Subject) -> io::Result<Joined> {
    let (end, ended) = bounded::<()>(0);
    Joined::spawn_vital("notify", move || drop(end), move || run(&manager, &subject, &ended))
}

fn run(manager: &Manager, subject: &Subject, ended: &Receiver<()>) {
    let mut told = Told::default();
    let mut last_sign_failed = false;
    let period = manager.watchdog.map(|time| time / 2);
    let mut sign_at = period.map(|_| Instant::now());
    loop {
        told.tell(manager, &subject.picture.snapshot());
        select! {
            recv(ended) -> _ => break,
            recv(subject.changed) -> changed => if changed.is_err() { break },
            recv(sign_at.map_or_else(never, at)) -> _ => {
                let Some(period) = period else { continue };
                let began = Instant::now();
                match who_hangs(subject, period.min(REPLY_WAIT)) {
                    None => {
                        manager.tell("WATCHDOG=1");
                        sign_at = Some(began + period);
                        if std::mem::take(&mut last_sign_failed) {
                            info!("all threads answer again");
                        }
                    }
                    Some(who) => {
                        // The question has taken its time, and may be asked again.
                        sign_at = Some(Instant::now() + WATCHDOG_MIN / 2);
                        if !std::mem::replace(&mut last_sign_failed, true) {
                            warn!("no sign of life to the service manager: who hangs does not answer who={who}");
                        }
                    }
                }
            }
        }
    }
    told.tell(manager, &subject.picture.snapshot());
}

/// Asks the supervisor and all event loops; gives who did not answer `within` that time.
fn who_hangs(subject: &Subject, within: Duration) -> Option<&'static str> {
    match subject.inbox.is_alive(within) {
        // At its end nobody listens there any more; the rest of the end has its bounds.
        Ok(()) | Err(NoAnswer::Ended) => {}
        Err(NoAnswer::Late) => return Some("supervisor"),
    }
    (!subject.pulse.is_alive(within)).then_some("http")
}

/// What was told already.
#[derive(Default)]
struct Told {
    ready: bool,
    stopping: bool,
    status: String,
}

impl Told {
    /// Tells what is new in `now`, in one message.
    fn tell(&mut self, manager: &Manager, now: &Snapshot) {
        let mut news = String::new();
        match now.status {
            HiveStatus::Starting => {}
            HiveStatus::Ready | HiveStatus::Draining => {
                if !std::mem::replace(&mut self.ready, true) {
                    news.push_str("READY=1\n");
                    manager.is_ready.store(true, Ordering::Relaxed);
                }
            }
            HiveStatus::Stopping | HiveStatus::Stopped => {
                if !std::mem::replace(&mut self.stopping, true) {
                    news.push_str("STOPPING=1\n");
                    manager.is_ready.store(false, Ordering::Relaxed);
                }
            }
        }
        let status = status(now);
        if status != self.status {
            news.push_str(&format!("STATUS={status}"));
            self.status = status;
        }
        if !news.is_empty() {
            manager.tell(news.trim_end());
        }
    }
}

/// The hive in a few words, as `systemctl status` shows them.
fn status(now: &Snapshot) -> String {
    let count = |wanted| now.workers.iter().filter(|entry| entry.worker.state == wanted).count();
    let mut words = match now.workers.len() {
        1 => "1 worker".to_owned(),
        count => format!("{count} workers"),
    };
    for (count, what) in [(count(State::Spawning), "starting"), (count(State::Stopping), "stopping")] {
        if count > 0 {
            words.push_str(&format!(", {count} {what}"));
        }
    }
    match now.status {
        HiveStatus::Ready => words,
        HiveStatus::Starting => format!("taking over {words}"),
        HiveStatus::Draining => format!("drained, {words}"),
        HiveStatus::Stopping | HiveStatus::Stopped => format!("ending, {words}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sign_of_life_is_wanted_of_the_process_that_is_meant() {
        let wanted = |usec: &str, pid: Option<&str>| {
            watchdog(&|name| match name {
                "WATCHDOG_USEC" => Some(usec.into()),
                "WATCHDOG_PID" => pid.map(Into::into),
                _ => None,
            })
        };
        let own = std::process::id().to_string();
        assert_eq!(wanted("30000000", None), Some(Duration::from_secs(30)));
        assert_eq!(wanted("30000000", Some(&own)), Some(Duration::from_secs(30)));
        for other in ["1", "", "me"] {
            assert_eq!(wanted("30000000", Some(other)), None, "{other}");
        }
        for nothing in ["0", "", "often", "-1"] {
            assert_eq!(wanted(nothing, None), None, "{nothing}");
        }
        assert_eq!(wanted("1", None), Some(WATCHDOG_MIN), "no busy loop");
    }

    #[test]
    fn a_socket_that_is_not_there_keeps_no_hive_from_starting() {
        let long = "/".repeat(300);
        for name in ["", "/nowhere/notify", "@rbee-hive/nobody", long.as_str(), "vsock:2:1234"] {
            assert!(Manager::of(&|_| Some(name.into())).is_none(), "{name}");
        }
    }
}
