//! A worker without a model: it keeps the native protocol, or is a program that is probed, has slots and
//! a piece of work to fill them with, and breaks the protocol where it is asked to.
//!
//! The process is the worker, so [`run`] returns when both are over.

use std::fs::File;
use std::io::{self, Read as _, Write as _};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender, after, bounded, never, select};
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

use crate::id::{Token, WorkerId};
use crate::limits;
use crate::mock::fault::Faults;
use crate::mock::{desk, rude};
use crate::thread::Joined;

mod beats;
pub mod leftover;
mod serve;

use serve::Serving;
pub(in crate::mock) use serve::{Slots, work};

/// What the command line says.
#[derive(Debug, Clone)]
pub struct Config {
    /// How the hive learns of it.
    pub protocol: Protocol,
    /// The model; must begin with `GGUF`.
    pub model: PathBuf,
    /// Address to bind.
    pub host: String,
    /// Port to bind; 0 takes a free one.
    pub port: u16,
    /// What opens `POST /v1/shutdown` and the hive's callbacks.
    pub token: Option<Token>,
    /// Requests that it can serve at once.
    pub slots: u32,
    /// How long it is loading.
    pub load: Duration,
    /// What it does wrong.
    pub faults: Faults,
}

/// How the hive learns that a worker is ready, and busy.
#[derive(Debug, Clone)]
pub enum Protocol {
    /// The worker says so.
    Native(Native),
    /// It is asked.
    Probe,
}

/// What a native worker tells of itself.
#[derive(Debug, Clone)]
pub struct Native {
    /// Its name.
    pub worker_id: WorkerId,
    /// The model as it was asked for.
    pub model_ref: String,
    /// What computes.
    pub backend: String,
    /// Where.
    pub device: String,
    /// Where the hive is.
    pub hive_url: String,
    /// Time between two heartbeats.
    pub interval: Duration,
}

/// Runs the worker to its end, and gives its exit code.
///
/// # Errors
/// What kept it from starting, for a person: the model, the address, the system.
pub fn run(config: Config) -> Result<u8, String> {
    let Config { protocol, model, host, port, token, slots, load, faults } = config;
    if let Some(code) = faults.crash_at_start {
        eprintln!("crashing at start, on request code={code}");
        return Ok(code);
    }
    // First of all: a signal may come at any moment from here.
    let (end, ends) = bounded(1);
    let _signals = forward_signals(end.clone(), faults.ignore_term).map_err(|e| format!("signals: {e}"))?;
    check_model(&model)?;
    let system = |e: io::Error| format!("the system does not let it start: {e}");
    let listener =
        TcpListener::bind((host.as_str(), port)).map_err(|e| format!("cannot listen on port {port}: {e}"))?;
    let addr = listener.local_addr().map_err(system)?;
    leftover::leave(&faults, &listener).map_err(system)?;
    if let (true, Some(token)) = (faults.print_token, &token) {
        eprintln!("the token, on request: {}", token.secret());
    }
    flood(faults.flood.unwrap_or(0));

    // Closed at the end, which whoever waits in here notices.
    let (alive, over) = bounded(0);
    let (changed, changes) = bounded(1);
    let slots = Arc::new(Slots::new(slots, changed));
    let serving = Arc::new(Serving {
        slots: Arc::clone(&slots),
        loaded_at: if faults.never_ready { None } else { Instant::now().checked_add(load) },
        unready_health: faults.unready_health,
        end: (!faults.ignore_shutdown).then_some(end),
        over: over.clone(),
    });
    let served = if faults.deaf {
        Served::Deaf { _thread: rude::serve(listener, rude::Manner::Hang).map_err(system)? }
    } else {
        let threads = slots.total() as usize + 1;
        let guard = token.clone().filter(|_| !faults.open_shutdown);
        Served::Well(desk::serve(listener, threads, guard, serving).map_err(system)?)
    };
    let url = format!("http://{addr}");
    desk::print(&format!("worker listening on {url}"));
    let beats = match protocol {
        Protocol::Native(native) if !faults.never_ready => {
            let teller = beats::Teller { native, url, token, slots, load, faults: faults.clone() };
            Some(beats::start(teller, changes, over).map_err(system)?)
        }
        _ => None,
    };

    await_end(&ends, &faults);
    drop(alive);
    drop(beats);
    if let Served::Well(server) = served {
        server.drain(limits::HTTP_DRAIN);
    }
    Ok(0)
}

/// Holds what serves; a deaf worker has no server.
enum Served {
    Well(crate::http::Server),
    Deaf { _thread: Joined },
}

/// Returns when the worker is to exit with 0.
fn await_end(ends: &Receiver<&'static str>, faults: &Faults) {
    let timer = |delay: Option<Duration>| delay.map_or_else(never, after);
    let (crash, exit) = (timer(faults.crash_after), timer(faults.exit_after));
    select! {
        recv(ends) -> why => eprintln!("exiting on={}", why.unwrap_or("nothing")),
        recv(exit) -> _ => eprintln!("exiting, on request"),
        recv(crash) -> _ => {
            eprintln!("crashing, on request");
            std::process::abort();
        }
    }
    if let Some(time) = faults.slow_exit {
        // The fault is to keep still for so long.
        std::thread::sleep(time);
    }
}

/// Sends the name of the first signal that ends a process.
pub(in crate::mock) fn forward_signals(end: Sender<&'static str>, ignore_term: bool) -> io::Result<Joined> {
    let mut signals = Signals::new([SIGTERM, SIGINT])?;
    let handle = signals.handle();
    Joined::spawn(
        "signals",
        move || handle.close(),
        move || {
            for signal in signals.forever() {
                match signal {
                    SIGTERM if ignore_term => eprintln!("ignoring SIGTERM, on request"),
                    // Full: it is ending already.
                    SIGTERM => drop(end.try_send("SIGTERM")),
                    _ => drop(end.try_send("SIGINT")),
                }
            }
        },
    )
}

fn check_model(path: &Path) -> Result<(), String> {
    let mut magic = [0; 4];
    match File::open(path).and_then(|mut file| file.read_exact(&mut magic)) {
        Ok(()) if &magic == b"GGUF" => Ok(()),
        Ok(()) => Err(format!("{path:?} is no GGUF file: it does not begin with GGUF")),
        Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => {
            Err(format!("{path:?} is no GGUF file: it is too short"))
        }
        Err(e) => Err(format!("{path:?} cannot be read: {e}")),
    }
}

fn flood(lines: u64) {
    let mut log = io::BufWriter::new(io::stderr().lock());
    for line in 0..lines {
        if writeln!(log, "flood line={line} of={lines} {:.<72}", "").is_err() {
            return;
        }
    }
}
