//! The wire types, shared by the server, the mocks and whoever talks to a hive.
//!
//! Sizes are bytes, times are RFC 3339 in UTC with milliseconds (`2026-01-01T00:00:00.000Z`).

use std::collections::BTreeMap;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::id::{Backend, WorkerId};
use crate::limits::{
    CTX_MAX, DEVICES_PER_WORKER_MAX, EXTRA_ARG_BYTES_MAX, EXTRA_ARGS_MAX, MEMORY_BYTES_MAX,
    MODEL_REF_BYTES_MAX, PARALLEL_MAX,
};

macro_rules! repository_name {
    () => {
        "[A-Za-z0-9_]+((\\.(-\\.)*-?|-(\\.-)*\\.?)[A-Za-z0-9_]+)*"
    };
}

macro_rules! file_part {
    () => {
        "(\\.?[ -\\-0-9;-?A-\\[\\]-~])+"
    };
}

macro_rules! revision_part {
    () => {
        "[A-Za-z0-9_](\\.?[A-Za-z0-9_-])*\\.?"
    };
}

macro_rules! hub_ref {
    () => {
        concat!(
            "(hf|HF):",
            concat!(repository_name!(), "/", repository_name!()),
            "(:([A-Za-z0-9]((\\.?[A-Za-z0-9_-])*\\.?[A-Za-z0-9])?|",
            concat!("(", file_part!(), "\\.?/)*", file_part!(), "\\.[gG][gG][uU][fF]))?"),
            concat!("(@", revision_part!(), "(/", revision_part!(), ")*)?"),
        )
    };
}

/// What a reference to a model of the hub matches; beyond that an organisation and a repository have at most 96
/// characters, a quantisation 32, all of it [`MODEL_REF_BYTES_MAX`], and a repository does not end with `.git`.
pub const HUB_REF_PATTERN: &str = concat!("^", hub_ref!(), "$");
/// What a reference to a model matches; beyond that as [`HUB_REF_PATTERN`].
pub const MODEL_REF_PATTERN: &str = concat!("^(", hub_ref!(), "|file:/(\\.?[ -\\-/-\\[\\]-~])*\\.?)$");
/// What the name of a kind matches.
pub const KIND_PATTERN: &str = "^[a-z0-9][a-z0-9-]{0,63}$";
/// What the names of devices match, joined by commas; in a query a number is one as well.
pub const DEVICES_PATTERN: &str =
    "^(cpu|gpu(0|[1-9][0-9]{0,3})(:(0|[1-9][0-9]{0,3}))?|gpu(0|[1-9][0-9]{0,3})(,gpu(0|[1-9][0-9]{0,3}))*)$";
/// What a time matches.
pub const TIME_PATTERN: &str = "^[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}\\.[0-9]{3}Z$";

/// Version of this interface, as `/health` tells it.
pub const API_VERSION: &str = "v1";

/// `GET /health`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Health {
    /// Liveness.
    pub status: HealthStatus,
    /// Version of the program.
    pub version: String,
    /// [`API_VERSION`].
    pub api_version: String,
    /// What is wrong, if something is.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub reasons: Vec<HealthReason>,
}

/// Something that is wrong with a hive, while it goes on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct HealthReason {
    /// What, in a word; a later version may know others.
    pub code: String,
    /// What, for a person.
    pub message: String,
    /// When it was first met.
    #[schemars(regex(pattern = TIME_PATTERN))]
    pub since: String,
    /// How often it was met since then.
    pub count: u64,
}

/// `status` of [`Health`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum HealthStatus {
    /// All is well.
    Alive,
    /// The hive goes on, and [`Health::reasons`] say what is wrong.
    Degraded,
    /// The cascade runs.
    Stopping,
}

/// `GET /ready`: 200 if the hive takes spawns, else 503.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "status", rename_all = "snake_case")]
pub enum Readiness {
    /// It takes spawns.
    Ready,
    /// It does not.
    NotReady {
        /// What it does instead: `starting`, `draining` or `stopping`.
        reason: HiveStatus,
    },
}

