//! `rbee-hive serve`: its flags.

use std::net::SocketAddr;
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::time::Duration;

use super::command::{Flag, Spec};
use super::{Parsed, resolve, value};
use crate::config::{LogFormat, Orphans};
use crate::id::Device;
use crate::limits;

/// What was typed, each value read by itself. `None` and empty: to be worked out.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Typed {
    pub bind: SocketAddr,
    pub hive_id: Option<String>,
    pub advertise_url: Option<String>,
    pub token_file: Option<PathBuf>,
    pub queen_url: Option<String>,
    pub queen_token_file: Option<PathBuf>,
    pub heartbeat_interval: Duration,
    pub worker_heartbeat_timeout: Duration,
    pub ready_timeout: Duration,
    pub shutdown_timeout: Duration,
    pub idle_timeout: Duration,
    pub orphans: Orphans,
    pub orphan_timeout: Option<Duration>,
    pub restart_limit: u32,
    pub worker_host: String,
    pub worker_ports: RangeInclusive<u16>,
    pub workers: Vec<(String, PathBuf)>,
    pub kind_files: Vec<PathBuf>,
    pub artifact_url: Option<String>,
    pub reserve: Vec<(Device, u64)>,
    pub hidden: Vec<Device>,
    pub data_dir: Option<PathBuf>,
    pub model_dir: Option<PathBuf>,
    pub threads: usize,
    pub max_connections: usize,
    pub log_format: LogFormat,
    /// Of `doctor`.
    pub json: bool,
}

impl Default for Typed {
    fn default() -> Self {
        Self {
            bind: SocketAddr::from(([127, 0, 0, 1], 8600)),
            hive_id: None,
            advertise_url: None,
            token_file: None,
            queen_url: None,
            queen_token_file: None,
            heartbeat_interval: Duration::from_secs(30),
            worker_heartbeat_timeout: Duration::from_secs(90),
            ready_timeout: Duration::from_secs(300),
            shutdown_timeout: Duration::from_secs(30),
            idle_timeout: Duration::ZERO,
            orphans: Orphans::Adopt,
            orphan_timeout: None,
            restart_limit: 3,
            worker_host: "127.0.0.1".to_owned(),
            worker_ports: 8601..=8699,
            workers: Vec::new(),
            kind_files: Vec::new(),
            artifact_url: None,
            reserve: Vec::new(),
            hidden: Vec::new(),
            data_dir: None,
            model_dir: None,
            threads: 4,
            max_connections: 1024,
            log_format: LogFormat::Text,
            json: false,
        }
    }
}

/// All flags of `serve`, in the order of `--help`.
pub(super) const COMMAND: Spec<Typed> = Spec {
    name: "serve",
    summary: "Run the hive in the foreground",
    about: "Run the hive in the foreground.",
    notes: "\
A flag that is not given is read from the environment: RBEE_HIVE_ and its name
(--bind: RBEE_HIVE_BIND); commas part the values of a repeatable one.
A duration is a number with ms, s, m or h, or plain seconds.
",
    words: None,
    flags: FLAGS,
    read: |typed, env| Ok(Parsed::Serve(Box::new(resolve::config(typed, env)?))),
};

const FLAGS: &[Flag<Typed>] = FLAGS_AND_JSON.split_at(FLAGS_AND_JSON.len() - 1).0;

