//! All that can happen to a fleet, and all that it can ask for. Data only.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};

use crate::capacity::ledger::{Choice, Placement};
use crate::devices::Picture;
use crate::id::{DownloadId, Pgid, Run, Token, WorkerId};
use crate::kinds::Kind;
use crate::limits::IDEMPOTENCY_KEEP;
use crate::models::Selection;

/// A worker that somebody wants, and where it may go.
#[derive(Debug, Clone, PartialEq)]
pub struct Order {
    /// What it is to be.
    pub plan: Plan,
    /// Where it may go, and what it takes there.
    pub choices: Vec<Choice>,
    /// Whether idle workers may be stopped for it.
    pub make_room: bool,
    /// What is to be fetched before it can be launched.
    pub fetch: Option<Arc<Selection>>,
}

/// What a worker is to be, the same for each of its runs.
#[derive(Debug, Clone, PartialEq)]
pub struct Plan {
    /// How to launch and probe it.
    pub kind: Arc<Kind>,
    /// The model as it was asked for.
    pub model_ref: String,
    /// The model on disk, once it is there: a GGUF or a snapshot's folder.
    pub model_path: PathBuf,
    /// Context tokens, shared by all slots.
    pub ctx: u32,
    /// Slots.
    pub parallel: u32,
    /// The port to take if it is free.
    pub port_hint: Option<u16>,
    /// Further environment, checked.
    pub env: Vec<(String, String)>,
    /// Further arguments, checked.
    pub extra_args: Vec<String>,
    /// It is not stopped to make room for others.
    pub pinned: bool,
    /// What it was asked for with.
    pub key: Option<Key>,
}

/// An `Idempotency-Key`: who asks with it again gets the same worker, of the next hive too.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Key {
    /// As it was sent.
    pub text: String,
    /// When it was used.
    pub at: SystemTime,
}

impl Key {
    /// Whether it stands for nothing any more.
    pub fn is_over(&self, now: SystemTime) -> bool {
        now.duration_since(self.at).is_ok_and(|age| age >= IDEMPOTENCY_KEEP)
    }
}

/// How the leader of a worker's group ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ExitStatus {
    /// By itself.
    Code(i32),
    /// By a signal.
    Signal(i32),
    /// The kernel tells it the parent alone, which the hive is not of a worker that it adopted.
    Unknown,
}

/// How far a run is, as far as the next hive has to know.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Standing {
    /// It was launched, or is about to be.
    Loading,
    /// It has served.
    Serving,
    /// It was told to leave.
    Stopping,
}

/// A worker that an earlier hive has launched, and that lives.
#[derive(Debug, Clone, PartialEq)]
pub struct Adopted {
    /// What it was launched with.
    pub job: LaunchJob,
    /// Leader and group.
    pub pgid: Pgid,
    /// How far it was.
    pub standing: Standing,
    /// How long it runs.
    pub age: Duration,
}

/// Why a launch came to nothing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LaunchError {
    /// Somebody listens on the port already.
    PortTaken,
    /// The program cannot be started; for a person, without paths.
    Failed(String),
}

/// What a worker's process tree has used so far: if none of it changes, nothing goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Usage {
    /// Resident memory of the tree.
    pub rss_bytes: u64,
    /// What it read, from disk or cache.
    pub read_bytes: u64,
    /// Length of its log.
    pub log_bytes: u64,
}

/// What a health probe found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Probed {
    /// 200 from the worker's own process tree.
    Ready,
    /// Refused or 503.
    Loading,
    /// Anything else: another status, garbage, silence.
    NotReady,
    /// 200, but from a process that is not the worker's: it lost the race for its port.
    Foreign,
}

/// What came in. Everything of a run names it; an older run's is dropped.
#[derive(Debug, Clone, PartialEq)]
pub enum Event {
    /// Nothing: look at the deadlines.
    Tick,
    /// The devices were looked at.
    Devices(Arc<Picture>),
    /// The machine or the process stood still for so long: what was due meanwhile by silence is not.
    Slept(Duration),
    /// The end of the download that a worker waits for.
    Fetched {
        /// Which worker.
        id: WorkerId,
        /// Which download.
        download: DownloadId,
        /// Why it failed, for a person.
        result: Result<(), String>,
    },
    /// The process runs, watched by `exits`.
    Launched {
        /// Which worker.
        id: WorkerId,
        /// Which launch.
        run: Run,
        /// Leader and group.
        pgid: Pgid,
    },
    /// The process was not started.
    LaunchFailed {
        /// Which worker.
        id: WorkerId,
        /// Which launch.
        run: Run,
        /// Why.
        error: LaunchError,
    },
    /// The leader has ended; the rest of its group is being killed.
    Exited {
        /// Which worker.
        id: WorkerId,
        /// Which launch.
        run: Run,
        /// How.
        status: ExitStatus,
        /// Somebody else listens on its port, so that it could not.
        port_lost: bool,
        /// The kernel has killed it, or a process of it, for want of memory.
        oom: bool,
    },
    /// No living process has the group any more; comes after `Exited`.
    GroupDead {
        /// Which worker.
        id: WorkerId,
        /// Which launch.
        run: Run,
    },
    /// The last lines of the log, asked for by [`DiskJob::ReadLogTail`].
    LogTail {
        /// Which worker.
        id: WorkerId,
        /// Which launch.
        run: Run,
        /// At most [`crate::limits::EXIT_LOG_LINES`].
        lines: Vec<String>,
        /// What they and those before them mean, for a person.
        reason: Option<String>,
    },
    /// A health probe was answered, or was not.
    Probed {
        /// Which worker.
        id: WorkerId,
        /// Which launch.
        run: Run,
        /// What it found.
        probed: Probed,
    },
    /// The busy question was answered; `None`: not in time, or not understood.
    Counted {
        /// Which worker.
        id: WorkerId,
        /// Which launch.
        run: Run,
        /// Requests that run.
        running: Option<u32>,
    },
    /// `POST /v1/shutdown` was answered (`accepted`: with 2xx) or failed.
    AskedToExit {
        /// Which worker.
        id: WorkerId,
        /// Which launch.
        run: Run,
        /// Whether it will go by itself.
        accepted: bool,
    },
    /// The tree was looked at.
    Measured {
        /// Which worker.
        id: WorkerId,
        /// Which launch.
        run: Run,
        /// What it used.
        usage: Usage,
    },
}

