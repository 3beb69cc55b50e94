//! Everything that touches processes: starting them, seeing them end, talking to them, their logs.
//!
//! Three threads take jobs (the effects of the lifecycle) and answer with its events:
//! [`launch`] may touch the disk, [`exits`] and [`worker_io`] never wait for one. A fourth, [`follow`],
//! serves who reads along in logs.
//!
//! Invariants:
//! - a process group is signalled only while its leader is unreaped: until then the number is ours;
//! - nobody but `exits` reaps a worker, and nobody ever waits for "any child";
//! - a process outside a worker's group is killed only if its environment carries that worker's mark,
//!   read again after the descriptor through which it is killed was opened;
//! - a child of the hive that is no worker stays in the hive's session and is either in the hive's group or
//!   the leader of its own: `exits` reaps what it finds outside of these, for it is an orphan.

use std::sync::Arc;

use crate::id::{Entropy, Run, WorkerId, hex};

mod busy;
pub(crate) mod exchange;
pub mod exits;
pub mod follow;
pub mod launch;
pub mod log;
mod mailbox;
pub(crate) mod procfs;
pub mod reasons;
mod sse;
pub mod version_child;
pub mod versions;
pub mod worker_io;

pub use mailbox::Jobs;

/// The variable in a worker's environment that says whose it is.
pub const OWNER_VARIABLE: &str = "RBEE_OWNER";

/// What proves that a process descends from a worker of this start of the hive. Cheap to clone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Owner(Arc<str>);

impl Owner {
    /// A new mark of 128 random bits.
    pub fn random(entropy: &mut dyn Entropy) -> Self {
        let mut bytes = [0; 16];
        entropy.fill(&mut bytes);
        Self(hex(&bytes).into())
    }

    /// The value of [`OWNER_VARIABLE`] for one run of a worker.
    pub fn mark(&self, id: &WorkerId, run: Run) -> String {
        format!("{}/{id}/{run}", self.0)
    }
}