/// A worker's state on the wire; more states inside are mapped onto these four.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// On its way, or between two runs.
    Spawning,
    /// Serves, and has a free slot.
    Ready,
    /// Serves, and has no free slot.
    Busy,
    /// On its way out: asked to leave, or killed and not dead yet.
    Stopping,
    /// Dead, as the last event of a worker and in `details.last` says; never listed.
    Gone,
}

impl State {
    /// The word on the wire.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Spawning => "spawning",
            Self::Ready => "ready",
            Self::Busy => "busy",
            Self::Stopping => "stopping",
            Self::Gone => "gone",
        }
    }

    /// Whether requests can be sent to a worker in this state.
    pub fn serves(self) -> bool {
        matches!(self, Self::Ready | Self::Busy)
    }
}

/// What a spawning worker does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Phase {
    /// Its model is being fetched.
    Provisioning,
    /// Its process is being started.
    Launching,
    /// Its process loads the model.
    Loading,
    /// It crashed, and waits for its restart.
    Backoff,
}

/// What a worker says of itself, or what its silence says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum WorkerHealth {
    /// It answers.
    Healthy,
    /// It answers, and says that something is wrong.
    Degraded,
    /// It was silent for longer than `--worker-heartbeat-timeout`.
    Stale,
}

/// The end of a worker's process.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Exit {
    /// Exit code, if it ended by itself.
    pub code: Option<i32>,
    /// Name of the signal that ended it (`SIGKILL`).
    pub signal: Option<String>,
    /// Why, in a word: `exited`, `signaled`, `oom` (the kernel killed it, or a process of it, for want of memory),
    /// `stopped`, `idle`, `drain`, `cascade`, `ready_timeout`, `deaf`,
    /// `launch_failed`, `port_lost`, `make_room` (another one needed its memory), `no_room` (those who were
    /// to leave for it did not).
    pub reason: String,
    /// What a person needs beyond that, where there is something.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
    /// The last lines of its log.
    pub log: Vec<String>,
}

/// Header of `GET /v1/events` beside `Last-Event-ID`: the start of the hive that this number is of. After another one
/// the picture comes first.
pub const BOOT_HEADER: &str = "X-Rbee-Boot-Id";
/// Header of `GET /v1/capacity`: what the worker takes, in bytes.
pub const REQUIRED_HEADER: &str = "X-Rbee-Required-Bytes";
/// Header of `GET /v1/capacity`: what its device has for it, in bytes.
pub const AVAILABLE_HEADER: &str = "X-Rbee-Available-Bytes";
/// Header of `GET /v1/capacity`: where it would go.
pub const DEVICE_HEADER: &str = "X-Rbee-Device";

/// The figures of `GET /v1/capacity`: the `details` where a model does not fit.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct CapacityAnswer {
    /// The device, or several joined by commas.
    pub device: String,
    /// What the worker takes, in bytes.
    pub required_bytes: u64,
    /// What the device has for it, in bytes.
    pub available_bytes: u64,
    /// What it takes for what; not known where the memory was given, nor from an answer that it fits.
    pub breakdown: Option<Breakdown>,
    /// What would fit instead; each alone is enough.
    #[serde(default)]
    pub suggestions: Vec<Suggestion>,
    /// Where nothing else helps: the weights that would fit with this context, in bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub weights_bytes_max: Option<u64>,
}

/// Memory of a worker by what it is for, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Breakdown {
    /// The model's tensors.
    pub weights: u64,
    /// KV cache, or the state of recurrent layers.
    pub kv_cache: u64,
    /// Compute and output buffers.
    pub compute: u64,
    /// What the engine takes whatever the model.
    pub constant: u64,
}

/// Something that would fit: one of these differs from what was asked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Suggestion {
    /// Another device, or several joined by commas.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub device: Option<String>,
    /// A shorter context.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ctx: Option<u32>,
    /// A smaller quantisation of the same repository.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub model: Option<String>,
    /// Idle workers are stopped for it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub make_room: Option<bool>,
    /// What it takes then, in bytes.
    pub required_bytes: u64,
}