/// Signals that a worker gets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Signal {
    /// SIGTERM to the group.
    Term,
    /// SIGKILL to the group.
    Kill,
}

/// What the fleet asks the rest of the hive to do.
#[derive(Debug, Clone, PartialEq)]
pub enum Effect {
    /// For the thread that starts workers and may touch the disk.
    Disk(DiskJob),
    /// Signal the whole group. Never answered; `Exited` and `GroupDead` come when they come.
    Signal {
        /// Which worker.
        id: WorkerId,
        /// Which launch.
        run: Run,
        /// Which signal.
        signal: Signal,
    },
    /// For the thread that talks with workers.
    Worker(WorkerJob),
    /// Fetch the model that a worker waits for; answered by `Fetched`.
    Fetch {
        /// Which worker.
        id: WorkerId,
        /// What.
        selection: Arc<Selection>,
    },
    /// The worker does not wait for it any more.
    Forsake {
        /// Which worker.
        id: WorkerId,
        /// Which download.
        download: DownloadId,
    },
    /// Look at the devices anew; answered by `Devices`.
    LookAtDevices,
}

/// What may have to wait for a disk.
#[derive(Debug, Clone, PartialEq)]
pub enum DiskJob {
    /// Start the process; answered by `Launched` or `LaunchFailed`.
    Launch(LaunchJob),
    /// Read the end of the log; answered by `LogTail`.
    ReadLogTail {
        /// Which worker.
        id: WorkerId,
        /// Which launch.
        run: Run,
        /// How it ended, if by itself.
        status: Option<ExitStatus>,
    },
    /// Write down how far the run is. Not answered.
    Note {
        /// Which worker.
        id: WorkerId,
        /// Which launch.
        run: Run,
        /// How far.
        standing: Standing,
    },
    /// Nothing is left of the worker: remove its record. Not answered.
    RemoveRecord {
        /// Which worker.
        id: WorkerId,
    },
    /// The worker is forgotten: remove its log. Not answered.
    DeleteLog {
        /// Which worker.
        id: WorkerId,
    },
}

/// What is asked of a worker, or about it.
#[derive(Debug, Clone, PartialEq)]
pub enum WorkerJob {
    /// Ask the health question once; answered by `Probed`.
    Probe(ProbeJob),
    /// Ask the busy question once; answered by `Counted`.
    Count(ProbeJob),
    /// `POST /v1/shutdown` with the worker's own token; answered by `AskedToExit`.
    AskToExit {
        /// Which worker.
        id: WorkerId,
        /// Which launch.
        run: Run,
        /// Where it listens.
        port: u16,
        /// What opens it.
        token: Token,
    },
    /// Look at the process tree; answered by `Measured`.
    Measure {
        /// Which worker.
        id: WorkerId,
        /// Which launch.
        run: Run,
        /// Its group.
        pgid: Pgid,
    },
}

/// All that one launch needs.
#[derive(Debug, Clone, PartialEq)]
pub struct LaunchJob {
    /// Which worker.
    pub id: WorkerId,
    /// Which launch.
    pub run: Run,
    /// What it is to be.
    pub plan: Arc<Plan>,
    /// Where it is to compute.
    pub placement: Arc<Placement>,
    /// Where it is to listen.
    pub port: u16,
    /// What opens `ready` and `heartbeat` for it.
    pub token: Token,
    /// Restarts after crashes so far.
    pub restarts: u32,
    /// How often it got another port because somebody else had its own.
    pub port_moves: u32,
}

/// All that one probe needs.
#[derive(Debug, Clone, PartialEq)]
pub struct ProbeJob {
    /// Which worker.
    pub id: WorkerId,
    /// Which launch.
    pub run: Run,
    /// How to ask.
    pub kind: Arc<Kind>,
    /// Where it listens.
    pub port: u16,
    /// Its group.
    pub pgid: Pgid,
    /// Whether the listening socket must be shown to belong to the worker's process tree.
    pub check_owner: bool,
}
