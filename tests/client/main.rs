//! The client library against the real daemon: over a line that breaks, and while hives come and go.

mod events;
mod examples;
mod external;
mod line;
mod lost;
mod queen;
mod streams;
#[path = "../support/mod.rs"]
mod support;
mod waiting;

use std::os::unix::fs::symlink;

use rbee_hive::api::SpawnRequest;
use rbee_hive::client::HiveClient;
use serde_json::json;
use support::{Builder, Hive, MOCK, gguf};

/// A client that asks at `url`.
fn client(url: &str) -> HiveClient {
    HiveClient::new(url).unwrap()
}

/// A worker of the mock.
fn mock(hive: &Hive) -> SpawnRequest {
    SpawnRequest { kind: Some("mock".to_owned()), ..SpawnRequest::new(&hive.model_ref()) }
}

/// One that has these faults.
fn faulty(hive: &Hive, faults: &str) -> SpawnRequest {
    let env = [("MOCK_FAULTS".to_owned(), faults.to_owned())].into();
    SpawnRequest { env: Some(env), ..mock(hive) }
}

/// A hive that has the model `hf:org/tiny`.
fn hive(builder: Builder) -> Hive {
    let hive = builder.start();
    let snapshot = hive.models.join("models--org--tiny/snapshots/c0ffee");
    let blobs = hive.models.join("models--org--tiny/blobs");
    let refs = hive.models.join("models--org--tiny/refs");
    for folder in [&snapshot, &blobs, &refs] {
        std::fs::create_dir_all(folder).unwrap();
    }
    std::fs::write(refs.join("main"), "c0ffee").unwrap();
    gguf::TINY.write(&blobs.join("0"));
    symlink("../../blobs/0", snapshot.join("tiny.gguf")).unwrap();
    hive
}

/// Its GGUFs are the mock's, without anybody naming a kind.
fn builder() -> Builder {
    let kind = json!({"kind": "llama-server", "protocol": "native", "program": MOCK, "args": ["worker"],
        "backends": ["cpu"]});
    Hive::builder().kind(kind)
}
