//! Stand-ins for the rest of the system, for trying and testing without it: a worker that keeps the
//! native protocol and breaks it on request, a queen, and a hive that only listens.
//!
//! They are real programs on the crate's own HTTP server; what they lack is a model. `rbee-mock` runs
//! each as a process, and [`queen::Queen`] and [`hive::Hive`] run inside a test as well.

pub mod cli;
pub mod demo;
pub mod desk;
pub mod fault;
pub mod hive;
pub mod queen;
pub mod rude;
pub mod worker;

pub use cli::main;
