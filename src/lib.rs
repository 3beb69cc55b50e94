//! rbee-hive: runs language-model workers on one machine.
//!
//! The tour, in the order in which it reads best:
//! 1. [`hive`] puts the parts together: threads, channels, start and end.
//! 2. [`lifecycle`] decides: a worker's states as types, all workers as a pure machine from events to effects,
//!    and the one thread that owns it. It touches neither the network nor a process.
//! 3. [`process`] does: starts workers, sees them end, asks them how they are, keeps their logs.
//! 4. [`http`] is the edge: bytes become requests, requests become calls, pictures become answers.
//! 5. [`relay`] tells the queen.
//! 6. [`kinds`], [`models`], [`config`] and [`cli`] read what people write; [`api`] and [`id`] are the words
//!    that all share, [`limits`] the bounds.
//! 7. [`mock`] stands in for what is outside: a worker, a queen, a hive that only listens, and the demo.
//!
//! Invariant: `lifecycle` imports neither `http` nor `process`; it names effects, and the hive performs them.

#![cfg_attr(not(test), deny(clippy::unwrap_used))]

pub mod api;
pub mod capacity;
pub mod cli;
pub mod client;
pub mod clock;
pub mod config;
pub mod devices;
pub mod duration;
#[cfg(any(test, fuzzing))]
#[doc(hidden)]
pub mod fuzzing;
pub mod health;
pub mod hive;
pub mod http;
pub mod id;
pub mod kinds;
pub mod latest;
pub mod lifecycle;
pub mod limits;
pub mod logging;
pub mod mock;
pub mod models;
mod nearest;
mod net;
mod notify;
pub mod process;
pub mod program;
pub mod relay;
mod reload;
pub mod sys;
pub mod thread;