/// A worker as listed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Worker {
    /// Its name.
    pub worker_id: WorkerId,
    /// Where it serves.
    pub url: String,
    /// How it was launched.
    pub kind: String,
    /// The model as it was asked for.
    pub model_ref: String,
    /// What computes.
    pub backend: Backend,
    /// Where.
    pub device: String,
    /// What it does.
    pub state: State,
    /// While `spawning`: how far it is.
    pub phase: Option<Phase>,
    /// While `provisioning`: what is being fetched for it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub download_id: Option<String>,
    /// Whether it is well; unknown until it was ready once.
    pub health: Option<WorkerHealth>,
    /// Process id; none before the launch and between two runs.
    pub pid: Option<u32>,
    /// Where it listens.
    pub port: u16,
    /// Requests it can serve at once.
    pub slots_total: u32,
    /// How many of them are free.
    pub slots_available: u32,
    /// Restarts after crashes; forgotten after five minutes of health.
    pub restart_count: u32,
    /// Memory that it was promised on its devices, in bytes.
    pub reserved_bytes: u64,
    /// Memory of its process tree, resident; unknown until it was looked at.
    pub memory_bytes: Option<u64>,
    /// When its present run was launched.
    #[schemars(regex(pattern = TIME_PATTERN))]
    pub started_at: Option<String>,
    /// When it last said, or answered, that it lives.
    #[schemars(regex(pattern = TIME_PATTERN))]
    pub last_heartbeat: Option<String>,
    /// When it last had work.
    #[schemars(regex(pattern = TIME_PATTERN))]
    pub last_activity: Option<String>,
    /// The end of its last run.
    pub exit: Option<Exit>,
}

/// `GET /v1/workers/list`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct WorkerList {
    /// All that live, by name.
    pub workers: Vec<Worker>,
}

/// `POST /v1/workers/spawn`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct SpawnRequest {
    /// What to serve: `hf:org/repo[:QUANT|:path/file.gguf][@revision]` or `file:/path`.
    #[schemars(length(max = MODEL_REF_BYTES_MAX), regex(pattern = MODEL_REF_PATTERN))]
    pub model_ref: String,
    /// Where: `cpu`, `gpu0`, a MIG instance `gpu0:1`, or several GPUs joined by commas, over which the model is split. On
    /// the wire also a number, or a list.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "devices_schema")]
    pub device: Option<String>,
    /// What computes.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<Backend>")]
    pub backend: Option<String>,
    /// How to launch it.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(regex(pattern = KIND_PATTERN))]
    pub kind: Option<String>,
    /// Context tokens, shared by all slots.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = CTX_MAX))]
    pub ctx: Option<u32>,
    /// Slots.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = PARALLEL_MAX))]
    pub parallel: Option<u32>,
    /// The port to take if it is free; one of `--worker-ports`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub port_hint: Option<u16>,
    /// Further environment, as far as the kind allows it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub env: Option<BTreeMap<String, String>>,
    /// Further arguments, of those that the kind allows.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = EXTRA_ARGS_MAX), inner(length(max = EXTRA_ARG_BYTES_MAX)))]
    pub extra_args: Option<Vec<String>>,
    /// Memory to promise it, in bytes, in place of the estimate.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = MEMORY_BYTES_MAX))]
    pub memory_bytes: Option<u64>,
    /// Idle workers that are not pinned may be stopped for it.
    #[serde(default, skip_serializing_if = "is_false")]
    #[schemars(with = "Option<bool>")]
    pub make_room: bool,
    /// It is never stopped to make room for another.
    #[serde(default, skip_serializing_if = "is_false")]
    #[schemars(with = "Option<bool>")]
    pub pinned: bool,
}

impl SpawnRequest {
    /// A worker for `model`, with everything else as the hive chooses it.
    pub fn new(model: &str) -> Self {
        Self { model_ref: model.to_owned(), ..Self::default() }
    }
}