/// Those of `serve`, and at their end `--json`, for who looks at what they mean.
pub(super) const FLAGS_AND_JSON: [Flag<Typed>; 27] = [
    Flag {
        name: "bind",
        value: "ADDR",
        env: "RBEE_HIVE_BIND",
        default: "127.0.0.1:8600",
        repeatable: false,
        help: "Listen here; port 0 picks a free one and prints it",
        set: |typed, text| value::address(text).map(|v| typed.bind = v),
    },
    Flag {
        name: "hive-id",
        value: "ID",
        env: "RBEE_HIVE_HIVE_ID",
        default: "host name",
        repeatable: false,
        help: "What the queen knows this hive by",
        set: |typed, text| value::hive_id(text).map(|v| typed.hive_id = Some(v)),
    },
    Flag {
        name: "advertise-url",
        value: "URL",
        env: "RBEE_HIVE_ADVERTISE_URL",
        default: "http://<bind>",
        repeatable: false,
        help: "How queen and workers reach this hive",
        set: |typed, text| value::base_url(text).map(|v| typed.advertise_url = Some(v)),
    },
    Flag {
        name: "token-file",
        value: "PATH",
        env: "RBEE_HIVE_TOKEN_FILE",
        default: "$RBEE_HIVE_TOKEN, else none: loopback only",
        repeatable: false,
        help: "First line: the token that opens the API",
        set: |typed, text| value::path(text).map(|v| typed.token_file = Some(v)),
    },
    Flag {
        name: "queen-url",
        value: "URL",
        env: "RBEE_HIVE_QUEEN_URL",
        default: "none",
        repeatable: false,
        help: "Send heartbeats here; without a path to /heartbeat",
        set: |typed, text| value::queen_url(text).map(|v| typed.queen_url = Some(v)),
    },
    Flag {
        name: "queen-token-file",
        value: "PATH",
        env: "RBEE_HIVE_QUEEN_TOKEN_FILE",
        default: "$RBEE_HIVE_QUEEN_TOKEN, else the hive's token",
        repeatable: false,
        help: "First line: the token sent to the queen",
        set: |typed, text| value::path(text).map(|v| typed.queen_token_file = Some(v)),
    },
    Flag {
        name: "heartbeat-interval",
        value: "DUR",
        env: "RBEE_HIVE_HEARTBEAT_INTERVAL",
        default: "30s",
        repeatable: false,
        help: "Time between two heartbeats to the queen",
        set: |typed, text| {
            value::duration(text, &limits::HEARTBEAT_INTERVAL).map(|v| typed.heartbeat_interval = v)
        },
    },
    Flag {
        name: "worker-heartbeat-timeout",
        value: "DUR",
        env: "RBEE_HIVE_WORKER_HEARTBEAT_TIMEOUT",
        default: "90s",
        repeatable: false,
        help: "Silence after which a worker is stale",
        set: |typed, text| {
            value::duration(text, &limits::WORKER_HEARTBEAT_TIMEOUT)
                .map(|v| typed.worker_heartbeat_timeout = v)
        },
    },
    Flag {
        name: "ready-timeout",
        value: "DUR",
        env: "RBEE_HIVE_READY_TIMEOUT",
        default: "300s",
        repeatable: false,
        help: "Give a start up after so long without progress",
        set: |typed, text| value::duration(text, &limits::READY_TIMEOUT).map(|v| typed.ready_timeout = v),
    },
    Flag {
        name: "shutdown-timeout",
        value: "DUR",
        env: "RBEE_HIVE_SHUTDOWN_TIMEOUT",
        default: "30s",
        repeatable: false,
        help: "Grace of a stop, or of all, before SIGKILL",
        set: |typed, text| {
            value::duration(text, &limits::SHUTDOWN_TIMEOUT).map(|v| typed.shutdown_timeout = v)
        },
    },
    Flag {
        name: "idle-timeout",
        value: "DUR",
        env: "RBEE_HIVE_IDLE_TIMEOUT",
        default: "0s",
        repeatable: false,
        help: "Stop a worker that was idle for so long; 0s: never",
        set: |typed, text| value::duration(text, &limits::IDLE_TIMEOUT).map(|v| typed.idle_timeout = v),
    },
    Flag {
        name: "restart-limit",
        value: "N",
        env: "RBEE_HIVE_RESTART_LIMIT",
        default: "3",
        repeatable: false,
        help: "Restarts of a worker that crashes; 0: none",
        set: |typed, text| {
            value::number(text, 0..=limits::RESTART_LIMIT_MAX).map(|v| typed.restart_limit = v)
        },
    },
    Flag {
        name: "worker-host",
        value: "HOST",
        env: "RBEE_HIVE_WORKER_HOST",
        default: "127.0.0.1",
        repeatable: false,
        help: "Address that workers bind and are announced with",
        set: |typed, text| value::host(text).map(|v| typed.worker_host = v),
    },
    Flag {
        name: "worker-ports",
        value: "A-B",
        env: "RBEE_HIVE_WORKER_PORTS",
        default: "8601-8699",
        repeatable: false,
        help: "Ports given to workers",
        set: |typed, text| value::ports(text).map(|v| typed.worker_ports = v),
    },
    Flag {
        name: "worker",
        value: "KIND=PATH",
        env: "RBEE_HIVE_WORKER",
        default: "none",
        repeatable: true,
        help: "Program of a kind; repeatable",
        set: |typed, text| value::program(text).map(|v| typed.workers.push(v)),
    },
    Flag {
        name: "kind-file",
        value: "PATH",
        env: "RBEE_HIVE_KIND_FILE",
        default: "none",
        repeatable: true,
        help: "Manifest of a kind; repeatable",
        set: |typed, text| value::path(text).map(|v| typed.kind_files.push(v)),
    },
    Flag {
        name: "reserve",
        value: "DEVICE=SIZE",
        env: "RBEE_HIVE_RESERVE",
        default: "none",
        repeatable: true,
        help: "Memory kept for others, like gpu0=1GiB; repeatable",
        set: |typed, text| value::reserve(text).map(|v| typed.reserve.push(v)),
    },
    Flag {
        name: "hide-device",
        value: "DEVICE",
        env: "RBEE_HIVE_HIDE_DEVICE",
        default: "none",
        repeatable: true,
        help: "A device that is not offered; repeatable",
        set: |typed, text| value::device(text).map(|v| typed.hidden.push(v)),
    },
    Flag {
        name: "artifact-url",
        value: "URL",
        env: "RBEE_HIVE_ARTIFACT_URL",
        default: "none",
        repeatable: false,
        help: "Where programs of workers are fetched from",
        set: |typed, text| value::base_url(text).map(|v| typed.artifact_url = Some(v)),
    },
    Flag {
        name: "data-dir",
        value: "DIR",
        env: "RBEE_HIVE_DATA_DIR",
        default: "$XDG_DATA_HOME/rbee-hive, else ~/.local/share/rbee-hive",
        repeatable: false,
        help: "State, logs, installed kinds",
        set: |typed, text| value::path(text).map(|v| typed.data_dir = Some(v)),
    },
    Flag {
        name: "model-dir",
        value: "DIR",
        env: "RBEE_HIVE_MODEL_DIR",
        default: "$HF_HUB_CACHE, $HF_HOME/hub, ~/.cache/huggingface/hub",
        repeatable: false,
        help: "The Hugging Face cache with the models",
        set: |typed, text| value::path(text).map(|v| typed.model_dir = Some(v)),
    },
    Flag {
        name: "orphans",
        value: "adopt|kill",
        env: "RBEE_HIVE_ORPHANS",
        default: "adopt",
        repeatable: false,
        help: "What becomes of workers that a dead hive left",
        set: |typed, text| value::orphans(text).map(|v| typed.orphans = v),
    },
    Flag {
        name: "orphan-timeout",
        value: "DUR",
        env: "RBEE_HIVE_ORPHAN_TIMEOUT",
        default: "10m; 1s with --orphans kill",
        repeatable: false,
        help: "How long they may live without a hive",
        set: |typed, text| {
            value::duration(text, &limits::ORPHAN_TIMEOUT).map(|v| typed.orphan_timeout = Some(v))
        },
    },
    Flag {
        name: "threads",
        value: "N",
        env: "RBEE_HIVE_THREADS",
        default: "4",
        repeatable: false,
        help: "Threads for requests that change or measure",
        set: |typed, text| value::number(text, 1..=limits::THREADS_MAX).map(|v| typed.threads = v),
    },
    Flag {
        name: "max-connections",
        value: "N",
        env: "RBEE_HIVE_MAX_CONNECTIONS",
        default: "1024",
        repeatable: false,
        help: "Connections at once; further ones wait or are refused",
        set: |typed, text| {
            value::number(text, 1..=limits::CONNECTIONS_MAX).map(|v| typed.max_connections = v)
        },
    },
    Flag {
        name: "log-format",
        value: "text|json",
        env: "RBEE_HIVE_LOG_FORMAT",
        default: "text",
        repeatable: false,
        help: "How the log looks; its level is set by RUST_LOG",
        set: |typed, text| value::log_format(text).map(|v| typed.log_format = v),
    },
    Flag::switch("json", "lines for people", "Print JSON", |typed, _| {
        typed.json = true;
        Ok(())
    }),
];

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use std::ffi::OsStr;

    use super::*;

    #[test]
    fn each_flag_is_there_once_with_help_and_the_variable_of_its_name() {
        let mut names = BTreeSet::new();
        for flag in FLAGS {
            assert!(names.insert(flag.name), "--{} is there twice", flag.name);
            assert_eq!(flag.env, format!("RBEE_HIVE_{}", flag.name.to_ascii_uppercase().replace('-', "_")));
            assert!(!flag.value.is_empty() && !flag.default.is_empty(), "--{}", flag.name);
            assert!(
                flag.help.len() > 8 && !flag.help.ends_with('.') && !flag.help.contains(['\n', '|']),
                "--{}",
                flag.name
            );
            assert_eq!(flag.repeatable, flag.help.ends_with("; repeatable"), "--{}", flag.name);
        }
    }

    #[test]
    fn the_default_that_is_shown_is_the_one_that_holds() {
        let worked_out = [
            "hive-id",
            "advertise-url",
            "token-file",
            "queen-url",
            "queen-token-file",
            "worker",
            "kind-file",
            "reserve",
            "hide-device",
            "artifact-url",
            "orphan-timeout",
            "data-dir",
            "model-dir",
        ];
        for flag in FLAGS.iter().filter(|flag| !worked_out.contains(&flag.name)) {
            let mut typed = Typed::default();
            assert_eq!((flag.set)(&mut typed, OsStr::new(flag.default)), Ok(()), "--{}", flag.name);
            assert_eq!(typed, Typed::default(), "--{}", flag.name);
        }
    }

    #[test]
    fn no_flag_takes_nothing_or_bytes_that_are_no_text_where_text_is_meant() {
        use std::os::unix::ffi::OsStrExt as _;
        for flag in FLAGS {
            let set = |bytes| (flag.set)(&mut Typed::default(), OsStr::from_bytes(bytes));
            assert!(set(b"").is_err(), "--{}", flag.name);
            let takes_a_path = ["PATH", "DIR"].contains(&flag.value);
            assert_eq!(set(b"\xff").is_ok(), takes_a_path, "--{}", flag.name);
        }
    }
}
