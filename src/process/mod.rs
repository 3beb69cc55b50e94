//! Everything that touches processes: starting them, seeing them end, talking to them, their logs.
//!
//! Three threads take jobs (the effects of the lifecycle) and answer with its events:
//! [`launch`] may touch the disk, [`exits`] and [`worker_io`] never wait for one. A fourth, [`follow`],
//! serves who reads along in logs, and a fifth, [`keep`], keeps them within their bound.
//!
//! Invariants:
//! - a process group is signalled only while its leader is unreaped: until then the number is ours;
//! - nobody but `exits` reaps a worker, and nobody ever waits for "any child";
//! - a process outside a worker's group is killed only if its environment carries that worker's mark,
//!   read again after the descriptor through which it is killed was opened;
//! - a child of the hive that is no worker stays in the hive's session and is either in the hive's group or
//!   the leader of its own: `exits` reaps what it finds outside of these, for it is an orphan.

pub mod adopt;
mod busy;
mod disk;
pub(crate) mod exchange;
pub mod exits;
pub mod follow;
pub mod guard;
pub mod keep;
pub mod launch;
pub mod lock;
pub mod log;
mod mailbox;
pub(crate) mod own;
mod owner;
pub(crate) mod procfs;
pub mod reasons;
pub mod record;
mod sse;
pub mod version_child;
pub mod versions;
pub mod worker_io;

pub use mailbox::Jobs;
pub use owner::{OWNER_VARIABLE, Owner};