fn devices_schema(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "anyOf": [
            { "type": "string", "pattern": DEVICES_PATTERN },
            { "type": "integer", "minimum": 0, "maximum": u16::MAX },
            {
                "type": "array", "minItems": 1, "maxItems": DEVICES_PER_WORKER_MAX, "uniqueItems": true,
                "items": { "type": "string", "pattern": "^gpu(0|[1-9][0-9]{0,3})$" },
            },
            { "type": "null" },
        ],
    })
}

/// The answer to a spawn: 202.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct SpawnResponse {
    /// Its name.
    pub worker_id: WorkerId,
    /// Where it will serve.
    pub url: String,
    /// `spawning`, or what it is by now if the `Idempotency-Key` was used before.
    pub state: State,
}

/// `POST /v1/models/download`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct DownloadRequest {
    /// What to fetch: `hf:org/repo[:QUANT|:path/file.gguf][@revision]`.
    #[schemars(length(max = MODEL_REF_BYTES_MAX), regex(pattern = HUB_REF_PATTERN))]
    pub model_ref: String,
}

/// The answer to that: 202, or 200 if the model is there already.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct DownloadResponse {
    /// What its progress is asked for by; `cached` if the model is there already.
    pub download_id: String,
    /// Where the model is, if it is there already.
    pub local_path: Option<String>,
}

/// How far a download is: the data of an event of `GET /v1/models/download/progress`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "stage", rename_all = "lowercase")]
pub enum Progress {
    /// Bytes come, or will when it is its turn.
    Downloading {
        /// Those that are here, of all its files; never fewer than before.
        bytes_downloaded: u64,
        /// All there will be.
        bytes_total: u64,
        /// How fast they come, in 10^6 bits a second.
        speed_mbps: f64,
        /// The file that is being fetched, by its path in the repository.
        file: String,
        /// Which attempt at it, from 1.
        attempt: u32,
    },
    /// The last bytes are being compared with what the hub says they are, and brought to the disk.
    Verifying,
    /// It is there. The last event.
    Complete {
        /// Where the model is.
        local_path: String,
    },
    /// It failed, or was cancelled; what is here stays for resuming. The last event.
    Error {
        /// As in an [`ErrorObject`].
        code: String,
        /// For a person.
        message: String,
    },
}

/// What a hive does: the data of a `hive` event of `GET /v1/events`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct HiveEvent {
    /// What it does.
    pub status: HiveStatus,
    /// Which hive.
    pub hive_id: String,
    /// Changes with each start of the hive: the numbers of events begin anew with it.
    pub boot_id: String,
}

/// How far a download is: the data of a `download` event of `GET /v1/events`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct DownloadEvent {
    /// Which one.
    pub download_id: String,
    /// How far it is.
    #[serde(flatten)]
    pub progress: Progress,
}

/// `GET /v1/models`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ModelList {
    /// What is in the model cache: one entry for each revision of a repository, sorted by name; the newest of
    /// its revisions first.
    pub models: Vec<Model>,
}

/// A revision of a repository in the model cache.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Model {
    /// `hf:org/repo`.
    pub model_ref: String,
    /// The commit; none if nothing of the repository is whole.
    pub revision: Option<String>,
    /// The branches and tags that are at this commit.
    #[serde(default)]
    pub refs: Vec<String>,
    /// Its files that are whole, by name.
    pub files: Vec<ModelFile>,
    /// All of them, in bytes, each blob once.
    pub size_bytes: u64,
    /// When one of its files was last read or written.
    #[schemars(regex(pattern = TIME_PATTERN))]
    pub last_used: Option<String>,
    /// Whether a worker uses it.
    pub in_use: bool,
    /// Whether something of it is missing: shards, the files that broken links mean, what a download has not
    /// fetched yet.
    pub partial: bool,
    /// Links whose blob is gone, by name.
    #[serde(default)]
    pub broken: Vec<String>,
    /// What downloads that did not end, and blobs without a link, take on the disk; told with the newest
    /// revision of a repository.
    #[serde(default)]
    pub leftover_bytes: u64,
}

/// A file of a model.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ModelFile {
    /// Its path in the repository.
    pub name: String,
    /// Its length.
    pub size_bytes: u64,
}

