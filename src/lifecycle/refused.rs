//! Transitions that the graph in [`state`](super::state) lacks do not compile. Each case stands behind a twin
//! that differs in one line and compiles, so that it fails for that line and for no other reason.
//!
//! Stopping never becomes ready again.
//! ```no_run
//! # use std::time::{Duration, Instant};
//! # use rbee_hive::lifecycle::{Policy, state::*};
//! fn transition(worker: Worker<Spawning>, slots: Slots, now: Instant, policy: &Policy) -> bool {
//!     worker.ready(slots, now, policy).is_ok()
//! }
//! ```
//! ```compile_fail
//! # use std::time::{Duration, Instant};
//! # use rbee_hive::lifecycle::{Policy, state::*};
//! fn transition(worker: Worker<Stopping>, slots: Slots, now: Instant, policy: &Policy) -> bool {
//!     worker.ready(slots, now, policy).is_ok()
//! }
//! ```
//!
//! Spawning never becomes busy without being ready first.
//! ```no_run
//! # use std::time::{Duration, Instant};
//! # use rbee_hive::lifecycle::{Policy, state::*};
//! fn transition(worker: Worker<Ready>, slots: Slots, now: Instant) -> Worker<Busy> {
//!     worker.busy(slots, now)
//! }
//! ```
//! ```compile_fail
//! # use std::time::{Duration, Instant};
//! # use rbee_hive::lifecycle::{Policy, state::*};
//! fn transition(worker: Worker<Spawning>, slots: Slots, now: Instant) -> Worker<Busy> {
//!     worker.busy(slots, now)
//! }
//! ```
//!
//! What is not busy cannot be freed.
//! ```no_run
//! # use std::time::{Duration, Instant};
//! # use rbee_hive::lifecycle::{Policy, state::*};
//! fn transition(worker: Worker<Busy>, slots: Slots, now: Instant) -> Worker<Ready> {
//!     worker.free(slots, now)
//! }
//! ```
//! ```compile_fail
//! # use std::time::{Duration, Instant};
//! # use rbee_hive::lifecycle::{Policy, state::*};
//! fn transition(worker: Worker<Ready>, slots: Slots, now: Instant) -> Worker<Ready> {
//!     worker.free(slots, now)
//! }
//! ```
//!
//! An exit while stopping is no crash: nothing is restarted.
//! ```no_run
//! # use std::time::{Duration, Instant};
//! # use rbee_hive::lifecycle::{Policy, state::*};
//! fn transition(worker: Worker<Busy>, exit: Exit, now: Instant, policy: &Policy) -> AfterExit {
//!     worker.exited(exit, now, policy, 0, &mut Vec::new())
//! }
//! ```
//! ```compile_fail
//! # use std::time::{Duration, Instant};
//! # use rbee_hive::lifecycle::{Policy, state::*};
//! fn transition(worker: Worker<Stopping>, exit: Exit, now: Instant, policy: &Policy) -> AfterExit {
//!     worker.exited(exit, now, policy, 0, &mut Vec::new())
//! }
//! ```
//!
//! What stops already is not stopped twice.
//! ```no_run
//! # use std::time::{Duration, Instant};
//! # use rbee_hive::lifecycle::{Policy, state::*};
//! fn transition(worker: Worker<Ready>, now: Instant) -> Worker<Stopping> {
//!     worker.stop(StopReason::Asked, now, Duration::ZERO, &mut Vec::new())
//! }
//! ```
//! ```compile_fail
//! # use std::time::{Duration, Instant};
//! # use rbee_hive::lifecycle::{Policy, state::*};
//! fn transition(worker: Worker<Stopping>, now: Instant) -> Worker<Stopping> {
//!     worker.stop(StopReason::Asked, now, Duration::ZERO, &mut Vec::new())
//! }
//! ```
//!
//! A worker is in one state only: a transition takes it.
//! ```no_run
//! # use std::time::{Duration, Instant};
//! # use rbee_hive::lifecycle::{Policy, state::*};
//! fn transition(worker: Worker<Ready>, slots: Slots, now: Instant) -> Worker<Busy> {
//!     worker.busy(slots, now)
//! }
//! ```
//! ```compile_fail
//! # use std::time::{Duration, Instant};
//! # use rbee_hive::lifecycle::{Policy, state::*};
//! fn transition(worker: Worker<Ready>, slots: Slots, now: Instant) -> (Worker<Busy>, Worker<Ready>) {
//!     (worker.busy(slots, now), worker)
//! }
//! ```
