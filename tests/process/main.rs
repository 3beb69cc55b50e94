//! Real processes, sockets and logs through the threads that own them.

#![allow(clippy::unwrap_used, reason = "a test that panics fails, helpers included")]

mod logs;
mod support;
mod worker_io;
mod workers;