/// `POST /v1/workers/ready`: a native worker has bound its port and loaded its model.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ReadyCallback {
    /// Its name.
    pub worker_id: WorkerId,
    /// Where it serves.
    pub url: String,
    /// The model it serves.
    pub model_ref: String,
    /// What computes.
    pub backend: String,
    /// Where.
    pub device: String,
    /// Requests it can serve at once.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = PARALLEL_MAX))]
    pub slots_total: Option<u32>,
}

/// `POST /v1/heartbeat`: a native worker lives.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct WorkerHeartbeat {
    /// Its name.
    pub worker_id: WorkerId,
    /// Its clock; not used for anything.
    pub timestamp: String,
    /// `healthy` or `degraded`.
    pub health_status: ReportedHealth,
    /// `ready` or `busy`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub state: Option<ReportedState>,
    /// Requests it can serve at once.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = PARALLEL_MAX))]
    pub slots_total: Option<u32>,
    /// How many of them are free; at most `slots_total`, where that is told.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(max = PARALLEL_MAX))]
    pub slots_available: Option<u32>,
}

/// What a worker may say of its health.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum ReportedHealth {
    /// All is well.
    Healthy,
    /// Something is wrong.
    Degraded,
}

/// What a worker may say of its work.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum ReportedState {
    /// A slot is free.
    Ready,
    /// No slot is free.
    Busy,
}

/// `GET /v1/workers/kinds`: 200.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct KindList {
    /// All kinds: the built-in ones first.
    pub kinds: Vec<KindInfo>,
}

/// `POST /v1/workers/provision`: what is to be installed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ProvisionRequest {
    /// The kind's name.
    #[schemars(regex(pattern = KIND_PATTERN))]
    pub kind: String,
    /// Which version; without one that which is here, else the latest.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(regex(pattern = "^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$"))]
    pub version: Option<String>,
    /// SHA-256 of the artifact in hex; without one as it is published.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(regex(pattern = "^[0-9A-Fa-f]{64}$"))]
    pub sha256: Option<String>,
}

impl ProvisionRequest {
    /// `kind` in the version that is here, else in the latest.
    pub fn new(kind: &str) -> Self {
        Self { kind: kind.to_owned(), version: None, sha256: None }
    }
}

/// `POST /v1/workers/provision`: 200.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ProvisionResponse {
    /// The kind's name.
    pub kind: String,
    /// Where its program is.
    pub path: String,
    /// What the program says of itself; where it does not, the version that was installed.
    pub version: Option<String>,
    /// For a person.
    pub message: String,
}

/// A way to launch a worker.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct KindInfo {
    /// Its name.
    pub kind: String,
    /// How it says that it is ready.
    pub protocol: KindProtocol,
    /// What it can compute with.
    pub backends: Vec<Backend>,
    /// Its program is on the machine.
    pub found: bool,
    /// Where that is.
    pub path: Option<String>,
    /// What the program says of itself. If it is not asked, does not say, or takes too long: the version that was
    /// installed, else `None`.
    pub version: Option<String>,
    /// Where the kind comes from.
    pub source: KindSource,
}

/// How a kind says that it is ready.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum KindProtocol {
    /// It calls the hive.
    Native,
    /// The hive asks it.
    Probe,
}

impl KindProtocol {
    /// The word on the wire.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Native => "native",
            Self::Probe => "probe",
        }
    }
}

/// Where a kind comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum KindSource {
    /// Every hive has it.
    Builtin,
    /// A manifest that the operator gave.
    File,
    /// The hive has installed it.
    Installed,
}

impl KindSource {
    /// The word on the wire.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Builtin => "builtin",
            Self::File => "file",
            Self::Installed => "installed",
        }
    }
}

/// An answer that only says that it was done.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Message {
    /// For a person.
    pub message: String,
}

/// `POST /v1/drain`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(extend("not" = {
    "required": ["drain", "stop_idle"],
    "properties": { "drain": { "const": false }, "stop_idle": { "const": true } },
}))]
pub struct DrainRequest {
    /// Whether spawns are to be refused.
    pub drain: bool,
    /// Whether workers without a request are to be stopped as well.
    #[serde(default, skip_serializing_if = "is_false")]
    #[schemars(with = "Option<bool>")]
    pub stop_idle: bool,
}

