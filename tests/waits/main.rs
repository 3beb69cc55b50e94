//! Topics whose tests mostly wait, for retries, deadlines and probes: one program, so that they wait together.

mod clock;
mod conformance;
mod disk;
mod downloads;
mod draining;
mod faults;
mod hung;
mod kinds;
mod logs;
mod notify;
mod oom;
mod provision;
mod sleep;
#[path = "../support/mod.rs"]
mod support;
