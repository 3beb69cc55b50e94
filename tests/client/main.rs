//! The client library against the real daemon: over a line that breaks, and while hives come and go.

mod events;
mod examples;
mod line;
mod lost;
mod queen;
mod streams;
#[path = "../support/mod.rs"]
mod support;
mod waiting;

use rbee_hive::api::SpawnRequest;
use rbee_hive::client::HiveClient;
use support::Hive;

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