/// `POST /v1/drain`: 200.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct DrainResponse {
    /// Whether spawns are refused now.
    pub draining: bool,
    /// Workers that live.
    pub workers: usize,
}

/// `POST /v1/shutdown`: 202.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ShutdownResponse {
    /// For a person.
    pub message: String,
    /// Workers that are being stopped, or kept.
    pub workers: usize,
}

/// `POST /v1/shutdown`: how the hive is to end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ShutdownRequest {
    /// What becomes of its workers.
    #[serde(default)]
    #[schemars(with = "Option<ShutdownWorkers>")]
    pub workers: ShutdownWorkers,
}

/// What becomes of the workers of a hive that ends.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum ShutdownWorkers {
    /// They are stopped.
    #[default]
    Stop,
    /// They go on serving, for the next hive to adopt.
    Keep,
}

/// What the queen gets: the newest picture of a hive, whole.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Heartbeat {
    /// Which hive.
    pub hive_id: String,
    /// The hive's clock, for people; order is by `boot_id` and `sequence`.
    pub timestamp: String,
    /// What the hive does.
    pub status: HiveStatus,
    /// How to reach it.
    pub url: String,
    /// Version of the program.
    pub version: String,
    /// Changes with each start of the hive.
    pub boot_id: String,
    /// Grows by one with each heartbeat of a boot.
    pub sequence: u64,
    /// All its workers.
    pub workers: Vec<HeartbeatWorker>,
}

impl Heartbeat {
    /// Whether this one is to take the place of `known`, of the same hive: it is of another boot, or a
    /// later one of the same. Needs no clock. Which of two boots is the later one cannot be told from the two alone:
    /// [`Realm`](crate::client::Realm) remembers.
    pub fn supersedes(&self, known: &Self) -> bool {
        self.boot_id != known.boot_id || self.sequence > known.sequence
    }
}

/// `status` of a hive.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum HiveStatus {
    /// What the last hive left is being taken over.
    Starting,
    /// It takes spawns.
    Ready,
    /// It takes none; its workers serve.
    Draining,
    /// The cascade runs.
    Stopping,
    /// The last word.
    Stopped,
}

impl HiveStatus {
    /// The word on the wire.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Starting => "starting",
            Self::Ready => "ready",
            Self::Draining => "draining",
            Self::Stopping => "stopping",
            Self::Stopped => "stopped",
        }
    }
}

/// A worker in a [`Heartbeat`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct HeartbeatWorker {
    /// Its name.
    pub worker_id: WorkerId,
    /// What it does.
    pub state: State,
    /// Whether it is well; `healthy` until something else is known.
    pub health_status: WorkerHealth,
    /// When it last said, or answered, that it lives.
    #[schemars(regex(pattern = TIME_PATTERN))]
    pub last_heartbeat: Option<String>,
    /// Where it serves.
    pub url: String,
    /// The model as it was asked for.
    pub model_ref: String,
    /// What computes.
    pub backend: Backend,
    /// Where.
    pub device: String,
    /// Requests it can serve at once.
    pub slots_total: u32,
    /// How many of them are free.
    pub slots_available: u32,
    /// Process id.
    pub pid: Option<u32>,
    /// Restarts after crashes.
    pub restart_count: u32,
}

/// `GET /v1/status`: the whole picture.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Status {
    /// Which hive.
    pub hive_id: String,
    /// How it is reached.
    pub url: String,
    /// Version of the program.
    pub version: String,
    /// Changes with each start of the hive.
    pub boot_id: String,
    /// When it was started.
    #[schemars(regex(pattern = TIME_PATTERN))]
    pub started_at: String,
    /// What it does.
    pub status: HiveStatus,
    /// What is wrong with it, as in [`Health`].
    pub reasons: Vec<HealthReason>,
    /// How the queen hears of it; none without one.
    pub queen: Option<QueenContact>,
    /// What there is to compute with.
    pub devices: Devices,
    /// All workers that live, by name.
    pub workers: Vec<Worker>,
    /// All downloads that have not ended.
    pub downloads: Vec<DownloadEvent>,
}

