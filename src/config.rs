//! What a user sets, checked: plain data that the rest of the hive trusts.

use std::net::SocketAddr;
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::time::Duration;

use crate::capacity::ledger::Rules;
use crate::devices::ProbeConfig;
use crate::id::Token;
use crate::kinds::Kinds;
use crate::models::hub::HubConfig;

/// All settings of `rbee-hive serve`.
#[derive(Debug, Clone, PartialEq)]
pub struct Config {
    /// Where the hive listens; port 0 is a free one.
    pub bind: SocketAddr,
    /// Its name, `[A-Za-z0-9.-]{1,64}`.
    pub hive_id: String,
    /// The machine's name, cleaned up to what an id may hold: how the queen reaches it if it listens everywhere.
    pub host_name: String,
    /// How queen and workers reach it, without a slash at the end; by default that follows from `bind`.
    pub advertise_url: Option<String>,
    /// What opens the API; without one `bind` is loopback.
    pub token: Option<Token>,
    /// Where heartbeats go.
    pub queen: Option<QueenConfig>,
    /// Period of the relay to the queen.
    pub heartbeat_interval: Duration,
    /// Silence after which a worker is stale.
    pub worker_heartbeat_timeout: Duration,
    /// How long a spawning worker may show no progress.
    pub ready_timeout: Duration,
    /// Total grace of a stop or of the cascade before SIGKILL.
    pub shutdown_timeout: Duration,
    /// Idle workers are stopped after this; never if `None`.
    pub idle_timeout: Option<Duration>,
    /// Restarts of a crashed worker before it is given up.
    pub restart_limit: u32,
    /// Address that workers bind and are announced with: a name, an IPv4 or a bare IPv6 address.
    pub worker_host: String,
    /// Ports given to workers.
    pub worker_ports: RangeInclusive<u16>,
    /// The kinds of workers there are.
    pub kinds: Kinds,
    /// What is read again on SIGHUP.
    pub sources: Sources,
    /// Where devices are looked for.
    pub probe: ProbeConfig,
    /// What is kept from the workers: memory, devices.
    pub rules: Rules,
    /// What becomes of workers that a dead hive left.
    pub orphans: Orphans,
    /// How long workers may live without a hive.
    pub orphan_timeout: Duration,
    /// State and logs; absolute.
    pub data_dir: PathBuf,
    /// The model cache; absolute.
    pub model_dir: PathBuf,
    /// Where models are fetched from.
    pub hub: HubConfig,
    /// Where programs of workers are fetched from.
    pub artifacts: Option<HubConfig>,
    /// Request threads.
    pub threads: usize,
    /// Connections served at once.
    pub max_connections: usize,
    /// How the log looks.
    pub log_format: LogFormat,
}

/// What a user may change while the hive runs.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Sources {
    /// Manifests of kinds.
    pub kind_files: Vec<PathBuf>,
    /// Programs of kinds, by their names.
    pub programs: Vec<(String, PathBuf)>,
    /// The API's token, if it comes from a file.
    pub token_file: Option<PathBuf>,
    /// The queen's token.
    pub queen_token: QueenTokenSource,
}

/// Where the queen's token comes from.
#[derive(Debug, Clone, PartialEq, Default)]
pub enum QueenTokenSource {
    /// A file.
    File(PathBuf),
    /// It is the hive's own, whatever that is.
    #[default]
    Own,
    /// The environment, which does not change.
    Fixed,
}

/// Where heartbeats go.
#[derive(Debug, Clone, PartialEq)]
pub struct QueenConfig {
    /// The whole URL, with its path.
    pub url: String,
    /// What is sent as a bearer token: the queen's own, else the hive's.
    pub token: Option<Token>,
}

/// What becomes of workers that a dead hive left.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Orphans {
    /// The next hive watches them on.
    Adopt,
    /// They are killed, by the next hive or by the guardian.
    Kill,
}

/// How the log looks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFormat {
    /// For people: time, level, message.
    Text,
    /// For programs: one JSON object a line.
    Json,
}
