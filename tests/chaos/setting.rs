//! What a hive is started with, and the models that it finds.

use rbee_hive::mock::hub::{Hub, Options, Repository};
use serde_json::{Value, json};

use crate::random::Random;
use crate::support::gguf;

const MOCK: &str = env!("CARGO_BIN_EXE_rbee-mock");

/// A kind whose program is a script that becomes the worker.
pub fn script() -> Value {
    let script = "exec \"$0\" worker --protocol probe --model \"$1\" --host \"$2\" --port \"$3\"";
    json!({"kind": "script", "protocol": "probe", "program": "/bin/sh", "backends": ["cpu"],
        "args": ["-c", script, MOCK, "{model_path}", "{host}", "{port}"],
        "probe": {"path": "/health", "interval": "100ms", "timeout": "500ms"}})
}

/// A hub with three models: `org/m0` to `org/m2`.
pub fn hub() -> Hub {
    let hub = Hub::start(Options::default()).unwrap();
    for n in 0..3 {
        hub.add(&format!("org/m{n}"), Repository::new().with("m-Q8_0.gguf", model(n, 1 << 20)));
    }
    hub
}

/// What a seed says of the hive's options.
pub fn options(seed: u64, own_port: u16) -> Vec<(&'static str, String)> {
    let mut random = Random::new(!seed);
    let mut text = |all: &[&str]| random.one_of(all).to_owned();
    let fixed = format!("127.0.0.1:{own_port}");
    vec![
        ("--bind", text(&[&fixed, "127.0.0.1:0"])),
        ("--orphans", text(&["adopt", "adopt", "adopt", "kill"])),
        ("--idle-timeout", text(&["0s", "0s", "0s", "1s"])),
        ("--ready-timeout", text(&["1s", "2s"])),
        ("--worker-heartbeat-timeout", text(&["2s", "3s", "90s"])),
        ("--shutdown-timeout", text(&["300ms", "1s"])),
        ("--restart-limit", text(&["0", "1", "3"])),
    ]
}

/// A small model that no two seeds share.
fn model(seed: u64, bytes: usize) -> Vec<u8> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("m.gguf");
    gguf::TINY.write(&path);
    let mut model = std::fs::read(path).unwrap();
    let mut random = Random::new(seed);
    while model.len() < bytes {
        model.extend_from_slice(&random.within(0..u64::MAX).to_le_bytes());
    }
    model
}