/// `queen` of [`Status`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct QueenContact {
    /// When she last took a heartbeat; none if she never did.
    #[schemars(regex(pattern = TIME_PATTERN))]
    pub last_success_at: Option<String>,
    /// Heartbeats that she has not taken since then.
    pub failures_in_a_row: u64,
}

/// `GET /v1/devices`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Devices {
    /// The processor and its memory.
    pub cpu: Cpu,
    /// GPUs in the order of the bus; MIG instances in the place of the GPU that they are parts of.
    pub gpus: Vec<Gpu>,
    /// Models in the cache.
    pub models: usize,
    /// Workers that live.
    pub workers: usize,
    /// The file system of the model cache; `null` where that cannot be told.
    pub disk: Option<Disk>,
    /// What can compute here.
    pub backends: Vec<Backend>,
    /// A driver does not answer: the GPUs are as they were `age_s` ago.
    #[serde(default, skip_serializing_if = "is_false")]
    pub stale: bool,
    /// Seconds since the GPUs were seen; only if `stale`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub age_s: Option<u64>,
}

/// `cpu` of [`Devices`]: what this process may use, within affinity, quota and limits.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Cpu {
    /// Cores.
    pub cores: u32,
    /// Memory in GiB, rounded to the nearest.
    pub ram_gb: u64,
    /// Memory in bytes.
    pub ram_total_bytes: u64,
    /// What can be taken of it without swapping.
    pub ram_available_bytes: u64,
    /// What workers were promised of it, taken or not; 0 where nobody knows of promises.
    #[serde(default)]
    pub promised_bytes: u64,
}

/// One of `gpus` of [`Devices`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Gpu {
    /// `gpu0`, or `gpu0:1` for a MIG instance.
    pub id: String,
    /// The product's name.
    pub name: String,
    /// Memory in GiB, rounded to the nearest.
    pub vram_gb: u64,
    /// Memory in bytes; 0 if it is lost and was never seen well.
    pub vram_total_bytes: u64,
    /// What is free of it now; 0 if it is lost.
    pub vram_free_bytes: u64,
    /// What workers were promised of it, taken or not; 0 where nobody knows of promises.
    #[serde(default)]
    pub promised_bytes: u64,
    /// What the driver calls it.
    pub uuid: Option<String>,
    /// What computes.
    pub backend: Backend,
    /// Degrees Celsius.
    pub temperature_c: Option<u32>,
    /// Percent of the last sample period in which it computed.
    pub utilization_percent: Option<u32>,
    /// Who told: `nvml`, `nvidia-smi` or `sysfs`.
    pub driver: String,
    /// It fell off the bus, or its driver says so.
    #[serde(default, skip_serializing_if = "is_false")]
    pub lost: bool,
    /// Its memory is the processor's: what is taken here is taken there.
    #[serde(default, skip_serializing_if = "is_false")]
    pub shared_memory: bool,
}

/// `disk` of [`Devices`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Disk {
    /// All of it.
    pub total_bytes: u64,
    /// What an ordinary user may still write.
    pub available_bytes: u64,
}

fn is_false(value: &bool) -> bool {
    !value
}

/// The body of every error.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct ErrorBody {
    /// What went wrong.
    pub error: ErrorObject,
}

/// `error` of an [`ErrorBody`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct ErrorObject {
    /// For programs: `UPPER_SNAKE`.
    #[schemars(regex(pattern = "^[A-Z]+(_[A-Z]+)*$"))]
    pub code: String,
    /// For a person. Never echoes what was sent.
    pub message: String,
    /// What the code needs beside it.
    #[serde(default = "no_details")]
    #[schemars(with = "serde_json::Map<String, Value>")]
    pub details: Value,
    /// The id under which the log says more.
    pub correlation_id: String,
}

fn no_details() -> Value {
    Value::Object(serde_json::Map::new())
}
