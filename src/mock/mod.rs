//! Stand-ins for the rest of the system, for trying and testing without it: a worker that keeps the
//! native protocol and breaks it on request, one that takes vLLM's arguments, a queen, a hive that only listens, and the hub of Hugging Face.
//!
//! They are real programs, all but the hub on the crate's own HTTP server; what they lack is a model.
//! `rbee-mock` runs each as a process, and [`queen::Queen`], [`hive::Hive`] and [`hub::Hub`] run inside a test
//! as well.

pub mod artifacts;
pub mod cli;
pub mod demo;
pub mod desk;
#[doc(hidden)]
pub mod example;
pub mod fault;
pub mod hive;
pub mod hub;
pub mod queen;
pub mod rude;
pub mod vllm;
pub mod worker;

pub use cli::main;
