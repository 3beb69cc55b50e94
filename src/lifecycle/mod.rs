//! The lifecycle of workers: a pure core that decides, and the supervisor that owns it.
//!
//! [`Fleet`] takes what happened and the time, and gives back what is to be done. It opens no file, starts
//! no process and reads no clock, so that thousands of made-up incidents a second can be played against it.
//! [`supervisor`] is the one thread that drives it, and [`picture`] what everybody else sees of it.
//!
//! Begin with the graph in [`state`], then [`fleet`].

use std::time::Duration;

mod any;
pub mod event;
pub mod fleet;
pub mod picture;
mod ports;
#[cfg(doctest)]
mod refused;
mod restart;
mod serving;
#[cfg(any(test, fuzzing))]
pub mod simulation;
mod spawning;
pub mod state;
mod stopping;
pub mod supervisor;
mod view;

pub use fleet::Fleet;

/// What an operator decides about all workers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Policy {
    /// Silence after which a worker is stale.
    pub heartbeat_timeout: Duration,
    /// How long a spawning worker may show no progress.
    pub ready_timeout: Duration,
    /// Grace of a stop or of the cascade before SIGKILL.
    pub grace: Duration,
    /// A worker that was ready, not busy, for so long is stopped; `None`: never.
    pub idle_timeout: Option<Duration>,
    /// Restarts of a crashed worker before it is given up.
    pub restart_limit: u32,
}
