//! A stand-in for vLLM without a model and without a GPU: takes vLLM's arguments, and does what vLLM does to
//! whoever watches it.
//!
//! Nobody listens until the model is loaded, which may take long; meanwhile something moves, or nothing does.
//! Each rank of its tensor parallelism is a process that outlives it, as vLLM's do after a SIGKILL.

use std::io;
use std::net::TcpListener;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

use crossbeam_channel::{Receiver, bounded};

use crate::limits;
use crate::mock::desk;
use crate::mock::worker::leftover::{self, Manner};
use crate::mock::worker::{Slots, forward_signals};

mod behaviour;
mod loading;
mod options;
mod serve;

pub use behaviour::Behaviour;
pub use options::help;

/// What the command line and `MOCK_VLLM` say.
#[derive(Debug, Clone)]
pub struct Config {
    /// A file or a folder that is there.
    pub model: PathBuf,
    /// What its metrics call the model.
    pub served_name: String,
    /// Address to bind.
    pub host: String,
    /// Port to bind.
    pub port: u16,
    /// Requests at once.
    pub sequences: u32,
    /// Processes that share the model.
    pub ranks: u32,
    /// The rest.
    pub behaviour: Behaviour,
}

/// Runs it to its end, and gives its exit code.
///
/// # Errors
/// What kept it from starting, for a person.
pub fn run(config: Config) -> Result<u8, String> {
    let Config { model, served_name, host, port, sequences, ranks, behaviour } = config;
    let system = |e: io::Error| format!("the system does not let it start: {e}");
    let (end, ends) = bounded(1);
    let _signals = forward_signals(end, false).map_err(system)?;
    if !model.exists() {
        return Err(format!("{model:?} is not there"));
    }
    // One rank is this process itself.
    let in_group = (1..ranks).map(|_| Manner::default());
    for manner in in_group.chain(behaviour.children.iter().copied()) {
        leftover::start(manner).map_err(system)?;
    }
    // As setproctitle, which leaves a copy to children: the variable keeps it from the environment.
    if behaviour.retitled && std::env::var_os("SPT_NOENV").is_none() {
        leftover::set_environment_aside().map_err(system)?;
    }
    eprintln!("INFO loading ranks={ranks}");
    if loading::load(&behaviour, &ends).map_err(system)? == loading::Ended::Asked {
        return Ok(0);
    }
    let listener =
        TcpListener::bind((host.as_str(), port)).map_err(|e| format!("cannot listen on port {port}: {e}"))?;
    // Closed at the end, which whoever waits in here notices.
    let (alive, over) = bounded(0);
    let (changed, _changes) = bounded(1);
    let slots = Arc::new(Slots::new(sequences, changed));
    let serving = Arc::new(serve::Serving { slots, served_name, over });
    let threads = sequences as usize + 1;
    let server = desk::serve(listener, threads, None, serving).map_err(system)?;
    eprintln!("INFO application startup complete");
    wait(&ends);
    drop(alive);
    server.drain(limits::HTTP_DRAIN);
    Ok(0)
}

fn wait(ends: &Receiver<&'static str>) {
    let began = Instant::now();
    let why = ends.recv().unwrap_or("nothing");
    eprintln!("INFO exiting on={why} served_s={}", began.elapsed().as_secs());
}
